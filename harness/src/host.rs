//! What the machine says about itself, and what on it will disturb a measurement.
//!
//! Everything is read below a root folder, so that tests describe machines as folders. A fact that could not be
//! read is `None`; a finding about it says so, and never guesses.

mod findings;

use engine::topology::{self, Topology};
use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};
use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// Time over which CPU use and steal are sampled.
const SAMPLE_TIME: Duration = Duration::from_millis(300);
/// Hexadecimal digits of a machine's fingerprint.
const FINGERPRINT_DIGITS: usize = 12;
/// Longest system file that is read, in bytes.
const SYSTEM_FILE_BYTES_MAX: u64 = 4 << 20;
/// CPU features that decide which kernels can run, as `/proc/cpuinfo` names them.
const FEATURES: [&str; 17] = [
    "sse4_2",
    "f16c",
    "fma",
    "avx",
    "avx2",
    "avx_vnni",
    "avx_vnni_int8",
    "avx512f",
    "avx512bw",
    "avx512vl",
    "avx512_vnni",
    "avx512_bf16",
    "avx512_fp16",
    "amx_int8",
    "amx_bf16",
    "asimddp",
    "sve",
];

/// Facts about the machine; what could not be read is `None`.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct HostFacts {
    /// CPU model name.
    pub cpu: Option<String>,
    /// Instruction sets that matter to the kernels, as `/proc/cpuinfo` names them.
    pub features: Vec<String>,
    /// CPUs this process may use, in the kernel's list notation.
    pub cpus_allowed: String,
    /// Number of CPUs this process may use.
    pub cpus: usize,
    /// Physical cores among them.
    pub cores: usize,
    /// Sockets among them.
    pub packages: usize,
    /// NUMA nodes among them.
    pub numa_nodes: usize,
    /// Last-level cache domains among them.
    pub l3_domains: usize,
    /// Whether cores have more than one hardware thread in use.
    pub smt: Option<bool>,
    /// Caches of the first CPU, lowest level first.
    pub caches: Vec<Cache>,
    /// CPUs' worth of time the cgroup grants; `None` without a limit.
    pub quota_cpus: Option<f64>,
    /// Memory of the machine in bytes.
    pub memory_bytes: Option<u64>,
    /// Memory free for programs at the start, within the cgroup's limit, in bytes.
    pub memory_available_bytes: Option<u64>,
    /// Kernel release.
    pub kernel: Option<String>,
    /// Operating system's own name.
    pub os: Option<String>,
    /// Whether a hypervisor runs this machine.
    pub hypervisor: Option<bool>,
    /// Frequency governor.
    pub governor: Option<String>,
    /// Whether the clock may rise above the base frequency.
    pub boost: Option<bool>,
    /// Transparent huge pages: `always`, `madvise`, `never`.
    pub thp: Option<String>,
    /// Clock source of the kernel.
    pub clocksource: Option<String>,
    /// What will disturb a measurement, and what will not.
    pub findings: Vec<Finding>,
}

/// `perf_event_paranoid` up to which a user may count his own programs, kernel excluded.
pub(crate) const PARANOID_USER_MAX: i32 = 2;
/// What opens the counters that there are.
pub(crate) const PARANOID_ADVICE: &str = "sudo sysctl kernel.perf_event_paranoid=1";
/// What gives a virtual machine counters.
pub(crate) const NO_PMU_ADVICE: &str =
    "use a machine type with a virtual PMU or bare metal (KVM: -cpu host,pmu=on)";

/// Whether an event source is that of the cores.
pub(crate) fn is_core_pmu(name: &str) -> bool {
    matches!(name, "cpu" | "cpu_core") || name.starts_with("armv8")
}

/// One cache as seen by one CPU.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Cache {
    /// 1 is nearest to the core.
    pub level: u32,
    /// `Data`, `Instruction` or `Unified`.
    pub kind: String,
    /// Size in bytes.
    pub bytes: u64,
    /// CPUs that share it.
    pub shared_by: usize,
    /// Ways of a set; 0 where any line may lie anywhere.
    #[serde(default)]
    pub ways: Option<u32>,
    /// Bytes of a line.
    #[serde(default)]
    pub line_bytes: Option<u32>,
}

/// How a finding bears on a measurement.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Status {
    /// As it should be.
    Good,
    /// Worth knowing when reading results.
    Note,
    /// Will disturb a measurement.
    Warn,
    /// Could not be read.
    Unknown,
}

