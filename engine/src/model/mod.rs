//! Decoder-only models: their hyperparameters, their weights, and the one forward pass that serves all architectures.

mod attention;
mod buffers;
mod config;
mod forward;
mod observe;
mod sparse;
mod weights;

pub(crate) use buffers::{Buffers, HEAD_TOKENS};
pub use config::{Arch, Config, LayerConfig, Rope, RopeStyle, Windows};
pub(crate) use forward::{Pass, Wanted};
pub use weights::Model;
