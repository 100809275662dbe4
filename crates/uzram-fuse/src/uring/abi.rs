//! FUSE's protocol as far as one file needs it, `uapi/linux/fuse.h`: operations, structures, the commands of FUSE over
//! io_uring. Native endian.

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

/// Operations.
pub(crate) mod op {
    pub(crate) const LOOKUP: u32 = 1;
    pub(crate) const GETATTR: u32 = 3;
    pub(crate) const OPEN: u32 = 14;
    pub(crate) const READ: u32 = 15;
    pub(crate) const WRITE: u32 = 16;
    pub(crate) const STATFS: u32 = 17;
    pub(crate) const RELEASE: u32 = 18;
    pub(crate) const FSYNC: u32 = 20;
    pub(crate) const FLUSH: u32 = 25;
    pub(crate) const OPENDIR: u32 = 27;
    pub(crate) const READDIR: u32 = 28;
    pub(crate) const RELEASEDIR: u32 = 29;
    pub(crate) const FALLOCATE: u32 = 43;
    pub(crate) const LSEEK: u32 = 46;
}

/// A command to the ring.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u32)]
pub(crate) enum RingCommand {
    /// Gives an entry and its memory to a queue.
    Register = 1,
    /// Completes an entry's request and gives the entry to its queue again.
    CommitAndFetch = 2,
}

/// A structure that travels as bytes, any bits of which are valid.
macro_rules! wire {
    ($($(#[$doc:meta])* $name:ident($bytes:literal) { $($(#[$field_doc:meta])* $field:ident: $type:ty),* $(,)? })*) => {$(
        $(#[$doc])*
        #[derive(Debug, Clone, Copy, FromBytes, IntoBytes, Immutable, KnownLayout)]
        #[repr(C)]
        pub(crate) struct $name {
            $($(#[$field_doc])* pub(crate) $field: $type),*
        }
        const _: () = assert!(size_of::<$name>() == $bytes);
    )*};
}

wire! {
    /// `struct fuse_uring_cmd_req`: what a command carries.
    CommandRequest(24) {
        flags: u64,
        /// Of a commit: the request, as [`EntryInOut`] had it.
        commit_id: u64,
        /// The queue, which is a CPU's number.
        queue: u16,
        padding: [u8; 6],
    }

    /// `struct fuse_uring_req_header`: an entry's first buffer. The second one is the payload.
    EntryHeader(288) {
        /// An [`InHeader`] from the kernel, an [`OutHeader`] to it.
        in_out: [u8; 128],
        /// The operation's own structure.
        op_in: [u8; 128],
        entry: EntryInOut,
    }

    /// `struct fuse_uring_ent_in_out`.
    EntryInOut(32) {
        flags: u64,
        commit_id: u64,
        /// Bytes of the payload that are in use.
        payload_bytes: u32,
        padding: u32,
        reserved: u64,
    }

    /// `struct fuse_in_header`.
    InHeader(40) {
        len: u32,
        opcode: u32,
        unique: u64,
        nodeid: u64,
        uid: u32,
        gid: u32,
        pid: u32,
        total_extlen: u16,
        padding: u16,
    }

    /// `struct fuse_out_header`.
    OutHeader(16) {
        len: u32,
        /// Zero, or a negative errno.
        error: i32,
        unique: u64,
    }

    /// `struct fuse_read_in`, also of READDIR.
    ReadIn(40) {
        fh: u64,
        offset: u64,
        size: u32,
        read_flags: u32,
        lock_owner: u64,
        flags: u32,
        padding: u32,
    }

    /// `struct fuse_write_in`; the bytes are the payload.
    WriteIn(40) {
        fh: u64,
        offset: u64,
        size: u32,
        write_flags: u32,
        lock_owner: u64,
        flags: u32,
        padding: u32,
    }

    /// `struct fuse_write_out`.
    WriteOut(8) {
        size: u32,
        padding: u32,
    }

    /// `struct fuse_fallocate_in`.
    FallocateIn(32) {
        fh: u64,
        offset: u64,
        length: u64,
        mode: u32,
        padding: u32,
    }

    /// `struct fuse_lseek_in`.
    LseekIn(24) {
        fh: u64,
        offset: u64,
        whence: u32,
        padding: u32,
    }

    /// `struct fuse_lseek_out`.
    LseekOut(8) {
        offset: u64,
    }

    /// `struct fuse_open_out`, also of OPENDIR.
    OpenOut(16) {
        fh: u64,
        open_flags: u32,
        backing_id: i32,
    }

    /// `struct fuse_attr`.
    Attr(88) {
        ino: u64,
        size: u64,
        blocks: u64,
        atime: u64,
        mtime: u64,
        ctime: u64,
        atime_nsec: u32,
        mtime_nsec: u32,
        ctime_nsec: u32,
        mode: u32,
        nlink: u32,
        uid: u32,
        gid: u32,
        rdev: u32,
        blksize: u32,
        flags: u32,
    }

    /// `struct fuse_entry_out`.
    EntryOut(128) {
        nodeid: u64,
        generation: u64,
        entry_valid: u64,
        attr_valid: u64,
        entry_valid_nsec: u32,
        attr_valid_nsec: u32,
        attr: Attr,
    }

    /// `struct fuse_attr_out`.
    AttrOut(104) {
        attr_valid: u64,
        attr_valid_nsec: u32,
        dummy: u32,
        attr: Attr,
    }

    /// `struct fuse_statfs_out`.
    StatfsOut(80) {
        blocks: u64,
        bfree: u64,
        bavail: u64,
        files: u64,
        ffree: u64,
        bsize: u32,
        namelen: u32,
        frsize: u32,
        padding: u32,
        spare: [u32; 6],
    }

    /// `struct fuse_dirent`, which the name follows, padded to 8 bytes.
    Dirent(24) {
        ino: u64,
        /// What a READDIR that goes on here has as its offset.
        off: u64,
        namelen: u32,
        kind: u32,
    }
}
