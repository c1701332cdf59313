//! What a seed's world is like: drawn once per seed, so that some worlds have a terrible network and good
//! disks, others the reverse, and some have everything (swarm testing: Groce and others, 2012).

use crate::faults::{Class, Fault};
use crate::random::Dice;
use std::time::Duration;

/// What kind of worlds the seeds of a run draw.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum Theme {
    /// All kinds of faults, each world with a mixture of its own.
    #[default]
    Swarm,
    /// Nothing fails; delays and speeds still differ.
    Calm,
    /// Disks and machines fail, the network does not.
    Disk,
    /// The network fails and processes are suspended, disks are well and nothing dies.
    Network,
    /// Members change all the time, while everything else fails as well; but no disk is damaged for good.
    Membership,
}

impl Theme {
    /// Whether worlds of this kind have a fault.
    fn has(self, fault: Fault) -> bool {
        match self {
            Self::Swarm => true,
            Self::Calm => false,
            Self::Disk => fault.class() != Class::Network && fault != Fault::Pause,
            Self::Membership => fault != Fault::FlippedBit,
            Self::Network => match fault.class() {
                Class::Network | Class::Outside => true,
                Class::Process => matches!(fault, Fault::Pause | Fault::Drift),
                Class::Disk => false,
            },
        }
    }
}

/// The size of a run; the same for all seeds of one invocation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Scale {
    /// Nodes in the cluster.
    pub nodes: usize,
    /// Groups of user shards; the meta group comes on top.
    pub groups: usize,
    /// Simulated seconds with faults; the healing after them comes on top.
    pub simulated_seconds: u64,
}

impl Default for Scale {
    fn default() -> Self {
        Self {
            nodes: 3,
            groups: 8,
            simulated_seconds: 60,
        }
    }
}

/// Probabilities, latencies and sizes of one world. Chances are in millionths.
#[derive(Clone, Debug)]
pub struct Profile {
    /// How long a frame is under way, in microseconds.
    pub delay_micros: (u64, u64),
    /// Chance of a frame to be held up.
    pub slow_chance: u32,
    /// Chance of a frame or a client's message to be lost.
    pub drop_chance: u32,
    /// Chance of a frame to come twice.
    pub duplicate_chance: u32,
    /// How long a sync takes, in microseconds.
    pub sync_micros: (u64, u64),
    /// Chance of a sync to take very long.
    pub slow_sync_chance: u32,
    /// How long it takes to make a segment of the log or to take one back, in microseconds.
    pub chore_micros: (u64, u64),
    /// How long it takes to apply a batch, in microseconds.
    pub apply_micros: (u64, u64),
    /// How long it takes to flush a memtable, in microseconds.
    pub flush_micros: (u64, u64),
    /// The size at which a memtable is flushed.
    pub memtable_bytes: usize,
    /// While so many memtables wait for the disk nothing is applied.
    pub max_sealed_memtables: usize,
    /// The size of a segment of the log.
    pub segment_bytes: u64,
    /// The log's bound, in segments.
    pub max_segments: u64,
    /// Whether leaders serve reads under leases.
    pub lease_reads: bool,
    /// The largest drift of a clock, in millionths. Two of them together stay below what leases are told.
    pub drift_ppm: u32,
    /// Bytes of a group that may wait to be committed.
    pub max_uncommitted_bytes: usize,
    /// Bytes of a worker that may wait for the disk.
    pub max_backlog_bytes: usize,
    /// Entries of a group that are kept for followers who lag.
    pub log_tail_entries: u64,
    /// How many bytes of snapshots a node may move.
    pub snapshot_bytes_per_second: u64,
    /// Bytes of rows in a chunk of a snapshot.
    pub snapshot_chunk_bytes: usize,
    /// The time between two injected faults.
    pub fault_gap: Duration,
    /// How likely each of the injected faults is against the others.
    pub weights: Vec<(Fault, u32)>,
    /// Clients, each with one call at a time.
    pub clients: usize,
    /// How long a client waits between two calls, in microseconds.
    pub think_micros: (u64, u64),
    /// Keys per group.
    pub keys_per_group: u64,
    /// The longest value, in bytes.
    pub value_bytes: u64,
    /// How much of the log a group may take.
    pub group_quota_bytes: u64,
}

