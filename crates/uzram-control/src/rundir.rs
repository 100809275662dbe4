//! The run directory: one directory for each device, its record and its lock.
//!
//! A device's directory is made and locked, or found dead and cleared, only under the run directory's own lock,
//! so that a device that is just being made is never taken for a dead one.

use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io;
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use rustix::fs::FlockOperation;
use serde::{Deserialize, Serialize};
use uzram_spec::number;

/// File name of the record.
const RECORD: &str = "device.json";
/// File name of the server's control socket in the device's directory.
pub const SERVER_SOCKET: &str = "control.sock";
/// File name of the keeper's control socket.
pub const KEEPER_SOCKET: &str = "keeper.sock";

/// What is known of a running device.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Record {
    /// Version of this record: 1.
    pub version: u32,
    /// The device's name, such as `zram0`.
    pub name: String,
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
    #[error("'{name}' is not a device name: it takes 'zram' and a number, such as zram0")]
    BadName {
        /// The name given.
        name: String,
    },
    /// Others may write to the run directory.
    #[error("{} belongs to another user or is writable by others: it cannot be trusted", path.display())]
    NotPrivate {
        /// The directory.
        path: PathBuf,
    },
    /// There is a device of that name.
    #[error("there is a device '{name}' already")]
    Exists {
        /// The name.
        name: String,
    },
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
    /// `None` where the lock was taken by who started this process, and is held through an inherited descriptor.
    lock: Option<File>,
    /// Which file the lock is: a later device of the same name has another one.
    identity: Option<Identity>,
}

/// Device and inode number of a file.
type Identity = (u64, u64);

fn identity(lock: &Path) -> Option<Identity> {
    let meta = fs::metadata(lock).ok()?;
    Some((meta.dev(), meta.ino()))
}

/// A device that runs.
#[derive(Debug, Clone)]
pub struct Entry {
    /// Its directory.
    pub dir: PathBuf,
    /// Its record.
    pub record: Record,
}

/// What was found dead and cleared, or could not be.
#[derive(Debug)]
pub struct Swept {
    /// The device's name.
    pub name: String,
    /// What was cleared, in words; or what stands in the way.
    pub outcome: Result<Vec<String>, String>,
}

impl Entry {
    /// Whether the server has gone or goes within a second.
    pub fn is_going(&self) -> bool {
        (0..100).any(|_| {
            std::thread::sleep(std::time::Duration::from_millis(10));
            !self.dir.exists()
        })
    }

    /// Whether nobody holds the device any more: server and keeper have died, and no daemon has copies of what they held. Its
    /// contents are lost then.
    pub fn is_dead(&self) -> bool {
        // Nothing is made here: a lock that is not there is that of a device that was removed.
        let Ok(lock) = File::open(self.dir.join("lock")) else {
            return false;
        };
        rustix::fs::flock(&lock, FlockOperation::NonBlockingLockShared).is_ok()
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
        RunDir { path }
    }

    /// The run directory at `path`.
    pub fn new(path: impl Into<PathBuf>) -> RunDir {
        RunDir { path: path.into() }
    }

    /// Makes the run directory itself, for this user alone.
    pub fn make(&self) -> Result<(), Error> {
        let made = DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(&self.path);
        made.map_err(Error::at("making", &self.path))?;
        check_private(&self.real())
    }

    /// Its path, without symbolic links.
    pub fn path(&self) -> PathBuf {
        self.real()
    }

    /// Path of a file in it that belongs to no device.
    pub fn file(&self, name: &str) -> PathBuf {
        self.real().join(name)
    }

