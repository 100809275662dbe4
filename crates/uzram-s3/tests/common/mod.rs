//! Runs `uzram` beside `uzram-s3`, as they are installed, with stores to speak to.

#![allow(dead_code, reason = "each test program uses a part")]

pub(crate) mod fake;
pub(crate) mod proxy;
pub(crate) mod weed;

use std::ops::Deref;
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::time::{Duration, Instant};

/// What may be done with these: everything.
pub(crate) const OWNER: [&str; 2] = ["OWNERKEYID0", "owner/secret+key=0"];
/// Reading.
pub(crate) const READER: [&str; 2] = ["READERKEYID0", "reader/secret+key=0"];

/// A host: a folder with both programs, remotes, and devices; dropped, it removes every device that is left.
pub(crate) struct Host(uzram_testkit::program::Bench);

impl Host {
    pub(crate) fn new() -> Host {
        let host = Host::without_s3();
        link(
            Path::new(env!("CARGO_BIN_EXE_uzram-s3")),
            &host.path("bin/uzram-s3"),
        );
        host
    }

    /// `uzram` alone.
    pub(crate) fn without_s3() -> Host {
        // On the file system of the programs, which are linked to.
        let dir = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
        let program = Path::new(env!("CARGO_BIN_EXE_uzram-s3"));
        let (bin, built) = (dir.path().join("bin"), program.with_file_name("examples"));
        std::fs::create_dir(&bin).unwrap();
        let built = built.join("uzram");
        assert!(
            built.exists(),
            "cargo test builds {}, an example of this crate, unless it is told to build one test alone",
            built.display()
        );
        link(&built, &bin.join("uzram"));
        Host(uzram_testkit::program::Bench::new(bin.join("uzram"), dir))
    }

    /// `uzram` with this host's remotes, and these keys in its environment.
    pub(crate) fn with(&self, keys: [&str; 2], args: &[&str]) -> Command {
        let mut command = self.bare(args);
        command.env("AWS_ACCESS_KEY_ID", keys[0]);
        command.env("AWS_SECRET_ACCESS_KEY", keys[1]);
        command
    }

    /// `uzram` with this host's remotes, and no keys.
    pub(crate) fn bare(&self, args: &[&str]) -> Command {
        let mut command = self.command(args);
        let variables = std::env::vars().map(|(name, _)| name);
        for name in variables
            .filter(|name| name.starts_with("AWS_") || name.to_lowercase().ends_with("_proxy"))
        {
            command.env_remove(name);
        }
        command.env("UZRAM_REMOTES", self.path("remotes"));
        command.env("HOME", self.path("home"));
        command
    }

    pub(crate) fn works(&self, args: &[&str]) -> String {
        works(self.with(OWNER, args))
    }

    pub(crate) fn refused(&self, code: i32, args: &[&str]) -> String {
        refused(code, self.with(OWNER, args))
    }

    /// A device with these bytes; its URI.
    pub(crate) fn filled(&self, bytes: &[u8]) -> String {
        let size = format!("--size={}", bytes.len());
        let uri = self.create(&[&size, "--frontend=nbd", "--policy=none"]);
        self.fill(&uri, bytes);
        uri
    }

    pub(crate) fn fill(&self, uri: &str, bytes: &[u8]) {
        let data = self.path("data");
        std::fs::write(&data, bytes).unwrap();
        let mut convert = Command::new("qemu-img");
        convert.args(["convert", "-n", "-f", "raw", "-O", "raw"]);
        assert!(convert.arg(&data).arg(uri).status().unwrap().success());
    }

    /// Whether a device holds these bytes.
    pub(crate) fn holds(&self, uri: &str, bytes: &[u8]) -> bool {
        let wanted = self.path("wanted");
        std::fs::write(&wanted, bytes).unwrap();
        let mut compare = Command::new("qemu-img");
        compare.args(["compare", "-q", "-f", "raw", "-F", "raw", uri]);
        compare.arg(&wanted).status().unwrap().success()
    }

