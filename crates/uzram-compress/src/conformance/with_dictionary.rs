//! The full suite with a dictionary, for algorithms that take one; and what holds only then: an object decompresses with
//! its own dictionary alone, and a wrong one does no harm.

use std::sync::Arc;

use super::{
    BLOCK, ConformanceFailure, GUARD, ROOM, blocks, hostile_input, independent_tfms, inputs,
    parameter_corners, round_trip, small_outputs,
};
use crate::{Algorithm, DictionaryForm, DictionarySpec, Prepared, Settings, dictionary};

/// For an algorithm that takes no dictionary, checks that it refuses one.
pub(super) fn full(algorithm: &dyn Algorithm) -> Result<(), ConformanceFailure> {
    let Some(spec) = algorithm.dictionary() else {
        return refuses(algorithm, 4096);
    };
    refuses(algorithm, spec.min_bytes() - 1)?;
    refuses(algorithm, spec.max_bytes + 1)?;
    for (kind, bytes) in dictionaries(spec) {
        let label = |e: ConformanceFailure| e.within(format_args!("with a dictionary of {kind}"));
        for params in parameter_corners(algorithm) {
            let prepared = prepare(algorithm, &params, &bytes).map_err(label)?;
            let mut tfm = prepared.tfm().map_err(|e| label(e.into()))?;
            for (name, block) in blocks(2) {
                for len in [1, 64, 511, BLOCK] {
                    round_trip(&*prepared, &mut *tfm, &block[..len]).map_err(|e| {
                        label(e.within(format_args!("{params:?}: {name}[..{len}]")))
                    })?;
                }
            }
        }
        let prepared = prepare(algorithm, &[], &bytes).map_err(label)?;
        small_outputs(&*prepared).map_err(label)?;
        hostile_input(&*prepared).map_err(label)?;
        independent_tfms(&*prepared).map_err(label)?;
        wrong_dictionary(algorithm, &*prepared, spec, &bytes).map_err(label)?;
        // The shortest collection has a set or two, where the built-in one has many: it need not be the better one.
        if spec.form != DictionaryForm::Collection || bytes.len() > spec.min_bytes() {
            pays(algorithm, &*prepared, spec, &bytes).map_err(label)?;
        }
    }
    Ok(())
}

/// A trained dictionary, or what a build without a trainer has; `None` where the algorithm takes none.
pub(super) fn usual(algorithm: &dyn Algorithm) -> Option<Vec<u8>> {
    let (_, bytes) = dictionaries(algorithm.dictionary()?).pop()?;
    Some(bytes)
}

pub(super) fn prepare(
    algorithm: &dyn Algorithm,
    params: &[(String, String)],
    dictionary: &[u8],
) -> Result<Arc<dyn Prepared>, ConformanceFailure> {
    let pairs = params.iter().map(|(k, v)| (k, v));
    let settings = Settings::new(algorithm, BLOCK, pairs)?;
    let settings = settings.with_dictionary(algorithm, Arc::from(dictionary))?;
    Ok(algorithm.prepare(&settings)?)
}

fn refuses(algorithm: &dyn Algorithm, bytes: usize) -> Result<(), ConformanceFailure> {
    match prepare(algorithm, &[], &vec![1; bytes]) {
        Ok(_) => Err(format!("it took a dictionary of {bytes} bytes").into()),
        Err(_) => Ok(()),
    }
}

