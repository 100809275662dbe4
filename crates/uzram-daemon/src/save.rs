//! Saves the devices that are to outlive the machine, each to its [`Place`]: those that the configuration names, several at once.

use std::collections::BTreeMap;
use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use rustix::fs::FlockOperation;
use uzram_blockdev::Survey;
use uzram_control::trust::PrivateDir;
use uzram_control::{RunDir, RunningDevice, size};
use uzram_runtime::users;
use uzram_spec::{Failure, FailureKind, Result};

use crate::config::NewDevice;
use crate::filesystem;
use crate::persist::{Place, distrusted, told};
use crate::problem::summary;
use crate::setup::{Wanted, mount_point};

/// How long a file system that is in use is tried to be unmounted: systemd may be ending its users just now.
const PATIENCE: Duration = Duration::from_secs(5);
/// How often.
const AGAIN: Duration = Duration::from_millis(200);
/// File that keeps two of these programs from saving to a directory at once.
const LOCK: &str = ".lock";
/// Devices that are saved at once: one whose server stands still must not keep the others from it.
const AT_ONCE: usize = 4;

/// What would be saved and where, for those who ask.
pub(crate) fn plans(wanted: &Wanted) -> Vec<String> {
    let plan = |device: &NewDevice| {
        let place = device.place(&wanted.settings)?;
        let what = match place.saved() {
            Ok(Some(file)) => {
                let bytes = file.metadata().map_or(0, |found| found.len());
                format!("it is made of the {} there", size::human(bytes))
            }
            _ => "nothing is there yet".into(),
        };
        let (name, file) = (&place.name, place.file());
        Some(format!("{name}: saved to {}; {what}", file.display()))
    };
    wanted.devices.iter().filter_map(plan).collect()
}

/// A device that is about to be saved.
struct Save<'a> {
    device: &'a NewDevice,
    place: Place,
    entry: RunningDevice,
}

/// The directories that this program alone writes to now, by their real paths.
#[derive(Default)]
struct Locked(BTreeMap<PathBuf, File>);

impl Locked {
    /// Makes a directory and waits until nobody else saves to it. Returns its real path.
    fn lock(&mut self, dir: &Path) -> Result<PathBuf> {
        let dir = PrivateDir::make(dir).map_err(|why| distrusted(&why))?;
        let path = dir.path().to_owned();
        if !self.0.contains_key(&path) {
            let failed = |error: io::Error| told(&path, &error);
            let lock = dir.lock_file(LOCK).map_err(failed)?;
            rustix::fs::flock(&lock, FlockOperation::LockExclusive)
                .map_err(|e| failed(e.into()))?;
            self.0.insert(path.clone(), lock);
        }
        Ok(path)
    }
}

/// Saves all devices that are to outlive the machine, whatever happens to the others.
pub(crate) fn save_all(wanted: &Wanted, run: &RunDir, unmount: bool) -> Result {
    // One of them may be a device that nobody knows of now.
    let problems = Mutex::new(wanted.problems.clone());
    for problem in &wanted.problems {
        tracing::error!("{problem}");
    }
    let failed = |device: &NewDevice, failure: Failure| {
        let problem = device.origin.problem(failure);
        tracing::error!("{problem}");
        let mut problems = problems.lock().unwrap_or_else(PoisonError::into_inner);
        problems.push(problem);
    };
    let mut saves = Vec::new();
    let mut locked = Locked::default();
    // What is mounted below another mount point is unmounted before that.
    for device in wanted.devices.iter().rev() {
        let Some(mut place) = device.place(&wanted.settings) else {
            continue;
        };
        let at = mount_point(device).filter(|_| unmount);
        let mut ready = || -> Result<Option<(RunningDevice, PathBuf)>> {
            let Some(entry) = prepare(&place, run, at)? else {
                return Ok(None);
            };
            Ok(Some((entry, locked.lock(&place.dir)?)))
        };
        match ready() {
            Ok(None) => {}
            Ok(Some((entry, dir))) => {
                place.dir = dir;
                saves.push(Save {
                    device,
                    place,
                    entry,
                });
            }
            Err(failure) => failed(device, failure),
        }
    }
    let at_once = saves.len().min(AT_ONCE);
    let left = Mutex::new(saves.into_iter());
    let next = || left.lock().unwrap_or_else(PoisonError::into_inner).next();
    let work = || {
        while let Some(save) = next() {
            if let Err(failure) = save.run() {
                failed(save.device, failure);
            }
        }
    };
    std::thread::scope(|scope| {
        for _ in 0..at_once {
            scope.spawn(work);
        }
    });
    let problems = problems
        .into_inner()
        .unwrap_or_else(PoisonError::into_inner);
    match summary(&problems) {
        Some(failure) => Err(Failure::new(failure.kind, "not everything was saved")),
        None => Ok(()),
    }
}

/// Finds a device, and unmounts it there. `None`: it is not there.
fn prepare(place: &Place, run: &RunDir, unmounted: Option<&Path>) -> Result<Option<RunningDevice>> {
    let name = &place.name;
    let entry = match run.find(name).map_err(Failure::from) {
        Ok(entry) => entry,
        Err(failure) if failure.kind == FailureKind::NoDevice => {
            tracing::warn!(name, "is not there: what was saved of it before stays");
            return Ok(None);
        }
        Err(failure) => return Err(failure),
    };
    if let Some(at) = unmounted
        && let Err(failure) = unmount(&entry, at)
    {
        tracing::warn!(name, "{failure}");
    }
    Ok(Some(entry))
}

/// Has all that was written to a device reach it.
fn settle(entry: &RunningDevice) {
    // What was written through the node, and what a file system has not written yet.
    if let Ok(node) = File::open(&entry.record.path) {
        let _ = node.sync_all();
    }
    let mounted = mounts(entry);
    for at in &mounted {
        if let Ok(root) = File::open(at) {
            let _ = rustix::fs::syncfs(&root);
        }
    }
    if !mounted.is_empty() {
        let (name, at) = (&entry.record.name, mounted.join(", "));
        tracing::warn!(
            name,
            "is mounted at {at}: its file system is saved as a power cut would leave it"
        );
    }
}

impl Save<'_> {
    fn run(&self) -> Result {
        settle(&self.entry);
        let report = self.place.write(&self.entry)?;
        let (name, file, bytes) = (&self.place.name, self.place.file(), report.bytes);
        tracing::info!(name, file = %file.display(), bytes, "saved");
        Ok(())
    }
}

/// Where a device is mounted.
fn mounts(entry: &RunningDevice) -> Vec<String> {
    users::mounts(&Survey::new(), entry).mount_points(true)
}

/// Unmounts a device there, if it is. systemd may do the same at the same time.
fn unmount(entry: &RunningDevice, at: &Path) -> Result {
    let real = at.canonicalize().unwrap_or_else(|_| at.into());
    let is_there = || mounts(entry).iter().any(|point| Path::new(point) == real);
    let begin = Instant::now();
    while is_there() {
        match filesystem::run(Command::new("umount").arg(&real)) {
            Err(failure) if begin.elapsed() > PATIENCE && is_there() => return Err(failure),
            Err(_) => std::thread::sleep(AGAIN),
            Ok(()) => {}
        }
    }
    Ok(())
}
