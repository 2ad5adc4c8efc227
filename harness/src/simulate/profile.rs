//! Reads callgrind's output: the sum of each part, which is all that is needed where every stage ends a part.

use crate::record::{CacheShape, Counts, StageCounts};
use crate::runner::{DECODE, OTHER, PREFILL};
use anyhow::{Context as _, bail};
use engine::stage::Stage;
use std::collections::HashMap;
use std::io::BufRead;

/// Most bytes of output that are read.
const OUTPUT_BYTES_MAX: u64 = 8 << 30;

/// Where a count goes.
type Place = fn(&mut Counts) -> &mut u64;

/// Callgrind's names of what it counts, and where each goes.
const EVENTS: [(&str, Place); 9] = [
    ("Ir", |c| &mut c.instructions),
    ("Dr", |c| &mut c.reads),
    ("Dw", |c| &mut c.writes),
    ("I1mr", |c| &mut c.l1_fetch_misses),
    ("D1mr", |c| &mut c.l1_read_misses),
    ("D1mw", |c| &mut c.l1_write_misses),
    ("ILmr", |c| &mut c.ll_fetch_misses),
    ("DLmr", |c| &mut c.ll_read_misses),
    ("DLmw", |c| &mut c.ll_write_misses),
];

/// What callgrind wrote.
#[derive(Debug, Default, PartialEq)]
pub(super) struct Profile {
    /// Name and version.
    pub(super) tool: String,
    pub(super) l1i: CacheShape,
    pub(super) l1d: CacheShape,
    pub(super) ll: CacheShape,
    /// The stages of each phase, in the order of a pass; what belongs to none comes last.
    pub(super) phases: HashMap<String, Vec<StageCounts>>,
}

/// Reads an output that is made of parts.
///
/// # Errors
/// When it is not callgrind's with a cache simulation, or holds a part of an unknown name.
pub(super) fn read(output: impl BufRead) -> anyhow::Result<Profile> {
    let mut profile = Profile::default();
    let mut events: Vec<String> = Vec::new();
    let mut part: Option<String> = None;
    let mut stages: Vec<StageCounts> = Vec::new();
    for line in output.take(OUTPUT_BYTES_MAX).split(b'\n') {
        // Names of files need not be UTF-8; what is read here is.
        let line = line?;
        let line = String::from_utf8_lossy(&line);
        let Some((key, value)) = line.split_once(": ") else {
            continue;
        };
        match key {
            "creator" => profile.tool = value.trim().to_owned(),
            "events" => events = value.split_whitespace().map(str::to_owned).collect(),
            "desc" => match value.split_once(": ") {
                Some(("I1 cache", shape)) => profile.l1i = cache(shape)?,
                Some(("D1 cache", shape)) => profile.l1d = cache(shape)?,
                Some(("LL cache", shape)) => profile.ll = cache(shape)?,
                Some(("Trigger", why)) => {
                    let name = why.strip_prefix("Client Request: ");
                    part = name.map(|name| name.trim().to_owned());
                }
                _ => {}
            },
            "summary" => {
                let Some(name) = part.take() else { continue };
                let ends = [PREFILL, DECODE].contains(&name.as_str());
                let stage = stage(if ends { OTHER } else { &name })?;
                add(&mut stages, stage, &counts(&events, value)?);
                if ends {
                    stages.sort_by_key(|s| s.stage.map_or(Stage::ALL.len(), |s| s as usize));
                    profile.phases.insert(name, std::mem::take(&mut stages));
                }
            }
            _ => {}
        }
    }
    if profile.ll == CacheShape::default() {
        bail!("it does not tell which caches were simulated");
    }
    Ok(profile)
}

/// The stage of that name; `None` for what belongs to none.
fn stage(name: &str) -> anyhow::Result<Option<Stage>> {
    if name == OTHER {
        return Ok(None);
    }
    let stage = Stage::ALL.into_iter().find(|s| s.name() == name);
    let shown: String = name.escape_debug().take(40).collect();
    stage
        .map(Some)
        .with_context(|| format!("unknown stage \"{shown}\""))
}

fn add(stages: &mut Vec<StageCounts>, stage: Option<Stage>, counts: &Counts) {
    match stages.iter_mut().find(|s| s.stage == stage) {
        Some(found) => found.counts.add(counts),
        None => stages.push(StageCounts {
            stage,
            counts: *counts,
        }),
    }
}

/// Numbers in the order of the events; trailing zeros are left out.
fn counts(events: &[String], numbers: &str) -> anyhow::Result<Counts> {
    let numbers: Vec<u64> = numbers
        .split_whitespace()
        .map(str::parse)
        .collect::<Result<_, _>>()
        .with_context(|| format!("expected counts, found \"{}\"", numbers.escape_debug()))?;
    let mut counts = Counts::default();
    for (name, place) in EVENTS {
        let at = events.iter().position(|event| event == name);
        let at = at.with_context(|| format!("it does not count \"{name}\""))?;
        *place(&mut counts) = numbers.get(at).copied().unwrap_or(0);
    }
    Ok(counts)
}

/// `32768 B, 64 B, 8-way associative`.
fn cache(shape: &str) -> anyhow::Result<CacheShape> {
    let read = || {
        let mut words = shape.split(',').map(str::trim);
        let bytes = words.next()?.strip_suffix(" B")?.parse().ok()?;
        let line_bytes = words.next()?.strip_suffix(" B")?.parse().ok()?;
        let ways = match words.next()? {
            "direct-mapped" => 1,
            ways => ways.strip_suffix("-way associative")?.parse().ok()?,
        };
        Some(CacheShape {
            bytes,
            ways,
            line_bytes,
        })
    };
    read().with_context(|| format!("expected a cache, found \"{}\"", shape.escape_debug()))
}
