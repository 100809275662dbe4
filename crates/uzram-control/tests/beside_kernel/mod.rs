//! Sends the same reads and writes to a kernel's zram and to the model, and expects the same bytes and errors.
//!
//! `sides` are the two, `steps` the reads and writes, `differences` what may differ, for the reasons in
//! `docs/differences-from-linux.md`. The test and the guest's program (`examples/zram-differential.rs`) share this folder.

pub(crate) mod differences;
pub(crate) mod sides;
pub(crate) mod steps;

use differences::{Mismatch, explain};
use sides::{Facts, Side};
use steps::{Case, Step, StepChooser};

/// Does a step on both sides. `None`: the outcomes are the same.
pub(crate) fn compare(kernel: &mut dyn Side, ours: &mut dyn Side, step: &Step) -> Option<Mismatch> {
    let (kernel, ours) = (step.run(kernel), step.run(ours));
    (kernel != ours).then(|| Mismatch {
        step: step.clone(),
        kernel,
        ours,
    })
}

/// Does a random sequence. Returns the differences that are not listed, with the number of the step.
pub(crate) fn random(
    kernel: &mut dyn Side,
    ours: &mut dyn Side,
    facts: &Facts,
    seed: u64,
    count: usize,
) -> Result<(), String> {
    begin(kernel, ours)?;
    let mut chooser = StepChooser::new(seed);
    let mut last = Vec::new();
    for number in 0..count {
        let disksize = ours.show("disksize").unwrap_or_default();
        let bytes = String::from_utf8_lossy(&disksize)
            .trim()
            .parse()
            .unwrap_or(0);
        let pages = bytes / 4096_usize;
        let step = chooser.step(facts, pages);
        let mismatch = compare(kernel, ours, &step);
        last.push(step);
        let Some(mismatch) = mismatch else { continue };
        if explain(&mismatch, facts).is_none() {
            let from = last.len().saturating_sub(12);
            let before: Vec<String> = last[from..]
                .iter()
                .map(|step| format!("{step:?}"))
                .collect();
            return Err(format!(
                "seed {seed}, step {number}: {mismatch}\nlast steps:\n{}",
                before.join("\n")
            ));
        }
        if matches!(mismatch.step, Step::Store(..)) {
            // One side changed something and the other did not.
            begin(kernel, ours)?;
        }
    }
    begin(kernel, ours)
}

/// Does the directed cases. Returns the differences that are not listed, and the listed ones that do not show.
pub(crate) fn directed(kernel: &mut dyn Side, ours: &mut dyn Side, facts: &Facts) -> Vec<String> {
    let mut wrong = Vec::new();
    for case in steps::cases().iter().filter(|case| (case.applies)(facts)) {
        if let Err(error) = directed_case(kernel, ours, facts, case) {
            wrong.push(error);
        }
    }
    wrong.extend(begin(kernel, ours).err());
    wrong
}

fn directed_case(
    kernel: &mut dyn Side,
    ours: &mut dyn Side,
    facts: &Facts,
    case: &Case,
) -> Result<(), String> {
    begin(kernel, ours)?;
    for step in &case.before {
        if let Some(mismatch) = compare(kernel, ours, step)
            && explain(&mismatch, facts).is_none()
        {
            return Err(format!("before {:?}: {mismatch}", case.step));
        }
    }
    let mismatch = compare(kernel, ours, &case.step);
    let listed = mismatch.as_ref().map(|m| (explain(m, facts), m));
    match (case.differs, listed) {
        (None, None) => Ok(()),
        (Some(id), Some((Some(found), _))) if id == found => Ok(()),
        (Some(id), None) => Err(format!("{:?}: no longer differs as {id} says", case.step)),
        (expected, Some((found, mismatch))) => Err(format!(
            "{mismatch}: expected {expected:?}, explained by {found:?}"
        )),
    }
}

/// Makes both sides as new: sets what a reset leaves to its initial value.
fn begin<'a>(kernel: &'a mut dyn Side, ours: &'a mut dyn Side) -> Result<(), String> {
    let sides: [&mut dyn Side; 2] = [kernel, ours];
    for side in sides {
        side.store("reset", b"1")
            .map_err(|e| format!("cannot reset: errno {e}"))?;
        for (name, text) in [
            ("writeback_limit", "0"),
            ("writeback_limit_enable", "0"),
            ("writeback_batch_size", "32"),
            ("compressed_writeback", "0"),
        ] {
            // Not every kernel has them.
            let _ = side.store(name, text.as_bytes());
        }
    }
    Ok(())
}
