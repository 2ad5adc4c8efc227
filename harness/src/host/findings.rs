//! One function per thing that can disturb a measurement: what was found, what it means, what to do about it.

use super::{CpuTimes, Finding, HostFacts, Place, Status, binary_bytes, plural};
use super::{NO_PMU_ADVICE, PARANOID_ADVICE, PARANOID_USER_MAX, is_core_pmu};
use Status::{Good, Note, Unknown, Warn};

/// Share of CPU time above which other work disturbs a measurement, in percent.
const BUSY_PERCENT_MAX: f64 = 10.0;
/// Share of CPU time above which steal now disturbs a measurement, in percent; one tick of the sample is about 2 %.
const STEAL_NOW_PERCENT_MAX: f64 = 3.0;
/// Share of CPU time above which steal since boot is worth a note, in percent.
const STEAL_BOOT_PERCENT_MAX: f64 = 0.5;
/// Free disk below which a run may not be able to keep its records, in bytes.
const DISK_FREE_BYTES_MIN: u64 = 1 << 30;
/// Available memory below which small models already fight for it, in bytes.
const MEMORY_AVAILABLE_BYTES_MIN: u64 = 1 << 30;
/// `perf_event_paranoid` up to which the kernel's part is counted too.
const PARANOID_KERNEL_MAX: i32 = 1;

/// All findings, most telling first.
pub(super) fn all(
    place: &Place<'_>,
    facts: &HostFacts,
    before: Option<CpuTimes>,
    after: Option<CpuTimes>,
) -> Vec<Finding> {
    let sampled = after.zip(before).map(|(a, b)| a.since(b));
    vec![
        instructions(facts),
        hypervisor(facts),
        load(place, sampled),
        steal(sampled, after),
        governor(facts),
        boost(facts),
        smt(facts),
        cpus(place, facts),
        quota(facts),
        throttling(place),
        numa(place, facts),
        huge_pages(facts),
        memory(facts),
        swap(place),
        clock(facts),
        pmu(place, facts),
        valgrind(place),
        disk(place),
    ]
}

fn finding(
    topic: &str,
    status: Status,
    found: impl Into<String>,
    source: &str,
    means: &str,
) -> Finding {
    Finding {
        topic: topic.to_owned(),
        status,
        found: found.into(),
        source: source.to_owned(),
        means: means.to_owned(),
        advice: None,
    }
}

impl Finding {
    fn advise(mut self, advice: &str) -> Finding {
        self.advice = Some(advice.to_owned());
        self
    }
}

fn instructions(facts: &HostFacts) -> Finding {
    let (topic, source) = ("instructions", "/proc/cpuinfo");
    if facts.features.is_empty() {
        return finding(
            topic,
            Unknown,
            "no features listed",
            source,
            "kernels still ask the CPU itself at run time",
        );
    }
    let found = facts.features.join(" ");
    let has = |name: &str| facts.features.iter().any(|f| f == name);
    match (has("avx2") && has("fma") && has("f16c"), has("avx512_vnni")) {
        (_, true) => finding(topic, Good, found, source, "the widest kernels can run"),
        (true, false) => finding(topic, Good, found, source, "the AVX2 kernels can run"),
        (false, false) => finding(
            topic,
            Warn,
            found,
            source,
            "no AVX2: only the portable kernels run, many times slower",
        ),
    }
}

fn hypervisor(facts: &HostFacts) -> Finding {
    let (topic, source) = ("hypervisor", "/proc/cpuinfo, flag hypervisor");
    match facts.hypervisor {
        Some(true) => finding(
            topic,
            Note,
            "this is a virtual machine",
            source,
            "memory bandwidth and caches are shared with neighbours and drift within minutes: compare only what was \
             measured side by side",
        ),
        Some(false) => finding(topic, Good, "none", source, "no unseen neighbours"),
        None => finding(
            topic,
            Unknown,
            "not listed for this CPU",
            source,
            "neighbours may be unseen",
        ),
    }
}

