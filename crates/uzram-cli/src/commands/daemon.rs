//! `uzram daemon`, known as `uzramd`.

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::mpsc::{RecvTimeoutError, channel};
use std::time::Duration;

use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};
use uzram_control::RunDir;
use uzram_control::zram::View;
use uzram_daemon::{Config, Create, NewDevice, SOCKET, notify};

use crate::daemon::{Daemon, Holder, Local, generated, set_up};
use crate::exit::{Failure, Kind, Result};
use crate::logging;
use crate::process::when_told;

/// How often the devices are looked at.
const LOOK: Duration = Duration::from_millis(300);
/// Where the configuration is looked for.
const DEFAULT: &str = "/etc/uzram.toml";
/// File of what has to outlive the daemon.
const STATE: &str = "uzramd.json";

/// Run uzramd, the daemon that owns the devices
///
/// It answers an API (HTTP and JSON) on a unix socket, makes the devices of its configuration, lets devices be
/// hot-added and hot-removed through zram's own interface, and holds every device's memory: the contents outlive the
/// death of server and keeper at once. `uzram create` makes devices through it while it runs. When it ends the devices
/// stay, and a new daemon finds them.
#[derive(clap::Args)]
#[command(after_help = "\
Examples:
  uzramd
  curl --unix-socket /run/uzram/uzramd.sock http://localhost/v1/devices
  curl --unix-socket /run/uzram/uzramd.sock http://localhost/v1/openapi.json
  curl --unix-socket /run/uzram/uzramd.sock http://localhost/v1/devices -d '{\"size\":\"4G\",\"algorithm\":\"zstd\"}'")]
pub(crate) struct Args {
    /// The configuration [default: /etc/uzram.toml, if there is one]. SIGHUP has it read again: devices that are new in it are
    /// made
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// Only check the configuration: uzram.toml, and zram-generator.conf where that says so
    #[arg(long)]
    check: bool,
}

impl Args {
    pub(crate) fn run(self, log: &str) -> Result {
        let usage = |error: &dyn std::fmt::Display| Failure::new(Kind::Usage, error);
        let wanted = self.wanted()?;
        let config = &wanted.config;
        let frontend = config.daemon.frontend.parse();
        let frontend = frontend.map_err(|error: String| usage(&format!("frontend: {error}")))?;
        if self.check {
            for note in &wanted.notes {
                eprintln!("{note}");
            }
            return Ok(());
        }
        let _ = rustix::thread::set_name(c"uzramd");
        logging::to_stderr(log)?;
        let (events, inbox) = channel();
        when_told(&[SIGHUP, SIGINT, SIGTERM], move |signal| {
            let _ = events.send(signal);
        })?;
        let run = RunDir::of_user();
        run.make()?;
        let received = notify::received();
        let mut holder = Holder::of_received(&run, &received);
        // The dead are served again before anybody asks them.
        holder.look(&run);
        holder.look(&run);
        let run = crate::sweep::swept_run_dir()?;
        let socket = run.file(SOCKET);
        let from_systemd = received.iter().find(|(_, name)| name.ends_with(".socket"));
        let listener = match from_systemd {
            Some((fd, _)) => activated(*fd)?,
            None => uzram_daemon::bind(&socket)?,
        };
        let state = Some(run.file(STATE));
        let local = Local::new(run.clone(), frontend, config.daemon.strict, state);
        let daemon = Arc::new(Daemon {
            local: local.clone(),
        });
        uzram_daemon::serve(listener, daemon.clone())?;
        // Dropped, it is unmounted.
        let _sysfs = match &config.daemon.sysfs {
            Some(at) => Some(super::sysfs::mount(
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
            added.map_err(|errno| Failure::new(Kind::Failed, format!("hot_add: {errno}")))?;
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

impl Args {
    /// Reads the configuration and checks what can be checked without making anything.
    fn wanted(&self) -> Result<Wanted> {
        let usage = |error: &dyn std::fmt::Display| Failure::new(Kind::Usage, error);
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
            let checked = check(device);
            let name = device.name.as_deref().unwrap_or_default();
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

/// Whether `uzram create` would understand it.
fn check(device: &NewDevice) -> Result {
    let create = Create::of_options(&device.create_options())?;
    let mut command: Vec<std::ffi::OsString> = vec!["create".into()];
    command.extend(create.args.into_iter().map(Into::into));
    let (create, _) = crate::parse_create(&command)?;
    create.check()
}

/// The socket that systemd listens on.
fn activated(fd: i32) -> Result<std::os::unix::net::UnixListener> {
    let mut all = listenfd::ListenFd::from_env();
    let index = usize::try_from(fd - 3).unwrap_or_default();
    let listener = all.take_unix_listener(index)?;
    listener.ok_or_else(|| Failure::new(Kind::Failed, "systemd handed over no unix socket"))
}
