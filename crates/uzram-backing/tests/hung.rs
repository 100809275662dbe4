//! A disk that really hangs: a file system that is frozen under the backing. What injection says of the seam, the kernel
//! must say of io_uring, whose writes then wait in the kernel with our buffers.

mod common;

use std::process::Command;
use std::sync::Arc;
use std::time::Duration;

use common::{ID, MIB, Table};
use uzram_backing::{Backing, Buffer, Disk, DiskWrite, FileDisk, FileOptions, Purpose, WriteError};

/// A file system in a file, thawed and gone with the value.
struct Frozen {
    image: tempfile::NamedTempFile,
    folder: tempfile::TempDir,
}

impl Frozen {
    /// `None`, and said so: a tool or the right to mount is missing.
    fn new() -> Option<Frozen> {
        let image = tempfile::NamedTempFile::new().unwrap();
        image.as_file().set_len(32 * MIB).unwrap();
        let folder = tempfile::tempdir().unwrap();
        let frozen = Frozen { image, folder };
        let made = run(Command::new("mkfs.ext4").arg("-q").arg(frozen.image.path()));
        let mounted = made
            && run(Command::new("mount")
                .args(["-o", "loop"])
                .args([frozen.image.path(), frozen.folder.path()]));
        if !mounted {
            eprintln!("SKIP a disk that hangs: no mkfs.ext4, loop device or right to mount");
            return None;
        }
        Some(frozen)
    }

    fn fsfreeze(&self, what: &str) -> bool {
        run(Command::new("fsfreeze").arg(what).arg(self.folder.path()))
    }
}

impl Drop for Frozen {
    fn drop(&mut self) {
        self.fsfreeze("--unfreeze");
        run(Command::new("umount").arg("--lazy").arg(self.folder.path()));
    }
}

fn run(command: &mut Command) -> bool {
    command.output().is_ok_and(|output| output.status.success())
}

#[test]
fn a_disk_that_hangs_is_given_up_and_comes_back() {
    for ring in [true, false] {
        let Some(disk) = Frozen::new() else {
            return;
        };
        let options = FileOptions {
            ring,
            ..FileOptions::default()
        };
        let path = disk.folder.path().join("backing");
        let storage = Arc::new(FileDisk::open(&path, options).unwrap());
        let store = Backing::create(storage, 4 * MIB, ID).unwrap();
        let mut writer = store.writer(4, Purpose::Objects).unwrap();
        assert!(disk.fsfreeze("--freeze"));
        for owner in 0..300 {
            writer.push(owner, &[9; 3000]).unwrap();
        }
        writer.submit();
        let in_flight = writer.in_flight();
        let hangs = |_| panic!("it is frozen");
        assert_eq!(writer.wait(Duration::from_millis(50), hangs), in_flight);
        let mut given_up = 0;
        writer.abandon(|written| {
            assert_eq!(written.result, Err(WriteError::Hung));
            given_up += 1;
        });
        assert_eq!(given_up, 300);
        let stats = store.stats();
        assert_eq!(stats.live_objects, 0);
        assert_eq!(stats.used_segments, in_flight as u64);

        assert!(disk.fsfreeze("--unfreeze"));
        while store.stats().used_segments > 0 {
            writer.completed(|_| panic!("they were given up"));
            std::thread::sleep(Duration::from_millis(1));
        }
        let mut table = Table::new(store);
        for owner in 0..300 {
            table.push(owner, &[owner as u8; 3000]).unwrap();
        }
        table.flush();
        table.check_all();
    }
}

/// The ring's buffers are leaked then, since the kernel reads them yet.
#[test]
fn a_queue_dropped_while_the_disk_hangs_harms_nothing() {
    let Some(disk) = Frozen::new() else {
        return;
    };
    let path = disk.folder.path().join("backing");
    let storage = Arc::new(FileDisk::open(&path, FileOptions::default()).unwrap());
    storage.reserve(MIB).unwrap();
    storage.lock(Duration::ZERO).unwrap();
    let mut queue = storage.queue(1).unwrap();
    let mut buffer = Buffer::new(1);
    buffer.bytes_mut().fill(7);
    assert!(disk.fsfreeze("--freeze"));
    let (token, offset, range) = (0, 4096, 0..4096);
    queue.submit(DiskWrite {
        token,
        offset,
        buffer,
        range,
    });
    assert!(queue.reap(Duration::from_millis(20)).is_none());
    // As when the process dies: all is closed, but the write goes on, and so does the lock.
    drop(queue);
    drop(storage);
    let storage = FileDisk::open(&path, FileOptions::default()).unwrap();
    let locked = storage.lock(Duration::from_millis(20));
    assert_eq!(locked.unwrap_err().kind(), std::io::ErrorKind::WouldBlock);
    // What would be found there, had the memory been given to somebody else.
    let mut others: Vec<Buffer> = (0..64).map(|_| Buffer::new(1)).collect();
    others
        .iter_mut()
        .for_each(|other| other.bytes_mut().fill(0xEE));
    assert!(disk.fsfreeze("--unfreeze"));
    storage.lock(common::LONG).unwrap();
    let mut read = Buffer::new(1);
    storage.read_at(read.bytes_mut(), 4096).unwrap();
    let found = read.bytes();
    drop(others);
    // Cancelled with the ring, or written: but nothing else.
    assert!(found == [7; 4096] || found == [0; 4096]);
}
