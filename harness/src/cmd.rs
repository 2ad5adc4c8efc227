//! One file per subcommand, all of one shape: `Args`, and `run` that gives the exit code.

pub mod baseline;
pub mod compare;
pub mod doctor;
pub mod gate;
pub mod history;
pub mod launch;
pub mod models;
pub mod probe;
pub mod reference;
pub mod report;
pub mod run;
mod session;
pub mod worker;
