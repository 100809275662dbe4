//! What a process of a device tells the one that started it: one line of JSON on its stdout for each report.

use std::io::{self, BufRead, Write};

use serde::{Deserialize, Serialize};
use uzram_spec::{Failure, Result};

/// A report.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum StartReport {
    /// Something that whoever makes the device should know.
    Note(String),
    /// The device is served.
    Ready {
        /// Its name.
        name: String,
        /// Its node or URI.
        path: String,
    },
    /// The device cannot be served.
    Failed(Failure),
    /// From a standby: it has forked a server of that process number.
    Forked(u32),
    /// From a standby: that server has ended.
    Ended(u32),
}

/// What a process of a device ends with: its failure is logged and reported, and the exit code is that of its kind.
pub(crate) fn exit_code(result: Result) -> u8 {
    let Err(failure) = result else { return 0 };
    tracing::error!("{failure}");
    let code = failure.kind.exit_code();
    let _ = StartReport::Failed(failure).send();
    code
}

impl StartReport {
    /// Writes it to stdout.
    pub(crate) fn send(&self) -> io::Result<()> {
        let mut line = serde_json::to_vec(self)?;
        line.push(b'\n');
        let mut stdout = io::stdout().lock();
        stdout.write_all(&line)?;
        stdout.flush()
    }

    /// Reads the next one; `None` at the end, or where what comes is none.
    pub(crate) fn read(from: &mut impl BufRead) -> io::Result<Option<StartReport>> {
        let mut line = String::new();
        from.read_line(&mut line)?;
        if line.is_empty() {
            return Ok(None);
        }
        serde_json::from_str(&line).map(Some).map_err(|error| {
            let message = format!("'{}' is no report: {error}", line.trim_end());
            io::Error::new(io::ErrorKind::InvalidData, message)
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reports_read_back_and_nonsense_is_named() {
        let all = [
            StartReport::Note("a\nb".into()),
            StartReport::Ready {
                name: "zram0".into(),
                path: "/dev/loop0".into(),
            },
            StartReport::Failed(Failure::busy("in use").with_hint("umount")),
            StartReport::Forked(7),
        ];
        let lines: String = all
            .iter()
            .map(|report| serde_json::to_string(report).unwrap() + "\n")
            .collect();
        let mut lines = lines.as_bytes();
        for report in all {
            assert_eq!(StartReport::read(&mut lines).unwrap(), Some(report));
        }
        assert_eq!(StartReport::read(&mut lines).unwrap(), None);
        let error = StartReport::read(&mut &b"/dev/loop0\n"[..]).unwrap_err();
        assert!(error.to_string().contains("/dev/loop0"), "{error}");
    }
}
