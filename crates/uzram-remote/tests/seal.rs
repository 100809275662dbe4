//! Sealed snapshots in a store: who has the key reads them, who has not can look after them, and who touches them is told.

use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use uzram_remote::{
    Checking, Collecting, Error, FoundManifest, Progress, Remote, RemoteConfig, Uploaded, Uploading,
};
use uzram_seal::{KeyFiles, Keys, Recipients, Sealing};
use uzram_snapshot::{
    CodecSource, DictionarySource, DiskSource, Page, PartsReader, Snapshot, SnapshotWriter,
};
use uzram_testkit::peers::have;

const TEXT: &[u8] = b"a page that nobody may read ";
const WORD: u64 = u64::from_le_bytes(*b"wordword");
const NOTES: &[u8] = b"{\"name\":\"zram-of-somebody\"}";
const DICTIONARY: &[u8] = b"words that pages have in common";
const NO_GRACE: Collecting = Collecting {
    grace: Duration::ZERO,
    dry_run: false,
};

/// A remote, and files beside it.
struct Place {
    dir: tempfile::TempDir,
    remote: Remote,
}

impl Place {
    fn new() -> Place {
        let dir = tempfile::tempdir().unwrap();
        let store = dir.path().join("store");
        std::fs::create_dir(&store).unwrap();
        let config = RemoteConfig::new(&format!("file:{}", store.display()));
        let kept = Remote::prepare("r", &config).unwrap();
        let remote = Remote::open("r", &kept).unwrap();
        Place { dir, remote }
    }

    fn store(&self) -> PathBuf {
        self.dir.path().join("store")
    }

    /// A key, its file, and who it is for.
    fn key(&self, name: &str) -> (PathBuf, Keys, Recipients) {
        use age::secrecy::ExposeSecret;
        let identity = age::x25519::Identity::generate();
        let path = self.dir.path().join(name);
        std::fs::write(&path, identity.to_string().expose_secret()).unwrap();
        let files = KeyFiles {
            identities: vec![path.clone()],
            passphrase: None,
        };
        let to = [identity.to_public().to_string()];
        let to = Recipients::read(&to, &[], None).unwrap().unwrap();
        (path, files.read().unwrap().unwrap(), to)
    }

    /// All objects that hold something of a snapshot.
    fn objects(&self) -> Vec<PathBuf> {
        let folders = ["seg", "idx", "dict", "man"].map(|name| self.store().join(name));
        let files = folders
            .into_iter()
            .filter_map(|of| std::fs::read_dir(of).ok());
        files.flatten().map(|entry| entry.unwrap().path()).collect()
    }
}

/// Frames 0 to 39, all of a version, or only every eighth since a parent.
fn file(version: u8, parent: Option<Snapshot>) -> Vec<u8> {
    let codecs = [CodecSource {
        number: 0,
        algorithm: "lz4",
        driver: "",
        params: "",
        dictionary: Some(DictionarySource::Bytes(DICTIONARY)),
    }];
    let disk = DiskSource {
        pages: 40 * 64,
        taken_at_seconds: 1_796_000_000 + u64::from(version),
        is_basis: false,
        codecs: &codecs,
        notes: NOTES,
    };
    let is_since = parent.is_some();
    let writer = match parent {
        Some(parent) => SnapshotWriter::since(Vec::new(), &disk, parent),
        None => SnapshotWriter::new(Vec::new(), &disk),
    };
    let mut writer = writer.unwrap().with_segment_bytes(64 << 10);
    let text = [&[version][..], TEXT].concat().repeat(150);
    for frame in 0..40 {
        if is_since && frame % 8 != 0 {
            continue;
        }
        let mut pages = [Page::Zero; 64];
        pages[0] = Page::Object {
            codec: 0,
            bytes: &text[frame as usize % 9..][..4000],
        };
        pages[5..9].fill(Page::Same(WORD));
        writer.frame(frame, &pages).unwrap();
    }
    writer.finish().unwrap().0
}

fn upload(remote: &Remote, tag: &str, bytes: &[u8], sealing: &Sealing) -> Result<Uploaded, Error> {
    let uploading = Uploading {
        tag,
        force: true,
        device: "zram-of-somebody",
    };
    uploading.upload_sealed(remote, bytes, Some(sealing), &Progress::default())
}

