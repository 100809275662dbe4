//! Prints the description that options by name stand for:
//! `cargo run -p uzram-spec --example describe -- size=4G algorithm=zstd swap=true`.

use serde_json::{Map, Value};
use uzram_spec::{DeviceSpec, Failure};

fn main() -> Result<(), Failure> {
    let mut options = Map::new();
    for word in std::env::args().skip(1) {
        let (key, value) = word
            .split_once('=')
            .ok_or_else(|| Failure::usage(format!("'{word}': give KEY=VALUE, such as size=4G")))?;
        let value = match value {
            "true" => Value::Bool(true),
            "false" => Value::Bool(false),
            text => text.into(),
        };
        options.insert(key.into(), value);
    }
    let spec = DeviceSpec::from_options(&options, &[], &std::env::current_dir()?, &[])?;
    print!("{}", String::from_utf8_lossy(&spec.to_json()));
    Ok(())
}
