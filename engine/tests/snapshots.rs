//! Carriers by themselves: what a break costs, who may send the rest, and what is not believed.
#![allow(clippy::unwrap_used, reason = "a test that cannot set itself up fails")]

use bytes::Bytes;
use pontoon_engine::snapshot::{
    Carrier, CarrierInput, End, Errand, SnapshotBody, SnapshotMessage, SnapshotSettings,
    SnapshotUnderWay,
};
use pontoon_engine::worker::{Input, OfferAnswer};
use pontoon_raft::{Message, MessageBody};
use pontoon_store::{KvMachine, ModelStore, ReplicaRecord, Store, StoreError};
use pontoon_types::{
    Command, ConfState, Entry, EntryKind, Epoch, GroupId, Instant, LogIndex, LogPosition, Members,
    Mutation, NodeId, Operation, ReplicaId, Request, Sequence, SessionId, ShardId, TabletId, Term,
};
use std::collections::VecDeque;
use std::time::Duration;

const GROUP: GroupId = GroupId(1);
const ROWS: u64 = 4_000;
const VALUE_BYTES: usize = 1_000;
const LEARNER: ReplicaId = ReplicaId(9);

/// A node's carrier and store, with a worker that says yes to everything.
struct Side {
    node: NodeId,
    replica: ReplicaId,
    machine: KvMachine<ModelStore>,
    carrier: Carrier<ModelStore>,
    /// What the worker was told, apart from what it answers.
    told: Vec<Input>,
    /// How often the store was asked to take a snapshot in, and whether it has no room for one.
    opens: usize,
    lacks_room: bool,
}

/// Nodes 1 and 2 have the group, node 3 is to get it.
struct World {
    sides: Vec<Side>,
    wire: VecDeque<(NodeId, NodeId, Bytes)>,
    now: Instant,
    /// Changes what is on its way.
    tamper: fn(&mut SnapshotMessage),
}

fn record(replica: ReplicaId, tablet: u64) -> ReplicaRecord {
    ReplicaRecord {
        group: GROUP,
        shard: ShardId(1),
        replica,
        start: Bytes::new(),
        end: Bytes::new(),
        epoch: Epoch::default(),
        pieces: TabletId(tablet).into(),
        conf_state: ConfState::of_voters([1, 2].map(ReplicaId)),
        members: Members::new([1, 2].map(|id| (ReplicaId(id), NodeId(id)))),
        descriptor: Bytes::new(),
    }
}

fn entry(index: u64) -> Entry {
    let key = format!("key {index:06}");
    let value = vec![index as u8; VALUE_BYTES];
    let mutations = vec![Mutation::Put {
        key: key.as_bytes(),
        value: &value,
    }];
    let command = Command {
        request: Request {
            shard: ShardId(1),
            epoch: Epoch::default(),
            session: SessionId(1),
            sequence: Sequence(index),
        },
        operation: Operation::Write(mutations),
    };
    let mut payload = Vec::new();
    command.encode(&mut payload);
    let kind = EntryKind::Command;
    Entry::encode(GROUP, Term(3), LogIndex(index), kind, &payload)
}

const SETTINGS: SnapshotSettings = SnapshotSettings {
    bytes_per_second: 1 << 40,
    max_outgoing: 2,
    max_incoming: 1,
    chunk_bytes: 4 << 10,
    retry: Duration::from_millis(100),
    patience: Duration::from_secs(5),
};

impl World {
    fn new(settings: SnapshotSettings) -> Self {
        let now = Instant::from_nanos(1_000_000_000);
        let sides = (1..=3).map(|node| {
            let mut machine = KvMachine::open(ModelStore::new(usize::MAX)).unwrap();
            if node < 3 {
                let records = [record(ReplicaId(node), 40 + node)];
                machine.bootstrap(&records, &[]).unwrap();
                let entries: Vec<_> = (1..=ROWS).map(entry).collect();
                machine.apply(&entries, &mut Vec::new()).unwrap();
            }
            Side {
                node: NodeId(node),
                replica: ReplicaId(node),
                machine,
                carrier: Carrier::new(settings, now),
                told: Vec::new(),
                opens: 0,
                lacks_room: false,
            }
        });
        Self {
            sides: sides.collect(),
            wire: VecDeque::new(),
            now,
            tamper: |_| {},
        }
    }

