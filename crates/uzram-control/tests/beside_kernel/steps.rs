//! The steps that both sides do: random ones, and directed cases for every listed difference.

use std::borrow::Cow;

use uzram_testkit::Random;

use super::sides::{Facts, Outcome, Side};

/// What a page is filled with. Every algorithm treats these kinds alike: otherwise the kernel's limit for huge pages, which
/// differs from ours, would make everything after it differ.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Fill {
    Same(u64),
    /// Compresses to less than half.
    Text(u64),
    /// Does not compress.
    Noise(u64),
}

impl Fill {
    fn bytes(self) -> Vec<u8> {
        match self {
            Fill::Same(word) => word.to_ne_bytes().repeat(512),
            Fill::Text(number) => (0..4096u64)
                .map(|at| (at / 32 * 7 + number * 13 + at % 2) as u8)
                .collect(),
            Fill::Noise(seed) => Random::new(seed).bytes(4096),
        }
    }
}

/// One step.
#[derive(Debug, Clone)]
pub(crate) enum Step {
    Show(&'static str),
    /// `{backing}` is the side's block device.
    Store(&'static str, Cow<'static, str>),
    Write(u64, Fill),
    Read(u64),
    Discard(u64),
    /// `block_state` without the times.
    Blocks,
}

impl Step {
    pub(crate) fn run(&self, side: &mut dyn Side) -> Outcome {
        match self {
            Step::Show(name) => {
                let shown = side.show(name)?;
                let text = String::from_utf8_lossy(&shown);
                match side.backing() {
                    "" => Ok(shown),
                    backing => Ok(text.replace(backing, "{backing}").into_bytes()),
                }
            }
            Step::Store(name, text) => {
                let text = text.replace("{backing}", side.backing());
                side.store(name, text.as_bytes()).map(|()| Vec::new())
            }
            Step::Write(page, fill) => side.write(*page, &fill.bytes()).map(|()| Vec::new()),
            Step::Read(page) => side.read(*page),
            Step::Blocks => side.blocks().map(without_times),
            Step::Discard(page) => side.discard(*page).map(|()| Vec::new()),
        }
    }
}

/// Lines of `block_state` without the time of the last access, where it has its place and form.
fn without_times(lines: Vec<u8>) -> Vec<u8> {
    let text = String::from_utf8_lossy(&lines);
    let without = |line: &str| {
        let time = line.get(13..32).map(str::trim_start);
        let parts = time.and_then(|time| time.split_once('.'));
        let digits = |text: &str| text.bytes().all(|byte| byte.is_ascii_digit());
        match (parts, line.get(..13), line.get(32..)) {
            (Some((seconds, micros)), Some(page), Some(flags))
                if digits(seconds) && digits(micros) && micros.len() == 6 =>
            {
                format!("{page}TIME{flags}\n")
            }
            _ => format!("{line}\n"),
        }
    };
    text.lines().map(without).collect::<String>().into_bytes()
}

/// Chooses steps at random, by a seed.
pub(crate) struct StepChooser(Random);

impl StepChooser {
    pub(crate) fn new(seed: u64) -> StepChooser {
        StepChooser(Random::new(seed))
    }

    fn below(&mut self, n: usize) -> usize {
        self.0.index(n)
    }

    fn pick<T: Clone>(&mut self, from: &[T]) -> T {
        from[self.below(from.len())].clone()
    }

