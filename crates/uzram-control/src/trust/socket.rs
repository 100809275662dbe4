//! Unix sockets in a private directory: bound for their owner alone, and asked for who answers.
//!
//! A socket's address takes 107 bytes of path. A longer one is reached through a descriptor of its directory, so that a run
//! directory may lie anywhere.

use std::io;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};

use nix::sys::socket::sockopt::PeerCredentials;
use nix::sys::socket::{UnixCredentials, getsockopt};
use rustix::fs::{Mode, OFlags};
use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType};

/// Connections that may wait to be accepted.
const BACKLOG: i32 = 128;

/// Connects to a socket, and refuses whoever answers there unless it is root or this user.
pub fn connect(path: &Path) -> io::Result<UnixStream> {
    connect_with(path, SocketFlags::empty())
}

/// The same without waiting: the stream does not block, and nor does this. `WouldBlock`: the server's queue is full.
pub(crate) fn connect_at_once(path: &Path) -> io::Result<UnixStream> {
    connect_with(path, SocketFlags::NONBLOCK)
}

fn connect_with(path: &Path, flags: SocketFlags) -> io::Result<UnixStream> {
    let socket = socket(flags)?;
    with_address(path, |address| rustix::net::connect(&socket, address))?;
    check_peer(&socket).map_err(|uid| {
        let path = path.display();
        let message = format!(
            "who answers at {path} is user {uid}, neither root nor this user: it was told nothing"
        );
        io::Error::new(io::ErrorKind::PermissionDenied, message)
    })?;
    Ok(socket.into())
}

/// The number of the user at the other end, unless that is root or this user.
pub(crate) fn check_peer(stream: impl AsFd) -> Result<(), u32> {
    let uid = credentials(&stream).map_err(|_| u32::MAX)?.uid();
    match uid == 0 || uid == rustix::process::geteuid().as_raw() {
        true => Ok(()),
        false => Err(uid),
    }
}

/// Process and user at the other end. The process's number is 0 where it is in another PID namespace: rustix's type for it
/// excludes that.
pub fn credentials(stream: impl AsFd) -> io::Result<UnixCredentials> {
    Ok(getsockopt(&stream, PeerCredentials)?)
}

/// Listens at a path, for this user alone. A socket that is there is replaced: who calls this has the directory for itself.
pub fn bind(path: &Path) -> io::Result<UnixListener> {
    match std::fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let socket = socket(SocketFlags::empty())?;
    // Linux takes the mode of the socket's file from the socket itself: at no time may others connect.
    rustix::fs::fchmod(&socket, Mode::RUSR | Mode::WUSR)?;
    with_address(path, |address| rustix::net::bind(&socket, address))?;
    rustix::net::listen(&socket, BACKLOG)?;
    Ok(socket.into())
}

fn socket(flags: SocketFlags) -> io::Result<OwnedFd> {
    let (family, kind) = (AddressFamily::UNIX, SocketType::STREAM);
    let flags = flags | SocketFlags::CLOEXEC;
    Ok(rustix::net::socket_with(family, kind, flags, None)?)
}

/// Uses a path as an address: by itself, or through a descriptor of its directory.
fn with_address(
    path: &Path,
    call: impl FnOnce(&SocketAddrUnix) -> rustix::io::Result<()>,
) -> io::Result<()> {
    if let Ok(address) = SocketAddrUnix::new(path) {
        return Ok(call(&address)?);
    }
    let (Some(dir), Some(name)) = (path.parent(), path.file_name()) else {
        return Err(io::ErrorKind::InvalidInput.into());
    };
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let dir = rustix::fs::open(dir, flags, Mode::empty())?;
    let path = PathBuf::from(format!("/proc/self/fd/{}", dir.as_raw_fd())).join(name);
    Ok(call(&SocketAddrUnix::new(path)?)?)
}

#[cfg(test)]
mod tests {
    use std::io::{Read, Write};
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    #[test]
    fn a_socket_works_at_any_length_of_path() {
        let temp = tempfile::tempdir().unwrap();
        for length in [10, 90, 107, 108, 200] {
            let dir = temp.path().join("x".repeat(length));
            std::fs::create_dir(&dir).unwrap();
            let path = dir.join("control.sock");
            drop(bind(&path).unwrap());
            let listener = bind(&path).unwrap();
            let mode = std::fs::metadata(&path).unwrap().permissions().mode();
            assert_eq!(mode & 0o777, 0o600);
            let mut client = connect(&path).unwrap();
            client.write_all(b"x").unwrap();
            let mut byte = [0];
            listener.accept().unwrap().0.read_exact(&mut byte).unwrap();
            assert_eq!(byte, *b"x");
        }
    }
}
