//! `engine chat`: a conversation in turns. Answers go to standard output as they come; what was said stays in the cache.

use crate::open;
use clap::Args;
use engine::chat::ChatTemplate;
use engine::conversation::Conversation;
use engine::pool::Pool;
use engine::sample::Sampler;
use engine::session::Session;
use engine::stage::Tick;
use engine::{Error, Result};
use rustyline::DefaultEditor;
use rustyline::error::ReadlineError;
use signal_hook::consts::SIGINT;
use std::cell::Cell;
use std::io::{BufRead, IsTerminal, Read};
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

/// Longest line read where standard input is no terminal, in bytes.
const LINE_BYTES_MAX: u64 = 1 << 26;
/// What is said to begin anew.
const NEW: &str = "/new";
/// Exit code after a second Ctrl-C, before the first one had been heard.
const INTERRUPTED: i32 = 130;

/// Arguments of `engine chat`.
#[derive(Debug, Args)]
pub(crate) struct ChatArgs {
    /// Model file; it must have a chat template.
    #[arg(short, long, value_name = "FILE")]
    model: PathBuf,
    /// Message that the conversation begins with, in the role of the system.
    #[arg(long, value_name = "TEXT")]
    system: Option<String>,
    /// Tokens of an answer at most; 0 for as many as the context has room for.
    #[arg(short, long, default_value_t = 0)]
    n_gen: usize,
    /// Context capacity in tokens; 0 for the model's own, at most 4096.
    #[arg(short, long, default_value_t = 0)]
    ctx: usize,
    #[command(flatten)]
    sampling: open::SamplingArgs,
    #[command(flatten)]
    engine: open::EngineArgs,
}

/// Talks until the input ends.
pub(crate) fn run(args: &ChatArgs) -> Result<()> {
    let options = args.engine.options(args.ctx)?;
    open::refuse_drafts(&options)?;
    let mut sampler = Sampler::new(args.sampling.options())?;
    let pool = Pool::new(&options)?;
    let model = open::load(&args.model, &pool, &options)?;
    let tokenizer = open::tokenizer(model.gguf())?;
    let template = ChatTemplate::from_gguf(model.gguf(), &tokenizer)?;
    let mut session = Session::new(&model, &pool, &options)?;
    let mut conversation = Conversation::new(&tokenizer, &template, args.system.clone());
    let mut input = Input::new()?;
    let stop = Arc::new(AtomicBool::new(false));
    if input.is_terminal() {
        on_interrupt(&stop)?;
    }
    while let Some(text) = input.next()? {
        match text.trim() {
            "" => continue,
            NEW => {
                conversation.forget();
                eprintln!("a new conversation");
                continue;
            }
            _ => {}
        }
        stop.store(false, Ordering::Relaxed);
        let turn = Turn {
            args,
            stop: &stop,
            sampler: &mut sampler,
        };
        match turn.run(&mut conversation, &mut session, text) {
            // Something else may be said instead.
            Err(error @ (Error::ContextFull { .. } | Error::Model(_))) if input.is_terminal() => {
                eprintln!("error: {error}; {NEW} begins a new conversation");
            }
            done => done?,
        }
    }
    Ok(())
}

/// What a turn needs besides the conversation.
struct Turn<'a> {
    args: &'a ChatArgs,
    stop: &'a AtomicBool,
    sampler: &'a mut Sampler,
}

impl Turn<'_> {
    /// Reads what the user said and prints the answer; rates go to standard error.
    fn run(
        self,
        conversation: &mut Conversation<'_>,
        session: &mut Session<'_>,
        text: String,
    ) -> Result<()> {
        let start = Tick::now();
        let asked = conversation.ask(session, text, jiff::Timestamp::now().as_second())?;
        let read_ns = Tick::now().ns_since(start);
        let start = Tick::now();
        let n = Cell::new(0);
        let ended = conversation.answer(
            session,
            |logits| {
                n.set(n.get() + 1);
                self.sampler.sample(logits)
            },
            |piece| {
                open::print(piece)?;
                Ok(!self.stop.load(Ordering::Relaxed) && n.get() != self.args.n_gen)
            },
        );
        let answer_ns = Tick::now().ns_since(start);
        open::print("\n")?;
        eprintln!(
            "read {} of {} tokens at {:.1} tok/s; answered {} at {:.1} tok/s; {} of {} tokens of context",
            asked.new,
            asked.tokens,
            asked.new as f64 * 1e9 / read_ns as f64,
            n.get(),
            n.get() as f64 * 1e9 / answer_ns as f64,
            session.position(),
            session.capacity(),
        );
        ended.map(drop)
    }
}

/// Makes Ctrl-C set `stop`, and end the program where it is set already.
fn on_interrupt(stop: &Arc<AtomicBool>) -> Result<()> {
    let shutdown = Arc::clone(stop);
    signal_hook::flag::register_conditional_shutdown(SIGINT, INTERRUPTED, shutdown)
        .and_then(|_| signal_hook::flag::register(SIGINT, Arc::clone(stop)))
        .map(drop)
        .map_err(|error| Error::Input(format!("cannot listen to Ctrl-C: {error}")))
}

/// Where the user's words come from.
enum Input {
    /// A person, with line editing and the lines before.
    Terminal(Box<DefaultEditor>),
    /// Lines of standard input.
    Plain,
}

impl Input {
    fn new() -> Result<Input> {
        if !std::io::stdin().is_terminal() {
            return Ok(Input::Plain);
        }
        let editor = DefaultEditor::new().map_err(|e| unreadable(&e))?;
        Ok(Input::Terminal(Box::new(editor)))
    }

    fn is_terminal(&self) -> bool {
        matches!(self, Input::Terminal(_))
    }

    /// What is said next; `None` at the end.
    fn next(&mut self) -> Result<Option<String>> {
        match self {
            Input::Terminal(editor) => match editor.readline("> ") {
                Ok(line) => {
                    editor
                        .add_history_entry(&line)
                        .map_err(|e| unreadable(&e))?;
                    Ok(Some(line))
                }
                Err(ReadlineError::Eof | ReadlineError::Interrupted) => Ok(None),
                Err(error) => Err(unreadable(&error)),
            },
            Input::Plain => {
                let mut line = String::new();
                let mut stdin = std::io::stdin().lock().take(LINE_BYTES_MAX);
                match stdin.read_line(&mut line).map_err(|e| unreadable(&e))? {
                    0 => Ok(None),
                    n if n as u64 == LINE_BYTES_MAX => Err(Error::Input(format!(
                        "a line has more than {LINE_BYTES_MAX} bytes: say it in parts"
                    ))),
                    _ => Ok(Some(line.trim_end_matches(['\n', '\r']).to_owned())),
                }
            }
        }
    }
}

fn unreadable(error: &dyn std::error::Error) -> Error {
    Error::Input(format!("cannot read standard input: {error}"))
}
