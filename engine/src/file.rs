//! Files that users name: opened without waiting, and refused where they are no files.

use crate::error::{Error, Result};
use rustix::fs::OFlags;
use std::fs::{File, Metadata, OpenOptions};
use std::io::ErrorKind;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

/// What [`OpenOptionsExt::custom_flags`] takes so that opening a pipe does not wait for its other end. Files know no difference.
pub(crate) const NO_WAIT: i32 = OFlags::NONBLOCK.bits() as i32;

/// Opens a regular file for reading. Gives it as it is now, too.
///
/// # Errors
/// [`Error::Io`]: not there, not permitted, a folder, a pipe, a device or a socket.
pub fn open(path: &Path) -> Result<(File, Metadata)> {
    let io = |source| Error::Io {
        action: "open",
        path: path.to_path_buf(),
        source,
    };
    let refused = |kind, what: &str| Err(io(std::io::Error::new(kind, what)));
    let file = OpenOptions::new()
        .read(true)
        .custom_flags(NO_WAIT)
        .open(path)
        .map_err(io)?;
    let metadata = file.metadata().map_err(io)?;
    if metadata.is_dir() {
        return refused(
            ErrorKind::IsADirectory,
            "it is a folder, expected a file: name the one inside it",
        );
    }
    if !metadata.is_file() {
        return refused(
            ErrorKind::InvalidInput,
            "it is not a regular file but a pipe or a device: copy what it gives to a file first",
        );
    }
    Ok((file, metadata))
}

/// Refuses to write over a file, or into a folder that is not there: asked before any time is spent on what it would hold.
///
/// # Errors
/// [`Error::Io`]: `out` exists, or its folder does not.
pub fn require_new(out: &Path) -> Result<()> {
    let refused = |kind, what: &str| {
        Err(Error::Io {
            action: "write",
            path: out.to_path_buf(),
            source: std::io::Error::new(kind, what),
        })
    };
    if out.exists() {
        let what = "it exists already: remove it, or choose another name";
        return refused(ErrorKind::AlreadyExists, what);
    }
    match out.parent() {
        Some(folder) if !folder.as_os_str().is_empty() && !folder.is_dir() => refused(
            ErrorKind::NotFound,
            "its folder does not exist: make it, or choose another",
        ),
        _ => Ok(()),
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use rustix::fs::{CWD, Mode, mkfifoat};

    /// Makes a pipe that nobody reads or writes.
    pub(crate) fn pipe(path: &Path) {
        mkfifoat(CWD, path, Mode::RUSR | Mode::WUSR).expect("a pipe");
    }

    #[test]
    fn what_is_no_file_is_refused_at_once() {
        let folder = tempfile::tempdir().expect("folder");
        let at = |name: &str| folder.path().join(name);
        std::fs::write(at("file"), b"abc").expect("written");
        assert_eq!(open(&at("file")).expect("a file").1.len(), 3);
        pipe(&at("pipe"));
        std::os::unix::fs::symlink(at("pipe"), at("link")).expect("a link");
        let _socket = std::os::unix::net::UnixListener::bind(at("socket")).expect("a socket");
        let rows = [
            (folder.path().to_owned(), "is a folder"),
            (at("pipe"), "not a regular file"),
            (at("link"), "not a regular file"),
            ("/dev/zero".into(), "not a regular file"),
            (at("socket"), "cannot open"),
            (at("none"), "cannot open"),
        ];
        for (path, expect) in rows {
            let text = open(&path).expect_err("no file").to_string();
            let named = text.contains(&path.display().to_string());
            assert!(text.contains(expect) && named, "{text}");
        }
    }
}
