//! Which remotes there are: a file each, `NAME.json`, in one directory.
//!
//! It is `/etc/uzram/remotes` for root, `$XDG_CONFIG_HOME/uzram/remotes` (or `~/.config/uzram/remotes`) for others, who see root's
//! behind their own, and `$UZRAM_REMOTES` where that is set. A file says where snapshots go and come from, so nobody else may be
//! able to change it; it never has credentials.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use uzram_control::trust::check_file;

use crate::error::{Error, Result};
use crate::s3::S3Address;

/// Version of the files.
const VERSION: u64 = 1;
/// Where root's are.
const SYSTEM: &str = "/etc/uzram/remotes";
/// Most bytes of a file.
const MAX_BYTES: u64 = 64 << 10;
/// A remote: where it is, and what is known of it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RemoteConfig {
    /// Version of the file.
    pub version: u64,
    /// `file:/directory`, or `s3://bucket/prefix`.
    pub url: String,
    /// Of a store that speaks S3: `https://host`. `None`: Amazon's, by the region.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub endpoint: Option<String>,
    /// Of a store that speaks S3: its region.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub region: Option<String>,
    /// Of a store that speaks S3: the profile of `~/.aws` that has the credentials.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub profile: Option<String>,
    /// Whether conditional writes are honoured, as a race has shown.
    #[serde(default)]
    pub conditional: bool,
    /// Whether nothing is written there.
    #[serde(default)]
    pub read_only: bool,
}

impl RemoteConfig {
    /// A remote of which nothing is known but where it is.
    pub fn new(url: &str) -> RemoteConfig {
        RemoteConfig {
            version: VERSION,
            url: url.into(),
            endpoint: None,
            region: None,
            profile: None,
            conditional: false,
            read_only: false,
        }
    }

    /// Reads the address. What no address can be is refused in words.
    pub fn address(&self) -> Result<RemoteAddress> {
        if self.url.starts_with("s3:") {
            return Ok(RemoteAddress::S3(self.s3()?));
        }
        for (option, value) in [
            ("--endpoint", &self.endpoint),
            ("--region", &self.region),
            ("--profile", &self.profile),
        ] {
            if value.is_some() {
                let message = format!("{option} is for s3://BUCKET/PREFIX");
                return Err(Error::Usage(message));
            }
        }
        let path = self.url.strip_prefix("file:");
        // As in file:///directory.
        let path = path.map(|path| Path::new(path.strip_prefix("//").unwrap_or(path)));
        match path {
            Some(path) if path.is_absolute() => Ok(RemoteAddress::Directory(path.into())),
            // What is written before a @ may be a key.
            _ if self.url.contains('@') => Err(Error::Usage(
                "no address of a remote: it takes file:/DIRECTORY or s3://BUCKET/PREFIX".into(),
            )),
            _ => Err(Error::Usage(format!(
                "{} is no address of a remote: it takes file:/DIRECTORY or s3://BUCKET/PREFIX",
                self.url
            ))),
        }
    }

    fn s3(&self) -> Result<S3Address> {
        let mut address = S3Address::parse(&self.url)?;
        if let Some(endpoint) = &self.endpoint {
            address = address.with_endpoint(endpoint)?;
        }
        let is_word = |text: &&String| {
            let is_good = |byte: u8| byte.is_ascii_alphanumeric() || b"._-".contains(&byte);
            !text.is_empty() && text.len() <= 64 && text.bytes().all(is_good)
        };
        if self.region.as_ref().is_some_and(|region| !is_word(&region)) {
            return Err(Error::Usage(
                "a region has letters, digits and hyphens".into(),
            ));
        }
        address.region = self.region.clone();
        address.profile = self.profile.clone();
        Ok(address)
    }
}

/// Where a remote is.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum RemoteAddress {
    /// In a directory.
    Directory(PathBuf),
    /// In a store that speaks S3.
    S3(S3Address),
}

/// The remotes that a user has.
#[derive(Debug, Clone)]
pub struct Remotes {
    /// Where new ones are made, and where others are looked for, one after another.
    dirs: Vec<PathBuf>,
}

