//! `uzram snapshot NAME FILE`: has a device's server write what the device holds at this moment.
//!
//! This program opens the file, by the rights of who calls it, and the server gets its descriptor. The file has no name, or a
//! temporary one, until it is whole and synced.
//!
//! What is sealed goes through this program, which has the key: the server writes into a socket, and knows nothing of a seal.

use std::fs::{File, OpenOptions};
use std::io::{self, IsTerminal, Read, Write};
use std::net::Shutdown;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::fs::{FileTypeExt, OpenOptionsExt};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::mpsc::{self, RecvTimeoutError, SyncSender};
use std::time::Duration;

use indicatif::{ProgressBar, ProgressStyle};
use rustix::fs::{AtFlags, CWD, Mode, OFlags};
use uzram_control::size::{self, human};
use uzram_control::{Request, Response, RunningDevice, SnapshotReport};
use uzram_remote::{Opened, Progress as UploadProgress, Uploading};
use uzram_runtime::{client, process, sweep};
use uzram_seal::{Keys, Recipients, Sealing, SealingWriter};
use uzram_snapshot::END_MARK_BYTES;

use super::super::{print, print_json, remote, to_value, unexpected};
use super::files;
use crate::exit::{self, Failure, Result};
use crate::seal_args::{self, OpenArgs};

/// How often a terminal is told how far it has come.
const TOLD: Duration = Duration::from_millis(250);
/// For how long an interrupted upload may take to give up.
const GIVE_UP: Duration = Duration::from_secs(5);
/// The mode of a new file: it holds what the device holds.
const MODE: u32 = 0o600;

#[derive(clap::Args)]
pub(crate) struct Take {
    /// The device: its name, its path or its URI
    #[arg(value_name = "NAME")]
    device: String,
    /// The file to write, which must not be there; NAME/TAG of a remote; "-" for stdout
    #[arg(value_name = "FILE", required_unless_present = "to")]
    file: Option<PathBuf>,
    /// The same as FILE
    #[arg(long, value_name = "FILE", conflicts_with = "file")]
    to: Option<PathBuf>,
    /// Replace a file that is there
    #[arg(long, short)]
    force: bool,
    /// Remember from now on what changes, so that a later one can be made with --since this. Each write looks at a bit then
    #[arg(long)]
    track: bool,
    /// Only what changed since the snapshot in this file, or of this NAME/TAG, after which the device must have tracked changes
    #[arg(long, value_name = "FILE")]
    since: Option<PathBuf>,
    /// What that one was made since in its turn, and so on to the first, which is complete: a file each
    #[arg(long, value_name = "FILE", requires = "since")]
    parent: Vec<PathBuf>,
    /// Most memory that may be kept of what is overwritten meanwhile; the default is 1/16 of the memory in use, and at
    /// least 64M
    #[arg(long, value_name = "SIZE", value_parser = size::parse)]
    memory: Option<u64>,
    /// Write the device twice: first all of it while it changes, then, at one moment, only what changed meanwhile. Less memory
    /// is kept then. For a file; done by itself where a snapshot would be given up for what it must keep
    #[arg(long, conflicts_with = "since")]
    basis: bool,
    // Not flattened: clap tells by its direct arguments whether a flattened `Option` is there.
    /// Seal it for this age recipient; may be given several times. Who keeps it cannot read it then
    #[arg(long, value_name = "RECIPIENT")]
    seal: Vec<String>,
    /// Seal it for the recipients in this file, one a line; may be given several times
    #[arg(long, value_name = "FILE")]
    seal_file: Vec<PathBuf>,
    /// Seal it by the passphrase in the first line of this file, which opens what --since names, too
    #[arg(long, value_name = "FILE", conflicts_with_all = ["seal", "seal_file"])]
    seal_passphrase_file: Option<PathBuf>,
    /// A file with an age identity that opens what --since names; may be given several times
    #[arg(long, value_name = "FILE", requires = "since")]
    identity: Vec<PathBuf>,
    /// Print JSON
    #[arg(long, short = 'J')]
    json: bool,
}

/// What a snapshot is made since.
#[derive(Default)]
struct Before {
    /// What the server needs of it.
    files: Vec<File>,
    /// Where it is in a remote. Its lease is kept until the new one is there.
    opened: Option<Opened>,
}

