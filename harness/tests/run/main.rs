//! Whole runs of the program, with a scripted worker in place of the engine: nothing is waited for that need not be.
#![allow(clippy::disallowed_methods, reason = "tests start the program itself")]

#[path = "../done/mod.rs"]
mod done;
mod refused;
mod stopped;

use done::Done;
use harness::record::{FailureKind, Phase, Run, tokens_sha256};
use harness::runner::{Answer, Outcome, PROTOCOL_VERSION};
use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::os::unix::process::ExitStatusExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;
use tempfile::TempDir;

const SCENARIO: &str = r#"
[scenario]
name = "trial"
description = "a trial"
[model]
path = "model.gguf"
[prompt]
text = "Hello"
[run]
rounds = 2
probe = false
warmup = 1
n_gen = 3
timeout_s = 30
[engine]
threads = 1
"#;

/// A folder with a scenario, a model, and a worker that acts as scripted.
struct Lab {
    dir: TempDir,
}

impl Lab {
    /// `acts` is what the worker does at each start, the last one for all further starts:
    /// `good`, `wrong`, `short`, `crash`, `rubbish`, `error`, `hang`, `slow`.
    fn new(scenario: &str, acts: &[&str]) -> Lab {
        let lab = Lab {
            dir: tempfile::tempdir().expect("folder"),
        };
        fs::write(lab.path("trial.toml"), scenario).expect("writes");
        fs::write(lab.path("model.gguf"), "not read by this worker").expect("writes");
        fs::write(lab.path("good"), answer(&[1, 2, 3])).expect("writes");
        fs::write(lab.path("wrong"), answer(&[1, 2, 4])).expect("writes");
        fs::write(lab.path("short"), answer(&[1])).expect("writes");
        fs::write(lab.path("starts"), "").expect("writes");
        let error = serde_json::to_string(&Answer::Error {
            message: "no such kernel".into(),
        });
        fs::write(lab.path("error"), error.expect("json") + "\n").expect("writes");
        let list = acts.join(" ");
        let script = format!(
            r#"#!/bin/sh
cd '{}' && cat > job.json && echo $$ >> starts
n=$(wc -l < starts); set -- {list}
[ "$n" -gt $# ] && n=$#
shift $((n - 1))
case $1 in
    hang) sleep 600 ;;
    slow) sleep 0.2; cat good ;;
    crash) kill -SEGV $$ ;;
    rubbish) echo rubbish ;;
    *) cat "$1" ;;
esac
"#,
            lab.dir.path().display()
        );
        let worker = lab.path("worker");
        fs::write(&worker, script).expect("writes");
        fs::set_permissions(&worker, fs::Permissions::from_mode(0o755)).expect("executable");
        lab
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// How often the worker was started.
    fn starts(&self) -> usize {
        fs::read_to_string(self.path("starts"))
            .expect("reads")
            .lines()
            .count()
    }

    fn command(&self, args: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_harness"));
        command.arg("run").args(args).current_dir(self.dir.path());
        command.args(["--worker", "./worker", "--models-dir", "models"]);
        command.stdin(Stdio::null()).env_remove("RUST_BACKTRACE");
        command.env("XDG_CACHE_HOME", self.path("cache"));
        command
    }

    fn run(&self, args: &[&str]) -> Done {
        Done::from(self.command(args).output().expect("starts"))
    }

    /// The only run folder.
    fn folder(&self) -> PathBuf {
        let entries = fs::read_dir(self.path("results")).expect("results");
        let folders: Vec<PathBuf> = entries.map(|e| e.expect("entry").path()).collect();
        let [folder] = &folders[..] else {
            panic!("expected one folder, found {folders:?}")
        };
        folder.clone()
    }

    fn recorded(&self) -> Run {
        Run::read(&self.folder()).expect("a valid run folder")
    }
}

impl Done {
    /// The exit code, and what stands in its errors.
    #[track_caller]
    fn expect(&self, code: i32, in_stderr: &str) {
        let shown = self.ends(code);
        assert!(
            self.stderr.contains(in_stderr),
            "no \"{in_stderr}\" in\n{shown}"
        );
    }
}

/// A worker's whole answer with these output ids.
fn answer(ids: &[u32]) -> String {
    let outcome = Outcome {
        n_prompt: 5,
        load_ms: Some(12.0),
        arrival_ns: (1..=ids.len() as u64).map(|i| i * 10_000_000).collect(),
        threads: Some(1),
        output_ids: ids.to_vec(),
        output_text: "text".into(),
        ..Outcome::default()
    };
    let lines = [
        Answer::Started {
            protocol: PROTOCOL_VERSION,
        },
        Answer::Loaded { load_ms: 12.0 },
        Answer::Done(Box::new(outcome)),
    ];
    lines
        .iter()
        .map(|l| serde_json::to_string(l).expect("json") + "\n")
        .collect()
}

