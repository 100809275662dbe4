//! A bucket in memory, and what processes see of it: each has a client of its own, which refuses, delays, loses the answer of
//! what it carried out, returns cut or flipped bytes, and dies at the call that it is told to die at.
//!
//! The bucket's clock goes on with each call, and by leaps when it is told so. Leases of clients that live are renewed
//! then, as their processes would. The lease of a collection ends with its process.

use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use uzram_remote::{Meta, Remote, RemoteConfig, Store, StoreError, StoreErrorKind, Version, When};

use crate::random::Random;

/// The lease of a collection, and how long it holds, and a little more.
const SWEEP: &str = "lease/sweep";
const SWEEP_MS: u64 = 121_000;
/// When a bucket's clock begins, in milliseconds since 1970.
const BEGIN_MS: u64 = 1_790_000_000_000;

fn lock<T>(of: &Mutex<T>) -> MutexGuard<'_, T> {
    of.lock().unwrap_or_else(PoisonError::into_inner)
}

struct Object {
    bytes: Vec<u8>,
    version: u64,
    modified_ms: u64,
    /// The client that wrote it.
    by: u64,
}

#[derive(Default)]
struct Objects {
    all: BTreeMap<String, Object>,
    now_ms: u64,
    versions: u64,
    /// Clients whose processes live.
    living: Vec<u64>,
    clients: u64,
}

impl Objects {
    /// Whoever waits for a collection whose process is dead has waited long enough: nobody's clock goes as fast here.
    fn age_sweep(&mut self, by: u64) {
        if let Some(sweep) = self.all.get_mut(SWEEP).filter(|sweep| sweep.by == by) {
            sweep.modified_ms -= SWEEP_MS;
        }
    }
}

/// What is there.
#[derive(Default)]
pub(crate) struct Bucket(Mutex<Objects>);

impl Bucket {
    /// An empty one, made a remote.
    pub(crate) fn new() -> (Arc<Bucket>, RemoteConfig) {
        let bucket: Arc<Bucket> = Arc::default();
        lock(&bucket.0).now_ms = BEGIN_MS;
        let mut config = RemoteConfig::new("file:/bucket");
        // A race has its threads: one that is decided by a lock need not be run for each seed.
        config.conditional = true;
        let store = bucket.client(Moods::none(), Random::new(0));
        let marker = br#"{"uzram":"remote","version":1}"#;
        let made = store.put("uzram.json", marker, &When::New);
        assert!(made.is_ok(), "{made:?}");
        store.die();
        (bucket, config)
    }

    /// What a process that begins now sees of it.
    pub(crate) fn client(self: &Arc<Bucket>, moods: Moods, random: Random) -> Arc<Client> {
        let client = Client {
            bucket: self.clone(),
            state: Mutex::new(ClientState {
                id: 0,
                is_dead: false,
                random,
                moods,
                calls: 0,
                faults: 0,
            }),
        };
        client.revive();
        Arc::new(client)
    }

    /// Lets so many seconds pass.
    pub(crate) fn pass(&self, seconds: u64) {
        let mut objects = lock(&self.0);
        objects.now_ms += seconds * 1000;
        let now = objects.now_ms;
        let Objects { all, living, .. } = &mut *objects;
        let leases = all.iter_mut().filter(|(key, _)| key.starts_with("lease/"));
        leases
            .filter(|(_, object)| living.contains(&object.by))
            .for_each(|(_, object)| object.modified_ms = now);
    }

    /// All keys.
    pub(crate) fn keys(&self) -> Vec<String> {
        lock(&self.0).all.keys().cloned().collect()
    }
}

/// What goes wrong, and how often.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Moods {
    /// Of a hundred calls so many.
    pub(crate) percent: u64,
    /// The process dies at the call of this number, half of the time after it was carried out.
    pub(crate) dies_at: Option<u64>,
}

impl Moods {
    /// Nothing does.
    pub(crate) fn none() -> Moods {
        Moods::default()
    }

    /// Mostly nothing, or some, or a death.
    pub(crate) fn random(random: &mut Random) -> Moods {
        match random.below(10) {
            0..4 => Moods::none(),
            4..7 => Moods {
                percent: random.within(1, 12),
                dies_at: None,
            },
            _ => Moods {
                percent: random.within(0, 3),
                dies_at: Some(random.below(60)),
            },
        }
    }
}

