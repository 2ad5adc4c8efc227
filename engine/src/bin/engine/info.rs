//! `engine info`: what a model file contains, and what a token costs.

use crate::{open, text};
use clap::Args;
use engine::gguf::types::TENSOR_TYPES;
use engine::gguf::{Gguf, Tensor, Value};
use engine::model::Config;
use engine::options::Kernel;
use engine::options::sparsity::Method;
use engine::quant::FormatInfo;
use engine::quantize::{Planned, Recipe, plan};
use engine::sparsity::strip_format;
use engine::{Options, Result};
use std::collections::BTreeSet;
use std::io::{self, Write};
use std::path::PathBuf;

/// Elements of an array that are shown.
const ARRAY_SHOWN: usize = 5;
/// Characters of a text that are shown.
const TEXT_SHOWN: usize = 60;
/// Bytes of a value in the KV cache.
const KV_VALUE_BYTES: u64 = 2;

/// Arguments of `engine info`.
#[derive(Debug, Args)]
pub(crate) struct InfoArgs {
    /// Model file.
    #[arg(
        value_name = "FILE",
        required_unless_present = "named",
        conflicts_with = "named"
    )]
    model: Option<PathBuf>,
    /// Model file, as the other commands take it.
    #[arg(short, long = "model", value_name = "FILE")]
    named: Option<PathBuf>,
    /// Lists every tensor.
    #[arg(long)]
    tensors: bool,
    /// Shows the model as this option of a scenario's `[engine]` has it loaded, such as quant=Q4_K; may be repeated.
    #[arg(long, value_name = "KEY=VALUE")]
    set: Vec<String>,
}

/// Prints what there is to know about a file.
pub(crate) fn run(args: &InfoArgs) -> Result<()> {
    let Some(path) = args.model.as_ref().or(args.named.as_ref()) else {
        unreachable!("clap requires one of them");
    };
    let gguf = Gguf::open(path)?;
    let options = open::set(Options::default(), &args.set)?;
    engine::check::options(&options)?;
    let planned = plan(&gguf, &Recipe::from_options(&options, &gguf)?)?;
    let lossy = options.lossy_sparsity();
    if let (Some(_), Ok(config)) = (lossy, Config::from_gguf(&gguf)) {
        config.check_sparsity()?;
    }
    let mut out = io::BufWriter::new(io::stdout().lock());
    write(&gguf, &planned, args.tensors, &mut out)
        .and_then(|()| match options.kernel {
            Kernel::Lut => kernels(&gguf, &planned, &mut out),
            Kernel::Dot => Ok(()),
        })
        .and_then(|()| match lossy {
            Some(wanted) => sparsity(wanted.method, &planned, &mut out),
            None => Ok(()),
        })
        .and_then(|()| out.flush())
        .map_err(text::stdout_error)
}

fn write(
    gguf: &Gguf,
    planned: &[Planned],
    all_tensors: bool,
    out: &mut dyn Write,
) -> io::Result<()> {
    file(gguf, out)?;
    metadata(gguf, out)?;
    tensor_types(planned, out)?;
    if all_tensors {
        tensors(planned, out)?;
    }
    model(gguf, planned, out)
}

fn file(gguf: &Gguf, out: &mut dyn Write) -> io::Result<()> {
    let n_values = gguf.tensors().iter().map(Tensor::n_values).sum();
    writeln!(
        out,
        "file \"{}\": {}, GGUF version {}, {} tensors, {} weights",
        gguf.path().display(),
        text::bytes(gguf.file_bytes()),
        gguf.version(),
        gguf.tensors().len(),
        text::count(n_values),
    )
}

fn metadata(gguf: &Gguf, out: &mut dyn Write) -> io::Result<()> {
    writeln!(out, "\nmetadata")?;
    let width = gguf.metadata().map(|(key, _)| key.len()).max().unwrap_or(0);
    for (key, value) in gguf.metadata() {
        let kind = match value {
            Value::Array(array) => format!("{}[{}]", array.kind().name(), array.len()),
            _ => value.kind().name().to_string(),
        };
        writeln!(out, "  {key:width$}  {kind:14}  {}", show(&value))?;
    }
    Ok(())
}

