//! Counts the heap allocations of each thread, those of C libraries included: these definitions take the place
//! of the C library's in the test program that includes this file.

use std::cell::Cell;
use std::ffi::c_void;

thread_local! {
    /// Calls of this thread so far.
    pub(crate) static CALLS: Cell<usize> = const { Cell::new(0) };
}

unsafe extern "C" {
    fn __libc_malloc(size: usize) -> *mut c_void;
    fn __libc_calloc(count: usize, size: usize) -> *mut c_void;
    fn __libc_realloc(old: *mut c_void, size: usize) -> *mut c_void;
}

fn count() {
    // `try_with`: the C library allocates also while a thread's locals are being torn down.
    let _ = CALLS.try_with(|calls| calls.set(calls.get() + 1));
}

#[unsafe(no_mangle)]
extern "C" fn malloc(size: usize) -> *mut c_void {
    count();
    // SAFETY: glibc's own entry point with the caller's argument.
    unsafe { __libc_malloc(size) }
}

#[unsafe(no_mangle)]
extern "C" fn calloc(n: usize, size: usize) -> *mut c_void {
    count();
    // SAFETY: as above.
    unsafe { __libc_calloc(n, size) }
}

#[unsafe(no_mangle)]
extern "C" fn realloc(old: *mut c_void, size: usize) -> *mut c_void {
    count();
    // SAFETY: as above; `old` is the caller's.
    unsafe { __libc_realloc(old, size) }
}

/// Fails if the definitions here are not the ones in use.
pub(crate) fn assert_counting() {
    let before = CALLS.get();
    let boxed = std::hint::black_box(Box::new(1u8));
    assert!(
        CALLS.get() > before,
        "the interposed malloc must be the one in use"
    );
    drop(boxed);
}
