//! What several subcommands share: the engine's options as flags, reading texts, writing to standard output.

use clap::Args;
use engine::gguf::Gguf;
use engine::model::{Model, Placed};
use engine::options::{Affinity, Isa};
use engine::pool::Pool;
use engine::quality;
use engine::sample::SamplerOptions;
use engine::session::Session;
use engine::tokenizer::Tokenizer;
use engine::{Error, Options, Result, check};
use indicatif::{ProgressBar, ProgressStyle};
use serde::de::{IntoDeserializer, value::Error as ValueError};
use std::io::{Read, Write};
use std::num::NonZeroUsize;
use std::path::{Path, PathBuf};

/// Longest text file read, in bytes.
const TEXT_BYTES_MAX: u64 = 1 << 30;

/// The engine's options that subcommands take as flags; names and values are those of a scenario's `[engine]`.
#[derive(Debug, Args)]
pub(crate) struct EngineArgs {
    /// Threads; 0 for one per physical core.
    #[arg(short, long, default_value_t = 0)]
    threads: usize,
    #[command(flatten)]
    tuning: TuningArgs,
}

/// All of them but the number of threads.
#[derive(Debug, Args)]
pub(crate) struct TuningArgs {
    /// none, physical, compact, scatter, smt, or CPU numbers such as 0,2,4.
    #[arg(long, default_value = "physical", value_parser = affinity)]
    affinity: Affinity,
    /// auto, scalar, avx2, avx512.
    #[arg(long, default_value = "auto", value_parser = named::<Isa>)]
    isa: Isa,
    /// Permits more threads than CPUs.
    #[arg(long)]
    oversubscribe: bool,
    /// Tokens of a prompt that go through the layers together.
    #[arg(short, long, default_value_t = Options::default().batch)]
    batch: usize,
    /// Asks for no huge pages under the weights.
    #[arg(long)]
    no_huge_pages: bool,
    /// Any other option of a scenario's `[engine]`, such as prefetch_bytes=0; may be repeated.
    #[arg(long, value_name = "KEY=VALUE")]
    set: Vec<String>,
}

/// How tokens are chosen, as flags.
#[derive(Debug, Args)]
pub(crate) struct SamplingArgs {
    /// Temperature; 0 is greedy.
    #[arg(long, default_value_t = SamplerOptions::default().temp)]
    temp: f32,
    /// Samples among the k likeliest tokens; 0 for all.
    #[arg(long, default_value_t = SamplerOptions::default().top_k)]
    top_k: usize,
    /// Samples among the likeliest tokens that together have this probability.
    #[arg(long, default_value_t = SamplerOptions::default().top_p)]
    top_p: f32,
    /// Samples among tokens at least this likely relative to the likeliest.
    #[arg(long, default_value_t = SamplerOptions::default().min_p)]
    min_p: f32,
    /// Seed of the sampler.
    #[arg(short, long, default_value_t = SamplerOptions::default().seed)]
    seed: u64,
}

impl SamplingArgs {
    /// The options that the flags stand for.
    pub(crate) fn options(&self) -> SamplerOptions {
        SamplerOptions {
            temp: self.temp,
            top_k: self.top_k,
            top_p: self.top_p,
            min_p: self.min_p,
            seed: self.seed,
        }
    }
}

/// A text that is read in windows, as flags.
#[derive(Debug, Args)]
pub(crate) struct WindowArgs {
    /// Text file, UTF-8.
    #[arg(short, long, value_name = "TEXT")]
    pub(crate) file: PathBuf,
    /// Tokens of a window.
    #[arg(short, long, default_value_t = 512, value_parser = clap::value_parser!(u32).range(4..))]
    pub(crate) ctx: u32,
    /// Windows to read; all that the text fills when not given.
    #[arg(long, value_name = "N")]
    chunks: Option<NonZeroUsize>,
    #[command(flatten)]
    engine: EngineArgs,
}

impl WindowArgs {
    /// Opens the text, and the model that reads it. `change` may add to the options of the command line, or refuse them.
    ///
    /// # Errors
    /// When a file cannot be read, the model cannot be run so, or the text does not fill a window.
    pub(crate) fn open(
        &self,
        model: &Path,
        change: impl FnOnce(Options) -> Result<Options>,
    ) -> Result<Windows> {
        let text = read_text(&self.file)?;
        let ctx = self.ctx as usize;
        let options = change(self.engine.options(ctx)?)?;
        refuse_drafts(&options)?;
        let pool = Pool::new(&options)?;
        let model = load(model, &pool, &options)?;
        let tokenizer = tokenizer(model.gguf())?;
        let mut all = quality::windows(&tokenizer, &text, ctx)?;
        all.truncate(self.chunks.unwrap_or(NonZeroUsize::MAX).get());
        Ok(Windows {
            text,
            options,
            pool,
            model,
            all,
        })
    }
}

