//! `uzram send` and `uzram receive`: a device goes to another host, here another run directory, while it is written to. Whatever
//! fails, it is in one place, with all that was acknowledged.

mod common;

use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStderr, Command, Output, Stdio};
use std::sync::atomic::AtomicBool;
use std::sync::atomic::Ordering::SeqCst;
use std::time::{Duration, Instant};

use common::{Bench, needs, sh, text};
use uzram_testkit::certificates::Authority;

const SIZE: u64 = 64 << 20;
/// Bytes that are written at once: 1024 places.
const PIECE: u64 = 64 << 10;

/// Two hosts, and a device on the first.
struct Hosts {
    here: Bench,
    there: Bench,
    uri: String,
}

impl Hosts {
    fn new() -> Hosts {
        let (here, there) = (Bench::new(), Bench::new());
        let size = SIZE.to_string();
        let uri = here.create(&["--size", &size, "--frontend=nbd", "--policy=none"]);
        let data = here.path("data");
        fs::write(&data, text(8192)).unwrap();
        let data = data.display();
        sh(&format!("qemu-img convert -n -f raw -O raw {data} '{uri}'"));
        Hosts { here, there, uri }
    }

    fn data(&self) -> PathBuf {
        self.here.path("data")
    }

    /// A script that takes the device there.
    fn receive(&self) -> String {
        let program = env!("CARGO_BIN_EXE_uzram");
        let run = self.there.run_dir();
        format!(
            "UZRAM_RUN_DIR='{}' '{program}' receive --frontend nbd --policy none",
            run.display()
        )
    }

    fn send(&self, args: &[&str], script: &str) -> Output {
        let all = [&["send", "zram0"], args, &["--", "sh", "-c", script]].concat();
        self.here.output(&all)
    }

    /// Whether all of a device is what a file holds.
    fn is_same(&self, uri: &str, file: &std::path::Path) -> bool {
        let file = file.to_str().unwrap();
        let args = ["compare", "-f", "raw", "-F", "raw", file, uri];
        Command::new("qemu-img")
            .args(args)
            .status()
            .unwrap()
            .success()
    }

    fn is_still_here(&self) {
        assert!(write(&self.uri, 3, 1));
        let begin = fs::read(self.data()).unwrap();
        let mut now = begin.clone();
        now[3 * PIECE as usize..][..PIECE as usize].fill(1);
        fs::write(self.data(), &now).unwrap();
        assert!(self.is_same(&self.uri, &self.data()));
        self.there.assert_clean();
    }
}

/// Writes a piece. Whether it was acknowledged.
fn write(uri: &str, piece: u64, pattern: u8) -> bool {
    let command = format!("write -P {pattern} {} {PIECE}", piece * PIECE);
    let mut io = Command::new("qemu-io");
    io.args(["-f", "raw", "-t", "none", "-c", &command, uri]);
    let output = io.stderr(Stdio::null()).output().unwrap();
    let words = String::from_utf8_lossy(&output.stdout).into_owned();
    output.status.success() && words.contains("wrote") && !words.contains("rror")
}

