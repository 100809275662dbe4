//! The run directory: one directory for each device, its record and its lock.
//!
//! A device's directory is made and locked, or found dead and cleared, only under the run directory's own lock,
//! so that a device that is just being made is never taken for a dead one.
//!
//! Each look at the directory begins by asking whose it is ([`PrivateDir`]): a directory that somebody else made, or may
//! write to, is neither listed nor swept. What it holds is reached by descriptors, and no symbolic link is followed.

use std::ffi::OsStr;
use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use rustix::fs::FlockOperation;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use uzram_spec::{check_name, number, printable_line};

use crate::damaged::{DamagedDevice, is_locked};
use crate::trust::{Distrust, FileIdentity, PrivateDir};

/// File name of the record.
pub(crate) const RECORD: &str = "device.json";
/// File name of the lock.
pub(crate) const LOCK: &str = "lock";
/// File with the name of its own that a device was made with.
const ALIAS: &str = "alias";
/// The file with a device's description.
pub const SPEC: &str = "spec.json";
/// What a device's directory may have before that.
const NEW: &[&str] = &[LOCK, ALIAS, "log", "log.old"];
/// Longest record or description that is read, in bytes.
pub const MAX_RECORD: u64 = 64 << 10;
/// File name of the server's control socket in the device's directory.
pub const SERVER_SOCKET: &str = "control.sock";
/// File name of the keeper's control socket.
pub const KEEPER_SOCKET: &str = "keeper.sock";

/// What is known of a running device.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct DeviceRecord {
    /// Version of this record: 1. Of no interest to whoever is told of a device.
    #[schemars(skip)]
    pub version: u32,
    /// The device's name, such as `zram0`.
    pub name: String,
    /// The name of its own that it was made with; empty for none. It stands in a file beside the record, so that no server of whatever
    /// version loses it.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub alias: String,
    /// The server's process number.
    pub pid: u32,
    /// The frontend's name.
    pub frontend: String,
    /// Where the device is: the path of its node, or a URI.
    pub path: String,
    /// The program's version.
    pub program: String,
    /// The keeper's process number: it holds the memory and starts the server anew. 0: none.
    #[serde(default)]
    pub keeper: u32,
    /// What the frontend needs to know to serve the same device again; it alone understands it.
    #[serde(default)]
    pub resume: String,
    /// The device's identity, from its description: never used again. Empty for a device of uzram 0.1.
    #[serde(default)]
    pub identity: String,
}

/// Why a device's directory could not be made, found or cleared.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// A step failed in the system.
    #[error("{step} {}: {source}", path.display())]
    System {
        /// What was being done.
        step: &'static str,
        /// To what.
        path: PathBuf,
        /// The system's answer.
        source: io::Error,
    },
    /// The name is not one that a device can have.
    #[error("'{}' is not a device name: {why}", printable_line(name))]
    BadName {
        /// The name given.
        name: String,
        /// Why not, in words.
        why: String,
    },
    /// Others could change what is in the run directory, or put another in its place.
    #[error("the run directory {} cannot be trusted: {why}", path.display())]
    NotPrivate {
        /// The directory.
        path: PathBuf,
        /// What is wrong with it, or with the way to it.
        why: Distrust,
    },
    /// The run directory's path is no text, which records and addresses are.
    #[error("the run directory {path:?} is not UTF-8")]
    NotText {
        /// The directory.
        path: PathBuf,
    },
    /// There is a device of that name.
    #[error("there is a device '{name}' already")]
    Exists {
        /// The name.
        name: String,
    },
    /// The device lives, and its record cannot be read.
    #[error("{0}")]
    Damaged(DamagedDevice),
    /// There is no such device.
    #[error("no device '{name}' (there {known})")]
    NotFound {
        /// What was looked for.
        name: String,
        /// What there is, in words.
        known: String,
    },
}

impl Error {
    fn at(step: &'static str, path: &Path) -> impl FnOnce(io::Error) -> Error {
        let path = path.to_owned();
        move |source| Error::System { step, path, source }
    }

