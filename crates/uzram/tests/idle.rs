//! What a device takes before anybody writes to it: contexts and buffers are allocated, and not touched. A device with a
//! reserve has touched all of them. A test program of its own, since it reads the memory of its process.

use uzram::{Builder, Device};

/// So many that what else happens in the process does not matter.
const STREAMS: usize = 64;

/// Anonymous memory of this process that is there, in KiB.
fn anonymous() -> u64 {
    let text = std::fs::read_to_string("/proc/self/smaps_rollup").unwrap();
    let line = text
        .lines()
        .find_map(|line| line.strip_prefix("Anonymous:"));
    let kib = line.and_then(|line| line.trim().strip_suffix("kB"));
    kib.unwrap().trim().parse().unwrap()
}

/// KiB for each stream that making a device takes, and the device.
fn each(builder: Builder) -> (u64, Device) {
    let before = anonymous();
    let device = builder.streams(STREAMS).build().unwrap();
    let taken = anonymous().saturating_sub(before);
    (taken / STREAMS as u64, device)
}

#[test]
fn contexts_are_touched_beforehand_only_for_swap() {
    // The algorithms' self-tests take memory that the heap keeps.
    drop(Device::builder(1 << 20).streams(1).build().unwrap());
    // What is freed would be taken again, and is there already.
    let mut kept = Vec::new();
    for algorithm in ["deflate", "lzhs"] {
        let builder = || Device::builder(64 << 20).algorithm(algorithm);
        let (idle, device) = each(builder());
        let (ready, swap) = each(builder().reserve_bytes(1 << 20));
        let both = format!("{algorithm}: {idle} and {ready} KiB for each stream");
        // What is made on the stack is copied to the heap, unless the compiler sees that it is zeros.
        let is_copied = cfg!(debug_assertions) && algorithm == "lzhs";
        assert!(is_copied || idle <= ready / 2, "{both}");
        assert!(ready >= 70, "{both}");
        device.write_at(b"something", 0).unwrap();
        kept.extend([device, swap]);
    }
}
