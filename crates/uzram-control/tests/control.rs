//! The run directory and the control socket, with real locks, real sockets and clients that misbehave.

use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::sync::Arc;

use uzram_control::{
    ControlError, ControlServer, DeviceRecord, Error, Handler, Request, Response, RunDir, call,
    call_device,
};

fn record(name: &str) -> DeviceRecord {
    DeviceRecord {
        version: 1,
        name: name.into(),
        alias: String::new(),
        pid: std::process::id(),
        frontend: "nbd".into(),
        path: format!("nbd+unix:///{name}"),
        program: "test".into(),
        keeper: 0,
        resume: String::new(),
        identity: "0011".into(),
    }
}

fn nothing(_: &Path) -> Result<Vec<String>, String> {
    Ok(Vec::new())
}

#[test]
fn names_are_given_once_and_again_after_release() {
    let dir = tempfile::tempdir().unwrap();
    let run = RunDir::new(dir.path().join("run"));
    assert!(run.devices().unwrap().is_empty());
    let claims = std::thread::scope(|scope| {
        let threads: Vec<_> = (0..8)
            .map(|_| scope.spawn(|| run.claim(None).unwrap()))
            .collect();
        threads
            .into_iter()
            .map(|t| t.join().unwrap())
            .collect::<Vec<_>>()
    });
    let mut names: Vec<_> = claims.iter().map(|c| c.name.clone()).collect();
    names.sort();
    assert_eq!(
        names,
        (0..8).map(|n| format!("zram{n}")).collect::<Vec<_>>()
    );
    assert!(matches!(
        run.claim(Some("zram3")),
        Err(Error::Exists { .. })
    ));
    for bad in [
        "",
        "zram",
        "zram01",
        "zram-1",
        "a/b",
        "a.b",
        "../zram9",
        "zram99999999999",
    ] {
        assert!(
            matches!(run.claim(Some(bad)), Err(Error::BadName { .. })),
            "{bad}"
        );
    }
    for claim in claims {
        claim.release().unwrap();
    }
    assert_eq!(run.claim(None).unwrap().name, "zram0");
}

#[test]
fn devices_are_found_by_name_path_and_node() {
    let dir = tempfile::tempdir().unwrap();
    let run = RunDir::new(dir.path());
    let claim = run.claim(None).unwrap();
    assert!(
        run.devices().unwrap().is_empty(),
        "without a record it is not listed yet"
    );
    claim.publish(&record("zram0")).unwrap();
    for name in ["zram0", "/dev/zram0", "nbd+unix:///zram0"] {
        assert_eq!(run.find(name).unwrap().record, record("zram0"), "{name}");
    }
    let error = run.find("zram7").unwrap_err().to_string();
    assert_eq!(error, "no device 'zram7' (there are: zram0)");
}

#[test]
fn only_the_dead_are_swept() {
    let dir = tempfile::tempdir().unwrap();
    let run = RunDir::new(dir.path());
    let (alive, dead) = (run.claim(None).unwrap(), run.claim(None).unwrap());
    alive.publish(&record("zram0")).unwrap();
    std::fs::write(dead.file("log"), "x").unwrap();
    // Dropping a claim without releasing it has the effect of a kill.
    drop(dead);
    let swept = run.sweep(nothing).unwrap();
    assert_eq!(swept.len(), 1);
    assert_eq!(swept[0].name, "zram1");
    assert!(alive.dir.exists() && !dir.path().join("zram1").exists());
    assert!(run.sweep(nothing).unwrap().is_empty());

    let stuck = run.claim(None).unwrap();
    drop(stuck);
    let swept = run.sweep(|_| Err("still mounted".into())).unwrap();
    assert_eq!(swept[0].outcome, Err("still mounted".into()));
    assert!(
        dir.path().join("zram1").exists(),
        "what could not be cleared stays known"
    );
}

