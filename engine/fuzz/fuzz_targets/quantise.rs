//! Any values and any blocks: encoding and decoding never fail, and the kernels of all instruction sets give the same bits,
//! for values that are no numbers too.
#![no_main]

use engine::Options;
use engine::kernel::{self, Bits, Kernels, Row, RowMut, TILE_TOKENS, TileGroup, Tiles};
use engine::quant::{FORMATS, FormatInfo, GROUP};
use engine::simd::{self, LANES};
use libfuzzer_sys::fuzz_target;

/// Largest magnitude that every format can hold: factors are in half precision.
const VALUE_MAX: f32 = 60_000.0;

fuzz_target!(|input: (u8, &[u8])| {
    let (choice, bytes) = input;
    let format = &FORMATS[usize::from(choice) % FORMATS.len()];
    // Columns: a whole number of blocks and of groups.
    let k = 256;
    let floats: Vec<f32> = bytes
        .as_chunks()
        .0
        .iter()
        .map(|&bits| f32::from_le_bytes(bits))
        .chain(std::iter::repeat(0.0))
        .take(2 * k)
        .collect();
    encode(format, &floats[..k], &floats[k..]);
    multiply(format, bytes, &floats[..k]);
});

fn encode(format: &FormatInfo, values: &[f32], importance: &[f32]) {
    if !values.iter().all(|v| v.is_finite()) {
        return;
    }
    for importance in [importance, &[]] {
        let mut block = vec![0; format.row_bytes(values.len())];
        format.quantize(values, importance, &mut block);
        let mut back = vec![f32::NAN; values.len()];
        format.dequantize(&block, &mut back);
        if values.iter().all(|v| v.abs() <= VALUE_MAX) {
            assert!(
                back.iter().all(|v| v.is_finite()),
                "{}: {back:?}",
                format.name
            );
        }
    }
}

/// 16 rows of any bytes times any activations, with the kernels of every instruction set.
fn multiply(format: &FormatInfo, bytes: &[u8], values: &[f32]) {
    let k = values.len();
    let row_bytes = format.row_bytes(k);
    let row = |r: usize| -> Vec<u8> {
        let from = bytes.iter().cycle().skip(if bytes.is_empty() {
            0
        } else {
            r * 7 % bytes.len()
        });
        from.copied()
            .chain(std::iter::repeat(0))
            .take(row_bytes)
            .collect()
    };
    let rows: [Vec<u8>; LANES] = std::array::from_fn(row);
    let mut seen: Option<Vec<u32>> = None;
    for isa in simd::available() {
        let options = Options {
            isa,
            ..Options::default()
        };
        let kernels = kernel::kernels(&options).expect("available");
        let mut panel = vec![0; LANES * row_bytes];
        kernels.pack(format.id, std::array::from_fn(|r| &rows[r][..]), &mut panel);
        let bits = products(&*kernels, format, &panel, values);
        assert_eq!(
            seen.get_or_insert_with(|| bits.clone()),
            &bits,
            "{} on {isa}",
            format.name
        );
    }
}

/// Bits of the products of one token, alone and in a batch; one pattern for all that are no numbers.
fn products(kernels: &dyn Kernels, format: &FormatInfo, panel: &[u8], values: &[f32]) -> Vec<u32> {
    let k = values.len();
    let mut row = RowMut {
        values: &mut values.to_vec(),
        codes: &mut vec![0; k],
        scales: &mut vec![0.0; k / GROUP],
        scaled_sums: &mut vec![0.0; k / GROUP],
        sums: &mut vec![0; k / kernel::SUM_GROUP],
    };
    kernels.quantize(&mut row);
    let row = Row {
        values: row.values,
        codes: row.codes,
        scales: row.scales,
        scaled_sums: row.scaled_sums,
        sums: row.sums,
    };
    let mut alone = [[0.0; LANES]; 1];
    kernels.dot(format.id, Bits::All, panel, k, &[row], &mut alone);
    let bits = |v: f32| if v.is_nan() { u32::MAX } else { v.to_bits() };
    let alone = alone[0].map(bits);
    if !format.is_float() {
        let mut groups = vec![TileGroup::default(); 2 * k / GROUP];
        let n = TILE_TOKENS + 1;
        for t in 0..n {
            let tile = &mut groups[t / TILE_TOKENS * k / GROUP..][..k / GROUP];
            kernels.quantize_tile(values, t % TILE_TOKENS, tile);
        }
        let x = Tiles {
            groups: &groups,
            stride: k / GROUP,
        };
        let mut batch = vec![[0.0; LANES]; n];
        kernels.dot_batch(format.id, panel, k, x, &mut batch);
        for out in batch {
            assert_eq!(out.map(bits), alone, "{} in a batch", format.name);
        }
    }
    alone.to_vec()
}
