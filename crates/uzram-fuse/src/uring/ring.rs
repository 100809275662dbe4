//! A thread's ring: commands for entries, and messages to the rings of other threads.
//!
//! With `entries.rs` the two files of `uring` with unsafe code: ring entries carry addresses, and a completion gives an
//! [`HeldEntry`]. The addresses are of the [`Team`]'s memory, which the ring keeps. It is dropped before that.
#![allow(unsafe_code)]

use std::fs::File;
use std::io;
use std::os::fd::{AsRawFd, BorrowedFd};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use io_uring::squeue::{Entry128, Flags};
use io_uring::types::{Fd, Fixed};
use io_uring::{IoUring, cqueue, opcode};
use zerocopy::{FromZeros, IntoBytes};

use super::abi::{CommandRequest, RingCommand};
use super::entries::HeldEntry;
use super::team::Team;

/// Commands of FUSE over io_uring need entries with room for 80 bytes.
type CommandRing = IoUring<Entry128, cqueue::Entry>;

/// Where `struct io_uring_sqe` has the field `len`, for which `UringCmd80` has no setter.
const SQE_LEN_AT: usize = 24;
/// Most entries of a submission queue: what is queued is submitted when it is full.
const MOST_QUEUED: u32 = 256;

/// When a message that could not be sent is sent again.
const REPEAT: Duration = Duration::from_millis(10);

const _: () = assert!(size_of::<Entry128>() == 128);

/// What came by a ring.
#[derive(Debug)]
pub(crate) enum RingEvent {
    /// An entry has a request.
    Request(HeldEntry),
    /// An entry was refused, with this errno: the connection ends.
    Refused {
        /// The entry's number.
        entry: u32,
        /// The errno.
        errno: i32,
    },
    /// The member of this number has more requests at hand than it can soon execute.
    Help(usize),
    /// Another thread has executed the entry's request. The reply is to be committed here.
    Commit(HeldEntry),
    /// Somebody wants this thread to look around, or a message has not arrived.
    Awake,
}

/// What a completion is: the upper half of its user data. The lower half is the number of an entry or a member.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u64)]
enum MessageKind {
    /// A command of an entry's, by this ring.
    Command = 0,
    /// Messages of another thread's.
    Help,
    Commit,
    Awake,
    /// This ring's own message that has not arrived: with a reply to commit, or without.
    Returned,
    Lost,
}

impl MessageKind {
    fn with(self, number: u32) -> u64 {
        (self as u64) << 32 | u64::from(number)
    }

    fn split(user_data: u64) -> (MessageKind, u32) {
        let kind = match user_data >> 32 {
            0 => MessageKind::Command,
            1 => MessageKind::Help,
            2 => MessageKind::Commit,
            3 => MessageKind::Awake,
            4 => MessageKind::Returned,
            _ => MessageKind::Lost,
        };
        (kind, user_data as u32)
    }
}

/// A ring for commands on a FUSE connection. It must be used by the thread that made it. Fields are dropped in order: the ring
/// first.
pub(crate) struct EntryRing {
    ring: CommandRing,
    team: Arc<Team>,
    /// Commands under way: entries that the kernel has by this ring.
    under_way: usize,
}

/// A ring for messages alone, of threads that serve no queue.
pub(crate) struct Messenger(Mutex<IoUring>);

impl Messenger {
    pub(crate) fn new() -> io::Result<Messenger> {
        IoUring::builder()
            .dontfork()
            .build(1)
            .map(|ring| Messenger(Mutex::new(ring)))
    }

    /// Has the member whose queue the entry belongs to commit its reply. An entry of a connection that has ended is dropped.
    pub(crate) fn hand_home(&self, team: &Team, entry: HeldEntry) {
        let Some(member) = team.ring_of(team.home(&entry)) else {
            // It has had a request, so its ring has joined.
            return;
        };
        let reply = MessageKind::Commit.with(entry.number());
        let message = opcode::MsgRingData::new(Fd(member.as_raw_fd()), 0, reply, None).build();
        while let Err(error) = self.send(&message) {
            if team.has_ended() {
                return;
            }
            // Memory is short, or the member has more completions than it takes.
            tracing::debug!(%error, "a reply waits for its queue");
            std::thread::sleep(REPEAT);
        }
    }

