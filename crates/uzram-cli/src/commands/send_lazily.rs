//! `uzram send --lazy`: the other side's device begins at once, and this one has what it still needs.
//!
//! This process passes on what the device's server says, and has answered by it what the other side asks for, until that has all
//! of it. What requests there wait for has threads of its own. A server that is killed meanwhile is asked anew: the next one
//! knows that the device was handed over. If this process ends, nothing is lost: the same command again goes on.

use std::io::{Read, Write};
use std::net::Shutdown;
use std::os::fd::AsFd;
use std::os::unix::net::UnixStream;
use std::sync::mpsc::{self, Receiver, RecvTimeoutError, Sender};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use uzram_control::{Request, Response, RunningDevice};
use uzram_runtime::handover::{self, MAGIC, Message, MessageKind};
use uzram_runtime::{client, process};

use super::peer::Duplex;
use super::send::OtherSide;
use super::{print, unexpected};
use crate::exit::{self, Failure, Result};

/// Threads that have answered what requests wait for, and as many for the rest.
const THREADS: usize = 2;

/// What the other side says beside what it asks for.
enum Heard {
    /// Its device is there.
    Ready(String),
    /// It will not be, or is gone.
    Refused(String),
    /// It has all.
    AllThere,
    /// The connection ended.
    Ended(String),
}

/// Where all that goes to the other side is written.
type Out = Arc<Mutex<Box<dyn Write + Send>>>;

fn lock<T>(of: &Mutex<T>) -> MutexGuard<'_, T> {
    of.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Hands a device over, or goes on with one that was handed over under a name.
pub(super) fn run(
    entry: RunningDevice,
    handed_over: Option<String>,
    mut other: OtherSide,
    patience: Duration,
) -> Result {
    let again = handed_over.is_some();
    let id = handed_over.map_or_else(handover::new_id, Ok)?;
    let entry = Arc::new(entry);
    let Duplex { from, to, end } = other.duplex()?;
    let out: Out = Arc::new(Mutex::new(to));
    let begin = Instant::now();
    let (own, theirs) = UnixStream::pair()?;
    let request = Request::SendLazily {
        id: id.clone(),
        again,
    };
    let asked = {
        let entry = entry.clone();
        std::thread::spawn(move || client::ask_with_files(&entry, &request, &[theirs.as_fd()]))
    };
    let answer = move || match asked.join() {
        Ok(answer) => answer,
        Err(_) => Err(Failure::failed("the thread that asks has died")),
    };
    let give_up = |own: &UnixStream, failure: Failure, answer: &dyn Fn() -> Option<Failure>| {
        // The server waits for a word, or for room.
        let _ = own.shutdown(Shutdown::Both);
        answer().unwrap_or(failure)
    };
    let answer = Mutex::new(Some(answer));
    let answered = || lock(&answer).take().map(|answer| answer());
    // What the server refuses is why nothing came from it. That nobody listens is not.
    let refusal = |is_own: bool| {
        let failure = answered().and_then(std::result::Result::err);
        failure.filter(|_| is_own)
    };
    // Writes wait from here on, also where the other side takes nothing.
    let passed = {
        let (own, out) = (own.try_clone()?, out.clone());
        let (say, passed) = mpsc::channel();
        process::spawn("describe", move || drop(say.send(pass_on(&own, &out))))?;
        passed.recv_timeout(patience).unwrap_or_else(|_| {
            Err(Some(Failure::failed(format!(
                "the other side has taken nothing for {} s; nothing has changed here",
                patience.as_secs()
            ))))
        })
    };
    if let Err(failure) = passed {
        let is_own = failure.is_none();
        let failure = failure.unwrap_or_else(|| {
            Failure::failed(format!(
                "the server of {} says nothing more",
                entry.record.name
            ))
        });
        return Err(give_up(&own, failure, &|| refusal(is_own)));
    }
    let heard = listen(from, &entry, &id, &out)?;
    let path = match ready(&heard, begin, patience) {
        Ok(path) => path,
        Err(failure) if again => return Err(unfinished(&entry, &failure.message)),
        Err(failure) => {
            let failure = Failure {
                message: format!("{}; nothing has changed here", failure.message),
                ..failure
            };
            return Err(give_up(&own, failure, &|| refusal(false)));
        }
    };
    if !again {
        // Where this fails the server has died, and its answer says so.
        let _ = (&own).write_all(b"k");
        match answered() {
            Some(Ok(Response::Done)) => {}
            Some(Ok(other)) => return Err(unexpected(&entry, &other)),
            Some(Err(failure)) if client::stat(&entry)?.handed_over.as_deref() != Some(&id) => {
                return Err(failure);
            }
            _ => {}
        }
        let told = Message::new(MessageKind::Commit, []).write(&mut *lock(&out));
        told.map_err(|error| unfinished(&entry, &error.to_string()))?;
        exit::tell(format!(
            "{} is handed over: writes waited {:.0} ms, and the other side fetches what it needs from here",
            entry.record.name,
            begin.elapsed().as_secs_f64() * 1000.0
        ));
    }
    print(&format!("{path}\n"))?;
    loop {
        match heard.recv() {
            Ok(Heard::AllThere) => break,
            Ok(Heard::Ready(_)) => {}
            Ok(Heard::Refused(why) | Heard::Ended(why)) => return Err(unfinished(&entry, &why)),
            Err(_) => return Err(unfinished(&entry, "the thread that listens has died")),
        }
    }
    exit::tell(format!(
        "the other side has all of {} after {:.1} s",
        entry.record.name,
        begin.elapsed().as_secs_f64()
    ));
    for what in client::remove_by_force(&entry)? {
        exit::tell(format!("{}: {what}", entry.record.name));
    }
    drop(out);
    // It knows that it has all.
    let _ = end.finish();
    Ok(())
}

