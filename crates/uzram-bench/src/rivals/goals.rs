//! What the library has to reach beside its rivals, as rows of the report.

use super::{Place, Turns};
use crate::corpus::PAGE;
use crate::report::Report;

impl Turns<'_> {
    fn find(&self, name: &str) -> Option<&Place> {
        self.who.iter().find(|place| place.name == name)
    }

    /// Speeds of writing and reading of one over another's. Who is not written to was written with lz4.
    fn speeds(&self, one: &Place, other: &Place) -> Option<[f64; 2]> {
        let written = one.write.or(self.find("uzram lz4")?.write)?;
        Some([
            self.write.ratio(other.write?, written),
            self.read.ratio(other.read, one.read),
        ])
    }

    fn label(&self, what: &str) -> String {
        let kib = self.request * PAGE / 1024;
        format!("{}, {kib} KiB: {what}", self.corpus)
    }

    /// The library beside the kernel, lz4 against lz4, and beside the other store.
    pub(super) fn goals(&self, report: &mut Report) {
        let (write, read) = if self.request == 1 {
            (2.0, 3.0)
        } else {
            (1.5, 1.5)
        };
        let Some(ours) = self.find("uzram lz4") else {
            return;
        };
        if let Some(kernel) = self.find("kernel lz4")
            && let Some(speeds) = self.speeds(ours, kernel)
        {
            let what = |what| self.label(&format!("lz4 {what} speed over kernel zram lz4's"));
            report.at_least(what("write"), speeds[0], write);
            report.at_least(what("read"), speeds[1], read);
        }
        // Not the algorithm that the goals are on, but what they can be reached with where the memory is a heap.
        if let (Some(wk64), Some(kernel)) = (self.find("uzram wk64"), self.find("kernel lz4")) {
            let what = |what| self.label(&format!("wk64 {what} over kernel zram lz4's"));
            if let Some(speeds) = self.speeds(wk64, kernel) {
                report.add(what("write speed"), speeds[0]);
                report.add(what("read speed"), speeds[1]);
            }
            if let (Some(ours), Some(kernel)) = (wk64.ratio, kernel.ratio) {
                report.add(what("ratio"), ours / kernel);
            }
        }
        for name in ["lz4", "zstd-1"] {
            let (Some(trueno), Some(ours)) = (
                self.find(&format!("trueno {name}")),
                self.find(match name {
                    "lz4" => "uzram lz4",
                    _ => "uzram zstd(level=1)",
                }),
            ) else {
                continue;
            };
            // Its zstd stores every page as it is.
            if trueno.ratio.is_none_or(|ratio| ratio <= 1.0) {
                continue;
            }
            if let Some(speeds) = self.speeds(ours, trueno) {
                let label = |what| self.label(&format!("{name} {what} speed over trueno's"));
                report.add(label("write"), speeds[0]);
                report.add(label("read"), speeds[1]);
            }
            if let (Some(ours), Some(trueno)) = (ours.ratio, trueno.ratio) {
                report.add(
                    self.label(&format!("{name} ratio over trueno's")),
                    ours / trueno,
                );
            }
        }
    }

    /// Data over all memory beside the kernel's default, with its speed.
    pub(super) fn density(&self, report: &mut Report) {
        if let (Some(ours), Some(kernel)) = (self.find("uzram lz4"), self.find("kernel lz4"))
            && let (Some(ours), Some(kernel)) = (ours.memory_ratio, kernel.memory_ratio)
        {
            let what = "lz4 data over all memory, over kernel zram lz4's";
            report.at_least(format!("{}: {what}", self.corpus), ours / kernel, 1.0);
        }
        let ours = |place: &&Place| place.name.starts_with("uzram");
        for place in self.who.iter().filter(ours) {
            if let (Some(ratio), Some(memory_ratio)) = (place.ratio, place.memory_ratio) {
                let what = format!(
                    "{}: {}, all memory over compressed bytes",
                    self.corpus, place.name
                );
                report.at_most(what, ratio / memory_ratio, 1.04);
            }
        }
        let Some(kernel) = self.find("kernel lzo-rle") else {
            return;
        };
        for place in self.who.iter().filter(ours) {
            let what = |what| {
                let name = &place.name;
                format!("{}: {name}, {what} over kernel zram lzo-rle's", self.corpus)
            };
            if let (Some(ours), Some(kernel)) = (place.memory_ratio, kernel.memory_ratio) {
                let density = ours / kernel;
                report.at_least(what("data over all memory"), density, 1.3);
            }
            if let Some(speeds) = self.speeds(place, kernel) {
                report.at_least(what("4 KiB write speed"), speeds[0], 1.0);
                report.at_least(what("4 KiB read speed"), speeds[1], 1.0);
            }
        }
    }
}
