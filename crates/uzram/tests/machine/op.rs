//! What can be done to a device, as data: made from a seed, shown when a sequence fails, and applied by `model` (alone, with
//! an oracle) or `concurrent` (several at once).

use std::ops::Range;
use std::time::Duration;

use rustix::io::Errno;
use uzram::{Choice, PAGE_SIZE, PageKind, Recompress, Writeback, Zeroes};
use uzram_testkit::algorithm::SELF_TRAINED;
use uzram_testkit::disk::Fault;

use crate::random::{Fill, Random};

/// One operation. Offsets and lengths are bytes; pages may lie beyond the end of the device.
#[derive(Debug, Clone)]
pub(crate) enum Op {
    Write {
        at: u64,
        len: u64,
        fill: Fill,
    },
    Read {
        at: u64,
        len: u64,
    },
    Discard {
        at: u64,
        len: u64,
    },
    /// A discard of the whole device.
    DiscardAll,
    Zero {
        at: u64,
        len: u64,
        how: Zeroes,
    },
    Memory(Memory),
    Resize {
        pages: u64,
    },
    Reset,
    /// Faults begin.
    Fault(FaultKind),
    /// Faults end.
    Heal,
    /// The disk hangs in the middle of a writeback, and these requests are made meanwhile.
    Hang {
        writeback: Writeback,
        requests: Vec<Op>,
    },
    /// A snapshot is taken. Before so many of its frames are taken each of these is done; after the last the rest is taken,
    /// or it is given up. The first so many are done while its basis is, if there are any.
    Snapshot {
        basis: usize,
        steps: Vec<(usize, Op)>,
        to_its_end: bool,
    },
    /// The device is dropped and the image attached to.
    Reopen,
    /// Everything is compared.
    Check,
}

/// What is done to the device's memory, at any time and while requests are made.
#[derive(Debug, Clone)]
pub(crate) enum Memory {
    Recompress {
        what: Recompress,
        slices: u32,
    },
    MarkIdle(Option<Duration>),
    TrackAges(bool),
    Dedup(bool),
    Writeback {
        what: Writeback,
        slices: u32,
    },
    Promote {
        pages: Option<Range<u64>>,
        slices: u32,
    },
    Tidy(usize),
    Attach {
        segments: u64,
    },
    Detach,
    Compact(u64),
    /// Trains on a small sample, and adopts whatever comes of it: a change of generation.
    Train {
        priority: usize,
    },
    /// Whether a primary that trains itself may. No agent runs here: it is part of the image.
    SelfTraining(bool),
    SetAlgorithm(u64),
    SetSecondary {
        priority: usize,
        choice: Option<u64>,
    },
    /// Percent of the memory in use; 0: no limit.
    Limit(u64),
    /// Percent of all memory, table and books among it.
    TotalLimit(u64),
    /// Whether what is freed is erased.
    Erase(bool),
    WritebackLimit(Option<u64>),
}

#[derive(Debug, Clone, Copy)]
pub(crate) struct FaultKind {
    pub(crate) writes: bool,
    pub(crate) skip: u64,
    pub(crate) times: u64,
    pub(crate) fault: Fault,
}

/// What algorithms are chosen from: with and without contexts, parameters and dictionaries.
pub(crate) fn choice(number: u64) -> Choice {
    let dictionary = Fill::Text(number % 4).bytes(1000 + number as usize % 3 * 4000);
    match number % 10 {
        0 => Choice::new("lz4"),
        1 => Choice::new("zstd").param("level", "-1"),
        2 => Choice::new("deflate"),
        3 => Choice::new("zstd").dictionary(dictionary),
        4 => Choice::new("lz4")
            .param("level", "4")
            .dictionary(dictionary),
        5 => Choice::new("lzo-rle"),
        6 => Choice::new("zstd").param("level", "3"),
        7 => Choice::new(SELF_TRAINED),
        8 => Choice::new("lzhs"),
        _ => Choice::new("lz4hc"),
    }
}

