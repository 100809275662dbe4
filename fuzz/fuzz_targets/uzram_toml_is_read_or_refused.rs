//! `uzram.toml` is read or refused in words, and every device that it describes has a name of its own.
#![no_main]

use std::fs;
use std::sync::LazyLock;

use libfuzzer_sys::fuzz_target;
use uzram_daemon::Config;
use uzram_fuzz::deep;
use uzram_fuzz::peer::ScratchDir;

static PLACE: LazyLock<ScratchDir> = LazyLock::new(ScratchDir::new);

fuzz_target!(|text: &[u8]| {
    let path = PLACE.path("uzram.toml");
    fs::write(&path, text).expect("a file");
    let config = match Config::read(&path) {
        Ok(config) => config,
        Err(error) => {
            assert!(!error.to_string().is_empty());
            return;
        }
    };
    let mut names: Vec<_> = config.devices.iter().map(|d| &d.spec.name).collect();
    names.sort();
    names.dedup();
    assert_eq!(names.len(), config.devices.len(), "two of one name");
    for device in &config.devices {
        if device.spec.check().is_ok() && device.mount_point.is_some() {
            deep("a device is described");
        }
    }
});
