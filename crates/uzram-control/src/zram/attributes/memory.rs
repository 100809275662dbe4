//! The attributes that limit memory and give it back.

use crate::protocol::{Request, Response};
use crate::zram::device::ask;
use crate::zram::{Attribute, Errno, Refusal, Subject, WritableWhen, parse};

const PAGE: u64 = uzram::PAGE_SIZE as u64;

pub(in crate::zram) const MEM_LIMIT: Attribute = Attribute {
    name: "mem_limit",
    mode: 0o200,
    unit: "bytes",
    since: "3.18",
    about: "the limit on memory; 0 for none",
    docs: "Takes a size as disksize does, rounded up to 4096; 0 for no limit, which is the default. EINVAL for anything \
           but a size. Shown as the fourth number of mm_stat. A write that finds no memory below the limit fails, and the \
           page keeps its contents. A reset drops the limit. uzram never exceeds it, while the kernel checks after it has \
           allocated. Not strict, it can be read.",
    show: Some(show_limit),
    store: Some(store_limit),
    ..Attribute::OF_DEVICE
};

fn show_limit(subject: &Subject<'_>) -> Result<String, Errno> {
    let zram = subject.zram()?;
    let limit = match zram.stat()? {
        Some(stat) => stat.counters.mem_limit_bytes,
        None => zram.state().config.mem_limit,
    };
    Ok(format!("{limit}\n"))
}

fn store_limit(subject: &Subject<'_>, text: &[u8]) -> Result<(), Refusal> {
    let limit = parse::memparse(text).ok_or(Errno::INVAL)?;
    let bytes = limit.checked_next_multiple_of(PAGE).unwrap_or(0);
    let change = subject.zram()?.change()?;
    if let Some(live) = change.live() {
        ask(&*live, Request::SetMemLimit { bytes })?;
    }
    change.set(|config| config.mem_limit = bytes);
    Ok(())
}

pub(in crate::zram) const MEM_USED_MAX: Attribute = Attribute {
    name: "mem_used_max",
    mode: 0o200,
    since: "3.18",
    about: "resets the maximum of memory used",
    docs: "Takes 0 and sets the maximum (the fifth number of mm_stat) to the memory in use now. EINVAL for anything else. \
           Without effect on an uninitialised device.",
    store: Some(store_used_max),
    ..Attribute::OF_DEVICE
};

fn store_used_max(subject: &Subject<'_>, text: &[u8]) -> Result<(), Refusal> {
    if parse::kstrtoull(text, 10) != Ok(0) {
        return Err(Errno::INVAL.into());
    }
    let change = subject.zram()?.change()?;
    match change.live() {
        Some(live) => ask(&*live, Request::ResetMemUsedMax).map(drop),
        None => Ok(()),
    }
}

pub(in crate::zram) const COMPACT: Attribute = Attribute {
    name: "compact",
    mode: 0o200,
    since: "4.2",
    about: "moves objects together and gives memory back",
    docs: "Takes anything. Returns when no more memory can be gained, or when every object could have been moved once. \
           EINVAL before disksize is set. The seventh number of mm_stat counts the pages that were given back. Statistics do \
           not wait for it.",
    when: WritableWhen::Init,
    store: Some(store_compact),
    ..Attribute::OF_DEVICE
};

fn store_compact(subject: &Subject<'_>, _: &[u8]) -> Result<(), Refusal> {
    subject.zram()?.job(|live| {
        // Writers make new work meanwhile: one pass over all objects is enough.
        let stat = crate::zram::device::stat(live)?;
        let mut left = stat.counters.compr_data_size_bytes;
        loop {
            let max_bytes = u64::MAX;
            let slice = match ask(live, Request::Compact { max_bytes })? {
                Response::Compacted(slice) => slice,
                _ => return Err(Errno::PROTO.into()),
            };
            if slice.finished || slice.bytes_moved >= left || slice.objects_moved == 0 {
                return Ok(());
            }
            left -= slice.bytes_moved;
        }
    })
}
