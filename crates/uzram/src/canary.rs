//! Rules that this crate breaks on request, so that its state machine (`tests/machine`) can be tested for finding it.
//!
//! Only with the feature `canary`, which no program of ours has: the environment variable `UZRAM_CANARY` names the rule.
//! Some break what a `SAFETY` comment relies on: a process with a canary may end in any way.
//! Without the feature every question here is answered "no" when the program is compiled.

/// A rule that can be broken. Each is one line somewhere, and easily forgotten.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Canary {
    /// Another form of a page is published although the page was written meanwhile.
    KeepUnmarked,
    /// Likewise, but only what comes back from the backing.
    PromoteUnmarked,
    /// A partial write lets other writers in between reading and publishing.
    PartUnlocked,
    /// Compaction moves an object and does not tell the slot.
    RelocateUnsaid,
    /// Writeback publishes a place although the disk has refused the object.
    PublishFailed,
    /// The mark of a page that could not be written back stays.
    MarkStays,
    /// What was recompressed keeps the mark of that.
    MarkKept,
    /// What is written is as idle and as incompressible as what was there.
    FlagsStay,
    /// A codec is dropped although objects of it are left.
    CodecDropped,
    /// A place on the backing is not freed.
    PlaceLeaks,
    /// A page that does not fit loses its old contents.
    OldLost,
}

/// All of them.
#[cfg(feature = "canary")]
pub const CANARIES: [Canary; 11] = [
    Canary::KeepUnmarked,
    Canary::PromoteUnmarked,
    Canary::PartUnlocked,
    Canary::RelocateUnsaid,
    Canary::PublishFailed,
    Canary::MarkStays,
    Canary::MarkKept,
    Canary::FlagsStay,
    Canary::CodecDropped,
    Canary::PlaceLeaks,
    Canary::OldLost,
];

/// Whether a rule is to be broken.
#[cfg(feature = "canary")]
pub(crate) fn sings(canary: Canary) -> bool {
    use std::sync::OnceLock;
    static CHOSEN: OnceLock<Option<Canary>> = OnceLock::new();
    let chosen = CHOSEN.get_or_init(|| {
        let name = std::env::var("UZRAM_CANARY").ok()?;
        CANARIES
            .into_iter()
            .find(|canary| format!("{canary:?}") == name)
    });
    *chosen == Some(canary)
}

/// Whether a rule is to be broken: no.
#[cfg(not(feature = "canary"))]
#[inline(always)]
pub(crate) const fn sings(_: Canary) -> bool {
    false
}
