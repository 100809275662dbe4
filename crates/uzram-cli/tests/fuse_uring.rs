//! FUSE over io_uring as users meet it: which transport a device has, what is refused, what becomes of the kernel's switch, and
//! servers that die or hand over, by either transport.

mod common;

use std::process::Command;
use std::time::Duration;

use common::{Bench, have, needs, sh};
use uzram_spec::FrontendSpec;
use uzram_testkit::peers;
use uzram_testkit::program::FUSE_URING;

const SWITCH: &str = "/sys/module/fuse/parameters/enable_uring";
const CREATE: [&str; 5] = ["create", "--size", "64M", "--frontend", "fuse-loop"];

fn have_uring(test: &str) -> bool {
    let on = FrontendSpec::new("fuse-loop").option("fuse-uring", "on");
    let frontend = uzram_runtime::frontends::by_name("fuse-loop").unwrap();
    have(test, &["losetup", "dd"], true) && peers::possible(test, frontend.check(&on))
}

/// The transports that this machine has, as values of `--fuse-uring`.
fn transports(test: &str) -> Vec<&'static str> {
    match (have(test, &["losetup", "dd"], true), have_uring(test)) {
        (true, true) => vec!["off", "on"],
        (true, false) => vec!["off"],
        _ => vec![],
    }
}

fn create(bench: &Bench, options: &[&str]) -> String {
    bench.create(&[&CREATE[1..], options].concat())
}

#[test]
fn stat_says_which_transport_a_device_has() {
    if !have_uring("stat_says_which_transport_a_device_has") {
        return;
    }
    let bench = Bench::new();
    let all = [
        (&["--fuse-uring", "on"][..], "io_uring"),
        (&["--fuse-uring", "auto"], "io_uring"),
        (&["--fuse-uring", "off"], "/dev/fuse"),
        (&[], "io_uring"),
    ];
    for (number, (when, transport)) in all.into_iter().enumerate() {
        // The harness chooses a transport where nothing is said.
        if when.is_empty() && std::env::var_os(FUSE_URING).is_some() {
            continue;
        }
        create(&bench, when);
        let name = format!("zram{number}");
        assert_eq!(bench.stat(&name)["transport"], transport, "{when:?}");
        let text = bench.uzram(&["stat", &name]);
        assert!(
            text.contains(&format!("transport    {transport}\n")),
            "{text}"
        );
    }
    bench.uzram(&["remove", "--all"]);
    bench.assert_clean();
}

