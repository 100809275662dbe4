//! The keeper: a small process for each device that holds its memory, so that the server may die, and starts the server
//! anew when it does. It does nothing with the memory but keep it open.
//!
//! It survives a change of program by executing the new one in its own place: children, memory and lock stay.

mod requests;
mod standby_start;
mod upgrade;

use std::collections::VecDeque;
use std::fs::File;
use std::io::{BufRead, BufReader, Read};
use std::os::fd::{IntoRawFd, OwnedFd};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use uzram_control::{
    Claim, ControlServer, KEEPER_SOCKET, Request, Response, RunDir, RunningDevice, SERVER_SOCKET,
};
use uzram_spec::{DeviceSpec, Failure, Result, SnapshotSource};

use crate::launch::{Created, KEEP, Order, created};
use crate::logging::{Journal, LogPipe};
use crate::process::{pidfd, reap, stop_inheriting, take_name, wait_for_end, when_told_to_end};
use crate::report::StartReport;
use crate::standby::Standby;
use crate::state::{KeeperState, ServerState};
use crate::{
    description, handover, logging, make, note, process, report, swap, sweep, users, watermark,
};
use requests::Requests;

/// Failed starts in a row after which the keeper waits for `uzram recover`.
const MAX_FAILURES: u32 = 5;
/// Longest wait before a server that keeps dying is started again.
const MAX_PAUSE: Duration = Duration::from_secs(5);
/// Longest order that is read, in bytes.
const MAX_ORDER: u64 = 4 << 20;
/// How long a device that nobody wants may be in use, by those who look at every new disk.
const UNWANTED: Duration = Duration::from_secs(10);
/// File that is there, empty, while the program is being replaced, and with what went wrong if that failed.
pub const UPGRADE: &str = "upgrade";
/// File that is there while a device has no server, and none is being started: nobody needs to wait for one.
pub(crate) const DOWN: &str = "down";
/// What the word in [`UPGRADE`] begins with where the old server did not hand over, since its node is in use.
pub const UPGRADE_REFUSED: &str = "nothing has changed: ";

enum KeeperEvent {
    /// The server with this process number ended.
    Ended(u32),
    /// Told to end.
    Signal,
    /// Start the server if it does not run.
    Recover(Sender<Result>),
    /// Take down a device that has no server.
    Remove {
        answer: Sender<Result>,
        /// Although dead nodes are in use.
        force: bool,
    },
    /// That was done, and who asked knows.
    Removed,
    /// Whoever ordered the device is gone, and told nobody of it.
    Unwanted,
    /// Become this program.
    Upgrade(PathBuf),
}

struct Keeper {
    claim: Claim,
    image: i32,
    spec: DeviceSpec,
    /// Descriptor of a swap device's description.
    inherited_spec: Option<i32>,
    events: Sender<KeeperEvent>,
    inbox: Receiver<KeeperEvent>,
    /// The server's process number while it runs.
    server: Option<u32>,
    /// Starts that failed, since one that did not.
    failures: u32,
    /// When servers died lately.
    deaths: VecDeque<Instant>,
    /// The next server, of a swap device.
    standby: Option<Standby>,
    /// Standbys that died soon, in a row.
    standby_failures: u32,
    /// What a swap device's processes log to.
    log_pipe: Option<LogPipe>,
    /// What a new device is filled with. Its first server does it, and no other.
    contents: Option<SnapshotSource>,
    /// Where whoever ordered the device can be heard to be gone, while that is done.
    orderer: Option<File>,
}

/// Runs the keeper of a device until that is taken down. `state` is the device that is there already; without one, a new
/// device is ordered on stdin. Returns the exit code.
pub fn keep(state: Option<&str>) -> u8 {
    take_name();
    // A session of its own: what happens to the terminal is nothing to it.
    let _ = rustix::process::setsid();
    crate::limits::raise_files();
    let kept = match state {
        Some(state) => resumed(state),
        None => begun(),
    };
    report::exit_code(kept)
}

/// Starts a keeper for a device that has none. Image and lock are to be inherited. Returns its process number.
pub fn restart_keeper(dir: &Path, image: i32) -> Result<u32> {
    let state = KeeperState {
        dir: dir.into(),
        image,
        ..KeeperState::default()
    };
    let keeper = state.start()?;
    let pid = keeper.id();
    process::reap_later(keeper);
    Ok(pid)
}

