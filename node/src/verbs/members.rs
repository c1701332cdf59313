//! `pontoon members`: which nodes hold a shard.

use crate::cli::ClusterOptions;
use crate::error::Error;
use crate::output::Output;
use clap::Args;
use pontoon_client::protocol::MemberStep;
use pontoon_types::{NodeId, ShardId};

/// Change which nodes hold a shard, under load.
///
/// All that is given is one change: a single step is made at once, several go through a joint configuration, so that
/// a majority of the old members and one of the new have to agree while it lasts (Raft thesis, section 4.3). The
/// command returns when the change is made. A node that joins gets the shard's state as a snapshot; `pontoon status
/// --json` shows how far it is.
///
/// The safe way to move a replica from node 1 to node 4 is to add it as a learner, wait until it has caught up, and
/// then give it the vote of the other. Replicas that are lost, because their log is damaged, need none of this: they
/// are replaced by themselves.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  pontoon members --shard 7 --add-learner 4
  pontoon members --shard 7 --add 4 --remove 1")]
pub struct MembersArgs {
    /// The shard, as `pontoon status` numbers it.
    #[arg(long, value_name = "SHARD")]
    pub shard: u64,
    /// Give this node a replica that follows without a vote; may be repeated.
    #[arg(long, value_name = "NODE")]
    pub add_learner: Vec<u64>,
    /// Give this node's learner a vote, or the node a replica that has one at once; may be repeated.
    #[arg(long, value_name = "NODE")]
    pub add: Vec<u64>,
    /// Take this node's vote and let it follow on; may be repeated.
    #[arg(long, value_name = "NODE")]
    pub demote: Vec<u64>,
    /// Let this node's replica go; may be repeated.
    #[arg(long, value_name = "NODE")]
    pub remove: Vec<u64>,
    /// Which cluster.
    #[command(flatten)]
    pub cluster: ClusterOptions,
    /// Print the result as JSON.
    #[arg(long)]
    pub json: bool,
}

impl MembersArgs {
    fn steps(&self) -> Vec<MemberStep> {
        let of = |nodes: &[u64], step: fn(NodeId) -> MemberStep| -> Vec<MemberStep> {
            nodes.iter().map(|node| step(NodeId(*node))).collect()
        };
        [
            of(&self.add_learner, MemberStep::AddLearner),
            of(&self.add, MemberStep::AddVoter),
            of(&self.demote, MemberStep::Demote),
            of(&self.remove, MemberStep::Remove),
        ]
        .concat()
    }
}

/// Runs the verb.
///
/// # Errors
/// If nothing is to be changed, the change makes no sense for the present members, or no leader made it in time.
pub async fn run(args: MembersArgs) -> Result<(), Error> {
    let steps = args.steps();
    if steps.is_empty() {
        let text = "say what to change: --add-learner, --add, --demote or --remove NODE";
        return Err(Error::Usage(text.to_owned()));
    }
    let client = args.cluster.connect().await?;
    client.change_members(ShardId(args.shard), &steps).await?;
    Output::new(args.json).outcome("changed")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::{Cli, Verb};
    use clap::Parser;

    #[test]
    fn all_that_is_given_is_one_change() {
        let line =
            "pontoon members --shard 7 --add 4 --remove 1 --demote 2 --endpoints a:1 --certs c";
        let cli = Cli::try_parse_from(line.split(' '));
        let Ok(Verb::Members(args)) = cli.map(|cli| cli.verb) else {
            panic!("the line is right");
        };
        let expected = [
            MemberStep::AddVoter(NodeId(4)),
            MemberStep::Demote(NodeId(2)),
            MemberStep::Remove(NodeId(1)),
        ];
        assert_eq!((args.shard, args.steps()), (7, expected.to_vec()));
    }
}
