//! Snapshots in a directory: what is committed is whole, what is used is not collected, what is damaged is told.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use uzram_remote::{
    Checking, Collecting, DirStore, Error, Meta, Progress, Remote, RemoteConfig, Store, StoreError,
    StoreErrorKind, Uploaded, Uploading, Version, When,
};
use uzram_snapshot::{DiskSource, Page, Snapshot, SnapshotWriter};

const FRAMES: u32 = 40;
const NO_GRACE: Collecting = Collecting {
    grace: Duration::ZERO,
    dry_run: false,
};

/// The bytes of a page in a version.
fn raw(frame: u32, version: u32) -> Vec<u8> {
    let word = u64::from(frame) << 32 | u64::from(version);
    let words = (0..512u64).map(|at| (word ^ at.wrapping_mul(0x9E37_79B9_7F4A_7C15)).to_le_bytes());
    words.flatten().collect()
}

fn disk(taken: u64) -> DiskSource<'static> {
    DiskSource {
        pages: u64::from(FRAMES) * 64,
        taken_at_seconds: taken,
        is_basis: false,
        codecs: &[],
        notes: b"",
    }
}

/// Writes frames, all of a version, but for those of `changed`, which are of another.
fn file(version: u32, parent: Option<Snapshot>) -> Vec<u8> {
    let is_since = parent.is_some();
    let disk = disk(version.into());
    let writer = match parent {
        Some(parent) => SnapshotWriter::since(Vec::new(), &disk, parent),
        None => SnapshotWriter::new(Vec::new(), &disk),
    };
    let mut writer = writer.unwrap().with_segment_bytes(256 << 10);
    for frame in 0..FRAMES {
        if is_since && frame % 8 != 0 {
            continue;
        }
        let bytes = raw(frame, version);
        let mut pages = [Page::Same(u64::from(frame)); 64];
        pages[..20].fill(Page::Raw(&bytes));
        writer.frame(frame, &pages).unwrap();
    }
    writer.finish().unwrap().0
}

struct Place {
    dir: tempfile::TempDir,
    remote: Remote,
}

fn config(dir: &tempfile::TempDir) -> RemoteConfig {
    RemoteConfig::new(&format!("file:{}", dir.path().display()))
}

fn place() -> Place {
    let dir = tempfile::tempdir().unwrap();
    let kept = Remote::prepare("r", &config(&dir)).unwrap();
    assert!(kept.conditional);
    let remote = Remote::open("r", &kept).unwrap();
    Place { dir, remote }
}

fn upload(remote: &Remote, tag: &str, bytes: &[u8], force: bool) -> Result<Uploaded, Error> {
    let device = "zram0";
    let uploading = Uploading { tag, force, device };
    uploading.upload(remote, bytes, &Progress::default())
}

/// What a tag holds, page by page.
fn pages(remote: &Remote, tag: &str) -> Result<Vec<(u64, Vec<u8>)>, Error> {
    let opened = remote.open_tag(tag, None, "test")?;
    let mut copy = Vec::new();
    opened.write_complete(&mut copy)?;
    let mut found = Vec::new();
    let mut snapshot = Snapshot::open(copy)?;
    snapshot.restore(|page, content| {
        found.push((
            page,
            match content {
                Page::Raw(bytes) => bytes.to_vec(),
                Page::Same(word) => word.to_le_bytes().to_vec(),
                other => return Err(io::Error::other(format!("{other:?}"))),
            },
        ));
        Ok(())
    })?;
    Ok(found)
}

fn assert_version(remote: &Remote, tag: &str, of: impl Fn(u32) -> u32) {
    let found = pages(remote, tag).unwrap();
    for (page, bytes) in &found {
        let frame = (page / 64) as u32;
        if page % 64 < 20 {
            assert_eq!(*bytes, raw(frame, of(frame)), "page {page} of {tag}");
        }
    }
    let of_frame_0 = found.iter().filter(|(page, _)| *page < 64).count();
    assert_eq!(of_frame_0, 20, "page 20 and on of frame 0 are zeros");
    assert_eq!(found.len(), FRAMES as usize * 64 - 44);
}

#[test]
fn a_snapshot_and_one_since_it_come_back() {
    let Place { remote, .. } = place();
    upload(&remote, "full", &file(1, None), false).unwrap();
    assert_version(&remote, "full", |_| 1);
    // As a server makes it: from an index without segments.
    let mut index = Vec::new();
    let opened = remote.open_tag("full", None, "test").unwrap();
    opened.write_index(&mut index).unwrap();
    let child = file(2, Some(Snapshot::open(index).unwrap()));
    upload(&remote, "next", &child, false).unwrap();
    let of = |frame| if frame % 8 == 0 { 2 } else { 1 };
    assert_version(&remote, "next", of);
    // What the child shares outlives its parent's tag.
    drop(opened);
    remote.remove_tag("full").unwrap();
    let collected = NO_GRACE.run(&remote).unwrap();
    assert!(collected.removed > 0, "{collected:?}");
    assert_version(&remote, "next", of);
    Checking { read: true }
        .run(&remote, &remote.tag("next").unwrap(), None)
        .unwrap();
}

