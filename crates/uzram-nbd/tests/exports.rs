//! A server that negotiates for others, as a process in front of several devices does: here with a directory in this process, to
//! be able to refuse, lose and be slow.

mod common;

use common::*;
use std::{
    net::TcpStream,
    os::{
        fd::{BorrowedFd, OwnedFd},
        unix::net::UnixStream,
    },
    path::{Path, PathBuf},
    process::{Command, Output},
    sync::{Arc, Mutex, RwLock},
    thread,
    time::{Duration, Instant},
};
use uzram::Device;
use uzram_nbd::{
    Error, Export, ExportDirectory, Listen, RunningServer, Server, ServerBuilder, Tls, Unavailable,
};
use uzram_testkit::{certificates::Authority, peers};

/// What becomes of the next client in place of being served.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Mishap {
    Gone,
    Refused,
    /// It is served, and nobody says so.
    Lost,
    /// The words are those of another version.
    Newer,
    /// Nothing is said of TLS.
    Silent,
    /// It takes that long.
    Slow(Duration),
}

/// Servers of devices, each of which may be away.
struct Directory {
    servers: Vec<RwLock<Option<RunningServer>>>,
    mishap: Mutex<Option<Mishap>>,
}

impl Directory {
    fn gone(&self, export: usize) -> Unavailable {
        Unavailable::Gone(format!("export {export} is not there"))
    }
}

impl ExportDirectory for Directory {
    fn terms(&self, exports: &[usize]) -> Vec<Result<String, Unavailable>> {
        let terms = |export: &usize| match &*self.servers[*export].read().unwrap() {
            Some(server) => server.terms(),
            None => Err(self.gone(*export)),
        };
        exports.iter().map(terms).collect()
    }

