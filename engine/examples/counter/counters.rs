//! A state machine of one's own: counters by name.

use pontoon_store::{Outcome, State, StateMachine, Store, StoreError};

/// A command is the name of a counter. It is counted up, and the answer is what it is then, in decimal digits.
pub(crate) struct Counters;

impl StateMachine for Counters {
    fn execute<S: Store>(
        &self,
        command: &[u8],
        state: &mut State<'_, S>,
    ) -> Result<Outcome, StoreError> {
        let before = state.get(command)?;
        let before = before.and_then(|row| row[..].try_into().ok());
        let count = before.map_or(0, u64::from_be_bytes) + 1;
        state.put(command, &count.to_be_bytes());
        Ok(Outcome::Answered(count.to_string().into()))
    }
}
