//! `uzramd` itself: starts, makes what its configuration asks for, looks at its devices, and ends.

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::mpsc::{RecvTimeoutError, channel};
use std::time::Duration;

use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};
use uzram_control::RunDir;
use uzram_control::zram::View;
use uzram_runtime::process::when_told;
use uzram_runtime::sweep::swept_run_dir;
use uzram_runtime::zram::Local;
use uzram_runtime::{frontends, logging};
use uzram_spec::{Failure, FailureKind, Result};

use crate::config::{Config, NewDevice};
use crate::devices::Daemon;
use crate::hold::{Holder, own_copy};
use crate::http::{Limits, bind, serve};
use crate::setup::{generated, set_up};
use crate::{SOCKET, notify};

/// How often the devices are looked at.
const LOOK: Duration = Duration::from_millis(300);
/// Where the configuration is looked for.
const DEFAULT: &str = "/etc/uzram.toml";
/// File of what has to outlive the daemon.
const STATE: &str = "uzramd.json";

/// What `uzramd` is started with.
pub struct Run {
    /// The configuration; `None` for `/etc/uzram.toml`, if there is one.
    pub config: Option<PathBuf>,
    /// Whether to check the configuration and do nothing else.
    pub check: bool,
    /// What to log.
    pub log: String,
}

impl Run {
    /// Runs the daemon until it is told to end.
    pub fn run(self) -> Result {
        let usage = |error: &dyn std::fmt::Display| Failure::new(FailureKind::Usage, error);
        let wanted = self.wanted()?;
        let config = &wanted.config;
        frontends::check_name(&config.daemon.frontend)
            .map_err(|error| usage(&format!("frontend: {error}")))?;
        if self.check {
            for note in &wanted.notes {
                eprintln!("{note}");
            }
            return Ok(());
        }
        let _ = rustix::thread::set_name(c"uzramd");
        logging::to_stderr(&self.log)?;
        let (events, inbox) = channel();
        when_told(&[SIGHUP, SIGINT, SIGTERM], move |signal| {
            let _ = events.send(signal);
        })?;
        let run = RunDir::of_user();
        run.make()?;
        let received = notify::received();
        let mut holder = Holder::from_received(&run, &received);
        // The dead are served again before anybody asks them.
        holder.look(&run);
        holder.look(&run);
        let run = swept_run_dir()?;
        let socket = run.file(SOCKET);
        let from_systemd = received.iter().find(|(_, name)| name.ends_with(".socket"));
        let listener = match from_systemd {
            Some((fd, _)) => activated(*fd)?,
            None => bind(&socket)?,
        };
        let state = Some(run.file(STATE));
        let local = Local::new(
            run.clone(),
            &config.daemon.frontend,
            config.daemon.strict,
            state,
        );
        let daemon = Arc::new(Daemon {
            local: local.clone(),
        });
        serve(listener, daemon.clone(), Limits::default())?;
        // Dropped, it is unmounted.
        let _sysfs = match &config.daemon.sysfs {
            Some(at) => Some(uzram_sysfs::mount_at(
                at,
                local.clone(),
                config.daemon.strict,
            )?),
            None => None,
        };
        wanted.make(&daemon);
        let missing = |have: usize| (config.daemon.num_devices as usize).saturating_sub(have);
        for _ in 0..missing(local.devices().map_or(0, |devices| devices.len())) {
            let added = local.show(uzram_control::zram::Owner::Control, "hot_add");
            added
                .map_err(|errno| Failure::new(FailureKind::Failed, format!("hot_add: {errno}")))?;
        }
        tracing::info!(socket = %socket.display(), "ready");
        notify::ready("serving");
        let mut said = usize::MAX;
        loop {
            holder.look(&run);
            if holder.len() != said {
                said = holder.len();
                notify::status(&format!("{said} devices' memory is held"));
            }
            match inbox.recv_timeout(LOOK) {
                Err(RecvTimeoutError::Timeout) => {}
                Ok(SIGHUP) => match self.wanted() {
                    Ok(wanted) => wanted.make(&daemon),
                    Err(failure) => tracing::error!("the old configuration stays: {failure}"),
                },
                _ => break,
            }
        }
        notify::stopping();
        if from_systemd.is_none() {
            let _ = std::fs::remove_file(&socket);
        }
        tracing::info!("ends; the devices stay");
        Ok(())
    }
}

impl Run {
    /// Reads the configuration and checks what can be checked without making anything.
    fn wanted(&self) -> Result<Wanted> {
        let usage = |error: &dyn std::fmt::Display| Failure::new(FailureKind::Usage, error);
        let path = self.config.clone().unwrap_or_else(|| DEFAULT.into());
        if self.config.is_some() && !path.exists() {
            return Err(usage(&format!("{}: no such file", path.display())));
        }
        let config = Config::read(&path).map_err(|error| usage(&error))?;
        let mut devices: Vec<NewDevice> = config.devices.clone();
        let mut notes = Vec::new();
        if config.daemon.zram_generator {
            let (generated, said) = generated().map_err(|error| usage(&error))?;
            // What is not made is no reason to make nothing.
            notes.extend(
                said.iter()
                    .map(|note| format!("zram-generator.conf: {note}")),
            );
            devices.extend(generated);
        }
        for device in &devices {
            let checked = uzram_runtime::check(&device.spec);
            let name = device.spec.name.as_deref().unwrap_or_default();
            checked.map_err(|failure| usage(&format!("{}: {name}: {failure}", path.display())))?;
        }
        Ok(Wanted {
            config,
            devices,
            notes,
        })
    }
}

/// What the configuration asks for.
struct Wanted {
    config: Config,
    /// Its devices, and those of zram-generator.conf.
    devices: Vec<NewDevice>,
    /// What there is to say about these.
    notes: Vec<String>,
}

impl Wanted {
    /// Makes the devices that are not there yet.
    fn make(&self, daemon: &Daemon) {
        for note in &self.notes {
            tracing::warn!("{note}");
        }
        for device in &self.devices {
            set_up(daemon, device);
        }
    }
}

/// The socket that systemd listens on.
fn activated(fd: i32) -> Result<std::os::unix::net::UnixListener> {
    let listener = std::os::unix::net::UnixListener::from(own_copy(fd)?);
    // Anything but a listening unix socket is refused here and not at the first connection.
    listener.local_addr().map_err(|error| {
        let message = format!("systemd handed over no unix socket: {error}");
        Failure::new(FailureKind::Failed, message)
    })?;
    Ok(listener)
}
