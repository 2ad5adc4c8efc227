//! What a machine gives: bandwidth of its caches and memory, latency, barriers and arithmetic, measured on the engine's own
//! threads, pages and vectors, so that a model's rate can be held against the ceiling of the same configuration.
//!
//! How a number is taken:
//! 1. Every thread writes, and so first touches, its own contiguous part of one buffer.
//! 2. A slice is so many passes over the parts that it takes [`SLICE_NS`] or more, timed on thread 0 from the barrier
//!    before to the barrier after: the slowest thread counts.
//! 3. Slices are repeated for the time asked for; the median and the best are given. Where a loop can be run in several
//!    ways ([`STREAMS`]), slices of all ways alternate, and the way with the better median counts.
//!
//! Bytes are counted as STREAM counts them (McCalpin 1995): what the loop reads and writes, not what a cache reads before
//! it is written.
#![allow(unsafe_code)]

use crate::error::{Error, Result};
use crate::mmap::Anon;
use crate::options::Isa;
use crate::pool::{Ctx, Pool};
use crate::rng::Rng;
use crate::simd::{self, LANES, Simd, Visitor};
use crate::stage::Tick;
use serde::{Deserialize, Serialize};
use std::hint::black_box;
use std::sync::atomic::{AtomicU64, Ordering};

/// Shortest time of a slice, in nanoseconds.
const SLICE_NS: u64 = 2_000_000;
/// Fewest slices.
const SLICES_MIN: usize = 3;
/// Bytes of a buffer that a loop handles at a time: four vectors.
const UNIT_BYTES: usize = 4 * LANES * size_of::<f32>();
/// Bytes of a cache line.
const LINE_BYTES: usize = 64;
/// Largest buffer, in bytes.
pub const BYTES_MAX: usize = 1 << 36;
/// Places of a thread's part that are read side by side, in two ways: a core's own prefetch begins anew on every
/// page of one, and some need several to be kept busy, others do not.
const STREAMS: [usize; 2] = [1, 4];
/// Steps of a loop without memory: arithmetic, barriers, a walk along pointers.
const STEPS: usize = 512;

/// What is measured.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum What {
    /// Reading with the widest vectors; 1e9 bytes a second.
    Read,
    /// Reading by a plain loop over integers, as a check of [`What::Read`]; 1e9 bytes a second.
    ReadPlain,
    /// `a = b`; 1e9 bytes a second, read and written.
    Copy,
    /// `a = b + s c`; 1e9 bytes a second, read and written.
    Triad,
    /// One thread follows pointers through the buffer in a random order, a cache line each; nanoseconds a step.
    Latency,
    /// All threads meet; nanoseconds a time.
    Barrier,
    /// Products of 4-bit codes with bytes, summed, as the engine's kernels form them; 1e9 operations a second, a product
    /// and its addition two.
    Int8,
    /// Fused multiply-adds in single precision; 1e9 operations a second, two each.
    F32,
}

impl What {
    /// Whether the size of the buffer matters.
    pub fn uses_memory(self) -> bool {
        !matches!(self, What::Barrier | What::Int8 | What::F32)
    }
}

/// What to measure.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Point {
    /// What.
    pub what: What,
    /// Size of the buffer, over all threads and arrays, in bytes; without meaning where no memory is used.
    pub bytes: usize,
    /// Time to spend, in seconds.
    pub seconds: f64,
}

/// A number, in the unit of its [`What`].
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Reading {
    /// What was measured.
    pub what: What,
    /// Size of the buffer in bytes; 0 where no memory is used.
    pub bytes: usize,
    /// Median over the slices.
    pub median: f64,
    /// The best slice.
    pub best: f64,
    /// Number of slices.
    pub slices: usize,
    /// Bytes of the buffer on huge pages; `None` where the system does not say.
    pub huge_bytes: Option<u64>,
}