impl Remotes {
    /// Those of this user.
    pub fn of_user() -> Remotes {
        let from = |name: &str| std::env::var_os(name).filter(|value| !value.is_empty());
        if let Some(dir) = from("UZRAM_REMOTES") {
            return Remotes::new(dir);
        }
        let system = PathBuf::from(SYSTEM);
        if rustix::process::geteuid().is_root() {
            return Remotes { dirs: vec![system] };
        }
        let config = from("XDG_CONFIG_HOME").map(PathBuf::from);
        let config = config.or_else(|| Some(PathBuf::from(from("HOME")?).join(".config")));
        let own = config.filter(|dir| dir.is_absolute());
        let own = own.map(|dir| dir.join("uzram/remotes"));
        Remotes {
            dirs: own.into_iter().chain([system]).collect(),
        }
    }

    /// Those in a directory.
    pub fn new(dir: impl Into<PathBuf>) -> Remotes {
        Remotes {
            dirs: vec![dir.into()],
        }
    }

    /// Whether a text is the name of a remote, there or not: a letter, and letters, digits, `-` and `_`.
    pub fn is_name(text: &str) -> bool {
        let mut bytes = text.bytes();
        bytes
            .next()
            .is_some_and(|first| first.is_ascii_alphabetic())
            && bytes.all(|byte| byte.is_ascii_alphanumeric() || b"-_".contains(&byte))
            && text.len() <= 64
    }

    /// Reads one.
    pub fn find(&self, name: &str) -> Result<RemoteConfig> {
        let no_remote = || Error::NoRemote { name: name.into() };
        if !Remotes::is_name(name) {
            return Err(no_remote());
        }
        let path = self.path_of(name).ok_or_else(no_remote)?;
        check_file(&path)?;
        let too_long = fs::metadata(&path).is_ok_and(|meta| meta.len() > MAX_BYTES);
        let foreign = |why: String| Error::Foreign {
            what: path.display().to_string(),
            kind: "remote",
            why,
        };
        if too_long {
            return Err(foreign("it is too long".into()));
        }
        let bytes = fs::read(&path).map_err(Error::io(path.display().to_string()))?;
        let value: serde_json::Value =
            serde_json::from_slice(&bytes).map_err(|error| foreign(error.to_string()))?;
        let found = value["version"].as_u64().unwrap_or(0);
        if found > VERSION {
            let what = path.display().to_string();
            let known = VERSION;
            return Err(Error::Newer { what, found, known });
        }
        serde_json::from_value(value).map_err(|error| foreign(error.to_string()))
    }

    /// Whether there is one of this name.
    pub fn has(&self, name: &str) -> bool {
        Remotes::is_name(name) && self.path_of(name).is_some()
    }

    fn path_of(&self, name: &str) -> Option<PathBuf> {
        let mut paths = self.dirs.iter().map(|dir| dir.join(format!("{name}.json")));
        paths.find(|path| path.is_file())
    }

    /// The names of all, in order.
    pub fn names(&self) -> Result<Vec<String>> {
        let mut names = Vec::new();
        for dir in &self.dirs {
            let entries = match fs::read_dir(dir) {
                Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
                entries => entries.map_err(Error::io(dir.display().to_string()))?,
            };
            let files = entries.flatten().map(|entry| entry.file_name());
            let files = files.filter_map(|file| file.into_string().ok());
            names.extend(files.filter_map(|file| Some(file.strip_suffix(".json")?.to_owned())));
        }
        names.retain(|name| Remotes::is_name(name));
        names.sort();
        names.dedup();
        Ok(names)
    }

