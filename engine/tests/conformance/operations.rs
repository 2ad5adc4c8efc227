//! Operations on activations and attention, on every instruction set, against plain arithmetic.

use super::*;
use engine::kernel::cache::{self, POSITIONS};
use engine::kernel::{Activation, Attend, CHUNK, Partial};
use engine::options::KvType;

#[test]
fn vector_operations_agree_between_isas_and_with_plain_arithmetic() {
    let mut random = Random(4);
    let x = random.vec(576);
    let weight = random.vec(576);
    let gate: [f32; LANES] =
        std::array::from_fn(|i| [-80.0, -5.0, -0.1, 0.0, 0.3, 2.0, 9.0, 80.0][i % 8]);
    let mut seen: Option<Vec<u32>> = None;
    for isa in simd::available() {
        let kernels = kernel::kernels(&options(isa)).expect("available");
        let mut normed = vec![0.0; x.len()];
        kernels.rms_norm(&x, &weight, 1e-5, &mut normed);
        let mut silu = gate;
        kernels.gate(
            Activation::Silu,
            std::slice::from_mut(&mut silu),
            &[[1.5; LANES]],
        );
        let rms = (x.iter().map(|v| f64::from(*v).powi(2)).sum::<f64>() / 576.0 + 1e-5).sqrt();
        for i in 0..x.len() {
            let exact = f64::from(x[i]) / rms * f64::from(weight[i]);
            assert!((f64::from(normed[i]) - exact).abs() < 1e-5, "norm {i}");
        }
        let mut gelu = gate;
        kernels.gate(
            Activation::Gelu,
            std::slice::from_mut(&mut gelu),
            &[[1.5; LANES]],
        );
        let mut capped = gate;
        kernels.soft_cap(3.0, &mut capped[..9]);
        let mut added = weight.clone();
        kernels.add_rms_norm(&x, &weight, 1e-5, &mut added);
        for i in 0..x.len() {
            assert_eq!(added[i], weight[i] + normed[i], "added norm {i}");
        }
        for (i, x) in gate.into_iter().map(f64::from).enumerate() {
            let close = |what: &str, got: f32, exact: f64, slack: f64| {
                let error = (f64::from(got) - exact).abs();
                assert!(
                    error <= 1e-5 * exact.abs() + slack,
                    "{what}({x}) = {got}, exact {exact}"
                );
            };
            close("silu", silu[i], 1.5 * x / (1.0 + (-x).exp()), 1e-30);
            let inner = (2.0 / std::f64::consts::PI).sqrt() * (x + 0.044715 * x.powi(3));
            close("gelu", gelu[i], 1.5 * 0.5 * x * (1.0 + inner.tanh()), 1e-7);
            let exact = if i < 9 { 3.0 * (x / 3.0).tanh() } else { x };
            close("cap", capped[i], exact, 1e-6);
        }
        let all = normed.iter().chain(&silu).chain(&gelu).chain(&capped);
        let bits: Vec<u32> = all.map(|v| v.to_bits()).collect();
        assert_eq!(
            seen.get_or_insert_with(|| bits.clone()),
            &bits,
            "{isa:?} differs"
        );
    }
}

#[test]
fn activations_that_are_no_numbers_stay_within_the_codes_on_every_isa() {
    let mut random = Random(9);
    let mut groups = vec![random.vec(32); 12];
    let spoil = [
        f32::NAN,
        f32::INFINITY,
        f32::NEG_INFINITY,
        f32::MAX,
        f32::MIN_POSITIVE,
        1e-45,
    ];
    for (i, &x) in spoil.iter().enumerate() {
        groups[i][7 * i % 32] = x;
        // All of them tiny but for one, and zeros beside it.
        groups[6 + i] = vec![0.0; 32];
        groups[6 + i][31 - i] = -x;
    }
    let values: Vec<f32> = groups.concat();
    let mut seen = None;
    for isa in simd::available() {
        let kernels = kernel::kernels(&options(isa)).expect("available");
        let x = Activations::new(kernels.as_ref(), values.clone());
        for (g, group) in groups.iter().enumerate() {
            let (codes, scale) = (&x.codes[32 * g..][..32], x.scales[g]);
            assert!(
                codes.iter().all(|&c| c >= -127),
                "{isa} group {g}: {codes:?}"
            );
            let finite = group.iter().all(|v| v.is_finite());
            assert_eq!(scale.is_finite(), finite, "{isa} group {g}: {scale}");
            for (&code, &v) in codes.iter().zip(group).filter(|_| finite) {
                let error = (f64::from(scale) * f64::from(code) - f64::from(v)).abs();
                let least = 64.0 * f64::from(f32::MIN_POSITIVE);
                assert!(
                    error <= (0.501 * f64::from(scale)).max(least),
                    "{isa} group {g}"
                );
            }
        }
        let mut tile = vec![TileGroup::default(); groups.len()];
        kernels.quantize_tile(&values, 1, &mut tile);
        for (g, group) in tile.iter().enumerate() {
            assert_eq!(group.codes[1], x.codes[32 * g..][..32], "{isa} group {g}");
        }
        let found = (x.codes, x.sums);
        assert_eq!(seen.get_or_insert_with(|| found.clone()), &found, "{isa}");
    }
}

