//! `uzram.toml`: what the daemon does, and the devices that it makes when it starts.
//!
//! ```toml
//! [daemon]
//! frontend = "auto"          # of devices that are initialised by writing disksize
//! strict = true              # zram's interface does what the kernel's does and no more
//! num_devices = 1            # not initialised, as of the kernel's module
//! sysfs = "/run/uzram/sys"   # where to show zram's interface
//! zram_generator = true      # make the devices of zram-generator.conf, too
//! persist = false            # whether devices are saved when the machine goes down, unless they say
//! persist_dir = "/var/lib/uzram"
//!
//! [[device]]                 # any option of `uzram create` by its name, and:
//! name = "zram7"
//! size = "8G"
//! algorithm = "zstd(level=1)"
//! fs-type = "ext4"
//! mkfs-options = ["-m", "0"]
//! label = "cache"
//! mount-point = "/var/cache/build"
//! mount-options = "discard"
//! mount-owner = "build:build"
//! mount-mode = "0755"
//! persist = true             # saved to /var/lib/uzram/zram7.uzsnap, and made of that
//! persist-dir = "/srv/saved" # not there but here
//! persist-or-empty = true    # made empty if that is damaged
//!
//! [[nbd]]                    # devices that are offered together; any option of `uzram nbd` by its name, and:
//! listen = "unix:/run/disks.sock"
//! exports = { builds = "zram3", root = "zram4" }
//! ```
//!
//! Reading it never fails as a whole: what is wrong is a list of problems, each of which keeps its own entry from being
//! used, and no other.

use std::collections::BTreeSet;
use std::io::Read;
use std::os::unix::fs::FileTypeExt;
use std::path::{Path, PathBuf};

use rustix::fs::{Mode, OFlags};
use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::{Map, Value};
use uzram_runtime::{frontends, logging};
use uzram_spec::{DeviceSpec, Failure, Result};

use crate::exports::{LISTEN, NewExports};
use crate::filesystem::{FileSystem, Mount};
use crate::options::spec_from_options;
use crate::persist::{Persist, Place};
use crate::problem::{Origin, Problem};

/// Most devices that are there at first and not initialised.
const MAX_NUM_DEVICES: u32 = 1024;

/// The daemon's configuration.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct DaemonConfig {
    /// What the daemon does.
    pub daemon: DaemonSettings,
    /// The devices to make.
    pub devices: Vec<NewDevice>,
    /// What is offered together.
    pub exports: Vec<NewExports>,
    /// Where a `[[nbd]]` wants to listen, also one that is wrong.
    pub(crate) addresses: BTreeSet<String>,
    /// What is wrong with the rest.
    pub problems: Vec<Problem>,
}

/// What the daemon does.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct DaemonSettings {
    /// The frontend of devices that are initialised through zram's interface.
    pub frontend: String,
    /// Whether zram's interface allows only what the kernel's does.
    pub strict: bool,
    /// How many devices there are at first that are not initialised.
    pub num_devices: u32,
    /// Where zram's interface is mounted.
    pub sysfs: Option<PathBuf>,
    /// Whether the devices of zram-generator.conf are made.
    pub zram_generator: bool,
    /// Whether a `[[device]]` that does not say is saved when the machine goes down.
    pub persist: bool,
    /// Where to.
    pub persist_dir: PathBuf,
    /// Which of the two stand there and could not be read. What is saved of a device that goes by them is not known, then.
    #[serde(skip)]
    pub(crate) unread: BTreeSet<&'static str>,
}

/// Settings by which devices are saved.
const OF_SAVING: [&str; 2] = ["persist", "persist_dir"];

/// The most bytes of a configuration.
const MOST_BYTES: u64 = 1 << 20;

impl Default for DaemonSettings {
    fn default() -> DaemonSettings {
        DaemonSettings {
            frontend: "auto".into(),
            strict: true,
            num_devices: 0,
            sysfs: None,
            zram_generator: false,
            persist: false,
            persist_dir: "/var/lib/uzram".into(),
            unread: BTreeSet::new(),
        }
    }
}

