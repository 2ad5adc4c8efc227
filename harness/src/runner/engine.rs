//! The worker's side of a repetition: the job done with this project's engine, timed where it happens.
//!
//! What the timed part needs is allocated before it begins; answers are written before and after it, never within.

use super::{Answer, ClockSpan, Job, JobPrompt, Outcome, PROTOCOL_VERSION, valgrind};
use crate::clock;
use crate::counter::{Counting, ProcessUse, Threads};
use crate::record::{Counters, MatrixFacts, ModelFacts, PassStats};
use crate::stats::SplitMix64;
use ::engine::gguf::Gguf;
use ::engine::model::Model;
use ::engine::pool::Pool;
use ::engine::quant::FormatInfo;
use ::engine::quantize::{Planned, main_format, matrices};
use ::engine::sample::{Distribution, Sampler};
use ::engine::session::{Session, Stats};
use ::engine::sparsity;
use ::engine::speculate::{Speculator, Telemetry, load_draft, speculator};
use ::engine::stage::{Tick, thread_cpu_ns};
use ::engine::tokenizer::{EncodeOptions, Tokenizer};
use ::engine::{Error, Result};
use std::path::Path;
use std::sync::Mutex;

/// Prompt tokens that warm up the buffers: a batch.
const WARM_UP_TOKENS: usize = 512;

/// Does a job. `tell` hears [`Answer::Started`], [`Answer::Loaded`] and [`Answer::Done`], each as it becomes true.
///
/// # Errors
/// When the job is of another protocol version, or the engine refuses the model, the options or the prompt.
pub fn work(job: &Job, tell: &mut dyn FnMut(&Answer)) -> Result<()> {
    require_protocol(job.protocol)?;
    tell(&Answer::Started {
        protocol: PROTOCOL_VERSION,
    });
    let start = Tick::now();
    let pool = Pool::new(&job.engine)?;
    let model = Model::load(&job.model, &pool, &job.engine)?;
    let draft = load_draft(&model, &pool, &job.engine)?;
    let load_ms = Tick::now().ns_since(start) as f64 / 1e6;
    tell(&Answer::Loaded { load_ms });
    let tokenizer = Tokenizer::from_gguf(model.gguf())?;
    let mut prompt = prompt(job, &tokenizer);
    if let Some(simulated) = job.simulated {
        prompt.truncate(simulated.prompt_tokens_max as usize);
    }
    let mut session = Session::new(&model, &pool, &job.engine)?;
    require_room(job, prompt.len(), &session, &model)?;

    let counting = Counting::open(&job.counters, threads(&pool));
    let models = (&model, draft.as_ref());
    let run = generate(
        job,
        &prompt,
        &tokenizer,
        &pool,
        models,
        &mut session,
        counting,
    )?;
    tell(&Answer::Done(Box::new(Outcome {
        n_prompt: prompt.len() as u32,
        load_ms: Some(load_ms),
        arrival_ns: run.arrival_ns,
        clock: Some(run.clock),
        prefill: Some(pass_stats(&run.prefill)),
        decode: (run.decode.passes > 0).then(|| pass_stats(&run.decode)),
        speculation: run.speculation,
        sparsity: run.sparsity,
        threads: Some(pool.threads() as u32),
        cpus: pool.cpus().iter().flatten().map(|&c| c as u32).collect(),
        isa: Some(model.isa().to_string()),
        model: model_facts(&model),
        kv_capacity_bytes: Some(session.kv_bytes()),
        weights: Some(model.placed().clone()),
        by_channels: model.by_channels().cloned(),
        huge_pages_bytes: model.huge_page_bytes(),
        timed: run.timed,
        counters: run.counters,
        output_text: text(&run.output_ids, &tokenizer)?,
        output_ids: run.output_ids,
    })));
    Ok(())
}

/// Refuses a job of another version.
pub(super) fn require_protocol(found: u32) -> Result<()> {
    match found {
        PROTOCOL_VERSION => Ok(()),
        _ => Err(Error::Input(format!(
            "the job is of protocol {found}, expected {PROTOCOL_VERSION}: was it written by another version?"
        ))),
    }
}

