//! lzhs against the program that was written from the description of its format, each reading what the other wrote; and its
//! collections: damaged ones, and what training is worth.
#![cfg(feature = "lzhs")]

use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Arc;

use proptest::prelude::*;
use uzram_compress::conformance::{input, inputs};
use uzram_compress::{DictionarySpec, Error, Registry, Settings, Tfm, dictionary};
use uzram_testkit::Random;
use uzram_testkit::data::heap;
use uzram_testkit::peers::have;

const NAME: &str = "lzhs";
const PAGE: usize = 4096;

fn builtin() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("src/backends/lzhs/collection.bin")
}

fn spec() -> DictionarySpec {
    let registry = Registry::builtin();
    registry.find(NAME).unwrap().dictionary().unwrap()
}

fn with(collection: Option<&[u8]>) -> Result<Box<dyn Tfm>, Error> {
    let registry = Registry::builtin();
    let algorithm = &**registry.find(NAME)?;
    let mut settings = Settings::new(algorithm, PAGE, [("", ""); 0])?;
    if let Some(collection) = collection {
        settings = settings.with_dictionary(algorithm, Arc::from(collection))?;
    }
    algorithm.prepare(&settings)?.tfm()
}

fn compress(tfm: &mut dyn Tfm, plain: &[u8]) -> Vec<u8> {
    let mut object = vec![0; 2 * plain.len() + 64];
    let len = tfm.compress(plain, &mut object).unwrap();
    object.truncate(len);
    object
}

fn comes_back(tfm: &mut dyn Tfm, plain: &[u8]) -> usize {
    let object = compress(tfm, plain);
    let mut back = vec![0xA5; plain.len() + 1];
    let read = tfm.decompress(&object, &mut back[..plain.len()]);
    assert_eq!(read, Ok(plain.len()));
    assert!(back[..plain.len()] == *plain, "other bytes come back");
    assert_eq!(back[plain.len()], 0xA5, "past its end");
    object.len()
}

/// Runs the witness. `None` where it refuses.
fn witness(what: &str, collection: &Path, input: &[u8]) -> Option<Vec<u8>> {
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/lzhs.py");
    let mut child = Command::new("python3")
        .arg(script)
        .arg(what)
        .arg(collection)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    child.stdin.take().unwrap().write_all(input).unwrap();
    let output = child.wait_with_output().unwrap();
    let error = String::from_utf8_lossy(&output.stderr);
    assert!(
        output.status.success() || error.contains("refused"),
        "{error}"
    );
    output.status.success().then_some(output.stdout)
}

/// Pages of several kinds.
fn samples() -> Vec<Vec<u8>> {
    let heaps = (1..40).map(|seed| heap(seed, PAGE));
    heaps.chain((1..40).map(|seed| input(seed, PAGE))).collect()
}

fn trained(max_bytes: usize) -> Vec<u8> {
    let samples = samples();
    let samples: Vec<&[u8]> = samples.iter().map(Vec::as_slice).collect();
    dictionary::train(spec(), 0, &samples, max_bytes).unwrap()
}

/// Both ways, with the built-in collection and with a trained one, on each form that an object has.
#[test]
fn the_witness_agrees() {
    if !have("the_witness_agrees", &["python3"]) {
        return;
    }
    let file = std::env::temp_dir().join(format!("lzhs-{}.collection", std::process::id()));
    let own = trained(dictionary::DEFAULT_BYTES);
    std::fs::write(&file, &own).unwrap();
    let noise = Random::new(4).bytes(PAGE);
    for (collection, path) in [(None, builtin()), (Some(&own[..]), file.clone())] {
        let mut tfm = with(collection).unwrap();
        let mut plains = vec![noise.clone(), noise[..100].to_vec(), vec![7; PAGE]];
        plains.extend([1, 33, 300, 4095, 5000].map(|len| heap(len as u64, len)));
        plains.push(input(3, PAGE));
        for plain in plains {
            let ours = compress(&mut *tfm, &plain);
            let read = witness("decompress", &path, &ours);
            assert!(
                read.as_ref() == Some(&plain),
                "{} bytes, decompressed",
                plain.len()
            );
            let theirs = witness("compress", &path, &plain).unwrap();
            let mut back = vec![0; plain.len()];
            assert_eq!(tfm.decompress(&theirs, &mut back), Ok(plain.len()));
            assert!(back == plain, "{} bytes, compressed", plain.len());
        }
    }
    std::fs::remove_file(file).unwrap();
}

