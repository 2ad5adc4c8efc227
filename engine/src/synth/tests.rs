//! Written files are read back with the engine's own reader.

use super::*;
use crate::gguf::Gguf;
use crate::gguf::write::{Part, require_space};
use crate::model::Arch;
use std::io::ErrorKind;

const SEED: u64 = 42;

fn written(shape: &str, quant: &str) -> Gguf {
    let bytes = in_memory(&Shape::load(shape).unwrap(), quant, SEED).unwrap();
    Gguf::from_bytes(Path::new(shape), bytes).unwrap()
}

fn values(file: &Gguf, name: &str) -> Vec<f32> {
    let tensor = file.tensor(name).unwrap();
    let mut out = vec![0.0; tensor.n_values() as usize];
    let format = FormatInfo::by_id(tensor.format_id).unwrap();
    format.dequantize(file.data(tensor), &mut out);
    out
}

#[test]
fn every_format_gives_a_readable_file_of_the_announced_size() {
    for format in FORMATS {
        for name in ["tiny", "tiny-phi3"] {
            let file = written(name, format.name);
            let expect = file_bytes(&Shape::load(name).unwrap(), format.name, SEED).unwrap();
            assert_eq!(file.file_bytes(), expect, "{name} {}", format.name);
            let down = file.tensor("blk.1.ffn_down.weight").unwrap();
            assert_eq!(down.format().name, format.name);
            assert_eq!(down.dims, [512, 256]);
            assert_eq!(
                file.tensor("output_norm.weight").unwrap().format().name,
                "F32"
            );
        }
    }
}

#[test]
fn weights_keep_the_scale_of_their_input() {
    for format in FORMATS {
        let file = written("tiny", format.name);
        for (name, fan_in) in [
            ("blk.0.attn_q.weight", 256.0),
            ("blk.1.ffn_down.weight", 512.0),
        ] {
            let values = values(&file, name);
            let n = values.len() as f64;
            let mean = values.iter().map(|&v| f64::from(v)).sum::<f64>() / n;
            let variance = values.iter().map(|&v| f64::from(v).powi(2)).sum::<f64>() / n;
            assert!(mean.abs() < 0.01, "{name} {}: mean {mean}", format.name);
            // What is rounded away is missing; of ternary codes that is a fifth.
            let least = if format.block_bytes * 8 < format.block_len * 3 {
                0.78
            } else {
                0.9
            };
            let gain = variance * fan_in;
            assert!(
                (least..1.1).contains(&gain),
                "{name} {}: {gain}",
                format.name
            );
        }
        let norm = values(&file, "blk.0.attn_norm.weight");
        assert!(norm.iter().all(|v| (0.5..1.5).contains(v)));
    }
}

#[test]
fn rows_and_layers_differ() {
    let file = written("tiny", "Q4_0");
    let q = file.data(file.tensor("blk.0.attn_q.weight").unwrap());
    let rows: std::collections::HashSet<&[u8]> = q.chunks(256 / 32 * 18).collect();
    assert_eq!(rows.len(), 256);
    let other = file.data(file.tensor("blk.1.attn_q.weight").unwrap());
    assert_ne!(q, other);
}

#[test]
fn the_seed_decides_every_byte() {
    let shape = Shape::load("tiny").unwrap();
    let bytes = |seed| in_memory(&shape, "Q4_0", seed).unwrap();
    assert_eq!(bytes(1), bytes(1));
    assert_ne!(bytes(1), bytes(2));
}

#[test]
fn phi3_files_are_fused_and_carry_their_rope_factors() {
    let file = written("tiny-phi3", "F16");
    let dims = |name: &str| file.tensor(name).unwrap().dims.clone();
    assert_eq!(dims("blk.0.attn_qkv.weight"), [256, 256 + 2 * 128]);
    assert_eq!(dims("blk.0.ffn_up.weight"), [256, 2 * 512]);
    assert_eq!(dims("rope_factors_long.weight"), [24]);
    assert!(file.tensor("output.weight").is_none());
    let long = values(&file, "rope_factors_long.weight");
    assert!(
        long.is_sorted() && long[0] == 1.0 && (long[23] - 8.0).abs() < 1e-4,
        "{long:?}"
    );
    assert_eq!(values(&file, "rope_factors_short.weight"), [1.0; 24]);
    assert_eq!(file.require_u32("phi3.rope.dimension_count").unwrap(), 48);
    assert_eq!(
        file.require_u32("phi3.attention.sliding_window").unwrap(),
        1024
    );
    let factor = file.require_f32("phi3.rope.scaling.attn_factor").unwrap();
    assert!((factor - 1.118).abs() < 1e-3, "{factor}");
}

