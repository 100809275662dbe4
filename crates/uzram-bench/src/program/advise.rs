//! `uzram advise`: samples pages, measures every algorithm on them, and says which to use.

use std::path::PathBuf;
use std::time::Duration;

use serde_json::json;
use uzram::compress::dictionary::{DEFAULT_BYTES, MIN_BYTES};
use uzram_advise::measure::{MeasureOptions, noise_of_all};
use uzram_advise::recommend::recommend_for_kernel;
use uzram_advise::{Advice, Measured, Pick, Sample, kernel, measure, recommend, sample};
use uzram_control::{RunDir, size, zram};

use super::{bar, print};
use crate::failure::{Failure, Result, failed};
use crate::output::{Chart, Look, Series, distinct, file};

/// Say which algorithms fit given memory, and why
///
/// Samples pages, compresses and decompresses them with every algorithm at several levels, with and without a
/// dictionary trained on the other half of them, and recommends one for writes and one for idle pages. Also prints
/// what to tell the kernel's own zram, and by how much the same work differed in speed. Nothing of the sampled memory
/// is kept.
#[derive(clap::Args)]
#[command(group = clap::ArgGroup::new("memory").required(true).args(["pid", "file", "device", "cmd"]))]
#[command(after_help = "\
Examples:
  uzram advise --pid 1234 --pid 1240
  uzram advise --device /dev/ublkb0 --plot advice.svg
  uzram advise --seconds 20 --cmd java -jar service.jar")]
pub(crate) struct Args {
    /// Sample the memory of this process; may be repeated
    #[arg(long, value_name = "PID")]
    pid: Vec<u32>,
    /// Sample this file
    #[arg(long, value_name = "FILE")]
    file: Option<PathBuf>,
    /// Sample this block device: a path, or the name of a uzram device
    #[arg(long, value_name = "DEVICE")]
    device: Option<PathBuf>,
    /// Run this command and sample its processes when they have most memory. Takes the rest of the line, also behind --
    #[arg(long, value_name = "COMMAND", num_args = 1.., allow_hyphen_values = true)]
    cmd: Vec<String>,
    /// End the command after this time, having sampled it
    #[arg(long, value_name = "SECONDS")]
    seconds: Option<u64>,
    /// Pages to sample
    #[arg(long, value_name = "PAGES", default_value_t = 4096)]
    samples: usize,
    /// Longest dictionary to train, 0 for none; lzhs takes 14 KiB, whatever is allowed beyond that
    #[arg(long, value_name = "SIZE", default_value_t = DEFAULT_BYTES as u64, value_parser = size::parse)]
    dictionary_size: u64,
    /// Measure only the algorithms' default levels
    #[arg(long)]
    quick: bool,
    /// Draw capacity against speed, as SVG
    #[arg(long, value_name = "FILE")]
    plot: Option<PathBuf>,
    /// Print JSON
    #[arg(long, short = 'J')]
    json: bool,
}

impl Args {
    pub(crate) fn run(self) -> Result {
        let sizes = MIN_BYTES as u64..=1 << 20;
        if self.dictionary_size != 0 && !sizes.contains(&self.dictionary_size) {
            let (least, most) = sizes.into_inner();
            let message = format!("--dictionary-size takes 0 for none, or {least} to {most} bytes");
            return Err(Failure::usage(message));
        }
        if let Some(path) = &self.plot {
            file::check(path).map_err(failed)?;
        }
        let sample = self.sample()?;
        let options = MeasureOptions {
            dictionary_bytes: self.dictionary_size as usize,
            quick: self.quick,
            ..MeasureOptions::default()
        };
        let bar = bar("measuring {bar:40} {pos}/{len} {eta}");
        let measured = measure(&sample, zram::algorithms(), &options, &mut |done, of| {
            bar.set_length(of as u64);
            bar.set_position(done as u64);
        });
        bar.finish_and_clear();
        let measured = measured?;
        let advice = recommend(&measured);
        let for_kernel = recommend_for_kernel(&measured);
        let (advised, for_kernel) = (advice.as_ref(), for_kernel.as_ref());
        if self.json {
            print(&format!(
                "{:#}\n",
                to_json(&sample, &measured, advised, for_kernel)
            ))?;
        } else {
            print(&to_text(&sample, &measured, advised, for_kernel))?;
        }
        // Last: what was measured is not lost where the picture cannot be written.
        match &self.plot {
            Some(path) => picture(&sample, &measured, advised)
                .svg()
                .and_then(|svg| file::write(path, &svg))
                .map_err(failed),
            None => Ok(()),
        }
    }