    fn side(&mut self, node: u64) -> &mut Side {
        &mut self.sides[node as usize - 1]
    }

    fn hand(&mut self, node: u64, input: CarrierInput<ModelStore>) {
        let now = self.now;
        let carrier = &mut self.side(node).carrier;
        carrier.handle(input, now);
        // A chunk each time, as long as there may be one more under way.
        while carrier.next_deadline(now).is_some_and(|due| due <= now) {
            carrier.handle_timeout(now);
        }
        self.run_errands();
    }

    /// Node `from` wants node 3 to get a snapshot.
    fn want(&mut self, from: u64) {
        let wanted = CarrierInput::Wanted {
            group: GROUP,
            peer: LEARNER,
            to: NodeId(3),
        };
        self.hand(from, wanted);
    }

    fn run_errands(&mut self) {
        let now = self.now;
        for side in &mut self.sides {
            loop {
                let errands: Vec<_> = side.carrier.errands().collect();
                if errands.is_empty() {
                    break;
                }
                for errand in errands {
                    if let Some(answer) = side.run(errand, &mut self.wire) {
                        side.carrier.handle(answer, now);
                    }
                }
            }
        }
    }

    /// Delivers the oldest frame, or lets time pass until a carrier has something to do. Whether anything was left.
    fn step(&mut self) -> bool {
        if let Some((from, to, frame)) = self.wire.pop_front() {
            let mut message = SnapshotMessage::decode(&frame).unwrap();
            (self.tamper)(&mut message);
            let frame = message.encode().to_bytes();
            self.hand(to.0, CarrierInput::Frame { from, frame });
            return true;
        }
        let now = self.now;
        let due = self
            .sides
            .iter()
            .filter_map(|side| side.carrier.next_deadline(now));
        let Some(due) = due.min() else {
            return false;
        };
        self.now = due.max(now);
        for side in &mut self.sides {
            side.carrier.handle_timeout(self.now);
        }
        self.run_errands();
        true
    }

    fn settle(&mut self) {
        while self.step() {}
    }

    /// The record with which node 3's worker was told that a snapshot is here, if it was.
    fn staged(&self) -> Option<&ReplicaRecord> {
        self.sides[2].told.iter().find_map(|input| match input {
            Input::SnapshotStaged { record, .. } => Some(&**record),
            _ => None,
        })
    }

    fn assert_whole(&mut self) {
        let record = self.staged().expect("a snapshot has come").clone();
        assert_eq!(record.replica, LEARNER);
        self.side(3)
            .machine
            .install(record, LogIndex(ROWS))
            .unwrap();
        let hash = |side: &Side| side.machine.snapshot(GROUP).unwrap().hash().unwrap();
        assert_eq!(hash(&self.sides[2]), hash(&self.sides[0]));
    }
}

impl Side {
    fn run(
        &mut self,
        errand: Errand,
        wire: &mut VecDeque<(NodeId, NodeId, Bytes)>,
    ) -> Option<CarrierInput<ModelStore>> {
        match errand {
            Errand::Pin { group, transfer } => {
                let snapshot = self.machine.snapshot(group);
                return Some(CarrierInput::Pinned { transfer, snapshot });
            }
            Errand::Open { group } => {
                self.opens += 1;
                let opened = match self.lacks_room {
                    false => self.machine.begin_install(),
                    true => Err(StoreError::Stalled {
                        waited: Duration::ZERO,
                        sealed: 9,
                    }),
                };
                return Some(CarrierInput::Opened { group, opened });
            }
            Errand::Discard { tablet } => self.machine.discard(tablet),
            Errand::Send { to, frame } => wire.push_back((self.node, to, frame.to_bytes())),
            Errand::Tell { input, .. } => match input {
                Input::SnapshotPinned {
                    transfer,
                    applied,
                    conf_state,
                    ..
                } => {
                    let last = LogPosition {
                        term: Term(3),
                        index: applied,
                    };
                    let conf_state = Box::new(conf_state);
                    let message = Some(Box::new(Message {
                        from: self.replica,
                        to: LEARNER,
                        term: Term(3),
                        body: MessageBody::InstallSnapshot { last, conf_state },
                    }));
                    return Some(CarrierInput::Taken { transfer, message });
                }
                Input::SnapshotOffered { group, .. } => {
                    let answer = OfferAnswer::Wanted;
                    return Some(CarrierInput::Answered { group, answer });
                }
                told => self.told.push(told),
            },
        }
        None
    }
}

