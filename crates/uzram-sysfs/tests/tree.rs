//! The tree's semantics on a real FUSE mount, compared with the kernel's sysfs where there is a zram. Needs root, otherwise a
//! reported skip.

mod common;

use std::collections::BTreeSet;
use std::fs::{self, File, OpenOptions};
use std::io::{Read, Seek, SeekFrom, Write};
use std::os::unix::fs::{FileExt, MetadataExt, PermissionsExt};
use std::path::Path;
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;

use common::{Fake, possible, skip};
use rustix::fs::{CWD, Mode, OFlags};
use uzram_control::zram::{ATTRIBUTES, AttributePlace, Host, HostOptions};
use uzram_sysfs::{Error, Mounted, STAND_IN_MAJOR, Tree};
use uzram_testkit::zram::InProcess;

fn mount(view: &Arc<Fake>) -> (tempfile::TempDir, Mounted) {
    let dir = tempfile::tempdir().unwrap();
    let mounted = Tree::new(view.clone()).unwrap().mount(dir.path()).unwrap();
    (dir, mounted)
}

fn names(dir: &Path) -> BTreeSet<String> {
    fs::read_dir(dir)
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect()
}

fn is_mounted(at: &Path) -> bool {
    uzram_blockdev::mounts()
        .iter()
        .any(|mount| mount.path == at)
}

/// Collects what sysfs refuses, and how, by the paths below a device's directory.
fn refusals(device: &Path, control: &Path) -> Vec<(String, String)> {
    let mut answers = Vec::new();
    let mut note = |what: &str, answer: rustix::io::Result<()>| {
        answers.push((what.to_owned(), format!("{answer:?}")));
    };
    let open = |path: &Path, flags: OFlags| {
        rustix::fs::open(path, flags | OFlags::CLOEXEC, Mode::from_raw_mode(0o644)).map(drop)
    };
    let (read, write, both) = (OFlags::RDONLY, OFlags::WRONLY, OFlags::RDWR);
    let at = |name: &str| device.join(name);
    note("create", open(&at("new"), write | OFlags::CREATE));
    note(
        "create in control",
        open(&control.join("new"), write | OFlags::CREATE),
    );
    note(
        "create in queue",
        open(&at("queue/new"), write | OFlags::CREATE),
    );
    note(
        "create what is there",
        open(&at("ro"), write | OFlags::CREATE | OFlags::EXCL),
    );
    note("read reset", open(&at("reset"), read));
    note("read hot_remove", open(&control.join("hot_remove"), read));
    note("write initstate", open(&at("initstate"), write));
    note("read and write initstate", open(&at("initstate"), both));
    note(
        "truncate while reading",
        open(&at("initstate"), read | OFlags::TRUNC),
    );
    note("write hot_add", open(&control.join("hot_add"), write));
    note("write mm_stat", open(&at("mm_stat"), write | OFlags::TRUNC));
    note("write size", open(&at("size"), write));
    note("write a directory", open(device, write));
    note(
        "truncate",
        open(&at("comp_algorithm"), both | OFlags::TRUNC),
    );
    note("mkdir", rustix::fs::mkdir(at("new"), Mode::RWXU));
    note(
        "mkdir what is there",
        rustix::fs::mkdir(at("queue"), Mode::RWXU),
    );
    note("rmdir", rustix::fs::rmdir(at("queue")));
    note("unlink", rustix::fs::unlink(at("ro")));
    note("unlink nothing", rustix::fs::unlink(at("nothing")));
    note("rename", rustix::fs::rename(at("ro"), at("new")));
    note("link", rustix::fs::link(at("ro"), at("new")));
    note("symlink", rustix::fs::symlink("ro", at("new")));
    let fifo = rustix::fs::FileType::Fifo;
    note(
        "mknod",
        rustix::fs::mknodat(CWD, at("new"), fifo, Mode::RWXU, 0),
    );
    let mut byte = [0u8; 8];
    note(
        "getxattr",
        rustix::fs::getxattr(at("ro"), "user.a", &mut byte[..]).map(drop),
    );
    note(
        "listxattr",
        rustix::fs::listxattr(at("ro"), &mut byte[..]).map(drop),
    );
    let flags = rustix::fs::XattrFlags::empty();
    note(
        "setxattr",
        rustix::fs::setxattr(at("ro"), "user.a", b"1", flags),
    );
    let file = || {
        let options = OpenOptions::new()
            .read(true)
            .write(true)
            .open(at("comp_algorithm"));
        options.unwrap()
    };
    let result = |answer: std::io::Result<usize>| match answer {
        Ok(_) => Ok(()),
        Err(error) => Err(rustix::io::Errno::from_io_error(&error).unwrap()),
    };
    note("a bad value", result(file().write(b"nonsense")));
    note("a long value", result(file().write(&[b'x'; 5000])));
    note("nothing", result(file().write(b"")));
    note("fsync", rustix::fs::fsync(file()));
    note("ftruncate", rustix::fs::ftruncate(file(), 10));
    note(
        "seek",
        result(file().seek(SeekFrom::End(-4096)).map(|at| at as usize)),
    );
    note(
        "seek to data",
        rustix::fs::seek(file(), rustix::fs::SeekFrom::Data(0)).map(drop),
    );
    answers
}

