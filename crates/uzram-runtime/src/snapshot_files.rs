//! Opens the files and pipes of snapshots, and finds the parents among those that were given. Says in words what is wrong.

use std::fs::File;
use std::io;
use std::os::unix::fs::{FileTypeExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use rustix::fs::OFlags;
use rustix::io::Errno;
use uzram_snapshot::{Digest, Error, Head, ReadAt, Snapshot};
use uzram_spec::{Failure, FailureKind, Result};

/// A failure to read a snapshot, in words that name its file.
pub fn refused(path: &Path, error: &Error) -> Failure {
    let kind = match error {
        Error::Newer { .. } | Error::Algorithm { .. } => FailureKind::Impossible,
        Error::Foreign
        | Error::Sealed
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
        Error::Sealed => {
            failure.with_hint("--identity FILE or --seal-passphrase-file FILE names what opens it")
        }
        Error::OtherParent { .. } => failure.with_hint("--parent takes the files of its parents"),
        _ => failure,
    }
}

/// How a snapshot's file is called: a pipe has no name that anybody gave it.
pub(crate) fn name(path: &Path) -> String {
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
pub fn open_chain<F: ReadAt + 'static>(
    path: &Path,
    file: F,
    parents: Vec<(PathBuf, F)>,
) -> Result<Snapshot> {
    let snapshot = Snapshot::open(file).map_err(|error| refused(path, &error))?;
    with_parents(path, snapshot, parents)
}

/// The snapshot of a file, which with its parents' is to be all of it.
pub(crate) fn open_whole(
    path: &Path,
    file: File,
    parents: Vec<(PathBuf, File)>,
) -> Result<Snapshot> {
    let snapshot = open_chain(path, file, parents)?;
    match snapshot.missing_parent() {
        Some(parent) => Err(refused(path, &Error::MissingParent { parent })),
        None => Ok(snapshot),
    }
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

fn with_parents<F: ReadAt + 'static>(
    path: &Path,
    mut snapshot: Snapshot,
    parents: Vec<(PathBuf, F)>,
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

fn open_all<F: ReadAt + 'static>(parents: Vec<(PathBuf, F)>) -> Result<Vec<(PathBuf, Snapshot)>> {
    let open = |(path, file): (PathBuf, F)| {
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

/// The parent of what comes by a pipe.
pub(crate) fn parent_of(
    path: &Path,
    head: &Head,
    parents: Vec<(PathBuf, File)>,
) -> Result<Option<Snapshot>> {
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
