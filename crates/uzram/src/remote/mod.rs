//! Pages that are not here yet: a clone's contents stay where its snapshot is until they are needed.
//!
//! A slot's word says *remote*, and nothing else: where the page is follows from its number, and only the
//! [`RemoteSource`] knows how. A word becomes remote before the device is used and never again ([`Install::remote`]). So a
//! request that finds no remote page among those it needs finds none later, and what works on pages need not expect any:
//! [`Device::read_at`] and [`Device::write_at`] have them brought first, before they take a stream or lock a slot.
//!
//! **A frame is fetched once**, however many wait for it (`flight`): by one of the threads of [`Fetchers`], which take what
//! requests wait for in its order; or by [`JobsApi::hydrate`](crate::JobsApi::hydrate), which stands back while there is any.
//! Nobody holds a lock while the source is asked. A page that came is stored as a write would store it, and its word is
//! published only if it is still remote, under the slot's lock. Whoever wrote or discarded the page meanwhile has won.
//!
//! **A source that is away**: a fetch is tried again as long as somebody waits, each request until its own deadline. Then it
//! fails, and the next one begins anew. What is in memory knows nothing of that.
//!
//! **Cost** where nothing is remote: a flag is read once for each request.
//!
//! **Memory bound**: what the source returns for at most one frame a thread, and 8 frames for a hydration.

mod fetch;
mod flight;
mod hydrate;

use std::sync::atomic::AtomicU64;
use std::sync::atomic::Ordering::Relaxed;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use crate::codec::{CODECS, Choice, Codec};
use crate::device::Device;
use crate::install::StoredPage;
use crate::snapshot::FRAME_PAGES;
use crate::word::Content;
use crate::{Error, PAGE_SIZE};

pub use fetch::Fetchers;
pub use hydrate::HydrateReport;

use flight::Flights;

/// Where remote pages are, such as a snapshot in a file or in a store.
pub trait RemoteSource: Send + Sync {
    /// Fetches frames (64 pages each, by number, in ascending order) and checks them; then hands each of their pages to `page`.
    /// May block. Nothing may be handed over that was not checked: it is taken for what the page holds. After an error pages
    /// that were handed over count all the same.
    fn fetch(
        &self,
        frames: &[u32],
        page: &mut dyn FnMut(u64, StoredPage<'_>),
    ) -> Result<(), RemoteError>;

    /// The codec that pages of this source name by a number from 0 to 15. Does not block: it is only asked about pages that
    /// were fetched.
    fn codec(&self, number: u8) -> Result<Choice, RemoteError>;

    /// What it is called, in messages.
    fn name(&self) -> String;

    /// Told of each frame that is about to be fetched because a request waits for it. Must not block.
    fn demanded(&self, _frame: u32) {}
}

/// Why a source did not give what was asked for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RemoteError {
    /// Why, in a sentence.
    pub message: String,
    /// Whether it may pass, as a network's failure does: it is tried again as long as a request waits. Otherwise a few times.
    pub passes: bool,
}

impl std::fmt::Display for RemoteError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.message)
    }
}

impl std::error::Error for RemoteError {}

/// How remote pages are fetched.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub struct RemoteOptions {
    /// How long a request waits for the source. Default: 30 s.
    pub timeout: Duration,
    /// Threads that fetch what requests wait for, at least 1. Default: 4.
    pub threads: usize,
}

impl Default for RemoteOptions {
    fn default() -> RemoteOptions {
        RemoteOptions {
            timeout: Duration::from_secs(30),
            threads: 4,
        }
    }
}

/// What a request does with the bytes that it names.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Access {
    /// Reads all of them.
    Read,
    /// Replaces them: what is left of the first and the last page is needed.
    Write,
}

/// What a device has of the remote kind.
#[derive(Default)]
pub(crate) struct Remote {
    flights: Flights,
    set: Mutex<SourceSetting>,
    /// Pages before this one are not remote: where a hydration begins.
    none_below: AtomicU64,
    /// Of the source's codecs those that the device has admitted: their index, and the codec for as long as it is that one.
    codecs: Mutex<[Option<(u8, Arc<Codec>)>; CODECS]>,
}

#[derive(Default)]
struct SourceSetting {
    source: Option<Arc<dyn RemoteSource>>,
    options: RemoteOptions,
}

impl Remote {
    fn set(&self) -> MutexGuard<'_, SourceSetting> {
        self.set.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn source(&self) -> Option<Arc<dyn RemoteSource>> {
        self.set().source.clone()
    }
}

fn frame_of(page: u64) -> u32 {
    (page / FRAME_PAGES as u64) as u32
}

