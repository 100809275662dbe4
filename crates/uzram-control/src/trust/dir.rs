//! A directory that only this user (and root) can change, held by a descriptor. Whatever is done in it is done by that
//! descriptor and a name, and no symbolic link is followed: not where another user planted one before the directory was
//! checked, and not where this user did by mistake.

use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::io::{self, Read, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use rustix::fs::{AtFlags, FileType, Mode, OFlags, ResolveFlags, Stat};
use rustix::io::Errno;

use super::owner::{Distrust, kind, walk};

/// Such a directory.
#[derive(Debug)]
pub struct PrivateDir {
    fd: OwnedFd,
    path: PathBuf,
}

/// Device and inode number of a file.
pub type FileIdentity = (u64, u64);

impl PrivateDir {
    /// The directory at an absolute path; `None` where nothing is there.
    pub fn open(path: &Path) -> Result<Option<PrivateDir>, Distrust> {
        let place = walk(path, false)?;
        match place.found {
            Some((fd, stat)) => PrivateDir::from_found(&fd, &stat, place.real).map(Some),
            None => Ok(None),
        }
    }

    /// The same, made where nothing is there.
    pub fn make(path: &Path) -> Result<PrivateDir, Distrust> {
        let place = walk(path, true)?;
        match place.found {
            Some((fd, stat)) => PrivateDir::from_found(&fd, &stat, place.real),
            None => Err(Distrust::system(path, Errno::NOENT)),
        }
    }

    /// Reopens what the walk found, which is for looking only, and judges it.
    fn from_found(fd: &OwnedFd, stat: &Stat, path: PathBuf) -> Result<PrivateDir, Distrust> {
        // What another user may not even search is refused for its owner.
        check(&path, stat)?;
        PrivateDir::open_at(fd, OsStr::new("."), path)
    }

    fn open_at(at: impl AsFd, name: &OsStr, path: PathBuf) -> Result<PrivateDir, Distrust> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY;
        let system = |error| Distrust::system(&path, error);
        // The owner first: what another user made is refused for that, and not since it cannot be read.
        let stat = rustix::fs::statat(&at, name, AtFlags::SYMLINK_NOFOLLOW).map_err(system)?;
        check(&path, &stat)?;
        let fd = open_below(at, name, flags, Mode::empty()).map_err(system)?;
        check(&path, &rustix::fs::fstat(&fd).map_err(system)?)?;
        Ok(PrivateDir { fd, path })
    }

    /// Its path, without symbolic links.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Opens a directory in it.
    pub fn dir(&self, name: &str) -> Result<PrivateDir, Distrust> {
        PrivateDir::open_at(&self.fd, OsStr::new(name), self.path.join(name))
    }

    /// Makes a directory in it.
    pub fn make_dir(&self, name: &str) -> io::Result<PrivateDir> {
        rustix::fs::mkdirat(&self.fd, name, Mode::RWXU)?;
        self.dir(name).map_err(io::Error::other)
    }

    /// The names of what is in it.
    pub fn names(&self) -> io::Result<Vec<OsString>> {
        let mut names = Vec::new();
        for entry in rustix::fs::Dir::read_from(&self.fd)? {
            let entry = entry?;
            match entry.file_name().to_bytes() {
                b"." | b".." => {}
                name => names.push(OsStr::from_bytes(name).to_owned()),
            }
        }
        Ok(names)
    }

    /// Which file has a name; `None` where none has.
    pub fn identity(&self, name: &str) -> Option<FileIdentity> {
        let stat = rustix::fs::statat(&self.fd, name, AtFlags::SYMLINK_NOFOLLOW).ok()?;
        Some((stat.st_dev, stat.st_ino))
    }

    /// Reads a regular file of this user's that has `max_bytes` at most.
    pub fn read(&self, name: &str, max_bytes: u64) -> io::Result<Vec<u8>> {
        self.read_with_time(name, max_bytes).map(|(bytes, _)| bytes)
    }

    /// The same with the time of its last change.
    pub(crate) fn read_with_time(
        &self,
        name: &str,
        max_bytes: u64,
    ) -> io::Result<(Vec<u8>, SystemTime)> {
        // A pipe or a device must not be waited for.
        let file = self.open_file(name, OFlags::RDONLY | OFlags::NONBLOCK)?;
        let changed = file.metadata()?.modified()?;
        let mut bytes = Vec::new();
        file.take(max_bytes + 1).read_to_end(&mut bytes)?;
        if bytes.len() as u64 > max_bytes {
            let message = format!("{name} has more than {max_bytes} bytes");
            return Err(io::Error::new(io::ErrorKind::InvalidData, message));
        }
        Ok((bytes, changed))
    }

    /// Puts a file there, or in the place of what has its name, all at once.
    pub fn write(&self, name: &str, bytes: &[u8]) -> io::Result<()> {
        let new = format!("{name}.new");
        // What a process left that was killed is of no use.
        match rustix::fs::unlinkat(&self.fd, &new, AtFlags::empty()) {
            Ok(()) | Err(Errno::NOENT) => {}
            Err(error) => return Err(error.into()),
        }
        let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL;
        self.open_file(&new, flags)?.write_all(bytes)?;
        Ok(rustix::fs::renameat(&self.fd, &new, &self.fd, name)?)
    }

    /// Opens a file for locking it, and makes it where it is not there.
    pub fn lock_file(&self, name: &str) -> io::Result<File> {
        self.open_file(name, OFlags::WRONLY | OFlags::CREATE | OFlags::NONBLOCK)
    }

    fn open_file(&self, name: &str, flags: OFlags) -> io::Result<File> {
        // A mode without a file to be made is refused by openat2.
        let mode = match flags.contains(OFlags::CREATE) {
            true => Mode::RUSR | Mode::WUSR,
            false => Mode::empty(),
        };
        let irregular = || io::Error::other(format!("{name} is no regular file"));
        let fd = match open_below(&self.fd, OsStr::new(name), flags | OFlags::NOCTTY, mode) {
            // So says the system of a socket, and of a pipe to write to that nobody reads.
            Err(Errno::NXIO) => return Err(irregular()),
            opened => opened?,
        };
        let stat = rustix::fs::fstat(&fd)?;
        if kind(&stat) != FileType::RegularFile {
            return Err(irregular());
        }
        if !is_own(&stat) {
            let message = format!("{name} belongs to user {}", stat.st_uid);
            return Err(io::Error::new(io::ErrorKind::PermissionDenied, message));
        }
        Ok(File::from(fd))
    }

    /// Removes a file, a link or an empty directory.
    pub fn remove(&self, name: &OsStr) -> io::Result<()> {
        match rustix::fs::unlinkat(&self.fd, name, AtFlags::empty()) {
            Err(Errno::ISDIR) => {}
            done => return Ok(done?),
        }
        Ok(rustix::fs::unlinkat(&self.fd, name, AtFlags::REMOVEDIR)?)
    }
}

