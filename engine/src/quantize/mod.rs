//! Writes a model file again with its matrices in other formats.
//!
//! Matrices (tensors of two and more dimensions, but for norms, routers of experts and position tables) take the format
//! asked for, or the one that takes its place where rows are not whole blocks. The matrix of the output, which is that of
//! the tokens where the file has no other, keeps at least Q6_K, as with llama.cpp. Rules by name come before both.
//! Everything else is copied.

mod importance;

pub use importance::{Importance, Observer};

use crate::error::{Error, Result};
use crate::gguf::limits::ALIGNMENT_DEFAULT;
use crate::gguf::write::{self, Metadata};
use crate::gguf::{Gguf, Tensor};
use crate::quant::{FORMATS, FormatInfo};
use regex::Regex;
use std::io::Write;
use std::path::Path;

/// Values that are encoded between two writes, about.
const CHUNK_VALUES: usize = 4 << 20;

/// Format of the output's matrix at least.
const OUTPUT_FORMAT: &str = "Q6_K";

/// Parts of the names of matrices that stay as they are.
const KEPT: &[&str] = &[
    "_norm.weight",
    "ffn_gate_inp.weight",
    "position_embd.weight",
    "token_types.weight",
];

/// What a file is to become.
#[derive(Debug)]
pub struct Recipe {
    /// Format of the matrices.
    pub to: &'static FormatInfo,
    /// Formats of the tensors whose names an expression finds; the first that does counts.
    pub rules: Vec<(Regex, &'static FormatInfo)>,
    /// What the columns of the matrices are multiplied with.
    pub importance: Option<Importance>,
}

/// A format by its name, in any case.
///
/// # Errors
/// When there is none.
pub fn format(name: &str) -> Result<&'static FormatInfo> {
    FormatInfo::by_name(name).ok_or_else(|| {
        let names: Vec<&str> = FORMATS.iter().map(|format| format.name).collect();
        Error::Input(format!(
            "format \"{name}\" is unknown: expected one of {}",
            names.join(", ")
        ))
    })
}

impl Recipe {
    /// The format that `tensor` of `file` takes; `None` where it stays as it is.
    fn format_of(&self, file: &Gguf, tensor: &Tensor) -> Result<Option<&'static FormatInfo>> {
        let name = tensor.name.as_str();
        let row_len = tensor.dims[0];
        if let Some((rule, format)) = self.rules.iter().find(|(rule, _)| rule.is_match(name)) {
            if !row_len.is_multiple_of(format.block_len as u64) {
                return Err(Error::Input(format!(
                    "tensor \"{name}\" has rows of {row_len} values, which are no whole blocks of {} ({} each), as rule \"{rule}\" wants: choose another format for it",
                    format.name, format.block_len
                )));
            }
            return Ok(Some(*format));
        }
        if tensor.dims.len() < 2
            || !name.ends_with(".weight")
            || KEPT.iter().any(|k| name.contains(k))
        {
            return Ok(None);
        }
        let output = match file.tensor("output.weight") {
            Some(_) => "output.weight",
            None => "token_embd.weight",
        };
        let least = format(OUTPUT_FORMAT)?;
        let bits = |f: &FormatInfo| f.block_bytes * least.block_len / f.block_len;
        let wanted = match name == output && bits(self.to) < bits(least) {
            true => least,
            false => self.to,
        };
        Ok(Some(wanted.for_rows(row_len)))
    }
}

/// A tensor of the file to be written.
#[derive(Debug)]
pub struct Planned {
    /// The tensor as it is.
    pub from: Tensor,
    /// Name of the type it takes.
    pub format: &'static str,
    /// Bytes it takes.
    pub bytes: u64,
    /// How it is encoded; `None` where it is copied.
    encode: Option<&'static FormatInfo>,
}

/// The tensors of the file that [`quantize`] would write, in order.
///
/// # Errors
/// When a matrix is in a format that the engine cannot read, or a rule asks for what is impossible.
pub fn plan(file: &Gguf, recipe: &Recipe) -> Result<Vec<Planned>> {
    let planned = |from: &Tensor| {
        let format = recipe
            .format_of(file, from)?
            .filter(|f| f.id != from.format_id);
        let Some(format) = format else {
            return Ok(Planned {
                from: from.clone(),
                format: from.format().name,
                bytes: from.bytes,
                encode: None,
            });
        };
        if FormatInfo::by_id(from.format_id).is_none() {
            return Err(Error::Input(format!(
                "tensor \"{}\" is stored as {}, which cannot be decoded here: start from a file in F16, BF16 or F32",
                from.name,
                from.format().name
            )));
        }
        if let Some(importance) = &recipe.importance {
            importance.check(from)?;
        }
        let rows = from.n_values() / from.dims[0];
        Ok(Planned {
            from: from.clone(),
            format: format.name,
            // Smaller than what memory maps: no type has more than 32 bits a value.
            bytes: rows * format.row_bytes(from.dims[0] as usize) as u64,
            encode: Some(format),
        })
    };
    file.tensors().iter().map(planned).collect()
}

