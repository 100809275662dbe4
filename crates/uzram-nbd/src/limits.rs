//! Who gets a place, when there are no more places than clients.
//!
//! This is the rule alone, over values; [`Connections`](crate::connections::Connections) applies it.
//!
//! - While a place is free, whoever comes gets it.
//! - *Others wait* means: no place is free, and somebody comes whose owner (user or address) has no more than half of the
//!   places. An owner that has more than half then gives one back. The places it took first, up to half, are its own. Of
//!   those beyond, that one ends which holds no requests and has been idle for longest; if all hold requests, a stalled one,
//!   or else the one that came last, which first finishes the requests that it has received.
//! - A newcomer takes the place of a connection of its own owner that has been negotiating for more than a second.
//! - Otherwise it is refused.
//!
//! So an owner with at most half of the places never loses one to others, and one that has none gets one whenever somebody
//! else has more than half.

use crate::{activity::ConnectionPhase, peer::QuotaOwner};
use std::{fmt, net::IpAddr, time::Duration};

/// A connection that has a place.
#[derive(Debug, Clone, Copy)]
pub(crate) struct PlacedConnection {
    /// Later connections have higher numbers.
    pub(crate) id: u64,
    pub(crate) owner: QuotaOwner,
    pub(crate) phase: ConnectionPhase,
}

/// What becomes of a newcomer.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Admission {
    Free,
    /// The connection of this number ends for it.
    Instead(u64),
    Refused(AdmissionRefusal),
}

/// Why a newcomer is refused, as it is told.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum AdmissionRefusal {
    /// Every place is taken by those who may keep it.
    Full { most: usize },
    /// This user is not allowed.
    User(u32),
    /// This address is in none of the networks that are.
    Address(IpAddr),
}

impl fmt::Display for AdmissionRefusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            AdmissionRefusal::Full { most: 1 } => {
                f.write_str("1 client is connected, the limit (--max-connections)")
            }
            AdmissionRefusal::Full { most } => {
                write!(
                    f,
                    "{most} clients are connected, the limit (--max-connections)"
                )
            }
            AdmissionRefusal::Address(address) => {
                write!(
                    f,
                    "{address} may not use this disk (--allow has other addresses)"
                )
            }
            AdmissionRefusal::User(uid) => {
                write!(
                    f,
                    "uid {uid} may not use this disk (--allow-uid {uid} permits it)"
                )
            }
        }
    }
}

/// How many of `most` places one owner may keep where others wait.
pub(crate) fn half(most: usize) -> usize {
    most.div_ceil(2)
}

/// Decides about a newcomer. `leaving` connections have lost their places and have not ended yet.
pub(crate) fn admit(
    newcomer: QuotaOwner,
    most: usize,
    present: &[PlacedConnection],
    leaving: usize,
) -> Admission {
    if present.len() < most {
        return Admission::Free;
    }
    let own = |holder: &&PlacedConnection| holder.owner == newcomer;
    let slow = present.iter().filter(own).filter(|holder| {
        matches!(holder.phase, ConnectionPhase::Negotiating(_)) && holder.phase.is_stuck()
    });
    let victim = slow.min_by_key(|holder| holder.id);
    match victim.or_else(|| on_loan(newcomer, most, present)) {
        // Those that leave still have memory and threads: they are bounded, too.
        Some(victim) if leaving < half(most) => Admission::Instead(victim.id),
        _ => Admission::Refused(AdmissionRefusal::Full { most }),
    }
}

/// A connection of an owner other than `newcomer` beyond half of the places: the one that ends with the least harm.
fn on_loan(
    newcomer: QuotaOwner,
    most: usize,
    present: &[PlacedConnection],
) -> Option<&PlacedConnection> {
    let of = |owner: QuotaOwner| present.iter().filter(move |holder| holder.owner == owner);
    // No two can have more than half.
    let greedy = present.iter().map(|holder| holder.owner);
    let greedy = { greedy }.find(|owner| *owner != newcomer && of(*owner).count() > half(most))?;
    let mut theirs: Vec<&PlacedConnection> = of(greedy).collect();
    theirs.sort_by_key(|holder| holder.id);
    theirs
        .split_off(half(most))
        .into_iter()
        .max_by_key(harmless)
}

/// The higher, the less harm is in the end of a connection.
fn harmless(holder: &&PlacedConnection) -> (u8, Duration, u64) {
    let (rank, time) = match holder.phase {
        ConnectionPhase::Negotiating(time) => (3, time),
        ConnectionPhase::Idle(time) => (2, time),
        ConnectionPhase::Stalled(time) => (1, time),
        ConnectionPhase::Busy => (0, Duration::ZERO),
    };
    (rank, time, holder.id)
}

#[cfg(test)]
mod tests {
    use super::*;
    use Admission::{Free, Instead, Refused};

    const A: QuotaOwner = QuotaOwner::User(1);
    const B: QuotaOwner = QuotaOwner::User(2);
    const C: QuotaOwner = QuotaOwner::User(3);
    const FULL: Admission = Refused(AdmissionRefusal::Full { most: 8 });

