//! Where in a scenario something is wrong, what is wrong, and which name was probably meant.

use std::fmt;
use std::ops::Range;
use toml::de::{DeTable, DeValue};

/// Names are offered as "did you mean" if they are at least this much alike from the start, on a scale from 0 to 1.
const SIMILARITY_MIN: f64 = 0.72;
/// Most names an error lists.
const NAMES_MAX: usize = 24;

/// What is wrong, before it is known where: a key and what to say about it.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Problem {
    /// Dotted key the problem is about; empty for the whole file.
    pub(super) path: Vec<String>,
    /// Points at the key rather than at its value.
    pub(super) at_key: bool,
    /// What was expected and what was found.
    pub(super) what: String,
    /// What to do.
    pub(super) help: Option<String>,
}

impl Problem {
    /// A problem with the value of a dotted key.
    pub(super) fn new(path: &str, what: impl Into<String>) -> Problem {
        Problem {
            path: split(path),
            at_key: false,
            what: what.into(),
            help: None,
        }
    }

    /// Adds what to do.
    pub(super) fn help(mut self, help: impl Into<String>) -> Problem {
        self.help = Some(help.into());
        self
    }

    /// Puts serde's words about the key at `path` into ours. `names_of` gives the keys of other sections.
    pub(super) fn from_serde(message: &str, path: &[String]) -> Problem {
        let mut quoted = message.split('`').skip(1).step_by(2);
        let found = quoted.next().unwrap_or_default().to_owned();
        let names: Vec<&str> = quoted.collect();
        let parent = dotted(&path[..path.len().saturating_sub(1)]);
        let (what, at_key, help) = if message.starts_with("unknown field") {
            let section = match parent.is_empty() {
                true => "at the top level".to_owned(),
                false => format!("in [{parent}]"),
            };
            let what = format!("unknown key \"{found}\" {section}");
            (what, true, Some(suggest(&found, &names)))
        } else if message.starts_with("unknown variant") {
            let what = format!("unknown value \"{found}\" for \"{}\"", dotted(path));
            (what, false, Some(suggest(&found, &names)))
        } else if message.starts_with("missing field") {
            let section = match path.is_empty() {
                true => "the scenario".to_owned(),
                false => format!("[{}]", dotted(path)),
            };
            (format!("{section} lacks \"{found}\""), true, None)
        } else if let Some((found, expected)) = type_mismatch(message) {
            let what = format!("\"{}\": expected {expected}, found {found}", dotted(path));
            (what, false, None)
        } else {
            (message.trim_end().replace('\n', ": "), false, None)
        };
        Problem {
            path: path.to_vec(),
            at_key,
            what,
            help,
        }
    }
}

/// What serde found and expected, in words.
pub(super) fn type_mismatch(message: &str) -> Option<(String, String)> {
    let rest = message
        .strip_prefix("invalid type: ")
        .or_else(|| message.strip_prefix("invalid value: "))?;
    let (found, expected) = rest.split_once(", expected ")?;
    let expected = match expected.trim_end() {
        "u8" | "u16" | "u32" | "u64" | "usize" => "a whole number from 0",
        "i32" | "i64" => "a whole number",
        "f32" | "f64" => "a number",
        "a boolean" => "true or false",
        "a map" => "a table",
        other if other.starts_with("struct ") => "a table",
        other => other,
    };
    Some((found.replace('`', ""), expected.to_owned()))
}

/// "did you mean", and the names there are.
pub(super) fn suggest(found: &str, names: &[&str]) -> String {
    let near = nearest(found, names.iter().copied());
    let shown: Vec<&str> = names.iter().take(NAMES_MAX).copied().collect();
    let valid = match shown.is_empty() {
        true => "nothing is valid here".to_owned(),
        false => format!("valid: {}", shown.join(", ")),
    };
    match near {
        Some(near) => format!("did you mean \"{near}\"? ({valid})"),
        None => valid,
    }
}

