//! `zstd` by libzstd, tuned for small blocks: magicless frames without content size, checksum or dictionary
//! id, and a window of one block. A frame's overhead is then two bytes and a block header, and the tables are
//! sized for the block instead of for megabytes.
//!
//! A dictionary is digested once, for compression and for decompression; contexts refer to both forms and start
//! from its entropy tables. Named ffi file: `zstd-safe` cannot say that a context and what it refers to live
//! together.
#![allow(unsafe_code)]

use std::sync::Arc;

use zstd_safe::{CCtx, CDict, CParameter, DCtx, DDict, DParameter, FrameFormat};

use super::SAMPLE;
use crate::{
    Algorithm, Decoder, DictionaryForm, DictionarySpec, Error, KnownAnswer, LibraryError,
    ParamSpec, Prepared, Settings, Tfm,
};

pub(super) const NAME: &str = "zstd";

pub(super) const PARAMS: &[ParamSpec] = &[
    // ZSTD_minCLevel() and ZSTD_maxCLevel(), asserted by a test below.
    ParamSpec::int(
        "level",
        (-131_072, 22),
        3,
        "greater is denser and slower; negative levels trade density for speed",
    ),
];

/// The format's own limits on the window.
const WINDOW_LOG_MIN: u32 = 10;
const WINDOW_LOG_MAX: u32 = 27;

/// Up to here libzstd looks a position up in tables alone (its strategies fast and dfast), and not in chains or trees.
const LAST_FAST_LEVEL: i32 = 3;

pub(super) const DICTIONARY: DictionarySpec = DictionarySpec {
    form: DictionaryForm::Zstd,
    max_bytes: 1 << 20,
};

pub(crate) struct Backend;
struct Zstd {
    level: i32,
    block_size: usize,
    dictionary: Option<(Arc<EncoderDictionary>, Arc<DecoderDictionary>)>,
}

/// The half of a tfm that compresses: libzstd's or our own.
pub(super) trait FrameEncoder: Send {
    /// Compresses `src` to a frame; `None` where it does not fit.
    fn compress(&mut self, src: &[u8], dst: &mut [u8]) -> Option<usize>;
    /// As [`Tfm::memory_bytes`].
    fn memory_bytes(&self) -> usize;
}

/// The half of a tfm that decompresses.
pub(super) struct ZstdDecoder {
    dctx: DCtx<'static>,
    /// What the context refers to: declared, and so dropped, after it.
    _dictionary: Option<Arc<DecoderDictionary>>,
}

/// One worker's context: an encoder and libzstd's decoder.
pub(super) struct ZstdTfm<E> {
    encoder: E,
    decoder: ZstdDecoder,
}

struct LibzstdEncoder {
    cctx: CCtx<'static>,
    /// As in [`ZstdDecoder`].
    _dictionary: Option<Arc<EncoderDictionary>>,
}

/// A dictionary digested for compression. It refers to the bytes, which are dropped after it.
struct EncoderDictionary {
    digested: CDict<'static>,
    _bytes: Arc<[u8]>,
}

/// A dictionary digested for decompression. As [`EncoderDictionary`].
pub(super) struct DecoderDictionary {
    digested: DDict<'static>,
    bytes: Arc<[u8]>,
}

/// The bytes for what is dropped before `bytes` is.
fn unbound(bytes: &Arc<[u8]>) -> &'static [u8] {
    // SAFETY: an Arc's bytes neither move nor change while anyone holds it. Both callers put what refers to the bytes into
    // a value that holds the Arc for longer.
    unsafe { &*Arc::as_ptr(bytes) }
}

const DAMAGED: Error = Error::DamagedDictionary {
    algorithm: NAME,
    reason: "it begins like a trained one, and the rest is not valid",
};

impl EncoderDictionary {
    fn new(bytes: &Arc<[u8]>, level: i32) -> Result<EncoderDictionary, Error> {
        Ok(EncoderDictionary {
            digested: CDict::try_create_by_reference(unbound(bytes), level).ok_or(DAMAGED)?,
            _bytes: bytes.clone(),
        })
    }
}

