//! Where the nodes live: directories, certificates, ports and borders of shards.

use crate::config::NodeSettings;
use crate::error::Error;
use crate::formats::Format;
use bytes::Bytes;
use pontoon_transport::certs;
use pontoon_types::{ClusterId, NodeId};
use std::net::{SocketAddr, UdpSocket};
use std::path::{Path, PathBuf};
use std::time::Duration;
use tempfile::TempDir;

/// The plan of a cluster.
#[derive(Debug)]
pub struct Layout {
    directory: PathBuf,
    /// Removes the directory at the end, if it was ours to make.
    temporary: Option<TempDir>,
    /// The nodes, and where they listen.
    pub nodes: Vec<(NodeId, SocketAddr)>,
    shards: usize,
    sample: Vec<Bytes>,
    /// Settings beside those that the layout decides, and the file they stand in.
    more: Option<(NodeSettings, PathBuf)>,
}

impl Layout {
    /// Makes directories and certificates, and finds free ports. Without `data_dir` a temporary directory
    /// is taken, which goes with this value; one that is given must be empty and is kept. The key space is
    /// cut where `sample` says that the keys are.
    ///
    /// # Errors
    /// If the directory has something in it, or what belongs there cannot be written.
    pub fn make(
        data_dir: Option<&Path>,
        nodes: u64,
        shards: usize,
        sample: Vec<Bytes>,
    ) -> Result<Self, Error> {
        let (directory, temporary) = match data_dir {
            Some(given) => (empty_directory(given)?, None),
            None => {
                let temporary = temporary_directory()?;
                (temporary.path().to_owned(), Some(temporary))
            }
        };
        let nodes: Vec<NodeId> = (1..=nodes).map(NodeId).collect();
        let layout = Self {
            nodes: nodes
                .iter()
                .copied()
                .zip(free_ports(nodes.len())?)
                .collect(),
            directory,
            temporary,
            shards,
            sample,
            more: None,
        };
        certs::generate(ClusterId(rand::random()), &nodes)?.write_to(&layout.certs())?;
        layout.write_sample()?;
        Ok(layout)
    }

    /// Has the nodes take these settings too, as a node's TOML file would have them; the layout's own win.
    ///
    /// # Errors
    /// If they make no sense, or cannot be written down.
    pub fn with_settings(mut self, toml: &str) -> Result<Self, Error> {
        let path = self.directory.join("node.toml");
        std::fs::write(&path, toml).map_err(Error::file("write", &path))?;
        self.more = Some((NodeSettings::from_file(&path)?, path));
        Ok(self)
    }

    /// The keys to cut at go through a file, because nodes may be processes of their own.
    fn write_sample(&self) -> Result<(), Error> {
        let path = self.sample_file();
        let mut text = Vec::new();
        for key in &self.sample {
            Format::Ndjson
                .write(&mut text, key, b"")
                .map_err(Error::file("write", &path))?;
        }
        std::fs::write(&path, text).map_err(Error::file("write", &path))
    }

    /// Where everything is.
    #[must_use]
    pub fn directory(&self) -> &Path {
        &self.directory
    }

    /// The directory of the certificates.
    #[must_use]
    pub fn certs(&self) -> PathBuf {
        self.directory.join("certs")
    }

    fn sample_file(&self) -> PathBuf {
        self.directory.join("split-sample.ndjson")
    }

    fn node_directory(&self, node: NodeId) -> PathBuf {
        self.directory.join(format!("node-{node}"))
    }

    /// Where clients find the nodes.
    #[must_use]
    pub fn endpoints(&self) -> Vec<String> {
        self.nodes
            .iter()
            .map(|(_, address)| address.to_string())
            .collect()
    }

    /// `1=127.0.0.1:40001,…`
    pub(super) fn peers(&self) -> String {
        let peers = self
            .nodes
            .iter()
            .map(|(node, address)| format!("{node}={address}"));
        peers.collect::<Vec<_>>().join(",")
    }

    /// The settings of a node, the same whether it runs here or in a process of its own.
    pub(super) fn settings(&self, node: NodeId) -> NodeSettings {
        let more = self.more.as_ref().map(|(more, _)| more.clone());
        let address = self.nodes.iter().find(|(id, _)| *id == node);
        NodeSettings {
            id: Some(node.0),
            data_dir: Some(self.node_directory(node)),
            listen: address.map(|(_, address)| *address),
            certs: Some(self.certs()),
            peers: self.peers().parse().ok(),
            shards: Some(self.shards),
            split_sample: Some(self.sample_file()),
            ..NodeSettings::default()
        }
        .or(more.unwrap_or_default())
    }

