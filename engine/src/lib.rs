//! CPU inference for decoder-only language models in GGUF files.
//!
//! The library never prints, never reads the environment, does no file I/O after a model is loaded and
//! allocates nothing per token. A module imports only modules that stand above it in this list.

pub mod error;

pub mod file;

pub mod options;

pub mod stage;

pub mod topology;

mod rng;

pub mod mmap;

pub mod gguf;

pub mod quantize;

pub mod kernel;

pub mod pool;

pub mod probe;

pub mod matrix;

pub mod kv;

pub mod sparsity;

pub mod model;

pub mod session;

pub mod tokenizer;

pub mod quality;

pub mod chat;

pub mod sample;

pub mod conversation;

pub mod speculate;

pub mod check;

pub mod synth;

pub use error::{Error, Result};
pub use kernels::{quant, simd};
pub use options::Options;
