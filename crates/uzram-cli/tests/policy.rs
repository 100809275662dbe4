//! Policies by the commands: set, shown, foretold, carried out, and still there when the server was killed.

mod common;

use std::process::Command;
use std::time::{Duration, Instant};

use common::{Bench, needs};
use serde_json::Value;

const DEADLINE: Duration = Duration::from_secs(60);

fn shown(bench: &Bench, args: &[&str]) -> Value {
    let args = [&["policy", "zram0", "--json"], args].concat();
    serde_json::from_str(&bench.uzram(&args)).unwrap()
}

#[test]
fn policies_are_set_shown_carried_out_and_outlive_the_server() {
    needs!(&["qemu-img"]);
    let bench = Bench::new();
    let uri = bench.create(&[
        "--size=16M",
        "--frontend=nbd",
        "--algorithm=lz4",
        "--policy=recompress=1d,cpu=50",
    ]);
    let settings = "recompress=86400,cpu=50,io=32M";
    assert_eq!(shown(&bench, &[])["settings"], settings);
    let stat = bench.uzram(&["stat", "zram0"]);
    assert!(
        stat.contains(settings) && stat.contains("recompression, priority 1"),
        "{stat}"
    );
    // What would recompress is the primary there already.
    bench.create(&["--size=16M", "--frontend=nbd", "--policy=recompress=1d"]);
    bench.create(&["--size=16M", "--frontend=nbd"]);
    bench.uzram(&["set", "zram2", "policy=recompress=1d"]);
    for name in ["zram1", "zram2"] {
        let stat = bench.uzram(&["stat", name]);
        assert!(!stat.contains("recompression, priority"), "{stat}");
        bench.uzram(&["remove", name]);
    }
    let path = bench.path("text");
    let words = ["inventory", "customer", "warehouse", "session"];
    let line = |n: usize| format!("{} {}\n", words[n * 7919 % 10_007 % 4], n * 7919 % 10_007);
    let text: String = (0..200_000).map(line).collect();
    std::fs::write(&path, &text.as_bytes()[..1 << 20]).unwrap();
    let copied = Command::new("qemu-img")
        .args([
            "convert",
            "-n",
            "-f",
            "raw",
            "-O",
            "raw",
            path.to_str().unwrap(),
            &uri,
        ])
        .status();
    assert!(copied.unwrap().success());

    let plan = shown(&bench, &["--dry-run"])["plan"].clone();
    let step = |policy: &str| {
        let steps = plan["steps"].as_array().unwrap();
        steps
            .iter()
            .find(|step| step["policy"] == policy)
            .unwrap()
            .clone()
    };
    assert_eq!(step("recompress")["due"], false);
    assert!(
        step("recompress")["why"]
            .as_str()
            .unwrap()
            .contains("no page can be 86400 s old yet")
    );
    assert_eq!(step("writeback")["why"], "off");
    let human = bench.uzram(&["policy", "zram0", "--dry-run"]);
    assert!(
        human.contains("would do now") && human.contains("nothing: off"),
        "{human}"
    );
    let refused = bench.fails(2, &["set", "zram0", "policy=auto,cpu=0"]);
    assert!(refused.contains("1 to 100 percent"), "{refused}");
    let refused = bench.fails(2, &["create", "--size=1M", "--policy=fast"]);
    assert!(
        refused.contains("auto, default, none, or any of recompress=AGE"),
        "{refused}"
    );

    bench.uzram(&["set", "zram0", "policy=recompress=0,compact=on"]);
    let begin = Instant::now();
    while shown(&bench, &[])["done"]["pages_recompressed"] != 256 {
        assert!(begin.elapsed() < DEADLINE, "{}", shown(&bench, &[]));
        std::thread::sleep(Duration::from_millis(20));
    }
    bench.kill("zram0", "pid");
    let begin = Instant::now();
    // Another server, whose agent begins anew.
    while shown(&bench, &[])["done"]["pages_recompressed"] != 0 {
        assert!(begin.elapsed() < DEADLINE);
        std::thread::sleep(Duration::from_millis(20));
    }
    assert_eq!(
        shown(&bench, &[])["settings"],
        "recompress=0,compact=on,cpu=10,io=32M"
    );
    assert_eq!(shown(&bench, &[])["done"]["running"], true);
    let same = Command::new("qemu-img")
        .args([
            "compare",
            "-f",
            "raw",
            "-F",
            "raw",
            path.to_str().unwrap(),
            &uri,
        ])
        .status();
    assert!(same.unwrap().success());
    bench.remove_last("zram0");
}
