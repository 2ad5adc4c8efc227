//! Programs that end with this one, however it ends.
//!
//! A foreign program cannot ask the kernel for a death signal, and asking between fork and exec would be unsafe code. So
//! this program starts itself as `harness launch`, which asks for the signal and then becomes the foreign program: the
//! signal outlives the exec.

use super::Program;
use nix::sys::personality::{self, Persona};
use rustix::process::{Pid, Signal, getppid, set_parent_process_death_signal};
use std::ffi::OsString;
use std::os::unix::process::CommandExt as _;
use std::path::PathBuf;
use std::process::Command;
use std::sync::OnceLock;

/// This program's own file, where it is `harness`.
static LAUNCHER: OnceLock<PathBuf> = OnceLock::new();

/// Says which program's `launch` ties others to it; said once, by `main`. Without it, as in tests of functions, programs
/// are started directly.
pub fn launch_through(program: PathBuf) {
    // A second word on the same thing changes nothing.
    let _ = LAUNCHER.set(program);
}

/// A program so that it ends with this one.
pub(super) fn tie(program: &Program) -> Program {
    launched(program, &[])
}

/// A program so that it ends with this one, and so that its memory lies at the same addresses every time.
pub fn repeatable(program: &Program) -> Program {
    launched(program, &["--repeatable"])
}

fn launched(program: &Program, flags: &[&str]) -> Program {
    let Some(launcher) = LAUNCHER.get() else {
        return program.clone();
    };
    let parent = std::process::id().to_string();
    let mut args: Vec<OsString> = ["launch", "--parent", &parent].map(Into::into).into();
    args.extend(flags.iter().map(Into::into));
    args.push("--".into());
    args.push(program.path.clone().into());
    args.extend(program.args.iter().cloned());
    Program {
        path: launcher.clone(),
        args,
    }
}

/// Becomes a program that ends with process `parent`. Comes back only with an error. A `repeatable` one gets no
/// environment and, where the system permits, addresses that are not randomised.
///
/// # Errors
/// When the parent has ended, or the program cannot be started.
#[allow(
    clippy::disallowed_methods,
    reason = "this process becomes the program"
)]
pub fn become_tied(parent: i32, program: &Program, repeatable: bool) -> anyhow::Error {
    if let Err(e) = set_parent_process_death_signal(Some(Signal::KILL)) {
        return anyhow::anyhow!("cannot tie a program to the process that started it: {e}");
    }
    // It may have ended before the line above.
    if getppid() != Pid::from_raw(parent) {
        return anyhow::anyhow!("process {parent}, which asked for a program, has ended");
    }
    let path = program.path.display();
    let mut command = Command::new(&program.path);
    if repeatable {
        command.env_clear();
        // Containers often refuse; counts then scatter a little more.
        let _ = personality::set(Persona::ADDR_NO_RANDOMIZE);
    }
    let error = command.args(&program.args).exec();
    anyhow::anyhow!("cannot start \"{path}\": {error}")
}
