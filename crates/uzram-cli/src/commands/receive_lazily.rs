//! `uzram receive` of a device that is sent with `--lazy`: it is there at once, and this process passes on what its server still
//! needs from the other side, until all is here.
//!
//! A server that is killed meanwhile is given another socket. If this process ends, the device goes on without what is missing,
//! until another one takes the connection up.

use std::fs::File;
use std::io::{Read, Write};
use std::os::fd::{AsFd, AsRawFd};
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::sync::mpsc::{self, Receiver, Sender};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use uzram_control::{Request, Response, RunDir, RunningDevice};
use uzram_runtime::handover::{self, Hello, Message, MessageKind, SlotsFile};
use uzram_runtime::{client, process};
use uzram_spec::{SentSpec, printable_line};

use super::create::Options;
use super::peer::Duplex;
use super::{print, unexpected};
use crate::exit::{self, Failure, Result};

/// How long a server that does not come back is waited for.
const RETURN: Duration = Duration::from_secs(60);
/// And how often it is looked for.
const LOOK: Duration = Duration::from_millis(200);

/// What is heard of both sides beside what passes through.
enum Heard {
    /// The device is this host's.
    Commit,
    /// The connection ended.
    Ended(String),
    /// The server has all.
    AllThere,
    /// The device is gone, or its server, or that asks by another connection.
    Gone(Failure),
}

fn lock<T>(of: &Mutex<T>) -> MutexGuard<'_, T> {
    of.lock().unwrap_or_else(PoisonError::into_inner)
}

/// What passes on between the connection and the device's server.
struct Relay {
    id: String,
    /// What the server needs to know of the codecs.
    description: Vec<u8>,
    out: Mutex<Box<dyn Write + Send>>,
    server: Mutex<Option<UnixStream>>,
    say: Mutex<Sender<Heard>>,
}

/// Takes a device over by a connection of which the magic was read. `is_told` says whether its path is printed here, where the
/// connection is not stdout.
pub(super) fn run(
    connection: Duplex,
    is_told: bool,
    options: Options,
    remote_timeout_seconds: Option<u32>,
    log: &str,
) -> Result {
    let Duplex { mut from, to, end } = connection;
    let (say, heard) = mpsc::channel();
    let relay = |id: &str, description| {
        Arc::new(Relay {
            id: id.into(),
            description,
            out: Mutex::new(to),
            server: Mutex::default(),
            say: Mutex::new(say),
        })
    };
    // A small one may be, before it is known to be this host's.
    let mut all_there = false;
    let hello = Hello::parse(&next(&mut from, MessageKind::Hello)?)?;
    let description = next(&mut from, MessageKind::Description)?;
    let relay = match hello.again {
        true => {
            next(&mut from, MessageKind::End)?;
            let relay = relay(&hello.id, description);
            let gone_on = go_on(&relay, &hello, from, is_told);
            gone_on.inspect_err(|failure| relay.refuse(failure))?;
            relay
        }
        false => {
            let described = Described::read(&mut from, &hello, &description)?;
            let relay = relay(&hello.id, description);
            let sent = SentSpec {
                id: hello.id.clone(),
                by: hello.by().into(),
                slots: described.slots.1.clone(),
            };
            let path = described.description.1.clone();
            let made =
                options.take_over_lazily(path, sent, remote_timeout_seconds, log, |created| {
                    let entry = RunDir::of_user().find(&created.name)?;
                    relay.start(entry, from)?;
                    relay.say(MessageKind::Ready, created.path.as_bytes())?;
                    all_there = await_commit(&heard)?;
                    // It is this host's now, whoever reads the path.
                    if is_told && let Err(failure) = told(&created.path) {
                        exit::tell(failure);
                    }
                    Ok(())
                });
            made.inspect_err(|failure| relay.refuse(failure))?;
            relay
        }
    };
    if !all_there {
        wait(&heard, &hello).inspect_err(|failure| relay.refuse(failure))?;
    }
    relay.say(MessageKind::AllThere, b"")?;
    Ok(end.finish()?)
}

