//! Read-only file mappings, zeroed anonymous memory on 2 MB borders, and weights in either.
#![allow(unsafe_code)]

use crate::error::{Error, Result};
use memmap2::{Advice, Mmap, MmapMut, UncheckedAdvice};
use std::fs::Metadata;
use std::ops::Range;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

/// Size and alignment of a huge page in bytes.
pub const HUGE_PAGE_BYTES: usize = 2 << 20;

/// Size of the smallest page there is, in bytes.
const SMALL_PAGE_BYTES: usize = 4096;

/// What tells a file from all others, and from itself before it was changed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FileId {
    /// Where it is, without symbolic links.
    pub path: PathBuf,
    /// Size in bytes.
    pub bytes: u64,
    /// Number in its file system.
    pub inode: u64,
    /// When its bytes were changed last, and when anything about it was, in nanoseconds since 1970.
    pub changed_ns: [i128; 2],
}

/// A whole file, mapped read-only.
#[derive(Debug)]
pub struct FileMap {
    map: Mmap,
    path: PathBuf,
    /// As it was when it was opened.
    metadata: Metadata,
}

impl FileMap {
    /// Maps all of `path`. Errors: not there, not permitted, no regular file, empty.
    pub fn open(path: &Path) -> Result<FileMap> {
        let (file, metadata) = crate::file::open(path)?;
        if metadata.len() == 0 {
            return Err(Error::Gguf {
                path: path.to_path_buf(),
                what: "is empty (0 bytes), but a model file is expected: is the download complete?"
                    .into(),
            });
        }
        // SAFETY: the mapping is private and read-only, so this process cannot change the file through it. That nobody
        // truncates or rewrites a model file while it is in use is the user's part, as with every program that maps models.
        let map = unsafe { Mmap::map(&file) }.map_err(|source| Error::Io {
            action: "map",
            path: path.to_path_buf(),
            source,
        })?;
        Ok(FileMap {
            map,
            path: path.to_path_buf(),
            metadata,
        })
    }

    /// Which file this is; `None` if it is no longer where it was.
    pub fn id(&self) -> Option<FileId> {
        let ns = |s: i64, ns: i64| i128::from(s) * 1_000_000_000 + i128::from(ns);
        let of = &self.metadata;
        Some(FileId {
            path: self.path.canonicalize().ok()?,
            bytes: of.len(),
            inode: of.ino(),
            changed_ns: [
                ns(of.mtime(), of.mtime_nsec()),
                ns(of.ctime(), of.ctime_nsec()),
            ],
        })
    }

    /// Asks for huge pages under the whole file, or for none. Advice only: a refusal is not an error.
    pub fn advise(&self, huge_pages: bool) {
        let _ = self.map.advise(page_advice(huge_pages));
    }

    /// Brings the pages of `range` (bytes from the start of the file) into this process before use.
    pub fn fetch_pages(&self, range: Range<usize>) {
        let Some(len) = checked_len(&range, self.map.len()) else {
            return;
        };
        let fetched = self
            .map
            .advise_range(Advice::PopulateRead, range.start, len);
        // A kernel older than 5.14 refuses; a byte of each page does the same, slower.
        if fetched.is_err() {
            let bytes = &self.map[range];
            for at in (0..len).step_by(SMALL_PAGE_BYTES) {
                std::hint::black_box(bytes[at]);
            }
        }
    }

    /// The file's bytes.
    pub fn bytes(&self) -> &[u8] {
        &self.map
    }

    /// Takes the pages of `range` (bytes from the start of the file) out of this process after use.
    /// They stay readable: the next access brings them back from the file. Advice only: a refusal is not an error.
    pub fn drop_pages(&self, range: Range<usize>) {
        if let Some(len) = checked_len(&range, self.map.len()) {
            // SAFETY: the mapping is file-backed and never written, so dropped pages lose nothing: a later read
            // faults the same bytes in from the file.
            let _ = unsafe {
                self.map
                    .unchecked_advise_range(UncheckedAdvice::DontNeed, range.start, len)
            };
        }
    }
}

/// Length of `range` if it is not empty and lies inside `0..limit`.
fn checked_len(range: &Range<usize>, limit: usize) -> Option<usize> {
    (range.start < range.end && range.end <= limit).then(|| range.end - range.start)
}

