//! Counters at work: opened before the timed part, read at its borders, turned into numbers after it.
//!
//! A hardware event is opened for every thread of the engine by its number, with those of its group in one perf group, so
//! that they count at the same time. Where the CPU has too few counters for a group, the rest of it begins another one,
//! and the kernel takes turns. What the kernel refuses becomes an [`Absent`] with the reason; nothing is ever 0 instead.

use super::group::{self, Event, SOFTWARE, Way};
use super::machine::Machine;
use super::place::{Energy, memory_by_node};
use super::software::ProcessUse;
use super::spec::{Attr, Numa, Software, Spec};
use super::system::{Kernel, Opening, Read as _, Reading, System, Target};
use super::{Request, sysfs};
use crate::record::{Absent, Count, Counters, Part, Source};
use std::io;

/// Points in time at which counters are read: before the prompt, after the first token, after the last.
const BORDERS: usize = 3;

/// The threads that are counted.
#[derive(Debug, Clone)]
pub struct Threads {
    /// Their numbers in the kernel.
    pub ids: Vec<i32>,
    /// The CPU of each; `None` where it is not pinned.
    pub cpus: Vec<Option<usize>>,
}

/// Open counters.
pub struct Counting {
    inner: Open<Kernel>,
}

impl Counting {
    /// Opens what is asked for. What cannot be had is noted, not an error.
    pub fn open(request: &Request, threads: Threads) -> Counting {
        Counting {
            inner: Open::new(Kernel, Machine::here(), request, threads),
        }
    }

    /// Reads everything, at the next of the three borders of the timed part.
    pub fn read(&mut self) {
        self.inner.read();
    }

    /// The numbers, after the last border; `None` if counting was switched off.
    pub fn finish(self) -> Option<Counters> {
        self.inner.finish()
    }
}

/// An event with its counters, one for each thread or CPU.
struct Hardware<C> {
    event: String,
    scale: f64,
    user_only: bool,
    machine: bool,
    counters: Vec<C>,
    /// What they showed at each border.
    readings: Vec<Vec<Reading>>,
}

/// An event of energy files, and what they showed at each border.
struct Meter {
    event: String,
    energy: Energy,
    readings: Vec<Option<Vec<u64>>>,
}

/// Counters of any system.
pub(super) struct Open<S: System> {
    system: S,
    machine: Machine,
    threads: Threads,
    enabled: bool,
    hardware: Vec<Hardware<S::Counter>>,
    software: Vec<(String, Software)>,
    energy: Vec<Meter>,
    numa: Vec<(String, Numa)>,
    uses: Vec<ProcessUse>,
    absent: Vec<Absent>,
    /// Why a counter that was open could not be read.
    broken: Vec<(String, String)>,
}

impl<S: System> Open<S> {
    pub(super) fn new(system: S, machine: Machine, request: &Request, threads: Threads) -> Open<S> {
        let mut open = Open {
            system,
            machine,
            threads,
            enabled: request.enabled,
            hardware: Vec::new(),
            software: Vec::new(),
            energy: Vec::new(),
            numa: Vec::new(),
            uses: Vec::with_capacity(BORDERS),
            absent: Vec::new(),
            broken: Vec::new(),
        };
        if !request.enabled {
            return open;
        }
        let asked = request.groups.iter().map(String::as_str);
        let names = [SOFTWARE]
            .into_iter()
            .chain(asked.filter(|n| *n != SOFTWARE));
        for group in names.filter_map(group::group) {
            let mut leader = None;
            for event in &group.events {
                open.event(&event.name, &open.machine.ways(event), &mut leader);
            }
        }
        let mut leader = None;
        for name in &request.events {
            let ways = match group::event(name) {
                Some(event) => open.machine.ways(event),
                None => vec![Way::plain(name)],
            };
            open.event(name, &ways, &mut leader);
        }
        open
    }

