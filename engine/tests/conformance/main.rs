//! Every format on every instruction set of this CPU against plain arithmetic on the decoded weights.

mod lookup;
mod operations;

use engine::kernel::{self, Bits, Kernels, Row, RowMut, TILE_TOKENS, TileGroup, Tiles};
use engine::options::{Isa, Options};
use engine::quant::{FORMATS, FormatInfo, GROUP};
use engine::simd::{self, LANES};

/// Small deterministic generator (splitmix64).
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }
    /// Roughly normal, standard deviation 1.
    fn normal(&mut self) -> f32 {
        (0..12)
            .map(|_| self.next() as u32 as f32 / u32::MAX as f32)
            .sum::<f32>()
            - 6.0
    }
    fn vec(&mut self, len: usize) -> Vec<f32> {
        (0..len).map(|_| self.normal()).collect()
    }
}

/// The defaults with this instruction set.
fn options(isa: Isa) -> Options {
    Options {
        isa,
        ..Options::default()
    }
}

/// Activations with their storage.
struct Activations {
    values: Vec<f32>,
    codes: Vec<i8>,
    scales: Vec<f32>,
    scaled_sums: Vec<f32>,
    sums: Vec<i32>,
}

impl Activations {
    fn new(kernels: &dyn Kernels, values: Vec<f32>) -> Activations {
        let k = values.len();
        let mut a = Activations {
            values,
            codes: vec![0; k],
            scales: vec![0.0; k / GROUP],
            scaled_sums: vec![0.0; k / GROUP],
            sums: vec![0; k / kernel::SUM_GROUP],
        };
        kernels.quantize(&mut RowMut {
            values: &mut a.values,
            codes: &mut a.codes,
            scales: &mut a.scales,
            scaled_sums: &mut a.scaled_sums,
            sums: &mut a.sums,
        });
        a
    }

    fn row(&self) -> Row<'_> {
        Row {
            values: &self.values,
            codes: &self.codes,
            scales: &self.scales,
            scaled_sums: &self.scaled_sums,
            sums: &self.sums,
        }
    }

    /// What the kernels of `format` see of value `i`.
    fn seen(&self, format: &FormatInfo, i: usize) -> f64 {
        if format.block_len == 1 {
            f64::from(self.values[i])
        } else {
            f64::from(self.codes[i]) * f64::from(self.scales[i / GROUP])
        }
    }
}

/// 16 rows of random weights as the file holds them; with `hostile`, every code and sub-scale is random.
fn rows(format: &FormatInfo, k: usize, hostile: bool, random: &mut Random) -> Vec<Vec<u8>> {
    let encoded = |random: &mut Random| {
        let mut bytes = vec![0; format.row_bytes(k)];
        format.quantize(&random.vec(k), &[], &mut bytes);
        bytes
    };
    (0..LANES)
        .map(|_| {
            let tame = encoded(random);
            if !hostile || format.block_len == 1 {
                return tame;
            }
            let mut bytes: Vec<u8> = (0..tame.len()).map(|_| random.next() as u8).collect();
            // The floating-point scales stay finite.
            let (at, len) = match format.name {
                "Q6_K" => (208, 2),
                "Q3_K" => (108, 2),
                "Q2_K" => (80, 4),
                "TQ2_0" => (64, 2),
                "Q4_1" | "Q5_1" | "Q4_K" | "Q5_K" => (0, 4),
                "MXFP4" => (0, 1),
                _ => (0, 2),
            };
            for start in (at..tame.len()).step_by(format.block_bytes) {
                bytes[start..start + len].copy_from_slice(&tame[start..start + len]);
            }
            bytes
        })
        .collect()
}

/// The panel of 16 rows, the same on every instruction set.
fn panel(format: &FormatInfo, rows: &[Vec<u8>]) -> Vec<u8> {
    let pack = |isa| {
        let kernels = kernel::kernels(&options(isa)).expect("available");
        let mut panel = vec![0; rows.iter().map(Vec::len).sum()];
        let rows = std::array::from_fn(|r| rows[r].as_slice());
        kernels.pack(format.id, rows, &mut panel);
        panel
    };
    let isas = simd::available();
    let panel = pack(isas[0]);
    assert!(
        isas.iter().all(|&isa| pack(isa) == panel),
        "{}",
        format.name
    );
    panel
}

