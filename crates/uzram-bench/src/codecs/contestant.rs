//! Who takes part in `bench codecs`: a codec of the registry, a raw library, or a device of the kernel's zram. All
//! hold the same pages, compress a batch of them and decompress it again.

use std::hint::black_box;
use std::ops::Range;
use std::sync::Arc;

use anyhow::{Result, ensure};
use uzram::compress::{Algorithm, DictionaryForm, ParamKind, Registry, Settings, Tfm, dictionary};

use crate::corpus::PAGE;
use crate::rival::Raw;
use crate::zram::{Aligned, Zram};

/// Levels beside the default, where an algorithm has them.
const LEVELS: [i64; 3] = [1, 3, 9];
/// The kernel stores what compresses to no less than this as a whole page (zsmalloc's classes of chains of 8).
pub(super) const HUGE: usize = 3625;
/// Same-filled pages on a device of the kernel's: the block layer alone.
pub(super) const FLOOR: &str = "kernel, same-filled pages";

/// A contestant, with the pages that it holds.
pub(super) struct Contestant {
    /// As in [`super::CodecFigure`].
    pub(super) name: String,
    subject: ContestantKind,
}

enum ContestantKind {
    /// A codec, and its objects.
    Codec(Box<dyn Tfm>, ObjectStore),
    /// An algorithm that trains its tables on every second run of pages that it is given.
    Trained(Arc<dyn Algorithm>, Box<dyn Tfm>, ObjectStore),
    /// The kernel's zram.
    Kernel(KernelContestant),
}

/// What the block layer's device is given.
static SAME: Aligned = Aligned([1; PAGE]);

struct KernelContestant {
    algorithm: &'static str,
    /// Whether it is given [`SAME`] only.
    floor: bool,
    /// While there are pages.
    zram: Option<Zram>,
}

impl KernelContestant {
    fn zram(&self) -> &Zram {
        self.zram.as_ref().expect("it was filled")
    }

    fn write(&self, number: usize, page: &Aligned) -> Result<()> {
        self.zram()
            .write(number, if self.floor { &SAME } else { page })
    }
}

/// Objects, stored back to back.
#[derive(Default)]
struct ObjectStore {
    bytes: Vec<u8>,
    /// Offset and length of each page's object.
    places: Vec<(usize, usize)>,
}

impl ObjectStore {
    /// Compresses all pages.
    fn fill(pages: &[Aligned], tfm: &mut dyn Tfm) -> ObjectStore {
        let (mut store, mut out) = (ObjectStore::default(), [0; 2 * PAGE]);
        for page in pages {
            let len = tfm.compress(&page.0, &mut out).unwrap_or(0);
            store.places.push((store.bytes.len(), len));
            store.bytes.extend_from_slice(&out[..len]);
        }
        store
    }

    fn objects(&self, batch: Range<usize>) -> impl Iterator<Item = &[u8]> {
        self.places[batch]
            .iter()
            .map(|(at, len)| &self.bytes[*at..at + len])
    }

    fn ratio(&self, huge: usize) -> f64 {
        let bytes = |(_, len): &(usize, usize)| if *len >= huge { PAGE } else { *len };
        (self.places.len() * PAGE) as f64 / self.places.iter().map(bytes).sum::<usize>() as f64
    }
}

/// Pages of a run that a collection is trained on, or not.
const RUN: usize = 128;

/// A tfm with a collection of every second run of pages; with the built-in one where that is too little.
fn prepare_trained(algorithm: &dyn Algorithm, pages: &[Aligned]) -> Result<Box<dyn Tfm>> {
    let mut settings = Settings::new(algorithm, PAGE, [("", ""); 0])?;
    let samples = pages.chunks(RUN).step_by(2).flatten();
    let samples: Vec<&[u8]> = samples.map(|page| &page.0[..]).collect();
    if let Some(spec) = algorithm.dictionary()
        && let Ok(trained) = dictionary::train(spec, 0, &samples, dictionary::DEFAULT_BYTES)
    {
        settings = settings.with_dictionary(algorithm, trained.into())?;
    }
    Ok(algorithm.prepare(&settings)?.tfm()?)
}

impl Contestant {
    /// Contestants of a driver: its default level, and others.
    pub(super) fn from_driver(
        registry: &Registry,
        algorithm: &dyn Algorithm,
    ) -> Result<Vec<Contestant>> {
        let driver = algorithm.driver_name();
        let mut levels = vec![None];
        for spec in algorithm
            .params()
            .iter()
            .filter(|spec| spec.name == "level")
        {
            if let ParamKind::Int { min, max, default } = spec.kind {
                let others = LEVELS
                    .iter()
                    .filter(|n| (min..=max).contains(n) && **n != default);
                levels.extend(others.map(|level| Some(level.to_string())));
            }
        }
        let contestant = |level: Option<String>| {
            let level = level.as_ref();
            let name = level.map_or(String::new(), |level| format!(" level={level}"));
            let params = level.map(|level| ("level", level));
            let tfm = registry.prepare(driver, PAGE, params)?.tfm()?;
            Ok(Contestant::from_codec(format!("uzram {driver}{name}"), tfm))
        };
        levels.into_iter().map(contestant).collect()
    }

