//! A clone's source: a process that has the snapshot's lease and reads the bucket, and may be killed and started anew.

use std::sync::Arc;
use std::time::Duration;

use uzram::{Device, RemoteOptions};
use uzram_remote::{Lease, Remote, RemoteConfig, key_of};
use uzram_snapshot::device::RemotePages;
use uzram_snapshot::{Digest, RemoteSnapshot};
use uzram_testkit::algorithm::with_self_trained;

use crate::host::text;
use crate::seeds::Wrong;
use crate::store::{Client, Moods};

/// How often a process is started that fails at once.
const STARTS: u32 = 200;
/// How long a request waits where the store is in a mood.
const SHORT: Duration = Duration::from_millis(25);
/// And where it is not.
const LONG: Duration = Duration::from_secs(20);

/// Where the remote pages of a device are.
pub(crate) struct CloneOf {
    client: Arc<Client>,
    remote: Remote,
    /// The snapshot, as the store calls it.
    pub(crate) snapshot: Digest,
    lease: Option<Lease>,
    options: RemoteOptions,
}

/// A snapshot's pages, as a device is given them.
pub(crate) fn pages_of(remote: &Remote, snapshot: Digest) -> Result<RemotePages, Wrong> {
    let found = remote.manifest(snapshot).map_err(text)?;
    let readable = found.open(None, "the snapshot").map_err(text)?;
    let source = remote.parts(&found, &readable, false).map_err(text)?;
    let snapshot = RemoteSnapshot::open(source, readable.manifest().name()).map_err(text)?;
    RemotePages::new(snapshot, &with_self_trained(), "the clone's source".into()).map_err(text)
}

fn options(timeout: Duration) -> RemoteOptions {
    let mut options = RemoteOptions::default();
    options.timeout = timeout;
    options
}

impl CloneOf {
    /// Opens a snapshot, and takes a lease of it.
    pub(crate) fn open(
        client: Arc<Client>,
        config: &RemoteConfig,
        snapshot: Digest,
    ) -> uzram_remote::Result<CloneOf> {
        let remote = client.remote(config);
        let lease = remote.lease(snapshot, "a device")?;
        Ok(CloneOf {
            client,
            remote,
            snapshot,
            lease,
            options: options(SHORT),
        })
    }

    /// Its pages, as a device is given them.
    pub(crate) fn pages(&self) -> Result<RemotePages, Wrong> {
        pages_of(&self.remote, self.snapshot)
    }

    /// Gives a device its source. Asks until the store answers.
    pub(crate) fn give_to(&self, device: &Device) -> Result<(), Wrong> {
        let mut wrong = Wrong::new();
        for _ in 0..STARTS {
            match self.pages() {
                Ok(pages) => {
                    device.set_source(Arc::new(pages), self.options);
                    return Ok(());
                }
                Err(error) => wrong = error,
            }
        }
        Err(format!("the source does not come back: {wrong}"))
    }

    /// The process is killed. Its lease stays for whoever comes next.
    pub(crate) fn kill(&mut self) {
        self.client.die();
        drop(self.lease.take());
    }

    /// Another one is started. An error where it does not work.
    pub(crate) fn restart(&mut self) -> Result<(), Wrong> {
        self.kill();
        self.client.revive();
        match self.remote.lease(self.snapshot, "a device") {
            Ok(lease) => {
                self.lease = lease;
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
    pub(crate) fn heal(&mut self) -> Result<(), Wrong> {
        self.client.set(Moods::none());
        self.options = options(LONG);
        match self.client.is_dead() {
            true => self.restart(),
            false => Ok(()),
        }
    }

    /// The store is in moods again.
    pub(crate) fn unheal(&mut self, device: &Device, moods: Moods) -> Result<(), Wrong> {
        self.options = options(SHORT);
        self.give_to(device)?;
        self.set(moods);
        Ok(())
    }

    /// The keys of what it needs.
    pub(crate) fn keys(&self, of: &Remote) -> Result<Vec<String>, Wrong> {
        let found = of.manifest(self.snapshot).map_err(text)?;
        let parts = found.parts().into_iter();
        let keys = parts.map(|part| key_of(part.kind, part.name));
        Ok(keys.collect())
    }
}
