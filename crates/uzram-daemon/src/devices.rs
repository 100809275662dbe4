//! The daemon's devices: what the API steers.

use std::cell::RefCell;
use std::fs::File;
use std::io::Read;
use std::os::fd::AsFd;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, sync_channel};
use std::time::{SystemTime, UNIX_EPOCH};

use uzram_blockdev::Survey;
use uzram_control::zram::{AttributeOwner, Errno, Refusal, ShownDevice, View};
use uzram_control::{ControlError, Request, Response, RunningDevice, check_name, number};
use uzram_runtime::zram::Local;
use uzram_runtime::{client, contents, launch, launch_announced};
use uzram_spec::{DeviceSpec, Failure, FailureKind, Result as Outcome};

use crate::api::{Asker, ByteStream, CreateAnswer, DeviceAnswer, Devices, SnapshotOptions};
use crate::confirm::Unconfirmed;
use crate::history::{History, HistoryAnswer};
use crate::hold::SharedHolder;
use crate::metrics::{MeasuredDaemon, Metrics};

/// Bytes of a snapshot that are answered at a time.
const CHUNK: usize = 64 << 10;

/// The daemon's devices.
pub(crate) struct Daemon {
    pub(crate) local: Arc<Local>,
    held: Arc<HeldView>,
    unconfirmed: Arc<Unconfirmed>,
    started: SystemTime,
    history: Arc<History>,
}

/// zram's interface to the daemon's devices. One that comes to be by it is held before that is answered.
struct HeldView {
    local: Arc<Local>,
    holder: Arc<SharedHolder>,
}

impl HeldView {
    /// Holds a new device and shows it.
    fn taken_note_of(
        &self,
        created: uzram_runtime::Created,
        notes: &[String],
    ) -> Outcome<CreateAnswer> {
        self.holder.hold_new();
        self.local.sync();
        let uzram_runtime::Created { name, path } = created;
        let mut notes = notes.to_vec();
        if let Some(why) = self.holder.unheld(&name) {
            notes.push(format!(
                "uzramd cannot hold the memory of {name}: {why}; its contents are lost if server and keeper die at once (if uzramd has too few open \
                 files, LimitNOFILE= of its unit gives more)"
            ));
        }
        Ok(CreateAnswer {
            identity: self.local.run.find(&name)?.record.identity,
            name,
            path,
            notes: notes.join("\n"),
        })
    }
}

impl View for HeldView {
    fn devices(&self) -> Result<Vec<ShownDevice>, Errno> {
        self.local.devices()
    }

    fn show(&self, owner: AttributeOwner, attribute: &str) -> Result<Vec<u8>, Errno> {
        self.local.show(owner, attribute)
    }

