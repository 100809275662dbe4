//! Processes: what one in the background lets go of, the ends of others, and what is passed on to them.

use std::fs::File;
use std::os::fd::OwnedFd;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus};
use std::sync::atomic::AtomicBool;
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags};
use rustix::process::{DumpableBehavior, Pid, PidfdFlags, Resource, WaitOptions};

use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};

use serde::de::DeserializeOwned;
use uzram_spec::{Failure, Result};

/// Reads what a process of a device starts from.
pub(crate) fn state<T: DeserializeOwned>(whose: &str, state: &str) -> Result<T> {
    let wrong = |error| Failure::usage(format!("the {whose}'s state '{state}': {error}"));
    serde_json::from_str(state).map_err(wrong)
}

/// Starts a thread of that name, which nobody waits for.
pub fn spawn(name: &str, work: impl FnOnce() + Send + 'static) -> std::io::Result<()> {
    let thread = std::thread::Builder::new().name(name.into());
    thread.spawn(work).map(drop)
}

/// Runs a program; a failure has what it says on stderr.
pub(crate) fn run(program: &str, args: &[&str]) -> Result {
    let failed = |why: &str| Failure::failed(format!("{program} {}: {why}", args.join(" ")));
    let output = Command::new(program).args(args).output();
    let output = output.map_err(|error| failed(&error.to_string()))?;
    match output.status.success() {
        true => Ok(()),
        false => Err(failed(String::from_utf8_lossy(&output.stderr).trim())),
    }
}

/// A descriptor of the process with that number; `None` where there is none.
pub fn pidfd(pid: u32) -> Option<OwnedFd> {
    let pid = Pid::from_raw(i32::try_from(pid).ok()?)?;
    rustix::process::pidfd_open(pid, PidfdFlags::empty()).ok()
}

/// The program that keeps and serves devices, where it is not the running one.
static PROGRAM: OnceLock<PathBuf> = OnceLock::new();

/// Has another program than the running one keep and serve the devices that this process makes. The first call counts.
pub fn serve_with(program: PathBuf) {
    let _ = PROGRAM.set(program);
}

/// The program that keeps and serves devices.
pub(crate) fn program() -> &'static Path {
    PROGRAM
        .get()
        .map_or(Path::new("/proc/self/exe"), PathBuf::as_path)
}

/// How glibc's heap is to be in the processes of a device, which start with some hundred KiB of tables, texts and trees that
/// nobody needs afterwards, and have threads that hardly allocate. What is freed goes back to the system (by default 128 KiB and
/// more stay), and there is one heap instead of one for each thread. No request allocates.
const HEAP: &str = "glibc.malloc.mmap_threshold=16384:glibc.malloc.trim_threshold=16384:\
    glibc.malloc.top_pad=4096:glibc.malloc.arena_max=1";
/// The same where requests allocate all the same: with the former, TLS spent most of its time on mapping and unmapping.
const BUSY_HEAP: &str = "glibc.malloc.arena_max=2";
const TUNABLES: &str = "GLIBC_TUNABLES";

/// The program as a process of a device. What its user says about the heap counts, and what the process says by which it is
/// started.
pub(crate) fn device_process() -> Command {
    with_heap(HEAP)
}

/// The first process of a device, whose requests may allocate.
pub(crate) fn first_process(allocates: bool) -> Command {
    with_heap(if allocates { BUSY_HEAP } else { HEAP })
}

fn with_heap(heap: &str) -> Command {
    let mut command = Command::new(program());
    command.arg0("uzram");
    if std::env::var_os(TUNABLES).is_none() {
        command.env(TUNABLES, heap);
    }
    command
}

/// Calls this process by the program's name. Started as `/proc/self/exe` it would be known as "exe".
pub fn take_name() {
    let _ = rustix::thread::set_name(c"uzram");
}

/// Whatever directory this was started from may be unmounted, and its terminal closed.
pub fn leave_terminal() -> Result {
    std::env::set_current_dir("/")?;
    let null = File::options().read(true).write(true).open("/dev/null")?;
    let to_null = rustix::stdio::dup2_stdin(&null)
        .and_then(|()| rustix::stdio::dup2_stdout(&null))
        .and_then(|()| rustix::stdio::dup2_stderr(&null));
    to_null.map_err(std::io::Error::from)?;
    Ok(())
}

/// What a core dump of a server has: private memory and the program's headers, so that a debugger finds stacks and heap.
/// The image is excluded by its mapping already; this excludes other shared memory, such as rings.
const CORE_FILTER: &str = "0x11";

/// Keeps what is in a device out of core dumps as far as debugging allows. Streams and connections have the last pages
/// that went through them on the heap, so that no dump is made at all, not even by a handler that ignores the limit;
/// unless the limit on core files asks for dumps (`ulimit -c`).
pub(crate) fn keep_private() {
    let _ = std::fs::write("/proc/self/coredump_filter", CORE_FILTER);
    if rustix::process::getrlimit(Resource::Core).current == Some(0) {
        let _ = rustix::process::set_dumpable_behavior(DumpableBehavior::NotDumpable);
    }
}

