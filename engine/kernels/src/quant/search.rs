//! Scales and codes that lose little of a group of weights: a weighted least-squares search.
//!
//! For a given scale the best codes follow by rounding, and for given codes the best scale is a quotient of sums. The search
//! tries scales around the one that spans the values, refits the best of them to its codes until that gains nothing, and
//! where scales are integers themselves tries the neighbours of each with the codes they lead to. Errors are weighted by
//! what a weight is multiplied with (the importance matrix), or by the weights' own magnitudes.
//!
//! A lane of a vector is a candidate, but where factors are refitted: the values of a group go by one after the other, and every candidate adds up what it
//! would lose. So sums have one order, and all instruction sets choose the same.
#![allow(unsafe_code)]

use crate::simd::{LANES, Simd};

/// Scales that are tried on each side of the one that spans the values, and their distance in levels.
const STEPS: i32 = 9;
const STEP: f32 = 0.1;

/// Scales that are tried around one.
const TRIED: usize = 2 * STEPS as usize + 1;

/// Refits of a scale to its codes at most; few gain anything.
const REFITS: usize = 16;

/// Adding and subtracting it rounds to the nearest integer, ties to even.
const ROUNDER: f32 = 12_582_912.0;

/// The values that codes stand for, in units of the scale.
pub(super) trait Grid: Copy {
    /// Lowest and highest level.
    fn ends(self) -> (f32, f32);
    /// The levels nearest to `x`.
    fn level<S: Simd>(self, s: S, x: S::F) -> S::F;
    /// The code of the level nearest to `x`.
    fn code(self, x: f32) -> u8;
}

/// The integers of `low..=high`; codes count from `low`.
#[derive(Clone, Copy)]
pub(super) struct Even {
    pub(super) low: f32,
    pub(super) high: f32,
}

impl Even {
    /// The level nearest to `x`.
    #[inline(always)]
    pub(super) fn round(self, x: f32) -> f32 {
        x.max(self.low).min(self.high) + ROUNDER - ROUNDER
    }
}

impl Grid for Even {
    #[inline(always)]
    fn ends(self) -> (f32, f32) {
        (self.low, self.high)
    }
    #[inline(always)]
    fn level<S: Simd>(self, s: S, x: S::F) -> S::F {
        let x = s.min(s.max(x, s.splat(self.low)), s.splat(self.high));
        s.sub(s.add(x, s.splat(ROUNDER)), s.splat(ROUNDER))
    }
    #[inline(always)]
    fn code(self, x: f32) -> u8 {
        (self.round(x) - self.low) as u8
    }
}

/// Sixteen levels in ascending order, all integers, and their codes.
#[derive(Clone, Copy)]
pub(super) struct Uneven {
    pub(super) levels: &'static [f32; 16],
    pub(super) codes: &'static [u8; 16],
}

impl Uneven {
    /// Twice the place where level `i` ends.
    #[inline(always)]
    fn twice_end(self, i: usize) -> f32 {
        self.levels[i] + self.levels[i + 1]
    }
}

impl Grid for Uneven {
    #[inline(always)]
    fn ends(self) -> (f32, f32) {
        (self.levels[0], self.levels[15])
    }
    #[inline(always)]
    fn level<S: Simd>(self, s: S, x: S::F) -> S::F {
        let twice = s.add(x, x);
        let mut level = s.splat(self.levels[0]);
        for i in 0..15 {
            let step = s.splat(self.levels[i + 1] - self.levels[i]);
            level = s.fma(s.above(twice, s.splat(self.twice_end(i))), step, level);
        }
        level
    }
    #[inline(always)]
    fn code(self, x: f32) -> u8 {
        let above = |i: usize| usize::from(2.0 * x > self.twice_end(i));
        self.codes[(0..15).map(above).sum::<usize>()]
    }
}

/// A vector of 16 candidates.
#[inline(always)]
fn lanes<S: Simd>(s: S, f: impl Fn(usize) -> f32) -> S::F {
    let mut values = [0.0; LANES];
    for (i, value) in values.iter_mut().enumerate() {
        *value = f(i);
    }
    // SAFETY: an array of 16.
    unsafe { s.load(values.as_ptr()) }
}

