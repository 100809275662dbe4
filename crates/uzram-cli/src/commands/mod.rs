//! The commands, one file each, and what several of them need.

pub(crate) mod algorithms;
pub(crate) mod bench;
pub(crate) mod check_image;
pub(crate) mod choice;
pub(crate) mod compact;
pub(crate) mod create;
pub(crate) mod daemon;
pub(crate) mod get;
pub(crate) mod help;
pub(crate) mod idle;
pub(crate) mod list;
pub(crate) mod man;
pub(crate) mod policy;
pub(crate) mod promote;
pub(crate) mod recompress;
pub(crate) mod recover;
pub(crate) mod remove;
pub(crate) mod reset;
pub(crate) mod set;
pub(crate) mod shim;
pub(crate) mod stat;
pub(crate) mod sysfs;
pub(crate) mod train;
pub(crate) mod ublk_owner;
pub(crate) mod upgrade;
pub(crate) mod writeback;

use std::io;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use uzram_control::stat::Stat;
use uzram_control::zram::View;
use uzram_control::{Entry, Request, Response, RunDir};
use uzram_daemon::{Client, SOCKET};

use crate::daemon::Local;
use crate::exit::{Failure, Kind, Result};
use crate::sweep;

/// zram's interface to the devices: the daemon's, or one of this process where none runs.
fn view() -> Result<Arc<dyn View>> {
    let run = sweep::swept_run_dir()?;
    if let Some(daemon) = Client::find(&run.file(SOCKET)) {
        return Ok(Arc::new(daemon));
    }
    let auto = crate::frontends::Choice::default();
    Ok(Local::new(run, auto, true, None))
}

/// How long a server that is being started anew is waited for.
const PATIENCE: Duration = Duration::from_secs(5);

/// The devices of these names, or all.
fn all_or(run: &RunDir, all: bool, names: &[String]) -> Result<Vec<Entry>> {
    Ok(match all {
        true => run.devices()?,
        false => names
            .iter()
            .map(|name| run.find(name))
            .collect::<std::result::Result<_, _>>()?,
    })
}

/// Does it to each, whatever happens to the others. All failures are said; the last one's kind is the exit code.
fn for_each<T>(entries: &[T], work: impl Fn(&T) -> Result) -> Result {
    let mut failures: Vec<Failure> = entries.iter().filter_map(|e| work(e).err()).collect();
    let Some(last) = failures.pop() else {
        return Ok(());
    };
    for failure in failures {
        eprintln!("uzram: {failure}");
    }
    Err(last)
}

/// Sends a request to a device's server.
fn ask(entry: &Entry, request: &Request) -> Result<Response> {
    ask_at(entry, &entry.socket(), "server", request)
}

/// Whether a device has a server, or gets one within a moment.
fn serves(entry: &Entry) -> bool {
    ask(entry, &Request::Ping).is_ok()
}

/// Sends a request to a device's keeper.
fn ask_keeper(entry: &Entry, request: &Request) -> Result<Response> {
    if entry.record.keeper == 0 {
        let message = format!(
            "{} has no keeper: it runs in the foreground",
            entry.record.name
        );
        return Err(Failure::new(Kind::Impossible, message));
    }
    ask_at(entry, &entry.keeper_socket(), "keeper", request)
}

/// Calls a socket of a device. A process that died is waited for a moment: it is about to be started again.
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
                    && begin.elapsed() < PATIENCE =>
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
    let kind = match error.kind() {
        io::ErrorKind::PermissionDenied => Kind::Impossible,
        _ => Kind::Failed,
    };
    let mut message = format!("the {who} of {name} does not answer: {error}");
    if who == "server" && kind == Kind::Failed && entry.record.keeper != 0 {
        let log = entry.dir.join("log");
        if died(&error) && serves_again(entry, socket) {
            let message = format!(
                "the server of {name} died before it had answered, and was started anew: nothing that was stored is \
                 lost, and the same command again does the rest (see {})",
                log.display()
            );
            return Err(Failure::new(kind, message));
        }
        message += &format!(
            " (see {}; its contents are kept: uzram recover {name})",
            log.display()
        );
    }
    Err(Failure::new(kind, message))
}

/// Whether another server takes the place of one that died. What is asked too soon still ends up with the dead one.
fn serves_again(entry: &Entry, socket: &Path) -> bool {
    let begin = Instant::now();
    loop {
        match call_patiently(entry, socket, &Request::Ping) {
            Ok(_) => return true,
            Err(error) if died(&error) && begin.elapsed() < PATIENCE => {
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

/// A device's statistics.
pub(crate) fn stat_of(entry: &Entry) -> Result<Stat> {
    match ask(entry, &Request::Stat)? {
        Response::Stat(stat) => Ok(*stat),
        other => Err(unexpected(entry, &other)),
    }
}

/// An answer that belongs to another request.
fn unexpected(entry: &Entry, answer: &Response) -> Failure {
    let name = &entry.record.name;
    Failure::new(
        Kind::Failed,
        format!("the server of {name} answered {answer:?}"),
    )
}

/// Numbers of pages on a command line: FIRST-LAST, or one. The last is not included here.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Pages((u64, u64));

impl std::str::FromStr for Pages {
    type Err = String;

    fn from_str(text: &str) -> std::result::Result<Pages, String> {
        let (first, last) = text.split_once('-').unwrap_or((text, text));
        let number = |text: &str| {
            text.parse::<u64>()
                .ok()
                .filter(|n| *n <= u64::from(u32::MAX))
        };
        match (number(first), number(last)) {
            (Some(first), Some(last)) if first <= last => Ok(Pages((first, last + 1))),
            _ => Err("give page numbers as FIRST-LAST, such as 0-1023, or one number".into()),
        }
    }
}

/// A device and its statistics as one JSON object.
pub(crate) fn to_json(entry: &Entry, stat: &Stat) -> Result<serde_json::Value> {
    let mut object = to_value(&entry.record)?;
    let stat = to_value(stat)?;
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

fn to_value(value: &impl serde::Serialize) -> Result<serde_json::Value> {
    serde_json::to_value(value).map_err(|error| Failure::new(Kind::Failed, error))
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn page_numbers_are_read_and_nonsense_is_not() {
        assert_eq!("7".parse(), Ok(Pages((7, 8))));
        assert_eq!("0-1023".parse(), Ok(Pages((0, 1024))));
        for text in ["", "-", "3-", "-3", "4-3", "0x10", "99999999999"] {
            assert!(text.parse::<Pages>().is_err(), "{text}");
        }
    }
}
