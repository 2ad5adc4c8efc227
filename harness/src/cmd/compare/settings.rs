//! What is equal on both sides of a comparison, and what could not be made so.

use super::ways::Way;
use crate::record::{ReferenceKind, SecondEngine, Setting, marked};
use crate::repeat::cpu_mask;
use crate::scenario::{Case, PromptSpec, Scenario};
use engine::topology::Topology;

/// The settings of a comparison. What differs from case to case is said once, in general words.
pub(super) fn all(scenario: &Scenario, ways: &[Way], second: &SecondEngine) -> Vec<Setting> {
    if ways.is_empty() {
        let turns = match scenario.run.slice_ms {
            0 => "one repetition after the other".into(),
            ms => format!("slices of {ms} ms, all repetitions of a round at the same time"),
        };
        let differences = second.differences();
        let other = match differences.is_empty() {
            true => "the same".into(),
            false => marked(
                &format!("the same, but {}", differences.join(", ")),
                !second.lossy.is_empty(),
            ),
        };
        let same = differences.is_empty();
        return vec![
            setting("everything", "this program", other, same),
            setting("turns", turns.clone(), turns, true),
        ];
    }
    let has = |kind| ways.iter().any(|way| way.kind == kind && !way.is_text);
    let mut settings = vec![model(scenario), threads(scenario, ways)];
    if has(ReferenceKind::LlamaBench) {
        settings.extend(bench(scenario));
    }
    if has(ReferenceKind::LlamaCompletion) || has(ReferenceKind::LlamaCli) {
        settings.extend(generation(scenario));
    }
    if ways.iter().any(|way| way.kind != ReferenceKind::Command) {
        settings.extend(llama_cpp(scenario));
    }
    if has(ReferenceKind::Command) {
        settings.push(setting(
            "everything else",
            "as the scenario says",
            "as the program's own command says",
            false,
        ));
    }
    settings
}

fn setting(
    name: &str,
    engine: impl Into<String>,
    reference: impl Into<String>,
    equal: bool,
) -> Setting {
    Setting {
        name: name.into(),
        engine: engine.into(),
        reference: reference.into(),
        equal,
    }
}

/// What all cases agree in, or that they do not.
fn common(scenario: &Scenario, of: impl Fn(&Case) -> String) -> String {
    let mut all = scenario.cases.iter().map(of);
    let first = all.next().unwrap_or_default();
    match all.all(|other| other == first) {
        true => first,
        false => "as the case says".into(),
    }
}

fn model(scenario: &Scenario) -> Setting {
    let file = match scenario.cases.len() {
        1 => "the same file",
        _ => "the same file in each case",
    };
    setting("model", file, file, true)
}

fn threads(scenario: &Scenario, ways: &[Way]) -> Setting {
    let places = |case: &Case| {
        let e = &case.engine;
        let planned = Topology::detect().plan(&e.affinity, e.threads, e.oversubscribe);
        planned.unwrap_or_default()
    };
    let engine = common(scenario, |case| {
        let cpus = places(case);
        let pinned: Vec<String> = cpus.iter().flatten().map(usize::to_string).collect();
        match pinned.is_empty() {
            true => format!("{}, not pinned", cpus.len()),
            false => format!("{}, one on each of CPU {}", cpus.len(), pinned.join(", ")),
        }
    });
    let reference = common(scenario, |case| {
        let cpus = places(case);
        match cpu_mask(&cpus) {
            Some(mask) => format!("-t {} -C {mask} --cpu-strict 1", cpus.len()),
            None => format!("-t {}", cpus.len()),
        }
    });
    let others = ways.iter().any(|way| {
        let told = way.spec.as_ref().is_some_and(|spec| spec.threads.is_some());
        told || way.kind == ReferenceKind::Command
    });
    match others {
        true => {
            let reference = format!("{reference}, unless the row says otherwise");
            setting("threads and CPUs", engine, reference, false)
        }
        false => setting("threads and CPUs", engine, reference, true),
    }
}

/// What llama-bench does in another way.
fn bench(scenario: &Scenario) -> Vec<Setting> {
    let prompt = common(scenario, |case| match &case.prompt {
        PromptSpec::Tokens(n) => format!("{n} random tokens"),
        _ => "the text's tokens".into(),
    });
    let n_gen = common(scenario, |case| case.n_gen.to_string());
    vec![
        setting(
            "prompt",
            prompt,
            "as many random tokens (llama-bench)",
            false,
        ),
        setting(
            "tokens written",
            format!("{n_gen}, of which the first counts for the prompt"),
            format!("{n_gen}, after a context as long as the prompt"),
            true,
        ),
        setting(
            "choice of a token",
            "greedy, within the time measured",
            "none: the next token is random (llama-bench)",
            false,
        ),
        setting(
            "processes",
            "one for each repetition, warmed up within",
            "one each for prompt and writing, warmed up within",
            true,
        ),
    ]
}

/// What programs that generate do.
fn generation(scenario: &Scenario) -> Vec<Setting> {
    let n_gen = common(scenario, |case| case.n_gen.to_string());
    vec![
        setting(
            "prompt and tokens",
            format!("{n_gen} after the text"),
            "the same",
            true,
        ),
        setting(
            "choice of a token",
            "within the time measured",
            "not within the time it reports",
            false,
        ),
    ]
}

/// What all programs of llama.cpp share.
fn llama_cpp(scenario: &Scenario) -> Vec<Setting> {
    let batch = common(scenario, |case| case.engine.batch.to_string());
    let kv = common(scenario, |case| case.engine.kv.to_string());
    let isa = common(scenario, |case| {
        let word = serde_json::to_value(case.engine.isa).unwrap_or_default();
        word.as_str().unwrap_or("auto").to_owned()
    });
    let huge = common(scenario, |case| {
        let packed = match case.engine.packed_cache.as_os_str().is_empty() {
            true => "packed while loading",
            false => "mapped where an earlier load kept them, else packed",
        };
        let pages = match case.engine.huge_pages {
            true => "on huge pages where the system gives them",
            false => "on small pages",
        };
        format!("panels, {packed}, {pages}")
    });
    vec![
        setting(
            "keys and values",
            kv.clone(),
            format!("-ctk {kv} -ctv {kv}"),
            true,
        ),
        setting("batch", batch.clone(), format!("-b and -ub {batch}"), true),
        setting(
            "instruction set",
            format!("{isa}, chosen at run time"),
            "what it was built for",
            false,
        ),
        setting(
            "weights in memory",
            huge,
            "repacked while loading, or as in the file: both are rows",
            false,
        ),
        setting(
            "attention",
            "one pass over chunks of 256 positions",
            "flash attention on or off: both are rows",
            false,
        ),
        setting(
            "waiting threads",
            "spin, then sleep",
            "its default (--poll 50)",
            false,
        ),
    ]
}
