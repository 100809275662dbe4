//! The attributes that choose algorithms and their parameters.

use std::path::Path;

use uzram::PRIORITIES;

use crate::dictionary::read_dictionary;
use crate::protocol::Request;
use crate::zram::config::{AlgorithmParams, chosen};
use crate::zram::device::{Change, Zram, ask};
use crate::zram::parse::{self, KeyValues};
use crate::zram::{Attribute, Errno, Refusal, Subject, WritableWhen, algorithms};

/// Names of this length or more are refused before they are looked up.
const MAX_NAME: usize = 128;

pub(in crate::zram) const COMP_ALGORITHM: Attribute = Attribute {
    name: "comp_algorithm",
    mode: 0o644,
    since: "3.15",
    about: "the compression algorithm",
    docs: "Shows the names of all algorithms that Linux has, too, and the chosen one in brackets, a space behind each. The chosen \
           one is shown where no kernel has it, as `lzhs`, the default of `uzram create`; to take such a name is not strict. \
           E2BIG for 128 bytes or more, EINVAL for any other name, then EBUSY where the device is initialised. Not strict, \
           an initialised device compresses with it from now on, and all of `uzram algorithms` are shown and taken, as `lzhs` \
           and `null` (no compression).",
    when: WritableWhen::Uninit,
    show: Some(show_comp),
    store: Some(store_comp),
    ..Attribute::OF_DEVICE
};

/// Reads the present algorithms by priority.
pub(super) fn now(zram: &Zram) -> Result<[Option<String>; PRIORITIES], Errno> {
    let stat = zram.stat()?;
    Ok(stat.map_or_else(
        || zram.state().config.algorithms.clone(),
        |stat| algorithms::from_stat(&stat),
    ))
}

fn show_comp(subject: &Subject<'_>) -> Result<String, Errno> {
    let names = now(subject.zram()?)?;
    let primary = names[0].as_deref().unwrap_or_default();
    Ok(algorithms::list(primary, subject.strict()))
}

fn store_comp(subject: &Subject<'_>, text: &[u8]) -> Result<(), Refusal> {
    set(subject, 0, text)
}

/// Sets the algorithm of a priority.
fn set(subject: &Subject<'_>, priority: usize, name: &[u8]) -> Result<(), Refusal> {
    if name.len() >= MAX_NAME {
        return Err(Errno::TOOBIG.into());
    }
    // The kernel strips one newline and ignores another when it compares.
    let name = parse::without_newline(name);
    let mut known = algorithms::names(subject.strict()).into_iter();
    let name = known.find(|known| parse::sysfs_streq(name, known.as_bytes()));
    let name = name.ok_or(Errno::INVAL)?;
    let change = subject.zram()?.change()?;
    if change.live().is_some() && subject.strict() {
        return Err(Errno::BUSY.into());
    }
    let zram = subject.zram()?;
    let params = zram.state().config.params[priority].clone();
    apply(&change, priority, name, &params)?;
    change.set(|config| config.algorithms[priority] = Some(name.into()));
    Ok(())
}

/// Sets the algorithm of the device behind it, if there is one.
fn apply(
    change: &Change<'_>,
    priority: usize,
    name: &str,
    params: &AlgorithmParams,
) -> Result<(), Refusal> {
    let Some(live) = change.live() else {
        return Ok(());
    };
    let chosen = chosen(priority, name, params)?;
    let request = Request::SetAlgorithm {
        priority,
        algorithm: chosen.text,
        dictionary: crate::to_hex(&chosen.dictionary),
    };
    ask(&*live, request).map(drop)
}

pub(in crate::zram) const RECOMP_ALGORITHM: Attribute = Attribute {
    name: "recomp_algorithm",
    mode: 0o644,
    since: "6.2",
    about: "the algorithms for recompression",
    docs: "Takes `algo=NAME [priority=1..3]`, priority 1 if none is said. Shows a line for each priority that has one: \
           `#1: `, then as comp_algorithm. EINVAL for a key without value, without algo=, for another priority; then as \
           comp_algorithm. Unknown keys are ignored, as in Linux up to 7.0. Not strict, it can be set at any time.",
    when: WritableWhen::Uninit,
    show: Some(show_recomp),
    store: Some(store_recomp),
    ..Attribute::OF_DEVICE
};

fn show_recomp(subject: &Subject<'_>) -> Result<String, Errno> {
    let names = now(subject.zram()?)?;
    let line = |(priority, name): (usize, &Option<String>)| {
        let list = algorithms::list(name.as_deref()?, subject.strict());
        Some(format!("#{priority}: {list}"))
    };
    Ok(names.iter().enumerate().skip(1).filter_map(line).collect())
}