type Pages = BTreeMap<u64, Vec<u8>>;

fn read(snapshot: &mut Snapshot) -> Result<Pages, uzram_snapshot::Error> {
    let mut found = Pages::new();
    snapshot.restore(|page, content| {
        let bytes = match content {
            Page::Object { bytes, .. } => bytes.to_vec(),
            Page::Same(word) => word.to_le_bytes().to_vec(),
            other => return Err(io::Error::other(format!("{other:?}"))),
        };
        found.insert(page, bytes);
        Ok(())
    })?;
    Ok(found)
}

/// What a tag holds, for who has the keys.
fn pages(remote: &Remote, tag: &str, keys: Option<&Keys>) -> Result<Pages, Error> {
    let opened = remote.open_tag(tag, keys, "test")?;
    let mut copy = Vec::new();
    opened.write_complete(&mut copy)?;
    let mut snapshot = Snapshot::open(copy)?;
    assert_eq!(snapshot.dictionary(0)?.as_deref(), Some(DICTIONARY));
    Ok(read(&mut snapshot)?)
}

/// Seals a snapshot since a tag.
fn since(remote: &Remote, tag: &str, keys: &Keys, to: Option<&Recipients>) -> (Vec<u8>, Sealing) {
    let opened = remote.open_tag(tag, Some(keys), "since").unwrap();
    let mut index = Vec::new();
    opened.write_index(&mut index).unwrap();
    let child = file(2, Some(Snapshot::open(index).unwrap()));
    let sealing = Sealing::since(opened.readable().opened().unwrap(), to).unwrap();
    (child, sealing)
}

#[test]
fn a_family_shares_its_parts_and_shows_nothing() {
    let place = Place::new();
    let remote = &place.remote;
    let (_, keys, to) = place.key("one");
    let (_, stranger, _) = place.key("stranger");
    let first = file(1, None);
    let sent = upload(remote, "full", &first, &Sealing::new(&to).unwrap()).unwrap();
    assert_ne!(sent.stored, sent.name);
    let right = read(&mut Snapshot::open(first.clone()).unwrap()).unwrap();
    assert_eq!(pages(remote, "full", Some(&keys)).unwrap(), right);
    let before = place.objects().len();

    // As a server makes it, and twice: what is equal in a family is there already.
    let (child, sealing) = since(remote, "full", &keys, None);
    upload(remote, "next", &child, &sealing).unwrap();
    let own = place.objects().len() - before;
    assert!(own < before, "{own} of {before}");
    let again = upload(
        remote,
        "again",
        &child,
        &since(remote, "full", &keys, None).1,
    )
    .unwrap();
    assert!(again.found_bytes > again.sent_bytes, "{again:?}");
    // Another complete one is of another family, and shares nothing.
    let other = upload(remote, "other", &first, &Sealing::new(&to).unwrap()).unwrap();
    assert_eq!(other.found_bytes, 0);
    remote.remove_tag("other").unwrap();

    let tag = remote.tag("next").unwrap();
    assert_eq!(tag.body.parent, Some(sent.stored.to_string()));
    assert!(tag.body.sealed && tag.body.device.is_empty());
    // Nobody needs a key to look after them.
    for read in [false, true] {
        Checking { read }.run(remote, &tag, None).unwrap();
        Checking { read }.run(remote, &tag, Some(&keys)).unwrap();
    }
    remote.remove_tag("full").unwrap();
    assert!(NO_GRACE.run(remote).unwrap().removed > 0);
    assert_eq!(NO_GRACE.run(remote).unwrap().removed, 0);
    let found = pages(remote, "next", Some(&keys)).unwrap();
    let is_new = |page: u64| (page / 64).is_multiple_of(8);
    for (page, bytes) in &right {
        let same = found[page] == *bytes;
        assert_eq!(same, !is_new(*page) || page % 64 > 0, "page {page}");
    }

    let refused = pages(remote, "next", Some(&stranger)).unwrap_err();
    assert!(
        refused.to_string().contains("no key that was given"),
        "{refused}"
    );
    let refused = pages(remote, "next", None).unwrap_err();
    assert!(refused.to_string().contains("is sealed"), "{refused}");

    // Neither contents nor what tells of them, such as a hash.
    let names = Snapshot::open(first).unwrap();
    let names = names.items().iter().map(|item| item.name.0.to_vec());
    let mut secrets: Vec<Vec<u8>> = names.collect();
    secrets.extend([TEXT, NOTES, DICTIONARY, b"uzFR"].map(<[u8]>::to_vec));
    secrets.push(WORD.to_le_bytes().to_vec());
    for path in place.objects() {
        let bytes = std::fs::read(&path).unwrap();
        let name = path.file_name().unwrap().to_str().unwrap().to_owned();
        for secret in &secrets {
            let hex: String = secret.iter().map(|byte| format!("{byte:02x}")).collect();
            let is_there = bytes.windows(secret.len()).any(|some| some == secret);
            assert!(!is_there && name != hex, "{path:?}: {secret:?}");
        }
    }
}

