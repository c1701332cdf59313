//! A whole cluster on this machine: for the demo, and for those who try what a cluster survives.

mod cluster;
mod layout;

pub use cluster::{Cluster, NodeProcess};
pub use layout::Layout;
