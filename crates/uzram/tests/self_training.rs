//! A device whose primary trains itself: from the first pages, again when what is written has drifted, and with nobody
//! asking; generations outlive the process; and no request waits for any of it.

mod common;

use std::sync::mpsc::{RecvTimeoutError, channel};
use std::sync::{Arc, Mutex, OnceLock, Weak};
use std::time::{Duration, Instant};

use common::{memfd, reopen};
use uzram::compress::{
    Algorithm, Decoder, DictionarySpec, Error as CodecError, KnownAnswer, ParamSpec, Prepared,
    Registry, Settings, Tfm,
};
use uzram::{Agent, Builder, Choice, CodecStats, Device, Training};
use uzram_testkit::algorithm::{SELF_TRAINED, with_self_trained};
use uzram_testkit::data::dialect_page;

const SIZE: u64 = 256 << 20;
/// More than anything here takes on a machine that is busy with something else.
const DEADLINE: Duration = Duration::from_secs(600);
/// Pages of a dialect whose objects are 8 MiB.
const ENOUGH: u64 = 6000;
/// Pages over which drift is measured.
const WINDOW: u64 = 8192;

fn builder() -> Builder {
    Device::builder(SIZE)
        .registry(with_self_trained())
        .algorithm(SELF_TRAINED)
}

fn page(number: u64, dialect: u64) -> [u8; 4096] {
    dialect_page(dialect, number)
}

fn fill(device: &Device, pages: std::ops::Range<u64>, dialect: u64) {
    for number in pages {
        device
            .write_at(&page(number, dialect), number * 4096)
            .unwrap();
    }
}

fn check(device: &Device, pages: std::ops::Range<u64>, dialect: u64) {
    let mut back = [0; 4096];
    for number in pages {
        device.read_at(&mut back, number * 4096).unwrap();
        assert!(back == page(number, dialect), "page {number}");
    }
}

fn wait_for(device: &Device, what: &str, mut happened: impl FnMut() -> bool) {
    let begin = Instant::now();
    while !happened() {
        assert!(
            begin.elapsed() < DEADLINE,
            "{what}: {:?}, waits for {}",
            device.jobs().agent_stats(),
            device.jobs().self_training_waits_for()
        );
        std::thread::sleep(Duration::from_millis(5));
    }
}

fn primary(device: &Device) -> CodecStats {
    let codecs = device.codecs();
    let primary = codecs.into_iter().find(|c| c.priorities.contains(&0));
    primary.unwrap()
}

fn generation(device: &Device) -> u32 {
    primary(device).generation.map_or(0, |it| it.number)
}

/// The mean object of the last window.
fn mean_now(device: &Device) -> u64 {
    let text = device.jobs().self_training_waits_for();
    let now = text.split_once("(now ").and_then(|(_, rest)| {
        let digits = rest.split(')').next()?;
        digits.parse().ok()
    });
    now.unwrap_or(0)
}

fn waits_for(device: &Device, says: &str) -> bool {
    device.jobs().self_training_waits_for().contains(says)
}

