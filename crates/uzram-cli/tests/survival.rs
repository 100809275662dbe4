//! What outlives the death of a server, of a keeper, and a change of program; on the frontends that every machine has.
//! ublk's part is tested in a virtual machine (guest/tests).

mod common;

use std::path::Path;

use common::{Bench, Stopped, needs, sh};

/// Writes or checks a pattern of 16 MiB through the socket.
fn qemu_io(uri: &str, command: &str) {
    sh(&format!("qemu-io -f raw -c '{command}' '{uri}'"));
}

#[test]
fn nbd_clients_find_their_data_after_a_kill() {
    needs!(&["qemu-io"]);
    let bench = Bench::new();
    let uri = bench.create(&["--size", "64M", "--frontend", "nbd", "-a", "zstd"]);
    for round in 1..=5 {
        qemu_io(&uri, &format!("write -P {round} 0 16M"));
        bench.kill("zram0", "pid");
        assert_eq!(bench.stat("zram0")["path"], uri.as_str());
        qemu_io(&uri, &format!("read -P {round} 0 16M"));
    }
    assert_eq!(bench.count("zram0", "orig_data_size"), 16 << 20);
    bench.remove_last("zram0");
}

/// A name that is used again at once is a new device's: nothing of the old one comes back, whoever takes its end for a death.
#[test]
fn a_name_that_is_used_again_is_a_new_device() {
    needs!(&["qemu-io"]);
    let bench = Bench::new();
    for round in 1..=12 {
        let uri = bench.create(&["--size", "16M", "--frontend", "nbd", "--name", "zram3"]);
        qemu_io(&uri, "read -P 0 0 16M");
        qemu_io(&uri, &format!("write -P {round} 0 16M"));
        bench.uzram(&["remove", "zram3"]);
    }
    // Old keepers and servers had time to do something wrong.
    std::thread::sleep(std::time::Duration::from_millis(300));
    bench.assert_clean();
}

/// A client that writes one page after another while servers are killed: every page whose write was answered holds
/// what was written, and none holds anything else but nothing.
#[test]
fn interop_nbdsh_acknowledged_writes_outlive_kills() {
    needs!(&["nbdsh"]);
    let bench = Bench::new();
    let uri = bench.create(&["--size", "64M", "--frontend", "nbd"]);
    let script = bench.path("client.py");
    std::fs::write(&script, CLIENT).unwrap();
    let mut client = std::process::Command::new("nbdsh")
        .args(["-n", "-c", "import sys"])
        .arg("-c")
        .arg(format!("exec(open('{}').read())", script.display()))
        .env("NBD_URI", &uri)
        // It needs the system's own python3, and another may stand first in PATH.
        .env("PATH", "/usr/bin:/bin")
        .spawn()
        .unwrap();
    for _ in 0..8 {
        std::thread::sleep(std::time::Duration::from_millis(70));
        bench.kill("zram0", "pid");
    }
    std::fs::write(bench.path("stop"), "").unwrap();
    assert!(client.wait().unwrap().success());
    bench.remove_last("zram0");
}

/// Four writes in flight at a time; connects again when the server is gone.
const CLIENT: &str = r#"
import os, time, hashlib
uri, stop = os.environ["NBD_URI"], os.path.join(os.path.dirname(os.environ["NBD_URI"].split("socket=")[1]), "../../stop")
def page(n, turn):
    return hashlib.shake_128(b"%d %d" % (n, turn)).digest(2048) * 2
def connect():
    begin = time.time()
    while True:
        try:
            h = nbd.NBD()
            h.connect_uri(uri)
            return h
        except nbd.Error:
            assert time.time() - begin < 20, "no server"
            time.sleep(0.01)
h, acked, lost, turn, PAGES = connect(), {}, 0, 0, 1024
sent = {}
while not os.path.exists(stop):
    turn += 1
    for n in range(0, PAGES, 4):
        try:
            flight = []
            for m in range(n, n + 4):
                sent.setdefault(m, set()).add(turn)
                flight.append((m, h.aio_pwrite(nbd.Buffer.from_bytearray(bytearray(page(m, turn))), m * 4096)))
            for m, cookie in flight:
                while not h.aio_command_completed(cookie):
                    h.poll(-1)
                acked[m], sent[m] = turn, {turn}
        except nbd.Error:
            lost += 1
            h = connect()
        if os.path.exists(stop):
            break
h = connect()
assert lost >= 4, "the kills were not noticed: %d" % lost
for n in acked:
    got = bytes(h.pread(4096, n * 4096))
    assert any(got == page(n, t) for t in sent[n] | {acked[n]}), "page %d of turn %d" % (n, acked[n])
print("pages:", len(acked), "turns:", turn, "connections lost:", lost)
h.shutdown()
"#;

