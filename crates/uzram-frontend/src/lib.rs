//! What a frontend is: [`Frontend`] turns one protocol's requests into calls of a [`Device`], and answers for itself.
//!
//! It says which options it takes ([`FrontendOption`]), what it can do ([`Frontend::can_swap`] and its like), whether this
//! machine has what it needs and how to get that ([`Need`]), and it makes, resumes and clears what it serves. The program,
//! its help, the manual pages and the API's schema are made of these answers: a new frontend is one crate that implements
//! this trait and one line in the runtime's table.
//!
//! This crate knows nothing about any protocol, and nothing about processes.
#![deny(unsafe_code)]

mod buffers;
mod dead;
mod option;
mod poll;
mod resident;
mod socket;
mod waiters;

use std::fs::File;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use uzram::Device;
use uzram_blockdev::{Node, Survey};
use uzram_spec::{Failure, FailureKind, FrontendSpec, Result};

pub use rustix::thread::CapabilitySet;

pub use buffers::RequestBuffers;
pub use dead::{check_dead, users_of_dead, words_of_dead};
pub use poll::{PollPermits, PollSource, Poller};
pub use resident::keep_resident;
pub use socket::{
    ALLOW_UID, LISTEN, SocketError, UnixPeer, UnixSocket, absolute_socket, allowed_uids,
    check_socket_path, kind_of_bind, may_connect, other_users, unix_path,
};
pub use waiters::Waiters;

pub use option::{
    DEFAULT_POLL, FrontendOption, NUMBER, OptionKind, PARTSCAN, POLL, QUEUE_DEPTH, READ_ONLY,
    poll_time,
};

/// Why this machine or this user cannot have a frontend.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Need {
    /// What is missing.
    pub missing: String,
}

impl Need {
    /// That is missing.
    pub fn new(missing: impl std::fmt::Display) -> Need {
        let missing = missing.to_string();
        Need { missing }
    }
}

/// What becomes of a device in use when another process serves it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Handover {
    /// Requests wait a moment, and none fails.
    Survives,
    /// Clients connect again, to the same address.
    Reconnects,
    /// The node is replaced by a new one; who has the old one open gets I/O errors.
    Replaced,
}

/// What a frontend is started with.
pub struct Serving<'a> {
    /// The device.
    pub device: &'a Arc<Device>,
    /// Its name, such as `zram0`.
    pub name: &'a str,
    /// Its directory, without symbolic links.
    pub dir: &'a Path,
    /// The frontend's options, checked against [`Frontend::options`].
    pub spec: &'a FrontendSpec,
    /// Set where the device is to serve as swap: called by each thread of the frontend once it has the memory that it
    /// needs, since such threads start as real-time tasks.
    pub swap: Option<fn()>,
}

impl Serving<'_> {
    /// Path of a file in the device's directory.
    pub fn file(&self, name: &str) -> PathBuf {
        self.dir.join(name)
    }
}

/// A way to serve devices.
pub trait Frontend: Sync {
    /// Its name, as `--frontend` takes it.
    fn name(&self) -> &'static str;

    /// What it makes, in one line of help.
    fn about(&self) -> &'static str;

    /// The options that it takes.
    fn options(&self) -> &'static [FrontendOption];

    /// Refuses options of values that can be seen to be impossible here, each of which is one that it takes.
    fn check(&self, _spec: &FrontendSpec) -> Result {
        Ok(())
    }

    /// Whether the device is a block device of this machine, which can be mounted here.
    fn has_node(&self) -> bool {
        true
    }

    /// Whether clients can go on at another host that takes the device over, as those of a network can.
    fn clients_follow(&self) -> bool {
        false
    }

    /// Whether the device can be swap: nothing between the kernel and this process waits for memory.
    fn can_swap(&self) -> bool {
        false
    }

    /// Whether a request that waits for a clone's source holds up no other: then the device may have remote pages
    /// ([`Device::must_fetch`]).
    fn can_wait(&self) -> bool {
        false
    }

