//! Loading: checks every tensor, and finds the matrices their places in one arena.

use super::by_channels::ByChannels;
use super::config::{Config, Experts, missing};
use super::packed::{self, Panels, Placed};
use crate::error::{Error, Result};
use crate::gguf::Gguf;
use crate::kernel::{self, Kernels};
use crate::matrix::{Matrix, row};
use crate::mmap::{Anon, Arena};
use crate::options::{Isa, Kernel, Options};
use crate::pool::Pool;
use crate::quant::{FORMATS, FormatInfo};
use crate::quantize::{self, Planned, Recipe};
use crate::sparsity::Sparse;
use std::collections::{BTreeSet, HashSet};
use std::ops::Range;
use std::path::Path;

/// Name of the embedding, which also makes the logits where the file has no other matrix for that.
pub(super) const EMBEDDING: &str = "token_embd.weight";

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
    /// Scores of the experts; `None` where the feed-forward part is dense.
    pub(crate) router: Option<Matrix>,
    /// Of each expert; one where it is dense.
    pub(crate) gate: Vec<Matrix>,
    pub(crate) up: Vec<Matrix>,
    pub(crate) down: Vec<Matrix>,
}

/// A model ready to run.
pub struct Model {
    pub(crate) config: Config,
    pub(crate) kernels: Box<dyn Kernels>,
    pub(crate) arena: Arena,
    placed: Placed,
    pub(crate) layers: Vec<Layer>,
    pub(crate) output_norm: Vec<f32>,
    pub(crate) head: Matrix,
    /// Divisors of the rotary frequencies, `[dims / 2]`, for short and for long contexts, empty for none; for layers that
    /// see all positions, and for those with a window.
    pub(crate) rope_factors: [[Vec<f32>; 2]; 2],
    pub(super) gguf: Gguf,
    /// The tensors of the file, and what they became.
    pub(super) tensors: Vec<Planned>,
    /// Format of the embedding.
    embedding_format: &'static FormatInfo,
    /// The embedding where it is not as in the file, else empty.
    pub(super) embedding: Vec<u8>,
    /// Matrices by channels, some of which are left out.
    pub(crate) sparse: Option<Sparse>,
    by_channels: Option<ByChannels>,
}

/// A matrix and where its rows stand: in which tensor of the file, and from which row on.
pub(super) struct Source {
    pub(super) tensor: usize,
    pub(super) first_row: usize,
}

