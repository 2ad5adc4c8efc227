use super::*;
use crate::file::tests::pipe;
use crate::gguf::Gguf;
use crate::options::sparsity::{Method, Sparsity};
use crate::options::{Affinity, AffinityPolicy, Kernel};
use crate::session::Session;
use crate::synth::{Shape, synth};
use std::path::Path;

/// A tiny model in a folder.
fn model(folder: &Path, quant: &str, seed: u64) -> PathBuf {
    let path = folder.join("tiny.gguf");
    let _ = std::fs::remove_file(&path);
    let shape = Shape::load("tiny").expect("built in");
    synth(&shape, quant, seed, &path, &mut |_, _| Ok(())).expect("a model");
    path
}

fn options(packed_cache: &Path) -> Options {
    Options {
        threads: 2,
        affinity: Affinity::Policy(AffinityPolicy::None),
        oversubscribe: true,
        packed_cache: packed_cache.to_owned(),
        ..Options::default()
    }
}

/// How the weights came into memory, and the bits of the logits after some tokens.
fn load(path: &Path, options: &Options) -> (Placed, Vec<u32>) {
    let (placed, _, bits) = load_all(path, options);
    (placed, bits)
}

/// The same with how matrices by channels did.
fn load_all(path: &Path, options: &Options) -> (Placed, Option<Placed>, Vec<u32>) {
    let pool = Pool::new(options).expect("pool");
    let model = Model::load(path, &pool, options).expect("model");
    let mut session = Session::new(&model, &pool, options).expect("session");
    session.prefill(&[3, 1, 4, 1, 5, 9, 2, 6]).expect("fits");
    let logits = session.decode(7).expect("fits");
    let bits = logits.iter().map(|l| l.to_bits()).collect();
    let by_channels = model.by_channels().map(|held| held.placed.clone());
    (model.placed().clone(), by_channels, bits)
}

/// `options` with half of the channels or so left out.
fn sparse(options: &Options, method: Method) -> Options {
    Options {
        sparsity: Some(Sparsity {
            method,
            threshold: 0.5,
            thresholds: PathBuf::new(),
        }),
        ..options.clone()
    }
}

/// The files of matrices by channels in a folder.
fn files_by_channels(folder: &Path) -> Vec<PathBuf> {
    let all = std::fs::read_dir(folder).expect("a folder");
    let all = all.map(|entry| entry.expect("readable").path());
    all.filter(|path| path.extension().is_some_and(|e| e == "channels"))
        .collect()
}

/// The only file in a folder.
fn only_file(folder: &Path) -> PathBuf {
    let all = std::fs::read_dir(folder).expect("a folder");
    let all: Vec<_> = all.map(|entry| entry.expect("readable").path()).collect();
    assert_eq!(all.len(), 1, "{all:?}");
    all[0].clone()
}

#[test]
fn weights_that_were_kept_give_the_same_bits() {
    let folder = tempfile::tempdir().unwrap();
    let cache = folder.path().join("some/cache");
    let path = model(folder.path(), "Q4_0", 1);
    let plain = options(Path::new(""));
    let kept = options(&cache);
    let lookup = |options: &Options| Options {
        kernel: Kernel::Lut,
        ..options.clone()
    };
    let encoded = |options: &Options| Options {
        quant: "Q5_0".into(),
        huge_pages: false,
        ..options.clone()
    };
    let rows = [
        (plain.clone(), kept.clone()),
        (lookup(&plain), lookup(&kept)),
        (encoded(&plain), encoded(&kept)),
    ];
    let mut files = 0;
    for (plain, kept) in &rows {
        let (placed, expect) = load(&path, plain);
        assert_eq!(placed, Placed::Packed);
        assert_eq!(load(&path, kept), (Placed::Kept, expect.clone()));
        files += 1;
        assert_eq!(std::fs::read_dir(&cache).unwrap().count(), files);
        let threads = Options {
            threads: 3,
            ..kept.clone()
        };
        for options in [kept, &threads] {
            assert_eq!(load(&path, options), (Placed::Mapped, expect.clone()));
        }
    }
    // Each has its own file, and none was taken for another.
    for (_, kept) in &rows {
        assert_eq!(load(&path, kept).0, Placed::Mapped);
    }
}

#[test]
fn a_model_that_was_changed_replaces_its_file() {
    let folder = tempfile::tempdir().unwrap();
    let cache = folder.path().join("cache");
    let kept = options(&cache);
    let before = load(&model(folder.path(), "Q8_0", 1), &kept);
    assert_eq!(before.0, Placed::Kept);
    let path = model(folder.path(), "Q8_0", 2);
    let (placed, after) = load(&path, &kept);
    assert_eq!(placed, Placed::Kept);
    assert_ne!(after, before.1);
    assert_eq!(load(&path, &options(Path::new(""))).1, after);
    assert_eq!(load(&path, &kept), (Placed::Mapped, after));
    only_file(&cache);
}

