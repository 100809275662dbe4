//! The settings of a device's connection.

use std::time::Duration;

use crate::Error;

/// Longest name in bytes.
const MAX_NAME: usize = 200;

/// The settings of a device's connection.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct KernelNbdOptions {
    /// Tells this device from any other. Kernels from 5.13 on keep it as `uzram:NAME`, and only a process that knows it can
    /// take the device over. It must be unique on the machine, as the path of a directory is.
    pub name: String,
    /// N of `/dev/nbdN`. `None` (the default) takes a free one.
    pub index: Option<u32>,
    /// Connections, each of which becomes a hardware queue (default: the number of CPUs, at most 4). At least one and at most
    /// one for each CPU are made. A takeover makes as many as there were.
    pub connections: usize,
    /// How long requests wait for a server when all connections are dead, before they fail (default 60 seconds). The kernel
    /// counts whole seconds. With 0 requests fail at once, and the device does not outlive its server.
    pub dead_conn_timeout: Duration,
    /// After how long without a reply the kernel gives up a connection and sends its requests again through another. `None`
    /// (the default) is the kernel's rule, 30 seconds.
    ///
    /// After a server's death this is how long a request waits that the old server had received. A short time is dangerous
    /// all the same: a server that is merely slow may execute a write that was sent again and that a later write has
    /// overtaken.
    pub request_timeout: Option<Duration>,
}

impl KernelNbdOptions {
    /// The defaults for a device of this name.
    pub fn new(name: impl Into<String>) -> KernelNbdOptions {
        KernelNbdOptions {
            name: name.into(),
            index: None,
            connections: cpus().min(4),
            dead_conn_timeout: Duration::from_secs(60),
            request_timeout: None,
        }
    }

    /// The name as the kernel keeps it.
    pub(crate) fn identifier(&self) -> String {
        format!("uzram:{}", self.name)
    }

    pub(crate) fn check(&self) -> Result<(), Error> {
        let fits = (1..=MAX_NAME).contains(&self.name.len());
        let plain = !self.name.chars().any(char::is_control) && self.name.trim() == self.name;
        if fits && plain {
            return Ok(());
        }
        Err(Error::Name {
            name: self.name.clone(),
            longest: MAX_NAME,
        })
    }

    /// How many connections to make: the kernel makes no more queues than CPUs.
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
            KernelNbdOptions::new(good).check().unwrap();
        }
        for bad in ["", "a\n", "a\0b", " a", &"x".repeat(201)] {
            let error = KernelNbdOptions::new(bad).check().unwrap_err();
            assert!(matches!(error, Error::Name { .. }), "{error}");
        }
        assert_eq!(KernelNbdOptions::new("zram0").identifier(), "uzram:zram0");
    }

    #[test]
    fn there_is_a_connection_and_never_more_than_cpus() {
        let mut options = KernelNbdOptions::new("x");
        for (asked, made) in [(0, 1), (1, 1), (usize::MAX, cpus())] {
            options.connections = asked;
            assert_eq!(options.connections(), made);
        }
    }
}
