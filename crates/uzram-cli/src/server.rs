//! The process behind a device: owns it, its frontend and its control socket, until it is told to go.

use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;
use std::sync::mpsc::{Sender, channel};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use signal_hook::consts::{SIGINT, SIGTERM};
use uzram::Device;
use uzram_control::stat::Stat;
use uzram_control::{
    Claim, ControlError, ControlServer, Handler, Record, Request, Response, RunDir,
};

use crate::exit::{Failure, Result};
use crate::frontend::{Choice, Frontend};
use crate::logging;

/// What a server is to serve.
pub(crate) struct Plan {
    pub(crate) name: Option<String>,
    pub(crate) device: uzram::Builder,
    pub(crate) frontend: Choice,
    /// Why `auto` chose it.
    pub(crate) why: Option<String>,
    pub(crate) listen: Option<uzram_nbd::Listen>,
    pub(crate) allow_remote: bool,
    pub(crate) background: bool,
}

/// What ends a server.
enum Event {
    Signal,
    Removed,
}

struct Served {
    device: Arc<Device>,
    frontend: Mutex<Frontend>,
    events: Mutex<Sender<Event>>,
}

/// Makes the device, prints its path, serves until it is removed.
pub(crate) fn run(plan: Plan, run: &RunDir, log: &str) -> Result {
    // Settings that are impossible are found before anything is made.
    let device = Arc::new(plan.device.clone().build()?);
    let claim = run.claim(plan.name.as_deref())?;
    if let Some(why) = &plan.why {
        eprintln!("uzram: frontend {}: {why}", plan.frontend.name());
    }
    if plan.background {
        // Whatever directory this was started from may be unmounted.
        std::env::set_current_dir("/")?;
    }
    let result = serve(&plan, &device, &claim, log);
    let released = claim.release();
    result.and(released.map_err(Failure::from))
}

fn serve(plan: &Plan, device: &Arc<Device>, claim: &Claim, log: &str) -> Result {
    if plan.background {
        let path = claim.file("log");
        let options = std::fs::OpenOptions::new()
            .create(true)
            .append(true)
            .mode(0o600)
            .to_owned();
        logging::to_file(log, options.open(path)?)?;
    } else {
        logging::to_stderr(log)?;
    }
    // From here on signals become events, so that none can end the process with a mount left behind.
    let (events, inbox) = channel();
    let mut signals = signal_hook::iterator::Signals::new([SIGINT, SIGTERM])?;
    let from_signals = events.clone();
    std::thread::Builder::new()
        .name("signals".into())
        .spawn(move || {
            for _ in signals.forever() {
                let _ = from_signals.send(Event::Signal);
            }
        })?;

    let listen = plan.listen.clone();
    let frontend = Frontend::start(plan.frontend, device, claim, listen, plan.allow_remote)?;
    let path = frontend.path();
    let served = Arc::new(Served {
        device: device.clone(),
        frontend: Mutex::new(frontend),
        events: Mutex::new(events),
    });
    let announced = announce(plan, claim, &path, &served);
    if announced.is_ok() {
        tracing::info!(
            name = claim.name,
            path,
            algorithm = device.driver(),
            "serving"
        );
        for event in inbox {
            match event {
                Event::Removed => break,
                Event::Signal => match served.remove() {
                    Ok(()) => break,
                    Err(failure) => tracing::warn!("told to end, but {failure}"),
                },
            }
        }
        tracing::info!(name = claim.name, "removed");
        return Ok(());
    }
    let _ = served.remove();
    announced
}

/// Tells the world that the device is there: control socket, record, and its path on stdout.
fn announce(plan: &Plan, claim: &Claim, path: &str, served: &Arc<Served>) -> Result {
    ControlServer::start(&claim.file("control.sock"), served.clone())?;
    claim.publish(&Record {
        version: 1,
        name: claim.name.clone(),
        pid: std::process::id(),
        frontend: plan.frontend.name().into(),
        path: path.into(),
        program: env!("CARGO_PKG_VERSION").into(),
    })?;
    // Who started us may be gone, interrupted: then nobody would know of the device.
    let mut stdout = std::io::stdout().lock();
    writeln!(stdout, "{path}").and_then(|()| stdout.flush())?;
    if plan.background {
        let null = std::fs::OpenOptions::new()
            .read(true)
            .write(true)
            .open("/dev/null")?;
        let to_null = rustix::stdio::dup2_stdin(&null)
            .and_then(|()| rustix::stdio::dup2_stdout(&null))
            .and_then(|()| rustix::stdio::dup2_stderr(&null));
        to_null.map_err(std::io::Error::from)?;
    }
    Ok(())
}

impl Served {
    fn frontend(&self) -> MutexGuard<'_, Frontend> {
        self.frontend.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn remove(&self) -> Result {
        self.frontend().remove()
    }
}

impl Handler for Served {
    fn handle(&self, request: Request) -> std::result::Result<Response, ControlError> {
        let refused = |failure: Failure| ControlError {
            errno: if failure.is_busy() { 16 } else { 5 },
            message: failure.to_string(),
        };
        match request {
            Request::Ping => {}
            Request::Stat => return Ok(Response::Stat(Box::new(Stat::of(&self.device)))),
            Request::Reset => {
                // As the kernel's: not under anybody's feet.
                let frontend = self.frontend();
                let _held = frontend.hold_idle().map_err(refused)?;
                self.device.reset();
            }
            Request::Remove => self.remove().map_err(refused)?,
            Request::SetMemLimit { bytes } => self.device.set_mem_limit_bytes(bytes),
            other => {
                let message = format!("this server does not know {other:?}");
                return Err(ControlError { errno: 22, message });
            }
        }
        Ok(Response::Done)
    }

    fn answered(&self, request: &Request, done: bool) {
        if done && *request == Request::Remove {
            let events = self.events.lock().unwrap_or_else(PoisonError::into_inner);
            let _ = events.send(Event::Removed);
        }
    }
}
