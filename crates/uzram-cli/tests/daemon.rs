//! `uzramd`: its API as curl sees it, what it makes of its configuration, and what outlives what.

mod common;

use std::io::{Read, Write};
use std::os::unix::net::{UnixDatagram, UnixStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use common::{Bench, Stopped, kill_together, needs, sh};
use serde_json::Value;
use uzram_testkit::schema::fits;

/// A daemon of a test's own run directory. Killed when dropped.
struct Daemon {
    process: Child,
    socket: String,
}

impl Daemon {
    fn start(bench: &Bench, config: &str) -> Daemon {
        Daemon::start_as(bench, config, |command| command)
    }

    fn start_as(
        bench: &Bench,
        config: &str,
        with: impl FnOnce(&mut Command) -> &mut Command,
    ) -> Daemon {
        let file = bench.path("uzram.toml");
        std::fs::write(&file, config).unwrap();
        let mut command = Command::new(env!("CARGO_BIN_EXE_uzramd"));
        command
            .arg("--config")
            .arg(&file)
            .env("UZRAM_RUN_DIR", bench.run_dir())
            .stdin(Stdio::null());
        let process = with(&mut command).spawn().unwrap();
        let socket = bench.run_dir().join("uzramd.sock").display().to_string();
        let daemon = Daemon { process, socket };
        let begin = Instant::now();
        while UnixStream::connect(&daemon.socket).is_err() {
            assert!(
                begin.elapsed().as_secs() < 20,
                "the daemon does not come up"
            );
            std::thread::sleep(Duration::from_millis(10));
        }
        daemon
    }

    /// Status and body.
    fn http(&self, method: &str, path: &str, body: &str) -> (u16, String) {
        let mut stream = UnixStream::connect(&self.socket).unwrap();
        write!(
            stream,
            "{method} {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Length: {}\r\n\r\n{body}",
            body.len()
        )
        .unwrap();
        let mut reply = String::new();
        stream.read_to_string(&mut reply).unwrap();
        let (head, body) = reply.split_once("\r\n\r\n").unwrap();
        let status = head.split(' ').nth(1).unwrap().parse().unwrap();
        (status, body.to_owned())
    }

    fn get(&self, path: &str) -> String {
        let (status, body) = self.http("GET", path, "");
        assert_eq!(status, 200, "{path}: {body}");
        body
    }

    fn json(&self, path: &str) -> Value {
        serde_json::from_str(&self.get(path)).unwrap()
    }

    fn put(&self, path: &str, body: &str) {
        let (status, said) = self.http("PUT", path, body);
        assert_eq!(status, 204, "{path}: {said}");
    }

    /// Demands this errno, gives the message.
    fn refused(&self, method: &str, path: &str, body: &str, errno: &str) -> String {
        let (status, said) = self.http(method, path, body);
        assert!(status >= 400, "{method} {path}: {status} {said}");
        let error: Value = serde_json::from_str(&said).unwrap();
        assert_eq!(error["name"], errno, "{method} {path}: {said}");
        error["message"].as_str().unwrap().to_owned()
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

#[test]
fn interop_curl_speaks_the_api() {
    needs!(&["curl", "qemu-io"]);
    let bench = Bench::new();
    let daemon = Daemon::start(&bench, "");
    let mode = sh(&format!("stat -c %a {}", daemon.socket));
    assert_eq!(mode.trim(), "600");
    let curl = |args: &str, path: &str| {
        let socket = &daemon.socket;
        sh(&format!(
            "curl -sS --fail-with-body --unix-socket {socket} {args} http://localhost{path}"
        ))
    };
    let made = curl(
        r#"-d '{"size":"64M","algorithm":"zstd(level=1)","frontend":"nbd"}'"#,
        "/v1/devices",
    );
    let made: Value = serde_json::from_str(&made).unwrap();
    assert_eq!(made["name"], "zram0");
    let uri = made["path"].as_str().unwrap();
    sh(&format!("qemu-io -f raw -c 'write -P 7 0 16M' '{uri}'"));
    let device: Value = serde_json::from_str(&curl("", "/v1/devices/zram0")).unwrap();
    assert_eq!(device["orig_data_size"], 16 << 20);
    assert_eq!(
        curl("", "/v1/devices/zram0/attributes/disksize"),
        "67108864\n"
    );
    let algorithms = curl("", "/v1/devices/zram0/attributes/comp_algorithm");
    assert_eq!(algorithms, "lzo-rle lzo lz4 lz4hc [zstd] deflate 842 \n");
    assert_eq!(bench.uzram(&["get", "zram0", "comp_algorithm"]), algorithms);
    curl(
        "-X PUT -d 1048576",
        "/v1/devices/zram0/attributes/mem_limit",
    );
    assert_eq!(bench.count("zram0", "mem_limit"), 1 << 20);
    let document: Value = serde_json::from_str(&curl("", "/v1/openapi.json")).unwrap();
    assert_eq!(document["openapi"], "3.1.0");
    let schemas = &document["components"]["schemas"];
    assert_eq!(fits(&schemas["Device"], &device), Ok(()));
    assert_eq!(fits(&schemas["Created"], &made), Ok(()));
    let options = &document["components"]["schemas"]["Create"]["properties"];
    assert_eq!(options["block_size"]["type"], "integer");
    assert_eq!(options["dedup"]["type"], "boolean");
    assert_eq!(options["poll"]["maximum"], 1000);
    assert!(options["mem_limit"].is_object());
    let compacted = curl(
        r#"-d '{"op":"compact","max_bytes":1000000}'"#,
        "/v1/devices/zram0/requests",
    );
    assert!(compacted.contains("pages_freed"), "{compacted}");
    curl("-X DELETE", "/v1/devices/zram0");
    assert_eq!(daemon.json("/v1/devices"), Value::Array(Vec::new()));
}

#[test]
fn interop_curl_takes_a_snapshot_and_restores_it() {
    needs!(&["curl", "qemu-io"]);
    let bench = Bench::new();
    let daemon = Daemon::start(&bench, "");
    let socket = daemon.socket.clone();
    let curl = |args: &str, path: &str| {
        let line = format!(
            "curl -sS --fail-with-body --unix-socket {socket} {args} 'http://localhost{path}'"
        );
        Command::new("sh").args(["-c", &line]).output().unwrap()
    };
    let options = r#"{"size":"64M","frontend":"nbd"}"#;
    let made = curl(&format!("-d '{options}'"), "/v1/devices");
    let made: Value = serde_json::from_slice(&made.stdout).unwrap();
    let io = |uri: &Value, what: &str| {
        let uri = uri.as_str().unwrap();
        sh(&format!("qemu-io -f raw -c '{what}' '{uri}'"));
    };
    io(&made["path"], "write -P 7 1M 16M");
    let file = bench.path("snapshot");
    let at = file.display();
    let taken = curl(
        &format!("-o {at}"),
        "/v1/devices/zram0/snapshot?memory=32M&track=true",
    );
    assert!(taken.status.success(), "{taken:?}");
    bench.uzram(&["snapshot", "verify", file.to_str().unwrap()]);
    assert!(bench.stat("zram0")["tracked_since"].is_string());
    let good = std::fs::read(&file).unwrap();

    let send = |how: &str, options: &str| {
        let options: String = form_urlencoded(options);
        curl(
            &format!("-X POST {how}"),
            &format!("/v1/restore?options={options}"),
        )
    };
    // With its length, and in chunks as it comes.
    for how in [
        format!("--data-binary @{at}"),
        format!("-H 'Transfer-Encoding: chunked' -T - <{at}"),
    ] {
        let restored = send(&how, r#"{"frontend":"nbd","name":"zram5"}"#);
        assert!(restored.status.success(), "{restored:?}");
        let restored: Value = serde_json::from_slice(&restored.stdout).unwrap();
        assert_eq!(restored["name"], "zram5");
        io(&restored["path"], "read -P 7 1M 16M");
        io(&restored["path"], "read -P 0 17M 47M");
        bench.uzram(&["remove", "zram5"]);
    }
    // What is damaged, cut or too large for where it is to go makes no device.
    let mut flipped = good.clone();
    flipped[good.len() / 2] ^= 1;
    for (bytes, options, words) in [
        (&flipped[..], r#"{"frontend":"nbd"}"#, "damaged"),
        (&good[..good.len() / 2], r#"{"frontend":"nbd"}"#, "cut off"),
        (&good[..], r#"{"frontend":"nbd","size":"1M"}"#, "too little"),
        (&good[..], r#"{"frontend":"nbd","swap":true}"#, "swap"),
        (&[b'x'; 4096][..], "{}", "no uzram snapshot"),
    ] {
        std::fs::write(&file, bytes).unwrap();
        let refused = send(&format!("--data-binary @{at}"), options);
        assert!(!refused.status.success(), "{refused:?}");
        let said = String::from_utf8_lossy(&refused.stdout);
        assert!(said.contains(words), "{words}: {said}");
        assert_eq!(daemon.json("/v1/devices").as_array().unwrap().len(), 1);
    }
    // A client that goes in the middle of an answer ends the snapshot.
    let mut stream = UnixStream::connect(&socket).unwrap();
    io(&made["path"], "write -s /dev/urandom 0 32M");
    write!(
        stream,
        "GET /v1/devices/zram0/snapshot HTTP/1.1\r\nHost: x\r\n\r\n"
    )
    .unwrap();
    stream.read_exact(&mut [0; 100]).unwrap();
    let busy = curl("", "/v1/devices/zram0/snapshot");
    let said = String::from_utf8_lossy(&busy.stdout);
    assert!(
        said.contains("a snapshot of the device is being taken"),
        "{said}"
    );
    drop(stream);
    let begin = Instant::now();
    while bench.stat("zram0")["snapshot"].is_object() {
        assert!(begin.elapsed().as_secs() < 20, "it goes on");
        std::thread::sleep(Duration::from_millis(20));
    }
    daemon.terminate();
}

/// As it stands in a query.
fn form_urlencoded(text: &str) -> String {
    text.bytes().map(|byte| format!("%{byte:02X}")).collect()
}

#[test]
fn what_is_wrong_has_an_errno_and_words() {
    let bench = Bench::new();
    let daemon = Daemon::start(&bench, "");
    let said = daemon.refused("POST", "/v1/devices", r#"{"size":"64Q"}"#, "EINVAL");
    assert!(said.contains("64Q"), "{said}");
    daemon.refused("POST", "/v1/devices", r#"{"sise":"64M"}"#, "EINVAL");
    daemon.refused("POST", "/v1/devices", "nonsense", "EINVAL");
    daemon.refused(
        "POST",
        "/v1/devices",
        r#"{"size":"64M","foreground":true}"#,
        "EINVAL",
    );
    daemon.refused("GET", "/v1/devices/zram9", "", "ENODEV");
    daemon.refused("DELETE", "/v1/devices/zram9", "", "ENODEV");
    daemon.refused("GET", "/v1/devices/sda/attributes/disksize", "", "ENODEV");
    daemon.refused("GET", "/v2/devices", "", "ENOENT");
    daemon.refused("PUT", "/v1/devices", "", "EOPNOTSUPP");
    daemon.refused("PUT", "/v1/control/hot_remove", "zram0", "EINVAL");
    daemon.refused("PUT", "/v1/control/hot_remove", "7", "ENODEV");
    // Nonsense on the socket disturbs nobody.
    let mut stream = UnixStream::connect(&daemon.socket).unwrap();
    stream.write_all(&[0xFF; 100]).unwrap();
    drop(stream);
    let idle = UnixStream::connect(&daemon.socket).unwrap();
    assert_eq!(daemon.json("/v1")["api"], 1);
    drop(idle);
    // A second daemon in the same place.
    let second = Command::new(env!("CARGO_BIN_EXE_uzramd"))
        .args(["--config", "/dev/null"])
        .env("UZRAM_RUN_DIR", bench.run_dir())
        .output()
        .unwrap();
    assert!(String::from_utf8_lossy(&second.stderr).contains("another uzramd"));
    assert!(!second.status.success());
}

#[test]
fn create_goes_through_the_daemon_where_it_runs() {
    let bench = Bench::new();
    let daemon = Daemon::start(&bench, "");
    bench.create(&["--size", "1M", "--frontend", "nbd"]);
    bench.create(&["--size", "1M", "--frontend", "nbd", "--private"]);
    // A relative path is relative to who said it.
    std::fs::create_dir(bench.path("here")).unwrap();
    let output = bench
        .command(&[
            "create",
            "--size",
            "1M",
            "--frontend",
            "nbd",
            "--backing",
            "store,8M",
        ])
        .current_dir(bench.path("here"))
        .output()
        .unwrap();
    assert!(output.status.success(), "{output:?}");
    assert!(bench.path("here/store").exists());
    let names: Vec<Value> = daemon
        .json("/v1/control/devices")
        .as_array()
        .unwrap()
        .iter()
        .map(|device| device["id"].clone())
        .collect();
    assert_eq!(names, [0, 1, 2]);
    let said = bench.fails(2, &["create", "--size", "1Q"]);
    assert!(said.contains("1Q"), "{said}");
    let said = bench.fails(
        3,
        &[
            "create",
            "--size",
            "1M",
            "--frontend",
            "nbd",
            "--name",
            "zram1",
        ],
    );
    assert!(said.contains("zram1"), "{said}");
    // What is removed past the daemon is gone for it, too.
    bench.uzram(&["remove", "--all"]);
    assert_eq!(daemon.json("/v1/devices"), Value::Array(Vec::new()));
}

/// What cannot be is refused before anything is changed.
#[test]
fn settings_are_changed_as_set_does() {
    let bench = Bench::new();
    let daemon = Daemon::start(&bench, "");
    bench.create(&["--size", "64M", "--frontend", "nbd", "--algorithm", "lz4"]);
    let path = "/v1/devices/zram0";
    let store = bench.path("store");
    let settings = serde_json::json!({
        "algorithm": "zstd(level=3)", "mem_limit": "32M", "dedup": true, "writeback_limit": 1000, "disksize": 128 << 20,
        "policy": "none", "backing": format!("{},16M", store.display()), "recomp_algorithm": "zstd(level=9,priority=2)",
    });
    let (status, said) = daemon.http("PATCH", path, &settings.to_string());
    assert_eq!(status, 200, "{said}");
    let device: Value = serde_json::from_str(&said).unwrap();
    let stat = bench.stat("zram0");
    for of in [&device, &stat] {
        assert_eq!(of["algorithm"], "zstd", "{of:#}");
        assert_eq!(of["mem_limit"], 32 << 20);
        assert_eq!(of["dedup"], true);
        assert_eq!(of["writeback_limit"], 1000);
        assert_eq!(of["disksize"], 128 << 20);
        assert_eq!(of["policy"], "none");
        assert_eq!(of["backing"]["path"], store.display().to_string());
    }
    let (status, said) = daemon.http(
        "PATCH",
        path,
        r#"{"backing":null,"dedup":false,"writeback_limit":null}"#,
    );
    assert_eq!(status, 200, "{said}");
    let stat = bench.stat("zram0");
    assert_eq!(
        (&stat["backing"], &stat["dedup"], &stat["writeback_limit"]),
        (&Value::Null, &Value::Bool(false), &Value::Null)
    );
    for (body, errno, words) in [
        (
            r#"{"mem_limit":"16M","colour":"red"}"#,
            "EINVAL",
            "no setting 'colour' (there are: algorithm",
        ),
        (
            r#"{"algorithm":"lz4","mem_limit":[1]}"#,
            "EINVAL",
            "mem_limit: a text, a number",
        ),
        (
            r#"{"algorithm":"lz4","mem_limit":"much"}"#,
            "EINVAL",
            "mem_limit: ",
        ),
        (r#"{"algorithm":"lz5"}"#, "EINVAL", "lz5"),
        (
            r#"{"dedup":true,"backing":"store,1M"}"#,
            "EINVAL",
            "backing: store,1M: it is relative",
        ),
        (
            r#"{"algorithm":"zstd(dict=x)"}"#,
            "EINVAL",
            "it is relative",
        ),
        (
            r#"{"dedup":"maybe"}"#,
            "EINVAL",
            "dedup is on or off, not 'maybe'",
        ),
        ("[1]", "EINVAL", "the body: "),
    ] {
        let said = daemon.refused("PATCH", path, body, errno);
        assert!(said.contains(words), "{body}: {said}");
    }
    assert_eq!(bench.stat("zram0"), stat, "a refusal has changed something");
    // The second one fails when it is made.
    let said = daemon.refused(
        "PATCH",
        path,
        r#"{"algorithm":"lz4","disksize":"1E"}"#,
        "EINVAL",
    );
    assert!(
        said.contains("disksize: ") && said.contains("(made before it: algorithm)"),
        "{said}"
    );
    assert_eq!(
        daemon.refused("PATCH", "/v1/devices/zram7", r#"{"dedup":true}"#, "ENODEV"),
        "no device 'zram7'"
    );
    daemon.refused("PATCH", "/v1/devices/zram0?force=perhaps", "{}", "EINVAL");
}

#[test]
fn devices_are_hot_added_and_outlive_the_daemon() {
    needs!(&["mkfs.ext4"], fuse_loop);
    let bench = Bench::new();
    let config = "[daemon]\nfrontend = \"fuse-loop\"\n";
    let daemon = Daemon::start(&bench, config);
    let add = || daemon.http("POST", "/v1/control/hot_add", "").1;
    assert_eq!((add().as_str(), add().as_str()), ("0\n", "1\n"));
    let attribute = |id: u32, name: &str| format!("/v1/devices/zram{id}/attributes/{name}");
    daemon.put(&attribute(0, "comp_algorithm"), "zstd\n");
    daemon.put(&attribute(1, "comp_algorithm"), "lzo");
    daemon.put(&attribute(0, "disksize"), "64M");
    let shown = daemon.json("/v1/control/devices");
    assert_eq!(shown[0]["disksize"], 64 << 20);
    assert_eq!(shown[1]["disksize"], 0);
    assert_eq!(shown[1]["rdev"][0], 7, "an uninitialised device has a node");
    let node = shown[0]["path"].as_str().unwrap().to_owned();
    daemon.refused("PUT", &attribute(0, "disksize"), "64M", "EBUSY");
    let at = bench.path("mnt");
    std::fs::create_dir(&at).unwrap();
    let at = at.display();
    sh(&format!(
        "mkfs.ext4 -q {node} && mount {node} {at} && echo kept > {at}/file"
    ));
    daemon.refused("PUT", &attribute(0, "reset"), "1", "EBUSY");
    let said = daemon.refused("DELETE", "/v1/devices/zram0", "", "EBUSY");
    assert!(said.contains("mounted at"), "{said}");
    daemon.terminate();
    assert_eq!(sh(&format!("cat {at}/file")), "kept\n");
    let daemon = Daemon::start(&bench, config);
    let shown = daemon.json("/v1/control/devices");
    assert_eq!(shown.as_array().unwrap().len(), 2, "{shown}");
    let algorithms = daemon.get(&attribute(1, "comp_algorithm"));
    assert!(algorithms.contains("[lzo] "), "remembered: {algorithms}");
    sh(&format!("umount {at}"));
    daemon.put(&attribute(0, "reset"), "1");
    assert_eq!(daemon.get(&attribute(0, "initstate")), "0\n");
    let shown = daemon.json("/v1/control/devices");
    assert_eq!(shown[0]["rdev"][0], 7, "it has a node again: {shown}");
    assert!(
        daemon
            .get(&attribute(0, "comp_algorithm"))
            .contains("[lzo-rle] ")
    );
    for id in ["0", "1"] {
        daemon.put("/v1/control/hot_remove", id);
    }
    daemon.terminate();
    let left = sh(&format!("ls -A {}", bench.run_dir().display()));
    assert_eq!(left, ".lock\nhistory.json\nuzramd.json\n");
    assert!(!sh("losetup -a").contains(bench.run_dir().to_str().unwrap()));
}

/// Without a daemon, this loses the contents. It is there from the moment on at which the device is.
#[test]
fn contents_outlive_server_and_keeper_killed_at_once() {
    needs!(&["qemu-io"]);
    let bench = Bench::new();
    let _daemon = Daemon::start(&bench, "");
    let uri = bench.create(&["--size", "64M", "--frontend", "nbd"]);
    for round in 1..=3 {
        sh(&format!(
            "qemu-io -f raw -c 'write -P {round} 0 16M' '{uri}'"
        ));
        let old = bench.count("zram0", "pid");
        bench.kill_all("zram0");
        bench.wait_for("zram0", |record| record["pid"] != old);
        sh(&format!(
            "qemu-io -f raw -c 'read -P {round} 0 16M' '{uri}'"
        ));
    }
}

/// What systemd is told, and that what it keeps brings a device back when every process has died, the daemon among them.
#[test]
fn contents_outlive_everything_with_systemds_store() {
    needs!(&["qemu-io", "bash", "python3"]);
    let bench = Bench::new();
    std::fs::create_dir(bench.run_dir()).unwrap();
    let notify = bench.path("notify.sock");
    // A service manager: keeps the descriptors that it is sent, and starts the next daemon with them.
    let manager = bench.path("manager.py");
    std::fs::write(&manager, MANAGER).unwrap();
    let mut manager = Command::new("python3")
        .arg(&manager)
        .arg(&notify)
        .arg(env!("CARGO_BIN_EXE_uzramd"))
        .env("UZRAM_RUN_DIR", bench.run_dir())
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut said = std::io::BufReader::new(manager.stdout.take().unwrap());
    let mut wait_for = |word: &str| {
        let mut line = String::new();
        while !line.contains(word) {
            line.clear();
            let read = std::io::BufRead::read_line(&mut said, &mut line).unwrap();
            assert!(read > 0, "the manager ended before '{word}'");
        }
        line
    };
    wait_for("READY=1");
    let uri = bench.create(&["--size", "64M", "--frontend", "nbd"]);
    let (one, other) = (wait_for("FDNAME"), wait_for("FDNAME"));
    assert!(
        one.contains("image-zram0") && other.contains("lock-zram0"),
        "{one} {other}"
    );
    sh(&format!("qemu-io -f raw -c 'write -P 5 0 16M' '{uri}'"));
    let old = bench.count("zram0", "pid");
    let mut input = manager.stdin.take().unwrap();
    writeln!(input, "kill {} {}", bench.count("zram0", "keeper"), old).unwrap();
    wait_for("READY=1");
    bench.wait_for("zram0", |record| record["pid"] != old);
    sh(&format!("qemu-io -f raw -c 'read -P 5 0 16M' '{uri}'"));
    bench.uzram(&["remove", "zram0"]);
    drop(input);
    manager.wait().unwrap();
}

const MANAGER: &str = r#"
import array, os, signal, socket, subprocess, sys, threading
path, program = sys.argv[1:3]
notify = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
notify.bind(path)
stored, child = {}, None
def start():
    names = list(stored)
    def inherit():
        for at, name in enumerate(names):
            os.dup2(stored[name], 200 + at)
        for at in range(len(names)):
            os.dup2(200 + at, 3 + at)
            os.close(200 + at)
    environment = dict(os.environ, NOTIFY_SOCKET=path)
    line = 'export LISTEN_PID=$$ LISTEN_FDS=%d LISTEN_FDNAMES=%s; exec %s --config /dev/null' % (len(names), ':'.join(names), program)
    return subprocess.Popen(['bash', '-c', line], env=environment, preexec_fn=inherit, close_fds=False)
def listen():
    while True:
        message, ancillary, _, _ = notify.recvmsg(4096, socket.CMSG_SPACE(64))
        text = message.decode()
        name = next((line[7:] for line in text.split('\n') if line.startswith('FDNAME=')), None)
        for level, kind, data in ancillary:
            fds = array.array('i'); fds.frombytes(data)
            stored[name] = fds[0]
        if 'FDSTOREREMOVE=1' in text and name in stored:
            os.close(stored.pop(name))
        print(text.replace('\n', ' '), flush=True)
threading.Thread(target=listen, daemon=True).start()
child = start()
for line in sys.stdin:
    victims = [child.pid] + [int(pid) for pid in line.split()[1:]]
    for sig in (signal.SIGSTOP, signal.SIGKILL):
        for pid in victims:
            os.kill(pid, sig)
    child.wait()
    child = start()
child.terminate()
child.wait()
"#;

#[test]
fn the_configuration_makes_devices() {
    needs!(&["mkfs.ext4"], fuse_loop);
    let bench = Bench::new();
    let (one, two) = (bench.path("one"), bench.path("two"));
    let generator = bench.path("root/etc/systemd/zram-generator.conf");
    std::fs::create_dir_all(generator.parent().unwrap()).unwrap();
    let text = format!(
        "[zram3]\nzram-size = min(ram / 10, 64)\ncompression-algorithm = lzo-rle zstd(level=5)\nmount-point = {}\nfs-type = ext4\n",
        two.display()
    );
    std::fs::write(&generator, text).unwrap();
    let config = format!(
        "[daemon]\nnum_devices = 3\nzram_generator = true\n[[device]]\nname = \"zram7\"\nsize = \"64M\"\nfrontend = \"fuse-loop\"\n\
         algorithm = \"zstd(level=1)\"\nmount-point = \"{}\"\n",
        one.display()
    );
    let root = bench.path("root");
    let daemon = Daemon::start_as(&bench, &config, |command| {
        command.env("ZRAM_GENERATOR_ROOT", root)
    });
    // Made before it says that it is ready, which only systemd hears.
    let begin = Instant::now();
    while daemon.json("/v1/control/devices").as_array().unwrap().len() < 3 {
        assert!(begin.elapsed().as_secs() < 30);
        std::thread::sleep(Duration::from_millis(50));
    }
    let mounted = |at: &Path| sh(&format!("findmnt -n -o FSTYPE {}", at.display()));
    assert_eq!(mounted(&one), "ext4\n");
    assert_eq!(mounted(&two), "ext4\n");
    assert_eq!(bench.stat("zram3")["algorithm"], "lzo-rle");
    assert_eq!(bench.stat("zram3")["codecs"][1]["params"], "level=5");
    assert_eq!(bench.stat("zram7")["codecs"][0]["params"], "level=1");
    sh(&format!("umount {} {}", one.display(), two.display()));
    drop(daemon);
    let output = bench.output(&["daemon", "--check", "--config", "/dev/null"]);
    assert!(output.status.success());
    let bad = bench.path("bad").display().to_string();
    for (text, word) in [
        ("[[device]]\nname = \"zram0\"\nsize = \"8X\"\n", "8X"),
        ("[[device]]\nname = \"zram0\"\nbogus = 1\n", "bogus"),
        (
            "[[device]]\nname = \"zram0\"\nalgorithm = \"bogus\"\n",
            "bogus",
        ),
        ("[[device]]\nname = \"x y\"\n", "x y"),
        (
            "[[device]]\nname = \"zram0\"\nswap = true\nfrontend = \"nbd\"\n",
            "swap",
        ),
        ("[[device]]\nsize = 4096\n", "name"),
    ] {
        std::fs::write(&bad, text).unwrap();
        let said = bench.fails(2, &["daemon", "--check", "--config", &bad]);
        assert!(said.contains(word), "{text}: {said}");
    }
    assert!(
        bench
            .fails(2, &["daemon", "--config", "/nonexistent"])
            .contains("/nonexistent")
    );
    // What has no end, or no beginning, is not waited for.
    let pipe = bench.path("pipe").display().to_string();
    sh(&format!("mkfifo {pipe}"));
    for (path, word) in [
        (&*pipe, "no regular file"),
        ("/dev/zero", "more than 1048576 bytes"),
    ] {
        let said = bench.fails(1, &["daemon", "--check", "--config", path]);
        assert!(said.contains(word), "{path}: {said}");
    }
    std::fs::write(&bad, "[daemon]\nfrontend = \"x\"\n").unwrap();
    assert!(
        bench
            .fails(2, &["daemon", "--check", "--config", &bad])
            .contains("frontend")
    );
}

/// A listener for what a daemon says.
#[test]
fn systemd_is_told_when_it_is_ready() {
    let bench = Bench::new();
    let path = bench.path("notify.sock");
    let socket = UnixDatagram::bind(&path).unwrap();
    socket
        .set_read_timeout(Some(Duration::from_secs(20)))
        .unwrap();
    let daemon = Daemon::start_as(&bench, "", |command| command.env("NOTIFY_SOCKET", &path));
    let mut buffer = [0; 256];
    let mut hear = |word: &str| {
        loop {
            let length = socket.recv(&mut buffer).unwrap();
            if String::from_utf8_lossy(&buffer[..length]).contains(word) {
                return;
            }
        }
    };
    hear("READY=1");
    daemon.terminate();
    hear("STOPPING=1");
}

#[test]
fn interop_systemd_listens_for_the_daemon() {
    needs!(&["systemd-socket-activate", "systemd-analyze"]);
    let bench = Bench::new();
    std::fs::create_dir(bench.run_dir()).unwrap();
    let socket = bench.run_dir().join("uzramd.sock").display().to_string();
    let process = Command::new("systemd-socket-activate")
        .args(["--fdname=uzramd.socket", "-l", &socket])
        .arg("-E")
        .arg(format!("UZRAM_RUN_DIR={}", bench.run_dir().display()))
        .args([env!("CARGO_BIN_EXE_uzramd"), "--config", "/dev/null"])
        .stdin(Stdio::null())
        .spawn()
        .unwrap();
    let daemon = Daemon { process, socket };
    let begin = Instant::now();
    while !Path::new(&daemon.socket).exists() {
        assert!(begin.elapsed().as_secs() < 20);
        std::thread::sleep(Duration::from_millis(10));
    }
    // The first client starts it.
    assert_eq!(daemon.json("/v1")["program"], "uzramd");
    let socket = daemon.socket.clone();
    daemon.terminate();
    assert!(Path::new(&socket).exists(), "it is systemd's to remove");

    // The units are units, whatever is installed where.
    let dist = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../dist/systemd");
    for file in ["uzramd.service", "uzramd.socket"] {
        let unit = std::fs::read_to_string(dist.join(file)).unwrap();
        let unit = unit.replace("/usr/local/bin/uzramd", env!("CARGO_BIN_EXE_uzramd"));
        let without_pages = unit
            .lines()
            .filter(|line| !line.starts_with("Documentation="));
        let unit: Vec<&str> = without_pages.collect();
        std::fs::write(bench.path(file), unit.join("\n") + "\n").unwrap();
    }
    let output = Command::new("systemd-analyze")
        .arg("verify")
        .args([bench.path("uzramd.service"), bench.path("uzramd.socket")])
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(output.status.success() && said.is_empty(), "{said}");
}

/// A daemon that was killed leaves its view of zram's interface, dead; the next one takes its place, and makes nothing twice.
#[test]
fn a_daemon_begins_where_a_dead_one_ended() {
    needs!(&["findmnt"], fuse_loop);
    let bench = Bench::new();
    let at = bench.path("sys");
    let config = |devices: &str| {
        let at = at.display();
        format!("[daemon]\nsysfs = \"{at}\"\nfrontend = \"fuse-loop\"\n{devices}")
    };
    let one = "[[device]]\nname = \"zram0\"\nsize = \"16M\"\nfrontend = \"nbd\"\n";
    let count = |daemon: &Daemon| {
        let devices = daemon.json("/v1/control/devices");
        devices.as_array().unwrap().len()
    };
    let wait_for = |daemon: &Daemon, devices: usize| {
        let begin = Instant::now();
        while count(daemon) < devices {
            assert!(begin.elapsed().as_secs() < 20);
            std::thread::sleep(Duration::from_millis(20));
        }
    };
    let daemon = Daemon::start(&bench, &config(one));
    wait_for(&daemon, 1);
    assert_eq!(
        sh(&format!("cat {}/block/zram0/disksize", at.display())),
        "16777216\n"
    );
    drop(daemon);
    let daemon = Daemon::start(&bench, &config(one));
    let begin = Instant::now();
    // The view is there before the socket answers, or soon after.
    while std::fs::read_to_string(at.join("block/zram0/disksize")).is_err() {
        assert!(begin.elapsed().as_secs() < 20);
        std::thread::sleep(Duration::from_millis(20));
    }
    assert_eq!(count(&daemon), 1);
    // SIGHUP: the configuration is read again.
    let two = format!("{one}[[device]]\nname = \"zram1\"\nsize = \"16M\"\nfrontend = \"nbd\"\n");
    std::fs::write(bench.path("uzram.toml"), config(&two)).unwrap();
    sh(&format!("kill -HUP {}", daemon.process.id()));
    wait_for(&daemon, 2);
    // One without a size is removed by its name, too.
    assert_eq!(daemon.http("POST", "/v1/control/hot_add", "").1, "2\n");
    bench.uzram(&["remove", "zram2"]);
    assert_eq!(count(&daemon), 2);
    // As zramctl: a free one is found, added if need be, and set up by the name that was printed.
    assert_eq!(bench.uzram(&["list", "-f"]), "/dev/zram2\n");
    assert_eq!(bench.uzram(&["list", "-f"]), "/dev/zram2\n");
    bench.uzram(&["list", "/dev/zram2", "-s", "1M", "-a", "lzo"]);
    let row = bench.uzram(&["list", "-n", "--raw", "-o", "name,algorithm", "zram2"]);
    assert_eq!(row, "zram2 lzo\n");
    assert!(
        bench
            .uzram(&["list", "-V"])
            .contains(env!("CARGO_PKG_VERSION"))
    );
    bench.uzram(&["remove", "--all"]);
    assert_eq!(count(&daemon), 0);
    daemon.terminate();
    assert!(!at.join("block").exists(), "it was unmounted");
}

/// A device's record as it is now.
fn record(bench: &Bench, name: &str) -> Value {
    let path = bench.run_dir().join(name).join("device.json");
    serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap()
}

/// What the daemon says goes to a file.
fn logged(bench: &Bench) -> (std::fs::File, PathBuf) {
    let path = bench.path("daemon.log");
    (std::fs::File::create(&path).unwrap(), path)
}

fn wait_until(what: &str, mut it: impl FnMut() -> bool) {
    let begin = Instant::now();
    while !it() {
        assert!(begin.elapsed().as_secs() < 30, "{what}");
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// Each device is held before anybody is told that it is there.
#[test]
fn a_new_device_is_held_at_once() {
    let bench = Bench::new();
    let _daemon = Daemon::start(&bench, "");
    for name in ["zram0", "zram1", "zram2", "zram3"] {
        bench.create(&["--size", "1M", "--frontend", "nbd", "--name", name]);
        let old = record(&bench, name);
        kill_together(&["pid", "keeper"].map(|which| old[which].as_u64().unwrap()));
        bench.wait_for(name, |record| record["pid"] != old["pid"]);
    }
}

/// Whoever makes a device hears that it is less safe than it looks.
#[test]
fn a_device_that_cannot_be_held_is_told_of() {
    needs!(&["prlimit"]);
    let bench = Bench::new();
    let (log, path) = logged(&bench);
    let daemon = Daemon::start_as(&bench, "", |command| command.stderr(log));
    let pid = daemon.process.id();
    let open = std::fs::read_dir(format!("/proc/{pid}/fd"))
        .unwrap()
        .count();
    let mut told = 0;
    for limit in open + 3..open + 16 {
        sh(&format!("prlimit --pid {pid} --nofile={limit}:4096"));
        let output = bench.output(&["create", "--size=1M", "--frontend=nbd"]);
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        let is_told = said.contains("cannot hold the memory of");
        assert!(output.status.success() || !is_told, "{said}");
        told += usize::from(is_told);
    }
    let text = std::fs::read_to_string(&path).unwrap();
    assert_eq!(
        text.matches("its memory is not held").count(),
        told,
        "{text}"
    );
    assert!(told > 0, "{text}");
    sh(&format!("prlimit --pid {pid} --nofile=4096:4096"));
    bench.uzram(&["remove", "--all"]);
}

/// It holds nothing of what is made without it.
#[test]
fn a_daemon_that_stands_still_is_gone_past_with_a_word() {
    let bench = Bench::new();
    let daemon = Daemon::start(&bench, "");
    let stopped = Stopped::new(daemon.process.id().into());
    let made = bench.output(&["create", "--size=1M", "--frontend=nbd"]);
    drop(stopped);
    let said = String::from_utf8_lossy(&made.stderr).into_owned();
    assert!(made.status.success(), "{said}");
    assert!(
        said.contains("does not answer within") && said.contains("stopped?"),
        "{said}"
    );
    bench.uzram(&["remove", "zram0"]);
}

/// A foreground server has no keeper, and nothing of it is held.
#[test]
fn a_dead_device_that_nobody_holds_is_said_to_be_dead_at_once() {
    let bench = Bench::new();
    let daemon = Daemon::start(&bench, "");
    let mut server = bench
        .command(&[
            "create",
            "--size",
            "1M",
            "--frontend",
            "nbd",
            "--foreground",
        ])
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    wait_until("the device", || {
        daemon.http("GET", "/v1/devices/zram0", "").0 == 200
    });
    server.kill().unwrap();
    server.wait().unwrap();
    let begin = Instant::now();
    let path = "/v1/devices/zram0/requests";
    let said = daemon.refused("POST", path, r#"{"op":"stat"}"#, "ENODEV");
    assert!(said.contains("its contents are lost"), "{said}");
    daemon.get("/v1/devices");
    // A server that is about to come back is waited for, for five seconds each time.
    assert!(begin.elapsed() < Duration::from_secs(4));
}

const GOOD: &str = "[[device]]\nname = \"zram7\"\nsize = \"1M\"\nfrontend = \"nbd\"\n";

/// A configuration in which much is wrong, and a zram-generator.conf likewise; and the words for each problem.
fn broken(bench: &Bench) -> (String, Vec<String>) {
    let generator = bench.path("root/etc/systemd/zram-generator.conf");
    std::fs::create_dir_all(generator.parent().unwrap()).unwrap();
    std::fs::create_dir_all(bench.path("root/proc")).unwrap();
    std::fs::write(bench.path("root/proc/meminfo"), "MemTotal: 100000 kB\n").unwrap();
    let text = "[zram20]\nzram-size = ram +\n[zram21]\nzram-size = 1\nfs-type = no-such-fs\n\
        [zram22]\nzram-size = 1\nfs-type = ext2\nwriteback-device = /dev/no-such-device\n\
        [zram7]\nzram-size = 1\nfs-type = ext2\n";
    std::fs::write(&generator, text).unwrap();
    let config = format!(
        "[daemon]\nfrontend = \"bogus\"\nzram_generator = true\nsysfs = \"relative\"\n{GOOD}\
         [[device]]\nname = \"zram8\"\nalgorithm = \"bogus\"\n\
         [[device]]\nname = \"zram9\"\nsize = \"8X\"\n\
         [[device]]\nname = \"zram10\"\nsize = \"1M\"\nfrontend = \"nbd\"\nlisten = \"unix:/no/such/dir/socket\"\n\
         [[device]]\nname = \"zram11\"\nsize = \"1M\"\nfrontend = \"nbd\"\nlisten = \"tcp:0.0.0.0\"\n\
         [[device]]\nname = \"zram12\"\nsize = \"1M\"\nbacking = \"/no/such/file\"\n\
         [[device]]\nname = \"zram13\"\nmount-owner = \"no-such-user\"\nmount-point = \"/no/such/place\"\n\
         {GOOD}"
    );
    let (file, generator) = (bench.path("uzram.toml"), generator.display().to_string());
    let file = file.display();
    let said = vec![
        format!("{file}: [daemon]: frontend: "),
        format!("{file}: [daemon]: sysfs: "),
        format!("{file}: [[device]] zram8: "),
        format!("{file}: [[device]] zram9: "),
        format!("{file}: [[device]] zram10: "),
        format!("{file}: [[device]] zram11: "),
        format!("{file}: [[device]] zram12: "),
        format!("{file}: [[device]] zram13: mount-owner: "),
        format!("{file}: [[device]] zram7: name: "),
        format!("{generator}: [zram20]: zram-size: "),
        format!("{generator}: [zram21]: fs-type: "),
        format!("{generator}: [zram22]: backing: "),
        format!("{generator}: [zram7]: name: "),
    ];
    (config, said)
}

#[test]
fn one_bad_entry_costs_no_other_and_is_named() {
    let bench = Bench::new();
    let (config, said) = broken(&bench);
    let (log, path) = logged(&bench);
    let root = bench.path("root");
    let daemon = Daemon::start_as(&bench, &config, |command| {
        command.env("ZRAM_GENERATOR_ROOT", &root).stderr(log)
    });
    wait_until("the good device", || {
        daemon.http("GET", "/v1/devices/zram7", "").0 == 200
    });
    let ready = || std::fs::read_to_string(&path).unwrap().contains(": ready");
    wait_until("it is ready", ready);
    let text = std::fs::read_to_string(&path).unwrap();
    for words in &said {
        let lines = text.lines().filter(|line| line.contains(words.as_str()));
        assert_eq!(lines.count(), 1, "{words}:\n{text}");
    }
    let made = daemon.json("/v1/control/devices");
    assert_eq!(made.as_array().unwrap().len(), 1, "{made}");
    // The same when it is read again: what is good is made.
    let more = format!("{config}{}", GOOD.replace("zram7", "zram30"));
    std::fs::write(bench.path("uzram.toml"), more).unwrap();
    sh(&format!("kill -HUP {}", daemon.process.id()));
    wait_until("the new device", || {
        daemon.http("GET", "/v1/devices/zram30", "").0 == 200
    });
    // And where the file is broken as such.
    let broken = format!("[[device]\nname\n{}", GOOD.replace("zram7", "zram31"));
    std::fs::write(bench.path("uzram.toml"), broken).unwrap();
    sh(&format!("kill -HUP {}", daemon.process.id()));
    wait_until("the new device", || {
        daemon.http("GET", "/v1/devices/zram31", "").0 == 200
    });
}

/// What only one device can have, a port or a number, is found before the second fails to get it.
#[test]
fn what_two_sections_share_is_found_by_a_check() {
    let bench = Bench::new();
    let file = bench.path("uzram.toml");
    let check = |one: &str, two: &str| {
        let section = |name: &str, text: &str| {
            format!("[[device]]\nname = \"{name}\"\nsize = \"4M\"\n{text}\n")
        };
        std::fs::write(&file, section("zram7", one) + &section("zram8", two)).unwrap();
        bench.output(&["daemon", "--check", "--config", file.to_str().unwrap()])
    };
    let nbd = "frontend = \"nbd\"\nlisten = ";
    for (one, two, words) in [
        (
            format!("{nbd}\"tcp:127.0.0.1:10899\""),
            "listen = \"tcp:127.0.0.1:10899\"".to_owned(),
            "listen: tcp:127.0.0.1:10899 is that of",
        ),
        (
            format!("{nbd}\"unix:/tmp/no-such.sock\""),
            "frontend = \"vhost-user\"\nlisten = \"unix:/tmp/no-such.sock\"".into(),
            "listen: unix:/tmp/no-such.sock is that of",
        ),
        (
            format!("{nbd}\"unix:/tmp/no-such.sock\""),
            format!("{nbd}\"unix:/tmp/.//no-such.sock\""),
            "listen: unix:/tmp/no-such.sock is that of",
        ),
        (
            "backing = \"/tmp/no-such,16M\"".into(),
            "backing = \"/tmp/no-such,32M\"".into(),
            "backing: it is that of",
        ),
        (
            "frontend = \"fuse-loop\"\nnumber = 77".into(),
            "number = 77".into(),
            "number: 77 is that of",
        ),
    ] {
        let output = check(&one, &two);
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(said.contains(words) && said.contains("zram8"), "{said}");
        assert_eq!(output.status.code(), Some(2), "{said}");
    }
    for (one, two) in [
        (
            format!("{nbd}\"tcp:127.0.0.1:0\""),
            format!("{nbd}\"tcp:127.0.0.1:0\""),
        ),
        (
            nbd.to_owned() + "\"tcp:127.0.0.1:10899\"",
            nbd.to_owned() + "\"tcp:127.0.0.1:10898\"",
        ),
    ] {
        let output = check(&one, &two);
        assert!(output.status.success(), "{output:?}");
    }
}

#[test]
fn a_check_lists_all_that_is_wrong() {
    let bench = Bench::new();
    let (config, said) = broken(&bench);
    let file = bench.path("uzram.toml");
    let check = |text: &str| {
        std::fs::write(&file, text).unwrap();
        let output = bench
            .command(&["daemon", "--check", "--config"])
            .arg(&file)
            .env("ZRAM_GENERATOR_ROOT", bench.path("root"))
            .output()
            .unwrap();
        let text = String::from_utf8(output.stderr).unwrap();
        (output.status.code().unwrap(), text)
    };
    let (code, text) = check(&config);
    assert_eq!(code, 2, "{text}");
    for words in &said {
        let lines = text.lines().filter(|line| line.contains(words.as_str()));
        assert_eq!(lines.count(), 1, "{words}:\n{text}");
    }
    assert!(text.contains(&format!("{} problems", said.len())), "{text}");
    assert_eq!(check(GOOD), (0, String::new()));
    // A terminal shows what stands in it, and does not obey.
    let (_, text) = check("[[device]]\nname = \"zram1\\u001b[2J\"\n");
    assert!(
        text.contains("zram1\\u{1b}[2J") && !text.contains('\u{1b}'),
        "{text:?}"
    );
    // What create says of it, and with its exit code.
    if uzram_runtime::frontends::by_name("ublk").is_some_and(|ublk| ublk.probe().is_err()) {
        let (code, text) = check("[[device]]\nname = \"zram0\"\nsize = \"64M\"\nswap = true\n");
        assert_eq!(code, 5, "{text}");
        let said = bench.fails(5, &["create", "--size", "64M", "--swap"]);
        let why = said.lines().last().unwrap_or_default();
        let why = why.trim_start_matches("uzram: ");
        assert!(text.contains(why), "{text}\n{said}");
    }
    // Nothing was made by any of it.
    assert_eq!(bench.uzram(&["list", "--noheadings"]), "");
    assert!(!Path::new("/no").exists());
}

/// A name is used again; an identity is not.
#[test]
fn a_device_is_removed_by_its_identity() {
    let bench = Bench::new();
    let daemon = Daemon::start(&bench, "");
    let make = || {
        let body = "{\"size\":\"1M\",\"frontend\":\"nbd\"}";
        let (status, made) = daemon.http("POST", "/v1/devices", body);
        assert_eq!(status, 201, "{made}");
        let made: Value = serde_json::from_str(&made).unwrap();
        assert_eq!(made["name"], "zram0");
        made["identity"].as_str().unwrap().to_owned()
    };
    let first = make();
    assert_eq!(daemon.json("/v1/devices/zram0")["identity"], first.as_str());
    let by = |identity: &str| format!("/v1/devices/zram0?identity={identity}");
    assert_eq!(daemon.http("DELETE", &by(&first), "").0, 204);
    let second = make();
    assert_ne!(first, second);
    let said = daemon.refused("DELETE", &by(&first), "", "ENODEV");
    assert!(said.contains("another device"), "{said}");
    assert_eq!(
        daemon.json("/v1/devices/zram0")["identity"],
        second.as_str()
    );
    // After this the daemon has written down what it knows.
    daemon.put("/v1/devices/zram0/attributes/mem_limit", "1M");
    assert_eq!(daemon.http("DELETE", &by(&second), "").0, 204);
    daemon.refused("DELETE", &by(&second), "", "ENODEV");
    assert_eq!(daemon.json("/v1/devices").as_array().unwrap().len(), 0);
    // It does not come back with another daemon as one that has no size.
    daemon.terminate();
    let daemon = Daemon::start(&bench, "");
    assert_eq!(daemon.json("/v1/devices").as_array().unwrap().len(), 0);
}

/// The largest dictionary that there can be is twice as long in hexadecimal.
#[test]
fn a_dictionary_fits_into_a_request() {
    let bench = Bench::new();
    let daemon = Daemon::start(&bench, "");
    let body = "{\"size\":\"1M\",\"frontend\":\"nbd\",\"algorithm\":\"zstd\"}";
    assert_eq!(daemon.http("POST", "/v1/devices", body).0, 201);
    let set = |bytes: usize| {
        let dictionary = "5a".repeat(bytes);
        let body = format!(
            "{{\"op\":\"set_algorithm\",\"priority\":0,\"algorithm\":\"zstd\",\"dictionary\":\"{dictionary}\"}}"
        );
        daemon.http("POST", "/v1/devices/zram0/requests", &body)
    };
    for bytes in [700 << 10, 1 << 20] {
        let (status, said) = set(bytes);
        assert_eq!(status, 200, "{said}");
    }
    let (status, said) = set(2 << 20);
    assert_eq!(status, 413, "{said}");
    assert!(said.contains("at most 3145728 bytes"), "{said}");
    assert_eq!(daemon.http("DELETE", "/v1/devices/zram0", "").0, 204);
}

/// It once was silent, and did nothing.
#[test]
fn a_generator_configuration_that_is_not_read_is_mentioned() {
    if Path::new("/etc/uzram.toml").exists() {
        return;
    }
    let bench = Bench::new();
    broken(&bench);
    let output = bench
        .command(&["daemon", "--check"])
        .env("ZRAM_GENERATOR_ROOT", bench.path("root"))
        .output()
        .unwrap();
    let said = String::from_utf8(output.stderr).unwrap();
    assert!(output.status.success(), "{said}");
    assert!(said.contains("zram_generator = true"), "{said}");
}

#[test]
fn mounts_are_made_in_order_and_as_they_were_asked_for() {
    needs!(&["mkfs.ext4", "mkfs.minix", "findmnt"], fuse_loop);
    let bench = Bench::new();
    let at = bench.path("a").display().to_string();
    let device = |name: &str, rest: &str| {
        format!("[[device]]\nname = \"{name}\"\nsize = \"16M\"\nfrontend = \"fuse-loop\"\n{rest}\n")
    };
    let config = [
        device("zram1", &format!("mount-point = \"{at}/b/c\"")),
        device(
            "zram2",
            &format!(
                "mount-point = \"{at}/./b/\"\nlabel = \"lbl\"\nmkfs-options = [\"-O\", \"^has_journal\"]\n\
                 mount-options = \"nodev,discard\"\nmount-owner = \"1234:4321\"\nmount-mode = \"1777\""
            ),
        ),
        device("zram3", &format!("mount-point = \"{at}//b\"")),
        device("zram4", &format!("mount-point = \"{at}\"")),
        device("zram5", "block-size = 512\nfs-type = \"minix\""),
    ]
    .concat();
    let (log, path) = logged(&bench);
    let daemon = Daemon::start_as(&bench, &config, |command| command.stderr(log));
    let text = || std::fs::read_to_string(&path).unwrap();
    wait_until("it is ready", || text().contains(": ready"));
    let show = |line: &str| sh(line).trim().to_owned();
    for (place, name) in [("", "zram4"), ("/b", "zram2"), ("/b/c", "zram1")] {
        let node = record(&bench, name)["path"].as_str().unwrap().to_owned();
        let found = show(&format!("findmnt -n -o SOURCE {at}{place}"));
        assert_eq!(found, node, "{place}\n{}", text());
    }
    assert_eq!(
        show(&format!("stat -c '%a %u %g' {at}/b")),
        "1777 1234 4321"
    );
    assert!(show(&format!("findmnt -n -o OPTIONS {at}/b")).contains("nodev"));
    let node = record(&bench, "zram2")["path"].as_str().unwrap().to_owned();
    assert_eq!(show(&format!("blkid -p -o value -s LABEL {node}")), "lbl");
    let node = record(&bench, "zram5")["path"].as_str().unwrap().to_owned();
    assert_eq!(show(&format!("blkid -p -o value -s TYPE {node}")), "minix");
    assert!(
        text().contains("[[device]] zram3: mount-point: "),
        "{}",
        text()
    );
    assert_eq!(
        daemon.json("/v1/control/devices").as_array().unwrap().len(),
        4
    );
    // Another device in the place of one that runs would hide what is there.
    let config = bench.path("other.toml");
    let other = device("zram9", &format!("mount-point = \"{at}//b/\""));
    std::fs::write(&config, other).unwrap();
    let said = bench.fails(
        3,
        &["daemon", "--check", "--config", config.to_str().unwrap()],
    );
    assert!(
        said.contains("zram9") && said.contains("is already that of zram2"),
        "{said}"
    );
    sh(&format!("umount {at}/b/c {at}/b {at}"));
}
