//! `persist = true`: devices that are saved by `uzramd --save`, and made of what was saved when uzramd starts. Neither the
//! file nor the device is lost by what goes wrong.

mod common;

use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use common::{Bench, Stopped, have, needs, sh};
use uzram_testkit::{data, mountinfo};

/// A host with a directory for what is saved.
struct Host {
    bench: Bench,
}

/// A daemon; killed when dropped.
struct Daemon(Child);

impl Daemon {
    fn terminate(mut self) {
        sh(&format!("kill -TERM {}", self.0.id()));
        assert!(self.0.wait().unwrap().success());
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

impl Host {
    fn new() -> Host {
        let bench = Bench::new();
        Host { bench }
    }

    fn dir(&self) -> PathBuf {
        self.bench.path("saved")
    }

    fn file(&self) -> PathBuf {
        self.dir().join("zram4.uzsnap")
    }

    /// The names of what is in the directory.
    fn names(&self) -> Vec<String> {
        let names = fs::read_dir(self.dir()).into_iter().flatten().flatten();
        let mut names: Vec<_> = names
            .map(|entry| entry.file_name().to_string_lossy().into_owned())
            .collect();
        names.retain(|name| name != ".lock");
        names.sort();
        names
    }

    /// A configuration with one device.
    fn configure(&self, rest: &str) {
        let dir = self.dir();
        let text = format!(
            "[[device]]\nname = \"zram4\"\npersist = true\npersist-dir = \"{}\"\n{rest}\n",
            dir.display()
        );
        fs::write(self.bench.path("uzram.toml"), text).unwrap();
    }

    fn uzramd(&self, args: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_uzramd"));
        command
            .arg("--config")
            .arg(self.bench.path("uzram.toml"))
            .args(args)
            .env("UZRAM_RUN_DIR", self.bench.run_dir())
            .stdin(Stdio::null());
        command
    }

    /// Starts a daemon, waits until it has made what it can, and gives what it logged.
    fn start(&self) -> (Daemon, String) {
        let path = self.bench.path("daemon.log");
        let log = fs::File::create(&path).unwrap();
        let daemon = Daemon(self.uzramd(&[]).stderr(log).spawn().unwrap());
        let socket = self.bench.run_dir().join("uzramd.sock");
        let begin = Instant::now();
        loop {
            let said = fs::read_to_string(&path).unwrap();
            if said.contains(": ready") && UnixStream::connect(&socket).is_ok() {
                return (daemon, said);
            }
            assert!(begin.elapsed() < Duration::from_secs(60), "{said}");
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    /// Runs it to its end: exit code, stdout, stderr.
    fn run(&self, args: &[&str]) -> (i32, String, String) {
        let output = self.uzramd(args).output().unwrap();
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        (
            output.status.code().unwrap(),
            text(&output.stdout),
            text(&output.stderr),
        )
    }

    fn save(&self) -> String {
        let (code, _, said) = self.run(&["--save", "--unmount"]);
        assert_eq!(code, 0, "{said}");
        said
    }

    /// What a reboot does to it.
    fn lose(&self, daemon: Daemon) {
        daemon.terminate();
        self.bench.uzram(&["remove", "zram4"]);
    }

    fn has_device(&self) -> bool {
        self.bench.run_dir().join("zram4/device.json").exists()
    }

    fn path_of_device(&self) -> String {
        self.path_of("zram4")
    }

    fn path_of(&self, name: &str) -> String {
        let record = self.bench.run_dir().join(name).join("device.json");
        let record = fs::read(record).unwrap();
        let record: serde_json::Value = serde_json::from_slice(&record).unwrap();
        record["path"].as_str().unwrap().to_owned()
    }

    /// Writes to the device, or reads from it and compares.
    fn qemu_io(&self, command: &str) {
        let uri = self.path_of_device();
        sh(&format!("qemu-io -f raw -c '{command}' '{uri}'"));
    }

    /// Fills the device with noise.
    fn fill(&self, pages: u64) {
        let noise: Vec<u8> = (0..pages).flat_map(data::noise).collect();
        let source = self.bench.path("noise");
        fs::write(&source, noise).unwrap();
        self.qemu_io(&format!("write -s {} 0 {}", source.display(), pages * 4096));
    }
}

const NBD: &str = "size = \"64M\"\nfrontend = \"nbd\"";

#[test]
fn a_file_system_comes_back_and_a_restart_costs_nothing() {
    needs!(&["mkfs.ext4", "mount"], fuse_loop);
    let host = Host::new();
    let at = host.bench.path("at").display().to_string();
    let rest =
        |size: &str| format!("size = \"{size}\"\nfrontend = \"fuse-loop\"\nmount-point = \"{at}\"");
    host.configure(&rest("64M"));
    let (code, plan, said) = host.run(&["--check"]);
    assert_eq!((code, said.as_str()), (0, ""));
    let file = host.file();
    let planned = format!("zram4: saved to {}; nothing is there yet\n", file.display());
    assert_eq!(plan, planned);

    let (daemon, _) = host.start();
    let source = env!("CARGO_MANIFEST_DIR");
    sh(&format!("cp -r {source}/src {at}/"));
    let server = host.bench.count("zram4", "pid");
    daemon.terminate();
    assert!(!host.dir().exists(), "the daemon's end saves nothing");
    let (daemon, said) = host.start();
    assert!(said.contains("is there already"), "{said}");
    assert_eq!(host.bench.count("zram4", "pid"), server);
    sh(&format!("diff -r {source}/src {at}/src"));

    // While it is mounted, as a power cut would leave it.
    let (code, _, said) = host.run(&["--save"]);
    assert_eq!(code, 0, "{said}");
    assert!(said.contains("as a power cut would leave it"), "{said}");
    sh(&format!(
        "diff -r {source}/src {at}/src && echo more > {at}/more"
    ));
    let said = host.save();
    assert!(!said.contains("power cut"), "{said}");
    assert!(!mountinfo().contains(&at));
    assert_eq!(host.names(), ["zram4.uzsnap"]);
    let mode = |path: &PathBuf| fs::metadata(path).unwrap().permissions().mode() & 0o7777;
    assert_eq!((mode(&host.dir()), mode(&file)), (0o700, 0o600));
    host.bench
        .uzram(&["snapshot", "verify", file.to_str().unwrap()]);
    host.lose(daemon);
    // Not there: the file stays.
    assert!(host.save().contains("is not there"));
    assert!(host.run(&["--check"]).1.contains("it is made of the "));

    host.configure(&rest("96M"));
    let (daemon, said) = host.start();
    assert!(said.contains("made of what was saved"), "{said}");
    assert!(mountinfo().contains(&at), "{said}");
    sh(&format!(
        "diff -r {source}/src {at}/src && grep more {at}/more"
    ));
    assert_eq!(host.bench.count("zram4", "disksize"), 96 << 20);
    assert_eq!(host.names(), ["zram4.uzsnap"], "it stays until the next");

    // In use: saved all the same, and said.
    let used = fs::File::open(format!("{at}/more")).unwrap();
    let said = host.save();
    assert!(said.contains("as a power cut would leave it"), "{said}");
    drop(used);
    sh(&format!("umount {at}"));
    host.lose(daemon);
}

#[test]
fn damage_is_said_and_nothing_is_made_empty_unasked() {
    needs!(&["qemu-io", "qemu-img"]);
    let host = Host::new();
    host.configure(NBD);
    let (daemon, _) = host.start();
    host.fill(256);
    host.save();
    host.lose(daemon);
    let good = fs::read(host.file()).unwrap();
    let mut flipped = good.clone();
    flipped[good.len() / 2] ^= 1;

    // A refusal that is no damage, even where a damaged one would be put aside.
    host.configure("size = \"32M\"\nfrontend = \"nbd\"\npersist-or-empty = true");
    let (code, _, said) = host.run(&["--check"]);
    assert_eq!(code, 2, "{said}");
    assert!(said.contains("too little"), "{said}");
    let (daemon, said) = host.start();
    assert!(said.contains("too little"), "{said}");
    assert!(!host.has_device());
    daemon.terminate();
    assert_eq!(fs::read(host.file()).unwrap(), good);

    let cut = good[..good.len() / 2].to_vec();
    for (round, (bad, words)) in [(&flipped, "damaged at"), (&cut, "cut off")]
        .into_iter()
        .enumerate()
    {
        fs::write(host.file(), bad).unwrap();
        host.configure(NBD);
        for _ in 0..2 {
            let (daemon, said) = host.start();
            assert!(said.contains(words), "{said}");
            assert!(said.contains("persist-or-empty"), "{said}");
            assert!(!host.has_device(), "{said}");
            daemon.terminate();
            host.save();
            assert_eq!(&fs::read(host.file()).unwrap(), bad);
        }
        host.configure(&format!("{NBD}\npersist-or-empty = true"));
        let (daemon, said) = host.start();
        assert!(said.contains(words), "{said}");
        host.qemu_io("read -P 0 0 1M");
        let aside = ["zram4.uzsnap.damaged", "zram4.uzsnap.damaged-2"];
        assert_eq!(host.names(), aside[..=round]);
        assert_eq!(&fs::read(host.dir().join(aside[round])).unwrap(), bad);
        host.lose(daemon);
    }

    fs::write(host.file(), &good).unwrap();
    // Where nobody knows whether it is saved, or where, it is neither made nor saved.
    for daemon in ["persist = \"true\"", "persist_dir = 5", "persist = tru"] {
        let section = "[[device]]\nname = \"zram4\"\n";
        let dir = match daemon.starts_with("persist_dir") {
            // What the device says itself is known.
            true => "persist = true".into(),
            false => format!("persist-dir = \"{}\"", host.dir().display()),
        };
        let text = format!("[daemon]\n{daemon}\n\n{section}{dir}\n{NBD}\n");
        fs::write(host.bench.path("uzram.toml"), text).unwrap();
        let (started, said) = host.start();
        assert!(
            said.contains("of [daemon] cannot be read"),
            "{daemon}: {said}"
        );
        assert!(!host.has_device(), "{daemon}: {said}");
        started.terminate();
        assert_eq!(fs::read(host.file()).unwrap(), good);
    }
    host.configure(NBD);
    let (daemon, _) = host.start();
    let noise = host.bench.path("noise");
    let uri = host.path_of_device();
    let head = host.bench.path("head");
    sh(&format!(
        "qemu-img convert -O raw '{uri}' {0} && cmp -n 1048576 {0} {1}",
        head.display(),
        noise.display()
    ));
    host.lose(daemon);
}

#[test]
fn a_full_disk_leaves_the_file_before() {
    let test = "a_full_disk_leaves_the_file_before";
    if !have(test, &["qemu-io", "mount"], false) || !is_root() {
        return;
    }
    let host = Host::new();
    host.configure(NBD);
    let dir = host.dir();
    fs::create_dir(&dir).unwrap();
    sh(&format!(
        "mount -t tmpfs -o size=1M,mode=700 tmpfs {}",
        dir.display()
    ));
    let unmount = Unmount(dir);
    let (daemon, _) = host.start();
    host.fill(16);
    host.save();
    let before = fs::read(host.file()).unwrap();
    host.fill(1024);
    let (code, _, said) = host.run(&["--save"]);
    assert_eq!(code, 1, "{said}");
    assert!(said.contains("No space left"), "{said}");
    assert!(said.contains("zram4.uzsnap"), "{said}");
    assert_eq!(host.names(), ["zram4.uzsnap"]);
    assert_eq!(fs::read(host.file()).unwrap(), before);
    host.lose(daemon);
    drop(unmount);
}

/// Whether this test may mount.
fn is_root() -> bool {
    fs::metadata("/proc/self").is_ok_and(|own| own.uid() == 0)
}

struct Unmount(PathBuf);

impl Drop for Unmount {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("-l").arg(&self.0).status();
    }
}

#[test]
fn who_is_killed_while_saving_leaves_the_file_before() {
    needs!(&["qemu-io"]);
    let host = Host::new();
    host.configure(NBD);
    let (daemon, _) = host.start();
    host.fill(8192);
    host.save();
    let file = host.file();
    host.qemu_io("write -P 7 0 4k");
    let part = host.dir().join(".zram4.uzsnap.part");
    let server = host.bench.count("zram4", "pid");
    for round in 0.. {
        assert!(round < 50, "it was never caught in the middle");
        let before = fs::read(&file).unwrap();
        let mut saver = host.uzramd(&["--save"]).spawn().unwrap();
        while !part.exists() && saver.try_wait().unwrap().is_none() {}
        let stopped = Stopped::new(server);
        let is_at_work = part.exists() && saver.try_wait().unwrap().is_none();
        saver.kill().unwrap();
        saver.wait().unwrap();
        drop(stopped);
        if is_at_work && part.exists() {
            assert!(fs::read(&file).unwrap() == before);
            break;
        }
    }
    assert_eq!(host.names(), [".zram4.uzsnap.part", "zram4.uzsnap"]);
    let before = fs::read(&file).unwrap();
    let verify = ["snapshot", "verify", file.to_str().unwrap()];
    host.bench.uzram(&verify);
    host.save();
    assert_eq!(host.names(), ["zram4.uzsnap"]);
    host.bench.uzram(&verify);
    assert!(fs::read(&file).unwrap() != before);
    host.lose(daemon);
}

#[test]
fn what_a_device_was_not_made_of_is_kept() {
    needs!(&["qemu-io"]);
    let host = Host::new();
    host.configure(NBD);
    let (daemon, _) = host.start();
    host.qemu_io("write -P 7 0 1M");
    host.save();
    host.lose(daemon);
    let good = fs::read(host.file()).unwrap();

    // The directory is not mounted yet when uzramd starts.
    let elsewhere = host.bench.path("elsewhere");
    fs::rename(host.dir(), &elsewhere).unwrap();
    let (daemon, _) = host.start();
    host.qemu_io("read -P 0 0 1M");
    fs::rename(&elsewhere, host.dir()).unwrap();
    let said = host.save();
    assert!(said.contains("was not made of"), "{said}");
    let both = ["zram4.uzsnap", "zram4.uzsnap.before"];
    assert_eq!(host.names(), both);
    let before = host.dir().join("zram4.uzsnap.before");
    assert!(fs::read(&before).unwrap() == good);
    // From now on the file is its own.
    host.qemu_io("write -P 8 0 4k");
    let said = host.save();
    assert!(!said.contains("was not made of"), "{said}");
    host.lose(daemon);

    // Once more: the first one stays, and no third comes to be.
    fs::rename(host.dir(), &elsewhere).unwrap();
    let (daemon, _) = host.start();
    fs::rename(&elsewhere, host.dir()).unwrap();
    let said = host.save();
    assert!(said.contains("is an older one, and stays"), "{said}");
    assert_eq!(host.names(), both);
    assert!(fs::read(&before).unwrap() == good);
    host.lose(daemon);
    fs::rename(&before, host.file()).unwrap();
    let (daemon, _) = host.start();
    host.qemu_io("read -P 7 0 1M");
    let said = host.save();
    assert!(!said.contains("was not made of"), "{said}");
    host.lose(daemon);
}

#[test]
fn several_are_saved_at_once_and_one_that_fails_keeps_no_other_from_it() {
    needs!(&["qemu-io"]);
    let host = Host::new();
    let dir = host.dir().display().to_string();
    let mut text = format!("[daemon]\npersist = true\npersist_dir = \"{dir}\"\n");
    let names: Vec<String> = (1..=7).map(|n| format!("zram{n}")).collect();
    for name in &names {
        text += &format!("[[device]]\nname = \"{name}\"\n{NBD}\n");
    }
    // One says that it is not to be.
    text += &format!("[[device]]\nname = \"zram9\"\npersist = false\n{NBD}\n");
    fs::write(host.bench.path("uzram.toml"), text).unwrap();
    let (daemon, _) = host.start();
    let write = |name: &str, at: usize| {
        let command = format!("write -P {} 0 1M", at + 1);
        sh(&format!(
            "qemu-io -f raw -c '{command}' '{}'",
            host.path_of(name)
        ));
    };
    for (at, name) in names.iter().enumerate() {
        write(name, at);
    }
    host.save();
    let files = || -> Vec<String> { names.iter().map(|name| format!("{name}.uzsnap")).collect() };
    assert_eq!(host.names(), files());

    // Nobody can replace this one.
    let stuck = host.dir().join("zram3.uzsnap");
    fs::remove_file(&stuck).unwrap();
    fs::create_dir(&stuck).unwrap();
    for (at, name) in names.iter().enumerate() {
        write(name, at + 100);
    }
    let (code, _, said) = host.run(&["--save"]);
    assert_eq!(code, 1, "{said}");
    assert!(said.contains("[[device]] zram3"), "{said}");
    fs::remove_dir(&stuck).unwrap();
    daemon.terminate();
    for name in names.iter().map(String::as_str).chain(["zram9"]) {
        host.bench.uzram(&["remove", name]);
    }
    let (daemon, _) = host.start();
    for (at, name) in names.iter().enumerate() {
        let pattern = if name == "zram3" { 0 } else { at + 101 };
        let command = format!("read -P {pattern} 0 1M");
        sh(&format!(
            "qemu-io -f raw -c '{command}' '{}'",
            host.path_of(name)
        ));
    }
    daemon.terminate();
}

#[test]
fn swap_and_a_directory_of_others_are_refused() {
    let host = Host::new();
    host.configure("size = \"64M\"\nswap = true");
    let (code, _, said) = host.run(&["--check"]);
    assert_eq!(code, 2, "{said}");
    assert!(said.contains("swap is not saved"), "{said}");
    host.configure(NBD);
    let dir = host.dir();
    fs::create_dir(&dir).unwrap();
    fs::set_permissions(&dir, fs::Permissions::from_mode(0o777)).unwrap();
    let (code, _, said) = host.run(&["--check"]);
    assert_eq!(code, 2, "{said}");
    assert!(said.contains("others may write to"), "{said}");
    fs::set_permissions(&dir, fs::Permissions::from_mode(0o755)).unwrap();
    assert_eq!(host.run(&["--check"]).0, 0);
    fs::write(host.file(), "").unwrap();
    fs::set_permissions(host.file(), fs::Permissions::from_mode(0o666)).unwrap();
    let (code, _, said) = host.run(&["--check"]);
    assert_eq!(code, 2, "{said}");
    assert!(said.contains("others may write to"), "{said}");
}
