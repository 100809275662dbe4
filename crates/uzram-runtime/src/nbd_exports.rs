//! Devices of this user's run directory as the exports of one NBD server: it negotiates with a client, and gives it to the server
//! of the device that it asks for.
//!
//! A device is looked up by its name for each client, so one that was removed, made anew or upgraded meanwhile is the one that is
//! there now. Devices are asked together, and each client waits on a thread of its own: none waits for a device that it did not
//! ask for, but the list of all, which leaves out those that do not answer in time.

use std::io::{self, ErrorKind};
use std::os::fd::BorrowedFd;
use std::sync::Arc;
use std::time::{Duration, Instant};

use uzram_control::{
    Deadline, Request, Response, RunDir, RunningDevice, call_devices, call_with_files,
};
use uzram_frontend::{Frontend, FrontendOption, READ_ONLY};
use uzram_nbd::{
    EXPORTS_OPTIONS, ExportDirectory, FRONTEND, NbdFrontend, RunningServer, Unavailable,
    server_builder,
};
use uzram_spec::{Failure, FrontendSpec, Result};

use crate::limits;

/// How long devices may take to say what clients are told of them.
const TERMS: Duration = Duration::from_secs(2);
/// How long a server that is being started anew, or is busy with a change of its device, is waited for.
const RESTART: Duration = Duration::from_secs(5);
/// How often it is asked again meanwhile.
const AGAIN: Duration = Duration::from_millis(10);

/// The options of such a server, which `spec` of [`NbdExports::start`] may have.
pub const OPTIONS: &[FrontendOption] = EXPORTS_OPTIONS;

/// A server of this process whose exports are devices. It ends when this is dropped; clients that are not encrypted stay with
/// their devices.
pub struct NbdExports {
    server: RunningServer,
    names: Vec<String>,
}

impl NbdExports {
    /// Listens where `spec` says, and offers devices of the run directory: pairs of an export's name and a device's. Each has to
    /// be there now, and to have clients that can be given to it.
    pub fn start(
        spec: &FrontendSpec,
        run: RunDir,
        exports: Vec<(String, String)>,
    ) -> Result<NbdExports> {
        NbdFrontend.check(spec)?;
        let listen = spec.text(uzram_frontend::LISTEN.name).unwrap_or_default();
        let listen = listen.parse()?;
        limits::raise_files();
        let (names, devices): (Vec<_>, Vec<_>) = exports.into_iter().unzip();
        let directory = DeviceExports::new(run, devices)?;
        let server = server_builder(spec)
            .directory(
                names.clone(),
                Arc::new(directory),
                spec.flag(READ_ONLY.name),
            )
            .bind(&listen)?
            .start()?;
        Ok(NbdExports { server, names })
    }

    /// The URIs of the exports, in their order.
    pub fn uris(&self) -> Vec<String> {
        let uri = |name: &String| self.server.uri(name);
        self.names.iter().map(uri).collect()
    }

    /// Ends it. Encrypted clients are answered what they have asked.
    pub fn stop(self) -> Result {
        Ok(self.server.shutdown()?)
    }
}

/// These devices.
struct DeviceExports {
    run: RunDir,
    devices: Vec<String>,
}

impl DeviceExports {
    fn new(run: RunDir, devices: Vec<String>) -> Result<DeviceExports> {
        let exports = DeviceExports { run, devices };
        for name in &exports.devices {
            let entry = exports.run.find(name)?;
            if entry.record.frontend != FRONTEND {
                let message = format!(
                    "{name} is served by {}, and only a device with a socket of NBD can be an export",
                    entry.record.frontend
                );
                return Err(Failure::impossible(message)
                    .with_hint(format!("with --frontend {FRONTEND} when it is created")));
            }
        }
        let all: Vec<usize> = (0..exports.devices.len()).collect();
        for (name, terms) in exports.devices.iter().zip(exports.terms(&all)) {
            if let Err(why) = terms {
                return Err(Failure::impossible(format!("{name}: {}", why.reason())));
            }
        }
        Ok(exports)
    }

    fn find(&self, export: usize) -> std::result::Result<RunningDevice, Unavailable> {
        let name = &self.devices[export];
        let found = self.run.find(name);
        found.map_err(|_| Unavailable::Gone(format!("{name} is not there")))
    }
}

impl ExportDirectory for DeviceExports {
    fn terms(&self, exports: &[usize]) -> Vec<std::result::Result<String, Unavailable>> {
        let found: Vec<_> = exports.iter().map(|export| self.find(*export)).collect();
        let there = found.iter().flatten();
        let devices: Vec<_> = there
            .map(|entry| (entry.socket(), entry.record.identity.clone()))
            .collect();
        let deadline = Deadline {
            silence: TERMS,
            whole: Some(TERMS),
            restart: true,
        };
        let mut answers = call_devices(&devices, &Request::ClientTerms, deadline).into_iter();
        let mut answer = |entry: RunningDevice| match answers.next() {
            Some(Ok(Response::ClientTerms { terms })) => Ok(terms),
            Some(Ok(Response::Error(error))) => Err(Unavailable::Refused(error.message)),
            _ => Err(Unavailable::Gone(format!(
                "the server of {} does not answer",
                entry.record.name
            ))),
        };
        found
            .into_iter()
            .map(|found| found.and_then(&mut answer))
            .collect()
    }

    fn give(
        &self,
        export: usize,
        client: BorrowedFd<'_>,
        agreed: &str,
    ) -> std::result::Result<(), Unavailable> {
        let agreed = agreed.to_owned();
        let request = Request::TakeClient { agreed };
        let begin = Instant::now();
        loop {
            let entry = self.find(export)?;
            let name = &entry.record.name;
            let identity = &entry.record.identity;
            let why = match call_with_files(&entry.socket(), identity, &request, &[client]) {
                Ok(Response::Done) => {
                    tracing::debug!(device = name, "a client was given to its server");
                    return Ok(());
                }
                Ok(Response::Error(error)) if !is_for_now(error.errno) => {
                    return Err(Unavailable::Refused(error.message));
                }
                Ok(Response::Error(error)) => Unavailable::Refused(error.message),
                Ok(_) => return Err(Unavailable::Lost(format!("{name} answers something else"))),
                Err(error) if nobody_listens(&error) => {
                    Unavailable::Gone(format!("{name} has no server"))
                }
                // It may have the client, and may have answered it.
                Err(error) => {
                    return Err(Unavailable::Lost(format!("the server of {name}: {error}")));
                }
            };
            if begin.elapsed() >= RESTART || entry.is_dead() {
                return Err(why);
            }
            std::thread::sleep(AGAIN);
        }
    }
}

/// Whether a refusal is one of this moment: EAGAIN, EBUSY.
fn is_for_now(errno: i32) -> bool {
    [11, 16].contains(&errno)
}

/// Whether the request has reached nobody: there was no server, or it died before it had read it, which the system tells from
/// one that died later.
fn nobody_listens(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        ErrorKind::ConnectionRefused
            | ErrorKind::NotFound
            | ErrorKind::ConnectionReset
            | ErrorKind::BrokenPipe
    )
}
