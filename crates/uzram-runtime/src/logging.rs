//! Logs through `tracing`: to stderr, or to a device's log file once its server is in the background.
//!
//! No client fills a disk with what it makes a process log: `line` cuts what is long, `repeats` counts what comes again, and
//! `journal` has a maximum.

mod journal;
mod line;
mod repeats;

use std::fs::{File, OpenOptions};
use std::io::{self, BufRead, BufReader, Read, Write};
use std::os::fd::IntoRawFd;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::Instant;

use rustix::fs::OFlags;
use tracing_subscriber::EnvFilter;
use tracing_subscriber::fmt::MakeWriter;
use tracing_subscriber::fmt::format::Writer;
use tracing_subscriber::fmt::time::{FormatTime, SystemTime};

use uzram_spec::{Failure, Result};

use crate::process;

pub use journal::Journal;
use repeats::{Repeats, WINDOW};

/// Begins logging to stderr with that filter.
pub fn to_stderr(filter: &str) -> Result {
    start(filter, Log::new(LogTarget::Stderr))
}

/// Opens a device's log for what a child writes there before it logs by itself.
pub fn open(path: &Path) -> Result<File> {
    let mut options = OpenOptions::new();
    Ok(options.create(true).append(true).mode(0o600).open(path)?)
}

/// Begins logging to a file.
pub fn to_file(filter: &str, journal: Journal) -> Result {
    start(filter, Log::new(LogTarget::File(journal)))
}

/// Begins logging to a pipe whose other end the keeper writes to the file, for swap devices: a page of the file may be
/// swapped out, and who waits for that is waiting for the server. A server that is killed while one of its threads waits
/// for itself could never be followed by another. What does not fit the pipe is lost.
pub fn to_pipe(filter: &str, pipe: LogPipe) -> Result {
    start(filter, Log::new(LogTarget::Pipe(pipe.writer()?)))
}

/// Writes what was counted and not written: to be called before this process ends or becomes another program.
pub fn flush() {
    if let Some(log) = LOG.get() {
        log.lines().end();
    }
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

    /// Writes to a log file what comes, in a thread of its own.
    pub fn drain_to(self, journal: Journal) -> Result {
        let mut pipe = BufReader::new(File::open(fd_path(self.read))?);
        let log = Log::new(LogTarget::File(journal));
        log.tell_in_time()?;
        let work = move || {
            let mut line = Vec::new();
            // A line without end is taken in parts.
            while let Ok(1..) = (&mut pipe as &mut dyn BufRead)
                .take(line::LINE as u64)
                .read_until(b'\n', &mut line)
            {
                log.lines().take(&line);
                line.clear();
            }
        };
        Ok(process::spawn("log", work)?)
    }
}

fn fd_path(fd: i32) -> String {
    format!("/proc/self/fd/{fd}")
}

fn start(filter: &str, log: Log) -> Result {
    let filter = parse(filter)?;
    // The first is the process's own.
    let _ = LOG.set(log.clone());
    log.tell_in_time()?;
    tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_ansi(false)
        .without_time()
        .fmt_fields(line::fields())
        .with_writer(log)
        .init();
    Ok(())
}

/// Checks a filter without beginning to log.
pub fn parse(filter: &str) -> Result<EnvFilter> {
    EnvFilter::try_new(filter).map_err(|error| Failure::usage(format!("--log '{filter}': {error}")))
}

/// The log of this process.
static LOG: OnceLock<Log> = OnceLock::new();

/// Where lines go.
enum LogTarget {
    Stderr,
    File(Journal),
    /// To the keeper, which counts, and knows the time.
    Pipe(File),
}

impl LogTarget {
    /// Writes a line. Nobody can be told of one that cannot be written.
    fn write(&mut self, line: &str) {
        let mut text = String::with_capacity(line.len() + 32);
        if !matches!(self, LogTarget::Pipe(_)) {
            let _ = SystemTime.format_time(&mut Writer::new(&mut text));
            text.push(' ');
        }
        text.push_str(line);
        text.push('\n');
        let _ = match self {
            LogTarget::Stderr => io::stderr().lock().write_all(text.as_bytes()),
            LogTarget::File(journal) => journal.append(text.as_bytes()),
            LogTarget::Pipe(pipe) => pipe.write_all(text.as_bytes()),
        };
    }
}

/// A place and what was counted on the way to it.
struct Lines {
    place: LogTarget,
    repeats: Repeats,
}

impl Lines {
    fn take(&mut self, line: &[u8]) {
        let line = line::clean(line);
        let Lines { place, repeats } = self;
        match place {
            LogTarget::Pipe(_) => place.write(&line),
            _ => repeats.take(&line, Instant::now(), &mut |line| place.write(line)),
        }
    }

    fn end_windows(&mut self) {
        let Lines { place, repeats } = self;
        repeats.end_windows(Instant::now(), &mut |line| place.write(line));
    }

    fn end(&mut self) {
        let Lines { place, repeats } = self;
        repeats.tell_all(&mut |line| place.write(line));
    }
}

#[derive(Clone)]
struct Log(Arc<(Mutex<Lines>, Condvar)>);

impl Log {
    fn new(place: LogTarget) -> Log {
        let lines = Lines {
            place,
            repeats: Repeats::default(),
        };
        Log(Arc::new((Mutex::new(lines), Condvar::new())))
    }

    fn lines(&self) -> LinesGuard<'_> {
        let lines = self.0.0.lock().unwrap_or_else(PoisonError::into_inner);
        LinesGuard {
            lines,
            owes: &self.0.1,
        }
    }

    /// Writes counts when their time comes, from a thread of its own that sleeps as long as there are none.
    fn tell_in_time(&self) -> Result {
        if matches!(self.lines().place, LogTarget::Pipe(_)) {
            return Ok(());
        }
        let log = self.clone();
        let work = move || {
            let (lines, owes) = &*log.0;
            loop {
                let guard = lines.lock().unwrap_or_else(PoisonError::into_inner);
                let waited = owes.wait_while(guard, |lines| !lines.repeats.owes());
                drop(waited);
                std::thread::sleep(WINDOW);
                log.lines().end_windows();
            }
        };
        Ok(process::spawn("log-counts", work)?)
    }
}

/// The lines, locked. Unlocked, they wake who writes counts if there are some.
struct LinesGuard<'a> {
    lines: MutexGuard<'a, Lines>,
    owes: &'a Condvar,
}

impl std::ops::Deref for LinesGuard<'_> {
    type Target = Lines;

    fn deref(&self) -> &Lines {
        &self.lines
    }
}

impl std::ops::DerefMut for LinesGuard<'_> {
    fn deref_mut(&mut self) -> &mut Lines {
        &mut self.lines
    }
}

impl Drop for LinesGuard<'_> {
    fn drop(&mut self) {
        if self.lines.repeats.owes() {
            self.owes.notify_one();
        }
    }
}

/// One event's line: `tracing` writes it at once.
struct Event<'a>(&'a Log);

impl Write for Event<'_> {
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        self.0.lines().take(line);
        Ok(line.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl<'w> MakeWriter<'w> for Log {
    type Writer = Event<'w>;

    fn make_writer(&'w self) -> Event<'w> {
        Event(self)
    }
}
