//! [`DeviceSpec`]: everything that was asked of a device, in the form in which it is stored.
//!
//! What is not set has a default that whoever makes the device fills in, so that the stored description is complete: a later
//! program with other defaults serves the same device. Version 1 is what this program writes. It reads every version
//! up to its own, for ever; `crates/uzram-cli/tests/specs` holds one description of each, with an image. A field that is
//! added does not change the version; a field whose meaning changes does.

use std::fmt;
use std::path::{Path, PathBuf};
use std::str::FromStr;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use uzram::PolicySettings;
use uzram::compress::AlgorithmSpec;

use crate::{Bytes, Failure, FrontendSpec, MemLimit, Result, parse_json, quantity, size, text};

/// The newest version of a description that this program reads, and the one that it writes.
pub const SPEC_VERSION: u32 = 1;

/// What a device is to be, or is.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct DeviceSpec {
    /// Version of the description.
    #[serde(default = "version")]
    pub version: u32,
    /// Random, and never used again: two devices of the same name have different ones. Empty until the device is made; who makes
    /// one does not choose it.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub identity: String,
    /// Name of the device: zram and a number, or a name of its own, of up to 32 letters, digits, - and _, beside the lowest number that
    /// is free. Default: that number alone.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// Size of the disk; `50%` is a part of the memory. Default: half of the memory, at most 4 GiB.
    #[serde(
        default,
        deserialize_with = "quantity::device_size",
        skip_serializing_if = "Option::is_none"
    )]
    #[schemars(with = "Option<quantity::DeviceSize>")]
    pub size: Option<Bytes>,
    /// How large the disk may become later. Default: 4 times its size, for swap its size.
    #[serde(
        default,
        deserialize_with = "quantity::device_size",
        skip_serializing_if = "Option::is_none"
    )]
    #[schemars(with = "Option<quantity::DeviceSize>")]
    pub max_size: Option<Bytes>,
    /// Logical block size: 512 or 4096 bytes.
    #[serde(default = "block_size")]
    pub block_size: u32,
    /// Compression algorithm with parameters, such as `zstd(level=1,dict=FILE)`.
    #[serde(default = "algorithm", with = "text")]
    #[schemars(with = "String")]
    pub algorithm: AlgorithmSpec,
    /// Algorithms for recompression, in the same form, with `priority` 1 to 3 among the parameters.
    #[serde(default, with = "text::list", skip_serializing_if = "Vec::is_empty")]
    #[schemars(with = "Vec<String>")]
    pub recomp_algorithm: Vec<AlgorithmSpec>,
    /// Limit on the memory for compressed data, or as `total:SIZE` on all of the device's memory; 0 is none.
    #[serde(default)]
    pub mem_limit: MemLimit,
    /// What is freed: `on-free` overwrites it in memory; `off`, the default, leaves it until the place is used again.
    #[serde(default, skip_serializing_if = "Erase::is_off")]
    pub erase: Erase,
    /// What is done in the background, such as `auto`. Default: compaction; `none` is nothing.
    #[serde(default = "PolicySettings::standard", with = "text")]
    #[schemars(with = "String")]
    pub policy: PolicySettings,
    /// Whether an algorithm that trains itself does so on what is written: `auto`, the default, or `off`.
    #[serde(default, skip_serializing_if = "SelfTraining::is_auto")]
    pub train: SelfTraining,
    /// Whether pages of the same contents share memory.
    #[serde(default)]
    pub dedup: bool,
    /// Where pages are written back to.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub backing: Option<BackingSpec>,
    /// Where the contents come from: a file that holds a snapshot. The rest of the description is then asked for once, too:
    /// who makes the device takes this out, and no later start reads the file again; but for a clone, which is lazy.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub from: Option<SnapshotSource>,
    /// Whether other users may own, or may write to, the backing, the dictionaries and the directory of a socket.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub allow_foreign_files: bool,
    /// Set where the device serves as swap.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub swap: Option<SwapSpec>,
    /// Whether nothing is said when somebody uses the device as swap though its frontend is not safe for that.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub allow_unsafe_swap: bool,
    /// How the device is served.
    #[serde(default)]
    pub frontend: FrontendSpec,
    /// What its processes log: error, warn, info, debug, trace, or a filter such as `uzram_nbd=debug`.
    #[serde(default = "log")]
    pub log: String,
    /// The most that the log of its processes takes, and again the older log beside it: 64 KiB or more.
    #[serde(default = "log_max", skip_serializing_if = "is_usual_log_max")]
    pub log_max: Bytes,
}

fn version() -> u32 {
    SPEC_VERSION
}

fn block_size() -> u32 {
    4096
}

/// The algorithm of a device that names none. Why it is this one: `docs/design/58-default-algorithm.md`.
pub const DEFAULT_ALGORITHM: &str = "lzhs";

fn algorithm() -> AlgorithmSpec {
    AlgorithmSpec::new(DEFAULT_ALGORITHM)
}

fn log() -> String {
    "info".into()
}

fn log_max() -> Bytes {
    Bytes(1 << 20)
}

fn is_usual_log_max(given: &Bytes) -> bool {
    *given == log_max()
}

