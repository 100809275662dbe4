//! TLS, with the clients that people use, and with what no client would send.

mod common;

use std::{
    fs,
    io::{Read, Write},
    net::TcpStream,
    path::{Path, PathBuf},
    process::{Command, Output},
    time::{Duration, Instant},
};

use common::*;
use uzram_nbd::{Export, RunningServer, Server, ServerBuilder, Tls};
use uzram_testkit::{certificates, peers};

/// An authority in a directory of its own.
struct Authority {
    it: certificates::Authority,
    _dir: tempfile::TempDir,
}

impl Authority {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        Authority {
            it: certificates::Authority::new(dir.path()),
            _dir: dir,
        }
    }

    fn server(&self) -> PathBuf {
        self.it.vouch("server", "serverAuth")
    }

    fn client(&self) -> PathBuf {
        self.it.vouch("client", "clientAuth")
    }
}

/// A server on a port of this host.
fn serve(
    tls: Tls,
    required: bool,
    settings: impl FnOnce(ServerBuilder) -> ServerBuilder,
) -> (RunningServer, std::sync::Arc<uzram::Device>) {
    let device = device(24 * MIB);
    let builder = Server::builder()
        .export(Export::new("zram0", device.clone()))
        .workers(4)
        .tls(tls, required);
    let server = settings(builder)
        .bind(&"tcp:127.0.0.1:0".parse().unwrap())
        .unwrap();
    (server.start().unwrap(), device)
}

fn port(server: &RunningServer) -> u16 {
    let uzram_nbd::Listen::Tcp(address) = server.local() else {
        panic!("a port");
    };
    address.port()
}

/// What a client of libnbd is to connect to.
fn uri(server: &RunningServer, certificates: &Path) -> String {
    format!(
        "nbds://localhost:{}/zram0?tls-certificates={}",
        port(server),
        certificates.display()
    )
}

fn nbd(program: &str, args: &[&str]) -> Output {
    let path = format!("/usr/bin:{}", std::env::var("PATH").unwrap_or_default());
    let mut command = Command::new(program);
    command.args(args).env("PATH", path).output().unwrap()
}

fn works(output: Output) -> String {
    assert!(output.status.success(), "{output:?}");
    String::from_utf8_lossy(&output.stdout).into_owned()
}

#[test]
fn interop_images_go_in_and_out_encrypted() {
    if !peers::have(
        "interop_tls",
        &["openssl", "nbdinfo", "nbdcopy", "qemu-img"],
    ) {
        return;
    }
    let authority = Authority::new();
    let (certificates, client) = (authority.server(), authority.client());
    let tls = Tls::from_directory(&certificates, false).unwrap();
    let (server, device) = serve(tls, true, |builder| builder);
    assert!(server.uri("zram0").starts_with("nbds://127.0.0.1:"));
    let uri = uri(&server, &client);
    assert_eq!(works(nbd("nbdinfo", &["--size", &uri])).trim(), "25165824");
    let info = works(nbd("nbdinfo", &[&uri]));
    assert!(info.contains("with TLS"), "{info}");

    // Large writes and reads with many in flight, by several workers.
    let image = noise(7, 24 << 20);
    let dir = tempfile::tempdir().unwrap();
    let (from, to) = (dir.path().join("in"), dir.path().join("out"));
    fs::write(&from, &image).unwrap();
    for (connections, size) in [("1", "65536"), ("4", "262144"), ("2", "33554432")] {
        device.discard(0, device.size_bytes()).unwrap();
        let options = format!("--connections={connections}");
        let size = format!("--request-size={size}");
        let (from, to) = (from.to_str().unwrap(), to.to_str().unwrap());
        works(nbd("nbdcopy", &["--flush", &options, &size, from, &uri]));
        let mut stored = vec![0; image.len()];
        device.read_at(&mut stored, 0).unwrap();
        assert!(stored == image, "written by {connections} connections");
        works(nbd("nbdcopy", &[&options, &size, &uri, to]));
        assert!(fs::read(to).unwrap() == image, "read by {connections}");
    }

    let port = port(&server).to_string();
    let credentials = format!(
        "tls-creds-x509,id=tls,dir={},endpoint=client",
        client.display()
    );
    let target = format!("driver=nbd,host=localhost,port={port},export=zram0,tls-creds=tls");
    let compared = nbd(
        "qemu-img",
        &[
            "compare",
            "--object",
            &credentials,
            "--image-opts",
            &target,
            &format!(
                "driver=raw,file.driver=file,file.filename={}",
                from.display()
            ),
        ],
    );
    assert!(works(compared).contains("identical"));
    server.shutdown().unwrap();
}