#[test]
fn what_is_refused_is_refused_as_in_sysfs() {
    if !possible("tree") {
        return;
    }
    let (dir, _mounted) = mount(&Arc::new(Fake::with(1)));
    let ours = refusals(
        &dir.path().join("block/zram0"),
        &dir.path().join("class/zram-control"),
    );
    let find = |what: &str| &ours.iter().find(|(name, _)| name == what).unwrap().1;
    assert_eq!(
        find("create"),
        "Err(Os { code: 13, kind: PermissionDenied, message: \"Permission denied\" })"
    );
    let real = Path::new("/sys/block/zram0");
    if !real.is_dir() {
        return skip("tree", "no zram of the kernel to compare with");
    }
    assert_eq!(ours, refusals(real, Path::new("/sys/class/zram-control")));
}

#[test]
fn files_look_like_those_of_sysfs() {
    if !possible("tree") {
        return;
    }
    let (dir, _mounted) = mount(&Arc::new(Fake::with(1)));
    let real = Path::new("/sys/block/zram0");
    let device = dir.path().join("block/zram0");
    let meta = fs::metadata(device.join("disksize")).unwrap();
    assert_eq!((meta.len(), meta.mode(), meta.uid()), (4096, 0o100_644, 0));
    if !real.is_dir() || fs::read_to_string(real.join("initstate")).unwrap() != "0\n" {
        return skip("tree", "no unused zram of the kernel to compare with");
    }
    for place in ["", "queue", "power", "holders", "slaves"] {
        for name in names(&real.join(place)) {
            let path = Path::new(place).join(&name);
            // Only the kernel has these: tracing, and the writeback of its page cache.
            if ["trace", "bdi"].contains(&name.as_str()) {
                continue;
            }
            let ours = fs::symlink_metadata(device.join(&path));
            let ours = ours.unwrap_or_else(|error| panic!("{}: {error}", path.display()));
            let theirs = fs::symlink_metadata(real.join(&path)).unwrap();
            assert_eq!(
                (ours.mode(), ours.uid(), ours.gid(), ours.len()),
                (theirs.mode(), theirs.uid(), theirs.gid(), theirs.len()),
                "{}",
                path.display()
            );
            let is_zrams = path.parent() == Some(Path::new("")) && {
                let zrams = ["comp_algorithm", "disksize", "initstate"];
                zrams.contains(&name.as_str()) || name.ends_with("_stat")
            };
            // These two name the device.
            let is_name = ["dev", "uevent", "diskseq"].contains(&name.as_str());
            if !theirs.is_file() || theirs.permissions().mode() & 0o444 == 0 || is_zrams || is_name
            {
                continue;
            }
            let read = |dir: &Path| fs::read_to_string(dir.join(&path)).map_err(|e| e.kind());
            assert_eq!(read(&device), read(real), "{}", path.display());
        }
    }
    let number = format!("{STAND_IN_MAJOR}:0");
    assert_eq!(
        fs::read_to_string(device.join("dev")).unwrap(),
        format!("{number}\n")
    );
    let by_number = dir.path().join("dev/block").join(number).join("disksize");
    assert_eq!(fs::read_to_string(by_number).unwrap(), "0\n");
}

