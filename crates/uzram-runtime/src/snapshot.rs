//! Takes snapshots: what a device holds at one moment ([`Device::cut`]), in the format of `uzram-snapshot`.
//!
//! [`Taking`] is the library call; the server of a device calls it with the file that its client has opened. It runs in a
//! thread of its own at a low priority. Whoever asked for it cancels it by going.

use std::fs::File;
use std::io::{self, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use rustix::event::{PollFd, PollFlags, Timespec};
use uzram::{CutCodec, CutFrame, CutOptions, CutPage, CutWatch, Device, SnapshotId};
use uzram_control::{ControlError, SnapshotReport};
use uzram_snapshot::{
    CodecSource, DictionaryName, DictionarySource, Digest, DiskSource, Page, Snapshot,
    SnapshotWriter,
};

use crate::snapshot_notes::{CodecNote, SnapshotNotes};

/// How much less than requests the thread that writes is given of a CPU.
const NICE: i32 = 5;
/// What is written to a pipe at a time: so much fits where a poll says that there is room.
const PIPE_BYTES: usize = 4096;
/// How often it is looked whether anybody still waits for it.
const LOOK: Duration = Duration::from_millis(200);

/// Why no snapshot was taken.
#[derive(Debug)]
#[non_exhaustive]
pub enum SnapshotError {
    /// The device refused it, or it was given up.
    Device(uzram::Error),
    /// It could not be written.
    Snapshot(uzram_snapshot::Error),
}

impl std::fmt::Display for SnapshotError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            SnapshotError::Device(error) => error.fmt(f),
            SnapshotError::Snapshot(error) => error.fmt(f),
        }
    }
}

impl std::error::Error for SnapshotError {}

impl From<uzram::Error> for SnapshotError {
    fn from(error: uzram::Error) -> SnapshotError {
        SnapshotError::Device(error)
    }
}

impl From<uzram_snapshot::Error> for SnapshotError {
    fn from(error: uzram_snapshot::Error) -> SnapshotError {
        SnapshotError::Snapshot(error)
    }
}

impl From<SnapshotError> for ControlError {
    fn from(error: SnapshotError) -> ControlError {
        use uzram_snapshot::Error::Io;
        let errno = match &error {
            SnapshotError::Device(error) => error.errno(),
            SnapshotError::Snapshot(Io { source, .. }) => source.raw_os_error().unwrap_or(5),
            SnapshotError::Snapshot(_) => 22,
        };
        let message = error.to_string();
        ControlError { errno, message }
    }
}

/// What is taken, of which device.
pub struct Taking<'d> {
    /// The device.
    pub device: &'d Device,
    /// Its name, which the snapshot keeps.
    pub name: &'d str,
    /// How the cut is made. What it is since is the parent's business.
    pub options: CutOptions,
    /// Only what changed since this one, which the device must have tracked changes since.
    pub parent: Option<Snapshot>,
}

