//! A metric over all runs of a scenario on one machine, and where it changed. Cases of one name that ran with other options,
//! or did other work, are histories of their own.

use crate::baseline;
use crate::measure::ENGINE;
use crate::metric::Metric;
use crate::record::{CaseRecord, Run, hex};
use crate::stats;
use crate::summary::summaries;
use crate::verdict::{Change, Rule};
use serde::Serialize;
use sha2::{Digest, Sha256};
use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

/// Fewest runs on each side of a change point: below it, no rank test can say anything.
const SEGMENT_RUNS_MIN: usize = 5;
/// Most runs of a history; the latest are kept.
const RUNS_MAX: usize = 1000;
/// Digits of a hash that stand for a model or a prompt.
const HASH_CHARS: usize = 12;

/// One run in a history.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Point {
    /// Folder of the run.
    pub run: PathBuf,
    /// Start of the run, RFC 3339, UTC.
    pub created_at: String,
    /// Commit of the program.
    pub git_commit: Option<String>,
    /// Median over the repetitions.
    pub median: f64,
    /// Median absolute deviation of the repetitions.
    pub mad: f64,
    /// Number of repetitions.
    pub repetitions: usize,
    /// How many of them were disturbed.
    pub tainted: usize,
}

/// Where a history changed its level.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct ChangePoint {
    /// Index of the first point of the new level.
    pub at: usize,
    /// The change from the runs before to the runs after.
    pub change: Change,
}

/// The history of one case with the same settings.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Series {
    /// Name of the case.
    pub case: String,
    /// What was run: options, model, prompt and length, by key.
    pub settings: BTreeMap<String, String>,
    /// Settings that other series of this case do not share, `key=value`; empty where there is no other one.
    pub apart: String,
    /// Name of the metric.
    pub metric: &'static str,
    /// Its runs, oldest first.
    pub points: Vec<Point>,
    /// Where the level changed, in the order of the points.
    pub changes: Vec<ChangePoint>,
}

