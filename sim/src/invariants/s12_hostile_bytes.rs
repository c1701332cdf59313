//! S12: bytes from a peer or a client never cause a panic, and what must be refused has no effect.
//!
//! A panic ends the run by itself. Beyond that: a worker that was handed a frame which it must refuse as a
//! whole must be as it was before; and who asks for something that is not a request is served nothing.

use super::{Checked, Invariant, Violation};
use pontoon_engine::{GroupStatus, Reply};
use pontoon_store::Outcome;
use pontoon_types::NodeId;

/// A worker of `node` was handed `what`, and its groups were `before` and are `after`.
///
/// # Errors
/// If they are not the same.
pub fn no_effect(
    node: NodeId,
    what: &str,
    before: &[GroupStatus],
    after: &[GroupStatus],
) -> Checked {
    let changed = before
        .iter()
        .zip(after)
        .find(|(before, after)| before != after);
    let Some((before, after)) = changed else {
        return Ok(());
    };
    let what = format!("node {node} took in {what}, and went from {before:?} to {after:?}");
    Err(Violation::new(Invariant::S12, what))
}

/// `node` answers something that is not a request with `reply`.
///
/// # Errors
/// If it has served it.
pub fn refused(node: NodeId, reply: &Reply) -> Checked {
    let is_refused = !matches!(
        reply,
        Reply::Applied(Outcome::Written | Outcome::Swapped | Outcome::NotSwapped { .. })
            | Reply::Value(Some(_))
            | Reply::Rows(_)
    );
    if is_refused {
        return Ok(());
    }
    let what = format!("node {node} answers what is no request with {reply:?}");
    Err(Violation::new(Invariant::S12, what))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::invariants::broken;
    use pontoon_engine::RoleName;
    use pontoon_types::{GroupId, LogIndex, ReplicaId, ShardId, Term};

    #[test]
    fn an_effect_and_a_served_non_request_are_found() {
        let status = |term| GroupStatus {
            group: GroupId(1),
            shard: ShardId(1),
            replica: ReplicaId(1),
            role: RoleName::Follower,
            term: Term(term),
            leader: None,
            members: Vec::new(),
            commit: LogIndex(3),
            applied: LogIndex(3),
            first: LogIndex(1),
            last: LogIndex(4),
        };
        let node = NodeId(1);
        assert_eq!(no_effect(node, "x", &[status(1)], &[status(1)]), Ok(()));
        let effect = no_effect(node, "x", &[status(1)], &[status(2)]);
        assert_eq!(broken(&effect), Invariant::S12);
        assert_eq!(refused(node, &Reply::Applied(Outcome::Malformed)), Ok(()));
        let served = refused(node, &Reply::Applied(Outcome::Written));
        assert_eq!(broken(&served), Invariant::S12);
    }
}
