//! Files that are valid GGUF but hold a model that cannot be run: each an error that names the thing, none a panic.

use engine::gguf::Gguf;
use engine::model::Model;
use engine::options::{Affinity, AffinityPolicy};
use engine::pool::Pool;
use engine::synth::{Shape, in_memory};
use engine::{Options, Result};
use std::path::Path;

/// A small valid file, to be spoiled.
struct Bytes(Vec<u8>);

impl Bytes {
    fn of(shape: &str, quant: &str) -> Bytes {
        let shape = Shape::load(shape).expect("built in");
        Bytes(in_memory(&shape, quant, 3).expect("small"))
    }

    /// Where the only occurrence of `text` ends.
    fn end_of(&self, text: &[u8]) -> usize {
        let mut found = (0..=self.0.len() - text.len()).filter(|&i| self.0[i..].starts_with(text));
        let at = found.next().expect("is in the file");
        assert_eq!(found.next(), None, "is in the file once");
        at + text.len()
    }

    /// Where the only key or tensor called `name` ends: in the file its length stands before it.
    fn end_of_name(&self, name: &str) -> usize {
        self.end_of(&[&(name.len() as u64).to_le_bytes(), name.as_bytes()].concat())
    }

    /// Renames a key or tensor.
    fn replace(mut self, from: &str, to: &str) -> Bytes {
        assert_eq!(from.len(), to.len());
        let end = self.end_of_name(from);
        self.0[end - from.len()..end].copy_from_slice(to.as_bytes());
        self
    }

    /// Overwrites the value of a metadata key, whose type must have as many bytes.
    fn set<const N: usize>(mut self, key: &str, value: [u8; N]) -> Bytes {
        let start = self.end_of_name(key) + 4;
        self.0[start..start + N].copy_from_slice(&value);
        self
    }

    fn set_u32(self, key: &str, value: u32) -> Bytes {
        self.set(key, value.to_le_bytes())
    }

    /// Overwrites dimension `i` of a tensor.
    fn set_dim(mut self, tensor: &str, i: usize, value: u64) -> Bytes {
        let start = self.end_of_name(tensor) + 4 + 8 * i;
        self.0[start..start + 8].copy_from_slice(&value.to_le_bytes());
        self
    }

    /// Overwrites the type of a two-dimensional tensor.
    fn set_type(mut self, tensor: &str, id: u32) -> Bytes {
        let start = self.end_of_name(tensor) + 4 + 2 * 8;
        self.0[start..start + 4].copy_from_slice(&id.to_le_bytes());
        self
    }

    fn load(self) -> Result<()> {
        let options = Options {
            threads: 1,
            affinity: Affinity::Policy(AffinityPolicy::None),
            ..Options::default()
        };
        let pool = Pool::new(&options)?;
        let gguf = Gguf::from_bytes(Path::new("m.gguf"), self.0)?;
        Model::from_gguf(gguf, &pool, &options).map(|_| ())
    }

    fn refused(self, parts: &[&str]) {
        let text = match self.load() {
            Ok(()) => panic!("accepted, but expected: {parts:?}"),
            Err(error) => error.to_string(),
        };
        for part in parts {
            assert!(text.contains(part), "{part:?} is not in: {text}");
        }
    }
}

#[test]
fn the_files_are_good_before_they_are_spoiled() {
    for shape in Shape::names().filter(|name| name.starts_with("tiny")) {
        Bytes::of(shape, "Q4_0").load().expect("a good file");
    }
}

