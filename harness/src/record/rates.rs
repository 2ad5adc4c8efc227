//! Rates and latencies of a repetition, each derived in one place.

use super::{Phase, Sample};

impl Sample {
    /// Tokens generated.
    pub fn n_out(&self) -> usize {
        self.arrival_ns.len()
    }

    /// Time to first token: from the prompt handed over to the first token.
    pub fn ttft_ms(&self) -> Option<f64> {
        self.arrival_ns.first().map(|&ns| ns as f64 / 1e6)
    }

    /// From the prompt handed over to the last token.
    pub fn e2e_ms(&self) -> Option<f64> {
        self.arrival_ns.last().map(|&ns| ns as f64 / 1e6)
    }

    /// Prompt tokens over the time to first token, or as reported by a program that does not tell when tokens came.
    pub fn prefill_tok_s(&self) -> Option<f64> {
        match self.ttft_ms() {
            Some(ms) => positive(f64::from(self.n_prompt) / (ms / 1e3)),
            None => positive(self.reported?.prefill_tok_s?),
        }
    }

    /// Time of tokens 2..N in seconds.
    pub fn decode_s(&self) -> Option<f64> {
        let (first, last) = (*self.arrival_ns.first()?, *self.arrival_ns.last()?);
        positive(last.checked_sub(first)? as f64 / 1e9)
    }

    /// Decode rate: tokens 2..N over their time, or as reported by a program that does not tell when tokens came; unknown
    /// below two tokens.
    pub fn decode_tok_s(&self) -> Option<f64> {
        match self.n_out().checked_sub(1) {
            Some(n) => positive(n as f64 / self.decode_s()?),
            None => positive(self.reported?.decode_tok_s?),
        }
    }

    /// Time per output token after the first: (end to end - time to first token) / (n - 1).
    pub fn tpot_ms(&self) -> Option<f64> {
        Some(1e3 / self.decode_tok_s()?)
    }

    /// Gaps between tokens in milliseconds; one fewer than tokens.
    pub fn gaps_ms(&self) -> Vec<f64> {
        let pairs = self.arrival_ns.windows(2);
        pairs
            .map(|w| w[1].saturating_sub(w[0]) as f64 / 1e6)
            .collect()
    }

    /// Bytes that a decoded token moves: weights and KV cache, activations left out (they stay in the caches).
    pub fn decode_bytes_per_token(&self) -> Option<f64> {
        let decode = self.decode.filter(|d| d.passes > 0 && self.n_out() > 1)?;
        let moved =
            decode.ledger.weight_bytes + decode.ledger.kv_read_bytes + decode.ledger.kv_write_bytes;
        positive(moved as f64 / (self.n_out() - 1) as f64)
    }

    /// Bytes of weights that products were looked up for, for a decoded token.
    pub fn lookup_bytes_per_token(&self) -> Option<f64> {
        let decode = self.decode.filter(|d| d.passes > 0 && self.n_out() > 1)?;
        Some(decode.ledger.lookup_bytes as f64 / (self.n_out() - 1) as f64)
    }

    /// Achieved bandwidth while decoding, in 1e9 bytes a second.
    pub fn decode_gb_s(&self) -> Option<f64> {
        Some(self.decode_bytes_per_token()? * self.decode_tok_s()? / 1e9)
    }

    /// Whether this repetition counts: measured, not a warm-up.
    pub fn is_measured(&self) -> bool {
        self.phase == Phase::Measured
    }
}

/// `x` if it is a finite number above 0.
pub(super) fn positive(x: f64) -> Option<f64> {
    (x.is_finite() && x > 0.0).then_some(x)
}

#[cfg(test)]
mod tests {
    use super::super::tests::sample;
    use super::*;
    use crate::record::Reported;

    #[track_caller]
    fn check(found: Option<f64>, expect: Option<f64>) {
        match (found, expect) {
            (Some(a), Some(b)) => assert!((a - b).abs() < 1e-9 * b.abs(), "{a} is not {b}"),
            _ => assert_eq!(found, expect),
        }
    }

    #[test]
    fn rates_follow_their_definitions() {
        let sample = sample();
        check(sample.ttft_ms(), Some(20.0));
        check(sample.e2e_ms(), Some(80.0));
        check(sample.prefill_tok_s(), Some(500.0));
        check(sample.decode_tok_s(), Some(50.0));
        check(sample.tpot_ms(), Some(20.0));
        check(sample.decode_bytes_per_token(), Some(1_000_300.0));
        check(sample.decode_gb_s(), Some(1_000_300.0 * 50.0 / 1e9));
        assert_eq!(sample.gaps_ms(), [10.0, 20.0, 30.0]);
    }

    #[test]
    fn what_cannot_be_known_is_none() {
        let one = Sample {
            arrival_ns: vec![7_000_000],
            ..sample()
        };
        check(one.ttft_ms(), Some(7.0));
        for unknown in [
            one.decode_tok_s(),
            one.tpot_ms(),
            one.decode_bytes_per_token(),
            one.decode_gb_s(),
        ] {
            check(unknown, None);
        }
        let none = Sample {
            arrival_ns: vec![],
            ..sample()
        };
        for unknown in [
            none.ttft_ms(),
            none.e2e_ms(),
            none.prefill_tok_s(),
            none.decode_tok_s(),
        ] {
            check(unknown, None);
        }
        let reported = Sample {
            arrival_ns: vec![],
            reported: Some(Reported {
                prefill_tok_s: Some(300.0),
                decode_tok_s: Some(40.0),
            }),
            ..sample()
        };
        check(reported.prefill_tok_s(), Some(300.0));
        check(reported.decode_tok_s(), Some(40.0));
        check(reported.ttft_ms(), None);
        let silent = Sample {
            decode: None,
            ..sample()
        };
        check(silent.decode_gb_s(), None);
    }
}
