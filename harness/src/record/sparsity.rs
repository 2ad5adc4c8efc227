//! What sparsity left out in a repetition, each quantity derived in one place.

use super::Sample;
use engine::sparsity::{Site, SiteCount, Telemetry};
use std::collections::BTreeMap;

impl Sample {
    /// Share of the channels that took part, over all layers and sites.
    pub fn active_share(&self) -> Option<f64> {
        let mut all = SiteCount::default();
        for s in &self.sparsity.as_ref()?.sites {
            all.add(&s.count);
        }
        active_share(&all)
    }

    /// Bytes of weights that a decoded token would have read besides.
    pub fn skipped_bytes_per_token(&self) -> Option<f64> {
        self.sparsity.as_ref()?;
        let decode = self.decode.filter(|d| d.passes > 0 && self.n_out() > 1)?;
        Some(decode.ledger.skipped_bytes as f64 / (self.n_out() - 1) as f64)
    }
}

/// Share of the channels that took part; `None` where there were none.
pub fn active_share(count: &SiteCount) -> Option<f64> {
    (count.channels > 0).then(|| count.active as f64 / count.channels as f64)
}

/// What took part at each site, over all layers.
pub fn by_site(t: &Telemetry) -> BTreeMap<Site, SiteCount> {
    let mut sites = BTreeMap::<Site, SiteCount>::new();
    for s in &t.sites {
        sites.entry(s.site).or_default().add(&s.count);
    }
    sites
}

/// Share of the channels that took part in each layer, over its sites.
pub fn by_layer(t: &Telemetry) -> Vec<(usize, f64)> {
    let mut layers = BTreeMap::<usize, SiteCount>::new();
    for s in &t.sites {
        layers.entry(s.layer).or_default().add(&s.count);
    }
    let shares = layers.iter();
    shares
        .filter_map(|(l, count)| Some((*l, active_share(count)?)))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::super::tests::sample;
    use super::*;
    use engine::sparsity::LayerCount;

    fn telemetry() -> Telemetry {
        let count = |active, channels| SiteCount {
            active,
            channels,
            read_bytes: 10 * active,
            possible_bytes: 10 * channels,
        };
        let of = |layer, site, count| LayerCount { layer, site, count };
        Telemetry {
            sites: vec![
                of(0, Site::Qkv, count(10, 40)),
                of(0, Site::Down, count(30, 40)),
                of(1, Site::Down, count(0, 20)),
            ],
        }
    }

    #[test]
    fn shares_are_of_all_channels() {
        let with = Sample {
            sparsity: Some(telemetry()),
            ..sample()
        };
        assert_eq!(with.active_share(), Some(0.4));
        assert_eq!(sample().active_share(), None);
        assert_eq!(by_layer(&telemetry()), [(0, 0.5), (1, 0.0)]);
        let down = by_site(&telemetry())[&Site::Down];
        assert_eq!((down.active, down.channels), (30, 60));
    }
}
