//! Frames of our own zstd encoder with a dictionary, read by libzstd with the same dictionary and by its command line.
//! Dictionaries are trained ones, content alone, tiny, as long as they can be and damaged.
#![cfg(feature = "zstd-uzram")]

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::io::Write;
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::sync::{Arc, Mutex};

use proptest::prelude::*;
use uzram_compress::conformance::{input, inputs};
use uzram_compress::{Error, Prepared, Registry, Settings, Tfm, dictionary};
use uzram_testkit::Random;
use uzram_testkit::data;
use uzram_testkit::peers::have;

const MAGIC: [u8; 4] = [0x28, 0xB5, 0x2F, 0xFD];
const PAGE: usize = 4096;
/// Where our own encoder gives way to libzstd's: blocks, and dictionaries.
const MOST: usize = 0x3000;
const MOST_DICTIONARY: usize = 0x10000;

fn prepared(
    driver: &str,
    block_size: usize,
    level: &str,
    dictionary: &[u8],
) -> Result<Arc<dyn Prepared>, Error> {
    let registry = Registry::builtin();
    let algorithm = &**registry.find(driver)?;
    let settings = Settings::new(algorithm, block_size, [("level", level)])?;
    algorithm.prepare(&settings.with_dictionary(algorithm, dictionary.into())?)
}

fn ours(block_size: usize, dictionary: &[u8]) -> Box<dyn Tfm> {
    let prepared = prepared("zstd-uzram", block_size, "3", dictionary);
    prepared.unwrap().tfm().unwrap()
}

/// A page, of which there are alike ones: records, a heap.
fn page(seed: u64) -> Vec<u8> {
    match seed % 3 {
        0 => data::dialect_page(1, seed).to_vec(),
        1 => data::record_page(seed).to_vec(),
        _ => data::heap(seed, PAGE),
    }
}

fn train(bytes: usize) -> Vec<u8> {
    static TRAINED: Mutex<BTreeMap<usize, Vec<u8>>> = Mutex::new(BTreeMap::new());
    let mut trained = TRAINED.lock().unwrap();
    trained
        .entry(bytes)
        .or_insert_with(|| train_anew(bytes))
        .clone()
}

fn train_anew(bytes: usize) -> Vec<u8> {
    train_by(&(0..300).map(page).collect::<Vec<_>>(), bytes)
}

fn train_by(samples: &[Vec<u8>], bytes: usize) -> Vec<u8> {
    let samples: Vec<&[u8]> = samples.iter().map(Vec::as_slice).collect();
    let registry = Registry::builtin();
    let spec = registry.find("zstd").unwrap().dictionary().unwrap();
    dictionary::train(spec, 3, &samples, bytes).unwrap()
}

/// Where the three repeat offsets of a trained dictionary are; its content follows.
fn repeat_at(trained: &[u8]) -> usize {
    usual_repeat_at(trained).unwrap()
}

fn usual_repeat_at(dictionary: &[u8]) -> Option<usize> {
    let repeat = [1, 0, 0, 0, 4, 0, 0, 0, 8, 0, 0, 0];
    dictionary.windows(12).position(|bytes| bytes == repeat)
}

/// The content; of a dictionary with other repeat offsets, some of it.
fn content(dictionary: &[u8]) -> &[u8] {
    match dictionary {
        [0x37, 0xA4, 0x30, 0xEC, ..] => {
            let some = dictionary.len() / 2;
            &dictionary[usual_repeat_at(dictionary).map_or(some, |at| at + 12)..]
        }
        _ => dictionary,
    }
}

fn object(tfm: &mut dyn Tfm, plain: &[u8]) -> Vec<u8> {
    let mut object = vec![0; plain.len() * 2 + 64];
    let len = tfm.compress(plain, &mut object).unwrap();
    object.truncate(len);
    object
}

thread_local! {
    static PEER: RefCell<zstd_safe::DCtx<'static>> = RefCell::new(zstd_safe::DCtx::create());
}

