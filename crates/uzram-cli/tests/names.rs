//! Devices with names of their own: made, found and removed by both names, by commands, the API and uzram.toml, over the deaths of
//! their processes.

mod common;

use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use common::{Bench, needs};
use serde_json::Value;

const NAME: &str = "build-cache";

fn create(bench: &Bench, name: &str) {
    bench.create(&["--size", "16M", "--frontend", "nbd", "--name", name]);
}

/// The table as words.
fn table(bench: &Bench, args: &[&str]) -> Vec<Vec<String>> {
    let text = bench.uzram(&[&["list"], args].concat());
    let words = |line: &str| line.split_whitespace().map(str::to_owned).collect();
    text.lines().map(words).collect()
}

#[test]
fn every_command_knows_a_device_by_both_names() {
    let bench = Bench::new();
    create(&bench, "zram1");
    assert_eq!(table(&bench, &[])[0][1], "PATH", "nobody has one");
    create(&bench, NAME);
    assert_eq!(table(&bench, &[])[0][..2], ["NAME", "ALIAS"]);
    assert_eq!(
        table(&bench, &["--noheadings", NAME])[0][..2],
        ["zram0", NAME]
    );
    let named = table(&bench, &["--noheadings", "--output", "name,alias"]);
    assert_eq!(named, [vec!["zram0", NAME], vec!["zram1"]]);
    let json: Value = serde_json::from_str(&bench.uzram(&["list", "--json", NAME])).unwrap();
    assert_eq!(
        (&json[0]["name"], &json[0]["alias"]),
        (&"zram0".into(), &NAME.into())
    );
    assert!(bench.uzram(&["stat", NAME]).contains("zram0 (build-cache)"));
    for args in [
        &["stat", NAME, "--json"][..],
        &["get", NAME, "disksize"],
        &["set", NAME, "mem_limit=8M"],
        &["policy", NAME, "--dry-run"],
        &["compact", NAME],
        &["idle", NAME],
        &["jobs", NAME],
        &["metrics", NAME],
        &["reset", NAME],
        &["recover", NAME],
    ] {
        bench.uzram(args);
    }
    // It is the device's, whoever serves it.
    bench.kill(NAME_OF_NUMBER, "pid");
    bench.kill(NAME_OF_NUMBER, "keeper");
    bench.uzram(&["upgrade", NAME]);
    assert_eq!(bench.count(NAME, "mem_limit"), 8 << 20);
    let said = bench.fails(4, &["stat", "build-cach"]);
    assert!(said.contains("zram0 (build-cache), zram1"), "{said}");
    bench.uzram(&["remove", NAME]);
    bench.fails(4, &["stat", NAME]);
    create(&bench, NAME);
    bench.uzram(&["remove", "zram0", "zram1"]);
    bench.assert_clean();
}

/// What the name stands beside.
const NAME_OF_NUMBER: &str = "zram0";

#[test]
fn names_that_cannot_be_are_refused_in_words() {
    let bench = Bench::new();
    create(&bench, NAME);
    let make = |name: &str| {
        [
            "create",
            "--size",
            "1M",
            "--frontend",
            "nbd",
            "--name",
            name,
        ]
        .map(str::to_owned)
    };
    for (name, code, why) in [
        (NAME, 3, "there is a device 'build-cache' already"),
        ("", 2, "it is empty"),
        ("a/b", 2, "no '/'"),
        ("..", 2, "begins with a letter"),
        ("a.b", 2, "no '.'"),
        ("a\nb", 2, "no '\\n'"),
        ("zram07", 2, "takes a number and no more"),
        ("zram-x", 2, "takes a number and no more"),
        ("caf\u{e9}", 2, "no '\u{e9}'"),
        (&"x".repeat(33), 2, "33 bytes"),
        ("7", 2, "begins with a letter"),
    ] {
        let args = make(name);
        let args: Vec<&str> = args.iter().map(String::as_str).collect();
        let said = bench.fails(code, &args);
        assert!(said.contains(why), "{name:?}: {said}");
    }
    bench.remove_last(NAME);
}

#[test]
fn shells_are_offered_both_names() {
    let bench = Bench::new();
    create(&bench, NAME);
    let mut command = bench.command(&["--", "uzram", "stat", ""]);
    command
        .env("UZRAM_COMPLETE", "bash")
        .env("_CLAP_COMPLETE_INDEX", "2");
    command
        .env("_CLAP_COMPLETE_COMP_TYPE", "9")
        .env("_CLAP_IFS", "\n");
    let offered = String::from_utf8(command.output().unwrap().stdout).unwrap();
    for name in ["zram0", NAME] {
        assert!(offered.lines().any(|line| line == name), "{offered}");
    }
}