#[test]
fn pipes_in_the_way_are_not_waited_for() {
    let folder = tempfile::tempdir().unwrap();
    let cache = folder.path().join("cache");
    let (path, kept) = (model(folder.path(), "Q8_0", 1), options(&cache));
    let (_, expect) = load(&path, &kept);
    let file = only_file(&cache);
    std::fs::remove_file(&file).unwrap();
    pipe(&file);
    assert_eq!(load(&path, &kept), (Placed::Kept, expect.clone()));
    assert!(file.is_file());
    std::fs::remove_file(&file).unwrap();
    let mut part = file.into_os_string();
    part.push(".part");
    pipe(Path::new(&part));
    let (placed, found) = load(&path, &kept);
    let told = matches!(&placed, Placed::NotKept(why) if why.contains(".packed.part\""));
    assert!(told, "{placed}");
    assert_eq!(found, expect);
}

#[test]
fn a_file_that_was_damaged_is_packed_anew() {
    let folder = tempfile::tempdir().unwrap();
    let cache = folder.path().join("cache");
    let (path, kept) = (model(folder.path(), "Q8_0", 1), options(&cache));
    let (_, expect) = load(&path, &kept);
    let file = only_file(&cache);
    let whole = std::fs::read(&file).unwrap();
    let check = |what: &str, bytes: &[u8]| {
        std::fs::write(&file, bytes).unwrap();
        let found = load(&path, &kept);
        assert_eq!(found, (Placed::Kept, expect.clone()), "{what}");
        assert!(std::fs::read(only_file(&cache)).unwrap() == whole, "{what}");
        assert_eq!(load(&path, &kept).0, Placed::Mapped, "{what}");
    };
    check("empty", &[]);
    check("one byte less", &whole[..whole.len() - 1]);
    check("the head alone", &whole[..100]);
    check("one byte more", &[&whole[..], &[0]].concat());
    let head_bytes = MAGIC.len() + 32 + 8;
    for at in [0, MAGIC.len(), head_bytes - 9, head_bytes - 8, START] {
        let mut flipped = whole.clone();
        flipped[at] ^= 1;
        check(&format!("byte {at} flipped"), &flipped);
    }
    // Bytes of panels that are not packed anew to be compared.
    for at in (START + 1..whole.len()).step_by((whole.len() - START) / 7) {
        let mut flipped = whole.clone();
        flipped[at] ^= 1;
        check(&format!("byte {at} flipped"), &flipped);
    }
    // A disk that lost what was written gives zeros.
    let mut lost = whole.clone();
    lost[START..].fill(0);
    check("zeros", &lost);
}

#[test]
fn what_cannot_be_kept_runs_and_is_told() {
    let folder = tempfile::tempdir().unwrap();
    let cache = folder.path().join("cache");
    let (path, kept) = (model(folder.path(), "Q8_0", 1), options(&cache));
    let (_, expect) = load(&path, &kept);
    let file = only_file(&cache);
    std::fs::remove_file(&file).unwrap();
    // Where the file would be written stands a folder; the rights of one do not hold for everybody.
    let part = file.with_extension("packed.part");
    std::fs::create_dir(&part).unwrap();
    let (placed, bits) = load(&path, &kept);
    let Placed::NotKept(why) = &placed else {
        panic!("{placed:?}");
    };
    assert!(why.contains("cannot write") && why.contains(".packed.part"));
    assert!(placed.to_string().starts_with("packed, and not kept: "));
    assert_eq!(bits, expect);
    assert_eq!(only_file(&cache), part);

    let pool = Pool::new(&kept).unwrap();
    let bytes = std::fs::read(&path).unwrap();
    let memory = Gguf::from_bytes(&path, bytes).unwrap();
    let memory = Model::from_gguf(memory, &pool, &kept).unwrap();
    assert!(matches!(memory.placed(), Placed::NotKept(why) if why.contains("not in a file")));

    let Err(error) = Model::load(&path, &pool, &options(&path)) else {
        panic!("a file is no folder");
    };
    let text = error.to_string();
    assert!(
        text.starts_with("option \"packed_cache\": the folder"),
        "{text}"
    );
}

#[test]
fn several_at_once_leave_one_whole_file() {
    let folder = tempfile::tempdir().unwrap();
    let cache = folder.path().join("cache");
    let (path, kept) = (model(folder.path(), "Q8_0", 1), options(&cache));
    let expect = load(&path, &options(Path::new(""))).1;
    std::thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| {
                for _ in 0..3 {
                    let (placed, bits) = load(&path, &kept);
                    assert_ne!(placed, Placed::Packed);
                    assert!(bits == expect, "{placed:?}");
                }
            });
        }
    });
    assert_eq!(load(&path, &kept), (Placed::Mapped, expect));
    only_file(&cache);
}