/// Code lengths that are easily said: 8 bits for each literal, 9 and 10 for the tokens; one set of each sort.
fn flat_collection() -> Vec<u8> {
    let mut bytes = b"lzhs\x01\x01\x01\x01\0\0\0\0".to_vec();
    bytes.extend([0x88; 2 * 128]);
    let tokens: Vec<u8> = (0..641)
        .map(|symbol| if symbol < 383 { 9 } else { 10 })
        .collect();
    let pairs = tokens.chunks(2);
    bytes.extend(pairs.map(|pair| pair[0] | pair.get(1).unwrap_or(&0) << 4));
    let sum = crc32fast::hash(&[&bytes[..8], &bytes[12..]].concat());
    bytes[8..12].copy_from_slice(&sum.to_le_bytes());
    bytes
}

/// `uzram keeps pages compressed in RAM; ` six times with [`flat_collection`], by the witness.
const KNOWN: &[u8] = &[
    0xdd, 0xf0, 0x7f, 0x00, 0x00, 0x14, 0x80, 0x00, 0x0a, 0x24, 0x90, 0x00, 0xff, 0x01, 0xae, 0xb6,
    0xa6, 0x0e, 0xce, 0xb6, 0xce, 0x04, 0x4a, 0x04, 0x5e, 0x04, 0x0e, 0x86, 0x04, 0x0e, 0xce, 0x96,
    0x82, 0x4e, 0xd6, 0xce, 0xe6, 0xc6, 0x4e, 0xa6, 0x76, 0xb2, 0x86, 0xa6, 0x04, 0xa6, 0xf6, 0xa6,
    0x26, 0x04, 0xdc, 0x00, 0x05, 0x14, 0x40, 0x02,
];

/// As many literals as there are with codes of the most bits, 11: what a flush has to take is longest with them.
fn steep_collection() -> Vec<u8> {
    let mut bytes = b"lzhs\x01\x01\x01\x01\0\0\0\0".to_vec();
    let mut literals = [11; 256];
    literals[..6].copy_from_slice(&[1, 2, 4, 4, 9, 10]);
    let pack = |lengths: &[u8]| {
        lengths
            .chunks(2)
            .map(|p| p[0] | p[1] << 4)
            .collect::<Vec<u8>>()
    };
    bytes.extend([pack(&literals), pack(&literals)].concat());
    bytes.extend_from_slice(&flat_collection()[12 + 2 * 128..]);
    let sum = crc32fast::hash(&[&bytes[..8], &bytes[12..]].concat());
    bytes[8..12].copy_from_slice(&sum.to_le_bytes());
    bytes
}

#[test]
fn the_longest_codes_come_back() {
    let mut tfm = with(Some(&steep_collection())).unwrap();
    let mut random = Random::new(11);
    let mut coded = 0;
    for round in 0..400 {
        let mut plain = Vec::new();
        // As many bits of short codes between, or the literals would be kept as bytes.
        while plain.len() < PAGE {
            let run = 20 + random.index(40);
            plain.extend((0..run).map(|_| 6 + random.index(250) as u8));
            let run = 100 + random.index(100);
            plain.extend((0..run).map(|_| random.index(6) as u8));
        }
        plain.truncate(PAGE - round % 80);
        comes_back(&mut *tfm, &plain);
        let object = compress(&mut *tfm, &plain);
        let header = if plain.len() < PAGE {
            &object[4..]
        } else {
            &object[..]
        };
        coded += usize::from(object.len() < plain.len() && header[7] & 0x40 == 0);
    }
    assert!(coded > 300, "{coded} have codes");
}

/// Noise is not coded to be thrown away; what is a little better than noise is coded.
#[test]
fn noise_is_stored_as_it_is() {
    let mut tfm = with(None).unwrap();
    let noise = Random::new(12).bytes(PAGE);
    assert_eq!(comes_back(&mut *tfm, &noise), PAGE);
    let letters: Vec<u8> = noise.iter().map(|byte| b'a' + byte % 26).collect();
    assert!(comes_back(&mut *tfm, &letters) < PAGE);
}

/// Runs of zeros between noise: nothing is gained by codes for the literals.
fn zeros_and_noise(seed: u64) -> Vec<u8> {
    let mut random = Random::new(seed);
    let mut plain = Vec::new();
    while plain.len() < PAGE {
        plain.resize(plain.len() + 20 + random.index(200), 0);
        let run = 100 + random.index(200);
        plain.extend(random.bytes(run));
    }
    plain.truncate(PAGE);
    plain
}

