//! Damaged model files: each must end in a clear error or run alike on all instruction sets, within bounded memory and time.
//!
//! `cargo test -p engine --test hostile` tries 300 of them, `... -- 10000` so many; case N is the same file in every run.
//! The cases run in child processes of this program, which may not take more than so much memory and time of the CPU:
//! a panic, a crash or a hang is one of the child, and its last words name the case. `... -- --case N` runs one case here.
#![allow(
    clippy::disallowed_methods,
    reason = "this program watches its own children, and times cases"
)]

mod case;
mod damage;
mod file;

use case::{Ending, Source};
use engine::quant::FORMATS;
use engine::synth::{Shape, in_memory};
use rustix::process::{Resource, Rlimit, setrlimit};
use std::collections::BTreeMap;
use std::io::{BufRead as _, BufReader, Write as _};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitCode, Stdio};
use std::sync::mpsc::{Receiver, channel};
use std::time::{Duration, Instant};

/// Cases unless told otherwise.
const CASES: u64 = 300;
/// Cases of one child.
const CHILD_CASES: u64 = 100;
/// Address space of a child in bytes: the program, its threads' stacks and heaps, one model.
const MEMORY_BYTES: u64 = 1 << 30;
/// CPU time of a child in seconds.
const CPU_S: u64 = 120;
/// Longest time without a word from a child that does not even take CPU time.
const SILENCE: Duration = Duration::from_secs(600);
/// Tokens of the vocabularies.
const N_VOCAB: usize = 512;
/// Every so many cases the bytes are read from a file.
const FILE_EVERY: u64 = 8;

fn main() -> ExitCode {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let number = |at: usize| args.get(at).and_then(|arg| arg.parse::<u64>().ok());
    match (args.first().map(String::as_str), number(1), number(2)) {
        (Some("--child"), Some(first), Some(end)) => {
            child(Path::new(&args[3]), first..end);
            ExitCode::SUCCESS
        }
        (Some("--case"), Some(case), _) => {
            let dir = tempfile::tempdir().expect("a temporary folder");
            write_sound_files(dir.path());
            child(dir.path(), case..case + 1);
            ExitCode::SUCCESS
        }
        // A filter of `cargo test` that means other tests, or a listing.
        (Some(word), _, _) if word == "--list" || !word.starts_with('-') && number(0).is_none() => {
            ExitCode::SUCCESS
        }
        _ => all(number(0).unwrap_or(CASES)),
    }
}

/// What came of the cases so far.
#[derive(Default)]
struct Tally {
    endings: BTreeMap<String, u64>,
    slowest_ms: (u64, u64),
    peak_kb: u64,
}

fn all(cases: u64) -> ExitCode {
    let dir = tempfile::tempdir().expect("a temporary folder");
    write_sound_files(dir.path());
    let mut tally = Tally::default();
    let start = Instant::now();
    for first in (0..cases).step_by(CHILD_CASES as usize) {
        let end = cases.min(first + CHILD_CASES);
        if let Err(what) = watch(dir.path(), first, end, &mut tally) {
            eprintln!("{what}");
            return ExitCode::FAILURE;
        }
    }
    let endings: Vec<String> = tally
        .endings
        .iter()
        .map(|(k, n)| format!("{n} {k}"))
        .collect();
    println!(
        "{cases} damaged files in {:.0} s: {}; at most {} MB resident, slowest case {} with {} ms of CPU time",
        start.elapsed().as_secs_f64(),
        endings.join(", "),
        tally.peak_kb / 1000,
        tally.slowest_ms.1,
        tally.slowest_ms.0,
    );
    ExitCode::SUCCESS
}

/// Number of sound files: every shape and every format at least once, both kinds of vocabularies.
fn n_sound() -> usize {
    2 * FORMATS.len()
}

fn sound_path(dir: &Path, i: usize) -> PathBuf {
    dir.join(format!("{i}.gguf"))
}