/// Which of two ends a candidate is tried around, and how many levels from it; the last one again beyond it.
#[inline(always)]
fn tried(candidate: usize) -> (usize, f32) {
    let i = candidate.min(2 * TRIED - 1);
    (i / TRIED, STEP * ((i % TRIED) as i32 - STEPS) as f32)
}

/// The `n` groups of a block, values and weights.
#[inline(always)]
fn groups<'a>(
    x: &'a [f32],
    w: &'a [f32],
    n: usize,
) -> impl Iterator<Item = (&'a [f32], &'a [f32])> {
    let len = x.len() / n;
    x.chunks_exact(len).zip(w.chunks_exact(len))
}

/// Weighted squares of what scales and the codes that they lead to lose.
#[inline(always)]
fn loss<S: Simd, G: Grid>(s: S, x: &[f32], w: &[f32], grid: G, scale: S::F) -> S::F {
    let inverse = s.div(s.splat(1.0), scale);
    let mut loss = s.splat(0.0);
    for (x, w) in x.iter().zip(w) {
        let x = s.splat(*x);
        let e = s.sub(x, s.mul(scale, grid.level(s, s.mul(x, inverse))));
        loss = s.fma(s.mul(s.splat(*w), e), e, loss);
    }
    loss
}

/// What each of 16 scales and the codes that it leads to lose.
#[inline(always)]
pub(super) fn losses<S: Simd, G: Grid>(
    s: S,
    x: &[f32],
    w: &[f32],
    grid: G,
    scale: impl Fn(usize) -> f32,
) -> [f32; LANES] {
    s.to_array(loss(s, x, w, grid, lanes(s, scale)))
}

/// What is gained over losing everything with the codes that inverse scales lead to, and the best scales for these; no
/// numbers where all codes are 0.
#[inline(always)]
fn gains<S: Simd, G: Grid>(s: S, x: &[f32], w: &[f32], grid: G, inverse: S::F) -> [S::F; 2] {
    let (mut xl, mut ll) = (s.splat(0.0), s.splat(0.0));
    for (x, w) in x.iter().zip(w) {
        let l = grid.level(s, s.mul(s.splat(*x), inverse));
        let wl = s.mul(s.splat(*w), l);
        xl = s.fma(s.splat(*x), wl, xl);
        ll = s.fma(wl, l, ll);
    }
    let scale = s.div(xl, ll);
    [s.mul(xl, scale), scale]
}

/// The scale that loses least of `x` with the codes it leads to; 0 for zeros.
#[inline(always)]
pub(super) fn scale<S: Simd, G: Grid>(s: S, x: &[f32], w: &[f32], grid: G) -> f32 {
    let peak = super::peak(x);
    if peak == 0.0 {
        return 0.0;
    }
    let ends = <[f32; 2]>::from(grid.ends());
    let mut best = (0.0, 0.0);
    for first in (0..2 * TRIED).step_by(LANES) {
        let inverse = lanes(s, |i| {
            let (end, levels) = tried(first + i);
            (ends[end] + levels) / peak
        });
        let [gain, scale] = gains(s, x, w, grid, inverse).map(
            #[inline(always)]
            |v| s.to_array(v),
        );
        for found in gain.into_iter().zip(scale) {
            if found.0 > best.0 {
                best = found;
            }
        }
    }
    for _ in 0..REFITS {
        let inverse = s.splat(super::recip(best.1));
        let [gain, scale] = gains(s, x, w, grid, inverse).map(
            #[inline(always)]
            |v| s.to_array(v)[0],
        );
        let better = gain > best.0;
        if !better {
            break;
        }
        best = (gain, scale);
    }
    best.1
}

/// Scale and offset of a group of codes `0..=max`: value = scale * code + min.
#[derive(Clone, Copy, Default)]
pub(super) struct Line {
    pub(super) scale: f32,
    pub(super) min: f32,
}

impl Line {
    /// The codes of `x`.
    #[inline(always)]
    pub(super) fn codes(self, x: &[f32], max: f32, codes: &mut [u8]) {
        let inverse = super::recip(self.scale);
        let grid = Even {
            low: 0.0,
            high: max,
        };
        for (c, &x) in codes.iter_mut().zip(x) {
            *c = grid.code((x - self.min) * inverse);
        }
    }
}

