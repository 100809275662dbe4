//! What the configuration asks for as a whole, from both files, and making it.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use uzram_blockdev::Survey;
use uzram_control::{RunDir, number};
use uzram_runtime::users;
use uzram_spec::{DeviceSpec, Failure, Result};

use crate::api::{CreateAnswer, Devices};
use crate::config::{DaemonConfig, DaemonSettings, NewDevice};
use crate::devices::Daemon;
use crate::exports::NewExports;
use crate::generator;
use crate::persist::Place;
use crate::problem::Problem;

/// Where the configuration is looked for.
const DEFAULT: &str = "/etc/uzram.toml";

/// What the configuration asks for.
pub(crate) struct Wanted {
    pub(crate) settings: DaemonSettings,
    /// What can be made, in the order in which it is made: what is mounted below another mount point comes after that.
    pub(crate) devices: Vec<NewDevice>,
    /// What can be offered together once they are made.
    pub(crate) exports: Vec<NewExports>,
    /// Where something is to be offered, also by a section that is wrong.
    pub(crate) addresses: BTreeSet<String>,
    /// Whether all of uzram.toml could be read.
    pub(crate) is_whole: bool,
    /// What is wrong with the rest.
    pub(crate) problems: Vec<Problem>,
    /// What else there is to say.
    pub(crate) notes: Vec<String>,
}

impl Wanted {
    /// Reads both files, and checks what can be checked without making anything. To save devices neither zram-generator's is
    /// read, which has none to be saved, nor is it asked whether they could be made. Fails only where a file that was named
    /// is not there.
    pub(crate) fn read(named: Option<&Path>, run: &RunDir, to_save: bool) -> Result<Wanted> {
        let path = named.unwrap_or(Path::new(DEFAULT));
        let config = DaemonConfig::read(path);
        if config.is_none() && named.is_some() {
            return Err(Failure::usage(format!("{}: no such file", path.display())));
        }
        let there = config.is_some();
        let config = config.unwrap_or_default();
        let mut wanted = Wanted {
            settings: config.daemon,
            devices: Vec::new(),
            exports: Vec::new(),
            addresses: config.addresses,
            is_whole: config.problems.is_empty(),
            problems: config.problems,
            notes: Vec::new(),
        };
        let mut devices = config.devices;
        let root = std::env::var_os("ZRAM_GENERATOR_ROOT").unwrap_or_else(|| "/".into());
        let root = PathBuf::from(root);
        if wanted.settings.zram_generator && !to_save {
            devices.extend(wanted.generated(&root));
        } else if !there && !to_save && generator::is_there(&root) {
            wanted.notes.push(format!(
                "zram-generator.conf is not read, as there is no {DEFAULT}, which would say \"zram_generator = true\" \
                 below [daemon]"
            ));
        }
        if !to_save {
            wanted.offer(config.exports, &devices, run);
        }
        for device in devices {
            match wanted.refuses(&device, run, to_save) {
                None => wanted.devices.push(device),
                Some(failure) => wanted.problems.push(device.origin.problem(failure)),
            }
        }
        wanted.devices.sort_by(|a, b| order(a).cmp(&order(b)));
        wanted.refuse_out_of_order();
        Ok(wanted)
    }

    /// Takes what can be offered together, of these devices among others.
    fn offer(&mut self, all: Vec<NewExports>, devices: &[NewDevice], run: &RunDir) {
        for new in all {
            let refused = new.refused(devices, &self.exports, run);
            match refused.is_empty() {
                true => self.exports.push(new),
                false => {
                    let problems = refused.into_iter().map(|why| new.origin.problem(why));
                    self.problems.extend(problems);
                }
            }
        }
    }

    /// Refuses a device with a number of its own that is mounted below one without: that one is made later, so that it does not take the
    /// number.
    fn refuse_out_of_order(&mut self) {
        let above: Vec<(PathBuf, String)> = self
            .devices
            .iter()
            .filter(|device| !has_number(device))
            .filter_map(|device| Some((mount_point(device)?.into(), device.origin.to_string())))
            .collect();
        let problem = |device: &NewDevice| {
            let at = mount_point(device).filter(|_| has_number(device))?;
            let (_, other) = above.iter().find(|(dir, _)| at.starts_with(dir))?;
            let message = format!(
                "mount-point: {} is below that of {other}, which is made after all devices with a number: give this one a name \
                 without, too",
                at.display()
            );
            Some(device.origin.problem(Failure::usage(message)))
        };
        let problems = &mut self.problems;
        self.devices.retain(|device| match problem(device) {
            None => true,
            Some(problem) => {
                problems.push(problem);
                false
            }
        });
    }

    fn generated(&mut self, root: &Path) -> Vec<NewDevice> {
        let generated = generator::read(root);
        self.problems.extend(generated.problems);
        self.notes.extend(generated.notes);
        let mut devices = Vec::new();
        for section in &generated.sections {
            match section.device(&mut self.notes) {
                Ok(device) => devices.push(device),
                Err(problem) => self.problems.push(problem),
            }
        }
        devices
    }

