//! Command lines that repeat a case 1:1 with llama.cpp: the same file, threads, CPUs, context, prompt, number of tokens.

use crate::record::RepeatCommand;
use crate::scenario::{Case, FlashAttn, PromptSpec};
use engine::options::Isa;
use std::path::Path;

/// What a command line needs to know beyond the case.
#[derive(Debug, Clone, Copy)]
pub struct Facts<'a> {
    /// The model file.
    pub model: &'a Path,
    /// The CPU of each thread, as the engine will plan it.
    pub cpus: &'a [Option<usize>],
    /// Tokens of the prompt, if they have been counted.
    pub n_prompt: Option<u32>,
    /// Measured rounds.
    pub rounds: u32,
}

/// A way to run llama.cpp; what is `None` stays at its default.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Variant {
    /// Whether weights are repacked for the instruction set.
    pub repack: Option<bool>,
    /// Whether attention runs as one kernel.
    pub flash_attn: Option<FlashAttn>,
}

/// The command lines that repeat a case.
pub fn commands(case: &Case, facts: &Facts<'_>) -> Vec<RepeatCommand> {
    let mut all = Vec::new();
    all.extend(completion(case, facts));
    if let Some(n_prompt) = facts.n_prompt {
        all.extend(
            bench_tests(n_prompt, case.n_gen)
                .map(|test| bench(case, facts, test, facts.rounds, "md")),
        );
    }
    all.into_iter().map(Line::finish).collect()
}

/// `llama-completion`: the same text to the same number of tokens. It takes no token ids.
pub(crate) fn completion(case: &Case, facts: &Facts<'_>) -> Option<Line> {
    let mut line = generation("llama-completion", case, facts)?;
    for flag in ["-no-cnv", "--simple-io", "--no-display-prompt", "--perf"] {
        line.flag(flag);
    }
    Some(line)
}

/// The chat front end: the same text inside the model's chat template, one turn.
pub(crate) fn chat(case: &Case, facts: &Facts<'_>) -> Option<Line> {
    let mut line = generation("llama-cli", case, facts)?;
    for flag in ["--single-turn", "--simple-io", "--show-timings"] {
        line.flag(flag);
    }
    line.notes
        .push("it puts the text into the model's chat template");
    Some(line)
}

/// What all programs that generate from a text are told.
fn generation(tool: &'static str, case: &Case, facts: &Facts<'_>) -> Option<Line> {
    let mut line = Line::new(tool, facts.model, notes(case));
    match &case.prompt {
        // Without --no-escape, backslashes of the prompt would be taken for escapes.
        PromptSpec::Text(text) => line.arg("-p", text).flag("--no-escape"),
        // -f would drop a newline at the end.
        PromptSpec::File(path, _) => line.arg("-bf", path.display()),
        PromptSpec::Tokens(_) => return None,
    };
    line.arg("-n", case.n_gen).arg("-c", case.engine.ctx);
    line.threads(facts.cpus, true);
    line.arg("-b", case.engine.batch.max(32))
        .arg("-ub", case.engine.batch);
    line.arg("-ctk", case.engine.kv).arg("-ctv", case.engine.kv);
    line.arg("--temp", case.sampler.temp);
    line.arg("-s", case.sampler.seed);
    if case.sampler.temp > 0.0 {
        let s = &case.sampler;
        line.arg("--top-k", s.top_k)
            .arg("--top-p", s.top_p)
            .arg("--min-p", s.min_p);
        line.notes
            .push("its random numbers are its own, so the tokens differ");
    }
    if case.ignore_eos {
        line.flag("--ignore-eos");
    }
    if case.engine.ctx == 0 {
        line.notes
            .push("-c 0 is the model's own context; the engine takes at most 4096 of it");
    }
    Some(line)
}

