//! The forward pass against a plain one written here, and against itself in every batch size, thread count and
//! instruction set.

use engine::gguf::Gguf;
use engine::kernel::Activation;
use engine::model::{Config, Model, Rope, RopeStyle};
use engine::options::{Affinity, AffinityPolicy, Isa, Kernel, KvType, SideBySide};
use engine::pool::Pool;
use engine::quant::FormatInfo;
use engine::session::Session;
use engine::simd;
use engine::synth::{Shape, in_memory};
use engine::{Error, Options};
use std::path::Path;

fn gguf(shape: &str, quant: &str) -> Gguf {
    let shape = Shape::load(shape).expect("built in");
    let bytes = in_memory(&shape, quant, 7).expect("small");
    Gguf::from_bytes(Path::new("test.gguf"), bytes).expect("valid")
}

fn options(threads: usize, isa: Isa, batch: usize) -> Options {
    Options {
        threads,
        isa,
        batch,
        affinity: Affinity::Policy(AffinityPolicy::None),
        oversubscribe: true,
        ..Options::default()
    }
}

fn prompt(len: usize) -> Vec<u32> {
    (0..len as u32)
        .map(|i| (i * i * 31 + 7 * i) % 512)
        .collect()
}

/// Logits after each token from `first` on.
fn logits(
    shape: &str,
    quant: &str,
    options: &Options,
    tokens: &[u32],
    first: usize,
) -> Vec<Vec<f32>> {
    let pool = Pool::new(options).expect("pool");
    let model = Model::from_gguf(gguf(shape, quant), &pool, options).expect("model");
    let mut session = Session::new(&model, &pool, options).expect("session");
    let mut all = Vec::new();
    session
        .score(tokens, first, |_, l| all.push(l.to_vec()))
        .expect("fits");
    // A prompt, of which only the last token goes through everything, ends the same way.
    session.truncate(0);
    let last = session.prefill(tokens).expect("fits").to_vec();
    assert!(
        bits(&[last]) == bits(&all[all.len() - 1..]),
        "{shape} {quant} {:?}",
        options.isa
    );
    all
}

fn bits(logits: &[Vec<f32>]) -> Vec<u32> {
    logits.iter().flatten().map(|x| x.to_bits()).collect()
}

#[test]
fn results_do_not_depend_on_batch_threads_or_isa() {
    // Long enough for a whole chunk of attention and a part of a second.
    let tokens = prompt(270);
    let first = tokens.len() - 3;
    for (shape, quant) in [
        ("tiny", "Q4_1"),
        ("tiny", "Q6_K"),
        ("tiny-phi3", "Q4_0"),
        ("tiny-phi3", "Q5_K"),
        ("tiny-llama3", "Q5_0"),
        ("tiny-qwen2", "Q8_0"),
        ("tiny-qwen3", "F16"),
        ("tiny-gemma", "Q4_K"),
        ("tiny-gemma2", "Q5_0"),
        ("tiny-gemma3", "Q4_0"),
        ("tiny-smollm3", "BF16"),
        ("tiny-granite", "Q4_1"),
        ("tiny-qwen3moe", "Q4_0"),
        ("tiny-qwen3moe", "F16"),
    ] {
        let expect = logits(shape, quant, &options(1, Isa::Auto, 512), &tokens, first);
        assert!(
            expect.iter().flatten().all(|l| l.is_finite()),
            "{shape} {quant}"
        );
        let mut cases = vec![
            (1, Isa::Auto, 1),
            (2, Isa::Auto, 1),
            (3, Isa::Auto, 7),
            (2, Isa::Auto, 4),
            (5, Isa::Auto, 512),
        ];
        cases.extend(simd::available().into_iter().map(|isa| (2, isa, 64)));
        for (threads, isa, batch) in cases {
            let got = logits(shape, quant, &options(threads, isa, batch), &tokens, first);
            assert!(
                bits(&got) == bits(&expect),
                "{shape} {quant}: {threads} threads, {isa:?}, batch {batch}"
            );
        }
    }
}