/// libzstd and the driver itself read the object; its length.
fn is_read(tfm: &mut dyn Tfm, dictionary: &[u8], plain: &[u8]) -> usize {
    let object = object(tfm, plain);
    let frame = [&MAGIC, &object[..]].concat();
    // One byte of room more: nothing may come of it.
    let mut back = vec![0; plain.len() + 1];
    let read =
        PEER.with_borrow_mut(|peer| peer.decompress_using_dict(&mut back[..], &frame, dictionary));
    let read = read.map_err(zstd_safe::get_error_name);
    assert_eq!(read, Ok(plain.len()), "libzstd");
    assert!(back[..plain.len()] == *plain, "libzstd reads other bytes");
    back.fill(0);
    let read = tfm.decompress(&object, &mut back[..plain.len()]);
    assert_eq!(read, Ok(plain.len()));
    assert!(back[..plain.len()] == *plain, "other bytes come back");
    object.len()
}

/// Pages alike and unlike what a dictionary was trained with; pieces of its content, also such as cross its end.
fn pages_for(dictionary: &[u8], seed: u64, most: usize) -> Vec<Vec<u8>> {
    let mut random = Random::new(seed);
    let content = content(dictionary);
    let piece = |random: &mut Random| {
        let from = random.index(content.len());
        let len = random.index(most.min(content.len() - from)) + 1;
        content[from..from + len].to_vec()
    };
    // From the content's end into the page itself.
    let tail = &content[content.len() - content.len().min(1 + random.index(40))..];
    let around: Vec<u8> = tail.iter().copied().cycle().take(most).collect();
    let mut mixed = Vec::new();
    while mixed.len() < most {
        mixed.extend(piece(&mut random).into_iter().take(200));
        let noise = random.index(20);
        mixed.extend(random.bytes(noise));
    }
    mixed.truncate(most);
    let len = 1 + random.index(most);
    vec![
        page(seed + 1000),
        input(seed, most),
        input(seed, len),
        piece(&mut random),
        content[..content.len().min(most)].to_vec(),
        around,
        mixed,
        random.bytes(len),
        vec![random.byte(); len],
    ]
}

/// Of every kind, and of lengths on both sides of each limit of ours.
fn dictionaries() -> Vec<Vec<u8>> {
    let heap = data::heap(7, 1 << 18);
    let mut all = vec![
        heap[..256].to_vec(),
        heap[..16 << 10].to_vec(),
        vec![0; 300],
        Random::new(4).bytes(5000),
    ];
    for len in [0x8000 - PAGE, MOST_DICTIONARY - PAGE, MOST_DICTIONARY] {
        all.extend([heap[..len].to_vec(), heap[..len + 1].to_vec()]);
    }
    all.extend([1024, 4 << 10, 16 << 10, 64 << 10, 100 << 10].map(train));
    all
}

#[test]
fn interop_zstd_dictionary_libzstd_reads() {
    for (number, dictionary) in dictionaries().iter().enumerate() {
        let mut tfm = ours(PAGE, dictionary);
        for seed in 0..12 {
            for plain in pages_for(dictionary, seed + 100 * number as u64, PAGE) {
                is_read(&mut *tfm, dictionary, &plain);
            }
        }
        for len in 0..40 {
            is_read(&mut *tfm, dictionary, &content(dictionary)[..len.min(200)]);
        }
    }
}

#[test]
fn interop_zstd_dictionary_is_hardly_less_dense_than_libzstd() {
    for dictionary in [train(16 << 10), data::heap(2000, 16 << 10)] {
        let mut own = ours(PAGE, &dictionary);
        let peer = prepared("zstd-libzstd", PAGE, "3", &dictionary).unwrap();
        let mut peer = peer.tfm().unwrap();
        let (mut len, mut theirs) = (0, 0);
        let plain = inputs(1..400).filter(|plain| plain.len() <= PAGE);
        for plain in plain.chain((2000..3000).map(page)) {
            len += is_read(&mut *own, &dictionary, &plain);
            theirs += object(&mut *peer, &plain).len();
        }
        println!("{len} bytes, libzstd {theirs}");
        assert!(len * 97 <= theirs * 100, "{len} bytes, libzstd {theirs}");
    }
}

