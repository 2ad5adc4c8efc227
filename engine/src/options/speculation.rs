//! Options of speculative decoding.

use crate::error::{Error, Result};
use serde::de::{self, Visitor};
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use std::fmt;
use std::path::PathBuf;

/// Longest draft.
pub const DRAFT_TOKENS_MAX: usize = 64;

/// Ways to draft.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Method {
    /// None: plain decoding, to compare with.
    None,
    /// A copy of the model in fewer bits, [`Speculation::draft_quant`].
    Qcsd,
    /// The model itself without some of its layers, [`Speculation::skip_layers`].
    LayerSkip,
    /// Another model with the same vocabulary, [`Speculation::draft_model`].
    DraftModel,
    /// What followed the last tokens where they last stood before.
    PromptLookup,
    /// What followed the longest ending that stands earlier in the text.
    Suffix,
    /// First a suffix, and where there is none a model in fewer bits or another model.
    Cascade,
}

/// Length of a draft.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DraftTokens {
    /// Always as many, where the drafter has a guess.
    Fixed(usize),
    /// As many as pay, by measured acceptance and times, down to none.
    Auto,
}

impl Serialize for DraftTokens {
    fn serialize<S: Serializer>(&self, to: S) -> std::result::Result<S::Ok, S::Error> {
        match self {
            DraftTokens::Fixed(n) => to.serialize_u64(*n as u64),
            DraftTokens::Auto => to.serialize_str("auto"),
        }
    }
}

impl<'de> Deserialize<'de> for DraftTokens {
    fn deserialize<D: Deserializer<'de>>(from: D) -> std::result::Result<DraftTokens, D::Error> {
        struct NumberOrAuto;

        impl Visitor<'_> for NumberOrAuto {
            type Value = DraftTokens;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "\"auto\" or a number from 1 to {DRAFT_TOKENS_MAX}")
            }

            fn visit_str<E: de::Error>(self, text: &str) -> std::result::Result<DraftTokens, E> {
                match text {
                    "auto" => Ok(DraftTokens::Auto),
                    _ => Err(E::invalid_value(de::Unexpected::Str(text), &self)),
                }
            }

            fn visit_u64<E: de::Error>(self, n: u64) -> std::result::Result<DraftTokens, E> {
                match usize::try_from(n) {
                    Ok(n @ 1..=DRAFT_TOKENS_MAX) => Ok(DraftTokens::Fixed(n)),
                    _ => Err(E::invalid_value(de::Unexpected::Unsigned(n), &self)),
                }
            }

            fn visit_i64<E: de::Error>(self, n: i64) -> std::result::Result<DraftTokens, E> {
                match u64::try_from(n) {
                    Ok(n) => self.visit_u64(n),
                    Err(_) => Err(E::invalid_value(de::Unexpected::Signed(n), &self)),
                }
            }
        }

        from.deserialize_any(NumberOrAuto)
    }
}

/// `[engine.speculation]`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Speculation {
    /// How tokens are drafted.
    pub method: Method,
    /// How many at a time; with sampling a number.
    #[serde(default = "auto")]
    pub draft_tokens: DraftTokens,
    /// Format of the copy that `qcsd` drafts with, and `cascade` where the text has no guess, unless it has a `draft_model` in its
    /// place; or `top`, the four top bits of the model's own codes of six and eight bits, which take no memory of their own.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub draft_quant: Option<String>,
    /// File of the model that `draft-model` drafts with, or `cascade` in place of `draft_quant`, in its own formats whatever
    /// `engine.quant` makes of the target.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub draft_model: Option<PathBuf>,
    /// Tokens that a model drafts from, the first ones of the vocabulary: what is merged early is frequent, and the rest of the
    /// output's matrix is not read (after Zhao et al. 2025, FR-Spec). 0 for all.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub draft_vocab: usize,
    /// Layers that `layer-skip` leaves out, from 0; `engine skip-layers` finds them.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub skip_layers: Vec<usize>,
    /// Tokens that must have stood in the text before for `prompt-lookup` and `suffix` to guess what follows.
    #[serde(default = "match_tokens")]
    pub match_tokens: usize,
}

fn auto() -> DraftTokens {
    DraftTokens::Auto
}

fn is_zero(n: &usize) -> bool {
    *n == 0
}

fn match_tokens() -> usize {
    2
}

/// Longest ending that prompt lookup looks for.
pub const LONGEST_MATCH: usize = 8;

/// An error about a key of `[engine.speculation]`, `speculation.KEY`.
pub(crate) fn refused(option: &'static str, what: String) -> Error {
    Error::Option { option, what }
}

impl Speculation {
    /// Whether a model drafts with the top bits of its own codes.
    pub fn drafts_with_top_bits(&self) -> bool {
        let quant = self.draft_quant.as_deref().unwrap_or_default();
        quant.eq_ignore_ascii_case("top") && matches!(self.method, Method::Qcsd | Method::Cascade)
    }

    /// Whether anything is drafted.
    pub fn drafts(&self) -> bool {
        self.method != Method::None
    }

    /// Refuses to draw tokens with temperature `temp` where the text would be another one each time: what is drawn hangs on how
    /// many tokens were drafted before, and with `auto` that hangs on times.
    ///
    /// # Errors
    /// As said.
    pub fn check_sampling(&self, temp: f32) -> Result<()> {
        let repeats = temp == 0.0 || !self.drafts() || self.draft_tokens != DraftTokens::Auto;
        match repeats {
            true => Ok(()),
            false => Err(refused(
                "speculation.draft_tokens",
                "\"auto\" with sampling: lengths of drafts hang on times, and so would the text that is drawn: set it to a number, or the temperature to 0".into(),
            )),
        }
    }

    /// Refuses what does not fit together. What a method has no use for is permitted, so that a scenario can sweep over
    /// methods.
    ///
    /// # Errors
    /// [`Error::Option`] names what is missing or out of its range.
    pub fn check(&self) -> Result<()> {
        let (quant, model) = (self.draft_quant.is_some(), self.draft_model.is_some());
        let skips = !self.skip_layers.is_empty();
        let needs = match self.method {
            Method::Qcsd => (quant, "draft_quant, such as \"Q4_0\""),
            Method::DraftModel => (model, "draft_model, the file of a smaller model"),
            Method::LayerSkip => (skips, "skip_layers, a list of layers"),
            Method::Cascade => (
                quant != model,
                "either draft_quant or draft_model, and not both",
            ),
            Method::None | Method::PromptLookup | Method::Suffix => (true, ""),
        };
        if !needs.0 {
            let what = format!("the method needs {}", needs.1);
            return Err(refused("speculation.method", what));
        }
        match (1..=LONGEST_MATCH).contains(&self.match_tokens) {
            true => Ok(()),
            false => Err(refused(
                "speculation.match_tokens",
                format!("{} is not within 1 to {LONGEST_MATCH}", self.match_tokens),
            )),
        }
    }
}
