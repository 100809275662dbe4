//! What a device's memory is said to be, by the commands: everything that was given up is given back, a limit may be on
//! all of it, what cannot come back from a backing is counted, and contents stay out of core dumps.

mod common;

use std::os::unix::fs::FileExt;
use std::time::{Duration, Instant};

use common::{Bench, needs, sh, text};
use serde_json::Value;

const MIB: u64 = 1 << 20;

/// Writes bytes to an NBD device with qemu-io's help.
fn copy(bench: &Bench, uri: &str, bytes: &[u8]) {
    let file = bench.path("data");
    std::fs::write(&file, bytes).unwrap();
    sh(&format!(
        "qemu-img convert -n -f raw -O raw {} '{uri}'",
        file.display()
    ));
}

/// `list`'s TOTAL in bytes.
fn total(bench: &Bench) -> u64 {
    let total = bench.uzram(&["list", "-n", "-b", "-o", "total", "zram0"]);
    total.trim().parse().unwrap()
}

fn json(text: &str) -> Value {
    serde_json::from_str(text).unwrap()
}

#[test]
fn compaction_is_on_unless_it_is_turned_off() {
    needs!(&["qemu-img", "qemu-io"]);
    let bench = Bench::new();
    for policy in [None, Some("--policy=none")] {
        let args = [&["--size=32M", "--frontend=nbd"][..], policy.as_slice()].concat();
        let uri = bench.create(&args);
        let shown = json(&bench.uzram(&["policy", "zram0", "--json"]));
        let settings = if policy.is_some() {
            "none"
        } else {
            "compact=on,cpu=10,io=32M"
        };
        assert_eq!(shown["settings"], settings);
        copy(&bench, &uri, &text(8192));
        // Three of four pages are overwritten by zeros: what is left could lie in a quarter.
        let holes = (0..8192u64).filter(|page| page % 4 > 0);
        let commands: String = holes
            .map(|p| format!("write -z {} 4096\n", p * 4096))
            .collect();
        std::fs::write(bench.path("holes"), commands).unwrap();
        let script = bench.path("holes");
        sh(&format!(
            "qemu-io -f raw '{uri}' < {} > /dev/null",
            script.display()
        ));
        let dense = |stat: &Value| {
            let of = |key: &str| stat[key].as_u64().unwrap() as f64;
            of("mem_used_total") < 1.3 * of("compr_data_size")
        };
        if policy.is_none() {
            let deadline = Instant::now() + Duration::from_secs(60);
            while !dense(&bench.stat("zram0")) {
                assert!(Instant::now() < deadline, "nobody compacts");
                std::thread::sleep(Duration::from_millis(50));
            }
            assert!(bench.count("zram0", "pages_compacted") > 0);
        } else {
            std::thread::sleep(Duration::from_secs(1));
            assert!(!dense(&bench.stat("zram0")));
        }
        bench.uzram(&["remove", "zram0"]);
    }
    bench.assert_clean();
}

#[test]
fn zeroing_and_discarding_a_large_device_costs_no_memory() {
    needs!(&["blkdiscard", "fallocate"], fuse_loop);
    let bench = Bench::new();
    let node = bench.create(&["--size=64G", "--frontend=fuse-loop"]);
    let least = total(&bench);
    assert!(least < 4 * MIB, "an empty device takes {least} bytes");
    sh(&format!("blkdiscard -z {node}"));
    assert!(
        total(&bench) < least + MIB,
        "{} after blkdiscard -z",
        total(&bench)
    );
    // Written zeros have slots, and a discard of everything gives these back.
    sh(&format!(
        "dd if=/dev/zero of={node} bs=4M count=1024 oflag=direct status=none"
    ));
    let zeroed = total(&bench);
    assert!(
        zeroed > least + 7 * MIB,
        "{zeroed} bytes hide the slots of 4 GiB"
    );
    sh(&format!("blkdiscard {node}"));
    assert!(
        total(&bench) < least + MIB,
        "{} after a discard",
        total(&bench)
    );
    let file = bench.path("text");
    std::fs::write(&file, text(4096)).unwrap();
    sh(&format!(
        "dd if={} of={node} bs=1M oflag=direct status=none",
        file.display()
    ));
    sh(&format!(
        "dd if=/dev/zero of={node} bs=1M count=16 oflag=direct status=none"
    ));
    sh(&format!("blkdiscard {node}"));
    assert_eq!(bench.count("zram0", "mem_used_total"), 0);
    sh(&format!(
        "dd if={} of={node} bs=1M oflag=direct status=none",
        file.display()
    ));
    bench.uzram(&["reset", "zram0"]);
    assert_eq!(bench.count("zram0", "mem_used_total"), 0);
    assert!(total(&bench) < least + MIB);
    bench.remove_last("zram0");
}

