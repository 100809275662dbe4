//! Which pages were written since a snapshot: what an incremental one has to hold.
//!
//! Two bitmaps lie behind the arena, one bit a page each, and outlive the process. The *current* one gets the bits of what is
//! written. At a cut that asks for it the roles are exchanged, under the gate: the older one then says what changed since
//! the snapshot before. When the new snapshot is safe, its name is recorded and the older one cleared; if it fails, the
//! older one is merged into the current one.
//!
//! A bit is set *before* the word is published. So a death in between marks a page too much, never one too few.
//!
//! # The words in the state page
//!
//! *Tracking* says whether changes are tracked, which bitmap is current, and whether a cut is under way: then the older bitmap
//! counts, too, and whoever attaches merges it. It is cleared last. *Since* is the beginning of the snapshot's name, 0 for
//! none. *Tracked by* is the count of attaches when a program that tracks attached last. One that does not counts itself and
//! no more: then what is tracked is void.

use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::sync::atomic::Ordering::{Relaxed, Release, SeqCst};

use uzram_pool::Region;

use crate::Error;
use crate::device::Device;
use crate::layout::{ImageGeometry, state};

/// The bits of the word *tracking*.
const ON: u64 = 1;
const SECOND_IS_CURRENT: u64 = 2;
const CUT: u64 = 4;

/// The beginning of a snapshot's name, by which a device knows what its changes are since.
pub type SnapshotId = [u8; 16];

/// One of the two bitmaps.
#[derive(Clone)]
pub(crate) struct DirtyMap {
    region: Arc<Region>,
    offset: u64,
    bytes: u64,
}

impl DirtyMap {
    fn new(region: &Arc<Region>, geometry: &ImageGeometry, which: usize) -> DirtyMap {
        DirtyMap {
            region: region.clone(),
            offset: geometry.dirty_offset(which),
            bytes: geometry.dirty_bytes(),
        }
    }

    /// The bits of a frame's pages.
    fn word(&self, frame: u64) -> &AtomicU64 {
        &self.region.words(self.offset + frame * 8, 1)[0]
    }

    /// Marks a page. A page that is written again costs a look.
    #[inline]
    pub(crate) fn note(&self, page: u64) {
        let (word, bit) = (self.word(page / 64), 1 << (page % 64));
        if word.load(Relaxed) & bit == 0 {
            word.fetch_or(bit, Release);
        }
    }

    pub(super) fn bits(&self, frame: u64) -> u64 {
        self.word(frame).load(Relaxed)
    }

    /// The frames that may have bits. A look at others would take memory for them.
    pub(super) fn frames(&self) -> impl Iterator<Item = Range<u64>> + '_ {
        let ranges = self
            .region
            .data_ranges(self.offset, self.offset + self.bytes);
        ranges.map(|(at, len)| {
            let at = at - self.offset;
            at / 8..(at + len) / 8
        })
    }

    /// Adds another one's bits.
    fn merge(&self, other: &DirtyMap) {
        for frame in other.frames().flatten() {
            match other.bits(frame) {
                0 => {}
                bits => {
                    self.word(frame).fetch_or(bits, Release);
                }
            }
        }
    }

    fn clear(&self) {
        self.region.release(self.offset, self.bytes);
    }
}

/// What a cut has to do with what is tracked.
pub(super) struct DirtyCut {
    /// What changed before the cut, and what does after it.
    pub(super) older: DirtyMap,
    pub(super) newer: DirtyMap,
    second_is_current: bool,
}

impl Device {
    /// What the changes that are tracked are since: `None` where none are tracked, all zeros where a complete snapshot has to
    /// come first.
    pub fn tracked_since(&self) -> Option<SnapshotId> {
        let state = self.state();
        if !self.geometry.has_dirty || state[state::TRACKING].load(Relaxed) & ON == 0 {
            return None;
        }
        let words = [0, 1].map(|at| state[state::SINCE + at].load(Relaxed).to_le_bytes());
        let mut id = [0; 16];
        id.as_chunks_mut::<8>().0.copy_from_slice(&words);
        Some(id)
    }

    /// Refuses changes since anything but what they are tracked since.
    pub(super) fn check_since(&self, since: &SnapshotId) -> Result<(), Error> {
        match self.tracked_since() {
            Some(tracked) if tracked == *since && tracked != [0; 16] => Ok(()),
            Some(tracked) if tracked != [0; 16] => Err(Error::SnapshotSince { tracked }),
            _ => Err(Error::SnapshotUntracked),
        }
    }

    fn dirty_map(&self, second: bool) -> DirtyMap {
        DirtyMap::new(&self.region, &self.geometry, usize::from(second))
    }

