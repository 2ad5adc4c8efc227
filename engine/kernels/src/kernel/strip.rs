//! Products that read only some channels of a matrix: inputs, each with all its outputs (see `sum`), or outputs, each with all
//! its inputs.
//!
//! What a channel is multiplied with lies in strips of 16 blocks of 32 weights, packed as the 16 rows of a panel are: a lane of
//! a vector is a block, and a quad of codes four of its positions.
#![allow(unsafe_code)]

use super::dot::{LINE, QUAD};
use super::{Reading, Row, SUM_GROUP, panel_bytes};
use crate::quant::{Codes, GROUP, Planes, low_bits, parts};
use crate::simd::{LANES, Simd};
use std::iter::Chain;
use std::marker::PhantomData;
use std::slice::Chunks;

/// Weights in a strip.
pub const STRIP: usize = LANES * GROUP;

/// How many strips ahead those of a product by rows are fetched: eight channels of six. Fewer were slower, more no faster.
const DISTANCE: usize = 48;

/// Quads of a block.
pub(super) const QUADS: usize = GROUP / QUAD;

/// A channel that takes part in a product, and its value.
#[derive(Debug, Clone, Copy, Default)]
pub struct Active {
    /// Its number.
    pub channel: u32,
    /// What it is multiplied with.
    pub value: f32,
}

/// Channels in strips.
#[derive(Debug, Clone, Copy)]
pub struct Strips<'a> {
    /// All of them, channel after channel.
    pub bytes: &'a [u8],
    /// Strips of a channel.
    pub per_channel: usize,
}

impl Strips<'_> {
    /// Bytes of a channel.
    pub(super) fn channel_bytes<Q: Codes>(&self) -> usize {
        self.per_channel * panel_bytes::<Q>(GROUP)
    }

    /// Where a channel begins.
    pub(super) fn at<Q: Codes>(&self, a: &Active) -> *const u8 {
        let offset = a.channel as usize * self.channel_bytes::<Q>();
        self.bytes.as_ptr().wrapping_add(offset)
    }

    /// Asserts that blocks have 32 weights and one scale, and that all of `channels` are there.
    pub(super) fn check<Q: Codes>(&self, channels: &[Active]) {
        assert!(
            Q::BLOCK_LEN == GROUP && Q::SUB == GROUP && self.per_channel > 0,
            "strips have blocks of {GROUP} with one scale"
        );
        let held = self.bytes.len() / self.channel_bytes::<Q>();
        let last = channels.iter().map(|a| a.channel as usize + 1).max();
        let last = last.unwrap_or(0);
        assert!(last <= held, "channel {last} of {held}");
    }
}

/// The quantised activations that go with a strip.
#[derive(Debug, Clone, Copy, Default)]
#[repr(C, align(64))]
pub struct StripCodes {
    /// Signed codes of 8 bits, `[quad][block][position]`: value = `scale * code`.
    pub codes: [[[i8; QUAD]; LANES]; QUADS],
    /// Scales of the blocks.
    pub scales: [f32; LANES],
    /// Scale times the sum of the codes.
    pub scaled_sums: [f32; LANES],
    /// Sums of the codes.
    pub sums: [i32; LANES],
}

/// What will be read soon, asked for strip by strip as it is read, so that the memory has neither too much to do at once nor
/// nothing. Measured to be faster than one channel after the other (`reports/studies/sparsity.md`); why is not known.
pub(super) struct Ahead<'a, Q> {
    strips: Strips<'a>,
    /// Channels that are read side by side, and those that come later.
    group: &'a [Active],
    groups: Chain<Chunks<'a, Active>, Chunks<'a, Active>>,
    /// The next strip to ask for, and of which channel of the group.
    strip: usize,
    channel: usize,
    format: PhantomData<Q>,
}

