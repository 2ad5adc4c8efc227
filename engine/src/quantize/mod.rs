//! The matrices of a model file in other formats: written as a file, or made as the model is loaded.
//!
//! Matrices (tensors of two and more dimensions, but for norms, routers of experts and position tables) take the format
//! asked for, or the one that takes its place where rows are not whole blocks. The matrix of the output, which is that of
//! the tokens where the file has no other, keeps at least Q6_K, as with llama.cpp. Rules by name come before both.
//! Everything else stays as it is.

mod importance;
mod mixed;

pub use importance::{Importance, Observer};
pub use mixed::{Choice, Group, Mixed};

use mixed::kind;

use crate::error::{Error, Result};
use crate::gguf::limits::ALIGNMENT_DEFAULT;
use crate::gguf::write::{self, Metadata};
use crate::gguf::{Gguf, Tensor};
use crate::options::{MIXED, Options};
use crate::quant::{FORMATS, FormatInfo};
use regex::Regex;
use std::collections::{BTreeMap, HashSet};
use std::io::Write;
use std::ops::Range;
use std::path::Path;

/// Values that are encoded between two writes, about.
const CHUNK_VALUES: usize = 4 << 20;

/// Format of the output's matrix at least.
const OUTPUT_FORMAT: &str = "Q6_K";

/// Most bits a weight that formats may be mixed with.
const BITS_MAX: f64 = 32.0;

/// Parts of the names of matrices that stay as they are.
const KEPT: &[&str] = &[
    "_norm.weight",
    "ffn_gate_inp.weight",
    "position_embd.weight",
    "token_types.weight",
];

/// Names of matrices as an expression, and the format that they take.
pub type Rule = (Regex, &'static FormatInfo);

/// What a file is to become.
#[derive(Debug, Default)]
pub struct Recipe {
    /// Format of the matrices that no rule names; `None` for what they are.
    pub to: Option<&'static FormatInfo>,
    /// Formats of the matrices whose names an expression finds; the first that does counts.
    pub rules: Vec<Rule>,
    /// What the columns of the matrices are multiplied with.
    pub importance: Option<Importance>,
}

/// A format by its name, in any case.
///
/// # Errors
/// When there is none.
pub fn format(name: &str) -> Result<&'static FormatInfo> {
    FormatInfo::by_name(name).ok_or_else(|| {
        Error::Input(format!(
            "format \"{name}\" is unknown: expected one of {}",
            names()
        ))
    })
}

fn names() -> String {
    let names: Vec<&str> = FORMATS.iter().map(|format| format.name).collect();
    names.join(", ")
}

/// Refuses options about formats that no model could satisfy.
///
/// # Errors
/// [`Error::Option`] for an unknown name, and for `mixed` without bits or a plan.
pub fn check(options: &Options) -> Result<()> {
    check_format(options, "quant", "")?;
    if options.is_mixed() && options.quant_plan.as_os_str().is_empty() {
        let what = "formats are mixed by a plan: make one with \"engine plan\" and name its file";
        return Err(Error::Option {
            option: "quant_plan",
            what: what.into(),
        });
    }
    Ok(())
}

/// Refuses a format that there is not, as the fault of `option`, which takes the words of `others` too.
///
/// # Errors
/// [`Error::Option`] for an unknown name, and for `mixed` without bits.
pub(crate) fn check_format(options: &Options, option: &'static str, others: &str) -> Result<()> {
    if let Some(bits) = options.mixed_bits() {
        return bits_of(option, bits).map(drop);
    }
    if options.is_native() || FormatInfo::by_name(&options.quant).is_some() {
        return Ok(());
    }
    let what = format!(
        "\"{}\" is unknown: expected one of {others}native, {MIXED}@BITS, {}",
        options.quant,
        names()
    );
    Err(Error::Option { option, what })
}

