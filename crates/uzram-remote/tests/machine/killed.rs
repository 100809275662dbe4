//! A process that has a device, its backing and the snapshots of a bucket, killed before or after a call of its store, several
//! times on one image: each page is the version that was acknowledged last, or the one that was begun; each tag is the
//! snapshot that was acknowledged last, or the one that was begun, and whole; and both go on.

use std::fs::File;
use std::io;
use std::ops::{ControlFlow, Range};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::sync::atomic::Ordering::SeqCst;
use std::time::{Duration, SystemTime};

use rustix::process::{Signal, getpid, kill_process};
use uzram::uzram_backing::{Disk, StoreDisk};
use uzram::{
    BackingOptions, CutOptions, Device, DiskOpener, FRAME_PAGES, Fetchers, PAGE_SIZE, RemoteOptions,
};
use uzram_remote::{
    BackingUser, Checking, Collecting, DirStore, Meta, Progress, Remote, RemoteBacking,
    RemoteConfig, Store, StoreError, Uploading, Version, When,
};
use uzram_runtime::snapshot::Taking;
use uzram_snapshot::{Digest, Snapshot};
use uzram_testkit::algorithm::with_self_trained;

use crate::clone::pages_of;
use crate::host::{NewDevice, text};
use crate::ledger::Ledger;
use crate::op::{Maker, choice};
use crate::random::{Random, is_discard, version, version_of};
use crate::seeds::{Totals, Wrong};
use crate::subject::{self, PAGE, attach_by};

const IMAGE: &str = "UZRAM_MACHINE_IMAGE";
const DIRECTORY: &str = "UZRAM_MACHINE_DIRECTORY";
const SEED: &str = "UZRAM_MACHINE_CHILD_SEED";
/// How often an image is killed.
const KILLS: u64 = 4;
/// At which call, at most.
const CALLS: u64 = 160;
/// What a process does that nobody kills.
const STEPS: u64 = 60;
const TAGS: [&str; 3] = ["a", "b", "c"];
/// The snapshot that a clone is of.
const ORIGIN: &str = "origin";
/// The backing: its prefix, its bytes, and how long a read waits.
const PREFIX: &str = "cold";
const STORE_BYTES: u64 = 64 << 20;
const TIMEOUT: Duration = Duration::from_secs(10);
/// Pages that are fetched together.
const FRAME: u64 = FRAME_PAGES as u64;
/// What stands where a tag is removed.
const NONE: &str = "none";

/// A store in a directory that ends its process at a call.
struct Deadly {
    inner: DirStore,
    left: AtomicU64,
    /// Whether the call is carried out before.
    is_done: bool,
}

impl Deadly {
    fn call<T>(&self, call: impl FnOnce(&DirStore) -> T) -> T {
        if self.left.fetch_sub(1, SeqCst) != 1 {
            return call(&self.inner);
        }
        if self.is_done {
            drop(call(&self.inner));
        }
        let _ = kill_process(getpid(), Signal::KILL);
        // It is on its way.
        loop {
            std::thread::park();
        }
    }
}

impl Store for Deadly {
    fn put(&self, key: &str, bytes: &[u8], when: &When) -> Result<Version, StoreError> {
        self.call(|inner| inner.put(key, bytes, when))
    }
    fn get(&self, key: &str, max: u64) -> Result<(Vec<u8>, Version), StoreError> {
        self.call(|inner| inner.get(key, max))
    }
    fn get_range(&self, key: &str, range: Range<u64>) -> Result<Vec<u8>, StoreError> {
        self.call(|inner| inner.get_range(key, range))
    }
    fn head(&self, key: &str) -> Result<Meta, StoreError> {
        self.call(|inner| inner.head(key))
    }
    fn list(&self, prefix: &str) -> Result<Vec<Meta>, StoreError> {
        self.call(|inner| inner.list(prefix))
    }
    fn delete(&self, key: &str) -> Result<(), StoreError> {
        self.call(|inner| inner.delete(key))
    }
    fn is_near(&self) -> bool {
        true
    }
}

