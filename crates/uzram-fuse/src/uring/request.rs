//! Executes one request of FUSE over io_uring: an entry's header and payload in, the reply in the same places out. No I/O, so
//! that tests need no kernel.
//!
//! Bytes of the device are decompressed into the payload and compressed out of it. What comes is the kernel's and so can be
//! trusted; all the same, no bits of it make a panic.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::time::UNIX_EPOCH;

use uzram::Access;
use zerocopy::{FromBytes, Immutable, IntoBytes};

use super::abi::{
    Attr, AttrOut, Dirent, EntryHeader, EntryOut, FallocateIn, InHeader, LseekIn, LseekOut,
    OpenOut, OutHeader, ReadIn, StatfsOut, WriteIn, WriteOut, op,
};
use crate::disk::{BLOCK, DiskFile, Errno, FILE, FOREVER};

/// Executes the request in an entry's memory and puts the reply there.
pub(crate) fn serve(disk: &DiskFile, header: &mut EntryHeader, payload: &mut [u8]) {
    let request: InHeader = prefix(&header.in_out);
    let data_bytes = header.entry.payload_bytes as usize;
    let (payload_bytes, error) = match execute(disk, &request, &header.op_in, payload, data_bytes) {
        Ok(payload_bytes) => (payload_bytes as u32, 0),
        Err(errno) => (0, -errno),
    };
    let reply = OutHeader {
        len: size_of::<OutHeader>() as u32 + payload_bytes,
        error,
        unique: request.unique,
    };
    header.in_out[..size_of::<OutHeader>()].copy_from_slice(reply.as_bytes());
    header.entry.payload_bytes = payload_bytes;
}

/// Whether a request would wait for the source of a clone.
pub(crate) fn must_wait(disk: &DiskFile, header: &EntryHeader) -> bool {
    let request: InHeader = prefix(&header.in_out);
    let (access, offset, len) = match request.opcode {
        op::READ => {
            let read: ReadIn = prefix(&header.op_in);
            (
                Access::Read,
                read.offset,
                disk.read_len(read.offset, read.size),
            )
        }
        op::WRITE => {
            let write: WriteIn = prefix(&header.op_in);
            (Access::Write, write.offset, bytes(header))
        }
        op::FALLOCATE => {
            let wanted: FallocateIn = prefix(&header.op_in);
            let len = usize::try_from(wanted.length).unwrap_or(usize::MAX);
            (Access::Write, wanted.offset, len)
        }
        _ => return false,
    };
    disk.must_wait(access, offset, len)
}

/// How many of the device's bytes a request reads or writes.
pub(crate) fn bytes(header: &EntryHeader) -> usize {
    let request: InHeader = prefix(&header.in_out);
    match request.opcode {
        op::READ => prefix::<ReadIn>(&header.op_in).size as usize,
        op::WRITE => header.entry.payload_bytes as usize,
        _ => 0,
    }
}

/// The structure that a header's field begins with.
fn prefix<T: FromBytes>(field: &[u8; 128]) -> T {
    const { assert!(size_of::<T>() <= 128) };
    match T::read_from_prefix(field) {
        Ok((value, _)) => value,
        Err(_) => unreachable!("a field is larger than any of its structures"),
    }
}

/// Puts a structure at the payload's beginning. Returns its length.
fn put<T: IntoBytes + Immutable>(payload: &mut [u8], value: &T) -> Result<usize, Errno> {
    let bytes = value.as_bytes();
    let place = payload.get_mut(..bytes.len()).ok_or(libc::EIO)?;
    place.copy_from_slice(bytes);
    Ok(bytes.len())
}

