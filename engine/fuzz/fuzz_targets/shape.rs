//! Any text as a shape file: a one-line error, or a shape whose file size can be counted.
#![no_main]

use engine::synth::{Shape, file_bytes};
use libfuzzer_sys::fuzz_target;

/// Vocabularies above this are not built here: they take long, and only their size differs.
const VOCABULARY_MAX: u32 = 2048;

fuzz_target!(|text: &str| {
    match Shape::parse("fuzz.toml", text) {
        Ok(shape) if shape.vocabulary <= VOCABULARY_MAX => {
            let _ = file_bytes(&shape, "Q4_K", 1);
        }
        Ok(_) => {}
        Err(error) => assert!(!error.to_string().contains('\n')),
    }
});
