//! Trains a primary that trains itself, when `drift` says that it is due: samples in the agent's thread, learns in a thread
//! of its own, and adopts in the agent's thread again.
//!
//! *Requests.* Learning holds no lock, and its thread is as nice as can be: it runs where nothing else wants the processor.
//! What it used is charged to the agent's budget, and the agent does its other work meanwhile. Only sampling takes locks
//! that requests take, one page at a time, with the agent's own priority.
//!
//! *Memory.* A training takes the sample (16 MiB; 4 MiB of locked memory on a swap device), and about as much to learn. It
//! begins only while [`LEAST_AVAILABLE`] are available and no policy finds memory short. So what it takes is never what
//! reclaim needs. Should memory become short while it learns, it may wait for reclaim like any process: it holds nothing
//! that a request waits for. Encoders and contexts are made before a stream's lock is taken, and freed after.

use std::sync::mpsc::{Receiver, TryRecvError, sync_channel};
use std::time::{Duration, Instant};

use rustix::process::{Pid, setpriority_process};
use rustix::thread::gettid;

use super::NICE;
use super::drift::{Drift, Due, FIRST_PAGES, Seen};
use super::training::SWAP_SAMPLES;
use super::worker::Worker;
use crate::cpu_time::cpu_time;
use crate::device::Device;
use crate::train::{Learnt, Lesson};
use crate::{Error, PAGE_SIZE, TrainReport, Training};

/// Memory that has to be available for a training to begin.
const LEAST_AVAILABLE: u64 = 96 << 20;
const MEMINFO: &str = "/proc/meminfo";
/// How often is looked whether a training is due: less and less often while nothing is written. Before the first one, what
/// is written meanwhile is compressed without it.
const LOOK: std::ops::RangeInclusive<Duration> =
    Duration::from_millis(100)..=Duration::from_secs(4);
const FIRST_LOOK: Duration = Duration::from_secs(1);
/// How often is looked whether a training has ended.
const WATCH: Duration = Duration::from_millis(100);
/// Nice value of the thread that learns. After some time on a machine that is busy with other things, which would keep it
/// for minutes, it gets the agent's, if the system allows that.
const LEARNING_NICE: i32 = 19;
const PATIENCE: Duration = Duration::from_secs(20);

/// A thread that learns.
struct UnderWay {
    why: String,
    training: Training,
    since: Instant,
    /// Its number, while it has a nice value of its own.
    nice: Receiver<Pid>,
    /// The outcome, and the processor time that it took.
    outcome: Receiver<(Result<Learnt, Error>, Duration)>,
}

/// What the agent knows of its primary.
#[derive(Default)]
pub(super) struct SelfTrainer {
    drift: Drift,
    under_way: Option<UnderWay>,
    next_look: Option<Instant>,
    patience: Duration,
    /// Pages written at the last look.
    written: u64,
}

