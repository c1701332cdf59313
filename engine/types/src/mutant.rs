//! Deliberate faults, by which the simulator shows that it would notice the accidental ones.
//!
//! Each names a rule that the code can leave out. Where the rule stands, the code asks
//! [`mutant!`](crate::mutant!), which is the constant `false` unless this crate is built with the feature
//! `mutants`: only those who look for the faults turn it on, and no other build has a trace of it.
//! With the feature, one mutant at a time is chosen for the whole process. Each says who must notice it.

/// Whether a deliberate fault is on: `mutant!(Name)`.
#[macro_export]
macro_rules! mutant {
    ($mutant:ident) => {
        $crate::mutant::is_on($crate::mutant::Mutant::$mutant)
    };
}

/// Whether this build looks for deliberate faults, and so may check what is not checked where speed counts.
pub const ARE_LOOKED_FOR: bool = cfg!(feature = "mutants");

/// Who looks for deliberate faults: each a command that fails unless it notices those that name it.
#[cfg(feature = "mutants")]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Noticer {
    /// The scenarios of the protocol, for all that is in the core.
    Scenarios,
    /// The simulator, for all but what no world lives long enough to coincide, and what the engine does not use.
    Simulator,
    /// The exploration of every order of events in a small group.
    Exploration,
    /// Kills of real processes.
    Kills,
}

