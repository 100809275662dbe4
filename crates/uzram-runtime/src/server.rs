//! The process behind a device: owns it, its frontend and its control socket, until it is told to go.
//!
//! In the background it is started by the device's keeper, which holds the memory and the lock: the server attaches to
//! what is there, or makes it. Should the keeper die, the server starts another.

use std::collections::BTreeMap;
use std::fs::OpenOptions;
use std::ops::ControlFlow;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, TryLockError};
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec};
use rustix::process::Signal;
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};
use uzram::{Access, Agent, CutOptions, Device, Fetchers};
use uzram_blockdev::delete_partitions;
use uzram_control::{
    Claim, ControlError, ControlServer, DeviceRecord, Handler, KEEPER_SOCKET, Request, Response,
    RunDir, SERVER_SOCKET,
};
use uzram_frontend::{Front, Frontend, Serving};
use uzram_spec::{BackingSpec, Bytes, DeviceSpec, Failure, OptionValue, Result};

use crate::clone::{CloneSource, ClonedFrom};
use crate::cold::{self, ColdDevice, ColdOpener};
use crate::contents::OpenedSnapshot;
use crate::handover::{self, Message, MessageKind, SentPages};
use crate::logging::Journal;
use crate::process::{keep_private, leave_terminal, pidfd, take_name, wait_for_end, when_told};
use crate::report::StartReport;
use crate::snapshot_source::OpenSource;
use crate::state::{KeeperState, ServerState};
use crate::trace::Tracing;
use crate::{
    description, frontends, limits, logging, make, note, privileges, process, report, requests,
    snapshot, standby, swap, swap_watch, watermark,
};

/// How long a predecessor may take to die.
const PATIENCE: Duration = Duration::from_secs(20);

/// What ends a server.
enum ServerEvent {
    Signal,
    Removed,
    HandOver,
}

struct Served {
    device: Arc<Device>,
    /// The device's directory.
    dir: PathBuf,
    front: Mutex<Box<dyn Front>>,
    /// How long it looks for the next request; `None` where the frontend has no such setting.
    poll: Option<Duration>,
    /// The frontend's options.
    options: BTreeMap<String, OptionValue>,
    /// How requests reach it; `None` where the frontend has only one way.
    transport: Option<&'static str>,
    /// The device's name and identity.
    name: String,
    identity: String,
    /// Whether files of other users are allowed.
    allow_foreign_files: bool,
    /// Whether a request that waits holds up no other.
    can_wait: bool,
    /// What its frontend opened outside of the device's directory, and the next server's will open.
    opened: Vec<Opened>,
    events: Mutex<Sender<ServerEvent>>,
    /// Of a device that another host hands over: what that is known by.
    sent_id: Option<String>,
    /// Where what is missing of it comes from.
    sent: Option<Arc<SentPages>>,
    /// What it is known by that this device is being handed over, or was.
    handing_over: Mutex<Option<String>>,
}

/// A file that a frontend's options name.
struct Opened {
    path: PathBuf,
    /// Whether it is one with contents, and no socket, which is made anew.
    is_regular: bool,
}

impl Opened {
    fn new(path: PathBuf) -> Opened {
        let is_regular = path.is_file();
        Opened { path, is_regular }
    }

    /// Why another server could not open it, in words.
    fn is_missing(&self) -> Option<String> {
        let shown = self.path.display();
        match self.path.parent().filter(|parent| !parent.is_dir()) {
            Some(parent) => Some(format!(
                "{shown}: there is no directory {}",
                parent.display()
            )),
            None if self.path.is_dir() => Some(format!("{shown} is a directory")),
            None if self.is_regular && !self.path.exists() => Some(format!("{shown} is gone")),
            None => None,
        }
    }
}

/// The device that a server serves, beside its memory.
struct Placed<'a> {
    claim: &'a Claim,
    spec: &'a DeviceSpec,
    frontend: &'static dyn Frontend,
    /// Whether to serve again what is there already.
    resume: bool,
    /// What the record said of it.
    record: Option<DeviceRecord>,
    /// The keeper's process number, 0 for none.
    keeper: u32,
}

