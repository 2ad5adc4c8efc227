//! Counters on machines that are made up: a folder in place of the root, and a kernel that answers as told.

use super::counting::{Open, Threads, is_denied};
use super::machine::Machine;
use super::spec::Attr;
use super::system::{Kernel, Opening, Read, Reading, System, Target};
use super::*;
use crate::record::tests::sample;
use crate::record::{Absent, Count, Counters, Part, Sample, Source};
use std::cell::RefCell;
use std::io;
use std::rc::Rc;
use tempfile::TempDir;

const EACCES: i32 = 13;
const ENOSYS: i32 = 38;
const EINVAL: i32 = 22;
const EMFILE: i32 = 24;
const ENOENT: i32 = 2;
const EOPNOTSUPP: i32 = 95;

/// A machine with the counters of an AMD server's cores.
fn machine(files: &[(&str, &str)]) -> (TempDir, Machine) {
    let dir = tempfile::tempdir().expect("folder");
    let cpu = "vendor_id\t: AuthenticAMD\ncpu family\t: 25\nflags\t\t: fpu avx2 perfmon_v2\n";
    let common = [
        ("proc/cpuinfo", cpu),
        ("proc/sys/kernel/perf_event_paranoid", "1\n"),
        ("sys/bus/event_source/devices/cpu/type", "4\n"),
        ("sys/devices/system/node/node0/cpulist", "0-1\n"),
    ];
    for (path, text) in common.iter().chain(files) {
        let path = dir.path().join(path);
        std::fs::create_dir_all(path.parent().expect("a folder")).expect("created");
        std::fs::write(path, text).expect("written");
    }
    let machine = Machine::at(dir.path());
    (dir, machine)
}

/// A kernel that answers as told.
struct Fake {
    /// What it says to an opening, given whether there is a leader: readings at the borders, or an error number.
    answer: Answer,
    log: Rc<RefCell<Vec<(Opening, bool)>>>,
}

struct FakeCounter {
    readings: [Reading; 3],
    next: usize,
}

impl Read for FakeCounter {
    fn read(&mut self) -> io::Result<Reading> {
        self.next += 1;
        let reading = self.readings[self.next - 1];
        match reading.count {
            UNREADABLE => Err(io::Error::from_raw_os_error(EINVAL)),
            _ => Ok(reading),
        }
    }
}

const UNREADABLE: u64 = 0xdead;

impl System for Fake {
    type Counter = FakeCounter;

    fn open(&self, opening: Opening, leader: Option<&mut FakeCounter>) -> io::Result<FakeCounter> {
        self.log.borrow_mut().push((opening, leader.is_some()));
        match (self.answer)(&opening, leader.is_some()) {
            Ok(readings) => Ok(FakeCounter { readings, next: 0 }),
            Err(number) => Err(io::Error::from_raw_os_error(number)),
        }
    }
}

/// Readings at the borders.
fn readings(counts: [u64; 3], enabled_ms: [u64; 3], running_ms: [u64; 3]) -> [Reading; 3] {
    std::array::from_fn(|i| Reading {
        count: counts[i],
        enabled_ns: enabled_ms[i] * 1_000_000,
        running_ns: running_ms[i] * 1_000_000,
    })
}

/// Counts all the time.
fn steady(counts: [u64; 3]) -> [Reading; 3] {
    readings(counts, [0, 10, 30], [0, 10, 30])
}

/// What two threads count with one group on a machine, with everything that was opened.
fn count_groups(
    machine: Machine,
    groups: &[&str],
    answer: Answer,
) -> (Counters, Vec<(Opening, bool)>) {
    let log = Rc::new(RefCell::new(Vec::new()));
    let fake = Fake {
        answer,
        log: log.clone(),
    };
    let request = Request {
        groups: groups.iter().map(|g| (*g).to_owned()).collect(),
        ..Request::default()
    };
    let threads = Threads {
        ids: vec![11, 12],
        cpus: vec![Some(0), Some(1)],
    };
    let mut open = Open::new(fake, machine, &request, threads);
    (0..3).for_each(|_| open.read());
    let mut counters = open.finish().expect("enabled");
    // This is counted of the program itself, whose other tests end threads meanwhile: then it may not be told.
    counters.absent.retain(|a| a.event != "cpu-migrations");
    (counters, log.take())
}

fn find<'a>(counts: &'a [Count], event: &str) -> Option<&'a Count> {
    counts.iter().find(|count| count.event == event)
}

