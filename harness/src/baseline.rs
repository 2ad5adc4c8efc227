//! Baselines: runs kept under a name, for the machine they were made on.
//!
//! They lie in `baselines/<machine fingerprint>/<name>/<run>/` below the results: manifest and journals of each run.

use crate::record::{KEPT, Run};
use anyhow::{Context as _, bail};
use std::path::{Path, PathBuf};

/// Folder below the results.
const FOLDER: &str = "baselines";

/// The folder of one machine's baselines.
pub fn folder(results: &Path, fingerprint: &str) -> PathBuf {
    results.join(FOLDER).join(fingerprint)
}

/// Keeps a run under a name; gives its place and the number of runs now kept under that name.
///
/// # Errors
/// When the folder is no complete run, is kept already, or cannot be copied.
pub fn save(results: &Path, run_dir: &Path, name: &str) -> anyhow::Result<(PathBuf, usize)> {
    let run = Run::read(run_dir)?;
    if !run.samples.iter().any(|s| s.is_measured()) {
        bail!(
            "\"{}\" holds no measured repetition: nothing to keep",
            run_dir.display()
        );
    }
    let stem = std::path::absolute(run_dir)?;
    let stem = stem.file_name().context("a run folder has a name")?;
    let group = folder(results, &run.manifest.host.fingerprint()).join(name);
    let place = group.join(stem);
    if place.exists() {
        bail!("\"{}\" is kept already", place.display());
    }
    let unwritable = || format!("cannot write \"{}\"", place.display());
    std::fs::create_dir_all(&group).with_context(unwritable)?;
    let half = tempfile::Builder::new().prefix(".half").tempdir_in(&group);
    let half = half.with_context(unwritable)?;
    for name in KEPT {
        let from = run_dir.join(name);
        if from.exists() {
            std::fs::copy(&from, half.path().join(name)).with_context(unwritable)?;
        }
    }
    std::fs::rename(half.keep(), &place).with_context(unwritable)?;
    Ok((place, runs(&group)?.len()))
}

/// Names of a machine's baselines and how many runs each holds.
///
/// # Errors
/// When the folder cannot be read.
pub fn list(results: &Path, fingerprint: &str) -> anyhow::Result<Vec<(String, usize)>> {
    let folder = folder(results, fingerprint);
    if !folder.exists() {
        return Ok(Vec::new());
    }
    let names = subfolders(&folder)?;
    names
        .into_iter()
        .map(|path| {
            let name = path.file_name().unwrap_or_default().to_string_lossy();
            Ok((name.into_owned(), runs(&path)?.len()))
        })
        .collect()
}

/// The runs that `what` stands for, oldest first: a run folder, a file in one, or a name; `None` for a name that nothing
/// is kept under.
///
/// # Errors
/// When a run cannot be read.
pub fn find(results: &Path, fingerprint: &str, what: &str) -> anyhow::Result<Option<Vec<Run>>> {
    let path = Path::new(what);
    if path.is_file() {
        let folder = path.parent().unwrap_or(Path::new("."));
        return Ok(Some(vec![Run::read(folder)?]));
    }
    if path.is_dir() {
        return Ok(Some(vec![Run::read(path)?]));
    }
    let group = folder(results, fingerprint).join(what);
    if what.contains('/') || !group.is_dir() {
        return Ok(None);
    }
    let kept = runs(&group)?;
    let runs = kept.iter().map(|path| Run::read(path));
    let runs = runs.collect::<anyhow::Result<Vec<_>>>()?;
    Ok((!runs.is_empty()).then_some(runs))
}

/// The run folders below a folder, oldest first.
///
/// # Errors
/// When the folder cannot be read.
pub fn runs(folder: &Path) -> anyhow::Result<Vec<PathBuf>> {
    let mut all = Vec::new();
    for path in subfolders(folder)? {
        if let Some(created) = Run::created_at(&path) {
            all.push((created, path));
        }
    }
    all.sort();
    Ok(all.into_iter().map(|(_, path)| path).collect())
}

/// The folders directly in a folder, by name; hidden ones left out.
fn subfolders(folder: &Path) -> anyhow::Result<Vec<PathBuf>> {
    let unreadable = || format!("cannot read \"{}\"", folder.display());
    let mut all = Vec::new();
    for entry in std::fs::read_dir(folder).with_context(unreadable)? {
        let entry = entry.with_context(unreadable)?;
        let hidden = entry.file_name().to_string_lossy().starts_with('.');
        if !hidden && entry.path().is_dir() {
            all.push(entry.path());
        }
    }
    all.sort();
    Ok(all)
}
