//! Rules about scenarios that types cannot express: limits, and combinations that are impossible.

use super::problem::{Problem, suggest};
use super::quality;
use super::wire::{Model, Prompt, Reference, Run, Scenario};
use crate::counter;
use crate::record::{ENGINE, Figure, ReferenceKind};
use engine::options::Affinity;
use engine::sample::SamplerOptions;

/// Longest scenario name: it becomes a part of a folder's name.
const NAME_CHARS_MAX: usize = 64;
/// Most rounds, measured or warm-up.
const ROUNDS_MAX: u32 = 1000;
/// Most repetitions that may be run again.
const RERUNS_MAX: u32 = 1000;
/// Longest slice; a longer one would not be shorter than a repetition.
const SLICE_MS_MAX: u32 = 1000;
/// Most tokens of a prompt, and most to generate.
pub(super) const TOKENS_MAX: u32 = 1 << 17;
/// Longest time one repetition may take: a week.
pub(super) const TIMEOUT_S_MAX: u64 = 7 * 24 * 3600;
/// Most free space a scenario may ask for, in 1e9 bytes.
const DISK_GB_MAX: f64 = 1e6;

/// Checks what concerns the run as a whole.
pub(super) fn header(scenario: &Scenario) -> Result<(), Problem> {
    let name = &scenario.scenario.name;
    let allowed = |c: char| c.is_ascii_alphanumeric() || "-_.".contains(c);
    if name.is_empty()
        || name.len() > NAME_CHARS_MAX
        || !name.chars().all(allowed)
        || name.starts_with('.')
    {
        let what = format!("\"{name}\" cannot be a scenario's name");
        let help = format!(
            "1 to {NAME_CHARS_MAX} letters, digits, '-', '_' and '.': it names the run's folder"
        );
        return Err(Problem::new("scenario.name", what).help(help));
    }
    range(
        "scenario.min_disk_gb",
        scenario.scenario.min_disk_gb,
        0.0,
        DISK_GB_MAX,
    )?;
    let Run {
        rounds,
        warmup,
        slice_ms,
        reruns,
        simulate_s,
        probe: _,
        ..
    } = scenario.run;
    references(&scenario.reference)?;
    scenario.quality.as_ref().map_or(Ok(()), quality::check)?;
    range("run.rounds", rounds, 1, ROUNDS_MAX)?;
    range("run.warmup", warmup, 0, ROUNDS_MAX)?;
    range("run.slice_ms", slice_ms, 0, SLICE_MS_MAX)?;
    range("run.reruns", reruns, 0, RERUNS_MAX)?;
    range("run.simulate_s", simulate_s, 0, TIMEOUT_S_MAX)
}

/// Names that can be told apart, and for each program what it needs and nothing that it would ignore.
fn references(all: &[Reference]) -> Result<(), Problem> {
    for (i, reference) in all.iter().enumerate() {
        let at = |key: &str| format!("reference.{i}.{key}");
        let taken = |other: &Reference| other.name == reference.name;
        if reference.name.is_empty()
            || reference.name.starts_with(ENGINE)
            || all[..i].iter().any(taken)
        {
            let what = format!("\"{}\" cannot be a reference's name", reference.name);
            let help = format!("each needs one of its own that does not begin with \"{ENGINE}\"");
            return Err(Problem::new(&at("name"), what).help(help));
        }
        let figures = [
            ("prefill_tok_s", &reference.prefill_tok_s),
            ("decode_tok_s", &reference.decode_tok_s),
        ];
        for (key, figure) in figures {
            if let Some(figure) = figure {
                self::figure(&at(key), figure)?;
            }
        }
        let generic = reference.kind == ReferenceKind::Command;
        let has_figures = figures.iter().any(|(_, figure)| figure.is_some());
        if generic && (reference.command.is_empty() || !has_figures) {
            let what =
                "kind \"command\" needs a command, and where a rate stands in what it writes";
            let help = "add command = [\"program\", \"-m\", \"{model}\"] and decode_tok_s = { regex = \"...\" } or { json_pointer = \"/...\" }";
            return Err(Problem::new(&at("kind"), what).help(help));
        }
        if !generic && (!reference.command.is_empty() || has_figures) {
            let what = "only kind \"command\" has a command and figures of its own";
            return Err(Problem::new(&at("kind"), what).help("set kind = \"command\""));
        }
        if let (true, Some(key)) = (generic, ignored(reference)) {
            let what = format!("kind \"command\" would ignore \"{key}\"");
            return Err(Problem::new(&at(key), what).help("put it into the command itself"));
        }
    }
    Ok(())
}

