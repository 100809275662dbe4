//! What a benchmark in the guest saved (`guest/bench.sh` says how): fio's figures of each run, the algorithm's own time in
//! it, and memory.

use std::collections::BTreeMap;
use std::fmt;
use std::fs;
use std::path::Path;

use anyhow::{Context, Result, bail};
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::measure::median;

/// One kind of load.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub(super) struct GuestCell {
    pub(super) op: String,
    pub(super) block: String,
    pub(super) depth: u32,
    pub(super) jobs: u32,
}

impl fmt::Display for GuestCell {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let GuestCell {
            op,
            block,
            depth,
            jobs,
        } = self;
        let plural = if *jobs == 1 { "" } else { "s" };
        write!(f, "{op} {block}, QD{depth}, {jobs} job{plural}")
    }
}

impl GuestCell {
    fn new(op: &str, block: &str, depth: &str, jobs: &str) -> Result<GuestCell> {
        Ok(GuestCell {
            op: op.into(),
            block: block.into(),
            depth: depth.parse()?,
            jobs: jobs.parse()?,
        })
    }

    pub(super) fn writes(&self) -> bool {
        self.op == "randwrite"
    }

    /// The throughput of a run: requests a second, or for large ones what is more usual.
    pub(super) fn rate(&self, run: &GuestRun) -> String {
        match self.block.as_str() {
            "4k" => format!("{:.0} IOPS", run.iops),
            _ => format!("{:.0} MiB/s", run.iops * self.pages() / 256.0),
        }
    }

    /// Pages of 4 KiB in a request.
    pub(super) fn pages(&self) -> f64 {
        let kilobytes = self
            .block
            .strip_suffix('k')
            .and_then(|n| n.parse::<f64>().ok());
        kilobytes.unwrap_or(4.0) / 4.0
    }
}

/// What a device did in a cell in one round.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub(super) struct GuestRun {
    pub(super) iops: f64,
    /// Latencies from submission to completion, in microseconds.
    pub(super) p50_us: f64,
    pub(super) p99_us: f64,
    /// Microseconds from one request of a job to its next: at depth 1 a request's whole time.
    pub(super) wall_us: f64,
    /// Microseconds of CPU that a request took, fio's and the server's together.
    pub(super) cpu_us: f64,
    /// CPUs that were busy with fio and the server.
    pub(super) cpus_busy: f64,
    /// Times that the server gave its CPU away, for each request.
    pub(super) switches: f64,
    /// Nanoseconds that the algorithm took for a page, in the server; 0 of a device that is not ours.
    pub(super) codec_ns: f64,
}

/// What a device holds and takes, in bytes.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct GuestMemory {
    pub(super) when: String,
    pub(super) device: String,
    /// What was written and is there.
    pub(super) data: u64,
    /// The pool, as zram counts it.
    pub(super) mem_used_total: u64,
    /// The device's processes and their image as well; of the kernel's zram the same as `mem_used_total`.
    pub(super) all: u64,
}

/// Everything that was saved.
#[derive(Debug, Default)]
pub(super) struct GuestRuns {
    /// What the data is, in words.
    pub(super) data: String,
    /// Cells in the order in which they were measured.
    pub(super) cells: Vec<GuestCell>,
    /// Devices in the order in which they were made.
    pub(super) devices: Vec<String>,
    /// By device and cell: the rounds.
    runs: BTreeMap<(String, GuestCell), Vec<GuestRun>>,
    pub(super) memory: Vec<GuestMemory>,
}

impl GuestRuns {
    /// Reads the files in `dir`.
    pub(super) fn read(dir: &Path) -> Result<GuestRuns> {
        let text = |name: &str| {
            let path = dir.join(name);
            fs::read_to_string(&path).with_context(|| format!("reading {}", path.display()))
        };
        let mut runs = GuestRuns {
            data: text("data.kind")?.trim().to_owned(),
            ..GuestRuns::default()
        };
        for line in text("memory")?.lines() {
            runs.memory(line)
                .with_context(|| format!("memory: '{line}'"))?;
        }
        for line in text("runs")?.lines() {
            let json = |name: &str| Ok(serde_json::from_str(&text(&format!("fio/{name}.json"))?)?);
            runs.run(line, json)
                .with_context(|| format!("runs: '{line}'"))?;
        }
        Ok(runs)
    }

    fn memory(&mut self, line: &str) -> Result<()> {
        let [when, device, data, used, all] = words(line)?;
        if !self.devices.iter().any(|known| known == device) {
            self.devices.push(device.into());
        }
        self.memory.push(GuestMemory {
            when: when.into(),
            device: device.into(),
            data: data.parse()?,
            mem_used_total: used.parse()?,
            all: all.parse()?,
        });
        Ok(())
    }

    fn run(&mut self, line: &str, json: impl Fn(&str) -> Result<Value>) -> Result<()> {
        let [
            round,
            device,
            op,
            block,
            depth,
            jobs,
            server,
            switches,
            compress,
            decompress,
        ] = words(line)?;
        let cell = GuestCell::new(op, block, depth, jobs)?;
        let fio = json(&[round, device, op, block, depth, jobs].join("."))?;
        let codec = if cell.writes() { compress } else { decompress };
        let run = understood(
            &fio,
            &cell,
            server.parse()?,
            switches.parse()?,
            codec.parse()?,
        )?;
        if !self.cells.contains(&cell) {
            self.cells.push(cell.clone());
        }
        let rounds = self.runs.entry((device.to_owned(), cell)).or_default();
        if round.parse() != Ok(rounds.len()) {
            bail!("round {} is missing", rounds.len());
        }
        rounds.push(run);
        Ok(())
    }

