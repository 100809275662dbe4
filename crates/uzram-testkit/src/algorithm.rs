//! An algorithm that trains itself, for the tests of devices: zstd, and so slow where pages come out large that a dictionary
//! that makes them much smaller always makes compression faster, on the busiest machine.

use std::sync::{Arc, OnceLock};

use uzram_compress::{
    Algorithm, Decoder, DictionarySpec, Error, KnownAnswer, ParamSpec, Prepared, Registry,
    Settings, Tfm,
};

/// Its name.
pub const SELF_TRAINED: &str = "zstd-trained";

/// Bytes of an object for which a page is compressed once more.
const SLOWER: usize = 384;

/// The built-in algorithms, and [`SELF_TRAINED`]. Tested once for all.
pub fn with_self_trained() -> Registry {
    static ALL: OnceLock<Registry> = OnceLock::new();
    let make = || {
        let mut registry = Registry::builtin();
        let zstd = registry.find("zstd-libzstd").expect("a build with zstd");
        let own = Arc::new(SelfTrained(zstd.clone()));
        registry.register(own).expect("zstd by another name");
        registry
    };
    ALL.get_or_init(make).clone()
}

struct SelfTrained(Arc<dyn Algorithm>);
struct SelfTrainedPrepared(Arc<dyn Prepared>);
struct SelfTrainedTfm(Box<dyn Tfm>);

impl Algorithm for SelfTrained {
    fn name(&self) -> &'static str {
        SELF_TRAINED
    }
    fn driver_name(&self) -> &'static str {
        SELF_TRAINED
    }
    fn priority(&self) -> i32 {
        0
    }
    fn summary(&self) -> &'static str {
        "zstd, trained by the device"
    }
    fn params(&self) -> &'static [ParamSpec] {
        self.0.params()
    }
    fn dictionary(&self) -> Option<DictionarySpec> {
        self.0.dictionary()
    }
    fn trains_itself(&self) -> bool {
        true
    }
    fn known_answers(&self) -> &'static [KnownAnswer] {
        self.0.known_answers()
    }
    fn prepare(&self, settings: &Settings) -> Result<Arc<dyn Prepared>, Error> {
        Ok(Arc::new(SelfTrainedPrepared(self.0.prepare(settings)?)))
    }
}

impl Prepared for SelfTrainedPrepared {
    fn tfm(&self) -> Result<Box<dyn Tfm>, Error> {
        Ok(Box::new(SelfTrainedTfm(self.0.tfm()?)))
    }
    fn decoder(&self) -> Result<Box<dyn Decoder>, Error> {
        self.0.decoder()
    }
    fn memory_bytes(&self) -> usize {
        self.0.memory_bytes()
    }
}

impl Tfm for SelfTrainedTfm {
    fn compress(&mut self, src: &[u8], dst: &mut [u8]) -> Result<usize, Error> {
        let len = self.0.compress(src, dst)?;
        for _ in 0..len / SLOWER {
            self.0.compress(src, dst)?;
        }
        Ok(len)
    }
    fn decompress(&mut self, src: &[u8], dst: &mut [u8]) -> Result<usize, Error> {
        self.0.decompress(src, dst)
    }
    fn memory_bytes(&self) -> usize {
        self.0.memory_bytes()
    }
}
