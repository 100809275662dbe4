//! The rule for tests that need somebody else: a program, a library, a right, a driver.
//!
//! A missing peer is a *reported* skip: a line `SKIP test: reason` on standard error, and the test passes. Where
//! `UZRAM_REQUIRE_PEERS` is set, as in `cargo xtask test`, it is a failure.

use std::fmt::Display;
use std::path::Path;

/// The variable that makes a missing peer a failure.
pub const REQUIRE: &str = "UZRAM_REQUIRE_PEERS";

/// Reports that `test` is skipped for `reason`.
///
/// # Panics
///
/// Where [`REQUIRE`] is set.
#[track_caller]
pub fn skip(test: impl Display, reason: impl Display) {
    assert!(
        std::env::var_os(REQUIRE).is_none(),
        "{test} needs a peer that is missing, and {REQUIRE} is set: {reason}"
    );
    eprintln!("SKIP {test}: {reason}");
}

/// Whether `test` can run. Skips it where a reason says that it cannot.
#[track_caller]
pub fn possible<E: Display>(test: impl Display, probe: Result<(), E>) -> bool {
    match probe {
        Ok(()) => true,
        Err(reason) => {
            skip(test, reason);
            false
        }
    }
}

/// The name of the test that this stands in.
#[macro_export]
macro_rules! test_name {
    () => {{
        fn here() {}
        let path = std::any::type_name_of_val(&here);
        let path = path.trim_end_matches("::here");
        path.rsplit("::").next().unwrap_or(path)
    }};
}

/// Whether all these programs are installed. Skips `test` where one is not.
#[track_caller]
pub fn have(test: impl Display, programs: &[&str]) -> bool {
    possible(test, installed(programs))
}

/// Looks for programs in `PATH` and in the system's own folders. The error lists those that are missing.
pub fn installed(programs: &[&str]) -> Result<(), String> {
    let path = std::env::var("PATH").unwrap_or_default();
    let there = |program: &&&str| {
        path.split(':')
            .chain(["/usr/sbin", "/sbin"])
            .any(|folder| Path::new(folder).join(program).exists())
    };
    let missing: Vec<&str> = programs.iter().filter(|p| !there(p)).copied().collect();
    match missing.is_empty() {
        true => Ok(()),
        false => Err(format!("no {}", missing.join(", "))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_missing_is_named() {
        assert_eq!(test_name!(), "what_is_missing_is_named");
        assert_eq!(installed(&["sh"]), Ok(()));
        assert_eq!(
            installed(&["sh", "no-such-program"]),
            Err("no no-such-program".into())
        );
    }

    /// Both ways: in a process of its own, since the variable is the environment's.
    #[test]
    fn a_missing_peer_is_a_skip_or_a_failure() {
        const CHILD: &str = "UZRAM_TESTKIT_CHILD";
        if std::env::var_os(CHILD).is_some() {
            assert!(!have("the test", &["no-such-program"]));
            return;
        }
        let run = |required: bool| {
            let mut child = std::process::Command::new(std::env::current_exe().unwrap());
            child.args(["--exact", "--nocapture"]);
            child.arg("peers::tests::a_missing_peer_is_a_skip_or_a_failure");
            child.env(CHILD, "1").env_remove(REQUIRE);
            if required {
                child.env(REQUIRE, "1");
            }
            let output = child.output().unwrap();
            let text = String::from_utf8_lossy(&output.stderr).into_owned();
            (output.status.success(), text)
        };
        let (passed, text) = run(false);
        assert!(passed && text.contains("SKIP the test: no no-such-program"));
        let (passed, text) = run(true);
        assert!(!passed && text.contains(REQUIRE), "{text}");
    }
}
