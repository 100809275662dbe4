//! The table of frontends, in the order in which `auto` prefers them, and what is asked of all of them together.
//!
//! A new frontend is one line in [`all`]. Nothing else in the program names one.

use std::path::Path;

use serde_json::{Map, Value};
use uzram_frontend::{Frontend, FrontendOption, NUMBER, Need, ReservedNode};
use uzram_spec::{AUTO, BackingSpec, DeviceSpec, Failure, FailureKind, FrontendSpec, Result};

/// All frontends, best first.
pub fn all() -> &'static [&'static dyn Frontend] {
    &[
        &uzram_ublk::UblkFrontend,
        &uzram_nbd_kernel::NbdKernelFrontend,
        &uzram_fuse::FuseLoopFrontend,
        &uzram_nbd::NbdFrontend,
        &uzram_vhost_user::VhostUserFrontend,
    ]
}

/// The frontend of that name.
pub fn by_name(name: &str) -> Option<&'static dyn Frontend> {
    all()
        .iter()
        .copied()
        .find(|frontend| frontend.name() == name)
}

/// Refuses what is neither a frontend's name nor `auto`.
pub fn check_name(name: &str) -> std::result::Result<(), String> {
    if name == AUTO || by_name(name).is_some() {
        return Ok(());
    }
    let names: Vec<_> = all().iter().map(|frontend| frontend.name()).collect();
    Err(format!("there are: {AUTO}, {}", names.join(", ")))
}

/// An option, with the frontends that take it.
pub struct SharedOption {
    /// The option.
    pub option: &'static FrontendOption,
    /// Names of the frontends that take it, best first.
    pub frontends: Vec<&'static str>,
}

impl SharedOption {
    /// The frontends in words: `ublk, nbd-kernel and fuse-loop`.
    pub fn takers(&self, last_joined_by: &str) -> String {
        match self.frontends.split_last() {
            Some((last, [])) => (*last).into(),
            Some((last, others)) => format!("{} {last_joined_by} {last}", others.join(", ")),
            None => String::new(),
        }
    }
}

/// The options of all frontends, each once.
pub fn options() -> Vec<SharedOption> {
    let mut options: Vec<SharedOption> = Vec::new();
    for frontend in all() {
        for option in frontend.options() {
            match options
                .iter_mut()
                .find(|known| known.option.name == option.name)
            {
                Some(known) => known.frontends.push(frontend.name()),
                None => options.push(SharedOption {
                    option,
                    frontends: vec![frontend.name()],
                }),
            }
        }
    }
    options
}

/// The names of all these options.
pub fn option_names() -> Vec<&'static str> {
    options().iter().map(|shared| shared.option.name).collect()
}

/// The JSON schemas of all these options, by name as the API has it.
pub fn option_schemas() -> Map<String, Value> {
    let schema = |shared: &SharedOption| {
        let name = shared.option.name.replace('-', "_");
        (name, shared.option.schema())
    };
    options().iter().map(schema).collect()
}

/// Checks the options that a description gives against those that the frontend takes, and stores them in one form.
fn checked(frontend: &dyn Frontend, spec: &FrontendSpec) -> Result<FrontendSpec> {
    let mut stored = FrontendSpec::new(frontend.name());
    for (name, value) in &spec.options {
        let own = frontend.options().iter().find(|option| option.name == name);
        let Some(option) = own else {
            let takers = options()
                .into_iter()
                .find(|shared| shared.option.name == name);
            let message = match takers {
                Some(shared) => format!(
                    "--{name} is for --frontend {}, not {}",
                    shared.takers("or"),
                    frontend.name()
                ),
                None => format!("no frontend has an option '{name}'"),
            };
            return Err(Failure::usage(message));
        };
        let value = option.check(value, Path::new("/"))?;
        stored.options.insert(name.clone(), value);
    }
    Ok(stored)
}

/// Makes paths in the options absolute, which are relative to `directory`. What is wrong with an option is found later.
pub fn resolve_paths(spec: &mut FrontendSpec, directory: &Path) {
    for shared in options() {
        if let Some(value) = spec.options.get_mut(shared.option.name)
            && let Ok(absolute) = shared.option.check(value, directory)
        {
            *value = absolute;
        }
    }
}

fn missing(frontend: &dyn Frontend, need: &Need) -> String {
    format!("no {}: {}", frontend.name(), need.missing)
}

