//! Devices as processes: what zram's interface steers outside of tests.

use std::collections::{BTreeMap, BTreeSet};
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use uzram::compress::AlgorithmSpec;
use uzram_control::trust::{self, Distrust};
use uzram_control::zram::{Chosen, Engine, Errno, Live, ZramConfig};
use uzram_control::{
    Claim, ControlError, Request, Response, RunDir, RunningDevice, number, to_hex,
};

use uzram_frontend::{NUMBER, ReservedNode};
use uzram_spec::{BackingSpec, Bytes, DeviceSpec, Failure, FrontendSpec};

use crate::{backing, client, frontends, launch};

/// How long a server that did not answer is left alone.
const SILENT: Duration = Duration::from_secs(5);

/// Makes devices, and knows those that there are.
pub(crate) struct Processes {
    run: RunDir,
    /// Name of the frontend of devices that are made, or `auto`.
    frontend: String,
    /// Of devices that are made: whether nothing is said if they are used as swap and are not safe for that.
    pub(super) allow_unsafe_swap: AtomicBool,
    state: Mutex<Known>,
}

#[derive(Default)]
struct Known {
    /// Devices that are served.
    known: BTreeMap<u32, Arc<Served>>,
    /// Numbers of devices that are just being made here.
    starting: BTreeSet<u32>,
    /// Nodes that are kept for devices without a size, by number of the device.
    kept: BTreeMap<u32, Box<dyn ReservedNode>>,
    /// Devices whose servers did not answer, and when they are asked again.
    silent: BTreeMap<u32, Instant>,
    /// Numbers of the nodes that devices had, where such nodes can be kept.
    last: BTreeMap<u32, u32>,
}

/// The engine and its devices hold it together.
pub(super) type SharedProcesses = Arc<Processes>;

/// A device that a server of its own serves.
pub(crate) struct Served {
    id: u32,
    entry: RunningDevice,
    engine: SharedProcesses,
}

/// Sends a request to a device's server.
pub fn ask(entry: &RunningDevice, request: &Request) -> Result<Response, ControlError> {
    match client::call_patiently(entry, &entry.socket(), request) {
        Ok(Response::Error(error)) => Err(error),
        Ok(response) => Ok(response),
        Err(e) => Err(match client::death(entry) {
            Some(failure) => failure.into(),
            None => ControlError {
                errno: match e.kind() {
                    std::io::ErrorKind::TimedOut => 110,
                    _ => 5,
                },
                message: format!("the server of {} does not answer: {e}", entry.record.name),
            },
        }),
    }
}

impl Processes {
    pub(crate) fn new(run: RunDir, frontend: String) -> SharedProcesses {
        Arc::new(Processes {
            run,
            frontend,
            allow_unsafe_swap: AtomicBool::default(),
            state: Mutex::default(),
        })
    }

    fn state(&self) -> MutexGuard<'_, Known> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What happened to the devices since this was asked last, without us: those that were made, and the numbers of
    /// those that are gone.
    pub(super) fn changes(self: &Arc<Self>) -> (Vec<(u32, Arc<Served>)>, Vec<u32>) {
        let entries = self.run.devices().unwrap_or_default();
        let mut state = self.state();
        let gone: Vec<u32> = state
            .known
            .iter()
            .filter(|(_, served)| served.entry.is_gone())
            .map(|(id, _)| *id)
            .collect();
        for id in &gone {
            state.known.remove(id);
        }
        let now = Instant::now();
        state.silent.retain(|_, until| *until > now);
        let is_new = |entry: &RunningDevice| {
            id_of(entry).is_some_and(|id| {
                !state.starting.contains(&id)
                    && !state.known.contains_key(&id)
                    && !state.silent.contains_key(&id)
            })
        };
        let new: Vec<RunningDevice> = entries.into_iter().filter(is_new).collect();
        drop(state);
        // Whoever takes note of a device asks its server: one that stands still would hold up all others each time.
        let answers = client::survey(&new);
        let mut state = self.state();
        let mut made = Vec::new();
        for (entry, answer) in new.into_iter().zip(answers) {
            let Some(id) = id_of(&entry) else { continue };
            if state.starting.contains(&id) || state.known.contains_key(&id) {
                continue;
            }
            if let Err(failure) = answer {
                tracing::debug!(id, "not shown yet: {failure}");
                state.silent.insert(id, Instant::now() + SILENT);
                continue;
            }
            let served = self.served(id, entry);
            state.known.insert(id, served.clone());
            made.push((id, served));
        }
        (made, gone)
    }

