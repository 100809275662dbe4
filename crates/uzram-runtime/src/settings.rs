//! What can be changed of a device that is in use, by name and text: the settings of `uzram set`, which the API takes as well.

use std::path::{Path, PathBuf};

use uzram::PolicySettings;
use uzram::compress::AlgorithmSpec;
use uzram_control::zram::{Attribute, AttributePlace};
use uzram_control::{Request, size, to_hex};
use uzram_spec::{BackingSpec, Erase, Failure, MemLimit, Result, SelfTraining};

use crate::{choice, files};

/// The settings beside zram's attributes, each with what it takes.
pub const SETTINGS: &[(&str, &str)] = &[
    ("algorithm", "ALGORITHM, as for \"uzram create\""),
    (
        "recomp_algorithm",
        "ALGORITHM for recompression, with priority=1 (the default) to 3 among the parameters; \"none\" removes it",
    ),
    (
        "mem_limit",
        "SIZE or total:SIZE, also as 50% of the memory; 0 for none",
    ),
    ("disksize", "SIZE, also as 50% of the memory"),
    (
        "backing",
        "FILE[,SIZE], which is made if it is not there, DEVICE (what is on it is lost) or NAME/PREFIX[,SIZE] of a remote, \
         each with \",seal\" to encrypt what is written there; \"none\" brings all back and gives it up",
    ),
    ("writeback_limit", "PAGES, \"none\" for none"),
    ("track_ages", "on or off"),
    ("policy", "POLICY, as for \"uzram create\""),
    ("train", "auto or off"),
    ("dedup", "on or off"),
    ("erase", "on-free or off"),
];

/// A setting with its value.
#[derive(Debug, Clone, PartialEq)]
pub enum Setting {
    /// `algorithm`.
    Algorithm(AlgorithmSpec),
    /// `recomp_algorithm`.
    RecompAlgorithm(AlgorithmSpec),
    /// `mem_limit`.
    MemLimit(MemLimit),
    /// `erase`.
    Erase(Erase),
    /// `train`.
    Train(SelfTraining),
    /// `policy`.
    Policy(PolicySettings),
    /// `disksize`, in bytes.
    Disksize(u64),
    /// `backing`; `None`: it is given up.
    Backing(Option<BackingSpec>),
    /// `writeback_limit`, in pages; `None`: none.
    WritebackLimit(Option<u64>),
    /// `track_ages`.
    TrackAges(bool),
    /// `dedup`.
    Dedup(bool),
    /// An attribute of zram's interface, which no setting of ours stands for.
    Attribute(&'static str, String),
}

/// What a setting does.
#[derive(Debug, Clone, PartialEq)]
pub enum Change {
    /// Through the server.
    Request(Request),
    /// Through zram's interface: an attribute and its value.
    Attribute(&'static str, String),
}

/// What is allowed of a change.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Allowed {
    /// That a disk becomes smaller while somebody uses it.
    pub force: bool,
    /// A backing or a dictionary that another user owns or may write to.
    pub foreign_files: bool,
}

impl Setting {
    /// Reads a setting. A relative path is relative to `directory`; without one it is refused. The error says what is accepted.
    pub fn parse(
        key: &str,
        value: &str,
        directory: Option<&Path>,
    ) -> std::result::Result<Setting, String> {
        let spec = || {
            let spec: std::result::Result<AlgorithmSpec, _> = value.parse();
            let spec = spec.map_err(|error| error.to_string())?;
            with_absolute_dictionary(spec, directory)
        };
        let switch = || match value {
            "on" => Ok(true),
            "off" => Ok(false),
            _ => Err(format!("{key} is on or off, not '{value}'")),
        };
        match key {
            "algorithm" | "comp_algorithm" => spec().map(Setting::Algorithm),
            "recomp_algorithm" => spec().map(Setting::RecompAlgorithm),
            "mem_limit" => {
                let limit = value.parse::<MemLimit>();
                limit.map(Setting::MemLimit).map_err(|e| e.to_string())
            }
            "erase" => value.parse().map(Setting::Erase),
            "train" => value.parse().map(Setting::Train),
            "policy" => {
                let settings: std::result::Result<_, uzram::Error> = value.parse();
                settings.map(Setting::Policy).map_err(|e| e.to_string())
            }
            "disksize" => {
                let bytes = size::parse_share(value).map_err(|e| e.to_string())?;
                Ok(Setting::Disksize(bytes))
            }
            "backing" | "backing_dev" if value == "none" => Ok(Setting::Backing(None)),
            "backing" | "backing_dev" => {
                let backing = backing(value, directory)?;
                Ok(Setting::Backing(Some(backing)))
            }
            "writeback_limit" if value == "none" => Ok(Setting::WritebackLimit(None)),
            "writeback_limit" => {
                let pages = value
                    .parse()
                    .map_err(|_| "writeback_limit: a number of pages, or none")?;
                Ok(Setting::WritebackLimit(Some(pages)))
            }
            "track_ages" => switch().map(Setting::TrackAges),
            "dedup" => switch().map(Setting::Dedup),
            key => match Attribute::find(AttributePlace::Device, key) {
                Some(attribute) if attribute.store.is_some() => {
                    Ok(Setting::Attribute(attribute.name, value.into()))
                }
                _ => {
                    let names: Vec<&str> = SETTINGS.iter().map(|(name, _)| *name).collect();
                    Err(format!(
                        "no setting '{key}' (there are: {}, and the attributes of zram's interface that can be written: \
                         \"uzram help attributes\")",
                        names.join(", ")
                    ))
                }
            },
        }
    }

