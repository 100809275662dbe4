//! zram's interface over devices in this process: formats, errors, a device's life.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use proptest::prelude::*;
use uzram_control::zram::{
    ATTRIBUTES, Attribute, AttributeOwner, AttributePlace, Errno, Host, HostOptions, Saved, View,
    WritableWhen,
};
use uzram_testkit::data::noise;
use uzram_testkit::zram::InProcess;

fn hosts(strict: bool) -> (Host, InProcess) {
    let engine = InProcess::new();
    let host = Host::new(Box::new(engine.clone()), HostOptions { strict });
    (host, engine)
}

fn show(host: &Host, name: &str) -> String {
    let text = host.show(AttributeOwner::Device(0), name);
    String::from_utf8(text.unwrap_or_else(|error| panic!("{name}: {error}"))).unwrap()
}

fn store(host: &Host, name: &str, text: &str) -> Result<(), Errno> {
    write(host, AttributeOwner::Device(0), name, text)
}

/// As a writer of the kernel's interface sees it: the number alone.
fn write(host: &Host, owner: AttributeOwner, name: &str, text: &str) -> Result<(), Errno> {
    host.store(owner, name, text.as_bytes())
        .map_err(Errno::from)
}

/// A page that compresses to some hundred bytes, different for each number.
fn page(number: u32) -> Vec<u8> {
    (0..4096u32)
        .map(|at| (at / 16 * 7 + number * 13 + at % 3) as u8)
        .collect()
}

#[test]
fn an_uninitialised_device_reads_as_the_kernels() {
    let (host, _) = hosts(true);
    assert_eq!(
        host.show(AttributeOwner::Control, "hot_add").unwrap(),
        b"0\n"
    );
    for (name, text) in [
        ("disksize", "0\n"),
        ("initstate", "0\n"),
        (
            "comp_algorithm",
            "[lzo-rle] lzo lz4 lz4hc zstd deflate 842 \n",
        ),
        ("recomp_algorithm", ""),
        ("io_stat", "       0        0 0        0\n"),
        (
            "mm_stat",
            "       0        0        0        0        0        0        0        0        0\n",
        ),
        ("debug_stat", "version: 1\n0        0\n"),
        ("bd_stat", "       0        0        0\n"),
        ("backing_dev", "none\n"),
        ("writeback_limit", "0\n"),
        ("writeback_limit_enable", "0\n"),
        ("writeback_batch_size", "32\n"),
        ("compressed_writeback", "0\n"),
    ] {
        assert_eq!(show(&host, name), text, "{name}");
    }
}

#[test]
fn an_initialised_device_reads_as_the_kernels() {
    let (host, engine) = hosts(true);
    host.hot_add().unwrap();
    store(&host, "recomp_algorithm", "algo=zstd priority=2").unwrap();
    store(&host, "comp_algorithm", "lz4\n").unwrap();
    store(&host, "mem_limit", "1M").unwrap();
    store(&host, "disksize", "16M\n").unwrap();
    {
        let device = engine.open(0).unwrap();
        device.write_at(&[0; 8192], 0).unwrap();
        device.write_at(&noise(1), 16384).unwrap();
        device.discard(0, 4096).unwrap();
    }
    for (name, text) in [
        ("disksize", "16777216\n"),
        ("initstate", "1\n"),
        (
            "comp_algorithm",
            "lzo-rle lzo [lz4] lz4hc zstd deflate 842 \n",
        ),
        (
            "recomp_algorithm",
            "#2: lzo-rle lzo lz4 lz4hc [zstd] deflate 842 \n",
        ),
        ("io_stat", "       0        0 0        1\n"),
    ] {
        assert_eq!(show(&host, name), text, "{name}");
    }
    let mm_stat = show(&host, "mm_stat");
    let numbers: Vec<u64> = mm_stat
        .split_whitespace()
        .map(|word| word.parse().unwrap())
        .collect();
    let used = numbers[2];
    assert!(used >= 4096 && used.is_multiple_of(4096), "{mm_stat}");
    assert_eq!(
        numbers,
        [8192, 4096, used, 1 << 20, used, 1, 0, 1, 1],
        "{mm_stat}"
    );
    assert_eq!(mm_stat.len(), 9 * 8 + 8 + 1);
}

