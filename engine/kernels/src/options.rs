//! What kernels can be chosen by.

use serde::{Deserialize, Serialize};
use std::fmt;

/// Instruction sets that kernels exist for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Isa {
    /// The best this CPU has.
    Auto,
    /// Portable code, no vector instructions asked for.
    Scalar,
    /// AVX2, FMA and F16C.
    Avx2,
    /// AVX-512 F, BW, VL and VNNI.
    Avx512,
}

impl fmt::Display for Isa {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&format!("{self:?}").to_lowercase())
    }
}

/// How weights are multiplied with one token.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Kernel {
    /// By products of bytes, for all formats.
    Dot,
    /// By tables of sums, for formats that have so few bits.
    Lut,
}

/// Whether panels are read side by side.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum SideBySide {
    /// Where it was measured to be faster.
    Auto,
    /// Always.
    On,
    /// Never.
    Off,
}

/// Storage types of the KV cache.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum KvType {
    /// Half precision, as llama.cpp's default.
    F16,
    /// 8 bits a value, with a scale in half precision for 32 values of a head, as llama.cpp's `q8_0`.
    Q8_0,
}

impl fmt::Display for KvType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&format!("{self:?}").to_lowercase())
    }
}