/// Writes `file` as `recipe` says to `out`, on so many threads. `progress` hears the bytes of `file` done and in all. Memory
/// stays below 100 MB for each thread.
///
/// # Errors
/// As [`plan`], and when `out` exists or cannot be written, or a value is not finite. Nothing is left behind then.
pub fn quantize(
    file: &Gguf,
    recipe: &Recipe,
    out: &Path,
    threads: usize,
    progress: &mut dyn FnMut(u64, u64),
) -> Result<Vec<Planned>> {
    let planned = plan(file, recipe)?;
    let described = planned.iter().map(|p| {
        (
            p.from.name.as_str(),
            p.from.dims.as_slice(),
            type_id(p),
            p.bytes,
        )
    });
    let (head, total) = write::head(&metadata(file, recipe), described)
        .ok_or_else(|| Error::Input("the sizes of the tensors overflow".into()))?;
    let all: u64 = planned.iter().map(|p| p.from.bytes).sum();
    let mut bad = None;
    let written = write::create(out, total, |mut file_out| {
        file_out.write_all(&head)?;
        let mut done = 0;
        for p in &planned {
            if let Err(error) = put(file, p, recipe, threads, &mut file_out)? {
                bad = Some(error);
                return Err(std::io::Error::other("not finite"));
            }
            let padding = p.bytes.next_multiple_of(ALIGNMENT_DEFAULT) - p.bytes;
            file_out.write_all(&[0; ALIGNMENT_DEFAULT as usize][..padding as usize])?;
            file.drop_pages(&p.from);
            done += p.from.bytes;
            progress(done, all);
        }
        Ok(())
    });
    match bad {
        Some(error) => Err(error),
        None => written.map(|()| planned),
    }
}

fn type_id(p: &Planned) -> u32 {
    p.encode.map_or(p.from.format_id, |f| f.id)
}

/// The metadata of `file`, with what says how it is stored made true.
fn metadata(file: &Gguf, recipe: &Recipe) -> Metadata {
    const STORAGE: &[&str] = &[
        "general.file_type",
        "general.quantization_version",
        "general.alignment",
    ];
    let mut m = Metadata::default();
    m.copy(file, |key| {
        STORAGE.contains(&key) || key.starts_with("split.")
    });
    m.u32("general.file_type", recipe.to.file_type);
    m.u32("general.quantization_version", 2);
    m
}

/// Writes one tensor; the inner error is one of its values.
fn put(
    file: &Gguf,
    p: &Planned,
    recipe: &Recipe,
    threads: usize,
    out: &mut dyn Write,
) -> std::io::Result<Result<()>> {
    let data = file.data(&p.from);
    let Some(to) = p.encode else {
        return out.write_all(data).map(Ok);
    };
    let from = FormatInfo::by_id(p.from.format_id).expect("planned");
    let cols = p.from.dims[0] as usize;
    let rows = p.from.n_values() as usize / cols;
    let per_expert = p.from.dims[1] as usize;
    let columns = recipe
        .importance
        .as_ref()
        .and_then(|i| i.columns(&p.from.name));
    let step = (CHUNK_VALUES / cols).max(1);
    let mut encoded = vec![0; step.min(rows) * to.row_bytes(cols)];
    for first in (0..rows).step_by(step) {
        let count = step.min(rows - first);
        let encoded = &mut encoded[..count * to.row_bytes(cols)];
        let share = count.div_ceil(threads.max(1));
        let finite = std::thread::scope(|scope| {
            let parts = encoded.chunks_mut(share * to.row_bytes(cols)).enumerate();
            let workers: Vec<_> = parts
                .map(|(i, part)| {
                    scope.spawn(move || {
                        let mut values = vec![0.0; cols];
                        part.chunks_exact_mut(to.row_bytes(cols))
                            .enumerate()
                            .all(|(r, bytes)| {
                                let row = first + i * share + r;
                                let row_bytes = from.row_bytes(cols);
                                from.dequantize(&data[row * row_bytes..][..row_bytes], &mut values);
                                let expert = row / per_expert * cols;
                                let importance = columns.and_then(|c| c.get(expert..expert + cols));
                                to.quantize(&values, importance.unwrap_or(&[]), bytes);
                                values.iter().all(|v| v.is_finite())
                            })
                    })
                })
                .collect();
            workers.into_iter().all(|w| w.join().unwrap_or(false))
        });
        if !finite {
            return Ok(Err(Error::Input(format!(
                "tensor \"{}\" holds values that are not finite: the file is damaged",
                p.from.name
            ))));
        }
        out.write_all(encoded)?;
    }
    Ok(Ok(()))
}

#[cfg(test)]
mod tests;
