//! One run of fio: its command line, its timeout, and its JSON report.

use std::fs;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use rustix::process::{Pid, Signal, kill_process_group};
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::cell::{Cell, Setting};
use super::perf::Perf;
use super::targets::TargetPath;
use crate::measure::median;

/// How long a cell may overrun before its target counts as hung.
const PATIENCE: Duration = Duration::from_secs(900);

/// How long a cell runs.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Length {
    /// That many times over the whole target, by each job.
    Loops(u32),
    /// That many seconds.
    Seconds(f64),
}

/// A run of fio.
pub(super) struct Job<'a> {
    pub(super) place: &'a TargetPath,
    pub(super) cell: Cell,
    pub(super) setting: Setting,
    pub(super) size_bytes: u64,
    pub(super) length: Length,
    pub(super) perf: &'a Perf,
    /// The folder for fio's files.
    pub(super) dir: &'a Path,
    /// Set by a signal.
    pub(super) stop: &'a AtomicBool,
}

/// One direction of a cell.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Side {
    /// Throughput, 10^6 bytes a second.
    pub mb_s: f64,
    /// Requests a second.
    pub iops: f64,
    /// Latency in microseconds.
    pub mean_us: f64,
    /// Percentiles of it.
    pub p50_us: f64,
    /// 90 %.
    pub p90_us: f64,
    /// 99 %.
    pub p99_us: f64,
    /// 99.9 %.
    pub p999_us: f64,
    /// 99.99 %.
    pub p9999_us: f64,
}

/// The result of a run.
#[derive(Debug, Clone)]
pub(super) struct JobRun {
    pub(super) read: Option<Side>,
    pub(super) write: Option<Side>,
    /// Wall time of fio, its start included.
    pub(super) seconds: f64,
    pub(super) perf: Vec<(String, f64)>,
}

impl JobRun {
    /// Throughput of both directions together.
    pub(super) fn mb_s(&self) -> f64 {
        let both = [self.read, self.write];
        both.iter().flatten().map(|side| side.mb_s).sum()
    }
}

impl Side {
    /// The median of each figure; `None` without any.
    pub(super) fn median(sides: &[Side]) -> Option<Side> {
        let of = |figure: fn(&Side) -> f64| median(sides.iter().map(figure).collect());
        (!sides.is_empty()).then(|| Side {
            mb_s: of(|s| s.mb_s),
            iops: of(|s| s.iops),
            mean_us: of(|s| s.mean_us),
            p50_us: of(|s| s.p50_us),
            p90_us: of(|s| s.p90_us),
            p99_us: of(|s| s.p99_us),
            p999_us: of(|s| s.p999_us),
            p9999_us: of(|s| s.p9999_us),
        })
    }

    /// The percentiles, by name.
    pub fn percentiles(&self) -> [(&'static str, f64); 5] {
        [
            ("50", self.p50_us),
            ("90", self.p90_us),
            ("99", self.p99_us),
            ("99.9", self.p999_us),
            ("99.99", self.p9999_us),
        ]
    }
}

/// fio's version.
pub(super) fn version() -> Result<String> {
    let output = Command::new("fio").arg("--version").output();
    let output = output.context("cannot run fio (Debian's package fio)")?;
    Ok(String::from_utf8_lossy(&output.stdout).trim().to_owned())
}

/// The engine for a target: `nbd` for a URI, the series' `sync` at depth 1, otherwise `deep`.
pub(super) fn engine(place: &TargetPath, depth: u32, deep: &str) -> String {
    match place {
        TargetPath::Uri(_) => "nbd".into(),
        TargetPath::File { .. } if depth == 1 => "sync".into(),
        TargetPath::File { .. } => deep.into(),
    }
}

impl Job<'_> {
    /// Runs it with that engine.
    pub(super) fn run(&self, engine: &str) -> Result<JobRun> {
        let (json, counts) = (self.dir.join("fio.json"), self.dir.join("perf"));
        let errors = self.dir.join("fio.err");
        let mut words = self.perf.before(&counts);
        words.push("fio".into());
        words.extend(self.options(engine));
        words.push(format!("--output={}", json.display()));
        let begin = Instant::now();
        let mut child = Command::new(&words[0])
            .args(&words[1..])
            .current_dir(self.dir)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(fs::File::create(&errors)?)
            // A group of its own: perf does not end fio.
            .process_group(0)
            .spawn()
            .context("cannot run fio")?;
        let limit = match self.length {
            Length::Seconds(seconds) => PATIENCE + Duration::from_secs_f64(seconds),
            Length::Loops(loops) => PATIENCE * loops.max(1),
        };
        let status = loop {
            if let Some(status) = child.try_wait()? {
                break status;
            }
            let stopped = self.stop.load(Ordering::Relaxed);
            if stopped || begin.elapsed() > limit {
                let _ = kill_process_group(Pid::from_child(&child), Signal::KILL);
                child.wait()?;
                bail!(
                    "{}",
                    if stopped {
                        "interrupted"
                    } else {
                        "fio did not end: the target hangs"
                    }
                );
            }
            std::thread::sleep(Duration::from_millis(5));
        };
        let seconds = begin.elapsed().as_secs_f64();
        let said = fs::read_to_string(&json).unwrap_or_default();
        let mut why = fs::read_to_string(&errors).unwrap_or_default();
        if why.trim().is_empty() && !said.starts_with('{') {
            // Some of it goes to the output, before the JSON.
            why = said
                .split("\n{")
                .next()
                .unwrap_or_default()
                .chars()
                .take(500)
                .collect();
        }
        ensure!(status.success(), "fio: {status}: {}", why.trim());
        let (read, write) =
            parse(&said).with_context(|| format!("fio's report: {}", why.trim()))?;
        ensure!(read.is_some() || write.is_some(), "fio did no request");
        let perf = self.perf.counts(&counts);
        Ok(JobRun {
            read,
            write,
            seconds,
            perf,
        })
    }

