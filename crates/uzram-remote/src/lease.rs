//! Leases: what keeps a collection from removing what somebody uses, and two collections from each other.
//!
//! A lease names manifests. It holds for so many seconds after it was written, by the store's clock, which stamps every object:
//! no host's clock is asked. A thread renews it; whoever has it asks [`Lease::check`] before it relies on it.
//!
//! **Why nothing that is used is removed.** Whoever wants to use a manifest writes a lease that names it, and *then* looks
//! whether a sweep goes on; if so, it waits for its end. Only after that it looks whether everything is there. Whoever sweeps
//! writes `lease/sweep`, and *then* reads all leases. So one of the two sees the other. It is the store that promises that who
//! reads after a write sees it.

use std::sync::mpsc::{self, RecvTimeoutError};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use crate::error::{Error, Result};
use crate::id;
use crate::objects::{self, LeaseBody, MAX_JSON_BYTES, SWEEP, VERSION};
use crate::store::{Meta, Store, StoreErrorKind, When};

/// For how long a lease holds after it was written.
pub(crate) const LEASE_SECONDS: u64 = 900;
/// For how long the lease of a backing holds: what it keeps is nowhere else, and its host may be cut off for days.
pub(crate) const BACKING_SECONDS: u64 = 7 * 24 * 3600;
/// For how long a sweep is believed to go on after its lease was written.
pub(crate) const SWEEP_SECONDS: u64 = 120;
/// Most seconds between two looks whether a sweep has ended.
const LOOK: Duration = Duration::from_millis(500);

/// A lease that this process has. Dropped, it is given back.
#[derive(Debug)]
pub struct Lease {
    shared: Arc<Shared>,
    stop: Option<mpsc::Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

struct Shared {
    store: Arc<dyn Store>,
    key: String,
    body: Mutex<LeaseBody>,
    /// When what holds now was sent, and what was wrong with the last try.
    renewed: Mutex<(Instant, String)>,
}

impl std::fmt::Debug for Shared {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Shared")
            .field("key", &self.key)
            .finish_non_exhaustive()
    }
}

impl Shared {
    fn write(&self, when: &When) -> Result<()> {
        let body = self
            .body
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone();
        let begin = Instant::now();
        let written = self.store.put(&self.key, &objects::to_json(&body), when);
        let mut renewed = self.renewed.lock().unwrap_or_else(PoisonError::into_inner);
        match written {
            Ok(_) => {
                *renewed = (begin, String::new());
                Ok(())
            }
            Err(error) => {
                renewed.1 = error.to_string();
                Err(error.into())
            }
        }
    }
}

impl LeaseBody {
    /// One of this process that names nothing yet.
    fn new(id: String, why: &str, seconds: u64) -> LeaseBody {
        LeaseBody {
            uzram: "lease".into(),
            version: VERSION,
            id,
            by: id::holder(),
            why: why.into(),
            seconds,
            manifests: Vec::new(),
            backings: Vec::new(),
        }
    }
}

impl Lease {
    /// Takes a lease, and waits until no sweep goes on that may not have seen it. `why` is for people.
    pub(crate) fn take(store: &Arc<dyn Store>, why: &str, manifests: Vec<String>) -> Result<Lease> {
        let id = id::random();
        let lease = Lease::write(
            store,
            format!("lease/{id}"),
            id,
            why,
            manifests,
            LEASE_SECONDS,
        )?;
        lease.wait_for_sweep()?;
        Ok(lease)
    }

    /// Takes the lease of a backing, or takes it over from the process that had it before. As [`Lease::take`], but one that was
    /// taken over stays whatever happens: the device needs it.
    pub(crate) fn take_backing(
        store: &Arc<dyn Store>,
        key: String,
        id: String,
        why: &str,
        backing: String,
        is_new: bool,
    ) -> Result<Lease> {
        let body = LeaseBody {
            backings: vec![backing],
            ..LeaseBody::new(id, why, BACKING_SECONDS)
        };
        let lease = Lease::begin(store, key, body, &When::Always)?;
        match lease.wait_for_sweep() {
            Err(error) if !is_new => {
                lease.leave();
                Err(error)
            }
            waited => waited.map(|()| lease),
        }
    }

    /// Takes the lease of who sweeps, which one has at a time. One whose owner is dead is taken over.
    pub(crate) fn take_sweep(store: &Arc<dyn Store>) -> Result<Lease> {
        let id = id::random();
        let write = || {
            let key = SWEEP.to_owned();
            Lease::write(store, key, id.clone(), "sweep", Vec::new(), SWEEP_SECONDS)
        };
        loop {
            match write() {
                Err(Error::Store(error)) if error.kind == StoreErrorKind::Exists => {}
                Err(Error::Store(error)) if error.kind == StoreErrorKind::Unsettled => {
                    // Where it was written it is this one's, and expires.
                    return Err(error.into());
                }
                other => return other,
            }
            let now = store_now(store)?;
            match read(store, SWEEP)? {
                None => {}
                // Its answer was lost, and it was tried again.
                Some((body, _)) if body.id == id => store.delete(SWEEP)?,
                Some((body, meta)) => {
                    let left = seconds_left(&body, &meta, now);
                    if left > 0 {
                        let (by, seconds) = (body.by, left);
                        return Err(Error::Sweeping { by, seconds });
                    }
                    store.delete(SWEEP)?;
                }
            }
        }
    }