#[test]
fn what_is_there_is_not_sent_again() {
    let Place { remote, .. } = place();
    let bytes = file(1, None);
    let first = upload(&remote, "a", &bytes, false).unwrap();
    assert_eq!(first.found_bytes, 0);
    let again = upload(&remote, "b", &bytes, false).unwrap();
    assert_eq!((again.sent_bytes, again.found_bytes), (0, first.sent_bytes));
    let refused = upload(&remote, "a", &bytes, false);
    assert!(
        matches!(refused, Err(Error::TagExists { .. })),
        "{refused:?}"
    );
    upload(&remote, "a", &file(3, None), true).unwrap();
    assert_version(&remote, "a", |_| 3);
    assert_version(&remote, "b", |_| 1);
}

/// A store whose calls fail from some write on, or whose answer to one is lost.
struct Faults {
    inner: DirStore,
    writes: AtomicU64,
    dies_at: u64,
    loses: u64,
    flips: bool,
    ignores_conditions: bool,
    /// Whether a collection that knows no lease goes by when the manifest comes.
    collects: bool,
}

impl Faults {
    fn next(&self, key: &str) -> Result<u64, StoreError> {
        let at = self.writes.fetch_add(1, Ordering::SeqCst);
        match at >= self.dies_at {
            true => Err(StoreError::new(StoreErrorKind::Unreachable, key, "killed")),
            false => Ok(at),
        }
    }
}

impl Store for Faults {
    fn put(&self, key: &str, bytes: &[u8], when: &When) -> Result<Version, StoreError> {
        let at = self.next(key)?;
        let when = match self.ignores_conditions {
            true => &When::Always,
            false => when,
        };
        if self.collects && key.starts_with("man/") {
            for part in self.inner.list("seg/")? {
                self.inner.delete(&part.key)?;
            }
        }
        let put = self.inner.put(key, bytes, when);
        match at == self.loses {
            true => Err(StoreError::new(StoreErrorKind::Unsettled, key, "lost")),
            false => put,
        }
    }
    fn get(&self, key: &str, max: u64) -> Result<(Vec<u8>, Version), StoreError> {
        self.inner.get(key, max)
    }
    fn get_range(&self, key: &str, range: std::ops::Range<u64>) -> Result<Vec<u8>, StoreError> {
        let mut bytes = self.inner.get_range(key, range)?;
        if self.flips && key.starts_with("seg/") {
            let middle = bytes.len() / 2;
            bytes[middle] ^= 1;
        }
        Ok(bytes)
    }
    fn head(&self, key: &str) -> Result<Meta, StoreError> {
        self.inner.head(key)
    }
    fn list(&self, prefix: &str) -> Result<Vec<Meta>, StoreError> {
        self.inner.list(prefix)
    }
    fn delete(&self, key: &str) -> Result<(), StoreError> {
        self.next(key)?;
        self.inner.delete(key)
    }
    fn is_near(&self) -> bool {
        false
    }
}

fn with_faults(place: &Place, dies_at: u64, loses: u64, flips: bool) -> Remote {
    let store = Faults {
        inner: DirStore::open(place.dir.path()).unwrap(),
        writes: AtomicU64::new(0),
        dies_at,
        loses,
        flips,
        ignores_conditions: false,
        collects: false,
    };
    Remote::from_store("r", place.remote.config().clone(), Arc::new(store))
}

/// All that tags name is whole.
fn assert_whole(remote: &Remote) {
    let (tags, wrong) = remote.tags().unwrap();
    assert!(wrong.is_empty(), "{wrong:?}");
    for tag in tags {
        Checking { read: true }.run(remote, &tag, None).unwrap();
    }
}

#[test]
fn an_upload_that_dies_anywhere_leaves_no_tag_of_what_is_not_whole() {
    let bytes = file(1, None);
    for dies_at in 0.. {
        let place = place();
        let done = upload(
            &with_faults(&place, dies_at, u64::MAX, false),
            "x",
            &bytes,
            false,
        );
        assert_whole(&place.remote);
        let is_there = place.remote.find_tag("x").unwrap().is_some();
        assert_eq!(is_there, done.is_ok(), "{dies_at}");
        if done.is_ok() {
            assert!(dies_at > 10);
            return;
        }
        let again = upload(&place.remote, "x", &bytes, false).unwrap();
        assert!(dies_at < 6 || again.found_bytes > 0, "{dies_at}: {again:?}");
        assert_version(&place.remote, "x", |_| 1);
    }
}

