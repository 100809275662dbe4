//! The devices that the daemon's configuration asks for, and what is done with them: file systems and mounts.

use std::path::Path;
use std::process::{Command, Stdio};

use uzram_control::ControlError;

use crate::api::Devices;
use crate::config::NewDevice;
use crate::devices::{Daemon, error};
use crate::generator;

/// The devices that zram-generator.conf asks for, and what there is to say about it.
pub(crate) fn generated() -> Result<(Vec<NewDevice>, Vec<String>), generator::Error> {
    let root = std::env::var_os("ZRAM_GENERATOR_ROOT").unwrap_or_else(|| "/".into());
    let info = rustix::system::sysinfo();
    let ram_mb = (info.totalram as u64 * u64::from(info.mem_unit)) >> 20;
    generator::devices(Path::new(&root), ram_mb)
}

/// Makes a device, unless it is there. One that fails keeps nothing else from being made.
pub(crate) fn set_up(daemon: &Daemon, device: &NewDevice) {
    let name = device.spec.name.as_deref().unwrap_or_default();
    if daemon.local.run.find(name).is_ok() {
        tracing::info!(name, "is there already");
        return;
    }
    match make(daemon, device) {
        Ok(path) => tracing::info!(name, path, "made"),
        Err(error) => tracing::error!(name, "not made: {error}"),
    }
}

fn make(daemon: &Daemon, device: &NewDevice) -> Result<String, ControlError> {
    let created = daemon.create(&device.spec)?;
    if !created.notes.is_empty() {
        tracing::info!(created.name, "{}", created.notes);
    }
    if let Some(at) = &device.mount_point {
        let kind = device.fs_type.as_deref().unwrap_or("ext4");
        let options = device.mount_options.as_deref().unwrap_or("discard");
        mount(&created.path, kind, options, at).inspect_err(|_| {
            let _ = daemon.remove(&created.name);
        })?;
    }
    Ok(created.path)
}

fn mount(node: &str, kind: &str, options: &str, at: &Path) -> Result<(), ControlError> {
    let made = std::fs::create_dir_all(at);
    made.map_err(|e| error(5, format!("making {}: {e}", at.display())))?;
    run(Command::new(format!("mkfs.{kind}")).arg("-q").arg(node))?;
    run(Command::new("mount")
        .args(["-t", kind, "-o", options, node])
        .arg(at))
}

fn run(command: &mut Command) -> Result<(), ControlError> {
    let program = command.get_program().to_string_lossy().into_owned();
    let output = command
        .stdin(Stdio::null())
        .output()
        .map_err(|e| error(5, format!("{program}: {e}")))?;
    match output.status.success() {
        true => Ok(()),
        false => {
            let said = String::from_utf8_lossy(&output.stderr);
            Err(error(5, format!("{program}: {}", said.trim())))
        }
    }
}
