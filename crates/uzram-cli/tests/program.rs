//! The program as its user meets it: what it prints, how it fails, what it leaves.

mod common;

use std::process::{Command, Stdio};

use common::{Bench, have, needs, sh};

#[test]
fn bad_input_is_refused_with_the_reason() {
    let bench = Bench::new();
    for (args, says) in [
        (
            &["create", "--size", "0"][..],
            "size 0 bytes is not possible: 1 to",
        ),
        (
            &["create", "--size", "-1"],
            "'-1' is not a size: it is negative",
        ),
        (&["create", "--size", "-4G"], "it is negative"),
        (
            &["create", "--size", "lots"],
            "it does not begin with a number",
        ),
        (&["create", "--size", "12x"], "the unit is unknown"),
        (
            &["create", "--size", "17T"],
            "1 to 17592186044416 bytes (16 TiB)",
        ),
        (
            &["create", "--size", "99999999999999999999"],
            "it is too large",
        ),
        (&["create", "--size", ""], "it is empty"),
        (
            &["create", "--algorithm", "lzma"],
            "unknown algorithm 'lzma' (known: lzo-rle, lzo, lz4,",
        ),
        (
            &["create", "-a", "lz4", "--algorithm-params", "level=99,x=1"],
            "no parameter 'x' (it takes: level, dict)",
        ),
        (
            &["create", "-a", "zstd", "-p", "level=23"],
            "from -131072 to 22",
        ),
        (&["create", "-p", "level"], "key=value"),
        (
            &["create", "--mem-limit", "1"],
            "0 for none, or at least 12288",
        ),
        (&["create", "--mem-limit", "-1"], "it is negative"),
        (
            &["create", "--frontend", "ublk9"],
            "there are: auto, ublk, nbd-kernel, fuse-loop, nbd",
        ),
        (&["create", "--block-size", "1000"], "512 or 4096"),
        (
            &["create", "--name", "disk.img"],
            "'disk.img' is not a device name: it has letters",
        ),
        (
            &[
                "create",
                "--frontend",
                "fuse-loop",
                "--listen",
                "unix:/tmp/x",
            ],
            "--listen is for --frontend nbd",
        ),
        (
            &["create", "--frontend", "fuse-loop", "--queues", "2"],
            "--queues is for --frontend ublk, not fuse-loop",
        ),
        (
            &["create", "--frontend", "nbd", "--poll", "1001"],
            "a whole number from 0 to 1000",
        ),
        (&["create", "--listen", "somewhere"], "somewhere"),
        (&["--log", "a=b=c", "create"], "--log 'a=b=c'"),
        (
            &["list", "--output", "NAME,NOSE"],
            "no column 'NOSE' (there are: NAME",
        ),
        (&["frobnicate"], "unrecognized subcommand"),
        (&["remove"], "required"),
    ] {
        let stderr = bench.fails(2, args);
        assert!(stderr.contains(says), "{args:?}: {stderr}");
        assert!(!stderr.contains("panicked"), "{stderr}");
    }
    for command in ["stat", "reset", "remove"] {
        let stderr = bench.fails(4, &[command, "zram9"]);
        assert!(
            stderr.contains("no device 'zram9' (there is none)"),
            "{stderr}"
        );
    }
    // An address that other machines reach takes a word of its own.
    let stderr = bench.fails(2, &["create", "--size", "1M", "--listen", "tcp:0.0.0.0:0"]);
    assert!(stderr.contains("reachable from other machines"), "{stderr}");
    assert!(stderr.contains("--allow-remote"), "{stderr}");
    let long = format!("unix:/tmp/{}", "x".repeat(200));
    assert_ne!(
        bench
            .output(&["create", "--size", "1M", "--listen", &long])
            .status
            .code(),
        Some(0)
    );
    bench.assert_clean();
}

#[test]
fn help_and_algorithms_agree_with_the_registry() {
    let bench = Bench::new();
    let text = bench.uzram(&["algorithms"]);
    for algorithm in uzram::compress::Registry::builtin().iter() {
        assert!(text.contains(algorithm.driver_name()) && text.contains(algorithm.name()));
        for param in algorithm.params() {
            assert!(text.contains(&param.kind.to_string()), "{text}");
        }
    }
    assert!(
        bench
            .uzram(&["algorithms", "--proc-crypto"])
            .contains("driver       : lz4-liblz4")
    );
    for command in [
        "create",
        "list",
        "stat",
        "compact",
        "policy",
        "reset",
        "remove",
        "algorithms",
    ] {
        assert!(
            bench.uzram(&[command, "--help"]).contains("Example"),
            "{command}"
        );
    }
    assert!(bench.uzram(&["--help"]).contains("Exit codes"));
}

