//! The importance matrix: mean squares of what every column of every matrix is multiplied with, in llama.cpp's GGUF form:
//! of each matrix the tensors `NAME.in_sum2`, sums of squares, `[experts][columns]`, and `NAME.counts`, `[experts][1]`.

use crate::error::{Error, Result};
use crate::gguf::limits::ALIGNMENT_DEFAULT;
use crate::gguf::write::{self, Metadata};
use crate::gguf::{Gguf, Tensor};
use crate::quant::{F32, Format};
use std::collections::HashMap;
use std::io::Write;
use std::path::Path;
use std::sync::Mutex;

/// Sums of squares of the inputs of a matrix, and of how many tokens.
const SUMS: &str = ".in_sum2";
const COUNTS: &str = ".counts";

/// An importance matrix that was read.
#[derive(Debug, Clone)]
pub struct Importance {
    /// Mean squares by the name of a tensor, `[experts][columns]`.
    columns: HashMap<String, Vec<f32>>,
}

impl Importance {
    /// Reads a file.
    ///
    /// # Errors
    /// When it is no importance matrix in GGUF form.
    pub fn open(path: &Path) -> Result<Importance> {
        let file = Gguf::open(path)?;
        let refused = |what: String| Error::Input(format!("\"{}\": {what}", path.display()));
        let values = |tensor: &Tensor| -> Result<Vec<f32>> {
            if tensor.format_id != F32::ID {
                return Err(refused(format!(
                    "tensor \"{}\" is stored as {}, expected F32: make the importance matrix again",
                    tensor.name,
                    tensor.format().name
                )));
            }
            let bytes = file.data(tensor).as_chunks::<4>().0;
            Ok(bytes.iter().map(|b| f32::from_le_bytes(*b)).collect())
        };
        let mut columns = HashMap::new();
        for tensor in file.tensors() {
            let Some(name) = tensor.name.strip_suffix(SUMS) else {
                continue;
            };
            let counts = file.tensor(&format!("{name}{COUNTS}")).ok_or_else(|| {
                refused(format!(
                    "tensor \"{name}{COUNTS}\" is missing: make the importance matrix again"
                ))
            })?;
            let (mut sums, counts) = (values(tensor)?, values(counts)?);
            let per_expert = tensor.dims[0] as usize;
            if sums.len() != counts.len() * per_expert
                || !sums
                    .iter()
                    .chain(&counts)
                    .all(|v| v.is_finite() && *v >= 0.0)
            {
                return Err(refused(format!(
                    "the sums and counts of \"{name}\" do not fit each other, or are no finite numbers: make the importance matrix again"
                )));
            }
            for (sums, count) in sums.chunks_exact_mut(per_expert).zip(counts) {
                sums.iter_mut().for_each(|s| *s /= count.max(1.0));
            }
            columns.insert(name.to_owned(), sums);
        }
        if columns.is_empty() {
            return Err(refused(format!(
                "holds no tensors \"NAME{SUMS}\", so it is no importance matrix: make one with \"engine imatrix\" or llama-imatrix"
            )));
        }
        Ok(Importance { columns })
    }

    /// Mean squares of the columns of the tensor `name`; `None` where nothing is known of it.
    pub(super) fn columns(&self, name: &str) -> Option<&[f32]> {
        self.columns.get(name).map(Vec::as_slice)
    }

    /// Refuses a matrix of other columns than were seen.
    pub(super) fn check(&self, tensor: &Tensor) -> Result<()> {
        let expect = tensor.dims[0] * tensor.dims[2..].iter().product::<u64>();
        match self.columns(&tensor.name) {
            Some(seen) if seen.len() as u64 != expect => Err(Error::Input(format!(
                "the importance matrix has {} columns for tensor \"{}\", which has {expect}: it belongs to another model",
                seen.len(),
                tensor.name
            ))),
            _ => Ok(()),
        }
    }
}

/// Hears the inputs of every step of a pass, and sums their squares.
#[derive(Debug)]
pub struct Observer {
    /// Names of the matrices that share the inputs of each step.
    names: Vec<Vec<String>>,
    /// What each thread has seen of each step.
    seen: Vec<Mutex<Vec<Seen>>>,
}

