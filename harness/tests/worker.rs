//! The worker on a tiny synthetic model: what it answers, what it refuses, and that it ends with the process that
//! started it.
#![allow(clippy::disallowed_methods, reason = "tests start the program itself")]

use engine::Options;
use engine::model::Placed;
use engine::synth::{self, Shape};
use harness::counter::Request;
use harness::record::{Part, Phase, Run, Source, tokens_sha256};
use harness::runner::{Answer, Job, JobPrompt, Outcome, PROTOCOL_VERSION};
use std::fs;
use std::io::{BufRead as _, BufReader, Write as _};
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::time::Duration;
use tempfile::TempDir;

const HARNESS: &str = env!("CARGO_BIN_EXE_harness");
/// Steps in which something is waited for.
const STEP: Duration = Duration::from_millis(20);

/// A folder with a model of the tiny shape, but for its context length.
fn model(context: u32) -> (TempDir, PathBuf) {
    let dir = tempfile::tempdir().expect("folder");
    let path = dir.path().join("tiny.gguf");
    let tiny = Shape::load("tiny").expect("a shape");
    let shape = Shape { context, ..tiny };
    synth::synth(&shape, "Q4_0", 1, &path, &mut |_, _| Ok(())).expect("a model");
    (dir, path)
}

fn job(model: &Path) -> Job {
    Job {
        protocol: PROTOCOL_VERSION,
        model: model.to_owned(),
        prompt: JobPrompt::Text("Hello, what is this?".into()),
        n_gen: 12,
        ignore_eos: true,
        engine: Options {
            threads: 1,
            ..Options::default()
        },
        sampler: Default::default(),
        parent: None,
        slow_down_percent: 0.0,
        simulated: None,
        counters: Default::default(),
    }
}

/// Gives `input` to a worker.
fn work(input: &str) -> Output {
    let mut worker = Command::new(HARNESS);
    let worker = worker.arg("worker").env_remove("RUST_BACKTRACE");
    let pipes = worker.stdin(Stdio::piped()).stdout(Stdio::piped());
    let mut child = pipes.stderr(Stdio::piped()).spawn().expect("starts");
    let mut stdin = child.stdin.take().expect("piped");
    stdin.write_all(input.as_bytes()).expect("is read");
    drop(stdin);
    child.wait_with_output().expect("ends")
}

fn answers(output: &Output) -> Vec<Answer> {
    let lines = output.stdout.split(|&b| b == b'\n');
    let lines = lines.filter(|line| !line.is_empty());
    lines
        .map(|line| serde_json::from_slice(line).expect("an answer"))
        .collect()
}

/// The outcome of a job that must succeed.
#[track_caller]
fn outcome(job: &Job) -> Outcome {
    let output = work(&serde_json::to_string(job).expect("json"));
    let answers = answers(&output);
    match &answers[..] {
        [
            Answer::Started { protocol },
            Answer::Loaded { load_ms },
            Answer::Done(outcome),
        ] => {
            assert_eq!(*protocol, PROTOCOL_VERSION);
            assert_eq!(Some(*load_ms), outcome.load_ms);
            assert!(output.status.success() && output.stderr.is_empty());
            (**outcome).clone()
        }
        other => panic!("expected started, loaded, done; found {other:?}"),
    }
}

#[test]
fn an_outcome_says_how_the_weights_came_into_memory() {
    let (dir, path) = model(256);
    let mut job = job(&path);
    let packed = outcome(&job);
    job.engine.packed_cache = dir.path().join("packed");
    let kept = outcome(&job);
    let mapped = outcome(&job);
    let ways = [&packed, &kept, &mapped].map(|o| o.weights.clone());
    assert_eq!(
        ways,
        [Placed::Packed, Placed::Kept, Placed::Mapped].map(Some)
    );
    assert_eq!(packed.output_ids, kept.output_ids);
    assert_eq!(packed.output_ids, mapped.output_ids);
    assert_eq!(packed.by_channels, None);

    let sparsity = "method = \"teal\"\nthreshold = 0.5";
    job.engine.sparsity = Some(toml::from_str(sparsity).expect("a table"));
    let [kept, mapped] = [(); 2].map(|()| outcome(&job));
    let held = [&kept, &mapped].map(|o| o.by_channels.clone().expect("by channels"));
    assert_eq!(
        held.each_ref().map(|h| h.placed.clone()),
        [Placed::Kept, Placed::Mapped]
    );
    assert_eq!(held[0].encoded, held[1].encoded);
    assert_eq!(kept.output_ids, mapped.output_ids);
}

