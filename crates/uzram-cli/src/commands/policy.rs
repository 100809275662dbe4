//! `uzram policy`: what is done in the background for one device, what was done, and what would be done now.

use uzram::{AgentStats, Plan, PlanStep};
use uzram_control::policy::Policy;
use uzram_control::size::human;
use uzram_control::{Request, Response};

use super::{job, print_outcome};
use crate::exit::Result;

/// What policies are, for the help of those who set them.
pub(crate) const HELP: &str = "\
What to do in the background: \"auto\" for everything, \"default\" for compaction alone (on a swap device for nothing), \"none\", or what of it, \
separated by commas, such as \
recompress=300,compact=on or auto,cpu=20,writeback=off:

recompress=AGE  compress pages anew that were not used for so many seconds (or 5m, 2h, 1d), with the algorithms for \
recompression; lzhs becomes one if there is none
least=BYTES     of them only those whose objects have at least so many bytes (a multiple of 64): less dense, and \
faster to read, since the small ones, which save little, stay as they are; memory that is short takes all
train=on        train a dictionary for that, and take it if it pays
writeback=AGE   write pages to the backing that were not used for so long
promote=AGE     bring pages back from the backing that were read within so long, while memory is not short
compact=on      move objects together where that gives enough memory back
high=PERCENT    above that part of the memory limit do all this whatever the age, oldest first
psi=PERCENT     the same without a limit, while tasks of the machine wait for memory that part of the time
cpu=PERCENT     of one CPU for all of it, 10 if not given; five times as much while memory is short
io=BYTES        a second for writing back, 32M if not given; likewise";

/// Show what is done in the background for one device
#[derive(clap::Args)]
#[command(after_help = "\
Examples:
  uzram set zram0 policy=auto
  uzram policy zram0 --dry-run")]
pub(crate) struct Args {
    /// The device: its name, its path or its URI
    name: String,
    /// Say what would be done now, and why or why not; do nothing
    #[arg(long)]
    dry_run: bool,
    /// Print JSON, sizes in bytes
    #[arg(long, short = 'J')]
    json: bool,
}

impl Args {
    pub(crate) fn run(self) -> Result {
        let request = Request::Policy { plan: self.dry_run };
        let policy = job!(&self.name, &request, Response::Policy(policy) => policy);
        print_outcome(self.json, &policy, text(&policy))
    }
}

fn text(policy: &Policy) -> String {
    let mut rows = vec![("policy".to_owned(), policy.settings.clone())];
    rows.extend(done(&policy.done).map(|(name, value)| (name.to_owned(), value)));
    if let Some(plan) = &policy.plan {
        rows.push(("memory".into(), memory(plan)));
        let step = |step: &PlanStep| (format!("  {}", step.policy), planned(step));
        rows.push(("would do now".into(), String::new()));
        rows.extend(plan.steps.iter().map(step));
    }
    let line = |(name, value): &(String, String)| {
        format!("{name:14} {value}").trim_end().to_owned() + "\n"
    };
    rows.iter().map(line).collect()
}

fn done(done: &AgentStats) -> [(&'static str, String); 6] {
    let AgentStats {
        pages_recompressed,
        pages_written_back,
        pages_promoted,
        dictionaries,
        trainings,
        runs,
        reliefs,
        cpu_seconds,
        ..
    } = done;
    let saved = human(done.bytes_saved);
    let written = human(done.bytes_written_back);
    let compacted = human(done.pages_compacted * 4096);
    let last = match done.last.as_str() {
        "" => "nothing yet",
        last => last,
    };
    let agent = format!(
        "{runs} passes, memory short {reliefs} times, {cpu_seconds:.1} s of processor time; last: {last}"
    );
    [
        (
            "recompressed",
            format!("{pages_recompressed} pages, {saved} saved"),
        ),
        (
            "dictionaries",
            format!("{dictionaries} taken of {trainings} trained"),
        ),
        (
            "written back",
            format!("{pages_written_back} pages, {written}"),
        ),
        ("promoted", format!("{pages_promoted} pages")),
        ("compacted", format!("{compacted} given back")),
        ("agent", agent),
    ]
}

fn memory(plan: &Plan) -> String {
    let word = if plan.pressed { "short" } else { "not short" };
    format!("{word}: {}", plan.pressure)
}

fn planned(step: &PlanStep) -> String {
    match step.due {
        true => format!("{} pages, {}: {}", step.pages, human(step.bytes), step.why),
        false => format!("nothing: {}", step.why),
    }
}
