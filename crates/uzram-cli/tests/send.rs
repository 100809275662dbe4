//! `uzram send` and `uzram receive`: a device goes to another host, here another run directory, while it is written to. Whatever
//! fails, it is in one place, with all that was acknowledged.

mod common;

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use std::process::{Command, Output, Stdio};
use std::sync::atomic::AtomicBool;
use std::sync::atomic::Ordering::SeqCst;
use std::time::{Duration, Instant};

use common::{Bench, needs, sh, text};

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