/// How many tokens a text makes with the tokenizer of a model file.
///
/// # Errors
/// When the file is no model.
pub fn count_tokens(model: &Path, text: &str) -> Result<u32> {
    let tokenizer = Tokenizer::from_gguf(&Gguf::open(model)?)?;
    Ok(encode(text, &tokenizer).len() as u32)
}

/// A text's token ids, with the special tokens around it that the file asks for.
fn encode(text: &str, tokenizer: &Tokenizer) -> Vec<u32> {
    let options = EncodeOptions {
        add_special: true,
        parse_special: true,
    };
    tokenizer.encode(text, options)
}

/// The prompt's token ids.
fn prompt(job: &Job, tokenizer: &Tokenizer) -> Vec<u32> {
    match &job.prompt {
        JobPrompt::Text(text) => encode(text, tokenizer),
        JobPrompt::Random { tokens, seed } => random_ids(*tokens, *seed, tokenizer),
    }
}

/// Seeded ids of tokens that stand for text.
fn random_ids(tokens: u32, seed: u64, tokenizer: &Tokenizer) -> Vec<u32> {
    let all = 0..tokenizer.n_vocab() as u32;
    let plain: Vec<u32> = all.filter(|&id| !tokenizer.is_control(id)).collect();
    let mut random = SplitMix64::new(seed);
    (0..tokens)
        .map(|_| plain.get(random.below(plain.len())).copied().unwrap_or(0))
        .collect()
}

/// Refuses a job whose tokens do not fit, before any time is spent on it. The last token is never read back.
fn require_room(job: &Job, n_prompt: usize, session: &Session<'_>, model: &Model) -> Result<()> {
    let Some(read_back) = (job.n_gen as usize).checked_sub(1) else {
        return Err(Error::Input(
            "0 tokens to generate: ask for at least 1".into(),
        ));
    };
    let needed = n_prompt + read_back;
    match needed > session.capacity() {
        true => Err(Error::ContextFull {
            needed,
            capacity: session.capacity(),
            trained: model.config().n_ctx_train,
        }),
        false => Ok(()),
    }
}

/// What was timed.
struct Generated {
    arrival_ns: Vec<u64>,
    clock: ClockSpan,
    output_ids: Vec<u32>,
    prefill: Stats,
    decode: Stats,
    speculation: Option<Telemetry>,
    sparsity: Option<sparsity::Telemetry>,
    timed: ProcessUse,
    counters: Option<Counters>,
}

/// The pool's threads, as the kernel knows them.
fn threads(pool: &Pool) -> Threads {
    let ids = Mutex::new(vec![0; pool.threads()]);
    pool.run(&|ctx| {
        let id = rustix::thread::gettid().as_raw_nonzero().get();
        ids.lock().expect("no panic under this lock")[ctx.index] = id;
    });
    Threads {
        ids: ids.into_inner().expect("no panic under this lock"),
        cpus: pool.cpus().to_vec(),
    }
}

