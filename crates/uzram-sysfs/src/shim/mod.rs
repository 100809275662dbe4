//! Runs a program for which uzram's devices are zram's: `uzram shim -- COMMAND`.
//!
//! A thread makes a mount namespace of its own. It mounts the tree on `/sys/block`, `/sys/class/zram-control`,
//! `/sys/class/block`, `/sys/dev/block` and debugfs, mounts a pass-through `/dev` with `zramN` nodes on `/dev`, and starts the
//! command. Other threads serve these mounts; they stay outside and never look through them. The namespace ends with its last
//! process, however that ends: nothing outside is changed, and nothing needs to be cleaned up.
//!
//! # What the command sees
//!
//! * The kernel's own zram is hidden, except below `/sys/devices`, where no tool looks for it. All other devices, classes and
//!   nodes are the live ones.
//! * `/dev/zramN` exists exactly as long as the device. Opening one that has no real node fails with ENXIO.
//! * `modprobe`, `rmmod`, `modinfo` and `lsmod` know a module `zram` whose devices are the view's. For other modules the real
//!   programs run, if they are installed.
//! * `mkswap` and `swapon` warn of devices that are not safe as swap, and do what they do.
//! * `/lib/modules/RELEASE/modules.builtin` names zram, if [`ShimOptions::modules`] is set.
//! * `/proc` is unchanged: `/proc/mounts` and `/proc/swaps` name nodes as the command named them.
//!
//! What the command makes or removes in `/dev` is made or removed in the real one. `zramN` cannot be made or removed (EPERM):
//! they come and go with the devices.

mod dev;
mod namespace;
mod options;
mod overmount;
mod programs;
mod toolbox;

use std::ffi::{OsStr, OsString};
use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus};
use std::sync::{Arc, Mutex, mpsc};
use std::thread;

use rustix::mount::MountAttrFlags;
use rustix::process::{Pid, Signal, kill_process};
use signal_hook::consts::{SIGHUP, SIGINT, SIGQUIT, SIGTERM};
use signal_hook::iterator::Signals;
use uzram_blockdev::StepError;
use uzram_control::zram::View;

use crate::inodes::lock;
use crate::{Error, Tree, detached_mount, sys};
pub use options::ShimOptions;

use dev::DevFilesystem;

use crate::fuse::Fuse;
use toolbox::TOOLBOX;

/// Runs a command in a mount namespace in which the view's devices are zram's, and waits for it.
///
/// Forwards SIGTERM and SIGHUP to the command. Ignores SIGINT and SIGQUIT, which a terminal sends to the command as well. The
/// command is killed if this process dies.
pub fn run(
    view: Arc<dyn View>,
    options: &ShimOptions,
    command: &[OsString],
) -> Result<ExitStatus, Error> {
    let [program, arguments @ ..] = command else {
        return Err(Error::NoCommand);
    };
    if !rustix::process::geteuid().is_root() {
        return Err(Error::NeedsRoot {
            what: "a mount namespace",
        });
    }
    // The sessions end with their last mount, which goes with the last process of the namespace.
    let (tree, _tree) = Tree::merged(view.clone())?.strict(options.strict).serve()?;
    let attributes = MountAttrFlags::MOUNT_ATTR_NOSUID | MountAttrFlags::MOUNT_ATTR_NOATIME;
    let dev = Fuse::new(DevFilesystem::new(view)?);
    let (dev, _dev) = detached_mount::serve(dev, "uzram-dev", attributes)?;
    // Catches signals before there is a second table of descriptors, so that both tables have the pipe to their thread.
    let signals = Signals::new([SIGTERM, SIGHUP, SIGINT, SIGQUIT]);
    let signals = signals.map_err(StepError::at("waiting for signals"))?;
    let (placed, is_placed) = mpsc::channel::<()>();
    let mounts = Mutex::new(Some((tree, dev)));
    let mounts = &mounts;
    let inside = move || -> Result<ExitStatus, Error> {
        // Dropped as soon as all mounts are placed, or cannot be.
        let placed = placed;
        namespace::enter(mounts, options)?;
        drop(placed);
        let mut command = Command::new(program);
        command.args(arguments);
        // Without it systemd's programs, such as systemd-makefs, refuse a /sys that is not sysfs.
        command.env("SYSTEMD_DEVICE_VERIFY_SYSFS", "0");
        command.envs(options.env.clone());
        if options.programs || options.swap_warning {
            let outside = std::env::var_os("PATH");
            let path = programs::search_path(Path::new(TOOLBOX), outside.as_deref());
            command.env("PATH", path);
        }
        // Set by path, so that it is looked up through the new mounts.
        if let Ok(here) = std::env::current_dir() {
            command.current_dir(here);
        }
        start_and_wait(command, program, signals)
    };
    thread::scope(|scope| {
        let thread = thread::Builder::new()
            .name("uzram-shim".into())
            .spawn_scoped(scope, inside)
            .map_err(StepError::at("starting a thread"))?;
        // Nothing is ever sent: this returns when the thread drops its end. Then drops the mounts, which would outlive their
        // namespace while this process has them open.
        let _ = is_placed.recv();
        drop(lock(mounts).take());
        let joined = thread.join();
        joined.unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    })
}

fn start_and_wait(
    mut command: Command,
    program: &OsStr,
    mut signals: Signals,
) -> Result<ExitStatus, Error> {
    sys::die_with_us(&mut command);
    let handle = signals.handle();
    let mut child = command.spawn().map_err(|source| Error::Command {
        command: PathBuf::from(program),
        source,
    })?;
    let pid = i32::try_from(child.id()).ok().and_then(Pid::from_raw);
    thread::scope(|scope| {
        scope.spawn(|| {
            for signal in signals.forever() {
                let signal = match signal {
                    SIGTERM => Signal::TERM,
                    SIGHUP => Signal::HUP,
                    _ => continue,
                };
                // The command is not reaped before the loop ends, so the number is still its own.
                if let Some(pid) = pid {
                    let _ = kill_process(pid, signal);
                }
            }
        });
        let status = child.wait();
        handle.close();
        Ok(status.map_err(StepError::at("waiting for the command"))?)
    })
}
