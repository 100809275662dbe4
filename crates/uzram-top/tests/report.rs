//! `uzram report`: what it says of a device with and without a daemon, what it refuses, and its page in a browser, which asks the
//! network for nothing.

use std::io::Write;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::Instant;

use serde_json::Value;
use uzram_control::size::thousands;
use uzram_daemon::{Client, HistoryPoint};
use uzram_testkit::data;
use uzram_testkit::peers;
use uzram_testkit::program::{Bench, Stopped, sh};

const TOP: &str = env!("CARGO_BIN_EXE_uzram-top");
/// Device's pages that compress, and those that do not.
const PAGES: u64 = 2048;

/// `uzram`, which another package builds beside this one's program.
fn bench(test: &str, programs: &[&str]) -> Option<Bench> {
    let uzram = Path::new(TOP).with_file_name("uzram");
    let there = match uzram.exists() && uzram.with_file_name("uzramd").exists() {
        true => Ok(()),
        false => Err("no uzram and uzramd: cargo build --package uzram-cli".to_owned()),
    };
    if !peers::have(test, programs) || !peers::possible(test, there) {
        return None;
    }
    Some(Bench::new(uzram, tempfile::tempdir().unwrap()))
}

/// Runs the report's program on a bench's devices.
fn report(bench: &Bench, arguments: &[&str]) -> Output {
    let mut command = Command::new(TOP);
    command.arg("report").args(arguments);
    command.env("UZRAM_RUN_DIR", bench.run_dir());
    command.stdin(Stdio::null()).output().unwrap()
}

fn succeeds(output: Output) -> String {
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{said}");
    assert_eq!(said, "");
    String::from_utf8(output.stdout).unwrap()
}

/// What is said of a failure with this exit code.
fn fails(output: Output, code: i32) -> String {
    let said = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(code), "{said}");
    assert!(said.starts_with("uzram report: "), "{said}");
    said
}

/// A device with an NBD socket that holds records and noise, and keeps ages.
fn device(bench: &Bench) {
    let uri = bench.create(&["--size", "64M", "--frontend", "nbd", "--algorithm", "lz4"]);
    bench.uzram(&["set", "zram0", "track_ages=on"]);
    let data = bench.path("data");
    let mut file = std::fs::File::create(&data).unwrap();
    for page in 0..PAGES {
        let bytes = match page % 8 {
            0 => data::noise(page),
            _ => data::record_page(page),
        };
        file.write_all(&bytes).unwrap();
    }
    sh(&format!("nbdcopy {} '{uri}'", data.display()));
}

/// uzramd of a bench's run directory, ended when it is dropped.
struct Daemon(Child);

impl Daemon {
    fn start(bench: &Bench) -> Daemon {
        let config = bench.path("uzram.toml");
        std::fs::write(&config, "").unwrap();
        let mut command = Command::new(Path::new(TOP).with_file_name("uzramd"));
        command.arg("--config").arg(config);
        command.env("UZRAM_RUN_DIR", bench.run_dir());
        let daemon = Daemon(command.stdin(Stdio::null()).spawn().unwrap());
        let socket = bench.run_dir().join("uzramd.sock");
        wait_until(|| UnixStream::connect(&socket).is_ok());
        daemon
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn wait_until(is: impl Fn() -> bool) {
    let begin = Instant::now();
    while !is() {
        assert!(begin.elapsed().as_secs() < 60, "it does not come to be");
        std::thread::sleep(std::time::Duration::from_millis(100));
    }
}

/// What is below a title of the text, up to the next.
fn section<'a>(text: &'a str, title: &str) -> &'a str {
    let (_, rest) = text.split_once(&format!("\n{title}\n")).expect(title);
    rest.split("\n\n").next().unwrap()
}