impl Take {
    pub(crate) fn run(self) -> Result {
        let ((Some(path), _) | (None, Some(path))) = (&self.file, &self.to) else {
            return Err(Failure::usage("name a file, or - for stdout"));
        };
        let entry = sweep::swept_run_dir()?.find(&self.device)?;
        let opening = self.opening();
        let keys = opening.keys()?;
        let passphrase = self.seal_passphrase_file.as_deref();
        let recipients = Recipients::read(&self.seal, &self.seal_file, passphrase);
        let recipients = recipients.map_err(seal_args::failure)?;
        if recipients.is_some() && self.basis {
            let message = "a sealed snapshot has no basis: the server, which has no key, would have to read it";
            return Err(Failure::usage(message));
        }
        let before = self.before(keys.as_ref())?;
        if let Some(found) = remote::reference(path) {
            let report = self.upload(&entry, found, &before, recipients.as_ref())?;
            return match self.json {
                true => print_json(&to_value(&report)?),
                false => print(&words(&entry, &report)),
            };
        }
        if keys.is_some() && recipients.is_none() {
            let message = "what it is since is sealed: --seal says for whom this one is to be";
            return Err(Failure::usage(message));
        }
        if path == Path::new("-") {
            let stdout = std::io::stdout();
            if stdout.is_terminal() {
                let message =
                    "a snapshot is not for a terminal: name a file, or send stdout to one";
                return Err(Failure::usage(message));
            }
            let own = stdout.as_fd().try_clone_to_owned()?;
            let report = match &recipients {
                None => self.take(&entry, own, &before.files, None)?,
                Some(recipients) => {
                    self.take_sealed(&entry, File::from(own), &before.files, recipients)?
                }
            };
            // Stdout has the snapshot.
            let words = match self.json {
                true => format!("{:#}\n", to_value(&report)?),
                false => words(&entry, &report),
            };
            let _ = std::io::stderr().write_all(words.as_bytes());
            return Ok(());
        }
        let target = Target::new(path, self.force)?;
        let own = target.file.try_clone()?;
        let report = match &recipients {
            None => self.take(&entry, own.into(), &before.files, None)?,
            Some(recipients) => self.take_sealed(&entry, own, &before.files, recipients)?,
        };
        target.keep()?;
        match self.json {
            true => print_json(&to_value(&report)?),
            false => print(&words(&entry, &report)),
        }
    }

    /// Has the server write into a socket, from which a thread uploads. The server waits for the byte that says that all is
    /// there: then what changes is since this snapshot, and not before.
    fn upload(
        &self,
        entry: &RunningDevice,
        (name, tag): (String, String),
        before: &Before,
        recipients: Option<&Recipients>,
    ) -> Result<SnapshotReport> {
        if self.basis {
            return Err(Failure::usage("a snapshot with a basis goes to a file"));
        }
        let sealing = self.sealing(before, recipients)?;
        let to = remote::open(&name)?;
        let device = entry.record.name.clone();
        let force = self.force;
        let uploading = Uploading {
            tag: &tag,
            force,
            device: &device,
        };
        uploading.check(&to).map_err(remote::failure)?;
        let (mut own, theirs) = UnixStream::pair()?;
        let is_cancelled = give_up_when_told(own.try_clone()?)?;
        let progress = Arc::new(UploadProgress::default());
        let so_far = progress.clone();
        let (taken, ended) = std::thread::scope(|scope| {
            let upload = scope.spawn(move || {
                let sealing = sealing.as_ref();
                let uploaded = uploading.upload_sealed(&to, &mut own, sealing, &so_far);
                if uploaded.is_ok() {
                    let _ = own.write_all(b"k");
                }
                // Whoever waits for an interrupt has this end, too: to drop it would not end the stream.
                let _ = own.shutdown(Shutdown::Both);
                uploaded
            });
            (
                self.take(entry, theirs.into(), &before.files, Some(progress)),
                upload.join(),
            )
        });
        if is_cancelled.load(Ordering::Relaxed) {
            let message = match ended {
                Ok(Ok(_)) => format!("cancelled too late: {name}/{tag} is there"),
                _ => "cancelled: the same command again sends what is missing".into(),
            };
            return Err(Failure::failed(message));
        }
        match ended {
            // The server learns no more than that nobody reads.
            Ok(Err(error)) if !cut_by(&taken, &error) => Err(remote::failure(error)),
            Ok(Ok(uploaded)) if uploaded.stored != uploaded.name => taken.map(|mut report| {
                // As the store calls them: what is inside is for who has the key.
                let parent = before
                    .opened
                    .as_ref()
                    .map(|of| of.tag.body.manifest.clone());
                report.name = uploaded.stored.to_string();
                report.parent = parent.unwrap_or_default();
                report
            }),
            _ => taken,
        }
    }

