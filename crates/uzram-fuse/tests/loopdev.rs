//! A real FUSE mount and a real loop device, by each transport that the machine has. Needs root; a reported skip without.

mod common;

use std::collections::BTreeMap;
use std::fs::OpenOptions;
use std::io;
use std::ops::{ControlFlow, Range};
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::Path;
use std::process::Command;
use std::sync::{Arc, Condvar, Mutex};
use std::time::Duration;

use common::{file_of, pin};
use uzram::uzram_backing::{SegmentStore, StoreDisk};
use uzram::{
    Choice, Device, Fetchers, RemoteError, RemoteOptions, RemoteSource, StoredPage, Writeback,
};
use uzram_blockdev::{Busy, Error as NodeError, busy};
use uzram_fuse::{
    Error, FuseLoop, FuseUring, LoopNumber, LoopOptions, Transport, clear_stale, is_free, probe,
    probe_uring,
};
use uzram_testkit::{mountinfo, peers};

/// Whether the machine can run these tests. Where peers are required, a missing one is a failure.
fn possible() -> bool {
    peers::possible("loop on FUSE", probe())
}

/// The options for each transport that this machine has.
fn transports() -> Vec<(LoopOptions, Transport)> {
    let with = |fuse_uring| LoopOptions {
        fuse_uring,
        ..LoopOptions::default()
    };
    let mut all = Vec::new();
    if possible() {
        all.push((with(FuseUring::Off), Transport::DevFuse));
        if peers::possible("FUSE over io_uring", probe_uring()) {
            all.push((with(FuseUring::On), Transport::IoUring));
        }
    }
    all
}

fn run(program: &str, args: &[&str]) -> String {
    let output = Command::new(program).args(args).output().unwrap();
    assert!(output.status.success(), "{program} {args:?}: {output:?}");
    String::from_utf8(output.stdout).unwrap()
}

#[test]
fn bytes_pass_discards_free_and_removal_leaves_nothing() {
    for (options, transport) in transports() {
        passes(&options, transport);
    }
}

fn passes(options: &LoopOptions, transport: Transport) {
    let dir = tempfile::tempdir().unwrap();
    // A path that the mount table escapes.
    let mount = dir.path().join("a b\\c \u{e4}");
    let device = Arc::new(Device::builder(64 << 20).build().unwrap());
    let mut front = FuseLoop::create(device.clone(), "test0", &mount, options).unwrap();
    assert_eq!(front.transport(), transport);
    let node = front.node().to_owned();
    let path = node.to_str().unwrap().to_owned();
    assert_eq!(
        run("blockdev", &["--getss", "--getsize64", &path]),
        "4096\n67108864\n"
    );
    assert_eq!(run("losetup", &["-n", "-O", "DIO", &path]).trim(), "1");

    let file = OpenOptions::new()
        .read(true)
        .write(true)
        .open(&node)
        .unwrap();
    let text = b"uzram ".repeat(200_000);
    file.write_all_at(&text, 8192).unwrap();
    file.sync_all().unwrap();
    let mut back = vec![0; text.len()];
    device.read_at(&mut back, 8192).unwrap();
    assert!(back == text, "what the node took is in the device");
    drop(file);
    assert!(device.stats().orig_data_size_bytes >= text.len() as u64);
    run("blkdiscard", &[&path]);
    assert_eq!(device.stats().orig_data_size_bytes, 0);

    let mut sleeper = Command::new("sh")
        .args(["-c", "exec 3<$0; exec sleep 60", &path])
        .spawn()
        .unwrap();
    let opened = || matches!(busy(&node), Some(Busy::Open { pid, .. }) if pid == sleeper.id());
    while !opened() {
        std::thread::yield_now();
    }
    let refused = front.remove();
    sleeper.kill().unwrap();
    sleeper.wait().unwrap();
    let error = refused.unwrap_err();
    assert!(
        matches!(error, Error::Node(NodeError::Busy { .. })),
        "{error}"
    );
    assert!(error.to_string().contains("open in process"), "{error}");

    front.remove().unwrap();
    front.remove().unwrap();
    assert!(!mount.exists());
    assert!(!run("losetup", &["-a"]).contains(dir.path().to_str().unwrap()));
    assert!(!mountinfo().contains(dir.path().to_str().unwrap()));
}

