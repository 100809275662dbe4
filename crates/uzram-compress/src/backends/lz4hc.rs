//! `lz4hc` by liblz4: a search that costs many times lz4's time, for objects that lz4 decodes at its full speed.
//! Named ffi file.
//!
//! The state takes 256 KiB for each worker, as in the kernel. It is kept from call to call
//! (`LZ4_compress_HC_extStateHC_fastReset`): clearing it all for each page would be 64 times the page. Reads need none.
#![allow(unsafe_code)]

use std::ffi::{c_char, c_int, c_void};
use std::sync::Arc;

use super::lz4_block;
use crate::{
    Algorithm, Decompress, Error, KnownAnswer, ParamKind, ParamSpec, Prepared, Settings, Tfm,
};

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
}

const NAME: &str = "lz4hc";
/// The format's largest input (LZ4_MAX_INPUT_SIZE).
const MAX_INPUT: usize = 0x7E00_0000;

/// The densest search that takes no memory from the heap: liblz4's levels from 10 on (the kernel's liblz4 is older and
/// has others) allocate 64 KiB in each call, which a write to a swap device must not wait for.
const LEVEL_MAX: c_int = 9;

const PARAMS: &[ParamSpec] = &[ParamSpec {
    name: "level",
    kind: ParamKind::Int { min: 3, max: 16, default: 9 },
    doc: "greater is denser and slower; 10 to 16, which the kernel has, mean 9",
}];

pub(crate) struct Backend;
struct Lz4hc {
    level: c_int,
}
struct Lz4hcTfm {
    // u64s for the alignment that LZ4_initStreamHC demands.
    state: Box<[u64]>,
    level: c_int,
}

impl Algorithm for Backend {
    fn name(&self) -> &'static str {
        NAME
    }
    fn driver_name(&self) -> &'static str {
        "lz4hc-liblz4"
    }
    fn priority(&self) -> i32 {
        100
    }
    fn summary(&self) -> &'static str {
        "denser than lz4, slow to write, as fast to read; liblz4"
    }
    fn params(&self) -> &'static [ParamSpec] {
        PARAMS
    }
    fn known_answers(&self) -> &'static [KnownAnswer] {
        super::LZ4_KNOWN
    }
    fn prepare(&self, settings: &Settings) -> Result<Arc<dyn Prepared>, Error> {
        Ok(Arc::new(Lz4hc { level: settings.c_int("level").min(LEVEL_MAX) }))
    }
}

impl Prepared for Lz4hc {
    fn tfm(&self) -> Result<Box<dyn Tfm>, Error> {
        // SAFETY: takes no arguments and reads a constant.
        let bytes = unsafe { LZ4_sizeofStateHC() } as usize;
        let mut state = vec![0u64; bytes.div_ceil(8)].into_boxed_slice();
        // SAFETY: `state` is at least `bytes` long and aligned to 8, as the function requires.
        let stream = unsafe { LZ4_initStreamHC(state.as_mut_ptr().cast(), state.len() * 8) };
        if stream.is_null() {
            return Err(Error::Setup { algorithm: NAME, reason: "LZ4_initStreamHC refused".into() });
        }
        Ok(Box::new(Lz4hcTfm { state, level: self.level }))
    }
    fn stateless(&self) -> Option<&dyn Decompress> {
        Some(self)
    }
}

impl Decompress for Lz4hc {
    fn decompress(&self, src: &[u8], dst: &mut [u8]) -> Result<usize, Error> {
        lz4_block::decompress(NAME, src, dst)
    }
}

impl Tfm for Lz4hcTfm {
    fn compress(&mut self, src: &[u8], dst: &mut [u8]) -> Result<usize, Error> {
        let too_small = Error::OutputTooSmall { got: dst.len() };
        if src.len() > MAX_INPUT {
            return Err(too_small);
        }
        let capacity = c_int::try_from(dst.len()).unwrap_or(c_int::MAX);
        // SAFETY: `state` was set up by LZ4_initStreamHC and only ever used by this function, as fastReset
        // demands; both buffers are valid for the lengths given, and the lengths were checked to fit.
        let n = unsafe {
            LZ4_compress_HC_extStateHC_fastReset(
                self.state.as_mut_ptr().cast(),
                src.as_ptr().cast(),
                dst.as_mut_ptr().cast(),
                src.len() as c_int,
                capacity,
                self.level,
            )
        };
        if n > 0 { Ok(n as usize) } else { Err(too_small) }
    }
    fn decompress(&mut self, src: &[u8], dst: &mut [u8]) -> Result<usize, Error> {
        lz4_block::decompress(NAME, src, dst)
    }
    fn memory_bytes(&self) -> usize {
        size_of_val(&*self.state)
    }
}