/// Reads the prompt and generates tokens. The first token comes from the prompt's logits.
fn generate(
    job: &Job,
    prompt: &[u32],
    tokenizer: &Tokenizer,
    pool: &Pool,
    (model, draft): (&Model, Option<&Model>),
    session: &mut Session<'_>,
    mut counting: Counting,
) -> Result<Generated> {
    let n_gen = job.n_gen as usize;
    let mut arrival_ns = Vec::with_capacity(n_gen);
    let mut tokens = Vec::with_capacity(prompt.len() + n_gen);
    tokens.extend(prompt);
    let mut chooser = Chooser::new(job, tokenizer)?;
    let mut speculator = speculator(model, draft, pool, &job.engine, job.sampler, &chooser.never)?;
    match job.simulated {
        Some(_) => begin_simulation(prompt, session)?,
        None => warm_up(prompt, session)?,
    }
    counting.read();
    let before = ProcessUse::of_self();
    if job.simulated.is_some() {
        valgrind::zero();
    }
    let mut waste = Waste::start(job);
    let mut clock = Clock::start();
    speculator.begin(prompt)?;
    session.prefill(prompt)?;
    tokens.push(session.sample(|logits| chooser.choose(logits, None))?);
    waste.after_token();
    arrival_ns.push(clock.ns());
    let prefill = with_drafts(session.take_stats(), &mut speculator);
    // Counted from here on.
    session.take_sparsity();
    if job.simulated.is_some() {
        valgrind::dump(valgrind::PREFILL);
    }
    clock.pause(|| counting.read());
    let is_end = |token| tokenizer.is_eog(token);
    while arrival_ns.len() < n_gen && !tokens.last().is_some_and(|&token| is_end(token)) {
        let room = n_gen - arrival_ns.len();
        let choose = |logits: &mut [f32], drafted: Option<(u32, &Distribution)>| {
            chooser.choose(logits, drafted)
        };
        let n = speculator.step(session, &mut tokens, room, choose, is_end)?;
        waste.after_token();
        arrival_ns.extend(std::iter::repeat_n(clock.ns(), n));
    }
    let decode = with_drafts(session.take_stats(), &mut speculator);
    if job.simulated.is_some() {
        valgrind::dump(valgrind::DECODE);
    }
    let timed = ProcessUse::of_self().since(&before);
    counting.read();
    Ok(Generated {
        arrival_ns,
        clock: clock.span,
        output_ids: tokens.split_off(prompt.len()),
        prefill,
        decode,
        speculation: job
            .engine
            .speculation
            .is_some()
            .then(|| speculator.take_telemetry()),
        sparsity: session.take_sparsity(),
        timed,
        counters: counting.finish(),
    })
}

/// Time, bytes and products of the target's passes and of those that drafted for them; the passes counted are the target's.
fn with_drafts(target: Stats, speculator: &mut Speculator<'_>) -> Stats {
    let mut all = speculator.take_stats();
    all.add(&target);
    // What is left out is told of the target alone.
    all.ledger.skipped_bytes = target.ledger.skipped_bytes;
    Stats {
        passes: target.passes,
        tokens: target.tokens,
        ..all
    }
}

/// The clock of the timed part. It stands still once, while counters are read.
struct Clock {
    start: Tick,
    paused_ns: u64,
    span: ClockSpan,
}

impl Clock {
    fn start() -> Clock {
        let now_ns = clock::monotonic_ns();
        Clock {
            start: Tick::now(),
            paused_ns: 0,
            span: ClockSpan {
                start_ns: now_ns,
                pause_ns: (now_ns, now_ns),
            },
        }
    }

    /// Nanoseconds since the start, the pause left out.
    fn ns(&self) -> u64 {
        Tick::now().ns_since(self.start) - self.paused_ns
    }

    /// Does something outside the timed part.
    fn pause(&mut self, what: impl FnOnce()) {
        let (before, from_ns) = (Tick::now(), clock::monotonic_ns());
        what();
        self.span.pause_ns = (from_ns, clock::monotonic_ns());
        self.paused_ns = Tick::now().ns_since(before);
    }
}

/// Makes a job slower that is to be: waits busily after a token, in proportion to the CPU time that this thread, which
/// works with the others, has used since `before_ns`, the end of the last wait.
struct Waste {
    percent: f64,
    before_ns: u64,
}

impl Waste {
    fn start(job: &Job) -> Waste {
        Waste {
            percent: job.slow_down_percent,
            before_ns: thread_cpu_ns(),
        }
    }

    fn after_token(&mut self) {
        if self.percent > 0.0 {
            let now_ns = thread_cpu_ns();
            let waste = now_ns.saturating_sub(self.before_ns) as f64 * self.percent / 100.0;
            self.before_ns = now_ns + waste as u64;
            while thread_cpu_ns() < self.before_ns {
                std::hint::spin_loop();
            }
        }
    }
}

