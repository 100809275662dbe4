//! The agent: it does what the policies say and the plan foretold, within its budget, and contents stay as they are.

mod common;

use std::sync::Arc;
use std::sync::mpsc::channel;
use std::time::{Duration, Instant};

use common::{memfd, reopen};
use uzram::{Agent, Builder, Choice, Device, Error, Plan, PlanStep, PolicySettings};
use uzram_testkit::Random;

const SIZE: u64 = 64 << 20;
/// More than anything here takes on a machine that is busy with something else.
const DEADLINE: Duration = Duration::from_secs(60);

/// Records of words and numbers, which zstd makes smaller than lz4 does.
fn page(number: u64, seed: u64) -> [u8; 4096] {
    let mut random = Random::new(number << 20 ^ seed);
    let mut page = [0u8; 4096];
    for word in page.as_chunks_mut::<16>().0 {
        let kind = random.pick(&[b"inventory  #", b"customers  #", b"warehouse  #"]);
        word[..12].copy_from_slice(*kind);
        word[12..].copy_from_slice(format!("{:04}", random.below(10_000)).as_bytes());
    }
    page
}

fn fill(device: &Device, pages: std::ops::Range<u64>) {
    for number in pages {
        device.write_at(&page(number, 0), number * 4096).unwrap();
    }
}

fn check(device: &Device, pages: std::ops::Range<u64>) {
    let mut back = [0; 4096];
    for number in pages {
        device.read_at(&mut back, number * 4096).unwrap();
        assert!(back == page(number, 0), "page {number}");
    }
}

/// Attaches a backing, whose directory is removed with what is returned.
fn back(device: &Device, bytes: u64) -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("store");
    device.zram().attach_backing(&path, Some(bytes)).unwrap();
    dir
}

fn with_zstd() -> Builder {
    Device::builder(SIZE).secondary(1, Choice::new("zstd"))
}

fn policy(text: &str) -> PolicySettings {
    text.parse().unwrap()
}

fn wait_for(device: &Device, what: &str, mut happened: impl FnMut() -> bool) {
    let begin = Instant::now();
    while !happened() {
        assert!(
            begin.elapsed() < DEADLINE,
            "{what}: {:?}",
            device.jobs().agent_stats()
        );
        std::thread::sleep(Duration::from_millis(5));
    }
}

fn step<'a>(plan: &'a Plan, policy: &str) -> &'a PlanStep {
    plan.steps
        .iter()
        .find(|step| step.policy == policy)
        .unwrap()
}

#[test]
fn pages_that_nobody_uses_are_recompressed_and_written_back() {
    let device = Arc::new(with_zstd().build().unwrap());
    let _store = back(&device, 16 << 20);
    fill(&device, 0..1000);
    let (said, heard) = channel();
    let agent =
        Agent::start_with(device.clone(), move |text| drop(said.send(text.to_owned()))).unwrap();
    let second = Agent::start(device.clone()).map(drop);
    assert!(matches!(second, Err(Error::HasAgent)), "{second:?}");
    std::thread::sleep(Duration::from_millis(50));
    assert_eq!(
        device.jobs().agent_stats().runs,
        0,
        "nothing is done by default"
    );

    // Long ages first: used pages are left alone.
    device
        .jobs()
        .set_policy(policy("recompress=1,writeback=9999,cpu=100"))
        .unwrap();
    wait_for(&device, "recompression", || {
        device.jobs().agent_stats().pages_recompressed == 1000
    });
    assert!(device.zram().tracks_ages());
    let stats = device.stats();
    assert_eq!((stats.recompressed_pages, stats.backed_pages), (1000, 0));
    assert!(device.jobs().agent_stats().bytes_saved > 0);
    assert!(
        device
            .jobs()
            .agent_stats()
            .last
            .contains("not used for 1 s")
    );
    device
        .jobs()
        .set_policy(policy("writeback=1,cpu=100,io=1G"))
        .unwrap();
    // The agent counts at the end of a slice.
    wait_for(&device, "writeback", || {
        device.jobs().agent_stats().pages_written_back == 1000
    });
    assert_eq!(device.stats().backed_pages, 1000);
    let done = device.jobs().agent_stats();
    assert!(
        done.running && done.runs > 0 && done.cpu_seconds > 0.0 && done.reliefs == 0,
        "{done:?}"
    );
    check(&device, 0..1000);
    device.jobs().set_policy(PolicySettings::default()).unwrap();
    wait_for(&device, "no ages without a policy", || {
        !device.zram().tracks_ages()
    });
    agent.stop();
    assert!(!device.jobs().agent_stats().running);
    assert_eq!(
        heard.try_iter().collect::<Vec<_>>(),
        [""; 0],
        "nothing is worth a line"
    );
}

