//! A real FUSE mount and a real loop device. Needs root; a reported skip without.

use std::fs::OpenOptions;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::process::Command;
use std::sync::Arc;

use uzram::Device;
use uzram_blockdev::{Busy, Error as NodeError, busy};
use uzram_fuse::{Error, FuseLoop, LoopNumber, LoopOptions, clear_stale, is_free, probe};
use uzram_testkit::peers;

/// Whether the machine can run these tests. Where peers are required, a missing one is a failure.
fn possible() -> bool {
    peers::possible("loop on FUSE", probe())
}

fn run(program: &str, args: &[&str]) -> String {
    let output = Command::new(program).args(args).output().unwrap();
    assert!(output.status.success(), "{program} {args:?}: {output:?}");
    String::from_utf8(output.stdout).unwrap()
}

#[test]
fn bytes_pass_discards_free_and_removal_leaves_nothing() {
    if !possible() {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    // A path that the mount table escapes.
    let mount = dir.path().join("a b\\c \u{e4}");
    let device = Arc::new(Device::builder(64 << 20).build().unwrap());
    let mut front =
        FuseLoop::create(device.clone(), "test0", &mount, &LoopOptions::default()).unwrap();
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
    let mounts = std::fs::read_to_string("/proc/self/mountinfo").unwrap();
    assert!(!mounts.contains(dir.path().to_str().unwrap()));
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
    if !possible() {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let device = Arc::new(Device::builder(1 << 20).build().unwrap());
    let mount = dir.path().join("mnt-0123");
    let mut front = FuseLoop::create(device, "kept", &mount, &LoopOptions::default()).unwrap();
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
