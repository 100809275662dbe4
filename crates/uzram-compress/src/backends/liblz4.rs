//! What `lz4` and `lz4hc` share of liblz4: streams, dictionaries, tfms and the block decoder. Named ffi file.
//!
//! The two encoders have calls of their own ([`Liblz4Encoder`]) and one life: a stream is allocated once, kept from call to
//! call, and a dictionary is loaded into a stream that nobody changes afterwards. Each tfm owns one stream and uses it
//! either with its dictionary or without any, never both. Decompression needs no context.
#![allow(unsafe_code)]

use std::ffi::{c_char, c_int, c_void};
use std::marker::PhantomData;
use std::sync::Arc;

// Only its bindings are not enough; this makes its liblz4 part of the program.
use lz4_sys as _;

use crate::{
    Decompress, DictionaryForm, DictionarySpec, Error, LibraryError, Prepared, Settings, Tfm,
};

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

/// The block format's longest input (LZ4_MAX_INPUT_SIZE).
const MAX_INPUT: usize = 0x7E00_0000;

/// Offsets have 16 bits: what lies farther back is out of reach.
pub(super) const DICTIONARY: DictionarySpec = DictionarySpec {
    form: DictionaryForm::Content,
    max_bytes: 64 << 10,
};

/// The calls in which liblz4's encoders differ.
pub(super) trait Liblz4Encoder: Send + Sync + Sized + 'static {
    /// The algorithm's name.
    const NAME: &'static str;

    /// Size of a stream in bytes.
    fn stream_bytes() -> usize;

    /// Initialises a stream, whatever it holds. Returns whether its memory suits liblz4.
    fn init(stream: &mut Lz4Stream<Self>) -> bool;

    /// Loads a dictionary into a stream that was just initialised. Returns the length that liblz4 took.
    ///
    /// # Safety
    ///
    /// The stream keeps a pointer to `bytes`: they must live, unchanged, as long as it or a copy of it is used.
    unsafe fn load(stream: &mut Lz4Stream<Self>, bytes: &[u8], level: c_int) -> c_int;

    /// Compresses without a dictionary. Returns the length, or 0 where it does not fit.
    fn compress(stream: &mut Lz4Stream<Self>, block: Lz4Block, level: c_int) -> c_int;

    /// Compresses with a dictionary. `stream` may have been used with this dictionary alone.
    fn compress_with(
        stream: &mut Lz4Stream<Self>,
        dictionary: &LoadedDictionary<Self>,
        block: Lz4Block,
        level: c_int,
    ) -> c_int;
}

/// Memory of an `LZ4_stream_t` or `LZ4_streamHC_t`, initialised; u64s for the alignment that both demand.
pub(super) struct Lz4Stream<E> {
    pub(super) words: Box<[u64]>,
    encoder: PhantomData<E>,
}

impl<E: Liblz4Encoder> Lz4Stream<E> {
    fn new() -> Result<Lz4Stream<E>, Error> {
        let mut stream = Lz4Stream {
            words: vec![0; E::stream_bytes().div_ceil(8)].into_boxed_slice(),
            encoder: PhantomData,
        };
        match E::init(&mut stream) {
            true => Ok(stream),
            false => Err(refused::<E>("LZ4_initStream")),
        }
    }

    pub(super) fn bytes(&self) -> usize {
        size_of_val(&*self.words)
    }

    pub(super) fn as_mut_ptr(&mut self) -> *mut c_void {
        self.words.as_mut_ptr().cast()
    }
}

/// Source and destination of one call, both as long as a `c_int` can say.
pub(super) struct Lz4Block<'a> {
    src: &'a [u8],
    dst: &'a mut [u8],
    pub(super) src_bytes: c_int,
    pub(super) capacity: c_int,
}

impl<'a> Lz4Block<'a> {
    /// `None` where the format has no block for so long a source.
    fn new(src: &'a [u8], dst: &'a mut [u8]) -> Option<Lz4Block<'a>> {
        let src_bytes = match src.len() {
            0..=MAX_INPUT => src.len() as c_int,
            _ => return None,
        };
        let capacity = c_int::try_from(dst.len()).unwrap_or(c_int::MAX);
        Some(Lz4Block {
            src,
            dst,
            src_bytes,
            capacity,
        })
    }

    /// Readable for `src_bytes`.
    pub(super) fn src(&self) -> *const c_char {
        self.src.as_ptr().cast()
    }

    /// Writable for `capacity` bytes.
    pub(super) fn dst(&mut self) -> *mut c_char {
        self.dst.as_mut_ptr().cast()
    }
}

