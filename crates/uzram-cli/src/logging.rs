//! Logs through `tracing`: to stderr, or to a device's log file once its server is in the background.

use std::fs::File;
use std::sync::{Mutex, PoisonError};

use tracing_appender::non_blocking::WorkerGuard;
use tracing_subscriber::EnvFilter;
use tracing_subscriber::fmt::MakeWriter;

use crate::exit::{Failure, Kind, Result};

/// The thread that writes.
static ASIDE: Mutex<Option<WorkerGuard>> = Mutex::new(None);

/// Begins logging to stderr with that filter.
pub(crate) fn to_stderr(filter: &str) -> Result {
    start(filter, std::io::stderr)
}

/// Begins logging to a file. `aside`: from a thread of its own, since who logs may be the one that the file's pages are
/// waiting for (they may be swapped out).
pub(crate) fn to_file(filter: &str, file: File, aside: bool) -> Result {
    if !aside {
        return start(filter, Mutex::new(file));
    }
    let (writer, guard) = tracing_appender::non_blocking(file);
    *ASIDE.lock().unwrap_or_else(PoisonError::into_inner) = Some(guard);
    start(filter, writer)
}

/// Writes what is not written yet, at the end of the process.
pub(crate) fn finish() {
    drop(ASIDE.lock().unwrap_or_else(PoisonError::into_inner).take());
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
