//! A text predicted in a process of its own: the base's predictions kept in a file, or those of a case held against them.

use super::child::{self, Program};
use super::{Answer, PROTOCOL_VERSION, Trouble, last_answer};
use crate::record::{FailureKind, hex};
use ::engine::gguf::Gguf;
use ::engine::model::Model;
use ::engine::pool::Pool;
use ::engine::quality;
use ::engine::session::Session;
use ::engine::tokenizer::Tokenizer;
use ::engine::{Error, Result};
use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};
use std::path::{Path, PathBuf};
use std::time::Duration;

/// What makes a worker expect a [`Job`] of this kind.
const FLAG: &str = "--quality";
/// Key of a scenario that gives the time.
const LIMITED_BY: &str = "quality.timeout_s";

/// A text to predict.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Job {
    /// [`PROTOCOL_VERSION`].
    pub protocol: u32,
    /// The model file.
    pub model: PathBuf,
    /// Options of the engine; the context is a window.
    pub engine: ::engine::Options,
    /// The text.
    pub corpus: PathBuf,
    /// SHA-256 that it must have, hex.
    pub corpus_sha256: String,
    /// Windows that are read at most, spread over the text.
    pub windows: Option<u32>,
    /// File of the base's predictions.
    pub base: PathBuf,
    /// Whether that file is to be made, of this model; else the model is held against it.
    pub makes_base: bool,
    /// Process that must live for the worker to go on; the worker ends with it.
    pub parent: Option<i32>,
}

/// Has a fresh process do a job: the figures of a model, or none where it made a base.
///
/// # Errors
/// When it gave no result, or the harness was asked to stop.
pub fn predict(
    worker: &Program,
    job: &Job,
    limit: Duration,
) -> std::result::Result<Option<quality::Figures>, Trouble> {
    let failed = |kind, message: String, stderr: &str| Trouble::Failed {
        kind,
        message,
        stderr: stderr.to_owned(),
    };
    let spawn = |what: String| failed(FailureKind::Spawn, what, "");
    let mut input =
        serde_json::to_vec(job).map_err(|e| spawn(format!("job cannot be written: {e}")))?;
    input.push(b'\n');
    let mut program = worker.clone();
    program.args.push(FLAG.into());
    let ended = child::run(&program, input, limit, None)
        .map_err(|e| spawn(format!("cannot start \"{}\": {e}", worker.path.display())))?;
    let answer = last_answer(&ended, limit, LIMITED_BY).map_err(|trouble| match trouble {
        None => Trouble::Interrupted,
        Some((kind, message)) => failed(kind, message, &ended.stderr),
    })?;
    match (answer, job.makes_base) {
        (Some(Answer::BaseMade {}), true) => Ok(None),
        (Some(Answer::Predicted(figures)), false) => Ok(Some(figures)),
        _ => {
            let message = "ended without a result".to_owned();
            Err(failed(FailureKind::Protocol, message, &ended.stderr))
        }
    }
}

/// The worker's side of it. `tell` hears [`Answer::Started`] and what came out.
///
/// # Errors
/// When the job is of another protocol version, the text has changed, or the engine refuses the model, the options or the text.
pub fn work(job: &Job, tell: &mut dyn FnMut(&Answer)) -> Result<()> {
    super::engine::require_protocol(job.protocol)?;
    tell(&Answer::Started {
        protocol: PROTOCOL_VERSION,
    });
    let text = text(job)?;
    let tokenizer = Tokenizer::from_gguf(&Gguf::open(&job.model)?)?;
    let windows = quality::windows(&tokenizer, &text, job.engine.ctx)?;
    let windows = quality::spread(windows, job.windows.map_or(usize::MAX, |n| n as usize));
    let pool = Pool::new(&job.engine)?;
    let model = Model::load(&job.model, &pool, &job.engine)?;
    let mut session = Session::new(&model, &pool, &job.engine)?;
    let answer = match job.makes_base {
        true => {
            quality::write_base(&mut session, &windows, &job.base)?;
            Answer::BaseMade {}
        }
        false => Answer::Predicted(quality::against(&mut session, &windows, &job.base)?),
    };
    tell(&answer);
    Ok(())
}

/// Refuses a text that does not fill a window of `ctx` tokens of a model; what is wrong with the model itself is for others to
/// tell.
///
/// # Errors
/// How many tokens it has.
pub fn require_window(model: &Path, corpus: &Path, ctx: u32) -> Result<()> {
    let Ok(tokenizer) = Gguf::open(model).and_then(|file| Tokenizer::from_gguf(&file)) else {
        return Ok(());
    };
    let text = std::fs::read_to_string(corpus).map_err(|source| read_error(corpus, source))?;
    quality::windows(&tokenizer, &text, ctx as usize).map(drop)
}

fn read_error(path: &Path, source: std::io::Error) -> Error {
    Error::Io {
        action: "read",
        path: path.to_owned(),
        source,
    }
}

/// The text, if it is still the same.
fn text(job: &Job) -> Result<String> {
    let shown = job.corpus.display();
    let bytes = std::fs::read(&job.corpus).map_err(|source| read_error(&job.corpus, source))?;
    if hex(&Sha256::digest(&bytes)) != job.corpus_sha256 {
        let what = format!("\"{shown}\" has changed since the run began: start a new one");
        return Err(Error::Input(what));
    }
    String::from_utf8(bytes).map_err(|_| Error::Input(format!("\"{shown}\" is not UTF-8 text")))
}
