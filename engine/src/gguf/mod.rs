//! Reader of GGUF files, versions 2 and 3: metadata and tensors in place, out of a read-only mapping.
//!
//! Nothing in the file is trusted: every count and length is capped by a constant in [`limits`], all arithmetic is
//! checked, and no memory is reserved from a number in the file.

mod parse;
mod split;
pub mod types;
mod value;
pub(crate) mod write;

#[cfg(test)]
mod tests;

pub use value::{Array, Kind, Value};

use crate::error::{Error, Result};
use crate::mmap::{FileId, FileMap};
use parse::Index;
use std::path::{Path, PathBuf};

/// What the reader accepts at most.
pub mod limits {
    /// Metadata entries.
    pub const KEYS: u64 = 1 << 16;
    /// Bytes of a metadata key.
    pub const KEY_BYTES: u64 = (1 << 16) - 1;
    /// Bytes of a string value.
    pub const STRING_BYTES: u64 = 1 << 26;
    /// Elements of an array.
    pub const ARRAY_LEN: u64 = 1 << 26;
    /// Arrays inside arrays.
    pub const ARRAY_DEPTH: usize = 4;
    /// Tensors.
    pub const TENSORS: u64 = 1 << 16;
    /// Bytes of a tensor's name.
    pub const TENSOR_NAME_BYTES: u64 = 256;
    /// Dimensions of a tensor.
    pub const DIMS: u32 = 4;
    /// Alignment of tensors in bytes.
    pub const ALIGNMENT: u64 = 1 << 20;
    /// Alignment of a file that does not name one, in bytes.
    pub const ALIGNMENT_DEFAULT: u64 = 32;
    /// Bytes that the smallest metadata entry takes: an empty key, a type, a one-byte value.
    pub const ENTRY_BYTES_MIN: u64 = 8 + 4 + 1;
}

/// An open GGUF file, or several that hold one model.
#[derive(Debug)]
pub struct Gguf {
    path: PathBuf,
    /// The files; the first has the metadata.
    parts: Vec<Source>,
    index: Index,
}

#[derive(Debug)]
enum Source {
    File(FileMap),
    Memory(Vec<u8>),
}

/// One tensor of a file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Tensor {
    /// Name, such as `blk.0.attn_q.weight`.
    pub name: String,
    /// Dimensions, the innermost (row length) first, as in the file; 1 to 4, none zero.
    pub dims: Vec<u64>,
    /// Number of the type; always one of [`types::TENSOR_TYPES`].
    pub format_id: u32,
    /// Which of the model's files it is in, from 0.
    pub part: usize,
    /// Start in bytes from the start of the file.
    pub offset: u64,
    /// Size in bytes.
    pub bytes: u64,
}

impl Tensor {
    /// The tensor's type.
    pub fn format(&self) -> &'static types::TensorType {
        types::by_id(self.format_id).expect("checked when the file was opened")
    }

    /// Number of values.
    pub fn n_values(&self) -> u64 {
        // Cannot overflow: the values fit `bytes` with at least one bit each.
        self.dims.iter().product()
    }
}

impl Gguf {
    /// Maps and checks a file; of a split model all its files, whichever of them is named. Errors name what is wrong and
    /// what to do.
    pub fn open(path: &Path) -> Result<Gguf> {
        Gguf::open_all(path)
    }

    /// Checks a file that lies in memory; `name` stands for its path in errors.
    pub fn from_bytes(name: &Path, bytes: Vec<u8>) -> Result<Gguf> {
        Gguf::index(name, Source::Memory(bytes))?.whole()
    }

    fn index(path: &Path, source: Source) -> Result<Gguf> {
        match parse::parse(source.bytes()) {
            Ok(index) => Ok(Gguf {
                path: path.to_path_buf(),
                parts: vec![source],
                index,
            }),
            Err(what) => Err(Error::Gguf {
                path: path.to_path_buf(),
                what,
            }),
        }
    }

    /// Where the file is, of a split model the first.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Version of the format: 2 or 3.
    pub fn version(&self) -> u32 {
        self.index.version
    }

    /// Size of the file in bytes, of a split model that of all files.
    pub fn file_bytes(&self) -> u64 {
        self.parts
            .iter()
            .map(|part| part.bytes().len() as u64)
            .sum()
    }

    /// Alignment of the tensors in bytes.
    pub fn alignment(&self) -> u64 {
        self.index.alignment
    }

    /// Metadata in file order.
    pub fn metadata(&self) -> impl Iterator<Item = (&str, Value<'_>)> {
        let file = self.parts[0].bytes();
        self.index
            .keys
            .iter()
            .filter_map(|key| Some((key.name.as_str(), key.value(file)?)))
    }