/// Serves a new device from this process, with memory of its own and no keeper, until interrupted or removed. `print` is
/// told the device's path once it works.
pub fn run_in_foreground(
    spec: &DeviceSpec,
    run: &RunDir,
    print: impl FnOnce(&str) -> std::io::Result<()>,
) -> Result {
    let mut spec = spec.clone();
    limits::raise_files();
    spec.identity.clear();
    make::complete(&mut spec)?;
    let frontend = frontend_of(&spec.frontend.kind)?;
    run.make()?;
    // Before there is another thread.
    privileges::give_up(frontend, &spec, &run.path()?);
    // Before the device has a directory: from here on no signal ends the process and leaves something behind. The terminal
    // may go, and the device goes with it.
    let events = events_of_signals(&[SIGINT, SIGTERM, SIGHUP])?;
    // Settings that are impossible are found before anything else is made.
    let source = spec.from.as_ref().map(OpenSource::open);
    let contents = source.transpose()?.map(OpenedSnapshot::read).transpose()?;
    let mut builder = make::builder(&spec, None)?;
    if let Some(contents) = &contents {
        builder = contents.known.choose(builder);
    }
    let mut device = builder.build()?;
    let clone = match contents {
        Some(contents) => contents.install(&mut device, &mut || match events.1.try_recv() {
            Ok(_) => Err(Failure::failed("interrupted: nothing was made")),
            Err(_) => Ok(()),
        })?,
        None => None,
    };
    let device = Arc::new(device);
    let claim = run.claim(spec.name.as_deref())?;
    spec.name = Some(claim.name.clone());
    if let Err(failure) = attach_remote(&device, &spec, &claim.dir) {
        let _ = claim.release();
        return Err(failure);
    }
    logging::to_stderr(&spec.log)?;
    let placed = Placed {
        claim: &claim,
        spec: &spec,
        frontend,
        resume: false,
        record: None,
        keeper: 0,
    };
    let result = serve_device(&placed, &device, clone, events, |_, path| Ok(print(path)?));
    let released = claim.release();
    result.and(released.map_err(Failure::from))
}

fn cold_device(spec: &DeviceSpec, dir: &Path) -> ColdDevice {
    ColdDevice {
        dir: dir.into(),
        name: spec.name.clone().unwrap_or_default(),
        identity: spec.identity.clone(),
    }
}

/// Gives a new device its backing, where that is in a remote.
fn attach_remote(device: &Device, spec: &DeviceSpec, dir: &Path) -> Result {
    match spec.backing.as_ref().filter(|backing| backing.is_remote()) {
        Some(backing) => cold::attach(device, &cold_device(spec, dir), backing),
        None => Ok(()),
    }
}

fn frontend_of(name: &str) -> Result<&'static dyn Frontend> {
    frontends::by_name(name).ok_or_else(|| {
        let message = format!("this program has no frontend '{name}'");
        Failure::impossible(message)
    })
}

/// Runs the server of a device whose memory a keeper holds, until it is told to go. Returns the exit code.
pub fn serve(state: &str) -> u8 {
    take_name();
    note::to_reports();
    let state = process::state::<ServerState>("server", state);
    report::exit_code(state.and_then(ServerState::run))
}

impl ServerState {
    fn run(self) -> Result {
        let spec = description::read(&self.dir, self.spec)?;
        let claim = Claim::adopt(&self.dir)?;
        let mut record = claim.record().filter(|_| self.resume);
        if spec.is_swap() {
            swap::prepare();
        }
        if self.standby {
            standby::wait(|| record = claim.record())?;
        }
        // With the rights of whoever ordered the device.
        let source = match (&self.contents, &spec.from) {
            (Some(contents), _) => Some(OpenSource::open(contents)?),
            // Where it is away, requests wait for it, and nothing else.
            (None, Some(from)) if from.sent.is_some() => None,
            (None, Some(from)) => OpenSource::open(from)
                .inspect_err(|failure| tracing::warn!("the clone's source: {failure}"))
                .ok(),
            (None, None) => None,
        };
        let kind = record.as_ref().map(|record| &record.frontend);
        let frontend = frontend_of(kind.unwrap_or(&spec.frontend.kind))?;
        // Before there is another thread, be it one of the kernel's for a ring.
        privileges::give_up(frontend, &spec, &claim.dir);
        limits::raise_files();
        if self.standby {
            if let Some(record) = &record {
                frontend.wait_for_death(&claim.dir, &record.resume);
            }
            swap::lock();
        }
        let (device, clone) = self.device(&spec, source)?;
        let device = Arc::new(device);
        match self.log_pipe {
            Some(pipe) => logging::to_pipe(&spec.log, pipe)?,
            None => {
                let journal = Journal::open(&claim.file("log"), spec.log_max.0)?;
                logging::to_file(&spec.log, journal)?;
            }
        }
        let placed = Placed {
            claim: &claim,
            spec: &spec,
            frontend,
            resume: self.resume,
            record,
            keeper: self.keeper,
        };
        let events = events_of_signals(&[SIGINT, SIGTERM])?;
        serve_device(&placed, &device, clone, events, |placed, path| {
            let (name, path) = (placed.claim.name.clone(), path.to_owned());
            let reported = StartReport::Ready { name, path }.send();
            // Who started us may be gone, interrupted: then nobody would know of a new device. An old one is known.
            if let Err(error) = reported
                && !placed.resume
            {
                return Err(error.into());
            }
            note::to_log();
            leave_terminal()?;
            self.watch_keeper(placed);
            Ok(())
        })
    }

