//! `uzram-s3`: speaks to an object store over S3, for `uzram`, which starts it.
//!
//! A program of its own, so that neither `uzram` nor what serves devices links an asynchronous runtime, an HTTP client and TLS, and
//! so that credentials are in no other process's memory. Its stdin is a socket, by which it is asked and answers
//! ([`uzram_remote::wire`]). It ends when the socket is closed, having given up uploads that are half done.
#![forbid(unsafe_code)]

mod credentials;
mod serve;
mod store;
mod words;

use std::os::fd::AsFd;
use std::os::unix::net::UnixStream;
use std::process::ExitCode;

use rustix::net::{AddressFamily, SocketType, sockopt};

fn main() -> ExitCode {
    // No core dump has keys in it, and nobody else of this user reads them from its memory.
    let behavior = rustix::process::DumpableBehavior::NotDumpable;
    let _ = rustix::process::set_dumpable_behavior(behavior);
    let Some(socket) = stdin() else {
        eprintln!(
            "uzram-s3: not for users: uzram starts it for a remote on s3: (see uzram remote --help)"
        );
        return ExitCode::from(2);
    };
    match serve::serve(socket) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("uzram-s3: {error}");
            ExitCode::FAILURE
        }
    }
}

/// The socket that stdin is.
fn stdin() -> Option<UnixStream> {
    let stdin = std::io::stdin();
    let is_stream = sockopt::socket_type(stdin.as_fd()) == Ok(SocketType::STREAM);
    let is_unix = sockopt::socket_domain(stdin.as_fd()) == Ok(AddressFamily::UNIX);
    if !is_stream || !is_unix || std::env::args_os().len() > 1 {
        return None;
    }
    Some(UnixStream::from(stdin.as_fd().try_clone_to_owned().ok()?))
}
