//! `engine run`: completes a prompt, streaming the completion alone to standard output.

use crate::open;
use clap::Args;
use engine::chat::{Chat, ChatTemplate, Message};
use engine::model::Model;
use engine::pool::Pool;
use engine::sample::{Distribution, Sampler};
use engine::session::Session;
use engine::speculate::{Telemetry, load_draft, speculator};
use engine::stage::Tick;
use engine::tokenizer::{Decoder, EncodeOptions, Tokenizer};
use engine::{Error, Result};
use std::path::PathBuf;

/// Arguments of `engine run`.
#[derive(Debug, Args)]
pub(crate) struct RunArgs {
    /// Model file.
    #[arg(short, long, value_name = "FILE")]
    model: PathBuf,
    /// The prompt.
    #[arg(
        short,
        long,
        value_name = "TEXT",
        required_unless_present = "file",
        conflicts_with = "file"
    )]
    prompt: Option<String>,
    /// A file with the prompt.
    #[arg(short, long, value_name = "FILE")]
    file: Option<PathBuf>,
    /// Tokens to generate at most.
    #[arg(short, long, default_value_t = 128)]
    n_gen: usize,
    /// Goes on after the end-of-text token.
    #[arg(long)]
    ignore_eos: bool,
    /// Takes the prompt for a user's message and renders the file's chat template.
    #[arg(long)]
    chat: bool,
    /// Context capacity in tokens; 0 for what prompt and completion need.
    #[arg(short, long, default_value_t = 0)]
    ctx: usize,
    #[command(flatten)]
    sampling: open::SamplingArgs,
    /// Writes, for each token, a line of JSON to standard error: its id, and ids and natural-log probabilities of the
    /// likeliest so many.
    #[arg(long, value_name = "K", default_value_t = 0)]
    top_logprobs: usize,
    #[command(flatten)]
    engine: open::EngineArgs,
}

/// Prints the completion as it is made; rates go to standard error.
pub(crate) fn run(args: &RunArgs) -> Result<()> {
    let sampler_options = args.sampling.options();
    let mut sampler = Sampler::new(sampler_options)?;
    let prompt = match (&args.prompt, &args.file) {
        (Some(text), _) => text.clone(),
        (None, Some(path)) => open::read_text(path)?,
        (None, None) => unreachable!("clap requires one of them"),
    };
    let pool_options = args.engine.options(0)?;
    if let Some(wanted) = &pool_options.speculation {
        wanted.check_sampling(sampler_options.temp)?;
    }
    let pool = Pool::new(&pool_options)?;
    let model = open::load(&args.model, &pool, &pool_options)?;
    let tokenizer = open::tokenizer(model.gguf())?;
    let mut tokens = encode(args, &model, &tokenizer, &prompt)?;
    let needed = tokens.len().saturating_add(args.n_gen);
    let ctx = if args.ctx == 0 {
        needed.min(model.config().n_ctx_train)
    } else {
        args.ctx
    };
    let options = args.engine.options(ctx)?;
    let mut session = Session::new(&model, &pool, &options)?;
    if needed > session.capacity() {
        let (capacity, trained) = (session.capacity(), model.config().n_ctx_train);
        return Err(Error::ContextFull {
            needed,
            capacity,
            trained,
        });
    }

    // As in llama.cpp, ends of text that are to be ignored are never chosen.
    let ids = 0..tokenizer.n_vocab() as u32;
    let never: Vec<u32> = ids
        .filter(|&id| args.ignore_eos && tokenizer.is_eog(id))
        .collect();
    let draft = load_draft(&model, &pool, &options)?;
    draft.iter().for_each(open::tell_placed);
    let mut speculator = speculator(
        &model,
        draft.as_ref(),
        &pool,
        &options,
        sampler_options,
        &never,
    )?;
    let mut choose = |logits: &mut [f32], drafted: Option<(u32, &Distribution)>| {
        for &end in &never {
            logits[end as usize] = f32::NEG_INFINITY;
        }
        let likeliest = top_logprobs(logits, args.top_logprobs);
        let token = match drafted {
            Some((token, draft)) => sampler.verify(logits, token, draft)?,
            None => sampler.sample(logits)?,
        };
        if args.top_logprobs > 0 {
            eprintln!("{}", serde_json::json!({ "id": token, "top": likeliest }));
        }
        Ok(token)
    };
    let n_prompt = tokens.len();
    let start = Tick::now();
    speculator.begin(&tokens)?;
    session.prefill(&tokens)?;
    let prefill_ns = Tick::now().ns_since(start);
    let mut decoder = Decoder::new();
    let mut shown = n_prompt;
    let start = Tick::now();
    if args.n_gen > 0 {
        tokens.push(session.sample(|logits| choose(logits, None))?);
    }
    loop {
        for &token in &tokens[shown..] {
            if !tokenizer.is_control(token) && !tokenizer.is_eog(token) {
                open::print(decoder.push(tokenizer.token_bytes(token)))?;
            }
        }
        shown = tokens.len();
        let room = args.n_gen - (shown - n_prompt);
        if room == 0 || tokenizer.is_eog(tokens[shown - 1]) {
            break;
        }
        let is_end = |token| tokenizer.is_eog(token);
        speculator.step(&mut session, &mut tokens, room, &mut choose, is_end)?;
    }
    let decode_ns = Tick::now().ns_since(start);
    open::print(decoder.finish())?;
    let ended = tokens.len() > n_prompt && tokenizer.is_eog(tokens[shown - 1]);
    let generated = shown - n_prompt - usize::from(ended);
    eprintln!(
        "\nprefill {n_prompt} tokens at {:.1} tok/s; decode {generated} tokens at {:.1} tok/s; {} threads, {}",
        n_prompt as f64 * 1e9 / prefill_ns as f64,
        generated.saturating_sub(1) as f64 * 1e9 / decode_ns as f64,
        pool.threads(),
        open::isa_name(&model),
    );
    if options.speculation.is_some() {
        eprintln!("{}", drafts(&speculator.take_telemetry()));
    }
    Ok(())
}

