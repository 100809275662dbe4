//! What is known of all devices at one moment, and the thread that asks for it again and again.

use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::time::{Duration, Instant};

use uzram_control::stat::Stat;
use uzram_control::{Job, RunDir, RunningDevice};
use uzram_runtime::client;
use uzram_spec::{Failure, Result};

/// A device at one moment.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct DeviceSample {
    pub(crate) name: String,
    /// What no other device ever has; the name where there is none.
    pub(crate) identity: String,
    pub(crate) frontend: String,
    pub(crate) path: String,
    /// What its server said, or why it said nothing.
    pub(crate) stat: std::result::Result<Box<Stat>, String>,
    pub(crate) jobs: Vec<Job>,
}

/// All devices at one moment, in the order of their numbers.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Sample {
    pub(crate) at: Instant,
    pub(crate) devices: Vec<DeviceSample>,
    /// Devices whose records cannot be read.
    pub(crate) damaged: usize,
}

/// The devices of these names, or all. What dead ones left is not cleared: this only looks.
pub(crate) fn entries(run: &RunDir, names: &[String]) -> Result<Vec<RunningDevice>> {
    if names.is_empty() {
        return Ok(run.devices()?);
    }
    let mut found = Vec::new();
    for name in names {
        let entry = run.find(name)?;
        if !found
            .iter()
            .any(|other: &RunningDevice| other.record.name == entry.record.name)
        {
            found.push(entry);
        }
    }
    Ok(found)
}

impl Sample {
    /// Asks the devices of these names, or all. One that is gone is left out.
    pub(crate) fn new(run: &RunDir, names: &[String]) -> Result<Sample> {
        let mut entries = run.devices()?;
        entries.retain(|entry| names.is_empty() || names.contains(&entry.record.name));
        let (stats, jobs) = std::thread::scope(|scope| {
            // Both wait for whoever does not answer.
            let jobs = scope.spawn(|| client::jobs(&entries));
            (client::survey(&entries), jobs.join().unwrap_or_default())
        });
        let jobs = jobs.into_iter().map(Result::unwrap_or_default);
        let devices = entries
            .iter()
            .zip(stats)
            .zip(jobs.chain(std::iter::repeat(Vec::new())));
        let there = |((entry, stat), _): &((&RunningDevice, Result<Stat>), Vec<Job>)| {
            stat.is_ok() || !entry.is_gone()
        };
        let sample = |((entry, stat), jobs): ((&RunningDevice, Result<Stat>), Vec<Job>)| {
            let record = &entry.record;
            DeviceSample {
                name: record.name.clone(),
                identity: match record.identity.as_str() {
                    "" => record.name.clone(),
                    identity => identity.into(),
                },
                frontend: record.frontend.clone(),
                path: record.path.clone(),
                stat: stat.map(Box::new).map_err(|failure| failure.to_string()),
                jobs,
            }
        };
        Ok(Sample {
            at: Instant::now(),
            devices: devices.filter(there).map(sample).collect(),
            damaged: run.damaged()?.len(),
        })
    }
}

/// Asks at these intervals until its receiver is gone. What is sent to it has it ask at once.
pub(crate) struct Sampler {
    pub(crate) samples: Receiver<Result<Sample>>,
    now: Sender<()>,
}

impl Sampler {
    pub(crate) fn start(run: RunDir, names: Vec<String>, interval: Duration) -> Result<Sampler> {
        let (to, samples) = channel();
        let (now, asked) = channel();
        let work = move || {
            loop {
                let begin = Instant::now();
                if to.send(Sample::new(&run, &names)).is_err() {
                    return;
                }
                let left = interval.saturating_sub(begin.elapsed());
                if asked.recv_timeout(left) == Err(RecvTimeoutError::Disconnected) {
                    return;
                }
            }
        };
        std::thread::Builder::new()
            .spawn(work)
            .map_err(|error| Failure::failed(format!("no thread: {error}")))?;
        Ok(Sampler { samples, now })
    }

    /// Asks now.
    pub(crate) fn ask(&self) {
        // Its thread ends with this.
        let _ = self.now.send(());
    }
}
