//! Hyperparameters of a model, read from a file's metadata, and the architectures as data.

use crate::error::{Error, Result};
use crate::gguf::Gguf;
use crate::kernel::{ROWS_MAX, cache};
use crate::options::Options;
use crate::simd::LANES;

/// Context capacity when none is asked for and the model would allow more.
const CTX_DEFAULT_MAX: usize = 4096;

/// Limits on what a file may ask for.
mod limits {
    /// Layers.
    pub(super) const LAYERS: usize = 1024;
    /// Any width: embedding, feed-forward.
    pub(super) const WIDTH: usize = 1 << 20;
    /// Attention heads.
    pub(super) const HEADS: usize = 1024;
    /// Values of a head.
    pub(super) const HEAD_DIM: usize = 1024;
    /// Context length.
    pub(super) const CONTEXT: usize = 1 << 24;
}

/// Which values of a head are rotated together (Su et al. 2021).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RopeStyle {
    /// Neighbours: `2 i` and `2 i + 1`.
    Adjacent,
    /// Halves of the rotated part: `i` and `i + n / 2`.
    Halves,
}

/// What differs between architectures beyond what a file's tensors and metadata say.
#[derive(Debug)]
pub struct Arch {
    /// Value of `general.architecture`.
    pub name: &'static str,
    /// How positions are encoded.
    pub rope_style: RopeStyle,
}

/// The architectures the forward pass serves.
pub(crate) const ARCHS: &[Arch] = &[
    Arch {
        name: "llama",
        rope_style: RopeStyle::Adjacent,
    },
    Arch {
        name: "phi3",
        rope_style: RopeStyle::Halves,
    },
];

/// Rotary position embedding of a model.
#[derive(Debug, Clone, PartialEq)]
pub struct Rope {
    /// Which values are rotated together.
    pub style: RopeStyle,
    /// Leading values of a head that are rotated.
    pub dims: usize,
    /// Base of the frequencies.
    pub base: f32,
    /// Positions are divided by this (linear scaling).
    pub linear_factor: f32,
    /// Sines and cosines are multiplied by this.
    pub magnitude: f32,
    /// Context length the model was first trained for; longer contexts take the long factors.
    pub original_context: usize,
}

/// Hyperparameters of a model.
#[derive(Debug, Clone)]
pub struct Config {
    /// Architecture.
    pub arch: &'static Arch,
    /// Layers.
    pub n_layers: usize,
    /// Width of the residual stream.
    pub n_embd: usize,
    /// Query heads.
    pub n_heads: usize,
    /// Key and value heads.
    pub n_kv_heads: usize,
    /// Values of a head.
    pub head_dim: usize,
    /// Width of the feed-forward part.
    pub n_ff: usize,
    /// Tokens in the vocabulary.
    pub n_vocab: usize,
    /// Context length the model was trained for.
    pub n_ctx_train: usize,
    /// Added to the mean square in norms.
    pub rms_eps: f32,
    /// Position encoding.
    pub rope: Rope,
}

impl Config {
    /// Reads and checks the hyperparameters.
    ///
    /// # Errors
    /// When the architecture is unknown, a value is missing, absurd or does not fit the others.
    pub fn from_gguf(gguf: &Gguf) -> Result<Config> {
        let name = gguf.require_str("general.architecture")?;
        let arch = ARCHS.iter().find(|a| a.name == name).ok_or_else(|| {
            let known: Vec<_> = ARCHS.iter().map(|a| a.name).collect();
            Error::Model(format!(
                "architecture \"{name}\" is not supported, only {}: use a model of one of these",
                known.join(", ")
            ))
        })?;
        let key = |k: &str| format!("{name}.{k}");
        let required = |k: &str, max: usize| bounded(&key(k), gguf.require_u32(&key(k))?, max);
        let optional = |k: &str, max: usize, default: usize| {
            gguf.u32(&key(k))?
                .map_or(Ok(default), |v| bounded(&key(k), v, max))
        };
        if gguf.u32(&key("expert_count"))?.unwrap_or(0) > 0 {
            return Err(Error::Model(
                "mixtures of experts are not supported: use a dense model".into(),
            ));
        }
        let n_embd = required("embedding_length", limits::WIDTH)?;
        let n_heads = required("attention.head_count", limits::HEADS)?;
        let head_dim = optional("attention.key_length", limits::HEAD_DIM, n_embd / n_heads)?;
        let n_ctx_train = required("context_length", limits::CONTEXT)?;
        let embd = gguf
            .tensor("token_embd.weight")
            .ok_or_else(|| missing("token_embd.weight"))?;
        let config = Config {
            arch,
            n_layers: required("block_count", limits::LAYERS)?,
            n_embd,
            n_heads,
            n_kv_heads: optional("attention.head_count_kv", limits::HEADS, n_heads)?,
            head_dim,
            n_ff: required("feed_forward_length", limits::WIDTH)?,
            n_vocab: embd.dims.get(1).map_or(1, |&d| d as usize),
            n_ctx_train,
            rms_eps: gguf.require_f32(&key("attention.layer_norm_rms_epsilon"))?,
            rope: Rope {
                style: arch.rope_style,
                dims: optional("rope.dimension_count", limits::HEAD_DIM, head_dim)?,
                base: gguf.f32(&key("rope.freq_base"))?.unwrap_or(10_000.0),
                linear_factor: linear_factor(gguf, name)?,
                magnitude: gguf.f32(&key("rope.scaling.attn_factor"))?.unwrap_or(1.0),
                original_context: optional(
                    "rope.scaling.original_context_length",
                    limits::CONTEXT,
                    n_ctx_train,
                )?,
            },
        };
        config.check()?;
        let names = gguf
            .get("tokenizer.ggml.tokens")
            .and_then(|v| v.as_array())
            .map(|a| a.len());
        if let Some(names) = names.filter(|&n| n != config.n_vocab as u64) {
            return Err(Error::Model(format!(
                "the vocabulary names {names} tokens, but \"token_embd.weight\" has {} rows: the file is damaged or was \
                 converted wrongly",
                config.n_vocab
            )));
        }
        Ok(config)
    }