/// Panels of keys and of values as the kernels store them, and what they hold, `[positions][dim]`.
fn cached(
    kernels: &dyn Kernels,
    kind: KvType,
    [keys, values]: [&[f32]; 2],
    dim: usize,
) -> [(Vec<u8>, Vec<f64>); 2] {
    let positions = keys.len() / dim;
    let bytes = cache::panel_bytes(kind, dim);
    let mut panels = [0, 1].map(|_| vec![0; positions.div_ceil(POSITIONS) * bytes]);
    for p in 0..positions {
        let [k, v] = &mut panels;
        let at = p / POSITIONS * bytes..(p / POSITIONS + 1) * bytes;
        kernels.store_kv(
            kind,
            [&keys[p * dim..][..dim], &values[p * dim..][..dim]],
            p % POSITIONS,
            [&mut k[at.clone()], &mut v[at]],
        );
    }
    let rounded = |x: &[f32]| -> Vec<f64> {
        let half = |x: f32| half::f16::from_f32(x).to_f64();
        let group = |x: &[f32]| -> Vec<f64> {
            let peak = x.iter().fold(0.0, |m: f32, x| m.max(x.abs()));
            let scale = half(peak / 127.0);
            let inverse = if scale == 0.0 {
                0.0
            } else {
                1.0 / scale as f32
            };
            let code = |x: &f32| (x * inverse).round_ties_even().clamp(-127.0, 127.0);
            x.iter().map(|x| scale * f64::from(code(x))).collect()
        };
        match kind {
            KvType::F16 => x.iter().map(|&x| half(x)).collect(),
            KvType::Q8_0 => x.chunks_exact(GROUP).flat_map(group).collect(),
        }
    };
    let [k, v] = panels;
    [(k, rounded(keys)), (v, rounded(values))]
}

#[test]
fn attention_agrees_between_isas_and_with_plain_arithmetic() {
    let mut random = Random(5);
    const ALL: usize = usize::MAX;
    // Tokens, heads, values of a head, positions up to the first token, values between tokens beyond its heads; window, cap.
    for (kind, tokens, heads, dim, first, gap, window, cap) in [
        (KvType::F16, 1, 1, 64, 1, 0, ALL, 0.0),
        (KvType::F16, 1, 3, 64, 200, 0, ALL, 0.0),
        (KvType::F16, 1, 4, 128, 256, 0, ALL, 0.0),
        (KvType::F16, 1, 2, 80, 33, 0, ALL, 20.0),
        (KvType::F16, 5, 3, 96, 14, 32, ALL, 0.0),
        (KvType::F16, 16, 4, 64, 250, 16, ALL, 5.0),
        (KvType::F16, 64, 1, 32, 1, 8, ALL, 0.0),
        (KvType::F16, 1, 2, 64, 200, 0, 1, 0.0),
        (KvType::F16, 1, 2, 64, 300, 0, 50, 0.0),
        (KvType::F16, 16, 4, 64, 90, 16, 70, 20.0),
        (KvType::F16, 64, 1, 32, 20, 0, 17, 0.0),
        (KvType::F16, 30, 2, 48, 250, 0, 40, 0.0),
        (KvType::Q8_0, 1, 3, 96, 256, 0, ALL, 0.0),
        (KvType::Q8_0, 1, 1, 32, 17, 0, ALL, 0.0),
        (KvType::Q8_0, 16, 4, 128, 210, 16, ALL, 0.0),
        (KvType::Q8_0, 16, 4, 128, 210, 16, 99, 3.0),
    ] {
        let (rows, stride) = (tokens * heads, heads * dim + gap);
        let positions = (first + tokens - 1).min(CHUNK);
        let q = random.vec(tokens * stride);
        let mut kv = [random.vec(positions * dim), random.vec(positions * dim)];
        // A group of zeros and one of values whose scale is no normal number in half precision.
        kv[0][..GROUP.min(dim)].fill(0.0);
        kv[1][..GROUP.min(dim)].iter_mut().for_each(|v| *v *= 1e-5);
        let mut seen: Option<Vec<u32>> = None;
        for isa in simd::available() {
            let kernels = kernel::kernels(&options(isa)).expect("available");
            let [(keys, k), (values, v)] = cached(&*kernels, kind, [&kv[0], &kv[1]], dim);
            let mut partials = vec![Partial::EMPTY; rows];
            let mut out = vec![0.0; rows * dim];
            let a = Attend {
                q: &q,
                stride,
                tokens,
                heads,
                dim,
                kind,
                keys: &keys,
                values: &values,
                seen: first,
                window,
                cap,
            };
            kernels.attend(
                &a,
                &mut partials,
                &mut out,
                &mut vec![f32::NAN; kernel::room_len(rows, dim)],
            );
            for r in 0..rows {
                let q = &q[r / heads * stride + r % heads * dim..][..dim];
                let end = first + r / heads;
                let visible = end.min(CHUNK);
                let hidden = end.saturating_sub(window);
                let score = |k: &[f64]| -> f64 {
                    let score: f64 = q.iter().zip(k).map(|(q, k)| f64::from(*q) * k).sum();
                    let cap = f64::from(cap);
                    if cap > 0.0 {
                        cap * (score / cap).tanh()
                    } else {
                        score
                    }
                };
                let scores: Vec<f64> = k.chunks_exact(dim).take(visible).map(score).collect();
                let seen = &scores[hidden..];
                let max = seen.iter().copied().fold(f64::MIN, f64::max);
                let sum: f64 = seen.iter().map(|s| (s - max).exp()).sum();
                for d in 0..dim {
                    let weighted = |p: usize| (scores[p] - max).exp() / sum * v[p * dim + d];
                    let exact: f64 = (hidden..visible).map(weighted).sum();
                    let got = f64::from(out[r * dim + d] / partials[r].sum);
                    assert!(
                        (got - exact).abs() < 1e-4,
                        "{kind:?} {isa:?} row {r} {d}: {got} for {exact}"
                    );
                }
            }
            let now: Vec<u32> = out.iter().map(|v| v.to_bits()).collect();
            assert_eq!(
                *seen.get_or_insert_with(|| now.clone()),
                now,
                "{isa:?} differs"
            );
        }
    }
}
