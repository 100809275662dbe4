//! A process in which everything happens at once (`concurrent`) is killed at a random moment, several times on one image: each
//! page is the version that was acknowledged last, or the one that was begun, and the image goes on.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use uzram::{CutOptions, Error, PAGE_SIZE, SnapshotId};

use crate::concurrent::{World, settle, setup};
use crate::ledger::Ledger;
use crate::random::{Random, is_discard, version_of};
use crate::seeds::{Totals, Wrong};
use crate::subject::{self, PAGE, Setup, Subject};

const IMAGE: &str = "UZRAM_MACHINE_IMAGE";
const DIRECTORY: &str = "UZRAM_MACHINE_DIRECTORY";
const SEED: &str = "UZRAM_MACHINE_CHILD_SEED";
/// How often an image is killed.
const KILLS: u64 = 4;

/// One seed: an image, and the processes that die with it.
pub(crate) fn one(seed: u64) -> Result<Totals, Wrong> {
    let mut random = Random::new(seed);
    let setup = setup(&mut random);
    let text = |error: Error| error.to_string();
    let mut subject = Subject::new(&setup).map_err(text)?;
    Ledger::new(setup.pages)
        .save(&subject.directory().join("ledger"))
        .map_err(|e| e.to_string())?;
    let mut totals = Totals::new();
    for kill in 0..KILLS {
        subject.close();
        let time = Duration::from_millis(random.within(1, 120));
        run_child(&subject, seed ^ kill << 56, time)?;
        subject
            .open()
            .map_err(|error| format!("after kill {kill}: {error}\n{setup:?}"))?;
        let versions = check(&subject, &setup)
            .map_err(|wrong| format!("after kill {kill}: {wrong}\n{setup:?}"))?;
        *totals.entry("unchanged").or_default() += check_changes(&subject)
            .map_err(|wrong| format!("after kill {kill}: {wrong}\n{setup:?}"))?;
        *totals.entry("kills").or_default() += 1;
        *totals.entry("versions").or_default() += versions;
        *totals.entry("on the backing").or_default() += subject.device().stats().backed_pages;
    }
    settle(&subject).map_err(|wrong| format!("at the end: {wrong}\n{setup:?}"))?;
    Ok(totals)
}

/// Keeps which versions a snapshot has, for who finds the image later.
pub(crate) fn save_basis(
    directory: &Path,
    id: &SnapshotId,
    versions: &BTreeMap<u64, Option<u32>>,
) -> Result<(), Wrong> {
    let line = |(page, version): (&u64, &Option<u32>)| {
        let version = version.unwrap_or_default();
        format!("{page} {version}\n")
    };
    let text: String = versions.iter().map(line).collect();
    std::fs::write(basis_path(directory, id), text).map_err(|e| e.to_string())
}

fn basis_path(directory: &Path, id: &SnapshotId) -> PathBuf {
    let name: String = id.iter().map(|byte| format!("{byte:02x}")).collect();
    directory.join(format!("basis-{name}"))
}

/// What is not marked as changed since a snapshot is what that has. Returns how many pages are.
fn check_changes(subject: &Subject) -> Result<u64, Wrong> {
    let device = subject.device();
    let Some(since) = device.tracked_since().filter(|id| *id != [0; 16]) else {
        return Ok(0);
    };
    let text = |error: Error| error.to_string();
    let basis = std::fs::read_to_string(basis_path(&subject.directory(), &since));
    let basis = basis.map_err(|error| format!("what changes are since: {error}"))?;
    let mut options = CutOptions::new(None);
    options.since = Some(since);
    let mut cut = device.cut(&options).map_err(text)?;
    let mut changed = BTreeMap::new();
    let mut note = |frame: u32, bits: u64| {
        changed.insert(u64::from(frame), bits);
        Ok::<u64, Error>(bits)
    };
    while cut.next_changed_frame(&mut note).map_err(text)?.is_some() {}
    // It is not recorded: the next one is since the same.
    drop(cut);
    let mut unchanged = 0;
    for line in basis.lines() {
        let (page, version) = line.split_once(' ').ok_or("a line of a basis")?;
        let page: u64 = page.parse().map_err(|_| "a page of a basis")?;
        let version: u32 = version.parse().map_err(|_| "a version of a basis")?;
        if changed
            .get(&(page / 64))
            .is_some_and(|bits| bits >> (page % 64) & 1 == 1)
        {
            continue;
        }
        let mut bytes = [0xEE; PAGE_SIZE];
        device.read_at(&mut bytes, page * PAGE).map_err(text)?;
        if version_of(page, &bytes) != Some(version) {
            let now = version_of(page, &bytes);
            return Err(format!(
                "page {page} was version {version} in the snapshot, is {now:?}, and is not marked as changed"
            ));
        }
        unchanged += 1;
    }
    Ok(unchanged)
}

