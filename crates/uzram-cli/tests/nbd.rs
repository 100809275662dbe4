//! The limits of the frontend `nbd` by the program: its options, what they refuse, and that they outlive an upgrade.

mod common;

use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::process::Command;
use std::time::Duration;

use common::Bench;
use uzram_testkit::peers;

/// A client in the transmission phase; `None` if it is refused.
fn connect(path: &PathBuf) -> Option<UnixStream> {
    let mut stream = UnixStream::connect(path).unwrap();
    stream
        .set_read_timeout(Some(Duration::from_secs(60)))
        .unwrap();
    let mut greeting = [0; 18];
    stream.read_exact(&mut greeting).ok()?;
    // Flags: fixed newstyle, no zeroes. EXPORT_NAME with the empty name; a refusal closes the connection.
    let mut hello = vec![0, 0, 0, 3];
    hello.extend(b"IHAVEOPT\0\0\0\x01\0\0\0\0");
    stream.write_all(&hello).ok()?;
    let mut export = [0; 10];
    stream.read_exact(&mut export).ok()?;
    Some(stream)
}

fn request(kind: u8, cookie: u8, offset: u64, len: u32) -> Vec<u8> {
    let mut message = 0x2560_9513_u32.to_be_bytes().to_vec();
    message.extend([0, 0, 0, kind, 0, 0, 0, 0, 0, 0, 0, cookie]);
    message.extend(offset.to_be_bytes());
    message.extend(len.to_be_bytes());
    message
}

fn write(stream: &mut UnixStream, offset: u64, data: &[u8]) {
    let mut message = request(1, 1, offset, data.len() as u32);
    message.extend(data);
    stream.write_all(&message).unwrap();
    let mut reply = [0; 16];
    stream.read_exact(&mut reply).unwrap();
    assert_eq!(reply[4..8], [0; 4], "no error");
}

fn read(stream: &mut UnixStream, offset: u64, len: u32) -> Vec<u8> {
    stream.write_all(&request(0, 1, offset, len)).unwrap();
    let mut reply = vec![0; 16 + len as usize];
    stream.read_exact(&mut reply).unwrap();
    reply.split_off(16)
}

/// A client that asks for much and reads nothing.
fn stalled(path: &PathBuf) -> UnixStream {
    let mut stream = connect(path).unwrap();
    for cookie in 0..64 {
        stream.write_all(&request(0, cookie, 0, 1 << 20)).unwrap();
    }
    stream
}

#[test]
fn a_stalled_reader_keeps_the_device_and_holds_up_no_upgrade() {
    let bench = Bench::new();
    let options = [
        "--size",
        "16M",
        "--frontend",
        "nbd",
        "--max-connections",
        "2",
    ];
    bench.create(&options);
    let socket = bench.run_dir().join("zram0/nbd.sock");
    let mut client = connect(&socket).unwrap();
    write(&mut client, 4096, &[7; 4096]);
    let stuck = stalled(&socket);
    let said = bench.fails(3, &["remove", "zram0"]);
    assert!(said.contains("2 NBD clients are connected: pid "), "{said}");
    bench.fails(3, &["reset", "zram0"]);
    bench.uzram(&["stat", "zram0"]);
    assert!(connect(&socket).is_none(), "two are the limit");
    bench.uzram(&["upgrade", "zram0"]);
    drop((stuck, client));
    // The new server has the options of the old one, and counts its own clients.
    let (mut first, _second) = (connect(&socket).unwrap(), connect(&socket).unwrap());
    assert!(connect(&socket).is_none(), "two are the limit");
    assert_eq!(read(&mut first, 4096, 4096), [7; 4096]);
    drop((first, _second));
    let removed = || bench.output(&["remove", "zram0"]).status.success();
    while !removed() {
        std::thread::sleep(Duration::from_millis(10));
    }
    bench.assert_clean();
}

#[test]
fn users_are_named_once_and_refused_where_they_cannot_be_checked() {
    let bench = Bench::new();
    let refused = |options: &[&str], words: &str| {
        let all = [&["create", "--size", "1M", "--frontend", "nbd"], options].concat();
        let said = bench.fails(2, &all);
        assert!(said.contains(words), "{options:?}: {said}");
    };
    let tcp = ["--allow-uid", "65533", "--listen", "tcp:127.0.0.1:0"];
    refused(&tcp, "TCP does not tell which user a client is");
    refused(&["--allow-uid", "no such user"], "is none");
    refused(&["--max-connections", "0"], "from 1 to 4096");
    // The run directory is closed to others, and the socket is in it.
    refused(&["--allow-uid", "65533"], "uid 65533 cannot reach");
    bench.assert_clean();
    // A name and its number are one user, and root may always connect.
    let options = ["--size", "1M", "--frontend", "nbd", "--allow-uid", "root,0"];
    bench.create(&[&options[..], &["--allow-uid", "0"]].concat());
    let spec = std::fs::read_to_string(bench.run_dir().join("zram0/spec.json")).unwrap();
    let spec: serde_json::Value = serde_json::from_str(&spec).unwrap();
    assert_eq!(spec["frontend"]["options"]["allow-uid"], "0");
    bench.remove_last("zram0");
}

