//! S10: what is applied once is never applied again, also over restarts; and always in order.
//!
//! Per life of a process and group, entries come one by one from the index that the store had when it was
//! opened. Per command of a client, at most one entry has it: clients repeat only what was surely refused,
//! so a second one means that a refusal was not true.

use super::{Checked, Invariant, Violation};
use pontoon_types::{GroupId, LogIndex, NodeId};
use std::collections::{BTreeMap, BTreeSet};

/// A client's command: its session and its number there.
pub type CommandId = (u64, u64);

/// What was applied where.
#[derive(Debug, Default)]
pub struct AppliedOnce {
    applied: BTreeMap<(NodeId, GroupId), LogIndex>,
    commands: BTreeMap<CommandId, (GroupId, LogIndex)>,
    refused: BTreeSet<CommandId>,
}

impl AppliedOnce {
    /// A process starts, and its store has a group applied up to `applied`; `durable` is the index of the
    /// store's last finished flush.
    ///
    /// # Errors
    /// If the two differ.
    pub fn opened(
        &mut self,
        node: NodeId,
        group: GroupId,
        applied: LogIndex,
        durable: LogIndex,
    ) -> Checked {
        self.applied.insert((node, group), applied);
        if applied == durable {
            return Ok(());
        }
        Err(Violation::new(
            Invariant::S10,
            format!(
                "group {group}: the store of node {node} opens at index {applied}, its last flush had {durable}"
            ),
        ))
    }

    /// A node hands an entry to its state machine, with the client's command in it, if there is one.
    ///
    /// # Errors
    /// If it is not the next one, or its command was in another entry or was refused.
    pub fn applied(
        &mut self,
        node: NodeId,
        group: GroupId,
        index: LogIndex,
        command: Option<CommandId>,
    ) -> Checked {
        let last = self.applied.entry((node, group)).or_default();
        let before = std::mem::replace(last, index);
        if index != before.next() {
            let what = format!("group {group}: node {node} applies {index} after {before}");
            return Err(Violation::new(Invariant::S10, what));
        }
        let Some(command) = command else {
            return Ok(());
        };
        let place = *self.commands.entry(command).or_insert((group, index));
        if place != (group, index) {
            let what = format!(
                "command {command:?} is entry {index} of group {group} and entry {} of group {}",
                place.1, place.0
            );
            return Err(Violation::new(Invariant::S10, what));
        }
        if self.refused.contains(&command) {
            return Err(was_refused(command, group, index));
        }
        Ok(())
    }

    /// A snapshot that has applied everything up to `applied` takes the place of a node's state of a group.
    ///
    /// # Errors
    /// If that state was as far already.
    pub fn installed(&mut self, node: NodeId, group: GroupId, applied: LogIndex) -> Checked {
        let last = self.applied.entry((node, group)).or_default();
        let before = std::mem::replace(last, applied);
        if applied > before {
            return Ok(());
        }
        let what =
            format!("group {group}: node {node} installs a snapshot at {applied} over {before}");
        Err(Violation::new(Invariant::S10, what))
    }

    /// A node's replica of a group has left; another one may come.
    pub fn left(&mut self, node: NodeId, group: GroupId) {
        self.applied.remove(&(node, group));
    }

    /// A client was told that its command was surely not done.
    ///
    /// # Errors
    /// If it was.
    pub fn refused(&mut self, command: CommandId) -> Checked {
        self.refused.insert(command);
        match self.place(command) {
            None => Ok(()),
            Some((group, index)) => Err(was_refused(command, group, index)),
        }
    }

    /// Which entry a command became.
    #[must_use]
    pub fn place(&self, command: CommandId) -> Option<(GroupId, LogIndex)> {
        self.commands.get(&command).copied()
    }

    /// Up to where a node has applied a group.
    #[must_use]
    pub fn last(&self, node: NodeId, group: GroupId) -> LogIndex {
        self.applied
            .get(&(node, group))
            .copied()
            .unwrap_or_default()
    }
}

fn was_refused(command: CommandId, group: GroupId, index: LogIndex) -> Violation {
    let what = format!(
        "command {command:?} was surely not done, its client heard, but it is entry {index} of group {group}"
    );
    Violation::new(Invariant::S10, what)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::invariants::broken;

    const NODE: NodeId = NodeId(1);
    const GROUP: GroupId = GroupId(1);

    fn apply(checker: &mut AppliedOnce, index: u64, command: Option<CommandId>) -> Checked {
        checker.applied(NODE, GROUP, LogIndex(index), command)
    }

    #[test]
    fn repetitions_gaps_and_untrue_refusals_are_found() {
        let new = || {
            let mut checker = AppliedOnce::default();
            assert_eq!(apply(&mut checker, 1, Some((1, 1))), Ok(()));
            assert_eq!(apply(&mut checker, 2, None), Ok(()));
            checker
        };
        assert_eq!(broken(&apply(&mut new(), 2, None)), Invariant::S10);
        assert_eq!(broken(&apply(&mut new(), 4, None)), Invariant::S10);
        assert_eq!(broken(&apply(&mut new(), 3, Some((1, 1)))), Invariant::S10);
        assert_eq!(broken(&new().refused((1, 1))), Invariant::S10);
        let mut checker = new();
        assert_eq!(checker.refused((1, 2)), Ok(()));
        assert_eq!(
            broken(&apply(&mut checker, 3, Some((1, 2)))),
            Invariant::S10
        );
    }

    #[test]
    fn a_restart_goes_on_where_the_flush_was() {
        let mut checker = AppliedOnce::default();
        for index in 1..=3 {
            assert_eq!(apply(&mut checker, index, None), Ok(()));
        }
        let flushed = LogIndex(2);
        assert_eq!(checker.opened(NODE, GROUP, flushed, flushed), Ok(()));
        assert_eq!(apply(&mut checker, 3, None), Ok(()));
        let torn = checker.opened(NODE, GROUP, LogIndex(3), flushed);
        assert_eq!(broken(&torn), Invariant::S10);
    }
}
