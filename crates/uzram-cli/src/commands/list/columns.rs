//! The columns of `uzram list`: zramctl's, by its names, and what it lacks.

use serde_json::Value;
use uzram::CodecStats;
use uzram_control::Entry;
use uzram_control::stat::Stat;

use uzram_blockdev::{Survey, Users};
use uzram_runtime::client::{silent_to_json, to_json};

use crate::exit::Result;

/// The column for which all servers look at all pages.
pub(super) const IDLE_PAGES: &str = "IDLE-PAGES";

/// One row's source.
pub(super) struct Row {
    pub(super) entry: Entry,
    /// What its server said, or why it said nothing.
    pub(super) stat: Result<Stat>,
    /// Where it is mounted.
    pub(super) mounts: Users,
    /// How many pages are marked idle, if they were counted.
    pub(super) idle: Option<u64>,
}

/// What a column shows.
pub(super) enum Cell {
    Text(String),
    Count(u64),
    Bytes(u64),
}

pub(super) struct Column {
    pub(super) name: &'static str,
    /// CellOf where no columns are asked for.
    pub(super) usual: bool,
    pub(super) doc: &'static str,
    pub(super) cell: CellOf,
}

/// Where a column's cells come from.
#[derive(Clone, Copy)]
pub(super) enum CellOf {
    /// From what is known without the server.
    Known(fn(&Row) -> Cell),
    /// From what the server says.
    Asked(fn(&Row, &Stat) -> Cell),
}
use CellOf::{Asked, Known};

/// zramctl's columns in zramctl's order, and what it lacks.
pub(super) const COLUMNS: &[Column] = &[
    Column {
        name: "NAME",
        usual: true,
        doc: "the device's name",
        cell: Known(|r| text(&r.entry.record.name)),
    },
    Column {
        name: "PATH",
        usual: true,
        doc: "its node, or the URI of its socket",
        cell: Known(|r| text(&r.entry.record.path)),
    },
    Column {
        name: "ALGORITHM",
        usual: true,
        doc: "the compression algorithm",
        cell: Asked(|_, s| text(&s.algorithm)),
    },
    Column {
        name: "DISKSIZE",
        usual: true,
        doc: "the size of the disk",
        cell: Asked(|_, s| Cell::Bytes(s.disksize)),
    },
    Column {
        name: "DATA",
        usual: true,
        doc: "data that is stored",
        cell: Asked(|_, s| Cell::Bytes(s.counters.orig_data_size_bytes)),
    },
    Column {
        name: "COMPR",
        usual: true,
        doc: "the same compressed",
        cell: Asked(|_, s| Cell::Bytes(s.counters.compr_data_size_bytes)),
    },
    Column {
        name: "TOTAL",
        usual: true,
        doc: "all memory: pool, table, books, streams",
        cell: Asked(|_, s| Cell::Bytes(s.all_memory())),
    },
    Column {
        name: "STREAMS",
        usual: true,
        doc: "compression streams",
        cell: Asked(|_, s| Cell::Count(s.streams)),
    },
    Column {
        name: "ZERO-PAGES",
        usual: false,
        doc: "same-filled pages",
        cell: Asked(|_, s| Cell::Count(s.counters.same_pages)),
    },
    Column {
        name: "MEM-LIMIT",
        usual: false,
        doc: "limit on pool memory, or on all where that was set",
        cell: Asked(|_, s| {
            let counters = &s.counters;
            Cell::Bytes(counters.mem_limit_bytes.max(counters.total_limit_bytes))
        }),
    },
    Column {
        name: "MEM-USED",
        usual: false,
        doc: "the most pool memory that was in use",
        cell: Asked(|_, s| Cell::Bytes(s.counters.mem_used_max_bytes)),
    },
    Column {
        name: "MIGRATED",
        usual: false,
        doc: "pages freed by compaction",
        cell: Asked(|_, s| Cell::Count(s.counters.pages_compacted)),
    },
    Column {
        name: "COMP-RATIO",
        usual: false,
        doc: "DATA over POOL",
        cell: Asked(|_, s| Cell::Text(ratio(s))),
    },
    Column {
        name: "HUGE-PAGES",
        usual: false,
        doc: "pages stored uncompressed",
        cell: Asked(|_, s| Cell::Count(s.counters.huge_pages)),
    },
    Column {
        name: IDLE_PAGES,
        usual: false,
        doc: "pages that are marked idle",
        cell: Asked(|r, _| Cell::Count(r.idle.unwrap_or_default())),
    },
    Column {
        name: "RECOMPRESSED",
        usual: false,
        doc: "pages that recompression made smaller",
        cell: Asked(|_, s| Cell::Count(s.counters.recompressed_pages)),
    },
    Column {
        name: "WRITTEN-BACK",
        usual: false,
        doc: "pages that are on the backing",
        cell: Asked(|_, s| Cell::Count(s.counters.backed_pages)),
    },
    Column {
        name: "BACKING",
        usual: false,
        doc: "file or device of the backing",
        cell: Asked(|_, s| text(&backing(s))),
    },
    Column {
        name: "POOL",
        usual: false,
        doc: "pool memory in use, as in mm_stat",
        cell: Asked(|_, s| Cell::Bytes(s.counters.mem_used_total_bytes)),
    },
    Column {
        name: "MEMORY",
        usual: false,
        doc: "as TOTAL",
        cell: Asked(|_, s| Cell::Bytes(s.all_memory())),
    },
    Column {
        name: "DRIVER",
        usual: false,
        doc: "the algorithm's driver",
        cell: Asked(|_, s| text(&s.driver)),
    },
    Column {
        name: "CODECS",
        usual: false,
        doc: "all algorithms with parameters and dictionaries, the primary in brackets",
        cell: Asked(|_, s| Cell::Text(codecs(s))),
    },
    Column {
        name: "DICTIONARY",
        usual: false,
        doc: "bytes of dictionaries",
        cell: Asked(|_, s| Cell::Bytes(s.counters.dictionary_bytes)),
    },
    Column {
        name: "FRONTEND",
        usual: false,
        doc: "how the device is served",
        cell: Known(|r| text(&r.entry.record.frontend)),
    },
    Column {
        name: "PID",
        usual: false,
        doc: "the server's process number",
        cell: Known(|r| Cell::Count(r.entry.record.pid.into())),
    },
    Column {
        name: "KEEPER",
        usual: false,
        doc: "the process number of its keeper, 0 for none",
        cell: Known(|r| Cell::Count(r.entry.record.keeper.into())),
    },
    Column {
        name: "MOUNTPOINT",
        usual: true,
        doc: "where it is mounted, and dead nodes and partitions of it",
        cell: Known(|r| Cell::Text(r.mounts.mount_points(false).join(","))),
    },
];