impl DecoderDictionary {
    pub(super) fn new(bytes: &Arc<[u8]>) -> Result<DecoderDictionary, Error> {
        Ok(DecoderDictionary {
            digested: DDict::try_create_by_reference(unbound(bytes)).ok_or(DAMAGED)?,
            bytes: bytes.clone(),
        })
    }

    /// With the bytes.
    pub(super) fn memory_bytes(&self) -> usize {
        self.digested.sizeof() + self.bytes.len()
    }
}

impl Algorithm for Backend {
    about! {
        name: NAME,
        driver_name: "zstd-libzstd",
        priority: 100,
        summary: "dense, at less than half of lz4's speed; libzstd",
        params: PARAMS,
        dictionary: DICTIONARY,
        known_answers: KNOWN,
    }
    fn prepare(&self, settings: &Settings) -> Result<Arc<dyn Prepared>, Error> {
        let (level, block_size) = (settings.c_int("level"), settings.block_size());
        let digest = |bytes| {
            let encoder = EncoderDictionary::new(bytes, level)?;
            Ok((Arc::new(encoder), Arc::new(DecoderDictionary::new(bytes)?)))
        };
        let dictionary = settings.dictionary().map(digest).transpose()?;
        Ok(Arc::new(Zstd {
            level,
            block_size,
            dictionary,
        }))
    }
}

impl Zstd {
    fn new_decoder(&self) -> Result<ZstdDecoder, Error> {
        ZstdDecoder::new(self.dictionary.as_ref().map(|(_, decoder)| decoder))
    }
}

/// The logarithm of a window of one block.
pub(super) fn window_log(block_size: usize) -> u32 {
    let log = usize::BITS - block_size.saturating_sub(1).leading_zeros();
    log.clamp(WINDOW_LOG_MIN, WINDOW_LOG_MAX)
}

impl Prepared for Zstd {
    fn tfm(&self) -> Result<Box<dyn Tfm>, Error> {
        let mut cctx = CCtx::try_create().ok_or(Error::OutOfMemory { algorithm: NAME })?;
        let window_log = window_log(self.block_size);
        for parameter in [
            CParameter::CompressionLevel(self.level),
            CParameter::Format(FrameFormat::Magicless),
            CParameter::ContentSizeFlag(false),
            CParameter::ChecksumFlag(false),
            CParameter::DictIdFlag(false),
            CParameter::WindowLog(window_log),
        ] {
            cctx.set_parameter(parameter).map_err(refused)?;
        }
        // libzstd would take tables of two slots a position. A quarter of that leaves room in the first cache for the page
        // and for other work: 1.03 times as fast, and 0.05 % less dense. A dictionary brings tables of its own.
        if self.dictionary.is_none() && self.level <= LAST_FAST_LEVEL {
            let log = window_log - 1;
            for parameter in [CParameter::HashLog(log), CParameter::ChainLog(log)] {
                cctx.set_parameter(parameter).map_err(refused)?;
            }
        }
        let dictionary = self.dictionary.as_ref().map(|(encoder, _)| encoder);
        if let Some(dictionary) = dictionary {
            // SAFETY: the context refers to what is in this Arc, and the encoder holds it for longer than the context.
            let shared: &'static EncoderDictionary = unsafe { &*Arc::as_ptr(dictionary) };
            cctx.ref_cdict(&shared.digested).map_err(refused)?;
        }
        let encoder = LibzstdEncoder {
            cctx,
            _dictionary: dictionary.cloned(),
        };
        let mut tfm = ZstdTfm::new(encoder, self.new_decoder()?);
        // libzstd allocates its workspace at the first call. Make that call here, off the hot path.
        let block = vec![0u8; self.block_size];
        let mut out = vec![0u8; zstd_safe::compress_bound(self.block_size)];
        let len = tfm.compress(&block, &mut out)?;
        tfm.decompress(&out[..len], &mut vec![0u8; self.block_size])?;
        Ok(Box::new(tfm))
    }
    fn decoder(&self) -> Result<Box<dyn Decoder>, Error> {
        Ok(Box::new(self.new_decoder()?))
    }
    fn memory_bytes(&self) -> usize {
        self.dictionary.as_ref().map_or(0, |(encoder, decoder)| {
            encoder.digested.sizeof() + decoder.memory_bytes()
        })
    }
}

