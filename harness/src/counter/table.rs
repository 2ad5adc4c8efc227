//! Figures from counts: per token, per part, with spread and source; and all of it in one sentence.

use super::group::{Event, Metric, WALL_CLOCK, event, groups};
use crate::record::{Absent, Count, Part, Sample, Source};
use crate::stats;
use std::collections::HashMap;

/// One figure of a case, over its repetitions.
#[derive(Debug, Clone, PartialEq)]
pub struct Row {
    /// Name of the group, see [`super::groups`]; empty for events that are in none.
    pub group: &'static str,
    /// The part it was counted in; `None` for a state at the end.
    pub part: Option<Part>,
    /// Name of the event or metric, as in records and columns.
    pub name: String,
    /// In words.
    pub title: String,
    /// Unit, `per token` not included; empty for plain counts and ratios.
    pub unit: String,
    /// Whether it is a number for each token.
    pub per_token: bool,
    /// Median over the repetitions; `None` if it is not available.
    pub value: Option<f64>,
    /// Median absolute deviation from it.
    pub mad: Option<f64>,
    /// Repetitions that know it.
    pub n: usize,
    /// The lowest rung of the ladder that any part of it stands on.
    pub source: Option<Source>,
    /// Smallest share of the time that a counter ran, from 0 to 1; `None` if nothing was multiplexed.
    pub running: Option<f64>,
    /// Whether other programs on the machine are in it.
    pub machine: bool,
    /// What it tells.
    pub meaning: &'static str,
    /// Why it is not available.
    pub absent: Option<Absent>,
}

impl Row {
    /// Where the number comes from, in words: `hardware, scaled (ran 62 % of the time)`.
    pub fn source_words(&self) -> String {
        let Some(source) = self.source else {
            return "not available".into();
        };
        let mut words = source.name().to_owned();
        if let Some(running) = self.running.filter(|&share| share < 1.0) {
            words += &format!(" (ran {:.0} % of the time)", running * 100.0);
        }
        if self.machine {
            words += ", whole machine";
        }
        words
    }
}

/// A figure of one repetition.
struct Figure {
    value: f64,
    source: Source,
    running: Option<f64>,
    machine: bool,
}

/// Figures of a case from its repetitions that count: in the order of the groups, events before what is made of them,
/// reading the prompt before writing.
pub fn table(samples: &[&Sample]) -> Vec<Row> {
    let mut rows = Vec::new();
    for group in groups() {
        for part in Part::ALL {
            for event in &group.events {
                rows.extend(event_row(
                    samples,
                    &group.name,
                    &event.name,
                    Some(event),
                    Some(part),
                ));
            }
            for metric in &group.metrics {
                rows.extend(metric_row(samples, &group.name, metric, Some(part)));
            }
        }
        for event in &group.events {
            rows.extend(event_row(
                samples,
                &group.name,
                &event.name,
                Some(event),
                None,
            ));
        }
        for metric in &group.metrics {
            rows.extend(metric_row(samples, &group.name, metric, None));
        }
    }
    let mut others: Vec<&str> = Vec::new();
    for counters in samples.iter().filter_map(|s| s.counters.as_ref()) {
        let counted = counters.all().map(|count| count.event.as_str());
        for name in counted.chain(counters.absent.iter().map(|a| a.event.as_str())) {
            if event(name).is_none() && !others.contains(&name) {
                others.push(name);
            }
        }
    }
    for part in Part::ALL {
        for name in &others {
            rows.extend(event_row(samples, "", name, None, Some(part)));
        }
    }
    rows
}

