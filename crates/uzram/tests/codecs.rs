//! Several codecs in one device: set while it is in use, trained, remembered by the image, given up with their last
//! object; and images as a process leaves them that dies in the middle of a change.

mod common;

use std::fs::File;
use std::os::fd::OwnedFd;
use std::os::unix::fs::FileExt;

use common::{memfd, reopen};
use uzram::{Choice, CodecStats, Device, Error, HeaderError, Training};
use uzram_testkit::data::{noise_before, record_page as page};

const SIZE: u64 = 64 << 20;
/// Where the priorities stand: the third word of the second page.
const ROLES_AT: u64 = 4096 + 16;
/// Records of 256 bytes in the third page; a dictionary's area of 1 MiB for each behind the table, which is short here.
const RECORDS_AT: u64 = 8192;
const AREA: u64 = 1 << 20;

fn fill(device: &Device, pages: std::ops::Range<u64>) {
    for number in pages {
        device.write_at(&page(number), number * 4096).unwrap();
    }
}

fn check(device: &Device, pages: std::ops::Range<u64>) {
    let mut back = [0; 4096];
    for number in pages {
        device.read_at(&mut back, number * 4096).unwrap();
        assert!(back == page(number), "page {number}");
    }
}

fn dictionary() -> Vec<u8> {
    (5000..5004).flat_map(page).collect()
}

fn zstd_with_dictionary() -> Choice {
    Choice::new("zstd")
        .param("level", "1")
        .dictionary(dictionary())
}

/// (driver, parameters, dictionary's length, objects, priorities) of each codec.
fn summary(codecs: &[CodecStats]) -> Vec<(&str, &str, u64, u64, Vec<usize>)> {
    codecs
        .iter()
        .map(|c| {
            (
                c.driver.as_str(),
                c.params.as_str(),
                c.dictionary_bytes,
                c.objects,
                c.priorities.clone(),
            )
        })
        .collect()
}

#[test]
fn a_codec_stays_until_its_last_object_is_gone() {
    let device = Device::builder(SIZE).build().unwrap();
    fill(&device, 0..100);
    let before = device.stats();
    device.set_algorithm(&zstd_with_dictionary()).unwrap();
    assert_eq!(device.algorithm(), "zstd");
    fill(&device, 50..150);
    let len = dictionary().len() as u64;
    assert_eq!(
        summary(&device.codecs()),
        [
            ("lz4-liblz4", "", 0, 50, vec![]),
            ("zstd-uzram", "level=1", len, 100, vec![0])
        ]
    );
    check(&device, 0..150);
    let with = device.stats();
    assert_eq!(with.dictionary_bytes, len);
    assert!(with.metadata_bytes >= before.metadata_bytes + 2 * len);
    // Part of a page whose object is of another codec.
    device.write_at(b"patched", 4096 * 10 + 5).unwrap();
    let mut back = [0; 4096];
    device.read_at(&mut back, 4096 * 10).unwrap();
    assert!(
        back[5..12] == *b"patched" && back[..5] == page(10)[..5] && back[12..] == page(10)[12..]
    );
    fill(&device, 0..50);
    assert_eq!(device.codecs().len(), 1, "lz4 has no object left");
    // And back: the dictionary goes with its last object.
    device.set_algorithm(&Choice::new("lz4")).unwrap();
    assert_eq!(device.stats().dictionary_bytes, len);
    fill(&device, 0..149);
    assert_eq!(device.codecs().len(), 2);
    device.discard(149 * 4096, 4096).unwrap();
    assert_eq!(
        summary(&device.codecs()),
        [("lz4-liblz4", "", 0, 149, vec![0])]
    );
    let after = device.stats();
    assert_eq!(after.dictionary_bytes, 0);
    assert!(after.metadata_bytes < with.metadata_bytes - 2 * len);
    check(&device, 0..149);
}

#[test]
fn secondaries_are_held_and_shown() {
    let device = Device::builder(SIZE)
        .algorithm("lz4")
        .secondary(1, Choice::new("zstd").param("level", "9"))
        .secondary(3, Choice::new("lz4"))
        .build()
        .unwrap();
    assert_eq!(
        summary(&device.codecs()),
        [
            ("lz4-liblz4", "", 0, 0, vec![0, 3]),
            ("zstd-uzram", "level=9", 0, 0, vec![1])
        ]
    );
    device.set_secondary(3, None).unwrap();
    device
        .set_secondary(2, Some(&zstd_with_dictionary()))
        .unwrap();
    device.set_secondary(1, None).unwrap();
    let roles: Vec<_> = device
        .codecs()
        .iter()
        .map(|c| c.priorities.clone())
        .collect();
    assert_eq!(roles, [[0], [2]]);
    for priority in [0, 4] {
        let choice = Choice::new("lz4");
        let error = device.set_secondary(priority, Some(&choice)).unwrap_err();
        assert!(error.to_string().contains("1 to 3"), "{error}");
        let error = Device::builder(SIZE)
            .secondary(priority, choice)
            .build()
            .unwrap_err();
        assert_eq!(error.errno(), 22);
    }
}

