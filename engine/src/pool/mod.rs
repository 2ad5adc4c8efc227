//! The thread pool: the same program on every thread, with barriers between its steps.
//!
//! How it works:
//! 1. [`Pool::new`] chooses a CPU for every thread and starts all but the first; the calling thread is thread 0 and is
//!    pinned too, until the pool is dropped.
//! 2. [`Pool::run`] publishes a closure and advances the `start` turnstile; every thread, the caller included, calls it
//!    with its own [`Ctx`].
//! 3. Inside, threads split work by [`Ctx::share`] and meet at [`Ctx::barrier`]. Data that one step writes and the next
//!    one reads lies in [`SharedBuf`]s.
//! 4. All threads meet once more at the end, so that the closure and what it borrows outlive every use.
//! 5. If a thread panics the process cannot go on, since the others wait for it: it is aborted after the panic message.
#![allow(unsafe_code)]

mod sync;

use crate::error::{Error, Result};
use crate::options::Options;
use crate::topology::Topology;
use rustix::thread::{CpuSet, sched_getaffinity, sched_setaffinity};
use std::cell::UnsafeCell;
use std::ops::Range;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::ThreadId;
use sync::{Barrier, Turnstile};

/// What a thread knows inside [`Pool::run`].
#[derive(Debug, Clone, Copy)]
pub struct Ctx<'a> {
    /// This thread's number, from 0.
    pub index: usize,
    /// Number of threads.
    pub threads: usize,
    barrier: &'a Barrier,
}

impl Ctx<'_> {
    /// Waits for all threads of the pool.
    pub fn barrier(&self) {
        self.barrier.wait(|| {});
    }

    /// Waits for all threads of the pool, having called `meanwhile` after its own arrival.
    pub fn barrier_with(&self, meanwhile: impl FnOnce()) {
        self.barrier.wait(meanwhile);
    }

    /// This thread's contiguous part of `total` items; the parts of all threads cover each item once.
    pub fn share(&self, total: usize) -> Range<usize> {
        self.share_of(self.index, total)
    }

    /// The part of thread `index`.
    pub fn share_of(&self, index: usize, total: usize) -> Range<usize> {
        let bound = |i: usize| total * i / self.threads;
        bound(index)..bound(index + 1)
    }
}

