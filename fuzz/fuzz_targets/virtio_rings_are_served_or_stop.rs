//! Whatever a guest puts into a ring, the requests that make sense are answered once, and it ends at most that ring.
#![no_main]

use std::sync::{LazyLock, Mutex, PoisonError};

use libfuzzer_sys::fuzz_target;
use uzram_fuzz::deep;
use uzram_fuzz::virtio::Virtio;

static DISK: LazyLock<Mutex<Virtio>> = LazyLock::new(|| Mutex::new(Virtio::new()));

fuzz_target!(|said: &[u8]| {
    let mut disk = DISK.lock().unwrap_or_else(PoisonError::into_inner);
    if disk.talk(said) > 1 {
        deep("two requests were carried out");
    }
});
