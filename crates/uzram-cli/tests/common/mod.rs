//! Runs the real program with a run directory of its own, and takes down whatever a test leaves.

#![allow(dead_code, reason = "each test program uses a part")]

use std::path::PathBuf;
use std::process::{Command, Output, Stdio};

use uzram_testkit::peers;

/// A run directory; dropped, it unmounts and removes every device in it.
pub(crate) struct Bench {
    dir: tempfile::TempDir,
}

impl Bench {
    pub(crate) fn new() -> Bench {
        Bench {
            dir: tempfile::tempdir().unwrap(),
        }
    }

    /// A path for a test's own files.
    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    pub(crate) fn run_dir(&self) -> PathBuf {
        self.path("run")
    }

    pub(crate) fn command(&self, args: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_uzram"));
        command
            .args(args)
            .env("UZRAM_RUN_DIR", self.run_dir())
            .stdin(Stdio::null());
        command
    }

    pub(crate) fn output(&self, args: &[&str]) -> Output {
        self.command(args).output().unwrap()
    }

    /// Runs it, demands success, gives stdout.
    pub(crate) fn uzram(&self, args: &[&str]) -> String {
        let output = self.output(args);
        assert!(output.status.success(), "uzram {args:?}: {output:?}");
        String::from_utf8(output.stdout).unwrap()
    }

    /// Runs it, demands this exit code, gives stderr.
    pub(crate) fn fails(&self, code: i32, args: &[&str]) -> String {
        let output = self.output(args);
        assert_eq!(
            output.status.code(),
            Some(code),
            "uzram {args:?}: {output:?}"
        );
        assert_eq!(output.stdout, b"", "uzram {args:?} failed and printed");
        String::from_utf8(output.stderr).unwrap()
    }

    /// Creates a device and gives its path.
    pub(crate) fn create(&self, args: &[&str]) -> String {
        let path = self.uzram(&[&["create"], args].concat());
        let path = path.strip_suffix('\n').unwrap();
        assert!(
            !path.is_empty() && !path.contains('\n'),
            "the path and nothing else: {path:?}"
        );
        path.to_owned()
    }

    pub(crate) fn stat(&self, name: &str) -> serde_json::Value {
        serde_json::from_str(&self.uzram(&["stat", name, "--json"])).unwrap()
    }

    /// Kills server and keeper, so that neither can start the other, and waits for their ends.
    pub(crate) fn kill_all(&self, name: &str) {
        let both = format!("{} {}", self.count(name, "pid"), self.count(name, "keeper"));
        sh(&format!(
            "kill -STOP {both}; kill -9 {both}; for p in {both}; do while kill -0 $p 2>/dev/null; do sleep 0.01; done; done"
        ));
    }

    /// Kills a device's `pid` or `keeper`, and waits until it has another.
    pub(crate) fn kill(&self, name: &str, which: &str) {
        let old = self.count(name, which);
        sh(&format!("kill -9 {old}"));
        self.wait_for(name, |record| record[which] != old);
    }

    /// Waits for the device's record to say something.
    pub(crate) fn wait_for(&self, name: &str, it: impl Fn(&serde_json::Value) -> bool) {
        let path = self.run_dir().join(name).join("device.json");
        let begin = std::time::Instant::now();
        let record = || serde_json::from_slice(&std::fs::read(&path).ok()?).ok();
        while !record().is_some_and(|record| it(&record)) {
            assert!(begin.elapsed().as_secs() < 20, "{}", path.display());
            std::thread::sleep(std::time::Duration::from_millis(5));
        }
    }

    /// One number of a device's statistics.
    pub(crate) fn count(&self, name: &str, key: &str) -> u64 {
        self.stat(name)[key]
            .as_u64()
            .unwrap_or_else(|| panic!("{key} of {name}"))
    }

    /// Demands that nothing is left: no device, no loop device, no mount, no file.
    pub(crate) fn assert_clean(&self) {
        let own = self.run_dir().to_str().unwrap().to_owned();
        assert_eq!(self.uzram(&["list", "--noheadings"]), "");
        assert!(!sh("losetup -a").contains(&own));
        assert!(
            !std::fs::read_to_string("/proc/self/mountinfo")
                .unwrap()
                .contains(&own)
        );
        let left: Vec<_> = std::fs::read_dir(self.run_dir())
            .into_iter()
            .flatten()
            .flatten()
            .map(|e| e.file_name())
            .collect();
        assert!(left.iter().all(|name| name == ".lock"), "{left:?}");
    }
}

impl Drop for Bench {
    fn drop(&mut self) {
        let text = self
            .command(&["list", "--json"])
            .output()
            .map(|o| o.stdout)
            .unwrap_or_default();
        let devices: serde_json::Value = serde_json::from_slice(&text).unwrap_or_default();
        for device in devices.as_array().into_iter().flatten() {
            for at in device["mountpoints"].as_array().into_iter().flatten() {
                let _ = Command::new("umount")
                    .arg(at.as_str().unwrap_or_default())
                    .status();
            }
        }
        let _ = self.command(&["remove", "--all"]).output();
    }
}

/// Runs a shell line, demands success, gives stdout.
pub(crate) fn sh(line: &str) -> String {
    let output = Command::new("sh").args(["-euc", line]).output().unwrap();
    assert!(output.status.success(), "{line}: {output:?}");
    String::from_utf8_lossy(&output.stdout).into_owned()
}

/// Whether the programs are there, and a loop device on FUSE if one is wanted. What is missing is a reported
/// skip, or a failure where `UZRAM_REQUIRE_PEERS` is set.
pub(crate) fn have(test: &str, programs: &[&str], fuse_loop: bool) -> bool {
    let fuse_loop_works = || {
        let frontend = uzram_runtime::frontends::by_name("fuse-loop");
        frontend.map_or(Ok(()), |f| f.probe().map_err(|need| need.missing))
    };
    peers::have(test, programs) && (!fuse_loop || peers::possible(test, fuse_loop_works()))
}

/// Pages of text, no two alike, whose compressed sizes differ.
pub(crate) fn text(pages: usize) -> Vec<u8> {
    uzram_testkit::data::records(7, pages * 4096)
}
