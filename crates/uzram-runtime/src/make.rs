//! From a description to a device of the library: the builder's settings, dictionaries, defaults.

use uzram::{BackingOptions, Builder, Device, PolicySettings};
use uzram_control::default_recompression;
use uzram_spec::{Bytes, DeviceSpec, Erase, Failure, MemLimit, Result, SelfTraining};

use crate::contents::OpenedSnapshot;
use crate::frontends::Needs;
use crate::snapshot_source::OpenSource;
use crate::{backing, choice, files, frontends, limits, note, swap};

/// Half of the memory, at most 4 GiB: zram-generator's rule.
fn default_size() -> u64 {
    let info = rustix::system::sysinfo();
    let memory = info.totalram as u64 * u64::from(info.mem_unit);
    (memory / 2).clamp(1 << 20, 4 << 30)
}

fn size(spec: &DeviceSpec) -> u64 {
    spec.size.map_or_else(default_size, |size| size.0)
}

/// Fills in what the description leaves open, and refuses what this machine has no driver or memory for.
pub(crate) fn complete(spec: &mut DeviceSpec) -> Result {
    spec.check()?;
    let contents = read_contents(spec)?;
    spec.size = Some(Bytes(size(spec)));
    spec.identify()?;
    if let Some(swap) = &spec.swap {
        swap::check_room(size(spec), swap.reserve.0)?;
    }
    // A wrong value is told alone, before any note.
    try_out(spec, contents.as_ref())?;
    check_backing(spec)?;
    let (frontend, checked, why) = frontends::resolve(&spec.frontend, Needs::of(spec))?;
    spec.frontend = checked;
    files::check(spec)?;
    if let Some(why) = why {
        note::tell(&format!("frontend {}: {why}", frontend.name()));
    }
    Ok(())
}

fn check_backing(spec: &DeviceSpec) -> Result {
    // What is in a remote is looked at by who attaches it.
    let Some(given) = spec.backing.as_ref().filter(|given| !given.is_remote()) else {
        return Ok(());
    };
    let checked = backing::check_there(given).and_then(|()| backing::check(&given.path, None));
    checked.map_err(Failure::usage)
}

/// Refuses what can be seen to be impossible before anything is made.
pub fn check(spec: &DeviceSpec) -> Result {
    spec.check()?;
    let mut spec = spec.clone();
    let contents = read_contents(&mut spec)?;
    let spec = &spec;
    if let Some(swap) = &spec.swap {
        swap::check_room(size(spec), swap.reserve.0)?;
    }
    try_out(spec, contents.as_ref())?;
    check_backing(spec)?;
    let (_, frontend, _) = frontends::resolve(&spec.frontend, Needs::of(spec))?;
    let spec = DeviceSpec {
        frontend,
        ..spec.clone()
    };
    files::check(&spec)
}

/// Looks at the snapshot that the device is made of, and fills in what the description leaves to it. Of a pipe that was done
/// already, by who has its other end.
fn read_contents(spec: &mut DeviceSpec) -> Result<Option<OpenedSnapshot>> {
    let Some(source) = &spec.from else {
        return Ok(None);
    };
    let opened = OpenSource::open(source)?;
    if !opened.is_stored() {
        if spec.size.is_none() {
            let message = format!("{} is a pipe", source.place().display());
            let hint = "uzram restore reads from one";
            return Err(Failure::usage(message).with_hint(hint));
        }
        return Ok(None);
    }
    let contents = OpenedSnapshot::read(opened)?;
    contents.known.fill_in(spec)?;
    Ok(Some(contents))
}

/// Makes the device in memory of this process, which it leaves untouched, and drops it.
fn try_out(spec: &DeviceSpec, contents: Option<&OpenedSnapshot>) -> Result {
    // Neither a backing nor a reserve is to be taken.
    let bare = DeviceSpec {
        backing: None,
        swap: None,
        ..spec.clone()
    };
    let mut builder = builder(&bare, None)?;
    limits::check_device(builder.image_bytes()?)?;
    if let Some(contents) = contents {
        builder = contents.known.choose(builder);
    }
    // What can be refused does not depend on the streams, and what they took of the heap may stay with this process.
    let mut device = builder.streams(1).build()?;
    match contents {
        Some(contents) => contents.known.try_out(&mut device),
        None => Ok(()),
    }
}

/// What a device does in the background. The default compacts, but not swap: a move takes memory from the stock that writes
/// live on while memory is short, and then they fail.
fn policy(spec: &DeviceSpec) -> PolicySettings {
    match spec.is_swap() && spec.policy == PolicySettings::standard() {
        true => PolicySettings::default(),
        false => spec.policy,
    }
}

/// The settings of a device to be made. Reads the files of dictionaries. `dir` is the device's directory, if it has one.
pub(crate) fn builder(spec: &DeviceSpec, dir: Option<&std::path::Path>) -> Result<Builder> {
    let mut device = with_algorithms(spec, Device::builder(size(spec)))
        .choose(choice::read(spec.algorithm.clone())?)
        .erase_on_free(spec.erase == Erase::OnFree)
        .self_training(spec.train == SelfTraining::Auto)
        .dedup(spec.dedup)
        .lazy(spec.from.as_ref().is_some_and(|from| from.lazy))
        .logical_block_size(spec.block_size)
        .policy(policy(spec));
    device = match spec.mem_limit {
        MemLimit::Pool(bytes) => device.mem_limit_bytes(bytes.0),
        MemLimit::Total(bytes) => device.total_limit_bytes(bytes.0),
    };
    if spec.policy.recompress_seconds.is_some()
        && spec.recomp_algorithm.is_empty()
        && let Some(choice) = default_recompression(&spec.algorithm.name)
    {
        device = device.secondary(1, choice);
    }
    if let Some(bytes) = spec.max_size {
        device = device.max_size_bytes(bytes.0);
    }
    if let Some(given) = spec.backing.as_ref().filter(|given| !given.is_remote()) {
        let usage = |message| Failure::usage(message);
        backing::check(&given.path, dir).map_err(usage)?;
        let options = BackingOptions {
            size_bytes: given.size.map(|size| size.0),
            seal: given.seal,
        };
        device = device.backing(&given.path, options);
    }
    let mut taken = Vec::new();
    for algorithm in &spec.recomp_algorithm {
        let mut algorithm = algorithm.clone();
        let free = (1..).find(|priority| !taken.contains(priority));
        let priority = choice::take_priority(&mut algorithm)?
            .or(free)
            .unwrap_or_default();
        if taken.contains(&priority) {
            let message = format!("two algorithms for recompression have priority {priority}");
            return Err(Failure::usage(message));
        }
        taken.push(priority);
        device = device.secondary(priority, choice::read(algorithm)?);
    }
    Ok(device)
}

/// What is to be said of a device that an image describes: nothing that the image says itself.
pub(crate) fn resumer(spec: &DeviceSpec) -> Builder {
    with_algorithms(spec, Device::builder(0))
}

fn with_algorithms(spec: &DeviceSpec, device: Builder) -> Builder {
    let device = device.registry(uzram_control::zram::algorithms().clone());
    match &spec.swap {
        Some(swap) => device.reserve_bytes(swap.reserve.0),
        None => device,
    }
}