/// The least that a log can be limited to.
const LEAST_LOG: u64 = 64 << 10;

impl Default for DeviceSpec {
    fn default() -> DeviceSpec {
        DeviceSpec {
            version: version(),
            identity: String::new(),
            name: None,
            size: None,
            max_size: None,
            block_size: block_size(),
            algorithm: algorithm(),
            recomp_algorithm: Vec::new(),
            mem_limit: MemLimit::default(),
            erase: Erase::Off,
            policy: PolicySettings::standard(),
            train: SelfTraining::Auto,
            dedup: false,
            backing: None,
            from: None,
            allow_foreign_files: false,
            swap: None,
            allow_unsafe_swap: false,
            frontend: FrontendSpec::default(),
            log: log(),
            log_max: log_max(),
        }
    }
}

/// What becomes of the bytes of what a device does not hold any more.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
#[schemars(inline)]
pub enum Erase {
    /// They stay in memory until the place is used again or given back.
    #[default]
    Off,
    /// They are overwritten as they are freed.
    OnFree,
}

impl Erase {
    fn is_off(&self) -> bool {
        *self == Erase::Off
    }
}

impl FromStr for Erase {
    type Err = String;

    fn from_str(text: &str) -> std::result::Result<Erase, String> {
        match text {
            "off" => Ok(Erase::Off),
            "on-free" => Ok(Erase::OnFree),
            _ => Err(format!("erase is on-free or off, not '{text}'")),
        }
    }
}

/// Whether an algorithm that trains itself may.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
#[schemars(inline)]
pub enum SelfTraining {
    /// It is trained on the first pages that are written, and again when what is written has drifted.
    #[default]
    Auto,
    /// It stays as it is.
    Off,
}

impl fmt::Display for SelfTraining {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            SelfTraining::Auto => "auto",
            SelfTraining::Off => "off",
        })
    }
}

impl SelfTraining {
    fn is_auto(&self) -> bool {
        *self == SelfTraining::Auto
    }
}

impl FromStr for SelfTraining {
    type Err = String;

    fn from_str(text: &str) -> std::result::Result<SelfTraining, String> {
        match text {
            "auto" => Ok(SelfTraining::Auto),
            "off" => Ok(SelfTraining::Off),
            _ => Err(format!("train is auto or off, not '{text}'")),
        }
    }
}

/// A file, a block device or a place in a remote that pages are written back to.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, JsonSchema)]
pub struct BackingSpec {
    /// The absolute path of a file or block device. Empty where it is in a remote.
    #[serde(default, skip_serializing_if = "is_empty")]
    pub path: PathBuf,
    /// The remote and the name of the backing there: `NAME/PREFIX`. The remote is looked up by the processes of the device.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub remote: String,
    /// How large a file is to be made; without a size it has one. Of a remote, how much may be there; default: an eighth more
    /// than the disk.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub size: Option<Bytes>,
    /// Of a remote: how long a request waits for it, in seconds. Default: 30.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 86400))]
    pub remote_timeout_seconds: Option<u32>,
    /// Whether what is written there is encrypted, with a key that is in the device's memory and nowhere else.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub seal: bool,
}

/// What follows a backing's path or name.
const SEAL: &str = "seal";

/// Remote and name, where a text is `NAME/TAG`: it has one slash, which is not at its beginning.
fn remote_in(text: &Path) -> Option<(&str, &str)> {
    let parts = text.to_str().and_then(|text| text.split_once('/'));
    let is_name = |name: &str| name.starts_with(|first: char| first.is_ascii_alphabetic());
    parts.filter(|(name, tag)| is_name(name) && !tag.is_empty() && !tag.contains('/'))
}

impl BackingSpec {
    /// A file or a block device.
    pub fn file(path: impl Into<PathBuf>, size: Option<Bytes>) -> BackingSpec {
        BackingSpec {
            path: path.into(),
            size,
            ..BackingSpec::default()
        }
    }

    /// Whether it is in a remote.
    pub fn is_remote(&self) -> bool {
        !self.remote.is_empty()
    }

    /// Reads `FILE`, `DEVICE` or `NAME/PREFIX`, and behind it `,SIZE`, `,seal` or both. A text with one slash, which is not at its
    /// beginning, names a remote, and `./DIRECTORY/FILE` a file. A relative path is this process's directory's, and becomes
    /// absolute: whoever uses it has another directory.
    pub fn parse(value: &str) -> std::result::Result<BackingSpec, String> {
        let here = std::env::current_dir().map_err(|error| error.to_string())?;
        BackingSpec::parse_in(value, &here)
    }

