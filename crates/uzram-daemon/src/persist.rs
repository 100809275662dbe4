//! Devices that outlive the machine: saved to a file when it goes down, and made of that file when it is up again.
//!
//! A device is not saved when uzramd ends, since it goes on without: see docs/design/59-persist.md. The file stays after the
//! device was made of it, until the next one is whole. Nothing but damage that reading all of it confirms has a device made
//! empty, and that only where the configuration says so. What a device was neither made of nor saved to is never overwritten
//! without a copy: the directory may not have been mounted when the device was made.

use std::collections::BTreeMap;
use std::fs::{File, OpenOptions};
use std::io;
use std::os::fd::AsFd;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use rustix::fs::FlockOperation;
use uzram_blockdev::Survey;
use uzram_control::trust::{self, Distrust, PrivateDir};
use uzram_control::{Claim, Request, Response, RunDir, RunningDevice, SnapshotReport, size};
use uzram_runtime::{client, snapshot_files, users};
use uzram_spec::{DeviceSpec, Failure, FailureKind, Result, SnapshotSource};

use crate::api::CreateAnswer;
use crate::config::{DaemonSettings, NewDevice};
use crate::filesystem;
use crate::problem::summary;
use crate::setup::{Wanted, mount_point};

/// The mode of a file: it holds what the device holds.
const MODE: u32 = 0o600;
/// How long a file system that is in use is tried to be unmounted: systemd may be ending its users just now.
const PATIENCE: Duration = Duration::from_secs(5);
/// How often.
const AGAIN: Duration = Duration::from_millis(200);
/// File that keeps two of these programs from saving to a directory at once.
const LOCK: &str = ".lock";
/// File in a device's run directory: the path of the snapshot that it was made of, or saved to.
const SAVED: &str = "saved";
/// Devices that are saved at once: one whose server stands still must not keep the others from it.
const AT_ONCE: usize = 4;

/// What a section says about its device's life after the machine's end.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Persist {
    /// Whether it has one. `None`: as the daemon's settings say.
    pub wanted: Option<bool>,
    /// The directory of its file, if it is not that of the daemon's settings.
    pub dir: Option<PathBuf>,
    /// Whether it is made empty if the file is damaged.
    pub or_empty: bool,
    /// What counts beside the snapshot's own, as of `from`; without the file. `None` for swap.
    pub(crate) source: Option<SnapshotSource>,
}

impl Persist {
    /// Of what is never saved, whatever the daemon's settings say.
    pub(crate) fn never() -> Persist {
        Persist {
            wanted: Some(false),
            ..Persist::default()
        }
    }
}

/// Where a device is saved, and what becomes of it.
pub(crate) struct Place {
    dir: PathBuf,
    name: String,
    or_empty: bool,
    source: SnapshotSource,
}

impl NewDevice {
    /// Where it is saved; `None` if it is not.
    pub(crate) fn place(&self, settings: &DaemonSettings) -> Option<Place> {
        let Persist {
            wanted,
            dir,
            or_empty,
            source,
        } = &self.persist;
        if !wanted.unwrap_or(settings.persist) {
            return None;
        }
        Some(Place {
            dir: dir.as_ref().unwrap_or(&settings.persist_dir).clone(),
            name: self.spec.name.clone()?,
            or_empty: *or_empty,
            source: source.clone()?,
        })
    }
}

impl Place {
    fn file_name(&self) -> String {
        format!("{}.uzsnap", self.name)
    }

    pub(crate) fn file(&self) -> PathBuf {
        self.dir.join(self.file_name())
    }

    /// What was saved, if anything was. Refuses what another user could have put there.
    pub(crate) fn saved(&self) -> Result<Option<PathBuf>> {
        let dir = match PrivateDir::open(&self.dir) {
            Ok(Some(dir)) => dir,
            Ok(None) => return Ok(None),
            Err(Distrust::System { source, .. }) if source.kind() == io::ErrorKind::NotFound => {
                return Ok(None);
            }
            Err(why) => return Err(distrusted(&why)),
        };
        let file = dir.path().join(self.file_name());
        match file.symlink_metadata() {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(told(&file, &error)),
            Ok(found) if !found.is_file() => {
                let message = format!("persist: {} is no regular file", file.display());
                return Err(Failure::usage(message));
            }
            Ok(_) => {}
        }
        trust::check_file(&file).map_err(|why| distrusted(&why))?;
        Ok(Some(file))
    }

