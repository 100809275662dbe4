//! From the options of `uzram create` by name, as `uzram.toml` and the HTTP API have them, to a description.
//!
//! Options stand side by side there, as on a command line; a description groups what belongs to swap and to the frontend.
//! A stored description is understood, too. Dashes and underscores in names mean the same.

use std::path::{Path, PathBuf};

use serde_json::{Map, Value, json};
use uzram::compress::{AlgorithmSpec, parse_params};

use crate::device::check_version;
use crate::{BackingSpec, DeviceSpec, Failure, Result, SnapshotSource, options_schema};

/// Options of swap and what they are called in a description.
const SWAP: &[(&str, &str)] = &[
    ("reserve", "reserve"),
    ("swap_priority", "priority"),
    ("keep_min_free", "keep_min_free"),
];

/// What a stored description has beside options: the program sets it.
const OWN: &[&str] = &["version", "identity"];

/// Refuses an option that there is not, and says which there are: those of devices, the frontends' and the caller's own.
fn check_names(options: &Map<String, Value>, of_frontends: &[&str], also: &[&str]) -> Result {
    let schema = options_schema(Map::new());
    let of_devices = schema["properties"].as_object();
    let mut known: Vec<String> = of_devices
        .into_iter()
        .flat_map(Map::keys)
        .filter(|name| !OWN.contains(&name.as_str()))
        .map(|name| name.replace('_', "-"))
        .chain(of_frontends.iter().chain(also).map(|name| (*name).into()))
        .collect();
    known.sort();
    let is_known = |name: &str| OWN.contains(&name) || known.contains(&name.replace('_', "-"));
    match options.keys().find(|name| !is_known(name)) {
        Some(unknown) => Err(Failure::usage(format!(
            "no option '{unknown}' (there are: {})",
            known.join(", ")
        ))),
        None => Ok(()),
    }
}

impl DeviceSpec {
    /// The description that options by name stand for; `of_frontends` are the names of the frontends' own options. Paths are
    /// relative to `directory`. `also` are names that the caller has taken out for itself: they are told with the others to
    /// whoever gives one that there is not.
    pub fn from_options(
        options: &Map<String, Value>,
        of_frontends: &[&str],
        directory: &Path,
        also: &[&str],
    ) -> Result<DeviceSpec> {
        check_names(options, of_frontends, also)?;
        if let Some(version) = options.get("version") {
            check_version(version)?;
        }
        let mut fields = Map::new();
        let mut frontend = Map::new();
        let mut swap = Map::new();
        let mut params = None;
        for (key, value) in options {
            if value.is_null() {
                continue;
            }
            let dashed = key.replace('_', "-");
            if of_frontends.contains(&dashed.as_str()) {
                frontend.insert(dashed, value.clone());
                continue;
            }
            let key = key.replace('-', "_");
            if let Some((_, name)) = SWAP.iter().find(|(option, _)| *option == key) {
                swap.insert((*name).into(), value.clone());
            } else if key == "algorithm_params" {
                let text = value.as_str();
                params = Some(
                    text.ok_or_else(|| Failure::usage("algorithm-params: a text"))?
                        .to_owned(),
                );
            } else {
                fields.insert(key, value.clone());
            }
        }
        if let Some(Value::String(text)) = fields.get("backing") {
            let backing = BackingSpec::parse_in(text, directory)
                .map_err(|error| Failure::usage(format!("backing: {error}")))?;
            fields.insert("backing".into(), json!(backing));
        }
        set_source(&mut fields, params.is_some());
        set_swap(&mut fields, swap)?;
        set_frontend(&mut fields, frontend)?;
        let mut spec: DeviceSpec = serde_path_to_error::deserialize(Value::Object(fields))
            .map_err(|error| match error.path().to_string().as_str() {
                "." => Failure::usage(error.inner()),
                path => Failure::usage(format!("{}: {}", path.replace('_', "-"), error.inner())),
            })?;
        if let Some(params) = params {
            let more = parse_params(&params).map_err(uzram::Error::from)?;
            spec.algorithm.params.extend(more);
        }
        spec.resolve_paths(directory)?;
        spec.check()?;
        Ok(spec)
    }