/// The bytes of all rows, as they are on the wire.
fn bytes_of_rows(world: &World) -> u64 {
    let snapshot = world.sides[0].machine.snapshot(GROUP).unwrap();
    let rows = snapshot.rows(None).map(|row| row.unwrap());
    // Lengths below 128 take one byte, those of the values two.
    rows.map(|(key, value)| (1 + key.len() + 2 + value.len()) as u64)
        .sum()
}

#[test]
fn a_snapshot_broken_a_hundred_times_arrives_and_sends_little_twice() {
    // As many chunks as 1 GiB has by default.
    let mut world = World::new(SnapshotSettings {
        chunk_bytes: 900,
        ..SETTINGS
    });
    let total = bytes_of_rows(&world);
    world.want(1);
    // Breaks fall on every kind of frame, in no rhythm with the chunks.
    let mut random = 0x9e37_79b9_7f4a_7c15_u64;
    let (mut steps, mut breaks) = (0_u64, 0);
    while world.step() {
        steps += 1;
        random = random
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1);
        if breaks < 100 && (random >> 33).is_multiple_of(12) && !world.wire.is_empty() {
            world.wire.clear();
            breaks += 1;
        }
    }
    assert_eq!(breaks, 100, "in {steps} steps");
    world.assert_whole();
    let sent = world.sides[0].carrier.counters().sent_bytes;
    let received = world.sides[2].carrier.counters().received_bytes;
    assert_eq!(received, total);
    assert!(
        sent > total && 10 * sent <= 11 * total,
        "{sent} for {total}"
    );
    assert!(matches!(
        world.sides[0].told[..],
        [Input::SnapshotDelivered { .. }]
    ));
}

#[test]
fn a_few_chunks_are_under_way_at_once_and_never_more() {
    let mut world = World::new(SETTINGS);
    // The budget has something saved, so that it is not what decides.
    world.now = world.now + Duration::from_secs(1);
    world.want(1);
    let mut most = 0;
    while world.step() {
        let chunks = world.wire.iter().filter(|(_, _, frame)| {
            let message = SnapshotMessage::decode(frame).unwrap();
            matches!(message.body, SnapshotBody::Chunk { .. })
        });
        most = most.max(chunks.count());
    }
    assert_eq!(most, 3);
    world.assert_whole();
    let sent = world.sides[0].carrier.counters().sent_bytes;
    assert_eq!(sent, bytes_of_rows(&world), "nothing is sent twice");
}

#[test]
fn what_is_on_its_way_is_told_by_both_ends_until_it_has_arrived() {
    let mut world = World::new(SETTINGS);
    let began_at = world.now;
    world.want(1);
    for _ in 0..1_000 {
        assert!(world.step());
    }
    let under_way = |world: &World, node: usize| world.sides[node - 1].carrier.under_way();
    let [sent] = under_way(&world, 1)[..] else {
        panic!("{:?}", under_way(&world, 1));
    };
    let [received] = under_way(&world, 3)[..] else {
        panic!("{:?}", under_way(&world, 3));
    };
    let counters = |node: usize| world.sides[node - 1].carrier.counters();
    let expected = SnapshotUnderWay {
        group: GROUP,
        node: NodeId(3),
        is_incoming: false,
        began_at,
        bytes: counters(1).sent_bytes,
    };
    assert_eq!(sent, expected);
    let expected = SnapshotUnderWay {
        node: NodeId(1),
        is_incoming: true,
        bytes: counters(3).received_bytes,
        ..expected
    };
    assert_eq!(received, expected);
    assert!(received.bytes > 0 && sent.bytes >= received.bytes);
    world.settle();
    assert_eq!(
        (under_way(&world, 1), under_way(&world, 3)),
        (vec![], vec![])
    );
}