#[test]
fn the_text_says_what_is_there_and_a_daemon_knows_the_past() {
    let Some(bench) = bench(uzram_testkit::test_name!(), &["nbdcopy"]) else {
        return;
    };
    device(&bench);
    let text = succeeds(report(&bench, &["zram0"]));
    assert!(text.starts_with("zram0 on "), "{text}");
    let compressed = PAGES * 7 / 8;
    for line in [
        format!("  compressed                  {}  ", thousands(compressed)),
        format!("  stored as they are (huge)     {}  ", PAGES / 8),
        format!("  below 1 min  {} ", thousands(PAGES)),
        format!(
            "Measured just now on {0} of the device's {0} ",
            thousands(PAGES)
        ),
        // All were sampled: nothing is guessed.
        "\u{b1} 0 B".into(),
    ] {
        assert!(text.contains(&line), "{line:?} is not in:\n{text}");
    }
    assert!(section(&text, "Memory over time").contains("uzramd, which notes it, does not run"));
    let gains = section(&text, "What recompression and writeback would gain");
    for codec in ["lzhs", "zstd", "writeback (no backing)"] {
        assert!(gains.contains(codec), "{gains}");
    }
    // What is said comes true.
    let said = |text: &str| -> f64 {
        let gains = section(text, "What recompression and writeback would gain");
        let line = gains.lines().find(|line| line.contains(" zstd ")).unwrap();
        let (before, _) = line.split_once(" \u{b1} ").unwrap();
        let mut words = before.split_whitespace().rev();
        let (unit, number) = (words.next().unwrap(), words.next().unwrap());
        let factor = match unit {
            "B" => 1.0,
            "KiB" => 1024.0,
            "MiB" => 1_048_576.0,
            other => panic!("{other}"),
        };
        number.parse::<f64>().unwrap() * factor
    };
    let (promise, before) = (said(&text), bench.count("zram0", "compr_data_size"));
    bench.uzram(&["set", "zram0", "recomp_algorithm=zstd"]);
    bench.uzram(&["recompress", "zram0"]);
    let kept = (before - bench.count("zram0", "compr_data_size")) as f64;
    // Size classes are promised, objects are counted.
    assert!((kept / promise - 1.0).abs() < 0.05, "{promise} {kept}");
    assert_eq!(
        said(&succeeds(report(&bench, &["zram0", "--try", "lzo"]))),
        0.0
    );

    let _daemon = Daemon::start(&bench);
    let past = || {
        section(
            &succeeds(report(&bench, &["zram0", "--sample", "0"])),
            "Memory over time",
        )
        .to_owned()
    };
    wait_until(|| past().contains("\n  now "));
    bench.uzram(&["remove", "zram0"]);
}

#[test]
fn what_cannot_be_is_refused_in_words() {
    let Some(bench) = bench(uzram_testkit::test_name!(), &["nbdcopy"]) else {
        return;
    };
    let said = fails(report(&bench, &["zram7"]), 4);
    assert!(said.contains("no device 'zram7'"), "{said}");
    device(&bench);
    let precious = bench.path("precious");
    std::fs::write(&precious, "dear").unwrap();
    let precious = precious.to_str().unwrap();
    let said = fails(report(&bench, &["zram0", "--html", precious]), 2);
    assert!(
        said.contains("is no report") && said.contains("--force"),
        "{said}"
    );
    assert_eq!(std::fs::read_to_string(precious).unwrap(), "dear");
    succeeds(report(&bench, &["zram0", "--html", precious, "--force"]));
    // A report makes room for the next.
    succeeds(report(&bench, &["zram0", "--html", precious]));
    let there = bench.path("none/a.html").display().to_string();
    let said = fails(report(&bench, &["zram0", "--html", &there]), 1);
    assert!(said.contains("cannot be written"), "{said}");
    let page = succeeds(report(&bench, &["zram0", "--html", "-"]));
    assert!(page.starts_with("<!DOCTYPE html>") && page.ends_with("</html>\n"));

    for (bad, word) in [
        (&["--try", "zip"][..], "zip"),
        (&["--try", "zstd(level=99)"], "level"),
        (&["--sample", "16385"], "16384"),
        (&["--force"], "--html"),
    ] {
        let said = fails(report(&bench, &[&["zram0"], bad].concat()), 2);
        assert!(said.contains(word), "{bad:?}: {said}");
    }
    let stopped = Stopped::new(bench.count("zram0", "pid"));
    let said = fails(report(&bench, &["zram0"]), 1);
    assert!(
        said.contains("the server of zram0 does not answer"),
        "{said}"
    );
    drop(stopped);
    bench.remove_last("zram0");
}

/// What the daemon has noted of the device.
fn points(bench: &Bench) -> Vec<HistoryPoint> {
    let daemon = Client::find(&bench.run_dir().join("uzramd.sock"), |_| ());
    daemon.unwrap().history("zram0").unwrap().unwrap().points
}

#[test]
fn the_past_outlives_a_daemon_that_ends_in_order_and_is_of_one_device() {
    let Some(bench) = bench(uzram_testkit::test_name!(), &["nbdcopy"]) else {
        return;
    };
    device(&bench);
    let daemon = Daemon::start(&bench);
    wait_until(|| points(&bench).len() >= 2);
    let first = points(&bench)[0];
    assert_eq!(first.data_bytes, PAGES * 4096);
    assert!(first.memory_bytes > 0 && first.memory_bytes < first.data_bytes);
    sh(&format!("kill {}", daemon.0.id()));
    let mut daemon = daemon;
    daemon.0.wait().unwrap();
    let daemon = Daemon::start(&bench);
    assert_eq!(points(&bench)[0], first);
    // Another device of its name has another past.
    bench.uzram(&["remove", "zram0"]);
    bench.create(&["--size", "64M", "--frontend", "nbd"]);
    wait_until(|| !points(&bench).is_empty());
    let new = points(&bench)[0];
    assert!(
        new.at_seconds > first.at_seconds && new.data_bytes == 0,
        "{new:?}"
    );
    bench.uzram(&["remove", "zram0"]);
    drop(daemon);
}

/// What a browser made of a page.
struct Seen {
    /// The document with what the browser added.
    document: String,
    /// Lines of the console.
    console: Vec<String>,
    /// Addresses that were asked for, or were to be.
    asked: Vec<String>,
}