    /// The device as it is made of what was saved.
    fn restored(&self, spec: &DeviceSpec, file: &Path) -> DeviceSpec {
        let from = SnapshotSource {
            file: file.into(),
            remote: String::new(),
            // The next save replaces the file, so no clone of it may be left.
            lazy: false,
            ..self.source.clone()
        };
        DeviceSpec {
            from: Some(from),
            ..spec.clone()
        }
    }

    /// Whether a file of which no device could be made is to be put aside. Fails with why none could be made if not.
    fn is_given_up(&self, file: &Path, failure: Failure) -> Result<Failure> {
        match snapshot_files::damage(file) {
            None => Err(failure),
            Some(_) if !self.or_empty => Err(failure.with_hint(
                "it stays, and the device is not made: move it away, or set persist-or-empty, and the device is made empty",
            )),
            Some(damage) => Ok(damage),
        }
    }

    /// Refuses what can be seen to be impossible.
    pub(crate) fn check(&self, spec: &DeviceSpec) -> Result {
        let Some(file) = self.saved()? else {
            return uzram_runtime::check(spec);
        };
        match uzram_runtime::check(&self.restored(spec, &file)) {
            Ok(()) => Ok(()),
            Err(failure) => {
                self.is_given_up(&file, failure)?;
                uzram_runtime::check(spec)
            }
        }
    }

    /// Makes the device of what was saved, if anything was. Whether it has no contents yet.
    pub(crate) fn create(
        &self,
        spec: &DeviceSpec,
        run: &RunDir,
        create: impl Fn(&DeviceSpec) -> Result<CreateAnswer>,
    ) -> Result<(CreateAnswer, bool)> {
        if let Some(file) = self.saved()? {
            match create(&self.restored(spec, &file)) {
                Ok(created) => {
                    if let Ok(entry) = run.find(&created.name) {
                        note_saved(&entry, &file);
                    }
                    let (name, file) = (&self.name, file.display());
                    tracing::info!(name, %file, "made of what was saved");
                    return Ok((created, false));
                }
                Err(failure) => {
                    let damage = self.is_given_up(&file, failure)?;
                    let aside = put_aside(&file).map_err(|error| told(&file, &error))?;
                    let (name, aside) = (&self.name, aside.display());
                    tracing::error!(name, "{damage}: it is {aside} now, and the device is empty");
                }
            }
        }
        Ok((create(spec)?, spec.from.is_none()))
    }

    /// Has the device's server write it. The file before stays until the new one is whole.
    fn write(&self, entry: &RunningDevice) -> Result<SnapshotReport> {
        let file = self.file();
        let failed = |error: io::Error| told(&file, &error);
        let part = self.dir.join(format!(".{}.part", self.file_name()));
        // What a process left that was killed is of no use.
        remove(&part).map_err(failed)?;
        let written = || -> Result<SnapshotReport> {
            let mut options = OpenOptions::new();
            // Readable, so that the server can write it in two passes.
            options.read(true).write(true).create_new(true).mode(MODE);
            let target = options.open(&part).map_err(failed)?;
            let report = take(entry, &target).map_err(|failure| {
                let message = format!("persist: {}: {}", file.display(), failure.message);
                Failure { message, ..failure }
            })?;
            self.keep_foreign(entry, &file).map_err(failed)?;
            std::fs::rename(&part, &file).map_err(failed)?;
            // The name, too, is to be there after a power cut.
            let synced = File::open(&self.dir).and_then(|dir| dir.sync_all());
            synced.map_err(failed)?;
            Ok(report)
        };
        let report = written().inspect_err(|_| {
            let _ = remove(&part);
        })?;
        note_saved(entry, &file);
        Ok(report)
    }