impl Status {
    /// The status as a word.
    pub fn name(self) -> &'static str {
        match self {
            Status::Good => "good",
            Status::Note => "note",
            Status::Warn => "warn",
            Status::Unknown => "unknown",
        }
    }
}

/// One thing that was looked at.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Finding {
    /// What was looked at: `governor`.
    pub topic: String,
    /// How it bears on a measurement.
    pub status: Status,
    /// What was found.
    pub found: String,
    /// Where it was read.
    pub source: String,
    /// What that means for a measurement.
    pub means: String,
    /// A command, or a step, that changes it.
    pub advice: Option<String>,
}

/// Where a machine is described.
struct Place<'a> {
    root: &'a Path,
    /// Folders that are searched for programs.
    search: Vec<PathBuf>,
    /// Free bytes on the disk of the working folder.
    disk_free_bytes: Option<u64>,
}

impl HostFacts {
    /// What a machine is recognised by: the first digits of a hash over its CPU, what this process may use of it, its
    /// caches, and its memory to the nearest GiB. The same on every boot; machines bought alike share it.
    pub fn fingerprint(&self) -> String {
        let memory_gib = self
            .memory_bytes
            .map(|b| (b as f64 / f64::from(1 << 30)).round());
        let topology = (self.cpus, self.cores, self.packages, self.numa_nodes);
        let caches = self.caches.iter();
        let caches = caches.map(|c| (c.level, &c.kind, c.bytes, c.shared_by));
        let facts = (
            &self.cpu,
            topology,
            caches.collect::<Vec<_>>(),
            self.quota_cpus,
            memory_gib,
        );
        let hash = format!("{:x}", Sha256::digest(format!("{facts:?}")));
        hash[..FINGERPRINT_DIGITS].to_owned()
    }

    /// Reads this machine; takes about 0.3 s, in which CPU use is sampled.
    pub fn read() -> HostFacts {
        let place = Place {
            root: Path::new("/"),
            search: search_folders(),
            disk_free_bytes: rustix::fs::statvfs(".")
                .ok()
                .map(|s| s.f_bavail * s.f_frsize),
        };
        HostFacts::from_place(&place, || std::thread::sleep(SAMPLE_TIME))
    }

    /// Reads the machine described under `place`; `pause` lies between the two samples of CPU use.
    fn from_place(place: &Place<'_>, pause: impl FnOnce()) -> HostFacts {
        let before = CpuTimes::read(place);
        let mut facts = HostFacts::without_findings(place);
        pause();
        let after = CpuTimes::read(place);
        facts.findings = findings::all(place, &facts, before, after);
        facts
    }

    fn without_findings(place: &Place<'_>) -> HostFacts {
        let topology = Topology::from_root(place.root);
        let cpuinfo = place.text("proc/cpuinfo").unwrap_or_default();
        let field = |name: &str| cpuinfo_field(&cpuinfo, name);
        let flags = field("flags")
            .or_else(|| field("Features"))
            .unwrap_or_default();
        let flags: Vec<&str> = flags.split_whitespace().collect();
        let distinct = |of: fn(&topology::Cpu) -> usize| {
            topology
                .cpus
                .iter()
                .map(of)
                .collect::<std::collections::BTreeSet<_>>()
                .len()
        };
        HostFacts {
            cpu: field("model name"),
            features: FEATURES
                .iter()
                .filter(|f| flags.contains(f))
                .map(|f| (*f).to_owned())
                .collect(),
            cpus_allowed: topology::format_cpu_list(topology.cpus.iter().map(|c| c.id)),
            cpus: topology.cpus.len(),
            cores: topology.cores(),
            packages: distinct(|c| c.package),
            numa_nodes: distinct(|c| c.numa),
            l3_domains: distinct(|c| c.l3),
            smt: place
                .word("sys/devices/system/cpu/smt/active")
                .map(|w| w == "1"),
            caches: caches(place, topology.cpus[0].id),
            quota_cpus: topology.quota_cpus,
            memory_bytes: place.meminfo("MemTotal"),
            memory_available_bytes: available_memory(place),
            kernel: place.word("proc/sys/kernel/osrelease"),
            os: place.text("etc/os-release").and_then(|t| os_name(&t)),
            hypervisor: (!flags.is_empty() && field("flags").is_some())
                .then(|| flags.contains(&"hypervisor")),
            governor: place.word(&format!(
                "sys/devices/system/cpu/cpu{}/cpufreq/scaling_governor",
                topology.cpus[0].id
            )),
            boost: boost(place),
            thp: place
                .text("sys/kernel/mm/transparent_hugepage/enabled")
                .and_then(|t| Some(t.split_once('[')?.1.split_once(']')?.0.to_owned())),
            clocksource: place
                .word("sys/devices/system/clocksource/clocksource0/current_clocksource"),
            findings: Vec::new(),
        }
    }

