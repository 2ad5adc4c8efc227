//! A tiny vocabulary through the whole tokenizer, cutting by every pre-tokenizer, and broken vocabularies.

use super::*;

const CONTROL: i32 = 3;
const USER_DEFINED: i32 = 4;

/// Ids below 256 are the bytes; then come these tokens.
const MADE: &[&str] = &[
    "he", "ll", "hell", "hello", "Ġw", "Ġwo", "Ġhello", "<|end|>", "<tab>", "<s>",
];
const MERGES: &[&str] = &["h e", "l l", "he ll", "hell o", "Ġ w", "Ġw o", "Ġ hello"];

fn texts() -> Vec<String> {
    let bytes = (0..=u8::MAX).map(|byte| alphabet::char_of(byte).to_string());
    bytes.chain(MADE.iter().map(|&t| t.to_owned())).collect()
}

fn parts<'a>(texts: &'a [String], pre: &'a str) -> TokenizerParts<'a> {
    let mut types = vec![1; texts.len()];
    types[263] = CONTROL;
    types[264] = USER_DEFINED;
    types[265] = CONTROL;
    TokenizerParts {
        model: "gpt2",
        name: None,
        pre: Some(pre),
        tokens: texts.iter().map(|t| t.as_bytes()).collect(),
        types,
        merges: MERGES.iter().map(|m| m.as_bytes()).collect(),
        scores: Vec::new(),
        add_space_prefix: None,
        bos: Some(265),
        eos: Some(263),
        ends: Vec::new(),
        add_bos: Some(true),
        add_eos: None,
    }
}

fn tiny() -> Tokenizer {
    Tokenizer::new(&parts(&texts(), "gpt-2")).unwrap()
}

const PLAIN: EncodeOptions = EncodeOptions {
    add_special: false,
    parse_special: false,
};
const PARSED: EncodeOptions = EncodeOptions {
    add_special: false,
    parse_special: true,
};
const WITH_BOS: EncodeOptions = EncodeOptions {
    add_special: true,
    parse_special: false,
};

#[test]
fn a_tiny_vocabulary_gives_known_ids() {
    let tokenizer = tiny();
    let check = |text: &str, options: EncodeOptions, expect: &[u32]| {
        assert_eq!(tokenizer.encode(text, options), expect, "{text:?}");
    };
    check("", PLAIN, &[]);
    check("", WITH_BOS, &[265]);
    check("hello", PLAIN, &[259]);
    check("hello hello", PLAIN, &[259, 262]);
    check("hello", WITH_BOS, &[265, 259]);
    check("hello wow", PLAIN, &[259, 261, 119]);
    check("hell  wo", PLAIN, &[258, 32, 261]);
    check("é\0", PLAIN, &[0xC3, 0xA9, 0]);
    check("<|end|>", PARSED, &[263]);
    check("<|end|>", PLAIN, &[60, 124, 101, 110, 100, 124, 62]);
    check("he<tab>he", PLAIN, &[256, 264, 256]);
    check("he<s><tab>", PARSED, &[256, 265, 264]);
}

#[test]
fn tokens_decode_to_their_bytes() {
    let tokenizer = tiny();
    assert_eq!(tokenizer.n_vocab(), 266);
    assert_eq!(
        tokenizer
            .decode(&[265, 262, 264, 0xC3, 0xA9, 0xC3])
            .unwrap(),
        "<s> hello<tab>é\u{FFFD}"
    );
    assert_eq!(tokenizer.token_bytes(9), b"\t");
    assert_eq!(tokenizer.token_bytes(266), b"");
    assert_eq!(tokenizer.token_bytes(u32::MAX), b"");
    let error = tokenizer.decode(&[266]).unwrap_err().to_string();
    assert!(
        error.contains("token 266 is outside the vocabulary of 266 tokens"),
        "{error}"
    );
    assert_eq!(
        (tokenizer.bos(), tokenizer.eos(), tokenizer.adds_bos()),
        (Some(265), Some(263), true)
    );
    assert!(tokenizer.is_eog(263) && !tokenizer.is_eog(265));
    assert!(
        tokenizer.is_control(265) && !tokenizer.is_control(264) && !tokenizer.is_control(u32::MAX)
    );
}

/// The words of `text` under the pre-tokenizer `pre`, joined by `¦`.
fn cut(pre: &str, text: &str) -> String {
    let mut words = Vec::new();
    split::words(text, pre::find(Some(pre)).unwrap().passes, |word| {
        words.push(word.to_owned())
    });
    words.join("¦")
}