#[test]
fn deep_attention_does_not_depend_on_batch_threads_or_isa() {
    // Two whole chunks of attention and a part of a third; the tiles of the batches begin within each.
    let tokens = prompt(600);
    for (shape, quant, first) in [
        ("tiny", "Q4_0", 500),
        ("tiny-phi3", "Q8_0", 510),
        ("tiny-gemma2", "Q4_0", 510),
        ("tiny-gemma3", "Q8_0", 540),
    ] {
        let kv = if shape == "tiny" {
            KvType::F16
        } else {
            KvType::Q8_0
        };
        let options = |threads, isa, batch| Options {
            kv,
            ..options(threads, isa, batch)
        };
        let expect = logits(shape, quant, &options(1, Isa::Auto, 1), &tokens, first);
        let cases = [(1, Isa::Auto, 512), (2, Isa::Auto, 3), (3, Isa::Auto, 37)]
            .into_iter()
            .chain(simd::available().into_iter().map(|isa| (2, isa, 600)));
        for (threads, isa, batch) in cases {
            let got = logits(shape, quant, &options(threads, isa, batch), &tokens, first);
            assert!(
                bits(&got) == bits(&expect),
                "{shape} {quant}: {threads} threads, {isa:?}, batch {batch}"
            );
        }
    }
}

#[test]
fn who_multiplies_which_panel_and_what_is_fetched_ahead_change_nothing() {
    let tokens = prompt(24);
    let expect = logits("tiny", "Q4_K", &options(1, Isa::Auto, 1), &tokens, 0);
    for (tail_percent, prefetch, side_by_side) in [
        (0, 0, SideBySide::On),
        (50, 64, SideBySide::Off),
        (100, 1 << 20, SideBySide::On),
    ] {
        for batch in [1, 3, 6, 24] {
            let options = Options {
                tail_percent,
                side_by_side,
                prefetch_bytes: prefetch,
                head_prefetch_bytes: prefetch,
                barrier_spins: 0,
                wait_prefetch_bytes: prefetch,
                ..options(3, Isa::Auto, batch)
            };
            let got = logits("tiny", "Q4_K", &options, &tokens, 0);
            assert!(bits(&got) == bits(&expect), "{options:?}");
        }
    }
}

#[test]
fn only_the_experts_that_a_token_goes_through_are_read() {
    let options = options(3, Isa::Auto, 64);
    let pool = Pool::new(&options).expect("pool");
    let file = gguf("tiny-qwen3moe", "Q8_0");
    let sum = |part: &str| -> u64 {
        let of = file.tensors().iter().filter(|t| t.name.contains(part));
        of.map(|t| t.bytes).sum()
    };
    let (all, experts) = (sum("") - sum("_norm") - sum("token_embd"), sum("_exps"));
    let head = sum("output.weight");
    let model = Model::from_gguf(file, &pool, &options).expect("model");
    // The router of 8 experts takes a whole panel in each of 3 layers.
    let padding = 3 * 8 * 256 * 4;
    assert_eq!(model.weight_bytes(), all + padding);
    assert_eq!(model.read_bytes(), all + padding - experts * 6 / 8);
    let mut session = Session::new(&model, &pool, &options).expect("session");
    let mut read = |tokens: &[u32]| {
        session.prefill(tokens).expect("fits");
        session.take_stats().ledger.weight_bytes
    };
    assert_eq!(read(&[3]), model.read_bytes());
    // A token alone in the last layer; before it every expert that any token goes through is read once.
    let (last, one) = (experts / 3 * 6 / 8, experts / 3 / 8);
    let spared = model.weight_bytes() - last - read(&prompt(64));
    assert!(spared.is_multiple_of(one) && spared <= 2 * one, "{spared}");
    // Two tokens share some experts or none.
    let two = read(&[1, 2]) - head;
    let dense = all - experts + padding - head;
    let layer = experts / 3;
    let (least, most) = (2 * layer * 2 / 8, 2 * layer * 4 / 8);
    let alone = layer * 2 / 8;
    assert!((dense + alone + least..=dense + alone + most).contains(&two));
}