/// What parent and children have in common.
struct Place(PathBuf);

impl Place {
    fn file(&self, name: &str) -> PathBuf {
        self.0.join(name)
    }

    fn ledger(&self, follow: bool) -> Result<Ledger, Wrong> {
        Ledger::load(&self.file("ledger"), follow).map_err(text)
    }

    fn store(&self) -> Result<DirStore, Wrong> {
        DirStore::open(self.file("bucket")).map_err(text)
    }

    fn remote(&self, store: Arc<dyn Store>) -> Remote {
        let url = format!("file:{}", self.file("bucket").display());
        let mut config = RemoteConfig::new(&url);
        config.conditional = true;
        Remote::from_store("r", config, store)
    }

    fn note(&self, name: &str, words: &str) -> Result<(), Wrong> {
        // One small write: it is there as a whole, whatever becomes of this process.
        let part = self.file(&format!("{name}.part"));
        std::fs::write(&part, words).map_err(text)?;
        std::fs::rename(&part, self.file(name)).map_err(text)
    }

    fn noted(&self, name: &str) -> Option<String> {
        std::fs::read_to_string(self.file(name)).ok()
    }

    fn user(&self) -> BackingUser {
        BackingUser {
            id: [7; 16],
            device: "zram0".into(),
            identity: "zram0".into(),
            description: String::new(),
        }
    }

    /// The backing of the device, as whoever takes it over finds it.
    fn backing(&self, remote: &Remote, is_new: bool) -> Result<Arc<RemoteBacking>, Wrong> {
        let opened = remote.open_backing(PREFIX, &self.user(), is_new);
        opened.map(Arc::new).map_err(text)
    }

    fn map(&self) -> io::Result<File> {
        let mut options = File::options();
        options.read(true).write(true).create(true).truncate(false);
        options.open(self.file("map"))
    }

    /// A device of the image, with its backing, if it has one, and its source, if it needs one.
    fn take_over(&self, image: &Path, remote: &Remote) -> Result<Server, Wrong> {
        let backing = match self.noted("backing") {
            Some(_) => Some(self.backing(remote, false)?),
            None => None,
        };
        let opener = backing.clone().map(|backing| {
            Arc::new(Opener {
                map: self.map().expect("the map"),
                backing,
            })
        });
        let device = attach_by(image, || {
            let builder = Device::builder(0).streams(2);
            match &opener {
                Some(opener) => builder.disk_opener(opener.clone()),
                None => builder,
            }
        });
        let device = Arc::new(device.map_err(text)?);
        ensure!(
            device.zram().backing_lost().is_none(),
            "the backing is lost"
        );
        let mut lease = None;
        if device.remote_pages() > 0 {
            let origin = self.noted(ORIGIN).ok_or("a clone of nothing")?;
            let origin: Digest = origin.parse().map_err(text)?;
            lease = remote.lease(origin, "a device").map_err(text)?;
            let pages = pages_of(remote, origin)?;
            device.set_source(Arc::new(pages), RemoteOptions::default());
        }
        let fetchers = Fetchers::start(&device).map_err(text)?;
        Ok(Server {
            device,
            backing,
            fetchers,
            _lease: lease,
        })
    }
}

/// A device and what it has beside it.
struct Server {
    device: Arc<Device>,
    backing: Option<Arc<RemoteBacking>>,
    fetchers: Fetchers,
    _lease: Option<uzram_remote::Lease>,
}

impl Server {
    /// Ends as a process does that leaves the backing to the next one.
    fn close(self) -> Result<(), Wrong> {
        subject::close(self.device, Some(self.fetchers))?;
        if let Some(backing) = &self.backing {
            backing.leave();
        }
        Ok(())
    }
}

struct Opener {
    map: File,
    backing: Arc<RemoteBacking>,
}

