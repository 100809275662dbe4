//! `zram-generator.conf`, read as systemd's zram-generator reads it: by the same crates in the same order.
//!
//! Its own library cannot serve: it fails as a whole over one line, and its errors name neither file nor section (see
//! `docs/design/48-configuration.md`). What it makes of a configuration without errors is what is made of it here, and
//! a test holds the two together. Here an error costs its section, or its variable and what uses that, and nothing else.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use fasteval::{EvalNamespace, Evaler, ExpressionI, Parser, Slab};
use ini::{Ini, Properties};
use uzram::compress::AlgorithmSpec;
use uzram_spec::{BackingSpec, Bytes, DeviceSpec, Failure, Result, SwapSpec};

use crate::config::{ConfigSection, NewDevice, pieces_of};
use crate::filesystem::{FileSystem, Mount};
use crate::persist::Persist;
use crate::problem::{Origin, Problem};

/// Directories below the root, the strongest last.
const DIRS: &[&str] = &["usr/lib", "usr/local/lib", "etc", "run"];
const FILE: &str = "systemd/zram-generator.conf";
const MB: f64 = 1024.0 * 1024.0;

/// What the files ask for.
#[derive(Default)]
pub struct Generated {
    /// Sections that make a device.
    pub sections: Vec<Section>,
    /// What is wrong with others.
    pub problems: Vec<Problem>,
    /// What there is to say about those that make none, and about what is ignored.
    pub notes: Vec<String>,
}

/// A section, in zram-generator's own words.
#[derive(Default)]
pub struct Section {
    /// Its name.
    pub name: String,
    /// The last file that has it.
    pub file: PathBuf,
    /// `host-memory-limit`.
    pub host_memory_limit_mb: Option<u64>,
    /// `zram-size`, or what it was before there was one: in bytes.
    pub disksize: u64,
    /// `zram-resident-limit` in bytes; 0 for none.
    pub mem_limit: u64,
    /// Names and parameters: the first compresses, the others compress anew.
    pub compression_algorithms: Vec<(String, String)>,
    /// What is to be compressed anew.
    pub recompression_global: String,
    /// `writeback-device`.
    pub writeback_dev: Option<PathBuf>,
    /// `swap-priority`.
    pub swap_priority: i32,
    /// `mount-point`.
    pub mount_point: Option<PathBuf>,
    /// `fs-type`.
    pub fs_type: Option<String>,
    /// Of `mount` or `swapon`.
    pub options: String,
    zram_size: Option<Expression>,
    zram_resident_limit: Option<Expression>,
    zram_fraction: Option<f64>,
    max_zram_size_mb: Option<Option<u64>>,
    /// Whether it has an error.
    broken: bool,
}

/// Arithmetic that is evaluated when all variables are known.
struct Expression {
    text: String,
    parsed: ExpressionI,
    slab: Slab,
}

impl Expression {
    fn parse(text: &str) -> std::result::Result<Expression, String> {
        let mut slab = Slab::new();
        let parsed = Parser::new().parse_noclear(text, &mut slab.ps);
        Ok(Expression {
            text: text.into(),
            parsed: parsed.map_err(|error| format!("'{text}': {error}"))?,
            slab,
        })
    }

    /// Its value, which is in MB, in bytes.
    fn bytes(&self, variables: &mut Variables) -> std::result::Result<u64, String> {
        let value = self.parsed.from(&self.slab.ps).eval(&self.slab, variables);
        match value {
            // So that not even a NaN gets by.
            Ok(mb) if mb >= 0.0 => Ok((mb * MB) as u64),
            Ok(mb) => Err(format!("'{}' is {mb} MB", self.text)),
            Err(error) => Err(format!("'{}': {error}", self.text)),
        }
    }
}

/// What expressions may name.
struct Variables {
    ram_mb: u64,
    set: BTreeMap<String, f64>,
}

