//! Sparsity: what is left out is what the thresholds say, nothing else changes, and results do not depend on threads and
//! instruction sets.

use engine::gguf::Gguf;
use engine::kernel::{self, Active, Row, RowMut, STRIP, SUM_GROUP, StripCodes, Strips};
use engine::model::{Config, Model};
use engine::options::sparsity::{Method, Sparsity};
use engine::options::{Affinity, AffinityPolicy, Isa};
use engine::pool::Pool;
use engine::quant::{FORMATS, FormatInfo, GROUP};
use engine::session::Session;
use engine::simd::{self, LANES};
use engine::sparsity::{CURVE_SHARES, Site, Telemetry, Thresholds, fingerprint, text_hash};
use engine::stage::Ledger;
use engine::synth::{Shape, in_memory};
use engine::{Options, Result};
use std::path::{Path, PathBuf};

/// A threshold that nothing is left out by but zeros.
const LEAST: f32 = f32::MIN_POSITIVE;

const METHODS: [Method; 5] = [
    Method::FatreluMasked,
    Method::FatreluTransposed,
    Method::Gated,
    Method::Teal,
    Method::Wina,
];

fn options(threads: usize, isa: Isa, sparsity: Option<Sparsity>) -> Options {
    Options {
        threads,
        isa,
        batch: 8,
        affinity: Affinity::Policy(AffinityPolicy::None),
        oversubscribe: true,
        sparsity,
        ..Options::default()
    }
}

fn with(method: Method, threshold: f32) -> Option<Sparsity> {
    Some(Sparsity {
        method,
        threshold,
        thresholds: PathBuf::new(),
    })
}

/// A method whose thresholds, in a file of `folder`, leave out nothing at all, not even zeros.
fn with_all(method: Method, shape: &str, quant: &str, folder: &Path) -> Option<Sparsity> {
    let file = file(shape, quant);
    let layers = Config::from_gguf(&file).expect("a model").n_layers();
    let thresholds = Thresholds {
        norms: method == Method::Wina,
        sparsity: 0.0,
        model: fingerprint(&file),
        text: text_hash("none"),
        tokens: 0,
        made_by: None,
        layer: vec![Site::ALL.map(|site| (site, 0.0)).into(); layers],
        left_out: vec![],
        curve: vec![],
    };
    let path = folder.join(format!("{shape}-{quant}-{method:?}.toml"));
    thresholds.save(&path).expect("written");
    Some(Sparsity {
        method,
        threshold: 0.0,
        thresholds: path,
    })
}

fn file(shape: &str, quant: &str) -> Gguf {
    let bytes = in_memory(&Shape::load(shape).expect("built in"), quant, 7).expect("small");
    Gguf::from_bytes(Path::new("test.gguf"), bytes).expect("valid")
}

/// What came of scoring some tokens.
struct Scored {
    logits: Vec<f32>,
    ledger: Ledger,
    took_part: Option<Telemetry>,
}

impl Scored {
    fn bits(&self) -> Vec<u32> {
        self.logits.iter().map(|x| x.to_bits()).collect()
    }

    /// Distance to others, as a share of their length.
    fn distance(&self, other: &Scored) -> f64 {
        let square = |x: f32| f64::from(x) * f64::from(x);
        let pairs = self.logits.iter().zip(&other.logits);
        let off: f64 = pairs.map(|(a, b)| square(a - b)).sum();
        let all: f64 = other.logits.iter().map(|x| square(*x)).sum();
        (off / all).sqrt()
    }
}

fn score(shape: &str, quant: &str, options: &Options, n: u32) -> Scored {
    try_score(file(shape, quant), options, n).expect("runs")
}

fn try_score(file: Gguf, options: &Options, n: u32) -> Result<Scored> {
    let pool = Pool::new(options)?;
    let model = Model::from_gguf(file, &pool, options)?;
    let mut session = Session::new(&model, &pool, options)?;
    let tokens: Vec<u32> = (0..n).map(|i| (i * i * 31 + 7 * i) % 512).collect();
    let mut logits = Vec::new();
    session.score(&tokens, 0, |_, l| logits.extend_from_slice(l))?;
    Ok(Scored {
        logits,
        ledger: session.take_stats().ledger,
        took_part: session.take_sparsity(),
    })
}

