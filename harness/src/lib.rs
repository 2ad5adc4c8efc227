//! The laboratory around the engine: scenarios, measuring in fresh processes, records and reports.
//!
//! A module imports only modules that stand above it in this list.

pub mod clock;
pub mod exit;
pub mod host;
pub mod interrupt;

pub mod claim;

pub mod record;
pub mod stats;
pub mod verdict;

pub mod counter;

pub mod scenario;

pub mod repeat;
pub mod runner;

pub mod models;

pub mod probe;
pub mod reference;

pub mod measure;
pub mod simulate;

pub mod quality;

pub mod export;
pub mod summary;

pub mod compare;

pub mod metric;

pub mod baseline;
pub mod gate;
pub mod history;

pub mod report;

pub mod cmd;
