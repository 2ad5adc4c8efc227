//! The simulation at the end of a run, with the real worker and a tiny model: where valgrind is, where it is not, and where
//! it fails.
#![allow(clippy::disallowed_methods, reason = "tests start the program itself")]

use harness::record::{Run, Simulated, Simulation};
use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;

const SCENARIO: &str = r#"
[scenario]
name = "trial"
description = "a trial"
[model.synth]
shape = "tiny"
quant = "Q4_0"
[prompt]
tokens = 6
[run]
rounds = 1
warmup = 0
probe = false
n_gen = 4
timeout_s = 60
simulate_s = 120
[engine]
threads = 1
"#;

/// Runs the scenario in `folder` and gives its run folder and what it printed. `search` replaces the search path.
fn run(folder: &Path, search: Option<&Path>, more: &[&str]) -> (PathBuf, String) {
    fs::write(folder.join("trial.toml"), SCENARIO).expect("writes");
    let mut command = Command::new(env!("CARGO_BIN_EXE_harness"));
    command.args(["run", "--models-dir", "models", "--no-report"]);
    match more {
        [] => command.arg("trial.toml"),
        more => command.args(more),
    };
    if let Some(search) = search {
        command.env("PATH", search);
    }
    command.current_dir(folder).env("XDG_CACHE_HOME", folder);
    let output = command.output().expect("starts");
    let stderr = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(output.status.success(), "{stderr}");
    let entries = fs::read_dir(folder.join("results")).expect("results");
    let last = entries.map(|e| e.expect("entry").path()).max();
    let stdout = String::from_utf8_lossy(&output.stdout).into_owned();
    (last.expect("a run folder"), stdout + &stderr)
}

fn read(folder: &Path) -> Run {
    Run::read(folder).expect("a run folder")
}

/// Why the only case has no counts.
fn reason(folder: &Path) -> String {
    match &read(folder).simulated[..] {
        [record] => match &record.result {
            Simulation::Missing(reason) => reason.clone(),
            Simulation::Counted(counts) => panic!("unexpected {counts:?}"),
        },
        other => panic!("expected one record, found {other:?}"),
    }
}

#[test]
fn without_valgrind_the_run_says_so_and_is_complete() {
    let dir = tempfile::tempdir().expect("folder");
    let (folder, said) = run(dir.path(), Some(dir.path()), &[]);
    let reason = reason(&folder);
    assert!(reason.contains("valgrind is not installed"), "{reason}");
    assert!(said.contains(&reason), "{said}");
    assert_eq!(read(&folder).samples.len(), 1);
    let csv = fs::read_to_string(folder.join("results.csv")).expect("reads");
    assert!(csv.contains("sim_decode_ll_misses"), "{csv}");
}

#[test]
fn a_valgrind_that_fails_leaves_its_reason() {
    let dir = tempfile::tempdir().expect("folder");
    let program = dir.path().join("valgrind");
    fs::write(
        &program,
        "#!/bin/sh\necho 'valgrind: no such tool' >&2\nexit 1\n",
    )
    .expect("writes");
    fs::set_permissions(&program, fs::Permissions::from_mode(0o755)).expect("executable");
    let (folder, said) = run(dir.path(), Some(dir.path()), &[]);
    let reason = reason(&folder);
    assert!(
        reason.starts_with("the simulation failed: ") && reason.contains("no such tool"),
        "{reason}"
    );
    assert!(said.contains(&reason), "{said}");
}

#[test]
fn a_tiny_model_is_counted_and_counts_repeat() {
    if harness::simulate::valgrind().is_none() {
        eprintln!("skipped: valgrind is not installed");
        return;
    }
    let dir = tempfile::tempdir().expect("folder");
    let (folder, said) = run(dir.path(), None, &[]);
    assert!(said.contains("simulated (callgrind-"), "{said}");
    let first = read(&folder);
    let counts = first.simulated(0).expect("counts").clone();
    let decode = counts.decode.as_ref().expect("decodes");
    assert_eq!((counts.prefill.tokens, decode.tokens), (6, 3));
    let stages: Vec<&str> = decode
        .stages
        .iter()
        .filter_map(|s| s.stage)
        .map(|s| s.name())
        .collect();
    for stage in [
        "embed",
        "norm",
        "qkv",
        "attention",
        "attn_out",
        "gate_up",
        "down",
        "head",
        "sample",
    ] {
        assert!(stages.contains(&stage), "{stage} in {stages:?}");
    }

    // What was simulated is not simulated again.
    let shown = folder.display().to_string();
    run(dir.path(), None, &["--resume", &shown]);
    assert_eq!(read(&folder).simulated, first.simulated);

    let (folder, _) = run(dir.path(), None, &[]);
    near(&counts, read(&folder).simulated(0).expect("counts"));
}

/// Counts repeat far within the 1 % from which a gate takes a change as one, or to two misses: this model has fewer than a
/// hundred in the last level, and whether one line more is missed depends on where the heap lies.
fn near(a: &Simulated, b: &Simulated) {
    let phases = [(&a.prefill, &b.prefill)];
    for (a, b) in phases
        .into_iter()
        .chain(a.decode.iter().zip(b.decode.iter()))
    {
        let (x, y) = (a.total(), b.total());
        let rows = [
            (x.instructions, y.instructions, 0.001, 0),
            (x.l1_misses(), y.l1_misses(), 0.01, 2),
            (x.ll_misses(), y.ll_misses(), 0.01, 2),
        ];
        for (x, y, share, count) in rows {
            let near = (x as f64 / y as f64 - 1.0).abs() < share || x.abs_diff(y) <= count;
            assert!(near, "{a:?} {b:?}");
        }
    }
}
