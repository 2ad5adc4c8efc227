use super::*;
use std::fs;

/// A faked machine, as a list of files.
struct Fake {
    dir: tempfile::TempDir,
    disk_free_bytes: Option<u64>,
}

impl Fake {
    fn new(files: &[(&str, &str)]) -> Fake {
        let fake = Fake {
            dir: tempfile::tempdir().expect("a temporary folder"),
            disk_free_bytes: Some(80 << 30),
        };
        for (path, text) in files {
            fake.file(path, text);
        }
        fake
    }

    fn file(&self, path: &str, text: &str) {
        let path = self.dir.path().join(path);
        fs::create_dir_all(path.parent().expect("a folder")).expect("created");
        fs::write(path, text).expect("written");
    }

    fn facts_after(&self, pause: impl FnOnce()) -> HostFacts {
        let place = Place {
            root: self.dir.path(),
            search: vec![self.dir.path().join("usr/bin")],
            disk_free_bytes: self.disk_free_bytes,
        };
        HostFacts::from_place(&place, pause)
    }

    fn facts(&self) -> HostFacts {
        self.facts_after(|| ())
    }
}

/// A quiet workstation: 2 cores with 4 hardware threads, everything readable.
fn workstation() -> Fake {
    let cpuinfo =
        "processor : 0\nmodel name : Some CPU 9000\nflags : fpu sse4_2 avx avx2 fma f16c bmi2\n";
    let fake = Fake::new(&[
        ("proc/cpuinfo", cpuinfo),
        (
            "proc/stat",
            "cpu  100 0 100 9700 100 0 0 0 0 0\ncpu0 1 1 1\n",
        ),
        ("proc/loadavg", "0.05 0.10 0.15 1/200 999\n"),
        (
            "proc/meminfo",
            "MemTotal: 16777216 kB\nMemAvailable: 12582912 kB\nSwapTotal: 2097152 kB\nSwapFree: 2097152 kB\n",
        ),
        (
            "proc/self/status",
            "Uid:\t1000\nCapEff:\t0000000000000000\nCpus_allowed_list:\t0-3\n",
        ),
        ("proc/self/cgroup", "0::/user.slice\n"),
        ("proc/sys/kernel/osrelease", "6.12.1-amd64\n"),
        ("proc/sys/kernel/perf_event_paranoid", "1\n"),
        (
            "etc/os-release",
            "NAME=x\nPRETTY_NAME=\"Debian GNU/Linux 13\"\n",
        ),
        ("sys/fs/cgroup/cpu.stat", "usage_usec 5\nnr_throttled 0\n"),
        ("sys/devices/system/cpu/online", "0-3\n"),
        ("sys/devices/system/cpu/smt/active", "1\n"),
        ("sys/devices/system/cpu/cpufreq/boost", "0\n"),
        (
            "sys/devices/system/clocksource/clocksource0/current_clocksource",
            "tsc\n",
        ),
        (
            "sys/kernel/mm/transparent_hugepage/enabled",
            "always [madvise] never\n",
        ),
        ("sys/bus/event_source/devices/cpu/type", "4\n"),
        ("usr/bin/valgrind", ""),
    ]);
    for cpu in 0..4 {
        let at = |rest: &str| format!("sys/devices/system/cpu/cpu{cpu}/{rest}");
        fake.file(&at("cpufreq/scaling_governor"), "performance\n");
        fake.file(
            &at("topology/core_cpus_list"),
            &format!("{},{}\n", cpu % 2, cpu % 2 + 2),
        );
        for (index, level, kind, size, shared) in [
            (0, 1, "Data", "48K", "0,2"),
            (1, 1, "Instruction", "32K", "0,2"),
            (2, 2, "Unified", "2M", "0,2"),
            (3, 3, "Unified", "32768K", "0-3"),
        ] {
            fake.file(
                &at(&format!("cache/index{index}/level")),
                &format!("{level}\n"),
            );
            fake.file(&at(&format!("cache/index{index}/type")), kind);
            fake.file(&at(&format!("cache/index{index}/size")), size);
            fake.file(&at(&format!("cache/index{index}/shared_cpu_list")), shared);
        }
    }
    fake
}

