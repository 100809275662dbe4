//! Descriptions as programs have stored them, in `specs`: each later build has to read them, and to say the same with them.
//! `uzram-cli/tests/specs.rs` serves one, with its image. No file here is ever changed; a new field gets a new one.

use serde_json::Value;
use uzram_spec::DeviceSpec;

#[test]
fn what_was_stored_is_read_for_ever() {
    let dir = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/specs");
    let mut count = 0;
    for entry in std::fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        let stored = std::fs::read(&path).unwrap();
        let spec = DeviceSpec::parse(&stored)
            .unwrap_or_else(|error| panic!("{}: {error}", path.display()));
        spec.check()
            .unwrap_or_else(|error| panic!("{}: {error}", path.display()));
        let value = |json: &[u8]| -> Value { serde_json::from_slice(json).unwrap() };
        // A field under another name would be unknown, or would come back as its default.
        assert_eq!(value(&spec.to_json()), value(&stored), "{}", path.display());
        count += 1;
    }
    assert!(count >= 2, "{count} files");
}
