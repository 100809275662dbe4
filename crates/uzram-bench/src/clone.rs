//! `bench clone`: how soon a clone of a snapshot in a remote is there, what reads of it wait for, what a trace is worth, and whether
//! anything is left of having been one when all of it is here.
//!
//! The programs are run as anybody would run them, on loop devices, so it takes root. The remote is a directory, or one that was
//! added before, of which `UZRAM_BENCH_REMOTE` has the name: its snapshot of the benchmark stays there. What the store takes by
//! itself is measured by curl, with the credentials of the environment, or by `pread`.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::process::{Command, Stdio};
use std::time::Instant;

use anyhow::{Context, Result, bail, ensure};
use serde::Deserialize;

use crate::corpus::{self, Corpus, PAGE};
use crate::holder::Pages;
use crate::host::Host;
use crate::lab::{Experiment, How, LabResult, Progress};
use crate::measure::{Rounds, median, order, shuffled};
use crate::report::Report;
use crate::zram::open_direct;

/// `bench clone`.
pub(crate) const EXPERIMENT: Experiment = Experiment::new(
    "clone",
    "How soon a clone of a remote is there, what its reads wait for, what a trace is worth",
    run,
);

/// Pages of a frame, the unit in which a clone fetches.
const FRAME: usize = 64;
/// Reads of a clone, and of the store by itself, before it is the other's turn.
const BLOCK: usize = 16;
/// A workload touches one frame of so many: 6 % of an image are read at a start, by AWS's measurements.
const TOUCHED: usize = 16;

fn run(how: &How, progress: Progress<'_>) -> LabResult {
    let frames: usize = how.size(8 << 10, 256);
    progress("collecting process memory");
    let pages = corpus::process_memory(how.size(256, 16))?;
    ensure!(!pages.is_empty(), "an empty corpus");
    let (host, remote) = Remote::open()?;
    let mut bench = Bench {
        tag: format!("{}/bench", remote.name),
        host,
        pages,
        frames,
    };
    let mut report = Report::new(
        "bench clone",
        format!("{}, in a remote that is {}", bench.pages.name, remote.kind),
    );
    report.add("disksize, MB", (frames * FRAME * PAGE) as f64 / 1e6);
    progress("filling a device, and its snapshot");
    bench.make_snapshot()?;
    let rounds = how.rounds.unwrap_or(how.size(7, 1));
    progress("first reads, of clones and of whole downloads");
    bench.started(rounds, &mut report)?;
    progress("cold reads, and the store by itself");
    bench.cold(&remote, how.size(24, 1), &mut report)?;
    progress("a workload, with and without a trace");
    bench.traced(rounds, &mut report)?;
    progress("a hydrated clone beside an ordinary device");
    bench.hydrated(how.size(30, 3), &mut report)?;
    Ok(Box::new(report))
}

/// A snapshot of a filled device, and a host that makes devices of it.
struct Bench {
    host: Host,
    pages: Corpus,
    frames: usize,
    tag: String,
}

/// A device that was made. What is not removed ends with the host.
struct Made<'a> {
    host: &'a Host,
    path: String,
    node: File,
}

impl Made<'_> {
    fn remove(self) -> Result<()> {
        drop(self.node);
        self.host.say(&["remove", &self.path]).map(drop)
    }
}

