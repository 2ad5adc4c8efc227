//! How well a case predicts a text, and how far its predictions lie from those of a base.

use super::Run;
use engine::quality::Figures;
use serde::{Deserialize, Serialize};

/// What quality is measured on and held against, the same for all cases of a run.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct QualityPlan {
    /// The text, as an absolute path.
    pub corpus: String,
    /// SHA-256 of the text, hex.
    pub corpus_sha256: String,
    /// Tokens of a window.
    pub ctx: u32,
    /// Windows that are read, spread over the text; `None` for all that it fills.
    pub windows: Option<u32>,
    /// Whose predictions are the base.
    pub base: QualityBase,
}

/// Whose predictions are those that others are held against.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum QualityBase {
    /// The model of the case itself, its matrices in this format.
    Own(String),
    /// Another model.
    File {
        /// Its file, as an absolute path.
        path: String,
        /// SHA-256 of the file, hex.
        sha256: String,
    },
}

/// One attempt to measure the quality of a case.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct QualityRecord {
    /// [`super::SCHEMA_VERSION`] of the writer.
    pub schema_version: u32,
    /// Name of the case.
    pub case: String,
    /// Index of the case in the manifest.
    pub case_index: u32,
    /// Start of the attempt, RFC 3339, UTC.
    pub started_at: String,
    /// Hash of everything that the figures hang on, hex; empty where something of it could not be read.
    pub key: String,
    /// Whether the figures were measured before, by this or another run.
    pub from_cache: bool,
    /// What it gave.
    pub result: Quality,
}

/// What measuring quality gave.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Quality {
    /// Figures.
    Measured(Figures),
    /// None, for this reason; with what to do about it.
    Missing(String),
}

impl QualityRecord {
    /// The figures, if there are any.
    pub fn figures(&self) -> Option<&Figures> {
        match &self.result {
            Quality::Measured(figures) => Some(figures),
            Quality::Missing(_) => None,
        }
    }

    /// Why there are none.
    pub fn missing(&self) -> Option<&str> {
        match &self.result {
            Quality::Measured(_) => None,
            Quality::Missing(reason) => Some(reason),
        }
    }
}

impl Run {
    /// The last attempt to measure the quality of a case.
    pub fn quality_record(&self, case_index: u32) -> Option<&QualityRecord> {
        let mut records = self.quality.iter();
        records.rfind(|record| record.case_index == case_index)
    }

    /// The quality of a case.
    pub fn quality(&self, case_index: u32) -> Option<&Figures> {
        self.quality_record(case_index)?.figures()
    }
}
