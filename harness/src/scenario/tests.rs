use super::*;

/// A valid scenario; tests change it.
const GOOD: &str = r#"[scenario]
name = "trial"
description = "a trial"

[model]
name = "smollm2"

[prompt]
text = "Hello"

[run]
n_gen = 16

[engine]
threads = 2
"#;

fn read(text: &str, overrides: &[&str]) -> Result<Scenario, String> {
    let overrides: Vec<String> = overrides.iter().map(|s| s.to_string()).collect();
    parse(text, Path::new("t.toml"), &overrides).map_err(|e| {
        assert_eq!(crate::exit::of(&e), crate::exit::Exit::Usage);
        e.to_string()
    })
}

/// `from` in the good scenario replaced by `to` must be refused with exactly `expect`.
#[track_caller]
fn refused(from: &str, to: &str, expect: &str) {
    assert!(GOOD.contains(from), "{from}");
    let message = read(&GOOD.replacen(from, to, 1), &[]).expect_err("must be refused");
    assert_eq!(message, expect, "\n{message}\n");
}

#[test]
fn the_good_scenario_is_read() {
    let scenario = read(GOOD, &[]).expect("valid");
    let [case] = &scenario.cases[..] else {
        panic!("expected one case, found {}", scenario.cases.len());
    };
    assert_eq!(case.name, "trial");
    assert_eq!(case.model, ModelSpec::Catalogue("smollm2".into()));
    assert_eq!(case.prompt, PromptSpec::Text("Hello".into()));
    assert_eq!((case.n_gen, case.engine.threads), (16, 2));
    assert_eq!((scenario.run.rounds, scenario.run.warmup), (5, 1));
    assert!(case.swept.is_empty());
}

#[test]
fn names_and_types_are_checked_with_place_and_suggestion() {
    refused(
        "threads = 2",
        "thread = 2",
        "t.toml:15:1: unknown key \"thread\" in [engine]\n   |\n15 | thread = 2\n   | ^^^^^^\n  = did you mean \"threads\"? (valid: threads, affinity, oversubscribe, isa, kernel, ctx, batch, kv, quant, quant_plan, quant_imatrix, huge_pages, packed_cache, side_by_side, prefetch_bytes, head_prefetch_bytes, wait_prefetch_bytes, tail_percent, barrier_spins, stage_clock, speculation, sparsity)",
    );
    refused(
        "n_gen = 16",
        "threads = 2",
        "t.toml:12:1: unknown key \"threads\" in [run]\n   |\n12 | threads = 2\n   | ^^^^^^^\n  = \"threads\" belongs in [engine]",
    );
    refused(
        "[run]",
        "[rnu]",
        "t.toml:11:2: unknown key \"rnu\" at the top level\n   |\n11 | [rnu]\n   |  ^^^\n  = did you mean \"run\"? (valid: scenario, model, prompt, run, engine, sampler, counters, expect, quality, reference, matrix, exclude)",
    );
    refused(
        "threads = 2",
        "isa = \"avx\"",
        "t.toml:15:7: unknown value \"avx\" for \"engine.isa\"\n   |\n15 | isa = \"avx\"\n   |       ^^^^^\n  = did you mean \"avx2\"? (valid: auto, scalar, avx2, avx512)",
    );
    refused(
        "threads = 2",
        "affinity = \"fysical\"",
        "t.toml:15:12: unknown value \"fysical\" for \"engine.affinity\"\n   |\n15 | affinity = \"fysical\"\n   |            ^^^^^^^^^\n  = did you mean \"physical\"? (valid: none, physical, compact, scatter, smt)",
    );
    refused(
        "threads = 2",
        "threads = \"two\"",
        "t.toml:15:11: \"engine.threads\": expected a whole number from 0, found string \"two\"\n   |\n15 | threads = \"two\"\n   |           ^^^^^",
    );
    refused(
        "threads = 2",
        "threads = -1",
        "t.toml:15:11: \"engine.threads\": expected a whole number from 0, found integer -1\n   |\n15 | threads = -1\n   |           ^^",
    );
    refused(
        "name = \"trial\"\n",
        "",
        "t.toml:1:1: [scenario] lacks \"name\"\n  |\n1 | [scenario]\n  | ^^^^^^^^^^",
    );
    refused(
        "[prompt]\ntext = \"Hello\"\n",
        "",
        "t.toml: the scenario lacks \"prompt\"",
    );
    refused(
        "threads = 2",
        "threads = 2\nthreads = 3",
        "t.toml:16:1: duplicate key\n   |\n16 | threads = 3\n   | ^^^^^^^",
    );
    refused(
        "[run]",
        "[run",
        "t.toml:11:5: unclosed table, expected `]`\n   |\n11 | [run\n   |     ^",
    );
}

