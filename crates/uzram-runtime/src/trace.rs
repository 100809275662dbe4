//! The trace of a clone: which frames a workload reads, kept beside the snapshot, so that the next clone fetches them ahead.
//!
//! What a workload touches repeats, the order in which it does does not: so a trace is a set of frames. What it lists is
//! fetched in pieces of up to 2 MiB of the disk, by threads of their own, which stand back while a request waits. What requests
//! wait for all the same is added to it, now and then and at the end.

use std::sync::mpsc::{self, RecvTimeoutError, Sender};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use uzram::{Device, RemoteSource};

use crate::clone::CloneSource;
use crate::process;

/// How often what was read is added.
const EVERY: Duration = Duration::from_secs(10);
/// For how long what is read counts as what a workload begins with.
const FIRST: Duration = Duration::from_secs(600);
/// Threads that fetch ahead.
const AHEAD: usize = 3;
/// Frames that one of them takes at once: 2 MiB of the disk.
const TAKEN: usize = 8;
/// How long the end of a device waits for the last addition.
const PATIENCE: Duration = Duration::from_secs(2);

/// The thread that keeps the trace. Dropped, it adds what is left and ends.
pub(crate) struct Tracing {
    stop: Option<Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl Tracing {
    /// Begins where the source has a trace.
    pub(crate) fn start(
        device: &Arc<Device>,
        source: &Arc<CloneSource>,
    ) -> std::io::Result<Tracing> {
        let (stop, stopped) = mpsc::channel();
        let (device, source) = (device.clone(), source.clone());
        let work = move || {
            let known = match source.trace().map(|trace| trace.load()) {
                Ok(Ok(known)) => known,
                Ok(Err(error)) => return told(&source, &error),
                Err(error) => return told(&source, &error),
            };
            tracing::info!(
                "trace {}: {} frames are fetched ahead",
                source.trace_name(),
                known.len()
            );
            fetch_ahead(&device, &known);
            let begin = Instant::now();
            let mut added = 0;
            loop {
                let is_over =
                    !matches!(stopped.recv_timeout(EVERY), Err(RecvTimeoutError::Timeout));
                let frames = source.demanded_frames();
                if frames.len() > added {
                    match source.trace().map(|trace| trace.add(&frames)) {
                        Ok(Ok(())) => added = frames.len(),
                        Ok(Err(error)) => told(&source, &error),
                        Err(error) => told(&source, &error),
                    }
                }
                if is_over || device.remote_pages() == 0 || begin.elapsed() > FIRST {
                    return;
                }
            }
        };
        let thread = std::thread::Builder::new().name("trace".into());
        Ok(Tracing {
            stop: Some(stop),
            thread: Some(thread.spawn(work)?),
        })
    }
}

impl Drop for Tracing {
    fn drop(&mut self) {
        drop(self.stop.take());
        let Some(thread) = self.thread.take() else {
            return;
        };
        let begin = Instant::now();
        while !thread.is_finished() && begin.elapsed() < PATIENCE {
            std::thread::sleep(Duration::from_millis(2));
        }
    }
}

fn told(source: &CloneSource, error: &dyn std::fmt::Display) {
    tracing::warn!(
        "trace {} of {}: {error}",
        source.trace_name(),
        source.name()
    );
}

/// Has threads fetch these frames, which end by themselves.
fn fetch_ahead(device: &Arc<Device>, frames: &[u32]) {
    let rest: Vec<Vec<u32>> = frames.chunks(TAKEN).rev().map(<[u32]>::to_vec).collect();
    let rest = Arc::new(Mutex::new(rest));
    for _ in 0..AHEAD {
        let (device, rest) = (Arc::downgrade(device), rest.clone());
        let next = move || rest.lock().unwrap_or_else(PoisonError::into_inner).pop();
        let fetch = move || {
            while let Some(frames) = next()
                && let Some(device) = device.upgrade()
            {
                let go_on = &mut |_| std::ops::ControlFlow::Continue(());
                if let Err(error) = device.jobs().fetch_ahead(&frames, go_on) {
                    tracing::debug!(%error, "fetching ahead");
                    return;
                }
            }
        };
        if let Err(error) = process::spawn("ahead", fetch) {
            tracing::warn!(%error, "nothing is fetched ahead");
            return;
        }
    }
}