/// A trained one where this build has a trainer; and where any bytes serve, the shortest and the longest of plain content
/// and blocks as such, else the shortest and the longest trained ones.
fn dictionaries(spec: DictionarySpec) -> Vec<(&'static str, Vec<u8>)> {
    let samples: Vec<Vec<u8>> = (0..32)
        .flat_map(|seed| blocks(seed % 4))
        .map(|(_, b)| b)
        .collect();
    let samples: Vec<&[u8]> = samples.iter().map(Vec::as_slice).collect();
    let trained = |kind, bytes| Some((kind, dictionary::train(spec, 1, &samples, bytes).ok()?));
    let usual = trained("the trainer's", dictionary::DEFAULT_BYTES);
    if spec.form == DictionaryForm::Collection {
        let shortest = trained("the shortest length", spec.min_bytes());
        let longest = trained("the longest length", spec.max_bytes);
        return [shortest, longest, usual].into_iter().flatten().collect();
    }
    // Without the zeros; it ends with noise, and so do its repetitions at the usual limits.
    let content: Vec<u8> = blocks(2)
        .into_iter()
        .skip(1)
        .flat_map(|(_, block)| block)
        .collect();
    let longest: Vec<u8> = content
        .iter()
        .copied()
        .cycle()
        .take(spec.max_bytes)
        .collect();
    let all = vec![
        (
            "the shortest length",
            content[..dictionary::MIN_BYTES].to_vec(),
        ),
        ("the longest length", longest),
        ("blocks", content),
    ];
    all.into_iter().chain(usual).collect()
}

/// Another dictionary, of the same length where any bytes serve.
fn other(spec: DictionarySpec, bytes: &[u8]) -> Option<Vec<u8>> {
    if spec.form != DictionaryForm::Collection {
        return Some(bytes.iter().map(|b| b ^ 0x55).collect());
    }
    let samples: Vec<Vec<u8>> = (50..80).map(|seed| inputs::input(seed, BLOCK)).collect();
    let samples: Vec<&[u8]> = samples.iter().map(Vec::as_slice).collect();
    dictionary::train(spec, 1, &samples, spec.max_bytes).ok()
}

/// What a dictionary serves well: its own last bytes where it has content, else what it was trained with.
fn served(spec: DictionarySpec, bytes: &[u8]) -> Vec<u8> {
    if spec.form != DictionaryForm::Collection {
        return bytes[bytes.len() - dictionary::MIN_BYTES..].to_vec();
    }
    blocks(2).swap_remove(1).1
}

/// Without the dictionary, or with another of the same length, an object becomes an error or other bytes; neither
/// panics nor writes past the end.
fn wrong_dictionary(
    algorithm: &dyn Algorithm,
    prepared: &dyn Prepared,
    spec: DictionarySpec,
    bytes: &[u8],
) -> Result<(), ConformanceFailure> {
    let mut wrong = vec![super::prepare(algorithm, &[])?];
    if let Some(other) = other(spec, bytes) {
        wrong.push(prepare(algorithm, &[], &other)?);
    }
    let mut tfm = prepared.tfm()?;
    // What it serves well makes an object that can hardly do without it.
    let plain = served(spec, bytes);
    let mut object = [0; ROOM];
    let len = tfm.compress(&plain, &mut object)?;
    for wrong in &wrong {
        let mut tfm = wrong.tfm()?;
        let decoders: [&mut dyn FnMut(&mut [u8]) -> Result<usize, crate::Error>; 2] =
            [&mut |out| tfm.decompress(&object[..len], out), &mut |out| {
                wrong
                    .stateless()
                    .map_or(Ok(0), |s| s.decompress(&object[..len], out))
            }];
        for decode in decoders {
            let mut out = [GUARD; ROOM];
            let result = decode(&mut out[..plain.len()]);
            if out[plain.len()..].iter().any(|b| *b != GUARD) {
                return Err("the wrong dictionary made it write past the end".into());
            }
            if result.is_ok_and(|n| out[..n] == plain) {
                return Err("the object came back without its dictionary".into());
            }
        }
    }
    Ok(())
}

/// What the dictionary serves well compresses better with it than without.
fn pays(
    algorithm: &dyn Algorithm,
    prepared: &dyn Prepared,
    spec: DictionarySpec,
    bytes: &[u8],
) -> Result<(), ConformanceFailure> {
    let plain = served(spec, bytes);
    let mut lens = [0; 2];
    for (len, prepared) in lens
        .iter_mut()
        .zip([&*super::prepare(algorithm, &[])?, prepared])
    {
        let mut tfm = prepared.tfm()?;
        *len = tfm.compress(&plain, &mut [0; ROOM])?;
    }
    let [alone, with] = lens;
    if with >= alone {
        return Err(format!("what it serves takes {with} bytes, without it {alone}").into());
    }
    Ok(())
}
