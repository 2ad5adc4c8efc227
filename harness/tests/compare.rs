//! Whole comparisons by the program, with a scripted worker and scripted programs in place of llama.cpp.
#![allow(clippy::disallowed_methods, reason = "tests start the program itself")]

mod done;

use done::Done;
use harness::compare::{self, TextCheck};
use harness::record::{FailureKind, Phase, Run};
use harness::runner::{Answer, Outcome, PROTOCOL_VERSION};
use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::PathBuf;
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
tokens = 5
[run]
rounds = 2
probe = false
warmup = 1
n_gen = 3
timeout_s = 1
[engine]
threads = 1
"#;

/// A program named `other` that reports a quarter of the engine's decode rate.
const OTHER: &str = r#"
[[reference]]
name = "other"
kind = "command"
command = ["./other", "{n_prompt}", "{n_gen}"]
decode_tok_s = { regex = "rate ([0-9.]+)" }
"#;

/// Answers as llama-bench does.
const BENCH: &str = r#"case "$*" in
    *--version*) echo 'version: 7 (abc)'; exit ;;
    *--help*) echo ' -fa <on|off|auto>  --repack <0|1>'; exit ;;
    *'-n 0'*) echo '{"n_prompt": 5, "n_gen": 0, "n_threads": 1, "samples_ns": [100000000]}' ;;
    *) echo '{"n_prompt": 0, "n_gen": 3, "n_threads": 1, "samples_ns": [120000000]}' ;;
esac"#;

/// A folder with a scenario, a model, a worker that takes 10 ms a token, and whatever programs a test adds.
struct Lab {
    dir: TempDir,
}

impl Lab {
    fn new(scenario: &str) -> Lab {
        let lab = Lab {
            dir: tempfile::tempdir().expect("folder"),
        };
        fs::write(lab.path("trial.toml"), scenario).expect("writes");
        fs::write(lab.path("model.gguf"), "not read by this worker").expect("writes");
        let outcome = Outcome {
            n_prompt: 5,
            arrival_ns: vec![10_000_000, 20_000_000, 30_000_000],
            threads: Some(1),
            output_ids: vec![1, 2, 3],
            output_text: "a text".into(),
            ..Outcome::default()
        };
        let started = Answer::Started {
            protocol: PROTOCOL_VERSION,
        };
        let answers = [started, Answer::Done(Box::new(outcome))];
        let answers = answers.map(|a| serde_json::to_string(&a).expect("json") + "\n");
        fs::write(lab.path("answer"), answers.concat()).expect("writes");
        lab.program("worker", "cat > job.json; cat answer");
        lab
    }

    /// A program that counts its starts in `NAME.starts`.
    fn program(&self, name: &str, script: &str) {
        let path = self.path(name);
        fs::create_dir_all(path.parent().expect("a folder")).expect("folder");
        let dir = self.dir.path().display();
        let text = format!("#!/bin/sh\ncd '{dir}'; echo $$ >> {name}.starts\n{script}\n");
        fs::write(&path, text).expect("writes");
        fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).expect("executable");
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    fn starts(&self, name: &str) -> usize {
        let text = fs::read_to_string(self.path(&format!("{name}.starts")));
        text.map_or(0, |text| text.lines().count())
    }

    fn command(&self, args: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_harness"));
        command.arg("compare").args(args);
        command.args(["--worker", "./worker", "--models-dir", "models"]);
        command.current_dir(self.dir.path()).stdin(Stdio::null());
        command
            .env_remove("LLAMA_CPP_DIR")
            .env("XDG_CACHE_HOME", self.path("cache"));
        command
    }

    fn compare(&self, args: &[&str]) -> Done {
        self.command(args).output().expect("starts").into()
    }

    /// The only run folder.
    fn folder(&self) -> PathBuf {
        let entries = fs::read_dir(self.path("results")).expect("results");
        let folders = entries.map(|e| e.expect("entry").path());
        let mut runs = folders.filter(|path| path.join("manifest.json").exists());
        let folder = runs.next().expect("a run folder");
        assert_eq!(runs.next(), None);
        folder
    }

    fn recorded(&self) -> Run {
        Run::read(&self.folder()).expect("a valid run folder")
    }
}

