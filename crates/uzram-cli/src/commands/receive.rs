//! `uzram receive`: takes over the device that `uzram send` hands over.

use std::io::{self, IsTerminal, Write};
use std::path::PathBuf;

use super::create::Options;
use super::peer::{Peer, PeerAddress};
use crate::exit::{Failure, Result};

/// Take over a device that "uzram send" hands over, and print its path
///
/// Reads it from stdin, so that any pipe carries it, such as ssh's; or waits for one connection: of the same user at a unix socket, or by
/// TLS of who has a certificate. The device is there when all of it is, with the size, the algorithms and the dictionaries that it had, unless others are given. Where
/// the other side ends before, nothing is left of it.
#[derive(clap::Args)]
#[command(after_help = "\
Examples:
  uzram send zram0 -- ssh host uzram receive --frontend nbd --listen tcp:127.0.0.1:10809
  uzram receive --from unix:/run/peer.sock --frontend ublk
  uzram receive --from tls:10.0.0.2:7000 --certificates /etc/pki/uzram")]
pub(crate) struct Args {
    /// Wait for the other side at a socket, which is made for it: unix:PATH, or tls:HOST:PORT
    #[arg(long, value_name = "ADDRESS", value_parser = PeerAddress::parse)]
    from: Option<PeerAddress>,
    /// For tls:HOST:PORT: a directory with server-cert.pem, server-key.pem and ca-cert.pem, whose authority must have signed the
    /// other side's certificate
    #[arg(long, value_name = "DIR", requires = "from")]
    certificates: Option<PathBuf>,
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
                let message = "stdin is a terminal: run this by \"uzram send\", or name a socket with --from unix:PATH or tls:HOST:PORT";
                return Err(Failure::usage(message));
            }
            return self.options.take_over(stdin, log, |path| {
                let mut stdout = io::stdout().lock();
                writeln!(stdout, "{path}").and_then(|()| stdout.flush())
            });
        };
        let peer = Peer::accept(address, self.certificates.as_deref())?;
        let mut answer = peer.clone();
        self.options.take_over(peer, log, |path| {
            answer.write_all(format!("{path}\n").as_bytes())?;
            answer.finish()?;
            let mut stdout = io::stdout().lock();
            writeln!(stdout, "{path}").and_then(|()| stdout.flush())
        })
    }
}
