//! Recipes: the command line of each record that `uzram bench fio` makes, with the goals for it, so that a record is made
//! again by one short command. An option that the user gives takes the place of the recipe's own, which is how a recipe is tried out.

use std::ffi::OsString;

use clap::Parser;

use super::fio;
use crate::failure::Result;

/// A run of fio with options and goals of its own.
pub(super) struct Recipe {
    pub(super) name: &'static str,
    pub(super) about: &'static str,
    /// Options and values, as on a command line.
    options: &'static str,
    goals: fn() -> Vec<String>,
}

pub(super) const RECIPES: &[Recipe] = &[
    Recipe {
        name: "nbd",
        about: "NBD beside nbdkit, 4 KiB at random",
        options: "--size 256M --buffers 50% --jobs 1 --only rand-write,rand-read --targets \
            nbdkit-memory:allocator=zstd,nbdkit-memory:allocator=malloc,\
            uzram:nbd:zstd,uzram:nbd:lzhs,uzram:nbd:lz4,uzram:nbd:wk64,uzram:nbd:null \
            --beside nbdkit-memory:allocator=malloc --bs 4K --iodepth 1,32 --seconds 1 --rounds 7",
        goals: nbd,
    },
    Recipe {
        name: "nbd-fill",
        about: "NBD beside nbdkit, filled in requests of 128 KiB",
        options: "--size 256M --buffers 50% --jobs 1 --only seq-write,rand-write --targets \
            nbdkit-memory:allocator=zstd,uzram:nbd:zstd,uzram:nbd:lzhs,uzram:nbd:lz4,uzram:nbd:wk64 \
            --bs 128K --iodepth 1,8 --rounds 3",
        goals: || {
            let cells = ["seq-write", "rand-write"];
            let at = |(cell, depth)| DENSE.map(|ours| goal(cell, 128, depth, ours, ZSTD, 3.0));
            each(&cells, &[1, 8]).flat_map(at).collect()
        },
    },
    Recipe {
        name: "loop",
        about: "loop on FUSE beside the kernel's zram",
        options: "--size 256M --buffers 50% --jobs 1 --only rand-write,rand-read --targets \
            kernel-zram:lz4,uzram:fuse-loop(fuse-uring=on):lz4,uzram:fuse-loop(fuse-uring=off):lz4,\
            uzram:fuse-loop(fuse-uring=on):wk64,uzram:fuse-loop(fuse-uring=on):null \
            --beside uzram:fuse-loop(fuse-uring=on):null --beside uzram:fuse-loop(fuse-uring=off):lz4 \
            --bs 4K,128K --iodepth 1,8,32 --seconds 0.7 --rounds 5",
        goals: on_loop,
    },
    Recipe {
        name: "series",
        about: "zram-perf-test's table: the kernel's zram, loop on FUSE, NBD, nbdkit, tmpfs",
        options: "--size 112M --targets kernel-zram:lzo-rle,kernel-zram:lz4,uzram:fuse-loop:lzhs,\
            uzram:fuse-loop:lz4,uzram:nbd:lzhs,nbdkit-memory:allocator=zstd,tmpfs --beside kernel-zram:lz4 \
            --buffers 11% --jobs 1-10 --seconds 0.25 --rounds 3",
        goals: Vec::new,
    },
    Recipe {
        name: "ublk",
        about: "ublk beside the kernel's zram; cargo xtask bench guest runs it in a virtual machine",
        options: "--size 64M --buffers 50% --jobs 1,2 --only rand-write,rand-read --targets \
            kernel-zram:lz4,kernel-zram:zstd,kernel-zram:deflate,\
            uzram:ublk:lz4,uzram:ublk:zstd,uzram:ublk:deflate,uzram:ublk:null \
            --beside kernel-zram:zstd --beside kernel-zram:deflate --beside uzram:ublk:null \
            --bs 4K,128K --iodepth 1,32 --seconds 1 --rounds 5",
        goals: Vec::new,
    },
];