    fn of_trust(path: &Path) -> impl FnOnce(Distrust) -> Error {
        let dir = path.to_owned();
        move |why| match why {
            Distrust::System { path, source } => Error::System {
                step: "looking at",
                path,
                source,
            },
            why => Error::NotPrivate { path: dir, why },
        }
    }
}

/// A directory of devices.
#[derive(Debug, Clone)]
pub struct RunDir {
    path: PathBuf,
}

/// A device's directory, made and locked by this process. The lock lasts as long as this value.
#[derive(Debug)]
pub struct Claim {
    /// The device's name.
    pub name: String,
    /// Its directory.
    pub dir: PathBuf,
    /// The same, held open: it stays this one when another device gets the name.
    held: PrivateDir,
    /// `None` where the lock was taken by who started this process, and is held through an inherited descriptor.
    lock: Option<File>,
    /// Which file the lock is: a later device of the same name has another one.
    identity: Option<FileIdentity>,
}

/// A device that runs.
#[derive(Debug, Clone)]
pub struct RunningDevice {
    /// Its directory.
    pub dir: PathBuf,
    /// Its record.
    pub record: DeviceRecord,
}

/// What was found dead and cleared, or could not be.
#[derive(Debug)]
pub struct Swept {
    /// The device's name.
    pub name: String,
    /// What was cleared, in words; or what stands in the way.
    pub outcome: Result<Vec<String>, String>,
}

impl RunningDevice {
    /// Whether the device is gone: its directory, or the name, which another device has now.
    pub fn is_gone(&self) -> bool {
        let dir = match PrivateDir::open(&self.dir) {
            Ok(Some(dir)) => dir,
            Ok(None) => return true,
            Err(Distrust::System { source, .. }) => {
                return source.kind() == io::ErrorKind::NotFound;
            }
            Err(_) => return false,
        };
        // Without a record its directory is going, or another's is coming.
        record_of(&dir).is_some_and(|record| record.identity != self.record.identity)
    }

    /// Whether nobody holds the device any more: server and keeper have died, and no daemon has copies of what they held. Its
    /// contents are lost then.
    pub fn is_dead(&self) -> bool {
        // A lock that is not there is that of a device that was removed.
        is_locked(&self.dir) == Some(false)
    }

    /// The path of the server's control socket.
    pub fn socket(&self) -> PathBuf {
        self.dir.join(SERVER_SOCKET)
    }

    /// The path of the keeper's control socket.
    pub fn keeper_socket(&self) -> PathBuf {
        self.dir.join(KEEPER_SOCKET)
    }
}

fn record_of(dir: &PrivateDir) -> Option<DeviceRecord> {
    let text = dir.read(RECORD, MAX_RECORD).ok()?;
    serde_json::from_slice(&text).ok()
}

impl RunDir {
    /// The run directory of this user: `$UZRAM_RUN_DIR`, or `/run/uzram` for root, or `uzram` in
    /// `$XDG_RUNTIME_DIR`, or one below `/tmp`. Not made before it is needed.
    pub fn of_user() -> RunDir {
        let from = |name: &str| {
            std::env::var_os(name)
                .filter(|v| !v.is_empty())
                .map(PathBuf::from)
        };
        let user = rustix::process::geteuid();
        let path = from("UZRAM_RUN_DIR")
            .or_else(|| user.is_root().then(|| "/run/uzram".into()))
            .or_else(|| from("XDG_RUNTIME_DIR").map(|dir| dir.join("uzram")))
            .unwrap_or_else(|| format!("/tmp/uzram-{}", user.as_raw()).into());
        RunDir::new(path)
    }

    /// The run directory at `path`. A relative one is this process's directory's, now and later.
    pub fn new(path: impl Into<PathBuf>) -> RunDir {
        let path = path.into();
        RunDir {
            path: std::path::absolute(&path).unwrap_or(path),
        }
    }

    /// Makes the run directory itself, for this user alone.
    pub fn make(&self) -> Result<(), Error> {
        self.made().map(drop)
    }

    fn made(&self) -> Result<PrivateDir, Error> {
        self.check_text()?;
        let made = PrivateDir::make(&self.path);
        made.map_err(Error::of_trust(&self.path))
    }

