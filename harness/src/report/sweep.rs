//! Rates over swept keys: lines over a number, the knee of thread scaling, grids of two keys.

use super::data::{Estimate, Group};
use crate::record::{CaseRecord, Run, Sample};
use serde_json::Value;
use std::collections::BTreeSet;

/// The key whose scaling has a knee.
pub(super) const THREADS: &str = "engine.threads";
/// A step in threads must bring at least this share of what a proportional rate would.
const KNEE_SHARE: f64 = 0.5;
/// Most grids of a run.
const GRIDS_MAX: usize = 8;

/// Decode rate over a swept number.
#[derive(Debug)]
pub(super) struct Sweep {
    /// The number's key.
    pub key: String,
    /// One line for each setting of the other keys.
    pub lines: Vec<Line>,
}

/// One line of a sweep.
#[derive(Debug)]
pub(super) struct Line {
    /// The other keys and their values; empty if there are none.
    pub name: String,
    /// Its points, by the number.
    pub points: Vec<Point>,
}

/// One case of a sweep.
#[derive(Debug)]
pub(super) struct Point {
    /// The number.
    pub x: f64,
    /// Decode rate in tokens a second.
    pub rate: Estimate,
    /// The rate at which the read bandwidth of the same rounds would be used up.
    pub ceiling: Option<f64>,
    /// Whether a repetition that counts was disturbed.
    pub tainted: bool,
}

/// Decode rates of two swept keys.
#[derive(Debug, PartialEq)]
pub(super) struct Grid {
    /// What the remaining keys are set to; empty if there are none.
    pub name: String,
    /// Key of the rows and their values.
    pub rows: (String, Vec<String>),
    /// Key of the columns and their values.
    pub columns: (String, Vec<String>),
    /// Medians by row and column; `None` where nothing was measured.
    pub cells: Vec<Vec<Option<f64>>>,
}

impl Line {
    /// Where more threads stop paying: the last number before a step that brings less than [`KNEE_SHARE`] of what a
    /// proportional rate would. `None` if every step pays.
    pub(super) fn knee(&self) -> Option<f64> {
        let step = self.points.windows(2).find(|pair| {
            let (a, b) = (&pair[0], &pair[1]);
            let gained = b.rate.median / a.rate.median - 1.0;
            gained < KNEE_SHARE * (b.x / a.x - 1.0)
        });
        step.map(|pair| pair[0].x)
    }
}

/// Whether several keys were swept and each case departs from the first in one of them: there is nothing to be seen over any.
fn depart_one_at_a_time(groups: &[&Group<'_>]) -> bool {
    let Some((first, rest)) = groups.split_first() else {
        return false;
    };
    let departing = |group: &&Group<'_>| -> Vec<String> {
        let keys = group.case.swept.iter();
        let keys = keys.filter(|(key, value)| first.case.swept.get(*key) != Some(*value));
        keys.map(|(key, _)| key.clone()).collect()
    };
    let departures: Vec<Vec<String>> = rest.iter().map(departing).collect();
    let keys: BTreeSet<&String> = departures.iter().flatten().collect();
    keys.len() > 1 && departures.iter().all(|keys| keys.len() < 2)
}

