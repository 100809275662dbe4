//! The client's side of the control socket: asks one server or many at once, and gives up those that stand still.
//!
//! No step waits for a single server: connecting, writing and reading never block, and one poll waits for all. What is
//! given up is not carried out later: the header of the protocol's module says how.

use std::io::{self, ErrorKind, IoSlice, Read, Write};
use std::mem::MaybeUninit;
use std::net::Shutdown;
use std::os::fd::BorrowedFd;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec};
use rustix::net::{SendAncillaryBuffer, SendAncillaryMessage, SendFlags};

use crate::protocol::{
    Envelope, MAX_FILES, MAX_LINE, PROTOCOL_VERSION, Request, RequestProgress, Response, to_line,
};
use crate::trust;

/// How long [`call()`] waits for a sign of life: one that works gives one each second.
pub const CALL_SILENCE: Duration = Duration::from_secs(10);
/// How long to wait before a socket that takes no connection now is tried again.
const AGAIN: Duration = Duration::from_millis(10);

/// When a server is given up.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Deadline {
    /// After that long without a sign of life.
    pub silence: Duration,
    /// After that long, whatever it says; `None`: as long as it says something.
    pub whole: Option<Duration>,
    /// Whether to wait for a server that is being started anew: nobody listens there yet.
    pub restart: bool,
}

impl Default for Deadline {
    fn default() -> Deadline {
        Deadline {
            silence: CALL_SILENCE,
            whole: None,
            restart: false,
        }
    }
}

/// Sends one request to the server at `socket`, whichever device it serves, and waits for its answer.
/// [`ErrorKind::TimedOut`]: it does not answer, and the error says whether the request had begun.
pub fn call(socket: &Path, request: &Request) -> io::Result<Response> {
    call_device(socket, "", request)
}

/// The same for the device of that identity. Another one that has the name and so the socket by now refuses it: ENODEV.
pub fn call_device(socket: &Path, identity: &str, request: &Request) -> io::Result<Response> {
    let mut answers = call_devices(&[(socket, identity)], request, Deadline::default());
    let nobody = || Err(io::Error::other("nobody was asked"));
    answers.pop().unwrap_or_else(nobody)
}

/// Has the server of a device do what takes long, and does not wait for that: the answer is [`Response::Detached`] once it is queued. A
/// server of an older version is waited for, and answers what came of it.
pub fn call_detached(socket: &Path, identity: &str, request: &Request) -> io::Result<Response> {
    let line = line_of(identity, request, true);
    let mut answers = call_lines(&[socket], &[line], &[], Deadline::default());
    let nobody = || Err(io::Error::other("nobody was asked"));
    answers.pop().unwrap_or_else(nobody)
}

