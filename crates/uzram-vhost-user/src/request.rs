//! Executes one virtio-blk request: its descriptors in, its status out.
//!
//! Data goes through a buffer of this process. For the price of a copy the codecs never see memory that the guest changes
//! meanwhile.

use std::io;
use std::sync::Arc;

use uzram::{Access, Device, PAGE_SIZE, Zeroes};
use uzram_frontend::RequestBuffers;
use virtio_bindings::virtio_blk as blk;
use vm_memory::GuestMemoryMmap;

use crate::chain::{Chain, ChainError, DescriptorTable};
use crate::config::{MAX_RANGE_SECTORS, MAX_RANGES, MAX_REQUEST_BYTES, SECTOR};

/// Bytes that are copied at a time: what stays in the cache between the copy and the codec.
const BUFFER_BYTES: usize = 32 << 10;
/// Size of a request's header: kind, priority, sector.
const HEADER_BYTES: usize = 16;
/// Size of a range of a discard: sector, number of sectors, flags.
const RANGE_BYTES: usize = 16;
/// Size of a disk's name.
const ID_BYTES: usize = 20;
/// The flag of a range that may be deallocated.
const UNMAP: u32 = 1;

/// What a driver is told of a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Status {
    Ok,
    IoError,
    Unsupported,
}

impl Status {
    fn byte(self) -> u8 {
        let number = match self {
            Status::Ok => blk::VIRTIO_BLK_S_OK,
            Status::IoError => blk::VIRTIO_BLK_S_IOERR,
            Status::Unsupported => blk::VIRTIO_BLK_S_UNSUPP,
        };
        number as u8
    }
}

impl From<ChainError> for Status {
    fn from(error: ChainError) -> Status {
        tracing::debug!("a request that makes no sense: {error}");
        Status::IoError
    }
}

impl From<uzram::Error> for Status {
    fn from(error: uzram::Error) -> Status {
        tracing::debug!("a request that failed: {error}");
        Status::IoError
    }
}

/// What a request wants.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Order {
    Read { offset: u64, len: u64 },
    Write { offset: u64, len: u64 },
    Flush,
    Discard { ranges: usize },
    WriteZeroes { ranges: usize },
    Name { len: u64 },
}

/// A range of a discard.
#[derive(Debug, Clone, Copy, Default)]
struct Range {
    offset: u64,
    len: u64,
    unmap: bool,
}

/// What came of looking at a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Served {
    /// It is done: so many bytes were written to the guest.
    Done(u32),
    /// It would wait for a clone's source, which must be fetched from first.
    MustFetch(Fetch),
}

/// What is to be fetched for a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Fetch {
    pub(crate) access: Access,
    pub(crate) offset: u64,
    pub(crate) len: u64,
}

/// Executes a queue's requests, one at a time. Nothing of it allocates after it was made.
pub(crate) struct Executor {
    device: Arc<Device>,
    name: [u8; ID_BYTES],
    read_only: bool,
    chain: Chain,
    /// In no core dump.
    buffer: RequestBuffers,
}

impl Executor {
    pub(crate) fn new(device: Arc<Device>, name: &str, read_only: bool) -> io::Result<Executor> {
        let mut id = [0; ID_BYTES];
        id.iter_mut()
            .zip(name.bytes())
            .for_each(|(to, from)| *to = from);
        Ok(Executor {
            device,
            name: id,
            read_only,
            chain: Chain::new(),
            buffer: RequestBuffers::new(BUFFER_BYTES)?,
        })
    }

    /// The device.
    pub(crate) fn device(&self) -> &Arc<Device> {
        &self.device
    }

    /// Executes the request that begins with the descriptor `head`. `fetched` says that it has waited for a source already, and
    /// whether in vain.
    pub(crate) fn serve(
        &mut self,
        mem: &GuestMemoryMmap,
        table: DescriptorTable,
        head: u16,
        fetched: Option<bool>,
    ) -> Served {
        let read = self.chain.read(mem, table, head);
        // The last byte that the device writes is the status.
        let Some(data_bytes) = self.chain.writable_bytes().checked_sub(1) else {
            tracing::debug!("a request without room for its status");
            return Served::Done(0);
        };
        let order = read.map_err(Status::from);
        let order = order.and_then(|()| self.order(mem, data_bytes));
        let done = match (order, fetched) {
            (Ok(_), Some(false)) => Err(Status::IoError),
            (Ok(order), _) => {
                if fetched.is_none()
                    && let Some(fetch) = self.must_fetch(order)
                {
                    return Served::MustFetch(fetch);
                }
                self.execute(mem, order)
            }
            (Err(status), _) => Err(status),
        };
        let (status, written) = match done {
            Ok(written) => (Status::Ok, written),
            Err(status) => (status, 0),
        };
        let mut writer = self.chain.writer();
        let told = writer
            .skip(data_bytes)
            .and_then(|()| writer.write(mem, &[status.byte()]));
        if told.is_err() {
            tracing::debug!("the status of a request is not in the guest's memory");
            return Served::Done(0);
        }
        Served::Done(u32::try_from(written + 1).unwrap_or(u32::MAX))
    }

