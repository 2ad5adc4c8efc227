//! The `engine` command on bad input: exit codes, one line of error on standard error, nothing on standard output.
#![allow(
    clippy::disallowed_methods,
    reason = "the command under test is a child process that ends by itself"
)]

use std::fs;
use std::io::{Read, Write};
use std::path::Path;
use std::process::{Command, Output, Stdio};

fn engine(args: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_engine"));
    command.args(args).stdin(Stdio::null());
    command
}

fn output(args: &[&str]) -> Output {
    engine(args).output().expect("the command starts")
}

fn text(bytes: &[u8]) -> &str {
    std::str::from_utf8(bytes).expect("UTF-8")
}

/// Exit code 1, and one line that says `parts`.
fn fails(args: &[&str], parts: &[&str]) {
    ends(1, args, parts);
}

/// Exit code 2, and one line that says `parts`.
fn refuses(args: &[&str], parts: &[&str]) {
    ends(2, args, parts);
}

fn ends(code: i32, args: &[&str], parts: &[&str]) {
    let out = output(args);
    let error = text(&out.stderr);
    assert_eq!(out.status.code(), Some(code), "{args:?}: {error}");
    assert_eq!(text(&out.stdout), "", "{args:?}");
    let line = error.strip_suffix('\n').expect("a whole line");
    assert!(
        line.starts_with("error: ") && !line.contains('\n'),
        "{error}"
    );
    for part in parts {
        assert!(error.contains(part), "{part:?} is not in: {error}");
    }
}

/// A folder with a good model in it.
fn folder() -> (tempfile::TempDir, String) {
    let folder = tempfile::tempdir().expect("a folder");
    let model = path(&folder, "tiny.gguf");
    let out = output(&["synth", "--shape", "tiny", "--quant", "q4_0", "-o", &model]);
    assert!(out.status.success(), "{}", text(&out.stderr));
    assert_eq!(text(&out.stdout), "");
    (folder, model)
}

fn path(folder: &tempfile::TempDir, name: &str) -> String {
    folder
        .path()
        .join(name)
        .to_str()
        .expect("UTF-8")
        .to_string()
}

#[test]
fn files_that_are_no_models_fail_every_command_alike() {
    let (folder, model) = folder();
    let good = fs::read(&model).expect("the model");
    let put = |name: &str, bytes: &[u8]| {
        let path = path(&folder, name);
        fs::write(&path, bytes).expect("written");
        path
    };
    let mut future = good.clone();
    future[4] = 9;
    let rows = [
        (
            put("cut", &good[..good.len() / 2]),
            "is the download complete?",
        ),
        (put("head", &good[..1000]), "is the download complete?"),
        (put("empty", b""), "is empty (0 bytes)"),
        (put("future", &future), "version 9, expected 2 or 3"),
        (
            put("lfs", b"version https://git-lfs.github.com/spec/v1\n"),
            "git lfs pull",
        ),
        (put("page", b"<!DOCTYPE html>"), "HTML page"),
        (path(&folder, "none"), "cannot open"),
        (path(&folder, ""), "is a folder"),
    ];
    let prose = put("prose", b"some words");
    for (file, expect) in &rows {
        fails(&["info", file], &[expect]);
        fails(&["bench", "-m", file, "-p", "4", "-n", "0"], &[expect]);
        fails(&["tokenize", "-m", file, "x"], &[expect]);
        fails(&["run", "-m", file, "-p", "x", "-n", "1"], &[expect]);
        fails(&["perplexity", "-m", file, "-f", &prose], &[expect]);
    }
}

