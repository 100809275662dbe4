//! `zram-generator.conf` is read or refused in words, and no device of it is without a size.
//!
//! A `set!` line is a command for a shell: no input with an exclamation mark gets so far.
#![no_main]

use std::fs;
use std::sync::LazyLock;

use libfuzzer_sys::fuzz_target;
use uzram_daemon::generator;
use uzram_fuzz::deep;
use uzram_fuzz::peer::ScratchDir;

static PLACE: LazyLock<ScratchDir> = LazyLock::new(|| {
    let place = ScratchDir::new();
    fs::create_dir_all(place.path("etc/systemd")).expect("a directory");
    place
});

fuzz_target!(|text: &[u8]| {
    if text.contains(&b'!') {
        return;
    }
    fs::write(PLACE.path("etc/systemd/zram-generator.conf"), text).expect("a file");
    let Ok((devices, _)) = generator::devices(&PLACE.path(""), 2048) else {
        return;
    };
    for device in devices {
        assert!(device.spec.size.is_some_and(|size| size.0 > 0));
        if device.spec.check().is_ok() && device.mount_point.is_some() {
            deep("a device is described");
        }
    }
});
