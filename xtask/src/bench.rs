//! `cargo xtask bench NAME`: each benchmark by one short command. All but three are the laboratory of `uzram-bench`, which is
//! asked for its list; `guest` measures ublk beside the kernel's zram in a virtual machine, `contention` is in a build of its
//! own, `chart` draws the README's picture.

use std::fs;

use anyhow::{Context, Result, bail};

use crate::guest::{self, Parameters};
use crate::{setup, sh};

/// Builds `uzram-bench` for speed, and runs it.
const RUN: &[&str] = &["run", "--release", "--quiet", "--bin", "uzram-bench"];
const RIVALS: &[&str] = &["--features", "uzram-bench/rivals"];
/// The build that counts has a directory of its own: others would be built anew after it.
const CONTENTION: &[&str] = &[
    "--target-dir",
    "target/contention",
    "--features",
    "uzram-bench/contention",
];

/// Runs a command of `uzram-bench`, with all rivals.
pub(crate) fn program(args: &[&str]) -> Result<()> {
    built_with(RIVALS, args)
}

fn built_with(features: &[&str], args: &[&str]) -> Result<()> {
    sh::run(sh::cargo(&[RUN, features, &["--"], args].concat()))
}

/// The record that is drawn, and where its picture is.
const CHART: [&str; 2] = ["bench/record/codecs.json", "docs/ratio-speed.svg"];

const OWN: &str = "
  contention  how often requests find a bin, a slot or a stream taken: in a build that counts
  guest       ublk beside the kernel's zram, in a virtual machine; rounds=N, seconds=N, cells=few, --record FILE
  chart       draw docs/ratio-speed.svg, the README's picture, from its record";

pub(crate) fn bench(args: &[&str]) -> Result<()> {
    match args {
        ["guest", rest @ ..] => in_guest(rest),
        ["contention", ..] => built_with(CONTENTION, &[&["lab"], args].concat()),
        ["chart"] => {
            let [record, picture] = CHART;
            program(&["render", record, "--svg", picture])
        }
        [] | ["--help" | "-h" | "help"] => {
            program(&["lab", "--help"])?;
            println!("{OWN}");
            Ok(())
        }
        _ => {
            setup::setup(setup::PackagePurpose::Test)?;
            // The devices that are measured.
            sh::run(sh::cargo(&[
                "build",
                "--release",
                "--quiet",
                "--features",
                "uzram-bench/rivals",
            ]))?;
            program(&[&["lab"], args].concat())
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
    program(&["render", &record])
}