    /// Prepares for [`Device::exchange_dirty`], before the gate. `None` for an image that has no bitmaps.
    pub(super) fn dirty_cut(&self) -> Option<DirtyCut> {
        if !self.geometry.has_dirty {
            return None;
        }
        let tracking = self.state()[state::TRACKING].load(Relaxed);
        if tracking & ON == 0 {
            // What an older program left.
            self.dirty_map(false).clear();
            self.dirty_map(true).clear();
            self.set_since(&[0; 16]);
        }
        let second_is_current = tracking & SECOND_IS_CURRENT == 0;
        Some(DirtyCut {
            older: self.dirty_map(!second_is_current),
            newer: self.dirty_map(second_is_current),
            second_is_current,
        })
    }

    /// Exchanges the roles of the bitmaps. Only for who holds all streams, each of which gets the newer one next.
    pub(super) fn exchange_dirty(&self, cut: &DirtyCut) {
        let state = self.state();
        let attached = state[state::ATTACHED].load(Relaxed);
        state[state::TRACKED_BY].store(attached, SeqCst);
        self.set_tracking(cut, CUT);
    }

    fn set_tracking(&self, cut: &DirtyCut, more: u64) {
        let current = match cut.second_is_current {
            true => SECOND_IS_CURRENT,
            false => 0,
        };
        self.state()[state::TRACKING].store(ON | current | more, SeqCst);
    }

    fn set_since(&self, id: &SnapshotId) {
        let (words, _) = id.as_chunks::<8>();
        for (at, word) in words.iter().enumerate() {
            self.state()[state::SINCE + at].store(u64::from_le_bytes(*word), SeqCst);
        }
    }

    /// Records what the changes are since from now on: a snapshot that is safe. In this order a death at any point leaves
    /// too much marked, or a name that nobody has.
    pub(super) fn record_since(&self, cut: &DirtyCut, id: &SnapshotId) {
        self.set_since(id);
        self.end_dirty(cut);
    }

    /// Keeps the changes since what they were since: the snapshot failed.
    pub(super) fn merge_dirty(&self, cut: &DirtyCut) {
        cut.newer.merge(&cut.older);
        self.end_dirty(cut);
    }

    fn end_dirty(&self, cut: &DirtyCut) {
        cut.older.clear();
        self.set_tracking(cut, 0);
    }

    /// Goes on with what a process before has tracked. Before the device is in use; counts this process.
    pub(crate) fn resume_tracking(&self) {
        let state = self.state();
        let attached = state[state::ATTACHED].load(Relaxed);
        let tracking = state[state::TRACKING].load(Relaxed);
        let is_tracked = self.geometry.has_dirty && tracking & ON != 0;
        let is_known = tracking & !(ON | SECOND_IS_CURRENT | CUT) == 0;
        if is_tracked && is_known && state[state::TRACKED_BY].load(Relaxed) == attached {
            let second_is_current = tracking & SECOND_IS_CURRENT != 0;
            let cut = DirtyCut {
                older: self.dirty_map(!second_is_current),
                newer: self.dirty_map(second_is_current),
                second_is_current,
            };
            if tracking & CUT != 0 {
                self.merge_dirty(&cut);
            }
            self.streams.for_each(|stream| {
                stream.watch_mut().dirty = Some(cut.newer.clone());
            });
            state[state::ATTACHED].fetch_add(1, SeqCst);
            state[state::TRACKED_BY].store(attached + 1, SeqCst);
            return;
        }
        state[state::TRACKING].store(0, SeqCst);
        state[state::ATTACHED].fetch_add(1, Relaxed);
    }

