//! How many tokens to draft.

#[cfg(test)]
mod tests;

use crate::options::speculation::DraftTokens;

/// Longest draft that `auto` asks for.
pub(super) const AUTO_MAX: usize = 16;

/// Share of the time that `auto` may lose against plain decoding with all drafters together, besides one token.
const LOSS_MAX: f64 = 0.01;

/// What was won before and may be lost again, in plain tokens.
const STAKE_MAX: f64 = 4.0;

/// How much faster drafts must promise to be than plain decoding.
const GAIN_MIN: f64 = 0.02;

/// Weight of the last time in an average, where the one before is a pass ago; older ones are left behind as fast, but none
/// weighs more than the second figure.
const NEWEST: (f64, f64) = (0.1, 0.3);

/// Acceptance that is taken for granted before anything was drafted, and as many drafted tokens as it weighs.
const GUESSED_ACCEPTANCE: (f64, f64) = (0.7, 2.0);

/// How much of what drafts came to is forgotten with each drafted token, and with each plain one.
const FORGOTTEN: (f64, f64) = (0.02, 0.01);

/// What each further token is taken to add to a pass of one before any such pass was timed.
const GUESSED_SLOPE: f64 = 0.05;

/// Tokens that a pass with a draft of `k` tokens gives on average, where each is kept with a chance of `a`: `(1 - a^(k + 1)) /
/// (1 - a)` (Leviathan et al. 2023).
pub fn expected_tokens(a: f64, k: f64) -> f64 {
    match a < 1.0 {
        true => (1.0 - a.powf(k + 1.0)) / (1.0 - a),
        false => k + 1.0,
    }
}

/// What `auto` has lost with all drafters of a loop.
#[derive(Debug, Clone, Default)]
pub(super) struct Spent {
    /// Time lost against plain decoding; below zero what was won.
    lost_ns: f64,
    /// Time of all passes and drafts.
    total_ns: f64,
}

impl Spent {
    /// Adds the time that a pass and its draft took, in which so many plain tokens of `plain_ns` were written.
    fn add(&mut self, took_ns: f64, tokens: usize, plain_ns: f64) {
        self.total_ns += took_ns;
        self.lost_ns += took_ns - tokens as f64 * plain_ns;
        // Little of what was won is staked again: a text that stops repeating itself costs hardly more than one that never
        // did.
        self.lost_ns = self.lost_ns.max(-STAKE_MAX * plain_ns);
    }

    /// Adds a pass of one token that took `verify_ns`, and the time in which a guess was sought in vain before it.
    pub(super) fn plain(&mut self, draft_ns: u64, verify_ns: u64) {
        self.total_ns += (draft_ns + verify_ns) as f64;
        self.lost_ns += draft_ns as f64;
    }

    /// What may be lost now.
    fn allowed_ns(&self, plain_ns: f64) -> f64 {
        LOSS_MAX * self.total_ns + plain_ns - self.lost_ns
    }
}

/// Chooses the lengths of one drafter. `auto` takes the length `k` with the most tokens in a unit of time, `(1 - a^(k + 1)) / (1 - a)` in `k c +
/// v(k + 1)` (Leviathan et al. 2023), from the acceptance `a`, the draft's time `c` and the passes' times `v` met so far; none
/// while, if all of it failed, it would be behind plain decoding by more than [`LOSS_MAX`] of the time and a token. What a
/// plain pass takes is measured again where that costs no more than [`LOSS_MAX`].
#[derive(Debug, Clone)]
pub(super) struct Length {
    wanted: DraftTokens,
    /// Passes so far.
    passes: u64,
    /// Drafted tokens kept and looked at, lately.
    kept: f64,
    looked_at: f64,
    /// Time of a drafted token.
    draft: Average,
    /// Time in which a drafter reads a token that it missed.
    read: Average,
    /// Of passes of each number of tokens, from one on.
    pass: [Average; AUTO_MAX + 1],
    since_plain_ns: f64,
}

/// A time as it was lately.
#[derive(Debug, Clone, Copy, Default)]
struct Average {
    ns: Option<f64>,
    /// When it was taken last, in passes.
    at: u64,
}

impl Average {
    fn add(&mut self, ns: f64, now: u64) {
        let (weight, most) = NEWEST;
        let old = (1.0 - weight).powi((now - self.at) as i32);
        let weight = (1.0 - old).clamp(weight, most);
        self.ns = Some(self.ns.map_or(ns, |before| before + weight * (ns - before)));
        self.at = now;
    }
}