#[test]
fn an_nbd_device_lives_from_create_to_remove() {
    let bench = Bench::new();
    let uri = bench.create(&[
        "--size",
        "64M",
        "--algorithm",
        "zstd",
        "-p",
        "level=1",
        "--frontend",
        "nbd",
    ]);
    assert!(uri.starts_with("nbd+unix:///zram0?socket="), "{uri}");
    for name in ["zram0", &uri] {
        let stat = bench.stat(name);
        assert_eq!(stat["disksize"], 64 << 20);
        assert_eq!(stat["algorithm"], "zstd");
        assert_eq!(stat["path"], uri.as_str());
    }
    if have(
        "an_nbd_device_lives_from_create_to_remove",
        &["qemu-io"],
        false,
    ) {
        sh(&format!(
            "qemu-io -f raw -c 'write -P 7 0 1M' -c 'write -P 0 1M 1M' '{uri}'"
        ));
        assert_eq!(bench.count("zram0", "orig_data_size"), 2 << 20);
        assert_eq!(bench.count("zram0", "same_pages"), 512);
        bench.uzram(&["reset", "zram0"]);
        assert_eq!(bench.count("zram0", "orig_data_size"), 0);
    }
    let table = bench.uzram(&[
        "list",
        "--bytes",
        "--raw",
        "--noheadings",
        "-o",
        "name,disksize,algorithm,mem-limit",
    ]);
    assert_eq!(table, "zram0 67108864 zstd 0\n");
    let list: serde_json::Value = serde_json::from_str(&bench.uzram(&["list", "--json"])).unwrap();
    assert_eq!(list[0]["name"], "zram0");
    assert_eq!(list.as_array().unwrap().len(), 1);
    assert!(
        bench
            .fails(3, &["create", "--size", "1M", "--name", "zram0"])
            .contains("already")
    );
    bench.uzram(&["remove", &uri]);
    bench.assert_clean();
}

#[test]
fn a_connected_nbd_client_keeps_the_device() {
    needs!(&["qemu-io"]);
    let bench = Bench::new();
    let uri = bench.create(&["--size", "1M", "--frontend", "nbd"]);
    let mut client = Command::new("qemu-io");
    client
        .args(["-f", "raw", &uri])
        .stdin(Stdio::piped())
        .stdout(Stdio::null());
    let mut client = client.spawn().unwrap();
    let busy = || bench.output(&["reset", "zram0"]).status.code() == Some(3);
    while !busy() {
        std::thread::yield_now();
    }
    assert!(
        bench
            .fails(3, &["remove", "zram0"])
            .contains("1 NBD client is connected")
    );
    drop(client.stdin.take());
    client.wait().unwrap();
    while busy() {
        std::thread::yield_now();
    }
    bench.remove_last("zram0");
}

#[test]
fn a_mounted_loop_device_is_not_removed() {
    needs!(&["mkfs.ext4", "mount"], fuse_loop);
    let bench = Bench::new();
    let node = bench.create(&["--size", "64M", "--frontend", "fuse-loop"]);
    assert!(node.starts_with("/dev/loop"), "{node}");
    let at = bench.path("a mount point");
    std::fs::create_dir(&at).unwrap();
    sh(&format!(
        "mkfs.ext4 -q {node} && mount {node} '{}'",
        at.display()
    ));
    for name in ["zram0", &node] {
        for command in ["remove", "reset"] {
            let stderr = bench.fails(3, &[command, name]);
            assert!(
                stderr.contains(at.to_str().unwrap()) && stderr.contains("umount"),
                "{stderr}"
            );
        }
    }
    assert!(bench.uzram(&["list"]).contains(at.to_str().unwrap()));
    sh(&format!(
        "echo still here > '{0}/x' && umount '{0}'",
        at.display()
    ));
    bench.uzram(&["remove", &node]);
    bench.assert_clean();
}

