//! How an event is asked for: perf's name for it, a raw code, an event that sysfs describes, or a file of the kernel.
//!
//! The spelling is perf's: `cycles`, `r01c2`, `cpu/event=0xc2,umask=0x1/`, `power/energy-pkg/`; a `*` at the end of a PMU's
//! name adds up all PMUs that begin so, such as the channels of a memory controller.

use perf_event::Builder;
use perf_event::events::{Cache, CacheId, CacheOp, CacheResult, Event, Hardware};

/// An event as it was asked for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Spec {
    /// A name that the kernel knows for every CPU.
    Generic(Attr),
    /// A code of this CPU.
    Raw(u64),
    /// An event of a PMU in sysfs: the PMU's name, and the event's name or fields.
    Pmu {
        /// Name, perhaps with a `*` at its end.
        pmu: String,
        /// What stands between the slashes.
        terms: String,
    },
    /// The kernel's bookkeeping for this process.
    Software(Software),
    /// Energy of a domain of `/sys/class/powercap`, in joules.
    Powercap(String),
    /// Memory of this process by node, in bytes.
    Numa(Numa),
}

/// What the kernel keeps for a process.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Software {
    MinorFaults,
    MajorFaults,
    PageFaults,
    ContextSwitches,
    Migrations,
    TaskClock,
}

/// Where memory lies.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Numa {
    Local,
    Remote,
}

/// What the kernel is asked to count: the fields of `struct perf_event_attr` that name an event.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Attr {
    pub(super) kind: u32,
    pub(super) config: u64,
    pub(super) config1: u64,
    pub(super) config2: u64,
}

impl Attr {
    fn of(event: impl Event) -> Attr {
        let builder = Builder::new(event);
        let attrs = builder.attrs();
        Attr {
            kind: attrs.type_,
            config: attrs.config,
            ..Attr::default()
        }
    }
}

const SOFTWARE: [(&str, Software); 6] = [
    ("minor-faults", Software::MinorFaults),
    ("major-faults", Software::MajorFaults),
    ("page-faults", Software::PageFaults),
    ("context-switches", Software::ContextSwitches),
    ("cpu-migrations", Software::Migrations),
    ("task-clock", Software::TaskClock),
];

/// Events of the cores that the kernel has names for.
const HARDWARE: [(&str, Hardware); 9] = [
    ("cycles", Hardware::CPU_CYCLES),
    ("ref-cycles", Hardware::REF_CPU_CYCLES),
    ("instructions", Hardware::INSTRUCTIONS),
    ("branches", Hardware::BRANCH_INSTRUCTIONS),
    ("branch-misses", Hardware::BRANCH_MISSES),
    ("cache-references", Hardware::CACHE_REFERENCES),
    ("cache-misses", Hardware::CACHE_MISSES),
    ("stalled-cycles-frontend", Hardware::STALLED_CYCLES_FRONTEND),
    ("stalled-cycles-backend", Hardware::STALLED_CYCLES_BACKEND),
];

/// Caches that the kernel has names for: each with `-loads` and `-load-misses`.
const CACHES: [(&str, CacheId); 6] = [
    ("L1-dcache", CacheId::L1D),
    ("L1-icache", CacheId::L1I),
    ("LLC", CacheId::LL),
    ("dTLB", CacheId::DTLB),
    ("iTLB", CacheId::ITLB),
    ("node", CacheId::NODE),
];

