//! The run in sentences.

use super::ceiling;
use super::data::Group;
use super::format::{interval, number};
use crate::compare::TURNS;
use crate::host::plural;
use crate::record::{ENGINE, FailureKind, Run, Taint, above_peak};

/// What came out, in a few sentences. `groups` are those of the engine.
pub(super) fn summary(run: &Run, groups: &[&Group<'_>]) -> String {
    match groups {
        [group] if group.decode().is_some() => one_case(run, group),
        _ => many_cases(run, groups),
    }
}

fn one_case(run: &Run, group: &Group<'_>) -> String {
    let Some(decode) = group.decode() else {
        return nothing(run);
    };
    let model = run
        .manifest
        .models
        .get(group.case.model)
        .map_or("The model", |m| m.name.as_str());
    let threads = group.counted.iter().find_map(|s| s.threads);
    let threads = threads.map_or_else(String::new, |n| {
        format!(" on {}", plural(n as usize, "thread"))
    });
    let lossy = match group.case.engine.lossy_sparsity() {
        Some(_) => ", channels of small inputs left out (lossy),",
        None => "",
    };
    let mut text = format!(
        "{model}{lossy} decodes {} tokens a second{threads}",
        number(decode.median)
    );
    text += &match decode.interval {
        Some(i) => format!(
            " ({:.0} % interval {}, {})",
            i.confidence * 100.0,
            interval(decode.interval),
            plural(decode.values.len(), "repetition")
        ),
        None => " (measured once)".to_owned(),
    };
    text += &match group.estimate(|s| run.bw_pct(s)) {
        Some(share) if ceiling::fits_cache(run, group) == Some(true) => format!(
            ": {:.0} % of the read bandwidth of memory in the same rounds{}, but its weights fit into the cache.",
            share.median,
            above_peak(share.median)
        ),
        Some(share) => format!(
            ": {:.0} % of what this machine's memory gave in the same rounds{}.",
            share.median,
            above_peak(share.median)
        ),
        None => ".".to_owned(),
    };
    if let (Some(prefill), Some(ttft), Some(sample)) =
        (group.prefill(), group.ttft(), group.counted.first())
    {
        let share = group.estimate(|s| run.prefill_pct(s));
        let share = share.map_or_else(String::new, |e| {
            let beside = above_peak(e.median);
            format!(", {:.0} % of the arithmetic peak{beside}", e.median)
        });
        text += &format!(
            " A prompt of {} goes in at {} tokens a second{share}; the first token comes after {} ms.",
            plural(sample.n_prompt as usize, "token"),
            number(prefill.median),
            number(ttft.median)
        );
    }
    text += &disturbed(group.tainted(), group.counted.len());
    text
}

/// Whether something disturbed the repetitions, as a sentence after others.
fn disturbed(tainted: usize, counted: usize) -> String {
    match tainted {
        0 => " No repetition was disturbed.".to_owned(),
        n if n == counted => format!(" Every repetition was disturbed ({n} of {n})."),
        n => format!(" {n} of {counted} repetitions were disturbed."),
    }
}

fn many_cases(run: &Run, groups: &[&Group<'_>]) -> String {
    let mut rates: Vec<(f64, &str)> = groups
        .iter()
        .filter_map(|g| Some((g.decode()?.median, g.short.as_str())))
        .collect();
    rates.sort_by(|a, b| a.0.total_cmp(&b.0));
    let (Some(slowest), Some(fastest)) = (rates.first(), rates.last()) else {
        return nothing(run);
    };
    if rates.len() == 1 {
        return format!(
            "Of {} only \"{}\" gave a decode rate: {} tokens a second.",
            plural(run.manifest.cases.len(), "case"),
            fastest.1,
            number(fastest.0)
        );
    }
    let tainted = groups.iter().map(|g| g.tainted()).sum();
    let counted = groups.iter().map(|g| g.counted.len()).sum();
    format!(
        "Over {} the decode rate goes from {} tokens a second ({}) to {} ({}).{}",
        plural(rates.len(), "case"),
        number(slowest.0),
        slowest.1,
        number(fastest.0),
        fastest.1,
        disturbed(tainted, counted)
    )
}

fn nothing(run: &Run) -> String {
    match (run.samples.is_empty(), run.failures.len()) {
        (true, 0) => "Nothing was measured: the run ended before its first repetition.".to_owned(),
        (true, n) => format!("Nothing was measured: {} gave no result.", plural(n, "repetition")),
        (false, _) => "No decode rate was measured: fewer than two tokens came in every repetition that counts.".to_owned(),
    }
}

/// What readers must know before they trust a number; empty if nothing.
pub(super) fn problems(run: &Run, groups: &[Group<'_>]) -> Vec<String> {
    let mut list = Vec::new();
    let wrong = run
        .failures
        .iter()
        .filter(|f| f.kind == FailureKind::Mismatch)
        .count();
    if wrong > 0 {
        list.push(format!(
            "{} gave wrong output.",
            plural(wrong, "repetition")
        ));
    }
    let other = run.failures.len() - wrong;
    if other > 0 {
        list.push(format!("{} gave no result.", plural(other, "repetition")));
    }
    for group in groups.iter().filter(|g| g.same_output() == Some(false)) {
        list.push(format!(
            "The repetitions of \"{}\" differ in their output.",
            group.label
        ));
    }
    list.extend(disturbances(groups));
    let engines = groups.iter().filter(|g| g.runner == ENGINE);
    let engines: usize = engines.map(|g| g.counted.len()).sum();
    let turns = run.manifest.comparison.as_ref().map_or(1, |_| TURNS);
    let planned = run.manifest.rounds as usize * run.manifest.cases.len() * turns;
    if engines < planned {
        list.push(format!(
            "{engines} of {planned} planned repetitions of the engine count."
        ));
    }
    if run.manifest.binary.profile == "debug" {
        list.push("The program was built without optimisation.".to_owned());
    }
    for finding in run.manifest.host.warnings() {
        list.push(format!(
            "{}: {} ({}).",
            finding.topic, finding.found, finding.means
        ));
    }
    list
}

/// How many repetitions that count were disturbed, and by what; `None` if none was.
pub(super) fn disturbances(groups: &[Group<'_>]) -> Option<String> {
    let counted = || groups.iter().flat_map(|g| &g.counted);
    let tainted = groups.iter().map(Group::tainted).sum::<usize>();
    let mut kinds: Vec<(&str, usize)> = Vec::new();
    for sample in counted() {
        let mut names: Vec<&str> = sample.taint.iter().map(Taint::name).collect();
        names.sort_unstable();
        names.dedup();
        for name in names {
            match kinds.iter_mut().find(|(known, _)| *known == name) {
                Some((_, times)) => *times += 1,
                None => kinds.push((name, 1)),
            }
        }
    }
    kinds.sort_by_key(|(_, times)| std::cmp::Reverse(*times));
    let causes: Vec<String> = kinds
        .iter()
        .map(|(name, times)| format!("{times} by {name}"))
        .collect();
    (tainted > 0).then(|| {
        format!(
            "{tainted} of {} repetitions that count were disturbed: {}.",
            counted().count(),
            causes.join(", ")
        )
    })
}

/// The command that repeats the run.
pub(super) fn own_command(run: &Run) -> String {
    let scenario = &run.manifest.scenario;
    let verb = match &run.manifest.comparison {
        Some(_) => "compare",
        None => "run",
    };
    let mut command = format!("cargo run --release -- {verb} {}", quoted(&scenario.path));
    for text in &scenario.overrides {
        command += &format!(" --set {}", quoted(text));
    }
    command
}

/// A command line, quoted for a POSIX shell.
pub(super) fn command(argv: &[String]) -> String {
    let words: Vec<String> = argv.iter().map(|word| quoted(word)).collect();
    words.join(" ")
}

/// Quoted for a POSIX shell, where it needs to be.
fn quoted(text: &str) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || "-_./=,:+@%".contains(c);
    match !text.is_empty() && text.chars().all(plain) {
        true => text.to_owned(),
        false => format!("'{}'", text.replace('\'', r"'\''")),
    }
}

/// `2025-03-14T09:26:53Z` as `2025-03-14 09:26 UTC`; anything else as it is.
pub(super) fn instant(rfc3339: &str) -> String {
    match (
        rfc3339.get(..10),
        rfc3339.get(11..16),
        rfc3339.ends_with('Z'),
    ) {
        (Some(day), Some(minute), true) => format!("{day} {minute} UTC"),
        _ => rfc3339.to_owned(),
    }
}
