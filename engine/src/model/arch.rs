//! Architectures as data: what a file's tensors and metadata do not say.

use crate::kernel::Activation;

/// Which values of a head are rotated together (Su et al. 2021).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RopeStyle {
    /// Neighbours: `2 i` and `2 i + 1`.
    Adjacent,
    /// Halves of the rotated part: `i` and `i + n / 2`.
    Halves,
}

/// Layers in which a token sees only the latest positions: all but the last of each `period` layers.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Windows {
    /// Positions seen where the file does not say; 0 for all.
    pub default: usize,
    /// Layers of a period where the file does not say.
    pub period: usize,
    /// Base of the rotary frequencies in these layers where the file does not say; `None` for that of the others.
    pub rope_base: Option<f32>,
}

/// What differs between architectures beyond what a file's tensors and metadata say.
#[derive(Debug, PartialEq)]
pub struct Arch {
    /// Value of `general.architecture`.
    pub name: &'static str,
    /// How positions are encoded.
    pub rope_style: RopeStyle,
    /// The last of each so many layers rotates nothing (NoPE, Yang et al. 2025); 0 where all rotate.
    pub nope_period: usize,
    /// Layers with a sliding window.
    pub windows: Option<Windows>,
    /// Queries and keys are normed head by head before they are rotated.
    pub qk_norms: bool,
    /// What attention and feed-forward give is normed before it is added to the residual stream.
    pub post_norms: bool,
    /// The feed-forward part is a mixture of experts, weighed by the softmax of the chosen ones' scores.
    pub experts: bool,
    /// Activation of the gate.
    pub activation: Activation,
    /// Embeddings are multiplied by the square root of their width.
    pub embedding_by_width: bool,
    /// The file has multipliers for embeddings, residuals and logits.
    pub multipliers: bool,
    /// Soft caps of attention scores and of logits where the file does not say; 0 for none.
    pub soft_caps: [f32; 2],
    /// Models of so many layers scale attention by `n_embd / n_heads` instead of the size of a head.
    pub scaled_by_width: Option<usize>,
}

impl Arch {
    /// The architecture that files call `name`.
    pub fn by_name(name: &str) -> Option<&'static Arch> {
        ARCHS.iter().find(|arch| arch.name == name)
    }

    /// Names of all architectures.
    pub fn names() -> impl Iterator<Item = &'static str> {
        ARCHS.iter().map(|arch| arch.name)
    }
}

const LLAMA: Arch = Arch {
    name: "llama",
    rope_style: RopeStyle::Adjacent,
    nope_period: 0,
    windows: None,
    qk_norms: false,
    post_norms: false,
    experts: false,
    activation: Activation::Silu,
    embedding_by_width: false,
    multipliers: false,
    soft_caps: [0.0; 2],
    scaled_by_width: None,
};

const PHI_3: Arch = Arch {
    name: "phi3",
    rope_style: RopeStyle::Halves,
    ..LLAMA
};

const GEMMA: Arch = Arch {
    name: "gemma",
    activation: Activation::Gelu,
    embedding_by_width: true,
    ..PHI_3
};

/// The architectures the forward pass serves.
#[rustfmt::skip]
const ARCHS: &[Arch] = &[
    LLAMA,
    PHI_3,
    Arch { name: "qwen2", ..PHI_3 },
    Arch { name: "qwen3", qk_norms: true, ..PHI_3 },
    Arch { name: "qwen3moe", qk_norms: true, experts: true, ..PHI_3 },
    GEMMA,
    Arch {
        name: "gemma2",
        windows: Some(Windows { default: 4096, period: 2, rope_base: None }),
        post_norms: true, soft_caps: [50.0, 30.0], scaled_by_width: Some(46), ..GEMMA
    },
    Arch {
        name: "gemma3",
        windows: Some(Windows { default: 0, period: 6, rope_base: Some(10_000.0) }),
        qk_norms: true, post_norms: true, scaled_by_width: Some(62), ..GEMMA
    },
    Arch { name: "smollm3", nope_period: 4, ..LLAMA },
    Arch { name: "granite", multipliers: true, ..LLAMA },
];