#[test]
fn looking_products_up_changes_nothing() {
    let tokens = prompt(40);
    for (shape, quant) in [
        ("tiny", "Q4_0"),
        ("tiny", "Q4_1"),
        ("tiny-phi3", "Q4_K"),
        ("tiny", "Q3_K"),
        ("tiny-phi3", "Q2_K"),
        ("tiny", "TQ2_0"),
        ("tiny-qwen3moe", "Q4_0"),
    ] {
        let expect = logits(shape, quant, &options(1, Isa::Auto, 1), &tokens, 0);
        for isa in simd::available() {
            for (threads, batch) in [(1, 1), (3, 1), (2, 3), (2, 6), (2, 40)] {
                let options = Options {
                    kernel: Kernel::Lut,
                    ..options(threads, isa, batch)
                };
                let got = logits(shape, quant, &options, &tokens, 0);
                assert!(bits(&got) == bits(&expect), "{shape} {quant} {options:?}");
            }
        }
    }
}

#[test]
fn what_was_looked_up_is_booked() {
    let ledger = |kernel, quant: &str, tokens: &[u32]| {
        let options = Options {
            kernel,
            ..options(2, Isa::Auto, 64)
        };
        let pool = Pool::new(&options).expect("pool");
        let model = Model::from_gguf(gguf("tiny", quant), &pool, &options)?;
        let mut session = Session::new(&model, &pool, &options)?;
        session.prefill(tokens)?;
        Ok::<_, Error>(session.take_stats().ledger)
    };
    let (one, many) = (prompt(1), prompt(5));
    let by_tables = ledger(Kernel::Lut, "Q4_0", &one).expect("runs");
    let by_products = ledger(Kernel::Dot, "Q4_0", &one).expect("runs");
    assert_eq!(by_products.lookup_bytes, 0);
    assert_eq!(by_tables.weight_bytes, by_products.weight_bytes);
    assert!(by_tables.activation_bytes > by_products.activation_bytes);
    assert_eq!(by_tables.lookup_bytes, by_tables.weight_bytes);
    let prompt = ledger(Kernel::Lut, "Q4_0", &many).expect("runs");
    // Only what the last token goes through alone, behind the last layer's keys and values.
    assert!((1..by_tables.lookup_bytes).contains(&prompt.lookup_bytes));
    let why = ledger(Kernel::Lut, "Q8_0", &one)
        .expect_err("eight bits")
        .to_string();
    assert!(
        why.contains("option \"kernel\": no matrix of the model can be looked up, all are Q8_0"),
        "{why}"
    );
}

#[test]
fn truncate_then_append_equals_append() {
    for isa in simd::available() {
        for threads in [1, 2] {
            // The layers of the second one see windows of 48 positions.
            for shape in ["tiny", "tiny-gemma3"] {
                let options = options(threads, isa, 16);
                let pool = Pool::new(&options).expect("pool");
                let model = Model::from_gguf(gguf(shape, "Q8_0"), &pool, &options).expect("model");
                for kv in [KvType::F16, KvType::Q8_0] {
                    let options = Options {
                        kv,
                        ..options.clone()
                    };
                    let session = || Session::new(&model, &pool, &options).expect("session");
                    let case = format!("{shape} {kv:?} {isa:?} {threads}");
                    truncated(session(), session(), &case);
                }
            }
        }
    }
}

