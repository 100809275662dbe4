//! Logs through `tracing`: to stderr, or to a device's log file once its server is in the background.

use std::fs::{File, OpenOptions};
use std::os::fd::IntoRawFd;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::sync::Mutex;

use rustix::fs::OFlags;
use tracing_subscriber::EnvFilter;
use tracing_subscriber::fmt::MakeWriter;

use crate::exit::{Failure, Kind, Result};

/// Begins logging to stderr with that filter.
pub(crate) fn to_stderr(filter: &str) -> Result {
    start(filter, std::io::stderr)
}

/// Opens a device's log.
pub(crate) fn open(path: &Path) -> Result<File> {
    let mut options = OpenOptions::new();
    Ok(options.create(true).append(true).mode(0o600).open(path)?)
}

/// Begins logging to a file.
pub(crate) fn to_file(filter: &str, file: File) -> Result {
    start(filter, Mutex::new(file))
}

/// Begins logging to a pipe whose other end the keeper writes to the file, for swap devices: a page of the file may be
/// swapped out, and who waits for that is waiting for the server. A server that is killed while one of its threads waits
/// for itself could never be followed by another. What does not fit the pipe is lost.
pub(crate) fn to_pipe(filter: &str, pipe: LogPipe) -> Result {
    to_file(filter, pipe.writer()?)
}

/// Both ends of such a pipe: descriptors that every process of a device inherits.
#[derive(Debug, Clone, Copy)]
pub(crate) struct LogPipe {
    read: i32,
    write: i32,
}

impl LogPipe {
    /// Makes one that lasts as long as this process and those that it starts.
    pub(crate) fn new() -> Result<LogPipe> {
        let (read, write) = rustix::pipe::pipe().map_err(std::io::Error::from)?;
        Ok(LogPipe {
            read: read.into_raw_fd(),
            write: write.into_raw_fd(),
        })
    }

    /// Another way in, which never waits.
    pub(crate) fn writer(self) -> Result<File> {
        let mut options = OpenOptions::new();
        options
            .write(true)
            .custom_flags(OFlags::NONBLOCK.bits() as i32);
        Ok(options.open(of_fd(self.write))?)
    }

    /// Writes to a file what comes, in a thread of its own.
    pub(crate) fn drain_to(self, mut file: File) -> Result {
        let mut lines = File::open(of_fd(self.read))?;
        let work = move || std::io::copy(&mut lines, &mut file);
        std::thread::Builder::new().name("log".into()).spawn(work)?;
        Ok(())
    }
}

fn of_fd(fd: i32) -> String {
    format!("/proc/self/fd/{fd}")
}

impl std::fmt::Display for LogPipe {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{},{}", self.read, self.write)
    }
}

impl std::str::FromStr for LogPipe {
    type Err = String;

    fn from_str(text: &str) -> std::result::Result<LogPipe, String> {
        let ends = text.split_once(',').and_then(|(read, write)| {
            let read = read.parse().ok()?;
            Some(LogPipe {
                read,
                write: write.parse().ok()?,
            })
        });
        ends.ok_or_else(|| "two descriptors, such as 5,6".into())
    }
}

fn start<W>(filter: &str, writer: W) -> Result
where
    W: for<'w> MakeWriter<'w> + Send + Sync + 'static,
{
    let filter = parse(filter)?;
    tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_ansi(false)
        .with_writer(writer)
        .init();
    Ok(())
}

/// Checks a filter without beginning to log.
pub(crate) fn parse(filter: &str) -> Result<EnvFilter> {
    EnvFilter::try_new(filter)
        .map_err(|error| Failure::new(Kind::Usage, format!("--log '{filter}': {error}")))
}
