//! Memory tells the truth: what is given up goes back to the system, the slot table included; what was erased is not to
//! be found; a core dump has nothing of the image; a limit on all memory holds; one bad page keeps no other back.

mod common;

use std::ops::ControlFlow;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;

use common::{memfd, reopen};
use rustix::fs::SeekFrom;
use uzram::{Choice, Device, Error, Recompress, Writeback, Zeroes};
use uzram_backing::{FileDisk, FileOptions};
use uzram_testkit::Random;
use uzram_testkit::data::partly_noise;
use uzram_testkit::disk::{Fault, FaultRule, FaultyDisk};

const PAGE: u64 = 4096;
/// Header, state and records: what an empty device keeps.
const LEAST: u64 = 3 * PAGE;

fn resident(image: &OwnedFd) -> u64 {
    rustix::fs::fstat(image).unwrap().st_blocks as u64 * 512
}

/// A device in a memfd, and another descriptor of that.
fn device(builder: uzram::Builder) -> (Device, OwnedFd) {
    let image = memfd();
    let device = builder.build_in(reopen(&image)).unwrap();
    (device, image)
}

fn attach(image: &OwnedFd) -> Device {
    Device::builder(0).attach(reopen(image)).unwrap()
}

fn go_on(_: u64) -> ControlFlow<()> {
    ControlFlow::Continue(())
}

/// A page of noise with `marker` in it at every 256 bytes; `text` of it is compressible.
fn marked(marker: u64, number: u64, text: usize) -> [u8; 4096] {
    let mut random = Random::new(marker ^ number << 8);
    let mut page = [b'.'; 4096];
    for (at, word) in page.as_chunks_mut::<8>().0.iter_mut().enumerate() {
        if at * 8 >= text {
            *word = random.next().to_ne_bytes();
        }
        if at % 32 == 31 {
            *word = marker.to_ne_bytes();
        }
    }
    page
}

/// How often a marker is found in an image.
fn found(image: &OwnedFd, marker: u64) -> usize {
    let (mut count, mut at) = (0, 0);
    while let Ok(first) = rustix::fs::seek(image.as_fd(), SeekFrom::Data(at)) {
        let end = rustix::fs::seek(image.as_fd(), SeekFrom::Hole(first)).unwrap();
        let mut bytes = vec![0; (end - first) as usize];
        let got = rustix::io::pread(image, &mut bytes[..], first).unwrap();
        let wanted = marker.to_ne_bytes();
        count += bytes[..got].windows(8).filter(|w| **w == wanted).count();
        at = end;
    }
    count
}

/// 64 GiB of zeros are 128 MiB of table. The discard comes in pieces, as a kernel sends it.
#[test]
fn a_discard_of_everything_gives_the_table_back() {
    let size = 1 << 36;
    let (device, image) = device(Device::builder(size));
    device.write_zeroes(0, size, Zeroes::Allocate).unwrap();
    let table = size / PAGE * 8;
    assert_eq!(device.stats().table_bytes, table + LEAST);
    assert_eq!(resident(&image), table + LEAST);
    for piece in 0..16 {
        device.discard(piece << 32, 1 << 32).unwrap();
        let gone = (piece + 1) * table / 16;
        // What is still in use counts for how long one waits with the rest.
        assert!(
            resident(&image) <= table - gone + table / 4,
            "piece {piece}"
        );
    }
    assert_eq!(device.stats().table_bytes, LEAST);
    assert_eq!(resident(&image), LEAST);
    // It is as usable as before.
    device.write_at(&marked(1, 1, 0), size / 2).unwrap();
    device.reset();
    assert_eq!(
        (device.stats().table_bytes, resident(&image)),
        (LEAST, LEAST)
    );
}

#[test]
fn zeroes_over_data_and_a_discard_leave_nothing() {
    let size = 64 << 20;
    for whole in [true, false] {
        let (device, image) = device(Device::builder(size).dedup(whole));
        device.zram().track_ages(true).unwrap();
        for number in 0..size / PAGE {
            device
                .write_at(&partly_noise(number, 4), number * PAGE)
                .unwrap();
        }
        for at in (0..size).step_by(1 << 20) {
            device.write_at(&vec![0; 1 << 20], at).unwrap();
        }
        match whole {
            true => device.discard(0, size).unwrap(),
            false => (0..size).step_by(123 * 4096).for_each(|at| {
                let len = (123 * 4096).min(size - at);
                device.discard(at, len).unwrap();
            }),
        }
        let stats = device.stats();
        assert_eq!(
            (stats.mem_used_total_bytes, stats.dedup_index_bytes),
            (0, 0)
        );
        assert_eq!(resident(&image), LEAST);
    }
}

