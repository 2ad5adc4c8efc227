//! Simulated counts in words and as rows of a table.

use crate::host::binary_bytes;
use crate::record::{Counts, Simulated, SimulatedPhase, SimulatedRecord, Simulation};
use crate::runner::{DECODE, OTHER, PREFILL};

/// Counts of one token.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct PerToken {
    /// Instructions.
    pub instructions: f64,
    /// Misses of the first level: instructions, data read and data written.
    pub l1_misses: f64,
    /// Misses of the last level, likewise.
    pub ll_misses: f64,
    /// Bytes of the lines that missed the last level.
    pub ll_bytes: f64,
}

/// A phase, or a stage of one.
#[derive(Debug, Clone, PartialEq)]
pub struct Row {
    /// `prefill` or `decode`.
    pub phase: &'static str,
    /// The stage, `other` for what belongs to none; `None` for the whole phase, which comes before its stages.
    pub stage: Option<&'static str>,
    /// Counts of one token.
    pub per_token: PerToken,
    /// Share of the phase's instructions, 0 to 1.
    pub instructions_share: f64,
    /// Share of the phase's misses of the last level, 0 to 1.
    pub ll_misses_share: f64,
}

/// The counts of a case as rows; none if it was not simulated.
pub fn rows(record: &SimulatedRecord) -> Vec<Row> {
    let Some(simulated) = record.counts() else {
        return Vec::new();
    };
    let prefill = Some((PREFILL, &simulated.prefill));
    let decode = simulated.decode.as_ref().map(|phase| (DECODE, phase));
    let phases = prefill.into_iter().chain(decode);
    phases
        .flat_map(|(name, phase)| phase_rows(name, phase, simulated.ll.line_bytes))
        .collect()
}

fn phase_rows(phase: &'static str, counts: &SimulatedPhase, line_bytes: u64) -> Vec<Row> {
    let total = counts.total();
    let tokens = f64::from(counts.tokens.max(1));
    let share = |part: u64, whole: u64| part as f64 / whole.max(1) as f64;
    let row = |stage, of: &Counts| Row {
        phase,
        stage,
        per_token: PerToken {
            instructions: of.instructions as f64 / tokens,
            l1_misses: of.l1_misses() as f64 / tokens,
            ll_misses: of.ll_misses() as f64 / tokens,
            ll_bytes: (of.ll_misses() * line_bytes) as f64 / tokens,
        },
        instructions_share: share(of.instructions, total.instructions),
        ll_misses_share: share(of.ll_misses(), total.ll_misses()),
    };
    let stages = counts.stages.iter();
    let stages = stages.map(|s| row(Some(s.stage.map_or(OTHER, |s| s.name())), &s.counts));
    std::iter::once(row(None, &total)).chain(stages).collect()
}

/// One line: what was simulated and what came out, or why nothing was.
pub fn sentence(record: &SimulatedRecord) -> String {
    let simulated = match &record.result {
        Simulation::Missing(reason) => return reason.clone(),
        Simulation::Counted(simulated) => simulated,
    };
    let Simulated { tool, l1d, ll, .. } = &**simulated;
    let isa = simulated.isa.as_deref().unwrap_or("unknown instructions");
    let mut text = format!(
        "simulated ({tool}, one thread, {isa}, {} L1d, {} LL)",
        binary_bytes(l1d.bytes),
        binary_bytes(ll.bytes)
    );
    if let Some(decode) = &simulated.decode {
        text += &format!(": a token takes {}", phase_words(simulated, decode));
    }
    let prefill = &simulated.prefill;
    text += &format!(
        "; each of {} prompt tokens {}",
        prefill.tokens,
        phase_words(simulated, prefill)
    );
    text
}

fn phase_words(simulated: &Simulated, phase: &SimulatedPhase) -> String {
    format!(
        "{} instructions, {} last-level misses ({}B)",
        scaled(phase.per_token(|c| c.instructions)),
        scaled(phase.per_token(Counts::ll_misses)),
        scaled(simulated.ll_bytes_per_token(phase)),
    )
}

/// A number with a decimal prefix: `39.2 M`.
pub(super) fn scaled(x: f64) -> String {
    let (value, prefix) = match x {
        x if x >= 1e9 => (x / 1e9, "G"),
        x if x >= 1e6 => (x / 1e6, "M"),
        x if x >= 1e3 => (x / 1e3, "k"),
        x => (x, ""),
    };
    let digits = match value {
        v if v >= 99.95 || v.fract() == 0.0 => 0,
        v if v >= 9.995 => 1,
        _ => 2,
    };
    format!("{value:.digits$} {prefix}").trim_end().to_owned()
}