#[test]
fn files_with_experts_have_a_router_and_tensors_of_three_dimensions() {
    let file = written("tiny-qwen3moe", "Q8_0");
    let tensor = |name: &str| {
        let tensor = file.tensor(name).unwrap();
        (tensor.dims.clone(), tensor.format().name)
    };
    assert_eq!(tensor("blk.2.ffn_gate_inp.weight"), (vec![256, 8], "F32"));
    for part in ["gate", "up"] {
        let name = format!("blk.0.ffn_{part}_exps.weight");
        assert_eq!(tensor(&name), (vec![256, 160, 8], "Q8_0"));
    }
    let down = tensor("blk.0.ffn_down_exps.weight");
    assert_eq!(down, (vec![160, 256, 8], "Q8_0"));
    assert!(file.tensor("blk.0.ffn_down.weight").is_none());
    let number = |key: &str| file.require_u32(&format!("qwen3moe.{key}")).unwrap();
    let keys = [
        "expert_count",
        "expert_used_count",
        "expert_feed_forward_length",
    ];
    assert_eq!(keys.map(number), [8, 2, 160]);
    let text = include_str!("shapes/tiny-qwen3moe.toml");
    for (from, to, expect) in [
        (
            "used = 2",
            "used = 9",
            "\"experts.used\" is 9, expected 1 to 8",
        ),
        (
            "count = 8",
            "count = 4000000",
            "\"experts.count\" is 4000000",
        ),
        ("qwen3moe", "qwen3", "\"qwen3\" is none of them"),
    ] {
        let error = Shape::parse("x", &text.replace(from, to)).unwrap_err();
        assert!(error.to_string().contains(expect), "{error}");
    }
}

#[test]
fn rows_that_are_no_whole_blocks_take_a_stand_in() {
    let check = |quant: &str, row_len, expect: &str| {
        let shape = Shape {
            embedding: row_len,
            architecture: Arch::by_name("llama").unwrap(),
            ..Shape::load("tiny").unwrap()
        };
        let bytes = in_memory(&shape, quant, SEED).unwrap();
        let file = Gguf::from_bytes(Path::new("x"), bytes).unwrap();
        assert_eq!(
            file.tensor("blk.0.attn_q.weight").unwrap().format().name,
            expect
        );
        assert!(
            values(&file, "blk.0.attn_q.weight")
                .iter()
                .all(|v| v.is_finite())
        );
    };
    check("Q4_K", 256, "Q4_K");
    check("Q4_K", 96, "Q5_0");
    check("Q5_K", 96, "Q5_1");
    check("Q2_K", 96, "IQ4_NL");
    check("Q6_K", 96, "Q8_0");
    check("Q4_0", 96, "Q4_0");
    check("Q4_0", 100, "F16");
    check("Q4_K", 100, "F16");
    check("F32", 99, "F32");
}

#[test]
fn built_in_shapes_have_the_sizes_of_their_models() {
    let check = |name: &str, quant: &str, gb: f64| {
        let bytes = file_bytes(&Shape::load(name).unwrap(), quant, SEED).unwrap() as f64;
        assert!((bytes / 1e9 - gb).abs() < 0.01 * gb, "{name}: {bytes}");
    };
    check("phi-4", "Q4_0", 8.253);
    check("phi-4-mini", "Q4_0", 2.167);
    check("smollm2-135m", "F16", 0.271);
    for name in Shape::names() {
        assert!(Shape::load(name).is_ok(), "{name}");
    }
}