/// Appends to one session, and to the other with tokens between that it is to forget; all logits are the same bits.
fn truncated(mut plain: Session<'_>, mut session: Session<'_>, case: &str) {
    let tokens = prompt(60);
    let mut expect = Vec::new();
    plain
        .score(&tokens, 0, |_, logits| expect.push(logits.to_vec()))
        .expect("fits");
    let other = |token: &u32| (token * 17 + 3) % 512;
    // Within a panel of 16 positions, at its end, beyond it and beyond a window; the last time back to near the start.
    for (kept, forgotten) in [(0, 20), (16, 1), (25, 20), (47, 2), (10, 45)] {
        let position = session.position().min(kept);
        session.truncate(position);
        if position < kept {
            session.prefill(&tokens[position..kept]).expect("fits");
        }
        let forgotten: Vec<u32> = tokens[kept..].iter().take(forgotten).map(other).collect();
        session.prefill(&forgotten).expect("fits");
        session.truncate(kept);
        let logits = session.decode(tokens[kept]).expect("fits").to_vec();
        assert!(
            bits(&[logits]) == bits(&expect[kept..=kept]),
            "{case}: token {kept}"
        );
    }
    let position = session.position();
    let mut rest = Vec::new();
    session
        .score(&tokens[position..], 0, |_, logits| {
            rest.push(logits.to_vec())
        })
        .expect("fits");
    assert!(bits(&rest) == bits(&expect[position..]), "{case}: the rest");
}

#[test]
fn a_tail_longer_than_the_part_is_refused() {
    let options = Options {
        tail_percent: 101,
        ..options(1, Isa::Auto, 1)
    };
    let pool = Pool::new(&options).expect("pool");
    let model = Model::from_gguf(gguf("tiny", "Q8_0"), &pool, &options).expect("model");
    let error = Session::new(&model, &pool, &options)
        .err()
        .expect("refused");
    assert!(error.to_string().contains("tail_percent"), "{error}");
}

#[test]
fn what_does_not_fit_is_refused_and_changes_nothing() {
    let options = Options {
        ctx: 8,
        ..options(1, Isa::Auto, 4)
    };
    let pool = Pool::new(&options).expect("pool");
    let model = Model::from_gguf(gguf("tiny", "F16"), &pool, &options).expect("model");
    let mut session = Session::new(&model, &pool, &options).expect("session");
    session.prefill(&[1, 2, 3]).expect("fits");
    let refused = |session: &mut Session<'_>, tokens: &[u32], expect: &str| {
        let error = session.prefill(tokens).expect_err("refused").to_string();
        assert!(error.contains(expect), "{error}");
        assert_eq!(session.position(), 3);
    };
    refused(&mut session, &[], "no tokens");
    refused(
        &mut session,
        &[1, 512],
        "token 512 is not in the vocabulary of 512",
    );
    refused(
        &mut session,
        &[1; 6],
        "9 tokens do not fit the context of 8",
    );
    session.prefill(&[1; 5]).expect("exactly full");
    assert!(matches!(
        session.decode(1),
        Err(Error::ContextFull {
            needed: 9,
            capacity: 8,
            ..
        })
    ));
    for (ctx, batch) in [(5000, 4), (8, 0), (8, 1 << 20)] {
        let options = Options {
            ctx,
            batch,
            ..options.clone()
        };
        assert!(matches!(
            Session::new(&model, &pool, &options),
            Err(Error::Option { .. })
        ));
    }
}

#[test]
fn a_cache_in_8_bits_is_smaller_counted_and_close() {
    let tokens = prompt(300);
    let run = |kv| {
        let options = Options {
            kv,
            ..options(2, Isa::Auto, 64)
        };
        let pool = Pool::new(&options).expect("pool");
        let model = Model::from_gguf(gguf("tiny", "F32"), &pool, &options).expect("model");
        let mut session = Session::new(&model, &pool, &options).expect("session");
        session.prefill(&tokens).expect("fits");
        session.take_stats();
        let logits = session.decode(1).expect("fits").to_vec();
        (session.kv_bytes(), session.take_stats().ledger, logits)
    };
    let (f16, q8) = (run(KvType::F16), run(KvType::Q8_0));
    // 2 layers, 2 heads of 64, keys and values: 301 positions are read, keys and codes in panels of 16.
    assert_eq!(f16.0, 2 * 2 * 2 * 1024 * 128);
    assert_eq!(f16.1.kv_read_bytes, 2 * 2 * (304 + 301) * 128);
    assert_eq!(f16.1.kv_write_bytes, 2 * 2 * 2 * 128);
    for (f16, q8) in [
        (f16.0, q8.0),
        (2 * 2 * 2 * 304 * 128, q8.1.kv_read_bytes),
        (f16.1.kv_write_bytes, q8.1.kv_write_bytes),
    ] {
        assert_eq!(q8 * 64, f16 * 34);
    }
    let scale = f16.2.iter().fold(0.0, |m: f32, l| m.max(l.abs()));
    let differences = f16.2.iter().zip(&q8.2).map(|(a, b)| (a - b).abs());
    let worst = differences.fold(0.0, f32::max);
    assert!(worst > 0.0 && worst < 0.03 * scale, "{worst} of {scale}");
}

