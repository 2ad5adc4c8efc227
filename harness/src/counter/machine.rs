//! What this machine lets a process count, and in words why it does not.

use super::counting::{Why, is_denied};
use super::group::{Event, Way};
use crate::host;
use rustix::io::Errno;
use std::collections::HashSet;
use std::io;
use std::path::{Path, PathBuf};

/// Makers of CPUs whose codes the groups know.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Vendor {
    Amd,
    Intel,
    Arm,
}

impl Vendor {
    /// An event's ways that are meant for CPUs of this maker.
    pub(super) fn ways(self, event: &Event) -> &[Way] {
        match self {
            Vendor::Amd => &event.amd,
            Vendor::Intel => &event.intel,
            Vendor::Arm => &event.arm,
        }
    }
}

/// The machine, as far as it decides what can be counted.
#[derive(Debug, Clone)]
pub(super) struct Machine {
    /// Below which its system files lie.
    pub(super) root: PathBuf,
    pub(super) vendor: Option<Vendor>,
    flags: HashSet<String>,
    virtual_machine: bool,
}

impl Machine {
    /// This machine.
    pub(super) fn here() -> Machine {
        Machine::at(Path::new("/"))
    }

    /// The machine described below a folder.
    pub(super) fn at(root: &Path) -> Machine {
        let cpuinfo = std::fs::read_to_string(root.join("proc/cpuinfo")).unwrap_or_default();
        let field = |name: &str| host::cpuinfo_field(&cpuinfo, name);
        let vendor = match (field("vendor_id").as_deref(), field("CPU implementer")) {
            (Some("AuthenticAMD" | "HygonGenuine"), _) => Some(Vendor::Amd),
            (Some("GenuineIntel"), _) => Some(Vendor::Intel),
            (_, Some(_)) => Some(Vendor::Arm),
            _ => None,
        };
        let flags = field("flags").unwrap_or_default();
        let family = field("cpu family").map(|family| format!("family-{family}"));
        let flags: HashSet<String> = flags
            .split_whitespace()
            .map(str::to_owned)
            .chain(family)
            .collect();
        Machine {
            root: root.to_owned(),
            vendor,
            virtual_machine: flags.contains("hypervisor"),
            flags,
        }
    }

    /// Whether the CPU has all of these flags.
    pub(super) fn has_flags(&self, needs: &str) -> bool {
        needs
            .split_whitespace()
            .all(|flag| self.flags.contains(flag))
    }

    /// Refuses where all memory is on one node.
    pub(super) fn several_nodes(&self) -> Result<(), Why> {
        let nodes = super::place::nodes(&self.root);
        match nodes > 1 {
            true => Ok(()),
            false => Err((
                "this machine has one memory node: all memory is local".into(),
                None,
            )),
        }
    }

    fn paranoid(&self) -> Option<i32> {
        let file = self.root.join("proc/sys/kernel/perf_event_paranoid");
        std::fs::read_to_string(file).ok()?.trim().parse().ok()
    }

    /// Why an event that the kernel, or the CPU, has a name for is refused.
    pub(super) fn refused_core(&self, error: &io::Error) -> Why {
        let devices = host::names(&self.root.join(super::sysfs::DEVICES));
        let mut devices = devices.iter().flatten();
        if !is_denied(error) && !devices.any(|name| host::is_core_pmu(name)) {
            let reason = "this machine shows no event source for the CPU's counters".to_owned();
            return self.no_source(reason);
        }
        self.refused_thread(error)
    }

    /// Why an event of a PMU that is there is refused for a thread.
    pub(super) fn refused_thread(&self, error: &io::Error) -> Why {
        if is_denied(error) {
            return match self.paranoid() {
                Some(level) if level > host::PARANOID_USER_MAX => (
                    format!("the kernel is closed to this user: perf_event_paranoid is {level}"),
                    Some(host::PARANOID_ADVICE.into()),
                ),
                _ => self.filtered(error),
            };
        }
        match Errno::from_io_error(error) {
            Some(Errno::MFILE) => (
                "the process may open no more files".into(),
                Some("ulimit -n 8192".into()),
            ),
            _ => (
                format!("the PMU's driver has no such event ({error})"),
                None,
            ),
        }
    }

    /// Why an event of the whole machine is refused.
    pub(super) fn refused_machine(&self, error: &io::Error) -> Why {
        match (is_denied(error), self.paranoid()) {
            (true, Some(level)) if level > 0 => (
                format!(
                    "counting the whole machine is closed to this user: perf_event_paranoid is {level}"
                ),
                Some("sudo sysctl kernel.perf_event_paranoid=0".into()),
            ),
            (true, _) => self.filtered(error),
            (false, _) => (format!("the kernel refused it ({error})"), None),
        }
    }

    /// A refusal that the kernel's own setting does not explain.
    fn filtered(&self, error: &io::Error) -> Why {
        (
            format!(
                "the kernel refused it although perf_event_paranoid allows it ({error}): a container's filter?"
            ),
            Some(
                "start the container with --cap-add PERFMON, or --security-opt seccomp=unconfined"
                    .into(),
            ),
        )
    }

    /// A missing event source; on a virtual machine the host can show one.
    pub(super) fn no_source(&self, reason: String) -> Why {
        (
            reason,
            self.virtual_machine.then(|| host::NO_PMU_ADVICE.into()),
        )
    }
}