/// Largest difference from exact arithmetic, relative to the sum of magnitudes: a few roundings per group.
const BOUND: f64 = 2e-6;

#[test]
fn every_format_and_isa_matches_plain_arithmetic() {
    let mut random = Random(1);
    for isa in simd::available() {
        let kernels = kernel::kernels(&options(isa)).expect("available");
        for format in FORMATS {
            for (k, hostile) in [(256, false), (256, true), (768, false), (2048, true)] {
                let rows = rows(format, k, hostile, &mut random);
                let panel = panel(format, &rows);
                let x = Activations::new(&*kernels, random.vec(k));
                let mut out = [[0.0; LANES]];
                kernels.dot(format.id, Bits::All, &panel, k, &[x.row()], &mut out);
                for (r, bytes) in rows.iter().enumerate() {
                    let mut w = vec![0.0; k];
                    format.dequantize(bytes, &mut w);
                    let products = || (0..k).map(|i| f64::from(w[i]) * x.seen(format, i));
                    let exact: f64 = products().sum();
                    let scale: f64 = products().map(f64::abs).sum();
                    let error = (f64::from(out[0][r]) - exact).abs() / scale;
                    assert!(
                        error < BOUND,
                        "{} {isa:?} k={k} row {r}: {} for {exact}, error {error:.1e}",
                        format.name,
                        out[0][r]
                    );
                }
            }
        }
    }
}

#[test]
fn isas_and_token_counts_give_the_same_bits() {
    let mut random = Random(2);
    for format in FORMATS {
        let k = 512;
        let panel = panel(format, &rows(format, k, true, &mut random));
        let values: Vec<Vec<f32>> = (0..kernel::TILE).map(|_| random.vec(k)).collect();
        let mut alone: Option<Vec<[u32; LANES]>> = None;
        for isa in simd::available() {
            let kernels = kernel::kernels(&options(isa)).expect("available");
            let x: Vec<_> = values
                .iter()
                .map(|v| Activations::new(&*kernels, v.clone()))
                .collect();
            let rows: Vec<_> = x.iter().map(Activations::row).collect();
            let alone = alone.get_or_insert_with(|| {
                let one = |row: &Row<'_>| {
                    let mut out = [[0.0; LANES]];
                    kernels.dot(format.id, Bits::All, &panel, k, &[*row], &mut out);
                    out[0].map(f32::to_bits)
                };
                rows.iter().map(one).collect()
            });
            for n in 1..=kernel::TILE {
                let mut out = [[0.0; LANES]; kernel::TILE];
                kernels.dot(format.id, Bits::All, &panel, k, &rows[..n], &mut out);
                let bits: Vec<_> = out[..n].iter().map(|o| o.map(f32::to_bits)).collect();
                assert_eq!(bits, alone[..n], "{} {isa:?} {n} tokens", format.name);
            }
        }
    }
}

#[test]
fn panels_side_by_side_give_the_bits_of_each_alone() {
    let mut random = Random(6);
    for format in FORMATS {
        let k = 512;
        // Some side by side, and a rest.
        let panels: Vec<u8> = (0..kernel::STREAMS + 2)
            .flat_map(|_| panel(format, &rows(format, k, true, &mut random)))
            .collect();
        let panel_bytes = LANES * format.row_bytes(k);
        for isa in simd::available() {
            let kernels = kernel::kernels(&options(isa)).expect("available");
            let x: Vec<_> = (0..kernel::TILE)
                .map(|_| Activations::new(&*kernels, random.vec(k)))
                .collect();
            let rows: Vec<_> = x.iter().map(Activations::row).collect();
            for n in 1..=kernel::TILE {
                let mut together = vec![[f32::NAN; LANES]; (kernel::STREAMS + 2) * n];
                kernels.dot(format.id, Bits::All, &panels, k, &rows[..n], &mut together);
                for (panel, together) in panels.chunks(panel_bytes).zip(together.chunks(n)) {
                    let mut alone = [[0.0; LANES]; kernel::TILE];
                    kernels.dot(format.id, Bits::All, panel, k, &rows[..n], &mut alone);
                    let same = alone[..n]
                        .iter()
                        .zip(together)
                        .all(|(a, b)| a.map(f32::to_bits) == b.map(f32::to_bits));
                    assert!(same, "{} {isa:?} {n} tokens", format.name);
                }
            }
        }
    }
}