/// The windows of a text, and the model that reads them.
pub(crate) struct Windows {
    /// The whole text.
    pub(crate) text: String,
    options: Options,
    pool: Pool,
    /// The model.
    pub(crate) model: Model,
    all: Vec<Vec<u32>>,
}

impl Windows {
    /// How many there are.
    pub(crate) fn len(&self) -> usize {
        self.all.len()
    }

    /// A session over the model.
    ///
    /// # Errors
    /// When the cache cannot be had.
    pub(crate) fn session(&self) -> Result<Session<'_>> {
        Session::new(&self.model, &self.pool, &self.options)
    }

    /// Gives each window to `read`, and shows how far it is with what `read` says of it.
    ///
    /// # Errors
    /// That of `read`.
    pub(crate) fn each(&self, mut read: impl FnMut(&[u32]) -> Result<String>) -> Result<()> {
        let bar = ProgressBar::new(self.all.len() as u64).with_style(style(
            ProgressStyle::default_bar(),
            "{bar:40} {pos}/{len} windows  {msg}{eta} left",
        ));
        for window in &self.all {
            bar.set_message(read(window)?);
            bar.inc(1);
        }
        bar.finish_and_clear();
        Ok(())
    }

    /// Has `session` read each window from an empty cache.
    ///
    /// # Errors
    /// When a pass fails.
    pub(crate) fn prefill(&self, session: &mut Session<'_>) -> Result<()> {
        self.each(|window| {
            session.truncate(0);
            session.prefill(window)?;
            Ok(String::new())
        })
    }
}

/// Loads a model. Standard error is told what came of its weights where they are to be kept, and with sparsity that it is
/// lossy and what is encoded a second time for it.
///
/// # Errors
/// As [`check::model`] and [`Model::load`].
pub(crate) fn load(path: &Path, pool: &Pool, options: &Options) -> Result<Model> {
    check::options(options)?;
    check::model(options, path)?;
    let model = Model::load(path, pool, options)?;
    tell_placed(&model);
    if options.lossy_sparsity().is_some() {
        eprintln!(
            "lossy: engine.sparsity leaves channels of small inputs out of passes over one token"
        );
    }
    if let Some(held) = model.by_channels() {
        let warning = match held.placed {
            Placed::NotKept(_) => "warning: ",
            _ => "",
        };
        eprintln!("{warning}by channels: {held}; {}", held.placed);
    }
    Ok(model)
}

/// The tokenizer of a model; standard error is told where the file leaves open which it is.
///
/// # Errors
/// As [`Tokenizer::from_gguf`].
pub(crate) fn tokenizer(gguf: &Gguf) -> Result<Tokenizer> {
    let tokenizer = Tokenizer::from_gguf(gguf)?;
    if !tokenizer.names_pre_tokenizer() {
        eprintln!(
            "warning: the file names no pre-tokenizer; \"default\" is taken, and texts may become other tokens than the model knows"
        );
    }
    Ok(tokenizer)
}

/// Tells standard error what came of keeping the weights of a model, if they are to be kept.
pub(crate) fn tell_placed(model: &Model) {
    match model.placed() {
        Placed::Packed => {}
        placed @ Placed::NotKept(_) => eprintln!("warning: weights {placed}"),
        placed => eprintln!("weights {placed}"),
    }
}

/// Arbitrary tokens, the same in every run.
pub(crate) fn arbitrary_tokens(model: &Model, n: usize) -> Vec<u32> {
    let n_vocab = model.config().n_vocab as u64;
    (0..n as u64)
        .map(|i| ((i * 7919 + 13) % n_vocab) as u32)
        .collect()
}

impl EngineArgs {
    /// The options for a context of `ctx` tokens; 0 for the engine's default.
    ///
    /// # Errors
    /// When `--set` names an option that there is not, or a value that it does not take.
    pub(crate) fn options(&self, ctx: usize) -> Result<Options> {
        self.tuning.options(self.threads, ctx)
    }
}

impl TuningArgs {
    /// The options with so many threads and so much context.
    ///
    /// # Errors
    /// As [`EngineArgs::options`].
    pub(crate) fn options(&self, threads: usize, ctx: usize) -> Result<Options> {
        let options = Options {
            threads,
            affinity: self.affinity.clone(),
            isa: self.isa,
            oversubscribe: self.oversubscribe,
            ctx,
            batch: self.batch,
            huge_pages: !self.no_huge_pages,
            ..Options::default()
        };
        set(options, &self.set)
    }
}

