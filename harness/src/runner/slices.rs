//! Several children on one machine, a slice of time each in turn, so that what disturbs the machine for longer than a few
//! slices meets all of them alike.
//!
//! How it works:
//! 1. Each child is stopped (SIGSTOP to its process group) as soon as it has joined.
//! 2. One thread goes round: it lets a child go on (SIGCONT), sleeps for a slice or until the child ends, stops it, waits
//!    until all its threads stand still, and notes from when to when it ran.
//! 3. As long as children load their models, only those have turns: who has loaded waits for the others, so that nobody's timed
//!    part is over, or yet to come, while others have theirs. A child that loads for ever is waited for only so long.
//! 4. A child knows nothing of this. Its clock ran on while it stood still; [`Ran::own_time`] takes that out of what it
//!    reports.

use super::Outcome;
use crate::clock::{self, Stopwatch};
use crate::record::PassStats;
use rustix::process::{Pid, Signal, WaitId, WaitIdOptions, kill_process_group, waitid};
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

/// Children that take turns.
#[derive(Debug)]
pub struct Slices {
    length: Duration,
    /// Children that will join.
    expected: usize,
    /// How long those that have loaded wait for the others.
    patience: Duration,
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Debug, Default)]
struct State {
    members: Vec<Member>,
    /// Children that could not be started.
    absent: usize,
    /// All that will load have loaded, or were waited for long enough.
    open: bool,
    /// No more children will join.
    closed: bool,
}

impl State {
    /// Whether a child may have a turn.
    fn may_run(&self, place: usize) -> bool {
        let member = &self.members[place];
        !member.left && (self.open || !member.loaded)
    }
}

#[derive(Debug)]
struct Member {
    pid: Pid,
    ran: Ran,
    /// Its model is in memory.
    loaded: bool,
    /// It has ended, or is about to be; its number must not be used any more.
    left: bool,
}

/// When a child ran: spans of the monotonic clock in nanoseconds, in order.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Ran(Vec<(u64, u64)>);

impl Slices {
    /// Slices of a length for so many children, of which those that have loaded wait for the others with some `patience`.
    pub fn new(length: Duration, expected: usize, patience: Duration) -> Slices {
        Slices {
            length,
            expected,
            patience,
            state: Mutex::default(),
            changed: Condvar::new(),
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes in a child, the leader of its process group, and stops it. Gives its place.
    pub(super) fn join(&self, pid: Pid) -> usize {
        let mut state = self.lock();
        // A child that has ended already is noticed when it leaves.
        let _ = kill_process_group(pid, Signal::STOP);
        state.members.push(Member {
            pid,
            ran: Ran::default(),
            loaded: false,
            left: false,
        });
        self.changed.notify_all();
        state.members.len() - 1
    }

    /// A child that was expected could not be started.
    pub(super) fn miss(&self) {
        self.lock().absent += 1;
        self.changed.notify_all();
    }

    /// The model of a child is in memory.
    pub(super) fn loaded(&self, place: usize) {
        self.lock().members[place].loaded = true;
        self.changed.notify_all();
    }

    /// Lets go of a child before it is reaped, and tells when it ran.
    pub(super) fn leave(&self, place: usize) -> Ran {
        let mut state = self.lock();
        let member = &mut state.members[place];
        member.left = true;
        // Whoever waits for it to end must see it end.
        let _ = kill_process_group(member.pid, Signal::CONT);
        let ran = std::mem::take(&mut member.ran);
        self.changed.notify_all();
        ran
    }

    /// After this nobody joins.
    pub fn close(&self) {
        self.lock().closed = true;
        self.changed.notify_all();
    }

    /// Gives the turns, until the last child has left and nobody will join.
    pub fn give_turns(&self) {
        let start = Stopwatch::start();
        let mut state = self.lock();
        let mut place = 0;
        loop {
            let n = state.members.len();
            let all_here = n + state.absent >= self.expected;
            let all_loaded = state.members.iter().all(|m| m.left || m.loaded);
            state.open |= all_here && all_loaded || start.elapsed() >= self.patience;
            let mut places = (0..n).map(|i| (place + i) % n);
            let Some(next) = places.find(|&i| state.may_run(i)) else {
                if state.closed {
                    return;
                }
                state = match state.open {
                    true => self.wait(state),
                    false => self.wait_for(state, self.patience.saturating_sub(start.elapsed())),
                };
                continue;
            };
            state = self.turn(state, next);
            place = next + 1;
        }
    }

    fn wait<'a>(&self, state: MutexGuard<'a, State>) -> MutexGuard<'a, State> {
        let woken = self.changed.wait(state);
        woken.unwrap_or_else(PoisonError::into_inner)
    }

