//! Every kernel that reads weights, by format and instruction set, on one thread: one token in bytes of weights a second,
//! a batch in products and additions a second, with panels that fit the second cache and with panels that do not fit any;
//! and growing shares of the channels of a matrix, in bytes of those, with the time they take in that of all by the dense
//! kernel, and from which share on leaving channels out pays. Below each stands its share of what the probe of the same size
//! and instruction set reaches on one thread right before: of the read bandwidth for bytes, of the rate of products for a
//! batch.
//!
//! `cargo bench -p engine` measures and writes pages with plots into `target/criterion`; `cargo test` calls each once with the
//! small size.

use criterion::measurement::WallTime;
use criterion::{
    BenchmarkGroup, BenchmarkId, Criterion, Throughput, criterion_group, criterion_main,
};
use engine::kernel::{
    self, Active, Bits, Kernels, PANELS, Row, RowMut, STREAMS, STRIP, SUM_GROUP, StripCodes,
    Strips, TABLE_BYTES, TILE_TOKENS, TileGroup, Tiles,
};
use engine::mmap::Anon;
use engine::options::{Isa, Kernel, Options};
use engine::pool::Pool;
use engine::probe::{self, Point, What};
use engine::quant::{FORMATS, FormatInfo, GROUP};
use engine::simd::{self, LANES};
use engine::stage::Tick;
use std::hint::black_box;
use std::time::Duration;

/// Columns of the matrices.
const COLS: usize = 2048;
/// Tokens of a batch.
const BATCH: usize = 64;
/// Strips of a channel: of 3,072 outputs or inputs.
const STRIPS: usize = 6;
/// Channels that are added at a time.
const BLOCK: usize = 256;
/// Shares of the channels that are left out.
const LEFT_OUT: [f64; 5] = [0.1, 0.3, 0.5, 0.7, 0.9];
/// Seconds of a probe.
const PROBE_S: f64 = 0.2;
/// Bytes of the panels that fit a cache.
const SMALL_BYTES: usize = 256 << 10;
/// Bytes of those that do not.
const LARGE_BYTES: usize = 256 << 20;

/// Values between -1 and 1, the same in every run.
fn values() -> Vec<f32> {
    (0..COLS)
        .map(|i| ((i * 7919) % 1999) as f32 / 999.5 - 1.0)
        .collect()
}

/// Whole panels of `format`, in all about `bytes`.
fn panels(k: &dyn Kernels, format: &FormatInfo, bytes: usize) -> Anon {
    let mut row = vec![0; format.row_bytes(COLS)];
    format.quantize(&values(), &[], &mut row);
    let mut panel = vec![0; LANES * row.len()];
    k.pack(format.id, [row.as_slice(); LANES], &mut panel);
    let count = (bytes / panel.len()).next_multiple_of(STREAMS);
    let mut memory = Anon::zeroed(count * panel.len(), true).expect("memory for the panels");
    let all = memory.bytes_mut().chunks_exact_mut(panel.len());
    all.for_each(|p| p.copy_from_slice(&panel));
    memory
}

/// Whole channels of `format`, in all about `bytes`.
fn strips(k: &dyn Kernels, format: &FormatInfo, bytes: usize) -> Anon {
    let mut row = vec![0; format.row_bytes(STRIP)];
    format.quantize(&values()[..STRIP], &[], &mut row);
    let block = |b: usize| &row[b * format.block_bytes..][..format.block_bytes];
    let mut strip = vec![0; row.len()];
    k.pack(format.id, std::array::from_fn(block), &mut strip);
    let count = bytes / (STRIPS * strip.len()) * STRIPS;
    let mut memory = Anon::zeroed(count * strip.len(), true).expect("memory for the strips");
    let all = memory.bytes_mut().chunks_exact_mut(strip.len());
    all.for_each(|s| s.copy_from_slice(&strip));
    memory
}

/// What one benchmark is held against, and how it is run.
struct Beside<'a> {
    /// One thread.
    pool: &'a Pool,
    isa: Isa,
    /// Bytes of the panels.
    bytes: usize,
    /// Whether anything is measured; otherwise everything is called once.
    measured: bool,
}

