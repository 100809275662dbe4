//! A device's contents at one moment, while requests go on: what a snapshot is written from.
//!
//! [`Device::cut`] takes every stream once. That is the moment: each request is before it or after it as a whole. From then
//! on whoever replaces a word that is not captured yet keeps the old one, with its object (`state`). The holder of the
//! [`Cut`] walks through the device frame by frame, and captures the rest (`walk`).
//!
//! Nothing of a cut is in the image. When the process dies, what was kept is named by no word, and who attaches drops it as
//! any other object that nobody names.

mod basis;
mod dirty;
mod frozen;
mod gate;
mod state;
mod walk;

use std::sync::atomic::AtomicU64;
use std::sync::atomic::Ordering::Relaxed;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

pub use basis::Basis;
use dirty::DirtyCut;
pub(crate) use dirty::DirtyMap;
pub use dirty::SnapshotId;
pub use frozen::FrozenFrames;
pub(crate) use gate::Gate;
use state::Changed;
pub(crate) use state::{CutState, StreamCut};
pub use walk::{Cut, CutFrame, CutPage, CutWatch, FRAME_PAGES};

use crate::Error;
use crate::device::Device;

/// What may be kept for a cut: this part of the memory in use, and at least so many bytes.
const KEPT_PART: u64 = 16;
const KEPT_LEAST: u64 = 64 << 20;

/// How a cut is made.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[non_exhaustive]
pub struct CutOptions {
    /// Most bytes that may be kept of what requests overwrite meanwhile. `None`: 1/16 of the memory in use, and at least
    /// 64 MiB.
    pub kept_max_bytes: Option<u64>,
    /// Tracks changes from this cut on: once [`Cut::record`] has been told what came of it, a later one can be `since` that.
    /// Costs each write a look at a bit, until the device is gone.
    pub track: bool,
    /// Lets nothing change from the cut on: writes and discards wait until it is dropped, or fail once it was [handed
    /// over](Cut::hand_over). Reads go on.
    pub freeze: bool,
    /// Only what changed since this one: see [`Cut::next_changed_frame`]. Implies `track`.
    pub since: Option<SnapshotId>,
}

impl CutOptions {
    /// With a bound on what may be kept; `None` for the default.
    pub fn new(kept_max_bytes: Option<u64>) -> CutOptions {
        CutOptions {
            kept_max_bytes,
            ..CutOptions::default()
        }
    }
}

/// A codec as it is at the cut.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CutCodec {
    /// The number by which [`CutPage::Object`] names it.
    pub index: u8,
    /// The algorithm's name.
    pub algorithm: String,
    /// The driver's name.
    pub driver: String,
    /// The parameters that differ from the defaults, as `level=1`; empty for none.
    pub params: String,
    /// Its dictionary.
    pub dictionary: Option<Arc<[u8]>>,
    /// Its priorities: 0 for the primary, 1 to 3 for a secondary.
    pub priorities: Vec<usize>,
}

/// How far a cut has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[cfg_attr(feature = "serde", serde(default))]
pub struct CutProgress {
    /// Pages that are captured, or hold nothing.
    pub done_pages: u64,
    /// Pages of the device at the cut.
    pub pages: u64,
    /// Bytes that are kept now of what requests overwrote.
    pub kept_bytes: u64,
    /// Most bytes that may be.
    pub kept_max_bytes: u64,
    /// Whether it is a [`Basis`], which a cut follows.
    pub is_basis: bool,
}

/// The cut of a device, if there is one.
#[derive(Default)]
pub(crate) struct CutSlot {
    /// Locked for moments only: never while a stream is waited for.
    state: Mutex<Option<Arc<CutState>>>,
    /// Memory of its books, beside what is kept.
    book_bytes: AtomicU64,
}

impl CutSlot {
    fn lock(&self) -> MutexGuard<'_, Option<Arc<CutState>>> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn book_bytes(&self) -> u64 {
        self.book_bytes.load(Relaxed)
    }

    pub(crate) fn get(&self) -> Option<Arc<CutState>> {
        self.lock().clone()
    }
}