#[test]
fn a_devices_life() {
    let (host, engine) = hosts(true);
    assert_eq!(host.hot_add(), Ok(0));
    assert_eq!(host.hot_add(), Ok(1));
    assert_eq!(host.add_device(5), Ok(()));
    assert_eq!(host.add_device(5), Err(Errno::EXIST));
    store(&host, "disksize", "1M").unwrap();
    assert_eq!(store(&host, "disksize", "2M"), Err(Errno::BUSY));
    assert_eq!(store(&host, "disksize", "rubbish"), Err(Errno::INVAL));
    let opened = engine.open(0).unwrap();
    assert_eq!(store(&host, "reset", "1"), Err(Errno::BUSY));
    let remove = |text: &str| write(&host, AttributeOwner::Control, "hot_remove", text);
    assert_eq!(remove("0"), Err(Errno::BUSY));
    drop(opened);
    assert_eq!(store(&host, "reset", "1\n"), Ok(()));
    assert_eq!(show(&host, "disksize"), "0\n");
    assert!(engine.open(0).is_none());
    store(&host, "disksize", "4097").unwrap();
    assert_eq!(show(&host, "disksize"), "8192\n");
    assert_eq!(remove("0\n"), Ok(()));
    assert_eq!(remove("0"), Err(Errno::NODEV));
    assert_eq!(remove("-1"), Err(Errno::INVAL));
    assert_eq!(remove("x"), Err(Errno::INVAL));
    assert_eq!(remove("99999999999"), Err(Errno::RANGE));
    assert_eq!(
        host.show(AttributeOwner::Device(0), "disksize"),
        Err(Errno::NOENT),
        "it is gone"
    );
    assert_eq!(host.hot_add(), Ok(0));
    let ids: Vec<u32> = host.devices().unwrap().iter().map(|d| d.id).collect();
    assert_eq!(ids, [0, 1, 5]);
}

#[test]
fn a_reset_clears_what_the_kernels_clears() {
    let (host, _) = hosts(true);
    host.hot_add().unwrap();
    for (name, text) in [
        ("comp_algorithm", "zstd"),
        ("recomp_algorithm", "algo=lz4hc"),
        ("algorithm_params", "level=7"),
        ("mem_limit", "64M"),
        ("writeback_limit", "100"),
        ("writeback_limit_enable", "1"),
        ("writeback_batch_size", "7"),
        ("compressed_writeback", "yes"),
        ("disksize", "1M"),
    ] {
        store(&host, name, text).unwrap_or_else(|error| panic!("{name}: {error}"));
    }
    store(&host, "reset", "1").unwrap();
    let config = host.device(0).unwrap().config();
    assert_eq!(config.params, <[_; 4]>::default());
    for (name, text) in [
        (
            "comp_algorithm",
            "[lzo-rle] lzo lz4 lz4hc zstd deflate 842 \n",
        ),
        ("recomp_algorithm", ""),
        ("writeback_limit", "100\n"),
        ("writeback_limit_enable", "1\n"),
        ("writeback_batch_size", "7\n"),
        ("compressed_writeback", "1\n"),
    ] {
        assert_eq!(show(&host, name), text, "{name}");
    }
    assert!(show(&host, "mm_stat").split_whitespace().all(|n| n == "0"));
}

