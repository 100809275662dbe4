//! Nobody loses a device that he uses: every command knows who uses it, however the use is hidden, and a refusal changes
//! nothing.

mod common;

use std::io::Read;
use std::os::unix::fs::FileExt;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use common::{Bench, needs, sh};

/// A device of 256 MiB on fuse-loop, with a directory to mount it at.
struct Disk {
    bench: Bench,
    node: String,
    at: PathBuf,
}

impl Disk {
    fn new(options: &[&str]) -> Disk {
        let bench = Bench::new();
        let node = bench.create(&[&["--size=256M", "--frontend=fuse-loop"], options].concat());
        let at = bench.path("mounted");
        std::fs::create_dir(&at).unwrap();
        Disk { bench, node, at }
    }

    /// One whose file system is mounted.
    fn mounted(kind: &str) -> Disk {
        let disk = Disk::new(&[]);
        disk.mount(kind, &disk.node);
        disk
    }

    fn mount(&self, kind: &str, node: &str) {
        // ext4 asks whether it may, btrfs talks, and fails where another test has a dead mount at this moment.
        sh(&format!(
            "for try in $(seq 100); do mkfs.{kind} -q {node} && exec mount {node} {}; sleep 0.1; done; exit 1",
            self.at.display()
        ));
    }

    fn umount(&self) {
        // What was there lately, such as udev, may still be on its way out.
        sh(&format!(
            "for try in 1 2 3 4 5 6 7 8 9; do umount {0} && exit 0; sleep 0.2; done; exit 1",
            self.at.display()
        ));
    }

    /// Demands that the device cannot be taken from its user, that the message says these words, and that nothing has
    /// changed.
    fn is_used(&self, words: &[&str]) {
        let before = self.looks();
        for command in [
            &["remove", "zram0"][..],
            &["reset", "zram0"],
            &["set", "zram0", "disksize=128M"],
            &["upgrade", "zram0"],
        ] {
            let said = self.bench.fails(3, command);
            for word in words {
                assert!(said.contains(word), "{command:?}: '{word}' in: {said}");
            }
        }
        let said = self.bench.fails(3, &["remove", "--force", "zram0"]);
        assert!(said.contains(words[0]), "{said}");
        assert_eq!(self.looks(), before, "after refusals");
        let stat = self.bench.uzram(&["stat", "zram0"]);
        assert!(words.iter().all(|word| stat.contains(word)), "{stat}");
    }

    /// What the kernel and the program tell of the device.
    fn looks(&self) -> String {
        let loops = sh(&format!(
            "losetup --raw -l -n -O NAME,AUTOCLEAR,PARTSCAN,BACK-FILE | grep {} || true",
            self.bench.run_dir().display()
        ));
        let stat = self.bench.stat("zram0");
        format!("{loops} {} {}", stat["disksize"], stat["pid"])
    }

    fn mountpoint(&self) -> String {
        let args = ["list", "--noheadings", "--raw", "--output=mountpoint"];
        self.bench.uzram(&args).trim().to_owned()
    }

    fn remove(&self) {
        // A test beside this one may have copied the mount into its namespace, or look at every loop device.
        let begin = Instant::now();
        loop {
            let removed = self.bench.output(&["remove", "zram0"]);
            let error = String::from_utf8_lossy(&removed.stderr);
            if removed.status.success() {
                break;
            }
            let in_use = removed.status.code() == Some(3);
            assert!(in_use && begin.elapsed() < LONGEST, "{error}");
            std::thread::sleep(Duration::from_millis(50));
        }
        self.bench.assert_clean();
    }
}

/// Ends with the test.
struct Running(Child);

