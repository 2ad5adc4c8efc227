//! Loading: checks every tensor, and packs the matrices into panels in one arena, each thread its own share.

use super::config::{Config, missing};
use crate::error::{Error, Result};
use crate::gguf::{Gguf, Tensor};
use crate::kernel::{self, Kernels};
use crate::matrix::Matrix;
use crate::mmap::Anon;
use crate::options::{Isa, Options};
use crate::pool::Pool;
use crate::quant::{FORMATS, FormatInfo};
use crate::simd::LANES;
use std::collections::HashSet;
use std::ops::Range;
use std::path::Path;
use std::sync::Mutex;

/// Matrices and norms of one layer.
#[derive(Debug)]
pub(crate) struct Layer {
    pub(crate) attn_norm: Vec<f32>,
    /// Norms of a query or key head, and of what attention and feed-forward give; empty for none.
    pub(crate) q_norm: Vec<f32>,
    pub(crate) k_norm: Vec<f32>,
    pub(crate) attn_post_norm: Vec<f32>,
    pub(crate) ffn_post_norm: Vec<f32>,
    pub(crate) q: Matrix,
    pub(crate) k: Matrix,
    pub(crate) v: Matrix,
    pub(crate) o: Matrix,
    pub(crate) ffn_norm: Vec<f32>,
    pub(crate) gate: Matrix,
    pub(crate) up: Matrix,
    pub(crate) down: Matrix,
}

/// A model ready to run.
pub struct Model {
    pub(crate) config: Config,
    pub(crate) kernels: Box<dyn Kernels>,
    pub(crate) arena: Anon,
    pub(crate) layers: Vec<Layer>,
    pub(crate) output_norm: Vec<f32>,
    pub(crate) head: Matrix,
    /// Divisors of the rotary frequencies, `[dims / 2]`, for short and for long contexts, empty for none; for layers that
    /// see all positions, and for those with a window.
    pub(crate) rope_factors: [[Vec<f32>; 2]; 2],
    gguf: Gguf,
}

/// A matrix and where its rows stand in the file.
struct Source {
    tensor: Tensor,
    first_row: usize,
}

/// Collects the matrices of a model in the order a pass reads them, and what has been used of the file.
struct Loader<'a> {
    gguf: &'a Gguf,
    used: HashSet<String>,
    arena_bytes: usize,
    sources: Vec<Source>,
}

impl Model {
    /// Opens, checks and packs a model file.
    ///
    /// # Errors
    /// When the file cannot be read, is damaged, or holds a model that the engine cannot run.
    pub fn load(path: &Path, pool: &Pool, options: &Options) -> Result<Model> {
        Model::from_gguf(Gguf::open(path)?, pool, options)
    }

    /// The same from an open file.
    pub fn from_gguf(gguf: Gguf, pool: &Pool, options: &Options) -> Result<Model> {
        let config = Config::from_gguf(&gguf)?;
        let kernels = kernel::kernels(options)?;
        let mut loader = Loader {
            gguf: &gguf,
            used: HashSet::new(),
            arena_bytes: 0,
            sources: Vec::new(),
        };
        let layers = (0..config.n_layers())
            .map(|l| loader.layer(&config, l))
            .collect::<Result<Vec<_>>>()?;
        let output_norm = loader.vector("output_norm.weight", config.n_embd)?;
        let head_name = ["output.weight", "token_embd.weight"]
            .into_iter()
            .find(|name| gguf.tensor(name).is_some())
            .ok_or_else(|| missing("output.weight"))?;
        let head = loader.matrix(head_name, config.n_vocab, 0..config.n_vocab, config.n_embd)?;
        loader.format("token_embd.weight", config.n_vocab, config.n_embd)?;
        let rope_factors = [loader.rope_factors(&config)?, Default::default()];
        loader.refuse_unused()?;

        let (sources, arena_bytes) = (loader.sources, loader.arena_bytes);
        let arena = Anon::zeroed(arena_bytes, options.huge_pages).map_err(|e| {
            Error::Model(format!(
                "{arena_bytes} bytes for the weights are not to be had ({e}): close other programs or use a smaller model"
            ))
        })?;
        let mut model = Model {
            config,
            kernels,
            arena,
            layers,
            output_norm,
            head,
            rope_factors,
            gguf,
        };
        model.pack(&sources, pool);
        Ok(model)
    }

    /// Hyperparameters.
    pub fn config(&self) -> &Config {
        &self.config
    }

    /// The file the model came from.
    pub fn gguf(&self) -> &Gguf {
        &self.gguf
    }

    /// Instruction set of the kernels.
    pub fn isa(&self) -> Isa {
        self.kernels.isa()
    }

    /// Bytes of all packed matrices: what one decoded token reads of the weights.
    pub fn weight_bytes(&self) -> u64 {
        self.arena.bytes().len() as u64
    }

