//! The hot loops of `engine`, by weight format and instruction set.
//!
//! A crate of its own so that it is compiled once, not again with every change and test of the engine. A module imports only
//! modules that stand above it in this list.

pub mod options;

pub mod simd;

pub mod quant;

pub mod kernel;
