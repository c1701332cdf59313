//! The facts that each kind of observation is made of: an expectation that names another is an error.

use super::facts::Vocabulary;
use super::message;

pub(crate) const OUTCOME: Vocabulary = Vocabulary {
    flags: &[
        "ok",
        "refused",
        "not-leader",
        "overloaded",
        "too-large",
        "pending",
        "term-not-committed",
        "invalid",
        "stopped",
        "malformed",
        "misdirected",
        "two-leaders",
        "committed-conflict",
        "log-lost",
        "commit-past-log",
        "quarantined",
        "zero-setting",
        "heartbeat-too-slow",
        "inconsistent-terms",
        "term-behind-log",
        "applied-outside-log",
        "impossible-members",
        "transferring",
        "leads-already",
        "learner",
        "not-member",
        "lease-without-check-quorum",
        "impossible-drift",
    ],
    keys: &[
        "at",
        "lead",
        "to",
        "index",
        "uncommitted",
        "limit",
        "waiting",
        "acknowledged",
        "last",
    ],
};
/// An answer, or that there is none.
pub(crate) const ANSWER: Vocabulary = Vocabulary {
    flags: &[
        "silent",
        "stopped",
        "malformed",
        "two-leaders",
        "committed-conflict",
        "log-lost",
        "append",
        "append-response",
        "append-rejected",
        "heartbeat",
        "heartbeat-response",
        "request-vote",
        "vote-response",
        "pre",
        "granted",
        "install-snapshot",
        "timeout-now",
        "read-index",
        "read-index-response",
        "refused",
    ],
    keys: &[
        "term",
        "incarnation",
        "committed",
        "matched",
        "rejected",
        "hint",
        "round",
        "index",
        "acknowledged",
        "last",
        "lead",
    ],
};
pub(crate) const STATE: Vocabulary = Vocabulary {
    flags: &[
        "leader",
        "follower",
        "candidate",
        "pre-candidate",
        "stopped",
        "down",
        "idle",
        "lease",
    ],
    keys: &[
        "term",
        "vote",
        "lead",
        "commit",
        "applied",
        "durable",
        "first",
        "last",
        "uncommitted",
        "cached",
        "voters",
        "outgoing",
        "learners",
        "transferee",
    ],
};
pub(crate) const STATUS: Vocabulary = Vocabulary {
    flags: &["probe", "pipeline", "snapshot"],
    keys: &["match", "inflight", "inflight-bytes"],
};
pub(crate) const DISK: Vocabulary = Vocabulary {
    flags: &[],
    keys: &[
        "term",
        "vote",
        "commit",
        "applied",
        "last",
        "pending",
        "overwritten",
    ],
};
pub(crate) const READS: Vocabulary = Vocabulary {
    flags: &["answered", "refused", "waiting"],
    keys: &["index"],
};
pub(crate) const WRITES: Vocabulary = Vocabulary {
    flags: &[],
    keys: &["acknowledged", "open", "lost", "partial"],
};
pub(crate) const COUNT: Vocabulary = Vocabulary {
    flags: &[],
    keys: &["count"],
};
pub(crate) const MESSAGE: Vocabulary = Vocabulary {
    flags: message::FLAGS,
    keys: message::KEYS,
};
