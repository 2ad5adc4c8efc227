//! One child process: in its own process group, with a time limit, its answer and its resource use.
//!
//! How it works:
//! 1. The child gets its input on stdin, which is then closed; without input, stdin is /dev/null. It is the leader of a new process group, so that a
//!    Ctrl-C in the terminal reaches only the harness, and so that everything the child starts can be ended with it.
//! 2. Threads that only block move stdin, stdout and stderr; one more waits for the child's end without reaping it.
//!    Nothing polls, so nothing disturbs the measurement.
//! 3. The calling thread waits for the first of: end, time limit, interrupt, too much output. Whatever it was, the
//!    group is killed while its leader is not yet reaped, so its number cannot belong to anybody else.
//! 4. The child is reaped with `wait4`, which tells the peak memory of this child alone.

use super::slices::{Ran, Slices};
use crate::clock::Stopwatch;
use crate::interrupt;
use rustix::process::{Pid, Signal, WaitId, WaitIdOptions};
use std::ffi::OsString;
use std::io::{Read, Write};
use std::os::unix::process::{CommandExt as _, ExitStatusExt as _};
use std::path::PathBuf;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::time::Duration;
use wait4::Wait4 as _;

/// Most bytes a child may write to stdout.
const STDOUT_BYTES_MAX: usize = 64 << 20;
/// What the line of a worker whose model is in memory has, see [`super::Answer::Loaded`].
const LOADED: &[u8] = b"\"event\":\"loaded\"";
/// How far into its answer that line is looked for, in bytes.
const LOADED_WITHIN: usize = 1 << 20;
/// How much of the end of stderr is kept, in bytes.
const STDERR_BYTES_KEPT: usize = 16 << 10;
/// How long the pipes may stay open after the child's end; a process that left the group could hold them.
const PIPES_CLOSE: Duration = Duration::from_secs(2);

/// A program and its arguments.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Program {
    /// Executable.
    pub path: PathBuf,
    /// Arguments.
    pub args: Vec<OsString>,
}

/// Why waiting for the child ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Ending {
    /// It ended by itself.
    Exited,
    /// It ran over its time limit and was killed.
    TimedOut,
    /// A signal asked the harness to stop; the child was killed.
    Interrupted,
    /// It wrote more than anybody asked for and was killed.
    Flooded,
}

/// A child that has ended.
#[derive(Debug)]
pub(super) struct Ended {
    pub(super) ending: Ending,
    pub(super) status: ExitStatus,
    pub(super) stdout: Vec<u8>,
    /// The last part of it.
    pub(super) stderr: String,
    pub(super) wall_ms: f64,
    pub(super) peak_rss_bytes: u64,
    pub(super) user_ms: f64,
    pub(super) system_ms: f64,
    /// When it ran, if it took turns with others.
    pub(super) ran: Option<Ran>,
}

/// What the helper threads report.
enum Event {
    Exited,
    Flooded,
    Interrupted,
    /// A worker has its model in memory.
    Loaded,
    Stdout(Vec<u8>),
    Stderr(Vec<u8>),
}

/// Runs a program to its end, or to the time limit; in turns with others, if there are `slices`.
///
/// # Errors
/// When it cannot be started.
pub(super) fn run(
    program: &Program,
    input: Vec<u8>,
    limit: Duration,
    slices: Option<&Slices>,
) -> std::io::Result<Ended> {
    let watch = Stopwatch::start();
    let mut child = spawn(program, input.is_empty())
        .inspect_err(|_| slices.into_iter().for_each(Slices::miss))?;
    let pid = Pid::from_child(&child);
    let turns = slices.map(|slices| (slices, slices.join(pid)));
    let (events, inbox) = channel();
    let wake = events.clone();
    let guard = interrupt::Guard::new(pid.as_raw_nonzero().get(), move || {
        let _ = wake.send(Event::Interrupted);
    });
    start_helpers(&mut child, pid, input, &events);
    if interrupt::requested() {
        let _ = events.send(Event::Interrupted);
    }
    let mut pipes = Pipes::default();
    let loaded = || {
        turns
            .iter()
            .for_each(|(slices, place)| slices.loaded(*place))
    };
    let ending = pipes.wait(&inbox, &watch, limit, &loaded);
    let ran = turns.map(|(slices, place)| slices.leave(place));
    // The leader is not reaped yet: the group's number is still its own. It may be empty already.
    let _ = rustix::process::kill_process_group(pid, Signal::KILL);
    drop(guard);
    let used = child.wait4()?;
    let wall_ms = watch.ms();
    pipes.drain(&inbox);
    Ok(Ended {
        ending,
        status: used.status,
        stdout: pipes.stdout.unwrap_or_default(),
        stderr: tail(&pipes.stderr.unwrap_or_default()),
        wall_ms,
        peak_rss_bytes: used.rusage.maxrss,
        user_ms: used.rusage.utime.as_secs_f64() * 1e3,
        system_ms: used.rusage.stime.as_secs_f64() * 1e3,
        ran,
    })
}