    /// Makes the paths of dictionaries and of the backing absolute: whoever opens them may have another directory.
    pub fn resolve_paths(&mut self, directory: &Path) -> Result {
        let secondaries = self.recomp_algorithm.iter_mut();
        for algorithm in std::iter::once(&mut self.algorithm).chain(secondaries) {
            resolve_dictionary(algorithm, directory)?;
        }
        if let Some(backing) = self.backing.as_mut().filter(|of| !of.is_remote()) {
            backing.path = directory.join(&backing.path);
        }
        if let Some(from) = &mut self.from {
            let file = from.remote.is_empty().then_some(&mut from.file);
            let keys = from.identities.iter_mut().chain(&mut from.passphrase_file);
            for path in file.into_iter().chain(&mut from.parents).chain(keys) {
                *path = directory.join(&*path);
            }
        }
        Ok(())
    }
}

fn resolve_dictionary(algorithm: &mut AlgorithmSpec, directory: &Path) -> Result {
    for (key, value) in &mut algorithm.params {
        if key == "dict" && !value.is_empty() {
            let path: PathBuf = directory.join(&*value);
            let text = path.to_str();
            *value = text
                .ok_or_else(|| {
                    Failure::usage(format!("dictionary: the path {path:?} is not UTF-8"))
                })?
                .to_owned();
        }
    }
    Ok(())
}

/// `"from": FILE` or `"from": NAME/TAG` becomes an object. What stands beside it counts, what does not is the snapshot's.
fn set_source(fields: &mut Map<String, Value>, has_params: bool) {
    let given = |name: &str| fields.contains_key(name);
    let own = [
        ("own_algorithm", given("algorithm") || has_params),
        ("own_recomp_algorithm", given("recomp_algorithm")),
        ("own_block_size", given("block_size")),
    ];
    if let Some(source) = fields.get_mut("from") {
        if let Some(text) = source.as_str() {
            let named = SnapshotSource::named(Path::new(text));
            *source = match named.is_remote() {
                true => json!({"remote": named.remote}),
                false => json!({"file": named.file}),
            };
        }
        if let Some(object) = source.as_object_mut() {
            for (name, is_given) in own {
                object.entry(name).or_insert(is_given.into());
            }
        }
    }
}

/// `"swap": true` and its options side by side become one object.
fn set_swap(fields: &mut Map<String, Value>, options: Map<String, Value>) -> Result {
    match fields.remove("swap") {
        Some(Value::Bool(true)) => {
            fields.insert("swap".into(), options.into());
        }
        Some(Value::Object(mut swap)) => {
            swap.extend(options);
            fields.insert("swap".into(), swap.into());
        }
        Some(Value::Bool(false)) | None => {
            if let Some((given, _)) = options.iter().next() {
                let option = SWAP.iter().find(|(_, name)| name == given);
                let option = option.map_or(given.as_str(), |(option, _)| option);
                return Err(Failure::usage(format!(
                    "{} is for a device with swap",
                    option.replace('_', "-")
                )));
            }
        }
        Some(_) => return Err(Failure::usage("swap: true, false, or an object")),
    }
    Ok(())
}

