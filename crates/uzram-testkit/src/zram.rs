//! An engine of zram's interface whose devices live in this process and have no node.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};

use uzram::{Choice, Device};

use uzram_control::zram::{Engine, Errno, Live, ZramConfig, algorithms};
use uzram_control::{ControlError, Request, Response, execute};

/// An engine whose devices are [`uzram::Device`]s in this process. Clones share them.
#[derive(Clone, Default)]
pub struct InProcess {
    devices: Arc<Mutex<BTreeMap<u32, Arc<LocalDevice>>>>,
}

struct LocalDevice {
    device: Arc<Device>,
    id: u32,
    devices: Weak<Mutex<BTreeMap<u32, Arc<LocalDevice>>>>,
    /// Shared with every [`OpenDevice`], so that its count tells whether the device is open.
    open: Arc<()>,
}

/// An open device. While it lives, the device can be neither reset nor removed.
pub struct OpenDevice {
    device: Arc<Device>,
    _open: Arc<()>,
}

impl std::ops::Deref for OpenDevice {
    type Target = Device;

    fn deref(&self) -> &Device {
        &self.device
    }
}

fn locked(
    devices: &Mutex<BTreeMap<u32, Arc<LocalDevice>>>,
) -> MutexGuard<'_, BTreeMap<u32, Arc<LocalDevice>>> {
    devices.lock().unwrap_or_else(PoisonError::into_inner)
}

impl InProcess {
    /// Makes an engine without devices.
    pub fn new() -> InProcess {
        InProcess::default()
    }

    /// Opens the device of that number, if it is initialised.
    pub fn open(&self, id: u32) -> Option<OpenDevice> {
        let devices = locked(&self.devices);
        let local = devices.get(&id)?;
        Some(OpenDevice {
            device: local.device.clone(),
            _open: local.open.clone(),
        })
    }
}

/// Makes a device by its configuration.
fn build(config: &ZramConfig) -> Result<Device, ControlError> {
    let invalid = |_: Errno| ControlError {
        errno: Errno::INVAL.raw_os_error(),
        message: "an algorithm refuses its parameters".into(),
    };
    let refused = |error: uzram::Error| ControlError {
        errno: error.errno(),
        message: error.to_string(),
    };
    let mut builder = Device::builder(config.disksize).registry(algorithms().clone());
    for chosen in config.chosen().map_err(invalid)? {
        let mut choice: Choice = chosen.text.parse().map_err(refused)?;
        if !chosen.dictionary.is_empty() {
            choice = choice.dictionary(chosen.dictionary);
        }
        builder = match chosen.priority {
            0 => builder.choose(choice),
            priority => builder.secondary(priority, choice),
        };
    }
    if let Some(backing) = &config.backing {
        builder = builder.backing(&backing.path, backing.size_bytes);
    }
    let device = builder.build().map_err(refused)?;
    // Set on the device and not by the builder: the kernel also allows a limit that no page fits in.
    device.set_mem_limit_bytes(config.mem_limit);
    device.zram().set_writeback_limit(config.limit_in_force());
    device
        .zram()
        .track_ages(config.track_ages)
        .map_err(refused)?;
    Ok(device)
}

impl Engine for InProcess {
    fn reserve(&self, _: u32) -> Result<Option<(u32, u32)>, Errno> {
        Ok(None)
    }

    fn unreserve(&self, _: u32) {}

    fn start(&self, id: u32, config: &ZramConfig) -> Result<Arc<dyn Live>, ControlError> {
        let local = Arc::new(LocalDevice {
            device: Arc::new(build(config)?),
            id,
            devices: Arc::downgrade(&self.devices),
            open: Arc::new(()),
        });
        locked(&self.devices).insert(id, local.clone());
        Ok(local)
    }

    fn taken(&self) -> Vec<u32> {
        Vec::new()
    }
}

impl Live for LocalDevice {
    fn ask(&self, request: Request) -> Result<Response, ControlError> {
        execute(&self.device, &request)
    }

    fn path(&self) -> String {
        String::new()
    }

    fn rdev(&self) -> Option<(u32, u32)> {
        None
    }

    fn remove(&self) -> Result<(), ControlError> {
        let devices = self.devices.upgrade().unwrap_or_default();
        let mut devices = locked(&devices);
        if Arc::strong_count(&self.open) > 1 {
            return Err(ControlError {
                errno: Errno::BUSY.raw_os_error(),
                message: format!("zram{} is open", self.id),
            });
        }
        devices.remove(&self.id);
        Ok(())
    }
}
