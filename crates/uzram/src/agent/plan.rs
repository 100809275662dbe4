//! The dry run: what each policy would do now, and why or why not. Read-only; takes about as long as a few walks over
//! the table.

use std::time::Duration;

use super::jobs;
use super::pressure::{Gauge, Pressure};
use super::settings::PolicySettings;
use super::training::{Trainability, trainability};
use crate::apis::JobsApi;
use crate::word::Content;
use crate::{PAGE_SIZE, Recompress, Writeback};

/// What would be done: see [`JobsApi::plan`].
#[derive(Debug, Clone, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
pub struct Plan {
    /// Whether memory is short, so that ages are ignored.
    pub pressed: bool,
    /// How short memory is, in words.
    pub pressure: String,
    /// One for each policy, in the order in which they are carried out.
    pub steps: Vec<PlanStep>,
}

/// What one policy would do.
#[derive(Debug, Clone, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
pub struct PlanStep {
    /// The policy, by its name in the settings.
    pub policy: String,
    /// Whether it would do something now.
    pub due: bool,
    /// Pages that it would process.
    pub pages: u64,
    /// Bytes of their objects; for compaction an estimate of what it gives back.
    pub bytes: u64,
    /// Why, or why not.
    pub why: String,
}

impl PlanStep {
    fn not(policy: &str, why: impl Into<String>) -> PlanStep {
        PlanStep {
            policy: policy.into(),
            due: false,
            pages: 0,
            bytes: 0,
            why: why.into(),
        }
    }
}