impl Beside<'_> {
    /// Benches `work`, which does so much each time, and prints its share of what the probe reaches. Gives its rate, in a
    /// thousand million a second, where it is measured.
    fn bench(
        &self,
        group: &mut BenchmarkGroup<'_, WallTime>,
        id: &BenchmarkId,
        amount: Throughput,
        mut work: impl FnMut(),
    ) -> Option<f64> {
        let (what, amount_each, unit) = match amount {
            Throughput::Elements(n) => (What::Int8, n, "G operations/s"),
            Throughput::Bytes(n) => (What::Read, n, "GB/s"),
            _ => unreachable!("bytes, or operations"),
        };
        let peak = self.measured.then(|| {
            let point = Point {
                what,
                bytes: self.bytes,
                seconds: PROBE_S,
            };
            probe::measure(self.pool, self.isa, true, point).expect("a peak")
        });
        let mut rates = Vec::new();
        group.throughput(amount);
        group.bench_function(id.clone(), |b| {
            b.iter_custom(|times| {
                let start = Tick::now();
                (0..times).for_each(|_| work());
                let ns = Tick::now().ns_since(start);
                rates.push((amount_each * times) as f64 / ns as f64);
                Duration::from_nanos(ns)
            });
        });
        let peak = peak.filter(|_| !rates.is_empty())?;
        rates.sort_by(f64::total_cmp);
        let rate = rates[rates.len() / 2];
        let share = 100.0 * rate / peak.median;
        println!(
            "    {share:.0} % of the probe: {rate:.1} of {:.1} {unit}",
            peak.median
        );
        Some(rate)
    }
}

/// The share left out from which on the time is below one, by lines through points of share and time.
fn pays_from(points: &[(f64, f64)]) -> Option<f64> {
    let falls = |pair: &&[(f64, f64)]| pair[0].1 >= 1.0 && pair[1].1 < 1.0;
    let pair = points.windows(2).rfind(falls)?;
    let part = (pair[0].1 - 1.0) / (pair[0].1 - pair[1].1);
    (points.last()?.1 < 1.0).then(|| pair[0].0 + part * (pair[1].0 - pair[0].0))
}

/// About this share of `count` channels.
fn active(count: usize, share: f64) -> Vec<Active> {
    let mut random = 1u64;
    let all = (0..count as u32).map(|channel| Active {
        channel,
        value: f32::from((channel % 17) as u8) - 8.0,
    });
    all.filter(|_| {
        random = random.wrapping_mul(6364136223846793005).wrapping_add(1);
        ((random >> 11) as f64) < share * (1u64 << 53) as f64
    })
    .collect()
}

/// Channels with growing shares left out, by columns and by rows, beside `dense`, the rate of the dense kernel.
fn channels(
    c: &mut Criterion,
    (size, name): (&str, &str),
    beside: &Beside<'_>,
    k: &dyn Kernels,
    f: &FormatInfo,
    bytes: &[u8],
    dense: Option<f64>,
) {
    let channel_bytes = STRIPS * f.row_bytes(STRIP);
    let all = Strips {
        bytes,
        per_channel: STRIPS,
    };
    let x = [StripCodes {
        codes: [[[3; 4]; LANES]; GROUP / 4],
        scales: [0.1; LANES],
        scaled_sums: [9.6; LANES],
        sums: [96; LANES],
    }; STRIPS];
    for by in ["columns", "rows"] {
        let mut group = c.benchmark_group(format!("{by} left out, {size}"));
        let mut times = Vec::new();
        for left_out in LEFT_OUT {
            let active = active(bytes.len() / channel_bytes, 1.0 - left_out);
            let amount = (active.len() * channel_bytes) as u64;
            let id = BenchmarkId::new(name, left_out);
            let (mut sums, mut products) = ([0.0; STRIPS * STRIP], vec![0.0; active.len()]);
            let rate = beside.bench(&mut group, &id, Throughput::Bytes(amount), || {
                if by == "rows" {
                    k.dot_channels(f.id, all, &active, &x, &mut products);
                    black_box(&products);
                    return;
                }
                for (i, block) in active.chunks(BLOCK).enumerate() {
                    let next = active.get((i + 1) * BLOCK..).unwrap_or(&[]);
                    k.add_channels(f.id, all, block, next, &mut sums);
                    black_box(&sums);
                }
            });
            if let (Some(dense), Some(rate)) = (dense, rate) {
                let time = amount as f64 / rate / (bytes.len() as f64 / dense);
                println!("    {time:.2} of the time of all by the dense kernel");
                times.push((left_out, time));
            }
        }
        if times.first().is_some_and(|(_, time)| *time < 1.0) {
            println!("    {name}, {by}, {size}: pays from the least share on");
        } else if let Some(from) = pays_from(&times) {
            println!(
                "    {name}, {by}, {size}: pays from {:.0} % left out",
                100.0 * from
            );
        } else if !times.is_empty() {
            println!("    {name}, {by}, {size}: never pays");
        }
    }
}

