//! A cluster of ten processes: three masters, three volume servers, two filers, two gateways. One of them is killed in the middle of
//! an upload and of a restore. Takes minutes and 1.3 GiB of memory, so it is for `--ignored`.

mod common;

use std::fs::File;
use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use common::proxy::Proxy;
use common::{Host, OWNER, Running, folder, noise, wait_until};
use uzram_testkit::peers::have;

/// A process of the cluster.
struct Member {
    kind: &'static str,
    port: u16,
    args: Vec<String>,
    child: Child,
}

struct Cluster {
    dir: PathBuf,
    members: Vec<Member>,
    _dir: tempfile::TempDir,
}

fn ports(count: usize) -> Vec<u16> {
    let held: Vec<_> = (0..count)
        .map(|_| TcpListener::bind("127.0.0.1:0").unwrap())
        .collect();
    held.iter()
        .map(|held| held.local_addr().unwrap().port())
        .collect()
}

/// As they name each other: both ports.
fn name(of: &[u16]) -> String {
    format!("127.0.0.1:{}.{}", of[0], of[1])
}

impl Cluster {
    fn start() -> Cluster {
        let (guard, dir) = folder();
        let [id, secret] = OWNER;
        let all = serde_json::json!({"identities": [{
            "name": "owner", "credentials": [{"accessKey": id, "secretKey": secret}],
            "actions": ["Admin", "Read", "List", "Tagging", "Write"],
        }]});
        std::fs::write(dir.join("s3.json"), all.to_string()).unwrap();
        let ports = ports(20);
        let pairs: Vec<&[u16]> = ports.chunks(2).collect();
        let (masters, rest) = pairs.split_at(3);
        let (volumes, rest) = rest.split_at(3);
        let (filers, gateways) = rest.split_at(2);
        let names = |of: &[&[u16]]| of.iter().map(|of| name(of)).collect::<Vec<_>>().join(",");
        let mut cluster = Cluster {
            dir,
            members: Vec::new(),
            _dir: guard,
        };
        for of in masters {
            let more = [
                format!("-peers={}", names(masters)),
                "-defaultReplication=001".into(),
                "-volumeSizeLimitMB=256".into(),
                "-telemetry=false".into(),
            ];
            cluster.run("master", of, "mdir", &more);
        }
        wait_until("a leader", || cluster.leader().is_some());
        for of in volumes {
            let more = [format!("-master={}", names(masters)), "-max=20".into()];
            cluster.run("volume", of, "dir", &more);
        }
        for of in filers {
            let more = [
                format!("-master={}", names(masters)),
                "-defaultReplicaPlacement=001".into(),
                format!(
                    "-localSocket={}",
                    cluster.dir.join(format!("f{}.sock", of[0])).display()
                ),
            ];
            cluster.run("filer", of, "defaultStoreDir", &more);
            // The second finds the first.
            wait_until("a filer", || {
                TcpStream::connect(("127.0.0.1", of[1])).is_ok()
            });
        }
        for of in gateways {
            let more = [
                format!("-filer={}", names(filers)),
                format!("-config={}", cluster.dir.join("s3.json").display()),
                "-port.lance=0".into(),
                "-port.iceberg=0".into(),
                format!(
                    "-localSocket={}",
                    cluster.dir.join(format!("s{}.sock", of[0])).display()
                ),
            ];
            cluster.run("s3", of, "", &more);
            wait_until("a gateway", || {
                TcpStream::connect(("127.0.0.1", of[0])).is_ok()
            });
        }
        let filer = filers[0][0];
        wait_until("a bucket", || {
            http(filer, "POST", "/buckets/warm/").contains(" 201 ")
        });
        cluster
    }

    fn run(&mut self, kind: &'static str, ports: &[u16], place: &str, more: &[String]) {
        let mut args = vec![
            kind.to_owned(),
            "-ip.bind=127.0.0.1".into(),
            format!("-port={}", ports[0]),
            format!("-port.grpc={}", ports[1]),
        ];
        if kind != "s3" {
            args.push("-ip=127.0.0.1".into());
        }
        if !place.is_empty() {
            let own = self.dir.join(format!("{kind}{}", ports[0]));
            std::fs::create_dir(&own).unwrap();
            args.push(format!("-{place}={}", own.display()));
        }
        args.extend_from_slice(more);
        let child = self.spawn(&args);
        self.members.push(Member {
            kind,
            port: ports[0],
            args,
            child,
        });
    }

    fn spawn(&self, args: &[String]) -> Child {
        let log = File::options()
            .create(true)
            .append(true)
            .open(self.dir.join("log"))
            .unwrap();
        let mut command = Command::new("weed");
        command
            .args(args)
            .current_dir(&self.dir)
            .stdin(Stdio::null());
        command
            .stdout(log.try_clone().unwrap())
            .stderr(log)
            .spawn()
            .unwrap()
    }

