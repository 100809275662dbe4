//! The commands, one file each, and what several of them need.

pub(crate) mod algorithms;
pub(crate) mod create;
pub(crate) mod list;
pub(crate) mod remove;
pub(crate) mod reset;
pub(crate) mod stat;

use std::io;

use uzram_control::stat::Stat;
use uzram_control::{Entry, Request, Response};

use crate::exit::{Failure, Kind, Result};

/// Sends a request to a device's server.
fn ask(entry: &Entry, request: &Request) -> Result<Response> {
    let name = &entry.record.name;
    match uzram_control::call(&entry.socket(), request) {
        Ok(Response::Error(error)) => Err(error.into()),
        Ok(response) => Ok(response),
        Err(error) => {
            let kind = match error.kind() {
                io::ErrorKind::PermissionDenied => Kind::Impossible,
                _ => Kind::Failed,
            };
            Err(Failure::new(
                kind,
                format!("the server of {name} does not answer: {error}"),
            ))
        }
    }
}

/// A device's statistics.
fn stat_of(entry: &Entry) -> Result<Stat> {
    match ask(entry, &Request::Stat)? {
        Response::Stat(stat) => Ok(*stat),
        other => {
            let name = &entry.record.name;
            Err(Failure::new(
                Kind::Failed,
                format!("the server of {name} answered {other:?}"),
            ))
        }
    }
}

/// A device and its statistics as one JSON object.
fn to_json(entry: &Entry, stat: &Stat) -> Result<serde_json::Value> {
    let failed = |error: serde_json::Error| Failure::new(Kind::Failed, error);
    let mut object = serde_json::to_value(&entry.record).map_err(failed)?;
    let stat = serde_json::to_value(stat).map_err(failed)?;
    if let (Some(object), serde_json::Value::Object(stat)) = (object.as_object_mut(), stat) {
        object.remove("version");
        object.extend(stat);
        object.insert(
            "mountpoints".into(),
            mount_point(entry).into_iter().collect(),
        );
    }
    Ok(object)
}

/// Where a device is mounted, or `[SWAP]`.
fn mount_point(entry: &Entry) -> Option<String> {
    match uzram_blockdev::busy(std::path::Path::new(&entry.record.path))? {
        uzram_blockdev::Busy::Mounted(at) => Some(at.display().to_string()),
        uzram_blockdev::Busy::Swap => Some("[SWAP]".into()),
        _ => None,
    }
}

/// Prints JSON and a newline.
fn print_json(value: &serde_json::Value) -> Result {
    let text = serde_json::to_string_pretty(value).map_err(|e| Failure::new(Kind::Failed, e))?;
    print(&format!("{text}\n"))
}

/// Writes to stdout. Whoever reads it may stop early: no failure.
fn print(text: &str) -> Result {
    match io::Write::write_all(&mut io::stdout().lock(), text.as_bytes()) {
        Err(error) if error.kind() != io::ErrorKind::BrokenPipe => Err(error.into()),
        _ => Ok(()),
    }
}
