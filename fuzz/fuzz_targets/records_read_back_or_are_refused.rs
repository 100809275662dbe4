//! A device's record and its description, and the words that options take, are refused or read; what was read is written, and
//! reads as the same.
#![no_main]

use std::fs;
use std::sync::LazyLock;

use libfuzzer_sys::fuzz_target;
use uzram::compress::AlgorithmSpec;
use uzram::{Choice, PolicySettings};
use uzram_control::{DeviceRecord, RunDir, from_hex, number};
use uzram_fuzz::deep;
use uzram_fuzz::input::Input;
use uzram_fuzz::peer::ScratchDir;
use uzram_nbd::Listen;
use uzram_spec::{BackingSpec, DeviceSpec, size};

static PLACE: LazyLock<ScratchDir> = LazyLock::new(ScratchDir::new);

fn description(json: &[u8]) {
    let Ok(spec) = DeviceSpec::parse(json) else {
        return;
    };
    let again = DeviceSpec::parse(&spec.to_json()).expect("what was written is read");
    assert_eq!(spec.to_json(), again.to_json());
    if spec.check().is_ok() && spec.size.is_some() {
        deep("a description is good");
    }
}

fn options(json: &[u8]) {
    let Ok(options) = serde_json::from_slice(json) else {
        return;
    };
    let of_frontends = ["listen", "number", "poll"];
    let Ok(spec) = DeviceSpec::from_options(&options, &of_frontends, "/x".as_ref(), &[]) else {
        return;
    };
    description(&spec.to_json());
}

/// As every command meets it: in the directory of a device.
fn record(json: &[u8]) {
    let dir = PLACE.path("run/zram0");
    if !dir.exists() {
        RunDir::new(PLACE.path("run")).make().expect("a directory");
        fs::create_dir_all(&dir).expect("a directory");
    }
    fs::write(dir.join("device.json"), json).expect("a file");
    let run = RunDir::new(PLACE.path("run"));
    let _ = run.find("/dev/zram0");
    for entry in run.devices().unwrap_or_default() {
        let text = serde_json::to_vec(&entry.record).expect("a record is written");
        let again: DeviceRecord = serde_json::from_slice(&text).expect("and read");
        assert_eq!(entry.record, again);
        deep("a record is good");
    }
}

fn words(text: &str) {
    if let Ok(bytes) = size::parse(text) {
        let human = size::human(bytes);
        assert!(!human.is_empty(), "{bytes}");
    }
    if let Ok(settings) = text.parse::<PolicySettings>() {
        // The budget of a policy that does nothing is not printed.
        let printed = settings.to_string();
        let again: PolicySettings = printed.parse().expect("what was printed is read");
        assert_eq!(again.to_string(), printed);
    }
    if let Ok(algorithm) = text.parse::<AlgorithmSpec>() {
        assert_eq!(algorithm.to_string().parse(), Ok(algorithm));
    }
    if let Ok(listen) = text.parse::<Listen>() {
        assert_eq!(listen.to_string().parse().ok(), Some(listen));
    }
    if let Some(id) = number(text) {
        assert_eq!(format!("zram{id}"), text);
    }
    let _ = text.parse::<Choice>();
    let _ = BackingSpec::parse(text);
    let _ = from_hex(text);
}

fuzz_target!(|data: &[u8]| {
    let mut input = Input(data);
    match input.byte() {
        b'd' => description(input.0),
        b'o' => options(input.0),
        b'r' => record(input.0),
        _ => words(&String::from_utf8_lossy(input.0)),
    }
});