    fn give(&self, export: usize, client: BorrowedFd<'_>, agreed: &str) -> Result<(), Unavailable> {
        let mishap = self.mishap.lock().unwrap().take();
        let client: OwnedFd = client.try_clone_to_owned().unwrap();
        let server = self.servers[export].read().unwrap();
        let Some(server) = &*server else {
            return Err(self.gone(export));
        };
        match mishap {
            Some(Mishap::Gone) => Err(self.gone(export)),
            Some(Mishap::Refused) => Err(Unavailable::Refused("not today".into())),
            Some(Mishap::Lost) => {
                server.take_client(client, agreed)?;
                Err(Unavailable::Lost("it broke off".into()))
            }
            Some(Mishap::Newer) => {
                let newer = agreed.replace(r#""version":1"#, r#""version":2"#);
                assert_ne!(newer, agreed);
                server.take_client(client, &newer)
            }
            Some(Mishap::Silent) => {
                let (begin, rest) = agreed.split_once(r#""tls":{"#).unwrap();
                let (_, end) = rest.split_once("},").unwrap();
                server.take_client(client, &format!("{begin}{end}"))
            }
            Some(Mishap::Slow(time)) => {
                thread::sleep(time);
                server.take_client(client, agreed)
            }
            None => server.take_client(client, agreed),
        }
    }
}

/// A server in front of two devices.
struct Front {
    path: PathBuf,
    devices: Vec<Arc<Device>>,
    directory: Arc<Directory>,
    front: Option<RunningServer>,
    _dir: tempfile::TempDir,
}

const NAMES: [&str; 2] = ["one", "other one"];

impl Front {
    fn new() -> Self {
        Self::with(|own| own, false)
    }

    fn with(own: impl Fn(ServerBuilder) -> ServerBuilder, read_only: bool) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let devices = vec![device(16 * MIB), device(64 << 30)];
        let server = |(index, device): (usize, &Arc<Device>)| {
            let listen = Listen::Unix(dir.path().join(format!("zram{index}")));
            let export = Export::new(format!("zram{index}"), Arc::clone(device));
            let builder = Server::builder().export(export.description(format!("number {index}")));
            let server = own(builder.workers(4)).bind(&listen).unwrap();
            RwLock::new(Some(server.start().unwrap()))
        };
        let directory = Arc::new(Directory {
            servers: devices.iter().enumerate().map(server).collect(),
            mishap: Mutex::default(),
        });
        let path = dir.path().join("front");
        let names = NAMES.map(String::from).to_vec();
        let front = Server::builder()
            .directory(names, directory.clone(), read_only)
            .bind(&Listen::Unix(path.clone()))
            .unwrap();
        Front {
            path,
            devices,
            directory,
            front: Some(front.start().unwrap()),
            _dir: dir,
        }
    }

    fn haggling(&self) -> Client {
        Client::greeted(UnixStream::connect(&self.path).unwrap().into(), 3)
    }

    fn happens(&self, mishap: Mishap) {
        *self.directory.mishap.lock().unwrap() = Some(mishap);
    }

    /// How many clients the front has, and each device.
    fn clients(&self) -> (usize, Vec<usize>) {
        let count = |server: &RwLock<Option<RunningServer>>| {
            let server = server.read().unwrap();
            server.as_ref().map_or(0, RunningServer::connections)
        };
        let own = self.front.as_ref().map_or(0, RunningServer::connections);
        (own, self.directory.servers.iter().map(count).collect())
    }

    /// Waits for these.
    fn wait_for_clients(&self, own: usize, theirs: [usize; 2]) {
        let begin = Instant::now();
        while self.clients() != (own, theirs.to_vec()) {
            assert!(
                begin.elapsed() < Duration::from_secs(20),
                "{:?}",
                self.clients()
            );
            thread::sleep(Duration::from_millis(1));
        }
    }
}

#[test]
fn each_client_is_served_by_the_device_that_it_asks_for() {
    let front = Front::new();
    let mut seen = Vec::new();
    for (name, which) in [("one", 0), ("other one", 1), ("", 0)] {
        for headers in 0..3 {
            let mut client = front.haggling();
            match headers {
                1 => client.negotiate_structured(name),
                2 => client.negotiate_extended(name),
                _ => {}
            }
            client.go(name);
            let data = noise(seen.len() as u64, 300_000);
            assert_eq!(client.write(4096, &data).error, 0);
            assert!(client.read(4096, 300_000).data == data);
            let mut stored = vec![0; 300_000];
            front.devices[which].read_at(&mut stored, 4096).unwrap();
            assert!(stored == data);
            let status = client.command(0, cmd::BLOCK_STATUS, 0, 4096);
            match headers {
                0 => assert_eq!(status.error, EINVAL),
                _ => assert_eq!(status.status, [(4096, 3)]),
            }
            seen.push(client);
        }
    }
    // They are the devices' clients, not the front's.
    front.wait_for_clients(0, [6, 3]);
    drop(seen);
    front.wait_for_clients(0, [0, 0]);
}

#[test]
fn the_handshake_tells_of_all_exports() {
    let front = Front::new();
    let mut client = front.haggling();
    let told = |client: &mut Client| -> Vec<Vec<u8>> {
        let mut replies = client.option(opt::LIST, &[]);
        assert_eq!(replies.pop().unwrap().0, rep::ACK);
        replies.into_iter().map(|(_, data)| data).collect()
    };
    let both: [&[u8]; 2] = [b"\0\0\0\x03onenumber 0", b"\0\0\0\x09other onenumber 1"];
    assert_eq!(told(&mut client), both);
    for option in [opt::INFO, opt::GO] {
        let replies = client.option(option, &info_request("other one", &[1, 2, 3]));
        assert_eq!(replies[0].1[2..10], (64_u64 << 30).to_be_bytes());
        assert_eq!(replies[1].1, b"\0\x01other one");
        assert_eq!(replies[2].1, b"\0\x02number 1");
        assert_eq!(replies[3].1.len(), 14);
        assert_eq!(replies[4].0, rep::ACK);
    }
    assert_eq!(client.read(0, 4).data, [0; 4]);
    // A name of the device's own is nobody's here.
    let mut client = front.haggling();
    for name in ["zram0", "on", "one "] {
        let request = info_request(name, &[]);
        assert_eq!(client.verdict(opt::INFO, &request), rep::ERR_UNKNOWN);
        assert_eq!(client.verdict(opt::GO, &request), rep::ERR_UNKNOWN);
    }
    // A context that was selected for one export is not selected for the other.
    client.negotiate_structured("one");
    client.go("other one");
    assert_eq!(client.command(0, cmd::BLOCK_STATUS, 0, 4096).error, EINVAL);
}

#[test]
fn export_name_is_answered_by_the_device_with_and_without_zeroes() {
    let front = Front::new();
    for (flags, zeroes) in [(1, 124), (3, 0)] {
        let stream = UnixStream::connect(&front.path).unwrap();
        let mut client = Client::greeted(stream.into(), flags);
        client.send_option(opt::EXPORT_NAME, b"other one");
        assert_eq!(client.u64(), 64 << 30);
        assert_eq!(client.u16() & 1, 1);
        assert!(client.bytes(zeroes).iter().all(|byte| *byte == 0));
        assert_eq!(client.write(0, b"abc").error, 0);
    }
    let mut client = front.haggling();
    client.send_option(opt::EXPORT_NAME, b"zram0");
    assert!(client.is_closed());
}

/// Requests right behind the option that ends the handshake are the device's: nothing of them was read before.
#[test]
fn what_comes_right_behind_the_handshake_is_not_lost() {
    let front = Front::new();
    let mut client = front.haggling();
    let go = info_request("one", &[]);
    let mut said = IHAVEOPT.to_be_bytes().to_vec();
    said.extend(opt::GO.to_be_bytes());
    said.extend((go.len() as u32).to_be_bytes());
    said.extend(go);
    let data = noise(1, 200_000);
    said.extend(request(0, cmd::WRITE, 5, 0, 200_000));
    said.extend(&data);
    client.send(&said);
    for _ in 0..2 {
        let (magic, option, _kind) = (client.u64(), client.u32(), client.u32());
        assert_eq!((magic, option), (REPLY_MAGIC, opt::GO));
        let len = client.u32() as usize;
        client.bytes(len);
    }
    assert_eq!(client.answer(0, 0).cookie, 5);
    assert!(client.read(0, 200_000).data == data);
}

#[test]
fn a_device_that_is_away_holds_up_nobody() {
    let front = Front::new();
    let mut served = front.haggling();
    served.go("other one");
    let server = front.directory.servers[0].write().unwrap().take().unwrap();
    let mut lost = front.haggling();
    lost.negotiate_structured("one");
    server.shutdown().unwrap();
    let said = lost
        .option(opt::GO, &info_request("one", &[]))
        .pop()
        .unwrap();
    assert_eq!(said.0, rep::ERR_UNKNOWN);
    assert_eq!(said.1, b"export 0 is not there");
    assert_eq!(
        lost.verdict(opt::INFO, &info_request("", &[])),
        rep::ERR_UNKNOWN
    );
    let list = lost.option(opt::LIST, &[]);
    assert_eq!(list.len(), 2, "one export and the end: {list:?}");
    // The same client may have the other one.
    lost.go("other one");
    assert_eq!(lost.write(0, b"x").error, 0);
    assert_eq!(served.read(0, 1).data, b"x");
    let mut old = front.haggling();
    old.send_option(opt::EXPORT_NAME, b"one");
    assert!(old.is_closed());
}

#[test]
fn a_client_that_is_refused_is_told_and_one_that_is_lost_is_closed() {
    let front = Front::new();
    let go = info_request("one", &[]);
    let mut client = front.haggling();
    for (mishap, verdict, word) in [
        (Mishap::Gone, rep::ERR_UNKNOWN, "not there"),
        (Mishap::Refused, rep::ERR_POLICY, "not today"),
        (Mishap::Newer, rep::ERR_POLICY, "version 2"),
    ] {
        front.happens(mishap);
        let said = client.option(opt::GO, &go).pop().unwrap();
        let text = String::from_utf8(said.1).unwrap();
        assert_eq!(said.0, verdict, "{text}");
        assert!(text.contains(word), "{text}");
    }
    client.go("one");
    assert_eq!(client.write(0, b"served").error, 0);
    // The device may have answered: a second answer would be taken for something else.
    front.happens(Mishap::Lost);
    let mut client = front.haggling();
    client.send_option(opt::GO, &go);
    let mut said = Vec::new();
    let _ = std::io::Read::read_to_end(&mut client.stream, &mut said);
    let magic = REPLY_MAGIC.to_be_bytes();
    let replies = said.windows(8).filter(|bytes| *bytes == magic).count();
    assert!(replies == 0 || replies == 2, "{replies} replies: {said:?}");
    // One that is slow delays nobody else.
    front.happens(Mishap::Slow(Duration::from_secs(3)));
    let mut slow = front.haggling();
    slow.send_option(opt::GO, &go);
    thread::sleep(Duration::from_millis(100));
    let begin = Instant::now();
    let mut quick = front.haggling();
    quick.go("other one");
    assert_eq!(quick.read(0, 1).data, [0]);
    assert!(begin.elapsed() < Duration::from_secs(2));
}

#[test]
fn a_front_that_is_read_only_makes_a_client_so() {
    let front = Front::with(|own| own, true);
    let mut client = front.haggling();
    for option in [opt::INFO, opt::GO] {
        let replies = client.option(option, &info_request("one", &[]));
        assert_eq!(replies[0].1[11] & 2, 2, "READ_ONLY");
    }
    assert_eq!(client.write(0, b"x").error, EPERM);
    assert_eq!(client.command(0, cmd::TRIM, 0, 4096).error, EPERM);
    assert_eq!(client.read(0, 1).data, [0]);
    // The device itself is not.
    let own = front.directory.servers[0].read().unwrap();
    let Listen::Unix(path) = own.as_ref().unwrap().local() else {
        panic!("a unix socket")
    };
    let mut direct = Client::greeted(UnixStream::connect(path).unwrap().into(), 3);
    direct.go("zram0");
    assert_eq!(direct.write(0, b"x").error, 0);
}

/// The places are the device's, whoever negotiated.
#[test]
fn a_device_deals_out_its_places() {
    let front = Front::with(|own| own.max_connections(2), false);
    let mut clients: Vec<_> = (0..2).map(|_| front.haggling()).collect();
    clients.iter_mut().for_each(|client| client.go("one"));
    let mut third = front.haggling();
    let said = third
        .option(opt::GO, &info_request("one", &[]))
        .pop()
        .unwrap();
    let text = String::from_utf8(said.1).unwrap();
    assert_eq!(said.0, rep::ERR_POLICY);
    assert!(text.contains("2 clients are connected"), "{text}");
    third.go("other one");
    drop(clients.pop());
    front.wait_for_clients(0, [1, 1]);
    let mut fourth = front.haggling();
    fourth.go("one");
    assert_eq!(fourth.read(0, 1).data, [0]);
}

#[test]
fn clients_outlive_the_front_and_a_device_ends_its_own() {
    let mut front = Front::new();
    let (mut one, mut other) = (front.haggling(), front.haggling());
    one.go("one");
    other.negotiate_extended("other one");
    other.go("other one");
    let silent = front.haggling();
    front.front.take().unwrap().shutdown().unwrap();
    assert!(UnixStream::connect(&front.path).is_err());
    drop(silent);
    assert_eq!(one.write(0, b"still here").error, 0);
    assert_eq!(other.read(0, 4).data, [0; 4]);
    // A stop answers what has arrived.
    one.request(0, cmd::READ, 9, 0, 10);
    thread::sleep(Duration::from_millis(50));
    let server = front.directory.servers[0].write().unwrap().take().unwrap();
    server.shutdown().unwrap();
    assert_eq!(one.answer(0, 10).data, b"still here");
    assert!(one.is_closed());
    assert_eq!(other.read(0, 4).data, [0; 4]);
}

#[test]
fn over_tcp_the_device_knows_where_a_client_comes_from() {
    let front = Front::new();
    let names = NAMES.map(String::from).to_vec();
    let server = Server::builder()
        .directory(names, front.directory.clone(), false)
        .bind(&"tcp:127.0.0.1:0".parse().unwrap())
        .unwrap()
        .start()
        .unwrap();
    let Listen::Tcp(address) = server.local() else {
        panic!("TCP")
    };
    let mut client = Client::greeted(TcpStream::connect(address).unwrap().into(), 3);
    client.go("one");
    assert_eq!(client.write(0, b"x").error, 0);
    let own = front.directory.servers[0].read().unwrap();
    let peers = own.as_ref().unwrap().peers();
    assert!(peers[0].starts_with("127.0.0.1:"), "{peers:?}");
}

#[test]
fn names_are_checked_and_a_front_has_nothing_to_offer_to_another() {
    let front = Front::new();
    let bind = |names: &[&str]| {
        let names = names.iter().map(|name| (*name).to_owned()).collect();
        let builder = Server::builder().directory(names, front.directory.clone(), false);
        builder.bind(&"tcp:127.0.0.1:0".parse().unwrap())
    };
    assert!(matches!(bind(&[]), Err(Error::NoExport)));
    assert!(matches!(bind(&["a", ""]), Err(Error::ExportName { .. })));
    let twice = bind(&["a", "b", "a"]);
    assert!(matches!(twice, Err(Error::DuplicateExport { name }) if name == "a"));
    let server = front.front.as_ref().unwrap();
    assert!(matches!(server.terms(), Err(Unavailable::Refused(_))));
    let (ours, _theirs) = UnixStream::pair().unwrap();
    let refused = server.take_client(ours.into(), "{}");
    assert!(matches!(refused, Err(Unavailable::Refused(_))));
    // Words that are none leave a device as it was.
    let own = front.directory.servers[0].read().unwrap();
    for words in ["", "{}", r#"{"version":1,"headers":"Simple"}"#] {
        let (ours, mut theirs) = UnixStream::pair().unwrap();
        let refused = own.as_ref().unwrap().take_client(ours.into(), words);
        assert!(matches!(refused, Err(Unavailable::Refused(_))), "{words}");
        assert_eq!(std::io::Read::read(&mut theirs, &mut [0]).unwrap(), 0);
    }
    assert_eq!(own.as_ref().unwrap().connections(), 0);
}

/// A server in front of the same devices, on a port.
fn in_front(directory: &Arc<Directory>, tls: Option<(&Path, bool, bool)>) -> ServerBuilder {
    let names = NAMES.map(String::from).to_vec();
    let front = Server::builder().directory(names, directory.clone(), false);
    match tls {
        None => front,
        Some((certificates, verify, required)) => {
            front.tls(Tls::from_directory(certificates, verify).unwrap(), required)
        }
    }
}

fn why(front: &ServerBuilder) -> Vec<String> {
    let unavailable = front.unavailable();
    unavailable
        .iter()
        .map(|(_, why)| why.reason().to_owned())
        .collect()
}

/// Asks for an export by TLS, over TCP.
fn ask(server: &RunningServer, client: &Path, export: &str) -> Output {
    let Listen::Tcp(address) = server.local() else {
        panic!("TCP")
    };
    let (port, client) = (address.port(), client.display());
    let uri = format!("nbds://localhost:{port}/{export}?tls-certificates={client}");
    let mut nbdinfo = Command::new("nbdinfo");
    nbdinfo.args(["--size", &uri]).output().unwrap()
}

/// What a device demands of its clients holds whoever negotiates with them.
#[test]
fn interop_a_device_that_requires_tls_is_there_for_clients_with_tls_alone() {
    if !peers::have("interop_exports_tls", &["openssl", "nbdinfo"]) {
        return;
    }
    let dirs = [(); 2].map(|()| tempfile::tempdir().unwrap());
    let [ours, theirs] = [0, 1].map(|index: usize| Authority::new(dirs[index].path()));
    let (certificates, client) = (
        ours.vouch("server", "serverAuth"),
        ours.vouch("client", "clientAuth"),
    );
    let tcp = "tcp:127.0.0.1:0".parse().unwrap();
    let start = |front: ServerBuilder| front.bind(&tcp).unwrap().start().unwrap();
    let with = |verify| Tls::from_directory(&certificates, verify).unwrap();
    let front = Front::with(|own| own.tls(with(true), true), false);
    let directory = &front.directory;

    // In the open there is nothing.
    assert_eq!(
        why(&in_front(directory, None)),
        ["it serves only clients with TLS"; 2]
    );
    let in_the_open = |mut client: Client| {
        let listed = client.option(opt::LIST, &[]);
        assert_eq!(listed.len(), 1, "{listed:?}");
        for option in [opt::INFO, opt::GO] {
            let said = client
                .option(option, &info_request("one", &[]))
                .pop()
                .unwrap();
            let text = String::from_utf8(said.1).unwrap();
            assert_eq!(
                (said.0, &*text),
                (rep::ERR_POLICY, "it serves only clients with TLS")
            );
        }
    };
    in_the_open(front.haggling());

    // Encrypted, by the same authorities, and for those who are.
    for required in [true, false] {
        let same = in_front(directory, Some((&certificates, true, required)));
        assert_eq!(why(&same), [""; 0]);
        let server = start(same);
        let said = ask(&server, &client, "one");
        assert_eq!(
            String::from_utf8_lossy(&said.stdout).trim(),
            "16777216",
            "{said:?}"
        );
        let Listen::Tcp(address) = server.local() else {
            panic!("TCP")
        };
        if !required {
            in_the_open(Client::greeted(
                TcpStream::connect(address).unwrap().into(),
                3,
            ));
        }
        // A server in front that says nothing of it, as one that knows nothing would.
        front.happens(Mishap::Silent);
        assert!(!ask(&server, &client, "one").status.success());
        assert_eq!(front.clients().1, [0, 0]);
        assert!(ask(&server, &client, "one").status.success());
        front.wait_for_clients(0, [0, 0]);
    }

    // Others, or none, or those that have revoked less.
    let same = "it serves only clients whose certificates were checked by the same ca-cert.pem and ca-crl.pem as its own";
    let others = theirs.vouch("server", "serverAuth");
    let other_client = theirs.vouch("client", "clientAuth");
    for (certificates, verify) in [(&others, true), (&certificates, false)] {
        let other = in_front(directory, Some((certificates, verify, true)));
        assert_eq!(why(&other), [same; 2]);
        let server = start(other);
        assert!(!ask(&server, &other_client, "one").status.success());
        assert!(!ask(&server, &client, "one").status.success());
    }
    let second = ours.vouch("server", "serverAuth");
    let list = certificates.join("ca-crl.pem");
    ours.revoke(&ours.vouch("client", "clientAuth"), &list);
    let less = in_front(directory, Some((&second, true, true)));
    assert_eq!(why(&less), [same; 2]);
    std::fs::copy(&list, second.join("ca-crl.pem")).unwrap();
    assert_eq!(why(&less), [""; 0]);
    assert!(ask(&start(less), &client, "other%20one").status.success());

    // A device that only wants them encrypted does not ask who they are.
    let front = Front::with(|own| own.tls(with(false), true), false);
    let other = in_front(&front.directory, Some((&others, true, true)));
    assert_eq!(why(&other), [""; 0]);
    let server = start(other);
    assert!(ask(&server, &other_client, "one").status.success());
    assert!(
        !ask(&server, &client, "one").status.success(),
        "the front asks"
    );
    in_the_open(front.haggling());
    // Certificates that cannot be read let nobody in.
    std::fs::remove_dir_all(&certificates).unwrap();
    let gone = Front::with(
        |own| own.tls(Tls::from_directory_unread(&certificates, false), true),
        false,
    );
    let said = why(&in_front(&gone.directory, Some((&others, true, true))));
    assert!(said[0].contains("server-cert.pem"), "{said:?}");
}
