//! `harness report`: writes the reports of a run folder anew.

use crate::exit::Exit;
use crate::report;
use std::io::Write as _;
use std::path::PathBuf;

/// Writes report.html and report.md of a run folder anew.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Folder of the run.
    run_dir: PathBuf,
    /// Writes plots as SVG files into this folder too, for texts about the run.
    #[arg(long, value_name = "FOLDER")]
    plots: Option<PathBuf>,
}

/// Writes the reports and prints their paths to stdout.
pub fn run(args: &Args) -> anyhow::Result<Exit> {
    let paths = report::write(&args.run_dir)?;
    let mut out = anstream::stdout();
    writeln!(out, "{}", paths.html.display())?;
    writeln!(out, "{}", paths.markdown.display())?;
    if let Some(folder) = &args.plots {
        for path in report::write_plots(&args.run_dir, folder)? {
            writeln!(out, "{}", path.display())?;
        }
    }
    Ok(Exit::Ok)
}