#[test]
fn masking_nothing_changes_no_bit() {
    for shape in ["tiny", "tiny-gemma3"] {
        let dense = score(shape, "Q4_0", &options(2, Isa::Auto, None), 12);
        let masked = with(Method::FatreluMasked, LEAST);
        let masked = score(shape, "Q4_0", &options(2, Isa::Auto, masked), 12);
        assert!(masked.bits() == dense.bits(), "{shape}");
        let none = score(
            shape,
            "Q4_0",
            &options(2, Isa::Auto, with(Method::None, 0.0)),
            12,
        );
        assert!(none.bits() == dense.bits() && none.took_part.is_none());
    }
}

#[test]
fn leaving_nothing_out_comes_close_to_the_dense_model() {
    let folder = tempfile::tempdir().expect("folder");
    for (shape, quant, most) in [
        ("tiny", "Q8_0", 0.03),
        ("tiny", "Q4_1", 0.2),
        ("tiny-qwen2", "Q8_0", 0.03),
        ("tiny-gemma2", "Q8_0", 0.03),
        ("tiny-phi3", "Q6_K", 0.04),
        ("tiny-granite", "F16", 0.03),
    ] {
        let dense = score(shape, quant, &options(2, Isa::Auto, None), 6);
        for method in METHODS {
            let sparsity = with_all(method, shape, quant, folder.path());
            let got = score(shape, quant, &options(2, Isa::Auto, sparsity), 6);
            let off = got.distance(&dense);
            assert!(off < most, "{shape} {quant} {method:?}: {off}");
            assert_eq!(got.ledger.skipped_bytes, 0);
            let sites = got.took_part.expect("counted").sites;
            assert!(sites.iter().all(|s| s.count.active == s.count.channels));
        }
    }
}

#[test]
fn threads_and_instruction_sets_change_no_bit() {
    for method in METHODS {
        for (shape, quant) in [
            ("tiny", "Q4_1"),
            ("tiny-gemma3", "Q5_K"),
            ("tiny-qwen2", "Q8_0"),
        ] {
            let sparsity = with(method, 0.5);
            let expect = score(shape, quant, &options(1, Isa::Auto, sparsity.clone()), 5);
            let counts = expect.took_part.as_ref().expect("counted").sites.iter();
            let [active, channels] = counts.fold([0, 0], |[active, channels], s| {
                [active + s.count.active, channels + s.count.channels]
            });
            assert!(
                0 < active && active < channels,
                "{method:?}: {active} of {channels}"
            );
            let isas = simd::available().into_iter().map(|isa| (2, isa));
            for (threads, isa) in isas.chain([(3, Isa::Auto), (5, Isa::Auto)]) {
                let got = score(shape, quant, &options(threads, isa, sparsity.clone()), 5);
                assert!(
                    got.bits() == expect.bits(),
                    "{method:?} {shape}: {threads} threads, {isa:?}"
                );
                assert_eq!(got.took_part, expect.took_part);
                let booked = |s: &Scored| [s.ledger.weight_bytes, s.ledger.skipped_bytes];
                assert_eq!(booked(&got), booked(&expect));
            }
        }
    }
}

#[test]
fn bytes_read_and_left_out_are_those_of_the_channels() {
    // Two layers of 256 to 512 and back, two heads of 64 for keys and values, an output of 512 rows: a channel has a strip of
    // 512 weights in 16 blocks of 18 bytes, but of two where gate and up lie side by side.
    let (strip, layers) = (16 * 18, 2);
    let panels = |rows: u64, cols: u64| rows * cols / 32 * 18;
    let head = panels(512, 256);
    let [qkv, o, up, down] = [
        panels(512, 256),
        panels(256, 256),
        panels(512, 256),
        panels(256, 512),
    ];
    let bytes = |sparsity: Option<Sparsity>| {
        let ledger = score("tiny", "Q4_0", &options(2, Isa::Auto, sparsity), 1).ledger;
        [ledger.weight_bytes - head, ledger.skipped_bytes]
    };
    let folder = tempfile::tempdir().expect("folder");
    let dense = layers * (qkv + o + 2 * up + down);
    let transposed = layers * 512 * strip;
    let by_rows = layers * 512 * strip;
    let all = layers * (256 * strip + 256 * strip + 256 * 2 * strip + 512 * strip);
    for (method, kept, possible) in [
        (Method::FatreluMasked, dense, 0),
        (Method::FatreluTransposed, dense - layers * down, transposed),
        (
            Method::Gated,
            dense - layers * (up + down),
            by_rows + transposed,
        ),
        (Method::Teal, 0, all),
    ] {
        let everything = with_all(method, "tiny", "Q4_0", folder.path());
        assert_eq!(bytes(everything), [kept + possible, 0], "{method:?}");
        assert_eq!(bytes(with(method, 1e30)), [kept, possible], "{method:?}");
        let [read, skipped] = bytes(with(method, 0.5));
        assert_eq!(read + skipped, kept + possible, "{method:?}");
    }
}

