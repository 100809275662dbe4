//! Devices as processes: what zram's interface steers outside of tests. Each is made by `uzram create` and asked through
//! its server's control socket.

use std::collections::{BTreeMap, BTreeSet};
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use uzram_control::zram::{Config, Engine, Errno, Live};
use uzram_control::{Claim, ControlError, Entry, Request, Response, RunDir, number, to_hex};

use super::{error, refused, run_program};
use crate::commands;
use crate::frontends;

/// Makes devices, and knows those that there are.
pub(crate) struct Processes {
    run: RunDir,
    frontend: frontends::Choice,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    /// Devices that are served.
    known: BTreeMap<u32, Arc<Served>>,
    /// Numbers of devices that are just being made here.
    starting: BTreeSet<u32>,
    /// Loop devices that are kept, by number of the device.
    loops: BTreeMap<u32, uzram_fuse::LoopNumber>,
    /// Numbers of the loop devices that devices had.
    last: BTreeMap<u32, u32>,
}

/// The engine and its devices hold it together.
pub(crate) type Shared = Arc<Processes>;

/// A device that a server of its own serves.
pub(crate) struct Served {
    id: u32,
    entry: Entry,
    engine: Shared,
}

/// Sends a request to a device's server.
pub(super) fn ask(entry: &Entry, request: &Request) -> Result<Response, ControlError> {
    match commands::call_patiently(entry, &entry.socket(), request) {
        Ok(Response::Error(error)) => Err(error),
        Ok(response) => Ok(response),
        Err(e) => {
            let name = &entry.record.name;
            Err(error(
                5,
                format!("the server of {name} does not answer: {e}"),
            ))
        }
    }
}

impl Processes {
    pub(crate) fn new(run: RunDir, frontend: frontends::Choice) -> Shared {
        Arc::new(Processes {
            run,
            frontend,
            state: Mutex::default(),
        })
    }

