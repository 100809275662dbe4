//! `uzram set`: changes settings of a device that is in use.

use std::str::FromStr;

use uzram::PolicySettings;
use uzram::compress::AlgorithmSpec;
use uzram_control::zram::{Attribute, AttributeOwner, AttributePlace};
use uzram_control::{Request, Response, size, to_hex};

use uzram_runtime::{choice, files};
use uzram_spec::{BackingSpec, Erase, MemLimit, SelfTraining};

use super::ask;
use super::remote::known_backing;
use super::view::{failed, id, view};
use crate::exit::{self, Failure, Result};
use uzram_runtime::sweep;

/// Change settings of a device that is in use
///
/// What is written from now on is compressed with the new algorithm; what is stored stays as it is until it is written
/// again. Settings outlive the server and upgrades.
#[derive(clap::Args)]
#[command(after_help = "\
Examples:
  uzram set zram0 algorithm='zstd(level=1)'
  uzram set zram0 'algorithm=zstd(level=-1,dict=heap.dict)' mem_limit=512M
  uzram set zram0 recomp_algorithm='zstd(level=9,priority=2)'
  uzram set zram0 recomp_algorithm=none
  uzram set zram0 backing=/var/tmp/zram0.store,4G writeback_limit=100000
  uzram set zram0 disksize=16G
  uzram set zram0 policy=auto,cpu=20")]
pub(crate) struct Args {
    /// The device: its name, its path or its URI
    name: String,
    /// KEY=VALUE: algorithm=ALGORITHM, as for "uzram create"; recomp_algorithm=ALGORITHM for recompression, with
    /// priority=1 (the default) to 3 among the parameters, "none" to remove it; mem_limit=SIZE or total:SIZE, 0 for none; disksize=SIZE, both also as 50% of the memory;
    /// backing=FILE[,SIZE] (a file is made if it is not there), backing=DEVICE (what is on it is lost) or backing=NAME/PREFIX[,SIZE]
    /// of a remote, "none" to bring all back and give it up;
    /// writeback_limit=PAGES, "none" for none; track_ages=on or off; policy=POLICY, train=auto or off, dedup=on or off
    /// and erase=on-free or off, as for "uzram create"
    #[arg(required = true, value_name = "SETTING")]
    settings: Vec<Setting>,
    /// Make the disk smaller although it is in use: whoever uses it loses what lies beyond the new end
    #[arg(long)]
    force: bool,
    /// Allow a backing or a dictionary that another user owns or may write to, who can then read or change what the device
    /// holds
    #[arg(long)]
    allow_foreign_files: bool,
}

#[derive(Clone)]
enum Setting {
    Algorithm(AlgorithmSpec),
    RecompAlgorithm(AlgorithmSpec),
    MemLimit(MemLimit),
    Erase(Erase),
    Train(SelfTraining),
    Policy(PolicySettings),
    Disksize(u64),
    Backing(Option<BackingSpec>),
    WritebackLimit(Option<u64>),
    TrackAges(bool),
    Dedup(bool),
    /// An attribute of zram's interface, which no setting of ours stands for.
    Attribute(&'static str, String),
}

impl FromStr for Setting {
    type Err = String;