impl Length {
    pub(super) fn new(wanted: DraftTokens) -> Length {
        Length {
            wanted,
            passes: 0,
            kept: 0.0,
            looked_at: 0.0,
            draft: Average::default(),
            read: Average::default(),
            pass: [Average::default(); AUTO_MAX + 1],
            since_plain_ns: 0.0,
        }
    }

    /// Tokens to draft next, by a drafter that must first read `behind` tokens that it missed.
    pub(super) fn next(&self, behind: usize, spent: &Spent) -> usize {
        match self.wanted {
            DraftTokens::Fixed(n) => n,
            DraftTokens::Auto => self.best(behind, spent).0,
        }
    }

    /// Whether a plain pass is due, so that drafts are held against what it takes now.
    pub(super) fn wants_plain(&self, spent: &Spent) -> bool {
        let (length, speed_up) = self.best(0, spent);
        let lost_ns = self.plain_ns() * (1.0 - 1.0 / speed_up);
        self.wanted == DraftTokens::Auto && length > 0 && lost_ns <= LOSS_MAX * self.since_plain_ns
    }

    /// The best length, and how much faster than plain decoding it promises to be.
    fn best(&self, behind: usize, spent: &Spent) -> (usize, f64) {
        let plain_ns = self.plain_ns();
        if plain_ns == 0.0 {
            return (0, 1.0);
        }
        let read_ns = behind as f64 * self.read.ns.unwrap_or(0.0);
        let allowed_ns = spent.allowed_ns(plain_ns) - read_ns;
        // A first draft shows what one costs; a long one that fails would be paid for over hundreds of tokens.
        let longest = self.draft.ns.map_or(1, |_| AUTO_MAX);
        let acceptance = self.acceptance();
        let mut best = (0, 1.0_f64);
        let (mut tokens, mut likely) = (1.0, 1.0);
        for k in 1..=longest {
            likely *= acceptance;
            tokens += likely;
            let cost_ns = self.cost_ns(k);
            if cost_ns - plain_ns > allowed_ns {
                break;
            }
            let speed_up = tokens * plain_ns / cost_ns;
            if speed_up > best.1.max(1.0 + GAIN_MIN) {
                best = (k, speed_up);
            }
        }
        best
    }

    fn acceptance(&self) -> f64 {
        let (guessed, weight) = GUESSED_ACCEPTANCE;
        (guessed * weight + self.kept) / (weight + self.looked_at)
    }

    /// Time of a pass over one token; 0 before the first.
    fn plain_ns(&self) -> f64 {
        self.pass[0].ns.unwrap_or(0.0)
    }

    /// Time to draft and verify `k` tokens; that of passes never made is drawn on from the nearest shorter one.
    fn cost_ns(&self, k: usize) -> f64 {
        let known = (0..=k).rev().find_map(|n| Some((n, self.pass[n].ns?)));
        let (n, ns) = known.unwrap_or((0, 0.0));
        let draft_ns = self.draft.ns.unwrap_or(0.0);
        k as f64 * draft_ns + ns + (k - n) as f64 * GUESSED_SLOPE * self.plain_ns()
    }

    /// The drafter has read `tokens` of a prompt.
    pub(super) fn read(&mut self, tokens: usize, read_ns: u64) {
        self.read
            .add(read_ns as f64 / tokens.max(1) as f64, self.passes);
    }

    /// A pass of one token took `verify_ns`.
    pub(super) fn plain(&mut self, verify_ns: u64) {
        self.passes += 1;
        self.pass[0].add(verify_ns as f64, self.passes);
        self.since_plain_ns = 0.0;
        self.forget(FORGOTTEN.1);
    }

    /// Of `drafted` tokens, at least one, `kept` were kept; the drafter had missed `behind` before.
    pub(super) fn drafted(
        &mut self,
        (drafted, kept): (usize, usize),
        behind: usize,
        (draft_ns, verify_ns): (u64, u64),
        spent: &mut Spent,
    ) {
        self.passes += 1;
        for i in 0..drafted.min(kept + 1) {
            self.forget(FORGOTTEN.0);
            self.kept += f64::from(u8::from(i < kept));
            self.looked_at += 1.0;
        }
        let read_ns = behind as f64 * self.read.ns.unwrap_or(0.0);
        let one_ns = (draft_ns as f64 - read_ns).max(0.0) / drafted as f64;
        self.draft.add(one_ns, self.passes);
        if let Some(pass) = self.pass.get_mut(drafted) {
            pass.add(verify_ns as f64, self.passes);
        }
        let took_ns = (draft_ns + verify_ns) as f64;
        self.since_plain_ns += took_ns;
        spent.add(took_ns, kept + 1, self.plain_ns());
    }

    fn forget(&mut self, share: f64) {
        self.kept *= 1.0 - share;
        self.looked_at *= 1.0 - share;
    }
}
