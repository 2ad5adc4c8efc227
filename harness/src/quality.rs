//! How well the cases of a run predict a text, and how far their predictions lie from those of a base: once for each set of
//! options that bears on predictions, and never twice for the same model, options, text and program.
//!
//! What is known lies in a folder beside the models: the base's predictions, and the figures of each case, in files named by
//! the hash of everything that they hang on. Whatever is not in such a hash must not change what a model predicts.

use crate::clock;
use crate::interrupt;
use crate::measure::End;
use crate::models::{self, ModelStore};
use crate::record::{
    CaseRecord, Quality, QualityBase, QualityPlan, QualityRecord, Run, RunFolder, SCHEMA_VERSION,
    hex, write_whole,
};
use crate::runner::quality::{Job, predict};
use crate::runner::{PROTOCOL_VERSION, Program, Trouble};
use anyhow::Context as _;
use engine::Options;
use engine::quality::Figures;
use serde::Serialize;
use sha2::{Digest, Sha256};
use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// Folder in that of the models.
const FOLDER: &str = "quality";
/// Version of what the files of the folder mean; another one makes all of them unknown.
const VERSION: u32 = 2;

/// What is measured, and with what.
#[derive(Debug)]
pub struct Plan<'a> {
    /// What the run promised.
    pub promised: &'a QualityPlan,
    /// The program that works.
    pub worker: &'a Program,
    /// Where models are, and what is known of them.
    pub store: &'a ModelStore,
    /// Time that predicting the text may take.
    pub limit: Duration,
}

/// Measures what `done` has no figures of. `tell` hears what is being done, and what cannot be.
///
/// # Errors
/// When a record cannot be written. A case that gives no figures is a record, not an error.
pub fn run(
    plan: &Plan<'_>,
    folder: &mut RunFolder,
    done: &mut Run,
    tell: &mut dyn FnMut(&str),
) -> anyhow::Result<End> {
    let manifest = done.manifest.clone();
    let mut measuring = Measuring {
        plan,
        program: &manifest.binary.sha256,
        failed: HashMap::new(),
        tell,
    };
    for case in &manifest.cases {
        if done.quality(case.index).is_some() {
            continue;
        }
        if interrupt::requested() {
            return Ok(End::Interrupted);
        }
        let started_at = clock::timestamp();
        let Some(model) = manifest.models.get(case.model) else {
            continue;
        };
        let made = Made::new(plan, &case.engine, Path::new(&model.path), &model.sha256);
        let (key, from_cache, result) = match made {
            Err(error) => (String::new(), false, measuring.missing(case, &error)),
            Ok(made) => match measuring.case(case, &made) {
                None => return Ok(End::Interrupted),
                Some((from_cache, result)) => (measuring.key(&made), from_cache, result),
            },
        };
        let record = QualityRecord {
            schema_version: SCHEMA_VERSION,
            case: case.name.clone(),
            case_index: case.index,
            started_at,
            key,
            from_cache,
            result,
        };
        folder.add_quality(&record)?;
        done.quality.push(record);
    }
    Ok(End::Complete)
}

/// What is measured on what, in words.
pub fn sentence(promised: &QualityPlan) -> String {
    let name = |path: &str| {
        let path = Path::new(path);
        let name = path.file_name().unwrap_or(path.as_os_str());
        name.to_string_lossy().into_owned()
    };
    let windows = match promised.windows {
        Some(n) => format!("at most {n} windows"),
        None => "all windows".to_owned(),
    };
    let base = match &promised.base {
        QualityBase::Own(format) => format!("the same model in {format}"),
        QualityBase::File { path, .. } => format!("\"{}\"", name(path)),
    };
    format!(
        "\"{}\" in {windows} of {} tokens, the second half of each counted, held against the predictions of {base}",
        name(&promised.corpus),
        promised.ctx
    )
}

/// What predicts a text: a model with options, and the hash of both.
#[derive(Debug, Clone)]
struct Predictor {
    model: PathBuf,
    engine: Options,
    sha256: String,
}

