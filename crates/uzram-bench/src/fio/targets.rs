//! The targets that fio measures, one file for each kind. A target is created for its turn and removed after it, so that
//! every round starts on a fresh one.

mod kernel_zram;
mod nbdkit;
mod path;
mod uzram;

use std::fmt;
use std::path::{Path, PathBuf};
use std::str::FromStr;

use anyhow::Result;
use serde::{Deserialize, Serialize};
use uzram_control::{Request, Response};

pub(super) use kernel_zram::algorithms as kernel_algorithms;
pub(super) use path::{MAGIC as TMPFS_MAGIC, TMPFS};

/// The targets that are measured unless others are named.
pub const DEFAULT: &str = "kernel-zram,uzram,nbdkit-memory:allocator=zstd,tmpfs";

const ACCEPTED: &str = "kernel-zram[:ALGORITHM], uzram[:FRONTEND[(OPTION=VALUE,...)][:ALGORITHM]], nbdkit-memory[:allocator=zstd|malloc|sparse], \
    tmpfs, or a path with a / in it";

/// A target as the command line names it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TargetSpec {
    /// As written; its name in the report.
    pub name: String,
    pub(super) kind: TargetKind,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum TargetKind {
    KernelZram {
        algorithm: Option<String>,
    },
    Uzram {
        frontend: Option<String>,
        /// Names and values of the frontend's options.
        options: Vec<(String, String)>,
        algorithm: Option<String>,
    },
    NbdkitMemory {
        allocator: Option<String>,
    },
    Tmpfs,
    Path(PathBuf),
}

/// What a target is created with.
pub(super) struct Means<'a> {
    pub(super) size_bytes: u64,
    /// The uzram program.
    pub(super) program: &'a Path,
    /// A directory of this run's own.
    pub(super) dir: &'a Path,
    /// Whether the contents of a given path may be overwritten.
    pub(super) overwrite: bool,
}

/// How fio reaches a target.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum TargetPath {
    /// A block device or file; whether it takes direct I/O.
    File { path: PathBuf, direct: bool },
    /// An NBD URI.
    Uri(String),
}

/// Memory that a target takes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct TargetMemory {
    /// Bytes of data, if the target reports them.
    pub data_bytes: Option<u64>,
    /// Bytes of memory for them.
    pub used_bytes: u64,
}

/// How to read a target's memory, from any thread.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Probe {
    /// A kernel zram's `mm_stat`.
    MmStat(PathBuf),
    /// The control socket of a uzram server.
    Server(PathBuf),
    /// Resident memory of a process.
    Resident(u32),
    /// Blocks of a file in memory.
    Blocks(PathBuf),
    /// Not reported.
    Unknown,
}

/// A target that exists until it is dropped.
pub(super) trait Target {
    fn place(&self) -> TargetPath;

    fn probe(&self) -> Probe;

    /// A note on its figures; may be empty.
    fn note(&self) -> String {
        String::new()
    }

    /// Removes the target. Required, so that a failure is reported; dropping it removes it, too.
    fn close(&mut self) -> Result<()>;
}

impl Probe {
    /// Reads the memory; `None` without an answer.
    pub(super) fn read(&self) -> Option<TargetMemory> {
        match self {
            Probe::MmStat(path) => kernel_zram::memory(&std::fs::read_to_string(path).ok()?),
            Probe::Server(socket) => match uzram_control::call(socket, &Request::Stat) {
                Ok(Response::Stat(stat)) => Some(TargetMemory {
                    data_bytes: Some(stat.counters.orig_data_size_bytes),
                    used_bytes: stat.all_memory(),
                }),
                _ => None,
            },
            Probe::Resident(pid) => {
                let status = std::fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
                let line = status
                    .lines()
                    .find_map(|line| line.strip_prefix("VmRSS:"))?;
                let kib: u64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
                let used_bytes = kib << 10;
                Some(TargetMemory {
                    data_bytes: None,
                    used_bytes,
                })
            }
            Probe::Blocks(path) => {
                let used_bytes = path::blocks(path).ok()?;
                let data_bytes = Some(used_bytes);
                Some(TargetMemory {
                    data_bytes,
                    used_bytes,
                })
            }
            Probe::Unknown => None,
        }
    }
}

impl TargetSpec {
    /// Splits a list at commas outside of an algorithm's parentheses.
    pub fn list(text: &str) -> Result<Vec<TargetSpec>, String> {
        let mut depth = 0;
        let separates = |c: char| {
            match c {
                '(' => depth += 1,
                ')' => depth -= 1,
                _ => {}
            }
            c == ',' && depth == 0
        };
        let list: Vec<TargetSpec> = text
            .split(separates)
            .map(str::parse)
            .collect::<Result<_, String>>()?;
        for (at, spec) in list.iter().enumerate() {
            if list[..at].contains(spec) {
                return Err(format!("'{spec}' is there twice"));
            }
        }
        Ok(list)
    }

