//! `uzram bench fio`.

use std::str::FromStr;

use std::process::Command;

use crate::fio::{
    self, BufferContents, CELLS, Cell, DEFAULT_TARGETS, Length, Missing, Setting, Shape, TargetSpec,
};
use crate::report::Goal;
use uzram_control::size;

use super::{bar, check_files, hand_out, print, say, uzram};
use crate::failure::{Failure, Result, failed};
use crate::output::Files;

/// Measure with fio: zram-perf-test's table for devices, the kernel's zram, nbdkit, tmpfs, any path
///
/// The defaults are the series' own: 4 KiB, direct, one request at a time, sequential, random and
/// mixed, a static and a partly compressible buffer, more and more jobs. Targets are made for
/// their turn and taken away after it:
///
///   kernel-zram[:ALGORITHM]            /dev/zram0, where it is free; it is reset before and after
///   uzram[:FRONTEND[:ALGORITHM]]       a device of this program, as of "uzram create --private";
///                                      FRONTEND(NAME=VALUE,...) gives options, as of --NAME VALUE
///   nbdkit-memory[:allocator=NAME]     nbdkit's memory plugin: sparse, malloc, zstd
///   tmpfs                              a file in /dev/shm
///   PATH                               a block device or file, which is overwritten
///
/// Memory after the fill is printed below the speeds. A target that fails is reported, the
/// others go on, and the exit code is 1. What an interrupted run has measured goes to FILE.partial
/// instead of FILE. What is not known (a target, a frontend, an algorithm),
/// and a --size that there is no memory for, is refused before anything is made, with 2.
///
/// Each target's throughput and memory is laid beside the first one's, as a ratio: these are
/// the rows that --goal is for, such as
///
///   rand-read, buffer 50%, 4 KiB, depth 1, jobs 1: uzram over tmpfs, throughput
///   buffer 50%, 4 KiB, depth 1, jobs 1: uzram over tmpfs, memory after the fill
///   buffer 50%, 4 KiB, depth 1, jobs 1: uzram over tmpfs, memory after all cells
#[derive(clap::Args)]
#[command(verbatim_doc_comment)]
#[command(after_help = "\
Examples:
  uzram bench fio --quick
  uzram bench fio --jobs 1-4 --rounds 5 --json run.json --html run.html
  uzram bench fio --targets kernel-zram:lz4,uzram:ublk:lz4 --bs 4K,128K --iodepth 8,32 --seconds 3
  uzram bench fio --targets 'uzram:nbd:zstd(level=1),nbdkit-memory:allocator=zstd' --buffers 50% --only rand-write
  uzram bench fio --quick --targets nbdkit-memory:allocator=zstd,uzram:nbd:zstd --goal 'rand-read >= 1' --goal 'memory after <= 1'
  uzram bench fio --targets /dev/nullb0 --overwrite --engine io_uring --iodepth 32")]
pub(crate) struct Args {
    /// What to measure, separated by commas [default: kernel-zram, uzram, nbdkit-memory:allocator=zstd and tmpfs, as far
    /// as this machine has them]
    #[arg(long, value_name = "TARGETS", value_parser = parse_targets)]
    pub(crate) targets: Option<Targets>,
    /// Size of each target [default: 256M; with --quick 16M]
    #[arg(long, value_name = "SIZE", value_parser = size::parse)]
    size: Option<u64>,
    /// Numbers of jobs, such as 1,2,4 or 1-4 [default: 1 to the number of CPUs, at most 4]
    #[arg(long, value_name = "LIST", value_parser = parse_list)]
    jobs: Option<List>,
    /// Let each cell run so long instead of over the whole target once
    #[arg(long, value_name = "SECONDS", conflicts_with = "loops", value_parser = parse_seconds)]
    seconds: Option<f64>,
    /// How often each job goes over the whole target in a cell
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..))]
    loops: u32,
    /// Sizes of a request, separated by commas
    #[arg(long, value_name = "SIZES", default_value = "4K", value_delimiter = ',', value_parser = size::parse)]
    bs: Vec<u64>,
    /// How many requests a job has under way, such as 1,32
    #[arg(long, value_name = "LIST", default_value = "1", value_parser = parse_list)]
    iodepth: List,
    /// fio's engine for block devices and files where --iodepth is above 1
    #[arg(long, value_name = "ENGINE", default_value = "libaio", value_parser = ["libaio", "io_uring"])]
    pub(crate) engine: String,
    /// What is written: static, or how much of it compresses, as in 50%
    #[arg(
        long,
        value_name = "BUFFERS",
        default_value = "static,11%",
        value_delimiter = ','
    )]
    pub(crate) buffers: Vec<BufferContents>,
    /// Only these cells: seq-write, rand-write, seq-read, rand-read, mixed-rand, mixed-seq
    #[arg(long, value_name = "CELLS", value_delimiter = ',')]
    only: Vec<Cell>,
    /// How often all targets take turns [default: 3; with --quick 1]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    rounds: Option<u32>,
    /// Lay the others beside this target, too, and not only beside the first; may be repeated
    #[arg(long, value_name = "TARGET")]
    pub(crate) beside: Vec<String>,
    /// A goal, 'TEXT >= NUMBER' or 'TEXT <= NUMBER', for the rows whose text contains TEXT; may be repeated. Where
    /// several fit a row the last counts. One that fits no row is an error, one that is missed is not
    #[arg(long, value_name = "GOAL")]
    pub(crate) goal: Vec<Goal>,
    /// A small run, one job: its figures mean little
    #[arg(long)]
    quick: bool,
    /// What is on a path that is measured may be lost
    #[arg(long)]
    pub(crate) overwrite: bool,
    /// Print the series' format, a column for each target, instead of the table
    #[arg(long)]
    series: bool,
    #[command(flatten)]
    files: Files,
}

