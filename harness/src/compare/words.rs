//! The result of a comparison in sentences, for terminals and reports alike.

use super::{PhaseResult, Rate, Row, TextCheck};
use crate::counter;
use crate::host::plural;
use crate::record::above_peak;
use crate::verdict::{Judged, Verdict};

/// Verdict where there is none.
pub(super) const NOT_COMPARED: &str = "not compared";
/// Said where no hardware counter was read.
const NOT_COUNTED: &str = "instructions and clock frequency: unknown, as no hardware counter was read (harness doctor says what would help)";
/// Share of the peak from which on a program is called bound by it, in percent.
const BOUND_PCT: f64 = 80.0;

/// The verdict, the ratio, its interval, and what it is held against.
pub(super) fn sentence(result: &PhaseResult) -> String {
    let (name, subject) = (result.rate.name(), &result.subject.title);
    let against = result.best.map(|i| &result.others[i]);
    let Some((judged, against)) = result.judged.zip(against) else {
        return format!("{name}: {NOT_COMPARED}: {}", why_not(result));
    };
    let change = judged.change;
    let said = match judged.verdict {
        Verdict::Improvement => format!("{subject} is faster than {}", against.title),
        Verdict::Regression => format!("{subject} is slower than {}", against.title),
        Verdict::Pass => format!(
            "no difference between {subject} and {} that counts",
            against.title
        ),
        Verdict::Inconclusive => format!(
            "inconclusive between {subject} and {}, {}",
            against.title,
            needs(&judged)
        ),
    };
    let floor = judged.floor.map_or("unknown".to_owned(), percent);
    format!(
        "{name}: {said}: {:.3} times its rate ({:.0} % interval {:.3} to {:.3}, {}); the engine against itself shows {floor}; a change of {} would have been found",
        change.ratio,
        100.0 * change.interval.confidence,
        change.interval.low,
        change.interval.high,
        plural(change.rounds, "round"),
        percent(judged.detectable),
    )
}

/// How many rounds an inconclusive comparison needs.
pub(super) fn needs(judged: &Judged) -> String {
    match judged.rounds_advised {
        Some(rounds) => format!("needs about {rounds} rounds"),
        None => "this machine is too noisy for any sensible number of rounds".into(),
    }
}

/// Why there is no ratio.
fn why_not(result: &PhaseResult) -> String {
    let errors = std::iter::once(&result.subject)
        .chain(&result.others)
        .filter_map(|row| Some(format!("{}: {}", row.title, row.error.as_ref()?)));
    let errors: Vec<String> = errors.collect();
    match errors.is_empty() {
        true => "fewer than two whole rounds were measured".into(),
        false => errors.join("; "),
    }
}

/// What explains a difference.
pub(super) fn reasons(result: &PhaseResult, decode_bytes: Option<f64>) -> Vec<String> {
    let Some(against) = result.best.map(|i| &result.others[i]) else {
        return vec![];
    };
    let subject = &result.subject;
    let mut all = Vec::new();
    all.extend(ceiling(result.rate, subject, against, decode_bytes));
    all.extend(bound(result.rate, subject, against));
    all.extend(instructions(subject, against));
    all
}

/// What is known of whole repetitions, reading and writing together.
pub(super) fn whole_reasons(result: &PhaseResult) -> Vec<String> {
    let Some(against) = result.best.map(|i| &result.others[i]) else {
        return vec![];
    };
    let both = (&result.subject, against);
    let counted = both.0.instructions.or(both.1.instructions);
    let unknown = counted.is_none().then(|| NOT_COUNTED.to_owned());
    cpu_time(both.0, both.1)
        .into_iter()
        .chain(events(both.0, both.1))
        .chain(unknown)
        .collect()
}

/// What the rates mean, as shares of the peaks of the same rounds.
fn ceiling(rate: Rate, a: &Row, b: &Row, decode_bytes: Option<f64>) -> Option<String> {
    let side = |row: &Row| {
        let unit = rate.achieved_unit();
        let share = match row.of_peak_pct {
            Some(pct) => format!(
                "{pct:.0} % of the peak of the same rounds{}",
                above_peak(pct)
            ),
            None => "the peak is unknown".into(),
        };
        Some(format!(
            "{:.1} {unit} ({share}) for {}",
            row.achieved?, row.title
        ))
    };
    let what = match rate {
        Rate::Decode => format!("a token reads {:.1} MB", decode_bytes? / 1e6),
        Rate::Prefill => "the same operations".into(),
    };
    Some(format!("{what}: {}, {}", side(a)?, side(b)?))
}