    /// The same for a path that is relative to that directory.
    pub fn parse_in(value: &str, directory: &Path) -> std::result::Result<BackingSpec, String> {
        let (mut path, mut size, mut seal) = (value, None, false);
        // A path may have commas itself.
        while let Some((before, text)) = path.rsplit_once(',')
            && !directory.join(path).exists()
        {
            match text {
                SEAL if !seal => seal = true,
                _ if text
                    .strip_prefix(SEAL)
                    .is_some_and(|rest| rest.starts_with('=')) =>
                {
                    return Err(format!(
                        "{text}: seal takes no value: the key is random, and only in the device's memory"
                    ));
                }
                _ if size.is_none() => {
                    let bytes = size::parse(text).map_err(|error| error.to_string())?;
                    size = Some(Bytes(bytes));
                }
                _ => return Err(format!("backing: '{text}' stands there twice")),
            }
            path = before;
        }
        if path.is_empty() {
            return Err(
                "backing: FILE, DEVICE, or NAME/PREFIX of a remote, and behind it ,SIZE or ,seal"
                    .into(),
            );
        }
        if remote_in(Path::new(path)).is_some() {
            return Ok(BackingSpec {
                remote: path.into(),
                size,
                seal,
                ..BackingSpec::default()
            });
        }
        let path = std::path::absolute(directory.join(path)).map_err(|error| error.to_string())?;
        Ok(BackingSpec {
            seal,
            ..BackingSpec::file(path, size)
        })
    }

    /// The same text as a file, for who knows that there is no such remote. `directory` is what a relative path is relative to.
    pub fn as_file(&self, directory: &Path) -> BackingSpec {
        match self.is_remote() {
            true => BackingSpec {
                seal: self.seal,
                ..BackingSpec::file(directory.join(&self.remote), self.size)
            },
            false => self.clone(),
        }
    }

    fn check(&self) -> Result {
        if !self.is_remote() {
            return match self.remote_timeout_seconds {
                Some(_) => Err(Failure::usage(
                    "remote-timeout is for a backing in a remote",
                )),
                None => Ok(()),
            };
        }
        if !is_empty(&self.path) {
            return Err(Failure::usage("backing: a path, or a remote, but not both"));
        }
        if remote_in(Path::new(&self.remote)).is_none() {
            return Err(Failure::usage(format!(
                "backing {}: it takes NAME/PREFIX",
                self.remote
            )));
        }
        check_timeout(self.remote_timeout_seconds)
    }
}

/// Refuses a time to wait for a remote that is none.
fn check_timeout(seconds: Option<u32>) -> Result {
    match seconds {
        Some(seconds) if !(1..=86400).contains(&seconds) => Err(Failure::usage(format!(
            "remote-timeout {seconds} is not possible: it takes 1 to 86400 seconds"
        ))),
        _ => Ok(()),
    }
}

impl<'de> Deserialize<'de> for BackingSpec {
    fn deserialize<D: serde::Deserializer<'de>>(
        deserializer: D,
    ) -> std::result::Result<BackingSpec, D::Error> {
        #[derive(Deserialize)]
        #[serde(deny_unknown_fields)]
        struct Fields {
            #[serde(default)]
            path: PathBuf,
            #[serde(default)]
            remote: String,
            #[serde(default)]
            size: Option<Bytes>,
            #[serde(default)]
            remote_timeout_seconds: Option<u32>,
            #[serde(default)]
            seal: bool,
        }
        #[derive(Deserialize)]
        #[serde(untagged)]
        enum Form {
            Text(String),
            Fields(Fields),
        }
        match Form::deserialize(deserializer)? {
            Form::Text(text) => BackingSpec::parse(&text).map_err(serde::de::Error::custom),
            Form::Fields(fields) => Ok(BackingSpec {
                path: fields.path,
                remote: fields.remote,
                size: fields.size,
                seal: fields.seal,
                remote_timeout_seconds: fields.remote_timeout_seconds,
            }),
        }
    }
}

/// A snapshot that a device is made of.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, JsonSchema)]
pub struct SnapshotSource {
    /// Absolute path of the file that holds it. Empty where it is in a remote.
    #[serde(default, skip_serializing_if = "is_empty")]
    pub file: PathBuf,
    /// The remote that holds it and its tag there: `NAME/TAG`. The remote is looked up by the processes of the device.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub remote: String,
    /// Files with the snapshots that it was made since, in any order.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub parents: Vec<PathBuf>,
    /// Of a sealed snapshot: files with identities of age. With keys the snapshot must be sealed.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub identities: Vec<PathBuf>,
    /// Of a sealed snapshot: a file whose first line is the passphrase.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub passphrase_file: Option<PathBuf>,
    /// Whether what is written is compressed with the description's algorithm, else with that of the snapshot's device.
    #[serde(default)]
    pub own_algorithm: bool,
    /// The same of the algorithms for recompression.
    #[serde(default)]
    pub own_recomp_algorithm: bool,
    /// Whether the logical block size is the description's, else that of the snapshot's device.
    #[serde(default)]
    pub own_block_size: bool,
    /// Whether the device is a clone: what is read is fetched when it is needed. Then the description keeps this, and the files
    /// are needed as long as the device has remote pages.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub lazy: bool,
    /// Of a clone: how long a request waits for the files, in seconds. Default: 30.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 86400))]
    pub remote_timeout_seconds: Option<u32>,
    /// Of a clone of a remote's snapshot: the name of a trace there, a note of what was read. What it lists is fetched ahead; what
    /// is read beside that is added to it. Letters, digits and `. _ + -`.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub trace: String,
    /// Of a clone: the snapshot's name, which is filled in when it is made. Other contents are refused from then on.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub snapshot: String,
    /// Of a device that another host hands over before all of it was copied: where the rest is. "uzram receive" fills it in.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sent: Option<SentSpec>,
}

