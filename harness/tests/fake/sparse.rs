//! A run of a model in two weight formats, each densely and with half of the channels of `down` left out.

use super::FakeRun;
use engine::options::sparsity::{Method, Sparsity};
use engine::sparsity::{LayerCount, Site, SiteCount, Telemetry};
use harness::record::*;
use serde_json::json;
use std::path::PathBuf;

/// Format, method, decode rate, share of the bytes read.
const CASES: [(&str, &str, f64, f64); 4] = [
    ("Q8_0", "none", 50.0, 1.0),
    ("Q8_0", "teal", 80.0, 0.5),
    ("Q4_0", "none", 100.0, 0.5),
    ("Q4_0", "teal", 120.0, 0.4),
];

impl FakeRun {
    /// Five rounds of each case.
    pub(crate) fn sparse() -> FakeRun {
        let swept = CASES.map(|(quant, method, ..)| {
            json!({ "engine.quant": quant, "engine.sparsity.method": method })
        });
        let mut run = FakeRun::new("sparse", &swept);
        for (index, (_, method, rate, share)) in (0..).zip(CASES) {
            if method == "teal" {
                run.manifest.cases[index as usize].engine.sparsity = Some(Sparsity {
                    method: Method::Teal,
                    threshold: 0.5,
                    thresholds: PathBuf::new(),
                });
            }
            for round in 0..5 {
                run.push(index, Phase::Measured, round, 0, rate, 2);
                let sample = run.samples.last_mut().expect("just pushed");
                let ledger = &mut sample.decode.as_mut().expect("decodes").ledger;
                ledger.weight_bytes = (ledger.weight_bytes as f64 * share) as u64;
                (ledger.kv_read_bytes, ledger.kv_write_bytes) = (0, 0);
                if method == "teal" {
                    let count = SiteCount {
                        active: 50,
                        channels: 100,
                        read_bytes: 500,
                        possible_bytes: 1000,
                    };
                    let sites = vec![LayerCount {
                        layer: 0,
                        site: Site::Down,
                        count,
                    }];
                    sample.sparsity = Some(Telemetry { sites });
                }
            }
        }
        run
    }
}
