//! Pages of a command that is run for this: of it and the processes that it starts, when they have most memory.

use std::collections::HashMap;
use std::fs;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use super::process::read_text;
use super::{Sample, check_count, process};
use crate::Error;

/// How often the memory is looked at.
const TURN: Duration = Duration::from_millis(50);
/// Growth since the last sample that makes another one worth it.
const GROWTH: f64 = 1.25;

/// Runs a command to its end and returns the sample that was taken when its processes had most memory. What it prints
/// goes to stderr. After `patience`, if there is one, the last sample is taken and the command is killed.
pub fn from_command(
    program: &str,
    args: &[String],
    count: usize,
    patience: Option<Duration>,
) -> Result<Sample, Error> {
    check_count(count)?;
    let failed = |reason: String| Error::Command {
        command: program.into(),
        reason,
    };
    let mut child = Command::new(program)
        .args(args)
        .stdin(Stdio::null())
        .stdout(std::io::stderr())
        .spawn()
        .map_err(|error| failed(error.to_string()))?;
    let begin = Instant::now();
    let (mut best, mut most) = (None, 0);
    let mut refused = None;
    let status = loop {
        let late = patience.is_some_and(|patience| begin.elapsed() >= patience);
        let tree = descendants(child.id());
        let memory = tree.iter().map(|pid| anonymous_pages(*pid)).sum::<u64>();
        if late && memory > most || memory as f64 > most as f64 * GROWTH {
            match process::sample(&tree, count, format!("command {program}")) {
                Ok(sample) => (best, most) = (Some(sample), memory),
                // One of them may have ended meanwhile, or is too small yet.
                Err(error) => refused = Some(error),
            }
        }
        if late {
            let _ = child.kill();
            let _ = child.wait();
            break None;
        }
        match child.try_wait() {
            Ok(None) => std::thread::sleep(TURN),
            Ok(Some(status)) => break Some(status),
            Err(error) => return Err(failed(error.to_string())),
        }
    };
    best.ok_or_else(|| {
        let why = refused.map_or("it ended before it was sampled".into(), |e| e.to_string());
        failed(match status {
            Some(status) if !status.success() => format!("{why} ({status})"),
            _ => why,
        })
    })
}

/// A process and all that descend from it.
fn descendants(root: u32) -> Vec<u32> {
    let mut children: HashMap<u32, Vec<u32>> = HashMap::new();
    for entry in fs::read_dir("/proc").into_iter().flatten().flatten() {
        let pid = entry
            .file_name()
            .to_str()
            .and_then(|name| name.parse().ok());
        if let Some(pid) = pid
            && let Some(parent) = parent_of(pid)
        {
            children.entry(parent).or_default().push(pid);
        }
    }
    let mut all = vec![root];
    let mut at = 0;
    while let Some(pid) = all.get(at) {
        all.extend(children.remove(pid).unwrap_or_default());
        at += 1;
    }
    all
}

fn parent_of(pid: u32) -> Option<u32> {
    let stat = read_text(pid, "stat").ok()?;
    // The name, in brackets, may hold anything; state and parent follow.
    let (_, rest) = stat.rsplit_once(')')?;
    rest.split_ascii_whitespace().nth(1)?.parse().ok()
}

/// Pages of a process that are not of files.
fn anonymous_pages(pid: u32) -> u64 {
    let statm = fs::read_to_string(format!("/proc/{pid}/statm")).unwrap_or_default();
    let mut words = statm.split_ascii_whitespace().skip(1);
    let mut number = || words.next().and_then(|word| word.parse::<u64>().ok());
    match (number(), number()) {
        (Some(resident), Some(shared)) => resident.saturating_sub(shared),
        _ => 0,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn run(script: &str, patience: Option<Duration>) -> Result<Sample, Error> {
        from_command("sh", &["-c".into(), script.into()], 1000, patience)
    }

    #[test]
    fn a_grandchild_is_sampled_at_its_largest() {
        let script =
            "python3 -c 'import time; x = [str(i) * 9 for i in range(300000)]; time.sleep(1)'; :";
        let sample = run(script, None).unwrap();
        assert!(sample.population > 5000, "{}", sample.population);
    }

    #[test]
    fn names_need_not_be_text() {
        let folder = tempfile::tempdir().unwrap();
        let folder = folder.path().display();
        // A program and a mapped file with bytes in their names that are no UTF-8.
        let script = format!(
            "cd {folder}; name=$(printf 'n\\374'); head -c 9999 /dev/zero > f$name; \
             python3 -c 'import os, sys; os.symlink(sys.executable, os.fsencode(sys.argv[1]))' $name; \
             ./$name -c 'import mmap, os, sys, time; m = mmap.mmap(os.open(sys.argv[1], os.O_RDWR), 0); \
             x = [str(i) * 9 for i in range(300000)]; time.sleep(1)' f$name; :"
        );
        let sample = run(&script, None).unwrap();
        assert!(sample.population > 5000, "{}", sample.population);
    }

    #[test]
    fn what_cannot_be_sampled_is_said() {
        let error = run("exit 3", None).unwrap_err().to_string();
        assert!(error.contains("sh:"), "{error}");
        let error = from_command("/no/such", &[], 1000, None).unwrap_err();
        assert!(error.to_string().contains("/no/such"), "{error}");
        let begin = Instant::now();
        let _ = run("sleep 60", Some(Duration::from_millis(300)));
        assert!(begin.elapsed() < Duration::from_secs(30));
    }
}