    fn sample(&self) -> Result<Sample> {
        // clap does not demand what the group excludes.
        if self.seconds.is_some() && self.cmd.is_empty() {
            return Err(Failure::usage("--seconds is for --cmd"));
        }
        if let Some(path) = &self.file {
            return Ok(sample::from_file(path, self.samples)?);
        }
        if let Some(device) = &self.device {
            let path = match device.to_str() {
                Some(name) if !device.exists() => RunDir::of_user().find(name)?.record.path.into(),
                _ => device.clone(),
            };
            return Ok(sample::from_file(&path, self.samples)?);
        }
        let cmd = match self.cmd.as_slice() {
            // As other programs have it that run commands. A later one is the command's.
            [dashes, rest @ ..] if dashes == "--" => rest,
            all => all,
        };
        if !self.cmd.is_empty() && cmd.is_empty() {
            return Err(Failure::usage("--cmd -- is followed by a command"));
        }
        if let Some((program, args)) = cmd.split_first() {
            let patience = self.seconds.map(Duration::from_secs);
            return Ok(sample::from_command(program, args, self.samples, patience)?);
        }
        Ok(sample::from_processes(&self.pid, self.samples)?)
    }
}

/// How much fits each byte of memory against how fast it is written: a line through the levels of each algorithm, without
/// and with a dictionary; what is recommended is ringed.
fn picture(sample: &Sample, measured: &[Measured], advice: Option<&Advice>) -> Chart {
    // A copy compresses nothing and would take half of the picture.
    let measured = || measured.iter().filter(|one| one.algorithm != "null");
    let place = |one: &Measured| (one.write_mib_s, one.capacity);
    let names = distinct(measured().map(|one| one.algorithm.as_str()));
    let mut series = Vec::new();
    for (group, name) in names.iter().enumerate() {
        for (member, what) in ["", " with a dictionary"].into_iter().enumerate() {
            let its = |one: &&Measured| {
                one.algorithm == *name && usize::from(one.dictionary_bytes > 0) == member
            };
            let mut its: Vec<&Measured> = measured().filter(its).collect();
            if its.is_empty() {
                continue;
            }
            its.sort_by(|a, b| a.write_mib_s.total_cmp(&b.write_mib_s));
            let level = |one: &&Measured| match one.params.trim_start_matches("level=") {
                "" => (*name).to_owned(),
                level => level.to_owned(),
            };
            series.push(Series {
                labels: its.iter().map(level).collect(),
                ..Series::new(
                    format!("{name}{what}"),
                    Look::new(group, member),
                    its.iter().map(|one| place(one)).collect(),
                )
            });
        }
    }
    let advised = advice.into_iter();
    let advised = advised.flat_map(|advice| [Some(&advice.writes), advice.idle.as_ref()]);
    Chart {
        title: format!(
            "{}: {} pages, {:.1} % same-filled; recommended are ringed",
            sample.what,
            sample.sampled,
            sample.same_filled_share() * 100.0
        ),
        x: "written, MiB/s on one thread".into(),
        y: "bytes held for each byte of memory".into(),
        log_x: true,
        lines: true,
        rings: advised
            .flatten()
            .map(|choice| place(&choice.what))
            .collect(),
        series,
        ..Chart::default()
    }
}

