//! What a store does wrong, and what the process does that speaks to it: answers lost, conditions ignored, refusals, frames that are
//! none. The store is one of the tests' own.

mod common;

use std::io::Write;
use std::os::fd::OwnedFd;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::process::{Command, Output, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use common::fake::{Fake, Fault, xml};
use common::{Host, OWNER, folder, noise, refused, signal, works};
use uzram_remote::wire::{self, Answer, Call, Request};
use uzram_remote::{
    Remote, RemoteConfig, S3Address, S3Store, Store, StoreError, StoreErrorKind, When,
};

const PROGRAM: &str = env!("CARGO_BIN_EXE_uzram-s3");

/// A store by way of the program, which has keys.
fn open(fake: &Fake) -> Result<S3Store, StoreError> {
    let address = S3Address::parse("s3://warm/disks").unwrap();
    start(&address.with_endpoint(&fake.endpoint()).unwrap())
}

fn start(address: &S3Address) -> Result<S3Store, StoreError> {
    let (_guard, dir) = folder();
    let script = dir.join("uzram-s3");
    let [id, secret] = OWNER;
    let text = format!(
        "#!/bin/sh\nunset http_proxy HTTP_PROXY AWS_PROFILE AWS_SESSION_TOKEN\nexport AWS_ACCESS_KEY_ID='{id}' \
         AWS_SECRET_ACCESS_KEY='{secret}'\nexec '{PROGRAM}'\n"
    );
    std::fs::write(&script, text).unwrap();
    std::fs::set_permissions(&script, std::fs::Permissions::from_mode(0o755)).unwrap();
    S3Store::start(&script, address)
}

#[test]
fn objects_come_back_by_every_key() {
    let fake = Fake::start();
    let store = open(&fake).unwrap();
    for key in ["tag/warm", "tag/v1.2-rc+3~00ff", "seg/0123", "tag/a_b"] {
        let version = store.put(key, key.as_bytes(), &When::New).unwrap();
        assert_eq!(
            store.get(key, 99).unwrap(),
            (key.as_bytes().to_vec(), version.clone()),
            "{key}"
        );
        let again = store.put(key, b"x", &When::New).unwrap_err();
        assert_eq!(again.kind, StoreErrorKind::Exists, "{again}");
        let newer = store
            .put(key, b"newer", &When::Unchanged(version.clone()))
            .unwrap();
        let stale = store
            .put(key, b"stale", &When::Unchanged(version))
            .unwrap_err();
        assert_eq!(stale.kind, StoreErrorKind::Changed, "{stale}");
        assert_eq!(store.get(key, 99).unwrap(), (b"newer".to_vec(), newer));
        assert_eq!(store.head(key).unwrap().bytes, 5);
        assert_eq!(store.get_range(key, 1..4).unwrap(), b"ewe");
        assert_eq!(store.get_range(key, 2..2).unwrap(), b"");
        assert!(store.get_range(key, 3..9).is_err(), "more than there is");
        assert!(store.get(key, 4).is_err(), "longer than is wanted");
    }
    let tags = store.list("tag/").unwrap();
    assert_eq!(tags.len(), 3, "{tags:?}");
    assert!(
        tags.iter().any(|meta| meta.key == "tag/v1.2-rc+3~00ff"),
        "{tags:?}"
    );
    assert_eq!(store.list("").unwrap().len(), 4);
    // A look and a listing tell the same time.
    assert_eq!(
        tags[0].modified_ms,
        store.head(&tags[0].key).unwrap().modified_ms
    );
    store.delete("tag/warm").unwrap();
    store.delete("tag/warm").unwrap();
    let gone = store.get("tag/warm", 9).unwrap_err();
    assert_eq!(gone.kind, StoreErrorKind::NotFound, "{gone}");
    assert_eq!(store.list("idx/").unwrap(), []);
    for at in 0..2500 {
        fake.add(&format!("warm/disks/idx/{at}"), b"");
    }
    fake.add("warm/disks-of-others/idx/1", b"");
    assert_eq!(store.list("idx/").unwrap().len(), 2500);
}

#[test]
fn what_was_answered_to_a_write_on_a_condition_is_settled_by_a_look() {
    let fake = Fake::start();
    let store = open(&fake).unwrap();
    let put = |key: &str, bytes: &[u8], when: &When| store.put(key, bytes, when);
    // It was written, and nobody learnt that.
    fake.fault("PUT", "tag/a", Fault::LosesAnswer, 1);
    let version = put("tag/a", b"mine", &When::New).unwrap();
    assert_eq!(fake.object("tag/a").unwrap(), b"mine");
    fake.fault("PUT", "tag/a", Fault::LosesAnswer, 1);
    put("tag/a", b"newer", &When::Unchanged(version)).unwrap();
    assert_eq!(fake.object("tag/a").unwrap(), b"newer");
    // It was said to be there, and nothing was.
    let conflict = String::from_utf8(xml("ConditionalRequestConflict", "")).unwrap();
    fake.fault("PUT", "tag/b", Fault::Answers(409, conflict), 2);
    put("tag/b", b"mine", &When::New).unwrap();
    assert_eq!(fake.object("tag/b").unwrap(), b"mine");
    // Both: what is there is somebody else's.
    fake.add("warm/disks/tag/c", b"theirs");
    fake.fault("PUT", "tag/c", Fault::LosesAnswer, 0);
    let lost = put("tag/c", b"mine", &When::New).unwrap_err();
    assert_eq!(lost.kind, StoreErrorKind::Exists, "{lost}");
    assert_eq!(fake.object("tag/c").unwrap(), b"theirs");
    let longer = put("tag/c", b"m", &When::New).unwrap_err();
    assert_eq!(longer.kind, StoreErrorKind::Exists, "{longer}");
    let gone = put(
        "tag/d",
        b"x",
        &When::Unchanged(uzram_remote::Version("\"v1\"".into())),
    );
    assert_eq!(gone.unwrap_err().kind, StoreErrorKind::Changed);
    // The store is busy.
    let busy = String::from_utf8(xml("SlowDown", "")).unwrap();
    fake.fault("PUT", "seg/a", Fault::Answers(503, busy), 3);
    put("seg/a", b"part", &When::Always).unwrap();
}

#[test]
fn a_cut_answer_never_passes_for_an_object() {
    let fake = Fake::start();
    let store = open(&fake).unwrap();
    let bytes = noise(1, 1);
    store.put("seg/a", &bytes, &When::Always).unwrap();
    for _ in 0..3 {
        fake.fault("GET", "seg/a", Fault::CutsBody, 1);
        if let Ok(found) = store.get_range("seg/a", 5..900_000) {
            assert!(found == bytes[5..900_000]);
        }
        fake.fault("GET", "seg/a", Fault::CutsBody, 1);
        if let Ok((found, _)) = store.get("seg/a", 2 << 20) {
            assert!(found == bytes);
        }
    }
}

#[test]
fn what_a_store_says_is_told_without_keys() {
    let fake = Fake::start();
    let store = open(&fake).unwrap();
    let [id, secret] = OWNER;
    let body = format!(
        "<Error><Code>SignatureDoesNotMatch</Code><Message>{id} signed {secret}</Message>\
         <AWSAccessKeyId>{id}</AWSAccessKeyId></Error>"
    );
    fake.fault("PUT", "seg/a", Fault::Answers(403, body.clone()), 1);
    let error = store.put("seg/a", b"x", &When::Always).unwrap_err();
    assert_eq!(error.kind, StoreErrorKind::Denied);
    let words = error.to_string();
    assert!(
        words.contains("SignatureDoesNotMatch: ") && !words.contains(id),
        "{words}"
    );
    assert!(!words.contains(secret), "{words}");
    fake.fault("GET", "uzram.json", Fault::Answers(403, body), 1);
    let words = open(&fake).unwrap_err().to_string();
    assert!(
        words.contains("does not permit") && !words.contains(secret),
        "{words}"
    );
    let none = String::from_utf8(xml("NoSuchBucket", "no such bucket")).unwrap();
    fake.fault("GET", "uzram.json", Fault::Answers(404, none), 1);
    let error = open(&fake).unwrap_err();
    assert_eq!(error.kind, StoreErrorKind::NoBucket, "{error}");
}

#[test]
fn a_store_that_is_not_there_is_told_soon() {
    let begin = Instant::now();
    // Nobody listens on it.
    let args = [
        "remote",
        "add",
        "r",
        "s3://warm",
        "--endpoint",
        "http://127.0.0.1:1",
    ];
    let words = Host::new().refused(1, &args);
    assert!(words.contains("no store answers"), "{words}");
    assert!(
        words.contains("http://127.0.0.1:1") && words.contains("refused"),
        "{words}"
    );
    assert!(begin.elapsed() < Duration::from_secs(30));
}

#[test]
fn the_end_of_the_process_is_an_error_in_words() {
    let fake = Fake::start();
    let store = open(&fake).unwrap();
    store.put("seg/a", b"x", &When::Always).unwrap();
    signal(store.process(), "-9");
    let error = store.put("seg/b", b"x", &When::Always).unwrap_err();
    assert!(
        error.to_string().contains("uzram-s3") && error.to_string().contains("signal: 9"),
        "{error}"
    );
    let begin = Instant::now();
    let error = store.head("seg/a").unwrap_err();
    assert!(error.to_string().contains("has ended"), "{error}");
    assert!(
        begin.elapsed() < Duration::from_secs(1),
        "nobody waits for who is dead"
    );
}

/// Runs the program with something on the socket that is its stdin, which is closed then.
fn feed(bytes: &[u8]) -> Output {
    let (mut own, theirs) = UnixStream::pair().unwrap();
    let mut command = Command::new(PROGRAM);
    command
        .stdin(Stdio::from(OwnedFd::from(theirs)))
        .stderr(Stdio::piped())
        .stdout(Stdio::piped());
    let child = command.spawn().unwrap();
    drop(command);
    // It may have refused the beginning of it.
    let _ = own.write_all(bytes);
    drop(own);
    child.wait_with_output().unwrap()
}

fn frame(id: u64, call: Call, body: &[u8]) -> Vec<u8> {
    let mut bytes = Vec::new();
    wire::write_frame(&mut bytes, &Request { id, call }, body).unwrap();
    bytes
}

#[test]
fn a_bad_frame_ends_the_process_in_words() {
    let open = |version| Call::Open {
        version,
        address: S3Address::default(),
    };
    let head = || Call::Head { key: "x".into() };
    let good = frame(1, head(), b"");
    let mut long = good.clone();
    long[8..12].copy_from_slice(&u32::MAX.to_le_bytes());
    for (bytes, said) in [
        (b"GET / HTTP/1.1\r\n\r\n".to_vec(), "bad frame"),
        (good[..good.len() - 1].to_vec(), "it is cut"),
        (long, "too long"),
        (
            frame(1, head(), b"body"),
            "nothing but an object has a body",
        ),
        (good, "must open the store"),
    ] {
        let output = feed(&bytes);
        let words = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status.code(), Some(1), "{output:?}");
        assert!(words.contains(said), "{said}: {words}");
    }
    let output = feed(b"");
    assert!(output.status.success(), "{output:?}");
    // Another version is told what to do.
    let (mut own, theirs) = UnixStream::pair().unwrap();
    let mut command = Command::new(PROGRAM);
    command.stdin(Stdio::from(OwnedFd::from(theirs)));
    let mut child = command.spawn().unwrap();
    drop(command);
    own.write_all(&frame(7, open(wire::WIRE_VERSION + 1), b""))
        .unwrap();
    let head: wire::FrameHead<Answer> = wire::read_head(&mut own).unwrap().unwrap();
    assert_eq!(head.header.id, 7);
    let words = head.header.result.unwrap_err().to_string();
    assert!(words.contains("install both anew"), "{words}");
    drop(own);
    assert!(child.wait().unwrap().success());
    // It is not for users.
    let output = Command::new(PROGRAM).stdin(Stdio::null()).output().unwrap();
    assert_eq!(output.status.code(), Some(2), "{output:?}");
}