#[allow(clippy::disallowed_methods, reason = "this is the child runner")]
fn spawn(program: &Program, silent: bool) -> std::io::Result<Child> {
    let stdin = if silent {
        Stdio::null()
    } else {
        Stdio::piped()
    };
    Command::new(&program.path)
        .args(&program.args)
        .process_group(0)
        // The last line on its stderr is its message.
        .env("RUST_BACKTRACE", "0")
        .stdin(stdin)
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
}

/// Starts the threads that feed the child, collect its output and wait for its end.
fn start_helpers(child: &mut Child, pid: Pid, input: Vec<u8>, events: &Sender<Event>) {
    let mut stdin = child.stdin.take();
    std::thread::spawn(move || {
        // A child that does not read its input ends with an error of its own.
        let _ = stdin.as_mut().map(|pipe| pipe.write_all(&input));
    });
    if let Some(mut pipe) = child.stdout.take() {
        let events = events.clone();
        std::thread::spawn(move || {
            let mut bytes = Vec::new();
            let (mut buffer, mut told) = (vec![0; 1 << 16], false);
            while let Ok(n @ 1..) = pipe.read(&mut buffer) {
                bytes.extend_from_slice(&buffer[..n]);
                if !told
                    && bytes.len() <= LOADED_WITHIN
                    && bytes.windows(LOADED.len()).any(|part| part == LOADED)
                {
                    told = true;
                    let _ = events.send(Event::Loaded);
                }
                if bytes.len() > STDOUT_BYTES_MAX {
                    break;
                }
            }
            if bytes.len() > STDOUT_BYTES_MAX {
                let _ = events.send(Event::Flooded);
            }
            let _ = events.send(Event::Stdout(bytes));
        });
    }
    if let Some(pipe) = child.stderr.take() {
        let events = events.clone();
        std::thread::spawn(move || {
            let _ = events.send(Event::Stderr(read_tail(pipe)));
        });
    }
    let events = events.clone();
    std::thread::spawn(move || {
        let options = WaitIdOptions::EXITED | WaitIdOptions::NOWAIT;
        let wait = || rustix::process::waitid(WaitId::Pid(pid), options);
        while matches!(wait(), Err(rustix::io::Errno::INTR)) {}
        let _ = events.send(Event::Exited);
    });
}

/// Reads to the end and keeps the last part.
fn read_tail(mut pipe: impl Read) -> Vec<u8> {
    let mut kept = Vec::new();
    let mut buffer = [0; 4096];
    while let Ok(n @ 1..) = pipe.read(&mut buffer) {
        kept.extend_from_slice(&buffer[..n]);
        if kept.len() > 2 * STDERR_BYTES_KEPT {
            kept.drain(..kept.len() - STDERR_BYTES_KEPT);
        }
    }
    kept
}

/// The last part of a text, from the start of a line if there is one.
fn tail(bytes: &[u8]) -> String {
    let cut = bytes.len().saturating_sub(STDERR_BYTES_KEPT);
    let text = String::from_utf8_lossy(&bytes[cut..]).into_owned();
    match text.find('\n') {
        Some(at) if cut > 0 => text[at + 1..].to_owned(),
        _ => text,
    }
}

/// What has come through the pipes.
#[derive(Default)]
struct Pipes {
    stdout: Option<Vec<u8>>,
    stderr: Option<Vec<u8>>,
}

impl Pipes {
    /// Waits until the child has ended or must be ended.
    fn wait(
        &mut self,
        inbox: &Receiver<Event>,
        watch: &Stopwatch,
        limit: Duration,
        loaded: &dyn Fn(),
    ) -> Ending {
        loop {
            match inbox.recv_timeout(limit.saturating_sub(watch.elapsed())) {
                Ok(Event::Exited) => return Ending::Exited,
                Ok(Event::Flooded) => return Ending::Flooded,
                Ok(Event::Interrupted) => return Ending::Interrupted,
                Ok(Event::Loaded) => loaded(),
                Ok(pipe) => self.take(pipe),
                Err(RecvTimeoutError::Timeout | RecvTimeoutError::Disconnected) => {
                    return Ending::TimedOut;
                }
            }
        }
    }

    /// Takes what is left in the pipes.
    fn drain(&mut self, inbox: &Receiver<Event>) {
        let watch = Stopwatch::start();
        while self.stdout.is_none() || self.stderr.is_none() {
            match inbox.recv_timeout(PIPES_CLOSE.saturating_sub(watch.elapsed())) {
                Ok(event) => self.take(event),
                Err(_) => return,
            }
        }
    }

    fn take(&mut self, event: Event) {
        match event {
            Event::Stdout(bytes) => self.stdout = Some(bytes),
            Event::Stderr(bytes) => self.stderr = Some(bytes),
            Event::Exited | Event::Flooded | Event::Interrupted | Event::Loaded => {}
        }
    }
}

/// How a child ended, in words.
pub(super) fn status_text(status: ExitStatus) -> String {
    match (status.code(), status.signal()) {
        (Some(code), _) => format!("exit code {code}"),
        (None, Some(signal)) => {
            let named = Signal::from_named_raw(signal).map(|named| format!("{named:?}"));
            let named = named.unwrap_or_default();
            // The library writes "Signal::KILL", quotes included.
            let name = named.trim_matches('"').trim_start_matches("Signal::");
            format!("signal {signal} (SIG{name})")
        }
        (None, None) => "an unknown end".into(),
    }
}
