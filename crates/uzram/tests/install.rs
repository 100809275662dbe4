//! A device that is filled with stored pages reads as the one that they came from, goes on as one that was written, and
//! refuses what cannot be.

mod common;

use common::{memfd, object, reopen};
use uzram::{Choice, Device, Error, StoredPage};
use uzram_testkit::data;

fn read(device: &Device, page: u64) -> [u8; 4096] {
    let mut bytes = [0; 4096];
    device.read_at(&mut bytes, page * 4096).unwrap();
    bytes
}

/// A word that fits in no slot.
const LONG_WORD: u64 = 0x1234_5678_9ABC_DEF0;

fn fill(device: &mut Device) {
    let mut install = device.install();
    let lz4 = install.codec(&Choice::new("lz4")).unwrap();
    let zstd = install
        .codec(&Choice::new("zstd").param("level", "9"))
        .unwrap();
    assert_ne!(lz4, zstd);
    assert_eq!(install.codec(&Choice::new("lz4")).unwrap(), lz4);
    for page in 0..8 {
        let contents = data::record_page(page);
        let (codec, bytes) = match page % 2 {
            0 => (lz4, object("lz4", &contents)),
            _ => (zstd, object("zstd", &contents)),
        };
        let bytes = &bytes[..];
        install
            .page(page, StoredPage::Object { codec, bytes })
            .unwrap();
    }
    install.page(8, StoredPage::Raw(&data::noise(8))).unwrap();
    install.page(9, StoredPage::Same(7)).unwrap();
    install.page(10, StoredPage::Same(LONG_WORD)).unwrap();
    install.page(11, StoredPage::Same(0)).unwrap();
    install.page(12, StoredPage::Empty).unwrap();
    // The last one counts.
    install.page(13, StoredPage::Raw(&data::noise(8))).unwrap();
    install.page(13, StoredPage::Empty).unwrap();
}

fn check(device: &Device) {
    for page in 0..8 {
        assert!(read(device, page) == data::record_page(page), "page {page}");
    }
    assert!(read(device, 8) == data::noise(8));
    assert!(read(device, 9) == data::same_filled(7));
    assert!(read(device, 10) == data::same_filled(LONG_WORD));
    for page in [11, 12, 13, 14, 255] {
        assert!(read(device, page) == [0; 4096], "page {page}");
    }
    let stats = device.stats();
    assert_eq!((stats.same_pages, stats.huge_pages), (3, 1));
}

#[test]
fn installed_pages_are_read_written_and_attached_to() {
    let image = memfd();
    let builder = || Device::builder(1 << 20).algorithm("lz4");
    let mut device = builder().build_in(reopen(&image)).unwrap();
    fill(&mut device);
    check(&device);
    let objects = |device: &Device| -> Vec<(String, u64)> {
        let codecs = device.codecs().into_iter();
        codecs
            .map(|codec| (codec.to_string(), codec.objects))
            .collect()
    };
    assert_eq!(
        objects(&device),
        [("lz4".into(), 4), ("zstd(level=9)".into(), 4)]
    );
    drop(device);
    let device = builder().attach(reopen(&image)).unwrap();
    check(&device);
    // The codec that only objects need goes with the last of them.
    for page in 0..8 {
        device
            .write_at(&data::record_page(100 + page), page * 4096)
            .unwrap();
    }
    assert_eq!(objects(&device), [("lz4".into(), 8)]);
    assert!(read(&device, 3) == data::record_page(103));
}

#[test]
fn equal_pages_share_where_that_is_on() {
    let mut device = Device::builder(1 << 20).dedup(true).build().unwrap();
    let mut install = device.install();
    let codec = install.codec(&Choice::new("lz4")).unwrap();
    let bytes = object("lz4", &data::record_page(1));
    for page in 0..50 {
        let bytes = &bytes[..];
        install
            .page(page, StoredPage::Object { codec, bytes })
            .unwrap();
    }
    drop(install);
    assert!(device.stats().mem_used_total_bytes < 16 << 10);
    assert!(read(&device, 49) == data::record_page(1));
}

#[test]
fn what_cannot_be_installed_is_refused_and_changes_nothing() {
    let mut device = Device::builder(1 << 20)
        .mem_limit_bytes(64 << 10)
        .build()
        .unwrap();
    let mut install = device.install();
    let codec = install.codec(&Choice::new("lz4")).unwrap();
    let other = (codec + 1) % 16;
    let object = |codec, bytes| StoredPage::Object { codec, bytes };
    for wrong in [
        StoredPage::Raw(&[1; 4095]),
        object(codec, &[]),
        object(codec, &[1; 4096]),
        object(other, &[1; 9]),
        object(200, &[1; 9]),
    ] {
        let refused = install.page(3, wrong);
        assert!(matches!(refused, Err(Error::Invalid { .. })), "{refused:?}");
    }
    let beyond = install.page(256, StoredPage::Same(1));
    assert!(matches!(beyond, Err(Error::OutOfRange { .. })));
    let beyond = install.page(u64::MAX, StoredPage::Same(1));
    assert!(matches!(beyond, Err(Error::OutOfRange { .. })));
    assert!(install.codec(&Choice::new("nosuch")).is_err());
    let full = (0..256).find_map(|page| {
        let noise = data::noise(page);
        install
            .page(page, StoredPage::Raw(&noise))
            .err()
            .map(|error| (page, error))
    });
    let (page, full) = full.expect("the limit is reached");
    assert!(matches!(full, Error::NoSpace { .. }), "{full}");
    drop(install);
    assert!(read(&device, page - 1) == data::noise(page - 1));
    assert!(read(&device, page) == [0; 4096]);
}

/// What a codec did not make is found when it is read, and is nobody else's.
#[test]
fn an_object_that_is_none_is_an_error_of_its_page_alone() {
    let mut device = Device::builder(1 << 20).build().unwrap();
    let mut install = device.install();
    let codec = install.codec(&Choice::new("zstd")).unwrap();
    let bytes = &[0xA5; 100][..];
    install
        .page(1, StoredPage::Object { codec, bytes })
        .unwrap();
    install.page(2, StoredPage::Same(9)).unwrap();
    drop(install);
    let mut page = [0; 4096];
    let corrupt = device.read_at(&mut page, 4096);
    assert!(
        matches!(corrupt, Err(Error::Corrupt { page: 1, .. })),
        "{corrupt:?}"
    );
    assert!(read(&device, 2) == data::same_filled(9));
}
