//! The source of a clone: the file of its snapshot with those of that one's parents, or the process that reads the remote
//! that has it.
//!
//! Files are opened, and the process is started, when the device is made, and again by each server that takes the device over.
//! Where that fails, or they do not answer, it is done anew with the next fetch: what was away may come back. What they hold is
//! believed only if it is the snapshot that the device was made of; its name, a hash, is in the device's description.

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use uzram::{Choice, RemoteError, RemoteOptions, RemoteSource, StoredPage};
use uzram_snapshot::device::RemotePages;
use uzram_snapshot::{Digest, RemoteSnapshot};
use uzram_spec::{Failure, Result, SnapshotSource};

use crate::handover::SentPages;
use crate::remote_process::TraceStore;
use crate::snapshot_source::{OpenSource, StoredParts, refused_of};

/// What a device is a clone of.
#[derive(Clone)]
pub(crate) enum ClonedFrom {
    /// A snapshot.
    Snapshot(Arc<CloneSource>),
    /// A device of another host, which hands it over.
    Host(Arc<SentPages>),
}

/// Where a clone's pages come from.
pub(crate) struct CloneSource {
    of: SnapshotSource,
    /// What it is called where it is stored.
    stored: Digest,
    /// What is open and was not read yet. Held while it is read: who needs it waits for whoever opens it.
    opening: Mutex<Option<OpenSource>>,
    /// Frames that requests waited for, where there is a trace.
    demanded: Mutex<BTreeSet<u32>>,
    /// What answered last. Never held for long: codecs are asked for by who may not wait.
    opened: Mutex<Opened>,
}

#[derive(Default)]
struct Opened {
    last: Option<(StoredParts, Arc<RemotePages>)>,
    /// Whether it is to be opened anew.
    is_stale: bool,
}

fn lock<T>(of: &Mutex<T>) -> MutexGuard<'_, T> {
    of.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A snapshot whose parts are there, as the source of pages.
pub(crate) fn pages_of(
    of: &SnapshotSource,
    parts: &StoredParts,
    name: Digest,
) -> Result<RemotePages> {
    let place = of.place();
    let refused = |error: uzram_snapshot::Error| refused_of(of, &error);
    let snapshot = RemoteSnapshot::open(parts.source(), name).map_err(refused)?;
    let algorithms = uzram_control::zram::algorithms();
    let words = format!("the snapshot {}", place.display());
    RemotePages::new(snapshot, algorithms, words).map_err(refused)
}

impl CloneSource {
    /// Of a device that is being made.
    pub(crate) fn new(
        of: SnapshotSource,
        parts: StoredParts,
        pages: RemotePages,
    ) -> Result<CloneSource> {
        Ok(CloneSource {
            of,
            stored: parts.stored()?,
            opening: Mutex::default(),
            demanded: Mutex::default(),
            opened: Mutex::new(Opened {
                last: Some((parts, Arc::new(pages))),
                is_stale: false,
            }),
        })
    }

    /// Of a device that is there. `open` is what is open already, if that could be had. What is wrong with it is found when it
    /// is needed.
    pub(crate) fn resume(of: &SnapshotSource, open: Option<OpenSource>) -> Result<CloneSource> {
        let stored = of.snapshot.parse();
        let stored = stored.map_err(|error| {
            Failure::failed(format!(
                "the description names no snapshot of the clone: {error}"
            ))
        })?;
        Ok(CloneSource {
            of: of.clone(),
            stored,
            opening: Mutex::new(open),
            demanded: Mutex::default(),
            opened: Mutex::default(),
        })
    }

    /// How long requests wait.
    pub(crate) fn options(&self) -> RemoteOptions {
        let mut options = RemoteOptions::default();
        if let Some(seconds) = self.of.remote_timeout_seconds {
            options.timeout = Duration::from_secs(seconds.into());
        }
        options
    }

    fn open(&self, open: Option<OpenSource>) -> Result<(StoredParts, RemotePages)> {
        let open = match open {
            Some(open) => open,
            None => OpenSource::open(&self.of)?,
        };
        let (parts, name) = open.into_parts()?;
        let found = parts.stored()?;
        if found != self.stored {
            let message = format!(
                "{} holds {found}, and the device is a clone of {}",
                self.of.place().display(),
                self.stored
            );
            return Err(Failure::failed(message));
        }
        let pages = pages_of(&self.of, &parts, name)?;
        Ok((parts, pages))
    }

    fn ready(&self) -> Option<Arc<RemotePages>> {
        let opened = lock(&self.opened);
        let last = opened.last.as_ref().filter(|_| !opened.is_stale)?;
        Some(last.1.clone())
    }

    fn pages(&self) -> std::result::Result<Arc<RemotePages>, RemoteError> {
        if let Some(pages) = self.ready() {
            return Ok(pages);
        }
        let mut opening = lock(&self.opening);
        // Somebody else may have opened it meanwhile.
        if let Some(pages) = self.ready() {
            return Ok(pages);
        }
        let opened = self.open(opening.take());
        let (parts, pages) = opened.map_err(|failure| RemoteError {
            message: failure.message,
            passes: true,
        })?;
        let pages = Arc::new(pages);
        let opened = Opened {
            last: Some((parts, pages.clone())),
            is_stale: false,
        };
        let before = std::mem::replace(&mut *lock(&self.opened), opened);
        drop(before);
        Ok(pages)
    }

    /// Says that the device is gone.
    pub(crate) fn say_goodbye(&self) {
        let opened = lock(&self.opened);
        if let Some((parts, _)) = &opened.last {
            parts.say_goodbye();
        }
    }

    /// The name of its trace; empty if it has none.
    pub(crate) fn trace_name(&self) -> &str {
        &self.of.trace
    }

    /// The frames that requests waited for up to now.
    pub(crate) fn demanded_frames(&self) -> Vec<u32> {
        lock(&self.demanded).iter().copied().collect()
    }

    /// Where its trace is kept. Opens the source if need be.
    pub(crate) fn trace(&self) -> std::result::Result<Arc<dyn TraceStore>, RemoteError> {
        self.pages()?;
        let opened = lock(&self.opened);
        let trace = opened.last.as_ref().and_then(|(parts, _)| parts.trace());
        trace.ok_or_else(|| RemoteError {
            message: "a file has no traces".into(),
            passes: false,
        })
    }

    /// Has it opened anew where that may help.
    fn failed(&self, pages: &Arc<RemotePages>) {
        let mut opened = lock(&self.opened);
        if let Some((parts, last)) = &opened.last
            && Arc::ptr_eq(last, pages)
            && parts.may_be_stale()
        {
            opened.is_stale = true;
        }
    }
}

impl RemoteSource for CloneSource {
    fn fetch(
        &self,
        frames: &[u32],
        page: &mut dyn FnMut(u64, StoredPage<'_>),
    ) -> std::result::Result<(), RemoteError> {
        let pages = self.pages()?;
        let fetched = pages.fetch(frames, page);
        if fetched.is_err() {
            self.failed(&pages);
        }
        fetched
    }

    fn codec(&self, number: u8) -> std::result::Result<Choice, RemoteError> {
        let last = lock(&self.opened)
            .last
            .as_ref()
            .map(|(_, pages)| pages.clone());
        let last = last.ok_or_else(|| RemoteError {
            message: "nothing of it was opened yet".into(),
            passes: true,
        })?;
        last.codec(number)
    }

    fn demanded(&self, frame: u32) {
        if !self.of.trace.is_empty() {
            lock(&self.demanded).insert(frame);
        }
    }

    fn name(&self) -> String {
        self.of.place().display().to_string()
    }
}
