//! What disturbs a measurement in a virtual machine: how busy this machine is with other work meanwhile.

use std::fs;
use std::time::Instant;

use crate::sh;

/// The file beside what a run saved that says how busy others were.
pub(crate) const OTHERS: &str = "others";
/// The same for the commit that was measured.
pub(crate) const COMMIT: &str = "commit";

/// What is checked out.
pub(crate) fn commit() -> String {
    let args = ["describe", "--always", "--dirty", "--abbrev=12"];
    let commit = sh::output(sh::command("git", &args)).unwrap_or_default();
    commit.lines().next().unwrap_or("unknown").into()
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
