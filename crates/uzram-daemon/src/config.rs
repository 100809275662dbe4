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

/// The daemon's configuration.
#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Config {
    /// What the daemon does.
    #[serde(default)]
    pub daemon: DaemonSettings,
    /// The devices to make.
    #[serde(default, rename = "device")]
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
#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct NewDevice {
    /// Its name, by which it is known again.
    #[serde(default)]
    pub name: Option<String>,
    /// Where a file system is made on it and mounted.
    #[serde(default)]
    pub mount_point: Option<PathBuf>,
    /// Which.
    #[serde(default)]
    pub fs_type: Option<String>,
    /// Options of `mount`.
    #[serde(default)]
    pub mount_options: Option<String>,
    /// Options of `uzram create` by name.
    #[serde(flatten)]
    pub options: Map<String, Value>,
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
        let config: Config = toml::from_str(&text).map_err(|e| error(e.to_string()))?;
        let mut names = Vec::new();
        for device in &config.devices {
            let Some(name) = &device.name else {
                let message =
                    "a [[device]] needs a name, such as zram0, by which it is known again";
                return Err(error(message.into()));
            };
            if names.contains(&name) {
                return Err(error(format!("two devices are {name}")));
            }
            names.push(name);
            if device
                .mount_point
                .as_ref()
                .is_some_and(|at| !at.is_absolute())
            {
                return Err(error(format!("{name}: mount-point: an absolute path")));
            }
            if device.mount_point.is_none()
                && (device.fs_type.is_some() || device.mount_options.is_some())
            {
                return Err(error(format!(
                    "{name}: fs-type and mount-options are for a device with a mount-point"
                )));
            }
        }
        Ok(config)
    }
}

impl NewDevice {
    /// The options of `uzram create` that make it.
    pub fn create_options(&self) -> Value {
        let mut options = self.options.clone();
        if let Some(name) = &self.name {
            options.insert("name".into(), name.as_str().into());
        }
        options.into()
    }
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
        let options = config.devices[0].create_options();
        assert_eq!(
            options,
            serde_json::json!({"name": "zram7", "size": "8G", "swap": true})
        );
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
        ] {
            assert!(read(text).is_err(), "{text}");
        }
    }
}
