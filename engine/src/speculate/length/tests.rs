//! Simulations: what `auto` makes of drafts of a given acceptance and cost, on a machine whose speed wanders.

use super::*;
use crate::rng::Rng;

/// Time of a plain token in nanoseconds, on average.
const PLAIN_NS: f64 = 1e7;

/// What drafts are like.
#[derive(Debug, Clone, Copy)]
struct Drafts {
    /// Share that is kept of the tokens looked at.
    acceptance: f64,
    /// Time of a drafted token, in plain ones.
    cost: f64,
    /// What each further token adds to a pass, in plain ones.
    slope: f64,
}

/// A machine: each time is off by its own few percent, and by a drift that all of a while share; one in a hundred takes half as
/// much again.
struct Machine {
    rng: Rng,
    drift: f64,
}

impl Machine {
    fn new(seed: u64) -> Machine {
        let rng = Rng::of(seed, "drafts");
        Machine { rng, drift: 0.0 }
    }

    fn wander(&mut self) {
        self.drift += 0.016 * f64::from(self.rng.bell()) - self.drift / 50.0;
    }

    fn ns(&mut self, plain_tokens: f64) -> u64 {
        let off = 0.05 * f64::from(self.rng.bell()) + self.drift;
        let held_up = if self.rng.unit() < 0.01 { 1.5 } else { 1.0 };
        (PLAIN_NS * plain_tokens * off.exp() * held_up) as u64
    }

    fn kept(&mut self, k: usize, acceptance: f64) -> usize {
        (0..k).take_while(|_| self.rng.unit() < acceptance).count()
    }
}

/// Time for `tokens` tokens.
fn time_ns(wanted: DraftTokens, drafts: Drafts, tokens: usize, seed: u64) -> f64 {
    let mut machine = Machine::new(seed);
    let (mut length, mut spent) = (Length::new(wanted), Spent::default());
    let (mut took_ns, mut written) = (0, 0);
    while written < tokens {
        machine.wander();
        let asked = match length.wants_plain(&spent) {
            true => 0,
            false => length.next(0, &spent).min(tokens - written - 1),
        };
        let verify_ns = machine.ns(1.0 + drafts.slope * asked as f64);
        written += 1;
        took_ns += verify_ns;
        if asked == 0 {
            length.plain(verify_ns);
            spent.plain(0, verify_ns);
            continue;
        }
        let draft_ns = machine.ns(drafts.cost * asked as f64);
        let kept = machine.kept(asked, drafts.acceptance);
        length.drafted((asked, kept), 0, (draft_ns, verify_ns), &mut spent);
        written += kept;
        took_ns += draft_ns;
    }
    took_ns as f64
}

/// How much faster than plain decoding, over many answers.
fn speed_up(wanted: DraftTokens, drafts: Drafts, tokens: usize) -> f64 {
    let (mut plain_ns, mut took_ns) = (0.0, 0.0);
    for seed in 0..200 {
        plain_ns += plain_ns_of(tokens, seed);
        took_ns += time_ns(wanted, drafts, tokens, seed);
    }
    plain_ns / took_ns
}

/// Time of plain decoding.
fn plain_ns_of(tokens: usize, seed: u64) -> f64 {
    let mut machine = Machine::new(seed);
    let one = |_| {
        machine.wander();
        machine.ns(1.0) as f64
    };
    (0..tokens).map(one).sum()
}

/// Drafts from the text, by top bits of a small vocabulary, by a copy of half of the bytes, by one of nearly all.
const COSTS: [f64; 4] = [0.001, 0.25, 0.5, 0.9];

fn drafts(acceptance: f64, cost: f64) -> Drafts {
    Drafts {
        acceptance,
        cost,
        slope: 0.06,
    }
}

#[test]
fn drafts_that_do_not_pay_cost_at_most_two_percent() {
    for cost in COSTS {
        for acceptance in [0.0, 0.2, 0.5] {
            let speed_up = speed_up(DraftTokens::Auto, drafts(acceptance, cost), 256);
            println!("auto, cost {cost}, acceptance {acceptance}: {speed_up:.3}");
            assert!(speed_up > 0.98, "{cost} {acceptance} {speed_up}");
        }
    }
}

#[test]
fn drafts_that_pay_come_near_the_best_length() {
    for (acceptance, cost) in [
        (0.7, 0.001),
        (0.7, 0.25),
        (0.9, 0.001),
        (0.9, 0.25),
        (0.9, 0.5),
    ] {
        let drafts = drafts(acceptance, cost);
        let fixed = (1..=AUTO_MAX).map(|k| speed_up(DraftTokens::Fixed(k), drafts, 256));
        let best = fixed.fold(0.0, f64::max);
        let auto = speed_up(DraftTokens::Auto, drafts, 256);
        println!("auto, cost {cost}, acceptance {acceptance}: {auto:.3} of {best:.3}");
        assert!(auto > 0.94 * best, "{cost} {acceptance} {auto} {best}");
    }
}

#[test]
fn a_text_that_stops_repeating_itself_costs_a_few_passes() {
    let (mut length, mut spent) = (Length::new(DraftTokens::Auto), Spent::default());
    length.plain(1_000);
    spent.plain(0, 1_000);
    let mut lost_ns = 0;
    for pass in 0..400 {
        let k = length.next(0, &spent);
        let kept = if pass < 50 { k } else { 0 };
        let verify_ns = 1_000 + 60 * k as u64;
        match k {
            0 => {
                length.plain(verify_ns);
                spent.plain(0, verify_ns);
            }
            _ => length.drafted((k, kept), 0, (1, verify_ns), &mut spent),
        }
        if pass >= 50 {
            lost_ns += verify_ns - 1_000;
        }
    }
    assert!(length.next(0, &spent) == 0 || lost_ns > 0, "it was tried");
    let allowed_ns = 1_000.0 * (STAKE_MAX + 1.0 + LOSS_MAX * 450.0);
    assert!(lost_ns as f64 <= 1.1 * allowed_ns, "{lost_ns}");
}

#[test]
fn a_drafter_that_has_much_to_catch_up_with_is_left_alone() {
    let (mut length, mut spent) = (Length::new(DraftTokens::Auto), Spent::default());
    length.read(100, 20_000);
    length.plain(1_000);
    spent.plain(0, 1_000);
    assert_eq!(length.next(0, &spent), 1);
    assert_eq!(length.next(30, &spent), 0, "reading takes six plain tokens");
}

#[test]
fn drafters_share_what_may_be_lost() {
    let mut lengths = [(); 2].map(|()| Length::new(DraftTokens::Auto));
    let mut spent = Spent::default();
    lengths.iter_mut().for_each(|l| l.plain(1_000));
    spent.plain(0, 1_000);
    let [first, second] = &mut lengths;
    first.drafted((1, 0), 0, (900, 1_050), &mut spent);
    // It took nearly all of a token's time; what a draft costs the second one does not know yet.
    assert_eq!(first.next(0, &spent), 0);
    assert_eq!(second.next(0, &spent), 1);
    second.drafted((1, 0), 0, (900, 1_050), &mut spent);
    for length in &lengths {
        assert_eq!(length.next(0, &spent), 0);
        assert!(!length.wants_plain(&spent), "nothing is drafted");
    }
}
