//! Sealed files and pipes: a header of 24 bytes, and an age file whose contents are a snapshot.
//!
//! The header is that of a snapshot's head with another version, so that programs that know of no seal say that a newer one is
//! needed. Nothing in it can be chosen: it is compared.

use std::fmt;
use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::sync::{Mutex, PoisonError};

use age::stream::{StreamReader, StreamWriter};
use uzram_snapshot::{ReadAt, SEALED_VERSION};

use crate::keys::{Keys, Recipients};
use crate::{Error, Result};

const HEADER_BYTES: usize = 24;

/// What a sealed file begins with.
fn header() -> [u8; HEADER_BYTES] {
    let mut header = [0; HEADER_BYTES];
    header[..8].copy_from_slice(b"uzramSN\0");
    header[8..12].copy_from_slice(&SEALED_VERSION.to_le_bytes());
    header
}

/// Whether what begins so is a sealed file.
pub fn is_sealed(begin: &[u8]) -> bool {
    begin.starts_with(&header()[..12])
}

/// Refuses what does not begin as a sealed file.
fn check_header(found: &[u8; HEADER_BYTES]) -> Result {
    let own = header();
    if *found == own {
        return Ok(());
    }
    if found[..8] != own[..8] {
        return Err(uzram_snapshot::Error::Foreign.into());
    }
    let version = found[8..].first_chunk().copied().map(u32::from_le_bytes);
    match version.unwrap_or(0) {
        uzram_snapshot::VERSION => Err(Error::NotSealed),
        SEALED_VERSION => Err(Error::Broken("its header is damaged")),
        0 => Err(Error::Broken("its header is damaged")),
        _ => Err(Error::Newer),
    }
}

fn read_header(from: &mut impl Read) -> Result {
    let mut found = [0; HEADER_BYTES];
    let read = from.read_exact(&mut found);
    read.map_err(|error| match error.kind() {
        io::ErrorKind::UnexpectedEof => Error::Broken("it is cut off"),
        _ => Error::io("read")(error),
    })?;
    check_header(&found)
}

/// Seals what is written to it.
pub struct SealingWriter<W: Write>(StreamWriter<W>);

impl<W: Write> fmt::Debug for SealingWriter<W> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("SealingWriter")
    }
}

impl<W: Write> SealingWriter<W> {
    /// Begins a sealed file.
    pub fn new(mut to: W, recipients: &Recipients) -> Result<SealingWriter<W>> {
        to.write_all(&header()).map_err(Error::io("write"))?;
        Ok(SealingWriter(recipients.wrap(to)?))
    }

    /// Ends it. Without this it counts as cut off.
    pub fn finish(self) -> io::Result<W> {
        self.0.finish()
    }
}

impl<W: Write> Write for SealingWriter<W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.0.flush()
    }
}

/// What a sealed stream holds, read forward.
pub struct Unsealed<R: Read>(StreamReader<R>);

impl<R: Read> fmt::Debug for Unsealed<R> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Unsealed")
    }
}

/// Begins to read a sealed stream. What is not sealed is refused.
pub fn unseal<R: Read>(mut from: R, keys: &Keys) -> Result<Unsealed<R>> {
    read_header(&mut from)?;
    Ok(Unsealed(keys.open(from)?))
}

impl<R: Read> Read for Unsealed<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        self.0.read(buffer).map_err(broken)
    }
}

/// What age says of a chunk, in our words.
fn broken(error: io::Error) -> io::Error {
    match error.kind() {
        io::ErrorKind::UnexpectedEof => Error::Broken("it is cut off").into(),
        io::ErrorKind::InvalidData => Error::Broken("it is cut off or damaged").into(),
        _ => error,
    }
}

/// A sealed file that can be read at any place. Reads of several threads follow one another.
pub struct SealedFile {
    reader: Mutex<StreamReader<File>>,
    bytes: u64,
}

impl fmt::Debug for SealedFile {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut out = f.debug_struct("SealedFile");
        out.field("bytes", &self.bytes).finish_non_exhaustive()
    }
}

impl SealedFile {
    /// Opens one, and sees that it has its end. What is not sealed is refused.
    pub fn open(mut file: File, keys: &Keys) -> Result<SealedFile> {
        file.seek(SeekFrom::Start(0)).map_err(Error::io("read"))?;
        read_header(&mut file)?;
        let mut reader = keys.open(file)?;
        let end = reader.seek(SeekFrom::End(0));
        let bytes = end.map_err(|_| Error::Broken("it is cut off or damaged"))?;
        Ok(SealedFile {
            reader: Mutex::new(reader),
            bytes,
        })
    }
}

impl ReadAt for SealedFile {
    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<usize> {
        // Behind the end the chunks are none that age could look for.
        let left = self.bytes.saturating_sub(offset);
        let count = left.min(buffer.len() as u64) as usize;
        if count == 0 {
            return Ok(0);
        }
        let mut reader = self.reader.lock().unwrap_or_else(PoisonError::into_inner);
        reader.seek(SeekFrom::Start(offset)).map_err(broken)?;
        reader.read(&mut buffer[..count]).map_err(broken)
    }

    fn size_bytes(&self) -> io::Result<u64> {
        Ok(self.bytes)
    }
}
