//! The memory of passes, allocated once for a session.

use super::attention::Scratch;
use super::config::Rope;
use super::experts::{ExpertScratch, slots_max};
use super::sparse::SparseScratch;
use super::weights::Model;
use crate::kernel::PANELS;
use crate::matrix::Activations;
use crate::options::Options;
use crate::pool::{SharedBuf, Tails};
use crate::stage::{Ledger, Listener, StageTimes};
use std::sync::atomic::{AtomicU32, Ordering};

/// Up to this many tokens every thread quantises all activations itself instead of waiting for the others' shares.
pub(super) const REDUNDANT_TOKENS: usize = 4;

/// Tokens whose logits are computed at a time.
pub(crate) const HEAD_TOKENS: usize = 8;

/// Steps of a layer that hand out panels: q, k, v; o; router; gate and up; down.
const STEPS_PER_LAYER: u32 = 5;

/// What one thread did in a pass.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Tally {
    pub(crate) times: StageTimes,
    pub(crate) ledger: Ledger,
}

/// All memory of passes, allocated once; shapes in tokens of a batch unless said otherwise.
pub(crate) struct Buffers {
    /// Residual stream, `[tokens][n_embd]`.
    pub(super) x: SharedBuf<f32>,
    /// Queries, keys and values, `[tokens][q_dim + 2 kv_dim]`.
    pub(super) qkv: SharedBuf<f32>,
    /// Attention output, `[tokens][q_dim]`.
    pub(super) attn: SharedBuf<f32>,
    /// Activated feed-forward values, `[tokens][n_ff]`; in a mixture of experts `[slots][n_ff]`.
    pub(super) ff: SharedBuf<f32>,
    /// What a block gave, before its norm, `[tokens][n_embd]`; empty where models add it at once.
    pub(super) block: SharedBuf<f32>,
    /// `[HEAD_TOKENS][n_vocab]`.
    pub(crate) logits: SharedBuf<f32>,
    /// Quantised activations of a batch.
    pub(super) batch: Activations,
    /// Quantised activations of a few tokens, one set per thread.
    pub(super) own: Vec<Activations>,
    /// Room for [`PANELS`] panels to be rearranged, for each thread; empty where none is.
    pub(super) panels: Vec<SharedBuf<u8>>,
    /// Working memory of attention.
    pub(super) attention: Scratch,
    /// Working memory of mixtures of experts.
    pub(super) experts: ExpertScratch,
    /// Working memory of sparse steps.
    pub(crate) sparse: SparseScratch,
    /// Cosines and sines of each of the model's encodings, `[ctx][rope dims / 2]` pairs.
    pub(super) ropes: Vec<Vec<[f32; 2]>>,
    /// What each thread did in the last pass.
    pub(crate) tallies: SharedBuf<Tally>,
    /// Panels that any thread may multiply, and the number of the last step that gave some out.
    pub(super) tails: Tails,
    steps: AtomicU32,
    pub(super) tail_percent: usize,
    pub(super) wait_prefetch_bytes: usize,
    pub(super) stage_clock: bool,
    /// Hears of the stages, on every thread.
    pub(crate) listener: Option<Listener>,
}

impl Buffers {
    pub(crate) fn new(
        model: &Model,
        threads: usize,
        batch: usize,
        ctx: usize,
        options: &Options,
    ) -> Buffers {
        let c = &model.config;
        let width = c.n_embd.max(c.n_ff).max(c.q_dim());
        let lookups = model.matrices().filter(|m| m.lookup);
        let panel_bytes = lookups.map(|m| m.panel_bytes()).max().unwrap_or(0);
        Buffers {
            x: SharedBuf::new(batch * c.n_embd),
            qkv: SharedBuf::new(batch * (c.q_dim() + 2 * c.kv_dim())),
            attn: SharedBuf::new(batch * c.q_dim()),
            ff: SharedBuf::new(slots_max(c, batch) * c.n_ff),
            block: SharedBuf::new(if c.arch.post_norms {
                batch * c.n_embd
            } else {
                0
            }),
            logits: SharedBuf::new(HEAD_TOKENS.min(batch) * c.n_vocab),
            // Passes that look products up have so few tokens that every thread has its own.
            batch: Activations::new(batch, width, false),
            own: (0..threads)
                .map(|_| {
                    let slots = REDUNDANT_TOKENS.max(slots_max(c, 1));
                    Activations::in_slots(slots, width, panel_bytes > 0)
                })
                .collect(),
            panels: (0..threads)
                .map(|_| SharedBuf::new(PANELS * panel_bytes))
                .collect(),
            attention: Scratch::new(c, threads, batch, ctx),
            experts: ExpertScratch::new(c, threads, batch, panel_bytes > 0),
            sparse: SparseScratch::new(model, threads),
            ropes: c
                .ropes
                .iter()
                .zip(&model.rope_factors)
                .map(|(rope, factors)| rope_table(rope, factors, ctx))
                .collect(),
            tallies: SharedBuf::new(threads),
            tails: Tails::new(threads),
            steps: AtomicU32::new(0),
            tail_percent: options.tail_percent,
            wait_prefetch_bytes: options.wait_prefetch_bytes,
            stage_clock: options.stage_clock,
            listener: None,
        }
    }

    /// The number of the first step of a new pass, and as many more for it as `model` needs.
    pub(crate) fn next_steps(&self, model: &Model) -> u32 {
        let steps = STEPS_PER_LAYER * model.layers.len() as u32;
        self.steps.fetch_add(steps.max(1), Ordering::Relaxed)
    }
}

/// Cosine and sine of every position and frequency, times the magnitude.
fn rope_table(rope: &Rope, factors: &[Vec<f32>; 2], ctx: usize) -> Vec<[f32; 2]> {
    let factors = &factors[usize::from(ctx > rope.original_context)];
    let frequency = |i: usize| {
        let exponent = -2.0 * i as f64 / rope.dims as f64;
        let factor = factors.get(i).map_or(1.0, |&f| f64::from(f));
        f64::from(rope.base).powf(exponent) / factor / f64::from(rope.linear_factor)
    };
    let frequencies: Vec<f64> = (0..rope.dims / 2).map(frequency).collect();
    let magnitude = f64::from(rope.magnitude);
    (0..ctx)
        .flat_map(|p| frequencies.iter().map(move |f| (p as f64 * f).sin_cos()))
        .map(|(sin, cos)| [(cos * magnitude) as f32, (sin * magnitude) as f32])
        .collect()
}
