//! Unix sockets that a protocol's clients connect to: who may, who did, and what the options say of it.
//!
//! A socket gets its mode 0600 before it is bound, so others cannot connect at any moment. Where other users are
//! allowed it gets 0666 afterwards: everybody can connect, and the server asks the system who it is. A socket file that
//! nobody accepts on is left over and is replaced; a live one is an error. Dropping the [`UnixSocket`] removes the file, unless
//! somebody has put another in its place.

use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::{fmt, fs, io};

use nix::sys::socket::{getsockopt, sockopt::PeerCredentials};
use rustix::fs::{FileType, Mode, OFlags};
use rustix::net;
use thiserror::Error;
use uzram_spec::{Failure, FailureKind, FrontendSpec};

use crate::{FrontendOption, OptionKind};

/// Connections that may wait to be accepted.
const BACKLOG: i32 = 128;
/// Longest path of a unix socket, in bytes.
const MAX_SOCKET_PATH: usize = 107;

/// Where to listen, for frontends with a socket. Each has its own [`FrontendOption::kind`] of it.
pub const LISTEN: FrontendOption = FrontendOption {
    name: "listen",
    value_name: "WHERE",
    kind: OptionKind::Text(unix_only),
    help: "Where to listen, unix:PATH, or for nbd tcp:ADDRESS[:PORT]. Of a unix socket only root and the device's own user are \
        served; see --allow-uid. Over tcp every user of this machine who reaches ADDRESS reads and writes the disk, also \
        on 127.0.0.1 [default: a unix socket in the run directory]",
    chooses: true,
};

/// Who may connect beside root and the device's own user, for frontends with a socket.
pub const ALLOW_UID: FrontendOption = FrontendOption {
    name: "allow-uid",
    value_name: "USER",
    kind: OptionKind::List(uid),
    help: "Let this user connect to the unix socket, too: a name or number, repeated or separated by commas. Root and the \
        device's own user always may. For QEMU under libvirt that is libvirt-qemu or qemu. The socket has the mode 0600, and \
        with this option 0666: then the server asks the system who connects, and refuses others. The user must be able to \
        search the socket's directory, which the default one does not allow: use --listen, too",
    chooses: false,
};

/// The users whom [`ALLOW_UID`] names.
pub fn allowed_uids(spec: &FrontendSpec) -> Vec<u32> {
    // They were checked when they were read.
    let uids = spec.text(ALLOW_UID.name).unwrap_or_default().split(',');
    uids.filter_map(|uid| uid.parse().ok()).collect()
}

/// The path of a unix socket that [`LISTEN`] names.
pub fn unix_path(listen: &str) -> Option<&Path> {
    let path = listen.strip_prefix("unix:")?;
    (!path.is_empty()).then(|| Path::new(path))
}

fn unix_only(text: &str, directory: &Path) -> Result<String, String> {
    let path = unix_path(text).ok_or("unix:PATH")?;
    absolute_socket(path, directory)
}

/// Makes a socket's path absolute, since the server has another working directory: as [`LISTEN`] has it.
pub fn absolute_socket(path: &Path, directory: &Path) -> Result<String, String> {
    let path = directory.join(path);
    let text = path.to_str();
    let text = text.ok_or_else(|| format!("the path {path:?} is not UTF-8"))?;
    check_socket_path(&path)?;
    Ok(format!("unix:{text}"))
}

/// Refuses a path that no client could give to connect(2).
pub fn check_socket_path(path: &Path) -> Result<(), String> {
    let length = path.as_os_str().len();
    match length <= MAX_SOCKET_PATH {
        true => Ok(()),
        false => Err(format!(
            "the socket's path {} has {length} bytes, and the system takes {MAX_SOCKET_PATH}",
            path.display()
        )),
    }
}

/// Reads a user's name or number.
fn uid(text: &str) -> Result<String, String> {
    let number = match text.parse::<u32>() {
        // It stands for "no user" in system calls.
        Ok(u32::MAX) | Err(_) => None,
        Ok(number) => Some(number),
    };
    let named = || match nix::unistd::User::from_name(text) {
        Ok(Some(user)) => Ok(user.uid.as_raw()),
        Ok(None) => Err(format!(
            "the name or number of a user, and '{text}' is none"
        )),
        Err(error) => Err(format!("cannot look up the user '{text}': {error}")),
    };
    number
        .map_or_else(named, Ok)
        .map(|number| number.to_string())
}

/// Whether a user may connect: root and this process's own user always may, since they can read and change this process's
/// memory as well.
pub fn may_connect(uid: u32, allowed: &[u32]) -> bool {
    uid == 0 || uid == own_uid() || allowed.contains(&uid)
}