/// Makes operations for a device of about `pages` pages.
pub(crate) struct Maker {
    pub(crate) random: Random,
    pub(crate) pages: u64,
    /// Whether a backing may lie: say that it has written what it has not.
    pub(crate) lying: bool,
}

impl Maker {
    pub(crate) fn sequence(&mut self, count: usize) -> Vec<Op> {
        (0..count).map(|_| self.op()).collect()
    }

    fn op(&mut self) -> Op {
        match self.random.below(100) {
            0..50 => self.request(),
            50..52 => self.drift(),
            52..86 => Op::Memory(self.memory()),
            86 => Op::Resize {
                pages: self.random.within(self.pages / 2, self.pages * 2),
            },
            87 if self.random.percent(40) => Op::Reset,
            87..91 => Op::Fault(self.fault()),
            91..94 => Op::Heal,
            94..96 => self.hang(),
            96 => self.snapshot(),
            97 => Op::Reopen,
            _ => Op::Check,
        }
    }

    fn request(&mut self) -> Op {
        let (at, len) = self.range();
        match self.random.below(20) {
            0..11 => Op::Write {
                at,
                len,
                fill: Fill::random(&mut self.random),
            },
            11..16 => Op::Read { at, len },
            16 if self.random.percent(5) => Op::DiscardAll,
            16..18 => Op::Discard { at, len },
            _ => Op::Zero {
                at,
                len,
                how: *self.random.pick(&[Zeroes::Allocate, Zeroes::Deallocate]),
            },
        }
    }

    /// Pages of one dialect: what was trained on another one does not suit them.
    fn drift(&mut self) -> Op {
        let (page, random) = (PAGE_SIZE as u64, &mut self.random);
        Op::Write {
            at: random.below(self.pages) * page,
            len: random.within(8, 80) * page,
            fill: Fill::Dialect(random.below(6), random.next()),
        }
    }

    /// Bytes of a request: whole pages, any part of some, or many.
    fn range(&mut self) -> (u64, u64) {
        let (page, random) = (PAGE_SIZE as u64, &mut self.random);
        let at = random.below(self.pages);
        match random.below(10) {
            0..3 => (at * page, page),
            3..6 => (at * page, page * random.within(1, 40)),
            6 => (at * page, page * random.within(1, self.pages)),
            7 => (at * page + random.below(8) * 512, 512 * random.within(1, 8)),
            _ => (at * page + random.below(page), random.below(3 * page)),
        }
    }

    fn pages(&mut self) -> Range<u64> {
        let first = self.random.below(self.pages);
        first..first + self.random.within(1, self.pages / 2)
    }

    fn kind(&mut self) -> PageKind {
        use PageKind::{All, Huge, HugeIdle, Idle, Incompressible};
        *self
            .random
            .pick(&[All, All, All, Idle, Huge, HugeIdle, Incompressible])
    }

    /// Slices after which a job is stopped: mostly none.
    fn slices(&mut self) -> u32 {
        if self.random.percent(20) {
            1 + self.random.below(3) as u32
        } else {
            u32::MAX
        }
    }

    pub(crate) fn writeback(&mut self) -> Writeback {
        Writeback {
            kind: self.kind(),
            pages: match self.random.below(4) {
                0 => vec![self.pages()],
                1 => vec![self.pages(), self.pages()],
                _ => Vec::new(),
            },
            max_pages: if self.random.percent(30) {
                self.random.within(1, self.pages / 2)
            } else {
                0
            },
            ..Writeback::default()
        }
    }