impl Bench {
    fn make(&self, options: &[&str]) -> Result<Made<'_>> {
        let create = ["create", "--frontend", "fuse-loop", "--policy", "none"];
        let path = self.host.say(&[&create[..], options].concat())?;
        let path = path.trim().to_owned();
        Ok(Made {
            host: &self.host,
            node: open_direct(&path)?,
            path,
        })
    }

    fn lazy(&self, more: &[&str]) -> Result<Made<'_>> {
        self.make(&[&["--from", &self.tag, "--lazy"], more].concat())
    }

    /// What the disk holds there.
    fn page(&self, number: usize) -> &[u8; PAGE] {
        &self.pages.pages()[number % self.pages.len()]
    }

    /// Reads a page, which has to be what it is to be.
    fn read(&self, made: &Made<'_>, number: usize, page: &mut Pages) -> Result<()> {
        let at = (number * PAGE) as u64;
        made.node.read_exact_at(page.bytes_mut(), at)?;
        ensure!(page.bytes() == self.page(number), "page {number} is wrong");
        Ok(())
    }

    fn make_snapshot(&mut self) -> Result<()> {
        let size = (self.frames * FRAME * PAGE).to_string();
        let made = self.make(&["--size", &size])?;
        let mut frame = Pages::new(FRAME);
        for at in 0..self.frames {
            let pages = frame.bytes_mut().as_chunks_mut::<PAGE>().0;
            for (number, page) in (at * FRAME..).zip(pages) {
                *page = *self.page(number);
            }
            let at = (at * FRAME * PAGE) as u64;
            made.node.write_all_at(frame.bytes(), at)?;
        }
        let snapshot = ["snapshot", &made.path, &self.tag, "--force"];
        self.host.say(&snapshot)?;
        made.remove()
    }

    /// From the command to the first page: of a clone, and of a device that has everything first.
    fn started(&self, rounds: usize, report: &mut Report) -> Result<()> {
        let mut page = Pages::new(1);
        let mut seconds = [Vec::new(), Vec::new()];
        for round in 0..rounds {
            for who in order(round, 2) {
                let begin = Instant::now();
                let made = match who {
                    0 => self.lazy(&[])?,
                    _ => self.make(&["--from", &self.tag])?,
                };
                // Another frame each time, past what the device's making has fetched.
                let frame = self.frames / 2 + round;
                self.read(&made, frame * FRAME, &mut page)?;
                seconds[who].push(begin.elapsed().as_secs_f64());
                made.remove()?;
            }
        }
        let ratios = seconds[0].iter().zip(&seconds[1]);
        let ratio = median(ratios.map(|(lazy, whole)| lazy / whole).collect());
        let [lazy, whole] = seconds.map(median);
        report.at_most("clone and its first page, ms", lazy * 1e3, 300.0);
        report.add("whole download and its first page, ms", whole * 1e3);
        report.add("clone over whole download, time", ratio);
        Ok(())
    }

    /// Pages of frames that are not here, in turns with the store's own answers of a frame's bytes.
    fn cold(&self, remote: &Remote, blocks: usize, report: &mut Report) -> Result<()> {
        let places = remote.places(self.frames, blocks * BLOCK)?;
        let clone = self.lazy(&[])?;
        let mut page = Pages::new(1);
        let (mut reads, mut own) = (Vec::new(), Vec::new());
        let frames = shuffled(self.frames);
        for (places, frames) in places.chunks(BLOCK).zip(frames.chunks(BLOCK)) {
            own.extend(remote.get(places)?);
            for frame in frames {
                let begin = Instant::now();
                self.read(&clone, frame * FRAME + FRAME / 2, &mut page)?;
                reads.push(begin.elapsed().as_secs_f64());
            }
        }
        clone.remove()?;
        let [read, own] = [reads, own].map(|mut seconds| {
            seconds.sort_by(f64::total_cmp);
            [50, 99].map(|percent| seconds[seconds.len() * percent / 100] * 1e3)
        });
        report.add("cold read of 4 KiB, p50, ms", read[0]);
        report.add("cold read of 4 KiB, p99, ms", read[1]);
        report.add("the store's own answer of a frame's bytes, p50, ms", own[0]);
        report.add("the store's own answer of a frame's bytes, p99, ms", own[1]);
        report.at_most("cold read over the store's own, p50", read[0] / own[0], 1.3);
        report.at_most("cold read over the store's own, p99", read[1] / own[1], 3.0);
        Ok(())
    }

    /// A workload that reads a page in each sixteenth frame, from the command to its end: on demand, and with a trace of it.
    fn traced(&self, rounds: usize, report: &mut Report) -> Result<()> {
        let frames: Vec<_> = shuffled(self.frames / TOUCHED)
            .into_iter()
            .map(|at| at * TOUCHED)
            .collect();
        let trace = format!("bench-{}", std::process::id());
        let traced = ["--trace", &trace];
        let work = |options: &[&str]| -> Result<f64> {
            let begin = Instant::now();
            let clone = self.lazy(options)?;
            let mut page = Pages::new(1);
            for frame in &frames {
                self.read(&clone, frame * FRAME + FRAME / 2, &mut page)?;
            }
            let seconds = begin.elapsed().as_secs_f64();
            clone.remove()?;
            Ok(seconds)
        };
        // The first one makes the trace.
        work(&traced)?;
        let mut seconds = [Vec::new(), Vec::new()];
        for round in 0..rounds {
            for who in order(round, 2) {
                seconds[who].push(work([&[][..], &traced][who])?);
            }
        }
        let ratios = seconds[0].iter().zip(&seconds[1]);
        let gain = median(ratios.map(|(without, with)| without / with).collect());
        let [without, with] = seconds.map(median);
        report.add("a workload on demand, ms", without * 1e3);
        report.add("the same with a trace, ms", with * 1e3);
        report.at_least("with a trace over on demand, speed", gain, 2.0);
        Ok(())
    }

    /// Pages at random, once nothing is remote any more, in turns with a device that never was a clone.
    fn hydrated(&self, rounds: usize, report: &mut Report) -> Result<()> {
        let begin = Instant::now();
        let clone = self.lazy(&[])?;
        self.host.say(&["hydrate", &clone.path])?;
        let seconds = begin.elapsed().as_secs_f64();
        let bytes = (self.frames * FRAME * PAGE) as f64;
        report.add(
            "hydration, GiB/s of the disk",
            bytes / seconds / f64::from(1 << 30),
        );
        let ordinary = self.make(&["--from", &self.tag])?;
        let mut page = Pages::new(1);
        let mut failure = None;
        let numbers = shuffled(self.frames * FRAME);
        let batch = 2000.min(numbers.len());
        let mut read = |made: &Made<'_>, round: usize| {
            let from = round * batch % (numbers.len() - batch + 1);
            for number in &numbers[from..from + batch] {
                if let Err(error) = self.read(made, *number, &mut page) {
                    failure.get_or_insert(error);
                }
            }
        };
        let took = Rounds::of(rounds, &mut [&clone, &ordinary], |made, round| {
            read(made, round);
        });
        if let Some(failure) = failure {
            return Err(failure);
        }
        let ratio = took.ratio(1, 0);
        report.at_least(
            "hydrated over an ordinary device, reads of 4 KiB, speed",
            ratio,
            0.97,
        );
        clone.remove()?;
        ordinary.remove()
    }
}