    fn wait_for<'a>(&self, state: MutexGuard<'a, State>, time: Duration) -> MutexGuard<'a, State> {
        let woken = self.changed.wait_timeout(state, time);
        woken.unwrap_or_else(PoisonError::into_inner).0
    }

    /// One turn of a child; it is longer than a slice while nobody else is there.
    fn turn<'a>(&self, mut state: MutexGuard<'a, State>, place: usize) -> MutexGuard<'a, State> {
        let pid = state.members[place].pid;
        let from_ns = clock::monotonic_ns();
        let _ = kill_process_group(pid, Signal::CONT);
        let alone =
            |s: &State| s.open && (0..s.members.len()).filter(|&i| s.may_run(i)).count() == 1;
        loop {
            if state.members[place].left {
                return state;
            }
            // The time so far counts even if the child leaves before its slice is over.
            let ran = &mut state.members[place].ran.0;
            match ran.last_mut().filter(|last| last.0 == from_ns) {
                Some(_) => {}
                None => ran.push((from_ns, u64::MAX)),
            }
            let elapsed = Duration::from_nanos(clock::monotonic_ns() - from_ns);
            let left = self.length.saturating_sub(elapsed);
            if !state.may_run(place) || left.is_zero() && !alone(&state) {
                break;
            }
            state = match alone(&state) {
                true => self.wait(state),
                false => self.wait_for(state, left),
            };
        }
        let to_ns = clock::monotonic_ns();
        let _ = kill_process_group(pid, Signal::STOP);
        // It has not left: its leader is not reaped, so this is its number, and it stops or ends.
        let options = WaitIdOptions::STOPPED | WaitIdOptions::EXITED | WaitIdOptions::NOWAIT;
        while matches!(
            waitid(WaitId::Pid(pid), options),
            Err(rustix::io::Errno::INTR)
        ) {}
        if let Some(last) = state.members[place].ran.0.last_mut() {
            last.1 = to_ns;
        }
        state
    }
}

impl Ran {
    /// Slices it had.
    pub fn slices(&self) -> u32 {
        self.0.len() as u32
    }

    /// Nanoseconds it ran before a time of the monotonic clock.
    fn before_ns(&self, at_ns: u64) -> u64 {
        let spans = self.0.iter().take_while(|(from, _)| *from < at_ns);
        spans.map(|(from, to)| at_ns.min(*to) - from).sum()
    }

    /// Takes the time in which a child stood still out of what it reports; stages are shortened in proportion, phase by
    /// phase.
    ///
    /// # Errors
    /// When the child did not tell on which clock it reports.
    pub(super) fn own_time(&self, outcome: &mut Outcome) -> Result<(), String> {
        let Some(clock) = outcome.clock else {
            return Err("times in slices need a worker that tells its clock".into());
        };
        let start = self.before_ns(clock.start_ns);
        let pause = self.before_ns(clock.pause_ns.1) - self.before_ns(clock.pause_ns.0);
        let (pause_from, pause_to) = clock.pause_ns;
        let wall: Vec<u64> = outcome.arrival_ns.clone();
        for (i, at) in outcome.arrival_ns.iter_mut().enumerate() {
            let (wall_pause, own_pause) = match i {
                0 => (0, 0),
                _ => (pause_to - pause_from, pause),
            };
            let own = self.before_ns(clock.start_ns + *at + wall_pause);
            *at = own.saturating_sub(start + own_pause);
        }
        let (Some(wall_last), Some(own_last)) = (wall.last(), outcome.arrival_ns.last()) else {
            return Ok(());
        };
        let (wall_first, own_first) = (wall[0], outcome.arrival_ns[0]);
        shorten(&mut outcome.prefill, own_first, wall_first);
        shorten(
            &mut outcome.decode,
            own_last - own_first,
            wall_last - wall_first,
        );
        Ok(())
    }
}