#[test]
fn two_at_once_share_the_budget() {
    // One alone takes longer than the other would be waited for.
    let settings = SnapshotSettings {
        bytes_per_second: 512 << 10,
        ..SETTINGS
    };
    let mut world = World::new(settings);
    world.want(1);
    let other = CarrierInput::Wanted {
        group: GROUP,
        peer: ReplicaId(2),
        to: NodeId(2),
    };
    world.hand(1, other);
    world.settle();
    let counters = world.sides[0].carrier.counters();
    assert_eq!((counters.sent, counters.given_up), (2, 0));
}

#[test]
fn another_node_with_the_same_state_sends_the_rest() {
    let mut world = World::new(SETTINGS);
    let total = bytes_of_rows(&world);
    world.want(1);
    for _ in 0..1_000 {
        assert!(world.step());
    }
    // Node 1 falls silent; node 2 leads by now, and has applied as much.
    let before = world.sides[2].carrier.counters().received_bytes;
    assert!(before > total / 4 && before < total);
    world.wire.clear();
    world.side(1).carrier = Carrier::new(SETTINGS, Instant::from_nanos(5));
    world.want(2);
    world.settle();
    world.assert_whole();
    assert_eq!(world.sides[2].carrier.counters().received_bytes, total);
    let rest = world.sides[1].carrier.counters().sent_bytes;
    assert!(
        rest < total - before + 8_192,
        "{rest} of {total}, {before} were there"
    );
}

#[test]
fn who_goes_on_from_another_nodes_rows_keeps_nobody_waiting() {
    let mut world = World::new(SETTINGS);
    let snapshot = world.sides[1].machine.snapshot(GROUP).unwrap();
    let rows: Vec<_> = snapshot.rows(None).map(|row| row.unwrap()).collect();
    let there = 3_000;
    world.want(2);
    let other = CarrierInput::Wanted {
        group: GROUP,
        peer: ReplicaId(1),
        to: NodeId(1),
    };
    world.hand(2, other);
    let offers: Vec<_> = world.wire.drain(..).collect();
    assert_eq!(offers.len(), 2);
    let now = world.now;
    for (_, from, offer) in offers {
        let after = match from {
            NodeId(3) => rows[there].0.clone(),
            _ => Bytes::new(),
        };
        let message = SnapshotMessage {
            body: SnapshotBody::Pull { after },
            ..SnapshotMessage::decode(&offer).unwrap()
        };
        let frame = message.encode().to_bytes();
        let carrier = &mut world.side(2).carrier;
        carrier.handle(CarrierInput::Frame { from, frame }, now);
    }
    let mut turns = 0;
    let mut chunks_to = |world: &mut World, to| {
        world.now = world.now + Duration::from_millis(1);
        let now = world.now;
        world.side(2).carrier.handle_timeout(now);
        world.run_errands();
        turns += 1;
        let chunks = world.wire.iter().filter(|(_, receiver, frame)| {
            let body = SnapshotMessage::decode(frame).unwrap().body;
            *receiver == to && matches!(body, SnapshotBody::Chunk { .. })
        });
        chunks.count()
    };
    assert_eq!(chunks_to(&mut world, NodeId(1)), 1);
    while chunks_to(&mut world, NodeId(3)) == 0 {
        assert!(world.now - now < SETTINGS.patience, "it is not served");
    }
    let hashed: usize = rows[..=there]
        .iter()
        .map(|row| row.0.len() + row.1.len())
        .sum();
    // A row more than a chunk each time, at most.
    assert!(
        turns > hashed / (SETTINGS.chunk_bytes + 2 * VALUE_BYTES),
        "{turns} turns"
    );
}

