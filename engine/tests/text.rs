//! Tokenizer and chat template out of a model file, and the `engine tokenize` command on it.
#![allow(
    clippy::disallowed_methods,
    reason = "the command under test is a child process that ends by itself"
)]

use std::io::Write;
use std::path::Path;
use std::process::{Command, Output, Stdio};

use engine::Result;
use engine::chat::{Chat, ChatTemplate, Message};
use engine::gguf::Gguf;
use engine::synth::{Shape, in_memory};
use engine::tokenizer::{EncodeOptions, Tokenizer};

const LINES: &str = include_str!("data/tokenizer-lines.txt");
const PLAIN: EncodeOptions = EncodeOptions {
    add_special: false,
    parse_special: false,
};
const PARSED: EncodeOptions = EncodeOptions {
    add_special: false,
    parse_special: true,
};

fn tiny_bytes() -> Vec<u8> {
    let shape = Shape::load("tiny").expect("a shape");
    in_memory(&shape, "q4_0", 1).expect("a model")
}

fn tiny() -> Gguf {
    Gguf::from_bytes(Path::new("tiny"), tiny_bytes()).expect("a valid file")
}

#[test]
fn texts_come_back_from_their_tokens() -> Result<()> {
    let tokenizer = Tokenizer::from_gguf(&tiny())?;
    assert!(LINES.lines().count() >= 500);
    for text in LINES.split('\n').chain([LINES]) {
        for options in [PLAIN, PARSED] {
            let ids = tokenizer.encode(text, options);
            assert_eq!(tokenizer.decode(&ids)?, text);
            assert!(ids.iter().all(|&id| (id as usize) < tokenizer.n_vocab()));
        }
    }
    Ok(())
}

#[test]
fn conversations_become_control_tokens_and_text() -> Result<()> {
    let gguf = tiny();
    let tokenizer = Tokenizer::from_gguf(&gguf)?;
    let messages = [Message {
        role: "user".into(),
        content: "Hi".into(),
    }];
    let prompt = ChatTemplate::from_gguf(&gguf, &tokenizer)?.render(Chat {
        messages: &messages,
        add_generation_prompt: true,
        now_unix_s: 0,
    })?;
    assert_eq!(
        prompt,
        "<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\n"
    );
    let controls = |options| {
        let ids = tokenizer.encode(&prompt, options);
        ids.iter().filter(|&&id| tokenizer.is_control(id)).count()
    };
    assert_eq!((controls(PARSED), controls(PLAIN)), (3, 0));
    let end = tokenizer.encode("<|im_end|>", PARSED);
    assert!(matches!(end[..], [id] if tokenizer.is_eog(id)), "{end:?}");
    Ok(())
}

#[test]
fn files_without_a_vocabulary_are_refused() {
    let mut bytes = b"GGUF\x03\0\0\0".to_vec();
    bytes.extend([0; 16]);
    let empty = Gguf::from_bytes(Path::new("empty"), bytes).expect("a valid file");
    let error = Tokenizer::from_gguf(&empty).err().expect("an error");
    assert!(
        error.to_string().contains("tokenizer.ggml.model"),
        "{error}"
    );
}

fn tokenize(model: &Path, args: &[&str], input: &[u8]) -> Output {
    let mut child = Command::new(env!("CARGO_BIN_EXE_engine"))
        .args(["tokenize", "-m"])
        .arg(model)
        .args(args)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("the command starts");
    let mut stdin = child.stdin.take().expect("a pipe");
    stdin.write_all(input).expect("read");
    drop(stdin);
    child.wait_with_output().expect("the command ends")
}

#[test]
fn tokenize_prints_ids_or_pieces() -> Result<()> {
    let folder = tempfile::tempdir().expect("a folder");
    let model = folder.path().join("tiny.gguf");
    std::fs::write(&model, tiny_bytes()).expect("written");
    let tokenizer = Tokenizer::from_gguf(&tiny())?;
    let line = |ids: &[u32]| {
        let ids: Vec<String> = ids.iter().map(u32::to_string).collect();
        ids.join(" ") + "\n"
    };
    let check = |args: &[&str], input: &str, expect: &str| {
        let out = tokenize(&model, args, input.as_bytes());
        assert!(out.status.success(), "{args:?}");
        assert_eq!(String::from_utf8_lossy(&out.stdout), expect, "{args:?}");
    };
    let special = "a<|im_end|>\n";
    check(&["--ids"], LINES, &line(&tokenizer.encode(LINES, PARSED)));
    check(
        &["--ids", "-"],
        special,
        &line(&tokenizer.encode(special, PARSED)),
    );
    check(
        &["--ids", special],
        "",
        &line(&tokenizer.encode(special, PARSED)),
    );
    check(
        &["--ids", "--no-parse-special", special],
        "",
        &line(&tokenizer.encode(special, PLAIN)),
    );
    check(&["--ids"], "", "\n");
    let encoded = |text| line(&tokenizer.encode(text, PARSED));
    check(
        &["--ids", "--lines"],
        "a b\r\n\nc\n",
        &[encoded("a b\r"), encoded(""), encoded("c")].concat(),
    );
    let [id] = tokenizer.encode("\n", PLAIN)[..] else {
        panic!("a line feed is one token")
    };
    check(&["\n"], "", &format!("{id:>7}  \"\\n\"\n"));

    let out = tokenize(&model, &["--ids"], b"ab\xFF");
    let error = String::from_utf8_lossy(&out.stderr).into_owned();
    assert_eq!(out.status.code(), Some(1));
    assert!(error.contains("the text is not UTF-8 at byte 2"), "{error}");
    Ok(())
}