#[test]
fn impossible_combinations_are_refused() {
    refused(
        "name = \"smollm2\"",
        "name = \"smollm2\"\npath = \"x.gguf\"",
        "t.toml:5:2: [model] names more than one model\n  |\n5 | [model]\n  |  ^^^^^\n  = keep one of name, path, synth",
    );
    refused(
        "text = \"Hello\"",
        "text = \"\"",
        "t.toml:9:8: the prompt is empty\n  |\n9 | text = \"\"\n  |        ^^\n  = give at least one character",
    );
    refused(
        "text = \"Hello\"",
        "",
        "t.toml:8:2: [prompt] holds no prompt\n  |\n8 | [prompt]\n  |  ^^^^^^\n  = add text = \"...\", file = \"FILE\", or tokens = N for N seeded tokens",
    );
    refused(
        "text = \"Hello\"",
        "file = \"no-such-file\"",
        "t.toml:9:8: cannot open \"no-such-file\": No such file or directory (os error 2)\n  |\n9 | file = \"no-such-file\"\n  |        ^^^^^^^^^^^^^^",
    );
    refused(
        "n_gen = 16",
        "rounds = 0",
        "t.toml:12:10: \"run.rounds\": expected 1 to 1000, found 0\n   |\n12 | rounds = 0\n   |          ^",
    );
    refused(
        "threads = 2",
        "threads = 2\naffinity = [0, 1, 2]",
        "t.toml:16:12: 3 CPUs are listed for 2 threads\n   |\n16 | affinity = [0, 1, 2]\n   |            ^^^^^^^^^\n  = list one CPU per thread, or set engine.threads = 0 to take as many threads as CPUs",
    );
    refused(
        "threads = 2",
        "ctx = 15",
        "t.toml:15:7: a context of 15 cannot hold 1 prompt tokens and 16 generated ones\n   |\n15 | ctx = 15\n   |       ^^\n  = set engine.ctx to 16 or more, or to 0 for the model's own",
    );
    refused(
        "name = \"trial\"",
        "name = \"a/b\"",
        "t.toml:2:8: \"a/b\" cannot be a scenario's name\n  |\n2 | name = \"a/b\"\n  |        ^^^^^\n  = 1 to 64 letters, digits, '-', '_' and '.': it names the run's folder",
    );
    refused(
        "[engine]",
        "[expect]\noutput_sha256 = \"abc\"\n[engine]",
        "t.toml:15:17: expected 64 hexadecimal digits, found 3\n   |\n15 | output_sha256 = \"abc\"\n   |                 ^^^^^\n  = take the output hash that a run prints",
    );
}

#[test]
fn a_text_that_would_hang_on_times_is_refused() {
    refused(
        "threads = 2",
        "[engine.speculation]\nmethod = \"suffix\"\ndraft_tokens = \"auto\"\n[sampler]\ntemp = 0.8",
        "t.toml:17:16: \"engine.speculation.draft_tokens\": \"auto\" with sampling: lengths of drafts hang on times, and so would the text that is drawn: set it to a number, or the temperature to 0\n   |\n17 | draft_tokens = \"auto\"\n   |                ^^^^^^",
    );
}

#[test]
fn counters_are_named_from_what_there_is() {
    refused(
        "[engine]",
        "[counters]\ngroups = [\"core\", \"cash\"]\n[engine]",
        "t.toml:15:19: unknown group of counters \"cash\"\n   |\n15 | groups = [\"core\", \"cash\"]\n   |                   ^^^^^^\n  = did you mean \"cache\"? (valid: software, core, cache, tlb, topdown, dram, numa, energy)",
    );
    let events = |text: &str| {
        GOOD.replace(
            "[engine]",
            &format!("[counters]\nevents = {text}\n[engine]"),
        )
    };
    let message = read(&events("[\"cycle\"]"), &[]).expect_err("must be refused");
    assert!(
        message.contains("t.toml:15:11: unknown event \"cycle\""),
        "{message}"
    );
    assert!(message.contains("did you mean \"cycles\"?"), "{message}");
    assert!(
        message.contains("or a raw code such as \"r01c2\""),
        "{message}"
    );
    let message = read(&events("[1]"), &[]).expect_err("must be refused");
    assert!(message.contains("expected a string"), "{message}");
    let good = "[\"LLC-load-misses\", \"r1cf\", \"cpu/event=0xc2,umask=0x1/\", \"slots\"]";
    let scenario = read(&events(good), &["counters.enabled=false"]).expect("valid");
    let request = &scenario.cases[0].counters;
    assert_eq!((request.enabled, request.events.len()), (false, 4));
    assert_eq!(request.groups, ["core", "cache"]);
}

