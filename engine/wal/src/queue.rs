//! The order in which batches are laid and announced, also while there is no room for some.
//!
//! The log's thread and the simulator drive the same queue, so that what it decides is tested where crashes
//! are.

use crate::{SealedBatch, WalError};
use pontoon_types::mutant;
use std::collections::VecDeque;

/// Batches on their way into a log, each with the ticket by which its end is announced.
///
/// Tickets are announced in the order in which they came, whatever was laid first: who hears of one takes
/// it that all earlier ones are durable.
#[derive(Debug)]
pub struct LogQueue<T> {
    /// Laid, and announced after the next sync.
    laid: Vec<T>,
    /// What cannot be announced yet, in the order in which it came: batches for which there is no segment,
    /// and, without its batch, whatever was laid ahead of one of those.
    waiting: VecDeque<(Option<SealedBatch>, T)>,
}

impl<T> Default for LogQueue<T> {
    fn default() -> Self {
        Self {
            laid: Vec::new(),
            waiting: VecDeque::new(),
        }
    }
}

impl<T> LogQueue<T> {
    /// Takes a batch. `lay` is [`Log::try_append`](crate::Log::try_append), or does that and more: it says
    /// whether the batch was laid.
    ///
    /// # Errors
    /// What `lay` returns; the log has failed then, and nothing that waits will be announced.
    pub fn submit(
        &mut self,
        batch: SealedBatch,
        ticket: T,
        mut lay: impl FnMut(&SealedBatch) -> Result<bool, WalError>,
    ) -> Result<(), WalError> {
        // What frees space may make the room that the others wait for, so it is laid ahead of them. It is
        // announced behind them all the same.
        let overtakes = !self.waiting.is_empty();
        let others = self.waiting.iter().filter_map(|(batch, _)| batch.as_ref());
        let may_lay = !overtakes || batch.may_overtake(others);
        let is_laid = match may_lay.then(|| lay(&batch)).transpose() {
            Ok(is_laid) => is_laid.unwrap_or(false),
            Err(error) => {
                self.waiting.push_back((None, ticket)); // To be told with the others.
                return Err(error);
            }
        };
        if is_laid && (!overtakes || mutant!(AnnouncesOutOfOrder)) {
            self.laid.push(ticket);
        } else {
            self.waiting
                .push_back(((!is_laid).then_some(batch), ticket));
        }
        Ok(())
    }

    /// Lays what waits, as far as there is room now.
    ///
    /// # Errors
    /// As above.
    pub fn lay_waiting(
        &mut self,
        mut lay: impl FnMut(&SealedBatch) -> Result<bool, WalError>,
    ) -> Result<(), WalError> {
        while let Some((batch, ticket)) = self.waiting.pop_front() {
            match batch.as_ref().map_or(Ok(true), &mut lay) {
                Ok(true) => self.laid.push(ticket),
                Ok(false) => {
                    self.waiting.push_front((batch, ticket));
                    break;
                }
                Err(error) => {
                    self.waiting.push_front((None, ticket)); // To be told with the others.
                    return Err(error);
                }
            }
        }
        Ok(())
    }

    /// The tickets to announce, because everything that was laid until now is synced.
    pub fn take_laid(&mut self) -> std::vec::Drain<'_, T> {
        self.laid.drain(..)
    }

    /// Whether something waits for room.
    #[must_use]
    pub fn has_waiting(&self) -> bool {
        !self.waiting.is_empty()
    }

    /// How many tickets wait for room, their own or that of one before them.
    #[must_use]
    pub fn waiting(&self) -> usize {
        self.waiting.len()
    }

    /// Gives up everything: the log has failed, and nobody is to be told of success.
    pub fn give_up(&mut self) -> impl Iterator<Item = T> {
        let waiting = self.waiting.drain(..).map(|(_, ticket)| ticket);
        self.laid.drain(..).chain(waiting)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::BatchBuilder;
    use pontoon_types::{Entry, EntryKind, GroupId, LogIndex, LogPosition, ReplicaId, Term};

    fn entry(group: u64) -> SealedBatch {
        let (group, kind) = (GroupId(group), EntryKind::Command);
        let mut batch = BatchBuilder::new();
        batch.append(&Entry::encode(group, Term(1), LogIndex(1), kind, b""));
        batch.seal()
    }

    fn tombstone(group: u64) -> SealedBatch {
        let mut batch = BatchBuilder::new();
        batch.compact(GroupId(9), LogPosition::ZERO);
        batch.tombstone(GroupId(group), ReplicaId(1));
        batch.seal()
    }

    #[test]
    fn a_tombstone_overtakes_batches_of_other_groups_but_not_of_its_own() {
        let mut queue = LogQueue::default();
        let mut lays = |batch, ticket, has_room| {
            let mut laid = false;
            let lay = |_: &SealedBatch| {
                laid = true;
                Ok(has_room)
            };
            queue.submit(batch, ticket, lay).unwrap();
            laid
        };
        assert!(lays(entry(1), 1, false), "it is tried while nothing waits");
        assert!(!lays(entry(2), 2, true), "it waits behind the other");
        assert!(lays(tombstone(3), 3, true));
        assert!(!lays(tombstone(2), 4, true), "entries of 2 still wait");
        let mut laid = Vec::new();
        let lay = |batch: &SealedBatch| {
            laid.push(batch.records()[0].group().0);
            Ok(true)
        };
        queue.lay_waiting(lay).unwrap();
        assert_eq!(laid, [1, 2, 9]);
        assert!(queue.take_laid().eq([1, 2, 3, 4]));
    }
}
