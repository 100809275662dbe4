//! Takes snapshots: what a device holds at one moment ([`Device::cut`]), in the format of `uzram-snapshot`.
//!
//! [`Taking`] is the library call; the server of a device calls it with the file that its client has opened. It runs in a
//! thread of its own at a low priority. Whoever asked for it cancels it by going.

use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::FileTypeExt;
use std::os::unix::net::UnixStream;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use rustix::event::{PollFd, PollFlags, Timespec};
use rustix::fs::OFlags;
use rustix::net::SendFlags;
use uzram::{Cut, CutCodec, CutOptions, CutWatch, Device};
use uzram_control::{ControlError, SnapshotReport};
use uzram_snapshot::device::id_of;
use uzram_snapshot::{CodecSource, DictionaryName, DiskSource, Snapshot, SnapshotWriter};

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
    /// Whether another one follows in the same stream: whoever restores it must not stop behind this one.
    pub more: bool,
}

/// What a snapshot is of, as its writer wants to be told.
struct Source {
    codecs: Vec<CutCodec>,
    notes: Vec<u8>,
    pages: u64,
    is_basis: bool,
}

impl Source {
    fn new(device: &Device, name: &str, codecs: &[CutCodec], pages: u64, is_basis: bool) -> Source {
        let notes = SnapshotNotes {
            name: name.into(),
            block_size: device.logical_block_size(),
            codecs: codec_notes(device, codecs),
        };
        Source {
            codecs: codecs.to_vec(),
            notes: notes.to_json(),
            pages,
            is_basis,
        }
    }

    /// Hands over the description of the disk.
    fn with<T>(&self, use_it: impl FnOnce(&DiskSource<'_>) -> T) -> T {
        let codecs: Vec<CodecSource<'_>> = self.codecs.iter().map(CodecSource::from).collect();
        let now = SystemTime::now().duration_since(UNIX_EPOCH);
        use_it(&DiskSource {
            pages: self.pages,
            taken_at_seconds: now.map_or(0, |now| now.as_secs()),
            is_basis: self.is_basis,
            codecs: &codecs,
            notes: &self.notes,
        })
    }
}

/// What a device is, as a snapshot without pages.
pub(crate) fn description(
    device: &Device,
    name: &str,
    codecs: &[CutCodec],
    pages: u64,
) -> Result<Vec<u8>, SnapshotError> {
    let source = Source::new(device, name, codecs, pages, false);
    let writer = source.with(|disk| SnapshotWriter::new(Vec::new(), disk))?;
    Ok(writer.finish()?.0)
}

/// Why it failed: where it was given up, the sink's refusal to go on is not the reason.
fn reason(watch: &CutWatch, error: SnapshotError) -> SnapshotError {
    match (&error, watch.check()) {
        (SnapshotError::Snapshot(_), Err(why)) => SnapshotError::Device(why),
        _ => error,
    }
}

/// What a basis came to.
#[derive(Debug, Clone, Copy, Default)]
struct Before {
    is_there: bool,
    bytes: u64,
    index_bytes: u64,
}

impl Taking<'_> {
    /// Writes what the device holds at this moment. Requests go on meanwhile; what they may make it keep is bounded by the
    /// options. Neither flushes nor syncs: `safe` does, and is called last. Where changes are tracked, they are since this
    /// snapshot only if that succeeds. `to` is told of the cut before anything is written.
    ///
    /// After an error what was written is no snapshot, and every reader says so.
    pub fn write<W: Write>(
        mut self,
        to: impl FnOnce(CutWatch) -> W,
        safe: impl FnOnce(W) -> io::Result<()>,
    ) -> Result<SnapshotReport, SnapshotError> {
        let mut options = self.options;
        options.since = self.parent.as_ref().map(|parent| id_of(parent.name()));
        let cut = self.device.cut(&options)?;
        let parent = self.parent.take();
        self.write_cut(cut, parent, to, safe, Before::default())
    }

