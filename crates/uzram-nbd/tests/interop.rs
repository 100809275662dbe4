//! Interoperation with the clients that people use: libnbd's tools, QEMU's tools, and fio.

mod common;

use common::*;
use std::{path::Path, process::Command};
use uzram_testkit::peers;

/// Runs a peer to success and returns what it printed; `None` if it is not installed.
fn run(test: &str, program: &str, args: &[&str]) -> Option<String> {
    // nbdsh needs the system's own python3, and another may stand first in PATH.
    let path = format!("/usr/bin:{}", std::env::var("PATH").unwrap_or_default());
    if !peers::have(test, &[program]) {
        return None;
    }
    let output = Command::new(program)
        .args(args)
        .env("PATH", path)
        .current_dir(std::env::temp_dir())
        .output()
        .unwrap_or_else(|error| panic!("{program}: {error}"));
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    let (stdout, stderr) = (text(&output.stdout), text(&output.stderr));
    assert!(
        output.status.success(),
        "{program} {args:?}: {}\n{stdout}{stderr}",
        output.status
    );
    Some(stdout + &stderr)
}

/// Data with holes at both ends and inside, as an image has them.
fn image(size: usize) -> Vec<u8> {
    let mut image = vec![0; size];
    for (i, at) in (1 << 20..size - (1 << 20)).step_by(300_000).enumerate() {
        let len = 100_001.min(size - (1 << 20) - at);
        image[at..at + len].copy_from_slice(&noise(i as u64 + 1, len));
    }
    image
}

fn stored(fixture: &Fixture) -> Vec<u8> {
    let mut bytes = vec![0; fixture.device.size_bytes() as usize];
    fixture.device.read_at(&mut bytes, 0).unwrap();
    bytes
}

fn text(path: &Path) -> &str {
    path.to_str().unwrap()
}

#[test]
fn interop_nbdinfo_tells_size_flags_map_and_list() {
    let fixture = Fixture::new(8 * MIB);
    let uri = fixture.uri();
    let name = "interop_nbdinfo";
    let Some(size) = run(name, "nbdinfo", &["--size", &uri]) else {
        return;
    };
    assert_eq!(size.trim(), "8388608");
    let json = run(name, "nbdinfo", &["--json", &uri]).unwrap();
    let json: String = json.split_whitespace().collect();
    for part in [
        r#""protocol":"newstyle-fixed""#,
        r#""structured":true"#,
        r#""export-name":"zram0""#,
        r#""contexts":["base:allocation"]"#,
        r#""can_cache":true"#,
        r#""can_df":true"#,
        r#""can_fast_zero":true"#,
        r#""can_flush":true"#,
        r#""can_fua":true"#,
        r#""can_multi_conn":true"#,
        r#""can_trim":true"#,
        r#""can_zero":true"#,
        r#""is_read_only":false"#,
        r#""is_rotational":false"#,
        r#""block_size_minimum":1,"block_size_preferred":4096,"block_size_maximum":33554432"#,
    ] {
        assert!(json.contains(part), "{part} in {json}");
    }
    let list = run(name, "nbdinfo", &["--list", &uri.replace("zram0", "")]).unwrap();
    assert!(list.contains("zram0") && list.contains("a test"), "{list}");
    fixture.device.write_at(&noise(1, 65536), MIB).unwrap();
    fixture
        .device
        .write_zeroes(2 * MIB, 4096, uzram::Zeroes::Allocate)
        .unwrap();
    let map = run(name, "nbdinfo", &["--map", &uri]).unwrap();
    let map: Vec<Vec<&str>> = map
        .lines()
        .map(|l| l.split_whitespace().collect())
        .collect();
    assert_eq!(map[0][..3], ["0", "1048576", "3"]);
    assert_eq!(map[1][..3], ["1048576", "65536", "0"]);
    fixture.stop();
}