#[test]
fn what_cannot_be_is_refused_before_anything_is_made() {
    let name = "what_cannot_be_is_refused_before_anything_is_made";
    needs!(&["unshare", "mount"], fuse_loop);
    let bench = Bench::new();
    let words = |rest: &[&'static str]| [&CREATE[..], rest].concat();
    for depth in ["0", "4097", "99999"] {
        let stderr = bench.fails(2, &words(&["--queue-depth", depth]));
        assert!(stderr.contains("1 to 4096"), "{stderr}");
    }
    for option in ["--queue-depth", "--poll"] {
        let stderr = bench.fails(2, &words(&[option, "8", "--fuse-uring", "off"]));
        assert!(stderr.contains("--fuse-uring off forbids"), "{stderr}");
    }
    // As a kernel without it, and as a container's.
    let hidden = "mount -t tmpfs none /sys/module/fuse/parameters";
    let read_only = format!(
        "{hidden} && echo N > {SWITCH} && mount -o remount,ro none /sys/module/fuse/parameters"
    );
    for (how, why) in [
        (hidden, "this kernel has no FUSE over io_uring"),
        (
            &read_only,
            "is off and cannot be switched on here: Read-only file system",
        ),
    ] {
        let elsewhere = |args: &[&str]| {
            let program = env!("CARGO_BIN_EXE_uzram");
            let line = format!("{how} && exec {program} {}", args.join(" "));
            Command::new("unshare")
                .args(["--mount", "--propagation", "private", "sh", "-euc", &line])
                .env("UZRAM_RUN_DIR", bench.run_dir())
                .output()
                .unwrap()
        };
        let refused = elsewhere(&words(&["--fuse-uring", "on"]));
        let stderr = String::from_utf8(refused.stderr).unwrap();
        assert_eq!(refused.status.code(), Some(5), "{stderr}");
        assert!(
            stderr.contains(why) && stderr.contains("--fuse-uring auto"),
            "{stderr}"
        );
        bench.assert_clean();
        // Its server stays in that namespace, and its loop device is everybody's.
        let made = elsewhere(&words(&[]));
        assert!(made.status.success(), "{made:?}");
        assert_eq!(bench.stat("zram0")["transport"], "/dev/fuse");
        bench.uzram(&["remove", "zram0"]);
    }
    // Too little address space for the buffers.
    if have_uring(name) {
        let program = env!("CARGO_BIN_EXE_uzram");
        let line = format!(
            "ulimit -v 2000000; exec {program} {} --queue-depth 4096",
            CREATE.join(" ")
        );
        let made = Command::new("sh")
            .args(["-euc", &line])
            .env("UZRAM_RUN_DIR", bench.run_dir())
            .output()
            .unwrap();
        assert!(made.status.success(), "{made:?}");
        assert_eq!(bench.stat("zram0")["transport"], "/dev/fuse");
        bench.uzram(&["remove", "zram0"]);
    }
    bench.assert_clean();
}

/// The machine's switch is as it was, also after a server that was killed while it had it on.
#[test]
fn the_switch_is_given_back() {
    let name = "the_switch_is_given_back";
    if !have_uring(name) || sh(&format!("cat {SWITCH}")) != "N\n" {
        return;
    }
    // Another test may have it on at this moment.
    let is_off = || {
        (0..1000).any(|_| {
            std::thread::sleep(Duration::from_millis(1));
            sh(&format!("cat {SWITCH}")) == "N\n"
        })
    };
    let bench = Bench::new();
    let output = bench.output(&[&CREATE[..], &["--fuse-uring=on"]].concat());
    let notes = String::from_utf8(output.stderr).unwrap();
    assert!(
        notes.contains("enable_uring of module fuse was switched on for a moment"),
        "{notes}"
    );
    assert!(is_off());
    let mark = bench.run_dir().join("zram0/mnt-0123.switched-on");
    for kill_all in [false, true] {
        std::fs::write(&mark, []).unwrap();
        std::fs::write(SWITCH, "Y").unwrap();
        if kill_all {
            bench.kill_all("zram0");
            bench.output(&["list"]);
        } else {
            bench.kill("zram0", "pid");
            assert_eq!(bench.stat("zram0")["transport"], "io_uring");
        }
        assert!(is_off() && !mark.exists(), "{kill_all}");
    }
    bench.assert_clean();
}

/// The server dies while requests are under way: they fail, and what was acknowledged is behind the new node. Then it hands over.
#[test]
fn a_device_survives_death_and_upgrade_by_either_transport() {
    for when in transports("a_device_survives_death_and_upgrade_by_either_transport") {
        let bench = Bench::new();
        let node = create(&bench, &["--fuse-uring", when]);
        let digest = "yes data | head -c 8M";
        sh(&format!(
            "{digest} | dd of={node} bs=64k iflag=fullblock oflag=direct status=none"
        ));
        let sums = sh(&format!("{digest} | sha256sum"));
        for round in 0..3 {
            let old = bench.stat("zram0")["path"].as_str().unwrap().to_owned();
            let load = "while dd if=/dev/zero of=$0 bs=4k count=4k seek=4k oflag=direct status=none 2>&1; do :; done";
            let mut writers: Vec<_> = (0..3)
                .map(|_| {
                    Command::new("sh")
                        .args(["-c", load, &old])
                        .stdout(std::process::Stdio::null())
                        .spawn()
                        .unwrap()
                })
                .collect();
            std::thread::sleep(Duration::from_millis(50));
            bench.kill("zram0", "pid");
            for writer in &mut writers {
                writer.wait().unwrap();
            }
            let new = bench.stat("zram0")["path"].as_str().unwrap().to_owned();
            let read = format!("dd if={new} bs=64k count=128 iflag=direct status=none | sha256sum");
            assert_eq!(sh(&read), sums, "{when}, {round}");
        }
        bench.uzram(&["upgrade", "zram0"]);
        let new = bench.stat("zram0")["path"].as_str().unwrap().to_owned();
        let read = format!("dd if={new} bs=64k count=128 iflag=direct status=none | sha256sum");
        assert_eq!(sh(&read), sums, "{when}, after the upgrade");
        bench.remove_last("zram0");
    }
}

/// A device that is served gets a place in a remote as its backing, and gives it up again, by either transport.
#[test]
fn a_remote_becomes_the_backing_of_a_device_that_is_served() {
    for when in transports("a_remote_becomes_the_backing_of_a_device_that_is_served") {
        let bench = Bench::new();
        let works = |args: &[&str]| {
            let mut command = bench.command(args);
            command.env("UZRAM_REMOTES", bench.path("remotes"));
            let output = command.output().unwrap();
            assert!(output.status.success(), "{when}: {args:?}: {output:?}");
            String::from_utf8(output.stdout).unwrap()
        };
        let store = bench.path("store");
        std::fs::create_dir(&store).unwrap();
        works(&["remote", "add", "ci", &format!("file:{}", store.display())]);
        let create = [&CREATE[..], &["--fuse-uring", when, "--policy", "none"]].concat();
        let node = works(&create).trim_end().to_owned();
        let digest = "seq 1000000 | head -c 4M";
        sh(&format!(
            "{digest} | dd of={node} bs=64k iflag=fullblock oflag=direct status=none"
        ));
        let sums = sh(&format!("{digest} | sha256sum"));
        works(&["set", "zram0", "backing=ci/cold"]);
        works(&["writeback", "zram0"]);
        let stat = || -> serde_json::Value {
            serde_json::from_str(&works(&["stat", "--json", "zram0"])).unwrap()
        };
        let now = stat();
        assert_eq!(now["compr_data_size"], 0, "{when}: {now}");
        assert!(now["backing"]["store"]["objects"].as_u64().unwrap() > 0);
        let read =
            format!("dd if={node} bs=64k count=64 iflag=fullblock,direct status=none | sha256sum");
        assert_eq!(sh(&read), sums, "{when}");
        works(&["set", "zram0", "backing=none"]);
        assert_eq!(sh(&read), sums, "{when}, without it again");
        works(&["remove", "zram0"]);
        bench.assert_clean();
    }
}