    /// The same in two passes: all that the device holds, while it changes, and then, at one moment, what changed during that.
    /// So less has to be kept, and it takes a little more room in the file. `file`, which `to` appends to, is empty, and is
    /// read in between. A [`parent`](Taking::parent) is refused.
    pub fn write_after_basis<W: Write>(
        self,
        file: &File,
        mut to: impl FnMut(CutWatch) -> W,
        safe: impl FnOnce(W) -> io::Result<()>,
    ) -> Result<SnapshotReport, SnapshotError> {
        if self.parent.is_some() {
            return Err(SnapshotError::Device(uzram::Error::Invalid {
                what: "a snapshot",
                given: "with a basis and since another one".into(),
                accepted: "one of the two".into(),
            }));
        }
        let mut basis = self.device.basis()?;
        let watch = basis.watch();
        let source = self.source(basis.codecs(), basis.page_count(), true);
        let to_basis = to(basis.watch());
        let written = || -> Result<_, SnapshotError> {
            let mut writer = source.with(|disk| SnapshotWriter::new(to_basis, disk))?;
            writer.write_basis::<SnapshotError>(&mut basis)?;
            Ok(writer.finish()?)
        };
        let (sink, written) = written().map_err(|error| reason(&watch, error))?;
        drop(sink);
        let before = Before {
            is_there: true,
            bytes: written.bytes,
            index_bytes: written.index_bytes,
        };
        let file = file.try_clone().map_err(|source| {
            let what = "read";
            uzram_snapshot::Error::Io { what, source }
        })?;
        let parent = Snapshot::open_basis(file)?;
        let cut = basis.cut(&self.options)?;
        self.write_cut(cut, Some(parent), to, safe, before)
    }

    fn source(&self, codecs: &[CutCodec], pages: u64, is_basis: bool) -> Source {
        Source::new(self.device, self.name, codecs, pages, is_basis)
    }

    fn write_cut<W: Write>(
        &self,
        mut cut: Cut<'_>,
        parent: Option<Snapshot>,
        to: impl FnOnce(CutWatch) -> W,
        safe: impl FnOnce(W) -> io::Result<()>,
        before: Before,
    ) -> Result<SnapshotReport, SnapshotError> {
        let watch = cut.watch();
        let source = self.source(cut.codecs(), cut.page_count(), self.more);
        let named = parent.as_ref().map(Snapshot::name);
        // A basis is in the same file, and no parent that anybody has to give.
        let named = named.filter(|_| !before.is_there);
        let to = to(cut.watch());
        let written = || -> Result<_, SnapshotError> {
            let mut writer = source.with(|disk| match parent {
                Some(parent) => SnapshotWriter::since(to, disk, parent),
                None => SnapshotWriter::new(to, disk),
            })?;
            writer.write_cut::<SnapshotError>(&mut cut)?;
            Ok(writer)
        };
        let writer = written().map_err(|error| reason(&watch, error))?;
        if !self.options.freeze {
            // All is copied: what is left to be done may take as long as it likes.
            cut.let_go();
        }
        let (to, written) = writer.finish()?;
        safe(to).map_err(|source| {
            let what = "sync";
            uzram_snapshot::Error::Io { what, source }
        })?;
        let report = SnapshotReport {
            name: written.name.to_string(),
            bytes: before.bytes + written.bytes,
            index_bytes: before.index_bytes + written.index_bytes,
            disk_bytes: cut.page_count() * uzram::PAGE_SIZE as u64,
            object_pages: written.totals.object_pages,
            object_bytes: written.totals.object_bytes,
            same_pages: written.totals.same_pages,
            parent: named.map_or(String::new(), |name| name.to_string()),
            pause_microseconds: cut.pause().as_micros() as u64,
            basis_bytes: before.bytes,
        };
        match self.options.freeze {
            true => cut.hand_over(),
            false => cut.record(&id_of(written.name)),
        }
        Ok(report)
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

/// A snapshot for a client that has opened the files.
pub(crate) struct ForClient<'d> {
    pub(crate) device: &'d Device,
    pub(crate) name: &'d str,
    pub(crate) options: CutOptions,
    pub(crate) since: bool,
    pub(crate) basis: bool,
    pub(crate) more: bool,
}

impl ForClient<'_> {
    /// Takes it, until it is synced or the client is gone. The first file is written; the others are those of the parents. What
    /// is given up for memory is tried once more with a basis, if the file allows it.
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
                let is_sent = self.more || self.options.freeze;
                let found = chain(files, is_sent).map_err(SnapshotError::Snapshot)?;
                Some(found.ok_or_else(no_file)?)
            }
            false => None,
        };
        let is_regular = file.metadata().is_ok_and(|found| found.is_file());
        let can_have_basis = !self.since && is_new(&file);
        if self.basis && !can_have_basis {
            return Err(ControlError {
                errno: 22,
                message: "a snapshot with a basis goes to a new file that can be read as well, and is not since another one"
                    .into(),
            });
        }
        let taking = |parent| Taking {
            device: self.device,
            name: self.name,
            options: self.options,
            parent,
            more: self.more,
        };
        let is_socket = file
            .metadata()
            .is_ok_and(|found| found.file_type().is_socket());
        if self.options.freeze && !is_socket {
            return Err(ControlError {
                errno: 22,
                message: "a device is handed over by a socket: nothing else says that it arrived"
                    .into(),
            });
        }
        let safe = |to: ClientFile<'_>| match (is_regular, is_socket) {
            (true, _) => to.file.sync_all(),
            (false, true) => acknowledged(to.file, is_gone),
            (false, false) => Ok(()),
        };
        let to = |watch| ClientFile {
            file: &file,
            is_regular,
            is_socket,
            watch,
            is_gone,
        };
        if !self.basis {
            match taking(parent).write(to, safe) {
                Err(SnapshotError::Device(error @ uzram::Error::SnapshotMemory { .. }))
                    if can_have_basis =>
                {
                    tracing::info!("{error}: tried once more with a basis");
                    let again = file.set_len(0);
                    again
                        .and_then(|()| (&file).seek(SeekFrom::Start(0)))
                        .map_err(|source| {
                            let what = "empty";
                            SnapshotError::Snapshot(uzram_snapshot::Error::Io { what, source })
                        })?;
                }
                taken => return Ok(taken?),
            }
        }
        Ok(taking(None).write_after_basis(&file, to, safe)?)
    }
}