    /// Bytes of the weights that are backed by huge pages; `None` where the system does not say.
    pub fn huge_page_bytes(&self) -> Option<u64> {
        self.arena.huge_bytes()
    }

    /// The embedding of a token, decoded from the file.
    pub(crate) fn embed(&self, token: u32, out: &mut [f32]) {
        let tensor = self
            .gguf
            .tensor("token_embd.weight")
            .expect("checked at load");
        let format = FormatInfo::by_id(tensor.format_id).expect("checked at load");
        let row = format.row_bytes(self.config.n_embd);
        format.dequantize(&self.gguf.data(tensor)[token as usize * row..][..row], out);
        out.iter_mut()
            .for_each(|x| *x *= self.config.embedding_scale);
    }

    /// All matrices, in the order of the arena.
    fn matrices(&self) -> impl Iterator<Item = &Matrix> {
        self.layers
            .iter()
            .flat_map(|l| [&l.q, &l.k, &l.v, &l.o, &l.gate, &l.up, &l.down])
            .chain([&self.head])
    }

    /// Packs every matrix from the file into the arena: each thread the panels it will multiply.
    fn pack(&mut self, sources: &[Source], pool: &Pool) {
        let mut rest = std::mem::replace(&mut self.arena, Anon::zeroed(0, false).expect("nothing"));
        let mut tail = rest.bytes_mut();
        for (matrix, source) in self.matrices().zip(sources) {
            let (panels, after) = tail.split_at_mut(matrix.bytes());
            tail = after;
            let threads = pool.threads();
            let mut parts = Vec::with_capacity(threads);
            let mut left = panels;
            for i in 0..threads {
                let first = matrix.panels() * i / threads;
                let end = matrix.panels() * (i + 1) / threads;
                let (part, others) = left.split_at_mut((end - first) * matrix.panel_bytes());
                left = others;
                parts.push(Mutex::new((first, part)));
            }
            let data = self.gguf.data(&source.tensor);
            pool.run(&|ctx| {
                let mut part = parts[ctx.index].lock().expect("one thread each");
                let first = part.0;
                for (i, panel) in part.1.chunks_exact_mut(matrix.panel_bytes()).enumerate() {
                    self.pack_panel(matrix, source.first_row, first + i, data, panel);
                }
            });
            self.gguf.drop_pages(&source.tensor);
        }
        self.arena = rest;
    }

    /// Packs panel `p` of a matrix whose rows begin at `first_row` of the tensor's `data`; rows past the end are zeros.
    fn pack_panel(
        &self,
        matrix: &Matrix,
        first_row: usize,
        p: usize,
        data: &[u8],
        panel: &mut [u8],
    ) {
        let row_bytes = matrix.format.row_bytes(matrix.cols);
        let zeros;
        let padding: &[u8] = if (p + 1) * LANES > matrix.rows {
            zeros = vec![0; row_bytes];
            &zeros
        } else {
            &[]
        };
        let rows = std::array::from_fn(|r| {
            let row = p * LANES + r;
            if row < matrix.rows {
                &data[(first_row + row) * row_bytes..][..row_bytes]
            } else {
                padding
            }
        });
        self.kernels.pack(matrix.format.id, rows, panel);
    }
}

