//! Whole runs of the program, with a scripted worker in place of the engine: nothing is waited for that need not be.
#![allow(clippy::disallowed_methods, reason = "tests start the program itself")]

use harness::record::{FailureKind, Phase, Run, tokens_sha256};
use harness::runner::{Answer, Outcome, PROTOCOL_VERSION};
use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::os::unix::process::ExitStatusExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
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

/// What the program left behind.
struct Done {
    code: Option<i32>,
    stdout: String,
    stderr: String,
}

impl From<Output> for Done {
    fn from(output: Output) -> Done {
        Done {
            code: output.status.code(),
            stdout: String::from_utf8_lossy(&output.stdout).into_owned(),
            stderr: String::from_utf8_lossy(&output.stderr).into_owned(),
        }
    }
}

impl Done {
    #[track_caller]
    fn expect(&self, code: i32, in_stderr: &str) {
        let shown = format!("--- stdout\n{}\n--- stderr\n{}", self.stdout, self.stderr);
        assert_eq!(self.code, Some(code), "{shown}");
        assert!(
            self.stderr.contains(in_stderr),
            "no \"{in_stderr}\" in\n{shown}"
        );
        assert!(!self.stderr.contains("panicked"), "{shown}");
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
fn an_error_is_one_line_even_where_a_backtrace_is_asked_for() {
    let lab = Lab::new(&SCENARIO.replace("model.gguf", "none.gguf"), &["good"]);
    let mut command = lab.command(&["trial.toml"]);
    let output = command.env("RUST_BACKTRACE", "1").output().expect("starts");
    let done = Done::from(output);
    done.expect(1, "does not exist");
    assert_eq!(done.stderr.lines().count(), 1, "{}", done.stderr);
}

#[test]
fn what_the_model_cannot_do_is_refused_before_anything_is_written() {
    let lab = Lab::new(SCENARIO, &["good"]);
    let tiny = engine::synth::Shape::load("tiny").expect("a shape");
    let model = lab.path("model.gguf");
    fs::remove_file(&model).expect("removes");
    engine::synth::synth(&tiny, "Q4_0", 1, &model, &mut |_, _| Ok(())).expect("a model");
    let drafts = "[engine.speculation]\nmethod = ";
    for (text, message) in [
        (
            format!("{drafts}\"layer-skip\"\nskip_layers = [99]\n"),
            "case \"trial\": engine.speculation.skip_layers: layer 99 cannot be skipped",
        ),
        (
            format!("{drafts}\"draft-model\"\ndraft_model = \"no.gguf\"\n"),
            "engine.speculation.draft_model: cannot open",
        ),
        (
            format!("{drafts}\"qcsd\"\ndraft_quant = \"top\"\n"),
            "engine.speculation.draft_quant: no matrix",
        ),
        (
            "[engine.sparsity]\nmethod = \"teal\"\nthresholds = \"no.toml\"\n".to_owned(),
            "engine.sparsity.thresholds: cannot read",
        ),
        (
            "quant = \"mixed\"\nquant_plan = \"no.toml\"\n".to_owned(),
            "engine.quant_plan: cannot read",
        ),
        ("ctx = 3\n".to_owned(), "tokens do not fit the context of 3"),
    ] {
        fs::write(lab.path("trial.toml"), format!("{SCENARIO}{text}")).expect("writes");
        for dry in [&[][..], &["--dry-run"]] {
            let mut command = Command::new(env!("CARGO_BIN_EXE_harness"));
            command
                .args(["run", "trial.toml", "--models-dir", "models"])
                .args(dry);
            command
                .current_dir(lab.dir.path())
                .env("XDG_CACHE_HOME", lab.path("cache"));
            Done::from(command.output().expect("starts")).expect(2, message);
        }
    }
    assert!(!lab.path("results").exists());
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

/// Waits until `condition` holds; a run that never gets there fails the test.
fn wait_for(what: &str, condition: impl Fn() -> bool) {
    for _ in 0..1000 {
        if condition() {
            return;
        }
        std::thread::sleep(Duration::from_millis(20));
    }
    panic!("{what} did not happen");
}

/// Whether a process is there and no zombie.
fn alive(pid: &str) -> bool {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat"));
    stat.is_ok_and(|s| !s.contains(") Z ") && !s.contains(") X "))
}

fn signal(pid: u32, name: &str) {
    let sent = Command::new("kill").args([name, &pid.to_string()]).status();
    assert!(sent.expect("kill").success());
}

#[test]
fn a_signal_stops_the_child_and_keeps_what_was_measured() {
    for name in ["-INT", "-TERM"] {
        let lab = Lab::new(SCENARIO, &["good", "good", "hang", "good"]);
        let mut command = lab.command(&["trial.toml"]);
        command.stdout(Stdio::piped()).stderr(Stdio::piped());
        let running = command.spawn().expect("starts");
        wait_for("the third start", || lab.starts() == 3);
        signal(running.id(), name);
        let done = Done::from(running.wait_with_output().expect("ends"));
        done.expect(130, "harness run --resume");
        assert_eq!(lab.recorded().samples.len(), 2);
        let pids = read(&lab.path("starts"));
        assert!(
            pids.lines().all(|pid| !alive(pid)),
            "a worker is left behind"
        );
        lab.run(&["--resume", lab.folder().to_str().expect("utf-8")])
            .expect(0, "");
        assert_eq!(lab.recorded().samples.len(), 3);
    }
}

#[test]
fn two_runs_never_write_one_folder() {
    let lab = Lab::new(SCENARIO, &["good", "hang"]);
    let mut command = lab.command(&["trial.toml"]);
    command.stdout(Stdio::null()).stderr(Stdio::null());
    let mut running = command.spawn().expect("starts");
    wait_for("the second start", || lab.starts() == 2);
    let folder = lab.folder();
    let done = lab.run(&["--resume", folder.to_str().expect("utf-8"), "--beside"]);
    signal(running.id(), "-INT");
    running.wait().expect("ends");
    done.expect(1, "another run is writing");
}

#[test]
fn two_measurements_at_once_notice_each_other() {
    let lab = Lab::new(SCENARIO, &["hang"]);
    let mut command = lab.command(&["trial.toml"]);
    command.stdout(Stdio::null()).stderr(Stdio::null());
    let mut running = command.spawn().expect("starts");
    wait_for("a start", || lab.starts() == 1);
    let first = lab.folder();

    let other = Lab::new(SCENARIO, &["good"]);
    let command = |more: &[&str]| {
        let mut command = other.command(&[&["trial.toml"], more].concat());
        command.env("XDG_CACHE_HOME", lab.path("cache"));
        command.stdout(Stdio::piped()).stderr(Stdio::piped());
        command
    };
    let run = |more: &[&str]| Done::from(command(more).output().expect("starts"));
    let given_up = run(&[]);
    given_up.expect(
        5,
        &format!("process {}, harness run trial.toml", running.id()),
    );
    given_up.expect(5, &format!("writing to \"{}\"", first.display()));
    assert!(!other.path("results").exists());
    let probe = Command::new(env!("CARGO_BIN_EXE_harness"))
        .args(["probe", "--quick"])
        .current_dir(other.dir.path())
        .env("XDG_CACHE_HOME", lab.path("cache"))
        .output();
    Done::from(probe.expect("starts")).expect(5, "another measurement is going on");

    run(&["--beside"]).expect(0, "");
    let marked = other.recorded().manifest.host;
    let mut findings = marked.warnings().filter(|f| f.topic == "other measurement");
    let said = &findings.next().expect("recorded").found;
    assert!(
        said.contains(&format!("process {}", running.id())),
        "{said}"
    );
    fs::remove_dir_all(other.path("results")).expect("removed");

    let waiting = command(&["--wait"]).spawn().expect("starts");
    std::thread::sleep(Duration::from_millis(500));
    assert!(!other.path("results").exists());
    // The kernel gives the lock back, however its holder ends.
    signal(running.id(), "-KILL");
    running.wait().expect("ends");
    let done = Done::from(waiting.wait_with_output().expect("ends"));
    done.expect(0, "waiting for another measurement to end: process");
    assert_eq!(
        other
            .recorded()
            .manifest
            .host
            .warnings()
            .filter(|f| f.topic == "other measurement")
            .count(),
        0
    );
}

#[test]
fn a_signal_at_any_moment_is_exit_code_130() {
    for delay_ms in [0, 5, 10, 15, 20, 30, 50, 100, 200, 400] {
        let lab = Lab::new(SCENARIO, &["hang"]);
        let mut command = lab.command(&["trial.toml"]);
        command.stdout(Stdio::piped()).stderr(Stdio::piped());
        let running = command.spawn().expect("starts");
        std::thread::sleep(Duration::from_millis(delay_ms));
        signal(running.id(), "-INT");
        let output = running.wait_with_output().expect("ends");
        let status = output.status;
        // Before the program has begun, the signal itself ends it, which shells call 130.
        let ended = status.code() == Some(130) || status.signal() == Some(2);
        assert!(
            ended,
            "after {delay_ms} ms: {status}: {}",
            Done::from(output).stderr
        );
    }
}

#[test]
fn what_the_engine_cannot_do_is_refused_before_anything_is_written() {
    let rows = [
        (
            "engine.threads=100000",
            "case \"trial\": engine.threads: 100000 threads asked for",
        ),
        (
            "engine.batch=0",
            "\"engine.batch\": 0 is not within 1 to 4096",
        ),
        (
            "engine.tail_percent=300",
            "\"engine.tail_percent\": 300 is not within 0 to 100",
        ),
        (
            "engine.affinity=[9999]",
            "engine.affinity: CPU 9999 is not among those this process may use",
        ),
        ("engine.isa=avx1024", "valid: auto, scalar, avx2, avx512"),
        (
            "sampler.temp=-1",
            "\"sampler.temp\": expected a number from 0 on, found -1",
        ),
    ];
    let lab = Lab::new(SCENARIO, &["good"]);
    for (set, message) in rows {
        lab.run(&["trial.toml", "--set", set]).expect(2, message);
        lab.run(&["trial.toml", "--dry-run", "--set", set])
            .expect(2, message);
    }
    let available = engine::simd::available();
    let lacking = [engine::options::Isa::Avx2, engine::options::Isa::Avx512];
    for isa in lacking.into_iter().filter(|isa| !available.contains(isa)) {
        let done = lab.run(&["trial.toml", "--set", &format!("engine.isa={isa}")]);
        done.expect(
            2,
            &format!("engine.isa: this CPU cannot run \"{isa}\": choose one of"),
        );
    }
    // A value of a sweep is named with its case.
    let swept = format!("{SCENARIO}[matrix]\nengine.threads = [1, 100000]\n");
    fs::write(lab.path("trial.toml"), swept).expect("writes");
    lab.run(&["trial.toml"])
        .expect(2, "case \"engine.threads=100000\"");
    assert!(!lab.path("results").exists() && lab.starts() == 0);
}

#[test]
fn a_full_disk_loses_nothing_that_was_measured() {
    let lab = Lab::new(SCENARIO, &["good"]);
    // Files may not grow beyond 64 blocks, and writing more is an error instead of a signal.
    let script = r#"trap '' XFSZ; ulimit -f 64; exec "$@""#;
    let mut command = Command::new("sh");
    command.args([
        "-c",
        script,
        "sh",
        env!("CARGO_BIN_EXE_harness"),
        "run",
        "trial.toml",
    ]);
    command.args([
        "--worker",
        "./worker",
        "--models-dir",
        "models",
        "--set",
        "run.rounds=200",
    ]);
    let output = command
        .current_dir(lab.dir.path())
        .env("XDG_CACHE_HOME", lab.path("cache"))
        .output()
        .expect("starts");
    Done::from(output).expect(1, "what was measured before is kept");
    let run = lab.recorded();
    assert!(
        run.samples.len() > 3 && run.samples.len() == lab.starts() - 1,
        "{}",
        run.samples.len()
    );
    let done = lab.run(&["--resume", lab.folder().to_str().expect("utf-8")]);
    done.expect(0, "");
    assert_eq!(lab.recorded().samples.len(), 201);
}

#[test]
fn a_place_that_cannot_be_written_is_named() {
    let lab = Lab::new(SCENARIO, &["good"]);
    let done = lab.run(&["trial.toml", "--results-dir", "model.gguf"]);
    done.expect(1, "cannot write \"model.gguf\"");
    assert_eq!(lab.starts(), 0);
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
fn what_the_user_gave_wrong_is_exit_code_2() {
    let lab = Lab::new(&SCENARIO.replace("n_gen", "n_gne"), &["good"]);
    lab.run(&["trial.toml"])
        .expect(2, "did you mean \"n_gen\"?");
    lab.run(&["none.toml"])
        .expect(2, "cannot open \"none.toml\"");
    lab.run(&[]).expect(2, "Usage");
    lab.run(&["trial.toml", "--list", "--dry-run"])
        .expect(2, "cannot be used with");
    let lab = Lab::new(&SCENARIO.replace("model.gguf", "models"), &["good"]);
    lab.run(&["trial.toml"]).expect(1, "does not exist");
    fs::create_dir(lab.path("models")).expect("folder");
    lab.run(&["trial.toml"])
        .expect(1, "is a folder, expected a GGUF file");
    fs::write(
        lab.path("trial.toml"),
        SCENARIO.replace("model.gguf", "/dev/zero"),
    )
    .expect("writes");
    lab.run(&["trial.toml"])
        .expect(1, "\"/dev/zero\" is a device, expected a GGUF file");
    fs::write(
        lab.path("trial.toml"),
        SCENARIO.replace("model.gguf", "pipe"),
    )
    .expect("writes");
    let made = Command::new("mkfifo").arg(lab.path("pipe")).status();
    assert!(made.expect("mkfifo").success());
    lab.run(&["trial.toml"])
        .expect(1, "is a named pipe, expected a GGUF file");
    assert_eq!(lab.starts(), 0);
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
