//! Backings in a remote: whose a prefix is, and that a collection removes nothing that a lease names, whatever it looks like.

use std::fs::File;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, SystemTime};

use uzram_remote::{
    BackingUser, Collected, Collecting, DirStore, Error, Meta, Remote, RemoteConfig, Store,
    StoreError, StoreErrorKind, Version, When,
};

const NO_GRACE: Collecting = Collecting {
    grace: Duration::ZERO,
    dry_run: false,
};
const DAY: Duration = Duration::from_secs(24 * 3600);

struct Place {
    dir: tempfile::TempDir,
    remote: Remote,
}

fn place() -> Place {
    let dir = tempfile::tempdir().unwrap();
    let config = RemoteConfig::new(&format!("file:{}", dir.path().display()));
    let kept = Remote::prepare("r", &config).unwrap();
    let remote = Remote::open("r", &kept).unwrap();
    Place { dir, remote }
}

impl Place {
    /// A device of this machine, which lives as long as its description says its identity.
    fn user(&self, number: u8) -> BackingUser {
        let description = self.dir.path().join(format!(".spec{number}"));
        let identity = format!("identity-{number}");
        std::fs::write(&description, &identity).unwrap();
        BackingUser {
            id: [number; 16],
            device: format!("zram{number}"),
            identity,
            description: description.display().to_string(),
        }
    }

    fn dies(&self, user: &BackingUser) {
        std::fs::write(&user.description, "another device").unwrap();
    }

    fn keys(&self) -> Vec<String> {
        let store = DirStore::open(self.dir.path()).unwrap();
        let mut keys: Vec<_> = store
            .list("cold/")
            .unwrap()
            .into_iter()
            .map(|of| of.key)
            .collect();
        keys.sort();
        keys
    }

    fn collect(&self) -> Collected {
        NO_GRACE.run(&self.remote).unwrap()
    }

    /// Makes a lease look as if it had been written then.
    fn age(&self, number: u8, by: Duration) {
        let id: String = [number; 16]
            .iter()
            .map(|byte| format!("{byte:02x}"))
            .collect();
        let path = self.dir.path().join(format!("lease/cold-{id}"));
        let file = File::options().write(true).open(path).unwrap();
        file.set_modified(SystemTime::now() - by).unwrap();
    }
}

#[test]
fn objects_are_kept_as_long_as_a_lease_names_them() {
    let place = place();
    let backing = place
        .remote
        .open_backing("host", &place.user(1), true)
        .unwrap();
    for number in 1..20 {
        backing.put(number, &[number as u8; 100]).unwrap();
    }
    assert_eq!(backing.get(7, 90..100).unwrap(), Some(vec![7; 10]));
    assert_eq!(backing.get(7, 90..101).unwrap(), None, "it is shorter");
    assert!(backing.get(70, 0..1).is_err());
    backing.delete(7).unwrap();
    backing.delete(7).unwrap();
    assert_eq!(backing.list().unwrap().len(), 18);
    let collected = place.collect();
    assert_eq!(
        (collected.backings, collected.removed, collected.kept),
        (1, 0, 19)
    );
    let found = place.remote.backings().unwrap();
    assert_eq!(
        (found.len(), found[0].objects, &*found[0].prefix),
        (1, 18, "host")
    );
    assert!(found[0].leased_seconds > 6 * 24 * 3600, "{found:?}");

    // Its process is killed. Six days later a collection leaves everything alone, eight days later nothing.
    backing.leave();
    place.age(1, DAY * 6);
    assert_eq!(place.collect().removed, 0);
    // Whoever goes on with it holds it again.
    place.age(1, DAY * 8);
    let again = place
        .remote
        .open_backing("host", &place.user(1), false)
        .unwrap();
    assert_eq!(
        (place.collect().removed, again.list().unwrap().len()),
        (0, 18)
    );
    again.leave();
    place.age(1, DAY * 8);
    let young = Collecting {
        grace: DAY,
        dry_run: false,
    };
    assert_eq!(young.run(&place.remote).unwrap().young, 19);
    assert_eq!(place.collect().removed, 19);
    assert!(place.keys().is_empty(), "{:?}", place.keys());
}

