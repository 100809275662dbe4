//! Jobs: seen while they run, ended by whoever is told their number, and by an interrupt of the command that asked.

mod common;

use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use common::{Bench, needs, sh};
use serde_json::Value;

/// A device whose recompression takes long: zstd at its highest level, on pages of text.
fn busy_device(bench: &Bench) {
    let pages = 16 << 10;
    let uri = bench.create(&[
        "--size=128M",
        "--frontend=nbd",
        "--algorithm=lz4",
        "--train=off",
        "--policy=none",
        "--recomp-algorithm=zstd(level=22)",
    ]);
    let data = bench.path("data");
    std::fs::write(&data, common::text(pages)).unwrap();
    sh(&format!("nbdcopy {} '{uri}'", data.display()));
}

fn started(bench: &Bench, args: &[&str]) -> Child {
    let mut command = bench.command(args);
    command.stdout(Stdio::piped()).stderr(Stdio::piped());
    command.spawn().unwrap()
}

/// The same where interrupts are not ignored, as what a shell starts in the background inherits.
fn started_with_interrupts(bench: &Bench, args: &[&str]) -> Child {
    let command = bench.command(args);
    let mut env = Command::new("env");
    env.arg("--default-signal=INT").arg(command.get_program());
    env.args(command.get_args());
    for (name, value) in command.get_envs() {
        match value {
            Some(value) => env.env(name, value),
            None => env.env_remove(name),
        };
    }
    env.stdout(Stdio::piped()).stderr(Stdio::piped());
    env.spawn().unwrap()
}

fn jobs(bench: &Bench) -> Vec<Value> {
    let json = bench.uzram(&["jobs", "zram0", "--json"]);
    serde_json::from_str(&json).unwrap()
}

/// Waits until the jobs are so.
fn until(bench: &Bench, what: &str, so: impl Fn(&[Value]) -> bool) -> Vec<Value> {
    let begin = Instant::now();
    loop {
        let jobs = jobs(bench);
        if so(&jobs) {
            return jobs;
        }
        assert!(
            begin.elapsed() < Duration::from_secs(60),
            "not {what}: {jobs:?}"
        );
        std::thread::sleep(Duration::from_millis(20));
    }
}

fn has_run(jobs: &[Value]) -> bool {
    jobs.first()
        .is_some_and(|job| job["pages"].as_u64() > Some(0))
}

#[test]
fn a_job_is_seen_and_cancelled_and_the_next_one_says_what_it_waits_for() {
    needs!(&["nbdcopy"]);
    let bench = Bench::new();
    busy_device(&bench);
    assert_eq!(jobs(&bench), [""; 0]);
    let first = started(&bench, &["recompress", "zram0"]);
    let seen = until(&bench, "at work", has_run);
    assert_eq!(seen[0]["op"], "recompress");
    assert_eq!(seen[0]["pid"], first.id());
    assert_eq!(
        (&seen[0]["begun"], &seen[0]["device"]),
        (&Value::Bool(true), &"zram0".into())
    );
    let second = started(&bench, &["idle", "zram0"]);
    let seen = until(&bench, "two", |jobs| jobs.len() == 2);
    assert_eq!(
        (&seen[1]["op"], &seen[1]["begun"]),
        (&"mark_idle".into(), &Value::Bool(false))
    );
    let table = bench.uzram(&["jobs"]);
    assert!(
        table.contains("recompress") && table.contains("runs") && table.contains("waits"),
        "{table}"
    );
    // Long enough for the second one to say why it waits.
    std::thread::sleep(Duration::from_millis(1500));
    let number = seen[0]["number"].to_string();
    bench.uzram(&["jobs", "zram0", "--cancel", &number]);
    let first = first.wait_with_output().unwrap();
    let said = String::from_utf8_lossy(&first.stderr);
    assert_eq!(first.status.code(), Some(1), "{said}");
    assert!(
        said.contains("cancelled in the middle: what it has done stays"),
        "{said}"
    );
    let second = second.wait_with_output().unwrap();
    let said = String::from_utf8_lossy(&second.stderr);
    assert!(
        second.status.success() && said.contains("waits for recompress"),
        "{said}"
    );
    assert_eq!(jobs(&bench), [""; 0]);
    // Some pages are smaller, and not all.
    let stat: Value = serde_json::from_str(&bench.uzram(&["stat", "zram0", "--json"])).unwrap();
    let done = stat["recompressed_pages"].as_u64().unwrap();
    assert!(0 < done && done < 16 << 10, "{done}");
    let said = bench.fails(1, &["jobs", "zram0", "--cancel", &number]);
    assert!(said.contains("it has ended"), "{said}");
    bench.fails(2, &["jobs", "--cancel", "1"]);
}

