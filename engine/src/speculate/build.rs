//! From options to drafters.

use super::{Drafter, ModelDrafter, PromptLookup, SelfDrafter, Speculator, Suffixes};
use crate::error::{Error, Result};
use crate::gguf::Gguf;
use crate::model::{Config, Model};
use crate::options::Options;
use crate::options::speculation::{DraftTokens, LONGEST_MATCH, Method, Speculation, refused};
use crate::pool::Pool;
use crate::quantize::{Recipe, check_format, plan, product_formats};
use crate::sample::SamplerOptions;
use crate::session::{Parts, Session, check_vocabulary, require_top_bits, skipped};
use crate::tokenizer::Tokenizer;
use std::path::{Path, PathBuf};

/// Names of options in errors.
const DRAFT_MODEL: &str = "speculation.draft_model";
const DRAFT_QUANT: &str = "speculation.draft_quant";

/// What drafts.
enum Source<'a> {
    /// Another model.
    File(&'a Path),
    /// The target in another format.
    Copy(&'a str),
    /// The target itself, or no model.
    Own,
}

impl Source<'_> {
    fn of(wanted: &Speculation) -> Source<'_> {
        match (wanted.method, &wanted.draft_model, &wanted.draft_quant) {
            (Method::DraftModel | Method::Cascade, Some(path), _) => Source::File(path),
            (Method::Qcsd | Method::Cascade, _, Some(quant)) if !wanted.drafts_with_top_bits() => {
                Source::Copy(quant)
            }
            _ => Source::Own,
        }
    }
}

/// The options that a copy of the target in format `quant` is loaded with. Thresholds are those of the target.
fn copy(options: &Options, quant: &str) -> Options {
    Options {
        quant: quant.into(),
        sparsity: None,
        ..options.clone()
    }
}

/// Refuses drafts that the model in `target` cannot have. Reads the starts of files only.
///
/// # Errors
/// When options do not fit, or as [`load_draft`].
pub fn check(options: &Options, target: &Gguf) -> Result<()> {
    let Some(wanted) = &options.speculation else {
        return Ok(());
    };
    wanted.check()?;
    match Source::of(wanted) {
        Source::File(path) => {
            let draft = open_draft(path, options)?;
            require_same_vocabulary(target, &draft)?;
        }
        Source::Copy(quant) => {
            let recipe = copy_recipe(&copy(options, quant), target)?;
            plan(target, &recipe)?;
        }
        Source::Own => {}
    }
    let config = Config::from_gguf(target)?;
    if wanted.draft_vocab > 0 {
        check_vocabulary(wanted.draft_vocab, config.n_vocab)?;
    }
    if wanted.drafts_with_top_bits() {
        let planned = plan(target, &Recipe::from_options(options, target)?)?;
        require_top_bits(product_formats(target, &planned))?;
    }
    if wanted.method == Method::LayerSkip {
        skipped(&wanted.skip_layers, config.n_layers())?;
    }
    Ok(())
}

/// Refuses more tokens, prompt and answer together, than a drafting model in a file of its own holds with these options.
///
/// # Errors
/// As said, and when the file is no model that can draft.
pub fn check_room(options: &Options, needed: usize) -> Result<()> {
    let Some(Source::File(path)) = options.speculation.as_ref().map(Source::of) else {
        return Ok(());
    };
    let capacity = Config::from_gguf(&open_draft(path, options)?)?.context(options)?;
    match needed > capacity {
        true => Err(refused(
            DRAFT_MODEL,
            format!(
                "\"{}\" holds {capacity} tokens, but prompt and answer take {needed}: take a model with a longer context",
                path.display()
            ),
        )),
        false => Ok(()),
    }
}

/// The file of a model that can draft with these options.
fn open_draft(path: &Path, options: &Options) -> Result<Gguf> {
    let open = || {
        let draft = Gguf::open(path)?;
        Config::from_gguf(&draft)?.context(options)?;
        Ok(draft)
    };
    open().map_err(|e| match e {
        Error::Option { option, what } => refused(
            DRAFT_MODEL,
            format!(
                "engine.{option} does not suit \"{}\": {what}",
                path.display()
            ),
        ),
        other => other.of_option(DRAFT_MODEL),
    })
}

/// What `options`, made by [`copy`], ask to make of `file`. Errors are about `draft_quant`, which the options have as `quant`.
fn copy_recipe(options: &Options, file: &Gguf) -> Result<Recipe> {
    check_format(options, DRAFT_QUANT, "top, ")?;
    Recipe::from_options(options, file).map_err(|e| match e {
        Error::Option {
            option: "quant",
            what,
        } => refused(DRAFT_QUANT, what),
        Error::Option { option, what } => {
            let what = format!("\"{}\" hangs on engine.{option}: {what}", options.quant);
            refused(DRAFT_QUANT, what)
        }
        other => other,
    })
}

