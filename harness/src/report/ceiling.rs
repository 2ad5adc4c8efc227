//! What a run reached, held against what the probes of its own rounds found: the roofline (Williams, Waterman and
//! Patterson 2009) and the bandwidth over the size of what is read.

use super::data::{Estimate, Group};
use crate::compare::Comparison;
use crate::probe::Stored;
use crate::record::{ENGINE, PassStats, Run, Sample};
use crate::stats;
use engine::probe::What;

/// What the machine gave with so many threads: medians over the rounds that count.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Roof {
    /// Threads.
    pub threads: u32,
    /// Read bandwidth of memory in 1e9 bytes a second.
    pub read_gb_s: f64,
    /// Arithmetic peak on packed weights, in 1e9 operations a second.
    pub int8_gops: Option<f64>,
    /// The same in single precision.
    pub f32_gops: Option<f64>,
}

/// One phase of one case.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Place {
    /// The case.
    pub label: String,
    /// `decode` or `prefill`.
    pub phase: &'static str,
    /// Operations for each byte of weights and KV cache.
    pub ops_per_byte: f64,
    /// 1e9 operations a second in the matrix products, median.
    pub gops: f64,
    /// What is held against the peak: GB/s of a decode, GOP/s of a prefill.
    pub achieved: Estimate,
    /// Unit of [`Place::achieved`].
    pub unit: &'static str,
    /// Median of the peak in the same rounds, in that unit.
    pub peak: Option<f64>,
    /// Share of the peak of the same round, in percent.
    pub share: Option<Estimate>,
    /// Whether a repetition that counts was disturbed.
    pub tainted: bool,
}

/// One phase of another program: where it stands if it moves the bytes and does the operations that the engine counts.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Other {
    /// The program and how it was run.
    pub title: String,
    /// `decode` or `prefill`.
    pub phase: &'static str,
    /// The engine's operations for each byte.
    pub ops_per_byte: f64,
    /// 1e9 operations a second, median.
    pub gops: f64,
    /// Share of the peak of the same rounds, in percent, median.
    pub of_peak_pct: Option<f64>,
    /// Whether it is the one that decides.
    pub decides: bool,
}

