//! Sealed files: what was sealed comes back to who has the key, and what was touched comes back to nobody.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{Read, Write};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use uzram_seal::{Error, KeyFiles, Keys, Recipients, SealedFile, SealingWriter, unseal};
use uzram_snapshot::{
    CodecSource, DiskSource, Page, ReadAt, Snapshot, SnapshotReader, SnapshotWriter,
};
use uzram_testkit::peers::have;

/// What no sealed file may show: on a page, as a word, as the device's name.
const TEXT: &[u8] = b"a page that nobody may read ";
const WORD: u64 = u64::from_le_bytes(*b"wordword");
const NOTES: &[u8] = b"{\"name\":\"zram-of-somebody\"}";

struct Place(tempfile::TempDir);

impl Place {
    fn new() -> Place {
        Place(tempfile::tempdir().unwrap())
    }

    fn file(&self, name: &str, bytes: impl AsRef<[u8]>) -> PathBuf {
        let path = self.0.path().join(name);
        std::fs::write(&path, bytes).unwrap();
        path
    }

    /// An identity in a file, and its recipient.
    fn identity(&self, name: &str) -> (PathBuf, String) {
        use age::secrecy::ExposeSecret;
        let identity = age::x25519::Identity::generate();
        let secret = identity.to_string();
        let text = format!("# of a test\n{}\n", secret.expose_secret());
        (self.file(name, text), identity.to_public().to_string())
    }
}

fn keys(identities: &[&Path], passphrase: Option<&Path>) -> Keys {
    let files = KeyFiles {
        identities: identities.iter().map(|path| path.to_path_buf()).collect(),
        passphrase: passphrase.map(Path::to_path_buf),
    };
    files.read().unwrap().unwrap()
}

fn recipients(all: &[String]) -> Recipients {
    Recipients::read(all, &[], None).unwrap().unwrap()
}

/// A snapshot of these many frames with objects.
fn plain(frames: u32) -> Vec<u8> {
    let codecs = [CodecSource {
        number: 0,
        algorithm: "lz4",
        driver: "",
        params: "",
        dictionary: None,
    }];
    let disk = DiskSource {
        pages: u64::from(frames) * 64,
        taken_at_seconds: 1_796_000_000,
        is_basis: false,
        codecs: &codecs,
        notes: NOTES,
    };
    let mut writer = SnapshotWriter::new(Vec::new(), &disk).unwrap();
    let text = TEXT.repeat(50);
    for frame in 0..frames {
        let mut pages = [Page::Zero; 64];
        pages[0] = Page::Object {
            codec: 0,
            bytes: &text[frame as usize % 9..][..1200],
        };
        pages[5..9].fill(Page::Same(WORD));
        writer.frame(frame, &pages).unwrap();
    }
    writer.finish().unwrap().0
}

fn seal(plain: &[u8], to: &Recipients) -> Vec<u8> {
    let mut writer = SealingWriter::new(Vec::new(), to).unwrap();
    writer.write_all(plain).unwrap();
    writer.finish().unwrap()
}

type Pages = BTreeMap<u64, Vec<u8>>;

fn note(into: &mut Pages, page: u64, content: Page<'_>) {
    let bytes = match content {
        Page::Object { bytes, .. } => bytes.to_vec(),
        Page::Same(word) => word.to_le_bytes().to_vec(),
        other => panic!("{other:?}"),
    };
    into.insert(page, bytes);
}

/// All pages, by way of a pipe. Those that were handed on before an error are in `before`.
fn through(sealed: &[u8], keys: &Keys, before: &mut Pages) -> Result<(), String> {
    let words = |error: &dyn std::error::Error| error.to_string();
    let from = unseal(sealed, keys).map_err(|error| words(&error))?;
    let reader = SnapshotReader::new(from).map_err(|error| words(&error))?;
    let restored = reader.restore(|page, content| {
        note(before, page, content);
        Ok(())
    });
    restored.map(drop).map_err(|error| words(&error))
}

fn file(sealed: &[u8]) -> File {
    let mut file = tempfile::tempfile().unwrap();
    file.write_all(sealed).unwrap();
    file
}