/// A value on one line; long texts and arrays are cut, control characters escaped.
fn show(value: &Value) -> String {
    match value {
        Value::Bool(v) => v.to_string(),
        Value::F32(v) => v.to_string(),
        Value::F64(v) => v.to_string(),
        Value::Str(bytes) => {
            let text = String::from_utf8_lossy(bytes);
            let shown: String = text.chars().take(TEXT_SHOWN).collect();
            let cut = if shown.len() < text.len() { " ..." } else { "" };
            format!("\"{}\"{cut}", shown.escape_debug())
        }
        Value::Array(array) => {
            let shown: Vec<String> = array.iter().take(ARRAY_SHOWN).map(|v| show(&v)).collect();
            let cut = if array.len() > ARRAY_SHOWN as u64 {
                ", ..."
            } else {
                ""
            };
            format!("[{}{cut}]", shown.join(", "))
        }
        // All that is left are integers.
        _ => value.as_int().unwrap_or_default().to_string(),
    }
}

fn tensor_types(planned: &[Planned], out: &mut dyn Write) -> io::Result<()> {
    writeln!(out, "\ntensors by type")?;
    writeln!(
        out,
        "  {:8}  {:>7}  {:>9}  {:>9}  {:>6}",
        "type", "tensors", "weights", "bytes", "share"
    )?;
    let total: u64 = planned.iter().map(|t| t.bytes).sum();
    for kind in TENSOR_TYPES {
        let of_kind = || planned.iter().filter(|t| t.format == kind.name);
        if of_kind().next().is_none() {
            continue;
        }
        let bytes: u64 = of_kind().map(|t| t.bytes).sum();
        let runs = match FormatInfo::by_id(kind.id) {
            Some(_) => "",
            None => "  not supported by this engine",
        };
        writeln!(
            out,
            "  {:8}  {:>7}  {:>9}  {:>9}  {:>5.1}%{runs}",
            kind.name,
            of_kind().count(),
            text::count(of_kind().map(|t| t.from.n_values()).sum()),
            text::bytes(bytes),
            100.0 * bytes as f64 / total.max(1) as f64,
        )?;
    }
    Ok(())
}

fn tensors(planned: &[Planned], out: &mut dyn Write) -> io::Result<()> {
    writeln!(out, "\ntensors (row length first)")?;
    let names = planned.iter().map(|t| t.from.name.len());
    let width = names.max().unwrap_or(0);
    for tensor in planned {
        let dims: Vec<String> = tensor.from.dims.iter().map(u64::to_string).collect();
        writeln!(
            out,
            "  {:width$}  {:8}  {:16}  {:>9}  at {}",
            tensor.from.name,
            tensor.format,
            dims.join(" x "),
            text::bytes(tensor.bytes),
            tensor.from.offset,
        )?;
    }
    Ok(())
}

