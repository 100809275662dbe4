//! The attributes that add, initialise, reset and remove a device.

use crate::protocol::Request;
use crate::zram::device::{Change, Zram, ask};
use crate::zram::{
    Attribute, AttributePlace, Errno, Refusal, Subject, WritableWhen, backing, parse,
};

const PAGE: u64 = uzram::PAGE_SIZE as u64;

pub(in crate::zram) const HOT_ADD: Attribute = Attribute {
    name: "hot_add",
    mode: 0o400,
    since: "4.2",
    about: "reading it adds a device and shows its number",
    docs: "Reading it adds an uninitialised device with the lowest free number and shows that number. Each read \
           adds one. ENOMEM or the frontend's error where no device can be made. uzram skips the numbers of devices that \
           were made in another way.",
    place: AttributePlace::Control,
    show: Some(show_hot_add),
    ..Attribute::OF_DEVICE
};

fn show_hot_add(subject: &Subject<'_>) -> Result<String, Errno> {
    subject.host.hot_add().map(|id| format!("{id}\n"))
}

pub(in crate::zram) const HOT_REMOVE: Attribute = Attribute {
    name: "hot_remove",
    mode: 0o200,
    since: "4.2",
    about: "removes the device of a number, with its contents",
    docs: "Takes the number of a device, initialised or not, and removes it with its contents. EINVAL for a negative number \
           or none, ERANGE for one beyond 32 bits, ENODEV where there is no such device, EBUSY while somebody has it open \
           (mounted, swap, any descriptor).",
    place: AttributePlace::Control,
    store: Some(store_hot_remove),
    ..Attribute::OF_DEVICE
};

fn store_hot_remove(subject: &Subject<'_>, text: &[u8]) -> Result<(), Refusal> {
    let id = u32::try_from(parse::kstrtoint(text, 10)?).map_err(|_| Errno::INVAL)?;
    subject.host.hot_remove(id)
}

pub(in crate::zram) const DISKSIZE: Attribute = Attribute {
    name: "disksize",
    mode: 0o644,
    unit: "bytes",
    since: "2.6.33",
    about: "the device's size; setting it initialises the device",
    docs: "Takes a size in bytes, or with K, M, G, T, P or E (of 1024; decimal, 0x hexadecimal or 0 octal; anything after \
           it is ignored), rounded up to 4096, and initialises the device with the algorithms, limits and backing that were \
           set. Shows the size, 0 before. EINVAL for 0 or no number, EBUSY where it is initialised already, ENOMEM where \
           there is no memory or above 16T, and the frontend's own errors. Where an algorithm refuses its parameters \
           (EINVAL), all algorithms and parameters return to the defaults, as in the kernel. Not strict, an initialised \
           device is resized where its frontend can: EBUSY where something is stored beyond the new end, \
           and where it would become smaller while somebody uses it.",
    when: WritableWhen::Uninit,
    show: Some(show_disksize),
    store: Some(store_disksize),
    ..Attribute::OF_DEVICE
};

fn show_disksize(subject: &Subject<'_>) -> Result<String, Errno> {
    let stat = subject.zram()?.stat()?;
    Ok(format!("{}\n", stat.map_or(0, |stat| stat.disksize)))
}

fn store_disksize(subject: &Subject<'_>, text: &[u8]) -> Result<(), Refusal> {
    let size = parse::memparse(text).filter(|size| *size > 0);
    let size = size.ok_or(Errno::INVAL)?;
    let zram = subject.zram()?;
    let change = zram.change()?;
    let rounded = size.checked_next_multiple_of(PAGE).ok_or(Errno::NOMEM);
    if let Some(live) = change.live() {
        if subject.strict() {
            return Err(Errno::BUSY.into());
        }
        let bytes = rounded?;
        // zram's interface has no word for force: what is in use does not become smaller by it.
        let force = false;
        ask(&*live, Request::Resize { bytes, force })?;
        change.set(|config| config.disksize = bytes);
        return Ok(());
    }
    let bytes = rounded?;
    if bytes > uzram::MAX_SIZE_BYTES {
        return Err(Errno::NOMEM.into());
    }
    initialise(subject, zram, &change, bytes)
}

fn initialise(
    subject: &Subject<'_>,
    zram: &Zram,
    change: &Change<'_>,
    bytes: u64,
) -> Result<(), Refusal> {
    let mut config = zram.config();
    config.disksize = bytes;
    // Closed here, so that the device can open it.
    drop(zram.state_mut().held.take());
    let started = match config.chosen() {
        Ok(_) => subject.host.engine().start(zram.id(), &config),
        Err(_) => {
            change.set(|config| config.drop_algorithms());
            backing::hold_again(zram);
            return Err(Errno::INVAL.into());
        }
    };
    match started {
        Ok(live) => {
            let mut state = zram.state_mut();
            state.config.disksize = bytes;
            state.live = Some(live);
            Ok(())
        }
        Err(error) => {
            tracing::warn!(id = zram.id(), %error, "cannot initialise the device");
            let refusal = Refusal::from(error);
            if refusal.errno == Errno::INVAL {
                change.set(|config| config.drop_algorithms());
            }
            backing::hold_again(zram);
            Err(refusal)
        }
    }
}

pub(in crate::zram) const INITSTATE: Attribute = Attribute {
    name: "initstate",
    mode: 0o444,
    since: "2.6.37",
    about: "1 if the device is initialised, 0 if not",
    docs: "Shows 1 after disksize was set and 0 before that and after a reset.",
    show: Some(show_initstate),
    ..Attribute::OF_DEVICE
};

fn show_initstate(subject: &Subject<'_>) -> Result<String, Errno> {
    let initialised = subject.zram()?.live().is_some();
    Ok(format!("{}\n", u8::from(initialised)))
}

pub(in crate::zram) const RESET: Attribute = Attribute {
    name: "reset",
    mode: 0o200,
    since: "2.6.37",
    about: "drops the contents and all settings but those of writeback",
    docs: "Takes a number other than 0 and makes the device uninitialised again: contents, statistics, disksize, \
           algorithms, their parameters, mem_limit and backing go; writeback_limit, writeback_limit_enable, \
           writeback_batch_size and compressed_writeback stay, as in the kernel (whose documentation says otherwise). EINVAL \
           for 0 and anything but a number, ERANGE above 65535, EBUSY while somebody has the device open. Waits for a \
           running recompression, writeback or compaction.",
    store: Some(store_reset),
    ..Attribute::OF_DEVICE
};

fn store_reset(subject: &Subject<'_>, text: &[u8]) -> Result<(), Refusal> {
    if parse::kstrtou16(text, 10)? == 0 {
        return Err(Errno::INVAL.into());
    }
    let zram = subject.zram()?;
    zram.change_alone()?.take_down(false)?;
    subject.host.keep_node(zram);
    Ok(())
}
