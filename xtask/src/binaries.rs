//! Runs the workspace's test binaries, as many at once as there are CPUs. cargo runs one after the other, and a test that waits
//! for a process or a deadline leaves the machine idle, as does the last test of each binary.
//!
//! Tests that make devices and mounts see those of others, and some of their tools fail at a dead one. So their binaries run
//! one after the other, beside those that only compute.
//!
//! What a binary prints is shown when it has ended, and stays in `target/tests`. Documentation tests are one more run among them.

use std::collections::VecDeque;
use std::fs::{self, File};
use std::io::{BufRead, BufReader, Write};
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::sync::{Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use serde::Deserialize;

use crate::sh;

/// The packages whose tests change what all of the machine sees: loop devices, mounts, `/dev/zram0`.
const ALONE: &[&str] = &[
    "uzram-bench",
    "uzram-blockdev",
    "uzram-cli",
    "uzram-control",
    "uzram-fuse",
    "uzram-runtime",
    "uzram-sysfs",
];
/// How many of the longest are listed at the end.
const LISTED: usize = 10;

/// What is run.
struct Run {
    /// Package and target, as in `uzram-cli::users`.
    name: String,
    /// Whether no other such one may run beside it.
    alone: bool,
    command: Command,
}

/// What is to be run.
struct Queue {
    todo: VecDeque<Run>,
    /// Whether one that has to be alone is being run.
    alone: bool,
}

impl Queue {
    /// What can be run now. `None`: whoever runs one that has to be alone does the rest.
    fn next(&mut self) -> Option<Run> {
        let at = self.todo.iter().position(|run| !(run.alone && self.alone));
        let run = self.todo.remove(at?)?;
        self.alone |= run.alone;
        Some(run)
    }
}

/// What came of it.
struct Ran {
    name: String,
    /// What went wrong, in short.
    failed: Option<String>,
    took: Duration,
}

/// A line of what cargo prints while it builds.
#[derive(Deserialize)]
struct Message {
    reason: String,
    #[serde(default)]
    manifest_path: PathBuf,
    #[serde(default)]
    target: Target,
    #[serde(default)]
    profile: Profile,
    executable: Option<PathBuf>,
}

#[derive(Default, Deserialize)]
struct Target {
    name: String,
}

#[derive(Default, Deserialize)]
struct Profile {
    test: bool,
}

impl Message {
    /// The run of a test binary.
    fn run(self) -> Option<Run> {
        let is_test = self.reason == "compiler-artifact" && self.profile.test;
        let program = self.executable.filter(|_| is_test)?;
        let package = self.manifest_path.parent()?;
        let mut command = Command::new(program);
        // As cargo has it.
        command.current_dir(package);
        command.env("CARGO_MANIFEST_DIR", package);
        let name = package.file_name()?.to_string_lossy();
        Some(Run {
            alone: ALONE.contains(&&*name),
            name: format!("{name}::{}", self.target.name),
            command,
        })
    }
}

/// Builds and runs the tests of the workspace, each with these variables. With `units_only` those within libraries, and what compares public lists.
pub(crate) fn run(units_only: bool, variables: &[(&str, String)]) -> Result<()> {
    let mut runs = build(units_only)?;
    if !units_only {
        let arguments = [&["test", "--doc", "--quiet"], sh::WORKSPACE].concat();
        runs.push(Run {
            name: "documentation".into(),
            alone: false,
            command: sh::cargo(&arguments),
        });
    }
    // They are the longer way.
    runs.sort_by_key(|run| !run.alone);
    for run in &mut runs {
        run.command
            .envs(variables.iter().map(|(name, value)| (name, value)));
    }
    let mut ran = run_all(runs)?;
    ran.sort_by_key(|ran| std::cmp::Reverse(ran.took));
    let count = ran.len();
    let failed: Vec<_> = ran.iter().filter_map(Ran::failure).collect();
    println!("\n{count} test binaries; those that took longest:");
    for Ran { name, took, .. } in ran.iter().take(LISTED) {
        println!("{:5.1} s  {name}", took.as_secs_f32());
    }
    ensure!(failed.is_empty(), "failed:\n{}", failed.join("\n"));
    Ok(())
}

/// Builds the tests, and reads from cargo where they are.
fn build(units_only: bool) -> Result<Vec<Run>> {
    let mut arguments = [&["test", "--no-run"], sh::WORKSPACE].concat();
    arguments.push("--message-format=json-render-diagnostics");
    if units_only {
        arguments.extend(["--lib", "--test", "public_api"]);
    }
    let mut command = sh::cargo(&arguments);
    let mut cargo = command.stdout(Stdio::piped()).spawn().context("cargo")?;
    let mut runs = Vec::new();
    for line in cargo
        .stdout
        .take()
        .map(BufReader::new)
        .into_iter()
        .flat_map(BufRead::lines)
    {
        let message: Message = serde_json::from_str(&line?).context("what cargo printed")?;
        runs.extend(message.run());
    }
    if !cargo.wait()?.success() {
        bail!("the tests do not build");
    }
    ensure!(!runs.is_empty(), "cargo built no tests");
    Ok(runs)
}

/// Where each writes.
fn logs() -> PathBuf {
    sh::target().join("tests")
}

fn run_all(runs: Vec<Run>) -> Result<Vec<Ran>> {
    fs::create_dir_all(logs())?;
    let at_once = thread::available_parallelism().map_or(1, usize::from);
    let queue = Mutex::new(Queue {
        todo: runs.into(),
        alone: false,
    });
    let queue = || queue.lock().unwrap_or_else(PoisonError::into_inner);
    let next = || queue().next();
    let work = || {
        let mut ran = Vec::new();
        while let Some(run) = next() {
            let alone = run.alone;
            ran.push(run.run()?);
            if alone {
                queue().alone = false;
            }
        }
        Ok(ran)
    };
    thread::scope(|scope| {
        let workers: Vec<_> = (0..at_once).map(|_| scope.spawn(work)).collect();
        let mut all = Vec::new();
        for worker in workers {
            let ran: Result<Vec<Ran>> = worker.join().map_err(|_| anyhow::anyhow!("a panic"))?;
            all.extend(ran?);
        }
        Ok(all)
    })
}

impl Run {
    fn run(mut self) -> Result<Ran> {
        let begin = Instant::now();
        let path = logs().join(format!("{}.log", self.name.replace("::", "-")));
        // No pipe: what a test left running would keep that open.
        let log = File::create(&path).with_context(|| path.display().to_string())?;
        let command = self.command.stdin(Stdio::null());
        let command = command.stdout(log.try_clone()?).stderr(log);
        let status = command.status().with_context(|| self.name.clone())?;
        let said = fs::read(&path)?;
        let took = begin.elapsed();
        let mut out = std::io::stdout().lock();
        writeln!(out, "\n---- {} ({:.1} s)", self.name, took.as_secs_f32())?;
        out.write_all(&said)?;
        let failed = (!status.success()).then(|| panics(&String::from_utf8_lossy(&said)));
        if failed.is_some() {
            writeln!(out, "{}: {status}", self.name)?;
        }
        Ok(Ran {
            name: self.name,
            failed,
            took,
        })
    }
}

impl Ran {
    /// The lines that the end of the run has of it, if it failed: what it said may be far above by then.
    fn failure(&self) -> Option<String> {
        let why = self.failed.as_ref()?;
        Some(format!("{}\n{why}", self.name).trim_end().to_owned())
    }
}

/// Of a panic, so many lines are repeated at the end.
const PANIC_LINES: usize = 12;
/// Of a line, so many characters.
const PANIC_LINE: usize = 400;

/// Which threads panicked, where and with which words.
fn panics(said: &str) -> String {
    let mut lines = said.lines();
    let mut found = String::new();
    while let Some(line) = lines.by_ref().find(|line| line.contains(" panicked at ")) {
        let words = lines
            .by_ref()
            .take_while(|line| !line.is_empty() && *line != "stack backtrace:");
        for line in std::iter::once(line).chain(words).take(PANIC_LINES) {
            let line: String = line.chars().take(PANIC_LINE).collect();
            found += &format!("  {line}\n");
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(line: &str) -> Option<Run> {
        serde_json::from_str::<Message>(line).unwrap().run()
    }

    #[test]
    fn test_binaries_are_found_in_what_cargo_prints() {
        let test = r#"{"reason":"compiler-artifact","manifest_path":"/w/crates/a/Cargo.toml","target":{"kind":["test"],
            "name":"users"},"profile":{"test":true,"opt_level":"1"},"executable":"/t/users-1","fresh":true}"#;
        let run = read(test).unwrap();
        assert_eq!(run.name, "a::users");
        assert_eq!(run.command.get_current_dir(), Some("/w/crates/a".as_ref()));
        assert!(read(&test.replace("\"test\":true", "\"test\":false")).is_none());
        assert!(read(&test.replace("\"/t/users-1\"", "null")).is_none());
        assert!(read(r#"{"reason":"build-finished","success":true}"#).is_none());
    }

    #[test]
    fn no_two_run_that_have_to_be_alone() {
        let run = |name: &str, alone| Run {
            name: name.into(),
            alone,
            command: Command::new("true"),
        };
        let todo = [run("a", true), run("b", true), run("c", false)];
        let mut queue = Queue {
            todo: todo.into(),
            alone: false,
        };
        let mut next = || queue.next().map(|run| run.name);
        let names = [next(), next(), next()];
        assert_eq!(names, [Some("a".into()), Some("c".into()), None]);
        queue.alone = false;
        assert_eq!(queue.next().map(|run| run.name), Some("b".into()));
    }

    #[test]
    fn what_a_panic_says_is_found() {
        let said = "test a ... ok\n\nthread 'b' (1) panicked at x.rs:1:2:\nseed 5: no\nto repeat: so\nstack backtrace:\n   0: f\n\n\
                    thread 'c' (2) panicked at y.rs:3:4:\nleft\n\nresult: FAILED";
        assert_eq!(
            panics(said),
            "  thread 'b' (1) panicked at x.rs:1:2:\n  seed 5: no\n  to repeat: so\n  thread 'c' (2) panicked at y.rs:3:4:\n  left\n"
        );
        let long = format!(
            "thread 'd' (3) panicked at z.rs:5:6:\n{}",
            "word\n".repeat(100)
        );
        assert_eq!(panics(&long).lines().count(), PANIC_LINES);
        let wide = format!("thread 'e' (4) panicked at z.rs:5:6:\n{}", "ü".repeat(9999));
        assert!(panics(&wide).chars().count() < 2 * PANIC_LINE);
    }

    #[test]
    fn a_run_that_fails_is_told_from_one_that_passes() {
        let shell = |script: &str| {
            let mut command = Command::new("sh");
            command.args(["-c", script]);
            Run {
                name: script.into(),
                alone: script == "exit 0",
                command,
            }
        };
        let ran = run_all(vec![shell("exit 0"), shell("exit 3"), shell("kill -9 $$")]).unwrap();
        let mut passed: Vec<_> = ran
            .iter()
            .map(|ran| (ran.name.as_str(), ran.failed.is_none()))
            .collect();
        passed.sort_unstable();
        assert_eq!(
            passed,
            [("exit 0", true), ("exit 3", false), ("kill -9 $$", false)]
        );
    }
}
