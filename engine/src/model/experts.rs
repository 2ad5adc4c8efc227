//! The feed-forward part of a mixture of experts (Shazeer et al. 2017; Fedus et al. 2021): a router gives every expert a score
//! for each token, which goes through those of the highest; what they give is added up, weighed by the softmax of the scores.
//!
//! A pass goes through the experts one by one. Tokens that share one are its *group* and stand in neighbouring *slots*, so that
//! its weights are read once for all of them. Every thread has the same part of each expert's panels, those that it packed.
//! What the experts of a token give is added in the order of their numbers, whoever else is in the pass, so that results
//! depend on neither batch nor threads.
#![allow(unsafe_code)]

use super::buffers::REDUNDANT_TOKENS;
use super::config::{Config, Experts};
use super::forward::{Pass, Worker, each};
use super::weights::Layer;
use crate::kernel::{Bits, TILE_TOKENS};
use crate::matrix::{Activations, Bank, DIRECT_TOKENS, Matrix, row};
use crate::pool::SharedBuf;
use crate::simd::LANES;
use crate::sparsity::Site;
use crate::stage::Stage;
use std::ops::Range;

/// An expert that a token goes through, and what its output is multiplied with.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
struct Chosen {
    expert: usize,
    weight: f32,
}

/// The slots of the tokens of one expert.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
struct Group {
    expert: usize,
    first: usize,
    len: usize,
}

impl Group {
    fn slots(&self) -> Range<usize> {
        self.first..self.first + self.len
    }
}

/// A token on its way through an expert.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
struct Slot {
    token: usize,
    weight: f32,
}

/// Which tokens of a pass go where: groups in the order of experts, and slots, between which some are empty.
struct Routes<'a> {
    groups: &'a [Group],
    slots: &'a [Slot],
}

/// Slots that `tokens` take at most; without experts as many as tokens.
pub(super) fn slots_max(c: &Config, tokens: usize) -> usize {
    c.experts.map_or(tokens, |e| {
        let slots = tokens * e.used;
        let large_groups = e.count.min(slots / (DIRECT_TOKENS + 1));
        slots + (TILE_TOKENS - 1) * large_groups
    })
}

/// Working memory; nothing where a model is dense.
pub(crate) struct ExpertScratch {
    /// What the router gives, `[tokens][experts]`.
    scores: SharedBuf<f32>,
    /// The experts of each token, `[tokens][used]`; those of a few tokens every thread chooses for itself,
    /// `[threads][REDUNDANT_TOKENS][used]`.
    chosen: SharedBuf<Chosen>,
    own_chosen: SharedBuf<Chosen>,
    /// Routes of each thread, all the same: `[threads][experts]`, `[threads][slots]`.
    groups: SharedBuf<Group>,
    slots: SharedBuf<Slot>,
    slots_max: usize,
    /// What the experts are multiplied with, by slot.
    inputs: Activations,
}

impl ExpertScratch {
    pub(super) fn new(c: &Config, threads: usize, batch: usize, lookup: bool) -> ExpertScratch {
        let Experts { count, used } = c.experts.unwrap_or(Experts { count: 0, used: 0 });
        let slots_max = c.experts.map_or(0, |_| slots_max(c, batch));
        ExpertScratch {
            scores: SharedBuf::new(batch * count),
            chosen: SharedBuf::new(batch * used),
            own_chosen: SharedBuf::new(threads * REDUNDANT_TOKENS * used),
            groups: SharedBuf::new(threads * count),
            slots: SharedBuf::new(threads * slots_max),
            slots_max,
            inputs: Activations::in_slots(slots_max, c.n_embd.max(c.n_ff), lookup),
        }
    }
}

/// Lists the experts of the highest `scores`, as many as `chosen` has room for, by number; of equal ones the first counts.
/// Weights are the softmax of their scores: that of all scores, made to sum to 1.
fn choose(scores: &[f32], chosen: &mut [Chosen]) {
    let mut n = 0;
    for (expert, &score) in scores.iter().enumerate() {
        let at = chosen[..n].iter().position(|c| score > c.weight);
        let at = at.unwrap_or(n);
        if at == chosen.len() {
            continue;
        }
        n = chosen.len().min(n + 1);
        chosen[at..n].rotate_right(1);
        chosen[at] = Chosen {
            expert,
            weight: score,
        };
    }
    let highest = chosen[0].weight;
    chosen.sort_unstable_by_key(|c| c.expert);
    let mut sum = 0.0;
    for c in chosen.iter_mut() {
        c.weight = (c.weight - highest).exp();
        sum += c.weight;
    }
    chosen.iter_mut().for_each(|c| c.weight /= sum);
}

