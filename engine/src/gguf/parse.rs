//! Reads the head of a GGUF file: counts, metadata and tensor descriptions, every number checked against a limit.

use super::types::{self, TensorType};
use super::value::{Array, Kind, Value};
use super::{Tensor, limits};
use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::ops::Range;

/// Problems are texts here; the caller adds the file's name.
pub(super) type Parsed<T> = std::result::Result<T, String>;

/// What the head of a file says. Offsets count from the start of the file.
#[derive(Debug)]
pub(super) struct Index {
    pub(super) version: u32,
    pub(super) alignment: u64,
    pub(super) keys: Vec<Key>,
    pub(super) key_by_name: HashMap<String, usize>,
    pub(super) tensors: Vec<Tensor>,
    pub(super) tensor_by_name: HashMap<String, usize>,
}

/// A metadata entry: its name, its type, and where its value stands in the file.
#[derive(Debug)]
pub(super) struct Key {
    pub(super) name: String,
    pub(super) kind: Kind,
    pub(super) at: Range<usize>,
}

impl Key {
    /// The value, read from the `file` that this entry was found in.
    pub(super) fn value<'a>(&self, file: &'a [u8]) -> Option<Value<'a>> {
        Cursor::new(file.get(self.at.clone())?)
            .value(self.kind, 0)
            .ok()
    }
}

/// A place in the file from which numbers and strings are taken.
#[derive(Clone)]
pub(super) struct Cursor<'a> {
    file: &'a [u8],
    pos: usize,
}

impl<'a> Cursor<'a> {
    pub(super) fn new(file: &'a [u8]) -> Cursor<'a> {
        Cursor { file, pos: 0 }
    }

    fn left(&self) -> u64 {
        (self.file.len() - self.pos) as u64
    }

    fn take(&mut self, bytes: u64) -> Parsed<&'a [u8]> {
        if bytes > self.left() {
            return Err(format!(
                "the head needs {bytes} bytes at offset {}, but the file ends at {}: is the download complete?",
                self.pos,
                self.file.len()
            ));
        }
        let start = self.pos;
        self.pos += bytes as usize;
        Ok(&self.file[start..self.pos])
    }

    fn array<const N: usize>(&mut self) -> Parsed<[u8; N]> {
        let mut bytes = [0; N];
        bytes.copy_from_slice(self.take(N as u64)?);
        Ok(bytes)
    }

    fn u32(&mut self) -> Parsed<u32> {
        Ok(u32::from_le_bytes(self.array()?))
    }

    fn u64(&mut self) -> Parsed<u64> {
        Ok(u64::from_le_bytes(self.array()?))
    }

