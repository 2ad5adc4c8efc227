//! Speculative decoding loses nothing, whatever the drafter, the length of its drafts, the threads and the instruction set.

mod drawn;
mod layers;

use engine::gguf::Gguf;
use engine::model::Model;
use engine::options::speculation::{DraftTokens, Method, Speculation};
use engine::options::{Affinity, AffinityPolicy, Isa, KvType, Options};
use engine::pool::Pool;
use engine::sample::{Distribution, Sampler, SamplerOptions, argmax};
use engine::session::{Parts, Session};
use engine::speculate::{
    Draft, Drafter, LayerSearch, ModelDrafter, SelfDrafter, Skipping, Speculator, Telemetry,
    load_draft, speculator,
};
use engine::synth::{Shape, in_memory, synth};
use engine::{Result, check, simd};
use std::path::Path;

/// Tokens generated in a test.
const N_GEN: usize = 60;

fn options(threads: usize, isa: Isa) -> Options {
    Options {
        threads,
        isa,
        batch: 32,
        ctx: 160,
        affinity: Affinity::Policy(AffinityPolicy::None),
        oversubscribe: true,
        ..Options::default()
    }
}

fn drafting(method: Method) -> Speculation {
    Speculation {
        method,
        draft_tokens: DraftTokens::Auto,
        draft_quant: None,
        draft_model: None,
        draft_vocab: 0,
        skip_layers: Vec::new(),
        match_tokens: 1,
    }
}

fn model(quant: &str, pool: &Pool, options: &Options) -> Model {
    model_of("tiny", quant, pool, options)
}

fn model_of(shape: &str, quant: &str, pool: &Pool, options: &Options) -> Model {
    let bytes = in_memory(&Shape::load(shape).expect("built in"), quant, 7).expect("small");
    let gguf = Gguf::from_bytes(Path::new("test.gguf"), bytes).expect("valid");
    Model::from_gguf(gguf, pool, options).expect("model")
}

fn prompt() -> Vec<u32> {
    (0..40).map(|i| (i * i * 31 + 7 * i) % 512).collect()
}

/// What plain greedy decoding gives behind the prompt.
fn plain(model: &Model, pool: &Pool, options: &Options) -> Vec<u32> {
    let mut session = Session::new(model, pool, options).expect("session");
    let mut tokens = prompt();
    let mut next = argmax(session.prefill(&tokens).expect("fits")).expect("finite");
    for _ in 0..N_GEN {
        tokens.push(next);
        next = argmax(session.decode(next).expect("fits")).expect("finite");
    }
    tokens
}

/// What the speculator gives, and what it did.
fn speculative(
    speculator: &mut Speculator<'_>,
    model: &Model,
    pool: &Pool,
    options: &Options,
) -> (Vec<u32>, Telemetry) {
    let mut session = Session::new(model, pool, options).expect("session");
    let mut tokens = prompt();
    speculator.begin(&tokens).expect("fits");
    let first = argmax(session.prefill(&tokens).expect("fits")).expect("finite");
    tokens.push(first);
    let whole = prompt().len() + N_GEN;
    while tokens.len() < whole {
        let room = whole - tokens.len();
        let n = speculator
            .step(
                &mut session,
                &mut tokens,
                room,
                |logits, _| argmax(logits),
                |_| false,
            )
            .expect("fits");
        assert!((1..=room).contains(&n));
        assert_eq!(session.position() + 1, tokens.len());
    }
    (tokens, speculator.take_telemetry())
}

/// Proposes what stands in `tokens` at the place, but every `wrong`-th token is another one.
struct Scripted {
    tokens: Vec<u32>,
    wrong: usize,
}

impl Drafter for Scripted {
    fn propose(
        &mut self,
        _target: &mut Session<'_>,
        context: &[u32],
        max: usize,
        draft: &mut Draft,
    ) -> Result<()> {
        for (i, token) in self.tokens.iter().enumerate().skip(context.len()).take(max) {
            let flip = u32::from(i % self.wrong == 0);
            draft.push_certain(token ^ flip);
        }
        Ok(())
    }
}

