//! Recompression, idle marks, writeback and another size, by the commands: contents stay, memory goes, what is said agrees
//! with `uzram stat`, and a server that is killed in between makes no difference.

mod common;

use std::process::Command;

use common::{Bench, needs, sh, text};
use serde_json::Value;

const PAGES: usize = 4096;

fn img(args: &[&str]) {
    let done = Command::new("qemu-img").args(args).status();
    assert!(done.unwrap().success(), "{args:?}");
}

fn json(bench: &Bench, args: &[&str]) -> Value {
    serde_json::from_str(&bench.uzram(args)).unwrap()
}

fn number(value: &Value, key: &str) -> u64 {
    value[key]
        .as_u64()
        .unwrap_or_else(|| panic!("{key} in {value}"))
}

#[test]
fn pages_become_smaller_leave_memory_and_come_back() {
    needs!(&["qemu-img"]);
    let bench = Bench::new();
    let store = bench.path("store");
    let backing = format!("backing={},8M", store.display());
    let uri = bench.create(&["--size=16M", "--frontend=nbd"]);
    let file = bench.path("text");
    std::fs::write(&file, text(PAGES)).unwrap();
    let file = file.to_str().unwrap();
    img(&["convert", "-n", "-f", "raw", "-O", "raw", file, &uri]);
    let same = || img(&["compare", "-f", "raw", "-F", "raw", file, &uri]);
    let stat = |key: &str| bench.count("zram0", key);

    // Each needs something first, and says what.
    let refused = bench.fails(2, &["recompress", "zram0"]);
    assert!(refused.contains("set one first"), "{refused}");
    let refused = bench.fails(2, &["writeback", "zram0"]);
    assert!(refused.contains("attach one first"), "{refused}");
    let refused = bench.fails(2, &["idle", "zram0", "--older-than=1"]);
    assert!(refused.contains("ages are not kept"), "{refused}");
    bench.uzram(&["set", "zram0", "recomp_algorithm=zstd(level=6)", &backing]);

    let before = stat("mem_used_total");
    let tried = json(&bench, &["recompress", "zram0", "--dry-run", "--json"]);
    assert_eq!(number(&tried, "candidates"), PAGES as u64);
    assert_eq!(stat("mem_used_total"), before);
    let done = json(
        &bench,
        &["recompress", "zram0", "--max-pages=1000", "--json"],
    );
    assert_eq!(number(&done, "tried"), 1000);
    let done = bench.uzram(&["recompress", "zram0"]);
    assert!(done.contains("pages are smaller"), "{done}");
    assert!(stat("mem_used_total") * 10 < before * 9);
    assert!(stat("recompressed_pages") > 4000);
    same();

    assert_eq!(
        bench.uzram(&["idle", "zram0"]),
        "4096 pages are marked idle\n"
    );
    let what = [
        "writeback",
        "zram0",
        "--kind=idle",
        "--pages=0-99",
        "--pages=4095",
        "--json",
    ];
    assert_eq!(number(&json(&bench, &what), "written"), 101);
    bench.uzram(&["set", "zram0", "writeback_limit=10"]);
    let limited = bench.uzram(&["writeback", "zram0"]);
    assert!(
        limited.contains("10 pages are on the backing now"),
        "{limited}"
    );
    assert!(limited.contains("writeback_limit is used up"), "{limited}");
    bench.uzram(&["set", "zram0", "writeback_limit=none"]);
    bench.uzram(&["writeback", "zram0"]);
    assert_eq!(
        (stat("backed_pages"), stat("compr_data_size")),
        (PAGES as u64, 0)
    );
    assert!(
        bench
            .uzram(&["stat", "zram0"])
            .contains(&store.display().to_string())
    );
    same();
    assert!(stat("backed_reads") >= PAGES as u64);

    // Server and clients go; the pages are where they were.
    bench.kill("zram0", "pid");
    assert_eq!(stat("backed_pages"), PAGES as u64);
    same();
    assert!(
        bench
            .uzram(&["promote", "zram0", "--pages=7"])
            .starts_with("1 pages")
    );
    bench.uzram(&["set", "zram0", "backing=none"]);
    assert_eq!(stat("backed_pages"), 0);
    same();

    // Another size is seen by who connects.
    bench.uzram(&["set", "zram0", "disksize=32M"]);
    let info = sh(&format!("qemu-img info --output=json '{uri}'"));
    let info: Value = serde_json::from_str(&info).unwrap();
    assert_eq!(number(&info, "virtual-size"), 32 << 20);
    let refused = bench.fails(3, &["set", "zram0", "disksize=8M"]);
    assert!(refused.contains("stored up to byte 16777216"), "{refused}");
    bench.uzram(&["set", "zram0", "disksize=16M"]);
    same();
    assert!(
        bench
            .fails(2, &["writeback", "zram0", "--pages=9-3"])
            .contains("FIRST-LAST")
    );
    bench.remove_last("zram0");
}

