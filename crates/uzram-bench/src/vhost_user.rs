//! `bench vhost-user`: a virtual machine's disk by vhost-user, beside that of `qemu-storage-daemon` on a file in tmpfs.
//!
//! The servers are programs of their own, run as anybody would run them. One driver asks them all: that of the tests, without
//! a virtual machine. It obeys the rings' rules for notifications and sleeps until it is called, so that what is compared is
//! what a server does between a request's index and its answer's.

use std::fs::{self, File};
use std::io::Read;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use serde::Deserialize;
use uzram_testkit::virtio::{Guest, READ, SLOTS, WRITE};

use crate::corpus::{self, PAGE};
use crate::host::Host;
use crate::lab::{Experiment, How, LabResult, Progress};
use crate::measure::{Random, Rounds};
use crate::report::Report;

/// `bench vhost-user`.
pub(crate) const EXPERIMENT: Experiment = Experiment::new(
    "vhost-user",
    "A guest's disk by vhost-user beside qemu-storage-daemon's on a file in tmpfs",
    run,
);

/// Where files are memory.
const TMPFS: &str = "/dev/shm";
/// How long an answer may take, or a server to listen.
const PATIENCE: Duration = Duration::from_secs(20);
/// Sectors of a page.
const SECTORS: u64 = (PAGE / 512) as u64;
/// Number of the feature `VHOST_F_LOG_ALL`.
const LOG_ALL: u32 = 26;
const DEPTHS: [u16; 2] = [1, SLOTS];

/// What is read of `uzram list --json`.
#[derive(Deserialize)]
struct Listed {
    name: String,
    mem_used_total: f64,
}

/// `qemu-storage-daemon`, which ends with this value, and its file.
struct Qemu {
    process: Child,
    file: PathBuf,
}

impl Drop for Qemu {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
        let _ = fs::remove_file(&self.file);
    }
}

impl Qemu {
    fn start(dir: &Path, socket: &Path, size_bytes: u64) -> Result<Qemu> {
        let name = dir.file_name().unwrap_or_default().to_string_lossy();
        let file = Path::new(TMPFS).join(format!("uzram-bench{name}"));
        File::create(&file)
            .and_then(|file| file.set_len(size_bytes))
            .with_context(|| file.display().to_string())?;
        let node = format!("driver=file,node-name=file,filename={}", file.display());
        let export = format!(
            "type=vhost-user-blk,id=disk,node-name=file,writable=on,addr.type=unix,addr.path={}",
            socket.display()
        );
        let process = Command::new("qemu-storage-daemon")
            .args(["--blockdev", &node, "--export", &export])
            .stdin(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .context("cannot run qemu-storage-daemon")?;
        let mut qemu = Qemu { process, file };
        let begin = Instant::now();
        while !socket.exists() {
            if let Some(status) = qemu.process.try_wait()? {
                let mut why = String::new();
                if let Some(stderr) = &mut qemu.process.stderr {
                    stderr.read_to_string(&mut why)?;
                }
                bail!("qemu-storage-daemon: {status}: {}", why.trim());
            }
            ensure!(
                begin.elapsed() < PATIENCE,
                "qemu-storage-daemon does not listen"
            );
            thread::sleep(Duration::from_millis(5));
        }
        Ok(qemu)
    }
}

/// A disk, and the guest that uses it.
struct Disk {
    what: &'static str,
    guest: Guest,
    random: Random,
    /// Answer times of the turns, in nanoseconds.
    nanoseconds: Vec<f64>,
}

impl Disk {
    fn connect(what: &'static str, socket: &Path) -> Result<Disk> {
        let mut guest = Guest::new(1);
        // That of QEMU's export is another one's affair.
        guest.wants_record = false;
        // QEMU's offers to note what it writes, for a migration.
        guest.without_features = 1 << LOG_ALL;
        guest
            .connect(socket)
            .with_context(|| format!("{what}, at {}", socket.display()))?;
        Ok(Disk {
            what,
            guest,
            random: Random::new(7),
            nanoseconds: Vec::new(),
        })
    }

    /// The next answer's slot.
    fn answer(&mut self) -> Result<u16> {
        let answer = self.guest.wait(0, PATIENCE);
        let (head, _) = answer.with_context(|| format!("{} does not answer", self.what))?;
        let slot = Guest::slot_of(head);
        let status = self.guest.status(0, slot);
        ensure!(status == 0, "{}: a request has status {status}", self.what);
        Ok(slot)
    }

    /// Writes a page each to the disk's first pages.
    fn fill(&mut self, pages: &[[u8; PAGE]], count: usize) -> Result<()> {
        for (number, page) in pages.iter().cycle().take(count).enumerate() {
            self.guest.write(self.guest.slot(0, 0) + PAGE as u64, page);
            let sector = number as u64 * SECTORS;
            self.guest.offer_plain(0, 0, WRITE, sector, PAGE as u32);
            self.answer()?;
        }
        Ok(())
    }

    /// Reads the disk's pages and compares some of them.
    fn check(&mut self, pages: &[[u8; PAGE]], count: usize) -> Result<()> {
        for number in (0..count).step_by(97) {
            let sector = number as u64 * SECTORS;
            self.guest.offer_plain(0, 1, READ, sector, PAGE as u32);
            self.answer()?;
            let same = self.guest.data(0, 1, PAGE) == pages[number % pages.len()];
            ensure!(same, "{}: page {number} is another one", self.what);
        }
        Ok(())
    }

