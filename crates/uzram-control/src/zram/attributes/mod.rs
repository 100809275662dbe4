//! The attributes by theme. Each is a constant with its documentation, followed by the functions that read and write it.
//! [`ATTRIBUTES`] lists them.

mod algorithms;
mod idle;
mod lifecycle;
mod memory;
mod statistics;
mod writeback;

use super::{Attribute, AttributePlace};

/// All attributes: those of `zram-control`, then those of a device in the order of its life.
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

impl Attribute {
    /// Finds the attribute of that name.
    pub fn find(place: AttributePlace, name: &str) -> Option<&'static Attribute> {
        let mut all = ATTRIBUTES.iter();
        all.find(|attribute| attribute.place == place && attribute.name == name)
    }
}