/// A key that concerns llama.cpp alone.
fn ignored(reference: &Reference) -> Option<&'static str> {
    let set = [
        ("dir", reference.dir.is_some()),
        ("repack", reference.repack.is_some()),
        ("flash_attn", reference.flash_attn.is_some()),
    ];
    set.into_iter().find(|(_, set)| *set).map(|(key, _)| key)
}

/// One pattern that can match.
fn figure(key: &str, figure: &Figure) -> Result<(), Problem> {
    let problem = match (&figure.regex, &figure.json_pointer) {
        (Some(regex), None) => match regex::Regex::new(regex) {
            Ok(regex) if regex.captures_len() > 1 => return Ok(()),
            Ok(_) => "the regular expression has no group for the number: put it in ( )".to_owned(),
            Err(e) => e.to_string().replace('\n', " "),
        },
        (None, Some(pointer)) if pointer.starts_with('/') => return Ok(()),
        (None, Some(_)) => "a JSON pointer begins with \"/\"".to_owned(),
        _ => "keep one of regex, json_pointer".to_owned(),
    };
    Err(Problem::new(key, problem))
}

/// Checks one case.
pub(super) fn case(scenario: &Scenario) -> Result<(), Problem> {
    model(&scenario.model)?;
    prompt(&scenario.prompt)?;
    range("run.n_gen", scenario.run.n_gen, 1, TOKENS_MAX)?;
    range("run.timeout_s", scenario.run.timeout_s, 1, TIMEOUT_S_MAX)?;
    sampler(&scenario.sampler)?;
    repeats(scenario)?;
    counters(&scenario.counters)?;
    if let Some(hash) = &scenario.expect.output_sha256
        && (hash.len() != 64 || !hash.chars().all(|c| c.is_ascii_hexdigit()))
    {
        let what = format!(
            "expected 64 hexadecimal digits, found {}",
            hash.chars().count()
        );
        let help = "take the output hash that a run prints";
        return Err(Problem::new("expect.output_sha256", what).help(help));
    }
    engine(scenario)
}

/// Engine options that no machine can run.
fn engine(scenario: &Scenario) -> Result<(), Problem> {
    let options = &scenario.engine;
    ::engine::check::options(options).map_err(|e| refused("engine", e))?;
    if let Affinity::Cpus(cpus) = &options.affinity
        && options.threads != 0
        && cpus.len() != options.threads
    {
        let what = format!(
            "{} CPUs are listed for {} threads",
            cpus.len(),
            options.threads
        );
        let help =
            "list one CPU per thread, or set engine.threads = 0 to take as many threads as CPUs";
        return Err(Problem::new("engine.affinity", what).help(help));
    }
    let prompt = scenario.prompt.tokens.unwrap_or(1);
    // The last token is never read back.
    let needed = prompt as usize + scenario.run.n_gen as usize - 1;
    if options.ctx != 0 && options.ctx < needed {
        let n_gen = scenario.run.n_gen;
        let what = format!(
            "a context of {} cannot hold {prompt} prompt tokens and {n_gen} generated ones",
            options.ctx
        );
        let help = format!("set engine.ctx to {needed} or more, or to 0 for the model's own");
        return Err(Problem::new("engine.ctx", what).help(help));
    }
    Ok(())
}

