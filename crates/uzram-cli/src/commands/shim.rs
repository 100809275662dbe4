//! `uzram shim`: a command for which uzram's devices are the kernel's zram.

use std::ffi::OsString;
use std::os::unix::process::ExitStatusExt;
use std::process::ExitStatus;
use std::sync::Arc;

use uzram_control::RunDir;
use uzram_control::zram::{Errno, Owner, View};
use uzram_daemon::{Client, SOCKET};
use uzram_sysfs::shim;

use crate::daemon::Local;
use crate::exit::{Failure, Kind, Result};
use crate::frontends::Choice;
use crate::sweep;

/// Run a command for which uzram's devices are the kernel's zram
///
/// In a mount namespace of its own /sys/block, /sys/class/zram-control, /sys/dev/block, zram's part of debugfs, /dev/zramN,
/// and modprobe and rmmod of zram are uzram's; everything else passes through, and nothing changes outside. Needs root.
///
/// The devices are uzramd's, where that runs. Otherwise they go when the command ends, unless they are in use.
#[derive(clap::Args)]
#[command(after_help = "\
Examples:
  uzram shim -- zramctl --find --size 1G --algorithm zstd
  uzram shim -- sh -c 'modprobe zram num_devices=2; ls /dev/zram*; cat /sys/block/zram0/comp_algorithm'
  uzram shim                        # a shell

The exit code is the command's; 128 and its number for a signal; 127 where there is no such command, 126 where it
cannot be executed.")]
pub(crate) struct Args {
    /// How devices are served that the command makes, unless uzramd makes them [default: auto]
    #[arg(long, short, value_name = "NAME")]
    frontend: Option<Choice>,
    /// Allow what the kernel's zram does not: another algorithm for a device in use, another size, a file as backing
    #[arg(long)]
    more: bool,
    /// Leave modprobe, rmmod, modinfo and lsmod as they are
    #[arg(long)]
    no_modprobe: bool,
    /// The command and its arguments [default: $SHELL]
    #[arg(last = true, value_name = "COMMAND")]
    command: Vec<OsString>,
}

impl Args {
    pub(crate) fn run(self) -> Result {
        let mut command = self.command;
        if command.is_empty() {
            command.push(std::env::var_os("SHELL").unwrap_or_else(|| "/bin/sh".into()));
        }
        let mut options = shim::Options::default();
        options.strict = !self.more;
        options.programs = !self.no_modprobe;
        let run = sweep::swept_run_dir()?;
        let ran = match Client::find(&run.file(SOCKET)) {
            Some(daemon) if self.frontend.is_none() && !self.more => {
                shim::run(Arc::new(daemon), &options, &command)
            }
            Some(_) => {
                let message = "--frontend and --more are for devices without uzramd, which runs: see its configuration";
                return Err(Failure::new(Kind::Usage, message));
            }
            None => with_own_devices(run, self.frontend, !self.more, &options, &command),
        };
        let code = match ran {
            Err(error @ uzram_sysfs::Error::Command { .. }) => {
                eprintln!("uzram: {error}");
                not_executed(&error)
            }
            ran => code(ran?),
        };
        match code {
            0 => Ok(()),
            code => std::process::exit(code),
        }
    }
}

/// With devices that go when the command ends.
fn with_own_devices(
    run: RunDir,
    frontend: Option<Choice>,
    strict: bool,
    options: &shim::Options,
    command: &[OsString],
) -> std::result::Result<ExitStatus, uzram_sysfs::Error> {
    let local = Local::new(run, frontend.unwrap_or_default(), strict, None);
    let ids = || -> Vec<u32> {
        let devices = local.devices().unwrap_or_default();
        devices.into_iter().map(|device| device.id).collect()
    };
    let before = ids();
    let status = shim::run(local.clone(), options, command);
    for id in ids().into_iter().filter(|id| !before.contains(id)) {
        let removed = local.store(Owner::Control, "hot_remove", id.to_string().as_bytes());
        match removed {
            Ok(()) => {}
            Err(Errno::BUSY) => eprintln!("uzram: zram{id} is in use and stays"),
            Err(errno) => eprintln!("uzram: removing zram{id}: {errno}"),
        }
    }
    status
}

/// As `env` and its kind say it.
fn not_executed(error: &uzram_sysfs::Error) -> i32 {
    match error {
        uzram_sysfs::Error::Command { source, .. }
            if source.kind() == std::io::ErrorKind::NotFound =>
        {
            127
        }
        _ => 126,
    }
}

/// As shells say it.
fn code(status: ExitStatus) -> i32 {
    let by_signal = status.signal().map(|signal| 128 + signal);
    status.code().or(by_signal).unwrap_or(1)
}
