//! A loop device: attach, look at, detach.

use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use uzram_blockdev::open_rw;

use crate::{Error, sys};

/// How often a device that another process grabbed first is replaced by the next free one.
const TRIES: usize = 64;
/// How long a detached device may take to go; udev looks at it for a moment.
const PATIENCE: Duration = Duration::from_secs(5);

/// Puts `file`, known as `name`, behind the loop device of that number, or a free one, and returns its node.
pub(crate) fn attach(
    file: &File,
    name: &Path,
    block_size: u32,
    wanted: Option<u32>,
) -> Result<PathBuf, Error> {
    let name = name.as_os_str().as_encoded_bytes();
    let flags = sys::LO_FLAGS_DIRECT_IO;
    let (number, device) = bind(file, name, block_size, flags, wanted)?;
    let node = node(number)?;
    let info = sys::status(&device).map_err(Error::at(format!("looking at {}", node.display())))?;
    if info.flags & sys::LO_FLAGS_DIRECT_IO == 0 {
        let _ = sys::clear(&device);
        return Err(Error::NoDirectIo { path: node });
    }
    Ok(node)
}

/// Puts an empty file behind a loop device, for as long as somebody has the device open.
pub(crate) fn reserve(file: &File, wanted: Option<u32>) -> Result<(u32, File), Error> {
    bind(
        file,
        b"uzram-reserved",
        4096,
        sys::LO_FLAGS_AUTOCLEAR,
        wanted,
    )
}

fn bind(
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
                // It may not be there yet; then it has to be made.
                let _ = sys::add(&control, number);
                number
            }
            None => sys::get_free(&control).map_err(Error::at("asking for a free loop device"))?,
        };
        let node = node(number)?;
        let device = open_rw(&node)?;
        match sys::configure(&device, file, name, block_size, flags) {
            Ok(()) => return Ok((number, device)),
            // Somebody took it between the question and the answer.
            Err(error) if error.raw_os_error() == Some(libc::EBUSY) && wanted.is_none() => {}
            Err(error) => return Err(Error::at(format!("attaching to {}", node.display()))(error)),
        }
    }
    let busy = io::Error::from_raw_os_error(libc::EBUSY);
    Err(Error::at(format!(
        "{TRIES} free loop devices were taken by others"
    ))(busy))
}

/// The node of a loop device, made if the system has no devtmpfs that does it.
fn node(number: u32) -> Result<PathBuf, Error> {
    let node = PathBuf::from(format!("/dev/loop{number}"));
    if !node.exists() {
        let device = rustix::fs::makedev(7, number);
        let mode = rustix::fs::Mode::from_raw_mode(0o660);
        let made = rustix::fs::mknodat(
            rustix::fs::CWD,
            &node,
            rustix::fs::FileType::BlockDevice,
            mode,
            device,
        );
        match made {
            Ok(()) | Err(rustix::io::Errno::EXIST) => {}
            Err(error) => return Err(Error::at(format!("making {}", node.display()))(error)),
        }
    }
    Ok(node)
}

/// Whether nothing is behind a loop device.
pub(crate) fn is_free(device: &File) -> bool {
    let status = sys::status(device);
    matches!(status, Err(error) if error.raw_os_error() == Some(libc::ENXIO))
}

/// Takes a loop device for this process alone, as [`uzram_blockdev::exclusive`]. `None` if `file` is not behind it
/// any more: somebody detached it, and it may be another's by now.
pub(crate) fn exclusive(node: &Path, file: &Path) -> Result<Option<File>, Error> {
    let is_ours = || backing_file(node).as_deref() == Some(file);
    Ok(uzram_blockdev::exclusive(node, is_ours)?)
}

/// Detaches a loop device from `file`, if it is still on it and nobody uses it, and waits until it is gone.
/// [`Error::Node`] names who does use it; nothing has changed then.
pub(crate) fn detach(node: &Path, file: &Path) -> Result<(), Error> {
    let Some(device) = exclusive(node, file)? else {
        return Ok(());
    };
    sys::clear(&device).map_err(Error::at(format!("detaching {}", node.display())))?;
    // With our own descriptor closed it goes, unless somebody opened it just now.
    drop(device);
    let begin = Instant::now();
    while backing_file(node).as_deref() == Some(file) {
        if begin.elapsed() > PATIENCE {
            let seconds = PATIENCE.as_secs();
            return Err(Error::Lingers {
                path: node.into(),
                seconds,
            });
        }
        std::thread::sleep(Duration::from_millis(5));
    }
    Ok(())
}

/// Detaches a loop device when its last user lets go of it.
pub(crate) fn let_go(node: &Path) -> Result<(), Error> {
    let device = open_rw(node)?;
    sys::clear(&device).map_err(Error::at(format!("letting go of {}", node.display())))
}

/// The file behind a loop device, by sysfs.
fn backing_file(node: &Path) -> Option<PathBuf> {
    let name = node.file_name()?.to_str()?;
    let text = fs::read_to_string(format!("/sys/block/{name}/loop/backing_file")).ok()?;
    Some(PathBuf::from(
        text.trim_end_matches('\n').trim_end_matches(" (deleted)"),
    ))
}

/// The loop devices on this file.
pub(crate) fn on_file(file: &Path) -> Vec<PathBuf> {
    let Ok(blocks) = fs::read_dir("/sys/block") else {
        return Vec::new();
    };
    let nodes = blocks.flatten().filter_map(|entry| {
        let name = entry.file_name().into_string().ok()?;
        name.starts_with("loop")
            .then(|| PathBuf::from(format!("/dev/{name}")))
    });
    nodes
        .filter(|node| backing_file(node).as_deref() == Some(file))
        .collect()
}
