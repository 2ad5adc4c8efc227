//! A run folder: created once, written by one process at a time, readable whatever happened to its writer.

use super::{
    Failure, Manifest, ProbeRecord, QualityRecord, SCHEMA_VERSION, Sample, SimulatedRecord,
};
use crate::clock;
use crate::exit::Fail;
use anyhow::{Context as _, bail};
use serde::Serialize;
use serde::de::DeserializeOwned;
use std::fs::{File, OpenOptions, Permissions, TryLockError};
use std::io::{Read as _, Write as _};
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use tempfile::NamedTempFile;

/// Name of the manifest in a run folder.
const MANIFEST: &str = "manifest.json";
/// Name of the journal of results.
const SAMPLES: &str = "samples.jsonl";
/// Name of the journal of failures.
const FAILURES: &str = "failures.jsonl";
/// Name of the journal of probes.
const PROBES: &str = "probes.jsonl";
/// Name of the journal of simulations.
const SIMULATED: &str = "simulated.jsonl";
/// Name of the journal of quality.
const QUALITY: &str = "quality.jsonl";
/// The journals.
const JOURNALS: [&str; 5] = [SAMPLES, FAILURES, PROBES, SIMULATED, QUALITY];
/// All that is needed to read a run again.
pub(crate) const KEPT: &[&str] = &[MANIFEST, SAMPLES, FAILURES, PROBES, SIMULATED, QUALITY];
/// Name of the lock; empty, and without meaning while nobody holds it.
const LOCK: &str = ".lock";
/// Largest file of a run folder that is read, in bytes.
const FILE_BYTES_MAX: u64 = 4 << 30;
/// Run folders of one scenario that may start within a second.
const SAME_SECOND_MAX: u32 = 100;

/// What a run folder holds.
#[derive(Debug, Clone, PartialEq)]
pub struct Run {
    /// What was run.
    pub manifest: Manifest,
    /// Repetitions that gave a result, in the order of the journal.
    pub samples: Vec<Sample>,
    /// Repetitions that gave none.
    pub failures: Vec<Failure>,
    /// Peaks of the rounds.
    pub probes: Vec<ProbeRecord>,
    /// Counts under simulation; of a case the last one holds.
    pub simulated: Vec<SimulatedRecord>,
    /// Quality of the cases; of a case the last one holds.
    pub quality: Vec<QualityRecord>,
}

impl Run {
    /// Reads a run folder. A torn last line of a journal, left by a writer that was killed, is forgiven.
    ///
    /// # Errors
    /// When a file is missing, of another schema version, or broken anywhere but in its last line.
    pub fn read(folder: &Path) -> anyhow::Result<Run> {
        let path = folder.join(MANIFEST);
        let bytes = read_bytes(&path)
            .with_context(|| format!("\"{}\" is not a run folder", folder.display()))?;
        let version: Versioned =
            serde_json::from_slice(&bytes).with_context(|| format!("\"{}\"", path.display()))?;
        version.check(&path)?;
        let manifest =
            serde_json::from_slice(&bytes).with_context(|| format!("\"{}\"", path.display()))?;
        Ok(Run {
            manifest,
            samples: read_journal(&folder.join(SAMPLES))?.0,
            failures: read_journal(&folder.join(FAILURES))?.0,
            probes: read_journal(&folder.join(PROBES))?.0,
            simulated: read_journal(&folder.join(SIMULATED))?.0,
            quality: read_journal(&folder.join(QUALITY))?.0,
        })
    }
}

impl Run {
    /// A run that has not measured anything.
    pub fn empty(manifest: Manifest) -> Run {
        Run {
            manifest,
            samples: vec![],
            failures: vec![],
            probes: vec![],
            simulated: vec![],
            quality: vec![],
        }
    }

    /// Start of the run in a folder, RFC 3339, UTC; `None` if it is no run folder of this schema.
    pub(crate) fn created_at(folder: &Path) -> Option<String> {
        #[derive(serde::Deserialize)]
        struct Created {
            schema_version: u32,
            created_at: String,
        }
        let bytes = read_bytes(&folder.join(MANIFEST)).ok()?;
        let found: Created = serde_json::from_slice(&bytes).ok()?;
        (found.schema_version == SCHEMA_VERSION).then_some(found.created_at)
    }
}

/// A run folder that this process writes.
#[derive(Debug)]
pub struct RunFolder {
    path: PathBuf,
    samples: File,
    failures: File,
    probes: File,
    simulated: File,
    quality: File,
    /// Held until the folder is dropped.
    _lock: File,
}

