//! Files of thresholds: one for every layer and site, and how they were found.

use super::Site;
use crate::error::{Error, Result};
use crate::gguf::{Gguf, write};
use crate::options::sparsity::{Method, Sparsity, refused};
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use std::collections::BTreeMap;
use std::io::Write;
use std::path::Path;

/// Longest file read, in bytes.
const BYTES_MAX: u64 = 4 << 20;

/// Bytes of a tensor that its model is recognised by.
const SEEN_BYTES: usize = 64 << 10;

/// Thresholds by layer and site, and where they come from.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Thresholds {
    /// Whether magnitudes are weighed by the norms of their columns, as `wina` holds them against a threshold.
    pub norms: bool,
    /// Share of the channels that was to be left out at every site.
    pub sparsity: f64,
    /// The model, see [`fingerprint`].
    pub model: String,
    /// SHA-256 of the text.
    pub text: String,
    /// Tokens of it that were read.
    pub tokens: u64,
    /// What made them; nothing in files of versions that did not say.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub made_by: Option<MadeBy>,
    /// Thresholds of every layer, by site.
    pub layer: Vec<BTreeMap<Site, f32>>,
    /// Share of the channels below them in the text, of every layer by site.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub left_out: Vec<BTreeMap<Site, f64>>,
    /// Thresholds that would leave out each of [`CURVE_SHARES`], of every layer by site.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub curve: Vec<BTreeMap<Site, Vec<f32>>>,
}

/// Shares that curves of sparsity have a threshold for.
pub const CURVE_SHARES: [f64; 9] = [0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9];

/// What made a file of thresholds.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct MadeBy {
    /// Method that was asked for; all but `wina` have the same thresholds.
    pub method: Method,
    /// Version of the engine.
    pub version: String,
    /// SHA-256 of the program.
    pub program: String,
    /// [`CURVE_SHARES`] of that version.
    pub curve_shares: Vec<f64>,
}

/// What a model is recognised by: SHA-256 of the name, type, shape and first 64 KiB of every tensor.
pub fn fingerprint(file: &Gguf) -> String {
    let mut hash = Sha256::new();
    for tensor in file.tensors() {
        hash.update(format!(
            "{} {} {:?} ",
            tensor.name, tensor.format_id, tensor.dims
        ));
        let data = file.data(tensor);
        hash.update(&data[..data.len().min(SEEN_BYTES)]);
    }
    hex(&hash.finalize())
}

/// SHA-256 of a text.
pub fn text_hash(text: &str) -> String {
    hex(&Sha256::digest(text))
}

impl MadeBy {
    /// The program whose file is `program`, asked for `method`.
    ///
    /// # Errors
    /// When the file cannot be read.
    pub fn program(program: &Path, method: Method) -> Result<MadeBy> {
        let read = std::fs::read(program).map_err(|source| Error::Io {
            action: "read",
            path: program.to_owned(),
            source,
        })?;
        Ok(MadeBy {
            method,
            version: env!("CARGO_PKG_VERSION").to_owned(),
            program: hex(&Sha256::digest(read)),
            curve_shares: CURVE_SHARES.to_vec(),
        })
    }
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|b| format!("{b:02x}")).collect()
}

/// An error about a file of thresholds.
fn refused_file(what: String) -> Error {
    refused("sparsity.thresholds", what)
}