impl Device {
    /// Cuts: what the device holds now is what the [`Cut`] yields, whatever is written later. Requests wait as long as the
    /// longest one in flight, and no longer for a larger device.
    ///
    /// Recompression, writeback, promotion and a change of the backing are refused with [`Error::Snapshot`] until the
    /// cut is dropped; an agent's rest.
    ///
    /// [`Error::Snapshot`] while there is another, [`Error::SnapshotWithReserve`] for a swap device, [`Error::RemotePages`] while
    /// a page is remote, [`Error::Reserve`] where the system refuses address space; [`Error::SnapshotUntracked`] and [`Error::SnapshotSince`] where changes are
    /// not tracked since what is asked for, [`Error::SnapshotUntrackable`] where they cannot be.
    pub fn cut(&self, options: &CutOptions) -> Result<Cut<'_>, Error> {
        self.cut_after(options, None)
    }

    /// Begins to copy what the device holds while it changes, for a [`Basis::cut`] that has little left to copy. Requests wait
    /// for it once as for a cut, and nothing is kept. What is refused during a cut is refused from here on.
    ///
    /// [`Error::Snapshot`] while there is another, or a cut, [`Error::SnapshotWithReserve`] for a swap device,
    /// [`Error::RemotePages`] while a page is remote, [`Error::Reserve`] where the system refuses address space.
    pub fn basis(&self) -> Result<Basis<'_>, Error> {
        self.check_cuttable()?;
        let _alone = self.post_processing();
        let _size = self.resizing.lock().unwrap_or_else(PoisonError::into_inner);
        let _codecs = self.codecs.change();
        let mut state = CutState::new(self.table.pages(), self.streams.count(), 0, None)?;
        state.is_basis = true;
        Ok(Basis(self.begin_cut(Arc::new(state), None, None)?))
    }

    /// Refuses what can have no snapshot.
    fn check_cuttable(&self) -> Result<(), Error> {
        if self.pool.has_stock() {
            return Err(Error::SnapshotWithReserve);
        }
        // None comes back: who walks finds none.
        match self.remote_pages() {
            0 => Ok(()),
            pages => Err(Error::RemotePages { pages }),
        }
    }

    /// Cuts, in the place of a basis where there is one.
    fn cut_after(
        &self,
        options: &CutOptions,
        basis: Option<&Arc<CutState>>,
    ) -> Result<Cut<'_>, Error> {
        self.check_cuttable()?;
        // Neither can change what a word or an index means, or how many pages there are, before every stream has the cut.
        let _alone = self.post_processing();
        let _size = self.resizing.lock().unwrap_or_else(PoisonError::into_inner);
        let _codecs = self.codecs.change();
        let used = self.pool.used_bytes() + self.table.used_bytes();
        let bound = options.kept_max_bytes;
        let bound = bound.unwrap_or_else(|| (used / KEPT_PART).max(KEPT_LEAST));
        if self.cut.get().is_some() && basis.is_none() {
            return Err(Error::Snapshot);
        }
        if let Some(since) = &options.since {
            self.check_since(since)?;
        }
        if let Some(basis) = basis {
            if options.since.is_some() {
                return Err(Error::Invalid {
                    what: "a snapshot",
                    given: "with a basis and since another one".into(),
                    accepted: "one of the two".into(),
                });
            }
            if basis.pages != self.table.pages() {
                let why = "the device got another size meanwhile";
                return Err(Error::SnapshotGivenUp { why });
            }
        }
        let dirty = match options.track || options.since.is_some() {
            true => Some(self.dirty_cut().ok_or(Error::SnapshotUntrackable)?),
            false => None,
        };
        let since = dirty.as_ref().filter(|_| options.since.is_some());
        let since = since.map(|dirty| Changed::Since(dirty.older.clone()));
        let changed = basis.cloned().map(Changed::Basis).or(since);
        let mut state = CutState::new(self.table.pages(), self.streams.count(), bound, changed)?;
        state.gate = options.freeze.then(|| Arc::new(Gate::closed()));
        self.begin_cut(Arc::new(state), basis, dirty)
    }

    /// Has every stream know of a cut from one moment on. The caller has the right to change the size and the codecs.
    fn begin_cut(
        &self,
        state: Arc<CutState>,
        basis: Option<&Arc<CutState>>,
        dirty: Option<DirtyCut>,
    ) -> Result<Cut<'_>, Error> {
        {
            let mut slot = self.cut.lock();
            let is_free = match (&*slot, basis) {
                (None, None) => true,
                (Some(now), Some(basis)) => Arc::ptr_eq(now, basis),
                _ => false,
            };
            if !is_free {
                return Err(Error::Snapshot);
            }
            *slot = Some(state.clone());
        }
        self.cut_books_grew(state.bitmap_bytes());
        // From here on it ends when it is dropped.
        let mut cut = Cut::new(self, state.clone());
        let begin = Instant::now();
        let mut replaced = Vec::with_capacity(self.streams.count());
        let mut streams = self.streams.hold_all();
        cut.codecs = self.codecs.at_cut(&self.counters);
        if let Some(dirty) = &dirty {
            self.exchange_dirty(dirty);
        }
        for (number, stream) in streams.iter_mut().enumerate() {
            let watch = stream.watch_mut();
            let cut = StreamCut::new(state.clone(), number);
            replaced.push(watch.cut.replace(cut));
            if let Some(dirty) = &dirty {
                watch.dirty = Some(dirty.newer.clone());
            }
        }
        drop(streams);
        cut.pause = begin.elapsed();
        // The basis itself is in the cut: nothing is given back here.
        drop(replaced);
        cut.began(dirty);
        Ok(cut)
    }

    /// Counts memory of a cut's books that is new.
    pub(crate) fn cut_books_grew(&self, bytes: u64) {
        self.cut.book_bytes.fetch_add(bytes, Relaxed);
        self.tell_books();
    }

    /// How far the cut has come, if there is one. Never waits for requests.
    pub fn cut_progress(&self) -> Option<CutProgress> {
        Some(self.cut.get()?.progress())
    }

    /// Whether nothing may change.
    pub(crate) fn is_frozen(&self) -> bool {
        self.cut.get().is_some_and(|cut| cut.gate.is_some())
    }

    /// Refuses a job that would change what the words of an uncaptured page mean. Asked by the holder of `post`.
    pub(crate) fn refuse_during_cut(&self) -> Result<(), Error> {
        match self.cut.get() {
            Some(_) => Err(Error::Snapshot),
            None => Ok(()),
        }
    }

    /// Gives the cut up if anything is kept for it, and frees that. Returns whether something came free.
    #[cold]
    pub(crate) fn give_up_cut(&self, why: &'static str) -> bool {
        let Some(state) = self.cut.get() else {
            return false;
        };
        if state.progress().kept_bytes == 0 {
            return false;
        }
        state.give_up(why);
        self.free_kept(&state)
    }

    /// Frees what is kept. Returns whether there was anything.
    fn free_kept(&self, state: &CutState) -> bool {
        let mut freed = false;
        state.drain(|content| {
            self.free(content);
            freed = true;
        });
        freed
    }
}

impl Cut<'_> {
    /// How long requests waited for it.
    pub fn pause(&self) -> Duration {
        self.pause
    }
}