#[test]
fn bad_shapes_are_refused_with_the_field_and_the_way_out() {
    let tiny = include_str!("shapes/tiny.toml");
    let check = |from: &str, to: &str, expect: &str| {
        assert!(tiny.contains(from), "{from}");
        let text = Shape::parse("s.toml", &tiny.replace(from, to))
            .unwrap_err()
            .to_string();
        assert!(
            text.contains(expect) && !text.contains('\n'),
            "expected {expect:?} in: {text}"
        );
    };
    check(
        "layers = 2",
        "layers = 0",
        "\"layers\" is 0, expected 1 to 1024",
    );
    check("layers = 2", "layers = -1", "line 4, column 10");
    check("layers = 2", "layer = 2", "unknown field `layer`");
    check("layers = 2\n", "", "missing field `layers`");
    check("layers = 2", "layers = \"2\"", "invalid type: string");
    check("layers = 2", "layers = ", "line 4");
    check(
        "kv_heads = 2",
        "kv_heads = 3",
        "4 heads cannot share 3 kv_heads evenly",
    );
    check("kv_heads = 2", "kv_heads = 5", "expected 1 to 4");
    check(
        "vocabulary = 512",
        "vocabulary = 258",
        "expected 259 to 1048576",
    );
    check(
        "vocabulary = 512",
        "vocabulary = 4000000000",
        "expected 259 to 1048576",
    );
    check("embedding = 256", "embedding = 8", "\"embedding\" is 8");
    check("dims = 64", "dims = 66", "\"rope.dims\" is 66");
    check("dims = 64", "dims = 63", "expected an even number");
    check("base = 10000.0", "base = -1.0", "must be positive");
    check("base = 10000.0", "base = nan", "must be positive");
    check(
        "base = 10000.0",
        "base = 1.0\noriginal_context = 8",
        "only known to phi3",
    );
    check(
        "norm_epsilon = 1e-5",
        "norm_epsilon = 0.0",
        "must be positive",
    );
    check(
        "\"llama\"",
        "\"gpt\"",
        "architecture \"gpt\" is unknown: expected one of llama, phi3",
    );
    check("\"gpt-2\"", "\"\"", "must have 1 to 64 bytes");
    check(
        "architecture = \"llama\"",
        "architecture = \"phi3\"\nsliding_window = 5\n[x]",
        "line",
    );
    let text = Shape::load("phi-5").unwrap_err().to_string();
    assert!(
        text.contains("tiny, tiny-phi3") && text.contains(".toml"),
        "{text}"
    );
    assert!(
        Shape::load("none.toml")
            .unwrap_err()
            .to_string()
            .contains("cannot read")
    );
    let wide = tiny
        .replace("\"llama\"", "\"phi3\"")
        .replace("head_dim = 64", "head_dim = 128");
    let text = Shape::parse("s", &wide).unwrap_err().to_string();
    assert!(
        text.contains("phi3 needs it to equal \"embedding\" 256"),
        "{text}"
    );
}

fn refused(quant: &str, out: &Path) -> String {
    let shape = Shape::load("tiny").unwrap();
    synth(&shape, quant, SEED, out, &mut |_, _| Ok(()))
        .unwrap_err()
        .to_string()
}

#[test]
fn files_are_complete_or_absent() {
    let folder = tempfile::tempdir().unwrap();
    let out = folder.path().join("tiny.gguf");
    let part = folder.path().join("tiny.gguf.part");
    let shape = Shape::load("tiny").unwrap();
    std::fs::write(&part, vec![1; 10_000_000]).unwrap(); // left by an interrupted run
    let mut last = (0, 0);
    synth(&shape, "q4_0", SEED, &out, &mut |done, total| {
        assert!(done >= last.0 && done <= total);
        last = (done, total);
        Ok(())
    })
    .unwrap();
    assert_eq!(
        std::fs::read(&out).unwrap(),
        in_memory(&shape, "Q4_0", SEED).unwrap()
    );
    assert_eq!(last, (last.1, std::fs::metadata(&out).unwrap().len()));
    assert!(!part.exists());
    assert!(refused("Q4_0", &out).contains("exists already"));

    let other = folder.path().join("other.gguf");
    let held = Part::create(&other).unwrap();
    assert!(refused("Q4_0", &other).contains("another program is writing it"));
    assert!(held.path.exists());
    drop(held);
    assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 1);

    let stop = &mut |_, _| Err(std::io::Error::other("enough"));
    let stopped = synth(&shape, "Q4_0", SEED, &other, stop).unwrap_err();
    assert!(stopped.to_string().contains("enough"), "{stopped}");
    assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 1);
}

