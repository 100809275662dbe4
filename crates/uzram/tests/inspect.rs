//! What is said of a device's pages is what recompression makes of them.

use std::ops::ControlFlow;
use std::time::Duration;

use uzram::{Choice, Device, Error, Inspect, InspectReport, PAGE_SIZE, Pace, Recompress};
use uzram_testkit::data;

const PAGES: u64 = 600;

fn on() -> impl FnMut(u64) -> ControlFlow<()> {
    |_| ControlFlow::Continue(())
}

/// Records, noise, and pages of one word.
fn device() -> Device {
    let device = Device::builder(64 << 20).algorithm("lz4");
    let device = device.build().unwrap();
    for page in 0..PAGES {
        let bytes = match page % 10 {
            0 => data::same_filled(9),
            1 => data::noise(page),
            _ => data::record_page(page),
        };
        device.write_at(&bytes, page * PAGE_SIZE as u64).unwrap();
    }
    device
}

fn inspect(device: &Device, what: &Inspect) -> InspectReport {
    device.jobs().inspect(what, &mut on()).unwrap()
}

/// Sum over the groups.
fn memory(report: &InspectReport) -> u64 {
    report.groups.iter().map(|group| group.object_bytes).sum()
}

#[test]
fn a_whole_sample_says_what_recompression_saves() {
    let device = device();
    let zstd: Choice = "zstd(level=5)".parse().unwrap();
    let what = Inspect {
        choices: vec![zstd.clone()],
        ..Inspect::default()
    };
    let before = inspect(&device, &what);
    assert_eq!(before.ages_seconds, None);
    assert_eq!(before.sampled_pages, PAGES * 9 / 10);
    assert_eq!(before.groups[0].pages, PAGES * 9 / 10);
    assert_eq!(before.codecs.len(), 1);
    assert_eq!(before.codecs[0].algorithm, "zstd(level=5)");
    assert_eq!(before.codecs[0].priority, 0);
    assert!(before.codecs[0].compress_ns > 0 && before.codecs[0].decompress_ns > 0);
    let (said, error) = before.groups[0].savings(0).unwrap();
    assert!(said > 0 && error == 0, "{before:?}");
    // Nothing has changed.
    assert_eq!(memory(&inspect(&device, &what)), memory(&before));

    device.set_secondary(1, Some(&zstd)).unwrap();
    let done = device.zram().recompress(&Recompress::default(), &mut on());
    let done = done.unwrap();
    let after = inspect(&device, &what);
    assert_eq!(memory(&before) - memory(&after), said);
    assert_eq!(before.groups[0].saved[0].pages, done.recompressed);
    assert_eq!(after.incompressible_pages, done.incompressible);
    // The secondary is tried once, although it is asked for as well, and saves nothing more.
    assert_eq!((after.codecs.len(), after.codecs[0].priority), (1, 1));
    assert_eq!(after.groups[0].savings(0), Some((0, 0)));
}

#[test]
fn pages_are_grouped_by_age_and_a_part_of_them_is_a_sample() {
    let device = device();
    device.zram().track_ages(true).unwrap();
    let what = Inspect {
        sample_pages: 64,
        choices: vec![Choice::new("zstd")],
        ..Inspect::default()
    };
    let report = inspect(&device, &what);
    assert!(report.ages_seconds.is_some_and(|seconds| seconds < 60));
    assert_eq!(report.sampled_pages, 64);
    assert_eq!(report.groups[0].pages, PAGES * 9 / 10);
    assert!(report.groups[1..].iter().all(|group| group.pages == 0));
    let (said, error) = report.groups[0].savings(0).unwrap();
    let exact = Inspect {
        sample_pages: 4096,
        ..what.clone()
    };
    let (exact, _) = inspect(&device, &exact).groups[0].savings(0).unwrap();
    // Twice the error as well: a test is run often.
    assert!(
        said.abs_diff(exact) <= 2 * error,
        "{said} +- {error}, {exact}"
    );
}

#[test]
fn shared_pages_are_left_out_as_recompression_leaves_them() {
    let device = Device::builder(16 << 20).dedup(true).build().unwrap();
    let records = data::record_page(3);
    for page in 0..100 {
        device.write_at(&records, page * PAGE_SIZE as u64).unwrap();
    }
    let report = inspect(&device, &Inspect::default());
    assert_eq!((report.shared_pages, report.sampled_pages), (100, 0));
}

#[test]
fn it_ends_when_it_is_told_to_and_refuses_what_cannot_be() {
    let device = device();
    let what = Inspect {
        choices: vec![Choice::new("zstd")],
        ..Inspect::default()
    };
    let mut left = 10;
    let pace: Pace<'_> = &mut |done| {
        left -= done;
        match left {
            0 => ControlFlow::Break(()),
            _ => ControlFlow::Continue(()),
        }
    };
    let report = device.jobs().inspect(&what, pace).unwrap();
    assert_eq!(report.sampled_pages, 10);
    let late = Inspect {
        patience: Duration::ZERO,
        ..what.clone()
    };
    assert_eq!(inspect(&device, &late).sampled_pages, 0);
    let none = Inspect {
        sample_pages: 0,
        ..what
    };
    assert_eq!(inspect(&device, &none).sampled_pages, 0);

    let refused = |choices: Vec<Choice>| {
        let what = Inspect {
            choices,
            ..Inspect::default()
        };
        device.jobs().inspect(&what, &mut on()).unwrap_err()
    };
    assert!(matches!(
        refused(vec![Choice::new("zip")]),
        Error::Compress(_)
    ));
    let many = vec![Choice::new("zstd"); 9];
    assert!(matches!(refused(many), Error::Invalid { .. }));
}
