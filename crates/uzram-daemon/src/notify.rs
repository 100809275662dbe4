//! What systemd is told, and what it hands over. Without systemd all of it does nothing.

use std::os::fd::BorrowedFd;

use sd_notify::NotifyState;

/// The service is ready; `status` is what `systemctl status` shows.
pub fn ready(status: &str) {
    tell(&[NotifyState::Ready, NotifyState::Status(status)]);
}

/// Another line for `systemctl status`.
pub fn status(status: &str) {
    tell(&[NotifyState::Status(status)]);
}

/// The configuration is being read again, until [`ready`].
pub fn reloading() {
    let mut state = vec![NotifyState::Reloading];
    // Which reload it is: `Type=notify-reload` wants to know.
    state.extend(NotifyState::monotonic_usec_now());
    tell(&state);
}

/// The service ends.
pub fn stopping() {
    tell(&[NotifyState::Stopping]);
}

/// Gives a descriptor to systemd's store: it outlives this process and comes back with [`received`].
pub fn store(name: &str, fd: BorrowedFd<'_>) {
    let state = [NotifyState::FdStore, NotifyState::FdName(name)];
    if let Err(error) = sd_notify::notify_with_fds(&state, &[fd]) {
        tracing::warn!(%error, name, "systemd does not keep a descriptor");
    }
}

/// Takes it out of the store.
pub fn discard(name: &str) {
    tell(&[NotifyState::FdStoreRemove, NotifyState::FdName(name)]);
}

/// Numbers and names of the descriptors that systemd handed over: sockets and what was stored. No process that is started
/// from now on inherits them.
pub fn received() -> Vec<(i32, String)> {
    let of = |name: &str| std::env::var(name).ok();
    let number = |name: &str| of(name)?.parse::<u32>().ok();
    if number("LISTEN_PID") != Some(std::process::id()) {
        return Vec::new();
    }
    let count = number("LISTEN_FDS").unwrap_or_default() as usize;
    let names = of("LISTEN_FDNAMES").unwrap_or_default();
    let names = names
        .split(':')
        .map(str::to_owned)
        .chain(std::iter::repeat(String::new()));
    // Its own check of the names refuses an empty one, as of a process that nothing was stored for.
    let _ = sd_notify::listen_fds();
    (3..).zip(names).take(count).collect()
}

fn tell(state: &[NotifyState<'_>]) {
    if let Err(error) = sd_notify::notify(state) {
        tracing::warn!(%error, "systemd cannot be told");
    }
}