fn find<'a>(facts: &'a HostFacts, topic: &str) -> &'a Finding {
    facts
        .findings
        .iter()
        .find(|f| f.topic == topic)
        .unwrap_or_else(|| panic!("no finding {topic}"))
}

#[test]
fn a_workstation_is_read_whole() {
    let facts = workstation().facts();
    assert_eq!(
        facts.summary(),
        "Some CPU 9000, 2 cores with 4 hardware threads, 32 MiB L3, 16 GiB memory, Linux 6.12.1-amd64"
    );
    assert_eq!(facts.features, ["sse4_2", "f16c", "fma", "avx", "avx2"]);
    assert_eq!(facts.os.as_deref(), Some("Debian GNU/Linux 13"));
    assert_eq!(
        (
            facts.cpus,
            facts.cores,
            facts.packages,
            facts.numa_nodes,
            facts.l3_domains
        ),
        (4, 2, 1, 1, 1)
    );
    assert_eq!(facts.caches.len(), 4);
    assert_eq!(
        (facts.caches[2].bytes, facts.caches[2].shared_by),
        (2 << 20, 2)
    );
    assert_eq!(
        (facts.smt, facts.boost, facts.hypervisor),
        (Some(true), Some(false), Some(false))
    );
    assert_eq!(facts.thp.as_deref(), Some("madvise"));
    assert_eq!(facts.memory_available_bytes, Some(12 << 30));
    let poor: Vec<&Finding> = facts
        .findings
        .iter()
        .filter(|f| !matches!(f.status, Status::Good | Status::Note))
        .collect();
    // The faked clock stands still, so nothing can be said about load and steal.
    assert_eq!(
        poor.iter().map(|f| f.topic.as_str()).collect::<Vec<_>>(),
        ["load", "steal"]
    );
}

#[test]
fn an_empty_machine_is_unknown_and_not_zero() {
    let fake = Fake {
        disk_free_bytes: None,
        ..Fake::new(&[])
    };
    let facts = fake.facts();
    assert_eq!(
        (&facts.cpu, facts.memory_bytes, facts.smt, facts.hypervisor),
        (&None, None, None, None)
    );
    for finding in &facts.findings {
        let known = ["cpu quota", "numa", "valgrind"].contains(&finding.topic.as_str());
        assert_eq!(finding.status == Status::Unknown, !known, "{finding:?}");
    }
}

