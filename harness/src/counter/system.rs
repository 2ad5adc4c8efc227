//! The kernel's side of a counter, behind a trait, so that tests answer in its place.

use super::spec::Attr;
use perf_event::events::Software;
use perf_event::{Builder, Counter};
use std::io;

/// Whom a counter watches.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Target {
    /// A thread of this process, on any CPU.
    Thread(i32),
    /// A CPU, whatever runs there.
    Cpu(usize),
}

/// How a counter is opened.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Opening {
    pub(super) attr: Attr,
    pub(super) target: Target,
    /// Leaves out what happens in the kernel.
    pub(super) user_only: bool,
}

/// What a counter shows; all three only rise.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Reading {
    pub(super) count: u64,
    /// Time in which the counter should have counted.
    pub(super) enabled_ns: u64,
    /// Time in which it did.
    pub(super) running_ns: u64,
}

/// An open counter. It counts from the moment it is opened.
pub(super) trait Read {
    fn read(&mut self) -> io::Result<Reading>;
}

/// What opens counters.
pub(super) trait System {
    type Counter: Read;

    /// Opens a counter, to be scheduled together with the group of `leader`.
    fn open(
        &self,
        opening: Opening,
        leader: Option<&mut Self::Counter>,
    ) -> io::Result<Self::Counter>;
}

/// The kernel itself.
#[derive(Debug, Clone, Copy)]
pub(super) struct Kernel;

impl Read for Counter {
    fn read(&mut self) -> io::Result<Reading> {
        let data = self.read_full()?;
        let ns = |time: Option<std::time::Duration>| time.map_or(0, |t| t.as_nanos() as u64);
        Ok(Reading {
            count: data.count(),
            enabled_ns: ns(data.time_enabled()),
            running_ns: ns(data.time_running()),
        })
    }
}

impl System for Kernel {
    type Counter = Counter;

    fn open(&self, opening: Opening, leader: Option<&mut Counter>) -> io::Result<Counter> {
        let mut builder = Builder::new(Software::DUMMY);
        let attrs = builder.attrs_mut();
        attrs.type_ = opening.attr.kind;
        attrs.config = opening.attr.config;
        attrs.config1 = opening.attr.config1;
        attrs.config2 = opening.attr.config2;
        match opening.target {
            Target::Thread(id) => {
                builder.observe_pid(id).any_cpu();
            }
            Target::Cpu(cpu) => {
                builder.any_pid().one_cpu(cpu);
            }
        }
        // Some PMUs refuse to leave anything out.
        builder
            .exclude_kernel(opening.user_only)
            .exclude_hv(opening.user_only);
        builder.enabled(true);
        match leader {
            Some(leader) => builder.build_with_group(leader),
            None => builder.build(),
        }
    }
}
