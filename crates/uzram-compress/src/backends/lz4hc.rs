//! `lz4hc` by liblz4: a search that costs many times lz4's time, for objects that lz4 decodes at its full speed.
//! Named ffi file.
//!
//! The state takes 256 KiB for each worker, as in the kernel. It is kept from call to call
//! (`LZ4_compress_HC_extStateHC_fastReset`): clearing it all for each page would be 64 times the page. Reads need none. A
//! dictionary is searched in a state of its own, which each worker's refers to for one call.
#![allow(unsafe_code)]

use std::ffi::{c_char, c_int, c_void};
use std::sync::Arc;

use super::lz4_block::{self, DICTIONARY, MAX_INPUT};
use crate::{
    Algorithm, Decompress, DictionarySpec, Error, KnownAnswer, ParamKind, ParamSpec, Prepared,
    Settings, Tfm,
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

const PARAMS: &[ParamSpec] = &[ParamSpec {
    name: "level",
    kind: ParamKind::Int {
        min: 3,
        max: 16,
        default: 9,
    },
    doc: "greater is denser and slower; 10 to 16, which the kernel has, mean 9",
}];

pub(crate) struct Backend;
struct Lz4hc {
    level: c_int,
    dictionary: Option<Arc<Dictionary>>,
}
struct Lz4hcTfm {
    state: State,
    level: c_int,
    dictionary: Option<Arc<Dictionary>>,
}
/// A state that has indexed a dictionary and refers to its bytes. Never changed after it is made.
struct Dictionary {
    state: State,
    bytes: Arc<[u8]>,
}
/// An `LZ4_streamHC_t`; u64s for the alignment that LZ4_initStreamHC demands.
struct State(Box<[u64]>);

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
    fn dictionary(&self) -> Option<DictionarySpec> {
        Some(DICTIONARY)
    }
    fn prepare(&self, settings: &Settings) -> Result<Arc<dyn Prepared>, Error> {
        let level = settings.c_int("level").min(LEVEL_MAX);
        let load = |bytes| Dictionary::new(bytes, level).map(Arc::new);
        let dictionary = settings.dictionary().map(load).transpose()?;
        Ok(Arc::new(Lz4hc { level, dictionary }))
    }
}

impl State {
    fn new() -> Result<State, Error> {
        // SAFETY: takes no arguments and reads a constant.
        let bytes = unsafe { LZ4_sizeofStateHC() } as usize;
        let mut state = State(vec![0u64; bytes.div_ceil(8)].into_boxed_slice());
        match state.init() {
            true => Ok(state),
            false => Err(Error::Setup {
                algorithm: NAME,
                reason: "LZ4_initStreamHC refused".into(),
            }),
        }
    }

    /// Forgets everything. Returns whether the memory suits liblz4.
    fn init(&mut self) -> bool {
        let bytes = size_of_val(&*self.0);
        // SAFETY: the buffer is `bytes` long and aligned to 8; the function checks both.
        !unsafe { LZ4_initStreamHC(self.as_mut_ptr(), bytes) }.is_null()
    }

    fn as_mut_ptr(&mut self) -> *mut c_void {
        self.0.as_mut_ptr().cast()
    }

    /// Returns liblz4's answer: the length, 0 if it does not fit.
    fn compress(&mut self, src: &[u8], dst: &mut [u8], capacity: c_int, level: c_int) -> c_int {
        // SAFETY: the state was set up by LZ4_initStreamHC and is only ever used by this function, as fastReset
        // demands; both buffers are valid for the lengths given, and the caller checked that they fit.
        unsafe {
            LZ4_compress_HC_extStateHC_fastReset(
                self.as_mut_ptr(),
                src.as_ptr().cast(),
                dst.as_mut_ptr().cast(),
                src.len() as c_int,
                capacity,
                level,
            )
        }
    }

