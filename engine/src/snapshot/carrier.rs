//! All snapshots that a node sends and receives.

mod receiver;
mod sender;

use super::budget::Budget;
use super::incoming::{self, Incoming};
use super::message::{End, SnapshotBody, SnapshotMessage};
use super::outgoing::{self, Outgoing};
use crate::frame::Frame;
use crate::worker::{Input, OfferAnswer, SnapshotOrder};
use bytes::Bytes;
use pontoon_raft::Message;
use pontoon_store::{KvSnapshot, Store, StoreError};
use pontoon_types::{GroupId, Instant, NodeId, ReplicaId, TabletId};
use pontoon_wal::LogWaits;
use std::collections::{BTreeMap, VecDeque};
use std::ops::Bound::{Excluded, Unbounded};
use std::time::Duration;

/// The longest record of a replica that is taken, well below what the log takes with a snapshot.
const MAX_RECORD_BYTES: usize = 256 << 10;

/// For so long no snapshot is taken in after the store had failed to take one in, which mostly is for want of room.
const ROOM_PAUSE: Duration = Duration::from_secs(10);

/// How snapshots travel.
#[derive(Clone, Copy, Debug)]
pub struct SnapshotSettings {
    /// Bytes per second at most, over all that this node sends and receives: 64 MiB at first, and fewer while the log's batches
    /// wait longer than usual.
    pub bytes_per_second: u64,
    /// Snapshots sent at the same time; others wait.
    pub max_outgoing: usize,
    /// Snapshots received at the same time; others are refused, and offered again.
    pub max_incoming: usize,
    /// Bytes of rows in a chunk.
    pub chunk_bytes: usize,
    /// How long to wait before something that was said is said again.
    pub retry: Duration,
    /// A transfer that has not moved for this long is given up.
    pub patience: Duration,
}

impl Default for SnapshotSettings {
    fn default() -> Self {
        Self {
            bytes_per_second: 1 << 30,
            max_outgoing: 8,
            max_incoming: 4,
            chunk_bytes: 256 << 10,
            retry: Duration::from_millis(500),
            patience: Duration::from_secs(30),
        }
    }
}

/// What a carrier has counted since it started.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct SnapshotCounters {
    /// Snapshots that arrived whole at another node.
    pub sent: u64,
    /// Snapshots that arrived whole here.
    pub received: u64,
    /// Bytes of chunks sent, repeated ones included.
    pub sent_bytes: u64,
    /// Bytes of chunks that were of use.
    pub received_bytes: u64,
    /// Transfers that were given up, by either side.
    pub given_up: u64,
    /// How much of the rate is used at present, in bytes a second: 64 MiB at first, more while writes do not suffer, and less
    /// while they do.
    pub present_rate: u64,
}

/// A snapshot on its way.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SnapshotUnderWay {
    /// Of which group.
    pub group: GroupId,
    /// The node at the other end.
    pub node: NodeId,
    /// Whether it comes in; otherwise it is sent.
    pub is_incoming: bool,
    /// Since when.
    pub began_at: Instant,
    /// Bytes of rows so far; of those sent, repeated ones included.
    pub bytes: u64,
}

/// One thing that happened.
pub enum CarrierInput<S: Store> {
    /// Raft wants a peer to get a snapshot ([`pontoon_raft::Ready::snapshots`]).
    Wanted {
        /// The group.
        group: GroupId,
        /// The peer.
        peer: ReplicaId,
        /// Its node.
        to: NodeId,
    },
    /// The answer to [`Errand::Pin`].
    Pinned {
        /// The transfer.
        transfer: u64,
        /// The snapshot; `None` if there is no such replica.
        snapshot: Option<KvSnapshot<S::View>>,
    },
    /// The worker's answer to [`Input::SnapshotPinned`].
    Taken {
        /// The transfer.
        transfer: u64,
        /// The InstallSnapshot that goes with it; `None`: not wanted any more.
        message: Option<Box<Message>>,
    },
    /// A frame of another node's carrier.
    Frame {
        /// The node that sent it, as its certificate says.
        from: NodeId,
        /// The frame.
        frame: Bytes,
    },
    /// The worker's answer to [`Input::SnapshotOffered`].
    Answered {
        /// The group.
        group: GroupId,
        /// Whether it is of use here.
        answer: OfferAnswer,
    },
    /// The answer to [`Errand::Open`].
    Opened {
        /// The group.
        group: GroupId,
        /// The new tablet, and what takes rows for it.
        opened: Result<(TabletId, S::Stager), StoreError>,
    },
    /// How long batches have waited in the log since the last time, so that snapshots give way to them. Needs not to be
    /// said.
    LogWaits(LogWaits),
}

