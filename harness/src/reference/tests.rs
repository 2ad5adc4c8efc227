use super::*;
use crate::record::{Figure, Figures};
use crate::scenario::{self, FlashAttn};

/// What llama-bench writes for one test, shortened.
const BENCH_DECODE: &str = r#"{"build_number": 1, "n_threads": 2, "n_prompt": 0, "n_gen": 8, "n_depth": 57, "samples_ns": [ 400000000 ],"samples_ts": [ 20.0 ]}"#;
const BENCH_PREFILL: &str = r#"warning: asserts enabled
{"n_threads": 2, "n_prompt": 57, "n_gen": 0, "n_depth": 0, "samples_ns": [ 500000000 ]}"#;
const COMPLETION: &str = "\
0.04.748.592 I common_perf_print:    sampling time =       2.04 ms
0.04.748.598 I common_perf_print:        load time =    3198.58 ms
0.04.748.601 I common_perf_print: prompt eval time =     500.00 ms /    57 tokens (    8.77 ms per token,   114.00 tokens per second)
0.04.748.603 I common_perf_print:        eval time =     350.00 ms /     7 runs   (   50.00 ms per token,    20.00 tokens per second)
0.04.748.604 I common_perf_print:       total time =    1242.98 ms /    10 tokens
0.04.748.605 I common_perf_print: unaccounted time =       1.34 ms /   0.1 %      (total - sampling) / (total)";
const CHAT: &str =
    "> Hello\nthe\u{8}\n\n[ Prompt: 114.0 t/s | Generation: 20.0 t/s ]\n\n\nExiting...\n";

fn case(text: &str) -> Case {
    let head = "[scenario]\nname = \"t\"\ndescription = \"d\"\n[model]\npath = \"m.gguf\"\n";
    let scenario = scenario::parse(&format!("{head}{text}"), Path::new("t.toml"), &[]);
    scenario.expect("valid").cases.remove(0)
}

fn words(
    kind: ReferenceKind,
    help: &str,
    variant: Variant,
    spec: Option<&ReferenceSpec>,
) -> Result<Vec<String>, String> {
    words_of(
        "[prompt]\ntext = \"Hello\"\n[run]\nn_gen = 8\n",
        kind,
        help,
        variant,
        spec,
    )
}

fn words_of(
    text: &str,
    kind: ReferenceKind,
    help: &str,
    variant: Variant,
    spec: Option<&ReferenceSpec>,
) -> Result<Vec<String>, String> {
    let work = Workload {
        case: &case(text),
        facts: Facts {
            model: Path::new("m.gguf"),
            cpus: &[Some(0), Some(1)],
            n_prompt: Some(57),
            rounds: 12,
        },
        program: Path::new("/b/program"),
        help,
        variant,
        spec,
        prompt_file: Some(Path::new("/r/prompt.txt")),
    };
    let commands = commands(kind, &work)?;
    Ok(commands.iter().map(|c| c.argv.join(" ")).collect())
}

fn spec(command: &[&str]) -> ReferenceSpec {
    ReferenceSpec {
        name: "other".into(),
        kind: ReferenceKind::Command,
        dir: None,
        repack: None,
        flash_attn: None,
        threads: None,
        command: command.iter().map(|&word| word.into()).collect(),
        figures: Figures::default(),
    }
}

#[test]
fn formats_at_load_are_refused_to_programs_that_have_none() {
    let text = "[prompt]\ntext = \"Hello\"\n[engine]\nquant = \"q5_0\"\n";
    for kind in [
        ReferenceKind::LlamaBench,
        ReferenceKind::LlamaCompletion,
        ReferenceKind::LlamaCli,
    ] {
        let refused = words_of(text, kind, "", Variant::default(), None);
        assert!(
            refused
                .expect_err("refused")
                .contains("not those of engine.quant")
        );
    }
    let other = spec(&["/b/program", "{n_gen}"]);
    words_of(
        text,
        ReferenceKind::Command,
        "",
        Variant::default(),
        Some(&other),
    )
    .expect("told");
}

