//! `llama-cli`: in new builds a chat front end that says two rates; in old ones what `llama-completion` is today.

use super::llama_completion::{LlamaCompletion, vary};
use super::{Adapter, Reading, Workload, Written, shown};
use crate::record::{Figures, ReferenceCommand, ReferencePlan};
use crate::repeat;

pub(super) struct LlamaCli;

/// Whether a build's `llama-cli` is the chat front end, which refuses `-no-cnv`.
fn is_chat(help: &str) -> bool {
    help.contains("--single-turn") && !help.contains("-no-cnv")
}

impl Adapter for LlamaCli {
    fn commands(&self, work: &Workload<'_>) -> Result<Vec<ReferenceCommand>, String> {
        if !is_chat(work.help) {
            return LlamaCompletion.commands(work);
        }
        let line = repeat::chat(work.case, &work.facts);
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
        command: &ReferenceCommand,
        written: &Written<'_>,
        reading: &mut Reading,
    ) -> Result<(), String> {
        let Some(line) = written.stdout.lines().rfind(|l| l.contains("[ Prompt:")) else {
            return LlamaCompletion
                .read(plan, command, written, reading)
                .map_err(|e| {
                    let found = shown(written.stdout.lines().last().unwrap_or(""));
                    format!(
                        "expected \"[ Prompt: x t/s | Generation: y t/s ]\", found {found}; {e}"
                    )
                });
        };
        let rate = |name: &str| -> Option<f64> {
            let rest = line.split_once(name)?.1;
            rest.split_whitespace().next()?.parse().ok()
        };
        reading.reported.prefill_tok_s = rate("Prompt:");
        reading.reported.decode_tok_s = rate("Generation:");
        match reading.reported.decode_tok_s {
            Some(_) => Ok(()),
            None => Err(format!("expected two rates, found {}", shown(line))),
        }
    }
}