impl Predictor {
    /// Options that do not bear on predictions do not bear on the hash either; of files that options name, the content does.
    fn new(options: &Options, model: &Path, model_sha256: &str) -> anyhow::Result<Predictor> {
        let engine = options.predicting();
        let content = |path: &Path| match path.as_os_str().is_empty() {
            true => Ok(String::new()),
            false => {
                let shown = path.display();
                let (mut file, _) = engine::file::open(path)?;
                models::sha256(&mut file).with_context(|| format!("cannot read \"{shown}\""))
            }
        };
        let mut named = Options {
            quant_plan: content(&engine.quant_plan)?.into(),
            quant_imatrix: content(&engine.quant_imatrix)?.into(),
            ..engine.clone()
        };
        if let Some(sparsity) = &mut named.sparsity {
            sparsity.thresholds = content(&sparsity.thresholds)?.into();
        }
        Ok(Predictor {
            model: model.to_owned(),
            sha256: hash(&(model_sha256, named))?,
            engine,
        })
    }
}

/// What a case's figures are made of.
#[derive(Debug)]
struct Made {
    predictor: Predictor,
    base: Predictor,
    /// Hash of the base's predictions of the text.
    base_key: String,
}

impl Made {
    fn new(
        plan: &Plan<'_>,
        options: &Options,
        model: &Path,
        model_sha256: &str,
    ) -> anyhow::Result<Made> {
        let (format, base, base_sha256) = match &plan.promised.base {
            QualityBase::Own(format) => (format.as_str(), model, model_sha256),
            QualityBase::File { path, sha256 } => ("native", Path::new(path), sha256.as_str()),
        };
        let base_options = Options {
            quant: format.to_owned(),
            ..Options::default()
        };
        let base = Predictor::new(&base_options, base, base_sha256)?;
        let QualityPlan {
            corpus_sha256,
            ctx,
            windows,
            ..
        } = plan.promised;
        Ok(Made {
            predictor: Predictor::new(options, model, model_sha256)?,
            base_key: hash(&(VERSION, &base.sha256, corpus_sha256, ctx, windows))?,
            base,
        })
    }
}

/// SHA-256 of something as JSON, hex.
fn hash(what: &impl Serialize) -> anyhow::Result<String> {
    Ok(hex(&Sha256::digest(serde_json::to_vec(what)?)))
}

/// Measuring in progress.
struct Measuring<'a> {
    plan: &'a Plan<'a>,
    /// SHA-256 of the program that works: another one may round otherwise.
    program: &'a str,
    /// Why there are no figures, or no base, under a key.
    failed: HashMap<String, String>,
    tell: &'a mut dyn FnMut(&str),
}

