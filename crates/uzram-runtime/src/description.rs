//! Where a device's description is: a file in its directory, or, for a swap device, a descriptor of memory that is never
//! swapped out, since the directory may lie on a file system whose pages are.

use std::os::fd::{AsRawFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use uzram_control::Claim;
use uzram_spec::{DeviceSpec, Failure, Result};

use crate::swap;

/// File name of the description in the device's directory.
const FILE: &str = uzram_control::SPEC;

/// Path of the description of the device with that directory; `inherited` is the descriptor of a swap device's.
pub(crate) fn path(dir: &Path, inherited: Option<i32>) -> PathBuf {
    match inherited {
        Some(fd) => format!("/proc/self/fd/{fd}").into(),
        None => dir.join(FILE),
    }
}

/// Reads it.
pub(crate) fn read(dir: &Path, inherited: Option<i32>) -> Result<DeviceSpec> {
    let json = match inherited {
        Some(_) => std::fs::read(path(dir, inherited)),
        None => Claim::adopt(dir)?.read(FILE),
    };
    let json = json.map_err(|error| {
        let path = path(dir, inherited);
        let message = format!("the device's description {}: {error}", path.display());
        Failure::failed(message)
    })?;
    DeviceSpec::parse(&json)
}

/// Stores it. For a swap device the result is the descriptor, which processes that are started from now on inherit.
pub(crate) fn store(spec: &DeviceSpec, claim: &Claim) -> Result<Option<OwnedFd>> {
    let json = spec.to_json();
    // Also for people to read.
    claim.write(FILE, &json)?;
    if !spec.is_swap() {
        return Ok(None);
    }
    let file = swap::unswappable_file()?;
    std::fs::write(format!("/proc/self/fd/{}", file.as_raw_fd()), &json)?;
    Ok(Some(file))
}

/// Asks a program whether it could serve this device: the image and the description. Words say why not.
pub fn check_program(
    program: &Path,
    dir: &Path,
    image: i32,
    inherited: Option<i32>,
) -> std::result::Result<(), String> {
    let name = program.display();
    let output = Command::new(program)
        .args(["check-image", "--image", &image.to_string(), "--spec"])
        .arg(path(dir, inherited))
        .stdin(Stdio::null())
        .output()
        .map_err(|error| format!("cannot execute {name}: {error}"))?;
    if output.status.success() && output.stdout.starts_with(b"uzram image ") {
        return Ok(());
    }
    let said = String::from_utf8_lossy(&output.stderr);
    Err(match said.trim() {
        "" => format!("{name} cannot serve this device: it is no uzram that knows how to"),
        said => format!(
            "{name} cannot serve this device: {}",
            said.trim_start_matches("uzram: ")
        ),
    })
}