const ZSTD: &str = "nbdkit-memory:allocator=zstd";
/// What is as dense as nbdkit's zstd.
const DENSE: [&str; 2] = ["uzram:nbd:zstd", "uzram:nbd:lzhs"];
const MALLOC: &str = "nbdkit-memory:allocator=malloc";
/// Requests by FUSE over io_uring, and by `/dev/fuse`.
const URING: &str = "uzram:fuse-loop(fuse-uring=on):lz4";
const DEV_FUSE: &str = "uzram:fuse-loop(fuse-uring=off):lz4";
/// An uncompressed RAM file on the same path as the device.
const FLOOR: &str = "uzram:fuse-loop(fuse-uring=on):null";
const RANDOM: [&str; 2] = ["rand-write", "rand-read"];

/// The goal that `ours` reaches at least `least` times the throughput of `theirs`.
fn goal(cell: &str, kib: u32, depth: u32, ours: &str, theirs: &str, least: f64) -> String {
    format!(
        "{cell}, buffer 50%, {kib} KiB, depth {depth}, jobs 1: {ours} over {theirs}, throughput >= {least}"
    )
}

fn each<'a>(cells: &'a [&'a str], depths: &'a [u32]) -> impl Iterator<Item = (&'a str, u32)> {
    let of = |cell: &'a str| depths.iter().map(move |depth| (cell, *depth));
    cells.iter().copied().flat_map(of)
}

fn nbd() -> Vec<String> {
    let zstd = [
        ("rand-write", 32, 10.0),
        ("rand-write", 1, 2.5),
        ("rand-read", 1, 1.0),
        ("rand-read", 32, 1.2),
    ];
    let zstd = zstd
        .into_iter()
        .flat_map(|(cell, depth, least)| DENSE.map(|ours| goal(cell, 4, depth, ours, ZSTD, least)));
    let memory = DENSE.map(|ours| format!("{ours} over {ZSTD}, memory after all cells <= 0.7"));
    let plain = [("uzram:nbd:lz4", 0.9), ("uzram:nbd:null", 1.1)];
    let plain = plain.into_iter().flat_map(|(ours, least)| {
        let places = [("rand-write", 1), ("rand-read", 1), ("rand-read", 32)];
        places.map(|(cell, depth)| goal(cell, 4, depth, ours, MALLOC, least))
    });
    zstd.chain(memory).chain(plain).collect()
}

fn on_loop() -> Vec<String> {
    let at = |kib, depth, theirs: &'static str, least: [f64; 2]| {
        let cells = [(RANDOM[0], least[0]), (RANDOM[1], least[1])];
        cells.map(|(cell, least)| goal(cell, kib, depth, URING, theirs, least))
    };
    let kernel = [
        at(128, 8, "kernel-zram:lz4", [1.3, 1.3]),
        at(4, 32, "kernel-zram:lz4", [0.7, 0.8]),
        at(4, 1, "kernel-zram:lz4", [0.15, 0.2]),
        at(4, 1, FLOOR, [0.9, 0.9]),
    ];
    let settings = [4, 128].map(|kib| [1, 8, 32].map(|depth| (kib, depth)));
    let settings = settings.as_flattened().iter();
    let dev_fuse = settings.flat_map(|(kib, depth)| at(*kib, *depth, DEV_FUSE, [1.0, 1.0]));
    kernel.concat().into_iter().chain(dev_fuse).collect()
}

// The command line of `uzram bench fio`, whose help is that of its arguments.
#[derive(Parser)]
#[command(name = "fio", bin_name = "uzram bench fio")]
struct Fio {
    #[command(flatten)]
    args: fio::Args,
}

impl Recipe {
    pub(super) fn run(&self, args: &[OsString]) -> Result {
        let args: Vec<_> = args.iter().map(|arg| arg.to_string_lossy()).collect();
        let args: Vec<&str> = args.iter().map(|arg| &**arg).collect();
        Fio::parse_from(self.words(&args)).args.run()
    }

