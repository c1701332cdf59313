//! Joining what the log and the store remember of a replica.

use crate::error::EngineError;
use pontoon_raft::Restored;
use pontoon_store::{Machine, ReplicaRecord, StateMachine, Store};
use pontoon_types::mutant;
use pontoon_wal::{Recovered, RecoveredGroup};

/// Makes the store agree with what the log says happened to replicas as a whole: snapshots that took a state's place,
/// and replicas that have left. The log's record is where each of these is decided; a crash may have come before the store
/// heard of it. A group whose record of an install cannot be read is damaged like any other whose log is.
///
/// # Errors
/// If the store cannot be written.
pub fn redo<S: Store, M: StateMachine>(
    recovered: &mut Recovered,
    machine: &mut Machine<S, M>,
) -> Result<(), EngineError> {
    for (group, log) in &mut recovered.groups {
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
        let record = match ReplicaRecord::decode(group, &installed.payload) {
            Ok(record) => record,
            Err(error) => {
                tracing::error!(%group, %error, "the log's record of an installed snapshot cannot be read");
                log.damaged = true;
                recovered.damaged.insert(group);
                continue;
            }
        };
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
pub fn restore<S: Store, M: StateMachine>(
    record: &ReplicaRecord,
    recovered: &mut Recovered,
    machine: &Machine<S, M>,
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
