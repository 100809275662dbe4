//! Uploads a snapshot as it comes by a stream, and commits it.
//!
//! The calling thread takes the stream apart and checks it; others look whether a part is in the store already, and send it if
//! not. Nothing is found by a look that was not there before the tag is written: the last look is at everything that the
//! manifest needs, by then under a lease.
//!
//! Parts are sealed by those who send them, so that several are sealed at a time.
//!
//! **Memory bound**: [`SENDERS`] + 1 parts of at most 64 MiB; of the usual length, 32 MiB, these are 128 MiB. Those that are sealed
//! take as much again.

use std::io::Read;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use uzram_seal::{SealedManifest, Sealing};
use uzram_snapshot::{Digest, Kind, NamedPart, Part, PartsReader, StoredManifest};

use crate::error::{Error, Result};
use crate::id;
use crate::lease::Lease;
use crate::objects::{self, MAX_JSON_BYTES, Tag, key_of, key_of_part};
use crate::remote::{FoundTag, Remote};
use crate::store::{Store, StoreError, StoreErrorKind, Version, When};

/// Parts that are sent at a time.
const SENDERS: usize = 3;
/// Calls at a time that only look.
pub(crate) const LOOKERS: usize = 8;
/// For how long a tag is tried again. A store that lost its master answers after half a minute.
const PATIENCE: Duration = Duration::from_secs(90);
/// Between two tries of the same.
const PAUSE: Duration = Duration::from_millis(500);

/// How far an upload has come. Whoever shows it reads it at any time.
#[derive(Debug, Default)]
pub struct Progress {
    /// Bytes that came by the stream.
    pub read_bytes: AtomicU64,
    /// Bytes that were sent.
    pub sent_bytes: AtomicU64,
    /// Bytes that the store had already.
    pub found_bytes: AtomicU64,
}

/// What is uploaded, and as what.
#[derive(Debug, Clone)]
pub struct Uploading<'a> {
    /// The tag.
    pub tag: &'a str,
    /// Whether a tag that is there is replaced.
    pub force: bool,
    /// The device that the snapshot is of, for people.
    pub device: &'a str,
}

/// What was uploaded.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Uploaded {
    /// The snapshot's name.
    pub name: Digest,
    /// What the store calls it: another one if it is sealed.
    pub stored: Digest,
    /// The tag, with its id where tags have one.
    pub tag: String,
    /// Bytes that were sent.
    pub sent_bytes: u64,
    /// Bytes that the store had already.
    pub found_bytes: u64,
}

