//! `[[nbd]]` of uzram.toml: devices that uzramd offers together, by the clients that people use.

mod common;

use std::fs;
use std::net::TcpListener;
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use common::nbd::{connect, read};
use common::{Bench, needs, sh, wait_until};
use uzram_testkit::certificates::Authority;

/// The daemon of a test's own run directory. Killed when dropped.
struct Daemon {
    process: Child,
}

impl Daemon {
    fn start(bench: &Bench, config: &str) -> Daemon {
        fs::write(config_of(bench), config).unwrap();
        let process = Command::new(env!("CARGO_BIN_EXE_uzramd"))
            .arg("--config")
            .arg(config_of(bench))
            .env("UZRAM_RUN_DIR", bench.run_dir())
            .stdin(Stdio::null())
            .spawn()
            .unwrap();
        Daemon { process }
    }

    fn reload(&self, bench: &Bench, config: &str) {
        fs::write(config_of(bench), config).unwrap();
        sh(&format!("kill -HUP {}", self.process.id()));
    }

    fn terminate(mut self) {
        sh(&format!("kill -TERM {}", self.process.id()));
        assert!(self.process.wait().unwrap().success());
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

fn config_of(bench: &Bench) -> PathBuf {
    bench.path("uzram.toml")
}

/// The processes that uzramd has for exports of this test.
fn fronts(bench: &Bench) -> Vec<u32> {
    let own = bench.path("").display().to_string();
    let is_one = |pid: &u32| {
        let line = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
        let line = String::from_utf8_lossy(&line).into_owned();
        line.contains("--for-daemon") && line.contains(&own)
    };
    let all = fs::read_dir("/proc").unwrap().flatten();
    let pids = all.filter_map(|entry| entry.file_name().to_str()?.parse().ok());
    pids.filter(is_one).collect()
}

/// What a client finds at an address; nothing where there is none.
fn listed(uri: &str) -> String {
    let output = Command::new("nbdinfo").args(["--list", uri]).output();
    String::from_utf8_lossy(&output.unwrap().stdout).into_owned()
}

fn has(list: &str, name: &str) -> bool {
    list.contains(&format!("export=\"{name}\""))
}

const DEVICES: &str = "[[device]]\nname = \"zram0\"\nsize = \"16M\"\nfrontend = \"nbd\"\ndescription = \"the first\"\n\
                       [[device]]\nname = \"zram1\"\nsize = \"24M\"\nfrontend = \"nbd\"\n";

#[test]
fn devices_are_offered_together_as_long_as_the_configuration_says() {
    needs!(&["nbdinfo", "qemu-img"]);
    let bench = Bench::new();
    let socket = bench.path("front.sock");
    let uri = format!("nbd+unix:///?socket={}", socket.display());
    let section = |exports: &str| {
        let listen = socket.display();
        format!("{DEVICES}[[nbd]]\nlisten = \"unix:{listen}\"\nexports = {exports}\n")
    };
    let both = section("[\"root=zram0\", \"a b=zram1\"]");
    let daemon = Daemon::start(&bench, &both);
    wait_until("offered", || UnixStream::connect(&socket).is_ok());
    let list = listed(&uri);
    for part in ["export=\"root\"", "export=\"a b\"", "the first", "25165824"] {
        assert!(list.contains(part), "{part}: {list}");
    }
    let named = format!("nbd+unix:///a%20b?socket={}", socket.display());
    sh(&format!("qemu-img info '{named}' | grep -q '24 MiB'"));
    let mut client = connect(&socket, "root").unwrap();
    let first = fronts(&bench);
    assert_eq!(first.len(), 1);

    // It is held alive, and who is connected does not notice. What is not there now is there later.
    let kill = |pids: &[u32]| {
        sh(&format!("kill -9 {}", pids[0]));
        wait_until("started again", || {
            let now = fronts(&bench);
            now.len() == 1 && now != pids && UnixStream::connect(&socket).is_ok()
        });
    };
    kill(&first);
    assert_eq!(read(&mut client, 4).unwrap(), [0; 4]);
    bench.uzram(&["remove", "zram1"]);
    kill(&fronts(&bench));
    let list = listed(&uri);
    assert!(has(&list, "root") && !has(&list, "a b"), "{list}");
    bench.create(&["--name", "zram1", "--size", "24M", "--frontend", "nbd"]);
    let list = listed(&uri);
    assert!(has(&list, "root") && has(&list, "a b"), "{list}");

    // A new configuration takes its place.
    let pids = fronts(&bench);
    daemon.reload(&bench, &section("{ other = \"zram1\" }"));
    wait_until("changed", || has(&listed(&uri), "other"));
    assert!(!has(&listed(&uri), "root"));
    assert_ne!(fronts(&bench), pids);
    // What is the same, or wrong, changes nothing; and where anything is wrong what is missing might be meant.
    let pids = fronts(&bench);
    let same = section("{ other = \"zram1\" }");
    let marker =
        |n: u32| format!("[[device]]\nname = \"zram{n}\"\nsize = \"4M\"\nfrontend = \"nbd\"\n");
    for (n, config) in [
        (7, same.clone()),
        (8, section("{ other = \"zram99\" }")),
        (9, section("7")),
        (10, format!("{DEVICES}[[ndb]]\nlisten = \"unix:/x\"\n")),
        (11, format!("{DEVICES}[[nbd]]\nlisten = \"\n")),
    ] {
        daemon.reload(&bench, &(marker(n) + &config));
        // Devices are made before exports are looked at.
        let name = format!("zram{n}");
        wait_until(&name, || bench.output(&["stat", &name]).status.success());
        std::thread::sleep(Duration::from_millis(700));
        assert_eq!(fronts(&bench), pids, "{config}");
        assert!(has(&listed(&uri), "other"), "{config}");
    }
    daemon.reload(&bench, DEVICES);
    wait_until("ended", || fronts(&bench).is_empty());
    wait_until("gone", || !socket.exists());
    assert_eq!(read(&mut client, 4).unwrap(), [0; 4]);

    // It ends with the daemon, and its clients do not.
    daemon.reload(&bench, &both);
    wait_until("offered", || UnixStream::connect(&socket).is_ok());
    let mut second = connect(&socket, "a b").unwrap();
    daemon.terminate();
    assert!(fronts(&bench).is_empty() && !socket.exists());
    assert_eq!(read(&mut client, 4).unwrap(), [0; 4]);
    assert_eq!(read(&mut second, 4).unwrap(), [0; 4]);
    // However that ends, and begins.
    let mut daemon = Daemon::start(&bench, &both);
    wait_until("offered", || UnixStream::connect(&socket).is_ok());
    daemon.process.kill().unwrap();
    wait_until("ended with the daemon", || fronts(&bench).is_empty());
    daemon.process.wait().unwrap();
    let daemon = Daemon::start(&bench, &both);
    wait_until("offered", || connect(&socket, "root").is_some());
    assert_eq!(read(&mut second, 4).unwrap(), [0; 4]);
    daemon.terminate();
    drop((client, second));
    bench.uzram(&["remove", "--all", "--force"]);
}

#[test]
fn what_is_offered_together_has_tls_and_rules_of_its_own() {
    needs!(&["openssl", "nbdinfo", "qemu-img"]);
    let bench = Bench::new();
    let authority = Authority::new(bench.path("").as_path());
    let certificates = authority.vouch("server", "serverAuth");
    let client = authority.vouch("client", "clientAuth");
    let pki = certificates.display();
    // Nobody takes them in between, most likely.
    let port = || {
        TcpListener::bind("127.0.0.1:0")
            .unwrap()
            .local_addr()
            .unwrap()
            .port()
    };
    let (secret, closed) = (port(), port());
    let own = bench.path("own.sock");
    let config = format!(
        "{DEVICES}[[device]]\nname = \"zram2\"\nsize = \"32M\"\nfrontend = \"nbd\"\nlisten = \"unix:{}\"\n\
         tls-certificates = \"{pki}\"\ntls-verify-peer = true\n\
         [[nbd]]\nlisten = \"tcp:127.0.0.1:{secret}\"\ntls_certificates = \"{pki}\"\ntls_verify_peer = true\n\
         exports = [\"zram0\", \"zram2\"]\n\
         [[nbd]]\nlisten = \"tcp:127.0.0.1:{closed}\"\nallow = \"192.0.2.0/24\"\nread-only = true\nexports = {{ x = \"zram1\" }}\n",
        own.display()
    );
    let daemon = Daemon::start(&bench, &config);
    let secure = |port: u16, name: &str| {
        let client = client.display();
        format!("nbds://localhost:{port}/{name}?tls-certificates={client}")
    };
    let size = |uri: &str| {
        let output = Command::new("nbdinfo").args(["--size", uri]).output();
        String::from_utf8(output.unwrap().stdout).unwrap()
    };
    wait_until("offered", || size(&secure(secret, "zram0")) == "16777216\n");
    assert_eq!(size(&secure(secret, "zram2")), "33554432\n");
    assert_eq!(size(&format!("nbd://localhost:{secret}/zram0")), "");
    assert_eq!(size(&format!("nbd://127.0.0.1:{closed}/x")), "");
    let said = sh(&format!(
        "qemu-img info nbd://127.0.0.1:{closed}/x 2>&1 || :"
    ));
    assert!(said.contains("127.0.0.1 may not use this disk"), "{said}");
    daemon.terminate();
    bench.uzram(&["remove", "--all"]);
}

/// Each mistake has a line that says where it is, and nothing is made.
#[test]
fn a_check_lists_all_that_is_wrong() {
    let bench = Bench::new();
    let file = config_of(&bench);
    let check = |text: &str| {
        fs::write(&file, text).unwrap();
        let output = bench.output(&["daemon", "--check", "--config", file.to_str().unwrap()]);
        (
            output.status.code(),
            String::from_utf8(output.stderr).unwrap(),
        )
    };
    let good = "[[nbd]]\nlisten = \"unix:/tmp/no-such.sock\"\nexports = { x = \"zram0\" }\n";
    assert_eq!(check(&format!("{DEVICES}{good}")), (Some(0), String::new()));
    let (code, said) = check(&format!(
        "{DEVICES}[[device]]\nname = \"zram2\"\nsize = \"4M\"\nfrontend = \"vhost-user\"\n{good}{good}\
         [[nbd]]\nlisten = \"tcp:0.0.0.0:10809\"\nallow-uid = \"root\"\ntls = \"on\"\n\
         exports = {{ a = \"zram9\", b = \"zram2\", c = \"zram1\" }}\n\
         [[nbd]]\nlisten = \"unix:relative\"\nsize = \"4M\"\nmax-connections = 0\nexports = [\"x\", 7]\n\
         [[nbd]]\nexports = {{}}\n"
    ));
    for words in [
        "[[nbd]] unix:/tmp/no-such.sock: listen: unix:/tmp/no-such.sock is that of ",
        "[[nbd]] tcp:0.0.0.0:10809: 0.0.0.0:10809 is reachable from other machines",
        "[[nbd]] tcp:0.0.0.0:10809: users can be allowed on a unix socket only",
        "[[nbd]] tcp:0.0.0.0:10809: --tls needs certificates",
        "[[nbd]] tcp:0.0.0.0:10809: exports: a: no device is called zram9",
        "[[nbd]] tcp:0.0.0.0:10809: exports: b: zram2 is served by vhost-user",
        "[[nbd]] unix:relative: listen: it is relative",
        "[[nbd]] unix:relative: no option 'size'",
        "[[nbd]] unix:relative: --max-connections 0",
        "[[nbd]] unix:relative: exports: 7 is no device",
        "[[nbd]] 5: listen: it is missing",
    ] {
        let lines = said.lines().filter(|line| line.contains(words));
        assert_eq!(lines.count(), 1, "{words}:\n{said}");
    }
    assert!(said.contains("11 problems"), "{said}");
    assert_eq!(code, Some(2));
    assert_eq!(bench.uzram(&["list", "--noheadings"]), "");
}