impl EvalNamespace for Variables {
    fn lookup(&mut self, name: &str, args: Vec<f64>, _: &mut String) -> Option<f64> {
        match name {
            _ if !args.is_empty() => None,
            "ram" => Some(self.ram_mb as f64),
            name => self.set.get(name).copied(),
        }
    }
}

/// Whether any of the files is there.
pub(crate) fn is_there(root: &Path) -> bool {
    !files(root).is_empty()
}

/// Reads the files below `root`, which is usually `/`, for the machine that `proc` below it describes, else for this one.
pub fn read(root: &Path) -> Generated {
    let mut generated = Generated::default();
    let by_kernel = kernel_option(root);
    if by_kernel == Some(false) {
        let note =
            "no device of zram-generator.conf is made: the kernel was started with systemd.zram=0";
        generated.notes.push(note.into());
        return generated;
    }
    let ram_mb = memory_mb(&root.join("proc/meminfo")).unwrap_or_else(own_memory_mb);
    let mut reader = Reader {
        variables: Variables {
            ram_mb,
            set: BTreeMap::new(),
        },
        sections: Vec::new(),
        generated,
    };
    for path in files(root).into_values() {
        reader.file(&path);
    }
    if by_kernel == Some(true) {
        reader.section("zram0", &root.join("proc/cmdline"));
    }
    reader.finish()
}

/// `systemd.zram` on the kernel's command line; the last one counts.
fn kernel_option(root: &Path) -> Option<bool> {
    let text = std::fs::read_to_string(root.join("proc/cmdline")).ok()?;
    let values = text.split_whitespace().rev();
    let mut values = values.filter_map(|word| match word.strip_prefix("systemd.zram")? {
        "" | "=1" | "=yes" | "=true" | "=on" => Some(true),
        "=0" | "=no" | "=false" | "=off" => Some(false),
        _ => None,
    });
    values.next()
}

fn memory_mb(meminfo: &Path) -> Option<u64> {
    let text = std::fs::read_to_string(meminfo).ok()?;
    let total = text.lines().find_map(|line| {
        let mut fields = line.split_whitespace();
        (fields.next()? == "MemTotal:").then(|| fields.next())?
    });
    Some(total?.parse::<u64>().ok()? / 1024)
}

/// Of this machine, where the root has no word of it.
fn own_memory_mb() -> u64 {
    let info = rustix::system::sysinfo();
    (info.totalram as u64).saturating_mul(u64::from(info.mem_unit)) >> 20
}

/// The files that count, in the order in which they are read.
fn files(root: &Path) -> BTreeMap<OsString, PathBuf> {
    let dirs: Vec<PathBuf> = DIRS.iter().map(|dir| root.join(dir)).collect();
    let mut files = liboverdrop::scan(&dirs, format!("{FILE}.d"), &["conf"], true);
    let main = dirs.iter().rev().map(|dir| dir.join(FILE));
    if let Some(path) = main.into_iter().find(|path| path.exists()) {
        // Before all others.
        files.insert(OsString::new(), path);
    }
    files
}

struct Reader {
    variables: Variables,
    sections: Vec<Section>,
    generated: Generated,
}

impl Reader {
    fn file(&mut self, path: &Path) {
        match Ini::load_from_file(path) {
            Ok(ini) => self.ini(path, &ini),
            Err(ini::Error::Io(error)) => {
                let problem = Origin::new(path, "").problem(error.into());
                self.generated.problems.push(problem);
            }
            Err(ini::Error::Parse(_)) => self.pieces(path),
        }
    }

