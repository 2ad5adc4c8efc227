//! A small seeded generator: the same numbers on every machine, fast enough to fill gigabytes.

/// SplitMix64 (Steele, Lea and Flood 2014).
#[derive(Debug, Clone)]
pub(crate) struct Rng(u64);

impl Rng {
    /// The stream of `seed` that belongs to `name`: independent of how much other names have drawn.
    pub(crate) fn of(seed: u64, name: &str) -> Rng {
        // FNV-1a over the name keeps streams apart.
        let hash = name.bytes().fold(0xcbf2_9ce4_8422_2325u64, |hash, byte| {
            (hash ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3)
        });
        let mut rng = Rng(seed ^ hash);
        rng.bits();
        rng
    }

    /// 64 random bits.
    pub(crate) fn bits(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// A number in `0..n`, near enough uniform for `n` below 2^32.
    pub(crate) fn below(&mut self, n: usize) -> usize {
        (((self.bits() >> 32) * n as u64) >> 32) as usize
    }

    /// A uniform number from 0 on, below 1.
    pub(crate) fn unit(&mut self) -> f64 {
        (self.bits() >> 11) as f64 / (1u64 << 53) as f64
    }

    /// A bell-shaped number of mean 0 and variance 1, within ±3.5: the sum of four uniform ones, exact on every machine.
    pub(crate) fn bell(&mut self) -> f32 {
        let bits = self.bits();
        let sum: u64 = (0..4).map(|i| (bits >> (16 * i)) & 0xffff).sum();
        // Four times the mean of 0..65536 is 131070; the standard deviation of the sum is 65536 / sqrt(3).
        (sum as f32 - 131_070.0) * (1.732_050_8 / 65_536.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bell_has_mean_0_and_variance_1() {
        let mut rng = Rng::of(1, "x");
        let n = 100_000;
        let values: Vec<f64> = (0..n).map(|_| f64::from(rng.bell())).collect();
        let mean = values.iter().sum::<f64>() / f64::from(n);
        let variance = values.iter().map(|x| x * x).sum::<f64>() / f64::from(n);
        assert!(mean.abs() < 0.02, "{mean}");
        assert!((variance - 1.0).abs() < 0.02, "{variance}");
    }

    #[test]
    fn streams_differ_by_seed_and_name_and_stay_in_range() {
        let first = |seed, name| Rng::of(seed, name).bits();
        assert_eq!(first(1, "a"), first(1, "a"));
        assert_ne!(first(1, "a"), first(2, "a"));
        assert_ne!(first(1, "a"), first(1, "b"));
        let mut rng = Rng::of(3, "");
        let mut seen = [false; 7];
        (0..1000).for_each(|_| seen[rng.below(7)] = true);
        assert_eq!(seen, [true; 7]);
    }
}
