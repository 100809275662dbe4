//! Whatever a client says from its first byte on ends at most its own connection, and is answered in the protocol's form.
#![no_main]

use std::sync::LazyLock;
use std::sync::atomic::{AtomicU32, Ordering::Relaxed};

use libfuzzer_sys::fuzz_target;
use uzram_fuzz::deep;
use uzram_fuzz::nbd::{Nbd, after_handshake};

static SERVER: LazyLock<Nbd> = LazyLock::new(Nbd::new);
static INPUTS: AtomicU32 = AtomicU32::new(0);

fuzz_target!(|said: &[u8]| {
    let heard = SERVER.talk(said);
    if !after_handshake(&heard).is_empty() {
        deep("transmission");
    }
    if INPUTS.fetch_add(1, Relaxed).is_multiple_of(256) {
        SERVER.check_alive();
    }
});