/// `options` with more of them set, as lines of TOML would, in whatever order; a value that is no TOML is a text.
pub(crate) fn set(options: Options, texts: &[String]) -> Result<Options> {
    if texts.is_empty() {
        return Ok(options);
    }
    let shown: Vec<String> = texts.iter().map(|text| format!("\"{text}\"")).collect();
    let refused = |named: &str, what: &str| {
        let what = format!("{named}: {}", what.trim_end());
        refused("--set", what)
    };
    let of_all = |what: &str| refused(&shown.join(", "), what);
    let mut all = toml::Table::try_from(options).map_err(|e| of_all(&e.to_string()))?;
    for (text, shown) in texts.iter().zip(&shown) {
        let word = text
            .split_once('=')
            .map(|(key, value)| format!("{key}={value:?}"));
        let one: toml::Table = text
            .parse()
            .or_else(|e| word.and_then(|word| word.parse().ok()).ok_or(e))
            .map_err(|e: toml::de::Error| refused(shown, e.message()))?;
        merge(&mut all, one);
    }
    all.try_into()
        .map_err(|e: toml::de::Error| of_all(e.message()))
}

/// Refuses options with which something is drafted, of a command that would not do so.
///
/// # Errors
/// As said.
pub(crate) fn refuse_drafts(options: &Options) -> Result<()> {
    match &options.speculation {
        Some(wanted) if wanted.drafts() => Err(refused(
            "speculation",
            "only \"engine run\" and scenarios of \"harness run\" draft: leave it out".into(),
        )),
        _ => Ok(()),
    }
}

/// Refuses options that leave channels out, of a command that computes densely.
///
/// # Errors
/// As said.
pub(crate) fn refuse_sparsity(options: &Options) -> Result<()> {
    match options.lossy_sparsity() {
        Some(_) => Err(refused(
            "sparsity",
            "all is computed densely here: leave it out".into(),
        )),
        None => Ok(()),
    }
}

/// An error about what was given with a flag.
pub(crate) fn refused(option: &'static str, what: String) -> Error {
    Error::Option { option, what }
}

/// Sets the keys of `one`; of tables those within, so that one key of a table can be set after the other.
fn merge(all: &mut toml::Table, one: toml::Table) {
    for (key, value) in one {
        match (all.get_mut(&key), value) {
            (Some(toml::Value::Table(all)), toml::Value::Table(one)) => merge(all, one),
            (_, value) => drop(all.insert(key, value)),
        }
    }
}

/// A value by the name serde knows it by.
pub(crate) fn named<T: serde::de::DeserializeOwned>(text: &str) -> std::result::Result<T, String> {
    T::deserialize(text.into_deserializer()).map_err(|e: ValueError| e.to_string())
}

fn affinity(text: &str) -> std::result::Result<Affinity, String> {
    if text.starts_with(|c: char| c.is_ascii_digit()) {
        return match text.split(',').map(|cpu| cpu.trim().parse()).collect() {
            Ok(cpus) => Ok(Affinity::Cpus(cpus)),
            Err(_) => Err(format!(
                "\"{text}\" is not a list of CPU numbers such as 0,2,4"
            )),
        };
    }
    named(text).map(Affinity::Policy)
}

/// A whole text file.
pub(crate) fn read_text(path: &Path) -> Result<String> {
    let (mut file, metadata) = engine::file::open(path)?;
    let len = metadata.len();
    if len > TEXT_BYTES_MAX {
        return Err(Error::Input(format!(
            "\"{}\" has {len} bytes, more than {TEXT_BYTES_MAX}",
            path.display()
        )));
    }
    let mut bytes = Vec::new();
    file.read_to_end(&mut bytes).map_err(|source| Error::Io {
        action: "read",
        path: path.to_owned(),
        source,
    })?;
    String::from_utf8(bytes).map_err(|e| {
        let at = e.utf8_error().valid_up_to();
        Error::Input(format!(
            "\"{}\" is not UTF-8 at byte {at}: convert it first",
            path.display()
        ))
    })
}

/// Writes to standard output at once.
pub(crate) fn print(text: &str) -> Result<()> {
    let mut out = std::io::stdout().lock();
    let written = out.write_all(text.as_bytes()).and_then(|()| out.flush());
    written.map_err(crate::text::stdout_error)
}

/// The processor's name, or "unknown".
pub(crate) fn cpu_name() -> String {
    let info = std::fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let name = info
        .lines()
        .find_map(|line| line.strip_prefix("model name")?.split_once(':'));
    name.map_or("unknown".into(), |(_, name)| name.trim().into())
}

/// The instruction set by the name options know it by.
pub(crate) fn isa_name(model: &Model) -> String {
    model.isa().to_string()
}

/// A progress style from a template that this program wrote.
pub(crate) fn style(style: ProgressStyle, template: &str) -> ProgressStyle {
    style
        .template(template)
        .expect("a template of this program")
}
