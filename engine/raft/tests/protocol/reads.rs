//! What the scenarios leave out about reads. That every answered read sees all that was acknowledged before
//! it is checked by the harness (S8).

use crate::harness::Cluster;

fn answered(cluster: &Cluster, id: u64) -> Vec<u64> {
    cluster
        .node(id)
        .reads
        .iter()
        .map(|read| read.context)
        .collect()
}

#[test]
fn a_lone_voter_confirms_its_reads_by_itself() {
    let mut cluster = Cluster::fresh(1);
    cluster.campaign(1);
    cluster.settle();
    cluster.read_index(1, 7).unwrap();
    cluster.process(1);
    assert_eq!(answered(&cluster, 1), [7]);
}
