//! Devices of this user's run directory as the exports of one NBD server: it negotiates with a client, and gives it to the server
//! of the device that it asks for.
//!
//! A device is looked up by its name for each client, so one that was removed, made anew or upgraded meanwhile is the one that is
//! there now. Devices are asked together, and each client waits on a thread of its own: none waits for a device that it did not
//! ask for, but the list of all, which leaves out those that do not answer in time.
//!
//! A device that requires TLS of its clients is offered to clients with TLS alone: its server compares what this one says of them.

use std::collections::BTreeMap;
use std::io::{self, ErrorKind};
use std::os::fd::BorrowedFd;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use uzram_control::{
    Deadline, Request, Response, RunDir, RunningDevice, call_devices, call_with_files,
};
use uzram_frontend::{Frontend, FrontendOption, LISTEN, OptionKind, READ_ONLY};
use uzram_nbd::{
    EXPORTS_OPTIONS, ExportDirectory, FRONTEND, NbdFrontend, RunningServer, Unavailable,
    server_builder,
};
use uzram_spec::{Failure, FrontendSpec, OptionValue, Result};

use crate::{limits, process};

/// How long devices may take to say what clients are told of them.
const TERMS: Duration = Duration::from_secs(2);
/// How long a server that is being started anew, or is busy with a change of its device, is waited for.
const RESTART: Duration = Duration::from_secs(5);
/// How often it is asked again meanwhile.
const AGAIN: Duration = Duration::from_millis(10);

/// The options of such a server, which `spec` of [`NbdExports::start`] may have.
pub const OPTIONS: &[FrontendOption] = EXPORTS_OPTIONS;

/// Such a server, as it is asked for.
#[derive(Debug, Clone, PartialEq)]
pub struct NbdExportsSpec {
    /// Where it listens, and for whom: of [`OPTIONS`].
    pub server: FrontendSpec,
    /// Its exports, each with the name of the device. The first is also the one without a name.
    pub exports: Vec<(String, String)>,
}

/// Reads the name of an export and that of a device, which is the last word of `[NAME=]DEVICE`: it has no equals sign.
pub fn parse_export(text: &str) -> std::result::Result<(String, String), String> {
    let (name, device) = text.rsplit_once('=').unwrap_or((text, text));
    export(name, device)
}

/// An export of that name and a device.
pub fn export(name: &str, device: &str) -> std::result::Result<(String, String), String> {
    if name.chars().any(char::is_control) {
        return Err("a name has no control characters".into());
    }
    match name.is_empty() || device.is_empty() {
        true => Err("give NAME=DEVICE or DEVICE, such as builds=zram0".into()),
        false => Ok((name.into(), device.into())),
    }
}

impl NbdExportsSpec {
    /// Of options that [`OPTIONS`] have, `listen` among them.
    pub fn new(
        options: BTreeMap<String, OptionValue>,
        exports: Vec<(String, String)>,
    ) -> NbdExportsSpec {
        let kind = FRONTEND.into();
        NbdExportsSpec {
            server: FrontendSpec { kind, options },
            exports,
        }
    }

    /// Where it listens.
    pub fn listen(&self) -> &str {
        self.server.text(LISTEN.name).unwrap_or_default()
    }

    /// Why no client could have a device that is served by the frontend `nbd` with these options; `None`: some can.
    pub fn lacks_for(&self, device: &FrontendSpec) -> Option<String> {
        uzram_nbd::lacking_tls(&self.server, device)
    }

    /// All that is wrong with it by itself, where each option is possible. The certificates are read for that.
    pub fn faults(&self) -> Vec<Failure> {
        let names: Vec<&str> = self.exports.iter().map(|(name, _)| name.as_str()).collect();
        let mut faults = uzram_nbd::faults(&self.server);
        faults.extend(uzram_nbd::check_names(&names).err().map(Failure::from));
        faults
    }

    /// The program as a process that is such a server. It ends when its stdin does, and begins also without devices that are not
    /// there. It prints the URIs when clients can connect.
    pub fn process(&self, log: &str) -> Command {
        let mut command = Command::new(process::program());
        command.arg0("uzram");
        command.args(["--log", log, "nbd", "--for-daemon"]);
        for option in OPTIONS {
            let name = format!("--{}", option.name);
            match (self.server.options.get(option.name), option.kind) {
                (Some(OptionValue::Flag(true)), OptionKind::Flag) => {
                    command.arg(name);
                }
                (Some(OptionValue::Integer(number)), _) => {
                    command.arg(format!("{name}={number}"));
                }
                (Some(OptionValue::Text(text)), _) => {
                    command.arg(format!("{name}={text}"));
                }
                _ => {}
            }
        }
        for (name, device) in &self.exports {
            command.arg(format!("--export={name}={device}"));
        }
        // An interrupt on the terminal is for whoever started it, who ends it then.
        command.current_dir(Path::new("/")).process_group(0);
        command.stdin(Stdio::piped()).stdout(Stdio::piped());
        command
    }
}

/// A server of this process whose exports are devices. It ends when this is dropped; clients that are not encrypted stay with
/// their devices.
pub struct NbdExports {
    server: RunningServer,
    names: Vec<String>,
}

impl NbdExports {
    /// Listens where `wanted` says, and offers devices of the run directory. Each has to be there now, and to have clients that can
    /// be given to it; with `or_later` that is only logged, and those that can be had are offered.
    pub fn start(wanted: NbdExportsSpec, run: RunDir, or_later: bool) -> Result<NbdExports> {
        let spec = &wanted.server;
        NbdFrontend.check(spec)?;
        let listen = wanted.listen().parse()?;
        limits::raise_files();
        let (names, devices): (Vec<_>, Vec<_>) = wanted.exports.into_iter().unzip();
        let directory = Arc::new(DeviceExports { run, devices });
        let read_only = spec.flag(READ_ONLY.name);
        let builder = server_builder(spec).directory(names.clone(), directory.clone(), read_only);
        if !or_later {
            directory.check()?;
        }
        for (name, why) in builder.unavailable() {
            let message = format!("export {name}: {}", why.reason());
            match or_later {
                true => tracing::warn!("{message}: it is not offered now"),
                false => return Err(Failure::impossible(message)),
            }
        }
        let server = builder.bind(&listen)?.start()?;
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

/// Refuses a device whose clients cannot be given to its server.
pub fn check_frontend(name: &str, frontend: &str) -> Result {
    if frontend == FRONTEND {
        return Ok(());
    }
    let message = format!(
        "{name} is served by {frontend}, and only a device with a socket of NBD can be an export"
    );
    let hint = format!("with --frontend {FRONTEND} when it is created");
    Err(Failure::impossible(message).with_hint(hint))
}

/// These devices.
struct DeviceExports {
    run: RunDir,
    devices: Vec<String>,
}

impl DeviceExports {
    /// Refuses one that is not there, or that cannot be offered, as far as its record says.
    fn check(&self) -> Result {
        for name in &self.devices {
            let entry = self.run.find(name)?;
            check_frontend(name, &entry.record.frontend)?;
        }
        Ok(())
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
