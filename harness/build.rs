//! Hands the compiler's version, the profile and the commit of the source tree to the program.
#![allow(
    clippy::disallowed_methods,
    reason = "a build script has only the environment and programs to ask"
)]

use std::process::Command;

fn main() {
    let rustc = std::env::var("RUSTC").unwrap_or_else(|_| "rustc".into());
    set("HARNESS_COMPILER", output(&rustc, &["--version"]));
    set("HARNESS_PROFILE", std::env::var("PROFILE").ok());
    let commit = output("git", &["rev-parse", "HEAD"]).map(|commit| {
        let changed = output("git", &["status", "--porcelain", "--untracked-files=no"]);
        let mark = changed.filter(|c| !c.is_empty()).map_or("", |_| "-dirty");
        format!("{commit}{mark}")
    });
    set("HARNESS_COMMIT", commit);
    // The files that change with a commit; none outside a checkout.
    for path in ["HEAD", "index"] {
        if let Some(path) = output(
            "git",
            &["rev-parse", "--path-format=absolute", "--git-path", path],
        ) {
            println!("cargo:rerun-if-changed={path}");
        }
    }
    println!("cargo:rerun-if-changed=build.rs");
}

fn set(name: &str, value: Option<String>) {
    println!("cargo:rustc-env={name}={}", value.unwrap_or_default());
}

/// What a program prints; `None` if it is not there or fails.
fn output(program: &str, args: &[&str]) -> Option<String> {
    let output = Command::new(program).args(args).output().ok()?;
    let text = String::from_utf8(output.stdout).ok()?;
    output.status.success().then(|| text.trim().to_owned())
}