#[test]
fn rows_that_are_not_those_that_were_sent_are_never_put_in_place() {
    let tampers: [fn(&mut SnapshotMessage); 2] = [
        |message| {
            if let SnapshotBody::Chunk {
                rows, hash: None, ..
            } = &mut message.body
                && let Some(at) = rows.iter().position(|byte| *byte == 77)
            {
                let mut changed = rows.to_vec();
                changed[at] = 78;
                *rows = changed.into();
            }
        },
        |message| {
            if let SnapshotBody::Chunk {
                hash: Some(hash), ..
            } = &mut message.body
            {
                *hash ^= 1;
            }
        },
    ];
    for tamper in tampers {
        let mut world = World::new(SETTINGS);
        world.tamper = tamper;
        world.want(1);
        world.settle();
        assert!(world.staged().is_none());
        assert!(matches!(
            world.sides[0].told[..],
            [Input::SnapshotFailed { .. }]
        ));
        while world.side(3).machine.reclaim(1_000).unwrap() {}
        assert!(world.side(3).machine.store().all_applied().is_empty());
        // Nothing is left of it, and the next one is taken.
        world.tamper = |_| {};
        world.want(1);
        world.settle();
        world.assert_whole();
    }
}

#[test]
fn who_stops_answering_is_given_up_and_leaves_nothing() {
    for silent in [1, 3] {
        let mut world = World::new(SETTINGS);
        world.want(1);
        for _ in 0..200 {
            assert!(world.step());
        }
        let began = world.now;
        loop {
            world.wire.retain(|(from, ..)| from.0 != silent);
            if !world.step() {
                break;
            }
        }
        assert!(world.now - began >= SETTINGS.patience);
        assert!(world.staged().is_none());
        let failed = world.sides[0]
            .told
            .iter()
            .any(|one| matches!(one, Input::SnapshotFailed { .. }));
        assert!(failed, "the sender hears of it when {silent} falls silent");
        for side in &world.sides {
            assert_eq!(side.carrier.next_deadline(world.now), None);
        }
    }
}

#[test]
fn who_pulls_the_same_again_and_again_is_given_up() {
    let mut world = World::new(SETTINGS);
    world.want(1);
    for _ in 0..200 {
        assert!(world.step());
    }
    let pulls = |world: &World| {
        let (from, _, frame) = world.wire.front()?;
        let body = SnapshotMessage::decode(frame).unwrap().body;
        let is_pull = *from == NodeId(3) && matches!(body, SnapshotBody::Pull { .. });
        is_pull.then(|| frame.clone())
    };
    let pull = loop {
        match pulls(&world) {
            Some(pull) => break pull,
            None => assert!(world.step()),
        }
    };
    // Nothing of what node 3 gets helps it.
    world.wire.clear();
    world.side(3).carrier = Carrier::new(SETTINGS, Instant::from_nanos(5));
    let began = world.now;
    while world.sides[0].told.is_empty() {
        assert!(
            world.now - began <= 2 * SETTINGS.patience,
            "it is served for ever"
        );
        world.now = world.now + SETTINGS.retry;
        let (from, frame) = (NodeId(3), pull.clone());
        world.hand(1, CarrierInput::Frame { from, frame });
        let now = world.now;
        world.side(1).carrier.handle_timeout(now);
        world.run_errands();
    }
    assert!(matches!(
        world.sides[0].told[..],
        [Input::SnapshotFailed { .. }]
    ));
    assert!(world.now - began >= SETTINGS.patience);
}