#[test]
fn after_a_kill_the_next_command_clears_up() {
    needs!(&["losetup"], fuse_loop);
    let bench = Bench::new();
    for frontend in ["fuse-loop", "nbd"] {
        bench.create(&["--size", "16M", "--frontend", frontend]);
        bench.kill_all("zram0");
        let output = bench.output(&["list", "--noheadings"]);
        let stderr = String::from_utf8(output.stderr).unwrap();
        assert!(
            stderr.contains("server and keeper of zram0 had died; cleared"),
            "{stderr}"
        );
        bench.assert_clean();
    }
    // With a file system still mounted on it, it is said, and done when the mount is gone.
    let node = bench.create(&["--size", "16M", "--frontend", "fuse-loop"]);
    let at = bench.path("mnt");
    std::fs::create_dir(&at).unwrap();
    sh(&format!(
        "mkfs.ext4 -q {node} && mount {node} {}",
        at.display()
    ));
    bench.kill_all("zram0");
    let output = bench.output(&["list", "--noheadings"]);
    let stderr = String::from_utf8(output.stderr).unwrap();
    assert!(
        stderr.contains("contents are lost") && stderr.contains(at.to_str().unwrap()),
        "{stderr}"
    );
    sh(&format!("umount {}", at.display()));
    bench.output(&["list"]);
    bench.assert_clean();
}

#[test]
fn devices_are_created_side_by_side() {
    let bench = Bench::new();
    let frontend = if have("devices_are_created_side_by_side", &[], true) {
        "fuse-loop"
    } else {
        "nbd"
    };
    let paths: Vec<String> = std::thread::scope(|scope| {
        let threads: Vec<_> = (0..6)
            .map(|_| scope.spawn(|| bench.create(&["--size", "8M", "--frontend", frontend])))
            .collect();
        threads.into_iter().map(|t| t.join().unwrap()).collect()
    });
    let distinct: std::collections::BTreeSet<_> = paths.iter().collect();
    assert_eq!(distinct.len(), 6, "{paths:?}");
    assert_eq!(
        bench
            .uzram(&["list", "--noheadings", "--raw", "-o", "name"])
            .lines()
            .count(),
        6
    );
    bench.uzram(&["remove", "--all"]);
    bench.assert_clean();
}

#[test]
fn a_foreground_server_ends_at_a_signal() {
    let bench = Bench::new();
    let mut server = bench.command(&[
        "create",
        "--size",
        "4M",
        "--frontend",
        "nbd",
        "--foreground",
    ]);
    let mut server = server
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut uri = String::new();
    std::io::BufRead::read_line(
        &mut std::io::BufReader::new(server.stdout.take().unwrap()),
        &mut uri,
    )
    .unwrap();
    assert!(uri.starts_with("nbd+unix:"), "{uri}");
    sh(&format!("kill -INT {}", server.id()));
    assert!(server.wait().unwrap().success());
    bench.assert_clean();
}

/// A mount that this mount namespace does not show still counts: the kernel is asked, not only the mount table.
#[test]
fn a_mount_in_another_namespace_keeps_the_device() {
    needs!(&["unshare", "mkfs.ext4"], fuse_loop);
    let bench = Bench::new();
    let node = bench.create(&["--size", "32M", "--frontend", "fuse-loop"]);
    let at = bench.path("hidden");
    std::fs::create_dir(&at).unwrap();
    let inside = format!(
        "mkfs.ext4 -q {node} && mount {node} {0} && echo data > {0}/x && sync && echo ready && read go && cat {0}/x",
        at.display()
    );
    let mut hidden = Command::new("unshare")
        .args(["-m", "--propagation", "private", "sh", "-ec", &inside])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut out = std::io::BufReader::new(hidden.stdout.take().unwrap());
    let mut line = String::new();
    std::io::BufRead::read_line(&mut out, &mut line).unwrap();
    assert_eq!(line, "ready\n");
    for command in ["reset", "remove"] {
        let stderr = bench.fails(3, &[command, "zram0"]);
        assert!(
            stderr.contains("in the mount namespace of process"),
            "{stderr}"
        );
    }
    std::io::Write::write_all(&mut hidden.stdin.take().unwrap(), b"go\n").unwrap();
    std::io::BufRead::read_line(&mut out, &mut line).unwrap();
    assert_eq!(line, "ready\ndata\n", "what was stored is still there");
    assert!(hidden.wait().unwrap().success());
    bench.remove_last("zram0");
}

/// A node that somebody detached belongs to whoever gets it next.
#[test]
fn a_node_that_became_anothers_is_left_alone() {
    needs!(&["losetup"], fuse_loop);
    let bench = Bench::new();
    // One that no other test takes in the moment when it is free.
    let node = bench.create(&[
        "--size",
        "8M",
        "--frontend",
        "fuse-loop",
        "--number",
        "4077",
    ]);
    let victim = bench.path("victim");
    std::fs::write(&victim, vec![0; 1 << 20]).unwrap();
    sh(&format!(
        "losetup -d {node} && losetup {node} {}",
        victim.display()
    ));
    let output = bench.output(&["remove", "zram0"]);
    let still = sh(&format!("losetup -n -O BACK-FILE {node}"));
    sh(&format!("losetup -d {node}"));
    assert!(output.status.success(), "{output:?}");
    assert_eq!(still.trim(), victim.to_str().unwrap());
    bench.assert_clean();
}

