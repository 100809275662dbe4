//! The commands, one file each, and what several of them need.

pub(crate) mod algorithms;
pub(crate) mod check_device;
pub(crate) mod check_image;
pub(crate) mod compact;
pub(crate) mod companion;
pub(crate) mod completions;
pub(crate) mod create;
pub(crate) mod daemon;
pub(crate) mod get;
pub(crate) mod help;
pub(crate) mod hydrate;
pub(crate) mod idle;
pub(crate) mod jobs;
pub(crate) mod list;
pub(crate) mod man;
pub(crate) mod metrics;
mod moment;
pub(crate) mod nbd;
mod peer;
pub(crate) mod policy;
pub(crate) mod promote;
pub(crate) mod receive;
mod receive_lazily;
pub(crate) mod recompress;
pub(crate) mod recover;
pub(crate) mod remote;
pub(crate) mod remove;
pub(crate) mod reset;
pub(crate) mod restore;
pub(crate) mod send;
mod send_lazily;
pub(crate) mod set;
pub(crate) mod shim;
pub(crate) mod snapshot;
pub(crate) mod stat;
pub(crate) mod sysfs;
pub(crate) mod train;
pub(crate) mod ublk_owner;
pub(crate) mod upgrade;
mod view;
pub(crate) mod writeback;

use std::io;

use uzram_control::{RunDir, RunningDevice};
use uzram_daemon::{Client, SOCKET};
use uzram_runtime::client::{ask, ask_keeper, unexpected};
use uzram_spec::{printable, printable_json};

use crate::exit::{self, Failure, Result};

/// The daemon of a run directory, if one runs and answers.
fn find_daemon(run: &RunDir) -> Result<Option<Client>> {
    Ok(Client::find(&run.file(SOCKET)?, exit::tell))
}

/// The devices of these names, each found or not, or all.
fn all_or(run: &RunDir, all: bool, names: &[String]) -> Result<Vec<Result<RunningDevice>>> {
    Ok(match all {
        true => run.devices()?.into_iter().map(Ok).collect(),
        false => names.iter().map(|name| Ok(run.find(name)?)).collect(),
    })
}

/// Does it to each, whatever happens to the others. All failures are said; the highest exit code among them is the
/// program's.
fn for_each<T>(all: Vec<T>, work: impl Fn(T) -> Result) -> Result {
    let several = all.len() > 1;
    let failures = all.into_iter().filter_map(|one| work(one).err()).collect();
    all_failures(several, failures)
}

/// Says all failures, the last one by returning it; of several things the highest exit code is the program's.
fn all_failures(several: bool, mut failures: Vec<Failure>) -> Result {
    let Some(worst) = failures
        .iter()
        .map(|f| f.kind)
        .max_by_key(|k| k.exit_code())
    else {
        return Ok(());
    };
    let Some(mut last) = failures.pop() else {
        return Ok(());
    };
    for failure in failures {
        exit::tell(failure);
    }
    if several {
        last.kind = worst;
    }
    Err(last)
}

/// What a job came to: finds the device, asks its server, and picks the answer that belongs to the request.
macro_rules! job {
    ($name:expr, $request:expr, $answer:pat => $done:expr) => {{
        let entry = uzram_runtime::sweep::swept_run_dir()?.find($name)?;
        match crate::commands::jobs::ask(&entry, $request)? {
            $answer => $done,
            other => return Err(uzram_runtime::client::unexpected(&entry, &other)),
        }
    }};
}
use job;

/// Prints what a job came to: as JSON, or in words.
fn print_outcome(json: bool, value: &impl serde::Serialize, words: String) -> Result {
    match json {
        true => print_json(&to_value(value)?),
        false => print(&words),
    }
}

/// Numbers of pages on a command line: FIRST-LAST, or one. The last is not included here.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Pages((u64, u64));

impl std::str::FromStr for Pages {
    type Err = String;

    fn from_str(text: &str) -> std::result::Result<Pages, String> {
        let (first, last) = text.split_once('-').unwrap_or((text, text));
        let number = |text: &str| {
            text.parse::<u64>()
                .ok()
                .filter(|n| *n <= u64::from(u32::MAX))
        };
        match (number(first), number(last)) {
            (Some(first), Some(last)) if first <= last => Ok(Pages((first, last + 1))),
            _ => Err("give page numbers as FIRST-LAST, such as 0-1023, or one number".into()),
        }
    }
}

fn to_value(value: &impl serde::Serialize) -> Result<serde_json::Value> {
    serde_json::to_value(value).map_err(Failure::failed)
}

/// Prints JSON and a newline.
fn print_json(value: &serde_json::Value) -> Result {
    let text = serde_json::to_string_pretty(value).map_err(Failure::failed)?;
    print(&format!("{}\n", printable_json(&text)))
}

/// Writes to stdout, with nothing in it that a terminal obeys. Whoever reads it may stop early: no failure.
fn print(text: &str) -> Result {
    let text = printable(text);
    match io::Write::write_all(&mut io::stdout().lock(), text.as_bytes()) {
        Err(error) if error.kind() != io::ErrorKind::BrokenPipe => Err(error.into()),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn page_numbers_are_read_and_nonsense_is_not() {
        assert_eq!("7".parse(), Ok(Pages((7, 8))));
        assert_eq!("0-1023".parse(), Ok(Pages((0, 1024))));
        for text in ["", "-", "3-", "-3", "4-3", "0x10", "99999999999"] {
            assert!(text.parse::<Pages>().is_err(), "{text}");
        }
    }
}