#[test]
fn a_prefix_has_one_owner_and_its_objects_are_apart() {
    let place = place();
    let (first, second) = (place.user(1), place.user(2));
    let open = |user: &BackingUser, is_new| place.remote.open_backing("host", user, is_new);
    let backing = open(&first, true).unwrap();
    backing.put(1, b"one").unwrap();
    let refused = open(&second, true).unwrap_err();
    assert!(
        matches!(&refused, Error::BackingInUse { by, .. } if by.contains("zram1")),
        "{refused}"
    );
    assert_eq!(place.collect().backings, 1, "who was refused has no lease");
    // The same device once more, as after an answer that was lost.
    let twice = open(&first, true).unwrap();
    twice.leave();

    // It dies, as can be seen on this machine. What it had stays its own.
    place.dies(&first);
    let other = open(&second, true).unwrap();
    other.put(1, b"two").unwrap();
    assert_eq!(backing.get(1, 0..3).unwrap().unwrap(), b"one");
    assert_eq!(other.get(1, 0..3).unwrap().unwrap(), b"two");
    assert_eq!(place.collect().removed, 0);
    backing.leave();
    place.age(1, DAY * 8);
    assert_eq!(place.collect().removed, 1);
    assert_eq!(other.get(1, 0..3).unwrap().unwrap(), b"two");

    // One on another host, of which nothing can be seen: its lease decides.
    let key = place.dir.path().join("cold/host/owner.json");
    let owner = std::fs::read_to_string(&key).unwrap();
    let mut elsewhere: serde_json::Value = serde_json::from_str(&owner).unwrap();
    // As a program before there were sums has written it.
    elsewhere["sum"].take();
    elsewhere["host"] = "elsewhere".into();
    place.dies(&second);
    std::fs::write(&key, elsewhere.to_string()).unwrap();
    let refused = open(&first, true).unwrap_err().to_string();
    assert!(refused.contains("zram2 on elsewhere"), "{refused}");
    // And one of a former start of this machine: its memory is gone, and so its lease.
    let mut former: serde_json::Value = serde_json::from_str(&owner).unwrap();
    former["sum"].take();
    former["boot"] = "00000000-0000-0000-0000-000000000000".into();
    std::fs::write(&key, former.to_string()).unwrap();
    other.leave();
    let third = open(&first, true).unwrap();
    assert_eq!(place.collect().removed, 1, "what the former start left");
    third.retire(Duration::ZERO).unwrap();
    assert!(place.keys().is_empty());
    assert_eq!(place.collect().backings, 0);
}

#[test]
fn names_do_not_clash_and_what_is_foreign_is_left_alone() {
    let place = place();
    for wrong in ["", ".x", "a/b", "a~b", "-a"] {
        let error = place
            .remote
            .open_backing(wrong, &place.user(1), true)
            .unwrap_err();
        assert!(
            error.to_string().contains("no prefix of a backing"),
            "{wrong}: {error}"
        );
    }
    let backing = place
        .remote
        .open_backing("host", &place.user(1), true)
        .unwrap();
    backing.put(5, b"five").unwrap();
    let cold = place.dir.path().join("cold");
    std::fs::create_dir(cold.join("mine")).unwrap();
    for foreign in ["mine/notes", "host/notes", "notes"] {
        std::fs::write(cold.join(foreign), "mine").unwrap();
    }
    assert_eq!(place.collect().removed, 0);
    assert!(matches!(
        place.remote.remove_backing("host", false),
        Err(Error::BackingInUse { .. })
    ));
    backing.retire(Duration::ZERO).unwrap();
    assert_eq!(place.collect().removed, 0);
    assert_eq!(
        place.keys(),
        ["cold/host/notes", "cold/mine/notes", "cold/notes"]
    );
    // An owner that cannot be read stops a collection: nobody knows whose the objects are.
    std::fs::write(cold.join("host/owner.json"), "{}").unwrap();
    assert!(matches!(
        NO_GRACE.run(&place.remote),
        Err(Error::Foreign { .. })
    ));
    assert!(
        place
            .remote
            .open_backing("host", &place.user(2), true)
            .is_err()
    );
}

/// A store in a directory of which nothing can be deleted, or nothing be looked at, for some time.
struct Sticky {
    inner: DirStore,
    refusals: AtomicU32,
    looks: AtomicU32,
}

impl Sticky {
    fn new(place: &Place) -> Arc<Sticky> {
        Arc::new(Sticky {
            inner: DirStore::open(place.dir.path()).unwrap(),
            refusals: AtomicU32::new(0),
            looks: AtomicU32::new(0),
        })
    }

