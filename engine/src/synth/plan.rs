//! What a file of a shape contains: metadata, and its tensors with their formats and fillings.

use super::shape::Shape;
use super::vocab::{self, vocab};
use super::weights::Fill;
use crate::error::{Error, Result};
use crate::gguf::write::{self, Metadata};
use crate::quant::FormatInfo;

/// Everything about a file but its weights.
pub(super) struct Plan {
    /// Bytes up to the first tensor.
    pub(super) head: Vec<u8>,
    /// Tensors in file order.
    pub(super) tensors: Vec<Planned>,
    /// Size of the whole file.
    pub(super) total_bytes: u64,
}

/// A tensor to be written.
#[derive(Debug)]
pub(super) struct Planned {
    pub(super) name: String,
    /// Innermost first.
    pub(super) dims: Vec<u64>,
    pub(super) format: &'static FormatInfo,
    pub(super) bytes: u64,
    pub(super) fill: Fill,
}

impl Planned {
    pub(super) fn n_values(&self) -> u64 {
        self.dims.iter().product()
    }
}

/// Plans a file. Errors: sizes beyond what can be counted.
pub(super) fn plan(shape: &Shape, quant: &'static FormatInfo, seed: u64) -> Result<Plan> {
    let overflow = || {
        Error::Synth(format!(
            "shape \"{}\" is too large to count its bytes",
            shape.name
        ))
    };
    let tensors = tensors(shape, quant).ok_or_else(overflow)?;
    let metadata = metadata(shape, quant, seed);
    let described = tensors
        .iter()
        .map(|t| (t.name.as_str(), t.dims.as_slice(), t.format.id, t.bytes));
    let (head, total_bytes) = write::head(&metadata, described).ok_or_else(overflow)?;
    Ok(Plan {
        head,
        tensors,
        total_bytes,
    })
}

fn metadata(shape: &Shape, quant: &FormatInfo, seed: u64) -> Metadata {
    let arch = shape.architecture.name;
    let key = |name: &str| format!("{arch}.{name}");
    let mut m = Metadata::default();
    m.str("general.architecture", arch);
    m.str("general.type", "model");
    m.str("general.name", &shape.name);
    m.str(
        "general.description",
        &format!("random weights, seed {seed}: for measuring speed, not for text"),
    );
    m.u32(&key("block_count"), shape.layers);
    m.u32(&key("context_length"), shape.context);
    m.u32(&key("embedding_length"), shape.embedding);
    m.u32(&key("feed_forward_length"), shape.feed_forward);
    if let Some(experts) = shape.experts {
        m.u32(&key("expert_count"), experts.count);
        m.u32(&key("expert_used_count"), experts.used);
        m.u32(&key("expert_feed_forward_length"), shape.feed_forward);
    }
    m.u32(&key("attention.head_count"), shape.heads);
    m.u32(&key("attention.head_count_kv"), shape.kv_heads);
    m.u32(&key("attention.key_length"), shape.head_dim);
    m.u32(&key("attention.value_length"), shape.head_dim);
    m.f32(&key("attention.layer_norm_rms_epsilon"), shape.norm_epsilon);
    if shape.is_fused() || shape.sliding_window > 0 {
        m.u32(&key("attention.sliding_window"), shape.sliding_window);
    }
    m.u32(&key("rope.dimension_count"), shape.rope.dims);
    m.f32(&key("rope.freq_base"), shape.rope.base);
    if let Some(original) = shape.rope.original_context {
        m.u32(&key("rope.scaling.original_context_length"), original);
        m.f32(
            &key("rope.scaling.attn_factor"),
            attention_factor(shape.context, original),
        );
    }
    for (name, value) in &shape.metadata {
        m.f32(&key(name), *value);
    }
    m.u32(&key("vocab_size"), shape.vocabulary);
    m.u32("general.file_type", quant.file_type);
    m.u32("general.quantization_version", 2);
    tokenizer(&mut m, shape, seed);
    m
}

fn tokenizer(m: &mut Metadata, shape: &Shape, seed: u64) {
    let v = vocab(shape.vocabulary, seed);
    m.str("tokenizer.ggml.model", "gpt2");
    m.str("tokenizer.ggml.pre", &shape.pre_tokenizer);
    m.strs("tokenizer.ggml.tokens", &v.tokens);
    m.i32s("tokenizer.ggml.token_type", &v.kinds);
    m.strs("tokenizer.ggml.merges", &v.merges);
    m.u32("tokenizer.ggml.bos_token_id", v.end_of_text);
    m.u32("tokenizer.ggml.eos_token_id", v.end_of_text);
    m.u32("tokenizer.ggml.eot_token_id", v.end_of_turn);
    m.bool("tokenizer.ggml.add_bos_token", false);
    m.str("tokenizer.chat_template", vocab::CHAT_TEMPLATE);
}

/// Magnitude of rotated vectors under long factors: `sqrt(1 + ln(s) / ln(original))`, `s` the stretch of the context.
fn attention_factor(context: u32, original: u32) -> f32 {
    let original = f64::from(original);
    let stretch = f64::from(context) / original;
    (1.0 + stretch.ln() / original.ln()).sqrt() as f32
}

/// A format that the engine always has.
fn named(name: &str) -> &'static FormatInfo {
    FormatInfo::by_name(name).expect("one of the engine's formats")
}

