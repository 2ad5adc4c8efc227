//! With sampling, texts follow the distribution of plain sampling, whatever drafts.

use super::*;

/// Seeds of a test of what is drawn.
const SEEDS: u64 = 150;

/// Tokens drawn in such a test.
const DRAWN: usize = 3;

/// Ways to draw from few tokens, so that each text of three comes up often.
const SAMPLINGS: [SamplerOptions; 2] = [
    SamplerOptions {
        temp: 1.0,
        top_k: 3,
        top_p: 1.0,
        min_p: 0.0,
        seed: 0,
    },
    SamplerOptions {
        temp: 1.4,
        top_k: 6,
        top_p: 0.9,
        min_p: 0.1,
        seed: 0,
    },
];

/// What drafts in a test of what is drawn.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Drafting {
    /// A model in fewer bits with a cache of its own.
    Model,
    /// The target's top bits, from the target's cache.
    TopBits,
    /// What is likeliest, for certain.
    Certain,
    /// The same for the first token, and the model behind it.
    Cascade,
}

/// Every text of so many tokens that may be drawn to follow `context`, with its chance.
fn chances(
    session: &mut Session<'_>,
    context: &[u32],
    tokens: usize,
    sampling: SamplerOptions,
) -> Vec<(Vec<u32>, f64)> {
    if tokens == 0 {
        return vec![(Vec::new(), 1.0)];
    }
    session.truncate(0);
    let logits = session.prefill(context).expect("fits");
    let mut drawn_from = Distribution::default();
    let mut sampler = Sampler::new(sampling).expect("in range");
    sampler
        .distribution(logits, &mut drawn_from)
        .expect("finite");
    let likely = (0..logits.len() as u32).map(|token| (token, drawn_from.chance(token)));
    let likely: Vec<(u32, f32)> = likely.filter(|&(_, chance)| chance > 0.0).collect();
    let mut all = Vec::new();
    for (token, chance) in likely {
        let context = [context, &[token]].concat();
        for (mut text, later) in chances(session, &context, tokens - 1, sampling) {
            text.insert(0, token);
            all.push((text, f64::from(chance) * later));
        }
    }
    all
}

/// A value that chi-square with so many degrees of freedom exceeds once in ten thousand times (Wilson and Hilferty 1931).
fn critical(freedom: f64) -> f64 {
    let spread = 2.0 / (9.0 * freedom);
    freedom * (1.0 - spread + 3.719 * spread.sqrt()).powi(3)
}

/// Chi-square of the texts drawn, with its degrees of freedom; rare ones are put together until five are expected of them.
fn chi_square(drawn: &[Vec<u32>], chances: &[(Vec<u32>, f64)]) -> (f64, f64) {
    let (mut rest, mut sum, mut freedom) = ((0.0, 0.0), 0.0, -1.0);
    let mut add = |count: f64, expected: f64| {
        sum += (count - expected).powi(2) / expected;
        freedom += 1.0;
    };
    for (text, chance) in chances {
        let count = drawn.iter().filter(|one| *one == text).count() as f64;
        let expected = chance * drawn.len() as f64;
        match expected < 5.0 {
            true => rest = (rest.0 + count, rest.1 + expected),
            false => add(count, expected),
        }
        if rest.1 >= 5.0 {
            let (count, expected) = std::mem::take(&mut rest);
            add(count, expected);
        }
    }
    if rest.1 > 0.0 {
        add(rest.0, rest.1);
    }
    (sum, freedom)
}

#[test]
fn sampled_texts_follow_the_distribution_of_plain_sampling() {
    for isa in simd::available() {
        for threads in [1, 2] {
            let options = Options {
                ctx: 16,
                ..options(threads, isa)
            };
            let pool = Pool::new(&options).expect("pool");
            let target = model("Q8_0", &pool, &options);
            let fewer_bits = Options {
                quant: "Q4_0".into(),
                ..options.clone()
            };
            let other = model("Q8_0", &pool, &fewer_bits);
            for sampling in SAMPLINGS {
                follow_the_distribution(&target, &other, &pool, &options, sampling);
            }
        }
    }
}

/// Draws with each way to draft, and holds the texts against their chances.
fn follow_the_distribution(
    target: &Model,
    other: &Model,
    pool: &Pool,
    options: &Options,
    sampling: SamplerOptions,
) {
    let mut session = Session::new(target, pool, options).expect("session");
    let prompt = &prompt()[1..3];
    let chances = chances(&mut session, prompt, DRAWN, sampling);
    let likeliest = chances.iter().max_by(|a, b| a.1.total_cmp(&b.1));
    let (likeliest, _) = likeliest.expect("some may be drawn");
    let certain = [prompt, likeliest].concat();
    let scripted = |tokens: &[u32]| -> Box<dyn Drafter> {
        Box::new(Scripted {
            tokens: tokens.to_vec(),
            wrong: usize::MAX,
        })
    };
    for drafting in [
        Drafting::Model,
        Drafting::TopBits,
        Drafting::Certain,
        Drafting::Cascade,
    ] {
        let mut all = Telemetry::default();
        let mut drawn = Vec::new();
        for seed in 0..SEEDS {
            let sampling = SamplerOptions { seed, ..sampling };
            let model = || -> Box<dyn Drafter> {
                let own = Session::new(other, pool, options).expect("session");
                Box::new(ModelDrafter::new(own, sampling, &[]).expect("fits"))
            };
            let drafters = match drafting {
                Drafting::Model => vec![model()],
                Drafting::TopBits => {
                    let own = SelfDrafter::new(top_bits(target), sampling, &[]);
                    vec![Box::new(own.expect("in range")) as Box<dyn Drafter>]
                }
                Drafting::Certain => vec![scripted(&certain)],
                Drafting::Cascade => vec![scripted(&certain[..prompt.len() + 1]), model()],
            };
            let mut speculator = Speculator::new(drafters, DraftTokens::Fixed(2));
            drawn.push(draw(&mut speculator, &mut session, prompt, sampling));
            all.add(&speculator.take_telemetry());
        }
        let case = format!(
            "{:?} {} {drafting:?} top_k {}",
            options.isa, options.threads, sampling.top_k
        );
        let (found, freedom) = chi_square(&drawn, &chances);
        println!("{case}: chi-square {found:.1} for {freedom}");
        assert!(found < critical(freedom), "{case}: {found} for {freedom}");
        let kept = all.accepted as f64 / all.drafted as f64;
        assert!((0.1..0.95).contains(&kept), "{case}: {kept} kept");
    }
}

/// Tokens drawn to follow `prompt`.
fn draw(
    speculator: &mut Speculator<'_>,
    session: &mut Session<'_>,
    prompt: &[u32],
    sampling: SamplerOptions,
) -> Vec<u32> {
    let mut sampler = Sampler::new(sampling).expect("in range");
    let mut text = prompt.to_vec();
    let (_, read) = prompt.split_last().expect("not empty");
    session.truncate(0);
    session.prefill(read).expect("fits");
    speculator.begin(prompt).expect("fits");
    while text.len() < prompt.len() + DRAWN {
        let choose = |logits: &mut [f32], drafted: Option<(u32, &_)>| match drafted {
            Some((token, draft)) => sampler.verify(logits, token, draft),
            None => sampler.sample(logits),
        };
        let room = prompt.len() + DRAWN - text.len();
        speculator
            .step(session, &mut text, room, choose, |_| false)
            .expect("fits");
    }
    text.split_off(prompt.len())
}
