//! Where a snapshot is that a device is made of, open: its files, a pipe, or the process that reads its remote.

use std::fs::File;
use std::path::PathBuf;
use std::sync::Arc;

use uzram_snapshot::{Digest, Error, Kind, Snapshot, Source, StoredManifest};
use uzram_spec::{Failure, Result, SnapshotSource};

use crate::handover::OpenSent;
use crate::remote_process::{RemoteOrder, RemoteProcess, TraceStore};
use crate::snapshot_files::{name, open, open_whole, refused};

/// What is needed to read a snapshot. Not read yet.
pub(crate) struct OpenSource {
    pub(crate) of: SnapshotSource,
    pub(crate) open: Open,
}

/// What is open.
pub(crate) enum Open {
    /// A file with those of the parents.
    Files(File, Vec<(PathBuf, File)>),
    /// A pipe, and the files of the parents.
    Pipe(File, Vec<(PathBuf, File)>),
    /// A remote or a sealed file, which another process reads.
    Remote(Arc<RemoteProcess>),
    /// What another host says of a device that it hands over.
    Sent(OpenSent),
}

/// Where the parts of a stored snapshot are.
pub(crate) enum StoredParts {
    Files(Arc<Snapshot>),
    Remote(Arc<RemoteProcess>),
}

impl OpenSource {
    /// Opens the files, or starts the process that opens the remote. A process that gives up privileges does it before.
    pub(crate) fn open(of: &SnapshotSource) -> Result<OpenSource> {
        let with = |open| OpenSource {
            of: of.clone(),
            open,
        };
        if let Some(sent) = &of.sent {
            return Ok(with(Open::Sent(OpenSent::open(of, sent)?)));
        }
        // What is sealed is read by a process that has the keys.
        if of.is_remote() || of.is_sealed() {
            let process = RemoteProcess::start(&RemoteOrder::new(of))?;
            return Ok(with(Open::Remote(Arc::new(process))));
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
        Ok(with(match is_file {
            true => Open::Files(file, parents),
            false => Open::Pipe(file, parents),
        }))
    }

    /// Whether reading it leaves it as it is.
    pub(crate) fn is_stored(&self) -> bool {
        !matches!(self.open, Open::Pipe(..))
    }

    /// Where the parts of a stored snapshot are, and its name.
    pub(crate) fn into_parts(self) -> Result<(StoredParts, Digest)> {
        let path = self.of.place();
        match self.open {
            Open::Files(file, parents) => {
                let snapshot = open_whole(path, file, parents)?;
                let found = snapshot.name();
                Ok((StoredParts::Files(Arc::new(snapshot)), found))
            }
            Open::Remote(process) => {
                let snapshot = process.snapshot()?;
                Ok((StoredParts::Remote(process), snapshot))
            }
            Open::Pipe(..) | Open::Sent(_) => {
                let message = format!("{}: a clone needs a file, not a pipe", name(path));
                Err(Failure::usage(message))
            }
        }
    }
}

impl StoredParts {
    /// Where to fetch them.
    pub(crate) fn source(&self) -> Arc<dyn Source> {
        match self {
            StoredParts::Files(snapshot) => snapshot.clone(),
            StoredParts::Remote(process) => process.clone(),
        }
    }

    /// Lets go of what others keep for them.
    pub(crate) fn say_goodbye(&self) {
        if let StoredParts::Remote(process) = self {
            process.say_goodbye();
        }
    }

    /// What the snapshot is called where it is stored: a description has this.
    pub(crate) fn stored(&self) -> Result<Digest> {
        match self {
            StoredParts::Files(snapshot) => Ok(snapshot.name()),
            StoredParts::Remote(process) => process.stored(),
        }
    }

    /// Where a trace is kept.
    pub(crate) fn trace(&self) -> Option<Arc<dyn TraceStore>> {
        match self {
            StoredParts::Files(_) => None,
            StoredParts::Remote(process) => Some(process.clone()),
        }
    }

    /// Whether they have to be opened anew after a failure: a file may have been replaced, and a process have ended.
    pub(crate) fn may_be_stale(&self) -> bool {
        match self {
            StoredParts::Files(_) => true,
            StoredParts::Remote(process) => process.may_be_stale(),
        }
    }
}

/// A failure to read a snapshot, in words that name where it is.
pub(crate) fn refused_of(of: &SnapshotSource, error: &Error) -> Failure {
    let failure = refused(of.place(), error);
    match error {
        Error::Missing { .. } if of.is_remote() => failure.with_hint(format!(
            "\"uzram remote check {}\" says what is missing",
            of.remote
        )),
        _ => failure,
    }
}

/// The snapshot that a process reads, with all that it needs of the remote.
pub(crate) fn stored_in(of: &SnapshotSource, process: Arc<RemoteProcess>) -> Result<Snapshot> {
    let (name, kind) = (process.snapshot()?, Kind::Manifest);
    let refused = |error| refused_of(of, &error);
    let fetched = process.size_bytes(kind, name);
    let fetched = fetched.and_then(|bytes| process.get_range(kind, name, 0..bytes));
    let what = "fetch the manifest";
    let record = fetched.map_err(|source| refused(Error::Io { what, source }))?;
    let manifest = StoredManifest::parse(name, &record).map_err(refused)?;
    manifest.open(process).map_err(refused)
}
