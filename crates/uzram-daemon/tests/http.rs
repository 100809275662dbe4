//! The API as HTTP: what is refused and how, and that no client costs another one anything.

mod common;

use std::io::{Read, Write};
use std::net::TcpListener;
use std::os::unix::net::UnixStream;
use std::process::Command;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use common::{Answered, Api, Fake, finish};
use rustix::event::{PollFd, PollFlags, Timespec};
use serde_json::Value;
use uzram_control::zram::Errno;
use uzram_daemon::{Limits, converse};
use uzram_testkit::{Random, schema::fits};

fn patient() -> Api {
    Api::new(Limits::default())
}

/// Deadlines that a test can wait for.
fn hasty() -> Api {
    Api::new(Limits {
        sending: Duration::from_millis(300),
        ..Limits::default()
    })
}

fn name_of(answered: &Answered) -> String {
    let error: Value = serde_json::from_str(&answered.body).unwrap();
    error["name"].as_str().unwrap().into()
}

#[test]
fn a_request_that_claims_two_lengths_is_refused() {
    let api = patient();
    // Whichever claim counts, the body makes a device.
    let (plain, chunked) = ("{}   ", "2\r\n{}\r\n0\r\n\r\n");
    for (lengths, body) in [
        ("Content-Length: 4\r\nContent-Length: 5", plain),
        ("Content-Length: 5\r\nContent-Length: 5", plain),
        ("Content-Length: 5\r\nTransfer-Encoding: chunked", chunked),
        ("Transfer-Encoding: chunked\r\nContent-Length: 5", chunked),
        ("Transfer-Encoding: gzip", chunked),
        ("Transfer-Encoding: chunked, identity", chunked),
        ("Content-Length: -1", plain),
        ("Content-Length: +5", plain),
        ("Content-Length: 5, 5", plain),
        ("Content-Length: 99999999999999999999", plain),
    ] {
        let request = format!("POST /v1/devices HTTP/1.1\r\nHost: x\r\n{lengths}\r\n\r\n{body}");
        assert_eq!(api.send(request.as_bytes()).status, 400, "{lengths}");
    }
    assert_eq!(api.get("/v1/devices").body.trim(), "[]");
    // What hangs behind a request is not another one.
    let two = "GET /v1 HTTP/1.1\r\nHost: x\r\n\r\nGET /v1/devices HTTP/1.1\r\nHost: x\r\n\r\n";
    let answered = api.send(two.as_bytes());
    assert_eq!(answered.status, 200);
    assert!(!answered.body.contains("HTTP/1.1"), "{answered:?}");
}

