//! What commands and the daemon ask of a device that runs: its server, its keeper, its description in JSON.
//!
//! A process that died is waited for a moment, since it is about to be started again, unless nobody is left to do so. One
//! that stands still is given up, and does not carry out later what was given up.

use std::io;
use std::os::fd::BorrowedFd;
use std::path::Path;
use std::time::{Duration, Instant};

use schemars::JsonSchema;
use serde::ser::Error as _;
use serde::{Serialize, Serializer};
use uzram_blockdev::Survey;
use uzram_control::stat::Stat;
use uzram_control::{
    DamagedDevice, Deadline, DeviceRecord, Job, KEEPER_SOCKET, Request, Response, RunningDevice,
    SERVER_SOCKET, call_devices,
};
use uzram_spec::{Failure, FailureKind, Result};

use crate::keeper::DOWN;
use crate::users;

/// How long a server that is being started anew is waited for.
const RESTART: Duration = Duration::from_secs(5);
/// How long a server may take to clear its directory after it has answered that it removes the device.
const REMOVAL: Duration = Duration::from_secs(10);

/// How long a survey of all devices waits for each, and for all.
pub const SURVEY: Duration = Duration::from_secs(1);

/// Sends a request to a device's server.
pub fn ask(entry: &RunningDevice, request: &Request) -> Result<Response> {
    ask_at(entry, &entry.socket(), "server", request)
}

/// Has a device's server do what takes long without waiting for that: [`Response::Detached`], or from a server of an older version what
/// came of it.
pub fn ask_detached(entry: &RunningDevice, request: &Request) -> Result<Response> {
    let socket = entry.socket();
    // Whoever is being started anew is waited for, as for any other request.
    ask_at(entry, &socket, "server", &Request::Ping)?;
    let answer = uzram_control::call_detached(&socket, &entry.record.identity, request);
    answered(entry, &socket, "server", answer)
}

