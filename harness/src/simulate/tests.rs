use super::*;
use crate::record::tests::manifest;
use crate::record::{Counts, StageCounts};
use crate::runner::{DECODE, JobPrompt, OTHER, PREFILL, PROTOCOL_VERSION};
use engine::stage::Stage;

/// A part of callgrind's output.
fn part(trigger: &str, summary: &str) -> String {
    format!(
        "part: 1\n\ndesc: Timerange: Basic block 0 - 9\ndesc: Trigger: {trigger}\n\npositions: line\n\
         events: Ir Dr Dw I1mr D1mr D1mw ILmr DLmr DLmw\nsummary: {summary}\n\n\
         fl=(1) src/a.rs\nfn=(1) a::b\n0 7 1\ncalls=1 2 \n* 9\n\ntotals: {summary}\n"
    )
}

/// An output of these parts.
fn output(parts: &[(&str, &str)]) -> String {
    let mut text =
        "# callgrind format\nversion: 1\ncreator: callgrind-3.19.0\npid: 7\ncmd:  worker\n\
                    desc: I1 cache: 32768 B, 64 B, 8-way associative\n\
                    desc: D1 cache: 4096 B, 32 B, direct-mapped\n\
                    desc: LL cache: 33554432 B, 64 B, 16-way associative\n"
            .to_owned();
    for (name, summary) in parts {
        text += &part(&format!("Client Request: {name}"), summary);
    }
    text + &part("Program termination", "999 999 999")
}

fn profile(text: &str) -> anyhow::Result<profile::Profile> {
    profile::read(text.as_bytes())
}

fn counts(instructions: u64, reads: u64, ll_write_misses: u64) -> Counts {
    Counts {
        instructions,
        reads,
        ll_write_misses,
        ..Counts::default()
    }
}

#[test]
fn parts_add_up_to_stages_and_phases() {
    let text = output(&[
        ("other", "5 1"),
        ("norm", "10 2 1 0 0 0 0 0 3"),
        ("embed", "1"),
        ("norm", "20 4 2 0 0 0 0 0 4"),
        (PREFILL, "2 1"),
        ("down", "100 50 25 1 2 3 4 5 6"),
        (DECODE, "0"),
    ]);
    let profile = profile(&text).expect("reads");
    assert_eq!(profile.tool, "callgrind-3.19.0");
    let shape = |bytes, line_bytes, ways| CacheShape {
        bytes,
        ways,
        line_bytes,
    };
    assert_eq!(
        (profile.l1i, profile.l1d, profile.ll),
        (
            shape(32768, 64, 8),
            shape(4096, 32, 1),
            shape(32 << 20, 64, 16)
        )
    );
    let stage = |stage, counts| StageCounts { stage, counts };
    let norm = Counts {
        writes: 3,
        ..counts(30, 6, 7)
    };
    let expect = [
        stage(Some(Stage::Embed), counts(1, 0, 0)),
        stage(Some(Stage::Norm), norm),
        stage(None, counts(7, 2, 0)),
    ];
    assert_eq!(profile.phases[PREFILL], expect);
    let down = Counts {
        instructions: 100,
        reads: 50,
        writes: 25,
        l1_fetch_misses: 1,
        l1_read_misses: 2,
        l1_write_misses: 3,
        ll_fetch_misses: 4,
        ll_read_misses: 5,
        ll_write_misses: 6,
    };
    let expect = [
        stage(Some(Stage::Down), down),
        stage(None, Counts::default()),
    ];
    assert_eq!(profile.phases[DECODE], expect);
    assert_eq!((down.l1_misses(), down.ll_misses()), (6, 15));
}

#[test]
fn outputs_that_cannot_be_understood_are_refused() {
    let good = output(&[(OTHER, "5 1")]);
    let rows = [
        (String::new(), "which caches"),
        (output(&[("nap", "1")]), "unknown stage \"nap\""),
        (
            good.replace("summary: 5 1", "summary: 5 x"),
            "found \"5 x\"",
        ),
        (
            good.replace(
                "events: Ir Dr Dw I1mr D1mr D1mw ILmr DLmr DLmw",
                "events: Ir",
            ),
            "does not count \"Dr\"",
        ),
        (
            good.replace("8-way associative", "round"),
            "expected a cache",
        ),
    ];
    for (text, expect) in rows {
        let error = format!("{:#}", profile(&text).expect_err(expect));
        assert!(error.contains(expect), "{error}");
    }
    profile(&good).expect("a whole one is read");
}