#[test]
fn an_outcome_accounts_for_every_token() {
    let (_dir, path) = model(256);
    let done = outcome(&job(&path));
    assert_eq!((done.arrival_ns.len(), done.output_ids.len()), (12, 12));
    assert!(done.arrival_ns[0] > 0 && done.arrival_ns.is_sorted());
    assert!(done.n_prompt > 1);
    let (prefill, decode) = (done.prefill.expect("stats"), done.decode.expect("stats"));
    assert_eq!((prefill.passes, decode.passes), (1, 11));
    let span_ns = done.arrival_ns[11] - done.arrival_ns[0];
    assert!(prefill.stages.total_ns() <= done.arrival_ns[0]);
    assert!(decode.stages.total_ns() <= span_ns && decode.stages.total_ns() > span_ns / 2);
    assert!(decode.ledger.weight_bytes > 0 && decode.ledger.kv_read_bytes > 0);
    let facts = &done.model;
    let [layers, last, head] = [facts.layer_params, facts.last_params, facts.head_params]
        .map(|params| params.expect("known"));
    assert_eq!(decode.products, 11 * (layers + head));
    let often = u64::from(done.n_prompt) * (layers - last);
    assert_eq!(prefill.products, often + last + head);
    assert_eq!((done.threads, done.cpus.len()), (Some(1), 1));
    assert!(
        done.model.description.starts_with("llama"),
        "{:?}",
        done.model
    );
    assert!(done.model.weight_bytes < Some(fs::metadata(&path).expect("file").len()));
    assert!(done.timed.minor_faults.is_some() && done.timed.involuntary_switches.is_some());
    assert!(!done.output_text.is_empty());
    let counters = done.counters.expect("counted unless switched off");
    for part in Part::ALL {
        let counts = counters.part(part);
        let found = |event: &str| counts.iter().find(|count| count.event == event);
        let clock = found("task-clock").expect("every kernel keeps it");
        assert!(clock.value > 0.0 && clock.source == Source::Software);
        // What the CPU would have counted is there or explained.
        let explained = counters
            .absent
            .iter()
            .any(|a| a.event == "instructions" && !a.reason.is_empty());
        assert!(explained || found("instructions").is_some_and(|count| count.value > 1e4));
    }
}

#[test]
fn products_of_drafts_are_counted_with_their_bytes() {
    let (_dir, path) = model(256);
    let plain = outcome(&job(&path));
    let drafting = |table: &str| {
        let engine = Options {
            speculation: Some(toml::from_str(table).expect("a table")),
            ..job(&path).engine
        };
        outcome(&Job {
            engine,
            ..job(&path)
        })
    };
    // As good as the model itself, so that each draft is kept: every token is computed by both.
    let drafted = drafting("method = \"qcsd\"\ndraft_quant = \"F32\"\ndraft_tokens = 1\n");
    assert_eq!(drafted.output_ids, plain.output_ids);
    let products = |done: &Outcome| {
        let [prefill, decode] = [done.prefill, done.decode].map(|s| s.expect("stats").products);
        (prefill, decode)
    };
    let (prefill, decode) = products(&drafted);
    let (alone, written) = products(&plain);
    assert_eq!(prefill, 2 * alone, "both read the prompt");
    assert!(
        decode * 2 > written * 3,
        "{decode} is little more than {written}"
    );
    let none = drafting("method = \"none\"\n");
    assert_eq!(products(&none), (alone, written));
}

#[test]
fn counters_can_be_switched_off() {
    let (_dir, path) = model(256);
    let off = Job {
        counters: Request {
            enabled: false,
            ..Request::default()
        },
        ..job(&path)
    };
    assert_eq!(outcome(&off).counters, None);
}