fn missing<'a>(counters: &'a Counters, event: &str) -> Option<&'a Absent> {
    counters.absent.iter().find(|absent| absent.event == event)
}

const CYCLES: Attr = Attr {
    kind: 0,
    config: 0,
    config1: 0,
    config2: 0,
};

#[test]
fn threads_are_added_up_by_part() {
    let (_dir, machine) = machine(&[]);
    let (counters, log) = count_groups(machine, &["core"], |opening, _| {
        Ok(match opening.target {
            Target::Thread(11) => steady([100, 150, 450]),
            _ => steady([7, 17, 117]),
        })
    });
    let cycles = |part| {
        find(counters.part(part), "cycles")
            .expect("counted")
            .clone()
    };
    assert_eq!(cycles(Part::Prefill).value, 60.0);
    let decode = cycles(Part::Decode);
    assert_eq!((decode.value, decode.source), (400.0, Source::Hardware));
    assert_eq!((decode.running, decode.machine), (Some(1.0), false));
    // The first event leads, the others are beside it, with the kernel's part.
    assert_eq!(log.len(), 12);
    let leaders = log.iter().filter(|(_, beside)| !beside);
    assert!(leaders.clone().all(|(opening, _)| opening.attr == CYCLES));
    assert_eq!(leaders.count(), 2);
    assert!(log.iter().all(|(opening, _)| !opening.user_only));
    assert_eq!(counters.absent, []);
}

#[test]
fn a_share_of_the_time_is_scaled_and_said() {
    let (_dir, machine) = machine(&[]);
    let (counters, _) = count_groups(machine, &["core"], |opening, _| {
        Ok(match opening.target {
            // Half of the time, then a quarter; the other thread all the time, then half.
            Target::Thread(11) => readings([0, 50, 100], [0, 10, 30], [0, 5, 10]),
            _ => readings([0, 70, 100], [0, 10, 30], [0, 10, 20]),
        })
    });
    let prefill = find(&counters.prefill, "cycles").expect("counted");
    assert_eq!(
        (prefill.value, prefill.source),
        (170.0, Source::HardwareScaled)
    );
    assert_eq!(prefill.running, Some(0.75));
    let decode = find(&counters.decode, "cycles").expect("counted");
    assert_eq!((decode.value, decode.running), (260.0, Some(0.375)));
}

#[test]
fn a_counter_that_never_ran_is_absent_in_that_part_alone() {
    let (_dir, machine) = machine(&[]);
    let (counters, _) = count_groups(machine, &["core"], |opening, _| {
        Ok(match opening.target {
            Target::Thread(11) => readings([0, 0, 100], [0, 10, 30], [0, 0, 20]),
            _ => readings([0, 0, 100], [0, 0, 20], [0, 0, 20]),
        })
    });
    assert_eq!(find(&counters.prefill, "cycles"), None);
    let absent = missing(&counters, "cycles").expect("said");
    assert_eq!(absent.part, Some(Part::Prefill));
    assert!(absent.reason.contains("never ran"), "{}", absent.reason);
    assert!(
        absent
            .remedy
            .as_ref()
            .expect("a remedy")
            .contains("nmi_watchdog")
    );
    // A thread that slept has counted nothing, which is a number.
    assert_eq!(
        find(&counters.decode, "cycles").map(|c| c.value),
        Some(200.0)
    );
}

#[test]
fn counters_may_wrap() {
    let (_dir, machine) = machine(&[]);
    let (counters, _) = count_groups(machine, &["core"], |_, _| Ok(steady([u64::MAX - 9, 10, 5])));
    assert_eq!(
        find(&counters.prefill, "cycles").map(|c| c.value),
        Some(40.0)
    );
}

#[test]
fn a_full_group_goes_on_in_another() {
    let (_dir, machine) = machine(&[]);
    // Room for the leader alone.
    let (counters, log) = count_groups(machine, &["core"], |_, beside| match beside {
        true => Err(EINVAL),
        false => Ok(steady([0, 1, 2])),
    });
    assert_eq!(counters.absent, []);
    assert!(find(&counters.decode, "branch-misses").is_some());
    assert_eq!(log.iter().filter(|(_, beside)| !beside).count(), 12);
}

#[test]
fn without_the_kernels_part_it_is_user_mode_only() {
    let (_dir, machine) = machine(&[("proc/sys/kernel/perf_event_paranoid", "2")]);
    let (counters, _) = count_groups(machine, &["core"], |opening, _| match opening.user_only {
        true => Ok(readings([0, 5, 10], [0, 10, 30], [0, 5, 15])),
        false => Err(EACCES),
    });
    let decode = find(&counters.decode, "instructions").expect("counted");
    assert_eq!(
        (decode.source, decode.running),
        (Source::UserOnly, Some(0.5))
    );
    assert_eq!(counters.absent, []);
}

