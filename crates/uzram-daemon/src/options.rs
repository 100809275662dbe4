//! Options of `uzram create` by name, as the configuration and the API give them.

use std::path::Path;

use serde_json::{Map, Value};
use uzram_runtime::frontends;
use uzram_spec::{DeviceSpec, Failure, Result};

/// The description that options of `uzram create` by name stand for. Relative paths are relative to `directory`, which has to be
/// among them for that: the daemon's own directory is nobody's business. `also` are further names that can be given where these
/// options are.
pub(crate) fn spec_from_options(options: &Map<String, Value>, also: &[&str]) -> Result<DeviceSpec> {
    let mut options = options.clone();
    match options.remove("directory") {
        None | Some(Value::Null) => {
            let spec = spec_within(&options, also, Path::new("/"))?;
            match spec_within(&options, also, Path::new("/elsewhere"))? == spec {
                true => Ok(spec),
                false => Err(relative(&options, also)),
            }
        }
        Some(Value::String(path)) if path.starts_with('/') => {
            spec_within(&options, also, Path::new(&path))
        }
        Some(_) => Err(Failure::usage("directory: an absolute path")),
    }
}

fn spec_within(
    options: &Map<String, Value>,
    also: &[&str],
    directory: &Path,
) -> Result<DeviceSpec> {
    let of_frontends = frontends::option_names();
    let mut spec = DeviceSpec::from_options(options, &of_frontends, directory, also)?;
    frontends::resolve_paths(&mut spec.frontend, directory);
    Ok(spec)
}

/// Says which path is relative.
fn relative(options: &Map<String, Value>, also: &[&str]) -> Failure {
    let is_it = |name: &&String| {
        let mut others = options.clone();
        others.remove(*name);
        let [one, other] = ["/", "/elsewhere"].map(|at| spec_within(&others, also, Path::new(at)));
        one == other
    };
    let name = options.keys().find(is_it).map_or("a path", String::as_str);
    Failure::usage(format!(
        "{name}: it is relative: give a path from the root on"
    ))
    .with_hint("\"directory\" says what paths are relative to")
}