#[test]
fn a_keeper_is_replaced_and_the_new_one_keeps() {
    needs!(&["qemu-io"]);
    let bench = Bench::new();
    let uri = bench.create(&["--size", "64M", "--frontend", "nbd"]);
    qemu_io(&uri, "write -P 7 0 16M");
    for _ in 0..3 {
        bench.kill("zram0", "keeper");
        bench.kill("zram0", "pid");
    }
    qemu_io(&uri, "read -P 7 0 16M");
    bench.remove_last("zram0");
}

#[test]
fn recover_says_the_path_and_does_nothing_to_the_healthy() {
    let bench = Bench::new();
    let uri = bench.create(&["--size", "4M", "--frontend", "nbd"]);
    let pid = bench.count("zram0", "pid");
    assert_eq!(bench.uzram(&["recover", "zram0"]), format!("{uri}\n"));
    assert_eq!(bench.uzram(&["recover", "--all"]), format!("{uri}\n"));
    assert_eq!(bench.count("zram0", "pid"), pid);
    assert!(
        bench
            .fails(4, &["recover", "zram9"])
            .contains("no device 'zram9' (there are: zram0)")
    );
    bench.remove_last("zram0");
}

#[test]
fn a_job_whose_server_died_is_told_that_another_serves() {
    needs!(&["qemu-io"]);
    let bench = Bench::new();
    let file = bench.path("text");
    std::fs::write(&file, common::text(16 << 8)).unwrap();
    // So dense that it takes its time.
    let dense = "deflate(level=12)";
    let uri = bench.create(&[
        "--size",
        "256M",
        "--frontend",
        "nbd",
        "--recomp-algorithm",
        dense,
    ]);
    for at in 0..6 {
        let write = format!("write -s {} {}M 16M", file.display(), 16 * at);
        qemu_io(&uri, &write);
    }
    let recompress = ["recompress", "zram0"];
    let child = bench
        .command(&recompress)
        .stderr(std::process::Stdio::piped())
        .spawn()
        .unwrap();
    while bench.count("zram0", "recompressed_pages") == 0 {
        std::thread::sleep(std::time::Duration::from_millis(5));
    }
    bench.kill("zram0", "pid");
    let output = child.wait_with_output().unwrap();
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(1), "{stderr}");
    assert!(stderr.contains("was started anew"), "{stderr}");
    assert!(stderr.contains("same command again"), "{stderr}");
    assert!(!stderr.contains("uzram recover"), "{stderr}");
    // As it says.
    bench.uzram(&recompress);
    bench.remove_last("zram0");
}

/// The socket's place is taken by something that cannot be removed: five starts fail, the keeper gives up.
#[test]
fn what_was_given_up_is_recovered_or_removed() {
    needs!(&["qemu-io"]);
    let bench = Bench::new();
    let socket = bench.path("data.sock");
    let block = |socket: &Path| sh(&format!("rm {0} && mkdir -p {0}/x", socket.display()));
    let gave_up = || {
        let log = bench.run_dir().join("zram0/log");
        let begin = std::time::Instant::now();
        while !std::fs::read_to_string(&log).unwrap().contains("giving up") {
            assert!(begin.elapsed().as_secs() < 30);
            std::thread::sleep(std::time::Duration::from_millis(20));
        }
        std::fs::write(&log, "").unwrap();
    };
    let listen = format!("unix:{}", socket.display());
    let uri = bench.create(&["--size", "64M", "--frontend", "nbd", "--listen", &listen]);
    qemu_io(&uri, "write -P 7 0 16M");
    let pid = bench.count("zram0", "pid");
    block(&socket);
    sh(&format!("kill -9 {pid}"));
    gave_up();
    let stderr = bench.fails(1, &["recover", "zram0"]);
    assert!(
        stderr.contains("zram0") && stderr.contains("log"),
        "{stderr}"
    );
    sh(&format!("rm -r {}", socket.display()));
    assert_eq!(bench.uzram(&["recover", "zram0"]), format!("{uri}\n"));
    qemu_io(&uri, "read -P 7 0 16M");
    let pid = bench.count("zram0", "pid");
    block(&socket);
    sh(&format!("kill -9 {pid}"));
    gave_up();
    // Nobody is waited for who does not come.
    let begin = std::time::Instant::now();
    let stderr = bench.fails(1, &["reset", "zram0"]);
    assert!(stderr.contains("uzram recover zram0"), "{stderr}");
    bench.remove_last("zram0");
    let took = begin.elapsed();
    assert!(took.as_secs() < 3, "{took:?}");
}

