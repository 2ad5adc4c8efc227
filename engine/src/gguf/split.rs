//! Models split over several files: `NAME-00001-of-00003.gguf` and so on. Metadata of the model is in the first one; tensors
//! are in any of them.

use super::{Gguf, Source};
use crate::error::{Error, Result};
use crate::mmap::FileMap;
use std::path::{Path, PathBuf};

/// Most parts of a model.
const PARTS: u32 = 1024;

/// What the name of part `no` (from 0) of `count` ends in.
fn suffix(no: u32, count: u32) -> String {
    format!("-{:05}-of-{count:05}.gguf", no + 1)
}

impl Gguf {
    /// Parts that the model is split into, as this file says; 1 for a whole model.
    fn part_count(&self) -> Result<u32> {
        Ok(self.u32("split.count")?.unwrap_or(1).max(1))
    }

    /// An error where this is only a part of a model.
    pub(super) fn whole(self) -> Result<Gguf> {
        match self.part_count()? {
            1 => Ok(self),
            count => Err(self.error(format!(
                "is one of {count} parts of a split model, expected a whole one: open the file itself, with the other parts beside it"
            ))),
        }
    }

    /// The whole model that the file at `path` is, or is any part of.
    pub(super) fn open_all(path: &Path) -> Result<Gguf> {
        let open = |path: &Path| Gguf::index(path, Source::File(FileMap::open(path)?));
        let any = open(path)?;
        let count = any.part_count()?;
        if count == 1 {
            return Ok(any);
        }
        if count > PARTS {
            return Err(any.too_many(count));
        }
        let paths = any.part_paths(count)?;
        let mut model = open(&paths[0])?;
        model.check_part(0, count)?;
        for (path, no) in paths[1..].iter().zip(1..) {
            let part = open(path)?;
            part.check_part(no, count)?;
            model.add_part(part)?;
        }
        match model.u32("split.tensors.count")? {
            Some(n) if n as usize != model.index.tensors.len() => Err(model.error(format!(
                "says that the model has {n} tensors, but its {count} parts have {}: are they all of this model?",
                model.index.tensors.len()
            ))),
            _ => Ok(model),
        }
    }

    /// The files of the model that the file at `path` is, or is any part of, the first one first.
    ///
    /// # Errors
    /// When the file is no GGUF file, or a part that is not called so.
    pub fn files(path: &Path) -> Result<Vec<PathBuf>> {
        let any = Gguf::index(path, Source::File(FileMap::open(path)?))?;
        match any.part_count()? {
            1 => Ok(vec![path.to_owned()]),
            count if count > PARTS => Err(any.too_many(count)),
            count => any.part_paths(count),
        }
    }

    fn too_many(&self, count: u32) -> Error {
        self.error(format!(
            "is one of {count} parts of a split model, expected at most {PARTS}: the file is damaged"
        ))
    }

    /// Where all parts are.
    fn part_paths(&self, count: u32) -> Result<Vec<PathBuf>> {
        let no = self.require_u32("split.no")?;
        let name = self.path.file_name().and_then(|name| name.to_str());
        let stem = name
            .filter(|_| no < count)
            .and_then(|name| name.strip_suffix(&suffix(no, count)));
        let Some(stem) = stem else {
            return Err(self.error(format!(
                "is part {no} (from 0) of {count} of a split model, but is not called so, expected a name that ends in \"{}\": give the parts their names again",
                suffix(no.min(count - 1), count)
            )));
        };
        let path = |no| {
            self.path
                .with_file_name(format!("{stem}{}", suffix(no, count)))
        };
        Ok((0..count).map(path).collect())
    }

    fn check_part(&self, no: u32, count: u32) -> Result<()> {
        let found = (self.require_u32("split.no")?, self.part_count()?);
        if found == (no, count) {
            return Ok(());
        }
        Err(self.error(format!(
            "says that it is part {} (from 0) of {}, expected {no} of {count}: was it renamed?",
            found.0, found.1
        )))
    }

