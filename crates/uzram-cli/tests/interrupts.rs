//! `uzram create`, interrupted at any moment in any way: nothing is left, or a device whose path was printed.
//!
//! `UZRAM_INTERRUPTS=100` is how many of each signal; 10 otherwise.

mod common;

use std::fs;
use std::os::unix::process::CommandExt;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use common::{Bench, have, sh};
use uzram_testkit::Random;

/// Processes of this run directory, by number.
fn processes(bench: &Bench) -> Vec<String> {
    let own = format!("UZRAM_RUN_DIR={}", bench.run_dir().display());
    let entries = fs::read_dir("/proc").unwrap().flatten();
    let is_own = |pid: &String| {
        let environment = fs::read(format!("/proc/{pid}/environ")).unwrap_or_default();
        environment
            .split(|byte| *byte == 0)
            .any(|variable| variable == own.as_bytes())
    };
    let names = entries.filter_map(|entry| entry.file_name().into_string().ok());
    let pids = names.filter(|name| name.parse::<u32>().is_ok());
    pids.filter(is_own).collect()
}

fn devices(bench: &Bench) -> Vec<String> {
    let entries = fs::read_dir(bench.run_dir())
        .into_iter()
        .flatten()
        .flatten();
    let names = entries.filter_map(|entry| entry.file_name().into_string().ok());
    names.filter(|name| name.starts_with("zram")).collect()
}

/// Interrupts one `create` so long after its start. Whether its device stayed. Processes of `others` stay in any case.
fn interrupt(
    bench: &Bench,
    frontend: &str,
    (signal, group): (&str, bool),
    after: Duration,
    others: &[String],
) -> bool {
    let mut create = bench.command(&["create", "--size", "16M", "--frontend", frontend]);
    create
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .process_group(0);
    let child = create.spawn().unwrap();
    std::thread::sleep(after);
    // Not reaped yet, it is there to be told. A terminal tells all of the group.
    let whom = format!("{}{}", if group { "-" } else { "" }, child.id());
    let told = Command::new("kill")
        .args(["-s", signal, "--", &whom])
        .status();
    assert!(told.unwrap().success());
    let printed = child.wait_with_output().unwrap().stdout;
    let printed = String::from_utf8(printed).unwrap();
    let begin = Instant::now();
    loop {
        let left = devices(bench);
        let mut running = processes(bench);
        running.retain(|pid| !others.contains(pid));
        if left.is_empty() && running.is_empty() {
            return false;
        }
        if !printed.is_empty() && bench.output(&["stat", printed.trim()]).status.success() {
            bench.uzram(&["remove", printed.trim()]);
            return true;
        }
        assert!(
            begin.elapsed() < Duration::from_secs(30),
            "{signal} after {after:?} left {left:?} and {running:?}; printed: {printed:?}"
        );
        std::thread::sleep(Duration::from_millis(5));
    }
}

fn interrupts(bench: &Bench, frontend: &str, signals: &[&str]) {
    let others = processes(bench);
    let begin = Instant::now();
    bench.create(&["--size", "16M", "--frontend", frontend]);
    let usual = begin.elapsed();
    bench.uzram(&["remove", "--all"]);
    let rounds = std::env::var("UZRAM_INTERRUPTS").ok();
    let rounds: u32 = rounds.map_or(10, |rounds| rounds.parse().unwrap());
    let mut random = Random::new(17);
    for signal in signals {
        let mut stayed = 0;
        for round in 0..rounds {
            let after = usual.mul_f64(1.2 * random.below(1000) as f64 / 1000.0);
            let how = (*signal, round % 2 == 0);
            stayed += u32::from(interrupt(bench, frontend, how, after, &others));
        }
        println!("{frontend}, {signal}: {stayed} of {rounds} had been printed");
    }
    assert!(!sh("losetup -a").contains(bench.run_dir().to_str().unwrap()));
}

const ALL: &[&str] = &["INT", "TERM", "HUP", "KILL"];

#[test]
fn an_interrupted_create_leaves_nothing_or_what_it_printed() {
    let bench = Bench::new();
    interrupts(&bench, "nbd", ALL);
    bench.assert_clean();
}

fn start_daemon(bench: &Bench) -> Child {
    let mut daemon = bench.command(&["daemon"]);
    daemon.stderr(Stdio::null());
    let daemon = daemon.spawn().unwrap();
    let begin = Instant::now();
    while !bench.run_dir().join("uzramd.json").exists() {
        assert!(
            begin.elapsed().as_secs() < 30,
            "the daemon does not come up"
        );
        std::thread::sleep(Duration::from_millis(5));
    }
    daemon
}

/// Where uzramd makes the device, the command waits for its answer and takes the device back. One that is killed has not
/// confirmed that it knows the device.
#[test]
fn an_interrupted_create_leaves_nothing_with_the_daemon() {
    let bench = Bench::new();
    let mut daemon = start_daemon(&bench);
    interrupts(&bench, "nbd", ALL);
    let pid = daemon.id();
    sh(&format!("kill {pid}"));
    daemon.wait().unwrap();
    assert_eq!(devices(&bench), [""; 0]);
}

#[test]
fn an_interrupted_create_leaves_no_loop_device_nobody_knows() {
    if have(
        "an_interrupted_create_leaves_no_loop_device_nobody_knows",
        &["losetup"],
        true,
    ) {
        let bench = Bench::new();
        interrupts(&bench, "fuse-loop", ALL);
        bench.assert_clean();
    }
}

#[test]
fn a_device_that_is_made_for_nobody_goes() {
    let bench = Bench::new();
    made_for_nobody(&bench);
    bench.assert_clean();
}

#[test]
fn a_device_that_the_daemon_made_for_nobody_goes() {
    let bench = Bench::new();
    let mut daemon = start_daemon(&bench);
    made_for_nobody(&bench);
    // One that is known stays.
    let path = bench.create(&["--size", "16M", "--frontend", "nbd"]);
    bench.uzram(&["stat", &path]);
    bench.uzram(&["remove", &path]);
    let pid = daemon.id();
    sh(&format!("kill {pid}"));
    daemon.wait().unwrap();
    assert_eq!(devices(&bench), [""; 0]);
}

/// The moment that no signal hits by chance: the device is there, and whoever wanted it ends before it says so.
fn made_for_nobody(bench: &Bench) {
    let others = processes(bench);
    let (reader, writer) = std::io::pipe().unwrap();
    let mut create = bench.command(&["create", "--size", "16M", "--frontend", "nbd"]);
    // Its stdout is full: it waits there, with the device made and not told of.
    let full = rustix::fs::fcntl_getfl(&writer).unwrap();
    rustix::fs::fcntl_setfl(&writer, full | rustix::fs::OFlags::NONBLOCK).unwrap();
    while std::io::Write::write(&mut &writer, &[b'x'; 4096]).is_ok() {}
    rustix::fs::fcntl_setfl(&writer, full).unwrap();
    create.stdout(writer).stderr(Stdio::null());
    let mut child = create.spawn().unwrap();
    let begin = Instant::now();
    while !bench.run_dir().join("zram0/keeper.sock").exists() {
        assert!(begin.elapsed().as_secs() < 30);
        std::thread::sleep(Duration::from_millis(5));
    }
    std::thread::sleep(Duration::from_millis(200));
    child.kill().unwrap();
    child.wait().unwrap();
    let left = || processes(bench).iter().any(|pid| !others.contains(pid));
    while !devices(bench).is_empty() || left() {
        assert!(begin.elapsed().as_secs() < 30, "{:?}", devices(bench));
        std::thread::sleep(Duration::from_millis(5));
    }
    drop(reader);
}
