use super::*;
use crate::file::tests::pipe;
use crate::gguf::Gguf;
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
    let pool = Pool::new(options).expect("pool");
    let model = Model::load(path, &pool, options).expect("model");
    let mut session = Session::new(&model, &pool, options).expect("session");
    session.prefill(&[3, 1, 4, 1, 5, 9, 2, 6]).expect("fits");
    let logits = session.decode(7).expect("fits");
    let bits = logits.iter().map(|l| l.to_bits()).collect();
    (model.placed().clone(), bits)
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
