//! A thread and its ring, which serve the queue of one CPU, and of others that are not there, and help other threads.

use std::fs::File;
use std::io;
use std::ops::Range;
use std::sync::mpsc::SyncSender;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use rustix::thread::CpuSet;
use uzram_frontend::{PollPermits, PollSource, Poller, Waiters};

use super::entries::{BacklogOwner, HeldEntry};
use super::request;
use super::ring::{EntryRing, Messenger, RingEvent};
use super::team::Team;
use crate::disk::DiskFile;

/// Replies to so many requests, or for so many bytes, are submitted together while more requests are at hand. One system call
/// then serves several, and the first of a burst does not wait for the last.
const BATCH: usize = 16;
const BATCH_BYTES: usize = 64 << 10;
/// A thread that sleeps is asked for help for so many bytes beyond the request that is executed next. To compress or
/// decompress them takes longer than to wake a thread.
const HELP_BYTES: usize = 16 << 10;
/// So many requests of another CPU's queue, each of which comes alone while that CPU's thread sleeps, and their entry goes home.
const HOMESICK: u32 = 2;

/// What a queue's thread starts with.
pub(crate) struct QueueSetup {
    /// Its number in the team.
    pub(crate) member: usize,
    /// The CPU to run on.
    pub(crate) cpu: u16,
    /// The entries that it registers.
    pub(crate) entries: Range<u32>,
    /// Those that it registers when requests may wait.
    pub(crate) later: Range<u32>,
    pub(crate) backlog: BacklogOwner,
    pub(crate) team: Arc<Team>,
    /// The FUSE connection.
    pub(crate) connection: Arc<File>,
    pub(crate) disk: Arc<DiskFile>,
    /// Longest time to poll for the next request.
    pub(crate) poll: Duration,
    pub(crate) permits: Arc<PollPermits>,
    /// For what waits.
    pub(crate) remote: Arc<RemoteWaiters>,
}

/// Threads for requests that wait for a clone's source, or for a backing in a store. What they have executed is committed by the
/// entry's own queue.
#[derive(Default)]
pub(crate) struct RemoteWaiters {
    waiters: Waiters,
    /// Made for the first one.
    messenger: OnceLock<Messenger>,
}

impl RemoteWaiters {
    /// Makes what those threads speak to the queues by, unless it is there.
    pub(crate) fn prepare(&self) -> io::Result<()> {
        if self.messenger.get().is_none() {
            // Of several who make one at once one has made it.
            let _ = self.messenger.set(Messenger::new()?);
        }
        Ok(())
    }

    /// Has all queues look around. Once prepared.
    pub(crate) fn wake_all(&self, team: &Team) -> io::Result<()> {
        let Some(messenger) = self.messenger.get() else {
            return Ok(());
        };
        (0..team.count()).try_for_each(|member| messenger.wake(team, member))
    }

    /// Answers a request from a thread of its own. Once prepared.
    fn answer(self: Arc<Self>, team: Arc<Team>, disk: Arc<DiskFile>, mut entry: HeldEntry) {
        let this = self.clone();
        self.waiters.run(move || {
            let (header, payload) = team.memory.get(&mut entry);
            request::serve(&disk, header, payload);
            if let Some(messenger) = this.messenger.get() {
                messenger.hand_home(&team, entry);
            }
        });
    }
}

struct Queue {
    ring: EntryRing,
    poller: Poller,
    setup: QueueSetup,
    /// Replies that are queued, and for how many bytes.
    unsent: usize,
    unsent_bytes: usize,
    /// Who asked last for help.
    friend: usize,
    /// How many requests came for [`HOMESICK`].
    alone: u32,
    /// Entries that the kernel was given later: where it takes none, the queue has fewer.
    may_lack: Range<u32>,
}

/// Serves until the kernel has taken all entries back, as it does when the connection ends. Reports on `ready` whether it
/// accepted them; the returned result covers only what happens afterwards.
pub(crate) fn run(setup: QueueSetup, ready: &SyncSender<io::Result<()>>) -> io::Result<()> {
    pin(setup.cpu);
    let begun = Queue::new(setup).and_then(|mut queue| {
        queue.register_all()?;
        Ok(queue)
    });
    match begun {
        Ok(mut queue) => {
            let _ = ready.send(Ok(()));
            queue.serve()
        }
        Err(error) => {
            let _ = ready.send(Err(error));
            Ok(())
        }
    }
}

fn pin(cpu: u16) {
    let mut cpus = CpuSet::new();
    if usize::from(cpu) < CpuSet::MAX_CPU {
        cpus.set(cpu.into());
    }
    if let Err(error) = rustix::thread::sched_setaffinity(None, &cpus) {
        // The queue works from any CPU.
        tracing::debug!(%error, cpu, "cannot pin the thread");
    }
}

/// The next completions of a ring.
impl PollSource for EntryRing {
    type Item = ();

    fn take(&mut self) -> io::Result<Option<()>> {
        if !self.is_ready() {
            // Whoever waits for a reply gets it before this looks for more.
            self.submit()?;
            if !self.is_ready() {
                return Ok(None);
            }
        }
        self.wait().map(Some)
    }

    fn sleep(&mut self) -> io::Result<()> {
        self.wait()
    }
}

impl Queue {
    fn new(setup: QueueSetup) -> io::Result<Queue> {
        let ring = EntryRing::new(&setup.connection, &setup.team, setup.entries.len() as u32)?;
        setup.team.join(setup.member, ring.ring())?;
        Ok(Queue {
            ring,
            poller: Poller::new(setup.poll, setup.permits.clone()),
            unsent: 0,
            unsent_bytes: 0,
            friend: setup.member,
            alone: 0,
            may_lack: 0..0,
            setup,
        })
    }