    fn from_str(text: &str) -> std::result::Result<Setting, String> {
        let spec = |value: &str| {
            value
                .parse()
                .map_err(|e: uzram::compress::Error| e.to_string())
        };
        match text.split_once('=') {
            Some(("algorithm" | "comp_algorithm", value)) => spec(value).map(Setting::Algorithm),
            Some(("recomp_algorithm", value)) => spec(value).map(Setting::RecompAlgorithm),
            Some(("mem_limit", value)) => {
                let limit = value.parse::<MemLimit>();
                limit.map(Setting::MemLimit).map_err(|e| e.to_string())
            }
            Some(("erase", value)) => value.parse().map(Setting::Erase),
            Some(("train", value)) => value.parse().map(Setting::Train),
            Some(("policy", value)) => {
                let settings: std::result::Result<_, uzram::Error> = value.parse();
                settings.map(Setting::Policy).map_err(|e| e.to_string())
            }
            Some(("disksize", value)) => {
                let bytes = size::parse_share(value).map_err(|e| e.to_string())?;
                Ok(Setting::Disksize(bytes))
            }
            Some(("backing" | "backing_dev", "none")) => Ok(Setting::Backing(None)),
            Some(("backing" | "backing_dev", value)) => {
                BackingSpec::parse(value).map(Some).map(Setting::Backing)
            }
            Some(("writeback_limit", "none")) => Ok(Setting::WritebackLimit(None)),
            Some(("writeback_limit", value)) => {
                let pages = value
                    .parse()
                    .map_err(|_| "writeback_limit: a number of pages, or none")?;
                Ok(Setting::WritebackLimit(Some(pages)))
            }
            Some(("track_ages", "on")) => Ok(Setting::TrackAges(true)),
            Some(("track_ages", "off")) => Ok(Setting::TrackAges(false)),
            Some(("track_ages", _)) => Err("track_ages: on or off".into()),
            Some(("dedup", "on")) => Ok(Setting::Dedup(true)),
            Some(("dedup", "off")) => Ok(Setting::Dedup(false)),
            Some(("dedup", value)) => Err(format!("dedup is on or off, not '{value}'")),
            Some((key, value)) => match Attribute::find(AttributePlace::Device, key) {
                Some(attribute) if attribute.store.is_some() => {
                    Ok(Setting::Attribute(attribute.name, value.into()))
                }
                _ => Err(format!(
                    "no setting '{key}' (there are: algorithm, recomp_algorithm, mem_limit, disksize, backing, \
                     writeback_limit, track_ages, policy, train, dedup, erase, and the attributes of zram's interface that can be \
                     written: \"uzram help attributes\")"
                )),
            },
            None => Err("give KEY=VALUE, such as mem_limit=512M".into()),
        }
    }
}

impl Args {
    pub(crate) fn run(self) -> Result {
        // All files are read before anything is changed.
        let (force, allow_foreign) = (self.force, self.allow_foreign_files);
        let steps = self.settings.into_iter();
        let steps: Result<Vec<Step>> = steps.map(|s| s.step(force, allow_foreign)).collect();
        let steps = steps?;
        for (done, step) in steps.iter().enumerate() {
            step.take(&self.name).map_err(|failure| match done {
                0 => failure,
                _ => failure.with_note("the settings before it were made"),
            })?;
        }
        Ok(())
    }
}

/// One thing to do.
enum Step {
    /// Through the server.
    Request(Request),
    /// Through zram's interface.
    Attribute(&'static str, String),
}

impl Step {
    fn take(&self, name: &str) -> Result {
        match self {
            Step::Request(request) => {
                let entry = sweep::swept_run_dir()?.find(name)?;
                if let Response::Did { what } = ask(&entry, request)? {
                    what.iter().for_each(exit::tell);
                }
                Ok(())
            }
            Step::Attribute(attribute, value) => {
                let view = view()?;
                let id = id(&*view, name)?;
                let stored = view.store(AttributeOwner::Device(id), attribute, value.as_bytes());
                stored.map_err(|errno| failed(&format!("zram{id}: {attribute}"), errno))
            }
        }
    }
}

impl Setting {
    fn step(self, force: bool, allow_foreign: bool) -> Result<Step> {
        Ok(Step::Request(match self {
            Setting::Attribute(attribute, value) => return Ok(Step::Attribute(attribute, value)),
            Setting::MemLimit(MemLimit::Pool(bytes)) => Request::SetMemLimit { bytes: bytes.0 },
            Setting::MemLimit(MemLimit::Total(bytes)) => Request::SetTotalLimit { bytes: bytes.0 },
            Setting::Erase(erase) => Request::SetErase {
                on_free: erase == Erase::OnFree,
            },
            Setting::Train(train) => Request::SetSelfTraining {
                on: train == SelfTraining::Auto,
            },
            Setting::Policy(settings) => Request::SetPolicy {
                spec: settings.to_string(),
            },
            Setting::Disksize(bytes) => Request::Resize { bytes, force },
            Setting::Backing(backing) => {
                let backing = backing.map(known_backing).transpose()?;
                let (path, size_bytes) = backing.map_or((None, None), |b| {
                    let path = if b.is_remote() {
                        b.remote.into()
                    } else {
                        b.path
                    };
                    (Some(path), b.size.map(|size| size.0))
                });
                Request::SetBacking {
                    path,
                    size_bytes,
                    allow_foreign,
                }
            }
            Setting::WritebackLimit(pages) => Request::SetWritebackLimit { pages },
            Setting::TrackAges(on) => Request::TrackAges { on },
            Setting::Dedup(on) => Request::SetDedup { on },
            Setting::Algorithm(spec) => set_algorithm(0, spec, allow_foreign)?,
            Setting::RecompAlgorithm(spec) => set_secondary(spec, allow_foreign)?,
        }))
    }
}

fn set_secondary(mut spec: AlgorithmSpec, allow_foreign: bool) -> Result<Request> {
    let priority = choice::take_priority(&mut spec)?.unwrap_or(1);
    if spec.name != "none" {
        return set_algorithm(priority, spec, allow_foreign);
    }
    if let Some((key, _)) = spec.params.first() {
        let message = format!("'none' has no parameter '{key}' (it takes: priority)");
        return Err(Failure::usage(message));
    }
    Ok(Request::SetAlgorithm {
        priority,
        algorithm: String::new(),
        dictionary: String::new(),
    })
}

fn set_algorithm(priority: usize, mut spec: AlgorithmSpec, allow_foreign: bool) -> Result<Request> {
    let dictionary = spec.params.iter().find(|(key, _)| key == "dict");
    if let Some((_, path)) = dictionary.filter(|(_, path)| !path.is_empty()) {
        files::check_one("dictionary", &std::path::absolute(path)?, allow_foreign)?;
    }
    let dictionary = choice::take_dictionary(&mut spec)?;
    // Found now and not when half of the settings are made.
    let check = uzram::Device::builder(4096).choose(choice::with(spec.clone(), &dictionary));
    check.build()?;
    Ok(Request::SetAlgorithm {
        priority,
        algorithm: spec.to_string(),
        dictionary: to_hex(&dictionary),
    })
}