/// An event's row; `None` if nobody asked for it.
fn event_row(
    samples: &[&Sample],
    group: &'static str,
    name: &str,
    event: Option<&'static Event>,
    part: Option<Part>,
) -> Option<Row> {
    let figures = samples.iter().filter_map(|sample| {
        let count = counted(sample, part, name)?;
        let tokens = match part {
            Some(part) => tokens(sample, part)?,
            None => 1.0,
        };
        Some(Figure {
            value: count.value / tokens,
            source: count.source,
            running: count.running,
            machine: count.machine,
        })
    });
    let figures: Vec<Figure> = figures.collect();
    let absent = match figures.is_empty() {
        true => Some(samples.iter().find_map(|s| absent(s, part, name))?),
        false => None,
    };
    let row = Row {
        group,
        part,
        name: name.to_owned(),
        title: event.map_or(name, |e| &e.title).to_owned(),
        unit: event.map_or("", |e| &e.unit).to_owned(),
        per_token: part.is_some(),
        meaning: event.map_or("an event that the scenario asks for", |e| &e.meaning),
        absent: absent.cloned(),
        ..empty()
    };
    Some(over_repetitions(row, &figures))
}

/// A metric's row; `None` if some event of it is not there.
fn metric_row(
    samples: &[&Sample],
    group: &'static str,
    metric: &'static Metric,
    part: Option<Part>,
) -> Option<Row> {
    let figures = samples
        .iter()
        .filter_map(|sample| figure(sample, metric, part));
    let figures: Vec<Figure> = figures.collect();
    if figures.is_empty() {
        return None;
    }
    let row = Row {
        group,
        part,
        name: metric.name.clone(),
        title: metric.title.clone(),
        unit: metric.unit.clone(),
        per_token: metric.over.is_empty(),
        meaning: &metric.meaning,
        ..empty()
    };
    Some(over_repetitions(row, &figures))
}

fn empty() -> Row {
    Row {
        group: "",
        part: None,
        name: String::new(),
        title: String::new(),
        unit: String::new(),
        per_token: false,
        value: None,
        mad: None,
        n: 0,
        source: None,
        running: None,
        machine: false,
        meaning: "",
        absent: None,
    }
}

/// A row with the middle and the spread of its figures.
fn over_repetitions(row: Row, figures: &[Figure]) -> Row {
    let values: Vec<f64> = figures.iter().map(|f| f.value).collect();
    Row {
        value: stats::median(&values),
        mad: stats::mad(&values),
        n: values.len(),
        source: figures.iter().map(|f| f.source).max(),
        running: figures
            .iter()
            .filter_map(|f| f.running)
            .min_by(f64::total_cmp),
        machine: figures.iter().any(|f| f.machine),
        ..row
    }
}

/// A metric of one repetition; `None` if an event of it is not there, or its divisor is 0.
fn figure(sample: &Sample, metric: &Metric, part: Option<Part>) -> Option<Figure> {
    let mut figure = Figure {
        value: 0.0,
        source: Source::Hardware,
        running: None,
        machine: false,
    };
    let mut sum = |names: &[String]| {
        let mut sum = 0.0;
        for name in names {
            if name == WALL_CLOCK {
                sum += wall_ns(sample, part?)?;
                continue;
            }
            let count = counted(sample, part, name)?;
            sum += count.value;
            figure.source = figure.source.max(count.source);
            figure.machine |= count.machine;
            let smaller = |a: f64, b: f64| a.min(b);
            figure.running = match (figure.running, count.running) {
                (Some(a), Some(b)) => Some(smaller(a, b)),
                (a, b) => a.or(b),
            };
        }
        Some(sum)
    };
    let of = sum(&metric.of)?;
    let over = match metric.over.is_empty() {
        true => tokens(sample, part?)?,
        false => sum(&metric.over)?,
    };
    figure.value = of / over * metric.scale;
    figure.value.is_finite().then_some(figure)
}

/// How often an event happened for each token of a part, and where that number comes from.
pub fn per_token(sample: &Sample, part: Part, event: &str) -> Option<(f64, Source)> {
    let count = counted(sample, Some(part), event)?;
    Some((count.value / tokens(sample, part)?, count.source))
}

