//! `zram-generator.conf` as systemd's zram-generator reads it: where it is looked for, its keys, and its arithmetic.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::Command;

use ini::{Ini, ParseOption};
use uzram::compress::AlgorithmSpec;
use uzram_spec::{BackingSpec, Bytes, DeviceSpec, SwapSpec};

use crate::config::NewDevice;

/// Directories below the root, the strongest last.
const DIRS: &[&str] = &["usr/lib", "usr/local/lib", "etc", "run"];
const FILE: &str = "systemd/zram-generator.conf";
/// MB; the size without `zram-size` is `min(ram / 2, 4096)`.
const DEFAULT_MAX: f64 = 4096.0;

/// Why a configuration cannot be used.
#[derive(Debug, thiserror::Error)]
#[error("{place}: {message}")]
pub struct Error {
    /// File or section.
    pub place: String,
    /// What is wrong.
    pub message: String,
}

impl Error {
    fn at(place: impl std::fmt::Display, message: impl std::fmt::Display) -> Error {
        Error {
            place: place.to_string(),
            message: message.to_string(),
        }
    }
}

type Result<T> = std::result::Result<T, Error>;

/// A section: keys and values, later files' over earlier ones'.
type Section = BTreeMap<String, String>;

/// The devices that the configuration below `root` (usually `/`) asks for on a machine of `ram_mb` MB, and what there is
/// to say about it.
pub fn devices(root: &Path, ram_mb: u64) -> Result<(Vec<NewDevice>, Vec<String>)> {
    let (sections, globals) = read(root)?;
    let mut variables = BTreeMap::from([("ram".to_owned(), ram_mb as f64)]);
    for (key, command) in &globals {
        if let Some(name) = key.strip_prefix("set!") {
            variables.insert(name.into(), run(name, command)?);
        }
    }
    let (mut devices, mut notes) = (Vec::new(), Vec::new());
    for (name, section) in &sections {
        match device(name, section, &variables, &mut notes) {
            Ok(device) => devices.extend(device),
            // The others can be made all the same.
            Err(error) => notes.push(format!("not made: {error}")),
        }
    }
    Ok((devices, notes))
}

/// The files that count, in the order in which they are read.
fn files(root: &Path) -> Vec<PathBuf> {
    let main = DIRS.iter().rev().map(|dir| root.join(dir).join(FILE));
    let mut files: Vec<PathBuf> = main.filter(|path| path.exists()).take(1).collect();
    // Of fragments of the same name the strongest directory's counts.
    let mut fragments = BTreeMap::new();
    for dir in DIRS {
        let found = std::fs::read_dir(root.join(dir).join(format!("{FILE}.d")));
        for entry in found.into_iter().flatten().flatten() {
            let path = entry.path();
            if path
                .extension()
                .is_some_and(|extension| extension == "conf")
            {
                fragments.insert(entry.file_name(), path);
            }
        }
    }
    files.extend(fragments.into_values());
    files
}

fn read(root: &Path) -> Result<(BTreeMap<String, Section>, Section)> {
    let (mut sections, mut globals) = (BTreeMap::new(), Section::new());
    for path in files(root) {
        // A link to /dev/null masks: nothing is in it.
        let text = std::fs::read_to_string(&path).map_err(|e| Error::at(path.display(), e))?;
        let options = ParseOption {
            enabled_quote: false,
            enabled_escape: false,
            ..ParseOption::default()
        };
        let ini = Ini::load_from_str_opt(&text, options)
            .map_err(|error| Error::at(path.display(), error))?;
        for (name, properties) in &ini {
            let section = match name {
                Some(name) => sections.entry(name.to_owned()).or_insert_with(Section::new),
                None => &mut globals,
            };
            let pairs = properties.iter();
            section.extend(pairs.map(|(key, value)| (key.to_owned(), value.trim().to_owned())));
        }
    }
    Ok((sections, globals))
}