impl Worker<'_> {
    /// Does what is due for the primary's training. Returns how long there is nothing to do for it.
    pub(super) fn train_primary(&mut self) -> Duration {
        let device = self.device;
        if !device.primary().algorithm.trains_itself() {
            self.trainer = SelfTrainer::default();
            return Duration::MAX;
        }
        if !device.jobs().self_training() {
            self.trainer = SelfTrainer::default();
            let what = "nothing: it is off (train=off)";
            self.status().wait_for_training(what.into());
            return Duration::MAX;
        }
        if self.trainer.under_way.is_some() {
            return self.watch_training();
        }
        let now = Instant::now();
        let left = self
            .trainer
            .next_look
            .map(|at| at.saturating_duration_since(now));
        if let Some(left) = left.filter(|left| !left.is_zero()) {
            return left;
        }
        let seen = seen(device);
        let due = self.trainer.drift.look(&seen, now);
        let due = match due {
            Due::Now(why) if !has_memory(device) => Due::Not(format!("{why}; memory is short")),
            due => due,
        };
        match due {
            Due::Now(why) => {
                self.begin_training(why);
                WATCH
            }
            Due::Not(what) => {
                self.status().wait_for_training(what);
                self.trainer.rest(&seen, now)
            }
        }
    }

    fn begin_training(&mut self, why: String) {
        let device = self.device;
        let mut training = device.jobs().training_for(0);
        training.sample_pages = match device.pool.has_stock() {
            true => SWAP_SAMPLES,
            false => FIRST_PAGES as usize,
        };
        self.status().count(|stats| stats.trainings += 1);
        self.status()
            .wait_for_training(format!("the training under way, since {why}"));
        let lesson = device.jobs().lesson(&training, true);
        let begun = lesson.and_then(|lesson| learn(lesson, !device.pool.has_stock()));
        match begun {
            Ok((nice, outcome)) => {
                self.trainer.under_way = Some(UnderWay {
                    why,
                    training,
                    since: Instant::now(),
                    nice,
                    outcome,
                });
            }
            Err(error) => self.end_training(&why, Err(error)),
        }
        let _ = self.pace();
    }

    fn watch_training(&mut self) -> Duration {
        let Some(under_way) = &self.trainer.under_way else {
            return Duration::ZERO;
        };
        let outcome = match under_way.outcome.try_recv() {
            Err(TryRecvError::Empty) => {
                if under_way.since.elapsed() > PATIENCE
                    && let Ok(thread) = under_way.nice.try_recv()
                {
                    let _ = setpriority_process(Some(thread), NICE);
                }
                return WATCH;
            }
            Ok(outcome) => Some(outcome),
            // It panicked.
            Err(TryRecvError::Disconnected) => None,
        };
        let Some(under_way) = self.trainer.under_way.take() else {
            return Duration::ZERO;
        };
        let learnt = match outcome {
            Some((learnt, used)) => {
                self.budget.charge_for_another(used);
                learnt
            }
            None => Err(Error::Thread {
                source: rustix::io::Errno::CANCELED,
            }),
        };
        // From here on the new generation may be seen.
        let verdict = "the verdict on what was learnt".to_owned();
        self.status().wait_for_training(verdict);
        let report = learnt.and_then(|learnt| self.adopt(learnt, &under_way.training));
        self.end_training(&under_way.why, report);
        let _ = self.pace();
        Duration::ZERO
    }

    /// Adopts it if it pays, its memory included.
    fn adopt(&self, learnt: Learnt, training: &Training) -> Result<TrainReport, Error> {
        let device = self.device;
        let jobs = device.jobs();
        let (cost, saving) = (jobs.cost_of(&learnt)?, learnt.saving());
        let stored = device.stats().compr_data_size_bytes;
        let saves = (stored as f64 * saving.max(0.0)) as u64;
        device.tell_books();
        let limit = device.pool.limit_bytes();
        let too_much = device.pool.limits_all() && device.pool.limited_bytes() + cost > limit;
        let pays = (training.rule)(1.0 - saving, learnt.speed_ratio()).is_ok();
        if !pays || !too_much && saves >= cost {
            return jobs.adopt(learnt, training);
        }
        let only_tried = Training {
            dry_run: true,
            ..training.clone()
        };
        let mut report = jobs.adopt(learnt, &only_tried)?;
        report.reason = match too_much {
            true => format!("its {cost} bytes of memory do not fit mem_limit"),
            false => format!("of what is stored it would save {saves} bytes, and costs {cost}"),
        };
        Ok(report)
    }

    fn end_training(&mut self, why: &str, report: Result<TrainReport, Error>) {
        let adopted = report.as_ref().is_ok_and(|report| report.adopted);
        let (seen, now) = (seen(self.device), Instant::now());
        self.trainer.drift.trained(&seen, adopted, now);
        self.trainer.next_look = None;
        self.trainer.patience = Duration::ZERO;
        let status = self.status();
        // The budget may keep the agent from the next look for seconds.
        if let Due::Not(what) = self.trainer.drift.look(&seen, now) {
            status.wait_for_training(what);
        }
        status.count(|stats| stats.dictionaries += u64::from(adopted));
        status.refuse_training(match &report {
            Ok(_) if adopted => String::new(),
            Ok(report) => report.reason.clone(),
            Err(error) => error.to_string(),
        });
        self.note(match report {
            Ok(report) if adopted => format!(
                "training: took generation {}, since {why}: {}",
                report.generation, report.reason
            ),
            Ok(report) => format!("training: took none, though {why}: {}", report.reason),
            Err(error) => format!("training: none: {error}"),
        });
    }
}

