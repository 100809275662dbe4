//! `bench devices`: what many devices cost beside what is in them: memory of their processes, and how long it takes to make
//! them, to list them and to take them down.
//!
//! The memory of a device is what its server and its keeper take for themselves, and their parts of what processes share
//! (PSS). It is laid open by mapping, since only so it can be seen what to make smaller.

use std::collections::BTreeMap;
use std::fs;
use std::sync::atomic::AtomicUsize;
use std::sync::atomic::Ordering::Relaxed;
use std::thread;
use std::time::Instant;

use anyhow::{Context, Result, ensure};
use serde::Deserialize;

use crate::host::Host;
use crate::lab::{Experiment, How, LabResult, Progress};
use crate::measure::median;
use crate::report::Report;

/// `bench devices`.
pub(crate) const EXPERIMENT: Experiment = Experiment::new(
    "devices",
    "What 200 devices cost to make and list, and the memory of their processes",
    run,
);

/// Clock ticks a second, of a process's times.
const TICKS: f64 = 100.0;

/// What is read of `uzram list --json`.
#[derive(Deserialize)]
struct Listed {
    pid: u32,
    keeper: u32,
}

fn run(how: &How, progress: Progress<'_>) -> LabResult {
    let count = how.size(200, 4);
    let devices = Host::new()?;
    let mut report = Report::new(
        "bench devices",
        format!("{count} empty devices of 64 MiB, by NBD"),
    );
    let (begin, commands) = (Instant::now(), children_seconds()?);
    progress(&format!("making {count} devices"));
    let cpus = thread::available_parallelism().map_or(1, usize::from);
    let next = AtomicUsize::new(0);
    let make = || -> Result<()> {
        while next.fetch_add(1, Relaxed) < count {
            devices.say(&["create", "--size", "64M", "--frontend", "nbd"])?;
        }
        Ok(())
    };
    thread::scope(|scope| {
        let commands: Vec<_> = (0..cpus).map(|_| scope.spawn(make)).collect();
        let mut ended = commands.into_iter().map(|command| command.join());
        ended.try_for_each(|made| made.expect("a panic is an error of the benchmark"))
    })?;
    let what = "making all, a command for each CPU at a time, s";
    report.at_most(what, begin.elapsed().as_secs_f64(), 5.0);
    let listed: Vec<Listed> = serde_json::from_str(&devices.say(&["list", "--json"])?)?;
    ensure!(listed.len() == count, "{} are listed", listed.len());
    let mut used = children_seconds()? - commands;
    let mut memory = Memory::default();
    for device in &listed {
        for (process, pid) in [("server", device.pid), ("keeper", device.keeper)] {
            used += process_seconds(pid)?;
            memory.add(process, pid)?;
        }
    }
    report.add("making all, CPU s of all processes", used);
    let rounds = how.rounds.unwrap_or(5);
    let mut seconds = Vec::new();
    for _ in 0..rounds {
        let begin = Instant::now();
        devices.say(&["list"])?;
        seconds.push(begin.elapsed().as_secs_f64());
    }
    report.at_most("list, s", median(seconds), 0.3);
    let each = 1.0 / count as f64;
    report.at_most("PSS of a device, kB", memory.pss_kb as f64 * each, 1000.0);
    for (what, kb) in &memory.private_kb {
        report.add(
            format!("private memory of its {what}, kB"),
            *kb as f64 * each,
        );
    }
    let begin = Instant::now();
    devices.say(&["remove", "--all"])?;
    report.add("removing all, s", begin.elapsed().as_secs_f64());
    Ok(Box::new(report))
}

/// Sums over processes.
#[derive(Default)]
struct Memory {
    pss_kb: u64,
    /// By process and mapping.
    private_kb: BTreeMap<String, u64>,
}

impl Memory {
    fn add(&mut self, process: &str, pid: u32) -> Result<()> {
        let path = format!("/proc/{pid}/smaps");
        let maps = fs::read(&path).with_context(|| path)?;
        let maps = String::from_utf8_lossy(&maps);
        let mut mapping = String::new();
        for line in maps.lines() {
            let mut words = line.split_ascii_whitespace();
            let (Some(name), Some(value)) = (words.next(), words.next()) else {
                continue;
            };
            if !name.ends_with(':') {
                // Address, permissions, offset, device, inode, and perhaps a path.
                mapping = format!("{process}: {}", kind(value, words.nth(3)));
                continue;
            }
            match name {
                "Pss:" => self.pss_kb += value.parse::<u64>()?,
                "Private_Dirty:" => {
                    *self.private_kb.entry(mapping.clone()).or_default() += value.parse::<u64>()?;
                }
                _ => {}
            }
        }
        Ok(())
    }
}

/// What a mapping is, in a word.
fn kind(permissions: &str, path: Option<&str>) -> &'static str {
    match path {
        Some("[heap]") => "heap",
        Some("[stack]") => "stack of the main thread",
        None => "other threads' stacks and anonymous memory",
        Some(path) if path.starts_with("/memfd:") => "image",
        Some(path) if path.contains(".so") => "libraries' data",
        Some(_) if permissions.starts_with("r--") => "program's addresses",
        Some(_) => "program's data",
    }
}

/// CPU time of a process's threads. They are shorter than what `stat` counts in.
fn process_seconds(pid: u32) -> Result<f64> {
    let mut seconds = 0.0;
    for task in fs::read_dir(format!("/proc/{pid}/task"))? {
        let text = fs::read_to_string(task?.path().join("schedstat"))?;
        let ran = text.split(' ').next().unwrap_or_default();
        seconds += ran.parse::<f64>()? / 1e9;
    }
    Ok(seconds)
}

/// CPU time of this process's children that have ended, together.
fn children_seconds() -> Result<f64> {
    let text = fs::read_to_string("/proc/self/stat")?;
    let (_, fields) = text.rsplit_once(") ").context("a command in parentheses")?;
    // The state is the third field, the two times are the sixteenth and the seventeenth.
    let ticks = fields.split(' ').skip(13).take(2).map(str::parse::<f64>);
    Ok(ticks.sum::<Result<f64, _>>()? / TICKS)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn own_memory_is_laid_open() {
        let mut memory = Memory::default();
        memory.add("test", std::process::id()).unwrap();
        let private: u64 = memory.private_kb.values().sum();
        assert!(
            private > 0 && memory.pss_kb >= private,
            "{:?}",
            memory.private_kb
        );
        assert!(memory.private_kb["test: heap"] > 0);
        assert!(process_seconds(std::process::id()).is_ok() && children_seconds().is_ok());
    }
}