    /// The file of the settings beside the layout's own.
    pub(super) fn settings_file(&self) -> Option<&Path> {
        self.more.as_ref().map(|(_, path)| path.as_path())
    }

    /// Waits until the nodes' ports are free again: a socket goes with the last task that uses it,
    /// which may be a moment after its node has stopped.
    pub async fn wait_for_ports(&self) {
        let is_free = |(_, address): &(NodeId, SocketAddr)| UdpSocket::bind(address).is_ok();
        for _ in 0..500 {
            if self.nodes.iter().all(is_free) {
                return;
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }

    /// Keeps the directory, so that somebody can look at it.
    pub fn keep(&mut self) -> &Path {
        if let Some(temporary) = self.temporary.take() {
            let _ = temporary.keep();
        }
        &self.directory
    }
}

fn empty_directory(path: &Path) -> Result<PathBuf, Error> {
    std::fs::create_dir_all(path).map_err(Error::file("create", path))?;
    let mut entries = path.read_dir().map_err(Error::file("read", path))?;
    if entries.next().is_some() {
        return Err(Error::Usage(format!(
            "--data-dir {} is not empty; a demo begins with an empty cluster",
            path.display()
        )));
    }
    path.canonicalize().map_err(Error::file("find", path))
}

/// A directory on a disk that syncs: where temporary files are kept in memory, the current directory
/// is taken instead, because a sync that costs nothing would prove nothing.
fn temporary_directory() -> Result<TempDir, Error> {
    let usual = std::env::temp_dir();
    let place = if is_in_memory(&usual) {
        PathBuf::from(".")
    } else {
        usual
    };
    let place = place.canonicalize().map_err(Error::file("find", &place))?;
    tempfile::Builder::new()
        .prefix("pontoon-demo-")
        .tempdir_in(&place)
        .map_err(Error::file("create a directory in", place))
}

fn is_in_memory(path: &Path) -> bool {
    /// `TMPFS_MAGIC` and `RAMFS_MAGIC` of Linux' `statfs(2)`.
    const IN_MEMORY: [u32; 2] = [0x0102_1994, 0x8584_58F6];
    rustix::fs::statfs(path).is_ok_and(|system| IN_MEMORY.contains(&(system.f_type as u32)))
}

/// Ports that were free a moment ago. All are held until the last is found, so that they differ.
fn free_ports(count: usize) -> Result<Vec<SocketAddr>, Error> {
    let sockets = (0..count)
        .map(|_| UdpSocket::bind("127.0.0.1:0"))
        .collect::<Result<Vec<_>, _>>();
    sockets
        .and_then(|sockets| sockets.iter().map(UdpSocket::local_addr).collect())
        .map_err(|source| Error::System {
            action: "find free ports on 127.0.0.1",
            source,
        })
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::HashSet;

    #[test]
    fn a_layout_is_complete_and_removed_at_the_end() {
        let sample = vec![Bytes::from_static(b"\xff"), Bytes::from_static(b"a")];
        let layout = Layout::make(None, 3, 2, sample).unwrap();
        let directory = layout.directory().to_owned();
        assert!(layout.certs().join("node-3.key").exists());
        let ports: HashSet<_> = layout
            .nodes
            .iter()
            .map(|(_, address)| address.port())
            .collect();
        assert_eq!(ports.len(), 3);
        let config = crate::verbs::node::server_config(layout.settings(NodeId(2))).unwrap();
        assert_eq!(config.listen, layout.nodes[1].1);
        assert_eq!(config.split_keys.unwrap(), [&b"\xff"[..]]);
        let layout = layout.with_settings("lease-reads = true").unwrap();
        assert_eq!(layout.settings(NodeId(2)).lease_reads, Some(true));
        assert!(layout.settings_file().unwrap().exists());
        drop(layout);
        assert!(!directory.exists());
    }

    #[test]
    fn a_directory_with_something_in_it_is_refused_and_a_given_one_is_kept() {
        let place = tempfile::tempdir().unwrap();
        let given = place.path().join("data");
        drop(Layout::make(Some(&given), 1, 1, vec![Bytes::from_static(b"a")]).unwrap());
        assert!(given.exists());
        let error = Layout::make(Some(&given), 1, 1, Vec::new()).unwrap_err();
        assert!(error.to_string().contains("is not empty"), "{error}");
    }
}
