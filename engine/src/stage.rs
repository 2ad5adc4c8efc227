//! Where the time and the bytes of a token go: the stages of a forward pass, their clock, and the byte ledger.
//!
//! This module owns the engine's clock; nothing else in the engine asks for the time.

use serde::{Deserialize, Serialize};
use std::time::Instant;

/// Stages of one pass through the model. Every nanosecond of a thread inside a pass belongs to exactly one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[repr(usize)]
pub enum Stage {
    /// Token embedding lookup.
    Embed,
    /// Normalisation and quantisation of the activations.
    Norm,
    /// Query, key and value projections.
    Qkv,
    /// Rotary embedding, KV cache writes and attention.
    Attention,
    /// Attention output projection and residual.
    AttnOut,
    /// Gate and up projections and the activation function.
    GateUp,
    /// Down projection and residual.
    Down,
    /// Final norm and output head.
    Head,
    /// Waiting for other threads at barriers.
    Wait,
    /// Choosing the next token from the logits.
    Sample,
}

impl Stage {
    /// All stages, in the order of a pass.
    pub const ALL: [Stage; 10] = [
        Stage::Embed,
        Stage::Norm,
        Stage::Qkv,
        Stage::Attention,
        Stage::AttnOut,
        Stage::GateUp,
        Stage::Down,
        Stage::Head,
        Stage::Wait,
        Stage::Sample,
    ];

    /// What is done in it, in words.
    pub fn meaning(self) -> &'static str {
        match self {
            Stage::Embed => "looking up the token's embedding",
            Stage::Norm => "norms, and activations rounded to 8 bits",
            Stage::Qkv => "projections to queries, keys and values",
            Stage::Attention => "rotation, writing the KV cache, attention over it",
            Stage::AttnOut => "projection of what attention gives",
            Stage::GateUp => "gate and up projections, and the activation function",
            Stage::Down => "down projection",
            Stage::Head => "last norm, and the logits of the vocabulary",
            Stage::Wait => "at barriers, for other threads",
            Stage::Sample => "choosing the token",
        }
    }

    /// The stage's name as it stands in results: snake case.
    pub fn name(self) -> &'static str {
        match self {
            Stage::Embed => "embed",
            Stage::Norm => "norm",
            Stage::Qkv => "qkv",
            Stage::Attention => "attention",
            Stage::AttnOut => "attn_out",
            Stage::GateUp => "gate_up",
            Stage::Down => "down",
            Stage::Head => "head",
            Stage::Wait => "wait",
            Stage::Sample => "sample",
        }
    }
}

/// Time per stage in nanoseconds, summed over passes; averaged over threads where it leaves the engine.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct StageTimes {
    /// Nanoseconds, indexed by `Stage as usize`.
    pub ns: [u64; Stage::ALL.len()],
}

impl StageTimes {
    /// Nanoseconds spent in `stage`.
    pub fn get(&self, stage: Stage) -> u64 {
        self.ns[stage as usize]
    }

    /// Sum over all stages, in nanoseconds.
    pub fn total_ns(&self) -> u64 {
        self.ns.iter().sum()
    }

    /// Element-wise sum.
    pub fn add(&mut self, other: &StageTimes) {
        for (a, b) in self.ns.iter_mut().zip(other.ns) {
            *a += b;
        }
    }
}

/// Bytes read by the model's passes, counted where they are read and summed over threads.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Ledger {
    /// Weight bytes streamed, scales included.
    pub weight_bytes: u64,
    /// Those of them that products were looked up for, with `engine.kernel = "lut"`.
    #[serde(default)]
    pub lookup_bytes: u64,
    /// Weight bytes that sparsity left out: what the same passes would have read besides.
    #[serde(default)]
    pub skipped_bytes: u64,
    /// KV cache bytes read.
    pub kv_read_bytes: u64,
    /// KV cache bytes written.
    pub kv_write_bytes: u64,
    /// Activation bytes read by matrix kernels (mostly from cache).
    pub activation_bytes: u64,
}

impl Ledger {
    /// Element-wise sum.
    pub fn add(&mut self, other: &Ledger) {
        self.weight_bytes += other.weight_bytes;
        self.lookup_bytes += other.lookup_bytes;
        self.skipped_bytes += other.skipped_bytes;
        self.kv_read_bytes += other.kv_read_bytes;
        self.kv_write_bytes += other.kv_write_bytes;
        self.activation_bytes += other.activation_bytes;
    }
}

/// A point in time on the engine's monotonic clock.
#[derive(Debug, Clone, Copy)]
pub struct Tick(Instant);

impl Tick {
    /// Now.
    #[allow(clippy::disallowed_methods, reason = "this is the engine's clock")]
    pub fn now() -> Tick {
        Tick(Instant::now())
    }

    /// Nanoseconds from `earlier` to `self`.
    pub fn ns_since(self, earlier: Tick) -> u64 {
        self.0.duration_since(earlier.0).as_nanos() as u64
    }
}

/// CPU time of the calling thread in nanoseconds. Unlike [`Tick`], it does not count time in which the thread stood still,
/// because the process was stopped or another one had its CPU.
pub fn thread_cpu_ns() -> u64 {
    let now = rustix::time::clock_gettime(rustix::time::ClockId::ThreadCPUTime);
    now.tv_sec as u64 * 1_000_000_000 + now.tv_nsec as u64
}

/// Hears where stages end: what was done since it last heard belongs to the stage named, or to none.
pub type Listener = fn(Option<Stage>);

/// One thread's clock over the stages of a pass: `lap` books the time since the last lap.
#[derive(Debug, Clone)]
pub struct StageClock {
    on: bool,
    listener: Option<Listener>,
    last: Tick,
    /// What has been booked so far.
    pub times: StageTimes,
}

impl StageClock {
    /// A clock that books laps, or one that never asks for the time; `listener` hears of them either way.
    pub fn new(on: bool, listener: Option<Listener>) -> StageClock {
        StageClock {
            on,
            listener,
            last: Tick::now(),
            times: StageTimes::default(),
        }
    }

    /// Starts the first lap now.
    pub fn start(&mut self) {
        if self.on {
            self.last = Tick::now();
        }
        if let Some(hear) = self.listener {
            hear(None);
        }
    }

    /// Books the time since the last lap to `stage`.
    pub fn lap(&mut self, stage: Stage) {
        if self.on {
            let now = Tick::now();
            self.times.ns[stage as usize] += now.ns_since(self.last);
            self.last = now;
        }
        if let Some(hear) = self.listener {
            hear(Some(stage));
        }
    }
}