/// Whether the ceiling holds one of them back.
fn bound(rate: Rate, a: &Row, b: &Row) -> Option<String> {
    let what = match rate {
        Rate::Decode => "memory",
        Rate::Prefill => "arithmetic",
    };
    let near = |row: &Row| row.of_peak_pct.map(|pct| pct >= BOUND_PCT);
    Some(match (near(a)?, near(b)?) {
        (true, true) => format!("both are near the ceiling of {what}"),
        (true, false) => format!(
            "{} is near the ceiling of {what}, {} is not: it loses time to something else",
            a.title, b.title
        ),
        (false, true) => format!(
            "{} is near the ceiling of {what}, {} is not: it loses time to something else",
            b.title, a.title
        ),
        (false, false) => format!(
            "neither is near the ceiling of {what}: the difference lies in instructions, waiting or overhead"
        ),
    })
}

/// Variants that were not run to the end.
pub(super) fn left_aside(others: &[Row]) -> Option<String> {
    let most = others.iter().map(|row| row.values.len()).max()?;
    let aside = others
        .iter()
        .filter(|row| row.left_aside && row.values.len() < most);
    let aside: Vec<String> = aside
        .map(|row| {
            format!(
                "{} after {}",
                row.title,
                plural(row.values.len(), "repetition")
            )
        })
        .collect();
    (!aside.is_empty()).then(|| {
        format!(
            "left aside, as another variant was faster by a tenth in each of its rounds: {}",
            aside.join(", ")
        )
    })
}

/// Instructions, and the cycles, a token; unknown is said.
fn instructions(a: &Row, b: &Row) -> Option<String> {
    a.instructions.or(b.instructions)?;
    let side = |row: &Row| {
        let Some(instructions) = row.instructions else {
            return format!("unknown for {}", row.title);
        };
        let cycles = row.cycles.map_or(String::new(), |cycles| {
            format!(" in {} cycles", counter::amount(cycles))
        });
        format!(
            "{}{cycles} for {}",
            counter::amount(instructions),
            row.title
        )
    };
    Some(format!(
        "instructions a token, all threads: {}, {}",
        side(a),
        side(b)
    ))
}

fn cpu_time(a: &Row, b: &Row) -> Option<String> {
    let side = |row: &Row| {
        let (cpu, wall) = (row.used.cpu_ms?, row.used.wall_ms?);
        Some(format!(
            "{:.2} s in {:.2} s for {}",
            cpu / 1e3,
            wall / 1e3,
            row.title
        ))
    };
    Some(format!(
        "CPU time of all processes of a repetition, loading included: {}, {}",
        side(a)?,
        side(b)?
    ))
}

fn events(a: &Row, b: &Row) -> Option<String> {
    let side = |row: &Row| {
        let used = row.used;
        Some(format!(
            "{:.0} faults and {:.0} forced switches for {}",
            used.minor_faults?, used.involuntary_switches?, row.title
        ))
    };
    Some(format!(
        "page faults and context switches: {}, {} (of the engine while it was timed, of others in their whole life)",
        side(a)?,
        side(b)?
    ))
}

impl TextCheck {
    /// The check in a sentence.
    pub fn sentence(&self) -> String {
        match self {
            TextCheck::Equal { title, chars } => {
                format!("text: the same as that of {title}, {chars} characters")
            }
            TextCheck::Differs {
                title,
                at_char,
                chars,
                engine,
                other,
            } => format!(
                "text: differs from that of {title} after {at_char} of {chars} characters: \"{}\" there, \"{}\" here; where two tokens are nearly as likely, rounding decides",
                other.escape_debug(),
                engine.escape_debug()
            ),
            TextCheck::Failed { title, message } => {
                format!("text: not checked, {title} failed: {message}")
            }
        }
    }
}

/// A share as a percentage.
fn percent(share: f64) -> String {
    format!("{:.1} %", 100.0 * share)
}
