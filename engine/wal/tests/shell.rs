//! The threads around the log, on real files.
#![allow(clippy::unwrap_used)] // Also in helpers that are not themselves tests.

mod common;

use common::{Heard, IDENTITY, await_tickets, batch_of, config, ear, entry, hard_state, position};
use crossbeam_channel::{Receiver, Sender, unbounded};
use pontoon_types::{GroupId, LogIndex, NodeId, Term};
use pontoon_wal::{BatchBuilder, DurabilityListener, LogIdentity, Ticket, Wal, WalError};
use std::sync::Arc;

const SEGMENT: u64 = 1 << 20;

#[test]
fn what_was_announced_is_there_after_a_restart() {
    let directory = tempfile::tempdir().unwrap();
    let (listener, heard) = ear();
    let (wal, recovered) =
        Wal::open(directory.path(), config(SEGMENT), IDENTITY, listener).unwrap();
    assert!(recovered.groups.is_empty());
    for index in 1..=5_000u64 {
        let mut batch = BatchBuilder::new();
        for group in 1..=4 {
            batch.append(&entry(group, 1, index, &[group as u8; 300]));
        }
        batch.hard_state(GroupId(1), &hard_state(1, Some(7), index));
        let ticket = Ticket {
            worker: 3,
            sequence: index,
        };
        wal.submit(batch.seal(), ticket);
    }
    let tickets = await_tickets(&heard, 5_000);
    assert!(tickets.iter().map(|ticket| ticket.sequence).eq(1..=5_000));
    let stats = wal.stats();
    assert_eq!((stats.batches, stats.entries), (5_000, 20_000));
    assert!(stats.syncs < 5_000, "group commit: {stats:?}");
    let read = wal
        .read(GroupId(2), LogIndex(10), LogIndex(4_000), 1 << 20)
        .unwrap();
    assert_eq!(read[0], entry(2, 1, 10, &[2; 300]));
    assert!(read.len() > 1_000);
    wal.shutdown().unwrap();

    let (listener, _heard) = ear();
    let (wal, recovered) =
        Wal::open(directory.path(), config(SEGMENT), IDENTITY, listener).unwrap();
    assert!(recovered.damaged.is_empty(), "{:?}", recovered.report);
    assert_eq!(recovered.report.torn_bytes, 0);
    assert_eq!(recovered.groups.len(), 4);
    let group = &recovered.groups[&GroupId(1)];
    assert_eq!(group.hard_state, hard_state(1, Some(7), 5_000));
    assert_eq!(group.last, LogIndex(5_000));
    assert_eq!(group.terms, [(LogIndex(1), Term(1))]);
    let read = wal
        .read(GroupId(4), LogIndex(1), LogIndex(5_000), usize::MAX)
        .unwrap();
    assert_eq!(read.len(), 5_000);
    assert_eq!(read[4_999], entry(4, 1, 5_000, &[4; 300]));
    wal.shutdown().unwrap();
}

#[test]
fn compacted_segments_are_used_again() {
    let directory = tempfile::tempdir().unwrap();
    let (listener, heard) = ear();
    let (wal, _) = Wal::open(directory.path(), config(SEGMENT), IDENTITY, listener).unwrap();
    for index in 1..=2_000u64 {
        let mut batch = BatchBuilder::new();
        batch.append(&entry(1, 1, index, &[1; 8_000]));
        if index > 100 {
            batch.compact(GroupId(1), position(1, index - 100));
        }
        wal.submit(
            batch.seal(),
            Ticket {
                worker: 0,
                sequence: index,
            },
        );
        if index % 50 == 0 {
            await_tickets(&heard, 50);
        }
    }
    let stats = wal.stats();
    assert!(stats.segments_live <= 4, "{stats:?}");
    let files = std::fs::read_dir(directory.path()).unwrap().count();
    assert!(files <= 12, "{files} files for {stats:?}");
    assert!(matches!(
        wal.read(GroupId(1), LogIndex(1), LogIndex(2), 1),
        Err(WalError::Compacted {
            first: LogIndex(1_901),
            ..
        })
    ));
    wal.shutdown().unwrap();
}

#[test]
fn a_second_opener_is_told_who_has_the_log() {
    let directory = tempfile::tempdir().unwrap();
    let (listener, _heard) = ear();
    let (wal, _) = Wal::open(
        directory.path(),
        config(SEGMENT),
        IDENTITY,
        listener.clone(),
    )
    .unwrap();
    let error = Wal::open(directory.path(), config(SEGMENT), IDENTITY, listener).unwrap_err();
    let WalError::Locked {
        holder,
        directory: named,
    } = &error
    else {
        panic!("{error}");
    };
    assert_eq!(*holder, Some(std::process::id()));
    assert_eq!(named, directory.path());
    assert!(error.to_string().contains(&std::process::id().to_string()));
    wal.shutdown().unwrap();
}