#[test]
fn an_upgrade_keeps_data_and_refuses_what_will_not_do() {
    needs!(&["qemu-io"]);
    let bench = Bench::new();
    let uri = bench.create(&["--size", "64M", "--frontend", "nbd"]);
    qemu_io(&uri, "write -P 7 0 16M");
    let pid = bench.count("zram0", "pid");
    for (program, says) in [
        ("/bin/true", "no uzram"),
        ("/bin/false", "no uzram"),
        ("/etc/passwd", "cannot execute"),
        ("/no/such", "cannot execute"),
    ] {
        let stderr = bench.fails(2, &["upgrade", "zram0", "--program", program]);
        assert!(
            stderr.contains(program) && stderr.contains(says),
            "{stderr}"
        );
    }
    assert_eq!(bench.count("zram0", "pid"), pid);
    let new = bench.path("uzram new");
    std::fs::copy(env!("CARGO_BIN_EXE_uzram"), &new).unwrap();
    let said = bench.uzram(&["upgrade", "--all", "--program", new.to_str().unwrap()]);
    assert!(said.starts_with("zram0: ") && said.contains(&uri), "{said}");
    for which in ["pid", "keeper"] {
        let exe = sh(&format!(
            "readlink /proc/{}/exe",
            bench.count("zram0", which)
        ));
        assert_eq!(exe.trim(), new.to_str().unwrap());
    }
    std::fs::remove_file(&new).unwrap();
    // The program is gone and still able to start itself.
    bench.kill("zram0", "pid");
    bench.kill("zram0", "keeper");
    qemu_io(&uri, "read -P 7 0 16M");
    bench.uzram(&["upgrade", "zram0"]);
    qemu_io(&uri, "read -P 7 0 16M");
    bench.remove_last("zram0");
}

#[test]
fn a_program_that_ends_at_once_does_not_get_the_device() {
    let bench = Bench::new();
    bench.create(&["--size", "4M", "--frontend", "nbd"]);
    let pid = bench.count("zram0", "pid");
    let new = bench.path("half");
    let uzram = env!("CARGO_BIN_EXE_uzram");
    let script = format!("#!/bin/sh\n[ $1 = keep ] && exit 1\nexec {uzram} \"$@\"\n");
    std::fs::write(&new, script).unwrap();
    sh(&format!("chmod +x {}", new.display()));
    let stderr = bench.fails(1, &["upgrade", "zram0", "--program", new.to_str().unwrap()]);
    assert!(
        stderr.contains("the new program ended at once; the old program serves on"),
        "{stderr}"
    );
    assert_eq!(bench.count("zram0", "pid"), pid);
    bench.uzram(&["upgrade", "zram0"]);
    bench.remove_last("zram0");
}

/// A loop device cannot change its file: whoever has the old node gets I/O errors, the data are behind a new one.
#[test]
fn a_loop_device_has_its_data_after_a_kill() {
    needs!(&["mkfs.ext4", "mount"], fuse_loop);
    let bench = Bench::new();
    let node = bench.create(&["--size", "64M", "--frontend", "fuse-loop"]);
    sh(&format!(
        "yes data | dd of={node} bs=64k count=16 iflag=fullblock oflag=direct status=none"
    ));
    bench.kill("zram0", "pid");
    let new = bench.stat("zram0")["path"].as_str().unwrap().to_owned();
    assert_eq!(
        sh(&format!(
            "dd if={new} bs=64k count=16 iflag=direct status=none | sha256sum"
        )),
        sh("yes data | dd bs=64k count=16 iflag=fullblock status=none | sha256sum")
    );
    bench.remove_last("zram0");
}

/// A namespace that was made while the device was there has a copy of its FUSE mount, which outlives the unmounting.
#[test]
fn a_mount_namespace_elsewhere_does_not_keep_a_device() {
    needs!(&["unshare", "losetup"], fuse_loop);
    let bench = Bench::new();
    bench.create(&["--size", "16M", "--frontend", "fuse-loop"]);
    let mut elsewhere = std::process::Command::new("unshare")
        .args([
            "--mount",
            "--propagation",
            "private",
            "sh",
            "-c",
            "echo there; read line",
        ])
        .stdin(std::process::Stdio::piped())
        .stdout(std::process::Stdio::piped())
        .spawn()
        .unwrap();
    let mut there = [0; 6];
    std::io::Read::read_exact(elsewhere.stdout.as_mut().unwrap(), &mut there).unwrap();
    bench.remove_last("zram0");
    drop(elsewhere.stdin.take());
    elsewhere.wait().unwrap();
}

/// Who looks for the users of a device meets files of a shim's /dev, whose server may not answer.
#[test]
fn a_shim_that_stands_still_holds_nobody_up() {
    needs!(&["losetup"], fuse_loop);
    let bench = Bench::new();
    let mut shim = bench
        .command(&[
            "shim",
            "--",
            "sh",
            "-c",
            "exec 3</dev/zero; echo there; read line || :",
        ])
        .stdin(std::process::Stdio::piped())
        .stdout(std::process::Stdio::piped())
        .spawn()
        .unwrap();
    let mut there = [0; 6];
    std::io::Read::read_exact(shim.stdout.as_mut().unwrap(), &mut there).unwrap();
    let stopped = Stopped::new(shim.id().into());
    let other = Bench::new();
    other.create(&["--size", "16M", "--frontend", "fuse-loop"]);
    other.remove_last("zram0");
    drop(stopped);
    drop(shim.stdin.take());
    assert!(shim.wait().unwrap().success());
}