impl Measuring<'_> {
    /// Hash of everything that a case's figures hang on.
    fn key(&self, made: &Made) -> String {
        let parts = [&made.base_key, &made.predictor.sha256, self.program];
        hex(&Sha256::digest(parts.join(" ")))
    }

    fn file(&self, name: String) -> PathBuf {
        self.plan.store.dir().join(FOLDER).join(name)
    }

    /// The figures of a case, and whether they were known; `None` if the harness was asked to stop.
    fn case(&mut self, case: &CaseRecord, made: &Made) -> Option<(bool, Quality)> {
        let key = self.key(made);
        let stored = self.file(format!("{key}.json"));
        if let Some(figures) = recall(&stored) {
            return Some((true, Quality::Measured(figures)));
        }
        for key in [&key, &made.base_key] {
            if let Some(reason) = self.failed.get(key) {
                return Some((false, Quality::Missing(reason.clone())));
            }
        }
        let base = self.file(format!("{}.base", made.base_key));
        if !base.exists() {
            let what = match &self.plan.promised.base {
                QualityBase::Own(format) => format!("the model in {format}"),
                QualityBase::File { path, .. } => format!("\"{path}\""),
            };
            (self.tell)(&format!("predicting the text with the base, {what}"));
            if let Err(error) = std::fs::create_dir_all(base.parent().unwrap_or(&base)) {
                let error = anyhow::Error::from(error).context("no folder for predictions");
                return Some((false, self.missing(case, &error)));
            }
            if let Err(trouble) = self.predict(&made.base, &base, true) {
                let key = made.base_key.clone();
                return self.failure(case, key, "the base failed: ", trouble);
            }
        }
        (self.tell)(&format!("{}: predicting the text", case.name));
        match self.predict(&made.predictor, &base, false) {
            Err(trouble) => self.failure(case, key, "", trouble),
            Ok(None) => unreachable!("only a base has no figures"),
            Ok(Some(figures)) => {
                // Losing it costs time, no more.
                let _ = serde_json::to_vec(&figures).map(|text| write_whole(&stored, &text));
                Some((false, Quality::Measured(figures)))
            }
        }
    }

    /// Has the worker predict the text.
    fn predict(
        &self,
        predictor: &Predictor,
        base: &Path,
        makes_base: bool,
    ) -> Result<Option<Figures>, Trouble> {
        let promised = self.plan.promised;
        let job = Job {
            protocol: PROTOCOL_VERSION,
            model: predictor.model.clone(),
            engine: Options {
                ctx: promised.ctx as usize,
                ..predictor.engine.clone()
            },
            corpus: promised.corpus.clone().into(),
            corpus_sha256: promised.corpus_sha256.clone(),
            windows: promised.windows,
            base: base.to_owned(),
            makes_base,
            parent: Some(std::process::id() as i32),
        };
        predict(self.plan.worker, &job, self.plan.limit)
    }

    /// A case without figures, and why; the next one with this key has none for the same reason.
    fn failure(
        &mut self,
        case: &CaseRecord,
        key: String,
        whose: &str,
        trouble: Trouble,
    ) -> Option<(bool, Quality)> {
        match trouble {
            Trouble::Interrupted => None,
            Trouble::Failed { message, .. } => {
                let reason = format!("{whose}{message}");
                self.failed.insert(key, reason.clone());
                Some((false, self.missing(case, &anyhow::Error::msg(reason))))
            }
        }
    }

    fn missing(&mut self, case: &CaseRecord, error: &anyhow::Error) -> Quality {
        let reason = format!("{error:#}");
        (self.tell)(&format!("{}: no quality: {reason}", case.name));
        Quality::Missing(reason)
    }
}

/// Figures in a file, if they can be read.
fn recall(path: &Path) -> Option<Figures> {
    serde_json::from_slice(&std::fs::read(path).ok()?).ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use engine::options::sparsity::{Method, Sparsity};

    #[test]
    fn a_hash_hangs_on_what_predicts_and_on_nothing_else() {
        let dir = tempfile::tempdir().expect("folder");
        let plan = dir.path().join("plan.toml");
        let hash = |options: &Options, model: &str| {
            let predictor = Predictor::new(options, Path::new("m.gguf"), model);
            predictor.expect("a hash").sha256
        };
        let own = Options::default();
        let mixed = Options {
            quant: "mixed@4.5".into(),
            quant_plan: plan.clone(),
            ..own.clone()
        };
        assert!(Predictor::new(&mixed, Path::new("m.gguf"), "aa").is_err());
        std::fs::write(&plan, "one").expect("writes");
        let before = hash(&mixed, "aa");
        assert_eq!(
            before,
            hash(
                &Options {
                    threads: 3,
                    batch: 7,
                    ..mixed.clone()
                },
                "aa"
            )
        );
        let moved = dir.path().join("moved.toml");
        std::fs::copy(&plan, &moved).expect("copies");
        let elsewhere = Options {
            quant_plan: moved,
            ..mixed.clone()
        };
        assert_eq!(before, hash(&elsewhere, "aa"));
        std::fs::write(&plan, "two").expect("writes");
        assert_ne!(before, hash(&mixed, "aa"));
        assert_ne!(before, hash(&mixed, "bb"));
        assert_ne!(before, hash(&own, "aa"));
        let sparse = Options {
            sparsity: Some(Sparsity {
                method: Method::Teal,
                threshold: 0.0,
                thresholds: plan.clone(),
            }),
            ..own
        };
        let before = hash(&sparse, "aa");
        std::fs::write(&plan, "three").expect("writes");
        assert_ne!(before, hash(&sparse, "aa"));
    }
}