/// The faults that are injected one by one; the others are chances of the network and the disk.
const INJECTED: [(Fault, u32); 20] = [
    (Fault::Partition, 20),
    (Fault::OneWay, 15),
    (Fault::StaleNews, 15),
    (Fault::Disconnect, 10),
    (Fault::Kill, 20),
    (Fault::Stop, 8),
    (Fault::Absence, 6),
    (Fault::PowerLoss, 20),
    (Fault::TornWrite, 20),
    (Fault::Blackout, 8),
    (Fault::FailedSync, 8),
    (Fault::FullDisk, 4),
    (Fault::Pause, 10),
    (Fault::Transfer, 10),
    (Fault::Members, 10),
    (Fault::HungSync, 6),
    (Fault::FlippedBit, 8),
    (Fault::HostileBytes, 12),
    (Fault::Astray, 8),
    (Fault::Flood, 8),
];

impl Profile {
    /// Draws a world.
    #[must_use]
    pub fn draw(theme: Theme, dice: &mut Dice) -> Self {
        let mut profile = Self::draw_swarm(dice);
        profile.weights.retain(|(fault, _)| theme.has(*fault));
        if theme == Theme::Membership {
            let others = profile.weights.iter().map(|(_, weight)| weight).sum();
            profile.weights.push((Fault::Members, others));
            profile.fault_gap /= 2;
        }
        for (fault, chance) in [
            (Fault::Drop, &mut profile.drop_chance),
            (Fault::Duplicate, &mut profile.duplicate_chance),
            (Fault::Delay, &mut profile.slow_chance),
            (Fault::SlowSync, &mut profile.slow_sync_chance),
        ] {
            if !theme.has(fault) {
                *chance = 0;
            }
        }
        if !theme.has(Fault::Drift) {
            profile.drift_ppm = 0;
        }
        profile
    }

    fn draw_swarm(dice: &mut Dice) -> Self {
        let weights = INJECTED
            .iter()
            .map(|(fault, weight)| {
                // A kind that is left out makes room for combinations of the others.
                let present = !dice.chance(250_000);
                (
                    *fault,
                    if present {
                        *weight * (1 + dice.below(4) as u32)
                    } else {
                        0
                    },
                )
            })
            .collect();
        let longest_delay = *dice.pick(&[500, 2_000, 10_000, 40_000]);
        let longest_sync = *dice.pick(&[200, 1_000, 5_000, 30_000]);
        Self {
            delay_micros: (50, longest_delay),
            slow_chance: *dice.pick(&[0, 1_000, 10_000]),
            drop_chance: *dice.pick(&[0, 500, 5_000, 20_000]),
            duplicate_chance: *dice.pick(&[0, 1_000, 20_000]),
            sync_micros: (30, longest_sync),
            slow_sync_chance: *dice.pick(&[0, 500, 5_000]),
            chore_micros: (20, *dice.pick(&[500, 5_000, 100_000])),
            apply_micros: (5, *dice.pick(&[50, 500, 20_000])),
            flush_micros: (500, *dice.pick(&[5_000, 100_000, 1_000_000])),
            memtable_bytes: *dice.pick(&[512, 4 << 10, 32 << 10]),
            max_sealed_memtables: *dice.pick(&[3, 32]),
            segment_bytes: *dice.pick(&[16 << 10, 64 << 10, 256 << 10]),
            max_segments: *dice.pick(&[8, 32, 256]),
            lease_reads: dice.flip(),
            drift_ppm: *dice.pick(&[0, 100, 10_000, 50_000]),
            max_uncommitted_bytes: *dice.pick(&[16 << 10, 256 << 10, 16 << 20]),
            max_backlog_bytes: *dice.pick(&[32 << 10, 256 << 10, 64 << 20]),
            log_tail_entries: *dice.pick(&[0, 4, 64, 100_000]),
            snapshot_bytes_per_second: *dice.pick(&[20_000, 1 << 20, 64 << 20]),
            snapshot_chunk_bytes: *dice.pick(&[1, 300, 4 << 10]),
            fault_gap: Duration::from_millis(*dice.pick(&[600, 1_000, 1_500])),
            weights,
            clients: dice.between(3, 8) as usize,
            think_micros: (100, *dice.pick(&[10_000, 40_000, 150_000])),
            keys_per_group: *dice.pick(&[1, 3, 8]),
            value_bytes: *dice.pick(&[16, 200, 3_000]),
            group_quota_bytes: *dice.pick(&[8 << 10, 128 << 10, 256 << 20]),
        }
    }

    /// Draws the next fault to inject; none if this world has none.
    pub fn draw_fault(&self, dice: &mut Dice) -> Option<Fault> {
        let total: u32 = self.weights.iter().map(|(_, weight)| weight).sum();
        if total == 0 {
            return None;
        }
        let mut at = dice.below(u64::from(total)) as u32;
        for (fault, weight) in &self.weights {
            if at < *weight {
                return Some(*fault);
            }
            at -= weight;
        }
        None
    }
}