/// Of each expert, of which a dense model has one, sums of squares, `[experts][columns]`, and the number of tokens.
type Seen = (Vec<f32>, Vec<u64>);

impl Observer {
    pub(crate) fn new(names: Vec<Vec<String>>, threads: usize) -> Observer {
        let of_thread = || Mutex::new(vec![Seen::default(); names.len()]);
        Observer {
            seen: (0..threads).map(|_| of_thread()).collect(),
            names,
        }
    }

    /// Adds the inputs `x` of an expert, one of so many, in step `step`, heard by `thread`; steps that have no names are left
    /// out.
    pub(crate) fn add(
        &self,
        thread: usize,
        step: usize,
        (expert, experts): (usize, usize),
        x: &[f32],
    ) {
        let mut seen = self.seen[thread].lock().expect("no thread panics with it");
        let Some((sums, counts)) = seen.get_mut(step) else {
            return;
        };
        sums.resize(experts * x.len(), 0.0);
        counts.resize(experts, 0);
        let sums = &mut sums[expert * x.len()..];
        sums.iter_mut().zip(x).for_each(|(s, x)| *s += x * x);
        counts[expert] += 1;
    }

    /// Writes the importance matrix made of `chunks` texts of `chunk_tokens` tokens out of the file `dataset`.
    ///
    /// # Errors
    /// When `out` exists or cannot be written, or a sum is not finite.
    pub fn save(&self, out: &Path, dataset: &str, chunks: u32, chunk_tokens: u32) -> Result<()> {
        let mut entries: Vec<(String, Vec<f32>, usize)> = Vec::new();
        for (step, names) in self.names.iter().enumerate() {
            let (mut sums, mut counts) = Seen::default();
            for thread in &self.seen {
                let thread = thread.lock().expect("no thread panics with it");
                let (of_thread, tokens) = &thread[step];
                sums.resize(of_thread.len().max(sums.len()), 0.0);
                sums.iter_mut().zip(of_thread).for_each(|(s, t)| *s += t);
                counts.resize(tokens.len().max(counts.len()), 0);
                counts.iter_mut().zip(tokens).for_each(|(c, t)| *c += t);
            }
            if !sums.iter().all(|s| s.is_finite()) {
                return Err(Error::Input(format!(
                    "the inputs of \"{}\" are not finite: the model is damaged",
                    names[0]
                )));
            }
            let experts = counts.len();
            let counts: Vec<f32> = counts.iter().map(|&c| c as f32).collect();
            for name in names {
                entries.push((format!("{name}{COUNTS}"), counts.clone(), experts));
                entries.push((format!("{name}{SUMS}"), sums.clone(), experts));
            }
        }
        entries.sort_by(|a, b| a.0.cmp(&b.0));
        let mut m = Metadata::default();
        m.str("general.type", "imatrix");
        m.strs("imatrix.datasets", &[dataset.to_owned()]);
        m.u32("imatrix.chunk_count", chunks);
        m.u32("imatrix.chunk_size", chunk_tokens);
        let dims = entries.iter().map(|(_, values, experts)| {
            let experts = *experts as u64;
            [values.len() as u64 / experts.max(1), experts]
        });
        let dims: Vec<[u64; 2]> = dims.collect();
        let described = entries
            .iter()
            .zip(&dims)
            .map(|((name, ..), d)| (name.as_str(), &d[..], F32::ID, 4 * d[0] * d[1]));
        let (head, total) = write::head(&m, described)
            .ok_or_else(|| Error::Input("the sizes of the matrix overflow".into()))?;
        write::create(out, total, |mut file| {
            file.write_all(&head)?;
            for (_, values, _) in &entries {
                let mut bytes: Vec<u8> = values.iter().flat_map(|v| v.to_le_bytes()).collect();
                bytes.resize(bytes.len().next_multiple_of(ALIGNMENT_DEFAULT as usize), 0);
                file.write_all(&bytes)?;
            }
            Ok(())
        })
    }
}