/// Who made the run directory first could have its user delete the files of another directory: by a link in it, by being
/// one, or by lying below a directory of his.
#[test]
fn a_directory_of_somebody_elses_is_neither_swept_nor_trusted() {
    let dir = tempfile::tempdir().unwrap();
    let precious = dir.path().join("precious");
    std::fs::create_dir(&precious).unwrap();
    std::fs::write(precious.join("thesis"), "x").unwrap();
    let refused = |path: &Path| {
        let run = RunDir::new(path);
        let is_distrust = |error: Error| matches!(error, Error::NotPrivate { .. });
        run.devices().is_err_and(is_distrust)
            && run.find("zram0").is_err_and(is_distrust)
            && run.sweep(nothing).is_err_and(is_distrust)
            && run.file("uzramd.sock").is_err_and(is_distrust)
            && run.claim(None).is_err_and(is_distrust)
            && run.make().is_err_and(is_distrust)
    };
    let set_mode = |path: &Path, mode: u32| {
        let mode = std::os::unix::fs::PermissionsExt::from_mode(mode);
        std::fs::set_permissions(path, mode).unwrap();
    };

    // A link in a directory of one's own is not followed either.
    let run = dir.path().join("run");
    RunDir::new(&run).make().unwrap();
    std::os::unix::fs::symlink(&precious, run.join("zram0")).unwrap();
    let own = RunDir::new(&run);
    assert!(own.sweep(nothing).unwrap().is_empty());
    assert!(own.devices().unwrap().is_empty());
    assert_eq!(own.claim(None).unwrap().name, "zram1");
    for mode in [0o777, 0o1777, 0o770] {
        set_mode(&run, mode);
        assert!(refused(&run), "{mode:o}");
    }
    set_mode(&run, 0o700);
    set_mode(dir.path(), 0o777);
    assert!(refused(&run), "others may move it away");
    set_mode(dir.path(), 0o700);

    if rustix::process::geteuid().is_root() {
        let chown = |path: &Path| std::os::unix::fs::lchown(path, Some(12345), None).unwrap();
        let link = dir.path().join("link");
        std::os::unix::fs::symlink(&run, &link).unwrap();
        assert!(RunDir::new(&link).devices().is_ok(), "a link of one's own");
        chown(&link);
        assert!(refused(&link));
        chown(&run);
        assert!(refused(&run));
        assert!(refused(&run.join("below")));
    }
    assert!(precious.join("thesis").exists());
}

#[test]
fn a_record_is_a_small_regular_file() {
    let dir = tempfile::tempdir().unwrap();
    let run = RunDir::new(dir.path());
    let claim = run.claim(None).unwrap();
    claim.publish(&record("zram0")).unwrap();
    let path = claim.file("device.json");
    let text = std::fs::read(&path).unwrap();
    let elsewhere = dir.path().join("elsewhere");
    std::fs::write(&elsewhere, &text).unwrap();
    let put = |how: &dyn Fn()| {
        std::fs::remove_file(&path).unwrap();
        how();
        run.devices().unwrap().len()
    };
    let pipe = || {
        let mode = rustix::fs::Mode::RUSR | rustix::fs::Mode::WUSR;
        rustix::fs::mknodat(rustix::fs::CWD, &path, rustix::fs::FileType::Fifo, mode, 0).unwrap();
    };
    assert_eq!(put(&pipe), 0);
    assert_eq!(
        put(&|| std::os::unix::fs::symlink(&elsewhere, &path).unwrap()),
        0
    );
    let padded = [&text[..], &vec![b' '; 70_000]].concat();
    assert_eq!(put(&|| std::fs::write(&path, &padded).unwrap()), 0);
    assert_eq!(put(&|| std::fs::write(&path, &text).unwrap()), 1);
}