#[test]
fn a_store_that_ignores_conditions_is_used_with_a_tag_for_each_write() {
    let fake = Fake::ignoring_conditions();
    let config = RemoteConfig::new("s3://warm/disks");
    let kept = Remote::prepare_store("r", &config, Arc::new(open(&fake).unwrap())).unwrap();
    assert!(!kept.conditional);
    if !uzram_testkit::peers::have("a store that ignores conditions", &["qemu-img"]) {
        return;
    }
    let host = Host::new();
    let add = [
        "remote",
        "add",
        "r",
        "s3://warm/disks",
        "--endpoint",
        &fake.endpoint(),
    ];
    let added = host.with(OWNER, &add).output().unwrap();
    let words = String::from_utf8_lossy(&added.stderr).into_owned();
    assert!(
        added.status.success() && words.contains("does not honour"),
        "{words}"
    );
    let bytes = noise(2, 4);
    host.filled(&bytes);
    host.works(&["snapshot", "zram0", "r/warm"]);
    let is_tag = |key: &&String| key.starts_with("warm/disks/tag/warm~");
    assert_eq!(
        fake.keys().iter().filter(is_tag).count(),
        1,
        "{:?}",
        fake.keys()
    );
    host.restores("r/warm", &bytes);
    let again = host.refused(2, &["snapshot", "zram0", "r/warm", "--force"]);
    assert!(again.contains("cannot replace tags safely"), "{again}");
    // Another host did not see it.
    let key = fake.keys().iter().find(is_tag).unwrap().clone();
    let other = fake.object(&key).unwrap();
    fake.add("warm/disks/tag/warm~00ff00ff00ff00ff", &other);
    let both = host.refused(2, &["restore", "r/warm", "--frontend=nbd"]);
    assert!(both.contains("warm~00ff00ff00ff00ff"), "{both}");
    host.restores("r/warm~00ff00ff00ff00ff", &bytes);
    host.works(&["remote", "remove", "r/warm~00ff00ff00ff00ff"]);
    host.restores("r/warm", &bytes);
}

