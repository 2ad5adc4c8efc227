use super::*;
use AffinityPolicy::{Compact, None as Unpinned, Physical, Scatter, Smt};

/// A faked machine: folders `proc` and `sys` in a temporary place.
struct Fake {
    dir: tempfile::TempDir,
}

impl Fake {
    /// `allowed` as in `/proc/self/status`; one tuple per CPU in order: siblings, last-level cache, package, node.
    fn new(allowed: &str, cpus: &[(&str, &str, usize, usize)]) -> Fake {
        let fake = Fake {
            dir: tempfile::tempdir().unwrap(),
        };
        fake.file(
            "proc/self/status",
            &format!("Name:\tx\nCpus_allowed:\tff\nCpus_allowed_list:\t{allowed}\n"),
        );
        fake.file(
            "sys/devices/system/cpu/online",
            &format!("0-{}\n", cpus.len() - 1),
        );
        for (id, (siblings, l3, package, node)) in cpus.iter().enumerate() {
            let at = |rest: &str| format!("sys/devices/system/cpu/cpu{id}/{rest}");
            fake.file(&at("topology/core_cpus_list"), siblings);
            fake.file(&at("topology/physical_package_id"), &format!("{package}\n"));
            fake.file(&at("cache/index0/level"), "1\n");
            fake.file(&at("cache/index0/shared_cpu_list"), siblings);
            fake.file(&at("cache/index3/level"), "3\n");
            fake.file(&at("cache/index3/shared_cpu_list"), l3);
            fake.file(&at(&format!("node{node}/cpulist")), "");
        }
        fake
    }

    fn file(&self, path: &str, text: &str) {
        let path = self.dir.path().join(path);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, text).unwrap();
    }

    fn read(&self) -> Topology {
        Topology::from_root(self.dir.path())
    }
}

/// Two cores without SMT.
fn two_cores() -> Fake {
    Fake::new("0-1", &[("0", "0-1", 0, 0), ("1", "0-1", 0, 0)])
}

/// Eight cores, sixteen threads, one cache domain; CPU n and n + 8 are siblings.
fn desktop(allowed: &str) -> Fake {
    let siblings: Vec<String> = (0..16)
        .map(|i| format!("{},{}", i % 8, i % 8 + 8))
        .collect();
    let cpus: Vec<_> = siblings
        .iter()
        .map(|s| (s.as_str(), "0-15", 0, 0))
        .collect();
    Fake::new(allowed, &cpus)
}

/// Two sockets of four cores; neighbours 2n and 2n + 1 are siblings.
fn two_sockets() -> Fake {
    let siblings: Vec<String> = (0..16)
        .map(|i| format!("{}-{}", i / 2 * 2, i / 2 * 2 + 1))
        .collect();
    let cpus: Vec<_> = siblings
        .iter()
        .enumerate()
        .map(|(i, s)| (s.as_str(), if i < 8 { "0-7" } else { "8-15" }, i / 8, i / 8))
        .collect();
    Fake::new("0-15", &cpus)
}

/// One socket with two chiplets of three cores each, no SMT.
fn two_ccds() -> Fake {
    let ids: Vec<String> = (0..6).map(|i| i.to_string()).collect();
    let cpus: Vec<_> = ids
        .iter()
        .enumerate()
        .map(|(i, s)| (s.as_str(), if i < 3 { "0-2" } else { "3-5" }, 0, 0))
        .collect();
    Fake::new("0-5", &cpus)
}

fn plan(
    fake: &Fake,
    affinity: impl Into<Affinity>,
    threads: usize,
) -> std::result::Result<Vec<usize>, String> {
    let planned = fake
        .read()
        .plan(&affinity.into(), threads, false)
        .map_err(|e| e.to_string())?;
    Ok(planned
        .into_iter()
        .map(|c| c.expect("a pinned thread"))
        .collect())
}