#[test]
fn commands_say_all_that_was_asked() {
    use ReferenceKind::*;
    let variant = Variant {
        repack: Some(false),
        flash_attn: Some(FlashAttn::On),
    };
    let new_bench = "-fa <on|off|auto>  --repack <0|1>";
    let new_chat = "--single-turn --simple-io";
    let rows: &[(ReferenceKind, &str, &[&[&str]])] = &[
        (
            LlamaBench,
            new_bench,
            &[
                &[
                    "/b/program -m",
                    "-p 57 -n 0 -d 0 -t 2 -C 0x3 --cpu-strict 1",
                    "-r 1 -o jsonl",
                    "-fa on --repack 0",
                ],
                &["-p 0 -n 8 -d 57"],
            ],
        ),
        (LlamaBench, "-fa <0|1> --repack", &[&["-fa 1"], &[]]),
        (
            LlamaCompletion,
            "",
            &[&[
                "-p Hello --no-escape -n 8",
                "-tb 2",
                "-fa on --no-repack",
                "-no-cnv",
            ]],
        ),
        (
            LlamaCli,
            new_chat,
            &[&["--single-turn", "--show-timings", "-C 0x3"]],
        ),
        (LlamaCli, "--single-turn -no-cnv", &[&["-no-cnv", "--perf"]]),
    ];
    for (kind, help, expect) in rows {
        let lines = words(*kind, help, variant, None).expect("told");
        assert_eq!(lines.len(), expect.len(), "{lines:?}");
        for (line, parts) in lines.iter().zip(*expect) {
            for part in *parts {
                assert!(line.contains(part), "\"{part}\" not in {line}");
            }
        }
    }
    let chat = words(LlamaCli, new_chat, variant, None).expect("told");
    assert!(!chat[0].contains("-no-cnv"), "{chat:?}");
    let old = words(LlamaBench, "-fa <0|1>", variant, None).expect_err("refused");
    assert!(old.contains("--repack"), "{old}");
}

#[test]
fn placeholders_are_filled() {
    let spec = spec(&[
        "other",
        "-m={model}",
        "{threads}",
        "{cpu_mask}",
        "{n_prompt}+{n_gen}",
        "{prompt_file}",
    ]);
    let found = words(ReferenceKind::Command, "", Variant::default(), Some(&spec));
    assert_eq!(
        found.expect("filled"),
        ["other -m=m.gguf 2 0x3 57+8 /r/prompt.txt"]
    );
}

/// Reads what a program of a kind wrote; gives prefill and decode rates.
fn read(
    kind: ReferenceKind,
    figures: Figures,
    stdout: &str,
    stderr: &str,
) -> Result<(Option<f64>, Option<f64>), String> {
    let plan = ReferencePlan {
        case: 0,
        runner: "other".into(),
        title: "other".into(),
        kind,
        commands: vec![],
        n_prompt: 57,
        n_gen: 8,
        sha256: None,
    };
    let command = ReferenceCommand {
        argv: vec![],
        figures,
    };
    let mut reading = Reading::default();
    let written = Written { stdout, stderr };
    adapter(kind).read(&plan, &command, &written, &mut reading)?;
    Ok((
        reading.reported.prefill_tok_s,
        reading.reported.decode_tok_s,
    ))
}

#[test]
fn figures_are_read() {
    use ReferenceKind::*;
    let old = COMPLETION.replace("common_perf_print:", "llama_print_timings:");
    let rows = [
        (LlamaBench, BENCH_DECODE, "", (None, Some(20.0))),
        (LlamaBench, BENCH_PREFILL, "", (Some(114.0), None)),
        (
            LlamaCompletion,
            "text",
            COMPLETION,
            (Some(114.0), Some(20.0)),
        ),
        (
            LlamaCompletion,
            "text",
            old.as_str(),
            (Some(114.0), Some(20.0)),
        ),
        (LlamaCli, CHAT, "", (Some(114.0), Some(20.0))),
        (LlamaCli, "text", old.as_str(), (Some(114.0), Some(20.0))),
    ];
    for (kind, stdout, stderr, expect) in rows {
        assert_eq!(read(kind, Figures::default(), stdout, stderr), Ok(expect));
    }
}

