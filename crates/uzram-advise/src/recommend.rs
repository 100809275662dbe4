//! Which candidates to take: one for writes, which has to keep up, and one for idle pages, which has time.
//!
//! The rules are few and stand in the constants below, so that whoever disagrees knows with what.

use serde::Serialize;

use crate::measure::Measured;

/// For writes: part of the fastest compressor's speed that a candidate has to reach, writing...
const WRITE_SPEED: f64 = 0.5;
/// ...and reading, which swapping does less of.
const READ_SPEED: f64 = 1.0 / 3.0;
/// For idle pages: part of the speed of what reads the written ones that a candidate has to reach.
const IDLE_READ_SPEED: f64 = 0.2;
/// Gain in capacity below which compressing anew is not worth it.
const IDLE_GAIN: f64 = 1.05;
/// Of candidates whose capacities differ by less than this part the faster one is taken.
const ALIKE: f64 = 0.01;
/// Capacity below which compression is hardly worth it.
const WORTH_IT: f64 = 1.15;
/// Algorithms that Linux zram can have, by its names.
const KERNEL: &[&str] = &["lzo", "lzo-rle", "lz4", "lz4hc", "zstd", "deflate", "842"];

/// One recommendation.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Choice {
    /// What to take.
    #[serde(flatten)]
    pub what: Measured,
    /// Why, in a sentence.
    pub why: String,
}

/// A pairing: what to compress writes with, and what idle pages anew.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Advice {
    /// For writes.
    pub writes: Choice,
    /// For idle pages, if it is worth it.
    pub idle: Option<Choice>,
    /// What else should be known: that it is hardly worth it, or why there is nothing for idle pages.
    pub notes: Vec<String>,
}

/// What suits uzram, which can have everything that was measured. `None` where nothing was that compresses.
pub fn recommend(measured: &[Measured]) -> Option<Advice> {
    advise(measured, |_| true)
}

/// What suits the kernel's zram: its algorithms, and no dictionary that would have to be trained first.
pub fn recommend_for_kernel(measured: &[Measured]) -> Option<Advice> {
    advise(measured, |one| {
        KERNEL.contains(&one.algorithm.as_str()) && one.dictionary_bytes == 0
    })
}

fn advise(measured: &[Measured], possible: impl Fn(&Measured) -> bool) -> Option<Advice> {
    let candidates: Vec<_> = measured
        .iter()
        .filter(|one| possible(one) && one.algorithm != "null")
        .collect();
    let writes = for_writes(&candidates)?;
    let idle = for_idle(&candidates, &writes.what);
    let mut notes = Vec::new();
    if writes.what.capacity < WORTH_IT {
        notes.push(format!(
            "This hardly compresses: {:.2} bytes for each byte of memory.",
            writes.what.capacity
        ));
    }
    let idle = idle.map_err(|why| notes.push(why)).ok();
    Some(Advice {
        writes,
        idle,
        notes,
    })
}

fn for_writes(candidates: &[&Measured]) -> Option<Choice> {
    let by_speed = |a: &&&Measured, b: &&&Measured| a.write_mib_s.total_cmp(&b.write_mib_s);
    let fastest = candidates.iter().max_by(by_speed)?;
    let keeps_up = |one: &&&Measured| {
        one.write_mib_s >= fastest.write_mib_s * WRITE_SPEED
            && one.read_mib_s >= fastest.read_mib_s * READ_SPEED
    };
    let best = densest(candidates.iter().filter(keeps_up).copied(), |one| {
        one.write_mib_s
    })?;
    let why = if *best == **fastest {
        format!(
            "It writes fastest, and none that is at least {} % as fast is denser.",
            WRITE_SPEED * 100.0
        )
    } else {
        format!(
            "The densest of those that write at least {} % and read at least {:.0} % as fast as {}{}.",
            WRITE_SPEED * 100.0,
            READ_SPEED * 100.0,
            fastest.spec(),
            with_dictionary(fastest)
        )
    };
    let what = best.clone();
    Some(Choice { what, why })
}

