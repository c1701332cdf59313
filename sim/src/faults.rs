//! The faults that can be injected, and how often each was.

use std::collections::BTreeMap;

macro_rules! faults {
    ($($(#[$doc:meta])* $fault:ident = $name:literal,)*) => {
        /// A kind of fault.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
        pub enum Fault {
            $($(#[$doc])* $fault,)*
        }

        impl Fault {
            /// Every kind.
            pub const ALL: &'static [Self] = &[$(Self::$fault,)*];

            /// The kind in a few words.
            #[must_use]
            pub const fn name(self) -> &'static str {
                match self {
                    $(Self::$fault => $name,)*
                }
            }
        }
    };
}

faults! {
    /// A frame or a client's message never arrives.
    Drop = "message dropped",
    /// A frame arrives twice, the second time out of order.
    Duplicate = "frame duplicated",
    /// A frame is held up for much longer than usual.
    Delay = "frame delayed",
    /// Some nodes cannot reach the others, in both directions.
    Partition = "partition",
    /// A node cannot reach another, which still reaches it.
    OneWay = "one-way partition",
    /// What is sent to a node takes seconds, so that it believes what was true then; perhaps nothing that it
    /// says arrives.
    StaleNews = "node with stale news",
    /// A connection breaks: the sender hears of it, what was under way is lost.
    Disconnect = "connection broken",
    /// A process dies; what it wrote is in the page cache, and perhaps not on the disk.
    Kill = "process killed",
    /// A process stops as an operator would stop it.
    Stop = "process stopped",
    /// A node loses its power: the disk keeps any part of what was not synced.
    PowerLoss = "power loss of a node",
    /// The power goes in the middle of the log's work.
    TornWrite = "power loss in the midst of writing",
    /// All nodes lose their power at once.
    Blackout = "power loss of all nodes",
    /// The power goes while a node recovers.
    CrashInRecovery = "power loss in recovery",
    /// A sync fails, and the pages are never written.
    FailedSync = "failed sync",
    /// A sync takes very long.
    SlowSync = "slow sync",
    /// The disk has no room for a while.
    FullDisk = "full disk",
    /// A process is suspended for a while.
    Pause = "process suspended",
}

/// How often each fault was injected.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct FaultCounts(BTreeMap<Fault, u64>);

impl FaultCounts {
    /// One more.
    pub fn count(&mut self, fault: Fault) {
        *self.0.entry(fault).or_default() += 1;
    }

    /// How often a fault was injected.
    #[must_use]
    pub fn of(&self, fault: Fault) -> u64 {
        self.0.get(&fault).copied().unwrap_or_default()
    }

    /// All faults together.
    #[must_use]
    pub fn total(&self) -> u64 {
        self.0.values().sum()
    }

    /// Adds those of another run.
    pub fn add(&mut self, other: &Self) {
        for (fault, count) in &other.0 {
            *self.0.entry(*fault).or_default() += count;
        }
    }
}
