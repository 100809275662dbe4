//! `lz4` by liblz4, the reference implementation (compiled in by `lz4-sys`). Named ffi file.
//!
//! Objects are raw LZ4 blocks. Compression reuses the hash table of the previous call
//! (`LZ4_compress_fast_extState_fastReset`): clearing 16 KiB for each 4 KiB page would cost as much as a
//! quarter of the page's compression. Decompression needs no context.
#![allow(unsafe_code)]

use std::ffi::{c_char, c_int, c_void};
use std::sync::Arc;

use crate::{
    Algorithm, Decompress, Error, KnownAnswer, ParamKind, ParamSpec, Prepared, Settings, Tfm,
};

unsafe extern "C" {
    // In liblz4 since 1.8.2, in its "static linking only" section, hence not in lz4-sys' bindings.
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
}

/// liblz4 clamps greater values to this one (its LZ4_ACCELERATION_MAX).
const ACCELERATION_MAX: i64 = 65537;
/// The format's largest input (LZ4_MAX_INPUT_SIZE).
const MAX_INPUT: usize = 0x7E00_0000;

const PARAMS: &[ParamSpec] = &[ParamSpec {
    name: "level",
    kind: ParamKind::Int { min: 1, max: ACCELERATION_MAX, default: 1 },
    doc: "acceleration: greater is faster and less dense",
}];

pub(crate) struct Backend;
struct Lz4 {
    acceleration: c_int,
}
struct Lz4Tfm {
    // u64s for the alignment that LZ4_initStream demands.
    state: Box<[u64]>,
    acceleration: c_int,
}

impl Algorithm for Backend {
    fn name(&self) -> &'static str {
        "lz4"
    }
    fn driver_name(&self) -> &'static str {
        "lz4-liblz4"
    }
    fn priority(&self) -> i32 {
        200
    }
    fn summary(&self) -> &'static str {
        "fast, the default; liblz4"
    }
    fn params(&self) -> &'static [ParamSpec] {
        PARAMS
    }
    fn known_answers(&self) -> &'static [KnownAnswer] {
        super::LZ4_KNOWN
    }
    fn prepare(&self, settings: &Settings) -> Result<Arc<dyn Prepared>, Error> {
        Ok(Arc::new(Lz4 { acceleration: settings.c_int("level") }))
    }
}

impl Prepared for Lz4 {
    fn tfm(&self) -> Result<Box<dyn Tfm>, Error> {
        // SAFETY: takes no arguments and reads a constant.
        let bytes = unsafe { LZ4_sizeofState() } as usize;
        let mut state = vec![0u64; bytes.div_ceil(8)].into_boxed_slice();
        // SAFETY: `state` is at least `bytes` long and aligned to 8, as the function requires.
        let stream = unsafe { LZ4_initStream(state.as_mut_ptr().cast(), state.len() * 8) };
        if stream.is_null() {
            return Err(Error::Setup { algorithm: "lz4", reason: "LZ4_initStream refused".into() });
        }
        Ok(Box::new(Lz4Tfm { state, acceleration: self.acceleration }))
    }
    fn stateless(&self) -> Option<&dyn Decompress> {
        Some(self)
    }
}

impl Decompress for Lz4 {
    fn decompress(&self, src: &[u8], dst: &mut [u8]) -> Result<usize, Error> {
        decompress(src, dst)
    }
}

fn decompress(src: &[u8], dst: &mut [u8]) -> Result<usize, Error> {
    let corrupt = Error::Corrupt { algorithm: "lz4" };
    let (Ok(src_len), Ok(dst_len)) = (c_int::try_from(src.len()), c_int::try_from(dst.len())) else {
        return Err(corrupt);
    };
    // SAFETY: both pointers are valid for the lengths given with them; LZ4_decompress_safe accepts any bytes
    // and neither reads past `src_len` nor writes past `dst_len`.
    let n = unsafe {
        lz4_sys::LZ4_decompress_safe(src.as_ptr().cast(), dst.as_mut_ptr().cast(), src_len, dst_len)
    };
    usize::try_from(n).map_err(|_| corrupt)
}

impl Tfm for Lz4Tfm {
    fn compress(&mut self, src: &[u8], dst: &mut [u8]) -> Result<usize, Error> {
        let too_small = Error::OutputTooSmall { got: dst.len() };
        if src.len() > MAX_INPUT {
            return Err(too_small);
        }
        let capacity = c_int::try_from(dst.len()).unwrap_or(c_int::MAX);
        // SAFETY: `state` was set up by LZ4_initStream and only ever used by this function, as fastReset
        // demands; both buffers are valid for the lengths given, and the lengths were checked to fit.
        let n = unsafe {
            LZ4_compress_fast_extState_fastReset(
                self.state.as_mut_ptr().cast(),
                src.as_ptr().cast(),
                dst.as_mut_ptr().cast(),
                src.len() as c_int,
                capacity,
                self.acceleration,
            )
        };
        if n > 0 { Ok(n as usize) } else { Err(too_small) }
    }
    fn decompress(&mut self, src: &[u8], dst: &mut [u8]) -> Result<usize, Error> {
        decompress(src, dst)
    }
    fn memory_bytes(&self) -> usize {
        size_of_val(&*self.state)
    }
}