#[test]
fn a_device_trains_itself_from_its_first_pages_and_again_when_they_drift() {
    let file = memfd();
    let device = Arc::new(builder().build_in(reopen(&file)).unwrap());
    let (said, heard) = channel();
    let looks = Arc::downgrade(&device);
    let says = move |text: &str| {
        let waits_for = looks
            .upgrade()
            .map(|it| it.jobs().self_training_waits_for());
        drop(said.send((text.to_owned(), waits_for.unwrap_or_default())));
    };
    let agent = Agent::start_with(device.clone(), says).unwrap();
    wait_for(&device, "a look", || waits_for(&device, "now 0 of 0"));
    fill(&device, 0..2000, 1);
    wait_for(&device, "another look", || waits_for(&device, "of 2000"));
    assert_eq!(generation(&device), 0, "too few");
    fill(&device, 2000..ENOUGH, 1);
    wait_for(&device, "training", || generation(&device) == 1);
    let (line, next) = heard.recv_timeout(DEADLINE).unwrap();
    assert!(next.contains("is the measure"), "it is over: {next}");
    assert!(
        line.starts_with("training: took generation 1, since nothing was trained yet: "),
        "{line}"
    );
    let trained = primary(&device);
    let first = trained.generation.unwrap();
    assert_eq!((first.pages_trained, first.pages_judged), (2048, 2048));
    assert!(
        first.ratio_after() > 2.0 * first.ratio_before() && first.at_seconds > 1_600_000_000,
        "{first:?}"
    );
    // What was stored stays as it is until it is written again.
    let codecs = device.codecs();
    let old = codecs.iter().find(|c| c.priorities.is_empty()).unwrap();
    assert_eq!((old.objects, trained.objects), (ENOUGH, 0), "{codecs:?}");
    check(&device, 0..ENOUGH, 1);
    fill(&device, 0..ENOUGH, 1);
    check(&device, 0..ENOUGH, 1);
    assert_eq!(device.codecs().len(), 1, "the old one is gone");
    assert!(device.stats().compr_data_size_bytes * 2 < ENOUGH * 4096 / first.ratio_before() as u64);
    let done = device.jobs().agent_stats();
    assert_eq!((done.trainings, done.dictionaries), (1, 1), "{done:?}");
    assert!(done.cpu_seconds > 0.0);
    agent.stop();
    assert_eq!(device.jobs().self_training_waits_for(), "", "nobody looks");
    // So many that not all of what follows counts as new content.
    fill(&device, ENOUGH..WINDOW, 1);
    drop(Arc::into_inner(device).unwrap());

    // Another process: the same generation, no training without need, and one when what is written has drifted.
    let device = builder().attach(reopen(&file)).unwrap();
    assert_eq!(primary(&device).generation, Some(first));
    check(&device, 0..ENOUGH, 1);
    let device = Arc::new(device);
    let agent = Agent::start(device.clone()).unwrap();
    wait_for(&device, "a look", || waits_for(&device, "is the measure"));
    fill(&device, 0..WINDOW, 1);
    wait_for(&device, "a measure", || {
        waits_for(&device, "objects of more than")
    });
    // One window that is worse is no drift, two are.
    fill(&device, WINDOW..2 * WINDOW, 2);
    wait_for(&device, "a look at what is worse", || {
        mean_now(&device) > 1000
    });
    assert_eq!(generation(&device), 1);
    fill(&device, 2 * WINDOW..3 * WINDOW, 2);
    wait_for(&device, "drift", || generation(&device) == 2);
    let done = device.jobs().agent_stats();
    assert_eq!((done.trainings, done.dictionaries), (1, 1), "{done:?}");
    assert!(done.last.contains("larger than after"), "{done:?}");
    let second = primary(&device).generation.unwrap();
    assert!(second.ratio_after() > second.ratio_before(), "{second:?}");
    check(&device, 0..WINDOW, 1);
    check(&device, WINDOW..3 * WINDOW, 2);
    fill(&device, 0..1000, 2);
    check(&device, 0..1000, 2);
    assert_eq!(device.codecs().len(), 2);
    // The pause: whatever is written now, nothing is trained.
    assert!(!waits_for(&device, "under way"), "it is over");
    assert_eq!(generation(&device), 2);
    agent.stop();
}

#[test]
fn off_is_off_and_part_of_the_image() {
    let file = memfd();
    let off = builder().self_training(false).build_in(reopen(&file));
    let device = Arc::new(off.unwrap());
    let agent = Agent::start(device.clone()).unwrap();
    fill(&device, 0..ENOUGH, 1);
    wait_for(&device, "a look", || {
        waits_for(&device, "nothing: it is off")
    });
    std::thread::sleep(Duration::from_millis(300));
    assert_eq!(device.jobs().agent_stats().trainings, 0);
    // By hand it can be trained all the same.
    let tried = Training {
        dry_run: true,
        ..device.jobs().training_for(0)
    };
    let report = device.jobs().train(&tried).unwrap();
    assert!(
        !report.adopted && report.reason.ends_with("only tried"),
        "{report:?}"
    );
    agent.stop();
    drop(Arc::into_inner(device).unwrap());
    let device = Arc::new(builder().attach(reopen(&file)).unwrap());
    assert!(!device.jobs().self_training());
    let agent = Agent::start(device.clone()).unwrap();
    device.jobs().set_self_training(true);
    wait_for(&device, "training", || generation(&device) == 1);
    check(&device, 0..ENOUGH, 1);
    agent.stop();
    drop(Arc::into_inner(device).unwrap());
    // A word that no version writes.
    rustix::io::pwrite(&file, &7u64.to_ne_bytes(), 4096 + 11 * 8).unwrap();
    let refused = builder().attach(reopen(&file)).map(drop).unwrap_err();
    assert!(refused.to_string().contains("trains itself"), "{refused}");
}

/// The algorithm that is made for it, by hand: each generation has tables of its own.
#[test]
fn collections_are_generations() {
    let device = Device::builder(SIZE).algorithm("lzhs").build().unwrap();
    fill(&device, 0..1000, 1);
    let before = device.stats();
    let training = Training {
        sample_pages: 512,
        rule: |_, _| Ok("always".into()),
        ..device.jobs().training_for(0)
    };
    for number in 1..3 {
        let report = device.jobs().train(&training).unwrap();
        assert_eq!(report.generation, number, "{report:?}");
        fill(&device, number as u64 * 100..1000, number as u64 + 1);
    }
    let codecs = device.codecs();
    let objects: Vec<_> = codecs.iter().map(|codec| codec.objects).collect();
    assert_eq!(objects, [100, 100, 800], "{codecs:?}");
    check(&device, 0..100, 1);
    check(&device, 100..200, 2);
    check(&device, 200..1000, 3);
    let cost = device.stats().metadata_bytes - before.metadata_bytes;
    assert!(cost < 2 << 20, "{cost} bytes for two generations");
}

