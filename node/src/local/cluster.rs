//! The nodes at work: in this process, or in processes of their own.

use super::layout::Layout;
use crate::error::Error;
use crate::server::Server;
use crate::verbs::node::server_config;
use pontoon_types::NodeId;
use rustix::process::{Pid, Signal, kill_process};
use std::collections::BTreeMap;
use std::fs::File;
use std::os::unix::process::ExitStatusExt as _;
use std::process::{ExitStatus, Stdio};
use std::time::Duration;
use tokio::io::{AsyncBufReadExt as _, BufReader};
use tokio::process::{Child, Command};
use tokio::task::JoinSet;

/// How long nodes may take from their start until they are ready.
const START_TIMEOUT: Duration = Duration::from_secs(60);

/// The nodes of a [`Layout`].
#[derive(Debug)]
pub enum Cluster {
    /// In this process.
    Embedded(Vec<(NodeId, Server)>),
    /// In processes of their own, which end with this value.
    Processes(BTreeMap<NodeId, NodeProcess>),
}

/// A node that is a process.
#[derive(Debug)]
pub struct NodeProcess {
    child: Child,
    is_ready: bool,
}

impl Cluster {
    /// Starts all nodes, and returns when they are ready.
    ///
    /// # Errors
    /// If one does not get ready.
    ///
    /// # Panics
    /// If starting one does.
    pub async fn start(layout: &Layout, as_processes: bool) -> Result<Self, Error> {
        if as_processes {
            let mut processes = BTreeMap::new();
            for (node, _) in &layout.nodes {
                processes.insert(*node, NodeProcess::spawn(layout, *node)?);
            }
            let mut cluster = Self::Processes(processes);
            cluster.wait_until_ready(layout).await?;
            return Ok(cluster);
        }
        // All at once: at first start each waits for the others.
        let mut starting = JoinSet::new();
        for (node, _) in &layout.nodes {
            let (node, config) = (*node, server_config(layout.settings(*node))?);
            starting.spawn(async move { (node, Server::start(config).await) });
        }
        let mut servers = Vec::new();
        while let Some(started) = starting.join_next().await {
            let (node, server) = started.expect("starting a node does not panic");
            let server = server.map_err(|source| Error::Server {
                node: node.0,
                source,
            })?;
            servers.push((node, server));
        }
        servers.sort_by_key(|(node, _)| *node);
        Ok(Self::Embedded(servers))
    }

    /// Kills a node that is a process: no warning, no draining.
    ///
    /// # Errors
    /// If the system does not let us, or the node had ended by itself before; with its last words.
    pub async fn kill(&mut self, layout: &Layout, node: NodeId) -> Result<(), Error> {
        if let Self::Processes(processes) = self
            && let Some(mut process) = processes.remove(&node)
        {
            // Of one that is gone already nothing can be signalled, and its status says how it went.
            let _ = process.child.start_kill();
            let status = process.child.wait().await;
            let status = status.map_err(|source| Error::System {
                action: "kill a node",
                source,
            })?;
            if status.signal() != Some(Signal::KILL.as_raw()) {
                return Err(ended_by_itself(layout, node, status));
            }
        }
        Ok(())
    }

    /// The process of a node that has one.
    #[must_use]
    pub fn process_id(&self, node: NodeId) -> Option<u32> {
        match self {
            Self::Embedded(_) => None,
            Self::Processes(processes) => processes.get(&node)?.child.id(),
        }
    }

    /// Makes a node that is a process stand still, in the middle of whatever it does, or go on.
    ///
    /// # Errors
    /// If the system does not let us.
    pub fn suspend(&self, node: NodeId, stands_still: bool) -> Result<(), Error> {
        let id = self.process_id(node);
        let Some(id) = id.and_then(|id| Pid::from_raw(id as i32)) else {
            return Ok(());
        };
        let signal = if stands_still {
            Signal::STOP
        } else {
            Signal::CONT
        };
        kill_process(id, signal).map_err(|source| Error::System {
            action: "suspend a node",
            source: source.into(),
        })
    }

    /// Whether no process has ended that nobody has killed.
    ///
    /// # Errors
    /// If one has; with its last words.
    pub fn is_whole(&mut self, layout: &Layout) -> Result<(), Error> {
        if let Self::Processes(processes) = self {
            for (node, process) in processes {
                if let Ok(Some(status)) = process.child.try_wait() {
                    return Err(ended_by_itself(layout, *node, status));
                }
            }
        }
        Ok(())
    }

    /// Starts a node again that was killed; it is ready some time later.
    ///
    /// # Errors
    /// If there can be no process.
    pub fn start_again(&mut self, layout: &Layout, node: NodeId) -> Result<(), Error> {
        if let Self::Processes(processes) = self {
            processes.insert(node, NodeProcess::spawn(layout, node)?);
        }
        Ok(())
    }

    /// Waits until all processes have said that they are ready.
    ///
    /// # Errors
    /// If one ended or took too long; with its last words.
    pub async fn wait_until_ready(&mut self, layout: &Layout) -> Result<(), Error> {
        if let Self::Processes(processes) = self {
            for (node, process) in processes {
                process.wait_until_ready(layout, *node).await?;
            }
        }
        Ok(())
    }