/// A device `zram0` on a socket below `socket`, with 16 MiB of which one page is on a backing, and the backing's path.
fn with_one_page_away(bench: &Bench, listen: Option<&str>) -> (String, std::path::PathBuf) {
    let back = bench.path("back");
    let backing = format!("{},64M", back.display());
    let mut args = vec!["--size=64M", "--frontend=nbd", "--policy=none", "--backing"];
    args.push(&backing);
    args.extend(listen.iter().flat_map(|listen| ["--listen", listen]));
    let uri = bench.create(&args);
    let file = bench.path("text");
    std::fs::write(&file, common::text(16 << 8)).unwrap();
    qemu_io(&uri, &format!("write -s {} 0 16M", file.display()));
    bench.uzram(&["idle", "zram0"]);
    bench.uzram(&["writeback", "zram0", "--max-pages", "1"]);
    (uri, back)
}

/// What the next server could not open keeps this one from going: a refusal has changed nothing.
#[test]
fn an_upgrade_that_could_not_serve_changes_nothing() {
    needs!(&["qemu-io"]);
    let bench = Bench::new();
    let (dir, aside) = (bench.path("sd"), bench.path("sd2"));
    std::fs::create_dir(&dir).unwrap();
    let listen = format!("unix:{}", dir.join("s").display());
    let (uri, back) = with_one_page_away(&bench, Some(&listen));
    let back2 = bench.path("back2");
    let pid = bench.count("zram0", "pid");
    let refused = |what: &str| {
        let stderr = bench.fails(1, &["upgrade", "zram0"]);
        assert!(
            stderr.contains(what) && stderr.contains("; the old program serves on"),
            "{stderr}"
        );
        assert_eq!(bench.count("zram0", "pid"), pid);
    };
    std::fs::rename(&back, &back2).unwrap();
    refused("it is gone, and another server could not open it");
    qemu_io(&uri, "read 0 16M");
    std::fs::copy(&back2, &back).unwrap();
    refused("another file is in its place");
    std::fs::rename(&back2, &back).unwrap();
    let cut = std::fs::File::options().write(true).open(&back).unwrap();
    cut.set_len(10 << 20).unwrap();
    refused("the disk has");
    cut.set_len(64 << 20).unwrap();
    std::fs::rename(&dir, &aside).unwrap();
    refused("there is no directory");
    std::fs::rename(&aside, &dir).unwrap();
    bench.uzram(&["upgrade", "zram0"]);
    assert_ne!(bench.count("zram0", "pid"), pid);
    qemu_io(&uri, "read 0 16M");
    bench.remove_last("zram0");
}

/// Pages in memory outlive the death of a server whose backing is gone.
#[test]
fn a_server_starts_without_its_backing() {
    needs!(&["qemu-io"]);
    let bench = Bench::new();
    let (uri, back) = with_one_page_away(&bench, None);
    let back2 = bench.path("back2");
    std::fs::rename(&back, &back2).unwrap();
    bench.kill("zram0", "pid");
    let stat = bench.stat("zram0");
    let io = stat["backing"]["io"].as_str().unwrap();
    assert!(io.contains("it is gone"), "{io}");
    // One page of 4096 is not there.
    let failed = |at: u64| {
        let read = format!("qemu-io -f raw -c 'read {at}k 4k' '{uri}' 2>&1 || :");
        sh(&read).contains("Input/output error")
    };
    let lost = (0..16 << 10).step_by(4).take(64).filter(|at| failed(*at));
    assert_eq!(lost.count(), 1);
    qemu_io(&uri, "read 1M 15M");
    let stderr = bench.fails(1, &["writeback", "zram0"]);
    assert!(
        stderr.contains("it is gone") && stderr.contains("uzram upgrade"),
        "{stderr}"
    );
    let stderr = bench.fails(1, &["set", "zram0", "backing=none"]);
    assert!(stderr.contains("1 cannot come back"), "{stderr}");
    let log = std::fs::read_to_string(bench.run_dir().join("zram0/log")).unwrap();
    assert!(log.contains("serving without"), "{log}");
    // It is back.
    std::fs::rename(&back2, &back).unwrap();
    bench.uzram(&["upgrade", "zram0"]);
    qemu_io(&uri, "read 0 16M");
    bench.uzram(&["set", "zram0", "backing=none"]);
    qemu_io(&uri, "read 0 16M");
    bench.remove_last("zram0");
}