    /// How a snapshot of a remote is sealed, if it is: one that is since a sealed one is of its family.
    fn sealing(&self, before: &Before, recipients: Option<&Recipients>) -> Result<Option<Sealing>> {
        let opened = before.opened.as_ref();
        let sealing = match (opened.and_then(|of| of.readable().opened()), recipients) {
            (Some(parent), recipients) => Sealing::since(parent, recipients),
            (None, Some(recipients)) if self.since.is_none() => Sealing::new(recipients),
            (None, None) if self.opening().is_empty() => return Ok(None),
            (None, _) => {
                let message = "a sealed snapshot of a remote is complete, or since a sealed one of the same remote";
                return Err(Failure::usage(message));
            }
        };
        sealing.map(Some).map_err(seal_args::failure)
    }

    /// Has the server write into a socket, from which a thread seals what comes. The server waits for the byte that says that it
    /// is safe.
    fn take_sealed(
        &self,
        entry: &RunningDevice,
        to: File,
        before: &[File],
        recipients: &Recipients,
    ) -> Result<SnapshotReport> {
        let (mut own, theirs) = UnixStream::pair()?;
        let (taken, sealed) = std::thread::scope(|scope| {
            let sealed = scope.spawn(move || {
                let sealed = seal_whole(&mut own, to, recipients);
                if sealed.is_ok() {
                    let _ = own.write_all(b"k");
                }
                let _ = own.shutdown(Shutdown::Both);
                sealed
            });
            let taken = self.take(entry, theirs.into(), before, None);
            (taken, sealed.join())
        });
        match sealed {
            Ok(Ok(bytes)) => taken.map(|report| SnapshotReport { bytes, ..report }),
            Ok(Err(error)) => match (taken, error) {
                // It stopped, and says why.
                (Err(taken), uzram_seal::Error::Snapshot(_)) => Err(taken),
                (_, error) => Err(seal_args::failure(error)),
            },
            Err(_) => Err(Failure::failed("the thread that seals ended")),
        }
    }

    /// What opens what it is since.
    fn opening(&self) -> OpenArgs {
        OpenArgs {
            identity: self.identity.clone(),
            seal_passphrase_file: self.seal_passphrase_file.clone(),
        }
    }

    /// Opens what it is since, with these keys if that is sealed.
    fn before(&self, keys: Option<&Keys>) -> Result<Before> {
        let Some(since) = &self.since else {
            return Ok(Before::default());
        };
        if let (Some(_), None) = (keys, remote::reference(since)) {
            let snapshot = files::open(since, &self.parent, keys)?;
            return Ok(Before {
                files: vec![remote::index_of(&snapshot, since)?],
                opened: None,
            });
        }
        let mut before = Before::default();
        for path in std::iter::once(since).chain(&self.parent) {
            let file = match remote::reference(path) {
                Some(found) => {
                    let opened = remote::open_tag(found, keys, "since")?;
                    let index = remote::index(&opened)?;
                    before.opened.get_or_insert(opened);
                    index
                }
                None => File::open(path).map_err(|error| {
                    let kind = exit::Kind::from_io(&error);
                    Failure::new(kind, format!("{}: {error}", path.display()))
                })?,
            };
            before.files.push(file);
        }
        Ok(before)
    }

    /// Has the server write. `sent` is how far an upload of it has come.
    fn take(
        &self,
        entry: &RunningDevice,
        file: OwnedFd,
        before: &[File],
        sent: Option<Arc<UploadProgress>>,
    ) -> Result<SnapshotReport> {
        let request = Request::Snapshot {
            kept_max_bytes: self.memory,
            track: self.track,
            since: self.since.is_some(),
            basis: self.basis,
            more: false,
            last: false,
        };
        let files: Vec<_> = std::iter::once(file.as_fd())
            .chain(before.iter().map(File::as_fd))
            .collect();
        let progress = Progress::start(entry, sent);
        let answer = client::ask_with_files(entry, &request, &files);
        drop(progress);
        match answer? {
            Response::Snapshot(report) => Ok(report),
            other => Err(unexpected(entry, &other)),
        }
    }
}