impl Uploading<'_> {
    /// Refuses what can be refused before anything is taken: a tag that is none, one that is there already, a remote that
    /// takes nothing.
    pub fn check(&self, remote: &Remote) -> Result<()> {
        self.old_tag(remote).map(drop)
    }

    fn old_tag(&self, remote: &Remote) -> Result<Option<FoundTag>> {
        remote.to_write()?;
        let tag = self.tag;
        if tag.contains('~') {
            let message = format!(
                "{tag} is no tag for a new snapshot: ids, which follow a ~, are given by uzram"
            );
            return Err(Error::Usage(message));
        }
        let found = remote.find_tag(tag)?;
        if let Some(owner) = remote.backing_owner(tag)? {
            return Err(Error::TagBacking {
                remote: remote.name.clone(),
                tag: tag.into(),
                by: owner.words(),
            });
        }
        let may_force = remote.config.conditional;
        if found.is_some() && !(self.force && may_force) {
            return Err(Error::TagExists {
                remote: remote.name.clone(),
                tag: tag.into(),
                may_force,
            });
        }
        Ok(found)
    }

    /// Uploads the snapshots of a stream, of which each is the parent of the next, and gives the last one the tag.
    pub fn upload(
        &self,
        remote: &Remote,
        from: impl Read,
        progress: &Progress,
    ) -> Result<Uploaded> {
        self.upload_sealed(remote, from, None, progress)
    }

    /// The same, sealed on its way.
    pub fn upload_sealed(
        &self,
        remote: &Remote,
        mut from: impl Read,
        sealing: Option<&Sealing>,
        progress: &Progress,
    ) -> Result<Uploaded> {
        let old = self.old_tag(remote)?;
        let why = format!("upload {}", self.tag);
        let lease = Lease::take(&remote.store, &why, Vec::new())?;
        let manifest = self.send(remote, &mut from, sealing, progress)?;
        let committed = match sealing {
            None => Committed::plain(&manifest),
            Some(sealing) => {
                let sealed = sealing.manifest(&manifest)?;
                let sent = send_one(&*remote.store, &sealed)?;
                let counted = match sent {
                    true => &progress.sent_bytes,
                    false => &progress.found_bytes,
                };
                counted.fetch_add(sealed.bytes.len() as u64, Ordering::Relaxed);
                Committed::sealed(&sealed)?
            }
        };
        commit(remote, self, old, &manifest, &committed, &lease).map(|tag| Uploaded {
            name: manifest.name(),
            stored: committed.name,
            tag,
            sent_bytes: progress.sent_bytes.load(Ordering::Relaxed),
            found_bytes: progress.found_bytes.load(Ordering::Relaxed),
        })
    }

    /// Sends all parts, the last manifest included.
    fn send(
        &self,
        remote: &Remote,
        mut from: &mut impl Read,
        sealing: Option<&Sealing>,
        progress: &Progress,
    ) -> Result<StoredManifest> {
        let (to, parts) = sync_channel::<Part>(0);
        let parts = Mutex::new(parts);
        let failed = Mutex::new(None);
        let mut manifest: Option<StoredManifest> = None;
        let taken = std::thread::scope(|scope| {
            for _ in 0..SENDERS {
                scope.spawn(|| send_all(remote, &parts, &failed, sealing, progress));
            }
            loop {
                let mut first = [0];
                if let Some(last) = &manifest
                    && !last.head().is_basis
                    && from.read(&mut first).map_err(Error::io("the snapshot"))? == 0
                {
                    break;
                }
                // Of a first snapshot nothing was read yet.
                let begun = match &manifest {
                    Some(last) if !last.head().is_basis => &first[..],
                    _ => &[],
                };
                let mut reader = PartsReader::new(Read::chain(begun, &mut from))?;
                let parent = manifest.as_ref().map(StoredManifest::name);
                if parent.is_some() && reader.head().parent != parent {
                    let why = "what follows in it was not made since what it begins with";
                    return Err(Error::Usage(why.into()));
                }
                manifest = Some(take_apart(&mut reader, &to, &failed, progress)?);
            }
            drop(to);
            Ok(())
        });
        if let Some(error) = failed.into_inner().unwrap_or_else(PoisonError::into_inner) {
            return Err(error);
        }
        taken?;
        manifest.ok_or_else(|| uzram_snapshot::Error::Foreign.into())
    }
}

/// Hands the parts of one snapshot to the senders. Returns its manifest, which is handed on as well.
fn take_apart<R: Read>(
    reader: &mut PartsReader<R>,
    to: &SyncSender<Part>,
    failed: &Mutex<Option<Error>>,
    progress: &Progress,
) -> Result<StoredManifest> {
    let mut manifest = None;
    while let Some(part) = reader.next_part()? {
        progress
            .read_bytes
            .fetch_add(part.bytes.len() as u64, Ordering::Relaxed);
        if part.kind == Kind::Manifest {
            manifest = Some(StoredManifest::parse(part.name, &part.bytes)?);
        }
        let has_failed = failed
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .is_some();
        if has_failed || to.send(part).is_err() {
            // A sender says why.
            return Err(Error::Usage("a part could not be sent".into()));
        }
    }
    manifest.ok_or_else(|| uzram_snapshot::Error::Foreign.into())
}

