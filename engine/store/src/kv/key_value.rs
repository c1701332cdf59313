//! The commands of the key-value store.

use super::{Outcome, State, StateMachine};
use crate::keys::MAX_STORED_KEY_BYTES;
use crate::{Store, StoreError};
use pontoon_types::{Command, Mutation, Operation, Request, mutant};

/// Executes [`Command`]s: a row of a group is a key of its shard.
#[derive(Clone, Copy, Debug, Default)]
pub struct KeyValue;

impl StateMachine for KeyValue {
    fn execute<S: Store>(
        &self,
        command: &[u8],
        state: &mut State<'_, S>,
    ) -> Result<Outcome, StoreError> {
        let Ok(Command {
            request: Request { shard, epoch, .. },
            operation,
        }) = Command::decode(command)
        else {
            return Ok(Outcome::Malformed);
        };
        let checks = !mutant!(AppliesAstray);
        if checks && !state.record().is_current(shard, epoch) {
            return Ok(Outcome::StaleEpoch);
        }
        for key in operation.keys() {
            if key.is_empty() || key.len() > MAX_STORED_KEY_BYTES {
                return Ok(Outcome::Malformed);
            }
            if checks && !state.record().contains(key) {
                return Ok(Outcome::OutOfRange);
            }
        }
        match operation {
            Operation::Write(mutations) => {
                for mutation in mutations {
                    match mutation {
                        Mutation::Put { key, value } => state.put(key, value),
                        Mutation::Delete { key } => state.delete(key),
                    }
                }
                Ok(Outcome::Written)
            }
            Operation::CompareAndSwap { key, expect, set } => {
                let actual = state.get(key)?;
                if actual.as_deref() != expect {
                    return Ok(Outcome::NotSwapped { actual });
                }
                match set {
                    Some(value) => state.put(key, value),
                    None => state.delete(key),
                }
                Ok(Outcome::Swapped)
            }
        }
    }
}
