//! `llama-bench`: llama.cpp's own benchmark. It warms up by itself and reports nanoseconds.

use super::{Adapter, Reading, Workload, Written, shown};
use crate::record::{Figures, ReferenceCommand, ReferencePlan};
use crate::repeat;
use serde::Deserialize;

pub(super) struct LlamaBench;

/// One line of `-o jsonl`; the fields that are read.
#[derive(Deserialize)]
struct Test {
    n_prompt: u32,
    n_gen: u32,
    #[serde(default)]
    n_threads: Option<u32>,
    samples_ns: Vec<u64>,
}

impl Adapter for LlamaBench {
    /// The prompt and the writing, each measured once.
    fn commands(&self, work: &Workload<'_>) -> Result<Vec<ReferenceCommand>, String> {
        let n_prompt = work.facts.n_prompt.ok_or("the prompt cannot be counted")?;
        let commands = repeat::bench_tests(n_prompt, work.case.n_gen).map(|test| {
            let mut line = repeat::bench(work.case, &work.facts, test, 1, "jsonl");
            if let Some(flash_attn) = work.variant.flash_attn {
                // Builds before October 2025 know 0 and 1 alone.
                line.arg("-fa", flash_attn.word(!work.help.contains("on|off")));
            }
            if let Some(repack) = work.variant.repack {
                if !work.help.contains("--repack") {
                    return Err("this build of llama-bench has no --repack".to_owned());
                }
                line.arg("--repack", u8::from(repack));
            }
            Ok(ReferenceCommand {
                argv: line.argv(work.program),
                figures: Figures::default(),
            })
        });
        commands.collect()
    }

    fn read(
        &self,
        _plan: &ReferencePlan,
        _command: &ReferenceCommand,
        written: &Written<'_>,
        reading: &mut Reading,
    ) -> Result<(), String> {
        let mut lines = written.stdout.lines().filter(|l| l.starts_with('{'));
        let wrong = || {
            let found = shown(written.stdout);
            format!("expected a line of llama-bench's JSON, found {found}: is it llama-bench?")
        };
        let test: Test = serde_json::from_str(lines.next().ok_or_else(wrong)?)
            .map_err(|e| format!("{}: {e}", wrong()))?;
        let rate = |tokens: u32| match test.samples_ns[..] {
            [ns] if ns > 0 && tokens > 0 => Ok(Some(f64::from(tokens) / (ns as f64 / 1e9))),
            _ => Err(format!(
                "expected one time of llama-bench, found {:?}",
                test.samples_ns
            )),
        };
        match test.n_gen {
            0 => reading.reported.prefill_tok_s = rate(test.n_prompt)?,
            n => reading.reported.decode_tok_s = rate(n)?,
        }
        reading.threads = test.n_threads;
        Ok(())
    }
}