#[test]
fn greedy_tokens_are_those_of_plain_decoding() {
    for isa in simd::available() {
        for threads in [1, 2] {
            let options = options(threads, isa);
            let pool = Pool::new(&options).expect("pool");
            let model = model("Q4_0", &pool, &options);
            let expect = plain(&model, &pool, &options);
            for wrong in [1, 2, 5, usize::MAX] {
                for length in [1, 2, 3, 7, 64]
                    .map(DraftTokens::Fixed)
                    .into_iter()
                    .chain([DraftTokens::Auto])
                {
                    let tokens = expect.clone();
                    let drafter = Box::new(Scripted { tokens, wrong });
                    let mut speculator = Speculator::new(vec![drafter], length);
                    let (got, telemetry) = speculative(&mut speculator, &model, &pool, &options);
                    assert_eq!(got, expect, "{isa:?} {threads} {wrong} {length:?}");
                    let all = telemetry.accepted == telemetry.drafted;
                    assert!(wrong != usize::MAX || all, "{length:?} {telemetry:?}");
                    assert!(
                        wrong != 1 || telemetry.accepted == 0,
                        "{length:?} {telemetry:?}"
                    );
                    assert_eq!(telemetry.tokens, telemetry.passes + telemetry.accepted);
                    assert_eq!(telemetry.tokens as usize, N_GEN - 1);
                }
            }
        }
    }
}

/// Proposes `token` more often than it was asked to.
struct TooMuch {
    token: u32,
}

impl Drafter for TooMuch {
    fn propose(
        &mut self,
        _target: &mut Session<'_>,
        _context: &[u32],
        max: usize,
        draft: &mut Draft,
    ) -> Result<()> {
        (0..max + 200).for_each(|_| draft.push_certain(self.token));
        Ok(())
    }
}

#[test]
fn drafts_beyond_all_bounds_do_no_harm() {
    let options = options(2, Isa::Auto);
    let pool = Pool::new(&options).expect("pool");
    let model = model("Q4_0", &pool, &options);
    let expect = plain(&model, &pool, &options);
    for length in [
        DraftTokens::Fixed(1),
        DraftTokens::Fixed(64),
        DraftTokens::Auto,
    ] {
        let drafter = Box::new(TooMuch { token: expect[45] });
        let mut speculator = Speculator::new(vec![drafter], length);
        let (got, telemetry) = speculative(&mut speculator, &model, &pool, &options);
        assert_eq!(got, expect, "{length:?}");
        assert!(telemetry.drafted > 0, "{length:?}");
        if length == DraftTokens::Fixed(1) {
            assert_eq!(telemetry.by_position.len(), 1, "no more than asked for");
        }
    }
    // Of no vocabulary: refused, and nothing was written.
    let mut session = Session::new(&model, &pool, &options).expect("session");
    let mut tokens = prompt();
    session.prefill(&tokens[..tokens.len() - 1]).expect("fits");
    let drafter = Box::new(TooMuch { token: u32::MAX });
    let mut hostile = Speculator::new(vec![drafter], DraftTokens::Fixed(2));
    let choose = |logits: &mut [f32], _: Option<(u32, &Distribution)>| argmax(logits);
    let error = hostile.step(&mut session, &mut tokens, 9, choose, |_| false);
    assert!(error.is_err(), "{error:?}");
    assert_eq!(tokens, prompt());
    let mut alone = Speculator::new(vec![], DraftTokens::Auto);
    let n = alone.step(&mut session, &mut tokens, 9, choose, |_| false);
    assert_eq!(n.expect("as before"), 1);
    assert_eq!(tokens, expect[..tokens.len()]);
}

#[test]
fn a_copy_in_fewer_bits_is_loaded_from_the_same_file() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("target.gguf");
    let tiny = Shape::load("tiny").expect("built in");
    synth(&tiny, "Q8_0", 7, &path, &mut |_, _| Ok(())).expect("a model");
    for quant in ["native", "Q5_0"] {
        let wanted = Speculation {
            draft_quant: Some("Q4_0".into()),
            draft_tokens: DraftTokens::Fixed(3),
            ..drafting(Method::Qcsd)
        };
        let options = Options {
            quant: quant.into(),
            speculation: Some(wanted),
            ..options(2, Isa::Auto)
        };
        let pool = Pool::new(&options).expect("pool");
        let target = Model::load(&path, &pool, &options).expect("a model");
        let sampler = SamplerOptions::default();
        let missing = speculator(&target, None, &pool, &options, sampler, &[]).map(|_| ());
        let error = missing.expect_err("nothing drafts").to_string();
        assert!(error.contains("speculation.draft_quant"), "{error}");
        let copy = load_draft(&target, &pool, &options).expect("fits");
        let copy = copy.expect("a model of its own");
        assert!(
            copy.description().ends_with("Q4_0"),
            "{}",
            copy.description()
        );
        let drafting = speculator(&target, Some(&copy), &pool, &options, sampler, &[]);
        let (got, telemetry) = speculative(&mut drafting.expect("fits"), &target, &pool, &options);
        assert_eq!(got, plain(&target, &pool, &options), "{quant}");
        let (all, kept) = (telemetry.drafted, telemetry.accepted);
        assert!(kept > 0 && kept < all, "{quant}: {kept} of {all}");
    }
}

