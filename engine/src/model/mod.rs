//! Decoder-only models: their hyperparameters, their weights, and the one forward pass that serves all architectures.

mod arch;
mod attention;
mod buffers;
mod by_channels;
mod config;
mod experts;
mod forward;
mod observe;
mod pack;
mod packed;
mod sparse;
mod weights;

pub use arch::{Arch, RopeStyle, Windows};
pub(crate) use buffers::{Buffers, HEAD_TOKENS};
pub use by_channels::{ByChannels, Encoded};
pub use config::{Config, Experts, LayerConfig, Rope};
pub(crate) use forward::{Pass, Wanted};
pub use packed::Placed;
pub(crate) use packed::check_packed_cache;
pub use weights::Model;
pub(crate) use weights::check_kernel;
