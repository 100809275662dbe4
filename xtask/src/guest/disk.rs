//! A disk of the guest that a program of this machine serves, by vhost-user: the device and its end, and what is done to its
//! server meanwhile.
//!
//! While the test runs the server is killed and upgraded in turns. QEMU connects again each time. What the guest sees of
//! it is the test's affair: nothing, but waiting.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result, ensure};

use crate::sh;

/// The disk's size. `guest/tests` know it.
const SIZE: &str = "256M";
/// How long a server lives. QEMU looks for another once a second.
const LIFE: Duration = Duration::from_millis(2500);
/// Deaths that a test must have seen to have shown anything.
const LEAST: u32 = 6;

/// A device in a run directory of its own; removed when dropped.
pub(crate) struct HostDisk {
    program: PathBuf,
    dir: PathBuf,
    socket: String,
}

impl HostDisk {
    /// Makes a device. The path of its socket must be short, so that it is not in the results' directory.
    pub(crate) fn new(program: &Path) -> Result<Self> {
        // Several guests may have one each.
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let name = format!("uzram-guest-{}-{number}", std::process::id());
        let mut disk = Self {
            program: program.to_owned(),
            dir: std::env::temp_dir().join(name),
            socket: String::new(),
        };
        fs::create_dir_all(&disk.dir).with_context(|| disk.dir.display().to_string())?;
        let create = ["create", "--size", SIZE, "--frontend", "vhost-user"];
        let socket = sh::output(disk.command(&create))?;
        disk.socket = socket.trim_end().to_owned();
        Ok(disk)
    }

    fn command(&self, args: &[&str]) -> Command {
        let mut command = Command::new(&self.program);
        command
            .args(args)
            .env("UZRAM_RUN_DIR", self.dir.join("run"));
        command
    }

    /// Adds the disk to a virtual machine with so much memory, which the server needs to share.
    pub(crate) fn add_to(&self, qemu: &mut Command, memory: &str) {
        let memory = format!("memory-backend-memfd,id=shared,size={memory},share=on");
        qemu.args(["-object", &memory, "-numa", "node,memdev=shared"]);
        let socket = self.socket.replace(',', ",,");
        let chardev = format!("socket,id=disk,path={socket},reconnect=1");
        qemu.args(["-chardev", &chardev]);
        qemu.args(["-device", "vhost-user-blk-pci,chardev=disk,num-queues=2"]);
    }

    fn server(&self) -> Result<String> {
        let record = fs::read_to_string(self.dir.join("run/zram0/device.json"))?;
        let record: serde_json::Value = serde_json::from_str(&record)?;
        Ok(record["pid"].to_string())
    }

    /// Whether the guest has read of the disk, as its driver does first. Where the server dies while the driver starts, QEMU
    /// 7.2 may not start the device at all, and the driver waits for ever.
    fn is_read(&self) -> bool {
        let stat = sh::output(self.command(&["stat", "zram0", "--json"]));
        let stat = stat
            .ok()
            .and_then(|text| serde_json::from_str::<serde_json::Value>(&text).ok());
        stat.is_some_and(|stat| stat["read_requests"].as_u64() > Some(0))
    }

    /// Kills and upgrades the server in turns while `runs`, from when the guest has read of the disk; how often.
    pub(crate) fn disturb(&self, runs: &AtomicBool) -> Result<u32> {
        let mut count = 0;
        while runs.load(Ordering::Relaxed) {
            thread::sleep(LIFE);
            if count == 0 && !self.is_read() || !runs.load(Ordering::Relaxed) {
                continue;
            }
            let before = self.server()?;
            match count % 2 {
                0 => {
                    sh::run(sh::command("kill", &["-9", &before]))?;
                    while self.server().is_ok_and(|now| now == before) {
                        thread::sleep(Duration::from_millis(10));
                    }
                }
                _ => {
                    let copy = self.dir.join(format!("program{count}"));
                    fs::copy(&self.program, &copy)?;
                    let mut upgrade = self.command(&["upgrade", "zram0", "--program"]);
                    upgrade.arg(&copy);
                    sh::output(upgrade)?;
                }
            }
            count += 1;
        }
        Ok(count)
    }

    /// Keeps the device's log, and demands that the server died often enough.
    pub(crate) fn judge(&self, disturbed: Result<u32>, results: &Path) -> Result<()> {
        let _ = fs::copy(self.dir.join("run/zram0/log"), results.join("zram0.log"));
        let count = disturbed.context("disturbing the disk's server")?;
        println!("guest: the disk's server was killed or upgraded {count} times");
        ensure!(
            count >= LEAST,
            "the disk's server was killed or upgraded only {count} times"
        );
        Ok(())
    }
}

impl Drop for HostDisk {
    fn drop(&mut self) {
        let _ = self.command(&["remove", "--all", "--force"]).output();
        let _ = fs::remove_dir_all(&self.dir);
    }
}
