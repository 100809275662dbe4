//! What figures belong to: the machine, the kernels, the commit and the compiler.

use std::fs;
use std::path::Path;
use std::time::Instant;

use serde::Serialize;

use crate::sh;

/// This machine, and the guest that ran on it.
#[derive(Debug, Serialize)]
pub(crate) struct Machine {
    pub(crate) machine: String,
    pub(crate) kernel: String,
    pub(crate) guest: String,
    pub(crate) guest_kernel: String,
    pub(crate) commit: String,
    pub(crate) compiler: String,
    /// CPUs of this machine that were busy with others' work meanwhile, on average: what disturbs.
    pub(crate) others_busy_cpus: String,
}

/// The file beside what a run saved that says how busy others were.
pub(crate) const OTHERS: &str = "others";
/// The same for the commit that was measured.
pub(crate) const COMMIT: &str = "commit";

/// What is checked out.
pub(crate) fn commit() -> String {
    first_line("git", &["describe", "--always", "--dirty", "--abbrev=12"])
}

/// Watches what this machine does besides our own work.
pub(crate) struct Others {
    since: Instant,
    busy: u64,
    ours: u64,
}

impl Others {
    pub(crate) fn watch() -> Others {
        Others {
            since: Instant::now(),
            busy: busy(),
            ours: ours(),
        }
    }

    /// CPUs that others kept busy, on average, in words.
    pub(crate) fn seen(&self) -> String {
        let ticks = (busy() - self.busy).saturating_sub(ours() - self.ours);
        // Both files count in hundredths of a second, whatever the kernel does inside.
        let cpus = ticks as f64 / 100.0 / self.since.elapsed().as_secs_f64();
        format!("{cpus:.2}")
    }
}

/// Numbers of a line of words, from `first` on.
fn numbers(line: &str, first: usize) -> Vec<u64> {
    let words = line.split_whitespace().skip(first);
    words.map(|word| word.parse().unwrap_or(0)).collect()
}

/// Ticks of this machine that were not idle: `cpu user nice system idle iowait irq softirq steal`.
fn busy() -> u64 {
    let text = fs::read_to_string("/proc/stat").unwrap_or_default();
    let all = numbers(text.lines().next().unwrap_or_default(), 1);
    let counts = [0, 1, 2, 5, 6, 7].map(|field| all.get(field).copied().unwrap_or(0));
    counts.iter().sum()
}

/// Ticks of this process and of those that it started and saw end.
fn ours() -> u64 {
    let text = fs::read_to_string("/proc/self/stat").unwrap_or_default();
    // Behind the name, which may hold anything: fields 14 to 17 of proc(5), of which the third is the first here.
    let fields = text.rsplit_once(')').map_or("", |(_, fields)| fields);
    numbers(fields, 11).iter().take(4).sum()
}

impl Machine {
    /// This machine with the guest whose run saved files to `saved`.
    pub(crate) fn this(saved: &Path) -> Machine {
        let cpu = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
        let cpu = cpu.lines().find_map(|line| line.strip_prefix("model name"));
        let cpu = cpu
            .unwrap_or("unknown CPU")
            .trim_start_matches([' ', '\t', ':']);
        let cores = std::thread::available_parallelism().map_or(1, usize::from);
        let guest = fs::read_to_string(saved.join("guest")).unwrap_or_default();
        let mut guest = guest.lines().map(str::to_owned);
        let mut next = || guest.next().unwrap_or_else(|| "unknown".into());
        let (guest_kernel, size) = (next(), next());
        let said = |file| fs::read_to_string(saved.join(file)).unwrap_or_else(|_| "unknown".into());
        let qemu = first_line("qemu-system-x86_64", &["--version"]);
        Machine {
            machine: format!("{cpu}, {cores} cores"),
            kernel: first_line("uname", &["-r"]),
            guest: format!("{qemu}, TCG, {size}"),
            guest_kernel,
            commit: said(COMMIT),
            compiler: first_line("rustc", &["--version"]),
            others_busy_cpus: said(OTHERS),
        }
    }
}

fn first_line(program: &str, args: &[&str]) -> String {
    let output = sh::command(program, args).output();
    let text = output
        .map(|o| String::from_utf8_lossy(&o.stdout).into_owned())
        .unwrap_or_default();
    text.lines().next().unwrap_or("unknown").into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn our_own_work_is_not_others() {
        assert!(busy() > 0);
        let others = Others::watch();
        let begin = Instant::now();
        while begin.elapsed().as_millis() < 50 {
            std::hint::black_box(0);
        }
        assert!(ours() >= others.ours);
        assert!(others.seen().parse::<f64>().is_ok());
        assert_eq!(numbers("cpu 1 x 3", 1), [1, 0, 3]);
    }
}
