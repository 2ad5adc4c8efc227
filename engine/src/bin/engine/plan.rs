//! `engine plan`: what the matrices of a model lose in other formats, group by group.
//!
//! The model's predictions on a text are kept; then one group after the other is encoded anew, everything else as it is, and
//! the KL divergence of the predictions from those kept is taken. Bits are spent by these figures. What that is worth is
//! shown on a text, better on another one, beside the same format for all matrices.

use crate::open;
use clap::Args;
use engine::file::require_new;
use engine::gguf::Gguf;
use engine::model::Model;
use engine::pool::Pool;
use engine::quality::{self, Prediction, Surprise};
use engine::quant::FormatInfo;
use engine::quantize::{Group, Importance, Mixed, Recipe, Rule, format};
use engine::session::Session;
use engine::{Options, Result};
use indicatif::{ProgressBar, ProgressStyle};
use std::num::NonZeroUsize;
use std::path::{Path, PathBuf};
use std::rc::Rc;

/// Formats that are tried: about 2, 3, 4, 5, 6 and 8 bits.
const FORMATS: &str = "Q2_K,Q3_K,IQ4_XS,Q4_K,Q5_K,Q6_K,Q8_0";

/// Arguments of `engine plan`.
#[derive(Debug, Args)]
pub(crate) struct PlanArgs {
    /// Model file.
    #[arg(short, long, value_name = "FILE")]
    model: PathBuf,
    /// Text to measure on, UTF-8.
    #[arg(short, long, value_name = "TEXT")]
    file: PathBuf,
    /// Plan to write; it must not exist.
    #[arg(
        short,
        long,
        value_name = "FILE",
        required_unless_present = "show",
        conflicts_with = "show"
    )]
    output: Option<PathBuf>,
    /// Measures what a plan that there is leads to, beside the same format for all matrices; best on a text that the plan
    /// was not made with.
    #[arg(long, value_name = "FILE")]
    show: Option<PathBuf>,
    /// Tokens of a window; every prediction of it counts.
    #[arg(short, long, default_value_t = 256, value_parser = clap::value_parser!(u32).range(4..))]
    ctx: u32,
    /// Windows to read, spread over the text.
    #[arg(long, value_name = "N", default_value = "2")]
    chunks: NonZeroUsize,
    /// Formats to try for each group, or to show; where rows are not whole blocks, what takes their place.
    #[arg(long, value_name = "LIST", default_value = FORMATS, value_delimiter = ',')]
    formats: Vec<String>,
    /// Parts that the layers are divided into; matrices of one kind within a part are measured together.
    #[arg(long, value_name = "N", default_value_t = 3)]
    parts: usize,
    /// Importance matrix that matrices are encoded with.
    #[arg(long, value_name = "FILE")]
    imatrix: Option<PathBuf>,
    /// Bits a weight to show the choice for, and to measure it as a whole.
    #[arg(
        long,
        value_name = "LIST",
        default_value = "4.5",
        value_delimiter = ','
    )]
    bits: Vec<f64>,
    #[command(flatten)]
    engine: open::EngineArgs,
}

/// Measures and writes a plan, or shows what one leads to.
pub(crate) fn run(args: &PlanArgs) -> Result<()> {
    args.output.as_deref().map_or(Ok(()), require_new)?;
    let formats = args.formats.iter().map(|name| {
        let format = format(name.trim());
        format.map_err(|e| open::refused("--formats", e.to_string()))
    });
    let formats = formats.collect::<Result<Vec<_>>>()?;
    let importance = args.imatrix.as_deref().map(Importance::open).transpose()?;
    let shown = args.show.as_deref().map(Mixed::open).transpose()?;
    let mut lab = Lab::open(args, importance)?;
    match (&args.output, &shown) {
        (Some(output), _) => {
            let plan = lab.plan(&formats)?;
            plan.save(output)?;
            open::print(&measured(&plan))?;
            args.bits
                .iter()
                .try_for_each(|&bits| open::print(&allocated(&plan, bits)?))
        }
        (None, Some(plan)) => open::print(&lab.table(&formats, plan)?),
        (None, None) => unreachable!("clap requires one of them"),
    }
}

fn name(path: &Path) -> String {
    path.file_name()
        .unwrap_or(path.as_os_str())
        .to_string_lossy()
        .into_owned()
}

/// Thousandths of a nat by group and format.
fn measured(plan: &Mixed) -> String {
    let mut page = String::from("KL divergence in thousandths of a nat, bits a weight\n");
    for group in &plan.group {
        let cells = group.choice.iter().map(|c| {
            let bits = 8.0 * c.bytes as f64 / group.weights as f64;
            format!("{} {:.2} ({bits:.2})", c.format, 1e3 * c.kld)
        });
        let cells: Vec<String> = cells.collect();
        page += &format!("  {:20} {}\n", group.name, cells.join("  "));
    }
    page
}

/// What `bits` a weight are spent on.
fn allocated(plan: &Mixed, bits: f64) -> Result<String> {
    let chosen = plan.allocate(bits)?;
    let groups = plan.group.iter().zip(&chosen);
    let parts: Vec<String> = groups
        .map(|(g, c)| format!("{} {}", g.name, c.format))
        .collect();
    let bytes: u64 = chosen.iter().map(|c| c.bytes).sum();
    let sum: f64 = chosen.iter().map(|c| c.kld).sum();
    Ok(format!(
        "\n{bits} bits: {bytes} bytes a token, sum of the parts {:.2}\n  {}\n",
        1e3 * sum,
        parts.join(", ")
    ))
}

