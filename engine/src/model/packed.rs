//! Weights kept on disk as they were packed: the next load that would pack them so maps the file instead.
//!
//! Panels have one file, matrices by channels another ([`Content`]). A file is known by all that decides its bytes: the model's
//! files as they are now, and what became of each tensor. Whether this program would still pack them so is seen from a panel of
//! each tensor, or some channels of each matrix, which are packed anew and compared; so a file of other encoders or another
//! order of codes is not taken either. Behind the head stands a checksum of each piece of the weights, which is held against the
//! bytes as they are brought in. What does not suit is packed and replaced.
//!
//! Pages of the file belong to the system's page cache. They lie where the program that wrote them, or the first that read
//! them, was running, and not, as packed ones do, with the thread that multiplies them.

use super::Model;
use super::weights::Source;
use crate::error::{Error, Result};
use crate::gguf::{Gguf, write};
use crate::mmap::{Anon, Arena, FileId, FileMap, HUGE_PAGE_BYTES};
use crate::options::Options;
use crate::pool::Pool;
use crate::quantize::Planned;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use std::collections::HashSet;
use std::fmt;
use std::io::{Seek, SeekFrom, Write};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};

/// What such a file begins with. Its number rises when anything about the file but its weights changes.
const MAGIC: &[u8] = b"tokenlab packed weights 2\n";

/// Where the weights begin in the file, so that they can lie on huge pages. Checksums of four terabytes fit before it.
const START: usize = HUGE_PAGE_BYTES;

/// Bytes written at a time, and of a checksum: the page cache takes whole huge pages then, where the file system has them.
const CHUNK_BYTES: usize = 4 * HUGE_PAGE_BYTES;

/// Most bytes of the model's name in that of the file.
const STEM_MAX: usize = 100;

/// How the weights of a model came into memory.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Placed {
    /// They were packed.
    Packed,
    /// They were packed, and kept in a file for the next time.
    Kept,
    /// They were packed, and could not be kept, for this reason.
    NotKept(String),
    /// They were mapped from a file, as an earlier load had packed them.
    Mapped,
}

impl fmt::Display for Placed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Placed::Packed => f.write_str("packed"),
            Placed::Kept => f.write_str("packed, and kept for the next time"),
            Placed::NotKept(why) => write!(f, "packed, and not kept: {why}"),
            Placed::Mapped => f.write_str("mapped, as an earlier load packed them"),
        }
    }
}

/// Weights that can be kept in a file of their own.
pub(super) trait Content {
    /// What the name of the file ends with.
    const EXTENSION: &'static str;

    /// Adds all to `hash` that their bytes depend on, but for the model's files and what encodes and packs.
    fn hash(&self, hash: &mut Sha256);

    /// Their bytes.
    fn bytes(&self) -> usize;

    /// Makes them from the model's file.
    ///
    /// # Errors
    /// When there is no memory for them, or a value to be encoded is not finite.
    fn make(&self) -> Result<Anon>;

    /// Whether `found`, so many bytes, are what [`Content::make`] would give, as far as some of each matrix shows.
    fn would_make(&self, found: &[u8]) -> bool;
}

/// Adds the importance to `hash` that `tensors` are encoded by.
pub(super) fn hash_importance(hash: &mut Sha256, tensors: &[Planned]) {
    for encode in tensors.iter().filter_map(|t| t.encode.as_ref()) {
        hash.update((encode.importance.len() as u64).to_le_bytes());
        encode
            .importance
            .iter()
            .for_each(|value| hash.update(value.to_le_bytes()));
    }
}

/// A file in which weights of a model are kept.
struct Kept {
    path: PathBuf,
    /// What the file begins with; the checksums of the pieces follow, of four bytes each.
    head: Vec<u8>,
    arena_bytes: usize,
}

impl Kept {
    /// The file in `folder` for `content` of `gguf`, which came from `files`.
    fn new<C: Content>(folder: &Path, gguf: &Gguf, files: &[FileId], content: &C) -> Kept {
        // Hashed first what names the file, so that a model that was changed replaces its own.
        let mut hash = Sha256::new();
        for file in files {
            hash.update(file.path.as_os_str().as_bytes());
            hash.update([0]);
        }
        content.hash(&mut hash);
        let name = hash.clone().finalize();
        let name: String = name[..8].iter().map(|b| format!("{b:02x}")).collect();
        let stem = gguf.path().file_stem().unwrap_or_default();
        let stem = stem.to_string_lossy();
        let stem = &stem[..stem.floor_char_boundary(STEM_MAX)];
        hash.update(format!("{files:?}"));
        let arena_bytes = content.bytes();
        let mut head = MAGIC.to_vec();
        head.extend(hash.finalize());
        head.extend((arena_bytes as u64).to_le_bytes());
        Kept {
            path: folder.join(format!("{stem}-{name}.{}", C::EXTENSION)),
            head,
            arena_bytes,
        }
    }

    /// The file, mapped; `None` where there is none, or another one.
    fn open(&self, huge_pages: bool) -> Option<FileMap> {
        let file = FileMap::open(&self.path).ok()?;
        let found = file.bytes();
        if found.len() != START + self.arena_bytes || !found.starts_with(&self.head) {
            return None;
        }
        file.advise(huge_pages);
        Some(file)
    }

