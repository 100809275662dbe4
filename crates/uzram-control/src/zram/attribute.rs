//! An attribute: its name, permissions and documentation, and the functions that read and write it.

use std::sync::Arc;

use super::device::Zram;
use super::{Errno, Host, Refusal};

/// The directory that an attribute is in.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum AttributePlace {
    /// `/sys/class/zram-control`.
    Control,
    /// `/sys/block/zramN`.
    Device,
}

/// When an attribute can be written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum WritableWhen {
    /// Always.
    Always,
    /// Before `disksize` is set.
    Uninit,
    /// After `disksize` is set.
    Init,
}

/// The host, and the device if there is one, whose attribute is read or written.
pub struct Subject<'a> {
    pub(crate) host: &'a Host,
    pub(crate) zram: Option<Arc<Zram>>,
}

impl Subject<'_> {
    pub(crate) fn zram(&self) -> Result<&Zram, Errno> {
        self.zram.as_deref().ok_or(Errno::NODEV)
    }

    pub(crate) fn strict(&self) -> bool {
        self.host.options().strict
    }
}

/// Reads an attribute.
pub type Show = fn(&Subject<'_>) -> Result<String, Errno>;
/// Writes an attribute. The text ends before its first NUL.
pub type Store = fn(&Subject<'_>, &[u8]) -> Result<(), Refusal>;

/// One attribute of zram.
pub struct Attribute {
    /// The file's name.
    pub name: &'static str,
    /// The file's permissions, as in the kernel.
    pub mode: u16,
    /// The unit of its number: `bytes`, `pages`, `seconds`; empty if it is no number with a unit.
    pub unit: &'static str,
    /// The first version of Linux that has it, and the last, if it was removed: `6.2`, `3.15 to 6.14`.
    pub since: &'static str,
    /// What it is, in one line.
    pub about: &'static str,
    /// What it takes and shows, when, and with which errors; how uzram differs.
    pub docs: &'static str,
    /// The directory that it is in.
    pub place: AttributePlace,
    /// When it can be written.
    pub when: WritableWhen,
    /// Reads it. May be present although the kernel's permissions forbid reading: see [`Attribute::mode_in`].
    pub show: Option<Show>,
    /// Writes it.
    pub store: Option<Store>,
}

impl Attribute {
    /// What most have in common: it is a device's, is no number with a unit, and can be written at any time, where it can.
    pub(crate) const OF_DEVICE: Attribute = Attribute {
        name: "",
        mode: 0,
        unit: "",
        since: "",
        about: "",
        docs: "",
        place: AttributePlace::Device,
        when: WritableWhen::Always,
        show: None,
        store: None,
    };

    /// The file's permissions: the kernel's if `strict`, otherwise those for all that uzram can do.
    pub fn mode_in(&self, strict: bool) -> u16 {
        match self.show {
            Some(_) if !strict => self.mode | 0o400,
            _ => self.mode,
        }
    }

    /// Says in words when it can be written, if at all.
    pub fn allowed(&self) -> &'static str {
        match (self.store, self.when) {
            (None, _) => "read only",
            (Some(_), WritableWhen::Always) => "at any time",
            (Some(_), WritableWhen::Uninit) => "before disksize is set",
            (Some(_), WritableWhen::Init) => "after disksize is set",
        }
    }

    /// Its permissions as `ls` prints them, without the type: `rw-r--r--`.
    pub fn permissions(&self) -> String {
        let letter = |bit: u16| match self.mode >> bit & 1 {
            1 => ['x', 'w', 'r'][usize::from(bit % 3)],
            _ => '-',
        };
        (0..9).rev().map(letter).collect()
    }
}

impl std::fmt::Debug for Attribute {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Attribute")
            .field("name", &self.name)
            .field("mode", &format_args!("{:04o}", self.mode))
            .finish_non_exhaustive()
    }
}
