//! The `engine` command: looks into model files, runs them and times them.

fn main() {}