/// One pass over the start of the prompt and one token more, then forgotten: the buffers have their memory, and the
/// threads are awake.
fn warm_up(prompt: &[u32], session: &mut Session<'_>) -> Result<()> {
    let start = &prompt[..prompt.len().min(WARM_UP_TOKENS)];
    session.prefill(start)?;
    if session.position() < session.capacity() {
        session.decode(start[0])?;
    }
    session.truncate(0);
    session.take_stats();
    Ok(())
}

/// Begins to simulate, fills the simulated caches with a pass over one token and one more, and has the stages counted from
/// there on. Loading is not simulated.
fn begin_simulation(prompt: &[u32], session: &mut Session<'_>) -> Result<()> {
    valgrind::start();
    warm_up(&prompt[..1], session)?;
    session.listen(valgrind::dump_stage);
    Ok(())
}

/// Chooses the next token as a job asks for it.
struct Chooser {
    sampler: Sampler,
    /// Tokens that are never chosen: ends of text, if they are to be ignored.
    never: Vec<u32>,
}

impl Chooser {
    fn new(job: &Job, tokenizer: &Tokenizer) -> Result<Chooser> {
        let ids = 0..tokenizer.n_vocab() as u32;
        let never = ids.filter(|&id| job.ignore_eos && tokenizer.is_eog(id));
        Ok(Chooser {
            sampler: Sampler::new(job.sampler)?,
            never: never.collect(),
        })
    }

    fn choose(&mut self, logits: &mut [f32], drafted: Option<(u32, &Distribution)>) -> Result<u32> {
        for &id in &self.never {
            logits[id as usize] = f32::NEG_INFINITY;
        }
        match drafted {
            Some((token, draft)) => self.sampler.verify(logits, token, draft),
            None => self.sampler.sample(logits),
        }
    }
}

/// The text of the generated tokens, without those that steer the model.
fn text(ids: &[u32], tokenizer: &Tokenizer) -> Result<String> {
    let shown = ids.iter().copied();
    let shown: Vec<u32> = shown
        .filter(|&id| !tokenizer.is_control(id) && !tokenizer.is_eog(id))
        .collect();
    tokenizer.decode(&shown)
}

fn pass_stats(stats: &Stats) -> PassStats {
    PassStats {
        passes: stats.passes,
        stages: stats.stages,
        ledger: stats.ledger,
        products: stats.products,
    }
}

/// Sizes of the model as it was loaded.
fn model_facts(model: &Model) -> ModelFacts {
    let tensors = model.tensors();
    let active = |t: &Planned| model.config().active(&t.from, t.from.n_values());
    let wide = tensors.iter().filter(|t| t.from.dims.len() >= 2);
    let layers = wide.filter(|t| t.from.name.starts_with("blk."));
    let last = format!("blk.{}.", model.config().n_layers() - 1);
    let behind = ["attn_output", "ffn_gate", "ffn_up", "ffn_down"];
    let last = layers.clone().filter(|t| {
        let of_last = t.from.name.strip_prefix(&last);
        of_last.is_some_and(|name| behind.iter().any(|b| name.starts_with(b)))
    });
    // Without a head of its own, a model multiplies with its embeddings.
    let head = ["output.weight", "token_embd.weight"];
    let head = head
        .iter()
        .find_map(|name| tensors.iter().find(|t| t.from.name == *name));
    let kinds = matrices(model.gguf(), tensors).into_iter();
    let kinds = kinds.map(|m| MatrixFacts {
        kind: m.kind,
        format: m.format.to_owned(),
        count: m.count as u64,
        bytes: m.bytes,
    });
    ModelFacts {
        matrices: kinds.collect(),
        layer_params: Some(layers.map(active).sum()),
        last_params: Some(last.map(active).sum()),
        head_params: head.map(|t| t.from.n_values()),
        float_weights: FormatInfo::by_name(main_format(tensors)).map(FormatInfo::is_float),
        description: model.description(),
        n_params: Some(tensors.iter().map(|t| t.from.n_values()).sum()),
        weight_bytes: Some(tensors.iter().map(|t| t.bytes).sum()),
    }
}