impl From<AffinityPolicy> for Affinity {
    fn from(policy: AffinityPolicy) -> Affinity {
        Affinity::Policy(policy)
    }
}

impl From<&[usize]> for Affinity {
    fn from(list: &[usize]) -> Affinity {
        Affinity::Cpus(list.to_vec())
    }
}

#[test]
fn policies_hand_out_cpus_in_their_order() {
    let table: &[(&str, Fake, AffinityPolicy, usize, &[usize])] = &[
        ("2 cores", two_cores(), Physical, 0, &[0, 1]),
        ("2 cores", two_cores(), Physical, 1, &[0]),
        ("2 cores", two_cores(), Compact, 2, &[0, 1]),
        ("2 cores", two_cores(), Scatter, 2, &[0, 1]),
        ("2 cores", two_cores(), Smt, 0, &[0, 1]),
        (
            "desktop",
            desktop("0-15"),
            Physical,
            0,
            &[0, 1, 2, 3, 4, 5, 6, 7],
        ),
        ("desktop", desktop("0-15"), Compact, 4, &[0, 8, 1, 9]),
        (
            "desktop",
            desktop("0-15"),
            Scatter,
            9,
            &[0, 1, 2, 3, 4, 5, 6, 7, 8],
        ),
        (
            "desktop",
            desktop("0-15"),
            Smt,
            10,
            &[0, 1, 2, 3, 4, 5, 6, 7, 8, 9],
        ),
        (
            "desktop",
            desktop("0-15"),
            Smt,
            0,
            &[0, 1, 2, 3, 4, 5, 6, 7],
        ),
        (
            "sockets",
            two_sockets(),
            Physical,
            0,
            &[0, 2, 4, 6, 8, 10, 12, 14],
        ),
        ("sockets", two_sockets(), Compact, 5, &[0, 1, 2, 3, 4]),
        ("sockets", two_sockets(), Scatter, 4, &[0, 8, 2, 10]),
        (
            "sockets",
            two_sockets(),
            Scatter,
            10,
            &[0, 8, 2, 10, 4, 12, 6, 14, 1, 9],
        ),
        ("ccds", two_ccds(), Physical, 4, &[0, 1, 2, 3]),
        ("ccds", two_ccds(), Compact, 4, &[0, 1, 2, 3]),
        ("ccds", two_ccds(), Scatter, 6, &[0, 3, 1, 4, 2, 5]),
        // A container that may use one half of core 2 and all of core 5: the half core is still a core.
        ("container", desktop("5,10,13"), Physical, 0, &[10, 5]),
        ("container", desktop("5,10,13"), Smt, 3, &[10, 5, 13]),
        ("container", desktop("5,10,13"), Compact, 3, &[10, 5, 13]),
    ];
    for (name, fake, policy, threads, expect) in table {
        assert_eq!(
            plan(fake, *policy, *threads).as_deref(),
            Ok(*expect),
            "{name} {policy:?} {threads}"
        );
    }
}

#[test]
fn explicit_lists_keep_their_order() {
    let list: &[usize] = &[9, 1, 4];
    assert_eq!(plan(&desktop("0-15"), list, 3).unwrap(), list);
    assert_eq!(plan(&desktop("0-15"), list, 0).unwrap(), list);
}

#[test]
fn no_policy_pins_nothing() {
    let planned = two_cores().read().plan(&Unpinned.into(), 0, false).unwrap();
    assert_eq!(planned, [None, None]);
}

