//! A kernel's zram and the model behind the same few calls.

use std::collections::BTreeSet;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use rustix::fs::{FallocateFlags, FlockOperation, OFlags, fallocate, flock};
use uzram_control::zram::{ATTRIBUTES, AttributeOwner, AttributePlace, Host, HostOptions, View};
use uzram_testkit::zram::InProcess;

const PAGE: usize = 4096;
const BLOCK_STATE: &str = "/sys/kernel/debug/zram/zram0/block_state";

/// The outcome of a step: what was read, or an errno.
pub(crate) type Outcome = Result<Vec<u8>, i32>;

/// One side: `zram0` and `zram-control/`.
pub(crate) trait Side {
    /// Reads an attribute.
    fn show(&mut self, name: &str) -> Outcome;
    /// Writes an attribute.
    fn store(&mut self, name: &str, value: &[u8]) -> Result<(), i32>;
    /// Writes a page.
    fn write(&mut self, page: u64, bytes: &[u8]) -> Result<(), i32>;
    /// Reads a page.
    fn read(&mut self, page: u64) -> Outcome;
    /// Discards a page.
    fn discard(&mut self, page: u64) -> Result<(), i32>;
    /// Reads `block_state`.
    fn blocks(&mut self) -> Outcome;
    /// A block device of its own for backing.
    fn backing(&self) -> &str;
}

/// The facts about a kernel's zram.
#[derive(Debug, Clone)]
pub(crate) struct Facts {
    /// Major and minor number of the version.
    pub(crate) release: (u32, u32),
    /// Which of the model's attributes it has.
    pub(crate) attributes: BTreeSet<&'static str>,
    /// Its algorithms.
    pub(crate) algorithms: Vec<String>,
    /// The algorithm of a new device.
    pub(crate) default: Option<String>,
    /// Whether it keeps the ages of accesses.
    pub(crate) ages: bool,
    /// Whether it shows `block_state`: with CONFIG_ZRAM_MEMORY_TRACKING, where debugfs is mounted.
    pub(crate) blocks: bool,
    /// Whether there are block devices for backing.
    pub(crate) backing: bool,
}

impl Facts {
    pub(crate) fn has(&self, name: &str) -> bool {
        self.attributes.contains(name)
    }
}

/// `/sys/block/zram0`, for this process alone.
pub(crate) struct Kernel {
    backing: String,
    _lock: File,
}

fn errno(error: &io::Error) -> i32 {
    error.raw_os_error().unwrap_or(5)
}

fn path(name: &str) -> PathBuf {
    match name.strip_prefix("zram-control/") {
        Some(name) => PathBuf::from("/sys/class/zram-control").join(name),
        None => PathBuf::from("/sys/block/zram0").join(name),
    }
}

impl Kernel {
    /// Takes it for this process. The error says why that is not possible here.
    pub(crate) fn take(backing: &str) -> Result<(Kernel, Facts), String> {
        let text =
            |path: &str| fs::read_to_string(path).map_err(|error| format!("{path}: {error}"));
        if !rustix::process::geteuid().is_root() {
            return Err("not root".into());
        }
        // No lock on the node itself: a device that is open cannot be reset.
        let lock = std::env::temp_dir().join("uzram-kernel-zram0.lock");
        let lock = OpenOptions::new()
            .create(true)
            .truncate(false)
            .write(true)
            .open(lock);
        let lock = lock.map_err(|error| error.to_string())?;
        let disksize = text("/sys/block/zram0/disksize")?;
        flock(&lock, FlockOperation::LockExclusive).map_err(|error| error.to_string())?;
        if disksize != "0\n" {
            return Err("the kernel's zram0 is in use".into());
        }
        let version = text("/proc/sys/kernel/osrelease")?;
        let mut numbers = version.split('.').map(|n| n.parse().unwrap_or(0));
        let release = (numbers.next().unwrap_or(0), numbers.next().unwrap_or(0));
        let has = |name: &str| path(name).exists();
        let names = ATTRIBUTES.iter().map(|attribute| attribute.name);
        let names = names.filter(|name| has(name) || has(&format!("zram-control/{name}")));
        let list = text("/sys/block/zram0/comp_algorithm")?;
        let default = list.split(['[', ']']).nth(1).map(str::to_owned);
        let list = list.replace(['[', ']'], "");
        let mut kernel = Kernel {
            backing: backing.into(),
            _lock: lock,
        };
        let sized = kernel.store("disksize", b"1M");
        sized.map_err(|errno| format!("disksize: errno {errno}"))?;
        let ages = kernel.store("idle", b"5").is_ok();
        let facts = Facts {
            ages,
            blocks: Path::new(BLOCK_STATE).exists(),
            release,
            attributes: names.collect(),
            algorithms: list.split_whitespace().map(str::to_owned).collect(),
            default,
            backing: !backing.is_empty(),
        };
        Ok((kernel, facts))
    }