#[test]
fn heads_and_bodies_have_limits() {
    let api = patient();
    let limits = Limits::default();
    // By what is claimed, with nothing sent and nothing allocated.
    for length in ["1048577", "18446744073709551600", "1000000000000"] {
        let request =
            format!("POST /v1/devices HTTP/1.1\r\nHost: x\r\nContent-Length: {length}\r\n\r\n");
        let answered = api.send(request.as_bytes());
        assert_eq!(
            (answered.status, name_of(&answered).as_str()),
            (413, "E2BIG")
        );
    }
    // By what comes.
    let chunk = format!("10000\r\n{}\r\n", "x".repeat(0x10000));
    let chunked = "POST /v1/devices HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n";
    let too_long = chunked.to_owned() + &chunk.repeat(40);
    assert_eq!(api.send(too_long.as_bytes()).status, 413);
    let whole = format!("{chunked}2\r\n{{}}\r\n0\r\n\r\n");
    assert_eq!(api.send(whole.as_bytes()).status, 201);
    // The client writes on while it is refused, and still reads why.
    assert_eq!(
        api.ask("POST", "/v1/devices", &"x".repeat(3 << 20)).status,
        413
    );
    assert_eq!(
        api.ask("POST", "/v1/devices", &" ".repeat(limits.body_bytes))
            .status,
        400
    );
    // Which of two would be meant?
    let twice = api.ask("POST", "/v1/devices", r#"{"size":"1M","size":"2M"}"#);
    assert_eq!(twice.status, 400);
    assert!(twice.body.contains("stands there twice"), "{twice:?}");
    let twice = r#"{"op":"resize","bytes":4096,"bytes":8192}"#;
    let twice = api.ask("POST", "/v1/devices/zram0/requests", twice);
    assert!(twice.body.contains("stands there twice"), "{twice:?}");
    // A device's server may be brought a dictionary.
    let requests = |bytes: usize| {
        let answered = api.ask("POST", "/v1/devices/zram0/requests", &" ".repeat(bytes));
        answered.status
    };
    assert_eq!(requests(limits.request_bytes), 400);
    assert_eq!(requests(limits.request_bytes + 1), 413);

    let with = |headers: &str| {
        let request = format!("GET /v1 HTTP/1.1\r\nHost: x\r\n{headers}\r\n");
        api.send(request.as_bytes()).status
    };
    assert_eq!(with(&"X: y\r\n".repeat(limits.headers - 1)), 200);
    assert_eq!(with(&"X: y\r\n".repeat(limits.headers)), 431);
    assert_eq!(
        with(&format!("X: {}\r\n", "y".repeat(limits.head_bytes))),
        431
    );
    // A head that never ends is answered as soon as it is too long.
    let endless =
        "GET /v1 HTTP/1.1\r\n".to_owned() + &"X: yyyyyyyyyyyyyyyyyyyyyyyy\r\n".repeat(1 << 16);
    assert_eq!(api.send(endless.as_bytes()).status, 431);
    let path = format!("/v1/{}", "a".repeat(8 << 10));
    assert_eq!(api.get(&path).status, 404);
}

#[test]
fn methods_paths_and_hosts_are_as_http_has_them() {
    let api = patient();
    for (method, path, allowed) in [
        ("PUT", "/v1/devices", "GET, POST, HEAD"),
        ("POST", "/v1", "GET, HEAD"),
        ("OPTIONS", "/v1/devices/zram0", "GET, PATCH, DELETE, HEAD"),
        ("TRACE", "/v1", "GET, HEAD"),
        ("BREW", "/v1", "GET, HEAD"),
        ("HEAD", "/v1/control/hot_add", "POST"),
    ] {
        let answered = api.ask(method, path, "");
        assert_eq!(answered.status, 405, "{method} {path}");
        assert_eq!(answered.header("allow"), Some(allowed), "{method} {path}");
    }
    let (got, head) = (api.get("/v1"), api.ask("HEAD", "/v1", ""));
    assert_eq!((head.status, head.body.as_str()), (200, ""));
    for name in ["content-length", "content-type"] {
        assert_eq!(got.header(name), head.header(name), "{name}");
    }
    assert_eq!(api.ask("HEAD", "/v1/nothing", "").status, 404);
    assert_eq!(api.ask("POST", "/v1/devices", "{}").status, 201);
    assert_eq!(api.get("/v1/%64evices/zram%30").status, 200);
    assert_eq!(api.get("/v1/devices/zram%300").status, 404);
    assert_eq!(api.get("/v1/devices/zram0%2F").status, 404);
    assert_eq!(api.get("/v1/devices/zram0%2Fattributes").status, 404);
    assert_eq!(api.get("/v1/devices/..%2Fzram0").status, 404);
    assert_eq!(api.get("/v1/devices/zram%").status, 400);
    assert_eq!(
        api.get("/v1/devices/zram0/block_state?from=%30&max=%31%32")
            .status,
        200
    );
    assert_eq!(api.get("/v1/devices/zram0/block_state?from=x").status, 400);
    assert_eq!(api.get("http://localhost/v1").status, 200);
    assert_eq!(api.send(b"GET /v1 HTTP/1.1\r\n\r\n").status, 400, "no host");
    assert_eq!(
        api.send(b"GET /v1 HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n")
            .status,
        400
    );
    assert_eq!(api.send(b"GET /v1 HTTP/1.0\r\n\r\n").status, 200);
    for nonsense in [
        &b"GET\r\n\r\n"[..],
        b"\xff\xff\xff\r\n\r\n",
        b"GET /v1 HTTP/9.9\r\n\r\n",
    ] {
        assert_eq!(api.send(nonsense).status, 400);
    }
    // Nothing that a keeper alone may be asked.
    for op in ["remove", "hand_over", "recover"] {
        let body = format!("{{\"op\":\"{op}\"}}");
        assert_eq!(
            api.ask("POST", "/v1/devices/zram0/requests", &body).status,
            400
        );
    }
    let not_here = api.ask(
        "POST",
        "/v1/devices/zram0/requests",
        r#"{"op":"count_idle"}"#,
    );
    assert_eq!(
        (not_here.status, name_of(&not_here).as_str()),
        (501, "EOPNOTSUPP")
    );
}

#[test]
fn who_is_too_slow_is_told_so() {
    let api = hasty();
    let silent = api.connect();
    let mut head = api.connect();
    head.write_all(b"GET /v1 HT").unwrap();
    let mut body = api.connect();
    body.write_all(b"POST /v1/devices HTTP/1.1\r\nHost: x\r\nContent-Length: 9\r\n\r\n{")
        .unwrap();
    let mut trickle = api.connect();
    trickle.write_all(b"GET /v1 HTTP/1.1\r\n").unwrap();
    let mut writer = trickle.try_clone().unwrap();
    let drops = std::thread::spawn(move || {
        while writer.write_all(b"X: y\r\n").is_ok() {
            std::thread::sleep(Duration::from_millis(20));
        }
    });
    assert_eq!(finish(head).status, 408);
    let late = finish(body);
    assert_eq!((late.status, name_of(&late).as_str()), (408, "ETIMEDOUT"));
    assert_eq!(finish(trickle).status, 408);
    drops.join().unwrap();
    // Nothing was asked, and nothing is said.
    let mut said = Vec::new();
    (&silent).read_to_end(&mut said).unwrap();
    assert!(said.is_empty());
}

/// Two hundred bodies that do not come once shut everybody else out.
#[test]
fn stalled_clients_delay_nobody() {
    let api = patient();
    let begin = Instant::now();
    let half = b"POST /v1/devices HTTP/1.1\r\nHost: x\r\nContent-Length: 1000\r\n\r\n{";
    let stall = |bytes: &[u8]| -> Vec<UnixStream> {
        let one = |_| {
            let mut stream = api.connect();
            let _ = stream.write_all(bytes);
            stream
        };
        (0..200).map(one).collect()
    };
    let stalled = [stall(half), stall(b"GET /v1"), stall(b"")];
    for _ in 0..20 {
        assert_eq!(api.get("/v1").status, 200);
    }
    // None of them had to come to its deadline for that.
    assert!(
        begin.elapsed() < Limits::default().sending,
        "{:?}",
        begin.elapsed()
    );
    drop(stalled);
    assert_eq!(api.get("/v1").status, 200);
}

/// A client that does not read its answer holds its place only for a while, or until somebody wants it.
#[test]
fn answers_that_nobody_reads_delay_nobody() {
    let api = Api::new(Limits {
        reading: Duration::from_millis(300),
        connections: 4,
        ..Limits::default()
    });
    assert_eq!(api.ask("POST", "/v1/devices", "{}").status, 201);
    // More than a socket holds.
    let answer_bytes = 1 << 20;
    api.devices.padding.store(answer_bytes, Ordering::Relaxed);
    let deaf = || {
        let mut stream = api.connect();
        let _ = stream.write_all(b"GET /v1/devices HTTP/1.1\r\nHost: x\r\n\r\n");
        stream
    };
    let all: Vec<UnixStream> = (0..40).map(|_| deaf()).collect();
    // At first all four may be at work, which is said.
    let begin = Instant::now();
    let mut served = 0;
    while served < 20 {
        served += usize::from(api.get("/v1").status == 200);
        assert!(begin.elapsed() < Duration::from_secs(20), "{served}");
    }
    drop(all);
    // Nobody wants its place, and it goes all the same.
    let mut alone = deaf();
    let mut gone = [PollFd::new(&alone, PollFlags::HUP)];
    let patience = Timespec::try_from(Duration::from_secs(20)).unwrap();
    assert_eq!(rustix::event::poll(&mut gone, Some(&patience)), Ok(1));
    let mut got = Vec::new();
    let _ = alone.read_to_end(&mut got);
    assert!((1..answer_bytes).contains(&got.len()), "{}", got.len());
}

#[test]
fn what_takes_long_delays_no_look_and_keeps_its_place() {
    let api = Api::new(Limits {
        connections: 12,
        ..Limits::default()
    });
    api.devices.close_gate(true);
    let make = || {
        let mut stream = api.connect();
        let request = "POST /v1/devices HTTP/1.1\r\nHost: x\r\nContent-Length: 2\r\n\r\n{}";
        stream.write_all(request.as_bytes()).unwrap();
        stream
    };
    // More than are worked on at once.
    let makers: Vec<UnixStream> = (0..11).map(|_| make()).collect();
    for _ in 0..50 {
        assert_eq!(api.get("/v1").status, 200);
    }
    let last = make();
    // All places are at work now, as soon as the last request has been read.
    let begin = Instant::now();
    loop {
        let answered = api.get("/v1");
        if answered.status == 503 {
            assert_eq!(answered.header("retry-after"), Some("1"));
            assert_eq!(name_of(&answered), "EAGAIN");
            break;
        }
        assert_eq!(answered.status, 200);
        assert!(begin.elapsed() < Duration::from_secs(20));
    }
    api.devices.close_gate(false);
    for maker in makers.into_iter().chain([last]) {
        assert_eq!(finish(maker).status, 201);
    }
    assert_eq!(api.get("/v1").status, 200);
}

/// A client may end its side once it has asked.
#[test]
fn a_half_closed_connection_is_answered() {
    let api = patient();
    let mut stream = api.connect();
    stream
        .write_all(b"GET /v1 HTTP/1.1\r\nHost: x\r\n\r\n")
        .unwrap();
    stream.shutdown(std::net::Shutdown::Write).unwrap();
    assert_eq!(finish(stream).status, 200);
}

fn pick<'a>(random: &mut Random, from: &[&'a [u8]]) -> &'a [u8] {
    from[random.below(from.len() as u64) as usize]
}