/// A variable is what a shell command prints.
fn run(name: &str, command: &str) -> Result<f64> {
    let error = |what: String| Error::at(format!("set!{name}"), what);
    let output = Command::new("/bin/sh").args(["-c", command]).output();
    let output = output.map_err(|e| error(e.to_string()))?;
    if !output.status.success() {
        return Err(error(format!("'{command}' failed: {}", output.status)));
    }
    let text = String::from_utf8_lossy(&output.stdout);
    let number = text.trim().parse();
    number.map_err(|_| error(format!("'{command}' printed '{}', no number", text.trim())))
}

fn device(
    name: &str,
    section: &Section,
    variables: &BTreeMap<String, f64>,
    notes: &mut Vec<String>,
) -> Result<Option<NewDevice>> {
    if uzram_control::number(name).is_none() {
        notes.push(format!(
            "[{name}]: ignored, since it is not zram and a number"
        ));
        return Ok(None);
    }
    let mut known = Known::new(name, section);
    let ram = variables.get("ram").copied().unwrap_or_default();
    let limit = known.take(&["host-memory-limit", "memory-limit"]);
    if let Some(limit) = limit.filter(|limit| limit != "none") {
        let limit: f64 = limit
            .parse()
            .map_err(|_| known.error("host-memory-limit", "MB, or none"))?;
        if ram > limit {
            notes.push(format!(
                "{name}: not made, since the machine has more than {limit} MB"
            ));
            return Ok(None);
        }
    }
    let size = size(&mut known, variables, ram)?;
    if size == 0 {
        notes.push(format!("{name}: not made, since its size is 0"));
        return Ok(None);
    }
    let mut spec = DeviceSpec {
        name: Some(name.into()),
        size: Some(Bytes(size)),
        ..DeviceSpec::default()
    };
    if let Some(limit) = known.expression("zram-resident-limit", variables)? {
        spec.mem_limit = Bytes(limit).into();
    }
    if let Some(algorithms) = known.take(&["compression-algorithm"]) {
        set_algorithms(&known, &algorithms, &mut spec, notes)?;
    }
    if let Some(device) = known.take(&["writeback-device"]) {
        let backing = BackingSpec::parse(&device);
        spec.backing = Some(backing.map_err(|why| known.error("writeback-device", &why))?);
    }
    let mut device = NewDevice::default();
    let kind = known.take(&["fs-type"]);
    let mount = known.take(&["options"]);
    let priority = known.take(&["swap-priority"]);
    match (known.take(&["mount-point"]), kind.as_deref()) {
        (None, None | Some("swap")) => {
            let mut swap = SwapSpec::default();
            if let Some(priority) = priority {
                swap.priority = priority
                    .parse()
                    .map_err(|_| known.error("swap-priority", "a number from -1 to 32767"))?;
            }
            spec.swap = Some(swap);
            if mount.as_deref().is_some_and(|options| options != "discard") {
                notes.push(format!("{name}: swap is always switched on with discard"));
            }
        }
        (None, Some(_)) => return Err(known.error("mount-point", "wanted with fs-type")),
        (Some(at), kind) => {
            if !at.starts_with('/') {
                return Err(known.error("mount-point", "an absolute path"));
            }
            device.mount_point = Some(at.into());
            device.fs_type = Some(kind.unwrap_or("ext2").into());
            device.mount_options = Some(mount.unwrap_or_else(|| "discard".into()));
        }
    }
    for key in known.rest() {
        notes.push(format!("{name}: the key '{key}' is not known and ignored"));
    }
    spec.check()
        .map_err(|failure| Error::at(format!("[{name}]"), failure))?;
    device.spec = spec;
    Ok(Some(device))
}

/// `zram-size`, or what it was before there was one, in bytes.
fn size(known: &mut Known<'_>, variables: &BTreeMap<String, f64>, ram: f64) -> Result<u64> {
    let old: Vec<Option<f64>> = ["zram-fraction", "max-zram-size"]
        .into_iter()
        .map(|key| {
            let value = known.take(&[key]).filter(|value| value != "none");
            let number = value.map(|v| v.parse().map_err(|_| known.error(key, "a number")));
            number.transpose()
        })
        .collect::<Result<_>>()?;
    if let Some(bytes) = known.expression("zram-size", variables)? {
        return Ok(bytes);
    }
    let (fraction, max) = (old[0].unwrap_or(0.5), old[1].unwrap_or(DEFAULT_MAX));
    Ok(to_bytes((ram * fraction).min(max)))
}