impl Done {
    /// The exit code, and what stands in what it wrote.
    #[track_caller]
    fn expect(&self, code: i32, texts: &[&str]) {
        let shown = self.ends(code);
        for text in texts {
            // Sentences are wrapped.
            let squeezed = |text: &str| text.split_whitespace().collect::<Vec<_>>().join(" ");
            let [out, err, text] = [self.stdout.as_str(), self.stderr.as_str(), text].map(squeezed);
            let written = out.contains(&text) || err.contains(&text);
            assert!(written, "no \"{text}\" in\n{shown}");
        }
    }
}

#[test]
fn llama_cpp_is_four_rows_and_a_text() {
    let text = SCENARIO.replace("tokens = 5", "text = \"Hello\"");
    let lab = Lab::new(&text);
    lab.program("bin/llama-bench", BENCH);
    let perf = "common_perf_print: prompt eval time = 10.00 ms / 5 tokens";
    let script = format!("case \"$*\" in *--help*) exit;; esac; echo 'a tent'; echo '{perf}' >&2");
    lab.program("bin/llama-completion", &script);
    // The model is none, so its prompt cannot be counted, and nothing can be compared.
    let done = lab.compare(&["trial.toml", "--llama-cpp-dir", "bin", "--rounds", "2"]);
    done.expect(1, &["the prompt cannot be counted", "nothing was compared"]);
    fs::remove_dir_all(lab.path("results")).expect("removed");

    fs::write(lab.path("trial.toml"), SCENARIO).expect("writes");
    let args = ["trial.toml", "--llama-cpp-dir", "bin", "--rounds", "12"];
    let done = lab.compare(&args);
    done.expect(
        0,
        &[
            "llama.cpp b7 (repack on, flash attention on)",
            "(repack off, flash attention off)",
            "decode: the engine is faster than",
            "4.000 times its rate",
            "random tokens (llama-bench)",
        ],
    );
    let wide = done.stdout.lines().find(|line| line.chars().count() > 110);
    assert_eq!(wide, None);
    let run = lab.recorded();
    let found = compare::compare(&run).expect("a comparison");
    let decode = &found.cases[0].phases[0];
    assert_eq!((decode.others.len(), decode.verdict), (4, "faster"));
    assert_eq!(decode.rounds.len(), 12);
    // Each of the two calls asks for version and options. Every repetition is two starts, in a warm-up round and, forwards
    // and back, in 12 more.
    let asked = 2 * 2;
    assert_eq!(lab.starts("bin/llama-bench"), asked + 2 * 4 * (1 + 2 * 12));
    let files = [
        "comparison.json",
        "comparison.csv",
        "report.html",
        "results.csv",
    ];
    assert!(files.iter().all(|file| lab.folder().join(file).exists()));
}

#[test]
fn a_variant_that_the_scenario_names_is_planned_once() {
    let own = |name: &str, more: &str| {
        format!(
            "{SCENARIO}[[reference]]\nname = \"{name}\"\nkind = \"llama-bench\"\ndir = \"bin\"\nrepack = true\nflash_attn = \"on\"\n{more}"
        )
    };
    let planned = |text: &str| {
        let lab = Lab::new(text);
        lab.program("bin/llama-bench", BENCH);
        lab.compare(&["trial.toml", "--llama-cpp-dir", "bin", "--dry-run"])
    };
    let titles = |text: &str| {
        let done = planned(text);
        done.expect(0, &[]);
        let lines = done.stdout.lines().filter(|line| line.contains(" b7 ("));
        lines.map(str::to_owned).collect::<Vec<_>>()
    };
    let found = titles(&own("mine", ""));
    let [.., last] = &found[..] else {
        panic!("nothing is planned")
    };
    assert_eq!(last, "mine: llama.cpp b7 (repack on, flash attention on)");
    assert_eq!(found.len(), 4, "{found:?}");
    // On another number of threads it is another way.
    assert_eq!(titles(&own("mine", "threads = 1")).len(), 5);
    planned(&own("llama.cpp repack on, fa off", "")).expect(2, &["is the name of a [[reference]]"]);
}