/// The same, anywhere in a file.
fn anywhere(sealed: &[u8], keys: &Keys) -> Result<Pages, String> {
    let opened = SealedFile::open(file(sealed), keys).map_err(|error| error.to_string())?;
    let mut snapshot = Snapshot::open(opened).map_err(|error| error.to_string())?;
    snapshot.verify().map_err(|error| error.to_string())?;
    let mut found = Pages::new();
    let restored = snapshot.restore(|page, content| {
        note(&mut found, page, content);
        Ok(())
    });
    restored.map_err(|error| error.to_string())?;
    Ok(found)
}

fn pages(plain: &[u8]) -> Pages {
    let mut found = Pages::new();
    let reader = SnapshotReader::new(plain).unwrap();
    let restored = reader.restore(|page, content| {
        note(&mut found, page, content);
        Ok(())
    });
    restored.unwrap();
    found
}

#[test]
fn a_sealed_file_comes_back_to_each_of_its_recipients_and_shows_nothing() {
    let place = Place::new();
    let (one, of_one) = place.identity("one");
    let (other, of_other) = place.identity("other");
    let (stranger, _) = place.identity("stranger");
    let plain = plain(300);
    let sealed = seal(&plain, &recipients(&[of_one, of_other]));
    for path in [&one, &other] {
        let keys = keys(&[path], None);
        assert_eq!(anywhere(&sealed, &keys).unwrap(), pages(&plain));
        let mut found = Pages::new();
        through(&sealed, &keys, &mut found).unwrap();
        assert_eq!(found, pages(&plain));
        let opened = SealedFile::open(file(&sealed), &keys).unwrap();
        assert_eq!(opened.size_bytes().unwrap(), plain.len() as u64);
        // Behind the end is nothing.
        assert_eq!(opened.read_at(&mut [0; 9], plain.len() as u64).unwrap(), 0);
        assert_eq!(opened.read_at(&mut [0; 9], u64::MAX).unwrap(), 0);
    }
    let stranger = keys(&[&stranger], None);
    let refused = SealedFile::open(file(&sealed), &stranger);
    assert!(matches!(refused, Err(Error::WrongKey)), "{refused:?}");
    let refused = unseal(&sealed[..], &stranger).map(drop);
    assert!(matches!(refused, Err(Error::WrongKey)), "{refused:?}");

    let name = Snapshot::open(plain.clone()).unwrap().name();
    let secret = [TEXT, &WORD.to_le_bytes(), NOTES, b"lz4", &name.0, b"uzFR"];
    for secret in secret {
        assert!(plain.windows(secret.len()).any(|some| some == secret));
        // Nowhere behind the header of the file.
        let is_there = sealed[24..]
            .windows(secret.len())
            .any(|some| some == secret);
        assert!(!is_there || secret.len() < 4, "{secret:?}");
    }
    // The same twice is not the same when sealed.
    let again = seal(&plain, &recipients(&[place.identity("x").1]));
    let blocks = sealed[600..].chunks(32).zip(again[600..].chunks(32));
    assert_eq!(blocks.filter(|(a, b)| a == b).count(), 0);
}

#[test]
fn each_byte_counts_and_each_cut() {
    let place = Place::new();
    let (identity, recipient) = place.identity("one");
    let keys = keys(&[&identity], None);
    let plain = plain(2);
    let right = pages(&plain);
    let sealed = seal(&plain, &recipients(&[recipient]));
    let refused = |bytes: &[u8], what: &str| {
        assert!(anywhere(bytes, &keys).is_err(), "{what}");
        let mut before = Pages::new();
        assert!(through(bytes, &keys, &mut before).is_err(), "{what}");
        let is_right = |(page, bytes): (&u64, &Vec<u8>)| right.get(page) == Some(bytes);
        assert!(before.iter().all(is_right), "a wrong page: {what}");
    };
    // Each of the header and of age's, and what follows.
    for at in (0..400).chain((400..sealed.len()).step_by(3)) {
        let mut flipped = sealed.clone();
        flipped[at] ^= 1 << (at % 8);
        refused(&flipped, &format!("a bit of byte {at}"));
    }
    for len in (0..sealed.len()).step_by(29).chain([sealed.len() - 1]) {
        refused(&sealed[..len], &format!("cut to {len}"));
    }
    let longer = [&sealed[..], &[0]].concat();
    refused(&longer, "a byte more");
}