    /// Values of all query heads.
    pub fn q_dim(&self) -> usize {
        self.n_heads * self.head_dim
    }

    /// Values of all key heads.
    pub fn kv_dim(&self) -> usize {
        self.n_kv_heads * self.head_dim
    }

    /// Query heads that share a KV head.
    pub fn group(&self) -> usize {
        self.n_heads / self.n_kv_heads
    }

    /// Positions of a sequence with these options, which must suit the model.
    ///
    /// # Errors
    /// [`Error::Option`] where the model was not trained for the context, or its heads do not suit the KV cache.
    pub fn context(&self, options: &Options) -> Result<usize> {
        let unit = cache::dim_unit(options.kv);
        if !self.head_dim.is_multiple_of(unit) {
            return Err(Error::Option {
                option: "kv",
                what: format!(
                    "\"{}\" needs heads of a multiple of {unit} values, but the model's have {}: use \"f16\"",
                    options.kv, self.head_dim
                ),
            });
        }
        match options.ctx {
            0 => Ok(self.n_ctx_train.min(CTX_DEFAULT_MAX)),
            ctx if ctx <= self.n_ctx_train => Ok(ctx),
            ctx => Err(Error::Option {
                option: "ctx",
                what: format!(
                    "{ctx} is more than the {} the model was trained for: ask for at most that, or 0",
                    self.n_ctx_train
                ),
            }),
        }
    }

    fn check(&self) -> Result<()> {
        let require = |ok: bool, what: String| if ok { Ok(()) } else { Err(Error::Model(what)) };
        require(
            self.n_heads.is_multiple_of(self.n_kv_heads),
            format!(
                "{} heads cannot share {} KV heads evenly",
                self.n_heads, self.n_kv_heads
            ),
        )?;
        require(
            self.group() <= ROWS_MAX,
            format!(
                "{} heads share a KV head, at most {ROWS_MAX} can",
                self.group()
            ),
        )?;
        require(
            self.head_dim.is_multiple_of(LANES),
            format!(
                "heads of {} values are not supported, only multiples of {LANES}",
                self.head_dim
            ),
        )?;
        require(
            self.rope.dims.is_multiple_of(2) && self.rope.dims <= self.head_dim,
            format!(
                "{} rotated values do not fit heads of {}",
                self.rope.dims, self.head_dim
            ),
        )?;
        let positive = |x: f32| x.is_finite() && x > 0.0;
        require(
            positive(self.rope.base)
                && positive(self.rope.linear_factor)
                && positive(self.rope.magnitude),
            "the rotary embedding's base and factors must be positive numbers".into(),
        )?;
        require(
            self.rms_eps.is_finite() && self.rms_eps >= 0.0,
            format!(
                "the norm's epsilon is {}, expected a small positive number",
                self.rms_eps
            ),
        )
    }
}

/// `value` as a size between 1 and `max`.
fn bounded(key: &str, value: u32, max: usize) -> Result<usize> {
    let value = value as usize;
    if (1..=max).contains(&value) {
        return Ok(value);
    }
    Err(Error::Model(format!(
        "\"{key}\" is {value}, expected 1 to {max}: the file is damaged"
    )))
}

/// The factor of linear position scaling, 1 without; other kinds of scaling that would change results are refused.
fn linear_factor(gguf: &Gguf, name: &str) -> Result<f32> {
    let kind = gguf.str(&format!("{name}.rope.scaling.type"))?;
    match kind {
        None | Some("none" | "longrope") => Ok(1.0),
        Some("linear") => Ok(gguf
            .f32(&format!("{name}.rope.scaling.factor"))?
            .unwrap_or(1.0)),
        Some(other) => Err(Error::Model(format!(
            "position scaling \"{other}\" is not supported, only none, linear and longrope"
        ))),
    }
}

/// The error for an absent tensor.
pub(super) fn missing(tensor: &str) -> Error {
    Error::Model(format!(
        "tensor \"{tensor}\" is missing: the file is incomplete or of another architecture"
    ))
}