    /// The device in the keeper's memory, made and filled, or as a predecessor left it; and where a clone's pages are.
    fn device(
        &self,
        spec: &DeviceSpec,
        source: Option<OpenSource>,
    ) -> Result<(Device, Option<ClonedFrom>)> {
        if self.resume {
            let device = self.bare_device(spec, None)?;
            if handover::marked_of(spec, &self.dir).is_some() {
                // It is another host's: before anybody can use it here.
                let mut options = CutOptions::new(None);
                options.freeze = true;
                device.cut(&options)?.hand_over_unread();
            }
            let from = spec.from.as_ref().filter(|_| device.remote_pages() > 0);
            if let Some(from) = from
                && let Some(sent) = &from.sent
            {
                let pages = SentPages::new(from, sent);
                device.set_source(pages.clone(), pages.options());
                return Ok((device, Some(ClonedFrom::Host(pages))));
            }
            let clone = from
                .map(|from| CloneSource::resume(from, source))
                .transpose()?;
            let clone = clone.map(Arc::new);
            if let Some(clone) = &clone {
                device.set_source(clone.clone(), clone.options());
            }
            return Ok((device, clone.map(ClonedFrom::Snapshot)));
        }
        let contents = source.map(OpenedSnapshot::read).transpose()?;
        let mut device = self.bare_device(spec, contents.as_ref())?;
        let clone = match contents {
            Some(contents) => {
                let keeper = pidfd(self.keeper);
                contents.install(&mut device, &mut || self.is_wanted(keeper.as_ref()))?
            }
            None => None,
        };
        attach_remote(&device, spec, &self.dir)?;
        Ok((device, clone))
    }

    /// Whether keeper and whoever ordered the device still wait for it.
    fn is_wanted(&self, keeper: Option<&OwnedFd>) -> Result {
        let stdin = rustix::stdio::stdin();
        let mut fds = vec![PollFd::new(&stdin, PollFlags::empty())];
        fds.extend(keeper.map(|keeper| PollFd::new(keeper, PollFlags::IN)));
        match rustix::event::poll(&mut fds, Some(&Timespec::default())) {
            Ok(1..) => Err(Failure::failed("nobody waits for the device any more")),
            _ => Ok(()),
        }
    }