#[test]
fn an_allowed_user_is_served_and_others_are_not() {
    let name = "an_allowed_user_is_served_and_others_are_not";
    let root = match rustix::process::geteuid().is_root() {
        true => Ok(()),
        false => Err("only root can be another user"),
    };
    if !peers::have(name, &["setpriv", "nbdinfo"]) || !peers::possible(name, root) {
        return;
    }
    let bench = Bench::new();
    let mode = std::os::unix::fs::PermissionsExt::from_mode(0o755);
    std::fs::set_permissions(bench.path(""), mode).unwrap();
    let listen = format!("unix:{}", bench.path("disk.sock").display());
    let options = ["--size", "1M", "--listen", &listen, "--allow-uid", "65533"];
    let uri = bench.create(&options);
    for (uid, served) in [("65533", true), ("65532", false), ("0", true)] {
        let mut client = Command::new("setpriv");
        client
            .args(["--reuid", uid, "--regid", uid, "--clear-groups"])
            .args(["nbdinfo", "--size", &uri])
            .current_dir("/");
        let output = client.output().unwrap();
        assert_eq!(output.status.success(), served, "{uid}: {output:?}");
    }
    let removed = || bench.output(&["remove", "zram0"]).status.success();
    while !removed() {
        std::thread::sleep(Duration::from_millis(10));
    }
    bench.assert_clean();
}

#[test]
fn the_numbers_stand_in_the_help() {
    let bench = Bench::new();
    let help = bench.uzram(&["create", "--help"]);
    let help = help.split_whitespace().collect::<Vec<_>>().join(" ");
    for words in [
        "1 to 4096",
        "[default: 64]",
        "10 seconds to negotiate",
        "up to 604800 seconds",
        "1 to 86400 seconds",
        "[default: 60]",
        "libvirt-qemu",
        "mode 0600",
        "every user of this machine",
    ] {
        assert!(help.contains(words), "{words}");
    }
}

/// What the server tells clients of the disk, and to whom: the same from a server that takes over.
#[test]
fn a_disk_is_offered_as_it_was_said() {
    if !peers::have("a_disk_is_offered", &["nbdinfo", "qemu-io"]) {
        return;
    }
    let bench = Bench::new();
    let nbd = |program: &str, args: &[&str]| {
        let output = Command::new(program).args(args).output().unwrap();
        let text = [output.stdout, output.stderr].concat();
        (
            output.status.success(),
            String::from_utf8_lossy(&text).into_owned(),
        )
    };
    let uri = bench.create(&[
        "--size",
        "16M",
        "--listen",
        "tcp:127.0.0.1:0",
        "--allow",
        "192.0.2.0/24,127.0.0.1",
        "--export",
        "build cache",
        "--description",
        "for the builders",
        "--read-only",
    ]);
    assert!(uri.ends_with("/build%20cache"), "{uri}");
    for _ in 0..2 {
        assert_eq!(
            nbd("nbdinfo", &["--size", &uri]),
            (true, "16777216\n".into())
        );
        let list = nbd("nbdinfo", &["--list", &uri.replace("build%20cache", "")]).1;
        assert!(
            list.contains("build cache") && list.contains("for the builders"),
            "{list}"
        );
        assert!(list.contains("is_read_only: true"), "{list}");
        assert!(!nbd("qemu-io", &["-f", "raw", "-c", "write 0 4k", &uri]).0);
        bench.kill("zram0", "pid");
    }
    bench.remove_last("zram0");

    // This host is in none of them.
    let listen = ["--size", "16M", "--listen", "tcp:127.0.0.1:0"];
    let uri = bench.create(&[&listen[..], &["--allow", "127.0.0.2", "--allow", "::1"]].concat());
    let (served, said) = nbd("qemu-img", &["info", &uri]);
    assert!(
        !served && said.contains("127.0.0.1 may not use this disk (--allow"),
        "{said}"
    );
    bench.remove_last("zram0");

    for (option, value) in [
        ("--allow", "localhost"),
        ("--allow", "127.0.0.1/33"),
        ("--allow", ""),
        ("--allow", "::ffff:127.0.0.1/128"),
        ("--export", ""),
        ("--description", "\u{1b}[31mred"),
        ("--tls-certificates", ""),
    ] {
        bench.fails(2, &[&["create"], &listen[..], &[option, value]].concat());
    }
    let long = "x".repeat(4097);
    let said = bench.fails(
        2,
        &[&["create"], &listen[..], &["--description", &long]].concat(),
    );
    assert!(said.contains("4096"), "{said}");
    let said = bench.fails(
        2,
        &[
            "create",
            "-f",
            "nbd",
            "--allow",
            "127.0.0.1",
            "--size",
            "1M",
        ],
    );
    assert!(said.contains("--allow-uid"), "{said}");
    bench.assert_clean();
}
