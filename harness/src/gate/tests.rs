use super::*;
use crate::metric;
use crate::record::tests::{manifest, sample};
use crate::record::{
    CacheShape, Counts, Quality, QualityPlan, QualityRecord, Sample, SimulatedPhase,
    SimulatedRecord, Simulation, StageCounts, tokens_sha256,
};

/// A run of one case whose repetitions decode at these rates.
fn run(rates: &[f64]) -> Run {
    let samples = rates.iter().enumerate().map(|(round, rate)| {
        let gap_ns = 1e9 / rate;
        let arrival = |i: usize| 20_000_000 + (gap_ns * i as f64) as u64;
        Sample {
            round: round as u32,
            arrival_ns: (0..4).map(arrival).collect(),
            ..sample()
        }
    });
    Run {
        samples: samples.collect(),
        ..Run::empty(manifest())
    }
}

/// Rates around a level, 1 % up and down.
fn around(level: f64, n: usize) -> Vec<f64> {
    (0..n)
        .map(|i| level * (0.99 + 0.01 * (i % 3) as f64))
        .collect()
}

fn decode() -> Vec<&'static Metric> {
    Metric::by_name("decode_tok_s").into_iter().collect()
}

fn state_of(run: &Run, baseline: &[Run]) -> Gate {
    gate(run, baseline, &decode(), &Rule::default())
}

#[test]
fn every_state_is_reached() {
    let rows = [
        (around(100.0, 12), State::Pass),
        (around(80.0, 12), State::Regression),
        (around(120.0, 12), State::Improvement),
        (around(80.0, 5), State::Inconclusive),
        (vec![100.0], State::Inconclusive),
    ];
    let baseline = [run(&around(100.0, 12))];
    for (rates, expect) in rows {
        let gate = state_of(&run(&rates), &baseline);
        assert_eq!(gate.state, expect, "{:?}", gate.rows);
        assert_eq!(gate.rows.len(), 1);
        assert_eq!(gate.rows[0].reason.is_some(), expect == State::Inconclusive);
    }
}

#[test]
fn what_is_not_the_same_work_is_incomparable() {
    type Change = fn(&mut Run);
    let rows: [(Change, &str); 8] = [
        (|r| r.manifest.models[0].sha256 = "other".into(), "model"),
        (
            |r| r.manifest.cases[0].prompt = Some("Bye".into()),
            "prompt",
        ),
        (|r| r.manifest.cases[0].n_gen = 9, "number of tokens"),
        (|r| r.manifest.cases[0].engine.batch = 7, "engine options"),
        (
            |r| r.manifest.binary.profile = "release".into(),
            "build profile",
        ),
        (
            |r| r.manifest.host.cpu = Some("another".into()),
            "another machine",
        ),
        (
            |r| r.manifest.cases[0].name = "other".into(),
            "does not have this case",
        ),
        (
            |r| {
                for s in &mut r.samples {
                    s.output_sha256 = tokens_sha256(&[1]);
                }
            },
            "output",
        ),
    ];
    let baseline = [run(&around(100.0, 12))];
    for (change, expect) in rows {
        let mut other = run(&around(100.0, 12));
        change(&mut other);
        let gate = state_of(&other, &baseline);
        assert_eq!(gate.state, State::Incomparable);
        let reasons: Vec<&str> = gate
            .rows
            .iter()
            .filter_map(|r| r.reason.as_deref())
            .collect();
        assert!(
            reasons.iter().any(|r| r.contains(expect)),
            "{reasons:?}, not {expect}"
        );
    }
    assert_eq!(state_of(&run(&[]), &baseline).state, State::Incomparable);
}

#[test]
fn drift_between_the_runs_of_a_baseline_raises_what_counts() {
    let slower = run(&around(94.0, 12));
    let steady = [100.0, 100.1, 99.9].map(|level| run(&around(level, 12)));
    assert_eq!(state_of(&slower, &steady).state, State::Regression);
    assert!(state_of(&slower, &steady).notes.is_empty());
    let drifting = [85.0, 100.0, 115.0].map(|level| run(&around(level, 12)));
    let gate = state_of(&slower, &drifting);
    assert_ne!(gate.state, State::Regression, "{:?}", gate.rows);
    assert!(gate.rows[0].judged.expect("judged").threshold > 0.2);
    assert_eq!(state_of(&slower, &steady[..1]).notes.len(), 1);
}

#[test]
fn counts_are_held_to_their_number() {
    let metrics: Vec<&Metric> = Metric::by_name("decode_bytes_per_token")
        .into_iter()
        .collect();
    let check = |factor: f64, expect| {
        let mut other = run(&[100.0]);
        for s in &mut other.samples {
            let ledger = &mut s.decode.as_mut().expect("decode").ledger;
            ledger.weight_bytes = (ledger.weight_bytes as f64 * factor) as u64;
        }
        // Another machine does not matter to a count.
        other.manifest.host.cpu = Some("another".into());
        let gate = gate(&other, &[run(&[100.0])], &metrics, &Rule::default());
        assert_eq!(gate.state, expect, "{:?}", gate.rows);
    };
    check(1.0, State::Pass);
    check(1.005, State::Pass);
    check(1.05, State::Regression);
    check(0.95, State::Improvement);
}

