//! The head of a GGUF file, version 3: counts, metadata, tensor descriptions.

use crate::gguf::Kind;
use crate::gguf::limits::ALIGNMENT_DEFAULT;

/// Version of the format that is written.
const VERSION: u32 = 3;

/// Metadata under construction.
#[derive(Debug, Default)]
pub(super) struct Metadata {
    bytes: Vec<u8>,
    count: u64,
}

impl Metadata {
    fn entry(&mut self, key: &str, kind: Kind) -> &mut Vec<u8> {
        self.count += 1;
        put_str(&mut self.bytes, key);
        self.bytes.extend((kind as u32).to_le_bytes());
        &mut self.bytes
    }

    pub(super) fn u32(&mut self, key: &str, value: u32) {
        self.entry(key, Kind::U32).extend(value.to_le_bytes());
    }

    pub(super) fn f32(&mut self, key: &str, value: f32) {
        self.entry(key, Kind::F32).extend(value.to_le_bytes());
    }

    pub(super) fn bool(&mut self, key: &str, value: bool) {
        self.entry(key, Kind::Bool).push(u8::from(value));
    }

    pub(super) fn str(&mut self, key: &str, value: &str) {
        put_str(self.entry(key, Kind::Str), value);
    }

    pub(super) fn strs(&mut self, key: &str, values: &[String]) {
        let out = self.entry(key, Kind::Array);
        put_array(out, Kind::Str, values.len());
        for value in values {
            put_str(out, value);
        }
    }

    pub(super) fn i32s(&mut self, key: &str, values: &[i32]) {
        let out = self.entry(key, Kind::Array);
        put_array(out, Kind::I32, values.len());
        for value in values {
            out.extend(value.to_le_bytes());
        }
    }
}

fn put_str(out: &mut Vec<u8>, text: &str) {
    out.extend((text.len() as u64).to_le_bytes());
    out.extend(text.as_bytes());
}

fn put_array(out: &mut Vec<u8>, kind: Kind, len: usize) {
    out.extend((kind as u32).to_le_bytes());
    out.extend((len as u64).to_le_bytes());
}

/// Name, dimensions (innermost first), type number and size in bytes of a tensor.
pub(super) type Described<'a> = (&'a str, &'a [u64], u32, u64);

/// The bytes of a file up to its first tensor, and the size of the whole file.
///
/// Tensors follow each other in the order given, each on a multiple of [`ALIGNMENT_DEFAULT`]; the file ends with the padding of
/// the last one. `None` where the sizes overflow.
pub(super) fn head<'a>(
    metadata: &Metadata,
    tensors: impl ExactSizeIterator<Item = Described<'a>>,
) -> Option<(Vec<u8>, u64)> {
    let mut out = b"GGUF".to_vec();
    out.extend(VERSION.to_le_bytes());
    out.extend((tensors.len() as u64).to_le_bytes());
    out.extend(metadata.count.to_le_bytes());
    out.extend(&metadata.bytes);
    let mut offset = 0u64;
    for (name, dims, id, bytes) in tensors {
        put_str(&mut out, name);
        out.extend((dims.len() as u32).to_le_bytes());
        for dim in dims {
            out.extend(dim.to_le_bytes());
        }
        out.extend(id.to_le_bytes());
        out.extend(offset.to_le_bytes());
        offset = offset
            .checked_add(bytes)?
            .checked_next_multiple_of(ALIGNMENT_DEFAULT)?;
    }
    out.resize(out.len().next_multiple_of(ALIGNMENT_DEFAULT as usize), 0);
    let total = offset.checked_add(out.len() as u64)?;
    Some((out, total))
}
