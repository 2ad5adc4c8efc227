//! A model whose matrices take other formats as it is loaded, against the file that `engine quantize` would have written.

use engine::gguf::Gguf;
use engine::model::Model;
use engine::options::{Affinity, AffinityPolicy};
use engine::pool::Pool;
use engine::quant::FORMATS;
use engine::quantize::{
    Choice, Group, Importance, Mixed, Observer, Recipe, format, plan, quantize,
};
use engine::session::Session;
use engine::synth::{Shape, in_memory};
use engine::{Options, Result};
use std::path::Path;
use tempfile::TempDir;

const PROMPT: [u32; 21] = [
    1, 17, 300, 45, 45, 2, 511, 80, 7, 7, 129, 256, 33, 410, 5, 99, 1, 0, 18, 222, 64,
];

fn options() -> Options {
    Options {
        threads: 3,
        affinity: Affinity::Policy(AffinityPolicy::None),
        oversubscribe: true,
        batch: 8,
        ..Options::default()
    }
}

fn source(shape: &str, quant: &str) -> Vec<u8> {
    in_memory(&Shape::load(shape).expect("built in"), quant, 7).expect("small")
}

fn open(bytes: Vec<u8>) -> Gguf {
    Gguf::from_bytes(Path::new("test.gguf"), bytes).expect("valid")
}

/// Bits of all logits, bytes that a token reads of the weights, and what the model says it is.
fn run(file: Gguf, options: &Options) -> Result<(Vec<u32>, u64, String)> {
    let pool = Pool::new(options)?;
    let model = Model::from_gguf(file, &pool, options)?;
    let mut session = Session::new(&model, &pool, options)?;
    let mut bits = Vec::new();
    session.score(&PROMPT, 0, |_, l| {
        bits.extend(l.iter().map(|x| x.to_bits()))
    })?;
    session.take_stats();
    session.decode(3)?;
    let read = session.take_stats().ledger.weight_bytes;
    assert_eq!((read, read), (model.read_bytes(), multiplied_bytes(&model)));
    Ok((bits, read, model.description()))
}

/// Bytes of the matrices that every token is multiplied with, in whole panels of 16 rows.
fn multiplied_bytes(model: &Model) -> u64 {
    let tensors = model.tensors();
    let tied = !tensors.iter().any(|t| t.from.name == "output.weight");
    let matrices = tensors.iter().filter(|t| t.from.dims.len() > 1);
    let read = matrices.filter(|t| tied || t.from.name != "token_embd.weight");
    let bytes = read.map(|t| {
        let rows = t.from.dims[1];
        model.config().active(&t.from, t.bytes) / rows * rows.next_multiple_of(16)
    });
    bytes.sum()
}

/// Loading `bytes` with `options` must give the same as the file that their recipe writes.
#[track_caller]
fn same_as_written(bytes: &[u8], options: &Options) -> (Vec<u32>, u64, String) {
    let folder = tempfile::tempdir().expect("folder");
    let out = folder.path().join("made.gguf");
    let file = open(bytes.to_vec());
    let recipe = Recipe::from_options(options, &file).expect("valid");
    quantize(&file, &recipe, &out, 2, &mut |_, _| ()).expect("written");
    let native = Options {
        quant: "native".into(),
        ..options.clone()
    };
    let written = run(Gguf::open(&out).expect("valid"), &native).expect("runs");
    let loaded = run(file, options).expect("runs");
    assert_eq!(loaded, written, "{}", options.quant);
    loaded
}

#[test]
fn every_format_gives_the_logits_and_bytes_of_the_written_file() {
    let bytes = source("tiny", "F32");
    let native = run(open(bytes.clone()), &options()).expect("runs");
    for format in FORMATS {
        let quant = format.name.to_lowercase();
        let made = same_as_written(&bytes, &Options { quant, ..options() });
        if format.name != "F32" {
            assert_ne!(made.0, native.0, "{}", format.name);
            assert!(made.1 < native.1, "{}", format.name);
        }
    }
}

#[test]
fn fused_tied_scaled_and_biased_models_do_too() {
    for (shape, from) in [
        ("tiny-phi3", "F16"),
        ("tiny-gemma3", "Q8_0"),
        ("tiny-qwen2", "Q4_1"),
        ("tiny-smollm3", "Q4_0"),
        ("tiny-qwen3moe", "F32"),
    ] {
        for quant in ["Q4_K", "IQ4_NL", "F16", "native"] {
            let quant = quant.into();
            same_as_written(&source(shape, from), &Options { quant, ..options() });
        }
    }
}

/// A plan for the model in which all its layers take `first`, the output Q6_K, where 4.5 bits allow it.
fn planned(folder: &TempDir, file: &Gguf, first: &str) -> Options {
    let names = file
        .tensors()
        .iter()
        .filter(|t| t.dims.len() > 1)
        .map(|t| t.name.clone());
    let (layers, rest): (Vec<_>, Vec<_>) = names.partition(|n| n.starts_with("blk."));
    let group = |name: &str, tensors: Vec<String>, choices: &[&str]| {
        let weights: u64 = tensors
            .iter()
            .map(|t| file.tensor(t).expect("there").n_values())
            .sum();
        let choice = |(i, name): (usize, &&str)| Choice {
            format: (*name).into(),
            bytes: weights / 256 * format(name).expect("known").row_bytes(256) as u64,
            kld: i as f64,
        };
        let choice = choices.iter().enumerate().map(choice).collect();
        Group {
            name: name.into(),
            weights,
            choice,
            tensors,
        }
    };
    let output = rest.into_iter().filter(|n| n == "output.weight").collect();
    let plan = Mixed {
        model: "tiny.gguf".into(),
        text: "t.txt".into(),
        windows: 1,
        window_tokens: 8,
        imatrix: String::new(),
        group: vec![
            group("layers", layers, &["F32", first]),
            group("output", output, &["F32", "Q6_K"]),
        ],
    };
    let quant_plan = folder.path().join(format!("{first}.toml"));
    plan.save(&quant_plan).expect("written");
    assert_eq!(Mixed::open(&quant_plan).expect("read"), plan);
    Options {
        quant: "mixed@5".into(),
        quant_plan,
        ..options()
    }
}

