//! The `harness` command: usage and one `match`.

fn main() {}