    /// Draws a step that applies to this kernel.
    pub(crate) fn step(&mut self, facts: &Facts, pages: usize) -> Step {
        if pages > 0 && self.below(3) == 0 {
            // Few pages, so that steps meet.
            let page = self.below(pages.min(200)) as u64;
            let words = [0, 1, u64::MAX, 0x0101_0101_0101_0101, 0x1234_5678_9ABC_DEF0];
            let number = self.0.below(100);
            return match self.below(8) {
                0 => Step::Write(page, Fill::Same(self.pick(&words))),
                1..=3 => Step::Write(page, Fill::Text(number)),
                4 => Step::Write(page, Fill::Noise(number)),
                5 => Step::Discard(page),
                _ => Step::Read(page),
            };
        }
        if facts.blocks && self.below(12) == 0 {
            return Step::Blocks;
        }
        let names: Vec<&'static str> = facts.attributes.iter().copied().collect();
        let name = match self.pick(&names) {
            // As likely as reading all others, so that the state changes.
            _ if pages == 0 && self.below(12) == 0 => "disksize",
            "hot_add" => "mm_stat",
            "hot_remove" => "zram-control/hot_remove",
            name => name,
        };
        if self.below(2) == 0 {
            return Step::Show(name);
        }
        let text = self.value(name, facts);
        match self.below(10) {
            // Not into a limit that writes reach, and not into the number of an existing device.
            0 if !matches!(name, "mem_limit" | "zram-control/hot_remove") => {
                Step::Store(name, Cow::Owned(self.spoil(text.into_owned())))
            }
            _ => Step::Store(name, text),
        }
    }

    /// Changes a text a little.
    fn spoil(&mut self, mut text: String) -> String {
        let at = self.below(text.len() + 1);
        let what = self.pick(&["\n", " ", "0", "x", "=", "-", "+", "\"", "\0", "\n\n", ","]);
        text.insert_str(at, what);
        // See `two-newlines`: the next steps would meet another algorithm.
        match text.strip_suffix("\n\n") {
            Some(rest) => rest.to_owned() + "\n",
            None => text,
        }
    }

    fn value(&mut self, name: &str, facts: &Facts) -> Cow<'static, str> {
        let algorithm: String = match self.below(5) {
            0 => self.pick(&["nonsense", "", "LZ4", "null"]).into(),
            _ => self.pick(&facts.algorithms),
        };
        match name {
            "comp_algorithm" => return (algorithm + self.pick(&["", "\n"])).into(),
            "recomp_algorithm" => {
                let priority = self.pick(&[
                    "",
                    "priority=1",
                    "priority=2",
                    "priority=3",
                    "priority=0",
                    "priority=4",
                    "priority=-1",
                    "priority=x",
                    "priority=",
                    "priority",
                    "priority=99999999999",
                ]);
                return format!("algo={algorithm} {priority}").into();
            }
            "algorithm_params" => {
                let of = match self.below(3) {
                    0 => format!("algo={algorithm}"),
                    1 => self
                        .pick(&["priority=0", "priority=4", "priority=-2", "priority=y"])
                        .into(),
                    _ => String::new(),
                };
                let what = self.pick(&[
                    "level=1",
                    "level=9",
                    "level=",
                    "level",
                    "level=x",
                    "level=2147483648",
                    "",
                    "dict=/nowhere/at/all",
                    "dict=relative",
                    "unknown=1",
                    "unknown",
                ]);
                return format!("{of} {what}\n").into();
            }
            _ => {}
        }
        let values: &[&'static str] = match name {
            // Large ones fail for lack of memory, whose amount differs between the sides.
            "disksize" => &[
                "1M",
                "2097152\n",
                "1048577",
                "0x100000",
                "8M and the rest",
                "0",
                "-1",
                "rubbish",
                "+1M",
                "K",
                "",
                " 1M",
            ],
            "reset" => &[
                "1",
                "1\n",
                "+2",
                "65535",
                "0",
                "65536",
                "x",
                "-1",
                "1 ",
                "99999999999999999999",
            ],
            // Writes must never reach it: each allocator has its own limit.
            "mem_limit" => &[
                "0",
                "64M",
                "1G\n",
                "65M and the rest",
                "0x8000001",
                "010000000000",
                "T1",
                "-1",
                "x",
                "+64M",
                "",
            ],
            "mem_used_max" => &["0", "0\n", "1", "00", "-0", "x", "99999999999999999999"],
            "compact" => &["1", "x", "\n", "anything at all"],
            "idle" => &[
                "0",
                "3600",
                "0xE10",
                "07020",
                "all",
                "all\n",
                "all\n\n",
                "ALL",
                "some",
                "-1",
                "99999999999",
                "0x",
                " all",
            ],
            "recompress" => &[
                "type=idle",
                "type=huge",
                "type=huge_idle",
                "type=nonsense",
                "type=",
                "type",
                "max_pages=3",
                "max_pages=x",
                "max_pages=99999999999999999999",
                "threshold=1000",
                "threshold=4096",
                "threshold=99999999999",
                "priority=0",
                "priority=1",
                "priority=7",
                "algo=zstd",
                "algo=nonsense",
                "priority=x",
                "",
                "unknown=1",
            ],
            "writeback" => &[
                "idle",
                "huge",
                "huge_idle",
                "incompressible",
                "nonsense",
                "page_index=0",
                "page_index=7",
                "page_index=x",
                "page_index=",
                "idle\n",
            ],
            "writeback_limit" => &[
                "0",
                "5",
                "1000\n",
                "-1",
                "x",
                "99999999999999999999",
                "0x10",
                "1 ",
            ],
            "writeback_limit_enable" => &["0", "1", "7", "0\n", "x", "-1", "on"],
            "writeback_batch_size" => &["1", "32", "0", "x", "4294967296"],
            "compressed_writeback" => &["0", "1", "y", "off", "x", "o"],
            "backing_dev" => &[
                "/nowhere/at/all",
                "/etc",
                "/etc/passwd",
                "/dev/null",
                "",
                "\n",
                "{backing}",
                "{backing}\n",
            ],
            "max_comp_streams" => &["0", "4", "x", "-1"],
            "zram-control/hot_remove" => {
                &["77", "-1", "x", "99999999999", "1000\n", "0x1", "", "+"]
            }
            _ => &["1", "0", "x"],
        };
        Cow::Borrowed(self.pick(values))
    }
}

