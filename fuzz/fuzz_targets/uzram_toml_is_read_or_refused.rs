//! `uzram.toml` is read, what is wrong in it is said in words, and every device that it describes has a name of its own.
#![no_main]

use std::path::Path;

use libfuzzer_sys::fuzz_target;
use uzram_daemon::DaemonConfig;
use uzram_fuzz::deep;

fuzz_target!(|text: &[u8]| {
    let config = DaemonConfig::parse(Path::new("/etc/uzram.toml"), text);
    for problem in &config.problems {
        assert!(!problem.to_string().is_empty());
    }
    let mut names: Vec<_> = config.devices.iter().map(|d| &d.spec.name).collect();
    names.sort();
    names.dedup();
    assert_eq!(names.len(), config.devices.len(), "two of one name");
    for device in &config.devices {
        if device.spec.check().is_ok() && device.filesystem.is_some() {
            deep("a device is described");
        }
    }
});
