//! Loop devices: attaching a file, finding the devices on a file, detaching it.

use std::ffi::OsStr;
use std::fs::{self, File};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use rustix::fs::{CWD, FileType, Mode, makedev, mknodat};
use rustix::io::Errno;
use uzram_blockdev::{
    Busy, Error as NodeError, StepError, Survey, delete_partitions, open_rw, wait_until_gone,
};

use crate::{Error, sys};

/// Major number of loop devices.
pub(crate) const MAJOR: u32 = 7;
/// How many free devices to try where another process takes each one first.
const TRIES: usize = 64;
/// How long a detached device may take to go: udev opens it in passing.
const DETACH_LIMIT: Duration = Duration::from_secs(5);
/// Pause before another try to detach a device that somebody has open in passing.
const RETRY: Duration = Duration::from_millis(20);

/// Attaches `file`, known as `name`, to the loop device of the `wanted` number, or to a free one. Returns its node. With
/// `partscan` the kernel makes nodes of its partitions.
pub(crate) fn attach(
    file: &File,
    name: &Path,
    block_size: u32,
    wanted: Option<u32>,
    partscan: bool,
) -> Result<PathBuf, Error> {
    let name = name.as_os_str().as_encoded_bytes();
    let flags = match partscan {
        true => sys::LO_FLAGS_DIRECT_IO | sys::LO_FLAGS_PARTSCAN,
        false => sys::LO_FLAGS_DIRECT_IO,
    };
    let (number, device) = configure(file, name, block_size, flags, wanted)?;
    let node = node(number)?;
    let info = sys::status(&device);
    let info = info.map_err(StepError::at(format!("looking at {}", node.display())))?;
    if info.flags & sys::LO_FLAGS_DIRECT_IO == 0 {
        let _ = sys::clear(&device);
        return Err(Error::NoDirectIo { path: node });
    }
    Ok(node)
}

/// Attaches an empty file to a loop device, for as long as somebody has the device open.
pub(crate) fn reserve(file: &File, wanted: Option<u32>) -> Result<(u32, File), Error> {
    let flags = sys::LO_FLAGS_AUTOCLEAR;
    configure(file, b"uzram-reserved", 4096, flags, wanted)
}

fn configure(
    file: &File,
    name: &[u8],
    block_size: u32,
    flags: u32,
    wanted: Option<u32>,
) -> Result<(u32, File), Error> {
    let control = open_rw(Path::new("/dev/loop-control"))?;
    for _ in 0..TRIES {
        let number = match wanted {
            Some(number) => {
                // Makes the device if it does not exist; an error here shows again below.
                let _ = sys::add(&control, number);
                number
            }
            None => {
                let step = "asking for a free loop device";
                sys::get_free(&control).map_err(StepError::at(step))?
            }
        };
        let node = node(number)?;
        let device = open_rw(&node)?;
        match sys::configure(&device, file, name, block_size, flags) {
            Ok(()) => {
                // Whoever had the loop device before may have left partitions, which would reach into this file.
                if flags & sys::LO_FLAGS_PARTSCAN == 0 {
                    delete_partitions(&device, &node);
                }
                return Ok((number, device));
            }
            Err(Errno::BUSY) if wanted.is_some() => return Err(Error::Taken { path: node }),
            // Another process took it between the question and the answer.
            Err(Errno::BUSY) => {}
            Err(errno) => {
                let step = format!("attaching to {}", node.display());
                return Err(StepError::at(step)(errno).into());
            }
        }
    }
    Err(Error::NoneFree { tries: TRIES })
}

/// The node of a loop device, made here on a system without devtmpfs.
fn node(number: u32) -> Result<PathBuf, Error> {
    let node = PathBuf::from(format!("/dev/loop{number}"));
    if !node.exists() {
        let mode = Mode::from_raw_mode(0o660);
        let device = makedev(MAJOR, number);
        match mknodat(CWD, &node, FileType::BlockDevice, mode, device) {
            Ok(()) | Err(Errno::EXIST) => {}
            Err(errno) => {
                let step = format!("making {}", node.display());
                return Err(StepError::at(step)(errno).into());
            }
        }
    }
    Ok(node)
}