    fn idle(seconds: u64) -> ConnectionPhase {
        ConnectionPhase::Idle(Duration::from_secs(seconds))
    }

    /// Connections 0, 1, 2, … of these owners in these phases.
    fn holders(of: &[(QuotaOwner, usize, ConnectionPhase)]) -> Vec<PlacedConnection> {
        let all = of
            .iter()
            .flat_map(|&(owner, count, phase)| std::iter::repeat_n((owner, phase), count));
        all.enumerate()
            .map(|(id, (owner, phase))| PlacedConnection {
                id: id as u64,
                owner,
                phase,
            })
            .collect()
    }

    #[test]
    fn anybody_may_take_all_places_that_nobody_else_wants() {
        assert_eq!(
            admit(A, 8, &holders(&[(A, 7, ConnectionPhase::Busy)]), 0),
            Free
        );
        assert_eq!(admit(A, 8, &holders(&[(A, 8, idle(99))]), 0), FULL);
    }

    #[test]
    fn who_has_more_than_half_gives_back_what_came_later() {
        // The first four are its own, however idle.
        let all = holders(&[(A, 4, idle(99)), (A, 4, idle(1))]);
        assert!(matches!(admit(B, 8, &all, 0), Instead(4..)));
        let all = holders(&[(A, 6, ConnectionPhase::Busy), (B, 2, idle(99))]);
        assert_eq!(admit(B, 8, &all, 0), Instead(5), "the last of the busy");
        assert_eq!(admit(C, 8, &all, 0), Instead(5));
        assert_eq!(admit(A, 8, &all, 0), FULL, "not from others");
        let all = holders(&[(A, 4, ConnectionPhase::Busy), (B, 4, idle(99))]);
        assert_eq!(admit(C, 8, &all, 0), FULL, "half is kept");
    }

    #[test]
    fn the_one_that_ends_is_the_one_that_it_hurts_least() {
        let long = Duration::from_secs(9);
        let mut all = holders(&[(A, 4, idle(99)), (A, 4, ConnectionPhase::Busy)]);
        for (victim, phase) in [
            (5, ConnectionPhase::Stalled(long)),
            (4, idle(1)),
            (6, idle(2)),
            (7, ConnectionPhase::Negotiating(Duration::ZERO)),
        ] {
            all[victim].phase = phase;
            assert_eq!(admit(B, 8, &all, 0), Instead(victim as u64));
        }
    }

    #[test]
    fn slow_negotiations_make_room_for_their_own_owner_only() {
        let slow = ConnectionPhase::Negotiating(Duration::from_secs(2));
        let fast = ConnectionPhase::Negotiating(Duration::from_millis(2));
        let all = holders(&[(B, 4, slow), (A, 1, fast), (A, 2, slow), (A, 1, slow)]);
        assert_eq!(admit(A, 8, &all, 0), Instead(5), "the oldest");
        assert_eq!(admit(C, 8, &all, 0), FULL);
        assert_eq!(admit(A, 8, &holders(&[(A, 8, fast)]), 0), FULL);
    }

    #[test]
    fn those_that_leave_are_bounded() {
        let all = holders(&[(A, 8, idle(1))]);
        assert!(matches!(admit(B, 8, &all, 3), Instead(_)));
        assert_eq!(admit(B, 8, &all, 4), FULL);
    }

    /// Whatever comes in whatever order: nobody at or below half loses a place to another, places are never exceeded, and
    /// an owner without a place gets one while somebody has more than half.
    #[test]
    fn prop_half_is_safe_and_more_is_on_loan() {
        let mut random = uzram_testkit::Random::new(17);
        for most in [1, 2, 3, 8, 9] {
            let mut present: Vec<PlacedConnection> = Vec::new();
            for id in 0..2000 {
                let newcomer = QuotaOwner::User(random.below(4) as u32);
                let phases = [
                    ConnectionPhase::Busy,
                    idle(1),
                    ConnectionPhase::Negotiating(Duration::from_secs(5)),
                ];
                for holder in &mut present {
                    holder.phase = phases[random.below(3) as usize];
                }
                let count = |owner| present.iter().filter(|h| h.owner == owner).count();
                let others = present.iter().map(|h| h.owner).filter(|o| *o != newcomer);
                let greedy = { others }.find(|owner| count(*owner) > half(most));
                match admit(newcomer, most, &present, 0) {
                    Free => {}
                    Instead(victim) => {
                        let at = present.iter().position(|h| h.id == victim).unwrap();
                        let lost = present.remove(at).owner;
                        assert!(lost == newcomer || Some(lost) == greedy);
                    }
                    Refused(_) => {
                        assert!(greedy.is_none() && present.len() == most);
                        present.remove(random.below(most as u64) as usize);
                        continue;
                    }
                }
                present.push(PlacedConnection {
                    id,
                    owner: newcomer,
                    phase: ConnectionPhase::Busy,
                });
                assert!(present.len() <= most);
            }
        }
    }
}