#[test]
fn a_batch_gives_the_bits_of_its_tokens_alone() {
    let mut random = Random(5);
    let isas = simd::available();
    for format in FORMATS.iter().filter(|f| !f.is_float()) {
        // More groups than are unpacked at a time, and a rest.
        let k = (320_usize).next_multiple_of(format.block_len);
        let stride = k / GROUP + 3;
        // Panels that are multiplied together, and one that is left over.
        let panels: Vec<_> = (0..kernel::PANELS + 1)
            .map(|_| panel(format, &rows(format, k, true, &mut random)))
            .collect();
        let mut values: Vec<Vec<f32>> = (0..4 * TILE_TOKENS + 1).map(|_| random.vec(k)).collect();
        // The largest codes there are, of one sign, in the end.
        values.push(vec![3.0; k]);
        values.push(vec![-3.0; k]);
        let scalar = kernel::kernels(&options(Isa::Scalar)).expect("available");
        let alone = |panel: &[u8], v: &Vec<f32>| {
            let x = Activations::new(&*scalar, v.clone());
            let mut out = [[0.0; LANES]];
            scalar.dot(format.id, Bits::All, panel, k, &[x.row()], &mut out);
            out[0].map(f32::to_bits)
        };
        let alone: Vec<Vec<_>> = panels
            .iter()
            .map(|p| values.iter().map(|v| alone(p, v)).collect())
            .collect();
        for &isa in &isas {
            let kernels = kernel::kernels(&options(isa)).expect("available");
            for n in 1..=values.len() {
                let values = &values[values.len() - n..];
                let mut groups = vec![TileGroup::default(); n.div_ceil(TILE_TOKENS) * stride];
                for (t, v) in values.iter().enumerate() {
                    let tile = &mut groups[t / TILE_TOKENS * stride..][..k / GROUP];
                    kernels.quantize_tile(v, t % TILE_TOKENS, tile);
                }
                for count in [1, panels.len()] {
                    let x = Tiles {
                        groups: &groups,
                        stride,
                    };
                    let mut out = vec![[f32::NAN; LANES]; count * n];
                    kernels.dot_batch(format.id, &panels[..count].concat(), k, x, &mut out);
                    for (alone, out) in alone.iter().zip(out.chunks(n)) {
                        let bits: Vec<_> = out.iter().map(|o| o.map(f32::to_bits)).collect();
                        let expect = &alone[alone.len() - n..];
                        let name = format.name;
                        assert_eq!(bits, expect, "{name} {isa:?} {n} tokens {count} panels");
                    }
                }
            }
        }
    }
}

#[test]
fn encoding_loses_no_more_than_the_format_must() {
    let mut random = Random(3);
    // Root mean square error of normal values, relative to their standard deviation.
    let bounds = [
        ("F32", 0.0),
        ("F16", 3e-4),
        ("BF16", 3e-3),
        ("Q8_0", 0.0055),
        ("Q6_K", 0.018),
        ("Q5_K", 0.036),
        ("Q5_0", 0.042),
        ("Q4_K", 0.075),
        ("Q4_1", 0.075),
        ("Q4_0", 0.085),
        ("Q5_1", 0.036),
        ("IQ4_NL", 0.08),
        ("IQ4_XS", 0.08),
        ("MXFP4", 0.115),
        ("Q3_K", 0.15),
        ("Q2_K", 0.27),
        ("TQ2_0", 0.45),
    ];
    for format in FORMATS {
        let bound = bounds
            .iter()
            .find(|b| b.0 == format.name)
            .expect("a bound for every format")
            .1;
        let x = random.vec(64 * 256);
        let mut bytes = vec![0; format.row_bytes(x.len())];
        let mut back = vec![0.0; x.len()];
        format.quantize(&x, &[], &mut bytes);
        format.dequantize(&bytes, &mut back);
        let square: f32 = x.iter().zip(&back).map(|(a, b)| (a - b) * (a - b)).sum();
        let rms = (square / x.len() as f32).sqrt();
        assert!(rms <= bound, "{}: rms error {rms}", format.name);
        let zeros = &mut bytes[..format.row_bytes(256)];
        format.quantize(&[0.0; 256], &[], zeros);
        format.dequantize(zeros, &mut back[..256]);
        assert!(
            back[..256].iter().all(|&x| x == 0.0),
            "{}: zeros must stay zeros",
            format.name
        );
    }
}

