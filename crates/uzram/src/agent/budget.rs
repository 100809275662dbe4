//! The budget: how long to rest after work. Processor time is the thread's own clock, so a slice that was slow
//! because others had the CPU costs nothing extra.
//!
//! Both kinds are debts, paid by elapsed time, asleep or not. Credit is capped at some hundredths of a second, so an
//! agent that was idle for long does not start with a burst.
//!
//! What another thread did for the agent is paid beside its own work, at half of the rate, and out of idle time. A training
//! takes tenths of a second: paid at once, it would keep compaction waiting for seconds while memory grows.

use std::time::{Duration, Instant};

use super::settings::PolicySettings;
use crate::cpu_time::cpu_time;

/// Multiplies both budgets above a watermark. Processor time stays within one CPU.
pub(super) const PRESSURE_FACTOR: u32 = 5;
/// Seconds of credit at most.
const CREDIT: f64 = 0.02;
/// Rests shorter than this are skipped, in seconds.
const LEAST_REST: f64 = 0.001;

pub(super) struct Budget {
    /// Part of one CPU.
    cpu: f64,
    /// Bytes a second.
    io: f64,
    /// Seconds of processor time that were used beyond the budget.
    cpu_debt: f64,
    io_debt: f64,
    /// Seconds of processor time that other threads used, and that are not paid yet.
    lent_debt: f64,
    at: Instant,
    /// The thread's own clock at the last charge.
    used: Duration,
    /// Processor time that other threads used for the agent.
    lent: Duration,
}

impl Budget {
    pub(super) fn new() -> Budget {
        let mut budget = Budget {
            cpu: 1.0,
            io: 1.0,
            cpu_debt: 0.0,
            io_debt: 0.0,
            lent_debt: 0.0,
            at: Instant::now(),
            used: cpu_time(),
            lent: Duration::ZERO,
        };
        budget.set(&PolicySettings::default(), false);
        budget
    }

    /// Sets the rates from now on.
    pub(super) fn set(&mut self, settings: &PolicySettings, pressed: bool) {
        let times = if pressed { PRESSURE_FACTOR } else { 1 };
        self.cpu = (f64::from(settings.cpu_percent) / 100.0 * f64::from(times)).min(1.0);
        self.io = settings.io_bytes_per_second as f64 * f64::from(times);
        // Caps the old credit at the new rate.
        self.pay(0.0, 0.0, 0.0);
    }

    /// Charges the processor time since the last call, and the bytes written.
    pub(super) fn charge(&mut self, bytes: u64) {
        let (now, used) = (Instant::now(), cpu_time());
        let elapsed = (now - self.at).as_secs_f64();
        let worked = used.saturating_sub(self.used).as_secs_f64();
        (self.at, self.used) = (now, used);
        self.pay(elapsed, worked, bytes as f64);
    }

    /// Charges processor time of another thread that worked for the agent.
    pub(super) fn charge_for_another(&mut self, used: Duration) {
        self.lent += used;
        self.lent_debt += used.as_secs_f64();
    }

    fn pay(&mut self, elapsed: f64, worked: f64, bytes: f64) {
        let share = worked.min(self.lent_debt);
        let cpu_debt = self.cpu_debt + worked + share - elapsed * self.cpu;
        self.cpu_debt = cpu_debt.max(-CREDIT * self.cpu);
        let idle = self.cpu_debt - cpu_debt;
        self.lent_debt = (self.lent_debt - share - idle).max(0.0);
        let io_debt = self.io_debt + bytes - elapsed * self.io;
        self.io_debt = io_debt.max(-CREDIT * self.io);
    }

    /// How long to rest until the debt is paid; zero for a rest that is too short.
    pub(super) fn rest(&self) -> Duration {
        let seconds = (self.cpu_debt / self.cpu).max(self.io_debt / self.io);
        match seconds < LEAST_REST {
            true => Duration::ZERO,
            false => Duration::from_secs_f64(seconds),
        }
    }

    /// Processor time of this thread at the last charge, and of those that worked for it.
    pub(super) fn used(&self) -> Duration {
        self.used + self.lent
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn budget() -> Budget {
        let mut budget = Budget::new();
        (budget.cpu_debt, budget.io_debt) = (0.0, 0.0);
        budget.set(&PolicySettings::default(), false);
        budget
    }

    fn millis(budget: &Budget) -> f64 {
        (budget.rest().as_secs_f64() * 1e3).round()
    }

    #[test]
    fn work_is_paid_by_rest() {
        let mut budget = budget();
        budget.pay(0.0, 0.010, 0.0);
        assert_eq!(millis(&budget), 100.0);
        budget.pay(0.060, 0.0, 0.0);
        assert_eq!(millis(&budget), 40.0);
        // A watermark shortens what is left, too.
        budget.set(&PolicySettings::default(), true);
        assert_eq!(millis(&budget), 8.0);
        budget.pay(0.008, 0.0, 0.0);
        assert_eq!(budget.rest(), Duration::ZERO);
        budget.set(&PolicySettings::default(), false);
        budget.pay(0.0, 0.0, f64::from(32 << 20));
        // Less what was not used before, as far as that counts.
        assert_eq!(millis(&budget), 980.0);
    }

    #[test]
    fn what_another_thread_did_is_paid_beside_its_own_work() {
        let mut budget = budget();
        let used = budget.used();
        budget.charge_for_another(Duration::from_millis(30));
        assert_eq!(budget.used(), used + Duration::from_millis(30));
        assert_eq!(millis(&budget), 0.0, "its own work does not wait");
        budget.pay(0.0, 0.010, 0.0);
        assert_eq!(millis(&budget), 200.0);
        // 200 ms pay what is owed, 20 ms fill the credit, and 100 ms pay for the other thread.
        budget.pay(0.320, 0.0, 0.0);
        budget.pay(0.020, 0.0, 0.0);
        budget.pay(0.0, 0.020, 0.0);
        assert_eq!(millis(&budget), 180.0 + 80.0);
    }

    #[test]
    fn idleness_is_not_saved_up() {
        let mut budget = budget();
        budget.pay(1000.0, 0.0, 0.0);
        budget.pay(0.0, 0.010, 0.0);
        assert!(budget.rest().as_millis() >= 79, "{:?}", budget.rest());
    }
}
