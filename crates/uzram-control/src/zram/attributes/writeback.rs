//! The attributes of the backing device and of writeback.

use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use uzram::{Ended, PageKind};

use crate::protocol::{Request, Response, WritebackRequest};
use crate::zram::backing::{is_block_device, take};
use crate::zram::config::BackingConfig;
use crate::zram::device::{Zram, ask, stat};
use crate::zram::parse::{self, KeyValues};
use crate::zram::{Attribute, Errno, Live, Refusal, Subject, WritableWhen};

const PAGE: u64 = uzram::PAGE_SIZE as u64;

pub(in crate::zram) const BACKING_DEV: Attribute = Attribute {
    name: "backing_dev",
    mode: 0o644,
    since: "4.14",
    about: "the block device that writeback writes to",
    docs: "Takes the absolute path of a block device and opens it for this device alone; another path replaces it. Shows \
           the path, or `none`. The block device's contents are lost. EBUSY where the device is initialised; the error of \
           opening it (ENOENT; EBUSY where it is mounted or in use); ENOTBLK for anything but a block device; EINVAL for one \
           of less than a page, or that lies on a uzram device. Not strict, it also takes a regular file, as PATH or PATH,SIZE, and an initialised device \
           uses it at once; `none` then brings everything back into memory and closes it.",
    when: WritableWhen::Uninit,
    show: Some(show_backing),
    store: Some(store_backing),
    ..Attribute::OF_DEVICE
};

fn show_backing(subject: &Subject<'_>) -> Result<String, Errno> {
    let zram = subject.zram()?;
    let path = match zram.stat()? {
        Some(stat) => stat
            .backing
            .map(|backing| backing.path.display().to_string()),
        None => {
            let state = zram.state();
            let backing = state.config.backing.as_ref();
            backing.map(|backing| backing.path.display().to_string())
        }
    };
    Ok(path.unwrap_or_else(|| "none".into()) + "\n")
}

fn store_backing(subject: &Subject<'_>, text: &[u8]) -> Result<(), Refusal> {
    let zram = subject.zram()?;
    let text = parse::without_newline(text);
    if subject.strict() {
        let change = zram.change()?;
        if change.live().is_some() {
            return Err(Errno::BUSY.into());
        }
        let (file, path) = take(Path::new(std::ffi::OsStr::from_bytes(text)))?;
        subject.host.engine().check_backing(&path)?;
        let mut state = zram.state_mut();
        state.held = Some(file);
        state.config.backing = Some(BackingConfig {
            path,
            size_bytes: None,
        });
        return Ok(());
    }
    let backing = parse_backing(text)?;
    let change = zram.change_alone()?;
    let mut held = None;
    if let Some(live) = change.live() {
        let (path, size_bytes) = match backing.clone() {
            Some(backing) => (Some(backing.path), backing.size_bytes),
            None => (None, None),
        };
        let request = Request::SetBacking {
            path,
            size_bytes,
            seal: false,
            allow_foreign: false,
        };
        ask(&*live, request)?;
    } else if let Some(backing) = &backing {
        subject.host.engine().check_backing(&backing.path)?;
        if is_block_device(&backing.path) {
            held = Some(take(&backing.path)?.0);
        }
    }
    let mut state = zram.state_mut();
    state.held = held;
    state.config.backing = backing;
    Ok(())
}

/// Parses `none`, `PATH` or `PATH,SIZE`.
fn parse_backing(text: &[u8]) -> Result<Option<BackingConfig>, Errno> {
    let text = std::str::from_utf8(text).map_err(|_| Errno::NOENT)?;
    if text == "none" {
        return Ok(None);
    }
    let (path, size_bytes) = match text.rsplit_once(',') {
        Some((path, size)) => match crate::size::parse(size) {
            Ok(bytes) => (path, Some(bytes)),
            Err(_) => (text, None),
        },
        None => (text, None),
    };
    match Path::new(path).is_absolute() {
        true => Ok(Some(BackingConfig {
            path: path.into(),
            size_bytes,
        })),
        false => Err(Errno::NOENT),
    }
}

pub(in crate::zram) const WRITEBACK: Attribute = Attribute {
    name: "writeback",
    mode: 0o200,
    since: "4.20",
    about: "writes pages to the backing",
    docs: "Takes `type=idle|huge|huge_idle|incompressible` (or that word alone, as before Linux 6.16), and before it any \
           number of `page_index=N` and `page_indexes=FIRST-LAST`. Does nothing if nothing is selected. EINVAL before disksize \
           is set; ENODEV without backing; then EINVAL for an unknown type, a key without value or what is no number; ERANGE \
           for pages beyond the end. EIO where writeback_limit is used up or the disk fails, ENOSPC where the backing is \
           full; what was written by then stays written. Pages are written compressed, several in a block; a page that the \
           disk refuses stays in memory. One writeback or recompression works at a time, the next one waits (EAGAIN up to \
           Linux 6.18); statistics do not wait for it.",
    when: WritableWhen::Init,
    store: Some(store_writeback),
    ..Attribute::OF_DEVICE
};

