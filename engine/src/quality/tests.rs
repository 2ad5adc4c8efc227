use super::*;
use crate::model::Model;
use crate::options::Options;
use crate::pool::Pool;
use crate::synth::{Shape, synth};
use std::path::{Path, PathBuf};

fn near(found: f64, expect: f64, within: f64) {
    assert!(
        (found - expect).abs() < within,
        "{found}, expected {expect}"
    );
}

#[test]
fn equal_logits_give_the_vocabulary_size_without_error() {
    let mut surprise = Surprise::default();
    (0..10).for_each(|i| surprise.add(&[0.5; 32], i));
    let (ppl, error) = surprise.perplexity();
    near(ppl, 32.0, 1e-9);
    near(error, 0.0, 1e-6);
}

#[test]
fn a_certain_prediction_gives_one() {
    let mut surprise = Surprise::default();
    (0..10).for_each(|_| surprise.add(&[0.0, 100.0], 1));
    near(surprise.perplexity().0, 1.0, 1e-9);
}

#[test]
fn figures_are_those_made_by_hand() {
    // Probabilities 1/2 and 1/8 of the tokens that followed: perplexity 4, logarithms ln 4 -+ ln 2.
    let mut surprise = Surprise::default();
    let logits = |p: [f32; 3]| p.map(f32::ln);
    surprise.add(&logits([0.5, 0.25, 0.25]), 0);
    surprise.add(&logits([0.125, 0.5, 0.375]), 0);
    let klds: Vec<f64> = (0..=100).map(f64::from).rev().collect();
    let found = figures(&surprise, klds, 76).expect("numbers");
    assert_eq!(found.predictions, 2);
    near(found.perplexity, 4.0, 1e-5);
    near(found.perplexity_error, 4.0 * 2f64.ln(), 1e-5);
    near(found.kld_mean, 50.0, 1e-12);
    // The deviation of 0, 1 ... 100 is the root of (101^2 - 1) / 12; of the mean, a tenth of it.
    near(found.kld_mean_error, 850f64.sqrt() / 10.0, 1e-9);
    near(found.kld_p99, 99.0, 1e-12);
    near(found.top1_share, 76.0 / 101.0, 1e-12);
    near(quantile(vec![4.0, 1.0, 2.0], 0.75), 3.0, 1e-12);
    near(quantile(vec![4.0], 0.99), 4.0, 1e-12);
    let damaged = figures(&surprise, vec![f64::NAN], 0).unwrap_err();
    assert!(damaged.to_string().contains("not finite"), "{damaged}");
}

#[test]
fn divergence_is_zero_of_the_same_and_known_of_others() {
    // (1/2, 1/4, 1/4) from (1/4, 1/4, 1/2): 1/2 ln 2 - 1/4 ln 2.
    let (p, q) = ([0.5f32, 0.25, 0.25], [0.25f32, 0.25, 0.5]);
    let base = Prediction::of(&p.map(f32::ln));
    near(base.divergence(&q.map(f32::ln)), 2f64.ln() / 4.0, 1e-4);
    near(base.divergence(&p.map(f32::ln)), 0.0, 1e-7);
    // Adding the same to all logits changes nothing.
    near(base.divergence(&p.map(|p| p.ln() + 7.0)), 0.0, 1e-6);
    assert!(base.agrees(&p) && !base.agrees(&q));
    let flat = Prediction::of(&[3.0; 4]);
    near(flat.divergence(&[1.0; 4]), 0.0, 1e-6);
}

#[test]
fn sixteen_bits_keep_a_prediction() {
    let mut random = crate::rng::Rng::of(5, "logits");
    let mut logits = || -> Vec<f32> {
        (0..5000)
            .map(|_| random.below(60_000) as f32 / 1500.0 - 20.0)
            .collect()
    };
    let (a, b) = (logits(), logits());
    let log_p = |l: &[f32], i: usize| f64::from(l[i]) - log_sum_exp(l);
    let exact = (0..a.len()).map(|i| log_p(&a, i).exp() * (log_p(&a, i) - log_p(&b, i)));
    let exact: f64 = exact.sum();
    let base = Prediction::of(&a);
    near(base.divergence(&b) / exact, 1.0, 1e-3);
    near(base.divergence(&a), 0.0, 1e-7);
}