#[test]
fn what_is_counted_by_site_is_what_the_ledger_has() {
    for method in METHODS {
        let got = score(
            "tiny-phi3",
            "Q4_0",
            &options(2, Isa::Auto, with(method, 0.5)),
            4,
        );
        let sites = got.took_part.expect("counted").sites;
        let skipped: u64 = sites
            .iter()
            .map(|s| s.count.possible_bytes - s.count.read_bytes)
            .sum();
        assert_eq!(skipped, got.ledger.skipped_bytes, "{method:?}");
        for s in &sites {
            let c = s.count;
            assert_eq!(c.channels % 4, 0);
            if method != Method::FatreluMasked {
                let per_channel = c.possible_bytes / c.channels;
                assert_eq!(c.read_bytes, c.active * per_channel, "{method:?} {s:?}");
            }
        }
    }
}

#[test]
fn several_tokens_at_once_are_dense_and_one_alone_is_sparse() {
    let sparse = options(2, Isa::Auto, with(Method::Teal, 0.5));
    let tokens: Vec<u32> = (1..20).collect();
    let logits = |options: &Options, then: Option<u32>| {
        let pool = Pool::new(options).expect("pool");
        let model = Model::from_gguf(file("tiny", "Q4_0"), &pool, options).expect("model");
        let mut session = Session::new(&model, &pool, options).expect("session");
        let first = session.prefill(&tokens).expect("fits").to_vec();
        match then {
            Some(token) => session.decode(token).expect("fits").to_vec(),
            None => first,
        }
    };
    let dense = options(2, Isa::Auto, None);
    // With a batch of 9 one token is left over: it belongs to the prompt all the same.
    let odd = Options {
        batch: 9,
        ..sparse.clone()
    };
    assert_eq!(logits(&sparse, None), logits(&dense, None));
    assert_eq!(logits(&odd, None), logits(&dense, None));
    assert_ne!(logits(&sparse, Some(3)), logits(&dense, Some(3)));
}

#[test]
fn strips_give_what_plain_arithmetic_does_and_the_same_bits_on_every_isa() {
    let strips = 3;
    // More than are rounded together, and not whole fours of them.
    let channels = 80;
    let value = |i: usize| ((i * 7919 + 13) % 1009) as f32 / 504.0 - 1.0;
    for format in FORMATS.iter().filter(|f| f.block_len == GROUP) {
        let isas = simd::available();
        let mut found: Vec<Vec<u32>> = Vec::new();
        for isa in isas {
            let kernels = kernel::kernels(&options(1, isa, None)).expect("available");
            let mut bytes = Vec::new();
            let mut decoded = Vec::new();
            for c in 0..channels {
                let weights: Vec<f32> = (0..strips * STRIP).map(|i| value(c * 5000 + i)).collect();
                let mut row = vec![0; format.row_bytes(weights.len())];
                format.quantize(&weights, &[], &mut row);
                let mut values = vec![0.0; weights.len()];
                format.dequantize(&row, &mut values);
                decoded.push(values);
                for blocks in row.chunks_exact(LANES * format.block_bytes) {
                    let at = |b: usize| &blocks[b * format.block_bytes..][..format.block_bytes];
                    let mut strip = vec![0; blocks.len()];
                    kernels.pack(format.id, std::array::from_fn(at), &mut strip);
                    bytes.extend(strip);
                }
            }
            let all = Strips {
                bytes: &bytes,
                per_channel: strips,
            };
            let some = (0..channels as u32).filter(|c| c % 7 != 2 && c % 5 != 1);
            let active: Vec<Active> = some
                .map(|channel| Active {
                    channel,
                    value: value(channel as usize + 77),
                })
                .collect();
            assert!(active.len() > 32 && !active.len().is_multiple_of(4));
            let mut bits = Vec::new();
            for active in [&active[..], &active[..5], &active[..32], &[]] {
                let sums = check_sums(format, &*kernels, all, active, &decoded);
                let dots = check_dots(format, &*kernels, all, active, &decoded);
                bits.extend(sums.iter().chain(&dots).map(|x| x.to_bits()));
            }
            check_no_numbers(format, &*kernels, all, &active);
            found.push(bits);
        }
        assert!(
            found.iter().all(|bits| *bits == found[0]),
            "{}",
            format.name
        );
    }
}

