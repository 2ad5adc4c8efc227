//! Whether options are possible, before anything is started: the same rules that the engine's parts hold to themselves.

use crate::error::{Error, Result};
use crate::gguf::Gguf;
use crate::model::{Config, check_kernel, check_packed_cache};
use crate::options::Options;
use crate::quantize::{self, Recipe, plan, product_formats};
use crate::simd;
use crate::sparsity::Thresholds;
use crate::speculate;
use crate::topology::Topology;
use std::path::Path;

/// Refuses options that no machine and no model can do.
///
/// # Errors
/// [`crate::Error::Option`] names the option, what was asked for and what is possible.
pub fn options(options: &Options) -> Result<()> {
    options.check()?;
    quantize::check(options)
}

/// Refuses options that this machine cannot do.
///
/// # Errors
/// As [`options`].
pub fn machine(options: &Options) -> Result<()> {
    self::options(options)?;
    simd::choose(options.isa)?;
    check_packed_cache(&options.packed_cache)?;
    let topology = Topology::detect();
    topology.plan(&options.affinity, options.threads, options.oversubscribe)?;
    Ok(())
}

/// Refuses options that a model cannot do. Reads the start of its file only, and what else the options name.
///
/// # Errors
/// As [`machine`]; and when the file is no model that can be run.
pub fn model(options: &Options, path: &Path) -> Result<()> {
    let file = Gguf::open(path)?;
    let config = Config::from_gguf(&file)?;
    config.context(options)?;
    let planned = plan(&file, &Recipe::from_options(options, &file)?)?;
    check_kernel(options, product_formats(&file, &planned))?;
    speculate::check(options, &file)?;
    if let Some(sparsity) = options.lossy_sparsity() {
        config.check_sparsity()?;
        Thresholds::of(sparsity, &file, config.n_layers())?;
    }
    Ok(())
}

