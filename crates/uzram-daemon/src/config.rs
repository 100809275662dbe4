//! `uzram.toml`: what the daemon does, and the devices that it makes when it starts.
//!
//! ```toml
//! [daemon]
//! frontend = "auto"          # of devices that are initialised by writing disksize
//! strict = true              # zram's interface does what the kernel's does and no more
//! num_devices = 1            # not initialised, as of the kernel's module
//! sysfs = "/run/uzram/sys"   # where to show zram's interface
//! zram_generator = true      # make the devices of zram-generator.conf, too
//!
//! [[device]]                 # any option of `uzram create` by its name, and:
//! name = "zram7"
//! size = "8G"
//! algorithm = "zstd(level=1)"
//! mount-point = "/var/cache/build"
//! fs-type = "ext4"
//! mount-options = "discard"
//! ```

use std::path::{Path, PathBuf};

use serde::Deserialize;
use serde_json::{Map, Value};
use uzram_runtime::frontends;
use uzram_spec::{DeviceSpec, Failure, FailureKind};

/// The daemon's configuration.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Config {
    /// What the daemon does.
    pub daemon: DaemonSettings,
    /// The devices to make.
    pub devices: Vec<NewDevice>,
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
}

impl Default for DaemonSettings {
    fn default() -> DaemonSettings {
        DaemonSettings {
            frontend: "auto".into(),
            strict: true,
            num_devices: 0,
            sysfs: None,
            zram_generator: false,
        }
    }
}

/// A device to be made, and what is done with it then.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct NewDevice {
    /// What it is. It has a name, by which it is known again.
    pub spec: DeviceSpec,
    /// Where a file system is made on it and mounted.
    pub mount_point: Option<PathBuf>,
    /// Which.
    pub fs_type: Option<String>,
    /// Options of `mount`.
    pub mount_options: Option<String>,
}

/// A `[[device]]` as it stands in the file.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "kebab-case")]
struct Section {
    name: Option<String>,
    mount_point: Option<PathBuf>,
    fs_type: Option<String>,
    mount_options: Option<String>,
    /// Options of `uzram create` by name.
    #[serde(flatten)]
    options: Map<String, Value>,
}

/// What a section has beside the options of `uzram create`.
const OF_SECTION: &[&str] = &["mount-point", "fs-type", "mount-options"];

/// The file as it stands.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Sections {
    #[serde(default)]
    daemon: DaemonSettings,
    #[serde(default)]
    device: Vec<Section>,
}

/// Why a configuration is not one.
#[derive(Debug, thiserror::Error)]
#[error("{}: {message}", path.display())]
pub struct ConfigError {
    /// The file.
    pub path: PathBuf,
    /// What is wrong.
    pub message: String,
}

impl Config {
    /// Reads the file. Without one: the defaults.
    pub fn read(path: &Path) -> Result<Config, ConfigError> {
        let error = |message: String| ConfigError {
            path: path.into(),
            message,
        };
        let text = match std::fs::read_to_string(path) {
            Ok(text) => text,
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(Config::default()),
            Err(e) => return Err(error(e.to_string())),
        };
        let sections: Sections = toml::from_str(&text).map_err(|e| error(e.to_string()))?;
        let mut devices: Vec<NewDevice> = Vec::new();
        for section in sections.device {
            let Some(name) = section.name.clone() else {
                let message =
                    "a [[device]] needs a name, such as zram0, by which it is known again";
                return Err(error(message.into()));
            };
            if devices
                .iter()
                .any(|known| known.spec.name.as_ref() == Some(&name))
            {
                return Err(error(format!("two devices are {name}")));
            }
            let device = NewDevice::from_section(section);
            devices.push(device.map_err(|message| error(format!("{name}: {message}")))?);
        }
        Ok(Config {
            daemon: sections.daemon,
            devices,
        })
    }
}

impl NewDevice {
    fn from_section(section: Section) -> Result<NewDevice, String> {
        if section
            .mount_point
            .as_ref()
            .is_some_and(|at| !at.is_absolute())
        {
            return Err("mount-point: an absolute path".into());
        }
        if section.mount_point.is_none()
            && (section.fs_type.is_some() || section.mount_options.is_some())
        {
            return Err("fs-type and mount-options are for a device with a mount-point".into());
        }
        let mut options = section.options;
        if let Some(name) = section.name {
            options.insert("name".into(), name.into());
        }
        Ok(NewDevice {
            spec: spec_from_options(&options, OF_SECTION).map_err(|failure| failure.to_string())?,
            mount_point: section.mount_point,
            fs_type: section.fs_type,
            mount_options: section.mount_options,
        })
    }
}

/// The description that options of `uzram create` by name stand for. Relative paths are relative to `directory`, if that is
/// among them, else to the root. `also` are further names that can be given where these options are.
pub(crate) fn spec_from_options(
    options: &Map<String, Value>,
    also: &[&str],
) -> uzram_spec::Result<DeviceSpec> {
    let mut options = options.clone();
    let usage = |message: &str| Failure::new(FailureKind::Usage, message);
    let directory = match options.remove("directory") {
        None | Some(Value::Null) => PathBuf::from("/"),
        Some(Value::String(path)) if path.starts_with('/') => path.into(),
        Some(_) => return Err(usage("directory: an absolute path")),
    };
    let of_frontends = frontends::option_names();
    let mut spec = DeviceSpec::from_options(&options, &of_frontends, &directory, also)?;
    frontends::resolve_paths(&mut spec.frontend, &directory);
    Ok(spec)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> Result<Config, ConfigError> {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), text).unwrap();
        Config::read(file.path())
    }

    #[test]
    fn a_file_is_read() {
        let config = read(
            "[daemon]\nnum_devices = 2\n[[device]]\nname = \"zram7\"\nsize = \"8G\"\nswap = true\n\
             [[device]]\nname = \"zram8\"\nsize = 4096\nmount-point = \"/mnt\"\nfs-type = \"ext4\"\n",
        );
        let config = config.unwrap();
        assert_eq!(config.daemon.num_devices, 2);
        assert!(config.daemon.strict);
        let spec = &config.devices[0].spec;
        assert_eq!(spec.name.as_deref(), Some("zram7"));
        assert_eq!(spec.size, Some(uzram_spec::Bytes(8 << 30)));
        assert!(spec.is_swap());
        assert_eq!(config.devices[1].fs_type.as_deref(), Some("ext4"));
    }

    #[test]
    fn no_file_is_the_defaults_and_nonsense_is_refused() {
        assert_eq!(
            Config::read(Path::new("/no/such/file")).unwrap(),
            Config::default()
        );
        for text in [
            "[daemon]\nnum_device = 2\n",
            "[demon]\n",
            "x",
            "[[device]]\nname = \"zram0\"\nfs-type = \"ext4\"\n",
            "[[device]]\nsize = 4096\n",
            "[[device]]\nname = \"zram0\"\n[[device]]\nname = \"zram0\"\n",
            "[[device]]\nname = \"zram0\"\nmount-point = \"mnt\"\n",
            "[[device]]\nname = \"zram0\"\nsise = 4096\n",
            "[[device]]\nname = \"zram0\"\nsize = \"4X\"\n",
        ] {
            assert!(read(text).is_err(), "{text}");
        }
    }
}
