//! Limits that a shell sets: whatever they are, a command ends with a sentence that names the limit, and not by a signal;
//! it leaves nothing behind.

mod common;

use std::os::unix::net::UnixStream;

use common::{Bench, sh};

/// Creates a device under a limit of the shell; gives the exit code, `None` for a signal, and what was said.
fn create(bench: &Bench, limit: &str, args: &str) -> (Option<i32>, String) {
    let mut shell = std::process::Command::new("sh");
    let line = format!(
        "ulimit {limit} && exec {} create {args}",
        env!("CARGO_BIN_EXE_uzram")
    );
    shell
        .args(["-c", &line])
        .env("UZRAM_RUN_DIR", bench.run_dir());
    let output = shell.output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    (output.status.code(), said)
}

#[test]
fn a_limit_ends_in_a_sentence_that_names_it() {
    let bench = Bench::new();
    for (limit, name) in [
        ("-f 0", "RLIMIT_FSIZE"),
        ("-f 1000", "RLIMIT_FSIZE"),
        ("-v 60000", "RLIMIT_AS"),
        ("-v 200000", "RLIMIT_AS"),
        ("-v 2000000", "RLIMIT_AS"),
        ("-d 20000", "RLIMIT_DATA"),
        ("-d 200000", "RLIMIT_DATA"),
        ("-n 8", "RLIMIT_NOFILE"),
        ("-n 20", "RLIMIT_NOFILE"),
        ("-t 100", "RLIMIT_CPU"),
        ("-s 64", "RLIMIT_STACK"),
    ] {
        for args in [
            "--size 256M --frontend nbd",
            "--size 256M --frontend nbd --foreground",
        ] {
            let (code, said) = create(&bench, limit, args);
            assert_eq!(code, Some(5), "ulimit {limit}; {args}: {said}");
            assert!(said.contains(name), "ulimit {limit}; {args}: {said}");
            assert!(said.contains("ulimit -"), "{said}");
        }
    }
    // As many clients as are allowed leave room for whoever controls the device.
    for (limit, args) in [("-n 100", ""), ("-n 256", "--max-connections 4096")] {
        let args = format!("--size 16M --frontend nbd {args}");
        let (code, said) = create(&bench, limit, &args);
        assert_eq!(code, Some(5), "ulimit {limit}; {args}: {said}");
        assert!(
            said.contains("RLIMIT_NOFILE") && said.contains("choose --max-connections"),
            "{said}"
        );
    }
    let (code, said) = create(
        &bench,
        "-n 100",
        "--size 16M --frontend nbd --max-connections 44",
    );
    assert_eq!(code, Some(0), "{said}");
    let socket = bench.run_dir().join("zram0/nbd.sock");
    let clients: Vec<_> = (0..60).map(|_| UnixStream::connect(&socket)).collect();
    assert_eq!(bench.stat("zram0")["disksize"], 16 << 20);
    drop(clients);
    bench.remove_last("zram0");
    bench.assert_clean();
}

#[test]
fn limits_that_a_device_fits_in_do_no_harm() {
    let bench = Bench::new();
    for limit in [
        "-f 20000000",
        "-v 20000000",
        "-d 4000000",
        "-S -n 70",
        "-l 64",
    ] {
        let (code, said) = create(&bench, limit, "--size 64M --frontend nbd");
        assert_eq!(code, Some(0), "ulimit {limit}: {said}");
        // It is served, and started again, within the same limits.
        bench.kill("zram0", "pid");
        bench.uzram(&["stat", "zram0"]);
        bench.uzram(&["remove", "zram0"]);
    }
    bench.assert_clean();
}

/// What a command writes itself.
#[test]
fn a_file_that_may_not_grow_is_an_error_and_no_signal() {
    let bench = Bench::new();
    let dir = bench.path("man");
    let line = format!(
        "ulimit -f 1; {} man {} 2>&1 && exit 0 || echo code $?",
        env!("CARGO_BIN_EXE_uzram"),
        dir.display()
    );
    let said = sh(&line);
    assert!(
        said.contains("code 1") && said.contains("RLIMIT_FSIZE"),
        "{said}"
    );
}
