//! Scales and codes that lose little of a group of weights: a weighted least-squares search.
//!
//! For a given scale the best codes follow by rounding, and for given codes the best scale is a quotient of sums. The search
//! tries scales around the one that spans the values, refits the best of them to its codes until that gains nothing, and
//! where scales are integers themselves tries the neighbours of each with the codes they lead to. Errors are weighted by
//! what a weight is multiplied with (the importance matrix), or by the weights' own magnitudes.

/// Values that are worked on side by side.
const LANES: usize = 8;

/// Scales that are tried on each side of the one that spans the values, and their distance in levels.
const STEPS: i32 = 9;
const STEP: f32 = 0.1;

/// Refits of a scale to its codes at most; few gain anything.
const REFITS: usize = 16;

/// Adding and subtracting it rounds to the nearest integer, ties to even.
const ROUNDER: f32 = 12_582_912.0;

/// The values that codes stand for, in units of the scale.
pub(super) trait Grid: Copy {
    /// Lowest and highest level.
    fn ends(self) -> (f32, f32);
    /// The level nearest to `x`.
    fn level(self, x: f32) -> f32;
    /// The code of the level nearest to `x`.
    fn code(self, x: f32) -> u8;
}

/// The integers of `low..=high`; codes count from `low`.
#[derive(Clone, Copy)]
pub(super) struct Even {
    pub(super) low: f32,
    pub(super) high: f32,
}

impl Grid for Even {
    #[inline(always)]
    fn ends(self) -> (f32, f32) {
        (self.low, self.high)
    }
    #[inline(always)]
    fn level(self, x: f32) -> f32 {
        let x = if self.low > x { self.low } else { x };
        let x = if self.high < x { self.high } else { x };
        x + ROUNDER - ROUNDER
    }
    #[inline(always)]
    fn code(self, x: f32) -> u8 {
        (self.level(x) - self.low) as u8
    }
}

/// Sixteen levels in ascending order, and their codes.
#[derive(Clone, Copy)]
pub(super) struct Uneven {
    pub(super) levels: &'static [f32; 16],
    pub(super) codes: &'static [u8; 16],
}

impl Uneven {
    #[inline(always)]
    fn index(self, x: f32) -> usize {
        let above = |i: usize| usize::from(2.0 * x > self.levels[i] + self.levels[i + 1]);
        (0..15).map(above).sum()
    }
}

impl Grid for Uneven {
    #[inline(always)]
    fn ends(self) -> (f32, f32) {
        (self.levels[0], self.levels[15])
    }
    #[inline(always)]
    fn level(self, x: f32) -> f32 {
        self.levels[self.index(x)]
    }
    #[inline(always)]
    fn code(self, x: f32) -> u8 {
        self.codes[self.index(x)]
    }
}

/// Sums of `f(value, weight)`, which gives `N` terms, in a fixed order.
#[inline(always)]
fn sums<const N: usize>(x: &[f32], w: &[f32], f: impl Fn(f32, f32) -> [f32; N]) -> [f32; N] {
    let mut lanes = [[0.0f32; LANES]; N];
    for (x, w) in x.chunks_exact(LANES).zip(w.chunks_exact(LANES)) {
        for i in 0..LANES {
            let terms = f(x[i], w[i]);
            for (lane, term) in lanes.iter_mut().zip(terms) {
                lane[i] += term;
            }
        }
    }
    lanes.map(|lane| lane.iter().sum())
}

/// The `N` groups of a block, values and weights.
#[inline(always)]
fn groups<'a, const N: usize>(
    x: &'a [f32],
    w: &'a [f32],
) -> impl Iterator<Item = (&'a [f32], &'a [f32])> {
    let len = x.len() / N;
    x.chunks_exact(len).zip(w.chunks_exact(len))
}

/// Weighted squares of what `scale` and the codes that it leads to lose.
#[inline(always)]
pub(super) fn loss<G: Grid>(x: &[f32], w: &[f32], grid: G, scale: f32) -> f32 {
    let inverse = super::recip(scale);
    sums(x, w, |x, w| {
        let e = x - scale * grid.level(x * inverse);
        [w * e * e]
    })[0]
}