#[test]
fn every_disturbance_is_found() {
    let virtual_cpu = "model name : X\nflags : avx2 fma f16c hypervisor\n";
    // (file, text, topic, status, part of what was found, part of the advice)
    type Row = (
        &'static str,
        &'static str,
        &'static str,
        Status,
        &'static str,
        &'static str,
    );
    let table: &[Row] = &[
        (
            "proc/cpuinfo",
            "flags : fpu sse4_2\n",
            "instructions",
            Status::Warn,
            "sse4_2",
            "",
        ),
        (
            "proc/cpuinfo",
            "flags : avx2 fma f16c avx512_vnni\n",
            "instructions",
            Status::Good,
            "avx512_vnni",
            "",
        ),
        (
            "proc/cpuinfo",
            virtual_cpu,
            "hypervisor",
            Status::Note,
            "virtual machine",
            "",
        ),
        (
            "sys/devices/system/cpu/cpu0/cpufreq/scaling_governor",
            "powersave\n",
            "governor",
            Status::Warn,
            "powersave",
            "cpupower",
        ),
        (
            "sys/devices/system/cpu/cpufreq/boost",
            "1\n",
            "boost",
            Status::Note,
            "on",
            "cpufreq/boost",
        ),
        (
            "sys/devices/system/cpu/smt/active",
            "0\n",
            "smt",
            Status::Good,
            "off",
            "",
        ),
        (
            "proc/self/status",
            "Cpus_allowed_list:\t1,3\n",
            "cpus",
            Status::Note,
            "2 of 4 may be used: 1,3",
            "taskset",
        ),
        (
            "sys/fs/cgroup/cpu.max",
            "150000 100000\n",
            "cpu quota",
            Status::Warn,
            "1.50 CPUs",
            "cpu-quota",
        ),
        (
            "sys/fs/cgroup/cpu.stat",
            "nr_periods 9\nnr_throttled 7\n",
            "throttling",
            Status::Warn,
            "7 periods",
            "quota",
        ),
        (
            "sys/devices/system/cpu/cpu1/node1/cpulist",
            "",
            "numa",
            Status::Note,
            "2 nodes",
            "numactl",
        ),
        (
            "sys/kernel/mm/transparent_hugepage/enabled",
            "always madvise [never]\n",
            "huge pages",
            Status::Warn,
            "never",
            "madvise",
        ),
        (
            "proc/meminfo",
            "MemTotal: 2000000 kB\nMemAvailable: 300000 kB\n",
            "memory",
            Status::Warn,
            "293 MiB of 1.9 GiB",
            "ps",
        ),
        (
            "proc/meminfo",
            "SwapTotal: 2048 kB\nSwapFree: 1024 kB\n",
            "swap",
            Status::Warn,
            "1 MiB of 2 MiB",
            "swapoff",
        ),
        (
            "proc/meminfo",
            "SwapTotal: 0 kB\nSwapFree: 0 kB\n",
            "swap",
            Status::Good,
            "none",
            "",
        ),
        (
            "sys/devices/system/clocksource/clocksource0/current_clocksource",
            "hpet\n",
            "clock",
            Status::Warn,
            "hpet",
            "tsc",
        ),
        (
            "proc/sys/kernel/perf_event_paranoid",
            "2\n",
            "hardware counters",
            Status::Note,
            "paranoid 2",
            "perf_event_paranoid=1",
        ),
        (
            "proc/sys/kernel/perf_event_paranoid",
            "4\n",
            "hardware counters",
            Status::Note,
            "closed",
            "perf_event_paranoid=1",
        ),
        (
            "proc/sys/kernel/perf_event_paranoid",
            "-1\n",
            "hardware counters",
            Status::Good,
            "-1",
            "",
        ),
        (
            "proc/self/status",
            "CapEff:\t0000004000000000\nCpus_allowed_list:\t0-3\n",
            "hardware counters",
            Status::Good,
            "by privilege",
            "",
        ),
    ];
    for (path, text, topic, status, found, advice) in table {
        let fake = workstation();
        fake.file(path, text);
        let facts = fake.facts();
        let finding = find(&facts, topic);
        assert_eq!(finding.status, *status, "{path}: {finding:?}");
        assert!(finding.found.contains(found), "{path}: {finding:?}");
        let given = finding.advice.clone().unwrap_or_default();
        assert!(given.contains(advice), "{path}: {finding:?}");
        assert!(
            *status != Status::Warn || !given.is_empty() || *topic == "instructions",
            "{path}: a way out is missing"
        );
        assert!(!given.contains('\n'), "{path}: one line");
    }
}

#[test]
fn machines_without_counters_say_why() {
    let fake = workstation();
    fs::remove_dir_all(fake.dir.path().join("sys/bus/event_source/devices/cpu")).expect("removed");
    fake.file("sys/bus/event_source/devices/software/type", "1\n");
    fake.file("proc/cpuinfo", "flags : avx2 fma f16c hypervisor\n");
    let facts = fake.facts();
    let finding = find(&facts, "hardware counters");
    assert_eq!(finding.status, Status::Note);
    assert!(
        finding
            .advice
            .as_deref()
            .is_some_and(|a| a.contains("virtual PMU")),
        "{finding:?}"
    );
}