fn for_idle(candidates: &[&Measured], writes: &Measured) -> Result<Choice, String> {
    let readable = |one: &&&Measured| one.read_mib_s >= writes.read_mib_s * IDLE_READ_SPEED;
    let best = densest(candidates.iter().filter(readable).copied(), |one| {
        one.write_mib_s
    });
    let best = best.filter(|best| best.capacity >= writes.capacity * IDLE_GAIN);
    let Some(best) = best else {
        return Err(format!(
            "Nothing holds {} % more than that, so compressing idle pages anew is not worth it.",
            ((IDLE_GAIN - 1.0) * 100.0).round()
        ));
    };
    let why = format!(
        "It holds {:.0} % more than {} and reads at {:.2} x its speed; of those that read at {} x or better it is the \
         densest.",
        (best.capacity / writes.capacity - 1.0) * 100.0,
        writes.spec(),
        best.read_mib_s / writes.read_mib_s,
        IDLE_READ_SPEED
    );
    let what = best.clone();
    Ok(Choice { what, why })
}

/// The candidate of greatest capacity; of those that are about as dense the fastest.
fn densest<'a>(
    candidates: impl Iterator<Item = &'a Measured> + Clone,
    speed: impl Fn(&Measured) -> f64,
) -> Option<&'a Measured> {
    let most = candidates
        .clone()
        .map(|one| one.capacity)
        .fold(0.0, f64::max);
    let alike = candidates.filter(|one| one.capacity >= most * (1.0 - ALIKE));
    alike.max_by(|a, b| speed(a).total_cmp(&speed(b)))
}

fn with_dictionary(one: &Measured) -> &'static str {
    match one.dictionary_bytes {
        0 => "",
        _ => " with a dictionary",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn one(algorithm: &str, capacity: f64, write: f64, read: f64) -> Measured {
        Measured {
            algorithm: algorithm.into(),
            driver: algorithm.into(),
            params: String::new(),
            dictionary_bytes: 0,
            ratio: capacity,
            capacity,
            huge_share: 0.0,
            write_mib_s: write,
            read_mib_s: read,
            context_bytes: 0,
        }
    }

    #[test]
    fn writes_get_the_densest_that_keeps_up_and_idle_pages_the_densest_that_is_readable() {
        let measured = [
            one("null", 1.0, 9000.0, 9000.0),
            one("lzo-rle", 2.0, 700.0, 1500.0),
            one("lz4", 2.2, 600.0, 3000.0),
            one("zstd", 3.2, 250.0, 700.0),
            one("deflate", 3.3, 30.0, 300.0),
        ];
        let advice = recommend(&measured).unwrap();
        assert_eq!(advice.writes.what.algorithm, "lz4");
        assert_eq!(advice.idle.unwrap().what.algorithm, "zstd");
        assert_eq!(advice.notes, [""; 0]);
    }

    #[test]
    fn what_does_not_pay_is_not_recommended() {
        let advice = recommend(&[
            one("lz4", 1.05, 600.0, 3000.0),
            one("zstd", 1.08, 200.0, 900.0),
        ]);
        let advice = advice.unwrap();
        assert_eq!(advice.writes.what.algorithm, "lz4");
        assert_eq!(advice.idle, None);
        assert_eq!(advice.notes.len(), 2, "{:?}", advice.notes);
        assert!(recommend(&[one("null", 1.0, 9000.0, 9000.0)]).is_none());
        assert!(recommend(&[]).is_none());
    }

    #[test]
    fn the_kernel_is_not_told_to_use_what_it_has_not() {
        let trained = Measured {
            dictionary_bytes: 16384,
            ..one("zstd", 4.0, 600.0, 3000.0)
        };
        let measured = [
            one("mine", 5.0, 900.0, 3000.0),
            trained,
            one("lz4", 2.2, 600.0, 3000.0),
        ];
        let advice = recommend_for_kernel(&measured).unwrap();
        assert_eq!(advice.writes.what.algorithm, "lz4");
        assert_eq!(advice.idle, None);
    }
}
