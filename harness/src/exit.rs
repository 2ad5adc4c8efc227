//! Exit codes, all of them, and the error that carries one.

use std::fmt;
use std::process::ExitCode;

/// How the program ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum Exit {
    /// All went well.
    Ok = 0,
    /// Something failed.
    Error = 1,
    /// The command line or the scenario is wrong.
    Usage = 2,
    /// Something got worse.
    Regression = 3,
    /// It could not be told whether something got worse.
    Inconclusive = 4,
    /// The machine is unfit for a measurement: another one is going on, or `doctor --strict` found something.
    Unfit = 5,
    /// The model wrote something else than expected, or not the same each time.
    WrongOutput = 6,
    /// Another program that is to be compared with is not there.
    ReferenceMissing = 7,
    /// Stopped by a signal; what was measured is on disk.
    Interrupted = 130,
}

impl From<Exit> for ExitCode {
    fn from(exit: Exit) -> ExitCode {
        ExitCode::from(exit as u8)
    }
}

/// An error with an exit code of its own.
#[derive(Debug)]
pub struct Fail {
    /// The exit code.
    pub exit: Exit,
    /// What happened and what to do.
    pub text: String,
}

impl Fail {
    /// An error that ends the program with `exit`.
    pub fn with(exit: Exit, text: impl Into<String>) -> anyhow::Error {
        Fail {
            exit,
            text: text.into(),
        }
        .into()
    }

    /// An error in what the user gave: exit code 2.
    pub fn usage(text: impl Into<String>) -> anyhow::Error {
        Fail::with(Exit::Usage, text)
    }
}

impl fmt::Display for Fail {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

impl std::error::Error for Fail {}

/// The exit code an error asks for; 1 unless it or a cause of it says otherwise.
pub fn of(error: &anyhow::Error) -> Exit {
    let fail = error.chain().find_map(|cause| cause.downcast_ref::<Fail>());
    fail.map_or(Exit::Error, |fail| fail.exit)
}
