//! Writing of GGUF files, version 3: the head, and files that are complete or absent.

use super::limits::ALIGNMENT_DEFAULT;
use super::{Gguf, Kind};
use crate::error::{Error, Result};
use crate::file::{NO_WAIT, require_new};
use std::fs::{File, OpenOptions};
use std::io::ErrorKind;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

/// Version of the format that is written.
const VERSION: u32 = 3;

/// Metadata under construction.
#[derive(Debug, Default)]
pub(crate) struct Metadata {
    bytes: Vec<u8>,
    count: u64,
}

impl Metadata {
    fn entry(&mut self, key: &str, kind: Kind) -> &mut Vec<u8> {
        self.count += 1;
        put_str(&mut self.bytes, key);
        self.bytes.extend((kind as u32).to_le_bytes());
        &mut self.bytes
    }

    /// Copies the metadata of `file`, but for the keys that `leave_out` names.
    pub(crate) fn copy(&mut self, file: &Gguf, leave_out: impl Fn(&str) -> bool) {
        let bytes = file.parts[0].bytes();
        for key in file.index.keys.iter().filter(|key| !leave_out(&key.name)) {
            self.entry(&key.name, key.kind)
                .extend(&bytes[key.at.clone()]);
        }
    }

    pub(crate) fn u32(&mut self, key: &str, value: u32) {
        self.entry(key, Kind::U32).extend(value.to_le_bytes());
    }

    pub(crate) fn f32(&mut self, key: &str, value: f32) {
        self.entry(key, Kind::F32).extend(value.to_le_bytes());
    }

    pub(crate) fn bool(&mut self, key: &str, value: bool) {
        self.entry(key, Kind::Bool).push(u8::from(value));
    }

    pub(crate) fn str(&mut self, key: &str, value: &str) {
        put_str(self.entry(key, Kind::Str), value);
    }

    pub(crate) fn strs(&mut self, key: &str, values: &[String]) {
        let out = self.entry(key, Kind::Array);
        put_array(out, Kind::Str, values.len());
        for value in values {
            put_str(out, value);
        }
    }

    pub(crate) fn i32s(&mut self, key: &str, values: &[i32]) {
        let out = self.entry(key, Kind::Array);
        put_array(out, Kind::I32, values.len());
        for value in values {
            out.extend(value.to_le_bytes());
        }
    }
}

fn put_str(out: &mut Vec<u8>, text: &str) {
    out.extend((text.len() as u64).to_le_bytes());
    out.extend(text.as_bytes());
}

fn put_array(out: &mut Vec<u8>, kind: Kind, len: usize) {
    out.extend((kind as u32).to_le_bytes());
    out.extend((len as u64).to_le_bytes());
}

/// Name, dimensions (innermost first), type number and size in bytes of a tensor.
pub(crate) type Described<'a> = (&'a str, &'a [u64], u32, u64);

/// The bytes of a file up to its first tensor, and the size of the whole file.
///
/// Tensors follow each other in the order given, each on a multiple of [`ALIGNMENT_DEFAULT`]; the file ends with the padding of
/// the last one. `None` where the sizes overflow.
pub(crate) fn head<'a>(
    metadata: &Metadata,
    tensors: impl ExactSizeIterator<Item = Described<'a>>,
) -> Option<(Vec<u8>, u64)> {
    let mut out = b"GGUF".to_vec();
    out.extend(VERSION.to_le_bytes());
    out.extend((tensors.len() as u64).to_le_bytes());
    out.extend(metadata.count.to_le_bytes());
    out.extend(&metadata.bytes);
    let mut offset = 0u64;
    for (name, dims, id, bytes) in tensors {
        put_str(&mut out, name);
        out.extend((dims.len() as u32).to_le_bytes());
        for dim in dims {
            out.extend(dim.to_le_bytes());
        }
        out.extend(id.to_le_bytes());
        out.extend(offset.to_le_bytes());
        offset = offset
            .checked_add(bytes)?
            .checked_next_multiple_of(ALIGNMENT_DEFAULT)?;
    }
    out.resize(out.len().next_multiple_of(ALIGNMENT_DEFAULT as usize), 0);
    let total = offset.checked_add(out.len() as u64)?;
    Some((out, total))
}

