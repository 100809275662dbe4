//! Passes a snapshot on that only this process can read, such as its stdin, by a pipe that a server can open by a path.

use std::fs::File;
use std::io::{self, Read, Write};
use std::os::fd::{AsRawFd, OwnedFd};
use std::path::PathBuf;

use uzram::Device;
use uzram_snapshot::{Error, SnapshotReader};
use uzram_spec::{DeviceSpec, Failure, Result};

use super::known::{self, Known};
use crate::process;
use crate::snapshot_files::{open, parent_of, refused};

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
    let choices = known::choices(&reader, parent.as_ref()).map_err(failed)?;
    let head = reader.head().clone();
    drop(reader);
    let known = Known::new(source, None, head, choices);
    known.fill_in(spec)?;
    let algorithms = uzram_control::zram::algorithms();
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