#[test]
fn zeroing_what_holds_nothing_touches_nothing() {
    let size = 1 << 36;
    let (device, image) = device(Device::builder(size));
    device.write_zeroes(0, size, Zeroes::Deallocate).unwrap();
    device
        .write_zeroes(1000, size - 5000, Zeroes::Deallocate)
        .unwrap();
    device.discard(0, size).unwrap();
    let mut back = vec![1; 1 << 20];
    device.read_at(&mut back, 1 << 30).unwrap();
    assert!(device.zram().slots(0).next().is_none());
    assert_eq!(
        (device.stats().table_bytes, resident(&image)),
        (LEAST, LEAST)
    );
}

/// Writers, readers and a thread that discards around them: each page is what its owner wrote last.
#[test]
fn the_table_comes_and_goes_under_writers() {
    let size = 64 << 20;
    let (device, image) = device(Device::builder(size));
    std::thread::scope(|scope| {
        for thread in 0..3u64 {
            let device = &device;
            scope.spawn(move || {
                let mut random = Random::new(thread);
                let mut back = [0; 4096];
                for round in 0..4000 {
                    let page = random.below(size / PAGE / 3) * 3 + thread;
                    let data = match round % 3 {
                        0 => marked(7, page ^ round, 2000),
                        _ => [round as u8 | 1; 4096],
                    };
                    device.write_at(&data, page * PAGE).unwrap();
                    device.read_at(&mut back, page * PAGE).unwrap();
                    assert!(back == data, "page {page}");
                    device.discard(page * PAGE, PAGE).unwrap();
                    device.read_at(&mut back, page * PAGE).unwrap();
                    assert!(back == [0; 4096], "page {page}");
                }
            });
        }
    });
    assert_eq!(
        (device.stats().orig_data_size_bytes, resident(&image)),
        (0, LEAST)
    );
}

#[test]
fn an_attached_image_keeps_no_empty_table() {
    let (device, image) = device(Device::builder(1 << 34));
    device.write_zeroes(0, 1 << 34, Zeroes::Allocate).unwrap();
    device.write_at(&marked(1, 1, 0), 1 << 33).unwrap();
    drop(device);
    // As a process leaves it that dies in the middle of a discard.
    let zeros = vec![0; 1 << 20];
    for at in (0..24 << 20).step_by(1 << 20) {
        rustix::io::pwrite(&image, &zeros, LEAST + at).unwrap();
    }
    let device = attach(&image);
    assert_eq!(device.stats().table_bytes, LEAST + (8 << 20));
    assert!(resident(&image) <= LEAST + (8 << 20) + 3 * PAGE);
}

#[test]
fn a_core_dump_has_nothing_of_the_image() {
    let (device, _image) = device(Device::builder(1 << 30).dedup(true));
    device.write_at(&marked(3, 3, 0), 0).unwrap();
    let maps = std::fs::read_to_string("/proc/self/smaps").unwrap();
    let mut inside = false;
    let mut flags = Vec::new();
    for line in maps.lines() {
        if line.contains("memfd:") || line.contains("/memfd") {
            inside = true;
        } else if let Some(of) = line.strip_prefix("VmFlags:")
            && std::mem::take(&mut inside)
        {
            flags.push(of.to_owned());
        }
    }
    assert!(!flags.is_empty(), "no image is mapped");
    for of in flags {
        assert!(of.split_whitespace().any(|flag| flag == "dd"), "{of}");
    }
}

/// In the environment of the process that dies.
const CRASHES: &str = "UZRAM_TEST_CRASHES";
const DUMPED: u64 = 0x7365_6372_6574_7321;