fn text(text: &str) -> Cell {
    Cell::Text(text.into())
}

fn backing(stat: &Stat) -> String {
    let path = stat.backing.as_ref().map(|backing| backing.path.display());
    path.map_or(String::new(), |path| path.to_string())
}

/// As zram's comp_algorithm marks the one that is written with.
fn codecs(stat: &Stat) -> String {
    let show = |codec: &CodecStats| match codec.priorities.contains(&0) {
        true => format!("[{codec}]"),
        false => codec.to_string(),
    };
    stat.codecs.iter().map(show).collect::<Vec<_>>().join(" ")
}

/// Data over pool memory, as zramctl shows it.
pub(in super::super) fn ratio(stat: &Stat) -> String {
    stat.ratio()
        .map_or(String::new(), |ratio| format!("{ratio:.4}"))
}

impl Row {
    /// A row of nothing, to ask a column for its kind.
    pub(super) fn blank() -> Row {
        let record = uzram_control::Record {
            version: 1,
            name: String::new(),
            pid: 0,
            frontend: String::new(),
            path: String::new(),
            program: String::new(),
            keeper: 0,
            resume: String::new(),
            identity: String::new(),
        };
        Row {
            entry: Entry {
                dir: std::path::PathBuf::new(),
                record,
            },
            stat: Ok(Stat::default()),
            mounts: Users::default(),
            idle: None,
        }
    }

    /// The device as JSON. One whose server does not answer has only what is known without it, and why.
    pub(super) fn to_json(&self, survey: &Survey) -> Result<Value> {
        match &self.stat {
            Ok(stat) => to_json(survey, &self.entry, stat),
            Err(failure) => silent_to_json(survey, &self.entry, failure),
        }
    }
}
