//! Messages as scripts speak of them.

use super::facts::Facts;
use super::token::{Args, Parsed, position, show_runs, terms};
use crate::harness::{Kind, Rule, index, kind, message, position as place};
use pontoon_raft::{ForwardedRound, Message, MessageBody};
use pontoon_types::{ConfState, Entry, EntryKind, GroupId, LogPosition, ReplicaId, Term};

/// Which messages a word is about: `1->3 append`, `*->2`, `1<->3`, `all`.
#[derive(Clone, Debug)]
pub(crate) struct Filter {
    from: Option<u64>,
    to: Option<u64>,
    both_ways: bool,
    kind: Option<Kind>,
    /// Facts that must hold of the message.
    facts: Vec<(String, String)>,
}

/// `append-response` for [`Kind::AppendResponse`].
pub(crate) fn name(of: Kind) -> String {
    let mut name = String::new();
    for c in format!("{of:?}").chars() {
        if c.is_uppercase() && !name.is_empty() {
            name.push('-');
        }
        name.push(c.to_ascii_lowercase());
    }
    name
}

fn kind_named(text: &str) -> Option<Kind> {
    Kind::ALL.into_iter().find(|of| name(*of) == text)
}

impl Filter {
    /// Takes what there is of a filter; without any, all messages are meant.
    pub(crate) fn parse(args: &mut Args) -> Parsed<Self> {
        let mut filter = Self {
            from: None,
            to: None,
            both_ways: false,
            kind: None,
            facts: Vec::new(),
        };
        args.flag("all");
        if let Some(text) = args.take_if(|text| text.contains("->")) {
            filter.both_ways = text.contains("<->");
            let (from, to) = text
                .split_once("<->")
                .or_else(|| text.split_once("->"))
                .unwrap_or_default();
            (filter.from, filter.to) = (end(from)?, end(to)?);
        }
        let named = args.take_if(|text| kind_named(text).is_some());
        filter.kind = named.and_then(|text| kind_named(&text));
        for key in KEYS {
            let value = args.option(key);
            filter
                .facts
                .extend(value.map(|value| ((*key).to_owned(), value)));
        }
        Ok(filter)
    }

    /// One for messages that are not there yet, of which only ends and kind are told.
    pub(crate) fn parse_plain(args: &mut Args) -> Parsed<Self> {
        let filter = Self::parse(args)?;
        match filter.facts.first() {
            Some((key, _)) => Err(format!("expected ends and a kind only, found `{key}=`")),
            None => Ok(filter),
        }
    }

    /// The rules that a harness needs for it.
    pub(crate) fn rules(&self, fate: crate::harness::Fate) -> Vec<Rule> {
        let rule = |from, to| Rule {
            from,
            to,
            kind: self.kind,
            fate,
        };
        let mut rules = vec![rule(self.from, self.to)];
        if self.both_ways {
            rules.push(rule(self.to, self.from));
        }
        rules
    }

    pub(crate) fn matches(&self, message: &Message) -> bool {
        let ends = |from: Option<u64>, to: Option<u64>| {
            from.is_none_or(|id| message.from.0 == id) && to.is_none_or(|id| message.to.0 == id)
        };
        let kind_fits = self.kind.is_none_or(|of| kind(message) == of);
        let facts_fit = self.facts.is_empty() || {
            let found = facts(message);
            self.facts.iter().all(|(key, wanted)| found.is(key, wanted))
        };
        kind_fits
            && facts_fit
            && (ends(self.from, self.to) || (self.both_ways && ends(self.to, self.from)))
    }
}

fn end(text: &str) -> Parsed<Option<u64>> {
    match text {
        "*" => Ok(None),
        text => match text.parse() {
            Ok(id) => Ok(Some(id)),
            Err(_) => Err(format!("expected a node's number or *, found `{text}`")),
        },
    }
}