    /// Keeps a new one.
    pub fn add(&self, name: &str, config: &RemoteConfig) -> Result<()> {
        if !Remotes::is_name(name) {
            return Err(Error::Usage(format!(
                "{name} is no name of a remote: it takes a letter, then letters, digits, - and _"
            )));
        }
        let Some(dir) = self.dirs.first() else {
            return Err(Error::Usage(
                "there is no place for remotes: set HOME".into(),
            ));
        };
        use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
        let made = fs::DirBuilder::new()
            .recursive(true)
            .mode(0o755)
            .create(dir);
        made.map_err(Error::io(dir.display().to_string()))?;
        let path = dir.join(format!("{name}.json"));
        let failed = |error: io::Error| match error.kind() {
            io::ErrorKind::AlreadyExists => Error::RemoteExists { name: name.into() },
            _ => Error::io(path.display().to_string())(error),
        };
        let mut text = serde_json::to_vec_pretty(config).unwrap_or_default();
        text.push(b'\n');
        // It is whole when it has its name.
        let unnamed = dir.join(format!(".{name}.{}", std::process::id()));
        let mut options = fs::OpenOptions::new();
        options.write(true).create(true).truncate(true).mode(0o644);
        let written = options.open(&unnamed).and_then(|mut file| {
            io::Write::write_all(&mut file, &text)?;
            file.sync_all()?;
            fs::hard_link(&unnamed, &path)
        });
        let _ = fs::remove_file(&unnamed);
        written.map_err(failed)?;
        match check_file(&path) {
            Ok(_) => Ok(()),
            Err(distrust) => {
                let _ = fs::remove_file(&path);
                Err(distrust.into())
            }
        }
    }

    /// Forgets one. What it has stored stays.
    pub fn remove(&self, name: &str) -> Result<()> {
        let no_remote = || Error::NoRemote { name: name.into() };
        let path = self.path_of(name).filter(|_| Remotes::is_name(name));
        let path = path.ok_or_else(no_remote)?;
        fs::remove_file(&path).map_err(Error::io(path.display().to_string()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_read_and_nonsense_is_not() {
        let at = |url: &str| RemoteConfig::new(url).address();
        for url in ["file:/srv/x", "file:///srv/x"] {
            assert_eq!(at(url).unwrap(), RemoteAddress::Directory("/srv/x".into()));
        }
        for wrong in [
            "", "/srv", "file:", "file:srv", "http://x", "s3:warm", "s3://w",
        ] {
            assert!(at(wrong).is_err(), "{wrong}");
        }
        let mut config = RemoteConfig::new("s3://warm/disks");
        config.endpoint = Some("http://127.0.0.1:8333".into());
        config.region = Some("eu-north-1".into());
        let RemoteAddress::S3(address) = config.address().unwrap() else {
            panic!("{config:?}");
        };
        assert_eq!((&*address.bucket, &*address.prefix), ("warm", "disks"));
        assert_eq!(address.region, config.region);
        config.url = "file:/srv".into();
        assert!(
            config
                .address()
                .unwrap_err()
                .to_string()
                .contains("--endpoint")
        );
        let secret = RemoteConfig::new("https://AKIA1:hush@host/warm").address();
        assert!(!secret.unwrap_err().to_string().contains("hush"));
    }

    #[test]
    fn a_remote_is_added_once_and_nobody_else_may_change_it() {
        use std::os::unix::fs::PermissionsExt;
        let dir = tempfile::tempdir().unwrap();
        let remotes = Remotes::new(dir.path().join("remotes"));
        assert!(remotes.names().unwrap().is_empty());
        let config = RemoteConfig::new("file:/srv");
        remotes.add("ci", &config).unwrap();
        assert!(matches!(
            remotes.add("ci", &config),
            Err(Error::RemoteExists { .. })
        ));
        for wrong in ["", "1", "a/b", "..", "a b", "-a"] {
            assert!(remotes.add(wrong, &config).is_err(), "{wrong}");
        }
        assert_eq!(remotes.find("ci").unwrap(), config);
        assert_eq!(remotes.names().unwrap(), ["ci"]);
        let path = dir.path().join("remotes/ci.json");
        let set = |mode| fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap();
        set(0o666);
        assert!(matches!(remotes.find("ci"), Err(Error::Distrust(_))));
        set(0o644);
        fs::write(&path, r#"{"version":2,"url":"file:/x"}"#).unwrap();
        assert!(matches!(
            remotes.find("ci"),
            Err(Error::Newer { found: 2, .. })
        ));
        remotes.remove("ci").unwrap();
        assert!(matches!(remotes.find("ci"), Err(Error::NoRemote { .. })));
    }
}
