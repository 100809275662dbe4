//! Which candidates to take: one for writes, which has to keep up, and one for idle pages, which has time.
//!
//! The rules are few and stand in the constants below, so that whoever disagrees knows with what.

use serde::Serialize;

use crate::measure::Measured;

/// For writes: part of the fastest compressor's speed below which a candidate's capacity is discounted in proportion,
/// writing...
const WRITE_SPEED: f64 = 0.5;
/// ...and reading, which swapping does less of.
const READ_SPEED: f64 = 1.0 / 3.0;
/// For idle pages: part of the speed of what reads the written ones below which nothing is taken. They are read seldom, and at an
/// eighth of lz4's speed a page still takes less time than any disk.
const IDLE_READ_SPEED: f64 = 0.125;
/// What falls short of that by less than this part is taken: a measured speed is never exact.
const NEARLY: f64 = 0.05;
/// Gain in capacity below which compressing anew is not worth it.
const IDLE_GAIN: f64 = 1.05;
/// Of candidates whose worth differs by less than this part the faster one is taken.
const ALIKE: f64 = 0.01;
/// Capacity below which compression is hardly worth it.
const WORTH_IT: f64 = 1.15;
/// Algorithms that Linux zram can have, by its names.
const KERNEL: &[&str] = &["lzo", "lzo-rle", "lz4", "lz4hc", "zstd", "deflate", "842"];

/// One recommendation.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Pick {
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
    pub writes: Pick,
    /// For idle pages, if it is worth it.
    pub idle: Option<Pick>,
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

fn for_writes(candidates: &[&Measured]) -> Option<Pick> {
    let by_speed = |a: &&&Measured, b: &&&Measured| a.write_mib_s.total_cmp(&b.write_mib_s);
    let fastest = candidates.iter().max_by(by_speed)?;
    // A measured speed is never exact: what falls a little short of a limit loses a little, not everything.
    let worth = |one: &Measured| {
        one.capacity
            * enough(one.write_mib_s, fastest.write_mib_s * WRITE_SPEED)
            * enough(one.read_mib_s, fastest.read_mib_s * READ_SPEED)
    };
    let best = best(candidates, worth)?;
    let why = if *best == **fastest {
        "It writes fastest, and what is denser is not dense enough for its speed.".into()
    } else {
        format!(
            "It holds {:.2} bytes for each byte of memory and writes at {:.2} x, reads at {:.2} x the speed of the \
             fastest, {}{}. Below {WRITE_SPEED} x and {READ_SPEED:.2} x capacity would be discounted.",
            best.capacity,
            best.write_mib_s / fastest.write_mib_s,
            best.read_mib_s / fastest.read_mib_s,
            fastest.spec(),
            with_dictionary(fastest),
        )
    };
    let what = best.clone();
    Some(Pick { what, why })
}

fn for_idle(candidates: &[&Measured], writes: &Measured) -> Result<Pick, String> {
    // Dictionaries are trained for what writes are compressed with.
    let plain = candidates.iter().filter(|one| one.dictionary_bytes == 0);
    let plain: Vec<_> = plain.copied().collect();
    let speed = |one: &Measured| one.read_mib_s / writes.read_mib_s;
    let within = plain.iter().copied();
    let within = within.filter(|one| speed(one) >= IDLE_READ_SPEED * (1.0 - NEARLY));
    let within: Vec<_> = within.collect();
    let capacity = |one: &Measured| one.capacity;
    let gain = |one: &Measured| (one.capacity / writes.capacity - 1.0) * 100.0;
    let densest = plain.iter().copied();
    let densest = densest.max_by(|a, b| a.capacity.total_cmp(&b.capacity));
    let too_slow = |one: &Measured| {
        format!(
            "{} reads at {:.2} x its speed, below the {IDLE_READ_SPEED} x that are the least",
            one.spec(),
            speed(one)
        )
    };
    let best = best(&within, capacity).filter(|best| best.capacity >= writes.capacity * IDLE_GAIN);
    let Some(best) = best else {
        let mut why = format!(
            "Nothing holds {:.0} % more than that, so compressing idle pages anew is not worth it.",
            (IDLE_GAIN - 1.0) * 100.0
        );
        if let Some(densest) = densest.filter(|one| one.capacity >= writes.capacity * IDLE_GAIN) {
            why = format!(
                "Nothing that is fast enough holds {:.0} % more than that, so compressing idle pages anew is not worth it: {}, \
                 which costs {:.0} % of density.",
                (IDLE_GAIN - 1.0) * 100.0,
                too_slow(densest),
                gain(densest)
            );
        }
        return Err(why);
    };
    let mut why = format!(
        "It holds {:.0} % more than {}{} and reads at {:.2} x its speed.",
        gain(best),
        writes.spec(),
        with_dictionary(writes),
        speed(best),
    );
    let denser = densest.filter(|one| one.capacity > best.capacity * (1.0 + ALIKE));
    match denser {
        Some(one) => {
            let cost = (one.capacity / best.capacity - 1.0) * 100.0;
            why += &format!(
                " The bound on speed costs {cost:.0} % of density: {}, and holds {:.2} bytes for each byte.",
                too_slow(one),
                one.capacity
            );
        }
        None => why += " Nothing that was measured is denser.",
    }
    let what = best.clone();
    Ok(Pick { what, why })
}