#[test]
fn nothing_stale_is_cleared_without_a_word() {
    assert_eq!(
        clear_stale(Path::new("/nonexistent/uzram")).unwrap(),
        Vec::<String>::new()
    );
}

/// A loop device that is kept is nobody else's, and a device can be put behind it.
#[test]
fn loop_devices_are_kept_by_number() {
    if !possible() {
        return;
    }
    let first = LoopNumber::reserve(None).unwrap();
    let second = LoopNumber::reserve(Some(first.number())).unwrap();
    assert_ne!(first.number(), second.number());
    let node = format!("/dev/loop{}", first.number());
    assert_eq!(run("blockdev", &["--getsize64", &node]), "0\n");
    assert!(!is_free(first.number()));
    let given = run("losetup", &["-f"]);
    assert_ne!(given.trim(), node);
    let dir = tempfile::tempdir().unwrap();
    let device = Arc::new(Device::builder(1 << 20).build().unwrap());
    let create = |name: &str, number: u32| {
        let options = LoopOptions {
            number: Some(number),
            ..LoopOptions::default()
        };
        FuseLoop::create(device.clone(), name, &dir.path().join(name), &options)
    };
    let error = create("one", first.number()).map(drop).unwrap_err();
    assert!(matches!(error, Error::Taken { .. }), "{error}");
    assert!(error.to_string().contains(&node), "{error}");
    // Far from those that other tests are given at this moment.
    let far = LoopNumber::reserve(Some(4000)).unwrap();
    assert_eq!(far.rdev(), (7, 4000));
    drop(far);
    assert!(is_free(4000));
    let mut front = create("two", 4000).unwrap();
    assert_eq!(front.node(), Path::new("/dev/loop4000"));
    front.remove().unwrap();
}

/// The driver notes a detach while anybody has the device open, and carries it out later. A refusal takes that note back,
/// also where nobody sees who has the device open: here the process that asks.
#[test]
fn a_user_that_nobody_sees_keeps_the_device_for_good() {
    // Each gives up only after seconds.
    std::thread::scope(|scope| {
        for (options, _) in transports() {
            scope.spawn(move || is_kept(&options));
        }
    });
}

fn is_kept(options: &LoopOptions) {
    let dir = tempfile::tempdir().unwrap();
    let device = Arc::new(Device::builder(1 << 20).build().unwrap());
    let mount = dir.path().join("mnt-0123");
    let mut front = FuseLoop::create(device, "kept", &mount, options).unwrap();
    let path = front.node().display().to_string();
    let looks = || run("losetup", &["-n", "-O", "AUTOCLEAR,DIO,BACK-FILE", &path]);
    let (before, opened) = (looks(), std::fs::File::open(&path).unwrap());
    assert!(before.contains("mnt-0123/disk-0123"), "{before}");
    let error = front.remove().unwrap_err();
    assert!(
        matches!(error, Error::Node(NodeError::Busy { .. })),
        "{error}"
    );
    assert_eq!(looks(), before);
    drop(opened);
    assert_eq!(looks(), before, "after the last user");
    run(
        "dd",
        &[
            &format!("if={path}"),
            "of=/dev/null",
            "bs=4096",
            "count=1",
            "iflag=direct",
        ],
    );
    front.remove().unwrap();
    assert!(!mount.exists());
}

const SWITCH: &str = "/sys/module/fuse/parameters/enable_uring";

/// Opens a node for direct requests, each of which reaches the server as it is.
fn direct(node: &Path) -> std::fs::File {
    use std::os::unix::fs::OpenOptionsExt;
    let mut options = OpenOptions::new();
    options.read(true).write(true);
    options
        .custom_flags(rustix::fs::OFlags::DIRECT.bits() as i32)
        .open(node)
        .unwrap()
}

/// Bytes at an address that direct requests accept.
struct Aligned(Vec<u8>, usize);

impl Aligned {
    fn new(len: usize) -> Aligned {
        let bytes = vec![0; len + 4096];
        let from = bytes.as_ptr().align_offset(4096);
        Aligned(bytes, from)
    }

    fn get(&mut self, len: usize) -> &mut [u8] {
        &mut self.0[self.1..][..len]
    }
}

