//! What commands and the daemon ask of a device that runs: its server, its keeper, its description in JSON.
//!
//! A process that died is waited for a moment, since it is about to be started again, unless nobody is left to do so.

use std::io;
use std::path::Path;
use std::time::{Duration, Instant};

use serde_json::Value;
use uzram_blockdev::Survey;
use uzram_control::stat::Stat;
use uzram_control::{Entry, Request, Response};
use uzram_spec::{Failure, FailureKind, Result};

use crate::users;

/// How long a server that is being started anew is waited for.
const RESTART: Duration = Duration::from_secs(5);
/// How long a server may take to clear its directory after it has answered that it removes the device.
const REMOVAL: Duration = Duration::from_secs(10);

/// Sends a request to a device's server.
pub fn ask(entry: &Entry, request: &Request) -> Result<Response> {
    ask_at(entry, &entry.socket(), "server", request)
}

/// Whether a device has a server, or gets one within a moment.
pub fn serves(entry: &Entry) -> bool {
    ask(entry, &Request::Ping).is_ok()
}

/// Sends a request to a device's keeper.
pub fn ask_keeper(entry: &Entry, request: &Request) -> Result<Response> {
    if entry.record.keeper == 0 {
        let message = format!(
            "{} has no keeper: it runs in the foreground",
            entry.record.name
        );
        return Err(Failure::new(FailureKind::Impossible, message));
    }
    ask_at(entry, &entry.keeper_socket(), "keeper", request)
}

/// Calls a socket of a device, and again for a moment while nobody listens there.
pub(crate) fn call_patiently(
    entry: &Entry,
    socket: &Path,
    request: &Request,
) -> io::Result<Response> {
    let begin = Instant::now();
    loop {
        match uzram_control::call(socket, request) {
            Err(error)
                if matches!(
                    error.kind(),
                    io::ErrorKind::ConnectionRefused | io::ErrorKind::NotFound
                ) && entry.dir.exists()
                    && !entry.is_dead()
                    && begin.elapsed() < RESTART =>
            {
                std::thread::sleep(Duration::from_millis(10));
            }
            other => return other,
        }
    }
}

fn ask_at(entry: &Entry, socket: &Path, who: &str, request: &Request) -> Result<Response> {
    let name = &entry.record.name;
    let error = match call_patiently(entry, socket, request) {
        Ok(Response::Error(error)) => return Err(error.into()),
        Ok(response) => return Ok(response),
        Err(error) => error,
    };
    if let Some(failure) = death(entry) {
        return Err(failure);
    }
    let kind = FailureKind::from_io(&error);
    let message = format!("the {who} of {name} does not answer: {error}");
    let failure = Failure::new(kind, message);
    if who != "server" || kind != FailureKind::Failed || entry.record.keeper == 0 {
        return Err(failure);
    }
    let log = entry.dir.join("log");
    if died(&error) && serves_again(entry, socket) {
        let message = format!(
            "the server of {name} died before it had answered, and was started anew: nothing that was stored is \
             lost, and the same command again does the rest"
        );
        return Err(Failure::new(kind, message).with_hint(format!("see {}", log.display())));
    }
    Err(failure.with_hint(format!(
        "see {}; its contents are kept: uzram recover {name}",
        log.display()
    )))
}

/// What is to be said of a device that nobody can serve again.
pub(crate) fn death(entry: &Entry) -> Option<Failure> {
    let message = format!(
        "server and keeper of {} have died and nobody holds its memory: its contents are lost",
        entry.record.name
    );
    entry.is_dead().then(|| {
        Failure::new(FailureKind::NoDevice, message)
            .with_hint("uzram list clears what is left of it")
    })
}

/// Whether another server takes the place of one that died. What is asked too soon still ends up with the dead one.
fn serves_again(entry: &Entry, socket: &Path) -> bool {
    let begin = Instant::now();
    loop {
        match call_patiently(entry, socket, &Request::Ping) {
            Ok(_) => return true,
            Err(error) if died(&error) && begin.elapsed() < RESTART => {
                std::thread::sleep(Duration::from_millis(10));
            }
            Err(_) => return false,
        }
    }
}

/// Whether a connection broke off, which is what happens when who is at its other end dies.
fn died(error: &io::Error) -> bool {
    use io::ErrorKind::{BrokenPipe, ConnectionReset, UnexpectedEof};
    [BrokenPipe, ConnectionReset, UnexpectedEof].contains(&error.kind())
}

/// Reads a device's statistics.
pub fn stat(entry: &Entry) -> Result<Stat> {
    match ask(entry, &Request::Stat)? {
        Response::Stat(stat) => Ok(*stat),
        other => Err(unexpected(entry, &other)),
    }
}

/// The failure of an answer that belongs to another request.
pub fn unexpected(entry: &Entry, answer: &Response) -> Failure {
    let name = &entry.record.name;
    Failure::new(
        FailureKind::Failed,
        format!("the server of {name} answered {answer:?}"),
    )
}

/// Takes a device down and waits until its directory is gone.
pub fn remove(entry: &Entry) -> Result {
    take_down(entry, &Request::Remove).map(drop)
}

/// Takes a device down although NBD clients are connected or a dead node is in use. Says in words what was done to whom.
/// Refused as [`remove`] is while a file system is mounted on the device.
pub fn remove_by_force(entry: &Entry) -> Result<Vec<String>> {
    match take_down(entry, &Request::RemoveByForce)? {
        Response::Did { what } => Ok(what),
        _ => Ok(Vec::new()),
    }
}

fn take_down(entry: &Entry, request: &Request) -> Result<Response> {
    // Where no server can be started the keeper does it.
    let answer = if entry.record.keeper == 0 || serves(entry) {
        ask(entry, request)?
    } else {
        ask_keeper(entry, request)?
    };
    let begin = Instant::now();
    while entry.dir.exists() {
        if begin.elapsed() > REMOVAL {
            let message = format!("the server of {} does not end", entry.record.name);
            return Err(Failure::new(FailureKind::Failed, message));
        }
        std::thread::sleep(Duration::from_millis(2));
    }
    Ok(answer)
}

/// A device, its statistics and its users as one JSON object. One survey serves all devices.
pub fn to_json(survey: &Survey, entry: &Entry, stat: &Stat) -> Result<Value> {
    let value = |what: serde_json::Result<Value>| {
        what.map_err(|error| Failure::new(FailureKind::Failed, error))
    };
    let mut object = value(serde_json::to_value(&entry.record))?;
    let stat = value(serde_json::to_value(stat))?;
    if let (Some(object), Value::Object(stat)) = (object.as_object_mut(), stat) {
        object.remove("version");
        object.extend(stat);
        let users = users::users(survey, entry);
        let mounts = users.mount_points(true);
        object.insert("mountpoints".into(), mounts.into());
        let words = users.0.iter().map(|by| format!("{by:#}"));
        object.insert("users".into(), words.collect());
    }
    Ok(object)
}
