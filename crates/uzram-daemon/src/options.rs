//! Options of `uzram create` by name, as the configuration and the API give them.

use std::path::PathBuf;

use serde_json::{Map, Value};
use uzram_runtime::frontends;
use uzram_spec::{DeviceSpec, Failure, Result};

/// The description that options of `uzram create` by name stand for. Relative paths are relative to `directory`, if that is
/// among them, else to the root. `also` are further names that can be given where these options are.
pub(crate) fn spec_from_options(options: &Map<String, Value>, also: &[&str]) -> Result<DeviceSpec> {
    let mut options = options.clone();
    let directory = match options.remove("directory") {
        None | Some(Value::Null) => PathBuf::from("/"),
        Some(Value::String(path)) if path.starts_with('/') => path.into(),
        Some(_) => return Err(Failure::usage("directory: an absolute path")),
    };
    let of_frontends = frontends::option_names();
    let mut spec = DeviceSpec::from_options(&options, &of_frontends, &directory, also)?;
    frontends::resolve_paths(&mut spec.frontend, &directory);
    Ok(spec)
}
