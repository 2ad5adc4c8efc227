//! `harness gate` by the program itself, on seeded fake runs: every outcome with its exit code.
#![allow(clippy::disallowed_methods, reason = "tests start the program itself")]

#[allow(dead_code, reason = "other tests use the rest")]
mod fake;

use fake::FakeRun;
use harness::record::Phase;
use serde_json::{Value, json};
use std::fs;
use std::path::Path;
use std::process::{Command, Output, Stdio};

/// A run of one case that decodes at `rate`.
fn run(rate: f64, rounds: u32) -> FakeRun {
    let mut run = FakeRun::new("gated", &[json!({})]);
    for round in 0..rounds {
        run.push(0, Phase::Measured, round, 0, rate, 2);
    }
    run
}

/// Gates the run in a folder with an option and its path, and the verdict in a file besides.
fn started(run: &Path, json: &Path, (option, path): (&str, &Path), more: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_harness"))
        .arg("gate")
        .arg(run)
        .arg(option)
        .arg(path)
        .arg("--json")
        .arg(json)
        .args(more)
        .stdin(Stdio::null())
        .output()
        .expect("starts")
}

/// Holds the run in a folder against another one.
fn gate(run: &Path, baseline: &Path, more: &[&str]) -> (Option<i32>, String, Value) {
    let json = run.join("gate.json");
    let output = started(run, &json, ("--baseline", baseline), more);
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    let said = text(&output.stdout) + &text(&output.stderr);
    let json = fs::read(&json).expect("written");
    let json = serde_json::from_slice(&json).expect("json");
    (output.status.code(), said, json)
}

#[test]
fn every_outcome_has_its_exit_code() {
    let mut other_work = run(142.0, 12);
    other_work.manifest.cases[0].engine.batch = 7;
    let rows = [
        ("pass", run(142.0, 12), 0, 0),
        ("improvement", run(170.0, 12), 0, 0),
        ("regression", run(110.0, 12), 3, 3),
        ("inconclusive", run(110.0, 4), 0, 4),
        ("incomparable", other_work, 4, 4),
    ];
    let dir = tempfile::tempdir().expect("folder");
    let baseline = dir.path().join("baseline");
    run(142.0, 12).write(&baseline);
    for (state, run, code, strict) in rows {
        let folder = dir.path().join(state);
        run.write(&folder);
        for (more, code) in [(&[][..], code), (&["--strict"][..], strict)] {
            let (found, said, json) = gate(&folder, &baseline, more);
            assert_eq!(
                (found, &json["state"]),
                (Some(code), &json!(state)),
                "{said}"
            );
            assert!(said.contains(state), "{said}");
            let wide = said.lines().find(|line| line.chars().count() > 110);
            assert_eq!(wide, None);
        }
    }
}

#[test]
fn a_first_run_without_a_baseline_is_told_apart_from_a_pass() {
    let dir = tempfile::tempdir().expect("folder");
    let (folder, json) = (dir.path().join("first"), dir.path().join("gate.json"));
    run(142.0, 12).write(&folder);
    for (more, code) in [
        (&[][..], 0),
        (&["--strict"][..], 4),
        (&["--baseline", "none"][..], 2),
    ] {
        let _ = fs::remove_file(&json);
        let results = dir.path().join("results");
        let output = started(&folder, &json, ("--results-dir", &results), more);
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status.code(), Some(code), "{said}");
        assert!(said.contains("no baseline \""), "{said}");
        if code != 2 {
            let written = fs::read(&json).expect("written");
            let written: Value = serde_json::from_slice(&written).expect("json");
            assert_eq!(written["state"], json!("no_baseline"));
        }
    }
}

#[test]
fn a_counted_event_is_gated_where_that_is_asked_for() {
    use harness::record::{Count, Counters, Source};
    let dir = tempfile::tempdir().expect("folder");
    let folder = |name: &str, instructions: f64, source| {
        let mut run = run(142.0, 12);
        for (i, sample) in run.samples.iter_mut().enumerate() {
            let count = Count {
                event: "instructions".into(),
                value: instructions * 127.0 * (1.0 + 1e-4 * i as f64),
                source,
                running: None,
                machine: false,
            };
            sample.counters = Some(Counters {
                decode: vec![count],
                ..Counters::default()
            });
        }
        let path = dir.path().join(name);
        run.write(&path);
        path
    };
    let baseline = folder("baseline", 1e6, Source::Hardware);
    let more = folder("more", 1.2e6, Source::Hardware);
    let asked = ["--metric", "decode_instructions"];
    let (code, said, json) = gate(&more, &baseline, &asked);
    assert_eq!(code, Some(3), "{said}");
    let row = &json["rows"][0];
    assert_eq!(row["metric"], json!("decode_instructions"));
    let found = row["found"].as_f64().expect("a number");
    assert!((found / 1.2e6 - 1.0).abs() < 1e-2, "{found}");
    assert_eq!(gate(&baseline, &baseline, &asked).0, Some(0));
    // Unless it is asked for, it decides nothing.
    assert_eq!(gate(&more, &baseline, &[]).0, Some(0));
    // Counts without the kernel's part are not held against whole ones.
    let user = folder("user", 1e6, Source::UserOnly);
    let (code, said, _) = gate(&user, &baseline, &["--strict", asked[0], asked[1]]);
    assert_eq!(code, Some(4), "{said}");
}