/// The list of tensors being made; `None` inside once a size has overflowed.
struct List {
    quant: &'static FormatInfo,
    tensors: Option<Vec<Planned>>,
}

impl List {
    fn push(&mut self, name: String, dims: Vec<u64>, format: &'static FormatInfo, fill: Fill) {
        let values = dims.iter().try_fold(1u64, |n, &dim| n.checked_mul(dim));
        let blocks = values.map(|n| n / format.block_len as u64);
        let bytes = blocks.and_then(|n| n.checked_mul(format.block_bytes as u64));
        match (bytes, &mut self.tensors) {
            (Some(bytes), Some(tensors)) => tensors.push(Planned {
                name,
                dims,
                format,
                bytes,
                fill,
            }),
            _ => self.tensors = None,
        }
    }

    /// A matrix of `rows` rows of `row_len` values that keeps the scale of its input.
    fn matrix(&mut self, name: String, row_len: u64, rows: u64) {
        self.matrices(name, vec![row_len, rows], self.quant.for_rows(row_len));
    }

    /// The same for tensors of more dimensions, and in another format.
    fn matrices(&mut self, name: String, dims: Vec<u64>, format: &'static FormatInfo) {
        let std = 1.0 / (dims[0] as f32).sqrt();
        self.push(name, dims, format, Fill::Bell(std));
    }

    fn norm(&mut self, name: String, len: u64) {
        self.push(name, vec![len], named("F32"), Fill::AroundOne);
    }

    fn bias(&mut self, name: String, len: u64) {
        self.push(name, vec![len], named("F32"), Fill::Bell(0.5));
    }

    fn layer(&mut self, shape: &Shape, layer: u32) {
        let arch = shape.architecture;
        let name = |part: &str| format!("blk.{layer}.{part}.weight");
        let (n_embd, n_ff) = (u64::from(shape.embedding), u64::from(shape.feed_forward));
        let (q, kv) = (shape.q_dim(), shape.kv_dim());
        self.norm(name("attn_norm"), n_embd);
        let parts = if shape.is_fused() {
            &[("attn_qkv", q + 2 * kv)][..]
        } else {
            &[("attn_q", q), ("attn_k", kv), ("attn_v", kv)]
        };
        for &(part, rows) in parts {
            self.matrix(name(part), n_embd, rows);
            if shape.biases {
                self.bias(format!("blk.{layer}.{part}.bias"), rows);
            }
        }
        if arch.qk_norms {
            self.norm(name("attn_q_norm"), u64::from(shape.head_dim));
            self.norm(name("attn_k_norm"), u64::from(shape.head_dim));
        }
        self.matrix(name("attn_output"), q, n_embd);
        if arch.post_norms {
            self.norm(name("post_attention_norm"), n_embd);
        }
        self.norm(name("ffn_norm"), n_embd);
        if let Some(experts) = shape.experts {
            let count = u64::from(experts.count);
            self.matrices(name("ffn_gate_inp"), vec![n_embd, count], named("F32"));
            for (part, row_len, rows) in [
                ("ffn_gate_exps", n_embd, n_ff),
                ("ffn_up_exps", n_embd, n_ff),
                ("ffn_down_exps", n_ff, n_embd),
            ] {
                let format = self.quant.for_rows(row_len);
                self.matrices(name(part), vec![row_len, rows, count], format);
            }
        } else {
            if shape.is_fused() {
                self.matrix(name("ffn_up"), n_embd, 2 * n_ff);
            } else {
                self.matrix(name("ffn_gate"), n_embd, n_ff);
                self.matrix(name("ffn_up"), n_embd, n_ff);
            }
            self.matrix(name("ffn_down"), n_ff, n_embd);
        }
        if arch.post_norms {
            self.norm(name("post_ffw_norm"), n_embd);
        }
    }

    fn factors(&mut self, name: &str, values: Vec<f32>) {
        let dims = vec![values.len() as u64];
        self.push(name.to_string(), dims, named("F32"), Fill::Values(values));
    }
}

fn tensors(shape: &Shape, quant: &'static FormatInfo) -> Option<Vec<Planned>> {
    let mut list = List {
        quant,
        tensors: Some(Vec::new()),
    };
    let n_embd = u64::from(shape.embedding);
    let n_vocab = u64::from(shape.vocabulary);
    list.matrix("token_embd.weight".into(), n_embd, n_vocab);
    if let Some(original) = shape.rope.original_context {
        // From 1 for the fastest rotation to twice the context's stretch for the slowest, as published factors do.
        let pairs = shape.rope.dims / 2;
        let top = 2.0 * shape.context as f32 / original as f32;
        let long = |i: u32| top.powf(i as f32 / (pairs - 1).max(1) as f32);
        list.factors("rope_factors_long.weight", (0..pairs).map(long).collect());
        list.factors("rope_factors_short.weight", vec![1.0; pairs as usize]);
    }
    if let Some(slowest) = shape.rope.slowest {
        let pairs = shape.rope.dims / 2;
        let factor = |i: u32| slowest.powf((2.0 * i as f32 / pairs as f32 - 0.5).clamp(0.0, 1.0));
        list.factors("rope_freqs.weight", (0..pairs).map(factor).collect());
    }
    for layer in 0..shape.layers {
        list.layer(shape, layer);
    }
    list.norm("output_norm.weight".into(), n_embd);
    if !shape.tied_embeddings {
        list.matrix("output.weight".into(), n_embd, n_vocab);
    }
    list.tensors
}