/// Sixteen candidates.
#[derive(Clone, Copy)]
struct Lines<S: Simd> {
    scale: S::F,
    min: S::F,
}

impl<S: Simd> Lines<S> {
    /// One, in all lanes.
    #[inline(always)]
    fn all(s: S, line: Line) -> Lines<S> {
        Lines {
            scale: s.splat(line.scale),
            min: s.splat(line.min),
        }
    }

    /// The codes of `x`.
    #[inline(always)]
    fn level(self, s: S, x: S::F, inverse: S::F, max: f32) -> S::F {
        let grid = Even {
            low: 0.0,
            high: max,
        };
        grid.level(s, s.mul(s.sub(x, self.min), inverse))
    }

    /// Weighted squares of what they and their codes lose.
    #[inline(always)]
    fn loss(self, s: S, x: &[f32], w: &[f32], max: f32) -> S::F {
        let inverse = s.div(s.splat(1.0), self.scale);
        let mut loss = s.splat(0.0);
        for (x, w) in x.iter().zip(w) {
            let x = s.splat(*x);
            let l = self.level(s, x, inverse, max);
            let e = s.sub(s.sub(x, self.min), s.mul(self.scale, l));
            loss = s.fma(s.mul(s.splat(*w), e), e, loss);
        }
        loss
    }

    /// The best lines for the codes that these lead to; `min` is at most 0 if `negative`.
    #[inline(always)]
    fn refit(self, s: S, x: &[f32], w: &[f32], max: f32, negative: bool) -> Lines<S> {
        let inverse = s.div(s.splat(1.0), self.scale);
        let (mut n, mut sx) = (0.0, 0.0);
        let [mut sq, mut qq, mut xq] = [s.splat(0.0); 3];
        for (x, w) in x.iter().zip(w) {
            n += w;
            sx += w * x;
            let x = s.splat(*x);
            let q = self.level(s, x, inverse, max);
            let wq = s.mul(s.splat(*w), q);
            sq = s.add(sq, wq);
            qq = s.fma(wq, q, qq);
            xq = s.fma(wq, x, xq);
        }
        let [sq, qq, xq, scale, min] = [sq, qq, xq, self.scale, self.min].map(
            #[inline(always)]
            |v| s.to_array(v),
        );
        let fitted: [Line; LANES] = std::array::from_fn(
            #[inline(always)]
            |i| {
                let (sq, qq, xq) = (sq[i], qq[i], xq[i]);
                let determinant = n * qq - sq * sq;
                let fitted = (n * xq - sx * sq) / determinant;
                let line = Line {
                    scale: fitted,
                    min: (sx - fitted * sq) / n,
                };
                if determinant <= 0.0 {
                    Line {
                        scale: scale[i],
                        min: min[i],
                    }
                } else if negative && line.min > 0.0 {
                    Line {
                        scale: xq / qq,
                        min: 0.0,
                    }
                } else {
                    line
                }
            },
        );
        Lines {
            scale: lanes(s, |i| fitted[i].scale),
            min: lanes(s, |i| fitted[i].min),
        }
    }

    /// Refits them, and takes the best of all if it loses less.
    #[inline(always)]
    fn improve(
        self,
        s: S,
        (x, w): (&[f32], &[f32]),
        max: f32,
        negative: bool,
        best: &mut (f32, Line),
    ) -> bool {
        let fitted = self.refit(s, x, w, max, negative);
        let loss = s.to_array(fitted.loss(s, x, w, max));
        let [scale, min] = [fitted.scale, fitted.min].map(
            #[inline(always)]
            |v| s.to_array(v),
        );
        let before = best.0;
        for i in 0..LANES {
            if loss[i] < best.0 && scale[i] > 0.0 {
                let (scale, min) = (scale[i], min[i]);
                *best = (loss[i], Line { scale, min });
            }
        }
        best.0 < before
    }
}

