//! Reads a snapshot of a remote from beginning to end, as a restore does: pieces of its segments are fetched ahead.
//!
//! A lease keeps it from being collected meanwhile.
//!
//! **Memory bound**: [`PIECES`] pieces of 4 MiB, and what reading takes ([`uzram_snapshot::Snapshot`]).

use std::collections::{HashMap, VecDeque};
use std::io::{self, Write};
use std::ops::Range;
use std::sync::{Arc, Condvar, Mutex, PoisonError};

use uzram_seal::Keys;
use uzram_snapshot::{Digest, Kind, NamedPart, Snapshot, SnapshotSummary, Source, StoredManifest};

use crate::error::Result;
use crate::lease::Lease;
use crate::remote::{FoundManifest, FoundTag, ReadableManifest, Remote};

/// Bytes of a piece.
const PIECE_BYTES: u64 = 4 << 20;
/// Pieces that are kept, those on their way included.
const PIECES: usize = 24;
/// Pieces that are fetched ahead.
const AHEAD: usize = 6;
/// Threads that fetch.
const FETCHERS: usize = 4;
/// Of a segment of which less than one part in so many is used, only that is fetched.
const SPARSE: u64 = 4;

/// A snapshot of a remote that is in use.
pub struct Opened {
    remote: Remote,
    /// The tag that it was opened by.
    pub tag: FoundTag,
    found: FoundManifest,
    readable: ReadableManifest,
    lease: Option<Lease>,
}

impl std::fmt::Debug for Opened {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let mut out = f.debug_struct("Opened");
        out.field("remote", &self.remote)
            .field("tag", &self.tag)
            .finish_non_exhaustive()
    }
}

impl Remote {
    /// Opens the snapshot of a tag: reads its manifest, and takes a lease. A sealed one needs keys, and with keys it must be
    /// sealed.
    pub fn open_tag(&self, tag: &str, keys: Option<&Keys>, why: &str) -> Result<Opened> {
        let tag = self.tag(tag)?;
        let name = tag.body.name()?;
        let lease = self.lease(name, why)?;
        let found = self.manifest(name)?;
        let readable = found.open(keys, &format!("{}/{}", self.name, tag.tag))?;
        Ok(Opened {
            remote: self.clone(),
            found,
            readable,
            tag,
            lease,
        })
    }

    /// Where the parts of a snapshot are, by the names that its manifest has. One that is read from its beginning to its end is
    /// fetched ahead, if it is far.
    pub fn parts(
        &self,
        found: &FoundManifest,
        readable: &ReadableManifest,
        in_order: bool,
    ) -> Result<Arc<dyn Source>> {
        let stored: Arc<dyn Source> = match in_order && !self.store.is_near() {
            true => Arc::new(Ahead::new(self.clone(), found.parts())?),
            false => Arc::new(self.clone()),
        };
        Ok(match readable.opened() {
            Some(opened) => Arc::new(opened.source(stored)),
            None => stored,
        })
    }
}

impl Opened {
    /// The snapshot, whose parts are fetched when they are read, those of segments ahead.
    pub fn snapshot(&self) -> Result<Snapshot> {
        let source = self.remote.parts(&self.found, &self.readable, true)?;
        Ok(self.manifest().open(source)?)
    }

    /// The snapshot's manifest.
    pub fn manifest(&self) -> &StoredManifest {
        self.readable.manifest()
    }

    /// The manifest with its seal, if it has one.
    pub fn readable(&self) -> &ReadableManifest {
        &self.readable
    }

    /// The lease, where one could be taken.
    pub fn lease(&self) -> Option<&Lease> {
        self.lease.as_ref()
    }

    /// Writes it as a file that is complete in itself. Everything is checked on the way.
    pub fn write_complete(&self, to: impl Write) -> Result<SnapshotSummary> {
        let (_, written) = self.snapshot()?.write_complete(to)?;
        Ok(written)
    }

    /// Writes what the next snapshot needs of it to be made since this one.
    pub fn write_index(&self, to: &mut impl Write) -> Result<()> {
        let source = self.remote.parts(&self.found, &self.readable, false)?;
        let fetch = |part: &NamedPart| {
            let bytes = source.get_range(part.kind, part.name, 0..part.bytes);
            bytes.map_err(|source| uzram_snapshot::Error::Io {
                what: "fetch",
                source,
            })
        };
        Ok(self.manifest().write_index(to, fetch)?)
    }
}

/// A piece: the number of the segment in the order of the manifest, and that of the piece in it.
type Place = (usize, u64);

enum Piece {
    Fetching,
    Here(Arc<Vec<u8>>),
    Failed(io::ErrorKind, String),
}

struct State {
    pieces: HashMap<Place, Piece>,
    /// Those that were used last are at the end.
    order: VecDeque<Place>,
    todo: VecDeque<Place>,
    is_over: bool,
}

struct Shared {
    remote: Remote,
    segments: Vec<NamedPart>,
    state: Mutex<State>,
    /// Something is to be fetched, or was.
    changed: Condvar,
}

/// A source that fetches segments ahead.
struct Ahead {
    shared: Arc<Shared>,
    numbers: HashMap<Digest, usize>,
}