/// The advice that asks for huge pages, or for none.
fn page_advice(huge_pages: bool) -> Advice {
    match huge_pages {
        true => Advice::HugePage,
        false => Advice::NoHugePage,
    }
}

/// Zeroed private memory that starts on a 2 MB border.
#[derive(Debug)]
pub struct Anon {
    map: MmapMut,
    start: usize,
    len: usize,
}

impl Anon {
    /// `len` zeroed bytes, not yet backed by pages: the first thread to touch a page decides its NUMA node.
    ///
    /// With `huge_pages` the kernel is asked for huge pages, without it is told to use none, so that the switch has two
    /// definite states whatever the system's default; [`Anon::huge_bytes`] says what was obtained.
    /// Errors: the address space or the memory limit is exhausted.
    pub fn zeroed(len: usize, huge_pages: bool) -> std::io::Result<Anon> {
        let too_much = || std::io::Error::from(std::io::ErrorKind::OutOfMemory);
        // Whole huge pages where at least one is filled, so that the tail can be huge too.
        let span = if len >= HUGE_PAGE_BYTES {
            len.checked_next_multiple_of(HUGE_PAGE_BYTES)
        } else {
            Some(len)
        };
        let total = span
            .and_then(|span| span.checked_add(HUGE_PAGE_BYTES))
            .ok_or_else(too_much)?;
        let map = MmapMut::map_anon(total)?;
        // The first page always stays in front as a gap: with different advice on both sides of it, the kernel keeps
        // neighbouring mappings apart and their huge pages can be told apart.
        let base = map.as_ptr().addr();
        let start = (base + 1).next_multiple_of(HUGE_PAGE_BYTES) - base;
        if let Some(span) = span.filter(|&span| span > 0) {
            // A kernel without huge pages refuses; the memory is as good without.
            let _ = map.advise_range(page_advice(huge_pages), start, span);
        }
        Ok(Anon { map, start, len })
    }

    /// The memory.
    pub fn bytes(&self) -> &[u8] {
        &self.map[self.start..self.start + self.len]
    }

    /// The memory, to be written.
    pub fn bytes_mut(&mut self) -> &mut [u8] {
        &mut self.map[self.start..self.start + self.len]
    }

    /// Bytes of this memory that are really backed by huge pages now; `None` where the system does not say.
    pub fn huge_bytes(&self) -> Option<u64> {
        huge_bytes(self.bytes())
    }
}

/// Weights: in memory of their own, or the end of a file.
#[derive(Debug)]
pub enum Arena {
    /// In memory.
    Memory(Anon),
    /// In a file, from this byte on.
    File(FileMap, usize),
}

impl Arena {
    /// All of them.
    pub fn bytes(&self) -> &[u8] {
        match self {
            Arena::Memory(memory) => memory.bytes(),
            Arena::File(file, start) => &file.bytes()[*start..],
        }
    }

    /// Bytes of them that are really on huge pages now; `None` where the system does not say.
    pub fn huge_bytes(&self) -> Option<u64> {
        huge_bytes(self.bytes())
    }
}

/// Bytes of `memory` that are backed by huge pages now; `None` where the system does not say.
fn huge_bytes(memory: &[u8]) -> Option<u64> {
    let smaps = std::fs::read_to_string("/proc/self/smaps").ok()?;
    let start = memory.as_ptr().addr() as u64;
    let len = memory.len() as u64;
    Some(huge_bytes_in(&smaps, start..start + len.max(1)).min(len))
}

/// What `smaps` calls huge pages of anonymous memory, of files, and of files in memory.
const HUGE: [&str; 3] = ["AnonHugePages", "FilePmdMapped", "ShmemPmdMapped"];

/// Sum of the huge pages in bytes over the mappings in the text of a `smaps` file that touch `range`.
fn huge_bytes_in(smaps: &str, range: Range<u64>) -> u64 {
    let mut inside = false;
    let mut sum = 0;
    for line in smaps.lines() {
        if let Some(vma) = vma_range(line) {
            inside = vma.start < range.end && range.start < vma.end;
        } else if inside
            && let Some((name, value)) = line.split_once(':')
            && HUGE.contains(&name)
        {
            let kib = value.trim().trim_end_matches("kB").trim();
            sum += kib.parse::<u64>().unwrap_or(0) * 1024;
        }
    }
    sum
}