#[test]
fn a_text_that_differs_is_shown_and_no_error() {
    let lab = Lab::new(&format!("{SCENARIO}{OTHER}"));
    lab.program("other", "echo rate 25");
    lab.compare(&["trial.toml"])
        .expect(0, &["12 rounds instead of the scenario's 2"]);
    let mut run = lab.recorded();
    let plan = run.manifest.comparison.as_mut().expect("a plan");
    plan.texts = vec![plan.references[0].clone()];
    plan.texts[0].runner = "writer".into();
    let mut text = run.samples[0].clone();
    text.runner = "writer".into();
    text.output_text = "a tent\n".into();
    run.samples.push(text);
    let found = compare::compare(&run)
        .expect("a comparison")
        .cases
        .remove(0);
    let differs = found.text.expect("a check");
    assert!(
        matches!(differs, TextCheck::Differs { at_char: 4, .. }),
        "{differs:?}"
    );
}

#[test]
fn what_hangs_or_prints_rubbish_is_a_row_with_its_error() {
    let rows = [
        ("sleep 600", FailureKind::Timeout, "not done within 1 s"),
        ("echo rubbish", FailureKind::Protocol, "found \"rubbish\""),
        ("kill -SEGV $$", FailureKind::Signal, "signal 11"),
        (
            "echo no such flag >&2; exit 3",
            FailureKind::Error,
            "no such flag",
        ),
        (
            "printf 'bad \\033[2J\\000\\377' >&2; exit 3",
            FailureKind::Error,
            "bad \\u{1b}[2J\\u{0}\\u{fffd}",
        ),
    ];
    for (script, kind, message) in rows {
        let good = OTHER
            .replace("\"other\"", "\"good\"")
            .replace("./other", "./good");
        let lab = Lab::new(&format!("{SCENARIO}{OTHER}{good}"));
        lab.program("other", script);
        lab.program("good", "echo rate 25");
        let done = lab.compare(&["trial.toml", "--rounds", "3"]);
        assert!(!done.stdout.contains('\u{1b}') && !done.stderr.contains('\u{1b}'));
        // The other row and the engine go on.
        done.expect(
            0,
            &[
                message,
                "good",
                "decode: inconclusive between the engine and good, needs about 12",
            ],
        );
        let run = lab.recorded();
        // Given up after two failures in a row.
        assert_eq!(
            (run.failures.len(), lab.starts("other")),
            (2, 2),
            "{script}"
        );
        assert!(
            run.failures
                .iter()
                .all(|f| f.kind == kind && f.runner == "other")
        );
        let counted = run.samples.iter().filter(|s| s.is_measured());
        assert_eq!(counted.count(), 2 * 2 * 3);
        assert!(compare::compare(&run).is_some());
    }
}

#[test]
fn a_comparison_goes_on_where_it_was_killed() {
    let lab = Lab::new(&format!("{SCENARIO}{OTHER}"));
    // Hangs at its sixth start, once.
    let script = "[ \"$(wc -l < other.starts)\" -eq 6 ] && exec sleep 600; echo rate 25";
    lab.program("other", script);
    let long = "run.timeout_s=600";
    let mut command = lab.command(&["trial.toml", "--rounds", "4", "--set", long]);
    command.stdout(Stdio::null()).stderr(Stdio::null());
    let mut running = command.spawn().expect("starts");
    for _ in 0..1000 {
        if lab.starts("other") == 6 {
            break;
        }
        std::thread::sleep(Duration::from_millis(20));
    }
    assert_eq!(lab.starts("other"), 6);
    running.kill().expect("killed");
    running.wait().expect("ends");
    let before = lab.recorded().samples.len();
    assert!(before >= 9, "{before}");
    let folder = lab.folder();
    let shown = folder.to_str().expect("utf-8");
    lab.compare(&["--resume", shown])
        .expect(0, &["decode: inconclusive"]);
    let run = lab.recorded();
    assert_eq!(run.samples.len(), 2 + 4 * 4);
    let found = compare::compare(&run).expect("a comparison");
    assert_eq!(found.cases[0].phases[0].rounds.len(), 4);
    // Nothing is done twice, and nothing by another program.
    assert_eq!(lab.starts("other"), 6 + 1 + (1 + 2 * 4 - 6));
    let slots = run.samples.iter().map(|s| (s.phase, s.round, s.position));
    let slots: std::collections::HashSet<(Phase, u32, u32)> = slots.collect();
    assert_eq!(slots.len(), run.samples.len());
    lab.program("other", "echo rate 90");
    lab.compare(&["--resume", shown])
        .expect(2, &["changed since the comparison began"]);
}

