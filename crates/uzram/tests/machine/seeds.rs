//! Runs a state machine with one seed after the other, and says how a failure is repeated. The machine of a device and that of
//! remotes share it.

use std::collections::BTreeMap;
use std::sync::atomic::AtomicBool;
use std::sync::atomic::Ordering::SeqCst;
use std::time::Instant;

/// What was wrong.
pub(crate) type Wrong = String;

/// What was done, by name.
pub(crate) type Totals = BTreeMap<&'static str, u64>;

macro_rules! ensure {
    ($holds:expr, $($says:tt)+) => {
        if !$holds {
            return Err(format!($($says)+));
        }
    };
}

/// Whether one of the tests has failed: then the others end.
static FAILED: AtomicBool = AtomicBool::new(false);

/// Runs a test with one seed after the other until its time is over.
pub(crate) fn for_seeds(
    test: &str,
    needed: &[&str],
    mut run: impl FnMut(u64) -> Result<Totals, Wrong>,
) {
    let number = |name: &str| {
        std::env::var(name)
            .ok()
            .map(|text| text.parse::<u64>().expect(name))
    };
    let clock = || std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
    let first = number("UZRAM_MACHINE_SEED")
        .unwrap_or_else(|| clock().map_or(1, |now| now.as_micros() as u64));
    let seconds = number("UZRAM_MACHINE_SECONDS").unwrap_or(4);
    let begin = Instant::now();
    let (mut totals, mut told) = (Totals::new(), 0);
    let mut seed = first;
    loop {
        match run(seed) {
            Ok(more) => more
                .into_iter()
                .for_each(|(what, count)| *totals.entry(what).or_default() += count),
            Err(wrong) => {
                FAILED.store(true, SeqCst);
                let package = env!("CARGO_PKG_NAME");
                panic!(
                    "seed {seed}: {wrong}\nto repeat: UZRAM_MACHINE_SEED={seed} UZRAM_MACHINE_SECONDS=0 \
                     cargo test -p {package} --test machine {test} -- --exact --nocapture"
                )
            }
        }
        seed = seed.wrapping_add(1);
        let passed = begin.elapsed().as_secs();
        if passed / 60 > told || passed >= seconds {
            told = passed / 60;
            println!("{test}: seeds {first}..{seed}, {passed} s, {totals:?}");
        }
        if passed >= seconds || FAILED.load(SeqCst) {
            break;
        }
    }
    // A machine in which something never happens proves nothing of it. Few seeds may leave something out.
    let missing: Vec<_> = needed
        .iter()
        .filter(|what| totals.get(*what).is_none_or(|n| *n == 0))
        .collect();
    assert!(
        seed.wrapping_sub(first) < 100 || missing.is_empty(),
        "{test}: no {missing:?} in {totals:?}"
    );
}