/// The scale that loses least of `x`, a multiple of eight values, with the codes it leads to; 0 for zeros.
#[inline(always)]
pub(super) fn scale<G: Grid>(x: &[f32], w: &[f32], grid: G) -> f32 {
    let peak = super::peak(x);
    let (low, high) = grid.ends();
    if peak == 0.0 {
        return 0.0;
    }
    let mut best = (0.0, 0.0);
    for end in [low, high] {
        for i in -STEPS..=STEPS {
            let found = gain(x, w, grid, (end + STEP * i as f32) / peak);
            if found.0 > best.0 {
                best = found;
            }
        }
    }
    for _ in 0..REFITS {
        let found = gain(x, w, grid, super::recip(best.1));
        if found.0 <= best.0 {
            break;
        }
        best = found;
    }
    best.1
}

/// What is gained over losing everything with the codes of a scale, and the best scale for these.
#[inline(always)]
fn gain<G: Grid>(x: &[f32], w: &[f32], grid: G, inverse: f32) -> (f32, f32) {
    let [xl, ll] = sums(x, w, |x, w| {
        let l = grid.level(x * inverse);
        [w * x * l, w * l * l]
    });
    match ll > 0.0 {
        true => (xl * (xl / ll), xl / ll),
        false => (0.0, 0.0),
    }
}

/// Scale and offset of a group of codes `0..=max`: value = scale * code + min.
#[derive(Clone, Copy, Default)]
pub(super) struct Line {
    pub(super) scale: f32,
    pub(super) min: f32,
}

impl Line {
    #[inline(always)]
    fn level(self, x: f32, inverse: f32, max: f32) -> f32 {
        Even {
            low: 0.0,
            high: max,
        }
        .level((x - self.min) * inverse)
    }

    /// The codes of `x`.
    #[inline(always)]
    pub(super) fn codes(self, x: &[f32], max: f32, codes: &mut [u8]) {
        let inverse = super::recip(self.scale);
        for (c, &x) in codes.iter_mut().zip(x) {
            *c = self.level(x, inverse, max) as u8;
        }
    }

    /// Weighted squares of what it and its codes lose.
    #[inline(always)]
    fn loss(self, x: &[f32], w: &[f32], max: f32) -> f32 {
        let inverse = super::recip(self.scale);
        sums(x, w, |x, w| {
            let e = x - self.min - self.scale * self.level(x, inverse, max);
            [w * e * e]
        })[0]
    }

    /// The best line for the codes that this one leads to; its `min` is at most 0 if `negative`.
    #[inline(always)]
    fn refit(self, x: &[f32], w: &[f32], max: f32, negative: bool) -> Line {
        let inverse = super::recip(self.scale);
        let [n, sx, sq, qq, xq] = sums(x, w, |x, w| {
            let q = self.level(x, inverse, max);
            [w, w * x, w * q, w * q * q, w * x * q]
        });
        let determinant = n * qq - sq * sq;
        if determinant <= 0.0 {
            return self;
        }
        let scale = (n * xq - sx * sq) / determinant;
        let min = (sx - scale * sq) / n;
        if negative && min > 0.0 {
            return Line {
                scale: xq / qq,
                min: 0.0,
            };
        }
        Line { scale, min }
    }
}

/// The line that loses least of `x` with codes `0..=max`; its `min` is at most 0 if `negative`.
#[inline(always)]
pub(super) fn line(x: &[f32], w: &[f32], max: f32, negative: bool) -> Line {
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
    let mut best = (spanning.loss(x, w, max), spanning);
    for i in -STEPS..=STEPS {
        let scale = (high - low) / (max + STEP * i as f32);
        // Half of what the span loses goes off each end.
        let min = low + (high - low - scale * max) * 0.5;
        for min in [min, low] {
            better_line(&mut best, Line { scale, min }, x, w, max, negative);
        }
    }
    for _ in 0..REFITS {
        let last = best.1;
        if !better_line(&mut best, last, x, w, max, negative) {
            break;
        }
    }
    best.1
}