macro_rules! mutants {
    ($($(#[doc = $doc:literal])* $mutant:ident => [$($noticer:ident),+],)*) => {
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

            /// Who must notice it.
            #[must_use]
            pub const fn noticers(self) -> &'static [Noticer] {
                match self {
                    $(Self::$mutant => &[$(Noticer::$noticer),+],)*
                }
            }

            /// Those that `noticer` must notice.
            pub fn of(noticer: Noticer) -> impl Iterator<Item = Self> {
                let all = Self::ALL.iter().copied();
                all.filter(move |mutant| mutant.noticers().contains(&noticer))
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
    VotesUnsynced => [Scenarios, Simulator, Exploration],
    /// A candidate asks for votes, and counts its own, before that is synced.
    OwnVoteUnsynced => [Scenarios, Simulator, Exploration],
    /// A replica votes twice in one term.
    VotesTwice => [Scenarios, Simulator, Exploration],
    /// A vote is granted whatever the candidate's log lacks.
    ElectsShorterLogs => [Scenarios, Simulator, Exploration, Kills],
    /// A leader counts replicas for entries of earlier terms.
    CountsOldTerms => [Scenarios, Simulator, Exploration],
    /// An append is acknowledged before it is synced.
    AcknowledgesUnsynced => [Scenarios, Simulator, Exploration],
    /// A leader counts itself before its own sync.
    LeaderCountsUnsynced => [Scenarios, Simulator, Exploration],
    /// A late acknowledgement of the disk is believed of entries that were replaced meanwhile.
    BelievesLateSyncs => [Scenarios, Simulator],
    /// A follower takes entries although what comes before them does not match.
    AppendsWithoutMatch => [Scenarios, Simulator],
    /// A short append cuts off what a longer one brought.
    ShortAppendsTruncate => [Scenarios, Simulator],
    /// A follower keeps entries that differ from its leader's, and adds what follows.
    KeepsConflicts => [Scenarios, Simulator, Kills],
    /// A follower commits beyond what it knows to match.
    CommitsUnmatched => [Scenarios, Simulator],
    /// Heartbeats name a commit index that the follower may not match.
    HeartbeatsCommitUnmatched => [Scenarios, Simulator],
    /// What is committed is applied before it is synced here.
    AppliesUnsynced => [Scenarios, Simulator],
    /// After a restart the last applied entry is applied again.
    AppliesTwice => [Scenarios, Simulator, Kills],
    /// Reads are answered without a confirmed quorum.
    ReadsUnconfirmed => [Scenarios, Simulator],
    /// Answers to an earlier round confirm later reads.
    RoundsShared => [Scenarios, Simulator],
    /// A new leader answers reads before it has committed in its own term.
    ReadsBeforeOwnCommit => [Scenarios, Simulator],
    /// Voters do not care how lately they have heard their leader.
    StickinessDropped => [Scenarios],
    /// A voter forgets what it has promised its leader when it meets a newer term.
    TermsEndPromises => [Scenarios],
    /// A voter that restarts forgets that it may have promised something.
    RestartForgetsPromise => [Scenarios],
    /// With leases on, a replica that has just heard its leader campaigns when told from outside.
    CampaignBreaksPromise => [Scenarios],
    /// A lease lasts as long as a promise, however the clocks drift.
    LeaseIgnoresDrift => [Scenarios],
    /// A lease counts from when the answers came, not from when they were asked for.
    LeaseFromAnswer => [Scenarios],
    /// A lease, once given, is not compared with the time.
    LeaseUnchecked => [Scenarios, Simulator],
    /// A lease goes on after the members have changed.
    LeaseOutlivesMembers => [Scenarios],
    /// A lease goes on although somebody was told to campaign.
    LeaseOutlivesTransfer => [Scenarios],
    /// Who was told to campaign deposes also later leaders.
    TransferOutlivesTerm => [Scenarios],
    /// Who was told to campaign gets votes whatever its log lacks.
    TransferElectsShorterLogs => [Scenarios],
    /// Proposals are taken while the leadership is handed over.
    ProposalsDuringTransfer => [Scenarios],
    /// Answers to reads that an earlier life of a replica has forwarded are taken.
    ReadsOutliveProcess => [Scenarios],
    /// A change of the members is proposed while an earlier one is not applied.
    ChangesOverlap => [Scenarios],
    /// A leader changes the members before it has committed in its own term.
    ChangesBeforeOwnCommit => [Scenarios],
    /// A replica campaigns although it has yet to apply a committed change of the members.
    CampaignsUnapplied => [Scenarios, Simulator],
    /// In a joint configuration only the incoming half decides.
    JointCountsIncoming => [Scenarios],
    /// Learners count in quorums.
    LearnersCount => [Scenarios, Simulator],
    /// A leader goes on after it has applied its own removal.
    RemovedLeaderLeads => [Scenarios],
    /// What was made durable or applied is taken for no reason to do anything.
    StaysSettled => [Scenarios, Simulator],
    /// Nobody leaves a joint configuration that is to be left without being asked.
    StaysJoint => [Scenarios, Simulator],
    /// Who installs a snapshot keeps to the members that it knew.
    SnapshotMembersIgnored => [Scenarios, Simulator],
    /// A snapshot replaces also a log that has all of it.
    SnapshotsReplaceMatching => [Scenarios],
    /// A snapshot that ends before what is committed takes its place.
    InstallsStaleSnapshots => [Scenarios],
    /// A peer is sent a snapshot while another is under way to it.
    SnapshotsPileUp => [Scenarios],
    /// Who has failed to send a snapshot tries again at once.
    SnapshotsRetryAtOnce => [Scenarios],
    /// The log goes on without who is brought up from a snapshot.
    LogOutrunsSnapshots => [Scenarios],
    /// Who has got a snapshot and does not get on holds the log back for ever.
    StuckPeersHoldLog => [Scenarios],
    /// Who lacks a part of the log is told to campaign.
    TransfersToLagging => [Scenarios],
    /// A confirmed read does not wait until its index is applied.
    ReadsUnapplied => [Simulator],
    /// Messages that wait for a batch leave before its sync.
    MessagesOvertakeSync => [Simulator],
    /// Who proposed an index is told of success, whoever's entry it became.
    AnswersByIndex => [Simulator, Kills],
    /// The log forgets what the store has not flushed.
    ForgetsUnflushed => [Simulator, Kills],
    /// The log forgets what is committed and not applied.
    CompactsUnapplied => [Scenarios],
    /// Nothing bounds what waits for the disk.
    BacklogUnbounded => [Simulator],
    /// A node speaks for replicas of other nodes.
    AnyoneSpeaks => [Simulator],
    /// Damaged entries from the network are taken.
    DamagedEntriesPass => [Simulator],
    /// A replica that has left does not tell candidates what is committed.
    GoneStaySilent => [Simulator],
    /// A replica that has left comes back when it is spoken to.
    GoneComeBack => [Simulator],
    /// A snapshot takes the state's place before the log says so durably.
    InstallsEarly => [Simulator],
    /// Ids of tablets are not set aside before they are used.
    TabletsUsedTwice => [Simulator],
    /// A write is repeated although its outcome is unknown.
    RepeatsUnknown => [Simulator, Kills],
    /// Commands are applied whatever range and epoch they were routed by.
    AppliesAstray => [Simulator],
    /// Reads are served whatever range and epoch they were routed by.
    ReadsAstray => [Simulator],
    /// Records of a recycled segment's earlier life verify.
    StaleRecordsVerify => [Simulator],
    /// What is read back from the log is not checked.
    ReadsBackUnverified => [Simulator],
    /// Replicas whose log is damaged take part as if nothing had happened.
    DamagedTakePart => [Simulator],
    /// Damage below the durable mark is taken for the end of the log.
    DamageEndsLog => [Simulator],
    /// A torn tail is taken for damage, and stays.
    TornTailStays => [Simulator],
    /// Batches claim to be durable before they are synced.
    MarkRunsAhead => [Simulator],
    /// Recovery does not rewrite what lies above the durable mark.
    TrustsPageCache => [Simulator],
    /// New segments are used before their names are synced.
    NamesUnsynced => [Simulator],
    /// Segments are given back before it is durable that the log is without them.
    SegmentsGoEarly => [Simulator],
    /// A rewritten entry cuts its group's log, as a new one does.
    RewriteCuts => [Simulator],
    /// A rewritten entry takes the place of a newer one.
    RewriteOutranks => [Simulator],
    /// Leaving a segment forgets to sync its end.
    LeavesUnsynced => [Simulator],
    /// A sync that failed is tried again as if it could work.
    RepeatsFailedSync => [Simulator],
    /// A compaction is announced ahead of earlier batches that still wait for room.
    AnnouncesOutOfOrder => [Simulator],
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
