//! Any vocabulary and any text: an error, or tokens of the vocabulary that can be decoded.
#![no_main]

use engine::tokenizer::{Decoder, EncodeOptions, Tokenizer, TokenizerParts};
use libfuzzer_sys::fuzz_target;

/// Flags: SentencePiece, a token for every byte, and the options that a file may leave out.
type Input<'a> = (
    [bool; 6],
    Vec<&'a [u8]>,
    Vec<i8>,
    Vec<&'a [u8]>,
    Vec<f32>,
    [Option<u8>; 3],
    &'a str,
    &'a str,
);

/// Pre-tokenizers that are tried: one of each kind of rules.
const PRE: [&str; 6] = ["gpt-2", "llama-bpe", "qwen2", "smollm", "gpt-4o", "default"];

fuzz_target!(|input: Input| {
    let (
        [spm, bytes, spaces, add_bos, add_eos, known],
        tokens,
        types,
        merges,
        scores,
        ids,
        name,
        text,
    ) = input;
    let byte_tokens: Vec<String> = (0..=u8::MAX).map(|byte| byte_token(spm, byte)).collect();
    let mut all: Vec<&[u8]> = Vec::new();
    if bytes {
        all.extend(byte_tokens.iter().map(|token| token.as_bytes()));
    }
    all.extend(tokens);
    let n = all.len();
    let mut scores = scores;
    if known {
        scores.resize(n, 0.0);
    }
    let mut kinds = vec![if spm { 6 } else { 1 }; n - types.len().min(n)];
    kinds.extend(types.iter().take(n).map(|&kind| i32::from(kind)));
    let parts = TokenizerParts {
        model: if spm { "llama" } else { "gpt2" },
        name: Some(name),
        pre: Some(PRE[name.len() % PRE.len()]),
        tokens: all,
        types: kinds,
        merges,
        scores,
        add_space_prefix: known.then_some(spaces),
        bos: ids[0].map(u32::from),
        eos: ids[1].map(u32::from),
        ends: ids[2].map(u32::from).into_iter().collect(),
        add_bos: known.then_some(add_bos),
        add_eos: known.then_some(add_eos),
    };
    let Ok(tokenizer) = Tokenizer::new(&parts) else {
        return;
    };
    for (add_special, parse_special) in [(false, false), (true, true)] {
        let options = EncodeOptions {
            add_special,
            parse_special,
        };
        let ids = tokenizer.encode(text, options);
        assert!(ids.iter().all(|&id| (id as usize) < tokenizer.n_vocab()));
        tokenizer.decode(&ids).expect("ids of the vocabulary");
        let mut decoder = Decoder::new();
        let mut streamed = String::new();
        let mut bytes = Vec::new();
        for &id in &ids {
            streamed += decoder.push(tokenizer.token_bytes(id));
            bytes.extend_from_slice(tokenizer.token_bytes(id));
        }
        streamed += decoder.finish();
        assert_eq!(streamed, String::from_utf8_lossy(&bytes));
    }
});

/// A token for one byte, as vocabularies of the kind write it; of the byte alphabet only what stands for itself.
fn byte_token(spm: bool, byte: u8) -> String {
    match byte {
        _ if spm => format!("<0x{byte:02X}>"),
        b'!'..=b'~' => char::from(byte).into(),
        _ => format!("no byte {byte}"),
    }
}
