//! Files are made up, quantised, and read back.

use super::*;
use crate::synth::{Shape, in_memory};

fn file(shape: &str, quant: &str) -> Gguf {
    let bytes = in_memory(&Shape::load(shape).unwrap(), quant, 7).unwrap();
    Gguf::from_bytes(Path::new(shape), bytes).unwrap()
}

fn recipe(to: &str) -> Recipe {
    Recipe {
        to: Some(format(to).unwrap()),
        rules: Vec::new(),
        importance: None,
    }
}

fn values(file: &Gguf, name: &str) -> Vec<f32> {
    let tensor = file.tensor(name).unwrap();
    let mut out = vec![0.0; tensor.n_values() as usize];
    FormatInfo::by_id(tensor.format_id)
        .unwrap()
        .dequantize(file.data(tensor), &mut out);
    out
}

fn type_of(file: &Gguf, name: &str) -> &'static str {
    file.tensor(name).unwrap().format().name
}

#[test]
fn every_format_is_written_and_all_else_is_kept() {
    let folder = tempfile::tempdir().unwrap();
    let source = file("tiny", "F32");
    for to in FORMATS {
        let out = folder.path().join(to.name);
        let mut last = (0, 0);
        let planned = quantize(&source, &recipe(to.name), &out, 3, &mut |d, a| {
            last = (d, a)
        })
        .unwrap();
        assert_eq!(last.0, last.1);
        let made = Gguf::open(&out).unwrap();
        assert_eq!(made.tensors().len(), planned.len());
        assert_eq!(made.u32("general.file_type").unwrap(), Some(to.file_type));
        let storage = |key: &&str| !key.starts_with("general.");
        let keys = |file: &Gguf| -> Vec<String> {
            file.metadata()
                .map(|(key, _)| key)
                .filter(storage)
                .map(String::from)
                .collect()
        };
        assert_eq!(keys(&made), keys(&source));
        let name = "blk.1.ffn_down.weight";
        assert_eq!(type_of(&made, name), to.name);
        let mut expect = vec![0; to.row_bytes(values(&source, name).len())];
        to.quantize(&values(&source, name), &[], &mut expect);
        assert_eq!(made.data(made.tensor(name).unwrap()), expect, "{}", to.name);
        for kept in ["output_norm.weight", "blk.0.attn_norm.weight"] {
            assert_eq!(values(&made, kept), values(&source, kept));
        }
    }
}

#[test]
fn the_output_keeps_six_bits_and_rules_come_first() {
    let types = |shape: &str, recipe: &Recipe| {
        let file = file(shape, "F32");
        let planned = plan(&file, recipe).unwrap();
        move |name: &str| planned.iter().find(|p| p.from.name == name).unwrap().format
    };
    let of = types("tiny", &recipe("Q4_K"));
    assert_eq!(of("output.weight"), "Q6_K");
    assert_eq!(of("token_embd.weight"), "Q4_K");
    let of = types("tiny-phi3", &recipe("Q4_K"));
    assert_eq!(of("token_embd.weight"), "Q6_K");
    assert_eq!(of("rope_factors_long.weight"), "F32");
    assert_eq!(types("tiny", &recipe("Q8_0"))("output.weight"), "Q8_0");
    let rules = [
        ("ffn_(up|gate)", "Q2_K"),
        ("ffn", "Q8_0"),
        ("^output\\.", "F16"),
    ];
    let rules = rules.map(|(r, f)| (Regex::new(r).unwrap(), format(f).unwrap()));
    let of = types(
        "tiny",
        &Recipe {
            rules: rules.into(),
            ..recipe("Q4_0")
        },
    );
    assert_eq!(of("blk.0.ffn_up.weight"), "Q2_K");
    assert_eq!(of("blk.0.ffn_down.weight"), "Q8_0");
    assert_eq!(of("blk.0.ffn_norm.weight"), "F32");
    assert_eq!(of("output.weight"), "F16");
    assert_eq!(of("blk.0.attn_q.weight"), "Q4_0");
}