/// A directed case.
pub(crate) struct Case {
    /// Steps to do first on both sides; what differs must be listed.
    pub(crate) before: Vec<Step>,
    /// The step that is compared.
    pub(crate) step: Step,
    /// The number of the listed difference that it shows; `None`: it shows none.
    pub(crate) differs: Option<&'static str>,
    /// Whether it applies to this kernel.
    pub(crate) applies: fn(&Facts) -> bool,
}

fn store(name: &'static str, text: &'static str) -> Step {
    Step::Store(name, Cow::Borrowed(text))
}

fn init() -> Vec<Step> {
    vec![store("disksize", "1M")]
}

/// With an algorithm for recompression.
fn recompressible() -> Vec<Step> {
    let mut steps = vec![store("recomp_algorithm", "algo=lz4 priority=1")];
    steps.extend(init());
    steps
}

fn filled() -> Vec<Step> {
    vec![
        store("disksize", "1M"),
        Step::Write(0, Fill::Same(0)),
        Step::Write(1, Fill::Text(3)),
        Step::Write(2, Fill::Noise(5)),
        Step::Write(3, Fill::Noise(6)),
        Step::Discard(3),
    ]
}

fn with_backing() -> Vec<Step> {
    vec![
        store("backing_dev", "{backing}"),
        store("disksize", "1M"),
        Step::Write(1, Fill::Noise(5)),
    ]
}

fn limited() -> Vec<Step> {
    vec![
        store("backing_dev", "{backing}"),
        store("disksize", "1M"),
        Step::Write(1, Fill::Noise(5)),
        store("writeback_limit_enable", "1"),
    ]
}

fn budget() -> Vec<Step> {
    vec![
        store("backing_dev", "{backing}"),
        store("disksize", "1M"),
        Step::Write(1, Fill::Noise(5)),
        Step::Write(2, Fill::Noise(6)),
        Step::Write(3, Fill::Same(6)),
        store("writeback_limit", "2"),
        store("writeback_limit_enable", "1"),
    ]
}

fn after_writeback() -> Vec<Step> {
    let mut steps = budget();
    steps.push(store("writeback", "huge"));
    steps
}

fn always(before: Vec<Step>, step: Step, differs: Option<&'static str>) -> Case {
    Case {
        before,
        step,
        differs,
        applies: |_| true,
    }
}