#[test]
fn show_runs_once_for_an_open_file() {
    if !possible("tree") {
        return;
    }
    let view = Arc::new(Fake::with(1));
    let (dir, _mounted) = mount(&view);
    let mut file = File::open(dir.path().join("block/zram0/comp_algorithm")).unwrap();
    assert_eq!(view.shows.load(Relaxed), 0, "not before it is read");
    let mut text = Vec::new();
    let mut byte = [0];
    while file.read(&mut byte).unwrap() == 1 {
        text.push(byte[0]);
    }
    assert_eq!(text, b"[lzo-rle] lzo lz4 \n");
    assert_eq!(file.read(&mut byte).unwrap(), 0);
    assert_eq!(view.shows.load(Relaxed), 1);
    file.seek(SeekFrom::Start(10)).unwrap();
    let mut rest = String::new();
    file.read_to_string(&mut rest).unwrap();
    assert_eq!((rest.as_str(), view.shows.load(Relaxed)), ("lzo lz4 \n", 1));
    file.rewind().unwrap();
    assert_eq!(file.read(&mut byte).unwrap(), 1);
    assert_eq!(view.shows.load(Relaxed), 2, "again from the start");

    for id in 1..4 {
        let output = Command::new("cat")
            .arg(dir.path().join("class/zram-control/hot_add"))
            .output()
            .unwrap();
        assert_eq!(output.stdout, format!("{id}\n").into_bytes());
    }
    assert_eq!(view.devices.lock().unwrap().len(), 4);
}

#[test]
fn a_write_is_one_store_of_a_page_at_most() {
    if !possible("tree") {
        return;
    }
    let view = Arc::new(Fake::with(1));
    let (dir, _mounted) = mount(&view);
    let device = dir.path().join("block/zram0");
    let mut file = OpenOptions::new()
        .write(true)
        .open(device.join("mem_limit"))
        .unwrap();
    for (len, taken) in [(1, 1), (4096, 4096), (4097, 4096), (1 << 20, 4096)] {
        assert_eq!(file.write(&vec![b'7'; len]).unwrap(), taken, "{len}");
        let (name, value) = view.stores.lock().unwrap().pop().unwrap();
        assert_eq!((name.as_str(), value.len()), ("mem_limit", taken));
        assert!(view.stores.lock().unwrap().is_empty(), "one store");
    }
    assert_eq!(file.write_at(b"abc", 100).unwrap(), 3);
    // `>`, `>>`, and several writes through one open file.
    let script = "cd \"$0\" && echo 1 >idle && echo 2 >>idle && { echo 3; echo 4; } >idle";
    let status = Command::new("sh")
        .args(["-c", script])
        .arg(&device)
        .status();
    assert!(status.unwrap().success());
    let mut stores = view.stores.lock().unwrap();
    let values: Vec<Vec<u8>> = stores.drain(..).map(|(_, value)| value).collect();
    assert_eq!(values, [&b"abc"[..], b"1\n", b"2\n", b"3\n", b"4\n"]);
}

/// Other processes use the tree here: a process that waits for itself could not even be killed.
#[test]
fn nothing_waits_for_a_long_store() {
    if !possible("tree") {
        return;
    }
    let view = Arc::new(Fake::with(16));
    let (dir, _mounted) = mount(&view);
    let shell = |text: &str| {
        let mut command = Command::new("sh");
        command
            .args(["-c", text])
            .current_dir(dir.path().join("block"));
        command
    };
    view.hold();
    // More writers than the server has threads.
    let mut stores: Vec<_> = (0..16)
        .map(|id| {
            shell(&format!("echo type=idle >zram{id}/recompress"))
                .spawn()
                .unwrap()
        })
        .collect();
    while view.stores.lock().unwrap().len() < 16 {
        std::thread::yield_now();
    }
    let output =
        shell("cd zram0 && cat mm_stat && echo all >idle && ls | grep -c mm_stat").output();
    assert_eq!(output.unwrap().stdout, b"1 2 3\n1\n");
    assert!(
        stores
            .iter_mut()
            .all(|store| store.try_wait().unwrap().is_none())
    );
    view.release();
    for mut store in stores {
        assert!(store.wait().unwrap().success());
    }
}

#[test]
fn block_state_reads_on_from_where_it_was() {
    if !possible("tree") {
        return;
    }
    let slots = 9000;
    let view = Arc::new(Fake {
        slots,
        ..Fake::with(1)
    });
    let (dir, _mounted) = mount(&view);
    let debug = dir.path().join("kernel/debug");
    let path = debug.join("zram/zram0/block_state");
    let refused = fs::read(&path).unwrap_err();
    assert_eq!(refused.raw_os_error(), Some(libc::EINVAL));
    view.set_size(0, 1 << 30);
    let whole: String = (0..slots).map(Fake::line).collect();
    assert!(fs::read_to_string(&path).unwrap() == whole);
    for step in [1000, 1 << 20] {
        let mut file = File::open(&path).unwrap();
        let (mut text, mut buffer) = (Vec::new(), vec![0; step]);
        loop {
            match file.read(&mut buffer).unwrap() {
                0 => break,
                len => text.extend_from_slice(&buffer[..len]),
            }
        }
        assert!(text == whole.as_bytes(), "by {step}");
        let mut some = [0; 100];
        for at in [200_000u64, 50, 0] {
            file.read_exact_at(&mut some, at).unwrap();
            let at = at as usize;
            assert_eq!(some[..], whole.as_bytes()[at..at + 100], "at {at}");
        }
    }
    assert_eq!(fs::metadata(&path).unwrap().mode(), 0o100_400);
    let classes = debug.join("zsmalloc/zram0/classes");
    assert_eq!(fs::read_to_string(classes).unwrap(), " class  size\n");
}