/// Errors before `disksize` is set and after it, by precedence.
#[test]
fn errors_are_the_kernels() {
    let (host, _) = hosts(true);
    host.hot_add().unwrap();
    let long = "x".repeat(128);
    let both = [
        ("comp_algorithm", "nonsense", Errno::INVAL),
        ("comp_algorithm", long.as_str(), Errno::TOOBIG),
        ("comp_algorithm", "null", Errno::INVAL),
        ("recomp_algorithm", "algo=nonsense", Errno::INVAL),
        ("recomp_algorithm", "zstd", Errno::INVAL),
        ("recomp_algorithm", "priority=1", Errno::INVAL),
        ("recomp_algorithm", "algo=zstd priority=0", Errno::INVAL),
        ("recomp_algorithm", "algo=zstd priority=4", Errno::INVAL),
        (
            "recomp_algorithm",
            "algo=zstd priority=99999999999",
            Errno::RANGE,
        ),
        ("algorithm_params", "level", Errno::INVAL),
        ("algorithm_params", "algo=zstd level=1", Errno::INVAL),
        ("algorithm_params", "priority=4", Errno::INVAL),
        ("algorithm_params", "level=2147483648", Errno::RANGE),
        ("mem_limit", "lots", Errno::INVAL),
        ("mem_used_max", "1", Errno::INVAL),
        ("idle", "99999999999999999999", Errno::INVAL),
        ("idle", "some", Errno::INVAL),
        ("reset", "0", Errno::INVAL),
        ("reset", "70000", Errno::RANGE),
        ("writeback_limit", "-1", Errno::INVAL),
        ("writeback_limit", "99999999999999999999", Errno::INVAL),
        ("writeback_batch_size", "0", Errno::INVAL),
        ("compressed_writeback", "perhaps", Errno::INVAL),
        ("recompress", "max_pages=99999999999999999999", Errno::RANGE),
        ("recompress", "threshold=4096", Errno::INVAL),
        ("recompress", "algo=zstd", Errno::INVAL),
        ("mm_stat", "1", Errno::ACCESS),
        ("nonsense", "1", Errno::NOENT),
        ("hot_add", "1", Errno::NOENT),
    ];
    let uninit = [
        ("disksize", "0", Errno::INVAL),
        ("disksize", "-1", Errno::INVAL),
        ("disksize", "18446744073709551615", Errno::NOMEM),
        ("disksize", "17T", Errno::NOMEM),
        ("compact", "1", Errno::INVAL),
        ("idle", "all", Errno::INVAL),
        ("recompress", "type=idle", Errno::INVAL),
        ("writeback", "idle", Errno::INVAL),
        ("backing_dev", "/nowhere/at/all", Errno::NOENT),
        ("backing_dev", "/etc/passwd", Errno::NOTBLK),
        ("backing_dev", "relative", Errno::NOENT),
        ("algorithm_params", "dict=/nowhere/at/all", Errno::INVAL),
    ];
    let init = [
        ("disksize", "1M", Errno::BUSY),
        ("comp_algorithm", "lzo", Errno::BUSY),
        ("recomp_algorithm", "algo=lzo", Errno::BUSY),
        ("algorithm_params", "level=1", Errno::BUSY),
        ("backing_dev", "/nowhere/at/all", Errno::BUSY),
        ("compressed_writeback", "1", Errno::BUSY),
        ("writeback", "idle", Errno::NODEV),
        ("writeback", "nonsense", Errno::NODEV),
        ("recompress", "type=idle", Errno::INVAL),
    ];
    let check = |cases: &[(&str, &str, Errno)], when: &str| {
        for (name, text, errno) in cases {
            assert_eq!(
                store(&host, name, text),
                Err(*errno),
                "{name} {text} {when}"
            );
        }
    };
    check(&both, "before disksize");
    check(&uninit, "before disksize");
    for name in ["reset", "mem_limit", "compact", "recompress", "idle"] {
        assert_eq!(
            host.show(AttributeOwner::Device(0), name),
            Err(Errno::ACCESS),
            "{name}"
        );
    }
    assert_eq!(
        write(&host, AttributeOwner::Control, "hot_add", "1"),
        Err(Errno::ACCESS)
    );
    assert_eq!(
        host.show(AttributeOwner::Control, "hot_remove"),
        Err(Errno::ACCESS)
    );
    assert_eq!(host.block_state(0, 0, 4096), Err(Errno::INVAL));
    assert_eq!(host.classes(0), Err(Errno::NOENT));
    // An empty write does nothing, where writing is allowed at all.
    assert_eq!(store(&host, "disksize", ""), Ok(()));
    store(&host, "disksize", "1M").unwrap();
    check(&both, "after disksize");
    check(&init, "after disksize");
}

#[test]
fn an_algorithm_that_cannot_be_set_up_loses_all() {
    let (host, _) = hosts(true);
    host.hot_add().unwrap();
    store(&host, "comp_algorithm", "deflate").unwrap();
    store(&host, "recomp_algorithm", "algo=zstd").unwrap();
    store(&host, "algorithm_params", "level=77").unwrap();
    assert_eq!(store(&host, "disksize", "1M"), Err(Errno::INVAL));
    assert!(show(&host, "comp_algorithm").starts_with("[lzo-rle] "));
    assert_eq!(show(&host, "recomp_algorithm"), "");
    assert_eq!(store(&host, "disksize", "1M"), Ok(()));
}