    /// Memory of the bitmaps at most, where there are any.
    pub(crate) fn dirty_map_bytes(&self) -> u64 {
        match self.tracked_since() {
            Some(_) => 2 * self.geometry.dirty_bytes(),
            None => 0,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::fs::File;
    use std::os::fd::{AsFd, AsRawFd, OwnedFd};

    use super::*;
    use crate::CutOptions;

    fn reopen(file: &OwnedFd) -> OwnedFd {
        let path = format!("/proc/self/fd/{}", file.as_fd().as_raw_fd());
        let file = File::options().read(true).write(true).open(path);
        file.unwrap().into()
    }

    const OLD: SnapshotId = [1; 16];
    const NEW: SnapshotId = [2; 16];

    fn write(device: &Device, page: u64) {
        device
            .write_at(&[page as u8 + 1; 4096], page * 4096)
            .unwrap();
    }

    /// The pages of the first frame that changed since a snapshot.
    fn changed(device: &Device, since: &SnapshotId) -> Result<u64, Error> {
        let mut options = CutOptions::new(None);
        options.since = Some(*since);
        let mut cut = device.cut(&options)?;
        let mut found = 0;
        while cut
            .next_changed_frame(|_, bits| {
                found |= bits;
                Ok::<u64, Error>(bits)
            })?
            .is_some()
        {}
        Ok(found)
    }

    /// A device whose changes are since [`OLD`], with page 1 written before a cut and page 2 after. `die` does the last steps
    /// as far as the process comes; another one attaches.
    fn after(die: impl FnOnce(&Device, &DirtyCut)) -> Device {
        let file = rustix::fs::memfd_create("uzram-test", rustix::fs::MemfdFlags::CLOEXEC).unwrap();
        let builder = Device::builder(1 << 20).streams(1);
        let device = builder.build_in(reopen(&file)).unwrap();
        let mut track = CutOptions::new(None);
        track.track = true;
        device.cut(&track).unwrap().record(&OLD);
        write(&device, 1);
        let mut cut = device.cut(&track).unwrap();
        write(&device, 2);
        // The process does no more than `die`.
        die(&device, &cut.dirty_for_tests());
        drop(cut);
        drop(device);
        Device::builder(0).streams(1).attach(file).unwrap()
    }

    #[test]
    fn a_death_between_any_two_steps_loses_no_change() {
        let (one, both) = (1 << 1, 1 << 1 | 1 << 2);
        // Before anything is recorded.
        let device = after(|_, _| {});
        assert_eq!(changed(&device, &OLD), Ok(both));
        write(&device, 3);
        assert_eq!(changed(&device, &OLD), Ok(both | 1 << 3));
        // Half a name is nobody's.
        let device = after(|device, _| {
            let word = u64::from_le_bytes([2; 8]);
            device.state()[state::SINCE].store(word, Relaxed);
        });
        for id in [OLD, NEW] {
            let refused = changed(&device, &id).unwrap_err();
            assert!(matches!(refused, Error::SnapshotSince { .. }), "{refused}");
        }
        // The name is recorded, the older bitmap not cleared: too much.
        let device = after(|device, _| device.set_since(&NEW));
        assert_eq!(changed(&device, &NEW), Ok(both));
        // It is cleared, and *cut* still set.
        let device = after(|device, cut| {
            device.set_since(&NEW);
            cut.older.clear();
        });
        assert_eq!(changed(&device, &NEW), Ok(both & !one));
        // All of it.
        let device = after(|device, cut| device.record_since(cut, &NEW));
        assert_eq!(changed(&device, &NEW), Ok(both & !one));
        // A merge that was cut short is done again.
        let device = after(|_, cut| cut.newer.merge(&cut.older));
        assert_eq!(changed(&device, &OLD), Ok(both));
        let device = after(|device, cut| {
            cut.newer.merge(&cut.older);
            cut.older.clear();
            assert_ne!(device.state()[state::TRACKING].load(Relaxed) & CUT, 0);
        });
        assert_eq!(changed(&device, &OLD), Ok(both));
        // In the middle of a write: the bit is set, the word is not.
        let device = after(|_, cut| cut.newer.note(5));
        assert_eq!(changed(&device, &OLD), Ok(both | 1 << 5));
    }

    /// An image of before the bitmaps is served as ever, and says that it cannot track.
    #[test]
    fn an_older_image_has_no_bitmaps() {
        use zerocopy::IntoBytes;
        let file = rustix::fs::memfd_create("uzram-test", rustix::fs::MemfdFlags::CLOEXEC).unwrap();
        let builder = Device::builder(1 << 20).streams(1);
        let device = builder.build_in(reopen(&file)).unwrap();
        write(&device, 1);
        let mut geometry = device.geometry;
        geometry.has_dirty = false;
        drop(device);
        let header = crate::layout::Header::new(&geometry, 4096);
        rustix::io::pwrite(&file, header.as_bytes(), 0).unwrap();
        rustix::fs::ftruncate(&file, geometry.image_bytes()).unwrap();
        let device = Device::builder(0).streams(1).attach(file).unwrap();
        let mut track = CutOptions::new(None);
        track.track = true;
        assert_eq!(device.cut(&track).unwrap_err(), Error::SnapshotUntrackable);
        assert_eq!(changed(&device, &OLD), Err(Error::SnapshotUntracked));
        write(&device, 2);
        let mut cut = device.cut(&CutOptions::default()).unwrap();
        assert!(cut.next_frame().unwrap().is_some());
    }

    /// A program that does not track counts itself and no more.
    #[test]
    fn what_another_program_served_meanwhile_is_not_known() {
        let device = after(|device, _| {
            device.state()[state::ATTACHED].fetch_add(1, Relaxed);
        });
        assert_eq!(device.tracked_since(), None);
        assert_eq!(changed(&device, &OLD), Err(Error::SnapshotUntracked));
        // From a new complete one on it is known again, whatever is left in the bitmaps.
        let mut track = CutOptions::new(None);
        track.track = true;
        device.cut(&track).unwrap().record(&NEW);
        write(&device, 4);
        assert_eq!(changed(&device, &NEW), Ok(1 << 4));
    }
}