/// Where the snapshot is kept.
struct Remote {
    name: String,
    /// In a word, for the report.
    kind: &'static str,
    store: Store,
}

enum Store {
    Directory(std::path::PathBuf),
    S3(Bucket),
}

/// What is read of `uzram remote list --json`.
#[derive(Deserialize)]
struct Listed {
    name: String,
    url: String,
    endpoint: Option<String>,
    region: Option<String>,
}

/// Bytes of an object.
struct Place {
    object: String,
    from: u64,
    bytes: u64,
}

impl Remote {
    /// The remote that is asked for, or a directory, and a host that knows it.
    fn open() -> Result<(Host, Remote)> {
        let host = Host::new()?;
        let name = std::env::var("UZRAM_BENCH_REMOTE").unwrap_or_default();
        if name.is_empty() {
            let host = host.with_own_remotes();
            let dir = host.dir().join("remote");
            std::fs::create_dir(&dir)?;
            host.say(&["remote", "add", "own", &format!("file:{}", dir.display())])?;
            let remote = Remote {
                name: "own".into(),
                kind: "a directory",
                store: Store::Directory(dir),
            };
            return Ok((host, remote));
        }
        let all: Vec<Listed> = serde_json::from_str(&host.say(&["remote", "list", "--json"])?)?;
        let listed = all.into_iter().find(|listed| listed.name == name);
        let listed = listed.with_context(|| format!("no remote is called {name}"))?;
        let (kind, store) = match listed.url.split_once(':') {
            Some(("file", path)) => ("a directory", Store::Directory(path.into())),
            _ => ("an object store by S3", Store::S3(Bucket::new(listed)?)),
        };
        Ok((host, Remote { name, kind, store }))
    }

    /// Ranges as long as a frame is on average, each once.
    fn places(&self, frames: usize, count: usize) -> Result<Vec<Place>> {
        let segments = match &self.store {
            Store::Directory(dir) => std::fs::read_dir(dir.join("seg"))?
                .map(|entry| {
                    let entry = entry?;
                    let path = entry.path().display().to_string();
                    Ok((path, entry.metadata()?.len()))
                })
                .collect::<Result<Vec<_>>>()?,
            Store::S3(bucket) => bucket.segments()?,
        };
        let bytes: u64 = segments.iter().map(|(_, bytes)| bytes).sum();
        let frame = (bytes / frames as u64).max(1);
        let all = segments.iter().flat_map(|(object, bytes)| {
            (0..bytes / frame).map(move |number| Place {
                object: object.clone(),
                from: number * frame,
                bytes: frame,
            })
        });
        let mut all: Vec<_> = all.collect();
        crate::measure::shuffle(&mut all);
        all.truncate(count);
        Ok(all)
    }