    /// Whether requests allocate with these options, by a library that does: then the heap of the device's processes is not to
    /// give back each piece at once.
    fn allocates(&self, _spec: &FrontendSpec) -> bool {
        false
    }

    /// What a change of servers is to those who use the device.
    fn handover(&self) -> Handover;

    /// How long a server with these options looks for the next request before it sleeps; `None` where it does not look.
    fn poll(&self, _spec: &FrontendSpec) -> Option<Duration> {
        None
    }

    /// The capabilities that a server with these options needs as long as it lives. It gives up all others before
    /// [`Frontend::start`] or [`Frontend::resume`], for good.
    fn capabilities(&self, _spec: &FrontendSpec) -> CapabilitySet {
        CapabilitySet::empty()
    }

    /// Files outside the device's directory that a server with these options opens or makes.
    fn opens(&self, _spec: &FrontendSpec) -> Vec<PathBuf> {
        Vec::new()
    }

    /// Whether it makes directories of this name in a device's directory.
    fn makes_directory(&self, _name: &str) -> bool {
        false
    }

    /// What only one device at a time can have of what these options name, each with the option that names it.
    fn claims(&self, spec: &FrontendSpec) -> Vec<(&'static str, String)> {
        let number = spec.integer(NUMBER.name);
        let claim = |number: u64| (NUMBER.name, number.to_string());
        number.map(claim).into_iter().collect()
    }

    /// Says what this machine or user lacks, if so. May load a driver.
    fn probe(&self) -> std::result::Result<(), Need>;