#[test]
fn load_and_steal_are_sampled() {
    // (second reading of /proc/stat after 100 0 100 9700 100 0 0 0, load, steal, part of the texts)
    let table: &[(&str, Status, Status, &str, &str)] = &[
        (
            "cpu  101 0 100 9797 102 0 0 0 0 0\n",
            Status::Good,
            Status::Good,
            "1 % busy; load average 0.05 0.10 0.15",
            "0.0 %",
        ),
        (
            "cpu  150 0 150 9700 100 0 0 0 0 0\n",
            Status::Warn,
            Status::Good,
            "100 % busy",
            "0.0 %",
        ),
        (
            "cpu  100 0 100 9790 100 0 0 10 0 0\n",
            Status::Good,
            Status::Warn,
            "0 % busy",
            "10.0 % of CPU time now, 0.1 % since boot",
        ),
        // Guest time is part of user time and must not count twice.
        (
            "cpu  105 0 100 9795 100 0 0 0 5 0\n",
            Status::Good,
            Status::Good,
            "5 % busy",
            "0.0 %",
        ),
        (
            "cpu  nonsense\n",
            Status::Unknown,
            Status::Unknown,
            "cannot be read",
            "cannot be read",
        ),
    ];
    for (second, load, steal, load_text, steal_text) in table {
        let fake = workstation();
        let facts = fake.facts_after(|| fake.file("proc/stat", second));
        assert_eq!(
            (find(&facts, "load").status, find(&facts, "steal").status),
            (*load, *steal),
            "{second}"
        );
        assert!(
            find(&facts, "load").found.contains(load_text),
            "{:?}",
            find(&facts, "load")
        );
        assert!(
            find(&facts, "steal").found.contains(steal_text),
            "{:?}",
            find(&facts, "steal")
        );
    }
}

#[test]
fn a_cgroup_bounds_the_memory() {
    let fake = workstation();
    fake.file("sys/fs/cgroup/memory.max", "2147483648\n");
    fake.file("sys/fs/cgroup/memory.current", "1073741824\n");
    assert_eq!(fake.facts().memory_available_bytes, Some(1 << 30));
    fake.file("sys/fs/cgroup/memory.max", "max\n");
    assert_eq!(fake.facts().memory_available_bytes, Some(12 << 30));
}

#[test]
fn bytes_have_three_digits_and_a_unit() {
    let table = [
        (0, "0 B"),
        (512, "512 B"),
        (1 << 20, "1 MiB"),
        (1536, "1.5 KiB"),
        (25_274_793_984, "23.5 GiB"),
        (107_374_182_400, "100 GiB"),
    ];
    for (bytes, expect) in table {
        assert_eq!(binary_bytes(bytes), expect);
    }
}

#[test]
fn this_machine_can_be_read() {
    let facts = HostFacts::read();
    assert!(facts.cpus >= 1 && !facts.findings.is_empty());
    let json = serde_json::to_string(&facts).expect("serializes");
    assert_eq!(
        serde_json::from_str::<HostFacts>(&json).expect("reads"),
        facts
    );
}

#[test]
fn a_fingerprint_is_of_the_hardware() {
    let this = HostFacts {
        cpu: Some("a".into()),
        memory_bytes: Some(16 << 30),
        kernel: Some("6.1".into()),
        ..HostFacts::default()
    };
    let print = this.fingerprint();
    assert!(print.len() == 12 && print.chars().all(|c| c.is_ascii_hexdigit()));
    let mut other = this.clone();
    // A boot more, a little less memory left by the firmware.
    (other.kernel, other.memory_bytes) = (Some("6.2".into()), Some((16 << 30) - 5_000_000));
    assert_eq!(other.fingerprint(), print);
    for change in [
        |f: &mut HostFacts| f.cpu = Some("b".into()),
        |f: &mut HostFacts| f.memory_bytes = Some(32 << 30),
        |f: &mut HostFacts| f.cores = 2,
    ] {
        let mut other = this.clone();
        change(&mut other);
        assert_ne!(other.fingerprint(), print);
    }
}
