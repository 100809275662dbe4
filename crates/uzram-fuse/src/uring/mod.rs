//! Requests by FUSE over io_uring, Linux 6.14 or newer: a queue and a pinned thread for each CPU.
//!
//! fuser mounts and negotiates, and its thread receives the few requests that still come by `/dev/fuse`. Once each CPU's queue
//! has entries the kernel sends every other request there: to the queue of the CPU on which it arises, into an entry's memory.
//! Request and reply cost no copy beyond the kernel's own. They wake no other CPU where one is enough ([`team`]).

mod abi;
mod cpus;
mod entries;
mod queue;
mod request;
mod ring;
mod switch;
mod team;

use std::fs::File;
use std::io;
use std::os::fd::BorrowedFd;
use std::sync::Arc;
use std::sync::mpsc::sync_channel;
use std::thread::{self, JoinHandle};
use std::time::Duration;

use uzram_blockdev::StepError;
use uzram_frontend::PollPermits;

use crate::disk::DiskFile;
use entries::{BacklogOwner, EntryMemory};
use queue::{QueueSetup, RemoteWaiters};
use team::Team;

pub(crate) use switch::{SwitchedOn, restore};

/// Largest read or write that is asked of the kernel. Each entry has so much memory, of which what is used stays resident.
pub(crate) const MAX_PAYLOAD: u32 = 256 << 10;
/// Entries of a CPU that is not there, and may come.
const SPARE_DEPTH: usize = 4;
/// Least entries of a queue whose requests may wait for a clone's source or for a store: as many as a loop device has requests, so
/// that there is one left for a request that need not wait. Those beyond a queue's depth the kernel gets when requests may wait.
const WAITING_DEPTH: u16 = 129;

/// Called when a queue cannot go on, so that its requests would wait for ever.
pub(crate) type OnDeath = Arc<dyn Fn(&io::Error) + Send + Sync>;

/// The threads that serve a connection's queues. They end with the connection.
pub(crate) struct Queues {
    threads: Vec<JoinHandle<()>>,
    team: Arc<Team>,
    remote: Arc<RemoteWaiters>,
}

/// Says why this machine or user cannot have FUSE over io_uring, if so. Changes nothing.
pub(crate) fn check() -> Result<(), String> {
    switch::check()?;
    let ring = ring::command_ring(1, 1);
    ring.map(drop).map_err(|error| refused(&error))
}

fn refused(error: &io::Error) -> String {
    format!("io_uring is refused here (see the sysctl kernel.io_uring_disabled): {error}")
}

impl Queues {
    /// Registers a queue of `depth` entries for each CPU on a connection that agreed to io_uring, and serves them. When it
    /// returns, the kernel uses them.
    pub(crate) fn start(
        connection: BorrowedFd<'_>,
        disk: &Arc<DiskFile>,
        depth: u16,
        poll: Duration,
        on_death: &OnDeath,
    ) -> Result<Queues, StepError> {
        let connection = connection.try_clone_to_owned();
        let connection = connection.map_err(StepError::at("duplicating a FUSE connection"))?;
        let connection = Arc::new(File::from(connection));
        let remote = Arc::new(RemoteWaiters::default());
        let waits = disk.may_wait();
        let depth = match waits {
            true => depth.max(WAITING_DEPTH),
            false => depth,
        };
        let shares = share(&cpus::possible()?, &cpus::online()?, depth);
        let (team, backlogs) = team(&shares).map_err(StepError::at("reserving buffers"))?;
        if waits {
            let ready = remote.prepare();
            ready.map_err(StepError::at("making a ring for what waits"))?;
            team.expect_waits();
        }
        let count = shares.len();
        let (ready, inbox) = sync_channel(count);
        let mut queues = Queues {
            threads: Vec::new(),
            team: team.clone(),
            remote: remote.clone(),
        };
        // Never on a machine with one CPU, and on no more than half of them.
        let permits = Arc::new(PollPermits::new(count / 2));
        let mut end = 0;
        for (member, (share, backlog)) in shares.into_iter().zip(backlogs).enumerate() {
            let begin = end;
            end += share.queues.len() as u32;
            let cpu = share.cpu;
            let setup = QueueSetup {
                member,
                cpu,
                entries: begin..begin + share.at_once as u32,
                later: begin + share.at_once as u32..end,
                backlog,
                team: team.clone(),
                connection: connection.clone(),
                disk: disk.clone(),
                poll,
                permits: permits.clone(),
                remote: remote.clone(),
            };
            let (ready, on_death) = (ready.clone(), on_death.clone());
            let serve = move || {
                if let Err(error) = queue::run(setup, &ready) {
                    on_death(&error);
                }
            };
            let thread = thread::Builder::new()
                .name(format!("fuse-q{cpu}"))
                .spawn(serve)
                .map_err(StepError::at("starting a queue's thread"))?;
            queues.threads.push(thread);
        }
        // Those that were accepted end with the connection, which the caller ends.
        let outcomes = (0..count).map(|_| inbox.recv().unwrap_or(Ok(())));
        let all: io::Result<()> = outcomes.collect();
        all.map_err(StepError::at("registering a queue of FUSE over io_uring"))?;
        Ok(queues)
    }