    /// Begins to serve a device. When it returns the device can be used.
    fn start(&self, serving: &Serving<'_>) -> Result<Box<dyn Front>>;

    /// Begins to serve a device again whose server died or hands over; `word` is what its [`Front::resume_word`] said.
    fn resume(&self, serving: &Serving<'_>, word: &str) -> Result<Box<dyn Front>>;

    /// Clears what is left of a device whose contents are lost, given its directory. Says in words what was cleared, or what
    /// stands in the way.
    fn clear(&self, _dir: &Path) -> std::result::Result<Vec<String>, String> {
        Ok(Vec::new())
    }

    /// Clears the same although a dead node is still in use, which then goes with its last user.
    fn clear_by_force(&self, dir: &Path) -> std::result::Result<Vec<String>, String> {
        self.clear(dir)
    }

    /// The nodes of the device at `dir`, those included that dead servers left and that are still there. `None` where the
    /// frontend cannot tell, and only the record does. Whoever uses a dead node has its contents in the device.
    fn nodes(&self, _dir: &Path, _survey: &Survey) -> Option<Vec<Node>> {
        None
    }

    /// Where the frontend cannot tell all nodes: those of the device at `dir` that are not there any more, since the device
    /// was put behind another, and that somebody may still use.
    fn dead_nodes(&self, _dir: &Path, _survey: &Survey) -> Vec<Node> {
        Vec::new()
    }

    /// Clears nodes of other users that nobody serves and their users cannot clear; for root. Says what was cleared.
    fn clear_of_users(&self) -> Vec<String> {
        Vec::new()
    }

    /// Waits until the kernel is done with the last server's end, so that its memory is there for the next one. Only
    /// swap devices need it.
    fn wait_for_death(&self, _dir: &Path, _word: &str) {}

    /// Whether it has nodes that can be kept: see [`Frontend::reserve`].
    fn reserves_nodes(&self) -> bool {
        false
    }

    /// Keeps a node for a device that is not initialised, of that number if it is free; tools open the node first. `None`
    /// where the frontend has no nodes to keep, or none can be had.
    fn reserve(&self, _number: Option<u32>) -> Option<Box<dyn ReservedNode>> {
        None
    }

    /// User and group that own a node of this frontend's, if they are not root: what udev asks.
    fn owner(&self, _node: &str) -> Result<Option<(u32, u32)>> {
        Ok(None)
    }
}

/// A device being served.
pub trait Front: Send {
    /// Where the device is: its node, or a URI.
    fn path(&self) -> String;

    /// What a new process needs to know to serve the same device again. Only the frontend understands it.
    fn resume_word(&self) -> String;

    /// Refuses with the name of who uses the device, if anybody does. A block device is held for this process alone as
    /// long as the result lives.
    fn hold_idle(&self) -> Result<Option<File>>;

    /// Takes it down, unless it is in use. A refusal changes nothing.
    fn remove(&mut self) -> Result;

    /// Takes it down although clients of a protocol are connected, or a dead node is in use: what ends with the device
    /// anyway. Never unmounts a file system, so that it is refused as [`Front::remove`] is where one is mounted. Says in
    /// words what was done to whom.
    fn remove_by_force(&mut self) -> Result<Vec<String>> {
        self.remove().map(|()| Vec::new())
    }

    /// What could not be taken down with the device, in words. Asked once, after [`Front::remove`].
    fn left(&mut self) -> Vec<String> {
        Vec::new()
    }

    /// How many clients are connected; `None` where clients are the kernel's affair.
    fn clients(&self) -> Option<u64> {
        None
    }

    /// How requests reach this process, in a word; `None` where the frontend has only one way.
    fn transport(&self) -> Option<&'static str> {
        None
    }

    /// What whoever makes the device should know of that, such as what was changed on the machine for it.
    fn notes(&self) -> Vec<String> {
        Vec::new()
    }

    /// What clients are told of the device, for a process that negotiates with them in this one's place. Only the frontend's
    /// crate reads it.
    fn terms(&self) -> Result<String> {
        let message = format!(
            "{} has no clients that another process could pass on",
            self.path()
        );
        Err(Failure::impossible(message))
    }

    /// Serves a client with which such a process has negotiated; `agreed` is what it says of that. Does not wait for the client.
    fn take_client(&self, _client: OwnedFd, _agreed: &str) -> Result {
        self.terms().map(drop)
    }

    /// Makes ready for requests that wait for a store, since the device is about to get one as its backing. Only where
    /// [`Frontend::can_wait`].
    fn expect_waits(&self) -> Result {
        Ok(())
    }

    /// Refuses where whoever uses the device cannot be told another size while it is served.
    fn can_resize(&self) -> Result {
        let message = format!("{} cannot change its size while it is served", self.path());
        Err(Failure::impossible(message))
    }

    /// Tells the size, which was changed, to whoever uses the device.
    fn resized(&mut self) -> Result {
        Ok(())
    }

    /// Gives up what the next server cannot take over, since it will have another in its place. Refused where somebody uses
    /// that, and then nothing has changed.
    fn release(&mut self) -> Result {
        Ok(())
    }

    /// Finishes what can be finished: this process ends, and another will serve the device.
    fn hand_over(&mut self) {}
}

/// A node that is kept for a device without a size. Dropped, it is free again.
pub trait ReservedNode: Send {
    /// Its number, which [`NUMBER`] takes.
    fn number(&self) -> u32;
    /// Its device numbers, major and minor.
    fn rdev(&self) -> (u32, u32);
}

/// What every frontend with a block device needs: to make and remove the device, and to name the processes of whatever user
/// that have it open.
pub const BLOCK_DEVICE: CapabilitySet = CapabilitySet::SYS_ADMIN
    .union(CapabilitySet::SYS_PTRACE)
    .union(CapabilitySet::DAC_READ_SEARCH);

/// The kind of failure that an error of a block device's node is.
pub fn kind_of_node(error: &uzram_blockdev::Error) -> FailureKind {
    match error {
        uzram_blockdev::Error::Open { source, .. } => kind_of_missing(source),
        uzram_blockdev::Error::Read { source, .. } => FailureKind::from_io(source),
        uzram_blockdev::Error::Absent { .. } => FailureKind::Failed,
        _ => FailureKind::Busy,
    }
}

/// The kind of failure of a system call that needs a node or a driver: what is not there is impossible here.
pub fn kind_of_missing(error: &std::io::Error) -> FailureKind {
    match error.kind() {
        std::io::ErrorKind::NotFound => FailureKind::Impossible,
        _ => FailureKind::from_io(error),
    }
}

/// The README's example is one that compiles.
#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct Readme;