/// A device that another host hands over, and has what is missing of it.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct SentSpec {
    /// What this is known by on both sides.
    pub id: String,
    /// The device and its host, for messages.
    pub by: PathBuf,
    /// While the device is made: a file that says which pages hold something. What the device is stands in the source's file.
    #[serde(default, skip_serializing_if = "is_empty")]
    pub slots: PathBuf,
}

fn is_empty(path: &Path) -> bool {
    path.as_os_str().is_empty()
}

impl SnapshotSource {
    /// A source as a text names it: a file, or `NAME/TAG` of a remote. A path with one slash, which is not at its beginning,
    /// names a remote, and `./DIRECTORY/FILE` a file.
    pub fn named(text: &Path) -> SnapshotSource {
        match remote_in(text) {
            Some((name, tag)) => SnapshotSource::tag(name, tag),
            None => SnapshotSource::file(text),
        }
    }

    /// A file.
    pub fn file(file: impl Into<PathBuf>) -> SnapshotSource {
        SnapshotSource {
            file: file.into(),
            ..SnapshotSource::default()
        }
    }

    /// A tag of a remote.
    pub fn tag(remote: &str, tag: &str) -> SnapshotSource {
        SnapshotSource {
            remote: format!("{remote}/{tag}"),
            ..SnapshotSource::default()
        }
    }

    /// Whether a remote has it.
    pub fn is_remote(&self) -> bool {
        !self.remote.is_empty()
    }

    /// Where it is, as whoever ordered the device knows it.
    pub fn place(&self) -> &Path {
        match &self.sent {
            Some(sent) => &sent.by,
            None if self.is_remote() => Path::new(&self.remote),
            None => &self.file,
        }
    }

    /// Lets go of what is needed only while the device is made.
    pub fn forget_making(&mut self) {
        if let Some(sent) = &mut self.sent {
            (self.file, sent.slots) = (PathBuf::new(), PathBuf::new());
        }
    }

    /// Refuses what names nothing, or too much.
    fn check(&self) -> Result {
        let place = self.place();
        let usage = |why: &str| Err(Failure::usage(format!("from: {why}")));
        let is_word = |byte: u8| byte.is_ascii_alphanumeric() || b"._+-".contains(&byte);
        let trace = self.trace.as_bytes();
        if !trace.iter().all(|byte| is_word(*byte))
            || trace.first().is_some_and(|b| b".-".contains(b))
            || trace.len() > 64
        {
            return usage("trace: it takes a name of letters, digits and . _ + -, at most 64");
        }
        let has_traces = self.lazy && self.is_remote();
        if !trace.is_empty() && !has_traces {
            return usage(
                "trace: only clones of a remote's snapshots have traces: with --lazy, of NAME/TAG",
            );
        }
        if self.sent.is_some() {
            let is_alone = self.lazy && !self.is_remote() && !self.is_sealed();
            return match is_alone && self.parents.is_empty() {
                true => Ok(()),
                false => usage("sent: what another host hands over is lazy, and nothing else"),
            };
        }
        match self.is_remote() {
            false if is_empty(place) => usage("it takes a file, or NAME/TAG of a remote"),
            false => Ok(()),
            true if !SnapshotSource::named(place).is_remote() => {
                let place = place.display();
                usage(&format!(
                    "{place} is no snapshot of a remote: it takes NAME/TAG"
                ))
            }
            true if !self.parents.is_empty() || !is_empty(&self.file) => {
                usage("a snapshot of a remote needs no files: all of it is there")
            }
            true => Ok(()),
        }
    }

    /// Whether it is to be sealed: keys were named.
    pub fn is_sealed(&self) -> bool {
        !self.identities.is_empty() || self.passphrase_file.is_some()
    }

    /// The files that it names, those with keys included.
    pub fn paths(&self) -> impl Iterator<Item = &Path> {
        let is_file = !self.is_remote() && self.sent.is_none();
        let file = is_file.then_some(&self.file);
        let keys = self.identities.iter().chain(&self.passphrase_file);
        let all = file.into_iter().chain(&self.parents).chain(keys);
        all.map(PathBuf::as_path)
    }
}

