//! In which order repetitions are done.

use super::Task;
use crate::record::Phase;
use crate::scenario::Order;
use crate::stats::SplitMix64;

/// One repetition to be done.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Slot {
    /// Whether it counts.
    pub phase: Phase,
    /// Round, from 0; warm-up rounds count on their own.
    pub round: u32,
    /// Place in the round, from 0.
    pub position: u32,
    /// Index of the task.
    pub task: u32,
}

/// All repetitions, in order: each round holds each task once. In a rotated order the tasks are shuffled once and move on
/// by one place every round, so that drift of the machine and the place in the round meet all tasks alike.
pub fn schedule(tasks: u32, warmup: u32, rounds: u32, order: Order, seed: u64) -> Vec<Slot> {
    let base = shuffled((0..tasks).collect(), order, &mut SplitMix64::new(seed));
    let mut slots = Vec::new();
    for (phase, round, turn) in turns(warmup, rounds) {
        slots.extend(places(phase, round, turned(&base, turn, order)));
    }
    slots
}

/// The same repetitions with those of a round that take turns one after the other, so that nothing comes between them: what
/// takes none stands before them in every other round, and behind them in the rest.
pub fn gathered(slots: Vec<Slot>, tasks: &[Task]) -> Vec<Slot> {
    let rounds = slots.chunk_by(|a, b| (a.phase, a.round) == (b.phase, b.round));
    let rounds = rounds.flat_map(|round| {
        let first = round[0];
        let mut order: Vec<u32> = round.iter().map(|slot| slot.task).collect();
        order.sort_by_key(|&task| tasks[task as usize].takes_turns() == (first.round % 2 == 0));
        places(first.phase, first.round, order)
    });
    rounds.collect()
}

/// All repetitions of a comparison, in order. Tasks of a block are compared with each other: a measured round takes block
/// after block, each forwards and then backwards (A B B A), so that a drift within the round meets all tasks of a block
/// alike. In a rotated order blocks, and tasks within each, move on by one place every round. Warm-up rounds hold each task
/// once; `once` are tasks done a single time, with the warm-up.
pub fn mirrored(
    blocks: &[Vec<u32>],
    once: &[u32],
    (warmup, rounds): (u32, u32),
    order: Order,
    seed: u64,
) -> Vec<Slot> {
    let mut random = SplitMix64::new(seed);
    let blocks = blocks.iter().cloned();
    let blocks: Vec<Vec<u32>> = blocks.map(|b| shuffled(b, order, &mut random)).collect();
    let mut warm: Vec<u32> = blocks.concat();
    warm.extend(once);
    // Places after those of the warm-up, whether there is one or not.
    let mut slots = places(Phase::Warmup, 0, warm);
    slots.rotate_right(once.len());
    slots.retain(|slot| warmup > 0 || once.contains(&slot.task));
    for (phase, round, turn) in turns(warmup, rounds).skip(usize::from(warmup > 0)) {
        let mut tasks = Vec::new();
        for block in turned(&blocks, turn, order) {
            let block = turned(&block, turn, order);
            tasks.extend(&block);
            if phase == Phase::Measured {
                tasks.extend(block.iter().rev());
            }
        }
        slots.extend(places(phase, round, tasks));
    }
    slots
}

/// Phase and number of each round, and how often the order has moved on before it.
fn turns(warmup: u32, rounds: u32) -> impl Iterator<Item = (Phase, u32, u32)> {
    let warm = (0..warmup).map(|round| (Phase::Warmup, round, round));
    warm.chain((0..rounds).map(move |round| (Phase::Measured, round, warmup + round)))
}

fn shuffled(mut tasks: Vec<u32>, order: Order, random: &mut SplitMix64) -> Vec<u32> {
    if order == Order::Rotated {
        for i in (1..tasks.len()).rev() {
            tasks.swap(i, random.below(i + 1));
        }
    }
    tasks
}

/// A list moved on by `turn` places, in a rotated order.
fn turned<T: Clone>(list: &[T], turn: u32, order: Order) -> Vec<T> {
    let mut list = list.to_vec();
    if order == Order::Rotated && !list.is_empty() {
        let places = turn as usize % list.len();
        list.rotate_left(places);
    }
    list
}

/// The tasks of a round, in order.
fn places(phase: Phase, round: u32, tasks: Vec<u32>) -> Vec<Slot> {
    let slots = tasks.into_iter().zip(0..).map(|(task, position)| Slot {
        phase,
        round,
        position,
        task,
    });
    slots.collect()
}

#[cfg(test)]
mod tests {
    use super::super::Work;
    use super::*;
    use crate::record::ENGINE;
    use crate::runner::Job;
    use engine::options::{Affinity, AffinityPolicy};
    use std::time::Duration;

