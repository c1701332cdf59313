//! A node's replicas while nothing runs: looked at, and made the only voters of groups that lost their quorum.
//!
//! Nothing here is safe in the sense of Raft: what a lost majority had acknowledged and this replica never got is gone,
//! and what this replica holds counts as committed whether it was or not. What still holds, and why:
//!
//! - **One step.** The rest of the log is applied and the record replaced by one durable batch of the store. A crash
//!   leaves the group as it was or recovered. Nothing of the log is left to be applied, so no change of members in
//!   it can bring a lost member back.
//! - **A new id.** The survivor goes on under a replica id that no member of the old group has or will ever get to know
//!   by itself. So no message of the old group reaches it: it neither votes for an old candidate nor follows an old leader,
//!   and cannot be counted in any old quorum.
//! - **No second leader.** By the choice of the group, those of its old members that are left are no quorum of any
//!   configuration that this log knows of. All of them are below the new id and no members, so they are told that they have
//!   left as soon as they ask for a vote, whether they still are members, or speak as a leader (`worker/members.rs`). They leave by
//!   a tombstone, and their nodes can get new replicas.
//!
//! The second and the third need the survivor with the most complete log: a configuration that is committed is then
//! in its log. They do not bind lost nodes that come back while the survivor is away: a majority of these is the old group.

use super::Opened;
use crate::error::EngineError;
use crate::restore::redo;
use pontoon_store::{ReplicaRecord, StateMachine};
use pontoon_types::{
    ConfChange, ConfState, Entry, EntryKind, GroupId, HardState, LogIndex, LogPosition, Members,
    NodeId, ReplicaId,
};
use std::ops::ControlFlow;

/// The ids that are passed over for those that lost members may have given to others since.
const SKIPPED_IDS: u64 = 1000;

/// How much of a log is read at once.
const READ_BYTES: usize = 4 << 20;

/// What an offline look finds of a replica.
#[derive(Clone, Debug)]
pub struct ReplicaSurvey {
    /// Its record, with the members as of `applied`.
    pub record: ReplicaRecord,
    /// Its term, its vote, and what it knows to be committed.
    pub hard_state: HardState,
    /// The end of its log. Of two survivors of a group the one with the higher position, term first, has all
    /// that the other has.
    pub last: LogPosition,
    /// What its state holds durably.
    pub applied: LogIndex,
    /// The configurations that may be in force: the one as of `applied`, and what each later change in the log makes of it.
    pub configurations: Vec<ConfState>,
    /// Which node holds which replica, all changes of the log included.
    pub members: Members,
    /// Why the replica cannot be trusted, if it cannot.
    pub damage: Option<String>,
}

impl ReplicaSurvey {
    /// The record that makes this replica, on `node`, the only voter of its group, under a new id.
    #[must_use]
    pub fn sole_voter(&self, node: NodeId) -> ReplicaRecord {
        let next = self.members.next_replica().0;
        let replica = ReplicaId(next.saturating_add(SKIPPED_IDS));
        let mut record = self.record.clone();
        record.replica = replica;
        record.conf_state = ConfState::of_voters([replica]);
        record.members = Members::new([(replica, node)]);
        // One for each change of the log, and one for this.
        record.epoch.membership += self.configurations.len() as u64;
        record
    }

    fn take_in(&mut self, entry: &Entry) -> Result<(), String> {
        if entry.kind() != EntryKind::ConfChange {
            return Ok(());
        }
        let change = ConfChange::decode(entry.payload())
            .map_err(|error| format!("the change of members at {}: {error}", entry.index()))?;
        let present = self.configurations.last();
        // One that cannot be made changes nothing, on any replica.
        if let Some(Ok(next)) = present.map(|conf| conf.apply(&change)) {
            self.members.apply(&change, &next);
            self.configurations.push(next);
        }
        Ok(())
    }
}