/// An entry as the logs that scripts begin with have it: equal positions hold equal bytes.
fn entry(term: u64, at: u64) -> Entry {
    let payload = format!("{term}/{at}");
    let payload = payload.as_bytes();
    Entry::encode(
        GroupId(1),
        Term(term),
        index(at),
        EntryKind::Command,
        payload,
    )
}

/// Reads a message that a script makes up: `1->3 append term=2 prev=1/4 commit=3 entries=(2,2)`.
pub(crate) fn parse(args: &mut Args) -> Parsed<Message> {
    let ends = args.plain("who sends to whom, such as 1->3")?;
    let ids = ends
        .split_once("->")
        .and_then(|(from, to)| Some((from.parse().ok()?, to.parse().ok()?)));
    let Some((from, to)) = ids else {
        return Err(format!(
            "expected who sends to whom, such as 1->3, found `{ends}`"
        ));
    };
    let text = args.plain("a kind of message")?;
    let Some(of) = kind_named(&text) else {
        let known: Vec<String> = Kind::ALL.into_iter().map(name).collect();
        let known = known.join(", ");
        return Err(format!("expected one of {known}, found `{text}`"));
    };
    let Some(term) = args.number_option("term")? else {
        return Err("expected term=NUMBER, found nothing".to_owned());
    };
    Ok(message(from, to, term, body(of, args)?))
}

fn body(of: Kind, args: &mut Args) -> Parsed<MessageBody> {
    let place_option = |args: &mut Args, key: &str| -> Parsed<LogPosition> {
        let (term, at) = args.position_option(key)?.unwrap_or_default();
        Ok(place(term, at))
    };
    let mut number = |key: &str| args.number_option(key).map(Option::unwrap_or_default);
    let (commit, read_round) = (index(number("commit")?), number("round")?);
    let matched_by_all = index(number("matched-by-all")?);
    let asker = ForwardedRound {
        incarnation: number("incarnation")?,
        round: read_round,
    };
    Ok(match of {
        Kind::RequestVote => MessageBody::RequestVote {
            last: place_option(args, "last")?,
            pre: args.flag("pre"),
            transfer: args.flag("transfer"),
        },
        Kind::VoteResponse => {
            let granted = args.flag("granted");
            if !granted && !args.flag("refused") {
                return Err("expected granted or refused, found neither".to_owned());
            }
            let pre = args.flag("pre");
            MessageBody::VoteResponse {
                granted,
                pre,
                committed: place_option(args, "committed")?,
            }
        }
        Kind::Append => {
            let previous = args.option("prev").unwrap_or_else(|| "0/0".to_owned());
            let (term, at) = position(&previous)?;
            let list = args.option("entries").unwrap_or_else(|| "()".to_owned());
            let entries = (at + 1..).zip(terms(&list)?);
            MessageBody::Append {
                previous: place(term, at),
                commit,
                matched_by_all,
                read_round,
                entries: entries.map(|(at, term)| entry(term, at)).collect(),
            }
        }
        Kind::AppendResponse => MessageBody::AppendResponse {
            matched: index(number("matched")?),
            read_round,
        },
        Kind::AppendRejected => MessageBody::AppendRejected {
            rejected: index(number("rejected")?),
            hint: place_option(args, "hint")?,
            read_round,
        },
        Kind::Heartbeat => MessageBody::Heartbeat {
            commit,
            matched_by_all,
            read_round,
        },
        Kind::HeartbeatResponse => MessageBody::HeartbeatResponse { read_round },
        Kind::TimeoutNow => MessageBody::TimeoutNow,
        Kind::ReadIndex => MessageBody::ReadIndex { asker },
        Kind::ReadIndexResponse => MessageBody::ReadIndexResponse {
            asker,
            index: index(number("index")?),
        },
        Kind::InstallSnapshot => {
            let members = |args: &mut Args, key| -> Parsed<Vec<ReplicaId>> {
                let list = args.option(key).unwrap_or_else(|| "()".to_owned());
                Ok(terms(&list)?.into_iter().map(ReplicaId).collect())
            };
            MessageBody::InstallSnapshot {
                last: place_option(args, "last")?,
                conf_state: Box::new(ConfState {
                    voters: members(args, "voters")?,
                    outgoing: members(args, "outgoing")?,
                    learners: members(args, "learners")?,
                    ..ConfState::default()
                }),
            }
        }
    })
}