#[test]
fn raw_literals_come_back_and_are_checked() {
    let have = have("raw_literals_come_back_and_are_checked", &["python3"]);
    let mut tfm = with(None).unwrap();
    for seed in 1..200 {
        comes_back(&mut *tfm, &zeros_and_noise(seed));
    }
    let plain = zeros_and_noise(7);
    let object = compress(&mut *tfm, &plain);
    assert!(object.len() < PAGE * 9 / 10, "{} bytes", object.len());
    let (low, high) = (
        u32::from_le_bytes(*object.first_chunk().unwrap()),
        &object[4..8],
    );
    assert_eq!(
        (low & 31, low >> 10 & 1, high),
        (0, 1, &[0, 0, 0, 0x40][..])
    );
    let mut back = vec![0; PAGE];
    if have {
        let read = witness("decompress", &builtin(), &object);
        assert!(read.as_ref() == Some(&plain));
    }
    // A set, a stream's length, the bit that is reserved, literals that are not all there.
    for (at, bit) in [(0, 0), (4, 0), (7, 5), (7, 7)] {
        let mut bad = object.clone();
        bad[at] ^= 1 << bit;
        assert!(
            tfm.decompress(&bad, &mut back).is_err(),
            "byte {at}, bit {bit}"
        );
        assert!(!have || witness("decompress", &builtin(), &bad).is_none());
    }
    let mut short = object.clone();
    short.truncate(object.len() / 2);
    assert!(tfm.decompress(&short, &mut back).is_err());
}

/// What the witness made once, and what this encoder makes: the format does not change by accident.
#[test]
fn a_known_object_reads() {
    let collection = flat_collection();
    assert_eq!(crc32fast::hash(&collection), 0xBC4A_A389);
    let mut tfm = with(Some(&collection)).unwrap();
    let plain = b"uzram keeps pages compressed in RAM; ".repeat(6);
    let mut back = vec![0; plain.len()];
    assert_eq!(tfm.decompress(KNOWN, &mut back), Ok(plain.len()));
    assert!(back == plain);
    comes_back(&mut *tfm, &plain);
}

/// What one refuses the other refuses, and what both accept is the same.
#[test]
fn the_witness_agrees_on_damaged_objects() {
    if !have("the_witness_agrees_on_damaged_objects", &["python3"]) {
        return;
    }
    let mut random = Random::new(9);
    let mut tfm = with(None).unwrap();
    const ROUNDS: u64 = 24;
    let mut accepted = 0;
    for round in 0..ROUNDS {
        let plain = heap(round, 300 + 60 * round as usize);
        let mut object = compress(&mut *tfm, &plain);
        // Near the beginning, where the header is and tokens are, and at the end, where their fields are.
        let near = match round % 3 {
            0 => random.index(12),
            1 => random.index(object.len()),
            _ => object.len() - 1 - random.index(6),
        };
        object[near] ^= 1 << random.index(8);
        let mut back = vec![0; 2 * PAGE];
        let ours = tfm.decompress(&object, &mut back).ok();
        let ours = ours.map(|len| back[..len].to_vec());
        let theirs = witness("decompress", &builtin(), &object);
        accepted += u64::from(ours.is_some());
        assert!(ours == theirs, "round {round}");
    }
    assert!((1..ROUNDS).contains(&accepted), "{accepted} accepted");
}

#[test]
fn blocks_of_any_length_come_back() {
    let mut random = Random::new(3);
    let mut tfm = with(None).unwrap();
    for len in (0..80).chain([4095, 4096, 4097, 8192, 65_536, 200_000]) {
        comes_back(&mut *tfm, &vec![0; len]);
        comes_back(&mut *tfm, &input(random.next(), len));
        comes_back(&mut *tfm, &heap(random.next(), len));
        comes_back(&mut *tfm, &random.bytes(len));
    }
}

/// Matches that overlap themselves at each offset, of lengths around where classes and copies begin.
#[test]
fn every_short_offset_and_length_comes_back() {
    let mut random = Random::new(5);
    let mut tfm = with(None).unwrap();
    for offset in 1..40 {
        for length in [
            4, 5, 8, 15, 16, 17, 24, 25, 40, 41, 95, 96, 97, 104, 105, 500, 3000,
        ] {
            for before in [0, 1, 7, 8, 9, 16, 17, 40] {
                let mut plain = random.bytes(before + offset);
                for _ in 0..length {
                    plain.push(plain[plain.len() - offset]);
                }
                plain.extend(random.bytes(20));
                comes_back(&mut *tfm, &plain);
            }
        }
    }
}

