//! Quality at the end of a run: with the real worker and a tiny model, and with workers that fail.
#![allow(clippy::disallowed_methods, reason = "tests start the program itself")]

use harness::record::{Quality, QualityRecord, Run};
use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use tempfile::TempDir;

const SCENARIO: &str = r#"
[scenario]
name = "trial"
description = "a trial"
[model.synth]
shape = "tiny"
quant = "Q8_0"
[prompt]
tokens = 6
[run]
rounds = 1
warmup = 0
probe = false
n_gen = 4
timeout_s = 600
[engine]
oversubscribe = true
[quality]
corpus = "text.md"
ctx = 16
windows = 4
[matrix]
engine.threads = [1, 2]
engine.quant = ["native", "Q4_0"]
"#;

/// A folder with a scenario and a text.
struct Lab {
    dir: TempDir,
}

impl Lab {
    fn new(scenario: &str) -> Lab {
        let lab = Lab {
            dir: tempfile::tempdir().expect("folder"),
        };
        lab.write("trial.toml", scenario);
        let text: Vec<String> = (0..60).map(|i| format!("{i} herons, one pond;")).collect();
        lab.write("text.md", &text.join(" "));
        lab
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    fn write(&self, name: &str, text: &str) {
        fs::write(self.path(name), text).expect("writes");
    }

    /// A worker that does as the real one does, but for quality, which it does by a script.
    fn worker(&self, script: &str) {
        let real = env!("CARGO_BIN_EXE_harness");
        let text = format!(
            "#!/bin/sh\nif [ \"$1\" = --quality ]; then {script}; else exec '{real}' worker; fi\n"
        );
        self.write("worker", &text);
        let executable = fs::Permissions::from_mode(0o755);
        fs::set_permissions(self.path("worker"), executable).expect("executable");
    }

    fn command(&self, args: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_harness"));
        command.arg("run").args(args);
        command.args(["--models-dir", "models"]);
        command.current_dir(self.dir.path());
        command.env("XDG_CACHE_HOME", self.dir.path());
        command.stdin(Stdio::null());
        command
    }

    #[track_caller]
    fn run(&self, args: &[&str], code: i32) -> Output {
        let output = self.command(args).output().expect("starts");
        let stderr = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(code), "{stderr}");
        output
    }

    /// The last run folder.
    fn folder(&self) -> PathBuf {
        let entries = fs::read_dir(self.path("results")).expect("results");
        let last = entries.map(|e| e.expect("entry").path()).max();
        last.expect("a run folder")
    }

    fn quality(&self) -> Vec<QualityRecord> {
        Run::read(&self.folder()).expect("a run folder").quality
    }