/// The name most similar to `found`, if any is similar: few typing mistakes apart, or much alike from the start.
pub(crate) fn nearest<'a>(found: &str, names: impl Iterator<Item = &'a str>) -> Option<&'a str> {
    let found = found.to_lowercase();
    let scored = names.filter_map(|name| {
        let lower = name.to_lowercase();
        let mistakes = strsim::damerau_levenshtein(&found, &lower);
        let alike = strsim::jaro_winkler(&found, &lower);
        let near = mistakes <= (lower.chars().count() / 3).max(1) || alike >= SIMILARITY_MIN;
        near.then_some((mistakes, name))
    });
    scored
        .min_by_key(|(mistakes, _)| *mistakes)
        .map(|(_, name)| name)
}

/// A dotted key as its parts.
pub(super) fn split(path: &str) -> Vec<String> {
    let parts = path.split('.').map(str::trim);
    parts.filter(|p| !p.is_empty()).map(str::to_owned).collect()
}

/// Parts as a dotted key.
pub(super) fn dotted(path: &[String]) -> String {
    path.join(".")
}

/// The place of a key in the file: its own, or that of the nearest section that exists. `None` for the whole file.
pub(super) fn span_of(doc: &DeTable<'_>, path: &[String], at_key: bool) -> Option<Range<usize>> {
    let (first, rest) = path.split_first()?;
    let (key, value) = doc.iter().find(|(key, _)| key.get_ref() == first)?;
    let own = match at_key || matches!(value.get_ref(), DeValue::Table(_)) {
        true => key.span(),
        false => value.span(),
    };
    Some(match (rest.is_empty(), value.get_ref()) {
        (false, DeValue::Table(table)) => span_of(table, rest, at_key).unwrap_or(own),
        (false, DeValue::Array(array)) => {
            let item = rest[0].parse().ok().and_then(|i: usize| array.get(i));
            item.map_or(own, |item| item.span())
        }
        _ => own,
    })
}

/// The dotted key whose key or value lies at `span`.
pub(super) fn path_at(doc: &DeTable<'_>, span: &Range<usize>) -> Option<Vec<String>> {
    doc.iter().find_map(|(key, value)| {
        let name = key.get_ref().to_string();
        if key.span() == *span || value.span() == *span {
            return Some(vec![name]);
        }
        let inner = match value.get_ref() {
            DeValue::Table(table) => path_at(table, span),
            DeValue::Array(array) if array.iter().any(|item| item.span() == *span) => Some(vec![]),
            _ => None,
        };
        inner.map(|mut rest| {
            rest.insert(0, name);
            rest
        })
    })
}

/// A text and a stretch of it: a scenario file, or one `--set`.
#[derive(Debug, Clone, Copy)]
pub(super) struct Source<'a> {
    /// File name, or the command-line argument's name.
    pub(super) name: &'a str,
    /// The text.
    pub(super) text: &'a str,
}

/// A problem with its place, ready to be shown.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Located {
    text: String,
}

impl Located {
    /// Shows `problem` at `span` of `source`; without a span, at the source as a whole.
    pub(super) fn new(
        source: Source<'_>,
        span: Option<Range<usize>>,
        problem: &Problem,
    ) -> Located {
        let help = problem.help.as_ref();
        let help = help.map_or(String::new(), |help| format!("\n  = {help}"));
        let Some(span) = span else {
            let text = format!("{}: {}{help}", source.name, problem.what);
            return Located { text };
        };
        let start = span.start.min(source.text.len());
        let before = &source.text[..source.text.floor_char_boundary(start)];
        let line_number = before.matches('\n').count() + 1;
        let line_start = before.rfind('\n').map_or(0, |at| at + 1);
        let line = source.text[line_start..].lines().next().unwrap_or_default();
        let lead = &before[line_start..];
        let column = lead.chars().count() + 1;
        let in_line = span.end.min(line_start + line.len()).max(start);
        let marked = source.text.get(start..in_line).unwrap_or_default();
        let carets = "^".repeat(marked.chars().count().max(1));
        let pad: String = lead
            .chars()
            .map(|c| if c == '\t' { c } else { ' ' })
            .collect();
        let gutter = " ".repeat(line_number.to_string().len());
        let text = format!(
            "{}:{line_number}:{column}: {}\n{gutter} |\n{line_number} | {line}\n{gutter} | {pad}{carets}{help}",
            source.name, problem.what
        );
        Located { text }
    }
}

impl fmt::Display for Located {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

impl std::error::Error for Located {}
