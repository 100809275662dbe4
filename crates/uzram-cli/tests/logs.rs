//! The log of a device whose clients do all they can to fill the disk with it.

mod common;

use std::io::{Read, Write};
use std::os::unix::net::UnixStream;

use common::{Bench, sh};

fn log_bytes(bench: &Bench) -> u64 {
    let dir = bench.run_dir().join("zram0");
    let files = std::fs::read_dir(&dir).unwrap().flatten();
    let logs = files.filter(|file| file.file_name().to_string_lossy().starts_with("log"));
    logs.map(|log| log.metadata().unwrap().len()).sum()
}

#[test]
fn a_log_has_a_maximum_whatever_clients_do() {
    let bench = Bench::new();
    let log_max = ["--log-max", "64K"];
    bench.create(&[&["--size", "16M", "--frontend", "nbd"][..], &log_max].concat());
    let dir = bench.run_dir().join("zram0");
    let socket = dir.join("control.sock");
    let ask = |line: &[u8]| {
        let mut stream = UnixStream::connect(&socket).unwrap();
        stream.write_all(line).unwrap();
        let mut answer = Vec::new();
        let _ = stream.read_to_end(&mut answer);
    };
    // The same nonsense.
    for _ in 0..5000 {
        ask(b"nonsense\n");
    }
    let log = std::fs::read_to_string(dir.join("log")).unwrap();
    assert!(log_bytes(&bench) < 32 << 10, "{log}");
    let pid = std::process::id();
    assert!(
        log.contains(&format!("pid {pid} uid ")),
        "peers are named: {log}"
    );
    // Nonsense of which no two are alike, and which is long.
    let letters = |n: usize| {
        let letter =
            |shift: u32| char::from(b'a' + (n.wrapping_mul(2_654_435_761) >> shift) as u8 % 26);
        (0..28).map(letter).collect::<String>()
    };
    for n in 0..2000 {
        let name = letters(n);
        let op = format!("{{\"version\":1,\"op\":\"{name} {}\"}}\n", name.repeat(100));
        ask(op.as_bytes());
    }
    let most = 2 * (64 << 10);
    assert!(log_bytes(&bench) <= most, "{}", log_bytes(&bench));
    assert!(dir.join("log.old").exists());
    let log = std::fs::read_to_string(dir.join("log")).unwrap();
    assert!(
        log.lines().all(|line| line.len() < 2048),
        "payloads are cut"
    );
    // The next server, and the next program, go on with the same files.
    bench.kill("zram0", "pid");
    bench.uzram(&["upgrade", "zram0"]);
    for n in 0..2000 {
        let name = letters(n + 5000);
        ask(format!("{{\"version\":1,\"op\":\"{name}\"}}\n").as_bytes());
    }
    assert!(log_bytes(&bench) <= most, "{}", log_bytes(&bench));
    bench.remove_last("zram0");
}

#[test]
fn what_is_repeated_is_counted_at_the_latest_when_the_server_ends() {
    let bench = Bench::new();
    bench.create(&["--size", "16M", "--frontend", "nbd"]);
    let socket = bench.run_dir().join("zram0/control.sock");
    for _ in 0..1235 {
        let mut stream = UnixStream::connect(&socket).unwrap();
        stream.write_all(b"nonsense\n").unwrap();
        let mut answer = String::new();
        let _ = stream.read_to_string(&mut answer);
    }
    // It hands over.
    bench.uzram(&["upgrade", "zram0"]);
    let log = sh(&format!(
        "cat {}",
        bench.run_dir().join("zram0/log").display()
    ));
    assert!(log.contains("repeated 1,234 times"), "{log}");
    bench.remove_last("zram0");
}