#[test]
fn devices_come_and_go_and_are_never_stale() {
    if !possible("tree") {
        return;
    }
    let view = Arc::new(Fake::default());
    let (dir, _mounted) = mount(&view);
    let at = |path: &str| dir.path().join(path);
    let places = [
        "block",
        "class/block",
        "kernel/debug/zram",
        "kernel/debug/zsmalloc",
    ];
    for round in 0..3 {
        for place in places {
            assert!(!at(place).join("zram0").exists(), "{place}, round {round}");
            assert!(names(&at(place)).is_empty());
        }
        assert_eq!(view.add(), 0);
        for place in places {
            assert!(at(place).join("zram0").is_dir(), "{place}, round {round}");
            assert_eq!(names(&at(place)), BTreeSet::from(["zram0".to_owned()]));
        }
        assert!(!at("block/zram00").exists() && !at("block/zram1").exists());
        fs::write(at("class/zram-control/hot_remove"), "0").unwrap();
        let again = fs::write(at("class/zram-control/hot_remove"), "0").unwrap_err();
        assert_eq!(again.raw_os_error(), Some(libc::ENODEV));
    }
}

#[test]
fn generic_attributes_are_those_of_the_node() {
    if !possible("tree") {
        return;
    }
    let Ok(number) = fs::read_to_string("/sys/block/loop7/dev") else {
        return skip("tree", "no loop device");
    };
    let number = number.trim();
    let (major, minor) = number.split_once(':').unwrap();
    let rdev = (major.parse().unwrap(), minor.parse().unwrap());
    let view = Arc::new(Fake {
        numbers: vec![rdev],
        ..Fake::default()
    });
    view.add();
    let (dir, _mounted) = mount(&view);
    let device = dir.path().join("dev/block").join(number);
    let read = |path: &str| fs::read_to_string(device.join(path)).unwrap();
    assert_eq!(read("dev").trim(), number);
    assert_eq!(
        read("queue/max_sectors_kb"),
        "124\n",
        "not initialised: zram's own"
    );
    view.set_size(0, 1 << 20);
    for path in [
        "size",
        "queue/max_sectors_kb",
        "queue/logical_block_size",
        "diskseq",
    ] {
        let real = fs::read_to_string(format!("/sys/block/loop7/{path}")).unwrap();
        assert_eq!(read(path), real, "{path}");
    }
    assert_eq!(read("stat").split_whitespace().count(), 17);
    let uevent = read("uevent");
    assert!(
        uevent.contains("DEVNAME=zram0\n") && uevent.contains("DEVTYPE=disk\n"),
        "{uevent}"
    );
    // Writes reach the node, and its errors come back.
    let ahead = read("queue/read_ahead_kb");
    fs::write(device.join("queue/read_ahead_kb"), "64").unwrap();
    let real = fs::read_to_string("/sys/block/loop7/queue/read_ahead_kb").unwrap();
    fs::write("/sys/block/loop7/queue/read_ahead_kb", &ahead).unwrap();
    assert_eq!(real, "64\n");
    let refused = fs::write(device.join("queue/read_ahead_kb"), "words").unwrap_err();
    assert_eq!(refused.raw_os_error(), Some(libc::EINVAL));
    // A node without an attribute of its own falls back to the device's value.
    view.devices.lock().unwrap().get_mut(&0).unwrap().1 = None;
    let size = fs::read_to_string(dir.path().join("block/zram0/size"));
    assert_eq!(size.unwrap(), "2048\n");
}

