//! What one client may take: places, time, and nothing from others.

mod common;

use common::*;
use rustix::net::{self, AddressFamily, SocketType};
use std::{
    io::{Read, Write},
    net::{SocketAddr, TcpStream},
    os::unix::{fs::PermissionsExt, net::UnixStream},
    path::Path,
    process::Command,
    sync::Arc,
    thread,
    time::{Duration, Instant},
};
use uzram_nbd::{Error, Export, Listen, RunningServer, Server, ServerBuilder};
use uzram_testkit::peers;

/// Far longer than anything takes that works, also on a busy machine.
const PATIENCE: Duration = Duration::from_secs(30);

fn wait_until(what: &str, done: impl Fn() -> bool) {
    let begun = Instant::now();
    while !done() {
        assert!(begun.elapsed() < PATIENCE, "{what}");
        thread::sleep(Duration::from_millis(5));
    }
}

/// A server on a free TCP port.
fn tcp(settings: impl FnOnce(ServerBuilder) -> ServerBuilder) -> (RunningServer, SocketAddr) {
    let builder = Server::builder().export(Export::new("zram0", device(16 * MIB)));
    let server = settings(builder)
        .bind(&"tcp:127.0.0.1:0".parse().unwrap())
        .unwrap();
    let Listen::Tcp(addr) = server.local() else {
        panic!()
    };
    (server.start().unwrap(), addr)
}

/// A connection from 127.0.0.`host`: every machine has all these addresses.
fn connect(host: u8, to: SocketAddr) -> TcpStream {
    let socket = net::socket(AddressFamily::INET, SocketType::STREAM, None).unwrap();
    net::bind(&socket, &SocketAddr::from(([127, 0, 0, host], 0))).unwrap();
    net::connect(&socket, &to).unwrap();
    socket.into()
}

fn client(host: u8, to: SocketAddr) -> Client {
    let mut client = Client::greeted(connect(host, to).into(), 3);
    client.go("zram0");
    client
}

/// Asks for the export and gives what the server says against it.
fn refused(stream: impl Into<Stream>) -> String {
    let mut client = Client::greeted(stream.into(), 3);
    let replies = client.option(opt::GO, &info_request("zram0", &[]));
    let (verdict, message) = replies.last().unwrap();
    assert_eq!(*verdict, rep::ERR_POLICY);
    assert_eq!(client.verdict(opt::ABORT, &[]), rep::ACK);
    assert!(client.is_closed());
    String::from_utf8(message.clone()).unwrap()
}

fn many_reads(count: u64, len: u32) -> Vec<u8> {
    let reads = (0..count).map(|i| request(0, cmd::READ, i, 0, len));
    reads.collect::<Vec<_>>().concat()
}

#[test]
fn the_65th_client_is_told_why_it_is_refused() {
    let fixture = Fixture::new(MIB);
    let connect = || UnixStream::connect(&fixture.path).unwrap();
    let mut clients: Vec<_> = (0..64).map(|_| fixture.simple()).collect();
    let said = refused(connect());
    assert!(
        said.contains("64 clients are connected, the limit"),
        "{said}"
    );
    assert_eq!(fixture.handle.as_ref().unwrap().connections(), 64);
    // EXPORT_NAME has no way to say no, and LIST has.
    let mut plain = Client::greeted(connect().into(), 3);
    plain.send_option(opt::EXPORT_NAME, b"zram0");
    assert!(plain.is_closed());
    let mut list = Client::greeted(connect().into(), 3);
    assert_eq!(list.verdict(opt::LIST, &[]), rep::ERR_POLICY);
    for client in &mut clients {
        assert_eq!(client.read(0, 1).data, [0]);
    }
    drop(clients.pop());
    let count = || fixture.handle.as_ref().unwrap().connections();
    wait_until("the place is free", || count() < 64);
    assert_eq!(fixture.simple().read(0, 1).data, [0]);
}

#[test]
fn interop_nbdinfo_and_qemu_img_say_why_they_are_refused() {
    let name = "interop_nbdinfo_and_qemu_img_say_why_they_are_refused";
    let fixture = Fixture::with(MIB, |b| b.max_connections(1));
    let _only = fixture.simple();
    for args in [["nbdinfo", "--size"], ["qemu-img", "info"]] {
        if !peers::have(name, &args[..1]) {
            continue;
        }
        let mut command = Command::new(args[0]);
        let output = command.args([args[1], &fixture.uri()]).output().unwrap();
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(!output.status.success());
        let text = match args[0] {
            "nbdinfo" => "server policy prevents",
            _ => "1 client is connected, the limit",
        };
        assert!(said.contains(text), "{said}");
    }
}

