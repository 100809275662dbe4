//! What a process does that a swap device depends on: whatever it waits for may be waiting for it.
//!
//! * It is the last that the kernel kills for lack of memory.
//! * Its allocations in the kernel do not start I/O (`PR_SET_IO_FLUSHER`), which might be on its own device.
//! * Its memory stays where it is: program and heap are locked now, and what is mapped later as it is touched. (Locking
//!   the arena whole would make a compressed device cost its full size.)

use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::time::Duration;

use rustix::fs::{Mode, OFlags};
use rustix::mm::MlockAllFlags;
use rustix::mount::{self, FsMountFlags, FsOpenFlags, MountAttrFlags};
use thread_priority::ThreadPriority;
use thread_priority::unix::{RealtimeThreadSchedulePolicy, ScheduleParams, ThreadSchedulePolicy};
use uzram::Device;

use crate::exit::{Failure, Kind, Result};

/// What the stock holds for bursts unless the user says otherwise.
pub(crate) const DEFAULT_RESERVE: u64 = 32 << 20;
/// How long the stock is left alone while nothing is written.
const PAUSE: Duration = Duration::from_millis(100);
/// How long the stock is left alone between two looks while it is used.
const TURN: Duration = Duration::from_millis(1);
/// What the kernel should keep free: half of it is the stock's under pressure (see [`keep_stock`]).
const FREE_ENOUGH: u64 = 32 << 20;
/// What others may take between the look at free memory and ours.
const MARGIN: u64 = 1 << 20;

/// Does all of it for this process and those that it starts. What the system refuses weakens the device and is told.
pub(crate) fn prepare() {
    if let Err(error) = std::fs::write("/proc/self/oom_score_adj", "-1000") {
        told(
            "cannot be spared when memory runs out",
            "the kernel may kill the process that serves its swap",
            error,
        );
    }
    if let Err(error) = rustix::process::configure_io_flusher_behavior(true) {
        told(
            "PR_SET_IO_FLUSHER",
            "needs CAP_SYS_RESOURCE; the server takes no memory for a request, so this matters only for what the \
             kernel allocates on its behalf",
            error.into(),
        );
    }
    if let Some(bytes) = min_free().filter(|bytes| *bytes < FREE_ENOUGH) {
        let message = format!(
            "the kernel keeps only {} KiB free (vm.min_free_kbytes): under extreme pressure writes to swap may fail; \
             {} are enough",
            bytes >> 10,
            FREE_ENOUGH >> 10
        );
        eprintln!("uzram: warning: {message}");
        tracing::warn!("{message}");
    }
    // First what there is, wholly; then, on top, what comes, as it is touched.
    let locked = rustix::mm::mlockall(MlockAllFlags::CURRENT)
        .and_then(|()| rustix::mm::mlockall(MlockAllFlags::FUTURE | MlockAllFlags::ONFAULT));
    if let Err(error) = locked {
        let _ = rustix::mm::munlockall();
        told(
            "memory cannot be locked",
            "needs CAP_IPC_LOCK; parts of the server may be swapped out to its own device",
            error.into(),
        );
    }
}

/// A file of memory for a swap device: one that is never swapped out itself, not even while the device has no server and
/// nobody locks it. It lies on a tmpfs of its own that is mounted nowhere.
pub(crate) fn unswappable_file() -> Result<OwnedFd> {
    let make = || {
        let fs = mount::fsopen("tmpfs", FsOpenFlags::FSOPEN_CLOEXEC)?;
        // Linux 6.4; no size is no limit.
        mount::fsconfig_set_flag(&fs, "noswap")?;
        mount::fsconfig_set_string(&fs, "size", "0")?;
        mount::fsconfig_set_string(&fs, "mode", "0700")?;
        mount::fsconfig_create(&fs)?;
        let root = mount::fsmount(&fs, FsMountFlags::FSMOUNT_CLOEXEC, MountAttrFlags::empty())?;
        let flags = OFlags::TMPFILE | OFlags::RDWR;
        rustix::fs::openat(&root, ".", flags, Mode::RUSR | Mode::WUSR)
    };
    make().or_else(|error: rustix::io::Errno| {
        told(
            "no memory that is never swapped (tmpfs, noswap)",
            "needs CAP_SYS_ADMIN and Linux 6.4; should the server die, its memory may be swapped to its own device",
            error.into(),
        );
        let file = rustix::fs::memfd_create("uzram", rustix::fs::MemfdFlags::empty());
        Ok(file.map_err(std::io::Error::from)?)
    })
}

