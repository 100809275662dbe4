//! `cargo xtask bench NAME`: each benchmark by one short command. All but three are the laboratory of `uzram-bench`, which is
//! asked for its list; `guest` measures ublk beside the kernel's zram in a virtual machine, `contention` is in a build of its
//! own, `chart` draws the README's picture.

use std::fs;

use anyhow::{Context, Result, bail};

use crate::guest::{self, Parameters};
use crate::{setup, sh};

/// Builds `uzram-bench` for speed, with all rivals, and runs an experiment of the laboratory.
const LIBRARY: &[&str] = &[
    "run",
    "--release",
    "--quiet",
    "--bin",
    "uzram-bench",
    "--features",
    "uzram-bench/rivals",
    "--",
    "lab",
];

/// The same, for any of its commands.
pub(crate) const PROGRAM: &[&str] = LIBRARY.split_at(LIBRARY.len() - 1).0;

/// The record that is drawn, and where its picture is.
const CHART: [&str; 2] = ["bench/record/codecs.json", "docs/ratio-speed.svg"];

const OWN: &str = "
  contention  how often requests find a bin, a slot or a stream taken: in a build that counts
  guest       ublk beside the kernel's zram, in a virtual machine; rounds=N, seconds=N, cells=few, --record FILE
  chart       draw docs/ratio-speed.svg, the README's picture, from its record";

pub(crate) fn bench(args: &[&str]) -> Result<()> {
    match args {
        ["guest", rest @ ..] => in_guest(rest),
        ["contention", ..] => {
            let counting = [
                "--target-dir",
                "target/contention",
                "--features",
                "uzram-bench/contention",
            ];
            let (run, lab) = LIBRARY.split_at(LIBRARY.len() - 4);
            let lab = &lab[lab.len() - 2..];
            sh::run(sh::cargo(&[run, &counting, lab, args].concat()))
        }
        ["chart"] => {
            let [record, picture] = CHART;
            sh::run(sh::cargo(
                &[PROGRAM, &["render", record, "--svg", picture]].concat(),
            ))
        }
        [] | ["--help" | "-h" | "help"] => {
            sh::run(sh::cargo(&[LIBRARY, &["--help"]].concat()))?;
            println!("{OWN}");
            Ok(())
        }
        _ => {
            setup::setup(setup::Purpose::Test)?;
            // The devices that are measured.
            sh::run(sh::cargo(&[
                "build",
                "--release",
                "--quiet",
                "--features",
                "uzram-bench/rivals",
            ]))?;
            sh::run(sh::cargo(&[LIBRARY, args].concat()))
        }
    }
}

/// Runs the recipe `ublk` of the laboratory in a virtual machine, and prints its record.
fn in_guest(args: &[&str]) -> Result<()> {
    let (rest, parameters) = Parameters::split(args)?;
    let copy = match rest.as_slice() {
        [] => None,
        ["--record", file] => Some(file),
        _ => bail!(
            "'{}' is not understood; guest takes:\n{OWN}",
            rest.join(" ")
        ),
    };
    let record = guest::measure("bench-ublk", &parameters)?.join("ublk.json");
    if let Some(copy) = copy {
        fs::copy(&record, copy).with_context(|| format!("writing {copy}"))?;
    }
    let record = record.display().to_string();
    sh::run(sh::cargo(&[PROGRAM, &["render", &record]].concat()))
}
