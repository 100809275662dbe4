//! Carries a client's bytes between its socket, which is encrypted, and whoever serves it in another process: a session of TLS
//! cannot be given away with its socket.
//!
//! Two threads, each with a buffer of its own. Neither reads more before the other side has taken what it read, so whoever is
//! slow slows down his peer and nobody else, and each side's limits on time hold as they would without this.

use crate::{close::Close, socket::Socket, stop::Stop};
use rustix::{
    io::Errno,
    net::{self, RecvFlags, SendFlags, Shutdown},
};
use std::{os::fd::OwnedFd, thread};

/// Bytes that are carried at once.
const PIECE: usize = 128 << 10;

/// Carries bytes both ways until both sides have ended. Returns why the client's side did.
pub(crate) fn relay(socket: &Socket, inner: &OwnedFd, stop: &Stop) -> Close {
    thread::scope(|scope| {
        let back = thread::Builder::new().name("nbd-relay".into());
        let begun = back.spawn_scoped(scope, || {
            let sent = to_client(socket, inner);
            // The other direction ends, too: whoever serves the client has.
            let _ = net::shutdown(inner, Shutdown::Both);
            socket.close();
            sent
        });
        let back = match begun {
            Ok(back) => back,
            Err(e) => {
                let _ = net::shutdown(inner, Shutdown::Both);
                return Close::Receive(e);
            }
        };
        let received = from_client(socket, inner);
        // What was asked is answered. A client that broke off is not waited for.
        let how = match received {
            Ok(()) => Shutdown::Write,
            Err(_) => Shutdown::Both,
        };
        let _ = net::shutdown(inner, how);
        let sent = back.join().unwrap_or(Err(Close::Panicked));
        match (received, sent) {
            _ if stop.is_set() => stop.close(),
            (Err(reason), _) | (_, Err(reason)) => reason,
            _ => Close::Disconnected,
        }
    })
}

fn from_client(socket: &Socket, inner: &OwnedFd) -> Result<(), Close> {
    let mut buffer = vec![0; PIECE];
    loop {
        match socket.recv(&mut buffer).map_err(Close::receive)? {
            0 => return Ok(()),
            n if send_all(inner, &buffer[..n]).is_err() => return Ok(()),
            _ => {}
        }
    }
}

fn to_client(socket: &Socket, inner: &OwnedFd) -> Result<(), Close> {
    let mut buffer = vec![0; PIECE];
    loop {
        match net::recv(inner, &mut *buffer, RecvFlags::empty()) {
            Err(Errno::INTR) => {}
            // The other process is gone.
            Err(_) | Ok((0, _)) => return Ok(()),
            Ok((n, _)) => socket.send(&buffer[..n])?,
        }
    }
}

fn send_all(inner: &OwnedFd, mut bytes: &[u8]) -> Result<(), Errno> {
    while !bytes.is_empty() {
        match net::send(inner, bytes, SendFlags::NOSIGNAL) {
            Err(Errno::INTR) => {}
            sent => bytes = &bytes[sent?..],
        }
    }
    Ok(())
}