/// What came of the drafts, in a line.
fn drafts(t: &Telemetry) -> String {
    let share = match t.drafted {
        0 => "none kept of none".into(),
        n => format!("{:.1} % kept", 100.0 * t.accepted as f64 / n as f64),
    };
    format!(
        "drafted {} tokens, {share}; {:.2} tokens a pass; {:.0} ms drafting, {:.0} ms verifying, {:.2} ms rolling back",
        t.drafted,
        t.tokens as f64 / t.passes.max(1) as f64,
        t.draft_ns as f64 / 1e6,
        t.verify_ns as f64 / 1e6,
        t.rollback_ns as f64 / 1e6,
    )
}

/// Ids and natural-log probabilities of the `k` likeliest tokens, likeliest first.
fn top_logprobs(logits: &[f32], k: usize) -> Vec<(usize, f64)> {
    if k == 0 {
        return Vec::new();
    }
    let max = logits.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    let sum: f64 = logits.iter().map(|&x| f64::from(x - max).exp()).sum();
    let mut order: Vec<usize> = (0..logits.len()).collect();
    order.sort_by(|&a, &b| logits[b].total_cmp(&logits[a]));
    let logprob = |id: usize| f64::from(logits[id] - max) - sum.ln();
    order
        .into_iter()
        .take(k)
        .map(|id| (id, logprob(id)))
        .collect()
}

/// The prompt's tokens: as text with its special tokens, or as a chat in the file's own template.
fn encode(args: &RunArgs, model: &Model, tokenizer: &Tokenizer, prompt: &str) -> Result<Vec<u32>> {
    if !args.chat {
        let special = EncodeOptions {
            add_special: true,
            parse_special: true,
        };
        return Ok(tokenizer.encode(prompt, special));
    }
    let template = ChatTemplate::from_gguf(model.gguf(), tokenizer)?;
    let messages = [Message {
        role: "user".into(),
        content: prompt.into(),
    }];
    let chat = Chat {
        messages: &messages,
        add_generation_prompt: true,
        now_unix_s: jiff::Timestamp::now().as_second(),
    };
    template.encode(tokenizer, chat)
}
