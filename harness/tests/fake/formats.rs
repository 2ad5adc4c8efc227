//! A run of one model in several weight formats, with its quality.

use super::{FakeRun, matrices};
use engine::quality::Figures;
use harness::record::*;
use serde_json::json;

/// Format, bits a weight, decode rate, divergence in nats, perplexity.
const FORMATS: [(&str, f64, f64, f64, f64); 14] = [
    ("F32", 32.0, 21.0, 2.1e-10, 19.33),
    ("Q8_0", 8.5, 104.0, 0.0040, 19.36),
    ("Q6_K", 6.56, 121.0, 0.0061, 19.41),
    ("Q5_K", 5.5, 132.0, 0.0142, 19.6),
    ("Q5_1", 6.0, 126.0, 0.0139, 19.58),
    ("Q5_0", 5.5, 138.0, 0.0171, 19.7),
    ("Q4_K", 4.5, 158.0, 0.0463, 20.3),
    ("Q4_1", 5.0, 162.0, 0.0052, 19.38),
    ("Q4_0", 4.5, 168.0, 0.071, 20.9),
    ("IQ4_NL", 4.5, 149.0, 0.0481, 20.4),
    ("IQ4_XS", 4.25, 151.0, 0.0497, 20.5),
    ("Q3_K", 3.44, 160.0, 0.214, 24.2),
    ("mixed@4.5", 4.5, 157.0, 0.0331, 20.1),
    ("Q2_K", 2.63, 171.0, 1.07, 58.0),
];

impl FakeRun {
    /// One case a format, five rounds, all with their quality but the last, which failed.
    pub(crate) fn formats() -> FakeRun {
        let swept: Vec<_> = FORMATS
            .iter()
            .map(|f| json!({ "engine.quant": f.0 }))
            .collect();
        let mut run = FakeRun::new("quant", &swept);
        run.manifest.quality = Some(QualityPlan {
            corpus: "/texts/tokenlab.md".to_owned(),
            corpus_sha256: "d6".repeat(32),
            ctx: 512,
            windows: Some(8),
            base: QualityBase::Own("F32".to_owned()),
        });
        for (index, (format, bits, rate, kld, perplexity)) in (0..).zip(FORMATS) {
            run.manifest.cases[index as usize].engine.quant = format.to_owned();
            for round in 0..5 {
                run.push(index, Phase::Measured, round, 0, rate, 2);
                let sample = run.samples.last_mut().expect("just pushed");
                if format.starts_with("mixed") {
                    sample.model.matrices = matrices(&["Q4_K", "Q5_K"]);
                }
                let decode = sample.decode.as_mut().expect("decodes");
                let bytes = decode.ledger.weight_bytes as f64 * bits / 5.0;
                decode.ledger.weight_bytes = bytes as u64;
            }
            let result = match index {
                13 => Quality::Missing(super::HOSTILE.to_owned()),
                _ => Quality::Measured(Figures {
                    predictions: 2040,
                    perplexity,
                    perplexity_error: perplexity * 0.03,
                    kld_mean: kld,
                    kld_mean_error: kld * 0.05,
                    kld_p99: kld * 9.0,
                    top1_share: 1.0 - kld.sqrt() * 0.6,
                }),
            };
            run.quality.push(QualityRecord {
                schema_version: SCHEMA_VERSION,
                case: run.manifest.cases[index as usize].name.clone(),
                case_index: index,
                started_at: "2025-03-14T09:26:53Z".to_owned(),
                key: "e7".repeat(32),
                from_cache: false,
                result,
            });
        }
        run
    }
}