/// The histories of all cases of a scenario, one for each metric and set of settings, among the run folders directly in
/// `results`, on the machine with that fingerprint. Folders that are no run, or of another schema, are passed over.
///
/// # Errors
/// When the folder cannot be read.
pub fn history(
    results: &Path,
    scenario: &str,
    fingerprint: &str,
    metrics: &[&'static Metric],
) -> anyhow::Result<Vec<Series>> {
    let mut all: Vec<Series> = Vec::new();
    let folders = baseline::runs(results)?;
    for folder in &folders[folders.len().saturating_sub(RUNS_MAX)..] {
        let Ok(run) = Run::read(folder) else { continue };
        let manifest = &run.manifest;
        if manifest.scenario.name == scenario && manifest.host.fingerprint() == fingerprint {
            for metric in metrics {
                add(&mut all, folder, &run, metric);
            }
        }
    }
    for series in &mut all {
        let medians: Vec<f64> = series.points.iter().map(|p| p.median).collect();
        series.changes = change_points(&medians);
    }
    let apart: Vec<String> = all.iter().map(|series| apart(series, &all)).collect();
    for (series, apart) in all.iter_mut().zip(apart) {
        series.apart = apart;
    }
    Ok(all)
}

/// What a case is, whatever program runs it, by key.
fn settings(run: &Run, case: &CaseRecord) -> BTreeMap<String, String> {
    let mut all = BTreeMap::new();
    flatten("engine", serde_json::json!(case.engine), &mut all);
    if let Some(model) = run.manifest.models.get(case.model) {
        let hash: String = model.sha256.chars().take(HASH_CHARS).collect();
        all.insert("model".into(), format!("{} {hash}", model.name));
    }
    if let Some(prompt) = &case.prompt {
        let hash = hex(&Sha256::digest(prompt));
        all.insert("prompt".into(), format!("\"{}\"", &hash[..HASH_CHARS]));
    }
    if let Some(tokens) = case.prompt_tokens {
        all.insert("prompt.tokens".into(), tokens.to_string());
    }
    all.insert("run.n_gen".into(), case.n_gen.to_string());
    all
}

/// The values within a value, by their keys below `key`.
fn flatten(key: &str, value: serde_json::Value, all: &mut BTreeMap<String, String>) {
    match value {
        serde_json::Value::Object(fields) => {
            for (name, value) in fields {
                flatten(&format!("{key}.{name}"), value, all);
            }
        }
        serde_json::Value::String(text) => drop(all.insert(key.into(), text)),
        value => drop(all.insert(key.into(), value.to_string())),
    }
}

/// Settings of `series` that others of the same case and metric do not share.
fn apart(series: &Series, all: &[Series]) -> String {
    let others = all.iter().filter(|other| {
        other.case == series.case && other.metric == series.metric && *other != series
    });
    let keys: BTreeSet<&String> = others
        .flat_map(|other| {
            let keys = series.settings.keys().chain(other.settings.keys());
            keys.filter(|key| series.settings.get(*key) != other.settings.get(*key))
        })
        .collect();
    let value = |key: &String| series.settings.get(key).map_or("none", String::as_str);
    let words = keys.into_iter().map(|key| format!("{key}={}", value(key)));
    words.collect::<Vec<_>>().join(" ")
}

/// Adds a run's cases to their histories.
fn add(all: &mut Vec<Series>, folder: &Path, run: &Run, metric: &'static Metric) {
    for summary in summaries(run).iter().filter(|s| s.runner == ENGINE) {
        let values = metric.values(run, summary);
        let Some((median, mad)) = stats::median(&values).zip(stats::mad(&values)) else {
            continue;
        };
        let name = &summary.case.name;
        let settings = settings(run, summary.case);
        let same = |series: &Series| {
            series.case == *name && series.metric == metric.name && series.settings == settings
        };
        let at = all.iter().position(same);
        let at = at.unwrap_or_else(|| {
            all.push(Series {
                case: name.clone(),
                settings,
                apart: String::new(),
                metric: metric.name,
                points: vec![],
                changes: vec![],
            });
            all.len() - 1
        });
        all[at].points.push(Point {
            run: folder.to_owned(),
            created_at: run.manifest.created_at.clone(),
            git_commit: run.manifest.binary.git_commit.clone(),
            median,
            mad,
            repetitions: values.len(),
            tainted: summary.tainted(),
        });
    }
}

/// Where the level of a series changes, by binary segmentation: the split with the largest rank-sum statistic is a change
/// point if the interval of the change, at a confidence raised for the number of splits tried, excludes none and the change
/// is one that counts; then both sides are searched in turn.
pub fn change_points(values: &[f64]) -> Vec<ChangePoint> {
    let mut found = Vec::new();
    search(values, 0, &mut found);
    found.sort_by_key(|change| change.at);
    found
}

fn search(values: &[f64], offset: usize, found: &mut Vec<ChangePoint>) {
    let n = values.len();
    if n < 2 * SEGMENT_RUNS_MIN {
        return;
    }
    let splits = SEGMENT_RUNS_MIN..=n - SEGMENT_RUNS_MIN;
    let tried = splits.clone().count() as f64;
    let statistic = |at: usize| rank_sum_z(&values[..at], &values[at..]).abs();
    let best = splits.max_by(|&a, &b| statistic(a).total_cmp(&statistic(b)));
    let Some(at) = best else { return };
    let rule = Rule::default();
    let confidence = 1.0 - (1.0 - rule.confidence) / tried;
    let Some(change) = Change::unpaired(&values[..at], &values[at..], confidence) else {
        return;
    };
    let interval = change.interval;
    let excludes_none = interval.low > 1.0 || interval.high < 1.0;
    let counts = change.ratio.ln().abs() > rule.change_min.ln_1p();
    if interval.confidence >= confidence && excludes_none && counts {
        found.push(ChangePoint {
            at: offset + at,
            change,
        });
        search(&values[..at], offset, found);
        search(&values[at..], offset + at, found);
    }
}

/// The rank-sum statistic of two samples in standard deviations from where it stands if both are alike (Mann and Whitney,
/// without the correction for ties).
fn rank_sum_z(a: &[f64], b: &[f64]) -> f64 {
    let pairs = a.iter().flat_map(|x| b.iter().map(move |y| (x, y)));
    let wins: f64 = pairs
        .map(|(x, y)| f64::from(i8::from(y > x) - i8::from(y < x)))
        .sum();
    let (n, m) = (a.len() as f64, b.len() as f64);
    wins / 2.0 / (n * m * (n + m + 1.0) / 12.0).sqrt()
}

/// Values as a line of blocks as high as the values, from 0 on.
pub fn sparkline(values: &[f64]) -> String {
    const BLOCKS: [char; 8] = ['▁', '▂', '▃', '▄', '▅', '▆', '▇', '█'];
    let high = values.iter().copied().fold(0.0, f64::max);
    let top = (BLOCKS.len() - 1) as f64;
    let block = |v: &f64| match high > 0.0 {
        true => BLOCKS[(v / high * top).round().clamp(0.0, top) as usize],
        false => BLOCKS[0],
    };
    values.iter().map(block).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::stats::SplitMix64;

    #[test]
    fn a_step_is_found_and_noise_is_not() {
        let mut random = SplitMix64::new(3);
        let mut noisy = |level: f64| level * (1.0 + (random.below(200) as f64 - 100.0) / 10_000.0);
        let flat: Vec<f64> = (0..40).map(|_| noisy(100.0)).collect();
        assert_eq!(change_points(&flat), []);
        let mut stepped: Vec<f64> = (0..12).map(|_| noisy(100.0)).collect();
        stepped.extend((0..9).map(|_| noisy(90.0)));
        stepped.extend((0..14).map(|_| noisy(120.0)));
        let found: Vec<usize> = change_points(&stepped).iter().map(|c| c.at).collect();
        assert_eq!(found, [12, 21]);
        // A step that is real but does not count.
        let small: Vec<f64> = (0..30)
            .map(|i| if i < 15 { 100.0 } else { 101.0 })
            .collect();
        assert_eq!(change_points(&small), []);
        assert_eq!(change_points(&stepped[8..15]), [], "too few runs");
    }

    #[test]
    fn false_alarms_are_rare() {
        let mut random = SplitMix64::new(11);
        let alarms = (0..200).filter(|_| {
            let values: Vec<f64> = (0..24)
                .map(|_| 100.0 + (0..12).map(|_| random.below(1000) as f64).sum::<f64>() / 1000.0)
                .collect();
            !change_points(&values).is_empty()
        });
        assert!(alarms.count() <= 10);
    }

    #[test]
    fn a_sparkline_begins_at_0() {
        assert_eq!(sparkline(&[0.0, 7.0, 4.0]), "▁█▅");
        assert_eq!(sparkline(&[100.0, 99.0]), "██");
        assert_eq!(sparkline(&[0.0, 0.0]), "▁▁");
        assert_eq!(sparkline(&[]), "");
    }
}