/// Requests of all sizes from many threads at once, each of which knows what its part of the device has.
#[test]
fn many_requests_at_once_each_have_their_own_bytes() {
    const PART: usize = 4 << 20;
    const THREADS: usize = 6;
    for (options, _) in transports() {
        // Fewer entries than requests: some wait in the kernel.
        let options = LoopOptions {
            queue_depth: 3,
            ..options
        };
        let dir = tempfile::tempdir().unwrap();
        let size = (PART * THREADS) as u64;
        let device = Arc::new(Device::builder(size).build().unwrap());
        let mount = dir.path().join("many");
        let mut front = FuseLoop::create(device, "many", &mount, &options).unwrap();
        let node = front.node().to_owned();
        let work = |thread: usize| {
            let file = direct(&node);
            let mut expected = vec![0; PART];
            let mut buffer = Aligned::new(1 << 20);
            for round in 0..60 {
                let seed = (thread * 1000 + round) as u64;
                let noise = uzram_testkit::data::noise(seed);
                let len = 4096 << (noise[0] % 9);
                let page = usize::from(noise[1]) * 4 % ((PART - len) / 4096 + 1);
                let at = page * 4096;
                let data = uzram_testkit::data::records(seed, len);
                buffer.get(len).copy_from_slice(&data);
                let offset = (thread * PART + at) as u64;
                file.write_all_at(buffer.get(len), offset).unwrap();
                expected[at..at + len].copy_from_slice(&data);
                let from = usize::from(noise[2]) % (PART / len) * len;
                let offset = (thread * PART + from) as u64;
                file.read_exact_at(buffer.get(len), offset).unwrap();
                assert!(buffer.get(len) == &expected[from..from + len], "{seed}");
            }
        };
        let work = &work;
        std::thread::scope(|scope| {
            for thread in 0..THREADS {
                scope.spawn(move || work(thread));
            }
        });
        front.remove().unwrap();
    }
}

/// A connection that is cut while requests are under way fails them all, and the device can be removed.
#[test]
fn an_abort_fails_requests_that_are_under_way_and_ends_the_server() {
    for (options, transport) in transports() {
        let dir = tempfile::tempdir().unwrap();
        let device = Arc::new(Device::builder(64 << 20).build().unwrap());
        let mount = dir.path().join("cut");
        let mut front = FuseLoop::create(device, "cut", &mount, &options).unwrap();
        let node = front.node().to_owned();
        let begun = std::sync::Barrier::new(5);
        std::thread::scope(|scope| {
            for thread in 0..4_u64 {
                let (node, begun) = (&node, &begun);
                scope.spawn(move || {
                    let file = direct(node);
                    let mut buffer = Aligned::new(128 << 10);
                    buffer.get(128 << 10).fill(thread as u8);
                    let mut ask = |at: u64| {
                        let offset = (thread << 24) + ((at % 64) << 17);
                        file.write_all_at(buffer.get(128 << 10), offset)
                    };
                    ask(0).unwrap();
                    begun.wait();
                    let error = (1..).find_map(|at| ask(at).err()).unwrap();
                    assert_eq!(error.raw_os_error(), Some(5), "{error}");
                });
            }
            begun.wait();
            // Busy it stays mounted, but without a connection.
            let _ = Command::new("umount").arg("-f").arg(&mount).output();
        });
        front.remove().unwrap();
        assert!(!mount.exists(), "{transport:?}");
        assert!(!mountinfo().contains(dir.path().to_str().unwrap()));
    }
}

/// Where the kernel refuses the rings, `auto` does without, and `on` is refused and leaves nothing. The switch is as before.
#[test]
fn a_ring_that_is_refused_is_done_without() {
    if transports().len() < 2 {
        return;
    }
    let options = |fuse_uring| LoopOptions {
        fuse_uring,
        // More completions than a ring can have.
        queue_depth: u16::MAX,
        ..LoopOptions::default()
    };
    let dir = tempfile::tempdir().unwrap();
    let device = Arc::new(Device::builder(1 << 20).build().unwrap());
    let mount = dir.path().join("refused");
    let on = options(FuseUring::On);
    let error = FuseLoop::create(device.clone(), "refused", &mount, &on);
    let error = error.map(drop).unwrap_err();
    assert!(matches!(error, Error::NoUring { .. }), "{error}");
    assert!(!mountinfo().contains(dir.path().to_str().unwrap()));
    assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 0);
    let auto = options(FuseUring::Auto);
    let mut front = FuseLoop::create(device.clone(), "refused", &mount, &auto).unwrap();
    assert_eq!(front.transport(), Transport::DevFuse);
    front.remove().unwrap();
    assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 0);
}