#[test]
fn what_cannot_be_is_refused_and_changes_nothing() {
    let device = Device::builder(SIZE).build().unwrap();
    fill(&device, 0..10);
    for (choice, says) in [
        (Choice::new("zst"), "known: lzo-rle"),
        (Choice::new("zstd").param("level", "99"), "-131072 to 22"),
        (
            Choice::new("deflate").dictionary(dictionary()),
            "it takes none",
        ),
        (
            Choice::new("lz4").dictionary(vec![1; 65537]),
            "256 to 65536 bytes",
        ),
        (
            Choice::new("zstd").dictionary(vec![1; 9]),
            "256 to 1048576 bytes",
        ),
    ] {
        let error = device.set_algorithm(&choice).unwrap_err();
        assert!(error.to_string().contains(says), "{error}");
        assert_eq!(error.errno(), 22);
    }
    // It says that it is zstd's format, and is not.
    let mut damaged = vec![0x37, 0xA4, 0x30, 0xEC];
    damaged.resize(1000, 0xFF);
    let error = device
        .set_algorithm(&Choice::new("zstd").dictionary(damaged))
        .unwrap_err();
    assert!(error.to_string().contains("damaged"), "{error}");
    assert_eq!(
        summary(&device.codecs()),
        [("lz4-liblz4", "", 0, 10, vec![0])]
    );
}

#[test]
fn sixteen_codecs_with_objects_are_enough() {
    let device = Device::builder(SIZE).build().unwrap();
    let level = |n: u64| Choice::new("zstd").param("level", n.to_string());
    for n in 0..16 {
        device.set_algorithm(&level(n + 1)).unwrap();
        fill(&device, n..n + 1);
    }
    assert_eq!(device.codecs().len(), 16);
    let error = device.set_algorithm(&level(17)).unwrap_err();
    assert!(matches!(error, Error::CodecsFull), "{error}");
    assert_eq!(error.errno(), 16);
    // One that is there needs no place.
    device.set_algorithm(&level(3)).unwrap();
    check(&device, 0..16);
    fill(&device, 0..1);
    device.set_algorithm(&level(17)).unwrap();
    fill(&device, 20..21);
    check(&device, 0..16);
    check(&device, 20..21);
}

#[test]
fn training_helps_with_pages_that_have_much_in_common_and_leaves_no_trace() {
    for algorithm in ["zstd(level=1)", "lz4"] {
        let choice: Choice = algorithm.parse().unwrap();
        let device = Device::builder(SIZE).choose(choice).build().unwrap();
        fill(&device, 0..1200);
        device.write_at(&[7; 4096 * 50], 2000 * 4096).unwrap();
        let before = device.stats();
        // Speed depends on the machine's mood.
        let smaller = |size: f64, _| match size < 0.95 {
            true => Ok("smaller".into()),
            false => Err("not smaller".into()),
        };
        let training = Training {
            rule: smaller,
            ..Training::default()
        };
        let tried = device
            .jobs()
            .train(&Training {
                dry_run: true,
                ..training.clone()
            })
            .unwrap();
        assert!(!tried.adopted, "{tried:?}");
        assert_eq!(tried.reason, "smaller; only tried");
        assert!(tried.speed_ratio > 0.0);
        assert_eq!(device.stats(), before);
        let report = device.jobs().train(&training).unwrap();
        assert_eq!((report.pages_sampled, report.pages_judged), (1200, 600));
        assert!(report.adopted, "{report:?}");
        assert!(
            report.ratio_after > report.ratio_before * 1.05,
            "{report:?}"
        );
        assert!(report.dictionary_bytes <= 16 << 10);
        assert!(report.memory_cost_bytes > 2 * report.dictionary_bytes as u64);
        check(&device, 0..1200);
        fill(&device, 0..1200);
        check(&device, 0..1200);
        let after = device.stats();
        assert!(after.compr_data_size_bytes * 20 < before.compr_data_size_bytes * 19);
        assert_eq!((after.failed_reads, after.failed_writes), (0, 0));
        // Once more: what it has is as good.
        let again = device.jobs().train(&training).unwrap();
        assert!(!again.adopted);
        assert!(again.ratio_after < again.ratio_before * 1.05, "{again:?}");
    }
}