fn load(place: &Place<'_>, sampled: Option<CpuTimes>) -> Finding {
    let (topic, source) = ("load", "/proc/stat over 0.3 s, /proc/loadavg");
    let average = place.text("proc/loadavg").unwrap_or_default();
    let average: Vec<&str> = average.split_whitespace().take(3).collect();
    let Some(busy) = sampled.and_then(CpuTimes::busy_percent) else {
        return finding(
            topic,
            Unknown,
            "CPU use cannot be read",
            source,
            "other programs may compete unseen",
        );
    };
    let found = match average.is_empty() {
        true => format!("CPUs {busy:.0} % busy"),
        false => format!("CPUs {busy:.0} % busy; load average {}", average.join(" ")),
    };
    match busy > BUSY_PERCENT_MAX {
        true => finding(
            topic,
            Warn,
            found,
            source,
            "other programs take CPU time and memory bandwidth; a thread that has to wait holds up all others",
        )
        .advise("top -b -n 1 | head -20    # find them and let them end"),
        false => finding(topic, Good, found, source, "nothing else of weight is running"),
    }
}

fn steal(sampled: Option<CpuTimes>, since_boot: Option<CpuTimes>) -> Finding {
    let (topic, source) = ("steal", "/proc/stat, over 0.3 s and since boot");
    let now = sampled.and_then(CpuTimes::steal_percent);
    let (Some(now), Some(boot)) = (now, since_boot.and_then(CpuTimes::steal_percent)) else {
        return finding(
            topic,
            Unknown,
            "cannot be read",
            source,
            "the hypervisor may take CPU time unseen",
        );
    };
    let found = format!("{now:.1} % of CPU time now, {boot:.1} % since boot");
    match (now > STEAL_NOW_PERCENT_MAX, boot > STEAL_BOOT_PERCENT_MAX) {
        (false, false) => finding(
            topic,
            Good,
            found,
            source,
            "the hypervisor gives the CPUs it promised",
        ),
        (false, true) => finding(
            topic,
            Note,
            found,
            source,
            "the hypervisor has taken CPU time before: repetitions hit by it are marked as tainted",
        ),
        (true, _) => finding(
            topic,
            Warn,
            found,
            source,
            "the hypervisor gives this machine's CPUs to others: rates will be low and scattered",
        )
        .advise("measure at another time, or on a machine type with dedicated CPUs"),
    }
}

fn governor(facts: &HostFacts) -> Finding {
    let (topic, source) = (
        "governor",
        "/sys/devices/system/cpu/cpu*/cpufreq/scaling_governor",
    );
    match facts.governor.as_deref() {
        Some("performance") => finding(
            topic,
            Good,
            "performance",
            source,
            "the clock does not wait for load",
        ),
        Some(other) => finding(
            topic,
            Warn,
            other,
            source,
            "the clock rises only under load and falls when threads wait: first tokens are slow",
        )
        .advise("sudo cpupower frequency-set -g performance"),
        None => finding(
            topic,
            Unknown,
            "this machine does not steer its clock",
            source,
            match facts.hypervisor {
                Some(true) => "the host steers it; frequency changes are unseen",
                _ => "frequency changes are unseen",
            },
        ),
    }
}

fn boost(facts: &HostFacts) -> Finding {
    let (topic, source) = (
        "boost",
        "/sys/devices/system/cpu/cpufreq/boost, intel_pstate/no_turbo",
    );
    match facts.boost {
        Some(true) => finding(
            topic,
            Note,
            "on",
            source,
            "the clock depends on heat and on how many cores work: real use has it too, but repetitions scatter more",
        )
        .advise("echo 0 | sudo tee /sys/devices/system/cpu/cpufreq/boost    # for steady comparisons"),
        Some(false) => finding(topic, Good, "off", source, "the clock stays at its base"),
        None => finding(topic, Unknown, "not shown to this machine", source, "the clock may vary unseen"),
    }
}