/// Whatever is sent, the answer is HTTP or nothing, and nothing panics: tokio would keep that to the one connection.
#[test]
fn prop_no_bytes_disturb_the_server() {
    static PANICS: AtomicUsize = AtomicUsize::new(0);
    let (this, usual) = (std::thread::current().id(), std::panic::take_hook());
    std::panic::set_hook(Box::new(move |panic| {
        // That of other tests, which run meanwhile, is theirs.
        if std::thread::current().id() == this {
            PANICS.fetch_add(1, Ordering::Relaxed);
        }
        usual(panic);
    }));
    let seed = 20261129;
    let mut random = Random::new(seed);
    let devices = Fake::new();
    // Each with what may stand there in a request.
    let shape: [&[&[u8]]; 8] = [
        &[b"GET ", b"POST ", b"DELETE ", b"BREW "],
        &[
            b"/v1",
            b"/v1/devices",
            b"/v1/devices/zram0",
            b"/v1/%2",
            b"*",
        ],
        &[b"", b"", b"?from=1", b"?\xff"],
        &[b" HTTP/1.1\r\n", b" HTTP/1.0\r\n", b" HTTP/9.9\r\n"],
        &[b"Host: x\r\n", b"Host: x\r\n", b""],
        &[
            b"",
            b"Content-Length: 3\r\n",
            b"Transfer-Encoding: chunked\r\n",
            b"Expect: 100-continue\r\n",
        ],
        &[b"\r\n", b"\n"],
        &[b"", b"{} ", b"3\r\n{} \r\n0\r\n\r\n"],
    ];
    let noise: &[&[u8]] = &[
        b"\0",
        b"\xff",
        b"\r\n",
        b"\n",
        b": ",
        b"%2",
        b"{}",
        b"HTTP/1.1",
    ];
    let limits = Limits {
        sending: Duration::from_millis(50),
        ..Limits::default()
    };
    for round in 0..400 {
        let mut bytes = Vec::new();
        for place in shape {
            bytes.extend_from_slice(pick(&mut random, place));
        }
        for _ in 0..round % 3 {
            let noise = pick(&mut random, noise).iter().copied();
            let at = random.below(bytes.len() as u64 + 1) as usize;
            bytes.splice(at..at, noise);
        }
        let answer = converse(&bytes, devices.clone(), limits.clone()).unwrap();
        let text = String::from_utf8_lossy(&answer);
        assert!(
            text.is_empty() || text.starts_with("HTTP/1."),
            "seed {seed}, round {round}: {bytes:?}: {text}"
        );
        let panics = PANICS.load(Ordering::Relaxed);
        assert_eq!(panics, 0, "seed {seed}, round {round}: {bytes:?}");
    }
}

