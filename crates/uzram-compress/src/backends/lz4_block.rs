//! Decoding of LZ4 blocks by liblz4, for the drivers that encode the same format in other ways. Named ffi file.
#![allow(unsafe_code)]

use std::ffi::c_int;

use crate::Error;

/// Decodes one block; needs no context. `algorithm` is named in errors.
pub(super) fn decompress(
    algorithm: &'static str,
    src: &[u8],
    dst: &mut [u8],
) -> Result<usize, Error> {
    let corrupt = Error::Corrupt { algorithm };
    let (Ok(src_len), Ok(dst_len)) = (c_int::try_from(src.len()), c_int::try_from(dst.len()))
    else {
        return Err(corrupt);
    };
    // SAFETY: both pointers are valid for the lengths given with them; LZ4_decompress_safe accepts any bytes
    // and neither reads past `src_len` nor writes past `dst_len`.
    let n = unsafe {
        lz4_sys::LZ4_decompress_safe(
            src.as_ptr().cast(),
            dst.as_mut_ptr().cast(),
            src_len,
            dst_len,
        )
    };
    usize::try_from(n).map_err(|_| corrupt)
}
