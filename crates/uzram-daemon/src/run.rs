//! `uzramd` itself: starts, makes what its configuration asks for, looks at its devices, and ends.

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::mpsc::{RecvTimeoutError, channel};
use std::time::Duration;

use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};
use uzram_control::RunDir;
use uzram_control::zram::View;
use uzram_runtime::logging;
use uzram_runtime::process::when_told;
use uzram_runtime::sweep::sweep;
use uzram_runtime::zram::Local;
use uzram_spec::{Failure, Result, printable};

use crate::devices::Daemon;
use crate::fronts::Fronts;
use crate::history::History;
use crate::hold::{SharedHolder, own_copy};
use crate::http::{bind, serve};
use crate::limits::Limits;
use crate::problem::{Problem, summary};
use crate::setup::Wanted;
use crate::{SOCKET, notify, save};

/// How often the devices are looked at.
const LOOK: Duration = Duration::from_millis(300);
/// File of what has to outlive the daemon.
const STATE: &str = "uzramd.json";
/// File of what it has noted of its devices over time.
const HISTORY: &str = "history.json";

/// What `uzramd` is started with.
pub struct Run {
    /// The configuration; `None` for `/etc/uzram.toml`, if there is one.
    pub config: Option<PathBuf>,
    /// What to do.
    pub task: Task,
    /// What to log.
    pub log: String,
}

/// What `uzramd` does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Task {
    /// Serve until it is told to end.
    Serve,
    /// Check the configuration.
    Check,
    /// Save the devices that are to outlive the machine.
    Save {
        /// What was mounted by the configuration is unmounted before.
        unmount: bool,
    },
}

impl Run {
    /// Runs the daemon until it is told to end, or does what else is asked for.
    pub fn run(self) -> Result {
        let run = RunDir::of_user();
        let to_save = matches!(self.task, Task::Save { .. });
        let read = || Wanted::read(self.config.as_deref(), &run, to_save);
        let wanted = read()?;
        match self.task {
            Task::Serve => {}
            Task::Check => {
                for line in save::plans(&wanted) {
                    println!("{}", printable(&line));
                }
                let problems = wanted.problems.iter().map(Problem::to_string);
                for line in wanted.notes.iter().cloned().chain(problems) {
                    eprintln!("{}", printable(&line));
                }
                return summary(&wanted.problems).map_or(Ok(()), Err);
            }
            Task::Save { unmount } => {
                logging::to_stderr(&self.log)?;
                return save::save_all(&wanted, &run, unmount);
            }
        }
        let settings = &wanted.settings;
        let _ = rustix::thread::set_name(c"uzramd");
        logging::to_stderr(&self.log)?;
        let (events, inbox) = channel();
        when_told(&[SIGHUP, SIGINT, SIGTERM], move |signal| {
            let _ = events.send(signal);
        })?;
        run.make()?;
        let received = notify::received();
        let holder = Arc::new(SharedHolder::from_received(&run, &received));
        // The dead are served again before anybody asks them.
        holder.look();
        holder.look();
        let run = RunDir::of_user();
        sweep(&run)?;
        let socket = run.file(SOCKET)?;
        let from_systemd = received.iter().find(|(_, name)| name.ends_with(".socket"));
        let listener = match from_systemd {
            Some((fd, _)) => activated(*fd)?,
            None => bind(&socket)?,
        };
        let state = Some(run.file(STATE)?);
        let local = Local::new(run.clone(), &settings.frontend, settings.strict, state);
        let history = Arc::new(History::read(run.file(HISTORY)?));
        let daemon = Daemon::new(local.clone(), holder.clone(), history.clone());
        let daemon = Arc::new(daemon);
        serve(listener, daemon.clone(), Limits::default())?;
        // Dropped, it is unmounted.
        let _sysfs = settings.sysfs.as_ref().and_then(|at| {
            let mounted = uzram_sysfs::mount_at(at, daemon.held(), settings.strict);
            let said = |error: &_| tracing::error!("sysfs: {}: {error}", at.display());
            mounted.inspect_err(said).ok()
        });
        wanted.make(&daemon);
        history.start(run.clone())?;
        let there = local.devices().map_or(0, |devices| devices.len());
        for _ in there..settings.num_devices as usize {
            let added = local.show(uzram_control::zram::AttributeOwner::Control, "hot_add");
            if let Err(errno) = added {
                tracing::error!("num_devices: adding a device: {errno}");
                break;
            }
        }
        let mut fronts = Fronts::new(&self.log);
        fronts.apply(&wanted);
        tracing::info!(socket = %socket.display(), "ready");
        notify::ready("serving");
        let mut said = usize::MAX;
        loop {
            holder.look();
            fronts.look();
            if holder.len() != said {
                said = holder.len();
                notify::status(&format!("{said} devices' memory is held"));
            }
            match inbox.recv_timeout(LOOK) {
                Err(RecvTimeoutError::Timeout) => {}
                Ok(SIGHUP) => {
                    notify::reloading();
                    match read() {
                        Ok(wanted) => {
                            wanted.make(&daemon);
                            fronts.apply(&wanted);
                        }
                        Err(failure) => tracing::error!("the old configuration stays: {failure}"),
                    }
                    notify::ready("serving");
                    said = usize::MAX;
                }
                _ => break,
            }
        }
        notify::stopping();
        fronts.end();
        history.save();
        if from_systemd.is_none() {
            let _ = std::fs::remove_file(&socket);
        }
        tracing::info!("ends; the devices stay");
        Ok(())
    }
}

/// The socket that systemd listens on.
fn activated(fd: i32) -> Result<std::os::unix::net::UnixListener> {
    let listener = std::os::unix::net::UnixListener::from(own_copy(fd)?);
    // Anything but a listening unix socket is refused here and not at the first connection.
    listener.local_addr().map_err(|error| {
        let message = format!("systemd handed over no unix socket: {error}");
        Failure::failed(message)
    })?;
    Ok(listener)
}
