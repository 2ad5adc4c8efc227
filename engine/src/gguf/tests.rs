//! Tests of the reader on small files built here, most of them broken on purpose.

use super::*;

/// A file under construction; every number can be wrong.
#[derive(Clone)]
pub(super) struct File {
    magic: Vec<u8>,
    version: u32,
    n_keys: Option<u64>,
    n_tensors: Option<u64>,
    keys: Vec<Vec<u8>>,
    tensors: Vec<Vec<u8>>,
    alignment: usize,
    data: usize,
}

fn string(text: &[u8]) -> Vec<u8> {
    let mut out = (text.len() as u64).to_le_bytes().to_vec();
    out.extend(text);
    out
}

pub(super) fn kv(name: &str, kind: u32, value: &[u8]) -> Vec<u8> {
    let mut out = string(name.as_bytes());
    out.extend(kind.to_le_bytes());
    out.extend(value);
    out
}

fn array(kind: u32, len: u64, elements: &[u8]) -> Vec<u8> {
    let mut out = kind.to_le_bytes().to_vec();
    out.extend(len.to_le_bytes());
    out.extend(elements);
    out
}

pub(super) fn info(name: &str, dims: &[u64], kind: u32, offset: u64) -> Vec<u8> {
    let mut out = string(name.as_bytes());
    out.extend((dims.len() as u32).to_le_bytes());
    dims.iter().for_each(|dim| out.extend(dim.to_le_bytes()));
    out.extend(kind.to_le_bytes());
    out.extend(offset.to_le_bytes());
    out
}

impl File {
    /// A valid file with one value of every kind and two tensors.
    fn sample() -> File {
        let strings = [string(b"a"), string(b"\xff\xfe"), string(b"")].concat();
        let inner = array(4, 2, &[1, 0, 0, 0, 2, 0, 0, 0]);
        let ints: Vec<u8> = [-1i32, 7].iter().flat_map(|v| v.to_le_bytes()).collect();
        let floats: Vec<u8> = [0.5f32, -2.0]
            .iter()
            .flat_map(|v| v.to_le_bytes())
            .collect();
        File {
            magic: b"GGUF".to_vec(),
            version: 3,
            n_keys: None,
            n_tensors: None,
            keys: vec![
                kv("general.architecture", 8, &string(b"llama")),
                kv("u8", 0, &[200]),
                kv("i8", 1, &[255]),
                kv("u16", 2, &300u16.to_le_bytes()),
                kv("i16", 3, &(-300i16).to_le_bytes()),
                kv("u32", 4, &70000u32.to_le_bytes()),
                kv("i32", 5, &70001i32.to_le_bytes()),
                kv("f32", 6, &1.5f32.to_le_bytes()),
                kv("yes", 7, &[1]),
                kv("raw", 8, &string(b"\xff")),
                kv("u64", 10, &(1u64 << 40).to_le_bytes()),
                kv("i64", 11, &5i64.to_le_bytes()),
                kv("f64", 12, &2.5f64.to_le_bytes()),
                kv("strings", 9, &array(8, 3, &strings)),
                kv("ints", 9, &array(5, 2, &ints)),
                kv("floats", 9, &array(6, 2, &floats)),
                kv("nested", 9, &array(9, 1, &inner)),
            ],
            tensors: vec![info("first", &[32, 2], 2, 0), info("second", &[3], 0, 64)],
            alignment: 32,
            data: 64 + 12,
        }
    }

    pub(super) fn empty() -> File {
        File {
            keys: Vec::new(),
            tensors: Vec::new(),
            data: 0,
            ..File::sample()
        }
    }

    pub(super) fn with_key(mut self, key: Vec<u8>) -> File {
        self.keys.push(key);
        self
    }

    pub(super) fn with_tensors(mut self, tensors: &[Vec<u8>]) -> File {
        self.tensors = tensors.to_vec();
        self
    }