/// The bits a weight of `mixed@4.5`.
fn bits_of(option: &'static str, text: &str) -> Result<f64> {
    let bits = text.parse().ok();
    bits.filter(|&bits| bits > 0.0 && bits <= BITS_MAX)
        .ok_or_else(|| Error::Option {
            option,
            what: format!(
                "\"{MIXED}@{text}\": expected {MIXED}@BITS, with above 0 and at most {BITS_MAX} bits a weight, such as {MIXED}@4.5"
            ),
        })
}

impl Recipe {
    /// What `options` ask to make of `file`.
    ///
    /// # Errors
    /// As [`check`], and when the plan or the importance matrix cannot be read or belongs to another model.
    pub fn from_options(options: &Options, file: &Gguf) -> Result<Recipe> {
        check(options)?;
        let imatrix = Some(&options.quant_imatrix).filter(|path| !path.as_os_str().is_empty());
        let importance = imatrix.map(|path| {
            let opened = Importance::open(path);
            opened.map_err(|e| e.of_option("quant_imatrix"))
        });
        let importance = importance.transpose()?;
        let mut rules = Vec::new();
        if let Some(bits) = options.mixed_bits() {
            let plan = Mixed::open(&options.quant_plan).map_err(|e| e.of_option("quant_plan"))?;
            if !plan.imatrix.is_empty() && importance.is_none() {
                let what = format!(
                    "the plan was measured with the importance matrix \"{}\": name its file",
                    plan.imatrix
                );
                return Err(Error::Option {
                    option: "quant_imatrix",
                    what,
                });
            }
            rules = plan.rules(file, bits_of("quant", bits)?)?;
        }
        Ok(Recipe {
            to: FormatInfo::by_name(&options.quant),
            rules,
            importance,
        })
    }

    /// Refuses rules and an importance matrix that nothing of `file` comes under.
    fn check(&self, file: &Gguf) -> Result<()> {
        let matrices = || file.tensors().iter().filter(|t| is_matrix(t));
        let idle = |(rule, _): &&Rule| !matrices().any(|t| rule.is_match(&t.name));
        if let Some((rule, format)) = self.rules.iter().find(idle) {
            return Err(Error::Input(format!(
                "no matrix of the model has a name that \"{rule}\" finds, as rule \"{rule}={}\" wants: \"engine info --tensors\" lists the names",
                format.name
            )));
        }
        let seen = |i: &Importance| matrices().any(|t| i.columns(&t.name).is_some());
        if self.importance.as_ref().is_some_and(|i| !seen(i)) {
            return Err(Error::Input(
                "the importance matrix has none of the model's matrices: it was made with another model".into(),
            ));
        }
        Ok(())
    }

    /// The format that `tensor` of `file` takes; `None` where it stays as it is.
    fn format_of(&self, file: &Gguf, tensor: &Tensor) -> Result<Option<&'static FormatInfo>> {
        if !is_matrix(tensor) {
            return Ok(None);
        }
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
        let Some(to) = self.to else {
            return Ok(None);
        };
        let least = format(OUTPUT_FORMAT)?;
        let bits = |f: &FormatInfo| f.block_bytes * least.block_len / f.block_len;
        let wanted = match name == output(file) && bits(to) < bits(least) {
            true => least,
            false => to,
        };
        Ok(Some(wanted.for_rows(row_len)))
    }
}

/// Whether a tensor is a matrix that may take another format.
fn is_matrix(tensor: &Tensor) -> bool {
    tensor.dims.len() >= 2
        && tensor.name.ends_with(".weight")
        && !KEPT.iter().any(|kept| tensor.name.contains(kept))
}

/// Name of the matrix that makes the logits.
fn output(file: &Gguf) -> &'static str {
    match file.tensor("output.weight") {
        Some(_) => "output.weight",
        None => "token_embd.weight",
    }
}

/// The matrices that every token is multiplied with: all but the embedding, unless that makes the logits too.
fn multiplied(file: &Gguf) -> impl Iterator<Item = &Tensor> {
    let output = output(file);
    let tensors = file.tensors().iter().filter(|t| is_matrix(t));
    tensors.filter(move |t| t.name != "token_embd.weight" || t.name == output)
}

