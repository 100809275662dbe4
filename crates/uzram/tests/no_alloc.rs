//! The hot path law: between a request and its reply nothing is allocated from the heap, whatever the page
//! holds, aligned or not, shared or alone.

#[path = "../../uzram-compress/tests/support/malloc.rs"]
mod malloc;

use std::sync::atomic::AtomicBool;
use std::sync::atomic::Ordering::Relaxed;

use malloc::CALLS;
use uzram::compress::{DictionaryForm, Registry, dictionary};
use uzram::{Choice, Device, Zeroes};
use uzram_testkit::Random;

fn page() -> [u8; 4096] {
    std::array::from_fn(|i| (i / 5) as u8)
}

fn page_of(number: u64) -> [u8; 4096] {
    let mut bytes = page();
    Random::new(number).fill(&mut bytes[8..16]);
    bytes
}

/// Also when a check fails: then nobody may be waited for for ever.
struct StopOnDrop<'a>(&'a AtomicBool);

impl Drop for StopOnDrop<'_> {
    fn drop(&mut self) {
        self.0.store(true, Relaxed);
    }
}

#[test]
fn requests_allocate_nothing() {
    malloc::assert_counting();
    for algorithm in Registry::builtin().iter() {
        let mut choice = Choice::new(algorithm.driver_name());
        if let Some(spec) = algorithm.dictionary() {
            let text: Vec<u8> = (0..16_384).map(|i| (i / 9) as u8).collect();
            let samples: Vec<&[u8]> = text.chunks(512).collect();
            choice = choice.dictionary(match spec.form {
                DictionaryForm::Collection => {
                    dictionary::train(spec, 0, &samples, spec.max_bytes).unwrap()
                }
                _ => text,
            });
        }
        let device = Device::builder(16 << 20)
            .algorithm(algorithm.driver_name())
            .dedup(true)
            .build()
            .unwrap();
        // Some pages keep the codec without a dictionary.
        device.write_at(&page(), 4 << 20).unwrap();
        device.set_algorithm(&choice).unwrap();
        let mut data = vec![0u8; 1 << 20];
        let mut random = Random::new(1);
        for (i, byte) in data.iter_mut().enumerate() {
            *byte = match i >> 16 & 3 {
                0 => 0,
                1 => 0x5A,
                2 => (i / 9) as u8,
                _ => random.byte(),
            };
        }
        // Objects are moved meanwhile, by a thread that may allocate.
        let stop = AtomicBool::new(false);
        std::thread::scope(|scope| {
            scope.spawn(|| {
                while !stop.load(Relaxed) {
                    device.jobs().compact(1 << 16);
                }
            });
            let _stopped = StopOnDrop(&stop);
            let before = CALLS.get();
            for round in 0..4 {
                device.write_at(&data, round << 20).unwrap();
                device
                    .write_at(&data[..70_000], (round << 20) + 333)
                    .unwrap();
                device.read_at(&mut data, (round << 20) + 77).unwrap();
                device
                    .write_zeroes(round << 20, 9999, Zeroes::Allocate)
                    .unwrap();
                device.discard(round << 20, 1 << 19).unwrap();
                // Objects that nobody has yet, so that the index grows; and the same again.
                for page in 0..200u64 {
                    let mut new = page_of(round * 200 + page);
                    device.write_at(&new, (8 << 20) + page * 4096).unwrap();
                    device.write_at(&new, (9 << 20) + page * 4096).unwrap();
                    new[0] ^= 1;
                    device.write_at(&new[..1], (9 << 20) + page * 4096).unwrap();
                }
                device.read_at(&mut data[..4096], 4 << 20).unwrap();
            }
            assert_eq!(CALLS.get(), before, "{}", algorithm.driver_name());
        });
        let before = CALLS.get();
        let last = device.extents(0, device.size_bytes()).unwrap().last();
        assert!(last.is_some());
        device.stats();
        device.reset();
        assert_eq!(CALLS.get(), before, "{}", algorithm.driver_name());
    }
}
