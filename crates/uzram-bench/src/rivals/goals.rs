//! The library's goals beside its rivals, as rows of the report.

use crate::corpus::PAGE;
use crate::field::{Participant, Turns};
use crate::report::Report;
use crate::rivals::AUTO;

fn label(turns: &Turns<'_>, what: &str) -> String {
    let kib = turns.request * PAGE / 1024;
    format!("{}, {kib} KiB: {what}", turns.corpus)
}

/// Adds rows beside the kernel's zram, lz4 against lz4, and beside the other store.
pub(super) fn speed(turns: &Turns<'_>, report: &mut Report) {
    let (write, read) = if turns.request == 1 {
        (2.0, 3.0)
    } else {
        (1.5, 1.5)
    };
    let Some(ours) = turns.find("uzram lz4") else {
        return;
    };
    if let Some(kernel) = turns.find("kernel lz4")
        && let Some(speeds) = turns.speeds(ours, kernel)
    {
        let what = |what| label(turns, &format!("lz4 {what} speed over kernel zram lz4's"));
        report.at_least(what("write"), speeds[0], write);
        report.at_least(what("read"), speeds[1], read);
    }
    // Not the algorithm that the goals are on, but what they can be reached with where the memory is a heap.
    if let (Some(wk64), Some(kernel)) = (turns.find("uzram wk64"), turns.find("kernel lz4")) {
        let what = |what| label(turns, &format!("wk64 {what} over kernel zram lz4's"));
        if let Some(speeds) = turns.speeds(wk64, kernel) {
            report.add(what("write speed"), speeds[0]);
            report.add(what("read speed"), speeds[1]);
        }
    }
    for (name, ours, trueno) in beside_trueno(turns) {
        if let Some(speeds) = turns.speeds(ours, trueno) {
            let label = |what| label(turns, &format!("{name} {what} speed over trueno's"));
            report.add(label("write"), speeds[0]);
            report.add(label("read"), speeds[1]);
        }
    }
}

/// Pairs of the library and the other store with the same codec, by name.
fn beside_trueno<'a>(
    turns: &'a Turns<'_>,
) -> impl Iterator<Item = (&'static str, &'a Participant, &'a Participant)> {
    let pairs = [("lz4", "uzram lz4"), ("zstd-1", "uzram zstd(level=1)")];
    let there = pairs.into_iter().filter_map(|(name, ours)| {
        let trueno = turns.find(&format!("trueno {name}"))?;
        Some((name, turns.find(ours)?, trueno))
    });
    // Its zstd stores every page as it is.
    there.filter(|(.., trueno)| trueno.ratio.is_some_and(|ratio| ratio > 1.0))
}

/// Adds the rows that do not depend on the size of requests: ratios, memory, and density and speed beside the kernel's
/// default.
pub(super) fn density(turns: &Turns<'_>, report: &mut Report) {
    let ratio = |ours: &Participant, other: &Participant| Some(ours.ratio? / other.ratio?);
    let wk64 = turns.find("uzram wk64").zip(turns.find("kernel lz4"));
    let wk64 = wk64.map(|(ours, kernel)| ("wk64", ours, "kernel zram lz4's", kernel));
    let trueno = beside_trueno(turns);
    let trueno = trueno.map(|(name, ours, trueno)| (name, ours, "trueno's", trueno));
    for (name, ours, whose, other) in wk64.into_iter().chain(trueno) {
        if let Some(ratio) = ratio(ours, other) {
            report.add(
                format!("{}: {name} ratio over {whose}", turns.corpus),
                ratio,
            );
        }
    }
    if let (Some(ours), Some(kernel)) = (turns.find("uzram lz4"), turns.find("kernel lz4"))
        && let (Some(ours), Some(kernel)) = (ours.memory_ratio, kernel.memory_ratio)
    {
        let what = "lz4 data over all memory, over kernel zram lz4's";
        report.at_least(format!("{}: {what}", turns.corpus), ours / kernel, 1.0);
    }
    let ours = |place: &&Participant| place.name.starts_with("uzram");
    for place in turns.who.iter().filter(ours) {
        if let (Some(ratio), Some(memory_ratio)) = (place.ratio, place.memory_ratio) {
            let what = format!(
                "{}: {}, all memory over compressed bytes",
                turns.corpus, place.name
            );
            report.at_most(what, ratio / memory_ratio, 1.04);
        }
    }
    let Some(kernel) = turns.find("kernel lzo-rle") else {
        return;
    };
    for place in turns.who.iter().filter(ours) {
        let what = |what| {
            let name = &place.name;
            format!(
                "{}: {name}, {what} over kernel zram lzo-rle's",
                turns.corpus
            )
        };
        let [density, write, read] = goals(&place.name, turns.corpus);
        if let (Some(ours), Some(kernel)) = (place.memory_ratio, kernel.memory_ratio) {
            report.at_least(what("data over all memory"), ours / kernel, density);
        }
        if let Some(speeds) = turns.speeds(place, kernel) {
            report.at_least(what("4 KiB write speed"), speeds[0], write);
            report.at_least(what("4 KiB read speed"), speeds[1], read);
        }
    }
}

/// What a contestant is to reach beside the kernel's default: data over all memory, and speed of writing and of reading.
fn goals(contestant: &str, corpus: &str) -> [f64; 3] {
    let is_heap = corpus.starts_with("process memory");
    match contestant {
        AUTO => [1.45, 1.0, 1.0],
        _ if !contestant.starts_with("uzram lzhs") => [1.3, 1.0, 1.0],
        _ if is_heap => [1.45, 1.0, 1.0],
        _ => [1.2, 0.9, 1.0],
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn goals_are_those_that_the_project_has_set() {
        let [heaps, files] = ["process memory", "libraries and text"];
        for (contestant, corpus, expected) in [
            (AUTO, heaps, [1.45, 1.0, 1.0]),
            (AUTO, files, [1.45, 1.0, 1.0]),
            ("uzram lzhs", heaps, [1.45, 1.0, 1.0]),
            ("uzram lzhs, trained", heaps, [1.45, 1.0, 1.0]),
            ("uzram lzhs", files, [1.2, 0.9, 1.0]),
            ("uzram lz4", files, [1.3, 1.0, 1.0]),
        ] {
            assert_eq!(
                goals(contestant, corpus),
                expected,
                "{contestant}, {corpus}"
            );
        }
        assert!(crate::rivals::SETTLED.iter().any(|(name, _)| *name == AUTO));
    }
}
