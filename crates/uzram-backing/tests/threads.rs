//! Readers, a writer, a mover and a freer at the same objects: a read that its table still names is never wrong, and
//! nothing is lost. The table is what the core's is: a word for each owner, changed by compare and swap.

mod common;

use std::collections::HashMap;
use std::sync::atomic::Ordering::SeqCst;
use std::sync::atomic::{AtomicBool, AtomicU64};

use common::{LONG, MIB, Random, store};
use uzram_backing::{
    Backing, Location, Purpose, PushError, ReadBuffer, ReadError, SegmentBuffer, Writer, Written,
    entry_bytes,
};

const OWNERS: u64 = 1200;

/// Location, and length above it; 0: nothing.
struct Words(Vec<AtomicU64>);

fn pack(location: Location, len: usize) -> u64 {
    (len as u64) << 39 | location.raw()
}

fn unpack(word: u64) -> (Location, usize) {
    let location = Location::from_raw(word & ((1 << 39) - 1)).unwrap();
    (location, (word >> 39) as usize)
}

/// An object says whose it is in every word, and which version.
fn object(owner: u64, version: u64, random: &mut Random) -> Vec<u8> {
    let word = (owner << 32 | version).to_le_bytes();
    word.repeat(1 + random.below(400) as usize)
}

fn check(owner: u64, bytes: &[u8]) {
    let word = &bytes[..8];
    assert_eq!(
        u32::from_le_bytes(word[4..].try_into().unwrap()),
        owner as u32
    );
    assert!(bytes.chunks(8).all(|chunk| chunk == word), "torn");
}

impl Words {
    fn replace(&self, store: &Backing, owner: u64, new: u64) {
        let old = self.0[owner as usize].swap(new, SeqCst);
        if old != 0 {
            let (location, len) = unpack(old);
            store.free(location, len);
        }
    }

    fn read(&self, store: &Backing, owner: u64, buffer: &mut ReadBuffer) -> bool {
        loop {
            let word = &self.0[owner as usize];
            let seen = word.load(SeqCst);
            if seen == 0 {
                return false;
            }
            let (location, len) = unpack(seen);
            let still = || word.load(SeqCst) == seen;
            match store.read_while(location, len, owner as u32, buffer, still) {
                Ok(bytes) => {
                    check(owner, bytes);
                    return true;
                }
                Err(ReadError::Moved) => {}
                Err(error) => panic!("{error}"),
            }
        }
    }

    fn write(&self, store: &Backing, writer: &mut Writer, random: &mut Random, version: u64) {
        let owner = random.below(OWNERS);
        let bytes = object(owner, version, random);
        let publish = |written: Written| {
            assert_eq!(written.result, Ok(()));
            let new = pack(written.location, written.len);
            self.replace(store, written.owner.into(), new);
        };
        loop {
            match writer.push(owner as u32, &bytes) {
                Ok(_) => return,
                Err(PushError::Busy { .. }) => {
                    writer.wait_one(LONG, publish);
                }
                // The mover makes room.
                Err(PushError::Full) => {
                    writer.wait(LONG, publish);
                    std::thread::yield_now();
                }
                Err(error) => panic!("{error}"),
            }
        }
    }

    fn compact(&self, store: &Backing, mover: &mut Writer, buffer: &mut SegmentBuffer) -> usize {
        let mut moved = 0;
        for victim in store.victims(1) {
            let mut old = HashMap::new();
            for found in victim.objects(buffer).unwrap() {
                let word = pack(found.location, found.bytes.len());
                if self.0[found.owner as usize].load(SeqCst) != word {
                    continue;
                }
                check(found.owner.into(), found.bytes);
                match mover.push(found.owner, found.bytes) {
                    Ok(new) => old.insert(new, word),
                    Err(PushError::Full) => break,
                    Err(error) => panic!("{error}"),
                };
            }
            mover.submit();
            mover.wait(LONG, |written| {
                assert_eq!(written.result, Ok(()));
                let old = old[&written.location];
                let new = pack(written.location, written.len);
                let word = &self.0[written.owner as usize];
                let dead = match word.compare_exchange(old, new, SeqCst, SeqCst) {
                    Ok(_) => unpack(old),
                    Err(_) => unpack(new),
                };
                store.free(dead.0, dead.1);
                moved += 1;
            });
        }
        moved
    }
}

#[test]
fn readers_writer_mover_and_freer_agree() {
    let (_backing, store) = store(4 * MIB);
    let words = Words((0..OWNERS).map(|_| AtomicU64::new(0)).collect());
    let stop = AtomicBool::new(false);
    let (mut reads, mut moves) = (0u64, 0);
    std::thread::scope(|scope| {
        let (words, store, stop) = (&words, &store, &stop);
        let readers = [1, 2].map(|seed| {
            scope.spawn(move || {
                let (mut random, mut buffer) = (Random::new(seed), ReadBuffer::new());
                let mut reads = 0;
                while !stop.load(SeqCst) {
                    reads += u64::from(words.read(store, random.below(OWNERS), &mut buffer));
                }
                reads
            })
        });
        let mover = scope.spawn(move || {
            let mut mover = store.writer(2, Purpose::Compaction).unwrap();
            let (mut buffer, mut moved) = (SegmentBuffer::new(), 0);
            while !stop.load(SeqCst) {
                moved += words.compact(store, &mut mover, &mut buffer);
            }
            moved
        });
        scope.spawn(move || {
            let mut random = Random::new(4);
            while !stop.load(SeqCst) {
                words.replace(store, random.below(OWNERS), 0);
                std::thread::sleep(std::time::Duration::from_micros(50));
            }
        });
        let (mut random, mut writer) = (Random::new(3), store.writer(4, Purpose::Objects).unwrap());
        // 20 times the backing.
        for version in 0..50_000 {
            words.write(store, &mut writer, &mut random, version);
        }
        writer.submit();
        writer.wait(LONG, |written| {
            words.replace(
                store,
                written.owner.into(),
                pack(written.location, written.len),
            );
        });
        stop.store(true, SeqCst);
        reads = readers.map(|reader| reader.join().unwrap()).iter().sum();
        moves = mover.join().unwrap();
    });
    assert!(reads > 0 && moves > 0, "{reads} reads, {moves} moves");
    let live = words
        .0
        .iter()
        .map(|word| word.load(SeqCst))
        .filter(|word| *word != 0);
    let lens: Vec<usize> = live.map(|word| unpack(word).1).collect();
    let stats = store.stats();
    assert_eq!(stats.corrupt, 0);
    assert_eq!(stats.live_objects, lens.len() as u64);
    let bytes: usize = lens.iter().map(|len| entry_bytes(*len)).sum();
    assert_eq!(stats.live_bytes, bytes as u64);
    let mut buffer = ReadBuffer::new();
    (0..OWNERS).for_each(|owner| {
        words.read(&store, owner, &mut buffer);
        words.replace(&store, owner, 0);
    });
    assert_eq!(store.stats().used_segments, 0);
}
