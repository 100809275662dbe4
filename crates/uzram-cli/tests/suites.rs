//! Other people's tests and tools of zram, unmodified, through `uzram shim`.
//!
//! The kernel's selftests, zramctl and zram-generator come from Debian's packages. LTP and zram-perf-test, which no package
//! has, are looked for as checkouts (`ltp`, built; `zram-perf-test`) in the directory `$UZRAM_SUITES`.

mod common;

use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use common::{Bench, have, needs};
use uzram_testkit::peers;

const SOURCE: &str = "/usr/src/linux-source-6.12.tar.xz";
const SELFTESTS: &str = "linux-source-6.12/tools/testing/selftests/zram";
const GENERATOR: &str = "/lib/systemd/system-generators/zram-generator";

/// Whether the shim and these files are there.
fn can(test: &str, programs: &[&str], files: &[&str]) -> bool {
    if !have(test, programs, true) {
        return false;
    }
    let Some(missing) = files.iter().find(|file| !Path::new(file).exists()) else {
        return true;
    };
    peers::skip(test, format_args!("no {missing}"));
    false
}

/// A checkout in `$UZRAM_SUITES`. Without it a reported skip, also in CI.
fn suite(test: &str, name: &str) -> Option<PathBuf> {
    let found = std::env::var_os("UZRAM_SUITES").map(|dir| PathBuf::from(dir).join(name));
    let found = found.filter(|path| path.exists());
    if found.is_none() {
        eprintln!("SKIP {test}: no {name} in $UZRAM_SUITES");
    }
    found
}

/// Runs a command in the shim, on loop devices: what every machine of ours has.
fn shim(bench: &Bench, directory: &Path, command: &[&str]) -> Output {
    let args = [&["shim", "--frontend", "fuse-loop", "--"], command].concat();
    bench
        .command(&args)
        .current_dir(directory)
        .output()
        .unwrap()
}

/// A script in it, which ends with the first command that fails. Gives stdout.
fn script(bench: &Bench, script: &str) -> String {
    let output = shim(bench, Path::new("/"), &["sh", "-euxc", script]);
    assert!(output.status.success(), "{script}\n{output:?}");
    String::from_utf8(output.stdout).unwrap()
}

fn text(output: &Output) -> String {
    let both = [output.stdout.as_slice(), &output.stderr].concat();
    String::from_utf8_lossy(&both).into_owned()
}

#[test]
fn interop_the_kernels_selftests_pass() {
    let name = "interop_the_kernels_selftests_pass";
    if !can(name, &["tar", "xz", "mkfs.ext4", "mkswap"], &[SOURCE]) {
        return;
    }
    let bench = Bench::new();
    let directory = bench.path("source");
    std::fs::create_dir(&directory).unwrap();
    let unpacked = Command::new("tar")
        .args(["-xJf", SOURCE, SELFTESTS])
        .current_dir(&directory)
        .status();
    assert!(unpacked.unwrap().success());
    let output = shim(&bench, &directory.join(SELFTESTS), &["./zram.sh"]);
    let said = text(&output);
    assert!(output.status.success(), "{said}");
    for test in ["zram01 : [PASS]", "zram02 : [PASS]"] {
        assert!(said.contains(test), "{test}:\n{said}");
    }
    // zram02 says PASS whatever happens.
    assert!(!said.contains("FAIL"), "{said}");
    bench.assert_clean();
}

#[test]
fn interop_zramctl_finds_sets_up_shows_and_resets() {
    let name = "interop_zramctl_finds_sets_up_shows_and_resets";
    if !can(name, &["zramctl", "mkfs.ext4"], &[]) {
        return;
    }
    let bench = Bench::new();
    let mount = bench.path("mnt");
    std::fs::create_dir(&mount).unwrap();
    let mount = mount.display();
    // Debian 12's zramctl has no --algorithm-params.
    let params = "params=; if zramctl --help | grep -q algorithm-params; then params='--algorithm-params level=9'; fi";
    let out = script(
        &bench,
        &format!(
            "{params}
            zramctl --find --size 64M --algorithm zstd --streams 2 $params
            zramctl /dev/zram0
            mkfs.ext4 -q /dev/zram0
            mount /dev/zram0 {mount}
            echo --- all
            zramctl --bytes --noheadings --raw --output-all
            echo --- mounted
            zramctl --noheadings --output NAME,MOUNTPOINT
            umount {mount}
            echo --- second
            zramctl -f -s 32M
            cat /sys/block/zram1/comp_algorithm
            zramctl --reset /dev/zram0 /dev/zram1
            echo --- left
            ls /dev | grep '^zram' || :
            cat /sys/class/zram-control/hot_add
            zramctl /dev/zram0 --size 1M --algorithm lzo
            cat /sys/block/zram0/disksize
            zramctl --reset zram0"
        ),
    );
    let mut parts = out.split("--- ");
    let begin = parts.next().unwrap();
    assert!(begin.starts_with("/dev/zram0\n"), "{out}");
    assert!(begin.contains("zstd"), "{out}");
    let mut after = |heading: &str| {
        let part = parts.next().unwrap();
        part.strip_prefix(heading).unwrap().trim().to_owned()
    };
    let all = after("all");
    let columns: Vec<&str> = all.split_whitespace().collect();
    // NAME DISKSIZE DATA COMPR ALGORITHM STREAMS ZERO-PAGES TOTAL MEM-LIMIT MEM-USED MIGRATED [COMP-RATIO] MOUNTPOINT
    assert_eq!(columns[..2], ["/dev/zram0", "67108864"], "{all}");
    assert_eq!(columns[4], "zstd", "{all}");
    let [data, compressed, total] = [2, 3, 7].map(|at: usize| columns[at].parse::<u64>().unwrap());
    assert!(
        data > total && total >= compressed && compressed > 0,
        "{all}"
    );
    assert_eq!(after("mounted"), format!("/dev/zram0 {mount}"));
    assert!(after("second").starts_with("/dev/zram1\n[lzo-rle] "));
    assert_eq!(after("left"), "0\n1048576");
    bench.assert_clean();
}