impl DaemonSettings {
    /// Reads one of them.
    fn one(key: &str, value: &Value) -> std::result::Result<(), String> {
        let alone = Map::from_iter([(key.to_owned(), value.clone())]);
        let settings = DaemonSettings::deserialize(Value::Object(alone));
        let settings = settings.map_err(|error| error.to_string())?;
        frontends::check_name(&settings.frontend)?;
        if settings.sysfs.is_some_and(|at| !at.is_absolute()) {
            return Err("an absolute path".into());
        }
        if !settings.persist_dir.is_absolute() {
            return Err("an absolute path".into());
        }
        if settings.num_devices > MAX_NUM_DEVICES {
            return Err(format!("at most {MAX_NUM_DEVICES}"));
        }
        Ok(())
    }

    /// Takes what can be taken. What cannot has its default.
    fn read(origin: &Origin, section: &Value, problems: &mut Vec<Problem>) -> DaemonSettings {
        let Value::Object(entries) = section else {
            problems.push(origin.usage("a table"));
            return DaemonSettings {
                unread: OF_SAVING.into(),
                ..DaemonSettings::default()
            };
        };
        let (mut good, mut unread) = (entries.clone(), BTreeSet::new());
        for (key, value) in entries {
            if let Err(message) = DaemonSettings::one(key, value) {
                problems.push(origin.usage(format!("{key}: {message}")));
                good.remove(key);
                unread.extend(OF_SAVING.into_iter().filter(|of| of == key));
            }
        }
        DaemonSettings {
            unread,
            ..DaemonSettings::deserialize(Value::Object(good)).unwrap_or_default()
        }
    }
}

/// A device to be made, and what is done with it then.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct NewDevice {
    /// Where it was asked for.
    pub origin: Origin,
    /// What it is. It has a name, by which it is known again.
    pub spec: DeviceSpec,
    /// The file system that is made on it.
    pub filesystem: Option<FileSystem>,
    /// Whether it outlives the machine, and where.
    pub persist: Persist,
}

impl DaemonConfig {
    /// Reads the file. `None`: there is none.
    pub fn read(path: &Path) -> Option<DaemonConfig> {
        match read_bounded(path) {
            Ok(bytes) => Some(DaemonConfig::parse(path, &bytes)),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => None,
            Err(error) => Some(DaemonConfig {
                problems: vec![Origin::new(path, "").problem(error.into())],
                ..DaemonConfig::default()
            }),
        }
    }

    /// Reads what stands in a file of that path.
    pub fn parse(path: &Path, bytes: &[u8]) -> DaemonConfig {
        let mut config = DaemonConfig::default();
        // A byte that is not UTF-8 costs its section, as what is broken otherwise does, and in a comment nothing.
        let text = String::from_utf8_lossy(bytes);
        let text = text.strip_prefix('\u{feff}').unwrap_or(&text);
        let is_utf8 = std::str::from_utf8(bytes).is_ok();
        let pieces = match toml::from_str(text) {
            Ok(sections) if is_utf8 => vec![(sections, SectionCounts::default())],
            _ => config.pieces(path, text, is_utf8),
        };
        let mut settled = false;
        for (sections, first) in pieces {
            for (key, section) in sections {
                let origin = Origin::new(path, format!("[{key}]"));
                match (key.as_str(), section) {
                    ("daemon", _) if settled => {
                        config.problems.push(origin.usage("it is there already"));
                    }
                    ("daemon", section) => {
                        settled = true;
                        let unread = std::mem::take(&mut config.daemon.unread);
                        config.daemon =
                            DaemonSettings::read(&origin, &section, &mut config.problems);
                        config.daemon.unread.extend(unread);
                    }
                    ("device", Value::Array(devices)) => {
                        for (index, device) in devices.into_iter().enumerate() {
                            config.add(path, first.devices + index, device);
                        }
                    }
                    ("nbd", Value::Array(servers)) => {
                        for (index, server) in servers.into_iter().enumerate() {
                            config.add_exports(path, first.servers + index, server);
                        }
                    }
                    ("device" | "nbd", _) => {
                        config
                            .problems
                            .push(origin.usage(format!("a list: [[{key}]]")));
                    }
                    _ => {
                        let message = "not known: there are [daemon], [[device]] and [[nbd]]";
                        config.problems.push(origin.usage(message));
                    }
                }
            }
        }
        config
    }