    fn write(
        store: &Arc<dyn Store>,
        key: String,
        id: String,
        why: &str,
        manifests: Vec<String>,
        seconds: u64,
    ) -> Result<Lease> {
        let body = LeaseBody {
            manifests,
            ..LeaseBody::new(id, why, seconds)
        };
        Lease::begin(store, key, body, &When::New)
    }

    /// Writes it and has it renewed.
    fn begin(store: &Arc<dyn Store>, key: String, body: LeaseBody, when: &When) -> Result<Lease> {
        let every = Duration::from_secs(body.seconds.min(LEASE_SECONDS) / 4);
        let shared = Arc::new(Shared {
            store: store.clone(),
            key,
            body: Mutex::new(body),
            renewed: Mutex::new((Instant::now(), String::new())),
        });
        shared.write(when)?;
        let (stop, stopped) = mpsc::channel::<()>();
        let own = shared.clone();
        let renew = move || {
            while stopped.recv_timeout(every) == Err(RecvTimeoutError::Timeout) {
                // Whoever relies on it asks whether it was in time.
                let _ = own.write(&When::Always);
            }
        };
        let thread = std::thread::Builder::new().name("lease".into());
        let thread = thread.spawn(renew).map_err(Error::io("a thread"))?;
        Ok(Lease {
            shared,
            stop: Some(stop),
            thread: Some(thread),
        })
    }

    /// Names a manifest as well, and waits for a sweep that may not have seen that.
    pub(crate) fn add(&self, manifest: String) -> Result<()> {
        let mut body = self
            .shared
            .body
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        body.manifests.push(manifest);
        drop(body);
        self.shared.write(&When::Always)?;
        self.wait_for_sweep()
    }

    /// Whether it still holds for some time.
    pub fn check(&self) -> Result<()> {
        let seconds = self
            .shared
            .body
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .seconds;
        let renewed = self
            .shared
            .renewed
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        // Half of it is for what is on its way when it is asked.
        match renewed.0.elapsed().as_secs() < seconds / 2 {
            true => Ok(()),
            false => Err(Error::LeaseLost {
                id: self.shared.key.clone(),
                why: renewed.1.clone(),
            }),
        }
    }

    fn wait_for_sweep(&self) -> Result<()> {
        let store = &self.shared.store;
        let mut now = None;
        loop {
            let Some((body, meta)) = read(store, SWEEP)? else {
                return self.check();
            };
            let now = match now {
                Some(now) => now,
                None => *now.insert(store.head(&self.shared.key)?.modified_ms),
            };
            // A dead one: each look is by the store's clock as of now.
            let is_dead = seconds_left(&body, &meta, now) == 0
                || seconds_left(&body, &meta, store_now(store)?) == 0;
            if is_dead {
                return self.check();
            }
            std::thread::sleep(LOOK);
        }
    }
}

impl Lease {
    /// Leaves it to expire, for whoever goes on in this process's place.
    pub(crate) fn leave(mut self) {
        self.end();
        std::mem::forget(self);
    }

    /// Ends its renewal.
    fn end(&mut self) {
        drop(self.stop.take());
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        self.end();
        // What is not removed expires.
        let _ = self.shared.store.delete(&self.shared.key);
    }
}

/// A lease with what the store says of it. `None`: it is not there.
pub(crate) fn read(store: &Arc<dyn Store>, key: &str) -> Result<Option<(LeaseBody, Meta)>> {
    let missing = |error: &crate::StoreError| error.kind == StoreErrorKind::NotFound;
    let meta = match store.head(key) {
        Err(error) if missing(&error) => return Ok(None),
        meta => meta?,
    };
    match store.get(key, MAX_JSON_BYTES) {
        Err(error) if missing(&error) => Ok(None),
        found => {
            let body = objects::parse(key, "lease", &found?.0)?;
            Ok(Some((body, meta)))
        }
    }
}

/// For how many seconds a lease holds; 0 if it does not.
pub(crate) fn seconds_left(body: &LeaseBody, meta: &Meta, now_ms: u64) -> u64 {
    let end = meta
        .modified_ms
        .saturating_add(body.seconds.saturating_mul(1000));
    end.saturating_sub(now_ms).div_ceil(1000)
}

/// What time it is by the store's clock.
pub(crate) fn store_now(store: &Arc<dyn Store>) -> Result<u64> {
    let key = format!("lease/clock-{}", id::random());
    store.put(&key, &objects::to_json(&"clock"), &When::Always)?;
    let now = store.head(&key).map(|meta| meta.modified_ms);
    store.delete(&key)?;
    Ok(now?)
}