/// The next message, which must be of a kind.
fn next(from: &mut impl Read, kind: MessageKind) -> Result<Vec<u8>> {
    match Message::read(from) {
        Ok(Some(message)) if message.kind == kind => Ok(message.bytes),
        Ok(None) => Err(Failure::failed(
            "the other side ended before it had said what it sends",
        )),
        Ok(Some(message)) => Err(Failure::failed(format!(
            "the other side says {:?} where {kind:?} belongs",
            message.kind
        ))),
        Err(error) => Err(Failure::failed(format!("the other side: {error}"))),
    }
}

/// Files of this process that the new device's server reads.
struct Described {
    description: (File, PathBuf),
    slots: (File, PathBuf),
}

impl Described {
    fn read(from: &mut impl Read, hello: &Hello, description: &[u8]) -> Result<Described> {
        let first = next(from, MessageKind::First)?;
        let slots = in_memory()?;
        let mut runs = SlotsFile::new(&slots.0, &first)?;
        loop {
            match Message::read(from) {
                Ok(Some(message)) if message.kind == MessageKind::Slots => {
                    runs.add(&message.bytes)?
                }
                Ok(Some(message)) if message.kind == MessageKind::End => break,
                Ok(_) => return Err(Failure::failed("the other side ended in the middle")),
                Err(error) => return Err(Failure::failed(format!("the other side: {error}"))),
            }
        }
        let own = in_memory()?;
        (&own.0).write_all(description)?;
        let bytes = uzram_control::size::human(hello.stored_bytes);
        exit::tell(format!(
            "{}: {} pages hold something, {bytes} compressed",
            hello.by(),
            hello.held_pages
        ));
        Ok(Described {
            description: own,
            slots,
        })
    }
}

/// A file of memory, and the path by which other processes open it as long as this one lives.
fn in_memory() -> Result<(File, PathBuf)> {
    let file = rustix::fs::memfd_create("uzram", rustix::fs::MemfdFlags::CLOEXEC);
    let file = File::from(file.map_err(std::io::Error::from)?);
    let path = format!("/proc/{}/fd/{}", std::process::id(), file.as_raw_fd());
    Ok((file, path.into()))
}

/// Takes up the connection for a device that is there.
fn go_on(relay: &Arc<Relay>, hello: &Hello, from: Box<dyn Read + Send>, is_told: bool) -> Result {
    let entry = handover::find(&RunDir::of_user(), &hello.id)?.ok_or_else(|| {
        Failure::no_device(format!(
            "no device here is what {} was handed over to: it is on another host, or gone",
            hello.by()
        ))
    })?;
    let path = entry.record.path.clone();
    relay.start(entry, from)?;
    relay.say(MessageKind::Ready, path.as_bytes())?;
    match is_told {
        true => told(&path),
        false => Ok(()),
    }
}

fn told(path: &str) -> Result {
    print(&format!("{}\n", printable_line(path)))
}

/// Waits for the other side's word that the device is this host's. Returns whether all of it has come meanwhile.
fn await_commit(heard: &Receiver<Heard>) -> Result<bool> {
    let mut all_there = false;
    loop {
        match heard.recv() {
            Ok(Heard::Commit) => return Ok(all_there),
            Ok(Heard::AllThere) => all_there = true,
            Ok(Heard::Ended(why)) => {
                let message = format!("the other side did not hand it over: {why}");
                return Err(Failure::failed(message));
            }
            Ok(Heard::Gone(failure)) => return Err(failure),
            Err(_) => return Err(Failure::failed("the thread that listens has died")),
        }
    }
}

/// Waits until all is here.
fn wait(heard: &Receiver<Heard>, hello: &Hello) -> Result {
    loop {
        match heard.recv() {
            Ok(Heard::AllThere) => return Ok(()),
            Ok(Heard::Commit) => {}
            Ok(Heard::Ended(why)) => {
                let message = format!(
                    "{}, which has what is still missing here: {why}",
                    hello.by()
                );
                let hint = "\"uzram send --lazy\" there and \"uzram receive\" here once more go on with it; until then what needs it fails";
                return Err(Failure::failed(message).with_hint(hint));
            }
            Ok(Heard::Gone(failure)) => return Err(failure),
            Err(_) => return Err(Failure::failed("the threads that pass on have died")),
        }
    }
}