/// Opens a loop device for this process alone, as [`uzram_blockdev::open_exclusive`]. `None` if `file` is no longer behind
/// it: somebody detached it, and the device may be another's by now.
pub(crate) fn open_exclusive(node: &Path, file: &Path) -> Result<Option<File>, Error> {
    let is_ours = || is_on(node, file);
    Ok(uzram_blockdev::open_exclusive(node, is_ours)?)
}

/// Detaches a loop device from `file` if it is still on it and nobody uses it, and waits until it is gone. Changes nothing
/// where somebody uses it, whom [`Error::Node`] names.
pub(crate) fn detach(node: &Path, file: &Path) -> Result<(), Error> {
    match open_exclusive(node, file)? {
        Some(device) => release(device, node, file),
        None => Ok(()),
    }
}

/// Detaches a loop device that was opened exclusively, with its partitions, and waits until it is gone.
///
/// While anybody else has it open, the driver only notes that it shall go with its last user. Somebody who came after the
/// question, or whom nobody sees, would then lose it later, after a refusal. So that note is taken back before this waits
/// or gives up.
pub(crate) fn release(device: File, node: &Path, file: &Path) -> Result<(), Error> {
    let step = |what: &str| format!("{what} {}", node.display());
    let deadline = Instant::now() + DETACH_LIMIT;
    loop {
        let before = sys::status(&device).map_err(StepError::at(step("looking at")))?;
        sys::clear(&device).map_err(StepError::at(step("detaching")))?;
        if sys::is_free(&device) {
            break;
        }
        sys::set_status(&device, &before).map_err(StepError::at(step("keeping")))?;
        if Instant::now() > deadline {
            let mut by = Survey::new().users(node);
            if by.is_empty() {
                by = Busy::Elsewhere.into();
            }
            return Err(NodeError::Busy {
                path: node.into(),
                by,
            }
            .into());
        }
        std::thread::sleep(RETRY);
    }
    // Nobody can open one any more, and nobody else can attach a file before the descriptor goes.
    delete_partitions(&device, node);
    drop(device);
    wait_until_gone(node, DETACH_LIMIT, || !is_on(node, file))?;
    Ok(())
}

/// Detaches a loop device as soon as its last user closes it.
pub(crate) fn detach_with_last_user(node: &Path) -> Result<(), Error> {
    let device = open_rw(node)?;
    if delete_partitions(&device, node) > 0
        && let Ok(mut info) = sys::status(&device)
    {
        // Those that are in use the driver deletes with the last user, if they are its own.
        info.flags |= sys::LO_FLAGS_PARTSCAN;
        if let Err(error) = sys::set_status(&device, &info) {
            tracing::warn!(%error, "partitions of {} stay", node.display());
        }
    }
    let step = format!("detaching {}", node.display());
    Ok(sys::clear(&device).map_err(StepError::at(step))?)
}

/// Whether `file` is behind the loop device.
fn is_on(node: &Path, file: &Path) -> bool {
    backing_file(node).is_some_and(|behind| is_file(&behind, file))
}

/// Whether what the kernel calls `behind` is `file`. Its path is another one where the mount is of another namespace or in
/// no table any more; a name with an ID is nobody else's.
pub(crate) fn is_file(behind: &Path, file: &Path) -> bool {
    let name = file.file_name().unwrap_or_default();
    let unique = name.as_encoded_bytes().starts_with(b"disk-");
    behind == file || unique && behind.file_name() == Some(name)
}

/// The file behind a loop device, according to sysfs.
fn backing_file(node: &Path) -> Option<PathBuf> {
    let name = node.file_name()?.to_str()?;
    let path = fs::read(format!("/sys/block/{name}/loop/backing_file")).ok()?;
    let path = path.strip_suffix(b"\n").unwrap_or(&path);
    let path = path.strip_suffix(b" (deleted)").unwrap_or(path);
    Some(PathBuf::from(OsStr::from_bytes(path)))
}

/// The nodes of the loop devices on `file`.
pub(crate) fn on_file(file: &Path) -> Vec<PathBuf> {
    let Ok(blocks) = fs::read_dir("/sys/block") else {
        return Vec::new();
    };
    let nodes = blocks.flatten().filter_map(|entry| {
        let name = entry.file_name().into_string().ok()?;
        name.starts_with("loop")
            .then(|| PathBuf::from(format!("/dev/{name}")))
    });
    nodes.filter(|node| is_on(node, file)).collect()
}