/// Refuses more tokens, prompt and answer together, than the context of a model, or of the one that drafts for it, holds with
/// these options. The last token is never read back, so it needs no place.
///
/// # Errors
/// [`Error::ContextFull`], [`Error::Option`] for the model that drafts; and when a file is no model that can be run.
pub fn room(options: &Options, path: &Path, needed: usize) -> Result<()> {
    let config = Config::from_gguf(&Gguf::open(path)?)?;
    let capacity = config.context(options)?;
    match needed > capacity {
        true => Err(Error::ContextFull {
            needed,
            capacity,
            trained: config.n_ctx_train,
        }),
        false => speculate::check_room(options, needed),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::options::{Affinity, Isa, Kernel};
    use crate::synth::{Shape, synth};

    /// The option that is refused, and why.
    #[track_caller]
    fn refused(result: Result<()>) -> (&'static str, String) {
        match result {
            Err(Error::Option { option, what }) => (option, what),
            other => panic!("expected a refused option, found {other:?}"),
        }
    }

    #[test]
    fn what_a_machine_cannot_do_is_named() {
        let options = Options::default;
        machine(&options()).expect("what is set by default is possible");
        let rows = [
            (
                Options {
                    threads: 100_000,
                    ..options()
                },
                "threads",
                "100000",
            ),
            (
                Options {
                    batch: 0,
                    ..options()
                },
                "batch",
                "0 is not within 1 to 4096",
            ),
            (
                Options {
                    packed_cache: concat!(env!("CARGO_MANIFEST_DIR"), "/Cargo.toml/packed").into(),
                    ..options()
                },
                "packed_cache",
                "Cargo.toml\" is no folder",
            ),
            (
                Options {
                    tail_percent: 300,
                    ..options()
                },
                "tail_percent",
                "300 is not within 0 to 100",
            ),
            (
                Options {
                    prefetch_bytes: usize::MAX,
                    ..options()
                },
                "prefetch_bytes",
                "18446744073709551615 is not within 0 to 16777216",
            ),
            (
                Options {
                    head_prefetch_bytes: 16_777_217,
                    ..options()
                },
                "head_prefetch_bytes",
                "16777217 is not within 0 to 16777216",
            ),
            (
                Options {
                    wait_prefetch_bytes: 1 << 60,
                    ..options()
                },
                "wait_prefetch_bytes",
                "1152921504606846976 is not within 0 to 16777216",
            ),
            (
                Options {
                    barrier_spins: u32::MAX,
                    ..options()
                },
                "barrier_spins",
                "4294967295 is not within 0 to 1000000000",
            ),
            (
                Options {
                    quant: "q9".into(),
                    ..options()
                },
                "quant",
                "\"q9\" is unknown: expected one of native, mixed@BITS, F32, F16",
            ),
            (
                Options {
                    quant: "mixed@4.5".into(),
                    ..options()
                },
                "quant_plan",
                "\"engine plan\"",
            ),
            (
                Options {
                    quant: "Mixed@nan".into(),
                    quant_plan: "plan.toml".into(),
                    ..options()
                },
                "quant",
                "\"mixed@nan\": expected mixed@BITS",
            ),
            (
                Options {
                    affinity: Affinity::Cpus(vec![9999]),
                    ..options()
                },
                "affinity",
                "CPU 9999",
            ),
        ];
        for (options, option, what) in rows {
            let (found, why) = refused(machine(&options));
            assert!(found == option && why.contains(what), "{found}: {why}");
        }
        let lacking = [Isa::Avx2, Isa::Avx512];
        for isa in lacking
            .into_iter()
            .filter(|isa| !simd::available().contains(isa))
        {
            let (found, why) = refused(machine(&Options { isa, ..options() }));
            let expect = format!("this CPU cannot run \"{isa}\": choose one of");
            assert!(found == "isa" && why.starts_with(&expect), "{found}: {why}");
        }
    }

    #[test]
    fn what_a_model_cannot_do_is_named() {
        let dir = tempfile::tempdir().expect("folder");
        let path = dir.path().join("tiny.gguf");
        let tiny = Shape::load("tiny").expect("a shape");
        synth(&tiny, "Q4_0", 1, &path, &mut |_, _| Ok(())).expect("a model");
        model(&Options::default(), &path).expect("what is set by default is possible");
        let ctx = 4_000_000_000;
        let (found, why) = refused(model(
            &Options {
                ctx,
                ..Options::default()
            },
            &path,
        ));
        assert!(
            found == "ctx" && why.contains("4000000000 is more than the "),
            "{found}: {why}"
        );
        let by_tables = |quant: &str| Options {
            kernel: Kernel::Lut,
            quant: quant.into(),
            ..Options::default()
        };
        model(&by_tables("native"), &path).expect("Q4_0 has four bits");
        let (found, why) = refused(model(&by_tables("q5_1"), &path));
        assert!(
            found == "kernel"
                && why.contains("all are Q5_1, Q6_K: it takes one of Q4_0, Q4_1, Q2_K"),
            "{found}: {why}"
        );
        let other = dir.path().join("other.gguf");
        synth(&tiny, "Q4_0", 2, &other, &mut |_, _| Ok(())).expect("another vocabulary");
        let draft_model = |path: &Path| format!("method = \"draft-model\"\ndraft_model = {path:?}");
        for (drafts, option, what) in [
            (
                "method = \"qcsd\"\ndraft_quant = \"Q9\"".to_owned(),
                "speculation.draft_quant",
                "\"Q9\" is unknown",
            ),
            (
                "method = \"qcsd\"\ndraft_quant = \"top\"".to_owned(),
                "speculation.draft_quant",
                "takes one of Q8_0",
            ),
            (
                "method = \"layer-skip\"\nskip_layers = [99]".to_owned(),
                "speculation.skip_layers",
                "layer 99 cannot be skipped",
            ),
            (
                draft_model(Path::new("no.gguf")),
                "speculation.draft_model",
                "cannot open \"no.gguf\"",
            ),
            (
                draft_model(dir.path()),
                "speculation.draft_model",
                "is a folder",
            ),
            (
                draft_model(&other),
                "speculation.draft_model",
                "take one with the same vocabulary",
            ),
        ] {
            let options = Options {
                speculation: Some(toml::from_str(&drafts).expect("a table")),
                ..Options::default()
            };
            let (found, why) = refused(model(&options, &path));
            assert!(found == option && why.contains(what), "{found}: {why}");
        }
        room(&Options::default(), &path, 64).expect("there is room");
        let ctx = Options {
            ctx: 16,
            ..Options::default()
        };
        room(&ctx, &path, 16).expect("exactly as many");
        let full = room(&ctx, &path, 17);
        assert!(matches!(full, Err(Error::ContextFull { .. })), "{full:?}");
    }
}