impl DiskOpener for Opener {
    fn open(&self, _: &Path) -> Option<io::Result<Arc<dyn Disk>>> {
        let map = self.map.try_clone();
        let disk = map.and_then(|map| StoreDisk::open(self.backing.clone(), map));
        Some(disk.map(|disk| Arc::new(disk) as Arc<dyn Disk>))
    }
}

/// A directory in memory, where there is one: each object is synced.
fn directory() -> io::Result<tempfile::TempDir> {
    let builder = tempfile::Builder::new();
    match Path::new("/dev/shm").is_dir() {
        true => builder.tempdir_in("/dev/shm"),
        false => builder.tempdir(),
    }
}

/// One seed: an image, a bucket, and the processes that die with them.
pub(crate) fn one(seed: u64) -> Result<Totals, Wrong> {
    let mut random = Random::new(seed);
    let directory = directory().map_err(text)?;
    let place = Place(directory.path().into());
    std::fs::create_dir(place.file("bucket")).map_err(text)?;
    let store: Arc<dyn Store> = Arc::new(place.store()?);
    let marker = br#"{"uzram":"remote","version":1}"#;
    let marked = store.put("uzram.json", marker, &When::New);
    marked.map_err(text)?;
    let remote = place.remote(store);
    let pages = random.within(40, 400);
    let ledger = Ledger::new(pages);
    let image = match random.percent(50) {
        true => first_clone(&place, &remote, &ledger, &mut random)?,
        false => {
            let choice = choice(random.below(64));
            NewDevice::make(&mut random, pages, choice, false)
        }
    };
    ledger.save(&place.file("ledger")).map_err(text)?;
    let path = image.path.clone();
    // Only the image stays.
    drop(image.device);
    let mut totals = Totals::new();
    for kill in 0..KILLS {
        let dies_at = random.within(1, CALLS);
        run_child(&place, &path, seed ^ kill << 56, dies_at)?;
        age_leases(&place)?;
        // What is read is not remote any more: at last all of it.
        let all = kill + 1 == KILLS;
        let found = check(&place, &path, &remote, |_| all || random.percent(30));
        let found =
            found.map_err(|wrong| format!("after kill {kill} at call {dies_at}: {wrong}"))?;
        for (what, count) in found {
            *totals.entry(what).or_default() += count;
        }
        *totals.entry("kills").or_default() += 1;
    }
    Ok(totals)
}

/// A clone of a snapshot that holds a version of each page.
fn first_clone(
    place: &Place,
    remote: &Remote,
    ledger: &Ledger,
    random: &mut Random,
) -> Result<NewDevice, Wrong> {
    let pages = ledger.pages();
    let choice = choice(random.below(64));
    let origin = NewDevice::make(random, pages, choice.clone(), false);
    for page in 0..pages {
        let first = random.below(32) as u32;
        let bytes = version(page, first);
        origin.device.write_at(&bytes, page * PAGE).map_err(text)?;
        ledger.begin(page, first);
        ledger.acknowledge(page, first);
    }
    let name = upload(place, remote, &origin.device, ORIGIN, ledger, None, false)?;
    place.note(ORIGIN, &name.to_string())?;
    let mut new = NewDevice::make(random, pages, choice, true);
    let cloned = pages_of(remote, name)?.clone_to(&mut new.device);
    cloned.map_err(text)?;
    // From here on a lease keeps it.
    remote.remove_tag(ORIGIN).map_err(text)?;
    Ok(new)
}