#[test]
fn what_a_model_has_no_room_for_is_refused() {
    let (folder, model) = folder();
    let huge = usize::MAX.to_string();
    let bench = |args: &[&str], parts: &[&str]| {
        fails(&[&["bench", "-m", &model, "-r", "1"], args].concat(), parts);
    };
    bench(&["-p", "0", "-n", "0"], &["nothing to test"]);
    let bench = |args: &[&str], parts: &[&str]| {
        refuses(&[&["bench", "-m", &model, "-r", "1"], args].concat(), parts);
    };
    bench(&["-p", "1025", "-n", "0"], &["1025", "1024"]);
    bench(&["-p", &huge, "-d", &huge], &["1024"]);
    bench(&["-b", "0"], &["option \"batch\": 0"]);
    bench(&["-t", "100000"], &["option \"threads\""]);
    let set = |value: &str, parts: &[&str]| bench(&["--set", value], parts);
    set("batch=0", &["option \"batch\": 0 is not within 1 to 4096"]);
    set(
        "thread=1",
        &["\"--set\": \"thread=1\": unknown field", "`threads`"],
    );
    set("threads=many", &["\"threads=many\"", "invalid type"]);
    set("threads", &["\"--set\": \"threads\""]);
    set(
        "speculation.method=suffix",
        &["option \"speculation\"", "\"engine run\""],
    );
    let length_first = "speculation.draft_tokens=3";
    bench(
        &["--set", length_first, "--set", "speculation.method=suffix"],
        &["option \"speculation\""],
    );
    set(
        "wait_prefetch_bytes=99999999999",
        &["99999999999 is not within 0 to 16777216"],
    );
    let run = |args: &[&str], parts: &[&str]| {
        fails(&[&["run", "-m", &model, "-n", "4"], args].concat(), parts);
    };
    run(&["-p", ""], &["prompt"]);
    fails(
        &["run", "-m", &model, "-p", "x", "-n", &huge],
        &["do not fit the context of"],
    );
    run(
        &["-p", &"1 ".repeat(1000)],
        &["do not fit the context of", "1024"],
    );
    run(&["-f", &path(&folder, "none")], &["cannot open"]);
    run(&["-f", "/dev/zero"], &["not a regular file"]);
    run(&["-f", &model], &["not UTF-8"]);
    let text = path(&folder, "text");
    fs::write(&text, "a short text").expect("written");
    fails(
        &["perplexity", "-m", &model, "-f", &text, "--ctx", "512"],
        &["tokens"],
    );
    fs::write(&text, b"\xff\xfe").expect("written");
    fails(
        &["perplexity", "-m", &model, "-f", &text],
        &["not UTF-8 at byte 0"],
    );
}

#[test]
fn synth_never_writes_over_a_file_and_says_what_is_wrong() {
    let (folder, model) = folder();
    let before = fs::read(&model).expect("the model");
    let new = path(&folder, "new.gguf");
    let synth = |shape: &str, quant: &str, out: &str, parts: &[&str]| {
        fails(
            &["synth", "--shape", shape, "--quant", quant, "-o", out],
            parts,
        );
    };
    synth("tiny", "Q4_0", &model, &["it exists already"]);
    synth(
        "phi-9",
        "Q4_0",
        &new,
        &["shape \"phi-9\" is unknown", "phi-4-mini"],
    );
    synth(
        "tiny",
        "Q9_9",
        &new,
        &["format \"Q9_9\" is unknown", "Q4_0"],
    );
    synth(
        "tiny",
        "Q4_0",
        &path(&folder, "none/x.gguf"),
        &["cannot write"],
    );
    synth(
        &path(&folder, "none.toml"),
        "Q4_0",
        &new,
        &["cannot read", "none.toml"],
    );
    let shape = path(&folder, "shape.toml");
    fs::write(&shape, "name = \"x\"\nlayer = 2\n").expect("written");
    synth(
        &shape,
        "Q4_0",
        &new,
        &["shape.toml\", line 2, column 1: unknown field `layer`"],
    );
    if Path::new("/proc/self").exists() {
        synth(
            "tiny",
            "Q4_0",
            "/proc/x.gguf",
            &["cannot write \"/proc/x.gguf"],
        );
    }
    assert_eq!(fs::read(&model).expect("the model"), before);
    assert!(!Path::new(&new).exists());
    assert_eq!(fs::read_dir(folder.path()).expect("the folder").count(), 2);
}

