//! The faults that can be injected, and how often each was.

use std::collections::BTreeMap;

/// What a fault is a fault of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Class {
    /// What happens between nodes.
    Network,
    /// What happens to files.
    Disk,
    /// What happens to processes and machines.
    Process,
    /// What comes from outside.
    Outside,
}

macro_rules! faults {
    ($($(#[$doc:meta])* $class:ident $fault:ident = $name:literal,)*) => {
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

            /// What it is a fault of.
            #[must_use]
            pub const fn class(self) -> Class {
                match self {
                    $(Self::$fault => Class::$class,)*
                }
            }
        }
    };
}

faults! {
    /// A frame or a client's message never arrives.
    Network Drop = "message dropped",
    /// A frame arrives twice, the second time out of order.
    Network Duplicate = "frame duplicated",
    /// A frame is held up for much longer than usual.
    Network Delay = "frame delayed",
    /// Some nodes cannot reach the others, in both directions.
    Network Partition = "partition",
    /// A node cannot reach another, which still reaches it.
    Network OneWay = "one-way partition",
    /// What is sent to a node takes seconds, so that it believes what was true then; perhaps nothing that it
    /// says arrives.
    Network StaleNews = "node with stale news",
    /// A connection breaks: the sender hears of it, what was under way is lost.
    Network Disconnect = "connection broken",
    /// A process dies; what it wrote is in the page cache, and perhaps not on the disk.
    Process Kill = "process killed",
    /// A process stops as an operator would stop it.
    Process Stop = "process stopped",
    /// A process dies and does not come back for long.
    Process Absence = "process gone for long",
    /// A node loses its power: the disk keeps any part of what was not synced.
    Process PowerLoss = "power loss of a node",
    /// The power goes in the middle of the log's work.
    Disk TornWrite = "power loss in the midst of writing",
    /// All nodes lose their power at once.
    Process Blackout = "power loss of all nodes",
    /// The power goes while a node recovers.
    Disk CrashInRecovery = "power loss in recovery",
    /// A sync fails, and the pages are never written.
    Disk FailedSync = "failed sync",
    /// A sync takes very long.
    Disk SlowSync = "slow sync",
    /// A sync hangs for many seconds.
    Disk HungSync = "hung sync",
    /// A bit flips in what a log holds durably.
    Disk FlippedBit = "flipped bit in a log",
    /// The disk has no room for a while.
    Disk FullDisk = "full disk",
    /// A process is suspended for a while.
    Process Pause = "process suspended",
    /// A node's clock is too fast or too slow, within the bound.
    Process Drift = "drifting clock",
    /// Somebody wants leaderships elsewhere, wherever that may be.
    Outside Transfer = "leaderships handed over",
    /// Somebody changes the members of a group.
    Outside Members = "change of members",
    /// Bytes that no correct peer or client sends.
    Outside HostileBytes = "hostile bytes",
    /// Requests to those who do not own what they are for.
    Outside Astray = "misrouted requests",
    /// Far more proposals at once than are taken.
    Outside Flood = "flood of proposals",
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
