//! The columns of `uzram list`: zramctl's, by its names, and what it lacks.

use uzram::CodecStats;
use uzram_control::RunningDevice;
use uzram_control::stat::Stat;

use uzram_blockdev::Users;

use crate::exit::Result;

/// The column of names of devices' own.
pub(super) const ALIAS: &str = "ALIAS";
/// The column for which all servers look at all pages.
pub(super) const IDLE_PAGES: &str = "IDLE-PAGES";

/// One row's source.
pub(super) struct DeviceRow {
    pub(super) entry: RunningDevice,
    /// What its server said, or why it said nothing.
    pub(super) stat: Result<Stat>,
    /// Where it is mounted.
    pub(super) mounts: Users,
    /// How many pages are marked idle, if they were counted.
    pub(super) idle: Option<u64>,
}

/// What a column shows.
pub(super) enum CellValue {
    Text(String),
    Count(u64),
    Bytes(u64),
}

pub(super) struct Column {
    pub(super) name: &'static str,
    /// Whether it is shown where no columns are asked for.
    pub(super) usual: bool,
    pub(super) doc: &'static str,
    pub(super) cell: CellOf,
}

/// Where a column's cells come from.
#[derive(Clone, Copy)]
pub(super) enum CellOf {
    /// From what is known without the server.
    Known(fn(&DeviceRow) -> CellValue),
    /// From what the server says.
    Asked(fn(&DeviceRow, &Stat) -> CellValue),
}
use CellOf::{Asked, Known};
use CellValue::{Bytes, Count, Text};

/// A row for each column: whether it is shown where none are asked for, its name, where its cells come from, what it shows.
macro_rules! columns {
    (usual) => { true };
    (asked) => { false };
    ($($shown:ident $name:tt: $cell:expr, $doc:literal;)*) => {
        &[$(Column {
            name: $name,
            usual: columns!($shown),
            doc: $doc,
            cell: $cell,
        }),*]
    };
}

/// zramctl's columns in zramctl's order, and what it lacks.
pub(super) const COLUMNS: &[Column] = columns! {
    usual "NAME": Known(|r| text(&r.entry.record.name)), "the device's name";
    usual ALIAS: Known(|r| text(&r.entry.record.alias)), "the name of its own that it was made with; unasked for only where one has it";
    usual "PATH": Known(|r| text(&r.entry.record.path)), "its node, or the URI of its socket";
    usual "ALGORITHM": Asked(|_, s| text(&s.algorithm)), "the compression algorithm";
    usual "DISKSIZE": Asked(|_, s| Bytes(s.disksize)), "the size of the disk";
    usual "DATA": Asked(|_, s| Bytes(s.counters.orig_data_size_bytes)), "data that is stored";
    usual "COMPR": Asked(|_, s| Bytes(s.counters.compr_data_size_bytes)), "the same compressed";
    usual "TOTAL": Asked(|_, s| Bytes(s.all_memory())), "all memory: pool, table, books, streams";
    usual "STREAMS": Asked(|_, s| Count(s.streams)), "compression streams";
    asked "ZERO-PAGES": Asked(|_, s| Count(s.counters.same_pages)), "same-filled pages";
    asked "MEM-LIMIT": Asked(|_, s| Bytes(limit(s))), "limit on pool memory, or on all where that was set";
    asked "MEM-USED": Asked(|_, s| Bytes(s.counters.mem_used_max_bytes)), "the most pool memory that was in use";
    asked "MIGRATED": Asked(|_, s| Count(s.counters.pages_compacted)), "pages freed by compaction";
    asked "COMP-RATIO": Asked(|_, s| Text(ratio(s))), "DATA over POOL";
    asked "HUGE-PAGES": Asked(|_, s| Count(s.counters.huge_pages)), "pages stored uncompressed";
    asked IDLE_PAGES: Asked(|r, _| Count(r.idle.unwrap_or_default())), "pages that are marked idle";
    asked "RECOMPRESSED": Asked(|_, s| Count(s.counters.recompressed_pages)), "pages that recompression made smaller";
    asked "WRITTEN-BACK": Asked(|_, s| Count(s.counters.backed_pages)), "pages that are on the backing";
    asked "BACKING": Asked(|_, s| text(&backing(s))), "file or device of the backing";
    asked "POOL": Asked(|_, s| Bytes(s.counters.mem_used_total_bytes)), "pool memory in use, as in mm_stat";
    asked "MEMORY": Asked(|_, s| Bytes(s.all_memory())), "as TOTAL";
    asked "DRIVER": Asked(|_, s| text(&s.driver)), "the algorithm's driver";
    asked "CODECS": Asked(|_, s| Text(codecs(s))),
        "all algorithms with parameters and dictionaries, the primary in brackets";
    asked "DICTIONARY": Asked(|_, s| Bytes(s.counters.dictionary_bytes)), "bytes of dictionaries";
    asked "FRONTEND": Known(|r| text(&r.entry.record.frontend)), "how the device is served";
    asked "PID": Known(|r| Count(r.entry.record.pid.into())), "the server's process number";
    asked "KEEPER": Known(|r| Count(r.entry.record.keeper.into())), "the process number of its keeper, 0 for none";
    usual "MOUNTPOINT": Known(|r| Text(r.mounts.mount_points(false).join(","))),
        "where it is mounted, and dead nodes and partitions of it";
};

fn text(text: &str) -> CellValue {
    CellValue::Text(text.into())
}

/// The limit on all memory where that was set, else on the pool.
fn limit(stat: &Stat) -> u64 {
    let counters = &stat.counters;
    counters.mem_limit_bytes.max(counters.total_limit_bytes)
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

impl DeviceRow {
    /// A row of nothing, to ask a column for its kind.
    pub(super) fn blank() -> DeviceRow {
        let record = uzram_control::DeviceRecord {
            version: 1,
            name: String::new(),
            alias: String::new(),
            pid: 0,
            frontend: String::new(),
            path: String::new(),
            program: String::new(),
            keeper: 0,
            resume: String::new(),
            identity: String::new(),
        };
        DeviceRow {
            entry: RunningDevice {
                dir: std::path::PathBuf::new(),
                record,
            },
            stat: Ok(Stat::default()),
            mounts: Users::default(),
            idle: None,
        }
    }
}
