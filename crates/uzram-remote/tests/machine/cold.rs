//! A device's backing in a bucket: a process that has the lease of the place, and may be killed and started anew, and the map
//! that the device's directory has.

use std::fs::File;
use std::io;
use std::ops::Range;
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use rustix::fs::MemfdFlags;
use uzram::uzram_backing::{Disk, SegmentStore, StoreDisk};
use uzram::{BackingOptions, Device, DiskOpener};
use uzram_remote::{BackingUser, Error, Remote, RemoteBacking, RemoteConfig};

use crate::host::text;
use crate::random::Random;
use crate::seeds::Wrong;
use crate::store::{Client, Moods};

/// How long a read waits for the store.
const TIMEOUT: Duration = Duration::from_millis(40);
/// How long threads of a dead server may take to end.
const PATIENCE: Duration = Duration::from_secs(20);
/// Bytes of it.
const SIZE: u64 = 64 << 20;

/// The process as the server sees it: there, or being started anew.
struct Link(Mutex<Option<Arc<RemoteBacking>>>);

impl Link {
    fn process(&self) -> io::Result<Arc<RemoteBacking>> {
        let process = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        process
            .clone()
            .ok_or_else(|| io::Error::other("no process"))
    }

    fn set(&self, process: Option<Arc<RemoteBacking>>) {
        let mut now = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let before = std::mem::replace(&mut *now, process);
        drop(now);
        // What it was at ends, as it does when its process is dead: before anybody begins in its place.
        while before
            .as_ref()
            .is_some_and(|before| Arc::strong_count(before) > 1)
        {
            std::thread::sleep(Duration::from_micros(50));
        }
    }
}

impl SegmentStore for Link {
    fn put(&self, number: u64, bytes: &[u8]) -> io::Result<()> {
        SegmentStore::put(&*self.process()?, number, bytes)
    }
    fn get(&self, number: u64, range: Range<u64>) -> io::Result<Vec<u8>> {
        SegmentStore::get(&*self.process()?, number, range)
    }
    fn delete(&self, number: u64) -> io::Result<()> {
        SegmentStore::delete(&*self.process()?, number)
    }
    fn list(&self) -> io::Result<Vec<u64>> {
        SegmentStore::list(&*self.process()?)
    }
    fn retire(&self) -> Option<String> {
        let Ok(process) = self.process() else {
            return Some("no process".into());
        };
        let retired = process.retire(Duration::ZERO);
        retired.err().map(|error| error.to_string())
    }
    fn describe(&self) -> String {
        "a bucket".into()
    }
}

/// A place in a bucket, and the process that has it.
pub(crate) struct Cold {
    client: Arc<Client>,
    remote: Remote,
    prefix: String,
    user: BackingUser,
    map: File,
    link: Arc<Link>,
}

impl Cold {
    /// Takes a place for a device. `None`: the store, or whoever has the place, does not let it.
    pub(crate) fn attach(
        device: &Device,
        (name, prefix): (&str, &str),
        client: Arc<Client>,
        config: &RemoteConfig,
        random: &mut Random,
    ) -> Result<Option<Cold>, Wrong> {
        let remote = client.remote(config);
        let user = BackingUser {
            id: random.bytes(16).try_into().expect("16 bytes"),
            device: name.into(),
            identity: name.into(),
            description: String::new(),
        };
        let opened = match remote.open_backing(prefix, &user, true) {
            Ok(opened) => Arc::new(opened),
            Err(Error::BackingInUse { .. } | Error::BackingTag { .. } | Error::Foreign { .. }) => {
                return Ok(None);
            }
            Err(Error::Store(_) | Error::LeaseLost { .. } | Error::Newer { .. }) => {
                return Ok(None);
            }
            Err(error) => return Err(format!("{prefix}: {error}")),
        };
        let map = rustix::fs::memfd_create("uzram-map", MemfdFlags::CLOEXEC);
        let map = File::from(map.expect("a memfd"));
        let link = Arc::new(Link(Mutex::new(Some(opened))));
        let disk = StoreDisk::create(
            link.clone(),
            map.try_clone().map_err(text)?,
            user.id,
            TIMEOUT,
        );
        let disk: Arc<dyn Disk> = Arc::new(disk.map_err(text)?);
        let options = BackingOptions {
            size_bytes: Some(SIZE),
            seal: random.percent(30),
        };
        let path = format!("r/{prefix}");
        let attached = device.zram().attach_disk(Path::new(&path), disk, options);
        attached.map_err(text)?;
        Ok(Some(Cold {
            client,
            remote,
            prefix: prefix.into(),
            user,
            map,
            link,
        }))
    }

    /// The process is killed. Its lease stays.
    pub(crate) fn kill(&self) {
        self.client.die();
        self.link.set(None);
    }

    /// Another one is started. An error where it does not work.
    pub(crate) fn restart(&self) -> Result<(), Wrong> {
        self.kill();
        self.client.revive();
        let opened = self.remote.open_backing(&self.prefix, &self.user, false);
        match opened {
            Ok(opened) => {
                self.link.set(Some(Arc::new(opened)));
                Ok(())
            }
            Err(error) => {
                self.client.die();
                Err(text(error))
            }
        }
    }

    /// How the store is from now on.
    pub(crate) fn set(&self, moods: Moods) {
        self.client.set(moods);
    }

    /// Everything goes well from now on.
    pub(crate) fn heal(&self) -> Result<(), Wrong> {
        self.set(Moods::none());
        match self.client.is_dead() {
            true => self.restart(),
            false => Ok(()),
        }
    }

    /// Waits until no thread of the server before has the map: it would be dead.
    pub(crate) fn wait_for_threads(&self) -> Result<(), Wrong> {
        let until = Instant::now() + PATIENCE;
        while Arc::strong_count(&self.link) > 1 {
            ensure!(Instant::now() < until, "threads of a backing do not end");
            std::thread::sleep(Duration::from_micros(200));
        }
        Ok(())
    }

    /// What the next server finds the backing by: a process of its own, and the map.
    pub(crate) fn opener(&mut self) -> Result<Arc<dyn DiskOpener>, Wrong> {
        self.link = Arc::new(Link(Mutex::new(None)));
        // Where that fails, the device begins without it.
        let _ = self.restart();
        Ok(Arc::new(Opener {
            map: self.map.try_clone().map_err(text)?,
            link: Mutex::new(Some(self.link.clone())),
        }))
    }
}

struct Opener {
    map: File,
    /// Once: threads of that disk are waited for by what holds it.
    link: Mutex<Option<Arc<Link>>>,
}

impl DiskOpener for Opener {
    fn open(&self, _: &Path) -> Option<io::Result<Arc<dyn Disk>>> {
        let mut link = self.link.lock().unwrap_or_else(PoisonError::into_inner);
        let link = link.take()?;
        let opened = self.map.try_clone();
        let opened = opened.and_then(|map| StoreDisk::open(link, map));
        Some(opened.map(|disk| Arc::new(disk) as Arc<dyn Disk>))
    }
}
