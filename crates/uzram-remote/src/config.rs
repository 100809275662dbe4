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
use crate::wire::Place;

/// Version of the files.
const VERSION: u64 = 1;
/// Where root's are.
const SYSTEM: &str = "/etc/uzram/remotes";
/// Most bytes of a file.
const MAX_BYTES: u64 = 64 << 10;
/// For how long a call is tried again, if nothing else is said. A store that lost its master answers after half a minute.
pub const PATIENCE_SECONDS: u64 = 90;

/// A remote: where it is, and what is known of it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RemoteConfig {
    /// Version of the file.
    pub version: u64,
    /// `s3://bucket/prefix`, or `file:/directory`.
    pub url: String,
    /// The address of the service, if it is not Amazon's.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub endpoint: Option<String>,
    /// Its region.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub region: Option<String>,
    /// The profile of the files that have the credentials.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub profile: Option<String>,
    /// Whether conditional writes are honoured, as a race has shown.
    #[serde(default)]
    pub conditional: bool,
    /// Whether nothing is written there.
    #[serde(default)]
    pub read_only: bool,
    /// For how long a call is tried again.
    #[serde(default = "patience")]
    pub patience_seconds: u64,
}

fn patience() -> u64 {
    PATIENCE_SECONDS
}

/// Where the objects of a remote are.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Address {
    /// In a directory.
    Dir(PathBuf),
    /// In a bucket.
    S3(Place),
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
            patience_seconds: PATIENCE_SECONDS,
        }
    }

    /// Reads the address. What no address can be is refused in words.
    pub fn address(&self) -> Result<Address> {
        let usage = |why: &str| {
            Err(Error::Usage(format!(
                "{} is no address of a remote: {why}. It takes s3://BUCKET/PREFIX or file:/DIRECTORY",
                self.url
            )))
        };
        if let Some(path) = self.url.strip_prefix("file:") {
            // As in file:///directory.
            let path = path.strip_prefix("//").unwrap_or(path);
            let path = Path::new(path);
            if self.endpoint.is_some() || self.region.is_some() || self.profile.is_some() {
                return usage("a directory has no endpoint, region or profile");
            }
            return match path.is_absolute() {
                true => Ok(Address::Dir(path.into())),
                false => usage("the directory must begin with /"),
            };
        }
        let Some(rest) = self.url.strip_prefix("s3://") else {
            return usage("it begins with neither s3:// nor file:");
        };
        let (bucket, prefix) = rest.split_once('/').unwrap_or((rest, ""));
        let prefix = prefix.trim_end_matches('/');
        let is_bucket = |byte: u8| byte.is_ascii_alphanumeric() || b".-_".contains(&byte);
        if bucket.is_empty() || !bucket.bytes().all(is_bucket) {
            return usage("a bucket's name has letters, digits, dots and hyphens");
        }
        let is_prefix = |byte: u8| is_bucket(byte) || b"/+=".contains(&byte);
        let parts = || prefix.split('/');
        let is_part = |part: &str| !part.is_empty() && part != "." && part != "..";
        if !prefix.bytes().all(is_prefix) || !prefix.is_empty() && !parts().all(is_part) {
            return usage("a prefix has letters, digits and . - _ + = /, and no empty part");
        }
        if let Some(endpoint) = &self.endpoint {
            let host = endpoint.strip_prefix("https://");
            let host = host.or_else(|| endpoint.strip_prefix("http://"));
            if host.is_none_or(str::is_empty) {
                let message = format!("{endpoint} is no endpoint: it begins with https:// or http://");
                return Err(Error::Usage(message));
            }
            if host.is_some_and(|host| host.contains('@')) {
                let message = "an endpoint takes no user and no password: credentials come from AWS_ACCESS_KEY_ID and \
                    AWS_SECRET_ACCESS_KEY, or from the files of a profile";
                return Err(Error::Usage(message.into()));
            }
        }
        Ok(Address::S3(Place {
            bucket: bucket.into(),
            prefix: prefix.into(),
            endpoint: self.endpoint.clone(),
            region: self.region.clone(),
            profile: self.profile.clone(),
            patience_seconds: self.patience_seconds,
        }))
    }
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
        bytes.next().is_some_and(|first| first.is_ascii_alphabetic())
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
            return Err(Error::Usage("there is no place for remotes: set HOME".into()));
        };
        use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
        let made = fs::DirBuilder::new().recursive(true).mode(0o755).create(dir);
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
        let dir = |url: &str| RemoteConfig::new(url).address();
        assert_eq!(dir("file:/srv/x").unwrap(), Address::Dir("/srv/x".into()));
        assert_eq!(dir("file:///srv/x").unwrap(), Address::Dir("/srv/x".into()));
        let Address::S3(place) = dir("s3://b.c-d/e/f/").unwrap() else {
            panic!();
        };
        assert_eq!((place.bucket.as_str(), place.prefix.as_str()), ("b.c-d", "e/f"));
        for wrong in [
            "", "/srv", "file:srv", "http://x", "s3://", "s3:///x", "s3://b/../x", "s3://b/a//b", "s3://b c",
            "s3://b/x?y",
        ] {
            assert!(dir(wrong).is_err(), "{wrong}");
        }
        let mut config = RemoteConfig::new("s3://b");
        for wrong in ["localhost:1", "ftp://x", "http://", "http://user:secret@host"] {
            config.endpoint = Some(wrong.into());
            let error = config.address().unwrap_err().to_string();
            assert!(!error.contains("secret"), "{error}");
        }
    }

    #[test]
    fn a_remote_is_added_once_and_nobody_else_may_change_it() {
        use std::os::unix::fs::PermissionsExt;
        let dir = tempfile::tempdir().unwrap();
        let remotes = Remotes::new(dir.path().join("remotes"));
        assert!(remotes.names().unwrap().is_empty());
        let config = RemoteConfig::new("file:/srv");
        remotes.add("ci", &config).unwrap();
        assert!(matches!(remotes.add("ci", &config), Err(Error::RemoteExists { .. })));
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
        assert!(matches!(remotes.find("ci"), Err(Error::Newer { found: 2, .. })));
        remotes.remove("ci").unwrap();
        assert!(matches!(remotes.find("ci"), Err(Error::NoRemote { .. })));
    }
}
