//! The attributes that show statistics.

use crate::stat::Stat;
use crate::zram::{Attribute, Errno, Subject};

/// Reads the statistics. Those of an uninitialised device are 0, except the limit.
fn stat(subject: &Subject<'_>) -> Result<Box<Stat>, Errno> {
    let zram = subject.zram()?;
    if let Some(stat) = zram.stat()? {
        return Ok(stat);
    }
    let mut stat = Box::<Stat>::default();
    stat.counters.mem_limit_bytes = zram.state().config.mem_limit;
    Ok(stat)
}

pub(in crate::zram) const IO_STAT: Attribute = Attribute {
    name: "io_stat",
    mode: 0o444,
    unit: "pages",
    since: "4.1",
    about: "failed reads and writes, and discarded pages",
    docs: "Shows four numbers: reads that failed, writes that failed, 0 (once I/O that was not of whole pages), and pages \
           that were discarded. In one line, each but the third in at least eight columns.",
    show: Some(|subject| Ok(stat(subject)?.io_stat())),
    ..Attribute::OF_DEVICE
};

pub(in crate::zram) const MM_STAT: Attribute = Attribute {
    name: "mm_stat",
    mode: 0o444,
    since: "4.1",
    about: "data, memory, limit and kinds of pages",
    docs: "Shows nine numbers in one line, each in at least eight columns: bytes of the pages that hold anything; bytes of \
           their objects; memory in use, in bytes; its limit in bytes, 0 for none; its maximum; same-filled pages; pages \
           that compaction gave back; huge pages (stored as they are); huge pages ever stored. As in the kernel the first \
           counts pages on the backing, too. Of memory in use, the slot table and what is private to the server are no \
           part: `uzram stat` shows these. A page is huge from about 4050 bytes on, in the kernel from 3625.",
    show: Some(|subject| Ok(stat(subject)?.mm_stat())),
    ..Attribute::OF_DEVICE
};

pub(in crate::zram) const DEBUG_STAT: Attribute = Attribute {
    name: "debug_stat",
    mode: 0o444,
    since: "4.11",
    about: "the version of its format and internal counters",
    docs: "Shows `version: 1`, then 0 (up to Linux 6.14 how often a write had to wait for memory) and the number of swap \
           slots that could not be freed at once, which uzram has none of.",
    show: Some(|_| Ok(format!("version: 1\n0 {:8}\n", 0))),
    ..Attribute::OF_DEVICE
};

pub(in crate::zram) const BD_STAT: Attribute = Attribute {
    name: "bd_stat",
    mode: 0o444,
    unit: "pages",
    since: "4.20",
    about: "pages on the backing, read from it and written to it",
    docs: "Shows three numbers in one line, each in at least eight columns: pages that are on the backing, pages that were \
           read from it, pages that were written to it. A page takes a block of 4 KiB in the kernel; here several share one.",
    show: Some(|subject| {
        let stat = stat(subject)?;
        let (pages, reads, writes) = (
            stat.counters.backed_pages,
            stat.counters.backed_reads,
            stat.counters.backed_writes,
        );
        Ok(format!("{pages:8} {reads:8} {writes:8}\n"))
    }),
    ..Attribute::OF_DEVICE
};