#[test]
fn mixtures_of_experts_lose_nothing_either() {
    let options = options(2, Isa::Auto);
    let pool = Pool::new(&options).expect("pool");
    let model = model_of("tiny-qwen3moe", "Q8_0", &pool, &options);
    let expect = plain(&model, &pool, &options);
    for (wrong, length) in [(2, 3), (5, 7), (usize::MAX, 64)] {
        let tokens = expect.clone();
        let drafter = Box::new(Scripted { tokens, wrong });
        let mut speculator = Speculator::new(vec![drafter], DraftTokens::Fixed(length));
        let (got, _) = speculative(&mut speculator, &model, &pool, &options);
        assert_eq!(got, expect, "{wrong} {length}");
    }
}

#[test]
fn every_method_gives_the_same_tokens() {
    for isa in simd::available() {
        every_method("tiny", &options(1, isa));
        every_method("tiny", &options(2, isa));
    }
    // Layers that see a window only, and a cache in 8 bits.
    let eight_bits = Options {
        kv: KvType::Q8_0,
        ..options(2, Isa::Auto)
    };
    every_method("tiny-gemma3", &eight_bits);
}

fn every_method(shape: &str, options: &Options) {
    let pool = Pool::new(options).expect("pool");
    let model_of = |quant| model_of(shape, quant, &pool, options);
    let (target, small) = (model_of("Q8_0"), model_of("Q4_0"));
    let expect = plain(&target, &pool, options);
    for (method, quant) in [
        (Method::None, None),
        (Method::Qcsd, Some("Q4_0")),
        (Method::Qcsd, Some("top")),
        (Method::LayerSkip, None),
        (Method::DraftModel, None),
        (Method::PromptLookup, None),
        (Method::Suffix, None),
        (Method::Cascade, Some("Q4_0")),
        (Method::Cascade, Some("top")),
    ] {
        for draft_tokens in [DraftTokens::Fixed(4), DraftTokens::Auto] {
            let wanted = Speculation {
                draft_tokens,
                draft_quant: quant.map(str::to_owned),
                draft_model: (method == Method::DraftModel).then(|| "small.gguf".into()),
                skip_layers: Vec::from_iter((method == Method::LayerSkip).then_some(0)),
                draft_vocab: if quant == Some("top") { 300 } else { 0 },
                ..drafting(method)
            };
            let options = Options {
                speculation: Some(wanted),
                ..options.clone()
            };
            let sampler = SamplerOptions::default();
            let mut speculator =
                speculator(&target, Some(&small), &pool, &options, sampler, &[]).expect("fits");
            let (got, telemetry) = speculative(&mut speculator, &target, &pool, &options);
            let case = format!(
                "{shape} {method:?} {quant:?} {draft_tokens:?} {:?}",
                options.isa
            );
            assert_eq!(got, expect, "{case}");
            if draft_tokens != DraftTokens::Auto {
                let drafts = method != Method::None;
                assert_eq!(telemetry.drafted > 0, drafts, "{case}: {telemetry:?}");
            }
            let guesses = [Method::None, Method::PromptLookup, Method::Suffix];
            let booked = speculator.take_stats().ledger.weight_bytes;
            // A cascade leaves its model alone where the text so far always has a guess, as that of the windows' model does.
            if method != Method::Cascade || shape == "tiny" {
                assert_eq!(booked == 0, guesses.contains(&method), "{case}: {booked}");
            }
        }
    }
}