fn to_text(
    sample: &Sample,
    measured: &[Measured],
    advice: Option<&Advice>,
    for_kernel: Option<&Advice>,
) -> String {
    let mut text = format!(
        "{}: {} of {} pages, {:.1} % of them same-filled; measured on {}, dictionaries trained on the others\n\n",
        sample.what,
        sample.sampled,
        sample.population,
        sample.same_filled_share() * 100.0,
        sample.measured().len()
    );
    text += &format!(
        "{:<20} {:>10} {:>6} {:>8} {:>5} {:>10} {:>10}\n",
        "ALGORITHM", "DICTIONARY", "RATIO", "CAPACITY", "HUGE", "WRITE", "READ"
    );
    for one in measured {
        text += &format!(
            "{:<20} {:>10} {:>6.2} {:>8.2} {:>4.0}% {:>6.0} MB/s {:>5.0} MB/s\n",
            one.spec(),
            match one.dictionary_bytes {
                0 => "-".into(),
                bytes => size::human(bytes as u64),
            },
            one.ratio,
            one.capacity,
            one.huge_share * 100.0,
            one.write_mib_s * 1.048_576,
            one.read_mib_s * 1.048_576,
        );
    }
    text += "\nRATIO is of the pages that are not same-filled. CAPACITY is bytes held for each byte of memory, all counted.\n";
    text += &noise(measured);
    let Some(advice) = advice else { return text };
    text += "\nuzram:\n";
    text += &pairing(advice);
    text += &format!("  {}\n", create_line(advice));
    if advice.writes.what.dictionary_bytes > 0 {
        text += "  uzram train NAME            # once it holds data\n";
    }
    if advice.idle.is_some() {
        text += "  uzram recompress zram0 --kind idle     # after uzram idle zram0 and some time\n";
    }
    if let Some(advice) = for_kernel {
        text += "\nThe kernel's zram (its algorithms in uzram's implementation):\n";
        text += &pairing(advice);
        for line in kernel::sysfs_lines(advice, "zram0") {
            text += &format!("  {line}\n");
        }
        for note in kernel::requirements(advice, &kernel_algorithms()) {
            text += &format!("  {note}\n");
        }
        text += "\nzram-generator.conf:\n";
        for line in kernel::generator_entry(advice, "zram0").lines() {
            text += &format!("  {line}\n");
        }
    }
    text
}

/// What speeds are worth: by how much the same work differed.
fn noise(measured: &[Measured]) -> String {
    let Some(noise) = noise_of_all(measured) else {
        return "Speeds are of a single round: how much they differ by chance is not known.\n"
            .into();
    };
    let least = noise.max(0.01) * 100.0;
    let speeds = format!("{:.1} %", noise * 100.0);
    format!(
        "Speeds are medians of rounds; the same work differed by {speeds} from one round to the next, so that differences \
         below {least:.0} % say nothing.\n"
    )
}

/// What this machine's zram offers; nothing where it has none.
fn kernel_algorithms() -> String {
    let device = std::fs::read_dir("/sys/block")
        .into_iter()
        .flatten()
        .flatten();
    let attribute = device
        .filter(|entry| entry.file_name().to_string_lossy().starts_with("zram"))
        .find_map(|entry| std::fs::read_to_string(entry.path().join("comp_algorithm")).ok());
    attribute.unwrap_or_default()
}

fn pairing(advice: &Advice) -> String {
    let line = |what: &str, choice: &Pick| {
        let dictionary = match choice.what.dictionary_bytes {
            0 => "",
            _ => " with a dictionary",
        };
        format!(
            "  {what:<12} {}{dictionary}: {}\n",
            choice.what.spec(),
            choice.why
        )
    };
    let mut text = line("writes", &advice.writes);
    if let Some(idle) = &advice.idle {
        text += &line("idle pages", idle);
    }
    for note in &advice.notes {
        text += &format!("  {note}\n");
    }
    text
}

/// The command that makes such a device.
fn create_line(advice: &Advice) -> String {
    let mut line = format!("uzram create --algorithm '{}'", advice.writes.what.spec());
    if let Some(idle) = &advice.idle {
        line += &format!(" --recomp-algorithm '{}'", idle.what.spec());
    }
    line
}

fn to_json(
    sample: &Sample,
    measured: &[Measured],
    advice: Option<&Advice>,
    for_kernel: Option<&Advice>,
) -> serde_json::Value {
    json!({
        "sample": {
            "what": sample.what,
            "population_pages": sample.population,
            "sampled_pages": sample.sampled,
            "same_filled_share": sample.same_filled_share(),
            "measured_pages": sample.measured().len(),
        },
        "noise": noise_of_all(measured),
        "measured": measured,
        "advice": advice,
        "create": advice.map(create_line),
        "kernel": for_kernel.map(|advice| json!({
            "advice": advice,
            "sysfs": kernel::sysfs_lines(advice, "zram0"),
            "zram_generator": kernel::generator_entry(advice, "zram0"),
            "requirements": kernel::requirements(advice, &kernel_algorithms()),
        })),
    })
}
