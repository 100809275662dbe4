//! Writes by threads, where io_uring is refused: containers often do.
//!
//! A thread that hangs in a write keeps that write's buffer and nobody else; a queue that is dropped does not wait for it.

use std::fs::File;
use std::io::{self, IoSlice};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use rustix::io::{Errno, ReadWriteFlags};

use crate::disk::{DiskDone, DiskWrite, WriteQueue};
use crate::page_cache::drop_cached;

/// More writes at a time keep a disk no busier.
const MAX_THREADS: usize = 4;

pub(crate) struct ThreadQueue {
    jobs: Sender<DiskWrite>,
    done: Receiver<DiskDone>,
    in_flight: usize,
}

impl ThreadQueue {
    pub(crate) fn new(file: Arc<File>, depth: usize, direct: bool) -> io::Result<ThreadQueue> {
        let (jobs, todo) = channel();
        let (results, done) = channel();
        let todo = Arc::new(Mutex::new(todo));
        for _ in 0..depth.min(MAX_THREADS) {
            let (file, todo, results) = (file.clone(), todo.clone(), results.clone());
            std::thread::Builder::new()
                .name("uzram-backing".into())
                .spawn(move || work(&file, direct, &todo, &results))?;
        }
        Ok(ThreadQueue {
            jobs,
            done,
            in_flight: 0,
        })
    }
}

/// Until the queue is dropped.
fn work(file: &File, direct: bool, todo: &Mutex<Receiver<DiskWrite>>, results: &Sender<DiskDone>) {
    loop {
        // One waits for a job, the others for their turn to wait.
        let job = todo.lock().unwrap_or_else(PoisonError::into_inner).recv();
        let Ok(write) = job else { return };
        let result = write_at(file, direct, &write);
        if results.send(DiskDone { write, result }).is_err() {
            return;
        }
    }
}

fn write_at(file: &File, direct: bool, write: &DiskWrite) -> io::Result<usize> {
    let flags = match direct {
        true => ReadWriteFlags::empty(),
        false => ReadWriteFlags::DSYNC,
    };
    let slices = [IoSlice::new(write.bytes())];
    let count = loop {
        match rustix::io::pwritev2(file, &slices, write.offset, flags) {
            Err(Errno::INTR) => {}
            result => break result?,
        }
    };
    if !direct {
        drop_cached(file, write.offset, count);
    }
    Ok(count)
}

impl WriteQueue for ThreadQueue {
    fn submit(&mut self, write: DiskWrite) {
        self.in_flight += 1;
        self.jobs
            .send(write)
            .expect("the threads live as long as this");
    }

    fn reap(&mut self, timeout: Duration) -> Option<DiskDone> {
        if self.in_flight == 0 {
            return None;
        }
        let done = self.done.recv_timeout(timeout).ok()?;
        self.in_flight -= 1;
        Some(done)
    }
}