#[test]
fn wrong_usage_is_exit_code_2() {
    for args in [
        &[][..],
        &["infos"],
        &["info"],
        &["info", "--nonsense", "x"],
        &["synth", "--shape", "tiny"],
        &["synth", "--shape", "tiny", "-o", "x", "--seed", "-1"],
        &["bench", "-m", "x", "-p", "many"],
    ] {
        assert_eq!(output(args).status.code(), Some(2), "{args:?}");
    }
    for args in [&["--help"][..], &["info", "--help"], &["--version"]] {
        assert_eq!(output(args).status.code(), Some(0), "{args:?}");
    }
}

#[test]
fn top_logprobs_are_of_the_tokens_chosen() {
    let (_folder, model) = folder();
    let flags = ["-n", "5", "--ignore-eos", "--top-logprobs", "3"];
    let out = output(&[&["run", "-m", &model, "-p", "Hello there"][..], &flags].concat());
    assert!(out.status.success(), "{}", text(&out.stderr));
    let lines = text(&out.stderr).lines().filter(|l| l.starts_with('{'));
    let steps: Vec<serde_json::Value> = lines
        .map(|l| serde_json::from_str(l).expect("JSON"))
        .collect();
    assert_eq!(steps.len(), 5);
    for step in steps {
        let top = step["top"].as_array().expect("a list");
        let logprobs: Vec<f64> = top.iter().filter_map(|t| t[1].as_f64()).collect();
        assert_eq!((logprobs.len(), &step["id"]), (3, &top[0][0]));
        assert!(logprobs[0] < 0.0 && logprobs.is_sorted_by(|a, b| a >= b));
        assert!(logprobs.iter().map(|p| p.exp()).sum::<f64>() <= 1.0 + 1e-6);
    }
}

#[test]
fn run_writes_the_completion_alone_to_standard_output() {
    let (_folder, model) = folder();
    let complete = |n: &str| {
        let out = output(&[
            "run",
            "-m",
            &model,
            "-p",
            "Hello there",
            "-n",
            n,
            "--temp",
            "0",
            "--ignore-eos",
        ]);
        assert!(out.status.success(), "{}", text(&out.stderr));
        text(&out.stdout).to_string()
    };
    assert_eq!(complete("0"), "");
    let long = complete("40");
    assert!(
        long.len() >= 40 && !long.contains("tok/s") && !long.starts_with("Hello"),
        "{long:?}"
    );
    assert!(long.starts_with(complete("10").trim_end_matches('\u{fffd}')));
}

/// What `engine chat` does with lines on standard input.
fn chat(args: &[&str], lines: &str) -> Output {
    let mut child = engine(args)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("the command starts");
    let mut stdin = child.stdin.take().expect("piped");
    stdin.write_all(lines.as_bytes()).expect("is read");
    drop(stdin);
    child.wait_with_output().expect("ends")
}

#[test]
fn chat_answers_every_line_and_reads_only_what_is_new() {
    let (_folder, model) = folder();
    let out = chat(
        &["chat", "-m", &model, "-n", "5", "--system", "Be brief."],
        "Hello\n\nAnd again\n",
    );
    assert!(out.status.success(), "{}", text(&out.stderr));
    let rates = text(&out.stderr);
    assert_eq!(
        rates.lines().count(),
        2,
        "an empty line says nothing: {rates}"
    );
    let counts: Vec<Vec<u32>> = rates
        .lines()
        .map(|l| l.split(' ').filter_map(|word| word.parse().ok()).collect())
        .collect();
    assert_eq!(counts[0][0], counts[0][1], "all is new: {rates}");
    assert!(counts[1][0] < counts[1][1], "not all is new: {rates}");
    assert!(text(&out.stdout).ends_with('\n') && !text(&out.stdout).contains("tok/s"));

    // A new conversation is as long as the first one was.
    let out = chat(&["chat", "-m", &model, "-n", "5"], "Hello\n/new\nHello\n");
    let told: Vec<&str> = text(&out.stderr).lines().collect();
    let of = |line: &str| line.split(' ').nth(3).map(str::to_owned);
    assert_eq!((told.len(), told[1]), (3, "a new conversation"));
    assert_eq!(of(told[0]), of(told[2]), "{told:?}");

    let out = chat(&["chat", "-m", &model, "-c", "24"], &"too long ".repeat(50));
    assert_eq!(out.status.code(), Some(1));
    assert!(text(&out.stderr).contains("do not fit the context of 24"));

    rename_key(&model, b"tokenizer.chat_template");
    fails(
        &["chat", "-m", &model],
        &["the file has no \"tokenizer.chat_template\""],
    );
}