impl JobsApi<'_> {
    /// What the device's policies would do now. Changes nothing.
    pub fn plan(self) -> Plan {
        self.plan_by(&self.policy())
    }

    /// What other policies would do now. Changes nothing.
    pub fn plan_by(self, settings: &PolicySettings) -> Plan {
        let gauge = Pressure::new().read(self.0, settings);
        let pressed = gauge.is_high();
        Plan {
            pressed,
            pressure: words(gauge),
            steps: vec![
                self.training_step(settings),
                self.recompression_step(settings, pressed),
                self.compaction_step(settings, pressed),
                self.writeback_step(settings, pressed),
                self.promotion_step(settings, pressed),
            ],
        }
    }

    fn training_step(self, settings: &PolicySettings) -> PlanStep {
        let no = |why: String| PlanStep::not("train", why);
        if !settings.train {
            return no("off".into());
        }
        match trainability(self.0) {
            Trainability::Impossible(why) => no(why),
            Trainability::Possible {
                has_dictionary: true,
                pages,
            } => no(format!(
                "there is a dictionary; another is tried when the content of {pages} pages has changed much"
            )),
            Trainability::Possible {
                has_dictionary: false,
                pages,
            } => PlanStep {
                policy: "train".into(),
                due: true,
                pages,
                bytes: pages * PAGE_SIZE as u64,
                why: "there is no dictionary yet; it is taken if it pays".into(),
            },
        }
    }

    fn recompression_step(self, settings: &PolicySettings, pressed: bool) -> PlanStep {
        let Some(age) = settings.recompress_age() else {
            return PlanStep::not("recompress", "off");
        };
        if !jobs::has_secondary(self.0) {
            return PlanStep::not("recompress", jobs::NO_SECONDARY);
        }
        let what = Recompress {
            older_than: (!pressed).then_some(age),
            least: settings.least(pressed),
            ..Recompress::default()
        };
        let found = self.0.zram().recompressible(&what).ok();
        let found = found.map(|report| (report.candidates, report.candidate_bytes));
        self.aged("recompress", age, pressed, found)
    }

    fn writeback_step(self, settings: &PolicySettings, pressed: bool) -> PlanStep {
        let Some(age) = settings.writeback_age() else {
            return PlanStep::not("writeback", "off");
        };
        if !self.0.backing.takes_pages() {
            return PlanStep::not("writeback", jobs::NO_BACKING);
        }
        if self.0.zram().writeback_limit() == Some(0) {
            return PlanStep::not("writeback", "writeback_limit is used up");
        }
        let what = Writeback {
            older_than: (!pressed).then_some(age),
            ..Writeback::default()
        };
        let found = self.0.zram().min_age(what.older_than).ok();
        let found = found.map(|_| self.0.zram().writable_back(&what));
        let found = found.map(|report| (report.candidates, report.candidate_bytes));
        self.aged("writeback", age, pressed, found)
    }

    fn promotion_step(self, settings: &PolicySettings, pressed: bool) -> PlanStep {
        let Some(age) = settings.promote_age() else {
            return PlanStep::not("promote", "off");
        };
        if !self.0.backing.takes_pages() {
            return PlanStep::not("promote", "there is no backing to read from");
        }
        let used = self.0.zram().used_within(age);
        let pages = self
            .0
            .zram()
            .backed_pages(0..u64::MAX)
            .filter(|page| used(*page));
        let lengths = pages.filter_map(|page| match self.0.table.peek(page) {
            Content::Backed(backed) => Some(u64::from(backed.len)),
            _ => None,
        });
        let (pages, bytes) = lengths.fold((0, 0), |(n, bytes), len| (n + 1, bytes + len));
        let seconds = age.as_secs();
        let why = match pages {
            _ if pressed => "memory is short: nothing comes back".into(),
            0 => format!("no page on the backing was read within {seconds} s"),
            _ => format!("read within {seconds} s"),
        };
        PlanStep {
            policy: "promote".into(),
            due: pages > 0 && !pressed,
            pages,
            bytes,
            why,
        }
    }

    /// `found` are pages and bytes; `None`: no ages are known yet.
    fn aged(
        self,
        policy: &str,
        age: Duration,
        pressed: bool,
        found: Option<(u64, u64)>,
    ) -> PlanStep {
        let Some((pages, bytes)) = found else {
            return PlanStep::not(
                policy,
                "ages are not kept yet: they are from when the policy is set",
            );
        };
        let (seconds, known) = (age.as_secs(), self.0.zram().greatest_age());
        let why = match pages {
            _ if pressed => "memory is short: pages of any age, oldest first".into(),
            0 if known < seconds => {
                format!("ages are kept for {known} s, no page can be {seconds} s old yet")
            }
            0 => format!("no page that was not used for {seconds} s is left to do"),
            _ => format!("not used for {seconds} s"),
        };
        PlanStep {
            policy: policy.into(),
            due: pages > 0,
            pages,
            bytes,
            why,
        }
    }

    fn compaction_step(self, settings: &PolicySettings, pressed: bool) -> PlanStep {
        if !settings.compact && !pressed {
            return PlanStep::not("compact", "off");
        }
        let left = &self.0.policy.status.compaction_left;
        let gain = self.compaction_gain_bytes();
        // As the agent reckons: what its last compaction could not gain is not to be gained.
        let gain = gain - left.load(std::sync::atomic::Ordering::Relaxed).min(gain);
        let worth = jobs::worth_compacting(self.0);
        let due = gain >= worth || pressed && gain > 0;
        let why = match (due, pressed) {
            (true, true) => "memory is short".into(),
            (true, false) => format!("it pays from {worth} bytes on"),
            (false, _) => format!("{gain} bytes to be gained; it pays from {worth} on"),
        };
        PlanStep {
            policy: "compact".into(),
            due,
            pages: gain / PAGE_SIZE as u64,
            bytes: gain,
            why,
        }
    }
}

fn words(gauge: Gauge) -> String {
    match gauge {
        Gauge::None => "no watermark is set, or there is no mem_limit that it is of".into(),
        Gauge::Limit { used, high, low } => {
            format!("{used} bytes in use; work begins above {high} and ends at {low}")
        }
        Gauge::Psi { some, high } => {
            format!("tasks waited for memory {some} % of the last 10 s; work begins above {high} %")
        }
        Gauge::NoPsi => {
            "the kernel does not tell memory pressure (no /proc/pressure/memory)".into()
        }
    }
}
