//! Logs through `tracing`: to stderr, or to a device's log file once its server is in the background.

use std::fs::{File, OpenOptions};
use std::os::fd::IntoRawFd;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::sync::Mutex;

use rustix::fs::OFlags;
use tracing_subscriber::EnvFilter;
use tracing_subscriber::fmt::MakeWriter;

use uzram_spec::{Failure, FailureKind, Result};

/// Begins logging to stderr with that filter.
pub fn to_stderr(filter: &str) -> Result {
    start(filter, std::io::stderr)
}

/// Opens a device's log.
pub fn open(path: &Path) -> Result<File> {
    let mut options = OpenOptions::new();
    Ok(options.create(true).append(true).mode(0o600).open(path)?)
}

/// Begins logging to a file.
pub fn to_file(filter: &str, file: File) -> Result {
    start(filter, Mutex::new(file))
}

/// Begins logging to a pipe whose other end the keeper writes to the file, for swap devices: a page of the file may be
/// swapped out, and who waits for that is waiting for the server. A server that is killed while one of its threads waits
/// for itself could never be followed by another. What does not fit the pipe is lost.
pub fn to_pipe(filter: &str, pipe: LogPipe) -> Result {
    to_file(filter, pipe.writer()?)
}

/// Both ends of such a pipe: descriptors that every process of a device inherits.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct LogPipe {
    read: i32,
    write: i32,
}

impl LogPipe {
    /// Makes one that lasts as long as this process and those that it starts.
    pub fn new() -> Result<LogPipe> {
        let (read, write) = rustix::pipe::pipe().map_err(std::io::Error::from)?;
        Ok(LogPipe {
            read: read.into_raw_fd(),
            write: write.into_raw_fd(),
        })
    }

    /// Another way in, which never waits.
    pub fn writer(self) -> Result<File> {
        let mut options = OpenOptions::new();
        options
            .write(true)
            .custom_flags(OFlags::NONBLOCK.bits() as i32);
        Ok(options.open(fd_path(self.write))?)
    }

    /// Writes to a file what comes, in a thread of its own.
    pub fn drain_to(self, mut file: File) -> Result {
        let mut lines = File::open(fd_path(self.read))?;
        let work = move || std::io::copy(&mut lines, &mut file);
        std::thread::Builder::new().name("log".into()).spawn(work)?;
        Ok(())
    }
}

fn fd_path(fd: i32) -> String {
    format!("/proc/self/fd/{fd}")
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
pub fn parse(filter: &str) -> Result<EnvFilter> {
    EnvFilter::try_new(filter)
        .map_err(|error| Failure::new(FailureKind::Usage, format!("--log '{filter}': {error}")))
}