    /// Reads a file that is broken somewhere: each section by itself, so that what is broken costs no other. Gives what is in
    /// each, and how many others stand before it.
    fn pieces(
        &mut self,
        path: &Path,
        text: &str,
        is_utf8: bool,
    ) -> Vec<(Map<String, Value>, SectionCounts)> {
        // What stands in `text` for bytes that are not.
        let is_lossy = |sections: &Map<String, Value>| {
            !is_utf8
                && Value::Object(sections.clone())
                    .to_string()
                    .contains(char::REPLACEMENT_CHARACTER)
        };
        let mut pieces = Vec::new();
        let mut counts = SectionCounts::default();
        let begins = |line: &str| header(line).is_some_and(|name| !name.contains('.'));
        for piece in pieces_of(text, begins) {
            match toml::from_str(&piece.text) {
                Ok(sections) if is_lossy(&sections) => {
                    let section = piece.label(counts);
                    let message = format!("line {}: what follows is not UTF-8", piece.line);
                    self.problems
                        .push(Origin::new(path, section).usage(message));
                }
                Ok(sections) => pieces.push((sections, counts)),
                Err(error) => {
                    let at = error.span().map_or(0, |span| span.start);
                    let before = piece.text.get(..at).unwrap_or_default();
                    let line = piece.line + before.matches('\n').count();
                    let section = piece.label(counts);
                    if piece.header() == "daemon" {
                        self.daemon.unread.extend(OF_SAVING);
                    }
                    let message = format!("line {line}: {}", error.message());
                    self.problems
                        .push(Origin::new(path, section).usage(message));
                }
            }
            counts.devices += usize::from(piece.header() == "device");
            counts.servers += usize::from(piece.header() == "nbd");
        }
        pieces
    }

    fn add_exports(&mut self, path: &Path, index: usize, section: Value) {
        let named = |name: &str| Origin::new(path, format!("[[nbd]] {name}"));
        let Value::Object(entries) = section else {
            let origin = named(&format!("{}", index + 1));
            return self.problems.push(origin.usage("a table"));
        };
        let origin = match entries.get(LISTEN).and_then(Value::as_str) {
            Some(listen) => {
                self.addresses.insert(listen.to_owned());
                named(listen)
            }
            None => named(&format!("{}", index + 1)),
        };
        match NewExports::read(&origin, &entries) {
            Ok(new) => {
                self.addresses.insert(new.spec.listen().to_owned());
                self.exports.push(new);
            }
            Err(failures) => {
                let problems = failures.into_iter().map(|failure| origin.problem(failure));
                self.problems.extend(problems);
            }
        }
    }

    fn add(&mut self, path: &Path, index: usize, section: Value) {
        let named = |name: &str| Origin::new(path, format!("[[device]] {name}"));
        let Value::Object(entries) = section else {
            let origin = named(&format!("{}", index + 1));
            return self.problems.push(origin.usage("a table"));
        };
        let origin = match entries.get("name").and_then(Value::as_str) {
            Some(name) => named(name),
            None => named(&format!("{}", index + 1)),
        };
        match read_all(&origin, entries) {
            Ok(device) => {
                let same = |known: &&NewDevice| known.spec.name == device.spec.name;
                match self.devices.iter().find(same) {
                    Some(known) => {
                        let message = format!("name: it is that of {} already", known.origin);
                        self.problems.push(origin.usage(message));
                    }
                    None => self.devices.push(device),
                }
            }
            Err(failures) => {
                let problems = failures.into_iter().map(|failure| origin.problem(failure));
                self.problems.extend(problems);
            }
        }
    }
}