    /// The directory, if it is there and nobody else can change what is in it.
    fn open(&self) -> Result<Option<PrivateDir>, Error> {
        self.check_text()?;
        match PrivateDir::open(&self.path) {
            Err(Distrust::System { source, .. }) if source.kind() == io::ErrorKind::NotFound => {
                Ok(None)
            }
            opened => opened.map_err(Error::of_trust(&self.path)),
        }
    }

    fn check_text(&self) -> Result<(), Error> {
        match self.path.to_str() {
            Some(_) => Ok(()),
            None => Err(Error::NotText {
                path: self.path.clone(),
            }),
        }
    }

    /// Its path: without symbolic links where it is there already.
    pub fn path(&self) -> Result<PathBuf, Error> {
        let opened = self.open()?;
        Ok(opened.map_or_else(|| self.path.clone(), |dir| dir.path().to_owned()))
    }

    /// Path of a file in it that belongs to no device.
    pub fn file(&self, name: &str) -> Result<PathBuf, Error> {
        Ok(self.path()?.join(name))
    }

    /// Makes the directory of a new device: of that name, or the first that is free, also for a name of its own.
    pub fn claim(&self, name: Option<&str>) -> Result<Claim, Error> {
        if let Some(name) = name {
            check_name(name).map_err(|why| Error::BadName {
                name: name.into(),
                why,
            })?;
        }
        let alias = name.filter(|name| number(name).is_none());
        let name = name.filter(|name| number(name).is_some());
        let all = self.made()?;
        let _all = lock_all(&all)?;
        if let Some(alias) = alias {
            let mut dirs = names(&all)?
                .into_iter()
                .filter_map(|name| all.dir(&name).ok());
            if dirs.any(|dir| alias_at(&dir) == alias) {
                return Err(Error::Exists { name: alias.into() });
            }
        }
        let mut numbers = 0u32..;
        loop {
            let candidate = match name {
                Some(name) => name.to_owned(),
                None => format!("zram{}", numbers.next().unwrap_or_default()),
            };
            let dir = all.path().join(&candidate);
            match all.make_dir(&candidate) {
                Ok(held) => {
                    let lock = try_lock(&held).map_err(Error::at("locking", &dir))?;
                    let lock = lock.ok_or(Error::Exists {
                        name: candidate.clone(),
                    })?;
                    if let Some(alias) = alias {
                        // Before others can look. Without a record nobody takes the device for one.
                        let written = held.write(ALIAS, alias.as_bytes());
                        if let Err(error) = written {
                            let _ = remove_device(&all, &held, &candidate);
                            return Err(Error::at("naming", &dir)(error));
                        }
                    }
                    return Ok(Claim {
                        name: candidate,
                        dir,
                        identity: held.identity(LOCK),
                        held,
                        lock: Some(lock),
                    });
                }
                Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
                    if name.is_some() {
                        return Err(Error::Exists { name: candidate });
                    }
                }
                Err(error) => return Err(Error::at("making", &dir)(error)),
            }
        }
    }

    /// The devices that run, by number. One that is still being made has no record yet and is left out.
    pub fn devices(&self) -> Result<Vec<RunningDevice>, Error> {
        let listed = self.listed()?.into_iter();
        Ok(listed.map(|(entry, _)| entry).collect())
    }

    /// The devices that run, and when each was first said to be where it is.
    fn listed(&self) -> Result<Vec<(RunningDevice, SystemTime)>, Error> {
        let mut entries = Vec::new();
        let Some(all) = self.open()? else {
            return Ok(entries);
        };
        for name in names(&all)? {
            let path = all.path().join(&name);
            // It may go at this moment.
            let Ok(dir) = all.dir(&name) else {
                tracing::debug!("{}: no directory of ours", path.display());
                continue;
            };
            match record_at(&dir, &name) {
                Ok((record, since)) => entries.push((RunningDevice { dir: path, record }, since)),
                Err(why) => tracing::debug!("{}: {why}", path.display()),
            }
        }
        Ok(entries)
    }

    /// The devices that live although their records cannot be read.
    pub fn damaged(&self) -> Result<Vec<DamagedDevice>, Error> {
        let Some(all) = self.open()? else {
            return Ok(Vec::new());
        };
        let names = names(&all)?.into_iter();
        let damaged = names.filter_map(|name| DamagedDevice::at(&all.dir(&name).ok()?, &name));
        Ok(damaged.collect())
    }

    /// The device of that name, path or URI, or with a node at that path, be it a link or one of another name.
    pub fn find(&self, name: &str) -> Result<RunningDevice, Error> {
        let entries = self.listed()?;
        let bare = name.strip_prefix("/dev/").unwrap_or(name);
        let by_name = |(entry, _): &&(RunningDevice, SystemTime)| entry.record.name == bare;
        let by_path = |(entry, _): &&(RunningDevice, SystemTime)| entry.record.path == name;
        // A device that is being removed still has the path in its record while the next one has it already.
        let newest = || {
            entries
                .iter()
                .filter(by_path)
                .max_by_key(|(_, since)| *since)
        };
        let node = || {
            let number = number_of(Path::new(name))?;
            let has_number = |(entry, _): &&(RunningDevice, _)| {
                number_of(Path::new(&entry.record.path)) == Some(number)
            };
            entries
                .iter()
                .filter(has_number)
                .max_by_key(|(_, since)| *since)
        };
        let by_alias = |(entry, _): &&(RunningDevice, SystemTime)| {
            !name.is_empty() && entry.record.alias == name
        };
        let called = || entries.iter().find(by_alias);
        let found = entries.iter().find(by_name).or_else(called);
        let found = found.or_else(newest).or_else(node);
        if let Some((entry, _)) = found {
            return Ok(entry.clone());
        }
        let mut damaged = self.damaged()?;
        if let Some(at) = damaged.iter().position(|device| device.name == bare) {
            return Err(Error::Damaged(damaged.swap_remove(at)));
        }
        let names: Vec<_> = entries
            .into_iter()
            .map(|(entry, _)| entry.record.names())
            .collect();
        let known = match names.as_slice() {
            [] => "is none".into(),
            names => format!("are: {}", names.join(", ")),
        };
        let known = damaged
            .iter()
            .fold(known, |known, device| format!("{known}; {device}"));
        Err(Error::NotFound {
            name: name.into(),
            known,
        })
    }

    /// Clears the directories of servers that died; `clear` undoes what is the frontends' (mounts, nodes) and
    /// says in words what it cleared, or what stands in the way.
    pub fn sweep(
        &self,
        clear: impl Fn(&Path) -> Result<Vec<String>, String>,
    ) -> Result<Vec<Swept>, Error> {
        let mut swept = Vec::new();
        let Some(all) = self.open()? else {
            return Ok(swept);
        };
        let names = names(&all)?;
        if names.is_empty() {
            return Ok(swept);
        }
        let _all = lock_all(&all)?;
        for name in names {
            // Not there: it went while we looked. Held: it lives.
            let Ok(dir) = all.dir(&name) else { continue };
            // Asked first where that would make a lock; else only of what nobody holds, which is seldom.
            if dir.identity(LOCK).is_none() && !is_device(&dir) {
                continue;
            }
            let Ok(Some(lock)) = try_lock(&dir) else {
                continue;
            };
            if !is_device(&dir) {
                continue;
            }
            let outcome = clear(dir.path()).and_then(|cleared| {
                remove_device(&all, &dir, &name)
                    .map(|()| cleared)
                    .map_err(|error| error.to_string())
            });
            drop(lock);
            swept.push(Swept { name, outcome });
        }
        Ok(swept)
    }
}