#[test]
fn a_matrix_becomes_cases() {
    let matrix = "[matrix]\nengine.threads = [1, 2]\n\"run.n_gen\" = [8, 16, 32]\n";
    let scenario = read(&format!("{GOOD}{matrix}"), &[]).expect("valid");
    let names: Vec<&str> = scenario.cases.iter().map(|c| c.name.as_str()).collect();
    assert_eq!(names.len(), 6);
    assert_eq!(names[0], "engine.threads=1 run.n_gen=8");
    assert_eq!(names[5], "engine.threads=2 run.n_gen=32");
    assert_eq!(
        (scenario.cases[5].engine.threads, scenario.cases[5].n_gen),
        (2, 32)
    );
    assert_eq!(scenario.cases[1].swept["run.n_gen"], 16);

    let exclude = "[[exclude]]\nengine.threads = 1\nrun.n_gen = 32\n[[exclude]]\nrun.n_gen = 8\n";
    let scenario = read(&format!("{GOOD}{matrix}{exclude}"), &[]).expect("valid");
    let names: Vec<&str> = scenario.cases.iter().map(|c| c.name.as_str()).collect();
    assert_eq!(
        names,
        [
            "engine.threads=1 run.n_gen=16",
            "engine.threads=2 run.n_gen=16",
            "engine.threads=2 run.n_gen=32"
        ]
    );
    let count = |sets: &[&str]| {
        let scenario = read(&format!("{GOOD}{matrix}{exclude}"), sets);
        scenario.map(|s| s.cases.len())
    };
    let all = count(&[]).expect("valid");
    // Another key leaves the exclusions as they are; a fixed one those that do not concern it.
    assert_eq!(count(&["run.rounds=2"]).expect("valid"), all);
    assert_eq!(
        count(&["run.n_gen=32", "engine.threads=1"]).expect("valid"),
        1
    );
    assert!(count(&["run.n_gen=32"]).expect("valid") < all);
}

#[test]
fn keys_may_depart_from_their_first_values_one_at_a_time() {
    let matrix = "[matrix]\nengine.threads = [1, 2]\nrun.n_gen = [8, 16, 32]\n";
    let good = GOOD.replace("[scenario]", "[scenario]\none_at_a_time = true");
    let scenario = read(&format!("{good}{matrix}"), &[]).expect("valid");
    let cases = scenario.cases.iter();
    let found: Vec<_> = cases
        .map(|c| (c.name.as_str(), c.engine.threads, c.n_gen))
        .collect();
    assert_eq!(
        found,
        [
            (scenario.name.as_str(), 1, 8),
            ("engine.threads=2", 2, 8),
            ("run.n_gen=16", 1, 16),
            ("run.n_gen=32", 1, 32)
        ]
    );
}

/// The good scenario with `matrix` appended must be refused with exactly `expect`.
#[track_caller]
fn matrix_refused(matrix: &str, expect: &str) {
    let message = read(&format!("{GOOD}[matrix]\n{matrix}\n"), &[]).expect_err("must be refused");
    assert_eq!(message, expect, "\n{message}\n");
}