    /// A driver whose collection is trained on the pages; `None` where it takes none.
    pub(super) fn from_trained(algorithm: &Arc<dyn Algorithm>) -> Result<Option<Contestant>> {
        let spec = algorithm.dictionary();
        if spec.is_none_or(|spec| spec.form != DictionaryForm::Collection) {
            return Ok(None);
        }
        let name = format!("uzram {} trained", algorithm.driver_name());
        let tfm = prepare_trained(&**algorithm, &[])?;
        let subject = ContestantKind::Trained(algorithm.clone(), tfm, ObjectStore::default());
        Ok(Some(Contestant { name, subject }))
    }

    fn from_codec(name: String, tfm: Box<dyn Tfm>) -> Contestant {
        let subject = ContestantKind::Codec(tfm, ObjectStore::default());
        Contestant { name, subject }
    }

    /// A library; `None` if it is missing.
    pub(super) fn from_library(library: &str) -> Option<Contestant> {
        let raw = Box::new(Raw::new(library)?);
        Some(Contestant::from_codec(format!("raw {library}"), raw))
    }

    /// The kernel's zram.
    pub(super) fn from_kernel(algorithm: &'static str) -> Contestant {
        Contestant::on_device(format!("kernel {algorithm}"), algorithm, false)
    }

    /// The cost of the block layer alone.
    pub(super) fn floor() -> Contestant {
        Contestant::on_device(FLOOR.into(), "lzo", true)
    }

    fn on_device(name: String, algorithm: &'static str, floor: bool) -> Contestant {
        let subject = ContestantKind::Kernel(KernelContestant {
            algorithm,
            floor,
            zram: None,
        });
        Contestant { name, subject }
    }

    /// Replaces the pages that it holds, and checks that they read back.
    pub(super) fn fill(&mut self, pages: &[Aligned]) -> Result<()> {
        match &mut self.subject {
            ContestantKind::Codec(tfm, store) => *store = ObjectStore::fill(pages, &mut **tfm),
            ContestantKind::Trained(algorithm, tfm, store) => {
                *tfm = prepare_trained(&**algorithm, pages)?;
                *store = ObjectStore::fill(pages, &mut **tfm);
            }
            ContestantKind::Kernel(kernel) => {
                kernel.zram = None;
                kernel.zram = Some(Zram::new(kernel.algorithm, pages.len())?);
                for (number, page) in pages.iter().enumerate() {
                    kernel.write(number, page)?;
                }
                if kernel.floor {
                    return Ok(());
                }
            }
        }
        let mut back = Vec::new();
        self.decompress(0..pages.len(), |page| back.push(*page));
        let whole = back.len() == pages.len() && back.iter().zip(pages).all(|(a, b)| *a == b.0);
        ensure!(whole, "{} loses a page", self.name);
        Ok(())
    }

    /// Compresses a batch of its pages.
    pub(super) fn compress(&mut self, pages: &[Aligned], batch: Range<usize>) {
        let mut out = [0; 2 * PAGE];
        for number in batch {
            let page = &pages[number];
            match &mut self.subject {
                ContestantKind::Codec(tfm, _) | ContestantKind::Trained(_, tfm, _) => {
                    drop(black_box(tfm.compress(&page.0, &mut out)));
                }
                ContestantKind::Kernel(kernel) => {
                    kernel.write(number, page).expect("the device has room");
                }
            }
            black_box(&out);
        }
    }

    /// Decompresses a batch and passes each page to `to`.
    pub(super) fn decompress(&mut self, batch: Range<usize>, mut to: impl FnMut(&[u8; PAGE])) {
        let mut page = Aligned([0; PAGE]);
        match &mut self.subject {
            ContestantKind::Codec(tfm, store) | ContestantKind::Trained(_, tfm, store) => {
                for object in store.objects(batch) {
                    let len = tfm.decompress(object, &mut page.0);
                    assert_eq!(len, Ok(PAGE), "its own object");
                    to(&page.0);
                }
            }
            ContestantKind::Kernel(kernel) => {
                for number in batch {
                    let read = kernel.zram().read(number, &mut page);
                    read.expect("it was written");
                    to(&page.0);
                }
            }
        }
    }

    /// Bytes of pages over bytes of objects; an object of `huge` bytes or more counts as a page. The kernel's own figure for
    /// its zram; `None` without objects.
    pub(super) fn ratio(&self, pages: usize, huge: usize) -> Result<Option<f64>> {
        Ok(match &self.subject {
            ContestantKind::Codec(_, store) | ContestantKind::Trained(_, _, store) => {
                Some(store.ratio(huge))
            }
            ContestantKind::Kernel(kernel) if kernel.floor => None,
            ContestantKind::Kernel(kernel) => {
                Some((pages * PAGE) as f64 / kernel.zram().compressed_bytes()? as f64)
            }
        })
    }

    /// Bytes of a worker's context; `None` if unknown.
    pub(super) fn context_bytes(&self) -> Option<usize> {
        match &self.subject {
            ContestantKind::Codec(tfm, _) | ContestantKind::Trained(_, tfm, _) => {
                Some(tfm.memory_bytes()).filter(|bytes| *bytes > 0)
            }
            ContestantKind::Kernel(_) => None,
        }
    }
}