/// Those `planned` for `file` that every token is multiplied with, all experts included.
fn products<'a>(file: &Gguf, planned: &'a [Planned]) -> impl Iterator<Item = &'a Planned> {
    let names: HashSet<String> = multiplied(file).map(|t| t.name.clone()).collect();
    planned.iter().filter(move |p| names.contains(&p.from.name))
}

/// Their formats.
pub(crate) fn product_formats(
    file: &Gguf,
    planned: &[Planned],
) -> impl Iterator<Item = &'static FormatInfo> {
    products(file, planned).filter_map(Planned::engine_format)
}

/// Matrices of one kind that have the same format.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Matrices {
    /// `ffn_down`, `output`.
    pub kind: String,
    /// Name of the format.
    pub format: &'static str,
    /// How many they are.
    pub count: usize,
    /// Bytes of all of them.
    pub bytes: u64,
}

/// The matrices that every token is multiplied with, all experts included, among those `planned` for `file`, by kind and
/// format.
pub fn matrices(file: &Gguf, planned: &[Planned]) -> Vec<Matrices> {
    let mut all: BTreeMap<(&str, &str), Matrices> = BTreeMap::new();
    for p in products(file, planned) {
        let (_, kind) = kind(&p.from.name);
        let matrices = all.entry((kind, p.format)).or_insert_with(|| Matrices {
            kind: kind.to_owned(),
            format: p.format,
            count: 0,
            bytes: 0,
        });
        matrices.count += 1;
        matrices.bytes += p.bytes;
    }
    all.into_values().collect()
}

/// A tensor of a file, and what it becomes.
#[derive(Debug)]
pub struct Planned {
    /// The tensor as it is.
    pub from: Tensor,
    /// Name of the type it takes.
    pub format: &'static str,
    /// Bytes it takes.
    pub bytes: u64,
    /// How it is encoded; `None` where it stays as it is.
    pub(crate) encode: Option<Encode>,
}

/// How the rows of a tensor are encoded.
#[derive(Debug)]
pub(crate) struct Encode {
    from: &'static FormatInfo,
    /// The format they take.
    pub(crate) to: &'static FormatInfo,
    cols: usize,
    /// Rows of one expert.
    per_expert: usize,
    /// Mean squares of what the columns are multiplied with, `[experts][columns]`; empty for unknown.
    pub(crate) importance: Vec<f32>,
}

impl Encode {
    /// Encodes the rows `rows` of the tensor's `data` into `out`; whether all their values are finite, before and after.
    pub(crate) fn rows(&self, data: &[u8], rows: Range<usize>, out: &mut [u8]) -> bool {
        let (from, to) = (self.from.row_bytes(self.cols), self.to.row_bytes(self.cols));
        let mut values = vec![0.0; self.cols];
        rows.zip(out.chunks_exact_mut(to)).all(|(row, out)| {
            self.from
                .dequantize(&data[row * from..][..from], &mut values);
            let first = row / self.per_expert * self.cols;
            let importance = self.importance.get(first..first + self.cols);
            let finite = |values: &[f32]| values.iter().all(|v| v.is_finite());
            if !finite(&values) {
                return false;
            }
            self.to.quantize(&values, importance.unwrap_or(&[]), out);
            self.to.dequantize(out, &mut values);
            finite(&values)
        })
    }
}

impl Planned {
    /// The format it takes; `None` for one that the engine does not have.
    pub(crate) fn engine_format(&self) -> Option<&'static FormatInfo> {
        let stays = || FormatInfo::by_id(self.from.format_id);
        self.encode.as_ref().map(|e| e.to).or_else(stays)
    }

    /// The error of a tensor with values that are not finite.
    pub(crate) fn not_finite(&self) -> Error {
        Error::Input(format!(
            "tensor \"{}\" holds values that are not finite, or too large for {}: the file is damaged, or needs another format",
            self.from.name, self.format
        ))
    }
}