impl Relay {
    fn say(&self, kind: MessageKind, bytes: &[u8]) -> Result {
        let said = Message::new(kind, bytes).write(&mut *lock(&self.out));
        said.map_err(|error| Failure::failed(format!("the other side is gone: {error}")))
    }

    /// Tells the other side why there is no device.
    fn refuse(&self, failure: &Failure) {
        let _ = self.say(MessageKind::Refused, failure.message.as_bytes());
    }

    fn tell(&self, heard: Heard) {
        let _ = lock(&self.say).send(heard);
    }

    /// Passes on from now on, by two threads.
    fn start(self: &Arc<Relay>, entry: RunningDevice, mut from: Box<dyn Read + Send>) -> Result {
        let mut server = self.connect(&entry)?;
        let own = self.clone();
        process::spawn("server", move || {
            loop {
                if let Some(why) = own.pass_questions(&mut server) {
                    return own.tell(Heard::Gone(Failure::busy(why)));
                }
                *lock(&own.server) = None;
                match own.reconnect(&entry) {
                    Ok(next) => server = next,
                    Err(failure) => return own.tell(Heard::Gone(failure)),
                }
            }
        })?;
        let own = self.clone();
        process::spawn("listen", move || {
            let ended = loop {
                match Message::read(&mut from) {
                    Ok(Some(message)) => own.pass_answer(&message),
                    Ok(None) => break "the connection has ended".into(),
                    Err(error) => break format!("the connection: {error}"),
                }
            };
            own.tell(Heard::Ended(ended));
        })?;
        Ok(())
    }

    fn pass_answer(&self, message: &Message) {
        match message.kind {
            MessageKind::Commit => self.tell(Heard::Commit),
            MessageKind::Frames | MessageKind::Failed => {
                if let Some(mut server) = lock(&self.server).as_ref() {
                    // Whoever dies asks again.
                    let _ = message.write(&mut server);
                }
            }
            _ => {}
        }
    }

    /// Passes on what a server asks until it ends, or says why it will ask nothing more.
    fn pass_questions(&self, server: &mut UnixStream) -> Option<String> {
        while let Ok(Some(message)) = Message::read(server) {
            match message.kind {
                MessageKind::AllThere => self.tell(Heard::AllThere),
                MessageKind::Fetch | MessageKind::FetchAhead => {
                    // Where this fails the other thread hears why.
                    let _ = message.write(&mut *lock(&self.out));
                }
                MessageKind::Refused => return Some(message.words()),
                _ => {}
            }
        }
        None
    }

    /// Gives the server a socket, and says what it needs to know.
    fn connect(&self, entry: &RunningDevice) -> Result<UnixStream> {
        let (own, theirs) = UnixStream::pair()?;
        let id = self.id.clone();
        let request = Request::TakeFrames { id };
        match client::ask_with_files(entry, &request, &[theirs.as_fd()])? {
            Response::Done => {}
            other => return Err(unexpected(entry, &other)),
        }
        drop(theirs);
        let description = Message::new(MessageKind::Description, &self.description[..]);
        description.write(&mut &own)?;
        *lock(&self.server) = Some(own.try_clone()?);
        Ok(own)
    }

    /// The same of the next server, where one comes.
    fn reconnect(&self, entry: &RunningDevice) -> Result<UnixStream> {
        let begin = Instant::now();
        loop {
            if entry.is_gone() {
                let message = format!(
                    "{} was removed before all of it was here",
                    entry.record.name
                );
                return Err(Failure::no_device(message));
            }
            match self.connect(entry) {
                Ok(server) => return Ok(server),
                Err(failure) if begin.elapsed() > RETURN => return Err(failure),
                Err(_) => std::thread::sleep(LOOK),
            }
        }
    }
}