/// Returns the bytes of the payload that are the reply, beside the header.
fn execute(
    disk: &DiskFile,
    request: &InHeader,
    op_in: &[u8; 128],
    payload: &mut [u8],
    data_bytes: usize,
) -> Result<usize, Errno> {
    let nodeid = request.nodeid;
    let only_file = || match nodeid {
        FILE => Ok(()),
        _ => Err(libc::EISDIR),
    };
    match request.opcode {
        op::READ => {
            only_file()?;
            let read: ReadIn = prefix(op_in);
            let len = disk.read_len(read.offset, read.size);
            let buffer = payload.get_mut(..len).ok_or(libc::EINVAL)?;
            disk.read(buffer, read.offset)?;
            Ok(len)
        }
        op::WRITE => {
            only_file()?;
            let write: WriteIn = prefix(op_in);
            let len = (write.size as usize).min(data_bytes);
            let data = payload.get(..len).ok_or(libc::EINVAL)?;
            disk.write(data, write.offset)?;
            let reply = WriteOut {
                size: len as u32,
                padding: 0,
            };
            put(payload, &reply)
        }
        op::FALLOCATE => {
            only_file()?;
            let wanted: FallocateIn = prefix(op_in);
            disk.allocate(wanted.mode as i32, wanted.offset, wanted.length)?;
            Ok(0)
        }
        op::FSYNC => {
            disk.flush()?;
            Ok(0)
        }
        op::LSEEK => {
            only_file()?;
            let seek: LseekIn = prefix(op_in);
            let offset = disk.seek(seek.offset, seek.whence as i32)?;
            put(payload, &LseekOut { offset })
        }
        op::LOOKUP => {
            let name = payload.get(..data_bytes).unwrap_or_default();
            let name = name.split(|byte| *byte == 0).next().unwrap_or_default();
            let found = disk.lookup(nodeid, OsStr::from_bytes(name))?;
            let reply = EntryOut {
                nodeid: found,
                generation: 0,
                entry_valid: FOREVER.as_secs(),
                attr_valid: FOREVER.as_secs(),
                entry_valid_nsec: 0,
                attr_valid_nsec: 0,
                attr: attr(disk, found)?,
            };
            put(payload, &reply)
        }
        op::GETATTR => {
            let reply = AttrOut {
                attr_valid: FOREVER.as_secs(),
                attr_valid_nsec: 0,
                dummy: 0,
                attr: attr(disk, nodeid)?,
            };
            put(payload, &reply)
        }
        op::OPEN => {
            only_file()?;
            put(payload, &OPENED)
        }
        op::OPENDIR => put(payload, &OPENED),
        op::READDIR => Ok(list(disk, &prefix(op_in), payload)),
        op::STATFS => {
            let reply = StatfsOut {
                blocks: disk.blocks(),
                bfree: 0,
                bavail: 0,
                files: 1,
                ffree: 0,
                bsize: BLOCK,
                namelen: 255,
                frsize: BLOCK,
                padding: 0,
                spare: [0; 6],
            };
            put(payload, &reply)
        }
        op::FLUSH | op::RELEASE | op::RELEASEDIR => Ok(0),
        // The kernel does without it from now on, or the caller is told.
        _ => Err(libc::ENOSYS),
    }
}

const OPENED: OpenOut = OpenOut {
    fh: 0,
    open_flags: 0,
    backing_id: 0,
};

fn attr(disk: &DiskFile, inode: u64) -> Result<Attr, Errno> {
    let attributes = disk.attributes(inode)?;
    let kind = match attributes.is_dir {
        true => libc::S_IFDIR,
        false => libc::S_IFREG,
    };
    let born = disk.born().duration_since(UNIX_EPOCH).unwrap_or_default();
    let (seconds, nanos) = (born.as_secs(), born.subsec_nanos());
    Ok(Attr {
        ino: inode,
        size: attributes.size_bytes,
        blocks: attributes.blocks(),
        atime: seconds,
        mtime: seconds,
        ctime: seconds,
        atime_nsec: nanos,
        mtime_nsec: nanos,
        ctime_nsec: nanos,
        mode: kind | u32::from(attributes.permissions),
        nlink: 1,
        uid: 0,
        gid: 0,
        rdev: 0,
        blksize: BLOCK,
        flags: 0,
    })
}