    /// Whether a call of those that are to be refused is one.
    fn refuses(of: &AtomicU32, key: &str) -> Result<(), StoreError> {
        let less = |left: u32| left.checked_sub(1);
        let refused = of.fetch_update(Ordering::SeqCst, Ordering::SeqCst, less);
        let sticks = || StoreError::new(StoreErrorKind::Unreachable, key, "it sticks");
        refused.map_or(Ok(()), |_| Err(sticks()))
    }
}

impl Store for Sticky {
    fn put(&self, key: &str, bytes: &[u8], when: &When) -> Result<Version, StoreError> {
        self.inner.put(key, bytes, when)
    }
    fn get(&self, key: &str, max: u64) -> Result<(Vec<u8>, Version), StoreError> {
        self.inner.get(key, max)
    }
    fn get_range(&self, key: &str, range: std::ops::Range<u64>) -> Result<Vec<u8>, StoreError> {
        self.inner.get_range(key, range)
    }
    fn head(&self, key: &str) -> Result<Meta, StoreError> {
        Sticky::refuses(&self.looks, key)?;
        self.inner.head(key)
    }
    fn list(&self, prefix: &str) -> Result<Vec<Meta>, StoreError> {
        self.inner.list(prefix)
    }
    fn delete(&self, key: &str) -> Result<(), StoreError> {
        if key.starts_with("cold/") {
            Sticky::refuses(&self.refusals, key)?;
        }
        self.inner.delete(key)
    }
    fn is_near(&self) -> bool {
        true
    }
}

/// Found while the state machine was written: the process beside a server is killed, and the next one cannot begin, since the store has stopped
/// answering when the lease was taken over. The device still needs what it has.
#[test]
fn who_cannot_go_on_with_a_place_leaves_its_lease() {
    let place = place();
    let user = place.user(1);
    let backing = place.remote.open_backing("host", &user, true).unwrap();
    backing.put(1, b"one").unwrap();
    backing.leave();
    let store = Sticky::new(&place);
    store.looks.store(1, Ordering::SeqCst);
    let remote = Remote::from_store("r", place.remote.config().clone(), store);
    let refused = remote.open_backing("host", &user, false).unwrap_err();
    assert!(refused.to_string().contains("it sticks"), "{refused}");
    let collected = place.collect();
    assert_eq!((collected.backings, collected.removed), (1, 0));
    let again = remote.open_backing("host", &user, false).unwrap();
    assert_eq!(again.get(1, 0..3).unwrap().unwrap(), b"one");
    // A place that was not taken is nobody's.
    let store = Sticky::new(&place);
    store.looks.store(1, Ordering::SeqCst);
    let remote = Remote::from_store("r", place.remote.config().clone(), store);
    assert!(remote.open_backing("other", &place.user(2), true).is_err());
    assert_eq!(place.collect().backings, 1);
}

#[test]
fn a_place_is_given_up_whole_or_keeps_its_lease() {
    let place = place();
    let store = Sticky::new(&place);
    let remote = Remote::from_store("r", place.remote.config().clone(), store.clone());
    let backing = remote.open_backing("host", &place.user(1), true).unwrap();
    for number in 0..30 {
        backing.put(number, b"some").unwrap();
    }
    store.refusals.store(5, Ordering::SeqCst);
    let error = backing.retire(Duration::ZERO).unwrap_err();
    assert!(error.to_string().contains("it sticks"), "{error}");
    assert_eq!(place.collect().backings, 1, "its lease stays");
    // Tried again as long as there is patience.
    store.refusals.store(10, Ordering::SeqCst);
    backing.retire(Duration::from_secs(60)).unwrap();
    assert!(place.keys().is_empty());
    assert_eq!(place.collect().backings, 0);

    // A directory that is taken away is no empty one.
    let backing = remote.open_backing("host", &place.user(2), true).unwrap();
    backing.put(1, b"one").unwrap();
    let marker = place.dir.path().join("uzram.json");
    let away = place.dir.path().join("away.json");
    std::fs::rename(&marker, &away).unwrap();
    for result in [
        backing.put(2, b"two"),
        backing.delete(1),
        backing.list().map(drop),
    ] {
        assert_eq!(result.unwrap_err().kind, StoreErrorKind::NoBucket);
    }
    assert!(backing.retire(Duration::ZERO).is_err());
    std::fs::rename(&away, &marker).unwrap();
    assert_eq!(backing.list().unwrap(), [1]);
    backing.retire(Duration::ZERO).unwrap();
}
