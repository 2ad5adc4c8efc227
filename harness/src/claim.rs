//! One measurement at a time: a lock of the user on this machine, which the kernel releases however its holder ends.

use crate::clock;
use crate::exit::{Exit, Fail};
use crate::host::{Finding, Status};
use crate::interrupt;
use anyhow::Context as _;
use std::fs::{File, TryLockError};
use std::io::{Read as _, Seek as _, Write as _};
use std::path::{Path, PathBuf};
use std::time::Duration;

/// The lock's file below the user's cache folder; it holds a line about the last holder.
const FILE: &str = "measuring.lock";
/// Longest line that is read from it, in bytes.
const LINE_BYTES_MAX: u64 = 4096;
/// How often a measurement that waits looks again.
const LOOK: Duration = Duration::from_millis(200);

/// What to do while another process measures.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Meanwhile {
    /// Give up, and say who it is.
    GiveUp,
    /// Wait for its end.
    Wait,
    /// Measure beside it.
    GoOn,
}

/// The right to measure, as long as it lives.
#[derive(Debug)]
pub struct Claim {
    /// The locked file; `None` where another process holds it, or it cannot be had.
    file: Option<File>,
    /// What this process is doing, for others.
    doing: String,
    /// Who measures at the same time, if that was accepted.
    beside: Option<String>,
}

impl Claim {
    /// Takes the lock. `folder` is where the results will go.
    ///
    /// # Errors
    /// Exit code 5 when another process measures and `meanwhile` does not say what then; 130 when a signal ends the waiting.
    pub fn take(folder: &Path, meanwhile: Meanwhile) -> anyhow::Result<Claim> {
        Claim::take_at(&path(), folder, meanwhile)
    }

    fn take_at(path: &Path, folder: &Path, meanwhile: Meanwhile) -> anyhow::Result<Claim> {
        let words: Vec<String> = std::env::args().skip(1).collect();
        let mut claim = Claim {
            file: None,
            doing: format!(
                "process {}, harness {}, since {}",
                std::process::id(),
                words.join(" "),
                clock::timestamp()
            ),
            beside: None,
        };
        let mut file = match open(path) {
            Ok(file) => file,
            Err(error) => {
                eprintln!("{error:#}: another measurement beside this one would not be noticed");
                return Ok(claim);
            }
        };
        let mut told = false;
        loop {
            match file.try_lock() {
                Ok(()) => break,
                Err(TryLockError::WouldBlock) => {}
                Err(TryLockError::Error(e)) => {
                    return Err(e).with_context(|| format!("cannot lock \"{}\"", path.display()));
                }
            }
            let holder = holder(&mut file);
            match meanwhile {
                Meanwhile::GiveUp => return Err(taken(&holder)),
                Meanwhile::GoOn => {
                    claim.beside = Some(holder);
                    return Ok(claim);
                }
                Meanwhile::Wait if interrupt::requested() => {
                    return Err(Fail::with(Exit::Interrupted, "interrupted"));
                }
                Meanwhile::Wait => {
                    if !told {
                        eprintln!("waiting for another measurement to end: {holder}");
                    }
                    told = true;
                    std::thread::sleep(LOOK);
                }
            }
        }
        claim.file = Some(file);
        claim.works_in(folder);
        Ok(claim)
    }

    /// Tells others where the results go.
    pub fn works_in(&mut self, folder: &Path) {
        let folder = std::path::absolute(folder).unwrap_or_else(|_| folder.to_owned());
        let line = format!("{}, writing to \"{}\"\n", self.doing, folder.display());
        if let Some(file) = &mut self.file {
            // It only helps whoever reads it.
            let _ = file.set_len(0);
            let _ = file.rewind().and_then(|()| file.write_all(line.as_bytes()));
        }
    }

    /// What a run should record about the measurement beside it, if there is one.
    pub fn finding(&self) -> Option<Finding> {
        let holder = self.beside.as_ref()?;
        Some(Finding {
            topic: "other measurement".into(),
            status: Status::Warn,
            found: format!("another measurement was going on: {holder}"),
            source: path().display().to_string(),
            means: "both took CPU time and bandwidth from each other: neither says what this machine can do".into(),
            advice: Some("measure again without --beside".into()),
        })
    }
}

/// The lock's file: below the user's cache folder, or else among temporary files.
fn path() -> PathBuf {
    let cache = directories::ProjectDirs::from("", "", "tokenlab");
    let folder = cache.map(|dirs| dirs.cache_dir().to_owned());
    folder.unwrap_or_else(std::env::temp_dir).join(FILE)
}

fn open(path: &Path) -> anyhow::Result<File> {
    let shown = path.display();
    if let Some(folder) = path.parent() {
        std::fs::create_dir_all(folder)
            .with_context(|| format!("cannot make \"{}\"", folder.display()))?;
    }
    let options = File::options()
        .read(true)
        .write(true)
        .create(true)
        .truncate(false)
        .open(path);
    options.with_context(|| format!("cannot open \"{shown}\""))
}

/// What the lock's holder says about itself.
fn holder(file: &mut File) -> String {
    let mut bytes = Vec::new();
    let read = file
        .rewind()
        .and_then(|()| file.take(LINE_BYTES_MAX).read_to_end(&mut bytes));
    let line = read.map_or(String::new(), |_| {
        String::from_utf8_lossy(&bytes).trim().to_owned()
    });
    match line.is_empty() {
        true => "a process that does not say who it is".into(),
        false => line.escape_debug().to_string().replace("\\\"", "\""),
    }
}

fn taken(holder: &str) -> anyhow::Error {
    let text = format!(
        "another measurement is going on, and two at once spoil each other: {holder}; wait for its end with --wait, or go on all the same with --beside, which is recorded"
    );
    Fail::with(Exit::Unfit, text)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::exit;

    #[test]
    fn one_holds_it_and_the_others_are_told_who() {
        let dir = tempfile::tempdir().expect("folder");
        let path = dir.path().join("cache").join(FILE);
        let take = |meanwhile| Claim::take_at(&path, Path::new("results"), meanwhile);
        let mut first = take(Meanwhile::GiveUp).expect("free");
        assert_eq!(first.finding(), None);
        first.works_in(Path::new("/results/run-1"));
        let error = take(Meanwhile::GiveUp).expect_err("held");
        assert_eq!(exit::of(&error), Exit::Unfit);
        let me = format!("process {},", std::process::id());
        for part in [
            me.as_str(),
            "writing to \"/results/run-1\"",
            "--wait",
            "--beside",
        ] {
            assert!(error.to_string().contains(part), "{error}");
        }
        let beside = take(Meanwhile::GoOn).expect("accepted");
        let finding = beside.finding().expect("recorded");
        assert!(finding.status == Status::Warn && finding.found.contains(&me));
        // A measurement beside another one does not hold the lock.
        drop(beside);
        take(Meanwhile::GiveUp).expect_err("still held");
        drop(first);
        take(Meanwhile::Wait).expect("free again");
    }

    #[test]
    fn whoever_cannot_lock_measures_all_the_same() {
        let dir = tempfile::tempdir().expect("folder");
        let file = dir.path().join("file");
        std::fs::write(&file, "").expect("writes");
        let path = file.join(FILE);
        let claim = Claim::take_at(&path, Path::new("results"), Meanwhile::GiveUp);
        assert_eq!(claim.expect("goes on").finding(), None);
    }
}