    fn bare_device(&self, spec: &DeviceSpec, contents: Option<&OpenedSnapshot>) -> Result<Device> {
        let begin = Instant::now();
        loop {
            let path = format!("/proc/self/fd/{}", self.image);
            let image = OpenOptions::new().read(true).write(true).open(path)?;
            // Of a new one the size is compared with the limits where it is ordered.
            limits::check_device(image.metadata()?.len())?;
            let result = if self.resume {
                // The image says what was set since the device was made.
                let opener = ColdOpener(cold_device(spec, &self.dir));
                let resumer = make::resumer(spec).disk_opener(Arc::new(opener));
                resumer.attach(image.into())
            } else {
                let mut builder = make::builder(spec, Some(&self.dir))?;
                if let Some(contents) = contents {
                    builder = contents.known.choose(builder);
                }
                builder.build_in(image.into())
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
    fn watch_keeper(&self, placed: &Placed<'_>) {
        let claim = Claim::adopt(&placed.claim.dir);
        let state = KeeperState {
            dir: self.dir.clone(),
            image: self.image,
            spec: self.spec,
            server: Some(std::process::id()),
            log_pipe: self.log_pipe,
            ..KeeperState::default()
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
                match state.start() {
                    Ok(mut keeper) => {
                        if let Some(record) = claim.record() {
                            let keeper = keeper.id();
                            let _ = claim.publish(&DeviceRecord { keeper, ..record });
                        }
                        let _ = keeper.wait();
                    }
                    Err(error) => tracing::error!(%error, "cannot start a keeper"),
                }
                // A keeper that cannot live must not take a CPU.
                std::thread::sleep(Duration::from_millis(100));
            }
        };
        if let Err(error) = process::spawn("keeper-watch", watch) {
            tracing::error!(%error, "nobody watches the keeper");
        }
    }
}

/// What ends a server.
type Events = (Sender<ServerEvent>, Receiver<ServerEvent>);

/// Makes events of signals, so that none can end the process with a mount left behind.
fn events_of_signals(signals: &[i32]) -> Result<Events> {
    let (events, inbox) = channel();
    let from_signals = events.clone();
    when_told(signals, move |_| {
        let _ = from_signals.send(ServerEvent::Signal);
    })?;
    Ok((events, inbox))
}

/// Serves until the device is removed or handed over. `ready` is called with the device's path once it works.
fn serve_device(
    placed: &Placed<'_>,
    device: &Arc<Device>,
    cloned: Option<ClonedFrom>,
    (events, inbox): Events,
    ready: impl FnOnce(&Placed<'_>, &str) -> Result,
) -> Result {
    let (claim, spec) = (placed.claim, placed.spec);
    if spec.is_swap() {
        swap::keep_stock(device)?;
    }
    // As long as the device is served.
    let _fetchers = fetch(device, placed.resume)?;
    let (clone, sent) = match cloned {
        Some(ClonedFrom::Snapshot(clone)) => (Some(clone), None),
        Some(ClonedFrom::Host(sent)) => (None, Some(sent)),
        None => (None, None),
    };
    // Not held: when all has come, the device lets go of it.
    let source = clone.as_ref().map(Arc::downgrade);
    let traced = clone.filter(|clone| !clone.trace_name().is_empty());
    let tracing = traced
        .map(|clone| Tracing::start(device, &clone))
        .transpose()?;
    let serving = Serving {
        device,
        name: &claim.name,
        dir: &claim.dir,
        spec: &spec.frontend,
        swap: spec.is_swap().then_some(swap::become_normal as fn()),
    };
    let front = match &placed.record {
        Some(record) => placed.frontend.resume(&serving, &record.resume)?,
        _ => placed.frontend.start(&serving)?,
    };
    if spec.is_swap() {
        // What comes now can wait for what the device makes free.
        swap::become_normal();
    }
    keep_private();
    // Dropped, it ends.
    let _agent = start_agent(device);
    for text in front.notes() {
        tracing::info!("{text}");
        note::tell(&text);
    }
    let path = front.path();
    let record = DeviceRecord {
        version: 1,
        name: claim.name.clone(),
        // It stands in a file of its own.
        alias: String::new(),
        pid: std::process::id(),
        frontend: placed.frontend.name().into(),
        path: path.clone(),
        program: env!("CARGO_PKG_VERSION").into(),
        keeper: placed.keeper,
        resume: front.resume_word(),
        identity: spec.identity.clone(),
    };
    let served = Arc::new(Served {
        device: device.clone(),
        dir: claim.dir.clone(),
        transport: front.transport(),
        front: Mutex::new(front),
        poll: placed.frontend.poll(&spec.frontend),
        options: spec.frontend.options.clone(),
        name: claim.name.clone(),
        identity: spec.identity.clone(),
        allow_foreign_files: spec.allow_foreign_files,
        can_wait: placed.frontend.can_wait(),
        opened: {
            let files = placed.frontend.opens(&spec.frontend);
            files.into_iter().map(Opened::new).collect()
        },
        events: Mutex::new(events),
        sent_id: {
            let from = spec.from.as_ref();
            from.and_then(|from| Some(from.sent.as_ref()?.id.clone()))
        },
        sent: sent.clone(),
        handing_over: Mutex::new(handover::marked_of(spec, &claim.dir)),
    });
    let announced = ControlServer::start(&claim.file(SERVER_SOCKET), served.clone())
        .map_err(Failure::from)
        .and_then(|_| Ok(claim.publish(&record)?))
        .and_then(|()| ready(placed, &path));
    if let Err(failure) = announced {
        // What was there before stays for the next server.
        if !placed.resume {
            let _ = served.remove();
        }
        return Err(failure);
    }
    if let Some(sent) = &sent {
        sent.bring_all(device)?;
    }
    if device.is_handed_over() {
        tracing::warn!("the device was handed over: another host has its contents");
    }
    let (name, algorithm) = (&claim.name, device.driver());
    let attached = device.attached_count();
    tracing::info!(name, path, algorithm, attached, "serving");
    if let Some(lost) = device.zram().backing_lost() {
        let pages = device.stats().backed_pages;
        tracing::error!(name, pages, "serving without {lost}");
    }
    if !spec.allow_unsafe_swap {
        swap_watch::start(name, &path, placed.frontend, device);
    }
    for event in inbox {
        match event {
            ServerEvent::Removed => break,
            ServerEvent::Signal => match served.remove() {
                Ok(()) => break,
                Err(failure) => tracing::warn!("told to end, but {failure}"),
            },
            ServerEvent::HandOver => {
                tracing::info!(name, "handing over");
                served.front().hand_over();
                drop(tracing);
                logging::flush();
                std::process::exit(0);
            }
        }
    }
    // Adds what was read, while the source is there.
    drop(tracing);
    if let Some(source) = source.and_then(|source| source.upgrade()) {
        source.say_goodbye();
    }
    tracing::info!(name, "removed");
    watermark::give_back(&claim.dir);
    if placed.keeper != 0 {
        claim.release()?;
    }
    Ok(())
}

/// Starts what fetches the pages of a clone. A new one has its first page then: whoever serves it next can do so without the
/// source.
fn fetch(device: &Arc<Device>, resume: bool) -> Result<Option<Fetchers>> {
    if device.remote_pages() == 0 {
        return Ok(None);
    }
    let fetchers = Fetchers::start(device)?;
    if !resume {
        device.fetch(Access::Read, 0, uzram::PAGE_SIZE as u64)?;
    }
    Ok(Some(fetchers))
}

/// Starts what carries out the device's policies. A device serves without it, too.
fn start_agent(device: &Arc<Device>) -> Option<Agent> {
    let agent = Agent::start_with(device.clone(), |text| tracing::info!("{text}"));
    agent
        .inspect_err(|error| tracing::error!(%error, "no policy is carried out"))
        .ok()
}

impl Served {
    fn front(&self) -> MutexGuard<'_, Box<dyn Front>> {
        self.front.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The frontend, which is not waited for: whoever takes the device down may wait for those who ask for this.
    fn idle_front(&self) -> std::result::Result<MutexGuard<'_, Box<dyn Front>>, ControlError> {
        match self.front.try_lock() {
            Ok(front) => Ok(front),
            Err(TryLockError::Poisoned(front)) => Ok(front.into_inner()),
            Err(TryLockError::WouldBlock) => Err(ControlError {
                errno: 11,
                message: "the device is being changed or taken down".into(),
            }),
        }
    }

    /// Refuses to go where the directory could not: the keeper would take that for a death.
    fn check_directory(&self) -> Result {
        let own = |name: &str| frontends::all().iter().any(|f| f.makes_directory(name));
        let in_the_way = Claim::adopt(&self.dir)?.obstacle(own);
        in_the_way.map_or(Ok(()), |path| {
            let message = format!(
                "{} is in the way: nothing of others is deleted, and nothing has changed",
                path.display()
            );
            Err(Failure::failed(message).with_hint("remove or unmount it first"))
        })
    }

    fn handing_over(&self) -> MutexGuard<'_, Option<String>> {
        self.handing_over
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }

    /// Refuses to give up what another host still needs.
    fn check_not_needed(&self) -> std::result::Result<(), ControlError> {
        if !self.device.is_handed_over() || self.handing_over().is_none() {
            return Ok(());
        }
        let name = &self.name;
        Err(refused(Failure::busy(format!(
            "{name} was handed over, and the other host has not all of it yet: \"uzram send {name} --lazy\" goes on with it, and \"uzram remove {name} --force\" gives up what is missing there"
        ))))
    }

    /// Hands the device over before it is copied, or says again what it is.
    fn send_lazily(
        &self,
        id: &str,
        again: bool,
        socket: OwnedFd,
        is_gone: &dyn Fn() -> bool,
    ) -> std::result::Result<Response, ControlError> {
        let sending = handover::Sending {
            device: &self.device,
            name: &self.name,
            dir: &self.dir,
            id,
        };
        let is_handed_over = self.device.is_handed_over();
        if again {
            self.check_id(id)?;
            sending.repeat(socket, is_gone)?;
            return Ok(Response::Done);
        }
        if is_handed_over {
            return Err(refused(Failure::busy(format!(
                "{} was handed over before",
                self.name
            ))));
        }
        let frozen = || *self.handing_over() = Some(id.into());
        let done = sending.hand_over(socket, frozen, is_gone);
        match &done {
            Ok(()) => tracing::warn!(id, "handed over: another host fetches what it needs"),
            Err(error) => {
                let mut handing_over = self.handing_over();
                if handing_over.as_deref() == Some(id) {
                    *handing_over = None;
                }
                tracing::warn!("not handed over: {error}");
            }
        }
        done.map(|()| Response::Done)
    }

    /// Refuses what is asked of another handing over than the device's.
    fn check_id(&self, id: &str) -> std::result::Result<(), ControlError> {
        match self.handing_over().as_deref() == Some(id) {
            true => Ok(()),
            false => Err(ControlError {
                errno: 22,
                message: format!("{} was not handed over under that name", self.name),
            }),
        }
    }

    /// Takes a connection to the host that has what is missing.
    fn take_frames(
        &self,
        id: &str,
        socket: OwnedFd,
    ) -> std::result::Result<Response, ControlError> {
        if self.sent_id.as_deref() != Some(id) {
            return Err(ControlError {
                errno: 22,
                message: format!(
                    "{} is no device that was handed over under that name",
                    self.name
                ),
            });
        }
        let taken = match &self.sent {
            Some(sent) => {
                tracing::info!(
                    id = sent.id(),
                    "a connection to the host that has what is missing"
                );
                sent.attach(socket)
            }
            // A server of later, when all had come.
            None => {
                let mut socket = std::os::unix::net::UnixStream::from(socket);
                Message::new(MessageKind::AllThere, []).write(&mut socket)
            }
        };
        taken.map_err(|error| refused(error.into()))?;
        Ok(Response::Done)
    }

    /// Goes on with a device whose other side is lost.
    fn take_back(&self) -> std::result::Result<Response, ControlError> {
        if !self.device.is_handed_over() {
            return Err(ControlError {
                errno: 22,
                message: format!("{} was not handed over", self.name),
            });
        }
        let mut handing_over = self.handing_over();
        handover::unmark(&self.dir).map_err(refused)?;
        *handing_over = None;
        self.device.take_back();
        tracing::warn!("taken back: what the other host wrote is lost");
        Ok(Response::Done)
    }

    fn remove(&self) -> Result {
        self.front().remove()?;
        self.retire();
        Ok(())
    }

    /// Refuses where another server could not open what this one has open: it would go, and nobody would take its place.
    fn check_successor(&self) -> Result {
        if let Err(error) = self.device.zram().check_backing() {
            let name = &self.name;
            return Err(Failure::failed(format!(
                "{error}, and another server could not open it: put it back, or give it up (uzram set {name} backing=none)"
            )));
        }
        match self.opened.iter().find_map(Opened::is_missing) {
            Some(missing) => Err(Failure::failed(format!(
                "{missing}, and another server needs it: put it back"
            ))),
            None => Ok(()),
        }
    }

    /// Gives up a backing in a remote. Returns what is left of it there, in words.
    fn retire(&self) -> Option<String> {
        let left = self.device.zram().retire_backing();
        left.inspect(|left| tracing::warn!("the device goes, and {left}"))
    }

    /// Takes a place in a remote as backing.
    fn set_remote_backing(
        &self,
        path: &Path,
        size_bytes: Option<u64>,
        seal: bool,
    ) -> std::result::Result<Response, ControlError> {
        let wrong = |message: String| ControlError { errno: 22, message };
        if !self.can_wait {
            return Err(wrong(
                "the frontend serves the device in a way in which a request that waits for a store would hold up others".into(),
            ));
        }
        let backing = BackingSpec {
            remote: path.to_str().unwrap_or_default().into(),
            size: size_bytes.map(Bytes),
            seal,
            ..BackingSpec::default()
        };
        let spec = DeviceSpec {
            backing: Some(backing),
            name: Some(self.name.clone()),
            identity: self.identity.clone(),
            ..DeviceSpec::default()
        };
        spec.check().map_err(|failure| wrong(failure.to_string()))?;
        self.front().expect_waits().map_err(refused)?;
        attach_remote(&self.device, &spec, &self.dir).map_err(refused)?;
        tracing::info!(?path, "backing taken");
        Ok(Response::Done)
    }

    /// Changes the size. What is in use becomes smaller only by force: the user would lose what lies beyond the new end.
    fn resize(
        &self,
        bytes: u64,
        force: bool,
        request: &Request,
    ) -> std::result::Result<(), ControlError> {
        let mut front = self.front();
        front.can_resize().map_err(refused)?;
        let before = self.device.size_bytes();
        let page = uzram::PAGE_SIZE as u64;
        let smaller = bytes
            .checked_next_multiple_of(page)
            .is_some_and(|b| b < before);
        // Held until the size has changed, so that nobody mounts the device meanwhile.
        let _held = match smaller && !force {
            true => front.hold_idle().map_err(|failure| {
                let why = "what lies beyond the new end would be lost; \"uzram set\" makes it smaller all the same with --force";
                refused(match failure.is_busy() {
                    true => Failure::new(failure.kind, format!("{failure}: {why}")),
                    false => failure,
                })
            })?,
            false => None,
        };
        self.carry_out(request)?;
        if let Err(failure) = front.resized() {
            let force = true;
            let bytes = before;
            let back = Request::Resize { bytes, force };
            let undone = self.carry_out(&back).map(|_| front.resized());
            tracing::warn!(
                ?undone,
                "the new size cannot be told, and the former one is back"
            );
            return Err(refused(failure));
        }
        Ok(())
    }

    fn carry_out(&self, request: &Request) -> std::result::Result<Response, ControlError> {
        self.carry_out_paced(request, &|_| ControlFlow::Continue(()))
    }

    fn carry_out_paced(
        &self,
        request: &Request,
        pace: &dyn Fn(u64) -> ControlFlow<()>,
    ) -> std::result::Result<Response, ControlError> {
        let foreign = self.allow_foreign_files;
        requests::handle(&self.device, &self.dir, foreign, request, pace)
    }
}

fn refused(failure: Failure) -> ControlError {
    ControlError {
        errno: if failure.is_busy() { 16 } else { 5 },
        message: failure.to_string(),
    }
}

impl Handler for Served {
    fn identity(&self) -> &str {
        &self.identity
    }

