//! The same work on each kind of backing, each way of reading and writing it.

mod common;

use std::path::Path;
use std::process::Command;
use std::sync::Arc;

use common::{ID, MIB, Random, Table, object};
use uzram_backing::{
    Backing, BackingRestore, Disk, FileDisk, FileOptions, OpenError, SEAL_KEY_BYTES, SealedDisk,
};

/// Writes, frees, compacts, opens again; and the description says what was asked for.
fn work(storage: Arc<dyn Disk>, size_bytes: u64, described: &[&str]) {
    let store = Backing::create(storage.clone(), size_bytes, ID).unwrap();
    for word in described {
        assert!(store.describe().contains(word), "{}", store.describe());
    }
    let mut table = Table::new(store);
    let mut random = Random::new(5);
    for owner in 0..1000 {
        table.push(owner, &object(&mut random)).unwrap();
    }
    table.flush();
    table.check_all();
    (0..1000)
        .step_by(2)
        .for_each(|owner| assert!(table.free(owner)));
    assert!(table.compact(3) > 0);
    table.check_all();
    let objects = std::mem::take(&mut table.objects);
    drop(table);
    let restore = BackingRestore::open(storage, ID).unwrap();
    assert_eq!(restore.size_bytes(), size_bytes);
    for (location, bytes) in objects.values() {
        restore.add(*location, bytes.len()).unwrap();
    }
    let mut table = Table::with(restore.finish(), objects);
    table.check_all();
    table.check_accounts();
}

fn file(folder: &Path, options: FileOptions) -> (tempfile::NamedTempFile, Arc<FileDisk>) {
    let file = tempfile::NamedTempFile::new_in(folder).unwrap();
    let storage = FileDisk::open(file.path(), options).unwrap();
    (file, Arc::new(storage))
}

fn all_ways(folder: &Path) {
    for direct in [true, false] {
        for ring in [true, false] {
            let (_file, storage) = file(folder, FileOptions { direct, ring });
            let io = if storage.is_direct() {
                "direct I/O"
            } else {
                "buffered I/O"
            };
            assert!(direct || !storage.is_direct());
            // Where the machine refuses io_uring there are threads.
            let by: &[&str] = if ring {
                &["file", io]
            } else {
                &["file", io, "threads"]
            };
            work(storage, 4 * MIB, by);
        }
    }
}

#[test]
fn a_file_by_every_way() {
    all_ways(&std::env::temp_dir());
}

#[test]
fn a_sealed_file() {
    let (_file, storage) = file(&std::env::temp_dir(), FileOptions::default());
    let sealed = SealedDisk::new(storage, &[5; SEAL_KEY_BYTES]);
    work(Arc::new(sealed), 4 * MIB, &["file", "sealed"]);
}

#[test]
fn a_file_in_memory_by_every_way() {
    all_ways("/dev/shm".as_ref());
}

#[test]
fn a_file_is_made_for_its_owner_only_but_no_device() {
    use std::os::unix::fs::PermissionsExt;
    for folder in [std::env::temp_dir(), "/dev/shm".into()] {
        let folder = tempfile::tempdir_in(folder).unwrap();
        let path = folder.path().join("new");
        assert!(FileDisk::open(&path, FileOptions::default()).is_ok());
        let mode = path.metadata().unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
    }
    let gone = Path::new("/dev/uzram-test-no-such-device");
    assert!(FileDisk::open(gone, FileOptions::default()).is_err());
    assert!(!gone.exists());
}

#[test]
fn buffered_writing_leaves_nothing_in_the_page_cache() {
    let options = FileOptions {
        direct: false,
        ..FileOptions::default()
    };
    // Only a disk's file system: in memory the page cache is all there is.
    let (file, storage) = file(Path::new(env!("CARGO_TARGET_TMPDIR")), options);
    let store = Backing::create(storage, 4 * MIB, ID).unwrap();
    let mut table = Table::new(store);
    for owner in 0..700 {
        table.push(owner, &Random::new(1).bytes(4096)).unwrap();
    }
    table.flush();
    table.check_all();
    let output = Command::new("fincore")
        .args(["--bytes", "--noheadings", "--output", "RES"])
        .arg(file.path())
        .output();
    let Ok(output) = output else {
        uzram_testkit::peers::skip("the page cache's share", "no fincore (util-linux)");
        return;
    };
    let resident: u64 = String::from_utf8(output.stdout)
        .unwrap()
        .trim()
        .parse()
        .unwrap();
    assert!(resident < MIB / 4, "{resident} bytes of 3 MiB are cached");
}

/// A loop device that goes with the value.
struct Loop {
    device: String,
    _file: tempfile::NamedTempFile,
}

impl Loop {
    /// `None`, and said so: there are no loop devices, or no right to them.
    fn new(size_bytes: u64, sector: &str) -> Option<Loop> {
        let file = tempfile::NamedTempFile::new().unwrap();
        file.as_file().set_len(size_bytes).unwrap();
        let output = Command::new("losetup")
            .args(["--find", "--show", "--sector-size", sector])
            .arg(file.path())
            .output();
        let device = match output {
            Ok(output) if output.status.success() => output.stdout,
            other => {
                eprintln!("SKIP no loop device: {other:?}");
                return None;
            }
        };
        let device = String::from_utf8(device).unwrap().trim().to_owned();
        Some(Loop {
            device,
            _file: file,
        })
    }
}

impl Drop for Loop {
    fn drop(&mut self) {
        let _ = Command::new("losetup")
            .args(["--detach", &self.device])
            .status();
    }
}

#[test]
fn a_block_device() {
    for sector in ["512", "4096"] {
        let Some(device) = Loop::new(4 * MIB, sector) else {
            return;
        };
        let open = |options| FileDisk::open(device.device.as_ref(), options).unwrap();
        let storage = Arc::new(open(FileOptions::default()));
        assert_eq!(storage.size_bytes().unwrap(), 4 * MIB);
        let error = Backing::create(storage.clone(), 4 * MIB + 4096, ID).err();
        let Some(OpenError::Short { has, needs }) = error else {
            panic!("{error:?}");
        };
        assert_eq!((has, needs), (4 * MIB, 4 * MIB + 4096));
        work(storage, 4 * MIB, &["block device", "direct I/O"]);
        let buffered = FileOptions {
            direct: false,
            ..FileOptions::default()
        };
        work(
            Arc::new(open(buffered)),
            4 * MIB,
            &["block device", "buffered I/O"],
        );
    }
}

/// A file system that is full says so when the backing is made, not when it is written.
#[test]
fn a_full_file_system_is_known_at_once() {
    let folder = tempfile::tempdir().unwrap();
    let mounted = Command::new("mount")
        .args(["-t", "tmpfs", "-o", "size=2m", "uzram-test"])
        .arg(folder.path())
        .status();
    if !mounted.is_ok_and(|status| status.success()) {
        eprintln!("SKIP no right to mount a tmpfs");
        return;
    }
    let (scratch, storage) = file(folder.path(), FileOptions::default());
    let error = Backing::create(storage.clone(), 8 * MIB, ID).err();
    let fits = Backing::create(storage, MIB, ID).is_ok();
    drop(scratch);
    let unmounted = Command::new("umount")
        .arg("--lazy")
        .arg(folder.path())
        .status();
    assert!(unmounted.unwrap().success());
    let text = error.unwrap().to_string();
    assert!(
        text.starts_with("cannot reserve space in the backing: No space"),
        "{text}"
    );
    assert!(fits);
}