/// The line that loses least of `x` with codes `0..=max`; its `min` is at most 0 if `negative`.
#[inline(always)]
pub(super) fn line<S: Simd>(s: S, x: &[f32], w: &[f32], max: f32, negative: bool) -> Line {
    let (mut low, high) = x
        .iter()
        .fold((f32::INFINITY, f32::NEG_INFINITY), |(l, h), &x| {
            (l.min(x), h.max(x))
        });
    if negative {
        low = low.min(0.0);
    }
    let spanning = Line {
        scale: (high - low) / max,
        min: low,
    };
    if spanning.scale <= 0.0 {
        return Line {
            scale: 0.0,
            min: low,
        };
    }
    let mut best = (
        s.to_array(Lines::all(s, spanning).loss(s, x, w, max))[0],
        spanning,
    );
    for first in (0..2 * TRIED).step_by(LANES) {
        let candidate = |i: usize| {
            let (at_low, levels) = tried(first + i);
            let scale = (high - low) / (max + levels);
            // Half of what the span loses goes off each end, or all of it off the upper one.
            let off = if at_low == 0 { 0.5 } else { 0.0 };
            let min = low + (high - low - scale * max) * off;
            (scale, min)
        };
        let lines = Lines::<S> {
            scale: lanes(s, |i| candidate(i).0),
            min: lanes(s, |i| candidate(i).1),
        };
        lines.improve(s, (x, w), max, negative, &mut best);
    }
    for _ in 0..REFITS {
        if !Lines::all(s, best.1).improve(s, (x, w), max, negative, &mut best) {
            break;
        }
    }
    best.1
}

/// Integer scales of the groups of a block, one factor for all of them.
pub(super) struct Nested<const N: usize> {
    /// The factor, as half precision holds it.
    pub(super) d: f32,
    pub(super) scales: [i8; N],
}

/// Factor and integer scales within `ints` of `N` groups whose codes lie on `grid`.
#[inline(always)]
pub(super) fn nested<S: Simd, const N: usize, G: Grid>(
    s: S,
    x: &[f32],
    w: &[f32],
    grid: G,
    ints: Even,
) -> Nested<N> {
    let mut ideal = [0.0; N];
    for (ideal, (x, w)) in ideal.iter_mut().zip(groups(x, w, N)) {
        *ideal = scale(s, x, w, grid);
    }
    let peak = super::peak(&ideal);
    if peak == 0.0 {
        return Nested {
            d: 0.0,
            scales: [0; N],
        };
    }
    let ends = [
        ints.low,
        ints.high,
        ints.low + 1.0,
        ints.high - 1.0,
        ints.low + 2.0,
    ];
    let tops = ends.map(|end| peak / end);
    let mut best = with_factors(s, x, w, grid, ints, &ideal, &tops);
    for _ in 0..REFITS {
        let refitted = refit_factor(s, x, w, grid, &best.1);
        let found = with_factors(s, x, w, grid, ints, &ideal, &[refitted]);
        if found.0 >= best.0 {
            break;
        }
        best = found;
    }
    best.1
}

/// Where integers other than the nearest may lose less.
const NEAR: [f32; 3] = [0.0, -1.0, 1.0];

/// The best integers for the best of at most five factors, and what they lose in all; `ideal` scales of the groups.
#[inline(always)]
fn with_factors<S: Simd, const N: usize, G: Grid>(
    s: S,
    x: &[f32],
    w: &[f32],
    grid: G,
    ints: Even,
    ideal: &[f32; N],
    factors: &[f32],
) -> (f32, Nested<N>) {
    const { assert!(5 * NEAR.len() <= LANES) };
    let mut found: [(f32, Nested<N>); 5] = std::array::from_fn(
        #[inline(always)]
        |i| {
            let d = half::f16::from_f32(factors[i.min(factors.len() - 1)]).to_f32();
            (0.0, Nested { d, scales: [0; N] })
        },
    );
    let found = &mut found[..factors.len()];
    for (g, ((x, w), ideal)) in groups(x, w, N).zip(ideal).enumerate() {
        // A factor's integers lie side by side.
        let mut tried = [0.0f32; LANES];
        let mut scales = [0.0f32; LANES];
        for (f, (_, n)) in found.iter().enumerate() {
            let near = ints.round(ideal * super::recip(n.d));
            for (j, offset) in NEAR.iter().enumerate() {
                let integer = near + offset;
                tried[f * NEAR.len() + j] = integer;
                scales[f * NEAR.len() + j] = n.d * integer;
            }
        }
        let losses = losses(s, x, w, grid, |i| scales[i]);
        for (f, (total, n)) in found.iter_mut().enumerate() {
            let mut best = f32::INFINITY;
            for i in f * NEAR.len()..(f + 1) * NEAR.len() {
                if (ints.low..=ints.high).contains(&tried[i]) && losses[i] < best {
                    (best, n.scales[g]) = (losses[i], tried[i] as i8);
                }
            }
            *total += best;
        }
    }
    let mut least = 0;
    for i in 1..found.len() {
        if found[i].0 < found[least].0 {
            least = i;
        }
    }
    let (total, n) = &found[least];
    let (d, scales) = (n.d, n.scales);
    (*total, Nested { d, scales })
}