/// In types of their own: clap takes a `Vec` for an option that may be repeated.
#[derive(Debug, Clone)]
pub(crate) struct Targets(Vec<TargetSpec>);

#[derive(Debug, Clone, PartialEq, Eq)]
struct List(Vec<u32>);

fn parse_targets(text: &str) -> std::result::Result<Targets, String> {
    TargetSpec::list(text).map(Targets)
}

fn parse_seconds(text: &str) -> std::result::Result<f64, String> {
    match text.parse() {
        Ok(seconds) if (0.01..=86_400.0).contains(&seconds) => Ok(seconds),
        _ => Err("it takes 0.01 to 86400 seconds, such as 3 or 0.5".into()),
    }
}

fn parse_list(text: &str) -> std::result::Result<List, String> {
    text.parse()
}

impl FromStr for List {
    type Err = String;

    fn from_str(text: &str) -> std::result::Result<List, String> {
        const MOST: u32 = 1024;
        let number = |text: &str| text.trim().parse().ok().filter(|n| (1..=MOST).contains(n));
        let mut list = Vec::new();
        for part in text.split(',') {
            let (first, last) = part.split_once('-').unwrap_or((part, part));
            match (number(first), number(last)) {
                (Some(first), Some(last)) if first <= last => list.extend(first..=last),
                _ => {
                    return Err(format!(
                        "'{part}' is not understood: it takes numbers from 1 to {MOST}, as in 1,2,4 or 1-4"
                    ));
                }
            }
        }
        list.sort_unstable();
        list.dedup();
        Ok(List(list))
    }
}

impl Args {
    pub(super) fn run(self) -> Result {
        let (targets, skipped) = self.check()?;
        check_files(&self.files)?;
        let bar = bar("{bar:40} {pos}/{len} {msg} {eta}");
        let record = fio::run(&self, &targets, skipped, &mut |done, of, what| {
            bar.set_length(of as u64);
            bar.set_position(done as u64);
            say(&bar, what);
        });
        bar.finish_and_clear();
        let record = record.map_err(failed)?;
        // A record that is there stays, unless by a whole one.
        let files = match (record.figures.is_empty(), record.is_interrupted()) {
            (true, _) => Files::default(),
            (_, true) => self.files.partial(),
            _ => self.files,
        };
        if self.series {
            files.write(&record).map_err(failed)?;
            print(&record.series())?;
        } else {
            hand_out(&record, &files)?;
        }
        let list = |all: &[Missing]| {
            let all: Vec<_> = all.iter().map(Missing::to_string).collect();
            all.join("; ")
        };
        match record.failed.as_slice() {
            [] if record.figures.is_empty() => {
                let message = format!("nothing could be measured: {}", list(&record.skipped));
                Err(Failure::impossible(message))
            }
            [] => Ok(()),
            failed => Err(Failure::failed(list(failed))),
        }
    }

