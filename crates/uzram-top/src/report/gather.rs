//! Asks device and daemon for what the report is made of.

use std::time::{SystemTime, UNIX_EPOCH};

use uzram::{ClassStats, InspectReport};
use uzram_control::policy::Policy;
use uzram_control::stat::Stat;
use uzram_control::{DeviceRecord, Request, Response, RunDir, RunningDevice};
use uzram_daemon::{Client, HistoryAnswer, SOCKET};
use uzram_runtime::client;
use uzram_spec::{Failure, Result, printable_line};

/// What recompresses where nobody chose anything else, as policies have it; and the densest that is no device's default.
const TRIED: [&str; 2] = ["lzhs", "zstd"];

/// What is known of a device. What could not be found out says why.
pub(super) struct Facts {
    /// When it was asked, in seconds since 1970, and in words.
    pub(super) at_seconds: u64,
    pub(super) when: String,
    pub(super) host: String,
    pub(super) record: DeviceRecord,
    pub(super) stat: Stat,
    pub(super) classes: std::result::Result<Vec<ClassStats>, String>,
    pub(super) policy: std::result::Result<Policy, String>,
    pub(super) inspected: std::result::Result<InspectReport, String>,
    /// `None`: no daemon runs, or it is of a version that notes nothing.
    pub(super) history: std::result::Result<Option<HistoryAnswer>, String>,
}

/// What to measure.
pub(super) struct Measured<'a> {
    pub(super) sample_pages: usize,
    /// Algorithms to try; empty: those that policies take, and zstd.
    pub(super) algorithms: &'a [String],
}

impl Facts {
    pub(super) fn gather(
        run: &RunDir,
        entry: &RunningDevice,
        measured: &Measured<'_>,
    ) -> Result<Facts> {
        let stat = client::stat(entry)?;
        tell_of_jobs(entry);
        let inspected = inspect(entry, &stat, measured)?;
        let classes = answered(entry, &Request::PoolClasses, |answer| match answer {
            Response::PoolClasses { classes } => Some(classes),
            _ => None,
        });
        let policy = answered(
            entry,
            &Request::Policy { plan: true },
            |answer| match answer {
                Response::Policy(policy) => Some(*policy),
                _ => None,
            },
        );
        let history = history(run, &entry.record);
        let now = SystemTime::now();
        Ok(Facts {
            at_seconds: now
                .duration_since(UNIX_EPOCH)
                .map_or(0, |since| since.as_secs()),
            when: humantime::format_rfc3339_seconds(now)
                .to_string()
                .replace('T', " "),
            host: rustix::system::uname()
                .nodename()
                .to_string_lossy()
                .into_owned(),
            record: entry.record.clone(),
            // Once more: what was asked in between took time.
            stat: client::stat(entry).unwrap_or(stat),
            classes,
            policy,
            inspected,
            history,
        })
    }
}

/// What was inspected, or why it could not be. What was asked for and cannot be is a failure.
fn inspect(
    entry: &RunningDevice,
    stat: &Stat,
    measured: &Measured<'_>,
) -> Result<std::result::Result<InspectReport, String>> {
    let asked = !measured.algorithms.is_empty();
    let algorithms = match asked {
        true => measured.algorithms.to_vec(),
        false => {
            let others = TRIED.into_iter().filter(|name| stat.algorithm != *name);
            others.map(str::to_owned).collect()
        }
    };
    let request = Request::Inspect {
        sample_pages: measured.sample_pages,
        algorithms,
    };
    match client::ask(entry, &request) {
        Ok(Response::Inspected(report)) => Ok(Ok(report)),
        Ok(other) => Err(client::unexpected(entry, &other)),
        // A server of an older version does without.
        Err(failure) if !asked || failure.to_string().contains("unknown request") => {
            Ok(Err(failure.to_string()))
        }
        Err(failure) => Err(failure),
    }
}

fn answered<T>(
    entry: &RunningDevice,
    request: &Request,
    pick: fn(Response) -> Option<T>,
) -> std::result::Result<T, String> {
    match client::ask(entry, request) {
        Ok(answer) => pick(answer).ok_or_else(|| "its server answered something else".into()),
        Err(failure) => Err(failure.to_string()),
    }
}

/// What takes long is waited for: says so.
fn tell_of_jobs(entry: &RunningDevice) {
    let jobs = client::jobs(std::slice::from_ref(entry));
    for job in jobs.into_iter().flatten().flatten() {
        let (name, op) = (printable_line(&entry.record.name), printable_line(&job.op));
        let seconds = job.seconds;
        eprintln!("uzram report: waits for {op} on {name}, which goes on for {seconds} s by now");
    }
}

fn history(
    run: &RunDir,
    record: &DeviceRecord,
) -> std::result::Result<Option<HistoryAnswer>, String> {
    let socket = run.file(SOCKET).map_err(|error| error.to_string())?;
    let warn = |text: String| eprintln!("uzram report: {}", printable_line(&text));
    let Some(daemon) = Client::find(&socket, warn) else {
        return Ok(None);
    };
    let noted = daemon.history(&record.name).map_err(Failure::from);
    let noted = noted.map_err(|failure| failure.to_string())?;
    // Another device that has the name by now has another past.
    Ok(noted.filter(|noted| noted.identity == record.identity))
}