#[test]
fn rubbish_is_no_figure() {
    use ReferenceKind::*;
    let other_prompt = COMPLETION.replace("57 tokens", "58 tokens");
    let rows = [
        (LlamaBench, "rubbish", "", "found \"rubbish\""),
        (LlamaBench, "{\"n_prompt\": 3}", "", "n_gen"),
        (
            LlamaBench,
            r#"{"n_prompt":57,"n_gen":0,"samples_ns":[]}"#,
            "",
            "one time",
        ),
        (
            LlamaBench,
            r#"{"n_prompt":57,"n_gen":0,"samples_ns":[0]}"#,
            "",
            "one time",
        ),
        (LlamaCompletion, "text", "rubbish", "expected timing lines"),
        (
            LlamaCompletion,
            "text",
            other_prompt.as_str(),
            "58 prompt tokens, expected 57",
        ),
        (LlamaCli, "> ", "", "Generation"),
    ];
    for (kind, stdout, stderr, expect) in rows {
        let error = read(kind, Figures::default(), stdout, stderr).expect_err("refused");
        assert!(error.contains(expect), "{error}");
    }
}

#[test]
fn a_pattern_finds_any_figure() {
    let regex = |text: &str| Figure {
        regex: Some(text.into()),
        json_pointer: None,
    };
    let pointer = |text: &str| Figure {
        regex: None,
        json_pointer: Some(text.into()),
    };
    let rows = [
        (
            regex(r"speed ([\d.]+)"),
            "speed 7\nspeed 8.5",
            "",
            Some(8.5),
        ),
        (regex(r"speed ([\d.]+)"), "", "speed 3", Some(3.0)),
        (regex(r"speed ([\d.]+)"), "slow", "", None),
        (regex(r"speed (\d+)"), "speed 0", "", None),
        (pointer("/0/avg_ts"), r#"[{"avg_ts": 4.5}]"#, "", Some(4.5)),
        (
            pointer("/1/avg_ts"),
            "{\"avg_ts\": 1}\n{\"avg_ts\": 2}\n",
            "",
            Some(2.0),
        ),
        (pointer("/0/avg_ts"), "no json", "", None),
    ];
    for (figure, stdout, stderr, expect) in rows {
        let figures = Figures {
            prefill_tok_s: None,
            decode_tok_s: Some(figure.clone()),
        };
        let found = read(ReferenceKind::Command, figures, stdout, stderr);
        assert_eq!(
            found.ok().and_then(|f| f.1),
            expect,
            "{figure:?} in {stdout}"
        );
    }
}

#[test]
fn all_commands_of_a_repetition_count_together() {
    let echo = |text: &str| ReferenceCommand {
        argv: vec!["sh".into(), "-c".into(), format!("echo '{text}'")],
        figures: Figures::default(),
    };
    let mut plan = ReferencePlan {
        case: 0,
        runner: "llama.cpp".into(),
        title: "llama.cpp b1".into(),
        kind: ReferenceKind::LlamaBench,
        commands: vec![echo(BENCH_PREFILL), echo(BENCH_DECODE)],
        n_prompt: 57,
        n_gen: 8,
        sha256: None,
    };
    let limit = Duration::from_secs(20);
    let reading = repetition(&plan, limit).expect("read");
    let reported = reading.reported;
    assert_eq!(reported.prefill_tok_s, Some(114.0));
    assert_eq!(reported.decode_tok_s, Some(20.0));
    assert!(reading.usage.wall_ms.is_some_and(|ms| ms > 0.0));
    plan.commands[1].argv = vec!["sleep".into(), "60".into()];
    let never = repetition(&plan, Duration::from_millis(100));
    let Err(Trouble::Failed { kind, .. }) = never else {
        panic!("expected a timeout, found {never:?}")
    };
    assert_eq!(kind, FailureKind::Timeout);
}
