//! Conversations of several turns give what a fresh read of the whole conversation gives.

use engine::chat::{Chat, ChatTemplate};
use engine::conversation::{Conversation, End};
use engine::gguf::Gguf;
use engine::model::Model;
use engine::options::{Affinity, AffinityPolicy};
use engine::pool::Pool;
use engine::sample::argmax;
use engine::session::Session;
use engine::synth::{Shape, in_memory};
use engine::tokenizer::Tokenizer;
use engine::{Error, Options};
use std::path::Path;

fn options(ctx: usize) -> Options {
    Options {
        threads: 1,
        ctx,
        affinity: Affinity::Policy(AffinityPolicy::None),
        ..Options::default()
    }
}

/// Calls `with` with a tiny model in a context of `ctx` tokens.
fn with_model(ctx: usize, with: impl FnOnce(&Model, &Pool, &Tokenizer, &ChatTemplate)) {
    let shape = Shape::load("tiny").expect("built in");
    let bytes = in_memory(&shape, "Q8_0", 5).expect("small");
    let gguf = Gguf::from_bytes(Path::new("tiny.gguf"), bytes).expect("valid");
    let options = options(ctx);
    let pool = Pool::new(&options).expect("a pool");
    let model = Model::from_gguf(gguf, &pool, &options).expect("a model");
    let tokenizer = Tokenizer::from_gguf(model.gguf()).expect("a vocabulary");
    let template = ChatTemplate::from_gguf(model.gguf(), &tokenizer).expect("a template");
    with(&model, &pool, &tokenizer, &template);
}

/// Says `text` and hears `n` tokens of the answer at most; the tokens read, and those answered.
fn turn(
    conversation: &mut Conversation<'_>,
    session: &mut Session<'_>,
    text: &str,
    n: usize,
) -> (usize, Vec<u32>) {
    let asked = conversation.ask(session, text.into(), 0).expect("fits");
    let mut tokens = Vec::new();
    let mut pieces = 0;
    let choose = |logits: &mut [f32]| {
        tokens.push(argmax(logits)?);
        Ok(tokens[tokens.len() - 1])
    };
    let hear = |_: &str| {
        pieces += 1;
        Ok(pieces < n)
    };
    conversation.answer(session, choose, hear).expect("answers");
    (asked.new, tokens)
}

#[test]
fn a_kept_conversation_goes_on_as_a_fresh_one_would() {
    with_model(512, |model, pool, tokenizer, template| {
        let mut session = Session::new(model, pool, &options(512)).expect("a session");
        let mut kept = Conversation::new(tokenizer, template, Some("Be brief.".into()));
        for (i, text) in ["Where is it?", "And why?", "Say it again, please."]
            .iter()
            .enumerate()
        {
            let (new, found) = turn(&mut kept, &mut session, text, 8);
            let said = kept.messages().len() - 1;
            let chat = Chat {
                messages: &kept.messages()[..said],
                add_generation_prompt: true,
                now_unix_s: 0,
            };
            let all = template.encode(tokenizer, chat).expect("renders");
            // The first turn reads all, and later ones the last question and at most the answer before.
            let bound = if i == 0 {
                all.len()
            } else {
                all.len() / (i + 1) + 20
            };
            assert!(new <= bound, "turn {i} read {new} of {}", all.len());
            let mut fresh = Session::new(model, pool, &options(512)).expect("a session");
            let mut logits = fresh.prefill(&all).expect("fits").to_vec();
            for (at, &token) in found.iter().enumerate() {
                assert_eq!(
                    argmax(&logits).expect("numbers"),
                    token,
                    "turn {i}, token {at}"
                );
                logits = fresh.decode(token).expect("fits").to_vec();
            }
        }
        assert_eq!(
            kept.messages().len(),
            7,
            "system, and three times question and answer"
        );
    });
}

#[test]
fn what_does_not_fit_is_refused_and_another_message_may_follow() {
    with_model(96, |model, pool, tokenizer, template| {
        let mut session = Session::new(model, pool, &options(96)).expect("a session");
        let mut talk = Conversation::new(tokenizer, template, None);
        let long = "far too long ".repeat(40);
        let refused = talk.ask(&mut session, long, 0);
        assert!(matches!(
            refused,
            Err(Error::ContextFull { capacity: 96, .. })
        ));
        assert_eq!(talk.messages(), []);
        let (_, tokens) = turn(&mut talk, &mut session, "short", 3);
        assert_eq!(tokens.len(), 3);
        // An answer without end fills the context, and stays part of the conversation.
        talk.ask(&mut session, "on".into(), 0).expect("fits");
        let mut said = String::new();
        let ended = talk.answer(
            &mut session,
            // A letter: never an end.
            |_| Ok(70),
            |piece| {
                said += piece;
                Ok(true)
            },
        );
        assert!(matches!(ended, Err(Error::ContextFull { needed: 97, .. })));
        let last = talk.messages().last().expect("an answer");
        assert_eq!((last.role.as_str(), &last.content), ("assistant", &said));
        assert!(talk.ask(&mut session, "more".into(), 0).is_err());
    });
}

#[test]
fn a_token_that_ends_the_answer_is_not_part_of_it() {
    with_model(128, |model, pool, tokenizer, template| {
        let mut session = Session::new(model, pool, &options(128)).expect("a session");
        let mut talk = Conversation::new(tokenizer, template, None);
        talk.ask(&mut session, "Hi".into(), 0).expect("fits");
        let end = tokenizer.eos().expect("an end");
        let mut tokens = vec![end, 71, 70];
        let ended = talk.answer(
            &mut session,
            |_| Ok(tokens.pop().expect("one")),
            |_| Ok(true),
        );
        assert_eq!(ended.expect("ends"), End::Said);
        let expect = tokenizer.decode(&[70, 71]).expect("known");
        assert_eq!(talk.messages()[1].content, expect);
    });
}