fn run_child(subject: &Subject, seed: u64, time: Duration) -> Result<(), Wrong> {
    let started = subject.directory().join("started");
    let _ = std::fs::remove_file(&started);
    let mut child = Command::new(std::env::current_exe().map_err(|e| e.to_string())?)
        .args(["--exact", "crash_child", "--nocapture", "--quiet"])
        .env(IMAGE, subject.image_path())
        .env(DIRECTORY, subject.directory())
        .env(SEED, seed.to_string())
        .stdout(Stdio::null())
        .spawn()
        .map_err(|e| e.to_string())?;
    let end = Instant::now() + Duration::from_secs(30);
    while !started.exists() && Instant::now() < end && matches!(child.try_wait(), Ok(None)) {
        std::thread::sleep(Duration::from_millis(1));
    }
    std::thread::sleep(time);
    let ended = child.try_wait().map_err(|e| e.to_string())?;
    let _ = child.kill();
    let _ = child.wait();
    if let Ok(wrong) = std::fs::read_to_string(subject.directory().join("wrong")) {
        return Err(format!("in the child: {wrong}"));
    }
    match ended {
        None if started.exists() => Ok(()),
        ended => Err(format!(
            "the child ended by itself, or never began: {ended:?}"
        )),
    }
}

/// Compares all versions with what was acknowledged, and takes over what was found. Returns how many pages are of a version.
fn check(subject: &Subject, setup: &Setup) -> Result<u64, Wrong> {
    let path = subject.directory().join("ledger");
    let ledger = Ledger::load(&path, false).map_err(|e| e.to_string())?;
    let mut versions = 0;
    for page in 0..setup.pages {
        let mut bytes = [0xEE; PAGE_SIZE];
        let read = subject.device().read_at(&mut bytes, page * PAGE);
        read.map_err(|error| format!("page {page}: {error}"))?;
        if page % 8 >= 6 {
            continue;
        }
        let (acknowledged, begun) = (ledger.acknowledged(page), ledger.begun(page));
        let may = [acknowledged, begun];
        let found = match version_of(page, &bytes) {
            Some(0) => may.into_iter().find(|version| is_discard(*version)),
            Some(version) => may.contains(&version).then_some(version),
            None => None,
        };
        let found = found.ok_or_else(|| {
            format!(
                "page {page} is {:?}, not {acknowledged} or {begun}",
                version_of(page, &bytes)
            )
        })?;
        ledger.acknowledge(page, found);
        versions += u64::from(found > 0);
    }
    if subject.device().erase_on_free() {
        subject.check_erased()?;
    }
    let stats = subject.device().stats();
    let live = subject
        .device()
        .zram()
        .backing()
        .map_or(0, |backing| backing.stats.live_objects);
    if live != stats.backed_pages {
        return Err(format!("{live} objects on the backing: {stats:?}"));
    }
    ledger.save(&path).map_err(|e| e.to_string())?;
    Ok(versions)
}

/// The process that is killed.
pub(crate) fn child() {
    let variable = |name| std::env::var(name).ok();
    let (Some(image), Some(directory), Some(seed)) =
        (variable(IMAGE), variable(DIRECTORY), variable(SEED))
    else {
        return;
    };
    let directory = Path::new(&directory);
    let ledger = Ledger::load(&directory.join("ledger"), true).expect("the ledger");
    let device = subject::attach(Path::new(&image), 2).expect("the image");
    let store = directory.join("store");
    let mut world = World::new(
        &device,
        &ledger,
        &store,
        None,
        seed.parse().expect("a seed"),
    );
    device.set_mem_limit_bytes(0);
    world.told = Some(directory.join("wrong"));
    std::fs::write(directory.join("started"), []).expect("the directory");
    let ended = world.run(Duration::from_secs(60));
    panic!("nobody killed it: {ended:?}");
}
