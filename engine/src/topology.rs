//! Which CPUs this process may use, how they hang together, and which of them each thread gets.
//!
//! Read once, before any thread is pinned, from `/sys/devices/system/cpu`, `/proc/self/status` and the cgroup files.
//! Whatever is missing there falls back to the plainest machine: every CPU its own core, one cache domain, one node.

use crate::error::{Error, Result};
use crate::options::{Affinity, AffinityPolicy};
use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};

/// Highest CPU number accepted from a system file, exclusive.
const CPUS_MAX: usize = 8192;
/// Most threads a plan is made for.
pub const THREADS_MAX: usize = 1024;
/// Longest system file that is read, in bytes.
const SYSTEM_FILE_BYTES_MAX: u64 = 1 << 20;

/// One CPU (hardware thread) this process may use.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Cpu {
    /// The kernel's number of the CPU.
    pub id: usize,
    /// Physical core, counted over the whole machine in order of each core's lowest CPU.
    pub core: usize,
    /// Socket, as the kernel numbers it.
    pub package: usize,
    /// Last-level cache domain, counted over the whole machine in order of each domain's lowest CPU.
    pub l3: usize,
    /// NUMA node, as the kernel numbers it.
    pub numa: usize,
    /// Rank among the usable hardware threads of its core: 0 for the first.
    pub smt_index: usize,
}

/// The CPUs this process may use, in order of their number, and its share of CPU time.
#[derive(Debug, Clone, PartialEq)]
pub struct Topology {
    /// Usable CPUs; never empty.
    pub cpus: Vec<Cpu>,
    /// CPUs' worth of time the cgroup grants; `None` without a limit.
    pub quota_cpus: Option<f64>,
}

impl Topology {
    /// Reads the machine this process runs on. Call it before threads are pinned: a pinned main thread has one CPU.
    pub fn detect() -> Topology {
        Topology::from_root(Path::new("/"))
    }

    /// Reads the machine described by the `proc` and `sys` folders under `root`.
    pub fn from_root(root: &Path) -> Topology {
        let cpu_dir = root.join("sys/devices/system/cpu");
        let ids = allowed_cpus(root, &cpu_dir);
        let firsts: Vec<CpuFirsts> = ids
            .iter()
            .map(|&id| CpuFirsts::read(&cpu_dir.join(format!("cpu{id}")), id))
            .collect();
        let cores = distinct(firsts.iter().map(|f| f.core_first));
        let domains = distinct(firsts.iter().map(|f| f.l3_first));
        let rank = |list: &[usize], x| list.binary_search(&x).unwrap_or(0);
        let cpus = ids
            .iter()
            .zip(&firsts)
            .enumerate()
            .map(|(i, (&id, f))| Cpu {
                id,
                core: rank(&cores, f.core_first),
                package: f.package,
                l3: rank(&domains, f.l3_first),
                numa: f.numa,
                smt_index: firsts[..i]
                    .iter()
                    .filter(|other| other.core_first == f.core_first)
                    .count(),
            })
            .collect();
        Topology {
            cpus,
            quota_cpus: cgroup_quota_cpus(root),
        }
    }

    /// Physical cores with at least one usable CPU.
    pub fn cores(&self) -> usize {
        distinct(self.cpus.iter().map(|c| c.core)).len()
    }

    /// Threads that option `threads = 0` stands for: one per physical core, within the cgroup's share of time.
    pub fn default_threads(&self) -> usize {
        match self.quota_cpus {
            Some(quota) => self.cores().min((quota as usize).max(1)),
            None => self.cores(),
        }
    }

    /// The CPU of each thread, in thread order; `None` for a thread that is not pinned.
    ///
    /// `threads` 0 means one per physical core, or one per entry of an explicit list. More threads than the process
    /// may use, and lists that name a CPU twice, are refused unless `oversubscribe`; the places then repeat in turn.
    pub fn plan(
        &self,
        affinity: &Affinity,
        threads: usize,
        oversubscribe: bool,
    ) -> Result<Vec<Option<usize>>> {
        let threads = match (threads, affinity) {
            (0, Affinity::Cpus(list)) => list.len(),
            (0, Affinity::Policy(_)) => self.default_threads(),
            (n, _) => n,
        };
        if threads > THREADS_MAX {
            return Err(threads_error(format!(
                "{threads} threads asked for, at most {THREADS_MAX} are possible"
            )));
        }
        if !oversubscribe {
            self.check_share(threads)?;
        }
        match affinity {
            Affinity::Cpus(list) => self.plan_list(list, threads, oversubscribe),
            Affinity::Policy(AffinityPolicy::None) => Ok(vec![None; threads]),
            Affinity::Policy(policy) => self.plan_policy(*policy, threads, oversubscribe),
        }
    }