/// Reads the record of a device; what is wrong with it, in words, where that cannot be.
pub(crate) fn record_at(
    dir: &PrivateDir,
    name: &str,
) -> Result<(DeviceRecord, SystemTime), String> {
    let read = dir.read_with_time(RECORD, MAX_RECORD);
    let (text, since) = read.map_err(|error| error.to_string())?;
    let mut record: DeviceRecord =
        serde_json::from_slice(&text).map_err(|error| error.to_string())?;
    record.alias = alias_at(dir);
    if record.version != 1 || record.name != name {
        return Err(format!("not a record of version 1 of {name}"));
    }
    Ok((record, since))
}

/// The name of its own that a device was made with; empty for none.
fn alias_at(dir: &PrivateDir) -> String {
    let text = dir.read(ALIAS, uzram_spec::MAX_NAME as u64);
    let text = text.ok().and_then(|text| String::from_utf8(text).ok());
    text.filter(|alias| check_name(alias).is_ok() && number(alias).is_none())
        .unwrap_or_default()
}

impl DeviceRecord {
    /// Its name with its own, where it has one: `zram0 (build-cache)`.
    pub fn names(&self) -> String {
        match self.alias.as_str() {
            "" => self.name.clone(),
            alias => format!("{} ({alias})", self.name),
        }
    }
}

