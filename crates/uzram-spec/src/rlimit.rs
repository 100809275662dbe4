//! Names the limits that a shell or a service manager sets for a process: `ulimit`, `LimitNOFILE=`. An error for lack of
//! something says by them which limit it was.

use std::error::Error;

use rustix::io::Errno;
use rustix::process::{Resource, getrlimit};

use crate::size;

/// A limit's value in words.
type Show = fn(u64) -> String;

struct Limit {
    resource: Resource,
    what: &'static str,
    /// The shell's option.
    option: &'static str,
    name: &'static str,
    show: Show,
}

const LIMITS: &[Limit] = &[
    Limit {
        resource: Resource::Fsize,
        what: "the size of a file",
        option: "-f",
        name: "RLIMIT_FSIZE",
        show: size::human,
    },
    Limit {
        resource: Resource::As,
        what: "address space",
        option: "-v",
        name: "RLIMIT_AS",
        show: size::human,
    },
    Limit {
        resource: Resource::Data,
        what: "data",
        option: "-d",
        name: "RLIMIT_DATA",
        show: size::human,
    },
    Limit {
        resource: Resource::Stack,
        what: "the stack",
        option: "-s",
        name: "RLIMIT_STACK",
        show: size::human,
    },
    Limit {
        resource: Resource::Memlock,
        what: "locked memory",
        option: "-l",
        name: "RLIMIT_MEMLOCK",
        show: size::human,
    },
    Limit {
        resource: Resource::Nofile,
        what: "open files",
        option: "-n",
        name: "RLIMIT_NOFILE",
        show: count,
    },
    Limit {
        resource: Resource::Nproc,
        what: "processes and threads of this user",
        option: "-u",
        name: "RLIMIT_NPROC",
        show: count,
    },
    Limit {
        resource: Resource::Cpu,
        what: "CPU time",
        option: "-t",
        name: "RLIMIT_CPU",
        show: |seconds| format!("{seconds} s"),
    },
];

fn count(n: u64) -> String {
    n.to_string()
}

/// The limit in force, with its names, such as "the limit on open files is 16 (ulimit -n, RLIMIT_NOFILE)"; `None` where there
/// is none.
pub fn named(resource: Resource) -> Option<String> {
    let limit = LIMITS.iter().find(|limit| limit.resource == resource)?;
    let value = (limit.show)(getrlimit(resource).current?);
    let (what, option, name) = (limit.what, limit.option, limit.name);
    Some(format!(
        "the limit on {what} is {value} (ulimit {option}, {name})"
    ))
}

/// The limits that can be behind an error, or behind what caused it; `None` where none is in force that could be.
pub fn behind(error: &(dyn Error + 'static)) -> Option<String> {
    let mut causes = std::iter::successors(Some(error), |error| (*error).source());
    behind_errno(causes.find_map(errno_of)?)
}

/// The same for an error of the system that has become words, which end in its number.
pub fn behind_words(words: &str) -> Option<String> {
    let (_, number) = words.rsplit_once("(os error ")?;
    let number = number.split(')').next()?.parse().ok()?;
    behind_errno(Errno::from_raw_os_error(number))
}

fn behind_errno(errno: Errno) -> Option<String> {
    let resources: &[Resource] = match errno {
        Errno::FBIG => &[Resource::Fsize],
        Errno::MFILE => &[Resource::Nofile],
        Errno::NOMEM => &[Resource::As, Resource::Data, Resource::Memlock],
        Errno::AGAIN => &[Resource::Nproc, Resource::Memlock],
        _ => &[],
    };
    let named: Vec<String> = resources.iter().copied().filter_map(named).collect();
    // Both have other causes as well.
    let perhaps = match errno {
        Errno::NOMEM | Errno::AGAIN => "perhaps ",
        _ => "",
    };
    (!named.is_empty()).then(|| format!("{perhaps}{}", named.join(", ")))
}

fn errno_of(error: &(dyn Error + 'static)) -> Option<Errno> {
    let of_io = |error: &std::io::Error| error.raw_os_error().map(Errno::from_raw_os_error);
    match error.downcast_ref::<Errno>() {
        Some(errno) => Some(*errno),
        None => error.downcast_ref().and_then(of_io),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn errors_name_the_limit_that_is_in_force() {
        // Every process has this one.
        let named = behind(&std::io::Error::from(Errno::MFILE)).unwrap();
        assert!(named.starts_with("the limit on open files is "), "{named}");
        assert!(named.ends_with("(ulimit -n, RLIMIT_NOFILE)"), "{named}");
        let inside = uzram::Error::Access {
            what: "lock",
            source: Errno::MFILE,
        };
        assert_eq!(behind(&inside), Some(named));
        assert_eq!(behind(&std::io::Error::from(Errno::NOENT)), None);
        assert_eq!(behind(&std::io::Error::other("words")), None);
        let words = format!("/tmp/x: {}, it seems", std::io::Error::from(Errno::MFILE));
        assert_eq!(behind_words(&words), behind(&inside));
        assert_eq!(behind_words("none (os error x)"), None);
    }
}