#[test]
fn drafts_that_have_nothing_to_choose_from_are_refused() {
    let wanted = Speculation {
        draft_quant: Some("top".into()),
        draft_vocab: 2,
        ..drafting(Method::Qcsd)
    };
    let options = Options {
        speculation: Some(wanted),
        ..options(1, Isa::Auto)
    };
    let pool = Pool::new(&options).expect("pool");
    let model = model("Q8_0", &pool, &options);
    let with = |never: &[u32]| {
        let sampler = SamplerOptions::default();
        speculator(&model, None, &pool, &options, sampler, never).map(|_| ())
    };
    with(&[0, 3]).expect("token 1 is left");
    let error = with(&[1, 0]).expect_err("none is left").to_string();
    assert!(error.contains("speculation.draft_vocab"), "{error}");
}

#[test]
fn a_drafting_model_must_hold_what_the_target_holds() {
    let folder = tempfile::tempdir().expect("a folder");
    let [target, draft] = ["target.gguf", "draft.gguf"].map(|name| folder.path().join(name));
    let tiny = Shape::load("tiny").expect("built in");
    let short = Shape {
        context: 64,
        ..tiny.clone()
    };
    synth(&tiny, "Q8_0", 7, &target, &mut |_, _| Ok(())).expect("a model");
    synth(&short, "Q8_0", 7, &draft, &mut |_, _| Ok(())).expect("a model");
    let wanted = Speculation {
        draft_model: Some(draft.clone()),
        ..drafting(Method::DraftModel)
    };
    let with = |ctx| Options {
        ctx,
        speculation: Some(wanted.clone()),
        ..options(1, Isa::Auto)
    };
    check::model(&with(64), &target).expect("both hold as much");
    check::room(&with(0), &target, 64).expect("both hold as much");
    let pool = Pool::new(&with(65)).expect("pool");
    let loaded = model("Q8_0", &pool, &with(65));
    for refused in [
        check::model(&with(65), &target),
        check::room(&with(0), &target, 65),
        load_draft(&loaded, &pool, &with(65)).map(|_| ()),
    ] {
        let error = refused.expect_err("64 places are too few").to_string();
        assert!(error.contains("speculation.draft_model"), "{error}");
        assert!(error.contains("draft.gguf"), "{error}");
    }
}

#[test]
fn a_drafting_model_keeps_its_own_formats() {
    let folder = tempfile::tempdir().expect("a folder");
    let draft = folder.path().join("draft.gguf");
    let tiny = Shape::load("tiny").expect("built in");
    synth(&tiny, "Q8_0", 7, &draft, &mut |_, _| Ok(())).expect("a model");
    let wanted = Speculation {
        draft_model: Some(draft),
        ..drafting(Method::DraftModel)
    };
    let options = Options {
        quant: "Q4_0".into(),
        speculation: Some(wanted.clone()),
        ..options(1, Isa::Auto)
    };
    let pool = Pool::new(&options).expect("pool");
    let target = model("Q5_0", &pool, &options);
    let loaded = load_draft(&target, &pool, &options).expect("fits");
    let formats = loaded.expect("a model of its own").description();
    assert!(formats.ends_with("Q8_0"), "{formats}");
    // What drafts is said once.
    let both = Speculation {
        method: Method::Cascade,
        draft_quant: Some("Q4_0".into()),
        ..wanted
    };
    let error = both.check().expect_err("two of them").to_string();
    assert!(error.contains("not both"), "{error}");
}

#[test]
fn a_model_accepts_all_of_its_own_draft() {
    let options = options(2, Isa::Auto);
    let pool = Pool::new(&options).expect("pool");
    let model = model("Q4_0", &pool, &options);
    for (temp, own_cache) in [(0.0, true), (0.8, true), (0.0, false), (0.8, false)] {
        let sampler_options = SamplerOptions {
            temp,
            ..SamplerOptions::default()
        };
        let session = || Session::new(&model, &pool, &options).expect("session");
        let drafter: Box<dyn Drafter> = match own_cache {
            true => Box::new(ModelDrafter::new(session(), sampler_options, &[]).expect("fits")),
            false => {
                let parts = Parts::all(&model);
                Box::new(SelfDrafter::new(parts, sampler_options, &[]).expect("in range"))
            }
        };
        let mut speculator = Speculator::new(vec![drafter], DraftTokens::Fixed(3));
        let mut session = session();
        let mut tokens = prompt();
        speculator.begin(&tokens).expect("fits");
        let mut sampler = Sampler::new(sampler_options).expect("in range");
        let first = sampler
            .sample(session.prefill(&tokens).expect("fits"))
            .expect("finite");
        tokens.push(first);
        for _ in 0..20 {
            let choose = |logits: &mut [f32], drafted: Option<(u32, &_)>| match drafted {
                Some((token, draft)) => sampler.verify(logits, token, draft),
                None => sampler.sample(logits),
            };
            let n = speculator
                .step(&mut session, &mut tokens, 9, choose, |_| false)
                .expect("fits");
            assert_eq!(n, 4);
        }
        let telemetry = speculator.take_telemetry();
        assert_eq!(telemetry.accepted, telemetry.drafted);
        assert_eq!(telemetry.by_position, [[20, 20]; 3]);
    }
}