fn write_sound_files(dir: &Path) {
    let shapes: Vec<&str> = Shape::names().filter(|n| n.starts_with("tiny")).collect();
    for i in 0..n_sound() {
        let shape = Shape::load(shapes[i % shapes.len()]).expect("built in");
        let quant = FORMATS[i % FORMATS.len()].name;
        let mut bytes = in_memory(&shape, quant, i as u64).expect("small");
        if i % 2 == 1 {
            bytes = file::with_sentence_piece(&bytes, N_VOCAB);
        }
        std::fs::write(sound_path(dir, i), bytes).expect("a temporary file");
    }
}

/// Has a child run the cases `first..end`; an error names the case that it ended with.
fn watch(dir: &Path, first: u64, end: u64, tally: &mut Tally) -> Result<(), String> {
    let program = std::env::current_exe().map_err(|e| e.to_string())?;
    let mut child = Command::new(program)
        .args(["--child", &first.to_string(), &end.to_string()])
        .arg(dir)
        .stdout(Stdio::piped())
        .spawn()
        .map_err(|e| e.to_string())?;
    let lines = lines(&mut child);
    let mut last = first;
    while let Ok(line) = lines.recv_timeout(SILENCE) {
        let words: Vec<&str> = line.splitn(3, ' ').collect();
        match words[..] {
            ["case", number, _] => last = number.parse().unwrap_or(last),
            ["ended", ms, ending] => {
                *tally.endings.entry(ending.to_owned()).or_default() += 1;
                tally.slowest_ms = tally.slowest_ms.max((ms.parse().unwrap_or(0), last));
            }
            ["peak", kb, _] => tally.peak_kb = tally.peak_kb.max(kb.parse().unwrap_or(0)),
            _ => {}
        }
    }
    // Does nothing to a child that has ended.
    let _ = child.kill();
    match child.wait() {
        Ok(status) if status.success() => Ok(()),
        status => Err(format!(
            "case {last} ended the process with {status:?}: repeat it with cargo test -p engine --test hostile -- --case {last}"
        )),
    }
}

/// The lines that a child writes, until it ends.
fn lines(child: &mut Child) -> Receiver<String> {
    let (send, receive) = channel();
    let stdout = child.stdout.take().expect("piped");
    std::thread::spawn(move || {
        for line in BufReader::new(stdout).lines().map_while(Result::ok) {
            if send.send(line).is_err() {
                break;
            }
        }
    });
    receive
}

/// CPU time that this process has taken, in milliseconds: other programs do not count. The kernel counts in hundredths of
/// a second.
fn cpu_ms() -> u64 {
    let stat = std::fs::read_to_string("/proc/self/stat").unwrap_or_default();
    let behind_name = stat.rsplit(')').next().unwrap_or_default();
    let ticks = behind_name.split_whitespace().skip(11).take(2);
    ticks.filter_map(|t| t.parse::<u64>().ok()).sum::<u64>() * 10
}

/// Runs cases in this process, which from now on may take only so much memory and CPU time.
fn child(dir: &Path, cases: std::ops::Range<u64>) {
    let limit = |n| Rlimit {
        current: Some(n),
        maximum: Some(n),
    };
    setrlimit(Resource::As, limit(MEMORY_BYTES)).expect("a lower limit");
    setrlimit(Resource::Cpu, limit(CPU_S)).expect("a lower limit");
    let mut out = std::io::stdout().lock();
    let file = dir.join(format!("damaged-{}.gguf", std::process::id()));
    for number in cases {
        writeln!(out, "case {number} ").expect("stdout");
        let sound = sound_path(dir, (number % n_sound() as u64) as usize);
        let sound = std::fs::read(sound).expect("a sound file");
        let start = cpu_ms();
        let from = match number % FILE_EVERY {
            0 => Source::File(&file),
            _ => Source::Memory,
        };
        let ending = match case::run(number, &sound, from) {
            Ending::Refused(part) => format!("refused by the {part}"),
            Ending::Ran => "ran".into(),
        };
        writeln!(out, "ended {} {ending}", cpu_ms() - start).expect("stdout");
    }
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let peak = status.lines().find_map(|l| l.strip_prefix("VmHWM:"));
    let peak = peak.and_then(|l| l.split_whitespace().next());
    writeln!(out, "peak {} kB", peak.unwrap_or("0")).expect("stdout");
}