#[test]
fn ci_systems_get_what_they_read() {
    let baseline = [run(&around(100.0, 12))];
    let mut worse = state_of(&run(&around(80.0, 12)), &baseline);
    worse.rows[0].case = "a|b <c> 5%".into();
    let text = markdown(&worse);
    assert!(
        text.contains("| a\\|b <c> 5% | decode_tok_s tok/s | 100.00 | 80.00 | -20.0 % |"),
        "{text}"
    );
    assert!(text.starts_with("### regression: 1 regression"), "{text}");
    let lines = annotations(&worse);
    assert!(
        lines.starts_with("::error title=harness gate::a|b <c> 5%25: regression"),
        "{lines}"
    );
    assert_eq!(lines.lines().count(), 1);
    let xml = junit(&worse).expect("XML");
    assert!(
        xml.contains("failures=\"1\"") && xml.contains("a|b &lt;c&gt; 5%"),
        "{xml}"
    );
    let same = state_of(&run(&around(100.0, 12)), &baseline);
    assert_eq!(annotations(&same), "");
    assert!(junit(&same).expect("XML").contains("failures=\"0\""));
}

#[test]
fn names_of_metrics_are_unique() {
    let mut names: Vec<&str> = metric::ALL.iter().map(|m| m.name).collect();
    names.sort_unstable();
    names.dedup();
    assert_eq!(names.len(), metric::ALL.len());
}

/// A run with simulated counts of its only case.
fn simulated(instructions: u64, ll_read_misses: u64, change: fn(&mut Simulated)) -> Run {
    let shape = CacheShape {
        bytes: 32 << 10,
        ways: 8,
        line_bytes: 64,
    };
    let counts = Counts {
        instructions,
        ll_read_misses,
        ..Counts::default()
    };
    let phase = |tokens| SimulatedPhase {
        tokens,
        stages: vec![StageCounts {
            stage: None,
            counts,
        }],
    };
    let mut counts = Simulated {
        tool: "callgrind-3.19.0".into(),
        l1i: shape,
        l1d: shape,
        ll: shape,
        adjusted: vec![],
        isa: Some("avx2".into()),
        threads: Some(1),
        prefill: phase(16),
        decode: Some(phase(4)),
    };
    change(&mut counts);
    let mut run = run(&[100.0]);
    run.simulated.push(SimulatedRecord {
        schema_version: crate::record::SCHEMA_VERSION,
        case: "trial".into(),
        case_index: 0,
        started_at: "2026-01-31T12:00:00.000Z".into(),
        result: Simulation::Counted(Box::new(counts)),
    });
    run
}

#[test]
fn simulated_counts_gate_where_the_simulation_is_the_same() {
    let baseline = simulated(40_000_000, 1_500_000, |_| {});
    let names = ["sim_decode_instructions", "sim_decode_ll_misses"];
    let check = |run: &Run, baseline: &Run, expect: &[State]| {
        let metrics: Vec<_> = names.iter().filter_map(|n| Metric::by_name(n)).collect();
        let baseline = std::slice::from_ref(baseline);
        let gate = gate(run, baseline, &metrics, &Rule::default());
        let states: Vec<State> = gate.rows.iter().map(|row| row.state).collect();
        assert_eq!(states, expect, "{:?}", gate.rows);
    };
    use State::{Improvement, Incomparable, Pass, Regression};
    let near = simulated(40_300_000, 1_501_000, |_| {});
    check(&near, &baseline, &[Pass, Pass]);
    let worse = simulated(40_500_000, 1_400_000, |_| {});
    check(&worse, &baseline, &[Regression, Improvement]);
    let caches = simulated(40_000_000, 1_500_000, |s| s.ll.bytes *= 2);
    check(&caches, &baseline, &[Pass, Incomparable]);
    let isa = simulated(40_000_000, 1_500_000, |s| s.isa = Some("scalar".into()));
    check(&isa, &baseline, &[Incomparable, Incomparable]);
    // A run that lost its simulation is not as good as its baseline; a baseline without one is silent.
    check(&run(&[100.0]), &baseline, &[Incomparable, Incomparable]);
    check(&near, &run(&[100.0]), &[]);
}

/// A run whose only case predicts a text with this perplexity, in windows of `ctx` tokens.
fn predicting(perplexity: f64, ctx: u32) -> Run {
    let mut run = run(&[100.0]);
    run.manifest.quality = Some(QualityPlan {
        corpus: "text.md".into(),
        corpus_sha256: "dd".into(),
        ctx,
        windows: None,
        base: QualityBase::Own("F32".into()),
    });
    run.quality.push(QualityRecord {
        schema_version: 1,
        case: "trial".into(),
        case_index: 0,
        started_at: String::new(),
        key: String::new(),
        from_cache: false,
        result: Quality::Measured(engine::quality::Figures {
            predictions: 10,
            perplexity,
            perplexity_error: 1.0,
            kld_mean: 0.1,
            kld_mean_error: 0.1,
            kld_p99: 0.2,
            top1_share: 0.9,
        }),
    });
    run
}

#[test]
fn quality_is_compared_on_the_same_text() {
    let perplexity: Vec<_> = Metric::by_name("perplexity").into_iter().collect();
    let state = |run: &Run, base: &Run| {
        gate(
            run,
            std::slice::from_ref(base),
            &perplexity,
            &Rule::default(),
        )
        .rows
    };
    let baseline = predicting(20.0, 512);
    let rows = [
        (predicting(20.1, 512), State::Pass),
        (predicting(21.0, 512), State::Regression),
        (predicting(19.0, 512), State::Improvement),
        (predicting(20.0, 256), State::Incomparable),
    ];
    for (run, expect) in rows {
        let found = state(&run, &baseline);
        assert_eq!(found.len(), 1);
        assert_eq!(found[0].state, expect, "{found:?}");
    }
    // A baseline without quality is silent about it.
    assert!(state(&predicting(20.0, 512), &run(&[100.0])).is_empty());
}