impl Taking<'_> {
    /// Writes what the device holds at this moment. Requests go on meanwhile; what they may make it keep is bounded by the
    /// options. Neither flushes nor syncs: `safe` does, and is called last. Where changes are tracked, they are since this
    /// snapshot only if that succeeds. `to` is told of the cut before anything is written.
    ///
    /// After an error what was written is no snapshot, and every reader says so.
    pub fn write<W: Write>(
        self,
        to: impl FnOnce(CutWatch) -> W,
        safe: impl FnOnce(W) -> io::Result<()>,
    ) -> Result<SnapshotReport, SnapshotError> {
        let mut options = self.options;
        let parent = self.parent.as_ref().map(Snapshot::name);
        options.since = parent.map(id_of);
        let mut cut = self.device.cut(&options)?;
        let (watch, found) = (cut.watch(), cut.codecs().to_vec());
        let codecs: Vec<CodecSource<'_>> = found.iter().map(source).collect();
        let notes = SnapshotNotes {
            name: self.name.into(),
            block_size: self.device.logical_block_size(),
            codecs: codec_notes(self.device, &found),
        };
        let now = SystemTime::now().duration_since(UNIX_EPOCH);
        let disk = DiskSource {
            pages: cut.page_count(),
            taken_at_seconds: now.map_or(0, |now| now.as_secs()),
            is_basis: false,
            codecs: &codecs,
            notes: &notes.to_json(),
        };
        // Where it was given up, the sink's refusal to go on is not the reason.
        let given_up = |error: uzram_snapshot::Error| match watch.check() {
            Err(why) => SnapshotError::Device(why),
            Ok(()) => SnapshotError::Snapshot(error),
        };
        let to = to(cut.watch());
        let writer = match self.parent {
            Some(parent) => {
                let mut writer = SnapshotWriter::since(to, &disk, parent).map_err(given_up)?;
                while let Some(frame) = cut.next_changed_frame(|frame, changed| {
                    writer
                        .needs(frame, changed)
                        .map_err(SnapshotError::Snapshot)
                })? {
                    write_frame(&mut writer, &frame).map_err(given_up)?;
                }
                writer
            }
            None => {
                let mut writer = SnapshotWriter::new(to, &disk).map_err(given_up)?;
                while let Some(frame) = cut.next_frame()? {
                    write_frame(&mut writer, &frame).map_err(given_up)?;
                }
                writer
            }
        };
        // All is copied: what is left to be done may take as long as it likes.
        cut.let_go();
        let (to, written) = writer.finish()?;
        safe(to).map_err(|source| {
            let what = "sync";
            uzram_snapshot::Error::Io { what, source }
        })?;
        let report = SnapshotReport {
            name: written.name.to_string(),
            bytes: written.bytes,
            index_bytes: written.index_bytes,
            disk_bytes: cut.page_count() * uzram::PAGE_SIZE as u64,
            object_pages: written.totals.object_pages,
            object_bytes: written.totals.object_bytes,
            same_pages: written.totals.same_pages,
            parent: parent.map_or(String::new(), |name| name.to_string()),
            pause_microseconds: cut.pause().as_micros() as u64,
        };
        cut.record(&id_of(written.name));
        Ok(report)
    }
}

/// By what a device knows a snapshot.
fn id_of(name: Digest) -> SnapshotId {
    name.0.first_chunk().copied().unwrap_or_default()
}

fn source(codec: &CutCodec) -> CodecSource<'_> {
    let dictionary = codec.dictionary.as_deref();
    CodecSource {
        number: codec.index,
        algorithm: &codec.algorithm,
        driver: &codec.driver,
        params: &codec.params,
        dictionary: dictionary.map(DictionarySource::Bytes),
    }
}

/// What is to be said of the codecs. The cut keeps them, so that each is still the device's.
fn codec_notes(device: &Device, codecs: &[CutCodec]) -> Vec<CodecNote> {
    let stats = device.codecs();
    let note = |codec: &CutCodec| {
        let name = |dictionary: &[u8]| Some(DictionaryName::of(dictionary).ok()?.name.to_string());
        let index = usize::from(codec.index);
        let found = stats.iter().find(|stats| stats.index == index);
        CodecNote {
            algorithm: codec.algorithm.clone(),
            driver: codec.driver.clone(),
            params: codec.params.clone(),
            dictionary: codec.dictionary.as_deref().and_then(name),
            priorities: codec.priorities.clone(),
            generation: found.and_then(|stats| stats.generation),
        }
    };
    codecs.iter().map(note).collect()
}

