//! The attributes that mark pages idle and compress them anew.

use uzram::PageKind;

use crate::protocol::{RecompressRequest, Request, Response};
use crate::zram::device::ask;
use crate::zram::parse::{self, KeyValues};
use crate::zram::{Attribute, Errno, Subject, WritableWhen};

pub(in crate::zram) const IDLE: Attribute = Attribute {
    name: "idle",
    mode: 0o200,
    unit: "seconds",
    since: "4.20",
    about: "marks pages idle: all, or those not used for some seconds",
    docs: "Takes `all`, or an age in seconds (decimal, 0x hexadecimal or 0 octal; Linux 5.19 with \
           CONFIG_ZRAM_TRACK_ENTRY_ACTIME), and marks the pages that have an object in memory and were not used for that \
           long; an age also unmarks those that were used since. Reading or writing a page unmarks it, too. EINVAL for \
           anything else, before disksize is set, and for an age where ages are not tracked.",
    when: WritableWhen::Init,
    store: Some(store_idle),
    ..Attribute::OF_DEVICE
};

fn store_idle(subject: &Subject<'_>, text: &[u8]) -> Result<(), Errno> {
    let request = match parse::sysfs_streq(text, b"all") {
        true => Request::MarkIdle { age_seconds: None },
        false => Request::MarkIdleExactly {
            age_seconds: parse::kstrtoull(text, 0).map_err(|_| Errno::INVAL)?,
        },
    };
    subject.zram()?.ask(request).map(drop)
}

pub(in crate::zram) const RECOMPRESS: Attribute = Attribute {
    name: "recompress",
    mode: 0o200,
    since: "6.2",
    about: "compresses pages anew with another algorithm",
    docs: "Takes `[type=idle|huge|huge_idle] [threshold=BYTES] [max_pages=N] [algo=NAME] [priority=N]`: which pages (all \
           where no type, or an unknown one, is said), only objects of at least that many bytes, that many pages at most \
           (the largest first), and with what: the algorithm of that name or priority, of priority 1 if neither is said (and \
           for priority=0). One algorithm is used, as in Linux 7.1; before, those of higher priorities were tried, too. An \
           object is replaced if the new one takes less memory. EINVAL for a key without value, before disksize is set, for a \
           threshold of about a page or more, where there is no such algorithm; EINVAL or ERANGE for a bad number; ENOMEM \
           where there was no memory for a smaller object. One recompression or writeback works at a time, the next one waits \
           (EAGAIN up to Linux 6.18); statistics do not wait for it.",
    when: WritableWhen::Init,
    store: Some(store_recompress),
    ..Attribute::OF_DEVICE
};

fn store_recompress(subject: &Subject<'_>, text: &[u8]) -> Result<(), Errno> {
    let (mut kind, mut algo, mut priority) = (PageKind::All, None, 1);
    let (mut threshold, mut max_pages) = (0, 0);
    for arg in KeyValues::new(text) {
        let value = arg.value()?;
        match &arg.key[..] {
            b"type" => {
                kind = match value {
                    b"idle" => PageKind::Idle,
                    b"huge" => PageKind::Huge,
                    b"huge_idle" => PageKind::HugeIdle,
                    _ => kind,
                }
            }
            b"max_pages" => max_pages = parse::kstrtoull(value, 10)?,
            b"threshold" => threshold = parse::kstrtouint(value, 10)?,
            b"algo" => algo = Some(value.to_vec()),
            b"priority" => priority = parse::kstrtouint(value, 10)?.max(1),
            _ => {}
        }
    }
    let zram = subject.zram()?;
    let mut priority = usize::try_from(priority).map_err(|_| Errno::INVAL)?;
    if let (Some(algo), true) = (algo, zram.live().is_some()) {
        let names = super::algorithms::now(zram)?;
        let mut after = names.iter().enumerate().skip(priority);
        let named = |name: &Option<String>| name.as_ref().is_some_and(|n| n.as_bytes() == algo);
        let found = after.find(|(_, name)| named(name));
        priority = found.ok_or(Errno::INVAL)?.0;
    }
    let request = Request::Recompress(RecompressRequest {
        kind,
        priority: Some(priority),
        threshold: threshold as usize,
        max_pages,
        dry_run: false,
    });
    zram.job(|live| match ask(live, request)? {
        Response::Recompressed(report) if report.no_room > 0 => Err(Errno::NOMEM),
        Response::Recompressed(_) => Ok(()),
        _ => Err(Errno::PROTO),
    })
}
