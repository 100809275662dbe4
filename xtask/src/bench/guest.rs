//! `cargo xtask bench guest`: the options, and the run in the virtual machine; `uzram-bench` makes a record of what it saves.

use std::fs;

use anyhow::{Context, Result, bail};

use super::others::{self, Others};
use super::{PROGRAM, sh};
use crate::guest::{self, Parameters};

const USAGE: &str = "\
usage: cargo xtask bench guest [OPTIONS]

  --quick        one round of a few cells: a smoke test, its figures mean little
  --rounds N     how often each cell is measured (default: 5)
  --seconds N    how long each measurement takes (default: 1)
  --again        no new run: the tables of the last one
  --record FILE  write the figures to FILE as JSON, too";

/// The test in the guest that measures.
const TEST: &str = "bench-ublk";

#[derive(Debug, Default, PartialEq, Eq)]
struct MeasureOptions<'a> {
    quick: bool,
    rounds: Option<u32>,
    seconds: Option<u32>,
    again: bool,
    record: Option<&'a str>,
}

impl<'a> MeasureOptions<'a> {
    fn parse(args: &[&'a str]) -> Result<MeasureOptions<'a>> {
        let mut options = MeasureOptions::default();
        let mut args = args.iter().copied();
        while let Some(arg) = args.next() {
            let mut number = || {
                let value = args.next().and_then(|word| word.parse().ok());
                let value = value.filter(|n| *n > 0);
                value.with_context(|| format!("{arg} needs a number, 1 or more"))
            };
            match arg {
                "--quick" => options.quick = true,
                "--rounds" => options.rounds = Some(number()?),
                "--seconds" => options.seconds = Some(number()?),
                "--again" => options.again = true,
                "--record" => {
                    let file = args.next().context("--record needs a file name")?;
                    options.record = Some(file);
                }
                _ => bail!("'{arg}' is not understood\n{USAGE}"),
            }
        }
        Ok(options)
    }

    fn parameters(&self) -> Result<Parameters> {
        let usual = if self.quick { 1 } else { 5 };
        Parameters::default()
            .with("rounds", self.rounds.unwrap_or(usual))?
            .with("seconds", self.seconds.unwrap_or(1))?
            .with("cells", if self.quick { "few" } else { "all" })?
            .with("size", if self.quick { "64M" } else { "128M" })
    }
}

pub(crate) fn bench(args: &[&str]) -> Result<()> {
    if let ["--help" | "-h"] = args {
        println!("{USAGE}");
        return Ok(());
    }
    let options = MeasureOptions::parse(args)?;
    let saved = guest::results().join(TEST);
    if !options.again {
        let (others, commit) = (Others::watch(), others::commit());
        let saved = guest::measure(TEST, &options.parameters()?)?;
        fs::write(saved.join(others::OTHERS), others.seen())?;
        fs::write(saved.join(others::COMMIT), commit)?;
    }
    let saved = saved.display().to_string();
    let mut words = vec!["guest", &saved];
    words.extend(options.record.into_iter().flat_map(|path| ["--json", path]));
    sh::run(sh::cargo(&[PROGRAM, &words].concat()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn options_are_read() {
        let options = MeasureOptions::parse(&["--rounds", "7", "--record", "x"]).unwrap();
        assert_eq!((options.rounds, options.record), (Some(7), Some("x")));
        let line = options.parameters().unwrap().append();
        assert!(line.contains("rounds=7") && line.contains("cells=all"));
        let options = MeasureOptions::parse(&["--quick"]).unwrap();
        assert!(options.parameters().unwrap().append().contains("rounds=1 "));
        for wrong in [
            &["--rounds"][..],
            &["--rounds", "0"],
            &["--record"],
            &["core"],
        ] {
            assert!(MeasureOptions::parse(wrong).is_err(), "{wrong:?}");
        }
    }
}
