//! liblzo2's LZO1X-1, loaded at run time.

use std::ffi::{CStr, c_char, c_int, c_ulong, c_void};

unsafe extern "C" {
    fn dlopen(name: *const c_char, flags: c_int) -> *mut c_void;
    fn dlsym(library: *mut c_void, name: *const c_char) -> *mut c_void;
}

const RTLD_NOW: c_int = 2;
/// LZO1X_1_MEM_COMPRESS on 64-bit machines.
const WORK_BYTES: usize = 16384 * 8;

type Transform = unsafe extern "C" fn(
    src: *const u8,
    src_len: c_ulong,
    dst: *mut u8,
    dst_len: *mut c_ulong,
    work: *mut c_void,
) -> c_int;

pub(crate) struct Liblzo2 {
    compress: Transform,
    decompress: Transform,
    work: Box<[u64]>,
}

impl Liblzo2 {
    /// `None` where the library is missing.
    pub(crate) fn load() -> Option<Liblzo2> {
        // SAFETY: a C string; the library has no constructors that do anything.
        let library = unsafe { dlopen(c"liblzo2.so.2".as_ptr(), RTLD_NOW) };
        if library.is_null() {
            return None;
        }
        let symbol = |name: &CStr| {
            // SAFETY: `library` was opened above and is never closed.
            let address = unsafe { dlsym(library, name.as_ptr()) };
            // SAFETY: both functions have this type in lzo1x.h.
            (!address.is_null())
                .then(|| unsafe { std::mem::transmute::<*mut c_void, Transform>(address) })
        };
        Some(Liblzo2 {
            compress: symbol(c"lzo1x_1_compress")?,
            decompress: symbol(c"lzo1x_decompress_safe")?,
            work: vec![0; WORK_BYTES / 8].into_boxed_slice(),
        })
    }

    /// `dst` must hold the worst case, for the function does not look.
    pub(crate) fn compress(&mut self, src: &[u8], dst: &mut [u8]) -> Option<usize> {
        assert!(dst.len() >= src.len() + src.len() / 16 + 64 + 3);
        self.call(self.compress, src, dst)
    }

    pub(crate) fn decompress(&mut self, src: &[u8], dst: &mut [u8]) -> Option<usize> {
        self.call(self.decompress, src, dst)
    }

    fn call(&mut self, transform: Transform, src: &[u8], dst: &mut [u8]) -> Option<usize> {
        let mut len = dst.len() as c_ulong;
        // SAFETY: the buffers are valid for the lengths given; `dst` is large enough for compression (checked by the
        // caller) and decompression checks it itself; `work` has the size that the header asks for.
        let code = unsafe {
            transform(
                src.as_ptr(),
                src.len() as c_ulong,
                dst.as_mut_ptr(),
                &mut len,
                self.work.as_mut_ptr().cast(),
            )
        };
        (code == 0).then_some(len as usize)
    }
}