/// Stage times by the share of a phase in which the child ran.
fn shorten(stats: &mut Option<PassStats>, own_ns: u64, wall_ns: u64) {
    if let Some(stats) = stats.as_mut().filter(|_| wall_ns > 0) {
        for ns in &mut stats.stages.ns {
            *ns = (*ns as f64 * own_ns as f64 / wall_ns as f64) as u64;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::runner::child::{self, Ending};
    use crate::runner::{ClockSpan, Program};

    /// Children that work for a while, at the same time; each with the time it may take, and when it ran.
    fn together(texts: &[&str], limit: Duration) -> Vec<(Ending, Ran)> {
        let slices = Slices::new(Duration::from_millis(5), texts.len(), limit / 2);
        std::thread::scope(|scope| {
            let turns = scope.spawn(|| slices.give_turns());
            let one = |text: &str| {
                let program = Program {
                    path: "/bin/sh".into(),
                    args: vec!["-c".into(), text.into()],
                };
                let slices = &slices;
                scope.spawn(move || {
                    let ended = child::run(&program, Vec::new(), limit, Some(slices));
                    let ended = ended.expect("starts");
                    (ended.ending, ended.ran.expect("turns"))
                })
            };
            let running: Vec<_> = texts.iter().map(|text| one(text)).collect();
            let ended = running.into_iter().map(|t| t.join().expect("no panic"));
            let ended = ended.collect();
            slices.close();
            turns.join().expect("no panic");
            ended
        })
    }

    #[test]
    fn one_runs_at_a_time_and_all_get_to_the_end() {
        let busy =
            r#"echo '{"event":"loaded"}'; i=0; while [ $i -lt 60000 ]; do i=$((i + 1)); done"#;
        let ended = together(&[busy, busy, "exit 3"], Duration::from_secs(60));
        assert!(ended.iter().all(|(ending, _)| *ending == Ending::Exited));
        let mut spans: Vec<(u64, u64)> = ended.iter().flat_map(|(_, ran)| ran.0.clone()).collect();
        assert!(spans.len() > 6, "{spans:?}");
        spans.sort_unstable();
        // The last span of a child that ended has no end of its own.
        let closed = spans.iter().filter(|(_, to)| *to != u64::MAX);
        let closed: Vec<_> = closed.collect();
        assert!(closed.windows(2).all(|w| w[0].1 <= w[1].0), "{spans:?}");
        assert!(ended[..2].iter().all(|(_, ran)| ran.slices() > 2));
    }

    #[test]
    fn who_has_loaded_waits_for_the_others() {
        let work = |n: u32| format!("i=0; while [ $i -lt {n} ]; do i=$((i + 1)); done");
        let loaded = r#"echo '{"event":"loaded"}'"#;
        let quick = format!("{loaded}; {}", work(60_000));
        let slow = format!("{}; {loaded}; {}", work(240_000), work(60_000));
        let ended = together(&[&quick, &slow], Duration::from_secs(60));
        assert!(ended.iter().all(|(ending, _)| *ending == Ending::Exited));
        let (quick, slow) = (&ended[0].1.0, &ended[1].1.0);
        let (last, _) = quick.last().expect("ran");
        // Both do the same once both have loaded, so they end at about the same time.
        let alone = slow.iter().filter(|(from, _)| from > last).count();
        assert!(2 * alone < quick.len(), "{alone} of {}", quick.len());
    }

    #[test]
    fn a_child_that_hangs_is_ended_and_the_others_go_on() {
        let ended = together(&["sleep 60", "exit 0"], Duration::from_millis(300));
        let endings: Vec<Ending> = ended.iter().map(|(ending, _)| *ending).collect();
        assert_eq!(endings, [Ending::TimedOut, Ending::Exited]);
    }

    fn ran() -> Ran {
        Ran(vec![(100, 200), (500, 600), (900, u64::MAX)])
    }

    #[test]
    fn only_the_time_it_ran_counts() {
        let ran = ran();
        for (at, before) in [(50, 0), (150, 50), (300, 100), (550, 150), (1000, 300)] {
            assert_eq!(ran.before_ns(at), before, "{at}");
        }
        assert_eq!(ran.slices(), 3);
    }

    #[test]
    fn standing_still_is_taken_out_of_arrivals_and_stages() {
        let stats = |ns| PassStats {
            stages: ::engine::stage::StageTimes { ns: [ns; 10] },
            ..PassStats::default()
        };
        // Starts at 150; tokens at 190, then a pause from 190 to 520, tokens at 560 and 950.
        let mut outcome = Outcome {
            arrival_ns: vec![40, 80, 470],
            prefill: Some(stats(40)),
            decode: Some(stats(430)),
            clock: Some(ClockSpan {
                start_ns: 150,
                pause_ns: (190, 520),
            }),
            ..Outcome::default()
        };
        ran().own_time(&mut outcome).expect("a clock");
        // Of the pause, 10 + 20 were its own.
        assert_eq!(outcome.arrival_ns, [40, 80, 170]);
        let ns = |stats: &Option<PassStats>| stats.as_ref().map(|s| s.stages.ns[0]);
        assert_eq!(ns(&outcome.prefill), Some(40));
        assert_eq!(ns(&outcome.decode), Some(130));
        outcome.clock = None;
        assert!(ran().own_time(&mut outcome).is_err());
    }
}
