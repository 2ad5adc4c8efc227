//! The laboratory around the engine: scenarios, measuring in fresh processes, records and reports.
//!
//! A module imports only modules that stand above it in this list.

pub mod exit;
pub mod host;
pub mod record;
pub mod stats;

pub mod scenario;

pub mod cmd;