#[test]
fn a_device_that_is_written_to_arrives_with_all_that_was_acknowledged() {
    needs!(&["qemu-img", "qemu-io"]);
    let hosts = Hosts::new();
    let stop = AtomicBool::new(false);
    let (sent, mut expected, maybe) = std::thread::scope(|scope| {
        let (uri, data, stop) = (&hosts.uri, hosts.data(), &stop);
        let writer = scope.spawn(move || {
            let mut expected = fs::read(data).unwrap();
            let mut number = 0u64;
            while !stop.load(SeqCst) {
                number += 1;
                let (piece, pattern) = (number * 37 % (32 << 20 >> 16), (number % 250) as u8 + 1);
                if !write(uri, piece, pattern) {
                    // It is gone from here; this one may have arrived or not.
                    return (expected, Some((piece, pattern)));
                }
                expected[(piece * PIECE) as usize..][..PIECE as usize].fill(pattern);
            }
            (expected, None)
        });
        std::thread::sleep(Duration::from_millis(300));
        let sent = hosts.send(&[], &hosts.receive());
        stop.store(true, SeqCst);
        let (expected, maybe) = writer.join().unwrap();
        (sent, expected, maybe)
    });
    let words = String::from_utf8_lossy(&sent.stderr).into_owned();
    assert!(sent.status.success(), "{words}");
    assert!(words.contains("is handed over"), "{words}");
    let path = String::from_utf8(sent.stdout).unwrap();
    let file = hosts.here.path("expected");
    fs::write(&file, &expected).unwrap();
    let mut is_same = hosts.is_same(path.trim(), &file);
    if let (false, Some((piece, pattern))) = (is_same, maybe) {
        expected[(piece * PIECE) as usize..][..PIECE as usize].fill(pattern);
        fs::write(&file, &expected).unwrap();
        is_same = hosts.is_same(path.trim(), &file);
    }
    assert!(is_same, "{words}");
    hosts.here.assert_clean();
    // And back, by a socket.
    let socket = hosts.here.path("peer.sock");
    let address = format!("unix:{}", socket.display());
    let mut waiting = hosts
        .here
        .command(&["receive", "--from", &address, "--frontend=nbd"]);
    let waiting = waiting.stdout(Stdio::piped()).spawn().unwrap();
    let begin = Instant::now();
    while !socket.exists() {
        assert!(begin.elapsed() < Duration::from_secs(20));
        std::thread::sleep(Duration::from_millis(10));
    }
    let mode = fs::metadata(&socket).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o600);
    hosts.there.uzram(&["send", "zram0", "--to", &address]);
    let back = waiting.wait_with_output().unwrap();
    let back = String::from_utf8(back.stdout).unwrap();
    assert!(hosts.is_same(back.trim(), &file));
    assert!(!socket.exists());
    hosts.there.assert_clean();
    hosts.here.remove_last("zram0");
}

#[test]
fn where_the_other_side_fails_the_device_goes_on_here() {
    needs!(&["qemu-img", "qemu-io"]);
    let hosts = Hosts::new();
    let receive = hosts.receive();
    for (args, script, said) in [
        (&[][..], "exit 0", "takes nothing more"),
        (&[], "head -c 100000 >/dev/null", "takes nothing more"),
        (&[], "cat >/dev/null", "has made no device"),
        (
            &["--patience=1"],
            "cat >/dev/null; sleep 5",
            "has said nothing for 1 s",
        ),
        (&[], &format!("head -c 200000 | {receive}"), ""),
        // All arrives, and what goes on there is another device's business.
        (&[], "exec 0<&-; sleep 1", "takes nothing more"),
    ] {
        let output = hosts.send(args, script);
        let words = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status.code(), Some(1), "{script}: {words}");
        assert!(words.contains(said), "{script}: {words}");
        hosts.is_still_here();
    }
    let nobody = hosts
        .here
        .fails(2, &["send", "zram0", "--to", "unix:/no/such"]);
    assert!(nobody.contains("/no/such"), "{nobody}");
    hosts
        .here
        .fails(2, &["send", "zram0", "--", "/no/such/program"]);
    hosts.here.fails(2, &["send", "zram0"]);
    hosts.is_still_here();
    // Its server dies while writes wait: the next one has no gate.
    let mut sending =
        hosts
            .here
            .command(&["send", "zram0", "--", "sh", "-c", "cat >/dev/null; sleep 3"]);
    let sending = sending.stderr(Stdio::piped()).spawn().unwrap();
    std::thread::sleep(Duration::from_secs(1));
    hosts.here.kill("zram0", "pid");
    let ended = sending.wait_with_output().unwrap();
    assert!(!ended.status.success());
    hosts.is_still_here();
    hosts.here.remove_last("zram0");
}