#[test]
fn models_that_cannot_be_run_are_refused() {
    let tiny = || Bytes::of("tiny", "Q4_0");
    let fused = || Bytes::of("tiny-phi3", "Q4_0");
    let arch = "general.architecture";
    let mut name = 5u64.to_le_bytes().to_vec();
    name.extend(b"mamba");
    let name: [u8; 13] = name.try_into().expect("13 bytes");
    tiny()
        .set(arch, name)
        .refused(&["architecture \"mamba\" is not supported", "llama, phi3"]);
    tiny()
        .replace(arch, "general.architectura")
        .refused(&["\"general.architecture\" is missing"]);

    for key in [
        "llama.block_count",
        "llama.context_length",
        "llama.embedding_length",
        "llama.feed_forward_length",
        "llama.attention.head_count",
        "llama.attention.layer_norm_rms_epsilon",
    ] {
        let other = key.replace("llama", "Llama");
        tiny()
            .replace(key, &other)
            .refused(&[&format!("\"{key}\" is missing")]);
    }
    let number = |key: &str, value, parts: &[&str]| tiny().set_u32(key, value).refused(parts);
    number(
        "llama.block_count",
        0,
        &["\"llama.block_count\" is 0, expected 1 to"],
    );
    number(
        "llama.block_count",
        u32::MAX,
        &["\"llama.block_count\" is 4294967295"],
    );
    number(
        "llama.block_count",
        3,
        &["\"blk.2.attn_norm.weight\" is missing"],
    );
    number("llama.block_count", 1, &["blk.1."]);
    number(
        "llama.embedding_length",
        512,
        &["dimensions [256", "expected [512"],
    );
    number(
        "llama.embedding_length",
        u32::MAX,
        &["\"llama.embedding_length\""],
    );
    number(
        "llama.feed_forward_length",
        256,
        &["blk.0.ffn_gate.weight", "expected [256, 256]"],
    );
    number(
        "llama.context_length",
        0,
        &["\"llama.context_length\" is 0"],
    );
    number(
        "llama.attention.head_count_kv",
        3,
        &["4 heads", "3 KV heads"],
    );
    number(
        "llama.attention.head_count_kv",
        0,
        &["head_count_kv\" is 0"],
    );
    number("llama.attention.key_length", 65, &["heads of 65 values"]);
    number("llama.attention.key_length", 0, &["key_length\" is 0"]);
    number(
        "llama.rope.dimension_count",
        66,
        &["66 rotated values do not fit heads of 64"],
    );
    number("llama.rope.dimension_count", 63, &["63 rotated values"]);
    number(
        "llama.rope.freq_base",
        f32::NAN.to_bits(),
        &["positive numbers"],
    );
    number("llama.rope.freq_base", 0, &["positive numbers"]);
    number(
        "llama.attention.layer_norm_rms_epsilon",
        f32::INFINITY.to_bits(),
        &["epsilon"],
    );
    fused()
        .set_u32("phi3.rope.scaling.attn_factor", (-1f32).to_bits())
        .refused(&["positive numbers"]);

    let gemma = |key: &str, value, parts: &[&str]| {
        Bytes::of("tiny-gemma3", "Q4_0")
            .set_u32(key, value)
            .refused(parts);
    };
    let zero = 0f32.to_bits();
    gemma("gemma3.rope.freq_base_swa", zero, &["positive numbers"]);
    let kinds = "positive numbers, or 0 for none";
    Bytes::of("tiny-gemma2", "Q4_0")
        .set_u32("gemma2.attn_logit_softcapping", (-1f32).to_bits())
        .refused(&["soft caps", kinds]);
    let granite = || Bytes::of("tiny-granite", "Q4_0");
    granite()
        .set_u32("granite.logit_scale", zero)
        .refused(&["the scales of attention, embeddings, residuals and logits"]);
    granite()
        .replace("granite.residual_scale", "granite.residual_scalE")
        .refused(&["\"granite.residual_scale\" is missing"]);
    for (shape, tensor) in [
        ("tiny-qwen3", "blk.1.attn_k_norm.weight"),
        ("tiny-gemma3", "blk.0.post_ffw_norm.weight"),
    ] {
        let other = tensor.replace("weight", "wrong!");
        Bytes::of(shape, "Q4_0")
            .replace(tensor, &other)
            .refused(&[&format!("\"{tensor}\" is missing")]);
    }

    let experts = || Bytes::of("tiny-qwen3moe", "Q4_0");
    for (key, value, part) in [
        ("expert_used_count", 0, "is 0, expected 1 to 8"),
        ("expert_used_count", 9, "is 9, expected 1 to 8"),
        ("expert_count", 0, "is 0, expected 1 to 1024"),
        ("expert_count", u32::MAX, "expected 1 to 1024"),
        (
            "expert_count",
            7,
            "has dimensions [256, 8], expected [256, 7]",
        ),
        ("expert_feed_forward_length", u32::MAX, "expected 1 to"),
        (
            "expert_feed_forward_length",
            128,
            "has dimensions [256, 160, 8], expected [256, 128, 8]",
        ),
    ] {
        let key = format!("qwen3moe.{key}");
        experts().set_u32(&key, value).refused(&[part]);
        let other = key.replace("expert", "Expert");
        let missing = format!("\"{key}\" is missing");
        experts().replace(&key, &other).refused(&[&missing]);
    }
    for part in ["gate_inp", "gate_exps", "up_exps", "down_exps"] {
        let tensor = format!("blk.1.ffn_{part}.weight");
        let other = tensor.replace("weight", "wrong!");
        let missing = format!("\"{tensor}\" is missing");
        experts().replace(&tensor, &other).refused(&[&missing]);
    }
    experts()
        .set_dim("blk.0.ffn_down_exps.weight", 2, 4)
        .refused(&["has dimensions [160, 256, 4], expected [160, 256, 8]"]);

    for tensor in [
        "blk.1.ffn_down.weight",
        "output_norm.weight",
        "token_embd.weight",
    ] {
        let other = tensor.replace("weight", "wrong!");
        tiny()
            .replace(tensor, &other)
            .refused(&[&format!("\"{tensor}\"")]);
    }
    tiny()
        .set_dim("token_embd.weight", 1, 511)
        .refused(&["vocabulary names 512 tokens", "has 511 rows"]);
    tiny()
        .set_dim("output.weight", 1, 500)
        .refused(&["\"output.weight\" has dimensions [256, 500]"]);
    tiny()
        .set_dim("blk.0.attn_q.weight", 0, 128)
        .refused(&["expected [256, 256]"]);
    // Types of no more bytes than Q4_0, so that the file stays valid.
    for (id, name) in [
        (16, "IQ2_XXS"),
        (18, "IQ3_XXS"),
        (21, "IQ3_S"),
        (34, "TQ1_0"),
        (42, "Q2_0"),
    ] {
        let parts = [
            &format!("is stored as {name}, which is not supported"),
            "Q4_0",
        ];
        tiny().set_type("blk.1.ffn_up.weight", id).refused(&parts);
    }
    fused()
        .set_dim("blk.0.attn_qkv.weight", 1, 256)
        .refused(&["\"blk.0.attn_qkv.weight\" has dimensions [256, 256], expected [256, 512]"]);
    fused()
        .set_dim("blk.0.ffn_up.weight", 1, 512)
        .refused(&["\"blk.0.ffn_up.weight\"", "expected [256, 1024]"]);
}

#[test]
fn damaged_heads_of_whole_models_end_in_ok_or_err() {
    // The part of the file that decides what is loaded: all of the metadata before the vocabulary, and the tensor list.
    let good = Bytes::of("tiny", "Q4_0");
    let vocabulary = good.end_of_name("tokenizer.ggml.tokens");
    let list = good.end_of_name("tokenizer.chat_template");
    let end = good.end_of_name("output.weight");
    let places: Vec<usize> = (0..vocabulary).chain(list..end).collect();
    let mut state = 9u64;
    let mut random = move |n: usize| {
        state = state
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1);
        (state >> 33) as usize % n
    };
    let mut refused = 0;
    for _ in 0..400 {
        let mut bytes = good.0.clone();
        for _ in 0..1 + random(3) {
            bytes[places[random(places.len())]] = [0, 1, 2, 127, 128, 255][random(6)];
        }
        refused += usize::from(Bytes(bytes).load().is_err());
    }
    assert!(
        refused > 100,
        "only {refused} of 400 refused: the damage lost its bite"
    );
}
