//! S11: memory and log space are bounded by settings.
//!
//! A worker that has too much at the disk, to be synced or applied, takes no more until that has gone
//! down; and the log's files never need more than the log's bound with what it keeps beside it.

use super::{Checked, Invariant, Violation};
use pontoon_types::NodeId;

/// What a worker may still lay while it is over its bound: empty entries of new leaders, hard states,
/// compactions; per group.
const OVERHEAD_BYTES: u64 = 512;

/// The settings that bound a node.
#[derive(Clone, Copy, Debug)]
pub struct Bounds {
    /// Bytes of a worker that may wait to be synced, or to be applied.
    pub backlog_bytes: u64,
    /// Bytes that the log's files may have together.
    pub log_bytes: u64,
    /// Groups of a node.
    pub groups: u64,
}

impl Bounds {
    /// A worker to which `waiting` bytes were owed when its cycle began hands `laid` bytes to the log.
    ///
    /// # Errors
    /// If it was over its bound and took more all the same.
    pub fn cycle(&self, node: NodeId, worker: usize, waiting: u64, laid: u64) -> Checked {
        if waiting <= self.backlog_bytes || laid <= OVERHEAD_BYTES * (self.groups + 1) {
            return Ok(());
        }
        let what = format!(
            "worker {worker} of node {node} takes {laid} more bytes, while {waiting} wait for the disk and \
             {} may",
            self.backlog_bytes
        );
        Err(Violation::new(Invariant::S11, what))
    }

    /// The files of a node's log have so many bytes.
    ///
    /// # Errors
    /// If that is more than they may.
    pub fn files(&self, node: NodeId, bytes: u64) -> Checked {
        if bytes <= self.log_bytes {
            return Ok(());
        }
        let what = format!(
            "the log of node {node} has {bytes} bytes, and may have {}",
            self.log_bytes
        );
        Err(Violation::new(Invariant::S11, what))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::invariants::broken;

    #[test]
    fn a_worker_that_takes_more_than_it_may_and_a_log_that_grows_are_found() {
        let bounds = Bounds {
            backlog_bytes: 10_000,
            log_bytes: 50_000,
            groups: 1,
        };
        let node = NodeId(1);
        assert_eq!(bounds.cycle(node, 0, 10_000, 90_000), Ok(()));
        assert_eq!(bounds.cycle(node, 0, 10_001, 100), Ok(()));
        assert_eq!(
            broken(&bounds.cycle(node, 0, 10_001, 90_000)),
            Invariant::S11
        );
        assert_eq!(bounds.files(node, 50_000), Ok(()));
        assert_eq!(broken(&bounds.files(node, 50_001)), Invariant::S11);
    }
}