impl Spec {
    /// Reads an event as it is spelled; `None` if it is spelled like none.
    pub(super) fn parse(text: &str) -> Option<Spec> {
        if let Some((_, software)) = SOFTWARE.iter().find(|(name, _)| *name == text) {
            return Some(Spec::Software(*software));
        }
        if let Some((_, event)) = HARDWARE.iter().find(|(name, _)| *name == text) {
            return Some(Spec::Generic(Attr::of(*event)));
        }
        if let Some(cache) = cache(text) {
            return Some(Spec::Generic(Attr::of(cache)));
        }
        if let Some(digits) = text.strip_prefix('r').filter(|d| !d.is_empty()) {
            return u64::from_str_radix(digits, 16).ok().map(Spec::Raw);
        }
        let (pmu, terms) = text.strip_suffix('/')?.split_once('/')?;
        // Both become parts of a path.
        let plain = |text: &str, extra: &str| {
            let allowed = |c: char| c.is_ascii_alphanumeric() || "_-.".contains(c);
            !text.starts_with('.') && text.chars().all(|c| allowed(c) || extra.contains(c))
        };
        let stem = pmu.strip_suffix('*').unwrap_or(pmu);
        if stem.is_empty() || terms.is_empty() || !plain(stem, "") || !plain(terms, "=,") {
            return None;
        }
        Some(match (pmu, terms) {
            ("powercap", domain) => Spec::Powercap(domain.to_owned()),
            ("numa_maps", "local") => Spec::Numa(Numa::Local),
            ("numa_maps", "remote") => Spec::Numa(Numa::Remote),
            _ => Spec::Pmu {
                pmu: pmu.to_owned(),
                terms: terms.to_owned(),
            },
        })
    }

    /// Names that need no code, for suggestions.
    pub(super) fn names() -> impl Iterator<Item = String> {
        let software = SOFTWARE.iter().map(|(name, _)| (*name).to_owned());
        let hardware = HARDWARE.iter().map(|(name, _)| (*name).to_owned());
        let caches = CACHES
            .iter()
            .flat_map(|(name, _)| ["loads", "load-misses"].map(|what| format!("{name}-{what}")));
        software.chain(hardware).chain(caches)
    }
}

/// A cache event by perf's name.
fn cache(text: &str) -> Option<Cache> {
    CACHES.iter().find_map(|(name, which)| {
        let what = text.strip_prefix(name)?.strip_prefix('-')?;
        let result = match what {
            "loads" => CacheResult::ACCESS,
            "load-misses" => CacheResult::MISS,
            _ => return None,
        };
        Some(Cache {
            which: *which,
            operation: CacheOp::READ,
            result,
        })
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn perfs_spellings_are_read() {
        let pmu = |pmu: &str, terms: &str| Spec::Pmu {
            pmu: pmu.into(),
            terms: terms.into(),
        };
        let attr = |kind, config| {
            Spec::Generic(Attr {
                kind,
                config,
                ..Attr::default()
            })
        };
        // Numbers of include/uapi/linux/perf_event.h.
        let rows = [
            ("cycles", Some(attr(0, 0))),
            ("branch-misses", Some(attr(0, 5))),
            ("L1-dcache-load-misses", Some(attr(3, 0x1_0000))),
            ("LLC-loads", Some(attr(3, 2))),
            ("dTLB-load-misses", Some(attr(3, 0x1_0003))),
            ("task-clock", Some(Spec::Software(Software::TaskClock))),
            ("r1000001a0", Some(Spec::Raw(0x1_0000_01a0))),
            ("cpu/slots/", Some(pmu("cpu", "slots"))),
            (
                "amd_umc_*/event=0x0a,rdwrmask=0x1/",
                Some(pmu("amd_umc_*", "event=0x0a,rdwrmask=0x1")),
            ),
            ("powercap/dram/", Some(Spec::Powercap("dram".into()))),
            ("numa_maps/remote/", Some(Spec::Numa(Numa::Remote))),
            ("cycle", None),
            ("r", None),
            ("rxyz", None),
            ("LLC-stores", None),
            ("cpu/slots", None),
            ("../x/y/", None),
            ("*/x/", None),
            ("cpu/../", None),
        ];
        for (text, expect) in rows {
            assert_eq!(Spec::parse(text), expect, "{text}");
        }
        assert!(Spec::names().all(|name| Spec::parse(&name).is_some()));
    }
}
