//! Running a program for which uzram's devices are zram's: `uzram shim -- COMMAND`.
//!
//! A thread takes a mount namespace of its own, puts the tree on `/sys/block`, `/sys/class/zram-control`,
//! `/sys/class/block`, `/sys/dev/block` and debugfs' place, a passing-through `/dev` with `zramN` nodes on `/dev`, and starts
//! the command. Other threads, which stay outside and so never look through these mounts, serve them. The namespace ends
//! with its last process, whatever ends that: nothing outside is ever changed and nothing is there to be cleaned up.
//!
//! # What the command sees
//!
//! * The kernel's own zram is hidden, except below `/sys/devices`, where no tool looks for it; all other devices, classes and nodes are there and live.
//! * `/dev/zramN` exists from the moment in which the device does. One without a node is there, too, but opens with ENXIO.
//! * `modprobe`, `rmmod`, `modinfo` and `lsmod` know a module `zram`, whose devices are the view's; for other modules they are
//!   the real ones, if there are any.
//! * `/lib/modules/RELEASE/modules.builtin` names zram, if [`Options::modules`].
//! * `/proc` is as it is: `/proc/mounts` and `/proc/swaps` name nodes as the command named them.
//!
//! What the command makes or removes in `/dev` is made and removed in the real one, apart from `zramN`, which come and go with
//! the devices (EPERM).

mod devices;
mod namespace;
mod overmount;
mod programs;

use std::ffi::{OsStr, OsString};
use std::path::PathBuf;
use std::process::{Command, ExitStatus};
use std::sync::{Arc, Mutex, mpsc};
use std::thread;

use rustix::mount::MountAttrFlags;
use rustix::process::{Pid, Signal, kill_process};
use signal_hook::consts::{SIGHUP, SIGINT, SIGQUIT, SIGTERM};
use signal_hook::iterator::Signals;
use uzram_control::zram::View;

use crate::inodes::lock;
use crate::{Error, Tree, mounts, sys};
use devices::Devices;

/// Where PATH leads when there is none.
const DEFAULT_PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// What of the system is replaced besides the devices.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct Options {
    /// Make `/lib/modules/RELEASE/modules.builtin` name zram: some test suites look for the driver there.
    pub modules: bool,
    /// Stand in for `modprobe` and its kind.
    pub programs: bool,
    /// See [`Tree::strict`].
    pub strict: bool,
    /// What the command has in its environment besides.
    pub env: Vec<(OsString, OsString)>,
}

impl Default for Options {
    fn default() -> Options {
        Options {
            modules: true,
            programs: true,
            strict: true,
            env: Vec::new(),
        }
    }
}

/// Runs a command in a mount namespace in which the view's devices are zram's, and waits for it.
///
/// SIGTERM and SIGHUP are handed on to the command; SIGINT and SIGQUIT are left to it, which a terminal sends them to as
/// well. The command is killed if this process dies.
pub fn run(
    view: Arc<dyn View>,
    options: &Options,
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
    // Their sessions end with the last mount, so when the last process of the namespace does.
    let (tree, _tree) = Tree::merged(view.clone())?.strict(options.strict).serve()?;
    let attributes = MountAttrFlags::MOUNT_ATTR_NOSUID | MountAttrFlags::MOUNT_ATTR_NOATIME;
    let (dev, _dev) = mounts::serve(Devices::new(view)?, "uzram-dev", attributes)?;
    // Signals are caught from before there is a second table of descriptors, so the way to their thread is in both.
    let signals = Signals::new([SIGTERM, SIGHUP, SIGINT, SIGQUIT]);
    let signals = signals.map_err(Error::at("waiting for signals"))?;
    let (placed, is_placed) = mpsc::channel::<()>();
    let mounts = Mutex::new(Some((tree, dev)));
    let mounts = &mounts;
    let inside = move || -> Result<ExitStatus, Error> {
        // Dropped when all is placed, or nothing will be.
        let placed = placed;
        namespace::enter(mounts, options)?;
        drop(placed);
        let mut command = Command::new(program);
        command.args(arguments);
        // systemd's programs (systemd-makefs among them) refuse a /sys that is not sysfs, unless they are told.
        command.env("SYSTEMD_DEVICE_VERIFY_SYSFS", "0");
        command.envs(options.env.clone());
        if options.programs {
            command.env("PATH", programs::path(std::env::var_os("PATH").as_deref()));
        }
        // By its path, so that it is looked up through the mounts.
        if let Ok(here) = std::env::current_dir() {
            command.current_dir(here);
        }
        start_and_wait(command, program, signals)
    };
    thread::scope(|scope| {
        let thread = thread::Builder::new()
            .name("uzram-shim".into())
            .spawn_scoped(scope, inside)
            .map_err(Error::at("starting a thread"))?;
        // Nothing is ever sent. While this process has them open the mounts outlive their namespace.
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
                // It is not waited for before the loop ends, so the number is still its own.
                if let Some(pid) = pid {
                    let _ = kill_process(pid, signal);
                }
            }
        });
        let status = child.wait();
        handle.close();
        status.map_err(Error::at("waiting for the command"))
    })
}