/// What a device needs of its frontend.
#[derive(Debug, Clone, Copy, Default)]
pub struct Needs {
    /// That it can be swap.
    pub swap: bool,
    /// That a request may wait for a clone's source, or for a backing in a remote.
    pub waits: bool,
}

impl Needs {
    /// Those of a description.
    pub fn of(spec: &DeviceSpec) -> Needs {
        Needs {
            swap: spec.is_swap(),
            waits: spec.from.as_ref().is_some_and(|from| from.lazy)
                || spec.backing.as_ref().is_some_and(BackingSpec::is_remote),
        }
    }

    fn are_met(self, frontend: &dyn Frontend) -> bool {
        (frontend.can_swap() || !self.swap) && (frontend.can_wait() || !self.waits)
    }
}

/// The frontend that a description means and its options as they are stored; for `auto` also the reason.
pub fn resolve(
    spec: &FrontendSpec,
    needs: Needs,
) -> Result<(&'static dyn Frontend, FrontendSpec, Option<String>)> {
    let (frontend, why) = choose(spec, needs)?;
    let spec = checked(frontend, spec)?;
    frontend.check(&spec)?;
    Ok((frontend, spec, why))
}

fn choose(spec: &FrontendSpec, needs: Needs) -> Result<(&'static dyn Frontend, Option<String>)> {
    let refused = |kind, message: String| Err(Failure::new(kind, message));
    if spec.kind != AUTO {
        let Some(frontend) = by_name(&spec.kind) else {
            let there_are = check_name(&spec.kind).err().unwrap_or_default();
            let message = format!("no frontend '{}': {there_are}", spec.kind);
            return refused(FailureKind::Usage, message);
        };
        if !needs.are_met(frontend) {
            let fit = all().iter().filter(|f| needs.are_met(**f));
            let fit: Vec<_> = fit.map(|f| f.name()).collect();
            let what = match needs.swap {
                true => "be swap",
                false => {
                    "serve a clone that is lazy, or a backing in a remote: a request that waits would hold up others"
                }
            };
            let message = format!(
                "frontend {} cannot {what}; these can: {}",
                frontend.name(),
                fit.join(", ")
            );
            return refused(FailureKind::Usage, message);
        }
        return match frontend.probe() {
            Ok(()) => Ok((frontend, None)),
            Err(need) => {
                let message = format!("no frontend {} here: {}", frontend.name(), need.missing);
                Err(Failure::impossible(message))
            }
        };
    }
    for frontend in all().iter().filter(|f| !needs.swap && needs.are_met(**f)) {
        let chooses =
            |option: &&FrontendOption| option.chooses && spec.options.contains_key(option.name);
        if let Some(option) = frontend.options().iter().find(chooses) {
            return Ok((*frontend, Some(format!("--{} was given", option.name))));
        }
    }
    let mut lacking = Vec::new();
    for frontend in all().iter().filter(|f| needs.are_met(**f)) {
        match frontend.probe() {
            Ok(()) if lacking.is_empty() => {
                return Ok((
                    *frontend,
                    Some("the best there is, and it works here".into()),
                ));
            }
            Ok(()) => return Ok((*frontend, Some(lacking.join("; ")))),
            Err(need) => lacking.push(missing(*frontend, &need)),
        }
    }
    refused(FailureKind::Impossible, lacking.join("; "))
}