/// Keeps a device that is there: its keeper died, or this is its keeper's new program.
fn resumed(state: &str) -> Result {
    note::to_log();
    let state: KeeperState = process::state("keeper", state)?;
    let claim = Claim::adopt(&state.dir)?;
    let spec = description::read(&state.dir, state.spec)?;
    Keeper::from_state(claim, spec, &state).go_on(&state)
}

/// Makes the device that stdin orders, and keeps it.
fn begun() -> Result {
    note::to_reports();
    // Of its own: stdin itself is closed once the device is there.
    let stdin = rustix::io::fcntl_dupfd_cloexec(rustix::stdio::stdin(), 3);
    let mut orders = BufReader::new(File::from(stdin.map_err(std::io::Error::from)?));
    let mut order = Vec::new();
    orders
        .by_ref()
        .take(MAX_ORDER)
        .read_until(b'\n', &mut order)?;
    let order: Order = serde_json::from_slice(&order)
        .map_err(|error| Failure::usage(format!("the order on stdin: {error}")))?;
    let mut spec = order.spec;
    logging::parse(&spec.log)?;
    let run = RunDir::new(order.run);
    sweep::sweep(&run)?;
    make::complete(&mut spec)?;
    // Read once: no later server is to need the file. Those of a clone are.
    let contents = spec.from.clone();
    spec.from = spec.from.filter(|from| from.lazy);
    if let Some(from) = &mut spec.from {
        from.forget_making();
    }
    let claim = run.claim(spec.name.as_deref())?;
    spec.name = Some(claim.name.clone());
    let dir = claim.dir.clone();
    match Keeper::new(claim, spec) {
        Ok(mut keeper) => {
            keeper.contents = contents;
            keeper.begin(orders)
        }
        Err(failure) => {
            if let Ok(claim) = Claim::adopt(&dir) {
                undo(&claim);
            }
            Err(failure)
        }
    }
}

/// Clears what there is of a device that could not be made: its server may have been killed in the middle of it, and the
/// machine's settings may have been changed for it.
fn undo(claim: &Claim) {
    if sweep::clear(&claim.dir).is_ok() {
        let _ = claim.release();
    }
}

impl Keeper {
    /// The keeper of a new device, with memory for its image.
    fn new(claim: Claim, spec: DeviceSpec) -> Result<Keeper> {
        claim.pass_on_lock()?;
        // Inherited by every server: no CLOEXEC.
        let image: OwnedFd = if let Some(swap) = &spec.swap {
            // Before there are threads: their stacks would be locked whole, and what they may do is their own. One that made room
            // by swapping out, with the heap's lock, would wait for the server that only this process can start. The server
            // says what the system refuses.
            swap::lock();
            swap::protect(|_, _, _| ());
            if !swap.keep_min_free {
                watermark::raise(&claim.dir);
            }
            swap::unswappable_file()?
        } else {
            rustix::fs::memfd_create("uzram", rustix::fs::MemfdFlags::empty())
                .map_err(std::io::Error::from)?
        };
        let stored = description::store(&spec, &claim)?;
        let log_pipe = spec.is_swap().then(LogPipe::new).transpose()?;
        let state = KeeperState {
            // Both stay open as long as this process and its children live.
            image: image.into_raw_fd(),
            spec: stored.map(IntoRawFd::into_raw_fd),
            log_pipe,
            ..KeeperState::default()
        };
        Ok(Keeper::from_state(claim, spec, &state))
    }

    fn from_state(claim: Claim, spec: DeviceSpec, state: &KeeperState) -> Keeper {
        let (events, inbox) = channel();
        Keeper {
            claim,
            image: state.image,
            spec,
            inherited_spec: state.spec,
            events,
            inbox,
            server: state.server,
            failures: 0,
            deaths: VecDeque::new(),
            standby: None,
            standby_failures: 0,
            log_pipe: state.log_pipe,
            contents: None,
            orderer: None,
        }
    }

