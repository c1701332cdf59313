//! The thread that reads held states: hashes them, and serves their pages.
//!
//! It reads bit by bit, everything in turn, and no faster than its budget, so that those who serve clients
//! never wait for it.

use super::mailbox::Inbox;
use super::snapshots::LISTEN_EVERY;
use super::{Shared, clock};
use crate::held::{DigestState, Work, page};
use crate::reply::{Reply, Waiter};
use crate::snapshot::Budget;
use bytes::Bytes;
use pontoon_store::{KvSnapshot, LsmView};
use pontoon_types::{GroupId, LogIndex};
use pontoon_wal::LogWaits;
use std::collections::VecDeque;

/// Bytes that are hashed before others have their turn.
const TURN_BYTES: u64 = 1 << 20;

/// Over so many requests that wait, pages are refused, and digests are to be asked for again.
const MAX_WAITING: usize = 1024;

/// Something for the thread to do.
pub(super) enum HeldJob {
    /// Hash a state.
    Digest(Box<Work>),
    /// Read rows of a state.
    Page {
        group: GroupId,
        index: LogIndex,
        after: Option<Bytes>,
        max_bytes: usize,
        waiter: Waiter,
    },
    /// End.
    Finish,
}

/// Runs until it is told to finish. What waits then is left.
pub(super) fn run(inbox: &Inbox<HeldJob>, shared: &Shared, bytes_per_second: u64) {
    let held = &shared.held;
    let mut budget = Budget::new(bytes_per_second, clock::now());
    let (mut heard, mut heard_at) = (LogWaits::default(), clock::now());
    let mut waiting = VecDeque::new();
    let mut jobs = Vec::new();
    loop {
        let now = clock::now();
        if now - heard_at >= LISTEN_EVERY {
            let before = std::mem::replace(&mut heard, shared.wal.waits());
            heard_at = now;
            budget.heed(&heard.since(&before));
        }
        let opens_at = budget.opens_at(now);
        match waiting.is_empty() {
            true => inbox.wait(None, 0, &mut jobs),
            false if opens_at > now => inbox.wait(Some(opens_at - now), 0, &mut jobs),
            false => inbox.take(&mut jobs),
        }
        for job in jobs.drain(..) {
            match job {
                HeldJob::Finish => return,
                HeldJob::Page { waiter, .. } if waiting.len() >= MAX_WAITING => {
                    waiter.reply(Reply::Overloaded {
                        reason: "too many requests wait",
                    });
                }
                HeldJob::Digest(work) if waiting.len() >= MAX_WAITING => {
                    let (group, index) = work.place();
                    held.lock().forget(group, index);
                }
                job => waiting.push_back(job),
            }
        }
        if opens_at > clock::now() {
            continue;
        }
        let Some(job) = waiting.pop_front() else {
            continue;
        };
        let read = match job {
            HeldJob::Digest(work) => {
                let (read, unfinished) = turn(work, shared);
                waiting.extend(unfinished.map(HeldJob::Digest));
                read
            }
            HeldJob::Page {
                group,
                index,
                after,
                max_bytes,
                waiter,
            } => {
                let state = held.lock().peek(group, index);
                match state {
                    Ok(snapshot) => serve(&snapshot, after.as_deref(), max_bytes, waiter, shared),
                    Err(reason) => {
                        waiter.reply(Reply::Unavailable { reason });
                        0
                    }
                }
            }
            HeldJob::Finish => return,
        };
        budget.charge(read, clock::now());
    }
}

/// Goes on with a digest. How many bytes that were, and the work, if there is more to do.
fn turn(mut work: Box<Work>, shared: &Shared) -> (usize, Option<Box<Work>>) {
    let (group, index) = work.place();
    let before = work.bytes();
    let state = shared.held.lock().peek(group, index);
    let Ok(snapshot) = state else {
        // Nobody has asked for it lately, or it kept too much.
        shared.held.lock().forget(group, index);
        return (0, None);
    };
    let digest = match work.advance(&snapshot, TURN_BYTES) {
        Ok(None) => None,
        Ok(Some(digest)) => Some(DigestState::Known(digest)),
        Err(error) => {
            tracing::error!(%group, %index, %error, "cannot hash a state");
            if error.is_damage() {
                shared.state_damaged(group, work.pieces());
            }
            Some(DigestState::Failed)
        }
    };
    let read = (work.bytes() - before) as usize;
    match digest {
        Some(digest) => {
            shared.held.lock().note(group, index, digest);
            (read, None)
        }
        None => (read, Some(work)),
    }
}

fn serve(
    snapshot: &KvSnapshot<LsmView>,
    after: Option<&[u8]>,
    max_bytes: usize,
    waiter: Waiter,
    shared: &Shared,
) -> usize {
    match page(snapshot, after, max_bytes) {
        Ok(page) => {
            let bytes = page.rows.iter().map(|(key, value)| key.len() + value.len());
            let bytes = bytes.sum();
            waiter.reply(Reply::Rows(page));
            bytes
        }
        Err(error) => {
            let record = snapshot.record();
            let group = record.group;
            tracing::error!(%group, %error, "cannot read a held state");
            if error.is_damage() {
                shared.state_damaged(group, &record.pieces);
            }
            waiter.reply(Reply::Unavailable {
                reason: "the store could not be read",
            });
            0
        }
    }
}