/// One token: all panels, as many at a time as a pass takes; by tables, they are filled each time.
fn one(
    group: &mut BenchmarkGroup<'_, WallTime>,
    id: &BenchmarkId,
    beside: &Beside<'_>,
    k: &dyn Kernels,
    f: &FormatInfo,
    bytes: &[u8],
    kernel: Kernel,
) -> Option<f64> {
    let mut values = values();
    let (mut codes, mut scales) = ([0; COLS], [0.0; COLS / GROUP]);
    let (mut scaled_sums, mut sums) = ([0.0; COLS / GROUP], [0; COLS / SUM_GROUP]);
    k.quantize(&mut RowMut {
        values: &mut values,
        codes: &mut codes,
        scales: &mut scales,
        scaled_sums: &mut scaled_sums,
        sums: &mut sums,
    });
    let row = Row {
        values: &values,
        codes: &codes,
        scales: &scales,
        scaled_sums: &scaled_sums,
        sums: &sums,
    };
    let mut out = [[0.0; LANES]; STREAMS];
    let mut tables = vec![0; COLS * TABLE_BYTES];
    let amount = Throughput::Bytes(bytes.len() as u64);
    beside.bench(group, id, amount, || {
        if kernel == Kernel::Lut {
            k.tables(&codes, &mut tables);
        }
        for panels in bytes.chunks(STREAMS * LANES * f.row_bytes(COLS)) {
            match kernel {
                Kernel::Dot => k.dot(f.id, Bits::All, panels, COLS, &[row], &mut out),
                Kernel::Lut => k.lookup(f.id, panels, COLS, row, &tables, &mut out),
            }
            black_box(&out);
        }
    })
}

/// A batch: as many panels at a time as a prompt takes.
fn batch(
    group: &mut BenchmarkGroup<'_, WallTime>,
    id: &BenchmarkId,
    beside: &Beside<'_>,
    k: &dyn Kernels,
    f: &FormatInfo,
    bytes: &[u8],
) {
    let (values, stride) = (values(), COLS / GROUP);
    let mut groups = vec![TileGroup::default(); BATCH / TILE_TOKENS * stride];
    for t in 0..BATCH {
        k.quantize_tile(
            &values,
            t % TILE_TOKENS,
            &mut groups[t / TILE_TOKENS * stride..][..stride],
        );
    }
    let groups = &groups;
    let panel_bytes = LANES * f.row_bytes(COLS);
    let products = bytes.len() / panel_bytes * LANES * COLS * BATCH;
    let mut out = [[0.0; LANES]; PANELS * BATCH];
    let amount = Throughput::Elements(2 * products as u64);
    beside.bench(group, id, amount, || {
        for panels in bytes.chunks(PANELS * panel_bytes) {
            let out = &mut out[..panels.len() / panel_bytes * BATCH];
            k.dot_batch(f.id, panels, COLS, Tiles { groups, stride }, out);
            black_box(out);
        }
    });
}

/// All formats on all instruction sets of this CPU.
fn all(c: &mut Criterion) {
    let measured = std::env::args().any(|a| a == "--bench");
    let pool = Pool::new(&Options {
        threads: 1,
        ..Options::default()
    });
    let pool = pool.expect("one thread");
    let packing = kernel::kernels(&Options::default()).expect("the CPU's best");
    let sizes = [("cache", SMALL_BYTES), ("memory", LARGE_BYTES)];
    for (size, bytes) in &sizes[..if measured { 2 } else { 1 }] {
        for format in FORMATS {
            let panels = panels(&*packing, format, *bytes);
            let strips = (format.block_len == GROUP).then(|| strips(&*packing, format, *bytes));
            for isa in simd::available() {
                let options = Options {
                    isa,
                    ..Options::default()
                };
                let kernels = kernel::kernels(&options).expect("available");
                let id = &BenchmarkId::new(format!("{}/{isa}", format.name), size);
                let beside = &Beside {
                    pool: &pool,
                    isa,
                    bytes: *bytes,
                    measured,
                };
                let dense = one(
                    &mut c.benchmark_group("one token"),
                    id,
                    beside,
                    &*kernels,
                    format,
                    panels.bytes(),
                    Kernel::Dot,
                );
                if format.lookup {
                    // The values of the weights are of no account.
                    one(
                        &mut c.benchmark_group("one token by tables"),
                        id,
                        beside,
                        &*kernels,
                        format,
                        panels.bytes(),
                        Kernel::Lut,
                    );
                }
                if let Some(strips) = &strips {
                    let name = format!("{}/{isa}", format.name);
                    let names = (*size, name.as_str());
                    channels(c, names, beside, &*kernels, format, strips.bytes(), dense);
                }
                // Portable code on a batch larger than the caches takes seconds and shows nothing.
                if !format.is_float() && (isa != Isa::Scalar || *bytes == SMALL_BYTES) {
                    batch(
                        &mut c.benchmark_group("batch"),
                        id,
                        beside,
                        &*kernels,
                        format,
                        panels.bytes(),
                    );
                }
            }
        }
    }
}

criterion_group! {
    name = kernels;
    config = Criterion::default().sample_size(10).warm_up_time(Duration::from_millis(200)).measurement_time(Duration::from_millis(600));
    targets = all
}
criterion_main!(kernels);