/// The closure of one run, as the workers see it.
type Job = *const (dyn Fn(Ctx<'_>) + Sync);

struct Shared {
    start: Turnstile,
    barrier: Barrier,
    threads: usize,
    stop: AtomicBool,
    job: UnsafeCell<Option<Job>>,
}

// SAFETY: `job` is written by `run` before `start` advances and after the last barrier of the run before, and read by
// the workers in between only. The closure behind it is `Sync`.
unsafe impl Sync for Shared {}
// SAFETY: as above; the pointer is only followed while `run` keeps the closure alive.
unsafe impl Send for Shared {}

/// A fixed set of pinned threads.
pub struct Pool {
    shared: Arc<Shared>,
    workers: Vec<std::thread::JoinHandle<()>>,
    cpus: Vec<Option<usize>>,
    running: Mutex<()>,
    /// The thread that made the pool and the CPUs it could use before, to be given back.
    caller: (ThreadId, Option<CpuSet>),
}

impl Pool {
    /// Starts the threads that `options` ask for (`threads`, `affinity`, `oversubscribe`, `barrier_spins`).
    ///
    /// # Errors
    /// When the threads or CPUs asked for are not there, or a thread cannot be started or pinned.
    pub fn new(options: &Options) -> Result<Pool> {
        let cpus =
            Topology::detect().plan(&options.affinity, options.threads, options.oversubscribe)?;
        let threads = cpus.len();
        let shared = Arc::new(Shared {
            start: Turnstile::new(options.barrier_spins),
            barrier: Barrier::new(threads, options.barrier_spins),
            threads,
            stop: AtomicBool::new(false),
            job: UnsafeCell::new(None),
        });
        let mut pool = Pool {
            shared,
            workers: Vec::new(),
            cpus,
            running: Mutex::new(()),
            caller: (std::thread::current().id(), sched_getaffinity(None).ok()),
        };
        let pinned = Arc::new(Mutex::new(Vec::new()));
        for index in 1..threads {
            let (shared, cpu, pinned) = (pool.shared.clone(), pool.cpus[index], pinned.clone());
            let worker = std::thread::Builder::new()
                .name(format!("engine-{index}"))
                .spawn(move || {
                    let ok = pin(cpu);
                    pinned
                        .lock()
                        .expect("no panic under this lock")
                        .push((cpu, ok));
                    work(&shared, index);
                })
                .map_err(|e| Error::Option {
                    option: "threads",
                    what: format!("cannot start thread {index} of {threads}: {e}"),
                })?;
            pool.workers.push(worker);
        }
        let mut failed = if pin(pool.cpus[0]) {
            None
        } else {
            pool.cpus[0]
        };
        pool.run(&|_| {});
        let results = pinned.lock().expect("no panic under this lock");
        failed = failed.or(results.iter().find(|r| !r.1).and_then(|r| r.0));
        drop(results);
        match failed {
            None => Ok(pool),
            Some(cpu) => Err(Error::Option {
                option: "affinity",
                what: format!(
                    "the system refused to pin a thread to CPU {cpu}: use affinity \"none\""
                ),
            }),
        }
    }

    /// Number of threads, the calling one included.
    pub fn threads(&self) -> usize {
        self.shared.threads
    }

    /// The CPU of each thread; `None` where it is not pinned.
    pub fn cpus(&self) -> &[Option<usize>] {
        &self.cpus
    }

    /// Calls `program` once on every thread and returns when all have finished.
    pub fn run(&self, program: &(dyn Fn(Ctx<'_>) + Sync)) {
        let _one_at_a_time = self.running.lock().expect("a panic in a run aborts");
        // SAFETY: only the lifetime is erased. The workers call `program` between `start` and the barrier at the end of
        // `step`, which this function does not leave before.
        let job = unsafe {
            std::mem::transmute::<*const (dyn Fn(Ctx<'_>) + Sync), Job>(std::ptr::from_ref(program))
        };
        // SAFETY: no worker reads `job` now: all wait for `start` after the last barrier of the run before.
        unsafe { *self.shared.job.get() = Some(job) };
        self.shared.start.advance();
        step(&self.shared, 0);
    }
}

impl Drop for Pool {
    fn drop(&mut self) {
        self.shared.stop.store(true, Ordering::Relaxed);
        self.shared.start.advance();
        for worker in self.workers.drain(..) {
            // A worker that panicked has aborted the process: there is no error to pass on.
            let _ = worker.join();
        }
        if let (id, Some(cpus)) = &self.caller
            && *id == std::thread::current().id()
        {
            // Where the system refuses, the thread stays pinned: slower, not wrong.
            let _ = sched_setaffinity(None, cpus);
        }
    }
}

/// Pins the calling thread; `true` when there was nothing to do or it was done.
fn pin(cpu: Option<usize>) -> bool {
    cpu.is_none_or(|id| core_affinity::set_for_current(core_affinity::CoreId { id }))
}

/// A worker's life: wait for a job, do it, until told to stop.
fn work(shared: &Shared, index: usize) {
    let mut seen = 0;
    loop {
        shared.start.wait_past(seen);
        seen = seen.wrapping_add(1);
        if shared.stop.load(Ordering::Relaxed) {
            return;
        }
        step(shared, index);
    }
}

/// Aborts the process when dropped in a panic.
struct AbortOnPanic;

impl Drop for AbortOnPanic {
    fn drop(&mut self) {
        if std::thread::panicking() {
            std::process::abort();
        }
    }
}

/// Calls the published job as thread `index` and meets the others.
fn step(shared: &Shared, index: usize) {
    let _guard = AbortOnPanic;
    // SAFETY: `start` was advanced after the job was written, and `run` keeps it alive until the barrier below.
    let job = unsafe { &*(*shared.job.get()).expect("published before the start") };
    job(Ctx {
        index,
        threads: shared.threads,
        barrier: &shared.barrier,
    });
    shared.barrier.wait(|| {});
}

/// Items at the end of each thread's part that any thread may take once its own are done.
///
/// Every step that hands out items has its own number, the same on all threads: a count that stands under another number
/// counts as none taken, so that nothing needs to be reset between two steps.
#[derive(Debug)]
pub struct Tails {
    /// Of each thread: the step's number, and below it how many items of its tail are taken.
    taken: Box<[Slot]>,
}

/// A counter on cache lines of its own.
#[derive(Debug, Default)]
#[repr(align(128))]
struct Slot(AtomicU64);

impl Tails {
    /// For so many threads.
    pub fn new(threads: usize) -> Tails {
        Tails {
            taken: (0..threads).map(|_| Slot::default()).collect(),
        }
    }

    /// Takes the next of the `len` items of thread `owner`'s tail in step `step`; `None` when all are taken.
    pub fn take(&self, owner: usize, step: u32, len: usize) -> Option<usize> {
        let slot = &self.taken[owner].0;
        let taken = |value: u64| match (value >> 32) as u32 == step {
            true => value & u64::from(u32::MAX),
            false => 0,
        };
        let next = |value| {
            let next = taken(value) + 1;
            (next <= len as u64).then_some(u64::from(step) << 32 | next)
        };
        // Nothing but the number is passed on: the barriers between steps order everything else.
        let before = slot.fetch_update(Ordering::Relaxed, Ordering::Relaxed, next);
        before.ok().map(|value| taken(value) as usize)
    }
}

/// Memory that the threads of a pool write and read in turns, separated by barriers.
#[derive(Debug)]
pub struct SharedBuf<T> {
    data: Box<[UnsafeCell<T>]>,
}

// SAFETY: access goes through `read` and `write`, whose callers promise that no range is written while in use elsewhere.
unsafe impl<T: Send> Sync for SharedBuf<T> {}

impl<T: Copy + Default> SharedBuf<T> {
    /// `len` default values.
    pub fn new(len: usize) -> SharedBuf<T> {
        SharedBuf {
            data: (0..len).map(|_| UnsafeCell::new(T::default())).collect(),
        }
    }

    /// Number of values.
    pub fn len(&self) -> usize {
        self.data.len()
    }

    /// Whether there is no value.
    pub fn is_empty(&self) -> bool {
        self.data.is_empty()
    }

    /// The values of `range`, to read.
    ///
    /// # Safety
    /// Until the result is dropped no other thread writes any of them.
    pub unsafe fn read(&self, range: Range<usize>) -> &[T] {
        let cells = &self.data[range];
        // SAFETY: `UnsafeCell<T>` has the layout of `T`; no writer by contract.
        unsafe { std::slice::from_raw_parts(cells.as_ptr().cast(), cells.len()) }
    }

    /// The values of `range`, to write.
    ///
    /// # Safety
    /// Until the result is dropped nobody else reads or writes any of them.
    #[allow(clippy::mut_from_ref, reason = "exclusive by contract")]
    pub unsafe fn write(&self, range: Range<usize>) -> &mut [T] {
        let cells = &self.data[range];
        // SAFETY: `UnsafeCell` permits writing through a shared reference; exclusive by contract.
        unsafe { std::slice::from_raw_parts_mut(UnsafeCell::raw_get(cells.as_ptr()), cells.len()) }
    }

    /// All values; safe because the borrow is exclusive.
    pub fn values_mut(&mut self) -> &mut [T] {
        // SAFETY: nobody else has a reference.
        unsafe { self.write(0..self.len()) }
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;
    use crate::options::{Affinity, AffinityPolicy};

    fn pool(threads: usize) -> Pool {
        let affinity = Affinity::Policy(AffinityPolicy::None);
        Pool::new(&Options {
            threads,
            affinity,
            oversubscribe: true,
            ..Options::default()
        })
        .expect("pool")
    }

    #[test]
    fn shares_cover_each_item_once() {
        for threads in [1, 2, 3, 7] {
            let pool = pool(threads);
            for total in [0, 1, 2, 5, 64, 1000] {
                let hits = SharedBuf::<u8>::new(total);
                pool.run(&|ctx| {
                    // SAFETY: shares do not overlap, which is what the test is about.
                    unsafe { hits.write(ctx.share(total)) }
                        .iter_mut()
                        .for_each(|h| *h += 1);
                });
                let mut hits = hits;
                assert!(
                    hits.values_mut().iter().all(|&h| h == 1),
                    "{threads} threads, {total} items"
                );
            }
        }
    }

    #[test]
    fn tails_give_each_item_once_in_every_step() {
        let pool = pool(4);
        let tails = Tails::new(4);
        for step in [3, 4, 7] {
            let hits: Vec<AtomicU64> = (0..40).map(|_| AtomicU64::new(0)).collect();
            pool.run(&|ctx| {
                for owner in 0..ctx.threads {
                    while let Some(item) = tails.take(owner, step, 10) {
                        hits[owner * 10 + item].fetch_add(1, Ordering::Relaxed);
                    }
                }
            });
            assert!(hits.iter().all(|h| h.load(Ordering::Relaxed) == 1));
        }
    }

    #[test]
    fn barriers_order_writes_and_reads() {
        let pool = pool(4);
        let buf = SharedBuf::<usize>::new(4);
        pool.run(&|ctx| {
            for round in 1..200 {
                // SAFETY: each thread writes its own slot, then all read after the barrier, and the second barrier keeps
                // the next round's writes behind the reads.
                unsafe {
                    buf.write(ctx.index..ctx.index + 1)[0] = round * (ctx.index + 1);
                    ctx.barrier();
                    assert_eq!(buf.read(0..4).iter().sum::<usize>(), round * 10);
                    ctx.barrier();
                }
            }
        });
    }

    #[test]
    fn the_callers_cpus_are_given_back() {
        let cpus = || Topology::detect().cpus.len();
        let before = cpus();
        for _ in 0..2 {
            let pool = Pool::new(&Options {
                threads: before,
                ..Options::default()
            });
            drop(pool.expect("as many threads as CPUs"));
        }
        assert_eq!(cpus(), before);
    }

    #[test]
    fn a_pool_can_be_used_from_several_threads_in_turn() {
        let pool = pool(2);
        std::thread::scope(|s| {
            for _ in 0..3 {
                s.spawn(|| (0..50).for_each(|_| pool.run(&|ctx| ctx.barrier())));
            }
        });
    }
}