/// The sweep of a run; `None` if no number was swept, or only one of several keys at a time, or nothing was measured.
pub(super) fn sweep(run: &Run, groups: &[&Group<'_>]) -> Option<Sweep> {
    if depart_one_at_a_time(groups) {
        return None;
    }
    let key = axis(groups)?;
    let mut lines: Vec<Line> = Vec::new();
    for group in groups {
        let x = group.case.swept.get(&key).and_then(Value::as_f64);
        let Some((x, rate)) = x.zip(group.decode()) else {
            continue;
        };
        let name = others(group.case, &[&key]);
        let at = lines.iter().position(|line| line.name == name);
        let at = at.unwrap_or_else(|| {
            lines.push(Line {
                name,
                points: Vec::new(),
            });
            lines.len() - 1
        });
        let ceiling = |s: &Sample| Some(run.peak_gb_s(s)? * 1e9 / s.decode_bytes_per_token()?);
        lines[at].points.push(Point {
            x,
            rate,
            ceiling: group.estimate(ceiling).map(|e| e.median),
            tainted: group.tainted() > 0,
        });
    }
    for line in &mut lines {
        line.points.sort_by(|a, b| a.x.total_cmp(&b.x));
    }
    (!lines.is_empty()).then_some(Sweep { key, lines })
}

/// The swept key that makes the best horizontal axis: threads; else the number with the most values.
fn axis(groups: &[&Group<'_>]) -> Option<String> {
    let mut best: Option<(usize, &String)> = None;
    for key in groups.first()?.case.swept.keys() {
        let values: Option<Vec<f64>> = groups
            .iter()
            .map(|g| g.case.swept.get(key)?.as_f64())
            .collect();
        let Some(mut values) = values else { continue };
        values.sort_by(f64::total_cmp);
        values.dedup();
        let weight = match key == THREADS {
            true => usize::MAX,
            false => values.len(),
        };
        if values.len() >= 2 && best.is_none_or(|(most, _)| weight > most) {
            best = Some((weight, key));
        }
    }
    best.map(|(_, key)| key.clone())
}

/// Grids of the first two keys that have two values or more, one for each setting of the others.
pub(super) fn grids(groups: &[&Group<'_>]) -> Vec<Grid> {
    let Some(first) = groups.first().filter(|_| !depart_one_at_a_time(groups)) else {
        return vec![];
    };
    let values = |key: &str| {
        let mut all: Vec<String> = Vec::new();
        for group in groups {
            let text = group.case.swept.get(key).map_or(String::new(), text);
            if !all.contains(&text) {
                all.push(text);
            }
        }
        all
    };
    let keys = first
        .case
        .swept
        .keys()
        .map(|key| (key.clone(), values(key)));
    let mut keys: Vec<_> = keys.filter(|(_, values)| values.len() >= 2).collect();
    if keys.len() < 2 {
        return vec![];
    }
    keys.truncate(2);
    // The key with more values makes the rows: pages scroll down, not sideways.
    keys.sort_by_key(|(_, values)| std::cmp::Reverse(values.len()));
    let (rows, columns) = (keys[0].clone(), keys[1].clone());
    let mut grids: Vec<Grid> = Vec::new();
    for group in groups {
        let name = others(group.case, &[&rows.0, &columns.0]);
        let at = grids.iter().position(|grid| grid.name == name);
        let at = at.unwrap_or_else(|| {
            grids.push(Grid {
                name,
                rows: rows.clone(),
                columns: columns.clone(),
                cells: vec![vec![None; columns.1.len()]; rows.1.len()],
            });
            grids.len() - 1
        });
        let place = |key: &(String, Vec<String>)| {
            let value = group.case.swept.get(&key.0).map_or(String::new(), text);
            key.1.iter().position(|v| *v == value)
        };
        if let Some((row, column)) = place(&rows).zip(place(&columns)) {
            grids[at].cells[row][column] = group.decode().map(|e| e.median);
        }
    }
    grids.truncate(GRIDS_MAX);
    grids
}

/// The swept keys but some, as text.
fn others(case: &CaseRecord, but: &[&str]) -> String {
    let others = case
        .swept
        .iter()
        .filter(|(k, _)| !but.contains(&k.as_str()));
    let words: Vec<String> = others.map(|(k, v)| format!("{k}={}", text(v))).collect();
    words.join(" ")
}

fn text(value: &Value) -> String {
    match value {
        Value::String(text) => text.clone(),
        other => other.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::super::data;
    use super::*;
    use crate::record::tests::{manifest, sample};
    use serde_json::json;

    #[test]
    fn keys_that_depart_one_at_a_time_are_no_sweep() {
        let of = |cases: &[(Value, f64)]| {
            let run = run(cases);
            let groups = data::groups(&run);
            let groups: Vec<_> = groups.iter().collect();
            (sweep(&run, &groups).is_some(), grids(&groups).len())
        };
        let case = |a: u32, b: u32| (json!({"a": a, "b": b}), 100.0);
        assert_eq!(of(&[case(1, 1), case(0, 1), case(1, 0)]), (false, 0));
        assert_eq!(
            of(&[case(1, 1), case(0, 1), case(1, 0), case(0, 0)]),
            (true, 1)
        );
        assert_eq!(of(&[case(1, 1), case(2, 1), case(3, 1)]), (true, 0));
    }

    /// A run over these swept keys, with these decode rates.
    fn run(cases: &[(Value, f64)]) -> Run {
        let mut run = Run::empty(manifest());
        let case = run.manifest.cases.remove(0);
        for (i, (swept, rate)) in cases.iter().enumerate() {
            let mut case = case.clone();
            case.index = i as u32;
            case.swept = swept.as_object().expect("keys").clone();
            run.manifest.cases.push(case);
            let gap = (1e9 / rate) as u64;
            run.samples.push(Sample {
                case_index: i as u32,
                arrival_ns: (1..5).map(|n| n * gap).collect(),
                ..sample()
            });
        }
        run
    }

    #[test]
    fn the_knee_is_where_a_step_stops_paying() {
        let knee = |rates: &[f64]| {
            let cases: Vec<_> = rates
                .iter()
                .enumerate()
                .map(|(i, rate)| (json!({ "engine.threads": 1 << i }), *rate))
                .collect();
            let run = run(&cases);
            let groups = data::groups(&run);
            let groups: Vec<&Group<'_>> = groups.iter().collect();
            sweep(&run, &groups).expect("a sweep").lines[0].knee()
        };
        assert_eq!(knee(&[10.0, 19.0, 35.0, 40.0]), Some(4.0));
        assert_eq!(knee(&[10.0, 19.0, 35.0]), None);
        assert_eq!(knee(&[10.0, 14.0]), Some(1.0));
    }

    #[test]
    fn two_keys_make_a_grid_and_a_third_makes_two() {
        let mut cases = Vec::new();
        for ctx in [64, 128] {
            for (threads, kind) in [(1, "a"), (2, "a"), (4, "a"), (1, "b"), (2, "b")] {
                let keys = json!({ "engine.threads": threads, "kind": kind, "ctx": ctx });
                cases.push((keys, f64::from(threads * ctx)));
            }
        }
        let run = run(&cases);
        let groups = data::groups(&run);
        let groups: Vec<&Group<'_>> = groups.iter().collect();
        let grids = grids(&groups);
        assert_eq!(grids.len(), 2);
        assert_eq!(grids[1].name, "ctx=128");
        assert_eq!(grids[0].rows.1, ["1", "2", "4"]);
        assert_eq!(grids[0].columns.1, ["a", "b"]);
        assert_eq!(grids[0].cells[2][1], None);
        assert!(grids[1].cells[1][0].is_some_and(|rate| (rate - 256.0).abs() < 0.1));
    }
}
