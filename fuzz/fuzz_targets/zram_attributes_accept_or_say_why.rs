//! Whatever is written to an attribute of zram's interface is taken or refused with an error, and every attribute can be read
//! afterwards.
//!
//! An input is lines of an attribute's name, a blank, and what is written to it; other lines are written to the disk.
#![no_main]

use libfuzzer_sys::fuzz_target;
use uzram_control::zram::{ATTRIBUTES, AttributeOwner, AttributePlace, Host, HostOptions, View};
use uzram_fuzz::deep;
use uzram_testkit::zram::InProcess;

/// Whether it reads and writes no file of the user's.
fn is_harmless(name: &str, value: &[u8]) -> bool {
    match name {
        "backing_dev" => value.starts_with(b"none"),
        "algorithm_params" => !value.contains(&b'/'),
        _ => true,
    }
}

fuzz_target!(|data: &[u8]| {
    let engine = InProcess::new();
    let strict = data.len().is_multiple_of(2);
    let host = Host::new(Box::new(engine.clone()), HostOptions { strict });
    host.hot_add().expect("a device");
    for line in data.split(|byte| *byte == b'\n').take(24) {
        let end = line.iter().position(|byte| *byte == b' ');
        let (name, value) = line.split_at(end.unwrap_or(line.len()));
        let value = value.get(1..).unwrap_or_default();
        let known = ATTRIBUTES.iter().find(|a| a.name.as_bytes() == name);
        let Some(attribute) = known else {
            let at = value.first().map_or(0, |byte| u64::from(*byte) * 4096);
            if let Some(device) = engine.open(0) {
                let _ = device.write_at(line, at);
            }
            continue;
        };
        let owner = match attribute.place {
            AttributePlace::Control => AttributeOwner::Control,
            AttributePlace::Device => AttributeOwner::Device(0),
        };
        if is_harmless(attribute.name, value) {
            let _ = host.store(owner, attribute.name, value);
        }
    }
    for attribute in ATTRIBUTES {
        if attribute.place == AttributePlace::Device {
            let _ = host.show(AttributeOwner::Device(0), attribute.name);
        }
    }
    let _ = host.block_state(0, 0, 4096);
    let _ = host.classes(0);
    if engine
        .open(0)
        .is_some_and(|device| device.stats().orig_data_size_bytes > 0)
    {
        deep("a device is initialised and holds something");
    }
});