/// Lists the directory from an offset on, as far as there is room. Returns the bytes of the list.
fn list(disk: &DiskFile, read: &ReadIn, payload: &mut [u8]) -> usize {
    let room = payload.len().min(read.size as usize);
    let mut len = 0;
    for (off, (ino, is_dir, name)) in disk.entries(read.offset) {
        let name = name.as_bytes();
        let kind = match is_dir {
            true => libc::DT_DIR,
            false => libc::DT_REG,
        };
        let dirent = Dirent {
            ino,
            off,
            namelen: name.len() as u32,
            kind: kind.into(),
        };
        let name_at = len + size_of::<Dirent>();
        let end = name_at + name.len().next_multiple_of(8);
        if end > room {
            break;
        }
        payload[len..name_at].copy_from_slice(dirent.as_bytes());
        payload[name_at..end].fill(0);
        payload[name_at..name_at + name.len()].copy_from_slice(name);
        len = end;
    }
    len
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use uzram::Device;
    use zerocopy::FromZeros;

    use super::*;
    use crate::disk::ROOT;

    struct Entry {
        disk: DiskFile,
        device: Arc<Device>,
        header: EntryHeader,
        payload: Vec<u8>,
    }

    impl Entry {
        fn new() -> Entry {
            let device = Arc::new(Device::builder(1 << 20).build().unwrap());
            Entry {
                disk: DiskFile::new(device.clone(), "disk-01".into()),
                device,
                header: EntryHeader::new_zeroed(),
                payload: vec![0xAA; 64 << 10],
            }
        }

        /// Executes a request with `data` as its payload. Returns the reply's payload, or the errno.
        fn ask(
            &mut self,
            opcode: u32,
            nodeid: u64,
            op_in: &[u8],
            data: &[u8],
        ) -> Result<Vec<u8>, i32> {
            let mut request = InHeader::new_zeroed();
            (request.opcode, request.unique, request.nodeid) = (opcode, 77, nodeid);
            self.header.in_out[..40].copy_from_slice(request.as_bytes());
            self.header.op_in = [0; 128];
            self.header.op_in[..op_in.len()].copy_from_slice(op_in);
            self.header.entry.payload_bytes = data.len() as u32;
            self.payload[..data.len()].copy_from_slice(data);
            serve(&self.disk, &mut self.header, &mut self.payload);
            let reply: OutHeader = prefix(&self.header.in_out);
            let len = self.header.entry.payload_bytes;
            assert_eq!((reply.unique, reply.len), (77, 16 + len));
            match reply.error {
                0 => Ok(self.payload[..len as usize].to_vec()),
                error => Err(-error),
            }
        }

        fn read(&mut self, offset: u64, size: u32) -> Result<Vec<u8>, i32> {
            let read = ReadIn {
                offset,
                size,
                ..ReadIn::new_zeroed()
            };
            self.ask(op::READ, FILE, read.as_bytes(), &[])
        }

        fn write(&mut self, offset: u64, data: &[u8]) -> Result<Vec<u8>, i32> {
            let write = WriteIn {
                offset,
                size: data.len() as u32,
                ..WriteIn::new_zeroed()
            };
            self.ask(op::WRITE, FILE, write.as_bytes(), data)
        }
    }

    #[test]
    fn bytes_are_written_read_and_discarded() {
        let mut entry = Entry::new();
        let data = b"uzram ".repeat(1000);
        let reply = entry.write(4096, &data).unwrap();
        assert_eq!(
            WriteOut::read_from_bytes(&reply).unwrap().size as usize,
            data.len()
        );
        assert_eq!(entry.read(4096, 6000).unwrap(), data);
        let end = (1 << 20) - 512;
        assert_eq!(entry.read(end, 4096).unwrap(), [0; 512], "a short read");
        assert_eq!(entry.read(1 << 20, 4096).unwrap(), [0; 0]);
        assert_eq!(entry.write(1 << 20, &data), Err(libc::ENOSPC));
        let seek = |whence: i32| LseekIn {
            fh: 0,
            offset: 0,
            whence: whence as u32,
            padding: 0,
        };
        let found = entry
            .ask(op::LSEEK, FILE, seek(libc::SEEK_DATA).as_bytes(), &[])
            .unwrap();
        assert_eq!(LseekOut::read_from_bytes(&found).unwrap().offset, 4096);
        assert!(entry.device.stats().orig_data_size_bytes > 0);
        let mut hole = FallocateIn::new_zeroed();
        (hole.length, hole.mode) = (1 << 20, libc::FALLOC_FL_PUNCH_HOLE as u32 | 1);
        assert!(entry.ask(op::FALLOCATE, FILE, hole.as_bytes(), &[]).is_ok());
        assert_eq!(entry.device.stats().orig_data_size_bytes, 0);
        hole.mode = 0;
        let grown = entry.ask(op::FALLOCATE, FILE, hole.as_bytes(), &[]);
        assert_eq!(grown, Err(libc::EOPNOTSUPP));
        assert_eq!(entry.ask(op::FSYNC, FILE, &[], &[]), Ok(vec![]));
    }

    #[test]
    fn the_file_is_found_described_and_listed() {
        let mut entry = Entry::new();
        let found = entry.ask(op::LOOKUP, ROOT, &[], b"disk-01\0").unwrap();
        let found = EntryOut::read_from_bytes(&found).unwrap();
        assert_eq!((found.nodeid, found.attr.size), (FILE, 1 << 20));
        assert_eq!(found.attr.mode & libc::S_IFMT, libc::S_IFREG);
        for name in [&b"disk\0"[..], b"", b"disk-011\0"] {
            assert_eq!(entry.ask(op::LOOKUP, ROOT, &[], name), Err(libc::ENOENT));
        }
        let root = entry.ask(op::GETATTR, ROOT, &[0; 16], &[]).unwrap();
        let root = AttrOut::read_from_bytes(&root).unwrap().attr;
        assert_eq!(root.mode & libc::S_IFMT, libc::S_IFDIR);
        assert_eq!(entry.ask(op::GETATTR, 3, &[], &[]), Err(libc::ENOENT));
        assert_eq!(entry.ask(op::OPEN, FILE, &[], &[]).unwrap().len(), 16);
        assert_eq!(entry.ask(op::OPEN, ROOT, &[], &[]), Err(libc::EISDIR));
        let statfs = entry.ask(op::STATFS, ROOT, &[], &[]).unwrap();
        let statfs = StatfsOut::read_from_bytes(&statfs).unwrap();
        assert_eq!((statfs.blocks, statfs.bsize), (256, 4096));
        let mut read = ReadIn::new_zeroed();
        read.size = 4096;
        let whole = entry.ask(op::READDIR, ROOT, read.as_bytes(), &[]).unwrap();
        assert_eq!(whole.len(), 3 * 32);
        assert!(whole.ends_with(b"disk-01\0"), "{whole:?}");
        (read.offset, read.size) = (1, 40);
        let part = entry.ask(op::READDIR, ROOT, read.as_bytes(), &[]);
        assert_eq!(part.unwrap(), whole[32..64]);
        assert_eq!(entry.ask(op::RELEASE, FILE, &[], &[]), Ok(vec![]));
    }

    /// Whatever bits an entry has, they are answered.
    #[test]
    fn noise_is_answered() {
        let mut entry = Entry::new();
        for seed in 0..2000 {
            let noise = uzram_testkit::data::noise(seed);
            let opcode = u32::from(noise[0] % 64);
            let size = usize::from(noise[1]) * 300;
            let node = u64::from(noise[2] % 4);
            let result = entry.ask(opcode, node, &noise[3..131], &[]);
            assert!(result.is_err_and(|errno| errno > 0) || result_fits(&entry));
            entry.header.entry.payload_bytes = size as u32;
            serve(&entry.disk, &mut entry.header, &mut entry.payload[..16]);
        }
    }

    fn result_fits(entry: &Entry) -> bool {
        entry.header.entry.payload_bytes as usize <= entry.payload.len()
    }
}
