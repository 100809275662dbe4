//! Algorithms with parameters and dictionaries through the program: made, set, trained, shown, and still there after
//! the server was killed and after an upgrade.

mod common;

use common::{Bench, needs};
use serde_json::Value;

/// Records as a program has them in memory, 4 MiB.
fn records() -> Vec<u8> {
    uzram_testkit::data::records(7, 4 << 20)
}

/// (what it is called, its dictionary's length, its priorities) of each codec.
fn codecs(bench: &Bench) -> Vec<(String, u64, Vec<u64>)> {
    let stat: Value = serde_json::from_str(&bench.uzram(&["stat", "zram0", "--json"])).unwrap();
    let codec = |codec: &Value| {
        let name = codec["algorithm"].as_str().unwrap();
        let params = codec["params"].as_str().unwrap();
        let priorities = codec["priorities"].as_array().unwrap();
        (
            format!("{name} {params}"),
            codec["dictionary_bytes"].as_u64().unwrap(),
            priorities.iter().map(|p| p.as_u64().unwrap()).collect(),
        )
    };
    stat["codecs"]
        .as_array()
        .unwrap()
        .iter()
        .map(codec)
        .collect()
}

/// zram's interface lists what a kernel has, and the device's own algorithm, which the kernel may lack.
#[test]
fn a_default_device_shows_its_algorithm_in_brackets() {
    let bench = Bench::new();
    bench.create(&["--size=64M", "--frontend=nbd"]);
    let shown = bench.uzram(&["get", "zram0", "comp_algorithm"]);
    assert_eq!(shown, "lzo-rle lzo lz4 lz4hc zstd deflate 842 [lzhs] \n");
    bench.uzram(&["set", "zram0", "recomp_algorithm=lzhs"]);
    let shown = bench.uzram(&["get", "zram0", "recomp_algorithm"]);
    assert_eq!(
        shown,
        "#1: lzo-rle lzo lz4 lz4hc zstd deflate 842 [lzhs] \n"
    );
}

/// Training is for an algorithm that trains itself: for another one it is accepted, and said to have no effect.
#[test]
fn train_without_effect_is_told() {
    let bench = Bench::new();
    let said = |args: &[&str]| {
        let output = bench.command(args).output().unwrap();
        assert!(output.status.success(), "{args:?}: {output:?}");
        String::from_utf8(output.stderr).unwrap()
    };
    let create = ["create", "--size=64M", "--frontend=nbd", "--algorithm"];
    let no_effect = "train has no effect now: lz4 does not train itself";
    let told = said(&[&create[..], &["lz4", "--train=off"]].concat());
    assert!(told.contains(no_effect), "{told}");
    for (args, told) in [
        (&["set", "zram0", "train=auto"][..], no_effect),
        (&["set", "zram0", "algorithm=lzhs"], ""),
        (&["set", "zram0", "train=off"], ""),
        (&[&create[..], &["lzhs", "--train=off"]].concat(), ""),
        (&[&create[..], &["lz4"]].concat(), ""),
    ] {
        let stderr = said(args);
        assert!(stderr.contains(told), "{args:?}: {stderr}");
        assert_eq!(stderr.contains("no effect"), !told.is_empty(), "{stderr}");
    }
}

#[test]
fn what_was_set_outlives_server_and_upgrade() {
    let bench = Bench::new();
    let dictionary = bench.path("heap.dict");
    std::fs::write(&dictionary, &records()[..5000]).unwrap();
    let with = format!("zstd(level=1,dict={})", dictionary.display());
    bench.create(&[
        "--size=64M",
        "--frontend=nbd",
        "--algorithm",
        &with,
        "--recomp-algorithm=zstd(level=9)",
        "--recomp-algorithm=deflate(priority=3)",
    ]);
    // Read when the device was made, never again.
    std::fs::remove_file(&dictionary).unwrap();
    let made = [
        ("zstd level=1".to_owned(), 5000, vec![0]),
        ("zstd level=9".to_owned(), 0, vec![1]),
        ("deflate ".to_owned(), 0, vec![3]),
    ];
    assert_eq!(codecs(&bench), made);
    bench.kill("zram0", "pid");
    assert_eq!(codecs(&bench), made);
    bench.uzram(&[
        "set",
        "zram0",
        "algorithm=lz4(level=7)",
        "recomp_algorithm=none",
        "recomp_algorithm=none(priority=3)",
        "mem_limit=20M",
    ]);
    let set = [("lz4 level=7".to_owned(), 0, vec![0])];
    assert_eq!(codecs(&bench), set);
    bench.kill("zram0", "pid");
    assert_eq!(codecs(&bench), set);
    bench.uzram(&["upgrade", "--all"]);
    assert_eq!(codecs(&bench), set);
    let list = bench.uzram(&["list", "--output", "algorithm,codecs,mem-limit", "-n"]);
    assert_eq!(
        list.split_whitespace().collect::<Vec<_>>(),
        ["lz4", "[lz4(level=7)]", "20M"]
    );
    let stat = bench.uzram(&["stat", "zram0"]);
    assert!(
        stat.contains("codecs       lz4(level=7): primary; 0 objects"),
        "{stat}"
    );
    bench.remove_last("zram0");
}