    /// Restores a tag, and demands these bytes.
    pub(crate) fn restores(&self, from: &str, bytes: &[u8]) {
        let uri = self.works(&["restore", from, "--frontend=nbd"]);
        assert!(
            self.holds(uri.trim_end(), bytes),
            "{from} holds other bytes"
        );
        let name = self.works(&["list", "--noheadings", "--output", "NAME"]);
        let name = name.lines().last().unwrap().trim().to_owned();
        self.works(&["remove", &name]);
    }

    /// The processes of `uzram-s3` that are this host's.
    pub(crate) fn s3_processes(&self) -> Vec<u32> {
        let program = self.path("bin/uzram-s3");
        let processes = std::fs::read_dir("/proc").unwrap().flatten();
        let own = processes.filter(|process| {
            let exe = std::fs::read_link(process.path().join("exe"));
            exe.is_ok_and(|exe| exe == program)
        });
        own.filter_map(|process| process.file_name().to_str()?.parse().ok())
            .collect()
    }
}

impl Deref for Host {
    type Target = uzram_testkit::program::Bench;

    fn deref(&self) -> &uzram_testkit::program::Bench {
        &self.0
    }
}

pub(crate) fn works(mut command: Command) -> String {
    let output = command.output().unwrap();
    assert!(output.status.success(), "{command:?}: {output:?}");
    assert_no_secret(&output);
    String::from_utf8(output.stdout).unwrap()
}

pub(crate) fn refused(code: i32, mut command: Command) -> String {
    let output = command.output().unwrap();
    assert_eq!(output.status.code(), Some(code), "{output:?}");
    assert_no_secret(&output);
    String::from_utf8(output.stderr).unwrap()
}

/// No command tells keys, however it ends.
pub(crate) fn assert_no_secret(output: &Output) {
    let text = [&output.stdout[..], &output.stderr[..]].concat();
    let text = String::from_utf8_lossy(&text);
    for key in [OWNER, READER].concat() {
        assert!(!text.contains(key), "{text}");
    }
}

/// What a command that is running will have said.
pub(crate) struct Running {
    child: std::process::Child,
}

impl Running {
    pub(crate) fn start(mut command: Command) -> Running {
        command.stdout(Stdio::piped()).stderr(Stdio::piped());
        Running {
            child: command.spawn().unwrap(),
        }
    }

    pub(crate) fn id(&self) -> u32 {
        self.child.id()
    }

    pub(crate) fn is_running(&mut self) -> bool {
        self.child.try_wait().unwrap().is_none()
    }

    pub(crate) fn end(self) -> Output {
        let output = self.child.wait_with_output().unwrap();
        assert_no_secret(&output);
        output
    }
}

pub(crate) fn signal(process: u32, signal: &str) {
    let done = Command::new("kill")
        .arg(signal)
        .arg(process.to_string())
        .status();
    assert!(done.unwrap().success());
}

/// Waits for something, for so long that a machine with much to do is no failure.
pub(crate) fn wait_until(what: &str, mut is_so: impl FnMut() -> bool) {
    let begin = Instant::now();
    while !is_so() {
        assert!(begin.elapsed() < Duration::from_secs(60), "{what}");
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// Whether a process was ended by this signal.
pub(crate) fn ended_by(output: &Output, signal: i32) -> bool {
    output.status.signal() == Some(signal)
}

/// Bytes that do not compress, of a seed.
pub(crate) fn noise(seed: u64, mib: usize) -> Vec<u8> {
    let mut state = seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1;
    let mut next = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state
    };
    let words = (0..mib << 17).map(|_| next().to_le_bytes());
    words.flatten().collect()
}

/// A hard link: by a symbolic one the program would look beside its target.
fn link(from: &Path, to: &Path) {
    std::fs::hard_link(from, to).unwrap();
}

/// A folder of a test's own.
pub(crate) fn folder() -> (tempfile::TempDir, PathBuf) {
    let dir = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    let path = dir.path().to_owned();
    (dir, path)
}
