//! Any text as a scenario: an error that names its place and ends with the usage exit code, or cases within the limits.
//! A first line that begins with `--set ` is an override.
#![no_main]

use harness::exit::{self, Exit};
use harness::scenario;
use libfuzzer_sys::fuzz_target;
use std::path::Path;

/// As the reader promises.
const CASES_MAX: usize = 1000;

fuzz_target!(|text: &str| {
    // A prompt file would be read from the disk of whoever fuzzes.
    if text.contains("file") {
        return;
    }
    let (overrides, text) = match text.strip_prefix("--set ").and_then(|rest| rest.split_once('\n')) {
        Some((set, text)) => (vec![set.to_owned()], text),
        None => (vec![], text),
    };
    match scenario::parse(text, Path::new("fuzz.toml"), &overrides) {
        Ok(scenario) => {
            assert!((1..=CASES_MAX).contains(&scenario.cases.len()));
            let mut names: Vec<&str> = scenario.cases.iter().map(|c| c.name.as_str()).collect();
            names.sort_unstable();
            names.dedup();
            assert_eq!(names.len(), scenario.cases.len(), "two cases of one name");
        }
        Err(error) => {
            assert_eq!(exit::of(&error), Exit::Usage);
            let shown = error.to_string();
            assert!(shown.starts_with("fuzz.toml") || shown.starts_with("--set"), "{shown}");
        }
    }
});
