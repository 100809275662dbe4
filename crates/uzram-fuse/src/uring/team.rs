//! What the threads of a connection share, and how they help each other.
//!
//! All requests of a loop device come from the CPU of the loop driver's worker, and so to one queue. Its thread puts what it
//! receives into its backlog. Where that is more than it can soon execute it wakes a thread that sleeps, which takes from the
//! backlog, executes, and commits on its own ring. The entry's next request then comes to *that* thread, so that two that are
//! both busy get requests from the kernel in the proportion in which they execute them, without a further word.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::atomic::AtomicBool;
use std::sync::atomic::Ordering::{Acquire, Relaxed, Release};
use std::sync::{Arc, OnceLock};

use crossbeam_utils::CachePadded;

use super::entries::{Backlog, EntryMemory, HeldEntry};
use super::ring::EntryRing;

/// How many members, those after one, it may ask for help. More CPUs than these are another node's, or far at any rate.
const NEIGHBOURS: usize = 4;

/// The threads of a connection and the entries' memory. Fields are dropped in order: the rings first.
pub(crate) struct Team {
    members: Vec<Member>,
    pub(crate) memory: EntryMemory,
    /// The member that each entry was registered by: its queue's own.
    homes: Vec<u16>,
    /// An entry was refused.
    ended: AtomicBool,
    /// Requests may wait for a store from now on.
    waits: AtomicBool,
}

/// What others know of a thread.
struct Member {
    backlog: Arc<Backlog>,
    /// It sleeps, or is about to, and nobody has asked it for help since. A hint.
    idle: CachePadded<AtomicBool>,
    ring: OnceLock<OwnedFd>,
}

impl Team {
    pub(crate) fn new(memory: EntryMemory, homes: Vec<u16>, backlogs: Vec<Arc<Backlog>>) -> Team {
        let member = |backlog| Member {
            backlog,
            idle: CachePadded::default(),
            ring: OnceLock::new(),
        };
        Team {
            members: backlogs.into_iter().map(member).collect(),
            memory,
            homes,
            ended: AtomicBool::new(false),
            waits: AtomicBool::new(false),
        }
    }

    /// How many entries there are.
    pub(crate) fn entries(&self) -> u32 {
        self.homes.len() as u32
    }

    /// The member whose queue an entry belongs to.
    pub(crate) fn home(&self, entry: &HeldEntry) -> usize {
        self.homes[entry.number() as usize].into()
    }

    /// Lets others send messages to a member's ring.
    pub(crate) fn join(&self, member: usize, ring: BorrowedFd<'_>) -> io::Result<()> {
        let ring = ring.try_clone_to_owned()?;
        // Each joins once.
        let _ = self.members[member].ring.set(ring);
        Ok(())
    }

    pub(crate) fn ring_of(&self, member: usize) -> Option<BorrowedFd<'_>> {
        self.members[member].ring.get().map(AsFd::as_fd)
    }

    pub(crate) fn backlog(&self, member: usize) -> &Backlog {
        &self.members[member].backlog
    }

    pub(crate) fn set_idle(&self, member: usize, idle: bool) {
        self.members[member].idle.store(idle, Release);
    }

    pub(crate) fn is_idle(&self, member: usize) -> bool {
        self.members[member].idle.load(Acquire)
    }

    /// Finds a neighbour that sleeps, and marks it as asked.
    pub(crate) fn find_idle(&self, member: usize) -> Option<usize> {
        let count = self.members.len();
        (1..count.min(NEIGHBOURS + 1))
            .map(|step| (member + step) % count)
            .find(|other| self.is_idle(*other) && self.members[*other].idle.swap(false, Acquire))
    }

    /// Has each member give the kernel all of its entries, once it looks around: requests may wait.
    pub(crate) fn expect_waits(&self) {
        self.waits.store(true, Release);
    }

    pub(crate) fn may_wait(&self) -> bool {
        self.waits.load(Acquire)
    }

    /// How many members there are.
    pub(crate) fn count(&self) -> usize {
        self.members.len()
    }

    /// Whether the connection has ended: then members end that have no entries.
    pub(crate) fn has_ended(&self) -> bool {
        self.ended.load(Relaxed)
    }

    /// Notes that the connection has ended, and wakes all others, once. The caller may be about to end.
    pub(crate) fn end(&self, member: usize, ring: &mut EntryRing) -> io::Result<()> {
        if self.ended.swap(true, Relaxed) {
            return Ok(());
        }
        let mut others = (0..self.members.len()).filter(|other| *other != member);
        others.try_for_each(|other| ring.wake(other))?;
        ring.submit()
    }
}
