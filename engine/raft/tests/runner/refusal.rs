//! Why something was refused, as facts.

use super::facts::Facts;
use crate::harness::StartError;
use pontoon_raft::{
    ConfChangeRefusal, ConfigError, ProposeError, ReadError, StepError, TransferError,
};
use pontoon_types::ReplicaId;

fn refused(why: &str) -> Facts {
    let mut facts = Facts::default();
    facts.flag("refused").flag(why);
    facts
}

fn lead(facts: &mut Facts, leader: Option<ReplicaId>) {
    facts.value(
        "lead",
        leader.map_or_else(|| "none".to_owned(), |id| id.to_string()),
    );
}

pub(crate) fn refused_proposal(error: ProposeError) -> Facts {
    match error {
        ProposeError::NotLeader { leader } => {
            let mut facts = refused("not-leader");
            lead(&mut facts, leader);
            facts
        }
        ProposeError::Transferring { to } => {
            let mut facts = refused("transferring");
            facts.value("to", to);
            facts
        }
        ProposeError::Overloaded {
            uncommitted_bytes,
            limit_bytes,
        } => {
            let mut facts = refused("overloaded");
            facts
                .value("uncommitted", uncommitted_bytes)
                .value("limit", limit_bytes);
            facts
        }
        ProposeError::TooLarge { limit_bytes, .. } => {
            let mut facts = refused("too-large");
            facts.value("limit", limit_bytes);
            facts
        }
        ProposeError::ConfChange(refusal) => refused(match refusal {
            ConfChangeRefusal::Pending { .. } => "pending",
            ConfChangeRefusal::TermNotCommitted { .. } => "term-not-committed",
            ConfChangeRefusal::Invalid(_) => "invalid",
        }),
        ProposeError::Stopped => refused("stopped"),
    }
}

pub(crate) fn refused_transfer(error: TransferError) -> Facts {
    match error {
        TransferError::NotLeader { leader } => {
            let mut facts = refused("not-leader");
            lead(&mut facts, leader);
            facts
        }
        TransferError::LeadsAlready => refused("leads-already"),
        TransferError::Learner { .. } => refused("learner"),
        TransferError::NotMember { .. } => refused("not-member"),
        TransferError::Stopped => refused("stopped"),
    }
}

pub(crate) fn refused_read(error: ReadError) -> Facts {
    match error {
        ReadError::NotLeader { leader } => {
            let mut facts = refused("not-leader");
            lead(&mut facts, leader);
            facts
        }
        ReadError::Overloaded { waiting } => {
            let mut facts = refused("overloaded");
            facts.value("waiting", waiting);
            facts
        }
        ReadError::Stopped => refused("stopped"),
    }
}

pub(crate) fn refused_step(error: StepError) -> Facts {
    match error {
        StepError::Misdirected { .. } => refused("misdirected"),
        StepError::Malformed { .. } => refused("malformed"),
        StepError::TwoLeaders { known, .. } => {
            let mut facts = refused("two-leaders");
            lead(&mut facts, Some(known));
            facts
        }
        StepError::CommittedConflict { index, .. } => {
            let mut facts = refused("committed-conflict");
            facts.value("index", index);
            facts
        }
        StepError::LogLost {
            acknowledged, last, ..
        } => {
            let mut facts = refused("log-lost");
            facts
                .value("acknowledged", acknowledged)
                .value("last", last);
            facts
        }
        StepError::Stopped { .. } => refused("stopped"),
    }
}

pub(crate) fn refused_start(error: StartError) -> Facts {
    let error = match error {
        StartError::Quarantined => return refused("quarantined"),
        StartError::Config(error) => error,
    };
    match error {
        ConfigError::Zero { .. } => refused("zero-setting"),
        ConfigError::HeartbeatTooSlow { .. } => refused("heartbeat-too-slow"),
        ConfigError::ClockDrift { .. } => refused("impossible-drift"),
        ConfigError::LeaseWithoutCheckQuorum => refused("lease-without-check-quorum"),
        ConfigError::Terms { .. } => refused("inconsistent-terms"),
        ConfigError::TermBehindLog { .. } => refused("term-behind-log"),
        ConfigError::CommitPastLog { commit, last } => {
            let mut facts = refused("commit-past-log");
            facts.value("acknowledged", commit).value("last", last);
            facts
        }
        ConfigError::Applied { .. } => refused("applied-outside-log"),
        ConfigError::Members => refused("impossible-members"),
    }
}