    /// The machine in one line: `AMD EPYC, 2 cores, 32 MiB L3, 23.5 GiB memory, Linux 6.18`.
    pub fn summary(&self) -> String {
        let mut parts = vec![self.cpu.clone().unwrap_or_else(|| "unknown CPU".to_owned())];
        parts.push(match self.cpus == self.cores {
            true => plural(self.cores, "core"),
            false => format!(
                "{} with {}",
                plural(self.cores, "core"),
                plural(self.cpus, "hardware thread")
            ),
        });
        if let Some(cache) = self.caches.last().filter(|c| c.level >= 2) {
            parts.push(format!("{} L{}", binary_bytes(cache.bytes), cache.level));
        }
        if let Some(bytes) = self.memory_bytes {
            parts.push(format!("{} memory", binary_bytes(bytes)));
        }
        if let Some(kernel) = &self.kernel {
            parts.push(format!("Linux {kernel}"));
        }
        if self.hypervisor == Some(true) {
            parts.push("virtual machine".to_owned());
        }
        parts.join(", ")
    }

    /// Findings that will disturb a measurement.
    pub fn warnings(&self) -> impl Iterator<Item = &Finding> {
        self.findings.iter().filter(|f| f.status == Status::Warn)
    }
}

impl Place<'_> {
    /// The text of a file, relative to the root.
    fn text(&self, path: &str) -> Option<String> {
        let mut text = String::new();
        let file = File::open(self.root.join(path)).ok()?;
        file.take(SYSTEM_FILE_BYTES_MAX)
            .read_to_string(&mut text)
            .ok()?;
        Some(text)
    }

    /// The text of a one-word file.
    fn word(&self, path: &str) -> Option<String> {
        let text = self.text(path)?.trim().to_owned();
        (!text.is_empty()).then_some(text)
    }

    fn number<T: std::str::FromStr>(&self, path: &str) -> Option<T> {
        self.word(path)?.parse().ok()
    }

    /// A line of `/proc/meminfo`, in bytes.
    fn meminfo(&self, name: &str) -> Option<u64> {
        let text = self.text("proc/meminfo")?;
        let line = text
            .lines()
            .find_map(|l| l.strip_prefix(name)?.strip_prefix(':'))?;
        let kib: u64 = line.split_whitespace().next()?.parse().ok()?;
        kib.checked_mul(1024)
    }

    /// Names of the entries of a folder, sorted.
    fn names(&self, path: &str) -> Option<Vec<String>> {
        names(&self.root.join(path))
    }

    /// Whether a program of this name lies in the search folders.
    fn has_program(&self, name: &str) -> bool {
        self.search.iter().any(|dir| dir.join(name).is_file())
    }
}

/// The folders that programs are looked for in.
#[allow(
    clippy::disallowed_methods,
    reason = "the one place that reads the environment"
)]
fn search_folders() -> Vec<PathBuf> {
    let search = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&search).collect()
}

/// Where a program of this name lies in the search folders.
pub fn program(name: &str) -> Option<PathBuf> {
    let mut places = search_folders().into_iter().map(|dir| dir.join(name));
    places.find(|path| path.is_file())
}

/// Names of the entries of a folder, sorted; `None` if it cannot be read.
pub(crate) fn names(folder: &Path) -> Option<Vec<String>> {
    let entries = std::fs::read_dir(folder).ok()?;
    let names = entries.flatten().map(|e| e.file_name().into_string());
    let mut names: Vec<String> = names.flatten().collect();
    names.sort();
    Some(names)
}

/// CPU time of the whole machine since boot, in clock ticks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct CpuTimes {
    total: u64,
    idle: u64,
    steal: u64,
}

impl CpuTimes {
    fn read(place: &Place<'_>) -> Option<CpuTimes> {
        let text = place.text("proc/stat")?;
        let line = text.lines().find_map(|l| l.strip_prefix("cpu "))?;
        let ticks: Vec<u64> = line
            .split_whitespace()
            .map_while(|w| w.parse().ok())
            .collect();
        // user nice system idle iowait irq softirq steal; guest times are already inside user and nice.
        Some(CpuTimes {
            total: ticks.iter().take(8).sum(),
            idle: ticks.get(3)? + ticks.get(4)?,
            steal: *ticks.get(7)?,
        })
    }

