//! Any bytes as a GGUF file: an error, or a file of which everything can be read.
#![no_main]

use engine::gguf::{Array, Gguf, Value};
use engine::model::Config;
use libfuzzer_sys::fuzz_target;
use std::path::Path;

fuzz_target!(|bytes: &[u8]| {
    let Ok(file) = Gguf::from_bytes(Path::new("fuzz.gguf"), bytes.to_vec()) else {
        return;
    };
    for (key, value) in file.metadata() {
        assert_eq!(file.get(key).map(|v| v.kind()), Some(value.kind()));
        let _ = (file.u32(key), file.f32(key), file.bool(key), file.str(key).is_ok());
        let _ = (file.i32s(key), file.u32s(key), file.f32s(key), file.strings(key).is_ok());
        if let Value::Array(array) = value {
            read(array);
        }
    }
    for tensor in file.tensors() {
        assert_eq!(file.data(tensor).len() as u64, tensor.bytes);
        assert!(tensor.n_values() > 0);
        assert!(tensor.offset.is_multiple_of(file.alignment()));
        assert!(file.tensor(&tensor.name).is_some_and(|found| found == tensor));
    }
    let _ = Config::from_gguf(&file);
});

/// Every element of an array, inner arrays included, is there.
fn read(array: Array) {
    let mut elements = 0;
    for element in array.iter() {
        elements += 1;
        if let Value::Array(inner) = element {
            read(inner);
        }
    }
    assert_eq!(elements, array.len());
}