fn check_sums(
    format: &FormatInfo,
    kernels: &dyn kernel::Kernels,
    strips: Strips<'_>,
    active: &[Active],
    decoded: &[Vec<f32>],
) -> Vec<f32> {
    let mut sums = vec![f32::NAN; strips.per_channel * STRIP];
    kernels.add_channels(format.id, strips, active, active, &mut sums);
    for strip in 0..strips.per_channel {
        let mut out = [0.0; STRIP];
        kernels.collect(&sums[strip * STRIP..], sums.len(), &mut out);
        for (i, got) in out.iter().enumerate() {
            let term = |a: &Active| {
                f64::from(a.value) * f64::from(decoded[a.channel as usize][strip * STRIP + i])
            };
            let expect: f64 = active.iter().map(term).sum();
            let off = (f64::from(*got) - expect).abs();
            // A factor, value times scale, is off by half a step of 1 / 16256 of the largest; values are at most 1, and codes
            // times scales at most 2, where weights between -1 and 1 have codes from 0 on. Sums of floats add a little.
            let most = active.len() as f64 * (2.0 * 0.5 / 16256.0 + 1e-6);
            assert!(
                off <= most,
                "{} output {i}: {got} for {expect}",
                format.name
            );
        }
    }
    sums
}

/// Values that are no numbers are not hidden, however large or small the others are.
fn check_no_numbers(
    format: &FormatInfo,
    kernels: &dyn kernel::Kernels,
    strips: Strips<'_>,
    active: &[Active],
) {
    for bad in [f32::NAN, f32::INFINITY] {
        let mut active = active.to_vec();
        active[1].value = bad;
        let mut sums = vec![0.0; strips.per_channel * STRIP];
        kernels.add_channels(format.id, strips, &active, &[], &mut sums);
        assert!(sums.iter().all(|x| x.is_nan()), "{} {bad}", format.name);
    }
    let tiny: Vec<Active> = active
        .iter()
        .map(|a| Active { value: 1e-36, ..*a })
        .collect();
    let mut sums = vec![f32::NAN; strips.per_channel * STRIP];
    kernels.add_channels(format.id, strips, &tiny, &[], &mut sums);
    assert!(sums.iter().all(|x| x.abs() < 1e-30), "{}", format.name);
}

fn check_dots(
    format: &FormatInfo,
    kernels: &dyn kernel::Kernels,
    strips: Strips<'_>,
    active: &[Active],
    decoded: &[Vec<f32>],
) -> Vec<f32> {
    let n = strips.per_channel * STRIP - 2 * GROUP;
    let mut x: Vec<f32> = (0..n).map(|i| (i % 37) as f32 / 18.0 - 1.0).collect();
    let (mut codes, mut scales) = (vec![0; n], vec![0.0; n / GROUP]);
    let (mut scaled_sums, mut sums) = (vec![0.0; n / GROUP], vec![0; n / SUM_GROUP]);
    kernels.quantize(&mut RowMut {
        values: &mut x,
        codes: &mut codes,
        scales: &mut scales,
        scaled_sums: &mut scaled_sums,
        sums: &mut sums,
    });
    let row = Row {
        values: &x,
        codes: &codes,
        scales: &scales,
        scaled_sums: &scaled_sums,
        sums: &sums,
    };
    let mut arranged = vec![StripCodes::default(); strips.per_channel];
    kernels.arrange(&row, &mut arranged);
    let mut out = vec![f32::NAN; active.len()];
    kernels.dot_channels(format.id, strips, active, &arranged, &mut out);
    for (a, got) in active.iter().zip(&out) {
        let weights = &decoded[a.channel as usize];
        // Of the activations as they were rounded.
        let terms = codes
            .iter()
            .zip(weights)
            .enumerate()
            .map(|(i, (x, w))| f64::from(*x) * f64::from(scales[i / GROUP]) * f64::from(*w));
        let expect: f64 = terms.sum();
        let off = (f64::from(*got) - expect).abs();
        assert!(off < 1e-4, "{}: {got} for {expect}", format.name);
    }
    out
}