    fn store(&self, owner: AttributeOwner, attribute: &str, value: &[u8]) -> Result<(), Refusal> {
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

/// This process's memory; 0 where /proc does not say.
fn resident_bytes() -> u64 {
    let statm = std::fs::read_to_string("/proc/self/statm").unwrap_or_default();
    let pages = statm.split(' ').nth(1).and_then(|word| word.parse().ok());
    pages.map_or(0, |pages: u64| pages * rustix::param::page_size() as u64)
}

pub(crate) fn error(errno: i32, message: impl std::fmt::Display) -> ControlError {
    ControlError {
        errno,
        message: message.to_string(),
    }
}

impl Daemon {
    pub(crate) fn new(
        local: Arc<Local>,
        holder: Arc<SharedHolder>,
        history: Arc<History>,
    ) -> Daemon {
        let held = HeldView {
            local: local.clone(),
            holder,
        };
        Daemon {
            local,
            held: Arc::new(held),
            unconfirmed: Arc::default(),
            started: SystemTime::now(),
            history,
        }
    }

    /// zram's interface to them.
    pub(crate) fn held(&self) -> Arc<dyn View> {
        self.held.clone()
    }

    /// Makes a device by a thread that waits for the word that it is known. Without that the keeper takes it down, as it
    /// does where this process ends.
    fn create_unconfirmed(
        &self,
        spec: &DeviceSpec,
        asker: Asker,
    ) -> Result<CreateAnswer, ControlError> {
        let (tell, told) = sync_channel(1);
        let (spec, held, unconfirmed) = (spec.clone(), self.held.clone(), self.unconfirmed.clone());
        let make = move || {
            let notes = RefCell::new(Vec::new());
            let mut waiting = None;
            let note = &mut |note: &str| notes.borrow_mut().push(note.to_owned());
            let made = launch_announced(&spec, &held.local.run, note, |created| {
                let created = held.taken_note_of(created.clone(), &notes.borrow())?;
                let wait = unconfirmed.wait_for(&created, asker);
                let _ = tell.send(Ok(created));
                waiting = Some(wait.until_confirmed()?);
                Ok(())
            });
            match (made, waiting) {
                // Only now the keeper keeps it, whatever becomes of this process.
                (Ok(_), Some(confirmed)) => confirmed.answer(),
                (Ok(_), None) => {}
                (Err(failure), _) => {
                    tracing::info!("{failure}");
                    // Nobody listens where the device had been told of.
                    let _ = tell.try_send(Err(failure));
                }
            }
            held.local.sync();
        };
        let thread = std::thread::Builder::new().name("create".into());
        thread.spawn(make).map_err(Failure::from)?;
        let made = told.recv();
        Ok(made.unwrap_or_else(|_| Err(Failure::new(FailureKind::Failed, "a panic")))?)
    }

    fn entry(&self, name: &str) -> Result<RunningDevice, ControlError> {
        let found = self.local.run.find(name);
        found.map_err(|e| Failure::from(e).into())
    }
}

/// A snapshot that a device's server writes to a pipe. Dropped, the pipe breaks, and the server gives it up.
struct Taken {
    pipe: File,
    /// What the server said when it had ended.
    told: Receiver<Outcome<Response>>,
}

impl Taken {
    fn start(entry: RunningDevice, request: Request) -> Outcome<Taken> {
        let (reader, writer) = rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC)
            .map_err(std::io::Error::from)?;
        let (tell, told) = sync_channel(1);
        let thread = std::thread::Builder::new().name("snapshot".into());
        thread.spawn(move || {
            let answer = client::ask_with_files(&entry, &request, &[writer.as_fd()]);
            // The answer first: whoever reads to the end looks for it then.
            let _ = tell.send(answer);
            drop(writer);
        })?;
        let pipe = File::from(reader);
        Ok(Taken { pipe, told })
    }
}

impl ByteStream for Taken {
    fn next(&mut self) -> Result<Option<Vec<u8>>, ControlError> {
        let mut chunk = Vec::with_capacity(CHUNK);
        let read = (&mut self.pipe).take(CHUNK as u64).read_to_end(&mut chunk);
        read.map_err(Failure::from)?;
        if !chunk.is_empty() {
            return Ok(Some(chunk));
        }
        match self.told.try_recv() {
            Ok(Ok(Response::Snapshot(_))) => Ok(None),
            Ok(Ok(other)) => Err(error(5, format!("the server answered {other:?}"))),
            Ok(Err(failure)) => Err(failure.into()),
            Err(_) => Err(error(5, "the snapshot came to no end")),
        }
    }
}

impl Devices for Daemon {
    fn view(&self) -> &dyn View {
        &*self.held
    }

    fn resolve(&self, name: String) -> String {
        if number(&name).is_some() || check_name(&name).is_err() {
            return name;
        }
        let entries = self.local.run.devices().unwrap_or_default();
        let called = entries.into_iter().find(|entry| entry.record.alias == name);
        called.map_or(name, |entry| entry.record.name)
    }

    fn create(
        &self,
        spec: &DeviceSpec,
        asker: Option<Asker>,
    ) -> Result<CreateAnswer, ControlError> {
        match asker {
            Some(asker) => self.create_unconfirmed(spec, asker),
            None => {
                let mut notes = Vec::new();
                let note = &mut |note: &str| notes.push(note.to_owned());
                let created = launch(spec, &self.local.run, note)?;
                Ok(self.held.taken_note_of(created, &notes)?)
            }
        }
    }