    /// Brings the weights that lie in `file` into this process, each thread a part of them. Whether they are what was written.
    fn fetch(&self, file: &FileMap, pool: &Pool) -> bool {
        let whole = AtomicBool::new(true);
        let (sums, _) = file.bytes()[self.head.len()..START].as_chunks::<4>();
        let pieces = self.arena_bytes.div_ceil(CHUNK_BYTES);
        pool.run(&|ctx| {
            for piece in ctx.share(pieces) {
                let start = START + piece * CHUNK_BYTES;
                let range = start..file.bytes().len().min(start + CHUNK_BYTES);
                file.fetch_pages(range.clone());
                let sum = crc32fast::hash(&file.bytes()[range]).to_le_bytes();
                if sums.get(piece) != Some(&sum) {
                    whole.store(false, Relaxed);
                }
            }
        });
        whole.into_inner()
    }

    /// Writes the file, in place of one that may be there.
    ///
    /// # Errors
    /// As [`write::replace`]. Nothing is left behind then.
    fn write(&self, arena: &[u8]) -> Result<()> {
        write::replace(&self.path, (START + arena.len()) as u64, |mut file| {
            file.write_all(&self.head)?;
            file.seek(SeekFrom::Start(START as u64))?;
            let mut sums = Vec::new();
            for chunk in arena.chunks(CHUNK_BYTES) {
                file.write_all(chunk)?;
                sums.extend(crc32fast::hash(chunk).to_le_bytes());
            }
            file.seek(SeekFrom::Start(self.head.len() as u64))?;
            file.write_all(&sums)
        })
    }
}

/// Refuses a folder that cannot be made, since something on the way to it is no folder. An empty name means none.
///
/// # Errors
/// [`Error::Option`] names what is in the way.
pub(crate) fn check_packed_cache(folder: &Path) -> Result<()> {
    match folder.ancestors().find(|path| path.exists()) {
        Some(path) if !path.is_dir() => {
            let what = format!("\"{}\" is no folder", path.display());
            Err(no_folder(folder, what))
        }
        _ => Ok(()),
    }
}

/// The error of a folder that cannot be made.
fn no_folder(folder: &Path, why: impl fmt::Display) -> Error {
    Error::Option {
        option: "packed_cache",
        what: format!(
            "the folder \"{}\" cannot be made ({why}): name one that can",
            folder.display()
        ),
    }
}

/// The weights of `content` of the model in `gguf`, in an arena: mapped where they were kept, else made, and kept if they are to
/// be. That they cannot be kept is no error: the model runs as well.
///
/// # Errors
/// As [`Content::make`]; and when the folder for it is not there and cannot be made, as it never will keep anything.
pub(super) fn place<C: Content>(
    gguf: &Gguf,
    content: &C,
    pool: &Pool,
    options: &Options,
) -> Result<(Arena, Placed)> {
    let make = || content.make().map(Arena::Memory);
    let folder = &options.packed_cache;
    if folder.as_os_str().is_empty() || content.bytes() == 0 {
        return Ok((make()?, Placed::Packed));
    }
    check_packed_cache(folder)?;
    std::fs::create_dir_all(folder).map_err(|e| no_folder(folder, e))?;
    let Some(files) = gguf.file_ids() else {
        let why = "the model is not in a file that it could be known by".into();
        return Ok((make()?, Placed::NotKept(why)));
    };
    let kept = Kept::new(folder, gguf, &files, content);
    if let Some(file) = kept.open(options.huge_pages)
        && kept.fetch(&file, pool)
    {
        let arena = Arena::File(file, START);
        if content.would_make(arena.bytes()) {
            return Ok((arena, Placed::Mapped));
        }
    }
    let arena = make()?;
    let placed = match kept.write(arena.bytes()) {
        Ok(()) => Placed::Kept,
        Err(error) => Placed::NotKept(error.to_string()),
    };
    Ok((arena, placed))
}

/// The panels of all matrices of a model, which came from `sources`.
pub(super) struct Panels<'a> {
    pub(super) model: &'a Model,
    pub(super) sources: &'a [Source],
    pub(super) arena_bytes: usize,
    pub(super) pool: &'a Pool,
    pub(super) huge_pages: bool,
}

impl Content for Panels<'_> {
    const EXTENSION: &'static str = "packed";

    fn hash(&self, hash: &mut Sha256) {
        for (matrix, source) in self.model.matrices().zip(self.sources) {
            let from = &self.model.tensors[source.tensor].from;
            let format = matrix.format.name;
            let what = (&from.name, from.format_id, source.first_row, format);
            hash.update(format!("{what:?}"));
            let shape = (matrix.rows, matrix.cols, matrix.offset, matrix.lookup);
            hash.update(format!("{shape:?}"));
        }
        hash_importance(hash, &self.model.tensors);
    }

    fn bytes(&self) -> usize {
        self.arena_bytes
    }

    fn make(&self) -> Result<Anon> {
        self.model
            .pack(self.sources, self.arena_bytes, self.pool, self.huge_pages)
    }

    fn would_make(&self, found: &[u8]) -> bool {
        let mut seen = HashSet::new();
        let all = self.model.matrices().zip(self.sources);
        let one_each: Vec<_> = all.filter(|(_, s)| seen.insert(s.tensor)).collect();
        let same = AtomicBool::new(true);
        self.pool.run(&|ctx| {
            let own = one_each.iter().enumerate().skip(ctx.index);
            for (i, (matrix, source)) in own.step_by(ctx.threads) {
                let planned = &self.model.tensors[source.tensor];
                let (p, first_row) = (i % matrix.panels(), source.first_row);
                let mut panel = vec![0; matrix.panel_bytes()];
                let finite = self
                    .model
                    .pack_panel(matrix, planned, first_row, p, &mut panel);
                if !finite || panel != found[matrix.panels_bytes(p..p + 1)] {
                    same.store(false, Relaxed);
                }
            }
        });
        same.into_inner()
    }
}

#[cfg(test)]
mod tests;