#[test]
fn threads_and_batches_do_not_change_the_tokens() {
    let (_dir, path) = model(256);
    let one = outcome(&job(&path));
    let variants = [
        Options {
            threads: 2,
            oversubscribe: true,
            ..Options::default()
        },
        Options {
            threads: 1,
            batch: 3,
            ..Options::default()
        },
    ];
    for engine in variants {
        let threads = engine.threads;
        let other = outcome(&Job {
            engine,
            ..job(&path)
        });
        assert_eq!(other.output_ids, one.output_ids);
        assert_eq!(other.output_text, one.output_text);
        assert_eq!(other.threads, Some(threads as u32));
    }
}

#[test]
fn synthetic_prompts_follow_their_seed() {
    let (_dir, path) = model(256);
    let run = |tokens, seed| {
        outcome(&Job {
            prompt: JobPrompt::Random { tokens, seed },
            ..job(&path)
        })
    };
    let (first, again, other) = (run(20, 1), run(20, 1), run(20, 2));
    assert_eq!((first.n_prompt, other.n_prompt), (20, 20));
    assert_eq!(first.output_ids, again.output_ids);
    assert_ne!(first.output_ids, other.output_ids);
}

#[test]
fn a_single_token_needs_no_decoding() {
    let (_dir, path) = model(256);
    let done = outcome(&Job {
        n_gen: 1,
        ..job(&path)
    });
    assert_eq!((done.output_ids.len(), done.decode), (1, None));
}

#[test]
fn what_cannot_be_done_is_answered_with_the_reason() {
    let (dir, path) = model(64);
    let check =
        |job: Job, expect: &str| refused(&serde_json::to_string(&job).expect("json"), expect);
    check(job(&dir.path().join("none.gguf")), "none.gguf\"");
    check(job(dir.path()), &dir.path().display().to_string());
    let random = |tokens| JobPrompt::Random { tokens, seed: 1 };
    let long = Job {
        prompt: random(60),
        ..job(&path)
    };
    check(long, "71 tokens do not fit the context of 64");
    let empty = Job {
        prompt: random(0),
        ..job(&path)
    };
    check(empty, "the prompt has no tokens");
    let none = Job {
        n_gen: 0,
        ..job(&path)
    };
    check(none, "0 tokens to generate");
    let engine = Options {
        ctx: 65,
        ..Options::default()
    };
    check(
        Job {
            engine,
            ..job(&path)
        },
        "option \"ctx\": 65 is more than the 64",
    );
    let other = Job {
        protocol: 99,
        ..job(&path)
    };
    check(other, "protocol 99");
    let orphan = Job {
        parent: Some(1),
        ..job(&path)
    };
    check(orphan, "process 1, which sent the job, has ended");
    refused("rubbish", "expected a job as one line of JSON");
    refused("", "expected a job as one line of JSON");
    refused("{\"protocol\":1}", "missing field");
}

/// An input that must be answered with an error, and exit code 1.
#[track_caller]
fn refused(input: &str, expect: &str) {
    let output = work(input);
    assert_eq!(output.status.code(), Some(1), "{expect}");
    match answers(&output).last() {
        Some(Answer::Error { message }) => assert!(message.contains(expect), "{message}"),
        other => panic!("expected an error with \"{expect}\", found {other:?}"),
    }
}

#[test]
fn a_worker_ends_with_the_process_that_started_it() {
    let (dir, path) = model(100_000);
    // Minutes of work.
    let long = Job {
        n_gen: 99_000,
        engine: Options {
            threads: 1,
            ctx: 100_000,
            ..Options::default()
        },
        parent: Some(-1),
        ..job(&path)
    };
    let long = serde_json::to_string(&long).expect("json");
    let file = dir.path().join("job");
    fs::write(&file, long.replace("\"parent\":-1", "\"parent\":PARENT")).expect("writes");
    // The inner shell says its number and becomes the worker.
    let script = r#"sed "s/PARENT/$$/" "$2" > "$2.json"
sh -c 'echo $$; exec "$1" worker < "$2.json"' sh "$1" "$2" & wait"#;
    let mut shell = Command::new("sh");
    let shell = shell.args(["-c", script, "sh", HARNESS]).arg(&file);
    let mut shell = shell.stdout(Stdio::piped()).spawn().expect("starts");
    let mut lines = BufReader::new(shell.stdout.take().expect("piped")).lines();
    let mut next = || lines.next().expect("a line").expect("text");
    let worker: u32 = next().parse().expect("a process");
    assert!(next().contains("started"));
    assert!(next().contains("loaded"));
    assert!(lives(worker));
    shell.kill().expect("lives");
    shell.wait().expect("ends");
    let ended = (0..50).any(|_| {
        std::thread::sleep(STEP);
        !lives(worker)
    });
    assert!(ended, "process {worker} still runs");
}