#[test]
fn nothing_follows_an_end_of_text() {
    let options = options(1, Isa::Auto);
    let pool = Pool::new(&options).expect("pool");
    let model = model("Q4_0", &pool, &options);
    let tokens = plain(&model, &pool, &options);
    let end = tokens[prompt().len() + 3];
    let first_end = tokens
        .iter()
        .skip(prompt().len() + 1)
        .position(|&t| t == end)
        .expect("there");
    let drafter = Box::new(Scripted {
        tokens: tokens.clone(),
        wrong: usize::MAX,
    });
    let mut speculator = Speculator::new(vec![drafter], DraftTokens::Fixed(16));
    let mut session = Session::new(&model, &pool, &options).expect("session");
    let mut context = tokens[..=prompt().len()].to_vec();
    session.prefill(&prompt()).expect("fits");
    let n = speculator
        .step(
            &mut session,
            &mut context,
            30,
            |logits, _| argmax(logits),
            |token| token == end,
        )
        .expect("fits");
    assert_eq!(n, first_end + 1);
    assert_eq!(context.last(), Some(&end));
    assert_eq!(session.position() + 1, context.len());
}

#[test]
fn a_limited_vocabulary_changes_no_logit_within_and_leaves_the_rest_unread() {
    let options = options(2, Isa::Auto);
    let pool = Pool::new(&options).expect("pool");
    let model = model("Q8_0", &pool, &options);
    let decode = |limit: Option<usize>| {
        let mut session = Session::new(&model, &pool, &options).expect("session");
        let mut parts = Parts::all(&model);
        if let Some(tokens) = limit {
            parts.limit_vocabulary(tokens).expect("within it");
        }
        session.set_parts(parts);
        let logits = session.decode(1).expect("fits").to_vec();
        (logits, session.take_stats().ledger.weight_bytes)
    };
    let (all, all_bytes) = decode(None);
    for tokens in [1, 77, 256, all.len()] {
        let (some, bytes) = decode(Some(tokens));
        assert_eq!(some, all[..tokens], "{tokens}");
        assert_eq!(bytes == all_bytes, tokens == all.len(), "{tokens}");
    }
    let mut parts = Parts::all(&model);
    for tokens in [0, all.len() + 1] {
        let refused = parts.limit_vocabulary(tokens).expect_err("not within it");
        assert!(refused.to_string().contains("draft_vocab"), "{refused}");
    }
}

fn top_bits(model: &Model) -> Parts {
    let mut parts = Parts::all(model);
    parts.read_top_bits(model).expect("eight bits");
    parts
}

#[test]
fn drafts_of_top_bits_are_mostly_kept_and_read_half_of_the_weights() {
    let options = options(2, Isa::Auto);
    let pool = Pool::new(&options).expect("pool");
    let target = model("Q8_0", &pool, &options);
    let bytes = |top: bool| {
        let mut session = Session::new(&target, &pool, &options).expect("session");
        if top {
            session.set_parts(top_bits(&target));
        }
        session.decode(1).expect("fits");
        session.take_stats().ledger.weight_bytes
    };
    assert_eq!(
        bytes(true) * 34,
        bytes(false) * 18,
        "16 of 32 bytes of codes"
    );
    let parts = top_bits(&target);
    let drafter = SelfDrafter::new(parts, SamplerOptions::default(), &[]).expect("in range");
    let mut speculator = Speculator::new(vec![Box::new(drafter)], DraftTokens::Fixed(3));
    let (got, telemetry) = speculative(&mut speculator, &target, &pool, &options);
    assert_eq!(got, plain(&target, &pool, &options));
    assert!(telemetry.accepted * 4 > telemetry.drafted, "{telemetry:?}");
    let four = model("Q4_0", &pool, &options);
    let refused = Parts::all(&four)
        .read_top_bits(&four)
        .expect_err("four bits are all there are");
    assert!(refused.to_string().contains("Q8_0"), "{refused}");
}
