//! What a world serves: the key-value store, or the counters of the engine's example.
//!
//! Both get the same commands, with the client, the call, the shard and its epoch in front, so that all checkers but the
//! one for the clients' histories are the same.

#[path = "../../../engine/examples/counter/counters.rs"]
mod counters;

use crate::random::Dice;
use counters::Counters;
use pontoon_store::{KeyValue, Outcome, State, StateMachine, Store, StoreError};
use pontoon_types::{Command, Mutation, Operation, Request};

/// One world in so many serves counters.
const COUNTS: u64 = 8;

/// The state machine of all groups of a world.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Service {
    KeyValue,
    Counters,
}

impl Service {
    /// That of a seed, from dice of its own.
    pub(super) fn of(seed: u64) -> Self {
        if Dice::new(!seed).below(COUNTS) == 0 {
            Self::Counters
        } else {
            Self::KeyValue
        }
    }
}

impl StateMachine for Service {
    fn execute<S: Store>(
        &self,
        command: &[u8],
        state: &mut State<'_, S>,
    ) -> Result<Outcome, StoreError> {
        match self {
            Self::KeyValue => KeyValue.execute(command, state),
            Self::Counters => count(command, state),
        }
    }
}

/// Counts up under the name that the command would write a value to.
fn count<S: Store>(command: &[u8], state: &mut State<'_, S>) -> Result<Outcome, StoreError> {
    let Ok(Command {
        request: Request { shard, epoch, .. },
        operation: Operation::Write(mutations),
    }) = Command::decode(command)
    else {
        return Ok(Outcome::Malformed);
    };
    let [Mutation::Put { key: name, .. }] = mutations[..] else {
        return Ok(Outcome::Malformed);
    };
    if !state.record().is_current(shard, epoch) {
        return Ok(Outcome::StaleEpoch);
    }
    if !state.record().contains(name) {
        return Ok(Outcome::OutOfRange);
    }
    Counters.execute(name, state)
}