#[test]
fn a_tag_is_not_written_where_a_part_has_gone_meanwhile() {
    let place = place();
    let store = Faults {
        inner: DirStore::open(place.dir.path()).unwrap(),
        writes: AtomicU64::new(0),
        dies_at: u64::MAX,
        loses: u64::MAX,
        flips: false,
        ignores_conditions: false,
        collects: true,
    };
    let remote = Remote::from_store("r", place.remote.config().clone(), Arc::new(store));
    let refused = upload(&remote, "x", &file(1, None), false);
    let is_told = matches!(
        refused,
        Err(Error::Missing {
            collected: true,
            ..
        })
    );
    assert!(is_told, "{refused:?}");
    assert!(place.remote.find_tag("x").unwrap().is_none());
    upload(&place.remote, "x", &file(1, None), false).unwrap();
    assert_version(&place.remote, "x", |_| 1);
}

#[test]
fn a_lost_answer_is_settled_by_a_look() {
    let bytes = file(1, None);
    let mut done = 0;
    for loses in 0..20 {
        let place = place();
        match upload(
            &with_faults(&place, u64::MAX, loses, false),
            "x",
            &bytes,
            false,
        ) {
            Ok(_) => done += 1,
            // Leases are not settled: the upload had not begun, or is repeated.
            Err(error) => assert!(error.to_string().contains("lease/"), "{loses}: {error}"),
        }
        assert_whole(&place.remote);
    }
    assert!(done > 15, "{done}");
}

#[test]
fn a_collection_that_dies_anywhere_leaves_tags_whole() {
    for dies_at in 0.. {
        let place = place();
        upload(&place.remote, "a", &file(1, None), false).unwrap();
        upload(&place.remote, "b", &file(2, None), false).unwrap();
        place.remote.remove_tag("a").unwrap();
        let done = NO_GRACE.run(&with_faults(&place, dies_at, u64::MAX, false));
        // Who reads waits until the lease of who is dead has expired.
        let path = place.dir.path().join("lease/sweep");
        if let Ok(sweep) = std::fs::File::open(&path) {
            let past = std::time::SystemTime::now() - Duration::from_secs(3600);
            sweep.set_modified(past).unwrap();
        }
        assert_version(&place.remote, "b", |_| 2);
        if done.is_ok() {
            assert!(dies_at > 5);
            return;
        }
    }
}

#[test]
fn what_a_lease_names_is_not_collected() {
    let Place { remote, .. } = place();
    upload(&remote, "x", &file(1, None), false).unwrap();
    let opened = remote.open_tag("x", None, "test").unwrap();
    remote.remove_tag("x").unwrap();
    let collected = NO_GRACE.run(&remote).unwrap();
    assert_eq!((collected.removed, collected.leased), (0, 1));
    opened.write_complete(io::sink()).unwrap();
    drop(opened);
    let young = Collecting::default().run(&remote).unwrap();
    assert!(young.removed == 0 && young.young > 0, "{young:?}");
    let collected = NO_GRACE.run(&remote).unwrap();
    assert!(
        collected.removed > 3 && collected.kept == 0,
        "{collected:?}"
    );
}

#[test]
fn an_unreadable_manifest_stops_a_collection() {
    let Place { remote, dir } = place();
    upload(&remote, "x", &file(1, None), false).unwrap();
    upload(&remote, "y", &file(2, None), false).unwrap();
    remote.remove_tag("y").unwrap();
    let man = dir
        .path()
        .join("man")
        .join(&remote.tag("x").unwrap().body.manifest);
    let good = std::fs::read(&man).unwrap();
    let mut bad = good.clone();
    bad[40] ^= 1;
    for wrong in [&bad[..], &good[..50], b""] {
        std::fs::write(&man, wrong).unwrap();
        let error = NO_GRACE.run(&remote).unwrap_err();
        assert!(matches!(error, Error::Unreadable { .. }), "{error}");
    }
    std::fs::write(&man, &good).unwrap();
    std::fs::write(dir.path().join("tag/z"), "nonsense").unwrap();
    assert!(NO_GRACE.run(&remote).is_err());
    std::fs::remove_file(dir.path().join("tag/z")).unwrap();
    assert!(NO_GRACE.run(&remote).unwrap().removed > 0);
    assert_version(&remote, "x", |_| 1);
}

