//! `uzram daemon`, known as `uzramd`.

use std::fs::File;
use std::os::fd::IntoRawFd;
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::Command;

use uzram_daemon::{Run, Task};
use uzram_runtime::process;

use crate::exit::{Failure, Kind, Result};

/// Run uzramd, the daemon that owns the devices
///
/// It answers an API (HTTP and JSON) on a unix socket, makes the devices of its configuration, lets devices be
/// hot-added and hot-removed through zram's own interface, and holds every device's memory: the contents outlive the
/// death of server and keeper at once. `uzram create` makes devices through it while it runs. When it ends the devices
/// stay, and a new daemon finds them.
///
/// Devices with "persist = true" in the configuration are made of what --save saved of them. uzramd-persist.service calls
/// "uzramd --save --unmount" when the machine goes down; that uzramd ends saves nothing.
///
/// Devices that a [[nbd]] of the configuration names are offered at one address by a process of their own, "uzram nbd", which
/// is started again when it ends, and ends with the daemon.
///
/// An entry of the configuration that is wrong keeps no other from being made: it is logged, with file and section.
///
/// The API takes 64 connections with one request each, whose head has at most 16 KiB and 64 headers, and whose body at
/// most 1 MiB, or 3 MiB where it asks the server of a device. A client has 10 s to send it and 10 s to read the answer. Of clients that keep it waiting the oldest
/// gives its place to a new one.
///
/// With ZRAM_GENERATOR_ROOT=DIR in its environment, files of zram-generator are those below DIR, to try a configuration.
#[derive(clap::Args)]
#[command(after_help = "\
Examples:
  uzramd
  curl --unix-socket /run/uzram/uzramd.sock http://localhost/v1/devices
  curl --unix-socket /run/uzram/uzramd.sock http://localhost/v1/openapi.json
  curl --unix-socket /run/uzram/uzramd.sock http://localhost/v1/devices -d '{\"size\":\"4G\",\"algorithm\":\"zstd\"}'")]
pub(crate) struct Args {
    /// The configuration [default: /etc/uzram.toml, if there is one]. SIGHUP has it read again: devices that are new in it are
    /// made, and what is offered at an address becomes what it says
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// Only check the configuration: uzram.toml, and zram-generator.conf where that says so. Lists what would be saved and
    /// where, and all that is wrong; the exit code is then that of "uzram create"
    #[arg(long)]
    check: bool,
    /// Only save the devices that have "persist", each to its file, and end. A file system that is mounted is saved as a power
    /// cut would leave it
    #[arg(long, conflicts_with = "check")]
    save: bool,
    /// Unmount before what is mounted at the mount-point of such a device, as when the machine goes down
    #[arg(long, requires = "save")]
    unmount: bool,
}

/// Its name.
const PROGRAM: &str = "uzramd";

impl Args {
    /// Runs the daemon in this process.
    pub(crate) fn run(self, log: &str) -> Result {
        let run = Run {
            config: self.config,
            task: match (self.check, self.save) {
                (true, _) => Task::Check,
                (_, true) => Task::Save {
                    unmount: self.unmount,
                },
                _ => Task::Serve,
            },
            log: log.into(),
        };
        run.run()
    }

    /// Runs the daemon in this process, and has the `uzram` beside it keep and serve what it makes, as whatever
    /// `uzram create` makes.
    pub(crate) fn run_alone(self, log: &str) -> Result {
        match server() {
            Ok(server) => process::serve_with(server),
            // Without one a configuration can be checked, but for what is in remotes, and devices be saved.
            Err(_) if self.check || self.save => {}
            Err(failure) => return Err(failure),
        }
        self.run(log)
    }

    /// Becomes the daemon, which is a program of its own; returns where that fails.
    pub(crate) fn exec(self, log: &str) -> Result {
        let program = beside(PROGRAM).unwrap_or_else(|| PROGRAM.into());
        let mut command = Command::new(&program);
        command.args(["--log", log]);
        if let Some(config) = self.config {
            command.arg("--config").arg(config);
        }
        let flags = [
            (self.check, "--check"),
            (self.save, "--save"),
            (self.unmount, "--unmount"),
        ];
        command.args(
            flags
                .iter()
                .filter(|(given, _)| *given)
                .map(|(_, flag)| flag),
        );
        let error = command.exec();
        let message = format!(
            "cannot execute {}: {error}: it is installed beside uzram",
            program.display()
        );
        Err(Failure::impossible(message))
    }
}

/// The program that serves, as an open file: it stays the same if another is installed in its place.
fn server() -> Result<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let on_path = || {
        let mut places = std::env::split_paths(&path).map(|dir| dir.join("uzram"));
        places.find(|file| file.is_file())
    };
    let missing = || {
        let message = "no program uzram, which serves the devices, beside uzramd or on PATH";
        Failure::impossible(message)
    };
    let program = beside("uzram").or_else(on_path).ok_or_else(missing)?;
    let opened = File::open(&program).map_err(|error| {
        Failure::new(
            Kind::from_io(&error),
            format!("{}: {error}", program.display()),
        )
    })?;
    // For as long as this process lives.
    Ok(format!("/proc/self/fd/{}", opened.into_raw_fd()).into())
}

/// A program beside this one.
fn beside(name: &str) -> Option<PathBuf> {
    let path = std::env::current_exe().ok()?.with_file_name(name);
    path.is_file().then_some(path)
}
