//! `uzram send` between two hosts: network namespaces with a cable between them, which is cut in the middle.

mod common;

use std::fs;
use std::io::{BufRead, BufReader};
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::atomic::AtomicU32;
use std::sync::atomic::Ordering::Relaxed;
use std::time::{Duration, Instant};

use common::{Bench, have, sh, text};
use uzram_testkit::peers;

/// What carries bytes between a command and TCP, as ssh does between hosts. `there COMMAND...` takes one connection as the
/// command's input and output, `here` connects.
const CARRIER: &str = r#"
import os, socket, sys, threading
where = (sys.argv[2], 7000)
if sys.argv[1] == "there":
    listener = socket.create_server(where)
    open(sys.argv[3], "w").close()
    peer, _ = listener.accept()
    os.dup2(peer.fileno(), 0)
    os.dup2(peer.fileno(), 1)
    os.execvp(sys.argv[4], sys.argv[4:])
peer = socket.create_connection(where)
def up():
    while data := os.read(0, 1 << 16):
        peer.sendall(data)
    peer.shutdown(socket.SHUT_WR)
threading.Thread(target=up, daemon=True).start()
while data := peer.recv(1 << 16):
    os.write(1, data)
"#;

/// Two namespaces of this test's own, and a cable.
struct Cable {
    names: [String; 2],
}

impl Cable {
    const THERE: &str = "10.249.17.2";

    fn lay() -> Result<Cable, String> {
        // Those of the tests of a process lie beside each other.
        static LAID: AtomicU32 = AtomicU32::new(0);
        let (process, number) = (std::process::id(), LAID.fetch_add(1, Relaxed));
        let names = ["a", "b"].map(|end| format!("uzram-{end}-{process}-{number}"));
        let cable = Cable { names };
        let [a, b] = &cable.names;
        let script = format!(
            "ip netns add {a} && ip netns add {b} && ip -n {a} link add cable type veth peer name cable netns {b} \
             && ip -n {a} addr add 10.249.17.1/24 dev cable && ip -n {b} addr add {}/24 dev cable \
             && ip -n {a} link set cable up && ip -n {b} link set cable up",
            Self::THERE
        );
        let output = Command::new("sh").args(["-c", &script]).output().unwrap();
        match output.status.success() {
            true => Ok(cable),
            false => Err(String::from_utf8_lossy(&output.stderr).into_owned()),
        }
    }

    /// What a command runs in a namespace by.
    fn within(&self, end: usize) -> String {
        format!("ip netns exec {}", self.names[end])
    }
}

impl Drop for Cable {
    fn drop(&mut self) {
        for name in &self.names {
            let _ = Command::new("ip").args(["netns", "del", name]).status();
        }
    }
}

/// A process with its group, which does not outlive a test that fails.
struct Started(Child);

impl Started {
    fn signal(&self, signal: &str) {
        sh(&format!("kill -{signal} -{}", self.0.id()));
    }
}

impl Drop for Started {
    fn drop(&mut self) {
        if let Ok(None) = self.0.try_wait() {
            self.signal("KILL");
            let _ = self.0.wait();
        }
    }
}

/// A device on the first of two hosts.
struct Hosts {
    here: Bench,
    there: Bench,
    uri: String,
    cable: Cable,
}

impl Hosts {
    fn new(cable: Cable) -> Hosts {
        let (here, there) = (Bench::new(), Bench::new());
        let uri = here.create(&["--size=64M", "--frontend=nbd", "--policy=none"]);
        fs::write(here.path("carrier.py"), CARRIER).unwrap();
        fs::write(here.path("data"), text(16384)).unwrap();
        sh(&format!(
            "qemu-img convert -n -f raw -O raw '{}' '{uri}'",
            here.path("data").display()
        ));
        Hosts {
            here,
            there,
            uri,
            cable,
        }
    }

    fn carrier(&self) -> PathBuf {
        self.here.path("carrier.py")
    }

    /// Has the other host wait for a device. What it says goes nowhere.
    fn receive(&self) -> Started {
        self.receive_with("")
    }

    fn receive_with(&self, options: &str) -> Started {
        let ready = self.there.path("ready");
        let _ = fs::remove_file(&ready);
        let script = format!(
            "exec {} python3 '{}' there {} '{}' '{}' receive --frontend nbd --policy none {options}",
            self.cable.within(1),
            self.carrier().display(),
            Cable::THERE,
            ready.display(),
            env!("CARGO_BIN_EXE_uzram"),
        );
        let mut shell = Command::new("sh");
        shell.args(["-c", &script]).stderr(Stdio::null());
        shell.env("UZRAM_RUN_DIR", self.there.run_dir());
        let started = Started(shell.process_group(0).spawn().unwrap());
        let begin = Instant::now();
        while !ready.exists() {
            assert!(begin.elapsed() < Duration::from_secs(20));
            std::thread::sleep(Duration::from_millis(10));
        }
        started
    }

    /// `uzram send` to it.
    fn send(&self) -> Command {
        self.send_with(&[])
    }