fn model(gguf: &Gguf, planned: &[Planned], out: &mut dyn Write) -> io::Result<()> {
    writeln!(out, "\nmodel")?;
    let c = match Config::from_gguf(gguf) {
        Ok(config) => config,
        Err(error) => return writeln!(out, "  cannot be run by this engine: {error}"),
    };
    let mut row = |name: &str, value: String| writeln!(out, "  {name:24}  {value}");
    row("architecture", c.arch.name.to_string())?;
    row("layers", c.n_layers().to_string())?;
    row("embedding", c.n_embd.to_string())?;
    row("feed-forward", c.n_ff.to_string())?;
    if let Some(e) = c.experts {
        row(
            "experts",
            format!("{} of {} for each token", e.used, e.count),
        )?;
    }
    row(
        "heads",
        format!(
            "{} query, {} key and value, of {}",
            c.n_heads, c.n_kv_heads, c.head_dim
        ),
    )?;
    row("rotated values of a head", c.ropes[0].dims.to_string())?;
    if let Some(local) = c.layers.iter().find(|l| l.window < usize::MAX) {
        let n = c.layers.iter().filter(|l| *l == local).count();
        let sees = format!("the latest {} positions, in {n} layers", local.window);
        row("sliding window", sees)?;
    }
    row("vocabulary", c.n_vocab.to_string())?;
    row("context", c.n_ctx_train.to_string())?;
    let tied = gguf.tensor("output.weight").is_none();
    row(
        "output head",
        if tied { "the embedding" } else { "its own" }.to_string(),
    )?;
    let kv = 2 * c.n_layers() as u64 * c.kv_dim() as u64 * KV_VALUE_BYTES;
    let read = read(gguf, planned);
    let weights: u64 = read.clone().map(|t| c.active(&t.from, t.bytes)).sum();
    let count: u64 = read.map(|t| c.active(&t.from, t.from.n_values())).sum();
    writeln!(out, "\nread for one decoded token")?;
    writeln!(
        out,
        "  weights   {} ({weights} bytes), {:.2} bits each",
        text::bytes(weights),
        8.0 * weights as f64 / count.max(1) as f64,
    )?;
    writeln!(
        out,
        "  KV cache  {} ({kv} bytes) for each token of the context, {} at {}",
        text::bytes(kv),
        text::bytes(kv * c.n_ctx_train as u64),
        c.n_ctx_train,
    )
}

/// The tensors that a decoded token is multiplied with, and a few vectors: all but the embedding, unless that makes the
/// logits too.
fn read<'a>(gguf: &Gguf, planned: &'a [Planned]) -> impl Iterator<Item = &'a Planned> + Clone {
    let tied = gguf.tensor("output.weight").is_none();
    let all = planned.iter();
    all.filter(move |t| tied || t.from.name != "token_embd.weight")
}

/// Which matrices a token's products are looked up for, and which are multiplied.
fn kernels(gguf: &Gguf, planned: &[Planned], out: &mut dyn Write) -> io::Result<()> {
    let matrices = read(gguf, planned).filter(|t| t.from.dims.len() >= 2);
    writeln!(out, "\nkernels, for passes of up to four tokens")?;
    for (name, looked_up) in [("lut", true), ("dot", false)] {
        let these = matrices.clone().filter(|t| {
            FormatInfo::by_name(t.format).is_some_and(|format| format.lookup == looked_up)
        });
        let formats: BTreeSet<&str> = these.clone().map(|t| t.format).collect();
        writeln!(
            out,
            "  {name:8}  {:>7}  {:>9}  {}",
            these.clone().count(),
            text::bytes(these.map(|t| t.bytes).sum()),
            Vec::from_iter(formats).join(", ")
        )?;
    }
    Ok(())
}