    /// Makes the queues ready for requests that wait for a store: they hold up no others then.
    pub(crate) fn expect_waits(&self) -> io::Result<()> {
        self.remote.prepare()?;
        self.team.expect_waits();
        self.remote.wake_all(&self.team)
    }

    /// Waits for the threads, which end once the connection does.
    pub(crate) fn join(self) {
        for thread in self.threads {
            let _ = thread.join();
        }
    }
}

/// The threads' CPUs, and the queue of each of their entries. A CPU that is there has a thread. The queues of others go to
/// these in turn: all must be registered before the kernel uses any.
fn share(possible: &[u16], online: &[u16], depth: u16) -> Vec<Share> {
    let own = |cpu: &u16| Share {
        cpu: *cpu,
        queues: vec![*cpu; usize::from(depth)],
        at_once: 0,
    };
    let mut shares: Vec<Share> = online.iter().map(own).collect();
    let count = shares.len();
    let absent = possible.iter().filter(|cpu| !online.contains(cpu));
    for (index, cpu) in absent.enumerate() {
        shares[index % count].queues.extend([*cpu; SPARE_DEPTH]);
    }
    for share in &mut shares {
        share.at_once = share.queues.len();
        let later = usize::from(WAITING_DEPTH.saturating_sub(depth));
        share.queues.extend(std::iter::repeat_n(share.cpu, later));
    }
    shares
}

/// The entries of a thread.
#[derive(Debug, PartialEq, Eq)]
struct Share {
    cpu: u16,
    /// The queue of each.
    queues: Vec<u16>,
    /// So many of them the kernel gets at once, and the others once a request waits.
    at_once: usize,
}

/// What the threads share, and a backlog for each.
fn team(shares: &[Share]) -> io::Result<(Arc<Team>, Vec<BacklogOwner>)> {
    let queues = shares.iter().flat_map(|share| &share.queues).copied();
    let queues: Vec<u16> = queues.collect();
    let home =
        |(member, share): (usize, &Share)| std::iter::repeat_n(member as u16, share.queues.len());
    let homes = shares.iter().enumerate().flat_map(home).collect();
    let backlogs: Vec<_> = shares
        .iter()
        .map(|share| BacklogOwner::new(share.queues.len()))
        .collect();
    let shared = backlogs
        .iter()
        .map(|backlog| backlog.shared().clone())
        .collect();
    let memory = EntryMemory::new(queues, MAX_PAYLOAD as usize)?;
    Ok((Arc::new(Team::new(memory, homes, shared)), backlogs))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_possible_cpu_has_a_queue() {
        let shares = share(&[0, 1, 2, 3, 4], &[1, 3], 2);
        assert_eq!(shares.len(), 2);
        for (share, cpu, others) in [(&shares[0], 1, &[0, 4][..]), (&shares[1], 3, &[2])] {
            assert_eq!(share.cpu, cpu);
            let (now, later) = share.queues.split_at(share.at_once);
            let others = others.iter().flat_map(|other| [*other; SPARE_DEPTH]);
            let all: Vec<u16> = [cpu; 2].into_iter().chain(others).collect();
            assert_eq!(now, all);
            // With these as many as a loop device has requests, and one more.
            assert_eq!(later, [cpu; 127]);
        }
        let deep = share(&[0, 1], &[0, 1], 300);
        assert!(deep.iter().all(|share| share.at_once == share.queues.len()));
    }
}
