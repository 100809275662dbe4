//! What every algorithm must do, as functions over `dyn Algorithm`: the self-test that gates registration
//! ([`self_test`], about a millisecond), the full suite for tests ([`full`]), and a fuzzer ([`fuzz()`]). An embedding
//! program runs them on an algorithm of its own in one line each.
//!
//! The oracle is the identity: a compressed block must decompress to itself, and bytes that no compressor made must be
//! refused or decoded without a panic and without a write past the buffer.

mod failure;
mod fuzz;
mod inputs;
mod with_dictionary;

pub use failure::ConformanceFailure;
pub use fuzz::{FuzzCounts, fuzz};
use inputs::Noise;
pub use inputs::{input, inputs};

use crate::{Algorithm, Error, ParamKind, Prepared, Settings, Tfm};

/// The block size that the suite prepares for.
const BLOCK: usize = 4096;
/// Room for any algorithm's worst expansion of one block, as zram's two-page buffer gives it.
const ROOM: usize = 2 * BLOCK;
/// Sentinel written behind output buffers.
const GUARD: u8 = 0xA5;
/// A buffer with nothing but that: slices are compared faster than bytes, and each process of a device makes the self-test.
static UNTOUCHED: [u8; ROOM] = [GUARD; ROOM];

/// Known answers, and a round trip of four kinds of block at the default parameters.
pub fn self_test(algorithm: &dyn Algorithm) -> Result<(), ConformanceFailure> {
    let prepared = prepare(algorithm, &[])?;
    let mut tfm = prepared.tfm()?;
    known_answers(algorithm, &*prepared, &mut *tfm)?;
    for (kind, block) in blocks(1) {
        round_trip(&*prepared, &mut *tfm, &block).map_err(|e| e.within(kind))?;
    }
    Ok(())
}

/// Everything in [`self_test`], at the ends of every parameter's range, for many block kinds and lengths, and
/// with truncated, damaged and arbitrary input.
pub fn full(algorithm: &dyn Algorithm) -> Result<(), ConformanceFailure> {
    self_test(algorithm)?;
    if algorithm.known_answers().is_empty() {
        return Err("no known answer: add one from an independent implementation".into());
    }
    for params in parameter_corners(algorithm) {
        let prepared = prepare(algorithm, &params)?;
        let label = |e: ConformanceFailure| e.within(format_args!("{params:?}"));
        let mut tfm = prepared.tfm().map_err(|e| label(e.into()))?;
        known_answers(algorithm, &*prepared, &mut *tfm).map_err(label)?;
        for seed in 1..4 {
            for (kind, block) in blocks(seed) {
                for len in [1, 7, 64, 511, BLOCK - 1, BLOCK] {
                    round_trip(&*prepared, &mut *tfm, &block[..len])
                        .map_err(|e| label(e.within(format_args!("{kind}[..{len}]"))))?;
                }
            }
        }
    }
    let prepared = prepare(algorithm, &[])?;
    small_outputs(&*prepared)?;
    hostile_input(&*prepared)?;
    independent_tfms(&*prepared)?;
    with_dictionary::full(algorithm)
}

fn prepare(
    algorithm: &dyn Algorithm,
    params: &[(String, String)],
) -> Result<std::sync::Arc<dyn Prepared>, ConformanceFailure> {
    let pairs = params.iter().map(|(k, v)| (k, v));
    let settings = Settings::new(algorithm, BLOCK, pairs)?;
    Ok(algorithm.prepare(&settings)?)
}

/// No parameters, then each parameter at its minimum and maximum.
fn parameter_corners(algorithm: &dyn Algorithm) -> Vec<Vec<(String, String)>> {
    let mut corners = vec![Vec::new()];
    for spec in algorithm.params() {
        let ParamKind::Int { min, max, .. } = spec.kind;
        corners.push(vec![(spec.name.to_owned(), min.to_string())]);
        corners.push(vec![(spec.name.to_owned(), max.to_string())]);
    }
    corners
}

fn known_answers(
    algorithm: &dyn Algorithm,
    prepared: &dyn Prepared,
    tfm: &mut dyn Tfm,
) -> Result<(), ConformanceFailure> {
    for answer in algorithm.known_answers() {
        decompresses_to(prepared, tfm, answer.compressed, answer.plain)
            .map_err(|e| e.within("known answer"))?;
        round_trip(prepared, tfm, answer.plain)?;
    }
    Ok(())
}

fn round_trip(
    prepared: &dyn Prepared,
    tfm: &mut dyn Tfm,
    plain: &[u8],
) -> Result<(), ConformanceFailure> {
    let mut object = [GUARD; ROOM];
    let len = tfm
        .compress(plain, &mut object)
        .map_err(|e| ConformanceFailure::from(e).within("compress"))?;
    decompresses_to(prepared, tfm, &object[..len], plain)
}

/// Through the tfm and, where there is one, the stateless decompressor; into a buffer of exactly the right
/// size with a guard behind it.
fn decompresses_to(
    prepared: &dyn Prepared,
    tfm: &mut dyn Tfm,
    object: &[u8],
    plain: &[u8],
) -> Result<(), ConformanceFailure> {
    let check = |how: &str, out: &[u8], result: Result<usize, Error>| match result {
        Err(e) => Err(ConformanceFailure::from(e).within(how)),
        Ok(n) if n != plain.len() => {
            Err(format!("{how}: {n} bytes instead of {}", plain.len()).into())
        }
        Ok(n) if out[..n] != *plain => Err(format!("{how}: wrong bytes").into()),
        Ok(n) if out[n..] != UNTOUCHED[n..] => Err(format!("{how}: wrote past the end").into()),
        Ok(_) => Ok(()),
    };
    let mut out = [GUARD; ROOM];
    let result = tfm.decompress(object, &mut out[..plain.len()]);
    check("tfm", &out, result)?;
    let mut decoder = prepared.decoder()?;
    let mut out = [GUARD; ROOM];
    let result = decoder.decompress(object, &mut out[..plain.len()]);
    check("decoder", &out, result)?;
    if let Some(stateless) = prepared.stateless() {
        let mut out = [GUARD; ROOM];
        let result = stateless.decompress(object, &mut out[..plain.len()]);
        check("stateless", &out, result)?;
    }
    Ok(())
}