/// Whether a process exists and is no zombie.
fn lives(pid: u32) -> bool {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    let state = stat
        .rsplit(") ")
        .next()
        .and_then(|rest| rest.chars().next());
    state.is_some_and(|state| !"ZX".contains(state))
}

#[test]
fn a_whole_run_makes_its_model_and_agrees_with_itself() {
    let dir = tempfile::tempdir().expect("folder");
    let scenario = Path::new(env!("CARGO_MANIFEST_DIR")).join("../scenarios/smoke.toml");
    let mut run = Command::new(HARNESS);
    let run = run
        .arg("run")
        .arg(scenario)
        .args(["--models-dir", "models"]);
    let run = run.env("XDG_CACHE_HOME", dir.path());
    let run = run.current_dir(dir.path());
    // What the model cannot do is found before anything is measured.
    let mut impossible = Command::new(HARNESS);
    let impossible = impossible.args(run.get_args()).current_dir(dir.path());
    let impossible = impossible.args(["--set", "engine.ctx=4000000000"]);
    let impossible = impossible.env("XDG_CACHE_HOME", dir.path());
    let output = impossible.output().expect("starts");
    let text = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(2), "{text}");
    let expect = "engine.ctx: 4000000000 is more than the ";
    assert!(text.contains(expect), "{text}");
    assert!(!dir.path().join("results").exists());

    let output = run.output().expect("starts");
    let text = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{text}");
    let mut folders = fs::read_dir(dir.path().join("results")).expect("results");
    let folder = folders.next().expect("a folder").expect("entry").path();
    let run = Run::read(&folder).expect("a run folder");
    assert_eq!(run.failures, []);
    let measured = run.samples.iter().filter(|s| s.phase == Phase::Measured);
    assert_eq!((run.samples.len(), measured.count()), (3, 2));
    for sample in &run.samples {
        assert_eq!(sample.output_ids, run.samples[0].output_ids);
        assert_eq!(sample.output_sha256, tokens_sha256(&sample.output_ids));
        assert!(sample.usage.peak_rss_bytes > Some(1 << 20));
    }
}

#[test]
fn repetitions_that_take_turns_tell_their_own_time() {
    let dir = tempfile::tempdir().expect("folder");
    let scenario = Path::new(env!("CARGO_MANIFEST_DIR")).join("../scenarios/smoke.toml");
    let mut compare = Command::new(HARNESS);
    let compare = compare.arg("compare").arg(scenario).args([
        "--itself",
        "--rounds",
        "2",
        "--set",
        "run.slice_ms=2",
        "--set",
        "run.simulate_s=0",
        "--models-dir",
        "models",
        "--no-report",
    ]);
    let output = compare.current_dir(dir.path()).output().expect("starts");
    let text = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{text}");
    let folders = fs::read_dir(dir.path().join("results")).expect("results");
    let mut folders = folders.map(|entry| entry.expect("entry").path());
    let folder = folders.find(|path| path.join("manifest.json").exists());
    let run = Run::read(&folder.expect("a folder")).expect("a run folder");
    assert_eq!(run.failures, []);
    let measured: Vec<_> = run.samples.iter().filter(|s| s.is_measured()).collect();
    assert_eq!(measured.len(), 2 * 4);
    for sample in measured {
        assert_eq!(sample.output_ids, run.samples[0].output_ids);
        assert!(sample.slices > Some(0));
        let (own_ms, life_ms) = (sample.e2e_ms(), sample.usage.wall_ms);
        assert!(
            own_ms > Some(0.0) && own_ms < life_ms,
            "{own_ms:?} of {life_ms:?}"
        );
        let ns =
            |stats: Option<harness::record::PassStats>| stats.map_or(0, |s| s.stages.total_ns());
        let stages_ms = (ns(sample.prefill) + ns(sample.decode)) as f64 / 1e6;
        assert!(Some(stages_ms) <= own_ms, "{stages_ms} of {own_ms:?}");
    }
}