/// Exactly one source of weights.
fn model(model: &Model) -> Result<(), Problem> {
    let Model { name, path, synth } = model;
    match [name.is_some(), path.is_some(), synth.is_some()] {
        [true, false, false] | [false, true, false] | [false, false, true] => Ok(()),
        [false, false, false] => Err(no_model()),
        _ => Err(Problem::new("model", "[model] names more than one model")
            .help("keep one of name, path, synth")),
    }
}

/// No source of weights.
pub(super) fn no_model() -> Problem {
    let help = "add name = \"...\" (see `harness models list`), path = \"FILE.gguf\", or a section [model.synth]";
    Problem::new("model", "[model] names no model").help(help)
}

/// Exactly one prompt.
fn prompt(prompt: &Prompt) -> Result<(), Problem> {
    let Prompt { text, file, tokens } = prompt;
    match [text.is_some(), file.is_some(), tokens.is_some()] {
        [true, false, false] | [false, true, false] | [false, false, true] => (),
        [false, false, false] => return Err(no_prompt()),
        _ => {
            let problem = Problem::new("prompt", "[prompt] holds more than one prompt");
            return Err(problem.help("keep one of text, file, tokens"));
        }
    }
    if text.as_ref().is_some_and(|text| text.is_empty()) {
        return Err(
            Problem::new("prompt.text", "the prompt is empty").help("give at least one character")
        );
    }
    match tokens {
        Some(tokens) => range("prompt.tokens", *tokens, 1, TOKENS_MAX),
        None => Ok(()),
    }
}

/// No prompt.
pub(super) fn no_prompt() -> Problem {
    let help = "add text = \"...\", file = \"FILE\", or tokens = N for N seeded tokens";
    Problem::new("prompt", "[prompt] holds no prompt").help(help)
}

/// Groups and events that there are.
fn counters(request: &counter::Request) -> Result<(), Problem> {
    for (i, name) in request.groups.iter().enumerate() {
        if counter::group(name).is_none() {
            let names: Vec<&str> = counter::groups().iter().map(|g| g.name.as_str()).collect();
            let what = format!("unknown group of counters \"{name}\"");
            let at = format!("counters.groups.{i}");
            return Err(Problem::new(&at, what).help(suggest(name, &names)));
        }
    }
    for (i, name) in request.events.iter().enumerate() {
        if !counter::is_event(name) {
            let names = counter::event_names();
            let names: Vec<&str> = names.iter().map(String::as_str).collect();
            let what = format!("unknown event \"{name}\"");
            let help = format!(
                "{}; or a raw code such as \"r01c2\", or \"PMU/EVENT/\" as sysfs has it",
                suggest(name, &names)
            );
            return Err(Problem::new(&format!("counters.events.{i}"), what).help(help));
        }
    }
    Ok(())
}

/// Sampling settings that make sense.
fn sampler(sampler: &SamplerOptions) -> Result<(), Problem> {
    sampler.check().map_err(|e| refused("sampler", e))
}

/// A text that is the same in every repetition.
fn repeats(scenario: &Scenario) -> Result<(), Problem> {
    let drafts = scenario.engine.speculation.as_ref();
    let checked = drafts.map_or(Ok(()), |s| s.check_sampling(scenario.sampler.temp));
    checked.map_err(|e| refused("engine", e))
}

/// What the engine says about an option of a section.
fn refused(section: &str, error: ::engine::Error) -> Problem {
    match error {
        ::engine::Error::Option { option, what } => {
            let key = format!("{section}.{option}");
            let what = format!("\"{key}\": {what}");
            Problem::new(&key, what)
        }
        other => Problem::new(section, other.to_string()),
    }
}

/// A number between two others, both included.
pub(super) fn range<T: PartialOrd + std::fmt::Display>(
    key: &str,
    value: T,
    low: T,
    high: T,
) -> Result<(), Problem> {
    match value >= low && value <= high {
        true => Ok(()),
        false => {
            let what = format!("\"{key}\": expected {low} to {high}, found {value}");
            Err(Problem::new(key, what))
        }
    }
}