#[test]
fn interop_nbdcopy_carries_an_image_in_and_out() {
    let fixture = Fixture::new(24 * MIB);
    let image = image(24 << 20);
    let (source, target) = (
        fixture.dir.path().join("in"),
        fixture.dir.path().join("out"),
    );
    std::fs::write(&source, &image).unwrap();
    let uri = fixture.uri();
    let name = "interop_nbdcopy";
    for connections in ["1", "4"] {
        let flags = ["--connections", connections, "--flush"];
        if run(
            name,
            "nbdcopy",
            &[&flags[..], &[text(&source), &uri]].concat(),
        )
        .is_none()
        {
            return;
        }
        assert!(
            stored(&fixture) == image,
            "in with {connections} connections"
        );
        run(
            name,
            "nbdcopy",
            &[&flags[..], &[&uri, text(&target)]].concat(),
        )
        .unwrap();
        assert!(
            std::fs::read(&target).unwrap() == image,
            "out with {connections} connections"
        );
        std::fs::remove_file(&target).unwrap();
        run(
            name,
            "nbdcopy",
            &[
                "--no-extents",
                "--request-size=1048576",
                &uri,
                text(&target),
            ],
        )
        .unwrap();
        assert!(std::fs::read(&target).unwrap() == image);
        fixture.device.reset();
    }
    fixture.stop();
}

#[test]
fn interop_nbdsh_uses_each_command() {
    let fixture = Fixture::new(8 * MIB);
    let script = r#"
h.add_meta_context("base:allocation")
h.set_full_info(True)
h.connect_uri(URI)
assert h.get_structured_replies_negotiated() and h.can_meta_context("base:allocation")
assert h.get_size() == 8 << 20 and h.get_block_size(nbd.SIZE_MAXIMUM) == 32 << 20
assert h.get_export_description() == "a test"
h.pwrite(b"hello" * 1000, 123, nbd.CMD_FLAG_FUA)
assert h.pread(5000, 123) == b"hello" * 1000
chunks = []
def chunk(data, offset, status, error):
    assert not error.value
    chunks.append((offset, len(data), status))
assert h.pread_structured(1 << 20, 0, chunk) == bytes(123) + b"hello" * 1000 + bytes((1 << 20) - 5123)
assert chunks == [(0, 8192, nbd.READ_DATA), (8192, (1 << 20) - 8192, nbd.READ_HOLE)], chunks
chunks.clear()
h.pread_structured(1 << 20, 0, chunk, nbd.CMD_FLAG_DF)
assert chunks == [(0, 1 << 20, nbd.READ_DATA)], chunks
entries = []
def extent(context, offset, e, error):
    entries.extend(e)
h.block_status(1 << 20, 0, extent)
assert entries == [8192, 0, (1 << 20) - 8192, 3], entries
h.zero(4096, 0, nbd.CMD_FLAG_FAST_ZERO)
h.zero(4096, 4096, nbd.CMD_FLAG_NO_HOLE)
entries.clear()
h.block_status(1 << 20, 0, extent)
assert entries[:4] == [4096, 3, 4096, 2], entries
h.trim(8192, 0)
h.cache(8192, 0)
h.flush()
assert h.pread(8192, 0) == bytes(8192)
h.set_strict_mode(0)
for wrong, errno in [(lambda: h.pread(1, 8 << 20), "EINVAL"), (lambda: h.pwrite(b"x", 8 << 20), "ENOSPC"),
                     (lambda: h.zero(2, (8 << 20) - 1), "ENOSPC"), (lambda: h.trim(2, (8 << 20) - 1), "EINVAL")]:
    try:
        wrong()
        assert False, errno
    except nbd.Error as e:
        assert e.errno == errno, (e.errno, errno)
bufs = [h.aio_pwrite(nbd.Buffer.from_bytearray(bytearray([i]) * 4096), i * 4096) for i in range(200)]
while h.aio_in_flight() > 0:
    h.poll(-1)
for c in bufs:
    assert h.aio_command_completed(c)
reads = []
for i in range(200):
    b = nbd.Buffer(4096)
    reads.append((h.aio_pread(b, i * 4096), b, i))
while h.aio_in_flight() > 0:
    h.poll(-1)
for c, b, i in reads:
    assert h.aio_command_completed(c) and b.to_bytearray() == bytearray([i]) * 4096
h.shutdown()
print("all good")
"#;
    let script = script.replace("URI", &format!("{:?}", fixture.uri()));
    let Some(output) = run("interop_nbdsh", "nbdsh", &["-c", &script]) else {
        return;
    };
    assert!(output.contains("all good"), "{output}");
    fixture.stop();
}