/// Long runs and long matches that do not overlap themselves, up to the last byte of a page and not: the decoder copies these
/// as wholes. Text of few letters has codes; noise is kept as bytes.
#[test]
fn long_runs_and_far_matches_come_back() {
    let mut random = Random::new(7);
    let mut tfm = with(None).unwrap();
    for offset in [96, 97, 100, 111, 112, 113, 500, 1999, 2048] {
        for length in [95, 96, 97, 112, offset - 1, offset, offset + 1, 2 * offset] {
            for letters in [20, 256] {
                for rest in [0, 1, 15, 16, 17, 96, PAGE] {
                    let mut some = |count: usize| -> Vec<u8> {
                        (0..count).map(|_| random.index(letters) as u8).collect()
                    };
                    let mut plain = some(offset);
                    for _ in 0..length.min(PAGE - offset) {
                        plain.push(plain[plain.len() - offset]);
                    }
                    plain.extend(some(rest.min(PAGE - plain.len())));
                    comes_back(&mut *tfm, &plain);
                    plain.resize(PAGE, 7);
                    comes_back(&mut *tfm, &plain);
                }
            }
        }
    }
}

#[test]
fn as_many_tokens_as_there_can_be_come_back() {
    let mut random = Random::new(6);
    let mut tfm = with(None).unwrap();
    for _ in 0..20 {
        // Four bytes of few, over and over: hardly a match is longer.
        let words: Vec<[u8; 4]> = (0..60)
            .map(|_| (random.next() as u32).to_le_bytes())
            .collect();
        let plain: Vec<u8> = (0..PAGE / 4)
            .flat_map(|_| words[random.index(60)])
            .collect();
        comes_back(&mut *tfm, &plain);
    }
}

/// A page whose every byte follows the one 8 before by a constant: sub literals alone make it small.
#[test]
fn sub_literals_pay() {
    let mut tfm = with(None).unwrap();
    let plain: Vec<u8> = (0..PAGE)
        .map(|at| (at / 8 * (at % 8 + 1) + at % 8 * 50) as u8)
        .collect();
    let len = comes_back(&mut *tfm, &plain);
    assert!(len < PAGE * 3 / 4, "{len} bytes");
}

#[test]
fn damaged_collections_are_refused() {
    let good = std::fs::read(builtin()).unwrap();
    assert!(with(Some(&good)).is_ok());
    let mut random = Random::new(8);
    for _ in 0..300 {
        let mut bad = good.clone();
        bad[random.index(good.len())] ^= 1 << random.index(8);
        let error = with(Some(&bad)).err();
        assert!(matches!(error, Some(Error::DamagedDictionary { .. })));
    }
    // Right checksums do not save lengths that are no code.
    for at in [5, 6, 7, 12, 200, good.len() - 1] {
        let mut bad = good.clone();
        bad[at] ^= 1;
        let sum = crc32fast::hash(&[&bad[..8], &bad[12..]].concat());
        bad[8..12].copy_from_slice(&sum.to_le_bytes());
        assert!(with(Some(&bad)).is_err(), "byte {at}");
    }
    for bytes in [&good[..good.len() - 1], &vec![7; 1000]] {
        assert!(with(Some(bytes)).is_err());
    }
}

#[test]
fn training_is_reproducible_and_pays() {
    let own = trained(spec().max_bytes);
    assert!(
        own == trained(spec().max_bytes),
        "another collection of the same samples"
    );
    assert!(trained(2000).len() <= 2000);
    let (mut alone, mut with_own) = (with(None).unwrap(), with(Some(&own)).unwrap());
    let (mut before, mut after) = (0, 0);
    for seed in 1000..1040 {
        for page in [heap(seed, PAGE), input(seed, PAGE)] {
            before += comes_back(&mut *alone, &page);
            after += comes_back(&mut *with_own, &page);
        }
    }
    assert!(after * 100 < before * 99, "{after} bytes, {before} without");
    let few: Vec<&[u8]> = vec![&[0; PAGE]; 15];
    assert!(dictionary::train(spec(), 0, &few, 8192).is_err());
    let same: Vec<&[u8]> = vec![&[0; PAGE]; 100];
    // Pages of zeros have tokens as well; nothing but literals has none.
    assert!(dictionary::train(spec(), 0, &same, 8192).is_ok());
    let noise = Random::new(2).bytes(100 * PAGE);
    let noise: Vec<&[u8]> = noise.chunks(PAGE).collect();
    assert!(dictionary::train(spec(), 0, &noise, 8192).is_err());
}

#[test]
fn every_input_comes_back() {
    let mut tfm = with(None).unwrap();
    for plain in inputs(1..600) {
        comes_back(&mut *tfm, &plain);
    }
}

proptest! {
    #[test]
    fn prop_lzhs_any_block_comes_back(seed: u64, len in 0..=PAGE) {
        comes_back(&mut *with(None).unwrap(), &input(seed, len));
    }
}
