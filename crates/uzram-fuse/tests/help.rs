//! Threads of FUSE over io_uring help each other. In a program of its own, since threads are told apart by their names. Needs
//! root, two CPUs and FUSE over io_uring; a reported skip without.

mod common;

use std::fs::{self, File, OpenOptions};
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::sync::atomic::Ordering::Relaxed;
use std::thread;
use std::time::{Duration, Instant};

use common::{file_of, pin};
use uzram::Device;
use uzram_fuse::{FuseLoop, FuseUring, LoopOptions, probe_uring};
use uzram_testkit::peers;

const LARGE: usize = 256 << 10;
/// Far more than any of it takes.
const PATIENCE: Duration = Duration::from_secs(30);

/// Nanoseconds that the thread which serves CPU 1 has run.
fn ran(cpu_1: &Path) -> u64 {
    let text = fs::read_to_string(cpu_1.join("schedstat")).unwrap();
    text.split(' ').next().unwrap().parse().unwrap()
}

fn read(file: &File, len: usize, at: u64) {
    // On the heap or the stack, direct I/O takes a part that is aligned.
    let mut buffer = vec![0; len + 4096];
    let begin = buffer.as_ptr().align_offset(4096);
    let part = &mut buffer[begin..begin + len];
    file.read_exact_at(part, at).unwrap();
    assert!(part.iter().all(|byte| *byte == b'u'), "{at}");
}

/// Has eight threads on CPU 0 read `each` large requests. CPU 1 is slow where another thread takes part of it.
fn many(file: &File, each: usize, slow_1: bool) {
    let ended = AtomicBool::new(!slow_1);
    thread::scope(|scope| {
        scope.spawn(|| {
            pin(1);
            while !ended.load(Relaxed) {
                std::hint::spin_loop();
            }
        });
        let read = |reader: usize| {
            pin(0);
            (0..each).for_each(|_| read(file, LARGE, (reader * LARGE) as u64));
        };
        let readers: Vec<_> = (0..8)
            .map(|reader| scope.spawn(move || read(reader)))
            .collect();
        let all = readers.into_iter().map(|reader| reader.join());
        all.for_each(Result::unwrap);
        ended.store(true, Relaxed);
    });
}

/// Reads pages on CPU 0.
fn one_by_one(file: &File, pages: u64) {
    thread::scope(|scope| {
        scope.spawn(|| {
            pin(0);
            (0..pages).for_each(|page| read(file, 4096, page << 12));
        });
    });
}

/// All requests come from CPU 0. While they are many and large the thread of CPU 1 executes some of them. When they come one
/// by one again, each is executed on the CPU where it arises.
#[test]
fn a_queue_gets_help_while_it_needs_it() {
    let two = thread::available_parallelism().is_ok_and(|cpus| cpus.get() >= 2);
    let need = match two {
        true => probe_uring().map_err(|error| error.to_string()),
        false => Err("one CPU".into()),
    };
    if !peers::possible("FUSE over io_uring on two CPUs", need) {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let mount = dir.path().join("help");
    let device = Arc::new(Device::builder(16 << 20).build().unwrap());
    device.write_at(&vec![b'u'; 16 << 20], 0).unwrap();
    let options = LoopOptions {
        fuse_uring: FuseUring::On,
        ..LoopOptions::default()
    };
    let mut front = FuseLoop::create(device, "help", &mount, &options).unwrap();
    let cpu_1 = fs::read_dir("/proc/self/task")
        .unwrap()
        .map(|task| task.unwrap().path());
    let mut cpu_1 =
        cpu_1.filter(|task| fs::read_to_string(task.join("comm")).unwrap() == "fuse-q1\n");
    let cpu_1 = cpu_1.next().expect("the thread of CPU 1");
    // The file itself, past the loop driver's worker, which runs anywhere.
    let file = OpenOptions::new()
        .read(true)
        .custom_flags(libc::O_DIRECT)
        .open(file_of(&mount))
        .unwrap();

    let (begin, before) = (Instant::now(), ran(&cpu_1));
    while ran(&cpu_1) - before < 1_000_000 {
        assert!(begin.elapsed() < PATIENCE, "CPU 1 does not help");
        many(&file, 64, false);
    }
    for _ in 0..50 {
        many(&file, 4, true);
        // What CPU 1 does once its last request is done.
        thread::sleep(Duration::from_millis(2));
        let from = ran(&cpu_1);
        one_by_one(&file, 1);
        if ran(&cpu_1) > from {
            // Its entry was the last, and gets the next request, too.
            eprintln!("CPU 1 had the last one");
            break;
        }
    }
    let begin = Instant::now();
    loop {
        let before = ran(&cpu_1);
        one_by_one(&file, 100);
        if ran(&cpu_1) == before {
            break;
        }
        assert!(begin.elapsed() < PATIENCE, "CPU 1 goes on");
    }
    drop(file);
    front.remove().unwrap();
}