/// Bytes that are read at a time: several chunks of a seal.
const PIECE_BYTES: usize = 256 << 10;

/// Pieces on their way from the thread that seals to the one that writes.
const AHEAD: usize = 16;

/// Has another thread write, which leaves with the first error.
struct Ahead(SyncSender<Vec<u8>>);

impl Write for Ahead {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let sent = self.0.send(bytes.to_vec());
        sent.map_err(|_| io::ErrorKind::BrokenPipe)?;
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Seals a stream, which has to be a snapshot to its end, and syncs the file. Returns its bytes.
fn seal_whole(
    from: &mut impl Read,
    mut to: File,
    recipients: &Recipients,
) -> std::result::Result<u64, uzram_seal::Error> {
    let failed = |what| move |source| uzram_seal::Error::Io { what, source };
    let (sender, pieces) = mpsc::sync_channel::<Vec<u8>>(AHEAD);
    std::thread::scope(|scope| {
        let written = scope.spawn(move || {
            let mut bytes = 0;
            for piece in pieces {
                to.write_all(&piece)?;
                bytes += piece.len() as u64;
            }
            Ok((to, bytes))
        });
        let sealed = seal_stream(from, Ahead(sender), recipients);
        let written = written.join();
        let written = written.unwrap_or_else(|_| Err(io::Error::other("a thread ended")));
        // What could not be written is the reason for what could not be sealed.
        let (to, bytes) = written.map_err(failed("write"))?;
        sealed?;
        if to.metadata().is_ok_and(|found| found.is_file()) {
            to.sync_all().map_err(failed("sync"))?;
        }
        Ok(bytes)
    })
}

fn seal_stream(from: &mut impl Read, to: Ahead, recipients: &Recipients) -> uzram_seal::Result {
    let failed = |what| move |source| uzram_seal::Error::Io { what, source };
    let mut to = SealingWriter::new(to, recipients)?;
    let (mut bytes, mut tail) = (0u64, [0; END_MARK_BYTES]);
    let mut buffer = vec![0; PIECE_BYTES];
    loop {
        let count = match from.read(&mut buffer) {
            Ok(0) => break,
            Ok(count) => count,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            Err(error) => return Err(failed("read")(error)),
        };
        let piece = &buffer[..count];
        to.write_all(piece).map_err(failed("write"))?;
        bytes += count as u64;
        let last = &piece[count.saturating_sub(END_MARK_BYTES)..];
        tail.copy_within(last.len().., 0);
        tail[END_MARK_BYTES - last.len()..].copy_from_slice(last);
    }
    if !uzram_snapshot::is_end(bytes, &tail) {
        return Err(uzram_snapshot::Error::Cut { at: bytes }.into());
    }
    to.finish().map_err(failed("write")).map(drop)
}

/// At an interrupt, ends the stream from which an upload comes: so it gives back its lease and has no tag. One that takes too
/// long over that ends with this process. Whether it was interrupted is told by what this returns.
fn give_up_when_told(stream: UnixStream) -> Result<Arc<AtomicBool>> {
    let is_cancelled = Arc::new(AtomicBool::new(false));
    let cancelled = is_cancelled.clone();
    process::when_told_to_end(move || {
        cancelled.store(true, Ordering::Relaxed);
        let _ = stream.shutdown(Shutdown::Both);
        std::thread::sleep(GIVE_UP);
        exit::tell("cancelled: the same command again sends what is missing");
        std::process::exit(1);
    })?;
    Ok(is_cancelled)
}

/// Whether an upload failed only because the server stopped, which says why.
fn cut_by(taken: &Result<SnapshotReport>, error: &uzram_remote::Error) -> bool {
    use uzram_remote::Error::Snapshot;
    taken.is_err() && matches!(error, Snapshot(uzram_snapshot::Error::Cut { .. }))
}

fn words(entry: &RunningDevice, report: &SnapshotReport) -> String {
    let basis = match report.basis_bytes {
        0 => String::new(),
        bytes => format!(", {} of it before the moment that it is of", human(bytes)),
    };
    format!(
        "{}: {} of {} in {} pages; {}{basis}, requests waited {:.1} ms\n",
        report.name,
        human(report.object_bytes),
        entry.record.name,
        report.object_pages + report.same_pages,
        human(report.bytes),
        report.pause_microseconds as f64 / 1000.0
    )
}

/// The file that is to be.
struct Target {
    path: PathBuf,
    file: File,
    force: bool,
    stage: Stage,
}

/// How it gets its name.
enum Stage {
    /// It is no regular file, and has one.
    Named,
    /// It has none yet.
    Unnamed,
    /// It has a temporary one beside it.
    Temporary(PathBuf),
    /// It is whole.
    Kept,
}

impl Target {
    fn new(path: &Path, force: bool) -> Result<Target> {
        Target::open(path, force, open_unnamed)
    }