    /// Refuses more threads than there are CPUs or CPU time for.
    fn check_share(&self, threads: usize) -> Result<()> {
        let way_out = "ask for fewer threads, or set option \"oversubscribe\"";
        if threads > self.cpus.len() {
            return Err(threads_error(format!(
                "{threads} threads asked for, but this process may use {} ({}): {way_out}",
                count(self.cpus.len(), "CPU"),
                format_cpu_list(self.cpus.iter().map(|c| c.id)),
            )));
        }
        match self.quota_cpus {
            Some(quota) if threads as f64 > quota.ceil() => Err(threads_error(format!(
                "{threads} threads asked for, but the cgroup grants the time of {quota} CPUs and would stall the \
                 rest: {way_out}"
            ))),
            _ => Ok(()),
        }
    }

    fn plan_list(
        &self,
        list: &[usize],
        threads: usize,
        oversubscribe: bool,
    ) -> Result<Vec<Option<usize>>> {
        let error = |what| {
            Err(Error::Option {
                option: "affinity",
                what,
            })
        };
        if list.is_empty() {
            return error(
                "the list of CPUs is empty: name one CPU per thread, or use a policy".to_owned(),
            );
        }
        if list.len() != threads {
            return error(format!(
                "the list names {} for {}: name one CPU per thread, or leave \"threads\" at 0",
                count(list.len(), "CPU"),
                count(threads, "thread"),
            ));
        }
        for (i, id) in list.iter().enumerate() {
            if !self.cpus.iter().any(|c| c.id == *id) {
                return error(format!(
                    "CPU {id} is not among those this process may use ({}): choose from these",
                    format_cpu_list(self.cpus.iter().map(|c| c.id)),
                ));
            }
            if !oversubscribe && list[..i].contains(id) {
                return error(format!(
                    "CPU {id} is named twice: name each CPU once, or set option \"oversubscribe\""
                ));
            }
        }
        Ok(list.iter().map(|&id| Some(id)).collect())
    }

    fn plan_policy(
        &self,
        policy: AffinityPolicy,
        threads: usize,
        oversubscribe: bool,
    ) -> Result<Vec<Option<usize>>> {
        let cores = self.cores();
        if policy == AffinityPolicy::Physical && threads > cores && !oversubscribe {
            return Err(threads_error(format!(
                "{threads} threads asked for, but policy \"physical\" pins one thread to each of {}: ask for fewer \
                 threads, or use policy \"smt\" to share cores",
                count(cores, "physical core"),
            )));
        }
        let order = self.order(policy);
        Ok((0..threads).map(|i| Some(order[i % order.len()])).collect())
    }

    /// All usable CPUs in the order in which `policy` hands them out.
    fn order(&self, policy: AffinityPolicy) -> Vec<usize> {
        let mut cpus = self.cpus.clone();
        match policy {
            AffinityPolicy::None | AffinityPolicy::Physical | AffinityPolicy::Smt => {
                cpus.sort_by_key(|c| (c.smt_index, c.core));
            }
            AffinityPolicy::Compact => {
                cpus.sort_by_key(|c| (c.package, c.numa, c.l3, c.core, c.smt_index));
            }
            AffinityPolicy::Scatter => {
                let keys: Vec<_> = cpus.iter().map(|c| self.scatter_key(c)).collect();
                let mut order: Vec<usize> = (0..cpus.len()).collect();
                order.sort_by_key(|&i| keys[i]);
                return order.into_iter().map(|i| cpus[i].id).collect();
            }
        }
        cpus.into_iter().map(|c| c.id).collect()
    }