impl<'a, Q: Codes> Ahead<'a, Q> {
    /// Asks for the first `distance` strips of what is read: of each `group` channels of `active` strip after strip, then of
    /// those of `next`. Of none where nothing is to be fetched.
    #[inline(always)]
    pub(super) fn of<S: Simd>(
        s: S,
        strips: Strips<'a>,
        [active, next]: [&'a [Active]; 2],
        (group, distance): (usize, usize),
        reading: Reading,
    ) -> Self {
        let [active, next] = match reading.ahead {
            0 => [&[][..]; 2],
            _ => [active, next],
        };
        let mut groups = active.chunks(group).chain(next.chunks(group));
        let mut ahead = Ahead {
            strips,
            group: groups.next().unwrap_or(&[]),
            groups,
            strip: 0,
            channel: 0,
            format: PhantomData,
        };
        for _ in 0..distance {
            ahead.step(s);
        }
        ahead
    }

    /// Asks for the next one.
    #[inline(always)]
    pub(super) fn step<S: Simd>(&mut self, s: S) {
        let Some(a) = self.group.get(self.channel) else {
            return;
        };
        let bytes = panel_bytes::<Q>(GROUP);
        let strip = self.strips.at::<Q>(a).wrapping_add(self.strip * bytes);
        for line in 0..bytes.div_ceil(LINE) {
            s.prefetch_second(strip.wrapping_add(line * LINE));
        }
        self.channel += 1;
        if self.channel == self.group.len() {
            (self.channel, self.strip) = (0, self.strip + 1);
            if self.strip == self.strips.per_channel {
                self.strip = 0;
                self.group = self.groups.next().unwrap_or(&[]);
            }
        }
    }
}

/// See [`super::Kernels::dot_channels`].
pub(super) fn dot<S: Simd, Q: Codes>(
    s: S,
    strips: Strips<'_>,
    active: &[Active],
    x: &[StripCodes],
    reading: Reading,
    out: &mut [f32],
) {
    strips.check::<Q>(active);
    assert!(
        x.len() == strips.per_channel && out.len() == active.len(),
        "codes for every weight and an output for every channel"
    );
    s.vectorize(
        #[inline(always)]
        || {
            let mut ahead = Ahead::<Q>::of(s, strips, [active, &[]], (1, DISTANCE), reading);
            for (a, out) in active.iter().zip(out) {
                let mut total = s.splat(0.0);
                for (u, x) in x.iter().enumerate() {
                    let strip = strips.at::<Q>(a).wrapping_add(u * panel_bytes::<Q>(GROUP));
                    ahead.step(s);
                    // SAFETY: the channel was found to be there, and the strip is one of it.
                    total = unsafe { dot_strip::<S, Q>(s, strip, x, total) };
                }
                *out = s.sum(total);
            }
        },
    );
}

/// `total`, and the products of each block of a strip with its activations.
///
/// # Safety
/// The strip is readable.
#[inline(always)]
unsafe fn dot_strip<S: Simd, Q: Codes>(
    s: S,
    strip: *const u8,
    x: &StripCodes,
    total: S::F,
) -> S::F {
    const { assert!(Q::OFFSET == 0 || Q::OFFSET.unsigned_abs().is_power_of_two()) };
    let zero = s.i_splat(0);
    let planes = Planes::of::<Q>(strip, GROUP, 0);
    // SAFETY: by contract; the vectors lie within `x`.
    unsafe {
        let start = match Q::OFFSET {
            0 => zero,
            offset => {
                let sums = s.b_as_i(s.b_load(x.sums.as_ptr().cast()));
                s.i_sub(zero, s.i_shl(sums, offset.trailing_zeros()))
            }
        };
        let (mut high, mut low) = (s.dot_start(zero), s.dot_start(start));
        for quad in 0..QUADS {
            let [w_high, w_low] = parts::<S, Q>(s, planes, quad);
            let codes = x.codes[quad].as_ptr().cast();
            if low_bits::<Q>() > 0 {
                high = s.pin(s.dot_rows(high, w_high, codes));
                low = s.pin(s.dot_rows(low, w_low, codes));
            } else {
                low = s.pin(s.dot_rows(low, w_high, codes));
            }
        }
        let mut sums = s.dot_sum(low, start);
        if low_bits::<Q>() > 0 {
            sums = s.i_add(sums, s.i_shl(s.dot_sum(high, zero), low_bits::<Q>()));
        }
        let (scale, min) = Q::scales(s, Q::common(s, strip), strip, 0);
        let scale = s.mul(scale, s.load(x.scales.as_ptr()));
        let total = s.fma(scale, s.i_to_f(sums), total);
        match Q::HAS_MIN {
            true => s.fma(min, s.load(x.scaled_sums.as_ptr()), total),
            false => total,
        }
    }
}

/// See [`super::Kernels::arrange`].
#[inline(always)]
pub(super) fn arrange(x: &Row<'_>, out: &mut [StripCodes]) {
    out.fill(StripCodes::default());
    for (g, codes) in x.codes.as_chunks::<GROUP>().0.iter().enumerate() {
        let (strip, block) = (&mut out[g / LANES], g % LANES);
        for (to, from) in strip.codes.iter_mut().zip(codes.as_chunks().0) {
            to[block] = *from;
        }
        strip.scales[block] = x.scales[g];
        strip.scaled_sums[block] = x.scaled_sums[g];
        let halves = GROUP / SUM_GROUP;
        strip.sums[block] = x.sums[g * halves..][..halves].iter().sum();
    }
}