#[test]
fn interop_who_comes_without_tls_is_told_where_it_is_required() {
    if !peers::have("interop_tls_policy", &["openssl", "nbdinfo"]) {
        return;
    }
    let authority = Authority::new();
    let (certificates, client) = (authority.server(), authority.client());
    let tls = Tls::from_directory(&certificates, false).unwrap();
    for (required, works_plain) in [(true, false), (false, true)] {
        let (server, _) = serve(tls.clone(), required, |builder| builder);
        let plain = format!("nbd://localhost:{}/zram0", port(&server));
        let output = nbd("nbdinfo", &["--size", &plain]);
        assert_eq!(output.status.success(), works_plain, "{output:?}");
        works(nbd("nbdinfo", &["--size", &uri(&server, &client)]));
        server.shutdown().unwrap();
    }
    // A client that trusts other authorities does not connect.
    let stranger = Authority::new();
    let (server, _) = serve(tls, true, |builder| builder);
    let refused = nbd("nbdinfo", &["--size", &uri(&server, &stranger.client())]);
    assert!(!refused.status.success());
    server.shutdown().unwrap();
}

#[test]
fn interop_clients_are_known_by_their_certificates() {
    if !peers::have("interop_tls_peers", &["openssl", "nbdinfo"]) {
        return;
    }
    let authority = Authority::new();
    let (certificates, client, lost) = (authority.server(), authority.client(), authority.client());
    let tls = Tls::from_directory(&certificates, true).unwrap();
    let (server, _) = serve(tls, true, |builder| builder);
    let is_served = |client: &Path| {
        nbd("nbdinfo", &["--size", &uri(&server, client)])
            .status
            .success()
    };
    assert!(is_served(&client) && is_served(&lost));
    // Without one, and with one of somebody else: both trust this server.
    let nobody = tempfile::tempdir().unwrap();
    fs::copy(
        client.join("ca-cert.pem"),
        nobody.path().join("ca-cert.pem"),
    )
    .unwrap();
    assert!(!is_served(nobody.path()));
    let others = Authority::new();
    let stranger = others.client();
    fs::copy(client.join("ca-cert.pem"), stranger.join("ca-cert.pem")).unwrap();
    assert!(!is_served(&stranger));
    // A certificate for servers is none for clients.
    let server_as_client = authority.it.vouch("client", "serverAuth");
    assert!(!is_served(&server_as_client));
    // One that was revoked meanwhile.
    authority.it.revoke(&lost, &certificates.join("ca-crl.pem"));
    assert!(is_served(&client) && !is_served(&lost));
    server.shutdown().unwrap();
}

#[test]
fn interop_changed_certificates_are_used_at_once() {
    if !peers::have("interop_tls_rotation", &["openssl", "nbdinfo"]) {
        return;
    }
    let (old, new) = (Authority::new(), Authority::new());
    let (certificates, client, next) = (old.server(), old.client(), new.client());
    let tls = Tls::from_directory(&certificates, false).unwrap();
    let (server, _) = serve(tls, true, |builder| builder);
    let is_served = |client: &Path| {
        nbd("nbdinfo", &["--size", &uri(&server, client)])
            .status
            .success()
    };
    assert!(is_served(&client) && !is_served(&next));
    // Half of a change: the former ones are used.
    let renewed = new.server();
    fs::write(certificates.join("server-cert.pem"), "").unwrap();
    assert!(is_served(&client) && is_served(&client));
    for name in ["server-cert.pem", "server-key.pem"] {
        fs::copy(renewed.join(name), certificates.join(name)).unwrap();
    }
    assert!(!is_served(&client) && is_served(&next));
    server.shutdown().unwrap();
}