/// Some bytes of the backing are overwritten by somebody else: the pages that lie there are lost, and no others.
#[test]
fn one_bad_page_keeps_no_other_out_of_memory() {
    needs!(&["qemu-img"]);
    let bench = Bench::new();
    let store = bench.path("store");
    let backing = format!("--backing={},16M", store.display());
    let uri = bench.create(&["--size=16M", "--frontend=nbd", &backing]);
    copy(&bench, &uri, &text(4096));
    bench.uzram(&["writeback", "zram0"]);
    assert_eq!(bench.count("zram0", "backed_pages"), 4096);
    let file = std::fs::File::options().write(true).open(&store).unwrap();
    file.write_all_at(&[0x55; 100], MIB).unwrap();
    let output = bench.output(&["promote", "zram0", "--json"]);
    assert_eq!(output.status.code(), Some(1));
    let said = json(&String::from_utf8(output.stdout).unwrap());
    let (pages, failed) = (
        said["pages"].as_u64().unwrap(),
        said["failed"].as_u64().unwrap(),
    );
    assert!(
        (1..10).contains(&failed) && pages + failed == 4096,
        "{said}"
    );
    assert_eq!(bench.count("zram0", "backed_pages"), failed);
    let said = bench.fails(1, &["promote", "zram0"]);
    let words = format!("0 pages are back in memory: 0B; {failed} could not be brought back");
    assert!(said.contains(&words) && said.contains("page "), "{said}");
    let said = bench.fails(1, &["set", "zram0", "backing=none"]);
    assert!(
        said.contains(&format!("{failed} cannot come back")),
        "{said}"
    );
    // Written anew, nothing is on it any more.
    copy(&bench, &uri, &text(4096));
    bench.uzram(&["set", "zram0", "backing=none"]);
    bench.remove_last("zram0");
}

#[test]
fn a_limit_may_be_on_all_memory() {
    needs!(&["qemu-io"]);
    let bench = Bench::new();
    let said = bench.fails(2, &["create", "--frontend=nbd", "--mem-limit=all:1G"]);
    assert!(said.contains("not a size"), "{said}");
    let said = bench.fails(2, &["create", "--frontend=nbd", "--mem-limit=total:16K"]);
    assert!(
        said.contains("a limit on all memory of 16384 bytes is not possible"),
        "{said}"
    );
    let limit = 8 * MIB;
    let uri = bench.create(&["--size=64M", "--frontend=nbd", "--mem-limit=total:8M"]);
    // Incompressible: it does not fit, and what is written stays below the limit.
    let noise = bench.path("noise");
    sh(&format!("head -c 32M /dev/urandom > {}", noise.display()));
    let copied = format!(
        "qemu-img convert -n -f raw -O raw {} '{uri}' 2>&1 || echo failed",
        noise.display()
    );
    let said = sh(&copied);
    assert!(
        said.contains("No space left") && said.contains("failed"),
        "{said}"
    );
    let stat = bench.stat("zram0");
    assert_eq!(
        (stat["mem_limit_total"].as_u64(), stat["mem_limit"].as_u64()),
        (Some(limit), Some(0))
    );
    let all = total(&bench);
    assert!(all <= limit && all > limit / 10 * 9, "{all} of {limit}");
    assert!(bench.uzram(&["stat", "zram0"]).contains("(limit 8M)"));
    let said = bench.fails(2, &["set", "zram0", "mem_limit=total:1"]);
    assert!(said.contains("the empty device and one page"), "{said}");
    bench.uzram(&["set", "zram0", "mem_limit=total:64M"]);
    copy(&bench, &uri, &std::fs::read(&noise).unwrap());
    bench.uzram(&["set", "zram0", "mem_limit=48M"]);
    let mm_stat = bench.uzram(&["get", "zram0", "mm_stat"]);
    assert_eq!(
        mm_stat.split_whitespace().nth(3),
        Some("50331648"),
        "{mm_stat}"
    );
    bench.remove_last("zram0");
}