#[test]
fn interop_curl_sees_what_http_promises() {
    if !uzram_testkit::peers::have("interop_curl_sees_what_http_promises", &["curl"]) {
        return;
    }
    let api = patient();
    let curl = |args: &[&str]| {
        let output = Command::new("curl")
            .args([
                "-sS",
                "-o",
                "/dev/null",
                "-w",
                "%{http_code}",
                "--unix-socket",
            ])
            .arg(&api.socket)
            .args(args)
            .output()
            .unwrap();
        String::from_utf8(output.stdout).unwrap()
    };
    assert_eq!(curl(&["http://x/v1"]), "200");
    assert_eq!(curl(&["-I", "http://x/v1"]), "200");
    // It asks before it sends so much.
    let dir = tempfile::tempdir().unwrap();
    let large = dir.path().join("large");
    std::fs::write(&large, vec![b' '; 5 << 20]).unwrap();
    let data = format!("@{}", large.display());
    assert_eq!(
        curl(&["--data-binary", &data, "http://x/v1/devices"]),
        "413"
    );
    let in_chunks = [
        "-H",
        "Transfer-Encoding: chunked",
        "-d",
        "{}",
        "http://x/v1/devices",
    ];
    assert_eq!(curl(&in_chunks), "201");
}

/// The chunks of an answer put together, and whether it came to its end.
fn dechunk(mut body: &[u8]) -> (Vec<u8>, bool) {
    let mut whole = Vec::new();
    loop {
        let Some(at) = body.windows(2).position(|two| two == b"\r\n") else {
            return (whole, false);
        };
        let length = std::str::from_utf8(&body[..at]).unwrap();
        let length = usize::from_str_radix(length, 16).unwrap();
        let chunk = &body[at + 2..];
        if length == 0 {
            return (whole, chunk == b"\r\n");
        }
        if chunk.len() < length + 2 {
            return (whole, false);
        }
        whole.extend_from_slice(&chunk[..length]);
        body = &chunk[length + 2..];
    }
}

