//! Logs through `tracing`: to stderr, or to a device's log file once its server is in the background.

use std::fs::File;
use std::sync::Mutex;

use tracing_subscriber::EnvFilter;
use tracing_subscriber::fmt::MakeWriter;

use crate::exit::{Failure, Kind, Result};

/// Begins logging to stderr with that filter.
pub(crate) fn to_stderr(filter: &str) -> Result {
    start(filter, std::io::stderr)
}

/// Begins logging to a file.
pub(crate) fn to_file(filter: &str, file: File) -> Result {
    start(filter, Mutex::new(file))
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