#[test]
fn files_that_are_no_good_are_named() {
    if !peers::have("tls_files", &["openssl"]) {
        return;
    }
    let authority = Authority::new();
    let good = authority.server();
    let wrong = |name: &str, bytes: Option<&[u8]>, verify: bool| {
        let dir = tempfile::tempdir().unwrap();
        for entry in fs::read_dir(&good).unwrap() {
            let entry = entry.unwrap();
            fs::copy(entry.path(), dir.path().join(entry.file_name())).unwrap();
        }
        let path = dir.path().join(name);
        match bytes {
            Some(bytes) => fs::write(&path, bytes).unwrap(),
            None => fs::remove_file(&path).unwrap(),
        }
        let error = Tls::from_directory(dir.path(), verify).unwrap_err();
        let said = error.to_string();
        assert!(said.contains(name), "{said}");
        said
    };
    assert!(wrong("server-cert.pem", None, false).contains("No such file"));
    assert!(wrong("server-key.pem", None, false).contains("No such file"));
    assert!(wrong("ca-cert.pem", None, true).contains("No such file"));
    assert!(wrong("server-cert.pem", Some(b"nothing"), false).contains("no certificate in PEM"));
    assert!(wrong("server-key.pem", Some(b"nothing"), false).contains("no private key in PEM"));
    let cut = b"-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n";
    wrong("server-cert.pem", Some(cut), false);
    wrong("ca-cert.pem", Some(cut), true);
    wrong("ca-crl.pem", Some(b"nothing"), true);
    let encrypted = b"-----BEGIN EC PRIVATE KEY-----\nProc-Type: 4,ENCRYPTED\n";
    assert!(wrong("server-key.pem", Some(encrypted), false).contains("it is encrypted"));
    let large = vec![b'x'; (1 << 20) + 1];
    assert!(wrong("server-cert.pem", Some(&large), false).contains("more than 1048576 bytes"));
    // What has no end, or is waited for.
    for (name, line) in [
        ("server-cert.pem", "ln -s /dev/zero"),
        ("server-key.pem", "mkfifo"),
    ] {
        let dir = tempfile::tempdir().unwrap();
        for name in ["server-cert.pem", "server-key.pem"] {
            fs::copy(good.join(name), dir.path().join(name)).unwrap();
        }
        let path = dir.path().join(name);
        fs::remove_file(&path).unwrap();
        let line = format!("{line} {}", path.display());
        assert!(
            Command::new("sh")
                .args(["-c", &line])
                .status()
                .unwrap()
                .success()
        );
        let said = Tls::from_directory(dir.path(), false)
            .unwrap_err()
            .to_string();
        assert!(
            said.contains(name) && said.contains("no regular file"),
            "{said}"
        );
    }
    // The key of another.
    let other = fs::read(authority.server().join("server-key.pem")).unwrap();
    let dir = good.clone();
    fs::write(dir.join("server-key.pem"), other).unwrap();
    let error = Tls::from_directory(&dir, false).unwrap_err().to_string();
    assert!(error.contains("server-cert.pem"), "{error}");
}

/// What is sent before TLS begins, or in its place.
#[test]
fn what_is_said_in_the_open_counts_for_nothing() {
    if !peers::have("tls_in_the_open", &["openssl"]) {
        return;
    }
    let authority = Authority::new();
    let tls = Tls::from_directory(&authority.server(), false).unwrap();
    let limit = Duration::from_secs(2);
    let (server, _) = serve(tls, true, |builder| builder.handshake_timeout(limit));
    let address = format!("127.0.0.1:{}", port(&server));
    let connect = || Client::greeted(TcpStream::connect(&address).unwrap().into(), 3);
    let ended = |client: &mut Client| {
        let mut rest = Vec::new();
        // An alert may come, or a reset.
        let _ = client.stream.read_to_end(&mut rest);
        assert!(rest.len() < 64, "{rest:?}");
    };

    let mut client = connect();
    for option in [
        opt::LIST,
        opt::INFO,
        opt::GO,
        opt::STRUCTURED_REPLY,
        opt::SET_META_CONTEXT,
        99,
    ] {
        assert_eq!(client.verdict(option, &[]), rep::ERR_TLS_REQD, "{option}");
    }
    assert_eq!(client.verdict(opt::STARTTLS, b"x"), rep::ERR_INVALID);
    assert_eq!(client.verdict(opt::ABORT, &[]), rep::ACK);

    // It has no reply that could say so.
    let mut client = connect();
    client.send_option(opt::EXPORT_NAME, b"zram0");
    ended(&mut client);

    // Options in the place of a handshake are none.
    let mut client = connect();
    client.send_option(opt::STARTTLS, &[]);
    client.send_option(opt::EXPORT_NAME, b"zram0");
    assert_eq!(client.u64(), REPLY_MAGIC);
    assert_eq!(
        (client.u32(), client.u32(), client.u32()),
        (opt::STARTTLS, rep::ACK, 0)
    );
    ended(&mut client);

    // A handshake that trickles has the time of one that is silent.
    for trickles in [false, true] {
        let mut client = connect();
        assert_eq!(client.verdict(opt::STARTTLS, &[]), rep::ACK);
        let begun = Instant::now();
        let mut sent = [22, 3, 1, 64, 0].into_iter().chain(std::iter::repeat(0));
        if trickles {
            while client.stream.write_all(&[sent.next().unwrap()]).is_ok() {
                assert!(
                    begun.elapsed() < Duration::from_secs(30),
                    "it trickles for ever"
                );
                std::thread::sleep(Duration::from_millis(20));
            }
        }
        ended(&mut client);
        assert!(begun.elapsed() < Duration::from_secs(30));
    }
    server.shutdown().unwrap();
}