/// The allowed users for whom the mode 0600 of a socket is too strict.
pub fn other_users(allowed: &[u32]) -> Vec<u32> {
    let strangers = |uid: &u32| *uid != 0 && *uid != own_uid();
    allowed.iter().copied().filter(strangers).collect()
}

fn own_uid() -> u32 {
    rustix::process::geteuid().as_raw()
}

/// Why there is no socket to listen on.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum SocketError {
    /// A user who was allowed cannot get to the socket.
    #[error(
        "uid {uid} cannot reach {}: {} is closed to others. Choose a socket in a directory that they can search",
        path.display(), directory.display()
    )]
    Unreachable {
        /// The user.
        uid: u32,
        /// The socket's path.
        path: PathBuf,
        /// The directory that is in the way.
        directory: PathBuf,
    },
    /// Another server accepts connections on the socket.
    #[error("{} is in use: another server accepts connections there", path.display())]
    InUse {
        /// The socket's path.
        path: PathBuf,
    },
    /// The path belongs to something else.
    #[error("{} exists and is not a socket: choose another path, or remove it", path.display())]
    NotASocket {
        /// The path.
        path: PathBuf,
    },
    /// The operating system refused the socket.
    #[error("cannot listen on unix:{}: {source}", path.display())]
    Bind {
        /// The path.
        path: PathBuf,
        /// The system's answer.
        source: io::Error,
    },
}

impl From<SocketError> for Failure {
    fn from(error: SocketError) -> Failure {
        match &error {
            SocketError::Unreachable { .. } => {
                Failure::usage(error).with_hint("--listen unix:PATH chooses the socket")
            }
            SocketError::NotASocket { .. } => Failure::usage(error),
            SocketError::InUse { .. } => Failure::busy(error),
            SocketError::Bind { source, .. } => Failure::new(kind_of_bind(source), error),
        }
    }
}

/// The kind of failure of an address that cannot be had.
pub fn kind_of_bind(error: &io::Error) -> FailureKind {
    use io::ErrorKind;
    match error.kind() {
        ErrorKind::AddrInUse => FailureKind::Busy,
        ErrorKind::NotFound
        | ErrorKind::NotADirectory
        | ErrorKind::AddrNotAvailable
        | ErrorKind::InvalidInput
        | ErrorKind::InvalidFilename => FailureKind::Usage,
        _ => FailureKind::from_io(error),
    }
}

/// The process at the other end of a unix socket.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct UnixPeer {
    /// Its id, 0 where it is in a PID namespace that this process cannot see.
    pub pid: i32,
    /// Its user when it connected.
    pub uid: u32,
}

impl UnixPeer {
    /// Who connected a socket.
    pub fn of(fd: &impl AsFd) -> io::Result<UnixPeer> {
        // rustix would make a `Pid` of the id, which cannot be 0.
        let peer = getsockopt(fd, PeerCredentials)?;
        Ok(UnixPeer {
            pid: peer.pid(),
            uid: peer.uid(),
        })
    }
}

impl fmt::Display for UnixPeer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            UnixPeer { pid: 0, uid } => {
                write!(f, "a process in another namespace (uid {uid})")
            }
            UnixPeer { pid, uid } => write!(f, "pid {pid} (uid {uid})"),
        }
    }
}

/// A listening socket, which does not block. Dropping it removes its file.
#[derive(Debug)]
pub struct UnixSocket {
    fd: OwnedFd,
    path: PathBuf,
    /// Device and inode of the socket file, so that only our own is removed.
    file: Option<(u64, u64)>,
}

impl UnixSocket {
    /// Refuses a path where nobody can listen, as far as that is seen without trying.
    pub fn check(path: &Path) -> Result<(), SocketError> {
        let wrong = |source| SocketError::Bind {
            path: path.into(),
            source,
        };
        net::SocketAddrUnix::new(path).map_err(|error| wrong(error.into()))?;
        let directory = path.parent().map(fs::metadata);
        match directory.transpose().map_err(wrong)? {
            Some(directory) if !directory.is_dir() => {
                Err(wrong(io::ErrorKind::NotADirectory.into()))
            }
            _ => Ok(()),
        }
    }

    /// Makes the socket and its file. `uids` are the users beside this process's own and root who are to connect.
    pub fn bind(path: &Path, uids: &[u32]) -> Result<UnixSocket, SocketError> {
        let bind_error = |source| SocketError::Bind {
            path: path.into(),
            source,
        };
        check_reachable(path, uids)?;
        let fd = match bind_unix(path) {
            Err(e) if e.kind() == io::ErrorKind::AddrInUse => {
                remove_stale(path)?;
                bind_unix(path)
            }
            other => other,
        };
        let socket = UnixSocket {
            fd: fd.map_err(bind_error)?,
            path: path.into(),
            file: inode(path),
        };
        if !uids.is_empty() {
            open_to_all(path).map_err(bind_error)?;
        }
        net::listen(&socket.fd, BACKLOG).map_err(|e| bind_error(e.into()))?;
        Ok(socket)
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.path
    }
}