#[test]
fn pages_are_marked_recompressed_and_listed() {
    let (host, engine) = hosts(true);
    host.hot_add().unwrap();
    store(&host, "recomp_algorithm", "algo=zstd").unwrap();
    store(&host, "disksize", "4M").unwrap();
    let device = engine.open(0).unwrap();
    for number in 0..40 {
        device
            .write_at(&page(number), u64::from(number) * 4096)
            .unwrap();
    }
    device.write_at(&noise(7), 40 * 4096).unwrap();
    device.write_at(&[5; 4096], 41 * 4096).unwrap();
    store(&host, "idle", "all\n").unwrap();
    let lines = |from| {
        let (text, next) = host.block_state(0, from, 1 << 16).unwrap();
        (String::from_utf8(text).unwrap(), next)
    };
    let (text, next) = lines(0);
    assert_eq!((text.lines().count(), next), (42, 42));
    assert!(text.lines().next().unwrap().ends_with(" ...i.."), "{text}");
    assert!(
        text.contains(" ..hi..\n") && text.ends_with(" s.....\n"),
        "{text}"
    );
    let objects = |host: &Host| {
        show(host, "mm_stat")
            .split_whitespace()
            .nth(1)
            .map(str::to_owned)
    };
    let before = objects(&host);
    store(&host, "recompress", "type=idle priority=1").unwrap();
    assert_ne!(objects(&host), before);
    let (text, _) = lines(0);
    assert!(text.lines().next().unwrap().ends_with(" ....r."), "{text}");
    assert!(text.contains(" ..h..n\n"), "{text}");
    assert_eq!(lines(42), (String::new(), 42));
    let classes = String::from_utf8(host.classes(0).unwrap()).unwrap();
    let total: Vec<&str> = classes.lines().last().unwrap().split_whitespace().collect();
    assert_eq!((total[0], total[13]), ("Total", "41"), "{classes}");
    store(&host, "compact", "1").unwrap();
    store(&host, "mem_used_max", "0").unwrap();
}

/// Since Linux 7.1 one algorithm is used and no chain of them, it is the one of the priority that is named, and nothing is
/// corrected in silence.
#[test]
fn a_priority_is_addressed_directly() {
    let (host, engine) = hosts(true);
    host.hot_add().unwrap();
    store(&host, "comp_algorithm", "lz4").unwrap();
    // The denser one stands behind: a chain that begins at priority 1 would come to it.
    store(&host, "recomp_algorithm", "algo=lzo-rle priority=1").unwrap();
    store(&host, "recomp_algorithm", "algo=zstd priority=3").unwrap();
    for both in [
        "algo=zstd priority=1",
        "algo=lz4 priority=3",
        "algo=zstd priority=4",
    ] {
        let text = format!("{both} level=5");
        assert_eq!(
            store(&host, "algorithm_params", &text),
            Err(Errno::INVAL),
            "{text}"
        );
    }
    store(&host, "algorithm_params", "algo=zstd priority=3 level=5").unwrap();
    store(&host, "algorithm_params", "priority=0").unwrap();
    store(&host, "disksize", "4M").unwrap();
    let device = engine.open(0).unwrap();
    // Words at random, which only an entropy coder makes smaller than lz4 and lzo do.
    let letters =
        |number: u64| -> Vec<u8> { noise(number).iter().map(|b| b'a' + b % 16).collect() };
    for number in 0..20 {
        device.write_at(&letters(number), number * 4096).unwrap();
    }
    let objects = || -> u64 {
        let stat = show(&host, "mm_stat");
        stat.split_whitespace().nth(1).unwrap().parse().unwrap()
    };
    let before = objects();
    for bad in [
        "priority=0",
        "priority=4",
        "priority=2",
        "algo=lz4",
        "algo=zstd priority=1",
        "algo=lzo-rle priority=3",
        "algo=842",
    ] {
        assert_eq!(store(&host, "recompress", bad), Err(Errno::INVAL), "{bad}");
    }
    assert_eq!(objects(), before);
    // lzo-rle gains nothing, and nobody goes on to zstd.
    store(&host, "recompress", "").unwrap();
    store(&host, "recompress", "priority=1").unwrap();
    store(&host, "recompress", "algo=lzo-rle").unwrap();
    assert_eq!(objects(), before);
    store(&host, "recompress", "algo=zstd priority=3").unwrap();
    let after = objects();
    assert!(after < before * 3 / 4, "{before} and {after}");
}

