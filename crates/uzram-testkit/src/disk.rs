//! A disk that fails on demand: errors, short and torn requests, garbage, and hangs.
//!
//! It wraps a real disk and passes on every request that no rule applies to.

use std::io;
use std::ops::Range;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use rustix::io::Errno;
use uzram_backing::{BLOCK, Disk, DiskDone, DiskWrite, WriteQueue};

/// What goes wrong.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    /// Nothing is done; the error is returned.
    Error(Errno),
    /// Only the first half is read or written (at least a block), and that is what the result says.
    Short,
    /// Only the first half is written; then the error, or, with `None`, success.
    Torn(Option<Errno>),
    /// One bit of the request's middle byte is turned over; success.
    Flip,
    /// The write does not come back before [`FaultyDisk::release`]. Reads are not hung.
    Hang,
}

/// When a fault happens.
#[derive(Debug, Clone)]
pub struct FaultRule {
    /// Writes; otherwise reads.
    pub writes: bool,
    /// Requests that touch these bytes.
    pub range: Range<u64>,
    /// How many of them go well first.
    pub skip: u64,
    /// How many then do not.
    pub times: u64,
    /// What happens to those.
    pub fault: Fault,
}

impl FaultRule {
    /// All writes.
    pub fn writes(fault: Fault) -> FaultRule {
        FaultRule {
            writes: true,
            range: 0..u64::MAX,
            skip: 0,
            times: u64::MAX,
            fault,
        }
    }

    /// All reads.
    pub fn reads(fault: Fault) -> FaultRule {
        FaultRule {
            writes: false,
            ..FaultRule::writes(fault)
        }
    }

    /// Of those, only the next `times` after `skip` more.
    pub fn after(self, skip: u64, times: u64) -> FaultRule {
        FaultRule {
            skip,
            times,
            ..self
        }
    }

    /// Of those, only the ones that touch `range`.
    pub fn within(self, range: Range<u64>) -> FaultRule {
        FaultRule { range, ..self }
    }
}

#[derive(Default)]
struct FaultState {
    rules: Vec<FaultRule>,
    fired: u64,
    /// Counts releases: a write hangs until it changes.
    released: u64,
    size_bytes: Option<u64>,
}

#[derive(Default)]
struct Script {
    state: Mutex<FaultState>,
    released: Condvar,
}

impl Script {
    fn state(&self) -> MutexGuard<'_, FaultState> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn fault(&self, writes: bool, offset: u64, len: usize) -> Option<Fault> {
        let mut state = self.state();
        for rule in &mut state.rules {
            let touches = rule.range.start < offset + len as u64 && offset < rule.range.end;
            if rule.writes != writes || !touches || rule.times == 0 {
                continue;
            }
            if rule.skip > 0 {
                rule.skip -= 1;
                continue;
            }
            rule.times -= 1;
            let fault = rule.fault;
            state.fired += 1;
            return Some(fault);
        }
        None
    }
}

/// See the module's documentation. A clone has the same rules.
#[derive(Clone)]
pub struct FaultyDisk {
    inner: Arc<dyn Disk>,
    script: Arc<Script>,
}

impl FaultyDisk {
    /// Without a rule: as good as `inner`.
    pub fn new(inner: Arc<dyn Disk>) -> FaultyDisk {
        let script = Arc::default();
        FaultyDisk { inner, script }
    }

    /// Adds a rule. The first that applies to a request decides.
    pub fn add(&self, rule: FaultRule) {
        self.script.state().rules.push(rule);
    }

    /// Everything goes well from now on. What hangs does so until it is released.
    pub fn clear(&self) {
        self.script.state().rules.clear();
    }

    /// Lets the writes go on that hang now.
    pub fn release(&self) {
        self.script.state().released += 1;
        self.script.released.notify_all();
    }

    /// From now on the disk has this size, as it says.
    pub fn set_size(&self, size_bytes: u64) {
        self.script.state().size_bytes = Some(size_bytes);
    }

    /// How many requests went wrong.
    pub fn fired(&self) -> u64 {
        self.script.state().fired
    }
}

fn half(len: usize) -> usize {
    (len / 2 / BLOCK * BLOCK).max(BLOCK.min(len))
}

fn flip(bytes: &mut [u8]) {
    let middle = bytes.len() / 2;
    bytes[middle] ^= 0x10;
}

impl Disk for FaultyDisk {
    fn size_bytes(&self) -> io::Result<u64> {
        let size = self.script.state().size_bytes;
        size.map_or_else(|| self.inner.size_bytes(), Ok)
    }