/// The other programs of a comparison, each at the engine's operations for a byte.
pub(super) fn others(
    comparison: Option<&Comparison>,
    groups: &[&Group<'_>],
    places: &[Place],
) -> Vec<Other> {
    let cases = comparison.iter().flat_map(|c| &c.cases);
    let phases = cases.flat_map(|case| case.phases.iter().map(move |phase| (case, phase)));
    let mut all = Vec::new();
    for (case, phase) in phases.filter(|(_, phase)| phase.subject.runner == ENGINE) {
        let here = |g: &&&Group<'_>| g.case.index == case.case_index && g.runner == ENGINE;
        let Some(group) = groups.iter().find(here) else {
            continue;
        };
        let name = phase.rate.name();
        let at = |p: &&Place| p.label == group.short && p.phase == name;
        let place = places.iter().find(at).zip(phase.subject.median);
        let Some((place, own)) = place else { continue };
        for (i, row) in phase.others.iter().enumerate() {
            all.extend(row.median.map(|rate| Other {
                title: row.title.clone(),
                phase: name,
                ops_per_byte: place.ops_per_byte,
                gops: place.gops * rate / own,
                of_peak_pct: row.of_peak_pct,
                decides: phase.best == Some(i),
            }));
        }
    }
    all
}

/// The roofs of a run, fewest threads first.
pub(super) fn roofs(run: &Run, groups: &[&Group<'_>]) -> Vec<Roof> {
    let mut by_threads: Vec<(u32, Vec<&Sample>)> = Vec::new();
    for sample in groups.iter().flat_map(|g| &g.counted) {
        let Some(threads) = sample.threads else {
            continue;
        };
        match by_threads.iter_mut().find(|(n, _)| *n == threads) {
            Some((_, samples)) => samples.push(sample),
            None => by_threads.push((threads, vec![sample])),
        }
    }
    by_threads.sort_by_key(|(threads, _)| *threads);
    let roofs = by_threads.into_iter().filter_map(|(threads, samples)| {
        let median = |what| {
            let peaks = samples.iter().filter_map(|s| run.probe_of(s)?.median(what));
            stats::median(&peaks.collect::<Vec<_>>())
        };
        Some(Roof {
            threads,
            read_gb_s: median(What::Read)?,
            int8_gops: median(What::Int8),
            f32_gops: median(What::F32),
        })
    });
    roofs.collect()
}

/// Both phases of every case whose work is known.
pub(super) fn places(run: &Run, groups: &[&Group<'_>]) -> Vec<Place> {
    let phases = groups
        .iter()
        .flat_map(|g| [decode(run, g), prefill(run, g)]);
    phases.flatten().collect()
}

fn decode(run: &Run, group: &Group<'_>) -> Option<Place> {
    let operations = Sample::decode_operations_per_token;
    let gops = |s: &Sample| Some(operations(s)? * s.decode_tok_s()? / 1e9);
    let intensity = |s: &Sample| Some(operations(s)? / s.decode_bytes_per_token()?);
    Some(Place {
        label: group.short.clone(),
        phase: "decode",
        ops_per_byte: group.estimate(intensity)?.median,
        gops: group.estimate(gops)?.median,
        achieved: group.bandwidth()?,
        unit: "GB/s",
        peak: group.estimate(|s| run.peak_gb_s(s)).map(|e| e.median),
        share: group.estimate(|s| run.bw_pct(s)),
        tainted: group.tainted() > 0,
    })
}

fn prefill(run: &Run, group: &Group<'_>) -> Option<Place> {
    let intensity = |s: &Sample| {
        let seconds = f64::from(s.n_prompt) / s.prefill_tok_s()?;
        Some(s.prefill_gops()? * 1e9 * seconds / moved(s.prefill)?)
    };
    let achieved = group.estimate(Sample::prefill_gops)?;
    Some(Place {
        label: group.short.clone(),
        phase: "prefill",
        ops_per_byte: group.estimate(intensity)?.median,
        gops: achieved.median,
        achieved,
        unit: "GOP/s",
        peak: group.estimate(|s| run.peak_gops(s)).map(|e| e.median),
        share: group.estimate(|s| run.prefill_pct(s)),
        tainted: group.tainted() > 0,
    })
}

/// Bytes of weights and KV cache of a phase.
fn moved(stats: Option<PassStats>) -> Option<f64> {
    let ledger = stats?.ledger;
    let bytes = ledger.weight_bytes + ledger.kv_read_bytes + ledger.kv_write_bytes;
    (bytes > 0).then_some(bytes as f64)
}

/// The bandwidth of a stored probe over the size of its buffer, and where each case stands.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct WorkingSets {
    /// When the probe was taken.
    pub created_at: String,
    /// Name, and points of bytes and GB/s.
    pub lines: Vec<(String, Vec<(f64, f64)>)>,
    /// Name, bytes of a decoded token, and GB/s.
    pub cases: Vec<(String, f64, f64)>,
}

/// `None` if the probe looked at one size alone.
pub(super) fn working_sets(stored: &Stored, groups: &[&Group<'_>]) -> Option<WorkingSets> {
    let lines = stored.configurations.iter().map(|c| (c.name(), c.reads()));
    let lines: Vec<_> = lines.filter(|(_, points)| points.len() > 1).collect();
    let cases = groups.iter().filter_map(|group| {
        let bytes = group.estimate(Sample::decode_bytes_per_token)?.median;
        Some((group.short.clone(), bytes, group.bandwidth()?.median))
    });
    (!lines.is_empty()).then(|| WorkingSets {
        created_at: stored.created_at.clone(),
        lines,
        cases: cases.collect(),
    })
}

/// Whether what a decoded token reads fits into the last-level caches: then the rate is not that of memory.
pub(super) fn fits_cache(run: &Run, group: &Group<'_>) -> Option<bool> {
    let host = &run.manifest.host;
    let largest = host.caches.iter().map(|c| c.bytes).max()?;
    let bytes = group.estimate(Sample::decode_bytes_per_token)?.median;
    Some(bytes <= (largest * host.l3_domains.max(1) as u64) as f64)
}

#[cfg(test)]
mod tests {
    use super::super::data;
    use super::*;
    use crate::record::tests::{manifest, sample};
    use crate::record::{Phase, ProbeRecord, SCHEMA_VERSION};
    use engine::probe::Reading;

    fn run() -> Run {
        let mut worked = sample();
        worked.model.layer_params = Some(900_000);
        worked.model.head_params = Some(100_000);
        worked.model.float_weights = Some(false);
        let mut prefill = worked.decode.expect("a decode");
        prefill.ledger.weight_bytes = 1_000_000;
        (prefill.ledger.kv_read_bytes, prefill.ledger.kv_write_bytes) = (0, 0);
        worked.prefill = Some(prefill);
        let reading = |what, median| Reading {
            what,
            bytes: 0,
            median,
            best: median,
            slices: 3,
            huge_bytes: None,
        };
        Run {
            probes: vec![ProbeRecord {
                schema_version: SCHEMA_VERSION,
                phase: Phase::Measured,
                round: 0,
                started_at: String::new(),
                engine: engine::Options::default(),
                cpus: vec![],
                isa: "avx2".into(),
                readings: vec![
                    reading(What::Read, 0.1),
                    reading(What::Int8, 4.55),
                    reading(What::F32, 2.0),
                ],
            }],
            samples: vec![worked],
            ..Run::empty(manifest())
        }
    }

    #[test]
    fn both_phases_have_their_place_under_the_roofs() {
        let run = run();
        let groups = data::groups(&run);
        let groups: Vec<&Group<'_>> = groups.iter().collect();
        let roofs = roofs(&run, &groups);
        assert_eq!((roofs.len(), roofs[0].threads), (1, 2));
        assert_eq!(roofs[0].int8_gops, Some(4.55));
        let places = places(&run, &groups);
        let near = |a: f64, b: f64| assert!((a - b).abs() < 1e-6 * b, "{a} is not {b}");
        // 50 tokens a second of 1,000,300 bytes and 2,000,000 operations each.
        near(places[0].ops_per_byte, 2e6 / 1_000_300.0);
        near(places[0].gops, 0.1);
        near(places[0].share.as_ref().expect("a share").median, 50.015);
        // 10 tokens of 1.8e6 operations and the head once, in 20 ms, over a megabyte.
        near(places[1].ops_per_byte, 18.2);
        near(places[1].gops, 0.91);
        near(places[1].share.as_ref().expect("a share").median, 20.0);
    }

    #[test]
    fn a_run_without_probes_or_facts_has_no_roofs() {
        let mut run = run();
        run.probes.clear();
        run.samples[0].model = Default::default();
        let groups = data::groups(&run);
        let groups: Vec<&Group<'_>> = groups.iter().collect();
        assert_eq!(roofs(&run, &groups), []);
        assert_eq!(places(&run, &groups), []);
    }
}