    /// The device of that number, if it is served.
    pub(super) fn find(self: &Arc<Self>, id: u32) -> Option<Arc<dyn Live>> {
        let entry = self.run.find(&format!("zram{id}")).ok()?;
        let served = self.served(id, entry);
        self.state().known.insert(id, served.clone());
        Some(served)
    }

    /// Forgets a device, so that it is found again.
    pub(super) fn lose(&self, id: u32) {
        self.state().known.remove(&id);
    }

    fn served(self: &Arc<Self>, id: u32, entry: RunningDevice) -> Arc<Served> {
        Arc::new(Served {
            id,
            entry,
            engine: self.clone(),
        })
    }

    /// Makes the device on the node that is kept for it, unless somebody else takes that at this very moment.
    fn start_one(
        self: &Arc<Self>,
        id: u32,
        config: &ZramConfig,
    ) -> Result<Arc<Served>, ControlError> {
        let kept = self.state().kept.remove(&id);
        let number = kept.as_ref().map(|node| node.number());
        drop(kept);
        let started = match self.start_on(id, config, number) {
            Err(_) if number.is_some_and(|n| !is_free(n)) => self.start_on(id, config, None),
            other => other,
        };
        if started.is_err() {
            let _ = self.keep_node(id, number);
        }
        started
    }

    /// Keeps a node for a device that is not initialised: that of the number, if it is free.
    fn keep_node(&self, id: u32, number: Option<u32>) -> Option<(u32, u32)> {
        let mut state = self.state();
        if let Some(kept) = state.kept.get(&id) {
            return Some(kept.rdev());
        }
        let kept = frontends::reserve(number)?;
        let rdev = kept.rdev();
        state.kept.insert(id, kept);
        Some(rdev)
    }

    fn start_on(
        self: &Arc<Self>,
        id: u32,
        config: &ZramConfig,
        number: Option<u32>,
    ) -> Result<Arc<Served>, ControlError> {
        let chosen = config.chosen().map_err(|errno| ControlError {
            errno: errno.raw_os_error(),
            message: "an algorithm's parameters".into(),
        })?;
        let spec = self.spec(id, config, &chosen, number)?;
        let log_note = &mut |text: &str| tracing::info!("{text}");
        let created = launch(&spec, &self.run, log_note)?;
        let entry = self.run.find(&created.name).map_err(Failure::from)?;
        let finished = finish(&entry, config, &chosen);
        if let Err(error) = finished {
            let _ = client::remove(&entry);
            return Err(error);
        }
        Ok(self.served(id, entry))
    }

    /// The description of the device that was configured.
    fn spec(
        &self,
        id: u32,
        config: &ZramConfig,
        chosen: &[Chosen],
        number: Option<u32>,
    ) -> Result<DeviceSpec, ControlError> {
        let wanted = FrontendSpec::new(self.frontend.as_str());
        let (frontend, mut own, _) = frontends::resolve(&wanted, frontends::Needs::default())?;
        if let Some(number) = number.filter(|_| frontends::reserves(frontend.name())) {
            own = own.option(NUMBER.name, number);
        }
        let mut spec = DeviceSpec {
            name: Some(format!("zram{id}")),
            size: Some(Bytes(config.disksize)),
            mem_limit: Bytes(config.mem_limit).into(),
            frontend: own,
            allow_unsafe_swap: self.allow_unsafe_swap.load(Ordering::Relaxed),
            ..DeviceSpec::default()
        };
        for algorithm in chosen {
            let parsed = algorithm.text.parse::<AlgorithmSpec>();
            let mut parsed = parsed.map_err(|error| Failure::from(uzram::Error::from(error)))?;
            if algorithm.priority == 0 {
                spec.algorithm = parsed;
            } else {
                let priority = algorithm.priority.to_string();
                parsed.params.push(("priority".into(), priority));
                spec.recomp_algorithm.push(parsed);
            }
        }
        let backing = config.backing.as_ref();
        spec.backing =
            backing.map(|of| BackingSpec::file(of.path.clone(), of.size_bytes.map(Bytes)));
        Ok(spec)
    }
}

