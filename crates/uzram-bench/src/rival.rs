//! The raw codecs, called directly: what a program would do that needs no device, no table and no choice of
//! algorithm. Named ffi file (liblz4).
#![allow(unsafe_code)]

use std::ffi::{c_char, c_int, c_void};

use crate::corpus::PAGE;
use crate::liblzo2::Liblzo2;
use libdeflater::{CompressionLvl, Compressor, Decompressor};
use uzram::compress::{Registry, Settings, Tfm};
use zstd_safe::{CCtx, CParameter, DCtx, DParameter, FrameFormat};

/// A codec with the state of one thread.
pub(crate) enum Raw {
    Lz4(Box<[u64]>),
    Zstd(Box<(CCtx<'static>, DCtx<'static>)>),
    Deflate(Box<(Compressor, Decompressor)>),
    Lzo(Liblzo2),
    /// Of our own, which no library has: its tfm, with the built-in collection.
    Lzhs(Box<dyn Tfm>),
    #[cfg(feature = "rivals")]
    Lz4Flex(lz4_flex::block::CompressTable),
    #[cfg(feature = "rivals")]
    Snap(Box<(snap::raw::Encoder, snap::raw::Decoder)>),
    /// A copy.
    Null,
}

unsafe extern "C" {
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

impl Raw {
    /// The library behind an algorithm's driver, called as the driver does at its default level, and zstd at its first
    /// (`zstd-1`); `None` where there is none.
    pub(crate) fn new(algorithm: &str) -> Option<Raw> {
        match algorithm {
            "lz4" => {
                // SAFETY: no arguments.
                let bytes = unsafe { LZ4_sizeofState() } as usize;
                let mut state = vec![0u64; bytes.div_ceil(8)].into_boxed_slice();
                // SAFETY: the buffer is as long as said, and aligned to 8.
                let stream = unsafe { LZ4_initStream(state.as_mut_ptr().cast(), state.len() * 8) };
                (!stream.is_null()).then_some(Raw::Lz4(state))
            }
            "zstd" | "zstd-1" => {
                let level = if algorithm == "zstd" { 3 } else { 1 };
                let (mut cctx, mut dctx) = (CCtx::create(), DCtx::create());
                for parameter in [
                    CParameter::CompressionLevel(level),
                    CParameter::Format(FrameFormat::Magicless),
                    CParameter::ContentSizeFlag(false),
                    CParameter::WindowLog(12),
                    CParameter::HashLog(11),
                    CParameter::ChainLog(11),
                ] {
                    cctx.set_parameter(parameter).ok()?;
                }
                dctx.set_parameter(DParameter::Format(FrameFormat::Magicless))
                    .ok()?;
                Some(Raw::Zstd(Box::new((cctx, dctx))))
            }
            "deflate" => {
                let level = CompressionLvl::new(6).ok()?;
                Some(Raw::Deflate(Box::new((
                    Compressor::new(level),
                    Decompressor::new(),
                ))))
            }
            "lzhs" => {
                let registry = Registry::builtin();
                let algorithm = registry.find("lzhs").ok()?;
                let none: [(&str, &str); 0] = [];
                let settings = Settings::new(&**algorithm, PAGE, none).ok()?;
                Some(Raw::Lzhs(algorithm.prepare(&settings).ok()?.tfm().ok()?))
            }
            "lzo" => Liblzo2::load().map(Raw::Lzo),
            #[cfg(feature = "rivals")]
            "lz4_flex" => Some(Raw::Lz4Flex(lz4_flex::block::CompressTable::small())),
            #[cfg(feature = "rivals")]
            "snap" => Some(Raw::Snap(Box::new((
                snap::raw::Encoder::new(),
                snap::raw::Decoder::new(),
            )))),
            "null" => Some(Raw::Null),
            _ => None,
        }
    }

    /// Length of the object, 0 on failure. `out` has twice the room of a page.
    pub(crate) fn compress(&mut self, page: &[u8], out: &mut [u8]) -> usize {
        match self {
            Raw::Lz4(state) => {
                // SAFETY: `state` was set up by LZ4_initStream; the lengths are those of the arrays.
                let n = unsafe {
                    LZ4_compress_fast_extState_fastReset(
                        state.as_mut_ptr().cast(),
                        page.as_ptr().cast(),
                        out.as_mut_ptr().cast(),
                        page.len() as c_int,
                        out.len() as c_int,
                        1,
                    )
                };
                n as usize
            }
            Raw::Zstd(state) => state.0.compress2(out, page).unwrap_or(0),
            Raw::Deflate(state) => state.0.deflate_compress(page, out).unwrap_or(0),
            Raw::Lzo(library) => library.compress(page, out).unwrap_or(0),
            Raw::Lzhs(tfm) => tfm.compress(page, out).unwrap_or(0),
            #[cfg(feature = "rivals")]
            Raw::Lz4Flex(table) => {
                lz4_flex::block::compress_into_with_table(page, out, table).unwrap_or(0)
            }
            #[cfg(feature = "rivals")]
            Raw::Snap(state) => state.0.compress(page, out).unwrap_or(0),
            Raw::Null => {
                out[..page.len()].copy_from_slice(page);
                page.len()
            }
        }
    }

    /// Whether the object became as many bytes as there is room for.
    pub(crate) fn decompress(&mut self, object: &[u8], page: &mut [u8]) -> bool {
        match self {
            Raw::Lz4(_) => {
                // SAFETY: the pointers are valid for the lengths given.
                let n = unsafe {
                    lz4_sys::LZ4_decompress_safe(
                        object.as_ptr().cast(),
                        page.as_mut_ptr().cast(),
                        object.len() as c_int,
                        page.len() as c_int,
                    )
                };
                n == page.len() as c_int
            }
            Raw::Zstd(state) => state.1.decompress(page, object) == Ok(page.len()),
            Raw::Deflate(state) => state.1.deflate_decompress(object, page) == Ok(page.len()),
            Raw::Lzo(library) => library.decompress(object, page) == Some(page.len()),
            Raw::Lzhs(tfm) => tfm.decompress(object, page).is_ok_and(|n| n == page.len()),
            #[cfg(feature = "rivals")]
            Raw::Lz4Flex(_) => {
                lz4_flex::block::decompress_into(object, page).is_ok_and(|n| n == page.len())
            }
            #[cfg(feature = "rivals")]
            Raw::Snap(state) => state
                .1
                .decompress(object, page)
                .is_ok_and(|n| n == page.len()),
            Raw::Null => {
                let whole = object.len() == page.len();
                if whole {
                    page.copy_from_slice(object);
                }
                whole
            }
        }
    }
}
