//! Which scenario notices which deliberate fault of the core.
//!
//! Built with the feature `mutants` the runner does this instead of its tests: every script is run with
//! each mutant in turn, and each must make one of them fail.

use pontoon_types::mutant::{Mutant, choose};
use std::process::ExitCode;

/// Those that are in the core; the others are the simulator's to catch.
const OF_THE_CORE: &[Mutant] = &[
    Mutant::VotesUnsynced,
    Mutant::OwnVoteUnsynced,
    Mutant::VotesTwice,
    Mutant::ElectsShorterLogs,
    Mutant::CountsOldTerms,
    Mutant::AcknowledgesUnsynced,
    Mutant::LeaderCountsUnsynced,
    Mutant::BelievesLateSyncs,
    Mutant::AppendsWithoutMatch,
    Mutant::ShortAppendsTruncate,
    Mutant::CommitsUnmatched,
    Mutant::HeartbeatsCommitUnmatched,
    Mutant::AppliesUnsynced,
    Mutant::AppliesTwice,
    Mutant::ReadsUnconfirmed,
    Mutant::RoundsShared,
    Mutant::ReadsBeforeOwnCommit,
    Mutant::StickinessDropped,
    Mutant::TermsEndPromises,
    Mutant::RestartForgetsPromise,
    Mutant::CampaignBreaksPromise,
    Mutant::LeaseIgnoresDrift,
    Mutant::LeaseFromAnswer,
    Mutant::LeaseUnchecked,
    Mutant::LeaseOutlivesMembers,
    Mutant::LeaseOutlivesTransfer,
    Mutant::TransferOutlivesTerm,
    Mutant::TransferElectsShorterLogs,
    Mutant::ProposalsDuringTransfer,
    Mutant::ReadsOutliveProcess,
    Mutant::ChangesOverlap,
    Mutant::ChangesBeforeOwnCommit,
    Mutant::CampaignsUnapplied,
    Mutant::JointCountsIncoming,
    Mutant::RemovedLeaderLeads,
    Mutant::StaysJoint,
    Mutant::SnapshotMembersIgnored,
    Mutant::SnapshotsReplaceMatching,
    Mutant::SnapshotsPileUp,
    Mutant::TransfersToLagging,
];

pub(crate) fn run(scripts: &[(String, String)]) -> ExitCode {
    let mut missed = 0;
    for mutant in OF_THE_CORE {
        choose(Some(*mutant));
        let fails = |(name, text): &&(String, String)| super::run(name, text).is_err();
        let caught: Vec<&str> = scripts
            .iter()
            .filter(fails)
            .map(|(name, _)| name.split('-').next().unwrap_or(name))
            .collect();
        choose(None);
        missed += usize::from(caught.is_empty());
        let by = match caught.is_empty() {
            true => "NOTHING".to_owned(),
            false => caught.join(" "),
        };
        println!("{:<28} {by}", mutant.name());
    }
    println!(
        "mutants: {missed} of {} noticed by no scenario",
        OF_THE_CORE.len()
    );
    match missed {
        0 => ExitCode::SUCCESS,
        _ => ExitCode::FAILURE,
    }
}
