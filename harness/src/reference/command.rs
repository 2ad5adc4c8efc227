//! Any program: its command from the scenario, its figures by a pattern.

use super::{Adapter, Reading, Workload, Written, shown};
use crate::record::{Figure, ReferenceCommand, ReferencePlan};
use crate::repeat::cpu_mask;
use crate::scenario::PromptSpec;
use regex::Regex;
use serde_json::Value;

pub(super) struct Command;

impl Adapter for Command {
    fn commands(&self, work: &Workload<'_>) -> Result<Vec<ReferenceCommand>, String> {
        let spec = work.spec.ok_or("it has no command")?;
        let words = spec.command.iter().map(|word| fill(word, work));
        Ok(vec![ReferenceCommand {
            argv: words.collect::<Result<_, _>>()?,
            figures: spec.figures.clone(),
        }])
    }

    fn read(
        &self,
        _plan: &ReferencePlan,
        command: &ReferenceCommand,
        written: &Written<'_>,
        reading: &mut Reading,
    ) -> Result<(), String> {
        let find = |figure: &Option<Figure>| figure.as_ref().map(|f| number(f, written));
        reading.reported.prefill_tok_s = find(&command.figures.prefill_tok_s).transpose()?;
        reading.reported.decode_tok_s = find(&command.figures.decode_tok_s).transpose()?;
        reading.text = written.stdout.to_owned();
        Ok(())
    }
}

/// A word of the command with its placeholders filled in.
fn fill(word: &str, work: &Workload<'_>) -> Result<String, String> {
    let mut text = word.to_owned();
    let mut put = |name: &str, value: &dyn Fn() -> Result<String, String>| -> Result<(), String> {
        if text.contains(name) {
            text = text.replace(name, &value()?);
        }
        Ok(())
    };
    let facts = &work.facts;
    put("{model}", &|| Ok(facts.model.display().to_string()))?;
    put("{threads}", &|| Ok(facts.cpus.len().to_string()))?;
    put("{cpu_mask}", &|| {
        cpu_mask(facts.cpus).ok_or("{cpu_mask} needs pinned threads: set engine.affinity".into())
    })?;
    put("{n_prompt}", &|| {
        let n = facts.n_prompt.ok_or("the prompt cannot be counted")?;
        Ok(n.to_string())
    })?;
    put("{n_gen}", &|| Ok(work.case.n_gen.to_string()))?;
    put(
        "{prompt_file}",
        &|| match (&work.case.prompt, work.prompt_file) {
            (PromptSpec::File(path, _), _) => Ok(path.display().to_string()),
            (PromptSpec::Text(_), Some(path)) => Ok(path.display().to_string()),
            _ => Err("{prompt_file} needs a text, and the prompt is token ids".into()),
        },
    )?;
    Ok(text)
}

/// The number a figure points at.
fn number(figure: &Figure, written: &Written<'_>) -> Result<f64, String> {
    let (pattern, found) = match (&figure.regex, &figure.json_pointer) {
        (Some(pattern), _) => (pattern, by_regex(pattern, written)?),
        (None, Some(pointer)) => (pointer, by_pointer(pointer, written.stdout)?),
        (None, None) => return Err("a figure needs \"regex\" or \"json_pointer\"".into()),
    };
    match found.filter(|x| x.is_finite() && *x > 0.0) {
        Some(number) => Ok(number),
        None => Err(format!(
            "expected a number above 0 at \"{pattern}\", found {}",
            shown(written.stdout)
        )),
    }
}

fn by_regex(pattern: &str, written: &Written<'_>) -> Result<Option<f64>, String> {
    let regex = Regex::new(pattern).map_err(|e| format!("\"{pattern}\": {e}"))?;
    let texts = [written.stdout, written.stderr];
    let mut matches = texts
        .iter()
        .filter_map(|text| regex.captures_iter(text).last());
    Ok(matches.find_map(|found| found.get(1)?.as_str().parse().ok()))
}

fn by_pointer(pointer: &str, stdout: &str) -> Result<Option<f64>, String> {
    let value = serde_json::from_str(stdout).or_else(|_| {
        let lines = stdout.lines().filter(|line| !line.trim().is_empty());
        let values: Result<Vec<Value>, _> = lines.map(serde_json::from_str).collect();
        values.map(Value::Array)
    });
    let value: Value = value.map_err(|e| format!("expected JSON, found {}: {e}", shown(stdout)))?;
    Ok(value.pointer(pointer).and_then(Value::as_f64))
}
