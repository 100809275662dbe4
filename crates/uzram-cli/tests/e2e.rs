//! The main job, end to end: a real disk, a real file system, real files; and fio's verify on both frontends.

mod common;

use std::path::{Path, PathBuf};

use common::{Bench, have, needs, sh};

/// Bytes of real files to copy.
const TREE_BYTES: u64 = 200 << 20;

/// Directories of sources and documents of this machine that hold [`TREE_BYTES`] together.
fn source_tree() -> Vec<PathBuf> {
    let home = std::env::var_os("CARGO_HOME").map(PathBuf::from);
    let home = home.or_else(|| std::env::home_dir().map(|home| home.join(".cargo")));
    let mut roots: Vec<PathBuf> = home
        .map(|home| home.join("registry/src"))
        .into_iter()
        .collect();
    roots.push(PathBuf::from(sh("rustc --print sysroot").trim()).join("share/doc"));
    roots.extend(["/usr/share", "/usr/lib"].map(PathBuf::from));
    let (mut chosen, mut total) = (Vec::new(), 0);
    for root in roots.into_iter().filter(|root| root.is_dir()) {
        total += sh(&format!("du -sb '{}'", root.display()))
            .split_whitespace()
            .next()
            .and_then(|bytes| bytes.parse::<u64>().ok())
            .unwrap_or(0);
        chosen.push(root);
        if total >= TREE_BYTES {
            return chosen;
        }
    }
    panic!("no {TREE_BYTES} bytes of files on this machine");
}

fn copied(at: &Path, index: usize) -> String {
    at.join(format!("tree{index}")).display().to_string()
}

#[test]
fn a_source_tree_survives_on_a_real_file_system() {
    let needs = ["mkfs.ext4", "e2fsck", "fstrim", "diff", "mount"];
    needs!(&needs, fuse_loop);
    let bench = Bench::new();
    let node = bench.create(&["--size", "3G"]);
    let at = bench.path("mnt");
    std::fs::create_dir(&at).unwrap();
    let mount = format!("mount {node} {}", at.display());
    let umount = format!("umount {}", at.display());
    sh(&format!("mkfs.ext4 -q {node}"));
    sh(&mount);
    let tree = source_tree();
    for (index, root) in tree.iter().enumerate() {
        sh(&format!(
            "cp -a '{}' {}",
            root.display(),
            copied(&at, index)
        ));
    }
    sh("sync");
    let data = bench.count("zram0", "orig_data_size");
    let memory = bench.count("zram0", "mem_used_total");
    assert!(data >= TREE_BYTES, "{data}");
    assert!(
        memory * 3 < data * 2,
        "{memory} for {data}: sources compress better than that"
    );
    sh(&umount);
    sh(&format!("e2fsck -fn {node}"));
    sh(&mount);
    for (index, root) in tree.iter().enumerate() {
        sh(&format!(
            "diff -r --no-dereference '{}' {}",
            root.display(),
            copied(&at, index)
        ));
    }

    // The older half goes. Half of the bytes, not of the files: which files there are, and how large, is the machine's affair.
    let list = at.join("files");
    sh(&format!(
        "find {at} -type f -printf '%i %s %p\\n' | sort -n >{list} && \
         awk 'FNR == NR {{ all += $2; next }} (gone += $2) * 2 < all {{ sub(/^[0-9]+ [0-9]+ /, \"\"); print }}' \
         {list} {list} | tr '\\n' '\\0' | xargs -0 rm -f && rm -f {list} && sync",
        at = at.display(),
        list = list.display()
    ));
    sh(&format!("fstrim {}", at.display()));
    let trimmed = bench.count("zram0", "orig_data_size");
    assert!(
        trimmed * 10 < data * 8,
        "{trimmed} of {data} after deleting half"
    );
    let left = bench.count("zram0", "mem_used_total");
    assert!(left * 4 < memory * 3, "{left} of {memory} after fstrim");
    bench.uzram(&["compact", "zram0"]);
    let compressed = bench.count("zram0", "compr_data_size");
    let left = bench.count("zram0", "mem_used_total");
    assert!(
        left * 20 < compressed * 21,
        "{left} for {compressed} after compacting"
    );
    assert!(bench.fails(3, &["remove", "zram0"]).contains("mounted at"));
    sh(&umount);
    sh(&format!("e2fsck -fn {node} && blkdiscard {node}"));
    let left = bench.count("zram0", "mem_used_total");
    assert!(
        left * 50 < memory,
        "{left} of {memory} after discarding all"
    );
    bench.remove_last("zram0");
}

/// Random reads and writes by four jobs, each in its quarter of the whole device, every block verified.
fn fio_verify(engine: &str) {
    let line = format!(
        "fio --name=v {engine} --numjobs=4 --size=64m --offset_increment=64m --rw=randrw --bs=4k,4k \
         --iodepth=16 --verify=crc32c --verify_fatal=1 --verify_backlog=512 --verify_async=0 --verify_state_save=0 \
         --buffer_compress_percentage=50 --refill_buffers --random_generator=lfsr --loops=2 --group_reporting \
         --output-format=terse"
    );
    let terse = sh(&line);
    let result = terse
        .lines()
        .find(|line| line.starts_with("3;"))
        .unwrap_or_else(|| panic!("{terse}"));
    // The fifth field of fio's terse format is the error.
    assert_eq!(result.split(';').nth(4), Some("0"), "{result}");
}

#[test]
fn interop_fio_verifies_the_loop_device() {
    if have("interop_fio_verifies_the_loop_device", &["fio"], true) {
        let bench = Bench::new();
        let node = bench.create(&["--size", "256M"]);
        fio_verify(&format!("--filename={node} --ioengine=libaio --direct=1"));
        bench.remove_last("zram0");
    }
}

#[test]
fn interop_fio_verifies_the_nbd_socket() {
    if have("interop_fio_verifies_the_nbd_socket", &["fio"], false) {
        let bench = Bench::new();
        let uri = bench.create(&["--size", "256M", "--frontend", "nbd", "--algorithm", "zstd"]);
        fio_verify(&format!("--ioengine=nbd '--uri={uri}'"));
        bench.remove_last("zram0");
    }
}