/// The tests of `llama-bench` that do the work of a case, as [`bench`] takes them: the prompt alone, then as many tokens after
/// one of that length; of a single token, which counts for the prompt, the prompt alone.
pub(crate) fn bench_tests(n_prompt: u32, n_gen: u32) -> impl Iterator<Item = (u32, u32, u32)> {
    let writing = (n_gen > 1).then_some((0, n_gen, n_prompt));
    [(n_prompt, 0, 0)].into_iter().chain(writing)
}

/// `llama-bench` on one test: tokens of the prompt, tokens to generate, and how many stand before them.
pub(crate) fn bench(
    case: &Case,
    facts: &Facts<'_>,
    (prompt, n_gen, depth): (u32, u32, u32),
    repetitions: u32,
    output: &str,
) -> Line {
    let mut line = Line::new("llama-bench", facts.model, notes(case));
    let what = match n_gen {
        0 => "reading the prompt",
        _ => "writing after it",
    };
    line.notes.insert(0, what);
    line.arg("-p", prompt).arg("-n", n_gen).arg("-d", depth);
    line.threads(facts.cpus, false);
    line.arg("-b", case.engine.batch.max(32))
        .arg("-ub", case.engine.batch);
    line.arg("-ctk", case.engine.kv)
        .arg("-ctv", case.engine.kv)
        .arg("-r", repetitions)
        .arg("-o", output);
    line.notes
        .push("its tokens are random, and all repetitions share one process");
    line
}

/// What llama.cpp cannot be told.
fn notes(case: &Case) -> Vec<&'static str> {
    let mut notes = Vec::new();
    if case.engine.isa != Isa::Auto {
        notes.push("it uses the instruction set it was built for");
    }
    if !case.engine.is_native() {
        notes.push("it runs the file's own formats, not those of engine.quant");
    }
    if case.engine.lossy_sparsity().is_some() {
        notes.push("it runs the whole model, without engine.sparsity");
    }
    if case.engine.speculation.is_some() {
        notes.push("it decodes plainly, without the drafts of engine.speculation");
    }
    notes
}

/// A command line being put together.
pub(crate) struct Line {
    tool: &'static str,
    words: Vec<String>,
    notes: Vec<&'static str>,
}

impl Line {
    fn new(tool: &'static str, model: &Path, notes: Vec<&'static str>) -> Line {
        let mut line = Line {
            tool,
            words: vec![tool.into()],
            notes,
        };
        line.arg("-m", model.display());
        line
    }

    pub(crate) fn flag(&mut self, flag: &str) -> &mut Line {
        self.words.push(flag.into());
        self
    }

    pub(crate) fn arg(&mut self, flag: &str, value: impl std::fmt::Display) -> &mut Line {
        self.words.extend([flag.into(), value.to_string()]);
        self
    }

    /// Threads and CPUs; for prompts too where the tool tells them apart.
    fn threads(&mut self, cpus: &[Option<usize>], batch: bool) -> &mut Line {
        self.arg("-t", cpus.len());
        if let Some(mask) = cpu_mask(cpus) {
            self.arg("-C", mask).arg("--cpu-strict", 1);
        }
        match batch {
            true => self.arg("-tb", cpus.len()),
            false => self,
        }
    }

    /// The words, with `program` in place of the tool's name.
    pub(crate) fn argv(mut self, program: &Path) -> Vec<String> {
        self.words[0] = program.display().to_string();
        self.words
    }

    fn finish(self) -> RepeatCommand {
        RepeatCommand {
            tool: self.tool.into(),
            line: join(&self.words),
            note: (!self.notes.is_empty()).then(|| self.notes.join("; ")),
        }
    }
}

/// Words as a line for a POSIX shell.
pub fn join(words: &[String]) -> String {
    let words: Vec<String> = words.iter().map(|word| quote(word)).collect();
    words.join(" ")
}

/// A word quoted for a POSIX shell.
pub fn quote(word: &str) -> String {
    // Only a NUL cannot be quoted, and no argument can hold one.
    shlex::try_quote(word).map_or_else(|_| word.replace('\0', ""), |quoted| quoted.into_owned())
}