#[test]
fn a_cache_that_does_not_fit_the_heads_is_refused() {
    let mut shape = Shape::load("tiny").expect("built in");
    shape.head_dim = 80;
    let bytes = in_memory(&shape, "F16", 7).expect("small");
    let gguf = Gguf::from_bytes(Path::new("test.gguf"), bytes).expect("valid");
    let options = Options {
        kv: KvType::Q8_0,
        ..options(1, Isa::Auto, 1)
    };
    let pool = Pool::new(&options).expect("pool");
    let model = Model::from_gguf(gguf, &pool, &options).expect("model");
    let error = Session::new(&model, &pool, &options)
        .err()
        .expect("refused");
    let text = error.to_string();
    for part in ["option \"kv\"", "multiple of 32", "have 80"] {
        assert!(text.contains(part), "{text}");
    }
}

/// A tensor decoded, `[rows][cols]` in one vector.
fn tensor(gguf: &Gguf, name: &str) -> Option<Vec<f32>> {
    let t = gguf.tensor(name)?;
    let mut out = vec![0.0; t.n_values() as usize];
    FormatInfo::by_id(t.format_id)
        .expect("supported")
        .dequantize(gguf.data(t), &mut out);
    Some(out)
}

fn mat_vec(w: &[f32], x: &[f64]) -> Vec<f64> {
    w.chunks_exact(x.len())
        .map(|row| row.iter().zip(x).map(|(w, x)| f64::from(*w) * x).sum())
        .collect()
}

fn norm(x: &[f64], weight: &[f32]) -> Vec<f64> {
    let rms = (x.iter().map(|v| v * v).sum::<f64>() / x.len() as f64 + 1e-5).sqrt();
    x.iter()
        .zip(weight)
        .map(|(v, w)| v / rms * f64::from(*w))
        .collect()
}

/// `x`, with a norm behind it if there is one.
fn norm_if(x: Vec<f64>, weight: Option<Vec<f32>>) -> Vec<f64> {
    match weight {
        Some(weight) => norm(&x, &weight),
        None => x,
    }
}

/// Rotates one head.
fn rotate(head: &mut [f64], position: usize, rope: &Rope, factors: &[f32]) {
    for i in 0..rope.dims / 2 {
        let factor = factors.get(i).map_or(1.0, |f| f64::from(*f)) * f64::from(rope.linear_factor);
        let frequency = f64::from(rope.base).powf(-2.0 * i as f64 / rope.dims as f64);
        let angle = position as f64 * frequency / factor;
        let (a, b) = match rope.style {
            RopeStyle::Halves => (i, i + rope.dims / 2),
            RopeStyle::Adjacent => (2 * i, 2 * i + 1),
        };
        let magnitude = f64::from(rope.magnitude);
        let (x, y) = (head[a] * magnitude, head[b] * magnitude);
        head[a] = x * angle.cos() - y * angle.sin();
        head[b] = x * angle.sin() + y * angle.cos();
    }
}

fn soft_cap(x: f64, cap: f32) -> f64 {
    match f64::from(cap) {
        0.0 => x,
        cap => cap * (x / cap).tanh(),
    }
}

