//! `uzram algorithms`: what this build can compress with.

use serde_json::{Value, json};
use uzram::compress::{Algorithm, ParamKind};
use uzram_control::zram;

use super::{print, print_json};
use crate::exit::{self, Result};

/// List the compression algorithms of this build
///
/// A name stands for a format; several drivers may serve it, of which the one of highest priority is used.
/// A driver's name selects exactly that one.
#[derive(clap::Args)]
#[command(after_help = "\
Examples:
  uzram algorithms
  uzram create --algorithm lz4-flex
  uzram create --algorithm 'zstd(level=1,dict=/usr/share/heap.dict)'")]
pub(crate) struct Args {
    /// Print in the shape of /proc/crypto
    #[arg(long)]
    proc_crypto: bool,
    /// Print JSON
    #[arg(long, short = 'J', conflicts_with = "proc_crypto")]
    json: bool,
}

impl Args {
    pub(crate) fn run(self) -> Result {
        let registry = zram::algorithms();
        for error in zram::algorithms_left_out() {
            exit::tell(format!("left out: {error}"));
        }
        if self.proc_crypto {
            return print(&registry.to_string());
        }
        if self.json {
            let all: Vec<Value> = registry.iter().map(|one| described(&**one)).collect();
            return print_json(&all.into());
        }
        let mut out = format!(
            "{:10} {:20} {:>8}  {}\n",
            "NAME", "DRIVER", "PRIORITY", "WHAT"
        );
        for algorithm in registry.iter() {
            let (name, driver) = (algorithm.name(), algorithm.driver_name());
            let (priority, summary) = (algorithm.priority(), algorithm.summary());
            out.push_str(&format!("{name:10} {driver:20} {priority:>8}  {summary}\n"));
            let params = algorithm.params().iter();
            let params =
                params.map(|param| format!("{}: {} ({})", param.name, param.doc, param.kind));
            let dictionary = algorithm.dictionary();
            let dictionary = dictionary.map(|spec| format!("dict: file of a dictionary ({spec})"));
            for line in params.chain(dictionary) {
                out.push_str(&format!("{:41}{line}\n", ""));
            }
        }
        print(&out)
    }
}

/// An algorithm with all that the table has.
fn described(algorithm: &dyn Algorithm) -> Value {
    let params = algorithm.params().iter().map(|param| {
        let mut value = json!({
            "name": param.name,
            "doc": param.doc,
            "kind": param.kind.to_string(),
        });
        if let ParamKind::Int { min, max, .. } = param.kind {
            value["min"] = min.into();
            value["max"] = max.into();
        }
        value
    });
    let dictionary = algorithm.dictionary();
    json!({
        "name": algorithm.name(),
        "driver": algorithm.driver_name(),
        "priority": algorithm.priority(),
        "summary": algorithm.summary(),
        "params": params.collect::<Vec<_>>(),
        "dictionary_max_bytes": dictionary.map(|spec| spec.max_bytes),
    })
}