    /// Takes the tensors of another part.
    fn add_part(&mut self, part: Gguf) -> Result<()> {
        for mut tensor in part.index.tensors {
            tensor.part = self.parts.len();
            let place = self.index.tensors.len();
            if self
                .index
                .tensor_by_name
                .insert(tensor.name.clone(), place)
                .is_some()
            {
                return Err(Error::Gguf {
                    path: part.path,
                    what: format!(
                        "has the tensor \"{}\", which a part before has, too: are they all of this model?",
                        tensor.name
                    ),
                });
            }
            self.index.tensors.push(tensor);
        }
        self.parts.extend(part.parts);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::gguf::tests::{File, info, kv};

    /// A part of a model of two tensors, with one of them.
    fn part(no: u16, count: u16, tensor: &str) -> Vec<u8> {
        let mut bytes = File::empty()
            .with_key(kv("split.no", 2, &no.to_le_bytes()))
            .with_key(kv("split.count", 2, &count.to_le_bytes()))
            .with_key(kv("split.tensors.count", 5, &2i32.to_le_bytes()))
            .with_tensors(&[info(tensor, &[8], 0, 0)])
            .bytes();
        bytes.extend([0; 32]);
        bytes
    }

    #[test]
    fn parts_are_read_as_one_model_whichever_is_named() {
        let dir = tempfile::tempdir().unwrap();
        let at = |no: u32| dir.path().join(format!("m{}", suffix(no, 2)));
        std::fs::write(at(0), part(0, 2, "a")).unwrap();
        let error = Gguf::open(&at(0)).unwrap_err().to_string();
        assert!(error.contains("m-00002-of-00002.gguf"), "{error}");
        std::fs::write(at(1), part(1, 2, "b")).unwrap();
        for no in [0, 1] {
            let model = Gguf::open(&at(no)).unwrap();
            assert_eq!(model.path(), at(0));
            let whole = part(0, 2, "a").len() + part(1, 2, "b").len();
            assert_eq!(model.file_bytes(), whole as u64);
            for (name, part) in [("a", 0), ("b", 1)] {
                let tensor = model.tensor(name).unwrap();
                assert_eq!((tensor.part, model.data(tensor).len()), (part, 32));
                model.drop_pages(tensor);
            }
        }
    }

    #[test]
    fn parts_that_do_not_belong_together_are_refused() {
        let check = |second: Vec<u8>, expect: &str| {
            let dir = tempfile::tempdir().unwrap();
            let at = |no: u32| dir.path().join(format!("m{}", suffix(no, 2)));
            std::fs::write(at(0), part(0, 2, "a")).unwrap();
            std::fs::write(at(1), second).unwrap();
            let error = Gguf::open(&at(0)).unwrap_err().to_string();
            assert!(error.contains(expect), "{error}");
        };
        check(
            part(1, 2, "a"),
            "has the tensor \"a\", which a part before has",
        );
        check(part(0, 2, "b"), "part 0 (from 0) of 2, expected 1 of 2");
        check(part(1, 3, "b"), "part 1 (from 0) of 3, expected 1 of 2");
        let none = File::empty()
            .with_key(kv("split.no", 2, &1u16.to_le_bytes()))
            .with_key(kv("split.count", 2, &2u16.to_le_bytes()));
        check(none.bytes(), "has 2 tensors, but its 2 parts have 1");
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("renamed.gguf");
        std::fs::write(&path, part(0, 2, "a")).unwrap();
        let error = Gguf::open(&path).unwrap_err().to_string();
        assert!(
            error.contains("ends in \"-00001-of-00002.gguf\""),
            "{error}"
        );
        std::fs::write(&path, part(0, u16::MAX, "a")).unwrap();
        let error = Gguf::open(&path).unwrap_err().to_string();
        assert!(error.contains("65535 parts"), "{error}");
    }
}