fn if_backing(before: Vec<Step>, step: Step) -> Case {
    Case {
        before,
        step,
        differs: None,
        applies: |facts| facts.backing && facts.has("backing_dev"),
    }
}

fn if_blocks(before: Vec<Step>, differs: Option<&'static str>) -> Case {
    Case {
        before,
        step: Step::Blocks,
        differs,
        applies: |facts| facts.blocks && facts.ages,
    }
}

fn if_multi(before: Vec<Step>, step: Step) -> Case {
    Case {
        before,
        step,
        differs: None,
        applies: |facts| facts.has("recomp_algorithm"),
    }
}

/// A case for an attribute that a kernel lacks.
macro_rules! absent {
    ($($name:literal),*) => {
        vec![$(Case {
            before: vec![],
            step: Step::Show($name),
            differs: Some("attributes-of-other-kernels"),
            applies: |facts| !facts.has($name),
        }),*]
    };
}

fn absent() -> Vec<Case> {
    absent!(
        "recomp_algorithm",
        "recompress",
        "algorithm_params",
        "backing_dev",
        "bd_stat",
        "writeback",
        "writeback_limit",
        "writeback_limit_enable",
        "writeback_batch_size",
        "compressed_writeback",
        "max_comp_streams",
        "debug_stat"
    )
}