/// Content is reached to its first byte, and repeat offsets are the dictionary's.
#[test]
fn content_is_reached_to_its_ends() {
    let noise = Random::new(21).bytes(16 << 10);
    let mut trained = train(16 << 10);
    let at = content(&trained).as_ptr() as usize - trained.as_ptr() as usize;
    let len = trained.len() - at;
    trained[at..].copy_from_slice(&noise[..len]);
    for dictionary in [noise, trained] {
        let mut tfm = ours(PAGE, &dictionary);
        let content = content(&dictionary);
        for piece in [
            &content[..PAGE],
            &content[1..PAGE],
            &content[content.len() - PAGE..],
            &content[content.len() - 7..],
        ] {
            let len = is_read(&mut *tfm, &dictionary, piece);
            assert!(len < 20, "{len} bytes for {} of content", piece.len());
        }
    }
}

/// Offsets that no block begins with otherwise, one of them beyond what the search reaches.
#[test]
fn repeat_offsets_are_the_dictionarys() {
    let trained = train(64 << 10);
    let at = repeat_at(&trained);
    let mut content = Random::new(22).bytes(trained.len() - at - 12);
    let end = content.len();
    let plain = content[end - 100..end - 40].to_vec();
    content.truncate(end);
    let mut lens = Vec::new();
    for repeat in [
        [100u32, 200, 300],
        [200, 100, 300],
        [end as u32, 300, 100],
        [7, 7, 7],
    ] {
        let mut dictionary = trained[..at].to_vec();
        dictionary.extend(repeat.iter().flat_map(|offset| offset.to_le_bytes()));
        dictionary.extend(&content);
        let mut tfm = ours(PAGE, &dictionary);
        // A literal before the match, or none.
        for before in [&b""[..], b"?"] {
            let plain = [before, &plain, &plain].concat();
            lens.push(is_read(&mut *tfm, &dictionary, &plain));
        }
        for plain in pages_for(&dictionary, 5, PAGE) {
            is_read(&mut *tfm, &dictionary, &plain);
        }
    }
    println!("{lens:?}");
    // Without a literal, the first repeat offset has no code, and the second has.
    assert!(lens[2] < lens[0], "a repeat offset saves nothing: {lens:?}");
}

/// Pages of this package's source, every second one marked.
fn source_pages() -> Vec<(bool, Vec<u8>)> {
    let mut folders = vec![PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("src")];
    let mut text = Vec::new();
    while let Some(folder) = folders.pop() {
        let mut entries: Vec<_> = std::fs::read_dir(folder)
            .unwrap()
            .map(Result::unwrap)
            .collect();
        entries.sort_by_key(|entry| entry.path());
        for entry in entries {
            match entry.path() {
                path if path.is_dir() => folders.push(path),
                path => text.extend(std::fs::read(path).unwrap()),
            }
        }
    }
    let pages = text.chunks_exact(PAGE).map(<[u8]>::to_vec);
    pages
        .enumerate()
        .map(|(at, page)| (at % 2 == 1, page))
        .collect()
}

/// The literals' block type and the sequences' modes of an object of ours.
fn modes(object: &[u8]) -> (u8, u8) {
    let literals = &object[5..];
    let kind = literals[0] & 3;
    let header = u64::from(u32::from_le_bytes(*literals.first_chunk().unwrap()));
    let size_format = literals[0] >> 2 & 3;
    let (header_len, len) = match (kind, size_format) {
        (0, 0 | 2) => (1, header >> 3 & 0x1F),
        (0, 1) => (2, header >> 4 & 0xFFF),
        (2 | 3, 0 | 1) => (3, header >> 14 & 0x3FF),
        (2 | 3, 2) => (4, header >> 18 & 0x3FFF),
        _ => panic!("{kind} {size_format}"),
    };
    let sequences = &literals[header_len + len as usize..];
    let modes = match sequences[0] {
        0 => 0,
        1..128 => sequences[1],
        _ => sequences[2],
    };
    (kind, modes)
}