#[test]
fn a_detached_job_goes_on_alone_says_how_far_it_is_and_is_ended_by_its_number() {
    needs!(&["nbdcopy"]);
    let bench = Bench::new();
    busy_device(&bench);
    let begin = Instant::now();
    let said = bench.uzram(&["recompress", "zram0", "--detach"]);
    assert_eq!(said, "job 1 of zram0: uzram jobs zram0\n");
    let json = bench.uzram(&["compact", "zram0", "--detach", "--json"]);
    let json: Value = serde_json::from_str(&json).unwrap();
    assert_eq!(
        (&json["device"], &json["number"]),
        (&"zram0".into(), &2.into())
    );
    // Who asked is long gone.
    assert!(begin.elapsed() < Duration::from_secs(5));
    let seen = until(&bench, "at work", has_run);
    assert_eq!((&seen[0]["detached"], seen.len()), (&Value::Bool(true), 2));
    assert_eq!(seen[0]["total_pages"], 16 << 10);
    let table = bench.uzram(&["jobs"]);
    assert!(table.contains("detached") && table.contains('%'), "{table}");
    let pages = seen[0]["pages"].as_u64();
    until(&bench, "further", |jobs| jobs[0]["pages"].as_u64() > pages);
    bench.uzram(&["jobs", "zram0", "--cancel", "1"]);
    until(&bench, "ended", <[Value]>::is_empty);
    let done = bench.count("zram0", "recompressed_pages");
    assert!(0 < done && done < 16 << 10, "{done}");
    bench.fails(2, &["recompress", "zram0", "--detach", "--dry-run"]);
    bench.fails(4, &["recompress", "zram9", "--detach"]);
    // One that is let go on comes to its end.
    bench.uzram(&["recompress", "zram0", "--max-pages", "100", "--detach"]);
    until(&bench, "ended", <[Value]>::is_empty);
    let now = bench.count("zram0", "recompressed_pages");
    assert!(done < now && now <= done + 100, "{done} {now}");
}

#[test]
fn a_training_that_is_let_go_on_comes_to_its_end_and_the_log_says_to_which() {
    needs!(&["nbdcopy"]);
    let bench = Bench::new();
    busy_device(&bench);
    bench.uzram(&["recompress", "zram0", "--detach"]);
    until(&bench, "at work", has_run);
    let said = bench.uzram(&["train", "zram0", "--detach"]);
    assert_eq!(said, "job 2 of zram0: uzram jobs zram0\n");
    // There is no algorithm of this priority.
    bench.uzram(&["train", "zram0", "--priority", "3", "--detach"]);
    let seen = jobs(&bench);
    let waiting = (&seen[1]["op"], &seen[1]["detached"], &seen[1]["begun"]);
    assert_eq!(
        waiting,
        (&"train".into(), &Value::Bool(true), &Value::Bool(false))
    );
    bench.uzram(&["jobs", "zram0", "--cancel", "1"]);
    until(&bench, "ended", <[Value]>::is_empty);
    let log = std::fs::read_to_string(bench.run_dir().join("zram0/log")).unwrap();
    let of_job = |number: u32| {
        let is_of =
            |line: &&str| line.contains(&format!("number={number}")) && line.contains("the job ");
        log.lines()
            .find(is_of)
            .unwrap_or_else(|| panic!("{number}: {log}"))
    };
    assert!(
        of_job(1).contains("cancelled in the middle"),
        "{}",
        of_job(1)
    );
    let trained = of_job(2);
    assert!(
        trained.contains("is done") && trained.contains("ratio_after"),
        "{trained}"
    );
    assert!(of_job(3).contains("has failed"), "{}", of_job(3));
    let dict = bench.path("dict");
    for more in [&["--dry-run"][..], &["--save", dict.to_str().unwrap()]] {
        bench.fails(2, &[&["train", "zram0", "--detach"][..], more].concat());
    }
    bench.fails(4, &["train", "zram9", "--detach"]);
}

#[test]
fn an_interrupt_ends_the_job_and_one_that_waits_is_never_begun() {
    needs!(&["nbdcopy", "env", "kill"]);
    let bench = Bench::new();
    busy_device(&bench);
    let mut first = started_with_interrupts(&bench, &["recompress", "zram0"]);
    until(&bench, "at work", has_run);
    let waiting = started(&bench, &["recompress", "zram0", "--kind", "huge"]);
    let seen = until(&bench, "two", |jobs| jobs.len() == 2);
    bench.uzram(&["jobs", "zram0", "--cancel", &seen[1]["number"].to_string()]);
    sh(&format!("kill -INT {}", first.id()));
    first.wait().unwrap();
    let waiting = waiting.wait_with_output().unwrap();
    let said = String::from_utf8_lossy(&waiting.stderr);
    assert!(
        !waiting.status.success() && said.contains("nothing was done"),
        "{said}"
    );
    // Soon, and long before it would have been through.
    until(&bench, "ended", <[Value]>::is_empty);
    let stat: Value = serde_json::from_str(&bench.uzram(&["stat", "zram0", "--json"])).unwrap();
    assert!(
        stat["recompressed_pages"].as_u64() < Some(16 << 10),
        "{stat}"
    );
}