/// Neither what somebody has chosen, nor an algorithm that does not train itself.
#[test]
fn what_was_given_stays() {
    let dictionary: Vec<u8> = (0..4).flat_map(|n| page(n, 3)).collect();
    let given = Choice::new(SELF_TRAINED).dictionary(dictionary);
    let device = Arc::new(builder().choose(given).build().unwrap());
    let agent = Agent::start(device.clone()).unwrap();
    fill(&device, 0..ENOUGH, 1);
    wait_for(&device, "a look", || waits_for(&device, "was given"));
    device.set_algorithm(&Choice::new("zstd")).unwrap();
    assert_eq!(device.jobs().self_training_waits_for(), "");
    fill(&device, 0..ENOUGH, 1);
    std::thread::sleep(Duration::from_millis(300));
    assert_eq!(device.jobs().agent_stats().trainings, 0);
    // Without one, which wakes the agent.
    device.set_algorithm(&Choice::new(SELF_TRAINED)).unwrap();
    assert!(!waits_for(&device, "was given"), "of the one before");
    wait_for(&device, "training", || generation(&device) == 1);
    check(&device, 0..ENOUGH, 1);
    agent.stop();
}

/// A training that found nothing worth its cost is told, until one does or another algorithm is set.
#[test]
fn a_refused_training_is_told() {
    let device = Arc::new(builder().build().unwrap());
    let agent = Agent::start(device.clone()).unwrap();
    assert_eq!(device.jobs().self_training_refused(), "");
    // Nothing that pages have in common.
    let mut random = uzram_testkit::Random::new(9);
    let mut page = [0; 4096];
    for number in 0..ENOUGH {
        random.fill(&mut page[..2048]);
        device.write_at(&page, number * 4096).unwrap();
    }
    wait_for(&device, "training", || {
        !device.jobs().self_training_refused().is_empty()
    });
    let told = device.jobs().self_training_refused();
    let done = device.jobs().agent_stats();
    assert_eq!((done.trainings, done.dictionaries), (1, 0), "{done:?}");
    assert!(done.last.ends_with(&told), "{told}: {done:?}");
    device.set_algorithm(&Choice::new("zstd")).unwrap();
    device.set_algorithm(&Choice::new(SELF_TRAINED)).unwrap();
    assert_eq!(device.jobs().self_training_refused(), "");
    agent.stop();
}

/// Four are alive at most; the next training waits until the last object of one of them is gone.
#[test]
fn generations_are_bounded() {
    let device = Arc::new(builder().self_training(false).build().unwrap());
    let training = Training {
        sample_pages: 64,
        dictionary_bytes: 2048,
        rule: |_, _| Ok("always".into()),
        ..Training::default()
    };
    fill(&device, 0..ENOUGH, 0);
    for number in 1..4 {
        let report = device.jobs().train(&training).unwrap();
        assert_eq!(report.generation, number, "{report:?}");
        fill(&device, number as u64 * 100..ENOUGH, number.into());
    }
    assert_eq!(device.codecs().len(), 4);
    // Somebody has set it anew: it is as if it had never been trained, and the first one is the second now.
    device.set_algorithm(&Choice::new(SELF_TRAINED)).unwrap();
    let agent = Agent::start(device.clone()).unwrap();
    device.jobs().set_self_training(true);
    wait_for(&device, "a look", || {
        waits_for(&device, "one has to go first")
    });
    assert_eq!(device.jobs().agent_stats().trainings, 0);
    for number in 0..4 {
        let first = if number == 0 { 0 } else { number * 100 };
        let end = if number == 3 { ENOUGH } else { first + 100 };
        check(&device, first..end, number);
    }
    device.discard(200 * 4096, 100 * 4096).unwrap();
    wait_for(&device, "training", || generation(&device) == 4);
    agent.stop();
}

/// What a device that serves as swap takes for a training: a small sample, and memory only where there is some.
#[test]
fn a_swap_device_trains_on_a_small_sample() {
    let device = builder().reserve_bytes(32 << 20).build().unwrap();
    let device = Arc::new(device);
    let agent = Agent::start(device.clone()).unwrap();
    for number in 0..ENOUGH {
        if number % 100 == 0 {
            while device.swap().maintain(&|| true) {}
        }
        device.write_at(&page(number, 1), number * 4096).unwrap();
    }
    wait_for(&device, "training", || generation(&device) == 1);
    let trained = primary(&device).generation.unwrap();
    assert_eq!((trained.pages_trained, trained.pages_judged), (512, 512));
    check(&device, 0..ENOUGH, 1);
    agent.stop();
}

