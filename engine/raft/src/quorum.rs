//! Majorities over a configuration that can be joint (Raft §6, thesis §4.3).
//!
//! Every decision of a quorum goes through here, so that a joint configuration cannot be forgotten
//! anywhere: elections and check-quorum ask [`tally`], commit and reads ask [`agreed`].

use alloc::borrow::Cow;
use pontoon_types::{ConfState, ReplicaId, mutant};

/// How a vote stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Tally {
    /// A quorum said yes.
    Won,
    /// No quorum can say yes any more.
    Lost,
    /// Neither yet.
    Open,
}

/// The highest value that a quorum has reached, given how far each voter is.
///
/// In a joint configuration the lower of both halves' values; a half without voters constrains nothing,
/// and a configuration without any voter reaches nothing.
pub(crate) fn agreed<T: Ord + Copy + Default>(
    conf: &ConfState,
    mut reached: impl FnMut(ReplicaId) -> T,
) -> T {
    let incoming = majority_reached(&deciding(conf), &mut reached);
    let outgoing = majority_reached(&conf.outgoing, &mut reached);
    match (incoming, outgoing) {
        (Some(incoming), Some(_)) if mutant!(JointCountsIncoming) => incoming,
        (Some(incoming), Some(outgoing)) => incoming.min(outgoing),
        (Some(one), None) | (None, Some(one)) => one,
        (None, None) => T::default(),
    }
}

/// How the vote stands, given each voter's answer (`None`: none yet).
pub(crate) fn tally(conf: &ConfState, mut answer: impl FnMut(ReplicaId) -> Option<bool>) -> Tally {
    let incoming = deciding(conf);
    let mut halves = [&*incoming, &conf.outgoing]
        .into_iter()
        .filter(|half| !half.is_empty())
        .take(if mutant!(JointCountsIncoming) { 1 } else { 2 })
        .map(|half| tally_half(half, &mut answer))
        .peekable();
    if halves.peek().is_none() {
        return Tally::Lost;
    }
    halves.fold(Tally::Won, |all, half| match (all, half) {
        (Tally::Lost, _) | (_, Tally::Lost) => Tally::Lost,
        (Tally::Open, _) | (_, Tally::Open) => Tally::Open,
        (Tally::Won, Tally::Won) => Tally::Won,
    })
}

/// The incoming half: learners have no say.
fn deciding(conf: &ConfState) -> Cow<'_, [ReplicaId]> {
    if mutant!(LearnersCount) {
        return [&conf.voters[..], &conf.learners].concat().into();
    }
    Cow::Borrowed(&conf.voters)
}

fn majority(voters: usize) -> usize {
    voters / 2 + 1
}

/// `None` if there are no voters. Quadratic, which for the handful of voters that a group has beats
/// sorting into memory that somebody would have to provide.
fn majority_reached<T: Ord + Copy>(
    voters: &[ReplicaId],
    reached: &mut impl FnMut(ReplicaId) -> T,
) -> Option<T> {
    if voters.is_empty() {
        return None; // As the outgoing half nearly always is.
    }
    // Most groups have three voters: then it is the middle one, without a loop.
    if let &[a, b, c] = voters {
        let (a, b, c) = (reached(a), reached(b), reached(c));
        return Some(a.max(b).min(c).max(a.min(b)));
    }
    let mut best = None;
    for &candidate in voters {
        let value = reached(candidate);
        if best.is_some_and(|best| value <= best) {
            continue;
        }
        let holders = voters.iter().filter(|&&id| reached(id) >= value).count();
        if holders >= majority(voters.len()) {
            best = Some(value);
        }
    }
    best
}

fn tally_half(voters: &[ReplicaId], answer: &mut impl FnMut(ReplicaId) -> Option<bool>) -> Tally {
    let (mut granted, mut refused) = (0, 0);
    for &id in voters {
        match answer(id) {
            Some(true) => granted += 1,
            Some(false) => refused += 1,
            None => {}
        }
    }
    if granted >= majority(voters.len()) {
        Tally::Won
    } else if voters.len() - refused < majority(voters.len()) {
        Tally::Lost
    } else {
        Tally::Open
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use alloc::vec::Vec;
    use proptest::prelude::*;

    fn conf(voters: &[u64], outgoing: &[u64]) -> ConfState {
        let ids = |list: &[u64]| list.iter().copied().map(ReplicaId).collect();
        ConfState {
            voters: ids(voters),
            outgoing: ids(outgoing),
            ..ConfState::default()
        }
    }

    /// Scenario C3: the table.
    #[test]
    fn the_quorum_table_holds() {
        for (matched, expected) in [
            (&[5u64, 5, 4, 3, 1][..], 4u64),
            (&[9, 3], 3),
            (&[7], 7),
            (&[6, 0, 6], 6),
            (&[6, 0, 0], 0),
            (&[], 0),
        ] {
            let ids: Vec<u64> = (0..matched.len() as u64).collect();
            let found = agreed(&conf(&ids, &[]), |id| matched[id.0 as usize]);
            assert_eq!(found, expected, "{matched:?}");
        }
        let matched = |id: ReplicaId| [0, 9, 9, 4, 4, 2][id.0 as usize];
        assert_eq!(agreed(&conf(&[1, 2, 3], &[]), matched), 9);
        assert_eq!(agreed(&conf(&[1, 2, 3], &[3, 4, 5]), matched), 4);
        assert_eq!(agreed(&conf(&[3, 4, 5], &[1, 2, 3]), matched), 4);
        let learners = ConfState {
            learners: [ReplicaId(2), ReplicaId(3)].to_vec(),
            ..conf(&[1, 5], &[])
        };
        assert_eq!(agreed(&learners, matched), 2);
    }

    #[test]
    fn a_joint_vote_needs_both_halves() {
        let both = conf(&[1, 2, 3], &[3, 4, 5]);
        let yes =
            |granted: &'static [u64]| move |id: ReplicaId| granted.contains(&id.0).then_some(true);
        assert_eq!(tally(&both, yes(&[1, 2])), Tally::Open);
        assert_eq!(tally(&both, yes(&[1, 2, 3])), Tally::Open);
        assert_eq!(tally(&both, yes(&[1, 3, 4])), Tally::Won);
        let refused = |id: ReplicaId| (id.0 > 3).then_some(false);
        assert_eq!(tally(&both, refused), Tally::Lost);
        assert_eq!(tally(&conf(&[], &[]), |_| Some(true)), Tally::Lost);
    }

    proptest! {
        #[test]
        fn the_agreed_value_is_the_sorted_middle(matched in prop::collection::vec(0u64..20, 1..9)) {
            let ids: Vec<u64> = (0..matched.len() as u64).collect();
            let mut sorted = matched.clone();
            sorted.sort_unstable();
            let expected = sorted[matched.len() - majority(matched.len())];
            let found = agreed(&conf(&ids, &[]), |id| matched[id.0 as usize]);
            prop_assert_eq!(found, expected);
        }
    }
}
