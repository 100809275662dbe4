//! The attributes that mark pages idle and compress them anew.

use uzram::{PRIORITIES, PageKind};

use crate::protocol::{RecompressRequest, Request, Response};
use crate::zram::device::ask;
use crate::zram::parse::{self, KeyValues};
use crate::zram::{Attribute, Errno, Refusal, Subject, WritableWhen};

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

fn store_idle(subject: &Subject<'_>, text: &[u8]) -> Result<(), Refusal> {
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
           (the largest first), and with what: the algorithm of that name or priority, of priority 1 if neither is said. \
           One algorithm is used, as in Linux 7.1; before, those of higher priorities were tried, too. Another priority than 1 \
           to 3 is EINVAL, and so is one that has another algorithm than algo= says (up to Linux 7.0 priority=0 was 1, and \
           algo= was looked up from that priority on). An object is replaced if the new one takes less memory. EINVAL for a key without value, before disksize is set, for a \
           threshold of about a page or more, where there is no such algorithm; EINVAL or ERANGE for a bad number; ENOMEM \
           where there was no memory for a smaller object. One recompression or writeback works at a time, the next one waits \
           (EAGAIN up to Linux 6.18); statistics do not wait for it.",
    when: WritableWhen::Init,
    store: Some(store_recompress),
    ..Attribute::OF_DEVICE
};

/// A priority that an algorithm for recompression can have.
fn secondary(priority: u32) -> Result<usize, Errno> {
    let priority = usize::try_from(priority).map_err(|_| Errno::INVAL)?;
    match (1..PRIORITIES).contains(&priority) {
        true => Ok(priority),
        false => Err(Errno::INVAL),
    }
}

fn store_recompress(subject: &Subject<'_>, text: &[u8]) -> Result<(), Refusal> {
    let (mut kind, mut algo, mut priority) = (PageKind::All, None, None);
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
            b"priority" => priority = Some(parse::kstrtouint(value, 10)?),
            _ => {}
        }
    }
    let zram = subject.zram()?;
    let mut target = priority.map_or(Ok(1), secondary)?;
    if let (Some(algo), true) = (algo, zram.live().is_some()) {
        let names = super::algorithms::now(zram)?;
        let is_named = |at: &usize| names[*at].as_ref().is_some_and(|n| n.as_bytes() == algo);
        let mut among = match priority {
            // Both say the same, or one of them is wrong.
            Some(_) => target..target + 1,
            None => 1..names.len(),
        };
        target = among.find(is_named).ok_or(Errno::INVAL)?;
    }
    let request = Request::Recompress(RecompressRequest {
        kind,
        priority: Some(target),
        threshold: threshold as usize,
        max_pages,
        dry_run: false,
    });
    zram.job(|live| match ask(live, request)? {
        Response::Recompressed(report) if report.no_room > 0 => Err(Errno::NOMEM.into()),
        Response::Recompressed(_) => Ok(()),
        _ => Err(Errno::PROTO.into()),
    })
}