    /// Which master leads.
    fn leader(&self) -> Option<usize> {
        let is_leader = |member: &Member| {
            member.kind == "master"
                && http(member.port, "GET", "/cluster/status").contains("\"IsLeader\":true")
        };
        self.members.iter().position(is_leader)
    }

    fn first(&self, kind: &str) -> usize {
        self.members
            .iter()
            .position(|member| member.kind == kind)
            .unwrap()
    }

    fn kill(&mut self, at: usize) {
        let _ = self.members[at].child.kill();
        let _ = self.members[at].child.wait();
    }

    fn start_again(&mut self, at: usize) {
        let child = self.spawn(&self.members[at].args.clone());
        self.members[at].child = child;
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        for at in 0..self.members.len() {
            self.kill(at);
        }
    }
}

fn http(port: u16, method: &str, path: &str) -> String {
    let ask = || {
        let mut stream = TcpStream::connect(("127.0.0.1", port))?;
        stream.set_read_timeout(Some(Duration::from_secs(5)))?;
        write!(
            stream,
            "{method} {path} HTTP/1.0\r\nHost: x\r\nContent-Length: 0\r\n\r\n"
        )?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer)?;
        Ok::<_, std::io::Error>(answer)
    };
    ask().unwrap_or_default()
}

#[test]
#[ignore = "ten processes, minutes"]
fn one_of_ten_dies_in_the_middle() {
    if !have("one_of_ten_dies_in_the_middle", &["qemu-img", "weed"]) {
        return;
    }
    let begin = Instant::now();
    let mut cluster = Cluster::start();
    eprintln!(
        "cluster of {}: {:.1} s",
        cluster.members.len(),
        begin.elapsed().as_secs_f32()
    );
    let gateway = cluster.members.last().unwrap().port;
    let proxy = Proxy::start(&format!("127.0.0.1:{gateway}"), 0);
    let host = Host::new();
    host.works(&[
        "remote",
        "add",
        "ci",
        "s3://warm/disks",
        "--endpoint",
        &proxy.endpoint(),
    ]);
    let bytes = noise(40, 128);
    host.filled(&bytes);
    let time = Instant::now();
    host.works(&["snapshot", "zram0", "ci/unharmed"]);
    eprintln!(
        "an upload of 128 MiB, unharmed: {:.1} s",
        time.elapsed().as_secs_f32()
    );
    let time = Instant::now();
    host.restores("ci/unharmed", &bytes);
    eprintln!("a restore, unharmed: {:.1} s", time.elapsed().as_secs_f32());
    for (round, kind) in ["volume", "filer", "leader"].into_iter().enumerate() {
        let which = |cluster: &Cluster| match kind {
            "leader" => cluster.leader().expect("a leader"),
            _ => cluster.first(kind),
        };
        // New bytes, else nothing is sent.
        let bytes = noise(50 + round as u64, 128);
        let uri = host.run_dir().join("zram0/nbd.sock");
        host.fill(
            &format!("nbd+unix:///zram0?socket={}", uri.display()),
            &bytes,
        );
        let tag = format!("ci/{kind}");
        let sent = proxy.sent();
        proxy.set_rate(3 << 20);
        let time = Instant::now();
        let mut upload = Running::start(host.with(OWNER, &["snapshot", "zram0", &tag]));
        wait_until("an upload", || {
            assert!(upload.is_running());
            proxy.sent() > sent + (24 << 20)
        });
        let at = which(&cluster);
        cluster.kill(at);
        proxy.set_rate(0);
        let ended = upload.end();
        let took = time.elapsed().as_secs_f32();
        eprintln!("upload, a {kind} killed: {took:.1} s, {}", ended.status);
        assert!(ended.status.success(), "{ended:?}");
        let time = Instant::now();
        host.works(&["remote", "check", &tag, "--read"]);
        eprintln!("check without it: {:.1} s", time.elapsed().as_secs_f32());
        cluster.start_again(at);
        std::thread::sleep(Duration::from_secs(15));

        let time = Instant::now();
        let mut restore = Running::start(host.with(OWNER, &["restore", &tag, "--frontend=nbd"]));
        std::thread::sleep(Duration::from_millis(300));
        assert!(
            restore.is_running(),
            "it was too soon done for anything to die"
        );
        let at = which(&cluster);
        cluster.kill(at);
        let ended = restore.end();
        let took = time.elapsed().as_secs_f32();
        eprintln!("restore, a {kind} killed: {took:.1} s, {}", ended.status);
        assert!(ended.status.success(), "{ended:?}");
        let uri = String::from_utf8_lossy(&ended.stdout).trim_end().to_owned();
        assert!(host.holds(&uri, &bytes), "other bytes");
        host.works(&["remove", "zram1"]);
        cluster.start_again(at);
        std::thread::sleep(Duration::from_secs(15));
    }
}
