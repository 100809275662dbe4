//! `uzram jobs`: what takes long on the devices, and how to end it. Also what the commands that ask for such a thing say meanwhile.

use std::io::{IsTerminal, Write};
use std::sync::mpsc::{RecvTimeoutError, channel};
use std::time::Duration;

use serde_json::{Value, json};
use uzram_control::{Job, Request, Response, RunningDevice};
use uzram_runtime::{client, sweep};
use uzram_spec::printable_line;

use super::{print, print_json, to_value};
use crate::exit::{self, Result};

/// How long a command waits before it says what it waits for.
const PATIENCE: Duration = Duration::from_secs(1);
/// What stops where it is when whoever asked goes. All else goes on to its end, or is asked for in slices.
const ENDED_BY_INTERRUPTS: [&str; 3] = ["recompress", "writeback", "promote"];
/// How often it looks again.
const LOOK: Duration = Duration::from_millis(500);

/// Show what takes long on the devices, or end it
///
/// A device does one such thing after the other: recompression, writeback, promotion, compaction, training, changes of size. A
/// command for recompression, writeback or promotion that is interrupted ends its own; what was done by then stays. With --detach
/// such a command ends at once, and the device goes on.
#[derive(clap::Args)]
#[command(after_help = "\
Examples:
  uzram recompress zram0 --detach
  uzram jobs
  uzram jobs zram0 --cancel 3")]
pub(crate) struct Args {
    /// The device: its name, its path or its URI [default: all]
    name: Option<String>,
    /// End the job with this number. It keeps what it has done. A training, a change of size or of the backing goes on to its end
    #[arg(long, value_name = "N", requires = "name")]
    cancel: Option<u64>,
    /// Print JSON
    #[arg(long, short = 'J', conflicts_with = "cancel")]
    json: bool,
}

impl Args {
    pub(crate) fn run(self) -> Result {
        let run = sweep::swept_run_dir()?;
        let names: Vec<String> = self.name.clone().into_iter().collect();
        let found = super::all_or(&run, names.is_empty(), &names)?;
        let entries = found.into_iter().collect::<Result<Vec<_>>>()?;
        if let (Some(number), Some(entry)) = (self.cancel, entries.first()) {
            return match client::ask(entry, &Request::CancelJob { number })? {
                Response::Done => Ok(()),
                other => Err(client::unexpected(entry, &other)),
            };
        }
        let (mut rows, mut failures) = (Vec::new(), Vec::new());
        for (entry, jobs) in entries.iter().zip(client::jobs(&entries)) {
            match jobs {
                Ok(jobs) => rows.extend(jobs.into_iter().map(|job| (entry, job))),
                Err(failure) => failures.push(failure),
            }
        }
        match self.json {
            true => print_json(&rows.iter().map(described).collect::<Result<Value>>()?)?,
            false => print(&table(&rows))?,
        }
        super::all_failures(true, failures)
    }
}

fn described((entry, job): &(&RunningDevice, Job)) -> Result<Value> {
    let mut value = to_value(job)?;
    value["device"] = json!(entry.record.name);
    Ok(value)
}

fn table(rows: &[(&RunningDevice, Job)]) -> String {
    let mut out = format!(
        "{:8} {:>6} {:18} {:8} {:>10} {:>5} {:>8} {:>8}\n",
        "DEVICE", "NUMBER", "JOB", "STATE", "PAGES", "DONE", "SECONDS", "PID"
    );
    for (entry, job) in rows {
        let state = match (job.cancelled, job.begun) {
            (true, _) => "ends",
            (false, true) => "runs",
            (false, false) => "waits",
        };
        let done = percent(job).map_or("-".into(), |percent| format!("{percent}%"));
        let pid = match job.detached {
            true => "detached".into(),
            false => job.pid.to_string(),
        };
        out += &format!(
            "{:8} {:>6} {:18} {state:8} {:>10} {done:>5} {:>8} {pid:>8}\n",
            printable_line(&entry.record.name),
            job.number,
            printable_line(&job.op),
            job.pages,
            job.seconds,
        );
    }
    out
}

/// How far a job is; `None` where that is not known. More pages than there were may have come meanwhile.
fn percent(job: &Job) -> Option<u64> {
    let all = Some(job.total_pages).filter(|all| job.begun && *all > 0)?;
    Some(job.pages.saturating_mul(100) / all).map(|percent| percent.min(100))
}

/// Leaves what takes long to the device: says which job it is.
pub(super) fn detach(name: &str, request: &Request, json: bool) -> Result {
    let entry = sweep::swept_run_dir()?.find(name)?;
    match client::ask_detached(&entry, request)? {
        Response::Detached { number } => {
            let device = &entry.record.name;
            let value = json!({ "device": device, "number": number });
            let words = format!("job {number} of {device}: uzram jobs {device}\n");
            super::print_outcome(json, &value, words)
        }
        _ => {
            exit::tell(format!(
                "the server of {}, which is of an older version, could not be left alone with it, and has done it",
                entry.record.name
            ));
            Ok(())
        }
    }
}

