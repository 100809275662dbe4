//! A handmade view whose calls can be observed and blocked.
#![allow(dead_code, unreachable_pub)]

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::sync::{Condvar, Mutex};

use uzram_control::zram::{AttributeOwner, Errno, Refusal, ShownDevice, View};
pub use uzram_testkit::peers::skip;

/// Whether this machine and user can mount FUSE. Where peers are required, a missing one is a failure.
pub fn possible(what: &str) -> bool {
    let reason = if !rustix::process::geteuid().is_root() {
        "needs root".to_owned()
    } else if let Err(error) = std::fs::OpenOptions::new()
        .read(true)
        .write(true)
        .open("/dev/fuse")
    {
        format!("/dev/fuse: {error}")
    } else {
        return true;
    };
    skip(what, &reason);
    false
}

#[derive(Default)]
pub struct Fake {
    pub devices: Mutex<BTreeMap<u32, (u64, Option<(u32, u32)>)>>,
    /// Device numbers by device, the first for zram0. A device without one has no node.
    pub numbers: Vec<(u32, u32)>,
    pub shows: AtomicUsize,
    pub stores: Mutex<Vec<(String, Vec<u8>)>>,
    /// Devices that are in use.
    pub busy: Mutex<Vec<u32>>,
    pub held: Mutex<bool>,
    pub released: Condvar,
    /// Lines of block_state.
    pub slots: u64,
}

impl Fake {
    pub fn with(devices: u32) -> Fake {
        let fake = Fake::default();
        for _ in 0..devices {
            fake.add();
        }
        fake
    }

    pub fn add(&self) -> u32 {
        let mut devices = self.devices.lock().unwrap();
        let id = (0..).find(|id| !devices.contains_key(id)).unwrap();
        devices.insert(id, (0, self.numbers.get(id as usize).copied()));
        id
    }

    pub fn set_size(&self, id: u32, size: u64) {
        self.devices.lock().unwrap().get_mut(&id).unwrap().0 = size;
    }

    /// Stores to `recompress` do not return before [`release`](Fake::release).
    pub fn hold(&self) {
        *self.held.lock().unwrap() = true;
    }

    pub fn release(&self) {
        *self.held.lock().unwrap() = false;
        self.released.notify_all();
    }

    pub fn line(slot: u64) -> String {
        format!("{slot:12} {:12}.{:06} ......\n", 5, 0)
    }
}

impl View for Fake {
    fn devices(&self) -> Result<Vec<ShownDevice>, Errno> {
        let devices = self.devices.lock().unwrap();
        let shown = devices.iter().map(|(id, (disksize, rdev))| ShownDevice {
            id: *id,
            disksize: *disksize,
            path: String::new(),
            rdev: *rdev,
        });
        Ok(shown.collect())
    }

    fn show(&self, owner: AttributeOwner, attribute: &str) -> Result<Vec<u8>, Errno> {
        self.shows.fetch_add(1, Relaxed);
        match (owner, attribute) {
            (AttributeOwner::Control, "hot_add") => Ok(format!("{}\n", self.add()).into()),
            (AttributeOwner::Device(id), "disksize") => {
                let devices = self.devices.lock().unwrap();
                let (size, _) = devices.get(&id).ok_or(Errno::NODEV)?;
                Ok(format!("{size}\n").into())
            }
            (AttributeOwner::Device(_), "comp_algorithm") => Ok(b"[lzo-rle] lzo lz4 \n".into()),
            (AttributeOwner::Device(_), "initstate") => Ok(b"0\n".into()),
            _ => Ok(b"1 2 3\n".into()),
        }
    }

    fn store(&self, owner: AttributeOwner, attribute: &str, value: &[u8]) -> Result<(), Refusal> {
        let seen = (attribute.to_owned(), value.to_vec());
        self.stores.lock().unwrap().push(seen);
        let text = String::from_utf8_lossy(value);
        match (owner, attribute) {
            (AttributeOwner::Control, "hot_remove") => {
                let id: u32 = text.trim().parse().map_err(|_| Errno::INVAL)?;
                if self.busy.lock().unwrap().contains(&id) {
                    return Err(Errno::BUSY.into());
                }
                let gone = self.devices.lock().unwrap().remove(&id);
                gone.map(drop).ok_or(Errno::NODEV.into())
            }
            (AttributeOwner::Device(id), "disksize") => {
                let size = text.trim().parse().map_err(|_| Errno::INVAL)?;
                self.set_size(id, size);
                Ok(())
            }
            (AttributeOwner::Device(_), "comp_algorithm") if value.len() > 127 => {
                Err(Errno::TOOBIG.into())
            }
            (AttributeOwner::Device(_), "comp_algorithm") if text.trim() == "nonsense" => {
                Err(Errno::INVAL.into())
            }
            (AttributeOwner::Device(_), "recompress") => {
                let held = self.held.lock().unwrap();
                drop(self.released.wait_while(held, |held| *held).unwrap());
                Ok(())
            }
            _ => Ok(()),
        }
    }

    fn block_state(&self, id: u32, from: u64, max_bytes: usize) -> Result<(Vec<u8>, u64), Errno> {
        if self.devices.lock().unwrap()[&id].0 == 0 {
            return Err(Errno::INVAL);
        }
        let mut lines = String::new();
        let mut slot = from;
        while slot < self.slots && lines.len() + Fake::line(slot).len() <= max_bytes {
            lines += &Fake::line(slot);
            slot += 1;
        }
        Ok((lines.into(), slot))
    }

    fn classes(&self, id: u32) -> Result<Vec<u8>, Errno> {
        if self.devices.lock().unwrap()[&id].0 == 0 {
            return Err(Errno::NOENT);
        }
        Ok(b" class  size\n".into())
    }
}
