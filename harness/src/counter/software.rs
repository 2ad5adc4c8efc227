//! What the kernel keeps for a process in any case: page faults, switches, migrations, CPU time.

use super::spec::Software;
use nix::sys::resource::{UsageWho, getrusage};
use serde::{Deserialize, Serialize};
use std::path::Path;

/// What has happened to a process or in a stretch of time, summed over threads; `None` where the kernel does not say.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct ProcessUse {
    /// Page faults served without I/O.
    pub minor_faults: Option<u64>,
    /// Page faults that waited for I/O.
    pub major_faults: Option<u64>,
    /// Times a thread gave up its CPU.
    pub voluntary_switches: Option<u64>,
    /// Times a thread was made to give up its CPU.
    pub involuntary_switches: Option<u64>,
    /// Times a thread moved to another CPU.
    pub migrations: Option<u64>,
    /// Time on a CPU in nanoseconds; the kernel tells microseconds.
    pub cpu_ns: Option<u64>,
}

impl ProcessUse {
    /// Of this process until now, over all its threads.
    pub fn of_self() -> ProcessUse {
        ProcessUse {
            migrations: migrations(Path::new("/proc/self/task")),
            ..ProcessUse::of(UsageWho::RUSAGE_SELF)
        }
    }

    /// Of all children that have ended so far.
    pub fn of_children() -> ProcessUse {
        ProcessUse::of(UsageWho::RUSAGE_CHILDREN)
    }

    fn of(who: UsageWho) -> ProcessUse {
        let Ok(usage) = getrusage(who) else {
            return ProcessUse::default();
        };
        let count = |n: i64| u64::try_from(n).ok();
        let (user, system) = (usage.user_time(), usage.system_time());
        let us = (user.tv_sec() + system.tv_sec()) * 1_000_000 + user.tv_usec() + system.tv_usec();
        ProcessUse {
            minor_faults: count(usage.minor_page_faults()),
            major_faults: count(usage.major_page_faults()),
            voluntary_switches: count(usage.voluntary_context_switches()),
            involuntary_switches: count(usage.involuntary_context_switches()),
            migrations: None,
            cpu_ns: count(us).map(|us| us * 1000),
        }
    }

    /// What has happened since `before`.
    pub fn since(&self, before: &ProcessUse) -> ProcessUse {
        let minus = |a: Option<u64>, b: Option<u64>| a?.checked_sub(b?);
        ProcessUse {
            minor_faults: minus(self.minor_faults, before.minor_faults),
            major_faults: minus(self.major_faults, before.major_faults),
            voluntary_switches: minus(self.voluntary_switches, before.voluntary_switches),
            involuntary_switches: minus(self.involuntary_switches, before.involuntary_switches),
            migrations: minus(self.migrations, before.migrations),
            cpu_ns: minus(self.cpu_ns, before.cpu_ns),
        }
    }

    /// One of the numbers.
    pub(super) fn get(&self, what: Software) -> Option<u64> {
        match what {
            Software::MinorFaults => self.minor_faults,
            Software::MajorFaults => self.major_faults,
            Software::PageFaults => Some(self.minor_faults? + self.major_faults?),
            Software::ContextSwitches => {
                Some(self.voluntary_switches? + self.involuntary_switches?)
            }
            Software::Migrations => self.migrations,
            Software::TaskClock => self.cpu_ns,
        }
    }
}

/// Moves between CPUs of all threads under `tasks`; `None` where the kernel does not count them.
fn migrations(tasks: &Path) -> Option<u64> {
    let mut sum = 0;
    for task in std::fs::read_dir(tasks).ok()? {
        let sched = std::fs::read_to_string(task.ok()?.path().join("sched")).ok()?;
        let line = sched.lines().find(|l| l.starts_with("se.nr_migrations"))?;
        sum += line.split_once(':')?.1.trim().parse::<u64>().ok()?;
    }
    Some(sum)
}
