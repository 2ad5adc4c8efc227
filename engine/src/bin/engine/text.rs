//! Words for people: sizes, counts, and what can go wrong with standard streams.

use engine::Error;

/// `bytes` with a decimal unit: `97.4 MB`.
pub(crate) fn bytes(bytes: u64) -> String {
    scaled(bytes as f64, &["B", "kB", "MB", "GB", "TB"])
}

/// A count with a decimal unit: `134.5 M`.
pub(crate) fn count(count: u64) -> String {
    scaled(count as f64, &["", "k", "M", "G", "T"])
}

fn scaled(mut value: f64, units: &[&str]) -> String {
    let mut unit = 0;
    while value >= 999.95 && unit + 1 < units.len() {
        value /= 1000.0;
        unit += 1;
    }
    let digits = if unit == 0 { 0 } else { 1 };
    format!("{value:.digits$} {}", units[unit])
        .trim_end()
        .to_string()
}

/// The error of writing to standard output.
pub(crate) fn stdout_error(source: std::io::Error) -> Error {
    Error::Io {
        action: "write",
        path: "standard output".into(),
        source,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_and_counts() {
        let check = |value, expect_bytes: &str, expect_count: &str| {
            assert_eq!(bytes(value), expect_bytes);
            assert_eq!(count(value), expect_count);
        };
        check(0, "0 B", "0");
        check(999, "999 B", "999");
        check(1000, "1.0 kB", "1.0 k");
        check(98_362_432, "98.4 MB", "98.4 M");
        check(999_999, "1.0 MB", "1.0 M");
        check(8_253_000_000, "8.3 GB", "8.3 G");
    }
}
