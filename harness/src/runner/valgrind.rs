//! Requests from a program to the valgrind it runs under, as valgrind's manual defines them: a sequence of instructions
//! that does nothing on a processor, and that valgrind takes as a call.
#![allow(unsafe_code)]

use ::engine::stage::Stage;

/// Name of the dump that ends the reading of the prompt.
pub(crate) const PREFILL: &str = "prefill";
/// Name of the dump that ends decoding.
pub(crate) const DECODE: &str = "decode";
/// Name of a dump of what belongs to no stage.
pub(crate) const OTHER: &str = "other";

/// First number of callgrind's requests: its letters, in the upper half.
const CALLGRIND: usize = (b'C' as usize) << 24 | (b'T' as usize) << 16;
/// Zeroes the counts.
const ZERO_STATS: usize = CALLGRIND + 1;
/// Writes the counts since the last dump to the output, under a name, and zeroes them.
const DUMP_STATS_AT: usize = CALLGRIND + 3;
/// Begins to simulate, with empty caches.
const START_INSTRUMENTATION: usize = CALLGRIND + 4;
/// Longest name of a dump, in bytes.
const NAME_BYTES_MAX: usize = 15;

/// Begins to simulate, with empty caches. Without valgrind nothing happens, as with the other requests.
pub(super) fn start() {
    request(START_INSTRUMENTATION, 0);
}

/// Forgets what was counted; the caches keep what they hold.
pub(super) fn zero() {
    request(ZERO_STATS, 0);
}

/// Writes what was counted since the last dump under a name, and forgets it.
pub(super) fn dump(name: &str) {
    let mut text = [0_u8; NAME_BYTES_MAX + 1];
    let bytes = name.bytes().take(NAME_BYTES_MAX);
    text.iter_mut().zip(bytes).for_each(|(to, from)| *to = from);
    request(DUMP_STATS_AT, text.as_ptr() as usize);
}

/// Writes what was counted since the last dump under the name of the stage that has ended.
pub(super) fn dump_stage(stage: Option<Stage>) {
    dump(stage.map_or(OTHER, Stage::name));
}

#[cfg(target_arch = "x86_64")]
fn request(number: usize, argument: usize) {
    let words = [number, argument, 0, 0, 0, 0];
    // SAFETY: on a processor, rotations by 128 bits together and the exchange of a register with itself change nothing but
    // flags. Valgrind reads `words` and the text that `argument` points to, alive in the caller, and writes rdx.
    unsafe {
        std::arch::asm!(
            "rol rdi, 3",
            "rol rdi, 13",
            "rol rdi, 61",
            "rol rdi, 51",
            "xchg rbx, rbx",
            in("rax") words.as_ptr(),
            inout("rdx") 0_usize => _,
            options(nostack),
        );
    }
}

#[cfg(target_arch = "aarch64")]
fn request(number: usize, argument: usize) {
    let words = [number, argument, 0, 0, 0, 0];
    // SAFETY: on a processor, rotations by 128 bits together and a register or itself change nothing. Valgrind reads
    // `words` and the text that `argument` points to, alive in the caller, and writes x3.
    unsafe {
        std::arch::asm!(
            "ror x12, x12, #3",
            "ror x12, x12, #13",
            "ror x12, x12, #51",
            "ror x12, x12, #61",
            "orr x10, x10, x10",
            in("x4") words.as_ptr(),
            inout("x3") 0_usize => _,
            options(nostack),
        );
    }
}

#[cfg(not(any(target_arch = "x86_64", target_arch = "aarch64")))]
fn request(_number: usize, _argument: usize) {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_fit_a_dump() {
        let names = Stage::ALL.map(Stage::name);
        for name in names.into_iter().chain([PREFILL, DECODE, OTHER]) {
            assert!(name.len() <= NAME_BYTES_MAX, "{name}");
        }
    }

    #[test]
    fn nothing_happens_on_a_processor() {
        start();
        dump_stage(None);
        dump_stage(Some(Stage::Qkv));
        zero();
    }
}