#[test]
fn a_file_system_grows_with_its_device() {
    needs!(&["mkfs.ext4", "resize2fs", "e2fsck"], fuse_loop);
    let bench = Bench::new();
    let node = bench.create(&["--size=64M", "--frontend=fuse-loop", "--max-size=128M"]);
    sh(&format!("mkfs.ext4 -q {node}"));
    bench.uzram(&["set", "zram0", "disksize=128M"]);
    assert_eq!(
        sh(&format!("blockdev --getsize64 {node}")).trim(),
        "134217728"
    );
    sh(&format!(
        "e2fsck -fp {node}; resize2fs {node} 2>&1; e2fsck -fn {node}"
    ));
    let blocks = sh(&format!(
        "dumpe2fs -h {node} 2>/dev/null | grep '^Block count'"
    ));
    assert!(
        blocks.ends_with("131072\n") || blocks.ends_with("32768\n"),
        "{blocks}"
    );
    let refused = bench.fails(2, &["set", "zram0", "disksize=129M"]);
    assert!(refused.contains("1 to 134217728"), "{refused}");
    bench.remove_last("zram0");
}

/// A device that waits for itself would wait for ever; and a disk with a file system on it is somebody's.
#[test]
fn a_backing_is_no_device_of_ours_and_nothing_in_use() {
    needs!(&["mkfs.ext4", "losetup", "blkid"], fuse_loop);
    let bench = Bench::new();
    let node = bench.create(&["--size=64M", "--frontend=fuse-loop"]);
    let own = sh(&format!(
        "ls -d {}/zram0/mnt*/disk*",
        bench.run_dir().display()
    ));
    let own = std::path::PathBuf::from(own.trim_end());
    let mounted = bench.path("mounted");
    std::fs::create_dir(&mounted).unwrap();
    sh(&format!(
        "mkfs.ext4 -q {node}; mount {node} {}",
        mounted.display()
    ));
    let inside = mounted.join("store");
    for path in [
        node.clone(),
        own.display().to_string(),
        format!("{},8M", inside.display()),
    ] {
        let refused = bench.fails(2, &["set", "zram0", &format!("backing={path}")]);
        assert!(refused.contains("lies on zram0"), "{refused}");
    }
    let refused = bench.fails(
        2,
        &["create", "--size=64M", "--frontend=nbd", "--backing", &node],
    );
    assert!(refused.contains("lies on zram0"), "{refused}");
    sh(&format!("umount {}", mounted.display()));
    let image = bench.path("image");
    sh(&format!(
        "truncate -s 64M {0}; mkfs.ext4 -q {0}",
        image.display()
    ));
    let disk = sh(&format!("losetup -f --show {}", image.display()));
    let disk = disk.trim();
    let refused = bench.fails(2, &["set", "zram0", &format!("backing={disk}")]);
    assert!(refused.contains("holds ext4"), "{refused}");
    sh(&format!("wipefs -qa {disk}"));
    bench.uzram(&["set", "zram0", &format!("backing={disk}")]);
    bench.uzram(&["set", "zram0", "backing=none"]);
    sh(&format!("losetup -d {disk}"));
    bench.remove_last("zram0");
}
