//! The daemon's devices: what the API steers.

use std::sync::Arc;

use serde_json::{Value, json};
use uzram_blockdev::Survey;
use uzram_control::zram::{Errno, Owner, Shown, View};
use uzram_control::{ControlError, Entry, Request, Response};
use uzram_runtime::zram::Local;
use uzram_runtime::{client, launch, users};
use uzram_spec::{DeviceSpec, Failure};

use crate::api::{Created, Devices};
use crate::hold::SharedHolder;

/// The daemon's devices.
pub(crate) struct Daemon {
    pub(crate) local: Arc<Local>,
    held: Arc<HeldView>,
}

/// zram's interface to the daemon's devices. One that comes to be by it is held before that is answered.
struct HeldView {
    local: Arc<Local>,
    holder: Arc<SharedHolder>,
}

impl View for HeldView {
    fn devices(&self) -> Result<Vec<Shown>, Errno> {
        self.local.devices()
    }

    fn show(&self, owner: Owner, attribute: &str) -> Result<Vec<u8>, Errno> {
        self.local.show(owner, attribute)
    }

    fn store(&self, owner: Owner, attribute: &str, value: &[u8]) -> Result<(), Errno> {
        let stored = self.local.store(owner, attribute, value);
        self.holder.hold_new();
        stored
    }

    fn block_state(&self, id: u32, from: u64, max_bytes: usize) -> Result<(Vec<u8>, u64), Errno> {
        self.local.block_state(id, from, max_bytes)
    }

    fn classes(&self, id: u32) -> Result<Vec<u8>, Errno> {
        self.local.classes(id)
    }
}

pub(crate) fn error(errno: i32, message: impl std::fmt::Display) -> ControlError {
    ControlError {
        errno,
        message: message.to_string(),
    }
}

impl Daemon {
    pub(crate) fn new(local: Arc<Local>, holder: Arc<SharedHolder>) -> Daemon {
        let held = HeldView {
            local: local.clone(),
            holder,
        };
        Daemon {
            local,
            held: Arc::new(held),
        }
    }

    /// zram's interface to them.
    pub(crate) fn held(&self) -> Arc<dyn View> {
        self.held.clone()
    }

    fn entry(&self, name: &str) -> Result<Entry, ControlError> {
        let found = self.local.run.find(name);
        found.map_err(|e| Failure::from(e).into())
    }

    /// What is known of a device that is not initialised.
    fn bare(shown: &Shown) -> Value {
        json!({
            "name": format!("zram{}", shown.id),
            "id": shown.id,
            "disksize": shown.disksize,
            "path": shown.path,
            "rdev": shown.rdev,
        })
    }
}

impl Devices for Daemon {
    fn view(&self) -> &dyn View {
        &*self.held
    }

    fn create(&self, spec: &DeviceSpec) -> Result<Created, ControlError> {
        let mut notes = Vec::new();
        let created = launch(spec, &self.local.run, &mut |note| {
            notes.push(note.to_owned())
        })?;
        self.held.holder.hold_new();
        self.local.sync();
        Ok(Created {
            name: created.name,
            path: created.path,
            notes: notes.join("\n"),
        })
    }

    fn remove(&self, name: &str) -> Result<(), ControlError> {
        self.local.sync();
        let id = name.strip_prefix("zram").unwrap_or(name);
        let removed = self
            .local
            .store(Owner::Control, "hot_remove", id.as_bytes());
        removed.map_err(|errno| match (errno.raw_os_error(), self.entry(name)) {
            // Who uses it?
            (16, Ok(entry)) => match users::users(&Survey::new(), &entry) {
                none if none.is_empty() => error(16, format!("{} is in use", entry.record.path)),
                by => error(16, format!("{} is in use: {by}", entry.record.path)),
            },
            (19 | 22, _) => error(19, format!("no device '{name}'")),
            (errno, _) => error(errno, std::io::Error::from_raw_os_error(errno)),
        })
    }

    fn ask(&self, name: &str, request: &Request) -> Result<Response, ControlError> {
        uzram_runtime::zram::ask(&self.entry(name)?, request)
    }

    fn describe(&self, name: Option<&str>) -> Result<Vec<Value>, ControlError> {
        let shown = self.local.devices();
        let shown = shown.map_err(|errno| error(errno.raw_os_error(), "listing the devices"))?;
        let entries = self.local.run.devices().unwrap_or_default();
        let wanted: Vec<Entry> = entries
            .into_iter()
            .filter(|entry| name.is_none_or(|name| entry.record.name == name))
            .collect();
        // At once: one that stands still holds up no other.
        let stats = client::survey(&wanted);
        let survey = Survey::new();
        let mut all = Vec::new();
        for device in &shown {
            let bare = Daemon::bare(device);
            if name.is_some_and(|name| bare["name"] != name) {
                continue;
            }
            let asked = wanted.iter().zip(&stats);
            let mut found = asked.filter(|(entry, _)| bare["name"] == entry.record.name.as_str());
            let described = found.next().and_then(|(entry, stat)| match stat {
                Ok(stat) => client::to_json(&survey, entry, stat).ok(),
                Err(failure) => client::silent_to_json(&survey, entry, failure).ok(),
            });
            let mut object = described.unwrap_or_else(|| json!({}));
            if let (Some(object), Value::Object(bare)) = (object.as_object_mut(), bare) {
                object.extend(bare);
            }
            all.push(object);
        }
        match name {
            Some(name) if all.is_empty() => Err(error(19, format!("no device '{name}'"))),
            _ => Ok(all),
        }
    }
}