    /// Creates the target.
    pub(super) fn open(&self, means: &Means<'_>) -> Result<Box<dyn Target>> {
        Ok(match &self.kind {
            TargetKind::KernelZram { algorithm } => {
                Box::new(kernel_zram::KernelZram::new(algorithm.as_deref(), means)?)
            }
            TargetKind::Uzram {
                frontend,
                options,
                algorithm,
            } => Box::new(uzram::Uzram::new(
                frontend.as_deref(),
                options,
                algorithm.as_deref(),
                means,
            )?),
            TargetKind::NbdkitMemory { allocator } => {
                Box::new(nbdkit::Nbdkit::new(allocator.as_deref(), means)?)
            }
            TargetKind::Tmpfs => Box::new(path::on_tmpfs(means)?),
            TargetKind::Path(path) => Box::new(path::Given::new(path, means)?),
        })
    }
}

/// Reads `FRONTEND` or `FRONTEND(NAME=VALUE,...)`.
fn with_options(text: &str) -> Option<(String, Vec<(String, String)>)> {
    let Some((frontend, rest)) = text.split_once('(') else {
        return Some((text.into(), Vec::new()));
    };
    let pair = |pair: &str| {
        let (name, value) = pair.split_once('=')?;
        Some((name.trim().to_owned(), value.trim().to_owned()))
    };
    let options = rest.strip_suffix(')')?.split(',').map(pair);
    Some((frontend.into(), options.collect::<Option<_>>()?))
}

impl fmt::Display for TargetSpec {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.name)
    }
}

impl FromStr for TargetSpec {
    type Err = String;

    fn from_str(text: &str) -> Result<TargetSpec, String> {
        let text = text.trim();
        let wrong = |why: &str| Err(format!("'{text}' is no target: {why}; it takes {ACCEPTED}"));
        let mut words = text.splitn(3, ':');
        let kind = words.next().unwrap_or_default();
        let mut word = || {
            words
                .next()
                .filter(|word| !word.is_empty())
                .map(str::to_owned)
        };
        let (first, second) = (word(), word());
        let kind = match kind {
            _ if text.contains('/') && !text.starts_with("uzram:") => TargetKind::Path(text.into()),
            "kernel-zram" if second.is_none() => TargetKind::KernelZram { algorithm: first },
            "uzram" => {
                let (frontend, options) = match first.as_deref().map(with_options) {
                    None => (None, Vec::new()),
                    Some(Some((frontend, options))) => (Some(frontend), options),
                    Some(None) => return wrong("options are NAME=VALUE in parentheses"),
                };
                TargetKind::Uzram {
                    frontend,
                    options,
                    algorithm: second,
                }
            }
            "nbdkit-memory" if second.is_none() => {
                let allocator = match first.as_deref().map(|word| word.strip_prefix("allocator=")) {
                    None => None,
                    Some(Some(name @ ("zstd" | "malloc" | "sparse"))) => Some(name.to_owned()),
                    Some(_) => return wrong("nbdkit has no such allocator"),
                };
                TargetKind::NbdkitMemory { allocator }
            }
            "tmpfs" if first.is_none() => TargetKind::Tmpfs,
            "kernel-zram" | "nbdkit-memory" | "tmpfs" => return wrong("it has too many parts"),
            _ => return wrong("the kind is unknown"),
        };
        let name = text.to_owned();
        Ok(TargetSpec { name, kind })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn targets_are_read_and_commas_in_parentheses_do_not_part_them() {
        let list =
            TargetSpec::list("kernel-zram:lz4,uzram:nbd:zstd(level=1,dict=/a),tmpfs,/dev/sdz")
                .unwrap();
        assert_eq!(list.len(), 4);
        assert_eq!(
            list[0].kind,
            TargetKind::KernelZram {
                algorithm: Some("lz4".into())
            }
        );
        let (frontend, algorithm) = (Some("nbd".into()), Some("zstd(level=1,dict=/a)".into()));
        assert_eq!(
            list[1].kind,
            TargetKind::Uzram {
                frontend,
                options: Vec::new(),
                algorithm
            }
        );
        let looped = TargetSpec::list("uzram:fuse-loop(fuse-uring=on,number=7):lz4,tmpfs").unwrap();
        let option = |name: &str, value: &str| (name.to_owned(), value.to_owned());
        assert_eq!(
            looped[0].kind,
            TargetKind::Uzram {
                frontend: Some("fuse-loop".into()),
                options: vec![option("fuse-uring", "on"), option("number", "7")],
                algorithm: Some("lz4".into()),
            }
        );
        assert_eq!(list[3].kind, TargetKind::Path("/dev/sdz".into()));
        assert_eq!(TargetSpec::list(DEFAULT).unwrap().len(), 4);
        let bare: TargetSpec = "uzram".parse().unwrap();
        assert_eq!(
            bare.kind,
            TargetKind::Uzram {
                frontend: None,
                options: Vec::new(),
                algorithm: None
            }
        );
    }

    #[test]
    fn what_is_no_target_is_told_what_is() {
        for text in [
            "",
            "zram",
            "tmpfs:x",
            "nbdkit-memory:zstd",
            "kernel-zram:lz4:9",
            "uzram:fuse-loop(fuse-uring):lz4",
            "uzram:fuse-loop(fuse-uring=on:lz4",
        ] {
            let error = text.parse::<TargetSpec>().unwrap_err();
            assert!(error.contains("kernel-zram[:ALGORITHM]"), "{text}: {error}");
        }
    }
}