/// Starting takes some hundred KiB of heap, for self-tests' tables above all. A device's processes give them back.
#[test]
fn processes_keep_little_of_what_starting_took() {
    let bench = Bench::new();
    bench.create(&["--size=64M", "--frontend=nbd"]);
    let stat = bench.stat("zram0");
    for process in ["pid", "keeper"] {
        let path = format!("/proc/{}/smaps", stat[process].as_u64().unwrap());
        // Where /proc/PID is another user's.
        let Ok(maps) = std::fs::read_to_string(path) else {
            continue;
        };
        let heap = maps.lines().skip_while(|line| !line.ends_with("[heap]"));
        let dirty = heap
            .into_iter()
            .find_map(|line| line.strip_prefix("Private_Dirty:"));
        let kb: u32 = dirty
            .unwrap()
            .trim()
            .trim_end_matches(" kB")
            .parse()
            .unwrap();
        assert!(kb < 256, "{process} has {kb} kB of heap");
    }
    bench.remove_last("zram0");
}

#[test]
fn what_is_in_a_device_stays_in_it() {
    let bench = Bench::new();
    bench.create(&["--size=64M", "--frontend=nbd", "--erase=on-free"]);
    let stat = bench.stat("zram0");
    assert_eq!(stat["erase_on_free"], true);
    let pid = stat["pid"].as_u64().unwrap();
    let deadline = Instant::now() + Duration::from_secs(10);
    let image = loop {
        let maps = std::fs::read_to_string(format!("/proc/{pid}/smaps")).unwrap_or_default();
        let image: Vec<String> = maps
            .split("VmFlags:")
            .collect::<Vec<_>>()
            .windows(2)
            .filter(|pair| pair[0].lines().any(|line| line.contains("memfd:")))
            .map(|pair| pair[1].lines().next().unwrap_or_default().to_owned())
            .collect();
        if !image.is_empty() || Instant::now() > deadline {
            break image;
        }
    };
    // Where /proc/PID is another user's, the server cannot be looked at: then it cannot be dumped either.
    let hidden = std::fs::read(format!("/proc/{pid}/smaps")).is_err();
    assert!(hidden || !image.is_empty());
    assert!(
        image
            .iter()
            .all(|flags| flags.split(' ').any(|flag| flag == "dd")),
        "{image:?}"
    );
    let said = bench.fails(2, &["set", "zram0", "erase=always"]);
    assert!(said.contains("on-free or off"), "{said}");
    bench.uzram(&["set", "zram0", "erase=off"]);
    assert_eq!(bench.stat("zram0")["erase_on_free"], false);
    bench.uzram(&["set", "zram0", "erase=on-free"]);
    // The image says so to the next server.
    bench.kill("zram0", "pid");
    assert_eq!(bench.stat("zram0")["erase_on_free"], true);
    bench.remove_last("zram0");
}

/// ext4 and xfs stop at the limit, and come back with everything that was synced once it is raised.
#[test]
fn file_systems_recover_from_a_full_device() {
    needs!(&["mkfs.ext4", "e2fsck"], fuse_loop);
    let bench = Bench::new();
    let mount = bench.path("mounted");
    std::fs::create_dir(&mount).unwrap();
    let mount = mount.display();
    for (mkfs, check) in [
        ("mkfs.ext4 -q", "e2fsck -fp"),
        ("mkfs.xfs -q", "xfs_repair -n"),
        ("mkfs.btrfs -q", "btrfs check"),
    ] {
        let program = mkfs.split(' ').next().unwrap_or_default();
        if sh(&format!("command -v {program} || :")).is_empty() {
            println!("skipped: no {program}");
            continue;
        }
        let node = bench.create(&["--size=1G", "--frontend=fuse-loop", "--mem-limit=total:32M"]);
        sh(&format!(
            "for try in $(seq 100); do {mkfs} {node} > /dev/null 2>&1 && break; sleep 0.1; done
            mount -o discard {node} {mount}"
        ));
        let sum = |file: &str| sh(&format!("sha256sum < {mount}/{file}"));
        sh(&format!(
            "head -c 8M /dev/urandom > {mount}/kept; sync -f {mount}"
        ));
        let kept = sum("kept");
        let filled = sh(&format!(
            "dd if=/dev/urandom of={mount}/more bs=1M count=64 conv=fsync 2>&1 || echo failed"
        ));
        assert!(filled.contains("failed"), "{mkfs}: {filled}");
        assert!(bench.count("zram0", "failed_writes") > 0);
        assert!(total(&bench) <= 32 * MIB);
        bench.uzram(&["set", "zram0", "mem_limit=total:512M"]);
        sh(&format!("umount {mount}; mount -o discard {node} {mount}"));
        assert_eq!(sum("kept"), kept, "{mkfs}");
        sh(&format!(
            "dd if=/dev/urandom of={mount}/more bs=1M count=64 conv=fsync status=none"
        ));
        sh(&format!("umount {mount}; {check} {node} > /dev/null 2>&1"));
        bench.uzram(&["remove", "zram0"]);
    }
    bench.assert_clean();
}