/// Gives every token a slot for each of its `used` experts, those of an expert side by side. Groups that are multiplied in
/// tiles begin one.
fn group<'a>(
    chosen: &[Chosen],
    used: usize,
    groups: &'a mut [Group],
    slots: &'a mut [Slot],
) -> Routes<'a> {
    for (expert, group) in groups.iter_mut().enumerate() {
        *group = Group {
            expert,
            ..Group::default()
        };
    }
    chosen.iter().for_each(|c| groups[c.expert].len += 1);
    let mut end = 0;
    for group in groups.iter_mut() {
        group.first = match group.len {
            ..=DIRECT_TOKENS => end,
            _ => end.next_multiple_of(TILE_TOKENS),
        };
        end = group.slots().end;
        group.len = 0;
    }
    for (i, c) in chosen.iter().enumerate() {
        let group = &mut groups[c.expert];
        slots[group.slots().end] = Slot {
            token: i / used,
            weight: c.weight,
        };
        group.len += 1;
    }
    let mut n = 0;
    for i in 0..groups.len() {
        if groups[i].len > 0 {
            groups[n] = groups[i];
            n += 1;
        }
    }
    Routes {
        groups: &groups[..n],
        slots: &slots[..end],
    }
}

/// The panels of matrix `i` of `n` among items `items`, where an item is a panel of one, those of all matrices in turn.
fn panels_of(i: usize, n: usize, items: &Range<usize>) -> Range<usize> {
    let first = |item: usize| (item + n - 1 - i) / n;
    first(items.start)..first(items.end)
}

