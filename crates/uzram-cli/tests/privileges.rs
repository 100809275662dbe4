//! What the servers of devices may still do: no capability that their frontend does not need, and no way to gain one.

mod common;

use common::{Bench, needs, sh};
use uzram_testkit::program::FUSE_URING;

/// A line of a process's status.
fn status(pid: u64, key: &str) -> String {
    let text = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let line = text.lines().find(|line| line.starts_with(key)).unwrap();
    line.rsplit('\t').next().unwrap().trim().to_owned()
}

/// The same of all its threads.
fn of_all_threads(pid: u64, key: &str) -> Vec<String> {
    let tasks = std::fs::read_dir(format!("/proc/{pid}/task")).unwrap();
    let threads = tasks.flatten().map(|task| {
        let tid = task.file_name().to_string_lossy().parse().unwrap();
        status(tid, key)
    });
    let mut values: Vec<String> = threads.collect();
    values.dedup();
    values
}

fn assert_has(bench: &Bench, capabilities: u64) {
    let pid = bench.count("zram0", "pid");
    assert_eq!(of_all_threads(pid, "NoNewPrivs"), ["1"]);
    for key in ["CapEff", "CapPrm"] {
        let all: Vec<u64> = of_all_threads(pid, key)
            .iter()
            .map(|hex| u64::from_str_radix(hex, 16).unwrap())
            .collect();
        let own = status(std::process::id().into(), key);
        let own = u64::from_str_radix(&own, 16).unwrap();
        assert_eq!(all, [capabilities & own], "{key}");
    }
    assert_eq!(of_all_threads(pid, "CapInh"), ["0000000000000000"]);
}

const DAC_OVERRIDE: u64 = 1 << 1;
const NET_BIND_SERVICE: u64 = 1 << 10;

#[test]
fn an_nbd_server_has_no_capability() {
    let bench = Bench::new();
    bench.create(&["--size", "16M", "--frontend", "nbd"]);
    assert_has(&bench, 0);
    // The next one has none either, whoever starts it.
    bench.kill("zram0", "pid");
    assert_has(&bench, 0);
    bench.kill("zram0", "keeper");
    bench.kill("zram0", "pid");
    assert_has(&bench, 0);
    bench.uzram(&["upgrade", "zram0"]);
    assert_has(&bench, 0);
    bench.remove_last("zram0");
}

#[test]
fn a_low_port_and_a_strangers_directory_are_had_all_the_same() {
    needs!(&["chown"], fuse_loop);
    let bench = Bench::new();
    let nbd = ["--size", "16M", "--frontend", "nbd", "--listen"];
    bench.create(&[&nbd[..], &["tcp:127.0.0.7:809"]].concat());
    assert_has(&bench, NET_BIND_SERVICE);
    bench.kill("zram0", "pid");
    bench.uzram(&["remove", "zram0"]);
    let dir = bench.path("theirs");
    std::fs::create_dir(&dir).unwrap();
    let theirs = dir.display();
    sh(&format!("chown 12345:12345 {theirs} && chmod 755 {theirs}"));
    let listen = format!("unix:{theirs}/disk.sock");
    bench.create(&[&nbd[..], &[&listen, "--allow-foreign-files"]].concat());
    assert_has(&bench, DAC_OVERRIDE);
    bench.uzram(&["remove", "zram0"]);
    // What comes later is refused in words.
    bench.create(&["--size", "16M", "--frontend", "nbd"]);
    let backing = format!("backing={theirs}/pages,64M");
    let stderr = bench.fails(2, &["set", "--allow-foreign-files", "zram0", &backing]);
    assert!(stderr.contains("CAP_DAC_OVERRIDE"), "{stderr}");
    bench.remove_last("zram0");
}

#[test]
fn a_loop_device_works_without_what_it_does_not_need() {
    needs!(&["losetup"], fuse_loop);
    let bench = Bench::new();
    let node = bench.create(&["--size", "16M", "--frontend", "fuse-loop"]);
    // CAP_DAC_READ_SEARCH, CAP_SYS_PTRACE, CAP_SYS_ADMIN, CAP_MKNOD; the buffers of FUSE over io_uring take CAP_IPC_LOCK.
    let own = 1 << 2 | 1 << 19 | 1 << 21 | 1 << 27;
    let locks = std::env::var_os(FUSE_URING).is_none_or(|when| when != "off");
    assert_has(&bench, own | u64::from(locks) << 14);
    let mut user = std::process::Command::new("sleep")
        .arg("60")
        .stdin(std::fs::File::open(&node).unwrap())
        .spawn()
        .unwrap();
    let stderr = bench.fails(3, &["reset", "zram0"]);
    assert!(
        stderr.contains("sleep"),
        "who has it open is named: {stderr}"
    );
    user.kill().unwrap();
    user.wait().unwrap();
    bench.kill("zram0", "keeper");
    bench.kill("zram0", "pid");
    bench.remove_last("zram0");
}
