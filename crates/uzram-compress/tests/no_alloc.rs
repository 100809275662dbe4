//! A tfm's calls allocate nothing, the C libraries behind it included: `malloc` itself is interposed here,
//! which is why this is a test program of its own.

use std::cell::Cell;
use std::ffi::c_void;

use uzram_compress::{Registry, Settings};

thread_local! {
    static CALLS: Cell<usize> = const { Cell::new(0) };
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

#[test]
fn compress_and_decompress_allocate_nothing() {
    let before = CALLS.get();
    let boxed = std::hint::black_box(Box::new(1u8));
    assert!(
        CALLS.get() > before,
        "the interposed malloc must be the one in use"
    );
    drop(boxed);

    let mut noise = 1u64;
    let mut pages = vec![[0u8; 4096]; 3];
    for (i, byte) in pages[1].iter_mut().enumerate() {
        *byte = (i / 7) as u8;
    }
    for byte in pages[2].iter_mut() {
        noise = noise
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1);
        *byte = (noise >> 56) as u8;
    }
    for algorithm in Registry::builtin().iter() {
        let none: [(&str, &str); 0] = [];
        let settings = Settings::new(&**algorithm, 4096, none).unwrap();
        let mut tfm = algorithm.prepare(&settings).unwrap().tfm().unwrap();
        let (mut object, mut back) = ([0u8; 8192], [0u8; 4096]);
        let before = CALLS.get();
        for page in &pages {
            let len = tfm.compress(page, &mut object).unwrap();
            tfm.decompress(&object[..len], &mut back).unwrap();
            let _ = tfm.decompress(page, &mut back);
        }
        assert_eq!(CALLS.get(), before, "{} allocated", algorithm.driver_name());
    }
}