#[test]
fn the_log_of_another_node_is_refused_by_name() {
    let directory = tempfile::tempdir().unwrap();
    let (listener, heard) = ear();
    let (wal, _) = Wal::open(
        directory.path(),
        config(SEGMENT),
        IDENTITY,
        listener.clone(),
    )
    .unwrap();
    wal.submit(
        batch_of(&[entry(1, 1, 1, b"mine")]),
        Ticket {
            worker: 0,
            sequence: 0,
        },
    );
    await_tickets(&heard, 1);
    wal.shutdown().unwrap();
    let other = LogIdentity {
        node: NodeId(2),
        ..IDENTITY
    };
    let error = Wal::open(directory.path(), config(SEGMENT), other, listener).unwrap_err();
    assert!(
        matches!(
            error,
            WalError::Foreign {
                found: IDENTITY,
                ..
            }
        ),
        "{error}"
    );
    assert!(error.to_string().contains("node 1"), "{error}");
}

#[test]
fn a_batch_with_a_bug_stops_the_log_and_everyone_hears_it() {
    let directory = tempfile::tempdir().unwrap();
    let (listener, heard) = ear();
    let (wal, _) = Wal::open(directory.path(), config(SEGMENT), IDENTITY, listener).unwrap();
    wal.submit(
        batch_of(&[entry(1, 1, 5, b"gap")]),
        Ticket {
            worker: 0,
            sequence: 0,
        },
    );
    assert!(matches!(
        heard.recv().unwrap(),
        Heard::Failed(WalError::Poisoned { .. })
    ));
    wal.submit(
        batch_of(&[entry(1, 1, 1, b"late")]),
        Ticket {
            worker: 0,
            sequence: 1,
        },
    );
    assert!(matches!(
        heard.recv().unwrap(),
        Heard::Failed(WalError::Poisoned { .. })
    ));
    assert!(matches!(wal.shutdown(), Err(WalError::Poisoned { .. })));
}

/// Polls when woken, as any executor does.
fn block_on<F: IntoFuture>(future: F) -> F::Output {
    struct Unpark(std::thread::Thread);
    impl std::task::Wake for Unpark {
        fn wake(self: std::sync::Arc<Self>) {
            self.0.unpark();
        }
    }
    let waker = std::sync::Arc::new(Unpark(std::thread::current())).into();
    let mut context = std::task::Context::from_waker(&waker);
    let mut future = std::pin::pin!(future.into_future());
    loop {
        match future.as_mut().poll(&mut context) {
            std::task::Poll::Ready(output) => return output,
            std::task::Poll::Pending => std::thread::park(),
        }
    }
}

#[test]
fn threads_and_async_code_wait_for_their_own_batches() {
    let directory = tempfile::tempdir().unwrap();
    let listener = std::sync::Arc::new(());
    let (wal, _) = Wal::open(directory.path(), config(SEGMENT), IDENTITY, listener).unwrap();
    std::thread::scope(|scope| {
        for group in 1..=8 {
            let wal = &wal;
            scope.spawn(move || {
                let mut last = pontoon_wal::Lsn::ZERO;
                for index in 1..=50 {
                    let durable = wal.append(batch_of(&[entry(group, 1, index, b"value")]));
                    let end = if group % 2 == 0 {
                        durable.wait().unwrap()
                    } else {
                        block_on(durable).unwrap()
                    };
                    assert!(end > last, "what is durable only grows");
                    last = end;
                }
            });
        }
    });
    assert!(wal.stats().syncs < 8 * 50, "they share syncs");
    let other = wal.clone();
    wal.shutdown().unwrap();
    let late = other.append(batch_of(&[entry(1, 1, 51, b"value")]));
    assert!(matches!(late.wait(), Err(WalError::ShutDown)));
}

/// Hears nothing more until it is let go.
struct Holds(Sender<()>, Receiver<()>);

impl DurabilityListener for Holds {
    fn durable(&self, _: &[Ticket]) {
        self.0.send(()).unwrap();
        // Nobody is there any more at the end.
        let _ = self.1.recv();
    }

    fn failed(&self, error: &WalError) {
        panic!("{error}");
    }
}

#[test]
fn batches_that_are_not_announced_yet_are_seen_to_wait() {
    let directory = tempfile::tempdir().unwrap();
    let (announces, announced) = unbounded();
    let (release, held) = unbounded();
    let listener = Arc::new(Holds(announces, held));
    let (wal, _) = Wal::open(directory.path(), config(SEGMENT), IDENTITY, listener).unwrap();
    let submit = |sequence| {
        let mut batch = BatchBuilder::new();
        batch.append(&entry(1, 1, sequence, b"waits"));
        let ticket = Ticket {
            worker: 0,
            sequence,
        };
        wal.submit(batch.seal(), ticket);
        let waits = wal.waits();
        (waits.batches, waits.waiting)
    };
    assert_eq!(wal.waits().waiting, 0);
    submit(1);
    announced.recv().unwrap();
    assert_eq!((wal.waits().batches, wal.waits().waiting), (1, 0));
    assert_eq!(submit(2), (1, 1));
    assert_eq!(submit(3), (1, 2));
    drop(release);
    announced.recv().unwrap();
    wal.clone().shutdown().unwrap();
    assert_eq!((wal.waits().batches, wal.waits().waiting), (3, 0));
}
