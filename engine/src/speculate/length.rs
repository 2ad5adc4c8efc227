//! How many tokens to draft.

use crate::options::speculation::DraftTokens;

/// Longest draft that `auto` asks for.
const AUTO_MAX: usize = 16;

/// Share of the time that `auto` may lose against plain decoding.
const LOSS_MAX: f64 = 0.01;

/// Weight of the last draft in the running averages.
const NEWEST: f64 = 0.1;

/// Acceptance that is taken for granted before anything was drafted, and approached again while nothing is.
const GUESSED_ACCEPTANCE: f64 = 0.7;

/// How fast, with each plain token.
const FORGOTTEN: f64 = 0.01;

/// What each further token is taken to add to a pass of one before any such pass was timed.
const GUESSED_SLOPE: f64 = 0.05;

/// Chooses lengths. `auto` takes the length `k` with the most tokens in a unit of time, `(1 - a^(k + 1)) / (1 - a)` in `k c +
/// v(k + 1)` (Leviathan et al. 2023), from the acceptance `a`, the draft's time `c` and the passes' times `v` met so far; none
/// while it is behind plain decoding by more than [`LOSS_MAX`] of the time and a token.
#[derive(Debug, Clone)]
pub(super) struct Length {
    wanted: DraftTokens,
    acceptance: f64,
    draft_ns: f64,
    /// Of passes of each number of tokens, from one on; 0 where there was none.
    pass_ns: [f64; AUTO_MAX + 1],
    lost_ns: f64,
    total_ns: f64,
}

impl Length {
    pub(super) fn new(wanted: DraftTokens) -> Length {
        Length {
            wanted,
            acceptance: GUESSED_ACCEPTANCE,
            draft_ns: 0.0,
            pass_ns: [0.0; AUTO_MAX + 1],
            lost_ns: 0.0,
            total_ns: 0.0,
        }
    }

    /// Tokens to draft next.
    pub(super) fn next(&self) -> usize {
        let DraftTokens::Fixed(n) = self.wanted else {
            return self.best();
        };
        n
    }

    fn best(&self) -> usize {
        let plain_ns = self.pass_ns[0];
        if plain_ns == 0.0 {
            return 0;
        }
        let allowance_ns = LOSS_MAX * self.total_ns + plain_ns - self.lost_ns;
        let rate = |k: usize| {
            let tokens: f64 = (0..=k).map(|i| self.acceptance.powi(i as i32)).sum();
            tokens / self.cost_ns(k)
        };
        // A first draft shows what one costs; a long one that fails would be paid for over hundreds of tokens.
        let longest = if self.draft_ns == 0.0 { 1 } else { AUTO_MAX };
        (0..=longest)
            .take_while(|&k| k == 0 || self.cost_ns(k) - plain_ns <= allowance_ns)
            .max_by(|&a, &b| rate(a).total_cmp(&rate(b)).then(b.cmp(&a)))
            .unwrap_or(0)
    }

    /// Time to draft and verify `k` tokens; that of passes never made is drawn on from the nearest shorter one.
    fn cost_ns(&self, k: usize) -> f64 {
        let (n, ns) = (0..=k)
            .rev()
            .map(|n| (n, self.pass_ns[n]))
            .find(|&(n, ns)| ns > 0.0 || n == 0)
            .unwrap_or((0, 0.0));
        k as f64 * self.draft_ns + ns + (k - n) as f64 * GUESSED_SLOPE * self.pass_ns[0]
    }

    /// A pass of one token took `verify_ns`.
    pub(super) fn plain(&mut self, verify_ns: u64) {
        average(&mut self.pass_ns[0], verify_ns as f64);
        self.total_ns += verify_ns as f64;
        self.acceptance += FORGOTTEN * (GUESSED_ACCEPTANCE - self.acceptance);
    }

    /// Of `drafted` tokens, at least one, `kept` were kept.
    pub(super) fn drafted(&mut self, drafted: usize, kept: usize, draft_ns: u64, verify_ns: u64) {
        let seen = drafted.min(kept + 1);
        for i in 0..seen {
            let accepted = f64::from(u8::from(i < kept));
            self.acceptance += NEWEST * (accepted - self.acceptance);
        }
        average(&mut self.draft_ns, draft_ns as f64 / drafted as f64);
        if let Some(pass_ns) = self.pass_ns.get_mut(drafted) {
            average(pass_ns, verify_ns as f64);
        }
        let took_ns = (draft_ns + verify_ns) as f64;
        self.total_ns += took_ns;
        self.lost_ns += took_ns - (kept + 1) as f64 * self.pass_ns[0];
        // What was won is not staked again: a text that stops repeating itself costs no more than one that never did.
        self.lost_ns = self.lost_ns.max(0.0);
    }
}

/// Moves a running average towards `value`; the first value is taken as it is.
fn average(average: &mut f64, value: f64) {
    *average = match *average == 0.0 {
        true => value,
        false => *average + NEWEST * (value - *average),
    };
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Tokens after `time_ns`, and the time that plain decoding takes for as many, where a pass of `n` takes `1000 v(n)`, a
    /// drafted token `c_ns`, and drafts are kept as far as `kept` says.
    fn run(c_ns: u64, v: impl Fn(usize) -> f64, mut kept: impl FnMut(usize) -> usize) -> f64 {
        let mut length = Length::new(DraftTokens::Auto);
        let (mut took, mut tokens) = (0, 0);
        while tokens < 2000 {
            let k = length.next();
            let verify_ns = (1e6 * v(k + 1)) as u64;
            if k == 0 {
                length.plain(verify_ns);
                tokens += 1;
            } else {
                let kept = kept(k).min(k);
                length.drafted(k, kept, k as u64 * c_ns, verify_ns);
                tokens += kept + 1;
                took += k as u64 * c_ns;
            }
            took += verify_ns;
        }
        tokens as f64 * 1e6 / took as f64
    }

    #[test]
    fn drafts_that_are_never_kept_cost_at_most_two_percent() {
        for c_ns in [0, 100_000, 300_000, 900_000] {
            let speed_up = run(c_ns, |n| 1.0 + 0.2 * (n - 1) as f64, |_| 0);
            assert!(speed_up > 0.98, "{c_ns} {speed_up}");
        }
    }

    #[test]
    fn drafts_that_are_always_kept_are_long() {
        let speed_up = run(1000, |n| 1.0 + 0.02 * (n - 1) as f64, |k| k);
        assert!(speed_up > 8.0, "{speed_up}");
    }

    #[test]
    fn the_length_comes_near_the_best_fixed_one() {
        let mut seed = 7_u64;
        let mut below = move |p: f64| {
            seed = seed
                .wrapping_mul(6364136223846793005)
                .wrapping_add(1442695040888963407);
            ((seed >> 33) as f64 / (1_u64 << 31) as f64) < p
        };
        let kept = move |k: usize| (0..k).take_while(|_| below(0.8)).count();
        let speed_up = run(150_000, |n| 1.0 + 0.1 * (n - 1) as f64, kept);
        // By the formula the best is 1.55, with four tokens.
        assert!(speed_up > 1.4, "{speed_up}");
    }
}