#[test]
fn caches_become_shapes_that_valgrind_takes() {
    let cache = |level, kind: &str, bytes, ways, line_bytes| Cache {
        level,
        kind: kind.into(),
        bytes,
        shared_by: 1,
        ways,
        line_bytes,
    };
    let plain = [
        cache(1, "Data", 32 << 10, Some(8), Some(64)),
        cache(1, "Instruction", 64 << 10, Some(4), Some(64)),
        cache(2, "Unified", 512 << 10, Some(8), Some(64)),
        cache(3, "Unified", 32 << 20, Some(16), Some(64)),
    ];
    let found = geometry(&plain);
    assert_eq!(
        found.flags,
        ["--I1=65536,4,64", "--D1=32768,8,64", "--LL=33554432,16,64"]
    );
    assert!(found.adjusted.is_empty(), "{:?}", found.adjusted);

    // Sizes that are no power of two keep their size: the ways give.
    let odd = [
        cache(1, "Data", 48 << 10, Some(12), Some(64)),
        cache(3, "Unified", 36 << 20, Some(16), None),
        cache(3, "Instruction", 1 << 30, None, None),
    ];
    let found = geometry(&odd);
    assert_eq!(found.flags, ["--D1=49152,12,64", "--LL=37748736,18,64"]);
    assert_eq!(
        found.adjusted,
        [
            "the machine does not tell its L1 instruction cache: the simulator's own choice",
            "last-level cache: 36 MiB, 16 ways, simulated as 36 MiB, 18 ways",
        ]
    );

    // Whatever a machine says, the sets are a power of two and the size is near.
    for bytes in [1 << 10, 30_000, 33_000_000, 96 << 20] {
        for ways in [None, Some(0), Some(1), Some(11), Some(100_000)] {
            let (shape, adjusted) = shape(&cache(3, "Unified", bytes, ways, Some(64)), 16);
            let sets = shape.bytes / shape.line_bytes / shape.ways;
            assert!(sets.is_power_of_two(), "{shape:?}");
            assert_eq!(sets * shape.ways * shape.line_bytes, shape.bytes);
            let ratio = shape.bytes as f64 / bytes as f64;
            assert!((0.9..=1.0).contains(&ratio), "{bytes} {ways:?}: {shape:?}");
            let own = ways.map(u64::from) == Some(shape.ways) && shape.bytes == bytes;
            assert_eq!(adjusted.is_none(), own, "{adjusted:?}");
        }
    }
    assert_eq!(
        [1, 2, 3, 5, 6, 7].map(power_of_two_near),
        [1, 2, 4, 4, 8, 8]
    );
}

fn job() -> Job {
    Job {
        protocol: PROTOCOL_VERSION,
        model: "model.gguf".into(),
        prompt: JobPrompt::Text("Hello".into()),
        n_gen: 128,
        ignore_eos: false,
        engine: engine::Options {
            threads: 2,
            affinity: Affinity::Cpus(vec![0, 1]),
            isa: Isa::Avx512,
            ..engine::Options::default()
        },
        sampler: engine::sample::SamplerOptions::default(),
        parent: None,
        slow_down_percent: 0.0,
        simulated: None,
        counters: Default::default(),
    }
}

#[test]
fn work_is_cut_to_what_a_simulator_can_do() {
    let cut = shortened(&job());
    assert_eq!((cut.n_gen, cut.engine.threads), (1 + DECODE_TOKENS, 1));
    assert_eq!(cut.engine.isa, Isa::Auto);
    assert!(cut.ignore_eos && cut.simulated.is_some() && !cut.engine.stage_clock);
    let one = Job { n_gen: 1, ..job() };
    assert_eq!(shortened(&one).n_gen, 1);
}

/// What is recorded of one case whose model has so many bytes, without valgrind or with a program that must not start.
fn missing(valgrind: Option<PathBuf>, file_bytes: u64) -> (String, Vec<String>) {
    let results = tempfile::tempdir().expect("folder");
    let mut manifest = manifest();
    manifest.models[0].file_bytes = file_bytes;
    let mut folder = RunFolder::create(results.path(), &manifest).expect("creates");
    let mut done = Run::empty(manifest);
    let plan = Plan {
        jobs: &[(0, job())],
        worker: &Program {
            path: "worker".into(),
            args: vec![],
        },
        valgrind,
        limit: Duration::from_secs(60),
    };
    let mut told = Vec::new();
    let end = run(&plan, &mut folder, &mut done, &mut |what| {
        told.push(what.to_owned());
    });
    assert_eq!(end.expect("runs"), End::Complete);
    assert_eq!(Run::read(folder.path()).expect("reads"), done);
    assert!(rows(&done.simulated[0]).is_empty());
    assert!(done.simulated(0).is_none());
    (sentence(&done.simulated[0]), told)
}

