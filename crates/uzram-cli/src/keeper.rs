//! The keeper: a small process for each device that holds its memory, so that the server may die, and starts the server
//! anew when it does. It does nothing with the memory but keep it open.
//!
//! It survives a change of program by executing the new one in its own place: children, memory and lock stay.

mod requests;
mod spare;
mod upgrade;

use std::collections::VecDeque;
use std::ffi::OsString;
use std::fs::File;
use std::io::{BufRead, BufReader, Write};
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use uzram_control::{Claim, ControlServer, KEEPER_SOCKET, Request, Response, SERVER_SOCKET};

use crate::exit::{Failure, Kind, Result};
use crate::logging::LogPipe;
use crate::process::{pidfd, reap, stop_inheriting, take_name, wait_for_end, when_told_to_end};
use crate::standby::Standby;
use crate::{logging, process, swap, sweep};
use requests::Requests;

/// Failed starts in a row after which the keeper waits for `uzram recover`.
const MAX_FAILURES: u32 = 5;
/// Longest wait before a server that keeps dying is started again.
const MAX_PAUSE: Duration = Duration::from_secs(5);
/// File that is there, empty, while the program is being replaced, and with what went wrong if that failed.
pub(crate) const UPGRADE: &str = "upgrade";

/// Keep a device's memory and its server
#[derive(clap::Args)]
pub(crate) struct Args {
    /// The directory of a device that is there already
    #[arg(long)]
    pub(crate) dir: Option<PathBuf>,
    /// Descriptor of its image
    #[arg(long, requires = "dir")]
    pub(crate) image: Option<i32>,
    /// Its server's process number
    #[arg(long, requires = "dir")]
    pub(crate) server: Option<u32>,
    /// Let that server hand over to a new one
    #[arg(long, requires = "server")]
    pub(crate) hand_over: bool,
    /// The program to go back to if the new server does not start
    #[arg(long, requires = "dir")]
    pub(crate) rollback: Option<PathBuf>,
    /// Descriptors of the pipe that a swap device's processes log to
    #[arg(long)]
    pub(crate) log_pipe: Option<LogPipe>,
    /// The command line that asked for the device
    #[arg(last = true)]
    pub(crate) command: Vec<OsString>,
}

enum Event {
    /// The server with this process number ended.
    Ended(u32),
    /// Told to end.
    Signal,
    /// Start the server if it does not run.
    Recover(Sender<Result>),
    /// Take down a device that has no server.
    Remove(Sender<Result>),
    /// That was done, and who asked knows.
    Removed,
    /// Become this program.
    Upgrade(PathBuf),
}

struct Keeper {
    claim: Claim,
    image: i32,
    command: Vec<OsString>,
    events: Sender<Event>,
    inbox: Receiver<Event>,
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
}

impl Args {
    /// As command line arguments.
    pub(crate) fn arguments(&self) -> Vec<OsString> {
        let mut out: Vec<OsString> = vec!["keep".into()];
        let mut option = |name: &str, value: Option<OsString>| {
            if let Some(value) = value {
                out.extend([name.into(), value]);
            }
        };
        option("--dir", self.dir.clone().map(Into::into));
        option("--image", self.image.map(|fd| fd.to_string().into()));
        option("--server", self.server.map(|pid| pid.to_string().into()));
        option("--rollback", self.rollback.clone().map(Into::into));
        option(
            "--log-pipe",
            self.log_pipe.map(|pipe| pipe.to_string().into()),
        );
        if self.hand_over {
            out.push("--hand-over".into());
        }
        out.push("--".into());
        out.extend(self.command.iter().cloned());
        out
    }

    pub(crate) fn run(self) -> Result {
        take_name();
        // A session of its own: what happens to the terminal is nothing to it.
        let _ = rustix::process::setsid();
        let (events, inbox) = channel();
        match (&self.dir, self.image) {
            (Some(dir), Some(image)) => {
                let keeper = Keeper {
                    claim: Claim::adopt(dir)?,
                    image,
                    command: self.command.clone(),
                    events,
                    inbox,
                    server: self.server.filter(|pid| *pid != 0),
                    failures: 0,
                    deaths: VecDeque::new(),
                    standby: None,
                    standby_failures: 0,
                    log_pipe: self.log_pipe,
                };
                keeper.go_on(&self)
            }
            _ => self.begin(events, inbox),
        }
    }