#[test]
fn matrices_by_channels_that_were_kept_give_the_same_bits() {
    let folder = tempfile::tempdir().unwrap();
    let path = model(folder.path(), "Q4_K", 1);
    let encoded = |options: &Options| Options {
        quant: "Q5_0".into(),
        ..options.clone()
    };
    let methods = [
        Method::Teal,
        Method::Wina,
        Method::Gated,
        Method::FatreluTransposed,
    ];
    for (cache, change) in [
        ("native", Options::clone as fn(&Options) -> Options),
        ("encoded", encoded),
    ] {
        let cache = folder.path().join(cache);
        let (plain, kept) = (options(Path::new("")), options(&cache));
        for (n, method) in methods.into_iter().enumerate() {
            let of = |options: &Options| sparse(&change(options), method);
            let (_, placed, expect) = load_all(&path, &of(&plain));
            assert_eq!(placed, Some(Placed::Packed), "{method:?}");
            // `wina` reads the matrices of `teal`.
            let first = match method {
                Method::Wina => Placed::Mapped,
                _ => Placed::Kept,
            };
            let (_, placed, bits) = load_all(&path, &of(&kept));
            assert_eq!((placed, &bits), (Some(first), &expect), "{method:?}");
            let threads = Options {
                threads: 3,
                ..of(&kept)
            };
            for options in [of(&kept), threads] {
                let found = load_all(&path, &options);
                let mapped = (Placed::Mapped, Some(Placed::Mapped), expect.clone());
                assert_eq!(found, mapped, "{method:?}");
            }
            assert_eq!(files_by_channels(&cache).len(), n.max(1), "{method:?}");
        }
    }
    // Nothing is held a second time, and nothing written.
    let cache = folder.path().join("masked");
    let masked = sparse(&options(&cache), Method::FatreluMasked);
    assert_eq!(load_all(&path, &masked).1, None);
    assert!(files_by_channels(&cache).is_empty());
}

/// The bytes of a file, changed by `change` behind its start, with checksums as if it had been written so.
fn forged(whole: &[u8], change: impl FnOnce(&mut [u8])) -> Vec<u8> {
    let mut bytes = whole.to_vec();
    change(&mut bytes[START..]);
    let (head, weights) = bytes.split_at_mut(START);
    let sums = weights.chunks(CHUNK_BYTES).map(crc32fast::hash);
    for (i, sum) in sums.enumerate() {
        head[MAGIC.len() + 40 + 4 * i..][..4].copy_from_slice(&sum.to_le_bytes());
    }
    bytes
}

#[test]
fn matrices_by_channels_that_lie_otherwise_are_made_anew() {
    let folder = tempfile::tempdir().unwrap();
    let cache = folder.path().join("cache");
    let path = model(folder.path(), "Q8_0", 1);
    let kept = sparse(&options(&cache), Method::Wina);
    let (_, _, expect) = load_all(&path, &kept);
    let file = files_by_channels(&cache).remove(0);
    let whole = std::fs::read(&file).unwrap();
    let check = |what: &str, bytes: &[u8]| {
        std::fs::write(&file, bytes).unwrap();
        let (_, placed, bits) = load_all(&path, &kept);
        assert_eq!((placed, &bits), (Some(Placed::Kept), &expect), "{what}");
        assert!(std::fs::read(&file).unwrap() == whole, "{what}");
        let (_, placed, bits) = load_all(&path, &kept);
        assert_eq!((placed, &bits), (Some(Placed::Mapped), &expect), "{what}");
    };
    assert!(forged(&whole, |_| {}) == whole);
    check("another order", &forged(&whole, |bytes| bytes.swap(0, 1)));
    // A channel is one strip of 16 blocks of 34 bytes here.
    let strip = 16 * 34;
    let turned = forged(&whole, |bytes| bytes[..2 * strip].rotate_left(strip));
    check("another order of channels", &turned);
    // Two layers with 256, 256, 256 and 512 channels.
    let norms = whole.len() - START - 4 * 2 * (3 * 256 + 512);
    let other_norm = forged(&whole, |bytes| bytes[norms] ^= 1);
    check("another norm", &other_norm);
    let mut flipped = whole.clone();
    flipped[whole.len() - 1] ^= 1;
    check("a norm damaged", &flipped);
    check("cut short", &whole[..whole.len() - 4]);
    check("zeros", &forged(&whole, |bytes| bytes.fill(0)));
    // What another method keeps, under this one's name.
    load_all(&path, &sparse(&kept, Method::Gated));
    let mut others = files_by_channels(&cache);
    others.retain(|other| *other != file);
    check("of another method", &std::fs::read(&others[0]).unwrap());
}