#[test]
fn each_pre_tokenizer_cuts_in_its_way() {
    let check =
        |pre: &str, text: &str, expect: &str| assert_eq!(cut(pre, text), expect, "{pre}: {text:?}");
    check(
        "gpt-2",
        "I'll say 12345,  ok?\n\n x",
        "I¦'ll¦ say¦ 12345¦,¦ ¦ ok¦?¦\n\n¦ x",
    );
    check("gpt-2", "a  ", "a¦  ");
    check("smollm", "in 2024:\tHE'S", "in¦ ¦2¦0¦2¦4¦:¦\t¦HE¦'¦S");
    check("llama-bpe", "HE'S 12345\n\n  x", "HE¦'S¦ ¦123¦45¦\n\n¦ ¦ x");
    check("qwen2", "a 123!\n", "a¦ ¦1¦2¦3¦!\n");
    check("qwen35", "हिन्दी ok", "हिन्दी¦ ok");
    check("qwen2", "हिन्दी", "ह¦िन¦्द¦ी");
    check("falcon", "a `1234`", "a¦ ¦`¦123¦4¦`");
    check("default", "a+=1234", "a¦+=¦123¦4");
    check("deepseek-llm", "日本 Hi!\r\n12", "日本¦ Hi¦!¦\r¦\n¦12");
    check("deepseek-llm", "a \t b \u{3000}", "a¦ \t¦ b¦ \u{3000}");
    check("deepseek-coder", "x = 42 日", "x¦ = ¦4¦2¦ ¦日");
    check("deepseek-v3", "if(x) 1234日", "if¦(x¦)¦ ¦123¦4¦日");
    check(
        "tekken",
        "HelloWORLDfoo ÉABC 12",
        "Hello¦WORLDfoo¦ É¦ABC¦ ¦1¦2",
    );
    check("gpt-4o", "Don't // 1234", "Don't¦ //¦ ¦123¦4");
    check("bloom", "Hi, you (all)", "Hi¦,¦ you¦ (¦all¦)");
    check("viking", "x1.", "x¦1¦.");
    check("superbpe", "a 1234567 b", "a ¦1¦234¦567¦ b");
    check("seed-coder", "a!\n12", "a¦!¦\n¦1¦2");
    check("ufakzeka", "Ali'den", "Ali¦'den");
    check("laguna", "a \n b", "a¦ ¦\n¦ b");
    check("minicpm5", "a 1234", "a¦ ¦123¦4");
}

#[test]
fn words_together_are_the_text() {
    let text = include_str!("../../tests/data/tokenizer-lines.txt");
    for pre in pre::names() {
        assert_eq!(
            cut(pre, text).replace('¦', ""),
            text.replace('¦', ""),
            "{pre}"
        );
    }
}

#[test]
fn pre_tokenizers_have_one_name_each() {
    let mut names: Vec<&str> = pre::names().collect();
    names.sort_unstable();
    let all = names.len();
    names.dedup();
    assert_eq!(names.len(), all);
    assert!(pre::find(None).is_ok());
}

/// Work that grows with the square of the length would take minutes here.
#[test]
fn long_texts_take_bounded_work() {
    let tokenizer = tiny();
    for unit in ["a", "l", " ", "\n", "1", "<", "É", "<tab>", "\0", "hello "] {
        let text = unit.repeat((1 << 19) / unit.len());
        let ids = tokenizer.encode(&text, PARSED);
        assert_eq!(tokenizer.decode(&ids).unwrap(), text, "{unit:?}");
    }
}

#[test]
fn long_runs_are_cut_in_bounded_work() {
    let len = 1 << 16;
    let texts = [
        "1".repeat(len),
        format!("{}x ", " ".repeat(len)),
        format!("{}\nx ", " ".repeat(len)),
        format!("{}É", "ÉA".repeat(len)),
        "A".repeat(len),
    ];
    for pre in pre::families() {
        for text in &texts {
            let mut bytes = 0;
            let passes = pre::find(Some(pre)).unwrap().passes;
            split::words(text, passes, |word| bytes += word.len());
            assert_eq!(bytes, text.len(), "{pre}");
        }
    }
}

#[test]
fn broken_vocabularies_are_refused() {
    let texts = texts();
    let check = |change: &dyn Fn(&mut TokenizerParts), expect: &str| {
        let mut parts = parts(&texts, "gpt-2");
        change(&mut parts);
        let error = Tokenizer::new(&parts).err().expect(expect).to_string();
        assert!(error.contains(expect), "{error}");
    };
    check(
        &|p| p.model = "bert",
        "model \"bert\" is not supported, expected byte-level BPE",
    );
    check(
        &|p| p.pre = Some("qwen-9"),
        "pre-tokenizer \"qwen-9\" is not known; known are default, gpt-2,",
    );
    check(&|p| p.tokens.clear(), "0 tokens, expected 1 to");
    check(
        &|p| p.tokens = vec![b"x"; MAX_TOKENS + 1],
        "1048577 tokens, expected 1 to 1048576",
    );
    check(
        &|p| p.merges = vec![b"a b"; MAX_MERGES + 1],
        "2097153 merges, expected at most 2097152",
    );
    check(
        &|p| p.tokens[3] = b"hello",
        "tokens 3 and 259 are both \"hello\"",
    );
    check(&|p| p.types.truncate(9), "266 tokens, but 9 token types");
    check(
        &|p| p.merges[1] = b"ab",
        "merge 1 is \"ab\", expected two pieces",
    );
    check(
        &|p| p.merges[1] = b"",
        "merge 1 is \"\", expected two pieces",
    );
    check(&|p| p.bos = Some(266), "names token 266");
    check(&|p| p.eos = Some(u32::MAX), "names token 4294967295");
    check(&|p| p.ends = vec![0, 300], "names token 300");
    check(&|p| p.bos = None, "names no such token");
    check(
        &|p| p.merges[0] = &[b'x'; MAX_TOKEN_BYTES + 1],
        "merge 0 has 16385 bytes",
    );
    check(&|p| p.model = "llama", "0 scores for 266 tokens");
    let spm = |p: &mut TokenizerParts| {
        p.model = "llama";
        p.scores = vec![0.0; 266];
    };
    check(
        &|p| {
            spm(p);
            p.scores[7] = f32::NAN;
        },
        "266 scores for 266 tokens, expected a number",
    );
    check(&|p| spm(p), "no token \"<0x00>\"");
}