fn eventually(what: &str, it: impl Fn() -> bool) {
    let begin = Instant::now();
    while !it() {
        assert!(begin.elapsed() < Duration::from_secs(20), "{what}");
        std::thread::sleep(Duration::from_millis(5));
    }
}

#[test]
fn a_snapshot_is_answered_as_it_comes_and_cut_where_it_fails() {
    let api = Api::new(Limits {
        reading: Duration::from_millis(300),
        ..Limits::default()
    });
    assert_eq!(api.ask("POST", "/v1/devices", "{}").status, 201);
    let path = "/v1/devices/zram0/snapshot";
    let ask = || api.get(path);
    let set = |chunks| *api.devices.chunks.lock().unwrap() = chunks;
    let begun = || api.devices.begun.load(Ordering::SeqCst);
    let all_dropped = |what: &str| {
        eventually(what, || {
            api.devices.dropped.load(Ordering::SeqCst) == begun()
        });
    };

    // Text, so that what is answered can be read as such.
    let chunk = |n: usize| vec![b'a' + n as u8; 50_000];
    set((0..20).map(|n| Ok(chunk(n))).collect());
    let answered = ask();
    assert_eq!(answered.status, 200);
    let kind = answered.header("content-type");
    assert_eq!(kind, Some("application/octet-stream"));
    let whole: Vec<u8> = (0..20).flat_map(chunk).collect();
    assert!(dechunk(answered.body.as_bytes()) == (whole, true));
    all_dropped("an answer that came to its end");

    // Refused before it has begun: an error as any other.
    set(vec![Err(Errno::BUSY)]);
    let answered = ask();
    assert_eq!(
        (answered.status, name_of(&answered).as_str()),
        (409, "EBUSY")
    );

    // In the middle: no end.
    set(vec![Ok(chunk(0)), Ok(chunk(1)), Err(Errno::NOMEM)]);
    let answered = ask();
    assert_eq!(answered.status, 200);
    let (bytes, whole) = dechunk(answered.body.as_bytes());
    assert!(!whole && bytes.len() <= 100_000, "{}", bytes.len());

    // Whoever looks takes none.
    let before = begun();
    let answered = api.ask("HEAD", path, "");
    assert_eq!((answered.status, answered.body.as_str()), (200, ""));
    assert_eq!(begun(), before);
    for (query, status) in [
        ("?memory=64M&track=true", 200),
        ("?memory=much", 400),
        ("?track=yes", 400),
    ] {
        set(vec![Ok(chunk(0))]);
        assert_eq!(api.get(&format!("{path}{query}")).status, status, "{query}");
    }
    assert_eq!(api.get("/v1/devices/zram7/snapshot").status, 404);

    // A client that takes nothing, and one that goes, end it.
    set((0..1000).map(|n| Ok(chunk(n % 20))).collect());
    let request = format!("GET {path} HTTP/1.1\r\nHost: x\r\n\r\n");
    for stays in [true, false] {
        let mut stream = api.connect();
        stream.write_all(request.as_bytes()).unwrap();
        stream.read_exact(&mut [0; 12]).unwrap();
        let stays = stays.then_some(stream);
        all_dropped(if stays.is_some() {
            "a client that takes nothing"
        } else {
            "a client that goes"
        });
        drop(stays);
    }
}