    pub(super) fn bytes(&self) -> Vec<u8> {
        let mut out = self.magic.clone();
        out.extend(self.version.to_le_bytes());
        out.extend(
            self.n_tensors
                .unwrap_or(self.tensors.len() as u64)
                .to_le_bytes(),
        );
        out.extend(self.n_keys.unwrap_or(self.keys.len() as u64).to_le_bytes());
        out.extend(self.keys.concat());
        out.extend(self.tensors.concat());
        out.resize(out.len().next_multiple_of(self.alignment), 0);
        out.extend((0..self.data).map(|i| i as u8));
        out
    }
}

fn open(bytes: Vec<u8>) -> Result<Gguf> {
    Gguf::from_bytes(Path::new("model.gguf"), bytes)
}

#[test]
fn a_valid_file_reads_back() {
    for version in [2, 3] {
        let file = open(
            File {
                version,
                ..File::sample()
            }
            .bytes(),
        )
        .unwrap();
        assert_eq!((file.version(), file.alignment()), (version, 32));
        assert_eq!(file.metadata().count(), 17);
        assert_eq!(file.require_str("general.architecture").unwrap(), "llama");
        for (key, value) in [
            ("u8", 200),
            ("u16", 300),
            ("u32", 70000),
            ("i32", 70001),
            ("i64", 5),
        ] {
            assert_eq!(file.u32(key).unwrap(), Some(value), "{key}");
        }
        assert_eq!(file.get("i8"), Some(Value::I8(-1)));
        assert_eq!(file.get("i16"), Some(Value::I16(-300)));
        assert_eq!(file.get("u64"), Some(Value::U64(1 << 40)));
        assert_eq!(file.require_f32("f32").unwrap(), 1.5);
        assert_eq!(file.f32("f64").unwrap(), Some(2.5));
        assert_eq!(file.bool("yes").unwrap(), Some(true));
        assert_eq!(
            file.strings("strings").unwrap().unwrap(),
            [&b"a"[..], b"\xff\xfe", b""]
        );
        assert_eq!(file.i32s("ints").unwrap().unwrap(), [-1, 7]);
        assert_eq!(file.f32s("floats").unwrap().unwrap(), [0.5, -2.0]);
        let nested = file.get("nested").unwrap().as_array().unwrap();
        let inner = nested.iter().next().unwrap().as_array().unwrap();
        assert_eq!(
            inner.iter().collect::<Vec<_>>(),
            [Value::U32(1), Value::U32(2)]
        );
        assert_eq!(file.u32("none").unwrap(), None);

        let names: Vec<&str> = file.tensors().iter().map(|t| t.name.as_str()).collect();
        assert_eq!(names, ["first", "second"]);
        let first = file.tensor("first").unwrap();
        assert_eq!(
            (first.format().name, first.bytes, first.n_values()),
            ("Q4_0", 36, 64)
        );
        assert_eq!(file.data(first), (0..36).collect::<Vec<u8>>());
        let second = file.tensor("second").unwrap();
        assert_eq!(file.data(second), (64..76).collect::<Vec<u8>>());
        assert_eq!(second.offset + second.bytes, file.file_bytes());
    }
}

#[test]
fn other_alignments_move_the_data() {
    for alignment in [1usize, 8, 64, 4096] {
        let mut file = File::sample().with_key(kv(
            "general.alignment",
            4,
            &(alignment as u32).to_le_bytes(),
        ));
        file.alignment = alignment;
        file.tensors = vec![info("only", &[4], 24, 0)];
        let file = open(file.bytes()).unwrap();
        let tensor = &file.tensors()[0];
        assert_eq!(tensor.offset % alignment as u64, 0);
        assert_eq!(file.data(tensor), [0, 1, 2, 3]);
    }
}