    fn send_with(&self, options: &[&str]) -> Command {
        let script = format!(
            "exec {} python3 '{}' here {}",
            self.cable.within(0),
            self.carrier().display(),
            Cable::THERE
        );
        let last = ["--", "sh", "-c", &script];
        self.here
            .command(&[&["send", "zram0"], options, &last].concat())
    }

    fn holds(&self, uri: &str) -> bool {
        let data = self.here.path("data");
        let mut compare = Command::new("qemu-img");
        compare.args(["compare", "-q", "-f", "raw", "-F", "raw", uri]);
        compare.arg(data).status().unwrap().success()
    }
}

#[test]
fn a_device_goes_from_host_to_host_and_stays_where_the_cable_is_cut() {
    let name = "a_device_goes_from_host_to_host_and_stays_where_the_cable_is_cut";
    if !have(name, &["ip", "python3", "qemu-img", "tc"], false) {
        return;
    }
    let cable = match Cable::lay() {
        Ok(cable) => cable,
        Err(why) => return peers::skip(name, why),
    };
    let hosts = Hosts::new(cable);

    // A cable so slow that it is cut in the middle of a round.
    let [a, _] = &hosts.cable.names;
    sh(&format!(
        "tc -n {a} qdisc add dev cable root tbf rate 8mbit burst 32k latency 50ms"
    ));
    let mut receiver = hosts.receive();
    let mut sender = Started(hosts.send().process_group(0).spawn().unwrap());
    std::thread::sleep(Duration::from_secs(1));
    sh(&format!("ip -n {a} link set cable down"));
    std::thread::sleep(Duration::from_secs(1));
    for started in [&mut sender, &mut receiver] {
        assert_eq!(started.0.try_wait().unwrap(), None);
    }
    // Nobody's requests wait for the other host meanwhile.
    assert!(hosts.holds(&hosts.uri));
    // As somebody who gives up. An interrupt is ignored by what a shell has started in its background.
    sender.signal("TERM");
    assert!(!sender.0.wait().unwrap().success());
    assert!(hosts.holds(&hosts.uri));
    drop(receiver);
    hosts.there.assert_clean();

    // It is mended, and as fast as it is.
    sh(&format!(
        "tc -n {a} qdisc del dev cable root; ip -n {a} link set cable up"
    ));
    let mut receiver = hosts.receive();
    let sent = hosts.send().output().unwrap();
    assert!(sent.status.success(), "{sent:?}");
    let uri = String::from_utf8(sent.stdout).unwrap();
    assert!(hosts.holds(uri.trim()));
    assert!(receiver.0.wait().unwrap().success());
    hosts.here.assert_clean();
    hosts.there.remove_last("zram0");
}

/// A device that is sent lazily, by a cable that is out for a while: what is missing waits and fails, and comes when it is mended.
#[test]
fn what_is_still_elsewhere_waits_for_the_cable() {
    let name = "what_is_still_elsewhere_waits_for_the_cable";
    if !have(name, &["ip", "python3", "qemu-img", "qemu-io", "tc"], false) {
        return;
    }
    let cable = match Cable::lay() {
        Ok(cable) => cable,
        Err(why) => return peers::skip(name, why),
    };
    let hosts = Hosts::new(cable);
    let [a, _] = &hosts.cable.names;
    sh(&format!(
        "tc -n {a} qdisc add dev cable root tbf rate 4mbit burst 32k latency 50ms"
    ));
    let mut receiver = hosts.receive_with("--remote-timeout 7");
    let mut sending = hosts.send_with(&["--lazy"]);
    let sending = sending.process_group(0).stdout(Stdio::piped());
    let mut sender = Started(sending.spawn().unwrap());
    let mut out = BufReader::new(sender.0.stdout.take().unwrap());
    let mut uri = String::new();
    out.read_line(&mut uri).unwrap();
    let uri = uri.trim();
    let read = |at: &str| {
        let mut io = Command::new("qemu-io");
        let io = io.args([
            "-f",
            "raw",
            "-t",
            "none",
            "-c",
            &format!("read {at} 4k"),
            uri,
        ]);
        let output = io.output().unwrap();
        !String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).contains("rror")
    };
    assert!(read("60M"));
    sh(&format!("ip -n {a} link set cable down"));
    assert!(!read("40M"));
    assert!(read("60M"), "what is there needs no cable");
    let words = hosts.there.uzram(&["stat", "zram0"]);
    assert!(words.contains("it does not answer"), "{words}");
    for started in [&mut sender, &mut receiver] {
        assert_eq!(started.0.try_wait().unwrap(), None);
    }
    sh(&format!(
        "tc -n {a} qdisc del dev cable root; ip -n {a} link set cable up"
    ));
    assert!(sender.0.wait().unwrap().success());
    assert!(receiver.0.wait().unwrap().success());
    assert!(hosts.holds(uri));
    hosts.here.assert_clean();
    hosts.there.remove_last("zram0");
}