#[test]
fn a_restore_takes_a_body_of_any_length_as_it_comes() {
    let api = hasty();
    let restored = || api.devices.restored.lock().unwrap().clone();
    let mut body = common::MAGIC.to_vec();
    body.resize(5 << 20, b'x');
    let head = |lengths: &str| {
        format!("POST /v1/restore HTTP/1.1\r\nHost: x\r\n{lengths}\r\n\r\n").into_bytes()
    };
    let length = format!("Content-Length: {}", body.len());
    let answered = api.send(&[head(&length), body.clone()].concat());
    assert_eq!(answered.status, 201, "{answered:?}");
    assert!(restored() == (body, None));

    // In chunks, by a client that takes longer than a request may, but goes on.
    let chunked = head("Transfer-Encoding: chunked");
    let mut stream = api.connect();
    stream.write_all(&chunked).unwrap();
    for _ in 0..8 {
        stream.write_all(b"8\r\nsnapshot\r\n").unwrap();
        std::thread::sleep(Duration::from_millis(100));
    }
    stream.write_all(b"0\r\n\r\n").unwrap();
    assert_eq!(finish(stream).status, 201);
    assert!(restored() == (common::MAGIC.repeat(8), None));

    // One that is silent, and one that ends too early.
    let devices = api.get("/v1/devices").body;
    for goes in [false, true] {
        let mut stream = api.connect();
        stream.write_all(&chunked).unwrap();
        stream.write_all(b"8\r\nsnapshot\r\n").unwrap();
        if goes {
            stream.shutdown(std::net::Shutdown::Write).unwrap();
        }
        let answered = finish(stream);
        assert!(answered.status >= 400, "{answered:?}");
        let (read, failed) = restored();
        assert_eq!(read, common::MAGIC);
        assert!(failed.is_some());
    }
    // What is refused while more of it comes is told.
    let length = format!("Content-Length: {}", 64 << 20);
    let answered = api.send(&[head(&length), vec![b'y'; 1 << 20]].concat());
    assert_eq!(
        (answered.status, name_of(&answered).as_str()),
        (400, "EINVAL")
    );
    // Options as those of a new device, but for where the contents come from.
    for (options, status) in [
        ("%7B%22name%22:%22zram9%22%7D", 201),
        ("%7B%22from%22:%22/etc/passwd%22%7D", 400),
        ("%7B%22no-such-option%22:1%7D", 400),
        ("7", 400),
    ] {
        let path = format!("/v1/restore?options={options}");
        assert_eq!(
            api.ask("POST", &path, "snapshot").status,
            status,
            "{options}"
        );
    }
    assert_ne!(api.get("/v1/devices").body, devices);
}

