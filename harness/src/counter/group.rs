//! Named groups of events: data files with the events, the figures made from them, and what they mean.

use serde::Deserialize;
use std::sync::LazyLock;

/// The files, in the order in which their groups are shown. A group is added here and nowhere else.
const FILES: &[&str] = &[
    include_str!("../../counters/software.toml"),
    include_str!("../../counters/core.toml"),
    include_str!("../../counters/cache.toml"),
    include_str!("../../counters/tlb.toml"),
    include_str!("../../counters/topdown.toml"),
    include_str!("../../counters/dram.toml"),
    include_str!("../../counters/numa.toml"),
    include_str!("../../counters/energy.toml"),
];

/// The group that is counted in any case: it costs nothing and is always there.
pub const SOFTWARE: &str = "software";
/// Stands among the events of a metric for the wall time of the part, in nanoseconds.
pub(super) const WALL_CLOCK: &str = "wall-clock";

/// Events that belong together.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Group {
    /// As scenarios name it.
    pub name: String,
    /// In words.
    pub title: String,
    /// What it tells, and what it does not.
    pub meaning: String,
    /// The events; counted at the same time where the CPU has counters enough.
    #[serde(rename = "event")]
    pub events: Vec<Event>,
    /// Figures made from them.
    #[serde(rename = "metric", default)]
    pub metrics: Vec<Metric>,
}

/// Something that can be counted.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Event {
    /// As scenarios and records name it; perf's name where perf has one.
    pub name: String,
    /// In words.
    pub title: String,
    /// Unit; empty for plain counts.
    #[serde(default)]
    pub unit: String,
    /// What it counts.
    pub meaning: String,
    /// How it is asked for on AMD's CPUs, best first.
    #[serde(default)]
    pub amd: Vec<Way>,
    /// On Intel's.
    #[serde(default)]
    pub intel: Vec<Way>,
    /// On Arm's.
    #[serde(default)]
    pub arm: Vec<Way>,
    /// On all, after the ways of the CPU at hand.
    #[serde(default)]
    pub any: Vec<Way>,
}

/// One way to ask for an event, see [`super::spec`].
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(from = "WayFile")]
pub struct Way {
    /// A name, a raw code or a sysfs event.
    pub code: String,
    /// Flags of `/proc/cpuinfo` that the CPU must have, with `family-N` for its family.
    pub needs: String,
    /// What the count is multiplied with.
    pub scale: f64,
}

impl Way {
    /// A code alone.
    pub fn plain(code: &str) -> Way {
        Way {
            code: code.to_owned(),
            needs: String::new(),
            scale: 1.0,
        }
    }
}

/// A way as it is written: the code alone, or with what it needs.
#[derive(Deserialize)]
#[serde(untagged)]
enum WayFile {
    Plain(String),
    Full {
        code: String,
        #[serde(default)]
        needs: String,
        #[serde(default = "one")]
        scale: f64,
    },
}

impl From<WayFile> for Way {
    fn from(file: WayFile) -> Way {
        match file {
            WayFile::Plain(code) => Way::plain(&code),
            WayFile::Full { code, needs, scale } => Way { code, needs, scale },
        }
    }
}

/// A figure made from events.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Metric {
    /// As records and columns name it.
    pub name: String,
    /// In words.
    pub title: String,
    /// Unit; empty for plain ratios.
    #[serde(default)]
    pub unit: String,
    /// What it tells.
    pub meaning: String,
    /// Events that are added up.
    pub of: Vec<String>,
    /// Events whose sum divides them; the tokens of the part if there are none.
    #[serde(default)]
    pub over: Vec<String>,
    /// What the quotient is multiplied with.
    #[serde(default = "one")]
    pub scale: f64,
}

fn one() -> f64 {
    1.0
}

/// All groups.
pub fn groups() -> &'static [Group] {
    static GROUPS: LazyLock<Vec<Group>> = LazyLock::new(|| {
        let read = |text: &&str| toml::from_str(text).expect("tests read every group");
        FILES.iter().map(read).collect()
    });
    &GROUPS
}

/// The group of that name.
pub fn group(name: &str) -> Option<&'static Group> {
    groups().iter().find(|group| group.name == name)
}

/// The event of that name in any group.
pub(super) fn event(name: &str) -> Option<&'static Event> {
    let mut all = groups().iter().flat_map(|group| &group.events);
    all.find(|event| event.name == name)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::counter::spec::Spec;
    use std::collections::HashSet;

    #[test]
    fn every_group_is_read_and_can_be_asked_for() {
        let mut names = HashSet::new();
        for group in groups() {
            assert!(names.insert(&group.name), "{} twice", group.name);
            assert!(!group.meaning.is_empty() && !group.events.is_empty());
            for event in &group.events {
                assert!(names.insert(&event.name), "{} twice", event.name);
                let ways = [&event.amd, &event.intel, &event.arm, &event.any];
                let ways: Vec<&Way> = ways.into_iter().flatten().collect();
                assert!(!ways.is_empty(), "{}", event.name);
                for way in ways {
                    assert!(Spec::parse(&way.code).is_some(), "{}", way.code);
                }
            }
            for metric in &group.metrics {
                assert!(names.insert(&metric.name), "{} twice", metric.name);
                for name in metric.of.iter().chain(&metric.over) {
                    assert!(name == WALL_CLOCK || event(name).is_some(), "{name}");
                }
            }
        }
        assert!(group(SOFTWARE).is_some());
    }
}
