//! SeaweedFS: a store of one process, on loopback and on ports that were free.

use std::fs::File;
use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use super::{OWNER, READER, folder, wait_until};

/// A store; dropped, it is killed.
pub(crate) struct Weed {
    child: Child,
    dir: PathBuf,
    ports: Ports,
    _dir: tempfile::TempDir,
}

/// What it listens on.
#[derive(Clone)]
struct Ports(Vec<u16>);

impl Ports {
    /// Ports that nobody has now.
    fn free(count: usize) -> Ports {
        let held: Vec<_> = (0..count)
            .map(|_| TcpListener::bind("127.0.0.1:0").unwrap())
            .collect();
        let port = |of: &TcpListener| of.local_addr().unwrap().port();
        Ports(held.iter().map(port).collect())
    }
}

impl Weed {
    /// Starts a store with these buckets.
    pub(crate) fn start(buckets: &[&str]) -> Weed {
        let (guard, dir) = folder();
        std::fs::create_dir(dir.join("data")).unwrap();
        let identity = |name: &str, [id, secret]: [&str; 2], actions: &[&str]| {
            serde_json::json!({
                "name": name, "credentials": [{"accessKey": id, "secretKey": secret}], "actions": actions,
            })
        };
        let all = serde_json::json!({"identities": [
            identity("owner", OWNER, &["Admin", "Read", "List", "Tagging", "Write"]),
            identity("reader", READER, &["Read", "List"]),
        ]});
        std::fs::write(dir.join("s3.json"), all.to_string()).unwrap();
        // Between the choice and the start somebody else may take one.
        for _ in 0..3 {
            let ports = Ports::free(8);
            let Some(child) = run(&dir, &ports) else {
                continue;
            };
            let weed = Weed {
                child,
                dir,
                ports,
                _dir: guard,
            };
            for bucket in buckets {
                wait_until("a bucket", || weed.make_bucket(bucket));
            }
            return weed;
        }
        panic!(
            "{}",
            std::fs::read_to_string(dir.join("log")).unwrap_or_default()
        );
    }

    /// Where it speaks S3: host and port.
    pub(crate) fn address(&self) -> String {
        format!("127.0.0.1:{}", self.ports.0[0])
    }

    pub(crate) fn endpoint(&self) -> String {
        format!("http://{}", self.address())
    }

    /// Kills it, as a power cut would.
    pub(crate) fn kill(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }

    /// Starts it again, with what it held.
    pub(crate) fn start_again(&mut self) {
        self.kill();
        self.child = run(&self.dir, &self.ports).expect("it starts again");
    }

    /// The names and times of what is in a folder of a bucket, and what is in the bucket's folder of uploads in parts.
    pub(crate) fn files(&self, path: &str) -> Vec<(String, String)> {
        let answer = self.filer("GET", &format!("/buckets/{path}/?limit=10000"), "");
        let body = answer.split_once("\r\n\r\n").map_or("", |(_, body)| body);
        let Some(begin) = body.find('{') else {
            return Vec::new();
        };
        let end = body.rfind('}').unwrap_or(begin);
        let listed: serde_json::Value =
            serde_json::from_str(&body[begin..=end]).unwrap_or_default();
        let entries = listed["Entries"].as_array().cloned().unwrap_or_default();
        let text = |value: &serde_json::Value| value.as_str().unwrap_or_default().to_owned();
        let file = |entry: &serde_json::Value| (text(&entry["FullPath"]), text(&entry["Mtime"]));
        entries.iter().map(file).collect()
    }

    /// Removes a file that [`Weed::files`] has.
    pub(crate) fn remove(&self, path: &str) {
        let answer = self.filer("DELETE", path, "");
        assert!(answer.starts_with("HTTP/1.1 204"), "{answer}");
    }

    /// Writes a file into a bucket.
    pub(crate) fn write(&self, path: &str, text: &str) {
        let answer = self.filer("PUT", &format!("/buckets/{path}"), text);
        assert!(answer.starts_with("HTTP/1.1 201"), "{answer}");
    }

    /// The filer takes folders below this for buckets.
    fn make_bucket(&self, name: &str) -> bool {
        self.filer("POST", &format!("/buckets/{name}/"), "")
            .starts_with("HTTP/1.1 201")
    }

    fn filer(&self, method: &str, path: &str, body: &str) -> String {
        let address = ("127.0.0.1", self.ports.0[2]);
        let ask = || {
            let mut stream = TcpStream::connect(address)?;
            stream.set_read_timeout(Some(Duration::from_secs(10)))?;
            // No chunks: what comes is the body.
            write!(
                stream,
                "{method} {path} HTTP/1.0\r\nHost: x\r\nAccept: application/json\r\nContent-Length: {}\r\n\r\n{body}",
                body.len()
            )?;
            let mut answer = String::new();
            stream.read_to_string(&mut answer)?;
            Ok::<_, std::io::Error>(answer.replacen("HTTP/1.0", "HTTP/1.1", 1))
        };
        ask().unwrap_or_default()
    }
}

impl Drop for Weed {
    fn drop(&mut self) {
        self.kill();
    }
}

/// Starts the process. `None`: it ended, or does not answer.
fn run(dir: &PathBuf, Ports(ports): &Ports) -> Option<Child> {
    let log = File::options()
        .create(true)
        .append(true)
        .open(dir.join("log"))
        .unwrap();
    let mut command = Command::new("weed");
    command.args([
        "server",
        "-ip=127.0.0.1",
        "-ip.bind=127.0.0.1",
        "-filer",
        "-s3",
    ]);
    command.args([
        "-master.telemetry=false",
        "-s3.port.lance=0",
        "-s3.port.iceberg=0",
    ]);
    command.args(["-volume.max=20", "-master.volumeSizeLimitMB=256"]);
    let names = [
        "s3.port",
        "s3.port.grpc",
        "filer.port",
        "filer.port.grpc",
        "master.port",
        "master.port.grpc",
        "volume.port",
        "volume.port.grpc",
    ];
    for (name, port) in names.iter().zip(ports) {
        command.arg(format!("-{name}={port}"));
    }
    for (name, path) in [
        ("dir", "data"),
        ("s3.config", "s3.json"),
        ("filer.localSocket", "filer.sock"),
        ("s3.localSocket", "s3.sock"),
    ] {
        command.arg(format!("-{name}={}", dir.join(path).display()));
    }
    command.current_dir(dir).stdin(Stdio::null());
    let mut child = command
        .stdout(log.try_clone().unwrap())
        .stderr(log)
        .spawn()
        .unwrap();
    let begin = Instant::now();
    while begin.elapsed() < Duration::from_secs(40) {
        if child.try_wait().unwrap().is_some() {
            return None;
        }
        if TcpStream::connect(("127.0.0.1", ports[0])).is_ok()
            && TcpStream::connect(("127.0.0.1", ports[2])).is_ok()
        {
            return Some(child);
        }
        std::thread::sleep(Duration::from_millis(50));
    }
    let _ = child.kill();
    let _ = child.wait();
    None
}
