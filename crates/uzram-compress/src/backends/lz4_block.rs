//! The lz4 block format as far as lz4 and lz4hc share it: the decoder, with or without a dictionary, and which
//! dictionaries there are. The encoders differ and stay with their drivers. Named ffi file.
#![allow(unsafe_code)]

use std::ffi::{c_char, c_int};

// Only its bindings are not enough; this makes its liblz4 part of the program.
use lz4_sys as _;

use crate::{DictionaryForm, DictionarySpec, Error};

unsafe extern "C" {
    // Not in lz4-sys' bindings.
    fn LZ4_decompress_safe_usingDict(
        src: *const c_char,
        dst: *mut c_char,
        src_size: c_int,
        dst_capacity: c_int,
        dictionary: *const c_char,
        dictionary_size: c_int,
    ) -> c_int;
}

/// The format's largest input (LZ4_MAX_INPUT_SIZE).
pub(super) const MAX_INPUT: usize = 0x7E00_0000;

/// Offsets have 16 bits: what lies farther back is out of reach.
pub(super) const DICTIONARY: DictionarySpec = DictionarySpec {
    form: DictionaryForm::Content,
    max_bytes: 64 << 10,
};

/// Decompresses a block of `algorithm` into `dst`; `dictionary` is the one it was compressed with, empty for none.
pub(super) fn decompress(
    algorithm: &'static str,
    src: &[u8],
    dst: &mut [u8],
    dictionary: &[u8],
) -> Result<usize, Error> {
    let corrupt = Error::Corrupt { algorithm };
    let [Ok(src_len), Ok(dst_len), Ok(dictionary_len)] =
        [src.len(), dst.len(), dictionary.len()].map(c_int::try_from)
    else {
        return Err(corrupt);
    };
    // SAFETY: all pointers are valid for the lengths given with them; LZ4_decompress_safe_usingDict accepts any
    // bytes, reads past neither `src_len` nor the dictionary's ends and writes no more than `dst_len` bytes. With
    // an empty dictionary it is LZ4_decompress_safe.
    let n = unsafe {
        LZ4_decompress_safe_usingDict(
            src.as_ptr().cast(),
            dst.as_mut_ptr().cast(),
            src_len,
            dst_len,
            dictionary.as_ptr().cast(),
            dictionary_len,
        )
    };
    usize::try_from(n).map_err(|_| corrupt)
}
