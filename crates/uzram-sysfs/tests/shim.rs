//! Commands in the shim's mount namespace. Needs root, otherwise a reported skip.

mod common;

use std::ffi::OsString;
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::os::unix::process::ExitStatusExt;
use std::path::Path;
use std::process::{Command, ExitStatus};
use std::sync::{Arc, Mutex, PoisonError};

use common::{Fake, possible, skip};
use uzram_control::zram::Host;
use uzram_sysfs::{Error, STAND_IN_MAJOR, shim};
use uzram_testkit::zram::InProcess;

/// These tests compare the state of the whole machine, so they run one at a time.
static ALONE: Mutex<()> = Mutex::new(());

fn run(view: &Arc<Fake>, command: &[&str]) -> Result<ExitStatus, Error> {
    let command: Vec<OsString> = command.iter().map(OsString::from).collect();
    shim::run(view.clone(), &shim::ShimOptions::default(), &command)
}

/// Runs a script in the shim and returns what it printed.
fn script(view: &Arc<Fake>, text: &str) -> String {
    let dir = tempfile::tempdir().unwrap();
    let out = dir.path().join("out");
    let text = format!("exec >{} 2>&1\n{text}", out.display());
    let status = run(view, &["sh", "-c", &text]).unwrap();
    let out = fs::read_to_string(out).unwrap();
    assert!(status.success(), "{status}: {out}");
    out
}

/// Everything outside that the shim could have changed, apart from what others on the machine may change.
fn outside() -> Vec<String> {
    let mut seen = Vec::new();
    for mount in uzram_blockdev::mounts() {
        if !mount.path.starts_with(std::env::temp_dir()) {
            seen.push(format!("mount {} {}", mount.device, mount.path.display()));
        }
    }
    for dir in [
        "/dev",
        "/sys/block",
        "/sys/class",
        "/sys/kernel/debug",
        "/usr/lib",
        "/usr/sbin",
    ] {
        let mut entries = Vec::new();
        for entry in fs::read_dir(dir).unwrap() {
            let path = entry.unwrap().path();
            if !path.display().to_string().starts_with("/dev/loop")
                && let Ok(meta) = fs::symlink_metadata(&path)
            {
                let (mode, inode) = (meta.mode(), meta.ino());
                entries.push(format!(
                    "{} {mode:o} {inode} {:x}",
                    path.display(),
                    meta.rdev()
                ));
            }
        }
        entries.sort();
        seen.extend(entries);
    }
    seen
}

/// Runs a test alone, or skips it, and checks that the outside is unchanged afterwards.
fn with_shim(test: impl FnOnce()) {
    if !possible("shim") {
        return;
    }
    let _alone = ALONE.lock().unwrap_or_else(PoisonError::into_inner);
    // Benchmarks that run beside the tests have devices of the kernel's zram come and go, and say so.
    let still = fs::File::open("/sys/class/zram-control");
    if let Ok(still) = &still {
        still.lock().unwrap();
    }
    let before = outside();
    test();
    assert_eq!(before, outside());
}

#[test]
fn devices_are_where_the_kernels_would_be() {
    with_shim(|| {
        let view = Arc::new(Fake::default());
        let out = script(
            &view,
            r#"
            set -e
            ls /dev/zram* 2>/dev/null | wc -w
            for n in 0 1 2; do
                [ "$(ls /dev/zram* 2>/dev/null | wc -w)" = "$n" ]
                cat /sys/class/zram-control/hot_add
            done
            echo /dev/zram*
            stat -c %F,%t:%T,%a /dev/zram1
            cat /sys/class/block/zram1/disksize
            cat /sys/dev/block/4000:1/dev
            cd /sys/block/zram2 && echo 4096 >disksize && cat size && cd /
            [ -d /sys/kernel/debug/zram/zram2 ] && cat /sys/kernel/debug/zsmalloc/zram2/classes
            echo 1 >/sys/class/zram-control/hot_remove
            ls -d /sys/block/zram* /sys/class/block/zram* /dev/zram*
            "#,
        );
        assert_eq!(
            out,
            "0\n0\n1\n2\n/dev/zram0 /dev/zram1 /dev/zram2\nblock special file,fa0:1,600\n\
             0\n4000:1\n8\n class  size\n\
             /dev/zram0\n/dev/zram2\n/sys/block/zram0\n/sys/block/zram2\n\
             /sys/class/block/zram0\n/sys/class/block/zram2\n"
        );
        assert_eq!(STAND_IN_MAJOR, 0xfa0);
        assert_eq!(view.devices.lock().unwrap().len(), 2);
    });
}

