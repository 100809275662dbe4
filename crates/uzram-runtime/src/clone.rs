//! The source of a clone: the file of its snapshot, with those of that one's parents.
//!
//! They are opened when the device is made, and again by each server that takes the device over. Where that fails, or the files do
//! not answer, they are opened anew with the next fetch: a file that was away may come back. What they hold is believed only
//! if it is the snapshot that the device was made of; its name, a hash, is in the device's description.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use uzram::{Choice, RemoteError, RemoteOptions, RemoteSource, StoredPage};
use uzram_snapshot::device::RemotePages;
use uzram_snapshot::{Digest, RemoteSnapshot, Snapshot};
use uzram_spec::{Failure, Result, SnapshotSource};

use crate::snapshot_files::{self, OpenSource};

/// The files of a clone's snapshot.
pub(crate) struct CloneSource {
    of: SnapshotSource,
    snapshot: Digest,
    opened: Mutex<Option<Opened>>,
}

/// What was opened last. Its codecs are good for as long as it is the last, whether the files answer or not.
struct Opened {
    pages: Arc<RemotePages>,
    /// Until a fetch fails.
    answers: bool,
}

/// A snapshot whose files are open, as the source of pages.
pub(crate) fn pages_of(of: &SnapshotSource, snapshot: Snapshot) -> Result<RemotePages> {
    let name = snapshot.name();
    let refused = |error: uzram_snapshot::Error| snapshot_files::refused(&of.file, &error);
    let snapshot = RemoteSnapshot::open(Arc::new(snapshot), name).map_err(refused)?;
    let algorithms = uzram_control::zram::algorithms();
    let words = format!("the snapshot {}", of.file.display());
    RemotePages::new(snapshot, algorithms, words).map_err(refused)
}

impl CloneSource {
    /// Of a device that is being made.
    pub(crate) fn new(of: SnapshotSource, pages: RemotePages) -> CloneSource {
        let snapshot = pages.snapshot().name();
        let pages = Arc::new(pages);
        CloneSource {
            of,
            snapshot,
            opened: Mutex::new(Some(Opened {
                pages,
                answers: true,
            })),
        }
    }

    /// Of a device that is there. `opened` are the files, if they could be opened; what is wrong with them is found when they
    /// are needed.
    pub(crate) fn resume(of: &SnapshotSource, opened: Option<OpenSource>) -> Result<CloneSource> {
        let snapshot = of.snapshot.parse();
        let snapshot = snapshot.map_err(|error| {
            Failure::failed(format!(
                "the description names no snapshot of the clone: {error}"
            ))
        })?;
        let source = CloneSource {
            of: of.clone(),
            snapshot,
            opened: Mutex::default(),
        };
        if let Some(Err(failure)) = opened.map(|opened| source.take(opened)) {
            tracing::warn!("the clone's source: {failure}");
        }
        Ok(source)
    }

    /// How long requests wait.
    pub(crate) fn options(&self) -> RemoteOptions {
        let mut options = RemoteOptions::default();
        if let Some(seconds) = self.of.remote_timeout_seconds {
            options.timeout = Duration::from_secs(seconds.into());
        }
        options
    }

    fn take(&self, opened: OpenSource) -> Result<Arc<RemotePages>> {
        let snapshot = opened.into_snapshot()?;
        if snapshot.name() != self.snapshot {
            let message = format!(
                "{} holds {}, and the device is a clone of {}",
                self.of.file.display(),
                snapshot.name(),
                self.snapshot
            );
            return Err(Failure::failed(message));
        }
        let pages = Arc::new(pages_of(&self.of, snapshot)?);
        *self.opened() = Some(Opened {
            pages: pages.clone(),
            answers: true,
        });
        Ok(pages)
    }

    fn opened(&self) -> MutexGuard<'_, Option<Opened>> {
        self.opened.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn pages(&self) -> std::result::Result<Arc<RemotePages>, RemoteError> {
        if let Some(opened) = &*self.opened()
            && opened.answers
        {
            return Ok(opened.pages.clone());
        }
        let opened = OpenSource::open(&self.of).and_then(|opened| self.take(opened));
        opened.map_err(|failure| RemoteError {
            message: failure.message,
            passes: true,
        })
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
        if fetched.is_err()
            && let Some(opened) = &mut *self.opened()
        {
            // What is there now may be better.
            opened.answers = false;
        }
        fetched
    }

    fn codec(&self, number: u8) -> std::result::Result<Choice, RemoteError> {
        let last = self.opened().as_ref().map(|last| last.pages.clone());
        let last = last.ok_or_else(|| RemoteError {
            message: "nothing of it was opened yet".into(),
            passes: true,
        })?;
        last.codec(number)
    }

    fn name(&self) -> String {
        self.of.file.display().to_string()
    }
}