/// A model and what it predicts as it is.
struct Lab<'a> {
    args: &'a PlanArgs,
    options: Options,
    importance: Option<Importance>,
    pool: Pool,
    gguf: Rc<Gguf>,
    windows: Vec<Vec<u32>>,
    base: Vec<Prediction>,
    bar: ProgressBar,
}

/// What a model of other formats predicts.
#[derive(Default)]
struct Outcome {
    /// Bytes of the matrices, and of these the ones that a token reads.
    all_bytes: u64,
    bytes: u64,
    /// Sum over predictions of their divergence.
    kld: f64,
    surprise: Surprise,
}

impl<'a> Lab<'a> {
    fn open(args: &'a PlanArgs, importance: Option<Importance>) -> Result<Lab<'a>> {
        let text = open::read_text(&args.file)?;
        let options = Options {
            // Each of the many choices of formats would be kept.
            packed_cache: PathBuf::new(),
            ..args.engine.options(args.ctx as usize)?
        };
        let pool = Pool::new(&options)?;
        let gguf = Rc::new(Gguf::open(&args.model)?);
        let tokenizer = open::tokenizer(&gguf)?;
        let windows = quality::windows(&tokenizer, &text, args.ctx as usize)?;
        let windows = quality::spread(windows, args.chunks.get());
        let bar = ProgressBar::new_spinner().with_style(open::style(
            ProgressStyle::default_spinner(),
            "{spinner} {pos} measured  {elapsed}  {msg}",
        ));
        Ok(Lab {
            args,
            options,
            importance,
            pool,
            gguf,
            windows,
            base: Vec::new(),
            bar,
        })
    }

    /// Measures every group in every format.
    fn plan(&mut self, formats: &[&'static FormatInfo]) -> Result<Mixed> {
        self.measure(None, Vec::new())?;
        let (args, gguf) = (self.args, Rc::clone(&self.gguf));
        let counted = self.base.len() as f64;
        let mut kld = |group: &Group, rules: Vec<Rule>| {
            self.bar
                .set_message(format!("{} {}", group.name, rules[0].1.name));
            Ok(self.measure(None, rules)?.kld / counted)
        };
        let group = Mixed::measure(&gguf, formats, args.parts, &mut kld)?;
        self.bar.finish_and_clear();
        Ok(Mixed {
            model: name(&args.model),
            text: name(&args.file),
            windows: self.windows.len(),
            window_tokens: args.ctx as usize,
            imatrix: args.imatrix.as_deref().map(name).unwrap_or_default(),
            group,
        })
    }

    /// One format for all matrices, and the plan, as rows of a table.
    fn table(&mut self, formats: &[&'static FormatInfo], plan: &Mixed) -> Result<String> {
        let mut rows = vec![("native".to_owned(), self.measure(None, Vec::new())?)];
        for format in formats {
            rows.push((format.name.into(), self.measure(Some(format), Vec::new())?));
        }
        for &bits in &self.args.bits {
            let rules = plan.rules(&self.gguf, bits)?;
            rows.push((format!("mixed@{bits}"), self.measure(None, rules)?));
        }
        self.bar.finish_and_clear();
        rows.sort_by_key(|(_, outcome)| outcome.bytes);
        let weights: u64 = plan.group.iter().map(|g| g.weights).sum();
        let mut page = String::from("format        bits  bytes a token  KLD/1000  perplexity\n");
        for (name, outcome) in rows {
            page += &format!(
                "{name:12} {:5.2} {:14} {:9.3} {:11.4}\n",
                8.0 * outcome.all_bytes as f64 / weights.max(1) as f64,
                outcome.bytes,
                1e3 * outcome.kld / self.base.len() as f64,
                outcome.surprise.perplexity().0,
            );
        }
        Ok(page)
    }

    /// Predicts with all matrices in `to`, or with those that `rules` find in their formats. The first time, predictions are
    /// kept as those to diverge from.
    fn measure(&mut self, to: Option<&'static FormatInfo>, rules: Vec<Rule>) -> Result<Outcome> {
        self.bar.inc(1);
        let importance = self.importance.clone();
        let recipe = Recipe {
            to,
            rules,
            importance,
        };
        let gguf = Gguf::open(&self.args.model)?;
        let model = Model::with_recipe(gguf, &recipe, &self.pool, &self.options)?;
        let mut session = Session::new(&model, &self.pool, &self.options)?;
        let (first, mut at) = (self.base.is_empty(), 0);
        let mut outcome = Outcome {
            all_bytes: model.weight_bytes(),
            bytes: model.read_bytes(),
            ..Outcome::default()
        };
        for window in &self.windows {
            quality::predict(&mut session, window, 0, |logits, next| {
                if first {
                    self.base.push(Prediction::of(logits));
                }
                outcome.kld += self.base[at].divergence(logits);
                outcome.surprise.add(logits, next);
                at += 1;
            })?;
        }
        Ok(outcome)
    }
}