    /// A string of at most `limit` bytes.
    fn string(&mut self, what: &str, limit: u64) -> Parsed<&'a [u8]> {
        let at = self.pos;
        let len = self.u64()?;
        if len > limit {
            return Err(format!(
                "the {what} at offset {at} claims {len} bytes, but at most {limit} are accepted: the file is damaged"
            ));
        }
        self.take(len)
    }

    /// A string that must be UTF-8.
    fn text(&mut self, what: &str, limit: u64) -> Parsed<&'a str> {
        let at = self.pos;
        std::str::from_utf8(self.string(what, limit)?).map_err(|_| {
            format!("the {what} at offset {at} is not valid UTF-8: the file is damaged")
        })
    }

    fn kind(&mut self) -> Parsed<Kind> {
        let at = self.pos;
        let id = self.u32()?;
        Kind::from_id(id).ok_or_else(|| {
            format!("value type {id} at offset {at} is unknown (0 to 12 are known): the file is damaged or newer than this reader")
        })
    }

    /// A value of `kind`, inside `depth` arrays.
    pub(super) fn value(&mut self, kind: Kind, depth: usize) -> Parsed<Value<'a>> {
        Ok(match kind {
            Kind::U8 => Value::U8(u8::from_le_bytes(self.array()?)),
            Kind::I8 => Value::I8(i8::from_le_bytes(self.array()?)),
            Kind::U16 => Value::U16(u16::from_le_bytes(self.array()?)),
            Kind::I16 => Value::I16(i16::from_le_bytes(self.array()?)),
            Kind::U32 => Value::U32(u32::from_le_bytes(self.array()?)),
            Kind::I32 => Value::I32(i32::from_le_bytes(self.array()?)),
            Kind::F32 => Value::F32(f32::from_le_bytes(self.array()?)),
            Kind::U64 => Value::U64(u64::from_le_bytes(self.array()?)),
            Kind::I64 => Value::I64(i64::from_le_bytes(self.array()?)),
            Kind::F64 => Value::F64(f64::from_le_bytes(self.array()?)),
            Kind::Bool => Value::Bool(self.array::<1>()?[0] != 0),
            Kind::Str => Value::Str(self.string("string", limits::STRING_BYTES)?),
            Kind::Array => Value::Array(self.array_value(depth)?),
        })
    }

    fn array_value(&mut self, depth: usize) -> Parsed<Array<'a>> {
        let at = self.pos;
        if depth >= limits::ARRAY_DEPTH {
            return Err(format!(
                "the array at offset {at} lies more than {} arrays deep: the file is damaged",
                limits::ARRAY_DEPTH
            ));
        }
        let kind = self.kind()?;
        let len = self.u64()?;
        if len > limits::ARRAY_LEN {
            return Err(format!(
                "the array at offset {at} claims {len} elements, but at most {} are accepted: the file is damaged",
                limits::ARRAY_LEN
            ));
        }
        let start = self.pos;
        match kind.fixed_bytes() {
            // Cannot overflow: both factors are small.
            Some(bytes) => {
                self.take(len * bytes)?;
            }
            None => {
                for _ in 0..len {
                    self.value(kind, depth + 1)?;
                }
            }
        }
        Ok(Array {
            kind,
            len,
            bytes: &self.file[start..self.pos],
        })
    }
}

/// Reads the head of `file`, which holds the whole file.
pub(super) fn parse(file: &[u8]) -> Parsed<Index> {
    let mut cursor = Cursor::new(file);
    let version = magic_and_version(&mut cursor)?;
    let n_tensors = count(&mut cursor, "tensors", limits::TENSORS)?;
    let n_keys = count(&mut cursor, "metadata entries", limits::KEYS)?;

    let mut keys: Vec<Key> = Vec::new();
    let mut key_by_name = HashMap::new();
    for index in 0..n_keys {
        let key = key(&mut cursor)?;
        match key_by_name.entry(key.name.clone()) {
            Entry::Occupied(_) => {
                return Err(format!(
                    "metadata key \"{}\" stands in the file twice: the file is damaged",
                    key.name
                ));
            }
            Entry::Vacant(entry) => entry.insert(index as usize),
        };
        keys.push(key);
    }
    let lookup = |name: &str| {
        key_by_name
            .get(name)
            .and_then(|&i: &usize| keys[i].value(file))
    };
    let alignment = alignment(lookup("general.alignment"))?;

    let mut tensors: Vec<Tensor> = Vec::new();
    let mut tensor_by_name = HashMap::new();
    for index in 0..n_tensors {
        let tensor = tensor(&mut cursor, alignment)?;
        match tensor_by_name.entry(tensor.name.clone()) {
            Entry::Occupied(_) => {
                return Err(format!(
                    "tensor \"{}\" stands in the file twice: the file is damaged",
                    tensor.name
                ));
            }
            Entry::Vacant(entry) => entry.insert(index as usize),
        };
        tensors.push(tensor);
    }
    let data_start = (cursor.pos as u64).next_multiple_of(alignment);
    place(&mut tensors, data_start, file.len() as u64)?;
    Ok(Index {
        version,
        alignment,
        keys,
        key_by_name,
        tensors,
        tensor_by_name,
    })
}