/// A flood of clients that want nothing costs a bounded number of threads.
#[test]
fn clients_beyond_the_limit_that_say_nothing_are_few() {
    let fixture = Fixture::with(MIB, |b| b.max_connections(1));
    let mut only = fixture.simple();
    let flood: Vec<_> = (0..200)
        .map(|_| UnixStream::connect(&fixture.path).unwrap())
        .collect();
    let greeted = flood.iter().filter(|stream| {
        let mut greeting = [0; 18];
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        let mut stream: &UnixStream = stream;
        stream.read_exact(&mut greeting).is_ok()
    });
    // Eight at a time, for a second each.
    let greeted = greeted.count();
    assert!((1..150).contains(&greeted), "{greeted}");
    assert_eq!(fixture.handle.as_ref().unwrap().connections(), 1);
    assert_eq!(only.read(0, 1).data, [0]);
    fixture.stop();
}

#[test]
fn a_client_that_trickles_its_handshake_is_dropped() {
    let fixture = Fixture::with(MIB, |b| b.handshake_timeout(Duration::from_millis(300)));
    let mut client = fixture.haggling();
    let mut option = IHAVEOPT.to_be_bytes().to_vec();
    option.extend([0, 0, 0, opt::LIST as u8, 0, 0, 0xff, 0]);
    option.resize(60_000, 0);
    let gone = option.iter().any(|byte| {
        thread::sleep(Duration::from_millis(20));
        client.stream.write_all(&[*byte]).is_err()
    });
    assert!(gone, "it had 20 minutes");
}

#[test]
fn silent_clients_do_not_keep_others_of_their_address_out() {
    let (server, addr) = tcp(|b| b.max_connections(4).handshake_timeout(PATIENCE * 20));
    let silent: Vec<_> = (0..4).map(|_| connect(1, addr)).collect();
    wait_until("they have the places", || server.connections() == 4);
    // A second later they have negotiated for too long to keep them.
    let begun = Instant::now();
    let served = loop {
        assert!(begun.elapsed() < PATIENCE);
        let mut client = Client::greeted(connect(1, addr).into(), 3);
        let verdict = client.verdict(opt::GO, &info_request("zram0", &[]));
        if verdict == rep::ACK {
            break client;
        }
        assert_eq!(verdict, rep::ERR_POLICY);
        thread::sleep(Duration::from_millis(100));
    };
    wait_until("one made room", || server.connections() == 4);
    drop((silent, served));
}

/// One address may have all places, and gives back half of them to others.
#[test]
fn an_address_keeps_no_more_than_half_where_others_wait() {
    let (server, addr) = tcp(|b| b.max_connections(8));
    let mut greedy: Vec<_> = (0..8).map(|_| client(1, addr)).collect();
    assert!(refused(connect(1, addr)).contains("8 clients are connected"));
    let mut others: Vec<_> = (0..4).map(|_| client(2, addr)).collect();
    for host in [1, 2, 3] {
        assert!(
            refused(connect(host, addr)).contains("8 clients"),
            "half each"
        );
    }
    // Its first connections are its own, however idle they are.
    for client in others.iter_mut().chain(&mut greedy[..4]) {
        assert_eq!(client.read(0, 1).data, [0]);
    }
    assert!(greedy[4..].iter_mut().all(Client::is_closed));
    wait_until("they are gone", || server.connections() == 8);
    let peers = server.peers();
    assert!(peers[0].starts_with("127.0.0.1:") && peers[7].starts_with("127.0.0.2:"));
    // Where nobody waits, it may have more again.
    drop(others);
    wait_until("they are gone", || server.connections() == 4);
    greedy.truncate(4);
    greedy.extend((0..4).map(|_| client(1, addr)));
    for client in &mut greedy {
        assert_eq!(client.read(0, 1).data, [0]);
    }
}

/// Neither clients that do not read, nor those in the middle of a write, nor busy ones keep others out.
#[test]
fn no_kind_of_client_keeps_more_than_half() {
    let stuck: [Vec<u8>; 3] = [
        many_reads(64, MIB as u32),
        request(0, cmd::WRITE, 1, 0, 4096),
        request(0, cmd::WRITE, 1, 0, MIB as u32),
    ];
    for bytes in stuck {
        let (server, addr) = tcp(|b| {
            b.max_connections(4)
                .shutdown_timeout(Duration::from_millis(500))
        });
        let mut greedy: Vec<_> = (0..4).map(|_| client(1, addr)).collect();
        greedy.iter_mut().for_each(|client| client.send(&bytes));
        let mut others: Vec<_> = (0..2).map(|_| client(2, addr)).collect();
        for client in &mut others {
            assert_eq!(client.read(0, 1).data, [0]);
        }
        // Its requests are given up after the time for a shutdown, though nobody stops the server.
        wait_until("half of them are gone", || server.connections() == 4);
        drop(greedy);
    }
}