    /// `unnamed` opens a file without a name, where the file system has such.
    fn open(
        path: &Path,
        force: bool,
        unnamed: impl FnOnce(&Path) -> Option<File>,
    ) -> Result<Target> {
        let told = |error: std::io::Error| {
            let kind = exit::Kind::from_io(&error);
            Failure::new(kind, format!("{}: {error}", path.display()))
        };
        if let Ok(found) = std::fs::metadata(path) {
            let kind = found.file_type();
            let is_stream = kind.is_fifo() || kind.is_char_device();
            if is_stream || kind.is_block_device() && force {
                let file = OpenOptions::new().write(true).open(path).map_err(told)?;
                return Ok(Target {
                    path: path.into(),
                    file,
                    force,
                    stage: Stage::Named,
                });
            }
            if !kind.is_file() {
                let message = format!("{}: not a file that a snapshot may replace", path.display());
                return Err(Failure::usage(message));
            }
        }
        if !force && path.symlink_metadata().is_ok() {
            return Err(exists(path));
        }
        // Where a link leads, so that the link stays.
        let path = path.canonicalize().unwrap_or_else(|_| path.into());
        let (file, stage) = match unnamed(dir_of(&path)) {
            Some(file) => (file, Stage::Unnamed),
            None => {
                let temporary = beside(&path);
                let file = OpenOptions::new()
                    .read(true)
                    .write(true)
                    .create_new(true)
                    .mode(MODE)
                    .open(&temporary)
                    .map_err(told)?;
                let left = temporary.clone();
                process::when_told_to_end(move || {
                    let _ = std::fs::remove_file(&left);
                    exit::tell("cancelled");
                    std::process::exit(1);
                })?;
                (file, Stage::Temporary(temporary))
            }
        };
        Ok(Target {
            path,
            file,
            force,
            stage,
        })
    }