    fn options(&self, engine: &str) -> Vec<String> {
        let Setting {
            buffer,
            shape,
            jobs,
        } = self.setting;
        let mut options = vec![
            format!("--name={}", self.cell),
            format!("--rw={}", self.cell.rw()),
            format!("--bs={}", shape.block_bytes),
            format!("--size={}", self.size_bytes),
            format!("--numjobs={jobs}"),
            format!("--iodepth={}", shape.depth),
            format!("--ioengine={engine}"),
        ];
        let fixed = [
            "--thread",
            "--group_reporting",
            "--eta=never",
            "--output-format=json",
            "--verify_state_save=0",
            "--percentile_list=50:90:99:99.9:99.99",
        ];
        options.extend(fixed.map(String::from));
        match self.place {
            TargetPath::File { path, direct } => {
                let path = path
                    .display()
                    .to_string()
                    .replace('\\', "\\\\")
                    .replace(':', "\\:");
                options.push(format!("--filename={path}"));
                options.push(format!("--direct={}", u8::from(*direct)));
            }
            TargetPath::Uri(uri) => options.push(format!("--uri={uri}")),
        }
        match self.length {
            Length::Loops(loops) => options.push(format!("--loops={loops}")),
            Length::Seconds(seconds) => {
                options.push("--time_based".into());
                options.push(format!("--runtime={}ms", (seconds * 1e3) as u64));
            }
        }
        options.extend(buffer.options());
        options
    }
}

/// Parses the reads and writes of the one group that fio reports.
fn parse(text: &str) -> Result<(Option<Side>, Option<Side>)> {
    // Engines and warnings may print lines before it.
    let begin = match text.starts_with('{') {
        true => 0,
        false => text.find("\n{").context("there is no JSON in it")?,
    };
    let mut documents = serde_json::Deserializer::from_str(&text[begin..]).into_iter::<Value>();
    let report = documents.next().context("it is empty")??;
    let job = report["jobs"].get(0).context("it has no job")?;
    let error = job["error"].as_i64().unwrap_or(0);
    ensure!(
        error == 0,
        "error {error}: {}",
        std::io::Error::from_raw_os_error(error as i32)
    );
    Ok((side(&job["read"])?, side(&job["write"])?))
}

fn side(side: &Value) -> Result<Option<Side>> {
    if side["total_ios"].as_u64().unwrap_or(0) == 0 {
        return Ok(None);
    }
    let latency = &side["clat_ns"];
    let number = |value: &Value| value.as_f64().context("a figure is missing");
    let percentile = |name: &str| number(&latency["percentile"][name]).map(|ns| ns / 1e3);
    Ok(Some(Side {
        mb_s: number(&side["bw_bytes"])? / 1e6,
        iops: number(&side["iops"])?,
        mean_us: number(&latency["mean"])? / 1e3,
        p50_us: percentile("50.000000")?,
        p90_us: percentile("90.000000")?,
        p99_us: percentile("99.000000")?,
        p999_us: percentile("99.900000")?,
        p9999_us: percentile("99.990000")?,
    }))
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    fn report(error: i32, ios: u32) -> String {
        format!(
            "fio: a warning\n{{\"jobs\": [{{\"error\": {error}, \"read\": {{\"total_ios\": 0}}, \"write\": {{
            \"total_ios\": {ios}, \"bw_bytes\": 2000000, \"iops\": 500.5, \"clat_ns\": {{\"mean\": 2000.5, \"percentile\":
            {{\"50.000000\": 1000, \"90.000000\": 2000, \"99.000000\": 3000, \"99.900000\": 4000, \"99.990000\": 5000}}}}}}}}]}}\n"
        )
    }

    #[test]
    fn a_report_behind_warnings_is_read() {
        let (read, write) = parse(&report(0, 7)).unwrap();
        let write = write.unwrap();
        assert!(read.is_none());
        assert_eq!(
            (write.mb_s, write.iops, write.p50_us, write.p9999_us),
            (2.0, 500.5, 1.0, 5.0)
        );
        assert_eq!(parse(&report(0, 0)).unwrap(), (None, None));
    }

    #[test]
    fn an_error_that_fio_reports_is_one() {
        let error = parse(&report(28, 7)).unwrap_err().to_string();
        assert!(error.contains("No space"), "{error}");
        assert!(parse("fio: nothing").is_err());
    }
}