#[test]
fn values_of_the_wrong_type_are_errors_that_name_key_and_types() {
    let file = open(File::sample().bytes()).unwrap();
    fn check<T: std::fmt::Debug>(found: Result<T>, parts: &[&str]) {
        let text = found.unwrap_err().to_string();
        for part in parts {
            assert!(text.contains(part), "{part:?} is not in: {text}");
        }
    }
    check(
        file.u32("i16"),
        &[
            "\"i16\"",
            "expected an integer of 0 to 4294967295",
            "found i16 -300",
        ],
    );
    check(file.u32("u64"), &["found u64 1099511627776"]);
    check(file.u32("f32"), &["found f32 1.5"]);
    check(file.u32("ints"), &["found array of 2 i32"]);
    check(
        file.f32("u8"),
        &["expected a floating-point number", "found u8 200"],
    );
    check(file.bool("u8"), &["expected a bool"]);
    check(
        file.str("raw"),
        &["expected a string of valid UTF-8", "found string"],
    );
    check(
        file.strings("ints"),
        &["expected an array of strings", "found array of 2 i32"],
    );
    check(
        file.u32s("ints"),
        &["expected an array of 32-bit unsigned integers"],
    );
    check(file.i32s("yes"), &["found bool true"]);
    check(file.f32s("strings"), &["found array of 3 string"]);
    check(file.require_u32("none"), &["\"none\" is missing"]);
    check(file.require_f32("none"), &["\"none\" is missing"]);
    check(
        file.require_str("none"),
        &["model.gguf", "\"none\" is missing"],
    );
}

/// One row: the bytes of a file, and what its error must say.
fn refused(bytes: Vec<u8>, expect: &str) {
    let text = match open(bytes) {
        Ok(_) => panic!("accepted, but expected: {expect}"),
        Err(error) => error.to_string(),
    };
    assert!(text.starts_with("\"model.gguf\": "), "{text}");
    assert!(text.contains(expect), "expected {expect:?} in: {text}");
}

#[test]
fn files_of_other_kinds_are_recognised() {
    let mut safetensors = 40u64.to_le_bytes().to_vec();
    safetensors.extend(b"{\"a\":{}}");
    refused(
        b"version https://git-lfs.github.com/spec/v1\noid sha256:0".to_vec(),
        "Git LFS pointer",
    );
    refused(b"<!DOCTYPE html><html>".to_vec(), "HTML page");
    refused(b"<html>404</html>".to_vec(), "HTML page");
    refused(safetensors, "safetensors");
    refused(b"PK\x03\x04rest".to_vec(), "ZIP archive");
    refused(b"\x1f\x8b\x08\x00".to_vec(), "compressed");
    refused(b"tjgg\x01\x00\x00\x00".to_vec(), "before GGUF");
    refused(b"{\"error\":\"not found\"}".to_vec(), "JSON");
    refused(vec![0; 4096], "zero bytes: is the download complete?");
    refused(b"GG".to_vec(), "found the bytes [47, 47]");
    refused(
        b"hello world".to_vec(),
        "found the bytes [68, 65, 6c, 6c, 6f",
    );
}

#[test]
fn versions_other_than_2_and_3_are_refused() {
    let version = |version| {
        File {
            version,
            ..File::empty()
        }
        .bytes()
    };
    refused(version(1), "version 1, expected 2 or 3");
    refused(version(0), "version 0, expected 2 or 3");
    refused(version(4), "version 4, expected 2 or 3");
    refused(version(3u32.swap_bytes()), "big-endian");
    refused(version(u32::MAX), "version 4294967295");
}

