//! Formats that differ from matrix to matrix: what each would lose was measured, and a number of bits is spent where it
//! gains most.
//!
//! A *plan* is that measurement, a TOML file. Matrices of one kind in neighbouring layers are a group; of each group and
//! format it has the KL divergence of the model with nothing but that group in that format from the model as it is. Small
//! errors of different matrices add up, so the sum over the groups stands for the divergence of a choice, and the choice
//! with the smallest sum that fits the bits is found exactly (multiple-choice knapsack by dynamic programming).

use super::{Rule, format, is_matrix, multiplied};
use crate::error::{Error, Result};
use crate::gguf::Gguf;
use crate::quant::FormatInfo;
use regex::Regex;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::path::Path;

/// Parts that the bytes to be spent are counted in at most; a group's are rounded up then.
const PARTS_MAX: u64 = 1 << 15;

/// More formats, weights and bytes than any group has.
const CHOICES_MAX: usize = 1 << 8;
const SIZE_MAX: u64 = 1 << 40;

/// Longest plan read, in bytes.
const PLAN_BYTES_MAX: u64 = 64 << 20;

/// A plan: what the matrices of a model lose in other formats, and how that was measured.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Mixed {
    /// File of the model.
    pub model: String,
    /// The text that divergences were measured on.
    pub text: String,
    /// Pieces of it that were read.
    pub windows: usize,
    /// Tokens of each.
    pub window_tokens: usize,
    /// Importance matrix that the matrices were encoded with; empty for none.
    pub imatrix: String,
    /// The matrices.
    pub group: Vec<Group>,
}

/// Matrices that take the same format.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Group {
    /// Kind and layers: `ffn_down 0-9`.
    pub name: String,
    /// Number of weights.
    pub weights: u64,
    /// Formats they may take.
    pub choice: Vec<Choice>,
    /// Names of the tensors.
    pub tensors: Vec<String>,
}

/// A format that a group may take.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Choice {
    /// Name of the format.
    pub format: String,
    /// Bytes of the group in it.
    pub bytes: u64,
    /// Mean KL divergence of the model's predictions with this group in it, in nats.
    pub kld: f64,
}

impl Group {
    /// The rule that gives all its tensors `format`.
    fn rule(&self, format: &'static FormatInfo) -> Rule {
        let names: Vec<String> = self
            .tensors
            .iter()
            .map(|name| regex::escape(name))
            .collect();
        let names = Regex::new(&format!("^(?:{})$", names.join("|")));
        (names.expect("escaped names"), format)
    }
}

fn gcd(a: u64, b: u64) -> u64 {
    if b == 0 { a } else { gcd(b, a % b) }
}

/// The layer of a matrix, `None` outside of the layers, and its kind: `blk.3.ffn_down.weight` is `ffn_down` of layer 3.
pub(super) fn kind(name: &str) -> (Option<usize>, &str) {
    let whole = name.trim_end_matches(".weight");
    let parts = whole.strip_prefix("blk.").and_then(|n| n.split_once('.'));
    let in_layer = parts.and_then(|(layer, kind)| Some((layer.parse::<u32>().ok()?, kind)));
    in_layer.map_or((None, whole), |(layer, kind)| (Some(layer as usize), kind))
}

/// The groups of a model's matrices, without choices: those of one kind in each of `parts` parts of the layers.
fn groups(file: &Gguf, parts: usize) -> Vec<Group> {
    let layers = multiplied(file).filter_map(|t| Some(kind(&t.name).0? + 1));
    let layers = layers.max().unwrap_or(1);
    let mut groups: BTreeMap<(String, usize), (Group, usize, usize)> = BTreeMap::new();
    for tensor in multiplied(file) {
        let (l, kind) = kind(&tensor.name);
        let l = l.unwrap_or(0);
        let (group, first, last) = groups
            .entry((kind.to_owned(), l * parts.clamp(1, layers) / layers))
            .or_insert_with(|| {
                (
                    Group {
                        name: String::new(),
                        weights: 0,
                        choice: Vec::new(),
                        tensors: Vec::new(),
                    },
                    l,
                    l,
                )
            });
        group.weights += tensor.n_values();
        group.tensors.push(tensor.name.clone());
        (*first, *last) = (l.min(*first), l.max(*last));
    }
    let named = |((kind, _), (group, first, last)): ((String, usize), (Group, usize, usize))| {
        let in_layers = group.tensors[0].starts_with("blk.");
        let name = if in_layers {
            format!("{kind} {first}-{last}")
        } else {
            kind
        };
        Group { name, ..group }
    };
    groups.into_iter().map(named).collect()
}

