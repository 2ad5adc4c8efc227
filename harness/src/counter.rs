//! Counters of the machine while it works, each number with its source, and what could not be counted with its reason.
//!
//! The ladder: the CPU's counters all the time, for a share of the time, in user mode only; the kernel's bookkeeping; a
//! simulation; not available. [`Counting`] opens what a scenario's `[counters]` ask for and reads it at the borders of the
//! timed part; [`table`] makes figures per token of it. Groups of events are data files, see [`Group`].

mod counting;
mod group;
mod machine;
mod place;
mod software;
mod spec;
mod sysfs;
mod system;
mod table;

pub use counting::{Counting, Threads};
pub use group::{Event, Group, Metric, SOFTWARE, group, groups};
pub use software::ProcessUse;
pub use table::{Row, amount, per_token, sentence, table};

use serde::{Deserialize, Serialize};

/// `[counters]`: what is counted while a case runs.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Request {
    /// Counts at all.
    pub enabled: bool,
    /// Named groups of events; the kernel's bookkeeping is counted in any case.
    pub groups: Vec<String>,
    /// More events: names, raw codes such as `r01c2`, or events of a PMU in sysfs such as `cpu/event=0xc2,umask=0x1/`.
    pub events: Vec<String>,
}

impl Default for Request {
    fn default() -> Request {
        Request {
            enabled: true,
            groups: vec!["core".into(), "cache".into()],
            events: vec![],
        }
    }
}

/// Whether an event's name can be understood; whether a machine has it shows only there.
pub fn is_event(name: &str) -> bool {
    group::event(name).is_some() || spec::Spec::parse(name).is_some()
}

/// Names of events that need no code.
pub fn event_names() -> Vec<String> {
    let in_groups = groups().iter().flat_map(|group| &group.events);
    let mut names: Vec<String> = in_groups.map(|event| event.name.clone()).collect();
    for name in spec::Spec::names() {
        if !names.contains(&name) {
            names.push(name);
        }
    }
    names
}

#[cfg(test)]
mod tests;
