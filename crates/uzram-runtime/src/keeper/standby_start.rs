//! The keeper's care for the server in waiting of a swap device: there has to be one at any time.

use super::{Keeper, MAX_FAILURES, MAX_PAUSE};
use crate::standby::Standby;

impl Keeper {
    /// Has a server in waiting.
    pub(super) fn start_standby(&mut self) {
        let start = || {
            let command = self.server_command(true, true)?;
            Standby::start(command)
        };
        match start() {
            Ok(standby) => {
                self.watch_server(standby.pid());
                self.standby = Some(standby);
            }
            Err(failure) => tracing::error!("no standby server: {failure}"),
        }
    }

    /// Has another one, unless it ends again and again.
    pub(super) fn standby_ended(&mut self) {
        let lived = self.standby.take().map(|standby| standby.lived());
        if self.claim.is_released() {
            return;
        }
        self.standby_failures = match lived {
            Some(lived) if lived > MAX_PAUSE => 1,
            _ => self.standby_failures + 1,
        };
        if self.standby_failures < MAX_FAILURES {
            tracing::warn!("the standby server died: starting another");
            self.start_standby();
        } else {
            tracing::error!("the standby server dies again and again: going on without one");
        }
    }
}