#[test]
fn a_child_may_be_for_others() {
    let place = Place::new();
    let remote = &place.remote;
    let (_, keys, to) = place.key("one");
    let (_, others, to_others) = place.key("others");
    upload(remote, "full", &file(1, None), &Sealing::new(&to).unwrap()).unwrap();
    let (child, sealing) = since(remote, "full", &keys, Some(&to_others));
    upload(remote, "next", &child, &sealing).unwrap();
    pages(remote, "next", Some(&others)).unwrap();
    assert!(pages(remote, "full", Some(&others)).is_err());
    assert!(pages(remote, "next", Some(&keys)).is_err());
    // Sealed anew, it has none of the parent's parts.
    let alone = upload(remote, "x", &child, &Sealing::new(&to).unwrap());
    assert!(matches!(alone, Err(Error::Seal { .. })), "{alone:?}");
}

#[test]
fn what_is_touched_is_refused() {
    let place = Place::new();
    let remote = &place.remote;
    let (_, keys, to) = place.key("one");
    let right = file(1, None);
    upload(remote, "x", &right, &Sealing::new(&to).unwrap()).unwrap();
    let right = read(&mut Snapshot::open(right).unwrap()).unwrap();
    let tag = remote.tag("x").unwrap();
    let refused = |what: &str| {
        let found = pages(remote, "x", Some(&keys));
        assert!(found.is_err(), "{what}: wrong: {}", found.unwrap() != right);
        let checked = Checking { read: true }.run(remote, &tag, None);
        assert!(checked.is_err(), "{what}");
    };
    let objects = place.objects();
    for path in &objects {
        let whole = std::fs::read(path).unwrap();
        let step = (whole.len() / 16).max(1);
        for at in (0..24).chain((24..whole.len()).step_by(step)) {
            let mut flipped = whole.clone();
            flipped[at] ^= 1 << (at % 8);
            std::fs::write(path, flipped).unwrap();
            refused(&format!("{path:?}, byte {at}"));
        }
        for len in [
            0,
            23,
            24,
            whole.len() / 2,
            whole.len() - 16,
            whole.len() - 1,
        ] {
            std::fs::write(path, &whole[..len]).unwrap();
            refused(&format!("{path:?}, cut to {len}"));
        }
        std::fs::write(path, &whole).unwrap();
    }
    // Two segments, each in the other's place.
    let mut segments = objects;
    segments.retain(|path| path.parent().unwrap().ends_with("seg"));
    // The one with more chunks first: names say nothing of that, as each run has another key.
    segments.sort_by_key(|path| std::cmp::Reverse(std::fs::metadata(path).unwrap().len()));
    let [one, two] = [&segments[0], &segments[1]];
    let (first, second) = (std::fs::read(one).unwrap(), std::fs::read(two).unwrap());
    std::fs::write(one, &second).unwrap();
    std::fs::write(two, &first).unwrap();
    refused("exchanged");
    std::fs::write(one, &first).unwrap();
    std::fs::write(two, &second).unwrap();
    // Chunks of one, exchanged: the seal tells, whatever the names say.
    let chunk = 16384 + 16;
    let mut exchanged = first.clone();
    let (a, b) = exchanged[24..].split_at_mut(chunk);
    a.swap_with_slice(&mut b[..chunk]);
    std::fs::write(one, &exchanged).unwrap();
    refused("chunks exchanged");
    std::fs::write(one, &first).unwrap();
    assert_eq!(pages(remote, "x", Some(&keys)).unwrap(), right);
}