/// Makes a model's file name something else by a key's value.
fn rename_key(model: &str, key: &[u8]) {
    let mut bytes = fs::read(model).expect("the model");
    let at = bytes.windows(key.len()).position(|w| w == key);
    bytes[at.expect("has one") + key.len() - 1] = b'x';
    fs::write(model, bytes).expect("written");
}

#[test]
fn a_file_that_names_no_pre_tokenizer_is_read_with_a_warning() {
    let (_folder, model) = folder();
    let said = || text(&output(&["tokenize", "-m", &model, "some text"]).stderr).to_owned();
    assert_eq!(said(), "");
    rename_key(&model, b"tokenizer.ggml.pre");
    assert!(
        said().starts_with("warning: the file names no pre-tokenizer"),
        "{}",
        said()
    );
}

#[test]
fn a_reader_that_has_seen_enough_is_no_error() {
    let (_folder, model) = folder();
    for args in [
        &["info", "--tensors", &model][..],
        &["run", "-m", &model, "-p", "x", "-n", "500", "--ignore-eos"],
        &["bench", "-m", &model, "-p", "4", "-n", "4", "-r", "1"],
        &["tokenize", "-m", &model, "some text"],
    ] {
        let mut child = engine(args)
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .expect("the command starts");
        drop(child.stdout.take());
        let mut error = String::new();
        let mut stderr = child.stderr.take().expect("piped");
        stderr.read_to_string(&mut error).expect("UTF-8");
        assert!(child.wait().expect("ends").success(), "{args:?}: {error}");
        assert_eq!(error, "", "{args:?}");
    }
}

#[test]
fn output_that_cannot_be_written_is_an_error() {
    let (_folder, model) = folder();
    let Ok(full) = fs::OpenOptions::new().write(true).open("/dev/full") else {
        return; // a system without it has nothing to fill up
    };
    let out = engine(&["info", &model])
        .stdout(full)
        .output()
        .expect("the command starts");
    assert_eq!(out.status.code(), Some(1));
    assert!(
        text(&out.stderr).starts_with("error: cannot write \"standard output\""),
        "{}",
        text(&out.stderr)
    );
}