    /// Reads a file that is broken somewhere: each section by itself.
    fn pieces(&mut self, path: &Path) {
        let text = std::fs::read_to_string(path).unwrap_or_default();
        let text = text.strip_prefix('\u{feff}').unwrap_or(&text);
        let begins = |line: &str| line.trim_start().starts_with('[');
        for ConfigSection { text: piece, .. } in pieces_of(text, begins) {
            match Ini::load_from_str(&piece) {
                Ok(ini) => self.ini(path, &ini),
                Err(error) => {
                    let header = piece.lines().next().unwrap_or_default().trim();
                    let header = if header.starts_with('[') { header } else { "" };
                    let origin = Origin::new(path, header);
                    self.generated.problems.push(origin.usage(error.msg));
                    let name = header.trim_start_matches('[').split(']').next();
                    let name = name.unwrap_or_default().trim();
                    if is_name(name) {
                        self.section(name, path).broken = true;
                    }
                }
            }
        }
    }

    fn ini(&mut self, path: &Path, ini: &Ini) {
        for (name, properties) in ini {
            match name {
                None => self.directives(path, properties),
                Some(name) if is_name(name) => self.properties(name, path, properties),
                Some(name) => {
                    let note = format!(
                        "{}: [{name}]: ignored, since it is not zram and a number",
                        path.display()
                    );
                    self.generated.notes.push(note);
                }
            }
        }
    }

    fn directives(&mut self, path: &Path, properties: &Properties) {
        for (key, value) in properties {
            match key.split_once('!') {
                Some(("set", name)) => match evaluate(value, &mut self.variables) {
                    Ok((value, note)) => {
                        self.variables.set.insert(name.into(), value);
                        let notes = note.map(|note| format!("{}: {key}: {note}", path.display()));
                        self.generated.notes.extend(notes);
                    }
                    Err(message) => {
                        let problem = Origin::new(path, key).usage(message);
                        self.generated.problems.push(problem);
                    }
                },
                _ => {
                    let note = format!("{}: {key}: ignored, outside of a section", path.display());
                    self.generated.notes.push(note);
                }
            }
        }
    }

    fn properties(&mut self, name: &str, path: &Path, properties: &Properties) {
        let origin = Origin::new(path, format!("[{name}]"));
        let (mut problems, mut notes) = (Vec::new(), Vec::new());
        let section = self.section(name, path);
        for (key, value) in properties {
            match section.set(key, value) {
                Ok(true) => {}
                Ok(false) => notes.push(format!("{origin}: {key}: not known and ignored")),
                Err(message) => {
                    problems.push(origin.usage(format!("{key}: {message}")));
                    section.broken = true;
                }
            }
        }
        self.generated.problems.extend(problems);
        self.generated.notes.extend(notes);
    }

    /// The section of that name, new or from an earlier file.
    fn section(&mut self, name: &str, path: &Path) -> &mut Section {
        let known = self.sections.iter().position(|known| known.name == name);
        let index = known.unwrap_or_else(|| {
            self.sections.push(Section::new(name));
            self.sections.len() - 1
        });
        let section = &mut self.sections[index];
        section.file = path.into();
        section
    }

    fn finish(mut self) -> Generated {
        for mut section in self.sections {
            let origin = section.origin();
            if section.broken {
                continue;
            }
            let ram_mb = self.variables.ram_mb;
            if let Some(limit) = section.host_memory_limit_mb.filter(|limit| *limit < ram_mb) {
                let note =
                    format!("{origin}: not made, since the machine has more than {limit} MB");
                self.generated.notes.push(note);
                continue;
            }
            if let Err(message) = section.evaluate(&mut self.variables) {
                self.generated.problems.push(origin.usage(message));
                continue;
            }
            if section.disksize == 0 {
                let note = format!("{origin}: not made, since its size is 0");
                self.generated.notes.push(note);
                continue;
            }
            self.generated.sections.push(section);
        }
        self.generated
    }
}

