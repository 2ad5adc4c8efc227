//! The two waits of the pool: for a counter to advance, and for all threads to arrive.
//!
//! Both spin first, because the next step usually is a microsecond away, and sleep on a condition variable after that,
//! so that an idle or oversubscribed machine is not burned. Under `cfg(loom)` the same code runs on loom's primitives.

#[cfg(loom)]
use loom::sync::{
    Condvar, Mutex,
    atomic::{AtomicUsize, Ordering, fence},
};
#[cfg(not(loom))]
use std::sync::{
    Condvar, Mutex,
    atomic::{AtomicUsize, Ordering, fence},
};

fn relax() {
    #[cfg(not(loom))]
    std::hint::spin_loop();
    #[cfg(loom)]
    loom::thread::yield_now();
}

/// A counter that threads wait on to change.
///
/// A sleeper announces itself, then looks at the counter again; the one who advances changes the counter, then looks for
/// sleepers. A fence on each side makes sure that at least one of the two sees the other.
#[derive(Debug)]
pub(super) struct Turnstile {
    count: AtomicUsize,
    sleepers: AtomicUsize,
    lock: Mutex<()>,
    wake: Condvar,
    spins: u32,
}

impl Turnstile {
    /// Waiting threads look `spins` times before they sleep.
    pub(super) fn new(spins: u32) -> Turnstile {
        Turnstile {
            count: AtomicUsize::new(0),
            sleepers: AtomicUsize::new(0),
            lock: Mutex::new(()),
            wake: Condvar::new(),
            spins,
        }
    }

    /// The count now. Everything written before the advance that led to it is visible.
    pub(super) fn count(&self) -> usize {
        self.count.load(Ordering::Acquire)
    }

    /// Lets everybody past who waits on the present count.
    pub(super) fn advance(&self) {
        self.count.fetch_add(1, Ordering::Release);
        fence(Ordering::SeqCst);
        if self.sleepers.load(Ordering::Relaxed) > 0 {
            // Whoever sleeps holds the lock between looking and sleeping, so the signal cannot fall in between.
            drop(self.lock.lock().expect("no panic under this lock"));
            self.wake.notify_all();
        }
    }

    /// Waits until the count is no longer `seen`.
    pub(super) fn wait_past(&self, seen: usize) {
        for _ in 0..self.spins {
            if self.count() != seen {
                return;
            }
            relax();
        }
        let mut guard = self.lock.lock().expect("no panic under this lock");
        self.sleepers.fetch_add(1, Ordering::Relaxed);
        fence(Ordering::SeqCst);
        while self.count() == seen {
            guard = self.wake.wait(guard).expect("no panic under this lock");
        }
        self.sleepers.fetch_sub(1, Ordering::Relaxed);
    }
}

/// A barrier for a fixed number of threads, reusable at once.
#[derive(Debug)]
pub(super) struct Barrier {
    threads: usize,
    arrived: AtomicUsize,
    turnstile: Turnstile,
}

impl Barrier {
    /// For so many threads, which look `spins` times before they sleep.
    pub(super) fn new(threads: usize, spins: u32) -> Barrier {
        Barrier {
            threads,
            arrived: AtomicUsize::new(0),
            turnstile: Turnstile::new(spins),
        }
    }

    /// Arrives, calls `meanwhile`, then waits until all threads have arrived; what any of them wrote before arriving is
    /// visible to all after.
    pub(super) fn wait(&self, meanwhile: impl FnOnce()) {
        if self.threads == 1 {
            return meanwhile();
        }
        let seen = self.turnstile.count();
        if self.arrived.fetch_add(1, Ordering::AcqRel) + 1 == self.threads {
            self.arrived.store(0, Ordering::Relaxed);
            self.turnstile.advance();
            meanwhile();
        } else {
            meanwhile();
            self.turnstile.wait_past(seen);
        }
    }
}

#[cfg(all(test, loom))]
mod tests {
    use super::*;
    use loom::sync::Arc;
    use loom::thread;

    /// Loom explores every interleaving: one look is as good as many.
    const SPINS: u32 = 1;

    /// Interleavings of some rounds: nobody passes early, nobody sleeps for ever, the barrier is reusable.
    fn rounds(threads: usize, rounds: usize) {
        let mut model = loom::model::Builder::new();
        // Almost all faults show with two forced switches; without a bound three threads take hours.
        model.preemption_bound = Some(3);
        model.check(move || {
            let barrier = Arc::new(Barrier::new(threads, SPINS));
            let arrivals = Arc::new(AtomicUsize::new(0));
            let body = move |barrier: &Barrier, arrivals: &AtomicUsize| {
                for round in 1..=rounds {
                    arrivals.fetch_add(1, Ordering::Relaxed);
                    barrier.wait(|| {});
                    assert!(arrivals.load(Ordering::Relaxed) >= threads * round);
                }
            };
            let others: Vec<_> = (1..threads)
                .map(|_| {
                    let (barrier, arrivals) = (barrier.clone(), arrivals.clone());
                    thread::spawn(move || body(&barrier, &arrivals))
                })
                .collect();
            body(&barrier, &arrivals);
            for other in others {
                other.join().unwrap();
            }
        });
    }

    #[test]
    fn two_threads_meet_twice() {
        rounds(2, 2);
    }

    #[test]
    fn three_threads_meet_once() {
        rounds(3, 1);
    }

    #[test]
    fn an_advance_is_never_missed_and_publishes() {
        loom::model(|| {
            let turnstile = Arc::new(Turnstile::new(SPINS));
            let message = Arc::new(loom::cell::UnsafeCell::new(0));
            let (t, m) = (turnstile.clone(), message.clone());
            let waiter = thread::spawn(move || {
                t.wait_past(0);
                // SAFETY: loom checks that the write happened before.
                m.with(|p| assert_eq!(unsafe { *p }, 7));
            });
            // SAFETY: the waiter reads only after the advance.
            message.with_mut(|p| unsafe { *p = 7 });
            turnstile.advance();
            waiter.join().unwrap();
        });
    }
}
