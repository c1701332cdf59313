//! The Raft protocol as a pure state machine.
//!
//! This crate decides what one replica of one group does, and nothing else: it has no clock, file,
//! thread, socket or random map to reach for. It is `no_std`, so that the compiler keeps it so. Time comes
//! in as `now`, randomness as a seed, and the disk and the network are its caller, the *shell*. The
//! same calls in the same order give the same results, on any machine.
//!
//! "Raft" below is Ongaro and Ousterhout, *In Search of an Understandable Consensus Algorithm* (2014),
//! "thesis" is Ongaro, *Consensus: Bridging Theory and Practice* (2014), and S1 to S12 are the
//! invariants of Pontoon's design.
//!
//! # Raft in a minute
//!
//! Replicas of a group hold the same *log* of entries. Time is cut into *terms*; each has at most one
//! *leader*, chosen by a majority, every member voting at most once (§5.2). Only the leader appends;
//! the others, its *followers*, copy. Each Append names the entry before the ones it carries, by index
//! and term, and is refused by a follower that does not hold it: so two logs that agree anywhere agree up to
//! there (§5.3), and the leader backs up until they do. An entry that a majority holds durably is
//! *committed* and will be applied by everyone, because nobody without it can win an election any more:
//! voters refuse candidates whose log ends earlier than theirs (§5.4.1), and a leader counts copies only
//! of entries of its own term (§5.4.2, figure 8).
//!
//! # The contract
//!
//! Put in what happened, in any order, as often as it likes:
//!
//! | call | what happened |
//! |---|---|
//! | [`Raft::step`] | a message came in |
//! | [`Raft::propose`], [`Raft::read_index`], [`Raft::forward_read_index`] | a client wants something |
//! | [`Raft::propose_conf_change`], [`Raft::transfer_leadership`] | somebody wants other members, or another leader |
//! | [`Raft::handle_timeout`] | [`Raft::next_deadline`] has come |
//! | [`Raft::handle_durable`] | a [`Persist`] and all before it are on the disk |
//! | [`Raft::handle_applied`] | the state machine has applied what it was given |
//! | [`Raft::handle_fetched`] | a [`Fetch`] is answered |
//! | [`Raft::handle_leader_contact`], [`Raft::handle_peer_contact`] | somebody is alive, learnt elsewhere |
//! | [`Raft::handle_snapshot_taken`], [`Raft::handle_snapshot_delivered`], [`Raft::handle_snapshot_failed`] | how far the snapshot for a peer is |
//! | [`Raft::handle_unreachable`], [`Raft::compact`] | a connection broke, the log let go of its front |
//!
//! Then take out with [`Raft::poll_ready`] what is to be done, and repeat until it says there is nothing.
//! `now` is read after what came in was taken out of its queue, from a clock that goes on while the machine sleeps.
//! What several calls brought about comes out as one: ten proposals are one Append per peer and one
//! [`Persist`], so a shell that gathers a cycle's worth of calls gets batches for free.
//!
//! # What waits for the disk
//!
//! The disk is slow and is not waited for: any number of [`Persist`]s may be on their way. Three rules
//! keep that safe (S6), and [`Ready`] keeps the parts of each apart:
//!
//! - No message carries a term, and no candidate counts its own vote, before both are durable. An
//!   acknowledgement also waits for the entries that it acknowledges. Such messages come out in
//!   [`Ready::messages_after_durable`].
//! - A leader sends entries before it has them on its own disk, which then works while the network does
//!   (thesis §10.2.1); its own copy counts only once [`Raft::handle_durable`] says so. It may commit what
//!   a majority of others holds first.
//! - What is applied is committed and durable here, so that a restart finds in its log whatever its
//!   state machine has seen.
//!
//! An acknowledgement names the sequence and term of its [`Persist`]; one that comes after a new leader
//! has replaced its entries covers only what is left of them.
//!
//! # Elections that disturb nobody
//!
//! Timeouts are drawn from `[t, 2t)` anew each time. With `pre_vote` a candidate first asks whether it could
//! win and raises no term if not (thesis §9.6). With `check_quorum` a leader that hears no quorum steps
//! down, and voters that heard their leader within `t` refuse everybody else (thesis §4.2.3, §6.2),
//! except candidates that the leader itself has sent. That is a promise, which also outlives the term, because
//! leases count on it. A replica that does find itself in a higher
//! term than a leader with which all others are content tells that leader, who then steps down: without
//! that, it would be refused for ever and follow nobody.
//!
//! Who should lead rather than others is told by [`Config::election_rank`]: who ranks lower waits longer, so that the
//! preferred one asks first. It must win like anybody else. There is no more to it, because waiting
//! needs no knowledge of others and changes nothing about votes; to bring the leadership back to who was away
//! is a matter of placement, and of a transfer.
//!
//! # Handing over
//!
//! [`Raft::transfer_leadership`] lets a leader choose who comes after it (thesis §3.10). It takes no
//! proposals meanwhile, brings the other one up to the end of its log and tells it to campaign at
//! once. The election that follows is one like any other, except that stickiness does not hold. Who has not
//! taken over within an election timeout is given up.
//!
//! # Feeding followers
//!
//! A leader *probes* where a peer's log agrees with its own, one Append at a time, and from the first
//! accepted one on feeds it in a *pipeline*, bounded per peer in messages and bytes under way. A
//! refusal says where the follower's log could agree, whole terms skipped on both sides, so that
//! conflicts cost rejections by the number of terms and not of entries. Lost messages are found out by
//! answered Heartbeats: a follower that is there but has not all entries is sent an Append, empty if need be,
//! and what it answers tells. Entries are kept in memory while they are young; a peer that needs older ones
//! is fed from the log by way of [`Fetch`].
//!
//! Commit indexes travel with Appends and Heartbeats. A follower of a group that falls silent learns the
//! last one with the next Heartbeat; no write waits for that.
//!
//! # Reads
//!
//! [`Raft::read_index`] gives an index at which a read is linearizable (S8), without writing: the leader's
//! commit index, once a quorum has answered a round of messages that began after the read was asked
//! (thesis §6.4). One round serves all reads that wait for it. With [`Config::lease`] a leader that a quorum has
//! answered lately need not ask (§6.4.1): why that is safe, and what clocks it takes, is told at
//! the top of `lease.rs`. [`Raft::forward_read_index`] lets a follower ask its leader, and serve the read itself.
//!
//! # Members
//!
//! [`Raft::propose_conf_change`] adds voters and learners, promotes, demotes and removes. A learner gets the
//! log and decides nothing (thesis §4.2.1): who joins is best one until it has caught up. One change is
//! one step; several at once go through a *joint* configuration, in which every decision needs the majorities
//! of both sides (§4.3). A change is an entry, and takes effect on each replica when it is applied there.
//! The next one has to wait for that, and a new leader's first also until the leader has committed an
//! entry of its own term: without that, single changes are unsafe, as was found after the thesis. Nobody
//! campaigns with a committed change yet to be applied.
//!
//! A leader that removes itself does not count itself from then on, tells the others how far they have
//! committed and steps down. Should they not hear that, they learn it when they ask it for its vote: answers
//! name what the voter knows to be committed. Removed replicas cannot disturb who has `pre_vote` and `check_quorum` on (§4.2.3),
//! and are not members again: ids are never used twice.
//!
//! # Snapshots
//!
//! The front of the log goes once the state machine holds it durably: [`Raft::compactable`] says how far, with
//! a tail kept for followers that lag and more for who is brought up, and [`Raft::compact`] lets it go. A peer that needs what is gone, or that
//! does not know its members yet, gets a snapshot (§7): [`Ready::snapshots`] asks for it, the shell takes it, with
//! the position and the members that it is of, and brings it to the peer, whose replica sees the message that
//! travels with it. What is not newer than its commit index it answers at once; a snapshot
//! whose last entry it holds only moves the commit index; any other replaces its log, and is
//! acknowledged when it is durable. One is under way per peer at most, a broken one is tried again later, and
//! the first acknowledgement that the log can follow on puts the peer back into the pipeline.
//!
//! # When things are wrong
//!
//! Bytes from a peer never panic (S12): what no correct replica sends is refused with a [`StepError`]
//! and changes nothing. A leader that contradicts what is committed, or that knows of acknowledged
//! entries which are not in the log, is proof that a disk has lost data or a rule was broken: the replica
//! then *stops* for good, alone in its group and without touching the node's others. Violations of the
//! contract by the shell are our own bugs and are asserted, also in release builds.
//!
//! # What is not here
//!
//! Encodings of messages, the log's files, what commands mean, the data of snapshots, who is on which node.
//!
//! # The smallest group
//!
//! ```
//! use pontoon_raft::{Config, Raft, Ready, Restored, Role};
//! use pontoon_types::{ConfState, GroupId, Instant, ReplicaId};
//!
//! let (id, now) = (ReplicaId(1), Instant::ZERO);
//! let members = ConfState::of_voters([id]);
//! let mut raft = Raft::new(Config::new(GroupId(7), id), Restored::blank(members), now)?;
//! raft.campaign(now);
//!
//! let mut ready = Ready::default();
//! let mut applied = Vec::new();
//! let mut settle = |raft: &mut Raft| {
//!     while raft.poll_ready(&mut ready) {
//!         // Here a shell sends, writes and syncs; then:
//!         if let Some(persist) = &ready.persist {
//!             raft.handle_durable(persist.sequence, persist.term, now);
//!         }
//!         for entry in ready.committed.drain(..) {
//!             raft.handle_applied(entry.index());
//!             applied.push(entry);
//!         }
//!     }
//! };
//! settle(&mut raft);
//! assert_eq!(raft.role(), Role::Leader);
//! let position = raft.propose(b"hello", now).expect("a leader with nothing to do");
//! settle(&mut raft);
//! assert_eq!(applied.last().map(|entry| entry.position()), Some(position));
//! # Ok::<(), pontoon_raft::ConfigError>(())
//! ```
#![no_std]

extern crate alloc;

mod check;
mod config;
mod durability;
mod election;
mod error;
mod fingerprint;
mod follower;
mod leader;
mod lease;
mod log;
mod membership;
mod message;
mod poll;
mod progress;
mod quorum;
mod raft;
mod read_index;
mod ready;
mod rng;
mod snapshot;
mod terms;
mod transfer;
mod view;

pub use config::{Config, ConfigError, Restored};
pub use error::{ConfChangeRefusal, ProposeError, ReadError, StepError, TransferError};
pub use message::{Entries, ForwardedRound, Message, MessageBody};
pub use progress::{ProgressMode, ProgressView};
pub use raft::{Raft, Role};
pub use ready::{AppendSequence, Fetch, FetchPurpose, Persist, ReadReady, Ready, Snapshot};
