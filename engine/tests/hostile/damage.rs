//! What may have happened to a file.

use crate::file::{self, Field, Role};

/// Small deterministic generator (splitmix64).
pub(crate) struct Random(pub(crate) u64);

impl Random {
    pub(crate) fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// A number below `n`.
    pub(crate) fn below(&mut self, n: usize) -> usize {
        (self.next() % n as u64) as usize
    }

    pub(crate) fn of<'a, T>(&mut self, all: &'a [T]) -> &'a T {
        &all[self.below(all.len())]
    }
}

/// Numbers that counts, lengths and places are set to.
const EXTREMES: [u64; 14] = [
    0,
    1,
    0x7f,
    0xff,
    0xffff,
    1 << 20,
    1 << 26,
    (1 << 31) - 1,
    1 << 31,
    u32::MAX as u64,
    1 << 40,
    i64::MAX as u64,
    1 << 63,
    u64::MAX,
];

/// Floats that are no reasonable parameters.
const FLOATS: [f32; 8] = [
    f32::NAN,
    f32::INFINITY,
    f32::NEG_INFINITY,
    f32::MAX,
    f32::MIN_POSITIVE,
    1e-45,
    0.0,
    -1.0,
];

/// Bytes that texts and weights are overwritten with.
const BYTES: [u8; 8] = [0, 0x7f, 0x80, 0xff, 0xc3, 0x7c, 0xfc, b'{'];

/// A damaged copy of a sound file.
pub(crate) fn damage(sound: &[u8], random: &mut Random) -> Vec<u8> {
    let head = file::head(sound);
    let mut file = sound.to_vec();
    for _ in 0..1 + random.below(3) {
        // Most often what a reader of heads does not find out.
        match random.below(16) {
            0..2 => flip_bits(&mut file, head.end, random),
            2 => cut(&mut file, head.end, random),
            3 => set(&mut file, &head.fields, Role::Count, random),
            4 => set(&mut file, &head.fields, Role::Place, random),
            5..7 => set(&mut file, &head.fields, Role::Type, random),
            7..10 => set(&mut file, &head.fields, Role::Number, random),
            10..12 => spoil_text(&mut file, &head.fields, random),
            _ => spoil_weights(&mut file, head.end, random),
        }
    }
    file
}

/// An end within the head, or anywhere.
fn cut(file: &mut Vec<u8>, head: usize, random: &mut Random) {
    let area = [head.min(file.len()), file.len()][random.below(2)];
    file.truncate(random.below(area + 1));
}

/// Bits of the head, or of the whole file.
fn flip_bits(file: &mut [u8], head: usize, random: &mut Random) {
    let area = if random.below(3) > 0 {
        head
    } else {
        file.len()
    };
    let area = area.min(file.len());
    for _ in 0..1 + random.below(8) {
        if area > 0 {
            file[random.below(area)] ^= 1 << random.below(8);
        }
    }
}

/// Another number in a field with `role`. A vocabulary has thousands of fields, so that half of the time one of the first
/// or last of them is taken, which decide more.
fn set(file: &mut [u8], fields: &[Field], role: Role, random: &mut Random) {
    let fields: Vec<&Field> = fields.iter().filter(|f| f.role == role).collect();
    let place = match random.below(4) {
        0 => random.below(fields.len().min(40)),
        1 => fields.len() - 1 - random.below(fields.len().min(120)),
        _ => random.below(fields.len()),
    };
    let Some(bytes) = file.get_mut(fields[place].at.clone()) else {
        return;
    };
    let mut wide = [0; 8];
    wide[..bytes.len()].copy_from_slice(bytes);
    let now = u64::from_le_bytes(wide);
    let number = match (role, random.below(4)) {
        (Role::Type, 0..3) => random.below(48) as u64,
        (_, 0) => now.wrapping_add(1),
        (_, 1) => now.wrapping_sub(1),
        (Role::Number, 2) => u64::from(random.of(&FLOATS).to_bits()),
        (_, 2) => [now.wrapping_mul(2), now / 2][random.below(2)],
        _ => *random.of(&EXTREMES),
    };
    let len = bytes.len();
    bytes.copy_from_slice(&number.to_le_bytes()[..len]);
}

/// Other bytes in a text, or another text of the file in its place, as far as it goes.
fn spoil_text(file: &mut [u8], fields: &[Field], random: &mut Random) {
    let texts: Vec<&Field> = fields.iter().filter(|f| f.role == Role::Text).collect();
    let at = random.of(&texts).at.clone();
    let other = random.of(&texts).at.clone();
    if at.end > file.len() || other.end > file.len() || at.is_empty() {
        return;
    }
    match random.below(3) {
        0 => file.copy_within(other.start..other.end.min(other.start + at.len()), at.start),
        1 => file[at].fill(*random.of(&BYTES)),
        _ => {
            for _ in 0..1 + random.below(4) {
                file[at.start + random.below(at.len())] = random.next() as u8;
            }
        }
    }
}

/// Other bytes in a stretch of the weights: scales that are no numbers or infinite, codes at their ends.
fn spoil_weights(file: &mut [u8], head: usize, random: &mut Random) {
    if head >= file.len() {
        return;
    }
    let start = head + random.below(file.len() - head);
    let len = (1 << random.below(16)).min(file.len() - start);
    let byte = *random.of(&BYTES);
    let random_bytes = random.below(2) == 0;
    for b in &mut file[start..start + len] {
        *b = if random_bytes {
            random.next() as u8
        } else {
            byte
        };
    }
}
