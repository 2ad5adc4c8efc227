//! A run that decodes plainly, with drafts by the model's own top bits and with drafts from the text.

use super::FakeRun;
use engine::options::speculation::Speculation;
use engine::speculate::Telemetry;
use harness::record::*;
use serde_json::json;

/// Nanoseconds of a pass over one token.
const PLAIN_NS: u64 = 10_000_000;

/// Method, decode rate, and of 20 passes with a draft: tokens of each, tokens kept of it, time of a drafted token, and of a pass.
const CASES: [(&str, f64, [u64; 4]); 3] = [
    ("none", 100.0, [0, 0, 0, 0]),
    ("qcsd", 150.0, [2, 2, PLAIN_NS / 4, PLAIN_NS * 3 / 2]),
    (
        "prompt-lookup",
        95.0,
        [3, 0, PLAIN_NS / 1000, PLAIN_NS * 6 / 5],
    ),
];

impl FakeRun {
    /// Five rounds of each case.
    pub(crate) fn drafting() -> FakeRun {
        let swept = CASES.map(|(method, ..)| json!({ "engine.speculation.method": method }));
        let mut run = FakeRun::new("drafting", &swept);
        for (index, (method, rate, drafts)) in (0..).zip(CASES) {
            let wanted = json!({ "method": method, "draft_quant": "top" });
            let wanted: Speculation = serde_json::from_value(wanted).expect("a table");
            run.manifest.cases[index as usize].engine.speculation = Some(wanted);
            for round in 0..5 {
                run.push(index, Phase::Measured, round, 0, rate, 2);
                let sample = run.samples.last_mut().expect("just pushed");
                sample.output_sha256 = "0f".repeat(32);
                sample.speculation = Some(telemetry(drafts));
            }
        }
        run
    }
}

/// Of 20 passes without and 20 with a draft.
fn telemetry([length, kept, draft_ns, pass_ns]: [u64; 4]) -> Telemetry {
    if length == 0 {
        return Telemetry {
            passes: 127,
            tokens: 127,
            verify_ns: 127 * PLAIN_NS,
            passes_ns: vec![[127, 127 * PLAIN_NS]],
            ..Telemetry::default()
        };
    }
    let at = |i: u64| [20 * u64::from(i <= kept), if i < kept { 20 } else { 0 }];
    let mut passes_ns = vec![[0, 0]; length as usize + 1];
    passes_ns[0] = [20, 20 * PLAIN_NS];
    passes_ns[length as usize] = [20, 20 * pass_ns];
    Telemetry {
        passes: 40,
        tokens: 40 + 20 * kept,
        drafted: 20 * length,
        accepted: 20 * kept,
        by_position: (0..length).map(at).collect(),
        draft_ns: 20 * length * draft_ns,
        verify_ns: 20 * (pass_ns + PLAIN_NS),
        rollback_ns: 40 * 100,
        passes_ns,
    }
}