/// Reads a device, or says all that is wrong with it: what one entry is to blame for is told, and then what the others are.
fn read_all(
    origin: &Origin,
    mut entries: Map<String, Value>,
) -> std::result::Result<NewDevice, Vec<Failure>> {
    let mut failures = Vec::new();
    loop {
        let failure = match NewDevice::read(origin, &entries) {
            Ok(device) if failures.is_empty() => return Ok(device),
            Ok(_) => return Err(failures),
            Err(failure) => failure,
        };
        let is_to_blame = |key: &&String| {
            let mut others = entries.clone();
            others.remove(*key);
            NewDevice::read(origin, &others) != Err(failure.clone())
        };
        let blamed = entries.keys().find(is_to_blame).cloned();
        failures.push(failure);
        match blamed.filter(|key| key != "name") {
            Some(key) => entries.remove(&key),
            None => return Err(failures),
        };
    }
}

/// Reads a file, or `/dev/null`, that is no larger than any configuration.
fn read_bounded(path: &Path) -> std::io::Result<Vec<u8>> {
    let flags = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::CLOEXEC;
    let file = std::fs::File::from(rustix::fs::open(path, flags, Mode::empty())?);
    let kind = file.metadata()?.file_type();
    if !kind.is_file() && !kind.is_char_device() {
        // A pipe might have no writer, and nothing left when SIGHUP has it read again.
        return Err(std::io::Error::other("it is no regular file"));
    }
    let mut bytes = Vec::new();
    file.take(MOST_BYTES + 1).read_to_end(&mut bytes)?;
    match bytes.len() as u64 > MOST_BYTES {
        true => Err(std::io::Error::other(format!(
            "it has more than {MOST_BYTES} bytes"
        ))),
        false => Ok(bytes),
    }
}

impl NewDevice {
    /// Where it is saved; `None` if it is not.
    pub(crate) fn place(&self, settings: &DaemonSettings) -> Option<Place> {
        let name = self.spec.name.as_deref()?;
        self.persist
            .place(name, settings.persist, &settings.persist_dir)
    }

    fn read(origin: &Origin, entries: &Map<String, Value>) -> Result<NewDevice> {
        let mut options = entries.clone();
        let filesystem = filesystem(&mut options)?;
        let mut persist = persist(&mut options)?;
        let spec = spec_from_options(&options, &OF_SECTION)?;
        logging::parse(&spec.log)?;
        if filesystem.is_some() && spec.is_swap() {
            return Err(Failure::usage(
                "swap: a device is swap or has a file system",
            ));
        }
        let frontend = frontends::by_name(&spec.frontend.kind);
        if filesystem.is_some() && frontend.is_some_and(|frontend| !frontend.has_node()) {
            return Err(Failure::usage(format!(
                "frontend: {} makes no block device, and a file system needs one",
                spec.frontend.kind
            )));
        }
        if persist.wanted == Some(true) && spec.is_swap() {
            let message = "persist: swap is not saved: what was swapped out belongs to processes that are gone by then";
            return Err(Failure::usage(message));
        }
        if !spec.is_swap() {
            // As if the section had `from`: what it says itself counts, the rest is the snapshot's.
            options.insert("from".into(), "/".into());
            persist.source = spec_from_options(&options, &OF_SECTION)?.from;
        }
        if !entries.contains_key("name") {
            let message = "name: a device has one, such as zram0, by which it is known again";
            return Err(Failure::usage(message));
        }
        Ok(NewDevice {
            origin: origin.clone(),
            spec,
            filesystem,
            persist,
        })
    }
}

/// What a section has beside the options of `uzram create`.
const OF_SECTION: [&str; 10] = [
    "fs-type",
    "mkfs-options",
    "label",
    "mount-point",
    "mount-options",
    "mount-owner",
    "mount-mode",
    "persist",
    "persist-dir",
    "persist-or-empty",
];

/// Takes one of these, which may have underscores instead of dashes.
fn take<T: DeserializeOwned>(
    entries: &mut Map<String, Value>,
    name: &str,
    what: &str,
) -> Result<Option<T>> {
    let underscored = entries.remove(&name.replace('-', "_"));
    let value = entries.remove(name).or(underscored);
    let wrong = |_| Failure::usage(format!("{name}: {what}"));
    value.map(serde_json::from_value).transpose().map_err(wrong)
}