#[test]
fn impossible_plans_say_what_and_the_way_out() {
    let list = |cpus: &[usize]| Affinity::from(cpus);
    let table: &[(Fake, Affinity, usize, &str)] = &[
        (
            two_cores(),
            Physical.into(),
            3,
            "option \"threads\": 3 threads asked for, but this process may use 2 CPUs (0-1): ask for fewer threads, or set option \"oversubscribe\"",
        ),
        (
            two_cores(),
            Unpinned.into(),
            3,
            "3 threads asked for, but this process may use 2 CPUs",
        ),
        (
            desktop("5,10,13"),
            Smt.into(),
            4,
            "may use 3 CPUs (5,10,13)",
        ),
        (
            desktop("0-15"),
            Physical.into(),
            9,
            "policy \"physical\" pins one thread to each of 8 physical cores: ask for fewer threads, or use policy \"smt\"",
        ),
        (two_cores(), Scatter.into(), 100_000, "at most 1024"),
        (
            two_cores(),
            list(&[]),
            0,
            "option \"affinity\": the list of CPUs is empty",
        ),
        (
            two_cores(),
            list(&[0]),
            2,
            "the list names 1 CPU for 2 threads",
        ),
        (two_cores(), list(&[0, 0]), 2, "CPU 0 is named twice"),
        (
            two_cores(),
            list(&[0, 7]),
            0,
            "CPU 7 is not among those this process may use (0-1)",
        ),
        (
            desktop("5,10,13"),
            list(&[0]),
            1,
            "CPU 0 is not among those this process may use (5,10,13)",
        ),
    ];
    for (fake, affinity, threads, expect) in table {
        let error = fake
            .read()
            .plan(affinity, *threads, false)
            .unwrap_err()
            .to_string();
        assert!(error.contains(expect), "{affinity:?} {threads}: {error}");
    }
}

#[test]
fn oversubscription_repeats_the_places_in_turn() {
    let some = |list: &[usize]| list.iter().map(|&c| Some(c)).collect::<Vec<_>>();
    let table: &[(Fake, Affinity, usize, &[usize])] = &[
        (two_cores(), Physical.into(), 5, &[0, 1, 0, 1, 0]),
        (
            desktop("0-15"),
            Physical.into(),
            10,
            &[0, 1, 2, 3, 4, 5, 6, 7, 8, 9],
        ),
        (two_cores(), [1, 1, 1].as_slice().into(), 3, &[1, 1, 1]),
    ];
    for (fake, affinity, threads, expect) in table {
        assert_eq!(
            fake.read().plan(affinity, *threads, true).unwrap(),
            some(expect),
            "{affinity:?}"
        );
    }
    let outside: Affinity = [7usize].as_slice().into();
    assert!(
        two_cores().read().plan(&outside, 1, true).is_err(),
        "a CPU outside the mask stays impossible"
    );
}

#[test]
fn groups_are_numbered_over_the_machine() {
    let machine = two_sockets().read();
    assert_eq!(machine.cores(), 8);
    assert_eq!(
        machine.cpus[9],
        Cpu {
            id: 9,
            core: 4,
            package: 1,
            l3: 1,
            numa: 1,
            smt_index: 1
        }
    );
}

#[test]
fn missing_files_mean_the_plainest_machine() {
    let fake = Fake {
        dir: tempfile::tempdir().unwrap(),
    };
    let plain = |id| Cpu {
        id,
        core: id,
        package: 0,
        l3: 0,
        numa: 0,
        smt_index: 0,
    };
    assert_eq!(
        fake.read(),
        Topology {
            cpus: vec![plain(0)],
            quota_cpus: None
        }
    );
    fake.file("sys/devices/system/cpu/online", "0-2\n");
    assert_eq!(fake.read().cpus, [plain(0), plain(1), plain(2)]);
    fake.file("proc/self/status", "Cpus_allowed_list:\t1-3\n");
    assert_eq!(
        fake.read().cpus.iter().map(|c| c.id).collect::<Vec<_>>(),
        [1, 2],
        "offline CPUs are left out"
    );
    fake.file("proc/self/status", "Cpus_allowed_list:\tgarbage\n");
    assert_eq!(fake.read().cpus.len(), 3);
}

