//! What a new device is filled with: the snapshot of a file, with those that it was made since, of a remote, or of a pipe.
//!
//! A file or a remote is read where it holds what the snapshot needs; a pipe forward, with each page stored as its frame was checked. Both
//! end in the same place ([`Filler`]). Nobody sees the device before all of it was read and found good: its server fills it
//! before it starts the frontend, and a failure ends the server, with the memory.
//!
//! A pipe that only the command has, such as its stdin, becomes one that the server can open by a path ([`Piped`]).

mod known;
mod piped;

use std::fs::File;
use std::io::{self, Read};
use std::path::Path;
use std::sync::Arc;

use uzram::Device;
use uzram_snapshot::device::Filler;
use uzram_snapshot::{Error, Head, Page, Restored, Snapshot, SnapshotReader};
use uzram_spec::{Failure, Result, SnapshotSource};

pub use piped::{Piped, pass_on};

use crate::clone::{CloneSource, ClonedFrom};
use crate::handover::SentPages;
use crate::remote_process::RemoteProcess;
use crate::snapshot_files::{name, open_whole, parent_of};
use crate::snapshot_source::{Open, OpenSource, StoredParts, refused_of, stored_in};
use known::{Known, own_choices};

/// Pages after which whoever waits for the device is asked whether it still does.
const PAGES_BETWEEN_LOOKS: u64 = 1024;

/// A snapshot whose head was read.
pub(crate) struct OpenedSnapshot {
    pub(crate) known: Known,
    form: Form,
}

enum Form {
    /// Everything is in files, or in a remote.
    Stored(Box<Snapshot>, Option<Arc<RemoteProcess>>),
    /// All but the first frame is at another host.
    Sent(File),
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

impl OpenedSnapshot {
    /// Reads the heads, and finds the algorithms.
    pub(crate) fn read(source: OpenSource) -> Result<OpenedSnapshot> {
        let (of, path) = (source.of.clone(), source.of.place().to_owned());
        let failed = |error: Error| refused_of(&of, &error);
        let (snapshot, process) = match source.open {
            Open::Files(file, parents) => (open_whole(&path, file, parents)?, None),
            Open::Remote(process) => (stored_in(&source.of, process.clone())?, Some(process)),
            Open::Sent(open) => {
                let snapshot = Snapshot::open(open.description).map_err(failed)?;
                let algorithms = uzram_control::zram::algorithms();
                let choices = snapshot.choices(algorithms).map_err(failed)?;
                let known = Known::new(source.of, None, snapshot.head().clone(), choices);
                let form = Form::Sent(open.slots);
                return Ok(OpenedSnapshot { known, form });
            }
            Open::Pipe(pipe, parents) => {
                let file = Arc::new(pipe);
                let pipe = Pipe {
                    file: file.clone(),
                    first: None,
                };
                let reader = SnapshotReader::new(pipe).map_err(failed)?;
                let parent = parent_of(&path, reader.head(), parents)?;
                let choices = known::choices(&reader, parent.as_ref()).map_err(failed)?;
                let known = Known::new(source.of, None, reader.head().clone(), choices);
                let form = Form::Pipe {
                    file,
                    reader: Box::new(reader),
                    parent: parent.map(Box::new),
                };
                return Ok(OpenedSnapshot { known, form });
            }
        };
        let algorithms = uzram_control::zram::algorithms();
        let choices = snapshot.choices(algorithms).map_err(failed)?;
        let stored = process.as_ref().map(|process| process.stored());
        let name = stored.transpose()?.unwrap_or_else(|| snapshot.name());
        let head = snapshot.head().clone();
        let known = Known::new(source.of, Some(name), head, choices);
        let form = Form::Stored(Box::new(snapshot), process);
        Ok(OpenedSnapshot { known, form })
    }

    /// Makes the device a clone, which fetches its pages when they are needed.
    fn clone_to(self, device: &mut Device) -> Result<ClonedFrom> {
        if let (Form::Sent(slots), Some(sent)) = (&self.form, &self.known.source.sent) {
            let pages = SentPages::new(&self.known.source, sent);
            let choices = self.known.all_choices().collect();
            pages.install(device, choices, slots)?;
            return Ok(ClonedFrom::Host(pages));
        }
        let Form::Stored(snapshot, process) = self.form else {
            return Err(Failure::usage("a clone needs the snapshot in a file"));
        };
        let (source, name) = (self.known.source, snapshot.name());
        let parts = match process {
            Some(process) => StoredParts::Remote(process),
            None => StoredParts::Files(Arc::from(snapshot)),
        };
        let pages = crate::clone::pages_of(&source, &parts, name)?;
        pages.clone_to(device)?;
        let source = Arc::new(CloneSource::new(source, parts, pages)?);
        device.set_source(source.clone(), source.options());
        Ok(ClonedFrom::Snapshot(source))
    }

    /// Fills the device, or leaves that for later where it is to be a clone, whose source is returned. `wanted` is asked now and
    /// then whether to go on.
    pub(crate) fn install(
        self,
        device: &mut Device,
        wanted: &mut dyn FnMut() -> Result,
    ) -> Result<Option<ClonedFrom>> {
        match self.known.source.lazy {
            true => self.clone_to(device).map(Some),
            false => self.fill(device, wanted).map(|()| None),
        }
    }

    fn fill(self, device: &mut Device, wanted: &mut dyn FnMut() -> Result) -> Result {
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
        let of = known.source.clone();
        let failed = |error| failed(&of, error);
        match self.form {
            Form::Stored(mut snapshot, _) => {
                let restored = snapshot.restore(|page, content| store(&filler, page, content));
                restored.map_err(failed)
            }
            Form::Sent(_) => Err(Failure::usage("what another host hands over is lazy")),
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
fn failed(of: &SnapshotSource, error: Error) -> Failure {
    let Error::Target { source, .. } = &error else {
        return refused_of(of, &error);
    };
    let inner = source.get_ref();
    let inner = inner.map(|inner| (inner.downcast_ref(), inner.downcast_ref::<uzram::Error>()));
    match inner {
        Some((Some(failure), _)) => Failure::clone(failure),
        Some((_, Some(error))) => {
            let failure = Failure::from(error.clone());
            let message = format!("{}: {}", name(of.place()), failure.message);
            let failure = Failure { message, ..failure };
            match error {
                uzram::Error::NoSpace { .. } => {
                    failure.with_hint("it does not fit: give the device a larger --mem-limit")
                }
                _ => failure,
            }
        }
        _ => refused_of(of, &error),
    }
}