/// Asks a device for what takes long. Meanwhile it says what that waits for, and on a terminal how far it has come.
pub(super) fn ask(entry: &RunningDevice, request: &Request) -> Result<Response> {
    let (done, ended) = channel::<()>();
    std::thread::scope(|scope| {
        scope.spawn(move || {
            let shows = std::io::stderr().is_terminal();
            let (mut wait, mut said, mut shown) = (PATIENCE, false, false);
            while ended.recv_timeout(wait) == Err(RecvTimeoutError::Timeout) {
                wait = LOOK;
                let jobs = client::jobs(std::slice::from_ref(entry));
                let jobs: Vec<Job> = jobs.into_iter().flatten().flatten().collect();
                let Some(line) = progress(&jobs) else {
                    continue;
                };
                match line {
                    (_, text) if shows => {
                        shown = true;
                        let _ = write!(std::io::stderr(), "\r{text}\x1b[K");
                    }
                    (true, text) if !said => {
                        said = true;
                        exit::tell(text);
                    }
                    _ => {}
                }
            }
            if shown {
                let _ = write!(std::io::stderr(), "\r\x1b[K");
            }
        });
        let answer = client::ask(entry, request);
        drop(done);
        answer
    })
}

/// What is to be said of this process's job, and whether it waits for another one.
fn progress(jobs: &[Job]) -> Option<(bool, String)> {
    let own = jobs.iter().find(|job| job.pid == std::process::id())?;
    let (op, pages, seconds) = (printable_line(&own.op), own.pages, own.seconds);
    if own.begun {
        let pages = match (pages, percent(own)) {
            (pages, Some(percent)) => {
                let (bar, all) = (bar(percent), own.total_pages.max(pages));
                format!("{bar} {percent}% {pages} of {all} pages, ")
            }
            (0, None) => String::new(),
            (pages, None) => format!("{pages} pages, "),
        };
        let end = match ENDED_BY_INTERRUPTS.contains(&&*own.op) {
            true => "; an interrupt ends it",
            false => "",
        };
        return Some((false, format!("{op}: {pages}{seconds} s{end}")));
    }
    let before = jobs.iter().find(|job| job.begun);
    Some((
        true,
        match before {
            Some(job) => format!(
                "waits for {}{}, which process {} asked for {} s ago: uzram jobs",
                printable_line(&job.op),
                percent(job).map_or_else(String::new, |percent| format!(" ({percent}% done)")),
                job.pid,
                job.seconds
            ),
            None => format!("{op} waits for its turn"),
        },
    ))
}

/// A bar of 20 characters.
fn bar(percent: u64) -> String {
    let full = (percent / 5).min(20) as usize;
    format!("[{}{}]", "#".repeat(full), ".".repeat(20 - full))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_waited_for_is_named() {
        let own = |begun, pages| Job {
            number: 2,
            op: "promote".into(),
            begun,
            pages,
            seconds: 3,
            pid: std::process::id(),
            ..Job::default()
        };
        let other = Job {
            number: 1,
            op: "recompress".into(),
            begun: true,
            seconds: 7,
            pid: 1,
            ..Job::default()
        };
        let said = |jobs: &[Job]| progress(jobs);
        let (waits, text) = said(&[other.clone(), own(false, 0)]).unwrap();
        assert!(
            waits && text.starts_with("waits for recompress, which process 1 asked for 7 s ago")
        );
        let (waits, text) = said(&[own(true, 64)]).unwrap();
        assert!(!waits && text == "promote: 64 pages, 3 s; an interrupt ends it");
        let half = Job {
            total_pages: 128,
            ..own(true, 64)
        };
        let (_, text) = said(std::slice::from_ref(&half)).unwrap();
        let bar = "[##########..........] 50% 64 of 128 pages, 3 s";
        assert_eq!(text, format!("promote: {bar}; an interrupt ends it"));
        let (_, text) = said(&[Job { pid: 1, ..half }, own(false, 0)]).unwrap();
        assert!(
            text.starts_with("waits for promote (50% done), which process 1"),
            "{text}"
        );
        // More pages may come than there were.
        let (_, text) = said(&[Job {
            total_pages: 10,
            ..own(true, 64)
        }])
        .unwrap();
        assert!(text.contains("100% 64 of 64 pages"), "{text}");
        let train = Job {
            op: "train".into(),
            ..own(true, 0)
        };
        assert_eq!(said(&[train]), Some((false, "train: 3 s".into())));
        assert_eq!(said(&[other]), None);
    }
}