#[test]
fn what_is_missing_for_a_store_is_said_with_how_to_get_it() {
    let fake = Fake::start();
    let endpoint = fake.endpoint();
    let add = [
        "remote",
        "add",
        "r",
        "s3://warm/disks",
        "--endpoint",
        &endpoint,
    ];
    let host = Host::without_s3();
    let mut command = host.with(OWNER, &add);
    command.env("PATH", "/nowhere");
    let words = refused(5, command);
    assert!(
        words.contains("cargo build") && words.contains("PATH"),
        "{words}"
    );
    let host = Host::new();
    let words = refused(5, host.bare(&add));
    assert!(words.contains("AWS_ACCESS_KEY_ID"), "{words}");
    let mut command = host.bare(&add);
    command.env("AWS_ACCESS_KEY_ID", OWNER[0]);
    assert!(refused(5, command).contains("AWS_SECRET_ACCESS_KEY is not"));
    for (args, said) in [
        (&["s3://k:s@warm/x"][..], "no credentials in it"),
        (
            &["s3://warm/x", "--endpoint", "https://k:s@h"],
            "no credentials in it",
        ),
        (&["s3://W"], "lower-case"),
        (&["s3://warm/a/../b"], "prefix"),
        (&["s3://warm", "--endpoint", "127.0.0.1:1"], "http://"),
        (
            &["file:/tmp", "--endpoint", "http://127.0.0.1:1"],
            "--endpoint is for",
        ),
    ] {
        let words = host.refused(2, &[&["remote", "add", "r"], args].concat());
        assert!(words.contains(said), "{args:?}: {words}");
    }
    assert!(!Path::new(&host.path("remotes/r.json")).exists());
    // Keys in files, and none of them in what is kept.
    let home = host.path("home/.aws");
    std::fs::create_dir_all(&home).unwrap();
    let [id, secret] = OWNER;
    let text = format!("[ci]\naws_access_key_id = {id}\naws_secret_access_key = {secret}\n");
    std::fs::write(home.join("credentials"), text).unwrap();
    works(host.bare(&[&add[..], &["--profile", "ci"]].concat()));
    let kept = std::fs::read_to_string(host.path("remotes/r.json")).unwrap();
    assert!(
        kept.contains("\"ci\"") && !kept.contains(secret) && !kept.contains(id),
        "{kept}"
    );
    works(host.bare(&["remote", "show", "r"]));
    let listed = works(host.bare(&["remote", "list"]));
    assert!(listed.contains(&endpoint), "{listed}");
    // Another network than loopback is named.
    let far = [
        "remote",
        "add",
        "far",
        "s3://warm/x",
        "--endpoint",
        "http://203.0.113.1",
    ];
    let mut command = host.bare(&far);
    command.env("PATH", "/nowhere");
    let words = refused(5, command);
    assert!(words.contains("whoever is on the way"), "{words}");
}
