//! The whole: connecting a device, taking one over, disconnecting it, also after a server that died.

use std::fs::{File, OpenOptions};
use std::io::Read;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc;
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use uzram_blockdev::{Busy, Error as NodeError, busy};
use uzram_nbd::Adopter;

use crate::command::{Client, Geometry};
use crate::mend::{Event, Link, mend, pairs};
use crate::sysfs::{self, Disk, node};
use crate::{Error, Options};

/// How long the node may take to appear.
const APPEARS: Duration = Duration::from_secs(5);
/// How long a disconnected device may take to go; udev may look at it in the meantime.
const GOES: Duration = Duration::from_secs(10);
/// How long the kernel may take to notice that the connections of a dead server are dead.
const NOTICES: Duration = Duration::from_secs(5);

/// A device that is `/dev/nbdN` and is served by this process.
///
/// When it is dropped without [`KernelNbd::remove`], the connections end and the device stays: its requests wait
/// for [`Options::dead_conn_timeout`], as they do when the process dies, and [`KernelNbd::reattach`] takes it over.
pub struct KernelNbd {
    node: PathBuf,
    link: Arc<Link>,
    /// The mending thread; `None` once removed.
    mender: Option<JoinHandle<()>>,
}

/// Says why this machine or user cannot have a device, if so. That it is asked for makes the kernel load its module,
/// where it finds it.
pub fn probe() -> Result<(), String> {
    if !rustix::process::geteuid().is_root() {
        return Err("the kernel's NBD client obeys root only".into());
    }
    Client::open().map(drop).map_err(|error| error.to_string())
}

impl KernelNbd {
    /// Connects a device to the first export of `server`. When this returns, the node works: its first block was
    /// read through it.
    pub fn attach(server: Adopter, options: &Options) -> Result<KernelNbd, Error> {
        options.check()?;
        let geometry = geometry(&server)?;
        let mut client = Client::open()?;
        let (theirs, ours) = pairs(options.connections())?;
        let index = client.connect(&geometry, options, &theirs)?;
        drop(theirs);
        let (link, events) = link(server, index, options, &client);
        let connected = || {
            for socket in ours {
                link.serve(socket)?;
            }
            KernelNbd::start(link, events, 0, &geometry)
        };
        connected().inspect_err(|_| {
            // Leave nothing behind; the first error is the one that matters.
            let _ = client.disconnect(index);
        })
    }

    /// Takes over `/dev/nbdN`, whose server has died or let it go, with all requests that wait for a reply. `server`
    /// must serve what the old one served: only the size and [`Options::name`] are compared.
    pub fn reattach(server: Adopter, index: u32, options: &Options) -> Result<KernelNbd, Error> {
        options.check()?;
        let geometry = geometry(&server)?;
        let client = Client::open()?;
        let (link, events) = link(server, index, options, &client);
        let path = node(index);
        if !link.disk.is_connected() {
            return Err(Error::NotConnected { path });
        }
        if !link.is_ours() {
            return Err(Error::Foreign {
                path,
                found: link.disk.backend().unwrap_or_default(),
                wanted: options.identifier(),
            });
        }
        let (size, block) = (link.disk.size_bytes(), link.disk.block_size());
        for (what, found, wanted) in [
            ("size", size, geometry.size_bytes),
            ("blocks of", block, geometry.block_size.into()),
        ] {
            if found != wanted {
                return Err(Error::OtherSize {
                    path,
                    what,
                    found,
                    wanted,
                });
            }
        }
        let wanted = link.disk.queues().max(1);
        let mut missing = wanted;
        until(NOTICES, || {
            let taken = link.offer(missing)?;
            missing -= taken.ok_or_else(|| Error::NotConnected { path: path.clone() })?;
            Ok(missing == 0)
        })?;
        if missing == wanted {
            return Err(Error::StillServed { path });
        }
        KernelNbd::start(link, events, missing, &geometry)
    }

    fn start(
        link: Link,
        events: mpsc::Receiver<Event>,
        missing: usize,
        geometry: &Geometry,
    ) -> Result<KernelNbd, Error> {
        let link = Arc::new(link);
        let mending = Arc::clone(&link);
        let mender = thread::Builder::new()
            .name(format!("nbd-mend{}", link.index))
            .spawn(move || mend(&mending, &events, missing))
            .map_err(Error::at("starting a thread"))?;
        let this = KernelNbd {
            node: node(link.index),
            link,
            mender: Some(mender),
        };
        this.wait_for_node(geometry)?;
        Ok(this)
    }

    /// Waits until the node is there, with its size, and reads the first block.
    fn wait_for_node(&self, geometry: &Geometry) -> Result<(), Error> {
        let disk = &self.link.disk;
        let there = until(APPEARS, || {
            Ok(disk.size_bytes() == geometry.size_bytes && disk.has_node(&self.node))
        })?;
        if !there {
            return Err(Error::NoNode {
                path: self.node.clone(),
                seconds: APPEARS.as_secs(),
            });
        }
        let read = || {
            let mut node = OpenOptions::new()
                .read(true)
                .custom_flags(libc::O_DIRECT)
                .open(&self.node)?;
            // Direct I/O wants an aligned buffer: 4096 bytes out of twice as many.
            let mut buffer = vec![0u8; 8192];
            let at = buffer.as_ptr().align_offset(4096);
            node.read_exact(&mut buffer[at..at + geometry.block_size as usize])
        };
        read().map_err(Error::at(format!("reading {}", self.node.display())))
    }

