use super::*;
use crate::record::tests::{manifest, sample};
use crate::record::{
    Count, Counters, Failure, FailureKind, Phase, ReferenceCommand, ReferenceKind, Refused,
    Reported, SCHEMA_VERSION, Source, Taint, Usage,
};

/// Other programs of the one case, with these names.
fn plan(names: &[&str]) -> ComparisonPlan {
    let reference = |name: &&str| ReferencePlan {
        case: 0,
        runner: (*name).into(),
        title: format!("{name} v1"),
        kind: ReferenceKind::LlamaBench,
        commands: vec![],
        n_prompt: 10,
        n_gen: 4,
        sha256: None,
    };
    ComparisonPlan {
        references: names.iter().map(reference).collect(),
        refused: vec![],
        second: SecondEngine::default(),
        settings: vec![],
        texts: vec![],
    }
}

fn run(plan: ComparisonPlan) -> Run {
    let mut run = Run::empty(manifest());
    run.manifest.comparison = Some(plan);
    run
}

/// One turn of a runner that decodes at `rate` and reads the prompt ten times as fast.
fn turn(runner: &str, round: u32, position: u32, rate: f64) -> Sample {
    let mut turn = Sample {
        runner: runner.into(),
        round,
        position,
        ..sample()
    };
    if runner.starts_with(ENGINE) {
        let first = 1e9 * 10.0 / (10.0 * rate);
        let arrivals = (0..4).map(|i| (first + f64::from(i) * 1e9 / rate) as u64);
        turn.arrival_ns = arrivals.collect();
    } else {
        turn.arrival_ns = vec![];
        turn.output_ids = vec![];
        turn.output_sha256 = String::new();
        turn.reported = Some(Reported {
            prefill_tok_s: Some(10.0 * rate),
            decode_tok_s: Some(rate),
        });
    }
    turn
}

/// Rounds in mirrored order in which each runner has its rate, times a drift that rises from turn to turn.
fn measured(plan: ComparisonPlan, rounds: u32, rates: &[(&str, f64)]) -> Run {
    let mut run = run(plan);
    for round in 0..rounds {
        let order = rates.iter().chain(rates.iter().rev());
        for (position, (runner, rate)) in order.enumerate() {
            let drift = 1.0 + 0.01 * f64::from(position as u32) + 0.05 * f64::from(round);
            let position = position as u32;
            run.samples
                .push(turn(runner, round, position, rate * drift));
        }
    }
    run
}

fn decode(run: &Run) -> PhaseResult {
    let result = compare(run).expect("a comparison");
    result.cases[0].phases[0].clone()
}

#[test]
fn a_run_without_a_plan_is_no_comparison() {
    assert_eq!(compare(&Run::empty(manifest())), None);
}

#[test]
fn the_row_that_looks_best_decides() {
    let rates = [("engine", 200.0), ("slow", 50.0), ("fast", 100.0)];
    let run = measured(plan(&["slow", "fast"]), 12, &rates);
    let result = compare(&run).expect("a comparison");
    let phases = &result.cases[0].phases;
    assert_eq!(phases.len(), 2);
    for phase in phases {
        assert_eq!((phase.best, phase.verdict), (Some(1), "faster"));
        let judged = phase.judged.expect("judged");
        // The drift within a round meets all alike.
        assert!((judged.change.ratio - 2.0).abs() < 0.01, "{judged:?}");
        assert_eq!((judged.change.rounds, phase.rounds.len()), (12, 12));
        let slow = phase.others[0].change.expect("a change");
        assert!((slow.ratio - 4.0).abs() < 0.02, "{slow:?}");
        let words = "the engine is faster than fast v1: 2.0";
        assert!(phase.sentence.contains(words), "{}", phase.sentence);
    }
    assert!((phases[1].others[1].median.expect("a rate") / 1000.0 - 1.2).abs() < 0.2);
}

#[test]
fn the_choice_is_by_rounds_and_not_by_medians() {
    let mut run = measured(plan(&["a", "b"]), 12, &[("engine", 100.0), ("b", 90.0)]);
    // Better than "b" in the rounds that both saw, but only in the slow ones at the beginning.
    for round in 0..7 {
        for position in [4, 5] {
            let drift = 1.015 + 0.05 * f64::from(round);
            run.samples.push(turn("a", round, position, 95.0 * drift));
        }
    }
    let result = decode(&run);
    assert_eq!(result.best, Some(0));
    assert!(result.others[0].median < result.others[1].median);
    assert_eq!(result.rounds.len(), 7);
    // With fewer than half of the rounds it is left aside.
    run.samples.retain(|s| s.runner != "a" || s.round < 5);
    assert_eq!(decode(&run).best, Some(1));
}