fn magic_and_version(cursor: &mut Cursor) -> Parsed<u32> {
    if !cursor.file.starts_with(b"GGUF") {
        return Err(format!(
            "is not a GGUF file: expected it to start with \"GGUF\", {}",
            looks_like(cursor.file)
        ));
    }
    cursor.take(4)?;
    let version = cursor.u32()?;
    match version {
        2 | 3 => Ok(version),
        1 => Err("is GGUF version 1, expected 2 or 3: convert the model again with a current converter".to_string()),
        _ if version.swap_bytes() < 0x10000 && version >= 0x10000 => {
            Err("is a big-endian GGUF file, expected little-endian: convert the model again for this kind of machine".to_string())
        }
        _ => Err(format!(
            "is GGUF version {version}, expected 2 or 3: the file is newer than this reader, or damaged"
        )),
    }
}

/// What a file that is no GGUF file seems to be, and what to do.
fn looks_like(file: &[u8]) -> String {
    let starts = |prefix: &[u8]| {
        file.len() >= prefix.len() && file[..prefix.len()].eq_ignore_ascii_case(prefix)
    };
    let head = &file[..file.len().min(8)];
    let safetensors = file.len() > 9 && file[8] == b'{' && file[5..8] == [0, 0, 0];
    let guess = if starts(b"version https://git-lfs") {
        "found a Git LFS pointer: fetch the file itself with \"git lfs pull\""
    } else if starts(b"<!doctype") || starts(b"<html") {
        "found an HTML page: the download gave a web page, use the link to the file itself"
    } else if safetensors {
        "found a safetensors file: convert it to GGUF first"
    } else if starts(b"PK\x03\x04") {
        "found a ZIP archive (a PyTorch checkpoint?): unpack it, or convert it to GGUF first"
    } else if starts(b"\x1f\x8b") || starts(b"\x28\xb5\x2f\xfd") || starts(b"\xfd7zXZ") {
        "found a compressed file: decompress it first"
    } else if starts(b"lmgg") || starts(b"fmgg") || starts(b"tjgg") {
        "found a GGML file from before GGUF: convert the model again with a current converter"
    } else if starts(b"{") {
        "found JSON text: is it an error message of the download?"
    } else if head.iter().all(|&byte| byte == 0) {
        "found zero bytes: is the download complete?"
    } else {
        return format!(
            "found the bytes {head:02x?}: is it the right file, and is the download complete?"
        );
    };
    guess.to_string()
}

/// A count of entries that each need at least [`limits::ENTRY_BYTES_MIN`] bytes of the file.
fn count(cursor: &mut Cursor, what: &str, limit: u64) -> Parsed<u64> {
    let at = cursor.pos;
    let count = cursor.u64()?;
    let room = cursor.left() / limits::ENTRY_BYTES_MIN;
    if count > limit {
        return Err(format!(
            "claims {count} {what} at offset {at}, but at most {limit} are accepted: the file is damaged"
        ));
    }
    if count > room {
        return Err(format!(
            "claims {count} {what} at offset {at}, but the rest of the file has room for {room} at most: is the download complete?"
        ));
    }
    Ok(count)
}

fn key(cursor: &mut Cursor) -> Parsed<Key> {
    let name = cursor.text("metadata key", limits::KEY_BYTES)?.to_string();
    let context = |what: String| format!("metadata key \"{name}\": {what}");
    let kind = cursor.kind().map_err(context)?;
    let start = cursor.pos;
    cursor.value(kind, 0).map_err(context)?;
    Ok(Key {
        name,
        kind,
        at: start..cursor.pos,
    })
}