#[test]
fn what_is_not_possible_is_named() {
    let bench = Bench::new();
    for (args, says) in [
        (&["--algorithm=zstd(level=99)"][..], "-131072 to 22"),
        (&["--algorithm=zstd(level=1"], "zstd(level=1)"),
        (
            &["--algorithm=zstd(dict=/does/not/exist)"],
            "/does/not/exist",
        ),
        (&["--recomp-algorithm=zstd(priority=4)"], "1 to 3"),
        (&["--recomp-algorithm=lz5"], "known: lzo-rle"),
        (
            &["--algorithm=lz4", "--algorithm-params=speed=1"],
            "it takes: level",
        ),
    ] {
        let create = ["create", "--size=1M", "--frontend=nbd"];
        let error = bench.fails(2, &[&create[..], args].concat());
        assert!(error.contains(says), "{error}");
    }
    bench.create(&["--size=8M", "--frontend=nbd"]);
    for (setting, says) in [
        ("algorithm=zstd(level=99)", "-131072 to 22"),
        ("algorithm=lz5", "known: lzo-rle"),
        ("recomp_algorithm=lz4(priority=0)", "1 to 3"),
        ("recomp_algorithm=none(level=1)", "it takes: priority"),
        ("speed=1", "there are: algorithm"),
        ("mem_limit", "KEY=VALUE"),
        ("algorithm=deflate(dict=/etc/passwd)", "it takes none"),
    ] {
        let error = bench.fails(2, &["set", "zram0", setting]);
        assert!(error.contains(says), "{setting}: {error}");
    }
    let error = bench.fails(2, &["train", "zram0"]);
    assert!(error.contains("0 samples"), "{error}");
    bench.uzram(&["remove", "zram0"]);
}

#[test]
fn training_tells_gain_and_cost() {
    needs!(&["qemu-img"]);
    let bench = Bench::new();
    let uri = bench.create(&["--size=16M", "--frontend=nbd", "--algorithm=zstd(level=1)"]);
    let file = bench.path("records");
    std::fs::write(&file, records()).unwrap();
    let copy = |args: &[&str]| {
        let done = std::process::Command::new("qemu-img").args(args).status();
        assert!(done.unwrap().success(), "{args:?}");
    };
    let file = file.to_str().unwrap();
    let write = ["convert", "-n", "-f", "raw", "-O", "raw", file, uri.trim()];
    copy(&write);
    let tried = bench.uzram(&["train", "zram0", "--dry-run"]);
    assert!(tried.contains("not taken into use"), "{tried}");
    assert_eq!(codecs(&bench).len(), 1);
    let text = bench.uzram(&["train", "zram0", "--dictionary-size", "8K", "--json"]);
    let trained: Value = serde_json::from_str(&text).unwrap();
    let number = |key: &str| trained[key].as_f64().unwrap();
    assert!(number("ratio_after") > number("ratio_before"), "{text}");
    assert!(number("dictionary_bytes") <= 8192.0 && number("memory_cost_bytes") > 8192.0);
    let adopted = trained["adopted"].as_bool().unwrap();
    assert_eq!(codecs(&bench).len(), 1 + usize::from(adopted), "{text}");
    bench.kill("zram0", "pid");
    assert_eq!(codecs(&bench).len(), 1 + usize::from(adopted));
    copy(&write);
    copy(&["compare", "-f", "raw", "-F", "raw", file, uri.trim()]);
    assert_eq!(
        codecs(&bench).len(),
        1,
        "the last object of the old codec is gone"
    );
    bench.remove_last("zram0");
}
