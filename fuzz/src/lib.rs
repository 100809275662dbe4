//! What the fuzz targets share: fields of an input, edits of a template, a peer that says anything on a socket.
//!
//! Each target in `fuzz_targets/` is named after the law that it checks. A law is that nothing which a stranger, another
//! version or a broken disk can hand to uzram makes it panic, hang or contradict itself. `cargo xtask fuzz` builds and runs
//! them, see `docs/design/49-fuzzing.md`.

pub mod edits;
pub mod input;
pub mod nbd;
pub mod peer;
pub mod virtio;

use std::sync::LazyLock;

use uzram::compress::Registry;

/// Variable that plants a fault where [`deep`] stands.
pub const PLANTED: &str = "UZRAM_FUZZ_PLANTED";

/// All algorithms. To make a registry is to test each, which would take most of an input's time.
pub fn registry() -> Registry {
    static ALL: LazyLock<Registry> = LazyLock::new(Registry::builtin);
    ALL.clone()
}

/// Stands where a target has got past all that refuses: an input was accepted, and what it asked for was done. `cargo xtask
/// fuzz` plants a fault here to see that the target gets so far and that the engine reports it.
pub fn deep(what: &str) {
    static IS_PLANTED: LazyLock<bool> = LazyLock::new(|| std::env::var_os(PLANTED).is_some());
    assert!(!*IS_PLANTED, "the planted fault: {what}");
}
