//! A device connected to `/dev/nbdN`: connects it, takes it over, disconnects it.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc;
use std::thread::{self, JoinHandle};
use std::time::Duration;

use uzram_blockdev::{
    StepError, read_first_block, wait_until, wait_until_gone, wait_until_present,
};
use uzram_nbd::Adopter;

use crate::client::{Geometry, NbdClient};
use crate::reconnect::{Attachment, ConnectionEvent, reconnect, socket_pairs};
use crate::sysfs::{SysfsDisk, node};
use crate::{Error, KernelNbdOptions};

/// How long the node may take to appear.
const APPEAR_LIMIT: Duration = Duration::from_secs(5);
/// How long a disconnected device may take to go: udev opens it in passing.
const GO_LIMIT: Duration = Duration::from_secs(10);
/// How long the kernel may take to notice that the connections of a dead server are dead.
const NOTICE_LIMIT: Duration = Duration::from_secs(5);
const LONGEST_PAUSE: Duration = Duration::from_millis(100);

/// A device that is `/dev/nbdN` and is served by this process.
///
/// When it is dropped without [`KernelNbd::remove`], the connections end and the device stays. Its requests then wait for
/// [`KernelNbdOptions::dead_conn_timeout`], as they do when the process dies, and [`KernelNbd::reattach`] takes it over.
pub struct KernelNbd {
    node: PathBuf,
    attachment: Arc<Attachment>,
    /// The reconnecting thread; `None` once removed.
    reconnector: Option<JoinHandle<()>>,
}

/// Checks whether this machine and user can have a device. The question makes the kernel load its module, if it finds one.
pub fn probe() -> Result<(), Error> {
    if !rustix::process::geteuid().is_root() {
        return Err(Error::NeedsRoot);
    }
    NbdClient::open().map(drop)
}

impl KernelNbd {
    /// Connects a device to the first export of `server`. On return the node works: its first block was read through it.
    pub fn attach(server: Adopter, options: &KernelNbdOptions) -> Result<KernelNbd, Error> {
        options.check()?;
        let geometry = geometry(&server)?;
        let mut client = NbdClient::open()?;
        let (theirs, ours) = socket_pairs(options.connections())?;
        let index = client.connect(&geometry, options, &theirs)?;
        drop(theirs);
        let (attachment, events) = attachment(server, index, options, &client);
        let connected = || {
            for socket in ours {
                attachment.serve(socket)?;
            }
            KernelNbd::start(attachment, events, 0, &geometry)
        };
        connected().inspect_err(|_| {
            // Leaves nothing behind; the first error is the one that matters.
            let _ = client.disconnect(index);
        })
    }

    /// Takes over `/dev/nbdN`, whose server has died or let it go, with all requests that wait for a reply. `server` must
    /// serve what the old one served: only the size and [`KernelNbdOptions::name`] are compared.
    pub fn reattach(
        server: Adopter,
        index: u32,
        options: &KernelNbdOptions,
    ) -> Result<KernelNbd, Error> {
        options.check()?;
        let geometry = geometry(&server)?;
        let client = NbdClient::open()?;
        let (attachment, events) = attachment(server, index, options, &client);
        let path = node(index);
        if !attachment.disk.is_connected() {
            return Err(Error::NotConnected { path });
        }
        if !attachment.is_ours() {
            return Err(Error::Foreign {
                path,
                found: attachment.disk.backend().unwrap_or_default(),
                wanted: options.identifier(),
            });
        }
        let (found, wanted) = (attachment.disk.size_bytes(), geometry.size_bytes);
        if found != wanted {
            return Err(Error::OtherSize {
                path,
                found,
                wanted,
            });
        }
        let (found, wanted) = (attachment.disk.block_size(), geometry.block_size.into());
        if found != wanted {
            return Err(Error::OtherBlockSize {
                path,
                found,
                wanted,
            });
        }
        let wanted = attachment.disk.queues().max(1);
        let mut missing = wanted;
        wait_until(NOTICE_LIMIT, LONGEST_PAUSE, || {
            let taken = attachment.offer(missing)?;
            missing -= taken.ok_or_else(|| Error::NotConnected { path: path.clone() })?;
            Ok::<_, Error>(missing == 0)
        })?;
        if missing == wanted {
            return Err(Error::StillServed { path });
        }
        KernelNbd::start(attachment, events, missing, &geometry)
    }