#[test]
fn chunks_have_places() {
    let place = Place::new();
    let (identity, recipient) = place.identity("one");
    let keys = keys(&[&identity], None);
    let recipients = recipients(&[recipient]);
    let sealed = seal(&plain(300), &recipients);
    // age's chunks are of 64 KiB and a tag; the last one is shorter.
    const CHUNK: usize = (64 << 10) + 16;
    let header = sealed.windows(4).position(|some| some == b"\n---").unwrap();
    // The line of the MAC, and 16 bytes of a nonce.
    let line = sealed[header + 1..]
        .iter()
        .position(|byte| *byte == b'\n')
        .unwrap();
    let first = header + 1 + line + 1 + 16;
    assert!(sealed.len() > first + 2 * CHUNK);
    let mut exchanged = sealed.clone();
    let (one, two) = exchanged[first..].split_at_mut(CHUNK);
    one.swap_with_slice(&mut two[..CHUNK]);
    assert!(anywhere(&exchanged, &keys).is_err());
    assert!(through(&exchanged, &keys, &mut Pages::new()).is_err());
    // The last chunk taken away, at its border.
    let whole = (sealed.len() - first) / CHUNK * CHUNK;
    let cut = &sealed[..first + whole];
    assert!(anywhere(cut, &keys).is_err());
    let words = through(cut, &keys, &mut Pages::new()).unwrap_err();
    assert!(words.contains("cut off"), "{words}");
    // One of another file for the same recipient.
    let other = seal(&plain(300), &recipients);
    let mut mixed = sealed.clone();
    mixed[first..first + CHUNK].copy_from_slice(&other[first..first + CHUNK]);
    assert!(anywhere(&mixed, &keys).is_err());
}

#[test]
fn a_passphrase_opens_and_another_does_not() {
    let place = Place::new();
    let path = place.file("passphrase", "words of one's own\nnot this line\n");
    let other = place.file("other", "words of others\n");
    let to = Recipients::read(&[], &[], Some(&path)).unwrap().unwrap();
    let plain = plain(1);
    let sealed = seal(&plain, &to);
    let right = keys(&[], Some(&path));
    assert_eq!(anywhere(&sealed, &right).unwrap(), pages(&plain));
    let wrong = SealedFile::open(file(&sealed), &keys(&[], Some(&other)));
    assert!(matches!(wrong, Err(Error::WrongPassphrase)), "{wrong:?}");
    let (identity, recipient) = place.identity("one");
    let wrong = SealedFile::open(file(&sealed), &keys(&[&identity], None));
    assert!(matches!(wrong, Err(Error::WrongKey)), "{wrong:?}");
    let both = Recipients::read(&[recipient], &[], Some(&path));
    assert!(matches!(both, Err(Error::Usage(_))), "{both:?}");
}

#[test]
fn what_is_no_key_is_told_without_being_shown() {
    let place = Place::new();
    let (identity, recipient) = place.identity("one");
    let secret = std::fs::read_to_string(&identity).unwrap();
    let secret = secret.lines().last().unwrap().to_owned();
    let as_recipient = Recipients::read(std::slice::from_ref(&secret), &[], None).unwrap_err();
    let in_file = Recipients::read(&[], &[identity], None).unwrap_err();
    let files = |path: PathBuf| KeyFiles {
        identities: vec![path],
        passphrase: None,
    };
    let wrong = place.file("wrong", format!("{secret}x\n"));
    let wrong = files(wrong).read().unwrap_err();
    let none = files(place.file("none", "# nothing\n")).read().unwrap_err();
    let gone = files(place.0.path().join("gone")).read().unwrap_err();
    let empty = place.file("empty", "\n");
    let empty = Recipients::read(&[], &[], Some(&empty)).unwrap_err();
    for (error, words) in [
        (as_recipient, "age1"),
        (in_file, "line 2"),
        (wrong, "line 1"),
        (none, "age-keygen"),
        (gone, "gone"),
        (empty, "empty"),
    ] {
        let text = format!("{error} {error:?}");
        assert!(text.contains(words), "{text}");
        assert!(!text.contains("AGE-SECRET"), "{text}");
    }
    // Comments and empty lines are none.
    let good = place.file("good", format!("# who\n\n{recipient}\n"));
    assert!(Recipients::read(&[], &[good], None).unwrap().is_some());
    assert!(Recipients::read(&[], &[], None).unwrap().is_none());
}