/// What can be looked at is answered as the document says, to the property. Devices that are served are compared where some are.
#[test]
fn the_document_has_every_property_of_every_answer() {
    let api = patient();
    api.send(b"POST /v1/devices HTTP/1.1\r\nHost: x\r\nContent-Length: 2\r\n\r\n{}");
    let json = |path: &str| -> Value { serde_json::from_str(&api.get(path).body).unwrap() };
    let document = json("/v1/openapi.json");
    let schema_of = |schema: &Value| {
        let reference = schema["$ref"].as_str().unwrap();
        let pointer = reference.trim_start_matches('#');
        document.pointer(pointer).unwrap().clone()
    };
    let mut compared = 0;
    for route in uzram_daemon::routes() {
        if route.method != "GET" {
            continue;
        }
        let operation = &document["paths"][route.path]["get"];
        let schema = &operation["responses"]["200"]["content"]["application/json"]["schema"];
        // Text and bytes have none, and the document is of a form of its own.
        if schema["$ref"].is_null() && schema["items"].is_null() {
            continue;
        }
        let answer = json(&route.path.replace("{name}", "zram0"));
        let (schema, answers) = match answer {
            Value::Array(all) => (schema_of(&schema["items"]), all),
            one => (schema_of(schema), vec![one]),
        };
        assert!(!answers.is_empty(), "{}", route.path);
        for answer in answers {
            assert_eq!(fits(&schema, &answer), Ok(()), "{}", route.path);
            compared += 1;
        }
    }
    assert!(compared > 20, "{compared}");
    let error: Value = serde_json::from_str(&api.get("/v1/devices/zram7").body).unwrap();
    let schema = &document["components"]["schemas"]["Error"];
    assert_eq!(fits(schema, &error), Ok(()));
}