fn alignment(value: Option<Value>) -> Parsed<u64> {
    let Some(value) = value else {
        return Ok(limits::ALIGNMENT_DEFAULT);
    };
    value
        .as_u32()
        .map(u64::from)
        .filter(|&alignment| alignment.is_power_of_two() && alignment <= limits::ALIGNMENT)
        .ok_or_else(|| {
            format!(
                "metadata key \"general.alignment\": expected a power of two up to {}, found {}: the file is damaged",
                limits::ALIGNMENT,
                value.describe()
            )
        })
}

/// A tensor description; its offset still counts from the start of the data section.
fn tensor(cursor: &mut Cursor, alignment: u64) -> Parsed<Tensor> {
    let name = cursor
        .text("tensor name", limits::TENSOR_NAME_BYTES)?
        .to_string();
    let context = |what: String| format!("tensor \"{name}\" {what}");
    let dims = dims(cursor).map_err(context)?;
    let at = cursor.pos;
    let format_id = cursor.u32()?;
    let kind = types::by_id(format_id).ok_or_else(|| {
        context(format!(
            "has type {format_id} at offset {at}, which is unknown or retired: quantise the model again, or update this program"
        ))
    })?;
    let offset = cursor.u64()?;
    if offset % alignment != 0 {
        return Err(context(format!(
            "stands at offset {offset} of the data, expected a multiple of the alignment {alignment}: the file is damaged"
        )));
    }
    let bytes = tensor_bytes(kind, &dims).map_err(context)?;
    Ok(Tensor {
        name,
        dims,
        format_id,
        part: 0,
        offset,
        bytes,
    })
}

fn dims(cursor: &mut Cursor) -> Parsed<Vec<u64>> {
    let n_dims = cursor.u32()?;
    if n_dims == 0 || n_dims > limits::DIMS {
        return Err(format!(
            "has {n_dims} dimensions, expected 1 to {}: the file is damaged",
            limits::DIMS
        ));
    }
    let dims = (0..n_dims)
        .map(|_| cursor.u64())
        .collect::<Parsed<Vec<u64>>>()?;
    if dims.contains(&0) {
        return Err(format!(
            "has a dimension of zero in {dims:?}: the file is damaged"
        ));
    }
    Ok(dims)
}

fn tensor_bytes(kind: &TensorType, dims: &[u64]) -> Parsed<u64> {
    if !dims[0].is_multiple_of(kind.block_len) {
        return Err(format!(
            "has rows of {} values, but {} stores blocks of {}: the file is damaged",
            dims[0], kind.name, kind.block_len
        ));
    }
    kind.tensor_bytes(dims).ok_or_else(|| {
        format!("has dimensions {dims:?}, more bytes than 64 bits can count: the file is damaged")
    })
}

/// Turns offsets into offsets from the start of the file, and checks that every tensor lies inside it, apart from the others.
fn place(tensors: &mut [Tensor], data_start: u64, file_bytes: u64) -> Parsed<()> {
    for tensor in tensors.iter_mut() {
        let start = data_start.checked_add(tensor.offset);
        let end = start.and_then(|start| start.checked_add(tensor.bytes));
        match (start, end) {
            (Some(start), Some(end)) if end <= file_bytes => tensor.offset = start,
            _ => {
                return Err(format!(
                    "tensor \"{}\" needs {} bytes at offset {}, but the file ends at {file_bytes}: is the download complete?",
                    tensor.name,
                    tensor.bytes,
                    data_start.saturating_add(tensor.offset)
                ));
            }
        }
    }
    let mut order: Vec<&Tensor> = tensors.iter().collect();
    order.sort_by_key(|tensor| tensor.offset);
    for pair in order.windows(2) {
        if pair[0].offset + pair[0].bytes > pair[1].offset {
            return Err(format!(
                "tensors \"{}\" ({} bytes at offset {}) and \"{}\" (at offset {}) overlap: the file is damaged",
                pair[0].name, pair[0].bytes, pair[0].offset, pair[1].name, pair[1].offset
            ));
        }
    }
    Ok(())
}