    /// A new device.
    fn begin(self, events: Sender<Event>, inbox: Receiver<Event>) -> Result {
        let (create, log) = crate::parse_create(&self.command)?;
        logging::parse(&log)?;
        let run = sweep::swept_run_dir()?;
        if create.is_swap() {
            create.check_swap()?;
        }
        let claim = run.claim(create.name())?;
        claim.pass_on_lock()?;
        // Inherited by every server: no CLOEXEC.
        let image: OwnedFd = if create.is_swap() {
            // Before there are threads, whose stacks would be locked whole.
            swap::lock();
            create.prepare_machine(&claim.dir);
            swap::unswappable_file()?
        } else {
            rustix::fs::memfd_create("uzram", rustix::fs::MemfdFlags::empty())
                .map_err(std::io::Error::from)?
        };
        let mut keeper = Keeper {
            image: image.as_raw_fd(),
            claim,
            command: self.command,
            events,
            inbox,
            server: None,
            failures: 0,
            deaths: VecDeque::new(),
            standby: None,
            standby_failures: 0,
            log_pipe: create.is_swap().then(LogPipe::new).transpose()?,
        };
        let path = match keeper.start_server(false) {
            Ok(path) => path,
            Err(failure) => {
                // It may have been killed in the middle of it.
                if sweep::clear(&keeper.claim.dir).is_ok() {
                    let _ = keeper.claim.release();
                }
                return Err(failure);
            }
        };
        let announced = keeper.serve_requests().and_then(|()| {
            let mut stdout = std::io::stdout().lock();
            stdout.write_all(path.as_bytes())?;
            stdout.flush()?;
            Ok(())
        });
        if let Err(failure) = announced {
            // A device whose path nobody learns is worth nothing.
            let _ = uzram_control::call(&keeper.claim.file(SERVER_SOCKET), &Request::Remove);
            return Err(failure);
        }
        keeper.leave_terminal(&log)?;
        if create.is_swap() {
            // Its server has said already what the system refuses.
            swap::protect();
        }
        keeper.watch(create.is_swap())
    }
}