    /// The device's node.
    pub fn node(&self) -> &Path {
        &self.node
    }

    /// The number in the node's name.
    pub fn index(&self) -> u32 {
        self.link.index
    }

    /// Takes the node for the caller alone: while the result lives nobody can mount it or swap on it.
    /// [`Error::Node`] names who uses it now. `None`: the device was disconnected by somebody.
    pub fn exclusive(&self) -> Result<Option<File>, Error> {
        let is_ours = || self.mender.is_some() && self.link.is_ours();
        Ok(uzram_blockdev::exclusive(&self.node, is_ours)?)
    }

    /// Disconnects the device. After [`Error::Node`], which names who uses it, all is as before; called again after
    /// success it does nothing.
    pub fn remove(&mut self) -> Result<(), Error> {
        if self.mender.is_none() {
            return Ok(());
        }
        // Held until the kernel has let the connections go, so that nobody mounts it in between.
        if let Some(_alone) = self.exclusive()? {
            self.link.removing.store(true, Ordering::Release);
            let gone = Client::open().and_then(|mut client| client.disconnect(self.link.index));
            if gone.is_err() {
                self.link.removing.store(false, Ordering::Release);
            }
            gone?;
        }
        self.stop();
        if wait_until_gone(&self.link.disk)? {
            Ok(())
        } else {
            Err(Error::Lingers {
                path: self.node.clone(),
                seconds: GOES.as_secs(),
            })
        }
    }

    /// Ends the mending thread.
    fn stop(&mut self) {
        if let Some(mender) = self.mender.take() {
            // If it has ended, it needs no telling.
            let _ = self.link.events.send(Event::Stop);
            let _ = mender.join();
        }
    }
}

impl Drop for KernelNbd {
    fn drop(&mut self) {
        self.stop();
    }
}

/// The index of the device of this name, whether or not its server lives: for who made one and died before he could
/// note which. A kernel before 5.13 keeps no names; there none is found.
pub fn find(name: &str) -> Option<u32> {
    let identifier = Options::new(name).identifier();
    let indexes = sysfs::indexes().into_iter();
    indexes
        .filter(|index| {
            let disk = Disk::new(*index);
            disk.is_connected() && disk.backend().as_ref() == Some(&identifier)
        })
        .min()
}

/// Disconnects `/dev/nbdN` if it is the device of this name, whose server has died for good: what waits for a reply
/// fails now and not when [`Options::dead_conn_timeout`] is over. Returns what was cleared, in words; nothing if the
/// device is not that. [`Error::Node`] where something still has the node open, such as a mounted file system: its
/// data is lost, but to unmount it is its user's to do, and with that the device is free.
///
/// On a kernel before 5.13, which keeps no names, whatever is connected there is taken for that device.
pub fn clear_stale(index: u32, name: &str) -> Result<Vec<String>, Error> {
    let disk = Disk::new(index);
    if !disk.is_connected() {
        return Ok(Vec::new());
    }
    let mut client = Client::open()?;
    let ours = match disk.backend() {
        Some(backend) => backend == Options::new(name).identifier(),
        None => !client.keeps_identifiers(),
    };
    if !ours {
        return Ok(Vec::new());
    }
    client.disconnect(index)?;
    let path = node(index);
    if wait_until_gone(&disk)? {
        return Ok(vec![format!("nbd device {}", path.display())]);
    }
    let by = busy(&path).unwrap_or(Busy::Elsewhere);
    Err(NodeError::Busy { path, by }.into())
}

fn geometry(server: &Adopter) -> Result<Geometry, Error> {
    let export = server.export("")?;
    Ok(Geometry {
        size_bytes: export.size_bytes(),
        block_size: export.block_size(),
        flags: export.transmission_flags(),
    })
}

fn link(
    server: Adopter,
    index: u32,
    options: &Options,
    client: &Client,
) -> (Link, mpsc::Receiver<Event>) {
    let (sender, events) = mpsc::channel();
    let link = Link {
        index,
        disk: Disk::new(index),
        options: options.clone(),
        identified: client.keeps_identifiers(),
        server,
        events: sender,
        removing: AtomicBool::new(false),
    };
    (link, events)
}

/// Waits for a disconnected device to be free; `false` if it is not, because something has it open.
fn wait_until_gone(disk: &Disk) -> Result<bool, Error> {
    until(GOES, || Ok(!disk.is_connected() && disk.size_bytes() == 0))
}

/// Asks again and again, in pauses that grow, until the answer is yes or the time is over.
fn until(limit: Duration, mut done: impl FnMut() -> Result<bool, Error>) -> Result<bool, Error> {
    let deadline = Instant::now() + limit;
    let mut pause = Duration::from_millis(1);
    loop {
        if done()? {
            return Ok(true);
        }
        if Instant::now() >= deadline {
            return Ok(false);
        }
        thread::sleep(pause);
        pause = (pause * 2).min(Duration::from_millis(100));
    }
}