    #[test]
    fn every_round_holds_every_task_once() {
        let slots = schedule(5, 2, 3, Order::Rotated, 7);
        assert_eq!(slots.len(), 5 * 5);
        for (i, round) in slots.chunks(5).enumerate() {
            let mut tasks: Vec<u32> = round.iter().map(|s| s.task).collect();
            tasks.sort_unstable();
            assert_eq!(tasks, [0, 1, 2, 3, 4]);
            let warmup = i < 2;
            let expect = if warmup {
                (Phase::Warmup, i as u32)
            } else {
                (Phase::Measured, i as u32 - 2)
            };
            assert!(round.iter().all(|s| (s.phase, s.round) == expect));
            assert!(round.iter().map(|s| s.position).eq(0..5));
        }
    }

    #[test]
    fn a_rotated_order_meets_every_place_once() {
        let slots = schedule(4, 0, 4, Order::Rotated, 3);
        for task in 0..4 {
            let places = slots.iter().filter(|s| s.task == task);
            let mut places: Vec<u32> = places.map(|s| s.position).collect();
            places.sort_unstable();
            assert_eq!(places, [0, 1, 2, 3], "task {task}");
        }
        assert_eq!(slots, schedule(4, 0, 4, Order::Rotated, 3));
        let orders: std::collections::HashSet<Vec<u32>> = (0..20)
            .map(|seed| schedule(4, 0, 1, Order::Rotated, seed))
            .map(|slots| slots.iter().map(|s| s.task).collect())
            .collect();
        assert!(orders.len() > 3, "the seed decides the order");
        let listed = schedule(3, 0, 2, Order::Listed, 3);
        assert!(listed.iter().map(|s| s.task).eq([0, 1, 2, 0, 1, 2]));
    }

    #[test]
    fn what_takes_turns_is_not_torn_apart() {
        let task = |affinity| {
            let job = Job {
                engine: engine::options::Options {
                    affinity: Affinity::Policy(affinity),
                    ..Default::default()
                },
                ..crate::runner::tests::job()
            };
            Task {
                case: 0,
                runner: ENGINE.into(),
                limit: Duration::from_secs(1),
                worker: None,
                work: Work::Worker(Box::new(job)),
            }
        };
        let [pinned, free] = [AffinityPolicy::Physical, AffinityPolicy::None].map(task);
        let tasks = [pinned.clone(), free.clone(), pinned, free];
        let slots = gathered(schedule(4, 1, 4, Order::Rotated, 3), &tasks);
        assert_eq!(slots.len(), 5 * 4);
        for round in slots.chunks(4) {
            let turns: Vec<bool> = round.iter().map(|s| s.task % 2 == 0).collect();
            let expect = match round[0].round % 2 {
                0 => [false, false, true, true],
                _ => [true, true, false, false],
            };
            assert_eq!(turns, expect, "{round:?}");
            assert!(round.iter().map(|s| s.position).eq(0..4));
            let mut all: Vec<u32> = round.iter().map(|s| s.task).collect();
            all.sort_unstable();
            assert_eq!(all, [0, 1, 2, 3]);
        }
    }

    /// Tasks of each measured round, in order.
    fn rounds(slots: &[Slot]) -> Vec<Vec<u32>> {
        let measured: Vec<&Slot> = slots
            .iter()
            .filter(|s| s.phase == Phase::Measured)
            .collect();
        let rounds = measured.chunk_by(|a, b| a.round == b.round);
        rounds
            .map(|round| round.iter().map(|s| s.task).collect())
            .collect()
    }

    #[test]
    fn a_comparison_goes_forwards_and_back() {
        let blocks = [vec![0, 1], vec![2, 3, 4]];
        let listed = mirrored(&blocks, &[], (0, 2), Order::Listed, 1);
        assert_eq!(rounds(&listed), vec![vec![0, 1, 1, 0, 2, 3, 4, 4, 3, 2]; 2]);

        let slots = mirrored(&blocks, &[5, 6], (2, 6), Order::Rotated, 1);
        let rounds = rounds(&slots);
        assert_eq!(rounds.len(), 6);
        let mut first = std::collections::HashSet::new();
        for round in &rounds {
            // Blocks stay together, in either order.
            let at = if round[0] < 2 { 4 } else { 6 };
            let (a, b) = round.split_at(at);
            for block in [a, b] {
                assert!(block.iter().eq(block.iter().rev()), "{round:?}");
                first.insert(block[0]);
            }
            assert!(round.iter().filter(|t| **t < 2).count() == 4);
        }
        assert_eq!(
            first.len(),
            5,
            "every task has the outer places: {rounds:?}"
        );
        // Each place of a round is taken once; what is done once comes first, and no place is taken twice.
        assert_eq!([slots[0].task, slots[1].task], [5, 6]);
        let places: std::collections::HashSet<_> = slots
            .iter()
            .map(|s| (s.phase, s.round, s.position))
            .collect();
        assert_eq!(places.len(), slots.len());
        assert_eq!(slots.len(), 2 + 2 * 5 + 6 * 10);
        let cold = mirrored(&blocks, &[5], (0, 1), Order::Rotated, 1);
        assert_eq!((cold.len(), cold[0].phase), (1 + 10, Phase::Warmup));
        assert_eq!(cold[0].position, 5);
    }
}
