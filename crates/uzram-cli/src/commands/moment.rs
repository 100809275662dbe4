//! How a moment is written.

use std::time::{Duration, SystemTime};

use humantime::format_rfc3339_seconds;

/// Seconds since 1970 as `2026-11-30 00:53:20Z`, as long as years have four digits.
pub(super) fn time(seconds: u64) -> String {
    /// The first second of the year 10000.
    const TOO_LATE: u64 = 253_402_300_800;
    let moment = SystemTime::UNIX_EPOCH.checked_add(Duration::from_secs(seconds));
    match moment.filter(|_| seconds < TOO_LATE) {
        Some(moment) => format_rfc3339_seconds(moment).to_string().replace('T', " "),
        None => format!("{seconds} s after 1970"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn moments_are_those_of_date() {
        for (seconds, said) in [
            (0, "1970-01-01 00:00:00Z"),
            (951_782_400, "2000-02-29 00:00:00Z"),
            (253_402_300_799, "9999-12-31 23:59:59Z"),
            // A damaged head may say anything.
            (253_402_300_800, "253402300800 s after 1970"),
            (u64::MAX, "18446744073709551615 s after 1970"),
        ] {
            assert_eq!(time(seconds), said);
        }
    }
}
