//! `bench snapshot`: the bytes of a snapshot beside what it holds, beside qemu-img's compressed image, and of a second one; what
//! writers notice of the moment that it is of; and how fast a device is made of it.
//!
//! Snapshots are taken and restored by the library, to files in the temporary directory.

use std::fs::File;
use std::io::{self, Write};
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use uzram::compress::Registry;
use uzram::{CutOptions, Device};
use uzram_snapshot::device::id_of;
use uzram_snapshot::{
    CodecSource, DiskSource, PAGE_BYTES, Snapshot, SnapshotSummary, SnapshotWriter,
};

use crate::corpus::{self, Corpus, PAGE};
use crate::lab::{Experiment, How, LabResult, Progress};
use crate::measure::{Random, Rounds, median, shuffled};
use crate::report::Report;

/// `bench snapshot`.
pub(crate) const EXPERIMENT: Experiment = Experiment::new(
    "snapshot",
    "Bytes, pauses and speed of snapshots, beside qemu-img and cp",
    run,
);

const ALGORITHMS: [&str; 3] = ["lz4", "zstd", "lzhs"];
/// Threads that write while snapshots are taken.
const WRITERS: usize = 2;
/// How long they write in a turn, and when in it the snapshot begins.
const TURN: Duration = Duration::from_millis(100);
const BEFORE: Duration = Duration::from_millis(20);

/// Measures everything. Calls `progress` before each step.
fn run(how: &How, progress: Progress<'_>) -> LabResult {
    let disk_bytes: u64 = how.size(2 << 30, 64 << 20);
    progress("collecting process memory");
    let pages = corpus::process_memory(how.size(256, 16))?;
    ensure!(!pages.is_empty(), "an empty corpus");
    let mut report = Report::new("bench snapshot", pages.name.clone());
    report.add("disksize, MB", disk_bytes as f64 / 1e6);
    let dir = tempfile::tempdir()?;
    progress("qemu-img convert -c");
    let rival = rival(dir.path(), &pages, disk_bytes)?;
    for algorithm in ALGORITHMS {
        progress(&format!("{algorithm}: snapshots"));
        let device = filled(algorithm, &pages, disk_bytes)?;
        let first = stored(algorithm, &device, dir.path(), rival, &mut report)?;
        again(algorithm, &device, dir.path(), &pages, first, &mut report)?;
        drop(device);
        progress(&format!("{algorithm}: restoring"));
        let rounds = how.rounds.unwrap_or(how.size(5, 1));
        restored(algorithm, dir.path(), rounds, &mut report)?;
    }
    progress("writing beside snapshots");
    let rounds = how.rounds.unwrap_or(how.size(30, 3));
    noticed(
        &filled("lz4", &pages, disk_bytes)?,
        &pages,
        rounds,
        &mut report,
    )?;
    Ok(Box::new(report))
}

/// The pages of the disk: the corpus again and again.
fn contents(pages: &Corpus, disk_bytes: u64) -> impl Iterator<Item = &[u8; PAGE]> {
    let all = pages.pages().iter().cycle();
    all.take(disk_bytes as usize / PAGE)
}

fn filled(algorithm: &str, pages: &Corpus, disk_bytes: u64) -> Result<Device> {
    let device = Device::builder(disk_bytes).algorithm(algorithm).build()?;
    crate::measure::fill(&device, contents(pages, disk_bytes))?;
    Ok(device)
}

/// Bytes of the same disk as a compressed image of QEMU's. `None` without qemu-img.
fn rival(dir: &Path, pages: &Corpus, disk_bytes: u64) -> Result<Option<u64>> {
    let (raw, image) = (dir.join("raw"), dir.join("qcow2"));
    let mut file = io::BufWriter::with_capacity(1 << 20, File::create(&raw)?);
    for page in contents(pages, disk_bytes) {
        file.write_all(page)?;
    }
    file.into_inner()?;
    let mut convert = Command::new("qemu-img");
    convert.args(["convert", "-c", "-f", "raw", "-O", "qcow2"]);
    convert.args(["-o", "compression_type=zstd"]);
    let converted = convert
        .arg(&raw)
        .arg(&image)
        .stdin(Stdio::null())
        .stderr(Stdio::null())
        .status();
    let bytes = match converted {
        Ok(status) if status.success() => Some(image.metadata()?.len()),
        // It is not there, or has no zstd.
        _ => None,
    };
    std::fs::remove_file(raw)?;
    let _ = std::fs::remove_file(image);
    Ok(bytes)
}

/// A snapshot that was taken.
struct Taken {
    written: SnapshotSummary,
    pause: Duration,
}

