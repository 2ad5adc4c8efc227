//! Hashes of files already read, so that a file of many gigabytes is not read again for every run.
//!
//! A hash stands as long as the file's size, inode, and times of change are what they were. Losing this memory costs
//! only time, so nothing here is an error.

use crate::record::unfinished;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::fs::File;
use std::io::{Read as _, Write as _};
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

/// Name of the memory in the models' folder.
const FILE: &str = ".hashes.json";
/// Longest memory that is read, in bytes.
const FILE_BYTES_MAX: u64 = 1 << 20;
/// Most files that are remembered.
const ENTRIES_MAX: usize = 1000;

/// What must not have changed for a hash to stand, and the hash.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Known {
    bytes: u64,
    inode: u64,
    modified_ns: i128,
    changed_ns: i128,
    sha256: String,
}

impl Known {
    fn of(file: &File, sha256: String) -> Option<Known> {
        let meta = file.metadata().ok()?;
        let ns = |s: i64, ns: i64| i128::from(s) * 1_000_000_000 + i128::from(ns);
        Some(Known {
            bytes: meta.size(),
            inode: meta.ino(),
            modified_ns: ns(meta.mtime(), meta.mtime_nsec()),
            changed_ns: ns(meta.ctime(), meta.ctime_nsec()),
            sha256,
        })
    }
}

/// The hash of an open file, if it is remembered and the file is still the same.
pub(super) fn recall(dir: &Path, path: &Path, file: &File) -> Option<String> {
    let known = read(dir).remove(&key(path))?;
    let now = Known::of(file, known.sha256.clone())?;
    (now == known).then_some(known.sha256)
}

/// Remembers the hash of an open file.
pub(super) fn remember(dir: &Path, path: &Path, file: &File, sha256: &str) {
    let mut all = read(dir);
    if all.len() >= ENTRIES_MAX {
        all.clear();
    }
    if let Some(known) = Known::of(file, sha256.to_owned()) {
        all.insert(key(path), known);
        // A folder that cannot be written costs time, no more.
        let _ = write(dir, &all);
    }
}

/// One name for a file, however it was reached.
fn key(path: &Path) -> PathBuf {
    path.canonicalize().unwrap_or_else(|_| path.to_owned())
}

fn read(dir: &Path) -> BTreeMap<PathBuf, Known> {
    let mut text = String::new();
    let file = File::open(dir.join(FILE)).map(|file| file.take(FILE_BYTES_MAX));
    match file.and_then(|mut file| file.read_to_string(&mut text)) {
        Ok(_) => serde_json::from_str(&text).unwrap_or_default(),
        Err(_) => BTreeMap::new(),
    }
}

fn write(dir: &Path, all: &BTreeMap<PathBuf, Known>) -> std::io::Result<()> {
    std::fs::create_dir_all(dir)?;
    let mut half = unfinished(dir)?;
    half.write_all(&serde_json::to_vec(all)?)?;
    half.persist(dir.join(FILE))?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_hash_stands_until_the_file_changes() {
        let dir = tempfile::tempdir().expect("folder");
        let path = dir.path().join("model");
        std::fs::write(&path, "one").expect("writes");
        let open = || File::open(&path).expect("opens");
        assert_eq!(recall(dir.path(), &path, &open()), None);
        remember(dir.path(), &path, &open(), "abc");
        assert_eq!(recall(dir.path(), &path, &open()).as_deref(), Some("abc"));
        // The same size and, set back, the same time of modification.
        let time = open().metadata().and_then(|m| m.modified()).expect("time");
        std::fs::write(&path, "two").expect("writes");
        let file = File::options().write(true).open(&path).expect("opens");
        file.set_modified(time).expect("sets");
        assert_eq!(recall(dir.path(), &path, &open()), None);
        std::fs::write(dir.path().join(FILE), "rubbish").expect("writes");
        assert_eq!(recall(dir.path(), &path, &open()), None);
    }
}
