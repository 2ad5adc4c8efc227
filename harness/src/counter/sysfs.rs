//! PMUs as sysfs describes them: which number a PMU has, where the fields of an event go, and in which unit it counts.

use super::spec::Attr;
use crate::host;
use engine::topology::parse_cpu_list;
use std::path::{Path, PathBuf};

/// Folder of the PMUs, below the root.
pub(super) const DEVICES: &str = "sys/bus/event_source/devices";

/// An event of one PMU.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct PmuEvent {
    pub(super) attr: Attr,
    /// CPUs that count for the whole machine; `None` for a PMU of the cores, which counts threads.
    pub(super) cpus: Option<Vec<usize>>,
    /// What a count is multiplied with.
    pub(super) scale: f64,
}

/// Events of all PMUs whose name fits, with these terms: an event's name, or fields such as `event=0x0a,umask=1`.
///
/// # Errors
/// What is missing or cannot be understood.
pub(super) fn resolve(root: &Path, pmu: &str, terms: &str) -> Result<Vec<PmuEvent>, String> {
    let devices = root.join(DEVICES);
    let names: Vec<String> = match pmu.strip_suffix('*') {
        None => vec![pmu.to_owned()],
        Some(stem) => {
            let numbered = |n: &String| {
                let rest = n.strip_prefix(stem);
                rest.is_some_and(|r| !r.is_empty() && r.bytes().all(|b| b.is_ascii_digit()))
            };
            let names = host::names(&devices).unwrap_or_default();
            names.into_iter().filter(numbered).collect()
        }
    };
    let here: Vec<PathBuf> = names.iter().map(|name| devices.join(name)).collect();
    if here.is_empty() || here.iter().any(|folder| !folder.is_dir()) {
        return Err(format!("this machine has no event source \"{pmu}\""));
    }
    here.iter().map(|folder| event(folder, terms)).collect()
}

/// One event of the PMU in `folder`.
fn event(folder: &Path, terms: &str) -> Result<PmuEvent, String> {
    let kind = text(&folder.join("type")).ok_or_else(|| unreadable(&folder.join("type")))?;
    let kind = kind.parse().map_err(|_| unreadable(&folder.join("type")))?;
    let mut found = PmuEvent {
        attr: Attr {
            kind,
            ..Attr::default()
        },
        cpus: cpus(folder),
        scale: 1.0,
    };
    let file = folder.join("events").join(terms);
    let fields = match text(&file) {
        Some(fields) => {
            found.scale = scale(&file);
            fields
        }
        None if terms.contains('=') => terms.to_owned(),
        None => return Err(format!("there is no \"{}\"", file.display())),
    };
    for field in fields.split(',') {
        let (name, value) = field.split_once('=').unwrap_or((field, "1"));
        let value = number(value)
            .ok_or_else(|| format!("\"{field}\" in \"{}\" needs a value", file.display()))?;
        let format = folder.join("format").join(name);
        let format_text = text(&format).ok_or_else(|| unreadable(&format))?;
        place(&mut found.attr, &format_text, value)
            .ok_or_else(|| format!("{value:#x} does not fit \"{}\"", format.display()))?;
    }
    Ok(found)
}

/// The CPUs that stand for the whole machine. A `cpumask` marks a PMU outside the cores.
fn cpus(folder: &Path) -> Option<Vec<usize>> {
    parse_cpu_list(&text(&folder.join("cpumask"))?)
}

/// What a count is multiplied with to get the unit that we use: plain counts, bytes, joules.
fn scale(file: &Path) -> f64 {
    let beside = |suffix: &str| text(Path::new(&format!("{}.{suffix}", file.display())));
    let scale = beside("scale").and_then(|s| s.parse().ok()).unwrap_or(1.0);
    match beside("unit").as_deref() {
        Some("MiB") => scale * f64::from(1 << 20),
        _ => scale,
    }
}

/// Puts a value where a format such as `config:0-7,32-35` says; `None` if it does not fit, or the format is strange.
fn place(attr: &mut Attr, format: &str, value: u64) -> Option<()> {
    let (word, bits) = format.split_once(':')?;
    let word = match word {
        "config" => &mut attr.config,
        "config1" => &mut attr.config1,
        "config2" => &mut attr.config2,
        _ => return None,
    };
    let mut rest = value;
    for range in bits.split(',') {
        let (low, high) = range.split_once('-').unwrap_or((range, range));
        let (low, high): (u32, u32) = (low.parse().ok()?, high.parse().ok()?);
        if high < low || high > 63 {
            return None;
        }
        let width = high - low + 1;
        let mask = u64::MAX >> (64 - width);
        *word = (*word & !(mask << low)) | ((rest & mask) << low);
        rest = rest.checked_shr(width).unwrap_or(0);
    }
    (rest == 0).then_some(())
}