#[test]
fn training_refuses_what_cannot_be_learned() {
    let device = Device::builder(SIZE).algorithm("deflate").build().unwrap();
    let error = device.jobs().train(&Training::default()).unwrap_err();
    assert!(
        error.to_string().contains("these take one: lz4-liblz4"),
        "{error}"
    );
    device.set_algorithm(&Choice::new("zstd")).unwrap();
    let error = device.jobs().train(&Training::default()).unwrap_err();
    assert!(error.to_string().contains("0 samples"), "{error}");
    fill(&device, 0..200);
    let training = Training {
        dictionary_bytes: 2 << 20,
        ..Training::default()
    };
    let error = device.jobs().train(&training).unwrap_err();
    assert!(
        error.to_string().contains("256 to 1048576 bytes"),
        "{error}"
    );
    // Noise: nothing in common, or a dictionary that does not pay.
    for number in 0..400 {
        let bytes = noise_before(number, 3000, 0);
        device.write_at(&bytes, number * 4096).unwrap();
    }
    match device.jobs().train(&Training::default()) {
        Ok(report) => assert!(!report.adopted, "{report:?}"),
        Err(error) => assert_eq!(error.errno(), 22),
    }
    assert_eq!(device.codecs().len(), 1);
}

/// An image of a device with lz4 objects, then zstd with a dictionary as codec 1, and lz4 with parameters secondary.
fn image() -> OwnedFd {
    let file = memfd();
    let builder = Device::builder(SIZE).algorithm("lz4");
    let device = builder.build_in(reopen(&file)).unwrap();
    fill(&device, 0..100);
    device.set_algorithm(&zstd_with_dictionary()).unwrap();
    fill(&device, 60..160);
    let secondary = Choice::new("lz4").param("level", "9");
    device.set_secondary(2, Some(&secondary)).unwrap();
    file
}

fn has_memory(file: &File, index: u64) -> bool {
    let at = AREA + index * AREA;
    rustix::fs::seek(file, rustix::fs::SeekFrom::Data(at)).is_ok_and(|data| data < at + AREA)
}

#[test]
fn codecs_come_back_with_parameters_and_dictionaries() {
    let file = image();
    let name = uzram::check_image(&file, &uzram::compress::Registry::builtin()).unwrap();
    assert_eq!(name, "zstd");
    for _ in 0..2 {
        // What the builder says of algorithms does not matter: the image knows.
        let builder = Device::builder(0)
            .algorithm("null")
            .algorithm_param("level", "x");
        let device = builder.attach(reopen(&file)).unwrap();
        assert_eq!(
            summary(&device.codecs()),
            [
                ("lz4-liblz4", "", 0, 60, vec![]),
                (
                    "zstd-uzram",
                    "level=1",
                    dictionary().len() as u64,
                    100,
                    vec![0]
                ),
                ("lz4-liblz4", "level=9", 0, 0, vec![2])
            ]
        );
        check(&device, 0..160);
        fill(&device, 159..160);
    }
    let device = Device::builder(0).attach(reopen(&file)).unwrap();
    fill(&device, 0..60);
    drop(device);
    let device = Device::builder(0).attach(reopen(&file)).unwrap();
    assert_eq!(device.codecs().len(), 2);
    check(&device, 0..160);
}

/// Each moment at which an adoption, or a retirement, may be cut off.
#[test]
fn every_state_of_a_change_that_was_cut_off_is_whole() {
    let raw = |file: &OwnedFd| File::from(reopen(file));
    // The dictionary is written, or the record but for its state: nothing happened yet.
    for steps in 1..=2 {
        let file = image();
        let memory = raw(&file);
        memory.write_all_at(&[0xD1; 5000], AREA + 5 * AREA).unwrap();
        if steps == 2 {
            memory
                .write_all_at(&[0xD2; 248], RECORDS_AT + 5 * 256 + 8)
                .unwrap();
        }
        assert!(has_memory(&memory, 5));
        let device = Device::builder(0).attach(reopen(&file)).unwrap();
        assert_eq!(device.codecs().len(), 3);
        assert!(!has_memory(&memory, 5), "rubbish is given back");
        check(&device, 0..160);
        device.set_algorithm(&Choice::new("deflate")).unwrap();
        fill(&device, 0..160);
        check(&device, 0..160);
    }
    // The record is in use, and objects may be, but it has no priority yet: lz4 is still the primary.
    let file = image();
    raw(&file)
        .write_all_at(&1u64.to_ne_bytes(), ROLES_AT)
        .unwrap();
    let device = Device::builder(0).attach(reopen(&file)).unwrap();
    assert_eq!(device.algorithm(), "lz4");
    let len = dictionary().len() as u64;
    assert_eq!(
        summary(&device.codecs()),
        [
            ("lz4-liblz4", "", 0, 60, vec![0]),
            ("zstd-uzram", "level=1", len, 100, vec![])
        ]
    );
    check(&device, 0..160);
    // The same without objects: it goes, dictionary and all.
    fill(&device, 60..160);
    drop(device);
    let file = image();
    let device = Device::builder(0).attach(reopen(&file)).unwrap();
    device.discard(60 * 4096, 100 * 4096).unwrap();
    drop(device);
    raw(&file)
        .write_all_at(&1u64.to_ne_bytes(), ROLES_AT)
        .unwrap();
    assert!(has_memory(&raw(&file), 1));
    let device = Device::builder(0).attach(reopen(&file)).unwrap();
    assert_eq!(
        summary(&device.codecs()),
        [("lz4-liblz4", "", 0, 60, vec![0])]
    );
    assert!(!has_memory(&raw(&file), 1));
    drop(device);
    // A retirement that got as far as the state word: the area is still there.
    raw(&file).write_all_at(&[0xD3; 4096], AREA + AREA).unwrap();
    let device = Device::builder(0).attach(reopen(&file)).unwrap();
    assert!(!has_memory(&raw(&file), 1));
    check(&device, 0..60);
}

