//! What a process does that a swap device depends on: whatever it waits for may be waiting for it.
//!
//! * It is the last that the kernel kills for lack of memory.
//! * Its allocations in the kernel do not start I/O (`PR_SET_IO_FLUSHER`), which might be on its own device.
//! * Its memory stays where it is: program and heap are locked now, and what is mapped later as it is touched. (Locking
//!   the arena whole would make a compressed device cost its full size.)
//! * So do the pages of program and libraries from which a process is started, for a keeper and a standby that have to be
//!   started anew.
//! * It is a real-time task while it starts (keeper and standby, which do next to nothing, stay one), since then the kernel
//!   gives it what others may not have: a server that takes over from one that was killed needs memory while nothing can
//!   be swapped out.
//!
//! Real-time tasks have half of what the kernel keeps free below its `min` watermark (`vm.min_free_kbytes`) when they
//! allocate. The upper half of that is the stock's ([`keep_stock`]), the lower half is for servers that start.

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::OsStr;
use std::fs::File;
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use rustix::fs::{Mode, OFlags};
use rustix::mm::MlockAllFlags;
use rustix::mount::{self, FsMountFlags, FsOpenFlags, MountAttrFlags};
use thread_priority::ThreadPriority;
use thread_priority::unix::{
    NormalThreadSchedulePolicy, RealtimeThreadSchedulePolicy, ScheduleParams, ThreadSchedulePolicy,
};
use uzram::Device;
use uzram_control::size;
use uzram_frontend::keep_resident;
use uzram_spec::{Failure, Result, rlimit};

use crate::process::{self, run};

/// What server, keeper and standby take themselves, about.
const PROCESSES: u64 = 32 << 20;
/// How long the stock is left alone while nothing is written.
const PAUSE: Duration = Duration::from_millis(100);
/// How long the stock is left alone between two looks while it is used.
const TURN: Duration = Duration::from_millis(1);
/// What others may take between the look at free memory and ours.
const MARGIN: u64 = 1 << 20;

/// Does all of it for this process. What the system refuses weakens the device and is told.
pub(crate) fn prepare() {
    protect(told);
    lock();
}