/// Too little room is an error on both sides, and nothing is written past it.
fn small_outputs(prepared: &dyn Prepared) -> Result<(), ConformanceFailure> {
    let mut tfm = prepared.tfm()?;
    for (kind, block) in blocks(9) {
        let mut object = [0u8; ROOM];
        let len = tfm.compress(&block, &mut object)?;
        for room in [0, 1, len / 2, len - 1] {
            let mut out = [GUARD; ROOM];
            match tfm.compress(&block, &mut out[..room]) {
                Err(Error::OutputTooSmall { got }) if got == room => {}
                other => {
                    return Err(
                        format!("{kind}: {other:?} compressing into {room} of {len}").into(),
                    );
                }
            }
            if out[room..].iter().any(|b| *b != GUARD) {
                return Err(format!("{kind}: wrote past {room} bytes of output").into());
            }
        }
        for room in [0, 1, BLOCK / 2, BLOCK - 1] {
            let mut out = [GUARD; ROOM];
            if let Ok(n) = tfm.decompress(&object[..len], &mut out[..room]) {
                return Err(
                    format!("{kind}: {n} bytes decompressed into {room} of {BLOCK}").into(),
                );
            }
            if out[room..].iter().any(|b| *b != GUARD) {
                return Err(format!("{kind}: decompression wrote past {room} bytes").into());
            }
        }
    }
    Ok(())
}

/// Truncations, single-byte damage and noise: an error or some bytes, never a panic or a stray write; and the
/// tfm works as before afterwards.
fn hostile_input(prepared: &dyn Prepared) -> Result<(), ConformanceFailure> {
    let mut tfm = prepared.tfm()?;
    let mut noise = Noise::new(77);
    for (kind, block) in blocks(5) {
        let mut object = [0u8; ROOM];
        let len = tfm.compress(&block, &mut object)?;
        for _ in 0..200 {
            let mut bad = object[..len].to_vec();
            match noise.next() % 3 {
                0 => bad.truncate(noise.next() as usize % len),
                1 => bad[noise.next() as usize % len] ^= 1 << (noise.next() % 8),
                _ => bad.iter_mut().for_each(|b| *b = noise.next() as u8),
            }
            let mut out = [GUARD; ROOM];
            let results = [
                tfm.decompress(&bad, &mut out[..BLOCK]),
                prepared
                    .stateless()
                    .map_or(Ok(0), |s| s.decompress(&bad, &mut out[..BLOCK])),
            ];
            if results.iter().any(|r| r.as_ref().is_ok_and(|n| *n > BLOCK)) {
                return Err(format!("{kind}: claims more than its output holds").into());
            }
            if out[BLOCK..].iter().any(|b| *b != GUARD) {
                return Err(format!("{kind}: damaged input made it write past the end").into());
            }
        }
        round_trip(prepared, &mut *tfm, &block)
            .map_err(|e| e.within(format_args!("{kind} after damage")))?;
    }
    Ok(())
}

/// One worker's object is every worker's object, and the same block gives the same bytes whatever the tfm did
/// before: nothing leaks from call to call.
fn independent_tfms(prepared: &dyn Prepared) -> Result<(), ConformanceFailure> {
    let mut used = prepared.tfm()?;
    let mut objects = Vec::new();
    for (_, block) in blocks(3) {
        let mut object = [0u8; ROOM];
        let len = used.compress(&block, &mut object)?;
        objects.push((block, object[..len].to_vec()));
    }
    for (block, object) in objects.iter().rev() {
        let mut fresh = prepared.tfm()?;
        decompresses_to(prepared, &mut *fresh, object, block)?;
        let mut again = [0u8; ROOM];
        let len = used.compress(block, &mut again)?;
        if again[..len] != object[..] {
            return Err("compressing the same block twice gave different objects".into());
        }
    }
    Ok(())
}

/// Blocks of the kinds that memory holds.
fn blocks(seed: u64) -> Vec<(&'static str, Vec<u8>)> {
    let mut noise = Noise::new(seed);
    let words: Vec<Vec<u8>> = (0..40)
        .map(|_| {
            (0..1 + noise.next() % 9)
                .map(|_| b'a' + (noise.next() % 26) as u8)
                .collect()
        })
        .collect();
    let mut text = Vec::new();
    while text.len() < BLOCK {
        text.extend_from_slice(&words[noise.next() as usize % words.len()]);
        text.push(b' ');
    }
    text.truncate(BLOCK);
    let pointers: Vec<u8> = (0..BLOCK / 8)
        .flat_map(|_| (0x7f12_3400_0000u64 + noise.next() % 65_536 * 16).to_le_bytes())
        .collect();
    let sparse: Vec<u8> = (0..BLOCK)
        .map(|i| if i % 97 == 0 { noise.next() as u8 } else { 0 })
        .collect();
    let random: Vec<u8> = (0..BLOCK).map(|_| noise.next() as u8).collect();
    vec![
        ("zeros", vec![0; BLOCK]),
        ("text", text),
        ("pointers", pointers),
        ("sparse", sparse),
        ("random", random),
    ]
}