    fn reserve(&self, size_bytes: u64) -> io::Result<()> {
        self.inner.reserve(size_bytes)
    }

    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<usize> {
        let fault = self.script.fault(false, offset, buffer.len());
        let end = self.script.state().size_bytes.unwrap_or(u64::MAX);
        let mut len = (end.saturating_sub(offset)).min(buffer.len() as u64) as usize;
        match fault {
            Some(Fault::Error(errno)) => return Err(errno.into()),
            Some(Fault::Short | Fault::Torn(_)) => len = len.min(half(len)),
            Some(Fault::Flip | Fault::Hang) | None => {}
        }
        let count = self.inner.read_at(&mut buffer[..len], offset)?;
        if fault == Some(Fault::Flip) {
            flip(&mut buffer[..count]);
        }
        Ok(count)
    }

    fn queue(&self, depth: usize) -> io::Result<Box<dyn WriteQueue>> {
        Ok(Box::new(FaultyQueue {
            inner: self.inner.queue(depth)?,
            script: self.script.clone(),
            ready: Vec::new(),
            hung: Vec::new(),
            spoilt: Vec::new(),
        }))
    }

    fn describe(&self) -> String {
        format!("{}, with faults", self.inner.describe())
    }
}

struct FaultyQueue {
    inner: Box<dyn WriteQueue>,
    script: Arc<Script>,
    ready: Vec<DiskDone>,
    /// With the count of releases at which each hung.
    hung: Vec<(u64, DiskWrite)>,
    /// Of writes that were changed on their way down: token, what they were, what to say of them.
    spoilt: Vec<(usize, Range<usize>, Fault)>,
}

impl FaultyQueue {
    /// Hands down what was released. Returns whether something still hangs.
    fn release(&mut self) -> bool {
        let now = self.script.state().released;
        let mut at = 0;
        while at < self.hung.len() {
            if self.hung[at].0 < now {
                let (_, write) = self.hung.remove(at);
                self.inner.submit(write);
            } else {
                at += 1;
            }
        }
        !self.hung.is_empty()
    }

    /// Gives a write that was changed its range back, and tells the lie that was asked for.
    fn disguise(&mut self, mut done: DiskDone) -> DiskDone {
        let token = done.write.token;
        let Some(at) = self.spoilt.iter().position(|spoilt| spoilt.0 == token) else {
            return done;
        };
        let (_, range, fault) = self.spoilt.remove(at);
        done.write.range = range;
        match fault {
            Fault::Torn(Some(errno)) => done.result = Err(errno.into()),
            Fault::Torn(None) => done.result = Ok(done.write.range.len()),
            // The memory is as it was.
            Fault::Flip => {
                let range = done.write.range.clone();
                flip(&mut done.write.buffer.bytes_mut()[range]);
            }
            _ => {}
        }
        done
    }
}

impl WriteQueue for FaultyQueue {
    fn submit(&mut self, mut write: DiskWrite) {
        let range = write.range.clone();
        let fault = self.script.fault(true, write.offset, range.len());
        match fault {
            None => {}
            Some(Fault::Error(errno)) => {
                let result = Err(errno.into());
                return self.ready.push(DiskDone { write, result });
            }
            Some(Fault::Hang) => {
                let since = self.script.state().released;
                return self.hung.push((since, write));
            }
            Some(fault @ (Fault::Short | Fault::Torn(_))) => {
                write.range.end = range.start + half(range.len());
                self.spoilt.push((write.token, range, fault));
            }
            Some(Fault::Flip) => {
                flip(&mut write.buffer.bytes_mut()[range.clone()]);
                self.spoilt.push((write.token, range, Fault::Flip));
            }
        }
        self.inner.submit(write);
    }

    fn reap(&mut self, timeout: Duration) -> Option<DiskDone> {
        let deadline = Instant::now() + timeout;
        loop {
            let hangs = self.release();
            if let Some(done) = self.ready.pop() {
                return Some(done);
            }
            let left = deadline.saturating_duration_since(Instant::now());
            // While something hangs, its release must be noticed too.
            let step = if hangs {
                left.min(Duration::from_millis(5))
            } else {
                left
            };
            if let Some(done) = self.inner.reap(step) {
                return Some(self.disguise(done));
            }
            if !hangs || left.is_zero() {
                return None;
            }
            let state = self.script.state();
            if self.hung.iter().all(|hung| hung.0 == state.released) {
                let wait = self.script.released.wait_timeout(state, step);
                drop(wait);
            }
        }
    }
}
