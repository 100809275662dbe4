//! The limits of this process, looked at before they do harm: what a device needs is compared with them at once, and refused
//! in a sentence that names the limit. What goes beyond a limit later is an error, never a signal.

use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use signal_hook::consts::{SIGXCPU, SIGXFSZ};
use uzram_control::size;
use uzram_spec::{Failure, Result, rlimit};

/// Address space of a process beside a device's image: program, stacks, what threads reserve for their heaps.
const PROCESS: u64 = 512 << 20;
/// The least address space and data in which a command runs.
const COMMAND: u64 = 64 << 20;
/// Books of a device for each byte of its image: a 256th is more than there are.
const BOOKS: u64 = 256;
/// What helps where a device is too large.
const SMALLER: &str = "raise it by ulimit in the shell or by Limit...= in the unit, or choose a smaller --size or --max-size";
/// The least stack with which this program's first thread does not overflow it.
const STACK: u64 = 512 << 10;
/// Files that a command has open.
const COMMAND_FILES: u64 = 16;
/// Files that the processes of a device have open, about, without clients.
const DEVICE_FILES: u64 = 32;

/// Lets this process find errors where it would be ended by a signal, and refuses limits within which nothing works.
pub fn begin() -> Result {
    // A handler and not SIG_IGN, which programs that are started here would inherit.
    for signal in [SIGXFSZ, SIGXCPU] {
        signal_hook::flag::register(signal, Arc::new(AtomicBool::new(false)))?;
    }
    at_least(Resource::Stack, STACK, size::human)?;
    at_least(Resource::As, COMMAND, size::human)?;
    at_least(Resource::Data, COMMAND, size::human)?;
    at_least(Resource::Nofile, COMMAND_FILES, |n| n.to_string())
}

/// Refuses a device whose image of that many bytes, or whose processes, do not fit the limits of this process, which its
/// keeper and servers inherit.
pub(crate) fn check_device(image_bytes: u64) -> Result {
    let books = PROCESS + image_bytes / BOOKS;
    let smaller = |failure: Failure| failure.with_hint(SMALLER);
    at_least(Resource::Fsize, image_bytes, size::human).map_err(smaller)?;
    at_least(Resource::As, image_bytes.saturating_add(books), size::human).map_err(smaller)?;
    at_least(Resource::Data, books, size::human).map_err(smaller)?;
    at_least(Resource::Nofile, DEVICE_FILES, |n| n.to_string())?;
    match rlimit::named(Resource::Cpu) {
        Some(named) => Err(refused(
            named,
            "its processes would be killed once they have used it".into(),
        )),
        None => Ok(()),
    }
}

/// Takes as many open files as this process may have: the limit below that is for programs that know no better.
pub(crate) fn raise_files() {
    let Rlimit { current, maximum } = getrlimit(Resource::Nofile);
    if current != maximum {
        let raised = Rlimit {
            current: maximum,
            maximum,
        };
        if let Err(error) = setrlimit(Resource::Nofile, raised) {
            tracing::debug!(%error, "the limit on open files stays");
        }
    }
}

fn at_least(resource: Resource, needed: u64, show: fn(u64) -> String) -> Result {
    let limit = getrlimit(resource).current;
    if limit.is_none_or(|limit| limit >= needed) {
        return Ok(());
    }
    let named = rlimit::named(resource).unwrap_or_default();
    Err(refused(named, format!("{} is needed", show(needed))))
}

fn refused(named: String, why: String) -> Failure {
    Failure::impossible(format!("{named}, and {why}"))
        .with_hint("raise it by ulimit in the shell or by Limit...= in the unit")
}