    /// Gives a file that is about to be replaced another name, too, if the device has nothing to do with it. One such is kept,
    /// the first.
    fn keep_foreign(&self, entry: &RunningDevice, file: &Path) -> io::Result<()> {
        if file.symlink_metadata().is_err() || is_saved(entry, file) {
            return Ok(());
        }
        let before = file.with_file_name(format!("{}.before", self.file_name()));
        let (name, shown) = (&self.name, before.display());
        match std::fs::hard_link(file, &before) {
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
                tracing::warn!(
                    name,
                    "was not made of the file that is replaced now; {shown} is an older one, and stays"
                );
                return Ok(());
            }
            Ok(()) => {}
            // A file system without links, most likely.
            Err(_) => std::fs::rename(file, &before)?,
        }
        tracing::warn!(
            name,
            "was not made of the file that was there, which is {shown} now: was the directory mounted when the \
             device was made? To have it back, take the device down and give that file its name again"
        );
        Ok(())
    }
}

/// Notes what a device was made of, or saved to, for as long as it lives.
fn note_saved(entry: &RunningDevice, file: &Path) {
    let claim = Claim::adopt(&entry.dir).map_err(io::Error::other);
    let noted = claim.and_then(|claim| claim.write(SAVED, file.as_os_str().as_bytes()));
    if let Err(error) = noted {
        let name = &entry.record.name;
        tracing::warn!(name, %error, "where it was saved is not noted");
    }
}

fn is_saved(entry: &RunningDevice, file: &Path) -> bool {
    let claim = Claim::adopt(&entry.dir).ok();
    let noted = claim.and_then(|claim| claim.read(SAVED).ok());
    noted.is_some_and(|noted| noted == file.as_os_str().as_bytes())
}

/// Brings what of a clone is still elsewhere, and has a snapshot taken. The server syncs it.
fn take(entry: &RunningDevice, target: &File) -> Result<SnapshotReport> {
    while client::stat(entry)?.counters.remote_pages > 0 {
        match client::ask(entry, &Request::Hydrate)? {
            Response::Hydrated(report) if report.pages > 0 || report.left == 0 => {}
            Response::Hydrated(_) => std::thread::sleep(AGAIN),
            other => return Err(client::unexpected(entry, &other)),
        }
    }
    let request = Request::Snapshot {
        kept_max_bytes: None,
        track: false,
        since: false,
        basis: false,
        more: false,
        last: false,
    };
    match client::ask_with_files(entry, &request, &[target.as_fd()])? {
        Response::Snapshot(report) => Ok(report),
        other => Err(client::unexpected(entry, &other)),
    }
}

fn remove(file: &Path) -> io::Result<()> {
    match std::fs::remove_file(file) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

/// Gives a file another name, which none has.
fn put_aside(file: &Path) -> io::Result<PathBuf> {
    let name = |number: u32| {
        let mut name = file.as_os_str().to_owned();
        name.push(match number {
            1 => ".damaged".to_owned(),
            number => format!(".damaged-{number}"),
        });
        PathBuf::from(name)
    };
    let is_free = |name: &PathBuf| name.symlink_metadata().is_err();
    let free = (1..).map(name).find(is_free);
    let free = free.ok_or(io::ErrorKind::AlreadyExists)?;
    std::fs::rename(file, &free)?;
    Ok(free)
}

fn told(file: &Path, error: &io::Error) -> Failure {
    let message = format!("persist: {}: {error}", file.display());
    Failure::new(FailureKind::from_io(error), message)
}

fn distrusted(why: &Distrust) -> Failure {
    match why {
        Distrust::System { source, .. } => {
            Failure::new(FailureKind::from_io(source), format!("persist: {why}"))
        }
        _ => Failure::usage(format!(
            "persist: {why}, and could change what the device holds"
        ))
        .with_hint("it takes a directory of the same user's that nobody else may write to"),
    }
}

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
        let Some(place) = device.place(&wanted.settings) else {
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
                let place = Place { dir, ..place };
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