/// Says what the system refuses.
fn told(what: &str, why: &str, error: std::io::Error) {
    let message = format!("{what}: {error} ({why})");
    eprintln!("uzram: warning: {message}");
    tracing::warn!("{message}");
}

/// Keeps the device's stock, from a thread of its own.
///
/// Under pressure every page that swapping frees is fought for, and the stock has to win: the kernel lets real-time tasks
/// (and hardly anybody else) have half of what it keeps free below its `min` watermark. But they, too, have to make room
/// where that is used up, at a priority that leaves others no CPU to make it; so memory is only asked for that is there.
pub(crate) fn keep_stock(device: &Arc<Device>) -> Result {
    let device = Arc::downgrade(device);
    let work = move || {
        let real_time = thread_priority::set_thread_priority_and_policy(
            thread_priority::thread_native_id(),
            ThreadPriority::from_posix(ScheduleParams { sched_priority: 1 }),
            ThreadSchedulePolicy::Realtime(RealtimeThreadSchedulePolicy::RoundRobin),
        );
        if let Err(error) = &real_time {
            tracing::warn!(
                "no real-time scheduling: {error:?} (needs CAP_SYS_NICE; writes may fail under extreme pressure)"
            );
        }
        let zoneinfo = std::fs::read_to_string("/proc/zoneinfo").unwrap_or_default();
        let least = least_free(&zoneinfo, real_time.is_ok());
        let gate = || free_bytes() > least;
        while let Some(device) = device.upgrade() {
            if device.maintain(&gate) {
                std::thread::sleep(TURN);
            } else {
                device.wait_for_demand(PAUSE);
            }
        }
    };
    std::thread::Builder::new()
        .name("stock".into())
        .spawn(work)?;
    Ok(())
}

/// How much has to be free in the whole machine for the kernel to hand out a page without making room: in each zone what
/// is below its `min` watermark (half of it, for real-time tasks) and what is kept for allocations that need the zone.
fn least_free(zoneinfo: &str, real_time: bool) -> u64 {
    let (mut sum, mut min, mut managed) = (0, 0, 0);
    for line in zoneinfo.lines() {
        let mut words = line.split_whitespace();
        let numbers = |words: std::str::SplitWhitespace<'_>| -> Vec<u64> {
            let digits = words.map(|word| word.trim_matches(|c: char| !c.is_ascii_digit()));
            digits.filter_map(|word| word.parse().ok()).collect()
        };
        match words.next() {
            Some("min") => min = numbers(words).first().copied().unwrap_or(0),
            Some("managed") => managed = numbers(words).first().copied().unwrap_or(0),
            // The zone's size stands before what is protected of it, which may be more.
            Some("protection:") => {
                let kept = numbers(words).into_iter().max().unwrap_or(0);
                let below = if real_time { min / 2 } else { min };
                sum += managed.min(below + kept);
            }
            _ => {}
        }
    }
    sum * 4096 + MARGIN
}

/// What the kernel keeps free, in bytes.
fn min_free() -> Option<u64> {
    let text = std::fs::read_to_string("/proc/sys/vm/min_free_kbytes").ok()?;
    Some(text.trim().parse::<u64>().ok()? << 10)
}

fn free_bytes() -> u64 {
    let info = rustix::system::sysinfo();
    info.freeram as u64 * u64::from(info.mem_unit)
}

/// Makes the block device a swap area and uses it, freed pages being discarded.
pub(crate) fn swap_on(node: &str) -> Result {
    run("mkswap", &["--quiet", node])?;
    run("swapon", &["--discard", node])
}

fn run(program: &str, args: &[&str]) -> Result {
    let output = std::process::Command::new(program).args(args).output();
    let failed = |why: String| {
        let message = format!("{program} {}: {why}", args.join(" "));
        Failure::new(Kind::Failed, message)
    };
    let output = output.map_err(|error| failed(error.to_string()))?;
    if output.status.success() {
        return Ok(());
    }
    Err(failed(
        String::from_utf8_lossy(&output.stderr).trim().into(),
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn free_memory_is_what_the_zones_give_without_making_room() {
        let zoneinfo = "\
Node 0, zone      DMA
  pages free     3808
        boost    0
        min      190
        low      237
        managed  3840
        cma      0
        protection: (0, 829, 829, 829, 829)
Node 0, zone    DMA32
  pages free     43770
        min      10544
        managed  241000
        protection: (0, 0, 0, 0, 0)
";
        let pages = |real_time| (least_free(zoneinfo, real_time) - MARGIN) / 4096;
        assert_eq!(pages(true), 95 + 829 + 5272);
        assert_eq!(pages(false), 190 + 829 + 10544);
        assert_eq!(least_free("", true), MARGIN);
    }
}
