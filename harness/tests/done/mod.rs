//! What a program that a test started left behind.

use std::process::Output;

/// How it ended, and what it wrote.
pub(crate) struct Done {
    code: Option<i32>,
    pub(crate) stdout: String,
    pub(crate) stderr: String,
}

impl From<Output> for Done {
    fn from(output: Output) -> Done {
        Done {
            code: output.status.code(),
            stdout: String::from_utf8_lossy(&output.stdout).into_owned(),
            stderr: String::from_utf8_lossy(&output.stderr).into_owned(),
        }
    }
}

impl Done {
    /// Holds it to its exit code, and to have ended in no panic. Gives all that it wrote, to be shown.
    #[track_caller]
    pub(crate) fn ends(&self, code: i32) -> String {
        let shown = format!("--- stdout\n{}\n--- stderr\n{}", self.stdout, self.stderr);
        assert_eq!(self.code, Some(code), "{shown}");
        assert!(!self.stderr.contains("panicked"), "{shown}");
        shown
    }
}
