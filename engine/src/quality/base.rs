//! The predictions that others are held against: of every token 16 bits, in a file.
//!
//! File, little-endian: [`MAGIC`], four numbers of 32 bits (tokens of the vocabulary, windows, tokens of a window, position of
//! the first prediction that counts), the tokens of the windows, and of each prediction its likeliest token, the nats of one
//! step as `f32`, and a code of 16 bits for each token of the vocabulary.

use super::{Figures, Surprise, figures, first_counted, log_sum_exp, no_numbers, predict};
use crate::error::{Error, Result};
use crate::gguf::write::create;
use crate::session::Session;
use std::fs::File;
use std::io::{BufReader, BufWriter, Read, Write};
use std::path::Path;

/// First bytes of a file.
const MAGIC: &[u8; 16] = b"tokenlab base 1\n";
/// Nats below the likeliest token that the least likely ones are taken to lie at most: their probability together is then
/// below 1e-8 in the largest vocabulary.
const RANGE_NATS: f32 = 32.0;

/// A prediction in a quarter of the space: the logarithms of the probabilities in steps of at most half a thousandth of a nat.
#[derive(Debug, Clone, PartialEq)]
pub struct Prediction {
    /// The likeliest token.
    top: u32,
    /// Nats between two codes.
    step: f32,
    /// Of each token of the vocabulary; the likeliest has [`u16::MAX`].
    codes: Vec<u16>,
}

impl Prediction {
    /// The prediction that `logits` make.
    pub fn of(logits: &[f32]) -> Prediction {
        let top = top(logits);
        let max = logits[top as usize];
        let low = logits.iter().copied().fold(max, f32::min);
        let step = (max - low).min(RANGE_NATS) / f32::from(u16::MAX);
        let code = |l: &f32| {
            let below = if step > 0.0 { (max - l) / step } else { 0.0 };
            u16::MAX - below.round().min(f32::from(u16::MAX)) as u16
        };
        Prediction {
            top,
            step,
            codes: logits.iter().map(code).collect(),
        }
    }

    /// Kullback-Leibler divergence of the prediction that `logits` make from this one, in nats.
    pub fn divergence(&self, logits: &[f32]) -> f64 {
        let (mut weights, mut own, mut other) = (0.0, 0.0, 0.0);
        for (&code, &l) in self.codes.iter().zip(logits) {
            let log_p = f32::from(u16::MAX - code) * -self.step;
            let p = f64::from(log_p.exp());
            weights += p;
            own += p * f64::from(log_p);
            other += p * f64::from(l);
        }
        (own - other) / weights - weights.ln() + log_sum_exp(logits)
    }

    /// Whether `logits` find the same token likeliest.
    pub fn agrees(&self, logits: &[f32]) -> bool {
        top(logits) == self.top
    }

    fn write(&self, to: &mut impl Write) -> std::io::Result<()> {
        to.write_all(&self.top.to_le_bytes())?;
        to.write_all(&self.step.to_le_bytes())?;
        let codes = self.codes.iter().flat_map(|code| code.to_le_bytes());
        to.write_all(&codes.collect::<Vec<u8>>())
    }

    fn read(from: &mut impl Read, n_vocab: usize) -> std::io::Result<Prediction> {
        let top = number(from)?;
        let step = f32::from_bits(number(from)?);
        let mut bytes = vec![0; 2 * n_vocab];
        from.read_exact(&mut bytes)?;
        let codes = bytes.as_chunks().0.iter().map(|b| u16::from_le_bytes(*b));
        Ok(Prediction {
            top,
            step,
            codes: codes.collect(),
        })
    }
}

/// The likeliest token; of several the first.
fn top(logits: &[f32]) -> u32 {
    let mut top = 0;
    for (i, &l) in logits.iter().enumerate() {
        if l > logits[top] {
            top = i;
        }
    }
    top as u32
}

/// What stands before the predictions.
fn head(n_vocab: usize, windows: &[Vec<u32>]) -> Vec<u8> {
    let ctx = windows[0].len();
    let numbers = [n_vocab, windows.len(), ctx, first_counted(ctx)].map(|n| n as u32);
    let numbers = numbers.iter().chain(windows.iter().flatten());
    MAGIC
        .iter()
        .copied()
        .chain(numbers.flat_map(|n| n.to_le_bytes()))
        .collect()
}

/// Bytes that the predictions of so many windows take in a file.
pub fn base_bytes(n_vocab: usize, windows: usize, ctx: usize) -> u64 {
    let predictions = windows * (ctx - 1 - first_counted(ctx));
    let head = MAGIC.len() + 4 * (4 + windows * ctx);
    head as u64 + predictions as u64 * (8 + 2 * n_vocab as u64)
}

fn number(from: &mut impl Read) -> std::io::Result<u32> {
    let mut bytes = [0; 4];
    from.read_exact(&mut bytes)?;
    Ok(u32::from_le_bytes(bytes))
}

/// Predicts windows of one length, at least one, and keeps the predictions in a new file.
///
/// # Errors
/// When the file exists or cannot be written, or the windows do not fit the model.
pub fn write_base(session: &mut Session<'_>, windows: &[Vec<u32>], path: &Path) -> Result<()> {
    let (n_vocab, ctx) = (session.n_vocab(), windows[0].len());
    let mut failed = Ok(());
    create(path, base_bytes(n_vocab, windows.len(), ctx), |file| {
        let mut to = BufWriter::with_capacity(1 << 20, file);
        to.write_all(&head(n_vocab, windows))?;
        for window in windows {
            let (mut written, mut finite) = (Ok(()), true);
            let predicted = predict(session, window, first_counted(ctx), |logits, _| {
                finite &= log_sum_exp(logits).is_finite();
                if written.is_ok() {
                    written = Prediction::of(logits).write(&mut to);
                }
            });
            written?;
            failed = predicted.and_then(|()| finite.then_some(()).ok_or_else(no_numbers));
            if failed.is_err() {
                return Err(std::io::Error::other("nothing was predicted"));
            }
        }
        to.flush()
    })
    .or_else(|error| failed.and(Err(error)))
}

/// Predicts the windows that a file of predictions was made of, and holds each prediction against the file's.
///
/// # Errors
/// When the file cannot be read or was made of other windows or another vocabulary, the windows do not fit the model, or its
/// predictions are no numbers.
pub fn against(session: &mut Session<'_>, windows: &[Vec<u32>], path: &Path) -> Result<Figures> {
    let (n_vocab, ctx) = (session.n_vocab(), windows[0].len());
    let io = |source| Error::Io {
        action: "read",
        path: path.to_owned(),
        source,
    };
    let mut from = BufReader::with_capacity(1 << 20, File::open(path).map_err(io)?);
    let expect = head(n_vocab, windows);
    let mut found = vec![0; expect.len()];
    from.read_exact(&mut found).map_err(io)?;
    if found != expect {
        return Err(Error::Input(format!(
            "\"{}\" has predictions of other tokens: is the base a model with another vocabulary?",
            path.display()
        )));
    }
    let (mut surprise, mut klds, mut agreeing) = (Surprise::default(), Vec::new(), 0);
    for window in windows {
        let mut read = Ok(());
        predict(
            session,
            window,
            first_counted(ctx),
            |logits, next| match Prediction::read(&mut from, n_vocab) {
                Ok(base) => {
                    surprise.add(logits, next);
                    klds.push(base.divergence(logits));
                    agreeing += u64::from(base.agrees(logits));
                }
                Err(error) => read = Err(error),
            },
        )?;
        read.map_err(io)?;
    }
    figures(&surprise, klds, agreeing)
}
