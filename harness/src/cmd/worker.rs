//! `harness worker`: one repetition, or the prediction of a text, in a process of its own; started by `harness run`, not by
//! hand.

use crate::exit::Exit;
use crate::runner::{Answer, Job, engine, quality};
use anyhow::{Context as _, bail};
use rustix::process::{Pid, Signal, getppid, set_parent_process_death_signal};
use serde::de::DeserializeOwned;
use std::io::{BufRead as _, Read as _, Write as _};

/// Longest job, in bytes.
const JOB_BYTES_MAX: u64 = 64 << 20;

/// Reads a job from stdin, does it, and answers on stdout, one JSON object a line.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// The job is to predict a text.
    #[arg(long)]
    quality: bool,
}

/// Does one job.
///
/// # Errors
/// When stdout cannot be written; everything else is an answer.
pub fn run(args: &Args) -> anyhow::Result<Exit> {
    let mut written = Ok(());
    let mut tell = |answer: &Answer| {
        if written.is_ok() {
            written = write(answer);
        }
    };
    let done = match args.quality {
        true => read_job(|job: &quality::Job| job.parent)
            .and_then(|job| Ok(quality::work(&job, &mut tell)?)),
        false => {
            read_job(|job: &Job| job.parent).and_then(|job| Ok(engine::work(&job, &mut tell)?))
        }
    };
    if let Err(e) = &done {
        let message = format!("{e:#}");
        tell(&Answer::Error { message });
    }
    written?;
    Ok(match done {
        Ok(()) => Exit::Ok,
        Err(_) => Exit::Error,
    })
}

/// The job on stdin; from here on the worker ends with the process that sent it, its `parent`.
fn read_job<J: DeserializeOwned>(parent: fn(&J) -> Option<i32>) -> anyhow::Result<J> {
    let mut line = String::new();
    let mut input = std::io::stdin().lock().take(JOB_BYTES_MAX);
    input.read_line(&mut line).context("cannot read the job")?;
    let job: J = serde_json::from_str(&line)
        .context("expected a job as one line of JSON on standard input")?;
    if let Some(parent) = parent(&job) {
        set_parent_process_death_signal(Some(Signal::KILL))
            .context("cannot tie the worker to the process that started it")?;
        // It may have ended before the line above.
        if getppid() != Pid::from_raw(parent) {
            bail!("process {parent}, which sent the job, has ended");
        }
    }
    Ok(job)
}

fn write(answer: &Answer) -> anyhow::Result<()> {
    let mut line = serde_json::to_vec(answer)?;
    line.push(b'\n');
    let mut out = std::io::stdout().lock();
    out.write_all(&line).context("cannot write to stdout")?;
    out.flush().context("cannot write to stdout")
}