#[test]
fn a_plan_and_an_importance_matrix_are_followed() {
    let folder = tempfile::tempdir().expect("folder");
    let bytes = source("tiny", "F32");
    let file = open(bytes.clone());
    let by_plan = planned(&folder, &file, "Q4_K");
    let made = same_as_written(&bytes, &by_plan);
    let formats = plan(
        &file,
        &Recipe::from_options(&by_plan, &file).expect("valid"),
    )
    .expect("possible");
    let of = |name: &str| {
        formats
            .iter()
            .find(|p| p.from.name == name)
            .expect("there")
            .format
    };
    assert_eq!(of("blk.0.ffn_up.weight"), "Q4_K");
    assert_eq!(
        (of("output.weight"), of("token_embd.weight")),
        ("Q6_K", "F32")
    );
    // What the columns are multiplied with changes the codes, and nothing else.
    let quant_imatrix = folder.path().join("imatrix.gguf");
    imatrix(&quant_imatrix, &bytes);
    assert!(Importance::open(&quant_imatrix).is_ok());
    let weighed = same_as_written(
        &bytes,
        &Options {
            quant_imatrix,
            ..by_plan.clone()
        },
    );
    assert_ne!(weighed.0, made.0);
    assert_eq!(weighed.1, made.1);
    // Too few bits, and another model.
    let refused = |options: &Options, file: &Gguf| {
        Recipe::from_options(options, file)
            .expect_err("refused")
            .to_string()
    };
    let few = refused(
        &Options {
            quant: "mixed@3".into(),
            ..by_plan.clone()
        },
        &file,
    );
    assert!(
        few.contains("\"quant\"") && few.contains("3 bits are fewer"),
        "{few}"
    );
    let other = refused(&by_plan, &open(source("tiny-phi3", "F32")));
    assert!(other.contains("\"tiny.gguf\", another model"), "{other}");
    let mut plan = Mixed::open(&by_plan.quant_plan).expect("read");
    plan.imatrix = "seen.gguf".into();
    let quant_plan = folder.path().join("weighed.toml");
    plan.save(&quant_plan).expect("written");
    let lacking = Options {
        quant_plan,
        ..by_plan.clone()
    };
    let lacking = refused(&lacking, &file);
    assert!(
        lacking.contains("\"quant_imatrix\"") && lacking.contains("seen.gguf"),
        "{lacking}"
    );
    std::fs::write(&by_plan.quant_plan, "model = 1").expect("written");
    let damaged = refused(&by_plan, &file);
    assert!(
        damaged.contains("is no plan of \"engine plan\""),
        "{damaged}"
    );
}

/// An importance matrix from a pass of the model itself.
fn imatrix(out: &Path, bytes: &[u8]) {
    let options = options();
    let pool = Pool::new(&options).expect("pool");
    let model = Model::from_gguf(open(bytes.to_vec()), &pool, &options).expect("model");
    let mut session = Session::new(&model, &pool, &options).expect("session");
    session.observe();
    session.prefill(&PROMPT).expect("fits");
    let seen: &Observer = session.observed().expect("asked for");
    seen.save(out, "test", 1, PROMPT.len() as u32)
        .expect("written");
}

#[test]
fn every_expert_has_an_importance_of_its_own() {
    let folder = tempfile::tempdir().expect("folder");
    let bytes = source("tiny-qwen3moe", "F32");
    let quant_imatrix = folder.path().join("imatrix.gguf");
    imatrix(&quant_imatrix, &bytes);
    let file = Gguf::open(&quant_imatrix).expect("valid");
    for (part, columns) in [("gate", 256), ("up", 256), ("down", 160)] {
        let name = format!("blk.1.ffn_{part}_exps.weight");
        let sums = file.tensor(&format!("{name}.in_sum2")).expect("there");
        let counts = file.tensor(&format!("{name}.counts")).expect("there");
        assert_eq!(
            (&*sums.dims, &*counts.dims),
            (&[columns, 8][..], &[1, 8][..])
        );
        let numbers = file.data(counts).as_chunks().0.iter();
        let tokens: f32 = numbers.map(|b| f32::from_le_bytes(*b)).sum();
        assert_eq!(tokens, 2.0 * PROMPT.len() as f32);
    }
    let plain = Options {
        quant: "Q4_0".into(),
        ..options()
    };
    let weighed = Options {
        quant_imatrix,
        ..plain.clone()
    };
    let (plain, weighed) = (
        same_as_written(&bytes, &plain),
        same_as_written(&bytes, &weighed),
    );
    assert_ne!(weighed.0, plain.0);
    assert_eq!(weighed.1, plain.1);
}

#[test]
fn values_that_are_not_finite_are_named() {
    let mut bytes = source("tiny", "F32");
    let file = open(bytes.clone());
    for name in ["blk.0.attn_v.weight", "token_embd.weight"] {
        let at = file.tensor(name).expect("there").offset as usize;
        let kept = bytes.clone();
        bytes[at..at + 4].copy_from_slice(&f32::INFINITY.to_le_bytes());
        let quant = "Q5_0".into();
        let text = run(open(bytes), &Options { quant, ..options() })
            .expect_err("refused")
            .to_string();
        assert!(text.contains(name) && text.contains("not finite"), "{text}");
        bytes = kept;
    }
}
