//! What came of an entry.

use bytes::Bytes;
use pontoon_types::{ConfState, LogIndex};

/// What an entry did, or why it did nothing. The same on every replica.
///
/// Whatever it says, the entry has been applied and its group's applied index has moved past it; only
/// [`Outcome::AlreadyApplied`] has changed nothing at all.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// The entry holds nothing for the state machine.
    None,
    /// A mark: it changed nothing, and stands at this index.
    Marked(LogIndex),
    /// The group has these members from here on.
    MembersChanged(ConfState),
    /// A change of members that makes no sense for those that there are. Nothing was changed.
    MembersUnchanged,
    /// All mutations were made.
    Written,
    /// The expected value was there, and the new one is.
    Swapped,
    /// Another value was there, and still is.
    NotSwapped {
        /// The value; `None`: there was none.
        actual: Option<Bytes>,
    },
    /// The command was routed by another range epoch, or to another shard. Nothing was changed.
    StaleEpoch,
    /// A key is outside the shard's range. Nothing was changed, not for other keys either.
    OutOfRange,
    /// The payload is not a command that can be executed. Nothing was changed.
    Malformed,
    /// What a state machine other than the key-value store says of a command.
    Answered(Bytes),
    /// The entry was applied before, in this life of the process or an earlier one. It was skipped
    /// (S10); what came of it then is not known here.
    AlreadyApplied,
}
