//! What is in a device, and the key to what is on its backing, is in no core dump.
#![allow(unsafe_code)]

use rustix::mm::{Advice, madvise};

/// Leaves what begins and ends at a page out of core dumps, or takes it in again. An error changes nothing that anybody could
/// do something about.
pub(crate) fn in_dumps<T: ?Sized>(value: &T, on: bool) {
    let advice = match on {
        true => Advice::LinuxDoDump,
        false => Advice::LinuxDontDump,
    };
    // SAFETY: the range is mapped, as it is borrowed. Neither advice changes contents or what may be done with the pages.
    let _ = unsafe {
        let address = std::ptr::from_ref(value).cast_mut().cast();
        madvise(address, size_of_val(value), advice)
    };
}