/// Takes a snapshot, with the versions that it has written down before it has its tag.
fn upload(
    place: &Place,
    remote: &Remote,
    device: &Device,
    tag: &str,
    ledger: &Ledger,
    parent: Option<Snapshot>,
    track: bool,
) -> Result<Digest, Wrong> {
    let mut options = CutOptions::new(None);
    options.track = track;
    let taking = Taking {
        device,
        name: "zram0",
        options,
        parent,
        more: false,
    };
    let wrap = |wrong: Wrong| io::Error::other(wrong);
    let safe = |stream: Vec<u8>| {
        let name = Snapshot::open(stream.clone()).map_err(io::Error::other)?;
        let name = name.name();
        let versions = (0..ledger.pages()).map(|page| ledger.acknowledged(page).to_string());
        let versions: Vec<String> = versions.collect();
        place
            .note(&format!("versions-{name}"), &versions.join("\n"))
            .map_err(wrap)?;
        place
            .note(&format!("begun-{tag}"), &name.to_string())
            .map_err(wrap)?;
        let uploading = Uploading {
            tag,
            force: true,
            device: "zram0",
        };
        let uploaded = uploading.upload(remote, &stream[..], &Progress::default());
        uploaded.map_err(io::Error::other)?;
        place
            .note(&format!("acked-{tag}"), &name.to_string())
            .map_err(wrap)
    };
    let report = taking.write(|_| Vec::new(), safe).map_err(text)?;
    report.name.parse().map_err(text)
}

/// The dead are dead for long enough, but for the device: its backing is its own.
fn age_leases(place: &Place) -> Result<(), Wrong> {
    let past = SystemTime::now() - Duration::from_secs(3600);
    let leases = std::fs::read_dir(place.file("bucket/lease"));
    for lease in leases.into_iter().flatten().flatten() {
        if lease.file_name().to_string_lossy().starts_with("cold-") {
            continue;
        }
        let file = File::options()
            .write(true)
            .open(lease.path())
            .map_err(text)?;
        file.set_modified(past).map_err(text)?;
    }
    Ok(())
}

fn run_child(place: &Place, image: &Path, seed: u64, dies_at: u64) -> Result<(), Wrong> {
    let status = Command::new(std::env::current_exe().map_err(text)?)
        .args(["--exact", "killed_child", "--nocapture", "--quiet"])
        .env(IMAGE, image)
        .env(DIRECTORY, &place.0)
        .env(SEED, format!("{seed} {dies_at}"))
        .stdout(Stdio::null())
        .status()
        .map_err(text)?;
    match place.noted("wrong") {
        Some(wrong) => Err(format!("in the child: {wrong}")),
        None if status.success() || status.code().is_none() => Ok(()),
        None => Err(format!("the child ended by itself: {status}")),
    }
}

/// Compares pages and tags with what was acknowledged, and takes over what was found.
fn check(
    place: &Place,
    image: &Path,
    remote: &Remote,
    mut is_read: impl FnMut(u64) -> bool,
) -> Result<Totals, Wrong> {
    let mut totals = Totals::new();
    let server = place.take_over(image, remote)?;
    let stats = server.device.stats();
    totals.insert("pages on the backing", stats.backed_pages);
    totals.insert("remote pages", server.device.remote_pages());
    let ledger = place.ledger(false)?;
    let settled = |page: &u64| ledger.acknowledged(*page) == ledger.begun(*page);
    let frames = 0..ledger.pages().div_ceil(FRAME);
    let frames = frames.map(|frame| frame * FRAME..ledger.pages().min((frame + 1) * FRAME));
    let is_clone = server.device.remote_pages() > 0;
    let frames: Vec<_> = frames
        .filter(|pages| !is_clone || is_read(pages.start) || !pages.clone().all(|at| settled(&at)))
        .collect();
    for page in frames.into_iter().flatten() {
        let mut bytes = [0xEE; PAGE_SIZE];
        let read = server.device.read_at(&mut bytes, page * PAGE);
        read.map_err(|error| format!("page {page}: {error}"))?;
        let may = [ledger.acknowledged(page), ledger.begun(page)];
        let found = match version_of(page, &bytes) {
            Some(0) => may.into_iter().find(|version| is_discard(*version)),
            Some(version) => may.contains(&version).then_some(version),
            None => None,
        };
        let found = found.ok_or_else(|| {
            let is = version_of(page, &bytes);
            format!("page {page} is {is:?}, not one of {may:?}")
        })?;
        ledger.acknowledge(page, found);
        *totals.entry("versions").or_default() += u64::from(found > 0);
    }
    ledger.save(&place.file("ledger")).map_err(text)?;
    server.close()?;
    for tag in TAGS {
        *totals.entry("tags").or_default() += check_tag(place, remote, tag)?;
    }
    let (tags, wrong) = remote.tags().map_err(text)?;
    ensure!(wrong.is_empty(), "{wrong:?}");
    for tag in &tags {
        let whole = Checking { read: true }.run(remote, tag, None);
        whole.map_err(|error| format!("tag {}: {error}", tag.tag))?;
    }
    Ok(totals)
}