#[test]
fn models_are_quantised_with_an_importance_matrix() {
    let (folder, model) = folder();
    let prompt = path(&folder, "text.txt");
    fs::write(
        &prompt,
        "one two three four five six seven eight nine ten ".repeat(8),
    )
    .expect("written");
    let (matrix, made) = (path(&folder, "imatrix.gguf"), path(&folder, "made.gguf"));
    let imatrix = [
        "imatrix", &model, "-f", &prompt, "-o", &matrix, "-c", "32", "-t", "1",
    ];
    let out = output(&imatrix);
    assert!(out.status.success(), "{}", text(&out.stderr));
    let quantize = [
        "quantize",
        &model,
        "-o",
        &made,
        "--to",
        "q3_k",
        "--imatrix",
        &matrix,
    ];
    let out = output(&[&quantize[..], &["--tensor-type", "ffn_down=Q6_K"]].concat());
    assert!(out.status.success(), "{}", text(&out.stderr));
    assert!(
        text(&out.stderr).contains("tensors Q3_K"),
        "{}",
        text(&out.stderr)
    );
    let out = output(&[
        "perplexity",
        "-m",
        &made,
        "-f",
        &prompt,
        "-c",
        "32",
        "-t",
        "1",
    ]);
    assert!(
        text(&out.stdout).contains("PPL = "),
        "{}",
        text(&out.stderr)
    );
    fails(&quantize, &["made.gguf", "exists already"]);
    fails(&imatrix, &["imatrix.gguf", "exists already"]);
    let other = path(&folder, "other.gguf");
    let to = ["quantize", &model, "-o", &other, "--to"];
    refuses(
        &[&to[..], &["Q9"]].concat(),
        &["\"Q9\" is unknown: expected one of native, mixed@BITS, F32"],
    );
    let rule = |rule| [&to[..], &["Q4_K", "--tensor-type", rule]].concat();
    refuses(
        &rule("ffn"),
        &["\"--tensor-type\": \"ffn\": expected REGEX=FORMAT"],
    );
    refuses(&rule("(=Q4_K"), &["no regular expression"]);
    refuses(&rule("ffn=Q9"), &["format \"Q9\" is unknown"]);
    refuses(
        &[&to[..], &["Q4_K", "--imatrix", &model]].concat(),
        &["no importance matrix"],
    );
    assert!(!Path::new(&other).exists());
}

#[test]
fn thresholds_are_calibrated_with_what_they_come_from() {
    let (folder, model) = folder();
    let (prompt, out, cache) = (
        path(&folder, "text.txt"),
        path(&folder, "out.toml"),
        path(&folder, "cache"),
    );
    fs::write(&prompt, "one two three four five six ".repeat(8)).expect("written");
    let calibrate = |method: &'static str, model: &str| -> Vec<String> {
        let words = [
            "calibrate",
            "-m",
            model,
            "-f",
            &prompt,
            "-o",
            &out,
            "-c",
            "32",
            "-t",
            "1",
            "--sparsity",
            "0.5",
            "--method",
            method,
        ];
        words.map(str::to_owned).to_vec()
    };
    let words = |args: &[String]| {
        args.iter()
            .map(String::as_str)
            .collect::<Vec<_>>()
            .join("\n")
    };
    let none = calibrate("none", &model);
    let none = output(&none.iter().map(String::as_str).collect::<Vec<_>>());
    assert_eq!(none.status.code(), Some(2), "{}", text(&none.stderr));
    assert!(
        text(&none.stderr).contains("it leaves nothing out"),
        "{}",
        text(&none.stderr)
    );
    assert!(!Path::new(&out).exists());

    let teal = words(&calibrate("teal", &model));
    let teal: Vec<&str> = teal.split('\n').collect();
    let done = output(&teal);
    assert!(done.status.success(), "{}", text(&done.stderr));
    let shown = text(&done.stdout);
    assert!(
        shown.contains("  1  qkv ") && shown.contains("(50.0 %)"),
        "{shown}"
    );
    let made: toml::Table = fs::read_to_string(&out)
        .expect("written")
        .parse()
        .expect("TOML");
    let by = &made["made_by"];
    assert_eq!(by["method"].as_str(), Some("teal"));
    assert_eq!(by["version"].as_str(), Some(env!("CARGO_PKG_VERSION")));
    assert_eq!(by["program"].as_str().map(str::len), Some(64));
    for key in ["layer", "left_out", "curve"] {
        assert_eq!(made[key].as_array().map(Vec::len), Some(2), "{key}");
    }
    let at = |of: &toml::Value, i: usize| of["down"][i].as_float().expect("a number");
    let curve = &made["curve"][1];
    assert!((0..8).all(|i| at(curve, i) < at(curve, i + 1)), "{curve}");
    assert_eq!(made["layer"][1]["down"].as_float(), Some(at(curve, 4)));

    // Told before the model is looked at.
    let again = words(&calibrate("teal", "no.gguf"));
    fails(
        &again.split('\n').collect::<Vec<_>>(),
        &["out.toml", "exists already"],
    );

    let run = |thresholds: &str| {
        let thresholds = format!("sparsity.thresholds={thresholds}");
        let cache = format!("packed_cache={cache}");
        let args = [
            "run",
            "-m",
            &model,
            "-p",
            "a",
            "-n",
            "4",
            "-t",
            "1",
            "--set",
            "sparsity.method=teal",
            "--set",
            &thresholds,
            "--set",
            &cache,
        ];
        output(&args)
    };
    let refused = run("");
    assert_eq!(refused.status.code(), Some(2));
    assert!(
        text(&refused.stderr).contains("the method needs thresholds: make a file of them"),
        "{}",
        text(&refused.stderr)
    );
    for way in [
        "packed, and kept for the next time",
        "mapped, as an earlier load packed them",
    ] {
        let done = run(&out);
        let said = text(&done.stderr);
        let line = format!(
            "by channels: 14 matrices a second time, 0.9 MB; encoded anew: 14 from Q4_0 to Q4_0; {way}\n"
        );
        assert!(done.status.success() && said.contains(&line), "{said}");
    }
}