    /// Starts a new device's server, reports the device, and keeps it once somebody was told of it.
    fn begin(mut self, orders: BufReader<File>) -> Result {
        let path = match self.start_first(&orders) {
            Ok(path) => path,
            Err(failure) => {
                undo(&self.claim);
                return Err(failure);
            }
        };
        let announced = self.serve_requests().and_then(|()| {
            let name = self.claim.name.clone();
            Ok(StartReport::Ready { name, path }.send()?)
        });
        if let Err(failure) = announced {
            // A device whose path nobody learns is worth nothing.
            self.remove_unwanted();
            return Err(failure);
        }
        self.wait_for_word(orders)?;
        note::to_log();
        self.leave_terminal()?;
        self.watch()
    }
}

impl Keeper {
    /// Starts a new device's server. That may take as long as a snapshot takes to be read.
    fn start_first(&mut self, orders: &BufReader<File>) -> Result<String> {
        if self.contents.is_some() {
            self.orderer = Some(orders.get_ref().try_clone()?);
        }
        let path = self.start_server(false)?;
        (self.contents, self.orderer) = (None, None);
        Ok(path)
    }

    /// Goes on with a device that is there.
    fn go_on(mut self, state: &KeeperState) -> Result {
        if self.spec.is_swap() {
            swap::prepare();
        }
        self.leave_terminal()?;
        self.serve_requests()?;
        match self.server {
            Some(pid) if state.hand_over => {
                let handed_over = self.end_server(pid);
                if handed_over.is_ok()
                    && let Some(old) = &state.rollback
                {
                    stop_inheriting(old);
                }
                if let Err(failure) = handed_over {
                    let why = match failure.is_busy() {
                        true => format!("{UPGRADE_REFUSED}{failure}"),
                        false => failure.to_string(),
                    };
                    return self.roll_back(state, &why);
                }
                if let Err(failure) = self.start_server(true) {
                    let why = format!("the new program cannot serve: {failure}");
                    return self.roll_back(state, &why);
                }
                tracing::info!(version = env!("CARGO_PKG_VERSION"), "took over");
                self.upgrade_done();
            }
            Some(pid) => self.watch_server(pid),
            None => {
                self.start_again();
                self.upgrade_done();
            }
        }
        self.watch()
    }

    /// What a keeper starts from that goes on from here.
    fn state(&self) -> KeeperState {
        KeeperState {
            dir: self.claim.dir.clone(),
            image: self.image,
            spec: self.inherited_spec,
            server: self.server,
            log_pipe: self.log_pipe,
            ..KeeperState::default()
        }
    }

    fn serve_requests(&self) -> Result {
        let requests = Requests {
            events: Mutex::new(self.events.clone()),
            dir: self.claim.dir.clone(),
            image: self.image,
            spec: self.inherited_spec,
            identity: self.spec.identity.clone(),
            upgrade: self.claim.file(UPGRADE),
        };
        ControlServer::start(&self.claim.file(KEEPER_SOCKET), Arc::new(requests))?;
        Ok(())
    }

    /// Starts a server and waits until it serves. Returns the device's path.
    fn start_server(&mut self, resume: bool) -> Result<String> {
        let had_standby = self.standby.is_some();
        if resume && let Some(standby) = &mut self.standby {
            match standby.serve() {
                Ok((pid, path)) => {
                    let _ = standby.look();
                    self.serves(pid);
                    return Ok(path);
                }
                // Not from the file then: that could wait for what is swapped out. The standby can do it again.
                Err(failure) if standby.is_alive() => return Err(failure),
                Err(failure) => {
                    tracing::error!("the standby server: {failure}");
                    self.standby = None;
                }
            }
        }
        let path = self.start_from_file(resume)?;
        if had_standby {
            self.start_standby();
        }
        Ok(path)
    }

    fn serves(&mut self, pid: u32) {
        self.server = Some(pid);
        self.failures = 0;
        self.is_up();
        self.watch_server(pid);
    }

    /// There is a server, or one is being started.
    fn is_up(&self) {
        let _ = std::fs::remove_file(self.claim.file(DOWN));
    }

    /// There is no server, and there will be none unless somebody asks for it.
    fn is_down(&self) {
        if !self.claim.is_released()
            && let Err(error) = std::fs::write(self.claim.file(DOWN), b"")
        {
            tracing::warn!(%error, "cannot say that there is no server");
        }
    }