/// CPUs as a hexadecimal mask, CPU 0 its lowest bit; `None` if nothing is pinned.
pub(crate) fn cpu_mask(cpus: &[Option<usize>]) -> Option<String> {
    let pinned: Vec<usize> = cpus.iter().flatten().copied().collect();
    let highest = *pinned.iter().max()?;
    let mut digits = vec![0u8; highest / 4 + 1];
    for cpu in pinned {
        digits[cpu / 4] |= 1 << (cpu % 4);
    }
    let digits = digits.iter().rev().map(|d| format!("{d:x}"));
    Some(format!("0x{}", digits.collect::<String>()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::scenario;

    fn case(text: &str) -> Case {
        let head = "[scenario]\nname = \"t\"\ndescription = \"d\"\n[model]\npath = \"m.gguf\"\n";
        let scenario = scenario::parse(&format!("{head}{text}"), Path::new("t.toml"), &[]);
        scenario.expect("valid").cases.remove(0)
    }

    fn lines(text: &str, cpus: &[Option<usize>], n_prompt: Option<u32>) -> Vec<String> {
        let facts = Facts {
            model: Path::new("/m/a b.gguf"),
            cpus,
            n_prompt,
            rounds: 5,
        };
        commands(&case(text), &facts)
            .into_iter()
            .map(|c| c.line)
            .collect()
    }

    #[test]
    fn a_single_token_counts_for_the_prompt() {
        let tests = |n_gen| bench_tests(512, n_gen).collect::<Vec<_>>();
        assert_eq!(tests(1), [(512, 0, 0)]);
        assert_eq!(tests(2), [(512, 0, 0), (0, 2, 512)]);
    }

    #[test]
    fn the_same_work_in_other_words() {
        let text = "[prompt]\ntext = \"it's\\n\"\n[run]\nn_gen = 16\n[engine]\nctx = 64\n";
        assert_eq!(
            lines(text, &[Some(0), Some(5)], Some(3)),
            [
                "llama-completion -m '/m/a b.gguf' -p \"it's\n\" --no-escape -n 16 -c 64 -t 2 -C 0x21 --cpu-strict 1 -tb 2 \
                 -b 512 -ub 512 -ctk f16 -ctv f16 --temp 0 -s 0 --ignore-eos -no-cnv --simple-io --no-display-prompt --perf",
                "llama-bench -m '/m/a b.gguf' -p 3 -n 0 -d 0 -t 2 -C 0x21 --cpu-strict 1 -b 512 -ub 512 -ctk f16 -ctv f16 \
                 -r 5 -o md",
                "llama-bench -m '/m/a b.gguf' -p 0 -n 16 -d 3 -t 2 -C 0x21 --cpu-strict 1 -b 512 -ub 512 -ctk f16 -ctv f16 \
                 -r 5 -o md",
            ]
        );
    }

    #[test]
    fn what_cannot_be_repeated_is_left_out() {
        let random = "[prompt]\ntokens = 8\n";
        let tools = lines(random, &[None], Some(8));
        assert!(
            tools
                .iter()
                .all(|l| l.starts_with("llama-bench ") && !l.contains("-C")),
            "{tools:?}"
        );
        assert_eq!(lines("[prompt]\ntext = \"a\"\n", &[None], None).len(), 1);
    }

    #[test]
    fn masks_are_hexadecimal() {
        let rows: [(&[Option<usize>], Option<&str>); 5] = [
            (&[Some(0)], Some("0x1")),
            (&[Some(0), Some(1), Some(2), Some(3)], Some("0xf")),
            (&[Some(4)], Some("0x10")),
            (&[Some(64), Some(1)], Some("0x10000000000000002")),
            (&[None, None], None),
        ];
        for (cpus, expect) in rows {
            assert_eq!(cpu_mask(cpus).as_deref(), expect, "{cpus:?}");
        }
    }
}
