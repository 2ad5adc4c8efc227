//! Matrices by channels: which of them a method wants, made from the file or mapped where an earlier load kept them.

use super::packed::{self, Content, Placed, hash_importance};
use super::weights::{Layer, Model, Source};
use crate::error::{Error, Result};
use crate::mmap::Anon;
use crate::options::Options;
use crate::options::sparsity::Method;
use crate::pool::Pool;
use crate::quant::FormatInfo;
use crate::sparsity::{self, Layout, Packer, Part, Site, Sparse, Thresholds};
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use std::collections::BTreeMap;
use std::fmt;
use std::ops::Range;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};

/// Matrices of a layer, in the order of the arena: q, k, v, o, gate, up, down.
const MATRICES: usize = 7;

/// What a model holds a second time, by channels.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ByChannels {
    /// How many matrices.
    pub matrices: u64,
    /// Their bytes.
    pub bytes: u64,
    /// Those that are encoded anew for it.
    pub encoded: Vec<Encoded>,
    /// How they came into memory.
    pub placed: Placed,
}

/// Matrices that are encoded anew from one format to another, or to the same one along the other side.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Encoded {
    /// How many.
    pub matrices: u64,
    /// Name of the format in the file.
    pub from: String,
    /// Name of the format by channels.
    pub to: String,
}

/// All but how they came into memory.
impl fmt::Display for ByChannels {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mb = self.bytes as f64 / 1e6;
        write!(f, "{} matrices a second time, {mb:.1} MB", self.matrices)?;
        for (i, e) in self.encoded.iter().enumerate() {
            let before = if i == 0 { "; encoded anew: " } else { ", " };
            write!(f, "{before}{} from {} to {}", e.matrices, e.from, e.to)?;
        }
        Ok(())
    }
}

/// The matrices of all layers, by site.
struct Layouts<'a> {
    packer: Packer<'a>,
    model: &'a Model,
    layers: Vec<[Option<Layout<'a>>; Site::ALL.len()]>,
    /// Bytes up to the norms, which stand behind all matrices, in their order.
    norms_at: usize,
    huge_pages: bool,
}

impl Model {
    /// What `options` ask to be left out, with the matrices by channels for it; `sources` as the matrices stand in the arena.
    pub(super) fn load_sparse(
        &self,
        sources: &[Source],
        pool: &Pool,
        options: &Options,
    ) -> Result<Option<(Sparse, Option<ByChannels>)>> {
        let Some(wanted) = options.lossy_sparsity() else {
            return Ok(None);
        };
        self.config.check_sparsity()?;
        let thresholds = Thresholds::of(wanted, self.gguf(), self.layers.len())?;
        let packer = Packer {
            gguf: self.gguf(),
            kernels: &*self.kernels,
            pool,
        };
        let layers = std::iter::zip(&self.layers, sources.chunks_exact(MATRICES));
        let layers = layers.map(|(layer, sources)| self.layouts(wanted.method, layer, sources));
        let mut layouts = Layouts {
            packer,
            model: self,
            layers: layers.collect(),
            norms_at: 0,
            huge_pages: options.huge_pages,
        };
        let all = layouts.layers.iter_mut().flatten().flatten();
        layouts.norms_at = all.fold(0, |start, layout| layout.put(start));
        let (arena, placed) = packed::place(self.gguf(), &layouts, pool, options)?;
        let held = layouts.held(placed);
        let mut norms = layouts.norms(arena.bytes()).into_iter();
        let layers = layouts.layers.into_iter().zip(thresholds);
        let layers = layers.map(|(layouts, thresholds)| sparsity::Layer {
            thresholds,
            matrices: layouts.map(|layout| {
                let mut channels = layout?.channels;
                channels.norms = norms.next().expect("of each matrix");
                Some(channels)
            }),
        });
        let layers = layers.collect();
        let sparse = Sparse {
            method: wanted.method,
            layers,
            arena,
        };
        Ok(Some((sparse, held)))
    }