    /// The command that starts a server.
    fn server_command(&self, resume: bool, standby: bool) -> Result<Command> {
        let state = ServerState {
            dir: self.claim.dir.clone(),
            image: self.image,
            spec: self.inherited_spec,
            keeper: std::process::id(),
            resume,
            standby,
            log_pipe: self.log_pipe,
            contents: self.contents.clone().filter(|_| !resume),
        };
        let mut command = Command::new("/proc/self/exe");
        command.arg0("uzram").args(state.arguments());
        if resume {
            command.stderr(match self.log_pipe {
                Some(pipe) => pipe.writer()?,
                None => self.log_file()?,
            });
        }
        Ok(command)
    }

    fn start_from_file(&mut self, resume: bool) -> Result<String> {
        let mut command = self.server_command(resume, false)?;
        let stdin = self.orderer.take().map_or_else(Stdio::null, Stdio::from);
        let started = command.stdin(stdin).stdout(Stdio::piped()).spawn();
        let mut server = started
            .map_err(|error| Failure::failed(format!("cannot start the server: {error}")))?;
        let ready = match server.stdout.take().map(BufReader::new) {
            Some(mut reports) => created(&mut reports, &mut |text| self.pass_on(text)),
            None => Ok(None),
        };
        if let Ok(Some(Created { path, .. })) = ready {
            self.serves(server.id());
            return Ok(path);
        }
        let status = match process::wait_for_child(server)? {
            Some(status) => status.to_string(),
            None => "it has not ended yet".into(),
        };
        let failure = match ready {
            Err(failure) => failure,
            Ok(_) => {
                let message = format!("the server ended before it served: {status}");
                Failure::failed(message)
            }
        };
        if !resume {
            return Err(failure);
        }
        let log = self.claim.file("log");
        let message = format!(
            "the server of {} does not start: {}",
            self.claim.name, failure.message
        );
        Err(Failure::new(failure.kind, message).with_hint(format!("see {}", log.display())))
    }

    /// Passes a server's note on: to whoever makes the device, or to the log.
    fn pass_on(&self, text: &str) {
        note::tell(text);
        tracing::warn!("{text}");
    }

    /// What a child writes before it logs by itself goes there.
    fn log_file(&self) -> Result<File> {
        logging::open(&self.claim.file("log"))
    }

    fn journal(&self) -> Result<Journal> {
        let path = self.claim.file("log");
        Ok(Journal::open(&path, self.spec.log_max.0)?)
    }

    /// From now on only the log is spoken to.
    fn leave_terminal(&self) -> Result {
        let log = &self.spec.log;
        match self.log_pipe {
            Some(pipe) => {
                pipe.drain_to(self.journal()?)?;
                logging::to_pipe(log, pipe)?;
            }
            None => logging::to_file(log, self.journal()?)?,
        }
        process::leave_terminal()
    }

    /// Sends [`KeeperEvent::Ended`] when the process ends, whether it is a child or not.
    fn watch_server(&self, pid: u32) {
        let events = self.events.clone();
        let watch = move || {
            if let Some(end) = pidfd(pid) {
                wait_for_end(&end);
            }
            let _ = events.send(KeeperEvent::Ended(pid));
        };
        if let Err(error) = process::spawn("server-watch", watch) {
            tracing::error!(%error, "nobody watches the server");
        }
    }

    /// Keeps until the device is taken down.
    fn watch(mut self) -> Result {
        if self.spec.is_swap() {
            self.start_standby();
        }
        let events = self.events.clone();
        when_told_to_end(move || {
            let _ = events.send(KeeperEvent::Signal);
        })?;
        while let Ok(event) = self.inbox.recv() {
            match event {
                KeeperEvent::Ended(pid)
                    if self.standby.as_ref().is_some_and(|s| s.pid() == pid) =>
                {
                    self.standby_ended();
                }
                KeeperEvent::Ended(pid) => {
                    reap(pid);
                    if self.claim.is_released() {
                        break;
                    }
                    if self.server == Some(pid) {
                        self.server = None;
                        self.note_death();
                        self.start_again();
                    }
                }
                KeeperEvent::Signal => self.remove(),
                KeeperEvent::Recover(answer) => {
                    let result = match self.server {
                        Some(_) => Ok(()),
                        None => {
                            self.is_up();
                            let started = self.start_server(true).map(drop);
                            started.inspect_err(|_| self.is_down())
                        }
                    };
                    let _ = answer.send(result);
                }
                KeeperEvent::Remove { answer, force } => {
                    let _ = answer.send(self.remove_unserved(force));
                }
                KeeperEvent::Removed => break,
                KeeperEvent::Unwanted => self.remove_unwanted(),
                KeeperEvent::Upgrade(program) => self.become_program(&program),
            }
        }
        Ok(())
    }

