//! The report of a run: one self-contained HTML file, and the same in short as markdown.

mod bandwidth;
mod data;
mod format;
mod html;
mod markdown;
mod plots;
mod tables;
mod words;

pub use bandwidth::{BandwidthLine, bandwidth_page};

use crate::record::{Run, write_whole};
use std::path::{Path, PathBuf};

/// Where the reports of a run lie.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ReportPaths {
    /// The whole report.
    pub html: PathBuf,
    /// The short one.
    pub markdown: PathBuf,
}

/// Reads a run folder and writes `report.html` and `report.md` into it.
///
/// # Errors
/// If the folder is not a run folder of this version, a record cannot be read, or a report cannot be written.
pub fn write(run_dir: &Path) -> anyhow::Result<ReportPaths> {
    let run = Run::read(run_dir)?;
    let paths = ReportPaths {
        html: run_dir.join("report.html"),
        markdown: run_dir.join("report.md"),
    };
    for (path, text) in [
        (&paths.html, html::page(&run)?),
        (&paths.markdown, markdown::page(&run)),
    ] {
        write_whole(path, text.as_bytes())?;
    }
    Ok(paths)
}