/// Loads the model that drafts, where it is not the target itself.
///
/// # Errors
/// When options do not fit, the file cannot be loaded or its vocabulary is another one.
pub fn load_draft(target: &Model, pool: &Pool, options: &Options) -> Result<Option<Model>> {
    let Some(wanted) = &options.speculation else {
        return Ok(None);
    };
    wanted.check()?;
    let (file, recipe, options) = match Source::of(wanted) {
        Source::File(path) => {
            let file = open_draft(path, options)?;
            require_same_vocabulary(target.gguf(), &file)?;
            // In its own formats: what is asked of the target's is not meant for it.
            let options = Options {
                quant_imatrix: PathBuf::new(),
                ..copy(options, "native")
            };
            let recipe = Recipe::from_options(&options, &file)?;
            (file, recipe, options)
        }
        Source::Copy(quant) => {
            let file = Gguf::open(target.gguf().path())?;
            let options = copy(options, quant);
            let recipe = copy_recipe(&options, &file)?;
            (file, recipe, options)
        }
        Source::Own => return Ok(None),
    };
    // Whether or not its products can be looked up, as those of the target are with `kernel = "lut"`.
    Model::with_recipe(file, &recipe, pool, &options).map(Some)
}

/// What decodes `target` as `options` want it, plainly where they say nothing, with `draft` as [`load_draft`] gave it.
///
/// # Errors
/// When the layers to skip are not there, the codes have no bits to leave out, the drafting model is not there or cannot hold as
/// many tokens as the target, or all that it may draft from is in `never`.
pub fn speculator<'a>(
    target: &'a Model,
    draft: Option<&'a Model>,
    pool: &'a Pool,
    options: &Options,
    sampler: SamplerOptions,
    never: &[u32],
) -> Result<Speculator<'a>> {
    let Some(wanted) = &options.speculation else {
        return Ok(Speculator::new(Vec::new(), DraftTokens::Auto));
    };
    wanted.check()?;
    let model = || -> Result<Box<dyn Drafter + 'a>> {
        let skips = wanted.method == Method::LayerSkip;
        let top = wanted.drafts_with_top_bits();
        let drafting = match Source::of(wanted) {
            Source::Own => None,
            Source::File(_) => Some(loaded(draft, DRAFT_MODEL)?),
            Source::Copy(_) => Some(loaded(draft, DRAFT_QUANT)?),
        };
        let mut parts = Parts::all(drafting.unwrap_or(target));
        if skips {
            parts.skip_layers(&wanted.skip_layers)?;
        } else if top {
            parts.read_top_bits(target)?;
        }
        if wanted.draft_vocab > 0 {
            require_choice(wanted.draft_vocab, never)?;
            parts.limit_vocabulary(wanted.draft_vocab)?;
        }
        let Some(drafting) = drafting else {
            return Ok(Box::new(SelfDrafter::new(parts, sampler, never)?));
        };
        let mut session = Session::new(drafting, pool, options)?;
        session.set_parts(parts);
        let drafter = ModelDrafter::new(session, sampler, never)?;
        Ok(Box::new(drafter))
    };
    let suffixes = || Box::new(Suffixes::new(wanted.match_tokens));
    let drafters: Vec<Box<dyn Drafter + 'a>> = match wanted.method {
        Method::None => vec![],
        Method::Qcsd | Method::DraftModel | Method::LayerSkip => vec![model()?],
        Method::PromptLookup => {
            vec![Box::new(PromptLookup::new(
                wanted.match_tokens,
                LONGEST_MATCH,
            ))]
        }
        Method::Suffix => vec![suffixes()],
        Method::Cascade => vec![suffixes(), model()?],
    };
    Ok(Speculator::new(drafters, wanted.draft_tokens))
}

/// The model that `option` asks for.
fn loaded<'a>(draft: Option<&'a Model>, option: &'static str) -> Result<&'a Model> {
    draft.ok_or_else(|| {
        let what = "the model that drafts is not loaded: load it with load_draft";
        refused(option, what.into())
    })
}

/// Refuses to draft from the first `tokens` of the vocabulary when none of them may be chosen.
fn require_choice(tokens: usize, never: &[u32]) -> Result<()> {
    match (0..tokens as u32).all(|id| never.contains(&id)) {
        true => Err(refused(
            "speculation.draft_vocab",
            format!(
                "the first {tokens} tokens all end a text, and such ends are to be ignored: take more"
            ),
        )),
        false => Ok(()),
    }
}

/// Refuses a draft whose ids mean other texts.
fn require_same_vocabulary(target: &Gguf, draft: &Gguf) -> Result<()> {
    let [ours, theirs] = [target, draft].map(Tokenizer::from_gguf);
    let (ours, theirs) = (ours?, theirs?);
    let ids = 0..ours.n_vocab() as u32;
    let differs = ours.n_vocab() != theirs.n_vocab()
        || ids
            .clone()
            .any(|id| ours.token_bytes(id) != theirs.token_bytes(id));
    if !differs {
        return Ok(());
    }
    Err(refused(
        DRAFT_MODEL,
        format!(
            "\"{}\" has {} tokens that are not the model's own {}: take one with the same vocabulary",
            draft.path().display(),
            theirs.n_vocab(),
            ours.n_vocab()
        ),
    ))
}