    /// Gives it its name. The server has synced it.
    fn keep(mut self) -> Result {
        let failed = |error: std::io::Error| {
            let kind = exit::Kind::from_io(&error);
            Failure::new(kind, format!("{}: {error}", self.path.display()))
        };
        match &self.stage {
            Stage::Named | Stage::Kept => return Ok(()),
            Stage::Unnamed => {
                let unnamed = format!("/proc/self/fd/{}", self.file.as_raw_fd());
                let link = |to: &Path| {
                    let flags = AtFlags::SYMLINK_FOLLOW;
                    rustix::fs::linkat(CWD, &*unnamed, CWD, to, flags)
                };
                match link(&self.path) {
                    Err(rustix::io::Errno::EXIST) if self.force => {
                        let temporary = beside(&self.path);
                        link(&temporary).map_err(|error| failed(error.into()))?;
                        let renamed = std::fs::rename(&temporary, &self.path);
                        if renamed.is_err() {
                            let _ = std::fs::remove_file(&temporary);
                        }
                        renamed.map_err(failed)?;
                    }
                    Err(rustix::io::Errno::EXIST) => return Err(exists(&self.path)),
                    other => other.map_err(|error| failed(error.into()))?,
                }
            }
            Stage::Temporary(temporary) => {
                if !self.force {
                    // Fails where it has come to be meanwhile.
                    OpenOptions::new()
                        .write(true)
                        .create_new(true)
                        .mode(MODE)
                        .open(&self.path)
                        .map_err(failed)?;
                }
                std::fs::rename(temporary, &self.path).map_err(failed)?;
            }
        }
        self.stage = Stage::Kept;
        // The name, too, is to be there after a power cut.
        File::open(dir_of(&self.path))
            .and_then(|dir| dir.sync_all())
            .map_err(failed)
    }
}

impl Drop for Target {
    fn drop(&mut self) {
        if let Stage::Temporary(temporary) = &self.stage {
            let _ = std::fs::remove_file(temporary);
        }
    }
}

fn exists(path: &Path) -> Failure {
    let message = format!("{} is there already: --force replaces it", path.display());
    Failure::usage(message)
}

fn dir_of(path: &Path) -> &Path {
    match path.parent() {
        Some(dir) if dir != Path::new("") => dir,
        _ => Path::new("."),
    }
}

/// A temporary name in the same directory.
fn beside(path: &Path) -> PathBuf {
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    path.with_file_name(format!(".{name}.{}.part", std::process::id()))
}

/// A file without a name: nothing of it stays if this program ends before it is whole. Not every file system has them.
fn open_unnamed(dir: &Path) -> Option<File> {
    // What has a basis is read in between.
    let flags = OFlags::RDWR | OFlags::TMPFILE | OFlags::CLOEXEC;
    let file = rustix::fs::open(dir, flags, Mode::RUSR | Mode::WUSR);
    file.ok().map(File::from)
}

/// Tells a terminal how far it has come.
struct Progress {
    stop: Option<mpsc::Sender<()>>,
    thread: Option<std::thread::JoinHandle<()>>,
}

impl Progress {
    fn start(entry: &RunningDevice, sent: Option<Arc<UploadProgress>>) -> Progress {
        let nobody = Progress {
            stop: None,
            thread: None,
        };
        if !std::io::stderr().is_terminal() {
            return nobody;
        }
        let (stop, stopped) = mpsc::channel();
        let entry = entry.clone();
        let tell = move || {
            let bar = ProgressBar::new(1);
            let words = "{bar:20} {percent:>3} %, {elapsed}{wide_msg}";
            if let Ok(style) = ProgressStyle::with_template(words) {
                bar.set_style(style);
            }
            while stopped.recv_timeout(TOLD) == Err(RecvTimeoutError::Timeout) {
                let mut message = String::new();
                // Once all is written there is none, and what is left to be sent goes on.
                if let Ok(stat) = client::stat(&entry)
                    && let Some(cut) = stat.snapshot
                {
                    bar.set_length(cut.pages.max(1));
                    bar.set_position(cut.done_pages);
                    message = match cut.is_basis {
                        true => " of the basis".into(),
                        false => format!(", {} kept of what is overwritten", human(cut.kept_bytes)),
                    };
                }
                if let Some(sent) = &sent {
                    let bytes = |of: &AtomicU64| human(of.load(Ordering::Relaxed));
                    message += &format!(
                        ", {} sent, {} there already",
                        bytes(&sent.sent_bytes),
                        bytes(&sent.found_bytes)
                    );
                }
                bar.set_message(message);
            }
            bar.finish_and_clear();
        };
        let thread = std::thread::Builder::new().name("progress".into());
        match thread.spawn(tell) {
            Ok(thread) => Progress {
                stop: Some(stop),
                thread: Some(thread),
            },
            Err(_) => nobody,
        }
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        drop(self.stop.take());
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// With and without files that have no name: nothing is there before it is whole, and nothing is left beside it.
    #[test]
    fn a_file_is_whole_or_not_there() {
        for has_unnamed in [true, false] {
            let dir = tempfile::tempdir().unwrap();
            let path = dir.path().join("x");
            let open = |force| {
                let unnamed = |dir: &Path| open_unnamed(dir).filter(|_| has_unnamed);
                Target::open(&path, force, unnamed)
            };
            let write = |target: &mut Target, text: &[u8]| target.file.write_all(text).unwrap();
            let files = || std::fs::read_dir(dir.path()).unwrap().count();

            // Given up.
            let mut target = open(false).unwrap();
            write(&mut target, b"half");
            assert!(!path.exists());
            drop(target);
            assert_eq!(files(), 0);

            let mut target = open(false).unwrap();
            write(&mut target, b"one");
            target.keep().unwrap();
            assert_eq!(std::fs::read(&path).unwrap(), b"one");
            assert!(open(false).is_err());

            // The old one stays until the new one is whole.
            let mut target = open(true).unwrap();
            write(&mut target, b"two");
            assert_eq!(std::fs::read(&path).unwrap(), b"one");
            target.keep().unwrap();
            assert_eq!(std::fs::read(&path).unwrap(), b"two");
            assert_eq!(files(), 1);

            // One that came to be meanwhile stays.
            std::fs::remove_file(&path).unwrap();
            let mut target = open(false).unwrap();
            write(&mut target, b"three");
            std::fs::write(&path, b"mine").unwrap();
            assert!(target.keep().is_err());
            assert_eq!(std::fs::read(&path).unwrap(), b"mine");
            assert_eq!(files(), 1);
        }
    }
}