/// What only one device at a time can have of what two descriptions name: the option, and what both say. Numbers are those of a
/// frontend's own nodes; what else is claimed nobody else can have.
pub fn common_claim(one: &FrontendSpec, other: &FrontendSpec) -> Option<(&'static str, String)> {
    let claims = |spec: &FrontendSpec| {
        let frontends = all().iter().filter(|frontend| may_be(spec, **frontend));
        let claims = frontends.flat_map(|frontend| {
            let of = |claim: (&'static str, String)| (frontend.name(), claim);
            frontend.claims(spec).into_iter().map(of)
        });
        claims.collect::<Vec<_>>()
    };
    let theirs = claims(other);
    let is_theirs = |(frontend, claim): &(&str, (&'static str, String))| {
        theirs
            .iter()
            .any(|(other, theirs)| theirs == claim && (other == frontend || claim.0 != NUMBER.name))
    };
    claims(one)
        .into_iter()
        .find(is_theirs)
        .map(|(_, claim)| claim)
}

/// Whether a description may mean this frontend.
fn may_be(spec: &FrontendSpec, frontend: &dyn Frontend) -> bool {
    spec.kind == AUTO || spec.kind == frontend.name()
}

/// Whether requests of such a device allocate.
pub(crate) fn allocates(spec: &FrontendSpec) -> bool {
    let mut frontends = all().iter().filter(|frontend| may_be(spec, **frontend));
    frontends.any(|frontend| frontend.allocates(spec))
}

/// The files that the options of a frontend name, which are made or opened.
pub(crate) fn files(spec: &FrontendSpec) -> Vec<std::path::PathBuf> {
    by_name(&spec.kind).map_or(Vec::new(), |frontend| frontend.opens(spec))
}

/// Clears what a device of any frontend left whose contents are lost.
pub(crate) fn clear_all(dir: &Path) -> std::result::Result<Vec<String>, String> {
    let mut cleared = Vec::new();
    for frontend in all() {
        cleared.extend(frontend.clear(dir)?);
    }
    Ok(cleared)
}

/// The same although a dead node is still in use.
pub(crate) fn clear_all_by_force(dir: &Path) -> std::result::Result<Vec<String>, String> {
    let mut cleared = Vec::new();
    for frontend in all() {
        cleared.extend(frontend.clear_by_force(dir)?);
    }
    Ok(cleared)
}

/// For root: clears nodes of users that nobody serves and their users cannot clear. Says what was cleared.
pub(crate) fn clear_of_users() -> Vec<String> {
    all().iter().flat_map(|f| f.clear_of_users()).collect()
}

/// The first frontend that can keep a node for a device without a size.
fn reserving() -> Option<&'static dyn Frontend> {
    all().iter().copied().find(|f| f.reserves_nodes())
}

/// Keeps a node for a device that is not initialised, of that number if it is free.
pub(crate) fn reserve(number: Option<u32>) -> Option<Box<dyn ReservedNode>> {
    reserving()?.reserve(number)
}

/// Whether nodes that are kept are this frontend's.
pub(crate) fn reserves(frontend: &str) -> bool {
    reserving().is_some_and(|own| own.name() == frontend)
}

/// The owner of a node of any frontend, if that is not root.
pub fn owner(node: &str) -> Result<Option<(u32, u32)>> {
    for frontend in all() {
        if let Some(owner) = frontend.owner(node)? {
            return Ok(Some(owner));
        }
    }
    Ok(None)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_option_of_several_frontends_is_one_option() {
        for shared in options() {
            for frontend in all() {
                for option in frontend.options() {
                    let same =
                        option.name != shared.option.name || option.help == shared.option.help;
                    assert!(same, "--{} of {}", option.name, frontend.name());
                }
            }
        }
        let number = options()
            .into_iter()
            .find(|o| o.option.name == "number")
            .unwrap();
        assert_eq!(number.takers("or"), "ublk, nbd-kernel or fuse-loop");
    }

    #[test]
    fn an_option_of_another_frontend_is_refused() {
        let nbd = by_name("nbd").unwrap();
        let spec = |name: &str, value: u64| FrontendSpec::new("nbd").option(name, value);
        let refused = |spec| checked(nbd, &spec).unwrap_err().to_string();
        assert!(refused(spec("queues", 2)).contains("--queues is for --frontend ublk, not nbd"));
        assert!(refused(spec("poll", 1001)).contains("from 0 to 1000"));
        assert!(refused(spec("colour", 1)).contains("no frontend has"));
        assert!(checked(nbd, &spec("poll", 10)).is_ok());
    }

    #[test]
    fn auto_takes_the_frontend_that_an_option_means() {
        let spec = FrontendSpec::default().option("listen", "tcp:127.0.0.1:0");
        let (frontend, _, why) = resolve(&spec, Needs::default()).unwrap();
        assert_eq!(frontend.name(), "nbd");
        assert_eq!(why.as_deref(), Some("--listen was given"));
        let wrong = resolve(&FrontendSpec::new("floppy"), Needs::default())
            .map(|_| ())
            .unwrap_err();
        assert!(
            wrong.to_string().contains("there are: auto, ublk"),
            "{wrong}"
        );
        let swap = Needs {
            swap: true,
            ..Needs::default()
        };
        let nbd = resolve(&FrontendSpec::new("nbd"), swap)
            .map(|_| ())
            .unwrap_err();
        assert!(nbd.to_string().contains("cannot be swap"), "{nbd}");
    }
}
