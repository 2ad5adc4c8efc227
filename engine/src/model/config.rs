//! Hyperparameters of a model, read from a file's metadata.

use super::arch::{Arch, RopeStyle};
use crate::error::{Error, Result};
use crate::gguf::{Gguf, Tensor};
use crate::kernel::{ROWS_MAX, cache};
use crate::options::Options;
use crate::options::sparsity::refused;
use crate::simd::LANES;

/// Context capacity when none is asked for and the model would allow more.
const CTX_DEFAULT_MAX: usize = 4096;

/// Values of a head at most.
pub(super) const HEAD_DIM_MAX: usize = 1024;

/// Limits on what a file may ask for.
mod limits {
    /// Layers.
    pub(super) const LAYERS: usize = 1024;
    /// Any width: embedding, feed-forward.
    pub(super) const WIDTH: usize = 1 << 20;
    /// Attention heads.
    pub(super) const HEADS: usize = 1024;
    /// Experts of a layer, and of these the ones that a token goes through.
    pub(super) const EXPERTS: usize = 1024;
    pub(super) const EXPERTS_USED: usize = 64;
    /// Context length.
    pub(super) const CONTEXT: usize = 1 << 24;
}

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

/// What differs between the layers of a model.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct LayerConfig {
    /// Positions that a token sees, its own included.
    pub window: usize,
    /// Which of [`Config::ropes`] encodes positions; `None` for none.
    pub rope: Option<usize>,
}

/// A mixture of experts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Experts {
    /// Experts of a layer.
    pub count: usize,
    /// Experts that each token goes through.
    pub used: usize,
}

/// Hyperparameters of a model.
#[derive(Debug, Clone)]
pub struct Config {
    /// Architecture.
    pub arch: &'static Arch,
    /// Layers, in order.
    pub layers: Vec<LayerConfig>,
    /// Width of the residual stream.
    pub n_embd: usize,
    /// Query heads.
    pub n_heads: usize,
    /// Key and value heads.
    pub n_kv_heads: usize,
    /// Values of a head.
    pub head_dim: usize,
    /// Width of the feed-forward part; in a mixture of experts that of one.
    pub n_ff: usize,
    /// The experts of a layer; `None` where the feed-forward part is dense.
    pub experts: Option<Experts>,
    /// Tokens in the vocabulary.
    pub n_vocab: usize,
    /// Context length the model was trained for.
    pub n_ctx_train: usize,
    /// Added to the mean square in norms.
    pub rms_eps: f32,
    /// Position encodings: that of layers that see all positions, then that of layers with a window, if it is another.
    pub ropes: Vec<Rope>,
    /// What queries are multiplied by.
    pub attention_scale: f32,
    /// What embeddings are multiplied by.
    pub embedding_scale: f32,
    /// What attention and feed-forward give is multiplied by.
    pub residual_scale: f32,
    /// What logits are multiplied by.
    pub logit_scale: f32,
    /// Soft cap of attention scores, `cap tanh(x / cap)`; 0 for none.
    pub attention_cap: f32,
    /// Soft cap of logits; 0 for none.
    pub logit_cap: f32,
}