    /// Stops all nodes: those in this process drain, processes are killed.
    ///
    /// # Errors
    /// If one in this process fails at it.
    pub async fn stop(self) -> Result<(), Error> {
        match self {
            Self::Embedded(servers) => {
                let mut stopping = JoinSet::new();
                for (node, server) in servers {
                    stopping.spawn(async move { (node, server.shutdown().await) });
                }
                for (node, stopped) in stopping.join_all().await {
                    let node = node.0;
                    stopped.map_err(|source| Error::Server { node, source })?;
                }
            }
            Self::Processes(mut processes) => {
                // All signals first, so that no node sees another one go.
                for process in processes.values_mut() {
                    // It may have ended by itself, which shows in what follows.
                    let _ = process.child.start_kill();
                }
                for process in processes.values_mut() {
                    let _ = process.child.wait().await;
                }
            }
        }
        Ok(())
    }
}

impl NodeProcess {
    fn spawn(layout: &Layout, node: NodeId) -> Result<Self, Error> {
        let starting = |source| Error::System {
            action: "start a node's process",
            source,
        };
        let log = layout.directory().join(log_name(node));
        let stderr = File::options()
            .create(true)
            .append(true)
            .open(&log)
            .map_err(Error::file("write", log))?;
        let settings = layout.settings(node);
        let mut command = Command::new(std::env::current_exe().map_err(starting)?);
        command.arg("node").arg("--until-stdin-ends");
        command.arg("--id").arg(node.to_string());
        command.arg("--peers").arg(layout.peers());
        for (flag, path) in [
            ("--data-dir", settings.data_dir),
            ("--certs", settings.certs),
            ("--split-sample", settings.split_sample),
        ] {
            if let Some(path) = path {
                command.arg(flag).arg(path);
            }
        }
        if let Some(listen) = settings.listen {
            command.arg("--listen").arg(listen.to_string());
        }
        if let Some(shards) = settings.shards {
            command.arg("--shards").arg(shards.to_string());
        }
        if let Some(path) = layout.settings_file() {
            command.arg("--config").arg(path);
        }
        let child = command
            // Ends with this process, however that ends, and the node with it.
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(stderr)
            .kill_on_drop(true)
            .spawn()
            .map_err(starting)?;
        Ok(Self {
            child,
            is_ready: false,
        })
    }

    /// Waits for the line that says so.
    async fn wait_until_ready(&mut self, layout: &Layout, node: NodeId) -> Result<(), Error> {
        if self.is_ready {
            return Ok(());
        }
        let Some(stdout) = self.child.stdout.take() else {
            return Err(not_ready(layout, node));
        };
        let mut lines = BufReader::new(stdout).lines();
        let line = tokio::time::timeout(START_TIMEOUT, lines.next_line()).await;
        match line {
            Ok(Ok(Some(line))) if line.contains("ready") => self.is_ready = true,
            _ => return Err(not_ready(layout, node)),
        }
        Ok(())
    }
}

fn log_name(node: NodeId) -> String {
    format!("node-{node}.log")
}

/// A node did not get ready; its last words say why.
fn not_ready(layout: &Layout, node: NodeId) -> Error {
    let last = last_words(layout, node);
    Error::Unhealthy(format!("node {node} did not get ready: {last}"))
}

fn ended_by_itself(layout: &Layout, node: NodeId, status: ExitStatus) -> Error {
    let last = last_words(layout, node);
    Error::Unhealthy(format!("node {node} ended by itself ({status}): {last}"))
}

fn last_words(layout: &Layout, node: NodeId) -> String {
    let log = std::fs::read_to_string(layout.directory().join(log_name(node)));
    let log = log.unwrap_or_default();
    // What follows the message of a panic says where it came from, not what it is.
    let panic = log.rfind("panicked at").map(|at| &log[at..]);
    let of_panic = panic.map(|text| text.lines().take(2).collect::<Vec<_>>().join(" "));
    let last = of_panic.or_else(|| log.lines().last().map(str::to_owned));
    last.unwrap_or_else(|| "it said nothing".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn cluster_of(program: &str) -> Cluster {
        let mut command = Command::new(program);
        let child = command.kill_on_drop(true).arg("60").spawn().unwrap();
        let is_ready = true;
        let process = NodeProcess { child, is_ready };
        Cluster::Processes(BTreeMap::from([(NodeId(1), process)]))
    }

    #[tokio::test]
    async fn who_ended_by_itself_was_not_killed() {
        let layout = Layout::make(None, 1, 1, Vec::new()).unwrap();
        let mut cluster = cluster_of("sleep");
        cluster.kill(&layout, NodeId(1)).await.unwrap();
        let mut cluster = cluster_of("false");
        while cluster.is_whole(&layout).is_ok() {
            tokio::task::yield_now().await;
        }
        let killed = cluster.kill(&layout, NodeId(1)).await;
        assert!(killed.unwrap_err().to_string().contains("ended by itself"));
    }
}