impl Loader<'_> {
    /// The norm `name` of `len` values, empty unless the architecture has it.
    fn norm_if(&mut self, has: bool, name: &str, len: usize) -> Result<Vec<f32>> {
        if has {
            self.vector(name, len)
        } else {
            Ok(Vec::new())
        }
    }

    /// The matrices and norms of layer `l`, whatever way the file fuses them.
    fn layer(&mut self, config: &Config, l: usize) -> Result<Layer> {
        let name = |part: &str| format!("blk.{l}.{part}");
        let (embd, ff) = (config.n_embd, config.n_ff);
        let (q, kv) = (config.q_dim(), config.kv_dim());
        let (arch, dim) = (config.arch, config.head_dim);
        let attn_norm = self.vector(&name("attn_norm.weight"), embd)?;
        let q_norm = self.norm_if(arch.qk_norms, &name("attn_q_norm.weight"), dim)?;
        let k_norm = self.norm_if(arch.qk_norms, &name("attn_k_norm.weight"), dim)?;
        let post = name("post_attention_norm.weight");
        let attn_post_norm = self.norm_if(arch.post_norms, &post, embd)?;
        let post = name("post_ffw_norm.weight");
        let ffn_post_norm = self.norm_if(arch.post_norms, &post, embd)?;
        let fused = name("attn_qkv.weight");
        let [wq, wk, wv] = if self.gguf.tensor(&fused).is_some() {
            let all = q + 2 * kv;
            [0..q, q..q + kv, q + kv..all].map(|rows| self.matrix(&fused, all, rows, embd))
        } else {
            [
                self.matrix(&name("attn_q.weight"), q, 0..q, embd),
                self.matrix(&name("attn_k.weight"), kv, 0..kv, embd),
                self.matrix(&name("attn_v.weight"), kv, 0..kv, embd),
            ]
        };
        let (wq, wk, wv) = (wq?, wk?, wv?);
        let wo = self.matrix(&name("attn_output.weight"), embd, 0..embd, q)?;
        let ffn_norm = self.vector(&name("ffn_norm.weight"), embd)?;
        let (gate, up) = (name("ffn_gate.weight"), name("ffn_up.weight"));
        let [gate, up] = if self.gguf.tensor(&gate).is_some() {
            [
                self.matrix(&gate, ff, 0..ff, embd),
                self.matrix(&up, ff, 0..ff, embd),
            ]
        } else {
            [0..ff, ff..2 * ff].map(|rows| self.matrix(&up, 2 * ff, rows, embd))
        };
        let (gate, up) = (gate?, up?);
        let down = self.matrix(&name("ffn_down.weight"), embd, 0..embd, ff)?;
        Ok(Layer {
            attn_norm,
            q_norm,
            k_norm,
            attn_post_norm,
            ffn_post_norm,
            q: wq,
            k: wk,
            v: wv,
            o: wo,
            ffn_norm,
            gate,
            up,
            down,
        })
    }

    /// A tensor of shape `[rows][cols]` in a format the engine has.
    fn format(&mut self, name: &str, rows: usize, cols: usize) -> Result<&'static FormatInfo> {
        let tensor = self.gguf.tensor(name).ok_or_else(|| missing(name))?;
        self.used.insert(name.to_owned());
        let dims: Vec<u64> = [cols, rows].iter().map(|&d| d as u64).collect();
        let found = &tensor.dims;
        if found[..] != dims[..] && !(rows == 1 && found[..] == dims[..1]) {
            return Err(Error::Model(format!(
                "tensor \"{name}\" has dimensions {found:?}, expected {dims:?} by the file's hyperparameters"
            )));
        }
        FormatInfo::by_id(tensor.format_id).ok_or_else(|| {
            let known: Vec<_> = FORMATS.iter().map(|f| f.name).collect();
            Error::Model(format!(
                "tensor \"{name}\" is stored as {}, which is not supported, only {}: convert the file to one of these",
                tensor.format().name,
                known.join(", ")
            ))
        })
    }

    /// Rows `rows` of the tensor `name` of `all_rows` rows, as the next matrix of the arena, with its bias if there is one.
    fn matrix(
        &mut self,
        name: &str,
        all_rows: usize,
        rows: Range<usize>,
        cols: usize,
    ) -> Result<Matrix> {
        let format = self.format(name, all_rows, cols)?;
        let bias_name = format!("{}.bias", name.trim_end_matches(".weight"));
        let bias = match self.gguf.tensor(&bias_name) {
            Some(_) if name != "token_embd.weight" => {
                self.vector(&bias_name, all_rows)?[rows.clone()].to_vec()
            }
            _ => Vec::new(),
        };
        let matrix = Matrix {
            format,
            rows: rows.len(),
            cols,
            offset: self.arena_bytes,
            bias,
        };
        self.arena_bytes += matrix.bytes();
        let tensor = self.gguf.tensor(name).expect("just found").clone();
        self.sources.push(Source {
            tensor,
            first_row: rows.start,
        });
        Ok(matrix)
    }

    /// A tensor of `len` values, decoded.
    fn vector(&mut self, name: &str, len: usize) -> Result<Vec<f32>> {
        let format = self.format(name, 1, len)?;
        let tensor = self.gguf.tensor(name).expect("just found");
        let mut values = vec![0.0; len];
        format.dequantize(self.gguf.data(tensor), &mut values);
        Ok(values)
    }

    /// Divisors of the rotary frequencies for short and long contexts.
    fn rope_factors(&mut self, config: &Config) -> Result<[Vec<f32>; 2]> {
        let half = config.ropes[0].dims / 2;
        let mut factors = [Vec::new(), Vec::new()];
        for (name, which) in [
            ("rope_freqs.weight", &[0, 1][..]),
            ("rope_factors_short.weight", &[0][..]),
            ("rope_factors_long.weight", &[1][..]),
        ] {
            if self.gguf.tensor(name).is_some() {
                let values = self.vector(name, half)?;
                if !values.iter().all(|&v| v.is_finite() && v > 0.0) {
                    return Err(Error::Model(format!(
                        "\"{name}\" holds values that are not positive numbers"
                    )));
                }
                which
                    .iter()
                    .for_each(|&i: &usize| factors[i] = values.clone());
            }
        }
        Ok(factors)
    }

    /// A tensor that nothing has asked for would change the model's results: refuse the file.
    fn refuse_unused(&self) -> Result<()> {
        match self
            .gguf
            .tensors()
            .iter()
            .find(|t| !self.used.contains(&t.name))
        {
            None => Ok(()),
            Some(t) => Err(Error::Model(format!(
                "tensor \"{}\" has no place in this architecture: the file needs something the engine does not have",
                t.name
            ))),
        }
    }
}
