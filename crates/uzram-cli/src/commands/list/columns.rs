//! The columns of `uzram list`: zramctl's, by its names, and what it lacks.

use uzram::CodecStats;
use uzram_control::stat::Stat;
use uzram_control::{Entry, Request, Response};

use uzram_blockdev::Users;

use super::super::ask;

/// One row's source.
pub(super) struct Row {
    pub(super) entry: Entry,
    pub(super) stat: Stat,
    /// Where it is mounted.
    pub(super) mounts: Users,
}

/// What a column shows.
pub(super) enum Cell {
    Text(String),
    Count(u64),
    Bytes(u64),
}

pub(super) struct Column {
    pub(super) name: &'static str,
    /// Shown where no columns are asked for.
    pub(super) usual: bool,
    pub(super) doc: &'static str,
    pub(super) cell: fn(&Row) -> Cell,
}

/// zramctl's columns in zramctl's order, and what it lacks.
pub(super) const COLUMNS: &[Column] = &[
    Column {
        name: "NAME",
        usual: true,
        doc: "the device's name",
        cell: |r| text(&r.entry.record.name),
    },
    Column {
        name: "PATH",
        usual: true,
        doc: "its node, or the URI of its socket",
        cell: |r| text(&r.entry.record.path),
    },
    Column {
        name: "ALGORITHM",
        usual: true,
        doc: "the compression algorithm",
        cell: |r| text(&r.stat.algorithm),
    },
    Column {
        name: "DISKSIZE",
        usual: true,
        doc: "the size of the disk",
        cell: |r| Cell::Bytes(r.stat.disksize),
    },
    Column {
        name: "DATA",
        usual: true,
        doc: "data that is stored",
        cell: |r| Cell::Bytes(r.stat.counters.orig_data_size_bytes),
    },
    Column {
        name: "COMPR",
        usual: true,
        doc: "the same compressed",
        cell: |r| Cell::Bytes(r.stat.counters.compr_data_size_bytes),
    },
    Column {
        name: "TOTAL",
        usual: true,
        doc: "all memory: pool, table, books, streams",
        cell: |r| Cell::Bytes(r.stat.all_memory()),
    },
    Column {
        name: "STREAMS",
        usual: true,
        doc: "compression streams",
        cell: |r| Cell::Count(r.stat.streams),
    },
    Column {
        name: "ZERO-PAGES",
        usual: false,
        doc: "same-filled pages",
        cell: |r| Cell::Count(r.stat.counters.same_pages),
    },
    Column {
        name: "MEM-LIMIT",
        usual: false,
        doc: "limit on pool memory, or on all where that was set",
        cell: |r| {
            let counters = &r.stat.counters;
            Cell::Bytes(counters.mem_limit_bytes.max(counters.total_limit_bytes))
        },
    },
    Column {
        name: "MEM-USED",
        usual: false,
        doc: "the most pool memory that was in use",
        cell: |r| Cell::Bytes(r.stat.counters.mem_used_max_bytes),
    },
    Column {
        name: "MIGRATED",
        usual: false,
        doc: "pages freed by compaction",
        cell: |r| Cell::Count(r.stat.counters.pages_compacted),
    },
    Column {
        name: "COMP-RATIO",
        usual: false,
        doc: "DATA over POOL",
        cell: |r| Cell::Text(ratio(&r.stat)),
    },
    Column {
        name: "HUGE-PAGES",
        usual: false,
        doc: "pages stored uncompressed",
        cell: |r| Cell::Count(r.stat.counters.huge_pages),
    },
    Column {
        name: "IDLE-PAGES",
        usual: false,
        doc: "pages that are marked idle",
        cell: |r| idle_pages(&r.entry),
    },
    Column {
        name: "RECOMPRESSED",
        usual: false,
        doc: "pages that recompression made smaller",
        cell: |r| Cell::Count(r.stat.counters.recompressed_pages),
    },
    Column {
        name: "WRITTEN-BACK",
        usual: false,
        doc: "pages that are on the backing",
        cell: |r| Cell::Count(r.stat.counters.backed_pages),
    },
    Column {
        name: "BACKING",
        usual: false,
        doc: "file or device of the backing",
        cell: |r| text(&backing(&r.stat)),
    },
    Column {
        name: "POOL",
        usual: false,
        doc: "pool memory in use, as in mm_stat",
        cell: |r| Cell::Bytes(r.stat.counters.mem_used_total_bytes),
    },
    Column {
        name: "MEMORY",
        usual: false,
        doc: "as TOTAL",
        cell: |r| Cell::Bytes(r.stat.all_memory()),
    },
    Column {
        name: "DRIVER",
        usual: false,
        doc: "the algorithm's driver",
        cell: |r| text(&r.stat.driver),
    },
    Column {
        name: "CODECS",
        usual: false,
        doc: "all algorithms with parameters and dictionaries, the primary in brackets",
        cell: |r| Cell::Text(codecs(&r.stat)),
    },
    Column {
        name: "DICTIONARY",
        usual: false,
        doc: "bytes of dictionaries",
        cell: |r| Cell::Bytes(r.stat.counters.dictionary_bytes),
    },
    Column {
        name: "FRONTEND",
        usual: false,
        doc: "how the device is served",
        cell: |r| text(&r.entry.record.frontend),
    },
    Column {
        name: "PID",
        usual: false,
        doc: "the server's process number",
        cell: |r| Cell::Count(r.entry.record.pid.into()),
    },
    Column {
        name: "KEEPER",
        usual: false,
        doc: "the process number of its keeper, 0 for none",
        cell: |r| Cell::Count(r.entry.record.keeper.into()),
    },
    Column {
        name: "MOUNTPOINT",
        usual: true,
        doc: "where it is mounted, and dead nodes and partitions of it",
        cell: |r| Cell::Text(r.mounts.mount_points(false).join(",")),
    },
];

fn text(text: &str) -> Cell {
    Cell::Text(text.into())
}

/// Nobody keeps count of them: the server looks at all pages.
fn idle_pages(entry: &Entry) -> Cell {
    // A blank row only wants to know the kind.
    let counted = (!entry.record.name.is_empty()).then(|| ask(entry, &Request::CountIdle));
    match counted {
        Some(Ok(Response::Marked { pages })) => Cell::Count(pages),
        _ => Cell::Count(0),
    }
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
            stat: Stat::default(),
            mounts: Users::default(),
        }
    }
}