impl<'de> Deserialize<'de> for SnapshotSource {
    fn deserialize<D: serde::Deserializer<'de>>(
        deserializer: D,
    ) -> std::result::Result<SnapshotSource, D::Error> {
        #[derive(Deserialize)]
        #[serde(deny_unknown_fields)]
        struct Fields {
            #[serde(default)]
            file: PathBuf,
            #[serde(default)]
            remote: String,
            #[serde(default)]
            parents: Vec<PathBuf>,
            #[serde(default)]
            identities: Vec<PathBuf>,
            #[serde(default)]
            passphrase_file: Option<PathBuf>,
            #[serde(default)]
            own_algorithm: bool,
            #[serde(default)]
            own_recomp_algorithm: bool,
            #[serde(default)]
            own_block_size: bool,
            #[serde(default)]
            lazy: bool,
            #[serde(default)]
            remote_timeout_seconds: Option<u32>,
            #[serde(default)]
            trace: String,
            #[serde(default)]
            snapshot: String,
            #[serde(default)]
            sent: Option<SentSpec>,
        }
        #[derive(Deserialize)]
        #[serde(untagged)]
        enum Form {
            File(PathBuf),
            Fields(Box<Fields>),
        }
        Ok(match Form::deserialize(deserializer)? {
            Form::File(file) => SnapshotSource::named(&file),
            Form::Fields(fields) => SnapshotSource {
                file: fields.file,
                remote: fields.remote,
                parents: fields.parents,
                identities: fields.identities,
                passphrase_file: fields.passphrase_file,
                own_algorithm: fields.own_algorithm,
                own_recomp_algorithm: fields.own_recomp_algorithm,
                own_block_size: fields.own_block_size,
                lazy: fields.lazy,
                remote_timeout_seconds: fields.remote_timeout_seconds,
                trace: fields.trace,
                snapshot: fields.snapshot,
                sent: fields.sent,
            },
        })
    }
}

/// What is particular to a swap device.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct SwapSpec {
    /// Memory that is kept free for bursts.
    pub reserve: Bytes,
    /// Priority of the swap area, -1 to 32767: the kernel fills the highest first.
    #[schemars(range(min = -1, max = 32767))]
    pub priority: i32,
    /// Whether `vm.min_free_kbytes` is left as it is.
    pub keep_min_free: bool,
}

impl Default for SwapSpec {
    fn default() -> SwapSpec {
        SwapSpec {
            reserve: Bytes(32 << 20),
            // zram-generator's, above that of disks.
            priority: 100,
            keep_min_free: false,
        }
    }
}

impl DeviceSpec {
    /// Reads a stored description. One of a newer version is refused in words.
    pub fn parse(json: &[u8]) -> Result<DeviceSpec> {
        let refused = |why: String| Failure::usage(format!("the device's description: {why}"));
        let value = parse_json(json).map_err(|e| refused(format!("it is not JSON: {e}")))?;
        match value.get("version") {
            Some(version) => check_version(version)?,
            None => return Err(refused("it has no version".into())),
        }
        let spec: DeviceSpec = serde_path_to_error::deserialize(value)
            .map_err(|error| refused(format!("{}: {}", error.path(), error.inner())))?;
        spec.check()?;
        Ok(spec)
    }

    /// The description as it is stored.
    pub fn to_json(&self) -> Vec<u8> {
        // Strings, numbers and maps with text keys: this cannot fail.
        let mut json = serde_json::to_vec_pretty(self).unwrap_or_default();
        json.push(b'\n');
        json
    }

    /// Refuses what no device can have, as far as the description alone shows it.
    pub fn check(&self) -> Result {
        let usage = |message: String| Err(Failure::usage(message));
        if let Some(from) = &self.from {
            from.check()?;
        }
        if let Some(backing) = &self.backing {
            backing.check()?;
        }
        let sources = self.from.iter().flat_map(SnapshotSource::paths);
        let sources = sources.map(|path| ("snapshot", path.to_owned()));
        for (what, path) in self.paths().into_iter().chain(sources) {
            // A description is JSON, and its processes have another directory.
            if path.to_str().is_none() {
                return usage(format!("{what}: the path {path:?} is not UTF-8"));
            }
            if !path.is_absolute() {
                return usage(format!("{what}: the path {path:?} is relative"));
            }
        }
        if let Some(name) = self.name.as_deref()
            && let Err(why) = check_name(name)
        {
            let name = crate::printable_line(name);
            return usage(format!("'{name}' is not a device name: {why}"));
        }
        let from = self.from.as_ref();
        check_timeout(from.and_then(|from| from.remote_timeout_seconds))?;
        if self.log_max.0 < LEAST_LOG {
            return usage(format!(
                "log-max {} is too little: it takes 64K or more",
                size::human(self.log_max.0)
            ));
        }
        let Some(swap) = &self.swap else {
            return Ok(());
        };
        if self.from.as_ref().is_some_and(|from| from.lazy) {
            return usage(
                "--lazy and swap exclude each other: swap must not wait for a source".into(),
            );
        }
        if self.backing.as_ref().is_some_and(BackingSpec::is_remote) {
            return usage(
                "a backing in a remote and swap exclude each other: swap must not wait for a store"
                    .into(),
            );
        }
        if !(-1..=32767).contains(&swap.priority) {
            return usage(format!(
                "swap-priority {} is not possible: it takes -1 to 32767",
                swap.priority
            ));
        }
        if self.from.is_some() {
            return usage(
                "a snapshot and swap exclude each other: what was swapped out belonged to processes that are gone".into(),
            );
        }
        if self.dedup {
            return usage("dedup and swap exclude each other: sharing may have to wait".into());
        }
        let (limit, reserve) = (self.mem_limit.bytes(), swap.reserve.0);
        if (1..reserve).contains(&limit) {
            return usage(format!(
                "--mem-limit {} has no room for the reserve: --reserve is {}",
                size::human(limit),
                size::human(reserve)
            ));
        }
        Ok(())
    }