    fn node(&self) -> Result<File, i32> {
        let mut options = OpenOptions::new();
        options.read(true).write(true);
        options.custom_flags(OFlags::DIRECT.bits() as i32);
        options.open("/dev/zram0").map_err(|error| errno(&error))
    }
}

/// The part of a buffer of two pages that begins at a page.
fn aligned(buffer: &mut [u8]) -> &mut [u8] {
    let from = buffer.as_ptr().align_offset(PAGE);
    &mut buffer[from..from + PAGE]
}

impl Side for Kernel {
    fn show(&mut self, name: &str) -> Outcome {
        let mut bytes = Vec::new();
        let file = File::open(path(name));
        let read = file.and_then(|mut file| file.read_to_end(&mut bytes));
        read.map(|_| bytes).map_err(|error| errno(&error))
    }

    fn store(&mut self, name: &str, value: &[u8]) -> Result<(), i32> {
        let file = OpenOptions::new().write(true).open(path(name));
        // One write, whatever its result.
        let written = file.and_then(|mut file| file.write(value));
        written.map(drop).map_err(|error| errno(&error))
    }

    fn write(&mut self, page: u64, bytes: &[u8]) -> Result<(), i32> {
        let mut buffer = vec![0; 2 * PAGE];
        let buffer = aligned(&mut buffer);
        buffer.copy_from_slice(bytes);
        let written = self.node()?.write_all_at(buffer, page * PAGE as u64);
        written.map_err(|error| errno(&error))
    }

    fn read(&mut self, page: u64) -> Outcome {
        let mut buffer = vec![0; 2 * PAGE];
        let buffer = aligned(&mut buffer);
        let read = self.node()?.read_exact_at(buffer, page * PAGE as u64);
        read.map(|()| buffer.to_vec())
            .map_err(|error| errno(&error))
    }

    fn discard(&mut self, page: u64) -> Result<(), i32> {
        let flags = FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE;
        let done = fallocate(self.node()?, flags, page * PAGE as u64, PAGE as u64);
        done.map_err(|error| error.raw_os_error())
    }

    fn blocks(&mut self) -> Outcome {
        // The kernel ends a read before a line that does not fit.
        let mut bytes = vec![0; 1 << 20];
        let mut at = 0;
        let mut file = File::open(BLOCK_STATE).map_err(|error| errno(&error))?;
        loop {
            match file.read(&mut bytes[at..]).map_err(|error| errno(&error))? {
                0 => break,
                more => at += more,
            }
        }
        bytes.truncate(at);
        Ok(bytes)
    }

    fn backing(&self) -> &str {
        &self.backing
    }
}

impl Drop for Kernel {
    fn drop(&mut self) {
        let _ = self.store("reset", b"1");
    }
}

/// The model, with one device.
pub(crate) struct Model {
    host: Host,
    engine: InProcess,
    backing: String,
    /// The kernel's default algorithm, if it is another than ours.
    default: Option<String>,
}

impl Model {
    /// Makes the model behave as the kernel that `facts` describe.
    pub(crate) fn new(backing: &str, facts: &Facts) -> Model {
        let engine = InProcess::new();
        let host = Host::new(Box::new(engine.clone()), HostOptions { strict: true });
        host.hot_add().expect("a device");
        Model {
            host,
            engine,
            backing: backing.into(),
            default: facts.default.clone(),
        }
    }
}