    fn start(
        attachment: Attachment,
        events: mpsc::Receiver<ConnectionEvent>,
        missing: usize,
        geometry: &Geometry,
    ) -> Result<KernelNbd, Error> {
        let attachment = Arc::new(attachment);
        let theirs = Arc::clone(&attachment);
        let reconnector = thread::Builder::new()
            .name(format!("nbd{}-reconnect", attachment.index))
            .spawn(move || reconnect(&theirs, &events, missing))
            .map_err(StepError::at("starting a thread"))?;
        let this = KernelNbd {
            node: node(attachment.index),
            attachment,
            reconnector: Some(reconnector),
        };
        this.wait_for_node(geometry)?;
        Ok(this)
    }

    /// Waits until the node exists with its size, and reads the first block.
    fn wait_for_node(&self, geometry: &Geometry) -> Result<(), Error> {
        let disk = &self.attachment.disk;
        wait_until_present(&self.node, APPEAR_LIMIT, || {
            disk.size_bytes() == geometry.size_bytes && disk.has_node(&self.node)
        })?;
        Ok(read_first_block(&self.node)?)
    }

    /// The device's node.
    pub fn node(&self) -> &Path {
        &self.node
    }

    /// N of `/dev/nbdN`.
    pub fn index(&self) -> u32 {
        self.attachment.index
    }

    /// Opens the node for the caller alone: while the file lives, nobody can mount the device or swap on it. `None`:
    /// somebody disconnected the device. [`Error::Node`] names who uses it.
    pub fn exclusive(&self) -> Result<Option<File>, Error> {
        let is_ours = || self.reconnector.is_some() && self.attachment.is_ours();
        Ok(uzram_blockdev::open_exclusive(&self.node, is_ours)?)
    }

    /// Disconnects the device. Changes nothing where somebody uses it ([`Error::Node`]). A second call after success does
    /// nothing.
    pub fn remove(&mut self) -> Result<(), Error> {
        if self.reconnector.is_none() {
            return Ok(());
        }
        // Held until the kernel has dropped the connections, so that nobody mounts the device in between.
        if let Some(held) = self.exclusive()? {
            uzram_blockdev::delete_partitions(&held, &self.node);
            let removing = &self.attachment.removing;
            removing.store(true, Ordering::Release);
            let index = self.attachment.index;
            let disconnected = NbdClient::open().and_then(|mut client| client.disconnect(index));
            if disconnected.is_err() {
                removing.store(false, Ordering::Release);
            }
            disconnected?;
        }
        self.stop();
        wait_until_free(&self.attachment.disk, &self.node)
    }

    /// Ends the reconnecting thread.
    fn stop(&mut self) {
        if let Some(reconnector) = self.reconnector.take() {
            // Sending fails only if the thread has ended by itself.
            let _ = self.attachment.events.send(ConnectionEvent::Stop);
            let _ = reconnector.join();
        }
    }
}

impl Drop for KernelNbd {
    fn drop(&mut self) {
        self.stop();
    }
}

fn geometry(server: &Adopter) -> Result<Geometry, Error> {
    let export = server.export("")?;
    Ok(Geometry {
        size_bytes: export.size_bytes(),
        block_size: export.block_size(),
        flags: export.transmission_flags(),
    })
}

fn attachment(
    server: Adopter,
    index: u32,
    options: &KernelNbdOptions,
    client: &NbdClient,
) -> (Attachment, mpsc::Receiver<ConnectionEvent>) {
    let (sender, events) = mpsc::channel();
    let attachment = Attachment {
        index,
        disk: SysfsDisk::new(index),
        options: options.clone(),
        identified: client.keeps_identifiers(),
        server,
        events: sender,
        removing: AtomicBool::new(false),
    };
    (attachment, events)
}

/// Waits for a disconnected device to become free. It does not while something has it open.
pub(crate) fn wait_until_free(disk: &SysfsDisk, node: &Path) -> Result<(), Error> {
    let free = || !disk.is_connected() && disk.size_bytes() == 0;
    Ok(wait_until_gone(node, GO_LIMIT, free)?)
}