impl Thresholds {
    /// Reads a file.
    ///
    /// # Errors
    /// When there is none, or it is damaged.
    pub fn open(path: &Path) -> Result<Thresholds> {
        let of_option = |error: Error| error.of_option("sparsity.thresholds");
        let (file, metadata) = crate::file::open(path).map_err(of_option)?;
        let bytes = metadata.len();
        if bytes > BYTES_MAX {
            return Err(refused_file(format!(
                "\"{}\" has {bytes} bytes, too many for thresholds, expected at most {BYTES_MAX}",
                path.display()
            )));
        }
        let text = std::io::read_to_string(file).map_err(|source| {
            of_option(Error::Io {
                action: "read",
                path: path.to_owned(),
                source,
            })
        })?;
        let refused = |why: &str| {
            refused_file(format!(
                "\"{}\" holds no thresholds ({why}): make them with \"engine calibrate\"",
                path.display()
            ))
        };
        let found: Thresholds =
            toml::from_str(&text).map_err(|e: toml::de::Error| refused(e.message()))?;
        match found.is_finite() {
            true => Ok(found),
            false => Err(refused("one of its numbers is infinite, or not a number")),
        }
    }

    /// Whether all numbers are numbers.
    fn is_finite(&self) -> bool {
        let shares = self.made_by.iter().flat_map(|by| &by.curve_shares);
        let mut shares = shares.chain(self.left_out.iter().flat_map(BTreeMap::values));
        let curves = self.curve.iter().flat_map(BTreeMap::values).flatten();
        let mut magnitudes = self.layer.iter().flat_map(BTreeMap::values).chain(curves);
        self.sparsity.is_finite()
            && shares.all(|share| share.is_finite())
            && magnitudes.all(|magnitude| magnitude.is_finite())
    }

    /// Writes the file.
    ///
    /// # Errors
    /// When it exists or cannot be written.
    pub fn save(&self, path: &Path) -> Result<()> {
        let text = toml::to_string(self).map_err(|e| Error::Input(e.to_string()))?;
        write::create(path, text.len() as u64, |mut file| {
            file.write_all(text.as_bytes())
        })
    }

    /// The thresholds that `wanted` has for the `layers` layers of `file`, each by site.
    ///
    /// # Errors
    /// When there is neither a file nor a threshold above 0, or those of the file are for another method or model, or one is
    /// missing.
    pub fn of(
        wanted: &Sparsity,
        file: &Gguf,
        layers: usize,
    ) -> Result<Vec<[f32; Site::ALL.len()]>> {
        if wanted.thresholds.as_os_str().is_empty() {
            if wanted.threshold == 0.0 {
                return Err(refused_file(
                    "the method needs thresholds: make a file of them with \"engine calibrate\", or set sparsity.threshold above 0"
                        .into(),
                ));
            }
            return Ok(vec![[wanted.threshold; Site::ALL.len()]; layers]);
        }
        let found = Thresholds::open(&wanted.thresholds)?;
        let path = wanted.thresholds.display();
        let norms = wanted.method == Method::Wina;
        if found.norms != norms {
            let [found, needed] = [found.norms, norms].map(|norms| match norms {
                true => "magnitudes times norms",
                false => "magnitudes",
            });
            return Err(refused_file(format!(
                "\"{path}\" has thresholds of {found}, the method needs those of {needed}: make others with \"engine calibrate --method\""
            )));
        }
        let model = fingerprint(file);
        if found.model != model || found.layer.len() != layers {
            return Err(refused_file(format!(
                "\"{path}\" has thresholds for the {} layers of model {:.16}, this one is {model:.16} with {layers}: make others with \"engine calibrate\"",
                found.layer.len(),
                found.model
            )));
        }
        let of_layer = |(l, sites): (usize, &BTreeMap<Site, f32>)| {
            let mut thresholds = [0.0; Site::ALL.len()];
            for site in wanted.method.sites() {
                let found = match sites.get(site) {
                    Some(t) if *t >= 0.0 => {
                        thresholds[*site as usize] = *t;
                        continue;
                    }
                    Some(t) => format!("a threshold of {t}, not 0 or more,"),
                    None => "no threshold".to_owned(),
                };
                return Err(refused_file(format!(
                    "\"{path}\" has {found} for \"{}\" in layer {l}: make others with \"engine calibrate\"",
                    site.name()
                )));
            }
            Ok(thresholds)
        };
        found.layer.iter().enumerate().map(of_layer).collect()
    }
}
