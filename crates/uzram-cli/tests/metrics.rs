//! Metrics as operators get them: from the command, from uzramd, by a socket unit; checked by promtool and by Prometheus, which
//! scrapes a device. The alerts and the dashboard name metrics that there are.

mod common;

use std::collections::BTreeSet;
use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

use common::{Bench, Stopped, needs, sh};
use serde_json::Value;
use uzram_daemon::metric_names;

const UZRAM: &str = env!("CARGO_BIN_EXE_uzram");

fn dist(file: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("../../dist")
        .join(file)
}

/// A process that ends with the test.
struct Started(Child);

impl Drop for Started {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn succeeds(output: Output) -> String {
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{said}");
    String::from_utf8(output.stdout).unwrap()
}

fn check_metrics(text: &str) {
    let mut promtool = Command::new("promtool")
        .args(["check", "metrics"])
        .stdin(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    promtool
        .stdin
        .take()
        .unwrap()
        .write_all(text.as_bytes())
        .unwrap();
    let output = promtool.wait_with_output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{said}\n{text}");
}

/// The value of a sample.
fn sample(text: &str, name: &str) -> Option<f64> {
    let lines = text.lines().filter_map(|line| line.rsplit_once(' '));
    let mut found = lines.filter(|(sample, _)| *sample == name);
    found.next().map(|(_, value)| value.parse().unwrap())
}

/// A device with an NBD socket, and 16 pages of text in it.
fn device(bench: &Bench) {
    let backing = bench.path("backing").display().to_string() + ",64M";
    let args = [
        "create",
        "--size",
        "64M",
        "--frontend",
        "nbd",
        "--backing",
        &backing,
    ];
    bench.uzram(&args);
    let uri = bench.uzram(&["list", "--noheadings", "--output", "path"]);
    let data = bench.path("data");
    std::fs::write(&data, common::text(16)).unwrap();
    sh(&format!("nbdcopy {} '{}'", data.display(), uri.trim()));
}

#[test]
fn interop_promtool_and_uzramd_agree_with_the_command() {
    needs!(&["promtool", "nbdcopy", "curl"]);
    let bench = Bench::new();
    device(&bench);
    let text = bench.uzram(&["metrics"]);
    check_metrics(&text);
    assert_eq!(sample(&text, "uzram_device_up{name=\"zram0\"}"), Some(1.0));
    assert_eq!(
        sample(&text, "uzram_disk_size_bytes{name=\"zram0\"}"),
        Some((64 << 20) as f64)
    );
    assert_eq!(
        sample(&text, "uzram_orig_data_size_bytes{name=\"zram0\"}"),
        Some(65536.0)
    );
    assert_eq!(
        sample(&text, "uzram_write_bytes_total{name=\"zram0\"}"),
        Some(65536.0)
    );
    assert!(sample(&text, "uzram_write_requests_total{name=\"zram0\"}") > Some(0.0));
    assert!(sample(&text, "uzram_backing_size_bytes{name=\"zram0\"}") > Some(0.0));
    assert!(sample(&text, "uzram_agent_runs_total{name=\"zram0\"}").is_some());
    // One that is named, by name and by path; one that is not there.
    let uri = bench.uzram(&["list", "--noheadings", "--output", "path"]);
    let named = bench.uzram(&["metrics", "zram0", uri.trim()]);
    check_metrics(&named);
    assert_eq!(bench.output(&["metrics", "zram7"]).status.code(), Some(4));

    let config = bench.path("uzram.toml");
    std::fs::write(&config, "").unwrap();
    let _daemon = Started(
        Command::new(env!("CARGO_BIN_EXE_uzramd"))
            .arg("--config")
            .arg(&config)
            .env("UZRAM_RUN_DIR", bench.run_dir())
            .stderr(Stdio::null())
            .spawn()
            .unwrap(),
    );
    let socket = bench.run_dir().join("uzramd.sock");
    let begin = Instant::now();
    while std::os::unix::net::UnixStream::connect(&socket).is_err() {
        assert!(
            begin.elapsed().as_secs() < 20,
            "the daemon does not come up"
        );
        std::thread::sleep(Duration::from_millis(10));
    }
    let curl = format!(
        "curl --silent --show-error --fail --unix-socket {} http://localhost/v1/metrics",
        socket.display()
    );
    let answered = sh(&curl);
    check_metrics(&answered);
    assert!(answered.contains("\nuzramd_info{version="), "{answered}");
    // The same families, beside the daemon's own.
    let families = |text: &str| -> BTreeSet<String> {
        let types = text
            .lines()
            .filter(|line| line.starts_with("# TYPE uzram_"));
        types.map(str::to_owned).collect()
    };
    assert_eq!(families(&answered), families(&text));
    let open = sh(&format!(
        "{curl} --header 'Accept: application/openmetrics-text'"
    ));
    assert!(open.ends_with("# EOF\n") && open.contains("# UNIT uzram_same_pages pages\n"));
}

/// A device whose server is stopped is said to be silent, and holds up nobody for long.
#[test]
fn a_silent_device_is_down_and_the_others_are_not() {
    needs!(&["nbdcopy"]);
    let bench = Bench::new();
    device(&bench);
    bench.uzram(&["create", "--size", "64M", "--frontend", "nbd"]);
    let stopped = Stopped::new(bench.count("zram1", "pid"));
    let begin = Instant::now();
    let output = bench.output(&["metrics"]);
    let took = begin.elapsed();
    drop(stopped);
    let text = succeeds(output);
    assert_eq!(sample(&text, "uzram_device_up{name=\"zram0\"}"), Some(1.0));
    assert_eq!(sample(&text, "uzram_device_up{name=\"zram1\"}"), Some(0.0));
    assert_eq!(sample(&text, "uzram_disk_size_bytes{name=\"zram1\"}"), None);
    assert!(took < Duration::from_secs(5), "{took:?}");
}

#[test]
fn a_file_is_replaced_whole_and_readable() {
    let bench = Bench::new();
    let file = bench.path("uzram.prom");
    let path = file.display().to_string();
    for _ in 0..2 {
        let script = format!("umask 077; exec {UZRAM} metrics --output {path}");
        let output = Command::new("sh")
            .args(["-c", &script])
            .env("UZRAM_RUN_DIR", bench.run_dir())
            .output()
            .unwrap();
        assert_eq!(succeeds(output), "");
    }
    let text = std::fs::read_to_string(&file).unwrap();
    assert_eq!(sample(&text, "uzram_devices"), Some(0.0));
    assert_eq!(sh(&format!("stat -c %a {path}")).trim(), "644");
    let folder = file.parent().unwrap();
    let names = std::fs::read_dir(folder)
        .unwrap()
        .map(|entry| entry.unwrap().file_name());
    let parts = names.filter(|name| name.to_string_lossy().starts_with("uzram.prom."));
    assert_eq!(parts.count(), 0);
    for bad in ["/", "/no/such/folder/x.prom"] {
        assert_ne!(
            bench.output(&["metrics", "--output", bad]).status.code(),
            Some(0)
        );
    }
}

/// What the command answers on a connection.
fn asked(bench: &Bench, request: &[u8]) -> String {
    let mut child = Command::new(UZRAM)
        .args(["metrics", "--inetd"])
        .env("UZRAM_RUN_DIR", bench.run_dir())
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    // Refused before all of it is read, maybe.
    let _ = child.stdin.as_mut().unwrap().write_all(request);
    drop(child.stdin.take());
    succeeds(child.wait_with_output().unwrap())
}

#[test]
fn one_request_is_answered_and_nonsense_is_refused() {
    let bench = Bench::new();
    let good = asked(&bench, b"GET /metrics HTTP/1.1\r\nHost: x\r\n\r\n");
    assert!(good.starts_with("HTTP/1.1 200 OK\r\n"), "{good}");
    let (head, body) = good.split_once("\r\n\r\n").unwrap();
    assert!(
        head.contains(&format!("Content-Length: {}\r\n", body.len())),
        "{head}"
    );
    assert!(body.contains("\nuzram_devices 0\n"), "{body}");
    let open = asked(
        &bench,
        b"GET /metrics HTTP/1.1\r\naccept: application/openmetrics-text\r\n\r\n",
    );
    assert!(
        open.contains("Content-Type: application/openmetrics-text; version=1.0.0"),
        "{open}"
    );
    let long = [
        b"GET /metrics HTTP/1.1\r\n",
        &b"X: y\r\n".repeat(10_000)[..],
    ]
    .concat();
    for (request, status) in [
        (&b"GET /metrics HTTP/2\r\n\r\n"[..], "400"),
        (b"\r\n\r\n", "400"),
        (b"GET / HTTP/1.1\r\n\r\n", "404"),
        (b"GET /v1/devices HTTP/1.1\r\n\r\n", "404"),
        (b"POST /metrics HTTP/1.1\r\n\r\n", "405"),
        (b"GET /metrics HTTP/1.1\r\n", "408"),
        (b"\xff\xfe\r\n\r\n", "408"),
        (b"", "408"),
        (&long, "408"),
    ] {
        let answer = asked(&bench, request);
        assert!(
            answer.starts_with(&format!("HTTP/1.1 {status} ")),
            "{answer}"
        );
    }
    for args in [
        ["--inetd", "--output=x"],
        ["--inetd", "--format=openmetrics"],
    ] {
        let output = bench.output(&["metrics", args[0], args[1]]);
        assert_eq!(output.status.code(), Some(2));
    }
}

/// Prometheus scrapes the command behind a socket of systemd's, in OpenMetrics, and has the device's figures.
#[test]
fn interop_prometheus_scrapes_a_device() {
    needs!(&["prometheus", "systemd-socket-activate", "nbdcopy"]);
    let bench = Bench::new();
    device(&bench);
    let port = || {
        TcpListener::bind("127.0.0.1:0")
            .unwrap()
            .local_addr()
            .unwrap()
            .port()
    };
    let (metrics, own) = (port(), port());
    let _socket = Started(
        Command::new("systemd-socket-activate")
            .arg(format!("--listen=127.0.0.1:{metrics}"))
            .args(["--accept", "--inetd", "--setenv"])
            .arg(format!("UZRAM_RUN_DIR={}", bench.run_dir().display()))
            .args([UZRAM, "metrics", "--inetd"])
            .stderr(Stdio::null())
            .spawn()
            .unwrap(),
    );
    let config = bench.path("prometheus.yml");
    let rules = dist("prometheus/uzram.rules.yml");
    let text = format!(
        "global: {{ scrape_interval: 200ms, scrape_timeout: 200ms, evaluation_interval: 200ms }}\n\
         rule_files: [{:?}]\n\
         scrape_configs:\n  - job_name: uzram\n    scrape_interval: 1s\n    scrape_timeout: 1s\n    static_configs: [{{ targets: [\"127.0.0.1:{metrics}\"] }}]\n",
        rules.canonicalize().unwrap()
    );
    std::fs::write(&config, text).unwrap();
    let _prometheus = Started(
        Command::new("prometheus")
            .arg(format!("--config.file={}", config.display()))
            .arg(format!("--web.listen-address=127.0.0.1:{own}"))
            .arg(format!(
                "--storage.tsdb.path={}",
                bench.path("tsdb").display()
            ))
            .arg("--log.level=error")
            .stderr(Stdio::null())
            .spawn()
            .unwrap(),
    );
    // The value that Prometheus has, in its API's JSON.
    let query = |query: &str| -> Option<String> {
        let mut stream = TcpStream::connect(("127.0.0.1", own)).ok()?;
        stream.set_read_timeout(Some(Duration::from_secs(5))).ok()?;
        let request =
            format!("GET /api/v1/query?query={query} HTTP/1.0\r\nHost: localhost\r\n\r\n");
        stream.write_all(request.as_bytes()).ok()?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer).ok()?;
        let (_, body) = answer.split_once("\r\n\r\n")?;
        let json: Value = serde_json::from_str(body).ok()?;
        let value = json.pointer("/data/result/0/value/1")?;
        value.as_str().map(str::to_owned)
    };
    let begin = Instant::now();
    let mut found = None;
    while found.is_none() && begin.elapsed() < Duration::from_secs(60) {
        std::thread::sleep(Duration::from_millis(200));
        found = query("uzram_orig_data_size_bytes%7Bname%3D%22zram0%22%7D");
    }
    assert_eq!(found.as_deref(), Some("65536"), "the device's data");
    assert_eq!(query("up").as_deref(), Some("1"));
    assert!(query("uzram_write_requests_total").is_some());
    // No alert for a device that is well.
    assert_eq!(query("ALERTS"), None);
}

#[test]
fn interop_promtool_finds_the_alerts_right() {
    needs!(&["promtool"]);
    for (what, file) in [
        ("check", "uzram.rules.yml"),
        ("test", "uzram.rules.test.yml"),
    ] {
        let output = Command::new("promtool")
            .args([what, "rules"])
            .arg(dist("prometheus").join(file))
            .output()
            .unwrap();
        let said = format!(
            "{}{}",
            String::from_utf8_lossy(&output.stdout),
            String::from_utf8_lossy(&output.stderr)
        );
        assert!(output.status.success(), "{said}");
    }
}

/// The words of a text that are metrics' names.
fn named(text: &str) -> BTreeSet<String> {
    let words = text.split(|c: char| !c.is_ascii_alphanumeric() && c != '_');
    let is_metric = |word: &&str| word.starts_with("uzram_") || word.starts_with("uzramd_");
    words.filter(is_metric).map(str::to_owned).collect()
}

#[test]
fn alerts_dashboard_and_page_name_metrics_that_there_are() {
    let known: BTreeSet<String> = metric_names().into_iter().map(|(name, _)| name).collect();
    let page = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs/howto/monitoring.md");
    for (file, least) in [
        (dist("prometheus/uzram.rules.yml"), 12),
        (dist("prometheus/uzram.rules.test.yml"), 4),
        (dist("grafana/uzram.json"), 30),
        (page, 10),
    ] {
        let names = named(&std::fs::read_to_string(&file).unwrap());
        // The page also names families of OpenMetrics, and what several begin with.
        let is_page = file.ends_with("monitoring.md");
        let begins = |name: &String| known.iter().any(|whole| whole.starts_with(name.as_str()));
        let unknown = names.difference(&known);
        let unknown: Vec<&String> = unknown.filter(|name| !is_page || !begins(name)).collect();
        assert!(unknown.is_empty(), "{}: {unknown:?}", file.display());
        assert!(names.len() >= least, "{}: {names:?}", file.display());
    }
    let dashboard = std::fs::read_to_string(dist("grafana/uzram.json")).unwrap();
    let dashboard: Value = serde_json::from_str(&dashboard).unwrap();
    let panels = dashboard["panels"].as_array().unwrap();
    assert!(panels.len() > 10);
    for panel in panels {
        assert!(!panel["targets"].as_array().unwrap().is_empty(), "{panel}");
    }
}

/// What is no file is written to and not replaced; a link is followed. As root, `/dev/stdout` was a file afterwards.
#[test]
fn an_output_that_is_no_file_stays_what_it_is() {
    let bench = Bench::new();
    let (real, link, pipe) = (bench.path("real"), bench.path("link"), bench.path("pipe"));
    std::fs::write(&real, "old").unwrap();
    std::os::unix::fs::symlink(&real, &link).unwrap();
    let write =
        |path: &std::path::Path| bench.output(&["metrics", "--output", path.to_str().unwrap()]);
    assert!(write(&link).status.success());
    assert!(link.symlink_metadata().unwrap().file_type().is_symlink());
    let text = std::fs::read_to_string(&real).unwrap();
    assert!(text.contains("uzram_devices 0"), "{text}");

    common::sh(&format!("mkfifo {}", pipe.display()));
    let reader = std::process::Command::new("cat")
        .arg(&pipe)
        .stdout(std::process::Stdio::piped())
        .spawn()
        .unwrap();
    assert!(write(&pipe).status.success());
    let read = reader.wait_with_output().unwrap().stdout;
    assert!(String::from_utf8_lossy(&read).contains("uzram_devices 0"));
    use std::os::unix::fs::FileTypeExt;
    assert!(pipe.symlink_metadata().unwrap().file_type().is_fifo());

    // By a link of our own: a device that was replaced would be the machine's.
    let null = bench.path("null");
    std::os::unix::fs::symlink("/dev/null", &null).unwrap();
    assert!(write(&null).status.success());
    assert!(null.symlink_metadata().unwrap().file_type().is_symlink());
    assert!(!write(&bench.path("")).status.success(), "a directory");
}