/// Refits `line`, and takes it for the best if it loses less.
#[inline(always)]
fn better_line(
    best: &mut (f32, Line),
    line: Line,
    x: &[f32],
    w: &[f32],
    max: f32,
    negative: bool,
) -> bool {
    let fitted = line.refit(x, w, max, negative);
    let loss = fitted.loss(x, w, max);
    let better = loss < best.0 && fitted.scale > 0.0;
    if better {
        *best = (loss, fitted);
    }
    better
}

/// Integer scales of the groups of a block, one factor for all of them.
pub(super) struct Nested<const N: usize> {
    /// The factor, as half precision holds it.
    pub(super) d: f32,
    pub(super) scales: [i8; N],
}

/// Factor and integer scales within `ints` of `N` groups whose codes lie on `grid`.
#[inline(always)]
pub(super) fn nested<const N: usize, G: Grid>(
    x: &[f32],
    w: &[f32],
    grid: G,
    ints: Even,
) -> Nested<N> {
    let mut ideal = [0.0; N];
    for (ideal, (x, w)) in ideal.iter_mut().zip(groups::<N>(x, w)) {
        *ideal = scale(x, w, grid);
    }
    let peak = super::peak(&ideal);
    let zero = Nested {
        d: 0.0,
        scales: [0; N],
    };
    if peak == 0.0 {
        return zero;
    }
    let mut best = with_factor(x, w, grid, ints, &ideal, peak / ints.low);
    for top in [ints.high, ints.low + 1.0, ints.high - 1.0, ints.low + 2.0] {
        let found = with_factor(x, w, grid, ints, &ideal, peak / top);
        if found.0 < best.0 {
            best = found;
        }
    }
    for _ in 0..REFITS {
        let found = with_factor(x, w, grid, ints, &ideal, refit_factor(x, w, grid, &best.1));
        if found.0 >= best.0 {
            break;
        }
        best = found;
    }
    best.1
}

/// The best integers for a factor, and what they lose in all; `ideal` scales of the groups.
#[inline(always)]
fn with_factor<const N: usize, G: Grid>(
    x: &[f32],
    w: &[f32],
    grid: G,
    ints: Even,
    ideal: &[f32; N],
    d: f32,
) -> (f32, Nested<N>) {
    let d = half::f16::from_f32(d).to_f32();
    let mut n = Nested { d, scales: [0; N] };
    let mut total = 0.0;
    let groups = groups::<N>(x, w).zip(ideal);
    for (s, ((x, w), ideal)) in n.scales.iter_mut().zip(groups) {
        let near = ints.level(ideal * super::recip(d));
        let mut best = f32::INFINITY;
        for near in [near, near - 1.0, near + 1.0] {
            if (ints.low..=ints.high).contains(&near) {
                let loss = loss(x, w, grid, d * near);
                if loss < best {
                    (best, *s) = (loss, near as i8);
                }
            }
        }
        total += best;
    }
    (total, n)
}