#[test]
fn a_plan_is_measured_and_followed() {
    let (folder, model) = folder();
    let prompt = path(&folder, "text.txt");
    fs::write(&prompt, "one two three four five six ".repeat(20)).expect("written");
    let (plan, made) = (path(&folder, "plan.toml"), path(&folder, "made.gguf"));
    let measure = |formats| {
        let args = [
            "plan", "-m", &model, "-f", &prompt, "-o", &plan, "--bits", "6",
        ];
        let more = [
            "-c",
            "32",
            "--chunks",
            "1",
            "--parts",
            "1",
            "-t",
            "1",
            "--formats",
            formats,
        ];
        [args.as_slice(), more.as_slice()].concat()
    };
    refuses(&measure("Q2_K,Q9"), &["format \"Q9\" is unknown"]);
    let out = output(&measure("q2_k,Q4_0,Q8_0"));
    let (page, error) = (text(&out.stdout), text(&out.stderr));
    assert!(out.status.success(), "{error}");
    // As it is, a group loses nothing; in two bits it does.
    for part in [
        "ffn_down 0-1",
        "Q2_K ",
        "Q4_0 0.00 (4.50)",
        "6 bits: ",
        "sum of the parts",
    ] {
        assert!(page.contains(part), "{part:?} is not in {page}");
    }
    fails(&measure("Q2_K"), &["plan.toml", "exists already"]);
    let mut show = measure("Q8_0,Q2_K");
    show.retain(|&word| word != plan);
    let at = show.iter().position(|&word| word == "-o").expect("there");
    show[at] = "--show";
    show.insert(6, &plan);
    let out = output(&show);
    let page = text(&out.stdout);
    for row in ["Q2_K ", "Q8_0 ", "native ", "mixed@6 "] {
        let found = page.lines().any(|line| line.starts_with(row));
        assert!(found, "{row:?} is not in {page}{}", text(&out.stderr));
    }
    let mixed = ["--to", "mixed@3", "--plan", &plan];
    let out = output(&[&["quantize", &model, "-o", &made][..], &mixed].concat());
    assert!(out.status.success(), "{}", text(&out.stderr));
    // What is written is what options would make of it at load.
    let read = |args: &[&str]| {
        let out = output(&[&["info"][..], args].concat());
        let page = text(&out.stdout).to_owned();
        let line = page
            .lines()
            .find(|l| l.trim_start().starts_with("weights "));
        line.unwrap_or_else(|| panic!("{page}{}", text(&out.stderr)))
            .to_owned()
    };
    let by_plan = format!("quant_plan={plan}");
    let set = ["--set", "quant=mixed@3", "--set", &by_plan];
    let loaded = read(&[&[model.as_str()][..], &set].concat());
    assert_eq!(loaded, read(&[&made]));
    assert!(
        loaded.contains("bits each") && loaded != read(&[&model]),
        "{loaded}"
    );
    let few = [
        "quantize", &model, "-o", &made, "--to", "mixed@1", "--plan", &plan,
    ];
    refuses(&few, &["\"quant\"", "fewer than the smallest"]);
    let none = ["info", &model, "--set", "quant=mixed@3"];
    refuses(&none, &["\"quant_plan\"", "engine plan"]);
}