/// `uzram list` with zramctl's words does the same outside of the shim.
#[test]
fn list_stands_in_for_zramctl() {
    needs!(&["losetup"], fuse_loop);
    let bench = Bench::new();
    let node = bench.uzram(&[
        "list", "-f", "-s", "64M", "-a", "zstd", "-p", "level=1", "-t", "2",
    ]);
    let node = node.trim();
    assert!(Path::new(node).exists(), "{node}");
    let row = bench.uzram(&[
        "list",
        "-n",
        "-b",
        "--raw",
        "-o",
        "name,path,algorithm,disksize",
        node,
    ]);
    assert_eq!(row, format!("zram0 {node} zstd 67108864\n"));
    assert_eq!(bench.stat("zram0")["codecs"][0]["params"], "level=1");
    let row = bench.uzram(&[
        "list",
        "-n",
        "--raw",
        "-o",
        "huge-pages,idle-pages,recompressed,written-back",
    ]);
    assert_eq!(row, "0 0 0 0\n");
    assert!(
        bench
            .fails(2, &["list", "-f", "-s", "64M", "-a", "nonsense"])
            .contains("comp_algorithm")
    );
    assert!(bench.fails(2, &["list", "-f"]).contains("--size"));
    assert!(bench.fails(4, &["list", "-r", "zram7"]).contains("zram7"));
    bench.uzram(&["list", "--reset", node]);
    bench.assert_clean();
}

#[test]
fn interop_zram_generator_sets_devices_up() {
    let name = "interop_zram_generator_sets_devices_up";
    if !can(
        name,
        &["blkid"],
        &[GENERATOR, "/lib/systemd/systemd-makefs"],
    ) {
        return;
    }
    let bench = Bench::new();
    let config = bench.path("zram-generator.conf");
    let text = "[zram0]\nzram-size = min(ram / 10, 64)\ncompression-algorithm = zstd\nswap-priority = 7\n\
        [zram1]\nzram-size = 32\ncompression-algorithm = lz4\nmount-point = /var/compressed\nfs-type = ext4\noptions = rw,nosuid\n\
        [zram2]\nzram-fraction = 0.0001\nmax-zram-size = 16\n\
        [zram3]\nhost-memory-limit = 1\nzram-size = 16\n";
    std::fs::write(&config, text).unwrap();
    let out = script(
        &bench,
        &format!(
            "mount --bind {} /etc/systemd/zram-generator.conf
            modprobe zram num_devices=4
            for n in 0 1 2; do {GENERATOR} --setup-device zram$n; done >/dev/null
            ! {GENERATOR} --setup-device zram3
            for n in 0 1 2 3; do
                echo zram$n $(cat /sys/block/zram$n/disksize) $(blkid -o value -s TYPE /dev/zram$n || :)
            done
            cat /sys/block/zram0/comp_algorithm /sys/block/zram1/comp_algorithm
            for n in 0 1 2; do {GENERATOR} --reset-device zram$n; done
            cat /sys/block/zram*/disksize",
            config.display()
        ),
    );
    let lines: Vec<&str> = out.lines().collect();
    assert_eq!(lines[0], "zram0 67108864 swap", "{out}");
    assert_eq!(lines[1], "zram1 33554432 ext4", "{out}");
    assert!(lines[2].ends_with(" swap"), "{out}");
    assert_eq!(lines[3], "zram3 0", "{out}");
    assert!(
        lines[4].contains("[zstd]") && lines[5].contains("[lz4]"),
        "{out}"
    );
    assert_eq!(lines[6..], ["0"; 4], "{out}");
    bench.assert_clean();
}