/// `"frontend": "ublk"` and the frontend's options side by side become one object.
fn set_frontend(fields: &mut Map<String, Value>, options: Map<String, Value>) -> Result {
    let given = fields.remove("frontend");
    let (kind, mut all) = match given {
        None => (crate::AUTO.to_owned(), Map::new()),
        Some(Value::String(kind)) => (kind, Map::new()),
        Some(Value::Object(mut object)) => {
            let kind = object.remove("kind");
            let kind = kind.and_then(|kind| Some(kind.as_str()?.to_owned()));
            let all = object.remove("options");
            let all = all.map_or(Some(Map::new()), |all| all.as_object().cloned());
            match (kind, all, object.keys().next()) {
                (Some(kind), Some(all), None) => (kind, all),
                _ => {
                    return Err(Failure::usage(
                        "frontend: a name, or an object of kind and options",
                    ));
                }
            }
        }
        Some(_) => {
            return Err(Failure::usage(
                "frontend: a name, or an object of kind and options",
            ));
        }
    };
    all.extend(options);
    all.retain(|_, value| *value != Value::Bool(false));
    fields.insert("frontend".into(), json!({"kind": kind, "options": all}));
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Bytes, FrontendSpec, SwapSpec};

    fn from(options: Value) -> Result<DeviceSpec> {
        let options = options.as_object().unwrap().clone();
        let of_frontends = ["listen", "queue-depth", "write-cache"];
        DeviceSpec::from_options(
            &options,
            &of_frontends,
            Path::new("/home/x"),
            &["mount-point"],
        )
    }

    #[test]
    fn options_become_a_description() {
        let spec = from(json!({
            "size": "4G", "mem-limit": 1000000000, "swap": true, "reserve": "16M", "swap_priority": 5,
            "algorithm": "zstd", "algorithm-params": "level=3", "recomp-algorithm": "lz4hc",
            "backing": "/b,1M", "frontend": "ublk", "queue-depth": 8, "write_cache": true, "dedup": null,
        }));
        let spec = spec.unwrap();
        assert_eq!(
            (spec.size, spec.mem_limit),
            (Some(Bytes(4 << 30)), Bytes(1_000_000_000).into())
        );
        let swap = SwapSpec {
            reserve: Bytes(16 << 20),
            priority: 5,
            keep_min_free: false,
        };
        assert_eq!(spec.swap, Some(swap));
        assert_eq!(spec.algorithm.to_string(), "zstd(level=3)");
        assert_eq!(spec.recomp_algorithm.len(), 1);
        assert_eq!(spec.backing.unwrap().size, Some(Bytes(1 << 20)));
        let frontend = FrontendSpec::new("ublk")
            .option("queue-depth", 8u64)
            .option("write-cache", true);
        assert_eq!(spec.frontend, frontend);
    }

    #[test]
    fn a_stored_description_is_understood() {
        let spec = DeviceSpec {
            name: Some("zram3".into()),
            swap: Some(SwapSpec::default()),
            frontend: FrontendSpec::new("ublk").option("queue-depth", 8u64),
            ..DeviceSpec::default()
        };
        let value = serde_json::to_value(&spec).unwrap();
        assert_eq!(from(value), Ok(spec));
    }

    #[test]
    fn what_is_no_option_is_named() {
        for (options, said) in [
            (json!({"colour": 1}), "no option 'colour'"),
            (json!({"version": 2}), "reads versions up to 1"),
            (json!({"size": "4X"}), "size: '4X' is not a size"),
            (json!({"size": -1}), "size: -1 is not a size"),
            (json!({"mem-limit": true}), "mem-limit"),
            (json!({"reserve": 1}), "reserve is for a device with swap"),
            (json!({"swap": 1}), "swap: true, false"),
            (json!({"frontend": 7}), "frontend: a name"),
            (json!({"policy": "sometimes"}), "policy"),
            (json!({"train": "on"}), "expected `auto` or `off`"),
            (json!({"dedup": true, "swap": true}), "exclude each other"),
        ] {
            let failure = from(options.clone()).unwrap_err().to_string();
            assert!(failure.contains(said), "{options}: {failure}");
        }
    }

    #[test]
    fn paths_become_absolute() {
        let spec = from(json!({"backing": "ci/cold,8G"})).unwrap();
        assert_eq!(spec.backing.unwrap().remote, "ci/cold");
        for backing in [json!({"path": "b"}), json!("b"), json!("b,4M")] {
            let spec = from(json!({"algorithm": "zstd(dict=a.dict)", "backing": backing}));
            let spec = spec.unwrap();
            assert_eq!(spec.algorithm.to_string(), "zstd(dict=/home/x/a.dict)");
            assert_eq!(spec.backing.unwrap().path, Path::new("/home/x/b"));
        }
    }

    #[test]
    fn what_stands_beside_a_snapshot_counts() {
        let own = |options| {
            let source = from(options).unwrap().from.unwrap();
            (source.file, source.own_algorithm, source.own_block_size)
        };
        let file = PathBuf::from("/home/x/s");
        assert_eq!(own(json!({"from": "s"})), (file.clone(), false, false));
        let options = json!({"from": {"file": "s"}, "algorithm-params": "level=3"});
        assert_eq!(own(options), (file.clone(), true, false));
        let options = json!({"from": "s", "algorithm": "lz4", "block-size": 512});
        assert_eq!(own(options), (file.clone(), true, true));
        // As the command sends it, all of it.
        let mut spec = from(json!({"from": "s"})).unwrap();
        assert_eq!(from(serde_json::to_value(&spec).unwrap()), Ok(spec.clone()));
        spec.from.as_mut().unwrap().own_block_size = true;
        assert_eq!(from(serde_json::to_value(&spec).unwrap()), Ok(spec));
    }

    /// The names are those that are written in files, and all of them.
    #[test]
    fn the_list_of_options_is_the_one_that_can_be_given() {
        let failure = from(json!({"colour": 1})).unwrap_err().message;
        for name in [
            "mem-limit",
            "swap-priority",
            "allow-foreign-files",
            "algorithm-params",
            "queue-depth",
            "mount-point",
        ] {
            assert!(failure.contains(&format!(" {name}")), "{name}: {failure}");
        }
        for name in ["version", "identity", "_"] {
            assert!(!failure.contains(name), "{name}: {failure}");
        }
    }
}