/// Not a test of its own: the process that dumps core.
#[test]
fn crash_child() {
    if std::env::var_os(CRASHES).is_none() {
        return;
    }
    let device = Device::builder(64 << 20).build().unwrap();
    for number in 0..(64 << 20) / PAGE {
        device
            .write_at(&marked(DUMPED, number, 0), number * PAGE)
            .unwrap();
    }
    std::process::abort();
}

/// A real one, where the kernel writes core files to the working directory.
#[test]
fn a_crash_writes_no_contents_to_disk() {
    let pattern = std::fs::read_to_string("/proc/sys/kernel/core_pattern").unwrap();
    if pattern.starts_with(['|', '/']) {
        println!("skipped: core dumps go to {pattern}");
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let program = std::env::current_exe().unwrap();
    let script = "ulimit -c unlimited && exec \"$0\" --exact crash_child --nocapture --quiet";
    let mut child = std::process::Command::new("sh");
    child.args(["-c", script]).arg(&program).env(CRASHES, "1");
    child
        .stdout(std::process::Stdio::null())
        .stderr(std::process::Stdio::null());
    let ended = child.current_dir(dir.path()).status().unwrap();
    assert!(!ended.success());
    let files: Vec<_> = std::fs::read_dir(dir.path()).unwrap().flatten().collect();
    let Some(core) = files.first() else {
        println!("skipped: this system writes no core file");
        return;
    };
    let bytes = std::fs::read(core.path()).unwrap();
    let wanted = DUMPED.to_ne_bytes();
    let found = bytes.windows(8).filter(|w| **w == wanted).count();
    // The last pages that went through the writer's buffers, of 16384.
    assert!(
        found < 40 * 16,
        "{found} of the marks of {} pages",
        (64 << 20) / PAGE
    );
    assert!(
        bytes.len() < 32 << 20,
        "the core file has {} bytes",
        bytes.len()
    );
}

const ERASED: u64 = 0x6B6E_6F77_6E5F_7478;

/// Everything that frees, with pages that are stored raw and compressed.
#[test]
fn what_is_freed_is_erased() {
    for text in [0, 2048, 3000] {
        let builder = Device::builder(16 << 20)
            .erase_on_free(true)
            .secondary(1, Choice::new("zstd"));
        let (device, image) = device(builder);
        let fill = |pages: u64, marker| {
            for number in 0..pages {
                device
                    .write_at(&marked(marker, number, text), number * PAGE)
                    .unwrap();
            }
        };
        fill(500, ERASED);
        assert!(
            found(&image, ERASED) > 400,
            "the marker is not to be seen at all"
        );
        // Overwritten whole, in part, by zeros, discarded.
        fill(100, 5);
        for number in 100..200 {
            device.write_at(&[9; 4000], number * PAGE + 96).unwrap();
        }
        device.write_at(&[0; 100 * 4096], 200 * PAGE).unwrap();
        device.discard(300 * PAGE, 200 * PAGE).unwrap();
        assert_eq!(found(&image, ERASED), 0);
        // Shorter objects where longer ones were.
        fill(400, ERASED);
        for number in 0..400 {
            device
                .write_at(&marked(5, number, 3500), number * PAGE)
                .unwrap();
        }
        assert_eq!(found(&image, ERASED), 0);
        // Moved, recompressed, then gone.
        fill(500, ERASED);
        for number in (0..500).filter(|number| number % 5 != 0) {
            device.discard(number * PAGE, PAGE).unwrap();
        }
        device.jobs().compact(u64::MAX);
        let what = Recompress::default();
        device.zram().recompress(&what, &mut go_on).unwrap();
        device.reset();
        assert_eq!(found(&image, ERASED), 0);
    }
}

/// What was freed before erasing was turned on, and what a process leaves that dies in between.
#[test]
fn leftovers_are_erased_when_it_is_turned_on() {
    for reserve in [None, Some(4 << 20)] {
        let mut builder = Device::builder(16 << 20);
        if let Some(bytes) = reserve {
            builder = builder.reserve_bytes(bytes);
        }
        let (device, image) = device(builder);
        let write = |number: u64, page: &[u8; 4096]| {
            if reserve.is_some() && number.is_multiple_of(64) {
                device.swap().maintain(&|| true);
            }
            device.write_at(page, number * PAGE).unwrap();
        };
        for number in 0..1000 {
            write(number, &marked(ERASED, number, 2048));
        }
        // Every size in the same places, so that longer objects leave something behind shorter ones.
        for round in 0..6 {
            for number in 0..1000 {
                let page = marked(5, number, 1500 + (number as usize + round * 300) % 2000);
                write(number, &page);
            }
        }
        assert!(found(&image, ERASED) > 0);
        device.set_erase_on_free(true);
        assert_eq!(found(&image, ERASED), 0, "{reserve:?}");
        let mut back = [0; 4096];
        for number in 0..1000 {
            device.read_at(&mut back, number * PAGE).unwrap();
            assert!(back == marked(5, number, 1500 + (number as usize + 1500) % 2000));
        }
    }
    let (device, image) = device(Device::builder(16 << 20).erase_on_free(true));
    for number in 0..500 {
        device
            .write_at(&marked(ERASED, number, 2048), number * PAGE)
            .unwrap();
    }
    // A word that is gone while its object is still there: a process that died between the two.
    drop(device);
    for number in 0..400u64 {
        rustix::io::pwrite(&image, &[0; 8], LEAST + number * 8).unwrap();
    }
    let device = attach(&image);
    assert!(device.erase_on_free());
    device.discard(400 * PAGE, 99 * PAGE).unwrap();
    assert!(found(&image, ERASED) <= 16, "{}", found(&image, ERASED));
}

#[test]
fn a_limit_on_all_memory_counts_table_and_books() {
    let refused = Device::builder(1 << 30).total_limit_bytes(64 << 10).build();
    assert!(matches!(refused, Err(Error::Invalid { .. })), "{refused:?}");
    let limit = 16 << 20;
    let (device, _image) = device(
        Device::builder(1 << 36)
            .total_limit_bytes(limit)
            .dedup(true),
    );
    let all = |device: &Device| device.stats().all_memory_bytes();
    // Same-filled pages take no pool memory, only table: one in each page of it.
    let mut refused = None;
    for number in 0..1 << 15 {
        if let Err(error) = device.write_at(&[7; 4096], number * 512 * PAGE) {
            refused = Some((number, error));
            break;
        }
    }
    let (number, error) = refused.expect("the table grows without limit");
    assert!(
        matches!(error, Error::NoSpace { limit_bytes, .. } if limit_bytes == limit),
        "{error}"
    );
    assert!(
        number > 3000 && all(&device) <= limit,
        "{number}: {}",
        all(&device)
    );
    // Where a slot is there, a page of zeros needs nothing.
    device.write_at(&[8; 4096], PAGE).unwrap();
    device.write_zeroes(0, 1 << 36, Zeroes::Deallocate).unwrap();
    let data = |number| partly_noise(number, 4);
    let mut stored = 0;
    let full = loop {
        match device.write_at(&data(stored), stored * PAGE) {
            Ok(()) => stored += 1,
            Err(error) => break error,
        }
    };
    assert!(matches!(full, Error::NoSpace { .. }), "{full}");
    let used = all(&device);
    assert!(used <= limit && used > limit / 10 * 9, "{used} of {limit}");
    assert_eq!(
        (
            device.stats().mem_limit_bytes,
            device.stats().total_limit_bytes
        ),
        (0, limit)
    );
    let mut back = [0; 4096];
    for number in 0..stored {
        device.read_at(&mut back, number * PAGE).unwrap();
        assert!(back == data(number));
    }
    // Raised, it goes on; the kernel's limit replaces it.
    device.set_total_limit_bytes(2 * limit).unwrap();
    // Less than what there is lets nothing in. Less than an empty device takes is refused, and the former limit stays.
    device.set_total_limit_bytes(limit / 2).unwrap();
    assert!(device.write_at(&data(stored), stored * PAGE).is_err());
    for bytes in [1, 4096, 100 << 10] {
        let refused = device.set_total_limit_bytes(bytes).unwrap_err().to_string();
        assert!(
            refused.contains("the empty device and one page"),
            "{refused}"
        );
    }
    assert_eq!(device.stats().total_limit_bytes, limit / 2);
    device.set_total_limit_bytes(2 * limit).unwrap();
    device.write_at(&data(stored), stored * PAGE).unwrap();
    device.set_mem_limit_bytes(2 * limit);
    assert_eq!(
        (
            device.stats().mem_limit_bytes,
            device.stats().total_limit_bytes
        ),
        (2 * limit, 0)
    );
}

#[test]
fn a_limit_on_all_memory_outlives_the_process() {
    let (device, image) = device(Device::builder(1 << 30).total_limit_bytes(8 << 20));
    drop(device);
    let device = attach(&image);
    assert_eq!(device.stats().total_limit_bytes, 8 << 20);
    let written = (0..1 << 14).map(|n| device.write_at(&partly_noise(n, 8), n * PAGE));
    let failed = written.filter(|result| result.is_err()).count();
    assert!(failed > 10_000 && device.stats().all_memory_bytes() <= 8 << 20);
}

/// One page in a hundred cannot be read: the others come back, and it is said which do not.
#[test]
fn pages_come_back_past_those_that_cannot() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("store");
    let file = FileDisk::open(&path, FileOptions::default()).unwrap();
    let faults = FaultyDisk::new(Arc::new(file));
    let device = Device::builder(64 << 20).build().unwrap();
    let disk = Arc::new(faults.clone());
    device.zram().attach_disk(&path, disk, 16 << 20).unwrap();
    for number in 0..1000 {
        device
            .write_at(&partly_noise(number, 4), number * PAGE)
            .unwrap();
    }
    device
        .zram()
        .writeback(&Writeback::default(), &mut go_on)
        .unwrap();
    faults.add(FaultRule::reads(Fault::Error(rustix::io::Errno::IO)).after(10, 20));
    let report = device.zram().promote(None, &mut go_on).unwrap();
    assert_eq!((report.pages, report.failed), (980, 20), "{report:?}");
    assert_eq!(report.failures.len(), 8);
    for failure in &report.failures {
        assert!(
            failure.why.contains(&format!("page {}:", failure.page)),
            "{failure:?}"
        );
    }
    assert_eq!(device.stats().backed_pages, 20);
    // Given up, it brings back what it can, and stays.
    device
        .zram()
        .writeback(&Writeback::default(), &mut go_on)
        .unwrap();
    faults.clear();
    faults.add(FaultRule::reads(Fault::Error(rustix::io::Errno::IO)).after(0, 1));
    faults.add(FaultRule::reads(Fault::Error(rustix::io::Errno::IO)).after(999, u64::MAX));
    let refused = device.zram().detach_backing().unwrap_err();
    let Error::PagesLeft {
        pages: 1,
        promoted: 999,
        ..
    } = &refused
    else {
        panic!("{refused:?}");
    };
    assert!(
        refused.to_string().contains("999 pages are back"),
        "{refused}"
    );
    assert_eq!(device.stats().backed_pages, 1);
    faults.clear();
    assert_eq!(device.zram().detach_backing().unwrap().pages, 1);
    let mut back = [0; 4096];
    for number in 0..1000 {
        device.read_at(&mut back, number * PAGE).unwrap();
        assert!(back == partly_noise(number, 4), "page {number}");
    }
}

/// Where memory is full, those that fit come back, and the rest is counted without reading it.
#[test]
fn a_full_memory_keeps_the_rest_on_the_backing() {
    let dir = tempfile::tempdir().unwrap();
    let device = Device::builder(64 << 20).build().unwrap();
    let path = dir.path().join("store");
    device.zram().attach_backing(&path, Some(16 << 20)).unwrap();
    for number in 0..2000 {
        device
            .write_at(&partly_noise(number, 4), number * PAGE)
            .unwrap();
    }
    device
        .zram()
        .writeback(&Writeback::default(), &mut go_on)
        .unwrap();
    device.set_mem_limit_bytes(1 << 20);
    let report = device.zram().promote(None, &mut go_on).unwrap();
    assert!(
        report.pages > 100 && report.pages + report.failed == 2000,
        "{report:?}"
    );
    assert!(
        report.failures[0].why.contains("no memory left"),
        "{report:?}"
    );
    assert!(device.stats().mem_used_total_bytes <= 1 << 20);
    device.set_mem_limit_bytes(0);
    assert_eq!(device.zram().promote(None, &mut go_on).unwrap().failed, 0);
}
