//! What the device offers: features, and the configuration space of virtio-blk.

use uzram::{Device, PAGE_SIZE};
use vhost::vhost_user::message::{VhostUserProtocolFeatures, VhostUserVirtioFeatures};
use virtio_bindings::virtio_blk as blk;
use virtio_bindings::virtio_config::VIRTIO_F_VERSION_1;
use virtio_bindings::virtio_ring::{VIRTIO_RING_F_EVENT_IDX, VIRTIO_RING_F_INDIRECT_DESC};

/// Most queues: a client asks for as many as its guest has CPUs. Those that it does not set up cost nothing.
pub(crate) const MAX_QUEUES: u16 = 128;
/// Most descriptors of a queue.
pub(crate) const MAX_QUEUE_SIZE: u16 = 1024;
/// Unit of addresses and lengths on a virtio disk.
pub(crate) const SECTOR: u64 = 512;
/// Most ranges of a discard, or of write zeroes.
pub(crate) const MAX_RANGES: usize = 32;
/// Most sectors of a range: 2 GiB, so that one request holds up its queue for a moment only.
pub(crate) const MAX_RANGE_SECTORS: u32 = (2 << 30) / SECTOR as u32;
/// Most parts of a request's data: a queue of 128 descriptors, which is QEMU's default, holds one with header and status.
const MAX_SEGMENTS: u32 = 126;
/// Most bytes of one part.
const MAX_SEGMENT_BYTES: u32 = 1 << 20;
/// Most bytes of a read or a write: what these two allow. A queue's thread ends between requests only, so that a longer one
/// would keep its server from stopping.
pub(crate) const MAX_REQUEST_BYTES: u64 = MAX_SEGMENTS as u64 * MAX_SEGMENT_BYTES as u64;
/// Where the configuration space says whether there is a write cache: the one byte that a driver may change.
const WRITEBACK: usize = 32;
/// What the protocol gives a configuration space at most.
const CONFIG_BYTES: usize = 256;

const fn bit(number: u32) -> u64 {
    1 << number
}

/// Whether event indexes were agreed on.
pub(crate) const EVENT_IDX: u64 = bit(VIRTIO_RING_F_EVENT_IDX);
/// Whether a descriptor may be a table of descriptors.
pub(crate) const INDIRECT: u64 = bit(VIRTIO_RING_F_INDIRECT_DESC);
/// Whether protocol features were agreed on: without them each queue is enabled from its start.
pub(crate) const PROTOCOL_FEATURES: u64 = VhostUserVirtioFeatures::PROTOCOL_FEATURES.bits();

/// All features that are offered.
pub(crate) const fn features(read_only: bool) -> u64 {
    match read_only {
        true => FEATURES | bit(blk::VIRTIO_BLK_F_RO),
        false => FEATURES,
    }
}

const FEATURES: u64 = bit(VIRTIO_F_VERSION_1)
    | EVENT_IDX
    | INDIRECT
    | PROTOCOL_FEATURES
    | bit(blk::VIRTIO_BLK_F_SIZE_MAX)
    | bit(blk::VIRTIO_BLK_F_SEG_MAX)
    | bit(blk::VIRTIO_BLK_F_BLK_SIZE)
    | bit(blk::VIRTIO_BLK_F_FLUSH)
    | bit(blk::VIRTIO_BLK_F_TOPOLOGY)
    | bit(blk::VIRTIO_BLK_F_CONFIG_WCE)
    | bit(blk::VIRTIO_BLK_F_MQ)
    | bit(blk::VIRTIO_BLK_F_DISCARD)
    | bit(blk::VIRTIO_BLK_F_WRITE_ZEROES);

/// All features of the protocol that are offered.
pub(crate) fn protocol_features() -> VhostUserProtocolFeatures {
    VhostUserProtocolFeatures::MQ
        | VhostUserProtocolFeatures::REPLY_ACK
        | VhostUserProtocolFeatures::CONFIG
        | VhostUserProtocolFeatures::INFLIGHT_SHMFD
        | VhostUserProtocolFeatures::CONFIGURE_MEM_SLOTS
}

/// Part of the configuration space; `None` where it is not in it.
pub(crate) fn read(device: &Device, writeback: bool, offset: u32, size: u32) -> Option<Vec<u8>> {
    let mut space = [0u8; CONFIG_BYTES];
    let mut put = |at: usize, bytes: &[u8]| space[at..at + bytes.len()].copy_from_slice(bytes);
    let block = device.logical_block_size();
    let blocks_per_page = PAGE_SIZE as u32 / block;
    let sectors_per_page = PAGE_SIZE as u32 / SECTOR as u32;
    put(0, &(device.size_bytes() / SECTOR).to_le_bytes());
    put(8, &MAX_SEGMENT_BYTES.to_le_bytes());
    put(12, &MAX_SEGMENTS.to_le_bytes());
    put(20, &block.to_le_bytes());
    // Physical blocks are pages: log2 of their logical blocks, and the least size of a request that is good.
    put(24, &[blocks_per_page.ilog2() as u8]);
    put(26, &(blocks_per_page as u16).to_le_bytes());
    put(WRITEBACK, &[u8::from(writeback)]);
    let cpus = std::thread::available_parallelism().map_or(1, usize::from);
    let queues = u16::try_from(cpus).unwrap_or(MAX_QUEUES).min(MAX_QUEUES);
    put(34, &queues.to_le_bytes());
    put(36, &MAX_RANGE_SECTORS.to_le_bytes());
    put(40, &(MAX_RANGES as u32).to_le_bytes());
    put(44, &sectors_per_page.to_le_bytes());
    put(48, &MAX_RANGE_SECTORS.to_le_bytes());
    put(52, &(MAX_RANGES as u32).to_le_bytes());
    put(56, &[1]);
    let begin = usize::try_from(offset).ok()?;
    let end = begin.checked_add(usize::try_from(size).ok()?)?;
    space.get(begin..end).map(<[u8]>::to_vec)
}

/// What a driver writes to the configuration space: whether there is to be a write cache. `None` for anything else.
pub(crate) fn write(offset: u32, bytes: &[u8]) -> Option<bool> {
    match (usize::try_from(offset), bytes) {
        (Ok(WRITEBACK), [0]) => Some(false),
        (Ok(WRITEBACK), [1]) => Some(true),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_space_says_the_size_and_ends() {
        let device = Device::builder(5 << 20).build().unwrap();
        let whole = read(&device, true, 0, 60).unwrap();
        assert_eq!(whole[..8], (5u64 << 11).to_le_bytes());
        assert_eq!(whole[20..24], device.logical_block_size().to_le_bytes());
        assert_eq!(whole[WRITEBACK], 1);
        assert_eq!(read(&device, false, 32, 1).unwrap(), [0]);
        assert_eq!(read(&device, false, 250, 6).unwrap().len(), 6);
        assert_eq!(read(&device, false, 250, 7), None);
        assert_eq!(read(&device, false, u32::MAX, u32::MAX), None);
    }

    #[test]
    fn only_the_write_cache_can_be_set() {
        assert_eq!(write(32, &[1]), Some(true));
        assert_eq!(write(32, &[0]), Some(false));
        for (offset, bytes) in [(32, &[2][..]), (32, &[]), (32, &[0, 0]), (0, &[1])] {
            assert_eq!(write(offset, bytes), None);
        }
    }
}
