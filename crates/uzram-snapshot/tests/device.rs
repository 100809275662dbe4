//! From pages to a snapshot to a device: what is read of it is what the pages were, by every algorithm that there is, with and
//! without a dictionary, by both readers, and what is written to it then is compressed as before.

use std::sync::Arc;

use uzram::compress::{Algorithm, Prepared, Registry, Settings, dictionary};
use uzram::{Builder, Device};
use uzram_snapshot::device::Filler;
use uzram_snapshot::{
    CodecSource, DictionarySource, DiskSource, Error, Page, Snapshot, SnapshotReader,
    SnapshotWriter,
};
use uzram_testkit::{Random, data};

const PAGES: u64 = 700;

/// Pages of each kind: zeros, words that fit into a slot and one that does not, noise, and what compresses to all lengths.
fn contents() -> Vec<[u8; 4096]> {
    let mut random = Random::new(57);
    let page = |page: u64| match random.below(12) {
        0 | 1 => [0; 4096],
        2 => data::same_filled(u64::MAX),
        3 => data::same_filled(0x1234_5678_9ABC_DEF0),
        4 => data::noise(page),
        5 => data::noise_before(page, (page % 4096) as usize, 7),
        6 | 7 => data::partly_noise(page, page % 9),
        8 | 9 => data::dialect_page(1, page),
        _ => data::record_page(page),
    };
    (0..PAGES).map(page).collect()
}

/// A codec: as it is described, and as it compresses.
struct Codec {
    algorithm: Arc<dyn Algorithm>,
    params: String,
    dictionary: Option<Vec<u8>>,
    prepared: Arc<dyn Prepared>,
}

impl Codec {
    fn new(algorithm: &Arc<dyn Algorithm>, with_dictionary: bool) -> Option<Codec> {
        let none: [(&str, &str); 0] = [];
        let mut settings = Settings::new(&**algorithm, 4096, none).unwrap();
        let mut trained = None;
        if with_dictionary {
            let spec = algorithm.dictionary()?;
            let samples: Vec<_> = (0..500).map(|page| data::dialect_page(1, page)).collect();
            let samples: Vec<&[u8]> = samples.iter().map(|page| &page[..]).collect();
            let most = spec.max_bytes.min(16 << 10);
            let bytes = dictionary::train(spec, 3, &samples, most).unwrap();
            let with = settings.with_dictionary(&**algorithm, Arc::from(bytes.clone()));
            (settings, trained) = (with.unwrap(), Some(bytes));
        }
        Some(Codec {
            params: settings.params_text(&**algorithm),
            algorithm: algorithm.clone(),
            dictionary: trained,
            prepared: algorithm.prepare(&settings).unwrap(),
        })
    }

    fn source(&self, number: u8) -> CodecSource<'_> {
        CodecSource {
            number,
            algorithm: self.algorithm.name(),
            driver: self.algorithm.driver_name(),
            params: &self.params,
            dictionary: self.dictionary.as_deref().map(DictionarySource::Bytes),
        }
    }
}

/// A page as a snapshot has it.
enum Stored {
    Same(u64),
    Raw,
    Object(u8, Vec<u8>),
}

/// A snapshot of the pages, compressed with one codec after another.
fn snapshot(pages: &[[u8; 4096]], codecs: &[Codec]) -> Vec<u8> {
    let numbers = 0..codecs.len() as u8;
    let sources: Vec<_> = numbers
        .map(|nth| codecs[nth as usize].source(nth))
        .collect();
    let disk = DiskSource {
        pages: pages.len() as u64,
        taken_at_seconds: 1,
        is_basis: false,
        codecs: &sources,
        notes: b"",
    };
    let mut tfms: Vec<_> = codecs
        .iter()
        .map(|codec| codec.prepared.tfm().unwrap())
        .collect();
    let mut writer = SnapshotWriter::new(Vec::new(), &disk).unwrap();
    for (frame, chunk) in pages.chunks(64).enumerate() {
        let mut stored = Vec::new();
        for (at, page) in chunk.iter().enumerate() {
            let first = u64::from_ne_bytes(*page.first_chunk().unwrap());
            if *page == data::same_filled(first) {
                stored.push(Stored::Same(first));
                continue;
            }
            let codec = (frame * 64 + at) % tfms.len();
            let mut out = [0; 8192];
            match tfms[codec].compress(page, &mut out) {
                Ok(len) if len < 4000 => {
                    stored.push(Stored::Object(codec as u8, out[..len].into()))
                }
                _ => stored.push(Stored::Raw),
            }
        }
        let mut frame_pages = Vec::new();
        for (stored, page) in stored.iter().zip(chunk) {
            frame_pages.push(match stored {
                Stored::Same(word) => Page::Same(*word),
                Stored::Raw => Page::Raw(page),
                Stored::Object(codec, bytes) => Page::Object {
                    codec: *codec,
                    bytes,
                },
            });
        }
        writer.frame(frame as u32, &frame_pages).unwrap();
    }
    writer.finish().unwrap().0
}

fn check(device: &Device, pages: &[[u8; 4096]], what: &str) {
    let mut page = [0; 4096];
    for (at, expected) in pages.iter().enumerate() {
        device.read_at(&mut page, at as u64 * 4096).unwrap();
        assert!(page == *expected, "{what}: page {at}");
    }
}