    /// The files that the description names, with what they are: the backing and the dictionaries.
    pub fn paths(&self) -> Vec<(&'static str, PathBuf)> {
        let backing = self.backing.iter().filter(|b| !b.is_remote());
        let backing = backing.map(|b| ("backing", b.path.clone()));
        let algorithms = std::iter::once(&self.algorithm).chain(&self.recomp_algorithm);
        let params = algorithms.flat_map(|algorithm| &algorithm.params);
        let dictionaries = params
            .filter(|(key, value)| key == "dict" && !value.is_empty())
            .map(|(_, value)| ("dictionary", value.into()));
        backing.chain(dictionaries).collect()
    }

    /// Gives the device an identity, if it has none.
    pub fn identify(&mut self) -> Result {
        if self.identity.is_empty() {
            let mut random = [0u8; 16];
            rustix::rand::getrandom(&mut random, rustix::rand::GetRandomFlags::empty())
                .map_err(std::io::Error::from)?;
            self.identity = random.iter().map(|byte| format!("{byte:02x}")).collect();
        }
        Ok(())
    }

    /// Whether the device serves as swap.
    pub fn is_swap(&self) -> bool {
        self.swap.is_some()
    }
}

/// Refuses the version of a description that this program does not read.
pub(crate) fn check_version(version: &serde_json::Value) -> Result {
    if version.as_u64() == Some(u64::from(SPEC_VERSION)) {
        return Ok(());
    }
    let message = format!(
        "the device's description: it is of version {version}, and this program (uzram {}) reads versions up to \
         {SPEC_VERSION}",
        env!("CARGO_PKG_VERSION")
    );
    let hint = "use the program that made the device, or a newer one";
    Err(Failure::usage(message).with_hint(hint))
}

/// N of `zramN`, written without needless zeros; `None` for what is no device's name.
pub fn number(name: &str) -> Option<u32> {
    let digits = name.strip_prefix("zram")?;
    let number = digits.parse::<u32>().ok()?;
    (number.to_string() == digits).then_some(number)
}

/// Longest name of a device's own, in bytes.
pub const MAX_NAME: usize = 32;

