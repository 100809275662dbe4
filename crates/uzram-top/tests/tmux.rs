//! `uzram top` on a terminal of 80 columns and 24 lines, which tmux is: what is on it, keys, signals, the terminal afterwards.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use uzram_testkit::peers;
use uzram_testkit::program::{Bench, Stopped, sh};

const TOP: &str = env!("CARGO_BIN_EXE_uzram-top");

/// `uzram`, which another package builds beside this one's program.
fn bench(test: &str) -> Option<Bench> {
    let uzram = Path::new(TOP).with_file_name("uzram");
    let there = match uzram.exists() {
        true => Ok(()),
        false => Err("no uzram: cargo build --package uzram-cli".to_owned()),
    };
    if !peers::have(test, &["tmux", "qemu-io"]) || !peers::possible(test, there) {
        return None;
    }
    Some(Bench::new(uzram, tempfile::tempdir().unwrap()))
}

/// A terminal in which a shell has started the program.
struct Screen {
    socket: PathBuf,
}

impl Screen {
    fn new(bench: &Bench, arguments: &str) -> Screen {
        let screen = Screen {
            socket: bench.path("tmux"),
        };
        let dir = bench.run_dir();
        // A shell, so that what is there after the end is seen.
        screen.tmux(&[
            "-f",
            "/dev/null",
            "new-session",
            "-d",
            "-x",
            "80",
            "-y",
            "24",
            "sh",
        ]);
        screen.keys(&[
            &format!(
                "UZRAM_RUN_DIR={} {TOP} {arguments}; echo code $?",
                dir.display()
            ),
            "Enter",
        ]);
        screen
    }

    fn tmux(&self, arguments: &[&str]) -> String {
        let mut command = Command::new("tmux");
        command.arg("-S").arg(&self.socket).args(arguments);
        let output = command.output().unwrap();
        assert!(output.status.success(), "tmux {arguments:?}: {output:?}");
        String::from_utf8(output.stdout).unwrap()
    }

    fn keys(&self, keys: &[&str]) {
        self.tmux(&[&["send-keys"], keys].concat());
    }

    /// Waits until all of this is on the screen, and returns it.
    fn shows(&self, texts: &[&str]) -> String {
        let begin = Instant::now();
        loop {
            let screen = self.tmux(&["capture-pane", "-p"]);
            if texts.iter().all(|text| screen.contains(text)) {
                return screen;
            }
            assert!(
                begin.elapsed().as_secs() < 20,
                "{texts:?} is not in:\n{screen}"
            );
            std::thread::sleep(Duration::from_millis(50));
        }
    }
}

impl Drop for Screen {
    fn drop(&mut self) {
        let mut command = Command::new("tmux");
        command.arg("-S").arg(&self.socket).arg("kill-server");
        let _ = command.output();
    }
}