fn smt(facts: &HostFacts) -> Finding {
    let (topic, source) = ("smt", "/sys/devices/system/cpu/smt/active");
    match facts.smt {
        Some(true) => finding(
            topic,
            Note,
            format!(
                "on: {} on {}",
                plural(facts.cpus, "usable CPU"),
                plural(facts.cores, "core")
            ),
            source,
            "hardware threads of one core share its units: one thread per core is the default, and other programs \
             on the siblings slow it down",
        ),
        Some(false) => finding(
            topic,
            Good,
            "off, or not shown",
            source,
            "every CPU is a core of its own",
        ),
        None => finding(
            topic,
            Unknown,
            "cannot be read",
            source,
            "CPUs may share cores unseen",
        ),
    }
}

fn cpus(place: &Place<'_>, facts: &HostFacts) -> Finding {
    let (topic, source) = ("cpus", "/proc/self/status, Cpus_allowed_list");
    let online = place
        .text("sys/devices/system/cpu/online")
        .and_then(|t| engine::topology::parse_cpu_list(&t))
        .map(|list| list.len());
    match online {
        Some(online) if online > facts.cpus => finding(
            topic,
            Note,
            format!("{} of {online} may be used: {}", facts.cpus, facts.cpus_allowed),
            source,
            "a mask keeps this process on some CPUs: programs on the others still share caches and memory",
        )
        .advise("taskset -pc 0-$(($(nproc --all)-1)) $$    # if the mask is not wanted"),
        Some(_) => finding(topic, Good, format!("all {} may be used", facts.cpus), source, "no mask"),
        None => finding(topic, Unknown, "cannot be read", source, "a mask may be unseen"),
    }
}

fn quota(facts: &HostFacts) -> Finding {
    let (topic, source) = ("cpu quota", "cgroup cpu.max, cpu.cfs_quota_us");
    match facts.quota_cpus {
        Some(quota) => finding(
            topic,
            Warn,
            format!("the time of {quota:.2} CPUs"),
            source,
            "when the quota of a period is used up, every thread stops until the next one: stalls of up to 100 ms",
        )
        .advise("docker update --cpu-quota=-1 CONTAINER    # or raise the limit where it was set; use --cpuset-cpus"),
        None => finding(topic, Good, "none", source, "the cgroup never stops threads"),
    }
}

fn throttling(place: &Place<'_>) -> Finding {
    let (topic, source) = ("throttling", "cgroup cpu.stat, nr_throttled");
    let counts: Vec<u64> = engine::topology::cgroup_dirs(place.root)
        .iter()
        .filter_map(|dir| {
            let text = std::fs::read_to_string(dir.join("cpu.stat")).ok()?;
            text.lines()
                .find_map(|l| l.strip_prefix("nr_throttled ")?.trim().parse().ok())
        })
        .collect();
    match counts.iter().max() {
        None => finding(
            topic,
            Unknown,
            "no counters",
            source,
            "stops by the cgroup would be unseen",
        ),
        Some(0) => finding(
            topic,
            Good,
            "never",
            source,
            "the cgroup has not stopped this process",
        ),
        Some(n) => finding(
            topic,
            Warn,
            format!("{n} periods were cut short"),
            source,
            "the cgroup has stopped all threads when its quota was used up",
        )
        .advise("raise the CPU quota, or use fewer threads: --set engine.threads=1"),
    }
}

fn numa(place: &Place<'_>, facts: &HostFacts) -> Finding {
    let (topic, source) = ("numa", "/sys/devices/system/node, kernel.numa_balancing");
    let balancing: Option<u32> = place.number("proc/sys/kernel/numa_balancing");
    match (facts.numa_nodes, balancing) {
        (0 | 1, _) => finding(topic, Good, "one node", source, "all memory is equally near"),
        (n, Some(1..)) => finding(
            topic,
            Warn,
            format!("{n} nodes, automatic balancing on"),
            source,
            "memory on the other node is slower, and the kernel moves pages while it is being measured",
        )
        .advise("sudo sysctl kernel.numa_balancing=0"),
        (n, _) => finding(
            topic,
            Note,
            format!("{n} nodes"),
            source,
            "memory on the other node is slower: pages lie where the thread that first wrote them ran",
        )
        .advise("numactl --cpunodebind=0 --membind=0 harness run SCENARIO    # one node alone"),
    }
}