/// Collects the matrices of a model in the order a pass reads them, and what has been used of the file.
struct Loader<'a> {
    gguf: &'a Gguf,
    planned: &'a [Planned],
    kernel: Kernel,
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
        let recipe = Recipe::from_options(options, &gguf)?;
        let model = Model::with_recipe(gguf, &recipe, pool, options)?;
        check_kernel(options, model.matrices().map(|m| m.format))?;
        Ok(model)
    }

    /// The same with the matrices in the formats of `recipe`, whatever `options` say about formats, and whether or not any
    /// products can be looked up.
    pub fn with_recipe(
        gguf: Gguf,
        recipe: &Recipe,
        pool: &Pool,
        options: &Options,
    ) -> Result<Model> {
        let config = Config::from_gguf(&gguf)?;
        let kernels = kernel::kernels(options)?;
        let tensors = quantize::plan(&gguf, recipe)?;
        let mut loader = Loader {
            gguf: &gguf,
            planned: &tensors,
            kernel: options.kernel,
            used: HashSet::new(),
            arena_bytes: 0,
            sources: Vec::new(),
        };
        let layers = (0..config.n_layers())
            .map(|l| loader.layer(&config, l))
            .collect::<Result<Vec<_>>>()?;
        let output_norm = loader.vector("output_norm.weight", config.n_embd)?;
        let head_name = ["output.weight", EMBEDDING]
            .into_iter()
            .find(|name| gguf.tensor(name).is_some())
            .ok_or_else(|| missing("output.weight"))?;
        let head = loader.matrix(head_name, config.n_vocab, 0..config.n_vocab, config.n_embd)?;
        let (embedding, embedding_format) =
            loader.find(EMBEDDING, &[config.n_embd, config.n_vocab])?;
        let rope_factors = [loader.rope_factors(&config)?, Default::default()];
        loader.refuse_unused()?;

        let (sources, arena_bytes) = (loader.sources, loader.arena_bytes);
        let mut model = Model {
            config,
            kernels,
            arena: Arena::Memory(Anon::zeroed(0, false).expect("nothing")),
            placed: Placed::Packed,
            layers,
            output_norm,
            head,
            rope_factors,
            gguf,
            tensors,
            embedding_format,
            embedding: Vec::new(),
            sparse: None,
            by_channels: None,
        };
        model.encode_embedding(embedding, pool)?;
        let panels = Panels {
            model: &model,
            sources: &sources,
            arena_bytes,
            pool,
            huge_pages: options.huge_pages,
        };
        (model.arena, model.placed) = packed::place(&model.gguf, &panels, pool, options)?;
        if let Some((sparse, held)) = model.load_sparse(&sources, pool, options)? {
            (model.sparse, model.by_channels) = (Some(sparse), held);
        }
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

    /// The tensors of the file, and what they became as they were loaded.
    pub fn tensors(&self) -> &[Planned] {
        &self.tensors
    }

    /// Architecture, size and the format that most bytes are stored in, `llama 135M Q4_1`; with sparsity that it is lossy.
    pub fn description(&self) -> String {
        let n_params: u64 = self.tensors.iter().map(|t| t.from.n_values()).sum();
        let size = match n_params {
            0..1_000_000 => format!("{:.0}K", n_params as f64 / 1e3),
            1_000_000..1_000_000_000 => format!("{:.0}M", n_params as f64 / 1e6),
            _ => format!("{:.1}B", n_params as f64 / 1e9),
        };
        let format = quantize::main_format(&self.tensors);
        let lossy = match self.sparse {
            Some(_) => ", sparse (lossy)",
            None => "",
        };
        format!("{} {size} {format}{lossy}", self.config.arch.name)
    }

    /// Instruction set of the kernels.
    pub fn isa(&self) -> Isa {
        self.kernels.isa()
    }

    /// Bytes of all packed matrices.
    pub fn weight_bytes(&self) -> u64 {
        self.arena.bytes().len() as u64
    }

    /// Bytes that one decoded token reads of them: all but the experts that it does not go through.
    pub fn read_bytes(&self) -> u64 {
        let spared = self.config.experts.map_or(0, |e| e.count - e.used);
        let experts = self.layers.iter().flat_map(|l| [&l.gate, &l.up, &l.down]);
        let spared: usize = experts.map(|all| spared * all[0].bytes()).sum();
        self.weight_bytes() - spared as u64
    }

    /// What there is a second time, by channels; `None` where nothing is.
    pub fn by_channels(&self) -> Option<&ByChannels> {
        self.by_channels.as_ref()
    }

    /// How the weights came into memory.
    pub fn placed(&self) -> &Placed {
        &self.placed
    }

    /// Bytes of the weights that are backed by huge pages; `None` where the system does not say.
    pub fn huge_page_bytes(&self) -> Option<u64> {
        self.arena.huge_bytes()
    }

    /// The embedding of a token, decoded.
    pub(crate) fn embed(&self, token: u32, out: &mut [f32]) {
        let all = match self.embedding.is_empty() {
            true => self
                .gguf
                .data(self.gguf.tensor(EMBEDDING).expect("checked at load")),
            false => &self.embedding,
        };
        let row = self.embedding_format.row_bytes(self.config.n_embd);
        self.embedding_format
            .dequantize(&all[token as usize * row..][..row], out);
        out.iter_mut()
            .for_each(|x| *x *= self.config.embedding_scale);
    }

    /// All matrices, in the order of the arena.
    pub(crate) fn matrices(&self) -> impl Iterator<Item = &Matrix> {
        self.layers
            .iter()
            .flat_map(|l| {
                let attention = [&l.q, &l.k, &l.v, &l.o].into_iter().chain(&l.router);
                attention.chain(&l.gate).chain(&l.up).chain(&l.down)
            })
            .chain([&self.head])
    }
}