/// 1 for what is fast enough, else the part of the limit that it reaches.
fn enough(speed: f64, limit: f64) -> f64 {
    (speed / limit).min(1.0)
}

/// The candidate that is worth most; of those that are worth about as much the fastest.
fn best<'a>(candidates: &[&'a Measured], worth: impl Fn(&Measured) -> f64) -> Option<&'a Measured> {
    let most = candidates.iter().map(|one| worth(one)).fold(0.0, f64::max);
    let alike = candidates
        .iter()
        .copied()
        .filter(|one| worth(one) >= most * (1.0 - ALIKE));
    alike.max_by(|a, b| a.write_mib_s.total_cmp(&b.write_mib_s))
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
            noise: None,
            context_bytes: 0,
        }
    }

    #[test]
    fn writes_get_the_densest_that_keeps_up_and_idle_pages_the_densest_that_is_readable() {
        let measured = [
            one("null", 1.0, 9000.0, 9000.0),
            one("lzo-rle", 2.0, 700.0, 1500.0),
            one("lz4", 2.2, 600.0, 3000.0),
            one("zstd", 3.2, 180.0, 700.0),
            one("deflate", 3.3, 30.0, 300.0),
        ];
        let advice = recommend(&measured).unwrap();
        assert_eq!(advice.writes.what.algorithm, "lz4");
        assert_eq!(advice.idle.unwrap().what.algorithm, "zstd");
        assert_eq!(advice.notes, [""; 0]);
    }

    /// What a libc came to: the densest that is fast enough, not what is densest for its speed.
    #[test]
    fn idle_pages_get_the_densest_within_the_bound_and_its_cost_is_said() {
        let fast = one("zstd", 1.48, 250.0, 900.0);
        let dense = one("zstd", 1.75, 200.0, 500.0);
        let mut measured = vec![one("lz4", 1.27, 600.0, 3000.0), fast.clone(), dense.clone()];
        let idle = |measured: &[Measured]| recommend(measured).unwrap().idle.unwrap();
        let pick = idle(&measured);
        assert_eq!(pick.what, dense);
        assert!(
            pick.why.contains("38 % more")
                && pick.why.contains("Nothing that was measured is denser")
        );
        // Below the bound, by more than chance.
        measured.push(one("deflate", 2.1, 30.0, 200.0));
        let pick = idle(&measured);
        assert_eq!(pick.what, dense);
        let cost = "costs 20 % of density: deflate reads at 0.07 x its speed, below the 0.125 x";
        assert!(
            pick.why.contains(cost) && pick.why.contains("2.10 bytes"),
            "{}",
            pick.why
        );
        // Short of it by less.
        measured.push(one("xz", 2.5, 3.0, 365.0));
        assert_eq!(idle(&measured).what.algorithm, "xz");
        // Where nothing is within it, that is the reason.
        let none = [
            one("lz4", 1.27, 600.0, 3000.0),
            one("deflate", 2.1, 30.0, 200.0),
        ];
        let advice = recommend(&none).unwrap();
        assert_eq!(advice.idle, None);
        let why = advice.notes.last().unwrap();
        assert!(
            why.contains("fast enough") && why.contains("65 % of density"),
            "{why}"
        );
    }

    #[test]
    fn what_falls_a_little_short_of_a_limit_is_not_thrown_away() {
        for write in [345.0, 350.0, 355.0] {
            let measured = [
                one("lz4", 2.2, 700.0, 2000.0),
                one("zstd", 3.2, write, 700.0),
            ];
            let advice = recommend(&measured).unwrap();
            assert_eq!(advice.writes.what.algorithm, "zstd", "{write}");
        }
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
