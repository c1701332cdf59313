//! Forcing groups that have lost their quorum, offline, on a node that still has a replica: `pontoon recover`.
//!
//! - [`mod@plan`]: which groups, decided purely.
//! - [`audit`]: the record of it in the data directory.
//!
//! What is done to a replica, and why the old members can do no harm, is in `pontoon_engine`'s `runtime::recover`.

pub mod audit;
pub mod plan;

use crate::error::Error;
use crate::server::{StoppedNode, open_stopped};
use audit::{AuditEntry, Event};
use plan::{Choice, Decision, GroupPlan, plan};
use pontoon_engine::{EngineError, ReplicaSurvey};
use pontoon_types::{GroupId, NodeId};
use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

/// A stopped node, its replicas looked at, and what is to become of them.
pub struct Recovery {
    data_dir: PathBuf,
    stopped: StoppedNode,
    surveys: Vec<ReplicaSurvey>,
    lost: BTreeSet<NodeId>,
    plans: Vec<GroupPlan>,
}

impl Recovery {
    /// Opens the data directory of a stopped node and plans. `groups` restricts it to some.
    ///
    /// # Errors
    /// If the node runs, its directory cannot be read, or nodes or groups are named that cannot be meant.
    pub fn open(
        data_dir: &Path,
        lost: BTreeSet<NodeId>,
        groups: Option<&BTreeSet<GroupId>>,
    ) -> Result<Self, Error> {
        let mut stopped = open_stopped(data_dir).map_err(Error::Stopped)?;
        let node = stopped.node;
        let surveys = stopped.opened.survey().map_err(failed)?;
        check_named(&stopped, &surveys, &lost, groups)?;
        let choice = Choice {
            node,
            lost: &lost,
            groups,
        };
        let plans = plan(&choice, &surveys);
        Ok(Self {
            data_dir: data_dir.to_owned(),
            stopped,
            surveys,
            lost,
            plans,
        })
    }

    /// The node.
    #[must_use]
    pub const fn node(&self) -> NodeId {
        self.stopped.node
    }

    /// What is to become of each replica, in the order of the groups.
    #[must_use]
    pub fn plans(&self) -> &[GroupPlan] {
        &self.plans
    }

    /// Carries the plan out, each group in one durable step, and notes it in the data directory before and after. If it
    /// is broken off it can be repeated: what was recovered has its quorum then.
    ///
    /// # Errors
    /// If the log cannot be read, the store fails or the record cannot be written.
    pub fn carry_out(&mut self) -> Result<(), Error> {
        self.note(Event::Planned)?;
        for (plan, survey) in self.plans.iter().zip(&self.surveys) {
            if plan.decision == Decision::Recover {
                self.stopped
                    .opened
                    .make_sole_voter(survey)
                    .map_err(failed)?;
            }
        }
        self.note(Event::Done)
    }

    /// Lets the data directory go.
    ///
    /// # Errors
    /// If the log or the store could not be closed.
    pub fn close(self) -> Result<(), Error> {
        self.stopped.opened.close().map_err(failed)
    }

    fn note(&self, event: Event) -> Result<(), Error> {
        let recovered = self.plans.iter();
        let recovered = recovered.filter(|plan| plan.decision == Decision::Recover);
        let entry = AuditEntry {
            event,
            cluster: self.stopped.cluster.to_string(),
            node: self.stopped.node.0,
            lost: self.lost.iter().map(|node| node.0).collect(),
            groups: recovered.map(|plan| plan.standing.clone()).collect(),
            ..AuditEntry::now()
        };
        audit::append(&self.data_dir, &entry)
    }
}

fn failed(source: EngineError) -> Error {
    Error::Stopped(source.into())
}

fn check_named(
    stopped: &StoppedNode,
    surveys: &[ReplicaSurvey],
    lost: &BTreeSet<NodeId>,
    groups: Option<&BTreeSet<GroupId>>,
) -> Result<(), Error> {
    let usage = |text| Err(Error::Usage(text));
    if lost.contains(&stopped.node) {
        return usage(format!(
            "node {} is the one whose data directory this is: it cannot be among --lost",
            stopped.node
        ));
    }
    let members = surveys.iter().flat_map(|survey| survey.members.iter());
    let mut known: BTreeSet<_> = members.map(|(_, node)| node).collect();
    known.extend(&stopped.nodes);
    if let Some(unknown) = lost.difference(&known).next() {
        let known: Vec<_> = known.iter().map(ToString::to_string).collect();
        let known = known.join(", ");
        return usage(format!(
            "--lost names node {unknown}, which is none of this cluster's: {known}"
        ));
    }
    let held: BTreeSet<_> = surveys.iter().map(|survey| survey.record.group).collect();
    if let Some(unknown) = groups.and_then(|groups| groups.difference(&held).next()) {
        return usage(format!(
            "--groups names group {unknown}, of which node {} has no replica",
            stopped.node
        ));
    }
    Ok(())
}