/// Measures on the threads of `pool` with the vectors of `isa`, in memory with or without huge pages.
///
/// # Errors
/// When this CPU lacks the instruction set, or the size or time is impossible, or there is no memory.
pub fn measure(pool: &Pool, isa: Isa, huge_pages: bool, point: Point) -> Result<Reading> {
    let loops = simd::with(isa, Boxed).ok_or_else(|| Error::Option {
        option: "isa",
        what: format!("this CPU cannot run \"{isa}\""),
    })?;
    let what = point.what;
    let bytes = if what.uses_memory() { point.bytes } else { 0 };
    let smallest = UNIT_BYTES * 3 * pool.threads();
    if what.uses_memory() && !(smallest..=BYTES_MAX).contains(&bytes) {
        return Err(Error::Input(format!(
            "a buffer of {bytes} bytes: expected {smallest} to {BYTES_MAX}"
        )));
    }
    if !(point.seconds > 0.0 && point.seconds <= 3600.0) {
        let seconds = point.seconds;
        return Err(Error::Input(format!(
            "{seconds} seconds of probing: expected up to 3600"
        )));
    }
    let region = Region::new(bytes, huge_pages)?;
    match what {
        What::Latency => pool.run(&|ctx| region.link(ctx)),
        _ => pool.run(&|ctx| region.touch(ctx)),
    }
    let reads = matches!(what, What::Read | What::ReadPlain);
    let ways: &[usize] = if reads { &STREAMS } else { &[1] };
    let work = |ctx: Ctx<'_>, streams| region.work(ctx, what, streams, &*loops);
    let (units, times_ns) = slices(pool, point.seconds, ways, &work);
    // A rate counts what is done in a nanosecond, a latency the nanoseconds it takes.
    let value = |ns: f64| match what {
        What::Latency | What::Barrier => ns / (units * STEPS as f64),
        What::Int8 => units * loops.dot_operations() * pool.threads() as f64 / ns,
        What::F32 => units * loops.fma_operations() * pool.threads() as f64 / ns,
        What::Read | What::ReadPlain | What::Copy | What::Triad => {
            units * region.bytes_worked(what) as f64 / ns
        }
    };
    Ok(Reading {
        what,
        bytes,
        median: value(times_ns[times_ns.len() / 2]),
        best: value(times_ns[0]),
        slices: times_ns.len(),
        huge_bytes: region.memory.huge_bytes().filter(|_| what.uses_memory()),
    })
}

