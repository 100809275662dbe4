//! The fuzzer: round trips of generated inputs, and objects that no encoder made, by mutation of real ones. It is
//! reproducible: a failure names its seed.
//!
//! A decoder must refuse or accept an object in the same way whatever its output buffer held before, and its output must
//! be the same each time: so it depends on nothing but the object.

use super::inputs::{Noise, spans};
use super::{BLOCK, ConformanceFailure, GUARD, parameter_corners, prepare, with_dictionary};
use crate::{Algorithm, Error, Prepared, Tfm};

/// The most room for the output of a mutant: more than a block.
const MOST: usize = 2 * BLOCK;
/// Bytes watched behind a buffer.
const BEHIND: usize = 64;
/// Inputs between two changes of parameters.
const INPUTS: u64 = 64;
/// Mutations of each input's object.
const MUTATIONS: usize = 16;

/// What a run of the fuzzer covered.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub struct FuzzCounts {
    /// Inputs compressed and decompressed.
    pub round_trips: u64,
    /// Mutants given to the decoder.
    pub mutants: u64,
    /// Mutants that the decoder accepted.
    pub accepted: u64,
}

/// Fuzzes with `rounds` inputs from `seed` on, at the parameters' defaults and at the ends of their ranges in turn; where the
/// algorithm takes a dictionary, then the same with one.
pub fn fuzz(
    algorithm: &dyn Algorithm,
    seed: u64,
    rounds: u64,
) -> Result<FuzzCounts, ConformanceFailure> {
    let corners = parameter_corners(algorithm);
    let dictionary = with_dictionary::usual(algorithm);
    let mut counts = FuzzCounts::default();
    let mut corpus: Vec<Vec<u8>> = Vec::new();
    for (turn, first) in (seed..seed + rounds).step_by(INPUTS as usize).enumerate() {
        let params = &corners[turn % corners.len()];
        let prepared = match &dictionary {
            Some(bytes) if turn / corners.len() % 2 == 1 => {
                with_dictionary::prepare(algorithm, params, bytes)?
            }
            _ => prepare(algorithm, params)?,
        };
        let mut tfm = prepared.tfm()?;
        for seed in first..(first + INPUTS).min(seed + rounds) {
            one(&*prepared, &mut *tfm, seed, &mut corpus, &mut counts)
                .map_err(|e| e.within(format_args!("seed {seed}, {params:?}")))?;
        }
    }
    Ok(counts)
}

fn one(
    prepared: &dyn Prepared,
    tfm: &mut dyn Tfm,
    seed: u64,
    corpus: &mut Vec<Vec<u8>>,
    counts: &mut FuzzCounts,
) -> Result<(), ConformanceFailure> {
    let mut noise = Noise::new(seed);
    let len = if noise.below(4) == 0 {
        1 + noise.below(BLOCK)
    } else {
        BLOCK
    };
    let plain = spans(&mut noise, len);
    let object = compress(tfm, &plain, 2 * BLOCK)?.ok_or("two blocks are too little room")?;
    let back = decompress(prepared, tfm, &object, plain.len())?;
    if back.as_deref() != Some(&plain[..]) {
        return Err("what was compressed does not come back".into());
    }
    let room = noise.below(object.len() + 8);
    if let Some(other) = compress(tfm, &plain, room)?
        && decompress(prepared, tfm, &other, plain.len())?.as_deref() != Some(&plain[..])
    {
        return Err(format!("compressed into {room} bytes, it does not come back").into());
    }
    counts.round_trips += 1;
    // Mutations splice objects of earlier inputs.
    match corpus.len() {
        0..64 => corpus.push(object),
        _ => corpus[noise.below(64)] = object,
    }
    for _ in 0..MUTATIONS {
        let mutant = mutant(&mut noise, corpus);
        let room = if noise.below(2) == 0 {
            BLOCK
        } else {
            noise.below(MOST + 1)
        };
        let result = decompress(prepared, tfm, &mutant, room)?;
        counts.mutants += 1;
        counts.accepted += u64::from(result.is_some());
    }
    Ok(())
}

/// The object; `None` where it does not fit.
fn compress(
    tfm: &mut dyn Tfm,
    plain: &[u8],
    room: usize,
) -> Result<Option<Vec<u8>>, ConformanceFailure> {
    let mut out = vec![GUARD; room + BEHIND];
    let result = tfm.compress(plain, &mut out[..room]);
    if out[room..].iter().any(|byte| *byte != GUARD) {
        return Err(format!("compression wrote past {room} bytes").into());
    }
    match result {
        Ok(len) if len <= room => Ok(Some(out[..len].to_vec())),
        Ok(len) => Err(format!("an object of {len} bytes in {room}").into()),
        Err(Error::OutputTooSmall { got }) if got == room => Ok(None),
        Err(error) => Err(ConformanceFailure::from(error).within("compress")),
    }
}

/// The decompressed object; `None` where it is refused. The same by every decoder, whatever was in the buffer.
fn decompress(
    prepared: &dyn Prepared,
    tfm: &mut dyn Tfm,
    object: &[u8],
    room: usize,
) -> Result<Option<Vec<u8>>, ConformanceFailure> {
    let mut first = None;
    for (stateless, before) in [(false, 0x00), (false, 0xFF), (true, 0x55)] {
        let mut out = vec![before; room];
        out.resize(room + BEHIND, GUARD);
        let result = match (stateless, prepared.stateless()) {
            (false, _) => tfm.decompress(object, &mut out[..room]),
            (true, Some(decoder)) => decoder.decompress(object, &mut out[..room]),
            (true, None) => break,
        };
        if out[room..].iter().any(|byte| *byte != GUARD) {
            return Err(format!("decompression wrote past {room} bytes").into());
        }
        let result = match result {
            Ok(len) if len > room => return Err(format!("{len} bytes in {room}").into()),
            Ok(len) => Some(out[..len].to_vec()),
            Err(_) => None,
        };
        if *first.get_or_insert_with(|| result.clone()) != result {
            return Err(
                format!("the output depends on what was in the buffer: {object:02x?}").into(),
            );
        }
    }
    Ok(first.flatten())
}

/// A real object with some edits, or noise.
fn mutant(noise: &mut Noise, corpus: &[Vec<u8>]) -> Vec<u8> {
    if noise.below(16) == 0 {
        return (0..noise.below(600)).map(|_| noise.next() as u8).collect();
    }
    let mut object = corpus[noise.below(corpus.len())].clone();
    for _ in 0..1 + noise.below(6) {
        if object.is_empty() {
            break;
        }
        let at = noise.below(object.len());
        let to = (at + 1 + noise.below(20)).min(object.len());
        match noise.below(8) {
            0 => object[at] ^= 1 << noise.below(8),
            1 => object[at] = noise.next() as u8,
            2 => object[at] = [0x00, 0xFF, 0x01, 0x80, 0x10, 0x11, 0x1F, 0x20][noise.below(8)],
            3 => drop(object.drain(at..to)),
            4 => object.truncate(at),
            5 => {
                let piece = object[at..to].to_vec();
                object.splice(at..at, piece);
            }
            6 => {
                let other = &corpus[noise.below(corpus.len())];
                object.truncate(at);
                object.extend_from_slice(&other[at.min(other.len())..]);
            }
            _ => object[at..to].fill(noise.next() as u8),
        }
    }
    object
}