    fn state(&self) -> MutexGuard<'_, State> {
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
            .filter(|(_, served)| !served.entry.dir.exists())
            .map(|(id, _)| *id)
            .collect();
        for id in &gone {
            state.known.remove(id);
        }
        let mut made = Vec::new();
        for entry in entries {
            let Some(id) = id_of(&entry) else { continue };
            if state.starting.contains(&id) || state.known.contains_key(&id) {
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

    fn served(self: &Arc<Self>, id: u32, entry: Entry) -> Arc<Served> {
        Arc::new(Served {
            id,
            entry,
            engine: self.clone(),
        })
    }

    /// On the loop device that is kept for it, unless somebody else takes that at this very moment.
    fn start_one(self: &Arc<Self>, id: u32, config: &Config) -> Result<Arc<Served>, ControlError> {
        let kept = self.state().loops.remove(&id);
        let number = kept.as_ref().map(uzram_fuse::LoopNumber::number);
        drop(kept);
        let started = match self.start_on(id, config, number) {
            Err(_) if number.is_some_and(|n| !uzram_fuse::is_free(n)) => {
                self.start_on(id, config, None)
            }
            other => other,
        };
        if started.is_err() {
            let _ = self.keep_loop(id, number);
        }
        started
    }

    /// Keeps a loop device for a device that is not initialised: that of the number, if it is free.
    fn keep_loop(&self, id: u32, number: Option<u32>) -> Option<(u32, u32)> {
        let mut state = self.state();
        if let Some(kept) = state.loops.get(&id) {
            return Some(kept.rdev());
        }
        // Without the loop driver it has no node before it is initialised.
        let kept = uzram_fuse::LoopNumber::reserve(number).ok()?;
        let rdev = kept.rdev();
        state.loops.insert(id, kept);
        Some(rdev)
    }

    fn start_on(
        self: &Arc<Self>,
        id: u32,
        config: &Config,
        number: Option<u32>,
    ) -> Result<Arc<Served>, ControlError> {
        let chosen = config
            .chosen()
            .map_err(|errno| error(errno.raw_os_error(), "an algorithm's parameters"))?;
        let kind = self.frontend.kind().map_err(|failure| refused(&failure))?;
        let name = format!("zram{id}");
        let mut args: Vec<String> = ["create", "--private"].map(Into::into).into();
        let mut option = |name: &str, value: String| args.push(format!("--{name}={value}"));
        option("name", name.clone());
        option("size", config.disksize.to_string());
        option("frontend", kind.name.into());
        if kind.name == "fuse-loop"
            && let Some(number) = number
        {
            option("number", number.to_string());
        }
        if config.mem_limit > 0 {
            option("mem-limit", config.mem_limit.to_string());
        }
        for algorithm in &chosen {
            match algorithm.priority {
                0 => option("algorithm", algorithm.text.clone()),
                priority => option("recomp-algorithm", with_priority(&algorithm.text, priority)),
            }
        }
        if let Some(backing) = &config.backing {
            let path = backing.path.display();
            option(
                "backing",
                match backing.size_bytes {
                    Some(size) => format!("{path},{size}"),
                    None => path.to_string(),
                },
            );
        }
        run_program(&self.run, &args, None)?;
        let entry = self.run.find(&name).map_err(|e| refused(&e.into()))?;
        let finished = finish(&entry, config, &chosen);
        if let Err(error) = finished {
            let _ = commands::remove::remove(&entry);
            return Err(error);
        }
        Ok(self.served(id, entry))
    }
}

/// What the command line cannot say.
fn finish(
    entry: &Entry,
    config: &Config,
    chosen: &[uzram_control::zram::Chosen],
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

/// `zstd(level=1)` as `zstd(level=1,priority=2)`.
fn with_priority(text: &str, priority: usize) -> String {
    match text.strip_suffix(')') {
        Some(open) => format!("{open},priority={priority})"),
        None => format!("{text}(priority={priority})"),
    }
}

fn id_of(entry: &Entry) -> Option<u32> {
    number(&entry.record.name)
}

/// The engine as a zram host owns it.
pub(super) struct Owned(pub(super) Shared);

impl Engine for Owned {
    fn reserve(&self, id: u32) -> Result<Option<(u32, u32)>, Errno> {
        let last = self.0.state().last.get(&id).copied();
        Ok(self.0.keep_loop(id, last))
    }

    fn unreserve(&self, id: u32) {
        let mut state = self.0.state();
        state.loops.remove(&id);
        state.last.remove(&id);
    }

    fn start(&self, id: u32, config: &Config) -> Result<Arc<dyn Live>, ControlError> {
        self.0.state().starting.insert(id);
        let started = self.0.start_one(id, config);
        let mut state = self.0.state();
        state.starting.remove(&id);
        let served = started?;
        state.known.insert(id, served.clone());
        drop(state);
        if let Some((7, number)) = served.rdev() {
            self.0.state().last.insert(id, number);
        }
        Ok(served)
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
            .map_or_else(|| self.entry.record.path.clone(), |record| record.path)
    }

    fn rdev(&self) -> Option<(u32, u32)> {
        let meta = std::fs::metadata(Path::new(&self.path())).ok()?;
        let rdev = meta.rdev();
        (rdev != 0).then(|| (rustix::fs::major(rdev), rustix::fs::minor(rdev)))
    }

    fn remove(&self) -> Result<(), ControlError> {
        let known = self.engine.state().known.remove(&self.id);
        commands::remove::remove(&self.entry).map_err(|failure| {
            if let Some(known) = known {
                self.engine.state().known.insert(self.id, known);
            }
            refused(&failure)
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn priorities_are_among_the_parameters() {
        assert_eq!(with_priority("zstd", 2), "zstd(priority=2)");
        assert_eq!(
            with_priority("zstd(level=1)", 3),
            "zstd(level=1,priority=3)"
        );
    }
}