/// The number of the block device with a node at a path.
fn number_of(path: &Path) -> Option<u64> {
    use std::os::unix::fs::{FileTypeExt, MetadataExt};
    let found = std::fs::metadata(path).ok()?;
    found.file_type().is_block_device().then(|| found.rdev())
}

/// Names of devices, running or dead, by number.
fn names(all: &PrivateDir) -> Result<Vec<String>, Error> {
    let found = all.names().map_err(Error::at("reading", all.path()))?;
    let mut names: Vec<_> = found
        .into_iter()
        .filter_map(|name| {
            let name = name.into_string().ok()?;
            Some((number(&name)?, name))
        })
        .collect();
    names.sort();
    Ok(names.into_iter().map(|(_, name)| name).collect())
}

fn lock_all(all: &PrivateDir) -> Result<File, Error> {
    let lock = || {
        let file = all.lock_file(".lock")?;
        rustix::fs::flock(&file, FlockOperation::LockExclusive)?;
        Ok(file)
    };
    lock().map_err(Error::at("locking", all.path()))
}

impl Claim {
    /// A device's directory that was claimed by who started this process, whose lock is inherited from it
    /// ([`Claim::pass_on_lock`]).
    pub fn adopt(dir: &Path) -> Result<Claim, Error> {
        let name = dir.file_name().unwrap_or_default().to_string_lossy();
        let bad_name = || Error::BadName {
            name: name.clone().into(),
            why: "it takes 'zram' and a number".into(),
        };
        if number(&name).is_none() {
            return Err(bad_name());
        }
        let held = PrivateDir::open(dir).map_err(Error::of_trust(dir))?;
        let held = held.ok_or_else(bad_name)?;
        Ok(Claim {
            name: name.into(),
            dir: dir.into(),
            lock: None,
            identity: held.identity(LOCK),
            held,
        })
    }

    /// Whether the device was taken down. Another of the same name may be there by then.
    pub fn is_released(&self) -> bool {
        let now = self.held.identity(LOCK);
        now.is_none() || now != self.identity
    }

    /// Path of a file in the device's directory.
    pub fn file(&self, name: &str) -> PathBuf {
        self.dir.join(name)
    }

    /// Reads a small file in the device's directory.
    pub fn read(&self, name: &str) -> io::Result<Vec<u8>> {
        self.held.read(name, MAX_RECORD)
    }

    /// Writes a small file in the device's directory, all at once.
    pub fn write(&self, name: &str, bytes: &[u8]) -> io::Result<()> {
        if bytes.len() as u64 > MAX_RECORD {
            let message = format!("{name} would have more than {MAX_RECORD} bytes");
            return Err(io::Error::new(io::ErrorKind::InvalidInput, message));
        }
        self.held.write(name, bytes)
    }

    /// Lets processes that are started from now on inherit the lock: the device counts as alive while one of them
    /// lives.
    pub fn pass_on_lock(&self) -> Result<(), Error> {
        let Some(lock) = &self.lock else {
            return Ok(());
        };
        rustix::io::fcntl_setfd(lock, rustix::io::FdFlags::empty())
            .map_err(|error| Error::at("passing on the lock of", &self.dir)(error.into()))
    }

    /// The record, if there is one.
    pub fn record(&self) -> Option<DeviceRecord> {
        record_of(&self.held)
    }

