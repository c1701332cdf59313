//! `pontoon recover`: go on with what one node has, when a majority is lost for good.

use crate::error::Error;
use crate::output::{Output, agreeing, counted, table};
use crate::recovery::Recovery;
use crate::recovery::plan::{Decision, GroupPlan, Standing};
use clap::Args;
use pontoon_types::{GroupId, NodeId};
use serde_json::json;
use std::collections::BTreeSet;
use std::path::PathBuf;

/// Go on with what one node has, when a majority is lost for good. LOSES DATA.
///
/// For groups that cannot elect a leader any more, because the nodes named with --lost will never come back. Run it on the
/// data directory of a STOPPED node that is left: its replica of each such group becomes the group's only voter, and all
/// that is in its log counts as committed. Groups that still have a quorum are left alone.
///
/// First have all nodes that are left up and see `pontoon status`: only shards that have no leader then may be recovered.
///
/// What is lost: every write that the lost nodes had acknowledged among themselves and this node had not received. What may
/// be there although nobody was told so: writes that were under way.
///
/// If other nodes have a replica of a group too, only ONE of them may be recovered: the one with the most complete log, which
/// is the one with the highest last term and, among those, the highest last index. Run --dry-run on each, compare,
/// and name the group with --groups on that node alone. The replicas of the others leave when they hear of it.
///
/// The lost nodes must NEVER be started again with their old data. What was done is kept in DIR/recover.log, and
/// `pontoon status` says which shards were recovered by force.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  pontoon recover --data-dir n1 --lost 2,3 --dry-run
  pontoon recover --data-dir n1 --lost 2,3 --i-accept-data-loss
  pontoon recover --data-dir n1 --lost 3,4,5 --groups 3,7 --i-accept-data-loss

Exit codes: 0 done, or shown with --dry-run; 1 not done, or a group stays without a quorum;
2 wrong usage, or a plan that was not accepted.")]
pub struct RecoverArgs {
    /// Data directory of the stopped node that is left.
    #[arg(long, value_name = "DIR")]
    pub data_dir: PathBuf,
    /// Nodes that will never come back.
    #[arg(
        long,
        value_name = "NODE,…",
        value_delimiter = ',',
        required = true,
        num_args = 1
    )]
    pub lost: Vec<u64>,
    /// Recover only these groups; needed for those of which other nodes have a replica too.
    #[arg(long, value_name = "GROUP,…", value_delimiter = ',', num_args = 1)]
    pub groups: Option<Vec<u64>>,
    /// Show what would be done, and do nothing.
    #[arg(long, conflicts_with = "i_accept_data_loss")]
    pub dry_run: bool,
    /// Do it: what the lost nodes knew alone is gone for good.
    #[arg(long)]
    pub i_accept_data_loss: bool,
    /// Print the result as JSON, on the last line.
    #[arg(long)]
    pub json: bool,
}

/// Runs the verb.
///
/// # Errors
/// If the node runs, its data cannot be read, the plan was not accepted, or a group that was meant stays as it is.
pub fn run(args: &RecoverArgs) -> Result<(), Error> {
    super::start_logging(None, "error")?;
    let lost: BTreeSet<_> = args.lost.iter().copied().map(NodeId).collect();
    let groups = args.groups.as_ref();
    let groups: Option<BTreeSet<_>> =
        groups.map(|groups| groups.iter().copied().map(GroupId).collect());
    let mut recovery = Recovery::open(&args.data_dir, lost, groups.as_ref())?;
    let node = recovery.node();
    let plans = recovery.plans().to_vec();
    let is_planned = |plan: &&GroupPlan| plan.decision == Decision::Recover;
    let planned = plans.iter().filter(is_planned).count();
    let refused = groups.is_some().then(|| refusal(&plans)).flatten();
    let is_wanted = args.i_accept_data_loss && planned > 0 && refused.is_none();
    let done = if is_wanted {
        recovery.carry_out()
    } else {
        Ok(())
    };
    let closed = recovery.close();
    done.and(closed)?;
    let output = Output::new(args.json);
    if args.json {
        output.json(&json!({
            "node": node.0,
            "lost": args.lost,
            "recovered": if is_wanted { planned } else { 0 },
            "planned": planned,
            "groups": plans.iter().map(to_json).collect::<Vec<_>>(),
        }))?;
    } else {
        output.line(&to_text(&plans))?;
        let word = if is_wanted { "recovered" } else { "to recover" };
        output.line(&format!(
            "\nnode {node}: {planned} of {} {word}",
            counted(plans.len() as u64, "group")
        ))?;
    }
    if let Some(refusal) = refused {
        return Err(refusal);
    }
    if args.dry_run {
        return Ok(());
    }
    if planned > 0 && !is_wanted {
        return Err(Error::Usage(
            "nothing was done: --i-accept-data-loss carries the plan out".to_owned(),
        ));
    }
    let undone = plans.iter().filter(|plan| plan.decision.leaves_undone());
    match (undone.count(), planned) {
        (0, 0) => Err(Error::Unhealthy(
            "nothing was done: no group here has lost its quorum with these nodes".to_owned(),
        )),
        (0, _) => Ok(()),
        (undone, _) => Err(Error::Unhealthy(format!(
            "{} {}, though {} may have no quorum; the plan says why",
            counted(undone as u64, "group"),
            agreeing(undone, "stays as it is", "stay as they are"),
            agreeing(undone, "it", "they"),
        ))),
    }
}

/// Whoever names a group means it: nothing is done if one cannot be recovered.
fn refusal(plans: &[GroupPlan]) -> Option<Error> {
    let is_refused =
        |plan: &&GroupPlan| !matches!(plan.decision, Decision::Recover | Decision::NotNamed);
    plans.iter().find(is_refused).map(|plan| {
        let (group, decision) = (plan.standing.group, &plan.decision);
        Error::Unhealthy(format!(
            "nothing was done: group {group} cannot be recovered here: {decision}"
        ))
    })
}

fn to_json(plan: &GroupPlan) -> serde_json::Value {
    let mut object = json!(plan.standing);
    object["decision"] = plan.decision.name().into();
    object["reason"] = plan.decision.to_string().into();
    object
}

fn to_text(plans: &[GroupPlan]) -> String {
    let header = [
        "group",
        "shard",
        "members",
        "term",
        "last term",
        "last",
        "commit",
        "applied",
        "plan",
    ];
    let rows = plans.iter().map(|plan| {
        let standing = &plan.standing;
        vec![
            standing.group.to_string(),
            standing.shard.to_string(),
            members(standing),
            standing.term.to_string(),
            standing.last_term.to_string(),
            standing.last.to_string(),
            standing.commit.to_string(),
            standing.applied.to_string(),
            plan.decision.to_string(),
        ]
    });
    table(&header, rows.collect())
}

/// The nodes of the members; those without a vote in brackets.
fn members(standing: &Standing) -> String {
    let names = standing.members.iter().map(|member| {
        let node = member.node.map_or("?".to_owned(), |node| node.to_string());
        match (member.voter, member.outgoing) {
            (true, _) => node,
            (false, true) => format!("{node} leaving"),
            (false, false) => format!("({node})"),
        }
    });
    names.collect::<Vec<_>>().join(" ")
}