fn activate(x: f64, activation: Activation) -> f64 {
    match activation {
        Activation::Silu => x / (1.0 + (-x).exp()),
        Activation::Gelu => {
            let inner = (2.0 / std::f64::consts::PI).sqrt() * (x + 0.044715 * x.powi(3));
            0.5 * x * (1.0 + inner.tanh())
        }
    }
}

/// Attention of one query over the keys and values it sees, `[dim]` each.
fn attend(q: &[f64], keys: &[&[f64]], values: &[&[f64]], cap: f32) -> Vec<f64> {
    let score = |k: &&[f64]| soft_cap(q.iter().zip(*k).map(|(a, b)| a * b).sum(), cap);
    let weights: Vec<f64> = keys.iter().map(|k| f64::exp(score(k))).collect();
    let total: f64 = weights.iter().sum();
    let value = |d: usize| -> f64 { weights.iter().zip(values).map(|(w, v)| w * v[d]).sum() };
    (0..q.len()).map(|d| value(d) / total).collect()
}

/// The weights of a layer's feed-forward part: gate and up projection, and down, of each expert one behind the other.
struct FeedForward {
    router: Option<Vec<f32>>,
    gate_up: [Vec<f32>; 2],
    down: Vec<f32>,
}

impl FeedForward {
    fn of(gguf: &Gguf, l: usize, c: &Config) -> FeedForward {
        let get = |part: &str| tensor(gguf, &format!("blk.{l}.ffn_{part}.weight"));
        let any = |part: &str| get(part).or_else(|| get(&format!("{part}_exps")));
        let up = any("up").expect("there");
        let gate_up = match any("gate") {
            Some(gate) => [gate, up],
            None => [
                up[..c.n_ff * c.n_embd].to_vec(),
                up[c.n_ff * c.n_embd..].to_vec(),
            ],
        };
        FeedForward {
            router: get("gate_inp"),
            gate_up,
            down: any("down").expect("there"),
        }
    }

    fn apply(&self, c: &Config, x: &[f64]) -> Vec<f64> {
        let size = c.n_ff * c.n_embd;
        let one = |e: usize| {
            let [gate, up] = [0, 1].map(|i| mat_vec(&self.gate_up[i][e * size..][..size], x));
            let gate = gate.iter().map(|&g| activate(g, c.arch.activation));
            let act: Vec<f64> = gate.zip(up).map(|(g, u)| g * u).collect();
            mat_vec(&self.down[e * size..][..size], &act)
        };
        let (Some(router), Some(experts)) = (&self.router, c.experts) else {
            return one(0);
        };
        // Softmax over all experts; the probabilities of those used, made to sum to 1.
        let scores = mat_vec(router, x);
        let all: f64 = scores.iter().map(|s| s.exp()).sum();
        let mut ranked: Vec<(f64, usize)> = scores.iter().map(|s| s.exp() / all).zip(0..).collect();
        ranked.sort_by(|a, b| b.0.total_cmp(&a.0));
        ranked.truncate(experts.used);
        let used: f64 = ranked.iter().map(|(p, _)| p).sum();
        let mut sum = vec![0.0; c.n_embd];
        for (p, e) in ranked {
            let out = one(e);
            sum.iter_mut()
                .zip(out)
                .for_each(|(s, o)| *s += p / used * o);
        }
        sum
    }
}