    fn handle(&self, request: Request) -> std::result::Result<Response, ControlError> {
        match request {
            Request::HandOver => {
                self.check_successor().map_err(refused)?;
                self.front().release().map_err(refused)?;
            }
            Request::Reset => {
                if self.device.is_handed_over() {
                    return Err(refused(uzram::Error::HandedOver.into()));
                }
                // As the kernel's: not under anybody's feet.
                let front = self.front();
                let held = front.hold_idle().map_err(refused)?;
                let answer = self.carry_out(&request)?;
                if let Some(node) = &held {
                    // Their table is gone, and they would reach into what is written next.
                    delete_partitions(node, Path::new(&front.path()));
                }
                return Ok(answer);
            }
            Request::Remove => {
                self.check_not_needed()?;
                self.check_directory().map_err(refused)?;
                let mut front = self.front();
                front.remove().map_err(refused)?;
                let mut what = front.left();
                drop(front);
                what.extend(self.retire());
                if !what.is_empty() {
                    return Ok(Response::Did { what });
                }
            }
            Request::RemoveByForce => {
                self.check_directory().map_err(refused)?;
                let mut front = self.front();
                let mut what = front.remove_by_force().map_err(refused)?;
                what.extend(front.left());
                drop(front);
                what.extend(self.retire());
                return Ok(Response::Did { what });
            }
            Request::SetBacking {
                path: Some(path),
                size_bytes,
                seal,
                ..
            } if cold::is_remote(&path) => {
                return self.set_remote_backing(&path, size_bytes, seal);
            }
            Request::Resize { bytes, force } => self.resize(bytes, force, &request)?,
            Request::Stat => {
                let mut answer = self.carry_out(&request)?;
                if let Response::Stat(stat) = &mut answer {
                    let micros = |poll: Duration| poll.as_micros() as u64;
                    stat.poll_microseconds = self.poll.map(micros);
                    stat.frontend_options = self.options.clone();
                    stat.transport = self.transport.map(str::to_owned);
                    if self.device.is_handed_over() {
                        stat.handed_over = self.handing_over().clone();
                        // Frozen for good: nobody takes one.
                        stat.snapshot = None;
                    }
                    // Not waited for: whoever takes the device down may wait for who asks this.
                    stat.clients = self.front.try_lock().ok().and_then(|front| front.clients());
                }
                return Ok(answer);
            }
            Request::ClientTerms => {
                let terms = self.idle_front()?.terms().map_err(refused)?;
                return Ok(Response::ClientTerms { terms });
            }
            Request::TakeClient { .. } => {
                return Err(ControlError {
                    errno: 22,
                    message: "no client came with the request".into(),
                });
            }
            Request::TakeBack => return self.take_back(),
            Request::SendLazily { .. }
            | Request::ServeFrames { .. }
            | Request::TakeFrames { .. } => {
                return Err(ControlError {
                    errno: 22,
                    message: "no socket came with the request".into(),
                });
            }
            Request::Snapshot { .. } => {
                return Err(ControlError {
                    errno: 22,
                    message: "a snapshot is written to a file, and none came with the request"
                        .into(),
                });
            }
            other => return self.carry_out(&other),
        }
        Ok(Response::Done)
    }

