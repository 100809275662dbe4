//! The guest's memory, as the client describes it: regions of files, each at an address of the guest and at one of the client.

use std::fs::File;
use std::sync::Arc;

use vhost::vhost_user::message::VhostUserMemoryRegion;
use vhost::vhost_user::{Error, Result};
use vm_memory::mmap::MmapRegion;
use vm_memory::{FileOffset, GuestAddress, GuestMemoryMmap, GuestRegionMmap};

/// Most regions. A guest with memory that was plugged in piece by piece has some tens.
pub(crate) const MAX_REGIONS: usize = 128;

/// One region.
#[derive(Clone)]
struct SharedRegion {
    guest: u64,
    client: u64,
    len: u64,
    mapping: Arc<GuestRegionMmap>,
}

/// All regions. A change makes a new map; who has the old one keeps it mapped.
#[derive(Clone, Default)]
pub(crate) struct SharedMemory {
    regions: Vec<SharedRegion>,
    map: Option<Arc<GuestMemoryMmap>>,
}

impl SharedMemory {
    /// The guest's addresses; `None` before the client has said any.
    pub(crate) fn map(&self) -> Option<&Arc<GuestMemoryMmap>> {
        self.map.as_ref()
    }

    pub(crate) fn clear(&mut self) {
        *self = SharedMemory::default();
    }

    /// Maps a region. Refuses one that overlaps another, or is not all in its file.
    pub(crate) fn add(&mut self, region: &VhostUserMemoryRegion, file: File) -> Result<()> {
        if self.regions.len() == MAX_REGIONS {
            return Err(Error::InvalidOperation("too many regions of memory"));
        }
        let (guest, client, len) = (region.guest_phys_addr, region.user_addr, region.memory_size);
        let bytes = usize::try_from(len).map_err(|_| Error::InvalidParam)?;
        let place = FileOffset::new(file, region.mmap_offset);
        let mapping = MmapRegion::from_file(place, bytes)
            .map_err(|error| Error::ReqHandlerError(std::io::Error::other(error)))?;
        let mapping = GuestRegionMmap::new(mapping, GuestAddress(guest));
        let mapping = Arc::new(mapping.ok_or(Error::InvalidParam)?);
        let mut regions = self.regions.clone();
        regions.push(SharedRegion {
            guest,
            client,
            len,
            mapping,
        });
        self.replace(regions)
    }

    /// Forgets a region that was added.
    pub(crate) fn remove(&mut self, region: &VhostUserMemoryRegion) -> Result<()> {
        let (guest, client, len) = (region.guest_phys_addr, region.user_addr, region.memory_size);
        let mut regions = self.regions.clone();
        regions.retain(|r| (r.guest, r.client, r.len) != (guest, client, len));
        if regions.len() == self.regions.len() {
            return Err(Error::InvalidParam);
        }
        self.replace(regions)
    }

    fn replace(&mut self, mut regions: Vec<SharedRegion>) -> Result<()> {
        regions.sort_by_key(|region| region.guest);
        let mappings = regions
            .iter()
            .map(|region| region.mapping.clone())
            .collect();
        self.map = match regions.is_empty() {
            true => None,
            false => {
                let map = GuestMemoryMmap::from_arc_regions(mappings);
                Some(Arc::new(map.map_err(|_| Error::InvalidParam)?))
            }
        };
        self.regions = regions;
        Ok(())
    }

    /// The guest's address of an address of the client, in which it says where rings are.
    pub(crate) fn guest_address(&self, client: u64) -> Option<GuestAddress> {
        self.regions.iter().find_map(|region| {
            let inside = client.checked_sub(region.client)?;
            (inside < region.len).then(|| GuestAddress(region.guest + inside))
        })
    }
}