    /// What it does. A dictionary is read now, and what an algorithm refuses is found now: not when half of the settings
    /// are made.
    pub fn change(self, allowed: Allowed) -> Result<Change> {
        Ok(Change::Request(match self {
            Setting::Attribute(attribute, value) => return Ok(Change::Attribute(attribute, value)),
            Setting::MemLimit(MemLimit::Pool(bytes)) => Request::SetMemLimit { bytes: bytes.0 },
            Setting::MemLimit(MemLimit::Total(bytes)) => Request::SetTotalLimit { bytes: bytes.0 },
            Setting::Erase(erase) => Request::SetErase {
                on_free: erase == Erase::OnFree,
            },
            Setting::Train(train) => Request::SetSelfTraining {
                on: train == SelfTraining::Auto,
            },
            Setting::Policy(settings) => Request::SetPolicy {
                spec: settings.to_string(),
            },
            Setting::Disksize(bytes) => Request::Resize {
                bytes,
                force: allowed.force,
            },
            Setting::Backing(backing) => {
                let given = backing.unwrap_or_default();
                let path = match given.is_remote() {
                    true => given.remote.into(),
                    false => given.path,
                };
                Request::SetBacking {
                    path: Some(path).filter(|path| !path.as_os_str().is_empty()),
                    size_bytes: given.size.map(|size| size.0),
                    seal: given.seal,
                    allow_foreign: allowed.foreign_files,
                }
            }
            Setting::WritebackLimit(pages) => Request::SetWritebackLimit { pages },
            Setting::TrackAges(on) => Request::TrackAges { on },
            Setting::Dedup(on) => Request::SetDedup { on },
            Setting::Algorithm(spec) => set_algorithm(0, spec, allowed)?,
            Setting::RecompAlgorithm(spec) => set_secondary(spec, allowed)?,
        }))
    }
}

/// What a relative path becomes.
fn absolute(path: &str, directory: Option<&Path>) -> std::result::Result<PathBuf, String> {
    match directory {
        None if !path.starts_with('/') => Err(format!(
            "{path}: it is relative: give a path from the root on"
        )),
        None => Ok(path.into()),
        Some(directory) => {
            std::path::absolute(directory.join(path)).map_err(|error| error.to_string())
        }
    }
}

fn backing(value: &str, directory: Option<&Path>) -> std::result::Result<BackingSpec, String> {
    let backing = BackingSpec::parse_in(value, directory.unwrap_or(Path::new("/")))?;
    if !backing.is_remote() {
        absolute(value, directory)?;
    }
    Ok(backing)
}

fn with_absolute_dictionary(
    mut spec: AlgorithmSpec,
    directory: Option<&Path>,
) -> std::result::Result<AlgorithmSpec, String> {
    for (key, path) in &mut spec.params {
        if key == "dict" && !path.is_empty() {
            let made = absolute(path, directory)?;
            // What is no text cannot be part of an algorithm's: the path was one, and the directory may not be.
            *path = made
                .into_os_string()
                .into_string()
                .unwrap_or_else(|_| path.clone());
        }
    }
    Ok(spec)
}

fn set_secondary(mut spec: AlgorithmSpec, allowed: Allowed) -> Result<Request> {
    let priority = choice::take_priority(&mut spec)?.unwrap_or(1);
    if spec.name != "none" {
        return set_algorithm(priority, spec, allowed);
    }
    if let Some((key, _)) = spec.params.first() {
        let message = format!("'none' has no parameter '{key}' (it takes: priority)");
        return Err(Failure::usage(message));
    }
    Ok(Request::SetAlgorithm {
        priority,
        algorithm: String::new(),
        dictionary: String::new(),
    })
}

fn set_algorithm(priority: usize, mut spec: AlgorithmSpec, allowed: Allowed) -> Result<Request> {
    let dictionary = spec.params.iter().find(|(key, _)| key == "dict");
    if let Some((_, path)) = dictionary.filter(|(_, path)| !path.is_empty()) {
        let path = std::path::absolute(path)?;
        files::check_one("dictionary", &path, allowed.foreign_files)?;
    }
    let dictionary = choice::take_dictionary(&mut spec)?;
    let check = uzram::Device::builder(4096)
        .registry(uzram_control::zram::algorithms().clone())
        .choose(choice::with(spec.clone(), &dictionary));
    check.build()?;
    Ok(Request::SetAlgorithm {
        priority,
        algorithm: spec.to_string(),
        dictionary: to_hex(&dictionary),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_setting_that_is_listed_is_one() {
        for (name, _) in SETTINGS {
            let error = Setting::parse(name, "?", Some(Path::new("/"))).err();
            assert!(
                !error.is_some_and(|error| error.contains("no setting")),
                "{name}"
            );
        }
        let error = Setting::parse("colour", "red", None).unwrap_err();
        assert!(error.contains("no setting 'colour' (there are: algorithm, "));
    }

    #[test]
    fn relative_paths_are_relative_to_what_is_said() {
        let parse = |key, value, at: Option<&str>| Setting::parse(key, value, at.map(Path::new));
        let file = |path: &str| Ok(Setting::Backing(Some(BackingSpec::file(path, None))));
        assert_eq!(
            parse("backing", "x.store", Some("/var")),
            file("/var/x.store")
        );
        assert_eq!(parse("backing", "/x.store", None), file("/x.store"));
        let error = parse("backing", "x.store", None).unwrap_err();
        assert!(error.contains("it is relative"), "{error}");
        assert!(parse("backing", "name/prefix", None).is_ok());
        let Ok(Setting::Algorithm(spec)) = parse("algorithm", "zstd(dict=a)", Some("/var")) else {
            panic!("an algorithm");
        };
        assert_eq!(spec.params, [("dict".to_owned(), "/var/a".to_owned())]);
        assert!(parse("algorithm", "zstd(dict=a)", None).is_err());
    }
}
