//! `uzram shim`: a command for which uzram's devices are the kernel's zram.

use std::ffi::OsString;
use std::fs::File;
use std::os::unix::process::ExitStatusExt;
use std::path::Path;
use std::process::ExitStatus;
use std::sync::Arc;

use rustix::fs::FlockOperation;
use uzram_blockdev::{SwapArea, swap_on};
use uzram_control::RunDir;
use uzram_control::zram::{AttributeOwner, Errno, View};
use uzram_sysfs::shim;

use uzram_runtime::client;
use uzram_runtime::zram::Local;
use uzram_spec::AUTO;

use super::{create, find_daemon};
use crate::exit::{self, Failure, Result};
use crate::frontend_args::frontend_name;
use uzram_runtime::sweep;

/// Directory of a shim's devices in the run directory, before its process number.
const PREFIX: &str = "shim.";
/// File in it that is locked while the shim lives.
const ALIVE: &str = "alive";

/// Run a command for which uzram's devices are the kernel's zram
///
/// In a mount namespace of its own /sys/block, /sys/class/zram-control, /sys/dev/block, zram's part of debugfs, /dev/zramN,
/// and modprobe and rmmod of zram are uzram's; everything else passes through, and nothing changes outside. Needs root.
///
/// Where uzramd runs the devices are uzramd's, all of them: rmmod zram removes them. Otherwise the command has devices of
/// its own, which no other shim and no other command sees, and which go when it ends, unless they are in use.
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
    #[arg(long, short, value_name = "NAME", value_parser = frontend_name)]
    frontend: Option<String>,
    /// Allow what the kernel's zram does not: another algorithm for a device in use, another size, a file as backing
    #[arg(long)]
    more: bool,
    /// Say nothing where a device becomes swap that is not safe for that: only ublk is
    #[arg(long)]
    allow_unsafe_swap: bool,
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
        let mut options = shim::ShimOptions::default();
        options.strict = !self.more;
        options.programs = !self.no_modprobe;
        options.swap_warning = !self.allow_unsafe_swap;
        let run = sweep::swept_run_dir()?;
        let ran = match find_daemon(&run)? {
            Some(daemon) if self.frontend.is_none() && !self.more => {
                let daemon = Arc::new(daemon);
                let ran = shim::run(daemon.clone(), &options, &command);
                // Swap by its node's own name is somebody else's.
                tell_of_swap(&*daemon, |area, node| area.path != node);
                ran
            }
            Some(_) => {
                let message = "--frontend and --more are for devices without uzramd, which runs: see its configuration";
                return Err(Failure::usage(message));
            }
            None => with_own_devices(
                &run,
                self.frontend.as_deref(),
                !self.more,
                &mut options,
                &command,
            )?,
        };
        let code = match ran {
            Err(error @ uzram_sysfs::Error::Command { .. }) => {
                exit::tell(&error);
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

/// With devices of its own, in a run directory of their own, which go when the command ends.
fn with_own_devices(
    all: &RunDir,
    frontend: Option<&str>,
    strict: bool,
    options: &mut shim::ShimOptions,
    command: &[OsString],
) -> Result<std::result::Result<ExitStatus, uzram_sysfs::Error>> {
    all.make()?;
    clear_dead(all)?;
    let dir = all.file(&format!("{PREFIX}{}", std::process::id()))?;
    let run = RunDir::new(&dir);
    run.make()?;
    let alive = File::create(dir.join(ALIVE))?;
    rustix::fs::flock(&alive, FlockOperation::LockExclusive).map_err(std::io::Error::from)?;
    options
        .env
        .push(("UZRAM_RUN_DIR".into(), dir.clone().into()));
    options.env.push((create::IN_SHIM.into(), "1".into()));
    let local = Local::new(run.clone(), frontend.unwrap_or(AUTO), strict, None);
    if !options.swap_warning {
        local.allow_unsafe_swap();
    }
    let status = shim::run(local.clone(), options, command);
    tell_of_swap(&*local, |_, _| true);
    // First those that have no size: their loop devices are kept by this process.
    for device in local.devices().unwrap_or_default() {
        let id = device.id;
        let removed = local.store(
            AttributeOwner::Control,
            "hot_remove",
            id.to_string().as_bytes(),
        );
        match removed {
            Ok(()) => {}
            Err(refusal) if refusal.errno == Errno::BUSY => exit::tell(format!(
                "zram{id} ({}) is in use and stays until the next shim ends; UZRAM_RUN_DIR={} uzram list shows it",
                device.path,
                dir.display()
            )),
            Err(refusal) => exit::tell(format!("removing zram{id}: {refusal}")),
        }
    }
    clear(&dir)?;
    drop(alive);
    Ok(status)
}

/// Says of each device that is still swap how to end that: the name that it had in the shim is gone.
fn tell_of_swap(view: &dyn View, is_ours: impl Fn(&SwapArea, &Path) -> bool) {
    for device in view.devices().unwrap_or_default() {
        let (id, node) = (device.id, Path::new(&device.path));
        if node.is_absolute() && swap_on(node).is_some_and(|area| is_ours(&area, node)) {
            exit::tell(format!(
                "zram{id} is still swap, and /dev/zram{id} was its name in the shim alone: swapoff {}",
                node.display()
            ));
        }
    }
}

/// Takes down what shims left that were killed, or whose devices were in use.
fn clear_dead(all: &RunDir) -> Result {
    let dir = all.path()?;
    for entry in std::fs::read_dir(&dir)?.flatten() {
        let is_shim = entry.file_name().to_string_lossy().starts_with(PREFIX);
        let Ok(alive) = File::open(entry.path().join(ALIVE)) else {
            continue;
        };
        let flags = FlockOperation::NonBlockingLockExclusive;
        if !is_shim || rustix::fs::flock(&alive, flags).is_err() {
            continue;
        }
        clear(&entry.path())?;
    }
    Ok(())
}

/// Takes a shim's devices down, and its directory, unless one of them is in use.
fn clear(dir: &Path) -> Result {
    let run = RunDir::new(dir);
    let _ = run.sweep(sweep::clear);
    let left = run.devices().unwrap_or_default();
    if left.iter().all(|device| client::remove(device).is_ok()) {
        std::fs::remove_dir_all(dir)?;
    }
    Ok(())
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