    /// Why a device cannot be made, as far as that can be seen.
    fn refuses(&self, device: &NewDevice, run: &RunDir, to_save: bool) -> Option<Failure> {
        let name = device.spec.name.as_deref().unwrap_or_default();
        for other in &self.devices {
            if other.spec.name == device.spec.name {
                let message = format!("name: it is that of {} already", other.origin);
                return Some(Failure::usage(message));
            }
            if let (Some(at), Some(same)) = (mount_point(device), mount_point(other))
                && at == same
            {
                let (at, other) = (at.display(), &other.origin);
                let message = format!("mount-point: {at} is in {other} already");
                return Some(Failure::usage(message));
            }
            if let (Some(backing), Some(same)) = (&device.spec.backing, &other.spec.backing)
                && (&backing.path, &backing.remote) == (&same.path, &same.remote)
            {
                let message = format!("backing: it is that of {} already", other.origin);
                return Some(Failure::usage(message));
            }
            let claim =
                uzram_runtime::frontends::common_claim(&device.spec.frontend, &other.spec.frontend);
            if let Some((option, what)) = claim {
                let message = format!("{option}: {what} is that of {} already", other.origin);
                return Some(Failure::usage(message));
            }
        }
        if let Some(key) = device.persist.unread(&self.settings) {
            let message = format!(
                "{key} of [daemon] cannot be read, so that nobody knows what was saved of it: it is neither made nor saved"
            );
            return Some(Failure::usage(message));
        }
        if to_save {
            return None;
        }
        let place = device.place(&self.settings);
        let saved = place.as_ref().map_or(Ok(None), Place::saved);
        // One that is there has shown that it can be.
        if run.find(name).is_ok() {
            return saved.err();
        }
        if let Some(failure) = is_mounted(device, run) {
            return Some(failure);
        }
        let checked = match &place {
            Some(place) => place.check(&device.spec),
            None => uzram_runtime::check(&device.spec),
        };
        let checked = checked.and_then(|()| match &device.filesystem {
            Some(filesystem) => filesystem.check(),
            None => Ok(()),
        });
        checked.err()
    }

    /// Makes the devices that are not there yet, and says what is not as it was asked for.
    pub(crate) fn make(&self, daemon: &Daemon) {
        for note in &self.notes {
            tracing::warn!("{note}");
        }
        for problem in &self.problems {
            tracing::error!("{problem}");
        }
        for device in &self.devices {
            set_up(daemon, device, device.place(&self.settings).as_ref());
        }
    }
}

/// Refuses a mount point at which another device is mounted: what is there would be hidden.
fn is_mounted(device: &NewDevice, run: &RunDir) -> Option<Failure> {
    let at = mount_point(device)?;
    let there = run.devices().ok().filter(|all| !all.is_empty())?;
    let survey = Survey::new();
    let text = at.display().to_string();
    let mut there = there.iter();
    let other = there.find(|entry| {
        let mounts = users::mounts(&survey, entry);
        mounts.mount_points(true).contains(&text)
    })?;
    let name = &other.record.name;
    let message = format!("mount-point: {text} is already that of {name}, which runs");
    Some(Failure::busy(message))
}

/// Whether a device has its number by its name. Any other takes what is free.
fn has_number(device: &NewDevice) -> bool {
    device.spec.name.as_deref().and_then(number).is_some()
}

/// Those with a number come first, so that no other takes it; outer mount points before inner ones.
fn order(device: &NewDevice) -> (bool, Option<&Path>) {
    (!has_number(device), mount_point(device))
}

pub(crate) fn mount_point(device: &NewDevice) -> Option<&Path> {
    let filesystem = device.filesystem.as_ref()?;
    Some(&filesystem.mount.as_ref()?.at)
}

/// Makes a device, unless it is there. One that fails keeps nothing else from being made.
fn set_up(daemon: &Daemon, device: &NewDevice, place: Option<&Place>) {
    let name = device.spec.name.as_deref().unwrap_or_default();
    if daemon.local.run.find(name).is_ok() {
        tracing::info!(name, "is there already");
        return;
    }
    match make(daemon, device, place) {
        Ok(path) => tracing::info!(name, path, "made"),
        Err(failure) => tracing::error!("{}", device.origin.problem(failure)),
    }
}

fn make(daemon: &Daemon, device: &NewDevice, place: Option<&Place>) -> Result<String> {
    let create = |spec: &DeviceSpec| -> Result<CreateAnswer> { Ok(daemon.create(spec, None)?) };
    let is_new = device.spec.from.is_none();
    let (created, is_new) = match place {
        Some(place) => place.create(&device.spec, &daemon.local.run, create)?,
        None => (create(&device.spec)?, is_new),
    };
    if !created.notes.is_empty() {
        tracing::info!(created.name, "{}", created.notes);
    }
    if let Some(filesystem) = &device.filesystem {
        let made = match is_new {
            true => filesystem.make(&created.path),
            // What a snapshot holds is not to be overwritten.
            false => filesystem.mount_what_is_there(&created.path),
        };
        made.inspect_err(|_| {
            let _ = daemon.remove(&created.name, Some(&created.identity));
        })?;
    }
    Ok(created.path)
}