#[test]
fn the_engine_against_itself() {
    let mut itself = plan(&[]);
    let rates = [("engine", 100.0), (ENGINE_AGAIN, 100.0)];
    let same = decode(&measured(itself.clone(), 12, &rates));
    assert_eq!(same.verdict, "no difference", "{}", same.sentence);
    // Its two turns in a round are three places apart: 3 %.
    let floor = same.judged.and_then(|j| j.floor).expect("a floor");
    assert!((floor - 0.026).abs() < 0.004, "{floor}");
    itself.second.slow_down_percent = 12.0;
    let slowed = decode(&measured(itself, 12, &[rates[0], (ENGINE_AGAIN, 88.0)]));
    assert_eq!(slowed.verdict, "slower");
    let words = "the engine slowed by 12 % is slower than the engine: 0.88";
    assert!(slowed.sentence.contains(words), "{}", slowed.sentence);
}

#[test]
fn few_rounds_decide_nothing() {
    let rates = [("engine", 200.0), ("other", 100.0)];
    let result = decode(&measured(plan(&["other"]), 2, &rates));
    assert_eq!(result.verdict, "inconclusive");
    assert!(
        result.sentence.contains("needs about 12 rounds"),
        "{}",
        result.sentence
    );
    let result = decode(&measured(plan(&["other"]), 1, &rates));
    assert_eq!((result.verdict, result.judged), (NOT_COMPARED, None));
    assert!(result.sentence.contains("fewer than two whole rounds"));
}

use super::words::NOT_COMPARED;

#[test]
fn a_round_with_a_missing_turn_is_left_out() {
    let rates = [("engine", 200.0), ("other", 100.0)];
    let mut run = measured(plan(&["other"]), 13, &rates);
    let lost = run.samples.iter().position(|s| s.runner == "other");
    run.samples.remove(lost.expect("a turn"));
    run.samples[5].taint = vec![Taint::Steal { ms: 9.0 }];
    let result = decode(&run);
    let rounds: Vec<u32> = result.rounds.iter().map(|r| r.round).collect();
    assert!(rounds.iter().copied().eq(1..13), "{rounds:?}");
    assert!(result.rounds[0].tainted && !result.rounds[1].tainted);
    assert!(result.rounds.iter().all(|r| r.itself.is_some()));
}

fn failure(runner: &str, message: &str) -> Failure {
    Failure {
        schema_version: SCHEMA_VERSION,
        case: "trial".into(),
        case_index: 0,
        round: 0,
        position: 0,
        phase: Phase::Measured,
        runner: runner.into(),
        started_at: String::new(),
        kind: FailureKind::Timeout,
        message: message.into(),
        stderr: String::new(),
    }
}

#[test]
fn what_fails_is_a_row_with_its_error() {
    let mut all = plan(&["good", "hangs"]);
    all.refused.push(Refused {
        case: 0,
        runner: "old".into(),
        title: "old v0".into(),
        reason: "no --repack".into(),
    });
    let mut run = measured(all, 12, &[("engine", 200.0), ("good", 100.0)]);
    run.failures
        .push(failure("hangs", "not done within 9 s, killed"));
    let result = decode(&run);
    assert_eq!((result.best, result.others.len()), (Some(0), 3));
    let errors: Vec<_> = result.others.iter().map(|r| r.error.as_deref()).collect();
    let timeout = "not done within 9 s, killed";
    assert_eq!(errors, [None, Some(timeout), Some("no --repack")]);
    assert_eq!(result.others[1].failures, 1);

    run.samples.retain(|s| s.runner == ENGINE);
    let alone = decode(&run);
    assert_eq!(
        (alone.verdict, alone.subject.values.len()),
        (NOT_COMPARED, 24)
    );
    assert!(
        alone.sentence.contains("hangs v1: not done"),
        "{}",
        alone.sentence
    );
}

#[test]
fn texts_are_held_against_each_other() {
    let mut with_text = plan(&["other"]);
    with_text.texts = plan(&["writer"]).references;
    let rates = [("engine", 200.0), ("other", 100.0)];
    let mut run = measured(with_text, 2, &rates);
    let check = |run: &Run| compare(run).expect("a comparison").cases[0].text.clone();
    assert_eq!(check(&run), None);
    run.failures.push(failure("writer", "no"));
    let failed = check(&run).expect("a failure");
    assert!(
        failed.sentence().contains("failed: no"),
        "{}",
        failed.sentence()
    );

    let mut writer = turn("writer", 0, 9, 1.0);
    writer.phase = Phase::Warmup;
    writer.output_text = "text\n".into();
    run.samples.push(writer);
    let title = "writer v1".to_owned();
    assert_eq!(check(&run), Some(TextCheck::Equal { title, chars: 4 }));
    // It is no row of results.
    assert!(
        summary::summaries(&run)
            .iter()
            .all(|s| s.runner != "writer")
    );

    run.samples.last_mut().expect("a text").output_text = "tessera".into();
    let found = check(&run).expect("a check");
    assert!(
        matches!(found, TextCheck::Differs { at_char: 2, .. }),
        "{found:?}"
    );
    assert!(found.sentence().contains("after 2 of 4 characters"));
    run.samples.last_mut().expect("a text").output_text = "te".into();
    let found = check(&run).expect("a check");
    assert!(
        matches!(found, TextCheck::Differs { at_char: 2, .. }),
        "{found:?}"
    );
}