#[test]
fn suite_ltp() {
    let Some(ltp) = suite("suite_ltp", "ltp") else {
        return;
    };
    let bench = Bench::new();
    let path = format!(
        "{0}/testcases/lib:{0}/testcases/kernel/device-drivers/zram:{1}",
        ltp.display(),
        std::env::var("PATH").unwrap()
    );
    for test in ["zram01.sh", "zram02.sh", "zram03"] {
        let output = bench
            .command(&["shim", "--frontend", "fuse-loop", "--", test])
            .env("PATH", &path)
            .env("LTPROOT", &ltp)
            .output()
            .unwrap();
        let said = text(&output);
        println!("{said}");
        assert!(output.status.success(), "{test}: {}", output.status);
        assert!(said.contains("TPASS") && !said.contains("TFAIL") && !said.contains("TBROK"));
    }
    bench.assert_clean();
}

#[test]
fn suite_zram_perf_test() {
    let Some(suite) = suite("suite_zram_perf_test", "zram-perf-test") else {
        return;
    };
    let bench = Bench::new();
    for kind in ["statbuf", "compbuf"] {
        let log = format!("uzram-{}-{kind}", std::process::id());
        let output = bench
            .command(&[
                "shim",
                "--frontend",
                "fuse-loop",
                "--",
                "./zram-fio-test.sh",
            ])
            .current_dir(&suite)
            .envs([
                ("ZRAM_SIZE", "256M"),
                ("MAX_ITER", "2"),
                ("FIO_TEST", kind),
                ("LOG_SUFFIX", &log),
            ])
            .output()
            .unwrap();
        let said = text(&output);
        println!("{said}");
        assert!(output.status.success(), "{said}");
        let log = format!("/tmp/test-fio-zram-{log}");
        let measured = std::fs::read_to_string(&log).unwrap();
        assert!(
            measured.contains("WRITE:") && !measured.contains("error="),
            "{measured}"
        );
        for file in [log.clone(), log + "-perf-stat"] {
            let _ = std::fs::remove_file(file);
        }
    }
    bench.assert_clean();
}

/// What other programs do to loop devices, and what other devices there are, is nothing to a shim's devices.
#[test]
fn a_shim_has_devices_of_its_own() {
    let name = "a_shim_has_devices_of_its_own";
    if !can(name, &["losetup", "mkfs.ext4", "blockdev"], &[]) {
        return;
    }
    let bench = Bench::new();
    bench.create(&["--size", "16M", "--frontend", "fuse-loop"]);
    let file = bench.path("file");
    let out = script(
        &bench,
        &format!(
            "truncate -s 8M {0}
            modprobe zram
            other=$(losetup -f --show {0})
            test $(blockdev --getsize64 /dev/zram0) = 0
            echo 32M > /sys/block/zram0/disksize
            test $(blockdev --getsize64 /dev/zram0) = 33554432
            losetup -d $other
            exec 5</dev/zram0
            ! echo 1 > /sys/block/zram0/reset
            cat /sys/block/zram0/initstate
            exec 5<&-
            cp /sys/kernel/debug/zram/zram0/block_state {0}
            dd if=/dev/urandom of=/dev/zram0 bs=1M count=4 2>/dev/null
            cp /sys/kernel/debug/zram/zram0/block_state {0}
            grep -c h {0}
            ! {1} create --size 1M
            rmmod zram
            rmmod zsmalloc
            ls /dev | grep zram || :",
            file.display(),
            env!("CARGO_BIN_EXE_uzram"),
        ),
    );
    assert_eq!(out, "1\n1024\n");
    assert_eq!(bench.uzram(&["list", "-n", "-o", "name"]), "zram0\n");
    bench.uzram(&["remove", "zram0"]);
    // What is in use stays, and goes with the next shim.
    let mount = bench.path("mnt");
    std::fs::create_dir(&mount).unwrap();
    let command = format!(
        "modprobe zram; echo 16M > /sys/block/zram0/disksize; mkfs.ext4 -q /dev/zram0; readlink -f /sys/dev/block/$(cat /sys/block/zram0/dev) >/dev/null; \
         nsenter -t {} -m mount /dev/loop$(stat -c %T /dev/zram0 | sed 's/^/0x/' | xargs printf %d) {}",
        std::process::id(),
        mount.display()
    );
    let output = shim(&bench, Path::new("/"), &["sh", "-euc", &command]);
    let said = text(&output);
    assert!(output.status.success(), "{said}");
    assert!(said.contains("is in use and stays"), "{said}");
    common::sh(&format!("umount {}", mount.display()));
    assert_eq!(script(&bench, "ls /dev | grep zram || :"), "");
    bench.assert_clean();
}