/// A server that was killed while it had the switch on leaves a mark, and whoever clears up after it switches it off.
#[test]
fn the_switch_is_as_it_was() {
    if transports().len() < 2 || std::fs::read_to_string(SWITCH).unwrap() != "N\n" {
        return;
    }
    let is_off = || {
        // Another test may have it on at this moment.
        let off = || std::fs::read_to_string(SWITCH).unwrap() == "N\n";
        (0..1000).any(|_| {
            std::thread::sleep(std::time::Duration::from_millis(1));
            off()
        })
    };
    let dir = tempfile::tempdir().unwrap();
    let device = Arc::new(Device::builder(1 << 20).build().unwrap());
    let mount = dir.path().join("mnt-0123");
    let on = LoopOptions {
        fuse_uring: FuseUring::On,
        ..LoopOptions::default()
    };
    let mut front = FuseLoop::create(device, "switch", &mount, &on).unwrap();
    assert!(is_off(), "with a device that uses it");
    front.remove().unwrap();
    let mark = dir.path().join("mnt-0123.switched-on");
    assert!(!mark.exists());
    std::fs::write(&mark, []).unwrap();
    std::fs::write(SWITCH, "Y").unwrap();
    clear_stale(dir.path()).unwrap();
    assert!(is_off() && !mark.exists());
}

/// What a page holds: its number, again and again.
fn contents(page: u64) -> [u8; 4096] {
    let mut bytes = [0; 4096];
    let words = bytes.as_chunks_mut::<8>().0.iter_mut().zip(0u64..);
    words.for_each(|(word, at)| *word = [page, at][at as usize % 2].to_ne_bytes());
    bytes
}

/// What others wait at.
#[derive(Default)]
struct Gate {
    is_open: Mutex<bool>,
    opened: Condvar,
}

impl Gate {
    fn set(&self, open: bool) {
        *self.is_open.lock().unwrap() = open;
        self.opened.notify_all();
    }

    fn pass(&self) {
        let is_open = self.is_open.lock().unwrap();
        drop(self.opened.wait_while(is_open, |is_open| !*is_open));
    }
}

/// A source whose frames, but for the first one, come once the gate is open.
#[derive(Default)]
struct GatedSource(Arc<Gate>);

