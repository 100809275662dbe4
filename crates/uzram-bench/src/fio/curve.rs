//! Memory over time: a thread samples a target's memory while fio runs.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use super::targets::Probe;

/// The first interval. It doubles whenever there are [`MOST`] points, so that any run has a few hundred.
const INTERVAL: Duration = Duration::from_millis(100);
const MOST: usize = 400;

/// Seconds since sampling began, and bytes.
pub(super) type Points = Vec<(f64, u64)>;

/// The sampling thread.
pub(super) struct Sampler {
    stop: Arc<AtomicBool>,
    thread: JoinHandle<Points>,
}

impl Sampler {
    pub(super) fn start(probe: Probe) -> Sampler {
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = stop.clone();
        let thread = std::thread::spawn(move || sample(&probe, &stopped));
        Sampler { stop, thread }
    }

    /// Stops the thread and returns its points; none if the target does not report memory.
    pub(super) fn stop(self) -> Points {
        self.stop.store(true, Ordering::Relaxed);
        self.thread.thread().unpark();
        self.thread.join().unwrap_or_default()
    }
}

fn sample(probe: &Probe, stop: &AtomicBool) -> Points {
    let (begin, mut interval, mut points) = (Instant::now(), INTERVAL, Points::new());
    while let Some(memory) = probe.read() {
        points.push((begin.elapsed().as_secs_f64(), memory.used_bytes));
        if stop.load(Ordering::Relaxed) {
            break;
        }
        if points.len() >= MOST {
            thin(&mut points);
            interval *= 2;
        }
        std::thread::park_timeout(interval);
    }
    points
}

/// Drops every second point.
fn thin(points: &mut Points) {
    let mut keep = false;
    points.retain(|_| {
        keep = !keep;
        keep
    });
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_process_is_watched_until_told_otherwise() {
        let sampler = Sampler::start(Probe::Resident(std::process::id()));
        let points = sampler.stop();
        assert!(!points.is_empty() && points[0].1 > 0, "{points:?}");
        assert!(Sampler::start(Probe::Unknown).stop().is_empty());
    }

    #[test]
    fn thinning_keeps_the_first() {
        let mut points = vec![(0.0, 1), (1.0, 2), (2.0, 3)];
        thin(&mut points);
        assert_eq!(points, [(0.0, 1), (2.0, 3)]);
    }
}
