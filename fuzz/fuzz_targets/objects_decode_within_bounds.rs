//! No object makes a decoder write past its output, or give what depends on what was there before; and what an encoder makes
//! of an input comes back.
//!
//! An input is an algorithm's name and a newline, a byte that says what to do, and an object or a plain text. An algorithm
//! that takes a dictionary has two names: with `+own` behind it, it has a trained one; of a collection, one of fewer sets
//! than the built-in one.
#![no_main]

use std::cell::RefCell;
use std::sync::{Arc, LazyLock};

use libfuzzer_sys::fuzz_target;
use uzram_compress::conformance::input;
use uzram_compress::{DictionarySpec, Prepared, Registry, Settings, Tfm, dictionary};
use uzram_fuzz::deep;
use uzram_fuzz::input::Input;

/// The only algorithm, where it is set: an input that names none, or another, is one of its then.
const ONLY: &str = "UZRAM_FUZZ_ALGORITHM";
const BLOCK: usize = 4096;
const GUARD: u8 = 0xA5;
/// Bytes watched behind an output.
const BEHIND: usize = 64;

static PREPARED: LazyLock<Vec<(String, Arc<dyn Prepared>)>> = LazyLock::new(|| {
    let registry = Registry::builtin();
    let mut all = Vec::new();
    let only = std::env::var(ONLY).ok();
    for algorithm in registry.iter() {
        let algorithm = &**algorithm;
        if only.as_deref().is_some_and(|only| only != algorithm.name()) {
            continue;
        }
        let settings = Settings::new(algorithm, BLOCK, [("", ""); 0]).expect("defaults");
        let name = algorithm.driver_name();
        all.push((
            name.to_owned(),
            algorithm.prepare(&settings).expect("defaults"),
        ));
        if let Some(spec) = algorithm.dictionary() {
            let settings = settings.with_dictionary(algorithm, trained(spec));
            let own = algorithm.prepare(&settings.expect("its length"));
            all.push((format!("{name}+own"), own.expect("the trainer's")));
        }
    }
    all
});

/// A dictionary; a collection of few sets.
fn trained(spec: DictionarySpec) -> Arc<[u8]> {
    let samples: Vec<Vec<u8>> = (1..100).map(|seed| input(seed, BLOCK)).collect();
    let samples: Vec<&[u8]> = samples.iter().map(Vec::as_slice).collect();
    let trained = dictionary::train(spec, 0, &samples, 4096);
    trained.expect("enough samples").into()
}

thread_local! {
    static TFMS: RefCell<Vec<Box<dyn Tfm>>> =
        RefCell::new(PREPARED.iter().map(|(_, p)| p.tfm().expect("memory")).collect());
}

/// The output; `None` where the object is refused.
fn decode(tfm: &mut dyn Tfm, object: &[u8], room: usize, before: u8) -> Option<Vec<u8>> {
    let mut out = vec![before; room];
    out.resize(room + BEHIND, GUARD);
    let len = tfm.decompress(object, &mut out[..room]).ok();
    assert!(
        out[room..].iter().all(|byte| *byte == GUARD),
        "past its end"
    );
    out.truncate(len?);
    Some(out)
}

fuzz_target!(|data: &[u8]| {
    let end = data.iter().position(|byte| *byte == b'\n');
    let (name, rest) = data.split_at(end.unwrap_or(0));
    let mut input = Input(rest.get(1..).unwrap_or_default());
    TFMS.with_borrow_mut(|tfms| {
        let named = PREPARED
            .iter()
            .position(|(known, _)| known.as_bytes() == name);
        let tfm = &mut *tfms[named.unwrap_or(0)];
        let how = input.byte();
        if how & 1 == 1 {
            let plain = &input.0[..input.0.len().min(BLOCK)];
            let mut object = vec![0; 2 * BLOCK];
            if let Ok(len) = tfm.compress(plain, &mut object) {
                let back = decode(tfm, &object[..len], plain.len(), 0);
                assert_eq!(back.as_deref(), Some(plain), "it does not come back");
            }
            return;
        }
        let room = match how & 2 {
            0 => BLOCK,
            _ => usize::from(how) * 24,
        };
        let first = decode(tfm, input.0, room, 0);
        assert_eq!(first, decode(tfm, input.0, room, 0xFF), "by what was there");
        if first.is_some_and(|out| out.len() == BLOCK) {
            deep("an object decodes to a page");
        }
    });
});
