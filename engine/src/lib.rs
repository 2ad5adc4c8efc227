//! CPU inference for decoder-only language models in GGUF files.
//!
//! The library never prints, never reads the environment, does no file I/O after a model is loaded and
//! allocates nothing per token. A module imports only modules that stand above it in this list.

pub mod error;
pub mod gguf;
pub mod kernel;
pub mod kv;
pub mod matrix;
pub mod mmap;
pub mod model;
pub mod options;
pub mod pool;
pub mod quant;
pub mod session;
pub mod simd;
pub mod stage;
pub mod synth;
pub mod tokenizer;
pub mod topology;

pub use error::{Error, Result};
pub use options::Options;