fn write_frame<W: Write>(
    writer: &mut SnapshotWriter<W>,
    frame: &CutFrame<'_>,
) -> Result<(), uzram_snapshot::Error> {
    let mut pages = [Page::Zero; uzram::FRAME_PAGES];
    let found = frame.pages();
    let count = found.len();
    for (page, found) in pages.iter_mut().zip(found) {
        *page = match found {
            CutPage::Zero => Page::Zero,
            CutPage::Same(word) => Page::Same(word),
            CutPage::Raw(bytes) => Page::Raw(bytes),
            CutPage::Object { codec, bytes } => Page::Object { codec, bytes },
            CutPage::Unchanged => Page::Unchanged,
        };
    }
    writer.frame(frame.number(), &pages[..count])
}

/// A snapshot for a client that has opened the files.
pub(crate) struct ForClient<'d> {
    pub(crate) device: &'d Device,
    pub(crate) name: &'d str,
    pub(crate) options: CutOptions,
    pub(crate) since: bool,
}

impl ForClient<'_> {
    /// Takes it, until it is synced or the client is gone. The first file is written; the others are those of the parents.
    pub(crate) fn take(
        self,
        files: Vec<OwnedFd>,
        is_gone: &dyn Fn() -> bool,
    ) -> Result<SnapshotReport, ControlError> {
        // Of this thread alone, which ends with the request.
        let _ = rustix::process::nice(NICE);
        let mut files = files.into_iter().map(File::from);
        let file = files.next().ok_or_else(no_file)?;
        let parent = match self.since {
            true => {
                let found = chain(files).map_err(SnapshotError::Snapshot)?;
                Some(found.ok_or_else(no_file)?)
            }
            false => None,
        };
        let is_regular = file.metadata().is_ok_and(|found| found.is_file());
        let to = |watch| ClientFile {
            file,
            is_regular,
            watch,
            is_gone,
        };
        let safe = |to: ClientFile<'_>| match is_regular {
            true => to.file.sync_all(),
            false => Ok(()),
        };
        let taking = Taking {
            device: self.device,
            name: self.name,
            options: self.options,
            parent,
        };
        Ok(taking.write(to, safe)?)
    }
}

fn no_file() -> ControlError {
    ControlError {
        errno: 22,
        message: "a file of the request is missing".into(),
    }
}

/// The snapshot of the first file, with its parents, which the others are, the nearest first.
fn chain(files: impl Iterator<Item = File>) -> Result<Option<Snapshot>, uzram_snapshot::Error> {
    let mut first: Option<Snapshot> = None;
    for file in files {
        let next = Snapshot::open(file)?;
        first = Some(match first {
            Some(first) => first.with_parent(next)?,
            None => next,
        });
    }
    Ok(first)
}

/// A client's file or pipe.
struct ClientFile<'a> {
    file: File,
    is_regular: bool,
    watch: CutWatch,
    is_gone: &'a dyn Fn() -> bool,
}

impl ClientFile<'_> {
    /// Refuses to go on with what nobody waits for, or what was given up.
    fn check(&self) -> io::Result<()> {
        if (self.is_gone)() {
            return Err(io::Error::other("nobody waits for it any more"));
        }
        self.watch.check().map_err(io::Error::other)
    }

    /// Waits until a pipe has room. Its reader may take as long as it likes, but nobody waits for it who need not.
    fn wait_for_room(&self) -> io::Result<()> {
        loop {
            let mut fds = [PollFd::from_borrowed_fd(self.file.as_fd(), PollFlags::OUT)];
            let patience = Timespec::try_from(LOOK).ok();
            match rustix::event::poll(&mut fds, patience.as_ref()) {
                Ok(0) | Err(rustix::io::Errno::INTR) => self.check()?,
                Ok(_) => return Ok(()),
                Err(error) => return Err(error.into()),
            }
        }
    }
}

impl Write for ClientFile<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if self.is_regular {
            self.check()?;
            return self.file.write(bytes);
        }
        self.wait_for_room()?;
        self.file.write(&bytes[..bytes.len().min(PIPE_BYTES)])
    }

    fn flush(&mut self) -> io::Result<()> {
        self.file.flush()
    }
}
