//! `llama-completion`: one-shot generation, whose text can be compared. Older builds call it `llama-cli`.

use super::{Adapter, Reading, Workload, Written, shown};
use crate::record::{Figures, ReferenceCommand, ReferencePlan};
use crate::repeat::{self, Line, Variant};

pub(super) struct LlamaCompletion;

/// What timing lines begin with, from new builds to old ones.
const TIMING_LINES: [&str; 3] = [
    "common_perf_print:",
    "llama_perf_context_print:",
    "llama_print_timings:",
];

impl Adapter for LlamaCompletion {
    fn commands(&self, work: &Workload<'_>) -> Result<Vec<ReferenceCommand>, String> {
        let line = repeat::completion(work.case, &work.facts);
        let mut line = line.ok_or("it takes a text, and the prompt is token ids")?;
        vary(&mut line, work.variant);
        Ok(vec![ReferenceCommand {
            argv: line.argv(work.program),
            figures: Figures::default(),
        }])
    }

    fn read(
        &self,
        plan: &ReferencePlan,
        _command: &ReferenceCommand,
        written: &Written<'_>,
        reading: &mut Reading,
    ) -> Result<(), String> {
        let lines = written.stderr.lines().chain(written.stdout.lines());
        let timings = lines.filter_map(|line| {
            let (_, rest) = TIMING_LINES.iter().find_map(|name| line.split_once(name))?;
            timing(rest)
        });
        for timing in timings {
            let rate = f64::from(timing.count) / (timing.ms / 1e3);
            match timing.name {
                "prompt eval time" if timing.count != plan.n_prompt => {
                    return Err(format!(
                        "it read {} prompt tokens, expected {}: does it tokenize the prompt in another way?",
                        timing.count, plan.n_prompt
                    ));
                }
                "prompt eval time" => reading.reported.prefill_tok_s = Some(rate),
                "eval time" => reading.reported.decode_tok_s = Some(rate),
                "load time" => reading.load_ms = Some(timing.ms),
                _ => {}
            }
        }
        let known = reading.reported;
        if known.prefill_tok_s.is_none() && known.decode_tok_s.is_none() {
            let found = shown(written.stderr.lines().last().unwrap_or(""));
            let names = TIMING_LINES.join(" or ");
            return Err(format!("expected timing lines ({names}), found {found}"));
        }
        reading.text = written.stdout.to_owned();
        Ok(())
    }
}

/// Flags of a variant, for programs that generate.
pub(super) fn vary(line: &mut Line, variant: Variant) {
    if let Some(flash_attn) = variant.flash_attn {
        line.arg("-fa", flash_attn.word(false));
    }
    if variant.repack == Some(false) {
        line.flag("--no-repack");
    }
}

/// `name = 12.3 ms / 4 tokens (...`
struct Timing<'a> {
    name: &'a str,
    ms: f64,
    count: u32,
}

fn timing(rest: &str) -> Option<Timing<'_>> {
    let (name, figures) = rest.split_once('=')?;
    let (ms, count) = match figures.split_once('/') {
        Some((ms, count)) => (ms, count.split_whitespace().next()?.parse().ok()?),
        None => (figures, 0),
    };
    let ms = ms.trim().strip_suffix("ms")?.trim().parse().ok()?;
    Some(Timing {
        name: name.trim(),
        ms,
        count,
    })
}
