//! The run directory and the control socket, with real locks, real sockets and clients that misbehave.

use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::sync::Arc;

use uzram_control::{
    ControlError, ControlServer, Error, Handler, Record, Request, Response, RunDir, call,
};

fn record(name: &str) -> Record {
    Record {
        version: 1,
        name: name.into(),
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
        "disk0",
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

struct Echo;

impl Handler for Echo {
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
        (b"{\"op\":\"ping\"}\n", "version none"),
        (
            b"{\"version\":2,\"op\":\"ping\"}\n",
            "version 2, this server speaks 1",
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
