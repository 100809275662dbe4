//! Every policy on, dedup, a memory limit of half the need, and a backing that refuses a tenth of all writes: fio finds what
//! it wrote, and what could not be written was reported.

mod common;

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use common::{Bench, needs, sh};
use serde_json::Value;

/// A loop device on a file whose writes fail now and then, while the file `failing` is there: a RAM disk of nbdkit behind its
/// error filter, as a file by nbdfuse.
struct FaultyDisk {
    node: String,
    file: PathBuf,
    nbdkit: Child,
    nbdfuse: Child,
}

impl FaultyDisk {
    fn new(dir: &Path, size: &str, rate: &str) -> FaultyDisk {
        let (socket, file) = (dir.join("faulty.sock"), dir.join("faulty"));
        std::fs::write(&file, "").unwrap();
        let start = |program: &str, args: &[&str]| {
            let mut command = Command::new(program);
            command.args(args).stderr(Stdio::null());
            command.spawn().unwrap()
        };
        let rate = format!("error-pwrite-rate={rate}");
        let when = format!("error-pwrite-file={}", dir.join("failing").display());
        let path = socket.to_str().unwrap();
        let args = [
            "-f",
            "-U",
            path,
            "--filter=error",
            "memory",
            size,
            &rate,
            &when,
            "error=EIO",
        ];
        let nbdkit = start("nbdkit", &args);
        wait_until(|| socket.exists());
        let uri = format!("nbd+unix:///?socket={path}");
        let nbdfuse = start("nbdfuse", &[file.to_str().unwrap(), &uri]);
        wait_until(|| file.metadata().is_ok_and(|meta| meta.len() > 0));
        let node = sh(&format!("losetup -f --show {}", file.display()));
        FaultyDisk {
            node: node.trim().to_owned(),
            file,
            nbdkit,
            nbdfuse,
        }
    }
}

impl Drop for FaultyDisk {
    fn drop(&mut self) {
        let (node, file) = (&self.node, self.file.display());
        let _ = Command::new("sh")
            .args(["-c", &format!("losetup -d {node}; umount -l {file}")])
            .status();
        for child in [&mut self.nbdfuse, &mut self.nbdkit] {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

fn wait_until(done: impl Fn() -> bool) {
    let begin = std::time::Instant::now();
    while !done() {
        assert!(begin.elapsed().as_secs() < 60, "it does not begin");
        std::thread::sleep(std::time::Duration::from_millis(10));
    }
}

#[test]
fn fio_finds_what_it_wrote_with_everything_on() {
    needs!(&["fio", "nbdkit", "nbdfuse", "losetup"], fuse_loop);
    let bench = Bench::new();
    let disk = FaultyDisk::new(&bench.path(""), "24M", "10%");
    let node = bench.create(&[
        "--size=96M",
        "--frontend=fuse-loop",
        "--recomp-algorithm=zstd",
        "--mem-limit=10M",
        "--dedup",
        "--policy=recompress=1,writeback=2,compact=on,train=on,high=70,cpu=50,io=20M",
        &format!("--backing={}", disk.node),
    ]);
    // From now on it fails.
    std::fs::write(bench.path("failing"), "").unwrap();
    let report = bench.path("fio.json");
    // What it cannot write (ENOSPC, EIO) it does not expect to read.
    sh(&format!(
        "fio --name=all --filename={node} --rw=randrw --bs=4k --size=80M --io_size=160M --ioengine=libaio --iodepth=8 \
         --direct=1 --verify=crc32c --verify_backlog=2000 --verify_state_save=0 --verify_fatal=1 --buffer_compress_percentage=50 \
         --ignore_error=,ENOSPC:EIO --output-format=json --output={}",
        report.display()
    ));
    let text = std::fs::read_to_string(&report).unwrap();
    let json: Value = serde_json::from_str(&text[text.find('{').unwrap()..]).unwrap();
    let failed = json["jobs"][0]["total_err"].as_u64().unwrap();
    let stat = |key: &str| bench.count("zram0", key);
    assert_eq!(
        stat("failed_writes"),
        failed,
        "each failed write is one that was reported"
    );
    assert_eq!(stat("failed_reads"), 0);
    // On a busy machine fio is done before the agent has come to all of it. What is read again and again is never idle, so it is
    // left alone for longer than the policy asks.
    let begin = std::time::Instant::now();
    loop {
        sh(&format!(
            "dd if={node} of=/dev/null bs=1M iflag=direct status=none"
        ));
        let mut missing = vec![
            "recompressed_pages",
            "backed_writes",
            "backed_reads",
            "failed_writebacks",
        ];
        missing.retain(|key| stat(key) == 0);
        if missing.is_empty() {
            break;
        }
        assert!(begin.elapsed().as_secs() < 60, "no {missing:?}");
        std::thread::sleep(std::time::Duration::from_secs(4));
    }
    assert_eq!(stat("failed_reads"), 0);
    bench.remove_last("zram0");
}