    /// The metadata value of `key`.
    pub fn get(&self, key: &str) -> Option<Value<'_>> {
        let &index = self.index.key_by_name.get(key)?;
        self.index.keys[index].value(self.parts[0].bytes())
    }

    /// An unsigned integer, `None` where the key is absent. Integers of any width that fit are accepted.
    pub fn u32(&self, key: &str) -> Result<Option<u32>> {
        self.typed(key, "an integer of 0 to 4294967295", |value| value.as_u32())
    }

    /// A floating-point number, `None` where the key is absent.
    pub fn f32(&self, key: &str) -> Result<Option<f32>> {
        self.typed(key, "a floating-point number", |value| value.as_f32())
    }

    /// A truth value, `None` where the key is absent.
    pub fn bool(&self, key: &str) -> Result<Option<bool>> {
        self.typed(key, "a bool", |value| value.as_bool())
    }

    /// A text, `None` where the key is absent.
    pub fn str(&self, key: &str) -> Result<Option<&str>> {
        self.typed(key, "a string of valid UTF-8", |value| {
            std::str::from_utf8(value.as_bytes()?).ok()
        })
    }

    /// An unsigned integer that must be there.
    pub fn require_u32(&self, key: &str) -> Result<u32> {
        self.required(key, self.u32(key))
    }

    /// A floating-point number that must be there.
    pub fn require_f32(&self, key: &str) -> Result<f32> {
        self.required(key, self.f32(key))
    }

    /// A text that must be there.
    pub fn require_str(&self, key: &str) -> Result<&str> {
        self.required(key, self.str(key))
    }

    /// An array of strings, as bytes; `None` where the key is absent.
    pub fn strings(&self, key: &str) -> Result<Option<Vec<&[u8]>>> {
        self.elements(key, "an array of strings", |value| value.as_bytes())
    }

    /// An array of integers that fit 32 bits signed; `None` where the key is absent.
    pub fn i32s(&self, key: &str) -> Result<Option<Vec<i32>>> {
        self.elements(key, "an array of 32-bit signed integers", |value| {
            value.as_i32()
        })
    }

    /// An array of integers that fit 32 bits unsigned; `None` where the key is absent.
    pub fn u32s(&self, key: &str) -> Result<Option<Vec<u32>>> {
        self.elements(key, "an array of 32-bit unsigned integers", |value| {
            value.as_u32()
        })
    }

    /// An array of floating-point numbers; `None` where the key is absent.
    pub fn f32s(&self, key: &str) -> Result<Option<Vec<f32>>> {
        self.elements(key, "an array of floating-point numbers", |value| {
            value.as_f32()
        })
    }

    /// All tensors in file order.
    pub fn tensors(&self) -> &[Tensor] {
        &self.index.tensors
    }

    /// The tensor called `name`.
    pub fn tensor(&self, name: &str) -> Option<&Tensor> {
        let &index = self.index.tensor_by_name.get(name)?;
        Some(&self.index.tensors[index])
    }

    /// Where a tensor stands among [`Gguf::tensors`].
    pub(crate) fn tensor_index(&self, name: &str) -> Option<usize> {
        self.index.tensor_by_name.get(name).copied()
    }

    /// The bytes of a tensor of this file.
    ///
    /// # Panics
    /// If `tensor` is not of this file.
    pub fn data(&self, tensor: &Tensor) -> &[u8] {
        let start = tensor.offset as usize;
        &self.parts[tensor.part].bytes()[start..start + tensor.bytes as usize]
    }

    /// Takes the pages of a tensor out of this process after use; they come back from the file when read again.
    pub fn drop_pages(&self, tensor: &Tensor) {
        if let Source::File(map) = &self.parts[tensor.part] {
            let start = tensor.offset as usize;
            map.drop_pages(start..start + tensor.bytes as usize);
        }
    }

    /// Which files the model is in; `None` for one that is not in files, or no longer where they were.
    pub(crate) fn file_ids(&self) -> Option<Vec<FileId>> {
        let id = |part: &Source| match part {
            Source::File(map) => map.id(),
            Source::Memory(_) => None,
        };
        self.parts.iter().map(id).collect()
    }

    fn typed<'a, T>(
        &'a self,
        key: &str,
        expected: &str,
        convert: impl FnOnce(&Value<'a>) -> Option<T>,
    ) -> Result<Option<T>> {
        let Some(value) = self.get(key) else {
            return Ok(None);
        };
        match convert(&value) {
            Some(converted) => Ok(Some(converted)),
            None => Err(self.error(format!(
                "metadata key \"{key}\": expected {expected}, found {}: the file does not follow the format's description",
                value.describe()
            ))),
        }
    }

    fn elements<'a, T>(
        &'a self,
        key: &str,
        expected: &str,
        convert: impl Fn(&Value<'a>) -> Option<T>,
    ) -> Result<Option<Vec<T>>> {
        self.typed(key, expected, |value| {
            value
                .as_array()?
                .iter()
                .map(|value| convert(&value))
                .collect()
        })
    }

    fn required<T>(&self, key: &str, found: Result<Option<T>>) -> Result<T> {
        found?.ok_or_else(|| {
            self.error(format!(
                "metadata key \"{key}\" is missing, but the model cannot be run without it: convert the model again"
            ))
        })
    }

    fn error(&self, what: String) -> Error {
        Error::Gguf {
            path: self.path.clone(),
            what,
        }
    }
}

impl Source {
    fn bytes(&self) -> &[u8] {
        match self {
            Source::File(map) => map.bytes(),
            Source::Memory(bytes) => bytes,
        }
    }
}
