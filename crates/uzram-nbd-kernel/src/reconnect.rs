//! The connections of one device: makes them, and replaces those that died.
//!
//! The server reports when a connection has ended and none of its requests is being executed any more. Only then is another
//! one offered to the kernel, which sends through it again whatever had no reply. A thread does this. It holds no lock and
//! ends when the device is disconnected, by whomever.

use std::os::fd::OwnedFd;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender};
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::net::{AddressFamily, SocketFlags, SocketType, socketpair};
use uzram_blockdev::StepError;
use uzram_nbd::Adopter;

use crate::client::NbdClient;
use crate::sysfs::{SysfsDisk, node};
use crate::{Error, KernelNbdOptions};

/// The first and the longest pause between two attempts to replace connections.
const PAUSE: (Duration, Duration) = (Duration::from_millis(10), Duration::from_secs(5));

/// A message to the reconnecting thread.
pub(crate) enum ConnectionEvent {
    /// A connection has ended.
    Ended,
    /// The thread is to end.
    Stop,
}

/// A connected device and its server.
pub(crate) struct Attachment {
    pub(crate) index: u32,
    pub(crate) disk: SysfsDisk,
    pub(crate) options: KernelNbdOptions,
    /// Whether the kernel keeps identifiers.
    pub(crate) identified: bool,
    pub(crate) server: Adopter,
    pub(crate) events: Sender<ConnectionEvent>,
    /// Set while the device is being disconnected: connections that end then are not replaced.
    pub(crate) removing: AtomicBool,
}

/// Makes socket pairs. Returns the kernel's ends and ours.
pub(crate) fn socket_pairs(count: usize) -> Result<(Vec<OwnedFd>, Vec<OwnedFd>), Error> {
    let pair = || {
        socketpair(
            AddressFamily::UNIX,
            SocketType::STREAM,
            SocketFlags::CLOEXEC,
            None,
        )
    };
    let made: rustix::io::Result<Vec<_>> = (0..count).map(|_| pair()).collect();
    let made = made.map_err(StepError::at("making socket pairs"))?;
    Ok(made.into_iter().unzip())
}

impl Attachment {
    /// Whether the device is connected, and to this server or a predecessor of the same name.
    pub(crate) fn is_ours(&self) -> bool {
        let identifier = self.options.identifier();
        self.disk.is_connected_to(&identifier, self.identified)
    }

    /// Serves our end of a connection.
    pub(crate) fn serve(&self, ours: OwnedFd) -> Result<(), Error> {
        let events = self.events.clone();
        // Sending fails only where no thread listens any more, and then nobody needs to know.
        let ended = move || drop(events.send(ConnectionEvent::Ended));
        Ok(self.server.adopt(ours, "", ended)?)
    }

    /// Offers the kernel `count` connections in place of dead ones, and serves those that it takes. Returns their number,
    /// or `None` if the device is not connected any more.
    pub(crate) fn offer(&self, count: usize) -> Result<Option<usize>, Error> {
        let (theirs, ours) = socket_pairs(count)?;
        if !NbdClient::open()?.reconfigure(self.index, &self.options, &theirs)? {
            return Ok(None);
        }
        // Closes the ends that the kernel did not take, which hangs up ours.
        drop(theirs);
        let mut taken = 0;
        for socket in ours {
            let hung_up = hung_up(&socket);
            if !hung_up.map_err(StepError::at("asking for a socket's state"))? {
                self.serve(socket)?;
                taken += 1;
            }
        }
        Ok(Some(taken))
    }
}

fn hung_up(socket: &OwnedFd) -> rustix::io::Result<bool> {
    let mut fds = [PollFd::new(socket, PollFlags::RDHUP)];
    poll(&mut fds, Some(&Timespec::default()))?;
    let ended = PollFlags::RDHUP | PollFlags::HUP | PollFlags::ERR;
    Ok(fds[0].revents().intersects(ended))
}

/// Runs the reconnecting thread, which starts with `missing` connections to replace.
pub(crate) fn reconnect(
    attachment: &Attachment,
    events: &Receiver<ConnectionEvent>,
    mut missing: usize,
) {
    let removing = || attachment.removing.load(Ordering::Acquire);
    let node = node(attachment.index);
    let mut pause = PAUSE.0;
    loop {
        let event = match missing {
            0 => events.recv().map_err(|_| RecvTimeoutError::Disconnected),
            _ => events.recv_timeout(pause),
        };
        match event {
            Ok(ConnectionEvent::Ended) if removing() => continue,
            Ok(ConnectionEvent::Ended) => {
                // The first attempt follows after the shortest pause, in which the kernel, too, notices the end.
                missing += 1;
                pause = PAUSE.0;
                continue;
            }
            Ok(ConnectionEvent::Stop) | Err(RecvTimeoutError::Disconnected) => return,
            Err(RecvTimeoutError::Timeout) => pause = PAUSE.1.min(pause * 2),
        }
        if removing() {
            continue;
        }
        match attachment.offer(missing) {
            _ if removing() => {}
            Ok(Some(0)) => {}
            Ok(Some(taken)) => {
                tracing::warn!("{}: replaced {taken} dead connections", node.display());
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
