//! Thresholds from what a model computes while it reads a text: quantiles of magnitudes.

use super::Site;
use std::collections::BTreeMap;
use std::sync::Mutex;

/// Bits of a magnitude that are not told apart: seven of its mantissa's are.
const SHIFT: u32 = 16;

/// Magnitudes that are told apart.
const BINS: usize = 1 << (31 - SHIFT);

/// Counts of magnitudes by layer and site, `[bins]` each; none where nothing was seen.
type Counts = Vec<[Vec<u64>; Site::ALL.len()]>;

/// How often each magnitude was seen at every site of every layer.
pub struct Magnitudes {
    /// Of each thread.
    seen: Vec<Mutex<Counts>>,
}

impl Magnitudes {
    /// Nothing seen yet.
    pub(crate) fn new(layers: usize, threads: usize) -> Magnitudes {
        let none = || (0..layers).map(|_| Default::default()).collect();
        Magnitudes {
            seen: (0..threads).map(|_| Mutex::new(none())).collect(),
        }
    }

    /// Adds `values`, times the `norms` of their channels if there are any, seen by `thread`.
    pub(crate) fn add(
        &self,
        thread: usize,
        layer: usize,
        site: Site,
        values: &[f32],
        norms: &[f32],
    ) {
        let mut seen = self.seen[thread].lock().expect("no thread panics with it");
        let counts = &mut seen[layer][site as usize];
        counts.resize(BINS, 0);
        for (i, v) in values.iter().enumerate() {
            let magnitude = (v * norms.get(i).unwrap_or(&1.0)).abs();
            counts[(magnitude.to_bits() >> SHIFT) as usize] += 1;
        }
    }

    /// The magnitude at each site that the share `below` of those seen lie below, for every layer.
    pub fn quantiles(&self, below: f64) -> Vec<BTreeMap<Site, f32>> {
        let layers = self.seen[0].lock().expect("no thread panics with it").len();
        let of_layer = |l: usize| {
            let of_site = |site| (site, quantile(&self.counts(l, site), below));
            Site::ALL.map(of_site).into()
        };
        (0..layers).map(of_layer).collect()
    }

    /// The magnitudes at each site that each of `shares` lies below, for every layer.
    pub fn curves(&self, shares: &[f64]) -> Vec<BTreeMap<Site, Vec<f32>>> {
        let all = shares.iter().map(|share| self.quantiles(*share));
        let mut curves = Vec::new();
        for quantiles in all {
            curves.resize_with(quantiles.len(), BTreeMap::<Site, Vec<f32>>::new);
            for (curve, sites) in curves.iter_mut().zip(quantiles) {
                for (site, magnitude) in sites {
                    curve.entry(site).or_default().push(magnitude);
                }
            }
        }
        curves
    }

    /// The share of the magnitudes seen that lies below each of `thresholds`, those of every layer by site; of those that are
    /// not told apart from the threshold, by proportion.
    pub fn shares_below(&self, thresholds: &[BTreeMap<Site, f32>]) -> Vec<BTreeMap<Site, f64>> {
        let of_layer = |(l, sites): (usize, &BTreeMap<Site, f32>)| {
            let of_site =
                |(site, t): (&Site, &f32)| (*site, share_below(&self.counts(l, *site), *t));
            sites.iter().map(of_site).collect()
        };
        thresholds.iter().enumerate().map(of_layer).collect()
    }

    /// Counts of all threads.
    fn counts(&self, layer: usize, site: Site) -> Vec<u64> {
        let mut all = vec![0; BINS];
        for thread in &self.seen {
            let thread = thread.lock().expect("no thread panics with it");
            let counts = &thread[layer][site as usize];
            all.iter_mut().zip(counts).for_each(|(a, c)| *a += c);
        }
        all
    }
}

/// The value that the share `below` lies below, within its bin by proportion.
fn quantile(counts: &[u64], below: f64) -> f32 {
    let value = |bin: usize| f32::from_bits((bin as u32) << SHIFT);
    let mut left = below * counts.iter().sum::<u64>() as f64;
    for (bin, &count) in counts.iter().enumerate() {
        if left < count as f64 {
            let (low, high) = (value(bin), value(bin + 1));
            return low + (high - low) * (left / count as f64) as f32;
        }
        left -= count as f64;
    }
    // All lie below.
    counts
        .iter()
        .rposition(|&count| count > 0)
        .map_or(0.0, |bin| value(bin + 1))
}

/// The share of what was counted that lies below `threshold`, within its bin by proportion; all zeros lie below a threshold
/// above 0.
fn share_below(counts: &[u64], threshold: f32) -> f64 {
    let value = |bin: usize| f32::from_bits((bin as u32) << SHIFT);
    let bin = (threshold.to_bits() >> SHIFT) as usize;
    let before: u64 = counts[..bin.min(counts.len())].iter().sum();
    let within = counts.get(bin).map_or(0.0, |&count| {
        let (low, high) = (value(bin), value(bin + 1));
        let part = match bin {
            0 => f32::from(threshold > 0.0),
            _ => (threshold - low) / (high - low),
        };
        count as f64 * f64::from(part)
    });
    (before as f64 + within) / counts.iter().sum::<u64>().max(1) as f64
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_quantile_leaves_its_share_below() {
        let magnitudes = Magnitudes::new(1, 2);
        let values: Vec<f32> = (0..10_000).map(|i| (i as f32 - 5000.0) / 777.0).collect();
        magnitudes.add(0, 0, Site::Down, &values[..3000], &[]);
        magnitudes.add(1, 0, Site::Down, &values[3000..], &[]);
        for share in [0.0, 0.1, 0.5, 0.9] {
            let threshold = magnitudes.quantiles(share)[0][&Site::Down];
            let below = values.iter().filter(|v| v.abs() < threshold).count();
            let found = below as f64 / values.len() as f64;
            assert!((found - share).abs() < 2e-3, "{share}: {found}");
            let told = magnitudes.shares_below(&magnitudes.quantiles(share))[0][&Site::Down];
            assert!((told - share).abs() < 1e-4, "{share}: {told}");
            let curve = magnitudes.curves(&[0.25, share]).remove(0);
            assert_eq!(curve[&Site::Down][1], threshold);
        }
    }

    #[test]
    fn zeros_are_below_any_threshold() {
        let magnitudes = Magnitudes::new(1, 1);
        magnitudes.add(0, 0, Site::Down, &[0.0, 0.0, 0.0, 1.0], &[]);
        let half = magnitudes.quantiles(0.5);
        assert_eq!(magnitudes.shares_below(&half)[0][&Site::Down], 0.75);
    }

    #[test]
    fn norms_weigh_the_magnitudes() {
        let magnitudes = Magnitudes::new(1, 1);
        magnitudes.add(0, 0, Site::O, &[1.0; 4], &[1.0, 2.0, 4.0, 8.0]);
        let threshold = magnitudes.quantiles(0.5)[0][&Site::O];
        assert!((2.0..=4.0).contains(&threshold), "{threshold}");
    }
}
