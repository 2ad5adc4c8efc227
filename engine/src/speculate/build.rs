//! From options to drafters.

use super::{Drafter, ModelDrafter, PromptLookup, Speculator, Suffixes};
use crate::error::Result;
use crate::model::Model;
use crate::options::Options;
use crate::options::speculation::{DraftTokens, LONGEST_MATCH, Method, refused};
use crate::pool::Pool;
use crate::sample::SamplerOptions;
use crate::session::Session;
use crate::tokenizer::Tokenizer;

/// Loads the model that drafts, where it is not the target itself.
///
/// # Errors
/// When options do not fit, the file cannot be loaded or its vocabulary is another one.
pub fn load_draft(target: &Model, pool: &Pool, options: &Options) -> Result<Option<Model>> {
    let Some(wanted) = &options.speculation else {
        return Ok(None);
    };
    wanted.check()?;
    let target_file = target.gguf().path();
    let (path, quant) = match (wanted.method, &wanted.draft_model, &wanted.draft_quant) {
        (Method::DraftModel | Method::Cascade, Some(path), _) => (path.as_path(), None),
        (Method::Qcsd | Method::Cascade, _, Some(quant)) if !wanted.drafts_with_top_bits() => {
            (target_file, Some(quant))
        }
        _ => return Ok(None),
    };
    let mut options = options.clone();
    // Thresholds are those of the target.
    options.sparsity = None;
    if let Some(quant) = quant {
        options.quant = quant.clone();
    }
    let model = Model::load(path, pool, &options)?;
    if quant.is_none() {
        require_same_vocabulary(target, &model)?;
    }
    Ok(Some(model))
}

/// What decodes `target` as `options` want it, plainly where they say nothing, with `draft` as [`load_draft`] gave it.
///
/// # Errors
/// When the layers to skip are not there, the codes have no bits to leave out, or the drafting model cannot hold as many
/// tokens as the target.
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
        let (skips, top) = (
            wanted.method == Method::LayerSkip,
            wanted.drafts_with_top_bits(),
        );
        let drafting = match draft {
            Some(draft) if !skips && !top => draft,
            _ => target,
        };
        let mut session = Session::new(drafting, pool, options)?;
        if skips {
            session.skip_layers(&wanted.skip_layers)?;
        } else if top {
            session.read_top_bits()?;
        }
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

/// Refuses a draft whose ids mean other texts.
fn require_same_vocabulary(target: &Model, draft: &Model) -> Result<()> {
    let [ours, theirs] = [target, draft].map(|m| Tokenizer::from_gguf(m.gguf()));
    let (ours, theirs) = (ours?, theirs?);
    let ids = 0..ours.n_vocab() as u32;
    let differs = ours.n_vocab() != theirs.n_vocab()
        || ids
            .clone()
            .any(|id| ours.token_bytes(id) != theirs.token_bytes(id));
    if !differs {
        return Ok(());
    }
    Err(refused(format!(
        "draft_model has {} tokens that are not the model's own {}: take one with the same vocabulary",
        theirs.n_vocab(),
        ours.n_vocab()
    )))
}