    /// Writes the record: from now on the device is listed.
    pub fn publish(&self, record: &DeviceRecord) -> Result<(), Error> {
        let write = || self.write(RECORD, &serde_json::to_vec_pretty(record)?);
        write().map_err(Error::at("writing", &self.file(RECORD)))
    }

    /// What somebody has put into the directory that no removal will delete: a directory with something in it, or on which
    /// something is mounted, that is not one of `own`.
    pub fn obstacle(&self, own: impl Fn(&str) -> bool) -> Option<PathBuf> {
        let names = self.held.names().ok()?;
        let paths = names.into_iter().map(|name| (self.dir.join(&name), name));
        let mut dirs = paths.filter(|(path, name)| {
            !name.to_str().is_some_and(&own)
                && path.symlink_metadata().is_ok_and(|found| found.is_dir())
        });
        let is_empty = |path: &Path| path.read_dir().is_ok_and(|mut all| all.next().is_none());
        let found = dirs.find(|(path, _)| !is_empty(path) || is_other_device(path, &self.dir));
        found.map(|(path, _)| path)
    }

    /// Removes the directory; the name is free again.
    pub fn release(&self) -> Result<(), Error> {
        let parent = self.dir.parent().unwrap_or(Path::new("/"));
        let all = PrivateDir::open(parent).map_err(Error::of_trust(parent))?;
        let Some(all) = all else { return Ok(()) };
        // Half gone it must not be taken for a dead server's.
        let _all = lock_all(&all)?;
        if self.is_released() {
            return Ok(());
        }
        let removed = remove_device(&all, &self.held, &self.name);
        removed.map_err(Error::at("removing", &self.dir))
    }
}

/// Whether a path is on another file system than its directory.
fn is_other_device(path: &Path, dir: &Path) -> bool {
    use std::os::unix::fs::MetadataExt;
    let device = |of: &Path| of.symlink_metadata().map(|found| found.dev()).ok();
    device(path) != device(dir)
}

/// How often a directory is emptied anew that somebody has put something into meanwhile.
const REMOVALS: u32 = 1000;

/// Removes a device's directory: plain files and empty directories in it only, so that nothing is ever deleted
/// through a link, or through a mount that was overlooked. The lock goes last. A process of the device that is on its way
/// out may still write: what it leaves goes, too.
fn remove_device(all: &PrivateDir, dir: &PrivateDir, name: &str) -> io::Result<()> {
    let mut removals = 0;
    loop {
        empty(dir)?;
        removals += 1;
        match all.remove(OsStr::new(name)) {
            Err(error)
                if error.kind() == io::ErrorKind::DirectoryNotEmpty && removals < REMOVALS => {}
            removed => return removed,
        }
    }
}

fn empty(dir: &PrivateDir) -> io::Result<()> {
    let last = [OsStr::new(RECORD), OsStr::new(LOCK)];
    let remove = |name: &OsStr| match dir.remove(name) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    };
    for entry in dir.names()? {
        if !last.contains(&&*entry) {
            remove(&entry)?;
        }
    }
    last.into_iter().try_for_each(remove)
}

/// Whether a directory is, or was, a device's: somebody may have one of such a name with files of his own. A device's has the
/// lock from the first moment on, and soon a description or a record, which alone tells, too.
fn is_device(dir: &PrivateDir) -> bool {
    let Ok(names) = dir.names() else { return false };
    let has = |name: &str| names.iter().any(|there| there == name);
    let is_new = || {
        names
            .iter()
            .all(|there| NEW.iter().any(|name| there == name))
    };
    let begun = [RECORD, SPEC, SERVER_SOCKET, KEEPER_SOCKET];
    let begun = || begun.into_iter().any(has) || is_new();
    names.is_empty() || record_of(dir).is_some() || has(LOCK) && begun()
}

/// `None` if somebody else holds it.
fn try_lock(dir: &PrivateDir) -> io::Result<Option<File>> {
    let file = dir.lock_file(LOCK)?;
    match rustix::fs::flock(&file, FlockOperation::NonBlockingLockExclusive) {
        Ok(()) => Ok(Some(file)),
        Err(rustix::io::Errno::WOULDBLOCK) => Ok(None),
        Err(error) => Err(error.into()),
    }
}