/// What a seal does not tell: which of the snapshots that somebody sealed for these recipients is meant. What it does: that
/// somebody did not.
#[test]
fn an_old_manifest_under_the_tag_is_a_good_one_and_one_without_a_seal_is_not() {
    let place = Place::new();
    let remote = &place.remote;
    let (_, keys, to) = place.key("one");
    upload(remote, "x", &file(1, None), &Sealing::new(&to).unwrap()).unwrap();
    let tag = place.store().join("tag/x");
    let old = std::fs::read(&tag).unwrap();
    let (child, sealing) = since(remote, "x", &keys, None);
    upload(remote, "x", &child, &sealing).unwrap();
    let new = pages(remote, "x", Some(&keys)).unwrap();
    std::fs::write(&tag, old).unwrap();
    assert_ne!(pages(remote, "x", Some(&keys)).unwrap(), new);

    let plain = Uploading {
        tag: "x",
        force: true,
        device: "zram0",
    };
    plain
        .upload(remote, &file(3, None)[..], &Progress::default())
        .unwrap();
    let refused = pages(remote, "x", Some(&keys)).unwrap_err();
    assert!(refused.to_string().contains("is not sealed"), "{refused}");
    let checked = Checking { read: false }.run(remote, &remote.tag("x").unwrap(), Some(&keys));
    assert!(checked.is_err());
    pages(remote, "x", None).unwrap();
}

#[test]
fn the_witness_reads_a_sealed_store() {
    if !have("the_witness_reads_a_sealed_store", &["python3", "age"]) {
        return;
    }
    let place = Place::new();
    let remote = &place.remote;
    let (identity, keys, to) = place.key("one");
    let (stranger, ..) = place.key("stranger");
    upload(remote, "full", &file(1, None), &Sealing::new(&to).unwrap()).unwrap();
    let (child, sealing) = since(remote, "full", &keys, None);
    let uploaded = upload(remote, "next", &child, &sealing).unwrap();
    let witness = |identity: &Path| {
        let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/read_sealed.py");
        let mut command = Command::new("python3");
        command.arg(script).arg(place.store());
        command.arg(uploaded.stored.to_string()).arg(identity);
        let output = command.output().unwrap();
        let error = String::from_utf8_lossy(&output.stderr).into_owned();
        let is_refusal = error.starts_with("refused: ");
        assert!(output.status.success() || is_refusal, "{error}");
        let lines = String::from_utf8(output.stdout).unwrap();
        output.status.success().then_some(lines)
    };
    let lines = witness(&identity).expect("it is read");
    // The parts of both files, as they are without a seal.
    let mut right = BTreeMap::new();
    for bytes in [file(1, None), child] {
        let mut reader = PartsReader::new(&bytes[..]).unwrap();
        while let Some(part) = reader.next_part().unwrap() {
            let hash = blake3::hash(&part.bytes).to_hex().to_string();
            right.insert(part.name.to_string(), hash);
        }
    }
    let FoundManifest::Sealed(found) = remote.manifest(uploaded.stored).unwrap() else {
        panic!("it is sealed");
    };
    assert_eq!(lines.lines().count(), found.parts().len() + 1);
    assert!(found.parts().len() > 3);
    for line in lines.lines() {
        let [_, name, hash] = line.split(' ').collect::<Vec<_>>()[..] else {
            panic!("{line}");
        };
        assert_eq!(right.get(name).map(String::as_str), Some(hash), "{line}");
    }
    assert_eq!(witness(&stranger), None);
    let path = place.objects().swap_remove(0);
    let mut bytes = std::fs::read(&path).unwrap();
    let last = bytes.len() - 1;
    bytes[last] ^= 1;
    std::fs::write(&path, bytes).unwrap();
    assert_eq!(witness(&identity), None);
}
