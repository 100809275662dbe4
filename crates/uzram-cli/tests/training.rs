//! A device that trains its algorithm by itself, through the program: what it tells, `kill -9` amid training and amid the
//! change of generation, upgrades, and off.

mod common;

use std::process::Command;
use std::time::{Duration, Instant};

use common::{Bench, needs};
use serde_json::Value;

const DEADLINE: Duration = Duration::from_secs(600);
/// What is written, in bytes: objects of more than 8 MiB.
const DATA: usize = 64 << 20;

fn wait_for(bench: &Bench, what: &str, happened: impl Fn(&Value) -> bool) {
    let begin = Instant::now();
    loop {
        let stat = bench.stat("zram0");
        if happened(&stat) {
            return;
        }
        assert!(begin.elapsed() < DEADLINE, "{what}: {stat}");
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// The primary's generation, `null` for the one that is built in.
fn generation(stat: &Value) -> Value {
    let codecs = stat["codecs"].as_array().unwrap();
    let is_primary = |codec: &&Value| codec["priorities"].as_array().unwrap().contains(&0.into());
    codecs.iter().find(is_primary).unwrap()["generation"].clone()
}

fn next(stat: &Value) -> &str {
    stat["train_waits_for"].as_str().unwrap()
}

fn qemu_img(args: &[&str]) {
    let done = Command::new("qemu-img").args(args).output().unwrap();
    assert!(done.status.success(), "{args:?}: {done:?}");
}

#[test]
fn a_device_trains_itself_and_killed_servers_lose_nothing() {
    needs!(&["qemu-img"]);
    let bench = Bench::new();
    let uri = bench.create(&["--size=128M", "--frontend=nbd", "--algorithm=lzhs"]);
    let file = bench.path("records");
    std::fs::write(&file, uzram_testkit::data::records(7, DATA)).unwrap();
    let (file, uri) = (file.to_str().unwrap(), uri.trim());
    let write = || qemu_img(&["convert", "-n", "-f", "raw", "-O", "raw", file, uri]);
    let check = || qemu_img(&["compare", "-f", "raw", "-F", "raw", file, uri]);
    write();
    // At any moment of it: the next server begins anew, unless it was through.
    for kill in 0..4 {
        wait_for(&bench, "training", |stat| {
            next(stat).contains("under way") || !generation(stat).is_null()
        });
        std::thread::sleep(Duration::from_millis(kill * 150));
        bench.kill("zram0", "pid");
        check();
    }
    wait_for(&bench, "a generation", |stat| !generation(stat).is_null());
    // Amid what follows from it.
    bench.kill("zram0", "pid");
    let first = generation(&bench.stat("zram0"));
    assert_eq!(first["number"], 1, "{first}");
    check();
    write();
    bench.kill("zram0", "pid");
    check();
    let stat = bench.stat("zram0");
    assert_eq!(generation(&stat), first);
    let codecs = stat["codecs"].as_array().unwrap();
    assert_eq!(
        codecs.len(),
        1,
        "the built-in one has no object left: {stat}"
    );
    bench.uzram(&["upgrade", "--all"]);
    assert_eq!(generation(&bench.stat("zram0")), first);
    check();
    wait_for(&bench, "a look", |stat| {
        next(stat).contains("is the measure")
    });
    let text = bench.uzram(&["stat", "zram0"]);
    for says in [
        "training     generation 1, trained",
        "on 2048 pages; ratio",
        "auto; next:",
        "lzhs(dict:",
        ", generation 1: primary; 16384 objects",
    ] {
        assert!(text.contains(says), "{says}: {text}");
    }
    // What it has learnt serves another device from its first page.
    let file = bench.path("pages.dict");
    let save = ["train", "zram0", "--save", file.to_str().unwrap()];
    let said = bench.uzram(&save);
    assert!(said.contains("saved") && said.contains("14"), "{said}");
    let refused = bench.fails(1, &save);
    assert!(refused.contains("File exists"), "{refused}");
    let algorithm = format!("--algorithm=lzhs(dict={})", file.display());
    bench.create(&["--size=1M", "--frontend=nbd", &algorithm]);
    let text = bench.uzram(&["stat", "zram1"]);
    assert!(text.contains("lzhs(dict:"), "{text}");
    let none = bench.path("none.dict");
    bench.create(&["--size=1M", "--frontend=nbd", "--algorithm=lz4"]);
    bench.fails(2, &["train", "zram2", "--save", none.to_str().unwrap()]);
    assert!(!none.exists(), "an empty file is left");
    for name in ["zram1", "zram2"] {
        bench.uzram(&["remove", name]);
    }
    // By hand it is judged as by itself: on the same pages another collection gains nothing.
    let tried = bench.uzram(&["train", "zram0", "--dry-run"]);
    assert!(
        tried.contains("not taken into use") && tried.contains("2 % smaller"),
        "{tried}"
    );
    bench.remove_last("zram0");
}

#[test]
fn off_is_off_and_outlives_the_server() {
    let bench = Bench::new();
    let create = ["create", "--size=1M", "--frontend=nbd", "--train=on"];
    let refused = bench.fails(2, &create);
    assert!(
        refused.contains("train is auto or off, not 'on'"),
        "{refused}"
    );
    bench.create(&[
        "--size=16M",
        "--frontend=nbd",
        "--algorithm=lzhs",
        "--train=off",
    ]);
    wait_for(&bench, "a look", |stat| next(stat).contains("it is off"));
    assert_eq!(bench.stat("zram0")["train"], "off");
    bench.uzram(&["set", "zram0", "train=auto"]);
    wait_for(&bench, "a look", |stat| next(stat).contains("(now 0 of 0)"));
    let refused = bench.fails(2, &["set", "zram0", "train=on"]);
    assert!(refused.contains("auto or off"), "{refused}");
    bench.uzram(&["set", "zram0", "train=off"]);
    bench.kill("zram0", "pid");
    assert_eq!(bench.stat("zram0")["train"], "off");
    // Of an algorithm that does not train itself nothing is said.
    bench.uzram(&["set", "zram0", "algorithm=lz4", "train=auto"]);
    assert_eq!(next(&bench.stat("zram0")), "");
    assert!(!bench.uzram(&["stat", "zram0"]).contains("training"));
    bench.remove_last("zram0");
}
