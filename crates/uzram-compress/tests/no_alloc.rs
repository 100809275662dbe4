//! A tfm's calls allocate nothing, the C libraries behind it included: `malloc` itself is interposed,
//! which is why this is a test program of its own.

#[path = "support/malloc.rs"]
mod malloc;

use malloc::CALLS;
use uzram_compress::{DictionaryForm, ParamKind, Registry, Settings, dictionary};

#[test]
fn compress_and_decompress_allocate_nothing() {
    malloc::assert_counting();
    let mut pages = vec![[0u8; 4096]; 3];
    for (i, byte) in pages[1].iter_mut().enumerate() {
        *byte = (i / 7) as u8;
    }
    pages[2] = uzram_testkit::data::noise(1);
    for algorithm in Registry::builtin().iter() {
        // Every codec that the parameters choose between.
        let mut choices = vec![Vec::new()];
        for spec in algorithm.params() {
            if let ParamKind::Int { min, max, .. } = spec.kind {
                choices.extend([min, max].map(|value| vec![(spec.name, value.to_string())]));
            }
        }
        if algorithm.name() == "deflate" {
            choices.push(vec![("winbits", "9".into())]);
        }
        for params in choices {
            let alone = Settings::new(&**algorithm, 4096, params.clone()).unwrap();
            let content: Vec<u8> = pages[1..].concat();
            let with = algorithm.dictionary().map(|spec| {
                let samples: Vec<&[u8]> = content.chunks(256).collect();
                let dictionary = match spec.form {
                    DictionaryForm::Collection => {
                        dictionary::train(spec, 0, &samples, spec.max_bytes).unwrap()
                    }
                    _ => content,
                };
                let settings = alone.clone();
                settings.with_dictionary(&**algorithm, dictionary.into())
            });
            for settings in [Some(Ok(alone)), with].into_iter().flatten() {
                let mut tfm = algorithm
                    .prepare(&settings.unwrap())
                    .unwrap()
                    .tfm()
                    .unwrap();
                let (mut object, mut back) = ([0u8; 8192], [0u8; 4096]);
                let before = CALLS.get();
                for page in &pages {
                    let len = tfm.compress(page, &mut object).unwrap();
                    tfm.decompress(&object[..len], &mut back).unwrap();
                    let _ = tfm.decompress(page, &mut back);
                }
                let driver = algorithm.driver_name();
                assert_eq!(CALLS.get(), before, "{driver} {params:?} allocated");
            }
        }
    }
}