    /// The rounds of a device in a cell.
    pub(super) fn of(&self, device: &str, cell: &GuestCell) -> Result<&[GuestRun]> {
        let runs = self.runs.get(&(device.to_owned(), cell.clone()));
        Ok(runs.with_context(|| format!("{device} has no run of {cell}"))?)
    }

    /// The median of a figure over the rounds of a device in a cell.
    pub(super) fn figure(
        &self,
        device: &str,
        cell: &GuestCell,
        of: fn(&GuestRun) -> f64,
    ) -> Result<f64> {
        Ok(median(self.of(device, cell)?.iter().map(of).collect()))
    }

    /// The median over the rounds of the ratio of two devices' figures in the same round.
    pub(super) fn ratio(
        &self,
        cell: &GuestCell,
        device: &str,
        base: &str,
        of: fn(&GuestRun) -> f64,
    ) -> Result<f64> {
        let pairs = self.of(device, cell)?.iter().zip(self.of(base, cell)?);
        Ok(median(pairs.map(|(a, b)| of(a) / of(b)).collect()))
    }
}

/// A line's words, of which there must be so many.
fn words<const N: usize>(line: &str) -> Result<[&str; N]> {
    let words: Vec<&str> = line.split_whitespace().collect();
    words.try_into().ok().context("another number of words")
}

/// One job's figures of fio's JSON, with what the server spent: nanoseconds of CPU, switches to another task, nanoseconds
/// of a call of the algorithm.
fn understood(
    fio: &Value,
    cell: &GuestCell,
    server_ns: f64,
    switches: f64,
    codec_ns: f64,
) -> Result<GuestRun> {
    let job = &fio["jobs"][0];
    let stats = &job[if cell.writes() { "write" } else { "read" }];
    let number = |value: &Value, what: &str| {
        let number = value.as_f64();
        number.with_context(|| format!("fio's JSON has no {what}"))
    };
    let of = |name: &str| number(&stats[name], name);
    let of_job = |name: &str| number(&job[name], name);
    let percentile = |name: &str| number(&stats["lat_ns"]["percentile"][name], name);
    let (count, iops) = (of("total_ios")?, of("iops")?);
    if job["error"].as_f64() != Some(0.0) || count == 0.0 || iops == 0.0 {
        bail!("fio did nothing, or failed");
    }
    // In percent of the time that the jobs ran, all together, which is in milliseconds.
    let percent = of_job("usr_cpu")? + of_job("sys_cpu")?;
    let fio_us = percent / 100.0 * of_job("job_runtime")? * 1e3;
    let cpu_us = (fio_us + server_ns / 1e3) / count;
    Ok(GuestRun {
        iops,
        p50_us: percentile("50.000000")? / 1e3,
        p99_us: percentile("99.000000")? / 1e3,
        wall_us: f64::from(cell.jobs) * 1e6 / iops,
        cpu_us,
        cpus_busy: cpu_us * iops / 1e6,
        switches: switches / count,
        codec_ns,
    })
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    /// A run of two rounds in one cell; each device does so many requests in a second, with one CPU's time.
    pub(in crate::guest) fn sample(depth: u32, devices: &[(&str, u32)]) -> GuestRuns {
        let mut runs = GuestRuns::default();
        for (device, iops) in devices {
            let line = format!("end {device} 1048576 2097152 4194304");
            runs.memory(&line).unwrap();
            for round in 0..2 {
                let codec = if device.ends_with("null") {
                    1000
                } else {
                    51000
                };
                let line =
                    format!("{round} {device} randwrite 4k {depth} 1 500000000 {iops} {codec} 0");
                runs.run(&line, |_| Ok(fio(*iops))).unwrap();
            }
        }
        runs
    }

    fn fio(iops: u32) -> Value {
        serde_json::json!({"jobs": [{
            "error": 0, "usr_cpu": 20.0, "sys_cpu": 30.0, "job_runtime": 1000,
            "write": {"iops": iops, "total_ios": iops,
                "lat_ns": {"percentile": {"50.000000": 1e9 / f64::from(iops), "99.000000": 2000}}},
        }]})
    }

    #[test]
    fn a_run_is_understood() {
        let runs = sample(1, &[("a", 1000), ("b", 500)]);
        let cell = runs.cells[0].clone();
        assert_eq!(cell.to_string(), "randwrite 4k, QD1, 1 job");
        let run = runs.of("a", &cell).unwrap()[1];
        assert_eq!((run.p50_us, run.p99_us, run.wall_us), (1000.0, 2.0, 1000.0));
        assert_eq!(
            (run.cpu_us, run.cpus_busy, run.switches),
            (1000.0, 1.0, 1.0)
        );
        assert_eq!(run.codec_ns, 51000.0);
        assert_eq!(runs.ratio(&cell, "a", "b", |run| run.iops).unwrap(), 2.0);
        assert!(runs.of("c", &cell).is_err());
    }

    #[test]
    fn what_is_wrong_is_an_error() {
        let mut runs = sample(1, &[("a", 1)]);
        assert!(runs.run("x", |_| Ok(fio(1))).is_err());
        let again = "1 a randwrite 4k 1 1 0 0 0 0";
        assert!(runs.run(again, |_| Ok(fio(1))).is_err());
        let next = "2 a randwrite 4k 1 1 0 0 0 0";
        assert!(runs.run(next, |_| Ok(fio(0))).is_err());
        assert!(runs.run(next, |_| Ok(Value::Null)).is_err());
        runs.run(next, |_| Ok(fio(1))).unwrap();
        assert!(runs.memory("end a 1 2 x").is_err());
    }
}