/// How a fake kernel answers.
type Answer = fn(&Opening, bool) -> Result<[Reading; 3], i32>;
/// System files, an answer, and what must be said about it: a reason, perhaps a remedy.
type Refusal = (
    &'static [(&'static str, &'static str)],
    Answer,
    &'static str,
    Option<&'static str>,
);

#[test]
fn what_is_refused_is_absent_with_reason_and_remedy() {
    let denied: Answer = |_, _| Err(EACCES);
    let nothing: Answer = |_, _| Err(ENOENT);
    const CLOSED: &[(&str, &str)] = &[("proc/sys/kernel/perf_event_paranoid", "4")];
    let rows: [Refusal; 5] = [
        (
            CLOSED,
            denied,
            "perf_event_paranoid is 4",
            Some("sysctl kernel.perf_event_paranoid=1"),
        ),
        (
            &[],
            denied,
            "although perf_event_paranoid allows it",
            Some("--cap-add PERFMON"),
        ),
        (&[], nothing, "the PMU's driver has no such event", None),
        (
            &[],
            |_, _| Err(EOPNOTSUPP),
            "the PMU's driver has no such event",
            None,
        ),
        (&[], |_, _| Err(EMFILE), "no more files", Some("ulimit -n")),
    ];
    for (files, answer, reason, remedy) in rows {
        let (_dir, machine) = machine(files);
        let (counters, _) = count_groups(machine, &["core"], answer);
        let absent = missing(&counters, "cycles").expect("said");
        assert!(absent.reason.contains(reason), "{}", absent.reason);
        match (remedy, &absent.remedy) {
            (Some(expect), Some(found)) => assert!(found.contains(expect), "{found}"),
            (expect, found) => assert_eq!(expect, found.as_deref()),
        }
        assert!(find(&counters.decode, "cycles").is_none());
        // The kernel's own bookkeeping needs nobody's leave.
        assert!(find(&counters.decode, "task-clock").is_some());
    }
}

#[test]
fn a_virtual_machine_without_counters_says_so() {
    let (dir, _) = machine(&[(
        "proc/cpuinfo",
        "vendor_id : AuthenticAMD\nflags : hypervisor\n",
    )]);
    std::fs::remove_dir_all(dir.path().join("sys/bus/event_source/devices/cpu")).expect("removed");
    let (counters, _) = count_groups(Machine::at(dir.path()), &["core", "dram"], |_, _| {
        Err(ENOENT)
    });
    let absent = missing(&counters, "cycles").expect("said");
    assert!(
        absent.reason.contains("no event source"),
        "{}",
        absent.reason
    );
    assert!(absent.remedy.as_ref().expect("a remedy").contains("pmu=on"));
    // Zen 4's way is not tried on a CPU that does not say it is one, nor is a PMU that is not there.
    assert!(
        missing(&counters, "dram-reads")
            .expect("said")
            .reason
            .contains("amd_umc_*")
    );
    let samples = [Sample {
        counters: Some(counters),
        ..sample()
    }];
    let text = sentence(&samples.each_ref());
    assert!(
        text.starts_with("no hardware counters: this machine shows no event source"),
        "{text}"
    );
    assert!(
        text.contains("what would help: use a machine type with a virtual PMU"),
        "{text}"
    );
}

#[test]
fn the_whole_machines_counters_are_marked() {
    let devices = "sys/bus/event_source/devices";
    let files = [
        ("amd_umc_0/type", "20"),
        ("amd_umc_0/cpumask", "0"),
        ("amd_umc_0/format/event", "config:0-7"),
        ("amd_umc_0/format/rdwrmask", "config:8-9"),
        ("amd_umc_1/type", "21"),
        ("amd_umc_1/cpumask", "0"),
        ("amd_umc_1/format/event", "config:0-7"),
        ("amd_umc_1/format/rdwrmask", "config:8-9"),
    ]
    .map(|(path, text)| (format!("{devices}/{path}"), text));
    let files = files.each_ref().map(|(path, text)| (path.as_str(), *text));
    let (_dir, amd) = machine(&files);
    let (counters, log) = count_groups(amd, &["dram"], |opening, _| {
        assert_eq!((opening.target, opening.user_only), (Target::Cpu(0), false));
        Ok(steady([0, 10, 40]))
    });
    // Two channels, 64 bytes a command.
    let decode = find(&counters.decode, "dram-reads").expect("counted");
    assert_eq!((decode.value, decode.machine), (2.0 * 30.0 * 64.0, true));
    assert_eq!(
        log.iter().map(|(o, _)| o.attr.kind).collect::<Vec<_>>(),
        [20, 21]
    );
    let (_dir, amd) = machine(&files);
    let (counters, _) = count_groups(amd, &["dram"], |_, _| Err(EACCES));
    let absent = missing(&counters, "dram-reads").expect("said");
    assert!(
        absent
            .remedy
            .as_ref()
            .expect("a remedy")
            .contains("perf_event_paranoid=0")
    );
}