#[test]
fn everything_else_is_there_and_works() {
    with_shim(|| {
        let view = Arc::new(Fake::with(1));
        let look = r#"
            ls /sys/block /sys/class /sys/class/block /sys/dev/block /dev | grep -v -e zram -e ^4000:0
            cat /sys/block/*/dev /sys/class/block/*/dev | grep -v 4000: | sort
            cat /sys/class/net/lo/mtu
            readlink /dev/fd /dev/stdin
            for node in /dev/null /dev/zero /dev/tty /dev/loop-control /dev/fuse /dev/vda; do
                [ ! -e $node ] || stat -c %n,%F,%t:%T,%a,%u:%g $node
            done
            stat -f -c %T /dev/pts /dev/shm
            head -c 5 /dev/zero | wc -c
            echo to nowhere >/dev/null
            ls /usr/lib | grep -v '^modules$'
            readlink -f /sys/block/loop0
            ls / /etc | head -5
        "#;
        let outside = Command::new("sh").args(["-c", look]).output().unwrap();
        let outside = String::from_utf8(outside.stdout).unwrap();
        // The kernel's own zram is hidden.
        let zrams = fs::read_to_string("/sys/block/zram0/dev").unwrap_or_default();
        let kept = outside.lines().filter(|line| *line != zrams.trim());
        let kept: Vec<&str> = kept.collect();
        let inside = script(&view, look);
        assert_eq!(inside.lines().collect::<Vec<_>>(), kept);
    });
}

#[test]
fn real_nodes_work_as_zrams() {
    with_shim(|| {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("disk");
        fs::write(&file, vec![0; 4 << 20]).unwrap();
        let node = Command::new("losetup")
            .args(["-f", "--show"])
            .arg(&file)
            .output();
        let Some(node) = node.ok().filter(|output| output.status.success()) else {
            return skip("shim", "no loop device");
        };
        let node = String::from_utf8(node.stdout).unwrap().trim().to_owned();
        let name = Path::new(&node).file_name().unwrap().to_str().unwrap();
        let number = fs::read_to_string(format!("/sys/block/{name}/dev")).unwrap();
        let (major, minor) = number.trim().split_once(':').unwrap();
        let rdev = (major.parse().unwrap(), minor.parse().unwrap());
        let view = Arc::new(Fake {
            numbers: vec![rdev],
            ..Fake::default()
        });
        view.add();
        view.set_size(0, 4 << 20);
        let mount = dir.path().join("mnt");
        fs::create_dir(&mount).unwrap();
        let out = script(
            &view,
            &format!(
                r#"
                set -e
                readlink /sys/dev/block/{0}
                blockdev --getsize64 /dev/zram0
                cat /sys/block/zram0/size
                mkfs.ext4 -q /dev/zram0 && mount /dev/zram0 {1}
                grep -c '^/dev/zram0 ' /proc/mounts
                echo text >{1}/file && umount {1}
                mkswap /dev/zram0 >/dev/null 2>&1
                swapon /dev/zram0 && grep -c zram0 /proc/swaps && swapoff /dev/zram0
                "#,
                number.trim(),
                mount.display()
            ),
        );
        let detached = Command::new("losetup")
            .args(["-d", &node])
            .status()
            .unwrap();
        assert!(detached.success());
        assert_eq!(out, "../../block/zram0\n4194304\n8192\n1\n1\n");
    });
}

#[test]
fn numbers_that_change_are_seen() {
    with_shim(|| {
        let view = Arc::new(Fake::with(1));
        // This store gives the device a node, as the daemon's engine may.
        let changing = view.clone();
        let changer = std::thread::spawn(move || {
            while changing.stores.lock().unwrap().is_empty() {
                std::thread::yield_now();
            }
            changing.devices.lock().unwrap().get_mut(&0).unwrap().1 = Some((7, 6));
        });
        let out = script(
            &view,
            r#"
            exec 3</dev
            stat -c %t:%T /dev/zram0
            echo all >/sys/block/zram0/idle
            while [ "$(cat /sys/block/zram0/dev)" != 7:6 ]; do :; done
            stat -c %t:%T /dev/zram0
            readlink /sys/dev/block/7:6
            readlink /sys/dev/block/4000:0 || echo gone
            "#,
        );
        changer.join().unwrap();
        assert_eq!(out, "fa0:0\n7:6\n../../block/zram0\ngone\n");
    });
}