impl RemoteSource for GatedSource {
    fn fetch(
        &self,
        frames: &[u32],
        page: &mut dyn FnMut(u64, StoredPage<'_>),
    ) -> Result<(), RemoteError> {
        if frames != [0] {
            self.0.pass();
        }
        for number in frames
            .iter()
            .flat_map(|frame| (0..64).map(move |page| u64::from(*frame) * 64 + page))
        {
            page(number, StoredPage::Raw(&contents(number)));
        }
        Ok(())
    }

    fn codec(&self, number: u8) -> Result<Choice, RemoteError> {
        panic!("there are no objects, and so none of codec {number}");
    }

    fn name(&self) -> String {
        "a gate".into()
    }
}

/// A store whose objects are read once the gate is open.
#[derive(Default)]
struct GatedStore {
    gate: Arc<Gate>,
    objects: Mutex<BTreeMap<u64, Vec<u8>>>,
}

impl SegmentStore for GatedStore {
    fn put(&self, number: u64, bytes: &[u8]) -> io::Result<()> {
        self.objects.lock().unwrap().insert(number, bytes.into());
        Ok(())
    }
    fn get(&self, number: u64, range: Range<u64>) -> io::Result<Vec<u8>> {
        self.gate.pass();
        let objects = self.objects.lock().unwrap();
        let object = objects.get(&number).ok_or(io::ErrorKind::NotFound)?;
        Ok(object[range.start as usize..range.end as usize].into())
    }
    fn delete(&self, number: u64) -> io::Result<()> {
        self.objects.lock().unwrap().remove(&number);
        Ok(())
    }
    fn list(&self) -> io::Result<Vec<u64>> {
        Ok(self.objects.lock().unwrap().keys().copied().collect())
    }
    fn retire(&self) -> Option<String> {
        None
    }
    fn describe(&self) -> String {
        "a gate".into()
    }
}

/// Frames of 64 pages, of which those of the first are there at once.
const FRAMES: u64 = 64;

/// Requests of a clone that wait for its source leave the queues to others, however many they are.
#[test]
fn what_waits_for_a_source_holds_up_nothing_else() {
    for (options, transport) in transports() {
        let mut device = Device::builder(FRAMES << 18).lazy(true).build().unwrap();
        device.install().remote(0..FRAMES * 64).unwrap();
        let source = GatedSource::default();
        let gate = source.0.clone();
        let mut remote = RemoteOptions::default();
        remote.timeout = Duration::from_secs(60);
        device.set_source(Arc::new(source), remote);
        let device = Arc::new(device);
        let _fetchers = Fetchers::start(&device).unwrap();
        let dir = tempfile::tempdir().unwrap();
        let mount = dir.path().join("m");
        let mut front = FuseLoop::create(device.clone(), "gated", &mount, &options).unwrap();
        assert_eq!(front.transport(), transport);
        holds_up_nothing(&mount, &gate);
        front.remove().unwrap();
    }
}

/// The same of one that gets its backing in a store while it is served.
#[test]
fn what_waits_for_a_store_that_came_later_holds_up_nothing_else() {
    for (options, transport) in transports() {
        let device = Arc::new(Device::builder(FRAMES << 18).build().unwrap());
        let dir = tempfile::tempdir().unwrap();
        let mount = dir.path().join("m");
        let mut front = FuseLoop::create(device.clone(), "later", &mount, &options).unwrap();
        assert_eq!(front.transport(), transport);
        for page in 0..FRAMES * 64 {
            device.write_at(&contents(page), page * 4096).unwrap();
        }
        front.expect_waits().unwrap();
        let store = GatedStore::default();
        let gate = store.gate.clone();
        let map = tempfile::tempfile().unwrap();
        let timeout = Duration::from_secs(60);
        let disk = StoreDisk::create(Arc::new(store), map, [7; 16], timeout).unwrap();
        let zram = device.zram();
        let path = Path::new("far/away");
        zram.attach_disk(path, Arc::new(disk), 64 << 20).unwrap();
        let pages = 64..FRAMES * 64;
        let what = Writeback {
            pages: vec![pages],
            ..Writeback::default()
        };
        let written = zram.writeback(&what, &mut |_| ControlFlow::Continue(()));
        assert_eq!(written.unwrap().written, (FRAMES - 1) * 64);
        holds_up_nothing(&mount, &gate);
        front.remove().unwrap();
    }
}

/// Reads and writes what is there while many wait at the gate for what is not.
fn holds_up_nothing(mount: &Path, gate: &Gate) {
    // The file itself, past the loop driver's worker, which runs anywhere.
    let file = OpenOptions::new()
        .read(true)
        .write(true)
        .custom_flags(libc::O_DIRECT)
        .open(file_of(mount))
        .unwrap();
    let read = &|page: u64| {
        let mut bytes = vec![0; 2 * 4096];
        let begin = bytes.as_ptr().align_offset(4096);
        let bytes = &mut bytes[begin..begin + 4096];
        file.read_exact_at(bytes, page * 4096).unwrap();
        bytes.to_vec()
    };
    std::thread::scope(|scope| {
        // More by each CPU's queue than that has entries otherwise.
        let cpus = std::thread::available_parallelism().map_or(1, usize::from);
        let readers: Vec<_> = (0..100)
            .map(|reader| {
                let page = 64 + reader * 40;
                scope.spawn(move || {
                    pin(reader as usize % cpus);
                    (read(page), page)
                })
            })
            .collect();
        // Most of them arrive meanwhile, however busy the machine.
        std::thread::sleep(Duration::from_millis(500));
        assert!(readers.iter().all(|reader| !reader.is_finished()));
        for cpu in 0..cpus {
            let here = move || {
                pin(cpu);
                for page in 0..64 {
                    assert!(read(page) == contents(page), "page {page}");
                }
            };
            scope.spawn(here).join().unwrap();
        }
        let mut bytes = vec![0; 2 * 4096];
        let at = bytes.as_ptr().align_offset(4096);
        let bytes = &mut bytes[at..at + 4096];
        bytes.fill(0xA5);
        file.write_all_at(bytes, 65 * 4096).unwrap();
        assert!(read(65) == [0xA5; 4096]);
        assert!(readers.iter().all(|reader| !reader.is_finished()));
        gate.set(true);
        for reader in readers {
            let (got, page) = reader.join().unwrap();
            assert!(got == contents(page), "page {page}");
        }
    });
    assert!(read(65) == [0xA5; 4096]);
}
