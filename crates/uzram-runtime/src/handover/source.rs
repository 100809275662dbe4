//! The side of the device that is left: says what it is, freezes it, and answers what its frames hold.

use std::io::{self, ErrorKind, Read, Write};
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, Timespec};
use rustix::net::SendFlags;
use uzram::{CutOptions, Device};
use uzram_control::ControlError;
use uzram_spec::Failure;

use super::wire::{encode, put_number};
use super::{Hello, Message, MessageKind, VERSION, mark};
use crate::process;
use crate::snapshot::description;

/// How often it is looked whether anybody still waits for it.
const LOOK: Duration = Duration::from_millis(200);
/// Bytes of runs that go at once.
const SLOTS_BYTES: usize = 1 << 20;

/// A device that is handed over before it is copied.
pub(crate) struct Sending<'d> {
    pub(crate) device: &'d Device,
    pub(crate) name: &'d str,
    /// The device's directory.
    pub(crate) dir: &'d Path,
    pub(crate) id: &'d str,
}

impl Sending<'_> {
    /// Freezes the device, says what it is, and hands it over once the other side has its own. `frozen` is called when frames
    /// may be asked for.
    pub(crate) fn hand_over(
        &self,
        socket: OwnedFd,
        frozen: impl FnOnce(),
        is_gone: &dyn Fn() -> bool,
    ) -> Result<(), ControlError> {
        let mut options = CutOptions::new(None);
        options.freeze = true;
        let cut = self.device.cut(&options).map_err(device_error)?;
        frozen();
        let mut socket = Patient {
            socket: socket.into(),
            is_gone,
        };
        let held: u64 = cut.held_pages().map(|run| run.end - run.start).sum();
        self.say(&mut socket, false, held)?;
        let first = self
            .device
            .frozen_frames()
            .and_then(|mut frames| encode(&mut frames, &[0]));
        let first = first.map_err(device_error)?;
        let say = |socket: &mut Patient<'_>, kind, bytes: &[u8]| {
            Message::new(kind, bytes).write(socket).map_err(io_error)
        };
        say(&mut socket, MessageKind::First, &first)?;
        let (mut runs, mut at) = (Vec::new(), 0);
        for run in cut.held_pages() {
            put_number(&mut runs, run.start - at);
            put_number(&mut runs, run.end - run.start);
            at = run.end;
            if runs.len() >= SLOTS_BYTES {
                say(&mut socket, MessageKind::Slots, &runs)?;
                runs.clear();
            }
        }
        say(&mut socket, MessageKind::Slots, &runs)?;
        say(&mut socket, MessageKind::End, &[])?;
        socket.await_word().map_err(io_error)?;
        // First: should this process die now, the next one has to know.
        mark(self.dir, self.id).map_err(failure_error)?;
        cut.hand_over_unread();
        Ok(())
    }

    /// Says again what it is, when it was handed over.
    pub(crate) fn repeat(
        &self,
        socket: OwnedFd,
        is_gone: &dyn Fn() -> bool,
    ) -> Result<(), ControlError> {
        let mut socket = Patient {
            socket: socket.into(),
            is_gone,
        };
        self.say(&mut socket, true, 0)?;
        let end = Message::new(MessageKind::End, []);
        end.write(&mut socket).map_err(io_error)
    }

    fn say(&self, to: &mut Patient<'_>, again: bool, held_pages: u64) -> Result<(), ControlError> {
        let frames = self.device.frozen_frames().map_err(device_error)?;
        let (codecs, pages) = (frames.codecs(), frames.page_count());
        let description = description(self.device, self.name, codecs, pages)?;
        let host = rustix::system::uname();
        let hello = Hello {
            version: VERSION,
            id: self.id.into(),
            device: self.name.into(),
            host: host.nodename().to_string_lossy().into_owned(),
            again,
            held_pages,
            stored_bytes: self.device.stats().compr_data_size_bytes,
        };
        let hello = serde_json::to_vec(&hello).map_err(|error| io_error(error.into()))?;
        for (kind, bytes) in [
            (MessageKind::Hello, hello),
            (MessageKind::Description, description),
        ] {
            Message::new(kind, bytes).write(to).map_err(io_error)?;
        }
        Ok(())
    }
}

/// Answers by a socket what frames hold, from a thread of its own, until the socket is closed.
pub(crate) fn serve_frames(device: &Arc<Device>, socket: OwnedFd) -> io::Result<()> {
    let device = device.clone();
    let mut socket = UnixStream::from(socket);
    process::spawn("frames", move || {
        // What is no message ends it: nobody knows where the next one begins.
        while let Ok(Some(message)) = Message::read(&mut socket) {
            let Some(numbers) = message.numbers() else {
                return;
            };
            let encoded = device
                .frozen_frames()
                .and_then(|mut frames| encode(&mut frames, &numbers));
            let (kind, bytes) = match encoded {
                Ok(bytes) => (MessageKind::Frames, bytes),
                Err(error) => (MessageKind::Failed, error.to_string().into_bytes()),
            };
            let answer = Message {
                kind,
                number: message.number,
                bytes,
            };
            if answer.write(&mut socket).is_err() {
                return;
            }
        }
    })
}

fn device_error(error: uzram::Error) -> ControlError {
    ControlError {
        errno: error.errno(),
        message: error.to_string(),
    }
}

fn io_error(error: io::Error) -> ControlError {
    ControlError {
        errno: error.raw_os_error().unwrap_or(5),
        message: format!("the other side: {error}"),
    }
}

fn failure_error(failure: Failure) -> ControlError {
    ControlError {
        errno: 5,
        message: failure.to_string(),
    }
}

/// A socket whose other end is waited for as long as whoever asked waits, too.
struct Patient<'a> {
    socket: UnixStream,
    is_gone: &'a dyn Fn() -> bool,
}

impl Patient<'_> {
    fn wait(&self, what: PollFlags) -> io::Result<()> {
        loop {
            if (self.is_gone)() {
                return Err(io::Error::other("whoever asked for it is gone"));
            }
            let mut fds = [PollFd::new(&self.socket, what)];
            let patience = Timespec::try_from(LOOK).ok();
            match rustix::event::poll(&mut fds, patience.as_ref()) {
                Ok(0) | Err(rustix::io::Errno::INTR) => {}
                Ok(_) => return Ok(()),
                Err(error) => return Err(error.into()),
            }
        }
    }

    /// Waits for the byte that says that the other side has its device.
    fn await_word(&mut self) -> io::Result<()> {
        self.wait(PollFlags::IN)?;
        match self.socket.read(&mut [0])? {
            0 => Err(io::Error::other("whoever took it did not keep it")),
            _ => Ok(()),
        }
    }
}

impl Write for Patient<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        loop {
            let flags = SendFlags::DONTWAIT | SendFlags::NOSIGNAL;
            match rustix::net::send(&self.socket, bytes, flags) {
                Ok(sent) => return Ok(sent),
                Err(rustix::io::Errno::AGAIN) => self.wait(PollFlags::OUT)?,
                Err(rustix::io::Errno::INTR) => {}
                Err(rustix::io::Errno::PIPE) => return Err(ErrorKind::BrokenPipe.into()),
                Err(error) => return Err(error.into()),
            }
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