impl Config {
    /// Reads and checks the hyperparameters.
    ///
    /// # Errors
    /// When the architecture is unknown, a value is missing, absurd or does not fit the others.
    pub fn from_gguf(gguf: &Gguf) -> Result<Config> {
        let name = gguf.require_str("general.architecture")?;
        let arch = Arch::by_name(name).ok_or_else(|| {
            let known: Vec<_> = Arch::names().collect();
            Error::Model(format!(
                "architecture \"{name}\" is not supported, only {}: use a model of one of these",
                known.join(", ")
            ))
        })?;
        let keys = Keys { gguf, arch };
        let experts = keys.experts()?;
        let n_ff = match experts {
            None => "feed_forward_length",
            Some(_) => "expert_feed_forward_length",
        };
        let n_embd = keys.required_size("embedding_length", limits::WIDTH)?;
        let n_heads = keys.required_size("attention.head_count", limits::HEADS)?;
        let head_dim = keys.size("attention.key_length", HEAD_DIM_MAX, n_embd / n_heads)?;
        let embd = gguf
            .tensor("token_embd.weight")
            .ok_or_else(|| missing("token_embd.weight"))?;
        let ropes = keys.ropes(head_dim)?;
        let layers = keys.layers(ropes.len() - 1)?;
        let scale_dim = match arch.scaled_by_width {
            Some(n) if n == layers.len() => n_embd / n_heads,
            _ => head_dim,
        };
        let [attention_cap, logit_cap] = arch.soft_caps;
        let scale = |k: &str| {
            if arch.multipliers {
                keys.required_f32(k)
            } else {
                Ok(1.0)
            }
        };
        let config = Config {
            arch,
            n_embd,
            n_heads,
            n_kv_heads: keys.size("attention.head_count_kv", limits::HEADS, n_heads)?,
            head_dim,
            n_ff: keys.required_size(n_ff, limits::WIDTH)?,
            experts,
            n_vocab: embd.dims.get(1).map_or(1, |&d| d as usize),
            n_ctx_train: keys.required_size("context_length", limits::CONTEXT)?,
            rms_eps: keys.required_f32("attention.layer_norm_rms_epsilon")?,
            attention_scale: match keys.f32("attention.scale", 0.0)? {
                0.0 => 1.0 / (scale_dim as f32).sqrt(),
                scale => scale,
            },
            embedding_scale: if arch.embedding_by_width {
                (n_embd as f32).sqrt()
            } else {
                scale("embedding_scale")?
            },
            residual_scale: scale("residual_scale")?,
            logit_scale: 1.0 / scale("logit_scale")?,
            attention_cap: keys.f32("attn_logit_softcapping", attention_cap)?,
            logit_cap: keys.f32("final_logit_softcapping", logit_cap)?,
            ropes,
            layers,
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

    /// Number of layers.
    pub fn n_layers(&self) -> usize {
        self.layers.len()
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

    /// Of `n` weights or bytes of a tensor, those that one token is multiplied with: of experts' those of the ones used.
    pub fn active(&self, tensor: &Tensor, n: u64) -> u64 {
        match self.experts {
            Some(e) if tensor.dims.len() == 3 => n / e.count as u64 * e.used as u64,
            _ => n,
        }
    }

    /// Refuses to leave channels out of a model that cannot.
    ///
    /// # Errors
    /// [`Error::Option`] for mixtures of experts.
    pub fn check_sparsity(&self) -> Result<()> {
        match self.experts {
            None => Ok(()),
            Some(_) => Err(refused(
                "sparsity.method",
                "a mixture of experts has no channels to leave out: use a dense model, or method \"none\"".into(),
            )),
        }
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
        let positive = |x: f32| x.is_finite() && x > 0.0;
        for rope in &self.ropes {
            require(
                rope.dims.is_multiple_of(2) && rope.dims <= self.head_dim,
                format!(
                    "{} rotated values do not fit heads of {}",
                    rope.dims, self.head_dim
                ),
            )?;
            require(
                positive(rope.base) && positive(rope.linear_factor) && positive(rope.magnitude),
                "the rotary embedding's base and factors must be positive numbers".into(),
            )?;
        }
        let scales = [
            self.attention_scale,
            self.embedding_scale,
            self.residual_scale,
            self.logit_scale,
        ];
        require(
            scales.into_iter().all(positive),
            "the scales of attention, embeddings, residuals and logits must be positive numbers"
                .into(),
        )?;
        let caps = [self.attention_cap, self.logit_cap];
        require(
            caps.iter().all(|&cap| cap == 0.0 || positive(cap)),
            "the soft caps of attention and logits must be positive numbers, or 0 for none".into(),
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

/// The metadata of an architecture.
struct Keys<'a> {
    gguf: &'a Gguf,
    arch: &'static Arch,
}

impl Keys<'_> {
    fn name(&self, key: &str) -> String {
        format!("{}.{key}", self.arch.name)
    }

    /// A size of 1 to `max`.
    fn required_size(&self, key: &str, max: usize) -> Result<usize> {
        let key = self.name(key);
        bounded(&key, self.gguf.require_u32(&key)?, max)
    }

    /// The same, or `default` where it is missing.
    fn size(&self, key: &str, max: usize, default: usize) -> Result<usize> {
        let key = self.name(key);
        let value = self.gguf.u32(&key)?;
        value.map_or(Ok(default), |v| bounded(&key, v, max))
    }

    fn required_f32(&self, key: &str) -> Result<f32> {
        self.gguf.require_f32(&self.name(key))
    }

    fn f32(&self, key: &str, default: f32) -> Result<f32> {
        Ok(self.gguf.f32(&self.name(key))?.unwrap_or(default))
    }

    /// The experts of a layer, where the architecture has them.
    fn experts(&self) -> Result<Option<Experts>> {
        let wanted = self.gguf.u32(&self.name("expert_count"))?.unwrap_or(0);
        if !self.arch.experts {
            return match wanted {
                0 => Ok(None),
                n => Err(Error::Model(format!(
                    "mixtures of experts are not supported in architecture \"{}\", and this is one of {n}: use a dense model, or qwen3moe",
                    self.arch.name
                ))),
            };
        }
        let count = self.required_size("expert_count", limits::EXPERTS)?;
        let used = self.required_size("expert_used_count", count.min(limits::EXPERTS_USED))?;
        Ok(Some(Experts { count, used }))
    }

    /// See [`Config::ropes`].
    fn ropes(&self, head_dim: usize) -> Result<Vec<Rope>> {
        let n_ctx_train = self.required_size("context_length", limits::CONTEXT)?;
        let rope = Rope {
            style: self.arch.rope_style,
            dims: self.size("rope.dimension_count", HEAD_DIM_MAX, head_dim)?,
            base: self.f32("rope.freq_base", 10_000.0)?,
            linear_factor: self.linear_factor()?,
            magnitude: self.f32("rope.scaling.attn_factor", 1.0)?,
            original_context: self.size(
                "rope.scaling.original_context_length",
                limits::CONTEXT,
                n_ctx_train,
            )?,
        };
        let local = match self.arch.windows.and_then(|windows| windows.rope_base) {
            None => None,
            Some(base) => Some(Rope {
                base: self.f32("rope.freq_base_swa", base)?,
                linear_factor: 1.0,
                ..rope
            }),
        };
        Ok([rope].into_iter().chain(local).collect())
    }

    /// The layers; those with a window rotate by number `local_rope`.
    fn layers(&self, local_rope: usize) -> Result<Vec<LayerConfig>> {
        let n_layers = self.required_size("block_count", limits::LAYERS)?;
        let (window, period) = match self.arch.windows {
            None => (usize::MAX, 1),
            Some(windows) => (
                match self.gguf.u32(&self.name("attention.sliding_window"))? {
                    Some(window) => window as usize,
                    None => windows.default,
                },
                self.size(
                    "attention.sliding_window_pattern",
                    limits::LAYERS,
                    windows.period,
                )?,
            ),
        };
        let nope = self.arch.nope_period;
        let layers = (1..=n_layers).map(|l| {
            let local = window > 0 && !l.is_multiple_of(period);
            LayerConfig {
                window: if local { window } else { usize::MAX },
                rope: (nope == 0 || !l.is_multiple_of(nope)).then_some(if local {
                    local_rope
                } else {
                    0
                }),
            }
        });
        Ok(layers.collect())
    }

    /// The factor of linear position scaling, 1 without; other kinds of scaling that would change results are refused.
    fn linear_factor(&self) -> Result<f32> {
        match self.gguf.str(&self.name("rope.scaling.type"))? {
            Some("none" | "longrope") => Ok(1.0),
            None | Some("linear") => match self.f32("rope.scaling.factor", 0.0)? {
                0.0 => self.f32("rope.scale_linear", 1.0),
                factor => Ok(factor),
            },
            Some(other) => Err(Error::Model(format!(
                "position scaling \"{other}\" is not supported, only none, linear and longrope"
            ))),
        }
    }
}

/// The error for an absent tensor.
pub(super) fn missing(tensor: &str) -> Error {
    Error::Model(format!(
        "tensor \"{tensor}\" is missing: the file is incomplete or of another architecture"
    ))
}