/// What a shell command prints, as an expression; and what there is to say about that.
fn evaluate(
    command: &str,
    variables: &mut Variables,
) -> std::result::Result<(f64, Option<String>), String> {
    let output = Command::new("/bin/sh")
        .args(["-c", "--", command])
        .stdin(Stdio::null())
        .stderr(Stdio::inherit())
        .output()
        .map_err(|error| format!("'{command}': {error}"))?;
    let exit = output.status.code();
    let exit = exit.unwrap_or_else(|| 128 + output.status.signal().unwrap_or_default());
    // Its output counts all the same.
    let note = (exit != 0).then(|| format!("'{command}' exited with {exit}"));
    let text = String::from_utf8(output.stdout)
        .map_err(|error| format!("what '{command}' printed: {error}"))?;
    let failed = |error| {
        let exit = note.as_ref().map_or("", |_| ", and failed");
        format!("'{command}' printed '{}'{exit}: {error}", text.trim())
    };
    let mut slab = Slab::new();
    let parsed = Parser::new().parse(&text, &mut slab.ps).map_err(&failed)?;
    let value = parsed.from(&slab.ps).eval(&slab, variables);
    Ok((value.map_err(&failed)?, note))
}

/// Whether it is a section's that is a device.
fn is_name(name: &str) -> bool {
    name.strip_prefix("zram")
        .is_some_and(|number| number.parse::<u64>().is_ok())
}

impl Section {
    fn new(name: &str) -> Section {
        Section {
            name: name.into(),
            swap_priority: 100,
            options: "discard".into(),
            ..Section::default()
        }
    }

    fn origin(&self) -> Origin {
        Origin::new(&self.file, format!("[{}]", self.name))
    }

    /// Takes a key's value. False for a key that is not known.
    fn set(&mut self, key: &str, value: &str) -> std::result::Result<bool, String> {
        match key {
            "host-memory-limit" | "memory-limit" => {
                self.host_memory_limit_mb = size_or_none(value)?;
            }
            "zram-size" => self.zram_size = Some(Expression::parse(value)?),
            "zram-resident-limit" => self.zram_resident_limit = Some(Expression::parse(value)?),
            "compression-algorithm" => {
                (self.compression_algorithms, self.recompression_global) = algorithms(value);
            }
            "writeback-device" => self.writeback_dev = Some(absolute(value)?),
            "swap-priority" => {
                let priority = value.parse().ok();
                let priority = priority.filter(|number| (-1..=0x7FFF).contains(number));
                self.swap_priority =
                    priority.ok_or_else(|| format!("'{value}': a number from -1 to 32767"))?;
            }
            // Anywhere, as upstream: also where uzram.toml refuses it.
            "mount-point" => self.mount_point = Some(absolute(value)?),
            "fs-type" => self.fs_type = Some(value.into()),
            "options" => self.options = value.into(),
            "zram-fraction" => {
                let fraction = value.parse().ok().filter(|number| *number >= 0.0);
                let fraction = fraction.ok_or_else(|| format!("'{value}': a number"))?;
                self.zram_fraction = Some(fraction);
            }
            "max-zram-size" => self.max_zram_size_mb = Some(size_or_none(value)?),
            _ => return Ok(false),
        }
        Ok(true)
    }

    fn evaluate(&mut self, variables: &mut Variables) -> std::result::Result<(), String> {
        let ram_mb = variables.ram_mb as f64;
        self.disksize = if self.zram_fraction.is_some() || self.max_zram_size_mb.is_some() {
            let most = self.max_zram_size_mb.flatten().unwrap_or(u64::MAX);
            let mb = (self.zram_fraction.unwrap_or(0.5) * ram_mb) as u64;
            mb.min(most).saturating_mul(1 << 20)
        } else {
            match &self.zram_size {
                Some(size) => size
                    .bytes(variables)
                    .map_err(|message| format!("zram-size: {message}"))?,
                None => ((ram_mb / 2.0).min(4096.0) * MB) as u64,
            }
        };
        self.mem_limit = match &self.zram_resident_limit {
            Some(limit) => limit
                .bytes(variables)
                .map_err(|message| format!("zram-resident-limit: {message}"))?,
            None => 0,
        };
        Ok(())
    }

    /// Whether the device is swap.
    pub fn is_swap(&self) -> bool {
        self.mount_point.is_none() && self.fs_type.as_deref().is_none_or(|kind| kind == "swap")
    }

