//! `uzram nbd`: several devices at one address, by the program and by the clients that people use.

mod common;

use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use common::nbd::{connect, read};
use common::{Bench, needs, sh, text};
use uzram_testkit::certificates::Authority;

/// The program in front of devices; dropped, it is told to end.
struct Front {
    process: Child,
    uris: Vec<String>,
}

impl Front {
    fn start(bench: &Bench, args: &[&str]) -> Front {
        let exports = args.iter().filter(|arg| **arg == "--export").count();
        let mut process = bench
            .command(&[&["nbd"], args].concat())
            .stdout(Stdio::piped())
            .stderr(Stdio::inherit())
            .spawn()
            .unwrap();
        let lines = BufReader::new(process.stdout.take().unwrap()).lines();
        let uris = lines.take(exports).map(Result::unwrap).collect();
        Front { process, uris }
    }

    /// Ends it as a service manager does.
    fn stop(mut self) {
        sh(&format!("kill {}", self.process.id()));
        assert!(self.process.wait().unwrap().success());
    }
}

impl Drop for Front {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// Runs a client, which must work, and gives what it printed.
fn peer(program: &str, args: &[&str]) -> String {
    let output = Command::new(program).args(args).output().unwrap();
    assert!(output.status.success(), "{program} {args:?}: {output:?}");
    String::from_utf8_lossy(&output.stdout).into_owned()
}

/// What a client that is refused says.
fn refused(uri: &str) -> String {
    // It says what the server says.
    let output = Command::new("qemu-img").args(["info", uri]).output();
    let output = output.unwrap();
    assert!(!output.status.success(), "{uri}: {output:?}");
    String::from_utf8_lossy(&output.stderr).into_owned()
}

#[test]
fn clients_list_the_devices_and_each_has_its_own() {
    needs!(&["nbdinfo", "nbdcopy", "qemu-img", "qemu-io"]);
    let bench = Bench::new();
    let nbd = ["--frontend", "nbd", "--description"];
    bench.create(&[&["--size", "16M"], &nbd[..], &["first disk"]].concat());
    bench.create(&[&["--size", "24M"], &nbd[..], &["second"]].concat());
    let listen = format!("unix:{}", bench.path("front.sock").display());
    let exports = ["--export", "a=b=zram1", "--export", "zram0"];
    let front = Front::start(&bench, &[&["--listen", &listen], &exports[..]].concat());
    let socket = format!("?socket={}", bench.path("front.sock").display());
    assert_eq!(
        front.uris,
        [
            format!("nbd+unix:///a%3Db{socket}"),
            format!("nbd+unix:///zram0{socket}")
        ]
    );
    let list = peer("nbdinfo", &["--list", &format!("nbd+unix:///{socket}")]);
    for part in [
        "export=\"a=b\"",
        "export=\"zram0\"",
        "first disk",
        "second",
        "25165824",
        "base:allocation",
    ] {
        assert!(list.contains(part), "{part}: {list}");
    }
    assert!(list.find("a=b") < list.find("zram0"), "{list}");
    let default = peer("nbdinfo", &["--size", &format!("nbd+unix:///{socket}")]);
    assert_eq!(default.trim(), "25165824");

    let images = [text(6144), text(4096).into_iter().rev().collect()];
    for (uri, image) in front.uris.iter().zip(&images) {
        let (source, target) = (bench.path("in"), bench.path("out"));
        fs::write(&source, image).unwrap();
        peer("nbdcopy", &["--flush", source.to_str().unwrap(), uri]);
        peer("nbdcopy", &[uri, target.to_str().unwrap()]);
        assert!(fs::read(&target).unwrap() == *image);
        fs::remove_file(target).unwrap();
    }
    // What was written through the front is what the device's own clients read.
    let own = bench.stat("zram0")["path"].as_str().unwrap().to_owned();
    let target = bench.path("own");
    peer("nbdcopy", &[&own, target.to_str().unwrap()]);
    assert!(fs::read(target).unwrap() == images[1]);
    let io = [
        "-f",
        "raw",
        "-c",
        "write -P 0xa5 1M 1M",
        "-c",
        "read -P 0xa5 1M 1M",
        "-c",
        "write -z 1M 64k",
        "-c",
        "read -P 0 1M 64k",
        "-c",
        "discard 0 1M",
    ];
    let said = peer("qemu-io", &[&io[..], &[&front.uris[1]]].concat());
    assert!(!said.contains("failed"), "{said}");
    let no = refused(&format!("nbd+unix:///zram1{socket}"));
    assert!(no.contains("no export has this name"), "{no}");
    front.stop();
    assert!(!bench.path("front.sock").exists());
    bench.uzram(&["remove", "--all"]);
    bench.assert_clean();
}

#[test]
fn servers_die_and_are_upgraded_behind_it_and_clients_come_back() {
    let bench = Bench::new();
    for _ in 0..2 {
        bench.create(&["--size", "16M", "--frontend", "nbd"]);
    }
    let socket = bench.path("front.sock");
    let listen = format!("unix:{}", socket.display());
    let exports = ["--export", "one=zram0", "--export", "two=zram1"];
    let front = Front::start(&bench, &[&["--listen", &listen], &exports[..]].concat());
    let mut other = connect(&socket, "two").unwrap();
    for act in ["upgrade", "kill", "upgrade"] {
        let mut client = connect(&socket, "one").unwrap();
        let mut message = 0x2560_9513_u32.to_be_bytes().to_vec();
        message.extend([0, 0, 0, 1]);
        message.extend([0; 16]);
        message.extend(512_u32.to_be_bytes());
        message.extend([act.len() as u8; 512]);
        client.write_all(&message).unwrap();
        client.read_exact(&mut [0; 16]).unwrap();
        assert_eq!(bench.count("zram0", "clients"), 1);
        // A client that comes back as often as it can, as libnbd and QEMU do: none is refused meanwhile, only waits or is cut off.
        let stop = std::sync::atomic::AtomicBool::new(false);
        std::thread::scope(|scope| {
            scope.spawn(|| {
                while !stop.load(std::sync::atomic::Ordering::Relaxed) {
                    if let Some(mut again) = connect(&socket, "one") {
                        let _ = read(&mut again, 4096);
                    }
                    std::thread::sleep(Duration::from_millis(2));
                }
            });
            match act {
                "kill" => bench.kill("zram0", "pid"),
                _ => drop(bench.uzram(&["upgrade", "zram0"])),
            }
            stop.store(true, std::sync::atomic::Ordering::Relaxed);
        });
        assert!(read(&mut client, 512).is_err(), "{act} ends connections");
        let mut again = connect(&socket, "one").unwrap();
        assert_eq!(read(&mut again, 512).unwrap(), [act.len() as u8; 512]);
        assert_eq!(read(&mut other, 4).unwrap(), [0; 4], "the other is in use");
    }
    // The front may go: who is connected stays so, and a new one takes its place.
    front.stop();
    assert_eq!(read(&mut other, 4).unwrap(), [0; 4]);
    let front = Front::start(&bench, &[&["--listen", &listen], &exports[..]].concat());
    assert!(connect(&socket, "").is_some());
    let said = bench.fails(3, &["remove", "zram1"]);
    assert!(said.contains("1 NBD client is connected: pid "), "{said}");
    drop(other);
    bench.uzram(&["remove", "zram1"]);
    drop(front);
    bench.uzram(&["remove", "--all"]);
    bench.assert_clean();
}

#[test]
fn a_device_that_goes_is_not_offered_until_there_is_one_again() {
    needs!(&["nbdinfo", "qemu-img"]);
    let bench = Bench::new();
    for _ in 0..2 {
        bench.create(&["--size", "16M", "--frontend", "nbd"]);
    }
    let path = bench.path("front.sock");
    let listen = format!("unix:{}", path.display());
    let exports = ["--export", "zram0", "--export", "zram1"];
    let front = Front::start(&bench, &[&["--listen", &listen], &exports[..]].concat());
    bench.uzram(&["remove", "zram0"]);
    let said = refused(&front.uris[0]);
    assert!(said.contains("zram0 is not there"), "{said}");
    let all = format!("nbd+unix:///?socket={}", path.display());
    let list = peer("nbdinfo", &["--list", &all]);
    assert!(list.contains("zram1") && !list.contains("zram0"), "{list}");
    assert_eq!(
        peer("nbdinfo", &["--size", &front.uris[1]]).trim(),
        "16777216"
    );
    // A server that stands still holds up its own clients only.
    let pid = bench.count("zram1", "pid");
    bench.create(&["--size", "32M", "--frontend", "nbd"]);
    sh(&format!("kill -STOP {pid}"));
    let begin = Instant::now();
    assert_eq!(
        peer("nbdinfo", &["--size", &front.uris[0]]).trim(),
        "33554432"
    );
    assert!(begin.elapsed() < Duration::from_secs(2));
    let list = peer("nbdinfo", &["--list", &all]);
    sh(&format!("kill -CONT {pid}"));
    assert!(list.contains("zram0") && !list.contains("zram1"), "{list}");
    assert_eq!(
        peer("nbdinfo", &["--size", &front.uris[1]]).trim(),
        "16777216"
    );
    drop(front);
    bench.uzram(&["remove", "--all"]);
    bench.assert_clean();
}

#[test]
fn who_may_connect_is_decided_in_front() {
    needs!(&["nbdinfo", "qemu-img"]);
    let bench = Bench::new();
    bench.create(&["--size", "16M", "--frontend", "nbd", "--read-only"]);
    bench.create(&["--size", "16M", "--frontend", "nbd"]);
    let exports = ["--export", "zram0", "--export", "zram1"];
    let tcp = ["--listen", "tcp:127.0.0.1:0"];
    let nobody = ["--allow", "192.0.2.0/24"];
    let front = Front::start(&bench, &[&tcp[..], &exports, &nobody].concat());
    let said = refused(&front.uris[0]);
    assert!(said.contains("127.0.0.1 may not use this disk"), "{said}");
    front.stop();
    let front = Front::start(
        &bench,
        &[&tcp[..], &exports, &["--allow", "127.0.0.1"]].concat(),
    );
    let is_read_only = |uri: &str| peer("nbdinfo", &["--is", "read-only", uri]);
    is_read_only(&front.uris[0]);
    let writable = Command::new("nbdinfo")
        .args(["--is", "read-only", &front.uris[1]])
        .status();
    assert_eq!(writable.unwrap().code(), Some(2), "a device that is not");
    front.stop();
    let front = Front::start(&bench, &[&tcp[..], &exports, &["--read-only"]].concat());
    is_read_only(&front.uris[1]);
    front.stop();
    bench.uzram(&["remove", "--all"]);
    bench.assert_clean();
}

#[test]
fn what_makes_no_sense_is_refused_and_leaves_no_socket() {
    let bench = Bench::new();
    bench.create(&["--size", "16M", "--frontend", "nbd"]);
    bench.create(&["--size", "16M", "--frontend", "vhost-user"]);
    let path = bench.path("front.sock");
    let listen = format!("unix:{}", path.display());
    let fails = |code: i32, options: &[&str], words: &str| {
        let all = [&["nbd", "--listen", &listen][..], options].concat();
        let said = bench.fails(code, &all);
        assert!(said.contains(words), "{options:?}: {said}");
        assert!(!path.exists());
    };
    fails(2, &[], "--export");
    fails(2, &["--export", "=zram0"], "NAME=DEVICE");
    fails(2, &["--export", "x="], "NAME=DEVICE");
    fails(2, &["--export", "x\u{1b}=zram0"], "control characters");
    fails(4, &["--export", "zram7"], "zram7");
    fails(5, &["--export", "zram1"], "served by vhost-user");
    let twice = ["--export", "x=zram0", "--export", "x=zram0"];
    fails(2, &twice, "two exports are named \"x\"");
    let long = format!("{}=zram0", "x".repeat(4097));
    fails(2, &["--export", &long], "4096 bytes");
    fails(
        2,
        &["--export", "zram0", "--allow", "127.0.0.1"],
        "over tcp",
    );
    fails(
        2,
        &["--export", "zram0", "--tls", "on"],
        "needs certificates",
    );
    fails(
        2,
        &["--export", "zram0", "--tls-certificates", "/nowhere"],
        "/nowhere",
    );
    let open = ["nbd", "--listen", "tcp:0.0.0.0:0", "--export", "zram0"];
    bench.fails(2, &open);
    let said = bench.fails(2, &[&open[..], &["--allow-remote"]].concat());
    assert!(said.contains("--insecure"), "{said}");
    // One device may have two names, and an address one server.
    let front = Front::start(
        &bench,
        &[
            "--listen", &listen, "--export", "x=zram0", "--export", "y=zram0",
        ],
    );
    assert!(connect(&path, "x").is_some() && connect(&path, "y").is_some());
    let second = ["nbd", "--listen", &listen, "--export", "zram0"];
    let said = bench.fails(3, &second);
    assert!(said.contains("is in use"), "{said}");
    assert!(connect(&path, "x").is_some(), "the first one is unharmed");
    front.stop();
    bench.uzram(&["remove", "--all", "--force"]);
    bench.assert_clean();
}

#[test]
fn tls_ends_in_front_and_the_devices_are_behind_it() {
    needs!(&["openssl", "nbdinfo", "nbdcopy", "qemu-img"]);
    let bench = Bench::new();
    let authority = Authority::new(bench.path("").as_path());
    let certificates = authority.vouch("server", "serverAuth");
    let client = authority.vouch("client", "clientAuth");
    for size in ["16M", "24M"] {
        bench.create(&["--size", size, "--frontend", "nbd"]);
    }
    let pki = certificates.to_str().unwrap();
    let tls = ["--tls-certificates", pki, "--tls-verify-peer"];
    let listen = ["--listen", "tcp:127.0.0.1:0"];
    let exports = ["--export", "one=zram0", "--export", "two=zram1"];
    let front = Front::start(&bench, &[&listen[..], &tls, &exports].concat());
    let secure = |uri: &str, client: &Path| {
        let uri = uri.replace("127.0.0.1", "localhost");
        format!("{uri}?tls-certificates={}", client.display())
    };
    let uris: Vec<_> = front.uris.iter().map(|uri| secure(uri, &client)).collect();
    assert!(uris[0].starts_with("nbds://"), "{uris:?}");
    assert_eq!(peer("nbdinfo", &["--size", &uris[1]]).trim(), "25165824");
    for (uri, pages) in uris.iter().zip([4096, 6144]) {
        let (source, target) = (bench.path("in"), bench.path("out"));
        let image = text(pages);
        fs::write(&source, &image).unwrap();
        let several = ["--connections", "4", "--flush"];
        let (from, to) = (source.to_str().unwrap(), target.to_str().unwrap());
        peer("nbdcopy", &[&several[..], &[from, uri]].concat());
        peer("nbdcopy", &[&several[..], &[uri, to]].concat());
        assert!(fs::read(&target).unwrap() == image);
        fs::remove_file(target).unwrap();
    }
    // Neither in the open nor without a certificate of its own.
    let said = refused(&front.uris[0].replace("nbds:", "nbd:"));
    assert!(said.contains("TLS"), "{said}");
    let without = Command::new("nbdinfo")
        .args(["--size", &secure(&front.uris[0], &certificates)])
        .output();
    assert!(!without.unwrap().status.success());
    front.stop();
    // No connection is left at a device.
    bench.uzram(&["remove", "zram0"]);
    // A device that has certificates of its own is there for clients with TLS alone, whoever negotiates.
    let own = ["--size", "32M", "--listen", "tcp:127.0.0.1:0"];
    let own_tls = ["--tls-certificates", pki];
    bench.create(&[&own[..], &own_tls, &["--tls-verify-peer"]].concat());
    let only = ["--export", "zram0"];
    let fails = |tls: &[&str], words: &str| {
        let said = bench.fails(5, &[&["nbd"][..], &listen, &only, tls].concat());
        assert!(said.contains(words), "{said}");
    };
    fails(&[], "export zram0: it serves only clients with TLS");
    fails(
        &own_tls,
        "by the same ca-cert.pem and ca-crl.pem as its own",
    );
    let front = Front::start(&bench, &[&listen[..], &tls, &only].concat());
    let uri = secure(&front.uris[0], &client);
    assert_eq!(peer("nbdinfo", &["--size", &uri]).trim(), "33554432");
    let said = refused(&front.uris[0].replace("nbds:", "nbd:"));
    assert!(said.contains("TLS"), "{said}");
    front.stop();
    bench.uzram(&["remove", "--all"]);
    bench.assert_clean();
}
