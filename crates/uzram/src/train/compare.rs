//! Compares two codecs on given pages: both compress them, taking turns, measured in processor time, since the thread may
//! get little of that. Holds the rules that weigh size against speed.

use uzram_compress::Tfm;
use uzram_pool::HUGE_THRESHOLD;

use crate::codec::{Codec, Residence};
use crate::cpu_time::cpu_time;
use crate::{Error, PAGE_SIZE};

/// Rounds with a turn for each; the median ratio counts.
const ROUNDS: usize = 21;
/// Most pages of a round: short turns average disturbances out.
const ROUND_PAGES: usize = 128;

/// A dictionary has to save this part of the stored bytes...
const MIN_SAVING: f64 = 0.03;
/// ...while compression keeps this part of its speed,
const MIN_SPEED: f64 = 0.85;
/// or to make compression faster by this factor...
const MIN_GAIN: f64 = 1.15;
/// ...while stored bytes grow by no more than this part.
const MAX_LOSS: f64 = 0.005;

/// The rule: whether a change of codec pays that makes stored bytes `size_ratio` times and compression speed
/// `speed_ratio` times what they were. It does where it saves at least 3 % of the bytes at no less than 0.85 of the
/// speed, or is at least 1.15 times as fast at no more than 0.5 % more bytes. Says why, or why not.
pub fn pays(size_ratio: f64, speed_ratio: f64) -> Result<String, String> {
    let (saving, what) = (1.0 - size_ratio, difference(size_ratio, speed_ratio));
    let smaller = saving >= MIN_SAVING && speed_ratio >= MIN_SPEED;
    let faster = speed_ratio >= MIN_GAIN && saving >= -MAX_LOSS;
    if smaller || faster {
        return Ok(what);
    }
    Err(format!(
        "{what}: it takes {} % smaller at {MIN_SPEED} x the speed, or {MIN_GAIN} x the speed at about the same size",
        MIN_SAVING * 100.0
    ))
}

/// Both ratios in words.
fn difference(size_ratio: f64, speed_ratio: f64) -> String {
    let saving = 1.0 - size_ratio;
    let size = match saving >= 0.0 {
        true => format!("{:.1} % smaller", saving * 100.0),
        false => format!("{:.1} % larger", -saving * 100.0),
    };
    format!("{size} at {speed_ratio:.2} x the speed")
}

/// What a dictionary has to save where the device trains it by itself...
const MIN_UNASKED_SAVING: f64 = 0.02;
/// ...at the same speed of compression: what is less is within what two measurements of one codec differ by.
const MIN_UNASKED_SPEED: f64 = 0.97;

/// The rule for an algorithm that trains itself: at least 2 % smaller, and no slower (0.97 of the speed, since a
/// measurement is not exact). Nobody asked for the change, so nobody may pay for it.
pub fn pays_unasked(size_ratio: f64, speed_ratio: f64) -> Result<String, String> {
    let (saving, what) = (1.0 - size_ratio, difference(size_ratio, speed_ratio));
    if saving >= MIN_UNASKED_SAVING && speed_ratio >= MIN_UNASKED_SPEED {
        return Ok(what);
    }
    let least = MIN_UNASKED_SAVING * 100.0;
    Err(format!(
        "{what}: it takes {least} % smaller at no less than {MIN_UNASKED_SPEED} x the speed"
    ))
}

/// The result of a comparison.
pub(super) struct Verdict {
    pub(super) bytes_before: u64,
    pub(super) bytes_after: u64,
    /// Speed of the second over that of the first.
    pub(super) speed_ratio: f64,
}

pub(super) fn compare(
    before: &Codec,
    after: &Codec,
    pages: &[&[u8; PAGE_SIZE]],
) -> Result<Verdict, Error> {
    let (mut before, mut after) = (
        before.context(Residence::Ready)?,
        after.context(Residence::Ready)?,
    );
    let (bytes_before, bytes_after) = (stored(&mut *before, pages), stored(&mut *after, pages));
    let mut ratios = Vec::with_capacity(ROUNDS);
    for round in 0..ROUNDS {
        let at = round * ROUND_PAGES % pages.len().max(1);
        let batch = &pages[at..pages.len().min(at + ROUND_PAGES)];
        let (slow, fast) = if round % 2 == 0 {
            let first = seconds(&mut *before, batch);
            (first, seconds(&mut *after, batch))
        } else {
            let first = seconds(&mut *after, batch);
            (seconds(&mut *before, batch), first)
        };
        ratios.push(slow / fast);
    }
    ratios.sort_by(f64::total_cmp);
    Ok(Verdict {
        bytes_before,
        bytes_after,
        speed_ratio: ratios[ROUNDS / 2],
    })
}

fn seconds(tfm: &mut dyn Tfm, pages: &[&[u8; PAGE_SIZE]]) -> f64 {
    let begin = cpu_time();
    std::hint::black_box(stored(tfm, pages));
    cpu_time().saturating_sub(begin).as_secs_f64().max(1e-9)
}

/// The bytes that a device would store of these pages.
fn stored(tfm: &mut dyn Tfm, pages: &[&[u8; PAGE_SIZE]]) -> u64 {
    let mut object = [0; 2 * PAGE_SIZE];
    let of_page = |page: &&[u8; PAGE_SIZE]| match tfm.compress(&page[..], &mut object) {
        Ok(len) if len < HUGE_THRESHOLD => len as u64,
        _ => PAGE_SIZE as u64,
    };
    pages.iter().map(of_page).sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_rule_is_the_documented_one() {
        for (size, speed, adopt) in [
            (0.96, 1.0, true),
            (0.96, 0.86, true),
            (0.90, 0.80, false),
            (0.98, 1.0, false),
            (1.0, 1.2, true),
            (1.004, 1.2, true),
            (1.02, 1.5, false),
            (1.0, 1.1, false),
        ] {
            assert_eq!(pays(size, speed).is_ok(), adopt, "{size} {speed}");
        }
        for (size, speed, adopt) in [
            (0.98, 0.97, true),
            (0.981, 1.5, false),
            (0.7, 0.96, false),
            (0.95, 1.0, true),
        ] {
            assert_eq!(pays_unasked(size, speed).is_ok(), adopt, "{size} {speed}");
        }
        let why = pays(1.02, 0.5).unwrap_err();
        assert!(
            why.starts_with("2.0 % larger at 0.50 x the speed: it takes 3 %"),
            "{why}"
        );
    }
}
