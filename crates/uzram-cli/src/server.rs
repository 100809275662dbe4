//! The process behind a device: owns it, its frontend and its control socket, until it is told to go.
//!
//! In the background it is started by the device's keeper, which holds the memory and the lock: the server attaches to
//! what is there, or makes it. Should the keeper die, the server starts another.

use std::ffi::OsString;
use std::fs::OpenOptions;
use std::io::Write;
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::sync::mpsc::{Sender, channel};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use rustix::process::Signal;
use uzram::{Agent, Device};
use uzram_control::{
    Claim, ControlError, ControlServer, Handler, KEEPER_SOCKET, Record, Request, Response, RunDir,
    SERVER_SOCKET,
};

use crate::commands::create;
use crate::exit::{Failure, Result};
use crate::frontends::{self, Context, Front, Kind};
use crate::logging::LogPipe;
use crate::process::{leave_terminal, pidfd, take_name, wait_for_end, when_told_to_end};
use crate::{keeper, logging, memory, standby, swap, watermark};

/// How long a predecessor may take to die.
const PATIENCE: Duration = Duration::from_secs(20);

/// Serve a device whose memory a keeper holds
#[derive(clap::Args)]
pub(crate) struct Args {
    /// The device's directory
    #[arg(long)]
    dir: PathBuf,
    /// Descriptor of the image
    #[arg(long)]
    image: i32,
    /// Process number of the keeper
    #[arg(long)]
    keeper: u32,
    /// The device is there already and is to be served again
    #[arg(long)]
    resume: bool,
    /// Wait to be needed
    #[arg(long, requires = "resume")]
    standby: bool,
    /// Descriptors of the pipe to log to
    #[arg(long)]
    log_pipe: Option<LogPipe>,
    /// The command line that asked for the device
    #[arg(last = true)]
    command: Vec<OsString>,
}

/// What ends a server.
enum Event {
    Signal,
    Removed,
    HandOver,
}

struct Served {
    device: Arc<Device>,
    front: Mutex<Box<dyn Front>>,
    /// How long it looks for the next request; `None` where the frontend has no such setting.
    poll: Option<Duration>,
    events: Mutex<Sender<Event>>,
}

/// The rest of what a server needs to know of itself.
struct Place<'a> {
    claim: &'a Claim,
    kind: &'static Kind,
    /// Whether to serve again what is there already.
    resume: bool,
    /// What the record said of it.
    record: Option<Record>,
    /// The keeper's process number, 0 for none.
    keeper: u32,
}

/// Serves from this process, with memory of its own.
pub(crate) fn run_in_foreground(create: &create::Args, run: &RunDir, log: &str) -> Result {
    let (kind, why) = create.frontend()?;
    // Settings that are impossible are found before anything is made.
    let device = Arc::new(create.builder()?.build()?);
    let claim = run.claim(create.name())?;
    say_why(kind, why);
    logging::to_stderr(log)?;
    let place = Place {
        claim: &claim,
        kind,
        resume: false,
        record: None,
        keeper: 0,
    };
    let result = serve(&place, create, &device, |_| Ok(()));
    let released = claim.release();
    result.and(released.map_err(Failure::from))
}

fn say_why(kind: &Kind, why: Option<String>) {
    if let Some(why) = why {
        eprintln!("uzram: frontend {}: {why}", kind.name);
    }
}

impl Args {
    pub(crate) fn run(self) -> Result {
        take_name();
        let (create, log) = crate::parse_create(&self.command)?;
        let claim = Claim::adopt(&self.dir)?;
        let mut record = claim.record().filter(|_| self.resume);
        if create.is_swap() {
            swap::prepare();
        }
        if self.standby {
            standby::wait(|| record = claim.record())?;
            if let Some(record) = &record {
                frontends::wait_for_death(&claim.dir, &record.resume);
            }
            swap::lock();
        }
        let known = record.as_ref();
        let (kind, why) = match known.and_then(|record| frontends::by_name(&record.frontend)) {
            Some(kind) => (kind, None),
            None => create.frontend()?,
        };
        let device = Arc::new(self.device(&create)?);
        say_why(kind, why);
        match self.log_pipe {
            Some(pipe) => logging::to_pipe(&log, pipe)?,
            None => logging::to_file(&log, logging::open(&claim.file("log"))?)?,
        }
        let place = Place {
            claim: &claim,
            kind,
            resume: self.resume,
            record,
            keeper: self.keeper,
        };
        serve(&place, &create, &device, |place| {
            leave_terminal()?;
            self.watch_keeper(place);
            Ok(())
        })
    }