/// Opens a file as somebody would, without a network.
fn browse(bench: &Bench, page: &Path, width: u32) -> Seen {
    let log = bench.path("net.json");
    let mut command = Command::new("chromium");
    command.args([
        "--headless",
        "--no-sandbox",
        "--disable-gpu",
        "--hide-scrollbars",
        // What the browser wants for itself.
        "--disable-background-networking",
        "--disable-component-update",
        "--disable-sync",
        "--no-first-run",
        "--no-default-browser-check",
        "--disable-features=OptimizationHints,Translate,MediaRouter",
        "--host-resolver-rules=MAP * ~NOTFOUND",
        "--enable-logging=stderr",
        "--dump-dom",
    ]);
    command.arg(format!(
        "--user-data-dir={}",
        bench.path("browser").display()
    ));
    command.arg(format!("--log-net-log={}", log.display()));
    command.arg(format!("--window-size={width},1000"));
    command.arg(format!("file://{}", page.display()));
    let output = command.output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{said}");
    let console = said.lines().filter(|line| line.contains("CONSOLE"));
    let log = std::fs::read_to_string(&log).unwrap();
    // A line an event. The browser asks for things of its own, by other keys than that of a file.
    let events = log.lines().filter_map(|line| {
        let event: Value = serde_json::from_str(line.trim_end_matches(',')).ok()?;
        let params = &event["params"];
        let key = params["network_isolation_key"].as_str()?;
        let url = params["url"].as_str()?;
        (key.starts_with("file:") && !url.starts_with("file:")).then(|| url.to_owned())
    });
    let asked = events.collect();
    Seen {
        document: String::from_utf8(output.stdout).unwrap(),
        console: console.map(str::to_owned).collect(),
        asked,
    }
}

/// A picture of a page, where somebody asked for one: `UZRAM_SCREENSHOTS` names a directory.
fn picture(bench: &Bench, page: &Path, width: u32, scheme: &str) {
    let Some(dir) = std::env::var_os("UZRAM_SCREENSHOTS").map(PathBuf::from) else {
        return;
    };
    let mut command = Command::new("chromium");
    command.args([
        "--headless",
        "--no-sandbox",
        "--disable-gpu",
        "--hide-scrollbars",
    ]);
    if scheme == "dark" {
        command.arg("--blink-settings=preferredColorScheme=0");
    }
    let file = dir.join(format!("report-{width}-{scheme}.png"));
    command.arg(format!("--screenshot={}", file.display()));
    command.arg(format!(
        "--user-data-dir={}",
        bench.path("browser").display()
    ));
    // A window is no narrower than 500 pixels: a frame is.
    let frame = bench.path("frame.html");
    let text = format!(
        "<body style='margin:0'><iframe style='border:0' width={width} height=4000 src='file://{}'></iframe>",
        page.display()
    );
    std::fs::write(&frame, text).unwrap();
    command.arg(format!("--window-size={},4000", width.max(500)));
    command.arg(format!("file://{}", frame.display()));
    assert!(command.output().unwrap().status.success());
}

#[test]
fn interop_chromium_shows_the_page_and_asks_the_network_for_nothing() {
    let Some(bench) = bench(uzram_testkit::test_name!(), &["nbdcopy", "chromium"]) else {
        return;
    };
    // What is looked for is found where it is.
    let bad = bench.path("bad.html");
    let text = "<!DOCTYPE html><title>x</title><img src='http://192.0.2.1/x.png'><script>console.error('oh')</script>";
    std::fs::write(&bad, text).unwrap();
    let seen = browse(&bench, &bad, 400);
    assert!(
        seen.asked.iter().any(|url| url == "http://192.0.2.1/x.png"),
        "{:?}",
        seen.asked
    );
    assert!(
        seen.console.iter().any(|line| line.contains("oh")),
        "{:?}",
        seen.console
    );

    device(&bench);
    let _daemon = Daemon::start(&bench);
    let page = bench.path("page.html");
    let path = page.to_str().unwrap();
    wait_until(|| {
        succeeds(report(&bench, &["zram0", "--html", path]));
        std::fs::read_to_string(&page)
            .unwrap()
            .contains("before this report")
    });
    for width in [1200, 400] {
        let seen = browse(&bench, &page, width);
        assert_eq!(seen.asked, Vec::<String>::new());
        assert_eq!(seen.console, Vec::<String>::new());
        for text in [
            "Memory over time",
            "Pages by state",
            "Pages by algorithm",
            "Memory by size class",
            "Memory by age",
            "What recompression and writeback would gain",
            "What the policy in force would do now",
            "MiB of data",
        ] {
            assert!(seen.document.contains(text), "{text}: {}", seen.document);
        }
        assert_eq!(seen.document.matches("<svg").count(), 6);
        picture(&bench, &page, width, "light");
        picture(&bench, &page, width, "dark");
    }
    bench.uzram(&["remove", "zram0"]);
}
