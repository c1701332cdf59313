//! S6: nothing that promises durability leaves a node before what it speaks of is synced.
//!
//! Looked at twice: when a message leaves, against what the disk has finished; and after a crash, when
//! recovery must find everything that any message has promised.

use super::{Checked, Invariant, Violation};
use crate::shadow::ShadowLog;
use pontoon_raft::{Message, MessageBody};
use pontoon_types::{GroupId, LogIndex, LogPosition, NodeId, ReplicaId, Term};
use pontoon_wal::RecoveredGroup;
use std::collections::BTreeMap;

/// What the replicas have promised so far.
#[derive(Debug, Default)]
pub struct Promises {
    of: BTreeMap<(NodeId, GroupId), Promise>,
}

#[derive(Clone, Copy, Debug, Default)]
struct Promise {
    term: Term,
    /// For whom it has voted in `term`, itself included.
    vote: Option<ReplicaId>,
    /// The last position that it has acknowledged and not been told to overwrite since.
    matched: LogPosition,
}

impl Promises {
    /// A message leaves `node`, whose disk has finished `durable` of the group, and has been given `laid`.
    ///
    /// # Errors
    /// If the message speaks of what is not durable.
    pub fn sent(
        &mut self,
        node: NodeId,
        group: GroupId,
        message: &Message,
        durable: &ShadowLog,
        laid: &ShadowLog,
    ) -> Checked {
        let term = message.term;
        let vote = match message.body {
            // A pre-vote promises nothing, and names a term that nobody is in.
            MessageBody::RequestVote { pre: true, .. }
            | MessageBody::VoteResponse { pre: true, .. } => return Ok(()),
            MessageBody::RequestVote { .. } => Some(message.from),
            MessageBody::VoteResponse { granted: true, .. } => Some(message.to),
            _ => None,
        };
        let early = |what: String| {
            let state = durable.hard_state;
            let what = format!(
                "group {group}: node {node} sends {message:?} and {what}; durable are {state:?} and the entries up to {}",
                durable.last()
            );
            Err(Violation::new(Invariant::S6, what))
        };
        if term > durable.hard_state.term {
            return early("its term is not durable".to_owned());
        }
        let promise = self.of.entry((node, group)).or_default();
        if term > promise.term {
            promise.term = term;
            promise.vote = None;
        }
        let is_current = term == durable.hard_state.term;
        if let Some(vote) = vote
            && is_current
        {
            if durable.hard_state.vote != Some(vote) {
                return early("its vote is not durable".to_owned());
            }
            promise.vote = Some(vote);
        }
        // An answer that was overtaken by a newer term speaks of a log that may be gone by now.
        if let MessageBody::AppendResponse { matched, .. } = message.body
            && is_current
        {
            match durable.term_at(matched) {
                _ if matched < durable.compacted.index => {}
                None => return early("what it acknowledges is not durable".to_owned()),
                // A leader may have had it overwritten already, after the sync and before the message.
                Some(term)
                    if matched > promise.matched.index && laid.term_at(matched) == Some(term) =>
                {
                    promise.matched = LogPosition {
                        term,
                        index: matched,
                    };
                }
                Some(_) => {}
            }
        }
        Ok(())
    }

    /// A leader has the node overwrite its log from `index` on: it owes nothing there any more.
    pub fn overwritten(&mut self, node: NodeId, group: GroupId, index: LogIndex) {
        if let Some(promise) = self.of.get_mut(&(node, group))
            && promise.matched.index >= index
        {
            promise.matched.index = LogIndex(index.0 - 1);
            promise.matched.term = Term::ZERO;
        }
    }

    /// The replica has left the node, and owes nothing any more.
    pub fn left(&mut self, node: NodeId, group: GroupId) {
        self.of.remove(&(node, group));
    }