/// The pages to write back: those in these ranges, and those of that kind.
#[derive(Debug, PartialEq, Eq)]
struct Selected {
    ranges: Vec<(u64, u64)>,
    kind: Option<PageKind>,
}

fn kind(text: &[u8]) -> Result<PageKind, Errno> {
    let text = std::str::from_utf8(text).map_err(|_| Errno::INVAL)?;
    match text.parse() {
        // zram has no word for all pages.
        Ok(PageKind::All) | Err(_) => Err(Errno::INVAL),
        Ok(kind) => Ok(kind),
    }
}

/// Parses what was written to the attribute, for a device of that many pages.
fn select(text: &[u8], pages: u64) -> Result<Selected, Errno> {
    let mut selected = Selected {
        ranges: Vec::new(),
        kind: None,
    };
    let index = |text: &[u8]| match parse::kstrtoull(text, 10)? {
        index if index < pages => Ok(index),
        _ => Err(Errno::RANGE),
    };
    for arg in KeyValues::new(text) {
        let Ok(value) = arg.value() else {
            selected.kind = Some(kind(&arg.key)?);
            break;
        };
        match &arg.key[..] {
            b"type" => {
                selected.kind = Some(kind(value)?);
                break;
            }
            b"page_index" => {
                let index = index(value)?;
                selected.ranges.push((index, index + 1));
            }
            b"page_indexes" => {
                let dash = value.iter().position(|byte| *byte == b'-');
                let dash = dash.ok_or(Errno::INVAL)?;
                let (first, last) = (index(&value[..dash])?, index(&value[dash + 1..])?);
                if first > last {
                    return Err(Errno::RANGE);
                }
                selected.ranges.push((first, last + 1));
            }
            _ => {}
        }
    }
    Ok(selected)
}

fn store_writeback(subject: &Subject<'_>, text: &[u8]) -> Result<(), Refusal> {
    subject.zram()?.job(|live| {
        let now = stat(live)?;
        if now.backing.is_none() {
            return Err(Errno::NODEV.into());
        }
        let selected = select(text, now.disksize / PAGE)?;
        if !selected.ranges.is_empty() {
            write(live, PageKind::All, selected.ranges)?;
        }
        selected
            .kind
            .map_or(Ok(()), |kind| write(live, kind, Vec::new()))
    })
}

fn write(live: &dyn Live, kind: PageKind, pages: Vec<(u64, u64)>) -> Result<(), Refusal> {
    let request = Request::Writeback(WritebackRequest {
        kind,
        pages,
        max_pages: 0,
        dry_run: false,
    });
    let report = match ask(live, request)? {
        Response::WrittenBack(report) => report,
        _ => return Err(Errno::PROTO.into()),
    };
    match report.ended {
        Some(Ended::Full) => Err(Errno::NOSPC.into()),
        None if report.failed == 0 => Ok(()),
        _ => Err(Errno::IO.into()),
    }
}

pub(in crate::zram) const WRITEBACK_LIMIT: Attribute = Attribute {
    name: "writeback_limit",
    mode: 0o644,
    unit: "pages",
    since: "5.0",
    about: "how many pages may still be written back",
    docs: "Takes and shows a number of pages of 4 KiB. Each page that is written back counts it down while \
           writeback_limit_enable is 1; at 0 writeback ends with EIO. EINVAL for anything but a number of 64 bits. A reset \
           leaves it.",
    show: Some(show_limit),
    store: Some(store_limit),
    ..Attribute::OF_DEVICE
};

/// Reads what is left of the limit, which the device counts down while it is in force.
fn limit(zram: &Zram) -> Result<u64, Errno> {
    let left = zram.stat()?.and_then(|stat| stat.writeback_limit);
    Ok(left.unwrap_or_else(|| zram.state().config.writeback_limit))
}

fn show_limit(subject: &Subject<'_>) -> Result<String, Errno> {
    Ok(format!("{}\n", limit(subject.zram()?)?))
}

fn store_limit(subject: &Subject<'_>, text: &[u8]) -> Result<(), Refusal> {
    let pages = parse::kstrtoull(text, 10).map_err(|_| Errno::INVAL)?;
    set_limit(subject.zram()?, Some(pages), None)
}

