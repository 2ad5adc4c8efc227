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
        }
    }

    #[test]
    fn norms_weigh_the_magnitudes() {
        let magnitudes = Magnitudes::new(1, 1);
        magnitudes.add(0, 0, Site::O, &[1.0; 4], &[1.0, 2.0, 4.0, 8.0]);
        let threshold = magnitudes.quantiles(0.5)[0][&Site::O];
        assert!((2.0..=4.0).contains(&threshold), "{threshold}");
    }
}