fn to_bytes(mb: f64) -> u64 {
    (mb * (1 << 20) as f64) as u64
}

/// `zstd(level=3) lz4hc (type=idle)`: the first is the primary, the others are for recompression; parentheses that
/// stand alone say what is to be recompressed.
fn set_algorithms(
    known: &Known<'_>,
    text: &str,
    spec: &mut DeviceSpec,
    notes: &mut Vec<String>,
) -> Result<()> {
    let mut words = words(text)
        .ok_or_else(|| known.error("compression-algorithm", "a parenthesis is not closed"))?;
    words.retain(|word| {
        if word.starts_with('(') {
            notes.push(format!(
                "{}: {word} is not used, as by zram-generator; see policy in uzram.toml",
                known.name
            ));
        }
        !word.starts_with('(')
    });
    let mut words = words.into_iter();
    let read = |word: String| {
        let parsed = word.parse::<AlgorithmSpec>();
        parsed.map_err(|error| known.error("compression-algorithm", &error.to_string()))
    };
    if let Some(primary) = words.next() {
        spec.algorithm = read(primary)?;
    }
    spec.recomp_algorithm = words.map(read).collect::<Result<_>>()?;
    if spec.recomp_algorithm.len() > 3 {
        return Err(known.error("compression-algorithm", "at most 4 algorithms"));
    }
    Ok(())
}

/// Words at blanks outside of parentheses; `None` if one is not closed.
fn words(text: &str) -> Option<Vec<String>> {
    let (mut words, mut word, mut inside) = (Vec::new(), String::new(), false);
    for c in text.chars() {
        match c {
            '(' => inside = true,
            ')' => inside = false,
            _ => {}
        }
        match c.is_whitespace() && !inside {
            true if word.is_empty() => {}
            true => words.push(std::mem::take(&mut word)),
            // Blanks between parameters mean nothing.
            false if c.is_whitespace() => {}
            false => word.push(c),
        }
    }
    if !word.is_empty() {
        words.push(word);
    }
    (!inside).then_some(words)
}

/// A section's keys, each of which is taken once.
struct Known<'a> {
    name: &'a str,
    left: Section,
}

