//! `lz4` by liblz4, the reference implementation (compiled in by `lz4-sys`). Named ffi file.
//!
//! Objects are raw LZ4 blocks. Compression reuses the hash table of the previous call
//! (`LZ4_compress_fast_extState_fastReset`): clearing 16 KiB for each 4 KiB page would cost as much as a
//! quarter of the page's compression.
//!
//! A dictionary is loaded once into a stream of its own, which each call copies: 16 KiB, but in the cache, and then the
//! search has one table to look into. Attaching that stream instead (`LZ4_attach_dictionary`) searches two, and took 1.1
//! to 1.6 times as long on process memory.
#![allow(unsafe_code)]

use std::ffi::{c_char, c_int, c_void};
use std::sync::Arc;

use super::liblz4::{self, DICTIONARY, Liblz4Encoder, LoadedDictionary, Lz4Block, Lz4Stream};
use crate::{Algorithm, Error, ParamSpec, Prepared, Settings};

unsafe extern "C" {
    // In liblz4 since 1.8.2 (LZ4_loadDictSlow: 1.10), partly in its "static linking only" section, hence not in
    // lz4-sys' bindings.
    fn LZ4_sizeofState() -> c_int;
    fn LZ4_initStream(buffer: *mut c_void, size: usize) -> *mut c_void;
    fn LZ4_compress_fast_extState_fastReset(
        state: *mut c_void,
        src: *const c_char,
        dst: *mut c_char,
        src_size: c_int,
        dst_capacity: c_int,
        acceleration: c_int,
    ) -> c_int;
    fn LZ4_loadDictSlow(stream: *mut c_void, dictionary: *const c_char, size: c_int) -> c_int;
    fn LZ4_compress_fast_continue(
        stream: *mut c_void,
        src: *const c_char,
        dst: *mut c_char,
        src_size: c_int,
        dst_capacity: c_int,
        acceleration: c_int,
    ) -> c_int;
}

/// liblz4 clamps greater values to this one (its LZ4_ACCELERATION_MAX).
const ACCELERATION_MAX: i64 = 65537;
pub(super) const NAME: &str = "lz4";

pub(super) const PARAMS: &[ParamSpec] = &[ParamSpec::int(
    "level",
    (1, ACCELERATION_MAX),
    1,
    "acceleration: greater is faster and less dense",
)];

pub(crate) struct Backend;

impl Algorithm for Backend {
    about! {
        name: NAME,
        driver_name: "lz4-liblz4",
        priority: 200,
        summary: "the fastest; liblz4",
        params: PARAMS,
        dictionary: DICTIONARY,
        known_answers: super::LZ4_KNOWN,
    }
    fn prepare(&self, settings: &Settings) -> Result<Arc<dyn Prepared>, Error> {
        liblz4::prepare::<Fast>(settings, settings.c_int("level"))
    }
}

/// liblz4's encoder of levels by acceleration.
struct Fast;

impl Liblz4Encoder for Fast {
    const NAME: &'static str = NAME;

    fn stream_bytes() -> usize {
        // SAFETY: takes no arguments and reads a constant.
        unsafe { LZ4_sizeofState() as usize }
    }

    fn init(stream: &mut Lz4Stream<Fast>) -> bool {
        let bytes = stream.bytes();
        // SAFETY: the buffer is `bytes` long and aligned to 8; the function checks both.
        !unsafe { LZ4_initStream(stream.as_mut_ptr(), bytes) }.is_null()
    }

    unsafe fn load(stream: &mut Lz4Stream<Fast>, bytes: &[u8], _acceleration: c_int) -> c_int {
        // SAFETY: the stream was initialised; the bytes are valid for their length, which `DICTIONARY` bounds, and
        // the caller keeps them.
        unsafe {
            LZ4_loadDictSlow(
                stream.as_mut_ptr(),
                bytes.as_ptr().cast(),
                bytes.len() as c_int,
            )
        }
    }

    fn compress(stream: &mut Lz4Stream<Fast>, mut block: Lz4Block, acceleration: c_int) -> c_int {
        // SAFETY: the stream was set up by LZ4_initStream and, without a dictionary, is only ever used here, as
        // fastReset demands. A block's pointers are valid for the lengths that it says.
        unsafe {
            LZ4_compress_fast_extState_fastReset(
                stream.as_mut_ptr(),
                block.src(),
                block.dst(),
                block.src_bytes,
                block.capacity,
                acceleration,
            )
        }
    }

    fn compress_with(
        stream: &mut Lz4Stream<Fast>,
        dictionary: &LoadedDictionary<Fast>,
        mut block: Lz4Block,
        acceleration: c_int,
    ) -> c_int {
        stream.words.copy_from_slice(&dictionary.stream.words);
        // SAFETY: the stream is the copy of one that LZ4_loadDictSlow prepared and nobody used. It refers to the
        // dictionary's bytes, which the caller's borrow keeps alive for the call, and the next call does not look at
        // what this one leaves behind. A block's pointers are valid for the lengths that it says.
        unsafe {
            LZ4_compress_fast_continue(
                stream.as_mut_ptr(),
                block.src(),
                block.dst(),
                block.src_bytes,
                block.capacity,
                acceleration,
            )
        }
    }
}