    /// The device in the keeper's memory, made or as a predecessor left it.
    fn device(&self, create: &create::Args) -> Result<Device> {
        let begin = Instant::now();
        loop {
            let path = format!("/proc/self/fd/{}", self.image);
            let image = OpenOptions::new().read(true).write(true).open(path)?;
            let result = if self.resume {
                // The image says what was set since the device was made.
                create.resumer().attach(image.into())
            } else {
                create.builder()?.build_in(image.into())
            };
            match result {
                // The last of a killed process's threads may still be on its way out.
                Err(uzram::Error::InUse) if begin.elapsed() < PATIENCE => {
                    std::thread::sleep(Duration::from_millis(1));
                }
                other => return Ok(other?),
            }
        }
    }

    /// Starts another keeper whenever the keeper dies.
    fn watch_keeper(&self, place: &Place<'_>) {
        let claim = Claim::adopt(&place.claim.dir);
        let adopt = keeper::Args {
            dir: Some(self.dir.clone()),
            image: Some(self.image),
            server: Some(std::process::id()),
            hand_over: false,
            rollback: None,
            log_pipe: self.log_pipe,
            command: self.command.clone(),
        };
        let (first, resume) = (self.keeper, self.resume);
        let watch = move || {
            if let Some(end) = pidfd(first) {
                wait_for_end(&end);
            }
            let Ok(claim) = claim else { return };
            if !resume && !claim.file(KEEPER_SOCKET).exists() {
                tracing::warn!("the keeper died before it told anybody of the device");
                let _ = rustix::process::kill_process(rustix::process::getpid(), Signal::TERM);
                return;
            }
            loop {
                if claim.is_released() {
                    return;
                }
                tracing::warn!("the keeper died: starting another");
                let started = Command::new("/proc/self/exe")
                    .arg0("uzram")
                    .args(adopt.arguments())
                    .stdin(Stdio::null())
                    .stdout(Stdio::null())
                    .stderr(Stdio::null())
                    .spawn();
                match started {
                    Ok(mut keeper) => {
                        if let Some(record) = claim.record() {
                            let keeper = keeper.id();
                            let _ = claim.publish(&Record { keeper, ..record });
                        }
                        let _ = keeper.wait();
                    }
                    Err(error) => tracing::error!(%error, "cannot start a keeper"),
                }
                // A keeper that cannot live must not take a CPU.
                std::thread::sleep(Duration::from_millis(100));
            }
        };
        let thread = std::thread::Builder::new().name("keeper-watch".into());
        if let Err(error) = thread.spawn(watch) {
            tracing::error!(%error, "nobody watches the keeper");
        }
    }
}