/// uzramd of a bench's run directory.
struct Daemon(Child);

impl Daemon {
    fn start(bench: &Bench, config: &str) -> Daemon {
        let file = bench.path("uzram.toml");
        std::fs::write(&file, config).unwrap();
        let mut command = Command::new(env!("CARGO_BIN_EXE_uzramd"));
        command
            .arg("--config")
            .arg(file)
            .env("UZRAM_RUN_DIR", bench.run_dir());
        let daemon = Daemon(command.stdin(Stdio::null()).spawn().unwrap());
        let begin = Instant::now();
        while UnixStream::connect(bench.run_dir().join("uzramd.sock")).is_err() {
            assert!(begin.elapsed().as_secs() < 20, "it does not come up");
            std::thread::sleep(Duration::from_millis(20));
        }
        daemon
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Status and body.
fn http(bench: &Bench, method: &str, path: &str, body: &str) -> (u16, String) {
    let mut stream = UnixStream::connect(bench.run_dir().join("uzramd.sock")).unwrap();
    let length = body.len();
    write!(
        stream,
        "{method} {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Length: {length}\r\n\r\n{body}"
    )
    .unwrap();
    let mut reply = String::new();
    stream.read_to_string(&mut reply).unwrap();
    let (head, body) = reply.split_once("\r\n\r\n").unwrap();
    (
        head.split(' ').nth(1).unwrap().parse().unwrap(),
        body.into(),
    )
}

fn wait_until(is: impl Fn() -> bool) {
    let begin = Instant::now();
    while !is() {
        assert!(begin.elapsed().as_secs() < 20, "it does not come to be");
        std::thread::sleep(Duration::from_millis(50));
    }
}

#[test]
fn the_api_and_the_configuration_know_them() {
    needs!(&[]);
    let bench = Bench::new();
    let config = "[[device]]\nname = \"build-cache\"\nsize = \"16M\"\nfrontend = \"nbd\"\n\
                  [[device]]\nname = \"zram0\"\nsize = \"8M\"\nfrontend = \"nbd\"\n";
    let daemon = Daemon::start(&bench, config);
    wait_until(|| table(&bench, &["--noheadings"]).len() == 2);
    // The number that another has by its name is not taken.
    assert_eq!(bench.count("zram0", "disksize"), 8 << 20);
    assert_eq!(bench.count(NAME, "disksize"), 16 << 20);
    let (status, body) = http(&bench, "GET", "/v1/devices/build-cache", "");
    let device: Value = serde_json::from_str(&body).unwrap();
    assert_eq!(
        (status, &device["name"], &device["alias"]),
        (200, &"zram1".into(), &NAME.into())
    );
    let (status, _) = http(
        &bench,
        "PATCH",
        "/v1/devices/build-cache",
        r#"{"mem_limit":"4M"}"#,
    );
    assert_eq!((status, bench.count(NAME, "mem_limit")), (200, 4 << 20));
    let (status, size) = http(
        &bench,
        "GET",
        "/v1/devices/build-cache/attributes/disksize",
        "",
    );
    assert_eq!((status, size.as_str()), (200, "16777216\n"));
    let (status, _) = http(&bench, "GET", "/v1/devices/build-cache/history", "");
    assert_eq!(status, 200);
    let spec = r#"{"name":"build-cache","size":"1M","frontend":"nbd"}"#;
    assert_eq!(http(&bench, "POST", "/v1/devices", spec).0, 409);
    let spec = r#"{"name":"a.b","size":"1M","frontend":"nbd"}"#;
    let (status, said) = http(&bench, "POST", "/v1/devices", spec);
    assert!(
        status == 400 && said.contains("is not a device name"),
        "{status} {said}"
    );
    assert_eq!(http(&bench, "GET", "/v1/devices/other", "").0, 404);
    // A daemon that comes again finds it.
    drop(daemon);
    let _daemon = Daemon::start(&bench, config);
    std::thread::sleep(Duration::from_millis(500));
    assert_eq!(table(&bench, &["--noheadings"]).len(), 2);
    assert_eq!(http(&bench, "DELETE", "/v1/devices/build-cache", "").0, 204);
    bench.fails(4, &["stat", NAME]);
    bench.uzram(&["remove", "zram0"]);
}
