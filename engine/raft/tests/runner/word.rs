//! The words of the scripts, as README.md beside the scripts explains them.

use super::facts::Shape;
use super::message::{self, Filter};
use super::setup::{self, Settings, Setup};
use super::token::{Args, Nodes, Parsed, ids};
use super::vocabulary::{ANSWER, COUNT, DISK, MESSAGE, OUTCOME, READS, STATE, STATUS, WRITES};
use pontoon_raft::Message;
use pontoon_types::ConfChange;

/// In which order messages are delivered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Order {
    AsSent,
    Reversed,
    /// As the seed decides.
    Shuffled,
    /// The script is run once for each order.
    Every,
}

/// How much of what is pending on a crash reaches the disk all the same.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Written {
    First(usize),
    /// As the seed decides.
    Random,
    /// The script is run once for each number from none to all.
    Every,
}

/// How far the log is let go of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum CompactTo {
    Index(u64),
    /// As far as the core says, with a tail of so many entries.
    Tail(u64),
}

/// One thing to do or to look at.
#[derive(Clone, Debug)]
pub(crate) enum Word {
    AddNodes {
        count: u64,
        setup: Box<Setup>,
    },
    Set {
        nodes: Nodes,
        settings: Settings,
    },
    Campaign(Nodes),
    Tick {
        count: u32,
        nodes: Nodes,
    },
    Run(u32),
    Pause(Nodes),
    Resume(Nodes),
    Propose {
        node: u64,
        data: Option<String>,
        bytes: usize,
    },
    ProposeConfChange {
        node: u64,
        change: ConfChange,
    },
    TransferLeadership {
        node: u64,
        to: u64,
    },
    ReadIndex {
        node: u64,
        context: u64,
        /// A follower may ask its leader.
        forward: bool,
    },
    ReportUnreachable {
        node: u64,
        peer: u64,
    },
    Compact {
        node: u64,
        up_to: CompactTo,
    },

    ProcessReady(Nodes),
    AckAppend {
        nodes: Nodes,
        count: usize,
    },
    AckApply(Nodes),
    Snapshot(u64),
    Stabilize(Nodes),

    Deliver {
        filter: Filter,
        order: Order,
        repeats: bool,
    },
    Drop(Filter),
    Hold(Filter),
    Release {
        filter: Filter,
        copy: bool,
    },
    Duplicate(Filter),
    Cut(Filter),
    Isolate(Nodes),
    Partition(Vec<Vec<u64>>),
    Heal,
    Send(Message),
    Ask(Message),
    Mark,
    RandomSteps {
        count: u64,
        drops: u64,
    },

    Flush(Nodes),
    Crash {
        nodes: Nodes,
        written: Written,
    },
    Restart(Nodes),
    Damage {
        node: u64,
        index: u64,
        noticed: bool,
    },

    RaftState(Nodes),
    RaftLog(Nodes),
    Status(u64),
    Messages {
        filter: Filter,
        held: bool,
    },
    Delivered(Filter),
    Disk(Nodes),
    Machine(Nodes),
    HandedOut(Nodes),
    Reads(u64),
    Writes,
}

fn ticks(args: &mut Args) -> Parsed<u32> {
    let count = args.number("how many ticks")?;
    match u32::try_from(count) {
        Ok(count) if count <= 100_000 => Ok(count),
        _ => Err(format!("expected at most 100000 ticks, found `{count}`")),
    }
}

impl Word {
    /// Whether it only looks, and so is pointless without an expectation.
    pub(crate) fn observes(&self) -> bool {
        matches!(
            self,
            Self::RaftState(_)
                | Self::RaftLog(_)
                | Self::Status(_)
                | Self::Messages { .. }
                | Self::Delivered(_)
                | Self::Disk(_)
                | Self::Machine(_)
                | Self::HandedOut(_)
                | Self::Reads(_)
                | Self::Writes
        )
    }

    /// Whether what it leads to is an answer, so that a refusal is no failure.
    pub(crate) fn asks(&self) -> bool {
        matches!(self, Self::Ask(_))
    }

    /// What an expectation after it may say.
    pub(crate) fn shape(&self) -> Shape {
        match self {
            Self::RaftState(_) => Shape::Named(STATE),
            Self::RaftLog(_) | Self::Machine(_) | Self::HandedOut(_) => Shape::Lists,
            Self::Status(_) => Shape::Named(STATUS),
            Self::Messages { .. } => Shape::Messages(MESSAGE),
            Self::Delivered(_) => Shape::One(COUNT),
            Self::Disk(_) => Shape::Named(DISK),
            Self::Reads(_) => Shape::Named(READS),
            Self::Writes => Shape::One(WRITES),
            Self::Ask(_) => Shape::One(ANSWER),
            _ => Shape::One(OUTCOME),
        }
    }