#[test]
fn slots_are_asked_for_as_the_cpu_has_them() {
    let answer: Answer = |opening, _| match opening.attr.kind {
        4 => Ok(steady([0, 10, 40])),
        _ => Err(ENOENT),
    };
    let (_dir, zen4) = machine(&[]);
    let (counters, _) = count_groups(zen4, &["topdown"], answer);
    let slots = find(&counters.decode, "slots").expect("counted");
    assert_eq!(slots.value, 6.0 * 2.0 * 30.0);
    let older = "vendor_id : AuthenticAMD\ncpu family : 25\nflags : avx2\n";
    let (_dir, zen3) = machine(&[("proc/cpuinfo", older)]);
    let (counters, log) = count_groups(zen3, &["topdown"], answer);
    assert_eq!(log, []);
    let absent = missing(&counters, "slots").expect("said");
    assert_eq!(absent.reason, "this CPU has no such event");
}

#[test]
fn one_node_has_no_remote_memory() {
    let (_dir, one) = machine(&[]);
    let (counters, _) = count_groups(one, &["numa"], |_, _| Err(ENOENT));
    let absent = missing(&counters, "remote-memory").expect("said");
    assert!(
        absent.reason.contains("one memory node"),
        "{}",
        absent.reason
    );
    let (_dir, two) = machine(&[
        ("sys/devices/system/node/node1/cpulist", "2-3"),
        ("sys/devices/system/cpu/online", "0-3"),
        (
            "proc/self/numa_maps",
            "55 default anon=3 N0=1 N1=3 kernelpagesize_kB=4\n",
        ),
    ]);
    let (counters, _) = count_groups(two, &["numa"], |_, _| Ok(steady([0, 1, 2])));
    assert_eq!(
        find(&counters.end, "local-memory").map(|c| c.value),
        Some(4096.0)
    );
    assert_eq!(
        find(&counters.end, "remote-memory").map(|c| c.value),
        Some(3.0 * 4096.0)
    );
}

#[test]
fn a_counter_that_cannot_be_read_is_absent() {
    let (_dir, machine) = machine(&[]);
    let (counters, _) = count_groups(machine, &["core"], |_, _| Ok(steady([0, UNREADABLE, 5])));
    assert!(find(&counters.decode, "cycles").is_none());
    let absent = missing(&counters, "cycles").expect("said");
    assert!(
        absent.reason.contains("could not be read"),
        "{}",
        absent.reason
    );
}

#[test]
fn nothing_is_counted_if_nothing_is_asked_for() {
    let request = Request {
        enabled: false,
        ..Request::default()
    };
    let threads = Threads {
        ids: vec![1],
        cpus: vec![None],
    };
    let mut counting = Counting::open(&request, threads);
    counting.read();
    assert_eq!(counting.finish(), None);
}

/// Counts in both parts.
fn counters(counts: &[(&str, f64, Source)]) -> Counters {
    let counts = counts.iter().map(|&(event, value, source)| Count {
        event: event.into(),
        value,
        source,
        running: (source == Source::HardwareScaled).then_some(0.5),
        machine: false,
    });
    Counters {
        decode: counts.collect(),
        ..Counters::default()
    }
}