    /// Reads the header and checks what can be checked of it.
    fn order(&self, mem: &GuestMemoryMmap, data_in: u64) -> Result<Order, Status> {
        let mut header = [0; HEADER_BYTES];
        let Some(data_out) = self.chain.readable_bytes().checked_sub(HEADER_BYTES as u64) else {
            return Err(Status::IoError);
        };
        self.chain.reader().read(mem, &mut header)?;
        let [a, b, c, d, _, _, _, _, e, f, g, h, i, j, k, l] = header;
        let kind = u32::from_le_bytes([a, b, c, d]);
        let sector = u64::from_le_bytes([e, f, g, h, i, j, k, l]);
        let order = match kind {
            blk::VIRTIO_BLK_T_IN => {
                let (offset, len) = self.transfer(sector, data_in)?;
                Order::Read { offset, len }
            }
            blk::VIRTIO_BLK_T_OUT => {
                let (offset, len) = self.transfer(sector, data_out)?;
                Order::Write { offset, len }
            }
            blk::VIRTIO_BLK_T_FLUSH => Order::Flush,
            blk::VIRTIO_BLK_T_DISCARD => Order::Discard {
                ranges: ranges(data_out)?,
            },
            blk::VIRTIO_BLK_T_WRITE_ZEROES => Order::WriteZeroes {
                ranges: ranges(data_out)?,
            },
            blk::VIRTIO_BLK_T_GET_ID => Order::Name { len: data_in },
            _ => return Err(Status::Unsupported),
        };
        let reads = matches!(
            order,
            Order::Read { .. } | Order::Flush | Order::Name { .. }
        );
        if self.read_only && !reads {
            return Err(Status::IoError);
        }
        Ok(order)
    }

    /// The range of a read or a write.
    fn transfer(&self, sector: u64, len: u64) -> Result<(u64, u64), Status> {
        match len <= MAX_REQUEST_BYTES {
            true => self.range(sector, len),
            false => Err(Status::IoError),
        }
    }

    /// A range in bytes, which is on the device.
    fn range(&self, sector: u64, len: u64) -> Result<(u64, u64), Status> {
        let offset = sector.checked_mul(SECTOR).ok_or(Status::IoError)?;
        let end = offset.checked_add(len).ok_or(Status::IoError)?;
        match len.is_multiple_of(SECTOR) && end <= self.device.size_bytes() {
            true => Ok((offset, len)),
            false => Err(Status::IoError),
        }
    }

    fn must_fetch(&self, order: Order) -> Option<Fetch> {
        let (access, offset, len) = match order {
            Order::Read { offset, len } => (Access::Read, offset, len),
            Order::Write { offset, len } => (Access::Write, offset, len),
            _ => return None,
        };
        let must = self.device.must_fetch(access, offset, len);
        must.then_some(Fetch {
            access,
            offset,
            len,
        })
    }

    /// Returns how many bytes of data were written to the guest.
    fn execute(&mut self, mem: &GuestMemoryMmap, order: Order) -> Result<u64, Status> {
        match order {
            Order::Read { offset, len } => {
                let mut writer = self.chain.writer();
                for (at, piece) in pieces(offset, len) {
                    let buffer = self.buffer.part(0, piece);
                    self.device.read_at(buffer, at)?;
                    writer.write(mem, buffer)?;
                }
                return Ok(len);
            }
            Order::Write { offset, len } => {
                let mut reader = self.chain.reader();
                reader.skip(HEADER_BYTES as u64)?;
                for (at, piece) in pieces(offset, len) {
                    let buffer = self.buffer.part(0, piece);
                    reader.read(mem, buffer)?;
                    self.device.write_at(buffer, at)?;
                }
            }
            Order::Flush => self.device.flush()?,
            Order::Discard { ranges } => {
                for range in &self.ranges(mem, ranges, false)?[..ranges] {
                    self.device.discard(range.offset, range.len)?;
                }
            }
            Order::WriteZeroes { ranges } => {
                for range in &self.ranges(mem, ranges, true)?[..ranges] {
                    let how = match range.unmap {
                        true => Zeroes::Deallocate,
                        false => Zeroes::Allocate,
                    };
                    self.device.write_zeroes(range.offset, range.len, how)?;
                }
            }
            Order::Name { len } => {
                let len = len.min(ID_BYTES as u64);
                self.chain.writer().write(mem, &self.name[..len as usize])?;
                return Ok(len);
            }
        }
        Ok(0)
    }