impl RunFolder {
    /// Makes a new folder below `results` and writes the manifest.
    ///
    /// # Errors
    /// When the folder cannot be made or written.
    pub fn create(results: &Path, manifest: &Manifest) -> anyhow::Result<RunFolder> {
        let path = new_folder(results, &manifest.scenario.name)?;
        let lock = lock(&path)?;
        let folder = RunFolder {
            samples: open_journal(&path.join(SAMPLES))?,
            failures: open_journal(&path.join(FAILURES))?,
            probes: open_journal(&path.join(PROBES))?,
            simulated: open_journal(&path.join(SIMULATED))?,
            quality: open_journal(&path.join(QUALITY))?,
            path,
            _lock: lock,
        };
        folder.write_manifest(manifest)?;
        // The folder's entries must be on disk before the first line is.
        let entries = File::open(&folder.path).and_then(|dir| dir.sync_all());
        entries.with_context(|| unwritable(&folder.path))?;
        Ok(folder)
    }

    /// Opens a folder to go on with, and cuts off a torn last line. Gives what it holds.
    ///
    /// # Errors
    /// When another process writes it, or it cannot be read or written.
    pub fn resume(path: &Path) -> anyhow::Result<(RunFolder, Run)> {
        if !path.join(MANIFEST).is_file() {
            let shown = path.display();
            return Err(Fail::usage(format!(
                "\"{shown}\" is not a run folder: it has no {MANIFEST}"
            )));
        }
        let lock = lock(path)?;
        let run = Run::read(path)?;
        for name in JOURNALS {
            let journal = path.join(name);
            let (_, whole_bytes) = read_journal::<serde_json::Value>(&journal)?;
            let file = OpenOptions::new()
                .write(true)
                .create(true)
                .truncate(false)
                .open(&journal);
            let cut = file.and_then(|file| file.set_len(whole_bytes));
            cut.with_context(|| unwritable(&journal))?;
        }
        let folder = RunFolder {
            samples: open_journal(&path.join(SAMPLES))?,
            failures: open_journal(&path.join(FAILURES))?,
            probes: open_journal(&path.join(PROBES))?,
            simulated: open_journal(&path.join(SIMULATED))?,
            quality: open_journal(&path.join(QUALITY))?,
            path: path.to_owned(),
            _lock: lock,
        };
        Ok((folder, run))
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Writes the manifest.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn write_manifest(&self, manifest: &Manifest) -> anyhow::Result<()> {
        self.write(MANIFEST, &serde_json::to_vec_pretty(manifest)?)
    }

    /// Appends a result; it is on disk when this returns.
    ///
    /// # Errors
    /// When the disk is full or read-only; everything before this line is kept.
    pub fn add_sample(&mut self, sample: &Sample) -> anyhow::Result<()> {
        append(&mut self.samples, sample).with_context(|| self.full(SAMPLES))
    }

    /// Appends a failure; it is on disk when this returns.
    ///
    /// # Errors
    /// As [`RunFolder::add_sample`].
    pub fn add_failure(&mut self, failure: &Failure) -> anyhow::Result<()> {
        append(&mut self.failures, failure).with_context(|| self.full(FAILURES))
    }

    /// Appends a probe; it is on disk when this returns.
    ///
    /// # Errors
    /// As [`RunFolder::add_sample`].
    pub fn add_probe(&mut self, probe: &ProbeRecord) -> anyhow::Result<()> {
        append(&mut self.probes, probe).with_context(|| self.full(PROBES))
    }

    /// Appends a simulation; it is on disk when this returns.
    ///
    /// # Errors
    /// As [`RunFolder::add_sample`].
    pub fn add_simulated(&mut self, simulated: &SimulatedRecord) -> anyhow::Result<()> {
        append(&mut self.simulated, simulated).with_context(|| self.full(SIMULATED))
    }

    /// Appends a quality; it is on disk when this returns.
    ///
    /// # Errors
    /// As [`RunFolder::add_sample`].
    pub fn add_quality(&mut self, quality: &QualityRecord) -> anyhow::Result<()> {
        append(&mut self.quality, quality).with_context(|| self.full(QUALITY))
    }

    /// Writes a file that can be made again from the journals.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn write(&self, name: &str, bytes: &[u8]) -> anyhow::Result<()> {
        write_whole(&self.path.join(name), bytes)
    }

    fn full(&self, name: &str) -> String {
        let path = self.path.display();
        format!(
            "cannot append to \"{path}/{name}\"; what was measured before is kept: make room, then go on with --resume {path}"
        )
    }
}

/// The version of a line or file, whatever else it holds.
#[derive(serde::Deserialize)]
struct Versioned {
    schema_version: u32,
}

