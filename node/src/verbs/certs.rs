//! `pontoon certs`: the certificates of a new cluster.

use crate::error::Error;
use crate::output::{Output, counted};
use clap::Args;
use pontoon_transport::certs;
use pontoon_types::{ClusterId, NodeId};
use std::path::PathBuf;

/// Make the certificates of a new cluster.
///
/// Writes a certificate authority (ca.pem, ca.key), a certificate and key for every node
/// (node-N.pem, node-N.key) and one for clients (client.pem, client.key). The cluster's id is drawn
/// at random and is part of every name, so certificates of two clusters never mix. Existing files
/// are never overwritten. Give each node ca.pem and its own pair; keep ca.key away from all of them:
/// whoever has it can add nodes.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  pontoon certs --out certs --nodes 1,2,3")]
pub struct CertsArgs {
    /// Directory to write to; made if it is not there.
    #[arg(long, value_name = "DIR")]
    pub out: PathBuf,

    /// Ids of the nodes.
    #[arg(
        long,
        value_name = "N,…",
        value_delimiter = ',',
        required = true,
        value_parser = clap::value_parser!(u64).range(1..)
    )]
    pub nodes: Vec<u64>,

    /// Print the result as JSON.
    #[arg(long)]
    pub json: bool,
}

/// Runs the verb.
///
/// # Errors
/// If the certificates cannot be made or written.
pub fn run(args: &CertsArgs) -> Result<(), Error> {
    let mut nodes: Vec<NodeId> = args.nodes.iter().copied().map(NodeId).collect();
    nodes.sort_unstable();
    if let Some(twice) = nodes.windows(2).find(|pair| pair[0] == pair[1]) {
        return Err(Error::Usage(format!("node {} is named twice", twice[0])));
    }
    let cluster = ClusterId(rand::random());
    certs::generate(cluster, &nodes)?.write_to(&args.out)?;
    let output = Output::new(args.json);
    if args.json {
        let nodes: Vec<u64> = nodes.iter().map(|node| node.0).collect();
        let object = serde_json::json!({
            "cluster": cluster.to_string(),
            "directory": args.out,
            "nodes": nodes,
        });
        return output.line(&object.to_string());
    }
    output.line(&format!(
        "cluster {cluster}: wrote certificates for {} and for clients to {}",
        counted(nodes.len() as u64, "node"),
        args.out.display()
    ))
}