impl Mixed {
    /// Measures every group of `file` in every one of `formats`, or what takes its place for the group's rows. `kld` is
    /// asked for the divergence of the model with rules; it is 0 where a group keeps its format. The rest is for the caller
    /// to fill in.
    ///
    /// # Errors
    /// Those of `kld`.
    pub fn measure(
        file: &Gguf,
        formats: &[&'static FormatInfo],
        parts: usize,
        kld: &mut dyn FnMut(&Group, Vec<Rule>) -> Result<f64>,
    ) -> Result<Vec<Group>> {
        let mut groups = groups(file, parts);
        for group in &mut groups {
            let tensors: Vec<_> = group
                .tensors
                .iter()
                .filter_map(|t| file.tensor(t))
                .collect();
            let mut tried: Vec<&str> = Vec::new();
            for format in formats {
                let format = format.for_rows(tensors[0].dims[0]);
                if tried.contains(&format.name) {
                    continue;
                }
                tried.push(format.name);
                let as_it_is = tensors.iter().all(|t| t.format_id == format.id);
                let choice = Choice {
                    format: format.name.into(),
                    bytes: tensors
                        .iter()
                        .map(|t| {
                            t.n_values() / t.dims[0] * format.row_bytes(t.dims[0] as usize) as u64
                        })
                        .sum(),
                    kld: if as_it_is {
                        0.0
                    } else {
                        kld(group, vec![group.rule(format)])?
                    },
                };
                group.choice.push(choice);
            }
        }
        Ok(groups)
    }

    /// Reads a plan.
    ///
    /// # Errors
    /// When there is none, or it is damaged.
    pub fn open(path: &Path) -> Result<Mixed> {
        let io = |source| Error::Io {
            action: "read",
            path: path.to_owned(),
            source,
        };
        let refused = |what: String| Error::Input(format!("\"{}\": {what}", path.display()));
        let (file, metadata) = crate::file::open(path)?;
        let bytes = metadata.len();
        if bytes > PLAN_BYTES_MAX {
            return Err(refused(format!(
                "{bytes} bytes are too many for a plan, expected at most {PLAN_BYTES_MAX}"
            )));
        }
        let text = std::io::read_to_string(file).map_err(io)?;
        let plan: Mixed = toml::from_str(&text).map_err(|e: toml::de::Error| {
            refused(format!("is no plan of \"engine plan\": {}", e.message()))
        })?;
        let numbers = |c: &Choice| c.kld.is_finite() && (1..SIZE_MAX).contains(&c.bytes);
        let whole = |g: &Group| {
            let some = !g.tensors.is_empty() && (1..CHOICES_MAX).contains(&g.choice.len());
            some && g.weights < SIZE_MAX && g.choice.iter().all(numbers)
        };
        match plan.group.iter().all(whole) {
            true => Ok(plan),
            false => Err(refused(
                "a group has no matrices, no formats, or figures that cannot be: make the plan again"
                    .into(),
            )),
        }
    }

    /// Writes the plan, to a file that does not exist yet.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn save(&self, path: &Path) -> Result<()> {
        let text = toml::to_string(self).map_err(|e| Error::Input(e.to_string()))?;
        crate::gguf::write::create(path, text.len() as u64, |mut file| {
            std::io::Write::write_all(&mut file, text.as_bytes())
        })
    }

    /// The choice of each group, in their order: the smallest sum of divergences that `bits` a weight allow.
    ///
    /// # Errors
    /// When no choice is as small.
    pub fn allocate(&self, bits: f64) -> Result<Vec<&Choice>> {
        let weights: u64 = self.group.iter().map(|g| g.weights).sum();
        let bytes = (bits * weights as f64 / 8.0) as u64;
        let choices = self.group.iter().flat_map(|g| &g.choice);
        let unit = choices.fold(0, |unit, c| gcd(unit, c.bytes));
        let unit = unit.max(bytes.div_ceil(PARTS_MAX)).max(1);
        let cost = |c: &Choice| c.bytes.div_ceil(unit) as usize;
        let parts = (bytes / unit) as usize;
        // best[n]: the smallest sum for the groups so far in n parts; picks[group][n]: which choice leads there.
        let mut best = vec![0.0; parts + 1];
        let mut picks = Vec::with_capacity(self.group.len());
        for group in &self.group {
            let mut sums = vec![f64::INFINITY; parts + 1];
            let mut pick = vec![0; parts + 1];
            for (i, choice) in group.choice.iter().enumerate() {
                let cost = cost(choice);
                for n in cost..=parts {
                    let sum = best[n - cost] + choice.kld.max(0.0);
                    if sum < sums[n] {
                        (sums[n], pick[n]) = (sum, i as u16);
                    }
                }
            }
            best = sums;
            picks.push(pick);
        }
        if best[parts] == f64::INFINITY {
            let least = |g: &Group| g.choice.iter().map(|c| c.bytes).min().unwrap_or(0);
            let least: u64 = self.group.iter().map(least).sum();
            return Err(Error::Option {
                option: "quant",
                what: format!(
                    "{bits} bits are fewer than the smallest formats of the plan take, {:.3}",
                    8.0 * least as f64 / weights.max(1) as f64
                ),
            });
        }
        let mut left = parts;
        let mut chosen: Vec<&Choice> = Vec::with_capacity(picks.len());
        for (group, pick) in self.group.iter().zip(&picks).rev() {
            let choice = &group.choice[usize::from(pick[left])];
            left -= cost(choice);
            chosen.push(choice);
        }
        chosen.reverse();
        Ok(chosen)
    }