pub(crate) const FLAGS: &[&str] = &[
    "append",
    "append-response",
    "append-rejected",
    "heartbeat",
    "heartbeat-response",
    "request-vote",
    "vote-response",
    "install-snapshot",
    "timeout-now",
    "read-index",
    "read-index-response",
    "pre",
    "transfer",
    "granted",
    "refused",
];
pub(crate) const KEYS: &[&str] = &[
    "term",
    "last",
    "prev",
    "commit",
    "committed",
    "entries",
    "matched",
    "rejected",
    "hint",
    "round",
    "incarnation",
    "index",
    "matched-by-all",
    "voters",
    "outgoing",
    "learners",
];

pub(crate) fn ends(message: &Message) -> String {
    format!("{}->{}", message.from, message.to)
}

pub(crate) fn facts(message: &Message) -> Facts {
    let mut facts = Facts::default();
    facts
        .flag(name(kind(message)))
        .value("term", message.term.0);
    let show = |place: LogPosition| format!("{}/{}", place.term, place.index);
    match &message.body {
        MessageBody::RequestVote {
            last,
            pre,
            transfer,
        } => {
            facts.flag_if("pre", *pre).flag_if("transfer", *transfer);
            facts.value("last", show(*last));
        }
        MessageBody::VoteResponse {
            granted,
            pre,
            committed,
        } => {
            facts.value("committed", show(*committed));
            facts.flag(if *granted { "granted" } else { "refused" });
            facts.flag_if("pre", *pre);
        }
        MessageBody::Append {
            previous,
            commit,
            matched_by_all,
            read_round,
            entries,
        } => {
            let places = entries
                .iter()
                .map(|entry| (entry.term().0, entry.index().0));
            let mut runs = show_runs(places).join(",");
            if runs.is_empty() {
                runs = "none".to_owned();
            }
            facts.value("prev", show(*previous)).value("entries", runs);
            facts
                .value("commit", commit.0)
                .value("matched-by-all", matched_by_all.0)
                .value("round", read_round);
        }
        MessageBody::AppendResponse {
            matched,
            read_round,
        } => {
            facts.value("matched", matched.0).value("round", read_round);
        }
        MessageBody::AppendRejected {
            rejected,
            hint,
            read_round,
        } => {
            facts
                .value("rejected", rejected.0)
                .value("hint", show(*hint))
                .value("round", read_round);
        }
        MessageBody::Heartbeat {
            commit,
            matched_by_all,
            read_round,
        } => {
            facts
                .value("commit", commit.0)
                .value("matched-by-all", matched_by_all.0)
                .value("round", read_round);
        }
        MessageBody::HeartbeatResponse { read_round } => {
            facts.value("round", read_round);
        }
        MessageBody::TimeoutNow => {}
        MessageBody::ReadIndex { asker } => {
            facts
                .value("incarnation", asker.incarnation)
                .value("round", asker.round);
        }
        MessageBody::ReadIndexResponse { asker, index } => {
            facts
                .value("incarnation", asker.incarnation)
                .value("round", asker.round)
                .value("index", index.0);
        }
        MessageBody::InstallSnapshot { last, conf_state } => {
            let members = |list: &[ReplicaId]| {
                let ids: Vec<String> = list.iter().map(ReplicaId::to_string).collect();
                format!("({})", ids.join(","))
            };
            facts
                .value("last", show(*last))
                .value("voters", members(&conf_state.voters))
                .value("outgoing", members(&conf_state.outgoing))
                .value("learners", members(&conf_state.learners));
        }
    }
    facts
}
