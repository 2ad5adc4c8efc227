//! What cannot be done is refused before anything is measured.

use super::*;

#[test]
fn an_error_is_one_line_even_where_a_backtrace_is_asked_for() {
    let lab = Lab::new(&SCENARIO.replace("model.gguf", "none.gguf"), &["good"]);
    let mut command = lab.command(&["trial.toml"]);
    let output = command.env("RUST_BACKTRACE", "1").output().expect("starts");
    let done = Done::from(output);
    done.expect(1, "does not exist");
    assert_eq!(done.stderr.lines().count(), 1, "{}", done.stderr);
}

#[test]
fn what_the_model_cannot_do_is_refused_before_anything_is_written() {
    let lab = Lab::new(SCENARIO, &["good"]);
    let tiny = engine::synth::Shape::load("tiny").expect("a shape");
    let model = lab.path("model.gguf");
    fs::remove_file(&model).expect("removes");
    engine::synth::synth(&tiny, "Q4_0", 1, &model, &mut |_, _| Ok(())).expect("a model");
    let made = Command::new("mkfifo").arg(lab.path("pipe")).status();
    assert!(made.expect("mkfifo").success());
    let drafts = "[engine.speculation]\nmethod = ";
    for (text, message) in [
        (
            format!("{drafts}\"layer-skip\"\nskip_layers = [99]\n"),
            "case \"trial\": engine.speculation.skip_layers: layer 99 cannot be skipped",
        ),
        (
            format!("{drafts}\"draft-model\"\ndraft_model = \"no.gguf\"\n"),
            "engine.speculation.draft_model: cannot open",
        ),
        (
            format!("{drafts}\"qcsd\"\ndraft_quant = \"top\"\n"),
            "engine.speculation.draft_quant: \"top\" takes one of",
        ),
        (
            "[engine.sparsity]\nmethod = \"teal\"\nthresholds = \"no.toml\"\n".to_owned(),
            "engine.sparsity.thresholds: cannot open",
        ),
        (
            "[engine.sparsity]\nmethod = \"teal\"\nthresholds = \"pipe\"\n".to_owned(),
            "engine.sparsity.thresholds: cannot open",
        ),
        (
            "quant_imatrix = \"pipe\"\nquant = \"Q4_K\"\n[quality]\ncorpus = \"trial.toml\"\nctx = 64\n"
                .to_owned(),
            "engine.quant_imatrix: cannot open",
        ),
        (
            "[engine.sparsity]\nmethod = \"gated\"\n".to_owned(),
            "engine.sparsity.thresholds: the method needs thresholds",
        ),
        (
            "quant = \"mixed@4.5\"\nquant_plan = \"no.toml\"\n".to_owned(),
            "engine.quant_plan: cannot open",
        ),
        (
            "packed_cache = \"model.gguf/packed\"\n".to_owned(),
            "engine.packed_cache: the folder",
        ),
        ("ctx = 3\n".to_owned(), "tokens do not fit the context of 3"),
    ] {
        fs::write(lab.path("trial.toml"), format!("{SCENARIO}{text}")).expect("writes");
        for dry in [&[][..], &["--dry-run"]] {
            let mut command = Command::new(env!("CARGO_BIN_EXE_harness"));
            command
                .args(["run", "trial.toml", "--models-dir", "models"])
                .args(dry);
            command
                .current_dir(lab.dir.path())
                .env("XDG_CACHE_HOME", lab.path("cache"));
            Done::from(command.output().expect("starts")).expect(2, message);
        }
    }
    assert!(!lab.path("results").exists());
}

#[test]
fn what_the_engine_cannot_do_is_refused_before_anything_is_written() {
    let rows = [
        (
            "engine.threads=100000",
            "case \"trial\": engine.threads: 100000 threads asked for",
        ),
        (
            "engine.batch=0",
            "\"engine.batch\": 0 is not within 1 to 4096",
        ),
        (
            "engine.tail_percent=300",
            "\"engine.tail_percent\": 300 is not within 0 to 100",
        ),
        (
            "engine.affinity=[9999]",
            "engine.affinity: CPU 9999 is not among those this process may use",
        ),
        ("engine.isa=avx1024", "valid: auto, scalar, avx2, avx512"),
        (
            "sampler.temp=-1",
            "\"sampler.temp\": expected a number from 0 on, found -1",
        ),
    ];
    let lab = Lab::new(SCENARIO, &["good"]);
    for (set, message) in rows {
        lab.run(&["trial.toml", "--set", set]).expect(2, message);
        lab.run(&["trial.toml", "--dry-run", "--set", set])
            .expect(2, message);
    }
    let available = engine::simd::available();
    let lacking = [engine::options::Isa::Avx2, engine::options::Isa::Avx512];
    for isa in lacking.into_iter().filter(|isa| !available.contains(isa)) {
        let done = lab.run(&["trial.toml", "--set", &format!("engine.isa={isa}")]);
        done.expect(
            2,
            &format!("engine.isa: this CPU cannot run \"{isa}\": choose one of"),
        );
    }
    // A value of a sweep is named with its case.
    let swept = format!("{SCENARIO}[matrix]\nengine.threads = [1, 100000]\n");
    fs::write(lab.path("trial.toml"), swept).expect("writes");
    lab.run(&["trial.toml"])
        .expect(2, "case \"engine.threads=100000\"");
    assert!(!lab.path("results").exists() && lab.starts() == 0);
}

#[test]
fn a_place_that_cannot_be_written_is_named() {
    let lab = Lab::new(SCENARIO, &["good"]);
    let done = lab.run(&["trial.toml", "--results-dir", "model.gguf"]);
    done.expect(1, "cannot write \"model.gguf\"");
    assert_eq!(lab.starts(), 0);
}

#[test]
fn what_the_user_gave_wrong_is_exit_code_2() {
    let lab = Lab::new(&SCENARIO.replace("n_gen", "n_gne"), &["good"]);
    lab.run(&["trial.toml"])
        .expect(2, "did you mean \"n_gen\"?");
    lab.run(&["none.toml"])
        .expect(2, "cannot open \"none.toml\"");
    lab.run(&[]).expect(2, "Usage");
    lab.run(&["trial.toml", "--list", "--dry-run"])
        .expect(2, "cannot be used with");
    let lab = Lab::new(&SCENARIO.replace("model.gguf", "models"), &["good"]);
    lab.run(&["trial.toml"]).expect(1, "does not exist");
    fs::create_dir(lab.path("models")).expect("folder");
    lab.run(&["trial.toml"])
        .expect(1, "is a folder, expected a GGUF file");
    fs::write(
        lab.path("trial.toml"),
        SCENARIO.replace("model.gguf", "/dev/zero"),
    )
    .expect("writes");
    lab.run(&["trial.toml"])
        .expect(1, "\"/dev/zero\" is a device, expected a GGUF file");
    fs::write(
        lab.path("trial.toml"),
        SCENARIO.replace("model.gguf", "pipe"),
    )
    .expect("writes");
    let made = Command::new("mkfifo").arg(lab.path("pipe")).status();
    assert!(made.expect("mkfifo").success());
    lab.run(&["trial.toml"])
        .expect(1, "is a named pipe, expected a GGUF file");
    assert_eq!(lab.starts(), 0);
}
