//! A process in which everything happens at once (`concurrent`) is killed at a random moment, several times on one image: each
//! page is the version that was acknowledged last, or the one that was begun, and the image goes on.

use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use uzram::{Error, PAGE_SIZE};

use crate::concurrent::{World, settle, setup};
use crate::ledger::Ledger;
use crate::model::{Totals, Wrong};
use crate::random::{Random, is_discard, version_of};
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
        *totals.entry("kills").or_default() += 1;
        *totals.entry("versions").or_default() += versions;
        *totals.entry("on the backing").or_default() += subject.device().stats().backed_pages;
    }
    settle(&subject).map_err(|wrong| format!("at the end: {wrong}\n{setup:?}"))?;
    Ok(totals)
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