#[test]
fn a_path_that_is_no_text_is_refused_before_anything_is_made() {
    let dir = tempfile::tempdir().unwrap();
    let name: &std::ffi::OsStr = std::os::unix::ffi::OsStrExt::from_bytes(b"caf\xe9");
    let run = RunDir::new(dir.path().join(name));
    let error = run.claim(None).unwrap_err().to_string();
    assert!(
        error.contains("caf\\xE9") && error.contains("UTF-8"),
        "{error}"
    );
    assert!(run.devices().is_err());
    assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 0);
}

/// A device that is being removed still has the path in its record when the next one has it already.
#[test]
fn a_device_has_a_name_of_its_own_beside_its_number() {
    let dir = tempfile::tempdir().unwrap();
    let run = RunDir::new(dir.path());
    let claim = run.claim(Some("build-cache")).unwrap();
    assert_eq!(claim.name, "zram0");
    // Taken before there is a record, and by one device only.
    let exists = |name: &str| matches!(run.claim(Some(name)), Err(Error::Exists { .. }));
    assert!(exists("build-cache") && exists("zram0"));
    let other = run.claim(Some("Build-cache")).unwrap();
    assert_eq!(other.name, "zram1");
    // A server of another version writes a record that knows nothing of it.
    claim.publish(&record("zram0")).unwrap();
    other.publish(&record("zram1")).unwrap();
    for name in ["build-cache", "zram0", "/dev/zram0", "nbd+unix:///zram0"] {
        let entry = run.find(name).unwrap();
        assert_eq!(entry.record.names(), "zram0 (build-cache)", "{name}");
    }
    let said = run.find("build-cach").unwrap_err().to_string();
    assert!(
        said.contains("zram0 (build-cache), zram1 (Build-cache)"),
        "{said}"
    );
    assert!(run.find("").is_err() && run.find("/dev/build-cache").is_err());
    // It goes with the device.
    claim.release().unwrap();
    assert_eq!(run.claim(Some("build-cache")).unwrap().name, "zram0");
    // Nonsense in its file is no name.
    std::fs::write(dir.path().join("zram1/alias"), "../x").unwrap();
    assert_eq!(run.find("zram1").unwrap().record.alias, "");
}

#[test]
fn the_newest_device_has_the_path() {
    let dir = tempfile::tempdir().unwrap();
    let run = RunDir::new(dir.path());
    let claims: Vec<_> = (0..3).map(|_| run.claim(None).unwrap()).collect();
    for claim in [&claims[2], &claims[0], &claims[1]] {
        std::thread::sleep(std::time::Duration::from_millis(20));
        let path = "/dev/loop7".into();
        let record = DeviceRecord {
            path,
            ..record(&claim.name)
        };
        claim.publish(&record).unwrap();
    }
    assert_eq!(run.find("/dev/loop7").unwrap().record.name, "zram1");
}

#[test]
fn another_device_of_the_same_name_is_not_the_one_that_was_meant() {
    let dir = tempfile::tempdir().unwrap();
    let run = RunDir::new(dir.path());
    let claim = run.claim(None).unwrap();
    claim.publish(&record("zram0")).unwrap();
    let entry = run.find("zram0").unwrap();
    assert!(!entry.is_gone());
    claim.release().unwrap();
    assert!(entry.is_gone());
    let next = run.claim(None).unwrap();
    let identity = "2233".into();
    next.publish(&DeviceRecord {
        identity,
        ..record("zram0")
    })
    .unwrap();
    assert!(entry.is_gone(), "it is another one");

    ControlServer::start(&entry.socket(), Arc::new(Echo)).unwrap();
    let ask = |identity| call_device(&entry.socket(), identity, &Request::Remove).unwrap();
    assert_eq!(ask("2233"), Response::Done);
    // What was made before identities, and who asks whichever is there.
    assert_eq!(ask(""), Response::Done);
    let Response::Error(error) = ask(&entry.record.identity) else {
        panic!("the wrong device was removed");
    };
    assert_eq!(error.errno, 19, "{error}");
}

