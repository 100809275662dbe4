//! Runs `uzram` and the `uzram-bench` that it starts, as they are installed: beside each other.

#![allow(dead_code, reason = "each test program uses a part")]

use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

pub(crate) use uzram_testkit::peers::have;

/// A folder with both programs, and a run directory; dropped, it removes every device that is left.
pub(crate) struct Bench {
    dir: tempfile::TempDir,
}

impl Bench {
    pub(crate) fn new() -> Bench {
        let bench = Bench::without_benchmarks();
        link(program(), &bench.path("bin/uzram-bench"));
        bench
    }

    /// `uzram` alone.
    pub(crate) fn without_benchmarks() -> Bench {
        // On the file system of the programs, which are linked to.
        let dir = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
        let bench = Bench { dir };
        std::fs::create_dir(bench.path("bin")).unwrap();
        let uzram = program().with_file_name("examples").join("uzram");
        assert!(
            uzram.exists(),
            "cargo test builds {}, an example of this crate, unless it is told to build one test alone",
            uzram.display()
        );
        link(&uzram, &bench.path("bin/uzram"));
        bench
    }

    /// A path for a test's own files.
    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    pub(crate) fn run_dir(&self) -> PathBuf {
        self.path("run")
    }

    pub(crate) fn command(&self, args: &[&str]) -> Command {
        let mut command = Command::new(self.path("bin/uzram"));
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

    /// Demands that nothing is left: no device, no loop device, no mount, no file.
    pub(crate) fn assert_clean(&self) {
        let own = self.run_dir().to_str().unwrap().to_owned();
        assert_eq!(self.uzram(&["list", "--noheadings"]), "");
        assert!(!sh("losetup -a").contains(&own));
        let mounts = std::fs::read_to_string("/proc/self/mountinfo").unwrap();
        assert!(!mounts.contains(&own));
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
        let _ = self.command(&["remove", "--all"]).output();
    }
}

/// The program `uzram-bench` as cargo built it.
pub(crate) fn program() -> &'static Path {
    Path::new(env!("CARGO_BIN_EXE_uzram-bench"))
}

/// A hard link: by a symbolic one the program would look beside its target.
fn link(from: &Path, to: &Path) {
    std::fs::hard_link(from, to).unwrap();
}

/// Runs a shell line, demands success, gives stdout.
pub(crate) fn sh(line: &str) -> String {
    let output = Command::new("sh").args(["-euc", line]).output().unwrap();
    assert!(output.status.success(), "{line}: {output:?}");
    String::from_utf8_lossy(&output.stdout).into_owned()
}
