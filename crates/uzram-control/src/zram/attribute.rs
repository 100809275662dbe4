//! What an attribute is: its name, its rights, its words, and what reading and writing it does. The list of all.

use std::sync::Arc;

use super::attributes::{algorithms, idle, lifecycle, memory, statistics, writeback};
use super::device::Zram;
use super::{Errno, Host};

/// Where an attribute stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Place {
    /// In `/sys/class/zram-control`.
    Control,
    /// In `/sys/block/zramN`.
    Device,
}

/// When an attribute can be written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum When {
    /// Always.
    Always,
    /// Before `disksize` is set.
    Uninit,
    /// After that.
    Init,
}

/// Whose attribute is read or written.
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
/// Writes an attribute: the text ends before its first NUL.
pub type Store = fn(&Subject<'_>, &[u8]) -> Result<(), Errno>;

/// One attribute of zram's.
pub struct Attribute {
    /// The file's name.
    pub name: &'static str,
    /// The file's permissions, as in the kernel.
    pub mode: u16,
    /// What its number is in: `bytes`, `pages`, `seconds`; empty for anything else.
    pub unit: &'static str,
    /// The first version of Linux that has it, and the last one, if there is one: `6.2`, `3.15 to 6.14`.
    pub since: &'static str,
    /// One line.
    pub about: &'static str,
    /// What it takes and shows, when, and which errors it has; how uzram differs.
    pub docs: &'static str,
    /// Where it stands.
    pub place: Place,
    /// When it can be written.
    pub when: When,
    /// What reading it does. There may be one that is of no use with the kernel's permissions: see [`Attribute::mode_in`].
    pub show: Option<Show>,
    /// What writing it does.
    pub store: Option<Store>,
}

impl Attribute {
    /// The one of that name.
    pub fn find(place: Place, name: &str) -> Option<&'static Attribute> {
        let mut all = ATTRIBUTES.iter();
        all.find(|attribute| attribute.place == place && attribute.name == name)
    }

    /// The file's permissions: those of the kernel, or those with all that uzram can do.
    pub fn mode_in(&self, strict: bool) -> u16 {
        match self.show {
            Some(_) if !strict => self.mode | 0o400,
            _ => self.mode,
        }
    }

    /// Whether it can be written at all, and when, in words.
    pub fn allowed(&self) -> &'static str {
        match (self.store, self.when) {
            (None, _) => "read only",
            (Some(_), When::Always) => "at any time",
            (Some(_), When::Uninit) => "before disksize is set",
            (Some(_), When::Init) => "after disksize is set",
        }
    }

    /// Its permissions as `ls` has them without the type: `rw-r--r--`.
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

/// All attributes: those of `zram-control`, then those of a device in the order of a device's life.
pub static ATTRIBUTES: &[Attribute] = &[
    lifecycle::HOT_ADD,
    lifecycle::HOT_REMOVE,
    lifecycle::DISKSIZE,
    lifecycle::INITSTATE,
    lifecycle::RESET,
    algorithms::COMP_ALGORITHM,
    algorithms::RECOMP_ALGORITHM,
    algorithms::ALGORITHM_PARAMS,
    algorithms::MAX_COMP_STREAMS,
    idle::RECOMPRESS,
    idle::IDLE,
    memory::MEM_LIMIT,
    memory::MEM_USED_MAX,
    memory::COMPACT,
    writeback::BACKING_DEV,
    writeback::WRITEBACK,
    writeback::WRITEBACK_LIMIT,
    writeback::WRITEBACK_LIMIT_ENABLE,
    writeback::WRITEBACK_BATCH_SIZE,
    writeback::COMPRESSED_WRITEBACK,
    statistics::IO_STAT,
    statistics::MM_STAT,
    statistics::DEBUG_STAT,
    statistics::BD_STAT,
];
