//! Faults of the driver that cannot be had at will, for tests: control commands that never return. Only in builds with
//! assertions, and only where the environment asks for it.
//!
//! `UZRAM_UBLK_NEVER_RETURNS` names commands, such as `StartDev,StopDev`. `UZRAM_UBLK_LIMIT_MS` shortens the wait for any.

use std::time::Duration;

use crate::abi::Command;

/// Whether this command is to be one that never returns.
pub(crate) fn never_returns(command: Command) -> bool {
    asked("UZRAM_UBLK_NEVER_RETURNS").is_some_and(|names| lists(&names, command))
}

/// How long commands may take, where that is not the usual time.
pub(crate) fn limit() -> Option<Duration> {
    let millis = asked("UZRAM_UBLK_LIMIT_MS")?.parse().ok()?;
    Some(Duration::from_millis(millis))
}

fn asked(variable: &str) -> Option<String> {
    match cfg!(debug_assertions) {
        true => std::env::var(variable).ok(),
        false => None,
    }
}

fn lists(names: &str, command: Command) -> bool {
    names.split(',').any(|name| name == format!("{command:?}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn commands_are_named_whole() {
        assert!(lists("StartDev,DelDevAsync", Command::DelDevAsync));
        assert!(!lists("StartDev,DelDevAsync", Command::DelDev));
    }
}
