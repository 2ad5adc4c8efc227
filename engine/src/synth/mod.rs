//! Writes GGUF files with seeded random weights: the same bytes per token as a real model of that shape, and a working
//! vocabulary, for measuring where no real model is at hand.

mod plan;
mod shape;
mod vocab;
mod weights;

#[cfg(test)]
mod tests;

pub use shape::{Experts, Rope, Shape};

use crate::error::{Error, Result};
use crate::gguf::limits::ALIGNMENT_DEFAULT;
use crate::gguf::write::create;
use crate::quant::{FORMATS, FormatInfo};
use crate::rng::Rng;
use plan::{Plan, Planned};

use sha2::{Digest, Sha256};
use std::collections::{HashMap, HashSet};
use std::io::Write;
use std::path::Path;
use weights::{Fill, Pool};

/// Bytes written at a time.
const CHUNK_BYTES: usize = 4 << 20;

/// Values of a pool that a file is recognised by.
const SEEN_VALUES: u64 = 8192;

/// Hears the bytes done and the bytes in all; an error ends the writing.
pub type Progress<'a> = &'a mut dyn FnMut(u64, u64) -> std::io::Result<()>;

/// Bytes of a file that [`synth`] would write with the same arguments.
///
/// # Errors
/// When `quant` is no format of the engine, or the sizes overflow.
pub fn file_bytes(shape: &Shape, quant: &str, seed: u64) -> Result<u64> {
    Ok(plan::plan(shape, format(quant)?, seed)?.total_bytes)
}

/// SHA-256 of what tells a file that [`synth`] would write from all others: its head, its small tensors, and of every pool
/// that matrices are filled from the first values, as the encoders of this program make them. A file that another program
/// wrote under the same arguments has another one if its encoders gave other bytes there.
///
/// # Errors
/// As [`file_bytes`].
pub fn fingerprint(shape: &Shape, quant: &str, seed: u64) -> Result<[u8; 32]> {
    let plan = plan::plan(shape, format(quant)?, seed)?;
    let mut hash = Sha256::new();
    hash.update(&plan.head);
    let mut seen = HashSet::new();
    for tensor in &plan.tensors {
        match tensor.fill {
            Fill::Bell(std) => {
                if seen.insert((tensor.format.id, tensor.dims[0])) {
                    hash.update(pool(tensor, std, seed, SEEN_VALUES).bytes());
                }
            }
            _ => {
                let mut rng = Rng::of(seed, &tensor.name);
                hash.update(weights::small(&tensor.fill, tensor.n_values(), &mut rng));
            }
        }
    }
    Ok(hash.finalize().into())
}

/// Writes a model of `shape` to `out`, its matrices in the format named `quant`, a stand-in where rows are not whole
/// blocks. The same arguments give the same bytes on every machine. `progress`
/// hears of every chunk.
///
/// The file is written beside `out` with `.part` behind its name, and renamed when complete. Memory stays below 100 MB.
///
/// # Errors
/// When `out` exists, its folder is missing or read-only, the disk has too little space, another program is writing the
/// same file, `progress` says so, or the format is unknown. The unfinished file is then removed.
pub fn synth(
    shape: &Shape,
    quant: &str,
    seed: u64,
    out: &Path,
    progress: Progress<'_>,
) -> Result<()> {
    let plan = plan::plan(shape, format(quant)?, seed)?;
    create(out, plan.total_bytes, |file| {
        write(&plan, seed, file, progress)
    })
}

/// The bytes of the file that [`synth`] would write, for models small enough to be held in memory.
///
/// # Errors
/// As [`file_bytes`].
pub fn in_memory(shape: &Shape, quant: &str, seed: u64) -> Result<Vec<u8>> {
    let plan = plan::plan(shape, format(quant)?, seed)?;
    let mut bytes = Vec::new();
    write(&plan, seed, &mut bytes, &mut |_, _| Ok(()))
        .map_err(|error| Error::Synth(error.to_string()))?;
    Ok(bytes)
}

fn format(quant: &str) -> Result<&'static FormatInfo> {
    FormatInfo::by_name(quant).ok_or_else(|| {
        let names: Vec<&str> = FORMATS.iter().map(|format| format.name).collect();
        Error::Synth(format!(
            "format \"{quant}\" is unknown: expected one of {}",
            names.join(", ")
        ))
    })
}

/// Writes a whole file, chunk by chunk.
fn write(
    plan: &Plan,
    seed: u64,
    mut out: impl Write,
    progress: Progress<'_>,
) -> std::io::Result<()> {
    let mut done = 0;
    let mut put = |bytes: &[u8]| {
        out.write_all(bytes)?;
        done += bytes.len() as u64;
        progress(done, plan.total_bytes)
    };
    put(&plan.head)?;
    let mut pools = HashMap::new();
    let mut chunk = Vec::new();
    for tensor in &plan.tensors {
        let mut rng = Rng::of(seed, &tensor.name);
        match tensor.fill {
            Fill::Bell(std) => {
                let n_values = tensor.n_values();
                let pool = pools
                    .entry((tensor.format.id, tensor.dims[0], n_values))
                    .or_insert_with(|| pool(tensor, std, seed, n_values));
                write_matrix(tensor, pool, &mut rng, &mut chunk, &mut put)?;
            }
            _ => put(&weights::small(&tensor.fill, tensor.n_values(), &mut rng))?,
        }
        let padding = tensor.bytes.next_multiple_of(ALIGNMENT_DEFAULT) - tensor.bytes;
        put(&[0; ALIGNMENT_DEFAULT as usize][..padding as usize])?;
    }
    out.flush()
}

/// What a matrix is filled from, for so many values of it; that for fewer is the beginning of that for more.
fn pool(tensor: &Planned, std: f32, seed: u64, n_values: u64) -> Pool {
    let stream = format!("pool {} {}", tensor.format.name, tensor.dims[0]);
    Pool::new(tensor.format, n_values, std, &mut Rng::of(seed, &stream))
}

fn write_matrix(
    tensor: &Planned,
    pool: &Pool,
    rng: &mut Rng,
    chunk: &mut Vec<u8>,
    put: &mut dyn FnMut(&[u8]) -> std::io::Result<()>,
) -> std::io::Result<()> {
    let chunk_bytes = CHUNK_BYTES / pool.unit_bytes() * pool.unit_bytes();
    let mut left = tensor.bytes;
    while left > 0 {
        let bytes = left.min(chunk_bytes as u64);
        chunk.resize(bytes as usize, 0);
        pool.fill(chunk, rng);
        put(chunk)?;
        left -= bytes;
    }
    Ok(())
}