/// A connection that gives back its place loses no request that had arrived.
#[test]
fn a_busy_connection_finishes_before_it_gives_back_its_place() {
    let (_server, addr) = tcp(|b| b.max_connections(2).shutdown_timeout(PATIENCE));
    let mut first = client(1, addr);
    let data = noise(1, MIB as usize);
    assert_eq!(first.write(0, &data).error, 0);
    let mut second = client(1, addr);
    // More than the sockets hold: it is busy, and no request is lost in the system's buffers.
    second.send(&many_reads(32, MIB as u32));
    thread::sleep(Duration::from_millis(200));
    let mut other = client(2, addr);
    assert!(other.read(0, 4096).data == data[..4096]);
    for _ in 0..32 {
        let Message::Simple { error: 0, .. } = second.message() else {
            panic!()
        };
        assert!(second.bytes(MIB as usize) == data);
    }
    assert!(second.is_closed());
    assert_eq!(first.read(0, 1).data, data[..1]);
}

#[test]
fn idle_connections_are_closed_and_those_with_requests_are_not() {
    let limit = Duration::from_secs(1);
    let fixture = Fixture::with(64 * MIB, |b| b.idle_timeout(Some(limit)));
    fixture.device.write_at(&noise(1, 32 << 20), 0).unwrap();
    let begun = Instant::now();
    let mut idle = fixture.simple();
    // Holds requests, since it does not read their replies.
    let mut stalled = fixture.simple();
    stalled.send(&many_reads(32, 1 << 20));
    let mut busy = fixture.simple();
    let working = thread::spawn(move || {
        while begun.elapsed() < Duration::from_secs(3) {
            assert_eq!(busy.read(0, 1).data.len(), 1);
            thread::sleep(Duration::from_millis(5));
        }
        busy
    });
    assert!(idle.is_closed());
    assert!(begun.elapsed() >= limit);
    let mut busy = working.join().unwrap();
    for _ in 0..32 {
        assert!(matches!(
            stalled.message(),
            Message::Simple { error: 0, .. }
        ));
        stalled.bytes(1 << 20);
    }
    // Nothing is held any more.
    assert!(stalled.is_closed() && busy.is_closed());
    fixture.stop();
}

#[test]
fn a_client_that_takes_no_replies_is_given_up() {
    let limit = Duration::from_millis(600);
    for kind in ["unix", "tcp"] {
        let fixture = Fixture::with(MIB, |b| b.send_timeout(limit));
        let (tcp, addr) = tcp(|b| b.send_timeout(limit));
        let (mut stalled, mut other) = match kind {
            "unix" => (fixture.simple(), fixture.simple()),
            _ => (client(1, addr), client(1, addr)),
        };
        let server = match kind {
            "unix" => fixture.handle.as_ref().unwrap(),
            _ => &tcp,
        };
        stalled.send(&many_reads(64, MIB as u32));
        wait_until("it is given up", || server.connections() == 1);
        assert_eq!(other.read(0, 1).data, [0], "{kind}");
    }
}

/// One that does not read keeps nobody waiting: neither other clients nor who stops the server.
#[test]
fn a_stop_does_not_wait_for_a_stalled_reader() {
    let limit = Duration::from_secs(600);
    let mut fixture = Fixture::with(16 * MIB, |b| b.shutdown_timeout(limit).send_timeout(limit));
    let data = noise(1, 4 << 20);
    fixture.device.write_at(&data, 0).unwrap();
    let mut stalled = fixture.simple();
    stalled.send(&many_reads(64, MIB as u32));
    // It reads slowly, and gets everything.
    let mut slow = fixture.simple();
    slow.send(&many_reads(4, MIB as u32));
    let slow = thread::spawn(move || {
        for _ in 0..4 {
            assert!(matches!(slow.message(), Message::Simple { error: 0, .. }));
            for piece in data[..MIB as usize].chunks(MIB as usize / 8) {
                thread::sleep(Duration::from_millis(100));
                assert!(slow.bytes(piece.len()) == piece);
            }
        }
        assert!(slow.is_closed());
    });
    thread::sleep(Duration::from_millis(100));
    let begun = Instant::now();
    fixture.handle.take().unwrap().shutdown().unwrap();
    assert!(begun.elapsed() < PATIENCE, "{:?}", begun.elapsed());
    slow.join().unwrap();
    drop(stalled);
}

/// Runs nbdinfo as another user. Gives whether it was served, and what it said.
fn nbdinfo_as(uid: &str, uri: &str) -> (bool, String) {
    let output = Command::new("setpriv")
        .args(["--reuid", uid, "--regid", uid, "--clear-groups"])
        .args(["nbdinfo", "--size", uri])
        .current_dir("/")
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    (output.status.success(), said)
}