#[test]
fn the_engine_is_compared_with_itself() {
    let lab = Lab::new(SCENARIO);
    // A script has no clock that could be told from the time in which it stands still.
    let whole = ["--set", "run.slice_ms=0"];
    lab.compare(&[&["trial.toml", "--itself", "--strict"], &whole[..]].concat())
        .expect(
            0,
            &["decode: no difference between the engine again and the engine"],
        );
    let run = lab.recorded();
    assert_eq!(run.samples.len(), 2 + 4 * 12);
    let job = fs::read_to_string(lab.path("job.json")).expect("a job");
    assert!(!job.contains("slow_down"), "{job}");

    let lab = Lab::new(SCENARIO);
    let slow = [
        "trial.toml",
        "--itself",
        "--slow-down",
        "5",
        "--rounds",
        "2",
        whole[0],
        whole[1],
    ];
    lab.compare(&slow).expect(
        0,
        &["the engine slowed by 5 %", "the same, but slowed by 5 %"],
    );
    lab.program("worker", "cat >> jobs; cat answer");
    fs::remove_dir_all(lab.path("results")).expect("removed");
    lab.compare(&slow).expect(0, &[]);
    let jobs = fs::read_to_string(lab.path("jobs")).expect("jobs");
    let slowed = jobs
        .lines()
        .filter(|job| job.contains("\"slow_down_percent\":5.0"));
    assert_eq!(slowed.count(), 1 + 2 * 2);
}

#[test]
fn the_second_engine_may_be_another_build_with_other_options() {
    let lab = Lab::new(SCENARIO);
    lab.program(
        "other-worker",
        "cat >> other-jobs; sed s/30000000/40000000/ answer",
    );
    let whole = ["--itself", "--rounds", "2", "--set", "run.slice_ms=0"];
    let other = [
        "--other-build",
        "other-worker",
        "--other-set",
        "engine.kv=q8_0",
    ];
    lab.compare(&[&["trial.toml"], &whole[..], &other].concat())
        .expect(0, &["with engine.kv=q8_0", "/other-worker"]);
    let jobs = fs::read_to_string(lab.path("other-jobs")).expect("jobs");
    assert_eq!(jobs.matches("\"kv\":\"q8_0\"").count(), 1 + 2 * 2);
    assert!(
        !fs::read_to_string(lab.path("job.json"))
            .expect("a job")
            .contains("q8_0")
    );
    let run = lab.recorded();
    let comparison = compare::compare(&run).expect("a comparison");
    let ratio = comparison.cases[0].phases[0]
        .judged
        .expect("judged")
        .change
        .ratio;
    assert!((ratio - 2.0 / 3.0).abs() < 1e-6, "{ratio}");
    assert!(
        !comparison.cases[0].phases[0]
            .subject
            .title
            .contains("lossy")
    );
    for (wrong, words) in [
        (["--other-set", "run.rounds=3"], "no option of the engine"),
        (["--other-set", "engine.kw=1"], "kw"),
        (["--other-build", "nowhere"], "cannot read"),
        (
            ["--other-build", "/bin/true"],
            "does not answer as a worker",
        ),
        (
            ["--other-build", "model.gguf"],
            "does not answer as a worker",
        ),
    ] {
        lab.compare(&[&["trial.toml", "--itself"], &wrong[..]].concat())
            .expect(2, &[words]);
    }
}

#[test]
fn a_second_engine_that_leaves_something_out_is_marked() {
    let lab = Lab::new(SCENARIO);
    let sparse = [
        "--other-set",
        "engine.sparsity.method=teal",
        "--other-set",
        "engine.sparsity.threshold=0.5",
    ];
    let whole = ["--itself", "--rounds", "2", "--set", "run.slice_ms=0"];
    lab.compare(&[&["trial.toml"], &whole[..], &sparse].concat())
        .expect(0, &["threshold=0.5 (lossy)", "the same, but with"]);
    let run = lab.recorded();
    let comparison = compare::compare(&run).expect("a comparison");
    let phase = &comparison.cases[0].phases[0];
    assert!(phase.subject.title.ends_with(" (lossy)"), "{phase:?}");
    assert_eq!(phase.others[0].title, "the engine");
    let report = fs::read_to_string(lab.folder().join("report.md")).expect("a report");
    assert!(report.contains("(lossy) · engine again"), "{report}");
    assert!(!report.contains("(lossy) · engine |"), "{report}");

    // The other way round the first one is.
    let lab = Lab::new(&format!(
        "{SCENARIO}[engine.sparsity]\nmethod = \"teal\"\nthreshold = 0.5\n"
    ));
    let dense = ["--other-set", "engine.sparsity.method=none"];
    lab.compare(&[&["trial.toml"], &whole[..], &dense].concat())
        .expect(0, &["the engine (lossy)"]);
    let comparison = compare::compare(&lab.recorded()).expect("a comparison");
    let phase = &comparison.cases[0].phases[0];
    assert!(!phase.subject.title.contains("lossy"), "{phase:?}");
}

