//! Devices that outlive the machine: the file that one is saved to when the machine goes down, and made of when it is up again.
//! `save.rs` says when and which.
//!
//! A device is not saved when uzramd ends, since it goes on without: see docs/design/59-persist.md. The file stays after the
//! device was made of it, until the next one is whole. Nothing but damage that reading all of it confirms has a device made
//! empty, and that only where the configuration says so. What a device was neither made of nor saved to is never overwritten
//! without a copy: the directory may not have been mounted when the device was made.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::fd::AsFd;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use uzram_control::trust::{self, Distrust, PrivateDir};
use uzram_control::{Claim, Request, Response, RunDir, RunningDevice, SnapshotReport};
use uzram_runtime::{client, snapshot_files};
use uzram_spec::{DeviceSpec, Failure, FailureKind, Result, SnapshotSource};

use crate::api::CreateAnswer;
use crate::config::DaemonSettings;

/// Between two attempts to bring what of a clone others are bringing.
const PAUSE: Duration = Duration::from_millis(200);
/// The mode of a file: it holds what the device holds.
const MODE: u32 = 0o600;
/// File in a device's run directory: the path of the snapshot that it was made of, or saved to.
const SAVED: &str = "saved";

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

    /// Which of the daemon's settings counts for it that could not be read.
    pub(crate) fn unread(&self, settings: &DaemonSettings) -> Option<&'static str> {
        let can_be_saved = self.source.is_some() && self.wanted != Some(false);
        let counts = |key: &str| match key {
            "persist" => self.wanted.is_none(),
            _ => self.dir.is_none(),
        };
        let mut unread = settings.unread.iter().copied();
        unread.find(|key| can_be_saved && counts(key))
    }

    /// Where the device of this name is saved; `None` if it is not. The daemon's settings say what counts where this says
    /// nothing.
    pub(crate) fn place(&self, name: &str, wanted: bool, dir: &Path) -> Option<Place> {
        if !self.wanted.unwrap_or(wanted) {
            return None;
        }
        Some(Place {
            dir: self.dir.as_deref().unwrap_or(dir).into(),
            name: name.into(),
            or_empty: self.or_empty,
            source: self.source.clone()?,
        })
    }
}

/// Where a device is saved, and what becomes of it.
pub(crate) struct Place {
    pub(crate) dir: PathBuf,
    pub(crate) name: String,
    or_empty: bool,
    source: SnapshotSource,
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
    pub(crate) fn write(&self, entry: &RunningDevice) -> Result<SnapshotReport> {
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
            Response::Hydrated(_) => std::thread::sleep(PAUSE),
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

pub(crate) fn told(file: &Path, error: &io::Error) -> Failure {
    let message = format!("persist: {}: {error}", file.display());
    Failure::new(FailureKind::from_io(error), message)
}

pub(crate) fn distrusted(why: &Distrust) -> Failure {
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