/// A connection that ends anywhere, between two rounds as well, leaves nothing on the other side.
#[test]
fn what_is_cut_off_makes_no_device() {
    needs!(&["qemu-img", "qemu-io"]);
    let hosts = Hosts::new();
    let whole = hosts.here.path("whole");
    let script = format!("tee '{}' | {}", whole.display(), hosts.receive());
    let sent = hosts.send(&[], &script);
    assert!(
        sent.status.success(),
        "{}",
        String::from_utf8_lossy(&sent.stderr)
    );
    let path = String::from_utf8(sent.stdout).unwrap();
    assert!(hosts.is_same(path.trim(), &hosts.data()));
    hosts.there.uzram(&["remove", "zram0"]);

    let bytes = fs::read(&whole).unwrap();
    // Where a snapshot ends and the next begins: by the head's magic.
    let magic = &bytes[..8];
    let begins: Vec<usize> = (1..bytes.len() - 8)
        .filter(|at| &bytes[*at..*at + 8] == magic)
        .collect();
    assert!(!begins.is_empty());
    let mut lengths = begins.clone();
    lengths.extend(begins.iter().flat_map(|at| [at - 1, at + 1]));
    lengths.extend([0, 1, 100, bytes.len() / 2, bytes.len() - 1]);
    let file = hosts.here.path("cut");
    for length in lengths {
        fs::write(&file, &bytes[..length]).unwrap();
        let script = format!("{} < '{}'", hosts.receive(), file.display());
        let output = Command::new("sh").args(["-c", &script]).output().unwrap();
        let words = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(
            !output.status.success(),
            "{length} of {}: {words}",
            bytes.len()
        );
        hosts.there.assert_clean();
    }
}

/// `uzram receive` that waits for TLS, and where.
struct Waiting(Child, BufReader<ChildStderr>, String);

impl Waiting {
    fn new(hosts: &Hosts, certificates: &Path) -> Waiting {
        let mut command = hosts
            .there
            .command(&["receive", "--from", "tls:127.0.0.1:0"]);
        command.args(["--frontend=nbd", "--policy=none", "--certificates"]);
        let command = command.arg(certificates).stdout(Stdio::piped());
        let mut child = command.stderr(Stdio::piped()).spawn().unwrap();
        let mut words = BufReader::new(child.stderr.take().unwrap());
        let mut line = String::new();
        words.read_line(&mut line).unwrap();
        let (_, address) = line.trim().split_once("waits at ").expect("an address");
        let address = address.to_owned();
        Waiting(child, words, address)
    }

    /// The next line that it says.
    fn says(&mut self) -> String {
        let mut line = String::new();
        self.1.read_line(&mut line).unwrap();
        line
    }

    fn end(mut self) -> Output {
        let mut stdout = Vec::new();
        let mut out = self.0.stdout.take().unwrap();
        out.read_to_end(&mut stdout).unwrap();
        Output {
            status: self.0.wait().unwrap(),
            stdout,
            stderr: Vec::new(),
        }
    }
}

impl Drop for Waiting {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[test]
fn by_tls_both_sides_show_who_they_are() {
    needs!(&["qemu-img", "qemu-io", "openssl"]);
    let hosts = Hosts::new();
    let authority = |name: &str| {
        let dir = hosts.here.path(name);
        fs::create_dir(&dir).unwrap();
        Authority::new(&dir)
    };
    let (ours, others) = (authority("ours"), authority("others"));
    let server = ours.vouch("server", "serverAuth");
    let client = ours.vouch("client", "clientAuth");
    let stranger = others.vouch("client", "clientAuth");
    // Vouched for by others, and believing ours.
    let intruder = others.vouch("client", "clientAuth");
    fs::copy(client.join("ca-cert.pem"), intruder.join("ca-cert.pem")).unwrap();
    let send = |address: &str, certificates: &Path| {
        let mut command = hosts.here.command(&["send", "zram0", "--to", address]);
        command
            .arg("--certificates")
            .arg(certificates)
            .output()
            .unwrap()
    };

    let mut waiting = Waiting::new(&hosts, &server);
    let address = waiting.2.clone();
    // Who speaks no TLS, whom the sender does not know, and who is not known there: nobody gets or gives anything.
    let plain = address.strip_prefix("tls:").unwrap();
    let mut plain = std::net::TcpStream::connect(plain).unwrap();
    plain.write_all(b"GET / HTTP/1.0\r\n\r\n").unwrap();
    assert!(waiting.says().contains("is refused"));
    for (certificates, here, there) in [
        (&stranger, "invalid peer certificate", "fatal alert"),
        (&intruder, "fatal alert", "invalid peer certificate"),
    ] {
        let output = send(&address, certificates);
        let words = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status.code(), Some(1), "{words}");
        assert!(words.contains(here), "{words}");
        let words = waiting.says();
        assert!(
            words.contains("is refused") && words.contains(there),
            "{words}"
        );
    }
    hosts.is_still_here();
    let sent = send(&address, &client);
    let words = String::from_utf8_lossy(&sent.stderr).into_owned();
    assert!(sent.status.success(), "{words}");
    let ended = waiting.end();
    assert!(ended.status.success());
    assert_eq!(ended.stdout, sent.stdout);
    let path = String::from_utf8(sent.stdout).unwrap();
    assert!(hosts.is_same(path.trim(), &hosts.data()));
    hosts.here.assert_clean();