    /// After a crash, recovery has found `found`.
    ///
    /// # Errors
    /// If that is behind a promise.
    pub fn recovered(&self, node: NodeId, group: GroupId, found: &RecoveredGroup) -> Checked {
        let Some(promise) = self.of.get(&(node, group)) else {
            return Ok(());
        };
        let forgot = |what: &str| {
            let what = format!(
                "group {group}: node {node} has promised {promise:?} and forgot {what}; recovered is {found:?}"
            );
            Err(Violation::new(Invariant::S6, what))
        };
        let state = found.hard_state;
        if state.term < promise.term {
            return forgot("its term");
        }
        if state.term == promise.term && promise.vote.is_some() && state.vote != promise.vote {
            return forgot("its vote");
        }
        if found.last < promise.matched.index {
            return forgot("entries that it has acknowledged");
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::invariants::broken;
    use crate::shadow::{ShadowRecord, Stamp};
    use pontoon_types::HardState;

    const GROUP: GroupId = GroupId(1);
    const NODE: NodeId = NodeId(2);

    fn durable(term: u64, vote: Option<u64>, entries: u64) -> ShadowLog {
        let mut log = ShadowLog::default();
        log.take(&ShadowRecord::HardState(HardState {
            term: Term(term),
            vote: vote.map(ReplicaId),
            commit: LogIndex::ZERO,
        }));
        for index in 1..=entries {
            let stamp = Stamp {
                term: Term(1),
                checksum: 0,
            };
            log.take(&ShadowRecord::Entry(LogIndex(index), stamp));
        }
        log
    }

    fn message(term: u64, body: MessageBody) -> Message {
        Message {
            from: ReplicaId(2),
            to: ReplicaId(1),
            term: Term(term),
            body,
        }
    }

    const GRANT: MessageBody = MessageBody::VoteResponse {
        granted: true,
        pre: false,
        committed: LogPosition::ZERO,
    };

    fn acknowledge(matched: u64) -> MessageBody {
        MessageBody::AppendResponse {
            matched: LogIndex(matched),
            read_round: 0,
        }
    }

    fn send(promises: &mut Promises, term: u64, body: MessageBody, log: &ShadowLog) -> Checked {
        promises.sent(NODE, GROUP, &message(term, body), log, log)
    }

    #[test]
    fn a_message_that_is_ahead_of_the_disk_is_found() {
        let promises = &mut Promises::default();
        let log = durable(3, Some(1), 2);
        assert_eq!(send(promises, 3, GRANT, &log), Ok(()));
        assert_eq!(send(promises, 3, acknowledge(2), &log), Ok(()));
        let early = [
            (4, GRANT, log.clone()),
            (3, GRANT, durable(3, None, 2)),
            (3, GRANT, durable(3, Some(3), 2)),
            (3, acknowledge(3), log),
        ];
        for (term, body, log) in early {
            assert_eq!(broken(&send(promises, term, body, &log)), Invariant::S6);
        }
    }

    #[test]
    fn what_was_overwritten_before_the_acknowledgement_left_is_not_owed() {
        let mut promises = Promises::default();
        let (log, laid) = (durable(3, Some(1), 2), durable(4, None, 1));
        let answer = message(3, acknowledge(2));
        assert_eq!(promises.sent(NODE, GROUP, &answer, &log, &laid), Ok(()));
        let found = RecoveredGroup {
            hard_state: log.hard_state,
            last: LogIndex(1),
            ..RecoveredGroup::default()
        };
        assert_eq!(promises.recovered(NODE, GROUP, &found), Ok(()));
    }

    #[test]
    fn a_recovery_that_forgot_a_promise_is_found() {
        let mut promises = Promises::default();
        let log = durable(3, Some(1), 2);
        assert_eq!(send(&mut promises, 3, GRANT, &log), Ok(()));
        assert_eq!(send(&mut promises, 3, acknowledge(2), &log), Ok(()));
        let sound = RecoveredGroup {
            hard_state: log.hard_state,
            last: LogIndex(2),
            ..RecoveredGroup::default()
        };
        assert_eq!(promises.recovered(NODE, GROUP, &sound), Ok(()));
        let forgetful: [fn(&mut RecoveredGroup); 3] = [
            |found| found.hard_state.term = Term(2),
            |found| found.hard_state.vote = Some(ReplicaId(3)),
            |found| found.last = LogIndex(1),
        ];
        for forget in forgetful {
            let mut found = sound.clone();
            forget(&mut found);
            let checked = promises.recovered(NODE, GROUP, &found);
            assert_eq!(broken(&checked), Invariant::S6);
        }
        promises.overwritten(NODE, GROUP, LogIndex(2));
        let mut shorter = sound;
        shorter.last = LogIndex(1);
        assert_eq!(promises.recovered(NODE, GROUP, &shorter), Ok(()));
    }
}