fn others() -> Vec<Case> {
    vec![
        always(vec![], Step::Show("mm_stat"), None),
        always(
            vec![store("mem_limit", "5000")],
            Step::Show("mm_stat"),
            None,
        ),
        always(
            vec![store("mem_limit", "5000"), store("reset", "1")],
            Step::Show("mm_stat"),
            None,
        ),
        always(filled(), Step::Show("mm_stat"), Some("memory-figures")),
        always(filled(), Step::Show("io_stat"), None),
        always(filled(), Step::Read(1), None),
        always(filled(), Step::Read(3), None),
        always(init(), store("disksize", "1M"), None),
        always(init(), store("disksize", "rubbish"), None),
        always(init(), store("comp_algorithm", "nonsense"), None),
        always(init(), store("comp_algorithm", "lz4"), None),
        always(vec![], store("comp_algorithm", "lz4\n\n"), None),
        always(vec![], store("comp_algorithm", "lz4\n\n\n"), None),
        always(
            vec![store("comp_algorithm", "lz4\n\n")],
            Step::Show("comp_algorithm"),
            Some("two-newlines"),
        ),
        always(
            vec![],
            store(
                "comp_algorithm",
                "xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx\
             xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx",
            ),
            None,
        ),
        always(
            vec![store("comp_algorithm", "lz4"), store("reset", "1")],
            Step::Show("initstate"),
            None,
        ),
        always(vec![], store("reset", "0"), None),
        always(vec![], store("mm_stat", "1"), None),
        always(vec![], Step::Show("mem_limit"), None),
        always(vec![], Step::Show("zram-control/hot_remove"), None),
        always(vec![], store("zram-control/hot_remove", "77"), None),
        always(vec![], store("zram-control/hot_add", "1"), None),
        Case {
            before: vec![],
            step: Step::Show("debug_stat"),
            differs: Some("debug-stat-stall"),
            applies: |facts| facts.has("debug_stat") && facts.release < (6, 15),
        },
        Case {
            before: vec![],
            step: Step::Show("debug_stat"),
            differs: None,
            applies: |facts| facts.has("debug_stat") && facts.release >= (6, 15),
        },
        Case {
            before: vec![],
            step: Step::Show("comp_algorithm"),
            differs: Some("algorithms-that-are-built"),
            applies: |facts| facts.algorithms.len() < 7,
        },
        Case {
            before: init(),
            step: store("algorithm_params", "level=1"),
            differs: Some("params-after-init"),
            applies: |facts| facts.has("algorithm_params") && facts.release < (7, 1),
        },
        Case {
            before: vec![],
            step: store("algorithm_params", "priority=2 level=1"),
            differs: Some("no-multi-comp"),
            applies: |facts| facts.has("algorithm_params") && !facts.has("recomp_algorithm"),
        },
        Case {
            before: init(),
            step: store("idle", "5"),
            differs: Some("idle-by-age"),
            applies: |facts| !facts.ages,
        },
        if_multi(vec![], store("recomp_algorithm", "algo=nonsense")),
        if_multi(vec![], store("recomp_algorithm", "priority=1")),
        if_multi(vec![], store("recomp_algorithm", "algo=lz4 priority=4")),
        if_multi(
            vec![store("recomp_algorithm", "algo=lz4 priority=3")],
            Step::Show("recomp_algorithm"),
        ),
        if_multi(vec![], store("recompress", "type=idle")),
        Case {
            before: recompressible(),
            step: store("recompress", "priority=0"),
            differs: Some("addressed-directly"),
            applies: |facts| facts.has("recompress") && facts.release < (7, 1),
        },
        if_multi(recompressible(), store("recompress", "priority=1")),
        if_multi(recompressible(), store("recompress", "priority=4")),
        if_multi(recompressible(), store("recompress", "algo=lzo")),
        Case {
            before: init(),
            step: store("recompress", "threshold=3700"),
            differs: Some("huge-threshold"),
            applies: |facts| facts.has("recompress"),
        },
        if_backing(
            vec![store("backing_dev", "{backing}")],
            Step::Show("backing_dev"),
        ),
        if_backing(vec![], store("backing_dev", "/etc/passwd")),
        if_backing(init(), store("writeback", "idle")),
        if_backing(init(), store("backing_dev", "/nowhere")),
        if_backing(with_backing(), store("writeback", "idle")),
        if_backing(limited(), store("writeback", "huge")),
        if_backing(after_writeback(), Step::Show("bd_stat")),
        if_backing(after_writeback(), Step::Show("writeback_limit")),
        Case {
            before: budget(),
            step: store("writeback", "huge"),
            differs: Some("writeback-limit-met"),
            applies: |facts| facts.backing && facts.has("writeback") && facts.release < (6, 13),
        },
        Case {
            before: budget(),
            step: store("writeback", "huge"),
            differs: None,
            applies: |facts| facts.backing && facts.has("writeback") && facts.release >= (6, 13),
        },
        // Only in the guest: on another machine it may belong to somebody.
        Case {
            before: vec![
                Step::Show("zram-control/hot_add"),
                Step::Show("zram-control/hot_add"),
                store("zram-control/hot_remove", "1"),
                store("zram-control/hot_remove", "1"),
                Step::Show("zram-control/hot_add"),
                store("zram-control/hot_remove", "1\n"),
            ],
            step: store("zram-control/hot_remove", "2"),
            differs: None,
            applies: |facts| facts.backing,
        },
        if_blocks(vec![], None),
        if_blocks(filled(), None),
        if_blocks(
            [filled(), vec![store("idle", "all"), Step::Read(1)]].concat(),
            None,
        ),
        if_blocks(
            [filled(), vec![store("idle", "all"), store("idle", "99")]].concat(),
            None,
        ),
        Case {
            applies: |facts| facts.blocks && facts.backing && facts.has("writeback"),
            ..if_blocks(after_writeback(), Some("written-back-huge"))
        },
        if_backing(vec![], store("backing_dev", "")),
        if_backing(vec![], store("backing_dev", "\n")),
        if_backing(vec![], store("backing_dev", "/etc")),
        Case {
            before: init(),
            step: store("idle", "99999999999"),
            differs: None,
            applies: |facts| facts.ages,
        },
        Case {
            before: init(),
            step: store("writeback", "nonsense"),
            differs: Some("writeback-state-first"),
            applies: |facts| facts.has("writeback") && facts.release < (6, 16),
        },
        Case {
            before: with_backing(),
            step: store("writeback", "type=huge"),
            differs: Some("writeback-pairs"),
            applies: |facts| facts.backing && facts.has("writeback") && facts.release < (6, 16),
        },
    ]
}

/// All directed cases.
pub(crate) fn cases() -> Vec<Case> {
    absent().into_iter().chain(others()).collect()
}