#[test]
fn counts_and_lengths_beyond_the_limits_are_refused() {
    let keys = |n| {
        File {
            n_keys: Some(n),
            ..File::sample()
        }
        .bytes()
    };
    let tensors = |n| {
        File {
            n_tensors: Some(n),
            ..File::sample()
        }
        .bytes()
    };
    let key = |kind, value: &[u8]| File::empty().with_key(kv("k", kind, value)).bytes();
    refused(
        keys(u64::MAX),
        "metadata entries at offset 16, but at most 65536",
    );
    refused(keys(65536), "has room for");
    refused(tensors(1 << 40), "tensors at offset 8, but at most 65536");
    refused(tensors(60000), "has room for");
    refused(
        key(8, &u64::MAX.to_le_bytes()),
        "claims 18446744073709551615 bytes",
    );
    refused(key(8, &1000u64.to_le_bytes()), "is the download complete?");
    refused(
        key(9, &array(0, u64::MAX, b"")),
        "claims 18446744073709551615 elements",
    );
    refused(key(9, &array(10, 1 << 26, b"")), "the file ends at");
    refused(key(9, &array(8, 1 << 20, b"")), "the file ends at");
    refused(key(9, &array(77, 1, b"")), "value type 77");
    refused(key(13, b"1234"), "value type 13");
    let mut deep = array(0, 1, &[1]);
    for _ in 0..4 {
        deep = array(9, 1, &deep);
    }
    refused(key(9, &deep), "more than 4 arrays deep");
    let mut long_key = (1u64 << 16).to_le_bytes().to_vec();
    long_key.resize(1 << 17, b'x');
    refused(
        File::empty().with_key(long_key).bytes(),
        "claims 65536 bytes, but at most 65535",
    );
    let mut bad_key = string(b"\xff\xff");
    bad_key.extend([0, 0, 0, 0, 1]);
    refused(File::empty().with_key(bad_key).bytes(), "not valid UTF-8");
}

#[test]
fn contradictory_metadata_is_refused() {
    let with =
        |name: &str, kind, value: &[u8]| File::sample().with_key(kv(name, kind, value)).bytes();
    refused(
        with("u8", 0, &[1]),
        "metadata key \"u8\" stands in the file twice",
    );
    refused(
        with("general.alignment", 4, &33u32.to_le_bytes()),
        "expected a power of two up to 1048576, found u32 33",
    );
    refused(
        with("general.alignment", 4, &0u32.to_le_bytes()),
        "found u32 0",
    );
    refused(
        with("general.alignment", 10, &(1u64 << 50).to_le_bytes()),
        "found u64",
    );
    refused(with("general.alignment", 8, &string(b"32")), "found string");
    refused(
        with("split.count", 2, &3u16.to_le_bytes()),
        "one of 3 parts",
    );
    assert!(open(with("split.count", 2, &1u16.to_le_bytes())).is_ok());
}

#[test]
fn impossible_tensors_are_refused_by_name() {
    let with = |tensors: &[Vec<u8>]| File::sample().with_tensors(tensors).bytes();
    let one = |dims: &[u64], kind, offset| with(&[info("t", dims, kind, offset)]);
    refused(one(&[32], 2, 4096), "tensor \"t\" needs 18 bytes at offset");
    refused(one(&[1 << 20], 0, 0), "is the download complete?");
    refused(one(&[32], 2, u64::MAX - 31), "is the download complete?");
    refused(one(&[32], 2, 16), "expected a multiple of the alignment 32");
    refused(one(&[32], 4, 0), "has type 4 at offset");
    refused(one(&[32], u32::MAX, 0), "has type 4294967295");
    refused(
        one(&[33], 2, 0),
        "rows of 33 values, but Q4_0 stores blocks of 32",
    );
    refused(one(&[], 0, 0), "has 0 dimensions, expected 1 to 4");
    refused(one(&[1, 1, 1, 1, 1], 0, 0), "has 5 dimensions");
    refused(one(&[0, 4], 0, 0), "dimension of zero");
    refused(one(&[1 << 40, 1 << 40], 0, 0), "more bytes than 64 bits");
    refused(one(&[u64::MAX, 2, 2, 2], 24, 0), "more bytes than 64 bits");
    let twin = info("t", &[32], 2, 0);
    refused(
        with(&[twin.clone(), twin]),
        "tensor \"t\" stands in the file twice",
    );
    refused(
        with(&[info("b", &[3], 0, 32), info("a", &[64], 2, 0)]),
        "tensors \"a\" (36 bytes at offset",
    );
    let mut name = (257u64).to_le_bytes().to_vec();
    name.resize(1000, b'n');
    refused(with(&[name]), "tensor name at offset");
    let mut name = string(b"\xc3");
    name.resize(100, 0);
    refused(with(&[name]), "not valid UTF-8");
}