/// Thresholds that leave out about half at every site, as `engine calibrate` finds them.
fn calibrated(method: Method) -> Thresholds {
    let norms = (method == Method::Wina).then(|| with(method, LEAST).expect("some"));
    let options = options(2, Isa::Auto, norms);
    let pool = Pool::new(&options).expect("pool");
    let model = Model::from_gguf(file("tiny", "Q4_0"), &pool, &options).expect("model");
    let mut session = Session::new(&model, &pool, &options).expect("session");
    session.observe_magnitudes();
    let tokens: Vec<u32> = (0..200).map(|i| (i * i * 31 + 7 * i) % 512).collect();
    session.prefill(&tokens).expect("fits");
    let magnitudes = session.magnitudes().expect("asked for");
    let layer = magnitudes.quantiles(0.5);
    Thresholds {
        norms: method == Method::Wina,
        sparsity: 0.5,
        model: fingerprint(model.gguf()),
        text: text_hash("made up"),
        tokens: 200,
        made_by: None,
        left_out: magnitudes.shares_below(&layer),
        layer,
        curve: magnitudes.curves(&CURVE_SHARES),
    }
}

#[test]
fn calibrated_thresholds_leave_out_the_share_they_were_made_for() {
    let folder = tempfile::tempdir().expect("folder");
    for method in METHODS {
        let path = folder.path().join(format!("{method:?}.toml"));
        calibrated(method).save(&path).expect("written");
        let sparsity = Sparsity {
            method,
            threshold: 0.0,
            thresholds: path,
        };
        // As many tokens as it was calibrated on: attention over few positions gives larger values.
        let got = score("tiny", "Q4_0", &options(2, Isa::Auto, Some(sparsity)), 200);
        for s in got.took_part.expect("counted").sites {
            let share = s.count.active as f64 / s.count.channels as f64;
            let gated_down = method == Method::Gated && s.site == Site::Down;
            assert!(
                (share - 0.5).abs() < 0.12 || gated_down,
                "{method:?} layer {} {:?}: {share}",
                s.layer,
                s.site
            );
        }
    }
}

