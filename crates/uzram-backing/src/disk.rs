//! The seam between the backing and its disk: reads that block, writes of which several are in flight.
//!
//! A write owns its buffer until it is done, so that a write that never comes back keeps memory, and nothing else: no
//! implementation can give the buffer out again while the disk may still read it.

use std::io;
use std::ops::Range;
use std::time::Duration;

use crate::buffer::Buffer;
use crate::store::StoreStats;

/// A file or a block device. All offsets and lengths that are asked for are whole blocks.
pub trait Disk: Send + Sync {
    /// Bytes that there are now.
    fn size_bytes(&self) -> io::Result<u64>;

    /// Makes `size_bytes` bytes usable, so that writes do not run out of space later, as far as that can be promised.
    fn reserve(&self, size_bytes: u64) -> io::Result<()>;

    /// Reads; 0 at the end, otherwise perhaps less than asked for. Called by any thread, several at a time.
    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<usize>;

    /// A queue for up to `depth` writes in flight.
    fn queue(&self, depth: usize) -> io::Result<Box<dyn WriteQueue>>;

    /// How reads and writes are done, in a few words, for people.
    fn describe(&self) -> String;

    /// How it is to be written: the same from the first call to the last.
    fn layout(&self) -> DiskLayout {
        DiskLayout::default()
    }

    /// Told that a segment holds nothing any more, where each is written once; it may be given out again as soon as this
    /// returns. Called by any thread, on the way of requests: must not wait, nor call the system.
    fn emptied(&self, _segment: u32) {}

    /// Told that nobody will use it any more. May block for some seconds. Returns what is left behind, in words, if anything is.
    fn retire(&self) -> Option<String> {
        None
    }

    /// What a store of objects holds, where it is one.
    fn store(&self) -> Option<StoreStats> {
        None
    }
}

/// How a disk is to be written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct DiskLayout {
    /// Bytes of a segment: whole blocks, at most 4 MiB.
    pub segment_bytes: u64,
    /// Whether a segment is written by one write, and not again before it was empty. Such a disk is slow to answer and may be
    /// away, so whoever can wait elsewhere does.
    pub written_once: bool,
    /// Writes in flight at a time.
    pub depth: usize,
    /// How long a writer waits for it, if the disk knows better than the writer.
    pub patience: Option<Duration>,
}

impl Default for DiskLayout {
    fn default() -> DiskLayout {
        DiskLayout {
            segment_bytes: crate::SEGMENT_BYTES,
            written_once: false,
            depth: 4,
            patience: None,
        }
    }
}

/// Writes in flight. Used by one thread at a time.
pub trait WriteQueue: Send {
    /// Begins a write. One that cannot be begun comes back by [`WriteQueue::reap`] with its error.
    fn submit(&mut self, write: DiskWrite);

    /// A write that is done: its bytes have reached the disk, or it has failed. Waits up to `timeout` for one, and not at
    /// all when none is in flight.
    fn reap(&mut self, timeout: Duration) -> Option<DiskDone>;
}

/// A write on its way.
pub struct DiskWrite {
    /// The submitter's, handed back.
    pub token: usize,
    /// Where on the disk, in bytes.
    pub offset: u64,
    /// The memory.
    pub buffer: Buffer,
    /// Which part of the memory: whole blocks.
    pub range: Range<usize>,
}

impl DiskWrite {
    /// What is to be written.
    pub fn bytes(&self) -> &[u8] {
        &self.buffer.bytes()[self.range.clone()]
    }
}

/// A write that came back.
pub struct DiskDone {
    /// As submitted.
    pub write: DiskWrite,
    /// Bytes written, perhaps less than asked for.
    pub result: io::Result<usize>,
}

/// Reads all of `buffer`. `Ok(n)` with `n` less than that: the disk ends there.
pub(crate) fn read_full(disk: &dyn Disk, buffer: &mut [u8], offset: u64) -> io::Result<usize> {
    let mut done = 0;
    while done < buffer.len() {
        match disk.read_at(&mut buffer[done..], offset + done as u64) {
            Ok(0) => break,
            Ok(count) => {
                done += count;
                // Part of a block: the end of a file. Direct I/O does not go on from there.
                if !done.is_multiple_of(crate::BLOCK) {
                    break;
                }
            }
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(done)
}

/// Writes a buffer and waits for it: for the header block.
pub(crate) fn write_now(disk: &dyn Disk, buffer: Buffer, offset: u64) -> io::Result<()> {
    let mut queue = disk.queue(1)?;
    let range = 0..buffer.bytes().len();
    let token = 0;
    let len = range.len();
    queue.submit(DiskWrite {
        token,
        offset,
        buffer,
        range,
    });
    match queue.reap(HEADER_PATIENCE) {
        None => Err(io::ErrorKind::TimedOut.into()),
        Some(done) => match done.result? {
            count if count < len => Err(io::ErrorKind::WriteZero.into()),
            _ => Ok(()),
        },
    }
}

/// How long a new backing waits for its first write.
const HEADER_PATIENCE: Duration = Duration::from_secs(30);