#[test]
fn a_check_tells_what_is_missing_cut_or_flipped() {
    let place = place();
    upload(&place.remote, "x", &file(1, None), false).unwrap();
    let check = |read| Checking { read }.run(&place.remote, &place.remote.tag("x").unwrap(), None);
    check(false).unwrap();
    for kind in ["seg", "idx", "man"] {
        let dir = std::fs::read_dir(place.dir.path().join(kind)).unwrap();
        let path = dir.flatten().next().unwrap().path();
        let good = std::fs::read(&path).unwrap();
        std::fs::remove_file(&path).unwrap();
        assert!(matches!(check(false), Err(Error::Missing { .. })), "{kind}");
        std::fs::write(&path, &good[..good.len() - 1]).unwrap();
        assert!(check(false).is_err(), "{kind}");
        let mut flipped = good.clone();
        flipped[good.len() / 2] ^= 0x10;
        std::fs::write(&path, &flipped).unwrap();
        assert!(check(true).is_err(), "{kind}");
        std::fs::write(&path, &good).unwrap();
        check(true).unwrap();
    }
    let flipping = with_faults(&place, u64::MAX, u64::MAX, true);
    assert!(pages(&flipping, "x").is_err());
}

#[test]
fn of_two_hosts_with_one_tag_one_is_told() {
    let Place { remote, .. } = place();
    let results: Vec<_> = std::thread::scope(|scope| {
        let remote = &remote;
        let hosts: Vec<_> = (1..5)
            .map(|host| scope.spawn(move || upload(remote, "x", &file(host, None), false)))
            .collect();
        hosts.into_iter().map(|host| host.join().unwrap()).collect()
    });
    let won = results.iter().position(Result::is_ok).unwrap() as u32 + 1;
    assert_eq!(results.iter().filter(|result| result.is_ok()).count(), 1);
    assert_version(&remote, "x", |_| won);
}

#[test]
fn a_store_that_ignores_conditions_loses_no_tag() {
    let dir = tempfile::tempdir().unwrap();
    let store = Arc::new(Faults {
        inner: DirStore::open(dir.path()).unwrap(),
        writes: AtomicU64::new(0),
        dies_at: u64::MAX,
        loses: u64::MAX,
        flips: false,
        ignores_conditions: true,
        collects: false,
    });
    let kept = Remote::prepare_store("r", &config(&dir), store.clone()).unwrap();
    assert!(!kept.conditional, "a race has shown it");
    let remote = Remote::from_store("r", kept, store);
    let results: Vec<_> = std::thread::scope(|scope| {
        let remote = &remote;
        let hosts =
            (1..5).map(|host| scope.spawn(move || upload(remote, "x", &file(host, None), false)));
        let hosts: Vec<_> = hosts.collect();
        hosts.into_iter().map(|host| host.join().unwrap()).collect()
    });
    // Who began when another had ended was told; whoever was not has a tag of its own.
    let kept: Vec<_> = (1..5)
        .zip(&results)
        .filter_map(|(host, result)| Some((host, result.as_ref().ok()?)))
        .collect();
    assert!(!kept.is_empty());
    for (host, uploaded) in &kept {
        assert!(uploaded.tag.starts_with("x~"), "{uploaded:?}");
        assert_version(&remote, &uploaded.tag, |_| *host);
    }
    let named = remote.tag("x");
    match kept.len() {
        1 => assert_eq!(named.unwrap().tag, kept[0].1.tag),
        _ => assert!(
            matches!(named, Err(Error::TagAmbiguous { .. })),
            "{named:?}"
        ),
    }
    let refused = upload(&remote, "x", &file(9, None), true).unwrap_err();
    let is_told = matches!(
        refused,
        Error::TagExists {
            may_force: false,
            ..
        } | Error::TagAmbiguous { .. }
    );
    assert!(is_told, "none is replaced: {refused}");
    assert_whole(&remote);
}

#[test]
fn a_directory_of_something_else_is_left_alone() {
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(dir.path().join("precious"), "").unwrap();
    let refused = Remote::prepare("r", &config(&dir));
    assert!(matches!(refused, Err(Error::InUse { .. })), "{refused:?}");
    assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 1);
    std::fs::remove_file(dir.path().join("precious")).unwrap();
    assert!(Remote::open("r", &config(&dir)).is_err());
    std::fs::write(
        dir.path().join("uzram.json"),
        r#"{"uzram":"remote","version":2}"#,
    )
    .unwrap();
    assert!(matches!(
        Remote::prepare("r", &config(&dir)),
        Err(Error::Newer { found: 2, .. })
    ));
    let gone = RemoteConfig::new("file:/nowhere/at/all");
    assert!(
        Remote::prepare("r", &gone)
            .unwrap_err()
            .to_string()
            .contains("no such")
    );
}
