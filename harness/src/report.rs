//! The report of a run: one self-contained HTML file, and the same in short as markdown.

mod data;
mod format;
mod html;
mod markdown;
mod plots;
mod tables;
mod words;

pub use data::Run;

use crate::record::{Failure, Manifest, SCHEMA_VERSION, Sample};
use anyhow::{Context, bail, ensure};
use serde::de::DeserializeOwned;
use std::fs;
use std::path::{Path, PathBuf};

/// Largest file of a run folder that is read, in bytes.
const RECORD_BYTES_MAX: u64 = 4 << 30;

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
    let run = load(run_dir)?;
    let paths = ReportPaths {
        html: run_dir.join("report.html"),
        markdown: run_dir.join("report.md"),
    };
    for (path, text) in [
        (&paths.html, html::page(&run)?),
        (&paths.markdown, markdown::page(&run)),
    ] {
        replace_file(path, &text)?;
    }
    Ok(paths)
}

/// Writes beside the file and renames, so that a reader never meets half a report.
fn replace_file(path: &Path, text: &str) -> anyhow::Result<()> {
    let part = path.with_extension("part");
    fs::write(&part, text)
        .and_then(|()| fs::rename(&part, path))
        .with_context(|| {
            format!(
                "cannot write \"{}\": is the disk full or read-only?",
                path.display()
            )
        })
}

/// Reads the records of a run folder.
///
/// # Errors
/// If there is no manifest, it is of another version, or a line of a journal cannot be read.
pub fn load(run_dir: &Path) -> anyhow::Result<Run> {
    let path = run_dir.join("manifest.json");
    let text = read_record(&path)?.with_context(|| {
        format!(
            "\"{}\" holds no manifest.json: is it the folder of a run?",
            run_dir.display()
        )
    })?;
    let version = serde_json::from_str::<serde_json::Value>(&text)
        .with_context(|| {
            format!(
                "\"{}\" is not valid JSON: was the run cut off while it started?",
                path.display()
            )
        })?
        .get("schema_version")
        .and_then(serde_json::Value::as_u64);
    ensure!(
        version == Some(u64::from(SCHEMA_VERSION)),
        "\"{}\" has schema version {}, this program reads {SCHEMA_VERSION}: use the program that wrote it",
        path.display(),
        version.map_or_else(|| "none".to_owned(), |v| v.to_string()),
    );
    let manifest: Manifest = serde_json::from_str(&text)
        .with_context(|| format!("\"{}\" is not a manifest", path.display()))?;
    Ok(Run {
        manifest,
        samples: read_journal::<Sample>(&run_dir.join("samples.jsonl"))?,
        failures: read_journal::<Failure>(&run_dir.join("failures.jsonl"))?,
    })
}

/// The lines of a journal; none if there is no file. A last line that is not finished is left out.
fn read_journal<T: DeserializeOwned>(path: &Path) -> anyhow::Result<Vec<T>> {
    let Some(text) = read_record(path)? else {
        return Ok(Vec::new());
    };
    let whole = text.rfind('\n').map_or("", |end| &text[..end]);
    whole
        .lines()
        .enumerate()
        .map(|(i, line)| {
            serde_json::from_str(line)
                .with_context(|| format!("\"{}\", line {}, is damaged", path.display(), i + 1))
        })
        .collect()
}

/// The text of a file; `None` if there is no such file.
fn read_record(path: &Path) -> anyhow::Result<Option<String>> {
    match fs::metadata(path) {
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(None),
        Ok(meta) if meta.len() > RECORD_BYTES_MAX => {
            bail!(
                "\"{}\" has {} bytes, at most {RECORD_BYTES_MAX} are read",
                path.display(),
                meta.len()
            )
        }
        _ => {}
    }
    let bytes = fs::read(path).with_context(|| format!("cannot read \"{}\"", path.display()))?;
    Ok(Some(String::from_utf8_lossy(&bytes).into_owned()))
}
