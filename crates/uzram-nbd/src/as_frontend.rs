//! The server as a frontend: `nbd`, a socket. Clients of a server that died connect again to the same socket.

use std::fs::File;
use std::path::Path;
use std::time::Duration;

use uzram_frontend::{Front, Frontend, FrontendOption, Handover, Need, OptionKind, Serving};
use uzram_spec::{Failure, FailureKind, FrontendSpec, Result};

use crate::{DEFAULT_POLL, Error, Export, Listen, RunningServer, Server, ServerBuilder};

/// The frontend `nbd`.
pub struct NbdFrontend;

/// Where to listen.
const LISTEN: FrontendOption = FrontendOption {
    name: "listen",
    value_name: "WHERE",
    kind: OptionKind::Text(absolute),
    help: "Where to listen, unix:PATH or tcp:ADDRESS[:PORT] [default: a unix socket in the run directory]",
    chooses: true,
};

const ALLOW_REMOTE: FrontendOption = FrontendOption {
    name: "allow-remote",
    value_name: "",
    kind: OptionKind::Flag,
    help: "Allow --listen on an address that other machines reach. There is no encryption or authentication",
    chooses: false,
};

/// How long the server polls for the next request: an option of every frontend that this crate serves.
pub const POLL: FrontendOption = FrontendOption {
    name: "poll",
    value_name: "MICROSECONDS",
    kind: OptionKind::Integer(0, 1000),
    help: "Longest time to poll for a client's next request before the server sleeps, 0 to 1000 microseconds. It polls \
        only while requests come that soon, and takes most of a CPU meanwhile. 0 never polls [default: 100]",
    chooses: false,
};

/// The value of [`POLL`].
pub fn poll_time(spec: &FrontendSpec) -> Duration {
    let given = spec.integer(POLL.name).map(Duration::from_micros);
    given.unwrap_or(DEFAULT_POLL)
}

/// Parses an address and makes its path absolute, since the server has another working directory.
fn absolute(text: &str, directory: &Path) -> std::result::Result<String, String> {
    let listen: Listen = text.parse().map_err(|error: Error| error.to_string())?;
    match listen {
        Listen::Unix(path) => Ok(Listen::Unix(directory.join(path)).to_string()),
        listen => Ok(listen.to_string()),
    }
}

/// A server set up by the options of a description.
pub fn server_builder(spec: &FrontendSpec) -> ServerBuilder {
    Server::builder()
        .allow_remote(spec.flag(ALLOW_REMOTE.name))
        .poll(poll_time(spec))
}

/// A device behind a socket.
struct NbdFront {
    handle: Option<RunningServer>,
    uri: String,
    listen: String,
}

fn serve(serving: &Serving<'_>, listen: &Listen) -> Result<Box<dyn Front>> {
    let name = serving.name;
    let server = server_builder(serving.spec)
        .export(Export::new(name, serving.device.clone()))
        .bind(listen)?;
    let (uri, listen) = (server.uri(name), server.local().to_string());
    Ok(Box::new(NbdFront {
        handle: Some(server.start()?),
        uri,
        listen,
    }))
}

impl Frontend for NbdFrontend {
    fn name(&self) -> &'static str {
        "nbd"
    }

    fn about(&self) -> &'static str {
        "an NBD socket, for qemu, libnbd, nbd-client, fio"
    }

    fn options(&self) -> &'static [FrontendOption] {
        &[LISTEN, ALLOW_REMOTE, POLL]
    }

    fn handover(&self) -> Handover {
        Handover::Reconnects
    }

    fn poll(&self, spec: &FrontendSpec) -> Option<Duration> {
        Some(poll_time(spec))
    }

    fn probe(&self) -> std::result::Result<(), Need> {
        Ok(())
    }

    fn start(&self, serving: &Serving<'_>) -> Result<Box<dyn Front>> {
        let listen = match serving.spec.text(LISTEN.name) {
            Some(given) => given.parse()?,
            None => Listen::Unix(serving.file("nbd.sock")),
        };
        serve(serving, &listen)
    }

    fn resume(&self, serving: &Serving<'_>, word: &str) -> Result<Box<dyn Front>> {
        serve(serving, &word.parse()?)
    }
}

impl Front for NbdFront {
    fn path(&self) -> String {
        self.uri.clone()
    }

    fn resume_word(&self) -> String {
        self.listen.clone()
    }

    fn hold_idle(&self) -> Result<Option<File>> {
        let clients = match self.connected() {
            0 => return Ok(None),
            1 => "1 NBD client is".into(),
            n => format!("{n} NBD clients are"),
        };
        let message = format!("{} is in use: {clients} connected", self.uri);
        Err(Failure::new(FailureKind::Busy, message))
    }

    fn clients(&self) -> Option<u64> {
        Some(self.connected())
    }

    /// The protocol tells clients the size when they connect. A connected client keeps the size that it knows.
    fn can_resize(&self) -> Result {
        Ok(())
    }

    fn remove(&mut self) -> Result {
        self.hold_idle()?;
        self.shut_down()
    }

    fn remove_by_force(&mut self) -> Result<Vec<String>> {
        let clients = self.connected();
        self.shut_down()?;
        Ok(match clients {
            0 => Vec::new(),
            1 => vec!["disconnected 1 NBD client".into()],
            n => vec![format!("disconnected {n} NBD clients")],
        })
    }

    fn hand_over(&mut self) {
        // Requests that have arrived are answered first.
        if let Err(failure) = self.shut_down() {
            tracing::warn!("ending the NBD server: {failure}");
        }
    }
}

impl NbdFront {
    fn connected(&self) -> u64 {
        let connected = self.handle.as_ref().map(RunningServer::connections);
        connected.unwrap_or_default() as u64
    }

    fn shut_down(&mut self) -> Result {
        match self.handle.take() {
            Some(handle) => Ok(handle.shutdown()?),
            None => Ok(()),
        }
    }
}

impl From<Error> for Failure {
    fn from(error: Error) -> Failure {
        match &error {
            Error::NotLoopback { .. } => {
                Failure::new(FailureKind::Usage, error).with_hint("with --allow-remote")
            }
            Error::Address { .. } | Error::Resolve { .. } | Error::NotASocket { .. } => {
                Failure::new(FailureKind::Usage, error)
            }
            Error::InUse { .. } => Failure::new(FailureKind::Busy, error),
            Error::Bind { source, .. } => Failure::new(FailureKind::from_io(source), error),
            _ => Failure::new(FailureKind::Failed, error),
        }
    }
}