/// Sends parts until there are no more, or one could not be sent.
fn send_all(
    remote: &Remote,
    parts: &Mutex<Receiver<Part>>,
    failed: &Mutex<Option<Error>>,
    sealing: Option<&Sealing>,
    progress: &Progress,
) {
    loop {
        let part = parts.lock().unwrap_or_else(PoisonError::into_inner).recv();
        let Ok(mut part) = part else { return };
        if failed
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .is_some()
        {
            // Whoever hands parts on finds out at the end; taking them lets it get there.
            continue;
        }
        let sent = match sealing {
            None => send_one(&*remote.store, &part).map_err(Error::from),
            // It is sealed when all else is.
            Some(_) if part.kind == Kind::Manifest => continue,
            Some(sealing) => sealing.seal(&part).map_err(Error::from).and_then(|sealed| {
                // Not needed beside the sealed one.
                let bytes = std::mem::take(&mut part.bytes);
                drop(bytes);
                part = sealed;
                Ok(send_one(&*remote.store, &part)?)
            }),
        };
        let bytes = part.bytes.len() as u64;
        match sent {
            Ok(true) => progress.sent_bytes.fetch_add(bytes, Ordering::Relaxed),
            Ok(false) => progress.found_bytes.fetch_add(bytes, Ordering::Relaxed),
            Err(error) => {
                let mut failed = failed.lock().unwrap_or_else(PoisonError::into_inner);
                failed.get_or_insert(error);
                0
            }
        };
    }
}

/// Sends a part unless it is there. Whether it was sent.
fn send_one(store: &dyn Store, part: &Part) -> Result<bool, StoreError> {
    let key = key_of(part.kind, part.name);
    match store.head(&key) {
        Ok(meta) if meta.bytes == part.bytes.len() as u64 => return Ok(false),
        Ok(_) => {}
        Err(error) if error.kind == StoreErrorKind::NotFound => {}
        Err(error) => return Err(error),
    }
    // What it is called is what it holds: to write it twice does no harm.
    match store.put(&key, &part.bytes, &When::Always) {
        Err(error) if error.kind == StoreErrorKind::Unsettled => {
            store.put(&key, &part.bytes, &When::Always)
        }
        other => other,
    }?;
    Ok(true)
}

/// What is committed, as the store sees it.
struct Committed {
    name: Digest,
    parts: Vec<NamedPart>,
    parent: Option<Digest>,
    is_sealed: bool,
}

impl Committed {
    fn plain(manifest: &StoredManifest) -> Committed {
        Committed {
            name: manifest.name(),
            parts: manifest.parts(),
            parent: manifest.head().parent,
            is_sealed: false,
        }
    }

    fn sealed(manifest: &Part) -> Result<Committed> {
        let found = SealedManifest::parse(manifest.name, &manifest.bytes)?;
        Ok(Committed {
            name: manifest.name,
            parts: found.parts().to_vec(),
            parent: found.parent(),
            is_sealed: true,
        })
    }
}

/// Gives the manifest the tag, if all that it needs is there. Returns the tag.
fn commit(
    remote: &Remote,
    uploading: &Uploading<'_>,
    old: Option<FoundTag>,
    manifest: &StoredManifest,
    committed: &Committed,
    lease: &Lease,
) -> Result<String> {
    let store = &remote.store;
    lease.add(committed.name.to_string())?;
    check_parts(store, committed.name, committed.parts.clone())?;
    let id = id::random();
    let tag = match remote.config.conditional {
        true => uploading.tag.to_owned(),
        false => format!("{}~{id}", uploading.tag),
    };
    let head = manifest.head();
    let mut body = Tag::new(id, committed.name, id::holder());
    if !committed.is_sealed {
        body.device = uploading.device.into();
    }
    body.sealed = committed.is_sealed;
    body.taken_at_seconds = head.taken_at_seconds;
    body.size_bytes = head.pages * uzram_snapshot::PAGE_BYTES as u64;
    body.object_bytes = manifest.totals().object_bytes;
    body.parent = committed.parent.map(|parent| parent.to_string());
    let when = match &old {
        Some(old) => When::Unchanged(old.version.clone()),
        None => When::New,
    };
    lease.check()?;
    put_tag(remote, &tag, &body, &when)?;
    Ok(tag)
}