    /// Seconds that the store takes for each.
    fn get(&self, places: &[Place]) -> Result<Vec<f64>> {
        match &self.store {
            Store::S3(bucket) => bucket.get(places),
            Store::Directory(_) => places
                .iter()
                .map(|place| {
                    let mut bytes = vec![0; place.bytes as usize];
                    let begin = Instant::now();
                    File::open(&place.object)?.read_exact_at(&mut bytes, place.from)?;
                    Ok(begin.elapsed().as_secs_f64())
                })
                .collect(),
        }
    }
}

/// A prefix in a bucket, for curl.
struct Bucket {
    /// `http://host:port/bucket`
    url: String,
    prefix: String,
    region: String,
    user: String,
}

impl Bucket {
    fn new(listed: Listed) -> Result<Bucket> {
        let place = listed.url.strip_prefix("s3://");
        let place = place.with_context(|| format!("{} is neither s3: nor file:", listed.url))?;
        let (bucket, prefix) = place.split_once('/').unwrap_or((place, ""));
        let endpoint = listed.endpoint.context("the remote has no endpoint")?;
        let key = |name: &str| std::env::var(name).with_context(|| format!("{name} is not set"));
        let (id, secret) = (key("AWS_ACCESS_KEY_ID")?, key("AWS_SECRET_ACCESS_KEY")?);
        Ok(Bucket {
            url: format!("{}/{bucket}", endpoint.trim_end_matches('/')),
            prefix: prefix.trim_end_matches('/').into(),
            region: listed.region.unwrap_or_else(|| "us-east-1".into()),
            user: format!("{id}:{secret}"),
        })
    }

    /// What each request needs to be carried out, and to fail by.
    fn options(&self) -> String {
        let Bucket { region, user, .. } = self;
        format!(
            "silent\nshow-error\nfail\naws-sigv4 = \"aws:amz:{region}:s3\"\nuser = \"{user}\"\n"
        )
    }

    /// Runs curl with what is to be done, which it reads: keys on a command line could be seen.
    fn curl(&self, what: &str) -> Result<String> {
        let mut curl = Command::new("curl");
        curl.args(["--config", "-"]).stdin(Stdio::piped());
        let mut curl = curl.stdout(Stdio::piped()).spawn().context("curl")?;
        let what = format!("{}{what}", self.options());
        std::io::Write::write_all(&mut curl.stdin.take().context("no pipe")?, what.as_bytes())?;
        let output = curl.wait_with_output()?;
        ensure!(output.status.success(), "curl: {}", output.status);
        Ok(String::from_utf8(output.stdout)?)
    }

    /// The segments of all snapshots in the bucket, with their bytes.
    fn segments(&self) -> Result<Vec<(String, u64)>> {
        let prefix = match self.prefix.as_str() {
            "" => "seg/".into(),
            prefix => format!("{prefix}/seg/"),
        };
        // Signatures are made of what is encoded.
        let encoded = prefix.replace('/', "%2F");
        let list = format!("url = \"{}?list-type=2&prefix={encoded}\"\n", self.url);
        let text = self.curl(&list)?;
        let within = |text: &'_ str, tag: &str| -> Option<String> {
            let (_, rest) = text.split_once(&format!("<{tag}>"))?;
            Some(rest.split_once(&format!("</{tag}>"))?.0.to_owned())
        };
        let object = |text: &str| Some((within(text, "Key")?, within(text, "Size")?.parse().ok()?));
        let all: Vec<_> = text
            .split("<Contents>")
            .skip(1)
            .filter_map(object)
            .collect();
        if all.is_empty() {
            bail!("the store lists no segments: {text}");
        }
        Ok(all)
    }

    fn get(&self, places: &[Place]) -> Result<Vec<f64>> {
        let get = |place: &Place| {
            let last = place.from + place.bytes - 1;
            format!(
                "url = \"{}/{}\"\noutput = \"/dev/null\"\nrange = \"{}-{last}\"\n",
                self.url, place.object, place.from
            )
        };
        // One connection, which the first request pays for; it is not counted. Options up to a "next" are those of one request.
        let Some(first) = places.first() else {
            return Ok(Vec::new());
        };
        let each = [first].into_iter().chain(places).map(get);
        let each: Vec<_> = each
            .map(|one| format!("write-out = \"%{{time_total}}\\n\"\n{one}"))
            .collect();
        let text = self.curl(&each.join(&format!("next\n{}", self.options())))?;
        let seconds = text.lines().skip(1).map(str::parse::<f64>);
        Ok(seconds.collect::<Result<Vec<_>, _>>()?)
    }
}