/// An algorithm that makes requests to its own device whenever something of it is made or freed: where memory is freed or
/// taken with the lock of the only stream, or of the only reader, they never end.
struct Meddler(Arc<dyn Algorithm>);
struct MeddlerPrepared(Arc<dyn Prepared>);
struct MeddlerTfm(Box<dyn Tfm>);
struct MeddlerDecoder(Box<dyn Decoder>);

static MEDDLED_WITH: OnceLock<Weak<Device>> = OnceLock::new();
static STUCK: Mutex<Vec<&str>> = Mutex::new(Vec::new());

/// A read and a write by another thread.
fn meddle(when: &'static str) {
    let Some(device) = MEDDLED_WITH.get().and_then(Weak::upgrade) else {
        return;
    };
    let (done, ended) = channel();
    std::thread::spawn(move || {
        let mut back = [0; 4096];
        device.read_at(&mut back, 0).unwrap();
        device.write_at(&back, 0).unwrap();
        drop(device);
        let _ = done.send(());
    });
    if ended.recv_timeout(Duration::from_secs(20)) == Err(RecvTimeoutError::Timeout) {
        STUCK.lock().unwrap().push(when);
    }
}

impl Algorithm for Meddler {
    fn name(&self) -> &'static str {
        "meddler"
    }
    fn driver_name(&self) -> &'static str {
        "meddler"
    }
    fn priority(&self) -> i32 {
        0
    }
    fn summary(&self) -> &'static str {
        "zstd that makes requests"
    }
    fn params(&self) -> &'static [ParamSpec] {
        self.0.params()
    }
    fn dictionary(&self) -> Option<DictionarySpec> {
        self.0.dictionary()
    }
    fn known_answers(&self) -> &'static [KnownAnswer] {
        self.0.known_answers()
    }
    fn prepare(&self, settings: &Settings) -> Result<Arc<dyn Prepared>, CodecError> {
        meddle("a dictionary is digested");
        Ok(Arc::new(MeddlerPrepared(self.0.prepare(settings)?)))
    }
}

impl Prepared for MeddlerPrepared {
    fn tfm(&self) -> Result<Box<dyn Tfm>, CodecError> {
        meddle("an encoder is made");
        Ok(Box::new(MeddlerTfm(self.0.tfm()?)))
    }
    fn decoder(&self) -> Result<Box<dyn Decoder>, CodecError> {
        meddle("a decoder is made");
        Ok(Box::new(MeddlerDecoder(self.0.decoder()?)))
    }
}

impl Drop for MeddlerPrepared {
    fn drop(&mut self) {
        meddle("a dictionary is freed");
    }
}

impl Tfm for MeddlerTfm {
    fn compress(&mut self, src: &[u8], dst: &mut [u8]) -> Result<usize, CodecError> {
        self.0.compress(src, dst)
    }
    fn decompress(&mut self, src: &[u8], dst: &mut [u8]) -> Result<usize, CodecError> {
        self.0.decompress(src, dst)
    }
}

impl Drop for MeddlerTfm {
    fn drop(&mut self) {
        meddle("an encoder is freed");
    }
}

impl Decoder for MeddlerDecoder {
    fn decompress(&mut self, src: &[u8], dst: &mut [u8]) -> Result<usize, CodecError> {
        self.0.decompress(src, dst)
    }
    fn memory_bytes(&self) -> usize {
        self.0.memory_bytes()
    }
}

impl Drop for MeddlerDecoder {
    fn drop(&mut self) {
        meddle("a decoder is freed");
    }
}

/// Reclaim may wait for a request to a swap device while a training takes memory, or gives some back.
#[test]
fn no_request_waits_for_memory_of_a_training() {
    let mut registry = Registry::builtin();
    let zstd = registry.find("zstd-libzstd").unwrap().clone();
    registry.register(Arc::new(Meddler(zstd))).unwrap();
    let device = Device::builder(SIZE)
        .registry(registry)
        .algorithm("meddler")
        .streams(1)
        .build();
    let device = Arc::new(device.unwrap());
    fill(&device, 0..1000, 1);
    MEDDLED_WITH.set(Arc::downgrade(&device)).unwrap();
    let training = Training {
        sample_pages: 64,
        dictionary_bytes: 2048,
        rule: |_, _| Ok("always".into()),
        ..Training::default()
    };
    for number in 1..3 {
        let report = device.jobs().train(&training).unwrap();
        assert_eq!(report.generation, number, "{report:?}");
        fill(&device, 0..1000, 2);
        assert_eq!(device.codecs().len(), 1, "the old one was freed");
    }
    assert_eq!(STUCK.lock().unwrap()[..], [""; 0]);
    check(&device, 0..1000, 2);
}
