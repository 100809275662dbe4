//! The connections of one device: making them, and making those that died anew.
//!
//! The server tells when a connection has ended and nothing that came through it is being executed any more. Only
//! then is another offered to the kernel, which will send through it again what had no reply. A thread does this;
//! it holds no lock, and what it does ends when the device is disconnected, by whomever.

use std::io;
use std::os::fd::OwnedFd;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender};
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::net::{AddressFamily, SocketFlags, SocketType, socketpair};
use uzram_nbd::Adopter;

use crate::command::Client;
use crate::sysfs::Disk;
use crate::{Error, Options};

/// The first and the longest wait between two tries to replace connections.
const PAUSE: (Duration, Duration) = (Duration::from_millis(10), Duration::from_secs(5));

/// What the mending thread is told.
pub(crate) enum Event {
    /// A connection has ended.
    Ended,
    /// The thread is to end.
    Stop,
}

/// A connected device and its server.
pub(crate) struct Link {
    pub(crate) index: u32,
    pub(crate) disk: Disk,
    pub(crate) options: Options,
    /// Whether the kernel keeps identifiers.
    pub(crate) identified: bool,
    pub(crate) server: Adopter,
    pub(crate) events: Sender<Event>,
    /// Set while the device is being disconnected: its connections end and are not to come back.
    pub(crate) removing: AtomicBool,
}

/// Socket pairs: the kernel's ends and ours.
pub(crate) fn pairs(count: usize) -> Result<(Vec<OwnedFd>, Vec<OwnedFd>), Error> {
    let pair = || {
        socketpair(
            AddressFamily::UNIX,
            SocketType::STREAM,
            SocketFlags::CLOEXEC,
            None,
        )
    };
    let made: rustix::io::Result<Vec<_>> = (0..count).map(|_| pair()).collect();
    let made = made.map_err(Error::at("making socket pairs"))?;
    Ok(made.into_iter().unzip())
}

impl Link {
    /// Whether the device is connected, and to what this is.
    pub(crate) fn is_ours(&self) -> bool {
        self.disk.is_connected()
            && match self.disk.backend() {
                Some(backend) => backend == self.options.identifier(),
                None => !self.identified,
            }
    }

    /// Serves our end of a connection.
    pub(crate) fn serve(&self, ours: OwnedFd) -> Result<(), Error> {
        let events = self.events.clone();
        // Nobody listens any more: then nobody has to know.
        let ended = move || drop(events.send(Event::Ended));
        Ok(self.server.adopt(ours, "", ended)?)
    }

    /// Offers the kernel this many connections in place of dead ones and serves those that it takes; their
    /// number. `None`: the device is not connected any more.
    pub(crate) fn offer(&self, count: usize) -> Result<Option<usize>, Error> {
        let (theirs, ours) = pairs(count)?;
        if !Client::open()?.reconfigure(self.index, &self.options, &theirs)? {
            return Ok(None);
        }
        // With this the ends that the kernel did not take are closed, and ours know it at once.
        drop(theirs);
        let mut taken = 0;
        for socket in ours {
            if !hung_up(&socket).map_err(Error::at("asking for a socket's state"))? {
                self.serve(socket)?;
                taken += 1;
            }
        }
        Ok(Some(taken))
    }
}

fn hung_up(socket: &OwnedFd) -> io::Result<bool> {
    let mut fds = [PollFd::new(socket, PollFlags::RDHUP)];
    poll(&mut fds, Some(&Timespec::default()))?;
    let ended = PollFlags::RDHUP | PollFlags::HUP | PollFlags::ERR;
    Ok(fds[0].revents().intersects(ended))
}

/// The mending thread, which begins with `missing` connections to replace.
pub(crate) fn mend(link: &Link, events: &Receiver<Event>, mut missing: usize) {
    let mut pause = PAUSE.0;
    loop {
        let event = match missing {
            0 => events.recv().map_err(|_| RecvTimeoutError::Disconnected),
            _ => events.recv_timeout(pause),
        };
        match event {
            Ok(Event::Ended) if link.removing.load(Ordering::Acquire) => continue,
            Ok(Event::Ended) => {
                // The first try follows after the shortest pause, in which the kernel learns of the end, too.
                missing += 1;
                pause = PAUSE.0;
                continue;
            }
            Ok(Event::Stop) | Err(RecvTimeoutError::Disconnected) => return,
            Err(RecvTimeoutError::Timeout) => pause = PAUSE.1.min(pause * 2),
        }
        if link.removing.load(Ordering::Acquire) {
            continue;
        }
        let node = crate::sysfs::node(link.index);
        match link.offer(missing) {
            _ if link.removing.load(Ordering::Acquire) => {}
            Ok(Some(0)) => {}
            Ok(Some(taken)) => {
                tracing::warn!("{}: connections made anew: {taken}", node.display());
                missing -= taken;
            }
            Ok(None) => {
                tracing::warn!("{} was disconnected by somebody else", node.display());
                return;
            }
            Err(error) => tracing::warn!("{}: {error}", node.display()),
        }
    }
}