    /// Files with what is known about quality.
    fn known(&self, extension: &str) -> usize {
        let entries = fs::read_dir(self.path("models/quality")).expect("a folder");
        let paths = entries.map(|e| e.expect("entry").path());
        paths
            .filter(|path| path.extension().is_some_and(|e| e == extension))
            .count()
    }
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

#[test]
fn each_set_of_options_that_bears_on_predictions_is_measured_once() {
    let lab = Lab::new(SCENARIO);
    let output = lab.run(&["trial.toml"], 0);
    let first = lab.quality();
    assert_eq!(first.len(), 4);
    let klds: Vec<f64> = first
        .iter()
        .map(|r| r.figures().expect("figures").kld_mean)
        .collect();
    assert!(klds[0] < klds[1], "{klds:?}");
    assert_eq!(klds[..2], klds[2..], "threads bear on nothing");
    let cached: Vec<bool> = first.iter().map(|r| r.from_cache).collect();
    assert_eq!(cached, [false, false, true, true]);
    assert_eq!((lab.known("base"), lab.known("json")), (1, 2));
    let said = text(&output.stdout);
    assert!(
        said.contains("quality: \"text.md\" in at most 4 windows of 16 tokens"),
        "{said}"
    );
    let folder = lab.folder();
    let read = |name| fs::read_to_string(folder.join(name)).expect("reads");
    let csv = read("results.csv");
    assert!(
        csv.contains("perplexity,perplexity_error,kld_mean,kld_mean_error,kld_p99,top1_share"),
        "{csv}"
    );
    assert!(read("report.html").contains("Quality beside size and speed"));

    // What the run has is not measured again; what another run has is known, but for what differs.
    let shown = folder.display().to_string();
    lab.run(&["--resume", &shown], 0);
    assert_eq!(lab.quality(), first);
    lab.run(&["trial.toml", "--set", "engine.kv=q8_0"], 0);
    assert_eq!((lab.known("base"), lab.known("json")), (1, 4));
    lab.run(&["trial.toml", "--set", "quality.windows=3"], 0);
    assert_eq!(lab.known("base"), 2);
    lab.run(&["trial.toml"], 0);
    let again = lab.quality();
    assert!(again.iter().all(|r| r.from_cache), "{again:?}");
    assert_eq!(again[1].result, first[1].result);
}

#[test]
fn what_fails_is_a_row_and_is_tried_again() {
    let lab = Lab::new(SCENARIO);
    lab.worker(r#"cat > job.json; echo '{"event":"error","message":"no such kernel"}'; exit 1"#);
    let output = lab.run(&["trial.toml", "--worker", "./worker"], 1);
    let records = lab.quality();
    assert_eq!(records.len(), 4);
    for record in &records {
        let reason = record.missing().expect("a reason");
        assert_eq!(reason, "the base failed: no such kernel");
    }
    let (said, csv) = (text(&output.stdout), lab.folder().join("results.csv"));
    assert!(said.contains("no quality: the base failed"), "{said}");
    let csv = fs::read_to_string(csv).expect("reads");
    assert!(csv.contains("no such kernel"), "{csv}");
    assert!(
        text(&output.stderr).contains("the quality of 4 cases could not be measured"),
        "{}",
        text(&output.stderr)
    );
    let job = fs::read_to_string(lab.path("job.json")).expect("reads");
    assert!(job.contains("\"makes_base\":true"), "{job}");
    // The same program: what it does is in a file beside it.
    let lab = Lab::new(SCENARIO);
    lab.worker(&format!(
        "if [ -e good ]; then exec '{}' worker --quality; else echo rubbish; fi",
        env!("CARGO_BIN_EXE_harness")
    ));
    lab.run(&["trial.toml", "--worker", "./worker"], 1);
    lab.write("good", "");
    let folder = lab.folder().display().to_string();
    lab.run(&["--resume", &folder, "--worker", "./worker"], 0);
    let records = lab.quality();
    assert_eq!(records.len(), 8, "tried again");
    assert!(matches!(records[0].result, Quality::Missing(_)));
    assert!(records[4..].iter().all(|r| r.figures().is_some()));
}

#[test]
fn a_signal_keeps_what_was_measured() {
    let lab = Lab::new(SCENARIO);
    lab.worker("echo > hangs; exec sleep 600");
    let mut child = lab
        .command(&["trial.toml", "--worker", "./worker"])
        .stderr(Stdio::null())
        .stdout(Stdio::null())
        .spawn()
        .expect("starts");
    while !lab.path("hangs").exists() {
        assert!(child.try_wait().expect("asks").is_none(), "ended early");
        std::thread::sleep(std::time::Duration::from_millis(20));
    }
    let pid = rustix::process::Pid::from_child(&child);
    rustix::process::kill_process(pid, rustix::process::Signal::TERM).expect("signals");
    assert_eq!(child.wait().expect("ends").code(), Some(130));
    let run = Run::read(&lab.folder()).expect("a run folder");
    assert_eq!((run.samples.len(), run.quality.len()), (4, 0));
}

#[test]
fn another_model_may_be_the_base() {
    let lab = Lab::new(&SCENARIO.replace("windows = 4", "base = \"base.gguf\""));
    let output = lab.run(&["trial.toml"], 1);
    assert!(text(&output.stderr).contains("base.gguf"));
    lab.write("base.gguf", "no model");
    lab.run(&["trial.toml"], 1);
    let reason = lab.quality()[0].missing().expect("a reason").to_owned();
    assert!(
        reason.starts_with("the base failed: ") && reason.contains("base.gguf"),
        "{reason}"
    );
    let models = fs::read_dir(lab.path("models")).expect("models");
    let model = models
        .map(|e| e.expect("entry").path())
        .find(|p| is_model(p));
    fs::copy(model.expect("a model"), lab.path("base.gguf")).expect("copies");
    lab.run(&["trial.toml"], 0);
    let records = lab.quality();
    let figures = records[0].figures().expect("figures");
    assert!(
        figures.kld_mean < 1e-6 && figures.top1_share == 1.0,
        "the same model: {figures:?}"
    );
}

fn is_model(path: &Path) -> bool {
    path.extension().is_some_and(|e| e == "gguf")
}

#[test]
fn a_comparison_says_that_it_leaves_quality_out() {
    let lab = Lab::new(SCENARIO);
    let mut command = Command::new(env!("CARGO_BIN_EXE_harness"));
    command.args(["compare", "--itself", "trial.toml", "--list"]);
    let output = command
        .current_dir(lab.dir.path())
        .output()
        .expect("starts");
    let said = text(&output.stderr);
    assert!(
        said.contains("[quality] is left out of a comparison"),
        "{said}"
    );
}
