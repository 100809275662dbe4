//! `lz4hc` by liblz4: a search that costs many times lz4's time, for objects that lz4 decodes at its full speed.
//! Named ffi file.
//!
//! The stream takes 256 KiB for each worker, as in the kernel. It is kept from call to call
//! (`LZ4_compress_HC_extStateHC_fastReset`): clearing it all for each page would be 64 times the page. Reads need none. A
//! dictionary is indexed in a stream of its own, which each worker's refers to for one call.
#![allow(unsafe_code)]

use std::ffi::{c_char, c_int, c_void};
use std::sync::Arc;

use super::liblz4::{self, DICTIONARY, Liblz4Encoder, LoadedDictionary, Lz4Block, Lz4Stream};
use crate::{Algorithm, Error, ParamSpec, Prepared, Settings};

unsafe extern "C" {
    // In liblz4 since 1.9.0, but not in lz4-sys' bindings.
    fn LZ4_sizeofStateHC() -> c_int;
    fn LZ4_initStreamHC(buffer: *mut c_void, size: usize) -> *mut c_void;
    fn LZ4_compress_HC_extStateHC_fastReset(
        state: *mut c_void,
        src: *const c_char,
        dst: *mut c_char,
        src_size: c_int,
        dst_capacity: c_int,
        level: c_int,
    ) -> c_int;
    fn LZ4_resetStreamHC_fast(stream: *mut c_void, level: c_int);
    fn LZ4_loadDictHC(stream: *mut c_void, dictionary: *const c_char, size: c_int) -> c_int;
    // Since 1.9.3, in the "static linking only" section.
    fn LZ4_attach_HC_dictionary(stream: *mut c_void, dictionary: *const c_void);
    fn LZ4_compress_HC_continue(
        stream: *mut c_void,
        src: *const c_char,
        dst: *mut c_char,
        src_size: c_int,
        dst_capacity: c_int,
    ) -> c_int;
}

const NAME: &str = "lz4hc";

/// The densest search that takes no memory from the heap: liblz4's levels from 10 on (the kernel's liblz4 is older and
/// has others) allocate 64 KiB in each call, which a write to a swap device must not wait for.
const LEVEL_MAX: c_int = 9;

const PARAMS: &[ParamSpec] = &[ParamSpec::int(
    "level",
    (3, 16),
    9,
    "greater is denser and slower; 10 to 16, which the kernel has, mean 9",
)];

pub(crate) struct Backend;

impl Algorithm for Backend {
    about! {
        name: NAME,
        driver_name: "lz4hc-liblz4",
        priority: 100,
        summary: "denser than lz4, slow to write, as fast to read; liblz4",
        params: PARAMS,
        dictionary: DICTIONARY,
        known_answers: super::LZ4_KNOWN,
    }
    fn prepare(&self, settings: &Settings) -> Result<Arc<dyn Prepared>, Error> {
        liblz4::prepare::<HighCompression>(settings, settings.c_int("level").min(LEVEL_MAX))
    }
}

/// liblz4's encoder of hash chains.
struct HighCompression;

impl Liblz4Encoder for HighCompression {
    const NAME: &'static str = NAME;

    fn stream_bytes() -> usize {
        // SAFETY: takes no arguments and reads a constant.
        unsafe { LZ4_sizeofStateHC() as usize }
    }

    fn init(stream: &mut Lz4Stream<Self>) -> bool {
        let bytes = stream.bytes();
        // SAFETY: the buffer is `bytes` long and aligned to 8; the function checks both.
        !unsafe { LZ4_initStreamHC(stream.as_mut_ptr(), bytes) }.is_null()
    }

    unsafe fn load(stream: &mut Lz4Stream<Self>, bytes: &[u8], level: c_int) -> c_int {
        let (data, len) = (bytes.as_ptr().cast(), bytes.len() as c_int);
        // SAFETY: the stream was initialised; the bytes are valid for their length, which `DICTIONARY` bounds, and
        // the caller keeps them.
        unsafe {
            LZ4_resetStreamHC_fast(stream.as_mut_ptr(), level);
            LZ4_loadDictHC(stream.as_mut_ptr(), data, len)
        }
    }

    fn compress(stream: &mut Lz4Stream<Self>, mut block: Lz4Block, level: c_int) -> c_int {
        // SAFETY: the stream was set up by LZ4_initStreamHC and, without a dictionary, is only ever used here, as
        // fastReset demands. A block's pointers are valid for the lengths that it says.
        unsafe {
            LZ4_compress_HC_extStateHC_fastReset(
                stream.as_mut_ptr(),
                block.src(),
                block.dst(),
                block.src_bytes,
                block.capacity,
                level,
            )
        }
    }

    fn compress_with(
        stream: &mut Lz4Stream<Self>,
        dictionary: &LoadedDictionary<Self>,
        mut block: Lz4Block,
        level: c_int,
    ) -> c_int {
        // SAFETY: the stream was set up by LZ4_initStreamHC, and is set up anew after a failure; the reset drops what
        // it remembers of the last call's buffers and dictionary. The dictionary's stream is only read, and the
        // caller's borrow keeps it alive for the call. A block's pointers are valid for the lengths that it says.
        let len = unsafe {
            LZ4_resetStreamHC_fast(stream.as_mut_ptr(), level);
            LZ4_attach_HC_dictionary(stream.as_mut_ptr(), dictionary.stream.words.as_ptr().cast());
            LZ4_compress_HC_continue(
                stream.as_mut_ptr(),
                block.src(),
                block.dst(),
                block.src_bytes,
                block.capacity,
            )
        };
        if len <= 0 {
            // liblz4 says nothing of a stream that failed but that it may be initialised.
            Self::init(stream);
        }
        len
    }
}