impl<'a> Known<'a> {
    fn new(name: &'a str, section: &Section) -> Known<'a> {
        let left = section.clone();
        Known { name, left }
    }

    /// The first of these keys that is there and not empty.
    fn take(&mut self, keys: &[&str]) -> Option<String> {
        let values: Vec<_> = keys.iter().filter_map(|k| self.left.remove(*k)).collect();
        values.into_iter().find(|value| !value.is_empty())
    }

    /// An expression in MB, in bytes.
    fn expression(&mut self, key: &str, variables: &BTreeMap<String, f64>) -> Result<Option<u64>> {
        let Some(text) = self.take(&[key]) else {
            return Ok(None);
        };
        let mut names = variables.clone();
        let mb = fasteval::ez_eval(&text, &mut names)
            .map_err(|error| self.error(key, &format!("'{text}': {error}")))?;
        if !mb.is_finite() || mb < 0.0 {
            return Err(self.error(key, &format!("'{text}' is {mb} MB")));
        }
        Ok(Some(to_bytes(mb)))
    }

    fn error(&self, key: &str, wanted: &str) -> Error {
        Error::at(format!("[{}] {key}", self.name), wanted)
    }

    fn rest(self) -> Vec<String> {
        self.left.into_keys().collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn made(files: &[(&str, &str)], ram_mb: u64) -> Result<(Vec<NewDevice>, Vec<String>)> {
        let root = tempfile::tempdir().unwrap();
        for (path, text) in files {
            let path = root.path().join(path);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, text).unwrap();
        }
        devices(root.path(), ram_mb)
    }

    fn one(text: &str) -> NewDevice {
        let (mut devices, _) = made(&[("etc/systemd/zram-generator.conf", text)], 8000).unwrap();
        devices.pop().unwrap()
    }

    #[test]
    fn sizes_are_arithmetic_in_mb() {
        let size = |text: &str| one(&format!("[zram0]\n{text}")).spec.size.unwrap().0 >> 20;
        assert_eq!(size(""), 4000);
        assert_eq!(size("zram-size = min(ram / 10, 2048)"), 800);
        assert_eq!(size("zram-size = ram"), 8000);
        assert_eq!(size("zram-fraction = 0.25\nmax-zram-size = none"), 2000);
        let with_variable = "set!half=echo 0.5\n[zram0]\nzram-size = ram * half";
        assert_eq!(one(with_variable).spec.size, Some(Bytes(4000 << 20)));
    }

    #[test]
    fn a_section_becomes_a_description() {
        let swap = one(
            "[zram0]\ncompression-algorithm = zstd(level=3, dict=/x) lz4hc (type=idle)\nswap-priority = 7\n\
             zram-resident-limit = 100\nwriteback-device = /dev/sdx\n",
        );
        let spec = swap.spec;
        assert_eq!(spec.algorithm.to_string(), "zstd(level=3,dict=/x)");
        assert_eq!(spec.recomp_algorithm, ["lz4hc".parse().unwrap()]);
        assert_eq!(spec.swap.unwrap().priority, 7);
        assert_eq!(spec.mem_limit, Bytes(100 << 20));
        assert_eq!(spec.backing.unwrap().path, Path::new("/dev/sdx"));
        let mount = one("[zram1]\nmount-point = /var/tmp\n");
        assert_eq!(mount.fs_type.as_deref(), Some("ext2"));
        assert_eq!(mount.mount_options.as_deref(), Some("discard"));
        assert!(!mount.spec.is_swap());
    }

    #[test]
    fn the_strongest_file_counts_and_fragments_add() {
        let files = [
            (
                "usr/lib/systemd/zram-generator.conf",
                "[zram0]\nzram-size = 1\n",
            ),
            (
                "etc/systemd/zram-generator.conf",
                "[zram0]\nzram-size = 2\nswap-priority = 5\n",
            ),
            (
                "usr/lib/systemd/zram-generator.conf.d/10.conf",
                "[zram0]\nzram-size = 3\n",
            ),
            (
                "run/systemd/zram-generator.conf.d/10.conf",
                "[zram0]\nzram-size = 4\n[zram1]\n",
            ),
        ];
        let (devices, _) = made(&files, 100).unwrap();
        assert_eq!(devices.len(), 2);
        assert_eq!(devices[0].spec.size, Some(Bytes(4 << 20)));
        assert_eq!(devices[0].spec.swap.as_ref().unwrap().priority, 5);
    }

    #[test]
    fn what_is_wrong_is_named() {
        for (text, place) in [
            ("[zram0]\nzram-size = ram +\n", "zram-size"),
            ("[zram0]\nzram-size = 0 - 5\n", "zram-size"),
            ("[zram0]\nhost-memory-limit = x\n", "host-memory-limit"),
            (
                "[zram0]\ncompression-algorithm = zstd(level=3\n",
                "compression-algorithm",
            ),
            ("[zram0]\nfs-type = ext4\n", "mount-point"),
            ("[zram0]\nmount-point = tmp\n", "mount-point"),
            ("set!x=exit 3\n[zram0]\n", "set!x"),
        ] {
            let said = match made(&[("etc/systemd/zram-generator.conf", text)], 100) {
                Ok((devices, notes)) => {
                    assert!(devices.is_empty(), "{text}");
                    notes.join("; ")
                }
                Err(error) => error.to_string(),
            };
            assert!(said.contains(place), "{text}: {said}");
        }
        let limited = "[zram0]\nhost-memory-limit = 50\n[sda]\nx = 1\n";
        let (devices, notes) = made(&[("etc/systemd/zram-generator.conf", limited)], 100).unwrap();
        assert!(devices.is_empty());
        assert_eq!(notes.len(), 2);
    }
}