    /// The same with a dictionary. A state is used by one of the two only.
    fn compress_with(
        &mut self,
        dictionary: &Dictionary,
        src: &[u8],
        dst: &mut [u8],
        capacity: c_int,
        level: c_int,
    ) -> c_int {
        let state = self.as_mut_ptr();
        // SAFETY: the state was set up by LZ4_initStreamHC, and is set up anew after a failure; the reset drops what
        // it remembers of the last call's buffers and dictionary. The dictionary's state is only read, and the
        // caller's borrow keeps it alive for the call. Buffers as above.
        let len = unsafe {
            LZ4_resetStreamHC_fast(state, level);
            LZ4_attach_HC_dictionary(state, dictionary.state.0.as_ptr().cast());
            LZ4_compress_HC_continue(
                state,
                src.as_ptr().cast(),
                dst.as_mut_ptr().cast(),
                src.len() as c_int,
                capacity,
            )
        };
        if len <= 0 {
            // liblz4 says nothing of a state that failed but that it may be initialised.
            self.init();
        }
        len
    }
}

impl Dictionary {
    fn new(bytes: &Arc<[u8]>, level: c_int) -> Result<Dictionary, Error> {
        let (mut state, bytes) = (State::new()?, bytes.clone());
        // SAFETY: the state was initialised; the bytes are valid for their length, which `DICTIONARY` bounds, and live
        // as long as the state that refers to them: `Dictionary` owns both.
        let loaded = unsafe {
            LZ4_resetStreamHC_fast(state.as_mut_ptr(), level);
            LZ4_loadDictHC(
                state.as_mut_ptr(),
                bytes.as_ptr().cast(),
                bytes.len() as c_int,
            )
        };
        if usize::try_from(loaded) != Ok(bytes.len()) {
            return Err(Error::Setup {
                algorithm: NAME,
                reason: "LZ4_loadDictHC refused".into(),
            });
        }
        Ok(Dictionary { state, bytes })
    }
}

impl Prepared for Lz4hc {
    fn tfm(&self) -> Result<Box<dyn Tfm>, Error> {
        let (level, dictionary) = (self.level, self.dictionary.clone());
        Ok(Box::new(Lz4hcTfm {
            state: State::new()?,
            level,
            dictionary,
        }))
    }
    fn stateless(&self) -> Option<&dyn Decompress> {
        Some(self)
    }
    fn memory_bytes(&self) -> usize {
        self.dictionary
            .as_ref()
            .map_or(0, |d| d.bytes.len() + size_of_val(&*d.state.0))
    }
}

impl Decompress for Lz4hc {
    fn decompress(&self, src: &[u8], dst: &mut [u8]) -> Result<usize, Error> {
        decompress(src, dst, self.dictionary.as_deref())
    }
}

fn decompress(src: &[u8], dst: &mut [u8], dictionary: Option<&Dictionary>) -> Result<usize, Error> {
    lz4_block::decompress(NAME, src, dst, dictionary.map_or(&[], |d| &d.bytes))
}

impl Tfm for Lz4hcTfm {
    fn compress(&mut self, src: &[u8], dst: &mut [u8]) -> Result<usize, Error> {
        let too_small = Error::OutputTooSmall { got: dst.len() };
        if src.len() > MAX_INPUT {
            return Err(too_small);
        }
        let capacity = c_int::try_from(dst.len()).unwrap_or(c_int::MAX);
        let (state, level) = (&mut self.state, self.level);
        let n = match &self.dictionary {
            None => state.compress(src, dst, capacity, level),
            Some(dictionary) => state.compress_with(dictionary, src, dst, capacity, level),
        };
        if n > 0 {
            Ok(n as usize)
        } else {
            Err(too_small)
        }
    }
    fn decompress(&mut self, src: &[u8], dst: &mut [u8]) -> Result<usize, Error> {
        decompress(src, dst, self.dictionary.as_deref())
    }
    fn memory_bytes(&self) -> usize {
        size_of_val(&*self.state.0)
    }
}
