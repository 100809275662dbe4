//! Compares codecs with a trained dictionary: `cargo run --release -p uzram-compress --example dictionaries -- [--bytes N]
//! [--rounds N] [--pages N] [--codec SPEC]... FILE...`. Each file is a kind of pages, such as `cargo xtask corpus` makes.
//!
//! Every second run of 128 pages trains the dictionary, and it is judged by pages of the others. All codecs take turns of
//! 32 pages, in each round of a file. A turn's time is the least of all rounds, so that other processes hardly matter; figures
//! of speed are over the first codec's. `SPEC` is `DRIVER(level=N)`, with `-` before it for one without the dictionary. Every page is compared with itself on its
//! way back.

use std::error::Error;
use std::sync::Arc;
use std::time::{Duration, Instant};

use uzram_compress::{AlgorithmSpec, Registry, Settings, Tfm, dictionary};

const PAGE: usize = 4096;
/// Pages of a run that trains, or judges.
const RUN: usize = 128;
/// Pages that the codecs do in turn.
const TURN: usize = 32;

type Result<T> = std::result::Result<T, Box<dyn Error>>;

/// A codec and what it has done.
struct Contestant {
    tfm: Box<dyn Tfm>,
    shared: usize,
    stored: usize,
    /// By turn the least time to write and to read.
    times: Vec<[Duration; 2]>,
}

fn main() -> Result<()> {
    let usage =
        "usage: dictionaries [--bytes N] [--rounds N] [--pages N] [--codec SPEC]... FILE...";
    let (mut bytes, mut rounds, mut most) = (dictionary::DEFAULT_BYTES, 15, 512);
    let (mut codecs, mut paths) = (Vec::new(), Vec::new());
    let mut args = std::env::args().skip(1);
    while let Some(arg) = args.next() {
        let mut value = || args.next().ok_or(usage);
        match arg.as_str() {
            "--bytes" => bytes = value()?.parse()?,
            "--rounds" => rounds = value()?.parse()?,
            "--pages" => most = value()?.parse()?,
            "--codec" => codecs.push(value()?),
            _ if arg.starts_with('-') => return Err(usage.into()),
            _ => paths.push(arg),
        }
    }
    if codecs.is_empty() {
        let usual = [
            "zstd-libzstd(level=1)",
            "zstd-libzstd(level=3)",
            "zstd-uzram",
            "-zstd-uzram",
        ];
        codecs.extend(usual.map(String::from));
    }
    println!("ratio, then write and read over the first codec's");
    let mut logs = vec![[0.0; 3]; codecs.len()];
    for path in &paths {
        let all = std::fs::read(path)?;
        let (pages, _) = all.as_chunks::<PAGE>();
        let pages: Vec<_> = pages.iter().filter(|page| !same_filled(page)).collect();
        let runs = |odd| {
            let runs = pages.chunks(RUN).skip(odd).step_by(2);
            runs.flatten().copied().collect::<Vec<_>>()
        };
        let samples: Vec<&[u8]> = runs(0).into_iter().map(|page| &page[..]).collect();
        let mut judged = runs(1);
        let step = (judged.len() / most).max(1);
        judged = judged.into_iter().step_by(step).take(most).collect();
        let mut field = Vec::new();
        for codec in &codecs {
            field.push(Contestant::new(codec, &samples, bytes)?);
        }
        for round in 0..rounds {
            for contestant in &mut field {
                contestant.stored = 0;
            }
            for (turn, pages) in judged.chunks(TURN).enumerate() {
                for place in 0..field.len() {
                    let who = (place + turn + round) % field.len();
                    field[who].turn(turn, pages)?;
                }
            }
        }
        let name = path.rsplit('/').next().unwrap_or(path);
        print!("{name:32}");
        for (who, logs) in field.iter().zip(&mut logs) {
            let ratio = (judged.len() * PAGE) as f64 / who.stored as f64;
            let [write, read] = [0, 1].map(|way| who.beside(&field[0], way));
            let first = field[0].stored as f64 / who.stored as f64;
            print!("  {ratio:6.3} {write:4.2}/{read:4.2}");
            for (sum, value) in logs.iter_mut().zip([first, write, read]) {
                *sum += value.ln();
            }
        }
        println!();
        if Some(path) == paths.last() {
            for (codec, who) in codecs.iter().zip(&field) {
                let tfm = who.tfm.memory_bytes();
                println!("{codec}: {tfm} bytes a worker, {} shared", who.shared);
            }
        }
    }
    for (codec, logs) in codecs.iter().zip(&logs) {
        let [ratio, write, read] = logs.map(|sum| (sum / paths.len() as f64).exp());
        println!("{codec}: {ratio:.3} as dense, {write:.2}/{read:.2}, geometric means");
    }
    Ok(())
}

fn same_filled(page: &[u8; PAGE]) -> bool {
    page.windows(9).all(|bytes| bytes[0] == bytes[8])
}

impl Contestant {
    fn new(codec: &str, samples: &[&[u8]], bytes: usize) -> Result<Contestant> {
        let (codec, alone) = match codec.strip_prefix('-') {
            Some(codec) => (codec, true),
            None => (codec, false),
        };
        let spec: AlgorithmSpec = codec.parse()?;
        let registry = Registry::builtin();
        let algorithm = &**registry.find(&spec.name)?;
        let params = spec.params.iter().map(|(key, value)| (key, value));
        let mut settings = Settings::new(algorithm, PAGE, params)?;
        if !alone {
            let form = algorithm.dictionary().ok_or("it takes no dictionary")?;
            let trained = dictionary::train(form, 1, samples, bytes)?;
            settings = settings.with_dictionary(algorithm, Arc::from(trained))?;
        }
        let prepared = algorithm.prepare(&settings)?;
        Ok(Contestant {
            tfm: prepared.tfm()?,
            shared: prepared.memory_bytes(),
            stored: 0,
            times: Vec::new(),
        })
    }

    fn turn(&mut self, number: usize, pages: &[&[u8; PAGE]]) -> Result<()> {
        let mut objects = [[0; 2 * PAGE]; TURN];
        let (mut lens, mut back) = ([0; TURN], [[0; PAGE]; TURN]);
        let begin = Instant::now();
        for ((page, object), len) in pages.iter().zip(&mut objects).zip(&mut lens) {
            *len = self.tfm.compress(&page[..], object)?;
        }
        let middle = Instant::now();
        for ((object, len), back) in objects.iter().zip(lens).zip(&mut back).take(pages.len()) {
            self.tfm.decompress(&object[..len], back)?;
        }
        let end = Instant::now();
        if pages.iter().zip(&back).any(|(page, back)| *page != back) {
            return Err("other bytes came back".into());
        }
        if self.times.len() == number {
            self.times.push([Duration::MAX; 2]);
        }
        let [write, read] = &mut self.times[number];
        *write = (middle - begin).min(*write);
        *read = (end - middle).min(*read);
        self.stored += lens.iter().map(|len| (*len).min(PAGE)).sum::<usize>();
        Ok(())
    }

    /// The speed over that of `other`.
    fn beside(&self, other: &Contestant, way: usize) -> f64 {
        let [own, other] =
            [self, other].map(|who| who.times.iter().map(|both| both[way]).sum::<Duration>());
        other.as_secs_f64() / own.as_secs_f64()
    }
}
