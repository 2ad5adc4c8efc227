//! Every scenario that comes with the project can be read, and its model is one the program knows how to get.

use harness::models::ModelStore;
use harness::scenario;
use std::path::{Path, PathBuf};

#[test]
fn every_scenario_is_valid() {
    let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("../scenarios");
    let store = ModelStore::new(Some(PathBuf::from("models"))).expect("a store");
    let mut seen = 0;
    let files = |dir: PathBuf| {
        dir.read_dir()
            .expect("scenarios")
            .map(|e| e.expect("entry").path())
    };
    let folders = ["speed", "speculation", "sparsity"];
    let all = files(dir.clone()).chain(folders.iter().flat_map(|f| files(dir.join(f))));
    for path in all.filter(|path| path.is_file()) {
        let scenario = scenario::load(&path, &[]).unwrap_or_else(|e| panic!("{e:#}"));
        let stem = path.file_stem().expect("a file").to_string_lossy();
        assert!(
            scenario.name.ends_with(&*stem),
            "{} is named as its file, or its file and folder",
            path.display()
        );
        for case in &scenario.cases {
            store
                .find(&case.model)
                .unwrap_or_else(|e| panic!("{}: {e:#}", path.display()));
        }
        seen += 1;
    }
    assert!(seen >= 25, "{seen} scenarios");
}