    /// Opens one event in the best way that works. `leader` is the event that leads the perf group so far.
    fn event(&mut self, name: &str, ways: &[Way], leader: &mut Option<usize>) {
        if self.has(name) {
            return;
        }
        let mut first: Option<Absent> = None;
        for way in ways {
            match self.way(name, way, leader) {
                Ok(()) => return,
                Err((reason, remedy)) => {
                    // The first way is the one that would have been best.
                    first.get_or_insert(Absent {
                        event: name.to_owned(),
                        part: None,
                        reason,
                        remedy,
                    });
                }
            }
        }
        self.absent.push(first.unwrap_or_else(|| Absent {
            event: name.to_owned(),
            part: None,
            reason: "this CPU has no such event".into(),
            remedy: None,
        }));
    }

    fn has(&self, name: &str) -> bool {
        let hardware = self.hardware.iter().map(|h| &h.event);
        let others = self.software.iter().map(|(n, _)| n);
        let others = others.chain(self.energy.iter().map(|meter| &meter.event));
        let others = others.chain(self.numa.iter().map(|(n, _)| n));
        hardware.chain(others).any(|n| n == name) || self.absent.iter().any(|a| a.event == name)
    }

    /// Opens one event in one way.
    fn way(&mut self, name: &str, way: &Way, leader: &mut Option<usize>) -> Result<(), Why> {
        let attr = match Spec::parse(&way.code) {
            None => return Err((format!("\"{}\" names no event", way.code), None)),
            Some(Spec::Software(what)) => {
                self.software.push((name.to_owned(), what));
                return Ok(());
            }
            Some(Spec::Powercap(domain)) => {
                let energy = Energy::find(&self.machine.root, &domain)?;
                self.energy.push(Meter {
                    event: name.to_owned(),
                    energy,
                    readings: Vec::with_capacity(BORDERS),
                });
                return Ok(());
            }
            Some(Spec::Numa(what)) => {
                self.machine.several_nodes()?;
                self.numa.push((name.to_owned(), what));
                return Ok(());
            }
            Some(Spec::Pmu { pmu, terms }) => {
                let found = sysfs::resolve(&self.machine.root, &pmu, &terms);
                let found = found.map_err(|reason| self.machine.no_source(reason))?;
                return self.pmu(name, way, &found, leader);
            }
            Some(Spec::Raw(config)) => Attr {
                kind: RAW,
                config,
                ..Attr::default()
            },
            Some(Spec::Generic(attr)) => attr,
        };
        let opened = self.of_threads(name, attr, way.scale, leader);
        opened.map_err(|e| self.machine.refused_core(&e))
    }

    /// Opens an event of PMUs that sysfs describes.
    fn pmu(
        &mut self,
        name: &str,
        way: &Way,
        found: &[sysfs::PmuEvent],
        leader: &mut Option<usize>,
    ) -> Result<(), Why> {
        if let [only] = found
            && only.cpus.is_none()
        {
            let opened = self.of_threads(name, only.attr, way.scale * only.scale, leader);
            return opened.map_err(|e| self.machine.refused_thread(&e));
        }
        let mut counters = Vec::new();
        for one in found {
            for &cpu in one.cpus.as_deref().unwrap_or_default() {
                let opening = Opening {
                    attr: one.attr,
                    target: Target::Cpu(cpu),
                    user_only: false,
                };
                let counter = self.system.open(opening, None);
                counters.push(counter.map_err(|e| self.machine.refused_machine(&e))?);
            }
        }
        if counters.is_empty() {
            return Err(("its event source names no CPU to count on".into(), None));
        }
        let scale = way.scale * found[0].scale;
        self.keep(name, scale, false, true, counters);
        Ok(())
    }

