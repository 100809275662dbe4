//! `zram-generator.conf` is read, and what is wrong in it is said in words.
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
    let read = generator::read(&PLACE.path(""));
    for problem in &read.problems {
        assert!(!problem.to_string().is_empty());
    }
    for section in &read.sections {
        if section.disksize > 0 && section.mount_point.is_some() {
            deep("a device is described");
        }
    }
});