fn owner(name: &str) -> (AttributeOwner, &str) {
    match name.strip_prefix("zram-control/") {
        Some(name) => (AttributeOwner::Control, name),
        None => (AttributeOwner::Device(0), name),
    }
}

impl Side for Model {
    fn show(&mut self, name: &str) -> Outcome {
        let (owner, name) = owner(name);
        self.host
            .show(owner, name)
            .map_err(|error| error.raw_os_error())
    }

    fn store(&mut self, name: &str, value: &[u8]) -> Result<(), i32> {
        let (owner, name) = owner(name);
        let done = self.host.store(owner, name, value);
        if let ("reset", Ok(()), Some(default)) = (name, &done, &self.default) {
            let owner = AttributeOwner::Device(0);
            let set = self.host.store(owner, "comp_algorithm", default.as_bytes());
            set.map_err(|error| error.errno.raw_os_error())?;
        }
        done.map_err(|error| error.errno.raw_os_error())
    }

    fn write(&mut self, page: u64, bytes: &[u8]) -> Result<(), i32> {
        let device = self.engine.open(0).ok_or(6)?;
        device
            .write_at(bytes, page * PAGE as u64)
            .map_err(|error| error.errno())
    }

    fn read(&mut self, page: u64) -> Outcome {
        let device = self.engine.open(0).ok_or(6)?;
        let mut bytes = vec![0; PAGE];
        let read = device.read_at(&mut bytes, page * PAGE as u64);
        read.map(|()| bytes).map_err(|error| error.errno())
    }

    fn discard(&mut self, page: u64) -> Result<(), i32> {
        let device = self.engine.open(0).ok_or(6)?;
        device
            .discard(page * PAGE as u64, PAGE as u64)
            .map_err(|error| error.errno())
    }

    fn blocks(&mut self) -> Outcome {
        let (mut all, mut from) = (Vec::new(), 0);
        loop {
            // In pieces, each of which continues where the last ended.
            let some = self.host.block_state(0, from, 300);
            let (lines, next) = some.map_err(|error| error.raw_os_error())?;
            if lines.is_empty() {
                return Ok(all);
            }
            all.extend(lines);
            from = next;
        }
    }

    fn backing(&self) -> &str {
        &self.backing
    }
}

/// A side that falsifies one outcome, to test the test.
pub(crate) struct Liar<S> {
    pub(crate) side: S,
    /// The attribute, the value written (`None`: a read), and how the outcome is falsified.
    pub(crate) lie: (&'static str, Option<&'static str>, fn(Outcome) -> Outcome),
}

impl<S: Side> Side for Liar<S> {
    fn show(&mut self, name: &str) -> Outcome {
        let truth = self.side.show(name);
        match self.lie {
            (about, None, lie) if about == name => lie(truth),
            _ => truth,
        }
    }

    fn store(&mut self, name: &str, value: &[u8]) -> Result<(), i32> {
        let truth = self.side.store(name, value);
        match self.lie {
            (about, Some(text), lie) if about == name && text.as_bytes() == value => {
                lie(truth.map(|()| Vec::new())).map(drop)
            }
            _ => truth,
        }
    }

    fn write(&mut self, page: u64, bytes: &[u8]) -> Result<(), i32> {
        self.side.write(page, bytes)
    }

    fn read(&mut self, page: u64) -> Outcome {
        self.side.read(page)
    }

    fn discard(&mut self, page: u64) -> Result<(), i32> {
        self.side.discard(page)
    }

    fn blocks(&mut self) -> Outcome {
        self.side.blocks()
    }

    fn backing(&self) -> &str {
        self.side.backing()
    }
}

/// The facts about a kernel that has everything.
pub(crate) fn facts_of_all() -> Facts {
    let devices = ATTRIBUTES
        .iter()
        .filter(|a| a.place == AttributePlace::Device);
    Facts {
        ages: true,
        blocks: true,
        release: (7, 1),
        attributes: devices.map(|attribute| attribute.name).collect(),
        algorithms: uzram_control::zram::algorithm_names(true)
            .into_iter()
            .map(str::to_owned)
            .collect(),
        default: None,
        backing: false,
    }
}