/// Does all of it but locking, for this thread and for the threads and processes that it starts. `told` is told of what the
/// system refuses.
pub(crate) fn protect(told: fn(&str, &str, std::io::Error)) {
    if let Err(error) = std::fs::write("/proc/self/oom_score_adj", "-1000") {
        told(
            "cannot be spared when memory runs out",
            "needs CAP_SYS_RESOURCE; the kernel may kill the process that serves its swap",
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
    if let Err(error) = become_real_time() {
        told(
            "no real-time scheduling",
            "needs CAP_SYS_NICE; under extreme pressure writes may fail, and a server that is killed may find no memory \
             to start again",
            error,
        );
    }
}

/// Refuses a swap device that would take more memory than there is, before its process is protected from those who would
/// be killed for it: what is brought in at once is the slot table, the pool's books and the reserve.
pub(crate) fn check_room(size: u64, reserve: u64) -> Result {
    let refused = |message: String| Err(Failure::usage(message));
    // 8 bytes for each page, and 64 for each span of the arena, which is four times the size.
    let books = size / 512 + size / 4096;
    let needed = books.saturating_add(reserve).saturating_add(PROCESSES);
    match available() {
        Some(available) if needed > available / 10 * 9 => refused(format!(
            "a swap device of {} with a reserve of {} takes {} at once, and {} of memory are available: choose a smaller \
             --size or --reserve",
            size::human(size),
            size::human(reserve),
            size::human(needed),
            size::human(available)
        )),
        _ => Ok(()),
    }
}

/// `MemAvailable` in bytes.
fn available() -> Option<u64> {
    let info = std::fs::read_to_string("/proc/meminfo").ok()?;
    let line = info
        .lines()
        .find_map(|line| line.strip_prefix("MemAvailable:"))?;
    let kib = line.trim().strip_suffix("kB")?.trim().parse::<u64>().ok()?;
    Some(kib << 10)
}

/// Locks this process in memory.
pub(crate) fn lock() {
    // First what there is, wholly; then, on top, what comes, as it is touched. In between what is to be there untouched.
    let locked = rustix::mm::mlockall(MlockAllFlags::CURRENT).and_then(|()| {
        if let Err(error) = keep_program() {
            tracing::debug!(%error, "parts of the program may be swapped out while it runs");
        }
        rustix::mm::mlockall(MlockAllFlags::FUTURE | MlockAllFlags::ONFAULT)
    });
    if let Err(error) = locked {
        let _ = rustix::mm::munlockall();
        let limit = rlimit::named(rustix::process::Resource::Memlock).unwrap_or_default();
        told(
            "memory cannot be locked",
            &format!(
                "needs CAP_IPC_LOCK; parts of the server may be swapped out to its own device; {limit}"
            ),
            error.into(),
        );
    }
}

/// Keeps in memory what a process of this program is started from. What is locked of a program that runs are its own copies
/// of what it has written to, initialised data above all: the pages in the file are not, and on a tmpfs they are swapped out.
/// To be called before what is mapped is locked as it is touched.
fn keep_program() -> std::io::Result<()> {
    let maps = std::fs::read("/proc/self/maps")?;
    for (path, ranges) in program_files(&maps) {
        let file = match File::open(OsStr::from_bytes(path)) {
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => continue,
            opened => opened?,
        };
        for (offset, len) in ranges {
            keep_resident(&file, offset, len)?;
        }
    }
    // Where the loader looks libraries up.
    if !lines(&maps).any(|line| line.ends_with(LIBRARIES.as_bytes())) {
        let cache = File::open(LIBRARIES)?;
        keep_resident(&cache, 0, cache.metadata()?.len() as usize)?;
    }
    Ok(())
}

/// The rights of what [`keep_resident`] maps.
const KEPT: &str = "r--s";
const LIBRARIES: &str = "/etc/ld.so.cache";

/// The files of which something is executed, and what is mapped of them: offset and length. As proc_pid_maps(5) has it. A
/// file that is kept already, as a fork inherits it, is left out.
fn program_files(maps: &[u8]) -> BTreeMap<&[u8], BTreeSet<(u64, usize)>> {
    let mut files: BTreeMap<&[u8], BTreeSet<(u64, usize)>> = BTreeMap::new();
    let (mut executed, mut kept) = (BTreeSet::new(), BTreeSet::new());
    for line in lines(maps) {
        let path_at = line.iter().position(|byte| *byte == b'/');
        // The path need not be text.
        let (fields, path) = line.split_at(path_at.unwrap_or(line.len()));
        let fields = String::from_utf8_lossy(fields);
        let mut fields = fields.split_ascii_whitespace();
        let mut field = || fields.next().unwrap_or_default();
        let (range, rights, offset) = (field(), field(), field());
        let hex = |digits| u64::from_str_radix(digits, 16).ok();
        let Some((begin, end)) = range.split_once('-') else {
            continue;
        };
        let (Some(begin), Some(end), Some(offset)) = (hex(begin), hex(end), hex(offset)) else {
            continue;
        };
        if path.is_empty() || path.ends_with(b" (deleted)") || path.starts_with(b"/dev/") {
            continue;
        }
        if rights.contains('x') {
            executed.insert(path);
        }
        let len = usize::try_from(end.saturating_sub(begin)).unwrap_or_default();
        if rights == KEPT {
            kept.insert(path);
        }
        files.entry(path).or_default().insert((offset, len));
    }
    files.retain(|path, _| executed.contains(path) && !kept.contains(path));
    files
}

fn lines(text: &[u8]) -> impl Iterator<Item = &[u8]> {
    text.split(|byte| *byte == b'\n')
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
pub(crate) fn told(what: &str, why: &str, error: std::io::Error) {
    let message = format!("{what}: {error} ({why})");
    crate::note::tell(&format!("warning: {message}"));
    tracing::warn!("{message}");
}

/// Keeps the device's stock, from a thread of its own.
///
/// Under pressure every page that swapping frees is fought for, and the stock has to win: so its thread is a real-time one.
/// But real-time tasks, too, have to make room where the kernel's reserve is used up, at a priority that leaves others no
/// CPU to make it; so memory is only asked for that is there.
pub(crate) fn keep_stock(device: &Arc<Device>) -> Result {
    let device = Arc::downgrade(device);
    let work = move || {
        // Refused only where it was refused, and told, before.
        let real_time = become_real_time();
        let zoneinfo = std::fs::read_to_string("/proc/zoneinfo").unwrap_or_default();
        let least = least_free(&zoneinfo, real_time.is_ok());
        let gate = || free_bytes() > least;
        while let Some(device) = device.upgrade() {
            if device.swap().maintain(&gate) {
                std::thread::sleep(TURN);
            } else {
                device.swap().wait_for_demand(PAUSE);
            }
        }
    };
    Ok(process::spawn("stock", work)?)
}

fn become_real_time() -> std::io::Result<()> {
    set_policy(
        ThreadSchedulePolicy::Realtime(RealtimeThreadSchedulePolicy::RoundRobin),
        1,
    )
}

/// To be called by each thread that was started as a real-time one, when it has what it needs: requests take CPU time
/// from those who make room for them otherwise.
pub(crate) fn become_normal() {
    let normal = ThreadSchedulePolicy::Normal(NormalThreadSchedulePolicy::Other);
    // Setting the policy makes a thread as nice as can be.
    let set =
        set_policy(normal, 0).and_then(|()| Ok(rustix::process::setpriority_process(None, 0)?));
    if let Err(error) = set {
        tracing::warn!(%error, "a thread does not get an ordinary priority back");
    }
}

fn set_policy(policy: ThreadSchedulePolicy, sched_priority: i32) -> std::io::Result<()> {
    let priority = ThreadPriority::from_posix(ScheduleParams { sched_priority });
    let thread = thread_priority::thread_native_id();
    let set = thread_priority::set_thread_priority_and_policy(thread, priority, policy);
    set.map_err(|error| match error {
        thread_priority::Error::OS(errno) => std::io::Error::from_raw_os_error(errno),
        other => std::io::Error::other(format!("{other:?}")),
    })
}

/// How much has to be free in the whole machine for the stock to take more: in each zone what is below its `min` watermark
/// (three quarters of it for real-time tasks, which get half of it, without making room: the rest is for servers that
/// start) and what is kept for allocations that need the zone.
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
                let below = if real_time { min / 4 * 3 } else { min };
                sum += managed.min(below + kept);
            }
            _ => {}
        }
    }
    sum * 4096 + MARGIN
}