    /// Its options, each with its value.
    fn options(&self) -> impl Iterator<Item = (&'static str, &'static str)> {
        let mut words = self.options.split_whitespace();
        std::iter::from_fn(move || Some((words.next()?, words.next()?)))
    }

    /// The words after `uzram bench`: `fio` and what the recipe and the user say.
    fn words(&self, args: &[&str]) -> Vec<String> {
        let has = |option: &str| {
            let mut names = args.iter().map(|arg| arg.split('=').next());
            names.any(|name| name == Some(option))
        };
        let given = |option: &str| match option {
            "--size" | "--rounds" => has(option) || has("--quick"),
            // How long a cell runs can be said in two ways, of which one goes.
            "--seconds" => has(option) || has("--loops") || has("--quick"),
            _ => has(option),
        };
        let mut words = vec!["fio".to_owned()];
        for (option, value) in self.options().filter(|(option, _)| !given(option)) {
            words.extend([option.to_owned(), value.to_owned()]);
        }
        for goal in (self.goals)() {
            words.extend(["--goal".to_owned(), goal]);
        }
        words.extend(args.iter().map(ToString::to_string));
        words
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn recipe(name: &str) -> &'static Recipe {
        RECIPES.iter().find(|recipe| recipe.name == name).unwrap()
    }

    #[test]
    fn what_the_user_gives_takes_the_recipes_place() {
        let nbd = recipe("nbd");
        let words = nbd.words(&["--rounds", "1", "--seconds=0.2", "--record", "a.json"]);
        for option in ["--rounds", "--iodepth", "--size"] {
            let count = words.iter().filter(|word| *word == option).count();
            assert_eq!(count, 1, "{option}: {words:?}");
        }
        assert!(!words.iter().any(|word| word == "--seconds"), "{words:?}");
        assert!(words.ends_with(&["--record".into(), "a.json".into()]));
        let words = nbd.words(&["--loops=1"]);
        assert!(!words.iter().any(|word| word == "--seconds"), "{words:?}");
        let words = nbd.words(&["--quick"]);
        assert!(!words.iter().any(|word| word == "--size"), "{words:?}");
    }

    /// A goal that fits no row is an error only after the run, so here they are compared with the settings: each is on two
    /// targets of the recipe's, in one of its cells, sizes and depths, over the first target or one that is a base, too.
    #[test]
    fn goals_are_on_what_is_measured() {
        for recipe in RECIPES {
            let value = |wanted: &str| {
                let found = recipe.options().find(|(option, _)| *option == wanted);
                found.map_or("", |(_, value)| value)
            };
            let has = |list: &str, part: &str| value(list).split(',').any(|one| one == part);
            let beside = recipe.options().filter(|(option, _)| *option == "--beside");
            let mut bases: Vec<&str> = beside.map(|(_, target)| target).collect();
            bases.push(value("--targets").split(',').next().unwrap());
            for goal in (recipe.goals)() {
                let (ours, theirs) = goal.split_once(" over ").unwrap();
                let theirs = theirs.split(',').next().unwrap();
                let (setting, ours) = ours.split_once(": ").unwrap_or(("", ours));
                assert!(has("--targets", ours), "{goal}");
                assert!(
                    has("--targets", theirs) && bases.contains(&theirs),
                    "{goal}"
                );
                if setting.is_empty() {
                    continue;
                }
                let parts: Vec<_> = setting.split(", ").collect();
                let [cell, buffer, size, depth, jobs] = parts[..] else {
                    panic!("{goal}");
                };
                assert!(has("--only", cell), "{goal}");
                assert!(has("--buffers", &buffer["buffer ".len()..]), "{goal}");
                assert!(has("--bs", &size.replace(" KiB", "K")), "{goal}");
                assert!(has("--iodepth", &depth["depth ".len()..]), "{goal}");
                assert!(has("--jobs", &jobs["jobs ".len()..]), "{goal}");
            }
        }
    }
}