/// The same with files that go with the request, at most [`MAX_FILES`](crate::MAX_FILES): the server gets descriptors of them.
pub fn call_with_files(
    socket: &Path,
    identity: &str,
    request: &Request,
    files: &[BorrowedFd<'_>],
) -> io::Result<Response> {
    let device = [(socket, identity)];
    let mut answers = call_all(&device, request, files, Deadline::default());
    let nobody = || Err(io::Error::other("nobody was asked"));
    answers.pop().unwrap_or_else(nobody)
}

/// Sends one request to the servers of all these devices at once, given by socket and identity. The answers stand in the
/// order of the devices. No server waits for another, and none is waited for longer than the deadline.
pub fn call_devices(
    devices: &[(impl AsRef<Path>, impl AsRef<str>)],
    request: &Request,
    deadline: Deadline,
) -> Vec<io::Result<Response>> {
    call_all(devices, request, &[], deadline)
}

fn call_all(
    devices: &[(impl AsRef<Path>, impl AsRef<str>)],
    request: &Request,
    files: &[BorrowedFd<'_>],
    deadline: Deadline,
) -> Vec<io::Result<Response>> {
    let lines: Vec<_> = devices
        .iter()
        .map(|(_, identity)| line_of(identity.as_ref(), request, false))
        .collect();
    let sockets: Vec<&Path> = devices.iter().map(|(socket, _)| socket.as_ref()).collect();
    call_lines(&sockets, &lines, files, deadline)
}

/// Sends each socket its line.
fn call_lines(
    sockets: &[&Path],
    lines: &[Result<Vec<u8>, String>],
    files: &[BorrowedFd<'_>],
    deadline: Deadline,
) -> Vec<io::Result<Response>> {
    let begin = Instant::now();
    let mut calls = Vec::new();
    for (socket, line) in sockets.iter().zip(lines) {
        let line_bytes = line.as_deref().unwrap_or_default();
        let mut call = Call::new(socket, line_bytes, files, begin);
        if let Err(message) = line {
            let error = io::Error::new(ErrorKind::InvalidInput, message.clone());
            call.answer = Some(Err(error));
        }
        calls.push(call);
    }
    loop {
        for call in calls.iter_mut().filter(|call| call.answer.is_none()) {
            call.step(&deadline);
            let whole = deadline.whole.is_some_and(|whole| begin.elapsed() >= whole);
            if call.answer.is_none() && (whole || call.heard.elapsed() >= deadline.silence) {
                call.give_up();
            }
        }
        if calls.iter().all(|call| call.answer.is_some()) {
            break;
        }
        wait(&calls, &deadline, begin);
    }
    let no_answer = || Err(io::Error::other("no answer"));
    calls
        .into_iter()
        .map(|call| call.answer.unwrap_or_else(no_answer))
        .collect()
}

/// The line of a request, or why it cannot be one.
fn line_of(identity: &str, request: &Request, detached: bool) -> Result<Vec<u8>, String> {
    let envelope = Envelope {
        version: PROTOCOL_VERSION,
        identity: identity.into(),
        progress: true,
        detached,
        request: request.clone(),
    };
    match to_line(&envelope) {
        Ok(line) if line.len() <= MAX_LINE => Ok(line),
        Ok(line) => Err(format!("a request of {} bytes is too long", line.len())),
        Err(error) => Err(error.to_string()),
    }
}

/// Waits until one of the calls can go on, or is to be given up.
fn wait(calls: &[Call<'_>], deadline: &Deadline, begin: Instant) {
    let mut fds = Vec::new();
    let mut left = match deadline.whole {
        Some(whole) => whole.saturating_sub(begin.elapsed()),
        None => deadline.silence,
    };
    for call in calls.iter().filter(|call| call.answer.is_none()) {
        left = left.min(deadline.silence.saturating_sub(call.heard.elapsed()));
        match &call.stream {
            Some(stream) if call.sent < call.line.len() => {
                fds.push(PollFd::new(stream, PollFlags::IN | PollFlags::OUT));
            }
            Some(stream) => fds.push(PollFd::new(stream, PollFlags::IN)),
            None => left = left.min(AGAIN),
        }
    }
    let left = Timespec::try_from(left).ok();
    // An error, such as a signal, is one more look at all of them.
    let _ = rustix::event::poll(&mut fds, left.as_ref());
}

/// One request on its way.
struct Call<'a> {
    socket: &'a Path,
    line: &'a [u8],
    /// What goes with its first bytes.
    files: &'a [BorrowedFd<'a>],
    /// `None`: not connected yet.
    stream: Option<UnixStream>,
    /// Bytes of the line that are sent.
    sent: usize,
    /// What has arrived.
    inbox: Vec<u8>,
    /// Whether the server said that it begins.
    begun: bool,
    /// When the last sign of life came.
    heard: Instant,
    /// Why no connection was had lately.
    refused: Option<io::Error>,
    answer: Option<io::Result<Response>>,
}

impl<'a> Call<'a> {
    fn new(
        socket: &'a Path,
        line: &'a [u8],
        files: &'a [BorrowedFd<'a>],
        begin: Instant,
    ) -> Call<'a> {
        Call {
            socket,
            line,
            files,
            stream: None,
            sent: 0,
            inbox: Vec::new(),
            begun: false,
            heard: begin,
            refused: None,
            answer: None,
        }
    }

    /// Goes on as far as it goes without waiting.
    fn step(&mut self, deadline: &Deadline) {
        match self.go_on() {
            Ok(()) => {}
            // Its queue is full, or this process has no descriptor left until another call ends.
            Err(error)
                if self.stream.is_none()
                    && (is_for_a_moment(&error)
                        || deadline.restart && is_absent(&error) && self.may_come()) =>
            {
                self.refused = Some(error);
            }
            Err(error) => self.answer = Some(Err(error)),
        }
    }

    /// Whether the directory of the socket is there: a device that was taken down has none.
    fn may_come(&self) -> bool {
        self.socket.parent().is_some_and(Path::exists)
    }

    fn go_on(&mut self) -> io::Result<()> {
        if self.stream.is_none() {
            self.stream = Some(trust::connect_at_once(self.socket)?);
        }
        self.send()?;
        self.receive()
    }

    fn send(&mut self) -> io::Result<()> {
        let Some(stream) = &mut self.stream else {
            return Ok(());
        };
        while self.sent < self.line.len() {
            let rest = &self.line[self.sent..];
            let sent = match self.sent == 0 && !self.files.is_empty() {
                true => send_with_files(stream, rest, self.files),
                false => stream.write(rest),
            };
            match sent {
                Ok(n) => self.sent += n,
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) if error.kind() == ErrorKind::WouldBlock => break,
                // It may have said why before it closed.
                Err(error) => return self.receive().and(Err(error)),
            }
        }
        Ok(())
    }

    fn receive(&mut self) -> io::Result<()> {
        let mut chunk = [0; 16 << 10];
        while self.answer.is_none() {
            let Some(stream) = &mut self.stream else {
                return Ok(());
            };
            match stream.read(&mut chunk) {
                Ok(0) => {
                    let error = io::Error::new(ErrorKind::UnexpectedEof, "line cut short");
                    return Err(error);
                }
                Ok(n) => {
                    self.heard = Instant::now();
                    self.inbox.extend_from_slice(&chunk[..n]);
                    self.read_lines()?;
                }
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(()),
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    /// Takes lines of progress up to the answer.
    fn read_lines(&mut self) -> io::Result<()> {
        while let Some(end) = self.inbox.iter().position(|byte| *byte == b'\n') {
            let line: Vec<u8> = self.inbox.drain(..=end).collect();
            let nonsense = |error| {
                let message = format!("the server's answer: {error}");
                io::Error::new(ErrorKind::InvalidData, message)
            };
            if line.starts_with(b"{\"progress\":") {
                let progress: RequestProgress = serde_json::from_slice(&line).map_err(nonsense)?;
                self.begun |= progress == RequestProgress::Begun;
                continue;
            }
            self.answer = Some(serde_json::from_slice(&line).map_err(nonsense));
            return Ok(());
        }
        match self.inbox.len() > MAX_LINE {
            true => Err(io::Error::new(ErrorKind::InvalidData, "line too long")),
            false => Ok(()),
        }
    }

    /// Ends it: first no more is said, and then what the server said until then decides.
    fn give_up(&mut self) {
        if let Some(stream) = &self.stream {
            let _ = stream.shutdown(Shutdown::Write);
            let _ = self.receive();
        }
        if self.answer.is_some() {
            return;
        }
        let refused = self.refused.take();
        if let Some(error) = refused.filter(|error| error.kind() != ErrorKind::WouldBlock)
            && self.stream.is_none()
        {
            self.answer = Some(Err(error));
            return;
        }
        let message = match (self.begun, &self.stream) {
            (true, _) => {
                "it stands still (stopped?) after it had begun with the request, and may yet finish it"
            }
            (false, Some(_)) => {
                "no sign of life (stopped?); it will not carry out what was asked of it"
            }
            (false, None) => "nobody takes the connection (stopped, or not running)",
        };
        self.answer = Some(Err(io::Error::new(ErrorKind::TimedOut, message)));
    }
}

fn send_with_files(
    stream: &UnixStream,
    bytes: &[u8],
    files: &[BorrowedFd<'_>],
) -> io::Result<usize> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MAX_FILES))];
    let mut control = SendAncillaryBuffer::new(&mut space);
    if !control.push(SendAncillaryMessage::ScmRights(files)) {
        let message = format!("{} files for a request: {MAX_FILES} at most", files.len());
        return Err(io::Error::new(ErrorKind::InvalidInput, message));
    }
    let bytes = [IoSlice::new(bytes)];
    Ok(rustix::net::sendmsg(
        stream,
        &bytes,
        &mut control,
        SendFlags::NOSIGNAL,
    )?)
}

fn is_for_a_moment(error: &io::Error) -> bool {
    let busy = [rustix::io::Errno::MFILE, rustix::io::Errno::NFILE];
    let code = error.raw_os_error();
    error.kind() == ErrorKind::WouldBlock || busy.iter().any(|e| code == Some(e.raw_os_error()))
}

fn is_absent(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        ErrorKind::ConnectionRefused | ErrorKind::NotFound
    )
}
