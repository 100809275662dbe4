//! How short times are written.

use std::time::Duration;

/// Writes a time in the largest unit that leaves at least 1 of it, in at most five characters: `1.2us`, `34ms`.
pub fn short_time(time: Duration) -> String {
    let (mut value, mut unit) = (time.as_nanos() as f64, "ns");
    for larger in ["us", "ms", "s"] {
        if value < 999.5 {
            break;
        }
        (value, unit) = (value / 1000.0, larger);
    }
    match value {
        ..9.95 if unit != "ns" => format!("{value:.1}{unit}"),
        _ => format!("{value:.0}{unit}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_have_two_digits_at_least() {
        for (ns, text) in [
            (1, "1ns"),
            (999, "999ns"),
            (1_000, "1.0us"),
            (12_345, "12us"),
            (999_600, "1.0ms"),
            (17_000_000_000, "17s"),
        ] {
            assert_eq!(short_time(Duration::from_nanos(ns)), text);
        }
    }
}
