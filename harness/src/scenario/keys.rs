//! SCENARIOS.md lists what a scenario may hold. So do the types, if they are asked by what they refuse; both must agree.

use super::problem::{dotted, type_mismatch};
use super::wire;
use toml::{Table, Value};

/// A key that no section has, and a value that few keys take.
const NONE: &str = "?";

/// Behind the name of a section that may stand several times.
const LIST: &str = "[]";

/// The least that a scenario with all sections holds.
const LEAST: &str = r#"
[scenario]
name = "?"
description = "?"
[model.synth]
shape = "?"
quant = "?"
[prompt]
[engine.speculation]
method = "none"
[engine.sparsity]
method = "none"
[quality]
corpus = "?"
[[reference]]
name = "?"
kind = "command"
"#;

/// What serde says of a scenario with nothing but `value` at `path`.
fn refusal(path: &[String], value: Value) -> String {
    let table = path.iter().rev().fold(value, |value, key| {
        let (key, value) = match key.strip_suffix(LIST) {
            Some(key) => (key, Value::Array(vec![value])),
            None => (key.as_str(), value),
        };
        Value::Table(Table::from_iter([(key.to_owned(), value)]))
    });
    let read = table.try_into::<wire::Scenario>();
    read.map_or_else(|e| e.message().to_owned(), |_| String::new())
}

/// The names that a refusal quotes as those there are.
fn quoted(refusal: &str) -> impl Iterator<Item = &str> {
    refusal.split('`').skip(1).step_by(2).skip(1)
}

/// The keys at and below `path`, each with what it takes.
fn keys(path: &[String], all: &mut Vec<(String, String)>) {
    let unknown = || Value::Table(Table::from_iter([(NONE.to_owned(), Value::Integer(0))]));
    let mut as_list = path.to_vec();
    if let Some(last) = as_list.last_mut() {
        last.push_str(LIST);
    }
    for path in [path, &as_list] {
        let refusal = refusal(path, unknown());
        if refusal.starts_with("unknown field") {
            for name in quoted(&refusal) {
                keys(&[path, &[name.to_owned()]].concat(), all);
            }
            return;
        }
    }
    all.push((dotted(path), takes(path)));
}

/// What the key at `path` takes, in words.
fn takes(path: &[String]) -> String {
    let refused = refusal(path, Value::String(NONE.into()));
    if refused.starts_with("unknown variant") {
        let names: Vec<String> = quoted(&refused).map(|name| format!("`{name}`")).collect();
        let listed = refusal(path, Value::Array(vec![Value::Integer(0)]));
        let or = if listed.starts_with("missing field") {
            ", or a list of numbers"
        } else {
            ""
        };
        return names.join(", ") + or;
    }
    match type_mismatch(&refused) {
        Some((_, expected)) if expected == "a sequence" => "a list".into(),
        Some((_, expected)) => expected,
        None => "a text".into(),
    }
}

/// What the key stands at where a scenario does not name it; empty where there is nothing.
fn default(all: &Table, least: &Table, key: &str) -> String {
    let find = |table: &Table| {
        let mut parts = key.split('.');
        let first = table.get(parts.next()?.trim_end_matches(LIST));
        parts.fold(first.cloned(), |value, part| match value? {
            Value::Array(mut list) => list.pop()?.get(part).cloned(),
            value => value.get(part).cloned(),
        })
    };
    match find(all).filter(|_| find(least).is_none()) {
        None => String::new(),
        Some(Value::String(text)) if text.is_empty() => String::new(),
        Some(Value::Array(list)) if list.is_empty() => String::new(),
        Some(Value::Table(table)) if table.is_empty() => String::new(),
        Some(Value::Float(number)) => format!("`{}`", number as f32),
        Some(value) => format!("`{value}`"),
    }
}

#[test]
fn the_document_lists_every_key_as_it_is() {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../SCENARIOS.md");
    let document = std::fs::read_to_string(path).expect("SCENARIOS.md");
    let least: Table = LEAST.parse().expect("TOML");
    let scenario: wire::Scenario = least.clone().try_into().expect("a scenario");
    let all = Table::try_from(scenario).expect("TOML");
    let mut found = Vec::new();
    keys(&[], &mut found);
    let rows: Vec<String> = found
        .iter()
        .map(|(key, takes)| format!("| `{key}` | {takes} | {} |", default(&all, &least, key)))
        .collect();
    let written = document.lines().filter(|line| line.starts_with("| `"));
    let written: Vec<&str> = written.collect();
    let agree = |(row, line): (&String, &&str)| {
        let meaning = line.strip_prefix(row.as_str());
        meaning.is_some_and(|meaning| meaning.trim_matches([' ', '|']).len() > 3)
    };
    let missing = rows
        .iter()
        .filter(|row| !written.iter().any(|line| agree((row, line))));
    let missing: Vec<&String> = missing.collect();
    assert!(
        missing.is_empty(),
        "rows that SCENARIOS.md lacks: {missing:#?}"
    );
    assert_eq!(
        written.len(),
        rows.len(),
        "SCENARIOS.md has rows of keys that there are not"
    );
}