/// What sparsity has loaded besides, and that it loses something.
fn sparsity(method: Method, planned: &[Planned], out: &mut dyn Write) -> io::Result<()> {
    let layers = planned
        .iter()
        .filter(|t| t.from.dims.len() == 2 && t.from.name.starts_with("blk."));
    let formats = layers.filter_map(|t| FormatInfo::by_name(t.format));
    let formats: BTreeSet<String> = formats
        .map(|f| match strip_format(f).name {
            name if name == f.name => name.to_owned(),
            name => format!("{name} for {}", f.name),
        })
        .collect();
    let formats = Vec::from_iter(formats).join(", ");
    let what = match method {
        Method::None => "nothing",
        Method::FatreluMasked => "small values are masked, everything is read",
        Method::FatreluTransposed | Method::Teal | Method::Wina => {
            "matrices are held a second time, by channels, encoded anew along their outputs"
        }
        Method::Gated => {
            "up projections are held a second time by rows, down projections by channels, these encoded anew along their outputs"
        }
    };
    writeln!(
        out,
        "\nsparsity: lossy, in passes over one token; {what} ({formats})"
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use engine::synth::{Shape, in_memory};
    use std::path::Path;

    fn shown(shape: &str) -> (Gguf, String) {
        let bytes = in_memory(&Shape::load(shape).unwrap(), "Q4_0", 1).unwrap();
        let gguf = Gguf::from_bytes(Path::new("m.gguf"), bytes).unwrap();
        let mut out = Vec::new();
        let planned = plan(&gguf, &Recipe::default()).unwrap();
        write(&gguf, &planned, true, &mut out).unwrap();
        (gguf, String::from_utf8(out).unwrap())
    }

    #[test]
    fn the_page_has_metadata_types_and_bytes_per_token() {
        let (gguf, page) = shown("tiny");
        for part in [
            "file \"m.gguf\": 8",
            "GGUF version 3, 21 tensors, 1.4 M weights",
            "llama.embedding_length                  u32             256\n",
            "tokenizer.ggml.tokens                   string[512]     [\"Ā\", \"ā\", \"Ă\", \"ă\", \"Ą\", ...]\n",
            "Q4_0           16",
            "4 query, 2 key and value, of 64",
            "blk.1.ffn_down.weight     Q4_0      512 x 256",
            "KV cache  1.0 kB (1024 bytes) for each token",
        ] {
            assert!(page.contains(part), "{part:?} is not in:\n{page}");
        }
        let head = gguf.tensor("output.weight").unwrap().bytes;
        let all: u64 = gguf.tensors().iter().map(|t| t.bytes).sum();
        assert!(page.contains(&format!("({} bytes)", all - head)), "{page}");
    }

    #[test]
    fn a_tied_embedding_is_read_as_the_head() {
        let (gguf, page) = shown("tiny-phi3");
        let all: u64 = gguf.tensors().iter().map(|t| t.bytes).sum();
        assert!(page.contains(&format!("({all} bytes)")), "{page}");
        assert!(page.contains("the embedding"));
    }

    #[test]
    fn of_experts_those_that_a_token_goes_through_are_read() {
        let (gguf, page) = shown("tiny-qwen3moe");
        assert!(page.contains("2 of 8 for each token"), "{page}");
        let read = gguf.tensors().iter().map(|t| match &*t.name {
            "token_embd.weight" => 0,
            name if name.contains("_exps") => t.bytes / 4,
            _ => t.bytes,
        });
        let read: u64 = read.sum();
        assert!(page.contains(&format!("({read} bytes)")), "{page}");
    }

    #[test]
    fn each_matrix_is_told_which_kernel_it_has() {
        let bytes = in_memory(&Shape::load("tiny").unwrap(), "F32", 1).unwrap();
        let gguf = Gguf::from_bytes(Path::new("m.gguf"), bytes).unwrap();
        let options = Options {
            quant: "Q4_0".into(),
            ..Options::default()
        };
        let planned = plan(&gguf, &Recipe::from_options(&options, &gguf).unwrap()).unwrap();
        let mut out = Vec::new();
        kernels(&gguf, &planned, &mut out).unwrap();
        let page = String::from_utf8(out).unwrap();
        // 7 matrices in each of 2 layers, and the head, which keeps Q6_K.
        assert!(page.contains("  lut            14"), "{page}");
        assert!(page.contains("  dot             1"), "{page}");
    }

    #[test]
    fn texts_are_cut_and_escaped() {
        let long = "x".repeat(1000);
        let check =
            |text: &str, expect: &str| assert_eq!(show(&Value::Str(text.as_bytes())), expect);
        check("a\n\u{1b}[0m\"", "\"a\\n\\u{1b}[0m\\\"\"");
        check(&long, &format!("\"{}\" ...", &long[..TEXT_SHOWN]));
        assert_eq!(show(&Value::Str(b"\xff")), "\"\u{fffd}\"");
        assert_eq!(show(&Value::I8(-3)), "-3");
    }
}