/// The factor that loses least with the integers and codes of `n`; here a lane is a value.
#[inline(always)]
fn refit_factor<S: Simd, const N: usize, G: Grid>(
    s: S,
    x: &[f32],
    w: &[f32],
    grid: G,
    n: &Nested<N>,
) -> f32 {
    let (mut xl, mut ll) = (s.splat(0.0), s.splat(0.0));
    for ((x, w), integer) in groups(x, w, N).zip(n.scales) {
        let integer = f32::from(integer);
        let inverse = s.splat(super::recip(n.d * integer));
        for (x, w) in values(s, x, w) {
            let l = s.mul(s.splat(integer), grid.level(s, s.mul(x, inverse)));
            let wl = s.mul(w, l);
            xl = s.fma(wl, x, xl);
            ll = s.fma(wl, l, ll);
        }
    }
    let (xl, ll) = (s.sum(xl), s.sum(ll));
    if ll > 0.0 { xl / ll } else { n.d }
}

/// Values and weights, sixteen at a time.
#[inline(always)]
fn values<'a, S: Simd>(
    s: S,
    x: &'a [f32],
    w: &'a [f32],
) -> impl Iterator<Item = (S::F, S::F)> + use<'a, S> {
    let all = x.as_chunks::<LANES>().0.iter();
    all.zip(w.as_chunks::<LANES>().0).map(
        #[inline(always)]
        // SAFETY: arrays of 16.
        move |(x, w)| unsafe { (s.load(x.as_ptr()), s.load(w.as_ptr())) },
    )
}

/// Integer scales and minima of the groups of a block, with a factor for each kind: value = d s q - dmin m.
pub(super) struct NestedLines<const N: usize> {
    /// Factors `d` and `dmin`, as half precision holds them.
    pub(super) factors: [f32; 2],
    pub(super) scales: [u8; N],
    pub(super) mins: [u8; N],
}

impl<const N: usize> NestedLines<N> {
    /// Scale and offset of group `g`.
    #[inline(always)]
    pub(super) fn line(&self, g: usize) -> Line {
        Line {
            scale: self.factors[0] * f32::from(self.scales[g]),
            min: -self.factors[1] * f32::from(self.mins[g]),
        }
    }
}

/// Factors, integer scales and minima (`0..=int_max`) of `N` groups of codes `0..=max`.
#[inline(always)]
pub(super) fn nested_lines<S: Simd, const N: usize>(
    s: S,
    x: &[f32],
    w: &[f32],
    max: f32,
    int_max: f32,
) -> NestedLines<N> {
    let mut ideal = [Line::default(); N];
    for (ideal, (x, w)) in ideal.iter_mut().zip(groups(x, w, N)) {
        *ideal = line(s, x, w, max, true);
    }
    let peak = |f: fn(&Line) -> f32| ideal.iter().map(f).fold(0.0, f32::max);
    let peaks = [peak(|l| l.scale), peak(|l| -l.min)];
    let ints = Even {
        low: 0.0,
        high: int_max,
    };
    let mut best = with_two_factors(s, x, w, max, ints, &ideal, peaks.map(|p| p / int_max));
    for [top, min_top] in [[0.0, 1.0], [1.0, 0.0], [1.0, 1.0]] {
        let factors = [peaks[0] / (int_max - top), peaks[1] / (int_max - min_top)];
        let found = with_two_factors(s, x, w, max, ints, &ideal, factors);
        if found.0 < best.0 {
            best = found;
        }
    }
    for _ in 0..REFITS {
        let factors = refit_factors(s, x, w, max, &best.1);
        let found = with_two_factors(s, x, w, max, ints, &ideal, factors);
        if found.0 >= best.0 {
            break;
        }
        best = found;
    }
    best.1
}