/// Statistics and settings do not wait for a job.
#[test]
fn statistics_wait_for_nobody() {
    let (host, engine) = hosts(true);
    host.hot_add().unwrap();
    store(&host, "recomp_algorithm", "algo=zstd").unwrap();
    store(&host, "algorithm_params", "priority=1 level=22").unwrap();
    store(&host, "disksize", "64M").unwrap();
    let device = engine.open(0).unwrap();
    for number in 0..4000 {
        device
            .write_at(&page(number), u64::from(number) * 4096)
            .unwrap();
    }
    let running = AtomicBool::new(true);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            store(&host, "recompress", "type=all").unwrap();
            running.store(false, Ordering::SeqCst);
        });
        std::thread::sleep(Duration::from_millis(20));
        let mut looks = 0;
        while running.load(Ordering::SeqCst) {
            show(&host, "mm_stat");
            store(&host, "mem_limit", "0").unwrap();
            looks += 1;
        }
        assert!(looks > 3, "{looks}");
    });
}

#[test]
fn what_is_saved_comes_back() {
    let (host, engine) = hosts(true);
    for id in [0, 3] {
        host.add_device(id).unwrap();
    }
    store(&host, "comp_algorithm", "zstd").unwrap();
    store(&host, "writeback_limit", "9").unwrap();
    store(&host, "disksize", "1M").unwrap();
    host.store(AttributeOwner::Device(3), "mem_limit", b"8K")
        .unwrap();
    let saved = host.saved();
    let text = serde_json::to_string(&saved).unwrap();
    let saved: Saved = serde_json::from_str(&text).unwrap();
    let live = host.device(0).unwrap().live().unwrap();

    let again = Host::new(Box::new(engine.clone()), HostOptions::default());
    let left_out = again.restore(saved.clone(), |id| (id == 0).then(|| live.clone()));
    assert_eq!(left_out, Ok(vec![]));
    assert_eq!(show(&again, "disksize"), "1048576\n");
    assert!(show(&again, "comp_algorithm").contains("[zstd]"));
    assert_eq!(again.saved(), saved);

    // The server of zram0 died, and its contents are lost.
    let (after, _) = hosts(true);
    after.restore(saved, |_| None).unwrap();
    assert_eq!(show(&after, "disksize"), "0\n");
    assert!(show(&after, "comp_algorithm").contains("[lzo-rle]"));
    assert_eq!(show(&after, "writeback_limit"), "9\n");
    after.forget(0);
    assert_eq!(
        after.show(AttributeOwner::Device(0), "disksize"),
        Err(Errno::NOENT)
    );
}

/// What uzram can do beyond the kernel when it is not strict.
#[test]
fn not_strict_a_device_is_changed_while_it_is_in_use() {
    let (host, engine) = hosts(false);
    let directory = tempfile::tempdir().unwrap();
    host.hot_add().unwrap();
    store(&host, "disksize", "1M").unwrap();
    let device = engine.open(0).unwrap();
    device.write_at(&page(3), 4096).unwrap();
    store(&host, "disksize", "2M").unwrap();
    assert_eq!(show(&host, "disksize"), "2097152\n");
    store(&host, "mem_limit", "1M").unwrap();
    assert_eq!(show(&host, "mem_limit"), "1048576\n");
    store(&host, "comp_algorithm", "null").unwrap();
    assert!(show(&host, "comp_algorithm").ends_with("842 wk64 lzhs [null] \n"));
    store(&host, "comp_algorithm", "lzhs").unwrap();
    assert!(show(&host, "comp_algorithm").ends_with("842 wk64 [lzhs] null \n"));
    store(&host, "comp_algorithm", "zstd").unwrap();
    store(&host, "algorithm_params", "level=9").unwrap();
    store(&host, "recomp_algorithm", "algo=zstd priority=3").unwrap();
    assert!(show(&host, "recomp_algorithm").starts_with("#3: "));
    let path = directory.path().join("store");
    store(&host, "backing_dev", &format!("{},4M\n", path.display())).unwrap();
    assert_eq!(show(&host, "backing_dev"), format!("{}\n", path.display()));
    store(&host, "writeback_limit_enable", "1").unwrap();
    assert_eq!(store(&host, "writeback", "page_index=1"), Err(Errno::IO));
    store(&host, "writeback_limit", "5").unwrap();
    assert_eq!(store(&host, "writeback", "page_indexes=0-3"), Ok(()));
    assert_eq!(show(&host, "writeback_limit"), "4\n");
    assert_eq!(show(&host, "bd_stat"), "       1        0        1\n");
    store(&host, "backing_dev", "none").unwrap();
    assert_eq!(show(&host, "backing_dev"), "none\n");
    drop(device);
    store(&host, "reset", "1").unwrap();
    assert_eq!(show(&host, "writeback_limit"), "4\n");
}

