//! Activation sparsity: inputs of a matrix that are small are taken as 0, and what they would be multiplied with is not read.
//!
//! It applies to passes over one token; several tokens together need nearly all channels, and are computed densely. A session
//! that scores a text takes it token by token. For what may be left out, a model holds a second copy of its matrices, by
//! channels ([`Channels`]): the copy by columns has its blocks along the outputs, so the weights are encoded anew for it.
//! Which channels take part is decided by the thresholds of the site ([`Site`]).

mod calibrate;
mod channels;
mod thresholds;

pub use calibrate::Magnitudes;
pub use channels::strip_format;
pub(crate) use channels::{Channels, Layout, Packer, Part};
pub use thresholds::{CURVE_SHARES, MadeBy, Thresholds, fingerprint, text_hash};

use crate::kernel::Active;
use crate::mmap::Arena;
use crate::options::sparsity::Method;
use crate::stage::Stage;
use serde::{Deserialize, Serialize};

/// What is held against a threshold.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Site {
    /// What query, key and value are made of.
    Qkv,
    /// What attention gives, before its output projection.
    O,
    /// What gate and up projection are multiplied with.
    GateUp,
    /// The activated gate: decides about rows of the up projection.
    Gate,
    /// Gate times up: what the down projection is multiplied with.
    Down,
}

impl Site {
    /// All sites, in the order of a layer.
    pub const ALL: [Site; 5] = [Site::Qkv, Site::O, Site::GateUp, Site::Gate, Site::Down];

    /// Its name in files and results.
    pub fn name(self) -> &'static str {
        match self {
            Site::Qkv => "qkv",
            Site::O => "o",
            Site::GateUp => "gate_up",
            Site::Gate => "gate",
            Site::Down => "down",
        }
    }

    /// The stage that reads what the site decides about.
    pub fn stage(self) -> Stage {
        match self {
            Site::Qkv => Stage::Qkv,
            Site::O => Stage::AttnOut,
            Site::GateUp | Site::Gate => Stage::GateUp,
            Site::Down => Stage::Down,
        }
    }
}

impl Method {
    /// Sites that have a threshold.
    pub fn sites(self) -> &'static [Site] {
        match self {
            Method::None => &[],
            Method::FatreluMasked | Method::FatreluTransposed => &[Site::Down],
            Method::Gated => &[Site::Gate],
            Method::Teal | Method::Wina => &[Site::Qkv, Site::O, Site::GateUp, Site::Down],
        }
    }
}

/// What a layer leaves out.
pub(crate) struct Layer {
    /// Thresholds by site.
    pub(crate) thresholds: [f32; Site::ALL.len()],
    /// Matrices by channels, by site.
    pub(crate) matrices: [Option<Channels>; Site::ALL.len()],
}

/// What a model leaves out.
pub(crate) struct Sparse {
    pub(crate) method: Method,
    pub(crate) layers: Vec<Layer>,
    /// The bytes of all matrices by channels.
    pub(crate) arena: Arena,
}

impl Sparse {
    /// Matrices by channels.
    pub(crate) fn matrices(&self) -> impl Iterator<Item = &Channels> {
        self.layers.iter().flat_map(|l| l.matrices.iter().flatten())
    }
}

/// Channels that took part at a site, and the bytes of weights that they decided about.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct SiteCount {
    /// Channels that took part, summed over tokens.
    pub active: u64,
    /// Channels there were.
    pub channels: u64,
    /// Bytes read.
    pub read_bytes: u64,
    /// Bytes that all channels have.
    pub possible_bytes: u64,
}

impl SiteCount {
    /// Element-wise sum.
    pub fn add(&mut self, other: &SiteCount) {
        self.active += other.active;
        self.channels += other.channels;
        self.read_bytes += other.read_bytes;
        self.possible_bytes += other.possible_bytes;
    }
}

/// What took part in a layer, at each site that something was left out at.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LayerCount {
    /// The layer, from 0.
    pub layer: usize,
    /// The site.
    pub site: Site,
    /// What took part.
    #[serde(flatten)]
    pub count: SiteCount,
}

/// What took part in the passes of a session since it was last asked.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Telemetry {
    /// By layer and site, in the order of a pass.
    pub sites: Vec<LayerCount>,
}

/// Lists the channels of which `value(channel)` is not small in `list`, which has room for all `channels`; of every block of
/// `block` channels, and past the last one, `starts` gets where it begins in the list. Gives their number.
pub(crate) fn select(
    values: &[f32],
    norms: &[f32],
    threshold: f32,
    block: usize,
    list: &mut [Active],
    starts: &mut [u32],
) -> usize {
    assert!(list.len() >= values.len() && starts.len() > values.len().div_ceil(block));
    let mut n = 0;
    for (b, values) in values.chunks(block).enumerate() {
        starts[b] = n as u32;
        let first = b * block;
        let norms = norms.get(first..).unwrap_or(&[]);
        for (i, &value) in values.iter().enumerate() {
            // Every channel is written; the next one takes its place if it does not take part.
            list[n] = Active {
                channel: (first + i) as u32,
                value,
            };
            let weight = norms.get(i).unwrap_or(&1.0);
            n += usize::from(takes_part(value * weight, threshold));
        }
        starts[b + 1] = n as u32;
    }
    n
}

/// Whether a value is not small; one that is not a number takes part, so that it is not hidden.
pub(crate) fn takes_part(value: f32, threshold: f32) -> bool {
    value.abs() >= threshold || value.is_nan()
}