/// Small objects stay as they are, as they save little, until memory is short.
#[test]
fn only_large_objects_are_recompressed_while_there_is_memory() {
    let device = Arc::new(with_zstd().build().unwrap());
    fill(&device, 0..500);
    let mut small = [0; 4096];
    small[..400].copy_from_slice(&page(0, 0)[..400]);
    for number in 500..1000 {
        device.write_at(&small, number * 4096).unwrap();
    }
    let agent = Agent::start(device.clone()).unwrap();
    let settings = "recompress=0,least=1024,high=90,cpu=100";
    device.jobs().set_policy(policy(settings)).unwrap();
    wait_for(&device, "recompression", || {
        device.jobs().agent_stats().pages_recompressed == 500
    });
    let runs = device.jobs().agent_stats().runs;
    wait_for(&device, "another run", || {
        device.jobs().agent_stats().runs > runs + 1
    });
    assert_eq!(device.jobs().agent_stats().pages_recompressed, 500);
    assert_eq!(step(&device.jobs().plan(), "recompress").pages, 0);
    device.set_mem_limit_bytes(device.stats().mem_used_total_bytes);
    wait_for(&device, "relief", || {
        device.jobs().agent_stats().pages_recompressed == 1000
    });
    check(&device, 0..500);
    agent.stop();
}

/// What is read on the backing is wanted: it comes back, and nothing else does.
#[test]
fn pages_that_are_read_come_back() {
    let device = Arc::new(Device::builder(SIZE).build().unwrap());
    let _store = back(&device, 32 << 20);
    fill(&device, 0..1000);
    let mut go_on = |_| std::ops::ControlFlow::Continue(());
    device
        .zram()
        .writeback(&Default::default(), &mut go_on)
        .unwrap();
    let refused = device.jobs().set_policy(PolicySettings {
        promote_seconds: Some(60),
        writeback_seconds: Some(60),
        ..PolicySettings::default()
    });
    assert!(
        refused
            .unwrap_err()
            .to_string()
            .contains("fewer seconds than writeback=60")
    );
    device
        .jobs()
        .set_policy(policy("promote=600,cpu=100"))
        .unwrap();
    let _agent = Agent::start(device.clone()).unwrap();
    wait_for(&device, "ages", || device.zram().tracks_ages());
    assert!(!step(&device.jobs().plan(), "promote").due);
    check(&device, 300..400);
    wait_for(&device, "promotion", || {
        device.jobs().agent_stats().pages_promoted == 100
    });
    assert_eq!(device.stats().backed_pages, 900);
    let reads = device.stats().backed_reads;
    check(&device, 300..400);
    assert_eq!(device.stats().backed_reads, reads);
    check(&device, 0..1000);
}

#[test]
fn a_page_in_use_stays_as_it_is() {
    let device = Arc::new(with_zstd().build().unwrap());
    fill(&device, 0..200);
    device
        .jobs()
        .set_policy(policy("recompress=2,cpu=100"))
        .unwrap();
    let _agent = Agent::start(device.clone()).unwrap();
    wait_for(&device, "recompression", || {
        // Whoever is descheduled for two seconds fails here, and shall have used it first.
        check(&device, 0..20);
        device.jobs().agent_stats().pages_recompressed >= 180
    });
    check(&device, 0..200);
}

#[test]
fn a_dictionary_is_trained_once_and_taken() {
    // libzstd's encoder, whose speed is the same in every build.
    let with_zstd = || {
        let choice = Choice::new("zstd").param("level", "-1");
        Device::builder(SIZE).secondary(1, choice)
    };
    let device = Arc::new(with_zstd().build().unwrap());
    fill(&device, 0..6000);
    let plain = {
        let other = with_zstd().build().unwrap();
        fill(&other, 0..6000);
        other
            .zram()
            .recompress(&uzram::Recompress::default(), &mut |_| {
                std::ops::ControlFlow::Continue(())
            })
            .unwrap();
        other.stats().compr_data_size_bytes
    };
    device
        .jobs()
        .set_policy(policy("recompress=0,train=on,cpu=100"))
        .unwrap();
    assert!(step(&device.jobs().plan(), "train").due);
    let (said, heard) = channel();
    let _agent =
        Agent::start_with(device.clone(), move |text| drop(said.send(text.to_owned()))).unwrap();
    wait_for(&device, "recompression", || {
        device.jobs().agent_stats().pages_recompressed >= 6000
    });
    let stats = device.jobs().agent_stats();
    assert_eq!((stats.trainings, stats.dictionaries), (1, 1), "{stats:?}");
    let line = heard.recv_timeout(DEADLINE).unwrap();
    assert!(
        line.starts_with("policy: took a dictionary, since there is no dictionary yet: "),
        "{line}"
    );
    let codecs = device.codecs();
    let with_dictionary = codecs.iter().find(|codec| codec.priorities == [1]).unwrap();
    assert!(
        with_dictionary.dictionary_bytes > 0 && with_dictionary.objects == 6000,
        "{codecs:?}"
    );
    assert!(device.stats().compr_data_size_bytes < plain);
    assert!(!step(&device.jobs().plan(), "train").due);
    check(&device, 0..6000);
}

