//! The catalogue: real models by name, with their source, size, hash and licence.

use crate::exit::Fail;
use crate::scenario;
use serde::Deserialize;
use std::collections::BTreeMap;

/// A model of the catalogue.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Entry {
    /// What it is, in a few words.
    pub description: String,
    /// Name of the model file.
    pub file: String,
    /// Size of the model file in bytes.
    pub bytes: u64,
    /// SHA-256 of the model file, hex.
    pub sha256: String,
    /// Licence of the weights, as SPDX names it.
    pub licence: String,
    /// What the model file consists of, in order.
    pub parts: Vec<Part>,
}

/// A part of a model file, or all of it: a member of a Python package.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Part {
    /// The Python package that holds it.
    pub package: String,
    /// Version of the package.
    pub version: String,
    /// The file within the package.
    pub member: String,
    /// Size of that file in bytes.
    pub bytes: u64,
    /// SHA-256 of that file, hex.
    pub sha256: String,
}

/// All models, by name.
pub fn entries() -> BTreeMap<String, Entry> {
    toml::from_str(include_str!("catalogue.toml")).expect("a test reads the built-in catalogue")
}

/// The model called `name`.
///
/// # Errors
/// When there is none; the text has the names there are. Exit code 2.
pub fn entry(name: &str) -> anyhow::Result<Entry> {
    let mut all = entries();
    all.remove(name).ok_or_else(|| {
        let near = scenario::nearest(name, all.keys().map(String::as_str));
        let near = near.map(|near| format!("; did you mean \"{near}\"?"));
        let names: Vec<&str> = all.keys().map(String::as_str).collect();
        Fail::usage(format!(
            "model \"{name}\" is not in the catalogue{} (there are: {})",
            near.unwrap_or_default(),
            names.join(", ")
        ))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn entries_are_complete() {
        for (name, entry) in entries() {
            assert_eq!(entry.sha256.len(), 64, "{name}");
            assert!(entry.file.ends_with(".gguf"), "{name}");
            let bytes: u64 = entry.parts.iter().map(|part| part.bytes).sum();
            assert!(bytes > 0 && bytes == entry.bytes, "{name}");
            for part in &entry.parts {
                assert_eq!(part.sha256.len(), 64, "{name}");
                let file = part.member.rsplit('/').next().unwrap_or_default();
                assert!(file.starts_with(&entry.file), "{name}");
            }
            if let [whole] = &entry.parts[..] {
                assert_eq!(whole.sha256, entry.sha256, "{name}");
            }
        }
    }

    #[test]
    fn an_unknown_name_is_answered_with_the_nearest() {
        let error = entry("smollm2-135m-instruct").unwrap_err().to_string();
        let expect = "did you mean \"smollm2-135m-instruct-q4_1\"?";
        assert!(error.contains(expect), "{error}");
    }
}
