//! A run of a model in two weight formats, each densely and with half of the channels of `down` left out.

use super::FakeRun;
use engine::model::{ByChannels, Encoded, Placed};
use engine::options::sparsity::{Method, Sparsity};
use engine::quality::Figures;
use engine::sparsity::{CURVE_SHARES, LayerCount, MadeBy, Site, SiteCount, Telemetry, Thresholds};
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

/// Where the thresholds are said to lie.
const THRESHOLDS: &str = "/thresholds/half.toml";

impl FakeRun {
    /// Five rounds of each case.
    pub(crate) fn sparse() -> FakeRun {
        let swept = CASES.map(|(quant, method, ..)| {
            json!({ "engine.quant": quant, "engine.sparsity.method": method })
        });
        let mut run = FakeRun::new("sparse", &swept);
        let found = (THRESHOLDS.to_owned(), thresholds());
        run.manifest.thresholds.extend([found]);
        for (index, (_, method, rate, share)) in (0..).zip(CASES) {
            if method == "teal" {
                run.manifest.cases[index as usize].engine.sparsity = Some(Sparsity {
                    method: Method::Teal,
                    threshold: 0.0,
                    thresholds: PathBuf::from(THRESHOLDS),
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
                    sample.by_channels = Some(by_channels(round));
                }
            }
            run.quality.push(QualityRecord {
                schema_version: SCHEMA_VERSION,
                case: run.manifest.cases[index as usize].name.clone(),
                case_index: index,
                started_at: "2025-03-14T09:26:53Z".to_owned(),
                key: "e7".repeat(32),
                from_cache: false,
                result: Quality::Measured(Figures {
                    predictions: 2040,
                    perplexity: 20.0 + f64::from(index),
                    perplexity_error: 0.5,
                    kld_mean: 0.01 * f64::from(index),
                    kld_mean_error: 0.001,
                    kld_p99: 0.1,
                    top1_share: 0.95,
                }),
            });
        }
        run.manifest.quality = Some(QualityPlan {
            corpus: "/texts/tokenlab.md".to_owned(),
            corpus_sha256: "d6".repeat(32),
            ctx: 512,
            windows: Some(8),
            base: QualityBase::Own("F32".to_owned()),
        });
        run
    }
}

/// A file of thresholds for a model of twelve layers, whose values grow with the layer.
fn thresholds() -> Thresholds {
    let shares = CURVE_SHARES.to_vec();
    let magnitude = |layer: usize, share: f64| (0.1 * (layer + 1) as f64 * share) as f32;
    let at_each = |layer: usize| Site::ALL.map(|site| (site, magnitude(layer, 0.5))).into();
    let curve = |layer: usize| {
        let below: Vec<f32> = shares.iter().map(|s| magnitude(layer, *s)).collect();
        Site::ALL.map(|site| (site, below.clone())).into()
    };
    Thresholds {
        norms: false,
        sparsity: 0.5,
        model: "22".repeat(32),
        text: "d6".repeat(32),
        tokens: 4096,
        layer: (0..12).map(at_each).collect(),
        left_out: (0..12)
            .map(|_| Site::ALL.map(|site| (site, 0.5)).into())
            .collect(),
        curve: (0..12).map(curve).collect(),
        made_by: Some(MadeBy {
            method: Method::Teal,
            version: "0.1.0".to_owned(),
            program: "11".repeat(32),
            curve_shares: shares,
        }),
    }
}

/// What is encoded in the first round, and mapped from then on.
fn by_channels(round: u32) -> ByChannels {
    ByChannels {
        matrices: 14,
        bytes: 1_500_000,
        encoded: vec![Encoded {
            matrices: 14,
            from: "Q4_K".to_owned(),
            to: "Q4_0".to_owned(),
        }],
        placed: match round {
            0 => Placed::Kept,
            _ => Placed::Mapped,
        },
    }
}