    /// Reads and checks all ranges, before anything is done to any.
    fn ranges(
        &self,
        mem: &GuestMemoryMmap,
        count: usize,
        may_unmap: bool,
    ) -> Result<[Range; MAX_RANGES], Status> {
        let mut ranges = [Range::default(); MAX_RANGES];
        let mut reader = self.chain.reader();
        reader.skip(HEADER_BYTES as u64)?;
        for range in &mut ranges[..count] {
            let mut bytes = [0; RANGE_BYTES];
            reader.read(mem, &mut bytes)?;
            let [a, b, c, d, e, f, g, h, i, j, k, l, m, n, o, p] = bytes;
            let sector = u64::from_le_bytes([a, b, c, d, e, f, g, h]);
            let sectors = u32::from_le_bytes([i, j, k, l]);
            let flags = u32::from_le_bytes([m, n, o, p]);
            let known = if may_unmap { UNMAP } else { 0 };
            if flags & !known != 0 {
                return Err(Status::Unsupported);
            }
            if sectors > MAX_RANGE_SECTORS {
                return Err(Status::IoError);
            }
            let (offset, len) = self.range(sector, u64::from(sectors) * SECTOR)?;
            *range = Range {
                offset,
                len,
                unmap: flags & UNMAP != 0,
            };
        }
        Ok(ranges)
    }
}

/// How many ranges so many bytes are.
fn ranges(bytes: u64) -> Result<usize, Status> {
    let count = usize::try_from(bytes).map_err(|_| Status::IoError)? / RANGE_BYTES;
    match bytes.is_multiple_of(RANGE_BYTES as u64) && (1..=MAX_RANGES).contains(&count) {
        true => Ok(count),
        false => Err(Status::IoError),
    }
}

/// Divides a range into pieces that fit in the buffer, on borders of pages, so that none is compressed or read twice.
fn pieces(offset: u64, len: u64) -> impl Iterator<Item = (u64, usize)> {
    let (mut at, end) = (offset, offset + len);
    std::iter::from_fn(move || {
        let fitting = BUFFER_BYTES as u64 - at % PAGE_SIZE as u64;
        let piece = fitting.min(end - at);
        let found = (piece > 0).then_some((at, piece as usize));
        at += piece;
        found
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pieces_cover_a_range_and_end_on_pages() {
        let all: Vec<_> = pieces(512, 70_000).collect();
        assert_eq!(all[0], (512, BUFFER_BYTES - 512));
        assert_eq!(all.iter().map(|piece| piece.1).sum::<usize>(), 70_000);
        let ends = all.iter().map(|(at, len)| at + *len as u64);
        assert!(
            ends.take(all.len() - 1)
                .all(|end| end % PAGE_SIZE as u64 == 0)
        );
        assert_eq!(pieces(4096, 0).count(), 0);
    }

    #[test]
    fn a_transfer_is_on_the_device_and_not_too_long() {
        let device = Device::builder(1 << 30).build().unwrap();
        let executor = Executor::new(Arc::new(device), "zram0", false).unwrap();
        let end = (1 << 30) / SECTOR;
        assert_eq!(
            executor.transfer(8, MAX_REQUEST_BYTES),
            Ok((4096, MAX_REQUEST_BYTES))
        );
        assert_eq!(executor.transfer(end, 0), Ok((1 << 30, 0)));
        for (sector, len) in [(0, MAX_REQUEST_BYTES + SECTOR), (end, SECTOR), (0, 511)] {
            assert_eq!(executor.transfer(sector, len), Err(Status::IoError));
        }
    }

    #[test]
    fn ranges_are_whole_and_not_too_many() {
        assert_eq!(ranges(16), Ok(1));
        assert_eq!(ranges(16 * MAX_RANGES as u64), Ok(MAX_RANGES));
        for bytes in [0, 15, 17, 16 * (MAX_RANGES as u64 + 1), u64::MAX] {
            assert_eq!(ranges(bytes), Err(Status::IoError));
        }
    }
}