/// The best integers for factors, and what they lose in all; `ideal` lines of the groups.
#[inline(always)]
fn with_two_factors<S: Simd, const N: usize>(
    s: S,
    x: &[f32],
    w: &[f32],
    max: f32,
    ints: Even,
    ideal: &[Line; N],
    factors: [f32; 2],
) -> (f32, NestedLines<N>) {
    const { assert!(NEAR.len() * NEAR.len() <= LANES) };
    let factors = factors.map(|f| half::f16::from_f32(f).to_f32());
    let mut n = NestedLines {
        factors,
        scales: [0; N],
        mins: [0; N],
    };
    let mut total = 0.0;
    for (g, ((x, w), ideal)) in groups(x, w, N).zip(ideal).enumerate() {
        let near_scale = ints.round(ideal.scale * super::recip(factors[0]));
        let near_min = ints.round(-ideal.min * super::recip(factors[1]));
        let near = |i: usize| {
            let i = i.min(NEAR.len() * NEAR.len() - 1);
            let (scale, min) = (i / NEAR.len(), i % NEAR.len());
            (near_scale + NEAR[scale], near_min + NEAR[min])
        };
        let lines = Lines::<S> {
            scale: lanes(s, |i| factors[0] * near(i).0),
            min: lanes(s, |i| -factors[1] * near(i).1),
        };
        let losses = s.to_array(lines.loss(s, x, w, max));
        let mut best = f32::INFINITY;
        for (i, loss) in losses.iter().take(NEAR.len() * NEAR.len()).enumerate() {
            let (scale, min) = near(i);
            let there = |v| (ints.low..=ints.high).contains(&v);
            if there(scale) && there(min) && *loss < best {
                best = *loss;
                (n.scales[g], n.mins[g]) = (scale as u8, min as u8);
            }
        }
        total += best;
    }
    (total, n)
}

/// The factors that lose least with the integers and codes of `n`; here a lane is a value.
#[inline(always)]
fn refit_factors<S: Simd, const N: usize>(
    s: S,
    x: &[f32],
    w: &[f32],
    max: f32,
    n: &NestedLines<N>,
) -> [f32; 2] {
    let mut all = [s.splat(0.0); 5];
    for (g, (x, w)) in groups(x, w, N).enumerate() {
        let line = n.line(g);
        let lines = Lines::all(s, line);
        let inverse = s.splat(super::recip(line.scale));
        let (scale, m) = (s.splat(n.scales[g].into()), s.splat(n.mins[g].into()));
        for (x, w) in values(s, x, w) {
            let q = s.mul(scale, lines.level(s, x, inverse, max));
            let (wq, wm) = (s.mul(w, q), s.mul(w, m));
            let terms = [(wq, q), (wq, m), (wm, m), (wq, x), (wm, x)];
            for (sum, (a, b)) in all.iter_mut().zip(terms) {
                *sum = s.fma(a, b, *sum);
            }
        }
    }
    let [qq, qm, mm, xq, xm] = all.map(
        #[inline(always)]
        |sum| s.sum(sum),
    );
    let determinant = qq * mm - qm * qm;
    let refitted = match determinant > 0.0 {
        true => [
            (xq * mm - xm * qm) / determinant,
            (xq * qm - xm * qq) / determinant,
        ],
        false if qq > 0.0 => [xq / qq, n.factors[1]],
        false => n.factors,
    };
    match refitted[0] > 0.0 && refitted[1] >= 0.0 {
        true => refitted,
        false => n.factors,
    }
}