/// What answers at a socket is told nothing if it is another user's.
#[test]
fn a_socket_of_another_users_is_not_talked_to() {
    if !rustix::process::geteuid().is_root() {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let socket = dir.path().join("control.sock");
    if !uzram_testkit::peers::have(
        "a_socket_of_another_users_is_not_talked_to",
        &["perl", "setpriv"],
    ) {
        return;
    }
    let open_to_all = std::os::unix::fs::PermissionsExt::from_mode(0o777);
    std::fs::set_permissions(dir.path(), open_to_all).unwrap();
    // The peer's user is the one that listened.
    let listen = "use IO::Socket::UNIX; \
        my $s = IO::Socket::UNIX->new(Local => $ARGV[0], Listen => 1) or die; \
        my $c = $s->accept; print STDERR <$c>;";
    let heard = dir.path().join("heard");
    let mut child = std::process::Command::new("setpriv")
        .args(["--reuid", "12345", "--clear-groups", "perl", "-e", listen])
        .arg(&socket)
        .stderr(std::fs::File::create(&heard).unwrap())
        .spawn()
        .unwrap();
    // The socket is there before it listens.
    let error = loop {
        let error = call(&socket, &Request::Ping).unwrap_err();
        match error.kind() {
            std::io::ErrorKind::NotFound | std::io::ErrorKind::ConnectionRefused => {
                std::thread::sleep(std::time::Duration::from_millis(5));
            }
            _ => break error,
        }
    };
    assert_eq!(error.kind(), std::io::ErrorKind::PermissionDenied);
    assert!(error.to_string().contains("user 12345"), "{error}");
    child.wait().unwrap();
    assert_eq!(std::fs::read(&heard).unwrap(), b"");
}

struct Echo;

impl Handler for Echo {
    fn identity(&self) -> &str {
        "2233"
    }

    fn handle(&self, request: Request) -> Result<Response, ControlError> {
        match request {
            Request::Reset => Err(ControlError {
                errno: 16,
                message: "mounted at /mnt".into(),
            }),
            _ => Ok(Response::Done),
        }
    }
}

#[test]
fn requests_are_answered_and_nonsense_disturbs_nobody() {
    let dir = tempfile::tempdir().unwrap();
    let socket = dir.path().join("control.sock");
    ControlServer::start(&socket, Arc::new(Echo)).unwrap();
    let mode = std::fs::metadata(&socket).unwrap();
    assert_eq!(
        std::os::unix::fs::PermissionsExt::mode(&mode.permissions()) & 0o777,
        0o600
    );
    assert_eq!(call(&socket, &Request::Ping).unwrap(), Response::Done);
    let raw = |bytes: &[u8]| {
        let mut stream = UnixStream::connect(&socket).unwrap();
        let _ = stream.write_all(bytes);
        let _ = stream.shutdown(std::net::Shutdown::Write);
        let mut answer = String::new();
        let _ = stream.read_to_string(&mut answer);
        answer
    };
    for (bytes, says) in [
        (&b""[..], "cut short"),
        (b"hello\n", "not JSON"),
        (b"{\"op\":\"ping\"}\n", "names no version"),
        (
            b"{\"version\":2,\"op\":\"ping\"}\n",
            "this client speaks version 2 of the control protocol",
        ),
        (b"{\"version\":1,\"op\":\"explode\"}\n", "unknown request"),
        (
            b"{\"version\":1,\"op\":\"set_mem_limit\",\"bytes\":-1}\n",
            "unknown request",
        ),
        (b"\xff\xfe\n", "no request"),
        (b"{\"version\":1,\"op\":\"ping\"", "cut short"),
    ] {
        let answer = raw(bytes);
        assert!(
            answer.contains(says),
            "{:?}: {answer}",
            String::from_utf8_lossy(bytes)
        );
    }
    assert!(raw(&vec![b'x'; 100_000]).len() < 300);
    let busy = call(&socket, &Request::Reset).unwrap();
    assert_eq!(
        busy,
        Response::Error(ControlError {
            errno: 16,
            message: "mounted at /mnt".into()
        })
    );
}