    /// Has a member look around.
    pub(crate) fn wake(&self, team: &Team, member: usize) -> io::Result<()> {
        let Some(member) = team.ring_of(member) else {
            // One that is not there yet looks around by itself.
            return Ok(());
        };
        let word = MessageKind::Awake.with(0);
        self.send(&opcode::MsgRingData::new(Fd(member.as_raw_fd()), 0, word, None).build())
    }

    fn send(&self, message: &io_uring::squeue::Entry) -> io::Result<()> {
        let mut ring = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        // SAFETY: a message names no memory. The caller keeps the ring that it goes to.
        unsafe { ring.submission().push(message) }.map_err(io::Error::other)?;
        loop {
            match ring.submit_and_wait(1) {
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
                Ok(_) => break,
            }
        }
        match ring.completion().next().map(|done| done.result()) {
            Some(..0) | None => Err(io::ErrorKind::WouldBlock.into()),
            Some(0..) => Ok(()),
        }
    }
}

/// A ring for commands on a connection.
pub(crate) fn command_ring(queued: u32, completions: u32) -> io::Result<CommandRing> {
    let mut builder = IoUring::builder();
    builder
        .setup_single_issuer()
        .setup_coop_taskrun()
        .setup_defer_taskrun()
        .setup_taskrun_flag()
        .setup_cqsize(completions)
        .dontfork();
    builder.build(queued)
}

impl EntryRing {
    /// A ring on a FUSE connection, for a thread that is about to register `own` entries of the team's.
    pub(crate) fn new(connection: &File, team: &Arc<Team>, own: u32) -> io::Result<EntryRing> {
        // Entries of others come by this ring, too. The kernel keeps what it has no room for.
        let completions = own.saturating_mul(4).min(team.entries());
        let ring = command_ring(own.min(MOST_QUEUED), completions)?;
        ring.submitter().register_files(&[connection.as_raw_fd()])?;
        Ok(EntryRing {
            ring,
            team: team.clone(),
            under_way: 0,
        })
    }

    /// How many entries the kernel has by this ring.
    pub(crate) fn under_way(&self) -> usize {
        self.under_way
    }

    /// Queues the registration of an entry.
    pub(crate) fn register(&mut self, entry: u32) -> io::Result<()> {
        let memory = &self.team.memory;
        let (queue, iovecs) = (memory.queue(entry), memory.iovecs(entry));
        let command = command(RingCommand::Register, queue, 0).addr(Some(iovecs as u64));
        let mut sqe = command.build().user_data(MessageKind::Command.with(entry));
        // SAFETY: in bounds of the 128 bytes, and aligned: the structure is, and so is the field in it.
        unsafe {
            let len = (&raw mut sqe).byte_add(SQE_LEN_AT).cast::<u32>();
            len.write(2);
        }
        self.push(sqe)?;
        self.under_way += 1;
        Ok(())
    }

    /// Queues the completion of an entry's request, and the fetch of the next one, which comes by this ring.
    pub(crate) fn commit(&mut self, mut entry: HeldEntry) -> io::Result<()> {
        let memory = &self.team.memory;
        let commit_id = memory.get(&mut entry).0.entry.commit_id;
        let number = entry.number();
        let command = command(RingCommand::CommitAndFetch, memory.queue(number), commit_id);
        self.push(command.build().user_data(MessageKind::Command.with(number)))?;
        self.under_way += 1;
        Ok(())
    }

    /// Asks `member` to take from the backlog of `from`.
    pub(crate) fn ask_for_help(&mut self, member: usize, from: usize) -> io::Result<()> {
        self.message(
            member,
            MessageKind::Help.with(from as u32),
            MessageKind::Lost.with(0),
        )
    }

    /// Has `member` commit the reply of an entry.
    pub(crate) fn hand_to(&mut self, member: usize, entry: HeldEntry) -> io::Result<()> {
        let number = entry.number();
        let (theirs, ours) = (
            MessageKind::Commit.with(number),
            MessageKind::Returned.with(number),
        );
        self.message(member, theirs, ours)
    }

    /// Wakes `member`.
    pub(crate) fn wake(&mut self, member: usize) -> io::Result<()> {
        self.message(
            member,
            MessageKind::Awake.with(0),
            MessageKind::Lost.with(0),
        )
    }