#[test]
fn dev_passes_through_what_is_made_there() {
    /// Cleans up after a failed test, too.
    struct Removed(&'static Path);
    impl Drop for Removed {
        fn drop(&mut self) {
            let _ = fs::remove_dir_all(self.0);
        }
    }
    with_shim(|| {
        let view = Arc::new(Fake::with(1));
        let real = Removed(Path::new("/dev/uzram-test"));
        let out = script(
            &view,
            r#"
            set -e
            cd /dev
            umask 027
            mkdir uzram-test
            cd uzram-test
            echo one >file && echo two >>file && cat file && chmod 604 file
            ln -s file link && cat link
            ln file hard && mv hard moved && ls
            mknod null c 1 3 && echo nothing >null && stat -c %t:%T,%a null
            stat -c %a,%s file && stat -c %a .
            : >file && stat -c %s file
            touch -d @5 file && stat -c %Y file
            (umask 0 && : >open && stat -c %a open)
            mkfifo pipe && { echo through >pipe & cat pipe; wait; }
            "#,
        );
        assert_eq!(
            out,
            "one\ntwo\none\ntwo\nfile\nlink\nmoved\n1:3,640\n604,8\n750\n0\n5\n666\nthrough\n"
        );
        assert_eq!(
            fs::read_link(real.0.join("link")).unwrap(),
            Path::new("file")
        );
        drop(real);
        let out = script(
            &view,
            r#"
            rm -f /dev/zram0 2>/dev/null || echo refused
            mknod /dev/zram5 b 1 1 2>/dev/null || echo refused
            mkdir /dev/.uzram 2>/dev/null || echo refused
            ls -a /dev | grep -c uzram || :
            "#,
        );
        assert_eq!(out, "refused\nrefused\nrefused\n0\n");
    });
}

#[test]
fn zramctl_works_on_the_model() {
    with_shim(|| {
        if Command::new("zramctl").arg("--version").output().is_err() {
            return skip("shim", "no zramctl");
        }
        let host = Arc::new(Host::new(Box::new(InProcess::new()), Default::default()));
        let dir = tempfile::tempdir().unwrap();
        let out = dir.path().join("out");
        let text = format!(
            r#"
            exec >{} 2>&1
            modprobe zram num_devices=2
            zramctl -f -s 16M -a lz4
            zramctl /dev/zram1 -s 32M -a zstd
            zramctl -f -s 8M
            zramctl -n -o NAME,DISKSIZE,ALGORITHM,TOTAL --bytes | sort | tr -s ' '
            zramctl -r /dev/zram0 /dev/zram2
            ls -d /sys/block/zram*
            "#,
            out.display()
        );
        let command = ["sh", "-c", &text].map(OsString::from);
        let options = shim::ShimOptions::default();
        assert!(shim::run(host, &options, &command).unwrap().success());
        let out = fs::read_to_string(out).unwrap();
        let first: Vec<&str> = out.lines().take(2).collect();
        assert_eq!(first, ["/dev/zram0", "/dev/zram2"], "{out}");
        assert!(out.contains("/dev/zram0 16777216 lz4 0"), "{out}");
        assert!(out.contains("/dev/zram1 33554432 zstd 0"), "{out}");
        assert!(out.ends_with("\n/sys/block/zram1\n"), "{out}");
    });
}

#[test]
fn modprobe_knows_zram() {
    with_shim(|| {
        let view = Arc::new(Fake::default());
        let out = script(
            &view,
            r#"
            count() { ls -d /sys/block/zram* 2>/dev/null | wc -w; }
            modprobe -n zram; count
            modprobe -q zram num_devices=3; echo $?; count
            modprobe zram num_devices=5; echo $?; count
            modprobe --first-time zram 2>/dev/null; echo $?
            lsmod | grep -c '^zram '
            modinfo zram | grep -c num_devices
            modprobe -r zram; echo $?; count
            modprobe zram; count; rmmod zram; echo $?; count
            modprobe no-such-module 2>/dev/null; echo $?
            rmmod no-such-module 2>/dev/null; echo $?
            "#,
        );
        assert_eq!(out, "0\n0\n3\n0\n3\n1\n1\n1\n0\n0\n1\n0\n0\n1\n1\n");
        view.add();
        view.busy.lock().unwrap().push(0);
        let out = script(
            &view,
            "rmmod zram; echo $?; modprobe -r zram; echo $?; modprobe -qr zram; echo $?",
        );
        assert_eq!(
            out,
            "rmmod: ERROR: Module zram is in use\n1\n\
             modprobe: FATAL: Module zram is in use.\n1\n1\n"
        );
        let out = script(
            &view,
            "cat /lib/modules/$(uname -r)/modules.builtin | grep -c /zram.ko",
        );
        assert_eq!(out, "1\n");
    });
}

/// Runs the shim where a script has arranged the outside differently, in a namespace of its own.
fn in_another_outside(arrange: &str, text: &str) -> String {
    let dir = tempfile::tempdir().unwrap();
    let out = dir.path().join("out");
    let text = format!("exec >{} 2>&1\n{text}", out.display());
    let arrange =
        format!("set -e; {arrange}\nexec \"$0\" --exact helper_that_runs_a_script --ignored -q");
    let status = Command::new("unshare")
        .args(["-m", "sh", "-c", &arrange])
        .arg(std::env::current_exe().unwrap())
        .env("UZRAM_TEST_SCRIPT", text)
        .env("DONE", dir.path().join("done"))
        .status()
        .unwrap();
    let out = fs::read_to_string(out).unwrap_or_default();
    assert!(status.success(), "{status}: {out}");
    out
}

#[test]
fn shared_mounts_do_not_share_ours() {
    with_shim(|| {
        let out = in_another_outside(
            r#"
            mount --make-rshared /
            UZRAM_TEST_SCRIPT="touch $DONE; exec sleep 1000" "$0" --exact helper_that_runs_a_script --ignored -q &
            while [ ! -e "$DONE" ]; do :; done
            if grep uzram- /proc/self/mountinfo; then kill $!; wait; exit 9; fi
            kill $!
            wait $! || :
            "#,
            "grep -c 'fuse.uzram uzram-dev' /proc/self/mountinfo",
        );
        assert_eq!(out, "1\n");
    });
}

#[test]
fn a_kernel_without_zram_gets_its_directories() {
    with_shim(|| {
        let out = in_another_outside(
            "mkdir /dev/shm/class && mount -t tmpfs none /dev/shm/class && mkdir /dev/shm/class/net /dev/shm/class/block \
             && mount --bind /sys/class/net /dev/shm/class/net && mount --bind /sys/class/block /dev/shm/class/block \
             && ln -s net /dev/shm/class/link && mount --move /dev/shm/class /sys/class && rmdir /dev/shm/class",
            "ls /sys/class; cat /sys/class/zram-control/hot_add /sys/class/net/lo/mtu /sys/class/link/lo/mtu
             ls /sys/class/block | grep zram; ls -d /sys/class/zram-control/*",
        );
        assert_eq!(
            out,
            "block\nlink\nnet\nzram-control\n1\n65536\n65536\nzram0\nzram1\n\
             /sys/class/zram-control/hot_add\n/sys/class/zram-control/hot_remove\n"
        );
    });
}

#[test]
fn debugfs_keeps_what_it_has() {
    with_shim(|| {
        let out = in_another_outside(
            "mount -t tmpfs none /sys/kernel/debug && mkdir /sys/kernel/debug/block && echo text >/sys/kernel/debug/file",
            "ls /sys/kernel/debug /sys/kernel/debug/zram; cat /sys/kernel/debug/file; echo more >/sys/kernel/debug/file
             cat /sys/kernel/debug/file; ls /sys/kernel/debug/zsmalloc/zram0",
        );
        assert_eq!(
            out,
            "/sys/kernel/debug:\nblock\nfile\nzram\nzsmalloc\n\n/sys/kernel/debug/zram:\nzram0\n\
             text\nmore\nclasses\n"
        );
    });
}

#[test]
fn real_programs_are_for_other_modules() {
    with_shim(|| {
        // modprobe is one of several names of one program; rmmod is a program of its own.
        let arrange = r#"
            mount -t tmpfs none /usr/local/sbin
            mkdir /usr/local/sbin/w /usr/local/sbin/u
            mount -t overlay -o lowerdir=/usr/sbin,upperdir=/usr/local/sbin/u,workdir=/usr/local/sbin/w none /usr/sbin
            printf '#!/bin/sh\necho real ${0##*/} $*\n' >/usr/sbin/kmod
            cp /usr/sbin/kmod /usr/sbin/rmmod
            chmod 755 /usr/sbin/kmod /usr/sbin/rmmod
            ln -sf kmod /usr/sbin/modprobe
            ln -sf kmod /usr/sbin/depmod
        "#;
        let out = in_another_outside(
            arrange,
            "modprobe loop a=1; /usr/sbin/modprobe -v loop; /sbin/rmmod loop; depmod -a; kmod list
             /usr/sbin/modprobe -r zram; echo $?; /sbin/rmmod zram; echo $?; ls -d /sys/block/zram* || :",
        );
        assert_eq!(
            out,
            "real modprobe loop a=1\nreal modprobe -v loop\nreal rmmod loop\nreal depmod -a\nreal kmod list\n0\n0\n\
             ls: cannot access '/sys/block/zram*': No such file or directory\n"
        );
    });
}

#[test]
fn a_shim_runs_in_a_shim() {
    with_shim(|| {
        let exe = std::env::current_exe().unwrap();
        let view = Arc::new(Fake::with(3));
        let text = format!(
            "ls -d /dev/zram* | wc -w
             UZRAM_TEST_SCRIPT='ls -d /dev/zram* /sys/block/zram*; cat /sys/class/zram-control/hot_add' \\
             {} --exact helper_that_runs_a_script --ignored -q | grep -v -e running -e ^$
             ls -d /dev/zram* | wc -w",
            exe.display()
        );
        assert_eq!(
            script(&view, &text),
            "3\n/dev/zram0\n/sys/block/zram0\n1\n3\n"
        );
    });
}

#[test]
fn how_the_command_ends_is_what_comes_back() {
    with_shim(|| {
        let view = Arc::new(Fake::default());
        let end = |text: &str| run(&view, &["sh", "-c", text]).unwrap();
        assert_eq!(end("exit 0").code(), Some(0));
        assert_eq!(end("exit 7").code(), Some(7));
        assert_eq!(end("kill -TERM $$").signal(), Some(libc::SIGTERM));
        let none = run(&view, &["no-such-program"]);
        assert!(matches!(none, Err(Error::Command { .. })), "{none:?}");
        assert!(matches!(run(&view, &[]), Err(Error::NoCommand)));
    });
}

/// The tests below run this as a process of its own.
#[test]
#[ignore = "a helper"]
fn helper_that_runs_a_script() {
    let text = std::env::var("UZRAM_TEST_SCRIPT").unwrap();
    let view = Arc::new(Fake::with(1));
    let status = run(&view, &["sh", "-c", &text]).unwrap();
    std::process::exit(status.code().unwrap_or(99));
}

fn helper(text: &str) -> Command {
    let mut command = Command::new(std::env::current_exe().unwrap());
    command
        .args(["--exact", "helper_that_runs_a_script", "--ignored", "-q"])
        .env("UZRAM_TEST_SCRIPT", text);
    command
}

/// Waits until the script has written its pid.
fn pid_in(path: &Path) -> i32 {
    loop {
        let text = fs::read_to_string(path).unwrap_or_default();
        if let Some(pid) = text.strip_suffix('\n') {
            return pid.parse().unwrap();
        }
        std::thread::yield_now();
    }
}

#[test]
fn a_killed_shim_leaves_nothing() {
    with_shim(|| {
        let dir = tempfile::tempdir().unwrap();
        let note = dir.path().join("pid");
        let text = format!(
            "exec </sys/block/zram0/disksize; echo $$ >{}; exec sleep 1000",
            note.display()
        );
        let mut shim = helper(&text).spawn().unwrap();
        let pid = pid_in(&note);
        shim.kill().unwrap();
        shim.wait().unwrap();
        // Its parent is gone, so nobody here reaps it, and it ends by itself.
        while Path::new(&format!("/proc/{pid}")).exists() {
            let state = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
            if state.contains(") Z ") {
                break;
            }
            std::thread::yield_now();
        }
    });
}

#[test]
fn sigterm_is_handed_on() {
    with_shim(|| {
        let dir = tempfile::tempdir().unwrap();
        let note = dir.path().join("pid");
        let text = format!(
            "trap 'exit 42' TERM; echo $$ >{}; while :; do sleep 0.01; done",
            note.display()
        );
        let mut shim = helper(&text).spawn().unwrap();
        pid_in(&note);
        let pid = rustix::process::Pid::from_child(&shim);
        rustix::process::kill_process(pid, rustix::process::Signal::TERM).unwrap();
        assert_eq!(shim.wait().unwrap().code(), Some(42));
    });
}
