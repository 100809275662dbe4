//! `lz4` by liblz4, the reference implementation (compiled in by `lz4-sys`). Named ffi file.
//!
//! Objects are raw LZ4 blocks. Compression reuses the hash table of the previous call
//! (`LZ4_compress_fast_extState_fastReset`): clearing 16 KiB for each 4 KiB page would cost as much as a
//! quarter of the page's compression. A dictionary is loaded once into a stream of its own, of which each
//! call takes a copy: 16 KiB, but in the cache, and then there is one table to look into. Attaching that stream instead
//! (`LZ4_attach_dictionary`) looks into two, and took 1.1 to 1.6 times as long on process memory. Decompression needs
//! no context.
#![allow(unsafe_code)]

use std::ffi::{c_char, c_int, c_void};
use std::sync::Arc;

use super::lz4_block::{self, DICTIONARY, MAX_INPUT};
use crate::{
    Algorithm, Decompress, DictionarySpec, Error, KnownAnswer, ParamKind, ParamSpec, Prepared,
    Settings, Tfm,
};

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

pub(super) const PARAMS: &[ParamSpec] = &[ParamSpec {
    name: "level",
    kind: ParamKind::Int {
        min: 1,
        max: ACCELERATION_MAX,
        default: 1,
    },
    doc: "acceleration: greater is faster and less dense",
}];

pub(crate) struct Backend;
struct Lz4 {
    acceleration: c_int,
    dictionary: Option<Arc<Dictionary>>,
}
/// A stream that holds a dictionary's hash table and refers to its bytes. Never changed after it is made.
struct Dictionary {
    stream: State,
    bytes: Arc<[u8]>,
}
struct Lz4Tfm {
    state: State,
    acceleration: c_int,
    dictionary: Option<Arc<Dictionary>>,
}

/// An `LZ4_stream_t`; u64s for the alignment that LZ4_initStream demands.
struct State(Box<[u64]>);

impl State {
    fn new() -> Result<State, Error> {
        // SAFETY: takes no arguments and reads a constant.
        let bytes = unsafe { LZ4_sizeofState() } as usize;
        let mut state = State(vec![0u64; bytes.div_ceil(8)].into_boxed_slice());
        match state.init() {
            true => Ok(state),
            false => Err(Error::Setup {
                algorithm: NAME,
                reason: "LZ4_initStream refused".into(),
            }),
        }
    }

    /// Forgets everything. Returns whether the memory suits liblz4.
    fn init(&mut self) -> bool {
        let bytes = size_of_val(&*self.0);
        // SAFETY: the buffer is `bytes` long and aligned to 8; the function checks both.
        !unsafe { LZ4_initStream(self.as_mut_ptr(), bytes) }.is_null()
    }

    fn as_mut_ptr(&mut self) -> *mut c_void {
        self.0.as_mut_ptr().cast()
    }
}

impl Dictionary {
    fn new(bytes: &Arc<[u8]>) -> Result<Dictionary, Error> {
        let (mut stream, bytes) = (State::new()?, bytes.clone());
        // SAFETY: the stream was initialised; the bytes are valid for their length, which `DICTIONARY` bounds, and
        // live as long as the stream that refers to them: `Dictionary` owns both.
        let loaded = unsafe {
            LZ4_loadDictSlow(
                stream.as_mut_ptr(),
                bytes.as_ptr().cast(),
                bytes.len() as c_int,
            )
        };
        if usize::try_from(loaded) != Ok(bytes.len()) {
            return Err(Error::Setup {
                algorithm: NAME,
                reason: "LZ4_loadDict refused".into(),
            });
        }
        Ok(Dictionary { stream, bytes })
    }
}

impl Algorithm for Backend {
    fn name(&self) -> &'static str {
        NAME
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
    fn dictionary(&self) -> Option<DictionarySpec> {
        Some(DICTIONARY)
    }
    fn known_answers(&self) -> &'static [KnownAnswer] {
        super::LZ4_KNOWN
    }
    fn prepare(&self, settings: &Settings) -> Result<Arc<dyn Prepared>, Error> {
        let dictionary = settings
            .dictionary()
            .map(Dictionary::new)
            .transpose()?
            .map(Arc::new);
        Ok(Arc::new(Lz4 {
            acceleration: settings.c_int("level"),
            dictionary,
        }))
    }
}

impl Prepared for Lz4 {
    fn tfm(&self) -> Result<Box<dyn Tfm>, Error> {
        let (acceleration, dictionary) = (self.acceleration, self.dictionary.clone());
        Ok(Box::new(Lz4Tfm {
            state: State::new()?,
            acceleration,
            dictionary,
        }))
    }
    fn stateless(&self) -> Option<&dyn Decompress> {
        Some(self)
    }
    fn memory_bytes(&self) -> usize {
        self.dictionary
            .as_ref()
            .map_or(0, |d| d.bytes.len() + size_of_val(&*d.stream.0))
    }
}

impl Decompress for Lz4 {
    fn decompress(&self, src: &[u8], dst: &mut [u8]) -> Result<usize, Error> {
        decompress(src, dst, self.dictionary.as_deref())
    }
}

fn decompress(src: &[u8], dst: &mut [u8], dictionary: Option<&Dictionary>) -> Result<usize, Error> {
    lz4_block::decompress(NAME, src, dst, dictionary.map_or(&[], |d| &d.bytes))
}

impl State {
    /// Returns liblz4's answer: the length, 0 if it does not fit.
    fn compress(
        &mut self,
        src: &[u8],
        dst: &mut [u8],
        capacity: c_int,
        acceleration: c_int,
    ) -> c_int {
        // SAFETY: the state was set up by LZ4_initStream and is only ever used by this function, as fastReset
        // demands; both buffers are valid for the lengths given, and the caller checked that they fit.
        unsafe {
            LZ4_compress_fast_extState_fastReset(
                self.as_mut_ptr(),
                src.as_ptr().cast(),
                dst.as_mut_ptr().cast(),
                src.len() as c_int,
                capacity,
                acceleration,
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
        acceleration: c_int,
    ) -> c_int {
        self.0.copy_from_slice(&dictionary.stream.0);
        // SAFETY: the state is the copy of a stream that LZ4_loadDictSlow prepared and nobody used; it refers to the
        // dictionary's bytes, which the caller's borrow keeps alive for the call, and the next call does not look at
        // what this one leaves behind. Buffers as above.
        unsafe {
            LZ4_compress_fast_continue(
                self.as_mut_ptr(),
                src.as_ptr().cast(),
                dst.as_mut_ptr().cast(),
                src.len() as c_int,
                capacity,
                acceleration,
            )
        }
    }
}

impl Tfm for Lz4Tfm {
    fn compress(&mut self, src: &[u8], dst: &mut [u8]) -> Result<usize, Error> {
        let too_small = Error::OutputTooSmall { got: dst.len() };
        if src.len() > MAX_INPUT {
            return Err(too_small);
        }
        let capacity = c_int::try_from(dst.len()).unwrap_or(c_int::MAX);
        let (state, acceleration) = (&mut self.state, self.acceleration);
        let n = match &self.dictionary {
            None => state.compress(src, dst, capacity, acceleration),
            Some(dictionary) => state.compress_with(dictionary, src, dst, capacity, acceleration),
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