#[test]
fn layers_to_skip_are_found_and_drafted_without() {
    let (folder, model) = folder();
    let prose = path(&folder, "text.txt");
    fs::write(&prose, "one two three four five six seven ".repeat(8)).expect("written");
    let find = [
        "skip-layers",
        "-m",
        &model,
        "-f",
        &prose,
        "-c",
        "32",
        "-t",
        "1",
    ];
    let out = output(&find);
    assert!(out.status.success(), "{}", text(&out.stderr));
    let (table, found) = text(&out.stdout).split_once("\n\n").expect("two parts");
    assert_eq!(table.lines().count(), 3, "{table}");
    let section: toml::Table = found.parse().expect("a part of a scenario");
    let wanted = &section["engine"]["speculation"];
    assert_eq!(wanted["method"].as_str(), Some("layer-skip"));
    assert_eq!(output(&find).stdout, out.stdout, "the same each time");
    let run = [
        "run",
        "-m",
        &model,
        "-p",
        "Hello",
        "-n",
        "9",
        "-t",
        "1",
        "--ignore-eos",
    ];
    let plain = output(&run);
    let set = format!("speculation={wanted}");
    let drafted = output(&[&run[..], &["--set", &set]].concat());
    assert!(
        text(&drafted.stderr).contains("ms rolling back"),
        "{}",
        text(&drafted.stderr)
    );
    assert_eq!(drafted.stdout, plain.stdout);
    refuses(
        &[&find[..], &["--most", "2"]].concat(),
        &["\"--most\"", "the model has 2"],
    );
    refuses(
        &[&find[..], &["--pass-slope", "nan"]].concat(),
        &["\"--pass-slope\""],
    );
}

#[test]
fn drafts_that_cannot_be_made_are_refused_by_their_own_keys() {
    let (_folder, model) = folder();
    let run = |set: &[&str], parts: &[&str]| {
        let args = ["run", "-m", &model, "-p", "x", "-n", "4", "-t", "1"];
        let set = set.iter().flat_map(|one| ["--set", one]);
        refuses(&args.into_iter().chain(set).collect::<Vec<_>>(), parts);
    };
    let draft_quant = "option \"speculation.draft_quant\"";
    let qcsd = |quant: &str, parts: &[&str]| {
        let set = format!("speculation={{method=\"qcsd\",draft_quant=\"{quant}\"}}");
        run(&[&set], &[&[draft_quant], parts].concat());
    };
    qcsd("Q9", &["\"Q9\" is unknown: expected one of top, native"]);
    qcsd("top", &["\"top\" takes one of", "no matrix of the model"]);
    qcsd(
        "mixed@4.5",
        &["\"mixed@4.5\" hangs on engine.quant_plan", "engine plan"],
    );
    qcsd("mixed@x", &["\"mixed@x\": expected mixed@BITS"]);
    let sampled = ["run", "-m", &model, "-p", "x", "--temp", "0.8", "--set"];
    refuses(
        &[&sampled[..], &["speculation.method=suffix"]].concat(),
        &["option \"speculation.draft_tokens\"", "set it to a number"],
    );
    let fixed = "speculation={method=\"suffix\",draft_tokens=2}";
    let out = output(&[&sampled[..], &[fixed, "-n", "4"]].concat());
    assert!(out.status.success(), "{}", text(&out.stderr));
}