fn refused(code: zstd_safe::ErrorCode) -> Error {
    Error::Setup {
        algorithm: NAME,
        source: LibraryError::new("libzstd", zstd_safe::get_error_name(code)),
    }
}

impl ZstdDecoder {
    pub(super) fn new(dictionary: Option<&Arc<DecoderDictionary>>) -> Result<ZstdDecoder, Error> {
        let mut dctx = DCtx::try_create().ok_or(Error::OutOfMemory { algorithm: NAME })?;
        dctx.set_parameter(DParameter::Format(FrameFormat::Magicless))
            .map_err(refused)?;
        if let Some(dictionary) = dictionary {
            // SAFETY: the context refers to what is in this Arc, and the decoder holds it for longer than the context.
            let shared: &'static DecoderDictionary = unsafe { &*Arc::as_ptr(dictionary) };
            dctx.ref_ddict(&shared.digested).map_err(refused)?;
        }
        Ok(ZstdDecoder {
            dctx,
            _dictionary: dictionary.cloned(),
        })
    }
}

impl FrameEncoder for LibzstdEncoder {
    fn compress(&mut self, src: &[u8], dst: &mut [u8]) -> Option<usize> {
        self.cctx.compress2(dst, src).ok()
    }
    fn memory_bytes(&self) -> usize {
        self.cctx.sizeof()
    }
}

impl<E: FrameEncoder> ZstdTfm<E> {
    pub(super) fn new(encoder: E, decoder: ZstdDecoder) -> ZstdTfm<E> {
        ZstdTfm { encoder, decoder }
    }
}

impl<E: FrameEncoder> Tfm for ZstdTfm<E> {
    fn compress(&mut self, src: &[u8], dst: &mut [u8]) -> Result<usize, Error> {
        let got = dst.len();
        self.encoder
            .compress(src, dst)
            .ok_or(Error::OutputTooSmall { got })
    }
    fn decompress(&mut self, src: &[u8], dst: &mut [u8]) -> Result<usize, Error> {
        self.decoder.decompress(src, dst)
    }
    fn memory_bytes(&self) -> usize {
        self.encoder.memory_bytes() + self.decoder.memory_bytes()
    }
}

impl Decoder for ZstdDecoder {
    fn decompress(&mut self, src: &[u8], dst: &mut [u8]) -> Result<usize, Error> {
        self.dctx
            .decompress(dst, src)
            .map_err(|_| Error::Corrupt { algorithm: NAME })
    }
    fn memory_bytes(&self) -> usize {
        self.dctx.sizeof()
    }
}

/// From zstd 1.5.4's command line (-3 --no-check, from a pipe, hence without content size), less its magic.
pub(super) const KNOWN: &[KnownAnswer] = &[KnownAnswer {
    plain: SAMPLE,
    compressed: &super::hex::<51>(
        "00587501005402757a72616d206b6565707320706167657320636f6d7072657373656420696e2052414d3b200100b521\
            4a3d01",
    ),
}];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn schema_agrees_with_the_library() {
        let crate::ParamKind::Int { min, max, default } = PARAMS[0].kind;
        assert_eq!(min, i64::from(zstd_safe::min_c_level()));
        assert_eq!(max, i64::from(zstd_safe::max_c_level()));
        assert_eq!(default, i64::from(zstd_safe::CLEVEL_DEFAULT));
    }
}
