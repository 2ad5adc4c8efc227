use super::*;
use crate::clock::Stopwatch;

/// A worker that is a shell script.
fn script(text: &str) -> Program {
    Program {
        path: "/bin/sh".into(),
        args: vec!["-c".into(), text.into()],
    }
}

/// A job that no worker would refuse by itself.
pub(crate) fn job() -> Job {
    Job {
        protocol: PROTOCOL_VERSION,
        model: "model.gguf".into(),
        prompt: JobPrompt::Text("Hello".into()),
        n_gen: 2,
        ignore_eos: true,
        engine: ::engine::Options::default(),
        sampler: SamplerOptions::default(),
        parent: None,
        slow_down_percent: 0.0,
        simulated: None,
        counters: Default::default(),
    }
}

fn outcome() -> Outcome {
    Outcome {
        n_prompt: 3,
        arrival_ns: vec![5_000_000, 9_000_000],
        output_ids: vec![11, 12],
        output_text: "hi".into(),
        ..Outcome::default()
    }
}

/// A script that reads its job and prints `lines`.
fn answering(lines: &[Answer]) -> Program {
    let lines = lines
        .iter()
        .map(|l| serde_json::to_string(l).expect("json"));
    let print: Vec<String> = lines.map(|l| format!("echo '{l}'")).collect();
    script(&format!("cat >/dev/null; {}", print.join("; ")))
}

fn run(worker: &Program) -> Result<Finished, Trouble> {
    repetition(worker, &job(), Duration::from_secs(20), None)
}

/// A script must fail in a certain way, with a message that has `expect` in it.
#[track_caller]
fn fails(worker: &Program, kind: FailureKind, expect: &str) {
    match run(worker) {
        Err(Trouble::Failed {
            kind: found,
            message,
            ..
        }) => {
            assert_eq!(found, kind, "{message}");
            assert!(message.contains(expect), "{message}");
        }
        other => panic!("expected {kind:?}, found {other:?}"),
    }
}

#[test]
fn an_answer_is_taken_with_what_the_system_says() {
    let started = Answer::Started {
        protocol: PROTOCOL_VERSION,
    };
    let done = Answer::Done(Box::new(outcome()));
    let finished = run(&answering(&[
        started,
        Answer::Loaded { load_ms: 1.0 },
        done,
    ]))
    .expect("a result");
    assert_eq!(finished.outcome, outcome());
    let usage = finished.usage;
    assert!(
        usage.peak_rss_bytes.is_some_and(|bytes| bytes > 100_000),
        "{usage:?}"
    );
    assert!(usage.wall_ms.is_some_and(|ms| ms > 0.0), "{usage:?}");
    assert_eq!(usage.major_faults, None);
}

#[test]
fn every_way_to_fail_is_told_apart() {
    use FailureKind::{Error, Protocol, Signal, Spawn};
    let missing = Program {
        path: "/no/such/program".into(),
        args: vec![],
    };
    fails(&missing, Spawn, "cannot start \"/no/such/program\"");
    fails(&script("exit 3"), Error, "exit code 3");
    fails(
        &script("echo it broke >&2; exit 1"),
        Error,
        "exit code 1: it broke",
    );
    fails(&script("kill -SEGV $$"), Signal, "signal 11");
    fails(&script("kill -KILL $$"), Signal, "out of memory?");
    fails(&script("cat"), Protocol, "expected a line of JSON");
    fails(&script("echo rubbish"), Protocol, "found \"rubbish\"");
    fails(&script("true"), Protocol, "without a result");
    fails(
        &script("cat /dev/zero"),
        Protocol,
        "more than any answer needs",
    );
    let told = Answer::Error {
        message: "the model is broken".into(),
    };
    fails(&answering(&[told]), Error, "the model is broken");
    let other = Answer::Started { protocol: 99 };
    fails(&answering(&[other]), Protocol, "protocol 99");
}

#[test]
fn an_outcome_that_cannot_be_true_is_refused() {
    let changed = |change: &dyn Fn(&mut Outcome)| {
        let mut wrong = outcome();
        change(&mut wrong);
        answering(&[Answer::Done(Box::new(wrong))])
    };
    let protocol = FailureKind::Protocol;
    let worker = changed(&|o| o.arrival_ns = vec![5]);
    fails(&worker, protocol, "1 arrival times for 2 tokens");
    let worker = changed(&|o| (o.arrival_ns, o.output_ids) = (vec![5], vec![1]));
    fails(&worker, protocol, "1 tokens where 2");
    let worker = changed(&|o| o.arrival_ns = vec![9, 5]);
    fails(&worker, protocol, "do not rise");
    let worker = changed(&|o| o.n_prompt = 0);
    fails(&worker, protocol, "a prompt without tokens");
}

