//! The state machine of remotes: devices whose contents leave the machine, and a bucket that behaves as badly as one can.
//!
//! * `buckets`: devices that are written to, snapshot, restored, cloned, fetched, hydrated, sent, and written back to a bucket,
//!   while tags are moved and removed, a collection goes on and time passes. Each command has a process of its own, and each
//!   device one that reads the bucket for it. Their stores refuse, delay, lose the answer of what they carried out, and return cut
//!   or flipped bytes, and any of these processes may die at any of its calls.
//! * `killed`: a process that does all of this with a bucket in a directory, killed (`SIGKILL`) before or after a call of
//!   its store, several times on one image.
//!
//! What must hold at any time: a device holds what was written to it; each tag names the snapshot that was acknowledged last, or
//! one whose answer was lost, and all of it is there; what a lease names is there. At the end, when nobody needs
//! anything, nothing is left.
//!
//! The pages, what is done to a device's memory, the ledger and the seeds are those of the device's machine
//! (`crates/uzram/tests/machine`), and so are the variables:
//!
//! | variable | meaning |
//! | --- | --- |
//! | `UZRAM_MACHINE_SEED` | the first seed; the next are those that follow. Default: from the clock |
//! | `UZRAM_MACHINE_SECONDS` | seconds for each of the two; 0: one seed. Default: 4 |
//!
//! One seed makes the same operations; which of several threads has the next call, and so its fault, may differ.

#[macro_use]
#[path = "../../../uzram/tests/machine/seeds.rs"]
mod seeds;
mod clone;
mod cold;
mod host;
mod killed;
#[allow(dead_code, reason = "the device's machine uses the rest")]
#[path = "../../../uzram/tests/machine/ledger.rs"]
mod ledger;
#[allow(dead_code, reason = "the device's machine uses the rest")]
#[path = "../../../uzram/tests/machine/op.rs"]
mod op;
#[allow(dead_code, reason = "the device's machine uses the rest")]
#[path = "../../../uzram/tests/machine/random.rs"]
mod random;
mod send;
mod store;
#[allow(dead_code, reason = "the device's machine uses the rest")]
#[path = "../../../uzram/tests/machine/subject.rs"]
mod subject;
mod take;
mod world;

use seeds::for_seeds;

/// What is to have been done.
const DONE: [&str; 24] = [
    "requests",
    "snapshots",
    "incremental snapshots",
    "snapshots that failed",
    "tags replaced",
    "tags of lost answers",
    "tags removed",
    "restored",
    "restores that failed",
    "clones",
    "pages fetched",
    "hydrated",
    "readers killed",
    "reopened",
    "sent",
    "given up while sent",
    "backings",
    "pages written back",
    "pages promoted",
    "backings' processes killed",
    "collections",
    "collections that failed",
    "parts collected",
    "faults",
];

#[test]
fn buckets() {
    for_seeds("buckets", &DONE, world::one);
}

#[test]
fn killed() {
    for_seeds(
        "killed",
        &[
            "kills",
            "versions",
            "pages on the backing",
            "tags",
            "remote pages",
        ],
        killed::one,
    );
}

/// Not a test of its own: the process that `killed` starts.
#[test]
fn killed_child() {
    killed::child();
}