    /// Refuses what is not possible. Returns the targets that there is memory for, and those that were not demanded and are
    /// left out.
    fn check(&self) -> Result<(Vec<TargetSpec>, Vec<Missing>)> {
        let size = self.size_bytes();
        let most = self.bs.iter().copied().max().unwrap_or(0);
        if !size.is_multiple_of(4096) || size < most.max(1 << 20) {
            let message = format!(
                "--size {size} is not possible: it takes a multiple of 4096, of 1M or more and no less than --bs"
            );
            return Err(Failure::usage(message));
        }
        let odd = |bytes: &&u64| **bytes < 512 || !bytes.is_multiple_of(512);
        if let Some(bytes) = self.bs.iter().find(odd) {
            return Err(Failure::usage(format!(
                "--bs {bytes} is not possible: direct I/O takes multiples of 512"
            )));
        }
        let wanted = match &self.targets {
            Some(Targets(targets)) => targets.clone(),
            None => TargetSpec::list(DEFAULT_TARGETS).map_err(Failure::usage)?,
        };
        let (mut targets, mut skipped) = (Vec::new(), Vec::new());
        for target in wanted {
            target.check().map_err(Failure::usage)?;
            check_device(&target)?;
            match target.fits(size, &self.buffers) {
                Ok(()) => targets.push(target),
                Err(why) if self.targets.is_some() => return Err(Failure::usage(why)),
                Err(why) => skipped.push(Missing::new(target.name, why)),
            }
        }
        for beside in &self.beside {
            if !targets.iter().any(|target| target.name == *beside) {
                let names: Vec<_> = targets.iter().map(|target| target.name.as_str()).collect();
                let names = names.join(", ");
                return Err(Failure::usage(format!(
                    "--beside {beside} is not possible: it takes one of the targets, {names}"
                )));
            }
        }
        Ok((targets, skipped))
    }

    /// Bytes of each target.
    pub(crate) fn size_bytes(&self) -> u64 {
        let default = if self.quick { 16 << 20 } else { 256 << 20 };
        self.size.unwrap_or(default)
    }

    /// How long a cell runs.
    pub(crate) fn length(&self) -> Length {
        let loops = Length::Loops(self.loops);
        self.seconds.map_or(loops, Length::Seconds)
    }

    /// How often all take turns.
    pub(crate) fn rounds(&self) -> usize {
        self.rounds.unwrap_or(if self.quick { 1 } else { 3 }) as usize
    }

    pub(crate) fn cells(&self) -> Vec<Cell> {
        let wanted = |cell: &Cell| self.only.is_empty() || self.only.contains(cell);
        CELLS.into_iter().filter(wanted).collect()
    }

    /// The settings, in the order of the run.
    pub(crate) fn settings(&self) -> Vec<Setting> {
        let cpus = std::thread::available_parallelism().map_or(1, usize::from) as u32;
        let most = if self.quick { 1 } else { cpus.min(4) };
        let default = List((1..=most).collect());
        let List(all_jobs) = self.jobs.as_ref().unwrap_or(&default);
        let mut settings = Vec::new();
        for &buffer in &self.buffers {
            for &block_bytes in &self.bs {
                for &depth in &self.iodepth.0 {
                    let shape = Shape { block_bytes, depth };
                    settings.extend(all_jobs.iter().map(|&jobs| Setting {
                        buffer,
                        shape,
                        jobs,
                    }));
                }
            }
        }
        settings
    }
}

/// Refuses a frontend or an algorithm (with its parameters) that the program `uzram` does not know.
fn check_device(target: &TargetSpec) -> Result {
    let Some((frontend, algorithm)) = target.device() else {
        return Ok(());
    };
    let program = uzram();
    let mut command = Command::new(&program);
    command.arg("check-device");
    for (option, value) in [("--frontend", frontend), ("--algorithm", algorithm)] {
        command.args(value.map(|value| format!("{option}={value}")));
    }
    let output = command.output().map_err(|error| {
        Failure::impossible(format!("cannot run {}: {error}", program.display()))
    })?;
    match output.status.success() {
        true => Ok(()),
        false => {
            let why = String::from_utf8_lossy(&output.stderr);
            let why = why.trim().trim_start_matches("uzram: ");
            Err(Failure::usage(format!("--targets {target}: {why}")))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lists_are_numbers_and_ranges() {
        assert_eq!("1-4".parse(), Ok(List(vec![1, 2, 3, 4])));
        assert_eq!("8,1,1-2".parse(), Ok(List(vec![1, 2, 8])));
        for text in ["", "0", "4-1", "x", "1025", "1-"] {
            let error = text.parse::<List>().unwrap_err();
            assert!(error.contains("1,2,4"), "{text}: {error}");
        }
        assert!(parse_seconds("0").is_err() && parse_seconds("0.5") == Ok(0.5));
        assert!(parse_seconds("NaN").is_err());
    }
}
