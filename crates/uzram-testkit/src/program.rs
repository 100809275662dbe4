//! Runs a program that makes devices, with a run directory of its own, and takes down whatever a test leaves.

use std::path::PathBuf;
use std::process::{Command, Output, Stdio};

/// The variable that says by which transport devices of `fuse-loop` are served where a test does not care: a value of
/// `--fuse-uring`.
pub const FUSE_URING: &str = "UZRAM_TEST_FUSE_URING";

/// A run directory; dropped, it unmounts and removes every device in it.
pub struct Bench {
    program: PathBuf,
    dir: tempfile::TempDir,
}

impl Bench {
    /// Devices of that program, in a folder of their own.
    pub fn new(program: impl Into<PathBuf>, dir: tempfile::TempDir) -> Bench {
        let program = program.into();
        Bench { program, dir }
    }

    /// A path for a test's own files.
    pub fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// The devices' run directory.
    pub fn run_dir(&self) -> PathBuf {
        self.path("run")
    }

    /// The program with arguments, to be run.
    pub fn command(&self, args: &[&str]) -> Command {
        let mut command = Command::new(&self.program);
        command
            .args(args)
            .env("UZRAM_RUN_DIR", self.run_dir())
            .stdin(Stdio::null());
        let has = |part: &str| args.iter().any(|arg| arg.contains(part));
        if args.first() == Some(&"create")
            && has("fuse-loop")
            && !has("--fuse-uring")
            && let Some(when) = std::env::var_os(FUSE_URING)
        {
            command.arg("--fuse-uring").arg(when);
        }
        command
    }

    /// Runs it, however it ends.
    pub fn output(&self, args: &[&str]) -> Output {
        self.command(args).output().unwrap()
    }

    /// Runs it, demands success, gives stdout.
    pub fn uzram(&self, args: &[&str]) -> String {
        let output = self.output(args);
        assert!(output.status.success(), "uzram {args:?}: {output:?}");
        String::from_utf8(output.stdout).unwrap()
    }

    /// Runs it, demands this exit code, gives stderr.
    pub fn fails(&self, code: i32, args: &[&str]) -> String {
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
    pub fn create(&self, args: &[&str]) -> String {
        let path = self.uzram(&[&["create"], args].concat());
        let path = path.strip_suffix('\n').unwrap();
        assert!(
            !path.is_empty() && !path.contains('\n'),
            "the path and nothing else: {path:?}"
        );
        path.to_owned()
    }

    /// A device's statistics.
    pub fn stat(&self, name: &str) -> serde_json::Value {
        serde_json::from_str(&self.uzram(&["stat", name, "--json"])).unwrap()
    }

    /// Kills server and keeper, so that neither can start the other, and waits for their ends.
    pub fn kill_all(&self, name: &str) {
        let both = ["pid", "keeper"].map(|which| self.count(name, which));
        kill_together(&both);
    }

    /// Kills a device's `pid` or `keeper`, and waits until it has another.
    pub fn kill(&self, name: &str, which: &str) {
        let old = self.count(name, which);
        sh(&format!("kill -9 {old}"));
        self.wait_for(name, |record| record[which] != old);
    }

    /// Waits for the device's record to say something.
    pub fn wait_for(&self, name: &str, it: impl Fn(&serde_json::Value) -> bool) {
        let path = self.run_dir().join(name).join("device.json");
        let begin = std::time::Instant::now();
        let record = || serde_json::from_slice(&std::fs::read(&path).ok()?).ok();
        while !record().is_some_and(|record| it(&record)) {
            assert!(begin.elapsed().as_secs() < 20, "{}", path.display());
            std::thread::sleep(std::time::Duration::from_millis(5));
        }
    }

    /// One number of a device's statistics.
    pub fn count(&self, name: &str, key: &str) -> u64 {
        self.stat(name)[key]
            .as_u64()
            .unwrap_or_else(|| panic!("{key} of {name}"))
    }

    /// Removes the last device, and demands that nothing is left.
    pub fn remove_last(&self, name: &str) {
        self.uzram(&["remove", name]);
        self.assert_clean();
    }

    /// Demands that nothing is left: no device, no loop device, no mount, no file.
    pub fn assert_clean(&self) {
        let own = self.run_dir().to_str().unwrap().to_owned();
        assert_eq!(self.uzram(&["list", "--noheadings"]), "");
        assert!(!sh("losetup -a").contains(&own));
        assert!(!crate::mountinfo().contains(&own));
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

/// Stops a process; dropped, lets it go on.
#[derive(Debug)]
pub struct Stopped(u64);

impl Stopped {
    /// Waits until all threads stand still: the signal reaches one of them, which stops the others, and until then each of them
    /// may answer once more.
    ///
    /// # Panics
    ///
    /// If there is no such process, or it goes on for ten seconds.
    pub fn new(pid: u64) -> Stopped {
        let stopped = Stopped(pid);
        sh(&format!("kill -STOP {pid}"));
        let begin = std::time::Instant::now();
        while threads(pid).iter().any(|state| !"TZX".contains(*state)) {
            assert!(begin.elapsed().as_secs() < 10, "{pid} does not stop");
            std::thread::sleep(std::time::Duration::from_millis(1));
        }
        stopped
    }
}

impl Drop for Stopped {
    fn drop(&mut self) {
        // It may have been killed meanwhile.
        let _ = Command::new("kill")
            .args(["-CONT", &self.0.to_string()])
            .stderr(Stdio::null())
            .status();
    }
}

/// The states of a process's threads, as `/proc` has them; none of a process that there is no more.
fn threads(pid: u64) -> Vec<char> {
    let tasks = std::fs::read_dir(format!("/proc/{pid}/task"));
    let tasks = tasks.into_iter().flatten().flatten();
    let state = |task: std::fs::DirEntry| {
        let stat = std::fs::read_to_string(task.path().join("stat")).ok()?;
        // The name stands in parentheses, and may hold some itself.
        stat.rsplit_once(") ")?.1.chars().next()
    };
    tasks.filter_map(state).collect()
}

/// Kills processes so that none does anything about the end of another, and waits for their ends.
///
/// # Panics
///
/// As [`Stopped::new`].
pub fn kill_together(pids: &[u64]) {
    let stopped: Vec<Stopped> = pids.iter().map(|&pid| Stopped::new(pid)).collect();
    let pids: Vec<String> = pids.iter().map(u64::to_string).collect();
    let pids = pids.join(" ");
    sh(&format!(
        "kill -9 {pids}; for p in {pids}; do while kill -0 $p 2>/dev/null; do sleep 0.01; done; done"
    ));
    stopped.into_iter().for_each(std::mem::forget);
}

/// Runs a shell line, demands success, gives stdout.
pub fn sh(line: &str) -> String {
    let output = Command::new("sh").args(["-euc", line]).output().unwrap();
    assert!(output.status.success(), "{line}: {output:?}");
    String::from_utf8_lossy(&output.stdout).into_owned()
}