/// What happens to a call.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Fate {
    Goes,
    /// Nothing is done, and an error says so.
    Refused,
    /// It is done, and nobody knows.
    Lost,
    /// A write is done, and the answer is that of another try: the condition does not hold any more.
    Twice,
    /// A read gives fewer bytes than there are.
    Cut,
    /// A read gives a bit that is another one.
    Flipped,
}

struct ClientState {
    id: u64,
    is_dead: bool,
    random: Random,
    moods: Moods,
    calls: u64,
    faults: u64,
}

/// What a process sees of the bucket.
pub(crate) struct Client {
    bucket: Arc<Bucket>,
    state: Mutex<ClientState>,
}

impl Client {
    /// The remote as this process has it.
    pub(crate) fn remote(self: &Arc<Client>, config: &RemoteConfig) -> Remote {
        Remote::from_store("r", config.clone(), self.clone())
    }

    /// The process is killed: nothing that it calls has an answer from now on, and its leases are renewed by nobody.
    pub(crate) fn die(&self) {
        let id = {
            let mut state = lock(&self.state);
            state.is_dead = true;
            state.id
        };
        let mut objects = lock(&self.bucket.0);
        objects.living.retain(|living| *living != id);
        objects.age_sweep(id);
    }

    /// Another process begins in its place.
    pub(crate) fn revive(&self) {
        let id = {
            let mut objects = lock(&self.bucket.0);
            objects.clients += 1;
            let id = objects.clients;
            objects.living.push(id);
            id
        };
        let mut state = lock(&self.state);
        (state.id, state.is_dead) = (id, false);
    }

    pub(crate) fn is_dead(&self) -> bool {
        lock(&self.state).is_dead
    }

    /// What goes wrong from now on. A death is counted from here.
    pub(crate) fn set(&self, moods: Moods) {
        let mut state = lock(&self.state);
        (state.moods, state.calls) = (moods, 0);
    }

    /// How many calls went wrong.
    pub(crate) fn faults(&self) -> u64 {
        lock(&self.state).faults
    }

    /// What happens to the next call.
    fn fate(&self, key: &str, writes: bool) -> Result<Fate, StoreError> {
        let mut state = lock(&self.state);
        let killed = || Err(StoreError::new(StoreErrorKind::Unreachable, key, "killed"));
        if state.is_dead {
            return killed();
        }
        state.calls += 1;
        if state.moods.dies_at.is_some_and(|at| state.calls > at) {
            let is_done = writes && state.random.percent(50);
            state.faults += 1;
            drop(state);
            self.die();
            // Whether it is done is all that anybody will see of it.
            return if is_done { Ok(Fate::Lost) } else { killed() };
        }
        let percent = state.moods.percent;
        if !state.random.percent(percent) {
            return Ok(Fate::Goes);
        }
        state.faults += 1;
        let fates = match writes {
            true => [Fate::Refused, Fate::Lost, Fate::Twice, Fate::Goes],
            false => [Fate::Refused, Fate::Cut, Fate::Flipped, Fate::Goes],
        };
        let fate = *state.random.pick(&fates);
        if fate == Fate::Goes {
            let delay = Duration::from_micros(state.random.below(1500));
            drop(state);
            std::thread::sleep(delay);
        }
        Ok(fate)
    }

    /// What comes of bytes on their way here.
    fn spoil(&self, fate: Fate, mut bytes: Vec<u8>) -> Vec<u8> {
        let mut state = lock(&self.state);
        let at = state.random.below(bytes.len() as u64) as usize;
        match fate {
            Fate::Cut => bytes.truncate(at),
            Fate::Flipped if !bytes.is_empty() => bytes[at] ^= 1 << state.random.below(8),
            _ => {}
        }
        bytes
    }

    fn objects(&self) -> MutexGuard<'_, Objects> {
        let mut objects = lock(&self.bucket.0);
        objects.now_ms += 1;
        objects
    }
}

/// The process has ended: what it could not give back is renewed by nobody.
impl Drop for Client {
    fn drop(&mut self) {
        self.die();
    }
}

fn refused(key: &str) -> StoreError {
    StoreError::new(StoreErrorKind::Failed, key, "the store is in a mood")
}