#[test]
fn interop_tmux_shows_devices_and_takes_keys() {
    let Some(bench) = bench(uzram_testkit::test_name!()) else {
        return;
    };
    let uri = bench.create(&["--size", "64M", "--frontend", "nbd"]);
    bench.create(&["--size", "32M", "--frontend", "nbd"]);
    let screen = Screen::new(&bench, "--interval 0.2");
    screen.shows(&[
        "uzram top - every 200ms; 2 devices",
        "zram0       64M     0B",
    ]);
    // What is written is seen.
    sh(&format!(
        "qemu-io -f raw -c 'write -P 5 0 4M' -c 'write -P 6 4M 4M' '{uri}'"
    ));
    screen.shows(&["zram0       64M     8M", "8M of data in "]);
    // The other one is chosen, and something is done to it.
    screen.keys(&["j"]);
    screen.shows(&[" zram1 nbd nbd+unix:///"]);
    screen.keys(&["c"]);
    screen.shows(&["compact zram1: 0B given back"]);
    screen.keys(&["R"]);
    screen.shows(&["recompress zram1: "]);
    screen.keys(&["x"]);
    screen.shows(&["there is no job to end"]);
    // Sorted by size, the smallest first.
    screen.keys(&[">", "r"]);
    let shown = screen.shows(&["zram0", "zram1"]);
    assert!(shown.find("zram1  ") < shown.find("zram0  "), "{shown}");
    screen.keys(&["?"]);
    screen.shows(&["q  quit; what was begun by a key goes on"]);
    screen.keys(&["q"]);
    screen.keys(&["+"]);
    screen.shows(&["every 500ms"]);
    // A device whose server stands still, and one that comes.
    let stopped = Stopped::new(bench.count("zram1", "pid"));
    screen.shows(&["2 devices, 1 silent", "does not answer"]);
    drop(stopped);
    bench.create(&["--size", "16M", "--frontend", "nbd"]);
    screen.shows(&["3 devices", "zram2       16M"]);
    // A smaller window, and the shell's own screen after the end.
    screen.tmux(&["resize-window", "-x", "60", "-y", "10"]);
    screen.shows(&["3 devices"]);
    screen.keys(&["C-z"]);
    screen.shows(&["Stopped"]);
    screen.keys(&["fg", "Enter"]);
    screen.shows(&["3 devices", "NAME"]);
    screen.keys(&["q"]);
    screen.keys(&["echo it is back", "Enter"]);
    let shown = screen.shows(&["\nit is back\n"]);
    assert!(!shown.contains("NAME"), "{shown}");
}

#[test]
fn interop_tmux_has_its_terminal_back_after_a_signal() {
    let Some(bench) = bench(uzram_testkit::test_name!()) else {
        return;
    };
    let screen = Screen::new(&bench, "--interval 0.2");
    screen.shows(&["no devices: uzram create makes one"]);
    let shell = screen.tmux(&["display-message", "-p", "#{pane_pid}"]);
    sh(&format!("pkill --parent {}", shell.trim()));
    screen.shows(&["code 0"]);
    screen.keys(&["echo it works", "Enter"]);
    screen.shows(&["\nit works\n"]);
    // A terminal that goes takes it along.
    screen.keys(&[&format!("exec {TOP} --interval 0.2"), "Enter"]);
    screen.shows(&["uzram top - every 200ms"]);
    screen.tmux(&["kill-server"]);
    let begin = Instant::now();
    while Path::new(&format!("/proc/{}", shell.trim())).exists() {
        assert!(
            begin.elapsed().as_secs() < 20,
            "it goes on without a terminal"
        );
        std::thread::sleep(Duration::from_millis(50));
    }
}

#[test]
fn tables_are_printed_where_there_is_no_terminal() {
    let Some(bench) = bench(uzram_testkit::test_name!()) else {
        return;
    };
    bench.create(&["--size", "64M", "--frontend", "nbd"]);
    let top = |arguments: &[&str]| {
        let mut command = Command::new(TOP);
        command
            .args(arguments)
            .env("UZRAM_RUN_DIR", bench.run_dir());
        command.output().unwrap()
    };
    let output = top(&["--batch", "--count", "2", "--interval", "0.1", "zram0"]);
    let text = String::from_utf8(output.stdout).unwrap();
    assert!(output.status.success());
    let lines: Vec<&str> = text.lines().collect();
    assert_eq!(lines.len(), 5, "{text}");
    assert!(
        lines[0].starts_with("NAME ") && lines[1].starts_with("zram0       64M"),
        "{text}"
    );
    for (arguments, code, said) in [
        (&["--interval", "0.1"][..], 2, "--batch"),
        (&["--batch", "zram7"], 4, "zram7"),
        (
            &["--batch", "--interval", "0"],
            2,
            "not between 0.1 and 3600",
        ),
        (&["--count", "3"], 2, "--batch"),
        (&["--sort", "colour"], 2, "write-bytes"),
    ] {
        let output = top(arguments);
        let text = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(code), "{arguments:?}: {text}");
        assert!(
            text.starts_with("uzram top: ") && text.contains(said),
            "{arguments:?}: {text}"
        );
    }
}