/// A number of perf's event files: hexadecimal with `0x`, else decimal.
fn number(text: &str) -> Option<u64> {
    match text.strip_prefix("0x") {
        Some(digits) => u64::from_str_radix(digits, 16).ok(),
        None => text.parse().ok(),
    }
}

fn text(path: &Path) -> Option<String> {
    Some(std::fs::read_to_string(path).ok()?.trim().to_owned())
}

fn unreadable(path: &Path) -> String {
    format!("\"{}\" cannot be read", path.display())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A machine with the PMUs of an AMD server: cores, two memory controllers, energy.
    fn machine() -> tempfile::TempDir {
        let dir = tempfile::tempdir().expect("folder");
        let files = [
            ("cpu/type", "4"),
            ("cpu/format/event", "config:0-7,32-35"),
            ("cpu/format/umask", "config:8-15"),
            ("cpu/format/inv", "config:23"),
            ("cpu/format/odd", "config9:1"),
            ("cpu/events/some", "event=0x1a0,umask=0x1e,inv"),
            ("cpu/events/ldlat", "event=0xcd,ldlat=?"),
            ("umc_0/type", "20"),
            ("umc_0/cpumask", "0"),
            ("umc_0/format/event", "config:0-7"),
            ("umc_0/format/mask", "config1:8-9"),
            ("umc_1/type", "21"),
            ("umc_1/cpumask", "0,8"),
            ("umc_1/format/event", "config:0-7"),
            ("umc_1/format/mask", "config1:8-9"),
            ("power/type", "22"),
            ("power/cpumask", "0"),
            ("power/format/event", "config:0-7"),
            ("power/events/energy-pkg", "event=0x02"),
            (
                "power/events/energy-pkg.scale",
                "2.3283064365386962890625e-10",
            ),
            ("power/events/energy-pkg.unit", "Joules"),
            ("imc/type", "23"),
            ("imc/cpumask", "0"),
            ("imc/format/event", "config:0-7"),
            ("imc/events/reads", "event=0x04"),
            ("imc/events/reads.scale", "6.103515625e-5"),
            ("imc/events/reads.unit", "MiB"),
        ];
        for (path, text) in files {
            let path = dir.path().join(DEVICES).join(path);
            std::fs::create_dir_all(path.parent().expect("a folder")).expect("created");
            std::fs::write(path, format!("{text}\n")).expect("written");
        }
        dir
    }

    #[test]
    fn fields_go_where_the_format_says() {
        let dir = machine();
        let one = |pmu, terms| match resolve(dir.path(), pmu, terms)
            .expect("is there")
            .as_slice()
        {
            [event] => event.clone(),
            other => panic!("expected one event, found {other:?}"),
        };
        let some = one("cpu", "some");
        assert_eq!((some.attr.kind, some.cpus), (4, None));
        assert_eq!(some.attr.config, 0x1_0080_1ea0);
        assert_eq!(one("cpu", "event=0xc2,umask=3").attr.config, 0x3c2);
        let energy = one("power", "energy-pkg");
        assert_eq!((energy.attr.config, energy.cpus), (2, Some(vec![0])));
        assert!((energy.scale - 2f64.powi(-32)).abs() < 1e-24);
        // A CAS command moves 64 bytes.
        assert!((one("imc", "reads").scale - 64.0).abs() < 1e-9);
        let channels = resolve(dir.path(), "umc_*", "event=0x0a,mask=0x1").expect("is there");
        let kinds: Vec<u32> = channels.iter().map(|c| c.attr.kind).collect();
        assert_eq!(
            (kinds, channels[1].cpus.clone()),
            (vec![20, 21], Some(vec![0, 8]))
        );
        assert_eq!(
            (channels[0].attr.config, channels[0].attr.config1),
            (0x0a, 0x100)
        );
    }

    #[test]
    fn what_is_missing_is_said() {
        let dir = machine();
        let rows = [
            ("amd_df", "x", "no event source \"amd_df\""),
            ("nothing_*", "x", "no event source \"nothing_*\""),
            ("cpu", "nothing", "events/nothing\""),
            ("cpu", "ldlat", "\"ldlat=?\""),
            ("cpu", "other=1", "format/other\" cannot be read"),
            ("cpu", "odd=1", "0x1 does not fit"),
            ("cpu", "umask=0x100", "0x100 does not fit"),
        ];
        for (pmu, terms, expect) in rows {
            let message = resolve(dir.path(), pmu, terms).expect_err("must be refused");
            assert!(message.contains(expect), "{message}");
        }
    }
}