/// The server keeps neither the directory nor the descriptors that it was started with, and odd run directories
/// are cleared like any other.
#[test]
fn the_server_stands_on_its_own() {
    needs!(&["flock"], fuse_loop);
    let bench = Bench::new();
    let real = bench.path("a real place");
    std::fs::create_dir(&real).unwrap();
    std::os::unix::fs::symlink(&real, bench.run_dir()).unwrap();
    let mut permissions = std::fs::metadata(&real).unwrap().permissions();
    std::os::unix::fs::PermissionsExt::set_mode(&mut permissions, 0o700);
    std::fs::set_permissions(&real, permissions).unwrap();
    let (program, run) = (env!("CARGO_BIN_EXE_uzram"), bench.run_dir());
    let cwd = bench.path("cwd");
    std::fs::create_dir(&cwd).unwrap();
    sh(&format!(
        "cd {} && export UZRAM_RUN_DIR={} && exec 9>lock && flock 9 && {program} create --size 8M 2>/dev/null",
        cwd.display(),
        run.display()
    ));
    sh(&format!("flock -n {}/lock true", cwd.display()));
    let pid = bench.count("zram0", "pid");
    let keeper = bench.count("zram0", "keeper");
    for pid in [pid, keeper] {
        assert_eq!(sh(&format!("readlink /proc/{pid}/cwd")), "/\n");
        assert_eq!(sh(&format!("cat /proc/{pid}/comm")), "uzram\n");
    }
    bench.kill_all("zram0");
    let stderr = String::from_utf8(bench.output(&["list"]).stderr).unwrap();
    assert!(stderr.contains("cleared loop device"), "{stderr}");
    bench.assert_clean();
    let own = real.to_str().unwrap();
    assert!(!sh("losetup -a").contains(own));
}

#[test]
fn a_device_whose_path_cannot_be_printed_is_not_kept() {
    let bench = Bench::new();
    let full = std::fs::OpenOptions::new()
        .write(true)
        .open("/dev/full")
        .unwrap();
    let mut create = bench.command(&["create", "--size", "4M", "--frontend", "nbd"]);
    assert!(!create.stdout(full).status().unwrap().success());
    bench.assert_clean();
}

#[test]
fn stat_shows_how_long_an_nbd_server_looks() {
    let bench = Bench::new();
    let create = ["--size", "4M", "--frontend", "nbd"];
    bench.create(&create);
    bench.create(&[&create[..], &["--poll", "0"]].concat());
    bench.create(&[&create[..], &["--poll", "250"]].concat());
    for (name, microseconds, says) in [
        ("zram0", 100, "poll         looks up to 100 microseconds"),
        ("zram1", 0, "poll         off"),
        ("zram2", 250, "poll         looks up to 250 microseconds"),
    ] {
        let text = bench.uzram(&["stat", name]);
        assert!(text.contains(says), "{text}");
        assert_eq!(bench.stat(name)["poll_microseconds"], microseconds);
    }
    // A server that is started anew has it, too, and says what was asked for.
    bench.kill("zram2", "pid");
    assert_eq!(bench.stat("zram2")["poll_microseconds"], 250);
    let allow = [
        "--read-only",
        "--listen=tcp:127.0.0.1:0",
        "--allow=127.0.0.1/32",
    ];
    bench.create(&[&create[..], &allow].concat());
    let text = bench.uzram(&["stat", "zram3"]);
    for option in ["allow=127.0.0.1/32", "listen=tcp:127.0.0.1:0", "read-only"] {
        assert!(text.contains(option), "{text}");
    }
    assert_eq!(bench.stat("zram3")["frontend_options"]["read-only"], true);
    assert!(!bench.uzram(&["stat", "zram0"]).contains("\noptions"));
    bench.uzram(&["remove", "--all"]);
    if have("stat of a loop device", &[], true) {
        bench.create(&["--size", "4M", "--frontend", "fuse-loop"]);
        assert!(!bench.uzram(&["stat", "zram0"]).contains("\npoll "));
        assert!(bench.stat("zram0")["poll_microseconds"].is_null());
        bench.uzram(&["remove", "zram0"]);
    }
    bench.assert_clean();
}