impl Running {
    /// Starts a shell line and waits until it has printed a line. Gives that line.
    fn start(line: &str) -> (Running, String) {
        let mut child = Command::new("sh")
            .args(["-euc", line])
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut said = String::new();
        let mut out = std::io::BufReader::new(child.stdout.take().unwrap());
        std::io::BufRead::read_line(&mut out, &mut said).unwrap();
        (Running(child), said.trim().to_owned())
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Makes a partition table with one partition, for sectors of 4096 bytes.
fn partition(node: &str, bytes: u64) {
    let mut table = [0u8; 4096];
    table[446 + 4] = 0x83;
    table[446 + 8..446 + 12].copy_from_slice(&256u32.to_le_bytes());
    table[446 + 12..446 + 16].copy_from_slice(&((bytes / 4096) as u32).to_le_bytes());
    table[510..512].copy_from_slice(&[0x55, 0xAA]);
    let disk = std::fs::OpenOptions::new().write(true).open(node).unwrap();
    disk.write_all_at(&table, 0).unwrap();
    disk.sync_all().unwrap();
    drop(disk);
    // The kernel need not know this kind of table: partx tells it.
    sh(&format!(
        "test -e {node}p1 || partx --add {node}; test -e {node}p1"
    ));
}

/// How long another test may keep a copy of a mount.
const LONGEST: Duration = Duration::from_secs(60);
const MKFS: &[&str] = &["mkfs.ext4", "mkfs.btrfs", "losetup", "partx", "unshare"];

#[test]
fn a_mounted_file_system_is_found_whatever_it_calls_its_device() {
    needs!(MKFS, fuse_loop);
    for kind in ["ext4", "btrfs"] {
        let disk = Disk::mounted(kind);
        let at = format!("mounted at {}", disk.at.display());
        disk.is_used(&[&at]);
        assert_eq!(disk.mountpoint(), disk.at.display().to_string());
        disk.umount();
        disk.remove();
    }
}

/// An overlay keeps the file system alive when that is not mounted any more itself.
#[test]
fn an_overlay_and_a_lazy_unmount_are_uses() {
    needs!(MKFS, fuse_loop);
    let disk = Disk::mounted("ext4");
    let over = disk.bench.path("over");
    let at = disk.at.display();
    let overlay = format!(
        "mkdir {at}/a {at}/b {0}; mount -t overlay o -o lowerdir={at}/a:{at}/b {0}",
        over.display()
    );
    sh(&overlay);
    disk.is_used(&[
        &format!("mounted at {at}"),
        &format!("mounted at {}", over.display()),
    ]);
    sh(&format!("umount {at}"));
    disk.is_used(&["held by its ext4 file system"]);
    sh(&format!("umount {}", over.display()));
    disk.remove();

    let disk = Disk::mounted("ext4");
    let at = disk.at.display();
    let (sleeper, _) = Running::start(&format!("cd {at}; echo in; exec sleep 600"));
    sh(&format!("umount -l {at}"));
    disk.is_used(&["held by its ext4 file system"]);
    drop(sleeper);
    disk.remove();
}

#[test]
fn a_mount_in_another_namespace_is_found_with_a_process() {
    needs!(MKFS, fuse_loop);
    for kind in ["ext4", "btrfs"] {
        let disk = Disk::mounted(kind);
        let (other, _) = Running::start("exec unshare -m sh -c 'echo there; exec sleep 600'");
        disk.umount();
        let at = format!("mounted at {} in the mount namespace", disk.at.display());
        disk.is_used(&[&at, &format!("process {}", other.0.id()), "sleep"]);
        assert!(disk.mountpoint().contains("namespace of process"));
        drop(other);
        disk.remove();
    }
}

#[test]
fn partitions_are_part_of_the_device_and_go_with_it() {
    needs!(MKFS, fuse_loop);
    let disk = Disk::new(&[]);
    partition(&disk.node, 128 << 20);
    let part = format!("{}p1", disk.node);
    disk.mount("btrfs", &part);
    let words = format!("below {part}, which is mounted at {}", disk.at.display());
    disk.is_used(&[&words]);
    assert_eq!(disk.mountpoint(), disk.at.display().to_string());
    disk.umount();
    let said = disk
        .bench
        .fails(2, &["set", "zram0", &format!("backing={part}")]);
    assert!(
        said.contains(&format!("({part}, on {})", disk.node)),
        "{said}"
    );
    // They go with the table.
    disk.bench.uzram(&["reset", "zram0"]);
    assert!(!Path::new(&part).exists(), "{part} is left by a reset");
    partition(&disk.node, 128 << 20);
    disk.remove();
    assert!(!Path::new(&part).exists(), "{part} is left");

    // One that is in use when the server dies goes when its user lets go.
    let disk = Disk::new(&[]);
    partition(&disk.node, 128 << 20);
    let part = format!("{}p1", disk.node);
    disk.mount("ext4", &part);
    disk.bench.kill("zram0", "pid");
    let words = format!("behind {}, a dead node that is below {part}", disk.node);
    disk.is_used_dead(&words);
    disk.umount();
    disk.remove();
    assert!(!Path::new(&part).exists(), "{part} is left");
}

/// A loop device's number goes to whoever is next, and so would what was left of the last one's partitions.
#[test]
fn another_ones_partitions_do_not_reach_into_a_new_device() {
    needs!(MKFS, fuse_loop);
    let disk = Disk::new(&[]);
    let file = disk.bench.path("file");
    // A number that nobody else takes meanwhile.
    sh(&format!(
        "truncate -s 64M {0}; losetup -b 4096 /dev/loop4091 {0} || {{ mknod /dev/loop4091 b 7 4091; losetup -b 4096 /dev/loop4091 {0}; }}",
        file.display()
    ));
    partition("/dev/loop4091", 32 << 20);
    sh("losetup -d /dev/loop4091; test -e /dev/loop4091p1");
    let node = disk.bench.create(&[
        "--size=64M",
        "--frontend=fuse-loop",
        "--number=4091",
        "--name=zram1",
    ]);
    assert_eq!(node, "/dev/loop4091");
    assert!(!Path::new("/dev/loop4091p1").exists());
    disk.bench.uzram(&["remove", "--all"]);
    disk.bench.assert_clean();
}

#[test]
fn partscan_is_the_loop_devices_or_refused() {
    needs!(MKFS, fuse_loop);
    let disk = Disk::new(&["--partscan"]);
    let scans = |node: &str| sh(&format!("losetup -n -O PARTSCAN {node}"));
    assert_eq!(scans(&disk.node).trim(), "1");
    sh(&format!("blockdev --rereadpt {}", disk.node));
    disk.bench.kill("zram0", "pid");
    let path = disk.bench.stat("zram0")["path"]
        .as_str()
        .unwrap()
        .to_owned();
    assert_eq!(scans(&path).trim(), "1", "after the server's death");
    partition(&path, 128 << 20);
    disk.remove();
    assert!(!Path::new(&format!("{path}p1")).exists());
    let said = disk
        .bench
        .fails(2, &["create", "--size=1M", "--frontend=nbd", "--partscan"]);
    assert!(said.contains("--partscan is for --frontend"), "{said}");
}

/// The driver notes a detach while somebody has the device open, and carries it out when that one goes: it must not be
/// asked before all users are known.
#[test]
fn a_loop_device_on_top_keeps_the_device() {
    needs!(MKFS, fuse_loop);
    let disk = Disk::new(&[]);
    let top = sh(&format!("losetup -f --show {}", disk.node));
    let top = top.trim();
    disk.is_used(&[&format!("below {top}, whose file is {}", disk.node)]);
    sh(&format!("losetup -d {top}"));
    sh(&format!(
        "dd if={} of=/dev/null bs=4096 count=1 iflag=direct status=none",
        disk.node
    ));
    // The file system on the loop device on the device.
    let top = sh(&format!("losetup -f --show {}", disk.node));
    let top = top.trim();
    disk.mount("ext4", top);
    disk.is_used(&[&format!(
        "below {top}, which is mounted at {}",
        disk.at.display()
    )]);
    disk.umount();
    sh(&format!("losetup -d {top}"));
    disk.remove();
}

#[test]
fn an_open_node_is_named_with_its_process() {
    needs!(MKFS, fuse_loop);
    let disk = Disk::new(&[]);
    // By a node of another name.
    let other = disk.bench.path("node");
    let number = disk.node.trim_start_matches("/dev/loop");
    sh(&format!("mknod {} b 7 {number}", other.display()));
    let (opener, _) = Running::start(&format!(
        "exec 3<{}; echo open; exec sleep 600",
        other.display()
    ));
    let id = opener.0.id();
    disk.is_used(&[&format!("open in process {id} (sleep)")]);
    drop(opener);
    disk.remove();
}

impl Disk {
    /// Like [`Disk::is_used`] for a dead node, from which `remove --force` may free the device.
    fn is_used_dead(&self, word: &str) {
        for command in [
            &["remove", "zram0"][..],
            &["reset", "zram0"],
            &["set", "zram0", "disksize=128M"],
            &["upgrade", "zram0"],
        ] {
            let said = self.bench.fails(3, command);
            assert!(said.contains(word), "{command:?}: {said}");
        }
        let stat = self.bench.uzram(&["stat", "zram0"]);
        assert!(stat.contains(word), "{stat}");
    }
}

/// The contents are in the device, and whoever has the dead node mounted has not moved to the new one.
#[test]
fn a_mounted_dead_node_keeps_the_contents() {
    needs!(MKFS, fuse_loop);
    for kind in ["ext4", "btrfs"] {
        let disk = Disk::mounted(kind);
        sh(&format!(
            "echo kept >{0}/f; sync -f {0}/f",
            disk.at.display()
        ));
        let at = disk.at.display().to_string();
        let word = format!("behind {}, a dead node that is mounted at {at}", disk.node);
        // Another death changes nothing.
        for _ in 0..2 {
            disk.bench.kill("zram0", "pid");
            disk.is_used_dead(&word);
            assert_eq!(disk.mountpoint(), format!("{at} (dead {})", disk.node));
            let stat = disk.bench.stat("zram0");
            assert_eq!(stat["mountpoints"][0], at.as_str());
        }
        disk.umount();
        let path = disk.bench.stat("zram0")["path"]
            .as_str()
            .unwrap()
            .to_owned();
        sh(&format!("mount {path} {at}; grep -q kept {at}/f"));
        disk.umount();
        disk.remove();
    }
}

#[test]
fn force_gives_a_dead_node_up_and_says_so() {
    needs!(MKFS, fuse_loop);
    let disk = Disk::mounted("ext4");
    disk.bench.kill("zram0", "pid");
    let output = disk.bench.output(&["remove", "--force", "zram0"]);
    let said = String::from_utf8(output.stderr).unwrap();
    assert!(output.status.success(), "{said}");
    let at = disk.at.display();
    let word = format!("{}, which is dead, stays mounted at {at}", disk.node);
    assert!(said.contains(&word), "{said}");
    disk.umount();
    disk.bench.assert_clean();
}

#[test]
fn force_makes_smaller_what_is_in_use() {
    needs!(MKFS, fuse_loop);
    let disk = Disk::mounted("ext4");
    let said = disk.bench.fails(3, &["set", "zram0", "disksize=255M"]);
    assert!(said.contains("--force"), "{said}");
    let size = || disk.bench.count("zram0", "disksize");
    assert_eq!(size(), 256 << 20);
    // Larger is no loss.
    disk.bench.uzram(&["set", "zram0", "disksize=512M"]);
    assert_eq!(size(), 512 << 20);
    disk.bench
        .uzram(&["set", "zram0", "disksize=300M", "--force"]);
    assert_eq!(size(), 300 << 20);
    assert_eq!(
        sh(&format!("blockdev --getsize64 {}", disk.node)).trim(),
        (300u64 << 20).to_string()
    );
    disk.umount();
    disk.bench.uzram(&["set", "zram0", "disksize=256M"]);
    disk.remove();
}

#[test]
fn clients_of_a_socket_are_counted_and_disconnected_by_force() {
    let bench = Bench::new();
    let socket = bench.path("disk.sock");
    bench.create(&[
        "--size=8M",
        "--frontend=nbd",
        &format!("--listen=unix:{}", socket.display()),
    ]);
    let mut client = UnixStream::connect(&socket).unwrap();
    // The greeting: from now on it is counted.
    client.read_exact(&mut [0; 18]).unwrap();
    for command in [
        &["remove", "zram0"][..],
        &["reset", "zram0"],
        &["set", "zram0", "disksize=4M"],
    ] {
        let said = bench.fails(3, command);
        assert!(said.contains("1 NBD client is connected"), "{said}");
    }
    assert_eq!(bench.stat("zram0")["clients"], 1);
    assert!(
        bench
            .uzram(&["stat", "zram0"])
            .contains("used by      1 client is connected")
    );
    let output = bench.output(&["remove", "--force", "zram0"]);
    let said = String::from_utf8(output.stderr).unwrap();
    assert!(output.status.success(), "{said}");
    assert!(said.contains("zram0: disconnected 1 NBD client"), "{said}");
    drop(client);
    bench.assert_clean();
}

#[test]
fn a_removal_of_several_goes_on_past_one_that_fails() {
    needs!(MKFS, fuse_loop);
    let disk = Disk::mounted("ext4");
    for name in ["zram1", "zram2"] {
        let name = format!("--name={name}");
        disk.bench.create(&["--size=1M", "--frontend=nbd", &name]);
    }
    let said = disk.bench.fails(3, &["remove", "zram1", "zram0", "zram2"]);
    assert!(
        said.contains("zram0: ") && !said.contains("zram1"),
        "{said}"
    );
    let names = disk.bench.uzram(&["list", "--noheadings", "--output=name"]);
    assert_eq!(names.trim(), "zram0");
    // The highest exit code, whatever the order.
    for order in [["zram7", "zram0"], ["zram0", "zram7"]] {
        let said = disk.bench.fails(4, &[&["remove"], &order[..]].concat());
        assert!(said.contains("no device 'zram7'"), "{said}");
        assert!(said.contains("zram0: "), "{said}");
    }
    disk.umount();
    disk.remove();
}

#[test]
fn a_backing_that_lies_on_a_device_is_refused_however_deep() {
    needs!(MKFS, fuse_loop);
    let disk = Disk::mounted("btrfs");
    let at = disk.at.display();
    sh(&format!("truncate -s 64M {at}/file"));
    let top = sh(&format!("losetup -f --show {at}/file"));
    let top = top.trim();
    let inner = disk.bench.path("inner");
    sh(&format!(
        "mkdir {0}; mkfs.ext4 -q {top}; mount {top} {0}; truncate -s 16M {0}/store",
        inner.display()
    ));
    // Another device of the same run directory, and one of another.
    let other = Bench::new();
    for (bench, name) in [
        (&disk.bench, "zram0"),
        (&disk.bench, "zram1"),
        (&other, "zram1"),
    ] {
        if name == "zram1" {
            bench.create(&["--size=8M", "--frontend=nbd", "--name=zram1"]);
        }
        for backing in [
            disk.node.clone(),
            format!("{at}/file"),
            format!("{at}/new,8M"),
            top.to_owned(),
            format!("{}/store", inner.display()),
        ] {
            let said = bench.fails(2, &["set", name, &format!("backing={backing}")]);
            assert!(said.contains("cannot be a backing"), "{backing}: {said}");
            let said = bench.fails(
                2,
                &[
                    "create",
                    "--size=8M",
                    "--frontend=nbd",
                    &format!("--backing={backing}"),
                ],
            );
            assert!(said.contains("cannot be a backing"), "{backing}: {said}");
        }
    }
    let said = disk.bench.fails(
        2,
        &[
            "set",
            "zram0",
            &format!("backing={}/store", inner.display()),
        ],
    );
    let way = format!(
        "({0}/store, on {top}, on {at}/file, on {1})",
        inner.display(),
        disk.node
    );
    assert!(said.contains(&way), "{said}");
    sh(&format!("umount {}; losetup -d {top}", inner.display()));
    disk.umount();
    other.uzram(&["remove", "--all"]);
    disk.bench.uzram(&["remove", "--all"]);
    disk.bench.assert_clean();
}

/// Two containers may each have a `/run/uzram` of their own.
#[test]
fn a_death_in_one_namespace_leaves_the_devices_of_another_alone() {
    needs!(&["unshare", "losetup"], fuse_loop);
    let bench = Bench::new();
    std::fs::create_dir(bench.run_dir()).unwrap();
    let run = bench.run_dir();
    let (run, program) = (run.display(), env!("CARGO_BIN_EXE_uzram"));
    let (other, theirs) = Running::start(&format!(
        "exec unshare -m --propagation private sh -euc 'mount -t tmpfs -o mode=700 t {run}; \
         UZRAM_RUN_DIR={run} {program} create --size 8M --frontend fuse-loop; exec sleep 600'"
    ));
    let within = format!(
        "nsenter --mount --target {} env UZRAM_RUN_DIR={run} {program}",
        other.0.id()
    );
    let node = bench.create(&["--size=8M", "--frontend=fuse-loop"]);
    assert_ne!(node, theirs);
    sh(&format!(
        "echo mine | dd of={theirs} conv=notrunc status=none"
    ));
    for _ in 0..2 {
        bench.kill("zram0", "pid");
    }
    bench.kill_all("zram0");
    bench.uzram(&["list"]);
    let read = sh(&format!(
        "dd if={theirs} bs=4096 count=1 iflag=direct status=none | head -c 4"
    ));
    assert_eq!(read, "mine", "their device serves on");
    sh(&format!("{within} remove zram0"));
    drop(other);
    bench.assert_clean();
}

/// The API and zram's interface ask the same server, which asks who uses the device.
#[test]
fn the_daemon_makes_nothing_smaller_or_removes_it_while_it_is_in_use() {
    let needs = [MKFS, &["curl"]].concat();
    needs!(&needs, fuse_loop);
    let disk = Disk::mounted("btrfs");
    let config = disk.bench.path("uzram.toml");
    std::fs::write(&config, "[daemon]\nstrict = false\n").unwrap();
    let daemon = Command::new(env!("CARGO_BIN_EXE_uzramd"))
        .arg("--config")
        .arg(&config)
        .env("UZRAM_RUN_DIR", disk.bench.run_dir())
        .stdin(Stdio::null())
        .spawn();
    let daemon = Running(daemon.unwrap());
    let socket = disk.bench.run_dir().join("uzramd.sock");
    let curl = |args: &str, path: &str| {
        sh(&format!(
            "curl -sS --retry 20 --retry-all-errors --retry-delay 1 --unix-socket {} {args} \
             http://localhost/v1/devices/zram0{path}",
            socket.display()
        ))
    };
    while !socket.exists() {
        std::thread::sleep(std::time::Duration::from_millis(10));
    }
    let who = format!("mounted at {}", disk.at.display());
    let busy = |answer: String| {
        assert!(answer.contains("EBUSY"), "{answer}");
        assert!(answer.contains(&who), "{answer}");
    };
    busy(curl("-X PUT -d 128M", "/attributes/disksize"));
    busy(curl(
        r#"-d '{"op":"resize","bytes":134217728}'"#,
        "/requests",
    ));
    busy(curl("-X DELETE", ""));
    busy(curl("-X PUT -d 1", "/attributes/reset"));
    let device = curl("", "");
    assert!(
        device.contains(&format!("mounted at {}", disk.at.display())),
        "{device}"
    );
    assert_eq!(disk.bench.count("zram0", "disksize"), 256 << 20);
    let said = disk.bench.fails(3, &["set", "zram0", "disksize=128M"]);
    assert!(said.contains("mounted at"), "{said}");
    curl(
        r#"-d '{"op":"resize","bytes":268431360,"force":true}'"#,
        "/requests",
    );
    assert_eq!(disk.bench.count("zram0", "disksize"), (256 << 20) - 4096);
    disk.umount();
    sh(&format!("blkdiscard -f {}", disk.node));
    curl("-X PUT -d 128M", "/attributes/disksize");
    assert_eq!(disk.bench.count("zram0", "disksize"), 128 << 20);
    // A reset device of zram's interface has no size and no node, and is refused as well what lies on another.
    disk.bench
        .create(&["--size=64M", "--frontend=fuse-loop", "--name=zram1"]);
    let node = disk.bench.stat("zram0")["path"]
        .as_str()
        .unwrap()
        .to_owned();
    let top = sh(&format!("losetup -f --show {node}"));
    let top = top.trim();
    let uninitialised = format!(
        "curl -sS --unix-socket {0} -X PUT -d 1 http://localhost/v1/devices/zram1/attributes/reset && \
         curl -sS --unix-socket {0} -X PUT -d {top} http://localhost/v1/devices/zram1/attributes/backing_dev",
        socket.display()
    );
    let answer = sh(&uninitialised);
    assert!(answer.contains("EINVAL"), "{answer}");
    sh(&format!("losetup -d {top}"));
    disk.bench.uzram(&["remove", "--all"]);
    drop(daemon);
}

impl Disk {
    /// Another node of the device, or of what has this kernel name.
    fn other_node(&self, node: &str, name: &str) -> String {
        let other = self.bench.path(name).display().to_string();
        sh(&format!(
            "mknod -m 600 {other} b $((0x$(stat -c %t {node}))) $((0x$(stat -c %T {node})))"
        ));
        other
    }

    /// Waits until the log says something after so many bytes; gives its length then.
    fn log_says(&self, after: usize, words: &str) -> usize {
        let log = self.bench.run_dir().join("zram0/log");
        let begin = Instant::now();
        loop {
            let text = std::fs::read(&log).unwrap();
            let new = String::from_utf8_lossy(&text[after..]);
            if new.contains(words) {
                return text.len();
            }
            assert!(begin.elapsed().as_secs() < 30, "no '{words}' in: {new}");
            std::thread::sleep(Duration::from_millis(20));
        }
    }
}

/// Switched off when the test ends, however that is.
struct SwapOn(String);

impl SwapOn {
    fn new(what: &str) -> SwapOn {
        sh(&format!("mkswap -q {what}; swapon {what}"));
        SwapOn(what.to_owned())
    }
}

impl Drop for SwapOn {
    fn drop(&mut self) {
        let _ = Command::new("swapoff").arg(&self.0).status();
    }
}

const SWAP: &[&str] = &[
    "mkswap",
    "swapon",
    "swapoff",
    "losetup",
    "partx",
    "mkfs.ext4",
];

/// As in the namespace of a shim, or where the node was removed afterwards.
#[test]
fn swap_by_a_node_that_nobody_sees_is_a_use() {
    needs!(SWAP, fuse_loop);
    // A size that no other test's device has.
    let disk = Disk::new(&[]);
    disk.bench.uzram(&["set", "zram0", "disksize=251M"]);
    let other = disk.other_node(&disk.node, "other");
    let mut swap = SwapOn::new(&other);
    std::fs::remove_file(&other).unwrap();
    swap.0 = disk.node.clone();
    let words = "swapped on by a node that cannot be seen from here";
    disk.is_used(&[words]);
    assert_eq!(disk.mountpoint(), "[SWAP]");
    // Another swap area changes nothing of that.
    let begin = disk.log_says(0, "is used as swap");
    let file = disk.bench.path("file");
    sh(&format!(
        "truncate -s 16M {0}; losetup -f --show {0}",
        file.display()
    ));
    let top = sh(&format!("losetup -n -O NAME -j {}", file.display()));
    drop(SwapOn::new(top.trim()));
    sh(&format!("losetup -d {top}"));
    std::thread::sleep(Duration::from_millis(300));
    let log = std::fs::read_to_string(disk.bench.run_dir().join("zram0/log")).unwrap();
    assert!(!log[begin..].contains("not used as swap"), "{log}");

    // The dead node is swap, and the new one is not.
    disk.bench.kill("zram0", "pid");
    let dead = format!("behind {}, a dead node that is {words}", disk.node);
    disk.is_used_dead(&dead);
    assert!(disk.mountpoint().contains("[SWAP]"));
    drop(swap);
    disk.remove();
}

#[test]
fn the_warning_names_what_is_swapped_on() {
    needs!(SWAP, fuse_loop);
    let disk = Disk::new(&[]);
    partition(&disk.node, 128 << 20);
    let part = format!("{}p1", disk.node);
    let swap = SwapOn::new(&part);
    let at = disk.log_says(0, &format!("Do now: swapoff {part}."));
    drop(swap);
    let at = disk.log_says(at, "is not used as swap any more");
    // A file on a file system of it is the same danger.
    disk.mount("ext4", &disk.node);
    let file = format!("{}/swap", disk.at.display());
    sh(&format!(
        "dd if=/dev/urandom of={file} bs=1M count=16 status=none; chmod 600 {file}"
    ));
    let swap = SwapOn::new(&file);
    let at = disk.log_says(at, &format!("Do now: swapoff {file}."));
    assert!(disk.mountpoint().contains(&format!("[SWAP {file}]")));
    let stat = disk.bench.uzram(&["stat", "zram0"]);
    assert!(
        stat.contains(&format!("swapped to, in the file {file}")),
        "{stat}"
    );
    let stat = disk.bench.stat("zram0");
    assert_eq!(stat["mountpoints"][1], "[SWAP]");
    drop(swap);
    disk.log_says(at, "is not used as swap any more");
    disk.umount();
    disk.remove();
}

/// The loop device goes first, so that who only looks at the mount behind it must not keep half of the device.
#[test]
fn who_stands_in_the_private_mount_keeps_no_half_of_a_device() {
    needs!(&["losetup"], fuse_loop);
    let disk = Disk::new(&[]);
    let (user, _) = Running::start(&format!(
        "cd {}/mnt-*; echo there; exec sleep 600",
        disk.bench.run_dir().join("zram0").display()
    ));
    disk.bench.uzram(&["upgrade", "zram0"]);
    disk.bench.uzram(&["remove", "zram0"]);
    drop(user);
    disk.bench.assert_clean();
}

/// What others put into a device's directory is in the way of a removal, which says so before it begins.
#[test]
fn what_others_put_into_the_directory_is_named() {
    let bench = Bench::new();
    bench.create(&["--size=16M", "--frontend=nbd"]);
    let dir = bench.run_dir().join("zram0");
    let pid = bench.count("zram0", "pid");
    std::fs::create_dir_all(dir.join("x/y")).unwrap();
    for args in [&["remove", "zram0"][..], &["remove", "--force", "zram0"]] {
        let said = bench.fails(1, args);
        assert!(said.contains("zram0/x is in the way"), "{said}");
        assert_eq!(bench.count("zram0", "pid"), pid, "after a refusal");
    }
    std::fs::remove_dir_all(dir.join("x")).unwrap();
    bench.remove_last("zram0");
    // A directory with such a name that no device ever had is nobody's to clear.
    let theirs = bench.run_dir().join("zram7");
    std::fs::create_dir_all(theirs.join("sub")).unwrap();
    std::fs::write(theirs.join("notes.txt"), "mine").unwrap();
    for args in [&["list"][..], &["remove", "--all"]] {
        bench.output(args);
    }
    bench.create(&["--size=16M", "--frontend=nbd"]);
    bench.uzram(&["remove", "zram0"]);
    assert_eq!(
        std::fs::read_to_string(theirs.join("notes.txt")).unwrap(),
        "mine"
    );
    assert_eq!(
        std::fs::read_dir(&theirs).unwrap().count(),
        2,
        "a lock was left"
    );
    std::fs::remove_dir_all(&theirs).unwrap();
}

/// Maps or opens the node and lets it go in a way that no descriptor shows.
const HIDDEN: &str = "
import mmap, os, socket, sys, time
fd = os.open(sys.argv[1], os.O_RDWR)
if sys.argv[2] == 'registered':
    import ctypes, struct
    call = ctypes.CDLL(None, use_errno=True).syscall
    ring = call(425, 1, ctypes.create_string_buffer(120))
    file = ctypes.create_string_buffer(struct.pack('i', fd))
    assert ring >= 0 and call(427, ring, 2, file, 1) == 0, os.strerror(ctypes.get_errno())
elif sys.argv[2] == 'thread':
    # The first thread ends, and with it what the process's own table shows.
    import ctypes, threading
    threading.Thread(target=lambda: (time.sleep(0.5), print('hidden', flush=True), time.sleep(600))).start()
    ctypes.CDLL(None).pthread_exit(None)
elif sys.argv[2] == 'mapped':
    kept = mmap.mmap(fd, 4096)
    # It keeps a descriptor of its own.
    for own in map(int, os.listdir('/proc/self/fd')):
        if own > fd and os.path.exists(f'/proc/self/fd/{own}'):
            os.close(own)
else:
    kept = socket.socketpair()
    socket.send_fds(kept[0], [b'x'], [fd])
os.close(fd)
print('hidden', flush=True)
time.sleep(600)
";

#[test]
fn who_keeps_the_node_without_a_descriptor_uses_it() {
    needs!(&["python3", "losetup"], fuse_loop);
    let disk = Disk::new(&[]);
    let script = disk.bench.path("hidden.py");
    std::fs::write(&script, HIDDEN).unwrap();
    for way in ["mapped", "registered", "thread"] {
        let (user, _) = Running::start(&format!(
            "exec python3 {} {} {way}",
            script.display(),
            disk.node
        ));
        disk.is_used(&[&format!("open in process {} (python3", user.0.id())]);
    }
    disk.remove();
}

/// A descriptor on its way through a socket is in no table. The driver knows that the device is open, before anything is
/// changed.
#[test]
fn an_upgrade_keeps_the_node_of_a_user_that_nobody_sees() {
    needs!(&["python3", "losetup"], fuse_loop);
    let disk = Disk::new(&[]);
    let script = disk.bench.path("hidden.py");
    std::fs::write(&script, HIDDEN).unwrap();
    let (user, _) = Running::start(&format!(
        "exec python3 {} {} sent",
        script.display(),
        disk.node
    ));
    let before = disk.looks();
    let said = disk.bench.fails(3, &["upgrade", "zram0"]);
    assert!(said.contains("cannot be seen from here"), "{said}");
    assert!(said.contains("the old program serves on"), "{said}");
    assert_eq!(disk.looks(), before, "after a refusal");
    // The keeper is the old one again, and goes on.
    disk.bench.kill("zram0", "keeper");
    drop(user);
    disk.bench.uzram(&["upgrade", "zram0"]);
    assert_ne!(disk.looks(), before);
    disk.remove();
}

#[test]
fn a_node_that_outlives_server_and_keeper_is_told_of_in_one_sentence() {
    needs!(MKFS, fuse_loop);
    let disk = Disk::mounted("ext4");
    disk.bench.kill_all("zram0");
    let at = disk.at.display();
    let word = format!(
        "uzram: server and keeper of zram0 have died, and its contents are lost; {} is still mounted at {at} (umount it first)",
        disk.node
    );
    for command in [
        &["remove", "zram0"][..],
        &["remove", "--force", "zram0"],
        &["remove", "--all"],
        &["reset", "zram0"],
        &["stat", "zram0"],
        &["set", "zram0", "disksize=512M"],
        &["upgrade", "zram0"],
    ] {
        let said = disk.bench.fails(3, command);
        assert!(said.starts_with(&word), "{command:?}: {said}");
        assert_eq!(said.lines().count(), 1, "{command:?}: {said}");
    }
    let listed = disk.bench.output(&["list"]);
    assert_eq!(listed.status.code(), Some(3));
    let said = String::from_utf8(listed.stderr).unwrap();
    assert!(
        said.starts_with(&word) && said.lines().count() == 1,
        "{said}"
    );
    disk.umount();
    disk.bench.uzram(&["list"]);
    disk.bench.assert_clean();
}

#[test]
fn what_others_named_is_no_line_of_its_own() {
    use std::os::unix::ffi::OsStrExt;
    needs!(&["mkfs.ext4", "python3", "unshare"], fuse_loop);
    let disk = Disk::new(&[]);
    let script = disk.bench.path("named.py");
    let line = "import sys,time\nopen('/proc/self/comm','w').write('a\\nb\\x1b[2J')\nf=open(sys.argv[1],'rb')\nprint('open',flush=True)\ntime.sleep(600)\n";
    std::fs::write(&script, line).unwrap();
    let (user, _) = Running::start(&format!("exec python3 {} {}", script.display(), disk.node));
    disk.is_used(&[&format!(
        "open in process {} (a\\012b\\033[2J)",
        user.0.id()
    )]);
    drop(user);
    let at = disk
        .at
        .join(std::ffi::OsStr::from_bytes(b"x\ny\x1b[2J\xe9 z"));
    std::fs::create_dir(&at).unwrap();
    sh(&format!("mkfs.ext4 -q {}", disk.node));
    let mounted = Command::new("mount").arg(&disk.node).arg(&at).status();
    assert!(mounted.unwrap().success());
    let shown = format!("{}/x\\012y\\033[2J\\351 z", disk.at.display());
    disk.is_used(&[&format!("mounted at {shown}")]);
    assert_eq!(disk.mountpoint(), shown);
    assert_eq!(disk.bench.stat("zram0")["mountpoints"][0], shown);
    assert!(Command::new("umount").arg(&at).status().unwrap().success());
    disk.remove();
}

#[test]
fn a_device_with_a_damaged_record_is_told_of_and_taken_down() {
    needs!(&["losetup"], fuse_loop);
    let damages: [(&str, &str); 5] = [
        ("deleted", "rm {}"),
        ("empty", "truncate -s 0 {}"),
        ("junk", "echo junk >{}"),
        ("truncated", "truncate -s 20 {}"),
        ("a directory", "rm {0}; mkdir {}"),
    ];
    for (what, damage) in damages {
        let disk = Disk::new(&[]);
        let (server, keeper) = (
            disk.bench.count("zram0", "pid"),
            disk.bench.count("zram0", "keeper"),
        );
        disk.bench
            .create(&["--size=1M", "--frontend=nbd", "--name=zram1"]);
        let record = disk.bench.run_dir().join("zram0/device.json");
        let record = record.display().to_string();
        sh(&damage.replace("{0}", &record).replace("{}", &record));
        let listed = disk
            .bench
            .output(&["list", "--noheadings", "--output=name"]);
        assert_eq!(listed.status.code(), Some(1), "{what}: {listed:?}");
        assert_eq!(listed.stdout, b"zram1\n", "{what}");
        let said = String::from_utf8(listed.stderr).unwrap();
        let word = format!("uzram: the record of zram0 is damaged ({record}: ");
        assert!(said.starts_with(&word), "{what}: {said}");
        for pid in [server, keeper] {
            assert!(said.contains(&pid.to_string()), "{what}: {said}");
        }
        for command in [&["stat", "zram0"][..], &["remove", "zram0"]] {
            let said = disk.bench.fails(1, command);
            assert!(said.starts_with(&word), "{what}, {command:?}: {said}");
            assert!(said.contains("uzram remove --force"), "{what}: {said}");
        }
        let said = disk.bench.fails(4, &["stat", &disk.node]);
        assert!(
            said.contains("the record of zram0 is damaged"),
            "{what}: {said}"
        );
        // Who uses it is asked all the same.
        let (opener, _) =
            Running::start(&format!("exec 3<{}; echo open; exec sleep 600", disk.node));
        let said = disk.bench.fails(3, &["remove", "--force", "zram0"]);
        assert!(said.contains("open in process"), "{what}: {said}");
        drop(opener);
        let begin = Instant::now();
        while !disk
            .bench
            .output(&["remove", "--force", "zram0"])
            .status
            .success()
        {
            assert!(begin.elapsed() < LONGEST, "{what}");
        }
        disk.bench.uzram(&["remove", "zram1"]);
        disk.bench.assert_clean();
    }
}

#[test]
fn a_device_is_found_by_any_node_of_it() {
    needs!(&["losetup"], fuse_loop);
    let disk = Disk::new(&[]);
    let link = disk.bench.path("link");
    std::os::unix::fs::symlink(&disk.node, &link).unwrap();
    let name = |path: &str| -> serde_json::Value {
        serde_json::from_str(&disk.bench.uzram(&["stat", "--json", path])).unwrap()
    };
    assert_eq!(name(link.to_str().unwrap())["name"], "zram0");
    assert_eq!(name(&disk.other_node(&disk.node, "other"))["name"], "zram0");
    let missing = disk.bench.path("missing");
    disk.bench.fails(4, &["stat", missing.to_str().unwrap()]);
    disk.bench.fails(4, &["stat", "/dev/null"]);
    // From the link's directory.
    let said = disk
        .bench
        .command(&["remove", "link"])
        .current_dir(link.parent().unwrap())
        .output()
        .unwrap();
    assert!(said.status.success(), "{said:?}");
    disk.bench.assert_clean();
}