fn is_own(stat: &Stat) -> bool {
    stat.st_uid == rustix::process::geteuid().as_raw()
}

/// Refuses a directory in which others could plant files.
fn check(path: &Path, stat: &Stat) -> Result<(), Distrust> {
    let path = path.to_owned();
    match kind(stat) {
        FileType::Directory if !is_own(stat) => Err(Distrust::Owner {
            path,
            uid: stat.st_uid,
        }),
        FileType::Directory if stat.st_mode & 0o022 != 0 => Err(Distrust::Writable {
            path,
            mode: stat.st_mode & 0o7777,
        }),
        FileType::Directory => Ok(()),
        FileType::Symlink => Err(Distrust::system(&path, Errno::LOOP)),
        _ => Err(Distrust::system(&path, Errno::NOTDIR)),
    }
}

/// Opens what has a name in a directory, and nothing else: no link is followed, and no `/` or `..` leads out of it.
fn open_below(at: impl AsFd, name: &OsStr, flags: OFlags, mode: Mode) -> Result<OwnedFd, Errno> {
    let flags = flags | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS | ResolveFlags::NO_MAGICLINKS;
    match rustix::fs::openat2(&at, name, flags, mode, resolve) {
        // A kernel before 5.6, or a sandbox that does not know the call: a single name does as well without it.
        Err(Errno::NOSYS | Errno::PERM) if !name.as_bytes().contains(&b'/') => {
            rustix::fs::openat(at, name, flags, mode)
        }
        opened => opened,
    }
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::{PermissionsExt, symlink};

    use super::*;

    fn private() -> (tempfile::TempDir, PrivateDir) {
        let temp = tempfile::tempdir().unwrap();
        let dir = PrivateDir::make(&temp.path().join("run")).unwrap();
        (temp, dir)
    }

    #[test]
    fn files_are_written_whole_and_read_up_to_a_limit() {
        let (_temp, dir) = private();
        dir.write("f", b"hello").unwrap();
        dir.write("f", b"again").unwrap();
        assert_eq!(dir.read("f", 5).unwrap(), b"again");
        assert!(
            dir.read("f", 4)
                .unwrap_err()
                .to_string()
                .contains("more than 4")
        );
        assert_eq!(dir.names().unwrap(), ["f"]);
        dir.remove(OsStr::new("f")).unwrap();
        assert!(dir.identity("f").is_none());
    }

    #[test]
    fn links_pipes_and_what_lies_outside_are_refused() {
        let (temp, dir) = private();
        fs::write(temp.path().join("secret"), "x").unwrap();
        symlink("../secret", dir.path().join("link")).unwrap();
        symlink("..", dir.path().join("up")).unwrap();
        rustix::fs::mknodat(&dir.fd, "pipe", FileType::Fifo, Mode::RUSR | Mode::WUSR, 0).unwrap();
        for name in ["link", "pipe", "../secret", "up/secret"] {
            assert!(dir.read(name, 100).is_err(), "{name}");
            assert!(dir.lock_file(name).is_err(), "{name}");
        }
        let refused = dir.lock_file("pipe").unwrap_err().to_string();
        assert_eq!(refused, "pipe is no regular file");
        assert!(dir.dir("up").is_err());
        dir.write("link", b"mine").unwrap();
        assert_eq!(fs::read(temp.path().join("secret")).unwrap(), b"x");
    }

    #[test]
    fn a_directory_that_others_may_write_is_refused() {
        let (_temp, dir) = private();
        let path = dir.path().to_owned();
        for mode in [0o770, 0o702, 0o1777] {
            fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap();
            let refused = PrivateDir::open(&path);
            assert!(
                matches!(refused, Err(Distrust::Writable { .. })),
                "{mode:o}"
            );
        }
        fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
        assert!(PrivateDir::open(&path).unwrap().is_some());
        assert!(PrivateDir::open(&path.join("none")).unwrap().is_none());
    }
}