/// Whether a node of that number can be had now.
fn is_free(number: u32) -> bool {
    frontends::reserve(Some(number)).is_some_and(|node| node.number() == number)
}

/// Sets what a description does not say.
fn finish(
    entry: &RunningDevice,
    config: &ZramConfig,
    chosen: &[Chosen],
) -> Result<(), ControlError> {
    for algorithm in chosen.iter().filter(|a| !a.dictionary.is_empty()) {
        let request = Request::SetAlgorithm {
            priority: algorithm.priority,
            algorithm: algorithm.text.clone(),
            dictionary: to_hex(&algorithm.dictionary),
        };
        ask(entry, &request)?;
    }
    if config.track_ages {
        ask(entry, &Request::TrackAges { on: true })?;
    }
    if let Some(pages) = config.limit_in_force() {
        ask(entry, &Request::SetWritebackLimit { pages: Some(pages) })?;
    }
    Ok(())
}

fn id_of(entry: &RunningDevice) -> Option<u32> {
    number(&entry.record.name)
}

/// The engine as a zram host owns it.
pub(super) struct Owned(pub(super) SharedProcesses);

impl Engine for Owned {
    fn reserve(&self, id: u32) -> Result<Option<(u32, u32)>, Errno> {
        let last = self.0.state().last.get(&id).copied();
        Ok(self.0.keep_node(id, last))
    }

    fn unreserve(&self, id: u32) {
        let mut state = self.0.state();
        state.kept.remove(&id);
        state.last.remove(&id);
    }

    fn start(&self, id: u32, config: &ZramConfig) -> Result<Arc<dyn Live>, ControlError> {
        self.0.state().starting.insert(id);
        let started = self.0.start_one(id, config);
        let mut state = self.0.state();
        state.starting.remove(&id);
        let served = started?;
        state.known.insert(id, served.clone());
        drop(state);
        if frontends::reserves(&served.entry.record.frontend)
            && let Some((_, number)) = served.rdev()
        {
            self.0.state().last.insert(id, number);
        }
        Ok(served)
    }

    fn check_backing(&self, path: &Path) -> Result<(), Errno> {
        // What is not there has an errno of its own, later.
        let whose = match trust::check_file(path) {
            Ok(()) | Err(Distrust::System { .. }) => Ok(()),
            Err(why) => Err(why.to_string()),
        };
        let checked = whose.and_then(|()| backing::check_beneath(path, &self.0.run));
        checked.map_err(|why| {
            tracing::warn!("{why}");
            Errno::INVAL
        })
    }

    fn taken(&self) -> Vec<u32> {
        let entries = self.0.run.devices().unwrap_or_default();
        entries.iter().filter_map(id_of).collect()
    }
}

impl Live for Served {
    fn ask(&self, request: Request) -> Result<Response, ControlError> {
        ask(&self.entry, &request)
    }

    fn path(&self) -> String {
        // Another server may have put the device behind another node.
        let now = Claim::adopt(&self.entry.dir).ok();
        now.and_then(|claim| claim.record())
            .filter(|record| record.identity == self.entry.record.identity)
            .map_or_else(|| self.entry.record.path.clone(), |record| record.path)
    }

    fn rdev(&self) -> Option<(u32, u32)> {
        let meta = std::fs::metadata(Path::new(&self.path())).ok()?;
        let rdev = meta.rdev();
        (rdev != 0).then(|| (rustix::fs::major(rdev), rustix::fs::minor(rdev)))
    }

    fn remove(&self) -> Result<(), ControlError> {
        let known = self.engine.state().known.remove(&self.id);
        let removed = client::remove(&self.entry).inspect_err(|_| {
            if let Some(known) = known {
                self.engine.state().known.insert(self.id, known);
            }
        });
        for left in removed? {
            tracing::warn!("{left}");
        }
        Ok(())
    }
}