/// The error of a page that cannot be fetched.
fn unreachable(page: u64, why: impl Into<String>) -> Error {
    Error::Remote {
        page,
        why: why.into(),
    }
}

impl Device {
    /// Sets where remote pages are, and how they are fetched. Takes effect with the next fetch; [`Fetchers`] are needed, too.
    /// When the last of them has come, the source is dropped.
    pub fn set_source(&self, source: Arc<dyn RemoteSource>, options: RemoteOptions) {
        *self.remote.set() = SourceSetting {
            source: Some(source),
            options,
        };
    }

    /// How remote pages are fetched.
    pub fn remote_options(&self) -> RemoteOptions {
        self.remote.set().options
    }

    /// What the source is called; `None` where there is none, or none is needed any more.
    pub fn source_name(&self) -> Option<String> {
        self.remote.source().map(|source| source.name())
    }

    /// Pages whose contents are not here yet. Some of them may turn out to be zeros.
    pub fn remote_pages(&self) -> u64 {
        self.counters.remote_pages()
    }

    /// Whether a request would wait for a source. It may be asked without knowing whether the range is on the device. If not,
    /// the request will not wait for one, whatever happens in between. So a frontend asks it to keep its other requests going.
    ///
    /// What is said of a backing in a store is as of now: a page that nobody used for long may go there meanwhile.
    pub fn must_fetch(&self, access: Access, offset: u64, len: u64) -> bool {
        self.is_lazy.load(Relaxed) && self.needs_remote(access, offset, len)
            || self.backing.is_far() && self.needs_backed(access, offset, len)
    }

    /// Whether any request may wait for a source, or for a backing in a store.
    pub fn may_wait(&self) -> bool {
        self.remote_pages() > 0 || self.backing.is_far()
    }

    #[cold]
    fn needs_remote(&self, access: Access, offset: u64, len: u64) -> bool {
        self.remote_in(access, offset, len).next().is_some()
    }

    /// The remote pages that a request needs.
    fn remote_in(
        &self,
        access: Access,
        offset: u64,
        len: u64,
    ) -> impl Iterator<Item = u64> + use<'_> {
        self.needed_pages(access, offset, len)
            .filter(|number| self.table.peek(*number) == Content::Remote)
    }

    /// The pages whose contents a request needs.
    pub(crate) fn needed_pages(
        &self,
        access: Access,
        offset: u64,
        len: u64,
    ) -> impl Iterator<Item = u64> + use<> {
        let page = PAGE_SIZE as u64;
        let is_good = self.check_range(offset, len).is_ok() && len > 0;
        let end = if is_good { offset + len } else { offset };
        let (first, last) = (offset / page, end.saturating_sub(1) / page);
        let pages = if is_good { first..last + 1 } else { 0..0 };
        let is_part = move |number: &u64| {
            *number == first && !offset.is_multiple_of(page)
                || *number == last && !end.is_multiple_of(page)
        };
        let is_needed = move |number: &u64| access == Access::Read || is_part(number);
        // A write of many pages needs two at most.
        let inner = if access == Access::Write && pages.end > pages.start + 2 {
            (pages.start..pages.start + 1).chain(pages.end - 1..pages.end)
        } else {
            pages.chain(0..0)
        };
        inner.filter(is_needed)
    }

    /// Has the remote pages fetched that a request needs, and waits for them: the request will not wait then.
    ///
    /// [`Error::Remote`] where one does not come in time, and those of [`Device::write_at`] where there is no room for it.
    pub fn fetch(&self, access: Access, offset: u64, len: u64) -> Result<(), Error> {
        match self.is_lazy.load(Relaxed) {
            true => self.bring(access, offset, len),
            false => Ok(()),
        }
    }

    #[cold]
    pub(crate) fn bring(&self, access: Access, offset: u64, len: u64) -> Result<(), Error> {
        if self.is_handed_over() {
            return Err(Error::HandedOver);
        }
        let timeout = self.remote_options().timeout;
        let deadline = Instant::now() + timeout;
        loop {
            let mut frames: Vec<u32> = self.remote_in(access, offset, len).map(frame_of).collect();
            frames.dedup();
            if frames.is_empty() {
                return Ok(());
            }
            // All at once: they may come by several threads.
            let waits: Vec<_> = frames
                .iter()
                .map(|frame| self.remote.flights.join(*frame))
                .collect();
            for wait in waits {
                let first = self.remote_in(access, offset, len).next();
                let Some(page) = first else { return Ok(()) };
                wait.until(deadline).unwrap_or_else(|said| {
                    let seconds = timeout.as_secs_f64();
                    let said = said.unwrap_or_else(|| "nothing came".into());
                    Err(unreachable(page, format!("{said} (after {seconds} s)")))
                })?;
            }
        }
    }
}