#[test]
fn why_there_is_no_simulation_is_recorded_and_said() {
    let (reason, told) = missing(None, 1000);
    assert!(reason.contains("`harness doctor` says how"), "{reason}");
    assert_eq!(told, [format!("trial: {reason}")]);

    let (reason, told) = missing(Some("/nowhere/valgrind".into()), 2_500_000_000);
    assert_eq!(
        reason,
        "not simulated: that takes about 702 s, and run.simulate_s allows 60 s"
    );
    assert_eq!(told.len(), 1);

    let (reason, told) = missing(Some("/nowhere/valgrind".into()), 1000);
    assert!(
        reason.starts_with("the simulation failed: cannot start \"/nowhere/valgrind\""),
        "{reason}"
    );
    assert_eq!(told.len(), 2, "{told:?}");
}

/// Two prompt tokens and four generated ones.
fn record() -> SimulatedRecord {
    let shape = |bytes| CacheShape {
        bytes,
        ways: 8,
        line_bytes: 64,
    };
    let stages = |n: u64| {
        let stage = |stage, counts| StageCounts { stage, counts };
        vec![
            stage(Some(Stage::Qkv), counts(3_000_000 * n, 0, 15_000 * n)),
            stage(None, counts(1_000_000 * n, 0, 5_000 * n)),
        ]
    };
    SimulatedRecord {
        schema_version: SCHEMA_VERSION,
        case: "trial".into(),
        case_index: 0,
        started_at: "2026-01-31T12:00:00.000Z".into(),
        result: Simulation::Counted(Box::new(Simulated {
            tool: "callgrind-3.19.0".into(),
            l1i: shape(32 << 10),
            l1d: shape(32 << 10),
            ll: shape(32 << 20),
            adjusted: vec![],
            isa: Some("avx2".into()),
            threads: Some(1),
            prefill: SimulatedPhase {
                tokens: 2,
                stages: stages(1),
            },
            decode: Some(SimulatedPhase {
                tokens: 4,
                stages: stages(40),
            }),
        })),
    }
}

#[test]
fn counts_are_told_for_each_token() {
    assert_eq!(
        sentence(&record()),
        "simulated (callgrind-3.19.0, one thread, avx2, 32 KiB L1d, 32 MiB LL): a token takes 40 M instructions, 200 k \
         last-level misses (12.8 MB); each of 2 prompt tokens 2 M instructions, 10 k last-level misses (640 kB)"
    );
    let rows = rows(&record());
    let names: Vec<_> = rows.iter().map(|r| (r.phase, r.stage)).collect();
    let expect = [None, Some("qkv"), Some("other")];
    let expect = [PREFILL, DECODE].map(|phase| expect.map(|stage| (phase, stage)));
    assert_eq!(names, expect.concat());
    assert_eq!(rows[0].per_token.instructions, 2e6);
    assert_eq!(rows[4].instructions_share, 0.75);
    assert_eq!(rows[4].per_token.ll_bytes, 150_000.0 * 64.0);
    assert_eq!(rows[5].ll_misses_share, 0.25);
}

#[test]
fn numbers_keep_three_digits() {
    let rows = [
        (970.0, "970"),
        (0.5, "0.50"),
        (1_523_456.0, "1.52 M"),
        (39_590_000.0, "39.6 M"),
        (141_200_000.0, "141 M"),
    ];
    for (x, expect) in rows {
        assert_eq!(words::scaled(x), expect);
    }
}

#[test]
fn the_last_attempt_holds() {
    let failed = SimulatedRecord {
        result: Simulation::Missing("no valgrind".into()),
        ..record()
    };
    let mut run = Run::empty(manifest());
    assert!(run.simulation(0).is_none());
    run.simulated = vec![failed, record()];
    assert_eq!(run.simulation(0), Some(&record()));
    let text = serde_json::to_string(&run.simulated).expect("json");
    let read: Vec<SimulatedRecord> = serde_json::from_str(&text).expect("reads");
    assert_eq!(read, run.simulated);
}