    /// The device that it asks for, and what there is to say about what is not as zram-generator has it.
    pub(crate) fn device(
        &self,
        notes: &mut Vec<String>,
    ) -> std::result::Result<NewDevice, Problem> {
        let origin = self.origin();
        match self.description(notes) {
            Ok((spec, filesystem)) => Ok(NewDevice {
                origin,
                spec,
                filesystem,
                persist: Persist::never(),
            }),
            Err(failure) => Err(origin.problem(failure)),
        }
    }

    fn description(&self, notes: &mut Vec<String>) -> Result<(DeviceSpec, Option<FileSystem>)> {
        let origin = self.origin();
        let mut spec = DeviceSpec {
            name: Some(self.name.clone()),
            size: Some(Bytes(self.disksize)),
            mem_limit: Bytes(self.mem_limit).into(),
            ..DeviceSpec::default()
        };
        let mut algorithms = self.compression_algorithms.iter().map(algorithm);
        if let Some(primary) = algorithms.next() {
            spec.algorithm = primary?;
        }
        spec.recomp_algorithm = algorithms.collect::<Result<_>>()?;
        if !self.recompression_global.is_empty() {
            notes.push(format!(
                "{origin}: compression-algorithm: ({}) is not used: see policy in uzram.toml",
                self.recompression_global
            ));
        }
        spec.backing = self
            .writeback_dev
            .clone()
            .map(|path| BackingSpec::file(path, None));
        let filesystem = if self.is_swap() {
            spec.swap = Some(SwapSpec {
                priority: self.swap_priority,
                ..SwapSpec::default()
            });
            if self.options != "discard" {
                notes.push(format!(
                    "{origin}: options: swap is always switched on with discard"
                ));
            }
            None
        } else {
            Some(FileSystem {
                kind: self.fs_type.clone().unwrap_or_else(|| "ext2".into()),
                mount: self.mount_point.clone().map(|at| Mount {
                    at,
                    options: self.options.clone(),
                    ..Mount::default()
                }),
                ..FileSystem::default()
            })
        };
        spec.check()?;
        Ok((spec, filesystem))
    }
}

/// An algorithm with parameters that are separated by blanks.
fn algorithm((name, params): &(String, String)) -> Result<AlgorithmSpec> {
    let params = params.split_whitespace().map(|param| {
        let pair = param.split_once('=');
        let pair = pair.map(|(key, value)| (key.to_owned(), value.to_owned()));
        pair.ok_or_else(|| {
            let message = format!(
                "compression-algorithm: '{param}' of {name}: a parameter is a key, '=' and a value"
            );
            Failure::usage(message)
        })
    });
    Ok(AlgorithmSpec {
        name: name.clone(),
        params: params.collect::<Result<_>>()?,
    })
}

/// `zstd(level=3,x=y) lz4hc (type=idle)`: algorithms with their parameters, and what stands alone in parentheses.
fn algorithms(text: &str) -> (Vec<(String, String)>, String) {
    let (mut algorithms, mut global) = (Vec::new(), String::new());
    for word in text.split_whitespace() {
        let (name, params) = word.split_once('(').unwrap_or((word, ""));
        let params = params.strip_suffix(')').unwrap_or(params);
        let params = params.replace(',', " ");
        match name.is_empty() {
            true => global = params,
            false => algorithms.push((name.to_owned(), params)),
        }
    }
    (algorithms, global)
}

fn size_or_none(value: &str) -> std::result::Result<Option<u64>, String> {
    match value {
        "none" => Ok(None),
        value => match value.parse() {
            Ok(number) => Ok(Some(number)),
            Err(_) => Err(format!("'{value}': MB, or none")),
        },
    }
}

fn absolute(value: &str) -> std::result::Result<PathBuf, String> {
    Mount::point(value).map_err(|_| format!("'{value}': an absolute path without '..'"))
}