    /// Gives its entries to the kernel for the first time, which refuses at once if it does.
    fn register_all(&mut self) -> io::Result<()> {
        for entry in self.setup.entries.clone() {
            self.ring.register(entry)?;
        }
        self.ring.submit()?;
        while let Some(event) = self.ring.next_event() {
            match event {
                RingEvent::Refused { errno, .. } => {
                    return Err(io::Error::from_raw_os_error(errno));
                }
                // All queues are there, and somebody looks at the mount already.
                RingEvent::Request(entry) => self.answer(entry, false)?,
                RingEvent::Commit(entry) => self.ring.commit(entry)?,
                RingEvent::Help(_) | RingEvent::Awake => {}
            }
        }
        Ok(())
    }

    fn serve(&mut self) -> io::Result<()> {
        let (team, member) = (self.setup.team.clone(), self.setup.member);
        while !(team.has_ended() && self.ring.under_way() == 0) {
            team.set_idle(member, true);
            let waited = self.poller.wait(&mut self.ring);
            team.set_idle(member, false);
            waited?;
            (self.unsent, self.unsent_bytes) = (0, 0);
            loop {
                let came = self.receive()?;
                if let Some(entry) = team.backlog(member).take() {
                    self.answer(entry, came == 1)?;
                    continue;
                }
                if team.backlog(self.friend).is_empty() {
                    break;
                }
                // What it has done does not wait for what it does for another one.
                self.submit()?;
                if !self.ring.is_ready()
                    && let Some(entry) = team.backlog(self.friend).take()
                {
                    self.answer(entry, false)?;
                }
            }
        }
        Ok(())
    }

    /// Puts what came into the backlog, and asks for help where that is much. Returns how many requests came.
    fn receive(&mut self) -> io::Result<usize> {
        let backlog = self.setup.team.backlog(self.setup.member);
        // The oldest is executed next.
        let mut is_first = backlog.is_empty();
        let (mut came, mut surplus) = (0, 0);
        while !self.setup.backlog.is_full()
            && let Some(event) = self.ring.next_event()
        {
            match event {
                RingEvent::Request(mut entry) => {
                    came += 1;
                    if !is_first {
                        surplus += request::bytes(self.setup.team.memory.get(&mut entry).0);
                    }
                    is_first = false;
                    if let Err(entry) = self.setup.backlog.put(entry) {
                        self.answer(entry, false)?;
                    }
                }
                RingEvent::Refused { entry, errno } if !self.can_do_without(entry, errno) => {
                    self.setup.team.end(self.setup.member, &mut self.ring)?;
                }
                RingEvent::Refused { errno, .. } => {
                    tracing::debug!(errno, "a queue has fewer entries for what waits");
                }
                RingEvent::Help(member) => self.friend = member,
                RingEvent::Commit(entry) => self.ring.commit(entry)?,
                RingEvent::Awake => self.grow()?,
            }
        }
        while surplus >= HELP_BYTES
            && let Some(idle) = self.setup.team.find_idle(self.setup.member)
        {
            self.ring.ask_for_help(idle, self.setup.member)?;
            self.submit()?;
            surplus -= HELP_BYTES;
        }
        Ok(came)
    }

    /// Whether a refusal is that of an entry which the queue had not had before, rather than the connection's end.
    fn can_do_without(&self, entry: u32, errno: i32) -> bool {
        let is_end = [libc::ENOTCONN, libc::ECONNABORTED, libc::ENODEV].contains(&errno);
        self.may_lack.contains(&entry) && !is_end
    }

    /// Gives the kernel the entries for requests that wait, if these may come: then there is always one left for others.
    fn grow(&mut self) -> io::Result<()> {
        if !self.setup.team.may_wait() || self.setup.later.is_empty() {
            return Ok(());
        }
        self.may_lack = std::mem::replace(&mut self.setup.later, 0..0);
        for entry in self.may_lack.clone() {
            self.ring.register(entry)?;
        }
        self.submit()
    }

    /// Executes an entry's request and queues the reply. `alone`: it is the only one that came.
    fn answer(&mut self, mut entry: HeldEntry, alone: bool) -> io::Result<()> {
        let team = &self.setup.team;
        let (header, payload) = team.memory.get(&mut entry);
        if team.may_wait() && request::must_wait(&self.setup.disk, header) {
            let (remote, disk) = (self.setup.remote.clone(), self.setup.disk.clone());
            remote.answer(team.clone(), disk, entry);
            return Ok(());
        }
        let bytes = request::bytes(header);
        request::serve(&self.setup.disk, header, payload);
        let home = team.home(&entry);
        if home != self.setup.member {
            let homesick = alone && team.is_idle(home);
            self.alone = if homesick { self.alone + 1 } else { 0 };
            if self.alone >= HOMESICK {
                self.alone = 0;
                self.ring.hand_to(home, entry)?;
                return self.submit();
            }
        }
        self.ring.commit(entry)?;
        self.unsent += 1;
        self.unsent_bytes += bytes;
        match self.unsent >= BATCH || self.unsent_bytes >= BATCH_BYTES {
            true => self.submit(),
            false => Ok(()),
        }
    }

    fn submit(&mut self) -> io::Result<()> {
        (self.unsent, self.unsent_bytes) = (0, 0);
        self.ring.submit()
    }
}
