//! `uzram receive`: takes over the device that `uzram send` hands over.

use std::io::{self, IsTerminal, Read, Write};
use std::path::PathBuf;

use uzram_runtime::handover::MAGIC;

use super::create::Options;
use super::peer::{Duplex, DuplexEnd, Peer, PeerAddress};
use super::receive_lazily;
use crate::exit::{Failure, Result};

/// Take over a device that "uzram send" hands over, and print its path
///
/// Reads it from stdin, so that any pipe carries it, such as ssh's; or waits for one connection: of the same user at a unix socket, or by
/// TLS of who has a certificate. The device is there when all of it is, with the size, the algorithms and the dictionaries that it had, unless others are given. Where
/// the other side ends before, nothing is left of it.
///
/// What is sent with --lazy is there at once. This command then runs until all has come, and if it or the connection ends before, what
/// needs the rest waits and fails until both commands are run again. By all frontends but ublk; not for swap.
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
    /// Of a device that is sent with --lazy: how long a request waits for what is not here yet before it fails, in seconds
    /// [default: 30]
    #[arg(long, value_name = "SECONDS", value_parser = clap::value_parser!(u32).range(1..=86400))]
    remote_timeout: Option<u32>,
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
            let mut stdin = io::stdin();
            if stdin.is_terminal() {
                let message = "stdin is a terminal: run this by \"uzram send\", or name a socket with --from unix:PATH or tls:HOST:PORT";
                return Err(Failure::usage(message));
            }
            let first = first_bytes(&mut stdin)?;
            if first == MAGIC {
                let connection = Duplex {
                    from: Box::new(stdin),
                    to: Box::new(io::stdout()),
                    end: DuplexEnd::of_pipes(),
                };
                let timeout = self.remote_timeout;
                return receive_lazily::run(connection, false, self.options, timeout, log);
            }
            self.check_not_lazy()?;
            let whole = io::Cursor::new(first).chain(stdin);
            return self.options.take_over(whole, log, |path| {
                let mut stdout = io::stdout().lock();
                writeln!(stdout, "{path}").and_then(|()| stdout.flush())
            });
        };
        let mut peer = Peer::accept(address, self.certificates.as_deref())?;
        let first = first_bytes(&mut peer)?;
        if first == MAGIC {
            let connection = peer.duplex()?;
            let timeout = self.remote_timeout;
            return receive_lazily::run(connection, true, self.options, timeout, log);
        }
        self.check_not_lazy()?;
        let mut answer = peer.clone();
        let whole = io::Cursor::new(first).chain(peer);
        self.options.take_over(whole, log, |path| {
            answer.write_all(format!("{path}\n").as_bytes())?;
            answer.finish()?;
            let mut stdout = io::stdout().lock();
            writeln!(stdout, "{path}").and_then(|()| stdout.flush())
        })
    }

    fn check_not_lazy(&self) -> Result {
        match self.remote_timeout {
            None => Ok(()),
            Some(_) => Err(Failure::usage(
                "--remote-timeout is for what is sent with --lazy, and this is not",
            )),
        }
    }
}

/// As many bytes as tell how a device is sent; fewer where the other side ends before.
fn first_bytes(from: &mut impl Read) -> io::Result<Vec<u8>> {
    let mut first = Vec::with_capacity(MAGIC.len());
    from.take(MAGIC.len() as u64).read_to_end(&mut first)?;
    Ok(first)
}
