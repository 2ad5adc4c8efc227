//! Decoder-only models: their hyperparameters, their weights, and the one forward pass that serves all architectures.

mod attention;
mod config;
mod forward;
mod weights;

pub use config::{Arch, Config, LayerConfig, Rope, RopeStyle, Windows};
pub(crate) use forward::{Buffers, HEAD_TOKENS, Pass};
pub use weights::Model;