/// What is left to do where the other side has not all.
fn unfinished(entry: &RunningDevice, why: &str) -> Failure {
    let name = &entry.record.name;
    let message = format!(
        "{name} was handed over, and the other side has not said that it has all of it: {why}. What is missing there is kept here"
    );
    let hint = format!(
        "uzram send {name} --lazy again goes on with it; uzram send {name} --take-back is for an other side that is lost"
    );
    Failure::failed(message).with_hint(hint)
}

/// Passes on what the server says of the device. Fails without a reason where the server ended it.
fn pass_on(own: &UnixStream, out: &Out) -> std::result::Result<(), Option<Failure>> {
    let refused = |error: std::io::Error| {
        let message =
            format!("the other side takes nothing more: {error}; nothing has changed here");
        Some(Failure::failed(message))
    };
    lock(out).write_all(&MAGIC).map_err(refused)?;
    loop {
        let message = Message::read(&mut &*own).ok().flatten().ok_or(None)?;
        message.write(&mut *lock(out)).map_err(refused)?;
        if message.kind == MessageKind::End {
            return Ok(());
        }
    }
}

/// Waits for the path of the other side's device.
fn ready(heard: &Receiver<Heard>, begin: Instant, patience: Duration) -> Result<String> {
    match heard.recv_timeout(patience.saturating_sub(begin.elapsed())) {
        Ok(Heard::Ready(path)) => Ok(path),
        Ok(Heard::Refused(why)) => Err(Failure::failed(format!("the other side: {why}"))),
        Ok(Heard::Ended(why)) => Err(Failure::failed(format!(
            "the other side has made no device, and says above why ({why})"
        ))),
        Ok(Heard::AllThere) | Err(RecvTimeoutError::Disconnected) => {
            Err(Failure::failed("the other side has named no device"))
        }
        Err(RecvTimeoutError::Timeout) => Err(Failure::failed(format!(
            "the other side has named no device within {} s",
            patience.as_secs()
        ))),
    }
}

/// Listens to the other side, and has what it asks for answered.
fn listen(
    mut from: Box<dyn Read + Send>,
    entry: &Arc<RunningDevice>,
    id: &str,
    out: &Out,
) -> Result<Receiver<Heard>> {
    let (say, heard) = mpsc::channel();
    let queue = || -> Result<Sender<Message>> {
        let (ask, asked) = mpsc::channel();
        let asked = Arc::new(Mutex::new(asked));
        for _ in 0..THREADS {
            let frames = Frames {
                entry: entry.clone(),
                id: id.into(),
                server: None,
            };
            let (asked, out) = (asked.clone(), out.clone());
            process::spawn("frames", move || frames.answer_all(&asked, &out))?;
        }
        Ok(ask)
    };
    let (awaited, ahead) = (queue()?, queue()?);
    process::spawn("listen", move || {
        let ended = loop {
            let message = match Message::read(&mut from) {
                Ok(Some(message)) => message,
                Ok(None) => break "the connection has ended".into(),
                Err(error) => break format!("the connection: {error}"),
            };
            let done = match message.kind {
                MessageKind::Fetch => awaited.send(message).is_ok(),
                MessageKind::FetchAhead => ahead.send(message).is_ok(),
                MessageKind::Ready => say.send(Heard::Ready(message.words())).is_ok(),
                MessageKind::Refused => say.send(Heard::Refused(message.words())).is_ok(),
                MessageKind::AllThere => say.send(Heard::AllThere).is_ok(),
                _ => true,
            };
            if !done {
                return;
            }
        };
        let _ = say.send(Heard::Ended(ended));
    })?;
    Ok(heard)
}

/// Has the device's server say what frames hold.
struct Frames {
    entry: Arc<RunningDevice>,
    id: String,
    server: Option<UnixStream>,
}

impl Frames {
    fn answer_all(mut self, asked: &Mutex<Receiver<Message>>, out: &Out) {
        loop {
            let Ok(question) = lock(asked).recv() else {
                return;
            };
            let answer = self.answer(&question).unwrap_or_else(|failure| Message {
                kind: MessageKind::Failed,
                number: question.number,
                bytes: failure.message.into_bytes(),
            });
            if answer.write(&mut *lock(out)).is_err() {
                return;
            }
        }
    }

    /// Asks the server, and the next one where that has died.
    fn answer(&mut self, question: &Message) -> Result<Message> {
        for _ in 0..2 {
            let mut server = match self.server.take() {
                Some(server) => server,
                None => self.connect()?,
            };
            let answer = question
                .write(&mut server)
                .and_then(|()| Message::read(&mut server));
            if let Ok(Some(answer)) = answer {
                self.server = Some(server);
                return Ok(answer);
            }
        }
        let name = &self.entry.record.name;
        Err(Failure::failed(format!(
            "the server of {name} dies again and again"
        )))
    }

    fn connect(&self) -> Result<UnixStream> {
        let (own, theirs) = UnixStream::pair()?;
        let id = self.id.clone();
        let request = Request::ServeFrames { id };
        match client::ask_with_files(&self.entry, &request, &[theirs.as_fd()])? {
            Response::Done => Ok(own),
            other => Err(unexpected(&self.entry, &other)),
        }
    }
}