/// The tensors of `file`, in order, and what `recipe` makes of them.
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
        let decoded = FormatInfo::by_id(from.format_id).ok_or_else(|| {
            Error::Input(format!(
                "tensor \"{}\" is stored as {}, which cannot be decoded here: start from a file in F16, BF16 or F32",
                from.name,
                from.format().name
            ))
        })?;
        if let Some(importance) = &recipe.importance {
            importance.check(from)?;
        }
        let cols = from.dims[0] as usize;
        let seen = recipe.importance.as_ref();
        let importance = seen.and_then(|i| i.columns(&from.name)).unwrap_or(&[]);
        Ok(Planned {
            from: from.clone(),
            format: format.name,
            // Smaller than what memory maps: no type has more than 32 bits a value.
            bytes: from.n_values() / from.dims[0] * format.row_bytes(cols) as u64,
            encode: Some(Encode {
                from: decoded,
                to: format,
                cols,
                per_expert: from.dims.get(1).map_or(1, |&rows| rows as usize),
                importance: importance.to_vec(),
            }),
        })
    };
    recipe.check(file)?;
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
    let (head, total) = write::head(&metadata(file, recipe, &planned), described)
        .ok_or_else(|| Error::Input("the sizes of the tensors overflow".into()))?;
    let all: u64 = planned.iter().map(|p| p.from.bytes).sum();
    let mut bad = None;
    let written = write::create(out, total, |mut file_out| {
        file_out.write_all(&head)?;
        let mut done = 0;
        for p in &planned {
            if !put(file, p, threads, &mut file_out)? {
                bad = Some(p.not_finite());
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
    p.encode.as_ref().map_or(p.from.format_id, |e| e.to.id)
}

/// The metadata of `file`, with what says how it is stored made true.
fn metadata(file: &Gguf, recipe: &Recipe, planned: &[Planned]) -> Metadata {
    const STORAGE: &[&str] = &[
        "general.file_type",
        "general.quantization_version",
        "general.alignment",
    ];
    let mut m = Metadata::default();
    m.copy(file, |key| {
        STORAGE.contains(&key) || key.starts_with("split.")
    });
    let main = || FormatInfo::by_name(main_format(planned));
    if let Some(format) = recipe.to.or_else(main) {
        m.u32("general.file_type", format.file_type);
    }
    m.u32("general.quantization_version", 2);
    m
}

/// Name of the type that most bytes are stored in.
pub fn main_format(planned: &[Planned]) -> &'static str {
    let mut bytes = BTreeMap::new();
    for p in planned {
        *bytes.entry(p.format).or_insert(0) += p.bytes;
    }
    let most = bytes.into_iter().max_by_key(|&(_, bytes)| bytes);
    most.map_or("", |(format, _)| format)
}

/// Writes one tensor; whether its values are finite.
fn put(file: &Gguf, p: &Planned, threads: usize, out: &mut dyn Write) -> std::io::Result<bool> {
    let data = file.data(&p.from);
    let Some(encode) = &p.encode else {
        return out.write_all(data).map(|()| true);
    };
    let row_bytes = encode.to.row_bytes(encode.cols);
    let rows = p.from.n_values() as usize / encode.cols;
    let step = (CHUNK_VALUES / encode.cols).max(1);
    let mut encoded = vec![0; step.min(rows) * row_bytes];
    for first in (0..rows).step_by(step) {
        let count = step.min(rows - first);
        let encoded = &mut encoded[..count * row_bytes];
        let share = count.div_ceil(threads.max(1));
        let finite = std::thread::scope(|scope| {
            let parts = encoded.chunks_mut(share * row_bytes).enumerate();
            let workers: Vec<_> = parts
                .map(|(i, part)| {
                    let from = first + i * share;
                    let rows = from..from + part.len() / row_bytes;
                    scope.spawn(move || encode.rows(data, rows, part))
                })
                .collect();
            workers.into_iter().all(|w| w.join().unwrap_or(false))
        });
        if !finite {
            return Ok(false);
        }
        out.write_all(encoded)?;
    }
    Ok(true)
}

#[cfg(test)]
mod tests;
