//! What the machine takes away from a child, read before and after it.

use std::path::Path;

/// Time taken from this machine or this process's cgroup since it started; `None` where the system does not say.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub(super) struct Disturbance {
    /// Time the hypervisor gave to others, summed over CPUs.
    pub(super) steal_ms: Option<f64>,
    /// Time the CPU quota held this cgroup back.
    pub(super) throttled_ms: Option<f64>,
}

impl Disturbance {
    /// Reads the counters.
    pub(super) fn read() -> Disturbance {
        let stat = std::fs::read_to_string("/proc/stat").ok();
        let dirs = engine::topology::cgroup_dirs(Path::new("/"));
        let stats = dirs.iter().map(|dir| dir.join("cpu.stat"));
        let throttled = stats.filter_map(|path| std::fs::read_to_string(path).ok());
        let throttled = throttled.filter_map(|text| throttled_us(&text));
        let ticks_per_s = rustix::param::clock_ticks_per_second() as f64;
        Disturbance {
            steal_ms: stat
                .and_then(|s| steal_ticks(&s))
                .map(|t| t as f64 * 1e3 / ticks_per_s),
            throttled_ms: throttled.max().map(|us| us as f64 / 1e3),
        }
    }

    /// What was taken since `before`.
    pub(super) fn since(&self, before: &Disturbance) -> Disturbance {
        let minus = |a: Option<f64>, b: Option<f64>| Some((a? - b?).max(0.0));
        Disturbance {
            steal_ms: minus(self.steal_ms, before.steal_ms),
            throttled_ms: minus(self.throttled_ms, before.throttled_ms),
        }
    }
}

/// Ticks of steal in `/proc/stat`: the eighth number of its first line.
fn steal_ticks(stat: &str) -> Option<u64> {
    let mut words = stat.lines().next()?.split_whitespace();
    (words.next()? == "cpu")
        .then(|| words.nth(7))??
        .parse()
        .ok()
}

/// Throttled microseconds in a cgroup's `cpu.stat`, version 2 or 1.
fn throttled_us(stat: &str) -> Option<u64> {
    stat.lines().find_map(|line| match line.split_once(' ')? {
        ("throttled_usec", us) => us.trim().parse().ok(),
        ("throttled_time", ns) => ns.trim().parse::<u64>().ok().map(|ns| ns / 1000),
        _ => None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counters_are_found_in_their_files() {
        let stat = "cpu  10 20 30 40 50 60 70 80 0 0\ncpu0 1 2 3 4 5 6 7 8 0 0\n";
        assert_eq!(steal_ticks(stat), Some(80));
        assert_eq!(steal_ticks("cpu 1 2"), None);
        assert_eq!(steal_ticks("intr 1 2 3 4 5 6 7 8 9"), None);
        assert_eq!(
            throttled_us("nr_throttled 3\nthrottled_usec 42\n"),
            Some(42)
        );
        assert_eq!(throttled_us("throttled_time 42000\n"), Some(42));
        assert_eq!(throttled_us("usage_usec 3\n"), None);
    }

    #[test]
    fn an_unknown_counter_stays_unknown() {
        let known = Disturbance {
            steal_ms: Some(5.0),
            throttled_ms: None,
        };
        let before = Disturbance {
            steal_ms: Some(3.0),
            throttled_ms: Some(1.0),
        };
        let taken = known.since(&before);
        assert_eq!((taken.steal_ms, taken.throttled_ms), (Some(2.0), None));
    }
}