/// A device with the snapshot's codec of a number as its primary.
fn builder(snapshot: &Snapshot, primary: u8) -> Builder {
    let choices = snapshot.choices(&Registry::builtin()).unwrap();
    let (_, choice) = choices
        .into_iter()
        .find(|(number, _)| *number == primary)
        .unwrap();
    Device::builder(snapshot.head().pages * 4096).choose(choice)
}

/// Restores by both readers, reads all, then writes all and reads it again.
fn there_and_back(codecs: &[Codec], what: &str) {
    let pages = contents();
    let file = snapshot(&pages, codecs);
    let registry = Registry::builtin();
    let mut opened = Snapshot::open(file.clone()).unwrap();
    let totals = opened.totals();
    assert!(totals.object_pages > PAGES / 2 && totals.same_pages > 50);
    for forward in [true, false] {
        let mut device = builder(&opened, 0).build().unwrap();
        if forward {
            let reader = SnapshotReader::new(&file[..]).unwrap();
            let mut filler = Filler::new(&mut device);
            filler
                .add_codecs(reader.choices(&registry).unwrap())
                .unwrap();
            reader
                .restore(|page, content| filler.page(page, content))
                .unwrap();
        } else {
            opened.restore_to(&mut device, &registry).unwrap();
        }
        check(&device, &pages, what);
        // As they were: nothing was compressed anew.
        let stats = device.codecs();
        let objects: u64 = stats.iter().map(|codec| codec.object_bytes).sum();
        let huge = device.stats().huge_pages;
        assert_eq!(objects + huge * 4096, totals.object_bytes, "{what}");
        assert_eq!(stats.len(), codecs.len(), "{what}");
        let dictionary = codecs[0].dictionary.as_ref().map_or(0, Vec::len);
        assert_eq!(stats[0].dictionary_bytes, dictionary as u64);

        let mut other = contents();
        other.rotate_left(333);
        device.write_at(&other.concat(), 0).unwrap();
        check(&device, &other, what);
        let of_primary = device
            .codecs()
            .iter()
            .find(|codec| codec.index == 0)
            .unwrap()
            .objects;
        assert_eq!(
            of_primary,
            device
                .codecs()
                .iter()
                .map(|codec| codec.objects)
                .sum::<u64>()
        );
    }
}

#[test]
fn every_algorithm_comes_back_with_and_without_a_dictionary() {
    let registry = Registry::builtin();
    let mut with = 0;
    for algorithm in registry.iter() {
        let name = algorithm.driver_name();
        there_and_back(&[Codec::new(algorithm, false).unwrap()], name);
        if let Some(codec) = Codec::new(algorithm, true) {
            with += 1;
            there_and_back(&[codec], &format!("{name} with a dictionary"));
        }
    }
    assert!(with >= 3, "some take one");
}

#[test]
fn a_device_with_all_of_them_comes_back() {
    let registry = Registry::builtin();
    let both = registry.iter().flat_map(|algorithm| {
        [Codec::new(algorithm, false), Codec::new(algorithm, true)]
            .into_iter()
            .flatten()
    });
    let codecs: Vec<Codec> = both.take(16).collect();
    assert!(codecs.len() > 8);
    there_and_back(&codecs, "all");
}

#[test]
fn a_larger_device_takes_it_and_a_smaller_one_does_not() {
    let lz4 = Registry::builtin().find("lz4").unwrap().clone();
    let file = snapshot(&contents(), &[Codec::new(&lz4, false).unwrap()]);
    let mut opened = Snapshot::open(file).unwrap();
    let registry = Registry::builtin();
    let mut larger = Device::builder(PAGES * 4096 * 2).build().unwrap();
    opened.restore_to(&mut larger, &registry).unwrap();
    check(&larger, &contents(), "larger");
    let mut smaller = Device::builder(PAGES * 4096 / 2).build().unwrap();
    let refused = opened.restore_to(&mut smaller, &registry).unwrap_err();
    assert!(
        refused.to_string().contains("outside the device"),
        "{refused}"
    );
    let mut tight = Device::builder(PAGES * 4096)
        .mem_limit_bytes(64 << 10)
        .build()
        .unwrap();
    let refused = opened.restore_to(&mut tight, &registry).unwrap_err();
    assert!(matches!(&refused, Error::Target { .. }), "{refused}");
}

#[test]
fn an_algorithm_that_is_not_there_is_named() {
    let describe = |algorithm, driver| CodecSource {
        number: 0,
        algorithm,
        driver,
        params: "",
        dictionary: None,
    };
    let open = |codec: &[CodecSource<'_>]| {
        let disk = DiskSource {
            pages: 1,
            taken_at_seconds: 0,
            is_basis: false,
            codecs: codec,
            notes: b"",
        };
        let writer = SnapshotWriter::new(Vec::new(), &disk).unwrap();
        Snapshot::open(writer.finish().unwrap().0).unwrap()
    };
    let registry = Registry::builtin();
    let refused = open(&[describe("quantum", "q1")])
        .choices(&registry)
        .unwrap_err();
    assert!(matches!(&refused, Error::Algorithm { algorithm, .. } if algorithm == "quantum"));
    assert!(refused.to_string().contains("quantum"), "{refused}");
    // Another driver of the algorithm will do; a driver of another algorithm will not.
    assert!(
        open(&[describe("lz4", "nosuch")])
            .choices(&registry)
            .is_ok()
    );
    let choices = open(&[describe("lz4", "zstd")]).choices(&registry).unwrap();
    assert!(
        !format!("{:?}", choices[0].1).contains("zstd"),
        "{choices:?}"
    );
}