/// A client that has begun TLS, whatever it had agreed before.
fn encrypted(mut client: Client, certificates: &Path) -> Client {
    use rustls::pki_types::{CertificateDer, pem::PemObject};
    assert_eq!(client.verdict(opt::STARTTLS, &[]), rep::ACK);
    let mut roots = rustls::RootCertStore::empty();
    let authority = CertificateDer::from_pem_file(certificates.join("ca-cert.pem"));
    roots.add(authority.unwrap()).unwrap();
    let provider = std::sync::Arc::new(rustls::crypto::ring::default_provider());
    let config = rustls::ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(roots)
        .with_no_client_auth();
    let name = "localhost".try_into().unwrap();
    let connection = rustls::ClientConnection::new(config.into(), name).unwrap();
    let Stream::Tcp(stream) = client.stream else {
        panic!("by TCP");
    };
    client.stream = Stream::Tls(Box::new(rustls::StreamOwned::new(connection, stream)));
    client
}

#[test]
fn tls_begins_once_and_with_nothing_agreed() {
    if !peers::have("tls_begins", &["openssl"]) {
        return;
    }
    let authority = Authority::new();
    let certificates = authority.server();
    let tls = Tls::from_directory(&certificates, false).unwrap();
    let (server, device) = serve(tls, false, |builder| builder);
    let address = format!("127.0.0.1:{}", port(&server));
    let mut client = Client::greeted(TcpStream::connect(&address).unwrap().into(), 3);
    client.negotiate_structured("zram0");
    client.negotiate_extended("zram0");
    let mut client = encrypted(client, &certificates);
    client.extended = false;
    assert_eq!(client.verdict(opt::STARTTLS, &[]), rep::ERR_INVALID);
    client.go("zram0");
    // A request is a compact one and a reply a simple one: others were agreed in the open only.
    let page = noise(3, 4096);
    device.write_at(&page, 8192).unwrap();
    client.request(0, cmd::READ, 1, 8192, 4096);
    assert_eq!(
        client.message(),
        Message::Simple {
            error: 0,
            cookie: 1
        }
    );
    assert!(client.bytes(4096) == page);

    // Requests in one record, replies meanwhile, new keys now and then.
    for round in 0..20 {
        let mut requests = Vec::new();
        for at in 0..16u64 {
            requests.extend(request(0, cmd::WRITE, at, at << 16, 1 << 16));
            requests.extend(noise(round * 16 + at, 1 << 16));
        }
        if let Stream::Tls(stream) = &mut client.stream {
            stream.conn.refresh_traffic_keys().unwrap();
        }
        client.send(&requests);
        let mut seen = 0u32;
        for _ in 0..16 {
            let Message::Simple { error: 0, cookie } = client.message() else {
                panic!("an error");
            };
            seen |= 1 << cookie;
        }
        assert_eq!(seen, 0xFFFF);
    }
    for at in 0..16u64 {
        client.request(0, cmd::READ, at, at << 16, 1 << 16);
        assert_eq!(
            client.message(),
            Message::Simple {
                error: 0,
                cookie: at
            }
        );
        assert!(client.bytes(1 << 16) == noise(19 * 16 + at, 1 << 16));
    }
    // Agreed under TLS they count.
    let mut extended = encrypted(
        Client::greeted(TcpStream::connect(&address).unwrap().into(), 3),
        &certificates,
    );
    extended.negotiate_extended("zram0");
    extended.go("zram0");
    assert!(extended.read(0, 1 << 20).data[..1 << 16] == noise(19 * 16, 1 << 16));
    let size = device.size_bytes();
    assert_eq!(extended.long_command(0, cmd::TRIM, 0, size).error, 0);
    drop(extended);
    // What was received is answered before a server stops, and the end is one that TLS knows.
    client.request(0, cmd::FLUSH, 99, 0, 0);
    std::thread::sleep(Duration::from_millis(100));
    server.shutdown().unwrap();
    assert_eq!(
        client.message(),
        Message::Simple {
            error: 0,
            cookie: 99
        }
    );
    assert_eq!(client.stream.read(&mut [0]).unwrap(), 0);
}

#[test]
fn a_server_without_certificates_says_that_it_has_no_tls() {
    let fixture = Fixture::new(MIB);
    let mut client = fixture.haggling();
    assert_eq!(client.verdict(opt::STARTTLS, &[]), rep::ERR_UNSUP);
    client.go("zram0");
    fixture.stop();
}
