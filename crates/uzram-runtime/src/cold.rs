//! A backing in a remote: the device's side. Whoever speaks to the store is the process beside the server
//! ([`RemoteProcess`]); this starts it, again when it has ended, and hands it objects.
//!
//! Which objects there are is in a map in the device's directory, which lives as long as the device's memory does. So a server
//! that takes a device over needs nothing of the store to begin.

use std::fs::{File, OpenOptions};
use std::io;
use std::ops::Range;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::mpsc::{RecvTimeoutError, sync_channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use uzram::uzram_backing::{Disk, SegmentStore, StoreDisk};
use uzram::{BackingOptions, Device, DiskOpener};
use uzram_spec::{BackingSpec, Failure, Result};

use crate::process;
use crate::remote_process::{BackingOrder, RemoteOrder, RemoteProcess};

/// The map, in the device's directory.
const MAP: &str = "backing.map";
/// How long a request waits for the store, if nothing else is said.
const TIMEOUT: Duration = Duration::from_secs(30);
/// The least time between two starts of the process.
const BETWEEN_STARTS: Duration = Duration::from_millis(500);
/// How long whoever takes a device down waits for its objects to be deleted.
const RETIRE: Duration = Duration::from_secs(6);
/// The least that may be in a remote.
const LEAST_BYTES: u64 = 64 << 20;

/// The device that a backing is of.
#[derive(Debug, Clone)]
pub(crate) struct ColdDevice {
    /// Its directory.
    pub(crate) dir: PathBuf,
    pub(crate) name: String,
    pub(crate) identity: String,
}

impl ColdDevice {
    fn order(&self, remote: &str, id: [u8; 16], is_new: bool) -> RemoteOrder {
        RemoteOrder::backing(
            remote,
            BackingOrder {
                id,
                device: self.name.clone(),
                identity: self.identity.clone(),
                description: self.dir.join("spec.json"),
                is_new,
            },
        )
    }
}

/// A place in a remote, by way of a process.
struct ColdStore {
    /// What goes on with it.
    order: RemoteOrder,
    process: Mutex<Running>,
}

struct Running {
    process: Option<Arc<RemoteProcess>>,
    started: Instant,
}

impl ColdStore {
    fn new(order: RemoteOrder, process: Option<RemoteProcess>) -> Arc<ColdStore> {
        Arc::new(ColdStore {
            order,
            process: Mutex::new(Running {
                process: process.map(Arc::new),
                started: Instant::now(),
            }),
        })
    }

    /// The process, which is started if there is none that works.
    fn process(&self) -> io::Result<Arc<RemoteProcess>> {
        let mut running = self.process.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(process) = running.process.as_ref().filter(|of| !of.is_broken()) {
            return Ok(process.clone());
        }
        if running.process.take().is_some() {
            tracing::warn!(
                "{}: the process that speaks to it is started anew",
                self.order.remote
            );
            let since = running.started.elapsed();
            std::thread::sleep(BETWEEN_STARTS.saturating_sub(since));
        }
        let started = RemoteProcess::start(&self.order).map_err(io::Error::other)?;
        running.started = Instant::now();
        Ok(running.process.insert(Arc::new(started)).clone())
    }
}

impl SegmentStore for ColdStore {
    fn put(&self, number: u64, bytes: &[u8]) -> io::Result<()> {
        self.process()?.put_object(number, bytes)
    }

    fn get(&self, number: u64, range: Range<u64>) -> io::Result<Vec<u8>> {
        self.process()?.get_object(number, range)
    }

    fn delete(&self, number: u64) -> io::Result<()> {
        self.process()?.delete_object(number)
    }

    fn list(&self) -> io::Result<Vec<u64>> {
        self.process()?.list_objects()
    }

    fn retire(&self) -> Option<String> {
        let (name, _) = self.order.remote.split_once('/').unwrap_or_default();
        let later =
            format!("\"uzram remote collect {name}\" removes them once no lease holds them");
        let goes_on = "the process that speaks to the store goes on for ten minutes";
        let (told, hear) = sync_channel(1);
        let process = match self.process() {
            Ok(process) => process,
            Err(error) => {
                return Some(format!(
                    "objects are still in {}: {error}; {later}",
                    self.order.remote
                ));
            }
        };
        let spawned = process::spawn("retire", move || {
            let _ = told.send(process.retire());
        });
        let heard = match spawned {
            Ok(()) => hear.recv_timeout(RETIRE),
            Err(_) => Err(RecvTimeoutError::Disconnected),
        };
        let why = match heard {
            Ok(Ok(None)) => return None,
            Ok(Ok(Some(words))) => words,
            Ok(Err(error)) => error.to_string(),
            Err(_) => "the store does not answer".into(),
        };
        Some(format!(
            "objects are still in {}: {why}; {goes_on}, and {later}",
            self.order.remote
        ))
    }

    fn describe(&self) -> String {
        "remote, objects of up to 4 MiB".into()
    }
}

/// Whether a backing's path is that of a place in a remote.
pub(crate) fn is_remote(path: &Path) -> bool {
    !path.is_absolute()
}

fn map(device: &ColdDevice) -> (PathBuf, OpenOptions) {
    let mut options = OpenOptions::new();
    options.read(true).write(true).mode(0o600);
    (device.dir.join(MAP), options)
}

/// Gives a device a backing in a remote. Returns when the store has acknowledged that it is the device's.
pub(crate) fn attach(device: &Device, of: &ColdDevice, backing: &BackingSpec) -> Result {
    // One at a time: there is one map.
    static ALONE: Mutex<()> = Mutex::new(());
    let _alone = ALONE.lock().unwrap_or_else(PoisonError::into_inner);
    if let Some(there) = device.zram().backing() {
        return Err(uzram::Error::HasBacking { path: there.path }.into());
    }
    let size = backing.size.map_or_else(
        || (device.size_bytes() + device.size_bytes() / 8).max(LEAST_BYTES),
        |size| size.0,
    );
    let mut id = [0; 16];
    rustix::rand::getrandom(&mut id, rustix::rand::GetRandomFlags::empty())
        .map_err(io::Error::from)?;
    let process = RemoteProcess::start(&of.order(&backing.remote, id, true))?;
    process.opened()?;
    let store = ColdStore::new(of.order(&backing.remote, id, false), Some(process));
    let attached = attach_store(device, of, backing, store.clone(), id, size);
    if attached.is_err() {
        // The prefix is nobody's then.
        store.retire();
    }
    attached
}

fn attach_store(
    device: &Device,
    of: &ColdDevice,
    backing: &BackingSpec,
    store: Arc<ColdStore>,
    id: [u8; 16],
    size_bytes: u64,
) -> Result {
    let seconds = backing.remote_timeout_seconds;
    let timeout = seconds.map_or(TIMEOUT, |seconds| Duration::from_secs(seconds.into()));
    let (path, mut options) = map(of);
    let file = options
        .create(true)
        .truncate(true)
        .open(&path)
        .map_err(|error| Failure::failed(format!("{}: {error}", path.display())))?;
    let disk: Arc<dyn Disk> = Arc::new(StoreDisk::create(store, file, id, timeout)?);
    let path = Path::new(&backing.remote);
    let options = BackingOptions {
        size_bytes: Some(size_bytes),
        seal: backing.seal,
    };
    Ok(device.zram().attach_disk(path, disk, options)?)
}

/// Finds a device's backing again.
pub(crate) struct ColdOpener(pub(crate) ColdDevice);

impl DiskOpener for ColdOpener {
    fn open(&self, path: &Path) -> Option<io::Result<Arc<dyn Disk>>> {
        is_remote(path).then(|| {
            let (map, options) = map(&self.0);
            let map: File = options.open(map)?;
            let id = StoreDisk::id_of(&map)?;
            let remote = path.to_str().ok_or(io::ErrorKind::InvalidData)?;
            let store = ColdStore::new(self.0.order(remote, id, false), None);
            Ok(Arc::new(StoreDisk::open(store, map)?) as Arc<dyn Disk>)
        })
    }
}
