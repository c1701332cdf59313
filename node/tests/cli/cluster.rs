//! A cluster of real processes for tests: the binary, its directories, its certificates.

use std::net::UdpSocket;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

/// The binary under test.
pub(crate) fn pontoon() -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_pontoon"));
    command.env_remove("PONTOON_ENDPOINTS");
    command.env_remove("PONTOON_CERTS");
    command
}

/// Runs the binary to its end.
pub(crate) fn run(args: &[&str]) -> Output {
    pontoon().args(args).output().unwrap()
}

/// What was printed, if all went well.
#[track_caller]
pub(crate) fn stdout(output: &Output) -> String {
    assert!(output.status.success(), "{output:?}");
    String::from_utf8(output.stdout.clone()).unwrap()
}

/// The one line that says what went wrong.
#[track_caller]
pub(crate) fn error_line(output: &Output) -> String {
    error_line_of(output, 1)
}

/// The same, of arguments or settings that are wrong.
#[track_caller]
pub(crate) fn usage_line(output: &Output) -> String {
    error_line_of(output, 2)
}

#[track_caller]
fn error_line_of(output: &Output, exit_code: i32) -> String {
    assert_eq!(output.status.code(), Some(exit_code), "{output:?}");
    let stderr = String::from_utf8(output.stderr.clone()).unwrap();
    let errors: Vec<&str> = stderr
        .lines()
        .filter(|line| line.starts_with("error: "))
        .collect();
    assert_eq!(errors.len(), 1, "{stderr}");
    assert_eq!(stderr.lines().last(), Some(errors[0]), "{stderr}");
    assert!(
        !stderr.contains("panicked") && !stderr.contains("backtrace"),
        "{stderr}"
    );
    errors[0].to_owned()
}

/// Three nodes.
pub(crate) struct Cluster {
    pub(crate) dir: tempfile::TempDir,
    ports: Vec<u16>,
    nodes: Vec<Option<Child>>,
    extra: Vec<String>,
}

