//! Joining what the log and the store remember of a replica.

use crate::error::EngineError;
use pontoon_raft::Restored;
use pontoon_store::{KvMachine, ReplicaRecord, Store};
use pontoon_types::mutant;
use pontoon_wal::Recovered;

/// What a replica starts from. `None` if its log is damaged: it may have forgotten what it promised, so it
/// must neither vote nor acknowledge, and no worker gets it.
///
/// # Errors
/// If the store has applied what the log never held.
pub fn restore<S: Store>(
    record: &ReplicaRecord,
    recovered: &mut Recovered,
    machine: &KvMachine<S>,
) -> Result<Option<Restored>, EngineError> {
    let group = record.group;
    if recovered.is_quarantined(group) && !mutant!(DamagedTakePart) {
        return Ok(None);
    }
    let log = recovered.groups.remove(&group).unwrap_or_default();
    let applied = machine.applied(group);
    if applied > log.last {
        return Err(EngineError::LogBehindStore {
            group,
            applied,
            last: log.last,
        });
    }
    Ok(Some(Restored {
        hard_state: log.hard_state,
        conf_state: record.conf_state.clone(),
        compacted: log.compacted,
        terms: log.terms,
        last: log.last,
        applied,
    }))
}
