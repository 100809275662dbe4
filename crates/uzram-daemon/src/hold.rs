//! The daemon holds what each device's keeper holds, the memory and the lock: should server and keeper die at once, it
//! starts another keeper, and nobody sweeps the device meanwhile. systemd holds the same for the daemon.

use std::collections::BTreeMap;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::path::Path;
use std::sync::{Mutex, MutexGuard, PoisonError};

use rustix::io::FdFlags;
use rustix::process::{PidfdGetfdFlags, pidfd_getfd};
use uzram_control::{Claim, RunDir};
use uzram_runtime::process::{alone_to_spawn, pidfd, wait_for_end_within};
use uzram_runtime::restart_keeper;
use uzram_spec::{Failure, FailureKind, Result};

use crate::notify;

/// What is held of one device.
struct Held {
    claim: Claim,
    image: OwnedFd,
    lock: OwnedFd,
    /// How often in a row neither server nor keeper was found alive.
    dead: u32,
    /// The keeper that was started here, which the record names once its server serves; 0 for none.
    started: u32,
}

/// What is held of all devices of a run directory, for all threads: who makes a device has it held before he says so.
pub(crate) struct SharedHolder {
    run: RunDir,
    holder: Mutex<Holder>,
}

impl SharedHolder {
    /// Holds what systemd kept: see [`Holder::from_received`].
    pub(crate) fn from_received(run: &RunDir, received: &[(i32, String)]) -> SharedHolder {
        SharedHolder {
            run: run.clone(),
            holder: Mutex::new(Holder::from_received(run, received)),
        }
    }

    fn holder(&self) -> MutexGuard<'_, Holder> {
        self.holder.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Looks at all devices: holds new ones, lets go of those that are gone, serves again those that died.
    pub(crate) fn look(&self) {
        let mut holder = self.holder();
        holder.hold_new(&self.run);
        holder.look();
    }

    /// Holds new devices.
    pub(crate) fn hold_new(&self) {
        self.holder().hold_new(&self.run);
    }

    /// Why the memory of a device is not held, if that is so, and is not so by design.
    pub(crate) fn unheld(&self, name: &str) -> Option<String> {
        let holder = self.holder();
        let mut refused = holder.refused.iter().rev();
        let of = refused.find(|of| of.name == name)?;
        of.why.clone().filter(|_| !holder.held.contains_key(name))
    }

    /// How many devices are held.
    pub(crate) fn len(&self) -> usize {
        self.holder().held.len()
    }
}

/// What is held of all devices.
#[derive(Default)]
struct Holder {
    held: BTreeMap<String, Held>,
    /// Devices whose memory could not be had: said once.
    refused: Vec<Unheld>,
}

/// A device whose memory could not be had.
struct Unheld {
    name: String,
    keeper: u32,
    /// In words; `None` for swap, of which that is known.
    why: Option<String>,
}

impl Holder {
    /// Holds what systemd kept, given by name and number of descriptors that this process inherited. Devices whose processes
    /// were all killed, the last daemon among them, are served again when they are looked at.
    fn from_received(run: &RunDir, received: &[(i32, String)]) -> Holder {
        let mut holder = Holder::default();
        for (_, stored) in received {
            let Some(name) = stored.strip_prefix("image-") else {
                continue;
            };
            let taken = |what: &str| {
                let wanted = stored_name(what, name);
                let found = received.iter().find(|(_, name)| *name == wanted);
                let missing = || Failure::failed(format!("systemd kept no {what}"));
                own_copy(found.ok_or_else(missing)?.0)
            };
            let held = run.find(name).map_err(Failure::from).and_then(|entry| {
                let claim = Claim::adopt(&entry.dir)?;
                Ok(Held {
                    image: taken("image")?,
                    lock: taken("lock")?,
                    claim,
                    dead: 0,
                    started: 0,
                })
            });
            match held {
                Ok(held) => {
                    holder.held.insert(name.into(), held);
                }
                Err(failure) => {
                    tracing::info!(name, "not held any more: {failure}");
                    forget(name);
                }
            }
        }
        holder
    }

    fn hold_new(&mut self, run: &RunDir) {
        // One of the same name may have been there before.
        self.let_go();
        for entry in run.devices().unwrap_or_default() {
            let record = &entry.record;
            let is_it = |of: &Unheld| (&of.name, of.keeper) == (&record.name, record.keeper);
            if record.keeper == 0
                || self.held.contains_key(&record.name)
                || self.refused.iter().any(is_it)
            {
                continue;
            }
            match hold(&entry.dir, record.keeper) {
                Ok(held) => {
                    tracing::info!(name = record.name, "its memory is held");
                    notify::store(&stored_name("image", &record.name), held.image.as_fd());
                    notify::store(&stored_name("lock", &record.name), held.lock.as_fd());
                    self.held.insert(record.name.clone(), held);
                }
                Err(failure) => {
                    // It may be on its way out, or only just there: then the next look will tell.
                    if is_alive(record.keeper) {
                        tracing::warn!(name = record.name, "its memory is not held: {failure}");
                        let is_known = failure.kind == FailureKind::Impossible;
                        self.refused.push(Unheld {
                            name: record.name.clone(),
                            keeper: record.keeper,
                            why: (!is_known).then(|| failure.to_string()),
                        });
                    }
                }
            }
        }
    }