/// Takes a snapshot.
fn take(device: &Device, to: impl Write, parent: Option<Snapshot>) -> Result<Taken> {
    let mut options = CutOptions::default();
    options.track = true;
    options.since = parent.as_ref().map(|parent| id_of(parent.name()));
    let mut cut = device.cut(&options)?;
    let pause = cut.pause();
    let codecs = cut.codecs().to_vec();
    let codecs: Vec<CodecSource<'_>> = codecs.iter().map(CodecSource::from).collect();
    let disk = DiskSource {
        pages: cut.page_count(),
        taken_at_seconds: 0,
        is_basis: false,
        codecs: &codecs,
        notes: b"",
    };
    let mut writer = match parent {
        Some(parent) => SnapshotWriter::since(to, &disk, parent)?,
        None => SnapshotWriter::new(to, &disk)?,
    };
    writer.write_cut::<anyhow::Error>(&mut cut)?;
    let (_, written) = writer.finish()?;
    cut.record(&id_of(written.name));
    Ok(Taken { written, pause })
}

/// Takes a first snapshot, and says how large it is. Returns its bytes.
fn stored(
    algorithm: &str,
    device: &Device,
    dir: &Path,
    rival: Option<u64>,
    report: &mut Report,
) -> Result<u64> {
    let file = File::create(dir.join("first"))?;
    let begin = Instant::now();
    let Taken { written, pause } = take(device, &file, None)?;
    let seconds = begin.elapsed().as_secs_f64();
    let bytes = written.bytes as f64;
    let objects = written.totals.object_bytes as f64;
    let disk = device.size_bytes() as f64;
    let of = |what: &str| format!("{algorithm}: {what}");
    report.add(of("file, MB"), bytes / 1e6);
    report.at_most(
        of("file over the compressed objects"),
        bytes / objects,
        1.03,
    );
    let index = written.index_bytes as f64 * 100.0 / disk;
    report.at_most(of("index, % of the disk"), index, 0.1);
    if let Some(rival) = rival {
        let name = "file over that of qemu-img convert -c with zstd";
        report.add(of(name), bytes / rival as f64);
    }
    report.add(
        of("written, GiB/s of the disk"),
        disk / seconds / f64::from(1 << 30),
    );
    report.add(of("writers waited, us"), pause.as_secs_f64() * 1e6);
    Ok(written.bytes)
}

/// Takes two more, each after a hundredth of the pages have changed: those of one place, and any.
fn again(
    algorithm: &str,
    device: &Device,
    dir: &Path,
    pages: &Corpus,
    first: u64,
    report: &mut Report,
) -> Result<()> {
    let count = device.size_bytes() as usize / PAGE;
    let changed = (count / 100).max(1);
    let open =
        |name: &str| -> Result<Snapshot> { Ok(Snapshot::open(File::open(dir.join(name))?)?) };
    let clustered: Vec<usize> = (count / 3..count / 3 + changed).collect();
    let scattered = shuffled(count)[..changed].to_vec();
    for (name, which, goal) in [("clustered", clustered, 1.5), ("scattered", scattered, 3.0)] {
        for at in which {
            // Another page than the one that is there.
            let page = &pages.pages()[(at + pages.len() / 2) % pages.len()];
            device.write_at(page, (at * PAGE) as u64)?;
        }
        let parent = match name {
            "clustered" => open("first")?,
            _ => open("clustered")?.with_parent(open("first")?)?,
        };
        let file = File::create(dir.join(name))?;
        let bytes = take(device, &file, Some(parent))?.written.bytes;
        let percent = bytes as f64 * 100.0 / first as f64;
        let what = format!("{algorithm}: after 1 % of the pages changed, {name}: % of the first");
        report.at_most(what, percent, goal);
    }
    Ok(())
}

/// Makes devices of the first snapshot, in turns with copies of its file.
fn restored(algorithm: &str, dir: &Path, rounds: usize, report: &mut Report) -> Result<()> {
    let (from, copy) = (dir.join("first"), dir.join("copy"));
    let mut failure = None;
    let mut restore = |_| {
        let restore = || -> Result<u64> {
            let mut snapshot = Snapshot::open(File::open(&from)?)?;
            let bytes = snapshot.head().pages * PAGE_BYTES as u64;
            let mut device = Device::builder(bytes).build()?;
            snapshot.restore_to(&mut device, &Registry::builtin())?;
            Ok(bytes)
        };
        if let Err(error) = restore() {
            failure.get_or_insert(error);
        }
    };
    let mut copied = |_| {
        // Over the file of the round before, as a restore has fresh memory each time.
        let _ = std::fs::remove_file(&copy);
        let _ = std::fs::copy(&from, &copy);
    };
    let took = Rounds::run(rounds, &mut [&mut restore, &mut copied]);
    if let Some(failure) = failure {
        return Err(failure);
    }
    let disk = Snapshot::open(File::open(&from)?)?.head().pages * PAGE_BYTES as u64;
    let of = |what: &str| format!("{algorithm}: {what}");
    report.add(of("restore over cp of the file, speed"), took.ratio(1, 0));
    let speed = disk as f64 / took.seconds(0) / f64::from(1 << 30);
    report.at_least(of("restored, GiB/s of the disk"), speed, 1.0);
    Ok(())
}

