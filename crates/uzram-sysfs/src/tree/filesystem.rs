//! The tree as a FUSE file system.
//!
//! The kernel caches nothing, so a removed device is gone at the next look. FileTree have direct I/O, so each `read` and
//! `write` is one request with the caller's length and offset.

use std::ffi::OsStr;
use std::sync::Arc;
use std::thread;
use std::time::SystemTime;

use fuser::{
    FileAttr, FileType, FopenFlags, INodeNo, OpenAccMode, OpenFlags, ReplyData, ReplyWrite,
};
use rustix::io::{Errno, Result};

use super::layout::{TreeEntry, TreeLayout, parent};
use super::open_file::{OpenFile, PAGE_SIZE};
use crate::fuse::{AttrChange, DirEntry, FileTree, attributes, to_fuse};
use crate::inodes::Inodes;

pub(crate) struct TreeFilesystem {
    layout: Arc<TreeLayout>,
    inodes: Inodes<String>,
    born: SystemTime,
}

impl TreeFilesystem {
    pub(crate) fn new(layout: Arc<TreeLayout>) -> TreeFilesystem {
        TreeFilesystem {
            layout,
            inodes: Inodes::new(String::new()),
            born: SystemTime::now(),
        }
    }

    fn path(&self, ino: INodeNo) -> Result<Arc<String>> {
        self.inodes.key(ino).ok_or(Errno::NOENT)
    }

    fn attr_of(&self, ino: INodeNo, path: &str) -> Result<FileAttr> {
        let (kind, perm, size, nlink) = match self.layout.entry(path)? {
            TreeEntry::Dir => (FileType::Directory, 0o755, 0, 2),
            TreeEntry::Link(_) => (FileType::Symlink, 0o777, 0, 1),
            // As in debugfs: a program that trusts a size would stop there.
            TreeEntry::File { mode, .. } if path.starts_with("kernel/debug/") => {
                (FileType::RegularFile, mode, 0, 1)
            }
            TreeEntry::File { mode, .. } => (FileType::RegularFile, mode, PAGE_SIZE as u64, 1),
        };
        Ok(FileAttr {
            size,
            nlink,
            ..attributes(ino, kind, perm, self.born)
        })
    }
}

fn below(dir: &str, name: &str) -> String {
    match dir {
        "" => name.into(),
        dir => format!("{dir}/{name}"),
    }
}

/// Runs `work` in a thread of its own, so that no other request waits. Without a thread the reply is dropped, which fuser
/// answers with EIO.
fn in_own_thread(work: impl FnOnce() + Send + 'static) {
    let spawned = thread::Builder::new()
        .name("uzram-store".into())
        .spawn(work);
    if let Err(error) = spawned {
        tracing::warn!(%error, "cannot start a thread for a request");
    }
}

impl FileTree for TreeFilesystem {
    type File = OpenFile;
    const OPENED: FopenFlags = FopenFlags::FOPEN_DIRECT_IO
        .union(FopenFlags::FOPEN_PARALLEL_DIRECT_WRITES)
        .union(FopenFlags::FOPEN_NOFLUSH);
    const ANSWERS_XATTR: bool = true;

    fn look(&self, parent: INodeNo, name: &OsStr) -> Result<FileAttr> {
        // All names of the tree are text.
        let name = name.to_str().ok_or(Errno::NOENT)?;
        let path = below(&self.path(parent)?, name);
        self.layout.entry(&path)?;
        let ino = self.inodes.number(path.clone());
        self.attr_of(ino, &path)
    }

    fn attr(&self, ino: INodeNo, _open: Option<&OpenFile>) -> Result<FileAttr> {
        self.attr_of(ino, &self.path(ino)?)
    }

    fn set(&self, _ino: INodeNo, change: &AttrChange, _open: Option<&OpenFile>) -> Result<()> {
        // Truncation and times change nothing.
        match (change.mode, change.owner) {
            (None, (None, None)) => Ok(()),
            _ => Err(Errno::PERM),
        }
    }

    fn target(&self, ino: INodeNo) -> Result<Vec<u8>> {
        match self.layout.entry(&self.path(ino)?)? {
            TreeEntry::Link(target) => Ok(target.to_vec()),
            _ => Err(Errno::INVAL),
        }
    }

    fn open(&self, ino: INodeNo, flags: OpenFlags) -> Result<OpenFile> {
        let TreeEntry::File { mode, source } = self.layout.entry(&self.path(ino)?)? else {
            return Err(Errno::ISDIR);
        };
        let (reads, writes) = match flags.acc_mode() {
            OpenAccMode::O_RDONLY => (true, false),
            OpenAccMode::O_WRONLY => (false, true),
            OpenAccMode::O_RDWR => (true, true),
        };
        // Applies to root as well: the file cannot do it.
        if (reads && mode & 0o444 == 0) || (writes && mode & 0o222 == 0) {
            return Err(Errno::ACCESS);
        }
        Ok(OpenFile::new(self.layout.clone(), source))
    }

    fn read(&self, file: Arc<OpenFile>, offset: u64, size: usize, reply: ReplyData) {
        let slow = file.is_slow_to_read();
        let work = move || match file.read(offset, size) {
            Ok(bytes) => reply.data(&bytes),
            Err(errno) => reply.error(to_fuse(errno)),
        };
        if slow { in_own_thread(work) } else { work() }
    }

    fn write(&self, file: Arc<OpenFile>, _offset: u64, data: &[u8], reply: ReplyWrite) {
        let value = data[..data.len().min(PAGE_SIZE)].to_vec();
        in_own_thread(move || match file.write(&value) {
            Ok(len) => reply.written(len as u32),
            Err(errno) => reply.error(to_fuse(errno)),
        });
    }

    fn list(&self, ino: INodeNo) -> Result<Vec<DirEntry>> {
        let path = self.path(ino)?;
        let up = self.inodes.number(parent(&path).to_owned());
        let dots = [(ino, "."), (up, "..")].map(|(ino, name)| DirEntry {
            ino,
            kind: FileType::Directory,
            name: name.into(),
        });
        let names = self.layout.list(&path)?.into_iter().map(|name| DirEntry {
            ino: self.inodes.number(below(&path, &name.name)),
            kind: name.kind,
            name: name.name.into(),
        });
        Ok(dots.into_iter().chain(names).collect())
    }
}
