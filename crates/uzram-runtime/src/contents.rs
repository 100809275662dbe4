//! What a new device is filled with: the snapshot of a file, with those that it was made since, of a remote, or of a pipe.
//!
//! A file or a remote is read where it holds what the snapshot needs; a pipe forward, with each page stored as its frame was checked. Both
//! end in the same place ([`Filler`]). Nobody sees the device before all of it was read and found good: its server fills it
//! before it starts the frontend, and a failure ends the server, with the memory.
//!
//! A pipe that only the command has, such as its stdin, becomes one that the server can open by a path ([`Piped`]).

use std::fs::File;
use std::io::{self, Read, Write};
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::fs::{FileTypeExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustix::fs::OFlags;
use rustix::io::Errno;
use uzram::compress::AlgorithmSpec;
use uzram::{Builder, Choice, Device};
use uzram_snapshot::device::Filler;
use uzram_snapshot::{
    Digest, Error, Head, Kind, PAGE_BYTES, Page, Restored, Snapshot, SnapshotCodec, SnapshotReader,
    Source, StoredManifest,
};
use uzram_spec::{Bytes, DeviceSpec, Failure, FailureKind, Result, SnapshotSource, size};

use crate::clone::CloneSource;
use crate::process;
use crate::remote_process::{RemoteOrder, RemoteProcess};
use crate::snapshot_notes::SnapshotNotes;

/// Pages after which whoever waits for the device is asked whether it still does.
const PAGES_BETWEEN_LOOKS: u64 = 1024;

/// A snapshot of which what is needed to read it is open. Not read yet.
pub(crate) struct OpenSource {
    of: SnapshotSource,
    open: Open,
}

enum Open {
    /// In a file, or by a pipe.
    File {
        file: File,
        is_file: bool,
        parents: Vec<(PathBuf, File)>,
    },
    /// In a remote, which another process reads.
    Remote(Arc<RemoteProcess>),
}

/// A snapshot whose head was read.
pub(crate) struct OpenedSnapshot {
    known: Known,
    form: Form,
}

/// What its head says, and its codecs.
struct Known {
    source: SnapshotSource,
    /// The snapshot's name, if it is in a file.
    name: Digest,
    head: Head,
    notes: SnapshotNotes,
    choices: Vec<(u8, Choice)>,
}

enum Form {
    /// Everything is in files, or in a remote.
    Stored(Box<Snapshot>, Option<Arc<RemoteProcess>>),
    /// A pipe, and what is to be there before it.
    Pipe {
        file: Arc<File>,
        reader: Box<SnapshotReader<Pipe>>,
        parent: Option<Box<Snapshot>>,
    },
}

/// Reads from a pipe that several readers use one after another.
#[derive(Debug)]
struct Pipe {
    file: Arc<File>,
    /// A byte that was read already.
    first: Option<u8>,
}

impl Read for Pipe {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if let Some(place) = buffer.first_mut()
            && let Some(first) = self.first.take()
        {
            *place = first;
            return Ok(1);
        }
        (&*self.file).read(buffer)
    }
}