    /// Opens an event for every thread, beside the group's leader, alone, or without the kernel's part.
    fn of_threads(
        &mut self,
        name: &str,
        attr: Attr,
        scale: f64,
        leader: &mut Option<usize>,
    ) -> io::Result<()> {
        let mut refused = None;
        for user_only in [false, true] {
            // Beside the leader first; a group that is full, or of another PMU, is left alone.
            for beside in [*leader, None] {
                if beside.is_some_and(|i| self.hardware[i].user_only != user_only) {
                    continue;
                }
                match self.try_threads(attr, user_only, beside) {
                    Ok(counters) => {
                        self.keep(name, scale, user_only, false, counters);
                        if beside.is_none() {
                            *leader = Some(self.hardware.len() - 1);
                        }
                        return Ok(());
                    }
                    Err(e) => refused = Some(e),
                }
            }
            if !refused.as_ref().is_some_and(is_denied) {
                break;
            }
        }
        Err(refused.unwrap_or_else(|| io::Error::other("nothing was tried")))
    }

    fn try_threads(
        &mut self,
        attr: Attr,
        user_only: bool,
        beside: Option<usize>,
    ) -> io::Result<Vec<S::Counter>> {
        let mut counters = Vec::with_capacity(self.threads.ids.len());
        for (i, &id) in self.threads.ids.iter().enumerate() {
            let opening = Opening {
                attr,
                target: Target::Thread(id),
                user_only,
            };
            let leader = beside.map(|at| &mut self.hardware[at].counters[i]);
            counters.push(self.system.open(opening, leader)?);
        }
        Ok(counters)
    }

    fn keep(
        &mut self,
        event: &str,
        scale: f64,
        user_only: bool,
        machine: bool,
        counters: Vec<S::Counter>,
    ) {
        let readings = (0..BORDERS).map(|_| Vec::with_capacity(counters.len()));
        self.hardware.push(Hardware {
            event: event.to_owned(),
            scale,
            user_only,
            machine,
            readings: readings.collect(),
            counters,
        });
    }

    /// Reads everything at the next border.
    pub(super) fn read(&mut self) {
        let border = self.uses.len();
        if !self.enabled || border == BORDERS {
            return;
        }
        self.uses.push(ProcessUse::of_self());
        for hardware in &mut self.hardware {
            for counter in &mut hardware.counters {
                match counter.read() {
                    Ok(reading) => hardware.readings[border].push(reading),
                    Err(e) => self.broken.push((hardware.event.clone(), e.to_string())),
                }
            }
        }
        for meter in &mut self.energy {
            meter.readings.push(meter.energy.read_uj());
        }
    }

    /// The numbers.
    pub(super) fn finish(mut self) -> Option<Counters> {
        if !self.enabled {
            return None;
        }
        let mut counters = Counters::default();
        for (border, part) in Part::ALL.into_iter().enumerate() {
            let counts = self.part(border, part);
            match part {
                Part::Prefill => counters.prefill = counts,
                Part::Decode => counters.decode = counts,
            }
        }
        if !self.numa.is_empty() {
            let memory = memory_by_node(&self.machine.root, &self.threads.cpus);
            for (event, what) in &self.numa {
                match &memory {
                    Ok((local, remote)) => counters.end.push(Count {
                        event: event.clone(),
                        value: match what {
                            Numa::Local => *local as f64,
                            Numa::Remote => *remote as f64,
                        },
                        source: Source::Software,
                        running: None,
                        machine: false,
                    }),
                    Err(reason) => self.absent.push(absent(event, None, reason, None)),
                }
            }
        }
        counters.absent = self.absent;
        Some(counters)
    }