/// The logits after the last token, by the textbook, in double precision.
fn plain(gguf: &Gguf, tokens: &[u32]) -> Vec<f64> {
    let c = Config::from_gguf(gguf).expect("a model");
    let dim = c.head_dim;
    let get = |name: &str| tensor(gguf, name);
    let need = |name: &str| get(name).unwrap_or_else(|| panic!("{name}"));
    let factors = get("rope_factors_long.weight")
        .or_else(|| get("rope_freqs.weight"))
        .unwrap_or_default();
    let embeddings = need("token_embd.weight");
    let scaled = |x: &f32| f64::from(*x) * f64::from(c.embedding_scale);
    let embed = |&t: &u32| {
        embeddings[t as usize * c.n_embd..][..c.n_embd]
            .iter()
            .map(scaled)
            .collect()
    };
    let mut xs: Vec<Vec<f64>> = tokens.iter().map(embed).collect();
    for (l, layer) in c.layers.iter().enumerate() {
        let name = |part: &str| format!("blk.{l}.{part}");
        let weight = |part: &str| name(&format!("{part}.weight"));
        let qkv = get(&weight("attn_qkv")).unwrap_or_else(|| {
            ["attn_q", "attn_k", "attn_v"]
                .map(|p| need(&weight(p)))
                .concat()
        });
        let biases = ["attn_q.bias", "attn_k.bias", "attn_v.bias"];
        let biases = biases.map(|p| get(&name(p)).unwrap_or_default()).concat();
        let feed_forward = FeedForward::of(gguf, l, &c);
        let (mut ks, mut vs): (Vec<Vec<f64>>, Vec<Vec<f64>>) = (Vec::new(), Vec::new());
        for (p, x) in xs.iter_mut().enumerate() {
            let mut qk = mat_vec(&qkv, &norm(x, &need(&weight("attn_norm"))));
            qk.iter_mut()
                .zip(&biases)
                .for_each(|(y, b)| *y += f64::from(*b));
            vs.push(qk.split_off(c.q_dim() + c.kv_dim()));
            for (h, head) in qk.chunks_exact_mut(dim).enumerate() {
                let part = if h < c.n_heads {
                    "attn_q_norm"
                } else {
                    "attn_k_norm"
                };
                head.copy_from_slice(&norm_if(head.to_vec(), get(&weight(part))));
                if let Some(i) = layer.rope {
                    rotate(head, p, &c.ropes[i], if i == 0 { &factors } else { &[] });
                }
            }
            ks.push(qk.split_off(c.q_dim()));
            qk.iter_mut()
                .for_each(|q| *q *= f64::from(c.attention_scale));
            let seen = (p + 1).saturating_sub(layer.window)..p + 1;
            let mut attn = Vec::new();
            for (h, q) in qk.chunks_exact(dim).enumerate() {
                let at = h / c.group() * dim;
                let [keys, values] = [&ks, &vs].map(|all| {
                    all[seen.clone()]
                        .iter()
                        .map(|x| &x[at..at + dim])
                        .collect::<Vec<_>>()
                });
                attn.extend(attend(q, &keys, &values, c.attention_cap));
            }
            let scale = f64::from(c.residual_scale);
            let add =
                |x: &mut [f64], y: Vec<f64>| x.iter_mut().zip(y).for_each(|(x, y)| *x += scale * y);
            let out = mat_vec(&need(&weight("attn_output")), &attn);
            add(x, norm_if(out, get(&weight("post_attention_norm"))));
            let out = feed_forward.apply(&c, &norm(x, &need(&weight("ffn_norm"))));
            add(x, norm_if(out, get(&weight("post_ffw_norm"))));
        }
    }
    let head = get("output.weight").unwrap_or(embeddings);
    let last = norm(xs.last().expect("tokens"), &need("output_norm.weight"));
    let logit = |x: f64| soft_cap(x * f64::from(c.logit_scale), c.logit_cap);
    mat_vec(&head, &last).into_iter().map(logit).collect()
}

#[test]
fn the_pass_computes_what_the_textbook_says() {
    // More than any window.
    let tokens = prompt(60);
    for shape in Shape::names().filter(|name| name.starts_with("tiny")) {
        let expect = plain(&gguf(shape, "F32"), &tokens);
        let got = logits(
            shape,
            "F32",
            &options(2, Isa::Auto, 16),
            &tokens,
            tokens.len() - 1,
        );
        let scale = expect.iter().fold(0.0, |m: f64, v| m.max(v.abs()));
        for (i, (g, e)) in got[0].iter().zip(&expect).enumerate() {
            // The cache holds half precision: 11 bits.
            assert!(
                (f64::from(*g) - e).abs() < 2e-3 * scale,
                "{shape} logit {i}: {g} for {e}"
            );
        }
    }
}
