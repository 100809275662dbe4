//! The state machine: random sequences of everything that can be done to a device, against oracles.
//!
//! * `sequences`: one thread, an array of bytes as oracle, exact to each error, counter and mark (`model`). What the disk
//!   says is true, though it may fail. The same seed makes the same operations; how far one comes may depend on the disk's
//!   pace and on what a training has sampled.
//! * `lying_disk`: the same, where the disk also says it has written what it has not: pages may be lost, never wrong.
//! * `concurrent`: threads with pages of their own, and operators that do everything to the memory meanwhile.
//! * `crash`: such a process killed at any moment, its image attached to.
//! * `clones`: a clone whose source refuses, delays and returns damage, beside all of that.
//!
//! | variable | meaning |
//! | --- | --- |
//! | `UZRAM_MACHINE_SEED` | the first seed; the next are those that follow. Default: from the clock |
//! | `UZRAM_MACHINE_SECONDS` | seconds for each of the five; 0: one seed. Default: 4 |
//!
//! A failure says the command that repeats it. The machine is tested, too: `xtask/canary/canaries.patch` makes the core of a
//! copy of this tree break one rule after another, and each must be found. What leaves the machine has one of its own, which
//! shares this one's parts: `crates/uzram-remote/tests/machine`.

#[macro_use]
mod seeds;
mod clone;
mod concurrent;
mod crash;
#[path = "../common/cut.rs"]
mod cut;
mod ledger;
mod model;
mod op;
mod random;
mod subject;

use std::time::{Duration, Instant};

use op::{Maker, Op};
use random::Random;
use seeds::{Totals, for_seeds};
use subject::Setup;

/// What sequences are to have done.
const DONE: [&str; 21] = [
    "pages shared",
    "recompressed",
    "written back",
    "promoted",
    "objects moved",
    "segments emptied",
    "trained",
    "changes of generation",
    "detached",
    "reopened",
    "resizes",
    "faults",
    "failed reads",
    "failed writes",
    "hung writebacks",
    "changed under writeback",
    "all discarded",
    "failed promotions",
    "snapshots",
    "refused by snapshots",
    "snapshots with a basis",
];

/// What threads are to have done.
const DONE_AT_ONCE: [&str; 12] = [
    "recompressed",
    "written back",
    "promoted",
    "objects moved",
    "segments emptied",
    "trained",
    "resizes",
    "faults",
    "changed under promotion",
    "changed under writeback",
    "snapshots",
    "snapshots with a basis",
];

/// How long a failing sequence is made shorter.
fn shrinking() -> Duration {
    Duration::from_secs(if std::env::var_os("UZRAM_MACHINE_NO_SHRINK").is_some() {
        0
    } else {
        20
    })
}

/// One seed's sequence, alone with the oracle.
fn sequence(seed: u64, lying: bool) -> Result<Totals, String> {
    let mut random = Random::new(seed ^ u64::from(lying) << 63);
    let setup = Setup::random(&mut random);
    let count = random.within(50, 400) as usize;
    let mut maker = Maker {
        random,
        pages: setup.pages,
        lying,
    };
    let ops = maker.sequence(count);
    model::run(&setup, &ops).map_err(|(at, wrong)| {
        let few = model::shrink(&setup, &ops, at, Instant::now() + shrinking());
        let last = model::run(&setup, &few).err().map_or("nothing, this time".into(), |(_, wrong)| wrong);
        let list: Vec<String> = few.iter().map(|op: &Op| format!("  {op:?}")).collect();
        format!(
            "operation {at} of {count}: {wrong}\n{setup:?}\nof its operations these are enough for: {last}\n{}",
            list.join("\n")
        )
    })
}

#[test]
fn sequences() {
    for_seeds("sequences", &DONE, |seed| sequence(seed, false));
}

#[test]
fn lying_disk() {
    for_seeds("lying_disk", &DONE, |seed| sequence(seed, true));
}

#[test]
fn concurrent() {
    let time = Duration::from_millis(700);
    for_seeds("concurrent", &DONE_AT_ONCE, |seed| {
        concurrent::one(seed, time)
    });
}

#[test]
fn crash() {
    for_seeds(
        "crash",
        &["kills", "versions", "on the backing", "unchanged"],
        crash::one,
    );
}

#[test]
fn clones() {
    for_seeds(
        "clones",
        &["reopened", "refused", "fetched pages", "hydrated"],
        clone::one,
    );
}

/// Not a test of its own: the process that `crash` kills.
#[test]
fn crash_child() {
    crash::child();
}