impl Shared {
    fn range(&self, (segment, piece): Place) -> Option<Range<u64>> {
        let bytes = self.segments.get(segment)?.bytes;
        let begin = piece * PIECE_BYTES;
        (begin < bytes).then(|| begin..bytes.min(begin + PIECE_BYTES))
    }

    fn fetch_all(&self) {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        loop {
            if state.is_over {
                return;
            }
            let Some(place) = state.todo.pop_front() else {
                state = self
                    .changed
                    .wait(state)
                    .unwrap_or_else(PoisonError::into_inner);
                continue;
            };
            drop(state);
            let range = self.range(place).unwrap_or(0..0);
            let name = self.segments[place.0].name;
            let fetched = self.remote.get_range(Kind::Segment, name, range);
            state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
            let piece = match fetched {
                Ok(bytes) => Piece::Here(Arc::new(bytes)),
                Err(error) => Piece::Failed(error.kind(), error.to_string()),
            };
            state.pieces.insert(place, piece);
            self.changed.notify_all();
        }
    }

    /// The piece, fetched if it is not here; and has those after it fetched.
    fn piece(&self, place: Place) -> io::Result<Arc<Vec<u8>>> {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        self.want(&mut state, place);
        let mut next = place;
        for _ in 0..AHEAD {
            next = match self.range((next.0, next.1 + 1)) {
                Some(_) => (next.0, next.1 + 1),
                None => (next.0 + 1, 0),
            };
            let is_dense = |of: &NamedPart| of.live_bytes >= of.bytes / SPARSE;
            if self.segments.get(next.0).is_some_and(is_dense) {
                self.want(&mut state, next);
            }
        }
        self.changed.notify_all();
        loop {
            match state.pieces.get(&place) {
                Some(Piece::Here(bytes)) => {
                    let bytes = bytes.clone();
                    state.order.retain(|other| *other != place);
                    state.order.push_back(place);
                    return Ok(bytes);
                }
                Some(Piece::Failed(kind, why)) => {
                    let error = io::Error::new(*kind, why.clone());
                    state.pieces.remove(&place);
                    state.order.retain(|other| *other != place);
                    return Err(error);
                }
                Some(Piece::Fetching) => {}
                None => self.want(&mut state, place),
            }
            state = self
                .changed
                .wait(state)
                .unwrap_or_else(PoisonError::into_inner);
        }
    }

    fn want(&self, state: &mut State, place: Place) {
        if state.pieces.contains_key(&place) {
            return;
        }
        while state.order.len() >= PIECES {
            let is_idle = |other: &Place| !matches!(state.pieces.get(other), Some(Piece::Fetching));
            let Some(at) = state.order.iter().position(is_idle) else {
                break;
            };
            if let Some(oldest) = state.order.remove(at) {
                state.pieces.remove(&oldest);
            }
        }
        state.pieces.insert(place, Piece::Fetching);
        state.order.push_back(place);
        state.todo.push_back(place);
    }
}

impl Ahead {
    fn new(remote: Remote, mut segments: Vec<NamedPart>) -> Result<Ahead> {
        segments.retain(|part| part.kind == Kind::Segment);
        let numbers = segments.iter().enumerate();
        let numbers = numbers.map(|(number, part)| (part.name, number)).collect();
        let shared = Arc::new(Shared {
            remote,
            segments,
            state: Mutex::new(State {
                pieces: HashMap::new(),
                order: VecDeque::new(),
                todo: VecDeque::new(),
                is_over: false,
            }),
            changed: Condvar::new(),
        });
        for _ in 0..FETCHERS {
            let own = shared.clone();
            let thread = std::thread::Builder::new().name("fetch".into());
            let spawned = thread.spawn(move || own.fetch_all());
            spawned.map_err(crate::Error::io("a thread"))?;
        }
        Ok(Ahead { shared, numbers })
    }
}

impl Drop for Ahead {
    fn drop(&mut self) {
        let mut state = self
            .shared
            .state
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        state.is_over = true;
        self.shared.changed.notify_all();
    }
}

impl Source for Ahead {
    fn size_bytes(&self, kind: Kind, name: Digest) -> io::Result<u64> {
        self.shared.remote.size_bytes(kind, name)
    }

    fn get_range(&self, kind: Kind, name: Digest, range: Range<u64>) -> io::Result<Vec<u8>> {
        let number = self.numbers.get(&name).filter(|_| kind == Kind::Segment);
        let Some(&number) = number else {
            return self.shared.remote.get_range(kind, name, range);
        };
        let segment = self.shared.segments[number];
        if segment.live_bytes < segment.bytes / SPARSE {
            return self.shared.remote.get_range(kind, name, range);
        }
        if range.end > segment.bytes {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        let mut bytes = Vec::with_capacity((range.end - range.start) as usize);
        let mut at = range.start;
        while at < range.end {
            let piece = self.shared.piece((number, at / PIECE_BYTES))?;
            let begin = (at % PIECE_BYTES) as usize;
            let count = (range.end - at).min(PIECE_BYTES - begin as u64) as usize;
            let found = piece.get(begin..begin + count);
            bytes.extend_from_slice(found.ok_or(io::ErrorKind::UnexpectedEof)?);
            at += count as u64;
        }
        Ok(bytes)
    }
}