/// Whoever asks says in which format; the answer says which it is.
#[test]
fn metrics_come_in_the_format_that_is_asked_for() {
    let api = patient();
    assert_eq!(api.ask("POST", "/v1/devices", "{}").status, 201);
    let ask = |method: &str, accept: &str| {
        let request = format!("{method} /v1/metrics HTTP/1.1\r\nHost: x\r\n{accept}\r\n");
        api.send(request.as_bytes())
    };
    let plain = "text/plain; version=0.0.4; charset=utf-8";
    let open = "application/openmetrics-text; version=1.0.0; charset=utf-8";
    for (accept, kind, ends) in [
        ("", plain, "\n"),
        ("Accept: */*\r\n", plain, "\n"),
        ("Accept: application/openmetrics-text\r\n", open, "# EOF\n"),
        // Two headers are one list.
        (
            "Accept: text/html\r\nAccept: application/openmetrics-text\r\n",
            open,
            "# EOF\n",
        ),
        ("Accept: \u{ff}\r\n", plain, "\n"),
    ] {
        let answered = ask("GET", accept);
        assert_eq!(answered.status, 200, "{accept}");
        assert_eq!(answered.header("content-type"), Some(kind), "{accept}");
        assert_eq!(answered.header("vary"), Some("Accept"), "{accept}");
        let up = "\nuzram_device_up{name=\"zram0\"} 1\n";
        assert!(
            answered.body.contains(up) && answered.body.ends_with(ends),
            "{answered:?}"
        );
        let head = ask("HEAD", accept);
        assert_eq!(
            (head.header("content-type"), head.body.as_str()),
            (Some(kind), "")
        );
    }
    assert_eq!(ask("POST", "Content-Length: 0\r\n").status, 405);
}

/// schemathesis asks for everything that the OpenAPI document has, in ways that it allows and in others, and compares the
/// answers with it.
#[test]
fn interop_schemathesis_finds_the_document_true() {
    let name = "interop_schemathesis_finds_the_document_true";
    if !uzram_testkit::peers::have(name, &["schemathesis"]) {
        return;
    }
    let api = patient();
    for _ in 0..2 {
        assert_eq!(api.ask("POST", "/v1/devices", "{}").status, 201);
    }
    // It speaks TCP alone.
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    let socket = api.socket.clone();
    std::thread::spawn(move || {
        for client in listener.incoming().flatten() {
            let Ok(server) = UnixStream::connect(&socket) else {
                continue;
            };
            let (mut from, mut to) = (client.try_clone().unwrap(), server.try_clone().unwrap());
            std::thread::spawn(move || {
                let _ = std::io::copy(&mut from, &mut to);
                let _ = to.shutdown(std::net::Shutdown::Write);
            });
            std::thread::spawn(move || {
                let (mut client, mut server) = (client, server);
                let _ = std::io::copy(&mut server, &mut client);
                let _ = client.shutdown(std::net::Shutdown::Write);
            });
        }
    });
    let dir = tempfile::tempdir().unwrap();
    let config = dir.path().join("schemathesis.toml");
    // What this machine cannot do, or has no room for, is no error of the server.
    std::fs::write(
        &config,
        "[checks]\nnot_a_server_error.expected-statuses = [\"2xx\", \"3xx\", \"4xx\", 501, 507]\n",
    )
    .unwrap();
    let output = Command::new("schemathesis")
        .arg("--config-file")
        .arg(&config)
        .args(["run", &format!("http://{address}/v1/openapi.json")])
        // A device that a test has made is not one that its name finds later; and much that the document allows is not
        // possible here.
        .args([
            "--checks",
            "all",
            "--exclude-checks",
            "positive_data_acceptance",
        ])
        .args([
            "--max-examples",
            "8",
            "--seed",
            "7",
            "--phases",
            "examples,coverage,fuzzing",
        ])
        .args(["--request-timeout", "30", "--no-color"])
        .current_dir(dir.path())
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&output.stdout);
    assert!(
        output.status.success(),
        "{said}\n{}",
        String::from_utf8_lossy(&output.stderr)
    );
    assert_eq!(api.get("/v1").status, 200);
}