impl<S: Store> From<SnapshotOrder> for CarrierInput<S> {
    fn from(order: SnapshotOrder) -> Self {
        match order {
            SnapshotOrder::Wanted { group, peer, to } => Self::Wanted { group, peer, to },
            SnapshotOrder::Taken { transfer, message } => Self::Taken { transfer, message },
            SnapshotOrder::Answered { group, answer } => Self::Answered { group, answer },
        }
    }
}

/// One thing that is to be done.
#[derive(Debug)]
pub enum Errand {
    /// For the apply stage: pin the state of a group.
    Pin {
        /// The group.
        group: GroupId,
        /// The transfer.
        transfer: u64,
    },
    /// For the apply stage: make a tablet for the state that a group is to get.
    Open {
        /// The group.
        group: GroupId,
    },
    /// For the apply stage: nobody needs this tablet.
    Discard {
        /// The tablet.
        tablet: TabletId,
    },
    /// For the group's worker.
    Tell {
        /// The group.
        group: GroupId,
        /// What to tell it.
        input: Input,
    },
    /// For another node.
    Send {
        /// The node.
        to: NodeId,
        /// The frame.
        frame: Frame,
    },
}

/// Carries snapshots from and to a node. See [the module](super).
pub struct Carrier<S: Store> {
    settings: SnapshotSettings,
    budget: Budget,
    outgoing: BTreeMap<u64, Outgoing<S::View>>,
    /// Who is to get one when there are fewer under way, each peer of a group once: first come, first served.
    waiting: VecDeque<(GroupId, ReplicaId, NodeId)>,
    incoming: BTreeMap<GroupId, Incoming<S::Stager>>,
    /// Until then none is taken in.
    no_room_until: Instant,
    next_transfer: u64,
    /// Whose chunk was sent last: the budget serves the others before it.
    last_served: u64,
    counters: SnapshotCounters,
    errands: Vec<Errand>,
}

impl<S: Store> Carrier<S> {
    /// A carrier with nothing to carry.
    ///
    /// # Panics
    /// If the rate is zero.
    #[must_use]
    pub fn new(settings: SnapshotSettings, now: Instant) -> Self {
        assert!(settings.bytes_per_second > 0, "a rate of nothing");
        let budget = Budget::new(settings.bytes_per_second, now);
        Self {
            settings,
            budget,
            outgoing: BTreeMap::new(),
            waiting: VecDeque::new(),
            incoming: BTreeMap::new(),
            no_room_until: now,
            // Numbers of an earlier life of the node must not be taken for this one's.
            next_transfer: now.as_nanos(),
            last_served: 0,
            counters: SnapshotCounters {
                present_rate: budget.present_rate(),
                ..SnapshotCounters::default()
            },
            errands: Vec::new(),
        }
    }

    /// What it has counted.
    #[must_use]
    pub const fn counters(&self) -> SnapshotCounters {
        self.counters
    }

    /// The snapshots on their way, those sent first; what waits for its turn is not among them.
    #[must_use]
    pub fn under_way(&self) -> Vec<SnapshotUnderWay> {
        let outgoing = self.outgoing.values().map(|out| SnapshotUnderWay {
            group: out.group,
            node: out.to,
            is_incoming: false,
            began_at: out.began_at,
            bytes: out.bytes,
        });
        let incoming = self.incoming.iter().map(|(group, one)| SnapshotUnderWay {
            group: *group,
            node: one.from,
            is_incoming: true,
            began_at: one.began_at,
            bytes: one.bytes,
        });
        outgoing.chain(incoming).collect()
    }