fn huge_pages(facts: &HostFacts) -> Finding {
    let (topic, source) = ("huge pages", "/sys/kernel/mm/transparent_hugepage/enabled");
    match facts.thp.as_deref() {
        Some(mode @ ("always" | "madvise")) => finding(
            topic,
            Good,
            mode,
            source,
            "the engine gets huge pages when it asks for them",
        ),
        Some(mode) => finding(
            topic,
            Warn,
            mode,
            source,
            "weights lie on 4 KiB pages: address translation costs up to a fifth of the bandwidth",
        )
        .advise("echo madvise | sudo tee /sys/kernel/mm/transparent_hugepage/enabled"),
        None => finding(
            topic,
            Unknown,
            "this kernel shows none",
            source,
            "weights may lie on 4 KiB pages",
        ),
    }
}

fn memory(facts: &HostFacts) -> Finding {
    let (topic, source) = ("memory", "/proc/meminfo, cgroup memory.max");
    let (Some(total), Some(free)) = (facts.memory_bytes, facts.memory_available_bytes) else {
        return finding(
            topic,
            Unknown,
            "cannot be read",
            source,
            "a model may not fit",
        );
    };
    let found = format!(
        "{} of {} available",
        binary_bytes(free),
        binary_bytes(total)
    );
    match free < MEMORY_AVAILABLE_BYTES_MIN {
        true => finding(
            topic,
            Warn,
            found,
            source,
            "models will be pushed out of memory while they are measured",
        )
        .advise("ps aux --sort=-rss | head -5    # find what holds it"),
        false => finding(
            topic,
            Good,
            found,
            source,
            "a model must fit here, with its KV cache",
        ),
    }
}

fn swap(place: &Place<'_>) -> Finding {
    let (topic, source) = ("swap", "/proc/meminfo");
    match (place.meminfo("SwapTotal"), place.meminfo("SwapFree")) {
        (Some(0), _) => finding(topic, Good, "none", source, "memory stays in memory"),
        (Some(total), Some(free)) if free >= total => finding(
            topic,
            Good,
            format!("{}, unused", binary_bytes(total)),
            source,
            "memory stays in memory",
        ),
        (Some(total), Some(free)) => finding(
            topic,
            Warn,
            format!(
                "{} of {} in use",
                binary_bytes(total - free),
                binary_bytes(total)
            ),
            source,
            "pages have been moved to disk, and may be again while a model is measured",
        )
        .advise("sudo swapoff -a && sudo swapon -a    # brings everything back into memory"),
        _ => finding(
            topic,
            Unknown,
            "cannot be read",
            source,
            "pages may move to disk unseen",
        ),
    }
}

fn clock(facts: &HostFacts) -> Finding {
    let (topic, source) = ("clock", "/sys/devices/system/clocksource/clocksource0");
    match facts.clocksource.as_deref() {
        Some(name @ ("tsc" | "kvm-clock" | "arch_sys_counter" | "hyperv_clocksource_tsc_page")) => {
            finding(topic, Good, name, source, "taking the time costs some 25 ns")
        }
        Some(name) => finding(
            topic,
            Warn,
            name,
            source,
            "taking the time is a system call of about a microsecond: the stage clock slows the engine down",
        )
        .advise("boot with clocksource=tsc, or measure with --set engine.stage_clock=false"),
        None => finding(topic, Unknown, "cannot be read", source, "taking the time may be slow"),
    }
}

