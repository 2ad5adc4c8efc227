//! Runs that are cut off, or meet others.

use super::*;

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
        // A file that is named beside the scenario is found again by the run's folder alone.
        let named = format!("{SCENARIO}quant_imatrix = \"good\"\n");
        let lab = Lab::new(&named, &["good", "good", "hang", "good"]);
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
