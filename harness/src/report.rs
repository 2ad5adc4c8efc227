//! The report of a run: one self-contained HTML file, and the same in short as markdown.

mod ceiling;
mod comparison;
mod data;
mod figures;
mod format;
mod html;
mod markdown;
mod plots;
mod quality;
mod sparsity;
mod speculation;
mod sweep;
mod tables;
mod words;

pub(crate) use data::{groups, own, shortened};
pub use html::bandwidth_page;
pub(crate) use sparsity::thinned;
pub(crate) use speculation::{drafted, outputs};

use crate::gate::Gate;
use crate::history::{self, Series};
use crate::metric::Metric;
use crate::probe::Stored;
use crate::record::{Run, write_whole};
use anyhow::Context as _;
use std::path::{Path, PathBuf};

/// Where the reports of a run lie.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ReportPaths {
    /// The whole report.
    pub html: PathBuf,
    /// The short one.
    pub markdown: PathBuf,
}

/// Metrics whose history a report shows.
const HISTORY: [&str; 3] = ["decode_tok_s", "prefill_tok_s", "bw_pct"];

/// What lies beside a run.
struct Around {
    /// The last probe of the same machine.
    probe: Option<Stored>,
    /// All runs of the same scenario on the same machine.
    history: Vec<Series>,
    /// The last verdict of `harness gate` on the run.
    gate: Option<Gate>,
}

impl Around {
    /// What lies in the folder that holds the run's. What cannot be read is left out: a report is about its run.
    fn read(run_dir: &Path, run: &Run) -> Around {
        let results = run_dir.parent().filter(|p| !p.as_os_str().is_empty());
        let results = results.unwrap_or(Path::new("."));
        let fingerprint = run.manifest.host.fingerprint();
        let metrics: Vec<_> = HISTORY.into_iter().filter_map(Metric::by_name).collect();
        let name = &run.manifest.scenario.name;
        Around {
            probe: Stored::read(results, &fingerprint),
            history: history::history(results, name, &fingerprint, &metrics).unwrap_or_default(),
            gate: Gate::stored(run_dir),
        }
    }
}

/// Writes plots of a run as SVG files `SCENARIO-WHAT.svg` into `folder`, which is made if need be: rates, quality, and what drafts
/// and sparsity were worth, as far as the run has them. Gives their paths.
///
/// # Errors
/// As [`write()`].
pub fn write_plots(run_dir: &Path, folder: &Path) -> anyhow::Result<Vec<PathBuf>> {
    let run = Run::read(run_dir)?;
    std::fs::create_dir_all(folder)
        .with_context(|| format!("cannot make the folder \"{}\"", folder.display()))?;
    let mut paths = Vec::new();
    for (what, plot) in figures::all(&run)? {
        let name = format!("{}-{what}.svg", run.manifest.scenario.name);
        let path = folder.join(name);
        write_whole(&path, plot.file()?.as_bytes())?;
        paths.push(path);
    }
    Ok(paths)
}

/// Reads a run folder and writes `report.html` and `report.md` into it.
///
/// # Errors
/// If the folder is not a run folder of this version, a record cannot be read, or a report cannot be written.
pub fn write(run_dir: &Path) -> anyhow::Result<ReportPaths> {
    let run = Run::read(run_dir)?;
    let around = Around::read(run_dir, &run);
    let paths = ReportPaths {
        html: run_dir.join("report.html"),
        markdown: run_dir.join("report.md"),
    };
    for (path, text) in [
        (&paths.html, html::page(&run, &around)?),
        (&paths.markdown, markdown::page(&run)),
    ] {
        write_whole(path, text.as_bytes())?;
    }
    Ok(paths)
}