fn store_recomp(subject: &Subject<'_>, text: &[u8]) -> Result<(), Refusal> {
    let (mut name, mut priority) = (None, 1);
    for arg in KeyValues::new(text) {
        let value = arg.value()?;
        match &arg.key[..] {
            b"algo" => name = Some(value.to_vec()),
            b"priority" => priority = parse::kstrtoint(value, 10)?,
            _ => {}
        }
    }
    let name = name.ok_or(Errno::INVAL)?;
    match usize::try_from(priority) {
        Ok(priority @ 1..PRIORITIES) => set(subject, priority, &name),
        _ => Err(Errno::INVAL.into()),
    }
}

pub(in crate::zram) const ALGORITHM_PARAMS: Attribute = Attribute {
    name: "algorithm_params",
    mode: 0o200,
    since: "6.12",
    about: "parameters of an algorithm: level, dictionary, window",
    docs: "Takes `[priority=0..3 | algo=NAME] [level=N] [dict=PATH] [deflate.winbits=N]`: of the primary algorithm if \
           neither is said; algo= is looked up among those that were set, and where both are said it must be the one of that \
           priority, as since Linux 7.1 (before, algo= won). Each write replaces all \
           parameters of that algorithm; they count from disksize on. EINVAL for a key without value, an algorithm that \
           was not set, another priority, a dictionary that cannot be read (after the old parameters were dropped); EINVAL \
           or ERANGE for a bad number. An initialised device refuses it (EBUSY) as Linux 7.1 does; before that it was \
           accepted without effect. Levels beyond an algorithm's are taken for the nearest; deflate refuses them at \
           disksize. Not strict, it changes what an initialised device compresses with from now on.",
    when: WritableWhen::Uninit,
    store: Some(store_params),
    ..Attribute::OF_DEVICE
};

fn store_params(subject: &Subject<'_>, text: &[u8]) -> Result<(), Refusal> {
    let (mut priority, mut algo, mut dictionary) = (None, None, None);
    let mut params = AlgorithmParams::default();
    for arg in KeyValues::new(text) {
        let value = arg.value()?;
        match &arg.key[..] {
            b"priority" => priority = Some(parse::kstrtoint(value, 10)?),
            b"level" => params.level = Some(parse::kstrtoint(value, 10)?),
            b"deflate.winbits" => params.winbits = Some(parse::kstrtoint(value, 10)?),
            b"algo" => algo = Some(value.to_vec()),
            b"dict" => dictionary = Some(value.to_vec()),
            _ => {}
        }
    }
    let zram = subject.zram()?;
    let change = zram.change()?;
    let names = now(zram)?;
    if let Some(algo) = algo {
        let named = |name: &Option<String>| name.as_ref().is_some_and(|n| n.as_bytes() == algo);
        let found = match priority {
            // Both say the same, or one of them is wrong.
            Some(at) => {
                let at = usize::try_from(at).ok();
                at.filter(|at| names.get(*at).is_some_and(named))
            }
            None => names.iter().position(named),
        };
        priority = Some(
            found
                .and_then(|at| i32::try_from(at).ok())
                .ok_or(Errno::INVAL)?,
        );
    }
    let priority = usize::try_from(priority.unwrap_or(0)).map_err(|_| Errno::INVAL)?;
    let name = names.get(priority).ok_or(Errno::INVAL)?;
    if change.live().is_some() && subject.strict() {
        return Err(Errno::BUSY.into());
    }
    change.set(|config| config.params[priority] = AlgorithmParams::default());
    if let Some(path) = dictionary {
        params.dictionary = dictionary_at(&path).ok_or(Errno::INVAL)?;
    }
    if let Some(name) = name {
        apply(&change, priority, name, &params)?;
    }
    change.set(|config| config.params[priority] = params);
    Ok(())
}

/// Reads a dictionary. `None` if it cannot be read, is empty or too long.
fn dictionary_at(path: &[u8]) -> Option<Vec<u8>> {
    let path = Path::new(std::str::from_utf8(path).ok()?);
    // A relative path would start from another directory than the writer's.
    path.is_absolute().then(|| read_dictionary(path).ok())?
}

pub(in crate::zram) const MAX_COMP_STREAMS: Attribute = Attribute {
    name: "max_comp_streams",
    mode: 0o644,
    unit: "streams",
    since: "3.15 to 6.14",
    about: "the number of compression streams; kept for old tools",
    docs: "Shows how many streams there are, one for each CPU. Takes anything, without effect, as Linux did from 4.7 until \
           it dropped the file in 6.15. `zramctl --streams` writes it.",
    show: Some(show_streams),
    store: Some(store_streams),
    ..Attribute::OF_DEVICE
};

fn show_streams(subject: &Subject<'_>) -> Result<String, Errno> {
    let cpus = std::thread::available_parallelism().map_or(1, |n| n.get() as u64);
    let stat = subject.zram()?.stat()?;
    Ok(format!("{}\n", stat.map_or(cpus, |stat| stat.streams)))
}

fn store_streams(_: &Subject<'_>, _: &[u8]) -> Result<(), Refusal> {
    Ok(())
}