/// Waits until whoever reads from a socket says by a byte that all of it is safe.
fn acknowledged(file: &File, is_gone: &dyn Fn() -> bool) -> io::Result<()> {
    let mut socket = UnixStream::from(OwnedFd::from(file.try_clone()?));
    socket.shutdown(std::net::Shutdown::Write)?;
    socket.set_read_timeout(Some(LOOK))?;
    let mut byte = [0];
    loop {
        match socket.read(&mut byte) {
            Ok(0) => return Err(io::Error::other("whoever took it did not keep it")),
            Ok(_) => return Ok(()),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock && !is_gone() => {}
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
}

/// Whether a file has nothing in it yet, and what is written to it can be read.
fn is_new(file: &File) -> bool {
    let flags = rustix::fs::fcntl_getfl(file).unwrap_or(OFlags::WRONLY);
    let found = file.metadata();
    found.is_ok_and(|found| found.is_file() && found.len() == 0)
        && flags & OFlags::ACCMODE == OFlags::RDWR
        && !flags.contains(OFlags::APPEND)
        && rustix::fs::tell(file) == Ok(0)
}

fn no_file() -> ControlError {
    ControlError {
        errno: 22,
        message: "a file of the request is missing".into(),
    }
}

/// The snapshot of the first file, with its parents, which the others are, the nearest first. One that was sent is none that
/// anybody may stop behind.
fn chain(
    files: impl Iterator<Item = File>,
    is_sent: bool,
) -> Result<Option<Snapshot>, uzram_snapshot::Error> {
    let mut first: Option<Snapshot> = None;
    for file in files {
        let next = match is_sent {
            true => Snapshot::open_basis(file)?,
            false => Snapshot::open(file)?,
        };
        first = Some(match first {
            Some(first) => first.with_parent(next)?,
            None => next,
        });
    }
    Ok(first)
}

/// A client's file or pipe.
struct ClientFile<'a> {
    file: &'a File,
    is_regular: bool,
    is_socket: bool,
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
        if self.is_socket {
            // It takes what it has room for, and does not wait.
            let flags = SendFlags::DONTWAIT | SendFlags::NOSIGNAL;
            match rustix::net::send(self.file, bytes, flags) {
                Ok(sent) => return Ok(sent),
                Err(rustix::io::Errno::AGAIN | rustix::io::Errno::INTR) => {}
                Err(error) => return Err(error.into()),
            }
        }
        self.wait_for_room()?;
        self.file.write(&bytes[..bytes.len().min(PIPE_BYTES)])
    }

    fn flush(&mut self) -> io::Result<()> {
        self.file.flush()
    }
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;
    use std::collections::BTreeMap;

    use uzram_snapshot::Page;

    use super::*;

    const PAGE: usize = uzram::PAGE_SIZE;
    const PAGES: u64 = 1024;

    /// A page that no algorithm makes smaller.
    fn noise(seed: u64) -> [u8; PAGE] {
        let mut state = seed | 1 << 40;
        let mut page = [0; PAGE];
        for word in page.as_chunks_mut::<8>().0 {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            *word = state.to_le_bytes();
        }
        page
    }

    /// A device of noise, which is written to as its snapshot is: `is_gone` is asked before each piece of the file.
    fn taken(
        basis: bool,
        writes: u32,
        file: &File,
    ) -> (Device, Result<SnapshotReport, ControlError>) {
        let device = Device::builder(PAGES * PAGE as u64).algorithm("lz4");
        let device = device.build().unwrap();
        let write = |page: u64, seed: u64| {
            let bytes = noise(seed);
            device.write_at(&bytes, page * PAGE as u64).unwrap();
        };
        (0..PAGES).for_each(|page| write(page, page));
        let left = Cell::new(writes);
        let is_gone = || {
            if let Some(fewer) = left.get().checked_sub(1) {
                left.set(fewer);
                // Behind the walk and before it.
                for page in (u64::from(fewer) % 7..PAGES).step_by(64) {
                    write(page, page + u64::from(fewer) * PAGES);
                }
            }
            false
        };
        let taking = ForClient {
            device: &device,
            name: "zram0",
            options: CutOptions::new(Some(128 << 10)),
            since: false,
            basis,
            more: false,
        };
        let report = taking.take(vec![file.try_clone().unwrap().into()], &is_gone);
        (device, report)
    }

    fn is_the_device(device: &Device, file: &File) {
        let mut snapshot = Snapshot::open(file.try_clone().unwrap()).unwrap();
        snapshot.verify().unwrap();
        let mut found: BTreeMap<u64, Vec<u8>> = BTreeMap::new();
        let restored = snapshot.restore(|page, content| {
            match content {
                Page::Raw(bytes) => drop(found.insert(page, bytes.to_vec())),
                other => panic!("{other:?}"),
            }
            Ok(())
        });
        restored.unwrap();
        let mut now = vec![0; PAGE];
        for page in 0..PAGES {
            device.read_at(&mut now, page * PAGE as u64).unwrap();
            assert!(found[&page] == now, "page {page}");
        }
    }

    #[test]
    fn what_is_given_up_for_memory_is_taken_again_with_a_basis() {
        // Nothing is written: one pass.
        let file = tempfile::tempfile().unwrap();
        let (device, report) = taken(false, 0, &file);
        assert_eq!(report.unwrap().basis_bytes, 0);
        is_the_device(&device, &file);
        // As long as the first pass takes to be given up, and into the basis.
        for basis in [false, true] {
            let file = tempfile::tempfile().unwrap();
            let (device, report) = taken(basis, 15, &file);
            let report = report.unwrap();
            assert!(report.basis_bytes > 0);
            assert_eq!(report.bytes, file.metadata().unwrap().len());
            assert_eq!(report.parent, "");
            is_the_device(&device, &file);
        }
        // Without end: it is refused in words, and so it is where the file cannot be read.
        let file = tempfile::tempfile().unwrap();
        let refused = taken(false, u32::MAX, &file).1.unwrap_err();
        assert!(refused.message.contains("more than"), "{refused}");
        let directory = tempfile::tempdir().unwrap();
        let file = File::create(directory.path().join("file")).unwrap();
        let refused = taken(false, 15, &file).1.unwrap_err();
        assert!(refused.message.contains("more than"), "{refused}");
        let refused = taken(true, 0, &file).1.unwrap_err();
        assert!(refused.message.contains("goes to a new file"), "{refused}");
    }
}
