//! Products that are looked up have the bits of those that are multiplied.

use super::*;
use engine::options::Kernel;

/// Activations whose codes are all extreme, of both signs, of one, or in turn with zeros.
fn extreme(k: usize, pattern: usize) -> Vec<f32> {
    let sign = |i: usize| if (i / 3).is_multiple_of(2) { 1.0 } else { -1.0 };
    let value = |i| match pattern {
        0 => sign(i),
        1 => 1.0,
        2 => -1.0,
        _ => sign(i) * (i % 2) as f32,
    };
    (0..k).map(value).collect()
}

#[test]
fn products_looked_up_have_the_bits_of_multiplied_ones() {
    let mut random = Random(9);
    let mut seen = 0;
    for format in FORMATS.iter().filter(|f| f.lookup) {
        seen += 1;
        for blocks in [1, 3, 8] {
            let k = blocks * format.block_len;
            // Of random codes, of the least and of the largest ones; scales are those of random weights.
            let mut matrices = vec![rows(format, k, true, &mut random)];
            for byte in [0x00, 0xff] {
                let mut extreme = rows(format, k, false, &mut random);
                for block in extreme
                    .iter_mut()
                    .flat_map(|r| r.chunks_mut(format.block_bytes))
                {
                    let codes = match format.name {
                        "Q4_0" => 2..18,
                        "Q4_1" => 4..20,
                        "Q4_K" => 16..144,
                        "Q2_K" => 16..80,
                        "Q3_K" => 0..96,
                        "TQ2_0" => 0..64,
                        other => panic!("where are the codes of {other}?"),
                    };
                    block[codes].fill(byte);
                }
                matrices.push(extreme);
            }
            let dots: Vec<u8> = matrices
                .iter()
                .flat_map(|rows| panel(format, rows))
                .collect();
            let panel_bytes = dots.len() / matrices.len();
            let mut lookups: Option<Vec<u8>> = None;
            let values = (0..4).map(|i| extreme(k, i));
            for values in values.chain((0..3).map(|_| random.vec(k))) {
                for isa in simd::available() {
                    let kernels = kernel::kernels(&options(isa)).expect("available");
                    let mut panels = dots.clone();
                    for panel in panels.chunks_mut(panel_bytes) {
                        kernels.rearrange(format.id, Kernel::Lut, panel);
                    }
                    assert_eq!(
                        &panels,
                        lookups.get_or_insert_with(|| panels.clone()),
                        "{isa}"
                    );
                    let x = Activations::new(&*kernels, values.clone());
                    let mut tables = vec![0; k * kernel::TABLE_BYTES];
                    kernels.tables(&x.codes, &mut tables);
                    let [mut expect, mut found] = [[[0.0; LANES]; 3]; 2];
                    kernels.dot(format.id, Bits::All, &dots, k, &[x.row()], &mut expect);
                    kernels.lookup(format.id, &panels, k, x.row(), &tables, &mut found);
                    let bits = |out: &[[f32; LANES]]| {
                        out.as_flattened()
                            .iter()
                            .map(|x| x.to_bits())
                            .collect::<Vec<_>>()
                    };
                    assert_eq!(bits(&found), bits(&expect), "{} {isa} k={k}", format.name);
                    for panel in panels.chunks_mut(panel_bytes) {
                        kernels.rearrange(format.id, Kernel::Dot, panel);
                    }
                    assert!(panels == dots, "{} {isa}: there and back", format.name);
                }
            }
        }
    }
    assert_eq!(seen, 6, "Q4_0, Q4_1, Q2_K, Q3_K, Q4_K and TQ2_0");
}

#[test]
fn the_tables_hold_the_sums_of_all_choices() {
    let codes: Vec<i8> = (0..64)
        .map(|i| [127_i8, -127, 3, -128, 0, 90, -1, 127][i % 8].saturating_sub((i / 8) as i8 / 2))
        .collect();
    for isa in simd::available() {
        let kernels = kernel::kernels(&options(isa)).expect("available");
        let mut tables = vec![0; codes.len() * kernel::TABLE_BYTES];
        kernels.tables(&codes, &mut tables);
        for (quad, codes) in codes.chunks(4).enumerate() {
            let (group, in_group) = (quad / 8 * 256, quad % 8 * 16);
            for n in 0..16 {
                let sum: i32 = (0..4).map(|i| (n >> i & 1) * i32::from(codes[i])).sum();
                let at =
                    |half: usize| i32::from(tables[group + half * 128 + in_group + n as usize]);
                assert!(at(0) < 32 && at(1) < 32, "eight of them fit a byte");
                assert_eq!(at(0) + 32 * at(1) - 512, sum, "{isa} quad {quad} entry {n}");
            }
        }
    }
}