/// Nearly all pages that are like the training's take all of the dictionary's tables, and each table is also left.
#[test]
fn tables_are_repeated_where_they_serve() {
    let (train, judge): (Vec<_>, Vec<_>) = source_pages().into_iter().partition(|(odd, _)| *odd);
    let train: Vec<Vec<u8>> = train.into_iter().map(|(_, page)| page).collect();
    let dictionary = train_by(&train, 16 << 10);
    let mut tfm = ours(PAGE, &dictionary);
    let (mut all, mut own) = (0, [0; 4]);
    for (_, page) in &judge {
        let (literals, modes) = modes(&object(&mut *tfm, page));
        all += usize::from(literals == 3 && modes == 0xFC);
    }
    for seed in 1..300 {
        let object = object(&mut *tfm, &input(seed, PAGE));
        if object.len() < PAGE {
            let (literals, modes) = modes(&object);
            let [a, b, c] = [6, 4, 2].map(|shift| modes >> shift & 3 != 3);
            for (own, is) in own.iter_mut().zip([literals == 2, a, b, c]) {
                *own += usize::from(is);
            }
        }
    }
    let pages = judge.len();
    println!("{all} of {pages} by the dictionary's tables alone; others: {own:?}");
    assert!(all * 4 >= pages * 3, "{all} of {pages}");
    assert!(own.iter().all(|count| *count > 0), "{own:?}");
    // Content alone has no tables to repeat.
    let content = content(&dictionary);
    let mut tfm = ours(PAGE, content);
    for seed in 1..300 {
        let object = object(&mut *tfm, &input(seed, PAGE));
        if object.len() < PAGE {
            let (literals, modes) = modes(&object);
            assert!(literals != 3 && [6, 4, 2].iter().all(|shift| modes >> shift & 3 != 3));
        }
    }
}

/// Tables that lack nearly all symbols serve only what they have: `a` and `b` for literals, the first two codes of each kind
/// for sequences, half of the states each.
#[test]
fn tables_that_lack_symbols_serve_what_they_have() {
    let mut random = Random::new(31);
    let mut dictionary = vec![0x37, 0xA4, 0x30, 0xEC, 1, 2, 3, 4];
    // Weights of the symbols up to `a`, two a byte; they imply that of `b`.
    dictionary.push(127 + 98);
    dictionary.extend([0; 48]);
    dictionary.push(0x01);
    dictionary.extend([0x10, 0x3F].repeat(3));
    dictionary.extend([1, 4, 8u32].iter().flat_map(|offset| offset.to_le_bytes()));
    dictionary.extend(random.bytes(1000));
    let mut tfm = ours(PAGE, &dictionary);
    let noise: Vec<u8> = (0..200).map(|_| b"ab"[random.index(2)]).collect();
    assert_eq!(modes(&object(&mut *tfm, &noise)).0, 3);
    for literals in [&noise[..], &b"c".repeat(3), &random.bytes(300)] {
        for matches in 0..20 {
            let mut plain = literals.to_vec();
            for _ in 0..matches {
                plain.extend(&dictionary[80 + random.index(900)..][..5 + random.index(20)]);
                plain.extend(&noise[random.index(190)..][..random.index(10)]);
            }
            is_read(&mut *tfm, &dictionary, &plain);
        }
    }
    for seed in 0..50 {
        for plain in pages_for(&dictionary, seed, PAGE) {
            is_read(&mut *tfm, &dictionary, &plain);
        }
    }
}