#[test]
fn users_are_checked_on_unix_sockets() {
    let name = "users_are_checked_on_unix_sockets";
    if !peers::have(name, &["setpriv", "nbdinfo"])
        || !peers::possible(
            name,
            match rustix::process::geteuid().is_root() {
                true => Ok(()),
                false => Err("only root can be another user"),
            },
        )
    {
        return;
    }
    let open = |path: &Path, mode| {
        std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode)).unwrap();
    };
    let mode = |path: &Path| std::fs::metadata(path).unwrap().permissions().mode() & 0o777;
    // By default the socket's mode keeps others out, and where somebody changed that, the check does.
    let fixture = Fixture::new(MIB);
    open(fixture.dir.path(), 0o755);
    assert_eq!(mode(&fixture.path), 0o600);
    assert!(!nbdinfo_as("65533", &fixture.uri()).0);
    open(&fixture.path, 0o666);
    let (served, said) = nbdinfo_as("65533", &fixture.uri());
    assert!(!served && said.contains("policy"), "{said}");
    assert!(nbdinfo_as("0", &fixture.uri()).0);
    drop(fixture);

    let dir = tempfile::tempdir().unwrap();
    open(dir.path(), 0o700);
    let path = dir.path().join("s");
    let listen = Listen::Unix(path.clone());
    let builder = || {
        let export = Export::new("zram0", device(MIB));
        Server::builder().export(export).allow_uid(65533)
    };
    let closed = builder().bind(&listen).err().unwrap();
    assert!(
        matches!(&closed, Error::Unreachable { uid: 65533, directory, .. } if directory == dir.path()),
        "{closed}"
    );
    assert!(!path.exists(), "a refusal has changed nothing");
    open(dir.path(), 0o755);
    let server = builder().bind(&listen).unwrap().start().unwrap();
    assert_eq!(mode(&path), 0o666);
    let uri = server.uri("zram0");
    for (uid, allowed) in [("0", true), ("65533", true), ("65532", false)] {
        assert_eq!(nbdinfo_as(uid, &uri).0, allowed, "{uid}");
    }
    server.shutdown().unwrap();
}

#[test]
fn tcp_says_that_it_cannot_check_users() {
    let export = Export::new("zram0", device(MIB));
    let builder = Server::builder().export(export).allow_uid(7);
    let error = builder.bind(&"tcp:127.0.0.1:0".parse().unwrap()).err();
    let error = error.unwrap();
    assert!(matches!(error, Error::UsersOverTcp { .. }));
    assert!(error.to_string().contains("every user of this machine"));
}

#[test]
fn peers_are_named() {
    let fixture = Fixture::new(MIB);
    let _client = fixture.simple();
    let uid = rustix::process::geteuid().as_raw();
    assert_eq!(
        fixture.handle.as_ref().unwrap().peers(),
        [format!("pid {} (uid {uid})", std::process::id())]
    );
    let (server, addr) = tcp(|b| b);
    let client = connect(9, addr);
    let own = client.local_addr().unwrap().to_string();
    wait_until("it is accepted", || server.connections() == 1);
    assert_eq!(server.peers(), [own]);
}

/// Sockets that the program gives are its own affair: the kernel's client must never lose its connection.
#[test]
fn given_sockets_have_no_limits() {
    let device = device(64 * MIB);
    device.write_at(&noise(1, 32 << 20), 0).unwrap();
    let short = Duration::from_millis(50);
    let server = Server::builder()
        .export(Export::new("zram0", Arc::clone(&device)))
        .max_connections(1)
        .idle_timeout(Some(short))
        .send_timeout(short)
        .handshake_timeout(PATIENCE)
        .adopter()
        .unwrap();
    let given = || {
        let (ours, theirs) = UnixStream::pair().unwrap();
        server.adopt(ours.into(), "", || {}).unwrap();
        Client {
            stream: theirs.into(),
            server_flags: 0,
            extended: false,
        }
    };
    let (ours, theirs) = UnixStream::pair().unwrap();
    server.negotiate(ours.into(), || {}).unwrap();
    let mut negotiated = Client::greeted(theirs.into(), 3);
    negotiated.go("");
    let (mut idle, mut stalled) = (given(), given());
    for client in [&mut stalled, &mut negotiated] {
        client.send(&many_reads(32, 1 << 20));
    }
    thread::sleep(20 * short);
    assert_eq!(server.connections(), 3);
    for client in [&mut stalled, &mut negotiated] {
        for _ in 0..32 {
            assert!(matches!(client.message(), Message::Simple { error: 0, .. }));
            client.bytes(1 << 20);
        }
    }
    for client in [&mut idle, &mut stalled, &mut negotiated] {
        assert_eq!(client.read(MIB, 1).data.len(), 1);
    }
    server.shutdown().unwrap();
}