impl AsFd for UnixSocket {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

impl Drop for UnixSocket {
    fn drop(&mut self) {
        if let Some(file) = self.file
            && inode(&self.path) == Some(file)
            && let Err(e) = fs::remove_file(&self.path)
        {
            tracing::warn!("cannot remove {}: {e}", self.path.display());
        }
    }
}

/// Lets everybody connect to this process's socket; the umask would not let `bind` do it. Follows no symbolic link.
fn open_to_all(path: &Path) -> io::Result<()> {
    let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let file = rustix::fs::open(path, flags, Mode::empty())?;
    let stat = rustix::fs::fstat(&file)?;
    let socket = FileType::from_raw_mode(stat.st_mode) == FileType::Socket;
    if !socket || stat.st_uid != rustix::process::geteuid().as_raw() {
        return Err(io::Error::other(
            "somebody has put another file in its place",
        ));
    }
    let file = format!("/proc/self/fd/{}", file.as_raw_fd());
    Ok(rustix::fs::chmod(file, Mode::from_raw_mode(0o666))?)
}

/// Refuses where a directory on the way to the socket is closed to one of the users.
fn check_reachable(path: &Path, uids: &[u32]) -> Result<(), SocketError> {
    let absolute = std::path::absolute(path).unwrap_or_else(|_| path.into());
    for directory in absolute.ancestors().skip(1) {
        let Ok(meta) = fs::metadata(directory) else {
            continue;
        };
        // Group members, and users whom an access control list names, may search it if the group's bit is set.
        if meta.mode() & 0o011 != 0 {
            continue;
        }
        if let Some(uid) = uids.iter().find(|uid| **uid != meta.uid()) {
            return Err(SocketError::Unreachable {
                uid: *uid,
                path: path.into(),
                directory: directory.into(),
            });
        }
    }
    Ok(())
}

fn bind_unix(path: &Path) -> io::Result<OwnedFd> {
    let flags = net::SocketFlags::CLOEXEC | net::SocketFlags::NONBLOCK;
    let fd = net::socket_with(
        net::AddressFamily::UNIX,
        net::SocketType::STREAM,
        flags,
        None,
    )?;
    // Linux takes the mode of the socket file from the socket's own inode.
    rustix::fs::fchmod(&fd, Mode::RUSR | Mode::WUSR)?;
    net::bind(&fd, &net::SocketAddrUnix::new(path)?)?;
    Ok(fd)
}

/// Removes a socket file if nobody accepts on it; leaves anything else alone.
fn remove_stale(path: &Path) -> Result<(), SocketError> {
    let fail = |source| SocketError::Bind {
        path: path.into(),
        source,
    };
    let meta = fs::symlink_metadata(path).map_err(fail)?;
    if !meta.file_type().is_socket() {
        return Err(SocketError::NotASocket { path: path.into() });
    }
    match UnixStream::connect(path) {
        Err(e) if e.kind() == io::ErrorKind::ConnectionRefused => {
            tracing::info!(
                "{} is left over from a server that is gone: replaced",
                path.display()
            );
            fs::remove_file(path).map_err(fail)
        }
        Ok(_) => Err(SocketError::InUse { path: path.into() }),
        Err(e) => Err(fail(e)),
    }
}

fn inode(path: &Path) -> Option<(u64, u64)> {
    fs::symlink_metadata(path).ok().map(|m| (m.dev(), m.ino()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn peers_are_named() {
        let named = |pid| UnixPeer { pid, uid: 7 }.to_string();
        assert_eq!(named(12), "pid 12 (uid 7)");
        assert_eq!(named(0), "a process in another namespace (uid 7)");
    }

    #[test]
    fn a_path_is_made_absolute_and_anything_else_refused() {
        let directory = Path::new("/run");
        assert_eq!(unix_only("unix:a b", directory).unwrap(), "unix:/run/a b");
        for text in ["", "unix:", "/run/x", "tcp:127.0.0.1:1"] {
            assert_eq!(unix_only(text, directory).unwrap_err(), "unix:PATH");
        }
        let long = format!("unix:/{}", "x".repeat(200));
        let refused = unix_only(&long, directory).unwrap_err();
        assert!(refused.contains("201 bytes"), "{refused}");
    }
}