#[test]
fn a_budget_is_kept_to_and_too_many_at_once_are_refused() {
    let settings = SnapshotSettings {
        bytes_per_second: 1 << 20,
        ..SETTINGS
    };
    let mut world = World::new(settings);
    let (total, began) = (bytes_of_rows(&world), world.now);
    world.want(1);
    world.settle();
    world.assert_whole();
    let took = (world.now - began).as_secs_f64();
    let least = total as f64 / settings.bytes_per_second as f64;
    assert!(
        took >= 0.95 * least && took < 1.5 * least,
        "{took} s, {least} s"
    );

    // Node 3 takes one at a time: another group's is refused while one is under way.
    let mut world = World::new(SETTINGS);
    world.want(1);
    for _ in 0..10 {
        assert!(world.step());
    }
    let snapshot = world.sides[1].machine.snapshot(GROUP).unwrap();
    let (mut bytes, other) = (Vec::new(), GroupId(2));
    let mut record = snapshot.record().clone();
    record.group = other;
    record.encode(&mut bytes);
    let last = LogPosition {
        term: Term(3),
        index: LogIndex(5),
    };
    let conf_state = Box::new(record.conf_state.clone());
    let body = SnapshotBody::Offer {
        message: Message {
            from: ReplicaId(1),
            to: LEARNER,
            term: Term(3),
            body: MessageBody::InstallSnapshot { last, conf_state },
        },
        record: bytes.into(),
    };
    let offer = SnapshotMessage {
        group: other,
        transfer: 7,
        body,
    };
    let (from, frame) = (NodeId(2), offer.encode().to_bytes());
    world.hand(3, CarrierInput::Frame { from, frame });
    let answers = world.wire.iter().filter(|(_, to, _)| *to == NodeId(2));
    let answers: Vec<_> = answers
        .map(|(.., frame)| SnapshotMessage::decode(frame).unwrap().body)
        .collect();
    assert_eq!(answers, [SnapshotBody::End { how: End::Refused }]);
}

#[test]
fn who_comes_too_many_waits_and_is_served_in_turn() {
    let now = Instant::from_nanos(1_000_000_000);
    let mut carrier: Carrier<ModelStore> = Carrier::new(SETTINGS, now);
    let mut pins = |input: Option<CarrierInput<ModelStore>>| -> Vec<(u64, u64)> {
        match input {
            Some(input) => carrier.handle(input, now),
            None => carrier.handle_timeout(now + SETTINGS.patience),
        }
        let pins = carrier.errands().filter_map(|errand| match errand {
            Errand::Pin { group, transfer } => Some((group.0, transfer)),
            _ => None,
        });
        pins.collect()
    };
    let wanted_at = |group, node| {
        Some(CarrierInput::Wanted {
            group: GroupId(group),
            peer: LEARNER,
            to: NodeId(node),
        })
    };
    let wanted = |group| wanted_at(group, group);
    let first = pins(wanted(1));
    assert_eq!(first.len(), 1);
    assert_eq!(pins(wanted(2)).len(), 1);
    for group in [3, 4, 5, 4] {
        assert_eq!(pins(wanted(group)), [], "two are under way");
    }
    // One that nobody wants any more makes room for the one that has waited longest, and so on.
    let unwanted = |transfer| {
        Some(CarrierInput::Pinned {
            transfer,
            snapshot: None,
        })
    };
    let next = pins(unwanted(first[0].1));
    assert_eq!(next.iter().map(|pin| pin.0).collect::<Vec<_>>(), [3]);
    let next = pins(unwanted(next[0].1));
    assert_eq!(next.iter().map(|pin| pin.0).collect::<Vec<_>>(), [5]);
    // Those that do not get on are given up, and the last one begins.
    let next = pins(None);
    assert_eq!(next.iter().map(|pin| pin.0).collect::<Vec<_>>(), [4]);
    // A node gets no more than it takes, and others do not wait behind it.
    assert_eq!(pins(wanted_at(6, 4)), []);
    assert_eq!(pins(wanted_at(7, 3)).len(), 1);
}

#[test]
fn a_store_without_room_is_left_alone_for_a_while() {
    let mut world = World::new(SETTINGS);
    world.side(3).lacks_room = true;
    for _ in 0..5 {
        world.want(1);
        world.settle();
    }
    assert_eq!(world.side(3).opens, 1);
    world.side(3).lacks_room = false;
    world.now = world.now + Duration::from_secs(11);
    world.want(1);
    world.settle();
    assert_eq!(world.side(3).opens, 2);
    world.assert_whole();
}