#[test]
fn interop_qemu_img_converts_compares_and_maps() {
    let fixture = Fixture::new(24 * MIB);
    let image = image(24 << 20);
    let (source, target) = (
        fixture.dir.path().join("in"),
        fixture.dir.path().join("out"),
    );
    std::fs::write(&source, &image).unwrap();
    let (source, target, uri) = (text(&source), text(&target), &*fixture.uri());
    let name = "interop_qemu_img";
    let Some(info) = run(name, "qemu-img", &["info", uri]) else {
        return;
    };
    assert!(info.contains("24 MiB (25165824 bytes)"), "{info}");
    // -n: the export exists; -W with -m 16: many requests in flight, out of order.
    for extra in [&["-n"][..], &["-n", "-W", "-m", "16"], &["-n", "-S", "0"]] {
        fixture.device.reset();
        let raw = ["-f", "raw", "-O", "raw", source, uri];
        run(name, "qemu-img", &[&["convert"], extra, &raw].concat()).unwrap();
        assert!(stored(&fixture) == image, "{extra:?}");
    }
    run(
        name,
        "qemu-img",
        &[
            "convert", "-W", "-m", "16", "-f", "raw", "-O", "raw", uri, target,
        ],
    )
    .unwrap();
    assert!(std::fs::read(target).unwrap() == image);
    let same = run(
        name,
        "qemu-img",
        &["compare", "-f", "raw", "-F", "raw", source, uri],
    )
    .unwrap();
    assert!(same.contains("identical"), "{same}");
    fixture.device.discard(0, 24 * MIB).unwrap();
    let map = run(
        name,
        "qemu-img",
        &["map", "--output=json", "-f", "raw", uri],
    )
    .unwrap();
    assert!(map.contains(r#""zero": true, "data": false"#), "{map}");
    fixture.stop();
}

#[test]
fn interop_qemu_io_writes_and_verifies_patterns() {
    let fixture = Fixture::new(64 * MIB);
    let uri = fixture.uri();
    let commands = [
        "write -P 0xa5 0 1M",
        "read -P 0xa5 0 1M",
        "write -P 0x11 -f 12345 54321",
        "read -P 0x11 12345 54321",
        "read -P 0xa5 0 12345",
        "write -z 4096 8192",
        "read -P 0 4096 8192",
        "write -z -u 65536 65536",
        "read -P 0 65536 65536",
        "discard 0 512k",
        "read -P 0xa5 512k 512k",
        "write -P 0x77 8M 32M",
        "read -P 0x77 8M 32M",
        "aio_write -P 1 1M 64k",
        "aio_write -P 2 2M 64k",
        "aio_write -P 3 3M 2M",
        "aio_flush",
        "aio_read -P 1 1M 64k",
        "aio_read -P 2 2M 64k",
        "aio_read -P 3 3M 2M",
        "aio_flush",
        "flush",
    ];
    let mut args = vec!["-f", "raw"];
    for command in commands {
        args.extend(["-c", command]);
    }
    args.push(&uri);
    let Some(output) = run("interop_qemu_io", "qemu-io", &args) else {
        return;
    };
    for bad in ["failed", "Pattern verification", "error"] {
        assert!(!output.contains(bad), "{output}");
    }
    let stored = stored(&fixture);
    assert!(stored[8 << 20..40 << 20].iter().all(|b| *b == 0x77));
    assert!(
        stored[..512 << 10].iter().all(|b| *b == 0),
        "the discard freed the pages"
    );
    fixture.stop();
}

#[test]
fn interop_fio_verifies_its_checksums() {
    let fixture = Fixture::new(16 * MIB);
    let uri = format!("--uri=nbd+unix:///zram0?socket={}", text(&fixture.path));
    let args = [
        "--name=verify",
        "--ioengine=nbd",
        &uri,
        "--rw=randwrite",
        "--bsrange=512-64k",
        "--bs_unaligned=0",
        "--size=4m",
        "--offset_increment=4m",
        "--numjobs=4",
        "--iodepth=32",
        "--verify=crc32c",
        "--verify_fatal=1",
        "--do_verify=1",
        "--buffer_compress_percentage=50",
        "--refill_buffers",
        "--group_reporting",
        "--randrepeat=1",
        "--verify_state_save=0",
    ];
    let Some(output) = run("interop_fio", "fio", &args) else {
        return;
    };
    assert!(output.contains("err= 0"), "{output}");
    assert!(
        output.contains("READ:") && output.contains("WRITE:"),
        "{output}"
    );
    fixture.stop();
}
