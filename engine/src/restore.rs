//! Joining what the log and the store remember of a replica.

use crate::error::EngineError;
use pontoon_raft::Restored;
use pontoon_store::{KvMachine, ReplicaRecord, Store};
use pontoon_types::mutant;
use pontoon_wal::{Recovered, RecoveredGroup};

/// Makes the store agree with what the log says happened to replicas as a whole: snapshots that took a state's place,
/// and replicas that have left. The log's record is where each of these is decided; a crash may have come before the store
/// heard of it.
///
/// # Errors
/// If a record in the log cannot be read or the store cannot be written.
pub fn redo<S: Store>(
    recovered: &Recovered,
    machine: &mut KvMachine<S>,
) -> Result<(), EngineError> {
    for (group, log) in &recovered.groups {
        let group = *group;
        if log.damaged {
            continue;
        }
        let here = machine.replica(group).map(|record| record.replica);
        if here.is_some() && here <= log.removed {
            machine.remove(group)?;
        }
        let Some(installed) = &log.installed else {
            continue;
        };
        let record = ReplicaRecord::decode(group, &installed.payload)
            .map_err(|source| EngineError::InstallRecord { group, source })?;
        let is_behind =
            machine.replica(group).is_none() || machine.applied(group) < installed.last.index;
        if is_behind {
            machine.install(record, installed.last.index)?;
        }
    }
    Ok(())
}

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
    let log = recovered.groups.entry(group).or_default();
    // What has left before this replica came stays known.
    let removed = log.removed;
    let log = std::mem::replace(
        log,
        RecoveredGroup {
            removed,
            ..RecoveredGroup::default()
        },
    );
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