/// The levels up to 3 are one and the same; what is beyond the limits is libzstd's.
#[test]
fn levels_and_limits() {
    let (dictionary, longer) = (train(16 << 10), data::heap(9, MOST_DICTIONARY + 1));
    let object = |driver, block_size, level, dictionary: &[u8]| {
        let plain: Vec<u8> = (0..block_size as u64 / 4096).flat_map(page).collect();
        let prepared = prepared(driver, block_size, level, dictionary).unwrap();
        object(&mut *prepared.tfm().unwrap(), &plain)
    };
    let of_libzstd = |block_size, level, dictionary: &[u8]| {
        object("zstd-uzram", block_size, level, dictionary)
            == object("zstd-libzstd", block_size, level, dictionary)
    };
    let usual = object("zstd-uzram", PAGE, "3", &dictionary);
    for level in ["0", "1", "2"] {
        assert!(object("zstd-uzram", PAGE, level, &dictionary) == usual);
        assert!(!of_libzstd(PAGE, level, &dictionary), "level {level}");
    }
    for level in ["-5", "4", "22"] {
        assert!(of_libzstd(PAGE, level, &dictionary), "level {level}");
    }
    assert!(!of_libzstd(MOST, "3", &dictionary));
    assert!(of_libzstd(MOST + PAGE, "3", &dictionary));
    assert!(!of_libzstd(PAGE, "3", &longer[1..]));
    assert!(of_libzstd(PAGE, "3", &longer));
}

/// Which dictionaries libzstd takes is what ours takes.
fn is_valid(dictionary: &[u8]) -> bool {
    zstd_safe::DDict::try_create(dictionary).is_some()
        && zstd_safe::CDict::try_create(dictionary, 1).is_some()
}

/// Refuses the dictionary in a sentence, or takes it where libzstd does; then all pages are read.
fn is_refused_or_serves(dictionary: &[u8], seed: u64) -> bool {
    match prepared("zstd-uzram", PAGE, "3", dictionary) {
        Ok(prepared) => {
            assert!(is_valid(dictionary), "libzstd refuses it");
            let mut tfm = prepared.tfm().unwrap();
            let content: Vec<u8> = dictionary.iter().rev().take(200).rev().copied().collect();
            for plain in [page(seed), input(seed, PAGE), content] {
                is_read(&mut *tfm, dictionary, &plain);
            }
            false
        }
        Err(error) => {
            assert!(!is_valid(dictionary), "libzstd takes it: {error}");
            let text = error.to_string();
            let damaged = matches!(error, Error::DamagedDictionary { .. });
            assert!(damaged && text.contains("is damaged: "), "{text}");
            true
        }
    }
}

#[test]
fn damaged_dictionaries_are_refused_in_words() {
    let good = train(1024);
    assert!(!is_refused_or_serves(&good, 1));
    let mut refused = 0;
    for len in (256..good.len()).step_by(5) {
        refused += usize::from(is_refused_or_serves(&good[..len], len as u64));
    }
    // Shorter ones are refused for their length: so each length of the header is tried by what comes behind it.
    let header = repeat_at(&good) + 12;
    for len in 4..header {
        let mut cut = good[..len].to_vec();
        cut.resize(len.max(256), 0xFF);
        refused += usize::from(is_refused_or_serves(&cut, len as u64));
    }
    for bit in 0..header * 8 {
        let mut flipped = good.clone();
        flipped[bit / 8] ^= 1 << (bit % 8);
        refused += usize::from(is_refused_or_serves(&flipped, bit as u64));
    }
    println!("{refused} refused");
    assert!(refused > 100, "{refused}");
    for (at, value, says) in [
        (header - 12, 0u32, "repeat offsets is 0"),
        (header - 4, 1 << 20, "exceeds its content"),
    ] {
        let mut bad = good.clone();
        bad[at..at + 4].copy_from_slice(&value.to_le_bytes());
        for level in ["3", "9"] {
            let error = prepared("zstd-uzram", PAGE, level, &bad).err().unwrap();
            assert!(error.to_string().contains(says), "{error}");
        }
    }
}