/// Whether a device can have that name: `zramN`, or a name of its own. Says in words why not.
///
/// A name of its own stands in addresses, in names of files and in tables, and is never taken for a number, a path, an option or a
/// name of zram's.
pub fn check_name(name: &str) -> std::result::Result<(), String> {
    if number(name).is_some() {
        return Ok(());
    }
    let wrong = if name.is_empty() {
        "it is empty".into()
    } else if name.to_ascii_lowercase().starts_with("zram") {
        "one that begins with zram takes a number and no more, such as zram0".into()
    } else if name.len() > MAX_NAME {
        format!("it has {} bytes, and may have {MAX_NAME}", name.len())
    } else if !name.starts_with(|c: char| c.is_ascii_alphabetic()) {
        "it begins with a letter, a to z or A to Z".into()
    } else {
        let fits = |c: char| c.is_ascii_alphanumeric() || c == '-' || c == '_';
        match name.chars().find(|c| !fits(*c)) {
            None => return Ok(()),
            Some(c) => format!("it has letters from a to z, digits, - and _, and no {c:?}"),
        }
    };
    Err(wrong)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::FailureKind;

    #[test]
    fn names_are_zrams_or_a_devices_own() {
        for good in [
            "zram0",
            "zram12",
            "a",
            "build-cache",
            "VM_7",
            &"x".repeat(MAX_NAME),
        ] {
            assert_eq!(check_name(good), Ok(()), "{good}");
        }
        for (bad, why) in [
            ("", "empty"),
            ("zram", "zram"),
            ("zram07", "zram"),
            ("zram-cache", "zram"),
            ("ZRAM1", "zram"),
            (&"x".repeat(MAX_NAME + 1), "33 bytes"),
            ("7", "begins with a letter"),
            ("-a", "begins with a letter"),
            ("../a", "begins with a letter"),
            ("\u{e9}t\u{e9}", "begins with a letter"),
            ("a/b", "no '/'"),
            ("a.b", "no '.'"),
            ("a b", "no ' '"),
            ("a\nb", "no '\\n'"),
            ("caf\u{e9}", "no '\u{e9}'"),
        ] {
            let said = check_name(bad).unwrap_err();
            assert!(said.contains(why), "{bad:?}: {said}");
        }
    }

    #[test]
    fn a_description_of_everything_reads_back() {
        let mut spec = DeviceSpec {
            name: Some("zram7".into()),
            size: Some(Bytes(8 << 30)),
            max_size: Some(Bytes(16 << 30)),
            block_size: 512,
            algorithm: "zstd(level=1,dict=/a.dict)".parse().unwrap(),
            recomp_algorithm: vec!["zstd(level=9,priority=2)".parse().unwrap()],
            mem_limit: MemLimit::Total(Bytes(1 << 30)),
            erase: Erase::OnFree,
            policy: PolicySettings::auto(),
            train: SelfTraining::Off,
            backing: Some(BackingSpec::file("/var/tmp/b", Some(Bytes(1 << 34)))),
            from: None,
            swap: Some(SwapSpec::default()),
            frontend: FrontendSpec::new("ublk")
                .option("queues", 2u64)
                .option("write-cache", true)
                .option("buffers", "mapped"),
            ..DeviceSpec::default()
        };
        spec.identify().unwrap();
        assert_eq!(spec.identity.len(), 32);
        assert_eq!(DeviceSpec::parse(&spec.to_json()), Ok(spec));
    }

    #[test]
    fn what_is_of_a_newer_version_or_no_description_is_refused_in_words() {
        for (json, said) in [
            (r#"{"version":2,"colour":"red"}"#, "reads versions up to 1"),
            (r#"{"size":4096}"#, "no version"),
            (r#"{"version":1,"colour":"red"}"#, "unknown field `colour`"),
            (r#"{"version":1,"size":"4X"}"#, "size: '4X' is not a size"),
            (
                r#"{"version":1,"name":"a/disk"}"#,
                "'a/disk' is not a device name",
            ),
            (r#"{"version":1,"algorithm":"zstd("}"#, "algorithm"),
            (
                r#"{"version":1,"swap":{"priority":70000}}"#,
                "takes -1 to 32767",
            ),
            ("version 1", "not JSON"),
        ] {
            let failure = DeviceSpec::parse(json.as_bytes()).unwrap_err();
            assert!(failure.to_string().contains(said), "{json}: {failure}");
            assert_eq!(failure.kind, FailureKind::Usage);
        }
    }

    /// What could not be stored, or would mean another file to the device's processes, is refused before anything is made.
    #[test]
    fn paths_are_absolute_and_text() {
        let bytes: &std::ffi::OsStr = std::os::unix::ffi::OsStrExt::from_bytes(b"/caf\xe9");
        for (path, said) in [(bytes.into(), r"\xE9"), (PathBuf::from("rel"), "relative")] {
            let backing = Some(BackingSpec::file(path, None));
            let spec = DeviceSpec {
                backing,
                ..DeviceSpec::default()
            };
            let failure = spec.check().unwrap_err();
            assert!(failure.message.contains(said), "{failure}");
        }
        let mut spec = DeviceSpec {
            algorithm: "zstd(dict=a)".parse().unwrap(),
            ..DeviceSpec::default()
        };
        assert!(spec.check().unwrap_err().message.contains("relative"));
        assert!(spec.resolve_paths(Path::new(bytes)).is_err());
        spec.resolve_paths(Path::new("/d")).unwrap();
        assert_eq!(spec.paths(), [("dictionary", "/d/a".into())]);
        assert_eq!(spec.check(), Ok(()));
    }

    #[test]
    fn a_snapshot_is_a_path_or_more_and_never_swap() {
        let parse =
            |from: &str| DeviceSpec::parse(format!(r#"{{"version":1,"from":{from}}}"#).as_bytes());
        let spec = parse(r#""/s""#).unwrap();
        let source = spec.from.clone().unwrap();
        assert_eq!(
            (source.file.as_path(), source.own_algorithm),
            (Path::new("/s"), false)
        );
        assert_eq!(DeviceSpec::parse(&spec.to_json()), Ok(spec.clone()));
        let whole = parse(r#"{"file":"/s","parents":["/p"],"own_algorithm":true}"#).unwrap();
        assert_eq!(whole.from.clone().unwrap().parents, [Path::new("/p")]);
        assert_eq!(DeviceSpec::parse(&whole.to_json()), Ok(whole));
        for from in [r#""ci/warm""#, r#"{"remote":"ci/warm"}"#] {
            let tag = parse(from).unwrap();
            assert_eq!(tag.from, Some(SnapshotSource::tag("ci", "warm")));
            assert_eq!(DeviceSpec::parse(&tag.to_json()), Ok(tag));
        }
        let keys = r#"{"remote":"ci/warm","identities":["/k"],"passphrase_file":"/p"}"#;
        let sealed = parse(keys).unwrap();
        assert!(sealed.from.as_ref().unwrap().is_sealed());
        assert_eq!(DeviceSpec::parse(&sealed.to_json()), Ok(sealed));
        let sent = r#"{"file":"/d","lazy":true,"sent":{"id":"7","by":"zram0 of h","slots":"/s"}}"#;
        let mut sent = parse(sent).unwrap();
        assert_eq!(DeviceSpec::parse(&sent.to_json()), Ok(sent.clone()));
        let from = sent.from.as_mut().unwrap();
        from.forget_making();
        assert_eq!(from.place(), Path::new("zram0 of h"));
        assert!(from.paths().next().is_none());
        assert!(!String::from_utf8(sent.to_json()).unwrap().contains("/d"));
        assert_eq!(DeviceSpec::parse(&sent.to_json()), Ok(sent));
        for file in ["/a/b", "a", "./a/b", "a/b/c", "a/", "../b", "7/b"] {
            let named = SnapshotSource::named(Path::new(file));
            assert_eq!(named, SnapshotSource::file(file));
        }
        for (from, said) in [
            (r#""s""#, "relative"),
            (r#"{"file":"/s","parents":["p"]}"#, "relative"),
            (r#"{"file":"/s","identities":["k"]}"#, "relative"),
            (r#"{"parents":[]}"#, "it takes a file"),
            (r#"{"remote":"ci"}"#, "it takes NAME/TAG"),
            (r#"{"remote":"ci/warm","trace":"boot"}"#, "--lazy"),
            (r#"{"file":"/s","lazy":true,"trace":"boot"}"#, "of NAME/TAG"),
            (
                r#"{"remote":"ci/warm","lazy":true,"trace":"a/b"}"#,
                "a name",
            ),
            (r#"{"remote":"/ci/warm"}"#, "it takes NAME/TAG"),
            (r#"{"remote":"ci/warm","file":"/s"}"#, "needs no files"),
            (r#"{"remote":"ci/warm","parents":["/p"]}"#, "needs no files"),
            (r#"{"sent":{"id":"7","by":"h"}}"#, "is lazy"),
            (
                r#"{"lazy":true,"parents":["/p"],"sent":{"id":"7","by":"h"}}"#,
                "is lazy",
            ),
        ] {
            let failure = parse(from).unwrap_err();
            assert!(failure.message.contains(said), "{from}: {failure}");
        }
        let swap = DeviceSpec {
            swap: Some(SwapSpec::default()),
            ..spec
        };
        assert!(
            swap.check()
                .unwrap_err()
                .message
                .contains("exclude each other")
        );
    }

    #[test]
    fn a_backing_is_a_path_with_or_without_a_size() {
        let sized = BackingSpec::parse("/no/such,4G").unwrap();
        assert_eq!(
            (sized.path, sized.size),
            ("/no/such".into(), Some(Bytes(4 << 30)))
        );
        assert_eq!(BackingSpec::parse("/dev/sdz").unwrap().size, None);
        assert!(BackingSpec::parse("rel").unwrap().path.is_absolute());
        let there = BackingSpec::parse_in("rel,1.5M", Path::new("/home/x")).unwrap();
        assert_eq!(
            (there.path, there.size),
            ("/home/x/rel".into(), Some(Bytes(3 << 19)))
        );
        let remote = BackingSpec::parse("ci/cold,64G").unwrap();
        assert_eq!(
            (&*remote.remote, remote.path.to_str(), remote.size),
            ("ci/cold", Some(""), Some(Bytes(64 << 30)))
        );
        assert_eq!(
            remote.as_file(Path::new("/x")).path,
            Path::new("/x/ci/cold")
        );
        for file in ["./ci/cold", "a/b/c", "/ci/cold", "cold"] {
            assert!(!BackingSpec::parse(file).unwrap().is_remote(), "{file}");
        }
        let spec = |backing: &str| {
            DeviceSpec::parse(format!(r#"{{"version":1,"backing":{backing}}}"#).as_bytes())
        };
        let good = spec(r#"{"remote":"ci/cold","remote_timeout_seconds":5}"#).unwrap();
        assert_eq!(DeviceSpec::parse(&good.to_json()), Ok(good.clone()));
        assert!(good.paths().is_empty());
        for (backing, said) in [
            (r#"{"remote":"ci"}"#, "it takes NAME/PREFIX"),
            (r#"{"remote":"ci/a","path":"/a"}"#, "but not both"),
            (r#"{"remote":"ci/a","remote_timeout_seconds":0}"#, "86400"),
            (r#"{"path":"/a","remote_timeout_seconds":5}"#, "in a remote"),
            ("{}", "relative"),
        ] {
            let failure = spec(backing).unwrap_err();
            assert!(failure.message.contains(said), "{backing}: {failure}");
        }
        let swap = DeviceSpec {
            swap: Some(SwapSpec::default()),
            ..good
        };
        assert!(
            swap.check()
                .unwrap_err()
                .message
                .contains("wait for a store")
        );
        for (text, size, seal) in [
            ("/a,seal", None, true),
            ("/a,1M,seal", Some(Bytes(1 << 20)), true),
            ("/a,seal,1M", Some(Bytes(1 << 20)), true),
            ("ci/cold,seal", None, true),
            ("ci/cold,1M", Some(Bytes(1 << 20)), false),
        ] {
            let backing = BackingSpec::parse(text).unwrap();
            assert_eq!((backing.size, backing.seal), (size, seal), "{text}");
            let json = serde_json::to_string(&backing).unwrap();
            assert_eq!(json.contains("seal"), seal, "{json}");
            assert_eq!(serde_json::from_str::<BackingSpec>(&json).unwrap(), backing);
        }
        for (text, why) in [
            ("/a,seal,seal", "not a size"),
            ("/a,1M,2M", "stands there twice"),
            ("/a,seal=age1x", "seal takes no value"),
            (",seal", "behind it"),
        ] {
            let error = BackingSpec::parse(text).unwrap_err();
            assert!(error.contains(why), "{text}: {error}");
        }
        assert!(BackingSpec::parse("").is_err());
        assert!(
            BackingSpec::parse("/a,4X")
                .unwrap_err()
                .contains("not a size")
        );
    }
}