/// The address range of a mapping's first line in `smaps`: `7f12-7f34 rw-p ...`.
fn vma_range(line: &str) -> Option<Range<u64>> {
    let (start, end) = line.split_once(' ')?.0.split_once('-')?;
    let hex = |text| u64::from_str_radix(text, 16).ok();
    Some(hex(start)?..hex(end)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn anonymous_memory_is_zero_aligned_and_of_the_length_asked_for() {
        for len in [0, 1, 4096, HUGE_PAGE_BYTES - 1, HUGE_PAGE_BYTES, 5_000_000] {
            for huge in [false, true] {
                let mut memory = Anon::zeroed(len, huge).unwrap();
                assert_eq!(memory.bytes().len(), len);
                assert_eq!(memory.bytes().as_ptr().addr() % HUGE_PAGE_BYTES, 0);
                assert!(memory.bytes().iter().all(|&byte| byte == 0));
                memory.bytes_mut().fill(7);
                assert!(memory.bytes().iter().all(|&byte| byte == 7));
                if let Some(bytes) = memory.huge_bytes() {
                    assert!(bytes <= if huge { len as u64 } else { 0 });
                }
            }
        }
    }

    #[test]
    fn absurd_sizes_are_errors() {
        for len in [usize::MAX, usize::MAX - HUGE_PAGE_BYTES, 1 << 62] {
            assert!(Anon::zeroed(len, true).is_err(), "{len}");
        }
    }

    #[test]
    fn smaps_sums_only_the_mappings_in_range() {
        let smaps = "\
1000-3000 rw-p 00000000 00:00 0
Size:                  8 kB
AnonHugePages:      2048 kB
3000-5000 rw-p 00000000 00:00 0 [heap]
AnonHugePages:      4096 kB
THPeligible:           1
5000-6000 r--s 00000000 00:00 0 /a: file
AnonHugePages:         0 kB
ShmemPmdMapped:        0 kB
FilePmdMapped:      8192 kB
";
        let check = |range, kib: u64| assert_eq!(huge_bytes_in(smaps, range), kib * 1024);
        check(0x1000..0x2000, 2048);
        check(0x2fff..0x3001, 6144);
        check(0x3000..0x5000, 4096);
        check(0x5000..0x6000, 8192);
        check(0x6000..0x7000, 0);
    }

    #[test]
    fn dropped_pages_read_the_same_again() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("file");
        let text: Vec<u8> = (0..100_000u32).map(|i| (i % 251) as u8).collect();
        std::fs::write(&path, &text).unwrap();
        let map = FileMap::open(&path).unwrap();
        assert_eq!(map.bytes(), text);
        map.drop_pages(5..90_000);
        map.drop_pages(0..text.len() + 1); // outside: ignored
        assert_eq!(map.bytes(), text);
        map.fetch_pages(5000..text.len());
        map.fetch_pages(0..text.len() + 1);
        assert_eq!(map.bytes(), text);
    }

    #[test]
    fn a_file_that_was_changed_is_another_one() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("file");
        let write = || {
            std::fs::write(&path, b"abc").unwrap();
            FileMap::open(&path).unwrap()
        };
        let before = write();
        assert_eq!(before.id(), FileMap::open(&path).unwrap().id());
        std::thread::sleep(std::time::Duration::from_millis(20));
        assert_ne!(before.id(), write().id());
        let link = folder.path().join("link");
        std::os::unix::fs::symlink(&path, &link).unwrap();
        let linked = FileMap::open(&link).unwrap();
        assert_eq!(linked.id(), FileMap::open(&path).unwrap().id());
        std::fs::remove_file(&path).unwrap();
        assert_eq!(linked.id(), None);
    }

    #[test]
    fn what_cannot_be_mapped_is_an_error_with_a_way_out() {
        let folder = tempfile::tempdir().unwrap();
        let empty = folder.path().join("empty.gguf");
        std::fs::write(&empty, b"").unwrap();
        let check = |path: &Path, expect: &str| {
            let text = FileMap::open(path).unwrap_err().to_string();
            assert!(text.contains(expect), "{text}");
        };
        check(folder.path(), "is a folder");
        check(&empty, "is the download complete?");
        check(&folder.path().join("none"), "cannot open");
        check(Path::new("/dev/null"), "not a regular file");
        let pipe = folder.path().join("pipe.gguf");
        crate::file::tests::pipe(&pipe);
        check(&pipe, "not a regular file");
    }
}
