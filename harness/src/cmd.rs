//! One file per subcommand, all of one shape: `Args`, and `run` that gives the exit code.

pub mod doctor;
pub mod launch;
pub mod models;
pub mod report;
pub mod run;
pub mod worker;