    /// What was counted between a border and the next.
    fn part(&mut self, border: usize, part: Part) -> Vec<Count> {
        let mut counts = Vec::new();
        let Some([before, after]) = self.uses.get(border..border + 2) else {
            return counts;
        };
        let passed = after.since(before);
        for (event, what) in &self.software {
            match passed.get(*what) {
                Some(n) => counts.push(Count {
                    event: event.clone(),
                    value: n as f64,
                    source: Source::Software,
                    running: None,
                    machine: false,
                }),
                None => {
                    let reason = "this kernel does not count it for a process";
                    self.absent.push(absent(event, Some(part), reason, None));
                }
            }
        }
        for hardware in &self.hardware {
            let broken = self
                .broken
                .iter()
                .find(|(event, _)| *event == hardware.event);
            match (broken, count(hardware, border)) {
                (None, Ok(count)) => counts.push(count),
                (None, Err((reason, remedy))) => {
                    self.absent
                        .push(absent(&hardware.event, Some(part), &reason, remedy));
                }
                (Some((_, why)), _) => {
                    let reason = format!("the counter could not be read: {why}");
                    self.absent
                        .push(absent(&hardware.event, Some(part), &reason, None));
                }
            }
        }
        for meter in &self.energy {
            match &meter.readings[border..border + 2] {
                [Some(before), Some(after)] => counts.push(Count {
                    event: meter.event.clone(),
                    value: meter.energy.joules(before, after),
                    source: Source::Hardware,
                    running: None,
                    machine: true,
                }),
                _ => {
                    let reason = "the energy files could not be read";
                    self.absent
                        .push(absent(&meter.event, Some(part), reason, None));
                }
            }
        }
        counts
    }
}

/// `PERF_TYPE_RAW`.
const RAW: u32 = 4;

/// Why something cannot be had, and what would help.
pub(super) type Why = (String, Option<String>);

fn absent(event: &str, part: Option<Part>, reason: &str, remedy: Option<String>) -> Absent {
    Absent {
        event: event.to_owned(),
        part,
        reason: reason.to_owned(),
        remedy,
    }
}

/// Whether the kernel has the event but will not show it.
pub(super) fn is_denied(error: &io::Error) -> bool {
    error.kind() == io::ErrorKind::PermissionDenied
}

/// An event's sum over its counters between a border and the next.
fn count<C>(hardware: &Hardware<C>, border: usize) -> Result<Count, Why> {
    let (mut value, mut enabled, mut running) = (0.0, 0u64, 0u64);
    let pairs = hardware.readings[border].iter();
    for (before, after) in pairs.zip(&hardware.readings[border + 1]) {
        // The kernel extends counters of fewer bits to 64, which may wrap once.
        let counted = after.count.wrapping_sub(before.count);
        let enabled_ns = after.enabled_ns.saturating_sub(before.enabled_ns);
        let running_ns = after
            .running_ns
            .saturating_sub(before.running_ns)
            .min(enabled_ns);
        (enabled, running) = (enabled + enabled_ns, running + running_ns);
        match (enabled_ns, running_ns) {
            // A thread that was on no CPU has nothing to count.
            (0, _) => {}
            (_, 0) => {
                return Err((
                    "the counter never ran: other counters held the CPU's few all the time".into(),
                    Some("sudo sysctl kernel.nmi_watchdog=0, or ask for fewer groups".into()),
                ));
            }
            _ => value += counted as f64 * (enabled_ns as f64 / running_ns as f64),
        }
    }
    if enabled == 0 {
        return Err((
            "no thread was on a CPU while the counter was open".into(),
            None,
        ));
    }
    Ok(Count {
        event: hardware.event.clone(),
        value: value * hardware.scale,
        source: match (hardware.user_only, running < enabled) {
            (true, _) => Source::UserOnly,
            (false, true) => Source::HardwareScaled,
            (false, false) => Source::Hardware,
        },
        running: Some(running as f64 / enabled as f64),
        machine: hardware.machine,
    })
}

impl Machine {
    /// The ways to ask for an event on this CPU: those of its maker, then those of all.
    pub(super) fn ways(&self, event: &Event) -> Vec<Way> {
        let own = self.vendor.map(|vendor| vendor.ways(event));
        let all = own.into_iter().flatten().chain(&event.any);
        all.filter(|way| self.has_flags(&way.needs))
            .cloned()
            .collect()
    }
}