    fn let_go(&mut self) {
        self.held.retain(|name, held| {
            let stays = !held.claim.is_released();
            if !stays {
                forget(name);
            }
            stays
        });
    }

    fn look(&mut self) {
        for (name, held) in &mut self.held {
            held.look(name);
        }
    }
}

impl Held {
    fn look(&mut self, name: &str) {
        let record = self.claim.record();
        let lives =
            is_alive(self.started) || record.is_some_and(|r| is_alive(r.pid) || is_alive(r.keeper));
        self.dead = if lives { 0 } else { self.dead + 1 };
        // One of the two may just be starting the other: looked at twice.
        if self.dead < 2 {
            return;
        }
        self.dead = 0;
        tracing::warn!(name, "server and keeper died: starting another keeper");
        // No other child is to have these two.
        let _alone = alone_to_spawn();
        let inherit = |fd: &OwnedFd, flags| rustix::io::fcntl_setfd(fd, flags);
        let started = inherit(&self.image, FdFlags::empty())
            .and_then(|()| inherit(&self.lock, FdFlags::empty()))
            .map_err(|error| Failure::from(std::io::Error::from(error)))
            .and_then(|()| restart_keeper(&self.claim.dir, self.image.as_raw_fd()));
        match started {
            Ok(keeper) => self.started = keeper,
            Err(failure) => tracing::error!(name, "cannot start a keeper: {failure}"),
        }
        let _ = inherit(&self.image, FdFlags::CLOEXEC);
        let _ = inherit(&self.lock, FdFlags::CLOEXEC);
    }
}

/// Name of a descriptor in systemd's store.
fn stored_name(what: &str, device: &str) -> String {
    format!("{what}-{device}")
}

/// Takes a device's descriptors out of systemd's store.
fn forget(device: &str) {
    notify::discard(&stored_name("image", device));
    notify::discard(&stored_name("lock", device));
}

/// A copy of one of this process's own descriptors.
pub(crate) fn own_copy(fd: i32) -> Result<OwnedFd> {
    let gone = || Failure::failed("no pidfd of this process");
    let process = pidfd(std::process::id()).ok_or_else(gone)?;
    let copy = pidfd_getfd(&process, fd, PidfdGetfdFlags::empty());
    Ok(copy.map_err(std::io::Error::from)?)
}

fn is_alive(pid: u32) -> bool {
    pid != 0 && pidfd(pid).is_some_and(|fd| !wait_for_end_within(&fd, std::time::Duration::ZERO))
}

/// Takes copies of a keeper's descriptors.
fn hold(dir: &Path, keeper: u32) -> Result<Held> {
    let gone = || Failure::failed(format!("its keeper {keeper} is gone"));
    let process = pidfd(keeper).ok_or_else(gone)?;
    let (mut image, mut lock) = (None, None);
    for entry in std::fs::read_dir(format!("/proc/{keeper}/fd"))?.flatten() {
        let number = entry
            .file_name()
            .to_str()
            .and_then(|n| n.parse::<i32>().ok());
        let (Some(number), Ok(to)) = (number, std::fs::read_link(entry.path())) else {
            continue;
        };
        let place = if to == dir.join("lock") {
            &mut lock
        } else if is_image(&to) {
            &mut image
        } else {
            continue;
        };
        let copy = pidfd_getfd(&process, number, PidfdGetfdFlags::empty());
        *place = Some(copy.map_err(std::io::Error::from)?);
    }
    let claim = Claim::adopt(dir)?;
    let of_swap = || {
        Failure::impossible(
            "its keeper has no memory file that may be held (those of swap have none)",
        )
    };
    Ok(Held {
        claim,
        image: image.ok_or_else(of_swap)?,
        lock: lock.ok_or_else(|| Failure::failed("its keeper has no lock"))?,
        dead: 0,
        started: 0,
    })
}

/// Whether a descriptor's link names the memory of a device. That of swap devices has no name, and is not held: should
/// both processes of one die, this one may not run either.
fn is_image(link: &Path) -> bool {
    link.as_os_str()
        .as_encoded_bytes()
        .starts_with(b"/memfd:uzram")
}