    /// Makes the directory of a new device: of that name, or the first that is free.
    pub fn claim(&self, name: Option<&str>) -> Result<Claim, Error> {
        if let Some(name) = name.filter(|name| number(name).is_none()) {
            return Err(Error::BadName { name: name.into() });
        }
        self.make()?;
        let path = self.real();
        let _all = lock_all(&path)?;
        let mut numbers = 0u32..;
        loop {
            let candidate = match name {
                Some(name) => name.to_owned(),
                None => format!("zram{}", numbers.next().unwrap_or_default()),
            };
            let dir = path.join(&candidate);
            match DirBuilder::new().mode(0o700).create(&dir) {
                Ok(()) => {
                    let file = dir.join("lock");
                    let lock = try_lock(&file).map_err(Error::at("locking", &file))?;
                    let lock = lock.ok_or(Error::Exists {
                        name: candidate.clone(),
                    })?;
                    return Ok(Claim {
                        name: candidate,
                        identity: identity(&file),
                        dir,
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
    pub fn devices(&self) -> Result<Vec<Entry>, Error> {
        let mut entries = Vec::new();
        for (_, _, dir) in self.dirs()? {
            let Ok(text) = fs::read_to_string(dir.join(RECORD)) else {
                continue;
            };
            match serde_json::from_str::<Record>(&text) {
                Ok(record) if record.version == 1 => entries.push(Entry { dir, record }),
                _ => tracing::warn!("{}: not a record of version 1", dir.display()),
            }
        }
        Ok(entries)
    }

    /// The device of that name, path or URI.
    pub fn find(&self, name: &str) -> Result<Entry, Error> {
        let mut entries = self.devices()?;
        let bare = name.strip_prefix("/dev/").unwrap_or(name);
        let is_it = |entry: &Entry| entry.record.name == bare || entry.record.path == name;
        if let Some(index) = entries.iter().position(is_it) {
            return Ok(entries.swap_remove(index));
        }
        let names: Vec<_> = entries.into_iter().map(|entry| entry.record.name).collect();
        let known = match names.as_slice() {
            [] => "is none".into(),
            names => format!("are: {}", names.join(", ")),
        };
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
        let dirs = self.dirs()?;
        if dirs.is_empty() {
            return Ok(swept);
        }
        let _all = lock_all(&self.real())?;
        for (_, name, dir) in dirs {
            let file = dir.join("lock");
            // Held: it lives. Not there: it went while we looked.
            let Ok(Some(lock)) = try_lock(&file) else {
                continue;
            };
            let outcome = clear(&dir).and_then(|cleared| {
                remove_files(&dir)
                    .map(|()| cleared)
                    .map_err(|error| error.to_string())
            });
            drop(lock);
            swept.push(Swept { name, outcome });
        }
        Ok(swept)
    }

    /// Numbers, names and directories of devices, running or dead.
    fn dirs(&self) -> Result<Vec<(u32, String, PathBuf)>, Error> {
        let found = match fs::read_dir(self.real()) {
            Ok(found) => found,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
            Err(error) => return Err(Error::at("reading", &self.path)(error)),
        };
        let mut dirs: Vec<_> = found
            .flatten()
            .filter_map(|entry| {
                let name = entry.file_name().into_string().ok()?;
                Some((number(&name)?, name, entry.path()))
            })
            .collect();
        dirs.sort();
        Ok(dirs)
    }

    /// The directory without symbolic links or `..`, as the kernel's mount table and loop devices will name it.
    fn real(&self) -> PathBuf {
        fs::canonicalize(&self.path)
            .or_else(|_| std::path::absolute(&self.path))
            .unwrap_or_else(|_| self.path.clone())
    }
}

/// Refuses a directory in which others could plant files.
fn check_private(path: &Path) -> Result<(), Error> {
    let meta = fs::metadata(path).map_err(Error::at("looking at", path))?;
    let own = meta.uid() == rustix::process::geteuid().as_raw();
    if own && meta.mode() & 0o022 == 0 {
        return Ok(());
    }
    Err(Error::NotPrivate { path: path.into() })
}

fn lock_all(dir: &Path) -> Result<File, Error> {
    let path = dir.join(".lock");
    let lock = || {
        let file = lock_file(&path)?;
        rustix::fs::flock(&file, FlockOperation::LockExclusive)?;
        Ok(file)
    };
    lock().map_err(Error::at("locking", &path))
}

impl Claim {
    /// A device's directory that was claimed by who started this process, whose lock is inherited from it
    /// ([`Claim::pass_on_lock`]).
    pub fn adopt(dir: &Path) -> Result<Claim, Error> {
        let name = dir.file_name().unwrap_or_default().to_string_lossy();
        if number(&name).is_none() || !dir.is_dir() {
            return Err(Error::BadName { name: name.into() });
        }
        Ok(Claim {
            name: name.into(),
            dir: dir.into(),
            lock: None,
            identity: identity(&dir.join("lock")),
        })
    }

    /// Whether the device was taken down. Another of the same name may be there by then.
    pub fn is_released(&self) -> bool {
        let now = identity(&self.file("lock"));
        now.is_none() || now != self.identity
    }

    /// Path of a file in the device's directory.
    pub fn file(&self, name: &str) -> PathBuf {
        self.dir.join(name)
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
    pub fn record(&self) -> Option<Record> {
        let text = fs::read_to_string(self.file(RECORD)).ok()?;
        serde_json::from_str(&text).ok()
    }

    /// Writes the record: from now on the device is listed.
    pub fn publish(&self, record: &Record) -> Result<(), Error> {
        let (new, path) = (self.file("device.json.new"), self.file(RECORD));
        let write = || {
            fs::write(&new, serde_json::to_vec_pretty(record)?)?;
            fs::rename(&new, &path)
        };
        write().map_err(Error::at("writing", &path))
    }

    /// Removes the directory; the name is free again.
    pub fn release(&self) -> Result<(), Error> {
        // Half gone it must not be taken for a dead server's.
        let _all = self.dir.parent().map(lock_all).transpose()?;
        if self.is_released() {
            return Ok(());
        }
        remove_files(&self.dir).map_err(Error::at("removing", &self.dir))
    }
}

/// Removes a device's directory: plain files and empty directories in it only, so that nothing is ever deleted
/// through a mount that was overlooked. The lock goes last.
fn remove_files(dir: &Path) -> io::Result<()> {
    for entry in fs::read_dir(dir)?.flatten() {
        match entry.file_type() {
            Ok(kind) if kind.is_dir() => fs::remove_dir(entry.path())?,
            _ if entry.file_name() == "lock" => {}
            _ => fs::remove_file(entry.path())?,
        }
    }
    fs::remove_file(dir.join("lock"))?;
    fs::remove_dir(dir)
}

fn lock_file(path: &Path) -> io::Result<File> {
    OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(false)
        .mode(0o600)
        .open(path)
}

/// `None` if somebody else holds it.
fn try_lock(path: &Path) -> io::Result<Option<File>> {
    let file = lock_file(path)?;
    match rustix::fs::flock(&file, FlockOperation::NonBlockingLockExclusive) {
        Ok(()) => Ok(Some(file)),
        Err(rustix::io::Errno::WOULDBLOCK) => Ok(None),
        Err(error) => Err(error.into()),
    }
}