/// Has a device's server write a snapshot to a file that is open, the first of these.
pub fn ask_with_files(
    entry: &RunningDevice,
    request: &Request,
    files: &[BorrowedFd<'_>],
) -> Result<Response> {
    let socket = entry.socket();
    // Whoever is being started anew is waited for, as for any other request.
    ask_at(entry, &socket, "server", &Request::Ping)?;
    let identity = &entry.record.identity;
    let answer = uzram_control::call_with_files(&socket, identity, request, files);
    answered(entry, &socket, "server", answer)
}

/// Whether a device has a server, or gets one within a moment.
pub fn serves(entry: &RunningDevice) -> bool {
    ask(entry, &Request::Ping).is_ok()
}

/// Sends a request to a device's keeper.
pub fn ask_keeper(entry: &RunningDevice, request: &Request) -> Result<Response> {
    if entry.record.keeper == 0 {
        let message = format!(
            "{} has no keeper: it runs in the foreground",
            entry.record.name
        );
        return Err(Failure::impossible(message));
    }
    ask_at(entry, &entry.keeper_socket(), "keeper", request)
}

/// Calls a socket of a device, and again for a moment while nobody listens there.
pub(crate) fn call_patiently(
    entry: &RunningDevice,
    socket: &Path,
    request: &Request,
) -> io::Result<Response> {
    let begin = Instant::now();
    loop {
        match uzram_control::call_device(socket, &entry.record.identity, request) {
            Err(error)
                if matches!(
                    error.kind(),
                    io::ErrorKind::ConnectionRefused | io::ErrorKind::NotFound
                ) && !entry.is_gone()
                    && !entry.is_dead()
                    // Where the keeper has given up nobody starts one.
                    && !entry.dir.join(DOWN).exists()
                    && begin.elapsed() < RESTART =>
            {
                std::thread::sleep(Duration::from_millis(10));
            }
            other => return other,
        }
    }
}

fn ask_at(entry: &RunningDevice, socket: &Path, who: &str, request: &Request) -> Result<Response> {
    answered(entry, socket, who, call_patiently(entry, socket, request))
}

/// What came of a request, in words where it failed.
fn answered(
    entry: &RunningDevice,
    socket: &Path,
    who: &str,
    answer: io::Result<Response>,
) -> Result<Response> {
    let name = &entry.record.name;
    let error = match answer {
        Ok(Response::Error(error)) => return Err(error.into()),
        Ok(response) => return Ok(response),
        Err(error) => error,
    };
    if entry.is_gone() {
        return Err(Failure::no_device(format!("{name} is gone")));
    }
    if let Some(failure) = death(entry) {
        return Err(failure);
    }
    let failure = silent(entry, who, &error);
    if error.kind() == io::ErrorKind::TimedOut {
        return Err(failure);
    }
    let kind = failure.kind;
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

/// What whoever finds a process that stands still can do.
fn what_helps(entry: &RunningDevice, who: &str) -> Option<String> {
    let DeviceRecord { pid, keeper, .. } = entry.record;
    match (who, keeper) {
        ("server", 0) => Some(format!("kill -CONT {pid} lets it go on, if it was stopped")),
        ("server", _) => Some(format!(
            "kill -CONT {pid} lets it go on, if it was stopped; kill -KILL {pid} has its keeper start another one, which loses nothing"
        )),
        (_, 0) => None,
        (_, keeper) => Some(format!(
            "kill -CONT {keeper} lets it go on, if it was stopped"
        )),
    }
}

/// The failure of a process that does not answer.
fn silent(entry: &RunningDevice, who: &str, error: &io::Error) -> Failure {
    let message = format!(
        "the {who} of {} does not answer: {error}",
        entry.record.name
    );
    let failure = Failure::new(FailureKind::from_io(error), message);
    let help = what_helps(entry, who).filter(|_| error.kind() == io::ErrorKind::TimedOut);
    match help {
        Some(help) => failure.with_hint(help),
        None => failure,
    }
}

/// What is to be said of a device that nobody can serve again: what is left of it, and who still uses that.
pub(crate) fn death(entry: &RunningDevice) -> Option<Failure> {
    if !entry.is_dead() {
        return None;
    }
    let (name, path) = (&entry.record.name, &entry.record.path);
    let lost = format!("server and keeper of {name} have died, and its contents are lost");
    let by = users::users(&Survey::new(), entry);
    let failure = match by.is_empty() {
        true => Failure::no_device(lost),
        false => Failure::busy(format!("{lost}; {path} is still {by}")),
    };
    Some(failure.with_hint("uzram list clears what is left of it"))
}

/// Takes down a device whose record is damaged, by whoever answers for it: server, or keeper where that is dead. Says in words
/// what was done to whom. Refused as [`remove_by_force`] is.
pub fn remove_damaged(device: &DamagedDevice) -> Result<Vec<String>> {
    let sockets = [SERVER_SOCKET, KEEPER_SOCKET].map(|name| device.dir.join(name));
    let mut answers = sockets
        .iter()
        .map(|socket| uzram_control::call(socket, &Request::RemoveByForce));
    let what = match answers.find(io::Result::is_ok) {
        Some(Ok(Response::Error(error))) => return Err(error.into()),
        Some(Ok(Response::Did { what })) => what,
        Some(_) => Vec::new(),
        None => {
            let message = format!("{device}, and nobody answers there");
            let end = format!("to give the device up, kill all at once: {}", device.pids());
            return Err(Failure::failed(message).with_hint(end));
        }
    };
    wait_until(&device.name, || !device.dir.exists())?;
    Ok(what)
}

/// Waits until a device that was taken down is gone.
fn wait_until(name: &str, is_gone: impl Fn() -> bool) -> Result {
    let begin = Instant::now();
    while !is_gone() {
        if begin.elapsed() > REMOVAL {
            let message = format!("the server of {name} does not end");
            return Err(Failure::failed(message));
        }
        std::thread::sleep(Duration::from_millis(2));
    }
    Ok(())
}

/// Whether another server takes the place of one that died. What is asked too soon still ends up with the dead one.
fn serves_again(entry: &RunningDevice, socket: &Path) -> bool {
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
pub fn stat(entry: &RunningDevice) -> Result<Stat> {
    match ask(entry, &Request::Stat)? {
        Response::Stat(stat) => Ok(*stat),
        other => Err(unexpected(entry, &other)),
    }
}

/// Asks the servers of all these devices at once for their statistics. None is waited for longer than [`SURVEY`]. The
/// answers stand in the order of the devices.
pub fn survey(entries: &[RunningDevice]) -> Vec<Result<Stat>> {
    let whole = Some(SURVEY);
    let asked = ask_all(entries, &Request::Stat, whole);
    let pick = |(entry, answer)| match answer {
        Ok(Response::Stat(stat)) => Ok(*stat),
        Ok(other) => Err(unexpected(entry, &other)),
        Err(failure) => Err(failure),
    };
    entries.iter().zip(asked).map(pick).collect()
}

/// What takes long on each of these devices, what is worked on and what waits; all are asked at once, as in [`survey`].
pub fn jobs(entries: &[RunningDevice]) -> Vec<Result<Vec<Job>>> {
    let asked = ask_all(entries, &Request::Jobs, Some(SURVEY));
    let pick = |(entry, answer)| match answer {
        Ok(Response::Jobs { jobs }) => Ok(jobs),
        Ok(other) => Err(unexpected(entry, &other)),
        Err(failure) => Err(failure),
    };
    entries.iter().zip(asked).map(pick).collect()
}

/// How many pages of each of these devices are marked idle; `None` where the server does not say. They are counted now, by
/// all servers at once, which takes as long as it takes.
pub fn count_idle(entries: &[RunningDevice]) -> Vec<Option<u64>> {
    let pick = |answer| match answer {
        Ok(Response::Marked { pages }) => Some(pages),
        _ => None,
    };
    let asked = ask_all(entries, &Request::CountIdle, None);
    asked.into_iter().map(pick).collect()
}

/// Asks the servers of all these devices at once. One that gives no sign of life within [`SURVEY`] is given up.
fn ask_all(
    entries: &[RunningDevice],
    request: &Request,
    whole: Option<Duration>,
) -> Vec<Result<Response>> {
    let device = |entry: &RunningDevice| (entry.socket(), entry.record.identity.clone());
    let devices: Vec<_> = entries.iter().map(device).collect();
    let deadline = Deadline {
        silence: SURVEY,
        whole,
        restart: true,
    };
    let pick = |(entry, answer): (&RunningDevice, io::Result<Response>)| match answer {
        Ok(Response::Error(error)) => Err(error.into()),
        Ok(response) => Ok(response),
        Err(error) => Err(match death(entry) {
            Some(death) => death,
            None => silent(entry, "server", &error),
        }),
    };
    let answers = call_devices(&devices, request, deadline);
    entries.iter().zip(answers).map(pick).collect()
}

/// The failure of an answer that belongs to another request.
pub fn unexpected(entry: &RunningDevice, answer: &Response) -> Failure {
    let name = &entry.record.name;
    Failure::failed(format!("the server of {name} answered {answer:?}"))
}

/// Takes a device down and waits until its directory is gone.
/// Returns what was left behind, in words.
pub fn remove(entry: &RunningDevice) -> Result<Vec<String>> {
    done(take_down(entry, &Request::Remove)?)
}

fn done(response: Response) -> Result<Vec<String>> {
    match response {
        Response::Did { what } => Ok(what),
        _ => Ok(Vec::new()),
    }
}

/// Takes a device down although clients are connected or a dead node is in use. Says in words what was done to whom.
/// Refused as [`remove`] is while a file system is mounted on the device.
pub fn remove_by_force(entry: &RunningDevice) -> Result<Vec<String>> {
    done(take_down(entry, &Request::RemoveByForce)?)
}

fn take_down(entry: &RunningDevice, request: &Request) -> Result<Response> {
    // Where no server can be started the keeper does it. One that stands still is there, and would go on.
    let socket = entry.socket();
    let answer = match call_patiently(entry, &socket, &Request::Ping) {
        Err(error) if error.kind() == io::ErrorKind::TimedOut => {
            return Err(silent(entry, "server", &error));
        }
        Err(_) if entry.record.keeper != 0 => ask_keeper(entry, request)?,
        _ => ask(entry, request)?,
    };
    wait_until(&entry.record.name, || entry.is_gone())?;
    Ok(answer)
}

/// A device as JSON tells of it, to users of the commands and of the API.
#[derive(Debug, Serialize, JsonSchema)]
pub struct DescribedDevice {
    #[serde(flatten, serialize_with = "without_version")]
    #[schemars(with = "DeviceRecord")]
    record: DeviceRecord,
    #[serde(flatten)]
    stat: Option<Stat>,
    /// Why there are no statistics: its server does not answer.
    #[serde(skip_serializing_if = "Option::is_none")]
    error: Option<String>,
    /// Where it is mounted, and `[SWAP]` where it is swapped to.
    mountpoints: Vec<String>,
    /// Who uses it, in words.
    users: Vec<String>,
}

/// What is known of a device, its statistics and its users. One survey serves all devices.
pub fn describe(survey: &Survey, entry: &RunningDevice, stat: &Result<Stat>) -> DescribedDevice {
    let users = users::users(survey, entry);
    DescribedDevice {
        record: entry.record.clone(),
        stat: stat.as_ref().ok().cloned(),
        error: stat.as_ref().err().map(Failure::to_string),
        mountpoints: users.mount_points(true),
        users: users.0.iter().map(|by| format!("{by:#}")).collect(),
    }
}

fn without_version<S: Serializer>(
    record: &DeviceRecord,
    to: S,
) -> std::result::Result<S::Ok, S::Error> {
    let mut value = serde_json::to_value(record).map_err(S::Error::custom)?;
    if let Some(object) = value.as_object_mut() {
        object.remove("version");
    }
    value.serialize(to)
}

#[cfg(test)]
mod tests {
    use super::*;
    use uzram::{BackingInfo, CodecStats, CutProgress};
    use uzram_spec::answer_schema_of;
    use uzram_testkit::schema::fits;

    /// With all that may be there, and without it.
    #[test]
    fn a_described_device_is_what_its_schema_says() {
        let record: DeviceRecord = serde_json::from_str(
            r#"{"version":1,"name":"zram0","pid":1,"frontend":"nbd","path":"nbd://","program":"0"}"#,
        )
        .unwrap();
        let mut codec = CodecStats::default();
        codec.priorities.push(0);
        codec.generation = Some(serde_json::from_str("{}").unwrap());
        let stat = Stat {
            writeback_limit: Some(1),
            backing: Some(BackingInfo {
                path: "/x".into(),
                io: "io_uring".into(),
                stats: serde_json::from_str("{}").unwrap(),
                store: Some(serde_json::from_str("{}").unwrap()),
            }),
            codecs: vec![codec],
            poll_microseconds: Some(1),
            transport: Some("io_uring".into()),
            snapshot: Some(CutProgress::default()),
            tracked_since: Some(String::new()),
            handed_over: Some(String::new()),
            clients: Some(1),
            ..Stat::default()
        };
        let all = DescribedDevice {
            record: record.clone(),
            stat: Some(stat),
            error: None,
            mountpoints: vec!["/mnt".into()],
            users: vec!["it".into()],
        };
        let silent = DescribedDevice {
            record,
            stat: None,
            error: Some("silent".into()),
            mountpoints: Vec::new(),
            users: Vec::new(),
        };
        let schema = answer_schema_of::<DescribedDevice>();
        for device in [all, silent] {
            let json = serde_json::to_value(device).unwrap();
            assert_eq!(fits(&schema, &json), Ok(()), "{json:#}");
            assert_eq!(json.get("version"), None);
        }
    }
}
