//! Deliberate faults, by which the simulator shows that it would notice the accidental ones.
//!
//! Each names a rule that the code can leave out. Where the rule stands, the code asks
//! [`mutant!`](crate::mutant!), which is the constant `false` unless this crate is built with the feature
//! `mutants`: only the simulator's command of that name and the runner of the protocol's scenarios turn it on,
//! and no other build has a trace of it.
//! With the feature, one mutant at a time is chosen for the whole process.

/// Whether a deliberate fault is on: `mutant!(Name)`.
#[macro_export]
macro_rules! mutant {
    ($mutant:ident) => {
        $crate::mutant::is_on($crate::mutant::Mutant::$mutant)
    };
}

macro_rules! mutants {
    ($($(#[doc = $doc:literal])* $mutant:ident,)*) => {
        /// A rule that is left out.
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        pub enum Mutant {
            $($(#[doc = $doc])* $mutant,)*
        }

        #[cfg(feature = "mutants")]
        impl Mutant {
            /// Every mutant.
            pub const ALL: &'static [Self] = &[$(Self::$mutant,)*];

            /// Its name.
            #[must_use]
            pub const fn name(self) -> &'static str {
                match self {
                    $(Self::$mutant => stringify!($mutant),)*
                }
            }

            /// What it does wrong, in words.
            #[must_use]
            pub const fn fault(self) -> &'static str {
                match self {
                    $(Self::$mutant => concat!($($doc),*).trim_ascii(),)*
                }
            }
        }
    };
}

mutants! {
    /// Votes and terms leave before they are synced.
    VotesUnsynced,
    /// A candidate asks for votes, and counts its own, before that is synced.
    OwnVoteUnsynced,
    /// A replica votes twice in one term.
    VotesTwice,
    /// A vote is granted whatever the candidate's log lacks.
    ElectsShorterLogs,
    /// A leader counts replicas for entries of earlier terms.
    CountsOldTerms,
    /// An append is acknowledged before it is synced.
    AcknowledgesUnsynced,
    /// A leader counts itself before its own sync.
    LeaderCountsUnsynced,
    /// A late acknowledgement of the disk is believed of entries that were replaced meanwhile.
    BelievesLateSyncs,
    /// A follower takes entries although what comes before them does not match.
    AppendsWithoutMatch,
    /// A short append cuts off what a longer one brought.
    ShortAppendsTruncate,
    /// A follower commits beyond what it knows to match.
    CommitsUnmatched,
    /// Heartbeats name a commit index that the follower may not match.
    HeartbeatsCommitUnmatched,
    /// What is committed is applied before it is synced here.
    AppliesUnsynced,
    /// After a restart the last applied entry is applied again.
    AppliesTwice,
    /// Reads are answered without a confirmed quorum.
    ReadsUnconfirmed,
    /// Answers to an earlier round confirm later reads.
    RoundsShared,
    /// A new leader answers reads before it has committed in its own term.
    ReadsBeforeOwnCommit,
    /// Voters do not care how lately they have heard their leader.
    StickinessDropped,
    /// A voter forgets what it has promised its leader when it meets a newer term.
    TermsEndPromises,
    /// A voter that restarts forgets that it may have promised something.
    RestartForgetsPromise,
    /// With leases on, a replica that has just heard its leader campaigns when told from outside.
    CampaignBreaksPromise,
    /// A lease lasts as long as a promise, however the clocks drift.
    LeaseIgnoresDrift,
    /// A lease counts from when the answers came, not from when they were asked for.
    LeaseFromAnswer,
    /// A lease, once given, is not compared with the time.
    LeaseUnchecked,
    /// A lease goes on after the members have changed.
    LeaseOutlivesMembers,
    /// A lease goes on although somebody was told to campaign.
    LeaseOutlivesTransfer,
    /// Who was told to campaign deposes also later leaders.
    TransferOutlivesTerm,
    /// Who was told to campaign gets votes whatever its log lacks.
    TransferElectsShorterLogs,
    /// Proposals are taken while the leadership is handed over.
    ProposalsDuringTransfer,
    /// Answers to reads that an earlier life of a replica has forwarded are taken.
    ReadsOutliveProcess,
    /// A change of the members is proposed while an earlier one is not applied.
    ChangesOverlap,
    /// A leader changes the members before it has committed in its own term.
    ChangesBeforeOwnCommit,
    /// A replica campaigns although it has yet to apply a committed change of the members.
    CampaignsUnapplied,
    /// In a joint configuration only the incoming half decides.
    JointCountsIncoming,
    /// A leader goes on after it has applied its own removal.
    RemovedLeaderLeads,
    /// Nobody leaves a joint configuration that is to be left without being asked.
    StaysJoint,
    /// Who installs a snapshot keeps to the members that it knew.
    SnapshotMembersIgnored,
    /// A snapshot replaces also a log that has all of it.
    SnapshotsReplaceMatching,
    /// A peer is sent a snapshot while another is under way to it.
    SnapshotsPileUp,
    /// Who lacks a part of the log is told to campaign.
    TransfersToLagging,
    /// A confirmed read does not wait until its index is applied.
    ReadsUnapplied,
    /// Messages that wait for a batch leave before its sync.
    MessagesOvertakeSync,
    /// Who proposed an index is told of success, whoever's entry it became.
    AnswersByIndex,
    /// The log forgets what the store has not flushed.
    ForgetsUnflushed,
    /// Nothing bounds what waits for the disk.
    BacklogUnbounded,
    /// A node speaks for replicas of other nodes.
    AnyoneSpeaks,
    /// Damaged entries from the network are taken.
    DamagedEntriesPass,
    /// A replica that has left does not tell candidates what is committed.
    GoneStaySilent,
    /// A replica that has left comes back when it is spoken to.
    GoneComeBack,
    /// A snapshot takes the state's place before the log says so durably.
    InstallsEarly,
    /// Ids of tablets are not set aside before they are used.
    TabletsUsedTwice,
    /// A write is repeated although its outcome is unknown.
    RepeatsUnknown,
    /// Commands are applied whatever range and epoch they were routed by.
    AppliesAstray,
    /// Reads are served whatever range and epoch they were routed by.
    ReadsAstray,
    /// Records of a recycled segment's earlier life verify.
    StaleRecordsVerify,
    /// What is read back from the log is not checked.
    ReadsBackUnverified,
    /// Replicas whose log is damaged take part as if nothing had happened.
    DamagedTakePart,
    /// Damage below the durable mark is taken for the end of the log.
    DamageEndsLog,
    /// A torn tail is taken for damage, and stays.
    TornTailStays,
    /// Batches claim to be durable before they are synced.
    MarkRunsAhead,
    /// Recovery does not rewrite what lies above the durable mark.
    TrustsPageCache,
    /// New segments are used before their names are synced.
    NamesUnsynced,
    /// Segments are given back before it is durable that the log is without them.
    SegmentsGoEarly,
    /// A rewritten entry cuts its group's log, as a new one does.
    RewriteCuts,
    /// A rewritten entry takes the place of a newer one.
    RewriteOutranks,
    /// Leaving a segment forgets to sync its end.
    LeavesUnsynced,
    /// A sync that failed is tried again as if it could work.
    RepeatsFailedSync,
    /// A compaction is announced ahead of earlier batches that still wait for room.
    AnnouncesOutOfOrder,
}

/// Whether a mutant is on. It never is in this build.
#[cfg(not(feature = "mutants"))]
#[doc(hidden)]
#[inline(always)]
#[must_use]
pub const fn is_on(_: Mutant) -> bool {
    false
}

#[cfg(feature = "mutants")]
mod choice {
    use super::Mutant;
    use core::sync::atomic::{AtomicUsize, Ordering};

    /// The number of the chosen one, from 1 on.
    static CHOSEN: AtomicUsize = AtomicUsize::new(0);

    /// Turns a mutant on, for the whole process, and all others off.
    pub fn choose(mutant: Option<Mutant>) {
        let number = mutant.map_or(0, |mutant| mutant as usize + 1);
        CHOSEN.store(number, Ordering::Relaxed);
    }

    /// Whether a mutant is on.
    #[must_use]
    pub fn is_on(mutant: Mutant) -> bool {
        CHOSEN.load(Ordering::Relaxed) == mutant as usize + 1
    }
}

#[cfg(feature = "mutants")]
pub use choice::{choose, is_on};
