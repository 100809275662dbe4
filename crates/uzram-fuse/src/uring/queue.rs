//! A thread and its ring, which serve the queue of one CPU, and of others that are not there.

use std::fs::File;
use std::io;
use std::sync::Arc;
use std::sync::mpsc::SyncSender;
use std::time::Duration;

use rustix::thread::CpuSet;
use uzram_frontend::{PollPermits, PollSource, Poller};

use super::request;
use super::ring::EntryRing;
use crate::disk::DiskFile;

/// How many completions are submitted together while more requests are at hand. One system call then serves several, and
/// the first of a burst does not wait for the last.
const BATCH: usize = 16;

/// What a queue's thread starts with.
pub(crate) struct QueueSetup {
    /// The CPU to run on.
    pub(crate) cpu: u16,
    /// The queue of each entry.
    pub(crate) entries: Vec<u16>,
    pub(crate) payload_bytes: usize,
    /// The FUSE connection.
    pub(crate) connection: Arc<File>,
    pub(crate) disk: Arc<DiskFile>,
    /// Longest time to poll for the next request.
    pub(crate) poll: Duration,
    pub(crate) permits: Arc<PollPermits>,
}

struct Queue {
    ring: EntryRing,
    poller: Poller,
    setup: QueueSetup,
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
        let ring = EntryRing::new(&setup.connection, setup.entries.len(), setup.payload_bytes)?;
        let poller = Poller::new(setup.poll, setup.permits.clone());
        Ok(Queue {
            ring,
            poller,
            setup,
        })
    }

    /// Gives all entries to the kernel for the first time, which refuses at once if it does.
    fn register_all(&mut self) -> io::Result<()> {
        for (entry, queue) in self.setup.entries.iter().enumerate() {
            self.ring.register(entry, *queue)?;
        }
        self.ring.submit()?;
        while let Some((entry, result)) = self.ring.next_completion() {
            if result < 0 {
                return Err(io::Error::from_raw_os_error(-result));
            }
            // All queues are there, and somebody looks at the mount already.
            self.answer(entry)?;
        }
        Ok(())
    }

    fn serve(&mut self) -> io::Result<()> {
        let mut entries = self.setup.entries.len();
        while entries > 0 {
            self.poller.wait(&mut self.ring)?;
            let mut unsent = 0;
            while let Some((entry, result)) = self.ring.next_completion() {
                if result < 0 {
                    // The connection ends: the kernel keeps the entry.
                    entries -= 1;
                    continue;
                }
                self.answer(entry)?;
                unsent += 1;
                if unsent == BATCH {
                    unsent = 0;
                    self.ring.submit()?;
                }
            }
        }
        Ok(())
    }

    /// Executes an entry's request and queues the reply.
    fn answer(&mut self, entry: usize) -> io::Result<()> {
        let (header, payload) = self.ring.entry(entry);
        request::serve(&self.setup.disk, header, payload);
        self.ring.commit(entry, self.setup.entries[entry])
    }
}