/// Sets the limit, whether it is in force, or both.
fn set_limit(zram: &Zram, pages: Option<u64>, enable: Option<bool>) -> Result<(), Refusal> {
    let change = zram.change()?;
    let pages = match pages {
        Some(pages) => pages,
        None => limit(zram)?,
    };
    let enable = enable.unwrap_or_else(|| zram.state().config.writeback_limit_enable);
    if let Some(live) = change.live() {
        let pages = enable.then_some(pages);
        ask(&*live, Request::SetWritebackLimit { pages })?;
    }
    change.set(|config| {
        config.writeback_limit = pages;
        config.writeback_limit_enable = enable;
    });
    Ok(())
}

pub(in crate::zram) const WRITEBACK_LIMIT_ENABLE: Attribute = Attribute {
    name: "writeback_limit_enable",
    mode: 0o644,
    since: "5.0",
    about: "whether writeback_limit is in force",
    docs: "Takes a number, where 0 means no, and shows 0 or 1. EINVAL for anything else. A reset leaves it.",
    show: Some(|subject| {
        let on = subject.zram()?.state().config.writeback_limit_enable;
        Ok(format!("{}\n", u8::from(on)))
    }),
    store: Some(|subject, text| {
        let number = parse::kstrtoull(text, 10).map_err(|_| Errno::INVAL)?;
        set_limit(subject.zram()?, None, Some(number != 0))
    }),
    ..Attribute::OF_DEVICE
};

pub(in crate::zram) const WRITEBACK_BATCH_SIZE: Attribute = Attribute {
    name: "writeback_batch_size",
    mode: 0o644,
    unit: "requests",
    since: "7.0",
    about: "how many writes to the backing are in flight at a time",
    docs: "Takes and shows a number of at least 1; 32 by default. EINVAL for anything else. A reset leaves it. uzram only \
           remembers it: it writes 256 KiB at a time and has four such writes in flight.",
    show: Some(|subject| {
        let size = subject.zram()?.state().config.writeback_batch_size;
        Ok(format!("{size}\n"))
    }),
    store: Some(|subject, text| {
        let size = parse::kstrtouint(text, 10).map_err(|_| Errno::INVAL)?;
        if size == 0 {
            return Err(Errno::INVAL.into());
        }
        let change = subject.zram()?.change()?;
        change.set(|config| config.writeback_batch_size = size);
        Ok(())
    }),
    ..Attribute::OF_DEVICE
};

pub(in crate::zram) const COMPRESSED_WRITEBACK: Attribute = Attribute {
    name: "compressed_writeback",
    mode: 0o644,
    since: "7.0",
    about: "whether pages go to the backing compressed",
    docs: "Takes y, t, 1, on or n, f, 0, off and shows 0 or 1; 0 by default. EINVAL for anything else, EBUSY where the device \
           is initialised. A reset leaves it. uzram only remembers it: it always writes pages compressed.",
    when: WritableWhen::Uninit,
    show: Some(|subject| {
        let on = subject.zram()?.state().config.compressed_writeback;
        Ok(format!("{}\n", u8::from(on)))
    }),
    store: Some(|subject, text| {
        let on = parse::kstrtobool(text)?;
        let change = subject.zram()?.change()?;
        if change.live().is_some() && subject.strict() {
            return Err(Errno::BUSY.into());
        }
        change.set(|config| config.compressed_writeback = on);
        Ok(())
    }),
    ..Attribute::OF_DEVICE
};

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_to_write_back_is_read_as_in_the_kernel() {
        let of = |ranges: &[(u64, u64)], kind| {
            let ranges = ranges.to_vec();
            Ok(Selected { ranges, kind })
        };
        for (text, expected) in [
            ("idle", of(&[], Some(PageKind::Idle))),
            ("huge_idle\n", of(&[], Some(PageKind::HugeIdle))),
            (
                "type=incompressible",
                of(&[], Some(PageKind::Incompressible)),
            ),
            ("type=huge type=nonsense", of(&[], Some(PageKind::Huge))),
            (
                "page_index=3 page_indexes=5-9",
                of(&[(3, 4), (5, 10)], None),
            ),
            (
                "page_index=3 idle rest",
                of(&[(3, 4)], Some(PageKind::Idle)),
            ),
            ("unknown=1", of(&[], None)),
            (" \n", of(&[], None)),
            ("all", Err(Errno::INVAL)),
            ("type=all", Err(Errno::INVAL)),
            ("type=", Err(Errno::INVAL)),
            ("page_index", Err(Errno::INVAL)),
            ("page_index=x", Err(Errno::INVAL)),
            ("page_index=10", Err(Errno::RANGE)),
            ("page_indexes=7", Err(Errno::INVAL)),
            ("page_indexes=7-", Err(Errno::INVAL)),
            ("page_indexes=7-6", Err(Errno::RANGE)),
            ("page_indexes=7-10", Err(Errno::RANGE)),
        ] {
            assert_eq!(select(text.as_bytes(), 10), expected, "{text}");
        }
    }
}