impl<M: StateMachine> Opened<M> {
    /// Looks at every replica. As at every start, the store first makes up for what only the log knows of replicas
    /// that left and snapshots that came; otherwise nothing is changed.
    ///
    /// # Errors
    /// If the store fails.
    pub fn survey(&mut self) -> Result<Vec<ReplicaSurvey>, EngineError> {
        redo(&mut self.recovered, &mut self.machine)?;
        let records = self.machine.replicas();
        Ok(records.map(|record| self.survey_one(record)).collect())
    }

    fn survey_one(&self, record: &ReplicaRecord) -> ReplicaSurvey {
        let group = record.group;
        let log = self.recovered.groups.get(&group).cloned();
        let log = log.unwrap_or_default();
        let applied = self.machine.applied(group);
        let term = log.terms.last().map_or(log.compacted.term, |last| last.1);
        let HardState { commit, .. } = log.hard_state;
        let mut survey = ReplicaSurvey {
            record: record.clone(),
            hard_state: HardState {
                commit: commit.max(applied),
                ..log.hard_state
            },
            last: LogPosition {
                term,
                index: log.last,
            },
            applied,
            configurations: vec![record.conf_state.clone()],
            members: record.members.clone(),
            damage: None,
        };
        survey.damage = if self.recovered.is_quarantined(group) {
            Some("its log is damaged".to_owned())
        } else if survey.hard_state.commit > log.last {
            Some("its log has lost its end".to_owned())
        } else if applied < log.compacted.index {
            Some("its log begins after what its state holds".to_owned())
        } else {
            self.take_in_changes(&mut survey).err()
        };
        survey
    }

    fn take_in_changes(&self, survey: &mut ReplicaSurvey) -> Result<(), String> {
        let (group, from, to) = (survey.record.group, survey.applied, survey.last.index);
        let mut unreadable = Ok(());
        let read = self.read_log(group, from, to, |entries| {
            unreadable = entries.iter().try_for_each(|entry| survey.take_in(entry));
            match &unreadable {
                Ok(()) => ControlFlow::Continue(()),
                Err(_) => ControlFlow::Break(()),
            }
        });
        read.map_err(|error| error.to_string())?;
        unreadable
    }

    /// Makes a replica the only voter of its group, with all that is in its log. It is durable when this returns; if it
    /// does not, the group is as it was.
    ///
    /// This is for groups that have lost their quorum for good; see the module's essay for what it costs.
    ///
    /// # Errors
    /// If the log cannot be read or the store fails.
    pub fn make_sole_voter(&mut self, survey: &ReplicaSurvey) -> Result<(), EngineError> {
        let group = survey.record.group;
        let (commit, last) = (survey.hard_state.commit, survey.last.index);
        let mut from = survey.applied;
        // What is known to be committed would be applied at the next start anyway.
        while from < commit {
            let entries = self.wal.read(group, from.next(), commit, READ_BYTES)?;
            self.machine.apply(&entries, &mut Vec::new())?;
            from = entries.last().map_or(commit, Entry::index);
        }
        let mut rest = Vec::new();
        self.read_log(group, from, last, |entries| {
            rest.extend(entries);
            ControlFlow::Continue(())
        })?;
        self.machine.force(&rest, survey.sole_voter(self.node))?;
        Ok(())
    }

    /// Hands out a group's entries after `from` up to `to`, piece by piece.
    fn read_log(
        &self,
        group: GroupId,
        mut from: LogIndex,
        to: LogIndex,
        mut visit: impl FnMut(Vec<Entry>) -> ControlFlow<()>,
    ) -> Result<(), EngineError> {
        while from < to {
            let entries = self.wal.read(group, from.next(), to, READ_BYTES)?;
            from = entries.last().map_or(to, Entry::index);
            if visit(entries).is_break() {
                break;
            }
        }
        Ok(())
    }

    /// Flushes the store, closes the log and lets the directory go.
    ///
    /// # Errors
    /// If either fails.
    pub fn close(self) -> Result<(), EngineError> {
        self.machine.into_store().shutdown()?;
        self.wal.shutdown()?;
        Ok(())
    }
}