fn pmu(place: &Place<'_>, facts: &HostFacts) -> Finding {
    let (topic, source) = (
        "hardware counters",
        "/sys/bus/event_source/devices, perf_event_paranoid",
    );
    let Some(devices) = place.names("sys/bus/event_source/devices") else {
        return finding(
            topic,
            Unknown,
            "this kernel shows no event sources",
            source,
            "times and byte ledgers remain",
        );
    };
    if !devices.iter().any(|name| is_core_pmu(name)) {
        let missing = finding(
            topic,
            Note,
            "none: no event source for the CPU",
            source,
            "instructions and cache misses cannot be counted here; page faults, switches, CPU time, byte ledgers and simulated \
             counts can",
        );
        return match facts.hypervisor {
            Some(true) => missing.advise(NO_PMU_ADVICE),
            _ => missing,
        };
    }
    pmu_access(place, topic, source)
}

/// How far the kernel lets this process use the counters that there are.
fn pmu_access(place: &Place<'_>, topic: &str, source: &str) -> Finding {
    let paranoid: Option<i32> = place.number("proc/sys/kernel/perf_event_paranoid");
    match (paranoid, may_count_all(place)) {
        (Some(level), true) => finding(
            topic,
            Good,
            format!("all, by privilege (perf_event_paranoid {level})"),
            source,
            "the engine and the kernel's part are counted",
        ),
        (Some(level), _) if level <= PARANOID_KERNEL_MAX => finding(
            topic,
            Good,
            format!("perf_event_paranoid {level}"),
            source,
            "the engine and the kernel's part are counted",
        ),
        (Some(level), _) if level <= PARANOID_USER_MAX => finding(
            topic,
            Note,
            format!("perf_event_paranoid {level}"),
            source,
            "the engine is counted, the kernel's part is left out",
        )
        .advise(PARANOID_ADVICE),
        (Some(level), _) => finding(
            topic,
            Note,
            format!("closed: perf_event_paranoid {level}"),
            source,
            "instructions and cache misses cannot be counted",
        )
        .advise(PARANOID_ADVICE),
        (None, _) => finding(
            topic,
            Unknown,
            "perf_event_paranoid cannot be read",
            source,
            "counters may be closed",
        ),
    }
}

/// Whether this process has CAP_PERFMON or CAP_SYS_ADMIN.
fn may_count_all(place: &Place<'_>) -> bool {
    const CAP_SYS_ADMIN: u32 = 21;
    const CAP_PERFMON: u32 = 38;
    let status = place.text("proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|l| l.strip_prefix("CapEff:"));
    let caps = line
        .and_then(|l| u64::from_str_radix(l.trim(), 16).ok())
        .unwrap_or(0);
    caps & (1 << CAP_SYS_ADMIN | 1 << CAP_PERFMON) != 0
}

fn valgrind(place: &Place<'_>) -> Finding {
    let (topic, source) = ("valgrind", "PATH");
    match place.has_program("valgrind") {
        true => finding(
            topic,
            Good,
            "installed",
            source,
            "cache behaviour can be simulated where it cannot be counted",
        ),
        false => finding(
            topic,
            Note,
            "not installed",
            source,
            "simulated counts are not available",
        )
        .advise("sudo apt-get install valgrind"),
    }
}

fn disk(place: &Place<'_>) -> Finding {
    let (topic, source) = ("disk", "statvfs of the working folder");
    match place.disk_free_bytes {
        Some(free) if free < DISK_FREE_BYTES_MIN => finding(
            topic,
            Warn,
            format!("{} free", binary_bytes(free)),
            source,
            "records and models may not fit",
        )
        .advise("du -xh --max-depth=2 ~ | sort -h | tail -20    # find what can go"),
        Some(free) => finding(
            topic,
            Good,
            format!("{} free", binary_bytes(free)),
            source,
            "records will fit",
        ),
        None => finding(
            topic,
            Unknown,
            "cannot be read",
            source,
            "records may not fit",
        ),
    }
}