    pub(crate) fn parse(word: &str, mut args: Args) -> Parsed<Self> {
        let a = &mut args;
        let (parsed, usage) = match word {
            "add-nodes" => {
                let count = a.number("how many nodes")?;
                if !(1..=100).contains(&count) {
                    return Err(format!("expected 1 to 100 nodes, found `{count}`"));
                }
                let setup = Box::new(Setup::parse(a)?);
                (
                    Self::AddNodes { count, setup },
                    "add-nodes COUNT [OPTION=VALUE ...]",
                )
            }
            "set" => {
                let nodes = a.nodes()?;
                let settings = Settings::parse(a)?;
                let usage = "set NODES [appends=held] [applies=held] [snapshots=held] [clock=90%]";
                if settings.is_empty() {
                    return Err(format!("expected `{usage}`, found nothing to set"));
                }
                (Self::Set { nodes, settings }, usage)
            }
            "campaign" => (Self::Campaign(a.nodes()?), "campaign NODES"),
            "tick" => {
                let count = ticks(a)?;
                let nodes = a.nodes_or_all()?;
                (Self::Tick { count, nodes }, "tick COUNT [NODES]")
            }
            "run" => (Self::Run(ticks(a)?), "run COUNT"),
            "pause" => (Self::Pause(a.nodes()?), "pause NODES"),
            "resume" => (Self::Resume(a.nodes()?), "resume NODES"),
            "propose" => {
                let node = a.node()?;
                let data = a.maybe_plain();
                let bytes = a.number_option("bytes")?.unwrap_or(0) as usize;
                (
                    Self::Propose { node, data, bytes },
                    "propose NODE [DATA] [bytes=COUNT]",
                )
            }
            "propose-conf-change" => {
                let node = a.node()?;
                let change = setup::conf_change(a)?;
                let word = Self::ProposeConfChange { node, change };
                let usage = "propose-conf-change NODE CHANGES|leave [transition=joint|explicit]";
                (word, usage)
            }
            "read-index" => {
                let node = a.node()?;
                let context = a.number("the read's number")?;
                let forward = a.flag("forward");
                let word = Self::ReadIndex {
                    node,
                    context,
                    forward,
                };
                (word, "read-index NODE NUMBER [forward]")
            }
            "transfer-leadership" => {
                let usage = "transfer-leadership NODE to=NODE";
                let node = a.node()?;
                let Some(to) = a.number_option("to")? else {
                    return Err(format!("expected `{usage}`, found no to="));
                };
                (Self::TransferLeadership { node, to }, usage)
            }
            "report-unreachable" => {
                let node = a.node()?;
                let peer = a.node()?;
                (
                    Self::ReportUnreachable { node, peer },
                    "report-unreachable NODE PEER",
                )
            }
            "compact" => {
                let node = a.node()?;
                let up_to = match a.number_option("tail")? {
                    Some(entries) => CompactTo::Tail(entries),
                    None => CompactTo::Index(a.number("an index or tail=")?),
                };
                (
                    Self::Compact { node, up_to },
                    "compact NODE INDEX or compact NODE tail=N",
                )
            }
            "process-ready" => (Self::ProcessReady(a.nodes()?), "process-ready NODES"),
            "ack-append" => {
                let nodes = a.nodes()?;
                let count = match a.flag("one") {
                    true => 1,
                    false => usize::MAX,
                };
                (Self::AckAppend { nodes, count }, "ack-append NODES [one]")
            }
            "snapshot" => (Self::Snapshot(a.node()?), "snapshot NODE"),
            "ack-apply" => (Self::AckApply(a.nodes()?), "ack-apply NODES"),
            "stabilize" => (Self::Stabilize(a.nodes_or_all()?), "stabilize [NODES]"),
            "flush" => (Self::Flush(a.nodes()?), "flush NODES"),
            "crash" => {
                let nodes = a.nodes()?;
                let written = match a.option("written").as_deref() {
                    None => Written::First(0),
                    Some("any") => Written::Every,
                    Some("random") => Written::Random,
                    Some(count) => {
                        let what = "any, random or a number after written=";
                        Written::First(super::token::number(count, what)? as usize)
                    }
                };
                (
                    Self::Crash { nodes, written },
                    "crash NODES [written=any|random|COUNT]",
                )
            }
            "restart" => (Self::Restart(a.nodes()?), "restart NODES"),
            "damage" => {
                let node = a.node()?;
                let index = a.number("an index")?;
                let noticed = !a.flag("unnoticed");
                let word = Self::Damage {
                    node,
                    index,
                    noticed,
                };
                (word, "damage NODE INDEX [unnoticed]")
            }
            _ => return Self::parse_network(word, args),
        };
        args.finish(usage)?;
        Ok(parsed)
    }