impl Versioned {
    fn check(&self, path: &Path) -> anyhow::Result<()> {
        let found = self.schema_version;
        if found != SCHEMA_VERSION {
            let shown = path.display();
            bail!(
                "\"{shown}\" has schema version {found}, expected {SCHEMA_VERSION}: use the program that wrote it"
            );
        }
        Ok(())
    }
}

/// A new folder for a run that starts now.
fn new_folder(results: &Path, scenario: &str) -> anyhow::Result<PathBuf> {
    std::fs::create_dir_all(results).with_context(|| unwritable(results))?;
    let name = format!("{scenario}-{}", clock::folder_stamp());
    for attempt in 1..=SAME_SECOND_MAX {
        let path = results.join(match attempt {
            1 => name.clone(),
            _ => format!("{name}-{attempt}"),
        });
        match std::fs::create_dir(&path) {
            Ok(()) => return Ok(path),
            Err(e) if e.kind() == std::io::ErrorKind::AlreadyExists => {}
            Err(e) => return Err(e).with_context(|| unwritable(&path)),
        }
    }
    bail!("{SAME_SECOND_MAX} runs of \"{scenario}\" have started within this second: wait a little")
}

/// Takes the lock of a run folder.
fn lock(folder: &Path) -> anyhow::Result<File> {
    let path = folder.join(LOCK);
    let file = OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(false)
        .open(&path);
    let file = file.with_context(|| unwritable(&path))?;
    match file.try_lock() {
        Ok(()) => Ok(file),
        Err(TryLockError::WouldBlock) => bail!(
            "another run is writing \"{}\": wait for it to end, or start a new run",
            folder.display()
        ),
        Err(TryLockError::Error(e)) => Err(e).with_context(|| unwritable(&path)),
    }
}

fn open_journal(path: &Path) -> anyhow::Result<File> {
    let file = OpenOptions::new().append(true).create(true).open(path);
    file.with_context(|| unwritable(path))
}

/// Appends one line in one write, and waits until it is on disk.
fn append(journal: &mut File, line: &impl Serialize) -> anyhow::Result<()> {
    let mut bytes = serde_json::to_vec(line)?;
    bytes.push(b'\n');
    journal.write_all(&bytes)?;
    journal.sync_data()?;
    Ok(())
}

/// Writes a file so that it is there whole or not at all.
pub(crate) fn write_whole(path: &Path, bytes: &[u8]) -> anyhow::Result<()> {
    let folder = path.parent().unwrap_or(Path::new("."));
    let write = || -> anyhow::Result<()> {
        let mut half = unfinished(folder)?;
        half.write_all(bytes)?;
        half.as_file().sync_data()?;
        half.persist(path)?;
        Ok(())
    };
    write().with_context(|| unwritable(path))
}

/// A file in `folder` to be given its name when it is whole. Who may read it is what holds for any new file, not its writer alone.
pub(crate) fn unfinished(folder: &Path) -> std::io::Result<NamedTempFile> {
    let anyone = Permissions::from_mode(0o666);
    tempfile::Builder::new()
        .permissions(anyone)
        .tempfile_in(folder)
}

fn unwritable(path: &Path) -> String {
    let shown = path.display();
    format!("cannot write \"{shown}\": choose another place with --results-dir, or make room")
}

/// A file of a run folder, at most [`FILE_BYTES_MAX`] long.
fn read_bytes(path: &Path) -> anyhow::Result<Vec<u8>> {
    let file = File::open(path).with_context(|| format!("cannot open \"{}\"", path.display()))?;
    let mut bytes = Vec::new();
    file.take(FILE_BYTES_MAX + 1).read_to_end(&mut bytes)?;
    if bytes.len() as u64 > FILE_BYTES_MAX {
        bail!(
            "\"{}\" is longer than {FILE_BYTES_MAX} bytes",
            path.display()
        );
    }
    Ok(bytes)
}

