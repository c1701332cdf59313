//! A replicated queue: another state machine than the key-value store.
//!
//! ```text
//! cargo run -p pontoon-store --example queue
//! ```
//!
//! Three replicas execute one log, in batches of their own. One dies on the way and replays what it had lost, one comes
//! late and begins with another's snapshot. They give the same answers and end in the same state. (How replicas agree on
//! a log is the business of `pontoon-raft`; here it is simply there.)

mod common;

use bytes::Bytes;
use common::{Random, record};
use pontoon_store::{
    LsmSettings, LsmStore, Machine, Outcome, ReplicaRecord, Stager, State, StateMachine, Store,
    StoreError,
};
use pontoon_types::{Entry, EntryKind, GroupId, LogIndex, Term};
use std::collections::VecDeque;

const GROUP: GroupId = GroupId(1);
/// Rows with the number of the first item and of the one behind the last.
const FIRST: &[u8] = b"first";
const END: &[u8] = b"end";

/// `+item` adds an item and is answered with its number; `-` takes the first one and is answered with it.
#[derive(Default)]
struct Queue;

impl StateMachine for Queue {
    fn execute<S: Store>(
        &self,
        command: &[u8],
        state: &mut State<'_, S>,
    ) -> Result<Outcome, StoreError> {
        let (first, end) = (number(state.get(FIRST)?), number(state.get(END)?));
        match command {
            [b'+', item @ ..] => {
                state.put(&item_key(end), item);
                state.put(END, &(end + 1).to_be_bytes());
                Ok(Outcome::Answered(end.to_string().into()))
            }
            b"-" if first < end => {
                let item = state.get(&item_key(first))?.unwrap_or_default();
                state.delete(&item_key(first));
                state.put(FIRST, &(first + 1).to_be_bytes());
                Ok(Outcome::Answered(item))
            }
            b"-" => Ok(Outcome::None),
            _ => Ok(Outcome::Malformed),
        }
    }
}

fn number(row: Option<Bytes>) -> u64 {
    row.and_then(|row| row[..].try_into().ok())
        .map_or(0, u64::from_be_bytes)
}

fn item_key(number: u64) -> Vec<u8> {
    [&b"item"[..], &number.to_be_bytes()].concat()
}

type Replica = Machine<LsmStore, Queue>;

/// What happens: a log, and what a queue in memory says to it.
fn history(length: u64) -> (Vec<Entry>, Vec<Outcome>) {
    let (mut random, mut queue, mut added) = (Random::default(), VecDeque::new(), 0);
    (1..=length)
        .map(|index| {
            let (command, outcome) = if random.next() % 5 < 3 {
                let item = format!("item {index}");
                queue.push_back(item.clone());
                added += 1;
                let number = Bytes::from((added - 1).to_string());
                (format!("+{item}"), Outcome::Answered(number))
            } else {
                let item = queue.pop_front().map(Bytes::from);
                (
                    "-".to_owned(),
                    item.map_or(Outcome::None, Outcome::Answered),
                )
            };
            let index = LogIndex(index);
            let entry = Entry::encode(
                GROUP,
                Term(1),
                index,
                EntryKind::Command,
                command.as_bytes(),
            );
            (entry, outcome)
        })
        .unzip()
}

/// Executes the log from where the replica is up to an index, and compares what comes of it.
fn follow(
    replica: &mut Replica,
    (log, expected): &(Vec<Entry>, Vec<Outcome>),
    to: usize,
    batch: usize,
) -> Result<(), StoreError> {
    let (from, mut outcomes) = (replica.applied(GROUP).0 as usize, Vec::new());
    for (entries, expected) in log[from..to]
        .chunks(batch)
        .zip(expected[from..to].chunks(batch))
    {
        replica.apply(entries, &mut outcomes)?;
        assert_eq!(outcomes, expected);
    }
    Ok(())
}

pub(crate) fn main() -> Result<(), Box<dyn std::error::Error>> {
    let dir = tempfile::tempdir()?;
    let open = |name| LsmStore::open(&dir.path().join(name), LsmSettings::default());
    let history = history(3000);

    let mut steady = Replica::open(open("steady")?)?;
    steady.bootstrap(&[record(1)], &[])?;
    follow(&mut steady, &history, 2000, 64)?;

    let mut fallen = Replica::open(open("fallen")?)?;
    fallen.bootstrap(&[record(1)], &[])?;
    follow(&mut fallen, &history, 1000, 7)?;
    fallen.store_mut().flush()?;
    follow(&mut fallen, &history, 1500, 7)?;
    // It dies here. What no flush had finished with is lost, and the log has it.
    drop(fallen);
    let mut fallen = Replica::open(open("fallen")?)?;
    println!("replayed from {}", fallen.applied(GROUP));
    follow(&mut fallen, &history, 3000, 100)?;

    let mut late = Replica::open(open("late")?)?;
    let snapshot = steady.snapshot(GROUP).ok_or("it has a replica")?;
    let (tablet, mut stager) = late.begin_install()?;
    for row in snapshot.rows(None) {
        let (key, value) = row?;
        stager.push(&key, &value)?;
    }
    stager.finish()?;
    let record = ReplicaRecord {
        pieces: tablet.into(),
        ..record(1)
    };
    late.install(record, snapshot.applied())?;
    println!("began with a snapshot at {}", late.applied(GROUP));

    for replica in [&mut steady, &mut late] {
        follow(replica, &history, 3000, 64)?;
    }
    for replica in [&steady, &fallen, &late] {
        let state = replica.snapshot(GROUP).ok_or("it has a replica")?;
        println!("at {}: {:032x}", state.applied(), state.hash()?);
    }
    let hash = |replica: &Replica| replica.snapshot(GROUP).map(|state| state.hash().ok());
    assert!(hash(&steady) == hash(&fallen) && hash(&steady) == hash(&late));
    Ok(())
}