    /// What is to be done, in order.
    pub fn errands(&mut self) -> std::vec::Drain<'_, Errand> {
        self.errands.drain(..)
    }

    /// When [`Carrier::handle_timeout`] has something to do, if ever.
    #[must_use]
    pub fn next_deadline(&self, now: Instant) -> Option<Instant> {
        let outgoing = self.outgoing.values().map(|out| {
            let due = match &out.state {
                outgoing::State::Offered {
                    cursor: Some(cursor),
                    ..
                } if cursor.is_unhashed() => Some(now),
                outgoing::State::Offered {
                    cursor: Some(cursor),
                    ..
                } => {
                    let has_room = cursor.has_room(self.settings.chunk_bytes);
                    has_room.then(|| self.budget.opens_at(now))
                }
                outgoing::State::Offered { offer_at, .. } => *offer_at,
                outgoing::State::Pinning | outgoing::State::Taking(_) => None,
            };
            due.unwrap_or(out.expires_at).min(out.expires_at)
        });
        let incoming = self.incoming.values().map(|one| match one.state {
            incoming::State::Receiving(_) => one.pull_at.min(one.expires_at),
            incoming::State::Asking | incoming::State::Opening => one.expires_at,
        });
        outgoing.chain(incoming).min()
    }

    /// Takes in one thing that happened.
    pub fn handle(&mut self, input: CarrierInput<S>, now: Instant) {
        match input {
            CarrierInput::Wanted { group, peer, to } => self.wanted(group, peer, to, now),
            CarrierInput::Pinned { transfer, snapshot } => self.pinned(transfer, snapshot),
            CarrierInput::Taken { transfer, message } => self.taken(transfer, message, now),
            CarrierInput::Frame { from, frame } => match SnapshotMessage::decode(&frame) {
                Ok(message) => self.receive(from, message, now),
                Err(error) => tracing::warn!(%from, %error, "dropped a frame about a snapshot"),
            },
            CarrierInput::Answered { group, answer } => self.answered(group, answer),
            CarrierInput::Opened { group, opened } => self.opened(group, opened, now),
            CarrierInput::LogWaits(since) => {
                self.budget.heed(&since);
                self.counters.present_rate = self.budget.present_rate();
            }
        }
        self.begin_waiting(now);
    }

    /// Does what is due.
    pub fn handle_timeout(&mut self, now: Instant) {
        let next = self.outgoing.range((Excluded(self.last_served), Unbounded));
        let others = self.outgoing.range(..=self.last_served);
        let transfers: Vec<u64> = next.chain(others).map(|(number, _)| *number).collect();
        for transfer in transfers {
            self.drive_outgoing(transfer, now);
        }
        let groups: Vec<GroupId> = self.incoming.keys().copied().collect();
        for group in groups {
            let Some(one) = self.incoming.get_mut(&group) else {
                continue;
            };
            if one.expires_at <= now {
                tracing::info!(%group, from = %one.from, "a snapshot stopped coming; gave it up");
                self.give_up_incoming(group);
            } else if one.pull_at <= now && matches!(one.state, incoming::State::Receiving(_)) {
                self.pull(group, now);
            }
        }
        self.begin_waiting(now);
    }

    fn receive(&mut self, from: NodeId, message: SnapshotMessage, now: Instant) {
        let SnapshotMessage {
            group,
            transfer,
            body,
        } = message;
        match body {
            SnapshotBody::Offer { message, record } => {
                self.offered(from, group, transfer, message, &record, now);
            }
            SnapshotBody::Chunk { after, hash, rows } => {
                self.chunk(from, group, transfer, &after, hash, &rows, now);
            }
            SnapshotBody::Pull { after } => {
                let found = self.outgoing.get_mut(&transfer);
                let Some(out) = found.filter(|out| out.group == group && out.to == from) else {
                    return self.say_end(from, group, transfer, End::Gone);
                };
                if let outgoing::State::Offered {
                    offer_at, cursor, ..
                } = &mut out.state
                {
                    *offer_at = None;
                    let is_first = cursor.is_none();
                    // Who pulls the same again is there, and does not get on.
                    if cursor.get_or_insert_default().pulled(after) || is_first {
                        out.expires_at = now + self.settings.patience;
                    }
                }
            }
            SnapshotBody::End { how: End::Gone } => {
                let is_it =
                    |one: &Incoming<S::Stager>| (one.from, one.transfer) == (from, transfer);
                if self.incoming.get(&group).is_some_and(is_it) {
                    // What is here stays for a while: another may offer the same.
                    let one = self.incoming.get_mut(&group).expect("it was just seen");
                    one.pull_at = Instant::FAR_FUTURE;
                }
            }
            SnapshotBody::End { how } => {
                let is_it = |out: &Outgoing<S::View>| out.group == group && out.to == from;
                if !self.outgoing.get(&transfer).is_some_and(is_it) {
                    return;
                }
                if how == End::Delivered {
                    let out = self.outgoing.remove(&transfer).expect("it was just seen");
                    let peer = out.peer;
                    self.counters.sent += 1;
                    self.tell(group, Input::SnapshotDelivered { group, peer });
                } else {
                    self.fail_outgoing(transfer);
                }
            }
        }
    }

    fn tell(&mut self, group: GroupId, input: Input) {
        self.errands.push(Errand::Tell { group, input });
    }

    fn send(&mut self, to: NodeId, group: GroupId, transfer: u64, body: SnapshotBody) {
        let message = SnapshotMessage {
            group,
            transfer,
            body,
        };
        let frame = message.encode();
        self.errands.push(Errand::Send { to, frame });
    }

    fn say_end(&mut self, to: NodeId, group: GroupId, transfer: u64, how: End) {
        self.send(to, group, transfer, SnapshotBody::End { how });
    }
}