#[test]
fn cgroup_quota_bounds_the_threads() {
    type Files = &'static [(&'static str, &'static str)];
    let table: &[(Files, Option<f64>, usize)] = &[
        (
            &[
                ("proc/self/cgroup", "0::/\n"),
                ("sys/fs/cgroup/cpu.max", "max 100000\n"),
            ],
            None,
            8,
        ),
        (
            &[
                ("proc/self/cgroup", "0::/\n"),
                ("sys/fs/cgroup/cpu.max", "250000 100000\n"),
            ],
            Some(2.5),
            2,
        ),
        (
            &[
                ("proc/self/cgroup", "0::/\n"),
                ("sys/fs/cgroup/cpu.max", "50000 100000\n"),
            ],
            Some(0.5),
            1,
        ),
        (
            &[
                ("proc/self/cgroup", "0::/\n"),
                ("sys/fs/cgroup/cpu.max", "1200000 100000\n"),
            ],
            Some(12.0),
            8,
        ),
        // The tightest of a process's own group and its ancestors counts.
        (
            &[
                ("proc/self/cgroup", "0::/a/b\n"),
                ("sys/fs/cgroup/a/cpu.max", "200000 100000\n"),
                ("sys/fs/cgroup/a/b/cpu.max", "400000 100000\n"),
            ],
            Some(2.0),
            2,
        ),
        // Version 1, and a path of the host that does not exist in the container.
        (
            &[
                (
                    "proc/self/cgroup",
                    "4:memory:/x\n3:cpu,cpuacct:/docker/123\n",
                ),
                ("sys/fs/cgroup/cpu,cpuacct/cpu.cfs_quota_us", "300000\n"),
                ("sys/fs/cgroup/cpu,cpuacct/cpu.cfs_period_us", "100000\n"),
            ],
            Some(3.0),
            3,
        ),
        (
            &[
                ("proc/self/cgroup", "3:cpu,cpuacct:/\n"),
                ("sys/fs/cgroup/cpu,cpuacct/cpu.cfs_quota_us", "-1\n"),
                ("sys/fs/cgroup/cpu,cpuacct/cpu.cfs_period_us", "100000\n"),
            ],
            None,
            8,
        ),
        (&[("proc/self/cgroup", "nonsense\n::\n")], None, 8),
    ];
    for (files, quota, threads) in table {
        let fake = desktop("0-15");
        for (path, text) in *files {
            fake.file(path, text);
        }
        let machine = fake.read();
        assert_eq!(machine.quota_cpus, *quota, "{files:?}");
        assert_eq!(machine.default_threads(), *threads, "{files:?}");
    }
    let fake = desktop("0-15");
    fake.file("proc/self/cgroup", "0::/\n");
    fake.file("sys/fs/cgroup/cpu.max", "150000 100000\n");
    assert_eq!(
        plan(&fake, Physical, 2),
        Ok(vec![0, 1]),
        "a begun CPU may be used"
    );
    assert!(
        plan(&fake, Physical, 3)
            .unwrap_err()
            .contains("the cgroup grants the time of 1.5 CPUs")
    );
}

#[test]
fn cpu_lists_round_trip() {
    let table: &[(&str, Option<&[usize]>)] = &[
        ("0", Some(&[0])),
        ("0-3,8,10-11\n", Some(&[0, 1, 2, 3, 8, 10, 11])),
        ("", Some(&[])),
        ("3-1", None),
        ("0-99999999999", None),
        ("0-8192", None),
        ("a", None),
        ("1,,2", Some(&[1, 2])),
        ("-1", None),
    ];
    for (text, expect) in table {
        assert_eq!(parse_cpu_list(text).as_deref(), *expect, "{text:?}");
    }
    assert_eq!(
        format_cpu_list([0, 1, 2, 3, 8, 10, 11].into_iter()),
        "0-3,8,10-11"
    );
}

#[test]
fn this_machine_has_a_plan() {
    let machine = Topology::detect();
    assert!(!machine.cpus.is_empty());
    let planned = machine.plan(&Physical.into(), 0, false).unwrap();
    assert_eq!(planned.len(), machine.default_threads());
}
