//! How a device is to be connected.

use std::time::Duration;

use crate::Error;

/// Longest name in bytes.
const MAX_NAME: usize = 200;

/// How a device is to be connected.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Options {
    /// What tells this device from any other: the kernel keeps it as `uzram:NAME` (where it can: 5.13 and newer),
    /// and only who knows it takes the device over. It must be unique on the machine, as the path of a directory is.
    pub name: String,
    /// Which `/dev/nbdN` to take; `None` (the default) takes a free one.
    pub index: Option<u32>,
    /// Connections, each of which becomes a hardware queue (default: the number of CPUs, at most 4). There is at
    /// least one and at most one for each CPU. A takeover makes as many as there were.
    pub connections: usize,
    /// How long requests wait for a server when all connections are dead, before they fail (default 60 seconds).
    /// The kernel counts whole seconds; with 0 they fail at once and the device does not outlive its server.
    pub dead_conn_timeout: Duration,
    /// After how long without a reply the kernel gives up a connection and sends its requests again, through
    /// another or when there is one. `None` (the default) is the kernel's rule, 30 seconds.
    ///
    /// After a server's death it decides how long a request that the old server had received waits. A short time
    /// is dangerous all the same: a server that is only slow may execute a write that was sent again and has
    /// been overtaken by a later one.
    pub request_timeout: Option<Duration>,
}

impl Options {
    /// The defaults, for a device of this name.
    pub fn new(name: impl Into<String>) -> Options {
        Options {
            name: name.into(),
            index: None,
            connections: cpus().min(4),
            dead_conn_timeout: Duration::from_secs(60),
            request_timeout: None,
        }
    }

    /// What the kernel keeps.
    pub(crate) fn identifier(&self) -> String {
        format!("uzram:{}", self.name)
    }

    pub(crate) fn check(&self) -> Result<(), Error> {
        let reason = if self.name.is_empty() {
            "it is empty"
        } else if self.name.len() > MAX_NAME {
            "it has more than 200 bytes"
        } else if self.name.chars().any(char::is_control) || self.name.trim() != self.name {
            "it has control characters, or blanks around it"
        } else {
            return Ok(());
        };
        Err(Error::Name {
            name: self.name.clone(),
            reason,
        })
    }

    /// The connections to make: the kernel makes no more queues than CPUs.
    pub(crate) fn connections(&self) -> usize {
        self.connections.clamp(1, cpus())
    }
}

fn cpus() -> usize {
    std::thread::available_parallelism().map_or(1, usize::from)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_what_one_line_of_sysfs_can_hold() {
        for good in ["zram0", "a b", "\u{e4}"] {
            Options::new(good).check().unwrap();
        }
        for bad in ["", "a\n", "a\0b", " a", &"x".repeat(201)] {
            let error = Options::new(bad).check().unwrap_err();
            assert!(matches!(error, Error::Name { .. }), "{error}");
        }
        assert_eq!(Options::new("zram0").identifier(), "uzram:zram0");
    }

    #[test]
    fn there_is_a_connection_and_never_more_than_cpus() {
        let mut options = Options::new("x");
        for (asked, made) in [(0, 1), (1, 1), (usize::MAX, cpus())] {
            options.connections = asked;
            assert_eq!(options.connections(), made);
        }
    }
}
