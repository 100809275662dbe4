//! `uzram receive`: takes over the device that `uzram send` hands over.

use std::io::{self, IsTerminal, Write};
use std::os::unix::fs::FileTypeExt;
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};

use super::create::Options;
use super::send::unix_path;
use crate::exit::{Failure, Result};

/// Take over a device that "uzram send" hands over, and print its path
///
/// Reads it from stdin, so that any pipe carries it, such as ssh's; or waits at a socket for one connection of the same user. The
/// device is there when all of it is, with the size, the algorithms and the dictionaries that it had, unless others are given. Where
/// the other side ends before, nothing is left of it.
#[derive(clap::Args)]
#[command(after_help = "\
Examples:
  uzram send zram0 -- ssh host uzram receive --frontend nbd --listen tcp:127.0.0.1:10809
  uzram receive --from unix:/run/peer.sock --frontend ublk")]
pub(crate) struct Args {
    /// Wait for the other side at this socket, which is made for it: unix:PATH
    #[arg(long, value_name = "unix:PATH")]
    from: Option<String>,
    #[command(flatten)]
    options: Options,
}

impl Args {
    pub(crate) fn run(self, log: &str) -> Result {
        if self.options.has_keys() {
            let message = "what another host hands over is not sealed: ssh or the like keeps it from others on its way";
            return Err(Failure::usage(message));
        }
        let Some(address) = &self.from else {
            let stdin = io::stdin();
            if stdin.is_terminal() {
                let message = "stdin is a terminal: run this by \"uzram send\", or name a socket with --from unix:PATH";
                return Err(Failure::usage(message));
            }
            return self.options.take_over(stdin, log, |path| {
                let mut stdout = io::stdout().lock();
                writeln!(stdout, "{path}").and_then(|()| stdout.flush())
            });
        };
        let path = unix_path(address)?;
        let connection = accept(&path)?;
        let mut answer = connection.try_clone()?;
        self.options.take_over(connection, log, |path| {
            writeln!(answer, "{path}")?;
            let mut stdout = io::stdout().lock();
            writeln!(stdout, "{path}").and_then(|()| stdout.flush())
        })
    }
}

/// Removes the socket when it has served.
struct Socket(PathBuf);

impl Drop for Socket {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.0);
    }
}

/// Waits for a connection of the same user.
fn accept(path: &Path) -> Result<std::os::unix::net::UnixStream> {
    let told = |error: io::Error| {
        let kind = crate::exit::Kind::from_io(&error);
        Failure::new(kind, format!("{}: {error}", path.display()))
    };
    // One that a dead process left.
    if path
        .symlink_metadata()
        .is_ok_and(|found| found.file_type().is_socket())
        && std::os::unix::net::UnixStream::connect(path).is_err()
    {
        std::fs::remove_file(path).map_err(told)?;
    }
    let before = rustix::process::umask(rustix::fs::Mode::from_raw_mode(0o177));
    let listener = UnixListener::bind(path);
    rustix::process::umask(before);
    let listener = listener.map_err(told)?;
    let _socket = Socket(path.into());
    loop {
        let (connection, _) = listener.accept().map_err(told)?;
        let peer = rustix::net::sockopt::socket_peercred(&connection).map_err(io::Error::from)?;
        if peer.uid == rustix::process::geteuid() || peer.uid.is_root() {
            return Ok(connection);
        }
        crate::exit::tell(format!(
            "a connection of user {} is refused",
            peer.uid.as_raw()
        ));
    }
}