#[test]
fn compaction_is_done_where_it_pays() {
    let device = Arc::new(Device::builder(SIZE).build().unwrap());
    fill(&device, 0..4000);
    for number in (0..4000).filter(|number| number % 4 != 0) {
        device.discard(number * 4096, 4096).unwrap();
    }
    let before = device.stats().mem_used_total_bytes;
    device
        .jobs()
        .set_policy(policy("compact=on,cpu=100"))
        .unwrap();
    let plan = device.jobs().plan();
    assert!(step(&plan, "compact").due, "{plan:?}");
    assert_eq!(
        device.stats().mem_used_total_bytes,
        before,
        "a plan does nothing"
    );
    let _agent = Agent::start(device.clone()).unwrap();
    // The gain is an estimate: what the agent could not get may look due for ever.
    wait_for(&device, "compaction", || {
        device.jobs().agent_stats().last.starts_with("compacted")
    });
    let after = device.stats();
    assert!(
        after.mem_used_total_bytes * 10 < before * 8,
        "{before}, {after:?}"
    );
    assert_eq!(
        after.pages_compacted,
        device.jobs().agent_stats().pages_compacted
    );
    assert!(!device.zram().tracks_ages(), "compaction needs none");
    for number in (0..4000).step_by(4) {
        check(&device, number..number + 1);
    }
}

/// With pages of no age at all, so that only the watermark can be the reason.
#[test]
fn above_the_watermark_pages_of_any_age_go_before_writes_fail() {
    let device = with_zstd().build().unwrap();
    let _store = back(&device, 32 << 20);
    fill(&device, 0..4000);
    // A quarter of what is there would go beyond it.
    let used = device.stats().mem_used_total_bytes;
    device.set_mem_limit_bytes(used / 100 * 110);
    device
        .jobs()
        .set_policy(policy(
            "recompress=9999,writeback=9999,high=90,cpu=100,io=1G",
        ))
        .unwrap();
    let plan = device.jobs().plan();
    assert!(
        plan.pressed && plan.pressure.contains("work begins above"),
        "{plan:?}"
    );
    assert_eq!(step(&plan, "recompress").pages, 4000);
    assert!(step(&plan, "writeback").why.contains("memory is short"));
    let device = Arc::new(device);
    let (said, heard) = channel();
    let agent =
        Agent::start_with(device.clone(), move |text| drop(said.send(text.to_owned()))).unwrap();
    let high = device.stats().mem_limit_bytes * 9 / 10;
    for number in 4000..12_000 {
        // In small steps, as the agent needs time: not more than it frees.
        if number % 100 == 0 {
            wait_for(&device, "relief", || {
                device.stats().mem_used_total_bytes <= high
            });
        }
        device.write_at(&page(number, 0), number * 4096).unwrap();
    }
    let (stats, done) = (device.stats(), device.jobs().agent_stats());
    assert_eq!(stats.failed_writes, 0);
    assert!(
        done.reliefs > 0 && done.pages_recompressed > 0 && done.pages_written_back > 0,
        "{done:?}"
    );
    assert_eq!(
        heard.recv_timeout(DEADLINE).unwrap(),
        "policy: memory is short: pages of any age, oldest first"
    );
    agent.stop();
    check(&device, 0..12_000);
    // Without a limit there is no watermark.
    device.set_mem_limit_bytes(0);
    assert!(!device.jobs().plan().pressed);
}

/// What was not used goes first: that is what is on the backing when memory is no longer short.
#[test]
fn above_the_watermark_the_oldest_go_first() {
    let device = Arc::new(Device::builder(SIZE).build().unwrap());
    let _store = back(&device, 32 << 20);
    device
        .jobs()
        .set_policy(policy("writeback=9999,high=80,cpu=100,io=1G"))
        .unwrap();
    let _agent = Agent::start(device.clone()).unwrap();
    wait_for(&device, "ages", || device.zram().tracks_ages());
    fill(&device, 0..4000);
    std::thread::sleep(Duration::from_millis(6100));
    // Just used: in the middle, so that the order of the table is not that of the ages.
    check(&device, 1000..2000);
    let used = device.stats().mem_used_total_bytes;
    device.set_mem_limit_bytes(used / 100 * 110);
    wait_for(&device, "writeback", || {
        device.jobs().agent_stats().pages_written_back > 0
    });
    device.jobs().set_policy(PolicySettings::default()).unwrap();
    let before = device.stats();
    check(&device, 1000..2000);
    assert_eq!(
        device.stats().backed_reads,
        before.backed_reads,
        "{before:?}"
    );
    check(&device, 0..4000);
    assert!(device.stats().backed_reads > before.backed_reads);
}

