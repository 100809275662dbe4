//! `uzram compact`: what scattered discards leave goes back, contents stay, and what it says agrees with `uzram stat`.

mod common;

use std::io::Write;
use std::process::{Command, Stdio};

use common::{Bench, needs, text};
use serde_json::Value;

const PAGE: usize = 4096;

#[test]
fn compaction_gives_back_what_scattered_discards_leave() {
    needs!(&["qemu-img", "qemu-io"]);
    let bench = Bench::new();
    let uri = bench.create(&["--size=16M", "--frontend=nbd", "--policy=none"]);
    let path = bench.path("text");
    let mut bytes = text(4096);
    std::fs::write(&path, &bytes).unwrap();
    let img = |args: &[&str]| {
        let done = Command::new("qemu-img").args(args).status();
        assert!(done.unwrap().success(), "{args:?}");
    };
    let file = path.to_str().unwrap();
    img(&["convert", "-n", "-f", "raw", "-O", "raw", file, &uri]);
    let mut io = Command::new("qemu-io")
        .args(["-f", "raw", "-d", "unmap", &uri])
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .spawn()
        .unwrap();
    let mut commands = io.stdin.take().unwrap();
    for page in (0..4096).step_by(3) {
        let end = bytes.len().min((page + 2) * PAGE);
        let at = page * PAGE;
        writeln!(commands, "discard {at} {}", end - at).unwrap();
        bytes[page * PAGE..end].fill(0);
    }
    drop(commands);
    assert!(io.wait().unwrap().success());

    let before = bench.count("zram0", "mem_used_total");
    let said: Value = serde_json::from_str(&bench.uzram(&["compact", "zram0", "--json"])).unwrap();
    let number = |key: &str| said[key].as_u64().unwrap();
    let after = bench.count("zram0", "mem_used_total");
    assert_eq!(number("mem_used_total"), after, "{said}");
    assert_eq!(number("bytes_freed"), before - after, "{said}");
    assert_eq!(
        number("pages_freed"),
        bench.count("zram0", "pages_compacted")
    );
    assert!(number("objects_moved") > 100, "{said}");
    let compressed = bench.count("zram0", "compr_data_size");
    assert!(before * 10 > compressed * 15, "{before} for {compressed}");
    assert!(after * 10 < compressed * 13, "{after} for {compressed}");
    let again = bench.uzram(&["compact", "zram0"]);
    assert!(again.contains(" given back, "), "{again}");
    std::fs::write(&path, &bytes).unwrap();
    img(&["compare", "-f", "raw", "-F", "raw", file, &uri]);
    assert!(bench.fails(4, &["compact", "zram7"]).contains("no device"));
    bench.remove_last("zram0");
}
