//! One case: a damaged file opened, loaded, tokenised with and decoded from, on two instruction sets.

use crate::damage::{Random, damage};
use engine::chat::{Chat, ChatTemplate, Message};
use engine::gguf::Gguf;
use engine::model::Model;
use engine::options::{Affinity, AffinityPolicy, Isa, KvType};
use engine::pool::Pool;
use engine::quant::FORMATS;
use engine::sample::{Sampler, SamplerOptions};
use engine::session::Session;
use engine::tokenizer::{EncodeOptions, Tokenizer};
use engine::{Options, Result, simd};
use std::path::Path;

/// What is encoded: words, numbers, white space, several scripts, special tokens of many vocabularies.
const TEXT: &str =
    "The <s>quick</s> fox, 12345 \t\n  <|im_start|>été 日本 \u{1F600}<|endoftext|> <0x41>\u{0}";

/// Tokens read and written.
const PROMPT_TOKENS: usize = 12;
const TOKENS: usize = 3;

/// Where the bytes are read from.
#[derive(Clone, Copy)]
pub(crate) enum Source<'a> {
    Memory,
    /// A file written there.
    File(&'a Path),
}

/// How a case ended.
pub(crate) enum Ending {
    /// In an error, from the part so called.
    Refused(&'static str),
    /// With tokens.
    Ran,
}

/// What is different between cases but the damage.
struct Setting {
    options: Options,
    sampler: SamplerOptions,
}

/// Runs case `number`, a damaged copy of one of the files in `sound`.
///
/// # Panics
/// When it ends in anything but a clear error or the same run on both instruction sets.
pub(crate) fn run(number: u64, sound: &[u8], from: Source<'_>) -> Ending {
    let mut random = Random(number);
    let bytes = damage(sound, &mut random);
    let isas = simd::available();
    let first = setting(isas[0], &mut random);
    let other = isas[random.below(isas.len())];
    let open = || match from {
        Source::Memory => Gguf::from_bytes(Path::new("damaged.gguf"), bytes.clone()),
        Source::File(path) => {
            std::fs::write(path, &bytes).expect("a temporary file");
            Gguf::open(path)
        }
    };
    let found = attempt(open(), &first);
    let again = Setting {
        options: Options {
            isa: other,
            ..first.options
        },
        ..first
    };
    let expect = attempt(open(), &again);
    match (found, expect) {
        (Ok(a), Ok(b)) => {
            assert!(a == b, "{other} gives other logits");
            Ending::Ran
        }
        (Err((part, text)), Err((_, other_text))) => {
            assert_eq!(text, other_text, "{other} gives another error");
            assert!(
                !text.contains('\n') && (20..4000).contains(&text.len()),
                "not clear: {text:?}"
            );
            Ending::Refused(part)
        }
        (a, b) => panic!("{:?}, but on {other} {:?}", a.map(drop), b.map(drop)),
    }
}

fn setting(isa: Isa, random: &mut Random) -> Setting {
    let quant = match random.below(8) {
        0 => random.of(FORMATS).name,
        _ => "native",
    };
    let options = Options {
        threads: 1 + random.below(2),
        affinity: Affinity::Policy(AffinityPolicy::None),
        oversubscribe: true,
        isa,
        batch: *random.of(&[512, 5]),
        kv: *random.of(&[KvType::F16, KvType::Q8_0]),
        quant: quant.into(),
        ..Options::default()
    };
    let sampler = SamplerOptions {
        temp: *random.of(&[0.0, 0.8]),
        ..SamplerOptions::default()
    };
    Setting { options, sampler }
}

/// The bits of the logits and the tokens of a run.
type Found = (Vec<u32>, Vec<u32>);

/// What was found; an error with the part that it came from.
fn attempt(
    opened: Result<Gguf>,
    setting: &Setting,
) -> std::result::Result<Found, (&'static str, String)> {
    let part = |part| move |e: engine::Error| (part, e.to_string());
    let gguf = opened.map_err(part("file"))?;
    let tokenizer = Tokenizer::from_gguf(&gguf).map_err(part("tokenizer"))?;
    let prompt = tokenise(&tokenizer);
    if let Ok(template) = ChatTemplate::from_gguf(&gguf, &tokenizer) {
        let messages = [Message {
            role: "user".into(),
            content: TEXT.into(),
        }];
        // A template that cannot be rendered is no reason not to run.
        let _ = template.render(Chat {
            messages: &messages,
            add_generation_prompt: true,
            now_unix_s: 0,
        });
    }
    let pool = Pool::new(&setting.options).map_err(part("pool"))?;
    let model = Model::from_gguf(gguf, &pool, &setting.options).map_err(part("model"))?;
    generate(&model, &pool, setting, &prompt).map_err(part("run"))
}

/// Encodes and decodes [`TEXT`] in every way, and gives the start of it.
fn tokenise(tokenizer: &Tokenizer) -> Vec<u32> {
    let mut ids = Vec::new();
    for (add_special, parse_special) in [(true, true), (false, false)] {
        let options = EncodeOptions {
            add_special,
            parse_special,
        };
        ids = tokenizer.encode(TEXT, options);
        assert!(ids.iter().all(|&id| (id as usize) < tokenizer.n_vocab()));
        tokenizer.decode(&ids).expect("ids of the vocabulary");
    }
    ids.truncate(PROMPT_TOKENS);
    ids
}

fn generate(model: &Model, pool: &Pool, setting: &Setting, prompt: &[u32]) -> Result<Found> {
    let mut session = Session::new(model, pool, &setting.options)?;
    let mut sampler = Sampler::new(setting.sampler)?;
    // What is no number has many bits.
    let bits = |v: f32| if v.is_nan() { u32::MAX } else { v.to_bits() };
    let mut logits = session.prefill(prompt)?.to_vec();
    let mut all = Vec::new();
    let mut tokens = Vec::new();
    for _ in 0..TOKENS {
        all.extend(logits.iter().copied().map(bits));
        tokens.push(sampler.sample(&logits)?);
        logits = session.decode(tokens[tokens.len() - 1])?.to_vec();
    }
    Ok((all, tokens))
}