    /// What passed since `earlier`.
    fn since(self, earlier: CpuTimes) -> CpuTimes {
        CpuTimes {
            total: self.total.saturating_sub(earlier.total),
            idle: self.idle.saturating_sub(earlier.idle),
            steal: self.steal.saturating_sub(earlier.steal),
        }
    }

    fn busy_percent(self) -> Option<f64> {
        let busy = self.total.checked_sub(self.idle)?.checked_sub(self.steal)?;
        (self.total > 0).then(|| 100.0 * busy as f64 / self.total as f64)
    }

    fn steal_percent(self) -> Option<f64> {
        (self.total > 0).then(|| 100.0 * self.steal as f64 / self.total as f64)
    }
}

/// The first value of a field of `/proc/cpuinfo` that is not empty.
pub(crate) fn cpuinfo_field(cpuinfo: &str, name: &str) -> Option<String> {
    let values = cpuinfo.lines().filter_map(|l| {
        let (key, value) = l.split_once(':')?;
        (key.trim() == name).then(|| value.trim().to_owned())
    });
    values.into_iter().find(|v| !v.is_empty())
}

fn os_name(os_release: &str) -> Option<String> {
    let line = os_release
        .lines()
        .find_map(|l| l.strip_prefix("PRETTY_NAME="))?;
    Some(line.trim().trim_matches('"').to_owned())
}

fn caches(place: &Place<'_>, cpu: usize) -> Vec<Cache> {
    let folder = format!("sys/devices/system/cpu/cpu{cpu}/cache");
    let mut caches: Vec<Cache> = place
        .names(&folder)
        .unwrap_or_default()
        .iter()
        .filter_map(|index| {
            let at = |file: &str| format!("{folder}/{index}/{file}");
            Some(Cache {
                level: place.number(&at("level"))?,
                kind: place.word(&at("type"))?,
                bytes: sysfs_size(&place.word(&at("size"))?)?,
                shared_by: topology::parse_cpu_list(&place.text(&at("shared_cpu_list"))?)?.len(),
                ways: place.number(&at("ways_of_associativity")),
                line_bytes: place.number(&at("coherency_line_size")),
            })
        })
        .collect();
    caches.sort_by_key(|c| (c.level, c.kind.clone()));
    caches
}

/// `512K`, `32M` in bytes.
fn sysfs_size(text: &str) -> Option<u64> {
    let (digits, shift) = match text.as_bytes().last()? {
        b'K' => (&text[..text.len() - 1], 10),
        b'M' => (&text[..text.len() - 1], 20),
        _ => (text, 0),
    };
    digits.parse::<u64>().ok()?.checked_shl(shift)
}

/// Whether the clock may rise above its base, by whichever driver's file there is.
fn boost(place: &Place<'_>) -> Option<bool> {
    let cpufreq = place
        .word("sys/devices/system/cpu/cpufreq/boost")
        .map(|w| w == "1");
    cpufreq.or_else(|| {
        place
            .word("sys/devices/system/cpu/intel_pstate/no_turbo")
            .map(|w| w == "0")
    })
}

/// Available memory, within what the tightest cgroup still grants.
fn available_memory(place: &Place<'_>) -> Option<u64> {
    let machine = place.meminfo("MemAvailable");
    let left = topology::cgroup_dirs(place.root)
        .into_iter()
        .filter_map(|dir| {
            let read = |file: &str| {
                std::fs::read_to_string(dir.join(file))
                    .ok()?
                    .trim()
                    .parse::<u64>()
                    .ok()
            };
            Some(read("memory.max")?.saturating_sub(read("memory.current")?))
        });
    left.chain(machine).min()
}

/// `1 core`, `2 cores`.
pub fn plural(n: usize, noun: &str) -> String {
    format!("{n} {noun}{}", if n == 1 { "" } else { "s" })
}

/// Bytes with a binary unit and three digits: `32 MiB`, `23.5 GiB`.
pub fn binary_bytes(bytes: u64) -> String {
    let units = ["B", "KiB", "MiB", "GiB", "TiB"];
    let mut value = bytes as f64;
    let mut unit = 0;
    while value >= 1024.0 && unit + 1 < units.len() {
        value /= 1024.0;
        unit += 1;
    }
    match value >= 99.95 || value.fract() == 0.0 {
        true => format!("{value:.0} {}", units[unit]),
        false => format!("{value:.1} {}", units[unit]),
    }
}

#[cfg(test)]
mod tests;
