//! What others see of zram's devices: the trait [`View`], and the host as one.

use std::sync::Arc;

use super::device::{Zram, ask, stat};
use super::{Attribute, AttributePlace, Errno, Host, Refusal, Subject, classes, parse};
use crate::protocol::{Request, Response};

/// Whose attribute is meant.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum AttributeOwner {
    /// The directory `zram-control`: `hot_add`, `hot_remove`.
    Control,
    /// The device of that number.
    Device(u32),
}

/// What a directory and a node show of a device.
#[derive(
    Debug, Clone, PartialEq, Eq, serde::Serialize, serde::Deserialize, schemars::JsonSchema,
)]
pub struct ShownDevice {
    /// N of `zramN`.
    pub id: u32,
    /// Its size in bytes, 0 while it is not initialised.
    pub disksize: u64,
    /// The path of its real node, or its URI; empty while it has none.
    pub path: String,
    /// Major and minor number of its node. An uninitialised device may have one, too: that of a loop device reserved for it.
    /// `None`: there is no block device (an NBD socket, or nothing to open).
    // As an array of numbers, since readers of the document stumble over one of places.
    #[schemars(with = "Option<[u32; 2]>")]
    pub rdev: Option<(u32, u32)>,
}

impl ShownDevice {
    /// `zramN`.
    pub fn name(&self) -> String {
        format!("zram{}", self.id)
    }
}

/// What zram's interface shows, and how it is changed.
///
/// Every call stands for one `open`, `show` or `store` of the kernel: no call sees half of another's change.
pub trait View: Send + Sync {
    /// Lists the devices by number.
    fn devices(&self) -> Result<Vec<ShownDevice>, Errno>;

    /// Reads a whole attribute. ENOENT: no such device or attribute; EACCES: it cannot be read.
    ///
    /// Reading `hot_add` adds a device.
    fn show(&self, owner: AttributeOwner, attribute: &str) -> Result<Vec<u8>, Errno>;

    /// Writes an attribute with the `value` of one `write`, at most 4096 bytes. ENOENT: no such device or attribute; EACCES:
    /// it cannot be written.
    fn store(&self, owner: AttributeOwner, attribute: &str, value: &[u8]) -> Result<(), Refusal>;

    /// Reads lines of the device's `block_state` from the slot `from` on: whole lines, at most `max_bytes` together. Also
    /// returns the slot to continue from. No lines mean the end. EINVAL: the device is not initialised.
    fn block_state(&self, id: u32, from: u64, max_bytes: usize) -> Result<(Vec<u8>, u64), Errno>;

    /// Reads the table of the device's size classes, as zsmalloc's `classes` in debugfs. ENOENT: it is not initialised.
    fn classes(&self, id: u32) -> Result<Vec<u8>, Errno>;
}

impl Host {
    /// Finds an attribute and what it is read from.
    fn subject(
        &self,
        owner: AttributeOwner,
        name: &str,
    ) -> Result<(&'static Attribute, Subject<'_>), Errno> {
        let (place, zram) = match owner {
            AttributeOwner::Control => (AttributePlace::Control, None),
            AttributeOwner::Device(id) => {
                (AttributePlace::Device, Some(self.found(id, Errno::NOENT)?))
            }
        };
        let attribute = Attribute::find(place, name).ok_or(Errno::NOENT)?;
        Ok((attribute, Subject { host: self, zram }))
    }
}

impl View for Host {
    fn devices(&self) -> Result<Vec<ShownDevice>, Errno> {
        let all: Vec<Arc<Zram>> = self.table().values().cloned().collect();
        Ok(all.iter().map(|zram| shown(zram)).collect())
    }

    fn show(&self, owner: AttributeOwner, attribute: &str) -> Result<Vec<u8>, Errno> {
        let (attribute, subject) = self.subject(owner, attribute)?;
        let readable = attribute.mode_in(self.options().strict) & 0o444 != 0;
        let show = attribute.show.filter(|_| readable).ok_or(Errno::ACCESS)?;
        show(&subject).map(String::into_bytes)
    }

    fn store(&self, owner: AttributeOwner, attribute: &str, value: &[u8]) -> Result<(), Refusal> {
        let (attribute, subject) = self.subject(owner, attribute)?;
        let store = attribute.store.ok_or(Errno::ACCESS)?;
        // The kernel does not call an attribute for an empty write.
        if value.is_empty() {
            return Ok(());
        }
        store(&subject, parse::c_text(&value[..value.len().min(4096)]))
    }

    fn block_state(&self, id: u32, from: u64, max_bytes: usize) -> Result<(Vec<u8>, u64), Errno> {
        let zram = self.found(id, Errno::NOENT)?;
        match zram.ask(Request::BlockState { from, max_bytes })? {
            Response::BlockState { lines, next } => Ok((lines.into_bytes(), next)),
            _ => Err(Errno::PROTO),
        }
    }

    fn classes(&self, id: u32) -> Result<Vec<u8>, Errno> {
        let zram = self.found(id, Errno::NOENT)?;
        let live = zram.live().ok_or(Errno::NOENT)?;
        match ask(&*live, Request::PoolClasses)? {
            Response::PoolClasses { classes } => Ok(classes::table(&classes).into_bytes()),
            _ => Err(Errno::PROTO),
        }
    }
}

fn shown(zram: &Zram) -> ShownDevice {
    let (live, node, known) = {
        let state = zram.state();
        (state.live.clone(), state.node, state.config.disksize)
    };
    let Some(live) = live else {
        return ShownDevice {
            id: zram.id(),
            disksize: 0,
            path: String::new(),
            rdev: node,
        };
    };
    ShownDevice {
        id: zram.id(),
        // A server that does not answer still has the size that it had.
        disksize: stat(&*live).map_or(known, |stat| stat.disksize),
        path: live.path(),
        rdev: live.rdev().or(node),
    }
}