fn read(path: &Path) -> String {
    fs::read_to_string(path).unwrap_or_else(|e| panic!("{}: {e}", path.display()))
}

#[test]
fn a_good_run_leaves_records_tables_and_a_report() {
    let lab = Lab::new(SCENARIO, &["good"]);
    let done = lab.run(&["trial.toml"]);
    done.expect(0, "1 case, 2 measured after 1 warm-up,");
    let run = lab.recorded();
    let phases: Vec<Phase> = run.samples.iter().map(|s| s.phase).collect();
    assert_eq!(phases, [Phase::Warmup, Phase::Measured, Phase::Measured]);
    assert_eq!(run.samples[0].output_sha256, tokens_sha256(&[1, 2, 3]));
    assert!(run.samples[0].usage.peak_rss_bytes.is_some());
    assert_eq!((run.failures.len(), lab.starts()), (0, 3));
    // Tokens 2 and 3 come 10 ms apart.
    for expect in ["100.00", "all agree", "llama-completion -m", "report.html"] {
        assert!(done.stdout.contains(expect), "{expect}:\n{}", done.stdout);
    }
    let folder = lab.folder();
    assert!(read(&folder.join("results.csv")).starts_with("schema_version,case,"));
    assert_eq!(read(&folder.join("tokens.csv")).lines().count(), 1 + 3 * 3);
    assert!(read(&folder.join("report.html")).contains("</html>"));
    assert!(run.manifest.binary.sha256.len() == 64 && run.manifest.models[0].sha256.len() == 64);
}

#[test]
fn a_failed_repetition_is_a_row_and_the_rest_goes_on() {
    let rows = [
        ("crash", FailureKind::Signal, "signal 11"),
        ("rubbish", FailureKind::Protocol, "found \"rubbish\""),
        ("error", FailureKind::Error, "no such kernel"),
        (
            "short",
            FailureKind::Protocol,
            "1 tokens where 3 were asked for",
        ),
        ("hang", FailureKind::Timeout, "no result within 1 s"),
    ];
    for (act, kind, message) in rows {
        let lab = Lab::new(SCENARIO, &["good", act, "good"]);
        let done = lab.run(&["trial.toml", "--set", "run.timeout_s=1"]);
        done.expect(1, message);
        let run = lab.recorded();
        assert_eq!((run.samples.len(), run.failures.len()), (2, 1), "{act}");
        let failure = &run.failures[0];
        assert_eq!(
            (failure.kind, failure.round, failure.phase),
            (kind, 0, Phase::Measured)
        );
        assert!(failure.message.contains(message), "{}", failure.message);
    }
}

#[test]
fn a_case_that_always_fails_is_given_up_and_shown() {
    let lab = Lab::new(SCENARIO, &["crash"]);
    let done = lab.run(&["trial.toml", "--set", "run.rounds=50"]);
    done.expect(1, "1 case had failures");
    assert_eq!((lab.starts(), lab.recorded().failures.len()), (2, 2));
    assert!(done.stdout.contains("unknown"), "{}", done.stdout);
}

#[test]
fn what_failed_once_can_be_made_good() {
    let lab = Lab::new(SCENARIO, &["good", "crash", "good"]);
    lab.run(&["trial.toml"]).expect(1, "1 case had failures");
    let folder = lab.folder();
    lab.run(&["--resume", folder.to_str().expect("utf-8")])
        .expect(0, "");
    let run = lab.recorded();
    assert_eq!((run.samples.len(), run.failures.len()), (3, 1));
}

#[test]
fn wrong_output_is_exit_code_6() {
    let lab = Lab::new(SCENARIO, &["good", "good", "wrong"]);
    let done = lab.run(&["trial.toml"]);
    done.expect(6, "but the first repetition gave");
    let run = lab.recorded();
    assert_eq!(
        (run.samples.len(), run.failures[0].kind),
        (3, FailureKind::Mismatch)
    );
    assert!(done.stdout.contains("WRONG"), "{}", done.stdout);

    let expected = |hash: &str| format!("{SCENARIO}[expect]\noutput_sha256 = \"{hash}\"\n");
    let lab = Lab::new(&expected(&tokens_sha256(&[1, 2, 3])), &["good"]);
    let done = lab.run(&["trial.toml"]);
    done.expect(0, "");
    assert!(done.stdout.contains("as expected"), "{}", done.stdout);
    let lab = Lab::new(&expected(&tokens_sha256(&[9])), &["good"]);
    lab.run(&["trial.toml"]).expect(6, "expected");
}