fn counted<'a>(sample: &'a Sample, part: Option<Part>, name: &str) -> Option<&'a Count> {
    let counters = sample.counters.as_ref()?;
    let counts = part.map_or(&counters.end[..], |part| counters.part(part));
    counts.iter().find(|count| count.event == name)
}

/// Why an event is missing in a part. What is missing altogether shows once, in the part that writes.
fn absent<'a>(sample: &'a Sample, part: Option<Part>, name: &str) -> Option<&'a Absent> {
    let missing = &sample.counters.as_ref()?.absent;
    let here = |a: &&Absent| {
        a.event == name && a.part.unwrap_or(Part::Decode) == part.unwrap_or(Part::Prefill)
    };
    missing.iter().find(here)
}

/// Tokens of a part: those of the prompt, or those written after the first.
fn tokens(sample: &Sample, part: Part) -> Option<f64> {
    let tokens = match part {
        Part::Prefill => sample.n_prompt as usize,
        Part::Decode => sample.n_out().checked_sub(1)?,
    };
    (tokens > 0).then_some(tokens as f64)
}

/// Wall time of a part in nanoseconds.
fn wall_ns(sample: &Sample, part: Part) -> Option<f64> {
    match part {
        Part::Prefill => Some(sample.ttft_ms()? * 1e6),
        Part::Decode => Some(sample.decode_s()? * 1e9),
    }
}

/// What was counted, or why not, in one sentence without a full stop.
pub fn sentence(samples: &[&Sample]) -> String {
    let all: Vec<_> = samples.iter().filter_map(|s| s.counters.as_ref()).collect();
    if all.is_empty() {
        return "nothing was counted".into();
    }
    let rows = table(samples);
    let decode = || rows.iter().filter(|row| row.part == Some(Part::Decode));
    let hardware = |row: &&Row| row.source.is_some_and(|source| source <= Source::UserOnly);
    let missing: Vec<&Absent> = all.iter().flat_map(|c| &c.absent).collect();
    let why = most_frequent(&missing).map(|absent| match &absent.remedy {
        Some(remedy) => format!("{}; what would help: {remedy}", absent.reason),
        None => absent.reason.clone(),
    });
    if decode().any(|row| hardware(&row) && !row.machine) {
        let worst = decode().filter(hardware).max_by_key(|row| row.source);
        let words = worst.map(Row::source_words).unwrap_or_default();
        let mut text = format!("events of the CPU were counted ({words})");
        if let Some(ipc) = decode()
            .find(|row| row.name == "ipc")
            .and_then(|row| row.value)
        {
            text += &format!(", {ipc:.2} instructions per cycle while decoding");
        }
        if let Some(why) = why {
            text += &format!("; some are missing: {why}");
        }
        return text;
    }
    let asked = rows.iter().any(|row| row.absent.is_some());
    match why.filter(|_| asked) {
        Some(why) => format!("no hardware counters: {why}"),
        None => "no hardware counters were asked for".into(),
    }
}

/// The reason that most events share.
fn most_frequent<'a>(missing: &[&'a Absent]) -> Option<&'a Absent> {
    let mut times: HashMap<&str, usize> = HashMap::new();
    for absent in missing {
        *times.entry(&absent.reason).or_default() += 1;
    }
    // The first one of equals, so that the sentence does not change by itself.
    missing
        .iter()
        .rev()
        .max_by_key(|a| times[a.reason.as_str()])
        .copied()
}

/// A count with three digits and a power of thousand: `412 k`, `1.93`.
pub fn amount(value: f64) -> String {
    let units = ["", " k", " M", " G", " T"];
    let mut scaled = value;
    let mut unit = 0;
    while scaled.abs() >= 999.5 && unit + 1 < units.len() {
        scaled /= 1000.0;
        unit += 1;
    }
    let digits = match scaled.abs() {
        0.0 => 0,
        x if x < 9.995 => 2,
        x if x < 99.95 => 1,
        _ => 0,
    };
    format!("{scaled:.digits$}{}", units[unit])
}
