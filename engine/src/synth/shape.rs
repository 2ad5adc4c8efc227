//! Shapes of models: the sizes that decide how many bytes a token costs, as TOML data.

use crate::error::{Error, Result};
use crate::model::Arch;
use serde::de::Error as _;
use serde::{Deserialize, Deserializer};
use std::collections::BTreeMap;
use std::path::Path;

/// What a shape may ask for at most.
mod limits {
    /// Bytes of a shape file.
    pub(super) const FILE_BYTES: u64 = 1 << 16;
    /// Layers.
    pub(super) const LAYERS: u32 = 1024;
    /// Widths: embedding, feed-forward, heads times their size.
    pub(super) const WIDTH: u32 = 1 << 18;
    /// Experts of a layer, and of these the ones that a token goes through.
    pub(super) const EXPERTS: u32 = 1024;
    pub(super) const EXPERTS_USED: u32 = 64;
    /// Heads, and values of a head.
    pub(super) const HEADS: u32 = 1024;
    /// Context in tokens.
    pub(super) const CONTEXT: u32 = 1 << 24;
    /// Tokens of the vocabulary.
    pub(super) const VOCABULARY: u32 = 1 << 20;
    /// Keys of further metadata.
    pub(super) const METADATA: usize = 32;
    /// Bytes of a name.
    pub(super) const NAME_BYTES: usize = 64;
}

/// The shapes that come with the engine: name and text.
const BUILT_IN: &[(&str, &str)] = &[
    ("tiny", include_str!("shapes/tiny.toml")),
    ("tiny-phi3", include_str!("shapes/tiny-phi3.toml")),
    ("tiny-llama3", include_str!("shapes/tiny-llama3.toml")),
    ("tiny-qwen2", include_str!("shapes/tiny-qwen2.toml")),
    ("tiny-qwen3", include_str!("shapes/tiny-qwen3.toml")),
    ("tiny-qwen3moe", include_str!("shapes/tiny-qwen3moe.toml")),
    ("tiny-gemma", include_str!("shapes/tiny-gemma.toml")),
    ("tiny-gemma2", include_str!("shapes/tiny-gemma2.toml")),
    ("tiny-gemma3", include_str!("shapes/tiny-gemma3.toml")),
    ("tiny-smollm3", include_str!("shapes/tiny-smollm3.toml")),
    ("tiny-granite", include_str!("shapes/tiny-granite.toml")),
    ("smollm2-135m", include_str!("shapes/smollm2-135m.toml")),
    ("phi-4-mini", include_str!("shapes/phi-4-mini.toml")),
    ("phi-4", include_str!("shapes/phi-4.toml")),
];

/// Sizes of a model.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Shape {
    /// Name for people.
    pub name: String,
    /// Architecture, as `general.architecture` names it.
    #[serde(deserialize_with = "architecture")]
    pub architecture: &'static Arch,
    /// Layers.
    pub layers: u32,
    /// Width of the residual stream.
    pub embedding: u32,
    /// Width of the feed-forward part; in a mixture of experts that of one.
    pub feed_forward: u32,
    /// Query heads.
    pub heads: u32,
    /// Key and value heads.
    pub kv_heads: u32,
    /// Values of a head.
    pub head_dim: u32,
    /// Context length in tokens.
    pub context: u32,
    /// Tokens of the vocabulary.
    pub vocabulary: u32,
    /// Whether the output head is the embedding.
    pub tied_embeddings: bool,
    /// Added to the mean square in norms.
    pub norm_epsilon: f32,
    /// Sliding window in tokens, 0 for none; only phi3 files then still carry it.
    #[serde(default)]
    pub sliding_window: u32,
    /// Whether queries, keys and values have biases.
    #[serde(default)]
    pub biases: bool,
    /// Further metadata: numbers by their keys without the architecture in front.
    #[serde(default)]
    pub metadata: BTreeMap<String, f32>,
    /// The experts of a layer, for architectures that have them.
    pub experts: Option<Experts>,
    /// How text is split before byte pairs are merged: a value of `tokenizer.ggml.pre`.
    pub pre_tokenizer: String,
    /// Position encoding.
    pub rope: Rope,
}