    fn confirm(&self, name: &str, identity: &str) -> Result<(), ControlError> {
        match self.unconfirmed.confirm(identity) {
            true => Ok(()),
            false => {
                let message =
                    format!("{name} is not waited for: it was taken down, or is confirmed already");
                Err(error(19, message))
            }
        }
    }

    fn remove(&self, name: &str, identity: Option<&str>) -> Result<(), ControlError> {
        self.local.sync();
        if let Some(identity) = identity {
            let entry = self.entry(name)?;
            if entry.record.identity != identity {
                return Err(error(19, format!("{name} is another device by now")));
            }
            // Its server compares the identity once more.
            let removed = client::remove(&entry);
            self.local.sync();
            for left in removed? {
                tracing::warn!("{name}: {left}");
            }
            return Ok(());
        }
        let id = name.strip_prefix("zram").unwrap_or(name);
        let removed = self
            .local
            .store(AttributeOwner::Control, "hot_remove", id.as_bytes());
        removed.map_err(|refusal| match refusal.errno {
            Errno::NODEV | Errno::INVAL => error(19, format!("no device '{name}'")),
            errno => error(errno.raw_os_error(), refusal),
        })
    }

    fn ask(&self, name: &str, request: &Request) -> Result<Response, ControlError> {
        uzram_runtime::zram::ask(&self.entry(name)?, request)
    }

    fn metrics(&self) -> Result<Metrics, ControlError> {
        let mut metrics = Metrics::of(&self.local.run)?;
        let started = self.started.duration_since(UNIX_EPOCH);
        metrics.daemon = Some(MeasuredDaemon {
            start_seconds: started.map_or(0.0, |since| since.as_secs_f64()),
            resident_bytes: resident_bytes(),
        });
        Ok(metrics)
    }

    fn describe(&self, name: Option<&str>) -> Result<Vec<DeviceAnswer>, ControlError> {
        let shown = self.local.devices();
        let shown = shown.map_err(|errno| error(errno.raw_os_error(), "listing the devices"))?;
        let entries = self.local.run.devices().unwrap_or_default();
        let wanted: Vec<RunningDevice> = entries
            .into_iter()
            .filter(|entry| name.is_none_or(|name| entry.record.name == name))
            .collect();
        // At once: one that stands still holds up no other.
        let stats = client::survey(&wanted);
        let survey = Survey::new();
        let mut all = Vec::new();
        for device in &shown {
            let bare = device.name();
            if name.is_some_and(|name| name != bare) {
                continue;
            }
            let asked = wanted.iter().zip(&stats);
            let mut found = asked.filter(|(entry, _)| bare == entry.record.name);
            let described = found
                .next()
                .map(|(entry, stat)| client::describe(&survey, entry, stat));
            all.push(DeviceAnswer {
                described,
                name: bare,
                shown: device.clone(),
            });
        }
        match name {
            Some(name) if all.is_empty() => Err(error(19, format!("no device '{name}'"))),
            _ => Ok(all),
        }
    }

    fn history(&self, name: &str) -> Result<HistoryAnswer, ControlError> {
        match self.entry(name) {
            Ok(entry) => Ok(self.history.of(&entry)),
            // One that is not initialised has nothing to note.
            Err(_) => match self.describe(Some(name)) {
                Ok(_) => Ok(HistoryAnswer {
                    name: name.into(),
                    ..HistoryAnswer::default()
                }),
                Err(error) => Err(error),
            },
        }
    }

    fn snapshot(
        &self,
        name: &str,
        options: SnapshotOptions,
    ) -> Result<Box<dyn ByteStream>, ControlError> {
        let request = Request::Snapshot {
            kept_max_bytes: options.kept_max_bytes,
            track: options.track,
            since: false,
            basis: false,
            more: false,
            last: false,
        };
        Ok(Box::new(Taken::start(self.entry(name)?, request)?))
    }

    fn restore(
        &self,
        mut spec: DeviceSpec,
        snapshot: Box<dyn Read + Send>,
    ) -> Result<CreateAnswer, ControlError> {
        // Open until the server of the new device has it.
        let _piped = contents::pass_on(snapshot, &mut spec)?;
        self.create(&spec, None)
    }
}