#[test]
fn a_wrong_matrix_is_blamed_where_it_is_wrong() {
    matrix_refused(
        "engine.thread = [1, 2]",
        "t.toml:17:8: unknown key \"thread\" in [engine]\n   |\n17 | engine.thread = [1, 2]\n   |        ^^^^^^\n  = did you mean \"threads\"? (valid: threads, affinity, oversubscribe, isa, kernel, ctx, batch, kv, quant, quant_plan, quant_imatrix, huge_pages, packed_cache, side_by_side, prefetch_bytes, head_prefetch_bytes, wait_prefetch_bytes, tail_percent, barrier_spins, stage_clock, speculation, sparsity)",
    );
    matrix_refused(
        "\"engine.isa\" = [\"scalar\", \"avx22\"]",
        "t.toml:17:27: unknown value \"avx22\" for \"engine.isa\"\n   |\n17 | \"engine.isa\" = [\"scalar\", \"avx22\"]\n   |                           ^^^^^^^\n  = did you mean \"avx2\"? (valid: auto, scalar, avx2, avx512)",
    );
    matrix_refused(
        "engine.threads = 2",
        "t.toml:17:18: \"engine.threads\": expected an array of values to sweep, found integer\n   |\n17 | engine.threads = 2\n   |                  ^\n  = write engine.threads = [2]",
    );
    matrix_refused(
        "engine.threads = []",
        "t.toml:17:18: \"engine.threads\": expected 1 to 256 values, found 0\n   |\n17 | engine.threads = []\n   |                  ^^",
    );
    matrix_refused(
        "run.rounds = [1, 2]",
        "t.toml:17:15: \"run.rounds\" concerns the run as a whole and cannot be swept\n   |\n17 | run.rounds = [1, 2]\n   |               ^",
    );
    matrix_refused(
        "run.n_gen = [1, 0]",
        "t.toml:17:17: \"run.n_gen\": expected 1 to 131072, found 0\n   |\n17 | run.n_gen = [1, 0]\n   |                 ^",
    );
    matrix_refused(
        "engine.threads = [1, 1]",
        "t.toml:17:18: \"engine.threads\" takes the value 1 twice\n   |\n17 | engine.threads = [1, 1]\n   |                  ^^^^^^",
    );
    matrix_refused(
        "engine.threads = [1]\n[[exclude]]\nengine.batch = 1",
        "t.toml:18:1: [[exclude]] names \"engine.batch\", which [matrix] does not sweep\n   |\n18 | [[exclude]]\n   | ^^^^^^^^^^^\n  = swept: engine.threads",
    );
    matrix_refused(
        "engine.threads = [1]\n[[exclude]]\nengine.threads = 3",
        "t.toml:18:1: [[exclude]] names \"engine.threads\" = 3, which [matrix] does not list\n   |\n18 | [[exclude]]\n   | ^^^^^^^^^^^",
    );
    matrix_refused(
        "engine.threads = [1]\n[[exclude]]\nengine.threads = 1",
        "t.toml:18:1: [[exclude]] leaves no case over\n   |\n18 | [[exclude]]\n   | ^^^^^^^^^^^\n  = remove an entry",
    );
    let numbers: Vec<String> = (1..=40).map(|n| n.to_string()).collect();
    let numbers = numbers.join(", ");
    let big = format!("{GOOD}[matrix]\nrun.n_gen = [{numbers}]\nengine.batch = [{numbers}]\n");
    let message = read(&big, &[]).expect_err("too many cases");
    assert!(message.contains("40 x 40 cases, at most 1000"), "{message}");
}

#[test]
fn overrides_replace_values_and_sweeps() {
    let swept = format!("{GOOD}[matrix]\nengine.threads = [1, 2]\n");
    let scenario = read(&swept, &["engine.threads=4", "engine.isa=scalar"]).expect("valid");
    assert_eq!(scenario.cases.len(), 1);
    assert_eq!(scenario.cases[0].engine.threads, 4);
    assert_eq!(scenario.cases[0].engine.isa, engine::options::Isa::Scalar);
    assert_eq!(scenario.overrides.len(), 2);

    let scenario = read(GOOD, &["matrix.engine.threads=[1,2,3]"]).expect("valid");
    assert_eq!(scenario.cases.len(), 3);

    // One model and one prompt take the place of another.
    let scenario = read(GOOD, &["prompt.tokens=3", "model.path=a.gguf"]).expect("valid");
    assert_eq!(scenario.cases[0].prompt, PromptSpec::Tokens(3));
    assert!(matches!(scenario.cases[0].model, ModelSpec::File(_)));

    let rows = [
        (
            "engine.thread=1",
            "--set:1:1: unknown key \"thread\" in [engine]",
        ),
        (
            "engine.threads=x",
            "--set:1:1: \"engine.threads\": expected a whole number from 0",
        ),
        ("engine.threads", "--set:1:1: expected key=value"),
        ("threads=1", "--set:1:1: \"threads\" is not a dotted key"),
        (
            "run.n_gen=0",
            "--set:1:1: \"run.n_gen\": expected 1 to 131072, found 0",
        ),
        ("model.name.x=1", "\"name\" in \"model.name.x\" is a value"),
    ];
    for (set, expect) in rows {
        let message = read(GOOD, &[set]).expect_err(set);
        assert!(message.contains(expect), "{set}: {message}");
    }
}