    /// Queues a message: a completion of `theirs` there, or one of `ours` here where that cannot be.
    fn message(&mut self, member: usize, theirs: u64, ours: u64) -> io::Result<()> {
        // One that is not there yet looks around by itself.
        let ring = self
            .team
            .ring_of(member)
            .map_or(-1, |ring| ring.as_raw_fd());
        let sqe = opcode::MsgRingData::new(Fd(ring), 0, theirs, None).build();
        let sqe = sqe.flags(Flags::SKIP_SUCCESS).user_data(ours);
        self.push(sqe.into())
    }

    fn push(&mut self, sqe: Entry128) -> io::Result<()> {
        if self.ring.submission().is_full() {
            self.ring.submit()?;
        }
        // SAFETY: commands name memory of the team, which lives longer than the ring; its iovecs do not move. The connection is a
        // registered file, and the team keeps the rings that messages go to.
        unsafe { self.ring.submission().push(&sqe) }
            .map_err(|_| io::Error::other("the kernel takes nothing from the ring"))
    }

    /// Submits what is queued, and receives what is ready.
    pub(crate) fn submit(&mut self) -> io::Result<()> {
        let submission = self.ring.submission();
        if submission.is_empty() && !submission.taskrun() {
            return Ok(());
        }
        drop(submission);
        self.ring.submit().map(drop)
    }

    /// Submits what is queued, and sleeps until there is a completion.
    pub(crate) fn wait(&mut self) -> io::Result<()> {
        loop {
            match self.ring.submit_and_wait(1) {
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                other => return other.map(drop),
            }
        }
    }

    /// Whether [`EntryRing::wait`] would return at once. No system call.
    pub(crate) fn is_ready(&mut self) -> bool {
        !self.ring.completion().is_empty() || self.ring.submission().taskrun()
    }

    /// What came next.
    pub(crate) fn next_event(&mut self) -> Option<RingEvent> {
        let done = self.ring.completion().next()?;
        let (kind, number) = MessageKind::split(done.user_data());
        // SAFETY: the kernel completes a command once. A message has the entry of a caller of `hand_to`, who has no longer got it,
        // and either arrives or comes back.
        let entry = || unsafe { HeldEntry::new(number) };
        Some(match kind {
            MessageKind::Command => {
                self.under_way -= 1;
                match done.result() {
                    0.. => RingEvent::Request(entry()),
                    error => RingEvent::Refused {
                        entry: number,
                        errno: -error,
                    },
                }
            }
            MessageKind::Help => RingEvent::Help(number as usize),
            MessageKind::Commit | MessageKind::Returned => RingEvent::Commit(entry()),
            MessageKind::Awake | MessageKind::Lost => RingEvent::Awake,
        })
    }

    /// The ring, for others' messages.
    pub(crate) fn ring(&self) -> BorrowedFd<'_> {
        // SAFETY: open as long as the ring.
        unsafe { BorrowedFd::borrow_raw(self.ring.as_raw_fd()) }
    }
}

fn command(command: RingCommand, queue: u16, commit_id: u64) -> opcode::UringCmd80 {
    let request = CommandRequest {
        commit_id,
        queue,
        ..CommandRequest::new_zeroed()
    };
    let mut bytes = [0; 80];
    bytes[..size_of::<CommandRequest>()].copy_from_slice(request.as_bytes());
    opcode::UringCmd80::new(Fixed(0), command as u32).cmd(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn completions_say_what_they_are() {
        use MessageKind::*;
        for kind in [Command, Help, Commit, Awake, Returned, Lost] {
            assert_eq!(
                MessageKind::split(kind.with(0xFFFF_FFFE)),
                (kind, 0xFFFF_FFFE)
            );
        }
    }

    /// The crate's structure is the kernel's, with its `len` where it is written.
    #[test]
    fn a_registration_names_two_buffers() {
        let mut sqe = command(RingCommand::Register, 3, 0)
            .addr(Some(0x1234))
            .build();
        // SAFETY: as in `register`.
        unsafe { (&raw mut sqe).byte_add(SQE_LEN_AT).cast::<u32>().write(2) };
        // SAFETY: 128 bytes, all of them initialised.
        let bytes: [u8; 128] = unsafe { std::mem::transmute(sqe) };
        let word = |at: usize| u32::from_ne_bytes(bytes[at..at + 4].try_into().unwrap());
        assert_eq!((bytes[0], word(8), word(16), word(24)), (46, 1, 0x1234, 2));
        assert_eq!(bytes[48 + 16..48 + 18], 3_u16.to_ne_bytes());
    }
}
