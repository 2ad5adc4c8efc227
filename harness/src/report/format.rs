//! Numbers as readers see them: four significant digits, a unit, and a dash for what nobody measured.

use super::data::Estimate;
use crate::stats::Interval;

/// What stands where nothing was measured.
pub(super) const MISSING: &str = "–";

/// Four significant digits, thousands apart: `1,820`, `142.3`, `7.025`, `0.0512`.
pub(super) fn number(x: f64) -> String {
    let magnitude = x.abs();
    if magnitude >= 1000.0 {
        return thousands(x);
    }
    let decimals = match magnitude {
        m if m >= 100.0 => 1,
        m if m >= 10.0 => 2,
        m if m >= 1.0 => 3,
        0.0 => 0,
        m => (3 - m.log10().ceil() as i32).clamp(0, 9) as usize + 1,
    };
    format!("{x:.decimals$}")
}

fn thousands(x: f64) -> String {
    let digits = format!("{:.0}", x.abs());
    let mut out = String::from(if x < 0.0 { "-" } else { "" });
    for (i, c) in digits.chars().enumerate() {
        if i > 0 && (digits.len() - i) % 3 == 0 {
            out.push(',');
        }
        out.push(c);
    }
    out
}

/// An integer with thousands apart.
pub(super) fn count(n: u64) -> String {
    thousands(n as f64)
}

/// A number that may be missing.
pub(super) fn maybe(x: Option<f64>) -> String {
    x.map_or_else(|| MISSING.to_owned(), number)
}

/// Bytes with a decimal unit, as bandwidths use: `97.34 MB`.
pub(super) fn decimal_bytes(bytes: f64) -> String {
    let (value, unit) = match bytes {
        b if b >= 1e9 => (b / 1e9, "GB"),
        b if b >= 1e6 => (b / 1e6, "MB"),
        b if b >= 1e3 => (b / 1e3, "kB"),
        b => (b, "B"),
    };
    format!("{} {unit}", number(value))
}

/// A share from 0 to 1 as per cent.
pub(super) fn percent(share: f64) -> String {
    match share * 100.0 {
        p if p >= 9.95 => format!("{p:.0} %"),
        p => format!("{p:.1} %"),
    }
}

/// The median alone, or a dash.
pub(super) fn median(estimate: Option<&Estimate>) -> String {
    maybe(estimate.map(|e| e.median))
}

/// `139.9 to 144.1`, or a dash.
pub(super) fn interval(interval: Option<Interval>) -> String {
    interval.map_or_else(
        || MISSING.to_owned(),
        |i| format!("{} to {}", number(i.low), number(i.high)),
    )
}

/// What the interval is: `94 % interval of the median, N = 5`; or that one value has none.
pub(super) fn interval_kind(estimate: &Estimate) -> String {
    match estimate.interval {
        Some(i) => format!(
            "{:.0} % interval, N\u{a0}=\u{a0}{}",
            i.confidence * 100.0,
            estimate.values.len()
        ),
        None => "N = 1, no interval".to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_have_four_digits() {
        let table = [
            (0.0, "0"),
            (1820.4, "1,820"),
            (1_234_567.0, "1,234,567"),
            (142.34, "142.3"),
            (99.996, "100.00"),
            (70.256, "70.26"),
            (7.0254, "7.025"),
            (0.5, "0.5000"),
            (0.05123, "0.05123"),
            (-3.25, "-3.250"),
            (-4000.0, "-4,000"),
        ];
        for (x, expect) in table {
            assert_eq!(number(x), expect);
        }
    }

    #[test]
    fn bytes_and_shares_have_units() {
        let table = [
            (97_340_000.0, "97.34 MB"),
            (2.16e9, "2.160 GB"),
            (23_040.0, "23.04 kB"),
            (12.0, "12.00 B"),
        ];
        for (bytes, expect) in table {
            assert_eq!(decimal_bytes(bytes), expect);
        }
        assert_eq!(
            (percent(0.9949), percent(0.05), percent(0.0)),
            ("99 %".into(), "5.0 %".into(), "0.0 %".into())
        );
        assert_eq!(maybe(None), MISSING);
    }
}
