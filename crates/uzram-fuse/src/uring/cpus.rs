//! The machine's CPUs: a FUSE connection has a queue for each that is possible, also where most of them are never there.

use std::fs;
use std::io;

use uzram_blockdev::StepError;

/// CPUs that could be there: each has a queue, of its number.
pub(crate) fn possible() -> Result<Vec<u16>, StepError> {
    read("possible")
}

/// CPUs that are there.
pub(crate) fn online() -> Result<Vec<u16>, StepError> {
    read("online")
}

fn read(which: &str) -> Result<Vec<u16>, StepError> {
    let path = format!("/sys/devices/system/cpu/{which}");
    let list = fs::read_to_string(&path).and_then(|text| {
        let wrong = || io::Error::new(io::ErrorKind::InvalidData, "no list of CPUs");
        parse(text.trim())
            .filter(|list| !list.is_empty())
            .ok_or_else(wrong)
    });
    list.map_err(StepError::at(format!("reading {path}")))
}

/// Reads a list such as `0-3,6`.
fn parse(list: &str) -> Option<Vec<u16>> {
    let mut cpus = Vec::new();
    for part in list.split(',').filter(|part| !part.is_empty()) {
        let (first, last) = part.split_once('-').unwrap_or((part, part));
        cpus.extend(first.parse::<u16>().ok()?..=last.parse().ok()?);
    }
    Some(cpus)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lists_are_read() {
        assert_eq!(parse("0-3,6"), Some(vec![0, 1, 2, 3, 6]));
        assert_eq!(parse("0"), Some(vec![0]));
        assert_eq!(parse(""), Some(vec![]));
        assert_eq!(parse("0-"), None);
        assert!(online().unwrap().len() <= possible().unwrap().len());
    }
}
