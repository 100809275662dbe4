//! A sequence from its first operation to its end, and what is left of one that fails when it is made shorter.

use std::time::Instant;

use super::{Model, Totals, Wrong};
use crate::op::Op;
use crate::subject::Setup;

/// Runs a sequence on a new device. An error: which operation, and what was wrong.
pub(crate) fn run(setup: &Setup, ops: &[Op]) -> Result<Totals, (usize, Wrong)> {
    let mut at = 0;
    let result = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
        let mut model = Model::new(setup)?;
        for (number, op) in ops.iter().enumerate() {
            at = number;
            model.apply(op)?;
        }
        at = ops.len();
        model.finish()?;
        Ok(model.totals)
    }));
    result
        .unwrap_or_else(|panic| Err(panic_text(&*panic)))
        .map_err(|wrong| (at, wrong))
}

pub(crate) fn panic_text(panic: &(dyn std::any::Any + Send)) -> Wrong {
    let text = panic.downcast_ref::<String>().map(String::as_str);
    let text = text.or_else(|| panic.downcast_ref::<&str>().copied());
    format!("panic: {}", text.unwrap_or("of no text"))
}

/// Leaves out of a failing sequence what it fails without, for some time.
pub(crate) fn shrink(setup: &Setup, ops: &[Op], failed_at: usize, until: Instant) -> Vec<Op> {
    let mut ops = ops[..ops.len().min(failed_at + 1)].to_vec();
    let mut chunk = ops.len().div_ceil(2);
    while chunk > 0 {
        let mut at = 0;
        while at < ops.len() && Instant::now() < until {
            let mut fewer = ops.clone();
            fewer.drain(at..(at + chunk).min(ops.len()));
            if run(setup, &fewer).is_err() {
                ops = fewer;
            } else {
                at += chunk;
            }
        }
        chunk = if chunk == 1 || Instant::now() >= until {
            0
        } else {
            chunk.div_ceil(2)
        };
    }
    ops
}
