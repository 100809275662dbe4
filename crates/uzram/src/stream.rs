//! Per-CPU compression streams: a tfm and its buffers for each CPU, instead of a list under a lock.
//!
//! A request takes the stream of its CPU. If that is held (its holder was descheduled in the middle of a page), it
//! takes the next free one; it waits only when all are held.

use std::sync::atomic::AtomicU64;
use std::sync::atomic::Ordering::Relaxed;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crossbeam_utils::CachePadded;
use uzram_compress::{Error, Tfm};
use uzram_pool::contention::{self, Lock};

use crate::PAGE_SIZE;
use crate::codec::Residence;
use crate::snapshot::{DirtyMap, StreamCut};

/// Room for an object that grew: two pages, as in the kernel.
const BUFFER: usize = 2 * PAGE_SIZE;

/// Buffers and encoder of one writer.
pub(crate) struct Stream {
    pub(crate) encoder: StreamEncoder,
    /// Buffer in which partial writes assemble the page.
    pub(crate) page: Box<[u8; PAGE_SIZE]>,
    /// What else is to be done when contents change. Without snapshots, none.
    pub(crate) watch: Option<Watch>,
}

/// What snapshots want of a writer.
#[derive(Default)]
pub(crate) struct Watch {
    /// While one is taken: what is overwritten is kept for it.
    pub(crate) cut: Option<StreamCut>,
    /// Where changes are tracked since one.
    pub(crate) dirty: Option<DirtyMap>,
}

/// The part of a stream that makes objects.
pub(crate) struct StreamEncoder {
    /// Index of the codec that `tfm` is of: what it makes is published with this index and no other. Both change
    /// together, under the stream's lock.
    pub(crate) codec: u8,
    pub(crate) tfm: Box<dyn Tfm>,
    pub(crate) object: Box<[u8; BUFFER]>,
    /// What this encoder has made.
    pub(crate) tally: Arc<CachePadded<Tally>>,
}

/// Pages that one stream's encoder compressed, and the bytes of their objects; a page that did not compress counts with
/// all of its bytes.
///
/// Only the holder of the stream's lock writes, with plain loads and stores: counting takes no locked instruction. Others
/// read without the lock. Begins anew with each encoder.
#[derive(Debug, Default)]
pub(crate) struct Tally {
    pages: AtomicU64,
    bytes: AtomicU64,
}

/// What a device's streams compressed since they have their encoders.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct StreamTotals {
    pub(crate) pages: u64,
    pub(crate) bytes: u64,
}

impl Tally {
    /// Counts a page.
    #[inline]
    pub(crate) fn add(&self, bytes: usize) {
        self.pages.store(self.pages.load(Relaxed) + 1, Relaxed);
        let total = self.bytes.load(Relaxed) + bytes as u64;
        self.bytes.store(total, Relaxed);
    }

    pub(crate) fn reset(&self) {
        self.pages.store(0, Relaxed);
        self.bytes.store(0, Relaxed);
    }

    /// The sum over streams. A page may be in one of the two numbers and not yet in the other.
    pub(crate) fn sum(tallies: &[Arc<CachePadded<Tally>>]) -> StreamTotals {
        let mut written = StreamTotals::default();
        for tally in tallies {
            written.pages += tally.pages.load(Relaxed);
            written.bytes += tally.bytes.load(Relaxed);
        }
        written
    }
}

/// A buffer of these bytes.
fn filled<const BYTES: usize>(fill: u8) -> Box<[u8; BYTES]> {
    // Of zeros `vec!` asks the allocator for memory that is zero already, and writes nothing.
    let bytes = if fill == 0 {
        vec![0; BYTES]
    } else {
        vec![fill; BYTES]
    };
    bytes.try_into().unwrap_or_else(|_| Box::new([fill; BYTES]))
}

impl Stream {
    /// A stream whose encoder is of the codec with that index.
    pub(crate) fn new(codec: u8, tfm: Box<dyn Tfm>, residence: Residence) -> Stream {
        // Zeros are memory that nobody has touched; others are there.
        let fill = match residence {
            Residence::AsUsed => 0,
            Residence::Ready => 0xA5,
        };
        Stream {
            encoder: StreamEncoder {
                codec,
                tfm,
                object: filled(fill),
                tally: Arc::default(),
            },
            page: filled(fill),
            watch: None,
        }
    }
}

impl Stream {
    pub(crate) fn watch_mut(&mut self) -> &mut Watch {
        self.watch.get_or_insert_default()
    }

    /// Ends a cut. What is given back is dropped when the stream's lock is free.
    pub(crate) fn end_cut(&mut self) -> Option<StreamCut> {
        let cut = self.watch.as_mut()?.cut.take();
        if self
            .watch
            .as_ref()
            .is_some_and(|watch| watch.dirty.is_none())
        {
            self.watch = None;
        }
        cut
    }
}

/// One `T` for each CPU.
pub(crate) struct PerCpu<T> {
    slots: Box<[CachePadded<Mutex<T>>]>,
}

impl<T> PerCpu<T> {
    /// Makes `count` of them, at least one.
    pub(crate) fn new(
        count: usize,
        mut make: impl FnMut() -> Result<T, Error>,
    ) -> Result<PerCpu<T>, Error> {
        let slots: Result<Vec<_>, Error> = (0..count.max(1))
            .map(|_| Ok(CachePadded::new(Mutex::new(make()?))))
            .collect();
        Ok(PerCpu {
            slots: slots?.into(),
        })
    }

    /// All of them, one after the other.
    pub(crate) fn for_each(&self, mut work: impl FnMut(&mut T)) {
        for slot in &self.slots {
            work(&mut slot.lock().unwrap_or_else(PoisonError::into_inner));
        }
    }

    /// As [`PerCpu::for_each`], for what takes something out: that is dropped when the lock is free again. To give memory
    /// back can wait for whoever reclaims memory, which on a swap device waits for requests.
    pub(crate) fn take_from_each<R>(&self, mut take: impl FnMut(&mut T) -> R) {
        for slot in &self.slots {
            let taken = take(&mut slot.lock().unwrap_or_else(PoisonError::into_inner));
            drop(taken);
        }
    }

    /// All of them at once, by ascending number. Only for who holds none: others hold one at a time.
    pub(crate) fn hold_all(&self) -> Vec<MutexGuard<'_, T>> {
        let slots = self.slots.iter();
        slots
            .map(|slot| slot.lock().unwrap_or_else(PoisonError::into_inner))
            .collect()
    }

    /// How many there are.
    pub(crate) fn count(&self) -> usize {
        self.slots.len()
    }

    /// Takes the one of this CPU, or the next that is free.
    pub(crate) fn get(&self, cpu: usize) -> MutexGuard<'_, T> {
        let count = self.slots.len();
        let free = (0..count).find_map(|i| {
            let free = self.slots[(cpu + i) % count].try_lock().ok();
            if i == 0 {
                contention::note(Lock::Stream, free.is_none());
            }
            free
        });
        // A panic in the middle of a page (none is known) leaves buffers whose content does not matter.
        free.unwrap_or_else(|| {
            self.slots[cpu % count]
                .lock()
                .unwrap_or_else(PoisonError::into_inner)
        })
    }
}