/// Keeps what is in this process out of core dumps and from other users' debuggers, whatever limits say: it is about to hold keys.
pub fn hide_keys() {
    let _ = rustix::process::set_dumpable_behavior(DumpableBehavior::NotDumpable);
    let none = rustix::process::Rlimit {
        current: Some(0),
        maximum: rustix::process::getrlimit(Resource::Core).maximum,
    };
    let _ = rustix::process::setrlimit(Resource::Core, none);
}

/// Waits until the process of a pidfd has ended.
pub fn wait_for_end(process: &OwnedFd) {
    while !wait_for_end_within(process, Duration::from_secs(3600)) {}
}

/// The same for no longer than `patience`. Whether it has ended, or cannot be watched.
pub fn wait_for_end_within(process: &OwnedFd, patience: Duration) -> bool {
    let begin = Instant::now();
    loop {
        let left = patience.saturating_sub(begin.elapsed());
        let Ok(left) = left.try_into() else {
            return false;
        };
        let mut fds = [PollFd::new(process, PollFlags::IN)];
        match rustix::event::poll(&mut fds, Some(&left)) {
            Ok(0) => return false,
            Ok(_) => return true,
            Err(rustix::io::Errno::INTR) => {}
            // No way to know: the caller's next step will tell.
            Err(_) => return true,
        }
    }
}

/// How long a process that has reported its failure may take to end. Where a driver does not let go of it, it never does.
const ENDING: Duration = Duration::from_secs(20);

/// Waits for a child that is about to end, but not for ever: `None` for one that does not, which is reaped once it does.
pub(crate) fn wait_for_child(mut child: Child) -> std::io::Result<Option<ExitStatus>> {
    wait_for_child_within(&mut child, ENDING).inspect(|status| {
        if status.is_none() {
            tracing::error!(pid = child.id(), "a process has failed and does not end");
            reap_later(child);
        }
    })
}

fn wait_for_child_within(
    child: &mut Child,
    patience: Duration,
) -> std::io::Result<Option<ExitStatus>> {
    match pidfd(child.id()) {
        Some(end) if !wait_for_end_within(&end, patience) => Ok(None),
        _ => child.wait().map(Some),
    }
}

/// Has `tell` called, by a thread, for each signal to end; none ends the process by itself from now on.
pub fn when_told_to_end(mut tell: impl FnMut() + Send + 'static) -> Result {
    when_told(&[SIGINT, SIGTERM], move |_| tell())
}

/// Takes note of the first interrupt, hangup or termination instead of ending. The second one ends the process.
pub fn hold_interrupts() -> Result<Arc<AtomicBool>> {
    let held = Arc::new(AtomicBool::new(false));
    for signal in [SIGINT, SIGTERM, SIGHUP] {
        // In this order: what the first one sets, the second one sees.
        signal_hook::flag::register_conditional_default(signal, held.clone())?;
        signal_hook::flag::register(signal, held.clone())?;
    }
    Ok(held)
}

/// Has `tell` called, by a thread, for each of these signals.
pub fn when_told(which: &[i32], tell: impl FnMut(i32) + Send + 'static) -> Result {
    let mut signals = signal_hook::iterator::Signals::new(which)?;
    Ok(spawn("signals", move || signals.forever().for_each(tell))?)
}

/// Takes a dead child's remains, if it was a child.
pub fn reap(pid: u32) {
    let pid = i32::try_from(pid).ok().and_then(Pid::from_raw);
    let _ = pid.map(|pid| rustix::process::waitpid(Some(pid), WaitOptions::NOHANG));
}

/// Keeps an inherited descriptor, given as `/proc/self/fd/N`, from the processes that this one starts from now on.
pub fn stop_inheriting(fd: &Path) {
    let number = |path: &Path| path.file_name()?.to_str()?.parse::<i32>().ok();
    let open = std::fs::read_dir("/proc/self/fd").into_iter().flatten();
    let all = open.flatten().filter_map(|entry| number(&entry.path()));
    if let Some(fd) = number(fd) {
        let others: Vec<_> = all.filter(|other| *other != fd).collect();
        close_fds::set_fds_cloexec(3, &others);
    }
}

/// Excludes other threads that start processes: while a descriptor can be inherited that only one child is to have.
pub fn alone_to_spawn() -> MutexGuard<'static, ()> {
    static ALONE: Mutex<()> = Mutex::new(());
    ALONE.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Takes a child's remains when it ends, from a thread of its own. Its end is noticed by looking, not by this.
pub fn reap_later(mut child: Child) {
    if let Err(error) = spawn("reaper", move || drop(child.wait())) {
        tracing::warn!(%error, "a child stays a zombie until this process ends");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_child_that_does_not_end_is_not_waited_for() {
        let mut sleep = Command::new("sleep").arg("600").spawn().unwrap();
        let within = |child: &mut Child| wait_for_child_within(child, Duration::from_millis(50));
        assert!(within(&mut sleep).unwrap().is_none());
        sleep.kill().unwrap();
        assert!(!within(&mut sleep).unwrap().unwrap().success());
    }
}
