//! Model files: where they are, how they come there, and their hashes.

use crate::record::{ModelRecord, hex};
use crate::scenario::ModelSpec;
use anyhow::{Context as _, bail};
use sha2::{Digest, Sha256};
use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};

/// Bytes hashed at a time.
const CHUNK_BYTES: usize = 1 << 20;

/// A model a scenario names, present or not.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Found {
    /// Name in the catalogue, the synthetic model's name, or the file name.
    pub name: String,
    /// Where the file is or will be.
    pub path: PathBuf,
    /// Whether it is there.
    pub present: bool,
    /// Licence, where the catalogue knows it.
    pub licence: Option<String>,
}

/// The folder that models are kept in.
#[derive(Debug, Clone)]
pub struct ModelStore {
    dir: PathBuf,
}

impl ModelStore {
    /// The store in `dir`, or else in the user's cache folder.
    ///
    /// # Errors
    /// When neither is known.
    pub fn new(dir: Option<PathBuf>) -> anyhow::Result<ModelStore> {
        let dir = dir.context("no folder for models: name one with --models-dir")?;
        Ok(ModelStore { dir })
    }

    /// The store's folder.
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// Where a model is or will be; fetches nothing.
    ///
    /// # Errors
    /// When the model is unknown, or its path is a folder or missing.
    pub fn find(&self, spec: &ModelSpec) -> anyhow::Result<Found> {
        match spec {
            ModelSpec::File(path) => find_file(path),
            ModelSpec::Catalogue(name) => bail!("model \"{name}\" is not in the catalogue"),
            ModelSpec::Synth(synth) => bail!("shape \"{}\" is unknown", synth.shape),
        }
    }

    /// Makes sure that a model is there, whole, and gives its record.
    ///
    /// # Errors
    /// When it cannot be had.
    pub fn ensure(&self, spec: &ModelSpec) -> anyhow::Result<ModelRecord> {
        let found = self.find(spec)?;
        let mut file = File::open(&found.path)
            .with_context(|| format!("cannot open \"{}\"", found.path.display()))?;
        Ok(ModelRecord {
            name: found.name,
            path: found.path.display().to_string(),
            file_bytes: file.metadata()?.len(),
            sha256: sha256(&mut file)?,
            licence: found.licence,
        })
    }
}

/// A file named by a scenario.
fn find_file(path: &Path) -> anyhow::Result<Found> {
    let shown = path.display();
    if path.is_dir() {
        bail!("model \"{shown}\" is a folder, expected a GGUF file");
    }
    if !path.is_file() {
        bail!("model \"{shown}\" does not exist: paths start at the scenario's folder");
    }
    let name = path
        .file_name()
        .map(|name| name.to_string_lossy().into_owned());
    Ok(Found {
        name: name.unwrap_or_else(|| shown.to_string()),
        path: path.to_owned(),
        present: true,
        licence: None,
    })
}

/// SHA-256 of everything a reader gives, hex.
///
/// # Errors
/// When it cannot be read.
pub fn sha256(reader: &mut impl Read) -> anyhow::Result<String> {
    let mut sha = Sha256::new();
    let mut chunk = vec![0; CHUNK_BYTES];
    loop {
        match reader.read(&mut chunk)? {
            0 => return Ok(hex(&sha.finalize())),
            n => sha.update(&chunk[..n]),
        }
    }
}

/// Refuses to go on unless `bytes` are free where `dir` is or will be.
///
/// # Errors
/// When there is less, or nobody knows.
pub fn require_space(dir: &Path, bytes: u64) -> anyhow::Result<()> {
    let there = dir
        .ancestors()
        .find(|dir| dir.exists())
        .unwrap_or(Path::new("."));
    let there = if there.as_os_str().is_empty() {
        Path::new(".")
    } else {
        there
    };
    let disk = rustix::fs::statvfs(there)
        .with_context(|| format!("cannot ask for the free space of \"{}\"", there.display()))?;
    let free = disk.f_bavail * disk.f_frsize;
    if free < bytes {
        let (need, free) = (bytes as f64 / 1e9, free as f64 / 1e9);
        bail!(
            "\"{}\" has {free:.1} GB free, {need:.1} GB are needed: make room, or choose another place with --models-dir",
            dir.display()
        );
    }
    Ok(())
}
