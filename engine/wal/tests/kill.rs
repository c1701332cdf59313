//! A process that is killed, without a chance to say goodbye, loses nothing that it announced.
#![allow(clippy::unwrap_used)] // Also in helpers that are not themselves tests.

mod common;

use common::{IDENTITY, await_tickets, batch_of, config, ear, entry};
use pontoon_types::{GroupId, LogIndex};
use pontoon_wal::{Ticket, Wal, inspect};
use std::io::{BufRead, BufReader};
use std::process::{Command, Stdio};

const DIRECTORY: &str = "PONTOON_WAL_TEST_DIRECTORY";
const SEGMENT: u64 = 256 << 10;

/// The process that gets killed: this test itself, started again with a directory to write to.
fn write_until_killed(directory: &str) {
    let (listener, heard) = ear();
    let (wal, recovered) =
        Wal::open(directory.as_ref(), config(SEGMENT), IDENTITY, listener).unwrap();
    let mut next = recovered
        .groups
        .get(&GroupId(1))
        .map_or(0, |group| group.last.0);
    for round in 0.. {
        for _ in 0..8 {
            next += 1;
            let batch = batch_of(&[entry(1, 1, next, &[round as u8; 500])]);
            wal.submit(
                batch,
                Ticket {
                    worker: 0,
                    sequence: next,
                },
            );
        }
        let tickets = await_tickets(&heard, 8);
        println!("durable {}", tickets[7].sequence);
    }
}

#[test]
fn what_a_killed_process_announced_is_there() {
    if let Ok(directory) = std::env::var(DIRECTORY) {
        return write_until_killed(&directory);
    }
    let directory = tempfile::tempdir().unwrap();
    let mut announced = 0;
    for _ in 0..4 {
        let mut child = Command::new(std::env::current_exe().unwrap())
            .args([
                "--exact",
                "what_a_killed_process_announced_is_there",
                "--nocapture",
            ])
            .env(DIRECTORY, directory.path())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
        let mut seen = 0;
        while seen < 150 {
            let line = lines.next().unwrap().unwrap();
            if let Some(sequence) = line.strip_prefix("durable ") {
                announced = sequence.parse::<u64>().unwrap();
                seen += 1;
            }
        }
        // While it runs, nobody else gets in.
        assert!(inspect::verify(directory.path()).is_err());
        child.kill().unwrap();
        child.wait().unwrap();
        // What it still printed before it died was announced too.
        for line in lines.map_while(Result::ok) {
            if let Some(sequence) = line.strip_prefix("durable ") {
                announced = sequence.parse().unwrap_or(announced);
            }
        }
        let report = inspect::verify(directory.path()).unwrap();
        assert!(report.is_sound(), "{report:?}");
        assert!(report.groups[&GroupId(1)].last >= LogIndex(announced));
    }
    let (listener, _heard) = ear();
    let (wal, recovered) =
        Wal::open(directory.path(), config(SEGMENT), IDENTITY, listener).unwrap();
    let last = recovered.groups[&GroupId(1)].last;
    assert!(last >= LogIndex(announced));
    let read = wal.read(GroupId(1), LogIndex(1), last, usize::MAX).unwrap();
    assert!(read.iter().map(|entry| entry.index().0).eq(1..=last.0));
    wal.shutdown().unwrap();
}