/// Whether a tag is there. It is what was acknowledged, or what was begun.
fn check_tag(place: &Place, remote: &Remote, tag: &str) -> Result<u64, Wrong> {
    let noted = |what: &str| {
        let words = place.noted(&format!("{what}-{tag}"));
        words.unwrap_or_else(|| NONE.into())
    };
    let may = [noted("acked"), noted("begun")];
    let found = remote.find_tag(tag).map_err(text)?;
    let is = found
        .as_ref()
        .map_or(NONE, |found| &found.body.manifest)
        .to_owned();
    ensure!(may.contains(&is), "{tag} is {is}, not one of {may:?}");
    for what in ["acked", "begun"] {
        place.note(&format!("{what}-{tag}"), &is)?;
    }
    if found.is_none() {
        return Ok(0);
    }
    let opened = remote.open_tag(tag, None, "check").map_err(text)?;
    let mut snapshot = opened.snapshot().map_err(text)?;
    let registry = with_self_trained();
    let builder = Device::builder(snapshot.head().pages * PAGE).registry(registry.clone());
    let mut device = builder.build().map_err(text)?;
    snapshot
        .restore_to(&mut device, &registry)
        .map_err(|error| format!("{tag}: {error}"))?;
    let versions = place.noted(&format!("versions-{is}"));
    let versions = versions.ok_or_else(|| format!("{tag}: nobody took {is}"))?;
    for (page, expected) in (0..).zip(versions.lines()) {
        let expected: u32 = expected.parse().map_err(text)?;
        let mut bytes = [0xEE; PAGE_SIZE];
        device.read_at(&mut bytes, page * PAGE).map_err(text)?;
        ensure!(
            bytes == version(page, expected),
            "{tag}: page {page} is {:?}, not version {expected}",
            version_of(page, &bytes)
        );
    }
    Ok(1)
}

/// The process that is killed.
pub(crate) fn child() {
    let variable = |name| std::env::var(name).ok();
    let (Some(image), Some(directory), Some(seed)) =
        (variable(IMAGE), variable(DIRECTORY), variable(SEED))
    else {
        return;
    };
    let place = Place(directory.into());
    let numbers = seed.split_once(' ').expect("two numbers");
    let seed: u64 = numbers.0.parse().expect("a seed");
    let dies_at: u64 = numbers.1.parse().expect("a call");
    let told = Place(place.0.clone());
    let ended = std::panic::catch_unwind(|| work(&place, Path::new(&image), seed, dies_at));
    if let Err(wrong) = ended.unwrap_or_else(|_| Err("a panic, told above".into())) {
        let _ = told.note("wrong", &wrong);
    }
    // Nothing is given back.
    std::process::exit(0);
}

/// One who works on a device.
struct Worker<'a> {
    place: &'a Place,
    remote: Remote,
    server: Server,
    ledger: Ledger,
    random: Random,
}

fn work(place: &Place, image: &Path, seed: u64, dies_at: u64) -> Result<(), Wrong> {
    let mut random = Random::new(seed);
    let store = Deadly {
        inner: place.store()?,
        left: AtomicU64::new(dies_at),
        is_done: random.percent(50),
    };
    let remote = place.remote(Arc::new(store));
    let mut worker = Worker {
        server: place.take_over(image, &remote)?,
        ledger: place.ledger(true)?,
        place,
        remote,
        random,
    };
    for _ in 0..STEPS {
        worker.step()?;
    }
    Ok(())
}