#[test]
fn what_cannot_be_written_is_an_error_with_a_way_out() {
    let folder = tempfile::tempdir().unwrap();
    let out = folder.path().join("x.gguf");
    assert!(refused("Q9", &out).contains("format \"Q9\" is unknown: expected one of F32, F16"));
    let text = refused("Q4_0", &folder.path().join("none/x.gguf"));
    assert!(text.starts_with("cannot write"), "{text}");
    assert!(refused("Q4_0", folder.path()).contains("exists already"));
    let text = require_space(&out, u64::MAX).unwrap_err().to_string();
    assert!(text.contains("MB free: free some space"), "{text}");
    assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 0);
}

#[test]
fn a_failing_disk_leaves_nothing_behind() {
    /// Takes some bytes, then is full.
    struct Full(usize);
    impl Write for Full {
        fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
            self.0 = self
                .0
                .checked_sub(bytes.len())
                .ok_or(ErrorKind::StorageFull)?;
            Ok(bytes.len())
        }
        fn flush(&mut self) -> std::io::Result<()> {
            Ok(())
        }
    }
    let plan = plan::plan(&Shape::load("tiny").unwrap(), format("Q4_0").unwrap(), SEED).unwrap();
    for room in [0, 30_000, 500_000] {
        let error = write(&plan, SEED, Full(room), &mut |_, _| Ok(())).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::StorageFull);
    }
    let folder = tempfile::tempdir().unwrap();
    let part = Part::create(&folder.path().join("x.gguf")).unwrap();
    assert!(part.path.exists());
    let text = part.error(ErrorKind::StorageFull.into()).to_string();
    drop(part);
    assert!(text.contains("x.gguf.part"), "{text}");
    assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 0);
}

/// Everything this module promises of the vocabulary, as a reader sees it.
#[test]
fn vocabularies_match_the_embedding() {
    let file = written("tiny", "Q4_0");
    let tokens = file.strings("tokenizer.ggml.tokens").unwrap().unwrap();
    let rows = file.tensor("token_embd.weight").unwrap().dims[1];
    assert_eq!(tokens.len() as u64, rows);
    let kinds = file.i32s("tokenizer.ggml.token_type").unwrap().unwrap();
    assert_eq!(kinds.len(), tokens.len());
    let eos = file.require_u32("tokenizer.ggml.eos_token_id").unwrap() as usize;
    assert_eq!((tokens[eos], kinds[eos]), (&b"<|endoftext|>"[..], 3));
    assert_eq!(file.require_str("tokenizer.ggml.pre").unwrap(), "gpt-2");
}

#[test]
fn a_fingerprint_tells_files_apart_and_holds_bytes_of_their_encoders() {
    let tiny = Shape::load("tiny").unwrap();
    let of =
        |shape: &str, quant, seed| fingerprint(&Shape::load(shape).unwrap(), quant, seed).unwrap();
    let mut all: Vec<[u8; 32]> = FORMATS.iter().map(|f| of("tiny", f.name, SEED)).collect();
    assert_eq!(all[0], of("tiny", FORMATS[0].name, SEED));
    all.extend([of("tiny-phi3", "F32", SEED), of("tiny", "F32", SEED + 1)]);
    let n = all.len();
    all.sort_unstable();
    all.dedup();
    assert_eq!(all.len(), n);
    for format in FORMATS {
        let plan = plan::plan(&tiny, format, SEED).unwrap();
        let down = plan
            .tensors
            .iter()
            .find(|t| t.name == "blk.1.ffn_down.weight");
        let (down, std) = (down.unwrap(), 1.0 / 512f32.sqrt());
        let seen = pool(down, std, SEED, SEEN_VALUES);
        let file = written("tiny", format.name);
        let data = file.data(file.tensor(&down.name).unwrap());
        let units: HashSet<&[u8]> = seen.bytes().chunks_exact(seen.unit_bytes()).collect();
        let in_file = data.chunks_exact(seen.unit_bytes());
        let share = in_file.filter(|unit| units.contains(unit)).count() as f64
            / (data.len() / seen.unit_bytes()) as f64;
        let expect = SEEN_VALUES as f64 / down.n_values() as f64;
        assert!(
            (0.5..2.0).contains(&(share / expect)),
            "{}: {share}",
            format.name
        );
    }
}