/// The next byte; `None` at the end.
fn next_byte(mut file: &File) -> io::Result<Option<u8>> {
    let mut byte = [0];
    loop {
        match file.read(&mut byte) {
            Ok(count) => return Ok((count > 0).then_some(byte[0])),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
}

/// A failure to read a snapshot, in words that name its file.
pub fn refused(path: &Path, error: &Error) -> Failure {
    let kind = match error {
        Error::Newer { .. } | Error::Algorithm { .. } => FailureKind::Impossible,
        Error::Foreign
        | Error::MissingParent { .. }
        | Error::OtherParent { .. }
        | Error::NoParent
        | Error::Missing { .. } => FailureKind::Usage,
        Error::Io { source, .. } => FailureKind::from_io(source),
        _ => FailureKind::Failed,
    };
    let failure = Failure::new(kind, format!("{}: {error}", name(path)));
    match error {
        Error::MissingParent { .. } | Error::Missing { .. } => {
            failure.with_hint("give the file that holds it with --parent FILE")
        }
        Error::OtherParent { .. } => failure.with_hint("--parent takes the files of its parents"),
        _ => failure,
    }
}

/// How a snapshot's file is called: a pipe has no name that anybody gave it.
fn name(path: &Path) -> String {
    match path.starts_with("/proc") || path == Path::new("-") {
        true => "the snapshot that was piped in".into(),
        false => format!("the snapshot {}", path.display()),
    }
}

/// Opens a file or a pipe to read a snapshot from. Whether it is a file.
pub fn open(path: &Path) -> Result<(File, bool)> {
    let refused = |kind, why: &str| Failure::new(kind, format!("{}: {why}", name(path)));
    let no_waiting = OFlags::NONBLOCK | OFlags::NOCTTY;
    let mut options = File::options();
    options.read(true).custom_flags(no_waiting.bits() as i32);
    let file = options.open(path).map_err(|error| {
        let nowhere = [Errno::NOENT, Errno::NOTDIR, Errno::NAMETOOLONG, Errno::LOOP];
        let kind = match Errno::from_io_error(&error) {
            // A socket has a path that cannot be opened.
            Some(errno) if nowhere.contains(&errno) || errno == Errno::NXIO => FailureKind::Usage,
            _ => FailureKind::from_io(&error),
        };
        refused(kind, &error.to_string())
    })?;
    let kind = file.metadata()?.file_type();
    if kind.is_dir() {
        return Err(refused(FailureKind::Usage, "it is a directory"));
    }
    if !kind.is_file() && !kind.is_fifo() {
        let why = "it is neither a regular file nor a pipe";
        return Err(refused(FailureKind::Usage, why));
    }
    // Who reads waits for what comes.
    let flags = rustix::fs::fcntl_getfl(&file).map_err(io::Error::from)?;
    rustix::fs::fcntl_setfl(&file, flags - OFlags::NONBLOCK).map_err(io::Error::from)?;
    Ok((file, kind.is_file()))
}

/// Opens a snapshot in a file, with its parents as far as these files hold them. What is no parent of it is refused.
pub fn open_chain(path: &Path, file: File, parents: Vec<(PathBuf, File)>) -> Result<Snapshot> {
    let snapshot = Snapshot::open(file).map_err(|error| refused(path, &error))?;
    with_parents(path, snapshot, parents)
}

/// What is wrong with the bytes of a snapshot in a file. `None`: nothing, or it cannot be told. Reads all of it.
pub fn damage(path: &Path) -> Option<Failure> {
    let (file, true) = open(path).ok()? else {
        return None;
    };
    let verified = Snapshot::open(file).and_then(|mut snapshot| snapshot.verify());
    match verified {
        Err(error @ (Error::Foreign | Error::Cut { .. } | Error::Damaged { .. })) => {
            Some(refused(path, &error))
        }
        _ => None,
    }
}

fn with_parents(
    path: &Path,
    mut snapshot: Snapshot,
    parents: Vec<(PathBuf, File)>,
) -> Result<Snapshot> {
    let mut opened = open_all(parents)?;
    while let Some(missing) = snapshot.missing_parent() {
        let Some(at) = opened.iter().position(|(_, other)| other.name() == missing) else {
            break;
        };
        let (of, parent) = opened.swap_remove(at);
        let whole = snapshot.with_parent(parent);
        snapshot = whole.map_err(|error| refused(&of, &error))?;
    }
    no_others(path, snapshot.missing_parent(), &opened)?;
    Ok(snapshot)
}

fn open_all(parents: Vec<(PathBuf, File)>) -> Result<Vec<(PathBuf, Snapshot)>> {
    let open = |(path, file): (PathBuf, File)| {
        let snapshot = Snapshot::open(file).map_err(|error| refused(&path, &error))?;
        Ok((path, snapshot))
    };
    parents.into_iter().map(open).collect()
}

/// Refuses files that were given as parents and are none.
fn no_others(path: &Path, missing: Option<Digest>, others: &[(PathBuf, Snapshot)]) -> Result {
    let Some((of, other)) = others.first() else {
        return Ok(());
    };
    let needs = match missing {
        Some(parent) => format!("{} needs {parent}", name(path)),
        None => format!("{} needs no more", name(path)),
    };
    let message = format!(
        "{} holds {}, which is no parent of it: {needs}",
        of.display(),
        other.name()
    );
    Err(Failure::usage(message))
}

impl OpenSource {
    /// Opens the files, or starts the process that opens the remote. A process that gives up privileges does it before.
    pub(crate) fn open(of: &SnapshotSource) -> Result<OpenSource> {
        if of.is_remote() {
            let snapshot = (!of.snapshot.is_empty()).then(|| of.snapshot.clone());
            let order = RemoteOrder::new(&of.remote, snapshot, !of.lazy);
            let process = RemoteProcess::start(&order)?;
            return Ok(OpenSource {
                of: of.clone(),
                open: Open::Remote(Arc::new(process)),
            });
        }
        let (file, is_file) = open(&of.file)?;
        let parents = of.parents.iter().map(|path| {
            let (file, is_file) = open(path)?;
            match is_file {
                true => Ok((path.clone(), file)),
                false => {
                    let message = format!("the parent {}: it is no regular file", path.display());
                    Err(Failure::usage(message))
                }
            }
        });
        let parents = parents.collect::<Result<_>>()?;
        Ok(OpenSource {
            of: of.clone(),
            open: Open::File {
                file,
                is_file,
                parents,
            },
        })
    }

    /// Whether reading it leaves it as it is.
    pub(crate) fn is_stored(&self) -> bool {
        match &self.open {
            Open::File { is_file, .. } => *is_file,
            Open::Remote(_) => true,
        }
    }

    /// Where the parts of a stored snapshot are, and its name.
    pub(crate) fn into_parts(self) -> Result<(StoredParts, Digest)> {
        let path = self.of.place();
        match self.open {
            Open::Remote(process) => {
                let snapshot = process.snapshot()?;
                Ok((StoredParts::Remote(process), snapshot))
            }
            Open::File { is_file: false, .. } => {
                let message = format!("{}: a clone needs a file, not a pipe", name(path));
                Err(Failure::usage(message))
            }
            Open::File { file, parents, .. } => {
                let snapshot = open_whole(path, file, parents)?;
                let found = snapshot.name();
                Ok((StoredParts::Files(Arc::new(snapshot)), found))
            }
        }
    }

    /// Reads the heads, and finds the algorithms.
    pub(crate) fn read(self) -> Result<OpenedSnapshot> {
        let path = self.of.place().to_owned();
        let algorithms = uzram_control::zram::algorithms();
        let failed = |error: Error| refused(&path, &error);
        let mut name = Digest([0; 32]);
        let stored = |snapshot: Snapshot, process| {
            let choices = snapshot.choices(algorithms).map_err(failed)?;
            let (head, name) = (snapshot.head().clone(), snapshot.name());
            let form = Form::Stored(Box::new(snapshot), process);
            Ok::<_, Failure>((form, head, choices, name))
        };
        let (form, head, choices) = match self.open {
            Open::Remote(process) => {
                let snapshot = stored_in(process.clone()).map_err(failed)?;
                let (form, head, choices, found) = stored(snapshot?, Some(process))?;
                name = found;
                (form, head, choices)
            }
            Open::File {
                file,
                is_file: true,
                parents,
            } => {
                let snapshot = open_whole(&path, file, parents)?;
                let (form, head, choices, found) = stored(snapshot, None)?;
                name = found;
                (form, head, choices)
            }
            Open::File { file, parents, .. } => {
                let file = Arc::new(file);
                let pipe = Pipe {
                    file: file.clone(),
                    first: None,
                };
                let reader = SnapshotReader::new(pipe).map_err(failed)?;
                let parent = parent_of(&path, reader.head(), parents)?;
                let mut choices = match &parent {
                    Some(parent) => parent.choices(algorithms).map_err(failed)?,
                    None => Vec::new(),
                };
                choices.extend(own_choices(&reader, &choices).map_err(failed)?);
                let head = reader.head().clone();
                let parent = parent.map(Box::new);
                let form = Form::Pipe {
                    file,
                    reader: Box::new(reader),
                    parent,
                };
                (form, head, choices)
            }
        };
        let known = Known {
            source: self.of,
            name,
            notes: SnapshotNotes::of(&head),
            head,
            choices,
        };
        Ok(OpenedSnapshot { known, form })
    }
}

/// Where the parts of a stored snapshot are.
#[derive(Clone)]
pub(crate) enum StoredParts {
    Files(Arc<Snapshot>),
    Remote(Arc<RemoteProcess>),
}

impl StoredParts {
    pub(crate) fn source(&self) -> Arc<dyn Source> {
        match self {
            StoredParts::Files(snapshot) => snapshot.clone(),
            StoredParts::Remote(process) => process.clone(),
        }
    }

    /// Whether they have to be opened anew after a failure: a file may have been replaced, and a process have ended.
    pub(crate) fn may_be_stale(&self) -> bool {
        match self {
            StoredParts::Files(_) => true,
            StoredParts::Remote(process) => process.is_broken(),
        }
    }
}

/// The snapshot that a process reads.
fn stored_in(process: Arc<RemoteProcess>) -> std::result::Result<Result<Snapshot>, Error> {
    let name = match process.snapshot() {
        Ok(name) => name,
        Err(failure) => return Ok(Err(failure)),
    };
    let kind = Kind::Manifest;
    let fetched = process.size_bytes(kind, name);
    let fetched = fetched.and_then(|bytes| process.get_range(kind, name, 0..bytes));
    let what = "fetch the manifest";
    let record = fetched.map_err(|source| Error::Io { what, source })?;
    StoredManifest::parse(name, &record)?.open(process).map(Ok)
}

/// The snapshot of a file, which with its parents' is to be all of it.
fn open_whole(path: &Path, file: File, parents: Vec<(PathBuf, File)>) -> Result<Snapshot> {
    let snapshot = open_chain(path, file, parents)?;
    match snapshot.missing_parent() {
        Some(parent) => Err(refused(path, &Error::MissingParent { parent })),
        None => Ok(snapshot),
    }
}

/// The codecs of a pipe's snapshot but for those that are known: a parent's dictionaries need not come again.
fn own_choices<R: Read>(
    reader: &SnapshotReader<R>,
    known: &[(u8, Choice)],
) -> std::result::Result<Vec<(u8, Choice)>, Error> {
    let codecs = reader.head().codecs.iter();
    let new = codecs.filter(|codec| known.iter().all(|(number, _)| *number != codec.number));
    let one = |codec: &SnapshotCodec| {
        let choice = reader.choice(codec, uzram_control::zram::algorithms())?;
        Ok((codec.number, choice))
    };
    new.map(one).collect()
}

/// The parent of what comes by a pipe.
fn parent_of(path: &Path, head: &Head, parents: Vec<(PathBuf, File)>) -> Result<Option<Snapshot>> {
    let mut opened = open_all(parents)?;
    let Some(parent) = head.parent else {
        no_others(path, None, &opened)?;
        return Ok(None);
    };
    let missing = || refused(path, &Error::MissingParent { parent });
    let at = opened.iter().position(|(_, other)| other.name() == parent);
    let (of, mut found) = opened.swap_remove(at.ok_or_else(missing)?);
    while let Some(parent) = found.missing_parent() {
        let at = opened.iter().position(|(_, other)| other.name() == parent);
        let at = at.ok_or_else(|| refused(&of, &Error::MissingParent { parent }))?;
        let whole = found.with_parent(opened.swap_remove(at).1);
        found = whole.map_err(|error| refused(&of, &error))?;
    }
    no_others(path, None, &opened)?;
    // Else an object of the parent would be read by another codec.
    let mut codecs = found.head().codecs.iter();
    if !codecs.all(|codec| head.codecs.contains(codec)) {
        let message = format!("{}: it lists other codecs than its parent", name(path));
        return Err(Failure::failed(message));
    }
    Ok(Some(found))
}

impl Known {
    /// Fills in what the description leaves to the snapshot. Refuses a device that is too small.
    fn fill_in(&self, spec: &mut DeviceSpec) -> Result {
        let bytes = self.head.pages * PAGE_BYTES as u64;
        match spec.size {
            Some(Bytes(given)) if given < bytes => {
                let message = format!(
                    "size {given} is too little: the snapshot is of a disk of {bytes} bytes ({})",
                    size::human(bytes)
                );
                return Err(Failure::usage(message));
            }
            Some(_) => {}
            None => spec.size = Some(Bytes(bytes)),
        }
        // The tag may name another one by the time its server opens it.
        if (self.source.lazy || self.source.is_remote())
            && let Some(from) = &mut spec.from
        {
            from.snapshot = self.name.to_string();
        }
        if !self.source.own_block_size && matches!(self.notes.block_size, 512 | 4096) {
            spec.block_size = self.notes.block_size;
        }
        let text = |number: u8| {
            let codec = self.head.codec(number)?;
            let algorithms = uzram_control::zram::algorithms();
            // By its driver only where that is not the one that the name stands for.
            let usual = algorithms.find(&codec.algorithm);
            let is_usual = usual.is_ok_and(|found| found.driver_name() == codec.driver);
            let name = match algorithms.find(&codec.driver) {
                Ok(found) if !is_usual && found.name() == codec.algorithm => &codec.driver,
                _ => &codec.algorithm,
            };
            let mut text = AlgorithmSpec::new(name.clone());
            text.params = uzram::compress::parse_params(&codec.params).ok()?;
            Some(text)
        };
        if let Some(primary) = self.by_priority(0).and_then(text) {
            spec.algorithm = primary;
        }
        for priority in 1..uzram::PRIORITIES {
            if let Some(mut secondary) = self.by_priority(priority).and_then(text) {
                let priority = ("priority".into(), priority.to_string());
                secondary.params.push(priority);
                spec.recomp_algorithm.push(secondary);
            }
        }
        Ok(())
    }

    /// The number of the codec that had a priority, if the new device is to have the same.
    fn by_priority(&self, priority: usize) -> Option<u8> {
        let is_own = match priority {
            0 => self.source.own_algorithm,
            _ => self.source.own_recomp_algorithm,
        };
        if is_own {
            return None;
        }
        let has = |codec: &&SnapshotCodec| {
            let note = self.notes.codec(codec);
            note.is_some_and(|note| note.priorities.contains(&priority))
        };
        let mut codecs = self.head.codecs.iter();
        let found = codecs.find(has).map(|codec| codec.number);
        match (found, &self.head.codecs[..]) {
            // Whoever wrote it left no word, and there is no doubt.
            (None, [only]) if priority == 0 => Some(only.number),
            _ => found,
        }
    }

    fn choice(&self, number: u8) -> Option<Choice> {
        let (_, choice) = self.choices.iter().find(|(other, _)| *other == number)?;
        let note = self
            .head
            .codec(number)
            .and_then(|codec| self.notes.codec(codec));
        Some(match note.and_then(|note| note.generation) {
            Some(generation) => choice.clone().generation(generation),
            None => choice.clone(),
        })
    }

    /// Has the device go on with the algorithms and the dictionaries of the one that the snapshot is of.
    fn choose(&self, mut device: Builder) -> Builder {
        if let Some(choice) = self.by_priority(0).and_then(|number| self.choice(number)) {
            device = device.choose(choice);
        }
        for priority in 1..uzram::PRIORITIES {
            let number = self.by_priority(priority);
            if let Some(choice) = number.and_then(|number| self.choice(number)) {
                device = device.secondary(priority, choice);
            }
        }
        device
    }

    fn all_choices(&self) -> impl Iterator<Item = (u8, Choice)> + '_ {
        let numbers = self.choices.iter().map(|(number, _)| *number);
        numbers.filter_map(|number| Some((number, self.choice(number)?)))
    }

    /// Refuses codecs that a device cannot have, on one that is thrown away.
    fn try_out(&self, device: &mut Device) -> Result {
        let mut filler = Filler::new(device);
        Ok(filler.add_codecs(self.all_choices())?)
    }
}

impl OpenedSnapshot {
    /// Fills in what the description leaves to the snapshot. Refuses a device that is too small.
    pub(crate) fn fill_in(&self, spec: &mut DeviceSpec) -> Result {
        self.known.fill_in(spec)
    }

    /// Has the device go on with the algorithms and the dictionaries of the one that the snapshot is of.
    pub(crate) fn choose(&self, device: Builder) -> Builder {
        self.known.choose(device)
    }

    /// Refuses codecs that a device cannot have, on one that is thrown away.
    pub(crate) fn try_out(&self, device: &mut Device) -> Result {
        self.known.try_out(device)
    }

    /// Makes the device a clone, which fetches its pages when they are needed.
    fn clone_to(self, device: &mut Device) -> Result {
        let parts = match self.form {
            Form::Stored(_, Some(process)) => StoredParts::Remote(process),
            Form::Stored(snapshot, None) => StoredParts::Files(Arc::from(snapshot)),
            Form::Pipe { .. } => {
                return Err(Failure::usage("a clone needs the snapshot in a file"));
            }
        };
        let source = self.known.source;
        let pages = crate::clone::pages_of(&source, &parts, self.known.name)?;
        pages.clone_to(device)?;
        let source = CloneSource::new(source, parts, pages);
        let options = source.options();
        device.set_source(Arc::new(source), options);
        Ok(())
    }

    /// Fills the device, or leaves that for later where it is to be a clone. `wanted` is asked now and then whether to go on.
    pub(crate) fn install(self, device: &mut Device, wanted: &mut dyn FnMut() -> Result) -> Result {
        if self.known.source.lazy {
            return self.clone_to(device);
        }
        let known = self.known;
        let path = known.source.place().to_owned();
        let mut filler = Filler::new(device);
        filler.add_codecs(known.all_choices())?;
        let mut pages = 0;
        let mut store = |filler: &Filler<'_>, page: u64, content: Page<'_>| {
            pages += 1;
            if pages % PAGES_BETWEEN_LOOKS == 1 {
                wanted().map_err(io::Error::other)?;
            }
            filler.page(page, content)
        };
        let failed = |error| failed(&path, error);
        match self.form {
            Form::Stored(mut snapshot, _) => {
                let restored = snapshot.restore(|page, content| store(&filler, page, content));
                restored.map_err(failed)
            }
            Form::Pipe {
                file,
                mut reader,
                parent,
            } => {
                if let Some(mut parent) = parent {
                    let restored = parent.restore(|page, content| store(&filler, page, content));
                    restored.map_err(failed)?;
                }
                let mut choices = known.choices;
                loop {
                    let restored = reader.restore(|page, content| store(&filler, page, content));
                    let restored = restored.map_err(failed)?;
                    let first = match (next_byte(&file)?, restored.is_basis) {
                        (None, false) => return Ok(()),
                        (None, true) => return Err(failed(Error::Cut { at: restored.bytes })),
                        (first, _) => first,
                    };
                    let next = Pipe {
                        file: file.clone(),
                        first,
                    };
                    *reader = SnapshotReader::new(next).map_err(failed)?;
                    follows(&path, &known.head, &restored, reader.head())?;
                    let new = own_choices(&reader, &choices).map_err(failed)?;
                    filler.add_codecs(new.iter().cloned())?;
                    choices.extend(new);
                }
            }
        }
    }
}

/// Refuses what follows a snapshot on a pipe and was not made since.
fn follows(path: &Path, first: &Head, before: &Restored, next: &Head) -> Result {
    let refused = |why: &str| Failure::failed(format!("{}: {why}", name(path)));
    if next.parent != Some(before.name) {
        return Err(refused(
            "what follows in it was not made since what it begins with",
        ));
    }
    if next.pages != first.pages {
        let hint = "restore it from a file";
        return Err(refused("the disk had another size meanwhile").with_hint(hint));
    }
    Ok(())
}

/// A failure in the middle of a restore.
fn failed(path: &Path, error: Error) -> Failure {
    let Error::Target { source, .. } = &error else {
        return refused(path, &error);
    };
    let inner = source.get_ref();
    let inner = inner.map(|inner| (inner.downcast_ref(), inner.downcast_ref::<uzram::Error>()));
    match inner {
        Some((Some(failure), _)) => Failure::clone(failure),
        Some((_, Some(error))) => {
            let failure = Failure::from(error.clone());
            let message = format!("{}: {}", name(path), failure.message);
            let failure = Failure { message, ..failure };
            match error {
                uzram::Error::NoSpace { .. } => {
                    failure.with_hint("it does not fit: give the device a larger --mem-limit")
                }
                _ => failure,
            }
        }
        _ => refused(path, &error),
    }
}

/// A snapshot on a pipe that the server of a new device opens by its path, as long as this process lives.
#[derive(Debug)]
pub struct Piped {
    /// The path.
    pub path: PathBuf,
    /// Keeps it open until the server has it.
    _reader: OwnedFd,
}

/// Reads the head of a snapshot from this process's stdin or the like, fills in what the description leaves to it, and passes
/// all of it on to a pipe from a thread. What this program cannot restore is refused before anything is made.
pub fn pass_on(mut from: impl Read + Send + 'static, spec: &mut DeviceSpec) -> Result<Piped> {
    let Some(source) = spec.from.clone() else {
        return Err(Failure::usage("no snapshot was asked for"));
    };
    if source.lazy {
        let message =
            "a clone needs the snapshot in a file: from a pipe it cannot be fetched later";
        return Err(Failure::usage(message));
    }
    let path = source.file.clone();
    let failed = |error: Error| refused(&path, &error);
    let mut kept = Vec::new();
    let tee = Tee {
        from: &mut from,
        kept: &mut kept,
    };
    let reader = SnapshotReader::new(tee).map_err(failed)?;
    let parents = source.parents.iter();
    let parents = parents.map(|path| Ok((path.clone(), open(path)?.0)));
    let parent = parent_of(&path, reader.head(), parents.collect::<Result<_>>()?)?;
    let algorithms = uzram_control::zram::algorithms();
    let mut choices = match &parent {
        Some(parent) => parent.choices(algorithms).map_err(failed)?,
        None => Vec::new(),
    };
    choices.extend(own_choices(&reader, &choices).map_err(failed)?);
    let head = reader.head().clone();
    drop(reader);
    let known = Known {
        notes: SnapshotNotes::of(&head),
        name: Digest([0; 32]),
        source,
        head,
        choices,
    };
    known.fill_in(spec)?;
    known.try_out(&mut Device::builder(1).registry(algorithms.clone()).build()?)?;
    let (reader, writer) =
        rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC).map_err(io::Error::from)?;
    let own = std::process::id();
    let path = PathBuf::from(format!("/proc/{own}/fd/{}", reader.as_raw_fd()));
    if let Some(source) = &mut spec.from {
        source.file = path.clone();
    }
    let pump = move || {
        let mut writer = File::from(writer);
        let passed = writer.write_all(&kept);
        let passed = passed.and_then(|()| io::copy(&mut from, &mut writer));
        if let Err(error) = passed {
            // The server says what was wrong: with what came, or that too little did.
            tracing::debug!(%error, "the snapshot was not passed on");
        }
    };
    process::spawn("snapshot", pump)?;
    Ok(Piped {
        path,
        _reader: reader,
    })
}

/// Reads, and keeps what was read.
struct Tee<'a, R> {
    from: R,
    kept: &'a mut Vec<u8>,
}

impl<R: Read> Read for Tee<'_, R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let count = self.from.read(buffer)?;
        self.kept.extend_from_slice(&buffer[..count]);
        Ok(count)
    }
}