/// A stream that has indexed a dictionary, and the bytes that it refers to. Never changed after it is made.
pub(super) struct LoadedDictionary<E> {
    pub(super) stream: Lz4Stream<E>,
    bytes: Arc<[u8]>,
}

impl<E: Liblz4Encoder> LoadedDictionary<E> {
    fn new(bytes: &Arc<[u8]>, level: c_int) -> Result<LoadedDictionary<E>, Error> {
        let (mut stream, bytes) = (Lz4Stream::new()?, bytes.clone());
        // SAFETY: this value owns the stream and the bytes, which an Arc neither moves nor changes. Copies of the stream
        // are used through a borrow of this value alone (`Encoder::compress_with`).
        let loaded = unsafe { E::load(&mut stream, &bytes, level) };
        match usize::try_from(loaded) {
            Ok(len) if len == bytes.len() => Ok(LoadedDictionary { stream, bytes }),
            _ => Err(refused::<E>("LZ4_loadDict")),
        }
    }
}

fn refused<E: Liblz4Encoder>(call: &'static str) -> Error {
    Error::Setup {
        algorithm: E::NAME,
        source: LibraryError::new(call, "refused"),
    }
}

/// A level and a dictionary, shared by all workers.
struct Lz4<E> {
    level: c_int,
    dictionary: Option<Arc<LoadedDictionary<E>>>,
}

/// One worker's stream.
struct Lz4Tfm<E> {
    stream: Lz4Stream<E>,
    level: c_int,
    dictionary: Option<Arc<LoadedDictionary<E>>>,
}

/// Prepares a driver for a level of its own scale and for the settings' dictionary.
pub(super) fn prepare<E: Liblz4Encoder>(
    settings: &Settings,
    level: c_int,
) -> Result<Arc<dyn Prepared>, Error> {
    let load = |bytes| LoadedDictionary::<E>::new(bytes, level).map(Arc::new);
    let dictionary = settings.dictionary().map(load).transpose()?;
    Ok(Arc::new(Lz4 { level, dictionary }))
}

impl<E: Liblz4Encoder> Prepared for Lz4<E> {
    fn tfm(&self) -> Result<Box<dyn Tfm>, Error> {
        Ok(Box::new(Lz4Tfm {
            stream: Lz4Stream::<E>::new()?,
            level: self.level,
            dictionary: self.dictionary.clone(),
        }))
    }
    fn stateless(&self) -> Option<&dyn Decompress> {
        Some(self)
    }
    fn memory_bytes(&self) -> usize {
        let bytes = |d: &Arc<LoadedDictionary<E>>| d.bytes.len() + d.stream.bytes();
        self.dictionary.as_ref().map_or(0, bytes)
    }
}

impl<E: Liblz4Encoder> Decompress for Lz4<E> {
    fn decompress(&self, src: &[u8], dst: &mut [u8]) -> Result<usize, Error> {
        decompress_with(self.dictionary.as_deref(), src, dst)
    }
}

impl<E: Liblz4Encoder> Tfm for Lz4Tfm<E> {
    fn compress(&mut self, src: &[u8], dst: &mut [u8]) -> Result<usize, Error> {
        let got = dst.len();
        let too_small = Error::OutputTooSmall { got };
        let Some(block) = Lz4Block::new(src, dst) else {
            return Err(too_small);
        };
        let (stream, level) = (&mut self.stream, self.level);
        let len = match &self.dictionary {
            None => E::compress(stream, block, level),
            Some(dictionary) => E::compress_with(stream, dictionary, block, level),
        };
        if len > 0 {
            Ok(len as usize)
        } else {
            Err(too_small)
        }
    }
    fn decompress(&mut self, src: &[u8], dst: &mut [u8]) -> Result<usize, Error> {
        decompress_with(self.dictionary.as_deref(), src, dst)
    }
    fn memory_bytes(&self) -> usize {
        self.stream.bytes()
    }
}

fn decompress_with<E: Liblz4Encoder>(
    dictionary: Option<&LoadedDictionary<E>>,
    src: &[u8],
    dst: &mut [u8],
) -> Result<usize, Error> {
    decompress(E::NAME, src, dst, dictionary.map_or(&[], |d| &d.bytes))
}

/// Decompresses a block of `algorithm` into `dst`. `dictionary` is the one it was compressed with, empty for none.
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