    /// Sort key of policy `scatter`: hardware thread, then turn within its domain, then domain within its package,
    /// then package; so neighbours in the order sit in different sockets, then in different cache domains.
    fn scatter_key(&self, cpu: &Cpu) -> (usize, usize, usize, usize) {
        let turn = self
            .cpus
            .iter()
            .filter(|c| c.l3 == cpu.l3 && c.smt_index == cpu.smt_index && c.core < cpu.core)
            .count();
        let domain = distinct(
            self.cpus
                .iter()
                .filter(|c| c.package == cpu.package && c.l3 < cpu.l3)
                .map(|c| c.l3),
        )
        .len();
        (cpu.smt_index, turn, domain, cpu.package)
    }
}

/// What one CPU's folder says, groups named by the lowest CPU in them.
struct CpuFirsts {
    core_first: usize,
    l3_first: usize,
    package: usize,
    numa: usize,
}

impl CpuFirsts {
    fn read(dir: &Path, id: usize) -> CpuFirsts {
        let topology = dir.join("topology");
        let package = read_number(&topology.join("physical_package_id")).unwrap_or(0);
        let core_first = first_of_list(&topology.join("core_cpus_list"))
            .or_else(|| first_of_list(&topology.join("thread_siblings_list")))
            .unwrap_or(id);
        let l3_first = last_level_cache_first(&dir.join("cache"))
            .or_else(|| first_of_list(&topology.join("package_cpus_list")))
            .or_else(|| first_of_list(&topology.join("core_siblings_list")))
            .unwrap_or(0);
        CpuFirsts {
            core_first,
            l3_first,
            package,
            numa: numa_node(dir).unwrap_or(0),
        }
    }
}

/// The lowest CPU that shares the last-level cache (level 3 or higher) with the CPU whose `cache` folder this is.
fn last_level_cache_first(cache: &Path) -> Option<usize> {
    let mut best: Option<(usize, usize)> = None;
    for entry in std::fs::read_dir(cache).ok()?.flatten() {
        let level = read_number(&entry.path().join("level"));
        let first = first_of_list(&entry.path().join("shared_cpu_list"));
        if let (Some(level), Some(first)) = (level, first)
            && level >= 3
            && best.is_none_or(|(l, _)| level > l)
        {
            best = Some((level, first));
        }
    }
    best.map(|(_, first)| first)
}

/// The NUMA node of a CPU, from the `node<N>` entry in its folder.
fn numa_node(dir: &Path) -> Option<usize> {
    std::fs::read_dir(dir).ok()?.flatten().find_map(|entry| {
        let name = entry.file_name();
        name.to_str()?.strip_prefix("node")?.parse().ok()
    })
}

/// The CPUs this process may run on that are online; falls back to the online ones, then to CPU 0.
fn allowed_cpus(root: &Path, cpu_dir: &Path) -> Vec<usize> {
    let online = read_text(&cpu_dir.join("online")).and_then(|t| parse_cpu_list(&t));
    let allowed = read_text(&root.join("proc/self/status")).and_then(|status| {
        let line = status
            .lines()
            .find_map(|l| l.strip_prefix("Cpus_allowed_list:"))?;
        parse_cpu_list(line)
    });
    let cpus = match (allowed, online) {
        (Some(allowed), Some(online)) => {
            let both: Vec<usize> = allowed
                .iter()
                .copied()
                .filter(|c| online.contains(c))
                .collect();
            if both.is_empty() { allowed } else { both }
        }
        (Some(list), None) | (None, Some(list)) => list,
        (None, None) => Vec::new(),
    };
    if cpus.is_empty() { vec![0] } else { cpus }
}

/// CPUs' worth of time the tightest cgroup above this process grants, version 2 or 1.
fn cgroup_quota_cpus(root: &Path) -> Option<f64> {
    cgroup_dirs(root)
        .iter()
        .filter_map(|dir| quota_v2(dir).or_else(|| quota_v1(dir)))
        .min_by(f64::total_cmp)
}