fn free_bytes() -> u64 {
    let info = rustix::system::sysinfo();
    info.freeram as u64 * u64::from(info.mem_unit)
}

/// Makes the block device a swap area and uses it, freed pages being discarded.
pub fn swap_on(node: &str, priority: i32) -> Result {
    run("mkswap", &["--quiet", node])?;
    let priority = priority.to_string();
    run("swapon", &["--discard", "--priority", &priority, node])
}

/// Switches a swap area off, if it is one.
pub(crate) fn switch_off(node: &str) {
    let mut areas = uzram_blockdev::swap_areas().into_iter();
    if areas.any(|area| area.path == Path::new(node))
        && let Err(failure) = run("swapoff", &[node])
    {
        tracing::warn!("{failure}");
    }
}

/// Switches a swap area off that nobody serves any more, if nothing is in it: once its node is gone nobody can. What is
/// in it could only be read from the server.
pub(crate) fn switch_off_unused(node: &str) {
    let unused = uzram_blockdev::Survey::new().unused_swap(Path::new(node));
    if unused && let Err(failure) = run("swapoff", &[node]) {
        tracing::warn!("{failure}");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_executed_is_kept_with_its_data_and_nothing_else() {
        let maps = b"\
00400000-00500000 r--p 00000000 fe:00 12345                              /usr/bin/u \xfc
00500000-00900000 r-xp 00100000 fe:00 12345                              /usr/bin/u \xfc
00900000-00910000 rw-p 00500000 fe:00 12345                              /usr/bin/u \xfc
00a00000-00a01000 r-xp 00000000 fe:00 12346                              /usr/lib/kept.so
00b00000-00b01000 r--s 00000000 fe:00 12346                              /usr/lib/kept.so
01000000-01020000 rw-p 00000000 00:00 0                                  [heap]
7f0000000000-7f0000100000 rw-s 00000000 00:01 7                          /memfd:uzram (deleted)
7f0000200000-7f0000201000 r-xp 00000000 fe:00 9                          /usr/lib/old.so (deleted)
7f0000300000-7f0000301000 r--p 00000000 fe:00 10                         /usr/lib/locale/C.utf8
7f0000400000-7f0000401000 rwxs 00000000 00:05 11                         /dev/zero
7ffc00000000-7ffc00001000 r-xp 00000000 00:00 0                          [vdso]
";
        let files = program_files(maps);
        let ranges = BTreeSet::from([(0, 1 << 20), (1 << 20, 4 << 20), (5 << 20, 1 << 16)]);
        assert_eq!(files, BTreeMap::from([(&b"/usr/bin/u \xfc"[..], ranges)]));
    }

    #[test]
    fn the_program_that_runs_is_found() {
        let maps = std::fs::read("/proc/self/maps").unwrap();
        let own = std::env::current_exe().unwrap();
        assert!(program_files(&maps).contains_key(own.as_os_str().as_bytes()));
        if let Err(error) = keep_program() {
            // Without rights there is a limit on locked memory.
            assert!(!rustix::process::geteuid().is_root(), "{error}");
            return;
        }
        let now = std::fs::read_to_string("/proc/self/smaps").unwrap();
        let own = own.to_str().unwrap();
        // The program's initialised data, mapped once more and shared with whoever executes it.
        let kept = |line: &str| line.ends_with(own) && line.contains(" r--s ");
        assert!(now.lines().any(kept), "{now}");
    }

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
        assert_eq!(pages(true), 141 + 829 + 7908);
        assert_eq!(pages(false), 190 + 829 + 10544);
        assert_eq!(least_free("", true), MARGIN);
    }
}