#[test]
fn what_cannot_be_done_is_an_error_and_leaves_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let out = folder.path().join("x.gguf");
    let text = format("Q9").unwrap_err().to_string();
    assert!(
        text.contains("format \"Q9\" is unknown: expected one of F32"),
        "{text}"
    );
    let mut narrow = recipe("Q4_0");
    let rule = |name: &str| (Regex::new(name).unwrap(), format("Q4_K").unwrap());
    narrow.rules.push(rule("attn_q"));
    let shape = Shape {
        embedding: 96,
        ..Shape::load("tiny").unwrap()
    };
    let bytes = in_memory(&shape, "F32", 7).unwrap();
    let small = Gguf::from_bytes(Path::new("small"), bytes.clone()).unwrap();
    let refused = |file: &Gguf, recipe: &Recipe| {
        quantize(file, recipe, &out, 1, &mut |_, _| ())
            .unwrap_err()
            .to_string()
    };
    let text = refused(&small, &narrow);
    assert!(
        text.contains("no whole blocks of Q4_K") && text.contains("attn_q"),
        "{text}"
    );
    // Norms are no matrices.
    narrow.rules[0] = rule("attn_norm");
    let text = refused(&small, &narrow);
    assert!(
        text.contains("no matrix") && text.contains("\"attn_norm=Q4_K\""),
        "{text}"
    );
    // A value that is no number.
    let at = small.tensor("blk.0.ffn_down.weight").unwrap().offset as usize;
    let with = |value: f32| {
        let mut bytes = bytes.clone();
        bytes[at..at + 4].copy_from_slice(&value.to_le_bytes());
        Gguf::from_bytes(Path::new("damaged"), bytes).unwrap()
    };
    // One that a format cannot hold is no better.
    for (value, to) in [(f32::NAN, "Q4_0"), (1e6, "F16"), (1e9, "Q8_0")] {
        let text = refused(&with(value), &recipe(to));
        let expect = "\"blk.0.ffn_down.weight\" holds values that are not finite";
        assert!(text.contains(expect) && text.contains(to), "{text}");
    }
    std::fs::write(&out, b"mine").unwrap();
    assert!(refused(&small, &recipe("Q4_0")).contains("exists already"));
    assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 1);
}

/// An importance matrix for layer 0's `ffn_down` of 512 columns, of which `heavy` count a thousandfold.
fn importance(path: &Path, heavy: std::ops::Range<usize>) {
    let observer = Observer::new(vec![vec!["blk.0.ffn_down.weight".into()]], 2);
    let mut x = [1.0; 512];
    x[heavy].fill(1000f32.sqrt());
    observer.add(0, 0, (0, 1), &x);
    observer.add(1, 0, (0, 1), &x);
    observer.add(1, 1, (0, 1), &x);
    observer.save(path, "text", 1, 2).unwrap();
}

#[test]
fn important_columns_lose_less() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("imatrix.gguf");
    // Half of two groups of 16.
    let heavy = 8..24;
    importance(&path, heavy.clone());
    let found = Importance::open(&path).unwrap();
    let columns = found.columns("blk.0.ffn_down.weight").unwrap();
    assert!((columns[8] - 1000.0).abs() < 1e-2 && columns[0] == 1.0);
    let source = file("tiny", "F32");
    let name = "blk.0.ffn_down.weight";
    let lost = |importance: Option<Importance>, to: &str, out: &str| {
        let out = folder.path().join(out);
        let recipe = Recipe {
            importance,
            ..recipe(to)
        };
        quantize(&source, &recipe, &out, 2, &mut |_, _| ()).unwrap();
        let made = values(&Gguf::open(&out).unwrap(), name);
        let rows = made.chunks(512).zip(
            values(&source, name)
                .chunks(512)
                .map(<[f32]>::to_vec)
                .collect::<Vec<_>>(),
        );
        rows.map(|(a, b)| heavy.clone().map(|i| (a[i] - b[i]).powi(2)).sum::<f32>())
            .sum::<f32>()
    };
    for to in FORMATS
        .iter()
        .filter(|f| f.block_len > 1 && f.name != "MXFP4")
    {
        let plain = lost(None, to.name, &format!("{}-plain", to.name));
        let weighted = lost(
            Some(Importance::open(&path).unwrap()),
            to.name,
            &format!("{}-weighted", to.name),
        );
        assert!(
            weighted < 0.95 * plain,
            "{}: {weighted} of {plain}",
            to.name
        );
    }
}

#[test]
fn importance_of_another_model_or_no_importance_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("imatrix.gguf");
    importance(&path, 0..1);
    let shape = Shape {
        feed_forward: 256,
        ..Shape::load("tiny").unwrap()
    };
    let other = Gguf::from_bytes(Path::new("other"), in_memory(&shape, "F32", 1).unwrap()).unwrap();
    let recipe = Recipe {
        importance: Some(Importance::open(&path).unwrap()),
        ..recipe("Q4_0")
    };
    let text = plan(&other, &recipe).unwrap_err().to_string();
    assert!(
        text.contains("512 columns") && text.contains("another model"),
        "{text}"
    );
    let none = folder.path().join("none.gguf");
    let observer = Observer::new(vec![vec!["blk.9.ffn_down.weight".into()]], 2);
    observer.add(0, 0, (0, 1), &[1.0; 512]);
    observer.save(&none, "text", 1, 2).unwrap();
    let recipe = Recipe {
        importance: Some(Importance::open(&none).unwrap()),
        ..recipe
    };
    let text = plan(&other, &recipe).unwrap_err().to_string();
    assert!(text.contains("none of the model's matrices"), "{text}");
    let model = folder.path().join("model.gguf");
    std::fs::write(&model, in_memory(&shape, "Q4_0", 1).unwrap()).unwrap();
    let text = Importance::open(&model).unwrap_err().to_string();
    assert!(text.contains("no importance matrix"), "{text}");
}
