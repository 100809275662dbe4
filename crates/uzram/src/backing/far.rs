//! Objects of a backing that is far away, read before a request takes anything.
//!
//! A store answers after milliseconds, or after a timeout. A request that read it in its place would hold a stream, a slot or
//! a reader's contexts meanwhile, and others would wait with it. So [`Device::read_at`] and [`Device::write_at`] have the
//! objects brought that they need, all at once, and go on as with any other. The segments of what was brought are held until the
//! request is done: while a slot names the same place, it is for the same bytes.
//!
//! A page that goes to the backing, or moves there, between the two is read in its place: it was idle until now.
//!
//! **Cost** where the backing is near, or none: a flag is read once for each request.
//!
//! **Memory bound**: the objects that the request needs, in pieces of at most 1 MiB read around them.

use std::collections::HashMap;
use std::collections::hash_map::Entry;

use uzram_backing::{Hold, ReadError, WantedObject};

use super::{Attached, location};
use crate::Error;
use crate::device::Device;
use crate::remote::Access;
use crate::word::{Backed, Content};

/// How often what moved meanwhile is looked for again.
const TRIES: usize = 3;

/// Objects that were brought for a request, in the order of their pages.
#[derive(Default)]
pub(crate) struct Brought {
    objects: Vec<BroughtObject>,
    /// By segment.
    holds: HashMap<u32, Hold>,
}

struct BroughtObject {
    page: u64,
    backed: Backed,
    bytes: Box<[u8]>,
}

impl Brought {
    /// The object of a page, if it was brought from where its slot says that it is.
    pub(crate) fn find(&self, page: u64, backed: Backed) -> Option<&[u8]> {
        let at = self
            .objects
            .binary_search_by_key(&page, |object| object.page);
        let object = &self.objects[at.ok()?];
        (object.backed == backed).then_some(&*object.bytes)
    }

    /// Brings those of these pages that are on the backing and not here yet. Returns how many were looked for, and the first
    /// failure that is no page's that has changed meanwhile.
    pub(super) fn bring(
        &mut self,
        device: &Device,
        attached: &Attached,
        pages: impl Iterator<Item = u64>,
    ) -> Result<usize, (u64, ReadError)> {
        let (mut wanted, mut of) = (Vec::new(), Vec::new());
        for page in pages {
            let Content::Backed(backed) = device.table.peek(page) else {
                continue;
            };
            // No place is no object's: found when it is read.
            let Ok(location) = location(backed, page) else {
                continue;
            };
            if self.find(page, backed).is_some() {
                continue;
            }
            let segment = attached.backing.segment_of(location);
            if let Entry::Vacant(place) = self.holds.entry(segment) {
                let Some(hold) = attached.backing.hold(location) else {
                    continue;
                };
                place.insert(hold);
            }
            // After the hold: from here on the place is that object's.
            if device.table.peek(page) != Content::Backed(backed) {
                continue;
            }
            wanted.push(WantedObject {
                location,
                len: backed.len.into(),
                owner: page as u32,
            });
            of.push((page, backed));
        }
        let looked_for = wanted.len();
        let found = attached.backing.read_many(&wanted);
        let mut failed = None;
        for ((page, backed), result) in of.into_iter().zip(found) {
            match result {
                Ok(bytes) => {
                    self.objects.retain(|object| object.page != page);
                    let object = BroughtObject {
                        page,
                        backed,
                        bytes,
                    };
                    self.objects.push(object);
                }
                // Somebody wrote to it meanwhile, or it moved.
                Err(_) if device.table.peek(page) != Content::Backed(backed) => {}
                Err(error) => {
                    failed.get_or_insert((page, error));
                }
            }
        }
        self.objects.sort_unstable_by_key(|object| object.page);
        failed.map_or(Ok(looked_for), Err)
    }
}

impl Device {
    /// Whether a request needs pages that are on the backing.
    #[cold]
    pub(crate) fn needs_backed(&self, access: Access, offset: u64, len: u64) -> bool {
        let mut pages = self.needed_pages(access, offset, len);
        pages.any(|page| matches!(self.table.peek(page), Content::Backed(_)))
    }

    /// Reads the objects that a request needs from the backing, and waits for it.
    ///
    /// [`Error::BackingRead`] where one cannot be read.
    #[cold]
    pub(crate) fn bring_backed(
        &self,
        access: Access,
        offset: u64,
        len: u64,
    ) -> Result<Option<Box<Brought>>, Error> {
        if !self.needs_backed(access, offset, len) {
            return Ok(None);
        }
        let Some(attached) = self.backing.get() else {
            return Ok(None);
        };
        let mut brought = Box::<Brought>::default();
        for _ in 0..TRIES {
            let pages = self.needed_pages(access, offset, len);
            let looked_for = brought.bring(self, &attached, pages);
            if looked_for.map_err(|(page, source)| attached.read_error(page, source))? == 0 {
                break;
            }
        }
        Ok(Some(brought))
    }
}