impl Keeper {
    /// A device that is there: its keeper died, or this is its keeper's new program.
    fn go_on(mut self, args: &Args) -> Result {
        let (create, log) = crate::parse_create(&self.command)?;
        if create.is_swap() {
            swap::prepare();
        }
        self.leave_terminal(&log)?;
        self.serve_requests()?;
        match self.server {
            Some(pid) if args.hand_over => {
                self.end_server(pid);
                if let Some(old) = &args.rollback {
                    stop_inheriting(old);
                }
                if let Err(failure) = self.start_server(true) {
                    return self.roll_back(args, &failure, create.is_swap());
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
        self.watch(create.is_swap())
    }

    /// The arguments of a keeper that goes on from here.
    fn arguments(&self) -> Args {
        Args {
            dir: Some(self.claim.dir.clone()),
            image: Some(self.image),
            server: self.server,
            hand_over: false,
            rollback: None,
            log_pipe: self.log_pipe,
            command: self.command.clone(),
        }
    }

    fn serve_requests(&self) -> Result {
        let requests = Requests {
            events: Mutex::new(self.events.clone()),
            image: self.image,
            upgrade: self.claim.file(UPGRADE),
        };
        ControlServer::start(&self.claim.file(KEEPER_SOCKET), Arc::new(requests))?;
        Ok(())
    }

    /// Starts a server and waits until it serves. Returns what it printed: the device's path.
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
        let command = self.server_command(resume)?;
        let path = self.start_from_file(command, resume)?;
        if had_standby {
            self.start_standby();
        }
        Ok(path)
    }

    fn serves(&mut self, pid: u32) {
        self.server = Some(pid);
        self.failures = 0;
        self.watch_server(pid);
    }

    /// The command line of a server.
    fn server_command(&self, resume: bool) -> Result<Command> {
        let mut command = Command::new("/proc/self/exe");
        command
            .arg0("uzram")
            .arg("serve")
            .arg("--dir")
            .arg(&self.claim.dir);
        command.arg("--image").arg(self.image.to_string());
        command.arg("--keeper").arg(std::process::id().to_string());
        if resume {
            let said = match self.log_pipe {
                Some(pipe) => pipe.writer()?,
                None => self.log_file()?,
            };
            command.arg("--resume").stderr(said);
        }
        if let Some(pipe) = self.log_pipe {
            command.arg("--log-pipe").arg(pipe.to_string());
        }
        Ok(command)
    }

    fn start_from_file(&mut self, mut command: Command, resume: bool) -> Result<String> {
        command.arg("--").args(&self.command);
        let started = command.stdin(Stdio::null()).stdout(Stdio::piped()).spawn();
        let mut server = started.map_err(|error| {
            Failure::new(Kind::Failed, format!("cannot start the server: {error}"))
        })?;
        let mut path = String::new();
        if let Some(stdout) = server.stdout.take() {
            BufReader::new(stdout).read_line(&mut path)?;
        }
        if path.is_empty() {
            let status = server.wait()?;
            if resume {
                let log = self.claim.file("log");
                let message = format!(
                    "the server of {} does not start ({status}): see {}",
                    self.claim.name,
                    log.display()
                );
                return Err(Failure::new(Kind::Failed, message));
            }
            return Err(match status.code() {
                // It has said why.
                Some(code) => Failure::silent(code),
                None => {
                    let message = format!("the server ended before it served: {status}");
                    Failure::new(Kind::Failed, message)
                }
            });
        }
        self.serves(server.id());
        Ok(path)
    }

    fn log_file(&self) -> Result<File> {
        logging::open(&self.claim.file("log"))
    }

    /// From now on only the log is spoken to.
    fn leave_terminal(&self, log: &str) -> Result {
        match self.log_pipe {
            Some(pipe) => {
                pipe.drain_to(self.log_file()?)?;
                logging::to_pipe(log, pipe)?;
            }
            None => logging::to_file(log, self.log_file()?)?,
        }
        process::leave_terminal()
    }

    /// Sends [`Event::Ended`] when the process ends, whether it is a child or not.
    fn watch_server(&self, pid: u32) {
        let events = self.events.clone();
        let watch = move || {
            if let Some(end) = pidfd(pid) {
                wait_for_end(&end);
            }
            let _ = events.send(Event::Ended(pid));
        };
        let thread = std::thread::Builder::new().name("server-watch".into());
        if let Err(error) = thread.spawn(watch) {
            tracing::error!(%error, "nobody watches the server");
        }
    }

    /// Keeps until the device is taken down.
    fn watch(mut self, swap: bool) -> Result {
        if swap {
            self.start_standby();
        }
        let events = self.events.clone();
        when_told_to_end(move || {
            let _ = events.send(Event::Signal);
        })?;
        while let Ok(event) = self.inbox.recv() {
            match event {
                Event::Ended(pid) if self.standby.as_ref().is_some_and(|s| s.pid() == pid) => {
                    self.standby_ended();
                }
                Event::Ended(pid) => {
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
                Event::Signal => self.remove(),
                Event::Recover(answer) => {
                    let result = match self.server {
                        Some(_) => Ok(()),
                        None => self.start_server(true).map(drop),
                    };
                    let _ = answer.send(result);
                }
                Event::Remove(answer) => {
                    let _ = answer.send(self.remove_unserved());
                }
                Event::Removed => break,
                Event::Upgrade(program) => self.become_program(&program),
            }
        }
        Ok(())
    }

    fn remove(&self) {
        let socket = self.claim.file(SERVER_SOCKET);
        match uzram_control::call(&socket, &Request::Remove) {
            Ok(Response::Error(error)) => tracing::warn!("told to end, but {error}"),
            Ok(_) => {}
            Err(error) => tracing::warn!("told to end, but the server does not answer: {error}"),
        }
    }

    /// Takes down a device whose server could not be started.
    fn remove_unserved(&self) -> Result {
        if self.server.is_some() {
            return Err(Failure::new(Kind::Failed, "its server runs again"));
        }
        if let Some(record) = self.claim.record()
            && let Some(by) = uzram_blockdev::busy(Path::new(&record.path))
        {
            let message = format!("{} is in use: {by}", record.path);
            return Err(Failure::new(Kind::Busy, message));
        }
        sweep::clear(&self.claim.dir).map_err(|e| Failure::new(Kind::Failed, e))?;
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
        let name = &self.claim.name;
        tracing::error!("giving up; the contents are kept: `uzram recover {name}` tries again");
    }
}