fn lost(key: &str) -> StoreError {
    StoreError::new(StoreErrorKind::Unsettled, key, "no answer")
}

fn missing(key: &str) -> StoreError {
    StoreError::new(StoreErrorKind::NotFound, key, "no such key")
}

fn meta(key: &str, object: &Object) -> Meta {
    Meta {
        key: key.into(),
        bytes: object.bytes.len() as u64,
        modified_ms: object.modified_ms,
    }
}

fn version(of: &Object) -> Version {
    Version(of.version.to_string())
}

impl Store for Client {
    fn put(&self, key: &str, bytes: &[u8], when: &When) -> Result<Version, StoreError> {
        let fate = self.fate(key, true)?;
        if fate == Fate::Refused {
            return Err(refused(key));
        }
        let by = lock(&self.state).id;
        let mut objects = self.objects();
        let found = objects.all.get(key);
        let otherwise = match (when, found) {
            (When::New, Some(_)) => Some(StoreErrorKind::Exists),
            (When::Unchanged(wanted), found) if found.map(version).as_ref() != Some(wanted) => {
                Some(StoreErrorKind::Changed)
            }
            _ => None,
        };
        if let Some(kind) = otherwise {
            return Err(StoreError::new(kind, key, "the condition does not hold"));
        }
        objects.versions += 1;
        let object = Object {
            bytes: bytes.into(),
            version: objects.versions,
            modified_ms: objects.now_ms,
            by,
        };
        let written = version(&object);
        objects.all.insert(key.into(), object);
        if key == SWEEP && !objects.living.contains(&by) {
            objects.age_sweep(by);
        }
        match (fate, when) {
            (Fate::Lost, _) => Err(lost(key)),
            (Fate::Twice, When::New) => Err(StoreError::new(StoreErrorKind::Exists, key, "twice")),
            (Fate::Twice, When::Unchanged(_)) => {
                Err(StoreError::new(StoreErrorKind::Changed, key, "twice"))
            }
            _ => Ok(written),
        }
    }

    fn get(&self, key: &str, max: u64) -> Result<(Vec<u8>, Version), StoreError> {
        let fate = self.fate(key, false)?;
        if fate == Fate::Refused {
            return Err(refused(key));
        }
        let (bytes, version) = {
            let objects = self.objects();
            let object = objects.all.get(key).ok_or_else(|| missing(key))?;
            (object.bytes.clone(), version(object))
        };
        match bytes.len() as u64 > max {
            true => Err(refused(key)),
            false => Ok((self.spoil(fate, bytes), version)),
        }
    }

    fn get_range(&self, key: &str, range: Range<u64>) -> Result<Vec<u8>, StoreError> {
        let fate = self.fate(key, false)?;
        if fate == Fate::Refused {
            return Err(refused(key));
        }
        let piece = {
            let objects = self.objects();
            let object = objects.all.get(key).ok_or_else(|| missing(key))?;
            let piece = object.bytes.get(range.start as usize..range.end as usize);
            piece.map(<[u8]>::to_vec)
        };
        let piece = piece.ok_or_else(|| StoreError::new(StoreErrorKind::Failed, key, "short"))?;
        Ok(self.spoil(fate, piece))
    }

    fn head(&self, key: &str) -> Result<Meta, StoreError> {
        if self.fate(key, false)? == Fate::Refused {
            return Err(refused(key));
        }
        let objects = self.objects();
        let object = objects.all.get(key).ok_or_else(|| missing(key))?;
        Ok(meta(key, object))
    }

    fn list(&self, prefix: &str) -> Result<Vec<Meta>, StoreError> {
        if self.fate(prefix, false)? == Fate::Refused {
            return Err(refused(prefix));
        }
        let objects = self.objects();
        let all = objects.all.iter();
        let found = all.filter(|(key, _)| key.starts_with(prefix));
        Ok(found.map(|(key, object)| meta(key, object)).collect())
    }

    fn delete(&self, key: &str) -> Result<(), StoreError> {
        let fate = self.fate(key, true)?;
        if fate == Fate::Refused {
            return Err(refused(key));
        }
        self.objects().all.remove(key);
        match fate {
            Fate::Lost => Err(lost(key)),
            _ => Ok(()),
        }
    }

    /// Far: a restore has pieces fetched ahead.
    fn is_near(&self) -> bool {
        false
    }
}
