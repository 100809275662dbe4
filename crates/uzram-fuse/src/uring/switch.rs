//! The kernel's switch for FUSE over io_uring, a parameter of module fuse.
//!
//! The kernel looks at it when a connection begins, and never again for that connection. So it is on for the milliseconds
//! that a mount takes, and then as it was: a device in use needs nothing of it, and there is nothing to give back with the last
//! one. Two that mount at once take turns by a lock on the parameter's file. A mark beside the mount's directory says that this
//! process has switched it on. Should the process be killed meanwhile, whoever serves or clears the device next switches it off.

use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use rustix::fs::{FlockOperation, flock};
use rustix::io::Errno;

const PARAMETER: &str = "/sys/module/fuse/parameters/enable_uring";
/// What a mark's name ends with. The rest is its mount's directory.
const MARK: &str = ".switched-on";
/// How long another one's mount is waited for.
const PATIENCE: Duration = Duration::from_secs(5);

/// The switch, on as long as this value lives.
pub(crate) struct SwitchedOn {
    /// Where it was off before: what says so.
    mark: Option<PathBuf>,
    _lock: File,
}

/// Says why connections cannot have io_uring here, if so. Changes nothing.
pub(crate) fn check() -> Result<(), String> {
    if is_on()? {
        return Ok(());
    }
    match File::options().write(true).open(PARAMETER) {
        Ok(_) => Ok(()),
        Err(error) => Err(cannot(&error)),
    }
}

fn cannot(error: &io::Error) -> String {
    format!("{PARAMETER} is off and cannot be switched on here: {error}")
}

fn is_on() -> Result<bool, String> {
    match fs::read_to_string(PARAMETER) {
        Ok(text) => Ok(text.trim() == "Y"),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Err(
            "this kernel has no FUSE over io_uring: that takes Linux 6.14 with CONFIG_FUSE_IO_URING"
                .into(),
        ),
        Err(error) => Err(format!("{PARAMETER}: {error}")),
    }
}

/// Waits until nobody else changes the switch.
fn lock() -> Result<File, String> {
    let file = File::open(PARAMETER).map_err(|error| format!("{PARAMETER}: {error}"))?;
    let begin = Instant::now();
    loop {
        match flock(&file, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => return Ok(file),
            Err(Errno::WOULDBLOCK | Errno::INTR) if begin.elapsed() < PATIENCE => {
                std::thread::sleep(Duration::from_millis(2));
            }
            Err(error) => return Err(format!("locking {PARAMETER}: {error}")),
        }
    }
}

impl SwitchedOn {
    /// Switches it on for a mount at `at`, if it is off.
    pub(crate) fn new(at: &Path) -> Result<SwitchedOn, String> {
        is_on()?;
        let lock = lock()?;
        let mut this = SwitchedOn {
            mark: None,
            _lock: lock,
        };
        if !is_on()? {
            let mark = mark(at);
            fs::write(&mark, []).map_err(|error| format!("writing {}: {error}", mark.display()))?;
            if let Err(error) = fs::write(PARAMETER, "Y") {
                let _ = fs::remove_file(&mark);
                return Err(cannot(&error));
            }
            this.mark = Some(mark);
        }
        Ok(this)
    }

    /// Whether it was off, and so will be again.
    pub(crate) fn was_off(&self) -> bool {
        self.mark.is_some()
    }
}

impl Drop for SwitchedOn {
    fn drop(&mut self) {
        if let Some(mark) = &self.mark {
            switch_off(mark);
        }
    }
}

/// Where a mount at `at` has its mark.
fn mark(at: &Path) -> PathBuf {
    let mut name = at.as_os_str().to_owned();
    name.push(MARK);
    name.into()
}

fn switch_off(mark: &Path) {
    match fs::write(PARAMETER, "N") {
        Ok(()) => {
            // Whoever finds it otherwise switches off what is off.
            let _ = fs::remove_file(mark);
        }
        Err(error) => tracing::warn!(%error, "{PARAMETER} stays on"),
    }
}

/// Switches off what servers of the device at `dir` left on when they were killed.
pub(crate) fn restore(dir: &Path) {
    let entries = fs::read_dir(dir).into_iter().flatten().flatten();
    let is_mark = |path: &PathBuf| {
        path.as_os_str()
            .as_encoded_bytes()
            .ends_with(MARK.as_bytes())
    };
    for mark in entries.map(|entry| entry.path()).filter(is_mark) {
        match lock() {
            Ok(_lock) => switch_off(&mark),
            Err(error) => tracing::warn!("{PARAMETER} may have been left on: {error}"),
        }
    }
}