#[test]
fn windows_are_spread_over_the_text() {
    let all: Vec<Vec<u32>> = (0..10).map(|i| vec![i]).collect();
    let picked = |n| -> Vec<u32> { spread(all.clone(), n).concat() };
    assert_eq!(picked(1), [9]);
    assert_eq!(picked(3), [3, 6, 9]);
    assert_eq!(picked(10), picked(99));
    assert_eq!(picked(10).len(), 10);
}

/// A tiny model in a folder.
fn tiny() -> (tempfile::TempDir, PathBuf) {
    let dir = tempfile::tempdir().expect("folder");
    let path = dir.path().join("tiny.gguf");
    let shape = Shape::load("tiny").expect("a shape");
    synth(&shape, "Q8_0", 1, &path, &mut |_, _| Ok(())).expect("a model");
    (dir, path)
}

/// What `run` makes of a tiny model with its matrices in another format, and of windows of 16 tokens of a text.
fn with<R>(
    path: &Path,
    quant: &str,
    run: impl FnOnce(&mut Session<'_>, &[Vec<u32>]) -> Result<R>,
) -> Result<R> {
    let options = Options {
        threads: 1,
        quant: quant.into(),
        ..Options::default()
    };
    let pool = Pool::new(&options)?;
    let model = Model::load(path, &pool, &options)?;
    let tokenizer = Tokenizer::from_gguf(model.gguf())?;
    let text: String = (0..40).map(|i| format!("word {i} and ")).collect();
    let windows = windows(&tokenizer, &text, 16)?;
    let mut session = Session::new(&model, &pool, &options)?;
    run(&mut session, &windows)
}

#[test]
fn a_model_is_held_against_a_base() {
    let (dir, path) = tiny();
    let base = dir.path().join("base");
    with(&path, "F32", |session, windows| {
        write_base(session, windows, &base)?;
        let bytes = base_bytes(session.n_vocab(), windows.len(), 16);
        assert_eq!(std::fs::metadata(&base).expect("a file").len(), bytes);
        Ok(())
    })
    .expect("a base");
    let figures = |quant| {
        with(&path, quant, |session, windows| {
            against(session, windows, &base)
        })
        .expect("figures")
    };
    let (same, q4, q2) = (figures("F32"), figures("Q4_0"), figures("Q2_K"));
    assert!(
        same.kld_mean.abs() < 1e-7 && same.top1_share == 1.0,
        "{same:?}"
    );
    assert!(
        q4.kld_mean > 1e-5 && q2.kld_mean > q4.kld_mean,
        "{q4:?} {q2:?}"
    );
    assert!(q4.kld_p99 > q4.kld_mean && q4.predictions == same.predictions);
}

#[test]
fn a_base_of_other_tokens_or_a_damaged_one_is_refused() {
    let (dir, path) = tiny();
    let base = dir.path().join("base");
    let refused = |quant: &str, n: usize, expect: &str| {
        let error = with(&path, quant, |session, windows| {
            against(session, &windows[..n], &base)
        });
        let error = error.expect_err("refused").to_string();
        assert!(error.contains(expect), "{error}");
    };
    refused("native", 2, "cannot read");
    with(&path, "native", |session, windows| {
        write_base(session, &windows[..2], &base)?;
        let again = write_base(session, &windows[..2], &base);
        assert!(again.unwrap_err().to_string().contains("exists already"));
        Ok(())
    })
    .expect("a base");
    refused("native", 1, "predictions of other tokens");
    let whole = std::fs::read(&base).expect("reads");
    std::fs::write(&base, &whole[..whole.len() - 1]).expect("writes");
    refused("native", 2, "cannot read");
}