#[test]
fn damaged_codecs_are_refused_in_words() {
    let attach = |at: u64, bytes: &[u8]| {
        let file = image();
        File::from(reopen(&file)).write_all_at(bytes, at).unwrap();
        let checked = uzram::check_image(&file, &uzram::compress::Registry::builtin());
        let error = Device::builder(0).attach(reopen(&file)).unwrap_err();
        (error, checked.err())
    };
    let record = RECORDS_AT + 256;
    for (at, bytes, says) in [
        (record, &[2u8][..], "neither 0 nor 1"),
        (record + 32, b"lz5", "record is damaged"),
        (record + 96, b"level=2", "record is damaged"),
        (record + 8, &[1], "record is damaged"),
        (AREA + AREA + 3, &[0xFF], "dictionary is damaged"),
        (AREA + AREA + 16_000, &[0xFF], "dictionary is damaged"),
    ] {
        let (error, checked) = attach(at, bytes);
        assert!(
            matches!(&error, Error::Image(HeaderError::Codec { index: 1, .. })),
            "{error}"
        );
        assert!(error.to_string().contains(says), "{error}");
        assert_eq!(checked, Some(error));
    }
    // Priorities: none, one that no version wrote, one whose codec is not there.
    for roles in [0u64, 17, 6, 2 | 6 << 8] {
        let (error, _) = attach(ROLES_AT, &roles.to_ne_bytes());
        assert!(matches!(error, Error::Image(_)), "{roles:#x}: {error}");
    }
    // The codec of objects is gone.
    let (error, _) = attach(RECORDS_AT, &[0]);
    assert!(
        matches!(error, Error::Damaged { .. }) && error.to_string().contains("no codec 0"),
        "{error}"
    );
}

/// A build without an algorithm serves an image that has no use for it any more, and no other.
#[test]
fn an_algorithm_that_is_missing_matters_where_it_is_needed() {
    let file = image();
    let mut registry = uzram::compress::Registry::empty();
    let builtin = uzram::compress::Registry::builtin();
    registry
        .register(builtin.find("zstd").unwrap().clone())
        .unwrap();
    let attach = || {
        Device::builder(0)
            .registry(registry.clone())
            .attach(reopen(&file))
    };
    let error = attach().unwrap_err();
    assert!(matches!(&error, Error::Compress(_)), "{error}");
    let device = Device::builder(0).attach(reopen(&file)).unwrap();
    device.set_secondary(2, None).unwrap();
    drop(device);
    let error = attach().unwrap_err();
    assert!(error.to_string().contains("lz4"), "objects of lz4: {error}");
    let device = Device::builder(0).attach(reopen(&file)).unwrap();
    fill(&device, 0..60);
    drop(device);
    check(&attach().unwrap(), 0..160);
    // lz4_flex reads what liblz4 wrote.
    let file = memfd();
    let builder = Device::builder(SIZE).algorithm("lz4-liblz4");
    fill(&builder.build_in(reopen(&file)).unwrap(), 0..10);
    let mut registry = uzram::compress::Registry::empty();
    registry
        .register(builtin.find("lz4-flex").unwrap().clone())
        .unwrap();
    let device = Device::builder(0).registry(registry).attach(file).unwrap();
    assert_eq!(device.driver(), "lz4-flex");
    check(&device, 0..10);
}