/// Words in a list, or in one text.
#[derive(Deserialize)]
#[serde(untagged)]
enum Words {
    Text(String),
    List(Vec<String>),
}

/// The file system that a section asks for, if any: takes what is in [`OF_SECTION`].
fn filesystem(entries: &mut Map<String, Value>) -> Result<Option<FileSystem>> {
    let mkfs_options = match take(entries, "mkfs-options", "a list of texts")? {
        None => Vec::new(),
        Some(Words::Text(text)) => text.split_whitespace().map(str::to_owned).collect(),
        Some(Words::List(words)) => words,
    };
    let mut text = |name| take::<String>(entries, name, "a text in quotes");
    let kind = text("fs-type")?;
    let label = text("label")?;
    let at = text("mount-point")?;
    let options = text("mount-options")?;
    let owner = text("mount-owner")?;
    let mode = text("mount-mode")?;
    if at.is_none() && (options.is_some() || owner.is_some() || mode.is_some()) {
        let message =
            "mount-options, mount-owner and mount-mode are for a device with a mount-point";
        return Err(Failure::usage(message));
    }
    if kind.is_none() && at.is_none() {
        return match label.is_some() || !mkfs_options.is_empty() {
            true => Err(Failure::usage(
                "label and mkfs-options are for a device with an fs-type",
            )),
            false => Ok(None),
        };
    }
    let mount = match at {
        None => None,
        Some(at) => Some(Mount {
            at: Mount::place(&at)?,
            options: options.unwrap_or_else(|| "discard".into()),
            owner,
            mode: mode.as_deref().map(Mount::mode).transpose()?,
        }),
    };
    Ok(Some(FileSystem {
        kind: kind.unwrap_or_else(|| "ext4".into()),
        mkfs_options,
        label,
        mount,
    }))
}

/// Whether a section has its device saved, and where: takes what is in [`OF_SECTION`].
fn persist(entries: &mut Map<String, Value>) -> Result<Persist> {
    let wanted = take(entries, "persist", "true or false")?;
    let dir: Option<PathBuf> = take(entries, "persist-dir", "a text in quotes")?;
    let or_empty = take(entries, "persist-or-empty", "true or false")?;
    if dir.as_ref().is_some_and(|dir| !dir.is_absolute()) {
        return Err(Failure::usage("persist-dir: an absolute path"));
    }
    Ok(Persist {
        wanted,
        dir,
        or_empty: or_empty.unwrap_or_default(),
        source: None,
    })
}

/// How many sections of each kind of which there are several stand before another one.
#[derive(Debug, Clone, Copy, Default)]
struct SectionCounts {
    devices: usize,
    servers: usize,
}

/// A section of a file as it is written, with those that stand within it.
pub(crate) struct ConfigSection {
    /// Its first line's number, from 1.
    line: usize,
    pub(crate) text: String,
}

/// The sections of a file, and what stands before them. `begins` tells a line with which one begins.
pub(crate) fn pieces_of(text: &str, begins: impl Fn(&str) -> bool) -> Vec<ConfigSection> {
    let mut pieces = vec![ConfigSection {
        line: 1,
        text: String::new(),
    }];
    for (index, line) in text.split_inclusive('\n').enumerate() {
        if begins(line) {
            pieces.push(ConfigSection {
                line: index + 1,
                text: String::new(),
            });
        }
        if let Some(piece) = pieces.last_mut() {
            piece.text.push_str(line);
        }
    }
    pieces
}

/// What stands in the brackets of a line that begins a section, whether or not they are closed.
fn header(line: &str) -> Option<&str> {
    let name = line.trim().strip_prefix('[')?;
    let name = name.strip_prefix('[').unwrap_or(name).trim_start();
    let end = name.find([']', '#']).unwrap_or(name.len());
    let name = name[..end].trim();
    let plain = |c: char| c.is_ascii_alphanumeric() || "_.-".contains(c);
    let begins = name.starts_with(|c: char| c.is_ascii_alphabetic());
    (begins && name.chars().all(plain)).then_some(name)
}

impl ConfigSection {
    fn header(&self) -> &str {
        self.text
            .lines()
            .next()
            .and_then(header)
            .unwrap_or_default()
    }

