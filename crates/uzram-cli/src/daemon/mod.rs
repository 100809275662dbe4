//! `uzramd`: owns the devices. It answers the API (`uzram-daemon`), makes what its configuration asks for, shows zram's
//! interface, and holds every device's memory, so that not even the death of server and keeper at once loses it.
//!
//! Devices do not depend on it: each has its server and keeper, which go on when the daemon ends.

mod engine;
mod hold;
mod local;
mod setup;

use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::sync::Arc;

use serde_json::{Value, json};
use uzram_control::zram::View;
use uzram_control::{ControlError, Entry, Request, Response, RunDir};
use uzram_daemon::{Create, Created, Devices};

use crate::commands;
use crate::exit::Failure;

pub(crate) use hold::Holder;
pub(crate) use local::Local;
pub(crate) use setup::{generated, set_up};

/// The daemon's devices.
pub(crate) struct Daemon {
    pub(crate) local: Arc<Local>,
}

fn error(errno: i32, message: impl std::fmt::Display) -> ControlError {
    ControlError {
        errno,
        message: message.to_string(),
    }
}

/// What a failure of this program's own is to a client.
fn refused(failure: &Failure) -> ControlError {
    error(failure.errno(), failure)
}

/// Runs this program again, with these arguments, for that run directory, and waits. What it printed, and what it said.
fn run_program(
    run: &RunDir,
    args: &[String],
    directory: Option<&str>,
) -> std::result::Result<(String, String), ControlError> {
    let mut command = Command::new("/proc/self/exe");
    command.args(args).stdin(Stdio::null());
    command.env("UZRAM_RUN_DIR", run.file(""));
    command.current_dir(directory.unwrap_or("/"));
    let output = command
        .output()
        .map_err(|e| error(5, format!("cannot execute uzram: {e}")))?;
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).trim_end().to_owned();
    let said = text(&output.stderr);
    match output.status.code() {
        Some(0) => Ok((text(&output.stdout), said)),
        code => {
            let failure = Failure::silent(code.unwrap_or(1));
            // Without clap's usage, which is for a terminal.
            let said = said.split("\n\n").next().unwrap_or_default();
            let said = said
                .trim_start_matches("uzram: ")
                .trim_start_matches("error: ");
            Err(error(failure.errno(), said))
        }
    }
}

impl Daemon {
    fn entry(&self, name: &str) -> std::result::Result<Entry, ControlError> {
        let found = self.local.run.find(name);
        found.map_err(|e| refused(&e.into()))
    }

    /// What is known of a device that is not initialised.
    fn bare(shown: &uzram_control::zram::Shown) -> Value {
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
        &*self.local
    }

    fn create(&self, create: &Create) -> std::result::Result<Created, ControlError> {
        let directory = create.directory.as_deref();
        if directory.is_some_and(|directory| !PathBuf::from(directory).is_absolute()) {
            return Err(error(22, "directory: an absolute path"));
        }
        let wanted = ["create".to_owned(), "--private".to_owned()];
        let args: Vec<String> = wanted.into_iter().chain(create.args.clone()).collect();
        if create.args.iter().any(|arg| arg == "--foreground") {
            return Err(error(
                22,
                "a device of the daemon cannot be in the foreground",
            ));
        }
        let (path, notes) = run_program(&self.local.run, &args, directory)?;
        let entry = self.entry(&path)?;
        self.local.sync();
        Ok(Created {
            name: entry.record.name,
            path,
            notes,
        })
    }

    fn remove(&self, name: &str) -> std::result::Result<(), ControlError> {
        self.local.sync();
        let id = name.strip_prefix("zram").unwrap_or(name);
        let removed = self.local.store(
            uzram_control::zram::Owner::Control,
            "hot_remove",
            id.as_bytes(),
        );
        removed.map_err(|errno| match (errno.raw_os_error(), self.entry(name)) {
            // Who uses it?
            (16, Ok(entry)) => {
                let by = uzram_blockdev::busy(std::path::Path::new(&entry.record.path));
                let by = by.map_or("in use".to_owned(), |by| format!("in use: {by}"));
                error(16, format!("{} is {by}", entry.record.path))
            }
            (19 | 22, _) => error(19, format!("no device '{name}'")),
            (errno, _) => error(errno, std::io::Error::from_raw_os_error(errno)),
        })
    }

    fn ask(&self, name: &str, request: &Request) -> std::result::Result<Response, ControlError> {
        engine::ask(&self.entry(name)?, request)
    }

    fn describe(&self, name: Option<&str>) -> std::result::Result<Vec<Value>, ControlError> {
        let shown = self.local.devices();
        let shown = shown.map_err(|errno| error(errno.raw_os_error(), "listing the devices"))?;
        let entries = self.local.run.devices().unwrap_or_default();
        let mut all = Vec::new();
        for device in &shown {
            let bare = Daemon::bare(device);
            if name.is_some_and(|name| bare["name"] != name) {
                continue;
            }
            let entry = entries
                .iter()
                .find(|entry| bare["name"] == entry.record.name.as_str());
            let described = entry.and_then(|entry| {
                let stat = commands::stat_of(entry).ok()?;
                commands::to_json(entry, &stat).ok()
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

    fn create_schema(&self) -> Value {
        commands::create::schema()
    }
}