/// Folders of the CPU cgroups this process is in, from its own up to the root of the mount.
///
/// Inside a container the path may belong to the host and not exist; the ancestors then still do.
pub fn cgroup_dirs(root: &Path) -> Vec<PathBuf> {
    let mounts = root.join("sys/fs/cgroup");
    let mut dirs = Vec::new();
    for line in read_text(&root.join("proc/self/cgroup"))
        .unwrap_or_default()
        .lines()
    {
        let mut parts = line.splitn(3, ':').skip(1);
        let (Some(controllers), Some(path)) = (parts.next(), parts.next()) else {
            continue;
        };
        let bases = match controllers {
            "" => vec![mounts.clone(), mounts.join("unified")],
            list if list.split(',').any(|c| c == "cpu") => {
                vec![mounts.join(list), mounts.join("cpu")]
            }
            _ => continue,
        };
        for base in bases {
            for ancestor in Path::new(path).ancestors() {
                let relative = ancestor.strip_prefix("/").unwrap_or(ancestor);
                let dir = base.join(relative);
                if dir.is_dir() && !dirs.contains(&dir) {
                    dirs.push(dir);
                }
            }
        }
    }
    dirs
}

/// `cpu.max` of version 2: quota or `max`, and period, in microseconds.
fn quota_v2(dir: &Path) -> Option<f64> {
    let text = read_text(&dir.join("cpu.max"))?;
    let mut words = text.split_whitespace();
    let quota: f64 = words.next()?.parse().ok()?;
    let period: f64 = words.next()?.parse().ok()?;
    (quota > 0.0 && period > 0.0).then_some(quota / period)
}

/// `cpu.cfs_quota_us` of version 1, -1 without a limit.
fn quota_v1(dir: &Path) -> Option<f64> {
    let quota: f64 = read_text(&dir.join("cpu.cfs_quota_us"))?
        .trim()
        .parse()
        .ok()?;
    let period: f64 = read_text(&dir.join("cpu.cfs_period_us"))?
        .trim()
        .parse()
        .ok()?;
    (quota > 0.0 && period > 0.0).then_some(quota / period)
}

/// CPU numbers from the kernel's list notation, such as `0-3,8,10-11`; `None` if it is not one.
pub fn parse_cpu_list(text: &str) -> Option<Vec<usize>> {
    let mut cpus = Vec::new();
    for part in text.trim().split(',').filter(|p| !p.is_empty()) {
        let (low, high) = part.split_once('-').unwrap_or((part, part));
        let (low, high): (usize, usize) = (low.trim().parse().ok()?, high.trim().parse().ok()?);
        if low > high || high >= CPUS_MAX {
            return None;
        }
        cpus.extend(low..=high);
    }
    Some(distinct(cpus.into_iter()))
}

/// CPU numbers in the kernel's list notation; `cpus` must ascend.
pub fn format_cpu_list(cpus: impl Iterator<Item = usize>) -> String {
    let mut ranges: Vec<(usize, usize)> = Vec::new();
    for cpu in cpus {
        match ranges.last_mut() {
            Some((_, high)) if *high + 1 == cpu => *high = cpu,
            _ => ranges.push((cpu, cpu)),
        }
    }
    let words: Vec<String> = ranges
        .iter()
        .map(|(low, high)| match low == high {
            true => low.to_string(),
            false => format!("{low}-{high}"),
        })
        .collect();
    words.join(",")
}

/// Ascending distinct values.
fn distinct(values: impl Iterator<Item = usize>) -> Vec<usize> {
    let mut list: Vec<usize> = values.collect();
    list.sort_unstable();
    list.dedup();
    list
}

/// `1 CPU`, `2 CPUs`.
fn count(n: usize, noun: &str) -> String {
    format!("{n} {noun}{}", if n == 1 { "" } else { "s" })
}

fn threads_error(what: String) -> Error {
    Error::Option {
        option: "threads",
        what,
    }
}

fn read_text(path: &Path) -> Option<String> {
    let mut text = String::new();
    let file = File::open(path).ok()?;
    file.take(SYSTEM_FILE_BYTES_MAX)
        .read_to_string(&mut text)
        .ok()?;
    Some(text)
}

fn read_number(path: &Path) -> Option<usize> {
    read_text(path)?.trim().parse().ok()
}

fn first_of_list(path: &Path) -> Option<usize> {
    parse_cpu_list(&read_text(path)?)?.first().copied()
}

#[cfg(test)]
mod tests;