#[test]
fn an_isa_this_cpu_lacks_is_refused_by_name() {
    for isa in [Isa::Avx2, Isa::Avx512] {
        if !simd::available().contains(&isa) {
            let error = kernel::kernels(&options(isa))
                .err()
                .expect("refused")
                .to_string();
            assert!(
                error.contains("option \"isa\"") && error.contains("scalar, or auto"),
                "{error}"
            );
        }
    }
}

#[test]
fn top_bits_are_the_codes_without_their_low_ones() {
    let mut random = Random(11);
    let mut seen = 0;
    for format in FORMATS.iter().filter(|f| f.top_bytes < f.block_bytes) {
        seen += 1;
        let k = 2 * format.block_len.max(GROUP);
        let rows = rows(format, k, false, &mut random);
        let panel = panel(format, &rows);
        let values = random.vec(k);
        let mut first: Option<[f32; LANES]> = None;
        for isa in simd::available() {
            let kernels = kernel::kernels(&options(isa)).expect("available");
            let x = Activations::new(&*kernels, values.clone());
            let product = |bits| {
                let mut out = [[0.0; LANES]; 1];
                kernels.dot(format.id, bits, &panel, k, &[x.row()], &mut out);
                out[0]
            };
            let (whole, top) = (product(Bits::All), product(Bits::Top));
            assert_eq!(top, *first.get_or_insert(top), "{} {isa}", format.name);
            for (r, row) in rows.iter().enumerate() {
                let mut weights = vec![0.0; k];
                format.dequantize(row, &mut weights);
                // Half of a sixteenth of the range of a scale's codes, for every column.
                let peak = weights.iter().fold(0.0, |m: f32, w| m.max(w.abs()));
                let most: f64 = (0..k)
                    .map(|i| x.seen(format, i).abs() * f64::from(peak) / 16.0)
                    .sum();
                let error = f64::from(top[r] - whole[r]).abs();
                assert!(
                    error > 0.0 && error <= most,
                    "{} row {r}: {error} {most}",
                    format.name
                );
            }
        }
    }
    assert!(seen >= 2, "Q6_K and Q8_0");
}

#[test]
fn the_top_of_an_eight_bit_code_stands_for_the_middle_of_its_sixteen() {
    let format = FormatInfo::by_name("Q8_0").expect("there");
    // A scale of 1, and in row r the codes r - 8, 9 r - 8, ...
    let code = |r: usize, c: usize| (r as i32 - 8 + 8 * (r * c) as i32 % 120) as i8;
    let rows: Vec<Vec<u8>> = (0..LANES)
        .map(|r| {
            let codes = (0..GROUP).map(|c| code(r, c) as u8);
            [0x00, 0x3c].into_iter().chain(codes).collect()
        })
        .collect();
    let panel = panel(format, &rows);
    let kernels = kernel::kernels(&options(Isa::Auto)).expect("available");
    for c in 0..GROUP {
        let mut one = vec![0.0; GROUP];
        one[c] = 127.0;
        let x = Activations::new(&*kernels, one);
        let mut out = [[0.0; LANES]; 1];
        kernels.dot(format.id, Bits::Top, &panel, GROUP, &[x.row()], &mut out);
        for (r, out) in out[0].iter().enumerate() {
            let sixteenth = i32::from(code(r, c)).div_euclid(16) * 16;
            assert_eq!(
                *out,
                127.0 * (sixteenth as f32 + 7.5),
                "row {r}, column {c}"
            );
        }
    }
}