#[test]
fn a_run_goes_on_where_it_was_cut_off() {
    let lab = Lab::new(SCENARIO, &["good"]);
    lab.run(&["trial.toml"]).expect(0, "");
    let folder = lab.folder();
    let journal = folder.join("samples.jsonl");
    let text = read(&journal);
    // One whole line, and half of the next one.
    let first = text.find('\n').expect("a line") + 1;
    fs::write(&journal, &text[..first + 200]).expect("writes");
    assert_eq!(Run::read(&folder).expect("forgiven").samples.len(), 1);
    let shown = folder.to_str().expect("utf-8");
    lab.run(&["--resume", shown]).expect(0, "");
    let run = lab.recorded();
    assert_eq!(lab.starts(), 3 + 2);
    let rounds: Vec<(Phase, u32)> = run.samples.iter().map(|s| (s.phase, s.round)).collect();
    for slot in [
        (Phase::Warmup, 0),
        (Phase::Measured, 0),
        (Phase::Measured, 1),
    ] {
        assert!(rounds.contains(&slot), "{rounds:?}");
    }
    // Nothing is left to do now but to write what could not be written; a verdict was about the run as it was.
    let before = lab.starts();
    let (table, verdict) = (folder.join("results.csv"), folder.join("gate.json"));
    fs::remove_file(&table).expect("removes");
    fs::create_dir(&table).expect("in its way");
    fs::write(&verdict, "{}").expect("writes");
    lab.run(&["--resume", shown])
        .expect(1, "what was measured is kept: make room");
    assert!(!verdict.exists());
    fs::remove_dir(&table).expect("removes");
    let line = format!("run --resume {shown}");
    fs::create_dir(&table).expect("in its way again");
    lab.run(&["--resume", shown]).expect(1, &line);
    fs::remove_dir(&table).expect("removes");
    lab.run(&["--resume", shown]).expect(0, "");
    assert!(table.is_file());
    assert_eq!(lab.starts(), before);
}

#[test]
fn a_run_goes_on_only_with_what_it_began_with() {
    let lab = Lab::new(SCENARIO, &["good"]);
    lab.run(&["trial.toml"]).expect(0, "");
    let folder = lab.folder();
    let shown = folder.to_str().expect("utf-8");
    lab.run(&["--resume", shown, "--set", "run.rounds=9"])
        .expect(2, "--set cannot change a run");
    lab.run(&["trial.toml", "--resume", shown, "--set", "run.rounds=9"])
        .expect(2, "--set changed");
    fs::write(
        lab.path("trial.toml"),
        SCENARIO.replace("n_gen = 3", "n_gen = 4"),
    )
    .expect("writes");
    lab.run(&["trial.toml", "--resume", shown])
        .expect(2, "the scenario changed");
    fs::write(lab.path("model.gguf"), "another").expect("writes");
    lab.run(&["--resume", shown])
        .expect(2, "a model file changed");
    lab.run(&["--resume", "models"])
        .expect(2, "\"models\" is not a run folder");
}

#[test]
fn what_would_run_is_shown_and_not_run() {
    let swept =
        format!("{SCENARIO}[matrix]\nrun.n_gen = [3, 5]\nengine.isa = [\"auto\", \"scalar\"]\n");
    let lab = Lab::new(&swept, &["good"]);
    let list = lab.run(&["trial.toml", "--list"]);
    list.expect(0, "");
    for expect in [
        "run.n_gen=3",
        "run.n_gen=5",
        "engine.isa=auto",
        "engine.isa=scalar",
        "model.gguf",
    ] {
        assert!(list.stdout.contains(expect), "{expect}:\n{}", list.stdout);
    }
    let model = "a-model-with-a-name-that-is-rather-long-Q4_K_M.gguf";
    fs::copy(lab.path("model.gguf"), lab.path(model)).expect("copies");
    let set = format!("model.path={model}");
    let long = lab.run(&[
        "trial.toml",
        "--list",
        "--set",
        &set,
        "--set",
        "run.timeout_s=86400",
    ]);
    assert!(long.stdout.contains(model), "{}", long.stdout);
    let dry = lab.run(&["trial.toml", "--dry-run"]);
    dry.expect(0, "");
    let workers = dry
        .stdout
        .lines()
        .filter(|l| l.contains("| ./worker") && l.contains("\"n_gen\""));
    assert_eq!(workers.count(), 4, "{}", dry.stdout);
    assert_eq!(
        dry.stdout.matches("llama-completion -m").count(),
        4,
        "{}",
        dry.stdout
    );
    assert_eq!(lab.starts(), 0);
    assert!(!lab.path("results").exists());
}

#[test]
fn the_order_of_a_sweep_is_seeded_and_each_round_is_whole() {
    let swept = format!("{SCENARIO}[matrix]\nengine.batch = [1, 2, 3]\n");
    let lab = Lab::new(&swept, &["good"]);
    lab.run(&["trial.toml"]).expect(0, "3 cases, 6 measured");
    let run = lab.recorded();
    for round in run.samples.chunks(3) {
        let mut cases: Vec<u32> = round.iter().map(|s| s.case_index).collect();
        cases.sort_unstable();
        assert_eq!(cases, [0, 1, 2]);
    }
    assert_eq!(run.samples[0].swept.len(), 1);
    assert_eq!(
        read(&lab.folder().join("results.csv")).lines().count(),
        1 + 3
    );
}