    /// The words about messages.
    fn parse_network(word: &str, mut args: Args) -> Parsed<Self> {
        let a = &mut args;
        let (parsed, usage) = match word {
            "deliver" => {
                let order = match a.option("order").as_deref() {
                    None => Order::AsSent,
                    Some("reversed") => Order::Reversed,
                    Some("shuffled") => Order::Shuffled,
                    Some("every") => Order::Every,
                    Some(other) => {
                        return Err(format!(
                            "expected order=reversed, shuffled or every, found `{other}`"
                        ));
                    }
                };
                let repeats = a.flag("repeats");
                let filter = Filter::parse(a)?;
                let word = Self::Deliver {
                    filter,
                    order,
                    repeats,
                };
                (
                    word,
                    "deliver [FROM->TO] [KIND] [FACT=VALUE ...] [order=reversed|shuffled|every] [repeats]",
                )
            }
            "drop" => (
                Self::Drop(Filter::parse(a)?),
                "drop [FROM->TO] [KIND] [FACT=VALUE ...]",
            ),
            "hold" => (
                Self::Hold(Filter::parse_plain(a)?),
                "hold [FROM->TO] [KIND]",
            ),
            "release" => {
                let copy = a.flag("copy");
                let filter = Filter::parse(a)?;
                (
                    Self::Release { filter, copy },
                    "release [FROM->TO] [KIND] [FACT=VALUE ...] [copy]",
                )
            }
            "duplicate" => (
                Self::Duplicate(Filter::parse(a)?),
                "duplicate [FROM->TO] [KIND] [FACT=VALUE ...]",
            ),
            "cut" => (Self::Cut(Filter::parse_plain(a)?), "cut [FROM->TO] [KIND]"),
            "isolate" => (Self::Isolate(a.nodes()?), "isolate NODES"),
            "partition" => {
                let mut sides = Vec::new();
                while let Some(side) = a.maybe_plain() {
                    sides.push(ids(&side)?);
                }
                if sides.len() < 2 {
                    return Err(
                        "expected two sides or more, such as `partition 1,2 3,4,5`".to_owned()
                    );
                }
                (Self::Partition(sides), "partition NODES NODES ...")
            }
            "heal" => (Self::Heal, "heal"),
            "send" => (
                Self::Send(message::parse(a)?),
                "send FROM->TO KIND term=TERM [FIELDS]",
            ),
            "ask" => (
                Self::Ask(message::parse(a)?),
                "ask FROM->TO KIND term=TERM [FIELDS]",
            ),
            "mark" => (Self::Mark, "mark"),
            "random-steps" => {
                let count = a.number("how many steps")?;
                let drops = a.number_option("drops")?.unwrap_or(0);
                (
                    Self::RandomSteps { count, drops },
                    "random-steps COUNT [drops=PERCENT]",
                )
            }
            _ => return Self::parse_observer(word, args),
        };
        args.finish(usage)?;
        Ok(parsed)
    }

    fn parse_observer(word: &str, mut args: Args) -> Parsed<Self> {
        let a = &mut args;
        let (parsed, usage) = match word {
            "raft-state" => (Self::RaftState(a.nodes_or_all()?), "raft-state [NODES]"),
            "raft-log" => (Self::RaftLog(a.nodes_or_all()?), "raft-log [NODES]"),
            "status" => (Self::Status(a.node()?), "status NODE"),
            "messages" | "held" => {
                let held = word == "held";
                let filter = Filter::parse(a)?;
                (
                    Self::Messages { filter, held },
                    "messages|held [FROM->TO] [KIND] [FACT=VALUE ...]",
                )
            }
            "delivered" => (
                Self::Delivered(Filter::parse(a)?),
                "delivered [FROM->TO] [KIND] [FACT=VALUE ...]",
            ),
            "disk" => (Self::Disk(a.nodes_or_all()?), "disk [NODES]"),
            "machine" => (Self::Machine(a.nodes_or_all()?), "machine [NODES]"),
            "handed-out" => (Self::HandedOut(a.nodes_or_all()?), "handed-out [NODES]"),
            "reads" => (Self::Reads(a.node()?), "reads NODE"),
            "writes" => (Self::Writes, "writes"),
            _ => return Err(format!("expected a word of this language, found `{word}`")),
        };
        args.finish(usage)?;
        Ok(parsed)
    }
}