    /// What tells it from others, where so many stand before it.
    fn label(&self, before: SectionCounts) -> String {
        let (key, others) = match self.header() {
            "" => return String::new(),
            "device" => ("name", before.devices),
            "nbd" => (LISTEN, before.servers),
            name => return format!("[{name}]"),
        };
        let mut names = self.text.lines().filter_map(|line| {
            let value = line.trim().strip_prefix(key)?.trim_start();
            value
                .strip_prefix('=')?
                .trim()
                .strip_prefix('"')?
                .split('"')
                .next()
        });
        let name = names.next_back().map(str::to_owned);
        let name = name.unwrap_or_else(|| (others + 1).to_string());
        format!("[[{}]] {name}", self.header())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> DaemonConfig {
        DaemonConfig::parse(Path::new("/uzram.toml"), text.as_bytes())
    }

    fn names(config: &DaemonConfig) -> Vec<&str> {
        let names = config
            .devices
            .iter()
            .map(|device| device.spec.name.as_deref());
        names.map(Option::unwrap_or_default).collect()
    }

    #[test]
    fn a_file_is_read() {
        let config = read(
            "\u{feff}[daemon]\nnum_devices = 2\n[[device]]\nname = \"zram7\"\nsize = \"8G\"\nswap = true\n\
             [[device]]\nname = \"zram8\"\nsize = 4096\nmount-point = \"/mnt/./a/\"\nfs-type = \"ext4\"\n\
             mkfs-options = [\"-m\", \"0\"]\nlabel = \"l\"\nmount-owner = \"0:0\"\nmount-mode = \"1777\"\n\
             [[device]]\nname = \"zram9\"\nfs_type = \"xfs\"\nmkfs_options = \"-m crc=0\"\n",
        );
        assert_eq!(config.problems, []);
        assert_eq!(config.daemon.num_devices, 2);
        assert!(config.daemon.strict);
        let spec = &config.devices[0].spec;
        assert_eq!(spec.name.as_deref(), Some("zram7"));
        assert_eq!(spec.size, Some(uzram_spec::Bytes(8 << 30)));
        assert!(spec.is_swap());
        let filesystem = config.devices[1].filesystem.as_ref().unwrap();
        assert_eq!(filesystem.kind, "ext4");
        assert_eq!(filesystem.mkfs_options, ["-m", "0"]);
        let mount = filesystem.mount.as_ref().unwrap();
        assert_eq!(
            (mount.at.as_path(), mount.mode),
            (Path::new("/mnt/a"), Some(0o1777))
        );
        assert_eq!(mount.options, "discard");
        let filesystem = config.devices[2].filesystem.as_ref().unwrap();
        assert_eq!(filesystem.mkfs_options, ["-m", "crc=0"]);
        assert_eq!(filesystem.mount, None);
        assert_eq!(DaemonConfig::read(Path::new("/no/such/file")), None);
        assert_eq!(read(""), DaemonConfig::default());
    }

    /// One that is wrong is one problem, which names it, and the others are there.
    #[test]
    fn a_bad_entry_costs_no_other() {
        let good = |name: &str| format!("[[device]]\nname = \"{name}\"\nsize = \"1M\"\n");
        for (bad, word) in [
            ("sise = 4096", "sise"),
            ("size = \"4X\"", "4X"),
            ("algorithm = 7", "algorithm"),
            ("log = \"=\"", "log"),
            ("mount-point = \"mnt\"", "mnt"),
            ("mount-mode = 1777\nmount-point = \"/m\"", "mount-mode"),
            ("mount-options = \"discard\"", "mount-options"),
            ("label = \"x\"", "label"),
            ("fs-type = 4", "fs-type"),
            ("mkfs-options = [1]\nfs-type = \"ext4\"", "mkfs-options"),
            ("swap = true\nmount-point = \"/m\"", "swap"),
            ("frontend = \"nbd\"\nfs-type = \"ext4\"", "no block device"),
            ("mount-point = \"/\"", "mount-point"),
            ("mount-point = \"/proc/x\"", "mount-point"),
            (
                "frontend = \"nbd\"\nlisten = \"unix:rel.sock\"",
                "listen: it is relative",
            ),
            ("backing = \"disk,1M\"", "backing: it is relative"),
            ("algorithm = \"zstd(dict=d)\"", "algorithm: it is relative"),
            ("swap = true\npersist = true", "swap is not saved"),
            ("persist = 1", "persist: true or false"),
            ("persist-dir = \"saved\"", "persist-dir"),
            ("persist-or-empty = \"yes\"", "persist-or-empty"),
            ("size = ", "line 8"),
            ("size = \"1M\"\nsize = \"2M\"", "line 9"),
            ("size", "line 8"),
            ("size = \"1M", "line 8"),
        ] {
            let text = format!(
                "[daemon]\nnum_devices = 1\n{}[[device]]\nname = \"zram8\"\n{bad}\n{}",
                good("zram7"),
                good("zram9")
            );
            let config = read(&text);
            assert_eq!(
                names(&config),
                ["zram7", "zram9"],
                "{text}\n{:?}",
                config.problems
            );
            assert_eq!(config.daemon.num_devices, 1);
            let said = config.problems[0].to_string();
            assert!(said.starts_with("/uzram.toml: [[device]] "), "{said}");
            assert!(said.contains(word), "{bad}: {said}");
            assert_eq!(config.problems.len(), 1, "{bad}: {:?}", config.problems);
        }
        // What would swallow the rest of the file ends with its section.
        for bad in [
            "size = [1,",
            "label = \"\"\"",
            "x = {",
            "[[device",
            "name = \"x y\"\n[daemon]\n[daemon]",
        ] {
            let text = format!("{}[[device]]\n{bad}\n{}", good("zram7"), good("zram9"));
            let config = read(&text);
            assert_eq!(names(&config), ["zram7", "zram9"], "{bad}: {config:?}");
            assert!(!config.problems.is_empty(), "{bad}");
        }
        let within =
            "[[device]]\nname = \"zram7\"\n[device.backing]\npath = \"/x\"\n[[device]]\nbroken\n";
        let config = read(within);
        assert_eq!(names(&config), ["zram7"]);
        assert!(config.devices[0].spec.backing.is_some());
        // A byte order mark hides no header.
        let config =
            read("\u{feff}[[device]]\nname = \"zram7\"\nbroken\n[[device]]\nname = \"zram8\"\n");
        assert_eq!(names(&config), ["zram8"]);
        assert!(config.problems[0].origin.section.contains("zram7"));
    }

    /// Those of a file that is broken elsewhere are the same, and are told apart.
    #[test]
    fn what_is_offered_together_is_read() {
        let good = "[[nbd]]\nlisten = \"unix:/run/a\"\nexports = { x = \"zram7\" }\n[[device]]\nname = \"zram7\"\n";
        let config = read(good);
        assert_eq!((config.problems.len(), config.exports.len()), (0, 1));
        assert_eq!(config.exports[0].origin.section, "[[nbd]] unix:/run/a");
        let table = "[[nbd]]\nlisten = \"unix:/run/b\"\n[nbd.exports]\n\"y y\" = \"zram7\"\n";
        let config = read(&format!(
            "{good}{table}[[nbd]]\nlisten = \"unix:/c\"\nbroken\n[[nbd]]\nbroken\n"
        ));
        let listens: Vec<_> = config.exports.iter().map(|new| new.spec.listen()).collect();
        assert_eq!(listens, ["unix:/run/a", "unix:/run/b"]);
        assert_eq!(
            config.exports[1].spec.exports,
            [("y y".into(), "zram7".into())]
        );
        assert_eq!(names(&config), ["zram7"]);
        let said: Vec<_> = config.problems.iter().map(Problem::to_string).collect();
        assert!(
            said[0].starts_with("/uzram.toml: [[nbd]] unix:/c: line 12: "),
            "{said:?}"
        );
        assert!(
            said[1].starts_with("/uzram.toml: [[nbd]] 4: line 14: "),
            "{said:?}"
        );
        let config = read("[nbd]\nlisten = \"unix:/run/a\"\n[[device]]\nname = \"zram7\"\n");
        assert!(config.problems[0].to_string().contains("a list: [[nbd]]"));
        let config = read("[[nbd]]\nlisten = \"unix:/run/a\"\n");
        assert!(config.addresses.contains("unix:/run/a") && config.exports.is_empty());
        assert!(
            config.problems[0]
                .to_string()
                .contains("exports: it is missing")
        );
    }

    #[test]
    fn a_device_is_saved_where_it_or_the_daemon_says_so() {
        let config = read(
            "[[device]]\nname = \"zram0\"\n\
             [[device]]\nname = \"zram1\"\npersist = false\n\
             [[device]]\nname = \"zram2\"\nswap = true\n\
             [[device]]\nname = \"zram3\"\npersist_dir = \"/b\"\npersist = true\nalgorithm = \"zstd\"\n\
             [daemon]\npersist = true\npersist_dir = \"/a\"\n",
        );
        assert_eq!(config.problems, []);
        let places = |settings: &DaemonSettings| {
            let places = config
                .devices
                .iter()
                .map(|device| Some(device.place(settings)?.file()));
            places.collect::<Vec<_>>()
        };
        let file = |path: &str| Some(PathBuf::from(path));
        let all = [file("/a/zram0.uzsnap"), None, None, file("/b/zram3.uzsnap")];
        assert_eq!(places(&config.daemon), all);
        let own = [None, None, None, file("/b/zram3.uzsnap")];
        assert_eq!(places(&DaemonSettings::default()), own);
        let sources = [0, 3].map(|at: usize| config.devices[at].persist.source.as_ref().unwrap());
        assert!(!sources[0].own_algorithm && sources[1].own_algorithm);
        assert_eq!(config.devices[0].spec.from, None);
    }

    #[test]
    fn all_that_is_wrong_is_said() {
        let config = read(
            "demon = 1\n[daemon]\nnum_device = 2\nfrontend = \"x\"\nstrict = false\nsysfs = \"sys\"\nnum_devices = 4000000000\n\
             [[device]]\nsize = \"4X\"\nalgorithm = 7\nmem-limit = \"x\"\n[other]\n",
        );
        let said: Vec<String> = config.problems.iter().map(Problem::to_string).collect();
        for word in [
            "num_device:",
            "frontend:",
            "sysfs:",
            "num_devices:",
            "name:",
            "4X",
            "algorithm",
            "mem-limit",
            "[other]",
            "[demon]",
        ] {
            assert!(
                said.iter().any(|line| line.contains(word)),
                "{word}: {said:#?}"
            );
        }
        assert_eq!(said.len(), 10, "{said:#?}");
        assert!(!config.daemon.strict, "what is good is taken");
        assert_eq!(config.daemon.frontend, "auto");
        let config = DaemonConfig::parse(Path::new("/x"), b"\xff");
        assert_eq!(config.problems.len(), 1);
        // In a comment a byte of another encoding does no harm, elsewhere it costs its section.
        let config = DaemonConfig::parse(
            Path::new("/x"),
            b"[[device]]\nname = \"zram7\"\n# f\xfcr\n[[device]]\nname = \"zram8\"\nlabel = \"\xfc\"\nfs-type=\"ext4\"\n\
              [[device]]\nname = \"zram9\"\n",
        );
        assert_eq!(names(&config), ["zram7", "zram9"]);
        let said = config.problems[0].to_string();
        assert!(
            said.contains("zram8") && said.contains("not UTF-8"),
            "{said}"
        );
    }

    #[test]
    fn the_file_that_is_shipped_is_read() {
        let text = include_str!("../../../dist/uzram.toml");
        assert_eq!(read(text), DaemonConfig::default());
        let all = text.replace("\n# sysfs", "\nsysfs");
        let (settings, examples) = all.split_once("\n# [[device]]").unwrap();
        let examples = examples
            .replace("\n# Devices", "\n## Devices")
            .replace("\n#", "\n");
        let config = read(&format!("{settings}\n[[device]]{examples}"));
        assert_eq!(config.problems, []);
        assert_eq!((config.devices.len(), config.exports.len()), (2, 1));
    }
}