impl Cluster {
    /// Makes certificates and starts three nodes with these additional flags.
    pub(crate) fn start(extra: &[&str]) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let certs = dir.path().join("certs");
        let made = run(&[
            "certs",
            "--out",
            certs.to_str().unwrap(),
            "--nodes",
            "1,2,3",
        ]);
        assert!(made.status.success(), "{made:?}");
        let sockets: Vec<UdpSocket> = (0..3)
            .map(|_| UdpSocket::bind("127.0.0.1:0").unwrap())
            .collect();
        let ports = sockets
            .iter()
            .map(|socket| socket.local_addr().unwrap().port())
            .collect();
        drop(sockets);
        let mut cluster = Self {
            dir,
            ports,
            nodes: vec![None, None, None],
            extra: extra.iter().map(|flag| (*flag).to_owned()).collect(),
        };
        for node in 1..=3 {
            cluster.spawn(node);
        }
        cluster.wait_until_whole();
        cluster
    }

    pub(crate) fn certs(&self) -> PathBuf {
        self.dir.path().join("certs")
    }

    pub(crate) fn node_dir(&self, node: usize) -> PathBuf {
        self.dir.path().join(format!("n{node}"))
    }

    pub(crate) fn address(&self, node: usize) -> String {
        format!("127.0.0.1:{}", self.ports[node - 1])
    }

    pub(crate) fn peers(&self) -> String {
        let peers: Vec<String> = (1..=3)
            .map(|node| format!("{node}={}", self.address(node)))
            .collect();
        peers.join(",")
    }

    /// The command of a node, with its own settings.
    pub(crate) fn node_command(&self, node: usize) -> Command {
        let mut command = pontoon();
        command
            .arg("node")
            .args(["--id", &node.to_string(), "--listen", &self.address(node)])
            .arg("--data-dir")
            .arg(self.node_dir(node))
            .arg("--certs")
            .arg(self.certs())
            .args(["--peers", &self.peers(), "--segment-bytes", "4MiB"])
            .args(&self.extra);
        command
    }

    /// Starts a node, and does not wait for it.
    pub(crate) fn spawn(&mut self, node: usize) {
        let log = std::fs::File::options()
            .create(true)
            .append(true)
            .open(self.dir.path().join(format!("n{node}.log")))
            .unwrap();
        let child = self
            .node_command(node)
            .stdout(Stdio::null())
            .stderr(log)
            .spawn()
            .unwrap();
        self.nodes[node - 1] = Some(child);
    }

    /// SIGKILL.
    pub(crate) fn kill(&mut self, node: usize) {
        if let Some(mut child) = self.nodes[node - 1].take() {
            child.kill().unwrap();
            child.wait().unwrap();
        }
    }

    /// SIGTERM, and waits for the end.
    pub(crate) fn terminate(&mut self, node: usize) {
        let mut child = self.nodes[node - 1].take().unwrap();
        let pid = child.id().to_string();
        assert!(
            Command::new("kill")
                .args(["-TERM", &pid])
                .status()
                .unwrap()
                .success()
        );
        let status = child.wait().unwrap();
        assert!(status.success(), "{status}: {}", self.log(node));
    }

    pub(crate) fn log(&self, node: usize) -> String {
        std::fs::read_to_string(self.dir.path().join(format!("n{node}.log"))).unwrap_or_default()
    }

    /// A verb with the options of this cluster.
    pub(crate) fn command(&self, args: &[&str]) -> Command {
        let mut command = pontoon();
        let endpoints: Vec<String> = (1..=3).map(|node| self.address(node)).collect();
        command
            .args(args)
            .args(["--endpoints", &endpoints.join(",")])
            .arg("--certs")
            .arg(self.certs());
        command
    }

    pub(crate) fn run(&self, args: &[&str]) -> Output {
        self.command(args).output().unwrap()
    }

    /// Waits until every node answers and every shard has a leader.
    #[track_caller]
    pub(crate) fn wait_until_whole(&self) {
        let deadline = Instant::now() + Duration::from_secs(60);
        loop {
            let status = self.run(&["status", "--json", "--timeout-ms", "2000"]);
            let text = String::from_utf8_lossy(&status.stdout).into_owned();
            if status.status.success() && !text.contains("\"status\":null") {
                return;
            }
            assert!(
                Instant::now() < deadline,
                "{status:?}\n{}\n{}\n{}",
                self.log(1),
                self.log(2),
                self.log(3)
            );
            std::thread::sleep(Duration::from_millis(100));
        }
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        for node in 1..=3 {
            self.kill(node);
        }
    }
}

/// A process that ends with the test, however that ends.
pub(crate) struct Running(Child);

impl Running {
    pub(crate) fn spawn(command: &mut Command) -> Self {
        Self(command.spawn().unwrap())
    }

    pub(crate) fn id(&self) -> u32 {
        self.0.id()
    }
}

impl Drop for Running {
    /// SIGKILL.
    fn drop(&mut self) {
        // It may have ended by itself.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Writes a file into a directory and gives its path.
pub(crate) fn file(dir: &Path, name: &str, text: &str) -> String {
    let path = dir.join(name);
    std::fs::write(&path, text).unwrap();
    path.to_str().unwrap().to_owned()
}

/// An address that nobody has at the moment.
pub(crate) fn free_port() -> String {
    let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
    socket.local_addr().unwrap().to_string()
}

/// Waits for what comes.
#[track_caller]
pub(crate) fn until<T>(mut holds: impl FnMut() -> Option<T>) -> T {
    let began = Instant::now();
    loop {
        if let Some(found) = holds() {
            return found;
        }
        assert!(
            began.elapsed() < Duration::from_secs(30),
            "it does not come"
        );
        std::thread::sleep(Duration::from_millis(20));
    }
}
