//! `harness launch`: becomes another program that ends with the process that asked for it; not started by hand.

use crate::exit::Exit;
use crate::runner::{self, Program};
use std::ffi::OsString;

/// Becomes another program.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Process that must live for the program to go on.
    #[arg(long)]
    parent: i32,
    /// Gives the program no environment and, where the system permits, the same addresses every time.
    #[arg(long)]
    repeatable: bool,
    /// The program and its arguments.
    #[arg(required = true, trailing_var_arg = true, allow_hyphen_values = true)]
    command: Vec<OsString>,
}

/// Becomes the program; comes back only if that fails.
///
/// # Errors
/// None; what goes wrong is written to stderr.
pub fn run(args: &Args) -> anyhow::Result<Exit> {
    let (path, rest) = args.command.split_first().unzip();
    let program = Program {
        path: path.cloned().unwrap_or_default().into(),
        args: rest.unwrap_or_default().to_vec(),
    };
    // One line, for whoever shows the end of the program's errors.
    let error = runner::become_tied(args.parent, &program, args.repeatable);
    eprintln!("{error}");
    Ok(Exit::Error)
}
