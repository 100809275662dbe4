//! A device that goes on at another host before all of it was copied: `uzram send --lazy`.
//!
//! The server of the device that is left says what it is and which pages hold something, and answers from then on what frames
//! hold (`source`). That of the new device fetches them as those of a clone (`pages`). Neither knows what lies between: the
//! commands pass [`Message`]s on. So either server may die and be started anew without the connection, and either command
//! may be run again without the servers.
//!
//! **Who may write**: the one, then for a moment neither, then the other. Which it is stands in a file of the device that is left
//! (`mark`) before the other side hears of it. So a server that is started anew does not go on with what is another host's.

mod pages;
mod source;
mod wire;

use std::io::{self, Write};
use std::path::Path;

use serde::{Deserialize, Serialize};
use uzram_control::{Claim, RunDir, RunningDevice};
use uzram_spec::{DeviceSpec, Failure, Result};

pub(crate) use pages::{OpenSent, SentPages};
pub(crate) use source::{Sending, serve_frames};
pub use wire::{MAGIC, Message, MessageKind};

use crate::description;

/// The version of what goes between the two sides.
pub const VERSION: u32 = 1;
/// File in the directory of a device that was handed over and whose other side lacks something of it: what that is known by.
const MARK: &str = "handed-over";

/// What is said first of a device.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Hello {
    /// [`VERSION`].
    pub version: u32,
    /// What this is known by on both sides.
    pub id: String,
    /// The device's name.
    pub device: String,
    /// The name of its host.
    pub host: String,
    /// Whether it was handed over before, to a device that is there.
    #[serde(default)]
    pub again: bool,
    /// Pages that hold something.
    #[serde(default)]
    pub held_pages: u64,
    /// What they take in memory, in bytes.
    #[serde(default)]
    pub stored_bytes: u64,
}

impl Hello {
    /// Reads what the other side said.
    pub fn parse(bytes: &[u8]) -> Result<Hello> {
        let hello: Hello = serde_json::from_slice(bytes)
            .map_err(|error| Failure::failed(format!("what the other side says: {error}")))?;
        match hello.version {
            VERSION => Ok(hello),
            other => Err(Failure::impossible(format!(
                "the other side hands devices over by version {other}, and this program by version {VERSION}"
            ))),
        }
    }

    /// How the device is called here.
    pub fn by(&self) -> String {
        let text = format!("{} of {}", self.device, self.host);
        uzram_spec::printable_line(&text).into_owned()
    }
}

/// A name that no other one has.
pub fn new_id() -> Result<String> {
    let mut random = [0u8; 16];
    rustix::rand::getrandom(&mut random, rustix::rand::GetRandomFlags::empty())
        .map_err(io::Error::from)?;
    Ok(random.iter().map(|byte| format!("{byte:02x}")).collect())
}

/// Notes that a device is another host's.
pub(crate) fn mark(dir: &Path, id: &str) -> Result {
    Ok(Claim::adopt(dir)?.write(MARK, id.as_bytes())?)
}

/// What a device that is another host's is known by.
pub(crate) fn marked(dir: &Path) -> Option<String> {
    let id = Claim::adopt(dir).ok()?.read(MARK).ok()?;
    String::from_utf8(id).ok()
}

/// The same, as its server asks. Swap is never handed over, and its next server opens nothing that it can do without.
pub(crate) fn marked_of(spec: &DeviceSpec, dir: &Path) -> Option<String> {
    match spec.is_swap() {
        true => None,
        false => marked(dir),
    }
}

/// Notes that it is not.
pub(crate) fn unmark(dir: &Path) -> Result {
    match std::fs::remove_file(dir.join(MARK)) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error.into()),
        _ => Ok(()),
    }
}

/// The device of this run directory that was handed over under a name.
pub fn find(run: &RunDir, id: &str) -> Result<Option<RunningDevice>> {
    let is_it = |entry: &RunningDevice| {
        let spec = description::read(&entry.dir, None).ok();
        let sent = spec.and_then(|spec| spec.from?.sent);
        sent.is_some_and(|sent| sent.id == id)
    };
    Ok(run.devices()?.into_iter().find(is_it))
}

/// Writes the file from which a new device learns which pages hold something: its first frame, and then their runs as they
/// came.
pub struct SlotsFile<W>(W);

impl<W: Write> SlotsFile<W> {
    /// With what [`MessageKind::First`] had.
    pub fn new(mut to: W, first: &[u8]) -> io::Result<SlotsFile<W>> {
        to.write_all(&(first.len() as u64).to_le_bytes())?;
        to.write_all(first)?;
        Ok(SlotsFile(to))
    }

    /// Adds what a [`MessageKind::Slots`] had.
    pub fn add(&mut self, runs: &[u8]) -> io::Result<()> {
        self.0.write_all(runs)
    }
}