/// What this dictionary and page became when the encoder was written; libzstd's command line read it.
#[test]
fn known_object_of_content() {
    let dictionary = b"uzram keeps pages compressed in RAM. ".repeat(8);
    let plain = b"pages compressed in RAM: uzram keeps pages, and uzram keeps pages";
    let mut tfm = ours(PAGE, &dictionary);
    is_read(&mut *tfm, &dictionary, plain);
    let object = object(&mut *tfm, plain);
    let text: String = object.iter().map(|byte| format!("{byte:02x}")).collect();
    assert_eq!(text, "00108d0000303a2c20616e6403003a9e06d863aea715");
}

#[test]
fn interop_zstd_dictionary_command_line_reads() {
    if !have("interop_zstd_dictionary_command_line_reads", &["zstd"]) {
        return;
    }
    for dictionary in [train(16 << 10), data::heap(3, 30_000)] {
        let mut file = tempfile();
        file.1.write_all(&dictionary).unwrap();
        let mut child = Command::new("zstd")
            .args(["-d", "-c", "-q", "-D", &file.0])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut tfm = ours(PAGE, &dictionary);
        let (mut plain, mut frames) = (Vec::new(), Vec::new());
        for page in (1..200).map(page) {
            frames.extend([&MAGIC, &object(&mut *tfm, &page)[..]].concat());
            plain.extend(page);
        }
        let mut stdin = child.stdin.take().unwrap();
        let writer = std::thread::spawn(move || stdin.write_all(&frames).unwrap());
        let output = child.wait_with_output().unwrap();
        writer.join().unwrap();
        std::fs::remove_file(&file.0).unwrap();
        assert!(output.status.success());
        assert!(output.stdout == plain, "zstd reads other bytes");
    }
}

/// A file of this process's own, and its name.
fn tempfile() -> (String, std::fs::File) {
    let name = format!("uzram-zstd-dictionary-{}", std::process::id());
    let path = std::env::temp_dir().join(name);
    let file = std::fs::File::create(&path).unwrap();
    (path.display().to_string(), file)
}

/// A dictionary of any kind.
fn any_dictionary(kind: u8, seed: u64) -> Vec<u8> {
    let mut random = Random::new(seed);
    match kind {
        0 => train(1024),
        1 => train(16 << 10),
        2 => random.bytes(256),
        3 => input(seed, 256 + random.index(70_000)),
        4 => data::heap(seed, 0x8000 - PAGE + random.index(2)),
        _ => {
            // A trained one's header before other content.
            let trained = train(4 << 10);
            let header = repeat_at(&trained) + 12;
            let mut dictionary = trained[..header].to_vec();
            let len = 300 + random.index(66_000);
            dictionary.extend(input(seed, len));
            for place in 0..3 {
                let offset = 1 + random.index(len) as u32;
                dictionary[header - 12 + 4 * place..][..4].copy_from_slice(&offset.to_le_bytes());
            }
            dictionary
        }
    }
}

/// As many cases as `UZRAM_ZSTD_CASES` says: 100,000 by hand.
fn cases() -> u32 {
    let set = std::env::var("UZRAM_ZSTD_CASES").ok();
    set.and_then(|count| count.parse().ok()).unwrap_or(64)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(cases()))]

    #[test]
    fn prop_zstd_dictionary_any_block_comes_back(kind in 0..6u8, seed: u64, most in 1..=MOST) {
        let dictionary = any_dictionary(kind, seed >> 1);
        let mut tfm = ours(most, &dictionary);
        for plain in pages_for(&dictionary, seed >> 1, most) {
            is_read(&mut *tfm, &dictionary, &plain[..plain.len().min(most)]);
        }
    }

    #[test]
    fn prop_zstd_dictionary_damaged_is_refused(seed: u64, edits in 1..6usize) {
        let mut random = Random::new(seed);
        let mut dictionary = any_dictionary(5, seed >> 1);
        let header = 300.min(dictionary.len());
        for _ in 0..edits {
            dictionary[4 + random.index(header - 4)] = random.byte();
        }
        is_refused_or_serves(&dictionary, seed >> 1);
    }
}