/// What threads that write single pages notice of a snapshot that begins in the middle of their turn.
fn noticed(device: &Device, pages: &Corpus, rounds: usize, report: &mut Report) -> Result<()> {
    let mut pauses = Vec::new();
    let mut given_up = 0.0;
    let mut p99 = [Vec::new(), Vec::new()];
    for round in 0..rounds {
        for with in crate::measure::order(round, 2) {
            let begin = Instant::now();
            let end = begin + TURN;
            let (latencies, cut) = std::thread::scope(|scope| {
                let writers: Vec<_> = (0..WRITERS)
                    .map(|number| {
                        let seed = (round * WRITERS + number) as u64;
                        scope.spawn(move || write_until(device, pages, seed, end))
                    })
                    .collect();
                std::thread::sleep(BEFORE);
                let cut = match with {
                    1 => cut_until(device, end),
                    _ => Ok(None),
                };
                let joined = writers.into_iter().map(|writer| writer.join());
                let latencies: Result<Vec<Vec<u32>>, _> = joined.collect();
                (latencies.unwrap_or_default().concat(), cut)
            });
            match cut? {
                Some(Some(pause)) => pauses.push(pause.as_secs_f64() * 1e3),
                Some(None) => given_up += 1.0,
                None => {}
            }
            p99[with].push(percentile(latencies, 99));
        }
    }
    let [without, with] = p99;
    let ratios = with
        .iter()
        .zip(&without)
        .map(|(with, without)| with / without);
    let of = |what: &str| format!("lz4, {WRITERS} threads write pages: {what}");
    report.add(
        of("p99 around a snapshot over without"),
        median(ratios.collect()),
    );
    let worst = with.iter().copied().fold(0.0, f64::max);
    report.add(of("p99 without, us"), median(without) / 1e3);
    report.add(of("p99 around a snapshot, us"), median(with) / 1e3);
    let name = "p99 around a snapshot, the worst turn, ms";
    report.at_most(of(name), worst / 1e6, 10.0);
    let longest = pauses.iter().copied().fold(0.0, f64::max);
    report.add(of("all streams held, longest, ms"), longest);
    report.add(of("all streams held, median, ms"), median(pauses));
    report.add(of("snapshots given up for memory"), given_up);
    Ok(())
}

/// Takes a snapshot until then. How long writers waited; `Some(None)` where it was given up for memory.
fn cut_until(device: &Device, end: Instant) -> Result<Option<Option<Duration>>> {
    let mut cut = device.cut(&CutOptions::default())?;
    let pause = cut.pause();
    while Instant::now() < end {
        match cut.next_frame() {
            Ok(Some(_)) => {}
            Ok(None) => break,
            Err(uzram::Error::SnapshotMemory { .. }) => return Ok(Some(None)),
            Err(error) => return Err(error.into()),
        }
    }
    Ok(Some(Some(pause)))
}

/// Writes pages at random. Nanoseconds of each write.
fn write_until(device: &Device, pages: &Corpus, seed: u64, end: Instant) -> Vec<u32> {
    let mut random = Random::new(seed + 1);
    let places = device.size_bytes() as usize / PAGE;
    let mut latencies = Vec::with_capacity(1 << 16);
    loop {
        let page = &pages.pages()[random.below(pages.len())];
        let at = random.below(places) * PAGE;
        let begin = Instant::now();
        if begin >= end {
            return latencies;
        }
        let written = device.write_at(page, at as u64);
        written.expect("there is no limit");
        latencies.push(begin.elapsed().as_nanos().min(u32::MAX.into()) as u32);
    }
}

fn percentile(mut latencies: Vec<u32>, percent: usize) -> f64 {
    let at = latencies.len() * percent / 100;
    match latencies.len() {
        0 => 0.0,
        _ => f64::from(*latencies.select_nth_unstable(at).1),
    }
}