fn serve(
    place: &Place<'_>,
    create: &create::Args,
    device: &Arc<Device>,
    ready: impl FnOnce(&Place<'_>) -> Result,
) -> Result {
    // From here on signals become events, so that none can end the process with a mount left behind.
    let (events, inbox) = channel();
    let from_signals = events.clone();
    when_told_to_end(move || {
        let _ = from_signals.send(Event::Signal);
    })?;

    let claim = place.claim;
    if create.is_swap() {
        swap::keep_stock(device)?;
    }
    let context = Context {
        device,
        swap: create.is_swap(),
        claim,
        settings: &create.settings,
    };
    let front = match &place.record {
        Some(record) => place.kind.resume(&context, &record.resume)?,
        _ => place.kind.start(&context)?,
    };
    if create.is_swap() {
        // What comes now can wait for what the device makes free.
        swap::become_normal();
    }
    // Dropped, it ends.
    let _agent = start_agent(device);
    let path = front.path();
    let record = Record {
        version: 1,
        name: claim.name.clone(),
        pid: std::process::id(),
        frontend: place.kind.name.into(),
        path: path.clone(),
        program: env!("CARGO_PKG_VERSION").into(),
        keeper: place.keeper,
        resume: front.resume(),
    };
    let served = Arc::new(Served {
        device: device.clone(),
        front: Mutex::new(front),
        poll: create.settings.poll_of(place.kind),
        events: Mutex::new(events),
    });
    let announced = announce(&record, place, &served).and_then(|()| ready(place));
    if let Err(failure) = announced {
        // What was there before stays for the next server.
        if !place.resume {
            let _ = served.remove();
        }
        return Err(failure);
    }
    let (name, algorithm) = (&claim.name, device.driver());
    let attached = device.attached_count();
    tracing::info!(name, path, algorithm, attached, "serving");
    for event in inbox {
        match event {
            Event::Removed => break,
            Event::Signal => match served.remove() {
                Ok(()) => break,
                Err(failure) => tracing::warn!("told to end, but {failure}"),
            },
            Event::HandOver => {
                tracing::info!(name, "handing over");
                served.front().hand_over();
                std::process::exit(0);
            }
        }
    }
    tracing::info!(name, "removed");
    watermark::give_back(&claim.dir);
    if place.keeper != 0 {
        claim.release()?;
    }
    Ok(())
}

/// Starts what carries out the device's policies. A device serves without it, too.
fn start_agent(device: &Arc<Device>) -> Option<Agent> {
    let agent = Agent::start_with(device.clone(), |text| tracing::info!("{text}"));
    agent
        .inspect_err(|error| tracing::error!(%error, "no policy is carried out"))
        .ok()
}

/// Tells the world that the device is there: control socket, record, and its path on stdout.
fn announce(record: &Record, place: &Place<'_>, served: &Arc<Served>) -> Result {
    ControlServer::start(&place.claim.file(SERVER_SOCKET), served.clone())?;
    place.claim.publish(record)?;
    let mut stdout = std::io::stdout().lock();
    match writeln!(stdout, "{}", record.path).and_then(|()| stdout.flush()) {
        // Who started us may be gone, interrupted: then nobody would know of a new device. An old one is known.
        Err(error) if !place.resume => Err(error.into()),
        _ => Ok(()),
    }
}

impl Served {
    fn front(&self) -> MutexGuard<'_, Box<dyn Front>> {
        self.front.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn remove(&self) -> Result {
        self.front().remove()
    }
}

impl Handler for Served {
    fn handle(&self, request: Request) -> std::result::Result<Response, ControlError> {
        let refused = |failure: Failure| ControlError {
            errno: if failure.is_busy() { 16 } else { 5 },
            message: failure.to_string(),
        };
        match request {
            Request::HandOver => {}
            Request::Reset => {
                // As the kernel's: not under anybody's feet.
                let front = self.front();
                let _held = front.hold_idle().map_err(refused)?;
                return memory::handle(&self.device, &request);
            }
            Request::Remove => self.remove().map_err(refused)?,
            Request::Resize { .. } => {
                let mut front = self.front();
                front.can_resize().map_err(refused)?;
                memory::handle(&self.device, &request)?;
                front.resized().map_err(refused)?;
            }
            Request::Stat => {
                let mut answer = memory::handle(&self.device, &request)?;
                if let Response::Stat(stat) = &mut answer {
                    let micros = |poll: Duration| poll.as_micros() as u64;
                    stat.poll_microseconds = self.poll.map(micros);
                }
                return Ok(answer);
            }
            other => return memory::handle(&self.device, &other),
        }
        Ok(Response::Done)
    }

    fn answered(&self, request: &Request, done: bool) {
        let event = match request {
            Request::Remove if done => Event::Removed,
            Request::HandOver if done => Event::HandOver,
            _ => return,
        };
        let events = self.events.lock().unwrap_or_else(PoisonError::into_inner);
        let _ = events.send(event);
    }
}