    pub(crate) fn memory(&mut self) -> Memory {
        match self.random.below(40) {
            0..6 => Memory::Recompress {
                what: Recompress {
                    kind: self.kind(),
                    priority: self
                        .random
                        .percent(30)
                        .then(|| self.random.within(1, 3) as usize),
                    threshold: *self.random.pick(&[0, 0, 0, 100, 1000, 3000]),
                    least: *self.random.pick(&[0, 0, 0, 64, 1216]),
                    max_pages: if self.random.percent(30) {
                        self.random.within(1, 100)
                    } else {
                        0
                    },
                    pages: self.random.percent(30).then(|| self.pages()),
                    older_than: None,
                },
                slices: self.slices(),
            },
            6..9 => Memory::MarkIdle(match self.random.below(4) {
                0 => Some(Duration::from_secs(self.random.below(2))),
                _ => None,
            }),
            9 => Memory::TrackAges(self.random.percent(50)),
            10..16 => Memory::Writeback {
                what: self.writeback(),
                slices: self.slices(),
            },
            16..20 => Memory::Promote {
                pages: self.random.percent(60).then(|| self.pages()),
                slices: self.slices(),
            },
            20..22 => Memory::Tidy(self.random.within(1, 8) as usize),
            22..24 => Memory::Attach {
                segments: self.random.within(4, 40),
            },
            24 => Memory::Detach,
            25..28 => Memory::Compact(self.random.within(1, 400_000)),
            28..30 => Memory::Train {
                priority: *self.random.pick(&[0, 0, 0, 1, 2]),
            },
            30 => Memory::SetAlgorithm(self.random.below(64)),
            31..33 => Memory::SetSecondary {
                priority: self.random.within(1, 3) as usize,
                choice: self.random.percent(80).then(|| self.random.below(64)),
            },
            36 => Memory::Dedup(self.random.percent(60)),
            33 => Memory::Limit(if self.random.percent(60) {
                0
            } else {
                self.random.within(70, 120)
            }),
            37 => Memory::TotalLimit(self.random.within(90, 120)),
            38..40 => Memory::Erase(self.random.percent(70)),
            34 => Memory::WritebackLimit(None),
            35 => Memory::SelfTraining(self.random.percent(50)),
            _ => Memory::WritebackLimit(self.random.percent(60).then(|| self.random.below(200))),
        }
    }

    /// The same with neither limits nor another backing.
    pub(crate) fn memory_unlimited(&mut self) -> Memory {
        use Memory::{Attach, Detach, Limit, TotalLimit, WritebackLimit};
        loop {
            match self.memory() {
                Attach { .. } | Detach | Limit(_) | TotalLimit(_) | WritebackLimit(_) => {}
                other => return other,
            }
        }
    }

    pub(crate) fn fault(&mut self) -> FaultKind {
        let random = &mut self.random;
        let writes = random.percent(65);
        let fault = match (random.below(5), self.lying, writes) {
            (0 | 1, true, true) => *random.pick(&[Fault::Torn(None), Fault::Flip]),
            (0 | 1, true, false) => Fault::Flip,
            (0, _, _) => Fault::Short,
            (1, _, true) => Fault::Torn(Some(Errno::IO)),
            (2, _, true) => Fault::Error(Errno::NOSPC),
            _ => Fault::Error(Errno::IO),
        };
        let times = if random.percent(30) {
            u64::MAX
        } else {
            random.within(1, 20)
        };
        FaultKind {
            writes,
            skip: random.below(10),
            times,
            fault,
        }
    }

    fn snapshot(&mut self) -> Op {
        let step = |maker: &mut Maker| {
            let op = match maker.random.below(10) {
                0..7 => maker.request(),
                7 => Op::Resize {
                    pages: maker.random.within(maker.pages / 2, maker.pages * 2),
                },
                _ => Op::Memory(maker.memory()),
            };
            (maker.random.below(4) as usize, op)
        };
        let steps = self.random.within(0, 40);
        Op::Snapshot {
            basis: match self.random.percent(40) {
                true => self.random.below(steps + 1) as usize,
                false => 0,
            },
            steps: (0..steps).map(|_| step(self)).collect(),
            to_its_end: self.random.percent(85),
        }
    }

    fn hang(&mut self) -> Op {
        let mut writeback = self.writeback();
        // Sometimes the disk is given up, sometimes it comes back in time.
        writeback.patience = Duration::from_millis(*self.random.pick(&[5, 20_000]));
        let requests = (0..self.random.within(1, 30))
            .map(|_| self.request())
            .collect();
        Op::Hang {
            writeback,
            requests,
        }
    }
}