#[test]
fn a_child_that_hangs_is_killed_with_all_it_started() {
    let dir = tempfile::tempdir().expect("folder");
    let file = dir.path().join("grandchild");
    let text = format!(
        "sleep 60 & echo $! > '{}'; echo waiting >&2; wait",
        file.display()
    );
    let watch = Stopwatch::start();
    let trouble = repetition(&script(&text), &job(), Duration::from_millis(500), None);
    assert!(watch.elapsed() < Duration::from_secs(10));
    let Err(Trouble::Failed {
        kind,
        message,
        stderr,
    }) = trouble
    else {
        panic!("expected a failure, found {trouble:?}");
    };
    assert_eq!(kind, FailureKind::Timeout);
    assert!(message.contains("run.timeout_s"), "{message}");
    assert_eq!(stderr, "waiting\n");
    let grandchild = std::fs::read_to_string(&file).expect("its number");
    let stat = || std::fs::read_to_string(format!("/proc/{}/stat", grandchild.trim()));
    // Gone, or a zombie that nobody reaps. A signal takes its time on a busy machine.
    let ended = || stat().map_or(true, |s| s.contains(") Z ") || s.contains(") X "));
    let soon = (0..100).any(|_| {
        std::thread::sleep(Duration::from_millis(20));
        ended()
    });
    assert!(soon, "{:?}", stat());
}

#[test]
fn a_long_job_does_not_block_and_long_stderr_keeps_its_end() {
    let mut long = job();
    long.prompt = JobPrompt::Text("x".repeat(1 << 20));
    let text =
        "i=0; while [ $i -lt 3000 ]; do echo line $i is long enough >&2; i=$((i+1)); done; exit 1";
    let trouble = repetition(&script(text), &long, Duration::from_secs(20), None);
    let Err(Trouble::Failed {
        message, stderr, ..
    }) = trouble
    else {
        panic!("expected a failure, found {trouble:?}");
    };
    assert_eq!(message, "exit code 1: line 2999 is long enough");
    assert!(
        stderr.len() <= 16 << 10 && stderr.starts_with("line "),
        "{}",
        stderr.len()
    );
}

#[test]
fn disturbances_mark_a_repetition() {
    let steady = Usage {
        wall_ms: Some(1000.0),
        ..Usage::default()
    };
    let pinned = Outcome {
        cpus: vec![0],
        ..outcome()
    };
    assert_eq!(marks(&pinned, &steady), []);
    let rows = [
        (
            Usage {
                steal_ms: Some(10.0),
                ..steady.clone()
            },
            vec![],
        ),
        (
            Usage {
                steal_ms: Some(11.0),
                ..steady.clone()
            },
            vec![Taint::Steal { ms: 11.0 }],
        ),
        (
            Usage {
                throttled_ms: Some(0.5),
                ..steady.clone()
            },
            vec![Taint::Throttled { ms: 0.5 }],
        ),
        (
            Usage {
                involuntary_switches: Some(5),
                ..steady.clone()
            },
            vec![],
        ),
        (
            Usage {
                involuntary_switches: Some(6),
                ..steady.clone()
            },
            vec![Taint::InvoluntarySwitches { count: 6 }],
        ),
        (
            Usage {
                major_faults: Some(1),
                ..steady.clone()
            },
            vec![Taint::MajorFaults { count: 1 }],
        ),
        (
            Usage {
                migrations: Some(2),
                ..steady.clone()
            },
            vec![Taint::Migrations { count: 2 }],
        ),
    ];
    for (usage, expect) in rows {
        assert_eq!(marks(&pinned, &usage), expect);
    }
    let free = Usage {
        migrations: Some(2),
        ..steady
    };
    assert_eq!(
        marks(&outcome(), &free),
        [],
        "threads that are not pinned may move"
    );
}

/// What marks a repetition with this outcome and use.
fn marks(outcome: &Outcome, usage: &Usage) -> Vec<Taint> {
    let timed_s = outcome.arrival_ns.last().map_or(0.0, |&ns| ns as f64 / 1e9);
    taint(usage, timed_s, !outcome.cpus.is_empty(), None)
}

#[test]
fn a_tool_says_how_it_ended() {
    let tool = |text: &str| super::tool(&script(text), Duration::from_millis(400));
    let output = tool("echo rate 5; echo note >&2; cat").expect("ends at the end of its input");
    assert_eq!(output.stdout, b"rate 5\n");
    assert_eq!(output.stderr, "note\n");
    assert!(output.usage.involuntary_switches.is_some());
    for (text, expect, words) in [
        (
            "echo no such model >&2; exit 3",
            FailureKind::Error,
            "no such model",
        ),
        ("sleep 60", FailureKind::Timeout, "0.4 s"),
        ("kill -SEGV $$", FailureKind::Signal, "signal 11"),
    ] {
        match tool(text) {
            Err(Trouble::Failed { kind, message, .. }) => {
                assert_eq!(kind, expect, "{message}");
                assert!(message.contains(words), "{message}");
            }
            other => panic!("expected {expect:?}, found {other:?}"),
        }
    }
}