    /// Sends [`KeeperEvent::Unwanted`] if whoever ordered the device ends without the word that it is known.
    fn wait_for_word(&self, mut orders: BufReader<File>) -> Result {
        let events = self.events.clone();
        let wait = move || {
            let mut word = String::new();
            let read = orders.by_ref().take(KEEP.len() as u64).read_line(&mut word);
            if read.is_err() || word != KEEP {
                let _ = events.send(KeeperEvent::Unwanted);
            }
        };
        Ok(process::spawn("orderer-watch", wait)?)
    }

    /// Takes down a device that nobody knows of, and waits for its end: a server whose keeper goes before it starts another.
    /// Those who look at every new disk let go of it in a moment.
    fn remove_unwanted(&self) {
        tracing::warn!("whoever wanted the device is gone before it was told of it");
        let begin = Instant::now();
        let mut is_told = false;
        while !self.claim.is_released() {
            if self.spec.is_swap()
                && let Some(record) = self.claim.record()
            {
                swap::switch_off(&record.path);
            }
            let why = match is_told {
                true => "its server was told, and does not end".into(),
                false => match self.ask_server(&Request::Remove) {
                    Ok(Response::Error(error)) => error.to_string(),
                    Ok(_) => {
                        is_told = true;
                        continue;
                    }
                    Err(error) => error.to_string(),
                },
            };
            if begin.elapsed() > UNWANTED {
                tracing::error!("it stays: {why}");
                return;
            }
            std::thread::sleep(Duration::from_millis(if is_told { 2 } else { 50 }));
        }
    }

    /// Asks this device's server.
    fn ask_server(&self, request: &Request) -> std::io::Result<Response> {
        let socket = self.claim.file(SERVER_SOCKET);
        uzram_control::call_device(&socket, &self.spec.identity, request)
    }

    fn remove(&self) {
        match self.ask_server(&Request::Remove) {
            Ok(Response::Error(error)) => tracing::warn!("told to end, but {error}"),
            Ok(_) => {}
            Err(error) => tracing::warn!("told to end, but the server does not answer: {error}"),
        }
    }

    /// Takes down a device whose server could not be started.
    fn remove_unserved(&self, force: bool) -> Result {
        if self.server.is_some() {
            return Err(Failure::failed("its server runs again"));
        }
        if !force && handover::marked(&self.claim.dir).is_some() {
            return Err(Failure::busy(
                "it was handed over, and the other host has not all of it yet",
            ));
        }
        if let Some(record) = self.claim.record()
            && !force
        {
            let dir = self.claim.dir.clone();
            users::check_unused(&RunningDevice { dir, record }, "")?;
        }
        let cleared = match force {
            true => sweep::clear_by_force(&self.claim.dir),
            false => sweep::clear(&self.claim.dir),
        };
        cleared.map_err(Failure::failed)?;
        tracing::info!("removed");
        Ok(self.claim.release()?)
    }

    /// Waits a moment if servers died often lately.
    fn note_death(&mut self) {
        tracing::warn!("the server died");
        let now = Instant::now();
        self.deaths.push_back(now);
        self.deaths
            .retain(|death| now.duration_since(*death) < Duration::from_secs(10));
        let often = self.deaths.len().saturating_sub(8) as u32;
        if often > 0 {
            std::thread::sleep(MAX_PAUSE.min(Duration::from_millis(50) * often));
        }
    }

    fn start_again(&mut self) {
        // What is swapped out can wait for nothing else than a server.
        while (self.failures < MAX_FAILURES || self.standby.is_some()) && !self.claim.is_released()
        {
            match self.start_server(true) {
                Ok(path) => {
                    tracing::info!(path = path.trim_end(), "served again");
                    return;
                }
                Err(failure) => {
                    self.failures += 1;
                    tracing::error!(failures = self.failures, "no new server: {failure}");
                    std::thread::sleep(MAX_PAUSE.min(Duration::from_millis(100) * self.failures));
                }
            }
        }
        self.is_down();
        let name = &self.claim.name;
        tracing::error!("giving up; the contents are kept: `uzram recover {name}` tries again");
    }
}