#[test]
fn the_budget_holds() {
    let device = Arc::new(with_zstd().build().unwrap());
    fill(&device, 0..16_000);
    device
        .jobs()
        .set_policy(policy("recompress=0,cpu=5"))
        .unwrap();
    let begin = Instant::now();
    let agent = Agent::start(device.clone()).unwrap();
    std::thread::sleep(Duration::from_millis(1500));
    let done = device.jobs().agent_stats();
    agent.stop();
    let share = done.cpu_seconds / begin.elapsed().as_secs_f64();
    assert!(share < 0.10, "{share}: {done:?}");
    assert!(done.pages_recompressed > 0, "{done:?}");
    check(&device, 0..100);
}

#[test]
fn settings_survive_the_process_and_ages_begin_anew() {
    let file = memfd();
    let settings = policy("auto,recompress=77,io=5M,cpu=33");
    let device = with_zstd()
        .policy(settings)
        .build_in(reopen(&file))
        .unwrap();
    fill(&device, 0..10);
    drop(device);
    let device = Device::builder(0).attach(reopen(&file)).unwrap();
    assert_eq!(device.jobs().policy(), settings);
    let plan = device.jobs().plan();
    let why = &step(&plan, "recompress").why;
    assert!(why.contains("ages are not kept yet"), "{why}");
    device.jobs().set_policy(PolicySettings::default()).unwrap();
    drop(device);
    let device = Device::builder(0).attach(reopen(&file)).unwrap();
    assert!(device.jobs().policy().is_none());
    drop(device);
    // Words that no version writes: the switches are in word 5 of the state page.
    rustix::io::pwrite(&file, &u64::MAX.to_ne_bytes(), 4096 + 5 * 8).unwrap();
    let refused = Device::builder(0)
        .attach(reopen(&file))
        .map(drop)
        .unwrap_err();
    assert!(
        refused.to_string().contains("no version knows its policy"),
        "{refused}"
    );
}

#[test]
fn settings_that_contradict_themselves_are_refused() {
    let bad = PolicySettings {
        cpu_percent: 0,
        ..PolicySettings::auto()
    };
    let device = Device::builder(SIZE).build().unwrap();
    let refused = device.jobs().set_policy(bad).unwrap_err().to_string();
    assert!(
        refused.contains("cpu=0") && refused.contains("1 to 100 percent"),
        "{refused}"
    );
    assert!(device.jobs().policy().is_none());
    assert!(Device::builder(SIZE).policy(bad).build().is_err());
}

#[test]
fn a_plan_says_what_is_missing_and_does_nothing() {
    let device = Arc::new(Device::builder(SIZE).build().unwrap());
    fill(&device, 0..100);
    let none = device.jobs().plan();
    assert!(
        none.steps.iter().all(|step| !step.due && step.why == "off"),
        "{none:?}"
    );
    let auto = device.jobs().plan_by(&PolicySettings::auto());
    assert!(
        step(&auto, "recompress")
            .why
            .contains("no secondary algorithm"),
        "{auto:?}"
    );
    assert!(step(&auto, "train").why.contains("no secondary algorithm"));
    assert!(step(&auto, "writeback").why.contains("no backing"));
    assert!(!auto.pressed);

    device
        .set_secondary(1, Some(&Choice::new("deflate")))
        .unwrap();
    device.zram().track_ages(true).unwrap();
    let now = policy("recompress=0,train=on");
    let plan = device.jobs().plan_by(&now);
    let recompress = step(&plan, "recompress");
    assert!(recompress.due);
    assert_eq!(
        (recompress.pages, recompress.bytes),
        (100, device.stats().compr_data_size_bytes)
    );
    assert!(step(&plan, "train").why.contains("takes no dictionary"));
    let old = device.jobs().plan_by(&policy("recompress=500"));
    assert!(
        step(&old, "recompress")
            .why
            .contains("no page can be 500 s old yet"),
        "{old:?}"
    );
    assert_eq!(device.stats().recompressed_pages, 0);
    // Somebody else keeps ages, and goes on to.
    device.jobs().set_policy(now).unwrap();
    let agent = Agent::start(device.clone()).unwrap();
    wait_for(&device, "recompression", || {
        device.jobs().agent_stats().pages_recompressed > 0
    });
    agent.stop();
    assert!(device.zram().tracks_ages());
}