#[test]
fn odd_vocabularies_are_taken() {
    let texts = texts();
    let check = |change: &dyn Fn(&mut TokenizerParts), text: &str, expect: &[u32]| {
        let mut parts = parts(&texts, "gpt-2");
        change(&mut parts);
        assert_eq!(
            Tokenizer::new(&parts).unwrap().encode(text, PARSED),
            expect,
            "{text:?}"
        );
    };
    check(&|p| p.merges.clear(), "he", &[104, 101]);
    check(&|p| p.types.clear(), "he<tab>", &[256, 60, 116, 97, 98, 62]);
    check(&|p| p.merges = vec![b" a b", b"a ", b"h e"], "he", &[256]);
    check(&|p| p.tokens[104] = b"\xFF", "hx", &[120]);
    check(
        &|p| p.tokens[104] = "日".as_bytes(),
        "日",
        &[0xE6, 0x97, 0xA5],
    );
    check(
        &|p| (p.tokens[1], p.tokens[2]) = (b"", b""),
        "a\u{1}",
        &[97],
    );
    check(&|p| p.types[264] = 99, "<tab>", &[60, 116, 97, 98, 62]);
}

/// Ids below 256 are the bytes; then come the special tokens, the pieces and their scores.
const PIECES: &[(&str, i32, f32)] = &[
    ("<unk>", 2, 0.0),
    ("<s>", CONTROL, 0.0),
    ("</s>", CONTROL, 0.0),
    ("<tab>", USER_DEFINED, 0.0),
    ("\u{2581}", 1, -9.0),
    ("h", 1, -9.0),
    ("e", 1, -9.0),
    ("l", 1, -9.0),
    ("o", 1, -9.0),
    ("he", 1, -1.0),
    ("el", 1, -0.5),
    ("ll", 1, -2.0),
    ("lo", 1, -2.0),
    ("hell", 1, -3.0),
    ("ello", 1, -1.5),
    ("\u{2581}h", 1, -4.0),
];

fn spm(space_prefix: Option<bool>) -> Tokenizer {
    let mut texts: Vec<String> = (0..=255).map(|byte| format!("<0x{byte:02X}>")).collect();
    texts.extend(PIECES.iter().map(|piece| piece.0.to_owned()));
    let mut types = vec![6; 256];
    types.extend(PIECES.iter().map(|piece| piece.1));
    let mut scores = vec![0.0; 256];
    scores.extend(PIECES.iter().map(|piece| piece.2));
    Tokenizer::new(&TokenizerParts {
        model: "llama",
        tokens: texts.iter().map(|t| t.as_bytes()).collect(),
        types,
        scores,
        bos: Some(257),
        eos: Some(258),
        add_space_prefix: space_prefix,
        ..TokenizerParts::default()
    })
    .unwrap()
}

#[test]
fn pieces_are_merged_by_their_scores() {
    let check = |space_prefix, text: &str, options: EncodeOptions, expect: &[u32]| {
        let tokenizer = spm(space_prefix);
        let ids = tokenizer.encode(text, options);
        assert_eq!(ids, expect, "{text:?}");
        if !options.add_special {
            assert_eq!(tokenizer.decode(&ids).unwrap(), text);
        }
    };
    let (bare, prefixed) = (Some(false), None);
    check(bare, "", WITH_BOS, &[257]);
    // "el" first, then nothing makes more of it; "lo" stands to the right of "ll".
    check(bare, "hel", PLAIN, &[261, 266]);
    check(bare, "llo", PLAIN, &[267, 264]);
    check(bare, "he ll", PLAIN, &[265, 260, 267]);
    check(prefixed, "h", PLAIN, &[271]);
    check(prefixed, " h", PLAIN, &[260, 271]);
    check(prefixed, "h<tab>h", WITH_BOS, &[257, 271, 259, 271]);
    check(bare, "h<tab>h", WITH_BOS, &[257, 261, 259, 261]);
    check(bare, "é\n", PLAIN, &[0xC3, 0xA9, 10]);
    check(bare, "h</s>", PARSED, &[261, 258]);
    let tokenizer = spm(None);
    assert_eq!(tokenizer.token_bytes(271), b" h");
    assert_eq!(tokenizer.token_bytes(0xE9), [0xE9]);
    let text = "hello ".repeat(1 << 16);
    assert_eq!(
        tokenizer.decode(&tokenizer.encode(&text, PLAIN)).unwrap(),
        text
    );
}