impl Worker<'_> {
    fn step(&mut self) -> Result<(), Wrong> {
        match self.random.below(20) {
            0..8 => {
                let count = self.random.within(1, 12);
                (0..count).try_for_each(|_| self.write())
            }
            8..12 => self.memory(),
            12..16 => self.snapshot(),
            16 => {
                let go_on = &mut |_| ControlFlow::Continue(());
                let hydrated = self.server.device.jobs().hydrate(go_on);
                hydrated.map(drop).map_err(text)
            }
            17 => {
                let grace = Duration::ZERO;
                let dry_run = false;
                let collected = Collecting { grace, dry_run }.run(&self.remote);
                collected.map(drop).map_err(text)
            }
            18 => self.remove_tag(),
            _ => self.attach(),
        }
    }

    fn write(&mut self) -> Result<(), Wrong> {
        let page = self.random.below(self.ledger.pages());
        let next = self.ledger.begun(page) + 1;
        self.ledger.begin(page, next);
        let device = &self.server.device;
        let done = match is_discard(next) {
            true => device.discard(page * PAGE, PAGE),
            false => device.write_at(&version(page, next), page * PAGE),
        };
        done.map_err(text)?;
        self.ledger.acknowledge(page, next);
        Ok(())
    }

    fn memory(&mut self) -> Result<(), Wrong> {
        let mut maker = Maker {
            random: self.random.clone(),
            pages: self.ledger.pages(),
            lying: false,
        };
        let memory = maker.memory_unlimited();
        self.random = maker.random;
        // What may be refused is the business of the device's own machine.
        let _ = subject::run(&self.server.device, &memory);
        Ok(())
    }

    fn snapshot(&mut self) -> Result<(), Wrong> {
        let device = self.server.device.clone();
        if device.remote_pages() > 0 {
            return Ok(());
        }
        let tag = *self.random.pick(&TAGS);
        let (tags, _) = self.remote.tags().map_err(text)?;
        let since = device.tracked_since();
        let mut parents = tags.iter();
        let parent = parents.find(|found| {
            let name = found.body.name();
            name.is_ok_and(|name| since.is_some_and(|id| name.0.starts_with(&id)))
        });
        let parent = match parent.filter(|_| self.random.percent(70)) {
            None => None,
            Some(found) => {
                let opened = self.remote.open_tag(&found.tag, None, "since");
                let mut index = Vec::new();
                let opened = opened.map_err(text)?;
                opened.write_index(&mut index).map_err(text)?;
                Some(Snapshot::open(index).map_err(text)?)
            }
        };
        let (remote, ledger) = (&self.remote, &self.ledger);
        upload(self.place, remote, &device, tag, ledger, parent, true).map(drop)
    }

    fn remove_tag(&mut self) -> Result<(), Wrong> {
        let tag = *self.random.pick(&TAGS);
        if self.remote.find_tag(tag).map_err(text)?.is_none() {
            return Ok(());
        }
        self.place.note(&format!("begun-{tag}"), NONE)?;
        self.remote.remove_tag(tag).map_err(text)?;
        self.place.note(&format!("acked-{tag}"), NONE)
    }

    fn attach(&mut self) -> Result<(), Wrong> {
        let device = self.server.device.clone();
        if device.zram().backing().is_some() {
            return Ok(());
        }
        if let Some(unused) = self.server.backing.take() {
            // A process that died between the two has taken it.
            unused.leave();
        }
        let backing = self.place.backing(&self.remote, true)?;
        let map = self.place.map().map_err(text)?;
        map.set_len(0).map_err(text)?;
        let disk = StoreDisk::create(backing.clone(), map, self.place.user().id, TIMEOUT);
        let disk: Arc<dyn Disk> = Arc::new(disk.map_err(text)?);
        let options = BackingOptions {
            size_bytes: Some(STORE_BYTES),
            seal: self.random.percent(30),
        };
        self.place.note("backing", "there")?;
        let attached = device
            .zram()
            .attach_disk(Path::new("r/cold"), disk, options);
        attached.map_err(text)?;
        self.server.backing = Some(backing);
        Ok(())
    }
}