#[test]
fn what_is_not_sealed_is_refused_where_a_key_was_given() {
    let place = Place::new();
    let keys = keys(&[&place.identity("one").0], None);
    let open = |bytes: &[u8]| SealedFile::open(file(bytes), &keys).map(drop).unwrap_err();
    let plain = plain(1);
    assert!(matches!(open(&plain), Error::NotSealed));
    let mut newer = plain.clone();
    newer[8] = 3;
    assert!(matches!(open(&newer), Error::Newer));
    assert!(matches!(
        open(&[b'x'; 500]),
        Error::Snapshot(uzram_snapshot::Error::Foreign)
    ));
    assert!(matches!(open(b"uzramSN"), Error::Broken(_)));
    // And without a key it is told what is missing.
    let sealed = seal(&plain, &recipients(&[place.identity("two").1]));
    let refused = Snapshot::open(sealed.clone()).unwrap_err();
    assert!(matches!(refused, uzram_snapshot::Error::Sealed));
    let refused = SnapshotReader::new(&sealed[..]).map(drop).unwrap_err();
    assert!(matches!(refused, uzram_snapshot::Error::Sealed));
}

/// Runs age on some bytes.
fn age(args: &[&str], input: &[u8]) -> Option<Vec<u8>> {
    let mut child = Command::new("age")
        .args(args)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let mut to = child.stdin.take().unwrap();
    let input = input.to_vec();
    let writer = std::thread::spawn(move || drop(to.write_all(&input)));
    let mut output = Vec::new();
    child
        .stdout
        .take()
        .unwrap()
        .read_to_end(&mut output)
        .unwrap();
    writer.join().unwrap();
    child.wait().unwrap().success().then_some(output)
}

#[test]
fn the_program_age_opens_what_is_sealed_and_the_other_way_round() {
    if !have("the_program_age_opens_what_is_sealed", &["age"]) {
        return;
    }
    let place = Place::new();
    let (identity, recipient) = place.identity("one");
    let (stranger, _) = place.identity("two");
    let path = identity.to_str().unwrap();
    let plain = plain(300);
    let sealed = seal(&plain, &recipients(std::slice::from_ref(&recipient)));
    assert!(age(&["-d", "-i", path], &sealed[24..]).unwrap() == plain);
    let stranger = stranger.to_str().unwrap();
    assert_eq!(age(&["-d", "-i", stranger], &sealed[24..]), None);
    let theirs = age(&["-r", &recipient], &plain).unwrap();
    let theirs = [&sealed[..24], &theirs].concat();
    let found = anywhere(&theirs, &keys(&[&identity], None)).unwrap();
    assert_eq!(found, pages(&plain));
}

/// What this version has sealed stays readable. Made by `make_fixtures`, once.
#[test]
fn the_fixture_is_read() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures");
    let keys = keys(&[&folder.join("identity")], None);
    let sealed = std::fs::read(folder.join("v1.uzsnap")).unwrap();
    assert_eq!(anywhere(&sealed, &keys).unwrap(), pages(&plain(3)));
}

#[test]
#[ignore = "writes the fixture anew, with another key"]
fn make_fixtures() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures");
    let place = Place::new();
    let (identity, recipient) = place.identity("one");
    std::fs::copy(identity, folder.join("identity")).unwrap();
    let sealed = seal(&plain(3), &recipients(&[recipient]));
    std::fs::write(folder.join("v1.uzsnap"), sealed).unwrap();
}