    // What is wrong with options and files is said before anything begins.
    for (args, said) in [
        (&["--to", "tls:127.0.0.1:1"][..], "--certificates DIR"),
        (&["--to", "unix:/x", "--certificates", "/"], "is for tls"),
        (
            &["--to", "tls:127.0.0.1:1", "--certificates", "/no"],
            "/no/client-cert.pem",
        ),
        (&["--to", "tcp:127.0.0.1:1"], "tls:HOST:PORT"),
    ] {
        let words = hosts.there.fails(2, &[&["send", "zram0"], args].concat());
        assert!(words.contains(said), "{words}");
    }
    hosts.there.remove_last("zram0");
}

#[test]
fn a_connection_by_tls_that_is_cut_leaves_the_device_here() {
    needs!(&["qemu-img", "qemu-io", "openssl"]);
    let hosts = Hosts::new();
    let authority = Authority::new(hosts.here.path("").as_path());
    let server = authority.vouch("server", "serverAuth");
    let client = authority.vouch("client", "clientAuth");
    for most in [100u64, 5000, 300_000] {
        let waiting = Waiting::new(&hosts, &server);
        let to = waiting.2.strip_prefix("tls:").unwrap().to_owned();
        let between = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let address = format!("tls:{}", between.local_addr().unwrap());
        let output = std::thread::scope(|scope| {
            scope.spawn(|| {
                let (here, _) = between.accept().unwrap();
                let there = std::net::TcpStream::connect(&to).unwrap();
                scope.spawn({
                    let (mut from, mut to) =
                        (there.try_clone().unwrap(), here.try_clone().unwrap());
                    move || drop(std::io::copy(&mut from, &mut to))
                });
                let _ = std::io::copy(&mut (&here).take(most), &mut &there);
                for side in [&here, &there] {
                    let _ = side.shutdown(std::net::Shutdown::Both);
                }
            });
            let mut command = hosts.here.command(&["send", "zram0", "--to", &address]);
            command.arg("--certificates").arg(&client).output().unwrap()
        });
        assert_eq!(output.status.code(), Some(1), "{most}: {output:?}");
        match most {
            // Nobody has shown who he is: it waits on.
            100 => drop(waiting),
            _ => assert!(!waiting.end().status.success(), "{most}"),
        }
        hosts.is_still_here();
    }
    hosts.here.remove_last("zram0");
}

#[test]
fn a_device_in_use_stays() {
    needs!(&["mkfs.ext4"], fuse_loop);
    let bench = Bench::new();
    let node = bench.create(&["--size=64M", "--frontend=fuse-loop"]);
    let mount = bench.path("mnt");
    fs::create_dir(&mount).unwrap();
    sh(&format!(
        "mkfs.ext4 -q {node} && mount {node} {}",
        mount.display()
    ));
    let refused = bench.fails(3, &["send", "zram0", "--", "cat"]);
    assert!(refused.contains("umount it first"), "{refused}");
    sh(&format!("umount {}", mount.display()));
    bench.remove_last("zram0");
}