impl Pass<'_> {
    /// The feed-forward part of layer `l`, added to the residual stream.
    pub(super) fn experts_block(
        &self,
        w: &mut Worker<'_>,
        (l, layer): (usize, &Layer),
        router: &Matrix,
        experts: Experts,
    ) {
        self.scores(w, layer, router);
        w.barrier();
        let routes = self.route(w, experts);
        self.experts_gate_up(w, (l, layer), &routes);
        let first = &layer.down[routes.groups[0].expert];
        self.barrier_before(w, &[first]);
        self.experts_down(w, (l, layer), &routes);
    }

    /// The router's scores of every token.
    fn scores(&self, w: &mut Worker<'_>, layer: &Layer, router: &Matrix) {
        let (c, s, n) = (&self.model.config, &self.buffers.experts, self.tokens.len());
        let act = self.quantise(w, n, c.n_embd, None, |t, out| {
            self.normed(t, &layer.ffn_norm, out)
        });
        self.project(w, &[router], act, n, |r, t, y| {
            let at = t * router.rows + r;
            // SAFETY: each row belongs to one thread.
            each(unsafe { s.scores.write(at..at + y.len()) }, y, |s, y| {
                *s = y
            });
        });
        w.clock.lap(Stage::GateUp);
    }

    /// Which tokens go through which experts: of few tokens every thread chooses for itself, of many its share. All threads
    /// get the same.
    fn route(&self, w: &mut Worker<'_>, experts: Experts) -> Routes<'_> {
        let (s, n, thread) = (&self.buffers.experts, self.tokens.len(), w.ctx.index);
        let (chosen, first, mine) = match n {
            ..=REDUNDANT_TOKENS => (&s.own_chosen, thread * REDUNDANT_TOKENS, 0..n),
            _ => (&s.chosen, 0, w.ctx.share(n)),
        };
        for t in mine {
            // SAFETY: scores were written before the last barrier; own choices are this thread's, others are split.
            unsafe {
                let scores = s.scores.read(row(t, experts.count));
                choose(scores, chosen.write(row(first + t, experts.used)));
            }
        }
        if n > REDUNDANT_TOKENS {
            w.clock.lap(Stage::GateUp);
            w.barrier();
        }
        // SAFETY: choices were written by this thread or before the last barrier; routes are this thread's.
        let routes = unsafe {
            let chosen = chosen.read(first * experts.used..(first + n) * experts.used);
            let groups = s.groups.write(row(thread, experts.count));
            group(
                chosen,
                experts.used,
                groups,
                s.slots.write(row(thread, s.slots_max)),
            )
        };
        w.clock.lap(Stage::GateUp);
        routes
    }

    /// Gate and up projections of all groups, activated.
    fn experts_gate_up(
        &self,
        w: &mut Worker<'_>,
        (l, layer): (usize, &Layer),
        routes: &Routes<'_>,
    ) {
        let (c, b, n) = (&self.model.config, self.buffers, self.tokens.len());
        let fill = |slot: usize, out: &mut [f32]| {
            self.normed(routes.slots[slot].token, &layer.ffn_norm, out);
        };
        self.observe_experts(w, (l, Site::GateUp), routes, c.n_embd, fill);
        // One token is what the router was multiplied with, the same for all its experts.
        let one = n == 1;
        let act = match one {
            true => &b.own[w.ctx.index],
            false => self.inputs(w, routes, c.n_embd, fill),
        };
        let groups = routes.groups;
        let total = layer.gate[0].panels() * groups.len();
        self.share_panels(w, total, n, |w, items| {
            for (i, group) in groups.iter().enumerate() {
                let panels = panels_of(i, groups.len(), &items);
                let pair = [&layer.gate[group.expert], &layer.up[group.expert]];
                let rows = if one { 0..1 } else { group.slots() };
                let to_slot = group.first - rows.start;
                let ledger = &mut w.ledger;
                self.experts_bank(w.ctx.index).multiply(
                    pair,
                    panels,
                    act,
                    rows,
                    ledger,
                    |r, t, [gate, up]| {
                        self.model.kernels.gate(c.arch.activation, gate, up);
                        let len = LANES.min(c.n_ff - r);
                        for (i, gate) in gate.iter().enumerate() {
                            let at = (to_slot + t + i) * c.n_ff + r;
                            // SAFETY: each row belongs to one thread.
                            let ff = unsafe { b.ff.write(at..at + len) };
                            each(ff, &gate[..len], |ff, gate| *ff = gate);
                        }
                    },
                );
            }
        });
        w.clock.lap(Stage::GateUp);
    }

    /// Down projections of all groups, weighed and added to the residual stream.
    fn experts_down(&self, w: &mut Worker<'_>, (l, layer): (usize, &Layer), routes: &Routes<'_>) {
        let (c, b) = (&self.model.config, self.buffers);
        let fill = |slot: usize, out: &mut [f32]| {
            // SAFETY: written before the last barrier.
            out.copy_from_slice(unsafe { b.ff.read(row(slot, c.n_ff)) });
        };
        self.observe_experts(w, (l, Site::Down), routes, c.n_ff, fill);
        let act = self.inputs(w, routes, c.n_ff, fill);
        let total = layer.down[0].panels();
        self.share_panels(w, total, self.tokens.len(), |w, panels| {
            for group in routes.groups {
                let (m, slots) = (&layer.down[group.expert], group.slots());
                let ledger = &mut w.ledger;
                self.experts_bank(w.ctx.index).multiply(
                    [m],
                    panels.clone(),
                    act,
                    slots,
                    ledger,
                    |r, slot, [y]| {
                        let len = LANES.min(m.rows - r);
                        for (y, slot) in y.iter().zip(&routes.slots[slot..]) {
                            let at = slot.token * c.n_embd + r;
                            let weight = c.residual_scale * slot.weight;
                            // SAFETY: each row belongs to one thread; all have read the stream before the last barrier.
                            let x = unsafe { b.x.write(at..at + len) };
                            each(x, &y[..len], |x, y| *x += weight * y);
                        }
                    },
                );
            }
        });
        w.clock.lap(Stage::Down);
    }

    /// Fills and quantises what experts are multiplied with, rows of `cols` values: of one token every thread all, of more its
    /// share, and a barrier follows.
    fn inputs(
        &self,
        w: &mut Worker<'_>,
        routes: &Routes<'_>,
        cols: usize,
        fill: impl Fn(usize, &mut [f32]),
    ) -> &Activations {
        let own = self.tokens.len() == 1;
        let (act, mine) = match own {
            true => (&self.buffers.own[w.ctx.index], 0..routes.slots.len()),
            false => {
                let tiles = w.ctx.share(routes.slots.len().div_ceil(TILE_TOKENS));
                let slots = tiles.start * TILE_TOKENS..tiles.end * TILE_TOKENS;
                (&self.buffers.experts.inputs, slots)
            }
        };
        for group in routes.groups {
            let slots = group.slots();
            for slot in slots.start.max(mine.start)..slots.end.min(mine.end) {
                // SAFETY: own rows are this thread's; tiles are split, and the last readers passed a barrier.
                unsafe {
                    let kernels = &*self.model.kernels;
                    act.set(kernels, slot, group.len, cols, |out| fill(slot, out));
                }
            }
        }
        w.clock.lap(Stage::Norm);
        if !own {
            w.barrier();
        }
        act
    }

    /// Has whoever observes hear this thread's share of what experts are multiplied with.
    fn observe_experts(
        &self,
        w: &Worker<'_>,
        (l, site): (usize, Site),
        routes: &Routes<'_>,
        cols: usize,
        fill: impl Fn(usize, &mut [f32]),
    ) {
        let observed = |_: &Experts| self.observer.is_some();
        let Some(experts) = self.model.config.experts.filter(observed) else {
            return;
        };
        let mut values = vec![0.0; cols];
        let mine = w.ctx.share(routes.groups.len());
        for group in &routes.groups[mine] {
            for slot in group.slots() {
                fill(slot, &mut values);
                let expert = (group.expert, experts.count);
                self.observe_expert(w.ctx.index, l, site, expert, &values);
            }
        }
    }

    /// Reads all bits of passes of many tokens, however few of these share an expert.
    fn experts_bank(&self, thread: usize) -> Bank<'_> {
        let bits = match self.tokens.len() {
            ..=DIRECT_TOKENS => self.bits,
            _ => Bits::All,
        };
        Bank {
            bits,
            ..self.bank(thread)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_highest_scores_are_chosen_and_weighed() {
        let mut chosen = [Chosen::default(); 3];
        let check = |chosen: &[Chosen], experts: [usize; 3], weights: [f32; 3]| {
            assert_eq!(chosen.iter().map(|c| c.expert).collect::<Vec<_>>(), experts);
            for (c, w) in chosen.iter().zip(weights) {
                assert!((c.weight - w).abs() < 1e-6, "{chosen:?}");
            }
        };
        let ln = f32::ln;
        choose(&[ln(0.1), ln(4.0), ln(0.2), ln(2.0), ln(2.0)], &mut chosen);
        check(&chosen, [1, 3, 4], [0.5, 0.25, 0.25]);
        // Of equal scores the first ones count.
        choose(&[1.0; 5], &mut chosen);
        check(&chosen, [0, 1, 2], [1.0 / 3.0; 3]);
        // As many as are wanted, whatever the scores are.
        choose(&[f32::NAN, 1.0, f32::NAN, f32::NAN, 2.0], &mut chosen);
        let mut experts = chosen.map(|c| c.expert);
        experts.sort_unstable();
        assert!(experts.windows(2).all(|e| e[0] < e[1]), "{experts:?}");
        choose(&[0.0, f32::INFINITY, -1.0, 5.0], &mut chosen);
        assert_eq!(chosen.map(|c| c.expert), [0, 1, 3]);
    }

    #[test]
    fn groups_hold_every_token_once_for_each_of_its_experts() {
        // Seven tokens: all go to expert 2, one each to the others.
        let chosen: Vec<Chosen> = (0..7)
            .flat_map(|t| {
                let other = [0, 1, 3, 4, 5, 6, 7][t];
                let mut experts = [2, other];
                experts.sort_unstable();
                experts.map(|expert| Chosen {
                    expert,
                    weight: t as f32,
                })
            })
            .collect();
        let mut groups = [Group::default(); 9];
        let mut slots = [Slot::default(); 14 + 3 * 2];
        let routes = group(&chosen, 2, &mut groups, &mut slots);
        assert_eq!(routes.groups.len(), 8);
        let mut seen = Vec::new();
        for group in routes.groups {
            if group.len > DIRECT_TOKENS {
                assert_eq!((group.expert, group.first % TILE_TOKENS), (2, 0));
            }
            for slot in &routes.slots[group.slots()] {
                assert_eq!(slot.weight, slot.token as f32);
                seen.push((slot.token, group.expert));
            }
        }
        seen.sort_unstable();
        let expect = chosen.iter().enumerate().map(|(i, c)| (i / 2, c.expert));
        assert_eq!(seen, expect.collect::<Vec<_>>());
    }

    #[test]
    fn items_are_the_panels_of_all_matrices_once() {
        for (n, panels, cuts) in [
            (8, 10, vec![0, 3, 37, 80]),
            (1, 5, vec![0, 5]),
            (3, 2, vec![0, 1, 2, 6]),
        ] {
            let mut seen = Vec::new();
            for items in cuts.windows(2).map(|c| c[0]..c[1]) {
                for i in 0..n {
                    seen.extend(panels_of(i, n, &items).map(|p| (i, p)));
                }
            }
            seen.sort_unstable();
            let all = (0..n).flat_map(|i| (0..panels).map(move |p| (i, p)));
            assert_eq!(seen, all.collect::<Vec<_>>());
        }
    }
}