#[test]
fn a_slower_engine_counts_where_that_was_asked_for() {
    let lab = Lab::new(&format!("{SCENARIO}{OTHER}"));
    lab.program("other", "echo rate 125");
    let done = lab.compare(&["trial.toml", "--strict"]);
    done.expect(
        3,
        &["decode: the engine is slower than other: 0.800 times its rate"],
    );
    let folder = lab.folder();
    let shown = folder.to_str().expect("utf-8");
    // Without --strict the same comparison is a comparison.
    lab.compare(&["--resume", shown])
        .expect(0, &["is slower than other"]);
    fs::remove_dir_all(lab.path("results")).expect("removed");
    let few = ["trial.toml", "--strict", "--rounds", "2"];
    lab.compare(&few).expect(4, &["needs about 12 rounds"]);
}

#[test]
fn what_is_missing_or_mistaken_is_said() {
    let lab = Lab::new(SCENARIO);
    lab.compare(&["trial.toml"])
        .expect(2, &["name what to compare with: --llama-cpp"]);
    let mut nowhere = lab.command(&["trial.toml", "--llama-cpp"]);
    nowhere.env("PATH", lab.path("bin"));
    Done::from(nowhere.output().expect("starts")).expect(7, &["harness reference install"]);
    assert!(!lab.path("results").exists() && lab.starts("worker") == 0);
    let missing = lab.compare(&["trial.toml", "--llama-cpp-dir", "nowhere"]);
    missing.expect(7, &["no llama-bench in \"nowhere\""]);
    lab.compare(&["trial.toml", "--itself", "--slow-down", "-3"])
        .expect(2, &[]);
    lab.compare(&["trial.toml", "--itself", "--llama-cpp"])
        .expect(2, &[]);

    lab.program("bin/llama-bench", BENCH);
    let dry = lab.compare(&["trial.toml", "--llama-cpp-dir", "bin", "--dry-run"]);
    dry.expect(
        0,
        &["-p 5 -n 0 -d 0", "-p 0 -n 3 -d 5", "-fa off --repack 0"],
    );
    assert!(!lab.path("results").exists());
    lab.compare(&["trial.toml", "--itself", "--list"])
        .expect(0, &["5 random tokens"]);

    let run = Command::new(env!("CARGO_BIN_EXE_harness"))
        .args(["run", "trial.toml", "--worker", "./worker"])
        .current_dir(lab.dir.path())
        .env("XDG_CACHE_HOME", lab.path("cache"))
        .output();
    Done::from(run.expect("starts")).expect(0, &[]);
    let folder = lab.folder();
    let shown = folder.to_str().expect("utf-8");
    lab.compare(&["--resume", shown])
        .expect(2, &["this run is no comparison"]);
}

#[test]
fn a_prompt_file_holds_the_text() {
    let reference = OTHER.replace("\"{n_gen}\"", "\"{prompt_file}\"");
    let text = SCENARIO.replace("tokens = 5", "text = \"Hello\"");
    let lab = Lab::new(&format!("{text}{reference}"));
    lab.program("other", "cat \"$2\"; echo rate 25");
    // The model is none, so the prompt cannot be counted; the command is refused, not run.
    let done = lab.compare(&["trial.toml", "--rounds", "2"]);
    done.expect(1, &["the prompt cannot be counted"]);
    assert_eq!(lab.starts("other"), 0);
    let mut prompts = fs::read_dir(lab.path("results/prompts")).expect("prompts");
    let prompt = prompts.next().expect("a file").expect("entry").path();
    assert_eq!(fs::read_to_string(prompt).expect("reads"), "Hello");
}
