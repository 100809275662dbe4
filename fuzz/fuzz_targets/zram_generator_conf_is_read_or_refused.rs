//! `zram-generator.conf` is read or refused in words, and no device of it is without a size.
//!
//! A `set!` line is a command for a shell: no input with an exclamation mark gets so far.
#![no_main]

use std::fs;
use std::sync::LazyLock;

use libfuzzer_sys::fuzz_target;
use uzram_daemon::generator;
use uzram_fuzz::deep;
use uzram_fuzz::peer::Place;

static PLACE: LazyLock<Place> = LazyLock::new(|| {
    let place = Place::new();
    fs::create_dir_all(place.path("etc/systemd")).expect("a directory");
    fs::create_dir(place.path("proc")).expect("a directory");
    fs::write(place.path("proc/meminfo"), "MemTotal: 2097152 kB\n").expect("a file");
    place
});

fuzz_target!(|text: &[u8]| {
    if text.contains(&b'!') {
        return;
    }
    fs::write(PLACE.path("etc/systemd/zram-generator.conf"), text).expect("a file");
    for section in generator::read(&PLACE.path("")).sections {
        assert!(section.disksize > 0);
        if section.mount_point.is_some() {
            deep("a device is described");
        }
    }
});