/// The lines of a journal, and the bytes they take without a torn last line. A missing journal is empty.
fn read_journal<T: DeserializeOwned>(path: &Path) -> anyhow::Result<(Vec<T>, u64)> {
    if !path.exists() {
        return Ok((Vec::new(), 0));
    }
    let bytes = read_bytes(path)?;
    let mut lines = Vec::new();
    let mut whole_bytes = 0;
    for (number, line) in bytes.split_inclusive(|&b| b == b'\n').enumerate() {
        if !line.ends_with(b"\n") {
            break;
        }
        let place = || format!("\"{}\", line {}", path.display(), number + 1);
        let version: Versioned = serde_json::from_slice(line).with_context(place)?;
        version.check(path)?;
        lines.push(serde_json::from_slice(line).with_context(place)?);
        whole_bytes += line.len() as u64;
    }
    Ok((lines, whole_bytes))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::record::tests::{manifest, sample};

    fn folder() -> (tempfile::TempDir, RunFolder) {
        let results = tempfile::tempdir().expect("folder");
        let folder = RunFolder::create(results.path(), &manifest()).expect("creates");
        (results, folder)
    }

    #[test]
    fn a_line_that_is_not_utf8_is_refused_and_the_journal_left_as_it_is() {
        let (_results, mut folder) = folder();
        folder.add_sample(&sample()).expect("writes");
        folder.add_sample(&sample()).expect("writes");
        let path = folder.path().to_owned();
        drop(folder);
        let journal = path.join(SAMPLES);
        let mut bytes = std::fs::read(&journal).expect("reads");
        let at = bytes
            .iter()
            .rposition(|&b| b == b'z' || b == b'e')
            .expect("a letter");
        bytes[at] = 0xff;
        std::fs::write(&journal, &bytes).expect("writes");
        let error = format!("{:#}", RunFolder::resume(&path).expect_err("refused"));
        assert!(error.contains("line 2"), "{error}");
        assert_eq!(std::fs::read(&journal).expect("reads"), bytes);
    }

    #[test]
    fn what_is_written_is_read() {
        let (_results, mut folder) = folder();
        folder.add_sample(&sample()).expect("writes");
        folder.add_sample(&sample()).expect("writes");
        let run = Run::read(folder.path()).expect("reads");
        assert_eq!(run.manifest, manifest());
        assert_eq!(run.samples, [sample(), sample()]);
        assert!(run.failures.is_empty());
    }

    #[test]
    fn only_a_torn_last_line_is_forgiven() {
        let (_results, mut folder) = folder();
        folder.add_sample(&sample()).expect("writes");
        let path = folder.path().to_owned();
        let journal = path.join(SAMPLES);
        let whole = std::fs::read_to_string(&journal).expect("reads");
        drop(folder);
        for cut in [1, 2, whole.len() / 2, whole.len() - 1] {
            std::fs::write(&journal, format!("{whole}{}", &whole[..cut])).expect("writes");
            assert_eq!(
                Run::read(&path).expect("forgiven").samples.len(),
                1,
                "{cut}"
            );
        }
        let (folder, run) = RunFolder::resume(&path).expect("resumes");
        assert_eq!(run.samples.len(), 1);
        assert_eq!(std::fs::read_to_string(&journal).expect("reads"), whole);
        drop(folder);
        std::fs::write(&journal, format!("{}\n{whole}", &whole[..40])).expect("writes");
        let message = format!("{:#}", Run::read(&path).expect_err("broken in the middle"));
        assert!(message.contains("samples.jsonl\", line 1"), "{message}");
    }

    #[test]
    fn other_schema_versions_are_refused() {
        let (_results, mut folder) = folder();
        folder
            .add_sample(&Sample {
                schema_version: 99,
                ..sample()
            })
            .expect("writes");
        let message = format!("{:#}", Run::read(folder.path()).expect_err("refused"));
        assert!(
            message.contains("schema version 99, expected 1"),
            "{message}"
        );
    }

    #[test]
    fn one_writer_at_a_time() {
        let (results, folder) = folder();
        let message = format!(
            "{:#}",
            RunFolder::resume(folder.path()).expect_err("locked")
        );
        assert!(message.contains("another run is writing"), "{message}");
        let second = RunFolder::create(results.path(), &manifest()).expect("a folder of its own");
        assert_ne!(second.path(), folder.path());
    }

    #[test]
    fn what_is_written_whole_may_be_read_by_whoever_may_read_any_new_file() {
        let dir = tempfile::tempdir().expect("folder");
        let [whole, other] = ["whole", "other"].map(|name| dir.path().join(name));
        std::fs::write(&other, "text").expect("writes");
        let mode = |path: &Path| path.metadata().expect("there").permissions().mode();
        for _ in 0..2 {
            write_whole(&whole, b"text").expect("writes");
            assert_eq!(mode(&whole), mode(&other));
        }
    }

    #[test]
    fn a_place_that_cannot_be_written_is_named() {
        let file = tempfile::NamedTempFile::new().expect("file");
        let message = RunFolder::create(file.path(), &manifest()).expect_err("not a folder");
        assert!(
            format!("{message:#}").contains("--results-dir"),
            "{message:#}"
        );
        let empty = tempfile::tempdir().expect("folder");
        let message = RunFolder::resume(empty.path()).expect_err("empty");
        assert!(
            message.to_string().contains("not a run folder"),
            "{message}"
        );
    }
}