/// Writes a tag. An answer that says that somebody else was first, or none at all, is settled by a look.
fn put_tag(remote: &Remote, tag: &str, body: &Tag, when: &When) -> Result<()> {
    let (key, bytes) = (format!("tag/{tag}"), objects::to_json(body));
    let begin = Instant::now();
    loop {
        use StoreErrorKind::{Changed, Exists, Unsettled};
        let error = match remote.store.put(&key, &bytes, when) {
            Ok(_) => return Ok(()),
            Err(error) if matches!(error.kind, Exists | Changed | Unsettled) => error,
            Err(error) => return Err(error.into()),
        };
        let found: Option<(Tag, Version)> = match remote.store.get(&key, MAX_JSON_BYTES) {
            Err(error) if error.kind == StoreErrorKind::NotFound => None,
            found => {
                let (bytes, version) = found?;
                Some((objects::parse(&key, "tag", &bytes)?, version))
            }
        };
        let is_as_before = match (&found, when) {
            (Some((found, _)), _) if found.id == body.id => return Ok(()),
            (None, When::New | When::Always) => true,
            (Some((_, version)), When::Unchanged(old)) => version == old,
            _ => false,
        };
        if !is_as_before {
            let by = found.map_or("who removed it".into(), |(found, _)| found.by);
            return Err(Error::TagMoved {
                remote: remote.name.clone(),
                tag: tag.into(),
                by,
            });
        }
        // It said so though nothing had landed.
        if begin.elapsed() >= PATIENCE {
            return Err(error.into());
        }
        std::thread::sleep(PAUSE);
    }
}

/// Looks whether all that a manifest needs is there, and as long as it should be.
pub(crate) fn check_parts(
    store: &Arc<dyn Store>,
    manifest: Digest,
    mut parts: Vec<NamedPart>,
) -> Result<()> {
    let whole = store.head(&key_of(Kind::Manifest, manifest));
    missing(whole.map(drop), &key_of(Kind::Manifest, manifest), manifest)?;
    parts.sort();
    parts.dedup_by_key(|part| (part.kind, part.name));
    for_all(&parts, LOOKERS, |part| {
        let key = key_of_part(part);
        let (found, bytes) = match store.head(&key) {
            Ok(meta) => (meta.bytes, part.bytes),
            Err(error) => return missing(Err(error), &key, manifest),
        };
        match found == bytes {
            true => Ok(()),
            false => Err(Error::Length { key, found, bytes }),
        }
    })
}

fn missing(looked: Result<(), StoreError>, key: &str, manifest: Digest) -> Result<()> {
    match looked {
        Err(error) if error.kind == StoreErrorKind::NotFound => Err(Error::Missing {
            key: key.into(),
            needed_by: manifest.to_string(),
            collected: true,
        }),
        looked => Ok(looked?),
    }
}

/// Does it for all, some at a time, until one fails.
pub(crate) fn for_all<T: Sync>(
    all: &[T],
    threads: usize,
    each: impl Fn(&T) -> Result<()> + Sync,
) -> Result<()> {
    let next = AtomicU64::new(0);
    let failed = Mutex::new(None);
    std::thread::scope(|scope| {
        for _ in 0..threads.min(all.len()) {
            scope.spawn(|| {
                while let Some(one) = all.get(next.fetch_add(1, Ordering::Relaxed) as usize) {
                    if let Err(error) = each(one) {
                        next.store(all.len() as u64, Ordering::Relaxed);
                        let mut failed = failed.lock().unwrap_or_else(PoisonError::into_inner);
                        failed.get_or_insert(error);
                        return;
                    }
                }
            });
        }
    });
    match failed.into_inner().unwrap_or_else(PoisonError::into_inner) {
        Some(error) => Err(error),
        None => Ok(()),
    }
}