#[test]
fn limits_hold_on_files() {
    let dir = tempfile::tempdir().expect("folder");
    let message = load(dir.path(), &[]).expect_err("a folder").to_string();
    assert!(message.contains("is a folder"), "{message}");
    let path = dir.path().join("big.toml");
    std::fs::write(&path, "#".repeat(SCENARIO_BYTES_MAX as usize + 1)).expect("writes");
    let message = load(&path, &[]).expect_err("too long").to_string();
    assert!(message.contains("longer than"), "{message}");
    std::fs::write(&path, [0xff, 0xfe]).expect("writes");
    let message = load(&path, &[]).expect_err("not text").to_string();
    assert!(message.contains("not UTF-8"), "{message}");
    let message = load(&dir.path().join("none.toml"), &[]).expect_err("missing");
    assert!(message.to_string().contains("cannot open"), "{message}");
}

#[test]
fn references_need_what_their_kind_needs() {
    let text = |table: &str| {
        format!(
            "[scenario]\nname = \"t\"\ndescription = \"d\"\n[model]\npath = \"m\"\n[prompt]\ntokens = 4\n[[reference]]\n{table}\n"
        )
    };
    let good = text(
        "name = \"x\"\nkind = \"command\"\ncommand = [\"x\"]\ndecode_tok_s = { regex = '(\\d+)' }",
    );
    let read = parse(&good, Path::new("t.toml"), &[]).expect("valid");
    assert_eq!(read.references[0].name, "x");
    let rows = [
        ("name = \"x\"\nkind = \"llama-bunch\"", "llama-bench"),
        (
            "name = \"x\"\nkind = \"command\"\nrepak = true",
            "did you mean \"repack\"",
        ),
        ("name = \"x\"\nkind = \"command\"", "needs a command"),
        (
            "name = \"engine 2\"\nkind = \"llama-bench\"",
            "cannot be a reference's name",
        ),
        (
            "name = \"x\"\nkind = \"llama-bench\"\ncommand = [\"x\"]",
            "only kind \"command\"",
        ),
        (
            "name = \"x\"\nkind = \"command\"\ncommand = [\"x\"]\nrepack = true\ndecode_tok_s = { regex = '(1)' }",
            "would ignore \"repack\"",
        ),
        (
            "name = \"x\"\nkind = \"command\"\ncommand = [\"x\"]\ndecode_tok_s = { regex = '1' }",
            "no group",
        ),
        (
            "name = \"x\"\nkind = \"command\"\ncommand = [\"x\"]\ndecode_tok_s = { json_pointer = 'a' }",
            "begins with",
        ),
        (
            "name = \"x\"\nkind = \"command\"\ncommand = [\"x\"]\ndecode_tok_s = { }",
            "keep one of",
        ),
    ];
    for (table, expect) in rows {
        let error = parse(&text(table), Path::new("t.toml"), &[]).expect_err(table);
        assert!(error.to_string().contains(expect), "{error}");
    }
}

#[test]
fn quality_is_of_a_text_and_of_the_run_as_a_whole() {
    let dir = tempfile::tempdir().expect("folder");
    std::fs::write(dir.path().join("text.md"), "a text").expect("writes");
    let read = |quality: &str, overrides: &[&str]| {
        let overrides: Vec<String> = overrides.iter().map(|s| s.to_string()).collect();
        let text = format!("{GOOD}[quality]\n{quality}");
        parse(&text, &dir.path().join("t.toml"), &overrides)
            .map(|scenario| scenario.quality.expect("asked for"))
            .map_err(|e| e.to_string())
    };
    let quality = read("corpus = \"text.md\"", &["quality.windows=3"]).expect("valid");
    assert_eq!((quality.ctx, quality.windows), (512, Some(3)));
    assert_eq!(quality.base, BaseSpec::Own("F32".into()));
    assert_eq!(quality.corpus_sha256, hex(&Sha256::digest("a text")));
    let file = read("corpus = \"text.md\"\nbase = \"other.gguf\"", &[]).expect("valid");
    let expect = std::path::absolute(dir.path().join("other.gguf")).expect("a path");
    assert_eq!(file.base, BaseSpec::File(expect));
    let refused = |quality: &str, expect: &str| {
        let message = read(quality, &[]).expect_err("must be refused");
        assert!(message.contains(expect), "{message}");
    };
    refused("corpus = \"none.md\"", "none.md");
    refused(
        "corpus = \"text.md\"\ncontext = 3",
        "unknown key \"context\"",
    );
    refused("corpus = \"text.md\"\nctx = 3", "expected 8 to");
    refused("corpus = \"text.md\"\nwindows = 0", "\"quality.windows\"");
    refused(
        "corpus = \"text.md\"\nbase = \"mixed@4\"",
        "\"quality.base\" is \"mixed@4\"",
    );
    refused(
        "corpus = \"text.md\"\n[matrix]\nquality.ctx = [64, 128]",
        "concerns the run as a whole",
    );
}
