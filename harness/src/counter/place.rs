//! What is read from files of the kernel: where a process' memory lies, and the energy that the CPU packages used.

use super::counting::Why;
use crate::host;
use engine::topology::Topology;
use std::collections::HashSet;
use std::path::{Path, PathBuf};

/// Number of memory nodes of the machine.
pub(super) fn nodes(root: &Path) -> usize {
    let names = host::names(&root.join("sys/devices/system/node")).unwrap_or_default();
    let node = |name: &&String| {
        name.strip_prefix("node")
            .is_some_and(|n| n.parse::<u32>().is_ok())
    };
    names.iter().filter(node).count()
}

/// Bytes of this process on the nodes of the CPUs that its threads run on, and on other nodes.
///
/// # Errors
/// When the kernel does not show it.
pub(super) fn memory_by_node(root: &Path, cpus: &[Option<usize>]) -> Result<(u64, u64), String> {
    let file = root.join("proc/self/numa_maps");
    let text = std::fs::read_to_string(&file);
    let text = text.map_err(|e| format!("\"{}\" cannot be read: {e}", file.display()))?;
    let topology = Topology::from_root(root);
    let ours = |id: usize| cpus.iter().flatten().any(|&cpu| cpu == id) || cpus.contains(&None);
    let of_threads = topology.cpus.iter().filter(|cpu| ours(cpu.id));
    Ok(split(&text, &of_threads.map(|cpu| cpu.numa).collect()))
}

/// Bytes on these nodes and on others, from the text of `numa_maps`.
fn split(numa_maps: &str, nodes: &HashSet<usize>) -> (u64, u64) {
    let (mut local, mut remote) = (0, 0);
    for line in numa_maps.lines() {
        let value = |word: &str, name: &str| word.strip_prefix(name)?.parse::<u64>().ok();
        let size = line.split(' ').find_map(|w| value(w, "kernelpagesize_kB="));
        let page_bytes = 1024 * size.unwrap_or(4);
        for word in line.split(' ') {
            let Some((node, pages)) = word.strip_prefix('N').and_then(|w| w.split_once('=')) else {
                continue;
            };
            let (Ok(node), Ok(pages)) = (node.parse::<usize>(), pages.parse::<u64>()) else {
                continue;
            };
            match nodes.contains(&node) {
                true => local += pages * page_bytes,
                false => remote += pages * page_bytes,
            }
        }
    }
    (local, remote)
}

/// Files that count the energy of a domain of every package, in microjoules.
#[derive(Debug, PartialEq)]
pub(super) struct Energy {
    /// Each file with the number of microjoules at which it begins anew.
    files: Vec<(PathBuf, u64)>,
}

impl Energy {
    /// The files of a domain: `package`, `dram`.
    pub(super) fn find(root: &Path, domain: &str) -> Result<Energy, Why> {
        let folder = root.join("sys/class/powercap");
        let mut files = Vec::new();
        for name in host::names(&folder).unwrap_or_default() {
            let text = |file: &str| std::fs::read_to_string(folder.join(&name).join(file)).ok();
            let title = text("name").unwrap_or_default();
            // A package is called package-0, package-1, ...
            if title.trim().split('-').next() != Some(domain) {
                continue;
            }
            let range = text("max_energy_range_uj").and_then(|t| t.trim().parse().ok());
            files.push((
                folder.join(&name).join("energy_uj"),
                range.unwrap_or(u64::MAX),
            ));
        }
        let Some((first, _)) = files.first() else {
            return Err(("this machine shows no energy counters".into(), None));
        };
        match std::fs::File::open(first) {
            Ok(_) => Ok(Energy { files }),
            Err(e) => Err((
                format!("\"{}\" cannot be read: {e}", first.display()),
                Some("sudo chmod a+r /sys/class/powercap/*/energy_uj".into()),
            )),
        }
    }

    /// What the files show now; `None` if one cannot be read.
    pub(super) fn read_uj(&self) -> Option<Vec<u64>> {
        let read = |(path, _): &(PathBuf, u64)| {
            let text = std::fs::read_to_string(path).ok()?;
            text.trim().parse().ok()
        };
        self.files.iter().map(read).collect()
    }

    /// Joules between two readings; a file may have begun anew once.
    pub(super) fn joules(&self, before: &[u64], after: &[u64]) -> f64 {
        let pairs = before.iter().zip(after).zip(&self.files);
        let uj = pairs.map(
            |((&before, &after), (_, range))| match after.checked_sub(before) {
                Some(used) => used,
                None => (range.saturating_sub(before)).saturating_add(after),
            },
        );
        uj.sum::<u64>() as f64 / 1e6
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn memory_is_split_by_node() {
        let text = "55 default file=/bin/x mapped=2 N0=2 N3=1 kernelpagesize_kB=4\n\
                    7f default anon=3 dirty=3 N1=3 kernelpagesize_kB=2048\n7e default stack\n";
        assert_eq!(
            split(text, &HashSet::from([0])),
            (2 << 12, (1 << 12) + (3 << 21))
        );
        assert_eq!(
            split(text, &HashSet::from([1, 3])),
            ((1 << 12) + (3 << 21), 2 << 12)
        );
    }

    #[test]
    fn energy_is_added_over_packages_and_wraps() {
        let dir = tempfile::tempdir().expect("folder");
        let write = |path: &str, text: &str| {
            let path = dir.path().join("sys/class/powercap").join(path);
            std::fs::create_dir_all(path.parent().expect("a folder")).expect("created");
            std::fs::write(path, text).expect("written");
        };
        for (folder, name, uj) in [
            ("intel-rapl:0", "package-0\n", "900\n"),
            ("intel-rapl:1", "package-1\n", "5\n"),
            ("intel-rapl:0:0", "core\n", "7\n"),
        ] {
            write(&format!("{folder}/name"), name);
            write(&format!("{folder}/energy_uj"), uj);
            write(&format!("{folder}/max_energy_range_uj"), "1000\n");
        }
        let energy = Energy::find(dir.path(), "package").expect("is there");
        let before = energy.read_uj().expect("readable");
        assert_eq!(before, [900, 5]);
        write("intel-rapl:0/energy_uj", "100\n");
        write("intel-rapl:1/energy_uj", "25\n");
        let after = energy.read_uj().expect("readable");
        // 200 after the wrap, and 20.
        assert!((energy.joules(&before, &after) - 220e-6).abs() < 1e-12);
        let (reason, _) = Energy::find(dir.path(), "dram").expect_err("is not there");
        assert!(reason.contains("no energy counters"), "{reason}");
        write("intel-rapl:0/energy_uj", "rubbish");
        assert_eq!(energy.read_uj(), None);
    }
}