#[test]
fn the_mount_goes_with_its_owner() {
    if !possible("tree") {
        return;
    }
    let view = Arc::new(Fake::with(1));
    let (dir, mounted) = mount(&view);
    assert!(is_mounted(dir.path()));
    let other = Tree::new(view.clone()).unwrap().mount(dir.path());
    assert!(matches!(other, Err(Error::Occupied { .. })));
    mounted.unmount().unwrap();
    assert!(!is_mounted(dir.path()));
    // Even while one of its files is open.
    let mounted = Tree::new(view.clone()).unwrap().mount(dir.path()).unwrap();
    let mut file = File::open(dir.path().join("block/zram0/disksize")).unwrap();
    drop(mounted);
    assert!(!is_mounted(dir.path()));
    let mut text = String::new();
    file.read_to_string(&mut text).unwrap();
    assert_eq!(text, "0\n", "who has it open is served on");
}

/// The files of the whole interface, with the model and devices in this process behind them.
#[test]
fn a_devices_life_through_its_files() {
    if !possible("tree") {
        return;
    }
    let host = Host::new(Box::new(InProcess::new()), HostOptions::default());
    let dir = tempfile::tempdir().unwrap();
    let tree = Tree::new(Arc::new(host)).unwrap();
    let _mounted = tree.mount(dir.path()).unwrap();
    let control = dir.path().join("class/zram-control");
    let device = dir.path().join("block/zram0");
    let read = |name: &str| fs::read_to_string(device.join(name)).unwrap();
    let write = |name: &str, value: &str| {
        let written = fs::write(device.join(name), value);
        written.map_err(|error| error.raw_os_error().unwrap())
    };
    assert_eq!(fs::read_to_string(control.join("hot_add")).unwrap(), "0\n");
    for attribute in ATTRIBUTES {
        let (dir, mode) = match attribute.place {
            AttributePlace::Control => (&control, attribute.mode),
            AttributePlace::Device => (&device, attribute.mode),
        };
        let meta = fs::metadata(dir.join(attribute.name)).unwrap();
        assert_eq!(meta.mode() & 0o7777, u32::from(mode), "{}", attribute.name);
        assert!(names(dir).contains(attribute.name));
    }
    assert_eq!(
        (read("initstate"), read("size")),
        ("0\n".into(), "0\n".into())
    );
    let block_state = dir.path().join("kernel/debug/zram/zram0/block_state");
    let uninit = fs::read(&block_state).unwrap_err().raw_os_error();
    assert_eq!(uninit, Some(libc::EINVAL));
    assert_eq!(write("comp_algorithm", "nonsense"), Err(libc::EINVAL));
    write("comp_algorithm", "zstd\n").unwrap();
    assert!(read("comp_algorithm").contains("[zstd]"));
    write("disksize", "16M\n").unwrap();
    assert_eq!(write("disksize", "16M"), Err(libc::EBUSY));
    assert_eq!(
        (read("disksize"), read("size")),
        ("16777216\n".into(), "32768\n".into())
    );
    assert_eq!(read("mm_stat").split_whitespace().count(), 9);
    assert_eq!(fs::read(&block_state).unwrap(), b"");
    let classes = dir.path().join("kernel/debug/zsmalloc/zram0/classes");
    assert!(fs::read_to_string(classes).unwrap().contains("class"));
    write("reset", "1").unwrap();
    assert_eq!(
        (read("initstate"), read("disksize")),
        ("0\n".into(), "0\n".into())
    );
    fs::write(control.join("hot_remove"), "0").unwrap();
    assert!(!device.exists());
}

/// The test below runs this as a process of its own.
#[test]
#[ignore = "a helper"]
fn helper_that_mounts_and_waits() {
    let at = std::env::var_os("UZRAM_TEST_AT").unwrap();
    let view = Arc::new(Fake::with(1));
    let mounted = Tree::new(view).unwrap().mount(Path::new(&at)).unwrap();
    mounted.wait().unwrap();
}

#[test]
fn a_dead_servers_mount_is_cleared() {
    if !possible("tree") {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let mut helper = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "helper_that_mounts_and_waits", "--ignored"])
        .env("UZRAM_TEST_AT", dir.path())
        .spawn()
        .unwrap();
    while !is_mounted(dir.path()) {
        assert!(helper.try_wait().unwrap().is_none(), "the helper ended");
        std::thread::yield_now();
    }
    helper.kill().unwrap();
    helper.wait().unwrap();
    assert!(is_mounted(dir.path()), "a dead mount");
    let view = Arc::new(Fake::with(1));
    let mounted = Tree::new(view).unwrap().mount(dir.path()).unwrap();
    assert!(dir.path().join("block/zram0").is_dir());
    drop(mounted);
    assert!(!is_mounted(dir.path()));
}