    /// The formats of the tensors of `file` with `bits` a weight.
    ///
    /// # Errors
    /// As [`Mixed::allocate`], and when the plan was made for another model.
    pub fn rules(&self, file: &Gguf, bits: f64) -> Result<Vec<Rule>> {
        let other = |what: String| {
            Error::Input(format!(
                "the plan was made for \"{}\", another model: {what}",
                self.model
            ))
        };
        let planned = || self.group.iter().flat_map(|g| &g.tensors);
        for name in planned() {
            if !file.tensor(name).is_some_and(is_matrix) {
                return Err(other(format!("this one has no matrix \"{name}\"")));
            }
        }
        let (planned, found) = (planned().count(), multiplied(file).count());
        let weights: u64 = self.group.iter().map(|g| g.weights).sum();
        if planned != found || weights != multiplied(file).map(|t| t.n_values()).sum() {
            return Err(other(format!(
                "it has {planned} matrices of {weights} weights, this one {found}"
            )));
        }
        let chosen = self.allocate(bits)?.into_iter().zip(&self.group);
        chosen
            .map(|(choice, group)| Ok(group.rule(format(&choice.format)?)))
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rng::Rng;

    fn plan(groups: &[&[(u64, f64)]]) -> Mixed {
        let group = |(i, choices): (usize, &&[(u64, f64)])| Group {
            name: format!("g {i}"),
            weights: 1000,
            choice: choices
                .iter()
                .map(|&(bytes, kld)| Choice {
                    format: format!("{bytes}"),
                    bytes,
                    kld,
                })
                .collect(),
            tensors: vec![format!("blk.{i}.g.weight")],
        };
        Mixed {
            model: "m.gguf".into(),
            text: "t.txt".into(),
            windows: 1,
            window_tokens: 8,
            imatrix: String::new(),
            group: groups.iter().enumerate().map(group).collect(),
        }
    }

    fn bytes(plan: &Mixed, bits: f64) -> Vec<u64> {
        plan.allocate(bits)
            .unwrap()
            .iter()
            .map(|c| c.bytes)
            .collect()
    }

    #[test]
    fn bits_go_where_they_gain_most() {
        let plan = plan(&[
            &[(500, 0.1), (1000, 0.0)],
            &[(500, 0.5), (1000, 0.0)],
            &[(500, 0.2), (750, 0.05), (1000, 0.04)],
        ]);
        assert_eq!(bytes(&plan, 4.0), [500, 500, 500]);
        assert_eq!(bytes(&plan, 5.4), [500, 1000, 500]);
        // Not the best step each time: the second step of the third group is worth less than the first of the first.
        assert_eq!(bytes(&plan, 6.01), [500, 1000, 750]);
        assert_eq!(bytes(&plan, 7.4), [1000, 1000, 750]);
        assert_eq!(bytes(&plan, 32.0), [1000, 1000, 1000]);
        let text = plan.allocate(3.9).unwrap_err().to_string();
        assert!(
            text.contains("\"quant\"") && text.contains("4.000"),
            "{text}"
        );
    }

    #[test]
    fn no_choice_of_as_many_bits_loses_less() {
        let mut random = Rng::of(3, "choices");
        let mut number = |below: usize| random.below(below) as u64 + 1;
        for _ in 0..50 {
            let groups: Vec<Vec<(u64, f64)>> = (0..5)
                .map(|_| {
                    (0..3)
                        .map(|_| (100 * number(10), number(1000) as f64))
                        .collect()
                })
                .collect();
            let plan = plan(&groups.iter().map(Vec::as_slice).collect::<Vec<_>>());
            let Ok(chosen) = plan.allocate(4.0) else {
                continue;
            };
            let sum: f64 = chosen.iter().map(|c| c.kld).sum();
            assert!(chosen.iter().map(|c| c.bytes).sum::<u64>() <= 2500);
            for all in 0..3usize.pow(5) {
                let of = |i: usize| groups[i][all / 3usize.pow(i as u32) % 3];
                if (0..5).map(|i| of(i).0).sum::<u64>() <= 2500 {
                    assert!((0..5).map(|i| of(i).1).sum::<f64>() >= sum);
                }
            }
        }
    }
}