#[test]
fn figures_are_per_token_with_the_lowest_source() {
    // Three tokens after the first, in 60 ms.
    let with = |cycles, instructions, source| Sample {
        counters: Some(counters(&[
            ("cycles", cycles, Source::Hardware),
            ("instructions", instructions, source),
            ("task-clock", 90e6, Source::Software),
        ])),
        ..sample()
    };
    let samples = [
        with(300.0, 600.0, Source::Hardware),
        with(600.0, 600.0, Source::HardwareScaled),
        with(900.0, 600.0, Source::Hardware),
    ];
    let rows = table(&samples.each_ref());
    let row = |name: &str| {
        let found = rows.iter().find(|row| row.name == name);
        found.unwrap_or_else(|| panic!("no row {name}"))
    };
    let cycles = row("cycles");
    assert_eq!(
        (cycles.value, cycles.mad, cycles.n),
        (Some(200.0), Some(100.0), 3)
    );
    assert_eq!((cycles.part, cycles.per_token), (Some(Part::Decode), true));
    assert_eq!(cycles.source, Some(Source::Hardware));
    let ipc = row("ipc");
    assert_eq!((ipc.value, ipc.per_token), (Some(1.0), false));
    assert_eq!(
        ipc.source_words(),
        "hardware, scaled (ran 50 % of the time)"
    );
    assert_eq!(row("cpus-used").value, Some(1.5));
    assert!(!rows.iter().any(|row| row.name == "branch-miss-rate"));
    assert!(!rows.iter().any(|row| row.part == Some(Part::Prefill)));
    let text = sentence(&samples.each_ref());
    assert!(text.contains("1.00 instructions per cycle"), "{text}");
}

#[test]
fn what_is_absent_is_a_row_with_its_reason() {
    let absent = Absent {
        event: "r01c2".into(),
        part: None,
        reason: "no such event".into(),
        remedy: None,
    };
    let samples = [Sample {
        counters: Some(Counters {
            absent: vec![absent.clone()],
            ..Counters::default()
        }),
        ..sample()
    }];
    let rows = table(&samples.each_ref());
    assert_eq!(rows.len(), 1);
    assert_eq!(
        (rows[0].value, rows[0].absent.as_ref()),
        (None, Some(&absent))
    );
    assert_eq!(rows[0].source_words(), "not available");
    assert_eq!(table(&[&sample()]), []);
    assert_eq!(sentence(&[&sample()]), "nothing was counted");
}

#[test]
fn amounts_have_three_digits() {
    let rows = [
        (0.0, "0"),
        (0.123, "0.12"),
        (1.934, "1.93"),
        (41.26, "41.3"),
        (412.4, "412"),
        (999.6, "1.00 k"),
        (412_345.0, "412 k"),
        (96_780_000.0, "96.8 M"),
        (5e12, "5.00 T"),
    ];
    for (value, expect) in rows {
        assert_eq!(amount(value), expect);
    }
}

/// The kernel's own clock of a thread, as a perf event: it is there without a PMU, wherever perf is not closed.
#[test]
fn the_kernel_itself_is_asked_rightly() {
    let task_clock = Opening {
        attr: Attr {
            kind: 1,
            config: 1,
            ..Attr::default()
        },
        target: Target::Thread(rustix::thread::gettid().as_raw_nonzero().get()),
        user_only: false,
    };
    let mut leader = match Kernel.open(task_clock, None) {
        Ok(counter) => counter,
        Err(e) => {
            assert!(is_denied(&e) || e.raw_os_error() == Some(ENOSYS), "{e}");
            return;
        }
    };
    let mut member = Kernel.open(task_clock, Some(&mut leader)).expect("beside");
    let first = Read::read(&mut leader).expect("readable");
    (0..200_000u64).for_each(|i| {
        std::hint::black_box(i);
    });
    let second = Read::read(&mut leader).expect("readable");
    assert!(second.count > first.count, "{first:?} {second:?}");
    assert_eq!(second.enabled_ns, second.running_ns);
    assert!(Read::read(&mut member).expect("readable").count > 0);
}

#[test]
fn this_machine_counts_its_own_threads() {
    let threads = Threads {
        ids: vec![rustix::thread::gettid().as_raw_nonzero().get()],
        cpus: vec![None],
    };
    let mut counting = Counting::open(&Request::default(), threads);
    counting.read();
    let touched = std::hint::black_box(vec![1u8; 8 << 20]);
    counting.read();
    counting.read();
    drop(touched);
    let counters = counting.finish().expect("enabled");
    assert!(
        find(&counters.prefill, "minor-faults")
            .expect("counted")
            .value
            > 0.0
    );
    assert!(
        find(&counters.prefill, "task-clock")
            .expect("counted")
            .value
            > 0.0
    );
    // Cycles are there or explained, whatever this machine is.
    let cycles = find(&counters.prefill, "cycles").map(|c| c.value);
    assert!(cycles.is_some_and(|n| n > 1e4) || missing(&counters, "cycles").is_some());
}