    /// The matrices of a layer that `method` wants by channels, by site.
    fn layouts<'a>(
        &'a self,
        method: Method,
        layer: &'a Layer,
        sources: &[Source],
    ) -> [Option<Layout<'a>>; Site::ALL.len()] {
        let part = |i: usize| {
            let matrices = [
                &layer.q,
                &layer.k,
                &layer.v,
                &layer.o,
                &layer.gate[0],
                &layer.up[0],
                &layer.down[0],
            ];
            Part {
                planned: &self.tensors()[sources[i].tensor],
                first_row: sources[i].first_row,
                rows: matrices[i].rows,
                bias: &matrices[i].bias,
            }
        };
        let columns = |parts: Range<usize>, apart| {
            let parts: Vec<Part<'_>> = parts.map(part).collect();
            Some(Layout::by_columns(&parts, apart))
        };
        let mut layouts = [const { None }; Site::ALL.len()];
        match method {
            Method::None | Method::FatreluMasked => {}
            Method::FatreluTransposed => layouts[Site::Down as usize] = columns(6..7, false),
            Method::Gated => {
                layouts[Site::Gate as usize] = Some(Layout::by_rows(part(5)));
                layouts[Site::Down as usize] = columns(6..7, false);
            }
            Method::Teal | Method::Wina => {
                layouts[Site::Qkv as usize] = columns(0..3, false);
                layouts[Site::O as usize] = columns(3..4, false);
                layouts[Site::GateUp as usize] = columns(4..6, true);
                layouts[Site::Down as usize] = columns(6..7, false);
            }
        }
        layouts
    }
}

impl Layouts<'_> {
    fn all(&self) -> impl Iterator<Item = &Layout<'_>> {
        self.layers.iter().flatten().flatten()
    }

    /// What there is a second time, as it came into memory; `None` where nothing is.
    fn held(&self, placed: Placed) -> Option<ByChannels> {
        let mut encoded: BTreeMap<[&str; 2], u64> = BTreeMap::new();
        for layout in self.all() {
            let anew = layout.parts.iter().filter(|(_, part)| layout.encodes(part));
            for (_, part) in anew {
                let from = FormatInfo::by_id(part.planned.from.format_id).expect("checked at load");
                let names = [from.name, layout.channels.format.name];
                *encoded.entry(names).or_default() += 1;
            }
        }
        let encoded = encoded.into_iter().map(|([from, to], matrices)| Encoded {
            matrices,
            from: from.to_owned(),
            to: to.to_owned(),
        });
        self.all().next()?;
        Some(ByChannels {
            matrices: self.all().map(|l| l.parts.len() as u64).sum(),
            bytes: self.all().map(|l| l.channels.bytes() as u64).sum(),
            encoded: encoded.collect(),
            placed,
        })
    }

    /// The norms of each matrix's channels, from an arena that is filled.
    fn norms(&self, arena: &[u8]) -> Vec<Vec<f32>> {
        let (all, _) = arena[self.norms_at..].as_chunks::<4>();
        let mut all = all.iter().map(|bytes| f32::from_le_bytes(*bytes));
        let of = |layout: &Layout<'_>| all.by_ref().take(layout.channels.len).collect();
        self.all().map(of).collect()
    }
}

impl Content for Layouts<'_> {
    const EXTENSION: &'static str = "channels";

    fn hash(&self, hash: &mut Sha256) {
        self.all().for_each(|layout| hash.update(layout.words()));
        hash_importance(hash, &self.model.tensors);
    }

    fn bytes(&self) -> usize {
        let norms: usize = self.all().map(|l| l.channels.len).sum();
        self.norms_at + norms * size_of::<f32>()
    }

    fn make(&self) -> Result<Anon> {
        let bytes = self.bytes();
        let mut arena = Anon::zeroed(bytes, self.huge_pages).map_err(|e| {
            Error::Model(format!(
                "{bytes} bytes for matrices by channels are not to be had ({e}): close other programs, use a smaller model or no sparsity"
            ))
        })?;
        let (matrices, norms) = arena.bytes_mut().split_at_mut(self.norms_at);
        let (mut norms, _) = norms.as_chunks_mut::<4>();
        for layout in self.all() {
            let found = layout.fill(&self.packer, &mut matrices[layout.channels.place()])?;
            let (own, after) = norms.split_at_mut(found.len());
            norms = after;
            let pairs = own.iter_mut().zip(found);
            pairs.for_each(|(bytes, norm)| *bytes = norm.to_le_bytes());
        }
        Ok(arena)
    }

    fn would_make(&self, arena: &[u8]) -> bool {
        let norms = self.norms(arena);
        let all: Vec<_> = self.all().zip(&norms).enumerate().collect();
        let same = AtomicBool::new(true);
        self.packer.pool.run(&|ctx| {
            for (i, (layout, norms)) in all.iter().skip(ctx.index).step_by(ctx.threads) {
                let bytes = &arena[layout.channels.place()];
                if !layout.would_fill(&self.packer, *i, bytes, norms) {
                    same.store(false, Relaxed);
                }
            }
        });
        same.into_inner()
    }
}