#[test]
fn every_attribute_has_its_words() {
    for attribute in ATTRIBUTES {
        let Attribute {
            name, about, docs, ..
        } = attribute;
        assert!(
            about.len() > 10 && about.len() < 80 && !about.ends_with('.'),
            "{name}: {about}"
        );
        assert!(docs.len() > 60 && docs.ends_with('.'), "{name}: {docs}");
        assert!(!docs.contains("  "), "{name}: {docs}");
        assert!(!attribute.since.is_empty(), "{name}: `since` is empty");
        assert!(!attribute.allowed().is_empty(), "{name}: no values");
        assert_eq!(
            attribute.store.is_some(),
            attribute.mode & 0o200 != 0,
            "{name}"
        );
        assert!(
            attribute.show.is_some() || attribute.mode & 0o444 == 0,
            "{name}"
        );
        assert!(
            attribute.store.is_some() || attribute.when == WritableWhen::Always,
            "{name}"
        );
        let same = |other: &&Attribute| other.name == *name && other.place == attribute.place;
        assert_eq!(ATTRIBUTES.iter().filter(same).count(), 1, "{name}");
    }
    let disksize = Attribute::find(AttributePlace::Device, "disksize").unwrap();
    assert_eq!(disksize.permissions(), "rw-r--r--");
    assert_eq!(disksize.allowed(), "before disksize is set");
    let limit = Attribute::find(AttributePlace::Device, "mem_limit").unwrap();
    assert_eq!(
        (limit.permissions().as_str(), limit.mode_in(false)),
        ("-w-------", 0o600)
    );
}

#[test]
fn devices_are_used_by_many_at_once() {
    let (host, engine) = hosts(true);
    let host = Arc::new(host);
    std::thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| {
                for _ in 0..25 {
                    let id = host.hot_add().unwrap();
                    let device = AttributeOwner::Device(id);
                    write(&host, device, "disksize", "1M").unwrap();
                    assert_eq!(write(&host, device, "disksize", "1M"), Err(Errno::BUSY));
                    assert!(engine.open(id).is_some());
                    let _ = host.devices().unwrap();
                    host.hot_remove(id).unwrap();
                }
            });
        }
    });
    assert!(host.devices().unwrap().is_empty());
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    /// Whatever is written, an attribute accepts or refuses it, and all attributes can be read as before.
    #[test]
    fn prop_nothing_that_is_written_breaks_a_device(
        writes in proptest::collection::vec((0..ATTRIBUTES.len(), "[ -~\\n\\x00]{0,24}|(all|algo=zstd|level=3|[0-9]{1,7}[KM]?|type=idle)"), 1..40)
    ) {
        let (host, _) = hosts(true);
        host.hot_add().unwrap();
        for (number, text) in writes {
            let attribute = &ATTRIBUTES[number];
            let owner = match attribute.place {
                AttributePlace::Control => AttributeOwner::Control,
                AttributePlace::Device => AttributeOwner::Device(0),
            };
            let done = write(&host, owner, attribute.name, &text);
            if attribute.store.is_none() {
                prop_assert_eq!(done, Err(Errno::ACCESS));
            }
            if host.device(0).is_none() {
                host.add_device(0).unwrap();
            }
            for readable in ATTRIBUTES.iter().filter(|a| a.place == AttributePlace::Device && a.mode & 0o444 != 0) {
                prop_assert!(host.show(AttributeOwner::Device(0), readable.name).is_ok(), "{}", readable.name);
            }
        }
    }
}