/// The factor that loses least with the integers and codes of `n`.
#[inline(always)]
fn refit_factor<const N: usize, G: Grid>(x: &[f32], w: &[f32], grid: G, n: &Nested<N>) -> f32 {
    let len = x.len() / N;
    let mut all = [0.0; 2];
    for (g, s) in n.scales.iter().enumerate() {
        let s = f32::from(*s);
        let inverse = super::recip(n.d * s);
        let at = len * g..len * (g + 1);
        let [xl, ll] = sums(&x[at.clone()], &w[at], |x, w| {
            let l = s * grid.level(x * inverse);
            [w * x * l, w * l * l]
        });
        all = [all[0] + xl, all[1] + ll];
    }
    if all[1] > 0.0 { all[0] / all[1] } else { n.d }
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
pub(super) fn nested_lines<const N: usize>(
    x: &[f32],
    w: &[f32],
    max: f32,
    int_max: f32,
) -> NestedLines<N> {
    let mut ideal = [Line::default(); N];
    for (ideal, (x, w)) in ideal.iter_mut().zip(groups::<N>(x, w)) {
        *ideal = line(x, w, max, true);
    }
    let peak = |f: fn(&Line) -> f32| ideal.iter().map(f).fold(0.0, f32::max);
    let peaks = [peak(|l| l.scale), peak(|l| -l.min)];
    let ints = Even {
        low: 0.0,
        high: int_max,
    };
    let mut best = with_factors(x, w, max, ints, &ideal, peaks.map(|p| p / int_max));
    for [top, min_top] in [[0.0, 1.0], [1.0, 0.0], [1.0, 1.0]] {
        let found = with_factors(
            x,
            w,
            max,
            ints,
            &ideal,
            [peaks[0] / (int_max - top), peaks[1] / (int_max - min_top)],
        );
        if found.0 < best.0 {
            best = found;
        }
    }
    for _ in 0..REFITS {
        let found = with_factors(x, w, max, ints, &ideal, refit_factors(x, w, max, &best.1));
        if found.0 >= best.0 {
            break;
        }
        best = found;
    }
    best.1
}

/// The best integers for factors, and what they lose in all; `ideal` lines of the groups.
#[inline(always)]
fn with_factors<const N: usize>(
    x: &[f32],
    w: &[f32],
    max: f32,
    ints: Even,
    ideal: &[Line; N],
    factors: [f32; 2],
) -> (f32, NestedLines<N>) {
    let factors = factors.map(|f| half::f16::from_f32(f).to_f32());
    let mut n = NestedLines {
        factors,
        scales: [0; N],
        mins: [0; N],
    };
    let mut total = 0.0;
    for (g, ((x, w), ideal)) in groups::<N>(x, w).zip(ideal).enumerate() {
        let near_scale = ints.level(ideal.scale * super::recip(factors[0]));
        let near_min = ints.level(-ideal.min * super::recip(factors[1]));
        let mut best = f32::INFINITY;
        for (i, j) in NEIGHBOURS {
            let (s, m) = (near_scale + i, near_min + j);
            if s < 0.0 || s > ints.high || m < 0.0 || m > ints.high {
                continue;
            }
            let line = Line {
                scale: factors[0] * s,
                min: -factors[1] * m,
            };
            let loss = line.loss(x, w, max);
            if loss < best {
                best = loss;
                (n.scales[g], n.mins[g]) = (s as u8, m as u8);
            }
        }
        total += best;
    }
    (total, n)
}

/// Where integers other than the nearest may lose less.
const NEIGHBOURS: [(f32, f32); 9] = [
    (0.0, 0.0),
    (0.0, -1.0),
    (0.0, 1.0),
    (-1.0, 0.0),
    (-1.0, -1.0),
    (-1.0, 1.0),
    (1.0, 0.0),
    (1.0, -1.0),
    (1.0, 1.0),
];

/// The factors that lose least with the integers and codes of `n`.
#[inline(always)]
fn refit_factors<const N: usize>(x: &[f32], w: &[f32], max: f32, n: &NestedLines<N>) -> [f32; 2] {
    let len = x.len() / N;
    let mut all = [0.0f32; 5];
    for g in 0..N {
        let line = n.line(g);
        let inverse = super::recip(line.scale);
        let (s, m) = (f32::from(n.scales[g]), f32::from(n.mins[g]));
        let at = len * g..len * (g + 1);
        let sums = sums(&x[at.clone()], &w[at], |x, w| {
            let q = s * line.level(x, inverse, max);
            [w * q * q, w * q * m, w * m * m, w * x * q, w * x * m]
        });
        all.iter_mut().zip(sums).for_each(|(a, s)| *a += s);
    }
    let [qq, qm, mm, xq, xm] = all;
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