#[test]
fn thresholds_that_do_not_fit_are_refused() {
    let folder = tempfile::tempdir().expect("folder");
    let path = folder.path().join("thresholds.toml");
    let refused = |thresholds: Option<&Thresholds>, method: Method, quant: &str| {
        let _ = std::fs::remove_file(&path);
        if let Some(thresholds) = thresholds {
            thresholds.save(&path).expect("written");
        }
        let sparsity = Some(Sparsity {
            method,
            threshold: 0.0,
            thresholds: path.clone(),
        });
        let result = try_score(file("tiny", quant), &options(1, Isa::Auto, sparsity), 1);
        result.err().map(|e| e.to_string()).unwrap_or_default()
    };
    let teal = calibrated(Method::Teal);
    assert_eq!(refused(Some(&teal), Method::Teal, "Q4_0"), "");
    let why = refused(Some(&teal), Method::Wina, "Q4_0");
    assert!(
        why.contains("thresholds of magnitudes, the method needs those of magnitudes times norms"),
        "{why}"
    );
    assert_eq!(refused(Some(&teal), Method::Gated, "Q4_0"), "");
    let why = refused(Some(&calibrated(Method::Wina)), Method::Gated, "Q4_0");
    assert!(
        why.contains("magnitudes times norms, the method needs those of magnitudes:"),
        "{why}"
    );
    let why = refused(Some(&teal), Method::Teal, "Q8_0");
    assert!(
        why.contains("thresholds for the 2 layers of model"),
        "{why}"
    );
    let mut lacking = teal.clone();
    lacking.layer[1].remove(&Site::O);
    let why = refused(Some(&lacking), Method::Teal, "Q4_0");
    assert!(why.contains("no threshold for \"o\" in layer 1"), "{why}");
    let mut negative = teal.clone();
    negative.layer[0].insert(Site::Qkv, -0.25);
    let why = refused(Some(&negative), Method::Teal, "Q4_0");
    assert!(
        why.contains("a threshold of -0.25, not 0 or more, for \"qkv\" in layer 0"),
        "{why}"
    );
    // Of what is only told, too: a record could not be read again.
    let change: [fn(&mut Thresholds); 4] = [
        |t| t.sparsity = f64::NAN,
        |t| {
            t.layer[0].insert(Site::Gate, f32::NAN);
        },
        |t| t.left_out.push([(Site::O, f64::INFINITY)].into()),
        |t| {
            t.curve
                .push([(Site::O, vec![0.1, f32::NEG_INFINITY])].into())
        },
    ];
    for change in change {
        let mut broken = teal.clone();
        change(&mut broken);
        let why = refused(Some(&broken), Method::Teal, "Q4_0");
        assert!(why.contains("infinite, or not a number"), "{why}");
    }
    let why = refused(None, Method::Teal, "Q4_0");
    assert!(why.contains("cannot open"), "{why}");
    std::fs::write(&path, "threshold = 3").expect("written");
    let sparsity = Sparsity {
        method: Method::Teal,
        threshold: 0.0,
        thresholds: path.clone(),
    };
    let why = try_score(
        file("tiny", "Q4_0"),
        &options(1, Isa::Auto, Some(sparsity.clone())),
        1,
    );
    let why = why.err().expect("refused").to_string();
    assert!(why.contains("holds no thresholds"), "{why}");
    let both = Sparsity {
        threshold: 0.1,
        ..sparsity
    };
    let why = both.check().expect_err("refused").to_string();
    assert!(why.contains("both given"), "{why}");
}

#[test]
fn a_method_without_thresholds_is_refused() {
    for method in METHODS {
        let options = options(1, Isa::Auto, with(method, 0.0));
        let error = try_score(file("tiny", "Q4_0"), &options, 1).err();
        let text = error.expect("refused").to_string();
        assert!(
            text.contains("\"sparsity.thresholds\"") && text.contains("\"engine calibrate\""),
            "{text}"
        );
    }
}

#[test]
fn what_is_held_a_second_time_is_told() {
    let held = |quant: &str, method: Method| {
        let options = options(2, Isa::Auto, with(method, 0.5));
        let pool = Pool::new(&options).expect("pool");
        let model = Model::from_gguf(file("tiny", quant), &pool, &options).expect("model");
        model.by_channels().map(ToString::to_string)
    };
    // Seven matrices in each of two layers, with all strips of 512 outputs filled but for half of those of `o` and `down`.
    let mb = |blocks: f64| 2.0 * blocks * 16.0 / 1e6;
    let all = (256 + 256 + 2 * 256 + 512) as f64;
    let table = [
        (
            "Q4_0",
            Method::Teal,
            14,
            mb(all * 18.0),
            "14 from Q4_0 to Q4_0",
        ),
        (
            "Q4_K",
            Method::Wina,
            14,
            mb(all * 18.0),
            "14 from Q4_K to Q4_0",
        ),
        (
            "F16",
            Method::FatreluTransposed,
            2,
            mb(512.0 * 34.0),
            "2 from F16 to Q8_0",
        ),
        // Rows stay as they are.
        (
            "Q8_0",
            Method::Gated,
            4,
            mb(1024.0 * 34.0),
            "2 from Q8_0 to Q8_0",
        ),
    ];
    for (quant, method, n, mb, encoded) in table {
        let expect = format!("{n} matrices a second time, {mb:.1} MB; encoded anew: {encoded}");
        assert_eq!(held(quant, method).as_ref(), Some(&expect), "{method:?}");
    }
    assert_eq!(held("Q4_0", Method::FatreluMasked), None);
}

#[test]
fn a_mixture_of_experts_leaves_no_channels_out() {
    for method in METHODS {
        let options = options(1, Isa::Auto, with(method, 0.1));
        let file = file("tiny-qwen3moe", "Q4_0");
        let error = try_score(file, &options, 2).err().expect("refused");
        let text = error.to_string();
        assert!(
            text.contains("\"sparsity.method\"") && text.contains("mixture of experts"),
            "{text}"
        );
    }
}