#[test]
fn rates_are_explained_by_the_engines_own_count() {
    let rates = [("engine", 200.0), ("other", 100.0)];
    let mut run = measured(plan(&["other"]), 12, &rates);
    let result = decode(&run);
    // 1,000,300 bytes a token, see the sample; no probe was taken.
    let (ours, theirs) = (result.subject.achieved, result.others[0].achieved);
    let ratio = ours.expect("known") / theirs.expect("known");
    assert!((ratio - 2.0).abs() < 0.01, "{ratio}");
    assert_eq!(result.subject.of_peak_pct, None);
    let words = result.reasons.join("; ");
    assert!(words.contains("a token reads 1.0 MB"), "{words}");
    assert!(words.contains("the peak is unknown"), "{words}");
    let usage = |faults| Usage {
        minor_faults: Some(faults),
        involuntary_switches: Some(2),
        user_ms: Some(1000.0),
        system_ms: Some(500.0),
        wall_ms: Some(1250.0),
        ..Usage::default()
    };
    assert!(
        words.contains("instructions and clock frequency: unknown"),
        "{words}"
    );
    for sample in &mut run.samples {
        sample.usage = usage(if sample.runner == ENGINE { 5 } else { 700 });
        // Three tokens are written after the first.
        let count = |event: &str, value| Count {
            event: event.into(),
            value,
            source: Source::Hardware,
            running: None,
            machine: false,
        };
        let decode = vec![count("instructions", 6e6), count("cycles", 3e6)];
        sample.counters = (sample.runner == ENGINE).then(|| Counters {
            decode,
            ..Counters::default()
        });
    }
    let phases = compare(&run).expect("a comparison").cases.remove(0).phases;
    let words = phases[0].reasons.join("; ");
    assert!(words.contains("1.50 s in 1.25 s for the engine"), "{words}");
    let counted = "2.00 M in 1.00 M cycles for the engine, unknown for other v1";
    assert!(words.contains(counted), "{words}");
    assert!(!words.contains("clock frequency"), "{words}");
    assert!(
        words.contains("700 faults and 2 forced switches for other v1"),
        "{words}"
    );
    assert!(!phases[1].reasons.join("; ").contains("CPU time"));
}

#[test]
fn a_variant_that_is_clearly_slower_needs_no_more_rounds() {
    let rates = [
        ("engine", 200.0),
        ("slow", 80.0),
        ("fast", 100.0),
        ("near", 95.0),
    ];
    let names = ["slow", "fast", "near"];
    assert_eq!(left_aside(&measured(plan(&names), 2, &rates)), []);
    let slow = [(0, "slow".to_owned())];
    let mut run = measured(plan(&names), 3, &rates);
    assert_eq!(left_aside(&run), slow);
    assert!(!decode(&run).reasons.join("; ").contains("left aside"));
    // One phase in which nobody beats it keeps it.
    for sample in run.samples.iter_mut().filter(|s| s.runner == "slow") {
        let reported = sample.reported.expect("a reference");
        sample.reported = Some(Reported {
            prefill_tok_s: reported.prefill_tok_s.map(|rate| 1.2 * rate),
            ..reported
        });
    }
    assert_eq!(left_aside(&run), []);
    // Another program is no variant.
    let mut other = measured(plan(&names), 3, &rates);
    let argv = ["another".to_owned()].to_vec();
    let command = |argv| ReferenceCommand {
        argv,
        figures: Default::default(),
    };
    let comparison = other.manifest.comparison.as_mut().expect("a plan");
    comparison.references[0].commands = vec![command(argv)];
    assert_eq!(left_aside(&other), []);

    let mut run = measured(plan(&names), 12, &rates);
    run.samples.retain(|s| s.runner != "slow" || s.round < 3);
    assert_eq!(left_aside(&run), slow);
    let result = decode(&run);
    assert_eq!(result.best, Some(1));
    let words = result.reasons.join("; ");
    assert!(
        words.contains("a tenth in each of its rounds: slow v1 after 6 repetitions"),
        "{words}"
    );
}

#[test]
fn every_runner_is_a_line_of_csv() {
    let rates = [("engine", 200.0), ("slow", 50.0), ("fast", 100.0)];
    let run = measured(plan(&["slow", "fast"]), 12, &rates);
    let bytes = csv(&compare(&run).expect("a comparison")).expect("csv");
    let text = String::from_utf8(bytes).expect("utf-8");
    let lines: Vec<&str> = text.lines().collect();
    assert_eq!(lines.len(), 1 + 2 * 3);
    assert!(lines[0].starts_with("schema_version,case,phase,runner,"));
    assert!(lines[1].starts_with("1,trial,decode,engine,the engine,24,"));
    assert!(
        lines[2].contains(",false,") && !lines[2].contains("faster"),
        "{}",
        lines[2]
    );
    assert!(
        lines[3].contains(",true,") && lines[3].contains(",faster,"),
        "{}",
        lines[3]
    );
}