/// Writes the file `out` of `bytes` bytes by `fill`: beside it with `.part` behind its name, renamed when complete.
///
/// # Errors
/// When `out` exists, its folder is missing or read-only, the disk has too little space, another program is writing the
/// same file, or `fill` fails. The unfinished file is then removed.
pub(crate) fn create(
    out: &Path,
    bytes: u64,
    fill: impl FnOnce(&File) -> std::io::Result<()>,
) -> Result<()> {
    require_new(out)?;
    replace(out, bytes, fill)
}

/// As [`create`], in place of the file that may be there already; whoever has that one mapped keeps it as it was.
pub(crate) fn replace(
    out: &Path,
    bytes: u64,
    fill: impl FnOnce(&File) -> std::io::Result<()>,
) -> Result<()> {
    // First the file: what an interrupted run left behind makes room.
    let part = Part::create(out)?;
    require_space(out, bytes)?;
    fill(&part.file).map_err(|source| part.error(source))?;
    part.finish(out)
}

/// Folder that `out` lies in.
fn folder_of(out: &Path) -> &Path {
    match out.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        _ => Path::new("."),
    }
}

/// Refuses to start what the disk has no room for.
pub(crate) fn require_space(out: &Path, needed: u64) -> Result<()> {
    let folder = folder_of(out);
    let stat = rustix::fs::statvfs(folder).map_err(|error| Error::Io {
        action: "write",
        path: out.to_path_buf(),
        source: error.into(),
    })?;
    let available = stat.f_bavail.saturating_mul(stat.f_frsize);
    if available >= needed {
        return Ok(());
    }
    let mb = |bytes: u64| bytes.div_ceil(1_000_000);
    let what = format!(
        "it needs {} MB, but its file system has {} MB free: free some space, or choose another folder",
        mb(needed),
        available / 1_000_000
    );
    Err(write_error(out, ErrorKind::StorageFull, &what))
}

fn write_error(path: &Path, kind: ErrorKind, what: &str) -> Error {
    Error::Io {
        action: "write",
        path: path.to_path_buf(),
        source: std::io::Error::new(kind, what),
    }
}

/// A file being written, removed unless finished. It is locked, so that nobody else writes it at the same time; one that
/// an interrupted run left behind is written over.
pub(crate) struct Part {
    file: File,
    pub(crate) path: PathBuf,
    finished: bool,
}

impl Part {
    pub(crate) fn create(out: &Path) -> Result<Part> {
        let mut name = out.file_name().unwrap_or_default().to_os_string();
        name.push(".part");
        let path = folder_of(out).join(name);
        let io = |source| Error::Io {
            action: "write",
            path: path.clone(),
            source,
        };
        let file = OpenOptions::new()
            .write(true)
            .create(true)
            .truncate(false)
            .custom_flags(NO_WAIT)
            .open(&path)
            .map_err(io)?;
        let busy = || {
            write_error(
                &path,
                ErrorKind::WouldBlock,
                "another program is writing it: wait for it, or choose another name",
            )
        };
        file.try_lock().map_err(|_| busy())?;
        // Between opening and locking, another program may have finished this file and renamed it.
        let ours = file.metadata().map_err(io)?;
        let named = std::fs::metadata(&path).map_err(|_| busy())?;
        if (ours.dev(), ours.ino()) != (named.dev(), named.ino()) {
            return Err(busy());
        }
        file.set_len(0).map_err(io)?;
        Ok(Part {
            file,
            path,
            finished: false,
        })
    }

    pub(crate) fn error(&self, source: std::io::Error) -> Error {
        Error::Io {
            action: "write",
            path: self.path.clone(),
            source,
        }
    }

    /// Brings the bytes to the disk, so that writing them does not disturb a later measurement, and renames the file.
    fn finish(mut self, out: &Path) -> Result<()> {
        self.file
            .sync_data()
            .and_then(|()| std::fs::rename(&self.path, out))
            .map_err(|source| self.error(source))?;
        self.finished = true;
        Ok(())
    }
}

impl Drop for Part {
    fn drop(&mut self) {
        if !self.finished {
            // What fails here cannot be reported any more; the error that led here can.
            let _ = std::fs::remove_file(&self.path);
        }
    }
}