/// Work of a thread in one of several ways.
type Work<'a> = &'a (dyn Fn(Ctx<'_>, usize) -> f64 + Sync);

/// Repeats `work` in slices for about `seconds`, in all `ways` in turn. Gives the passes in a slice and, of the way with the
/// shortest median, the times of the slices in nanoseconds, shortest first.
fn slices(pool: &Pool, seconds: f64, ways: &[usize], work: Work<'_>) -> (f64, Vec<f64>) {
    let mut passes = 1_u64;
    loop {
        let ns = slice(pool, passes, ways[0], work);
        if ns >= SLICE_NS || passes > 1 << 40 {
            break;
        }
        // Aim a little beyond the limit, in steps that cannot run away from a first slice that took almost no time.
        let factor = (SLICE_NS as f64 * 1.2 / ns.max(1) as f64).clamp(2.0, 100.0);
        passes = (passes as f64 * factor).ceil() as u64;
    }
    let mut times_ns = vec![Vec::new(); ways.len()];
    let mut spent_ns = 0;
    while times_ns[0].len() < SLICES_MIN || (spent_ns as f64) < seconds * 1e9 {
        for (times_ns, way) in times_ns.iter_mut().zip(ways) {
            let ns = slice(pool, passes, *way, work);
            spent_ns += ns;
            times_ns.push(ns as f64);
        }
    }
    let median = |times_ns: &Vec<f64>| times_ns[times_ns.len() / 2];
    times_ns.iter_mut().for_each(|t| t.sort_by(f64::total_cmp));
    let best = times_ns
        .into_iter()
        .min_by(|a, b| median(a).total_cmp(&median(b)));
    (passes as f64, best.expect("at least one way"))
}

/// Time of so many passes of all threads, in nanoseconds.
fn slice(pool: &Pool, passes: u64, way: usize, work: Work<'_>) -> u64 {
    let taken_ns = AtomicU64::new(0);
    pool.run(&|ctx| {
        ctx.barrier();
        let start = Tick::now();
        for _ in 0..passes {
            black_box(work(ctx, way));
        }
        ctx.barrier();
        if ctx.index == 0 {
            taken_ns.store(Tick::now().ns_since(start), Ordering::Relaxed);
        }
    });
    taken_ns.into_inner().max(1)
}

/// A buffer in parts, one for each thread.
struct Region {
    memory: Anon,
    base: *mut u8,
    len: usize,
}

// SAFETY: threads reach the buffer through `part`, whose ranges do not overlap, or one thread alone.
unsafe impl Sync for Region {}

impl Region {
    fn new(len: usize, huge_pages: bool) -> Result<Region> {
        let memory = Anon::zeroed(len, huge_pages);
        let mut memory = memory
            .map_err(|e| Error::Input(format!("no memory for a buffer of {len} bytes: {e}")))?;
        let base = memory.bytes_mut().as_mut_ptr();
        Ok(Region { memory, base, len })
    }

    /// Start and length in bytes of a thread's part of the buffer split into `arrays` arrays; whole units.
    fn part(&self, ctx: Ctx<'_>, arrays: usize, array: usize) -> (*mut u8, usize) {
        let units = self.len / arrays / UNIT_BYTES;
        let share = ctx.share(units);
        let start = (array * units + share.start) * UNIT_BYTES;
        debug_assert!(start + share.len() * UNIT_BYTES <= self.len);
        // SAFETY: within the buffer: `arrays * units * UNIT_BYTES <= len`.
        (unsafe { self.base.add(start) }, share.len() * UNIT_BYTES)
    }

    /// Bytes that one pass over all parts counts.
    fn bytes_worked(&self, what: What) -> usize {
        let arrays = arrays(what);
        self.len / arrays / UNIT_BYTES * UNIT_BYTES * arrays
    }

    /// Writes 1.0 everywhere, each thread in its part.
    fn touch(&self, ctx: Ctx<'_>) {
        let (start, bytes) = self.part(ctx, 1, 0);
        // SAFETY: the part is this thread's alone, aligned to its huge page and whole units long.
        let part = unsafe { std::slice::from_raw_parts_mut(start.cast::<f32>(), bytes / 4) };
        part.fill(1.0);
    }

    /// Writes a random cycle through all cache lines, on thread 0: each line holds the number of the next one.
    fn link(&self, ctx: Ctx<'_>) {
        if ctx.index > 0 {
            return;
        }
        let lines = self.len / LINE_BYTES;
        let mut order: Vec<u32> = (0..lines as u32).collect();
        let mut rng = Rng::of(1, "latency");
        for i in (1..lines).rev() {
            order.swap(i, rng.below(i + 1));
        }
        for (i, &line) in order.iter().enumerate() {
            let next = order[(i + 1) % lines];
            // SAFETY: line `line` lies in the buffer, and the other threads do not touch it in this run.
            unsafe {
                self.base
                    .add(line as usize * LINE_BYTES)
                    .cast::<u32>()
                    .write(next)
            };
        }
    }

    /// One pass of one thread; the result keeps the compiler from leaving it out.
    fn work(&self, ctx: Ctx<'_>, what: What, streams: usize, loops: &dyn Loops) -> f64 {
        let part = |array| self.part(ctx, arrays(what), array);
        let (a, bytes) = part(0);
        let floats = bytes / size_of::<f32>();
        match what {
            // SAFETY: the part is this thread's, whole units long, and was written before.
            What::Read => f64::from(unsafe { loops.read(a.cast(), floats, streams) }),
            What::ReadPlain => {
                // SAFETY: as above; nobody writes it in this run.
                let words = unsafe { std::slice::from_raw_parts(a.cast::<u64>(), bytes / 8) };
                read_plain(black_box(words), streams) as f64
            }
            // SAFETY: the parts of both arrays are this thread's and of one length.
            What::Copy => f64::from(unsafe { loops.copy(a.cast(), part(1).0.cast(), floats) }),
            What::Triad => {
                let (b, c) = (part(1).0, part(2).0);
                // SAFETY: as above, for three arrays.
                f64::from(unsafe { loops.triad(a.cast(), b.cast(), c.cast(), floats) })
            }
            What::Latency => self.follow(ctx),
            What::Barrier => {
                (0..STEPS).for_each(|_| ctx.barrier());
                0.0
            }
            What::Int8 => f64::from(loops.dots()),
            What::F32 => f64::from(loops.fmas()),
        }
    }

    /// Follows [`STEPS`] links, on thread 0, from wherever the walk before ended.
    fn follow(&self, ctx: Ctx<'_>) -> f64 {
        static AT: AtomicU64 = AtomicU64::new(0);
        if ctx.index > 0 {
            return 0.0;
        }
        let lines = self.len / LINE_BYTES;
        let mut at = AT.load(Ordering::Relaxed) as usize % lines;
        for _ in 0..STEPS {
            // SAFETY: `at` is the number of a line: of any, or read from one, which `link` wrote.
            at = unsafe { self.base.add(at * LINE_BYTES).cast::<u32>().read_volatile() } as usize;
        }
        AT.store(at as u64, Ordering::Relaxed);
        at as f64
    }
}

/// Sum of all words, from `streams` places side by side; to be checked against [`Loops::read`].
fn read_plain(words: &[u64], streams: usize) -> u64 {
    let unit = UNIT_BYTES / size_of::<u64>();
    let stream = words.len() / unit / streams;
    let sum = |sum: u64, words: &[u64]| words.iter().fold(sum, |sum, w| sum.wrapping_add(*w));
    let mut total = sum(0, &words[streams * stream * unit..]);
    for i in 0..stream {
        for place in 0..streams {
            total = sum(total, &words[(place * stream + i) * unit..][..unit]);
        }
    }
    total
}

/// Arrays that the buffer is split into.
fn arrays(what: What) -> usize {
    match what {
        What::Copy => 2,
        What::Triad => 3,
        _ => 1,
    }
}

/// The loops of one instruction set.
trait Loops: Send + Sync {
    /// Sum of `n` floats, from `streams` places side by side; `n` is a whole number of units.
    /// # Safety
    /// `p` is readable for `n` floats.
    unsafe fn read(&self, p: *const f32, n: usize, streams: usize) -> f32;
    /// `to = from`.
    /// # Safety
    /// `to` is writable and `from` readable for `n` floats.
    unsafe fn copy(&self, to: *mut f32, from: *const f32, n: usize) -> f32;
    /// `to = a + 3 b`.
    /// # Safety
    /// `to` is writable, `a` and `b` are readable for `n` floats.
    unsafe fn triad(&self, to: *mut f32, a: *const f32, b: *const f32, n: usize) -> f32;
    /// [`STEPS`] rounds of fused multiply-adds in registers.
    fn fmas(&self) -> f32;
    /// Operations of that.
    fn fma_operations(&self) -> f64;
    /// [`STEPS`] rounds of byte products in registers.
    fn dots(&self) -> i32;
    /// Operations of that.
    fn dot_operations(&self) -> f64;
}

/// Accumulators that are summed side by side, so that no addition waits for the one before.
const CHAINS: usize = 4;
/// Chains of byte products and of fused multiply-adds that the registers hold: at least latency times throughput of today's
/// cores, where there are as many.
const fn chains<S: Simd>() -> [usize; 2] {
    if S::REGISTERS >= 32 { [16, 24] } else { [4, 6] }
}

/// Adds a unit to `sums`.
///
/// # Safety
/// `p` is readable for a unit.
#[inline(always)]
unsafe fn add_unit<S: Simd>(s: S, p: *const f32, sums: &mut [S::F; CHAINS]) {
    for (j, sum) in sums.iter_mut().enumerate() {
        // SAFETY: a unit is as many vectors.
        *sum = s.add(*sum, unsafe { s.load(p.add(j * LANES)) });
    }
}

struct Boxed;

impl Visitor for Boxed {
    type Out = Box<dyn Loops>;
    fn visit<S: Simd>(self, s: S) -> Box<dyn Loops> {
        Box::new(On(s))
    }
}

struct On<S>(S);

impl<S: Simd> On<S> {
    fn fmas_in<const N: usize>(&self) -> f32 {
        let s = self.0;
        let (a, b) = (black_box(0.999_f32), black_box(0.001_f32));
        s.vectorize(
            #[inline(always)]
            || {
                let (a, b) = (s.splat(a), s.splat(b));
                let mut sums = [b; N];
                for _ in 0..STEPS {
                    for sum in &mut sums {
                        *sum = s.fma(*sum, a, b);
                    }
                }
                sums.into_iter()
                    .map(
                        #[inline(always)]
                        |v| s.sum(v),
                    )
                    .sum()
            },
        )
    }

    fn dots_in<const N: usize>(&self) -> i32 {
        let s = self.0;
        let codes = black_box([3_u8; LINE_BYTES]);
        let x = black_box([0x0101_0101_i32; N]);
        s.vectorize(
            #[inline(always)]
            || {
                // SAFETY: 64 bytes.
                let codes = unsafe { s.b_load(codes.as_ptr()) };
                let mut sums = [s.dot_start(s.i_splat(0)); N];
                for _ in 0..STEPS {
                    // Once a step, so that the compiler cannot multiply instead of summing.
                    let x = black_box(x.as_ptr()).cast::<i8>();
                    for (j, sum) in sums.iter_mut().enumerate() {
                        // SAFETY: four bytes for each chain.
                        *sum = s.pin(unsafe { s.dot(*sum, codes, x.add(4 * j)) });
                    }
                }
                let all = sums.into_iter().map(
                    #[inline(always)]
                    |acc| s.dot_sum(acc, s.i_splat(0)),
                );
                let total = all.reduce(
                    #[inline(always)]
                    |a, b| s.i_add(a, b),
                );
                total.map_or(
                    0,
                    #[inline(always)]
                    |v| s.sum(s.i_to_f(v)) as i32,
                )
            },
        )
    }
}

impl<S: Simd> Loops for On<S> {
    unsafe fn read(&self, p: *const f32, n: usize, streams: usize) -> f32 {
        let s = self.0;
        let p = black_box(p);
        let unit = UNIT_BYTES / size_of::<f32>();
        let stream = n / streams / unit * unit;
        s.vectorize(
            #[inline(always)]
            || {
                let mut sums = [s.splat(0.0); CHAINS];
                for i in (0..stream).step_by(unit) {
                    for place in 0..streams {
                        // SAFETY: a whole unit lies below `n`.
                        unsafe { add_unit(s, p.add(place * stream + i), &mut sums) };
                    }
                }
                for i in (streams * stream..n).step_by(unit) {
                    // SAFETY: as above.
                    unsafe { add_unit(s, p.add(i), &mut sums) };
                }
                let both = s.add(s.add(sums[0], sums[1]), s.add(sums[2], sums[3]));
                s.sum(both)
            },
        )
    }

    unsafe fn copy(&self, to: *mut f32, from: *const f32, n: usize) -> f32 {
        let s = self.0;
        let (to, from) = (black_box(to), black_box(from));
        s.vectorize(
            #[inline(always)]
            || {
                for i in (0..n).step_by(LANES) {
                    // SAFETY: `n` is a multiple of the lanes.
                    unsafe { s.store(to.add(i), s.load(from.add(i))) };
                }
            },
        );
        0.0
    }

    unsafe fn triad(&self, to: *mut f32, a: *const f32, b: *const f32, n: usize) -> f32 {
        let s = self.0;
        let (to, a, b) = (black_box(to), black_box(a), black_box(b));
        s.vectorize(
            #[inline(always)]
            || {
                let three = s.splat(3.0);
                for i in (0..n).step_by(LANES) {
                    // SAFETY: `n` is a multiple of the lanes.
                    unsafe {
                        let sum = s.fma(three, s.load(b.add(i)), s.load(a.add(i)));
                        s.store(to.add(i), sum);
                    }
                }
            },
        );
        0.0
    }

    fn fmas(&self) -> f32 {
        match chains::<S>() {
            [_, 24] => self.fmas_in::<24>(),
            _ => self.fmas_in::<6>(),
        }
    }

    fn fma_operations(&self) -> f64 {
        (STEPS * chains::<S>()[1] * LANES * 2) as f64
    }

    fn dots(&self) -> i32 {
        match chains::<S>() {
            [16, _] => self.dots_in::<16>(),
            _ => self.dots_in::<4>(),
        }
    }

    fn dot_operations(&self) -> f64 {
        (STEPS * chains::<S>()[0] * LANES * 4 * 2) as f64
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::options::{Affinity, AffinityPolicy, Options};

    fn pool(threads: usize) -> Pool {
        Pool::new(&Options {
            threads,
            affinity: Affinity::Policy(AffinityPolicy::None),
            oversubscribe: true,
            ..Options::default()
        })
        .expect("pool")
    }

    const ALL: [What; 8] = [
        What::Read,
        What::ReadPlain,
        What::Copy,
        What::Triad,
        What::Latency,
        What::Barrier,
        What::Int8,
        What::F32,
    ];

    #[test]
    fn everything_gives_a_number_on_every_instruction_set() {
        for threads in [1, 2] {
            let pool = pool(threads);
            for isa in simd::available() {
                for what in ALL {
                    let point = Point {
                        what,
                        bytes: 100_000,
                        seconds: 0.001,
                    };
                    let reading = measure(&pool, isa, false, point).expect("a number");
                    assert!(
                        reading.median.is_finite() && reading.median > 0.0,
                        "{reading:?}"
                    );
                    assert!(reading.slices >= SLICES_MIN);
                    let rate = !matches!(what, What::Latency | What::Barrier);
                    assert_eq!(
                        reading.best >= reading.median,
                        rate || reading.best == reading.median
                    );
                    assert_eq!(reading.bytes > 0, what.uses_memory());
                }
            }
        }
    }

    #[test]
    fn loops_do_what_is_counted() {
        let values: Vec<f32> = (0..256).map(|i| i as f32).collect();
        let words: Vec<u64> = (0..7 * 32).collect();
        assert!(STREAMS.iter().all(|&s| read_plain(&words, s) == 24976));
        for isa in simd::available() {
            let loops = simd::with(isa, Boxed).expect("available");
            let (mut copied, mut sum) = (vec![0.0; 256], vec![0.0; 256]);
            // SAFETY: all vectors hold 256 floats.
            unsafe {
                for streams in STREAMS {
                    assert_eq!(loops.read(values.as_ptr(), 256, streams), 32640.0);
                    assert_eq!(loops.read(values.as_ptr(), 192, streams), 18336.0);
                }
                loops.copy(copied.as_mut_ptr(), values.as_ptr(), 256);
                loops.triad(sum.as_mut_ptr(), values.as_ptr(), values.as_ptr(), 256);
            }
            assert_eq!(copied, values);
            assert!(sum.iter().zip(&values).all(|(s, v)| *s == 4.0 * v));
        }
    }

    #[test]
    fn the_walk_meets_every_line() {
        let pool = pool(1);
        let region = Region::new(64 * LINE_BYTES, false).expect("memory");
        pool.run(&|ctx| region.link(ctx));
        let mut seen = [false; 64];
        let mut at = 0;
        for _ in 0..64 {
            seen[at] = true;
            let line = &region.memory.bytes()[at * LINE_BYTES..][..4];
            at = u32::from_le_bytes(line.try_into().expect("four bytes")) as usize;
        }
        assert!(at == 0 && seen.iter().all(|&s| s));
    }

    #[test]
    fn parts_cover_the_arrays_once() {
        let pool = pool(3);
        let region = Region::new(50 * UNIT_BYTES + 7, false).expect("memory");
        pool.run(&|ctx| region.touch(ctx));
        let ones = region.memory.bytes().chunks_exact(4);
        let ones = ones.filter(|b| f32::from_le_bytes([b[0], b[1], b[2], b[3]]) == 1.0);
        assert_eq!(ones.count(), 50 * UNIT_BYTES / 4);
        assert_eq!(region.bytes_worked(What::Triad), 16 * UNIT_BYTES * 3);
    }

    #[test]
    fn what_cannot_be_is_refused() {
        let pool = pool(2);
        let check = |bytes, seconds| {
            let what = What::Read;
            let point = Point {
                what,
                bytes,
                seconds,
            };
            assert!(
                measure(&pool, Isa::Auto, false, point).is_err(),
                "{bytes} {seconds}"
            );
        };
        check(0, 0.1);
        check(BYTES_MAX + 1, 0.1);
        check(1 << 20, 0.0);
        check(1 << 20, f64::NAN);
    }
}