    /// Does so many requests to pages at random, with `depth` in flight. What is written is the pages' contents, a few of
    /// which stand in the slots.
    fn turn(&mut self, kind: u32, depth: u16, requests: usize, count: usize) -> Result<()> {
        let mut begun = [Instant::now(); SLOTS as usize];
        let mut given = 0;
        let mut give = |disk: &mut Disk, slot: u16, begun: &mut [Instant]| {
            let sector = disk.random.below(count) as u64 * SECTORS;
            begun[usize::from(slot)] = Instant::now();
            disk.guest.offer_plain(0, slot, kind, sector, PAGE as u32);
            given += 1;
            given
        };
        for slot in 0..depth {
            give(self, slot, &mut begun);
        }
        let mut done = 0;
        let mut last = usize::from(depth);
        while done < requests {
            let slot = self.answer()?;
            done += 1;
            let taken = begun[usize::from(slot)].elapsed();
            self.nanoseconds.push(taken.as_nanos() as f64);
            if last < requests {
                last = give(self, slot, &mut begun);
            }
        }
        Ok(())
    }

    /// The time that this part of the answers took at most, of all turns since it was last asked, in microseconds.
    fn microseconds(&mut self, parts: [f64; 2]) -> [f64; 2] {
        let mut all = std::mem::take(&mut self.nanoseconds);
        all.sort_by(f64::total_cmp);
        let at = |part: f64| {
            let at = (all.len() as f64 * part) as usize;
            all.get(at.min(all.len().saturating_sub(1)))
                .map_or(0.0, |ns| ns / 1e3)
        };
        parts.map(at)
    }
}

fn run(how: &How, progress: Progress<'_>) -> LabResult {
    let count: usize = how.size(64 << 10, 2 << 10);
    let rounds = how.rounds.unwrap_or(how.size(11, 3));
    let requests = how.size(20_000, 1000);
    progress("collecting process memory");
    let corpus = corpus::process_memory(how.size(128, 8))?.without_same_filled();
    let pages = corpus.pages();
    ensure!(!pages.is_empty(), "no process memory was found");
    let host = Host::new()?;
    let size_bytes = (count * PAGE) as u64;
    let socket = host.dir().join("qemu.sock");
    let qemu = Qemu::start(host.dir(), &socket, size_bytes)?;
    let mut disks = vec![Disk::connect("qemu-storage-daemon", &socket)?];
    for algorithm in ["null", "lz4"] {
        let socket = host.dir().join(format!("{algorithm}.sock"));
        let size = size_bytes.to_string();
        let listen = format!("unix:{}", socket.display());
        host.say(&[
            "create",
            "--frontend",
            "vhost-user",
            "--size",
            &size,
            "--algorithm",
            algorithm,
            "--listen",
            &listen,
        ])?;
        disks.push(Disk::connect(algorithm, &socket)?);
    }
    let mut report = Report::new(
        "bench vhost-user",
        format!(
            "pages of process memory, {:.0} MB a disk; requests of 4 KiB at random, by the tests' driver",
            size_bytes as f64 / 1e6
        ),
    );
    for disk in &mut disks {
        progress(&format!("filling the disk: {}", disk.what));
        disk.fill(pages, count)?;
        disk.check(pages, count)?;
        for slot in 0..SLOTS {
            let at = disk.guest.slot(0, slot) + PAGE as u64;
            disk.guest
                .write(at, &pages[usize::from(slot) % pages.len()]);
        }
    }
    report.add(
        "qemu-storage-daemon: memory of the file, MB",
        fs::metadata(&qemu.file)?.blocks() as f64 * 512.0 / 1e6,
    );
    let listed: Vec<Listed> = serde_json::from_str(&host.say(&["list", "--json"])?)?;
    for (device, algorithm) in listed.iter().zip(["null", "lz4"]) {
        let what = format!("{algorithm} ({}): memory of the pool, MB", device.name);
        report.add(what, device.mem_used_total / 1e6);
    }
    // Reads first: what is written at random are few pages, and all the same.
    for (kind, word) in [(READ, "read"), (WRITE, "write")] {
        for depth in DEPTHS {
            progress(&format!("{word}, {depth} in flight"));
            let mut failed = None;
            let measured = Rounds::of(rounds, &mut disks, |disk, _| {
                if let Err(error) = disk.turn(kind, depth, requests, count) {
                    failed.get_or_insert(error);
                }
            });
            if let Some(error) = failed {
                return Err(error);
            }
            for (who, disk) in disks.iter_mut().enumerate() {
                let of = format!("{}: {word}, {depth} in flight, ", disk.what);
                let iops = requests as f64 / measured.seconds(who) / 1e3;
                report.add(format!("{of}1000 requests/s"), iops);
                let [half, most] = disk.microseconds([0.5, 0.99]);
                report.add(format!("{of}p50, us"), half);
                report.add(format!("{of}p99, us"), most);
            }
            for (who, goal) in [(1, 1.0), (2, 0.8)] {
                let what = format!(
                    "{word}, {depth} in flight: {} beside qemu-storage-daemon",
                    disks[who].what
                );
                report.at_least(what, measured.ratio(0, who), goal);
            }
        }
    }
    drop(disks);
    drop(qemu);
    Ok(Box::new(report))
}