impl SelfTrainer {
    /// Has the next look be at once: something has changed.
    pub(super) fn look_now(&mut self) {
        self.next_look = None;
    }

    /// When to look again.
    fn rest(&mut self, seen: &Seen, now: Instant) -> Duration {
        let most = match seen.generation {
            0 => FIRST_LOOK,
            _ => *LOOK.end(),
        };
        let changed = self.written != seen.written.pages;
        let patience = if changed {
            *LOOK.start()
        } else {
            self.patience * 2
        };
        self.written = seen.written.pages;
        self.patience = patience.clamp(*LOOK.start(), most);
        self.next_look = Some(now + self.patience);
        self.patience
    }
}

/// What comes of a thread that learns: its number, if it is nice, and the outcome with the processor time that it took.
type Learning = (Receiver<Pid>, Receiver<(Result<Learnt, Error>, Duration)>);

/// Lets a thread learn.
fn learn(lesson: Lesson, nice: bool) -> Result<Learning, Error> {
    let (sender, outcome) = sync_channel(1);
    let (number, thread_number) = sync_channel(1);
    let run = move || {
        if nice {
            let _ = setpriority_process(None, LEARNING_NICE);
            let _ = number.send(gettid());
        }
        let learnt = lesson.learn();
        // Nobody listens where the agent was stopped.
        let _ = sender.send((learnt, cpu_time()));
    };
    let thread = std::thread::Builder::new().name("train".into()).spawn(run);
    thread.map_err(|error| Error::Thread {
        source: crate::error::errno(&error),
    })?;
    Ok((thread_number, outcome))
}

fn seen(device: &Device) -> Seen {
    let stats = device.stats();
    let stored = stats.orig_data_size_bytes / PAGE_SIZE as u64;
    let written = device.written();
    let primary = device.codecs.by_priority(0);
    let (codec, generation, given, generations) = match &primary {
        Some((index, codec)) => (
            *index,
            codec.generation.map_or(0, |generation| generation.number),
            codec.generation.is_none() && !codec.dictionary().is_empty(),
            device.codecs.generations(&*codec.algorithm),
        ),
        None => (0, 0, false, (0, false)),
    };
    Seen {
        codec,
        generation,
        given,
        pages: stored.saturating_sub(stats.same_pages + stats.backed_pages),
        bytes: stats.compr_data_size_bytes,
        written,
        live: generations.0,
        has_room: generations.1,
    }
}

/// Whether the machine has memory for a training. Where it does not say, a swap device does not try.
fn has_memory(device: &Device) -> bool {
    let text = std::fs::read_to_string(MEMINFO).unwrap_or_default();
    is_enough(&text, device.pool.has_stock())
}

fn is_enough(meminfo: &str, is_swap: bool) -> bool {
    let line = meminfo
        .lines()
        .find_map(|line| line.strip_prefix("MemAvailable:"));
    let kib = line.and_then(|line| line.trim().strip_suffix("kB"));
    let kib = kib.and_then(|kib| kib.trim().parse::<u64>().ok());
    kib.map_or(!is_swap, |kib| kib << 10 >= LEAST_AVAILABLE)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_training_while_memory_is_short() {
        let meminfo = |kib: u64| format!("MemTotal: 999 kB\nMemAvailable:  {kib} kB\n");
        for (text, swap, enough) in [
            (meminfo(96 << 10), true, true),
            (meminfo((96 << 10) - 1), true, false),
            (meminfo((96 << 10) - 1), false, false),
            (String::new(), true, false),
            (String::new(), false, true),
        ] {
            assert_eq!(is_enough(&text, swap), enough, "{text} {swap}");
        }
    }

    #[test]
    fn looks_are_rarer_while_nothing_is_written() {
        let device = Device::builder(1 << 20).build().unwrap();
        let now = Instant::now();
        let mut trainer = SelfTrainer::default();
        let looks: Vec<_> = (0..6)
            .map(|_| trainer.rest(&seen(&device), now).as_millis())
            .collect();
        assert_eq!(looks, [100, 200, 400, 800, 1000, 1000]);
        device.write_at(b"something", 0).unwrap();
        assert_eq!(trainer.rest(&seen(&device), now), *LOOK.start());
    }
}