    fn total_pages(&self, request: &Request) -> u64 {
        uzram_control::total_pages(&self.device, request)
    }

    fn handle_paced(
        &self,
        request: Request,
        pace: &dyn Fn(u64) -> ControlFlow<()>,
    ) -> std::result::Result<Response, ControlError> {
        match request {
            Request::Recompress(_)
            | Request::Writeback(_)
            | Request::Promote { .. }
            | Request::Inspect { .. }
            | Request::Hydrate => self.carry_out_paced(&request, pace),
            other => self.handle(other),
        }
    }

    fn handle_with_files(
        &self,
        request: Request,
        files: Vec<OwnedFd>,
        is_gone: &dyn Fn() -> bool,
    ) -> std::result::Result<Response, ControlError> {
        if let Request::TakeClient { agreed } = &request {
            let mut clients = files.into_iter();
            let Some(client) = clients.next() else {
                return self.handle(request);
            };
            let front = self.idle_front()?;
            return front
                .take_client(client, agreed)
                .map(|()| Response::Done)
                .map_err(refused);
        }
        if let Request::SendLazily { .. }
        | Request::ServeFrames { .. }
        | Request::TakeFrames { .. } = &request
        {
            let mut files = files.into_iter();
            let Some(socket) = files.next() else {
                return self.handle(request);
            };
            return match &request {
                Request::SendLazily { id, again } => self.send_lazily(id, *again, socket, is_gone),
                Request::TakeFrames { id } => self.take_frames(id, socket),
                Request::ServeFrames { id } => {
                    self.check_id(id)?;
                    let served = handover::serve_frames(&self.device, socket);
                    served.map_err(|error| refused(error.into()))?;
                    Ok(Response::Done)
                }
                other => self.handle(other.clone()),
            };
        }
        let Request::Snapshot {
            kept_max_bytes,
            track,
            since,
            basis,
            more,
            last,
        } = request
        else {
            return self.handle(request);
        };
        let mut options = CutOptions::new(kept_max_bytes);
        options.track = track;
        options.freeze = last;
        tracing::info!("a snapshot is being taken");
        let taking = snapshot::ForClient {
            device: &self.device,
            name: &self.name,
            options,
            since,
            basis,
            more,
        };
        let report = taking.take(files, is_gone)?;
        let (name, bytes, pause) = (&report.name, report.bytes, report.pause_microseconds);
        tracing::info!(name, bytes, pause, "snapshot taken");
        if last {
            tracing::warn!("handed over: writes fail from now on");
        }
        Ok(Response::Snapshot(report))
    }

    fn answered(&self, request: &Request, done: bool) {
        let event = match request {
            Request::Remove | Request::RemoveByForce if done => ServerEvent::Removed,
            Request::HandOver if done => ServerEvent::HandOver,
            _ => return,
        };
        let events = self.events.lock().unwrap_or_else(PoisonError::into_inner);
        let _ = events.send(event);
    }
}