/// The architecture of that name.
fn architecture<'de, D: Deserializer<'de>>(
    deserializer: D,
) -> std::result::Result<&'static Arch, D::Error> {
    let name = String::deserialize(deserializer)?;
    Arch::by_name(&name).ok_or_else(|| {
        let names: Vec<&str> = Arch::names().collect();
        let names = names.join(", ");
        D::Error::custom(format!(
            "architecture \"{name}\" is unknown: expected one of {names}"
        ))
    })
}

/// The mixture of experts of a shape.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Experts {
    /// Experts of a layer.
    pub count: u32,
    /// Experts that each token goes through.
    pub used: u32,
}

/// Rotary position embedding of a shape.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Rope {
    /// Leading values of a head that are rotated.
    pub dims: u32,
    /// Base of the frequencies.
    pub base: f32,
    /// Where present, the context up to which the short factors hold; the file then has short and long factors (phi3 only).
    pub original_context: Option<u32>,
    /// Where present, the slowest rotations are slower by this and the next ones by less (llama only), as in Llama 3.
    pub slowest: Option<f32>,
}

impl Shape {
    /// Names of the built-in shapes.
    pub fn names() -> impl Iterator<Item = &'static str> {
        BUILT_IN.iter().map(|(name, _)| *name)
    }

    /// A built-in shape by name, or the shape in a TOML file. Errors name the field, or the line and column.
    pub fn load(name_or_path: &str) -> Result<Shape> {
        if let Some((name, text)) = BUILT_IN.iter().find(|(name, _)| *name == name_or_path) {
            return Shape::parse(name, text);
        }
        if !name_or_path.ends_with(".toml") {
            let names: Vec<&str> = Shape::names().collect();
            return Err(Error::Synth(format!(
                "shape \"{name_or_path}\" is unknown: expected one of {}, or a file whose name ends in .toml",
                names.join(", ")
            )));
        }
        let path = Path::new(name_or_path);
        let io = |source| Error::Io {
            action: "read",
            path: path.to_path_buf(),
            source,
        };
        let bytes = std::fs::metadata(path).map_err(io)?.len();
        if bytes > limits::FILE_BYTES {
            return Err(Error::Synth(format!(
                "shape \"{name_or_path}\" has {bytes} bytes, expected a TOML file of {} at most",
                limits::FILE_BYTES
            )));
        }
        Shape::parse(name_or_path, &std::fs::read_to_string(path).map_err(io)?)
    }

    /// A shape out of TOML text; `origin` names it in errors.
    pub fn parse(origin: &str, text: &str) -> Result<Shape> {
        let refuse = |what: String| Error::Synth(format!("shape \"{origin}\"{what}"));
        let shape: Shape = toml::from_str(text).map_err(|error| {
            let at = error.span().map_or(0, |span| span.start.min(text.len()));
            let before = &text[..text.floor_char_boundary(at)];
            let line = before.matches('\n').count() + 1;
            let column = before.chars().rev().take_while(|&c| c != '\n').count() + 1;
            let message = error.message().replace('\n', " ");
            refuse(format!(", line {line}, column {column}: {message}"))
        })?;
        shape.check().map_err(|what| refuse(format!(": {what}")))?;
        Ok(shape)
    }

    /// Whether query, key and value are one matrix, gate and up another.
    pub(super) fn is_fused(&self) -> bool {
        self.architecture.name == "phi3"
    }

    /// Values of all query heads.
    pub fn q_dim(&self) -> u64 {
        u64::from(self.heads) * u64::from(self.head_dim)
    }

    /// Values of all key heads.
    pub fn kv_dim(&self) -> u64 {
        u64::from(self.kv_heads) * u64::from(self.head_dim)
    }

    fn check(&self) -> std::result::Result<(), String> {
        let within = |field: &str, value: u32, min: u32, max: u32| {
            if (min..=max).contains(&value) {
                Ok(())
            } else {
                Err(format!("\"{field}\" is {value}, expected {min} to {max}"))
            }
        };
        within("layers", self.layers, 1, limits::LAYERS)?;
        within("embedding", self.embedding, 32, limits::WIDTH)?;
        within("feed_forward", self.feed_forward, 32, limits::WIDTH)?;
        within("heads", self.heads, 1, limits::HEADS)?;
        within("kv_heads", self.kv_heads, 1, self.heads)?;
        within("head_dim", self.head_dim, 2, limits::HEADS)?;
        within("context", self.context, 1, limits::CONTEXT)?;
        within(
            "vocabulary",
            self.vocabulary,
            super::vocab::SIZE_MIN,
            limits::VOCABULARY,
        )?;
        within("rope.dims", self.rope.dims, 2, self.head_dim)?;
        if let Some(original) = self.rope.original_context {
            within("rope.original_context", original, 2, self.context)?;
        }
        if let Some(experts) = self.experts {
            within("experts.count", experts.count, 1, limits::EXPERTS)?;
            let used_max = experts.count.min(limits::EXPERTS_USED);
            within("experts.used", experts.used, 1, used_max)?;
        }
        let require = |ok: bool, what: String| if ok { Ok(()) } else { Err(what) };
        require(
            self.experts.is_some() == self.architecture.experts,
            format!(
                "[experts] is for architectures with experts, and \"{}\" is {} of them",
                self.architecture.name,
                if self.architecture.experts {
                    "one"
                } else {
                    "none"
                }
            ),
        )?;
        require(
            self.heads.is_multiple_of(self.kv_heads),
            format!(
                "{} heads cannot share {} kv_heads evenly",
                self.heads, self.kv_heads
            ),
        )?;
        require(
            self.rope.dims.is_multiple_of(2),
            format!(
                "\"rope.dims\" is {}, expected an even number",
                self.rope.dims
            ),
        )?;
        require(
            !self.is_fused() || self.q_dim() == u64::from(self.embedding),
            format!(
                "\"heads\" times \"head_dim\" is {}, but phi3 needs it to equal \"embedding\" {}",
                self.q_dim(),
                self.embedding
            ),
        )?;
        require(
            self.is_fused() || self.rope.original_context.is_none(),
            "\"rope.original_context\" is only known to phi3: remove it".to_string(),
        )?;
        require(
            self.architecture.name == "llama" || self.rope.slowest.is_none(),
            "\"rope.slowest\" is only known to llama: remove it".to_string(),
        )?;
        let positive = |x: f32| x.is_finite() && x > 0.0;
        require(
            self.rope.slowest.is_none_or(positive),
            "\"rope.slowest\" must be a positive number".to_string(),
        )?;
        let known = |key: &String| !key.is_empty() && key.len() <= limits::NAME_BYTES;
        require(
            self.metadata.len() <= limits::METADATA && self.metadata.keys().all(known),
            format!(
                "\"metadata\" must have at most {} keys of 1 to {} bytes",
                limits::METADATA,
                limits::NAME_BYTES
            ),
        )?;
        require(
            positive(self.rope.base) && positive(self.norm_epsilon),
            "\"rope.base\" and \"norm_epsilon\" must be positive numbers".to_string(),
        )?;
        let name = self.name.to_lowercase();
        require(
            !name.contains("phi3") && !name.contains("phi-3"),
            format!(
                "\"name\" is \"{}\", by which llama.cpp expects the vocabulary of Phi-3: choose another name",
                self.name
            ),
        )?;
        let named = |text: &str| !text.is_empty() && text.len() <= limits::NAME_BYTES;
        require(
            named(&self.name) && named(&self.pre_tokenizer),
            format!(
                "\"name\" and \"pre_tokenizer\" must have 1 to {} bytes",
                limits::NAME_BYTES
            ),
        )
    }
}
