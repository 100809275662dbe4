//! The settings of a ublk device and their checks, and the tag by which it is recognised.

use std::path::Path;

use uzram::Device;

use crate::Error;
use crate::abi::{
    ATTR_FUA, ATTR_VOLATILE_CACHE, MAX_DEVICES, MAX_IO_BYTES, MAX_QUEUE_DEPTH, PARAM_TYPES,
    UblkParams,
};

/// Largest discard: the block layer's own limit.
const MAX_DISCARD_SECTORS: u32 = u32::MAX >> 9;

/// Upper half of every tag.
const UZRAM: u32 = u32::from_be_bytes(*b"UZRM");

/// Says whose a ublk device is. The driver keeps it, so that a dead server's device can be recognised.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Tag(pub(crate) u64);

impl Tag {
    /// Whether `tag` marks any device of uzram's.
    pub(crate) fn is_uzrams(tag: u64) -> bool {
        (tag >> 32) as u32 == UZRAM
    }

    /// Makes the tag of the device to which this path belongs, such as its directory.
    pub fn from_path(path: &Path) -> Tag {
        let hash = crc32fast::hash(path.as_os_str().as_encoded_bytes());
        Tag(u64::from(UZRAM) << 32 | u64::from(hash))
    }
}

/// How the bytes of requests are passed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Buffers {
    /// This process copies, with one buffer for each queue.
    UserCopy,
    /// The driver copies, with one buffer for each tag.
    Mapped,
}

/// Settings of a ublk device.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct UblkOptions {
    /// N of `/dev/ublkbN`. `None` takes the lowest that is free.
    pub id: Option<u32>,
    /// Hardware queues, each with a thread; at most one for each CPU. `None` makes one for each CPU.
    pub queues: Option<u16>,
    /// Requests in flight of one queue, 1 to 4096.
    pub depth: u16,
    /// Largest request in bytes, a multiple of 4096 up to 32 MiB.
    pub max_io_bytes: u32,
    /// How bytes are passed. `None` chooses user copy where user and driver allow it, which measured faster.
    pub buffers: Option<Buffers>,
    /// Announces a volatile write cache, so that flushes and FUA arrive here. Off by default: memory needs no flush.
    pub write_cache: bool,
    /// Has the driver read the partition table, at the start and whenever a tool tells it to. Off by default: a server that is
    /// killed during the first reading can never be replaced (Linux 6.12).
    pub partscan: bool,
    /// Brings buffers and stacks into memory before the first request, as swap needs it. Locking them is up to the caller.
    pub prefault: bool,
    /// Called by each queue's thread when it has all its memory, before its first request.
    pub on_ready: Option<fn()>,
    /// Whose device it is.
    pub tag: Tag,
}

impl UblkOptions {
    /// One queue for each CPU, depth 128, requests of up to 512 KiB.
    pub fn new(tag: Tag) -> UblkOptions {
        UblkOptions {
            id: None,
            queues: None,
            depth: 128,
            max_io_bytes: 512 << 10,
            buffers: None,
            write_cache: false,
            partscan: false,
            prefault: false,
            on_ready: None,
            tag,
        }
    }

    pub(crate) fn check(&self) -> Result<(), Error> {
        let rule = |holds: bool, what: &'static str, given: u64, accepted: String| {
            let invalid = Error::Invalid {
                what,
                given,
                accepted,
            };
            if holds { Ok(()) } else { Err(invalid) }
        };
        if let Some(id) = self.id {
            let accepted = format!("0 to {}", MAX_DEVICES - 1);
            rule(id < MAX_DEVICES, "number", id.into(), accepted)?;
        }
        if let Some(queues) = self.queues {
            let accepted = format!("1 to {}, one for each CPU", cpus());
            let fits = (1..=cpus()).contains(&queues);
            rule(fits, "queues", queues.into(), accepted)?;
        }
        let fits = (1..=MAX_QUEUE_DEPTH).contains(&self.depth);
        let accepted = format!("1 to {MAX_QUEUE_DEPTH}");
        rule(fits, "queue depth", self.depth.into(), accepted)?;
        let max = self.max_io_bytes;
        let fits = max.is_multiple_of(4096) && (4096..=MAX_IO_BYTES).contains(&max);
        let accepted = format!("a multiple of 4096 up to {MAX_IO_BYTES}");
        rule(fits, "max-io", max.into(), accepted)
    }

    pub(crate) fn params(&self, device: &Device) -> UblkParams {
        let attrs = if self.write_cache {
            ATTR_VOLATILE_CACHE | ATTR_FUA
        } else {
            0
        };
        UblkParams {
            types: PARAM_TYPES,
            attrs,
            logical_bs_shift: device.logical_block_size().trailing_zeros() as u8,
            physical_bs_shift: 12,
            io_opt_shift: 12,
            io_min_shift: 12,
            max_sectors: self.max_io_bytes >> 9,
            dev_sectors: device.size_bytes() >> 9,
            discard_granularity: 4096,
            max_discard_sectors: MAX_DISCARD_SECTORS,
            max_write_zeroes_sectors: MAX_DISCARD_SECTORS,
            max_discard_segments: 1,
            ..UblkParams::default()
        }
    }
}

pub(crate) fn cpus() -> u16 {
    std::thread::available_parallelism().map_or(1, |n| n.get().min(4096) as u16)
}