/// Refuses to look products up where none of the matrices, in `formats`, has codes for it.
///
/// # Errors
/// [`Error::Option`] with the formats there are and those that have.
pub(crate) fn check_kernel(
    options: &Options,
    formats: impl Iterator<Item = &'static FormatInfo>,
) -> Result<()> {
    let found: BTreeSet<_> = formats.map(|f| (f.name, f.lookup)).collect();
    if options.kernel == Kernel::Dot || found.iter().any(|(_, lookup)| *lookup) {
        return Ok(());
    }
    let found: Vec<_> = found.iter().map(|(name, _)| *name).collect();
    let can = FORMATS.iter().filter(|f| f.lookup).map(|f| f.name);
    Err(Error::Option {
        option: "kernel",
        what: format!(
            "no matrix of the model can be looked up, all are {}: it takes one of {}, for instance by engine.quant",
            found.join(", "),
            Vec::from_iter(can).join(", ")
        ),
    })
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
        let embd = config.n_embd;
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
        let router = name("ffn_gate_inp.weight");
        let router = config
            .experts
            .map(|e| self.matrix(&router, e.count, 0..e.count, embd))
            .transpose()?;
        let [gate, up, down] = match config.experts {
            None => self.dense(config, l)?.map(|matrix| vec![matrix]),
            Some(experts) => self.experts(config, l, experts)?,
        };
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
            router,
            gate,
            up,
            down,
        })
    }

    /// Gate, up and down projection of layer `l`.
    fn dense(&mut self, config: &Config, l: usize) -> Result<[Matrix; 3]> {
        let (embd, ff) = (config.n_embd, config.n_ff);
        let [gate, up, down] = ["gate", "up", "down"].map(|p| format!("blk.{l}.ffn_{p}.weight"));
        let [gate, up] = if self.gguf.tensor(&gate).is_some() {
            [
                self.matrix(&gate, ff, 0..ff, embd),
                self.matrix(&up, ff, 0..ff, embd),
            ]
        } else {
            [0..ff, ff..2 * ff].map(|rows| self.matrix(&up, 2 * ff, rows, embd))
        };
        Ok([gate?, up?, self.matrix(&down, embd, 0..embd, ff)?])
    }

    /// Gate, up and down projections of the experts of layer `l`, whose rows follow each other in one tensor of each kind.
    fn experts(&mut self, config: &Config, l: usize, experts: Experts) -> Result<[Vec<Matrix>; 3]> {
        let (embd, ff) = (config.n_embd, config.n_ff);
        let mut all = |part: &str, rows: usize, cols: usize| -> Result<Vec<Matrix>> {
            let name = format!("blk.{l}.ffn_{part}_exps.weight");
            let found = self.find(&name, &[cols, rows, experts.count])?;
            let each = 0..experts.count;
            Ok(each
                .map(|e| self.rows(found, row(e, rows), cols, Vec::new()))
                .collect())
        };
        Ok([
            all("gate", ff, embd)?,
            all("up", ff, embd)?,
            all("down", embd, ff)?,
        ])
    }

    /// The tensor of these dimensions, the length of a row first: its number, and the format that it takes.
    fn find(&mut self, name: &str, dims: &[usize]) -> Result<(usize, &'static FormatInfo)> {
        let index = self.gguf.tensor_index(name).ok_or_else(|| missing(name))?;
        let tensor = &self.planned[index].from;
        self.used.insert(name.to_owned());
        let dims: Vec<u64> = dims.iter().map(|&d| d as u64).collect();
        let found = &tensor.dims;
        if found[..] != dims[..] && !(dims[1..] == [1] && found[..] == dims[..1]) {
            return Err(Error::Model(format!(
                "tensor \"{name}\" has dimensions {found:?}, expected {dims:?} by the file's hyperparameters"
            )));
        }
        let format = self.planned[index].engine_format().ok_or_else(|| {
            let known: Vec<_> = FORMATS.iter().map(|f| f.name).collect();
            Error::Model(format!(
                "tensor \"{name}\" is stored as {}, which is not supported, only {}: convert the file to one of these",
                tensor.format().name,
                known.join(", ")
            ))
        })?;
        Ok((index, format))
    }

    /// Rows `rows` of the tensor `name` of `all_rows` rows, as the next matrix of the arena, with its bias if there is one.
    fn matrix(
        &mut self,
        name: &str,
        all_rows: usize,
        rows: Range<usize>,
        cols: usize,
    ) -> Result<Matrix> {
        let found = self.find(name, &[cols, all_rows])?;
        let bias_name = format!("{}.bias", name.trim_end_matches(".weight"));
        let bias = match self.gguf.tensor(&bias_name) {
            Some(_) if name != EMBEDDING => {
                self.vector(&bias_name, all_rows)?[rows.clone()].to_vec()
            }
            _ => Vec::new(),
        };
        Ok(self.rows(found, rows, cols, bias))
    }

    /// Rows `rows` of a tensor that was found, as the next matrix of the arena.
    fn rows(
        &mut self,
        (tensor, format): (usize, &'static FormatInfo),
        rows: Range<usize>,
        cols: usize,
        bias: Vec<f32>,
    ) -> Matrix {
        let matrix = Matrix {
            format,
            rows: rows.len(),
            cols,
            lookup: self.kernel == Kernel::Lut && format.lookup,
            offset: self.arena_bytes,
            bias,
        };
        self.arena_bytes += matrix.bytes();
        self.sources.push(Source {
            tensor,
            first_row: rows.start,
        });
        matrix
    }

    /// A tensor of `len` values, decoded.
    fn vector(&mut self, name: &str, len: usize) -> Result<Vec<f32>> {
        let (tensor, format) = self.find(name, &[len, 1])?;
        let tensor = &self.planned[tensor].from;
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
