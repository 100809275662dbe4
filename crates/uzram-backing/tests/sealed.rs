//! A sealed disk shows nothing of what is on it, and what was changed there is not believed.

mod common;

use std::os::unix::fs::FileExt;
use std::sync::Arc;
use std::time::Duration;

use common::{ID, MIB};
use uzram_backing::{
    Backing, BackingRestore, Buffer, Disk, DiskWrite, FileDisk, FileOptions, Location, Purpose,
    ReadBuffer, SEAL_KEY_BYTES, SealedDisk, WriteQueue, is_backing,
};

const SIZE: u64 = 4 * MIB;

fn key(seed: u8) -> [u8; SEAL_KEY_BYTES] {
    std::array::from_fn(|at| seed.wrapping_mul(31).wrapping_add(at as u8))
}

/// A file, and the same file sealed.
fn sealed(file: &tempfile::NamedTempFile, seed: u8) -> Arc<SealedDisk> {
    let disk = FileDisk::open(file.path(), FileOptions::default()).unwrap();
    Arc::new(SealedDisk::new(Arc::new(disk), &key(seed)))
}

/// Writes one object of these bytes for each owner.
fn filled(disk: Arc<dyn Disk>, bytes: &[u8], owners: u32) -> (Backing, Vec<Location>) {
    let backing = Backing::create(disk, SIZE, ID).unwrap();
    let mut writer = backing.writer(4, Purpose::Objects).unwrap();
    let locations = (0..owners).map(|owner| writer.push(owner, bytes).unwrap());
    let locations = locations.collect();
    writer.submit();
    let left = writer.wait(Duration::from_secs(60), |written| {
        assert_eq!(written.result, Ok(()));
    });
    assert_eq!(left, 0);
    (backing, locations)
}

#[test]
fn nothing_of_an_object_can_be_read_without_the_key() {
    let file = tempfile::NamedTempFile::new().unwrap();
    let secret = b"a sentence that nobody else is to read ".repeat(50);
    let (backing, locations) = filled(sealed(&file, 1), &secret, 100);
    assert!(
        backing.describe().contains("sealed"),
        "{}",
        backing.describe()
    );
    let mut buffer = ReadBuffer::new();
    for (owner, location) in (0..).zip(&locations) {
        let read = backing.read(*location, secret.len(), owner, &mut buffer);
        assert_eq!(read.unwrap(), secret);
    }
    drop(backing);
    let disk = std::fs::read(file.path()).unwrap();
    // The first block says what it is, as it must where the file is used again.
    assert!(is_backing(&disk));
    let words = secret.windows(8).collect::<std::collections::HashSet<_>>();
    assert!(!disk.windows(8).any(|bytes| words.contains(bytes)));
    // Equal blocks at two places are not equal there.
    let blocks: Vec<_> = disk[4096..]
        .chunks(4096)
        .filter(|block| *block != [0; 4096])
        .collect();
    let different: std::collections::HashSet<_> = blocks.iter().collect();
    assert!(blocks.len() > 40 && different.len() == blocks.len());
    // With the key all of it is there again; with another one nothing is believed.
    for (seed, good) in [(1, true), (2, false)] {
        let restore = BackingRestore::open(sealed(&file, seed), ID).unwrap();
        for location in &locations {
            restore.add(*location, secret.len()).unwrap();
        }
        let backing = restore.finish();
        for (owner, location) in (0..).zip(&locations) {
            match backing.read(*location, secret.len(), owner, &mut buffer) {
                Ok(read) => assert!(good && read == secret),
                Err(error) => assert!(!good && error.is_corrupt(), "{error}"),
            }
        }
    }
}

#[test]
fn whatever_byte_is_changed_the_object_is_not_believed() {
    let file = tempfile::NamedTempFile::new().unwrap();
    let secret = [7; 300];
    let (backing, locations) = filled(sealed(&file, 1), &secret, 3);
    let raw = std::fs::File::options()
        .read(true)
        .write(true)
        .open(file.path());
    let raw = raw.unwrap();
    let mut buffer = ReadBuffer::new();
    let at = locations[1].raw() * 8;
    for offset in (at..at + 12 + 300).step_by(3) {
        let mut byte = [0];
        raw.read_exact_at(&mut byte, offset).unwrap();
        raw.write_all_at(&[byte[0] ^ 1], offset).unwrap();
        let read = backing.read(locations[1], secret.len(), 1, &mut buffer);
        let error = read.expect_err("a changed byte was believed");
        assert!(error.is_corrupt(), "{error}");
        raw.write_all_at(&byte, offset).unwrap();
    }
    assert_eq!(
        backing
            .read(locations[1], secret.len(), 1, &mut buffer)
            .unwrap(),
        secret
    );
}

/// The cipher is part of the image's format: a later program reads what this one wrote.
///
/// By another implementation: Python's `cryptography`, `Cipher(AES(key), XTS(number as 16 bytes, little-endian))`.
#[test]
fn a_block_is_sealed_as_it_ever_was() {
    let file = tempfile::NamedTempFile::new().unwrap();
    file.as_file().set_len(SIZE).unwrap();
    let disk = sealed(&file, 1);
    let mut buffer = Buffer::new(2);
    for (at, byte) in buffer.bytes_mut().iter_mut().enumerate() {
        *byte = (at % 251) as u8;
    }
    let mut queue: Box<dyn WriteQueue> = disk.queue(1).unwrap();
    queue.submit(DiskWrite {
        token: 9,
        offset: 258 * 4096,
        buffer,
        range: 0..8192,
    });
    let done = queue.reap(Duration::from_secs(60)).unwrap();
    assert_eq!((done.write.token, done.result.unwrap()), (9, 8192));
    // The writer's own bytes stay as they were.
    assert_eq!(done.write.bytes()[..4], [0, 1, 2, 3]);
    let mut raw = vec![0; 8192];
    file.as_file().read_exact_at(&mut raw, 258 * 4096).unwrap();
    assert_eq!(raw[..16], FIRST);
    assert_eq!(raw[8176..], LAST);
}

const FIRST: [u8; 16] = [
    0x06, 0x72, 0x2c, 0x45, 0x5f, 0x87, 0xf0, 0xeb, 0x61, 0xa3, 0xf4, 0xfb, 0xaf, 0x39, 0x3d, 0x6b,
];
const LAST: [u8; 16] = [
    0xac, 0x6b, 0x07, 0x28, 0x37, 0xa2, 0xe0, 0x18, 0x57, 0x44, 0x58, 0xcd, 0x23, 0x9f, 0xb0, 0x34,
];