#[test]
fn a_file_cut_anywhere_is_refused() {
    let whole = File::sample().bytes();
    for len in 0..whole.len() {
        assert!(
            open(whole[..len].to_vec()).is_err(),
            "cut at {len} of {}",
            whole.len()
        );
    }
    assert!(open(whole).is_ok());
}

/// Reads everything that an accepted file offers.
fn use_all_of(file: &Gguf) {
    for (key, value) in file.metadata() {
        let _ = (
            file.u32(key),
            file.f32(key),
            file.bool(key),
            file.str(key).is_ok(),
        );
        let _ = (
            file.i32s(key),
            file.u32s(key),
            file.f32s(key),
            file.strings(key).is_ok(),
        );
        if let Some(array) = value.as_array() {
            assert_eq!(array.iter().count() as u64, array.len());
        }
    }
    for tensor in file.tensors() {
        assert_eq!(file.data(tensor).len() as u64, tensor.bytes);
        assert!(tensor.n_values() > 0);
        assert!(std::ptr::eq(file.tensor(&tensor.name).unwrap(), tensor));
    }
}

#[test]
fn damaged_files_end_in_ok_or_err() {
    let whole = File::sample().bytes();
    let mut state = 1u64;
    let mut random = move || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state
    };
    let (mut accepted, mut rejected) = (0, 0);
    for _ in 0..20_000 {
        let mut bytes = whole.clone();
        for _ in 0..1 + random() % 4 {
            let at = random() as usize % bytes.len();
            match random() % 5 {
                0 => bytes[at] ^= 1 << (random() % 8),
                1 => bytes[at] = random() as u8,
                2 => bytes[at] = [0, 1, 0x7f, 0x80, 0xff][random() as usize % 5],
                3 => bytes.truncate(at.max(1)),
                _ => bytes.insert(at, random() as u8),
            }
        }
        match open(bytes) {
            Ok(file) => {
                use_all_of(&file);
                accepted += 1;
            }
            Err(_) => rejected += 1,
        }
    }
    assert!(
        accepted > 100 && rejected > 1000,
        "{accepted} accepted, {rejected} rejected: the mutations lost their bite"
    );
}

#[test]
fn a_mapped_file_reads_like_one_in_memory() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("sample.gguf");
    std::fs::write(&path, File::sample().bytes()).unwrap();
    let file = Gguf::open(&path).unwrap();
    use_all_of(&file);
    let first = file.tensor("first").unwrap();
    file.drop_pages(first);
    assert_eq!(file.data(first), (0..36).collect::<Vec<u8>>());
    assert_eq!(file.path(), path);
    assert!(Gguf::open(folder.path()).is_err());
}

#[test]
fn the_seeds_of_the_fuzzer_are_what_their_names_say() {
    let check = |name: &str, bytes: &[u8], readable: bool| {
        assert_eq!(open(bytes.to_vec()).is_ok(), readable, "{name}");
    };
    macro_rules! seed {
        ($name:literal) => {
            include_bytes!(concat!("../../fuzz/seeds/gguf/", $name, ".gguf"))
        };
    }
    check("sample", seed!("sample"), true);
    check("empty", seed!("empty"), true);
    check("version-2", seed!("version-2"), true);
    check("aligned-8", seed!("aligned-8"), true);
    check("model", seed!("model"), true);
    check("split", seed!("split"), false);
}
