//! The follower's half of replication (Raft §5.3).

use crate::error::StepError;
use crate::message::{Entries, MessageBody};
use crate::raft::{Ack, Raft, Role};
use pontoon_types::{LogIndex, LogPosition, ReplicaId, mutant};

impl Raft {
    /// Accepts `from` as the leader of this term: it says that it is, and a quorum made it so.
    pub(crate) fn follow(&mut self, from: ReplicaId) -> Result<(), StepError> {
        if let Some(known) = self.leader
            && known != from
        {
            return Err(StepError::TwoLeaders {
                term: self.term,
                known,
                claimed: from,
            });
        }
        if self.role == Role::Follower {
            self.leader = Some(from);
        } else {
            self.become_follower(self.term, Some(from));
        }
        self.hear_leader();
        Ok(())
    }

    pub(crate) fn handle_append(
        &mut self,
        from: ReplicaId,
        previous: LogPosition,
        commit: LogIndex,
        read_round: u64,
        entries: Entries,
    ) -> Result<(), StepError> {
        if self.is_uninitialised() {
            self.ask_for_snapshot(from, previous.index, read_round);
            return Ok(());
        }
        if let Some(conflict) = self.log.committed_conflict(previous, &entries) {
            return Err(self.stop(StepError::CommittedConflict {
                from,
                index: conflict.index,
                ours: conflict.ours,
                theirs: conflict.theirs,
            }));
        }
        if previous.index < self.log.commit() {
            // What is committed is in this leader's log (S3), so the logs agree up to there.
            self.acknowledge(from, self.log.commit(), read_round);
            return Ok(());
        }
        let is_known = previous.index <= self.log.last_index();
        if self.log.term_at(previous.index) != Some(previous.term)
            && !(mutant!(AppendsWithoutMatch) && is_known)
        {
            let hint = self.log.last_within(previous.index, previous.term);
            let body = MessageBody::AppendRejected {
                rejected: previous.index,
                hint,
                read_round,
            };
            self.say(from, self.term, body);
            return Ok(());
        }
        let matched = LogIndex(previous.index.0 + entries.len() as u64);
        if let Some(last) = self.log.merge(entries) {
            self.durability.clip(last);
        }
        // Beyond `matched` this log may hold what the leader never had.
        let known = if mutant!(CommitsUnmatched) {
            self.log.last_index()
        } else {
            matched
        };
        self.log.commit_to(commit.min(known));
        self.acknowledge(from, matched, read_round);
        Ok(())
    }

    pub(crate) fn handle_heartbeat(
        &mut self,
        from: ReplicaId,
        commit: LogIndex,
        read_round: u64,
    ) -> Result<(), StepError> {
        let last = self.log.last_index();
        if commit > last {
            // A leader names no more than this replica has acknowledged to it, durably.
            return Err(self.stop(StepError::LogLost {
                from,
                acknowledged: commit,
                last,
            }));
        }
        self.log.commit_to(commit);
        self.hint_due = true;
        let body = MessageBody::HeartbeatResponse { read_round };
        self.say(from, self.term, body);
        self.forward_reads_again();
        Ok(())
    }

    /// Owes the leader an answer. In one term logs only grow together, so the furthest answer holds for
    /// all Appends since the last [`Raft::poll_ready`].
    pub(crate) fn acknowledge(&mut self, to: ReplicaId, matched: LogIndex, read_round: u64) {
        let earlier = self.ack.filter(|ack| ack.to == to);
        self.ack = Some(Ack {
            to,
            matched: earlier.map_or(matched, |ack| ack.matched.max(matched)),
            read_round: earlier.map_or(read_round, |ack| ack.read_round.max(read_round)),
        });
    }

    pub(crate) fn learn_matched_by_all(&mut self, index: LogIndex) {
        let known = index.min(self.log.commit());
        self.matched_by_all = self.matched_by_all.max(known);
    }
}
